"""What runs hold, told from files alone."""

import subprocess
import sys
import time

import pytest

from saelab.describe import describe_run, describe_source, read_log
from saelab.errors import Corrupt, NotFound
from saelab.run import Run

TRAIN = {"architecture": "topk", "hook": "blocks.1.hook_resid_post", "model": "toy", "d_in": 4, "d_sae": 8, "steps": 2, "tokens": 128}
ROW = '{"step": %d, "tokens": 64, "seconds": 1.0, "metrics": {"fvu": 0.5}}\n'


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "demo")
    run.finish("read", {}, {"num_tokens": 12, "num_documents": 1, "num_windows": 1, "model": "toy"}, time.monotonic())
    return run


def test_an_empty_folder_is_a_run_without_stages(tmp_path):
    summary = describe_run(Run(tmp_path))
    assert (summary.model, summary.stages, summary.num_tokens, summary.sources) == (None, (), 0, ())


def test_a_run_tells_its_stages_and_dictionaries(run):
    run.source("a").finish("train", {}, TRAIN, time.monotonic())
    summary = describe_run(run)
    assert (summary.name, summary.model, summary.stages, summary.num_tokens) == ("demo", "toy", ("read",), 12)
    (source,) = summary.sources
    assert (source.architecture, source.d_sae, source.stages, source.quality) == ("topk", 8, ("train",), None)


def test_a_dictionary_in_training_is_told_without_its_sizes(run):
    run.source("young").path.mkdir(parents=True)
    source = describe_source(run, "young")
    assert (source.model, source.d_sae, source.stages) == ("toy", None, ())


def test_an_unknown_dictionary_is_refused_with_close_matches(run):
    run.source("14-res-topk").finish("train", {}, TRAIN, time.monotonic())
    with pytest.raises(NotFound, match="14-res-topk"):
        describe_source(run, "14-res-top")


def test_a_dictionary_of_no_known_model_is_corrupt(tmp_path):
    Run(tmp_path).source("lost").path.mkdir(parents=True)
    with pytest.raises(Corrupt, match="names no model"):
        describe_run(Run(tmp_path))


def test_a_missing_fact_is_named_with_its_file(run):
    run.source("a").finish("train", {}, TRAIN | {"d_sae": "many"}, time.monotonic())
    with pytest.raises(Corrupt, match=r"train\.json: facts\.d_sae is 'many', expected int"):
        describe_run(run)


def test_a_cut_off_quality_is_named_with_its_file(run):
    folder = run.source("a")
    folder.finish("train", {}, TRAIN, time.monotonic())
    folder.finish("evaluate", {}, {}, time.monotonic())
    with pytest.raises(Corrupt, match=r"quality\.json cannot be read"):
        describe_run(run)
    (folder.path / "quality.json").write_text('{"fvu":')
    with pytest.raises(Corrupt, match=r"quality\.json: not a valid Quality"):
        describe_run(run)


def test_a_log_is_read_while_its_last_line_is_on_its_way(tmp_path):
    (tmp_path / "log.jsonl").write_text(ROW % 0 + ROW % 1 + (ROW % 2)[:-20])
    assert [row.step for row in read_log(tmp_path)] == [0, 1]
    assert [row.step for row in read_log(tmp_path, after=0)] == [1]


def test_no_log_is_an_empty_log(tmp_path):
    assert read_log(tmp_path) == []


def test_a_broken_line_of_a_log_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_text(ROW % 1 + "{}\n")
    with pytest.raises(Corrupt, match=r"log\.jsonl, line 2"):
        read_log(tmp_path)


def test_describing_loads_no_torch():
    code = "import sys, saelab.describe, saelab_server.app; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert found.stdout.strip() == "[]"
