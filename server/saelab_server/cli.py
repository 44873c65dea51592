"""The command `saelab`: the library's commands, and `serve`."""

from saelab.cli import COMMANDS, run_command
from saelab_server.serve import Serve


def main() -> None:
    """Runs the command that the command line names."""
    run_command({**COMMANDS, "serve": Serve})
