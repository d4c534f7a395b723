import subprocess
import sys

from vitbn.models.placements import PLACEMENTS, Kind, Slot, complete


def test_a_slot_left_out_is_none():
    kinds = complete({"final": "batch"})
    assert list(kinds) == list(Slot) and kinds.pop(Slot.final) is Kind.batch and set(kinds.values()) == {Kind.none}


def test_named_placements_are_made_of_known_slots_and_kinds():
    for placement in PLACEMENTS.values():
        complete(placement)


def test_names_are_known_without_torch():
    code = "import sys, vitbn.models.placements; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
