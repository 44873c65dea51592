import pytest

from saelab.dictionary import DICTIONARIES
from saelab.testing import DICTIONARY_CHECKS


@pytest.mark.parametrize("name", DICTIONARIES)
@pytest.mark.parametrize("check", DICTIONARY_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_every_dictionary_keeps_the_contract(name, check, tmp_path):
    check(DICTIONARIES[name], tmp_path)


def test_the_architectures_are_known():
    assert set(DICTIONARIES) >= {"topk", "jumprelu", "neurons", "random", "pca"}
