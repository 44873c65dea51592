"""The speed benchmark runs where there is no GPU, and what fails becomes a line with its reason."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).parent / "speed"


def script(name, *arguments):
    command = [sys.executable, str(SPEED / name), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(SPEED.parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("speed") / "speed.jsonl"
    trainers = ("saelab-jumprelu-fp32", "dictionary_learning-topk-bf16")
    script("run.py", "--shapes", "toy", "toy:encode", "--trainers", *trainers, "--threads", 1, "--device", "cpu", "--out", out)
    return out


def test_every_trainer_and_shape_has_a_line_with_figures_or_a_reason(results):
    first, *lines = map(json.loads, results.read_text().splitlines())
    assert first["machine"]["kind"] == "cpu"
    assert len(lines) == 4
    assert all(line["tokens_per_second"] > 0 and 4 < line["l0"] <= 10 for line in lines if "dictionary_learning" not in line["trainer"])
    assert all("no autocast on a CPU" in line["error"] for line in lines if "dictionary_learning" in line["trainer"])


def test_the_page_says_where_it_was_measured_and_what_was_not(results, tmp_path):
    page = tmp_path / "page.md"
    script("table.py", results, "--page", page)
    text = page.read_text()
    assert "| **saelab-jumprelu-fp32** |" in text
    assert "## toy: d 32, 256 features, k 8, batch 256, encoding only" in text
    assert "- dictionary_learning-topk-bf16: NotImplementedError" in text


def test_a_trainer_that_takes_too_long_is_stopped_and_the_next_goes_on(tmp_path):
    out = tmp_path / "speed.jsonl"
    script("run.py", "--shapes", "toy", "--trainers", "plain-topk-fp32", "--device", "cpu", "--limit", 0.1, "--out", out)
    assert json.loads(out.read_text().splitlines()[-1])["error"] == "not done after 0.1 s"
