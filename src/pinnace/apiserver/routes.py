"""What a verb on a path leads to: registry, function and admission plugins, found once and kept.

A path names a resource, perhaps a subresource, and a namespace and an object or not; all that follows from these is
the same for every request, and its table is as large as the API.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from pinnace.api import errors
from pinnace.apiserver import calls, subresources
from pinnace.apiserver.access import AdmissionPlugin, Concern, Operation
from pinnace.apiserver.calls import Call
from pinnace.apiserver.metrics import Metrics, Series
from pinnace.apiserver.paths import Target
from pinnace.apiserver.registry import Registry
from pinnace.apiserver.resource import Subresource
from pinnace.client.transport import Response

# Reads come from memory: only the wait for a revision takes time, and has a bound of its own.
_UNTIMED = frozenset({"get", "list", "watch"})
_LONG_RUNNING = frozenset({"log", "exec", "attach", "portforward", "proxy"})

_OPERATIONS: tuple[Operation, ...] = ("CREATE", "UPDATE", "DELETE", "CONNECT")

Plugins = tuple[AdmissionPlugin, ...]


class Route(msgspec.Struct, eq=False):
    """One verb on one kind of path. `timed`: requests have a deadline. `part`: the subresource, if there is one."""

    registry: Registry
    run: Callable[[Call], Coroutine[Any, Any, Response]]
    timed: bool
    part: Subresource[Any] | None
    series: Series            # of requests counted
    # By what is done to an object, and whether by a node: plugins that change it on its way in, those that judge it.
    # Nothing for what only reads.
    plugins: dict[tuple[Operation, bool], tuple[Plugins, Plugins]]


class Routes:
    """All routes of a server."""

    def __init__(self, registries: Mapping[tuple[str, str, str], Registry], metrics: Metrics) -> None:
        self._registries = registries
        self._metrics = metrics
        self._admission: tuple[AdmissionPlugin, ...] = ()
        self._routes: dict[tuple[str, str, str, str, str, bool, bool], Route] = {}

    def admit_by(self, plugins: Sequence[AdmissionPlugin]) -> None:
        """The plugins of every write from now on, in this order."""
        self._admission = tuple(plugins)
        self._routes.clear()

    def served(self, target: Target) -> Registry:
        """The registry that a path leads to. Raises NotFound."""
        registry = self._registries.get((target.group, target.version, target.resource))
        if registry is None:
            raise errors.NotFound.path()
        return registry

    def find(self, target: Target, verb: str) -> Route:
        """Raises NotFound, MethodNotAllowed."""
        place = (
            verb, target.group, target.version, target.resource, target.subresource,
            not target.name, not target.namespace,
        )  # fmt: skip
        route = self._routes.get(place)
        if route is None:
            route = self._routes[place] = self._find(target, verb)
        return route

    def _find(self, target: Target, verb: str) -> Route:
        registry = self.served(target)
        if target.subresource:
            run, part = subresources.find(registry.resource, target.subresource, verb)
        else:
            _check_scope(registry, target, verb)
            run, part = calls.VERBS[verb], None
        timed = verb not in _UNTIMED and target.subresource not in _LONG_RUNNING
        reads = verb in _UNTIMED and not target.subresource       # a subresource may be connected to by a GET
        series = self._metrics.series(verb, target)
        return Route(registry, run, timed, part, series, {} if reads else self._plugins(registry, target.subresource))

    def _plugins(
        self, registry: Registry, subresource: str
    ) -> dict[tuple[Operation, bool], tuple[Plugins, Plugins]]:
        resource = registry.kind.resource

        def concerned(concern: Concern | None, operation: Operation, node: bool) -> bool:
            return concern is not None and node >= concern.nodes and concern.covers(operation, resource, subresource)

        return {
            (operation, node): (
                tuple([plugin for plugin in self._admission if concerned(plugin.mutates, operation, node)]),
                tuple([plugin for plugin in self._admission if concerned(plugin.validates, operation, node)]),
            )
            for operation in _OPERATIONS
            for node in (False, True)
        }


def _check_scope(registry: Registry, target: Target, verb: str) -> None:
    kind = registry.kind
    if target.namespace and not kind.namespaced:
        raise errors.NotFound.path()
    if kind.namespaced and not target.namespace and (target.name or verb not in ("list", "watch")):
        if verb == "create" or verb == "deletecollection":
            raise errors.MethodNotAllowed()
        raise errors.NotFound.path()
    if verb not in registry.resource.verbs or (target.name and verb == "create"):
        raise errors.MethodNotAllowed()
    if not target.name and verb in ("update", "patch"):
        raise errors.MethodNotAllowed()
