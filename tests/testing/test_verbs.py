"""The verbs of a test's cluster, held against what kubectl does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pinnace.api import errors
from pinnace.api.apps import v1 as apps
from pinnace.api.autoscaling import v2 as autoscaling
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.testing import SyncCluster, conditions, manifests
from pinnace.testing.applying import LAST_APPLIED

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {tier: front}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: "web:1", env: [{name: A, value: a}, {name: B, value: b}]}
"""


def config_map(name: str = "c", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


@pytest.fixture
def kube() -> Any:
    with SyncCluster(nodes=2, seed=3) as cluster:
        yield cluster


# ------------------------------------------------------------------------------------------------------------ apply


def test_what_a_later_manifest_leaves_out_goes_and_what_others_wrote_stays(kube: SyncCluster) -> None:
    (web,) = kube.apply(WEB)
    noted = json.loads(web.metadata.annotations[LAST_APPLIED])
    assert noted["metadata"] == {"annotations": {}, "labels": {"tier": "front"}, "name": "web", "namespace": "default"}
    kube.patch("deploy", "web", {"metadata": {"labels": {"theirs": "stays"}}})
    kube.scale("deploy/web", replicas=5)
    (web,) = kube.apply(WEB.replace("{tier: front}", "{}").replace("  replicas: 2\n", "").replace(
        ", {name: B, value: b}", ""
    ))  # fmt: skip
    assert web.metadata.labels == {"theirs": "stays"}
    assert web.spec.replicas == 1                          # the default, as what was applied is gone
    assert [e.name for e in web.spec.template.spec.containers[0].env] == ["A"]


def test_nothing_is_written_where_nothing_changes(kube: SyncCluster) -> None:
    kube.apply(WEB)
    kube.settle()
    before = kube.get("deploy/web").metadata.resourceVersion
    (again,) = kube.apply(WEB)
    assert again.metadata.resourceVersion == before


def test_what_was_created_is_taken_over(kube: SyncCluster) -> None:
    kube.create(config_map(a="1", b="2"))
    (taken,) = kube.apply(config_map(a="3"))
    assert taken.data == {"a": "3", "b": "2"} and LAST_APPLIED in taken.metadata.annotations
    with pytest.raises(errors.AlreadyExists):
        kube.create(config_map())


def test_every_form_of_manifest(kube: SyncCluster, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(json.dumps(config_map("a")) + "\n---\n" + json.dumps(config_map("b")))
    (tmp_path / "c.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [config_map("c")]}))
    (tmp_path / "notes.txt").write_text("no manifest")
    typed = core.ConfigMap(metadata=meta.ObjectMeta(name="typed"), data={"k": "v"})
    applied = kube.apply(tmp_path, str(tmp_path / "a.yaml"), config_map("d"), typed, [config_map("e")], WEB)
    assert [each.metadata.name for each in applied] == ["a", "b", "c", "a", "b", "d", "typed", "e", "web"]
    assert applied[6].data == {"k": "v"}


def test_what_others_need_comes_first_and_the_order_given_comes_back(kube: SyncCluster) -> None:
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    inside = {**config_map(), "metadata": {"name": "c", "namespace": "shop"}}
    pod, made = kube.apply(inside, space)
    assert (pod.kind, made.kind) == ("ConfigMap", "Namespace")
    (other,) = kube.apply(config_map(), namespace="shop")
    assert other.metadata.namespace == "shop"


@pytest.mark.parametrize(
    ("manifest", "error", "said"),
    [
        (WEB.replace("replicas", "replcas"), errors.BadRequest, 'unknown field "spec.replcas"'),
        (config_map(name="No"), errors.Invalid, "metadata.name"),
        ("apiVersion: example.com/v1\nkind: Moon\nmetadata: {name: m}", errors.NotFound, 'no matches for kind "Moon"'),
        ("kind: ConfigMap\nmetadata: {name: m}", ValueError, "needs apiVersion, kind and metadata"),
        ("just: text", ValueError, "needs apiVersion"),
        ({**config_map(), "metadata": {"generateName": "x-"}}, errors.BadRequest, "generate name with apply"),
        (7, ValueError, "7 is no manifest"),
    ],
)
def test_refusals(kube: SyncCluster, manifest: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        kube.apply(manifest)


def test_names_are_generated_on_creation(kube: SyncCluster) -> None:
    (made,) = kube.create({**config_map(), "metadata": {"generateName": "x-"}})
    assert made.metadata.name.startswith("x-") and len(made.metadata.name) == 7


# ---------------------------------------------------------------------------------------------------------- reading


def test_objects_are_the_callers_own(kube: SyncCluster) -> None:
    (made,) = kube.apply(config_map(k="v"))
    for mine in (made, kube.get("cm/c"), *kube.list("cm", field_selector="metadata.name=c"),
                 kube.wait_for("cm/c", condition="create"), next(kube.watch("cm")).object):  # fmt: skip
        if mine.metadata.name == "c":
            mine.data["k"] = "changed"
    assert kube.get("cm/c").data == {"k": "v"}
    mine = kube.get("cm/c")
    mine.data["k"] = "changed"
    assert kube.update(mine).data == {"k": "changed"}
    with pytest.raises(errors.Conflict):
        kube.update(mine)


@pytest.mark.parametrize("word", ["pods", "po", "pod", "Pod", "pods.v1.", "PODS"])
def test_words_for_kinds(word: str) -> None:
    assert manifests.resolve(word.removesuffix(".v1.")).type is core.Pod


def test_ambiguous_words_mean_what_kubectl_means() -> None:
    assert manifests.resolve("events").type is core.Event
    assert manifests.resolve("hpa").type is autoscaling.HorizontalPodAutoscaler
    assert manifests.resolve("deployments.v1.apps").type is manifests.resolve("deployment.apps").type is apps.Deployment
    with pytest.raises(errors.NotFound, match="doesn't have a resource type"):
        manifests.resolve("moons")


def test_ways_to_name_an_object(kube: SyncCluster) -> None:
    (web,) = kube.apply(WEB)
    names = [kube.get(*way).metadata.name for way in (("deploy", "web"), ("deployments/web",), (apps.Deployment, "web"),
                                                      (web,))]  # fmt: skip
    assert names == ["web"] * 4
    with pytest.raises(ValueError, match="without a name"):
        kube.get("deploy")
    with pytest.raises(errors.NotFound, match=r'deployments\.apps "absent" not found'):
        kube.get("deploy/absent")


def test_lists_and_watches_select(kube: SyncCluster) -> None:
    kube.apply(WEB, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}})
    kube.apply(config_map("there"), namespace="other")
    kube.rollout_status("deploy/web")
    assert len(kube.list("pods", label_selector="app=web")) == 2
    assert kube.list("pods", label_selector="app!=web") == []
    assert len(kube.list("pods", field_selector="status.phase=Running")) == 2
    assert "there" not in [c.metadata.name for c in kube.list("cm")]
    assert "there" in [c.metadata.name for c in kube.list("cm", "")]
    seen = []
    for event in kube.watch("pods", label_selector="app=web"):
        seen.append(event.type)
        if len(seen) == 2:
            kube.delete(event.object, wait=False)
        if event.type == "DELETED":
            break
    assert seen[:2] == ["ADDED", "ADDED"]


def test_who_may_not_is_refused(kube: SyncCluster) -> None:
    kube.apply(
        config_map(),
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
         "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "r"},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
         "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]},
    )  # fmt: skip
    account = kube.as_user("system:serviceaccount:default:default")
    assert account.get("cm/c").metadata.name == "c"
    with pytest.raises(errors.Forbidden, match='cannot delete resource "configmaps"'):
        account.delete("cm/c")
    with pytest.raises(errors.Forbidden):
        kube.as_user("jane").list("pods")
    assert kube.as_user("root", "system:masters").list("cm")


# ------------------------------------------------------------------------------------------------- waiting, rollouts


def _pod(**conditions_: str) -> core.Pod:
    return core.Pod(
        metadata=meta.ObjectMeta(name="p", generation=2),
        status=core.PodStatus(
            phase="Running", conditions=[core.PodCondition(type=t, status=s) for t, s in conditions_.items()]
        ),
    )


@pytest.mark.parametrize(
    ("condition", "obj", "holds"),
    [
        ("Ready", _pod(Ready="True"), True),
        ("condition=ready", _pod(Ready="True"), True),
        ("Ready", _pod(Ready="False"), False),
        ("condition=Ready=False", _pod(Ready="False"), True),
        ("condition=Ready=Unknown", _pod(Ready="False"), False),
        ("Ready", _pod(), False),
        ("Ready", None, False),
        ("delete", None, True),
        ("delete", _pod(), False),
        ("create", _pod(), True),
        ("create", None, False),
        ("jsonpath={.status.phase}=Running", _pod(), True),
        ("jsonpath='{.status.phase}'=Running", _pod(), True),
        ("jsonpath=.status.phase=Pending", _pod(), False),
        ("jsonpath={.status.podIP}", _pod(), False),
        ("jsonpath={.status.phase}", _pod(), True),
        ('jsonpath={.status.conditions[?(@.type=="Ready")].status}=True', _pod(Ready="True"), True),
        ("jsonpath={.metadata.generation}=2", _pod(), True),
        ("jsonpath={.metadata.generation}", None, False),
    ],
)
def test_conditions(condition: str, obj: Any, holds: bool) -> None:
    assert conditions.parse(condition)(obj) is holds


@pytest.mark.parametrize("text", ["jsonpath={.a}=", "", "condition=", "{.status}"])
def test_what_cannot_be_waited_for(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be waited for|no value"):
        conditions.parse(text)


def test_an_earlier_generation_says_nothing() -> None:
    status = apps.DeploymentStatus(
        observedGeneration=1, conditions=[apps.DeploymentCondition(type="Available", status="True")]
    )
    web = apps.Deployment(metadata=meta.ObjectMeta(name="w", generation=2), status=status)
    assert not conditions.parse("Available")(web)
    status.observedGeneration = 2
    assert conditions.parse("Available")(web)


def _deployment(**status: Any) -> apps.Deployment:
    return apps.Deployment(
        metadata=meta.ObjectMeta(name="d", generation=1), spec=apps.DeploymentSpec(replicas=3),
        status=apps.DeploymentStatus(observedGeneration=1, **status),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("obj", "lacks"),
    [
        (_deployment(), "0 of 3 replicas are updated"),
        (_deployment(replicas=4, updatedReplicas=3), "1 old replicas still have to go"),
        (_deployment(replicas=3, updatedReplicas=3, availableReplicas=2), "2 of 3 updated replicas are available"),
        (_deployment(replicas=3, updatedReplicas=3, availableReplicas=3), ""),
        (apps.StatefulSet(status=apps.StatefulSetStatus(replicas=1)), "0 of 1 pods are ready"),
        (apps.StatefulSet(status=apps.StatefulSetStatus(replicas=1, readyReplicas=1, currentRevision="a",
                                                        updateRevision="b")), "0 of 1 pods are updated"),
        (apps.DaemonSet(status=apps.DaemonSetStatus(desiredNumberScheduled=2)), "0 of 2 pods are updated"),
        (apps.DaemonSet(status=apps.DaemonSetStatus(desiredNumberScheduled=2, updatedNumberScheduled=2)),
         "0 of 2 updated pods are available"),
    ],
)  # fmt: skip
def test_what_a_rollout_lacks(obj: Any, lacks: str) -> None:
    assert conditions.rollout_lacks(obj) == lacks


def test_rollouts(kube: SyncCluster) -> None:
    kube.apply(WEB)
    assert kube.rollout_status("deploy/web").status.availableReplicas == 2
    kube.apply(WEB.replace("web:1", "web:2"))
    assert kube.rollout_status("deploy/web").status.updatedReplicas == 2
    kube.patch("deploy", "web", {"spec": {"progressDeadlineSeconds": 10, "template": {"spec": {"nodeName": "none",
               "nodeSelector": {"no": "where"}}}}})  # fmt: skip
    kube.patch("deploy", "web", {"spec": {"template": {"spec": {"nodeName": None}}}})
    with pytest.raises(conditions.RolloutFailed, match='deployment "web" exceeded its progress deadline'):
        kube.rollout_status("deploy/web")
    with pytest.raises(ValueError, match="Pod has no rollout"):
        kube.rollout_status(kube.list("pods")[0])


def test_waiting_ends_in_virtual_time_and_says_how_it_looked(kube: SyncCluster) -> None:
    before = kube.elapsed
    with pytest.raises(TimeoutError, match=r"pod/absent in namespace default: not Ready within 1000 virtual seconds "
                                           r"\(seed 3\); it is not there"):  # fmt: skip
        kube.wait_for("pod/absent", condition="Ready", timeout=1000)
    assert kube.elapsed == before + 1000
    kube.apply(WEB)
    with pytest.raises(TimeoutError, match=r"(?s)not as the function wants it.*availableReplicas: 2"):
        kube.wait_for("deploy/web", condition=lambda d: d.status.availableReplicas == 3, timeout=5)


def test_a_wait_outlives_a_crash_of_the_server(kube: SyncCluster) -> None:
    cluster = kube.asynchronous
    server = cluster.control_plane.server
    assert server is not None

    async def crash() -> Any:
        waiting = asyncio.create_task(cluster.wait_for("cm/late", condition="create", timeout=60))
        await cluster.advance(seconds=1)
        await cluster.control_plane.crash()
        await cluster.advance(seconds=5)
        await cluster.control_plane.start()
        await cluster.apply(config_map("late"))
        return await waiting

    assert kube.run(crash()).metadata.name == "late"


# --------------------------------------------------------------------------------------------------------- deleting


def test_deleting_waits_until_it_is_gone(kube: SyncCluster) -> None:
    kube.apply(WEB, config_map())
    kube.rollout_status("deploy/web")
    pod = kube.list("pods")[0]
    kube.delete(pod)
    assert pod.metadata.name not in [p.metadata.name for p in kube.list("pods")]
    kube.delete(WEB)
    kube.settle()
    assert kube.list("deploy") == kube.list("rs") == kube.list("pods") == []
    kube.delete("cm", "c")
    with pytest.raises(errors.NotFound):
        kube.delete("cm/c")
    kube.delete(config_map(), ignore_not_found=True)


def test_what_does_not_go_is_said(kube: SyncCluster) -> None:
    held = config_map()
    held["metadata"]["finalizers"] = ["example.com/hold"]
    kube.apply(held)
    with pytest.raises(TimeoutError, match="configmap/c in namespace default: not gone within 10 virtual seconds"):
        kube.delete("cm/c", timeout=10)
    assert kube.get("cm/c").metadata.deletionTimestamp
    kube.patch("cm", "c", {"metadata": {"finalizers": None}}, type="merge")
    kube.wait_for("cm/c", condition="delete")


def test_jobs_take_their_pods_along(kube: SyncCluster) -> None:
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "c", "image": "c"}]}}}}  # fmt: skip
    kube.apply(job)
    kube.wait_for("job/j", condition="Complete")
    assert len(kube.list("pods")) == 1
    kube.delete(job)
    kube.settle()
    assert kube.list("pods") == []


