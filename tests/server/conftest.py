import pytest
from fastapi.testclient import TestClient
from service_doubles import FakeFeatures, FakeWork, write_run

from saelab_server.app import create_app
from saelab_server.settings import Settings


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def features():
    return FakeFeatures()


@pytest.fixture
def work():
    return FakeWork()


@pytest.fixture
def make_client(runs, features, work, tmp_path):
    """Clients of the service over the toy run; `web` and settings may be given."""

    def make(web=tmp_path / "no-web", **settings):
        app = create_app(
            Settings(runs=runs, wait_seconds=0.2, max_prompt_tokens=20, max_tokens=50, **settings),
            open_features=lambda run, source: features,
            open_work=lambda run, source: work,
            web=web,
        )
        return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)

    return make


@pytest.fixture
def client(make_client):
    with make_client() as client:
        yield client
