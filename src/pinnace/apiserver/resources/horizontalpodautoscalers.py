"""HorizontalPodAutoscalers. v2 is what is stored; v1 is another view, its rest kept in annotations as upstream does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from pinnace.api import codec
from pinnace.api.autoscaling import v1 as v1
from pinnace.api.autoscaling import v2 as v2
from pinnace.api.fields import FieldError, invalid, not_supported, required
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Column, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, NONE, UNKNOWN, UNSET, column
from pinnace.apiserver.resources.strategy import keep_status, reset_status, status_part

METRICS = "autoscaling.alpha.kubernetes.io/metrics"
CURRENT_METRICS = "autoscaling.alpha.kubernetes.io/current-metrics"
CONDITIONS = "autoscaling.alpha.kubernetes.io/conditions"
BEHAVIOR = "autoscaling.alpha.kubernetes.io/behavior"
_TYPES = ("ContainerResource", "External", "Object", "Pods", "Resource")


def _cpu(percent: int) -> v2.MetricSpec:
    target = v2.MetricTarget(type="Utilization", averageUtilization=percent)
    return v2.MetricSpec(type="Resource", resource=v2.ResourceMetricSource(name="cpu", target=target))


def default(autoscaler: v2.HorizontalPodAutoscaler) -> None:
    spec = autoscaler.spec
    if spec.minReplicas is None:
        spec.minReplicas = 1
    if not spec.metrics:
        spec.metrics = [_cpu(80)]
    behavior = spec.behavior
    if behavior is None:
        return
    behavior.scaleUp = _rules(behavior.scaleUp, 0, [("Pods", 4, 15), ("Percent", 100, 15)])
    behavior.scaleDown = _rules(behavior.scaleDown, None, [("Percent", 100, 15)])


def _rules(
    given: v2.HPAScalingRules | None, window: int | None, policies: list[tuple[str, int, int]]
) -> v2.HPAScalingRules:
    rules_ = given if given is not None else v2.HPAScalingRules()
    if rules_.selectPolicy is None:
        rules_.selectPolicy = "Max"
    if rules_.stabilizationWindowSeconds is None:
        rules_.stabilizationWindowSeconds = window
    if rules_.policies is None:
        rules_.policies = [
            v2.HPAScalingPolicy(type=kind, value=value, periodSeconds=seconds)
            for kind, value, seconds in policies
        ]
    return rules_


def validate(autoscaler: v2.HorizontalPodAutoscaler) -> Iterator[FieldError]:
    spec = autoscaler.spec
    least = spec.minReplicas
    if least is not None and least < 1:
        yield invalid("spec.minReplicas", least, "must be greater than or equal to 1")
    if spec.maxReplicas < 1:
        yield invalid("spec.maxReplicas", spec.maxReplicas, "must be greater than 0")
    if least is not None and spec.maxReplicas < least:
        yield invalid("spec.maxReplicas", spec.maxReplicas, "must be greater than or equal to `minReplicas`")
    target = spec.scaleTargetRef
    if not target.kind:
        yield required("spec.scaleTargetRef.kind")
    else:
        for message in rules.path_segment_messages(target.kind):
            yield invalid("spec.scaleTargetRef.kind", target.kind, message)
    if not target.name:
        yield required("spec.scaleTargetRef.name")
    else:
        for message in rules.path_segment_messages(target.name):
            yield invalid("spec.scaleTargetRef.name", target.name, message)
    for i, metric in enumerate(spec.metrics or ()):
        yield from _metric(metric, f"spec.metrics[{i}]")
    behavior = spec.behavior
    if behavior is not None:
        for word, part in (("scaleUp", behavior.scaleUp), ("scaleDown", behavior.scaleDown)):
            if part is not None:
                yield from _scaling(part, f"spec.behavior.{word}")


def _metric(metric: v2.MetricSpec, path: str) -> Iterator[FieldError]:
    if not metric.type:
        yield required(f"{path}.type", "must specify a metric source type")
        return
    if metric.type not in _TYPES:
        yield not_supported(f"{path}.type", metric.type, _TYPES)
        return
    word = metric.type[0].lower() + metric.type[1:]
    source = getattr(metric, word)
    if source is None:
        yield required(f"{path}.{word}", "must populate information for the given metric source")
        return
    target = source.target
    where = f"{path}.{word}.target"
    if not target.type:
        yield required(f"{where}.type", "must specify a metric target type")
    elif target.type not in ("Utilization", "Value", "AverageValue"):
        yield invalid(f"{where}.type", target.type, "must be either Utilization, Value, or AverageValue")
    if target.averageUtilization is not None and target.averageUtilization < 1:
        yield invalid(f"{where}.averageUtilization", target.averageUtilization, "must be greater than 0")


def _scaling(part: v2.HPAScalingRules, path: str) -> Iterator[FieldError]:
    window = part.stabilizationWindowSeconds
    if window is not None and not 0 <= window <= 3600:
        why = "must be less than or equal to 3600" if window > 0 else "must be greater than or equal to zero"
        yield invalid(f"{path}.stabilizationWindowSeconds", window, why)
    if part.selectPolicy not in (None, "Max", "Min", "Disabled"):
        yield not_supported(f"{path}.selectPolicy", part.selectPolicy, ("Disabled", "Max", "Min"))
    if not part.policies:
        yield required(f"{path}.policies", "must specify at least one Policy")
    for i, policy in enumerate(part.policies or ()):
        here = f"{path}.policies[{i}]"
        if policy.type not in ("Pods", "Percent"):
            yield not_supported(f"{here}.type", policy.type, ("Percent", "Pods"))
        if policy.value <= 0:
            yield invalid(f"{here}.value", policy.value, "must be greater than zero")
        if policy.periodSeconds <= 0:
            yield invalid(f"{here}.periodSeconds", policy.periodSeconds, "must be greater than zero")
        if policy.periodSeconds > 1800:
            yield invalid(f"{here}.periodSeconds", policy.periodSeconds, "must be less than or equal to 1800")


def _is_cpu(metric: v2.MetricSpec) -> bool:
    resource = metric.resource
    return (
        resource is not None and resource.name == "cpu" and resource.target.averageUtilization is not None
    )


def to_v1(stored: v2.HorizontalPodAutoscaler) -> v1.HorizontalPodAutoscaler:
    spec, status = stored.spec, stored.status
    metadata = msgspec.structs.replace(stored.metadata)
    annotations = dict(metadata.annotations or {})
    metrics = list(spec.metrics or ())
    cpu = next((metric for metric in metrics if _is_cpu(metric)), None)
    rest = [metric for metric in metrics if metric is not cpu]
    current = list(status.currentMetrics or ())
    now = next((m for m in current if m.resource is not None and m.resource.name == "cpu"), None)
    for key, value in (
        (METRICS, rest), (BEHAVIOR, spec.behavior), (CONDITIONS, status.conditions),
        (CURRENT_METRICS, [m for m in current if m is not now]),
    ):  # fmt: skip
        if value:
            annotations[key] = json.dumps(codec.to_dict(value), separators=(",", ":"))
    metadata.annotations = annotations or None
    target = spec.scaleTargetRef
    return v1.HorizontalPodAutoscaler(
        metadata=metadata,
        spec=v1.HorizontalPodAutoscalerSpec(
            maxReplicas=spec.maxReplicas,
            minReplicas=spec.minReplicas,
            scaleTargetRef=v1.CrossVersionObjectReference(
                kind=target.kind, name=target.name, apiVersion=target.apiVersion
            ),
            targetCPUUtilizationPercentage=(
                cpu.resource.target.averageUtilization if cpu is not None and cpu.resource is not None else None
            ),
        ),
        status=v1.HorizontalPodAutoscalerStatus(
            currentCPUUtilizationPercentage=(
                now.resource.current.averageUtilization if now is not None and now.resource is not None else None
            ),
            currentReplicas=status.currentReplicas or 0,
            desiredReplicas=status.desiredReplicas,
            lastScaleTime=status.lastScaleTime,
            observedGeneration=status.observedGeneration,
        ),
    )


def from_v1(view: v1.HorizontalPodAutoscaler) -> v2.HorizontalPodAutoscaler:
    spec, status, target = view.spec, view.status, view.spec.scaleTargetRef
    metadata = msgspec.structs.replace(view.metadata)
    annotations = dict(metadata.annotations or {})
    kept = {key: annotations.pop(key, None) for key in (METRICS, BEHAVIOR, CONDITIONS, CURRENT_METRICS)}
    metadata.annotations = annotations or None
    metrics = [_cpu(spec.targetCPUUtilizationPercentage)] if spec.targetCPUUtilizationPercentage else []
    metrics += _kept(kept[METRICS], list[v2.MetricSpec]) or []
    current: list[v2.MetricStatus] = _kept(kept[CURRENT_METRICS], list[v2.MetricStatus]) or []
    if status.currentCPUUtilizationPercentage is not None:
        value = v2.MetricValueStatus(averageUtilization=status.currentCPUUtilizationPercentage)
        own = v2.ResourceMetricStatus(name="cpu", current=value)
        current.insert(0, v2.MetricStatus(type="Resource", resource=own))
    return v2.HorizontalPodAutoscaler(
        metadata=metadata,
        spec=v2.HorizontalPodAutoscalerSpec(
            maxReplicas=spec.maxReplicas,
            minReplicas=spec.minReplicas,
            metrics=metrics or None,
            behavior=_kept(kept[BEHAVIOR], v2.HorizontalPodAutoscalerBehavior),
            scaleTargetRef=v2.CrossVersionObjectReference(
                kind=target.kind, name=target.name, apiVersion=target.apiVersion
            ),
        ),
        status=v2.HorizontalPodAutoscalerStatus(
            conditions=_kept(kept[CONDITIONS], list[v2.HorizontalPodAutoscalerCondition]),
            currentMetrics=current or None,
            currentReplicas=status.currentReplicas,
            desiredReplicas=status.desiredReplicas,
            lastScaleTime=status.lastScaleTime,
            observedGeneration=status.observedGeneration,
        ),
    )


def _kept(text: str | None, what: Any) -> Any:
    """What an annotation holds; people may write anything there, and then it holds nothing."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=what)
    except (msgspec.ValidationError, msgspec.DecodeError):
        return None


