"""Labels and scores of a feature store: kept by who made them, shown by the one put last."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sqlalchemy import Connection, and_, delete, func, insert, select, update

from saelab.errors import NotFound
from saelab.features import tables
from saelab.features.database import Database, put_fact
from saelab.features.words import put_words
from saelab.records import FeatureId, Label, Score
from saelab.values import from_json, to_json


class LabelStore(Database):
    """The labels and scores of a feature store."""

    _meanings: tuple[int, Int[np.ndarray, " n"], Float[np.ndarray, "n d"]] | None = None

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return int(self.facts["d_sae"])

    def id(self, index: int) -> FeatureId:
        """The identity of a feature. Raises `NotFound` if the dictionary has no such row."""
        if not 0 <= index < self.d_sae:
            raise NotFound(f"There is no feature {index} in {self.facts['source']}: its features are 0 to {self.d_sae - 1}.")
        return FeatureId(model=self.facts["model"], source=self.facts["source"], index=index)

    def put_label(self, index: int, label: Label) -> None:
        """Keeps a label and shows it for its feature. Scores of an older label of the same labeller are dropped."""
        self.id(index)
        key = {"feature": index, "labeller": label.labeller}
        with self.writing() as connection:
            _remove(connection, tables.labels, key)
            _remove(connection, tables.scores, key)
            connection.execute(insert(tables.labels).values(**key, label=to_json(replace(label, scores=()))))
            shown = {"label": label.text, "labeller": label.labeller, "label_found": label.found}
            blank = {"score": None, "lift": None, "lift_low": None}
            connection.execute(update(tables.features).where(tables.features.c.index == index).values(**shown, **blank))
            put_words(connection, index, label.text)
        scorers = dict.fromkeys(score.scorer for score in label.scores)
        for scorer in scorers:
            self.put_scores(index, label, [score for score in label.scores if score.scorer == scorer])

    def put_scores(self, index: int, label: Label | None, scores: Sequence[Score], shown: bool = True) -> None:
        """Keeps the scores that one scorer gave a label, or the feature itself without one, headline first.

        With `shown` the headline becomes what the table shows of the label. Raises `NotFound` if the label is not in the store.
        """
        labeller = "" if label is None else self.label(index, label.labeller).labeller
        head = scores[0]
        key = {"feature": index, "labeller": labeller, "scorer": head.scorer}
        written = json.dumps([json.loads(to_json(score)) for score in scores])
        with self.writing() as connection:
            _remove(connection, tables.scores, key)
            connection.execute(insert(tables.scores).values(**key, value=head.value, lift=head.lift, scores=written))
            if shown:
                connection.execute(
                    update(tables.features)
                    .where(and_(tables.features.c.index == index, tables.features.c.labeller == labeller))
                    .values(score=head.value, lift=head.lift, lift_low=head.lift_low)
                )

    def scores(self, index: int, labeller: str = "") -> tuple[Score, ...]:
        """Scores of a feature's label by one labeller, or of the feature itself, by scorer."""
        where = and_(tables.scores.c.feature == index, tables.scores.c.labeller == labeller)
        with self.engine.connect() as connection:
            rows = connection.scalars(select(tables.scores.c.scores).where(where).order_by(tables.scores.c.scorer)).all()
        return tuple(from_json(Score, json.dumps(item)) for row in rows for item in json.loads(row))

    def label(self, index: int, labeller: str) -> Label:
        """A feature's label by one labeller, with its scores. Raises `NotFound` where there is none."""
        found = {label.labeller: label for label in self.labels_of(index)}
        if labeller not in found:
            raise NotFound(f"{self.id(index)} has no label by {labeller!r}. Run `saelab label` first.")
        return found[labeller]

    def labels_of(self, index: int) -> tuple[Label, ...]:
        """Every label of one feature, with its scores, by labeller."""
        with self.engine.connect() as connection:
            written = connection.scalars(
                select(tables.labels.c.label).where(tables.labels.c.feature == index).order_by(tables.labels.c.labeller)
            ).all()
        labels = [from_json(Label, label) for label in written]
        return tuple(replace(label, scores=self.scores(index, label.labeller)) for label in labels)

    def labels(self, labeller: str) -> dict[int, Label]:
        """Every label by one labeller, without scores."""
        query = select(tables.labels.c.feature, tables.labels.c.label).where(tables.labels.c.labeller == labeller)
        with self.engine.connect() as connection:
            return {int(feature): from_json(Label, written) for feature, written in connection.execute(query)}

    def labellers(self) -> list[str]:
        """Who made the labels, by name."""
        with self.engine.connect() as connection:
            return list(connection.scalars(select(tables.labels.c.labeller).distinct().order_by(tables.labels.c.labeller)))

    def unlabelled(self, labeller: str) -> list[int]:
        """Features that have no label by that labeller yet, in order."""
        done = select(tables.labels.c.feature).where(tables.labels.c.labeller == labeller)
        query = select(tables.features.c.index).where(tables.features.c.index.not_in(done)).order_by(tables.features.c.index)
        with self.engine.connect() as connection:
            return list(connection.scalars(query))

    def unscored(self, labeller: str, scorer: str) -> list[int]:
        """Features with a label by that labeller (all of them, where that is empty) that the scorer has not scored yet, in order."""
        done = select(tables.scores.c.feature).where(and_(tables.scores.c.labeller == labeller, tables.scores.c.scorer == scorer))
        have = select(tables.labels.c.feature).where(tables.labels.c.labeller == labeller) if labeller else select(tables.features.c.index)
        owner = have.selected_columns[0]
        with self.engine.connect() as connection:
            return list(connection.scalars(have.where(owner.not_in(done)).order_by(owner)))

    def labelled(self) -> list[int]:
        """Features that have a label by anybody, in order."""
        with self.engine.connect() as connection:
            return list(connection.scalars(select(tables.labels.c.feature).distinct().order_by(tables.labels.c.feature)))

    def num_labelled(self) -> int:
        """Features whose shown label states a rule."""
        with self.engine.connect() as connection:
            return int(connection.scalar(select(func.count()).where(tables.features.c.label_found.is_(True))) or 0)

    def without_meaning(self) -> dict[int, str]:
        """The shown labels that state a rule and were not embedded yet, or were another text when they were; by feature."""
        column, known = tables.features.c, tables.meanings.c
        query = select(column.index, column.label).outerjoin(tables.meanings, known.feature == column.index)
        query = query.where(column.label_found.is_(True), known.text.is_distinct_from(column.label)).order_by(column.index)
        with self.engine.connect() as connection:
            return {int(index): label for index, label in connection.execute(query)}

    def put_meanings(self, texts: Mapping[int, str], vectors: Float[np.ndarray, "n d"]) -> None:
        """Keeps labels as vectors of norm 1, in the order of the texts."""
        with self.writing() as connection:
            connection.execute(delete(tables.meanings).where(tables.meanings.c.feature.in_(texts)))
            rows = [
                {"feature": feature, "text": words, "vector": vector.astype(np.float16).tobytes()}
                for (feature, words), vector in zip(texts.items(), vectors, strict=True)
            ]
            connection.execute(insert(tables.meanings), rows)
            put_fact(connection, "meanings", _revision(connection) + 1)

    def nearest(self, vector: Float[np.ndarray, " d"], limit: int) -> list[tuple[int, float]]:
        """The features whose labels' vectors have the largest cosine with a vector of norm 1, largest first. Needs `put_meanings` before.

        Raises `NotFound` where no label has a vector.
        """
        with self.engine.connect() as connection:
            revision = _revision(connection)
            if self._meanings is None or self._meanings[0] != revision:
                rows = connection.execute(select(tables.meanings.c.feature, tables.meanings.c.vector)).all()
                matrix = np.frombuffer(b"".join(row[1] for row in rows), np.float16).reshape(len(rows), -1 if rows else 0)
                self._meanings = revision, np.array([row[0] for row in rows], np.int64), matrix.astype(np.float32)
        _, features, matrix = self._meanings
        if not len(features):
            raise NotFound(f"No label of {self.facts['source']} was embedded yet. Run: saelab embed on its run.")
        cosine = matrix @ vector
        best = np.argsort(-cosine, kind="stable")[:limit]
        return [(int(features[place]), float(cosine[place])) for place in best]


def _revision(connection: Connection) -> int:
    """How often vectors were put; other processes may put some too."""
    return json.loads(connection.scalar(select(tables.meta.c.value).where(tables.meta.c.key == "meanings")) or "0")


def _remove(connection: Connection, table: tables.Table, key: dict[str, Any]) -> None:
    connection.execute(delete(table).where(*(table.c[name] == value for name, value in key.items())))
