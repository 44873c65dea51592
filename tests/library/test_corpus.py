"""The corpus: windows, splits, and what lies on disk."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saelab.conversations import Message
from saelab.corpus import Corpus, Origin, document_info, read_corpus
from saelab.errors import Conflict, Corrupt, Invalid, NotFound
from saelab.policy import KINDS, MIN_WINDOW, TokenPolicy
from saelab.texts.base import Document, TextSource
from saelab.texts.toy import ToyTexts
from saelab.values import value


@value
class _Texts(TextSource):
    texts: tuple[str, ...]

    def documents(self) -> Iterator[Document]:
        for number, text in enumerate(self.texts):
            yield Document(key=f"d/{number}", domain="even" if number % 2 == 0 else "odd", text=text)


def _encode(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def _read(folder: Path, *texts: str, max_tokens: int | None = None, **policy: object) -> Corpus:
    return read_corpus(_Texts(texts=texts), _encode, TokenPolicy(**policy), folder, max_tokens)


def _text(length: int, first: int = 100) -> str:
    return "".join(chr(first + place % 1000) for place in range(length))


def test_windows_stay_within_documents_and_short_tails_are_dropped(tmp_path: Path):
    corpus = _read(tmp_path, _text(25), _text(5), _text(30), context=10)
    assert corpus.window_document.tolist() == [0, 0, 2, 2, 2]
    assert corpus.window_start.tolist() == [0, 10, 0, 10, 20]
    assert corpus.window_length.tolist() == [10] * 5
    assert corpus.facts["dropped_tail_tokens"] == 10
    assert corpus.facts["domains"] == {"even": 55, "odd": 5}
    assert corpus.window_tokens(1).tolist() == _encode(_text(25))[10:20]
    assert corpus.document_tokens(2).tolist() == _encode(_text(30))


def test_a_tail_of_eight_tokens_is_a_window(tmp_path: Path):
    corpus = _read(tmp_path, _text(10 + MIN_WINDOW), context=10)
    assert corpus.window_length.tolist() == [10, MIN_WINDOW]


def test_the_first_position_and_special_tokens_do_not_count(tmp_path: Path):
    corpus = _read(tmp_path, _text(10), context=10, special_ids=(103, 104))
    assert corpus.counts(0).tolist() == [False, True, True, False, False, True, True, True, True, True]
    assert corpus.window_rows.tolist() == [7]


def test_a_beginning_token_takes_the_first_place_of_every_window(tmp_path: Path):
    corpus = _read(tmp_path, _text(20), context=11, prepend_bos=True, bos_id=7, special_ids=(7,))
    assert [corpus.window_tokens(number).tolist() for number in (0, 1)] == [[7, *_encode(_text(20))[:10]], [7, *_encode(_text(20))[10:]]]
    assert corpus.window_length.tolist() == [11, 11]
    assert corpus.counts(0).tolist() == [False] + [True] * 10
    assert corpus.facts["dropped_tail_tokens"] == 0


@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=12), context=st.integers(9, 20), bos=st.booleans(), skip=st.integers(0, 8))
def test_windows_cover_each_document_once_but_for_its_tail(lengths: list[int], context: int, bos: bool, skip: int):
    policy = TokenPolicy(context=context, prepend_bos=bos, bos_id=1, skip_first=skip)
    offsets = np.cumsum([0, *lengths])
    documents = [document_info(Document(key=str(number), domain="d", text="")) for number in range(len(lengths))]
    tokens = np.arange(100, 100 + offsets[-1], dtype=np.int32)
    body = context - bos
    if not any(length >= MIN_WINDOW for length in lengths):
        with pytest.raises(Invalid, match="corpus is empty"):
            Corpus(policy, documents, tokens, offsets)
        return
    corpus = Corpus(policy, documents, tokens, offsets)
    for number, length in enumerate(lengths):
        own = np.flatnonzero(corpus.window_document == number)
        covered = [token for window in own for token in corpus.window_tokens(window)[bos:]]
        kept = length - length % body if length % body < MIN_WINDOW else length
        assert covered == list(corpus.document_tokens(number)[:kept])
    padded, counted = corpus.windows(np.arange(corpus.num_windows))
    for window in range(corpus.num_windows):
        size = corpus.window_length[window]
        assert padded[window, :size].tolist() == corpus.window_tokens(window).tolist()
        assert not padded[window, size:].any()
        assert counted[window].tolist() == [max(skip, bos) <= place < size for place in range(padded.shape[1])]


def test_max_tokens_is_kept_to_the_token(tmp_path: Path):
    corpus = _read(tmp_path, _text(30), _text(30), _text(30), max_tokens=45, context=10)
    assert corpus.num_tokens == 45
    assert corpus.num_documents == 2


def test_splits_follow_from_the_key_in_the_shares_that_are_promised():
    infos = [document_info(Document(key=f"k/{number}", domain="d", text="")) for number in range(20_000)]
    assert np.mean([info.held_out for info in infos]) == pytest.approx(0.10, abs=0.01)
    for split, share in (("explain", 0.50), ("select", 0.15), ("score", 0.35)):
        assert np.mean([info.split == split for info in infos]) == pytest.approx(share, abs=0.015)
        assert np.mean([info.held_out for info in infos if info.split == split]) == pytest.approx(0.10, abs=0.02)
    assert document_info(Document(key="k/1", domain="other", text="other")).split == infos[1].split


def test_an_opened_corpus_is_the_one_that_was_read(tmp_path: Path):
    read = read_corpus(ToyTexts(num_documents=20), _encode, TokenPolicy(context=32, special_ids=(5,)), tmp_path / "corpus")
    opened = Corpus.open(tmp_path / "corpus")
    assert opened.facts == read.facts
    assert opened.policy == read.policy
    assert [opened.document(number) for number in range(20)] == [read.document(number) for number in range(20)]
    assert opened.window_held_out.tolist() == [opened.document(number).held_out for number in opened.window_document]
    assert sorted(item.name for item in (tmp_path / "corpus").iterdir()) == ["documents.jsonl", "tokens.safetensors"]


def test_the_hash_knows_tokens_documents_and_policy(tmp_path: Path):
    hashes = {
        _read(tmp_path / "a", _text(30), context=10).sha256,
        _read(tmp_path / "b", _text(30, first=101), context=10).sha256,
        _read(tmp_path / "c", _text(30), context=11).sha256,
        _read(tmp_path / "d", _text(15), _text(15, first=115), context=10).sha256,
    }
    assert len(hashes) == 4
    assert _read(tmp_path / "e", _text(30), context=10).sha256 in hashes


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"prepend_bos": True}, "the subject has none"),
        ({"context": 5}, "context of 5 tokens is too short"),
        ({"skip_first": 128}, "skip_first is 128"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_before_anything_is_read(tmp_path: Path, policy: dict[str, object], message: str):
    with pytest.raises(Invalid, match=message):
        _read(tmp_path / "corpus", _text(30), **policy)
    assert not (tmp_path / "corpus").exists()


def test_an_empty_corpus_is_refused_and_leaves_nothing(tmp_path: Path):
    for texts in ((), ("short",)):
        with pytest.raises(Invalid, match="corpus is empty"):
            _read(tmp_path / "corpus", *texts)
    with pytest.raises(Invalid, match="max_tokens is 0"):
        _read(tmp_path / "corpus", _text(30), max_tokens=0)
    assert not (tmp_path / "corpus").exists()


def test_torn_files_are_named(tmp_path: Path):
    _read(tmp_path, _text(30), _text(30), context=10)
    tokens, documents = tmp_path / "tokens.safetensors", tmp_path / "documents.jsonl"
    whole, lines = tokens.read_bytes(), documents.read_bytes()
    for torn in (whole[:-5], whole[:4], b""):
        tokens.write_bytes(torn)
        with pytest.raises(Corrupt, match=r"tokens.safetensors is torn"):
            Corpus.open(tmp_path)
    tokens.write_bytes(whole)
    documents.write_bytes(lines.splitlines(keepends=True)[0])
    with pytest.raises(Corrupt, match=r"documents.jsonl was changed or torn"):
        Corpus.open(tmp_path)
    documents.unlink()
    with pytest.raises(Corrupt, match=r"documents.jsonl is missing"):
        Corpus.open(tmp_path)


def test_another_format_is_refused(tmp_path: Path):
    _read(tmp_path, _text(30), context=10)
    file = tmp_path / "tokens.safetensors"
    file.write_bytes(file.read_bytes().replace(b'\\"format\\": 2', b'\\"format\\": 9'))
    with pytest.raises(Corrupt, match="format 9, where 2 was expected"):
        Corpus.open(tmp_path)


def test_a_folder_without_a_corpus_is_told_with_the_command_that_makes_one(tmp_path: Path):
    with pytest.raises(NotFound, match=f"Run: saelab read {tmp_path}"):
        Corpus.open(tmp_path / "corpus")


def test_a_text_source_that_fails_leaves_nothing_half_written(tmp_path: Path):
    @value
    class _Failing(TextSource):
        def documents(self) -> Iterator[Document]:
            yield Document(key="a", domain="d", text=_text(30))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_corpus(_Failing(), _encode, TokenPolicy(), tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Conflict, match="Cannot write"):
        _read(tmp_path / "file" / "corpus", _text(30), context=10)


def test_documents_with_odd_line_ends_in_their_keys_survive(tmp_path: Path):
    @value
    class _Odd(TextSource):
        def documents(self) -> Iterator[Document]:
            yield Document(key="a\u2028b\nc", domain="é", text=_text(30))

    corpus = read_corpus(_Odd(), _encode, TokenPolicy(context=10), tmp_path)
    assert corpus.document(0).key == "a\u2028b\nc"
    assert json.loads((tmp_path / "documents.jsonl").read_text(encoding="utf-8"))["domain"] == "é"


def _chat(messages: Sequence[Message]) -> tuple[list[int], np.ndarray]:
    """A template of one token, 5, before each message."""
    ids, roles = [], []
    for message in messages:
        ids += [5, *_encode(message["content"])]
        roles += ["template", *[message["role"]] * len(message["content"])]
    return ids, np.array([KINDS.index(role) for role in roles], dtype=np.uint8)


@value
class _Talks(TextSource):
    talks: tuple[tuple[str, ...], ...]

    def documents(self) -> Iterator[Document]:
        for number, talk in enumerate(self.talks):
            roles = ("user", "assistant") * len(talk)
            yield Document(key=f"t/{number}", domain="d", messages=[Message(role=r, content=c) for r, c in zip(roles, talk, strict=False)])


def _read_talks(folder: Path, *talks: tuple[str, ...], **policy: object) -> Corpus:
    return read_corpus(_Talks(talks=talks), _encode, TokenPolicy(one_window=True, **policy), folder, chat=_chat)


def test_a_conversation_is_one_window_cut_only_at_the_context(tmp_path: Path):
    corpus = _read_talks(tmp_path, (_text(5), _text(6)), (_text(20), _text(30)), (_text(3),), context=16)
    assert corpus.window_document.tolist() == [0, 1]
    assert corpus.window_length.tolist() == [13, 16]
    assert corpus.facts["cut_documents"] == 1
    assert corpus.facts["dropped_tail_tokens"] == 52 - 16 + 4
    assert corpus.facts["kinds"] == {"user": 28, "assistant": 36, "template": 5}


def test_the_kinds_that_count_are_those_of_the_policy(tmp_path: Path):
    uncounted = ("bos", "special", "user", "template")
    corpus = _read_talks(tmp_path, (_text(5), _text(6)), context=16, special_ids=(102,), bos_id=104, uncounted=uncounted)
    said = ("user", "user", "special", "user", "special"), ("assistant", "assistant", "special", "assistant", "special", "assistant")
    kinds = ["template", *said[0], "template", *said[1]]
    assert corpus.window_kinds(0) == kinds
    assert corpus.counts(0).tolist() == [kind == "assistant" for kind in kinds]
    assert Corpus.open(tmp_path).window_kinds(0) == kinds
    special = _read_talks(tmp_path / "b", (_text(5), _text(6)), context=16, special_ids=(102,), uncounted=())
    assert special.counts(0).tolist() == [False] + [True] * 12
    assert special.sha256 != corpus.sha256


def test_a_conversation_without_a_template_and_one_that_is_refused_are_told_with_their_key(tmp_path: Path):
    with pytest.raises(Invalid, match="Conversations need a subject with a chat template"):
        read_corpus(_Talks(talks=(("a",),)), _encode, TokenPolicy(), tmp_path)

    def refuse(_: Sequence[Message]) -> tuple[list[int], np.ndarray]:
        raise Invalid("The template refuses it.")

    with pytest.raises(Invalid, match="t/0: The template refuses it"):
        read_corpus(_Talks(talks=(("a",),)), _encode, TokenPolicy(), tmp_path, chat=refuse)


@pytest.mark.parametrize("bos", [False, True])
def test_every_position_is_traced_to_its_document(tmp_path: Path, bos: bool):
    corpus = _read(tmp_path, _text(25), _text(30, first=500), context=10 + bos, prepend_bos=bos, bos_id=7, special_ids=(512,))
    origin = corpus.origin(2, 2 + bos)
    assert origin == Origin(document="d/1", domain="odd", position=2, token=502, kind="text", held_out=origin.held_out)
    assert str(origin) == "document 'd/1' (odd), token 2, id 502 (text)"
    held_out = origin.held_out
    assert corpus.origin(3, 2 + bos) == Origin(document="d/1", domain="odd", position=12, token=512, kind="special", held_out=held_out)
    if bos:
        assert corpus.origin(3, 0) == Origin(document="d/1", domain="odd", position=None, token=7, kind="bos", held_out=held_out)


@value
class _Ids(TextSource):
    rows: tuple[tuple[int, ...], ...]

    def documents(self) -> Iterator[Document]:
        for number, row in enumerate(self.rows):
            yield Document(key=f"i/{number}", domain="d", ids=np.array(row))


def test_token_ids_are_taken_as_they_are(tmp_path: Path):
    corpus = read_corpus(_Ids(rows=(tuple(range(10)), tuple(range(20, 30)))), _encode, TokenPolicy(special_ids=(3,)), tmp_path, num_ids=30)
    assert corpus.window_tokens(1).tolist() == list(range(20, 30))
    assert corpus.window_kinds(0).count("special") == 1
    with pytest.raises(Invalid, match=r"i/1: token 9 has the id 29, where the subject knows 0 to 28"):
        read_corpus(_Ids(rows=(tuple(range(10)), tuple(range(20, 30)))), _encode, TokenPolicy(), tmp_path, num_ids=29)


def test_windows_that_bring_a_beginning_token_take_the_one_of_the_ids_away(tmp_path: Path):
    policy = TokenPolicy(prepend_bos=True, bos_id=1)
    corpus = read_corpus(_Ids(rows=((1, *range(20, 30)),)), _encode, policy, tmp_path)
    assert corpus.window_tokens(0).tolist() == [1, *range(20, 30)]
