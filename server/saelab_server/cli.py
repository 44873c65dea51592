"""The command `saelab`: the library's commands, and `serve`."""

from saelab import cli
from saelab_server.serve import Serve


def main() -> None:
    """Runs the command that the command line names."""
    cli.main({**cli.COMMANDS, "serve": Serve})


if __name__ == "__main__":
    main()
