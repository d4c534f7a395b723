import pytest

from vitbn.analysis.arms import group
from vitbn.analysis.records import read_study
from vitbn.analysis.sections import confound_section, headline, measured_on, unstable_section, what_was_run


def test_single_seed_is_said(run, study):
    run()
    arms = group(read_study(study))
    section = what_was_run(read_study(study), arms, [])
    assert any("single seed, so no interval can be given" in text for text in section.paragraphs)
    assert headline(arms).tables[0].rows[0][4] == "90.0 %"
    run(seed=1)
    runs = read_study(study)
    assert not any("single seed" in text for text in what_was_run(runs, group(runs), []).paragraphs)


def test_only_official_test_images_are_called_official(run, study):
    run(data={"name": "mnist5k"})
    runs = read_study(study)
    text = what_was_run(runs, group(runs), []).paragraphs[0]
    assert "the test images of mnist5k under one fixed" in text and "official" not in text


def test_held_out_images_are_said(run, study):
    run(data={"holdout": 5000})
    runs = read_study(study)
    assert "5000 training images that were held out" in what_was_run(runs, group(runs), []).paragraphs[0]


def test_means_leave_out_what_is_not_done(run, study):
    run(seed=0, final=0.8)
    run(seed=1, final=0.9)
    run(seed=2, status="diverged", values=[0.99])
    run(seed=3, status="running", values=[0.99])
    (row,) = headline(group(read_study(study))).tables[0].rows
    assert (
        row[3] == "2"
        and row[4].startswith("85.0 % [")
        and row[6] == "1 diverged, not in the mean; 1 interrupted, not in the mean"
    )


def test_clean_pairs_are_said_to_be_clean(run, study):
    run(model="vit")
    run(model="vitbnffn")
    section = confound_section(group(read_study(study)))
    assert "No difference beyond the placement is recorded for ViT / ViTBNFFN (1 pairs)." in section.paragraphs
    assert not section.tables and not unstable_section(read_study(study)).tables


def test_what_is_measured_on_what_is_said():
    article = measured_on({"data.name": "mnist", "data.augment": True})
    assert "val/* is measured on the official test images under one fixed augmentation draw" in article
    assert "draw" not in measured_on({"data.name": "mnist", "data.augment": "crop"})
    folder = measured_on({"data.name": "pets", "data.source": "folder", "data.augment": "crop"})
    assert folder.startswith("val/* is measured on the validation images of pets (its test images where it has no")
    held = measured_on({"data.name": "pets", "data.source": "folder", "data.holdout": 5})
    assert "5 training images that were held out; test/* is measured on the test images of pets (its val" in held


def test_a_confounder_is_listed_with_the_cells_that_have_it(run, study):
    for depth in (3, 4):
        for seed in (0, 1):
            run(model="vit", depth=depth, seed=seed, result={"matmul": "medium" if depth == 4 else "highest"})
            run(model="vitbnffn", depth=depth, seed=seed, result={"matmul": "highest"})
    runs = read_study(study)
    (table,) = confound_section(group(runs)).tables
    assert table.rows == [["ViT / ViTBNFFN", "matmul_precision: medium / highest", "depth 4 lr 0.003", "2 of 4"]]
    facts = dict(what_was_run(runs, group(runs), []).tables[0].rows)
    assert facts["matmul precision"] == "highest (6 runs); medium (2 runs)"
    assert facts["hardware"] == "a laptop, 2 threads"


@pytest.mark.parametrize(("augment", "said"), [(True, "on"), (False, "off"), ("pad_crop", "padded crops")])
def test_the_augmentation_is_said(run, study, augment, said):
    run(data={"name": "cifar10", "augment": augment})
    (table,) = what_was_run(read_study(study), [], []).tables
    assert ["data", f"cifar10, augmentation {said}"] in table.rows
