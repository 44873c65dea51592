"""Tasks of `sae-probes`, read as files of a package that is never imported."""

import csv
import io

import numpy as np
import pyarrow as pa
import pytest
from folders import SOURCE

from saelab.analyses import tasks
from saelab.analyses.tasks import installed, last_rows, read_task, task_names, text_tasks
from saelab.errors import Corrupt, NotFound
from saelab.lab import Lab


def table(file, rows) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    with pa.output_stream(str(file), compression="zstd") as stream:
        stream.write(text.getvalue().encode())


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A distribution with one binary task, one with three answers, and one that is not binary."""
    data = tmp_path / "sae_probes" / "data"
    names = [("5_about_soup", "Binary Classification"), ("6_three", "Binary Classification"), ("7_years", "Continuous")]
    rows = [{"Dataset save name": f"cleaned_data/{name}.csv", "Data type": kind} for name, kind in names]
    table(data / "probing_datasets_MASTER.csv.zst", rows)
    texts = [(f"the cook tasted the soup {n}", "soup") if n % 2 else (f"the judge denied the case {n}", "not_soup") for n in range(120)]
    table(data / "cleaned_data" / "5_about_soup.csv.zst", [{"prompt": text, "target": target} for text, target in texts])
    table(data / "cleaned_data" / "6_three.csv.zst", [{"prompt": "a", "target": str(number)} for number in range(3)])
    info = tmp_path / "sae_probes-0.4.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sae-probes\nVersion: 0.4.2\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("package")
def test_binary_tasks_are_listed_and_read_with_the_side_that_is_not_negated_as_yes(toy_run):
    assert installed()
    assert task_names() == ["5_about_soup", "6_three"]
    texts, positive = read_task("5_about_soup")
    assert [("soup" in text) for text in texts] == positive.tolist()
    with pytest.raises(Corrupt, match="3 answers"):
        read_task("6_three")
    (task,) = text_tasks(Lab(toy_run, SOURCE), tasks=1, rows=60, max_tokens=16, seed=0)
    assert len(task.positive) == len(task.x) == 60
    assert task.positive.sum() == 30


def test_what_is_not_installed_is_said_with_the_command(monkeypatch):
    monkeypatch.setattr(tasks, "_PACKAGE", "sae-probes-that-nobody-has")
    assert not installed()
    with pytest.raises(NotFound, match="pip install --no-deps"):
        task_names()


def test_a_row_is_the_activation_on_the_last_token_of_its_text_whatever_the_batch(toy_run):
    lab = Lab(toy_run, SOURCE)
    texts = ["the cook tasted the soup", "the captain steered the ship in the bay", "the moon"]
    together, alone = last_rows(lab, texts, 32), [last_rows(lab, [text], 32)[0] for text in texts]
    assert np.allclose(together, np.stack(alone), atol=1e-4)
    cut = last_rows(lab, [texts[1]], 4)[0]
    assert not np.allclose(cut, together[1], atol=1e-3), "of a longer text the end is read"
