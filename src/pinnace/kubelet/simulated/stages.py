"""kwok's Stages (kwok.x-k8s.io/v1alpha1): which objects they select, after what delay, and what becomes of them. Pure.

Taken where they say the same here; what is beyond that is refused when they are read, by name. Source:
https://kwok.sigs.k8s.io/docs/user/stages-configuration/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pinnace.api import times, yaml
from pinnace.kubelet.simulated.expressions import NotUnderstood, Query, query
from pinnace.kubelet.simulated.templates import Function, Template

API_VERSION = "kwok.x-k8s.io/v1alpha1"
# Functions that a rendering gives its templates (see `Surroundings`).
PROVIDED = (
    "Now", "StartTime", "Quote", "YAML", "Version", "NodeConditions", "NodeIP", "NodeName", "NodePort", "NodeIPWith",
    "NodeIPsWith", "PodIP", "PodIPWith", "PodIPsWith",
)  # fmt: skip
# Of a pod these do not change while it lives: by them alone it is decided whether Stages lead it.
_LASTING = ("metadata.labels", "metadata.annotations", "metadata.ownerReferences", "metadata.name", "spec.")
_PATCHES = {"json": "json", "merge": "merge", "strategic": "strategic"}


@dataclass(frozen=True, slots=True)
class Requirement:
    key: str
    find: Query
    operator: str
    values: tuple[str, ...]

    @property
    def lasting(self) -> bool:
        return self.key.lstrip(".").startswith(_LASTING)

    def holds(self, obj: Any) -> bool:
        found = self.find(obj)
        match self.operator:
            case "Exists":
                return bool(found)
            case "DoesNotExist":
                return not found
        listed = any(_word(value) in self.values for value in found)
        return listed if self.operator == "In" else not listed


def _word(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class Number:
    """A plain value, and an expression that comes before it where it finds something."""

    value: float | None
    find: Query | None = None


@dataclass(frozen=True, slots=True)
class Patch:
    subresource: str
    root: str
    template: Template
    type: str                    # json, merge, strategic


@dataclass(frozen=True, slots=True)
class Effect:
    event: tuple[str, str, Template] | None = None       # type, reason, message
    finalizers: Mapping[str, Any] | None = None
    patches: tuple[Patch, ...] = ()
    delete: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    kind: str                    # Pod, Node
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    requirements: tuple[Requirement, ...]
    weight: Number
    delay: Number                # seconds
    jitter: Number | None        # seconds
    effect: Effect

    def claims(self, obj: Mapping[str, Any]) -> bool:
        """Whether it could ever select the object."""
        return self._fits(obj) and all(r.holds(obj) for r in self.requirements if r.lasting)

    def selects(self, obj: Mapping[str, Any]) -> bool:
        return self._fits(obj) and all(r.holds(obj) for r in self.requirements)

    def _fits(self, obj: Mapping[str, Any]) -> bool:
        about = obj.get("metadata") or {}
        return _within(self.labels, about.get("labels")) and _within(self.annotations, about.get("annotations"))


def _within(wanted: Mapping[str, str], found: Mapping[str, str] | None) -> bool:
    return all((found or {}).get(key) == value for key, value in wanted.items())


# ------------------------------------------------------------------------------------------------- what follows


def choose(stages: Iterable[Stage], obj: Mapping[str, Any], below: Callable[[int], int]) -> Stage | None:
    """One of those that select the object: by their weights, or any if none has one."""
    found = [stage for stage in stages if stage.selects(obj)]
    if len(found) < 2:
        return found[0] if found else None
    weights = [max(0, int(_number(stage.weight, obj, int) or 0)) for stage in found]
    if not any(weights):
        return found[below(len(found))]
    at = below(sum(weights))
    for stage, weight in zip(found, weights, strict=True):
        at -= weight
        if at < 0:
            return stage
    return found[-1]


def delay_of(stage: Stage, obj: Mapping[str, Any], now: float, uniform: Callable[[float, float], float]) -> float:
    """Seconds from now until the stage is entered."""

    def seconds(text: Any) -> float:
        try:
            return times.parse(str(text)).timestamp() - now
        except ValueError:
            return times.parse_duration(str(text))

    delay = _number(stage.delay, obj, seconds) or 0.0
    jitter = _number(stage.jitter, obj, seconds) if stage.jitter is not None else None
    if jitter is None:
        return max(0.0, delay)
    return max(0.0, jitter if jitter <= delay else uniform(delay, jitter))


def _number(number: Number, obj: Mapping[str, Any], read: Callable[[Any], float]) -> float | None:
    found = number.find(obj) if number.find is not None else []
    if not found:
        return number.value
    try:
        return read(found[0])
    except ValueError:
        return None


def body_of(patch: Patch, obj: Mapping[str, Any], functions: Mapping[str, Function]) -> Any:
    """What is to be sent. Raises ValueError where the template fails, or gives no YAML."""
    found = yaml.load(patch.template.render(obj, functions))
    if patch.type == "json":
        return found
    for key in reversed([key for key in patch.root.split(".") if key]):
        found = {key: found}
    return found


def finalizers_of(stage: Stage, obj: Mapping[str, Any]) -> list[str] | None:
    """The object's finalizers after the stage; None: as they are."""
    wanted = stage.effect.finalizers
    before = list((obj.get("metadata") or {}).get("finalizers") or ())
    if wanted is None:
        return None
    after = [] if wanted.get("empty") else list(before)
    removed = {item.get("value") for item in wanted.get("remove") or ()}
    after = [one for one in after if one not in removed]
    after += [item["value"] for item in wanted.get("add") or () if item["value"] not in after]
    return after if after != before else None


# ---------------------------------------------------------------------------------------------------- reading


