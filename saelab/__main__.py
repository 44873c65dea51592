"""`python -m saelab`, which is what torchrun starts: the library's commands."""

from saelab.cli import COMMANDS, main

main(COMMANDS)
