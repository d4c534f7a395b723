import torch

from vitbn.training.callbacks.images import confusion_figure


def test_class_names_are_drawn_as_they_are():
    """Not as formulas; a byte that is no UTF-8 is shown as a code."""
    names = ("$\\foo$", "$1_$", "caf\udce9", "<b>", "é")
    figure = confusion_figure(torch.eye(5, dtype=torch.int64), names)
    figure.draw_without_rendering()
    drawn = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert drawn == ["$\\foo$", "$1_$", "caf\\udce9", "<b>", "é"]
