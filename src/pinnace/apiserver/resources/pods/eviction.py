"""Eviction: deleting a pod politely, if the disruption budgets that cover it allow one more to go.

The decision is pure (`decide`); taking one disruption from a budget is a write under its revision, so that
two evictions at once never take the same one. Upstream: registry/core/pod/storage/eviction.go.
"""

from __future__ import annotations

from dataclasses import dataclass

from pinnace.api import codec, times
from pinnace.api.core import v1 as core
from pinnace.api.errors import BadRequest, Forbidden, InternalError, StatusCause, StatusDetails, TooManyRequests
from pinnace.api.kinds import Kind
from pinnace.api.policy import v1 as policy
from pinnace.apiserver.options import DeleteOptions
from pinnace.apiserver.resource import Action, Context, Subresource
from pinnace.apiserver.resources import actions
from pinnace.apiserver.resources.selectors import matches
from pinnace.client.transport import Response

MAX_DISRUPTED = 2000
REFUSED = "Cannot evict pod as it would violate the pod's disruption budget."


@dataclass(frozen=True, slots=True)
class Verdict:
    """`budget`: the one that has to give a disruption first; None if the pod may simply go."""

    budget: policy.PodDisruptionBudget | None = None


def covering(
    pod: core.Pod, budgets: list[policy.PodDisruptionBudget]
) -> list[policy.PodDisruptionBudget]:
    labels = pod.metadata.labels or {}
    return [
        budget for budget in budgets if budget.spec.selector is not None and matches(budget.spec.selector, labels)
    ]


def decide(pod: core.Pod, budgets: list[policy.PodDisruptionBudget]) -> Verdict:
    """Raises TooManyRequests or InternalError."""
    if pod.status.phase in ("Pending", "Succeeded", "Failed") or pod.metadata.deletionTimestamp:
        return Verdict()
    mine = covering(pod, budgets)
    if len(mine) > 1:
        raise InternalError(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        )
    if not mine:
        return Verdict()
    budget = mine[0]
    if not is_ready(pod):
        status = budget.status
        if budget.spec.unhealthyPodEvictionPolicy == "AlwaysAllow":
            return Verdict()
        desired = status.desiredHealthy or 0
        if (status.currentHealthy or 0) >= desired and desired > 0:
            return Verdict()
    return Verdict(budget)


def is_ready(pod: core.Pod) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or ())


def take(budget: policy.PodDisruptionBudget, pod: str, context: Context) -> policy.PodDisruptionBudget:
    """The budget with one disruption fewer. Raises Forbidden or TooManyRequests."""
    status, name = budget.status, budget.metadata.name or ""
    if (status.observedGeneration or 0) < (budget.metadata.generation or 0):
        raise _too_many(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            f"The disruption budget {name} is still being processed by the server.",
        )
    allowed = status.disruptionsAllowed or 0
    if allowed < 0:
        raise Forbidden.to(
            "poddisruptionbudgets", "policy", name, "pdb disruptions allowed is negative"
        )
    if len(status.disruptedPods or ()) > MAX_DISRUPTED:
        raise Forbidden.to(
            "poddisruptionbudgets", "policy", name,
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        )  # fmt: skip
    if allowed == 0:
        raise _too_many(
            REFUSED,
            f"The disruption budget {name} needs {status.desiredHealthy or 0} healthy pods and has "
            f"{status.currentHealthy or 0} currently",
        )
    taken = codec.copy(budget)
    taken.status.disruptionsAllowed = allowed - 1
    taken.status.disruptedPods = {**(taken.status.disruptedPods or {}), pod: times.format(context.now)}
    if allowed == 1:
        for condition in taken.status.conditions or ():
            if condition.type == "DisruptionAllowed":
                condition.status, condition.reason = "False", "InsufficientPods"
                condition.lastTransitionTime = times.format(context.now)
    return taken


def _too_many(message: str, cause: str) -> TooManyRequests:
    return TooManyRequests(message, StatusDetails(causes=(StatusCause("DisruptionBudget", cause),)))


async def _act(action: Action) -> Response:
    eviction = actions.body(action, policy.Eviction)
    name = eviction.metadata.name or action.name
    if name != action.name:
        raise BadRequest("name in URL does not match name in Eviction object")
    options = _options(eviction)
    pods = actions.registry(action, core.Pod)
    pod = pods.get(action.namespace, name)
    budgets = actions.registry(action, policy.PodDisruptionBudget)
    verdict = decide(pod, budgets.list(action.namespace))
    if verdict.budget is not None:
        await budgets.update(
            action.namespace,
            verdict.budget.metadata.name or "",
            lambda budget: take(budget, name, action.context),
            actions.write(action),
            part=_TAKE,
        )
    await pods.delete(action.namespace, name, options, actions.write(action))
    return actions.success()


def _options(eviction: policy.Eviction) -> DeleteOptions:
    asked = eviction.deleteOptions
    if asked is None:
        return DeleteOptions()
    conditions = asked.preconditions
    return DeleteOptions(
        grace=asked.gracePeriodSeconds,
        policy=asked.propagationPolicy or "",
        uid=(conditions.uid if conditions is not None else None) or "",
        revision=(conditions.resourceVersion if conditions is not None else None) or "",
    )


def _keep(*_: object) -> None:
    """`take` has written the status."""


_TAKE: Subresource[policy.PodDisruptionBudget] = Subresource("status", prepare=_keep)
EVICTION_KIND = Kind("policy", "v1", "Eviction", "", "", module="policy/v1")
EVICTION: Subresource[core.Pod] = Subresource(
    "eviction", verbs=("create",), kind=EVICTION_KIND, act=_act
)
