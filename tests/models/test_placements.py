import subprocess
import sys

import pytest

from vitbn.models.placements import Slot, complete, named, named_placements


def test_a_slot_left_out_is_none_or_what_the_base_has():
    kinds = complete({"final": "batch"})
    assert list(kinds) == list(Slot) and kinds.pop(Slot.final) == "batch" and set(kinds.values()) == {"none"}
    assert complete({"final": "none"}, named("vit")) == {**named("vit"), Slot.final: "none"}


def test_every_named_placement_is_made_of_known_slots_and_kinds_and_says_why():
    for name in named_placements():
        assert list(named(name)) == list(Slot)


def test_a_kind_may_have_options_and_has_one_way_to_be_written():
    kinds = complete({"final": {"kind": "batch", "momentum": 0.1}, "qk": {"virtual": 64, "kind": "ghost_batch"}})
    assert kinds[Slot.final] == "batch" and kinds[Slot.qk] == {"kind": "ghost_batch", "virtual": 64}


def test_a_kind_of_ones_own_is_written_module_class():
    assert complete({"final": "rms.RMSNorm"})[Slot.final] == "rms.RMSNorm"
    for kind in ("ms", "rms.", ".RMSNorm", "rms. RMSNorm", "rms/RMSNorm.py", "2.5"):
        with pytest.raises(ValueError, match=r"placement.final: unknown kind .*; choose from none, layer"):
            complete({"final": kind})


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({"fnal": "batch"}, "placement: unknown slot 'fnal'; choose from embed_in, .*attn_post"),
        ({"final": {"kind": "batch", "virtual": 2}}, "placement.final: batch has no option 'virtual'; it has momentum"),
        ({"final": {"kind": "layer", "eps": 2}}, "placement.final: layer has no option 'eps'; it has none"),
        ({"final": {"kind": "ghost_batch", "virtual": 0}}, "virtual=0 of ghost_batch: must be a whole number"),
        ({"final": {"kind": "ghost_batch", "virtual": True}}, "virtual=True of ghost_batch: must be a whole number"),
        ({"final": {"kind": "dyt", "alpha": float("nan")}}, "alpha=nan of dyt: must be a number"),
        ({"final": {"virtual": 2}}, "write {kind: NAME"),
        ({"final": None}, "unknown kind None"),
    ],
)
def test_what_is_not_known_is_named(placement, message):
    with pytest.raises(ValueError, match=message):
        complete(placement)


def test_an_unknown_name_lists_the_placements():
    with pytest.raises(ValueError, match=r"unknown name 'vitb'; choose from .*peri_ln.*vitbnffn"):
        named("vitb")


def test_names_are_known_without_torch():
    code = "import sys, vitbn.models.placements; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
