"""A job's pod failure policy: which failures count, which do not, and which end the job (KEP-3329)."""

from __future__ import annotations

import msgspec

from pinnace.api.batch import v1 as batch
from pinnace.api.core import v1 as core


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """`counts`: the failure counts towards the backoff limit; `message`: it ends the job, for that reason;
    `fails_index`: it ends its index."""

    counts: bool = True
    message: str = ""
    fails_index: bool = False


def judge(policy: batch.PodFailurePolicy | None, pod: core.Pod) -> Verdict:
    """The verdict of the first rule that matches a failed pod."""
    for number, rule in enumerate(policy.rules if policy is not None else ()):
        if rule.onExitCodes is not None:
            why = _by_exit_code(rule.onExitCodes, pod)
        else:
            why = _by_condition(rule.onPodConditions or [], pod)
        if not why:
            continue
        match rule.action:
            case "Ignore":
                return Verdict(counts=False)
            case "FailJob":
                name = f"{pod.metadata.namespace}/{pod.metadata.name}"
                return Verdict(message=f"{why.format(name=name)} matching FailJob rule at index {number}")
            case "FailIndex":
                return Verdict(fails_index=True)
            case _:
                return Verdict()
    return Verdict()


def _by_exit_code(wanted: batch.PodFailurePolicyOnExitCodesRequirement, pod: core.Pod) -> str:
    status = pod.status or core.PodStatus()
    for container in [*(status.containerStatuses or ()), *(status.initContainerStatuses or ())]:
        ended = container.state.terminated if container.state is not None else None
        if ended is None or wanted.containerName not in (None, "", container.name):
            continue
        code = ended.exitCode or 0
        listed = code in wanted.values
        if code and listed == (wanted.operator == "In"):
            return f"Container {container.name} for pod {{name}} failed with exit code {code}"
    return ""


def _by_condition(patterns: list[batch.PodFailurePolicyOnPodConditionsPattern], pod: core.Pod) -> str:
    for pattern in patterns:
        for condition in (pod.status.conditions if pod.status is not None else None) or ():
            if condition.type == pattern.type and condition.status == (pattern.status or "True"):
                return f"Pod {{name}} has condition {condition.type}"
    return ""
