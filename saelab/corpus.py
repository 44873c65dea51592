"""The corpus: token windows that know their document, their place in it, and which split the document belongs to.

Windows never cross documents. Splits are made by document, from a hash of its key, so that adding text never moves a document:

- `held_out`: 10 % of the documents, never trained on; the quality of a dictionary is measured there.
- `split`: explain 50 %, select 15 %, score 35 %, from a second hash; labels are made from one and scored on another.

On disk: `documents.jsonl` (a `DocumentInfo` a line) and, written last, `tokens.safetensors` (`tokens` int32, `kinds` uint8 and `offsets`
int64: document i is `tokens[offsets[i]:offsets[i + 1]]`), whose metadata hold the policy and the hash of the other file.
"""

import json
from collections.abc import Callable
from functools import cached_property
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np
from einops import repeat
from jaxtyping import Bool, Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from saelab.encoder import Chat, Encoder
from saelab.errors import Corrupt, Invalid, NotFound
from saelab.policy import KINDS, MIN_WINDOW, TokenKind, TokenPolicy
from saelab.progress import track
from saelab.run import write_atomically
from saelab.texts.base import Document, TextSource
from saelab.values import from_json, to_dict, value

Split = Literal["explain", "select", "score"]

FORMAT = 2
_HELD_OUT = 0.10
_EXPLAIN, _SELECT = 0.50, 0.15


@value
class DocumentInfo:
    """One document of the corpus."""

    key: str
    """Unique name, such as `speeches/1861-Lincoln-1/7`."""
    domain: str
    """Kind of text, such as `speeches`."""
    split: Split
    """Which split it belongs to for labels and their scores."""
    held_out: bool
    """Whether it is kept from training."""


@value
class Origin:
    """Where one position of a window comes from."""

    document: str
    """Key of the document."""
    domain: str
    """Kind of text."""
    position: int | None
    """Place in the document's tokens; none for a beginning-of-sequence token that the window was given."""
    token: int
    """Id of the token."""
    kind: TokenKind
    """What the token is."""
    held_out: bool
    """Whether the document is kept from training."""

    def __str__(self) -> str:
        """The place in words, for messages."""
        where = "before the text" if self.position is None else f"token {self.position:,}"
        return f"document {self.document!r} ({self.domain}), {where}, id {self.token} ({self.kind})"


def document_info(document: Document) -> DocumentInfo:
    """A document's facts; its splits follow from its key alone."""
    place = _fraction(document.key, b"split")
    split: Split = "explain" if place < _EXPLAIN else "select" if place < _EXPLAIN + _SELECT else "score"
    return DocumentInfo(key=document.key, domain=document.domain, split=split, held_out=_fraction(document.key, b"held-out") < _HELD_OUT)


