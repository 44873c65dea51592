"""What many tests share: the toy world from text to scored labels, made once."""

import pytest

from saelab import recipes
from saelab.run import Run


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory) -> Run:
    """A finished run of the recipe `toy`, not to be changed."""
    run = Run(tmp_path_factory.mktemp("toy") / "runs" / "toy")
    recipes.make(run, recipes.toy())
    return run
