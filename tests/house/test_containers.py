"""The container files, read as text: no engine is needed to see that they fit the repository."""

import json
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from house.sources import BUILT, ROOT, committed, text_of

DOCKERFILE, COMPOSE = Path("server/Dockerfile"), Path("docker-compose.yml")


class Step(NamedTuple):
    """An instruction of a Dockerfile, and the number of the stage it stands in."""

    word: str
    rest: str
    stage: int


def steps() -> list[Step]:
    """The instructions, continued lines joined and comments dropped."""
    lines = [line for line in text_of(DOCKERFILE).splitlines() if not line.lstrip().startswith("#")]
    found: list[Step] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            found.append(Step(word, rest.strip(), sum(step.word == "FROM" for step in found) + (word == "FROM")))
    return found


def rest_of(word: str) -> list[str]:
    return [step.rest for step in steps() if step.word == word]


def compose() -> dict[str, dict[str, dict[str, list[str]]]]:
    return yaml.safe_load(text_of(COMPOSE))


def copied() -> list[str]:
    """What is copied from the checkout, rather than from another stage."""
    words = [shlex.split(rest) for rest in rest_of("COPY") if "--from=" not in rest]
    return [source for arguments in words for source in arguments[:-1]]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out: the last line that matches it decides."""
    rules = [line for line in text_of(Path(".dockerignore")).splitlines() if line and not line.startswith("#")]
    matching = [rule for rule in rules if fnmatch(path, rule.removeprefix("!")) or path.startswith(f"{rule.removeprefix('!')}/")]
    return not matching[-1].startswith("!")


def test_node_builds_the_dashboard_and_python_installs_the_wheel():
    web, service = rest_of("FROM")
    assert re.fullmatch(r"node:[\w.-]+ AS web", web)
    assert service.startswith("python:3.")
    (dashboard,) = [rest for rest in rest_of("COPY") if "--from=web" in rest]
    assert dashboard.split()[-1] == BUILT.rstrip("/")


def test_every_image_has_a_version():
    assert all(re.search(r":\d", rest.split(" AS ")[0]) for rest in rest_of("FROM"))


@pytest.mark.parametrize("source", copied())
def test_what_is_copied_exists_and_is_not_ignored(source: str):
    assert (ROOT / source).exists()
    assert not ignored(source)


def test_nothing_else_goes_to_the_engine():
    assert ignored("tests/house/test_containers.py")
    assert ignored("runs/demo/corpus")
    assert ignored("web/node_modules/vite/index.js")


def test_the_service_does_not_run_as_root():
    last = [step for step in steps() if step.word in {"USER", "CMD", "RUN"}]
    assert [step.word for step in last][-2:] == ["USER", "CMD"]
    assert last[-2].rest not in {"root", "0"}


def test_the_health_of_the_service_is_watched():
    (check,) = rest_of("HEALTHCHECK")
    command = json.loads(check.partition("CMD")[2])
    assert "/health" in command[-1]
    compile(command[-1], "healthcheck", "exec")


def test_the_command_is_a_list_that_serves_the_volume():
    (command,) = rest_of("CMD")
    (volume,) = rest_of("VOLUME")
    assert json.loads(command) == ["saelab", "serve", volume]


def test_the_port_is_the_same_everywhere_and_published_to_this_machine_only():
    (port,) = rest_of("EXPOSE")
    assert f"SAELAB_PORT={port}" in rest_of("ENV")[0]
    for service in compose()["services"].values():
        assert service["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_compose_builds_this_dockerfile_and_keeps_the_runs_outside():
    service = compose()["services"]["saelab"]
    assert service["build"] == {"context": ".", "dockerfile": str(DOCKERFILE)}
    assert "./runs:/runs" in service["volumes"]
    named = {volume.split(":")[0] for volume in service["volumes"] if not volume.startswith(".")}
    assert named == set(compose()["volumes"])


def test_packages_are_pinned_in_the_image():
    installs = [part for rest in rest_of("RUN") for part in rest.split("&&") if "pip install" in part]
    assert len(installs) == 4
    assert all("--constraint .ci/constraints.txt" in part or "--require-hashes" in part for part in installs)


def test_the_dockerfile_itself_is_committed():
    assert {DOCKERFILE, COMPOSE} <= set(committed())
