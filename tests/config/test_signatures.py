import pytest

from vitbn.config.signatures import check_options
from vitbn.errors import InputError


@pytest.mark.parametrize(
    ("config", "message"),
    [({"_target_": "torch.optim.RMSprob"}, "optimizer._target_=torch.optim.RMSprob: cannot be had .*RMSprob"),
     ({"_target_": "RMSprop"}, "optimizer._target_=RMSprop: cannot be had"),
     ({"_target_": "nowhere.Adam"}, "optimizer._target_=nowhere.Adam: cannot be had .*No module named .nowhere"),
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
