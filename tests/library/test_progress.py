"""Progress: what is said of work of known and of unknown length."""

import io

import pytest
from rich.console import Console

from saelab import progress


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is shown where there is no terminal, a line at every step."""
    written = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=written, width=200))
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", 0.0)
    return written


def test_known_work_has_rate_and_time_left(console: io.StringIO):
    with progress.shown():
        assert list(progress.track([10, 20], stage="read", total=40, unit="tokens", size=lambda item: item)) == [10, 20]
    first, second, last = console.getvalue().splitlines()
    assert first.startswith("read: 10/40 tokens, ")
    assert first.endswith(" s left")
    assert second.startswith("read: 30/40 tokens, ")
    assert last.startswith("read: 30 tokens done in "), "a stream may end before so many"


def test_a_stream_of_unknown_length_has_a_rate_and_says_nothing_of_the_end(console: io.StringIO):
    with progress.shown():
        list(progress.track(iter("ab"), stage="read", total=None, unit="documents"))
    lines = console.getvalue().splitlines()
    assert lines[1].startswith("read: 2 documents, ")
    assert not any("left" in line for line in lines)
    assert lines[-1].startswith("read: 2 documents done in ")


def test_a_bar_of_a_stream_that_ended_early_is_full(monkeypatch: pytest.MonkeyPatch):
    written = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=written, width=200, force_terminal=True))
    with progress.shown():
        list(progress.track(range(3), stage="read", total=9, unit="documents"))
    assert "3/3" in written.getvalue()


def test_a_note_is_shown_only_where_progress_is(console: io.StringIO):
    progress.note("unseen")
    with progress.shown():
        progress.note("seen [bold]")
    assert console.getvalue() == "seen [bold]\n"
