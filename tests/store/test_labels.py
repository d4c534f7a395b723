import pytest

from vitbn.config.compose import compose_config, to_plain_dict
from vitbn.store.labels import flatten, labels, varying, without_repetitions


def named(*jobs):
    """Labels of configurations as they would be typed, without those that are alike."""
    found = labels([flatten(to_plain_dict(compose_config(job.split()))) for job in jobs])
    return [{key: value for key, value in each.items() if len({str(e[key]) for e in found}) > 1} for each in found]


def test_slots_that_are_swept_tell_networks_apart():
    jobs = [f"norm.attn_out={out} norm.ffn_in={ffn}" for out in ("none", "batch") for ffn in ("none", "layer")]
    assert [each["model"] for each in named(*jobs)] == [
        "ViT ffn_in=none", "ViT", "ViT attn_out=batch ffn_in=none", "ViT attn_out=batch",
    ]  # fmt: skip


def test_a_network_under_another_placement_is_not_called_by_its_own_name():
    assert [each["model"] for each in named("model=vitbnffn", "model=vitbnffn norm=vit")] == [
        "ViTBNFFN", "ViTBNFFN norm=vit",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        (["batch_size=50", "batch_size=100"], [{"batch_size": 50}, {"batch_size": 100}]),
        (["trainer.precision=bf16-mixed", ""], [{"precision": "bf16-mixed"}, {"precision": "32-true"}]),
        (["optimizer=adam", "optimizer=sgd"], [{"optimizer": "Adam"}, {"optimizer": "SGD"}]),
        (["schedule=cosine", ""], [{"schedule": "cosine"}, {"schedule": None}]),
        (["data=mnist", "data=fashion_mnist"], [{"data": "mnist"}, {"data": "fashion_mnist"}]),
        (["pool=mean", "pool=cls"], [{"pool": "mean"}, {"pool": "cls"}]),
        (["model.dropout=0.1", "model.emb_dropout=0.1"],
         [{"dropout": 0.1, "emb_dropout": 0.0}, {"dropout": 0.0, "emb_dropout": 0.1}]),
        (["logger=none runs=elsewhere", "logger=csv"], [{}, {}]),
        (["model=vit depth=4", "model=resnet34"], [{"model": "ViT", "depth": 4}, {"model": "resnet34", "depth": None}]),
        (["seed=1 lr=0.1", "seed=2 lr=0.2"], [{"seed": 1, "lr": 0.1}, {"seed": 2, "lr": 0.2}]),
    ],
)  # fmt: skip
def test_whatever_is_swept_is_named_once(jobs, expected):
    assert named(*jobs) == expected


def test_what_belongs_to_one_optimizer_counts_where_it_varies_within_it():
    found = named("optimizer=sgd", "optimizer=sgd optimizer.momentum=0", "optimizer=adam")
    assert found == [
        {"optimizer": "SGD", "momentum": 0.9},
        {"optimizer": "SGD", "momentum": 0},
        {"optimizer": "Adam", "momentum": None},
    ]


def test_equal_last_parts_keep_the_whole_key():
    found = labels([{"a.decay": 1, "b.decay": 1}, {"a.decay": 2, "b.decay": 2}])
    assert [(each["a.decay"], each["b.decay"]) for each in found] == [(1, 1), (2, 2)]


def test_norms_of_a_network_of_ones_own_are_told_by_what_varies():
    configs = [{"model.name": "mine", "model.placement.qk": kind, "model.placement.final": "none"} for kind in "ab"]
    assert [each["model"] for each in labels(configs)] == ["mine qk=a", "mine qk=b"]


def test_folders_of_images_are_told_by_their_names_and_by_content_where_these_agree():
    folder = {"data.name": "folder", "data.root": "/a/photos", "data.content": "1"}
    other = folder | {"data.root": "/b/scans", "data.content": "2"}
    assert [(each["data"], "content" in each) for each in labels([folder, other])] == [
        ("photos", False),
        ("scans", False),
    ]
    changed = folder | {"data.content": "3"}
    assert [each["content"] for each in labels([folder, changed])] == ["1", "3"]


def test_a_value_that_is_repeated_in_the_networks_group_counts_once():
    configs = [
        without_repetitions(
            {"model.name": "vit", "data.image_size": n, "model.image_size": n, "lr": n, "optimizer.lr": n}
        )
        for n in (28, 64)
    ]
    assert varying(configs) == ["data.image_size"]


def test_devices_that_do_not_pool_their_batchnorms_tell_runs_apart():
    alone, two, unpooled = (
        without_repetitions({"lr": 0.1, "trainer.devices": devices, "trainer.sync_batchnorm": sync})
        for devices, sync in ((1, "auto"), (2, "auto"), (2, False))
    )
    assert alone == two != unpooled


def test_lists_and_mappings_in_lists_can_be_compared():
    flat = flatten({"a": [[1, 2], [3]], "b": [{"y": 1, "x": [2]}]})
    assert flat == {"a": ((1, 2), (3,)), "b": ('{"x": [2], "y": 1}',)} and len(set(flat.values())) == 2
