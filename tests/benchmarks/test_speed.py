"""The speed benchmarks run where there is no GPU, and what fails becomes a line with its reason."""

import io
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
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


def test_every_kind_of_training_gets_a_line_of_its_page(tmp_path):
    out, page = tmp_path / "smoke.jsonl", tmp_path / "page.md"
    names = ["resume", "residual", "crosscoder", "transcoder", "scar"]
    out.write_text(script("smoke.py", "--shape", "toy", "--steps", 6, "--device", "cpu", *names))
    _, *lines = map(json.loads, out.read_text().splitlines())
    assert [line["what"] for line in lines if "error" not in line] == names
    assert lines[0]["same_bits"]
    script("table.py", out, "--page", page)
    assert "| crosscoder | " in page.read_text()


def test_from_text_to_a_trained_sae_with_a_page_of_where_the_time_went(tmp_path):
    noise, out, page, tokens = np.random.default_rng(0), tmp_path / "found.json", tmp_path / "page.md", io.BytesIO()
    arrays = {"tokens": noise.integers(0, 100, 60 * 32, dtype=np.uint16), "length": np.full(60, 32, np.uint8)}
    np.savez(tokens, **arrays, document=np.arange(60) // 3, held_out=np.arange(60) // 3 % 5 == 0)
    (tmp_path / "tokens.npz.xz").write_bytes(lzma.compress(tokens.getvalue(), preset=0))
    sizes = ("--d-sae", 64, "--k", 4, "--tokens", 4096, "--batch", 128, "--rows", 512, "--shard-windows", 8, "--precision", "fp32")
    places = ("--model", "toy", "--hook", "blocks.1.hook_resid_post", "--device", "cpu", "--out", out, "--page", page, "--peers")
    script("end_to_end.py", tmp_path / "tokens.npz.xz", *sizes, *places)
    found = json.loads(out.read_text())
    assert found["saelab"]["tokens"] == 4096
    assert 1000 < found["rows"] <= 48 * 31  # special tokens do not count
    assert 0 < found["quality"]["fvu"] < 1
    assert 0 <= found["saelab"]["shares"]["waiting"] < 1
    assert f"the model read it {4096 / found['rows']:.1f} times" in page.read_text()
