"""Doubles of what needs a model: stored features and work, with nothing behind them but a few records."""

import json
import threading
import time
from pathlib import Path

import numpy as np

from saelab.describe import report_file
from saelab.errors import Invalid, NotFound
from saelab.records import (
    Completion,
    Estimate,
    Example,
    Feature,
    FeatureActivation,
    FeatureId,
    FeatureMap,
    FeaturePage,
    FeatureRow,
    FiringDocument,
    FiringDocuments,
    Histogram,
    LogRow,
    Neighbour,
    Quality,
    SteerToken,
    TokenActivations,
)
from saelab.reports import Chart, Measure, Report, Series, Table
from saelab.run import Run, write_atomically
from saelab.values import to_dict, to_json
from saelab_server.parts import Answer

MODEL, SOURCE, D_SAE = "toy", "1-res-topk", 8
BASE = f"/api/v1/models/{MODEL}/sources/{SOURCE}"
STEER = {"prompt": "the sea", "interventions": [{"feature": 3, "op": "add", "strength": 2.0}], "max_tokens": 4}


def write_run(root: Path, name: str = "demo", model: str = MODEL, source: str = SOURCE) -> Run:
    """A run whose manifests say that all is done, with a training log and a quality."""
    run = Run(root / name)
    run.finish("read", {}, {"num_tokens": 1200, "num_documents": 10, "num_windows": 20, "model": model}, time.monotonic())
    run.finish("capture", {}, {"hooks": ["blocks.1.hook_resid_post"], "num_rows": 1000}, time.monotonic())
    folder = run.source(source)
    facts = {"architecture": "topk", "hook": "blocks.1.hook_resid_post", "model": model, "d_in": 4, "d_sae": D_SAE}
    folder.finish("train", {}, {**facts, "steps": 2, "tokens": 128}, time.monotonic())
    (folder.path / "quality.json").write_text(to_json(quality()))
    for stage, more in (("evaluate", {}), ("collect", {}), ("label", {"num_labelled": 5}), ("score", {})):
        folder.finish(stage, {}, more, time.monotonic())
    write_log(folder.path, 2)
    return run


def write_log(folder: Path, steps: int) -> None:
    rows = [LogRow(step=step, tokens=64 * step, seconds=1.0 * step, metrics={"fvu": 1 / step}) for step in range(1, steps + 1)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(to_dict(row)) + "\n" for row in rows))


def quality() -> Quality:
    number = Estimate(value=0.2, n=10)
    names = "fvu l0 ce_clean ce_spliced ce_increase ce_mean_ablated ce_zero_ablated ce_recovered kl kl_recovered dead dense"
    return Quality(**dict.fromkeys(names.split(), number), controls={"random": 0.9}, control_ce_increase={"random": 3.0})


def row(index: int) -> FeatureRow:
    return FeatureRow(
        index=index, label=f"words {index}", density=index / 100, max=1.0, mean=0.5, dead=index == 0, top_tokens=(" sea",), tags=()
    )


