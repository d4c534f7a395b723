"""Hydra imports our plugins in every application of the environment; other applications see no difference."""

import json
import subprocess
import sys

APPLICATION = """
import json, sys, warnings

filters = list(warnings.filters)
import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

HYDRAS = ("hydra", "_dummy_empty_config_.yaml", "hydra_config.yaml")


@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    resolvers = ("run_id", "folder_classes", "folder_content")
    print(json.dumps({
        "plugins": sorted(name for name in Plugins.instance().class_name_to_class if "vitbn" in name),
        "stored": [name for name in ConfigStore.instance().repo if name not in HYDRAS],
        "of_ours": "vitbn" in repr(ConfigStore.instance().repo),
        "patched": hasattr(ConfigStore, "__deepcopy__"),
        "resolvers": [name for name in resolvers if OmegaConf.has_resolver(name)],
        "filters": [str(filter) for filter in warnings.filters if filter not in filters],
        "imported": sorted(name for name in sys.modules if name.split(".")[0] in ("vitbn", "torch", "optuna", "ray")),
    }))


main()
"""


def test_another_application_sees_no_difference(tmp_path):
    (tmp_path / "app.py").write_text(APPLICATION)
    arguments = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]
    done = subprocess.run([sys.executable, "app.py", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    seen = json.loads(done.stdout)
    assert len(seen.pop("plugins")) == 3  # they were imported
    assert seen.pop("imported") in ([], ["vitbn", "vitbn.errors"])
    assert set(map(str, seen.values())) == {"[]", "False"}, seen
