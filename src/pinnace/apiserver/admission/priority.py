"""Priority: a pod's class becomes its number."""

from __future__ import annotations

from pinnace.api.core import v1 as core
from pinnace.api.errors import Forbidden
from pinnace.api.scheduling import v1 as scheduling
from pinnace.apiserver.access import Admission, AdmissionPlugin, Concern
from pinnace.apiserver.authentication.objects import Objects


class PriorityAdmission(AdmissionPlugin):
    """Resolves pods' priority classes; allows one default class."""

    mutates = Concern(("CREATE", "UPDATE"), ("pods",), whole=True)
    validates = Concern(("CREATE", "UPDATE"), ("priorityclasses.scheduling.k8s.io",))

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._known: tuple[int, scheduling.PriorityClass | None] = (-1, None)     # the default one, at a version

    async def mutate(self, admission: Admission) -> None:
        spec: core.PodSpec = admission.object.spec
        if admission.operation == "CREATE":
            self._resolve(admission, spec)
            return
        # What was resolved once stays, also where an update leaves it out.
        before: core.PodSpec = admission.old_object.spec
        if spec.priority is None:
            spec.priority = before.priority
        if spec.preemptionPolicy is None:
            spec.preemptionPolicy = before.preemptionPolicy

    async def validate(self, admission: Admission) -> None:
        new: scheduling.PriorityClass = admission.object
        default = self._default()
        if new.globalDefault and default is not None and default.metadata.name != new.metadata.name:
            raise Forbidden.to(
                "priorityclasses", "scheduling.k8s.io", admission.name,
                f"PriorityClass {default.metadata.name} is already marked as default. Only one default can exist",
            )  # fmt: skip

    def _resolve(self, admission: Admission, spec: core.PodSpec) -> None:
        if spec.priorityClassName:
            found = self._objects.get(scheduling.PriorityClass, "", spec.priorityClassName)
            if found is None:
                raise Forbidden.to(
                    "pods", "", admission.name, f"no PriorityClass with name {spec.priorityClassName} was found"
                )
        else:
            found = self._default()
            if found is not None:
                spec.priorityClassName = found.metadata.name
        value = (found.value or 0) if found is not None else 0
        if spec.priority is not None and spec.priority != value:
            raise Forbidden.to(
                "pods", "", admission.name,
                f"the integer value of priority ({spec.priority}) must not be provided in pod spec; priority "
                f"admission controller computed {value} from the given PriorityClass name",
            )  # fmt: skip
        spec.priority = value
        policy = (found.preemptionPolicy if found is not None else None) or "PreemptLowerPriority"
        if spec.preemptionPolicy and spec.preemptionPolicy != policy:
            raise Forbidden.to(
                "pods", "", admission.name,
                f"the string value of PreemptionPolicy ({spec.preemptionPolicy}) must not be provided in pod spec; "
                f"priority admission controller computed {policy} from the given PriorityClass name",
            )  # fmt: skip
        spec.preemptionPolicy = policy

    def _default(self) -> scheduling.PriorityClass | None:
        version = self._objects.version(scheduling.PriorityClass)
        if self._known[0] != version:
            defaults = [found for found in self._objects.list(scheduling.PriorityClass) if found.globalDefault]
            # Two can be there from before the rule was enforced: the lower one counts.
            self._known = version, min(defaults, key=lambda found: found.value or 0, default=None)
        return self._known[1]
