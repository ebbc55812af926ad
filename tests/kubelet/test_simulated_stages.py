"""kwok's Stages: expressions and templates as tables, what is refused, and whole lives in virtual time.

The Stages below do what kwok's own default ones do, with the same constructs, in fewer words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pinnace.api import times, yaml
from pinnace.client.transport import Response
from pinnace.kubelet.simulated.expressions import NotUnderstood, query
from pinnace.kubelet.simulated.stages import choose, delay_of, finalizers_of, parse
from pinnace.kubelet.simulated.templates import Template
from pinnace.testing.cluster import Cluster
from pinnace.testing.loop import simulate

ONE = "pinnace-simulated-1"

FAST = """
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-ready}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: .metadata.deletionTimestamp, operator: DoesNotExist}
    - {key: .status.podIP, operator: DoesNotExist}
  next:
    statusTemplate: |
      {{ $now := Now }}
      conditions:
      {{ range $type := list "Initialized" "Ready" "ContainersReady" }}
      - {lastTransitionTime: {{ $now | Quote }}, status: "True", type: {{ $type | Quote }}}
      {{ end }}
      {{ range .spec.readinessGates }}
      - {lastTransitionTime: {{ $now | Quote }}, status: "True", type: {{ .conditionType | Quote }}}
      {{ end }}
      containerStatuses:
      {{ range .spec.containers }}
      - image: {{ .image | Quote }}
        name: {{ .name | Quote }}
        ready: true
        restartCount: 0
        state: {running: {startedAt: {{ $now | Quote }}}}
      {{ end }}
      initContainerStatuses:
      {{ range .spec.initContainers }}
      - image: {{ .image | Quote }}
        name: {{ .name | Quote }}
        ready: true
        restartCount: 0
        {{ if eq .restartPolicy "Always" }}
        state: {running: {startedAt: {{ $now | Quote }}}}
        {{ else }}
        state: {terminated: {exitCode: 0, reason: Completed, finishedAt: {{ $now | Quote }}}}
        {{ end }}
      {{ end }}
      hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
      podIP: {{ PodIPWith .spec.nodeName ( or .spec.hostNetwork false ) ( or .metadata.uid "" ) "" "" | Quote }}
      phase: Running
      startTime: {{ $now | Quote }}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-complete}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: .metadata.deletionTimestamp, operator: DoesNotExist}
    - {key: .status.phase, operator: In, values: [Running]}
    - {key: '.metadata.ownerReferences.[].kind', operator: In, values: [Job]}
  delay:
    durationMilliseconds: 1000
    durationFrom: {expressionFrom: '.metadata.annotations["pod-complete.stage.kwok.x-k8s.io/delay"]'}
    jitterDurationMilliseconds: 5000
  next:
    statusTemplate: |
      {{ $now := Now }}
      {{ $root := . }}
      containerStatuses:
      {{ range $index, $item := .spec.containers }}
      {{ $origin := index $root.status.containerStatuses $index }}
      - image: {{ $item.image | Quote }}
        name: {{ $item.name | Quote }}
        ready: false
        restartCount: 0
        state:
          terminated:
            exitCode: 0
            finishedAt: {{ $now | Quote }}
            reason: Completed
            startedAt: {{ $origin.state.running.startedAt | Quote }}
      {{ end }}
      phase: Succeeded
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-delete}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions: [{key: .metadata.deletionTimestamp, operator: Exists}]
  next:
    event: {type: Normal, reason: Killing, message: 'Stopping {{ ( index .spec.containers 0 ).name }}'}
    finalizers: {empty: true}
    delete: true
