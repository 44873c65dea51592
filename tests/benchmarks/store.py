"""How long the feature table takes to answer: `python tests/benchmarks/store.py [features] [url]`, 131,072 features in SQLite by default.

Each question is asked once to warm up and then twenty times. Shown are medians in milliseconds, through `FeatureStore` with the rows: of
the clock, and of the processor's time, which other work on the machine does not lengthen (in SQLite all work is this thread's). Made-up
features: densities over four decades, half of them labelled, 30,000 words, two scorers.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sqlalchemy import create_engine, insert, text

from saelab.features import tables
from saelab.features.database import server_engine
from saelab.features.geometry import Neighbours, firing_neighbours
from saelab.features.layout import lay_out
from saelab.features.store import FeatureStore
from saelab.features.table_page import Filters
from saelab.features.tags import TAGS
from saelab.features.words import create_words, insert_words, put_words

SCORERS = ("rule_detection", "simulation")


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
            for scorer in SCORERS:
                key = {"feature": i, "labeller": "rules", "scorer": scorer}
                scored.append({**key, "value": random.random(), "lift": random.random(), "scores": json.dumps([{"x": "y" * 1200}])})
        connection.execute(insert(tables.features), rows)
        connection.execute(insert(tables.scores), scored)
        insert_words(connection, tokens)
        for row in rows:
            put_words(connection, row["index"], row["label"])


def timed(name, question):
    question()
    clock, processor = [], []
    for _ in range(20):
        began, begun = time.perf_counter(), time.thread_time()
        found = question()
        clock.append(time.perf_counter() - began)
        processor.append(time.thread_time() - begun)
    total = found.total if hasattr(found, "total") else len(found)
    print(f"| {name} | {total:,} | {np.median(clock) * 1e3:.1f} | {np.median(processor) * 1e3:.1f} |", flush=True)


def table(store):
    print("| question | matches | clock, ms | processor, ms |\n|---|---|---|---|")
    pages = {
        "first page, by index": (Filters(), "index"),
        "by density": (Filters(), "density"),
        "by score": (Filters(), "score"),
        "by a scorer": (Filters(), "simulation"),
        "by score; tag, density, lift, labelled": (Filters(tags=("token",), min_density=1e-4, min_lift=0.1, labelled=True), "score"),
        "by a scorer; tag, density, lift, labelled": (
            Filters(tags=("token",), min_density=1e-4, min_lift=0.1, labelled=True),
            "simulation",
        ),
        "by score; three tags at once": (Filters(tags=("token", "code", "ngram")), "score"),
        "by lift; score from 0.9 to 0.91": (Filters(min_score=0.9, max_score=0.91), "lift"),
        "by density; lift nobody has": (Filters(min_lift=2.0), "density"),
        "by a scorer; half of all": (Filters(labelled=True), "rule_detection.lift"),
        "by score; a rare word": (Filters(words="w1234"), "score"),
        "by score; two words": (Filters(words="w12 token"), "score"),
        "by score; a beginning": (Filters(words="w29"), "score"),
        "by score; a beginning, tag, density": (Filters(words="w29", tags=("token",), min_density=1e-3), "score"),
        "by a scorer; a beginning": (Filters(words="w29"), "simulation"),
        "by score; a word of every label": (Filters(words="token"), "score"),
    }
    for name, (filters, sort) in pages.items():
        timed(name, lambda filters=filters, sort=sort: store.page(filters, sort=sort, descending=True))
    late = json.dumps([0.5, store.d_sae // 2])
    timed("by score; from the middle on", lambda: store.page(sort="score", descending=True, cursor=late))
    timed("search for two words", lambda: store.search("w1234 token"))
    timed("search for a beginning", lambda: store.search("w29"))


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


if __name__ == "__main__":
    d_sae = int(sys.argv[1]) if len(sys.argv) > 1 else 131_072
    with tempfile.TemporaryDirectory() as folder:
        place = sys.argv[2] if len(sys.argv) > 2 else Path(folder) / "features.db"
        if isinstance(place, str):
            engine, schema = server_engine(place)
        else:
            engine, schema = create_engine(f"sqlite:///{place}"), None
        began = time.perf_counter()
        with engine.begin() as connection:
            if schema:
                connection.execute(text(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE'))
                connection.execute(text(f'CREATE SCHEMA "{schema}"'))
            fill(connection, d_sae)
        engine.dispose()
        print(f"{d_sae:,} features in {time.perf_counter() - began:.0f} s, {'PostgreSQL' if schema else 'SQLite'}")
        table(FeatureStore(place))
    if len(sys.argv) < 3:
        geometry(d_sae)
