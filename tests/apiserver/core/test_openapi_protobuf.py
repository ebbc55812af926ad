"""OpenAPI v2 as protobuf: read back field by field, it says what the JSON document says."""

from __future__ import annotations

import json
from typing import Any

from pinnace.apiserver import openapi, openapi_protobuf
from pinnace.apiserver.protobuf import parse
from pinnace.apiserver.resources.table import RESOURCES


def fields(data: bytes) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for number, value in parse(data):
        found.setdefault(number, []).append(bytes(value) if not isinstance(value, int) else value)
    return found


def named(entries: list[bytes]) -> dict[str, bytes]:
    pairs = map(fields, entries)
    return {pair[1][0].decode(): pair.get(2, [b""])[0] for pair in pairs}


def test_every_schema_is_there_with_its_properties_and_extensions() -> None:
    document = openapi.v2(RESOURCES)
    whole = fields(openapi_protobuf.encode(document))
    assert whole[1] == [b"2.0"]
    definitions = named(fields(whole[9][0])[1])
    assert definitions.keys() == document["definitions"].keys()
    for name, schema in document["definitions"].items():
        read = fields(definitions[name])
        properties = named(fields(read[25][0])[1]) if 25 in read else {}
        assert properties.keys() == (schema.get("properties") or {}).keys(), name
        assert [text.decode() for text in read.get(19, [])] == list(schema.get("required") or [])
        extensions = {key: json.loads(fields(value)[2][0]) for key, value in named(read.get(31, [])).items()}
        assert extensions == {key: value for key, value in schema.items() if key.startswith("x-")}


def test_types_items_and_references() -> None:
    schema = {"type": "array", "items": {"$ref": "#/definitions/A"}, "description": "d"}
    document = {"swagger": "2.0", "info": {"title": "t", "version": "v"}, "definitions": {"L": schema}}
    read = fields(named(fields(fields(openapi_protobuf.encode(document))[9][0])[1])["L"])
    assert fields(read[22][0])[1] == [b"array"]
    assert fields(fields(read[23][0])[1][0])[1] == [b"#/definitions/A"]
    assert read[4] == [b"d"]
