import math

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, StepLR

from vitbn.training.schedule import make_factor


def rates(make, steps):
    """The learning rate that torch's own scheduler gives every step."""
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def factors(config, *, epochs, steps):
    return list(map(make_factor(config, epochs=epochs, steps_per_epoch=steps // epochs), range(steps)))


def test_step_equals_torchs():
    ours = factors({"name": "step", "every": 3, "factor": 0.1}, epochs=10, steps=70)
    assert ours == pytest.approx(rates(lambda o: StepLR(o, step_size=3 * 7, gamma=0.1), 70))


def test_cosine_equals_torchs():
    ours = factors({"name": "cosine", "warmup": 0.0, "floor": 0.0}, epochs=4, steps=40)
    assert ours == pytest.approx(rates(lambda o: CosineAnnealingLR(o, T_max=40), 40))
    ours = factors({"name": "cosine", "warmup": 0.0, "floor": 0.2}, epochs=4, steps=40)
    assert ours == pytest.approx(rates(lambda o: CosineAnnealingLR(o, T_max=40, eta_min=0.2), 40))


def test_warm_up_equals_torchs_and_the_cosine_follows():
    ours = factors({"name": "cosine", "warmup": 0.25, "floor": 0.0}, epochs=4, steps=40)
    warm = rates(lambda o: LinearLR(o, start_factor=0.1, total_iters=9), 10)
    assert ours[:10] == pytest.approx(warm) and ours[9] == 1
    assert ours[10:] == pytest.approx(rates(lambda o: CosineAnnealingLR(o, T_max=30), 30))


def test_a_schedule_ends_at_its_floor():
    end = make_factor({"name": "cosine", "warmup": 0.1, "floor": 0.05}, epochs=1, steps_per_epoch=20)
    assert end(20) == pytest.approx(0.05) and end(25) == pytest.approx(0.05)
    alone = make_factor({"name": "cosine", "warmup": 1.0, "floor": 0.0}, epochs=1, steps_per_epoch=1)
    assert alone(0) == 1 and math.isfinite(alone(1))


def test_the_constant_one_needs_no_factor():
    assert make_factor({"name": None}, epochs=1, steps_per_epoch=1) is None


def test_unknown_names_are_listed():
    with pytest.raises(ValueError, match="unknown schedule 'linear'; choose from constant, cosine, step"):
        make_factor({"name": "linear"}, epochs=1, steps_per_epoch=1)
