"""What torch's classes take, read from their files, against inspect."""

import inspect

import pytest
import torch
from torch.optim import lr_scheduler

from vitbn.config.signatures import check_options, signature_of
from vitbn.errors import InputError

CLASSES = [f"torch.optim.{name}" for name in torch.optim.__all__ if name[0].isupper()]
CLASSES += [f"torch.optim.lr_scheduler.{name}" for name in lr_scheduler.__all__]


@pytest.mark.parametrize("target", CLASSES)
def test_every_optimizer_and_scheduler_of_torch(target):
    module, _, name = target.rpartition(".")
    constructor = getattr(torch.optim if module == "torch.optim" else lr_scheduler, name).__init__
    expected = [p for p in inspect.signature(constructor).parameters.values() if p.kind != p.VAR_KEYWORD][1:]
    signature = signature_of(target, target)
    assert set(signature.names) == {p.name for p in expected}
    assert set(signature.required) == {p.name for p in expected if p.default is p.empty}


@pytest.mark.parametrize(
    ("config", "message"),
    [({"_target_": "torch.optim.RMSprob"}, "torch.optim.RMSprob: torch.optim has no RMSprob; did you mean .*RMSprop"),
     ({"_target_": "RMSprop"}, "optimizer._target_=RMSprop: must be a class with its module, such as"),
     ({"_target_": "nowhere.Adam"}, "optimizer._target_=nowhere.Adam: there is no module nowhere"),
     ({"_target_": "torch.optim.SGD", "momentun": 1}, r"optimizer.momentun: .*; did you mean optimizer.momentum\?"),
     ({"_target_": "torch.optim.SGD", "fused_": 1}, "optimizer.fused_: torch.optim.SGD has no such option"),
     ({"_target_": "torch.optim.Optimizer"}, "optimizer.defaults: torch.optim.Optimizer needs it; type")],
)  # fmt: skip
def test_what_a_class_does_not_take_is_named(config, message):
    with pytest.raises(InputError, match=message):
        check_options("optimizer", config, given=("params",), ours=("_target_",))


def test_ones_own_class(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text("from torch.optim import SGD as Base\nclass Own(Base):\n    pass\n")
    check_options("optimizer", {"_target_": "mine.Own", "momentum": 1}, given=("params",), ours=("_target_",))
    with pytest.raises(InputError, match="mine.Own has no such option"):
        check_options("optimizer", {"_target_": "mine.Own", "zzz": 1}, given=("params",), ours=("_target_",))
