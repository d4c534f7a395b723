import pytest
import torch
from vitbench import machine

from vitbn.errors import InputError

CPU = torch.device("cpu")


def test_the_peak_is_measured_under_every_precision_and_the_setting_is_restored():
    before = torch.get_float32_matmul_precision()
    rates = machine.peak(CPU)["GFLOP/s"]
    assert list(rates) == ["float32, highest", "float32, high", "float32, medium"] and min(rates.values()) > 0
    assert torch.get_float32_matmul_precision() == before


def test_the_rate_is_two_operations_per_multiply_add_over_the_fastest_repeat(monkeypatch):
    monkeypatch.setattr(machine, "_fastest", lambda work, device: 2.0)
    assert machine.peak(CPU)["GFLOP/s"]["float32, highest"] == 2 * 8**3 / 2 / 1e9


def test_the_better_of_two_measurements_counts_rate_by_rate():
    one, other = {"GFLOP/s": {"a": 1.0, "b": 4.0}, "GB/s": 2.0}, {"GFLOP/s": {"a": 3.0, "b": 2.0}, "GB/s": 1.0}
    assert machine.faster(one, other) == {"GFLOP/s": {"a": 3.0, "b": 4.0}, "GB/s": 2.0}


def test_the_device_that_is_there_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.device("auto") == machine.device("cpu") == CPU
    with pytest.raises(InputError, match="--device cuda: no CUDA GPU here; use --device cpu"):
        machine.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert machine.device("auto") == machine.device("cuda") == torch.device("cuda")
