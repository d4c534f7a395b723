import os
import pickle

import pytest
import torch

from vitbn.errors import InputError
from vitbn.store import checkpoint_file


@pytest.fixture
def saved(tmp_path):
    for step in (1, 2):
        checkpoint_file.save({"state_dict": {"w": torch.arange(50.0)}, "step": step}, tmp_path / "last.ckpt")
    return tmp_path


def test_a_checkpoint_loads_with_torch_alone_and_keeps_the_one_before(saved):
    assert torch.load(saved / "last.ckpt", weights_only=True)["step"] == 2
    assert torch.load(saved / "previous.ckpt", weights_only=True)["step"] == 1
    assert checkpoint_file.latest_valid_checkpoint(saved) == saved / "last.ckpt"
    assert sorted(os.listdir(saved)) == ["last.ckpt", "previous.ckpt"]


def test_any_damage_is_detected_and_the_one_before_is_used(saved, caplog):
    good = (saved / "last.ckpt").read_bytes()
    offsets = [i * (len(good) - 1) // 99 for i in range(100)]
    for offset in offsets:
        flipped = bytearray(good)
        flipped[offset] ^= 1 << (offset % 8)
        for content in (bytes(flipped), good[:offset]):
            (saved / "last.ckpt").write_bytes(content)
            assert not checkpoint_file.is_valid(saved / "last.ckpt")
    assert checkpoint_file.latest_valid_checkpoint(saved) == saved / "previous.ckpt"
    assert f"{saved / 'last.ckpt'}: damaged" in caplog.text
    (saved / "previous.ckpt").write_bytes(b"")
    assert (
        checkpoint_file.latest_valid_checkpoint(saved) is None
        and checkpoint_file.latest_valid_checkpoint(saved / "nowhere") is None
    )


class Code:
    def __reduce__(self):
        return os.system, ("echo this must not run",)


@pytest.mark.filterwarnings("error")
def test_a_checkpoint_that_holds_code_is_refused(tmp_path, capfd):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": Code()}, path)
    with pytest.raises(InputError, match=r"last.ckpt: refused, .* \(it wants (posix|nt).system to be called\)$"):
        checkpoint_file.load(path)
    torch.save(torch.nn.Linear(1, 1), path)
    with pytest.raises(InputError, match=r"\(it wants torch.nn.modules.linear.Linear to be called\)$"):
        checkpoint_file.load(path)
    path.write_bytes(pickle.dumps(Code()))
    with pytest.raises(InputError, match="refused, not a checkpoint of weights and plain data"):
        checkpoint_file.load(path)
    path.write_bytes(b"hello")
    with pytest.raises(InputError, match=r"last.ckpt: refused, .* \(damaged, or of another format\)$"):
        checkpoint_file.load(path)
    assert "must not run" not in capfd.readouterr().out
