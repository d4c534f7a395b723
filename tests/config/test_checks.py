import pytest

from vitbn.config.checks import check
from vitbn.config.compose import compose_config, to_plain_dict
from vitbn.errors import InputError


def checked(*overrides):
    tree = to_plain_dict(compose_config(overrides))
    check(tree)
    return tree


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
        ("model.dropout=1", "model.dropout=1.0: must lie in"),
        (
            "model.patch_size=5",
            "model.patch_size=5: does not divide the image size 28; choose from 1, 2, 4, 7, 14, 28",
        ),
        ("data.augment=cut", "data.augment=cut: choose from true, false, crop"),
        ("data.std=[0.5,0.5,0.5]", r"data.std=\[0.5, 0.5, 0.5\]: type one number, or 1 for data.channels=1"),
        ("data.std=[0]", r"data.std=\[0\]: must be a number above 0, or one per channel"),
        ("data.mean=nan", "data.mean=nan: must be a number"),
        ("data.holdout=-5", "data.holdout=-5: must be"),
        ("label_smoothing=1", r"label_smoothing=1.0: must lie in \[0, 1\)"),
        ("mixup=-1", "mixup=-1.0: must be a number, at least 0"),
        ("cutmix=inf", "cutmix=inf: must be a number, at least 0"),
        ("optimizer.lr=0.1", "optimizer.lr=0.1: the learning rate is the key lr=0.003"),
        ("optimizer._target_=torch.optim.RMSprop", "optimizer.fused: torch.optim.RMSprop has no such option"),
        ("optimizer.decay_weights_only=maybe", "optimizer.decay_weights_only=maybe: choose from true, false"),
        ("+schedule.interval=step", "schedule.interval: unknown key; this schedule has schedule.warmup"),
        ("schedule.name=linear", "schedule.name=linear: choose from step, cosine"),
        ("trainer.gradient_clip_val=1 trainer.precision=16", "precision=16-mixed: .*; add optimizer.fused=false"),
    ],
)
def test_values_out_of_range_are_named(override, message):
    with pytest.raises(InputError, match=message):
        checked(*override.split())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("schedule=one_cycle", "schedule.interval=epoch"), "schedule.total_steps=steps: .* schedule.interval=step"),
        (("schedule=one_cycle", "schedule.interval=day"), "schedule.interval=day: choose from step, epoch"),
        (
            ("schedule=one_cycle", "+schedule.pct_strat=1"),
            "schedule.pct_strat: .* has no such option; did you mean .*pct_start",
        ),
        (("schedule=one_cycle", "+schedule.warmup=0.1"), "schedule.warmup=0.1: OneCycleLR has one of its own"),
        (("schedule=plateau", "schedule.interval=step"), "schedule.interval=step: ReduceLROnPlateau"),
        (("schedule=one_cycle", "+schedule.monitor=val/loss"), "schedule.monitor=val/loss: OneCycleLR looks at no"),
        (("+schedule._target_=torch.optim.lr_scheduler.StepLR",), "schedule.step_size: .* needs it; type [+]schedule"),
    ],
)
def test_schedules_that_cannot_be_are_named(overrides, message):
    with pytest.raises(InputError, match=message):
        checked(*overrides)


def test_what_an_experiment_sets_for_all_networks_is_not_refused():
    tree = to_plain_dict(compose_config(["experiment=placements", "model=mlp"]))
    check(tree, ["experiment=placements", "model=mlp"])
    assert tree["depth"] == 4
    with pytest.raises(InputError, match="depth=4: model=mlp has no use for it"):
        check(tree, ["experiment=placements", "model=mlp", "depth=4"])


def test_networks_without_slots_refuse_norms():
    assert set(checked("model=mlp_bn")["norm"].values()) == {"none"}
    with pytest.raises(InputError, match="norm.ffn_in=batch: model=dnn has no slots for norms"):
        checked("model=dnn", "norm.ffn_in=batch")


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
        checked(*FOLDER, f"data.root={photos}", *overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("schedule=step", "schedule.every=null"),
            "schedule.every=null: must be a whole number, at least 1",
        ),
        (("schedule=cosine", "schedule.floor=null"), r"schedule.floor=null: must lie in \[0, 1\]"),
        (("schedule.name=step",), "schedule.every=null: must be"),
        (("data.augment=null",), "data.augment=null: must have a value"),
        (("data.root=null",), "data.root=null: must have a value"),
        (("trainer.max_steps=2", "trainer.min_epochs=2"), "trainer.max_steps=2 trainer.min_epochs=2: keep one"),
        (("norm.ffn_in=prep_batch", "callbacks=ema"), "norm prep_batch callbacks.ema: changes with the share"),
    ],
)
def test_nothing_and_what_goes_badly_together_are_named(overrides, message):
    with pytest.raises(InputError, match=message):
        checked(*overrides)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("model.depth=3", "model.depth=3: follows depth=6; type depth=3"),
        ("model.pool=mean", "model.pool=mean: follows pool=cls"),
        ("model.num_classes=20", "model.num_classes=20: follows data.num_classes=10; type data.num_classes=20"),
        ("model.name=null", "model.name=null: choose a network by model=NAME"),
        ("norm=resnet34", "norm=resnet34: has no norms for model=vit; choose from bn_ffn_bn"),
        ("model.pretrained=", "model.pretrained=: "),
        ("data.mean=null", "data.mean=null: must be a number, or one per channel"),
        ("data.holdout=null", "data.holdout=null: must be a number of images"),
        ("data.name=5", "data.name=5: must be text"),
        ("data.root=5", "data.root=5: must be text"),
        ("data.num_classes=null", "data.num_classes=null: must be a whole number"),
        ("model.dim=null", "model.dim=null: must be a whole number"),
        ("model.patch_size=null", "model.patch_size=null: must be a whole number"),
        ("model.qkv_bias=maybe", "model.qkv_bias=maybe: choose from true, false"),
        ("+optimizer.momentum=null", "optimizer.momentum=null: must lie in"),
        ("+optimizer.weight_decay=null", "optimizer.weight_decay=null: must be a number"),
        ("norm.ffn_in=nosuch.Class", "norm nosuch.Class: No module named 'nosuch'"),
        ("norm.ffn_in=torch.nn.NoSuch", "norm torch.nn.NoSuch: .* has no attribute 'NoSuch'"),
        ("optimizer.fused=maybe", "optimizer.fused=maybe: choose from true, false"),
        ("trainer.max_time={hours:-1}", "trainer.max_time=.*: must be DD:HH:MM:SS"),
        ("trainer.max_time={hours:foo}", "trainer.max_time=.*: must be DD:HH:MM:SS"),
        ("trainer.min_epochs=50", "trainer.min_epochs=50: more than epochs=10"),
        (r"data.root='a\${b}'", "data.root=a.{b}: must not hold"),
    ],
)
def test_what_was_typed_and_would_be_taken_for_something_else_is_refused(typed, message):
    with pytest.raises(InputError, match=message.replace("{b}", r"\{b\}")):
        check(to_plain_dict(compose_config([typed])), [typed])


def test_a_library_network_is_named_by_its_key():
    typed = ["model=timm", "model.name=resnet18"]
    check(to_plain_dict(compose_config(typed)), typed)
