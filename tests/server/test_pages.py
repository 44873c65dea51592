"""What browsers get: the dashboard's files, what they may keep, and what pages may load."""

import pytest

PAGE = "<!doctype html><p>dashboard</p>"


@pytest.fixture
def web(tmp_path):
    folder = tmp_path / "web"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text(PAGE)
    (folder / "assets" / "index-Ab12.js").write_text("let x = 1;\n" * 500)
    return folder


@pytest.fixture
def dashboard(make_client, web):
    with make_client(web=web) as client:
        client.headers["accept"] = "text/html,application/xhtml+xml"
        yield client


@pytest.mark.parametrize("path", ["/", "/toy/1-res-topk", "/toy/1-res-topk/3", "/toy/1-res-topk/steer?feature=3", "/smollm2-1.7b/14.res"])
def test_any_page_is_the_one_page_and_never_kept(dashboard, path):
    response = dashboard.get(path)
    assert (response.status_code, response.text) == (200, PAGE)
    assert response.headers["cache-control"] == "no-cache"


def test_hashed_files_are_kept_for_ever(dashboard):
    response = dashboard.get("/assets/index-Ab12.js")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert response.headers["content-encoding"] == "gzip"
    assert "javascript" in response.headers["content-type"]


def test_a_missing_file_is_not_kept(dashboard):
    response = dashboard.get("/assets/gone.js", headers={"accept": "*/*"})
    assert response.status_code == 404
    assert response.headers["cache-control"] == "no-cache"


def test_files_outside_the_folder_are_not_served(dashboard, web):
    (web.parent / "secret.txt").write_text("secret")
    for path in ("/../secret.txt", "/assets/..%2f..%2fsecret.txt", "/%2e%2e/secret.txt"):
        assert "secret" not in dashboard.get(path).text


def test_without_a_built_dashboard_the_start_page_says_how_to_build_it(client):
    response = client.get("/")
    assert response.status_code == 200
    assert "make web" in response.text


@pytest.mark.parametrize("path", ["/", "/api/v1/runs", "/api/v1/none", "/assets/index-Ab12.js"])
def test_every_answer_says_what_pages_may_load(dashboard, path):
    headers = dashboard.get(path).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "script" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST", "lab.example:80"])
def test_our_own_names_are_answered(make_client, host):
    with make_client(allowed_hosts=("lab.example",)) as client:
        assert client.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "[::1", "localhost@evil.example"]
)
def test_foreign_names_are_refused_with_a_problem(client, host):
    response = client.get("/api/v1/runs", headers={"host": host})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert "--allowed-hosts" in response.json()["detail"]


def test_a_host_of_our_own_is_answered_when_bound_to_it(make_client):
    with make_client(host="10.0.0.7") as client:
        assert client.get("/health", headers={"host": "10.0.0.7:8000"}).status_code == 200


def test_any_name_is_answered_when_asked_for(make_client):
    with make_client(allowed_hosts=("*",)) as client:
        assert client.get("/health", headers={"host": "anything.example"}).status_code == 200
