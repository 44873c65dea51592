"""Pages in a real browser: a live `saelab serve` over the toy run, and Chromium that may speak to no other host.

Chromium is `SAELAB_CHROMIUM`, or else a known name on the PATH. Where there is none the tests are skipped, unless `SAELAB_CHROMIUM` is set
or `SAELAB_BROWSER=required`, as continuous integration sets it.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

from saelab.analyses.base import analyse
from saelab.analyses.core import Core
from saelab.features.collect import CollectConfig, collect
from saelab.lab import Lab
from saelab.run import Run
from saelab_server.settings import WEB

NAMES = ("chromium", "chromium-browser", "google-chrome")
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


def chromium() -> str:
    """The browser's path; skips the test, or fails it where a browser is required."""
    named = os.environ.get("SAELAB_CHROMIUM")
    found = named if named else next((path for path in map(shutil.which, NAMES) if path), None)
    if found and Path(found).is_file():
        return found
    reason = f"SAELAB_CHROMIUM names {named}, which is no file" if named else f"there is no Chromium on the PATH ({', '.join(NAMES)})"
    if named or os.environ.get("SAELAB_BROWSER") == "required":
        pytest.fail(f"{reason}; run: make browser")
    pytest.skip(f"{reason}; run: make browser")


@pytest.fixture(scope="session")
def served(toy_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of the toy run with a report, and with postings, which the recipe leaves out."""
    run = Run(Path(shutil.copytree(toy_run.path, tmp_path_factory.mktemp("served") / "runs" / "toy")))
    lab = Lab(run)
    collect(lab.dictionary, lab.store, lab.corpus, CollectConfig(postings=0.1), lab.folder.path)
    analyse(lab, Core(rows=1000, windows=4, fit_rows=1000))
    return run


@pytest.fixture(scope="session")
def address(served: Run) -> Iterator[str]:
    """Where a live service answers, a process of its own on a free port."""
    if not (WEB / "index.html").is_file():
        pytest.fail("the dashboard is not built; run: make web")
    command = [sys.executable, "-m", "saelab_server", "serve", str(served.path.parent), "--port", "0"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout
        found = re.search(r"http://\S+", process.stdout.readline())
        try:
            assert found, "the service printed no address"
            yield found.group()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    """One browser for the tests of a file. Playwright keeps an event loop running until it is closed, which other tests must not meet."""
    path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def console() -> list[str]:
    """Errors of scripts and on the console; a test takes out those that it expects."""
    return []


@pytest.fixture(params=[LAPTOP, PHONE], ids=["laptop", "phone"])
def page(chrome: Browser, address: str, console: list[str], request: pytest.FixtureRequest) -> Iterator[Page]:
    """A fresh page in both widths. A request to another host, an error of a script or one on the console fails the test."""
    foreign: list[str] = []

    def watch(route: Route) -> None:
        if route.request.url.startswith((address + "/", "data:", "blob:")):
            route.continue_()
        else:
            foreign.append(route.request.url)
            route.abort()

    context = chrome.new_context(viewport=request.param, base_url=address)
    context.route("**/*", watch)
    page = context.new_page()
    page.on("pageerror", lambda error: console.append(str(error)))
    page.on("console", lambda message: console.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    assert foreign == []
    assert console == []
