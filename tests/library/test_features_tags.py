"""Tags: planted cases on either side of each threshold."""

import numpy as np
import pytest

from saelab.features.tags import LEAST, Sampled, Tagger, TextKinds, is_code, is_foreign, kuiper

STRINGS = ["<|start|>", " the", " The", "cat", " dog", "[SEP]", *(f"w{i}" for i in range(60))]
TEXTS = ["def run(self):\n    return x.get(1);\n", "Это русский текст", "the cat sat on the mat and slept", "plain words of a story"]


def sampled(peak, previous=None, position=None, row=None, n=20):
    random = np.random.default_rng(0)
    filler = random.permutation(60)[:n] + 6
    return Sampled(
        peak=np.array(filler if peak is None else peak),
        previous=np.array(filler[::-1] if previous is None else previous),
        position=np.array(np.linspace(0, 127, n).astype(int) if position is None else position),
        row=np.array([2, 3] * (n // 2) if row is None else row),
    )


@pytest.fixture(scope="module")
def tagger():
    kinds = TextKinds.of(TEXTS, ["", "", "", ""])
    return Tagger(STRINGS, [1], kinds, np.array([2, 3, 2, 3]), np.arange(128))


def test_density_gives_dead_and_dense(tagger):
    assert tagger.tags(0.0, sampled([], [], [], [], n=0)) == ("dead",)
    assert tagger.tags(0.1, sampled(None)) == ()
    assert tagger.tags(0.11, sampled(None)) == ("dense",)


def test_one_token_in_four_fifths_of_the_peaks_makes_a_token_feature_whatever_its_form(tagger):
    peaks = [3] * 15 + [40, 41, 42, 43, 44]
    assert tagger.tags(0.01, sampled(peaks)) == ()
    assert tagger.tags(0.01, sampled([3] * 16 + [40, 41, 42, 43])) == ("token",)
    assert "token" in tagger.tags(0.01, sampled([1, 2] * 10))


def test_one_token_before_the_peak_makes_an_ngram_feature(tagger):
    assert tagger.tags(0.01, sampled(None, [4] * 20)) == ("ngram",)
    assert tagger.tags(0.01, sampled([3] * 20, [4] * 20)) == ("token", "ngram")
    assert tagger.tags(0.01, sampled(None, [4] * 15 + [-1] * 5)) == ()


def test_peaks_that_keep_to_a_few_places_anywhere_in_the_window_make_a_positional_feature(tagger):
    assert tagger.tags(0.01, sampled(None, position=[60 + i % 8 for i in range(20)])) == ("positional",)
    assert tagger.tags(0.01, sampled(None, position=[1] * 20)) == ("positional",)
    assert tagger.tags(0.01, sampled(None, position=np.arange(20) * 3)) == ()


def test_special_tokens_at_the_peak_or_before_it_make_a_special_feature(tagger):
    assert tagger.tags(0.01, sampled([0, 5] * 10)) == ("special",)
    assert tagger.tags(0.01, sampled(None, [0, 5] * 10)) == ("special",)
    assert "special" in tagger.tags(0.01, sampled([1] * 20)), "the subject says that token 1 is special"


def test_code_and_other_languages_are_told_from_english(tagger):
    assert tagger.tags(0.01, sampled(None, row=[0] * 20)) == ("code",)
    assert tagger.tags(0.01, sampled(None, row=[1] * 20)) == ("language",)
    assert tagger.tags(0.01, sampled(None, row=[1] * 15 + [2] * 5)) == ()


def test_what_most_of_the_pool_is_tells_nothing_of_a_feature():
    russian = Tagger(STRINGS, [], TextKinds.of(TEXTS, [""] * 4), np.array([1, 1, 2]), np.arange(128))
    assert russian.tags(0.01, sampled(None, row=[1] * 20)) == ()
    assert russian.tags(0.01, sampled(None, row=[0] * 20)) == ("code",)


def test_too_few_segments_say_nothing(tagger):
    assert tagger.tags(0.01, sampled([3] * (LEAST - 1), [4] * (LEAST - 1), [1] * (LEAST - 1), [0] * (LEAST - 1), n=LEAST - 1)) == ()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("for (int i = 0; i < n; i++) {\n  total += a[i];\n}\n", True),
        ("import numpy as np\nx = np.zeros(3)\n", True),
        ("<div><p>Hello</p><br/></div>", True),
        ("He said: I will return; my class begins at ten (or so).", False),
        ("The public should import the return of 3 books.", False),
    ],
)
def test_program_text_is_told_by_two_marks(text, code):
    assert is_code(text) is code
    assert is_code("plain", "github-code")


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("Le chat est sur la table et il ne veut pas descendre", True),
        ("Der Hund ist nicht in dem Haus und schläft", True),
        ("El perro no está en la casa", True),
        ("日本語のテキスト", True),
        ("He met the man in La Paz and went on to a cafe", False),
        ("1984 + 5 = ?", False),
    ],
)
def test_other_languages_are_told_by_script_or_function_words(text, foreign):
    assert is_foreign(text) is foreign


def test_kuipers_distance_is_0_for_the_whole_and_the_missing_share_for_an_interval():
    everything = np.arange(1000)
    assert kuiper(everything, everything) == pytest.approx(0, abs=1e-9)
    for low in (0, 300, 800):
        assert kuiper(np.arange(low, low + 200), everything) == pytest.approx(0.8)
    assert kuiper(np.array([]), everything) == 0
