"""Which kinds there are, and how each is called: on the wire, in paths, by people."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from typing import Any

from pinnace.api.kinds_table import ROWS


@dataclass(frozen=True)
class Kind:
    """A kind of one group and version. `served`: 1.36 serves it unless told otherwise (stable versions are)."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    namespaced: bool = True
    module: str = ""

    @cached_property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @cached_property
    def root(self) -> str:
        """What the paths of its version begin with: `/apis/apps/v1`."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def served(self) -> bool:
        return re.fullmatch(r"v\d+", self.version) is not None

    @cached_property
    def type(self) -> type[Any]:
        """The Struct; its module is imported at the first use."""
        found: type[Any] = getattr(import_module(f"pinnace.api.{self.module.replace('/', '.')}"), self.kind)
        return found

    @property
    def list_kind(self) -> str:
        return f"{self.kind}List"

    @property
    def resource(self) -> str:
        """`deployments.apps`; `pods` for the core group."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


KINDS: tuple[Kind, ...] = tuple(Kind(*row) for row in ROWS)

# Kinds that only subresources take and give: `pods/eviction`, `deployments/scale`, `serviceaccounts/token`.
SUBRESOURCE_KINDS: tuple[Kind, ...] = (
    Kind("policy", "v1", "Eviction", "", "", module="policy/v1"),
    Kind("autoscaling", "v1", "Scale", "", "", module="autoscaling/v1"),
    Kind("authentication.k8s.io", "v1", "TokenRequest", "", "", module="authentication/v1"),
)

_BY_KIND = {(kind.group, kind.version, kind.kind): kind for kind in (*KINDS, *SUBRESOURCE_KINDS)}
_BY_RESOURCE = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}
_BY_CLASS = {(f"pinnace.api.{kind.module.replace('/', '.')}", kind.kind): kind for kind in (*KINDS, *SUBRESOURCE_KINDS)}


def by_kind(group: str, version: str, kind: str) -> Kind:
    """Raises KeyError."""
    return _BY_KIND[group, version, kind]


def by_resource(group: str, version: str, plural: str) -> Kind:
    """Raises KeyError."""
    return _BY_RESOURCE[group, version, plural]


def kind_of(what: object) -> Kind:
    """The kind of a Struct class or of an object of it. Raises KeyError for what is no kind."""
    return kind_of_type(what if isinstance(what, type) else type(what))


@cache
def kind_of_type(cls: Any) -> Kind:
    """The same of a Struct class."""
    return _BY_CLASS[cls.__module__, cls.__name__]
