"""What the house tests look at: the files of this repository, parsed once."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("saelab", "server/saelab_server")
BUILT = "server/saelab_server/web/"


@cache
def committed() -> tuple[Path, ...]:
    """Files that git knows or would take, relative to the root and sorted."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return tuple(sorted(path for name in listed.split("\0") if name and (path := Path(name)) and (ROOT / path).is_file()))


@cache
def modules() -> tuple[Path, ...]:
    """Python files of the two packages, relative to the root."""
    return tuple(path for path in committed() if path.suffix == ".py" and str(path).startswith(tuple(f"{name}/" for name in PACKAGES)))


@cache
def text_of(path: Path) -> str:
    """The text of a file given relative to the root."""
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a Python file given relative to the root."""
    return ast.parse(text_of(path), filename=str(path))


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of one language in a Markdown file."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(path), flags=re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[str]:
    """The shell commands in a Markdown file: continued lines joined, comments dropped, `a && b` taken apart."""
    lines = "\n".join(blocks(path, "bash")).replace("\\\n", " ").splitlines()
    bare = [re.sub(r"(^|\s)# .*$", "", line).strip() for line in lines]
    return [part.strip() for line in bare if line for part in line.split("&&")]
