"""What may be given to a verb: kinds by any word that kubectl understands, and manifests in any form.

A manifest is YAML or JSON text, a file, a directory of files, a mapping, a typed object, or several of these. Here
they become plain documents, each with the kind it is of; `verbs` sends them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pinnace.api import codec, errors, yaml
from pinnace.api.kinds import KINDS, Kind, kind_of

Manifest = str | Path | Mapping[str, Any] | object

_SUFFIXES = (".yaml", ".yml", ".json")       # what kubectl takes from a directory

# The order in which helm installs: what others need comes first. What is not listed comes last.
_FIRST = (
    "PriorityClass", "Namespace", "NetworkPolicy", "ResourceQuota", "LimitRange", "PodDisruptionBudget",
    "ServiceAccount", "Secret", "ConfigMap", "StorageClass", "PersistentVolume", "PersistentVolumeClaim",
    "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service", "DaemonSet",
    "Pod", "ReplicationController", "ReplicaSet", "Deployment", "HorizontalPodAutoscaler", "StatefulSet", "Job",
    "CronJob", "IngressClass", "Ingress", "APIService",
)  # fmt: skip
_PLACES = {kind: place for place, kind in enumerate(_FIRST)}


class Document(NamedTuple):
    """One object of a manifest: its kind, and what was written, with its namespace filled in."""

    kind: Kind
    content: dict[str, Any]

    @property
    def name(self) -> str:
        """Empty if the server is to make one from `generateName`."""
        return str(self.content["metadata"].get("name") or "")

    @property
    def namespace(self) -> str:
        return str(self.content["metadata"].get("namespace") or "")


class Reference(NamedTuple):
    """One object: what it is, where, and its name."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        where = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.kind.singular}/{self.name}{where}"


def resolve(kind: str | type[Any]) -> Kind:
    """A kind by its type, or by what kubectl would understand: "pods", "po", "Pod", "deployments.apps",
    "deployments.v1.apps". Raises NotFound."""
    if isinstance(kind, type):
        return kind_of(kind)
    word = kind.lower()
    found = [each for each in KINDS if each.served and word in _words(each)]
    if not found:
        raise errors.NotFound(f'the server doesn\'t have a resource type "{kind}"')
    # The core group has precedence over others, and of one group the newest version.
    return max((each for each in found if each.group == found[0].group), key=lambda each: each.version)


def _words(kind: Kind) -> tuple[str, ...]:
    return (
        kind.plural, kind.singular, kind.resource, f"{kind.plural}.{kind.version}.{kind.group}", *kind.short_names,
        f"{kind.singular}.{kind.group}",
    )  # fmt: skip


def refer(what: object, name: str, namespace: str) -> Reference:
    """The object that a verb was given: a kind and a name, "deploy/web", or a typed object. Raises NotFound."""
    if isinstance(what, str) and not name and "/" in what:
        what, _, name = what.partition("/")
    if isinstance(what, str | type):
        if not name:
            raise ValueError(f"which one? {what} was given without a name")
        kind = resolve(what)
        return Reference(kind, namespace if kind.namespaced else "", name)
    kind, meta = kind_of(what), codec.metadata(what)
    return Reference(kind, (meta.namespace or namespace) if kind.namespaced else "", meta.name or name)


def read(manifests: Iterable[Manifest], namespace: str) -> list[Document]:
    """All objects of the manifests, in the order given. Raises ValueError for what is no manifest, NotFound for
    kinds that the server does not have."""
    return [_document(content, namespace) for manifest in manifests for content in _contents(manifest)]


def in_order_of_need(documents: Iterable[Document]) -> list[Document]:
    """As helm would install them; neighbours of one kind stay in their order."""
    return sorted(documents, key=lambda document: _PLACES.get(document.kind.kind, len(_PLACES)))


def _document(content: Mapping[str, Any], namespace: str) -> Document:
    version, kind, meta = content.get("apiVersion"), content.get("kind"), content.get("metadata")
    if not version or not kind or not isinstance(meta, Mapping):
        raise ValueError(f"a manifest needs apiVersion, kind and metadata: {_short(content)}")
    if not meta.get("name") and not meta.get("generateName"):
        raise ValueError(f"a manifest needs metadata.name or metadata.generateName: {_short(content)}")
    found = next((each for each in KINDS if (each.api_version, each.kind) == (version, kind)), None)
    if found is None:
        raise errors.NotFound(f'no matches for kind "{kind}" in version "{version}"')
    own = {key: value for key, value in meta.items() if key != "namespace"}
    if found.namespaced:
        own["namespace"] = meta.get("namespace") or namespace
    return Document(found, {**content, "metadata": own})


def _contents(manifest: Manifest) -> Iterator[Mapping[str, Any]]:
    match manifest:
        case str():
            # A line that can hold no mapping names a file.
            text = "\n" in manifest or ": " in manifest or "{" in manifest
            yield from _of_text(manifest) if text else _contents(Path(manifest))
        case Path():
            if manifest.is_dir():
                for path in sorted(manifest.iterdir()):
                    if path.suffix in _SUFFIXES:
                        yield from _contents(path)
            else:
                yield from _of_text(manifest.read_text())
        case Mapping():
            yield from _items(manifest)
        case msgspec.Struct():
            yield codec.to_dict(manifest)
        case list() | tuple():
            for each in manifest:
                yield from _contents(each)
        case _:
            raise ValueError(f"{_short(manifest)} is no manifest")


def _of_text(text: str) -> Iterator[Mapping[str, Any]]:
    for document in yaml.load_all(text):
        if not isinstance(document, Mapping):
            raise ValueError(f"{_short(document)} is no manifest")
        yield from _items(document)


def _items(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list):
        yield from document["items"]
    else:
        yield document


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + " …"