def default_v1(view: v1.HorizontalPodAutoscaler) -> None:
    if view.spec.minReplicas is None:
        view.spec.minReplicas = 1


def shown(spec: v2.MetricSpec, status: v2.MetricStatus | None) -> str:
    word = spec.type[:1].lower() + spec.type[1:]
    source = getattr(spec, word, None)
    if source is None:
        return "<unknown type>"
    found = getattr(status, word, None) if status is not None else None
    target, current = source.target, found.current if found is not None else None
    prefix = {"resource": f"{source.name}: "}.get(word, "") if hasattr(source, "name") else ""
    if word == "containerResource":
        prefix = f"{source.name}: "
    if target.averageValue is not None:
        now = current.averageValue if current is not None and current.averageValue is not None else UNKNOWN
        suffix = " (avg)" if word in ("external", "object") else ""
        return f"{prefix}{now}/{target.averageValue}{suffix}"
    if word in ("resource", "containerResource"):
        value = current.averageUtilization if current is not None else None
        now = f"{value}%" if value is not None else UNKNOWN
        goal = f"{target.averageUtilization}%" if target.averageUtilization is not None else "<auto>"
        return f"{prefix}{now}/{goal}"
    now = current.value if current is not None and current.value is not None else UNKNOWN
    return f"{prefix}{now}/{target.value}"