"""

NODE = """
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: node-initialize}
spec:
  resourceRef: {apiGroup: v1, kind: Node}
  selector:
    matchExpressions:
    - {key: '.status.conditions.[] | select( .type == "Ready" ) | .status', operator: NotIn, values: ['True']}
    - {key: '.metadata.labels["broken"]', operator: DoesNotExist}
  next:
    statusTemplate: |
      {{ $now := Now }}
      {{ $since := or .metadata.creationTimestamp $now }}
      conditions:
      {{ range NodeConditions }}
      - lastHeartbeatTime: {{ $now | Quote }}
        lastTransitionTime: {{ $since | Quote }}
        message: {{ .message | Quote }}
        reason: {{ .reason | Quote }}
        status: {{ .status | Quote }}
        type: {{ .type  | Quote}}
      {{ end }}
      addresses:
      {{ with .status.addresses }}
      {{ YAML . 1 }}
      {{ else }}
      {{ with NodeIP }}
      - {address: {{ . | Quote }}, type: InternalIP}
      {{ end }}
      {{ end }}
      {{ with .status.nodeInfo }}
      nodeInfo:
        kubeletVersion: {{ with .kubeletVersion }} {{ . }} {{ else }} "kwok-{{ Version }}" {{ end }}
        osImage: {{ with .nothing }} {{ . }} {{ else }} "" {{ end }}
      {{ end }}
      phase: Running
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: node-heartbeat}
spec:
  resourceRef: {apiGroup: v1, kind: Node}
  selector:
    matchExpressions:
    - {key: .status.phase, operator: In, values: [Running]}
    - {key: '.status.conditions.[] | select( .type == "Ready" ) | .status', operator: In, values: ['True']}
    - {key: '.metadata.labels["broken"]', operator: DoesNotExist}
  delay: {durationMilliseconds: 20000, jitterDurationMilliseconds: 25000}
  next:
    statusTemplate: |
      conditions:
      {{ range NodeConditions }}
      - lastHeartbeatTime: {{ Now | Quote }}
        reason: {{ .reason | Quote }}
        status: {{ .status | Quote }}
        type: {{ .type | Quote }}
      {{ end }}
  immediateNextStage: true
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: node-not-ready}
spec:
  resourceRef: {apiGroup: v1, kind: Node}
  selector:
    matchLabels: {broken: "true"}
    matchExpressions:
    - {key: '.status.conditions.[] | select(.type == "Ready") | .reason', operator: NotIn, values: [lost]}
  next:
    statusTemplate: |
      conditions:
      {{ range NodeConditions }}
      {{ if eq .type "Ready" }}
      - {type: Ready, status: "False", reason: lost, message: {{ printf "%s of %d" .type 5 | Quote }}}
      {{ else if eq .type "DiskPressure" "PIDPressure" }}
      - {type: {{ .type }}, status: "True", reason: full}
      {{ else }}
      - {type: {{ .type }}, status: {{ .status | Quote }}, reason: {{ .reason }}}
      {{ end }}
      {{ end }}
