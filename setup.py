"""What pyproject.toml cannot say: conf/ and claims/, here at the top, are in a wheel inside the package."""

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithFolders(build_py):
    """An editable installation needs no copies: vitbn.resources finds the checkout's."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for folder in ("conf", "claims"):
                self.copy_tree(folder, f"{self.build_lib}/vitbn/{folder}")


setup(cmdclass={"build_py": BuildWithFolders})
