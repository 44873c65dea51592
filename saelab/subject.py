"""The subject: the language model under study.

Two ways in. The fast path (`activations`, `logits`, `generate`) is the plain Hugging Face module with forward hooks under TransformerLens
names, SDPA attention, and an end after the last hook that is needed. The analysis path (`bridge`) is TransformerLens' own
`TransformerBridge`, which knows every hook point but runs at about half the speed and rewires the module it is given, so it gets a copy.
`activations` takes it for the hooks that the fast path lacks. A test holds both to the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from jinja2 import TemplateError
from torch import Tensor

from saelab.bridge import boot, bridge_activations
from saelab.compiled import CompiledBlocks, ready_attention, recorded, worth_recording
from saelab.conversations import Message, role_spans, tokens_with_roles
from saelab.devices import fastest_dtype, usable
from saelab.errors import Invalid, unknown
from saelab.passes import Edits, edit_by_row, frozen_below, losses_after
from saelab.progress import note
from saelab.sites import Site, final_norm, find_blocks, find_sites
from saelab.values import value
from saelab.weights import Weights, find_weights

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@value
class SubjectConfig:
    """Which model to study, and how to run it."""

    model: str = "smollm2-135m-instruct"
    """A Hugging Face directory, a GGUF file, a hub id, or the name of a bundled model: `smollm2-135m-instruct`, `toy`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the weights. `auto` takes bfloat16 where a short measurement finds it at least 1.5 times as fast."""
    device: str = "auto"
    """Where it runs: `cpu`, `cuda`, ...; `auto` takes a GPU if there is one."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    adapter: str | None = None
    """Folder of a LoRA in PEFT's format, which is merged into the weights."""


class _Stop(Exception):
    """Ends a forward pass after the last hook that is needed."""


