"""A value that adds fields to another one."""

from pydantic import TypeAdapter

from saelab.values import from_dict, to_dict, value


@value
class Plain:
    """The first one."""

    size: int = 3
    """How large it is,
    in words."""


@value
class Longer(Plain):
    """The second one."""

    name: str
    """What it is called."""


def test_inherited_fields_keep_their_descriptions():
    found = TypeAdapter(Longer).json_schema()["properties"]
    assert {name: field["description"] for name, field in found.items()} == {
        "size": "How large it is,\nin words.",
        "name": "What it is called.",
    }


def test_inherited_fields_are_saved_and_read():
    assert from_dict(Longer, to_dict(Longer(name="a", size=5))) == Longer(name="a", size=5)
