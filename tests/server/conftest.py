"""The service over a toy run on disk, with doubles of what needs a model."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from service_doubles import FakeFeatures, FakeWork, documents, write_run

from saelab_server.app import create_app
from saelab_server.settings import Settings


@pytest.fixture(scope="session")
def stage(tmp_path_factory):
    """What all tests share: a written run to copy, the folder that is served, and the doubles of the test at hand."""
    root = tmp_path_factory.mktemp("service")
    write_run(root / "written")
    return SimpleNamespace(written=root / "written", runs=root / "runs", features=None, work=None)


@pytest.fixture
def runs(stage):
    """A folder with one toy run, fresh for each test."""
    shutil.rmtree(stage.runs, ignore_errors=True)
    return Path(shutil.copytree(stage.written, stage.runs))


@pytest.fixture
def features(stage):
    stage.features = FakeFeatures()
    return stage.features


@pytest.fixture
def work(stage):
    stage.work = FakeWork()
    return stage.work


def make_app(stage, web=Path("no such folder"), **settings):
    return create_app(
        Settings(runs=stage.runs, wait_seconds=0.2, max_prompt_tokens=20, max_tokens=50, **settings),
        open_features=lambda run, source: stage.features,
        open_work=lambda run, source: stage.work,
        open_documents=lambda run, source: documents,
        embed=lambda text: np.full(1, float(len(text))),
        web=web,
    )


def make_test_client(app):
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


@pytest.fixture
def make_client(stage, runs, features, work):
    """Clients of an application with a dashboard or settings of its own."""
    return lambda **settings: make_test_client(make_app(stage, **settings))


@pytest.fixture(scope="session")
def app(stage):
    """One application for all tests: making its routes takes longer than a test."""
    return make_app(stage)


@pytest.fixture
def client(app, runs, features, work):
    with make_test_client(app) as client:
        yield client
