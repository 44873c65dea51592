"""The command `saelab`: the library's commands, and `serve`."""

from tyro.conf import OmitArgPrefixes

from saelab import cli
from saelab.values import value
from saelab_server.serve import serve
from saelab_server.settings import Settings


@value
class Serve:
    """Serves a folder of runs: dashboard and REST, on this machine only."""

    settings: OmitArgPrefixes[Settings] = Settings()
    """What is served, and where."""

    def __call__(self) -> None:
        """Does it."""
        serve(self.settings)


def main() -> None:
    """Runs the command that the command line names."""
    cli.main({**cli.COMMANDS, "serve": Serve})
