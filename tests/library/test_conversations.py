"""Conversations: who says which token."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment

from saelab.conversations import Message, role_spans, tokens_with_roles
from saelab.errors import Invalid
from saelab.policy import KINDS
from saelab.toy import toy_tokenizer

TEMPLATES = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
    "stripping": "<s>{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}</{{ m.role }}>{% endfor %}",
    "default system": "{% if messages[0].role != 'system' %}sys: You are user, an assistant.\n{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    "rewriting": "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] }}<end>{% endfor %}",
}
LEAVING_OUT = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"


def _renderer(template: str) -> Callable[[Sequence[Message]], str]:
    compiled = Environment().from_string(template, globals={})
    return lambda messages: compiled.render(messages=messages)


def _talk(*turns: tuple[str, str]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in turns]


@pytest.mark.parametrize("template", TEMPLATES)
def test_spans_are_what_is_said(template: str):
    talk = _talk(("user", "user"), ("assistant", "an assistant. <end>"), ("user", ""), ("user", "  spaced "), ("tool", "42"))
    text, spans = role_spans(_renderer(TEMPLATES[template]), talk)
    assert text == _renderer(TEMPLATES[template])(talk)
    said = [(text[begin:end].strip(), kind) for begin, end, kind in spans]
    assert said == [("user", "user"), ("an assistant. <end>", "assistant"), ("spaced", "user"), ("42", "tool")]
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


_letters = st.text(st.sampled_from("ab \n<>|user"), max_size=12)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), _letters), min_size=1, max_size=5),
    st.sampled_from(list(TEMPLATES)[:3]),
)
def test_spans_hold_whatever_is_said(turns: list[tuple[str, str]], template: str):
    text, spans = role_spans(_renderer(TEMPLATES[template]), _talk(*turns))
    said = [content for _, content in turns if content.strip()]
    assert [text[begin:end].strip() for begin, end, _ in spans] == [content.strip() for content in said]


def test_what_the_template_rewrites_is_still_told_apart():
    text, spans = role_spans(_renderer(TEMPLATES["rewriting"]), _talk(("assistant", "<think>hm</think>yes"), ("user", "and")))
    assert [text[begin:end] for begin, end, _ in spans] == ["yes", "and"]


def test_a_template_that_leaves_messages_out_and_an_unknown_role_are_refused():
    with pytest.raises(Invalid, match="leaves out or repeats messages"):
        role_spans(_renderer(LEAVING_OUT), _talk(("user", "one"), ("assistant", "two")))
    with pytest.raises(Invalid, match=r"role 'narrator' is not known. Known: system, developer"):
        role_spans(_renderer(TEMPLATES["chatml"]), _talk(("narrator", "one")))


def test_every_token_has_the_role_of_its_middle():
    tokenizer = toy_tokenizer()
    talk = _talk(("user", "tell me about the ship."), ("assistant", "the captain steered the ship."))
    text, spans = role_spans(lambda said: tokenizer.apply_chat_template(list(said), tokenize=False), talk)
    ids, roles = tokens_with_roles(tokenizer, text, spans)
    assert tokenizer.decode(ids) == text
    assert [KINDS[role] for role in roles] == ["template"] * 2 + ["user"] * 6 + ["template"] + ["assistant"] * 6 + ["template"]


def test_the_roles_agree_with_a_template_that_marks_what_the_assistant_says():
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ '<' + m.role + '> ' }}"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    talk = _talk(("user", "tell me about the moon."), ("assistant", "a comet is in the sky."), ("user", "was the moon round?"))
    marked = tokenizer.apply_chat_template(list(talk), return_dict=True, return_assistant_tokens_mask=True)
    text, spans = role_spans(lambda said: tokenizer.apply_chat_template(list(said), tokenize=False), talk)
    ids, roles = tokens_with_roles(tokenizer, text, spans)
    assert ids == marked["input_ids"]
    assert [int(KINDS[role] == "assistant") for role in roles] == marked["assistant_masks"]


def test_a_tokenizer_without_offsets_is_refused():
    slow = type("Slow", (), {"is_fast": False})()
    with pytest.raises(Invalid, match="Slow does not say which characters"):
        tokens_with_roles(slow, "text", [])
