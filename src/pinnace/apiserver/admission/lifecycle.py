"""NamespaceLifecycle: nothing new in a namespace that is missing or on its way out; some namespaces stay."""

from __future__ import annotations

from pinnace.api.core import v1 as core
from pinnace.api.errors import Forbidden, NotFound, StatusCause, StatusDetails, qualified
from pinnace.apiserver.access import Admission, AdmissionPlugin, Concern
from pinnace.apiserver.authentication.objects import Objects

_IMMORTAL = frozenset({"default", "kube-system", "kube-public"})
# Namespaces lie in themselves. Reviews are questions, not content: they are answered in any namespace.
_UNSTORED = frozenset({"namespaces", "localsubjectaccessreviews"})


class NamespaceLifecycle(AdmissionPlugin):
    """Changes nothing, but looks before those that do: what is wrong with the namespace is said first."""

    mutates = Concern(("CREATE",))
    validates = Concern(("DELETE",), ("namespaces",))

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._alive: tuple[int, set[str]] = (-1, set())      # namespaces found alive, at a version of them all

    async def validate(self, admission: Admission) -> None:
        if admission.name in _IMMORTAL:
            raise Forbidden.to("namespaces", "", admission.name, "this namespace may not be deleted")

    async def mutate(self, admission: Admission) -> None:
        version = self._objects.version(core.Namespace)
        if version != self._alive[0]:
            self._alive = version, set()
        alive, name = self._alive[1], admission.namespace
        if name in alive or not name or admission.resource in _UNSTORED:
            return
        namespace = self._objects.get(core.Namespace, "", name)
        if namespace is None:
            raise NotFound.of("namespaces", "", name)
        if namespace.metadata.deletionTimestamp:
            raise _terminating(admission)
        alive.add(name)


def _terminating(admission: Admission) -> Forbidden:
    text = f"namespace {admission.namespace} is being terminated"
    why = f"unable to create new content in namespace {admission.namespace} because it is being terminated"
    what = qualified(admission.resource, admission.group)
    return Forbidden(
        f'{what} "{admission.name}" is forbidden: {why}',
        StatusDetails(
            name=admission.name,
            group=admission.group,
            kind=admission.resource,
            causes=(StatusCause("NamespaceTerminating", text, "metadata.namespace"),),
        ),
    )