# ---------------------------------------------------------------------------------------------------- what happened


def test_events_of_an_object(kube: SyncCluster) -> None:
    kube.apply(WEB)
    kube.rollout_status("deploy/web")
    assert [event.reason for event in kube.events("deploy/web")] == ["ScalingReplicaSet"]
    kube.settle()                                          # events are written when there is time
    pod = kube.list("pods")[0]
    assert "Scheduled" in [event.reason for event in kube.events(pod)]
    assert len(kube.events()) > 2


def test_what_a_container_said(kube: SyncCluster) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "talks"}, "spec": {
        "containers": [{"name": "one", "image": "one"}, {"name": "two", "image": "two"}]}}  # fmt: skip
    kube.apply(pod)
    kube.wait_for("pod/talks", condition="Ready")
    assert isinstance(kube.logs("talks", container="two"), str)
    with pytest.raises(errors.BadRequest, match="container three is not valid"):
        kube.logs("pod/talks", container="three")
    with pytest.raises(errors.NotFound):
        kube.logs("absent")


def test_why_leads_back_to_who_asked(kube: SyncCluster) -> None:
    kube.apply(WEB)
    kube.settle()
    pod = kube.list("pods")[0]
    told = kube.why(pod)
    assert told[-1].action == "created" and told[-1].component == "kube-controller-manager/replicaset-controller"
    origin = told[0].origin
    assert origin.component == "pinnace-testing" and origin.object is not None
    assert "deployment" in str(told).lower()
    kube.delete(WEB)
    kube.settle()
    assert "delet" in kube.why("pods", pod.metadata.name)[0].action
    with pytest.raises(errors.NotFound):
        kube.why("pod/absent")


def test_clients_on_the_loop_reach_a_simulated_cluster(kube: SyncCluster) -> None:
    import aiohttp

    served = kube.serve()
    assert kube.serve() is served

    async def ask() -> int:
        async with aiohttp.ClientSession() as session, session.get(f"{served.url}/version", ssl=False) as answer:
            await asyncio.sleep(60)
            return answer.status

    before = kube.elapsed
    assert kube.run(ask()) == 200 and kube.elapsed >= before + 60
    with SyncCluster(time="real", nodes=0) as real, pytest.raises(RuntimeError, match="the machine's own network"):
        real.serve()


def test_nothing_runs_in_a_simulated_pod(kube: SyncCluster) -> None:
    kube.apply(WEB)
    kube.rollout_status("deploy/web")
    with pytest.raises(errors.BadRequest, match="no process runs there"):
        kube.exec(kube.list("pods")[0], ["true"])
    with pytest.raises(errors.NotFound):
        kube.exec("absent", ["true"])
