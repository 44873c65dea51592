"""Labels by a language model without a network: the subject of a run, behind `saelab serve`, explains the run's own features."""

import json
import socket
import threading
import time

import pytest
import uvicorn
from folders import SOURCE, make_small

from saelab.features.store import FeatureStore
from saelab.features.table_page import Filters
from saelab_server.app import create_app
from saelab_server.settings import Settings


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_small(folder / "small")
    return folder


@pytest.fixture(scope="module")
def url(runs):
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(Settings(runs=runs)), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join(10)
    listener.close()


def test_the_subject_explains_its_own_features_over_the_service(saelab, runs, url):
    run = runs / "small"
    store = FeatureStore(run / "dictionaries" / SOURCE / "features.db")
    alive = [row.index for row in store.page(Filters(labelled=True)).items][:3]
    terse = ("examples", 1), ("silent", 0), ("radius", 4), ("promoted", 0), ("max-tokens", 8), ("instructions", "tell me"), ("url", url)
    flags = [word for name, number in terse for word in (f"--labeller.{name}", number)]
    label = ["label", run, "--features", *alive, "labeller:explain", *flags]
    told = saelab(*label[:2], "--preview", *label[2:])
    assert told.code == 0, told.err
    assert "3 questions to" in told.err
    assert store.labellers() == ["rules"]
    done = saelab(*label)
    assert done.code == 0, done.err
    assert "answers, 0 more from the file" in done.err
    labels = store.labels("explain")
    assert sorted(labels) == sorted(alive)
    assert all(item.found and item.model == "toy" and len(item.prompt) == 16 for item in labels.values())
    assert json.loads(labels[alive[0]].made_by)["url"] == url
    scored = saelab("score", run, "--by", "explain", "--features", *alive, "scorer:embedding_label")
    assert scored.code == 0, scored.err
    scores = store.label(alive[0], "explain").scores
    assert {score.scorer for score in scores} == {"embedding_label"}
    assert saelab("score", run, "--by", "nobody").err.count("Unknown labeller")
    store.close()


def test_controls_stand_beside_the_dictionary(saelab, runs):
    shown = saelab("controls", runs / "small")
    assert shown.code == 0, shown.err
    assert [line.split()[0] for line in shown.out.splitlines()[1:]] == ["trained", "random", "neurons"]
    facts = json.loads((runs / "small" / "dictionaries" / SOURCE / "controls.json").read_text())["facts"]
    assert all(0 <= item["proven"]["value"] <= item["labelled"]["value"] + 1e-9 <= 1 + 1e-9 for item in facts.values())
