"""Every route answers every mistake with a problem document (RFC 9457)."""

import pytest
from fastapi.testclient import TestClient
from service_doubles import D_SAE

from saelab.errors import SaelabError
from saelab_server.app import create_app
from saelab_server.errors import STATUS, problem_of

OPERATIONS = [(method, path) for path, found in create_app().openapi()["paths"].items() for method in found]
WRONG = {"model": "toi", "source": "nothing", "run": "demmo", "index": str(D_SAE), "name": "densites", "number": "99"}


def check(response, status):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert list(problem) == ["type", "title", "status", "detail", "instance"]
    assert problem["status"] == status
    assert problem["instance"] == response.request.url.path
    assert problem["title"]
    assert len(problem["detail"]) > 20
    return problem


@pytest.mark.parametrize(("method", "path"), [item for item in OPERATIONS if "{" in item[1]])
def test_wrong_names_in_any_path_are_not_found(client, method, path):
    check(client.request(method, path.format(**WRONG), json={"text": "a", "prompt": "a", "interventions": []}), 404)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_a_wrong_method_is_refused_anywhere(client, method, path):
    response = client.request("DELETE", path.format(**WRONG))
    check(response, 405)
    assert method.upper() in response.headers["allow"]


@pytest.mark.parametrize(("method", "path"), [item for item in OPERATIONS if item[0] == "post"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'"text"'])
def test_a_body_that_is_no_object_is_refused(client, method, path, body):
    response = client.post(path.format(model="toy", source="1-res-topk"), content=body, headers={"content-type": "application/json"})
    check(response, 400 if body == b"\xff" else 422)


@pytest.mark.parametrize(("method", "path"), [item for item in OPERATIONS if item[0] == "post"])
def test_a_body_that_is_too_large_is_refused(client, method, path):
    check(client.post(path.format(model="toy", source="1-res-topk"), json={"text": "a" * (1 << 20)}), 413)


def test_a_body_of_unknown_length_is_refused(client):
    check(client.post("/api/v1/models/toy/sources/1-res-topk/steer", content=iter([b"{}"])), 411)


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_an_unknown_path_is_not_found_by_any_method(client, method):
    check(client.request(method, "/api/v1/models/toy/sources/1-res-topk/steeer", json={}), 404)


@pytest.mark.parametrize("accept", ["*/*", "text/html"])
@pytest.mark.parametrize("path", ["/api", "/api/", "/api/v1", "/api/v1/run", "/api/v2/runs", "/api/v1/models/toy"])
def test_an_unknown_path_under_api_is_never_a_page(make_client, tmp_path, path, accept):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "index.html").write_text("<p>page</p>")
    with make_client(web=tmp_path / "web") as client:
        assert path in check(client.get(path, headers={"accept": accept}), 404)["detail"]


def test_every_error_of_the_library_has_a_status():
    assert {kind for kind in SaelabError.__subclasses__() if kind.__module__.startswith("saelab")} == set(STATUS)


def test_a_subclass_has_the_status_of_its_kind():
    kind = type("NotThere", (next(iter(STATUS)),), {})
    assert problem_of(kind("gone"), "/").status == 404


def test_an_unexpected_error_while_listing_is_a_plain_500(client, monkeypatch):
    monkeypatch.setattr(client.app.state.saelab, "runs", lambda: 1 / 0)
    assert "ZeroDivision" not in check(client.get("/api/v1/runs"), 500)["detail"]


def test_the_application_is_made_without_touching_the_folder(tmp_path):
    assert TestClient(create_app()).app.openapi()["info"]["title"] == "saelab"
