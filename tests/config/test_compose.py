from pathlib import Path

import pytest
import yaml

from vitbn.config.compose import compose_config, to_plain_dict
from vitbn.data.folder import scan
from vitbn.models.placements import named
from vitbn.store.run import config_hash, run_id

ROOT = Path(__file__).parents[2]


def composed(*overrides):
    return to_plain_dict(compose_config(overrides))


def test_the_articles_settings_are_the_defaults():
    cfg = composed()
    keys = ("lr", "pool", "pos_emb", "epochs", "batch_size", "val_batch_size")
    assert [cfg[k] for k in keys] == [0.003, "cls", "learn", 10, 100, 5000]
    size = {
        "image_size": 28,
        "patch_size": 7,
        "channels": 1,
        "num_classes": 10,
        "dim": 64,
        "heads": 8,
        "dim_head": 64,
    }
    assert {**size, "mlp_dim": 128, "dropout": 0.0}.items() <= cfg["model"].items()


@pytest.mark.parametrize("model", ["vit", "vitbnffn", "vitbn"])
def test_every_model_brings_its_placement(model):
    cfg = composed(f"model={model}")
    assert cfg["model"]["placement"] == cfg["norm"] == named(model)


def test_placements_can_be_changed_as_a_whole_or_slot_by_slot():
    assert composed("norm=vitbn")["model"]["placement"]["final"] == "batch"
    assert composed("norm.ffn_hidden=batch_scalar")["model"]["placement"]["ffn_hidden"] == "batch_scalar"


def test_typed_keys_reach_the_model():
    model = composed("depth=3", "pool=mean", "pos_emb=pe1d")["model"]
    assert (model["depth"], model["pool"], model["pos_emb"]) == (3, "mean", "pe1d")


def test_data_root_follows_the_environment(monkeypatch):
    monkeypatch.setenv("VITBN_DATA", "/somewhere")
    assert composed()["data"]["root"] == "/somewhere"
    monkeypatch.delenv("VITBN_DATA")
    assert composed()["data"]["root"] == "data"


EXPERIMENTS = {
    "fig8": {"lr": 0.003, "epochs": 10, "batch_size": 100, "study": "article"},
    "fig9": {"lr": 0.005, "epochs": 10, "batch_size": 100, "study": "article"},
    "fig10": {"epochs": 10, "batch_size": 100, "study": "article"},
    "fig1_3": {"epochs": 15, "batch_size": 100, "study": "fig1_3"},
    "notebook": {"lr": 0.01, "epochs": 3, "batch_size": 64, "log_every": 1, "study": "notebook"},
    "placements": {"depth": 4, "study": "placements"},
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_have_the_published_settings(name):
    cfg = composed(f"experiment={name}")
    assert EXPERIMENTS[name].items() <= cfg.items() and cfg["data"]["name"] == "mnist"
    assert composed(f"experiment={name}", "epochs=1", "data=mnist5k")["data"]["name"] == "mnist5k"


IMAGENETTE = [("alexnet", 227, 0.5), ("vgg16", 224, 0.5), ("resnet34", 224, None), ("vit_b16", 224, 0.5)]


@pytest.mark.parametrize(("model", "side", "dropout"), IMAGENETTE)
def test_the_comparison_on_imagenette_has_the_published_recipe(model, side, dropout):
    cfg = composed("experiment=imagenette_vit" if model == "vit_b16" else "experiment=imagenette", f"model={model}")
    recipe = {"lr": 1e-4, "epochs": 200, "batch_size": 256, "study": "imagenette", "test_train_mode": True}
    assert recipe.items() <= cfg.items() and cfg["schedule"] == {"name": None, "warmup": None}
    optimizer = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1e-4, "weight_decay": 0.01, "fused": True,
                 "decay_weights_only": False}  # fmt: skip
    assert cfg["optimizer"] == optimizer
    data = {"name": "imagenette", "augment": "crop", "image_size": side, "num_classes": 10,
            "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # fmt: skip
    assert data.items() <= cfg["data"].items()
    assert cfg["model"]["image_size"] == side and cfg["model"].get("dropout") == dropout


def test_a_folder_says_how_many_classes_the_network_has(photos):
    cfg = composed("data=folder", "model=resnet34", f"data.root={photos}")
    assert cfg["data"]["num_classes"] == cfg["model"]["num_classes"] == 2 and cfg["val_batch_size"] == 256
    assert cfg["data"]["content"] == scan(str(photos)).content


@pytest.mark.parametrize(("side", "patch"), [(224, 16), (64, 8)])
def test_photographs_are_cut_into_at_most_some_hundred_patches(photos, side, patch):
    cfg = composed("data=folder", "model=vit", f"data.root={photos}", f"data.image_size={side}")
    assert cfg["model"]["patch_size"] == patch


def test_vit_b16_has_its_own_depth_and_any_placement(photos):
    assert composed("model=vit_b16", "data=imagenette")["depth"] == 12
    cfg = composed("model=vit_b16", "data=imagenette", "depth=2", "norm=vitbn")
    assert cfg["model"]["depth"] == 2 and cfg["model"]["placement"]["embed_in"] == "batch"


def test_the_notebook_is_reproduced_to_the_letter():
    cfg = composed("experiment=notebook", "model=mlp_bn")
    assert cfg["optimizer"] == {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.01, "momentum": 0.9,
                                "decay_weights_only": False}  # fmt: skip
    assert (cfg["data"]["augment"], cfg["data"]["mean"], cfg["data"]["std"]) == (False, 0.5, 0.5)
    assert cfg["model"]["hidden"] == [512, 256] and cfg["model"]["norm_at"] == "post"


def test_a_conf_of_the_working_directory_adds_choices_and_replaces_none(tmp_path, monkeypatch):
    ours = composed()
    for name in ("model/vit.yaml", "model/mine.yaml", "norm/mine.yaml", "config.yaml"):
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / name).write_text("{name: mine, _target_: mine.Net}" if "model" in name else "{}")
    monkeypatch.chdir(tmp_path)
    assert composed() == ours
    assert composed("model=mine")["model"] == {"name": "mine", "_target_": "mine.Net"}


