"""Which tokens count: the kinds of tokens, and the policy that is stored with everything made from them.

The same policy decides in training, statistics, examples, the dashboard and steering. Padding needs none: windows of unlike length are
padded on the right in a batch, where a causal model never looks, and a padded position is no position of any window.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Int, UInt8

from saelab.errors import Invalid
from saelab.values import value

TokenKind = Literal["text", "bos", "special", "system", "user", "assistant", "tool", "template"]
"""What a token is: plain text; the beginning of a sequence; another special token; what someone says in a conversation; what the chat
template puts around it. A token whose id is special is `bos` or `special` whoever says it."""
KINDS: tuple[TokenKind, ...] = get_args(TokenKind)
"""The kinds in the order of their numbers on disk."""
MIN_WINDOW = 8
"""Text tokens of a window, at least: shorter tails of documents are left out of the windows."""


@value
class TokenPolicy:
    """How text becomes windows, and which of their positions count. Stored with every artifact made from them."""

    context: int = 128
    """Tokens in a window, at most."""
    prepend_bos: bool = False
    """Begin every window with the subject's beginning-of-sequence token."""
    bos_id: int | None = None
    """That token's id; needed where windows begin with it."""
    skip_first: int = 1
    """Positions at the start of every window that do not count. The first is an attention sink: its norm is a hundred times the others'."""
    special_ids: tuple[int, ...] = ()
    """Ids of the subject's special tokens."""
    uncounted: tuple[TokenKind, ...] = ("bos", "special")
    """Kinds of tokens that do not count."""
    one_window: bool = False
    """A document is one window, cut at the context, as conversations are (FAST, arXiv:2506.07691); otherwise it is cut into several."""

    def check(self) -> None:
        """Raises `Invalid` for windows that cannot be."""
        if self.prepend_bos and self.bos_id is None:
            raise Invalid("Windows shall begin with a beginning-of-sequence token, but the subject has none. Set prepend_bos to false.")
        if self.context < MIN_WINDOW + self.prepend_bos:
            raise Invalid(f"A context of {self.context} tokens is too short: windows have {MIN_WINDOW} text tokens at least.")
        if not 0 <= self.skip_first < self.context:
            raise Invalid(f"skip_first is {self.skip_first}; it must be 0 or more and less than the context, {self.context}.")

    def kinds(
        self, tokens: Int[np.ndarray, "*batch pos"], roles: UInt8[np.ndarray, "*batch pos"] | TokenKind = "text"
    ) -> UInt8[np.ndarray, "*batch pos"]:
        """The number of each token's kind in the midst of a document: `special` by its id, or else its role."""
        role = np.uint8(KINDS.index(roles)) if isinstance(roles, str) else roles
        ids = self.special_ids if self.bos_id is None else (*self.special_ids, self.bos_id)
        return np.where(np.isin(tokens, ids), np.uint8(KINDS.index("special")), role)

    def document_kinds(
        self, tokens: Int[np.ndarray, " pos"], roles: UInt8[np.ndarray, " pos"] | TokenKind = "text"
    ) -> UInt8[np.ndarray, " pos"]:
        """The same for a whole document, whose first token may be `bos`; SmolLM2 begins every turn with that token."""
        found = self.kinds(tokens, roles)
        if self.bos_id is not None and (tokens[:1] == self.bos_id).all():
            found[:1] = KINDS.index("bos")
        return found

    def counts(self, kinds: UInt8[np.ndarray, "*batch pos"]) -> Bool[np.ndarray, "*batch pos"]:
        """Which positions of windows with tokens of these kinds count."""
        position = np.arange(kinds.shape[-1])
        return (position >= self.skip_first) & ~np.isin(kinds, [KINDS.index(kind) for kind in self.uncounted])

    def counts_new(self, token: int, role: TokenKind) -> bool:
        """Whether a generated token counts; it stands behind the first positions."""
        return KINDS[int(self.kinds(np.array([token]), role)[0])] not in self.uncounted
