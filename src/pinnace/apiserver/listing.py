"""Lists: which moment they show, page by page, and the token that carries on.

The newest state comes from the watch cache; an older one (a later page, an exact revision) from the store's
history, unless nothing of the kind has changed since.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import dataclass
from typing import Any

import msgspec

from pinnace.api import errors, fields
from pinnace.api.fields import FieldError
from pinnace.apiserver.cache import Entry
from pinnace.apiserver.feed import Feed, decode
from pinnace.apiserver.options import Query, flag, number, text
from pinnace.apiserver.registry import Registry
from pinnace.apiserver.selection import Selection
from pinnace.store.store import Compacted, FutureRevision, Store

_PAGE = 1000                # entries read at a time from history while a selector picks
_BEHIND_SECONDS = 60.0      # how long a read waits for the caches to catch up with the store
_FRESH_SECONDS = 3.0        # how long a request waits for a revision that has not come yet
_INCONSISTENT = -1          # revision of a token that goes on with whatever is newest

_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)
_REVISION_TOO_OLD = "The resourceVersion for the provided list is too old."
_TOO_LARGE = "ResourceVersionTooLarge"


class ExpiredToken(errors.Expired):
    """Carries a token with which the list can be finished all the same."""

    def __init__(self, token: str) -> None:
        super().__init__(_TOO_OLD)
        self._token = token

    def status(self) -> dict[str, Any]:
        return super().status() | {"metadata": {"continue": self._token}}


class _Token(msgspec.Struct):
    v: str
    rv: int
    start: str


_read_token = msgspec.json.Decoder(_Token).decode


def encode_token(revision: int, after: str) -> str:
    """Opaque to clients: the moment and the last key that was shown."""
    raw = msgspec.json.encode(_Token("meta.k8s.io/v1", revision, after + "\0"))
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode_token(token: str) -> tuple[int, str]:
    """Raises BadRequest."""
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        found = _read_token(raw)
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise errors.BadRequest(f"continue key is not valid: {error}") from error
    if found.v != "meta.k8s.io/v1" or not found.start or found.rv < _INCONSISTENT or found.rv == 0:
        raise errors.BadRequest("continue key is not valid")
    if found.rv >= 2**63 or ".." in found.start.split("/"):
        raise errors.BadRequest("continue key is not valid")
    return found.rv, found.start.removesuffix("\0")


@dataclass(frozen=True, slots=True)
class ListOptions:
    """Parsed and checked. `revision` None: the newest."""

    limit: int = 0
    token: str = ""
    revision: int | None = None
    match: str = ""

    @property
    def exact(self) -> bool:
        """Only the asked-for revision will do; without a match, upstream reads a limit that way."""
        return self.match == "Exact" or bool(not self.match and self.limit and self.revision)


_NEWEST = ListOptions()


def list_options(query: Query) -> ListOptions:
    """Raises Invalid, BadRequest."""
    if not query:
        return _NEWEST
    limit, token = number(query, "limit") or 0, text(query, "continue")
    revision, match = parse_revision(text(query, "resourceVersion")), text(query, "resourceVersionMatch")
    findings: list[FieldError] = []
    path = "resourceVersionMatch"
    if flag(query, "sendInitialEvents"):
        findings.append(fields.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"))
    if match:
        if revision is None:
            findings.append(
                fields.forbidden(path, "resourceVersionMatch is forbidden unless resourceVersion is provided")
            )
        if token:
            findings.append(fields.forbidden(path, "resourceVersionMatch is forbidden when continue is provided"))
        if match not in ("Exact", "NotOlderThan"):
            findings.append(fields.not_supported(path, match, ("Exact", "NotOlderThan")))
        if match == "Exact" and revision == 0:
            findings.append(
                fields.forbidden(path, 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
            )
    if findings:
        raise errors.Invalid.of("ListOptions", "meta.k8s.io", "", findings)
    if token and revision:
        raise errors.BadRequest("specifying resource version is not allowed when using continue")
    return ListOptions(max(0, limit), token, revision, match)


def parse_revision(value: str) -> int | None:
    """A resourceVersion parameter; None if empty. Raises BadRequest."""
    if not value:
        return None
    if not (value.isascii() and value.isdigit()) or len(value) > 19:
        raise errors.BadRequest(
            f'resourceVersion: Invalid value: "{value[:64]}": strconv.ParseUint: parsing "{value[:64]}": invalid syntax'
        )
    return int(value)


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of a list. `remaining` None: not known, or nothing is left."""

    entries: list[Entry]
    revision: int
    token: str = ""
    remaining: int | None = None


