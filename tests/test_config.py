import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from vitbn.analysis.arms import FinishedRuns
from vitbn.analysis.claims import load_claims
from vitbn.analysis.records import RunRecord
from vitbn.analysis.run_files import flatten
from vitbn.analysis.verdict import missing
from vitbn.config import compose as config
from vitbn.config.checks import check
from vitbn.config.jobs import jobs
from vitbn.data.folder import scan
from vitbn.errors import InputError
from vitbn.models.placements import PLACEMENTS, complete
from vitbn.store.run import run_id

ROOT = Path(__file__).parents[1]
config.register()


def composed(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        tree = config.plain(compose("config", overrides=list(overrides)))
    check(tree)
    return tree


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
    assert cfg["model"]["placement"] == cfg["norm"] == {str(s): str(k) for s, k in complete(PLACEMENTS[model]).items()}


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


SAME = ["study=x", "runs=elsewhere", "rerun=true", "logger=none", "checkpoint.every_minutes=1", "data.root=/d",
        "trainer=cpu", "trainer.devices=2"]  # fmt: skip
OTHER = ["lr=0.005", "depth=5", "seed=1", "model=vitbn", "norm.qk=layer", "pool=mean", "epochs=3", "batch_size=50",
         "data=mnist5k", "data.augment=false", "trainer.precision=bf16-mixed", "model.qkv_bias=true"]  # fmt: skip


def test_a_run_is_named_by_what_can_change_its_result():
    name = run_id(composed())
    assert name.startswith("vit-d6-lr0.003-s0-") and not set("=, ") & set(name)
    assert {run_id(composed(o)) for o in SAME} == {name}
    assert len({name, *(run_id(composed(o)) for o in OTHER)}) == 1 + len(OTHER)


def test_runs_on_disk_keep_their_names():
    """Their folders are found by these names: a change here orphans what people have trained."""
    assert run_id(composed()) == "vit-d6-lr0.003-s0-7e06a4ec"
    assert run_id(composed("model=vitbn", "depth=3", "lr=0.005")) == "vitbn-d3-lr0.005-s0-53244e45"
    assert run_id(composed("schedule=constant", "test_train_mode=false")) == run_id(composed())


def test_a_key_that_comes_later_switched_off_leaves_the_name_alone():
    config = composed()
    config["new"], config["data"]["newer"] = None, False
    assert run_id(config) == run_id(composed())
    config["data"]["newer"] = True
    assert run_id(config) != run_id(composed())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("depth=0", "depth=0: must be a whole number, at least 1"),
        ("lr=-1", "lr=-1.0: must be a number above 0"),
        ("lr=nan", "lr=nan: must be a number above 0"),
        ("batch_size=0", "batch_size=0: must be"),
        ("epochs=-1", "epochs=-1: must be"),
        ("seed=-1", "seed=-1: must be"),
        ("study=a/b", "study=a/b: must be a folder name"),
        ("study=..", r"study=\.\.: must be a folder name"),
        ("checkpoint.every_minutes=0", "checkpoint.every_minutes=0.0: must be"),
        ("trainer.precision=8", "trainer.precision=8: choose from 32-true"),
        ("model.dropout=1", "model.dropout=1: must lie in"),
        (
            "model.patch_size=5",
            "model.patch_size=5: does not divide the image size 28; choose from 1, 2, 4, 7, 14, 28",
        ),
        ("data.augment=cut", "data.augment=cut: choose from true, false, crop"),
        ("data.std=[0.5,0.5,0.5]", r"data.std=\[0.5, 0.5, 0.5\]: type one number, or 1 for data.channels=1"),
        ("data.std=[0]", r"data.std=\[0\]: must be a number above 0, or one per channel"),
        ("data.mean=nan", "data.mean=nan: must be a number"),
        ("data.holdout=-5", "data.holdout=-5: must be"),
    ],
)
def test_values_out_of_range_are_named(override, message):
    with pytest.raises(InputError, match=message):
        composed(override)


