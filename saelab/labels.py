"""The stages `label`, `score` and `controls`: what features mean, how well that holds, and what luck would give.

Several parts may do the first two, each once with one config; what the others left stays.
"""

import time
from collections.abc import Sequence

from saelab.analyses.coverage import ControlsConfig, Coverage, measure_controls
from saelab.embeddings import MiniLM, embedder
from saelab.errors import unknown
from saelab.features.pool_vectors import embed_pool
from saelab.lab import Lab
from saelab.labellers.base import LABELLERS, Labeller, label_features
from saelab.llm import Endpoint, Ledger, spent
from saelab.progress import note
from saelab.readings import readings
from saelab.run import Run
from saelab.scorers.base import SCORERS, Scorer, score_features
from saelab.values import from_dict, to_dict


def label(run: Run, labeller: Labeller, source: str | None = None, features: Sequence[int] = (), preview: bool = False) -> None:
    """A label for every feature, in `features.db`, beside those of other labellers. Named features alone leave the stage undone.

    With `preview` it says what that will cost, and does nothing.
    """
    lab, name = Lab(run, source), LABELLERS.name_of(type(labeller))
    if lab.folder.part_done("label", name, labeller):
        return
    began = time.monotonic()
    _embed_pool(lab, preview)
    label_features(lab.features, labeller, features or None, preview)
    _say_spent(labeller)
    if not features and not preview:
        facts = {"num_labelled": lab.features.num_labelled(), "labeller": name, **spent(labeller)}
        lab.folder.finish_part("label", name, labeller, facts, began)


def score(
    run: Run,
    scorer: Scorer,
    source: str | None = None,
    labeller: str | None = None,
    features: Sequence[int] = (),
    preview: bool = False,
) -> None:
    """Held-out scores of every label of one labeller (none for the last that labelled), in `features.db`, beside those of other scorers.

    `features` and `preview` are those of `label`.
    """
    lab, name = Lab(run, source), SCORERS.name_of(type(scorer))
    labelled = lab.folder.need("label")
    if labeller is not None and labeller not in lab.features.labellers():
        raise unknown("labeller of this dictionary", labeller, lab.features.labellers())
    judged: str = labeller or labelled.facts.get("labeller", "rules")  # of older runs it is not said: they had no other
    part = f"{name} of {judged}" if scorer.of_label else name
    if lab.folder.part_done("score", part, scorer):
        return
    began = time.monotonic()
    _embed_pool(lab, preview)
    num = score_features(lab.features, scorer, judged, features or None, lab, preview)
    _say_spent(scorer)
    if not features and not preview:
        lab.folder.finish_part("score", part, scorer, {"num_scored": num, **spent(scorer)}, began)


def _say_spent(part: Labeller | Scorer) -> None:
    """Says what this sitting asked of an endpoint, if it asked anything."""
    if isinstance(part, Endpoint) and (ledger := part.chat.ledger) != Ledger():
        read, written = f"{ledger.tokens_in:,} tokens read", f"{ledger.tokens_out:,} written"
        note(f"{ledger.requests:,} answers, {ledger.kept:,} more from the file; {read}, {written}, {ledger.dollars:,.2f} dollars")


def _embed_pool(lab: Lab, preview: bool) -> None:
    """Embeds the pool that negatives are drawn from, once, where MiniLM is installed."""
    if not preview and isinstance(by := embedder(), MiniLM):
        embed_pool(lab.features, by.texts)


def controls(run: Run, config: ControlsConfig, source: str | None = None) -> dict[str, Coverage]:
    """How many labels hold, and how many for random directions and for neurons at the same L0, in `controls/`.

    Gives what was found by name: `trained`, then the controls.
    """
    lab = Lab(run, source)
    lab.folder.need("score")
    if not lab.folder.done("controls", config):
        began = time.monotonic()
        found = measure_controls(lab, readings([lab])[0], config, lab.folder.path / "controls")
        lab.folder.finish("controls", config, {name: to_dict(item) for name, item in found.items()}, began)
    return {name: from_dict(Coverage, item) for name, item in lab.folder.need("controls").facts.items()}
