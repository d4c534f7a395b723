"""Which pictures of a study its runs allow."""

from vitbn.analysis import charts, confusion, curves
from vitbn.analysis.arms import Arm
from vitbn.plotting import Picture


def pictures(arms: list[Arm]) -> list[Picture]:
    """Every picture the runs allow; draw and save them inside `style()`."""
    return [
        *curves.over_epochs(arms),
        *curves.learning_rates(arms),
        *charts.accuracy_against("depth", arms),
        *charts.accuracy_against("lr", arms),
        *charts.heat_maps(arms),
        *charts.paired_differences(arms),
        *confusion.confusions(arms),
    ]
