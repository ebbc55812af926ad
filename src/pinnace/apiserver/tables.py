"""Other ways to see objects: printed tables and metadata only (meta.k8s.io Table and PartialObjectMetadata)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from pinnace.api import codec
from pinnace.api.errors import BadRequest
from pinnace.apiserver.cache import Entry, Form
from pinnace.apiserver.negotiation import Format
from pinnace.apiserver.options import Query, text
from pinnace.apiserver.resource import Column, Resource
from pinnace.client.transport import WatchLine

_NAME: Column[Any] = Column(
    "Name", lambda thing, _: thing.metadata.name or "", format="name", description="Name of the object."
)
_CREATED: Column[Any] = Column(
    "Created At", lambda thing, _: thing.metadata.creationTimestamp, type="date", description="When it was created."
)
FALLBACK: tuple[Column[Any], ...] = (_NAME, _CREATED)


def included(query: Query) -> str:
    """What of the object goes with each row: None, Metadata (unless told otherwise) or Object. Raises BadRequest."""
    asked = text(query, "includeObject")
    if asked not in ("", "None", "Metadata", "Object"):
        raise BadRequest(f'unrecognized includeObject value: "{asked}"')
    return asked or "Metadata"


def definitions(columns: Sequence[Column[Any]]) -> list[dict[str, Any]]:
    return [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        }
        for column in columns
    ]


def metadata_only(entry: Entry, version: str = "v1") -> bytes:
    """A PartialObjectMetadata of it."""
    head = f'{{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/{version}","metadata":'.encode()
    return head + codec.encode(entry.object.metadata) + b"}"


class Tables:
    """Renders entries of one resource for one request."""

    def __init__(self, resource: Resource[Any], form: Form, format: Format, query: Query, now: datetime) -> None:
        self._columns = resource.columns or FALLBACK
        self._form = form
        self._version = format.version
        self._include = included(query)
        self._now = now

    def table(self, entries: Iterable[Entry], metadata: dict[str, Any], *, header: bool = True) -> bytes:
        rows = b",".join([self._row(entry) for entry in entries])
        columns = codec.encode(definitions(self._columns)) if header else b"null"
        return b'{"kind":"Table","apiVersion":"meta.k8s.io/%b","metadata":%b,"columnDefinitions":%b,"rows":[%b]}' % (
            self._version.encode(), codec.encode(metadata), columns, rows,
        )  # fmt: skip

    def _row(self, entry: Entry) -> bytes:
        cells = codec.encode([column.cell(entry.object, self._now) for column in self._columns])
        match self._include:
            case "Metadata":
                obj = metadata_only(entry, self._version)
            case "Object":
                obj = self._form.whole(entry.item)
            case _:
                obj = b"null"
        return b'{"cells":%b,"object":%b}' % (cells, obj)


class TableEvents:
    """Watch events as tables of one row. Only the first names the columns, as upstream."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._first = True

    def __call__(self, type: str, entry: Entry) -> WatchLine:
        metadata = {"resourceVersion": entry.object.metadata.resourceVersion}
        entries = (entry,) if type != "BOOKMARK" else ()
        table = self._tables.table(entries, metadata, header=self._first)
        self._first = False
        return WatchLine(type, None, b'{"type":"%b","object":%b}\n' % (type.encode(), table))


def metadata_event(version: str) -> Any:
    """Watch events that carry metadata only."""

    def render(type: str, entry: Entry) -> WatchLine:
        return WatchLine(
            type, None, b'{"type":"%b","object":%b}\n' % (type.encode(), metadata_only(entry, version))
        )

    return render
