import json
import shutil
from dataclasses import replace

import pytest
import torch
from folders import SOURCE, copied

from saelab import stages
from saelab.analyses.quality import EvaluateConfig, evaluate
from saelab.baselines.itda import ITDA
from saelab.errors import Conflict, Invalid, NotFound
from saelab.exchange import ImportConfig, export_dictionary, import_dictionary
from saelab.features.collect import CollectConfig
from saelab.interop.base import write_foreign
from saelab.lab import Lab
from saelab.saes.crosscoder import Crosscoder
from saelab.saes.topk import TopK
from saelab.saes.transcoder import Transcoder
from saelab.training import TrainConfig

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def run(toy_run, tmp_path_factory):
    """The toy run, to be changed."""
    return copied(toy_run, tmp_path_factory.mktemp("exchange") / "run")


@pytest.fixture(scope="module")
def foreign(run, tmp_path_factory):
    """The toy run's dictionary as sparsify would have it, which says neither model nor hook."""
    folder = tmp_path_factory.mktemp("foreign") / "sae"
    export_dictionary(run, SOURCE, folder, "sparsify")
    return folder


def test_what_is_imported_is_measured_and_collected_like_what_was_trained(run, foreign):
    import_dictionary(run, foreign, ImportConfig(source="foreign", hook=HOOK))
    lab, trained = Lab(run, "foreign"), Lab(run, SOURCE)
    assert lab.dictionary.provenance == trained.dictionary.provenance
    x = next(iter(trained.store.chunks())).x.float()
    assert torch.allclose(lab.dictionary.encode(x).dense(), trained.dictionary.encode(x).dense(), atol=1e-4)
    stages.evaluate(run, EvaluateConfig(windows=8), "foreign")
    stages.collect(run, CollectConfig(), "foreign")
    assert lab.features.num_tokens == trained.features.num_tokens
    facts = run.source("foreign").need("train").facts
    assert (facts["architecture"], facts["hook"], facts["d_sae"]) == ("topk", HOOK, lab.dictionary.d_sae)


def test_a_hook_that_was_not_captured_is_captured_as_the_others_were(run, foreign):
    import_dictionary(run, foreign, ImportConfig(source="elsewhere", hook="blocks.0.hook_resid_post"))
    assert "blocks.0.hook_resid_post" in run.need("capture").facts["hooks"]
    assert Lab(run, "elsewhere").store.d_in == 64


def test_importing_again_does_nothing_and_otherwise_is_refused(run, foreign):
    config = ImportConfig(source="again", hook=HOOK)
    import_dictionary(run, foreign, config)
    before = (run.source("again").path / "train.json").read_bytes()
    import_dictionary(run, foreign, config)
    assert (run.source("again").path / "train.json").read_bytes() == before
    with pytest.raises(Conflict, match="hook: 'blocks.1.hook_resid_post', now 'blocks.0.hook_mlp_out'"):
        import_dictionary(run, foreign, replace(config, hook="blocks.0.hook_mlp_out"))


def said(folder, **metadata):
    """What the files say, changed."""
    file = folder / "cfg.json"
    settings = json.loads(file.read_text())
    del settings["metadata"]["saelab"]
    file.write_text(json.dumps({**settings, "metadata": {**settings["metadata"], **metadata}}))
    return folder


def test_another_model_or_other_windows_are_refused_unless_the_user_says_so(run, tmp_path):
    export_dictionary(run, SOURCE, tmp_path / "sae", "saelens")
    folder = said(tmp_path / "sae", model_name="org/Other-Model", prepend_bos=True)
    with pytest.raises(Conflict, match="made for the model org/Other-Model; .* with toy.*--model toy"):
        import_dictionary(run, folder, ImportConfig(source="other"))
    with pytest.raises(Conflict, match="windows with the beginning-of-sequence token; those of .* without it.*--prepend-bos False"):
        import_dictionary(run, folder, ImportConfig(source="other", model="toy"))
    import_dictionary(run, folder, ImportConfig(source="other", model="toy", prepend_bos=False))
    assert Lab(run, "other").hook == HOOK


def test_a_dictionary_that_does_not_fit_is_refused_before_anything_is_captured(run, foreign):
    before = run.need("capture").facts["hooks"]
    with pytest.raises(Invalid, match="does not say where the dictionary reads. Name the hook: --hook"):
        import_dictionary(run, foreign, ImportConfig(source="lost"))
    with pytest.raises(NotFound, match="Unknown hook of toy"):
        import_dictionary(run, foreign, ImportConfig(source="lost", hook="blocks.7.hook_resid_post"))
    with pytest.raises(Invalid, match="reads activations of width 64; those of blocks.1.mlp.hook_post .* have width"):
        import_dictionary(run, foreign, ImportConfig(source="lost", hook="blocks.1.mlp.hook_post"))
    assert run.need("capture").facts["hooks"] == before
    assert "lost" not in run.sources()


def test_two_dictionaries_never_share_a_folder(run, foreign):
    with pytest.raises(Conflict, match="holds something already"):
        export_dictionary(run, SOURCE, foreign, "saelens")


READ, WRITTEN = "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"


