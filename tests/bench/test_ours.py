import pytest
import torch
from vitbench.ours import VitbnArm
from vitbench.runner import Stopwatch

from vitbn.data.splits import Source, Split
from vitbn.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture
def overrides(small):
    return ("data=mnist5k", "depth=1", "batch_size=20", "trainer=cpu", *small)


def test_ours_is_train_py_on_the_images_in_memory(source, overrides, watch, capsys):
    arm = VitbnArm(source, overrides=overrides, epochs=2)
    turn = arm.turn(1, watch)
    assert turn.units == 2 and list(turn.figures) == ["train/loss", "val/loss", "val/acc"]
    assert turn.figures == arm.turn(1, watch).figures != arm.turn(2, watch).figures
    assert capsys.readouterr().out == ""


def test_only_fit_is_timed(source, overrides, clock, monkeypatch):
    import pytorch_lightning as pl

    fit, test = pl.Trainer.fit, pl.Trainer.test
    monkeypatch.setattr(pl.Trainer, "fit", lambda *a, **k: (fit(*a, **k), setattr(clock, "now", clock.now + 3))[0])
    monkeypatch.setattr(pl.Trainer, "test", lambda *a, **k: (test(*a, **k), setattr(clock, "now", clock.now + 50))[0])
    watch = Stopwatch(lambda: None, clock)
    VitbnArm(source, overrides=overrides).turn(0, watch)
    assert watch.seconds == 3


def test_what_is_not_compiled_is_no_compiled_arm(source, overrides, watch):
    torch._dynamo.utils.counters.clear()
    with torch.compiler.set_stance("force_eager"), pytest.raises(InputError, match="ours: .*no graph was compiled"):
        VitbnArm(source, overrides=overrides, compiled=True).turn(0, watch)


def test_overrides_are_checked_as_train_py_checks_them(source, overrides, watch):
    with pytest.raises(InputError, match="dpeth"):
        VitbnArm(source, overrides=[*overrides, "dpeth=3"]).turn(0, watch)
    with pytest.raises(InputError, match="depth=0: must be a whole number"):
        VitbnArm(source, overrides=[*overrides, "depth=0"]).turn(0, watch)


def test_images_can_have_another_size(overrides, watch):
    split = Split(torch.zeros(20, 1, 14, 14, dtype=torch.uint8), torch.arange(20) % 10)
    source = Source(split, split, tuple("0123456789"))
    assert VitbnArm(source, overrides=[*overrides, "data.image_size=14"]).turn(0, watch).units == 1
