"""The committed description of the API is the application's, and the application keeps to it."""

import json
import re
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import checks
from service_doubles import MODEL, SOURCE

from saelab_server.openapi import text

RIGHT = {"model": MODEL, "source": SOURCE, "run": "demo", "name": "training", "number": "0"}
KEPT = [checks.content_type_conformance, checks.response_schema_conformance, checks.status_code_conformance]
FILE = Path(__file__).parents[2] / "server" / "openapi.json"


def test_the_committed_description_is_up_to_date():
    assert FILE.read_text() == text(), "run: make types"


def test_every_operation_and_field_is_described():
    document = json.loads(text())
    for path in document["paths"].values():
        for operation in path.values():
            assert re.fullmatch(r"[a-z]+-[a-z]+", operation["operationId"])
            assert operation["description"]
    for name, schema in document["components"]["schemas"].items():
        assert schema["description"], name
        for field, described in schema["properties"].items():
            assert described.get("description") or "$ref" in described, f"{name}.{field}"


def test_answers_have_all_their_fields():
    schemas = json.loads(text())["components"]["schemas"]
    assert set(schemas["Score"]["required"]) == set(schemas["Score"]["properties"])
    assert schemas["SteerRequest"]["required"] == ["prompt", "interventions"]


@pytest.fixture
def described(make_client):
    with make_client(allowed_hosts=("testserver",)) as client:
        yield schemathesis.openapi.from_asgi("/openapi.json", client.app)


def test_the_application_keeps_to_its_description(described):
    """Whatever is sent, the answer has a documented type and shape, and is never an unexpected failure."""
    for found in described.get_all_operations():

        @settings(max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
        @given(case=found.ok().as_strategy())
        def hold(case):
            case.path_parameters.update({name: RIGHT[name] for name in case.path_parameters if name in RIGHT})
            case.call_and_validate(checks=[checks.not_a_server_error, *KEPT])

        hold()
