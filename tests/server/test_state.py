"""What a running service holds open, and for whom."""

import threading

import pytest
from service_doubles import MODEL, SOURCE, write_run

from saelab.run import Run
from saelab_server.errors import Busy
from saelab_server.settings import Settings
from saelab_server.state import State


@pytest.fixture
def opened():
    return []


@pytest.fixture
def state(runs, opened):
    def open_work(run, source):
        opened.append((run.name, source))
        return object()

    return State(Settings(runs=runs, max_labs=2, wait_seconds=0.05), open_features=lambda run, source: None, open_work=open_work)


def test_a_dictionary_is_opened_once(state, opened):
    source = state.source(MODEL, SOURCE)
    assert state.work(source) is state.work(source)
    assert opened == [("demo", SOURCE)]


def test_listing_opens_nothing(state, opened):
    assert [run.name for run in state.runs()] == ["demo"]
    assert opened == []


def test_the_least_recently_used_dictionary_is_closed_first(state, opened, runs):
    for name in ("a", "b", "c"):
        write_run(runs, name, source=name)
    a, b, c = (state.source(MODEL, name) for name in "abc")
    state.work(a), state.work(b), state.work(a), state.work(c), state.work(a)
    assert opened == [("a", "a"), ("b", "b"), ("c", "c")]
    state.work(b)
    assert opened[-1] == ("b", "b")


def test_a_dictionary_that_was_made_anew_is_opened_anew(state, opened, runs):
    source = state.source(MODEL, SOURCE)
    state.work(source)
    manifest = Run(runs / "demo").source(SOURCE).path / "train.json"
    manifest.write_text(manifest.read_text().replace('"finished": "2', '"finished": "3'))
    state.work(source)
    assert len(opened) == 2


def test_turns_are_a_model_s_own(state):
    with state.turn("one"), state.turn("two"), pytest.raises(Busy, match="one"), state.turn("one"):
        pass
    with state.turn("one"):
        pass


def test_a_turn_is_given_back_after_a_failure(state):
    with pytest.raises(ValueError), state.turn("one"):
        raise ValueError
    with state.turn("one"):
        pass


def test_threads_take_turns(state):
    inside, worst = [], []

    def work():
        with state.turn("one"):
            inside.append(1)
            worst.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == [1] * 8


def test_hidden_folders_and_files_are_no_runs(state, runs):
    (runs / ".cache").mkdir()
    (runs / "notes.txt").touch()
    assert [run.name for run in state.runs()] == ["demo"]
