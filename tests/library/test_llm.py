"""A language model behind an endpoint."""

import sqlite3
from dataclasses import replace

import pytest
from endpoint import serving

from saelab.errors import Conflict, Corrupt, Invalid, NotFound, Unscored
from saelab.llm import Chat, Endpoint, Ledger, price, spread

QUESTION = [{"role": "user", "content": "Who is there?"}]


def chat(url, tmp_path, **settings) -> Chat:
    return Chat(Endpoint(**{"url": url, "retries": 0, **settings}), tmp_path / "answers.db")


def test_an_answer_is_asked_for_once_and_kept(tmp_path):
    with serving(lambda messages: messages[-1]["content"].upper()) as endpoint:
        first = chat(endpoint.url, tmp_path, price_in=2.0, price_out=4.0)
        assert first.ask(QUESTION) == first.ask(QUESTION) == "WHO IS THERE?"
        assert first.model == "oracle"
        assert first.ledger == Ledger(requests=1, kept=1, tokens_in=10, tokens_out=2, dollars=pytest.approx(28e-6))
        assert len(endpoint.requests) == 1
        assert endpoint.requests[0]["messages"] == QUESTION
        other = chat(endpoint.url, tmp_path, temperature=1.0)
        other.ask(QUESTION)
        assert other.ledger.requests == 1, "another request is another question"
    again = chat(endpoint.url, tmp_path, model="oracle")
    assert again.ask(QUESTION) == "WHO IS THERE?", "nothing listens any more"


def test_a_passing_failure_is_tried_again(tmp_path):
    fails = [(503, "busy"), (429, "slowly")]
    with serving(lambda messages: fails.pop() if fails else "at last") as endpoint:
        assert chat(endpoint.url, tmp_path, retries=3).ask(QUESTION) == "at last"
        assert len(endpoint.requests) == 3


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (401, Invalid, "refuses the key in the environment variable OPENAI_API_KEY: .*who are you"),
        (404, NotFound, "has no model 'm'"),
        (400, Unscored, "refuses the question: .*who are you"),
        (500, Conflict, "failed 1 times: .*run the command again"),
        (429, Conflict, "ask less at once"),
    ],
)
def test_what_goes_wrong_is_said_in_terms_of_the_user(tmp_path, status, error, said):
    with serving(lambda messages: (status, "who are you")) as endpoint, pytest.raises(error, match=said):
        chat(endpoint.url, tmp_path, model="m").ask(QUESTION)


def test_an_endpoint_that_is_not_there_or_too_slow(tmp_path):
    with pytest.raises(NotFound, match="Nothing answers at http://127.0.0.1:9/v1"):
        chat("http://127.0.0.1:9/v1", tmp_path).ask(QUESTION)
    (tmp_path / "other.db").write_text("something else" * 100)
    with pytest.raises(Corrupt, match="does not hold answers"):
        Chat(Endpoint(), tmp_path / "other.db")


def test_the_key_comes_from_the_environment_and_is_kept_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-1")
    with serving(lambda messages: "yes") as endpoint:
        asked = chat(endpoint.url, tmp_path, key_variable="MY_KEY")
        asked.ask(QUESTION)
        assert endpoint.requests[0]["authorization"] == "Bearer secret-1"
    with sqlite3.connect(tmp_path / "answers.db") as kept:
        assert "secret-1" not in str(kept.execute("SELECT * FROM answers").fetchall())


def test_several_questions_are_asked_at_once(tmp_path):
    import time

    def slow(messages):
        time.sleep(0.05)
        return "yes"

    with serving(slow) as endpoint:
        asked = chat(endpoint.url, tmp_path)
        found = dict(spread(lambda i: asked.ask([{"role": "user", "content": str(i)}]), range(12), 4))
        assert found == dict.fromkeys(range(12), "yes")
        assert 1 < endpoint.most <= 4


def test_after_an_error_nothing_new_is_begun():
    begun = []

    def work(item):
        begun.append(item)
        if item == 2:
            raise Conflict("stop")
        return item

    with pytest.raises(Conflict):
        list(spread(work, range(100), 2))
    assert len(begun) < 10


def test_a_price_is_told_without_asking(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    part = Endpoint(url="http://127.0.0.1:9/v1", model="m", price_in=1.0, max_tokens=100)
    told = price(part, lambda item: part.chat.ask(QUESTION), range(1000))
    assert told.startswith("1,000 questions to http://127.0.0.1:9/v1: about 3,714 tokens to read, at most 100,000 to write")
    assert "dollars" in told
    assert price(object(), lambda item: None, range(3)) == ""
    free = replace(part, price_in=0.0)
    assert "no price is given" in price(free, lambda item: free.chat.ask(QUESTION), [1])
