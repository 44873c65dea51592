"""Features out to Neuronpedia and delphi and back, from the toy run."""

import gzip
import json
from itertools import pairwise

import numpy as np
import pytest
from folders import SOURCE, copied
from safetensors.numpy import load_file

from saelab.errors import Conflict, Corrupt, Invalid, NotFound
from saelab.exchange import Export, Import, ImportConfig
from saelab.foreign import export_features, import_features
from saelab.interop import delphi
from saelab.lab import Lab
from saelab.records import Label
from saelab.run import Run

MODULE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def run(toy_run, tmp_path_factory):
    """The toy run, to be changed."""
    return copied(toy_run, tmp_path_factory.mktemp("foreign") / "run")


@pytest.fixture(scope="module")
def ours(run):
    return Lab(run, SOURCE).features


@pytest.fixture(scope="module")
def neuronpedia(run, tmp_path_factory):
    """The toy run's features as Neuronpedia imports them."""
    folder = tmp_path_factory.mktemp("neuronpedia") / "export"
    Export(run=run.path, folder=folder, format="neuronpedia", source=SOURCE)()
    return folder / "v1"


@pytest.fixture(scope="module")
def cached(run, tmp_path_factory):
    """The toy run's features as delphi caches them."""
    folder = tmp_path_factory.mktemp("delphi") / "export"
    export_features(run, SOURCE, folder, "delphi")
    return folder


def lines(file):
    content = file.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(content) if file.suffix == ".gz" else content).splitlines()]


def test_every_line_of_a_neuronpedia_file_has_the_keys_of_the_first(neuronpedia):
    files = sorted(neuronpedia.rglob("*.jsonl*"))
    assert {file.parent.name for file in files} >= {"config", "features", "activations", "explanations", SOURCE}
    for file in files:
        found = lines(file)
        assert found
        assert {tuple(line) for line in found} == {tuple(found[0])}
    model = neuronpedia / "toy" / SOURCE
    kinds = {line["name"] for line in lines(neuronpedia / "config" / "explanation_type.jsonl")}
    models = {line["name"] for line in lines(neuronpedia / "config" / "explanation_model_type.jsonl")}
    for line in lines(model / "explanations" / "batch-0.jsonl.gz"):
        assert line["typeName"] in kinds
        assert line["explanationModelName"] in models
    ids = [line["id"] for line in lines(model / "activations" / "batch-0.jsonl.gz")]
    assert len(set(ids)) == len(ids)
    assert {len(item) for item in ids} == {25}


def test_features_come_back_from_neuronpedia_as_they_went(run, ours, neuronpedia):
    import_features(run, neuronpedia / "toy" / SOURCE, "again")
    again = Lab(run, "again").features
    assert again.d_sae == ours.d_sae
    assert again.num_tokens == ours.num_tokens
    for index in range(ours.d_sae):
        one, other = ours.feature(index), again.feature(index)
        assert (other.density, other.dead) == (one.density, one.dead)
        assert other.max == pytest.approx(one.max)
        assert other.histogram == one.histogram
        assert [token.token for token in other.top_logits] == [token.token for token in one.top_logits]
        assert [token.value for token in other.bottom_logits] == pytest.approx([token.value for token in one.bottom_logits], rel=1e-5)
        assert [(near.index, near.similarity) for near in other.neighbours] == [(near.index, near.similarity) for near in one.neighbours]
        if one.label and one.label.found:
            assert (other.label.text, other.label.labeller) == (one.label.text, one.label.labeller)
        shown = {example.tokens: example.values for band in one.bands for example in band.examples if len(example.tokens) >= 8}
        kept = {example.tokens: example.values for band in other.bands for example in band.examples}
        for tokens in shown.keys() & kept.keys():
            np.testing.assert_allclose(kept[tokens], shown[tokens], atol=max(shown[tokens]) / 100)
        assert bool(shown.keys() & kept.keys()) or not shown


