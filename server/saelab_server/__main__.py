"""`python -m saelab_server`: the command `saelab` where it is not installed."""

from saelab_server.cli import main

main()