def _fraction(key: str, purpose: bytes) -> float:
    """A number in [0, 1) that follows from a key."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8, person=purpose).digest()) / 2**64


class Corpus:
    """Token windows on disk, memory-mapped. Made by `read_corpus`, opened by `Corpus.open`.

    Arguments:
    - `policy`: how windows are made.
    - `documents`: facts of each document.
    - `tokens`: tokens of all documents, one after another.
    - `kinds`: the number of each token's kind; without it, what the ids say.
    - `offsets`: where each document begins in `tokens`, and the end of the last.

    Raises `Invalid` where the policy asks for windows that cannot be, or where no document is long enough for one.
    """

    policy: TokenPolicy
    """How the windows were made."""
    num_tokens: int
    """Tokens in all documents."""
    num_documents: int
    """Documents."""
    num_windows: int
    """Windows."""
    window_document: Int[np.ndarray, " window"]
    """Number of each window's document."""
    window_start: Int[np.ndarray, " window"]
    """Position in the document of each window's first text token."""
    window_length: Int[np.ndarray, " window"]
    """Tokens in each window, the beginning-of-sequence token included."""
    window_held_out: Bool[np.ndarray, " window"]
    """Whether each window's document is kept from training."""

    def __init__(
        self,
        policy: TokenPolicy,
        documents: list[DocumentInfo],
        tokens: Int[np.ndarray, " token"],
        offsets: Int[np.ndarray, " edge"],
        kinds: UInt8[np.ndarray, " token"] | None = None,
    ) -> None:
        policy.check()
        self.policy = policy
        self._documents, self._tokens, self._offsets = documents, tokens, offsets
        self._kinds = policy.kinds(tokens) if kinds is None else kinds
        self.num_tokens, self.num_documents = len(tokens), len(documents)
        body = policy.context - policy.prepend_bos
        lengths = np.diff(offsets)
        counts = (lengths >= MIN_WINDOW).astype(int) if policy.one_window else lengths // body + (lengths % body >= MIN_WINDOW)
        self.num_windows = int(counts.sum())
        if not self.num_windows:
            raise Invalid(f"The corpus is empty: no document has {MIN_WINDOW} tokens or more. Give a text source with longer documents.")
        self.window_document = np.repeat(np.arange(self.num_documents), counts)
        self.window_start = (np.arange(self.num_windows) - np.repeat(np.cumsum(counts) - counts, counts)) * body
        self.window_length = np.minimum(body, lengths[self.window_document] - self.window_start) + policy.prepend_bos
        self.window_held_out = np.array([document.held_out for document in documents])[self.window_document]

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        """The corpus of a run. Raises `NotFound` where there is none, `Corrupt` naming the file that is wrong."""
        file = folder / "tokens.safetensors"
        if not file.is_file():
            raise NotFound(f"There is no corpus in {folder}. Run: saelab read {folder.parent}")
        try:
            with safe_open(file, framework="pt") as opened:  # memory-mapped, where the numpy framework copies
                metadata = json.loads((opened.metadata() or {}).get("corpus", "{}"))
                arrays = {name: opened.get_tensor(name).numpy() for name in opened.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, json.JSONDecodeError) as error:
            raise Corrupt(f"{file} is torn or no corpus: {error}. Delete {folder} and read the text again.") from None
        if metadata.get("format") != FORMAT:
            raise Corrupt(
                f"{file} has format {metadata.get('format')}, where {FORMAT} was expected. Delete {folder} and read the text again."
            )
        documents = _read_documents(folder / "documents.jsonl", metadata["documents"])
        tokens, kinds, offsets = (arrays[name] for name in ("tokens", "kinds", "offsets"))
        if len(offsets) != len(documents) + 1 or int(offsets[-1]) != len(tokens) or len(kinds) != len(tokens):
            raise Corrupt(
                f"{file} does not hold the {len(documents)} documents of documents.jsonl. Delete {folder} and read the text again."
            )
        return cls(from_json(TokenPolicy, json.dumps(metadata["policy"]), where=str(file)), documents, tokens, offsets, kinds)

    def save(self, folder: Path) -> None:
        """Writes the corpus. Raises `Conflict` where the folder cannot be written."""
        lines = "".join(json.dumps(to_dict(document), ensure_ascii=False) + "\n" for document in self._documents).encode()
        metadata = {"format": FORMAT, "policy": to_dict(self.policy), "documents": sha256(lines).hexdigest()}
        content = save({"tokens": self._tokens, "kinds": self._kinds, "offsets": self._offsets}, metadata={"corpus": json.dumps(metadata)})
        write_atomically(folder / "documents.jsonl", lines)
        write_atomically(folder / "tokens.safetensors", content)

    def document(self, number: SupportsIndex) -> DocumentInfo:
        """One document's facts."""
        return self._documents[number]

    def document_tokens(self, number: SupportsIndex) -> Int[np.ndarray, " pos"]:
        """All tokens of a document."""
        begin, end = self._offsets[[int(number), int(number) + 1]]
        return self._tokens[begin:end]

    def window_tokens(self, number: SupportsIndex) -> Int[np.ndarray, " pos"]:
        """The tokens of a window, the beginning-of-sequence token included."""
        return self.windows(np.array([int(number)]))[0][0]

    def counts(self, number: SupportsIndex) -> Bool[np.ndarray, " pos"]:
        """Which positions of a window count: not the first ones, not the kinds of tokens that the policy leaves out."""
        return self.windows(np.array([int(number)]))[1][0]

    def window_kinds(self, number: SupportsIndex) -> list[TokenKind]:
        """The kind of each token of a window, the beginning-of-sequence token included."""
        inside, source = self._places(np.array([int(number)]))
        return [KINDS[kind] for kind in self._kinds_at(source)[0][inside[0]]]

    def origin(self, window: SupportsIndex, position: SupportsIndex) -> Origin:
        """The document, place and kind of one position of a window, such as an activation row's."""
        number, place = int(window), int(position) - self.policy.prepend_bos
        info = self._documents[self.window_document[number]]
        return Origin(
            document=info.key,
            domain=info.domain,
            position=int(self.window_start[number]) + place if place >= 0 else None,
            token=int(self.window_tokens(number)[int(position)]),
            kind=self.window_kinds(number)[int(position)],
            held_out=info.held_out,
        )

    def windows(self, numbers: Int[np.ndarray, " window"]) -> tuple[Int[np.ndarray, "window pos"], Bool[np.ndarray, "window pos"]]:
        """The tokens of some windows, padded on the right with 0 to the longest, and which of the positions count."""
        inside, source = self._places(numbers)
        tokens = self._tokens[source].astype(np.int64)
        if self.policy.bos_id is not None and self.policy.prepend_bos:
            tokens[:, 0] = self.policy.bos_id
        return np.where(inside, tokens, 0), inside & self.policy.counts(self._kinds_at(source))

    def _places(self, numbers: Int[np.ndarray, " window"]) -> tuple[Bool[np.ndarray, "window pos"], Int[np.ndarray, "window pos"]]:
        """Which positions are inside of each window, and where in `tokens` each lies (0 outside)."""
        length = self.window_length[numbers]
        position = repeat(np.arange(length.max()), "pos -> window pos", window=len(numbers))
        begin = self._offsets[self.window_document[numbers]] + self.window_start[numbers] - self.policy.prepend_bos
        inside = position < length[:, None]
        return inside, np.where(inside, np.maximum(begin[:, None] + position, 0), 0)

    def _kinds_at(self, source: Int[np.ndarray, "window pos"]) -> UInt8[np.ndarray, "window pos"]:
        kinds = self._kinds[source]
        if self.policy.prepend_bos:
            kinds[:, 0] = KINDS.index("bos")
        return kinds

    @cached_property
    def window_rows(self) -> Int[np.ndarray, " window"]:
        """Positions that count in each window."""
        parts = np.array_split(np.arange(self.num_windows), -(-self.num_windows // 4096))
        return np.concatenate([self.windows(part)[1].sum(axis=1) for part in parts])

    @cached_property
    def sha256(self) -> str:
        """Hash of what the corpus says: its policy, documents, tokens and their kinds."""
        parts = [json.dumps(to_dict(self.policy)), *(f"{document.key}\n{document.domain}" for document in self._documents)]
        digest = sha256("\n".join(parts).encode())
        digest.update(np.ascontiguousarray(self._offsets, dtype="<i8").data)
        digest.update(np.ascontiguousarray(self._tokens, dtype="<i4").data)
        digest.update(np.ascontiguousarray(self._kinds).data)
        return digest.hexdigest()

    @property
    def facts(self) -> dict[str, Any]:
        """Counts for the stage's manifest; `domains` and `kinds` count tokens.

        Tokens of no window are those of `dropped_tail_tokens`: of tails and documents of fewer than 8 tokens, and of documents longer than
        the one window that they get (`cut_documents`).
        """
        lengths = np.diff(self._offsets)
        domains: dict[str, int] = {}
        for document, length in zip(self._documents, lengths, strict=True):
            domains[document.domain] = domains.get(document.domain, 0) + int(length)
        kinds = np.bincount(self._kinds, minlength=len(KINDS)).tolist()
        return {
            "num_tokens": self.num_tokens,
            "num_documents": self.num_documents,
            "num_windows": self.num_windows,
            "dropped_tail_tokens": self.num_tokens - int(self.window_length.sum()) + self.num_windows * self.policy.prepend_bos,
            "cut_documents": int((lengths > self.policy.context - self.policy.prepend_bos).sum()) if self.policy.one_window else 0,
            "domains": dict(sorted(domains.items())),
            "kinds": {kind: count for kind, count in zip(KINDS, kinds, strict=True) if count},
            "sha256": self.sha256,
        }


def read_corpus(
    source: TextSource,
    encode: Callable[[str], list[int]],
    policy: TokenPolicy,
    folder: Path,
    max_tokens: int | None = None,
    *,
    chat: Chat | None = None,
    num_ids: int | None = None,
) -> Corpus:
    """Reads a text source into a folder, where a corpus lies only once it is whole: reading that was cut short begins anew.

    Arguments:
    - `encode`: the subject's tokenizer, without special tokens of its own.
    - `max_tokens`: tokens to stop after; the last document is cut there. All without it.
    - `chat`: the subject's way of writing conversations, for sources of them.
    - `num_ids`: size of the subject's vocabulary, which the ids of pre-tokenised documents must stay below.

    Raises `Invalid` for an empty corpus, a policy that cannot be or an id that the subject does not know, `Conflict` where the folder
    cannot be written, and what the source raises.
    """
    policy.check()
    if max_tokens is not None and max_tokens < MIN_WINDOW:
        raise Invalid(f"max_tokens is {max_tokens}, which no window fits in. Give {MIN_WINDOW} or more, or none for the whole text.")
    infos: list[DocumentInfo] = []
    tokens: list[np.ndarray] = []
    kinds: list[np.ndarray] = []
    encoded = Encoder(encode, chat, policy, num_ids).all(source.documents(), max_tokens)
    for document, ids, roles in track(encoded, stage="read", total=max_tokens, unit="tokens", size=lambda item: len(item[1])):
        infos.append(document_info(document))
        tokens.append(ids)
        kinds.append(policy.document_kinds(ids, roles))
    offsets = np.cumsum([0, *(len(ids) for ids in tokens)])
    Corpus(policy, infos, np.concatenate([np.zeros(0, np.int32), *tokens]), offsets, np.concatenate([np.zeros(0, np.uint8), *kinds])).save(
        folder
    )
    return Corpus.open(folder)


def _read_documents(file: Path, digest: str) -> list[DocumentInfo]:
    if not file.is_file():
        raise Corrupt(f"{file} is missing. Delete {file.parent} and read the text again.")
    content = file.read_bytes()
    if sha256(content).hexdigest() != digest:
        raise Corrupt(f"{file} was changed or torn since it was written. Delete {file.parent} and read the text again.")
    return [from_json(DocumentInfo, line, where=f"{file}, line {number}") for number, line in enumerate(content.splitlines(), start=1)]
