"""Reports and documents: what analyses answered, and where a feature fires."""

import pytest
from service_doubles import BASE, MODEL, SOURCE, write_report
from test_routes import ok, refused

from saelab.run import Run
from saelab_server.parts import open_documents


@pytest.fixture
def run(runs):
    return Run(runs / "demo")


def test_before_the_first_analysis_there_is_no_report(client):
    assert ok(client.get(f"{BASE}/reports")) == []
    refused(client.get(f"{BASE}/reports/concepts"), 404, "saelab analyse")


def test_reports_are_listed_by_name_with_their_headline_numbers(client, run):
    write_report(run, "structure")
    write_report(run, "concepts")
    concepts, structure = ok(client.get(f"{BASE}/reports"))
    assert (concepts["analysis"], structure["analysis"]) == ("concepts", "structure")
    (measure,) = concepts["measures"]
    assert measure["estimate"] == {"value": 0.8, "low": 0.7, "high": 0.9, "n": 9}
    assert measure["null"]["value"] == 0.5
    assert "tables" not in concepts


def test_a_report_of_an_earlier_training_is_not_current(client, run):
    write_report(run, "concepts", trained="2020-01-01T00:00:00Z")
    write_report(run, "structure")
    assert [report["current"] for report in ok(client.get(f"{BASE}/reports"))] == [False, True]


def test_a_report_is_given_whole(client, run):
    write_report(run)
    report = ok(client.get(f"{BASE}/reports/concepts"))
    assert report["tables"][0]["rows"] == [["sea", {"value": 0.9, "low": None, "high": None, "n": 3}], ["none", None]]
    refused(client.get(f"{BASE}/reports/concept"), 404, "concepts")


def test_a_chart_of_a_report_is_plotly_json(client, run):
    write_report(run)
    (bars,) = ok(client.get(f"{BASE}/reports/concepts/charts/0"))["data"]
    assert (bars["type"], bars["x"], bars["y"]) == ("bar", ["sea"], [0.9])
    refused(client.get(f"{BASE}/reports/concepts/charts/1"), 404, "1 charts")
    refused(client.get(f"{BASE}/reports/concepts/charts/-1"), 404, "-1")
    refused(client.get(f"{BASE}/reports/concepts/charts/first"), 422, "path.number")


def test_a_torn_report_is_named(client, run):
    write_report(run)
    (run.source(SOURCE).path / "reports" / "concepts.json").write_text("{")
    refused(client.get(f"{BASE}/reports"), 500, "concepts.json")


@pytest.mark.parametrize("rest", ["/reports", "/reports/concepts", "/reports/concepts/charts/0", "/map", "/features/1/documents"])
def test_an_unknown_dictionary_has_none_of_these(client, rest):
    refused(client.get(f"/api/v1/models/{MODEL}/sources/1-res-topp{rest}"), 404, SOURCE)


def test_documents_that_fire_a_feature_come_page_by_page(client):
    first = ok(client.get(f"{BASE}/features/3/documents?limit=2"))
    assert [item["key"] for item in first["items"]] == ["tales/0", "tales/1"]
    assert (first["total"], first["kept"], first["next_cursor"]) == (3, 5, "2")
    assert first["items"][0]["example"]["values"] == [0.0, 3.0]
    last = ok(client.get(f"{BASE}/features/3/documents?limit=2&cursor={first['next_cursor']}"))
    assert ([item["key"] for item in last["items"]], last["next_cursor"]) == (["tales/2"], None)


def test_documents_are_asked_for_rightly_or_refused(client):
    refused(client.get(f"{BASE}/features/8/documents"), 404, "0 to 7")
    refused(client.get(f"{BASE}/features/3/documents?limit=0"), 422, "query.limit")


def test_without_postings_the_command_that_makes_them_is_named(client, toy_run, monkeypatch):
    (source,) = toy_run.sources()
    monkeypatch.setattr(client.app.state.saelab, "documents", lambda _: open_documents(toy_run, source))
    refused(client.get(f"{BASE}/features/3/documents"), 404, "saelab collect RUN --postings")
