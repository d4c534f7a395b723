"""The section "Why" from synthetic instruments.csv."""

import pytest

from vitbn.analysis.arms import group
from vitbn.analysis.instruments import COLUMNS
from vitbn.analysis.records import read_study
from vitbn.analysis.report import write_reports
from vitbn.analysis.why import bad_ends, why_pictures
from vitbn.plotting import style


@pytest.fixture
def measured(run):
    """Write a run with measurements of four blocks, whose gap tells how it ends: measured(gap=…, final=…)."""

    def write(gap=0.2, **keys):
        folder = run(epochs=2, **keys)
        lines = [COLUMNS]
        for step, epoch in ((1, 1), (9, 1), (19, 2)):
            for block in range(4):
                lines += [
                    f"{step},{epoch},blocks.{block},,gradient norm,{0.5 + block}",
                    f"{step},{epoch},blocks.{block},,update ratio,0.01",
                    f"{step},{epoch},blocks.{block},attn_in,variance,{2.0**block * epoch}",
                    f"{step},{epoch},blocks.{block},ffn_hidden,mean gap,{gap * (block + 1)}",
                ]
            lines.append(f"{step},{epoch},,,sharpness,{step}")
        (folder / "instruments.csv").write_text("\n".join(lines) + "\n")
        return folder

    return write


def test_pictures_show_the_layers_of_every_arm(measured, study):
    for model in ("vit", "vitbn"):
        for depth in (2, 4):
            measured(model=model, depth=depth)
    with style():
        pictures = {picture.name: picture for picture in why_pictures(group(read_study(study)))}
    assert list(pictures) == ["why-activations", "why-layers", "why-time"]
    (ax,) = (ax for ax in pictures["why-activations"].figure.axes if ax.get_visible())
    assert ax.get_title(loc="left") == "attn_in" and [text.get_text() for text in ax.get_xticklabels()] == list("1234")
    ys = {(line.get_linestyle(), line.get_label()): list(line.get_ydata()) for line in ax.lines}
    assert ys["-", "ViT"] == [2, 4, 8, 16] and ys["-", "ViTBN"] == [2, 4, 8, 16]
    assert [1, 2, 4, 8] in ys.values()  # at the end of epoch 1
    assert "at depth 4 lr 0.003" in pictures["why-activations"].title
    assert "attn_in, ViT: 2 to 16" in pictures["why-activations"].alt
    titles = [ax.get_title(loc="left") for ax in pictures["why-layers"].figure.axes if ax.get_visible()]
    assert titles == ["gradient norm", "update / weight", "gap of the mean"]
    sharpness = pictures["why-time"].figure.axes[0]
    assert list(sharpness.lines[0].get_xdata()) == [1, 9, 19] == list(sharpness.lines[0].get_ydata())


def test_a_measurement_that_tells_the_end_comes_first(measured, study):
    gaps = (0.1, 0.2, 0.3, 0.4, 0.5)
    for seed, gap in enumerate(gaps):
        measured(seed=seed, gap=gap, final=0.9 - gap)
    measured(seed=9, gap=0.6, status="diverged")  # a guess, 10 %
    rows = bad_ends(read_study(study))
    assert [row[0] for row in rows] == ["mean gap", "mean gap, largest", "mean gap, smallest"]
    assert rows[0][1:3] == ["6", "−1.00"] and rows[0][3].startswith("[−1.00, −0.")


@pytest.mark.slow
def test_fewer_than_five_runs_have_no_table_and_none_no_section(measured, run, study):
    run(seed=7)
    (page,) = write_reports([study])
    assert 'id="why"' not in page.read_text()
    for seed in range(4):
        measured(seed=seed, final=0.9 - 0.1 * seed, gap=0.1 * seed)
    (page,) = write_reports([study])
    assert 'id="why"' in page.read_text() and "What went with a bad end" not in page.read_text()
    measured(seed=4, final=0.4, gap=0.5)
    text = write_reports([study])[0].read_text()
    assert "What went with a bad end" in text and "3 measurements were compared" in text


def test_many_arms_are_the_best_and_the_worst(measured, study):
    for index in range(9):
        measured(norm={"ffn_hidden": "batch"}, model="vit", final=0.5 + 0.05 * index, pool=f"p{index}")
    picture = why_pictures(group(read_study(study)))[0]
    labels = picture.figure.axes[0].get_legend_handles_labels()[1]
    assert len(labels) == 7 and not any(f"p{index}" in label for label in labels for index in (3, 4))
    assert "the best and the worst arms" in picture.title


def test_a_broken_file_costs_nothing_else(measured, study, caplog):
    measured(seed=0)
    (measured(seed=1) / "instruments.csv").write_text("nonsense\n")
    assert len(why_pictures(group(read_study(study)))) == 3
    assert sum("left out" in message for message in caplog.messages) == 1


def test_runs_with_and_without_are_one_arm(measured, run, study):
    """The callback changes no result, so it is no setting of an arm."""
    options = {"_target_": "vitbn.training.callbacks.instruments.Instruments", "every_n_steps": 100}
    measured(seed=0, callbacks={"instruments": options})
    run(seed=1, epochs=2)
    assert [len(arm.runs) for arm in group(read_study(study))] == [2]
