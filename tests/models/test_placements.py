import subprocess
import sys

import pytest

from vitbn.models.placements import PLACEMENTS, Kind, Slot, complete


def test_a_slot_left_out_is_none():
    kinds = complete({"final": "batch"})
    assert list(kinds) == list(Slot) and kinds.pop(Slot.final) == Kind.batch and set(kinds.values()) == {Kind.none}


def test_named_placements_are_made_of_known_slots_and_kinds():
    for placement in PLACEMENTS.values():
        complete(placement)


def test_a_kind_of_ones_own_is_written_module_class():
    assert complete({"final": "rms.RMSNorm"})[Slot.final] == "rms.RMSNorm"
    for kind in ("rms", "rms.", ".RMSNorm", "rms. RMSNorm", "rms/RMSNorm.py", "2.5"):
        with pytest.raises(ValueError, match=r"placement.final: unknown kind .*; choose from none, layer"):
            complete({"final": kind})


def test_names_are_known_without_torch():
    code = "import sys, vitbn.models.placements; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
