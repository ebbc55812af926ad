"""Binding: the scheduler puts a pod on a node. Once, and only while it is wanted there."""

from __future__ import annotations

from functools import partial

import msgspec

from pinnace.api import times
from pinnace.api.core import v1 as core
from pinnace.api.errors import BadRequest, Conflict
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Action, Context, Subresource
from pinnace.apiserver.resources import actions
from pinnace.apiserver.resources.pods.validation import validate_binding
from pinnace.client.transport import Response


def bind(pod: core.Pod, binding: core.Binding, context: Context) -> core.Pod:
    """The pod as it is on its node. Raises Conflict in upstream's words."""
    name, node = pod.metadata.name or "", binding.target.name or ""
    wanted = binding.metadata.uid
    if wanted and wanted != pod.metadata.uid:
        raise _conflict(
            name, f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {pod.metadata.uid}"
        )
    if pod.metadata.deletionTimestamp:
        raise _conflict(name, f"pod {name} is being deleted, cannot be assigned to a host")
    if pod.spec.nodeName:
        raise _conflict(name, f"pod {name} is already assigned to node \"{pod.spec.nodeName}\"")
    if pod.spec.schedulingGates:
        raise _conflict(name, f"pod {name} has non-empty .spec.schedulingGates")
    # What is not written here is shared.
    replace = msgspec.structs.replace
    bound = replace(
        pod,
        metadata=replace(pod.metadata),
        spec=replace(pod.spec, nodeName=node),
        status=replace(pod.status, nominatedNodeName=None),
    )
    if binding.metadata.annotations:
        bound.metadata.annotations = {**(bound.metadata.annotations or {}), **binding.metadata.annotations}
    scheduled(bound.status, times.format(context.now), bound.metadata.generation)
    return bound


def scheduled(status: core.PodStatus, now: str, generation: int | None) -> None:
    """PodScheduled becomes true; its time moves only if it was not."""
    conditions = list(status.conditions or ())
    new = core.PodCondition(
        type="PodScheduled", status="True", lastTransitionTime=now, observedGeneration=generation
    )
    for i, condition in enumerate(conditions):
        if condition.type == "PodScheduled":
            if condition.status == "True":
                new.lastTransitionTime = condition.lastTransitionTime
            conditions[i] = new
            break
    else:
        conditions.append(new)
    status.conditions = conditions


def _conflict(name: str, why: str) -> Conflict:
    return Conflict.of("pods/binding", "", name, why)


async def _act(action: Action) -> Response:
    binding = actions.body(action, core.Binding)
    return await perform(action, binding, action.name)


async def create_binding(action: Action, binding: core.Binding) -> core.Binding:
    """POST /api/v1/namespaces/{namespace}/bindings: the same, with the name in the object."""
    await perform(action, binding, binding.metadata.name or "")
    return binding


async def perform(action: Action, binding: core.Binding, name: str) -> Response:
    if binding.metadata.name and binding.metadata.name != name:
        raise BadRequest("name in URL does not match name in Binding object")
    actions.refuse(_KIND, name, validate_binding(binding))
    change = partial(bind, binding=binding, context=action.context)
    pods = actions.registry(action, core.Pod)
    await pods.update(action.namespace, name, change, actions.write(action), part=_BIND)
    return actions.success()


def _keep(*_: object) -> None:
    """`bind` has written what it may, spec and status both."""


_KIND = kind_of(core.Binding)
_BIND: Subresource[core.Pod] = Subresource("binding", prepare=_keep, generation=False)
BINDING: Subresource[core.Pod] = Subresource(
    "binding", verbs=("create",), kind=_KIND, act=_act
)
