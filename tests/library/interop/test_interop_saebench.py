"""SAEBench's results: a file of theirs, written by hand from the documented layout, and ours."""

import json

import pytest
from folders import SOURCE

from saelab.analyses.core import Core
from saelab.errors import Corrupt
from saelab.interop.saebench import METRIC_IMPL, THEIRS, envelope, read_saebench, write_saebench
from saelab.lab import Lab
from saelab.records import Estimate
from saelab.reports import Measure, Report

CONTENT = {
    "eval_type_id": "core",
    "eval_config": {"model_name": "gemma-2-2b", "batch_size_prompts": 16, "n_eval_reconstruction_batches": 200},
    "eval_id": "5b2b1c1e-0000-4000-8000-000000000000",
    "datetime_epoch_millis": 1736000000000,
    "eval_result_metrics": {
        "model_behavior_preservation": {"kl_div_score": 0.99, "kl_div_with_ablation": 10.1, "kl_div_with_sae": 0.1},
        "model_performance_preservation": {"ce_loss_score": 0.98, "ce_loss_with_ablation": 12.4, "ce_loss_with_sae": 3.1},
        "reconstruction_quality": {"explained_variance": 0.81, "mse": 0.0003, "cossim": -1},
    },
    "eval_result_details": [{"index": 0, "feature_density": 0.01}],
    "sae_bench_commit_hash": "8042bb3",
    "sae_lens_id": "blocks.12.hook_resid_post__trainer_0",
    "sae_lens_release_id": "sae_bench_gemma-2-2b",
    "sae_lens_version": "6.0.0",
    "sae_cfg_dict": {"d_in": 2304, "d_sae": 16384},
    "eval_result_unstructured": None,
}


def saved(folder, **changed):
    file = folder / "x_eval_results.json"
    file.write_text(json.dumps({**CONTENT, **changed}))
    return file


def test_a_file_of_saebench_is_read_with_its_gaps_and_marked_as_theirs(tmp_path):
    found = read_saebench(saved(tmp_path))
    assert (found.eval_type, found.metric_impl) == ("core", THEIRS)
    assert found.source.startswith("blocks.12")
    assert found.metrics["reconstruction_quality.explained_variance"] == 0.81
    assert found.metrics["reconstruction_quality.cossim"] is None, "-1 is SAEBench's NaN"
    assert found.details[0]["index"] == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"eval_result_metrics": [1]}, "eval_result_metrics is not an object"),
        ({"eval_result_metrics": {"a": 3}}, "eval_result_metrics.a is not an object"),
        ({"eval_result_metrics": {"a": {"b": "c"}}}, "a.b is 'c', where a number was expected"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(tmp_path, changed, said):
    with pytest.raises(Corrupt, match=said):
        read_saebench(saved(tmp_path, **changed))


def test_what_is_no_such_file_is_refused(tmp_path):
    file = tmp_path / "other.json"
    file.write_text("{}")
    with pytest.raises(Corrupt, match="eval_type_id"):
        read_saebench(file)
    file.write_text("no json")
    with pytest.raises(Corrupt, match="cannot be read"):
        read_saebench(file)


@pytest.fixture(scope="module")
def lab(toy_run) -> Lab:
    return Lab(toy_run, SOURCE)


def test_a_report_is_written_with_every_field_of_the_envelope_and_read_again(lab, tmp_path):
    report = Core(rows=2000, windows=8, fit_rows=1000).answer(lab)
    report = Report(**{**vars(report), "analysis": "core", "model": "toy", "source": SOURCE})
    file = write_saebench(report, lab.dictionary, tmp_path)
    content = json.loads(file.read_bytes())
    assert content.keys() == CONTENT.keys()
    for group, names in CONTENT["eval_result_metrics"].items():
        assert content["eval_result_metrics"][group].keys() >= names.keys() - {"mse"}
    assert all(number is not None for group in content["eval_result_metrics"].values() for number in group.values())
    assert content["eval_result_unstructured"]["saelab"]["report"]["measures"][0]["estimate"]["low"] is not None
    found = read_saebench(file)
    assert found.metric_impl == METRIC_IMPL
    assert found.metrics["reconstruction_quality.explained_variance"] == report.measures[0].estimate.value


def test_a_missing_number_is_null_or_minus_one_where_strict(lab):
    one = Measure(name="explained_variance", estimate=Estimate(value=0.5, n=3))
    report = Report(analysis="core", question="?", measures=(one,))
    assert envelope(report, lab.dictionary)["eval_result_metrics"]["sparsity"] == {"l0": None}
    assert envelope(report, lab.dictionary, strict=True)["eval_result_metrics"]["sparsity"] == {"l0": -1.0}
    other = Report(analysis="concepts", question="?", measures=(one,))
    assert envelope(other, lab.dictionary)["eval_type_id"] == "saelab_concepts"
