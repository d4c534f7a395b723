import pytest
import torch

from vitbn.data.batches import Preprocess
from vitbn.data.mnist import CLOTHES
from vitbn.weights.network import load_network


def test_a_run_is_loaded_with_all_it_takes_to_use_it(run, clothes):
    from vitbn.data.sources import load

    network = load_network(run.folder)
    assert not network.net.training and network.labels == CLOTHES and network.config == run.config
    assert (network.image_size, network.channels, network.mean, network.std) == (28, 1, (0.3,), (0.2,))
    assert network.source == run.checkpoints / "last.ckpt"
    test = load("fashion_mnist", clothes).test
    inputs = network.normalise(test.images)
    assert torch.equal(inputs, Preprocess(0.3, 0.2)(test.images, None))
    with torch.no_grad():
        accuracy = (network.net(inputs).argmax(1) == test.labels).float().mean()
    assert accuracy.item() == pytest.approx(run.result()["metrics"]["test/acc"], abs=1e-6)
    saved = torch.load(network.source, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[f"net.{name}"], value) for name, value in network.net.state_dict().items())