class Lister:
    """Answers lists for all kinds."""

    def __init__(self, feed: Feed, store: Store) -> None:
        self._feed = feed
        self._store = store

    async def page(self, registry: Registry, namespace: str, selection: Selection, options: ListOptions) -> Listed:
        """Raises Expired, BadRequest, Timeout (the revision has not come yet)."""
        after, at = "", None
        if options.token:
            at, relative = decode_token(options.token)
            after = registry.cache.prefix + relative
            if at == _INCONSISTENT:
                at = None
        elif options.exact:
            at = options.revision
        await self.not_older(max(at or 0, options.revision or 0))
        cache = registry.cache
        if at is not None and cache.changed > at:
            return await self._past(registry, namespace, selection, options, at, after)
        revision = at if at is not None else self._feed.revision
        entries = candidates(registry, namespace, selection, after)
        return self._newest(registry, entries, selection, options, revision)

    async def not_older(self, revision: int) -> None:
        """Wait until the caches have everything that is acknowledged and stand at least at that revision. Raises
        Timeout."""
        feed = self._feed
        if feed.revision < self._store.revision:
            async with asyncio.timeout(_BEHIND_SECONDS):
                await feed.fresh()
        if feed.revision >= revision:
            return
        try:
            async with asyncio.timeout(_FRESH_SECONDS):
                await feed.reached(revision)
        except TimeoutError:
            raise too_large(revision, feed.revision) from None

    def _newest(
        self, registry: Registry, entries: list[Entry], selection: Selection, options: ListOptions, revision: int
    ) -> Listed:
        match, limit = selection.match, options.limit
        view = registry.view.entry
        if not limit:
            found = [view(entry) for entry in entries]
            return Listed([entry for entry in found if match(entry.object)] if match else found, revision)
        shown: list[Entry] = []
        for position, entry in enumerate(entries):
            if len(shown) == limit:
                token = encode_token(revision, entries[position - 1].key.removeprefix(registry.cache.prefix))
                return Listed(shown, revision, token, None if match else len(entries) - position)
            seen = view(entry)
            if match is None or match(seen.object):
                shown.append(seen)
        return Listed(shown, revision)

    async def _past(
        self, registry: Registry, namespace: str, selection: Selection, options: ListOptions, at: int, after: str
    ) -> Listed:
        cache, match, limit = registry.cache, selection.match, options.limit
        prefix = f"{cache.prefix}{namespace}/" if namespace else cache.prefix
        shown: list[Entry] = []
        while True:
            try:
                page = await self._store.list(
                    prefix, at=at, after=after, limit=(_PAGE if match else limit - len(shown)) if limit else 0
                )
            except Compacted as error:
                if options.token:
                    raise ExpiredToken(encode_token(_INCONSISTENT, after.removeprefix(cache.prefix))) from error
                raise errors.Expired(_REVISION_TOO_OLD) from error
            except FutureRevision as error:
                raise too_large(at, self._feed.revision) from error
            for stored in page.entries:
                if limit and len(shown) == limit:
                    return Listed(shown, at, encode_token(at, after.removeprefix(cache.prefix)))
                after = stored.key
                entry = registry.view.entry(decode(cache, stored))
                if match is None or match(entry.object):
                    shown.append(entry)
            if not page.more:
                return Listed(shown, at)
            if limit and len(shown) == limit:
                remaining = None if match else page.remaining
                return Listed(shown, at, encode_token(at, after.removeprefix(cache.prefix)), remaining)


def candidates(registry: Registry, namespace: str, selection: Selection, after: str = "") -> list[Entry]:
    """Entries that may match, in key order: by name, by an index, or all of the namespace."""
    cache = registry.cache
    name = selection.value("metadata.name")
    if name and (namespace or not registry.kind.namespaced):
        entry = cache.get(namespace, name)
        return [entry] if entry is not None and entry.key > after else []
    for field, value in selection.equals:
        if field in cache.indexed:
            found = cache.indexed_by(field, value)
            start = f"{cache.prefix}{namespace}/" if namespace else ""
            return [entry for entry in found if entry.key.startswith(start) and entry.key > after]
    return cache.range(namespace, after)


def too_large(revision: int, current: int) -> errors.Timeout:
    cause = errors.StatusCause(_TOO_LARGE, "Too large resource version")
    return errors.Timeout(
        f"Too large resource version: {revision}, current: {current}",
        errors.StatusDetails(causes=(cause,), retryAfterSeconds=1),
    )
