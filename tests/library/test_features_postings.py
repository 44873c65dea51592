import json
from dataclasses import replace

import numpy as np
import planted
import pytest
from safetensors import safe_open

from saelab.errors import Corrupt, NotFound
from saelab.features import postings
from saelab.features.collect import Part, Reader, collect, collect_together
from saelab.features.postings import Postings

CONFIG = replace(planted.CONFIG, postings=1.0)


@pytest.fixture(scope="module")
def dense() -> dict[tuple[int, int, int], float]:
    """Every activation by (window, position, feature): the slow and simple way."""
    dictionary, found = planted.PlantedDictionary(), {}
    for chunk in planted.chunks():
        codes = dictionary.encode(chunk.x).dense().numpy()
        for row, feature in zip(*np.nonzero(codes), strict=True):
            found[int(chunk.window[row]), int(chunk.position[row]), int(feature)] = float(codes[row, feature])
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Postings:
    folder = tmp_path_factory.mktemp("postings")
    collect(planted.PlantedDictionary(), planted.chunks(), planted.CORPUS, CONFIG, folder)
    return Postings(folder, planted.CORPUS)


def listed(firings) -> dict[tuple[int, int, int], float]:
    keys = zip(firings.window.tolist(), firings.position.tolist(), firings.feature.tolist(), strict=True)
    return dict(zip(keys, firings.value.tolist(), strict=True))


@pytest.mark.parametrize("feature", [planted.COURT, planted.SIGNED, planted.DENSE, planted.DEAD])
def test_a_feature_is_found_wherever_it_fires(whole, dense, feature):
    found = whole.feature(feature)
    assert listed(found) == {key: value for key, value in dense.items() if key[2] == feature}
    assert (found.document == planted.CORPUS.window_document[found.window]).all()
    assert (np.diff(found.window * 64 + found.position) > 0).all()


@pytest.mark.parametrize("document", [0, 5, 299])
def test_a_document_gives_all_that_fires_in_it(whole, dense, document):
    expected = {key: value for key, value in dense.items() if planted.CORPUS.window_document[key[0]] == document}
    assert listed(whole.document(document)) == expected


def test_document_vectors_are_maximum_mean_and_presence(whole, dense):
    codes: dict[tuple[int, int], list[float]] = {}
    for (window, _, feature), value in dense.items():
        codes.setdefault((int(planted.CORPUS.window_document[window]), feature), []).append(value)
    tokens = np.zeros(planted.CORPUS.num_documents)
    for chunk in planted.chunks():
        np.add.at(tokens, planted.CORPUS.window_document[chunk.window.numpy()], 1)
    expected = {name: np.zeros((planted.CORPUS.num_documents, planted.D_SAE)) for name in ("max", "mean", "binary")}
    for (document, feature), values in codes.items():
        expected["max"][document, feature] = max(values, key=lambda value: (abs(value), value))
        expected["mean"][document, feature] = sum(values) / tokens[document]
        expected["binary"][document, feature] = 1
    for name, wanted in expected.items():
        np.testing.assert_allclose(whole.vectors(name).toarray(), wanted, rtol=1e-6)
    assert expected["max"].min() < 0


def test_postings_of_parts_in_small_shards_are_the_same(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(postings, "_SHARD_ENTRIES", 1000)
    for number in range(2):
        reader = Reader(planted.PlantedDictionary(), planted.chunks(), tmp_path)
        collect_together([reader], planted.CORPUS, CONFIG, Part(number=number, of=2))
    collect(planted.PlantedDictionary(), planted.chunks(), planted.CORPUS, CONFIG, tmp_path)
    parted = Postings(tmp_path, planted.CORPUS)
    assert len(list((tmp_path / "postings").glob("*.safetensors"))) > 10
    for feature in range(planted.D_SAE):
        assert listed(parted.feature(feature)) == listed(whole.feature(feature))
    assert listed(parted.document(7)) == listed(whole.document(7))
    assert (parted.vectors("max") != whole.vectors("max")).nnz == 0


def test_shards_written_after_the_state_was_saved_do_not_count_twice(whole, tmp_path):
    class Killed(Exception):
        pass

    class Cut(planted.Chunks):
        def chunk(self, number):
            if number == 30:
                raise Killed
            return self[number]

    chunks = planted.chunks(size=20)
    with pytest.raises(Killed):
        collect(planted.PlantedDictionary(), Cut(chunks), planted.CORPUS, CONFIG, tmp_path)
    for file in tmp_path.glob("collect*.safetensors"):  # as if it had been killed before the state was saved
        file.unlink()
    with pytest.raises(NotFound, match="no postings"):
        Postings(tmp_path, planted.CORPUS)
    collect(planted.PlantedDictionary(), chunks, planted.CORPUS, CONFIG, tmp_path)
    resumed = Postings(tmp_path, planted.CORPUS)
    assert listed(resumed.feature(planted.DENSE)) == listed(whole.feature(planted.DENSE))


def test_where_room_is_short_a_uniform_sample_of_documents_is_kept_whole(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(postings, "_SHARD_ENTRIES", 4000)
    config = replace(CONFIG, postings=0.0003)
    collect(planted.PlantedDictionary(), planted.chunks(), planted.CORPUS, config, tmp_path)
    sample = Postings(tmp_path, planted.CORPUS)
    assert sum(file.stat().st_size for file in (tmp_path / "postings").glob("*.safetensors")) <= 300_000
    assert sample.share < 1
    assert abs(len(sample.documents) / 300 - sample.share) < 0.1
    document = min(sample.documents)
    assert listed(sample.document(document)) == listed(whole.document(document))
    lost = min(set(range(300)) - sample.documents)
    with pytest.raises(NotFound, match=f"of {len(sample.documents)} of 300 documents"):
        sample.document(lost)
    with safe_open(next((tmp_path / "postings").glob("*.safetensors")), framework="numpy") as shard:
        assert json.loads(shard.metadata()["postings"])["share"] == sample.share


def test_what_is_not_there_is_said(whole, tmp_path):
    with pytest.raises(NotFound, match="features are 0 to 39"):
        whole.feature(40)
    with pytest.raises(NotFound, match="nothing of document 300"):
        whole.document(300)
    (tmp_path / "postings").mkdir()
    (tmp_path / "postings" / "postings.json").write_text("{")
    with pytest.raises(Corrupt, match="not JSON"):
        Postings(tmp_path, planted.CORPUS)
    (tmp_path / "postings" / "postings.json").write_text('{"format": 9}')
    with pytest.raises(Corrupt, match="format 9"):
        Postings(tmp_path, planted.CORPUS)
