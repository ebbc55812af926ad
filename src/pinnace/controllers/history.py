"""Controller revisions: the history of a daemon set's or stateful set's pod template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from pinnace.api.apps import v1 as apps
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.base.randomness import NAME_ALPHABET
from pinnace.controllers.owners import controller_reference
from pinnace.controllers.plan import Action, Create, Delete, Patch

HASH_LABEL = "controller-revision-hash"


class History(msgspec.Struct, frozen=True):
    """The revision of the present template, and what must be written before it can be relied on."""

    name: str
    hash: str
    actions: tuple[Action, ...] = ()
    old: tuple[apps.ControllerRevision, ...] = ()


def present(owner: Any, revisions: Sequence[apps.ControllerRevision], collisions: int) -> History:
    """Find the revision of the owner's template, or plan to make it; a template that comes back is renumbered."""
    template: core.PodTemplateSpec = owner.spec.template
    data = {"spec": {"template": {**msgspec.to_builtins(template), "$patch": "replace"}}}
    ordered = sorted(revisions, key=lambda r: (r.revision, r.metadata.creationTimestamp or "", r.metadata.name or ""))
    newest = ordered[-1].revision if ordered else 0
    same = [revision for revision in ordered if revision.data == data]
    if same:
        found = same[-1]
        old = tuple(revision for revision in ordered if revision is not found)
        patch: tuple[Action, ...] = ()
        if found.revision < newest:
            item = found.metadata
            patch = (
                Patch(
                    apps.ControllerRevision, item.namespace or "", item.name or "",
                    {"revision": newest + 1}, type="merge",
                ),
            )  # fmt: skip
        return History(found.metadata.name or "", (found.metadata.labels or {}).get(HASH_LABEL, ""), patch, old)
    digest = _hash(data, collisions)
    name = f"{owner.metadata.name}-{digest}"
    labels = {**((template.metadata.labels if template.metadata is not None else None) or {}), HASH_LABEL: digest}
    made = apps.ControllerRevision(
        metadata=meta.ObjectMeta(
            name=name,
            namespace=owner.metadata.namespace,
            labels=labels,
            annotations=owner.metadata.annotations,
            ownerReferences=[controller_reference(owner)],
        ),
        data=data,
        revision=newest + 1,
    )
    return History(name, digest, (Create(made),), tuple(ordered))


def surplus(old: Iterable[apps.ControllerRevision], live: Iterable[str], limit: int | None) -> list[Action]:
    """Deletions of the oldest revisions that no pod has (by hash or name), beyond the limit."""
    used = set(live)
    unused = [
        r for r in old if (r.metadata.labels or {}).get(HASH_LABEL) not in used and r.metadata.name not in used
    ]
    count = len(unused) - (10 if limit is None else limit)
    return [
        Delete(
            apps.ControllerRevision, r.metadata.namespace or "", r.metadata.name or "", r.metadata.uid or ""
        )
        for r in unused[: max(0, count)]
    ]


def _hash(data: Any, collisions: int) -> str:
    text = msgspec.json.encode(data, order="sorted") + (str(collisions).encode() if collisions else b"")
    value = 0x811C9DC5   # FNV-1a, 32 bits
    for byte in text:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return "".join(NAME_ALPHABET[ord(digit) % len(NAME_ALPHABET)] for digit in str(value))
