import subprocess
import sys

CODE = """
import sys
from vitbn.training.spared import BY_TORCHMETRICS, spared
with spared(*BY_TORCHMETRICS):
    import pytorch_lightning
assert not {"scipy.signal", "transformers"} & set(sys.modules), "imported"
import scipy, scipy.signal
assert scipy.signal.convolve([1, 2], [1, 3]).tolist() == [1, 5, 6]
with spared("scipy.signal"):
    assert scipy.signal.convolve([1, 2], [1, 3]).tolist() == [1, 5, 6], "an imported module was replaced"
"""


def test_lightning_comes_without_what_torchmetrics_brings_along_and_nothing_is_lost():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
