"""A lab: its parts, and activations on a text."""

from dataclasses import replace

import pytest
import torch
from folders import SOURCE

from saelab.errors import Invalid, NotFound
from saelab.lab import Lab, activations_on

TEXT = "the captain steered the rusty ship in the harbour."


@pytest.fixture(scope="module")
def lab(toy_run) -> Lab:
    return Lab(toy_run)


def test_the_only_dictionary_needs_no_name(lab, toy_run):
    assert lab.source == SOURCE
    assert Lab(str(toy_run.path), SOURCE).folder.path == lab.folder.path


def test_an_unknown_dictionary_lists_close_matches(toy_run):
    with pytest.raises(NotFound, match=f"'1-res-topp'.*Did you mean {SOURCE}"):
        Lab(toy_run, "1-res-topp")


def test_an_unknown_run_lists_close_matches(toy_run):
    with pytest.raises(NotFound, match="Did you mean .*toy"):
        Lab(toy_run.path.with_name("toi"))


def test_the_parts_belong_together(lab):
    assert lab.hook == lab.store.hook == "blocks.1.hook_resid_post"
    assert lab.dictionary.d_in == lab.store.d_in == 64
    assert lab.features.d_sae == lab.dictionary.d_sae == 256
    assert lab.policy == lab.store.policy == lab.corpus.policy
    assert not any(parameter.requires_grad for parameter in lab.dictionary.parameters())


def test_largest_activations_are_those_of_the_corpus(lab):
    found = lab.max_acts([5, 3])
    assert list(found) == [5, 3]
    most = max(float(lab.dictionary.encode(chunk.x.float()).dense()[:, 5].max()) for chunk in lab.store.chunks())
    assert found[5] == pytest.approx(most, rel=1e-5)


def test_the_features_of_a_text_are_its_strongest(lab):
    found = activations_on(lab, TEXT, top=5)
    assert "".join(found.tokens) == TEXT
    x = lab.subject.activations(torch.tensor([lab.subject.encode(TEXT)]), [lab.hook])[lab.hook][0]
    z = lab.dictionary.encode(x).dense()
    z[0] = 0
    strongest = z.abs().amax(0)
    assert [feature.index for feature in found.features] == strongest.topk(5).indices.tolist()
    for feature in found.features:
        assert feature.max == pytest.approx(float(strongest[feature.index]))
        assert feature.values == pytest.approx(tuple(z[:, feature.index].tolist()), abs=1e-4)
        assert feature.label == lab.features.rows([feature.index])[0].label


def test_the_first_position_does_not_count_and_shows_nothing(lab):
    found = activations_on(lab, TEXT, top=256)
    assert found.counted == (False, *[True] * (len(found.tokens) - 1))
    assert all(feature.values[0] == 0 for feature in found.features)


def test_special_tokens_do_not_count_and_show_nothing(lab):
    found = activations_on(lab, "the captain<eos> steered the ship", top=256)
    place = found.tokens.index("<eos>")
    assert not found.counted[place]
    assert all(feature.values[place] == 0 for feature in found.features)


def test_massive_activations_do_not_count_and_show_nothing(toy_run):
    lab = Lab(toy_run)
    lab.dictionary.provenance = replace(lab.dictionary.provenance, max_norm=0.0)
    found = activations_on(lab, TEXT)
    assert not any(found.counted)
    assert found.features == ()


def test_features_asked_for_come_in_the_order_asked_silent_ones_too(lab):
    silent = next(i for i in range(256) if i not in {feature.index for feature in activations_on(lab, TEXT, top=256).features})
    found = activations_on(lab, TEXT, [silent, 9, 2])
    assert [feature.index for feature in found.features] == [silent, 9, 2]
    assert found.features[0].max == 0
    assert set(found.features[0].values) == {0}


def test_only_features_that_fire_are_given(lab):
    assert all(feature.max > 0 for feature in activations_on(lab, TEXT, top=10_000).features)
    assert activations_on(lab, TEXT, top=0).features == ()


@pytest.mark.parametrize("feature", [-1, 256])
def test_a_feature_out_of_range_is_refused(lab, feature):
    with pytest.raises(NotFound, match=rf"no feature {feature} .*0 to 255"):
        activations_on(lab, TEXT, [feature])


def test_an_empty_text_is_refused(lab):
    with pytest.raises(Invalid, match="0 tokens.*from 1 to 64"):
        activations_on(lab, "")


def test_a_text_that_the_subject_cannot_read_is_refused(lab):
    with pytest.raises(Invalid, match="has 65 tokens.*from 1 to 64"):
        activations_on(lab, " the" * 65)


def test_a_text_of_one_token_shows_nothing(lab):
    found = activations_on(lab, "ship")
    assert (len(found.tokens), found.counted, found.features) == (1, (False,), ())


def test_with_a_beginning_token_it_is_the_one_that_does_not_count(toy_run):
    lab = Lab(toy_run)
    lab.corpus.policy = replace(lab.policy, prepend_bos=True)
    found = activations_on(lab, "the ship")
    assert found.tokens[0] == "<bos>"
    assert found.counted == (False, True, True)
