"""From wire types to OpenAPI schemas: properties, formats, list types and merge keys, by upstream's names.

Pure; the generated Structs and `api/merge_table.py` know it all, but for descriptions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from pinnace.api.kinds import Kind
from pinnace.api.merge_table import MERGE
from pinnace.api.meta import v1 as meta
from pinnace.api.shapes import Shape, fields_of

_META = "io.k8s.apimachinery.pkg.apis.meta.v1"
_ROOTS = {
    "meta": "io.k8s.apimachinery.pkg.apis.meta",
    "apiextensions": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions",
    "apiregistration": "io.k8s.kube-aggregator.pkg.apis.apiregistration",
    "version": "io.k8s.apimachinery.pkg.version",
}
_SCALARS: dict[str, tuple[str, dict[str, Any]]] = {
    "time": (f"{_META}.Time", {"type": "string", "format": "date-time"}),
    "microtime": (f"{_META}.MicroTime", {"type": "string", "format": "date-time"}),
    "quantity": (
        "io.k8s.apimachinery.pkg.api.resource.Quantity",
        {"oneOf": [{"type": "string"}, {"type": "number"}]},
    ),
    "intstr": (
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
    ),
    "fieldsv1": (f"{_META}.FieldsV1", {"type": "object"}),
    "any": ("io.k8s.apimachinery.pkg.runtime.RawExtension", {"type": "object"}),
}
# OpenAPI v2 has no oneOf.
_PLAIN = {"quantity": {"type": "string"}, "intstr": {"type": "string", "format": "int-or-string"}}

Schema = dict[str, Any]
Row = tuple[str, str, str, tuple[str, ...], str, str]
_NO_ROW: Row = ("", "", "", (), "", "")


def name_of(struct: type[Any]) -> str:
    """`pinnace.api.apps.v1.Deployment` → `io.k8s.api.apps.v1.Deployment`."""
    group, version = struct.__module__.rsplit(".", 2)[-2:]
    return f"{_ROOTS.get(group, f'io.k8s.api.{group}')}.{version}.{struct.__name__}"


class Schemas:
    """Collects the schemas of types and of all that they are made of. `root` is where references point."""

    def __init__(self, root: str, *, v2: bool = False) -> None:
        self.found: dict[str, Schema] = {}
        self._root = root
        self._v2 = v2

    def add(self, struct: type[Struct], kinds: Iterable[Kind] = ()) -> str:
        """The name under which the type is found; `kinds` says which kinds it is."""
        name = name_of(struct)
        if name not in self.found:
            self.found[name] = {}      # types hold each other: JSONSchemaProps holds itself
            self.found[name].update(self._object(struct))
        gvks = [{"group": kind.group, "version": kind.version, "kind": kind.kind} for kind in kinds]
        if gvks:
            self.found[name]["x-kubernetes-group-version-kind"] = gvks
        return name

    def reference(self, name: str) -> Schema:
        return {"$ref": f"{self._root}{name}"}

    def around(self, reference: Schema) -> Schema:
        """Room for more beside a reference: in v3 nothing else counts in the same place."""
        return reference if self._v2 else {"allOf": [reference]}

    def _object(self, struct: type[Struct]) -> Schema:
        group, version = struct.__module__.rsplit(".", 2)[-2:]
        table = MERGE.get(f"{group}/{version}:{struct.__name__}", {})
        properties: Schema = {}
        required: list[str] = []
        for field in fields_of(struct).values():
            row = table.get(field.wire, _NO_ROW)
            if field.wire == "fieldsV1":
                row = (*row[:5], "fieldsv1")
            schema = self._field(field.shape, row)
            if not field.optional and field.wire not in ("kind", "apiVersion", "metadata", "spec", "status"):
                if field.shape.struct is None:
                    required.append(field.wire)
                else:
                    schema = {**schema, "default": {}}
            properties[field.wire] = schema
        found: Schema = {"type": "object", "properties": properties}
        if required:
            found["required"] = required
        return found

    def _field(self, shape: Shape, row: Row) -> Schema:
        strategies, merge_key, list_type, map_keys, format, scalar = row
        schema = self._shape(shape, format, scalar)
        extra: Schema = {}
        if list_type:
            extra[f"x-kubernetes-{'list' if shape.form == 'list' else 'map'}-type"] = list_type
        if map_keys:
            extra["x-kubernetes-list-map-keys"] = list(map_keys)
        if strategies:
            extra["x-kubernetes-patch-strategy"] = strategies
        if merge_key:
            extra["x-kubernetes-patch-merge-key"] = merge_key
        if "$ref" in schema and not self._v2:
            # Beside a reference nothing else counts: what is said of the field goes around it.
            return {"allOf": [schema], **extra}
        return {**schema, **extra}

    def _shape(self, shape: Shape, format: str, scalar: str) -> Schema:
        if shape.struct is not None:
            return self.reference(self.add(shape.struct))
        if scalar in _SCALARS:
            name, schema = _SCALARS[scalar]
            self.found.setdefault(name, _PLAIN.get(scalar, schema) if self._v2 else schema)
            return self.reference(name)
        match shape.form:
            case "list" if shape.inner is not None:
                return {"type": "array", "items": self._shape(shape.inner, format, scalar.removeprefix("[]"))}
            case "map" if shape.inner is not None:
                values = self._shape(shape.inner, format, scalar.removeprefix("{}"))
                return {"type": "object", "additionalProperties": values}
            case _:
                return _plain(shape.zero, format)


def _plain(zero: Any, format: str) -> Schema:
    schema: Schema
    match zero:
        case bool():
            return {"type": "boolean"}
        case int():
            schema = {"type": "integer"}
        case float():
            schema = {"type": "number"}
        case str():
            schema = {"type": "string"}
        case _:
            return {"type": "object"}
    return {**schema, "format": format} if format else schema


def list_schema(schemas: Schemas, kind: Kind) -> str:
    """The list of a kind, which needs no Struct of its own."""
    item = schemas.add(kind.type)
    name = f"{item}List"
    listmeta = schemas.add(meta.ListMeta)
    schemas.found[name] = {
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": schemas.around(schemas.reference(listmeta)),
            "items": {"type": "array", "items": schemas.reference(item)},
        },
        "x-kubernetes-group-version-kind": [{"group": kind.group, "version": kind.version, "kind": kind.list_kind}],
    }
    return name

