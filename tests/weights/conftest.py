from tests.inference.conftest import make_saved
from tests.training.conftest import make_run

__all__ = ["make_run", "make_saved"]