COMMANDS = [
    ("dpeth=3", "dpeth=3: unknown key; did you mean depth?"),
    ("pool=men", "pool=men: choose from cls, mean"),
    ("depth=0", "depth=0: must be a whole number, at least 1"),
    ("model=nope", "model=nope: unknown; choose from alexnet, dnn, dnn_bn, mlp, mlp_bn, resnet34, vgg16, vit,"),
    ("norm=nope", "norm=nope: unknown; choose from alexnet, dnn, dnn_bn, mlp, mlp_bn, none, resnet34, vgg16, vit,"),
    ("model.pretrained=nowhere.pth", "model.pretrained=nowhere.pth: neither a file or folder here nor a hub ID"),
    ("norm.ffn_hiden=batch", "norm.ffn_hiden=batch: unknown key; did you mean norm.ffn_hidden?"),
    ("norm.ffn_hidden=rms", "norm.ffn_hidden=rms: choose from none, layer, batch, batch_scalar"),
    ("depth=deep", "depth=deep: Value 'deep'"),
    ("-m depth=4,0", "depth=0: must be a whole number, at least 1"),
    ("-m pool=cls,men", "pool=cls,men: choose from cls, mean"),
    ("-m model=vit,nope depth=1,2", "model=nope: unknown; choose from"),
    ("experiment=nope", "experiment=nope: unknown; choose from"),
    ("data=folder", "data.root: has no default; type data.root=VALUE"),
    ("data=folder data.root=nowhere", "data.root=nowhere: no such folder"),
    ("-m data=folder data.root=nowhere,there", "data.root=nowhere: no such folder"),
    (
        "model=resnet34 model.pretrained=x",
        "model.pretrained=x: unknown key; The keys of model=resnet34 are",
    ),
    (
        "trainer.devces=2",
        "trainer.devces=2: unknown key; did you mean trainer.devices? The keys are",
    ),
    ("-m trainer=ddp trainer.strategy=ddp_spawn,fsdp", "trainer.strategy=ddp_spawn: choose ddp: vitbn starts its"),
    ("data.rot=x", "data.rot=x: unknown key; did you mean data.root? The keys of data=mnist are data.root, data.image"),
    ("schedule=cos", "schedule=cos: unknown; choose from constant, cosine, step"),
    (
        "model=mlp depth=3",
        "depth=3: model=mlp has no use for it, only vit, vit_b16, vitbn, vitbn_scalar,",
    ),
    ("-m model=vit,dnn pool=mean", "pool=mean: model=dnn has no use for it, only vit,"),
    ("experiment=fig10 model=vit,mlp", "depth=2: model=mlp has no use for it, only vit,"),
]


