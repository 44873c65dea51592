"""Steering: what the subject writes, and what it writes when features are changed, side by side.

Both texts are rows of one batch and draw with the same random numbers: a change of nothing writes the same tokens. Afterwards one plain and
one edited pass along the steered text read back how strong the change was (dose) and how far it moved the predictions (KL).
"""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saelab.errors import Invalid
from saelab.interventions import feature_edits
from saelab.lab import Lab, prompt_tokens
from saelab.passes import Edits
from saelab.policy import TokenKind
from saelab.records import Completion, SteerRequest, SteerToken
from saelab.subject import Subject

MAX_TOKENS = 512
"""Tokens that one request may ask for."""


def steer(lab: Lab, request: SteerRequest) -> Completion:
    """Both texts and how strong the change was. Raises `Invalid` or `NotFound` for a request that cannot be carried out."""
    *_, last = stream_steer(lab, request)
    assert isinstance(last, Completion)
    return last


def stream_steer(lab: Lab, request: SteerRequest) -> Iterator[SteerToken | Completion]:
    """The tokens of both texts as they come, and the completion at the end. The request is checked before the first token."""
    began = time.monotonic()
    check_request(request)
    subject, policy = lab.subject, lab.policy
    prompt, counts = prompt_tokens(subject, policy, request.prompt, request.chat)
    if not prompt:
        raise Invalid("The prompt is empty. Give at least one word to go on from.")
    role: TokenKind = "assistant" if request.chat else "text"
    editable = [c and request.edit_prompt for c in counts]
    edits = feature_edits(lab.dictionary, request.interventions, lab.max_acts([i.feature for i in request.interventions]))
    texts = (_Text(subject, "base"), _Text(subject, "steered"))
    for step in subject.generate(
        prompt,
        [{}, edits],
        editable=editable,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        seed=request.seed,
        edits_new=lambda token: policy.counts_new(token, role),
    ):
        for text, token in zip(texts, step, strict=True):
            yield from text.add(token)
    base, steered = texts
    dose, kl = _read_back(lab, edits, prompt + steered.ids, editable + [policy.counts_new(t, role) for t in steered.ids], len(prompt))
    yield Completion(
        base=base.shown,
        steered=steered.shown,
        first_difference=first_difference(base.ids, steered.ids),
        dose=dose,
        kl=kl,
        interventions=request.interventions,
        hook=_in_order(subject, edits)[-1],
        num_tokens=len(steered.ids),
        seconds=round(time.monotonic() - began, 3),
    )


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """Index of the first token that differs, the end of one text included; none where the texts are the same."""
    if list(a) == list(b):
        return None
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def check_request(request: SteerRequest) -> None:
    """Refuses a request that no model could carry out. Raises `Invalid`."""
    if not 1 <= request.max_tokens <= MAX_TOKENS:
        raise Invalid(f"max_tokens is {request.max_tokens}; it must be from 1 to {MAX_TOKENS}.")
    if not 0 <= request.temperature <= 5:
        raise Invalid(f"temperature is {request.temperature}; it must be from 0 to 5.")
    if not 0 <= request.seed < 2**63:
        raise Invalid(f"seed is {request.seed}; it must be from 0 to 2^63 - 1.")
    if not all(math.isfinite(item.strength) for item in request.interventions):
        raise Invalid("A strength is not a finite number. Give an ordinary one, such as 4.")
    if not request.interventions:
        raise Invalid("There is no intervention. Give at least one feature to change; a strength of 0 changes nothing.")


def _in_order(subject: Subject, edits: Edits) -> list[str]:
    """The hooks of edits in the order of the forward pass."""
    return [hook for hook in subject.hooks() if hook in edits]


class _Text:
    """One of the two texts as it grows. Bytes of an unfinished character are held back until it is whole."""

    def __init__(self, subject: Subject, name: Literal["base", "steered"]) -> None:
        self._subject = subject
        self._name: Literal["base", "steered"] = name
        self.ids: list[int] = []
        self.shown = ""

    def add(self, token: int | None) -> Iterator[SteerToken]:
        if token is None:
            return
        self.ids.append(token)
        whole = self._subject.decode(self.ids)
        if not whole.endswith("\ufffd"):
            yield SteerToken(text=self._name, token=whole[len(self.shown) :], id=token)
            self.shown = whole


@torch.inference_mode()
def _read_back(lab: Lab, edits: Edits, ids: list[int], editable: list[bool], num_prompt: int) -> tuple[float, float]:
    """Dose (mean relative size of the change) and KL (steered from plain, nats a token) along a text."""
    subject, written = lab.subject, lab.origin.written_hooks
    tokens: Int[Tensor, "1 pos"] = torch.tensor([ids])
    mask: Bool[Tensor, "1 pos"] = torch.tensor([editable], device=subject.device)
    changed = mask & lab.dictionary.ordinary(lab.rows(tokens)[..., : lab.dictionary.d_in])
    plain_x = subject.activations(tokens, list(edits))
    edited_x = {hook: edits[hook](plain_x[hook], mask) for hook in _in_order(subject, edits)}
    before, after = (torch.cat([found[hook].float() for hook in written], dim=-1) for found in (plain_x, edited_x))
    size = (after - before).norm(dim=-1) / before.norm(dim=-1)
    dose = float(size[changed].mean()) if changed.any() else 0.0
    plain, steered = (subject.logits(tokens, e, mask)[0, num_prompt - 1 : -1].float().log_softmax(-1) for e in ({}, edits))
    kl = (steered.exp() * (steered - plain)).sum(-1)
    return dose, float(kl.mean().clamp_min(0)) if len(kl) else 0.0
