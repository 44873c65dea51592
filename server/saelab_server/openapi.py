"""Writes the description of the API, from which the dashboard's types are made: `python -m saelab_server.openapi FILE`."""

import json
import sys
from pathlib import Path

from saelab_server.app import create_app


def text() -> str:
    """The text of the committed file."""
    return json.dumps(create_app().openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(text(), encoding="utf-8")