@pytest.fixture(scope="module")
def transcoder(tmp_path_factory):
    """A transcoder as sparsify would have it, in a folder whose name says the module that it stands for."""
    made = Transcoder(64, Transcoder.Config(d_sae=96, k=4, selection="topk"))
    made.initialise(torch.randn(500, 128, generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("foreign") / "layers.1.mlp"
    write_foreign(made, folder, "sparsify")
    return folder


def test_a_transcoder_is_told_where_it_reads_and_where_it_writes(run, transcoder):
    import_dictionary(run, transcoder, ImportConfig(source="across"))
    lab = Lab(run, "across")
    assert (lab.origin.hook, lab.origin.target_hook) == (READ, WRITTEN)
    assert {READ, WRITTEN} <= set(run.need("capture").facts["hooks"])
    assert lab.store.d_in == 128
    assert evaluate(lab, EvaluateConfig(windows=8)).fvu.value > 0


def test_a_transcoder_whose_target_is_not_known_is_refused_and_so_is_a_target_of_another_dictionary(run, foreign, transcoder, tmp_path):
    nameless = shutil.copytree(transcoder, tmp_path / "nameless")
    with pytest.raises(Invalid, match="does not say where the transcoder writes. Name it: --target-hook"):
        import_dictionary(run, nameless, ImportConfig(source="lost", hook=READ))
    with pytest.raises(Invalid, match=r"writes activations of width 64; those of blocks.1.mlp.hook_post .* have width"):
        import_dictionary(run, nameless, ImportConfig(source="lost", hook=READ, target_hook="blocks.1.mlp.hook_post"))
    with pytest.raises(Invalid, match="holds a topk, which writes where it reads"):
        import_dictionary(run, foreign, ImportConfig(source="lost", hook=HOOK, target_hook=WRITTEN))
    assert "lost" not in run.sources()


def test_a_matching_pursuit_of_saelens_comes_in_as_itda(run, tmp_path):
    rows = torch.cat([chunk.x for chunk in Lab(run, SOURCE).store.chunks()]).float()
    write_foreign(ITDA.fit(rows, k=4, d_sae=96), tmp_path / "pursuit", "saelens")
    import_dictionary(run, tmp_path / "pursuit", ImportConfig(source="pursuit", hook=HOOK))
    assert isinstance(Lab(run, "pursuit").dictionary, ITDA)
    assert evaluate(Lab(run, "pursuit"), EvaluateConfig(windows=8)).fvu.value < 1


def test_a_folder_of_ones_own_keeps_what_it_was_trained_on(run, tmp_path):
    own = shutil.copytree(run.source(SOURCE).path, tmp_path / "own")
    file = own / "cfg.json"
    settings = json.loads(file.read_text())
    settings["metadata"]["model_name"] = "base"
    settings["metadata"]["saelab"]["provenance"] |= {"model": "base", "max_norm": 12.5}
    file.write_text(json.dumps(settings))
    with pytest.raises(Conflict, match="made for the model base"):
        import_dictionary(run, own, ImportConfig(source="own"))
    import_dictionary(run, own, ImportConfig(source="own", model="toy"))
    lab = Lab(run, "own")
    assert lab.origin == replace(Lab(run, SOURCE).origin, model="base", max_norm=12.5)
    stages.evaluate(run, EvaluateConfig(windows=8), "own")
    facts = run.source("own").need("evaluate").facts
    assert (facts["model"], facts["trained_on"]) == ("toy", "base")


@pytest.mark.parametrize("pooled", [False, True])
def test_a_folder_of_ones_own_with_several_hooks_comes_in_as_it_was(run, tmp_path, pooled):
    beside, name = "blocks.0.hook_resid_post", f"several-{pooled}"
    stages.capture_hooks(run, (HOOK, beside))
    config = stages.TrainStage(
        hook=HOOK, beside=(beside,), pooled=pooled, source=name, train=TrainConfig(steps=2, batch_size=64, sample=256)
    )
    stages.train(run, config, (TopK if pooled else Crosscoder).Config(d_sae=32, k=4))
    import_dictionary(run, shutil.copytree(run.source(name).path, tmp_path / "own"), ImportConfig(source=f"again-{pooled}"))
    lab, before = Lab(run, f"again-{pooled}"), Lab(run, name)
    assert (lab.dictionary.architecture, lab.origin) == (before.dictionary.architecture, before.origin)
    assert evaluate(lab, EvaluateConfig(windows=4)).fvu.value == evaluate(before, EvaluateConfig(windows=4)).fvu.value


def test_a_dictionary_of_bare_vectors_is_told_its_hook_and_takes_the_runs_windows(run, tmp_path):
    own = shutil.copytree(run.source(SOURCE).path, tmp_path / "own")
    settings = json.loads((own / "cfg.json").read_text())
    settings["metadata"] |= {"model_name": "embeddings", "hook_name": "vectors"}
    settings["metadata"]["saelab"]["provenance"] |= {"model": "embeddings", "hook": "vectors", "context": 1}
    (own / "cfg.json").write_text(json.dumps(settings))
    with pytest.raises(Invalid, match="does not say where the dictionary reads"):
        import_dictionary(run, own, ImportConfig(source="bare"))
    import_dictionary(run, own, ImportConfig(source="bare", hook=HOOK))
    assert Lab(run, "bare").origin == Lab(run, SOURCE).origin
