"""Two processes for all tests here."""

import pytest
from crew import Crew


@pytest.fixture(scope="package")
def crew():
    made = Crew(2)
    yield made
    made.close()
