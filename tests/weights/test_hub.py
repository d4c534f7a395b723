import re
import sys

import pytest

from vitbn.errors import InputError
from vitbn.weights.hub import is_place, locate


def test_hub_ids_without_network_or_library_name_the_remedy(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert is_place("google/vit-base-patch16-224") and not any(map(is_place, ("a/b/c", "a", "nets/a.pth", "../a")))
    with pytest.raises(InputError, match=re.escape("not to be had from the hub")) as refused:
        locate("someone/no-such-network")
    assert "put its config.json, preprocessor_config.json, model.safetensors into a folder" in str(refused.value)
    assert "\n" not in str(refused.value)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'vitbn\[hub\]'"):
        locate("someone/no-such-network")
