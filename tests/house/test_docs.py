"""The manual stays true and short."""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from house.sources import ROOT, blocks, committed, modules, text_of

from saelab.registry import Registry

PAGES = tuple(path for path in committed() if path.suffix == ".md")
DOCS = tuple(path for path in PAGES if path.parts[0] == "docs")
DECISIONS = tuple(path for path in DOCS if path.parts[1] == "decisions")


def registries() -> Iterator[Registry[object]]:
    """Every registry at module level of the library."""
    for path in modules():
        if "Registry(" in text_of(path) and path.name != "registry.py":
            module = importlib.import_module(".".join(path.with_suffix("").parts))
            yield from (item for item in vars(module).values() if isinstance(item, Registry))


def names_in_docs() -> set[str]:
    return set(re.findall(r"`([\w.:/<>-]+)`", "\n".join(text_of(path) for path in DOCS)))


def test_every_registered_part_is_named_in_the_docs():
    parts = {name for registry in registries() for name in registry}
    assert parts - names_in_docs() == set()


def test_every_kind_of_part_has_a_worked_example():
    kinds = {registry.what for registry in registries()}
    headings = " ".join(re.findall(r"^## (.*)$", text_of(Path("docs/extending.md")), flags=re.MULTILINE)).lower()
    assert {kind for kind in kinds if kind not in headings} == set()


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_links_lead_somewhere(path: Path):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text_of(path))
    near = [link for link in links if not link.startswith(("http://", "https://"))]
    assert [link for link in near if not (ROOT / path.parent / link).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_python_in_the_docs_is_python(path: Path):
    for number, block in enumerate(blocks(path, "python")):
        compile(block, f"{path}, block {number}", "exec")


def test_every_worked_example_can_be_added_as_a_file(tmp_path: Path):
    examples = blocks(Path("docs/extending.md"), "python")
    for number, block in enumerate(examples):
        (tmp_path / f"mine_{number}.py").write_text(block, encoding="utf-8")
    statement = f"import {', '.join(f'mine_{number}' for number in range(len(examples)))}"
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}:{ROOT / 'server'}", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", statement], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_line_of_the_changelog_is_one_outcome_in_25_words():
    entries = [line for line in text_of(Path("CHANGELOG.md")).splitlines() if line.startswith("- ")]
    assert entries
    assert [line for line in entries if len(line[2:].split()) > 25] == []


@pytest.mark.parametrize("path", DECISIONS, ids=str)
def test_a_decision_fits_on_a_page_and_says_what_would_change_it(path: Path):
    lines = text_of(path).splitlines()
    assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", path.name)
    assert len(lines) <= 60
    assert [line for line in lines if line.startswith("## ")] == [
        "## Context",
        "## Decision",
        "## Consequences",
        "## What would change our mind",
    ]


def test_decisions_are_numbered_without_gaps():
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))


def test_every_word_of_the_vocabulary_is_explained():
    words = {
        "subject",
        "hook",
        "window",
        "activation",
        "dictionary",
        "codes",
        "feature",
        "example",
        "score",
        "label",
        "intervention",
        "analysis",
    }
    words |= {"report", "run", "lab"}
    first = " ".join(re.findall(r"^\| ([^|]+) \|", text_of(Path("docs/words.md")), flags=re.MULTILINE))
    assert {word for word in words if not re.search(rf"\b{word}\b", first)} == set()


def test_every_stage_and_its_files_are_in_the_docs():
    from saelab.run import RUN_STAGES, SOURCE_STAGES

    flow = text_of(Path("docs/flow.md"))
    assert [stage for stage in (*RUN_STAGES, *SOURCE_STAGES) if f"`{stage}`" not in flow] == []


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_files_named_in_the_docs_exist(path: Path):
    named = re.findall(r"`((?:saelab|server|web|tests|docs|\.ci)/[\w./-]+)`", text_of(path))
    new = {name for name in named if name.rpartition("/")[2].startswith("mine")}
    assert [
        name for name in named if name not in new and not (ROOT / name).exists() and not name.startswith("server/saelab_server/web")
    ] == []


def test_the_names_that_the_docs_import_are_there():
    for page in PAGES:
        for module, names in re.findall(r"^from (saelab[\w.]*) import (.+)$", "\n".join(blocks(page, "python")), re.MULTILINE):
            found = importlib.import_module(module)
            missing = [name for name in names.split(", ") if not (hasattr(found, name) or find_spec(f"{module}.{name}"))]
            assert missing == [], f"{page}: {module}"
