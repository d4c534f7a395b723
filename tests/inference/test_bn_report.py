from dataclasses import replace

import pytest
import torch

from vitbn.errors import InputError
from vitbn.inference.bn_report import batchnorm_report
from vitbn.inference.eval_data import fresh_statistics
from vitbn.models.bn_statistics import batch_norms, load_bn_stats
from vitbn.models.mlp import MLP


def buffers(network):
    return [value.clone() for value in network.net.state_dict().values()]


def test_the_report_compares_the_three_sources_and_restores_the_running_ones(network, source):
    before = buffers(network)
    report = batchnorm_report(network, source.train, source.test, [1, 7, 100])
    assert all(torch.equal(a, b) for a, b in zip(before, buffers(network), strict=True))
    assert list(report.compared) == ["running", "batch", "recalibrated"] and report.batch_size == 50
    assert len({scores.loss for scores in report.compared.values()}) == 3
    assert list(report.by_batch_size) == [1, 7, 100] and len({s.loss for s in report.by_batch_size.values()}) == 3
    # all images are few
    assert report.other_statistics == {
        name: report.compared[name] for name in ("running", "recalibrated")
    }  # all are few
    load_bn_stats(network.net, fresh_statistics(network, source.train)[0])
    again = batchnorm_report(network, source.train, source.test, [])
    assert again.compared["running"] == report.compared["recalibrated"]
    assert again.compared["batch"] == report.compared["batch"]
    assert max(shift.pooled_mean for shift in again.shifts) < min(shift.pooled_mean for shift in report.shifts)


def test_distances_of_the_first_norm_follow_the_definition(network, source):
    report = batchnorm_report(network, source.train, source.test, []).shifts
    assert [shift.name for shift in report] == list(batch_norms(network.net))
    x = network.normalise(source.test.images).double()
    patches = x.unflatten(3, (4, 7)).unflatten(2, (4, 7)).permute(0, 2, 4, 3, 5, 1).flatten(3).reshape(100, 16, 49)
    norm = network.net.embedding.in_norm
    sigma = (norm.running_var.double() + norm.eps).sqrt()

    def distances(part):
        rows = part.reshape(-1, 49)
        shift = ((rows.mean(0) - norm.running_mean) / sigma).abs().mean()
        return shift.item(), ((rows.var(0) + norm.eps) / sigma**2).log().abs().mean().item()

    halves = [distances(part) for part in patches.split(50)]  # the training's batch size
    assert report[0].batch_mean == pytest.approx(sum(shift for shift, _ in halves) / 2, rel=1e-6)
    assert report[0].batch_log_var == pytest.approx(sum(change for _, change in halves) / 2, rel=1e-6)
    assert (report[0].pooled_mean, report[0].pooled_log_var) == pytest.approx(distances(patches), rel=1e-6)


def test_one_value_per_feature_has_no_statistics(network, source):
    mlp = MLP(image_size=28, channels=1, num_classes=10, hidden=[8], activation="relu", norm="batch").eval()
    report = batchnorm_report(replace(network, net=mlp), source.train, source.test, [1, 2])
    assert report.by_batch_size[1] is None and report.by_batch_size[2].n == 100
    one = source.test[torch.arange(1)]
    with pytest.raises(InputError, match="one image is one sample for these BatchNorms"):
        batchnorm_report(replace(network, net=mlp), source.train, one, [])
    assert batchnorm_report(network, source.train, one, []).compared["batch"].n == 1  # of many tokens