def parse(source: Sequence[Mapping[str, Any] | str] | str) -> list[Stage]:
    """Stages as mappings or YAML (also lists of objects, and several documents). Raises NotUnderstood."""
    documents: list[Any] = []
    for part in [source] if isinstance(source, str) else source:
        documents += yaml.load_all(part) if isinstance(part, str) else [part]
    stages = []
    for document in documents:
        items = document["items"] if document and str(document.get("kind", "")).endswith("List") else [document]
        stages += [stage for item in items if item and (stage := _stage(item)) is not None]
    return stages


def _stage(obj: Mapping[str, Any]) -> Stage | None:
    if obj.get("kind") != "Stage" or obj.get("apiVersion") != API_VERSION:
        raise NotUnderstood(f"{obj.get('apiVersion')} {obj.get('kind')} is no Stage of {API_VERSION}")
    name = str((obj.get("metadata") or {}).get("name") or "")
    try:
        return _spec(name, obj.get("spec") or {})
    except NotUnderstood as fault:
        raise NotUnderstood(f"stage {name}: {fault}") from fault


def _known(place: str, table: Mapping[str, Any], *fields: str) -> Mapping[str, Any]:
    for key, value in table.items():
        if key not in fields and value not in (None, "", False, {}, []):
            raise NotUnderstood(f"{place}.{key} is not understood")
    return table


def _spec(name: str, spec: Mapping[str, Any]) -> Stage | None:
    _known(
        "spec", spec, "resourceRef", "selector", "weight", "weightFrom", "delay", "next", "steps",
        "immediateNextStage",       # what a stage leads to is always looked at once it is there
    )  # fmt: skip
    reference = _known("spec.resourceRef", spec.get("resourceRef") or {}, "apiGroup", "kind")
    kind = str(reference.get("kind") or "")
    if kind not in ("Pod", "Node") or reference.get("apiGroup") not in (None, "", "v1"):
        raise NotUnderstood(f"spec.resourceRef: only Pod and Node of v1 can be led, not {kind}")
    selector = spec.get("selector")
    if selector is None:
        return None                # selects nothing
    _known("spec.selector", selector, "matchLabels", "matchAnnotations", "matchExpressions")
    delay = _known(
        "spec.delay", spec.get("delay") or {}, "durationMilliseconds", "durationFrom", "jitterDurationMilliseconds",
        "jitterDurationFrom",
    )  # fmt: skip
    jitters = "jitterDurationMilliseconds" in delay or "jitterDurationFrom" in delay
    return Stage(
        name=name, kind=kind, labels=selector.get("matchLabels") or {},
        annotations=selector.get("matchAnnotations") or {},
        requirements=tuple(_requirement(one) for one in selector.get("matchExpressions") or ()),
        weight=Number(spec.get("weight") or 0, _from("spec.weightFrom", spec.get("weightFrom"))),
        delay=_seconds(delay, "duration"), jitter=_seconds(delay, "jitterDuration") if jitters else None,
        effect=_effect(spec),
    )  # fmt: skip


def _seconds(delay: Mapping[str, Any], name: str) -> Number:
    value = delay.get(f"{name}Milliseconds")
    return Number(None if value is None else value / 1000, _from(f"spec.delay.{name}From", delay.get(f"{name}From")))


def _from(place: str, source: Mapping[str, Any] | None) -> Query | None:
    if not source:
        return None
    _known(place, source, "expressionFrom", "jq")
    text = source.get("expressionFrom") or (source.get("jq") or {}).get("expression")
    return query(str(text)) if text else None


def _requirement(one: Mapping[str, Any]) -> Requirement:
    one = one.get("jq") or one
    _known("spec.selector.matchExpressions", one, "key", "operator", "values")
    operator, values = str(one.get("operator")), tuple(str(value) for value in one.get("values") or ())
    if operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
        raise NotUnderstood(f"operator {operator} is not understood")
    if bool(values) != (operator in ("In", "NotIn")):
        raise NotUnderstood(f"operator {operator} {'takes no' if values else 'needs'} values")
    return Requirement(str(one["key"]), query(str(one["key"])), operator, values)


def _effect(spec: Mapping[str, Any]) -> Effect:
    event: tuple[str, str, Template] | None = None
    finalizers: Mapping[str, Any] | None = None
    patches: list[Patch] = []
    delete = False
    for part in [spec.get("next") or {}, *(spec.get("steps") or ())]:
        _known(
            "spec.next", part, "event", "finalizers", "delete", "statusTemplate", "statusSubresource", "patches",
            "patch",
        )  # fmt: skip
        if told := part.get("event"):
            _known("spec.next.event", told, "type", "reason", "message")
            message = Template(str(told.get("message") or ""), PROVIDED)
            event = (str(told.get("type") or "Normal"), str(told.get("reason") or ""), message)
        if part.get("finalizers"):
            finalizers = _known("spec.next.finalizers", part["finalizers"], "add", "remove", "empty")
        if part.get("statusTemplate"):
            where = part.get("statusSubresource") or "status"
            patches.append(Patch(where, "status", Template(part["statusTemplate"], PROVIDED), "strategic"))
        single = [part["patch"]] if part.get("patch") else []
        patches += [_patch(one) for one in [*(part.get("patches") or ()), *single]]
        delete = delete or bool(part.get("delete"))
    return Effect(event, finalizers, tuple(patches), delete)


def _patch(one: Mapping[str, Any]) -> Patch:
    _known("spec.next.patches", one, "subresource", "root", "template", "type")
    kind = str(one.get("type") or "merge")
    if kind not in _PATCHES:
        raise NotUnderstood(f"spec.next.patches.type {kind} is not understood")
    template = Template(str(one.get("template") or ""), PROVIDED)
    return Patch(str(one.get("subresource") or ""), str(one.get("root") or ""), template, kind)