def test_quickstart_sweeps_by_itself():
    text = yaml.safe_load((ROOT / "conf/experiment/quickstart.yaml").read_text())
    assert text["hydra"] == {"mode": "MULTIRUN", "sweeper": {"params": {"model": "vit,vitbnffn"}}}


def test_kinds_take_options_in_one_spelling():
    typed = composed("norm.ffn_hidden={virtual:50,kind:ghost_batch}", "norm.final={kind:layer}")
    assert (
        typed["norm"]["ffn_hidden"]
        == typed["model"]["placement"]["ffn_hidden"]
        == {"kind": "ghost_batch", "virtual": 50}
    )
    assert typed["norm"]["final"] == "layer"
    same = composed("norm.ffn_hidden={kind:ghost_batch,virtual:25}")
    assert config_hash(same) == config_hash(composed("norm.ffn_hidden=ghost_batch")) != config_hash(typed)


def test_a_slot_that_holds_nothing_leaves_the_name_alone():
    assert config_hash(composed("norm.attn_post=none")) == config_hash(composed())
    assert config_hash(composed("norm.attn_post=layer")) != config_hash(composed())


def test_loggers_are_a_mapping_of_which_none_may_be_left():
    assert composed()["logger"].keys() == {"tensorboard"}
    assert composed("logger=[tensorboard,wandb]")["logger"].keys() == {"tensorboard", "wandb"}
    assert composed("logger=none")["logger"] == composed("~logger")["logger"] == {}
    assert composed("+logger.own={_target_: own.Logger, name: '${run_id:}'}")["logger"]["own"]["name"] == run_id(
        composed()
    )


def test_max_epochs_is_epochs_wherever_that_is_referred_to():
    cosine = ("+schedule._target_=torch.optim.lr_scheduler.CosineAnnealingLR", "+schedule.T_max=${epochs}")
    ours, theirs = (to_plain_dict(compose_config([word, *cosine])) for word in ("epochs=3", "trainer.max_epochs=3"))
    assert ours == theirs and ours["schedule"]["T_max"] == 3


@pytest.mark.parametrize(
    ("whole", "fraction"),
    [
        ("model.dropout=0", "model.dropout=0.0"),
        ("data.mean=0", "data.mean=0.0"),
        ("norm.ffn_in={kind:rep_batch,eta:2}", "norm.ffn_in={kind:rep_batch,eta:2.0}"),
    ],
)
def test_a_whole_number_names_no_other_run_than_the_same_fraction(whole, fraction):
    one, other = (run_id(to_plain_dict(compose_config([typed]))) for typed in (whole, fraction))
    assert one == other


def test_a_default_typed_names_the_same_run():
    assert run_id(to_plain_dict(compose_config([]))) == run_id(to_plain_dict(compose_config(["model.dropout=0"])))