def test_labels_of_others_join_ours_and_keep_their_author_on_the_way_back(run, ours, neuronpedia, tmp_path):
    folder = tmp_path / SOURCE
    (folder / "features").mkdir(parents=True)
    (folder / "explanations").mkdir()
    (folder / "features" / "batch-0.jsonl.gz").write_bytes((neuronpedia / "toy" / SOURCE / "features" / "batch-0.jsonl.gz").read_bytes())
    said = {"typeName": "oai_token-act-pair", "explanationModelName": "gpt-4o-mini", "authorId": "someone"}
    row = {"id": "x", "modelId": "toy", "layer": SOURCE, "index": "3", "description": "words of the sea", **said}
    (folder / "explanations" / "batch-0.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    before = {label.labeller for label in ours.labels_of(3)}
    Import(path=folder, run=run.path, config=ImportConfig(source=SOURCE))()
    labels = {label.labeller: label for label in ours.labels_of(3)}
    assert labels.keys() == before | {"neuronpedia:gpt-4o-mini"}
    assert labels["neuronpedia:gpt-4o-mini"].text == "words of the sea"
    assert [row.index for row in ours.search("sea words")] == [3]
    export_features(run, SOURCE, tmp_path / "out", "neuronpedia")
    rows = lines(tmp_path / "out" / "v1" / "toy" / SOURCE / "explanations" / "batch-0.jsonl.gz")
    (back,) = [item for item in rows if item["explanationModelName"] == "gpt-4o-mini"]
    assert {name: back[name] for name in said} == said
    too_many = {**row, "index": "100000"}
    (folder / "explanations" / "batch-0.jsonl").write_text(json.dumps(too_many) + "\n", encoding="utf-8")
    with pytest.raises(Conflict, match="differ in size"):
        import_features(run, folder, SOURCE)


def test_latents_come_back_from_delphi_as_the_pass_had_collected_them(run, ours, cached):
    import_features(run, cached, "cached")
    again = Lab(run, "cached").features
    np.testing.assert_array_equal(again.column("count"), ours.column("count"))
    np.testing.assert_allclose(again.column("max"), ours.column("max"), rtol=2e-3)
    for index in np.flatnonzero(ours.column("count"))[:20].tolist():
        one, other = ours.feature(index), again.feature(index)
        assert other.bands[0].examples[0].tokens == one.bands[0].examples[0].tokens or one.bands[0].high == pytest.approx(
            other.bands[0].high, rel=2e-3
        )
        assert {label.text for label in again.labels_of(index)} == {ours.labels_of(index)[0].text}


def test_delphis_files_have_its_names_types_and_shapes(cached, ours):
    files = sorted((cached / "latents" / MODULE).glob("*.safetensors"), key=lambda file: int(file.stem.split("_")[0]))
    edges = [tuple(map(int, file.stem.split("_"))) for file in files]
    assert edges[0][0] == 0
    assert edges[-1][1] == ours.d_sae - 1
    assert all(end + 1 == first for (_, end), (first, _) in pairwise(edges))
    for file, (first, last) in zip(files, edges, strict=True):
        arrays = load_file(file)
        assert (arrays["locations"].dtype, arrays["activations"].dtype, arrays["tokens"].dtype) == (np.uint16, np.float16, np.int64)
        assert arrays["locations"][:, 2].max(initial=0) <= last - first
        assert arrays["locations"][:, 0].max(initial=0) < len(arrays["tokens"])
    assert json.loads((cached / "latents" / MODULE / "config.json").read_text())["model_name"] == "toy"


def test_scores_of_delphi_become_balanced_accuracy_with_failures_counted_as_wrong(tmp_path):
    (tmp_path / "explanations").mkdir()
    (tmp_path / "explanations" / "m_latent4.txt").write_text(json.dumps("animals"))
    (tmp_path / "scores" / "fuzz").mkdir(parents=True)
    rows = (
        [{"activating": True, "correct": True}] * 3 + [{"activating": True, "correct": None}] + [{"activating": False, "correct": True}] * 2
    )
    (tmp_path / "scores" / "fuzz" / "m_latent4.txt").write_text(json.dumps(rows))
    (tmp_path / "run_config.json").write_text(json.dumps({"explainer_model": "llama"}))
    ((index, label),) = delphi.read_labels(tmp_path, delphi.module_of(tmp_path, None))
    assert (index, label.text, label.labeller) == (4, "animals", "delphi:llama")
    (score,) = label.scores
    assert (score.scorer, score.metric, score.value, score.n) == ("delphi_fuzz", "balanced_accuracy", (3 / 4 + 1) / 2, 6)
    (tmp_path / "scores" / "fuzz" / "m_latent4.txt").write_text(json.dumps(rows[:3]))
    assert next(delphi.read_labels(tmp_path, "m"))[1].scores[0].failed
    (tmp_path / "scores" / "fuzz" / "m_latent4.txt").write_text('{"a": 1}')
    with pytest.raises(Corrupt, match="m_latent4"):
        next(delphi.read_labels(tmp_path, "m"))


def test_what_holds_no_features_or_is_torn_is_refused_by_name(run, neuronpedia, cached, tmp_path):
    with pytest.raises(Invalid, match="no features"):
        import_features(run, tmp_path, "none")
    with pytest.raises(NotFound, match=MODULE):
        import_features(run, cached, "none", hook="layers.3")
    torn = tmp_path / "features"
    torn.mkdir()
    for content, words in (('{"index": "0"}', "line 1 .* lacks modelId"), ('{"index"', "line 1 is no row"), ("[1]", "line 1 is no row")):
        (torn / "batch-0.jsonl").write_text(content, encoding="utf-8")
        with pytest.raises(Corrupt, match=words):
            import_features(run, tmp_path, "torn")
    with pytest.raises(Conflict, match="holds something"):
        export_features(run, SOURCE, neuronpedia, "neuronpedia")
    with pytest.raises(Conflict, match="saelab collect"):
        young = Run(run.path).source("young")
        young.finish("train", {}, {}, 0.0)
        import_features(run, cached, "young")
    file = next((cached / "latents" / MODULE).glob("*.safetensors"))
    (tmp_path / "latents" / "m").mkdir(parents=True)
    (tmp_path / "latents" / "m" / "0_9.safetensors").write_bytes(file.read_bytes()[:100])
    with pytest.raises(Corrupt, match=r"0_9.safetensors"):
        delphi.read_latents(tmp_path, "m")


def test_a_label_that_says_that_nothing_was_found_does_not_go_out(run, ours, tmp_path):
    ours.put_label(5, Label(text="no simple rule found", input_clause="", labeller="mine", found=False))
    export_features(run, SOURCE, tmp_path / "out", "neuronpedia")
    rows = lines(tmp_path / "out" / "v1" / "toy" / SOURCE / "explanations" / "batch-0.jsonl.gz")
    assert "no simple rule found" not in {row["description"] for row in rows}