class FakeFeatures:
    """Eight features; remembers the last page that was asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, object] = {}
        self.embedded = True
        self.strings = (" the", " sea")

    def page(self, filters, *, cursor, limit, **others) -> FeaturePage:
        self.asked = {**vars(filters), **others, "cursor": cursor, "limit": limit}
        if cursor and not (cursor.isascii() and cursor.isdigit()):
            raise Invalid(f"{cursor!r} is no cursor of this table. Begin again without one.")
        begin = int(cursor or 0)
        end = min(begin + limit, D_SAE)
        return FeaturePage(items=tuple(row(i) for i in range(begin, end)), total=D_SAE, next_cursor=str(end) if end < D_SAE else None)

    def column(self, name):
        return np.array([getattr(row(i), name) for i in range(D_SAE)])

    def feature(self, index: int) -> Feature:
        if index >= D_SAE:
            raise NotFound(f"No feature {index}.")
        return Feature(
            id=FeatureId(model=MODEL, source=SOURCE, index=index),
            label=None,
            density=Estimate(value=0.1, n=1000),
            max=1.0,
            mean=0.5,
            dead=False,
            tags=(),
            histogram=Histogram(edges=(0.0, 1.0), counts=(3,)),
            top_logits=(),
            bottom_logits=(),
            peak_tokens=(),
            bands=(),
            neighbours=self.neighbours(index),
            previous=None,
            next=None,
        )

    def neighbours(self, index: int, by: str = "decoder") -> tuple[Neighbour, ...]:
        return (Neighbour(index=(index + 1) % D_SAE, similarity=0.5),)

    def search_meaning(self, vector, limit: int) -> list[tuple[FeatureRow, float]]:
        assert vector.shape == (1,)
        if not self.embedded:
            raise NotFound("No label was embedded yet. Run: saelab embed on its run.")
        return [(row(i), (9 - i) / 10) for i in range(limit)]

    def map(self) -> FeatureMap:
        return FeatureMap(
            x=(0.5,) * D_SAE, y=(1.0,) * D_SAE, density=(0.1,) * D_SAE, score=(None,) * D_SAE, tag=(-1,) * D_SAE, tags=("dead",)
        )

    def search(self, words: str, limit: int) -> list[FeatureRow]:
        return [row(i) for i in range(D_SAE) if words in f"words {i}"][:limit]


def documents(index: int, strings, cursor: str | None, limit: int) -> FiringDocuments:
    """Three documents, the same for every feature."""
    begin = int(cursor or 0)
    example = Example(document=4, domain="tales", split="explain", position=7, tokens=tuple(strings), values=(0.0, float(index)), peak=1)
    items = tuple(FiringDocument(key=f"tales/{number}", count=2, example=example) for number in range(3))[begin : begin + limit]
    return FiringDocuments(items=items, total=3, kept=5, next_cursor=str(begin + limit) if begin + limit < 3 else None)


def write_report(run: Run, name: str = "concepts", trained: str | None = None) -> Report:
    """A report with a table and a chart, of the dictionary as it is now unless another training is given."""
    folder = run.source(SOURCE)
    report = Report(
        analysis=name,
        question="Which feature tells each concept?",
        measures=(Measure(name="mean_auroc", estimate=Estimate(value=0.8, low=0.7, high=0.9, n=9), null=Estimate(value=0.5, n=9)),),
        tables=(Table(title="Concepts", columns=("concept", "auroc"), rows=(("sea", Estimate(value=0.9, n=3)), ("none", None))),),
        charts=(Chart(title="AUROC", kind="bar", x="concept", y="auroc", series=(Series(name="features", x=("sea",), y=(0.9,)),)),),
        trained=folder.need("train").finished if trained is None else trained,
    )
    write_atomically(report_file(folder, name), to_json(report))
    return report


class FakeWork:
    """Counts words as tokens and writes numbered ones; `pause` lets a test hold it back, `failure` makes it fail half-way."""

    def __init__(self) -> None:
        self.made = 0
        self.threads: set[int] = set()
        self.closed = threading.Event()
        self.pause: threading.Event | None = None
        self.failure: Exception | None = None

    def num_tokens(self, text: str) -> int:
        return len(text.split())

    def activations(self, text, features, top) -> TokenActivations:
        tokens = tuple(text.split())
        wanted = range(min(top, D_SAE)) if features is None else features
        found = tuple(FeatureActivation(index=i, label=None, max=1.0, values=(1.0,) * len(tokens)) for i in wanted)
        return TokenActivations(tokens=tokens, counted=(True,) * len(tokens), features=found)

    def chat(self, messages, max_tokens, temperature, seed) -> Answer:
        said = messages[-1]["content"].split()[:max_tokens]
        return Answer(text=" ".join(said), tokens_in=sum(len(m["content"].split()) for m in messages), tokens_out=len(said))

    def check(self, request) -> None:
        if not request.interventions:
            raise Invalid("There is no intervention. Give at least one.")

    def steer(self, request) -> Completion:
        *_, last = self.stream_steer(request)
        return last

    def stream_steer(self, request):
        try:
            for number in range(request.max_tokens):
                if self.pause:
                    self.pause.wait(5)
                if self.failure and number == 1:
                    raise self.failure
                self.made += 1
                self.threads.add(threading.get_ident())
                yield SteerToken(text="base", token=f" \n{number}", id=number)
                yield SteerToken(text="steered", token=f" {number}", id=number)
            yield Completion(
                base="a",
                steered="b",
                first_difference=0,
                dose=0.1,
                kl=0.2,
                interventions=request.interventions,
                hook="blocks.1.hook_resid_post",
                num_tokens=request.max_tokens,
                seconds=0.1,
            )
        finally:
            self.closed.set()