"""


def stage(**spec: Any) -> dict[str, Any]:
    spec = {"resourceRef": {"kind": "Pod"}, "selector": {}, **spec}
    return {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": {"name": "mine"}, "spec": spec}


# ------------------------------------------------------------------------------------------------ expressions

OBJECT = {
    "metadata": {"annotations": {"a.b/c": "1s", "d": "e"}, "finalizers": ["x", "y"]},
    "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False", "n": 3}]},
}


@pytest.mark.parametrize(("text", "found"), [
    (".metadata.annotations.d", ["e"]), ('.metadata.annotations["a.b/c"]', ["1s"]),
    ('.metadata.annotations."a.b/c"', ["1s"]), ('.metadata["annotations"].d', ["e"]),
    (".metadata.finalizers.[]", ["x", "y"]), (".metadata.finalizers[]", ["x", "y"]),
    (".metadata.finalizers[0]", ["x"]), (".metadata.finalizers[-1]", ["y"]), (".metadata.finalizers[7]", []),
    ('.status.conditions.[] | select( .type == "Ready" ) | .status', ["True"]),
    ('.status.conditions[] | select(.type != "Ready").status', None),
    ('.status.conditions[] | select(.type != "Ready") | .status', ["False"]),
    (".status.conditions[] | select(.n == 3) | .type", ["Other"]), (".status.conditions[] | select(.n) | .n", [3]),
    (".nothing.of.the[].kind", []), (".metadata.annotations.d.e", []), (".metadata.nothing?", []),
])  # fmt: skip
def test_expressions(text: str, found: list[Any] | None) -> None:
    if found is None:
        with pytest.raises(NotUnderstood):
            query(text)
    else:
        assert query(text)(OBJECT) == found


@pytest.mark.parametrize(("text", "what"), [
    (".a | length", "length"), (".a + 1", "+"), (".a | map(.b)", "map"), ("", "the end"), (".a[", "the end"),
    (".a[1:2]", ":"), ("select(.a == .b)", ".b"),
])  # fmt: skip
def test_expressions_beyond_the_part(text: str, what: str) -> None:
    with pytest.raises(NotUnderstood, match=re.escape(f"{what!r} is not understood")):
        query(text)


# -------------------------------------------------------------------------------------------------- templates

DATA = {"a": {"b": [1, 2, 3], "e": [], "s": "text"}, "t": True, "m": {"y": 2, "x": 1}}


@pytest.mark.parametrize(("text", "out"), [
    ("{{ .a.s }}", "text"), ("{{.t}}", "true"), ("{{ .nothing }}", "<no value>"), ("a{{/* no */}}b", "ab"),
    ("a {{- .a.s -}} b", "atextb"), ("{{ $x := .a.s }}{{ $x }}", "text"), ("{{ .a.b }}", "[1 2 3]"),
    ("{{ range .a.b }}<{{ . }}>{{ end }}", "<1><2><3>"),
    ("{{ range $i, $v := .a.b }}{{ $i }}={{ $v }},{{ end }}", "0=1,1=2,2=3,"),
    ("{{ range $v := .a.b }}{{ $v }}{{ end }}", "123"), ("{{ range $k, $v := .m }}{{ $k }}{{ $v }}{{ end }}", "x1y2"),
    ("{{ range .a.e }}x{{ else }}none{{ end }}", "none"), ("{{ range .nothing }}x{{ end }}", ""),
    ("{{ range .a.b }}{{ if eq . 2 }}{{ break }}{{ end }}{{ . }}{{ end }}", "1"),
    ("{{ range .a.b }}{{ if eq . 2 }}{{ continue }}{{ end }}{{ . }}{{ end }}", "13"),
    ("{{ with .a }}{{ .s }}{{ else }}no{{ end }}", "text"), ("{{ with .a.e }}x{{ else }}no{{ end }}", "no"),
    ("{{ if .a.e }}1{{ else if .t }}2{{ else }}3{{ end }}", "2"), ("{{ if not .t }}1{{ else }}3{{ end }}", "3"),
    ('{{ or .nothing "b" }}', "b"), ('{{ and .t "b" }}', "b"), ('{{ eq .a.s "x" "text" }}', "true"),
    ("{{ index .a.b 1 }}", "2"), ('{{ index .a "s" }}', "text"), ("{{ ( index .a.b 0 ) }}", "1"),
    ("{{ len .a.b }}", "3"), ("{{ add1 ( or .nothing 0 ) }}", "1"), ('{{ "x" | printf "%s-%d" "y" }}', "y-x"),
    ("{{ $n := 0 }}{{ range .a.b }}{{ $n = . }}{{ end }}{{ $n }}", "3"),
    ("{{ range .a.b }}{{ $.a.s }}{{ end }}", "texttexttext"), ('{{ (dict "k" .a).k.s }}', "text"),
    ('{{ define "one" }}<{{ .x }}>{{ end }}{{ range .a.b }}{{ template "one" dict "x" . }}{{ end }}', "<1><2><3>"),
    ('{{ .nothing | default "d" | upper | quote }}', '"D"'), ("{{ Shout .a.s }}", "TEXT"), ("{{ `raw` }}", "raw"),
])  # fmt: skip
def test_templates(text: str, out: str) -> None:
    assert Template(text, ("Shout",)).render(DATA, {"Shout": str.upper}) == out


@pytest.mark.parametrize(("text", "what"), [
    ("{{ genSignedCert 1 }}", "function 'genSignedCert' is not understood"), ("{{ if .a }}", "{{end}} is missing"),
    ("{{ end }}", "unexpected {{end}}"), ('{{ block "x" . }}{{ end }}', "{{block}} is not understood"),
    ("{{ .a ! }}", "'!' in {{ .a ! }} is not understood"), ("{{ .a .b }}", "'.b' in {{ .a .b }} is not understood"),
    ("{{ ( .a }}", "'the end' in {{ ( .a }} is not understood"),
])  # fmt: skip
def test_templates_beyond_the_part(text: str, what: str) -> None:
    with pytest.raises(NotUnderstood, match=re.escape(what)):
        Template(text)


@pytest.mark.parametrize("text", [
    "{{ $x }}", "{{ index .a.b 9 }}", "{{ add .a 1 }}", '{{ template "x" }}', "{{ 1 | .a }}",
])  # fmt: skip
def test_templates_that_fail(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Template(text).render(DATA, {})


# ----------------------------------------------------------------------------------------------------- stages


@pytest.mark.parametrize(("spec", "what"), [
    ({"resourceRef": {"kind": "Lease", "apiGroup": "coordination.k8s.io/v1"}}, "only Pod and Node of v1 can be led"),
    ({"surprise": {"x": 1}}, "spec.surprise is not understood"),
    ({"next": {"statusPatchAs": {"username": "x"}}}, "spec.next.statusPatchAs is not understood"),
    ({"next": {"statusTemplate": "{{ Foo }}"}}, "function 'Foo' is not understood"),
    ({"next": {"patches": [{"type": "apply"}]}}, "spec.next.patches.type apply is not understood"),
    ({"next": {"patches": [{"impersonation": {"username": "x"}}]}}, "spec.next.patches.impersonation is not"),
    ({"selector": {"matchExpressions": [{"key": ".a|b", "operator": "Exists"}]}}, "'b' is not understood"),
    ({"selector": {"matchExpressions": [{"key": ".a", "operator": "Like"}]}}, "operator Like is not understood"),
    ({"selector": {"matchExpressions": [{"key": ".a", "operator": "In"}]}}, "operator In needs values"),
    ({"selector": {"matchExpressions": [{"cel": {"expression": "true"}}]}}, "matchExpressions.cel is not understood"),
    ({"delay": {"durationFrom": {"cel": {"expression": "1"}}}}, "spec.delay.durationFrom.cel is not understood"),
])  # fmt: skip
def test_stages_that_are_refused(spec: dict[str, Any], what: str) -> None:
    with pytest.raises(NotUnderstood, match=rf"^stage mine: .*{re.escape(what)}"):
        parse([stage(**spec)])


def test_what_is_no_stage() -> None:
    with pytest.raises(NotUnderstood, match="v1 Pod is no Stage"):
        parse("{apiVersion: v1, kind: Pod}")
    assert parse([stage(selector=None)]) == []
    listed = {"kind": "StageList", "items": [stage()]}
    assert [s.name for s in parse([listed, FAST])] == ["mine", "pod-ready", "pod-complete", "pod-delete"]


def test_weights() -> None:
    one, two = stage(weight=1), stage(weight=3)
    one["metadata"] = {"name": "one"}
    found = parse([one, two])
    assert [choose(found, {}, lambda bound, n=n: n).name for n in range(4)] == ["one", "mine", "mine", "mine"]  # type: ignore[union-attr,misc]  # there is one
    annotated = {"metadata": {"annotations": {"w": "0"}}}
    one["spec"]["weightFrom"] = {"expressionFrom": ".metadata.annotations.w"}
    assert choose(parse([one, two]), annotated, lambda bound: 0).name == "mine"  # type: ignore[union-attr]  # as above
    assert choose(parse([stage(), stage()]), {}, lambda bound: bound - 1) is not None


@pytest.mark.parametrize(("delay", "annotations", "seconds"), [
    ({}, {}, 0), ({"durationMilliseconds": 1500}, {}, 1.5),
    ({"durationMilliseconds": 1000, "jitterDurationMilliseconds": 5000}, {}, 3.0),
    ({"durationMilliseconds": 1000, "jitterDurationMilliseconds": 500}, {}, 0.5),
    ({"durationMilliseconds": 1000, "durationFrom": {"expressionFrom": ".metadata.annotations.d"}}, {"d": "2m"}, 120),
    ({"durationMilliseconds": 1000, "durationFrom": {"expressionFrom": ".metadata.annotations.d"}}, {}, 1),
    ({"durationFrom": {"expressionFrom": ".metadata.annotations.d"}}, {"d": "2026-01-01T00:01:00Z"}, 60),
])  # fmt: skip
def test_delays(delay: dict[str, Any], annotations: dict[str, str], seconds: float) -> None:
    now = times.parse("2026-01-01T00:00:00Z").timestamp()
    found = parse([stage(delay=delay)])[0]
    obj = {"metadata": {"annotations": annotations}}
    assert delay_of(found, obj, now, lambda low, high: (low + high) / 2) == pytest.approx(seconds)


@pytest.mark.parametrize(("wanted", "after"), [
    (None, None), ({"empty": True}, []), ({"remove": [{"value": "a"}]}, ["b"]), ({"remove": [{"value": "z"}]}, None),
    ({"add": [{"value": "c"}]}, ["a", "b", "c"]), ({"empty": True, "add": [{"value": "c"}]}, ["c"]),
])  # fmt: skip
def test_finalizers(wanted: Any, after: list[str] | None) -> None:
    found = parse([stage(next={"finalizers": wanted} if wanted else {})])[0]
    assert finalizers_of(found, {"metadata": {"finalizers": ["a", "b"]}}) == after


# --------------------------------------------------------------------------------------------------- in a cluster


def play(test: Callable[[Cluster], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with Cluster(**{"nodes": 1, "seed": 3, **options}) as cluster:
            await test(cluster)

    simulate(main, seed=3)


JOB = """
apiVersion: batch/v1
kind: Job
metadata: {name: work}
spec:
  template:
    metadata: {annotations: {pod-complete.stage.kwok.x-k8s.io/delay: 2m}}
    spec: {restartPolicy: Never, containers: [{name: main, image: main}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, finalizers: [example.com/wait]}
spec:
  initContainers: [{name: first, image: first}, {name: side, image: side, restartPolicy: Always}]
  containers: [{name: web, image: web}]
"""


def test_pods_are_led_by_stages() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.apply(JOB)
        web = await cluster.wait_for("pods", "web", condition="Ready", timeout=5)
        assert web.status.phase == "Running" and web.status.hostIP == "10.64.0.1"
        assert web.status.initContainerStatuses[0].state.terminated.reason == "Completed"
        assert web.status.initContainerStatuses[1].state.running is not None
        await cluster.advance(seconds=100)
        assert (await cluster.get("jobs", "work")).status.succeeded is None
        # The duration comes from the annotation; the jitter, which is less, then counts (kwok's rule).
        await cluster.delete("pods", "web", wait=False)
        await cluster.advance(seconds=1)
        assert "web" not in {p.metadata.name for p in await cluster.list("pods")}
        told = [e for e in await cluster.list("events") if e.reason == "Killing"]
        assert [e.message for e in told] == ["Stopping web"]

    stages = list(yaml.load_all(FAST))
    stages[1]["spec"]["delay"].pop("jitterDurationMilliseconds")
    play(test, stages=stages)


def test_a_job_under_stages_completes() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.apply(JOB)
        await cluster.wait_for("jobs", "work", condition="Complete", timeout=10)
        done = next(p for p in await cluster.list("pods") if p.status.phase == "Succeeded")
        ended = done.status.containerStatuses[0].state.terminated
        assert times.parse(ended.startedAt) < times.parse(ended.finishedAt)

    play(test, stages=FAST)      # jitter of 5 s, less than the two minutes asked for: it counts


def test_what_stages_do_not_select_has_a_life() -> None:
    async def test(cluster: Cluster) -> None:
        for name, labels in (("led", {"led": "x"}), ("free", {})):
            about, containers = {"name": name, "labels": labels}, [{"name": "c", "image": "i"}]
            await cluster.apply(
                {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": {"containers": containers}}
            )
        await cluster.wait_for("pods", "free", condition="Ready", timeout=5)
        await cluster.advance(seconds=4)
        led = await cluster.get("pods", "led")
        assert led.status.phase == "Pending" and (led.metadata.annotations or {})["n"] == "5"
        assert (await logs(cluster, "led")).body == b""

    patch = {
        "type": "merge", "root": "metadata.annotations",
        "template": 'n: {{ add1 (or (index (or .metadata.annotations dict) "n") "0") | toString | Quote }}',
    }  # fmt: skip
    # Without an end of its own and without a delay: once a second is the most.
    play(test, stages=[stage(selector={"matchLabels": {"led": "x"}}, next={"patches": [patch]})])


async def logs(cluster: Cluster, name: str) -> Response:
    return await cluster.client.call("GET", f"/api/v1/namespaces/default/pods/{name}/log")


def test_nodes_are_led_by_stages() -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.wait_for("nodes", ONE, condition="Ready", timeout=5)
        first = await cluster.get("nodes", ONE)
        assert first.status.phase == "Running" and first.status.addresses[0].address == "10.64.0.1"
        assert {c.type for c in first.status.conditions} >= {"Ready", "NetworkUnavailable", "PIDPressure"}
        await cluster.advance(seconds=60)
        beats = [c.lastHeartbeatTime for c in (await cluster.get("nodes", ONE)).status.conditions if c.type == "Ready"]
        assert (cluster.clock.now() - times.parse(beats[0])).total_seconds() < 30
        await cluster.client.patch(type(first), ONE, "", {"metadata": {"labels": {"broken": "true"}}})
        await cluster.advance(seconds=5)
        broken = {c.type: c for c in (await cluster.get("nodes", ONE)).status.conditions}
        assert (broken["Ready"].status, broken["Ready"].message) == ("False", "Ready of 5")
        assert broken["DiskPressure"].status == "True" and broken["MemoryPressure"].status == "False"

    play(test, stages=NODE)


def test_stages_are_data_too() -> None:
    assert len(parse(json.loads(json.dumps(list(yaml.load_all(FAST)))))) == 3
    with pytest.raises(NotUnderstood, match="stage mine"):
        play(lambda cluster: cluster.settle(), stages=[stage(delay={"cron": "x"})])
