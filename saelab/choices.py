"""Parts that are chosen on the command line, by sub-commands such as `sae:topk` and `texts:files`: every one that is registered."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

import tyro

from saelab.analyses.base import ANALYSES, Analysis
from saelab.dictionary import DICTIONARIES, Trainable
from saelab.labellers.base import LABELLERS, Labeller
from saelab.registry import Registry
from saelab.scorers.base import SCORERS, Scorer
from saelab.texts.base import TEXTS, TextSource


def _choice(registry: Registry[Any], prefix: str) -> Any:  # noqa: ANN401 - a type made at run time
    """The union of a registry's parts, as sub-commands `prefix:name`."""
    return _union({f"{prefix}:{name}": registry[name] for name in registry})


def _union(parts: Mapping[str, type]) -> Any:  # noqa: ANN401 - a type made at run time
    return Union[tuple(Annotated[part, tyro.conf.subcommand(name, prefix_name=False)] for name, part in parts.items())]  # noqa: UP007


if TYPE_CHECKING:
    Texts = TextSource
    Sae = Any
    Labels = Labeller
    Scores = Scorer
    Question = Analysis
else:
    Texts, Labels, Scores = _choice(TEXTS, "texts"), _choice(LABELLERS, "labeller"), _choice(SCORERS, "scorer")
    Sae = _union({f"sae:{name}": kind.Config for name in DICTIONARIES if issubclass(kind := DICTIONARIES[name], Trainable)})
    Question = _union({name: ANALYSES[name] for name in ANALYSES})
