"""Parts that are chosen on the command line: every one that is registered, by sub-commands such as `sae:topk`; analyses by their name."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

import tyro

from saelab.analyses.base import ANALYSES, Analysis
from saelab.dictionary import DICTIONARIES, Trainable
from saelab.labellers.base import LABELLERS, Labeller
from saelab.registry import Registry
from saelab.scorers.base import SCORERS, Scorer
from saelab.texts.base import TEXTS, TextSource


def _of(registry: Registry[Any], prefix: str) -> dict[str, type]:
    """A registry's parts by their sub-commands, `prefix:name`."""
    return {f"{prefix}:{name}": registry[name] for name in registry}


PARTS: Mapping[str, Mapping[str, type]] = {
    "texts": _of(TEXTS, "texts"),
    "sae": {f"sae:{name}": kind.Config for name in DICTIONARIES if issubclass(kind := DICTIONARIES[name], Trainable)},
    "baseline": {f"baseline:{name}": kind.Config for name in DICTIONARIES if not issubclass(kind := DICTIONARIES[name], Trainable)},
    "labeller": _of(LABELLERS, "labeller"),
    "scorer": _of(SCORERS, "scorer"),
    "question": {name: ANALYSES[name] for name in ANALYSES},
}
"""For each field of a command that holds a part: the sub-commands that choose it, each with the class whose fields are its options."""


def _union(parts: Mapping[str, type]) -> Any:  # noqa: ANN401 - a type made at run time
    return Union[tuple(Annotated[part, tyro.conf.subcommand(name, prefix_name=False)] for name, part in parts.items())]  # noqa: UP007


if TYPE_CHECKING:
    Texts = TextSource
    Sae = Any
    Fitted = Any
    Labels = Labeller
    Scores = Scorer
    Question = Analysis
else:
    Texts, Sae, Fitted, Labels, Scores, Question = (
        _union(PARTS[name]) for name in ("texts", "sae", "baseline", "labeller", "scorer", "question")
    )
