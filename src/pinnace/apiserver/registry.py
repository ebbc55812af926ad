"""One kind's objects: read from the watch cache, written to the store under the rules of its `Resource`.

This is the storage side of every request (upstream's generic registry) and the programmatic door for
subresource actions: all its methods take and give typed objects. What it returns is shared with the cache
and never changed by callers; what is handed in belongs to the registry from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from pinnace.api import errors, fields, times
from pinnace.api.fields import FieldError
from pinnace.apiserver import metadata
from pinnace.apiserver.access import Admission, AdmissionPlugin
from pinnace.apiserver.cache import Entry, Form, View, WatchCache
from pinnace.apiserver.deletion import Deletion
from pinnace.apiserver.feed import Feed
from pinnace.apiserver.options import DeleteOptions
from pinnace.apiserver.resource import Context, Resource, Subresource, no_warnings, nothing
from pinnace.apiserver.resources.metadata import validate_object_meta, validate_object_meta_update
from pinnace.base.randomness import Randomness
from pinnace.store.store import Cause, Conflict, Store

if TYPE_CHECKING:
    from pinnace.apiserver.server import ApiServer

_CREATE_TRIES = 8       # with a generated name, as upstream
_WRITE_TRIES = 12       # of a write that names no revision

Change = Callable[[Any], Any]      # from the current object (shared) to the wanted one (fresh)


class Write(Context, frozen=True):
    """What is known of one write beside its object: what strategies may know, and what only the server does."""

    cause: Cause | None = None
    warnings: list[str] | None = None
    # Who looks at the object on its way in, and may change it; and who judges what will be stored.
    admission: Admission | None = None
    mutating: tuple[AdmissionPlugin, ...] = ()
    validating: tuple[AdmissionPlugin, ...] = ()

    async def mutate(self, new: Any, old: Any) -> None:
        """Admission, first half. Raises whatever refuses."""
        if self.admission is not None:
            self.admission.look_at(new, old)
            for plugin in self.mutating:
                await plugin.mutate(self.admission)

    async def validate(self, new: Any, old: Any) -> None:
        """Admission, second half. Raises whatever refuses."""
        if self.admission is not None:
            self.admission.look_at(new, old)
            for plugin in self.validating:
                await plugin.validate(self.admission)

    def warn(self, texts: Iterable[str]) -> None:
        if self.warnings is not None:
            self.warnings.extend(texts)


class Registry:
    """A resource over its cache. One for every row of the server's table."""

    def __init__(
        self,
        resource: Resource[Any],
        cache: WatchCache,
        feed: Feed,
        store: Store,
        server: ApiServer,
        randomness: Randomness,
    ) -> None:
        self.resource = resource
        self.kind = resource.kind
        self.cache = cache
        self.view = View(Form(self.kind) if resource.from_stored else cache.form, resource.from_stored)
        self._feed = feed
        self._store = store
        self._server = server
        self._randomness = randomness
        self._deletion = Deletion(self)
        # What the kind has nothing to say to is not even asked.
        self._prepare_create = None if resource.prepare_create is nothing else resource.prepare_create
        self._prepare_update = None if resource.prepare_update is nothing else resource.prepare_update
        self._warnings = None if resource.warnings is no_warnings else resource.warnings
        self._prefix = cache.prefix
        self._namespaced = cache.form.kind.namespaced
        self._converts = self.view.converts

    def key(self, namespace: str, name: str) -> str:
        """Where the store has it."""
        return f"{self._prefix}{namespace}/{name}" if self._namespaced else self._prefix + name

    # Reading

    def find(self, namespace: str, name: str) -> Entry | None:
        """The newest entry in this version; None if there is none."""
        prefix = self._prefix
        entry = self.cache.entries.get(f"{prefix}{namespace}/{name}" if self._namespaced else prefix + name)
        return entry if entry is None or not self._converts else self.view.entry(entry)

    def entry(self, namespace: str, name: str) -> Entry:
        """Raises NotFound."""
        entry = self.find(namespace, name)
        if entry is None:
            raise self.not_found(name)
        return entry

    def get(self, namespace: str, name: str) -> Any:
        """The object. Raises NotFound."""
        return self.entry(namespace, name).object

    def list(self, namespace: str = "") -> list[Any]:
        """All objects of a namespace, or of all namespaces."""
        return [self.view.entry(entry).object for entry in self.cache.range(namespace)]

    async def catch_up(self) -> None:
        """Return once the cache shows everything that the store has acknowledged by now."""
        await self._feed.fresh()

    def not_found(self, name: str) -> errors.NotFound:
        return errors.NotFound.of(self.kind.plural, self.kind.group, name)

    def conflict(self, name: str, why: str = errors.Conflict.STALE) -> errors.Conflict:
        return errors.Conflict.of(self.kind.plural, self.kind.group, name, why)

    # Writing

    def create(self, obj: Any, write: Write) -> Coroutine[Any, Any, Entry]:
        """Store a new object. Raises AlreadyExists, Invalid and whatever admission raises."""
        meta = obj.metadata
        if meta.resourceVersion not in (None, "", "0"):
            raise errors.BadRequest("resourceVersion should not be set on objects to be created")
        if not meta.name and meta.generateName:
            return self._create_generated(obj, write)
        return self._create(obj, write)

    async def _create_generated(self, obj: Any, write: Write) -> Entry:
        meta = obj.metadata
        base, namespace = meta.generateName[: metadata.GENERATED_BASE], meta.namespace or ""
        for _ in range(_CREATE_TRIES):
            meta.name = base + self._randomness.suffix()
            if self.key(namespace, meta.name) not in self.cache.entries:
                break
        try:
            return await self._create(obj, write)
        except errors.AlreadyExists as error:
            raise errors.AlreadyExists(
                f"{error.message}, the server was not able to generate a unique name for the object", error.details
            ) from error

    async def _create(self, obj: Any, write: Write) -> Entry:
        resource, meta = self.resource, obj.metadata
        metadata.prepare_new(meta, self._randomness.uid(), times.format(write.now), generation=resource.generation)
        if write.mutating:
            await write.mutate(obj, None)
        if self._prepare_create is not None:
            self._prepare_create(obj, write)
        findings = validate_object_meta(meta, self.kind.namespaced, resource.validate_name)
        findings += resource.validate_create(obj)
        if findings:
            raise errors.Invalid.of(self.kind.kind, self.kind.group, meta.name or "", findings)
        if self._warnings is not None:
            write.warn(self._warnings(obj, None))
        undo = await resource.reserve(self._server, obj, None, write) if resource.reserve else None
        try:
            if write.validating:
                await write.validate(obj, None)
            key = self.key(meta.namespace or "", meta.name)
            if key in self.cache.entries:
                raise self._exists(meta.name, self.cache.entries[key])
            entry = await self.commit(key, obj, None, write)
        except BaseException as error:
            if undo is not None:
                undo()
            if isinstance(error, Conflict):
                raise self._exists(meta.name, None) from error
            raise
        if undo is not None and write.dry_run:
            undo()
        return entry

    async def update(
        self,
        namespace: str,
        name: str,
        change: Change,
        write: Write,
        *,
        part: Subresource[Any] | None = None,
        pinned: bool = False,
    ) -> Entry:
        """Read, change, write; again from the start when somebody else was faster, unless `pinned`: the change is
        for one revision only (then Conflict). `change` gets the current object, which it must not touch.

        With `part` (a subresource such as status) only that part is taken over. Raises NotFound, Conflict, Invalid.
        """
        for _ in range(_WRITE_TRIES):
            old = self.find(namespace, name)
            if old is None:
                await self.catch_up()
                old = self.entry(namespace, name)
            new = change(old.object)
            try:
                return await self._replace(new, old, write, part)
            except Conflict as error:
                if pinned:
                    raise self.conflict(name) from error
                await self.catch_up()
        raise self.conflict(name)

    def _replace(
        self, new: Any, old: Entry, write: Write, part: Subresource[Any] | None
    ) -> Coroutine[Any, Any, Entry]:
        """Put a changed object in an old one's place, once. Raises store.Conflict when that has changed."""
        before = old.object
        if new.metadata != before.metadata:      # most writes of a status bring back what is there
            self._check_identity(new, before, part)
            metadata.prepare_changed(new.metadata, before.metadata)
        if part is not None:
            _keep_the_rest(new, before)
            if part.prepare is not None:
                part.prepare(new, before, write)
            elif hasattr(new, "spec"):
                new.spec = before.spec
        if write.mutating or write.validating or (part is None and self.resource.reserve is not None):
            return self._replace_admitted(new, old, write, part)
        self._judge(new, before, write, part)
        if new.metadata.deletionTimestamp is not None:
            return self._finish(new, old, write)
        return self.commit(old.key, new, old, write)

    async def _replace_admitted(
        self, new: Any, old: Entry, write: Write, part: Subresource[Any] | None
    ) -> Entry:
        """The same where others have a say."""
        resource, before = self.resource, old.object
        if write.mutating:
            await write.mutate(new, before)
        self._judge(new, before, write, part)
        undo = None
        if resource.reserve is not None and part is None:
            undo = await resource.reserve(self._server, new, before, write)
        try:
            if write.validating:
                await write.validate(new, before)
            entry = await self._finish(new, old, write)
        except BaseException:
            if undo is not None:
                undo()
            raise
        if undo is not None and write.dry_run:
            undo()
        return entry

    def _finish(self, new: Any, old: Entry, write: Write) -> Coroutine[Any, Any, Entry]:
        if self._deletion.finished(new):
            return self.remove(old, write, last=new)
        return self.commit(old.key, new, old, write)

    async def delete(self, namespace: str, name: str, options: DeleteOptions, write: Write) -> tuple[Entry, bool]:
        """Begin or finish a deletion. Returns the object's last state, and whether it is gone."""
        return await self._deletion.delete(namespace, name, options, write)

    async def commit(self, key: str, obj: Any, old: Entry | None, write: Write) -> Entry:
        """Write one object under its key, and wait until the cache shows it. Raises store.Conflict.

        Nothing is written on a dry run, nor if nothing differs from `old`.
        """
        convert = self.resource.to_stored
        stored = convert(obj) if convert is not None else obj
        form = self.cache.form
        value, expect = form.value(stored), 0
        if old is not None:
            if value == (self._stored(old) if convert is not None else old).value:
                return old
            expect = old.revision
        if write.dry_run:
            obj.metadata.resourceVersion = str(expect) if expect else None
            shown = self.view.form
            return Entry(key, obj, shown.value(obj), expect, 0, shown)
        feed = self._feed
        feed.announce(self.cache, key, value, stored)
        try:
            revision = await self._store.commit(key, value, expect=expect, cause=write.cause)
            if feed.revision < revision:
                await feed.reached(revision)
        except BaseException:
            feed.withdraw(key)
            raise
        entry = self.cache.entries.get(key)
        if entry is None or entry.revision != revision:      # by now somebody has changed it again
            stored.metadata.resourceVersion = str(revision)
            entry = Entry(key, stored, value, revision, revision, form)
        return entry if convert is None else self.view.entry(entry)

    async def remove(self, old: Entry, write: Write, *, last: Any = None) -> Entry:
        """Take an object out of the store. `last` is its final state, if that differs. Raises store.Conflict."""
        if not write.dry_run:
            revision = await self._store.commit(old.key, None, expect=old.revision, cause=write.cause)
            await self._feed.reached(revision)
        if last is None:
            return old
        last.metadata.resourceVersion = str(old.revision)
        form = self.view.form
        return Entry(old.key, last, form.value(last), old.revision, old.created, form)

    def _stored(self, seen: Entry) -> Entry:
        return self.cache.entries.get(seen.key, seen)

    def _exists(self, name: str, there: Entry | None) -> errors.AlreadyExists:
        error = errors.AlreadyExists.of(self.kind.plural, self.kind.group, name)
        if there is not None and there.object.metadata.deletionTimestamp:
            return errors.AlreadyExists(f"object is being deleted: {error.message}", error.details)
        return error

    def _check_identity(self, new: Any, before: Any, part: Subresource[Any] | None) -> None:
        """The revision and uid that an update names must be those that are there. Raises Conflict."""
        meta, current = new.metadata, before.metadata
        if meta.resourceVersion in (None, "", "0"):
            if self.resource.allow_unconditional_update or part is not None:
                meta.resourceVersion = current.resourceVersion
            else:
                meta.resourceVersion = None
        elif meta.resourceVersion != current.resourceVersion:
            if not meta.resourceVersion.isdigit():
                finding = fields.invalid("metadata.resourceVersion", meta.resourceVersion, "must be a whole number")
                raise errors.Invalid.of(self.kind.kind, self.kind.group, meta.name, [finding])
            raise self.conflict(meta.name)
        if meta.uid and meta.uid != current.uid:
            raise self.conflict(
                meta.name, f"Precondition failed: UID in precondition: {meta.uid}, UID in object meta: {current.uid}"
            )

    def _judge(self, new: Any, before: Any, write: Write, part: Subresource[Any] | None) -> None:
        """The kind's own rules for a change; the generation rises with what it counts. Raises Invalid."""
        resource = self.resource
        if part is None and self._prepare_update is not None:
            self._prepare_update(new, before, write)
        counted = resource.generation and (part is None or part.generation)
        if counted and not metadata.same_content(new, before):
            new.metadata.generation = (before.metadata.generation or 0) + 1
        findings: list[FieldError] = []
        if new.metadata != before.metadata:      # what is there was found good before
            findings += validate_object_meta(
                new.metadata, self.kind.namespaced, resource.validate_name, known=before.metadata
            )
            findings += validate_object_meta_update(new.metadata, before.metadata)
        if part is None:
            findings += resource.validate_update(new, before)
        elif part.validate is not None:
            findings += part.validate(new, before)
        if findings:
            raise errors.Invalid.of(self.kind.kind, self.kind.group, new.metadata.name or "", findings)
        if part is None and self._warnings is not None:
            write.warn(self._warnings(new, before))


def _keep_the_rest(new: Any, before: Any) -> None:
    """The path of a part changes no data of the main path; spec and metadata follow the part's own `prepare`."""
    of: Any = type(new)
    for name in metadata.content(of):
        if name != "spec":
            setattr(new, name, getattr(before, name))