@pytest.mark.parametrize(("command", "message"), COMMANDS)
def test_a_mistyped_command_gets_one_line_before_torch_is_imported(tmp_path, command, message):
    guard = "import sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; import runpy; "
    code = guard + "runpy.run_path(sys.argv[0], run_name='__main__')"
    train = [sys.executable, "-c", code, str(ROOT / "train.py"), *command.split()]
    done = subprocess.run(train, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_an_experiment_sets_for_all_networks_is_not_refused():
    tree = config.plain(config.read(["experiment=placements", "model=mlp"]))
    check(tree, ["experiment=placements", "model=mlp"])
    assert tree["depth"] == 4
    with pytest.raises(InputError, match="depth=4: model=mlp has no use for it"):
        check(tree, ["experiment=placements", "model=mlp", "depth=4"])


def test_networks_without_slots_refuse_norms():
    assert set(composed("model=mlp_bn")["norm"].values()) == {"none"}
    with pytest.raises(InputError, match="norm.ffn_in=batch: model=dnn has no slots for norms"):
        composed("model=dnn", "norm.ffn_in=batch")


EXPERIMENTS = {
    "fig8": {"lr": 0.003, "epochs": 10, "batch_size": 100, "study": "article"},
    "fig9": {"lr": 0.005, "epochs": 10, "batch_size": 100, "study": "article"},
    "fig10": {"epochs": 10, "batch_size": 100, "study": "article"},
    "fig1_3": {"epochs": 15, "batch_size": 100, "study": "fig1_3"},
    "notebook": {"lr": 0.01, "epochs": 3, "batch_size": 64, "log_every": 1, "study": "notebook"},
    "placements": {"depth": 4, "study": "placements"},
}


def trained_by(command):
    """The configurations that `python train.py -m ...` trains."""
    words = shlex.split(command)[3:]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        sweep = GlobalHydra.instance().hydra.compose_config("config", words, run_mode=RunMode.MULTIRUN)
        found = list(jobs(sweep))
    for typed, tree in found:
        check(tree, typed)
    return [tree for _, tree in found]


@pytest.mark.parametrize("claim", load_claims(), ids=lambda claim: claim.id)
def test_a_claims_commands_train_what_it_needs_and_nothing_else(claim):
    trained = [
        RunRecord(Path(), flatten(cfg), {}, {}, "done")
        for command in missing(claim, FinishedRuns([]))
        for cfg in trained_by(command.replace("seed=0,1,2,3,4", "seed=0,1,2"))
    ]
    needed = [cell for part in claim.parts for cell in part.needs()]
    assert {run.config["study"] for run in trained} == {claim.study}
    found = FinishedRuns(trained)
    for cell in needed:
        assert [run.seed for run in found.fitting(cell)] == [0, 1, 2], cell
    assert {id(run) for cell in needed for run in found.fitting(cell)} == set(map(id, trained))


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
    assert recipe.items() <= cfg.items() and cfg["schedule"] == {"name": None}
    optimizer = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1e-4, "weight_decay": 0.01, "fused": True}
    assert cfg["optimizer"] == optimizer
    data = {"name": "imagenette", "augment": "crop", "image_size": side, "num_classes": 10,
            "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # fmt: skip
    assert data.items() <= cfg["data"].items()
    assert cfg["model"]["image_size"] == side and cfg["model"].get("dropout") == dropout


FOLDER = ("data=folder", "model=resnet34")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.augment=true",), "data.cache_size=256: data.augment=true needs images of the network's size, 224"),
        (("data.channels=1",), "data.mean=.* type one number, or 1 for data.channels=1"),
        (("data.channels=2",), "data.channels=2: choose from 1, 3"),
        (("data.on_bad_image=ignore",), "data.on_bad_image=ignore: choose from error, skip"),
        (("data.holdout=3",), "data.holdout=3: .* images of its own to validate on"),
        (("data.cache_size=0",), "data.cache_size=0: must be a whole number, at least 1"),
        (("schedule=cosine", "schedule.warmup=2"), r"schedule.warmup=2: must lie in \[0, 1\]"),
        (("optimizer=adamw", "optimizer.weight_decay=-1"), "optimizer.weight_decay=-1: must be a number, at least 0"),
        (("data=imagenette", "data.size=200"), "data.size=200: choose from 160, 320, full"),
    ],
)
def test_mistakes_with_image_files_are_named(photos, overrides, message):
    with pytest.raises(InputError, match=message):
        composed(*FOLDER, f"data.root={photos}", *overrides)


def test_a_folder_says_how_many_classes_the_network_has(photos):
    cfg = composed(*FOLDER, f"data.root={photos}")
    assert cfg["data"]["num_classes"] == cfg["model"]["num_classes"] == 2 and cfg["val_batch_size"] == 256
    assert cfg["data"]["content"] == scan(str(photos)).content


def test_vit_b16_has_its_own_depth_and_any_placement(photos):
    assert composed("model=vit_b16", "data=imagenette")["depth"] == 12
    cfg = composed("model=vit_b16", "data=imagenette", "depth=2", "norm=vitbn")
    assert cfg["model"]["depth"] == 2 and cfg["model"]["placement"]["embed_in"] == "batch"


def test_the_notebook_is_reproduced_to_the_letter():
    cfg = composed("experiment=notebook", "model=mlp_bn")
    assert cfg["optimizer"] == {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.01, "momentum": 0.9}
    assert (cfg["data"]["augment"], cfg["data"]["mean"], cfg["data"]["std"]) == (False, 0.5, 0.5)
    assert cfg["model"]["hidden"] == [512, 256] and cfg["model"]["norm_at"] == "post"


def test_the_articles_figures_share_their_runs():
    def ids(experiment, depths, rates):
        return {run_id(composed(f"experiment={experiment}", f"depth={d}", f"lr={lr}")) for d in depths for lr in rates}

    fig8, fig9, fig10 = (
        ids("fig8", (4, 5), (0.003,)),
        ids("fig9", (2, 4), (0.005,)),
        ids("fig10", (2, 4), (0.003, 0.005)),
    )
    assert len(fig8 & fig10) == 1 and len(fig9 & fig10) == 2


def test_quickstart_sweeps_by_itself():
    text = yaml.safe_load((ROOT / "conf/experiment/quickstart.yaml").read_text())
    assert text["hydra"] == {"mode": "MULTIRUN", "sweeper": {"params": {"model": "vit,vitbnffn"}}}
