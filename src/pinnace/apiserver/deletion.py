"""How objects end: preconditions, grace periods, finalizers, and what becomes of dependents.

The rules are pure functions of the object and the options (upstream: registry/rest/delete.go and
registry/generic/registry/store.go); `Deletion` carries them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pinnace.api import codec, times
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.options import DeleteOptions
from pinnace.store.store import Conflict

if TYPE_CHECKING:
    from pinnace.apiserver.cache import Entry
    from pinnace.apiserver.registry import Registry, Write

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
_TRIES = 12


@dataclass(frozen=True, slots=True)
class Ending:
    """What a deletion does to the metadata. `gone`: the object can be removed at once."""

    finalizers: tuple[str, ...]
    seconds: int | None          # the grace period; None where the kind has none and nothing waits
    timestamp: str | None        # when it is over
    begins: bool                 # this call is the first to ask
    gone: bool


def finalizers_after(metadata: meta.ObjectMeta, options: DeleteOptions) -> tuple[str, ...]:
    """The object's finalizers, with what the garbage collector must see of the propagation policy."""
    current = metadata.finalizers or []
    if options.policy:
        orphan, foreground = options.policy == "Orphan", options.policy == "Foreground"
    elif options.orphan is not None:
        orphan, foreground = options.orphan, False
    else:
        orphan, foreground = ORPHAN in current, FOREGROUND in current
    kept = [name for name in current if name not in (ORPHAN, FOREGROUND)]
    if orphan:
        kept.append(ORPHAN)
    if foreground:
        kept.append(FOREGROUND)
    return tuple(kept)


def plan(metadata: meta.ObjectMeta, options: DeleteOptions, grace: int | None, held: bool, now: datetime) -> Ending:
    """`grace`: seconds that the kind waits, None if it knows no such thing."""
    finalizers = finalizers_after(metadata, options)
    if metadata.deletionTimestamp:
        before = metadata.deletionGracePeriodSeconds
        seconds, timestamp = before, metadata.deletionTimestamp
        # A period that runs can be shortened, never lengthened.
        if grace is not None and options.grace is not None and (before is None or grace < before):
            began = times.parse(timestamp) - timedelta(seconds=before or 0)
            seconds, timestamp = grace, times.format(began + timedelta(seconds=grace))
        gone = not finalizers and not held and not seconds
        return Ending(finalizers, seconds, timestamp, False, gone)
    seconds = grace if grace is not None else 0
    gone = not finalizers and not held and seconds == 0
    return Ending(finalizers, seconds, times.format(now + timedelta(seconds=seconds)), True, gone)


class Deletion:
    """Deletes in one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def finished(self, obj: Any) -> bool:
        """A write has taken away the last thing that kept a deleted object."""
        metadata = obj.metadata
        return bool(
            metadata.deletionTimestamp
            and not metadata.finalizers
            and not metadata.deletionGracePeriodSeconds
            and not self._registry.resource.held(obj)
        )

    async def delete(self, namespace: str, name: str, options: DeleteOptions, write: Write) -> tuple[Entry, bool]:
        """The object's last state, and whether it is gone. Raises NotFound, Conflict (a precondition failed)."""
        registry = self._registry
        for _ in range(_TRIES):
            entry = registry.entry(namespace, name)
            self._check_preconditions(entry, options)
            if write.validating:
                await write.validate(None, entry.object)
            try:
                return await self._once(entry, options, write)
            except Conflict:
                await registry.catch_up()
        raise registry.conflict(name)

    async def _once(self, entry: Entry, options: DeleteOptions, write: Write) -> tuple[Entry, bool]:
        registry, resource = self._registry, self._registry.resource
        old = entry.object
        grace = resource.grace(old, options.grace) if resource.grace is not None else None
        ending = plan(old.metadata, options, grace, resource.held(old), write.now)
        if ending.gone:
            return await registry.remove(entry, write), True
        if not ending.begins and not _changes(old.metadata, ending):
            return entry, False
        new = codec.copy(old)
        metadata = new.metadata
        metadata.finalizers = list(ending.finalizers) or None
        metadata.deletionTimestamp = ending.timestamp
        metadata.deletionGracePeriodSeconds = ending.seconds
        if ending.begins:
            if metadata.generation:
                metadata.generation += 1
            resource.prepare_delete(new, write)
        return await registry.commit(entry.key, new, entry, write), False

    def _check_preconditions(self, entry: Entry, options: DeleteOptions) -> None:
        metadata = entry.object.metadata
        why = ""
        if options.uid and options.uid != metadata.uid:
            why = f"UID in precondition: {options.uid}, UID in object meta: {metadata.uid}"
        elif options.revision and options.revision != metadata.resourceVersion:
            why = (
                f"ResourceVersion in precondition: {options.revision}, "
                f"ResourceVersion in object meta: {metadata.resourceVersion}"
            )
        if why:
            raise self._registry.conflict(metadata.name or "", f"Precondition failed: {why}")


def _changes(metadata: meta.ObjectMeta, ending: Ending) -> bool:
    return (
        tuple(metadata.finalizers or ()) != ending.finalizers
        or metadata.deletionGracePeriodSeconds != ending.seconds
        or metadata.deletionTimestamp != ending.timestamp
    )