class Subject:
    """A causal language model with its tokenizer.

    Arguments:
    - `name`: its id, the first part of every feature's identity.
    - `model`: a Hugging Face causal language model, in evaluation mode.
    - `tokenizer`: its tokenizer.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any, source: Weights | None = None) -> None:  # noqa: ANN401 - untyped by transformers
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self._source = source
        self._sites = find_sites(self.model)
        self._compiled = CompiledBlocks(find_blocks(self.model))
        self._announced = False

    @classmethod
    def load(cls, config: SubjectConfig) -> Subject:
        """The model that the config names. Raises `NotFound` or `Invalid` in words that say what was looked for where."""
        source = find_weights(config.model, config.revision, config.adapter)
        device = usable(config.device)
        dtype = fastest_dtype(device) if config.dtype == "auto" else getattr(torch, config.dtype)
        return cls(source.name, source.model(dtype).to(device), source.tokenizer(), source)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return self.model.dtype

    @property
    def num_layers(self) -> int:
        """Number of blocks."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def max_context(self) -> int:
        """Tokens that the model can read at most."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    def hooks(self) -> list[str]:
        """Names of all hooks of the fast path, in the order of the forward pass."""
        return list(self._sites)

    def site(self, hook: str) -> Site:
        """The place in the module that a hook names. Raises `NotFound` with close matches, `Invalid` for one of the bridge alone."""
        if hook in self._sites:
            return self._sites[hook]
        self._check_bridged(hook)
        raise Invalid(f"The hook {hook} can be read, through TransformerLens, but not changed here. Steer at one of Subject.hooks().")

    def _check_bridged(self, hook: str) -> None:
        """Raises `NotFound` for a hook that the bridge lacks too."""
        known = self.bridge.hook_dict if self._source is not None and "hook_" in hook else {}
        if hook not in known:
            raise unknown(f"hook of {self.name}", hook, {*self._sites, *known})

    # Tokens

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids of all special tokens."""
        return tuple(sorted(self.tokenizer.all_special_ids))

    @property
    def bos_id(self) -> int | None:
        """Id of the beginning-of-sequence token; none where the tokenizer has none."""
        return self.tokenizer.bos_token_id

    @property
    def adds_bos(self) -> bool:
        """Whether the tokenizer itself begins a text with the beginning-of-sequence token, as the model was trained."""
        return self.bos_id is not None and self.tokenizer("a").input_ids[:1] == [self.bos_id]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without any special token added."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def chat_text(self, messages: Sequence[Message], reply: bool = False) -> str:
        """A conversation in the model's chat template, up to where the next reply begins if asked.

        Raises `Invalid` without a template, and for a conversation that the template refuses.
        """
        if not self.tokenizer.chat_template:
            raise Invalid(f"{self.name} has no chat template, so it cannot read conversations. Give plain text.")
        try:
            return self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=reply)
        except TemplateError as error:
            raise Invalid(f"The chat template of {self.name} refuses the conversation: {error}") from None

    def encode_chat(self, messages: Sequence[Message], reply: bool = False) -> tuple[list[int], UInt8[np.ndarray, " pos"]]:
        """Token ids of a conversation in the model's chat template, special ones included, and the number of each token's role.

        Raises `Invalid` as `chat_text` does, and where the template hides who says what.
        """
        return tokens_with_roles(self.tokenizer, *role_spans(lambda said: self.chat_text(said, reply), messages))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens, without special ones."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    @cached_property
    def vocabulary(self) -> list[str]:
        """Every token as text, by id."""
        size = self.model.get_input_embeddings().weight.shape[0]
        known = len(self.tokenizer)
        return self.tokenizer.batch_decode([[i] for i in range(min(size, known))]) + [""] * (size - known)

    def strings(self, ids: Sequence[int]) -> list[str]:
        """Each token as text."""
        return [self.vocabulary[i] for i in ids]

    # Activations

    @torch.inference_mode()
    def activations(
        self, tokens: Int[Tensor, "window pos"], hooks: Sequence[str], compiled: bool = False
    ) -> dict[str, Float[Tensor, "window pos d"]]:
        """Activations at some hooks, all of one forward pass, which ends after the last of them; through compiled blocks if asked.

        Windows of unlike length are padded on the right with any token: a causal model never looks there, so no mask is needed.
        Hooks that only the bridge knows take a second pass, in float32. Of more axes than one a token, such as heads, the last are one.

        Raises `NotFound` for an unknown hook, `Invalid` for more positions than the model reads and for a hook without a vector a token.
        """
        self._check_length(tokens)
        own = [hook for hook in hooks if hook in self._sites]
        bridged = [hook for hook in hooks if hook not in self._sites]
        for hook in bridged:
            self._check_bridged(hook)
        with ready_attention(self.device), self._compiled.running(own) if compiled else nullcontext():
            got = self._watched(tokens, own) if own else {}
        if bridged:
            if not self._announced:
                note(f"{bridged[0]} is read through TransformerLens: a second copy of {self.name}, in float32, at about half the speed.")
                self._announced = True
            got |= bridge_activations(self.bridge, tokens.to(self.device), bridged)
        return {hook: got[hook] for hook in hooks}

    def recorded(self, hooks: Sequence[str]) -> Callable[[Tensor], dict[str, Tensor]] | None:
        """`activations` at some hooks through compiled blocks, `recorded`.

        None for hooks that only the bridge knows, and for a model that is not `worth_recording`.
        """
        able = self._sites.keys() >= set(hooks) and worth_recording(self.model)
        return recorded(partial(self.activations, hooks=tuple(hooks), compiled=True)) if able else None

    def _watched(self, tokens: Int[Tensor, "window pos"], hooks: Sequence[str]) -> dict[str, Tensor]:
        got: dict[str, Tensor] = {}

        def keep(hook: str) -> Callable[[Tensor], None]:
            def read(x: Tensor) -> None:
                got[hook] = x
                if len(got) == len(hooks):
                    raise _Stop

            return read

        with ExitStack() as stack:
            for hook in hooks:
                stack.enter_context(self.site(hook).watched(keep(hook)))
            with suppress(_Stop):
                self.model(input_ids=tokens.to(self.device), use_cache=False, logits_to_keep=1)
        return got

    def _check_length(self, tokens: Int[Tensor, "window pos"]) -> None:
        if tokens.shape[1] > self.max_context:
            raise Invalid(
                f"The window has {tokens.shape[1]} tokens; {self.name} reads {self.max_context} at most. Read with a smaller context."
            )

    @torch.inference_mode()
    def logits(
        self, tokens: Int[Tensor, "window pos"], edits: Edits | None = None, mask: Bool[Tensor, "window pos"] | None = None
    ) -> Float[Tensor, "window pos vocab"]:
        """Next-token logits, under edits at the positions of the mask (everywhere without one)."""
        self._check_length(tokens)
        mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        with self._edited(edits or {}, lambda: mask.to(self.device)):
            return self.model(input_ids=tokens.to(self.device), use_cache=False).logits

    @torch.inference_mode()
    def losses(self, prefix: Sequence[int], texts: Sequence[Sequence[int]]) -> list[Float[Tensor, " pos"]]:
        """Next-token losses of some texts, each behind the same prefix (not empty), in nats. Raises `Invalid` for more than it can read."""
        self._check_length(torch.empty(1, len(prefix) + max(map(len, texts))))
        return losses_after(self.model, prefix, texts)

    @contextmanager
    def begun(self, tokens: Int[Tensor, "window pos"], hook: str) -> Generator[Float[Tensor, "window pos d"]]:
        """While open, `logits` of these tokens, edited at the hook or behind it, runs from the hook's block on: what lies before is
        computed once. Gives the activations at the hook. Raises as `site` does.
        """
        self.site(hook)
        block = int(hook.split(".")[1])
        with frozen_below(find_blocks(self.model), block, lambda: self.activations(tokens, [hook])[hook]) as x:
            yield x

    @contextmanager
    def _edited(self, edits: Edits, mask: Callable[[], Tensor]) -> Generator[None]:
        with ExitStack() as stack:
            for hook, edit in edits.items():
                stack.enter_context(self.site(hook).changed(lambda x, edit=edit: edit(x, mask())))
            yield

    @torch.inference_mode()
    def unembed(self, directions: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch vocab"]:
        """The logit lens: directions of the residual stream through the final norm and the unembedding."""
        norm, head = final_norm(self.model), self.model.get_output_embeddings()
        return head(norm(directions.to(self.device, self.dtype))).float()

    # Generation

    @torch.inference_mode()
    def generate(
        self,
        prompt: Sequence[int],
        rows: Sequence[Edits],
        *,
        editable: Sequence[bool],
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        edits_new: Callable[[int], bool] | None = None,
    ) -> Iterator[list[int | None]]:
        """Continues one prompt in several rows of one batch, each under its own edits.

        Every step gives the next token of each row, none where the row has ended. All rows draw with the same random numbers, so two rows
        with the same edits write the same text.

        Arguments:
        - `prompt`: token ids, not empty.
        - `rows`: the edits of each row; an empty mapping leaves a row alone.
        - `editable`: which prompt positions may be edited.
        - `temperature`: 0 takes the likeliest token.
        - `edits_new`: which generated tokens may be edited; none for all but the special ones.
        """
        if len(prompt) + max_tokens > self.max_context:
            raise Invalid(
                f"The prompt has {len(prompt)} tokens; with {max_tokens} new ones that is more than the {self.max_context} that "
                f"{self.name} can read. Shorten the prompt or ask for fewer tokens."
            )
        noise = torch.Generator().manual_seed(seed)
        special, ends = set(self.special_ids), self._end_ids()
        may = edits_new or (lambda token: token not in special)
        tokens = torch.tensor([list(prompt)] * len(rows), device=self.device)
        mask = torch.tensor([list(editable)] * len(rows), device=self.device)
        ended = [False] * len(rows)
        cache = None
        with self._edited(edit_by_row(rows), lambda: mask):
            for _ in range(max_tokens):
                out = self.model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache = out.past_key_values
                picked = _pick(out.logits[:, -1].float(), temperature, noise)
                ended = [done or token in ends for done, token in zip(ended, picked, strict=True)]
                if all(ended):
                    return
                yield [None if done else token for done, token in zip(ended, picked, strict=True)]
                tokens = torch.tensor(picked, device=self.device)[:, None]
                mask = torch.tensor([may(token) for token in picked], device=self.device)[:, None]

    def _end_ids(self) -> set[int]:
        config = self.model.generation_config
        ids = config.eos_token_id if config is not None else None
        found = ids if isinstance(ids, list) else [ids]
        return {i for i in [*found, self.tokenizer.eos_token_id] if i is not None}

    # The analysis path

    @cached_property
    def bridge(self) -> TransformerBridge:
        """TransformerLens' view of the same weights, in float32: every hook point, patching, attribution. Made on first use."""
        if self._source is None:
            raise Invalid("This subject was made from a module in memory; the bridge needs one loaded with Subject.load.")
        return boot(self._source.path, self._source.model(torch.float32).to(self.device), self._source.tokenizer())


def _pick(logits: Float[Tensor, "row vocab"], temperature: float, noise: torch.Generator) -> list[int]:
    """Next tokens. Gumbel noise that all rows share makes equal logits give equal tokens."""
    if temperature > 0:
        uniform = torch.rand(logits.shape[-1], generator=noise).clamp_min(1e-20)
        logits = logits / temperature - (-uniform.log()).log().to(logits.device)
    return logits.argmax(-1).tolist()
