"""Where a dictionary's activations come from."""

from dataclasses import replace

from saelab.errors import Invalid, unknown
from saelab.policy import TokenKind
from saelab.values import value


@value
class Provenance:
    """Where a dictionary's activations come from; saved with it, so that every later reader treats tokens as training did."""

    model: str
    """Id of the subject."""
    hook: str
    """Hook that it reads, in TransformerLens names; the first one, where it was trained on several."""
    context: int
    """Tokens in a window."""
    prepend_bos: bool
    """Whether windows began with the beginning-of-sequence token."""
    skip_first: int
    """Positions at the start of every window that do not count: the first one is an attention sink."""
    special_ids: tuple[int, ...]
    """Ids of the subject's special tokens."""
    uncounted: tuple[TokenKind, ...] = ("bos", "special")
    """Kinds of tokens that do not count."""
    max_norm: float | None = None
    """Norm above which an activation of `hook` is massive and does not count; none where all count."""
    target_hook: str | None = None
    """Hook whose activations it writes; none for those that it reads."""
    beside: tuple[str, ...] = ()
    """The other hooks whose activations it reads and writes side by side with those of `hook`, or that gave rows to its training."""
    pooled: bool = False
    """Whether the hooks of `beside` gave rows of their own to its training: it reads and writes one hook at a time."""
    other_norms: tuple[float | None, ...] = ()
    """What `max_norm` is at the target hook, or at the hooks of `beside`."""

    @property
    def hooks(self) -> tuple[str, ...]:
        """Every hook that it was trained on, `hook` first."""
        return (self.hook, *self.beside) if self.target_hook is None else (self.hook, self.target_hook)

    @property
    def row_hooks(self) -> tuple[str, ...]:
        """Hooks whose activations stand side by side in a training row: those that it reads, and behind them its target."""
        return (self.hook,) if self.pooled else self.hooks

    @property
    def written_hooks(self) -> tuple[str, ...]:
        """Hooks whose activations it writes, side by side."""
        return self.row_hooks if self.target_hook is None else (self.target_hook,)

    def at(self, hook: str) -> "Provenance":
        """The same, looked at where another of its pooled hooks is. Raises `NotFound` or `Invalid` for a hook that is none of them."""
        if hook == self.hook:
            return self
        if not self.pooled:
            raise Invalid(f"The dictionary reads {', '.join(self.hooks)}; only a pooled one can be looked at elsewhere.")
        if hook not in self.hooks:
            raise unknown("hook of the dictionary", hook, self.hooks)
        beside, limits = tuple(other for other in self.hooks if other != hook), self.limits()
        return replace(self, hook=hook, beside=beside, max_norm=limits.get(hook), other_norms=tuple(map(limits.get, beside)))

    def limits(self) -> dict[str, float | None]:
        """For each hook the norm above which an activation is massive."""
        norms = (self.max_norm, *self.other_norms)
        return dict(zip(self.hooks, norms, strict=True)) if len(norms) == len(self.hooks) else {self.hook: self.max_norm}
