"""RuntimeClass: a pod's class must exist, and lends it its overhead and its place.

Rules and texts are upstream's (plugin/pkg/admission/runtimeclass, KEP-585, KEP-688).
"""

from __future__ import annotations

from pinnace.api import codec
from pinnace.api.core import v1 as core
from pinnace.api.errors import Forbidden
from pinnace.api.node import v1 as node
from pinnace.apiserver.access import Admission, AdmissionPlugin, Concern
from pinnace.apiserver.authentication.objects import Objects


class RuntimeClassAdmission(AdmissionPlugin):
    """Mutates and validates pods on creation."""

    mutates = validates = Concern(("CREATE",), ("pods",), whole=True)

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def mutate(self, admission: Admission) -> None:
        pod: core.Pod = admission.object
        if not pod.spec.runtimeClassName:
            return
        found = self._class(admission, pod.spec.runtimeClassName)
        if found.overhead is not None and found.overhead.podFixed:
            wanted = dict(found.overhead.podFixed)
            if pod.spec.overhead and pod.spec.overhead != wanted:
                raise _rejected(admission, "Pod's Overhead doesn't match RuntimeClass's defined Overhead")
            pod.spec.overhead = wanted
        if found.scheduling is not None:
            _place(admission, pod, found.scheduling)

    async def validate(self, admission: Admission) -> None:
        spec: core.PodSpec = admission.object.spec
        found = self._class(admission, spec.runtimeClassName) if spec.runtimeClassName else None
        defined = found is not None and found.overhead is not None and found.overhead.podFixed
        if spec.overhead and not defined:
            raise _rejected(admission, "Pod Overhead set without corresponding RuntimeClass defined Overhead")

    def _class(self, admission: Admission, name: str) -> node.RuntimeClass:
        found = self._objects.get(node.RuntimeClass, "", name)
        if found is None:
            raise _rejected(admission, f'RuntimeClass "{name}" not found')
        return found


def _place(admission: Admission, pod: core.Pod, scheduling: node.Scheduling) -> None:
    selector = dict(pod.spec.nodeSelector or {})
    for key, value in (scheduling.nodeSelector or {}).items():
        if selector.setdefault(key, value) != value:
            raise _rejected(
                admission,
                f"conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; "
                f"pod.spec.nodeSelector[{key}] = {selector[key]}",
            )
    pod.spec.nodeSelector = selector or None
    given = pod.spec.tolerations or []
    more = [codec.copy(toleration) for toleration in scheduling.tolerations or () if toleration not in given]
    pod.spec.tolerations = [*given, *more] or None


def _rejected(admission: Admission, why: str) -> Forbidden:
    return Forbidden.to("pods", "", admission.name, f"pod rejected: {why}")
