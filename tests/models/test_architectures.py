import inspect
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY
from vitbn.config import compose
from vitbn.models.architectures import MODULES, OPTIONS, architecture, build_known, check_options
from vitbn.models.factory import NOT_OPTIONS, build
from vitbn.models.placements import OF_LIBRARIES

MODELS = sorted({path.stem for path in (Path(compose.CONF) / "model").glob("*.yaml")} - {*OF_LIBRARIES})


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_every_network_of_conf_is_made_by_name_as_hydra_makes_it(name):
    images = ["data=mnist", "data.image_size=84"] if name in ("alexnet", "vgg16", "vit_b16", "resnet34") else []
    words = [f"model={name}", *images, *(["model.patch_size=7", "depth=1"] if name == "vit_b16" else [])]
    model = compose.to_plain_dict(compose.compose_config(words))["model"]
    options = {key: value for key, value in model.items() if key not in (*NOT_OPTIONS, "_target_")}
    known, instantiated = build_known(architecture(model["_target_"]), options), build(model, seed=0)
    assert type(known) is type(instantiated)
    shapes, expected = ({n: v.shape for n, v in net.state_dict().items()} for net in (known, instantiated))
    assert shapes == expected


@pytest.mark.parametrize("name", MODULES)
def test_every_option_has_a_rule(name):
    import importlib

    constructor = getattr(importlib.import_module(MODULES[name]), name)
    parameters = inspect.signature(constructor).parameters.values()
    assert {p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD} <= set(OPTIONS)


def test_a_norm_that_a_file_names_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"unknown kind 'evil\.Norm'; choose from none, layer"):
        build_known("ViT", {**TINY, "placement": {"final": "evil.Norm"}})
    assert "evil" not in sys.modules


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"mine\.ViT is not a network of vitbn"):
        architecture("mine.ViT")
    with pytest.raises(ValueError, match="unknown option 'weights' of resnet34; it has image_size, channels"):
        check_options("resnet34", {"weights": "DEFAULT"})
    with pytest.raises(ValueError, match=r"dropout=1.5: must be a number in \[0, 1\)"):
        check_options("ViT", {"dropout": 1.5})
    with pytest.raises(ValueError, match="MLP needs num_classes, hidden, activation"):
        build_known("MLP", {"image_size": 28, "channels": 1})