def _targets(autoscaler: v2.HorizontalPodAutoscaler) -> str:
    specs, statuses = autoscaler.spec.metrics or [], autoscaler.status.currentMetrics or []
    texts = [shown(spec, statuses[i] if i < len(statuses) else None) for i, spec in enumerate(specs)]
    more = f" + {len(texts) - 2} more..." if len(texts) > 2 else ""
    return ", ".join(texts[:2]) + more if texts else NONE


def _columns(stored: Any) -> tuple[Column[Any], ...]:
    def of(title: str, value: Any, text: str, type: str = "string") -> Column[Any]:
        return column(title, lambda thing: value(stored(thing)), text, type=type)

    return (
        NAME,
        of("Reference", lambda a: f"{a.spec.scaleTargetRef.kind}/{a.spec.scaleTargetRef.name}", "What it scales."),
        of("Targets", _targets, "Metrics as they are, and as they should be."),
        of("MinPods", lambda a: UNSET if a.spec.minReplicas is None else str(a.spec.minReplicas), "At least."),
        of("MaxPods", lambda a: a.spec.maxReplicas, "At most.", "integer"),
        of("Replicas", lambda a: a.status.currentReplicas or 0, "Now.", "integer"),
        AGE,
    )


V2: Resource[v2.HorizontalPodAutoscaler] = Resource(
    kind=kind_of(v2.HorizontalPodAutoscaler),
    default=default,
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=validate,
    validate_update=lambda new, _: validate(new),
    columns=_columns(lambda autoscaler: autoscaler),
    subresources=(status_part(),),
    generation=False,
)
V1: Resource[v1.HorizontalPodAutoscaler] = Resource(
    kind=kind_of(v1.HorizontalPodAutoscaler),
    default=default_v1,
    prepare_create=reset_status,
    prepare_update=keep_status,
    validate_create=lambda view: validate(from_v1(view)),
    validate_update=lambda new, _: validate(from_v1(new)),
    columns=_columns(from_v1),
    subresources=(status_part(),),
    generation=False,
    stored_as=kind_of(v2.HorizontalPodAutoscaler),
    from_stored=to_v1,
    to_stored=from_v1,
)
RESOURCES = (V2, V1)
