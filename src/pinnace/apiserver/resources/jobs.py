"""Jobs: pods that run to their end. The server picks the selector, so that no two jobs count the same pods."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from pinnace.api import codec
from pinnace.api.batch import v1 as batch
from pinnace.api.fields import FieldError, invalid, not_supported, required, too_long
from pinnace.api.kinds import kind_of
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.resource import Column, Context, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import (
    AGE,
    NAME,
    column,
    format_selector,
    human_duration,
    template_columns,
)
from pinnace.apiserver.resources.podspec.defaults import default_pod_spec
from pinnace.apiserver.resources.podspec.spec import validate_pod_template
from pinnace.apiserver.resources.podspec.warnings import of_template
from pinnace.apiserver.resources.selectors import matches, validate_selector
from pinnace.apiserver.resources.strategy import keep_status, non_negative_counts, status_part

UID_LABEL = "batch.kubernetes.io/controller-uid"
NAME_LABEL = "batch.kubernetes.io/job-name"
LEGACY_UID_LABEL = "controller-uid"
LEGACY_NAME_LABEL = "job-name"
MAX_INT32 = (1 << 31) - 1


def default(job: batch.Job) -> None:
    spec = job.spec
    default_pod_spec(spec.template.spec)
    if spec.completions is None and spec.parallelism is None:
        spec.completions = spec.parallelism = 1
    elif spec.parallelism is None:
        spec.parallelism = 1
    if spec.backoffLimit is None:
        spec.backoffLimit = 6 if spec.backoffLimitPerIndex is None else MAX_INT32
    if not job.metadata.labels and spec.template.metadata.labels:
        job.metadata.labels = dict(spec.template.metadata.labels)
    if not spec.completionMode:
        spec.completionMode = "NonIndexed"
    if spec.suspend is None:
        spec.suspend = False
    if spec.podFailurePolicy is not None:
        default_failure_policy(spec.podFailurePolicy)
    if spec.manualSelector is None:
        spec.manualSelector = False
    if spec.podReplacementPolicy is None:
        spec.podReplacementPolicy = (
            "TerminatingOrFailed" if spec.podFailurePolicy is None else "Failed"
        )


def default_failure_policy(policy: batch.PodFailurePolicy) -> None:
    for rule in policy.rules:
        for pattern in rule.onPodConditions or ():
            if not pattern.status:
                pattern.status = "True"


def prepare_create(job: batch.Job, _: Context) -> None:
    job.status = batch.JobStatus()
    if job.spec.manualSelector:
        return
    uid, name = job.metadata.uid or "", job.metadata.name or ""
    job.spec.template.metadata.labels = {
        **(job.spec.template.metadata.labels or {}),
        LEGACY_NAME_LABEL: name,
        NAME_LABEL: name,
        LEGACY_UID_LABEL: uid,
        UID_LABEL: uid,
    }
    selector = job.spec.selector
    if selector is None:
        selector = job.spec.selector = meta.LabelSelector()
    selector.matchLabels = {**(selector.matchLabels or {}), UID_LABEL: uid}


def validate(job: batch.Job) -> Iterator[FieldError]:
    spec = job.spec
    if spec.selector is None:
        yield required("spec.selector")
    yield from validate_job_spec(spec, "spec")
    if spec.selector is not None and not matches(spec.selector, spec.template.metadata.labels or {}):
        yield invalid(
            "spec.template.metadata.labels",
            spec.template.metadata.labels or {},
            "`selector` does not match template `labels`",
        )


def validate_job_spec(spec: batch.JobSpec, path: str) -> Iterator[FieldError]:
    yield from non_negative_counts(
        spec, path, "parallelism", "completions", "activeDeadlineSeconds", "backoffLimit",
        "ttlSecondsAfterFinished", "backoffLimitPerIndex", "maxFailedIndexes",
    )  # fmt: skip
    mode = spec.completionMode
    if mode is not None and mode not in ("NonIndexed", "Indexed"):
        yield not_supported(f"{path}.completionMode", mode, ("Indexed", "NonIndexed"))
    if mode == "Indexed":
        if spec.completions is None:
            yield required(f"{path}.completions", "when completion mode is Indexed")
        if (spec.parallelism or 0) > 100_000 and spec.completions is not None:
            yield invalid(
                f"{path}.parallelism", spec.parallelism, "must be less than or equal to 100000 when completion mode "
                "is Indexed",
            )
    else:
        for word, limit in (
            ("backoffLimitPerIndex", spec.backoffLimitPerIndex), ("maxFailedIndexes", spec.maxFailedIndexes)
        ):  # fmt: skip
            if limit is not None:
                yield invalid(f"{path}.{word}", limit, "requires indexed completion mode")
    if spec.podReplacementPolicy not in (None, "TerminatingOrFailed", "Failed"):
        yield not_supported(
            f"{path}.podReplacementPolicy", spec.podReplacementPolicy, ("Failed", "TerminatingOrFailed")
        )
    elif spec.podFailurePolicy is not None and spec.podReplacementPolicy == "TerminatingOrFailed":
        yield not_supported(f"{path}.podReplacementPolicy", spec.podReplacementPolicy, ("Failed",))
    if spec.podFailurePolicy is not None:
        yield from _failure_policy(spec, f"{path}.podFailurePolicy")
    if spec.managedBy is not None and len(spec.managedBy) > 63:
        yield too_long(f"{path}.managedBy", spec.managedBy, 63)
    if spec.selector is not None:
        yield from validate_selector(spec.selector, f"{path}.selector")
    yield from validate_pod_template(spec.template, f"{path}.template")
    policy = spec.template.spec.restartPolicy
    if policy == "Always":
        yield required(f"{path}.template.spec.restartPolicy", 'valid values: "OnFailure", "Never"')
    elif policy not in ("OnFailure", "Never"):
        yield not_supported(f"{path}.template.spec.restartPolicy", policy, ("Never", "OnFailure"))
    elif spec.podFailurePolicy is not None and policy != "Never":
        yield invalid(
            f"{path}.template.spec.restartPolicy",
            policy,
            'only "Never" is supported when podFailurePolicy is specified',
        )


def _failure_policy(spec: batch.JobSpec, path: str) -> Iterator[FieldError]:
    policy = spec.podFailurePolicy
    assert policy is not None
    if len(policy.rules) > 20:
        yield FieldError("FieldValueTooMany", f"{path}.rules", len(policy.rules), "must have at most 20 items")
    names = {c.name for c in (*spec.template.spec.containers, *(spec.template.spec.initContainers or ()))}
    for i, rule in enumerate(policy.rules):
        here = f"{path}.rules[{i}]"
        if not rule.action:
            yield required(f"{here}.action", 'valid values: ["Count", "FailIndex", "FailJob", "Ignore"]')
        elif rule.action not in ("Count", "FailIndex", "FailJob", "Ignore"):
            yield not_supported(f"{here}.action", rule.action, ("Count", "FailIndex", "FailJob", "Ignore"))
        codes = rule.onExitCodes
        if codes is not None:
            if not codes.values:
                yield invalid(f"{here}.onExitCodes.values", codes.values, "at least one value is required")
            if codes.operator not in ("In", "NotIn"):
                yield not_supported(f"{here}.onExitCodes.operator", codes.operator, ("In", "NotIn"))
            if codes.containerName is not None and codes.containerName not in names:
                yield invalid(
                    f"{here}.onExitCodes.containerName",
                    codes.containerName,
                    "must be one of the container or initContainer names in the pod template",
                )
        if codes is not None and rule.onPodConditions:
            yield invalid(here, rule, "specifying both OnExitCodes and OnPodConditions is not supported")
        if codes is None and not rule.onPodConditions:
            yield invalid(here, rule, "specifying one of OnExitCodes and OnPodConditions is required")


def validate_update(new: batch.Job, old: batch.Job) -> Iterator[FieldError]:
    yield from validate_job_spec(new.spec, "spec")
    after, before = new.spec, old.spec
    if after.completions != before.completions:
        elastic = (
            after.completionMode == "Indexed"
            and after.completions is not None
            and after.completions == after.parallelism
        )
        if not elastic:
            yield from rules.immutable("spec.completions", after.completions, before.completions)
    yield from rules.immutable("spec.selector", after.selector, before.selector)
    yield from _template_immutable(new, old)
    for word in ("completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"):
        yield from rules.immutable(f"spec.{word}", getattr(after, word), getattr(before, word))


def _template_immutable(new: batch.Job, old: batch.Job) -> Iterator[FieldError]:
    """Scheduling directives may still change while a job is suspended and has not started."""
    after, before = new.spec.template, old.spec.template
    if after == before:
        return
    if old.spec.suspend and old.status.startTime is None:
        after = codec.copy(after)
        after.metadata.labels = before.metadata.labels
        after.metadata.annotations = before.metadata.annotations
        for word in ("nodeSelector", "tolerations", "schedulingGates"):
            setattr(after.spec, word, getattr(before.spec, word))
        if after.spec.affinity is not None:
            after.spec.affinity.nodeAffinity = (
                before.spec.affinity.nodeAffinity if before.spec.affinity is not None else None
            )
            if before.spec.affinity is None:
                after.spec.affinity = None
    yield from rules.immutable("spec.template", after, before)


def validate_status(new: batch.Job, _: batch.Job) -> Iterator[FieldError]:
    yield from non_negative_counts(new.status, "status", "active", "succeeded", "failed", "ready", "terminating")


def _status(job: batch.Job) -> str:
    true = {condition.type for condition in job.status.conditions or () if condition.status == "True"}
    for word, shown in (
        ("Complete", "Complete"), ("Failed", "Failed"), ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"), ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ):  # fmt: skip
        if word in true:
            return "Terminating" if job.metadata.deletionTimestamp and word not in ("Complete", "Failed") else shown
    return "Terminating" if job.metadata.deletionTimestamp else "Running"


def _completions(job: batch.Job) -> str:
    done = job.status.succeeded or 0
    if job.spec.completions is not None:
        return f"{done}/{job.spec.completions}"
    parallel = job.spec.parallelism or 0
    return f"{done}/1 of {parallel}" if parallel > 1 else f"{done}/1"


def _duration(job: batch.Job, now: datetime) -> str:
    if not job.status.startTime:
        return ""
    start = datetime.fromisoformat(job.status.startTime)
    end = datetime.fromisoformat(job.status.completionTime) if job.status.completionTime else now
    return human_duration((end - start).total_seconds())


COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Status", _status, "What the job's conditions say."),
    column("Completions", _completions, "Pods that succeeded, of those wanted."),
    Column("Duration", _duration, description="How long it ran, or has run until now."),
    AGE,
    *template_columns(lambda j: j.spec.template, lambda j: format_selector(j.spec.selector)),
)

JOB: Resource[batch.Job] = Resource(
    kind=kind_of(batch.Job),
    default=default,
    prepare_create=prepare_create,
    prepare_update=keep_status,
    validate_create=validate,
    validate_update=validate_update,
    warnings=of_template("spec.template"),
    columns=COLUMNS,
    fields={"status.successful": lambda j: str(j.status.succeeded or 0)},
    subresources=(status_part(validate_status),),
)
RESOURCES = (JOB,)


