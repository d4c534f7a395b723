"""What is in the sdist and the wheel, and that the wheel works in an empty folder without the checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import vitbn

ROOT = Path(__file__).parents[1]
SDIST = ("src", "conf", "claims", "pyproject.toml", "setup.py", "MANIFEST.in", "constraints.txt", "train.py",
         "README.md", "LICENSE", "CHANGELOG.md")  # fmt: skip
SMALL = ["data=mnist5k", "model.dim=16", "model.heads=2", "model.dim_head=8", "model.mlp_dim=24", "depth=1", "epochs=1",
         "trainer=cpu"]  # fmt: skip
pytestmark = pytest.mark.slow


def files(folder: Path) -> set[str]:
    """All but those that setuptools leaves in sources."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.parent.suffix != ".egg-info")
    return {str(path.relative_to(folder)) for path in paths}


def build(kind: str, source: Path, into: Path) -> Path:
    """What pip and `python -m build` call, without their environment of its own."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(into)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (made,) = into.iterdir()
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The sources alone, without what was built or trained among them."""
    folder = tmp_path_factory.mktemp("source")
    for name in SDIST:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def unpacked(source, tmp_path_factory) -> Path:
    """The folder inside the sdist."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(build("sdist", source, tmp_path_factory.mktemp("sdist"))) as archive:
        archive.extractall(folder, filter="data")
    (top,) = folder.iterdir()
    assert files(top) - {"PKG-INFO", "setup.cfg"} == files(source)
    return top


@pytest.fixture(scope="module")
def site(unpacked, tmp_path_factory) -> Path:
    """A folder as site-packages has it after `pip install` of the wheel made from the sdist."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(build("wheel", unpacked, tmp_path_factory.mktemp("wheel"))) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def installed(site, tmp_path):
    """`installed(ARGUMENTS)`: `python -m vitbn ARGUMENTS` of the wheel in an empty folder."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "VITBN_DATA"}
    environment |= {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"HOME": str(tmp_path / "home"), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}

    def call(*arguments: str) -> str:
        command = [sys.executable, "-m", "vitbn", *arguments]
        done = subprocess.run(command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_the_wheel_holds_the_package_its_configuration_and_its_claims(source, site):
    folders = {f"vitbn/{name}" for name in files(source) if name.startswith(("conf/", "claims/"))}
    assert {name for name in files(site) if ".dist-info/" not in name} == files(source / "src") | folders
    assert {"vitbn/py.typed", "vitbn/conf/config.yaml", "vitbn/claims/fig8.yaml"} < files(site)
    assert (site / "vitbn/serve/digits.safetensors").stat().st_size > 100_000
    (scripts,) = site.glob("*.dist-info/entry_points.txt")
    assert "vitbn = vitbn.cli:main" in scripts.read_text()


def test_installed_it_reads_its_own_configuration_and_claims(site, installed, tmp_path):
    assert installed("--version") == f"vitbn {vitbn.__version__}\n"
    assert f"file://{site}/vitbn/conf" in installed("train", "--info", "searchpath")
    assert "depth: 3" in installed("train", "depth=3", "--cfg", "job")
    assert "vitbn train -m experiment=fig8 seed=0,1,2" in installed("claims", "fig8")
    assert "893,164" in installed("summary", "model=vit")
    assert {name for name in files(tmp_path) if not name.startswith("matplotlib/")} == set()


def test_installed_it_trains_and_writes_into_the_working_directory_alone(site, installed, tmp_path):
    before = files(site)
    assert "epoch 1/1" in installed("train", *SMALL)
    assert "epoch 1/1" in installed("train", "-m", "hydra/launcher=joblib", "logger=none", "seed=1", *SMALL)
    assert len(list((tmp_path / "work").glob("runs/default/vit-d1-*/result.json"))) == 2
    written = {name for name in files(tmp_path) if not name.startswith("matplotlib/")}
    assert files(site) == before and all(name.startswith("work/runs/") for name in written)
