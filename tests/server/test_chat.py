"""The subject behind chat completions."""

from service_doubles import MODEL

ASK = {"model": MODEL, "messages": [{"role": "user", "content": "say one two three"}], "max_tokens": 3}


def test_the_models_of_the_runs_are_listed(client):
    assert [item["id"] for item in client.get("/v1/models").json()["data"]] == [MODEL]


def test_a_conversation_is_answered_whole(client):
    found = client.post("/v1/chat/completions", json=ASK).json()
    assert found["choices"][0]["message"] == {"role": "assistant", "content": "say one two"}
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
    longer = client.post("/v1/chat/completions", json={**ASK, "max_tokens": 9}).json()
    assert longer["choices"][0]["finish_reason"] == "stop"


def test_what_cannot_be_answered_says_why(client):
    for change, status, said in (
        ({"model": "toi"}, 404, "Did you mean toy?"),
        ({"messages": []}, 422, "no message"),
        ({"max_tokens": 0}, 422, "max_tokens"),
        ({"temperature": 9}, 422, "temperature"),
        ({"seed": -1}, 422, "seed"),
        ({"stream": True}, 422, "stream"),
    ):
        answer = client.post("/v1/chat/completions", json={**ASK, **change})
        assert answer.status_code == status
        assert said in answer.json()["detail"]
