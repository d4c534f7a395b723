import pytest
from matplotlib.figure import Figure

from vitbn.plotting import COLOURS, Picture, fit_to_lines, grid, look, plain_numbers, slug, style


def test_a_line_differs_from_the_others_in_more_than_its_colour():
    first, eighth = look(0), look(len(COLOURS))
    assert first["color"] == eighth["color"] and first["linestyle"] != eighth["linestyle"]


def test_a_grid_hides_the_panels_that_are_left_over():
    figure, axes = grid(3, 2)
    assert isinstance(figure, Figure) and len(axes) == 3
    assert [ax.get_visible() for ax in figure.axes] == [True, True, True, False]


def test_the_axis_is_limited_to_the_lines_and_not_to_their_bands():
    _, (ax,) = grid(1, 1)
    ax.plot([0, 1], [2.0, float("nan")])
    ax.plot([0, 1], [3.0, 4.0])
    ax.fill_between([0, 1], [-90, -90], [90, 90])
    fit_to_lines([ax])
    low, high = ax.get_ylim()
    assert 1.5 < low < 2 and 4 < high < 4.5


def test_the_same_picture_gives_the_same_files(tmp_path):
    for name in ("a", "b"):
        with style():
            figure, (ax,) = grid(1, 1)
            ax.plot([1, 2], [3, 4])
            Picture("curve", "Curve", "A caption.", "A rising line.", figure).save(tmp_path / name)
    for suffix in ("png", "svg"):
        assert (tmp_path / "a" / f"curve.{suffix}").read_bytes() == (tmp_path / "b" / f"curve.{suffix}").read_bytes()


def test_a_slug_is_a_file_name():
    assert slug("difference", "ViTBN norm=vit/batch", None, "", 0.003) == "difference-ViTBN-norm-vit-batch-0.003"


@pytest.mark.parametrize(
    ("high", "labels"),
    [(30, ["0.5", "1", "2", "5", "10", "20"]), (3000, ["1", "10", "100", "1000"])],
    ids=["two decades at most: 2 and 5 too", "more: powers of ten"],
)
def test_a_logarithmic_axis_is_labelled_without_formulas(high, labels):
    with style():
        figure, (ax,) = grid(1, 1)
        ax.plot([0, 1], [0.5, high])
        ax.set_yscale("log")
        ax.set_ylim(0.5, high)
        plain_numbers(ax.yaxis)
        figure.draw_without_rendering()
        ticks = [*ax.yaxis.get_major_ticks(), *ax.yaxis.get_minor_ticks()]
    shown = {tick.label1.get_text() for tick in ticks if 0.5 <= tick.get_loc() <= high} - {""}
    assert sorted(shown, key=float) == labels


def test_a_drawing_that_fails_leaves_the_next_one_wide():
    with pytest.raises(OSError), style(narrow=True):
        raise OSError
    figure, _ = grid(2, 2)
    assert figure.axes[1].get_subplotspec().colspan.start == 1  # beside the first, not below it
