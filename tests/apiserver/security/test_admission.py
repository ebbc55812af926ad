"""Escalation, namespaces' lives, service accounts, priorities, tolerations."""

from __future__ import annotations

from typing import Any

import pytest

from pinnace.api import codec
from pinnace.api.core import v1 as core
from pinnace.api.errors import Forbidden, NotFound
from pinnace.api.meta import v1 as meta
from pinnace.api.rbac import v1 as rbac
from pinnace.api.scheduling import v1 as scheduling
from pinnace.apiserver.access import AnyOf, Concern
from pinnace.apiserver.admission.escalation import EscalationCheck
from pinnace.apiserver.admission.lifecycle import NamespaceLifecycle
from pinnace.apiserver.admission.priority import PriorityAdmission
from pinnace.apiserver.admission.service_account import MOUNT_PATH, ServiceAccountAdmission
from pinnace.apiserver.admission.tolerations import DefaultTolerationSeconds, TaintNodesByCondition
from pinnace.apiserver.authorization.node import MIRROR
from pinnace.apiserver.authorization.rbac import RbacAuthorizer
from pinnace.base.randomness import Randomness

from .test_rbac import bind, cluster_role, role
from .world import RBAC, World, admission, admit, named, rule, user

ANN = user("ann", "staff")

# ------------------------------------------------------------------------------------------------------ escalation

PODS = rule("get list", "-", "pods")
ALL = (rule("*", "*", "*"), rbac.PolicyRule(verbs=["*"], nonResourceURLs=["*"]))
SECRETS = rule("get", "-", "secrets")


def aggregated(*rules: rbac.PolicyRule, **labels: str) -> rbac.ClusterRole:
    made = cluster_role("sum", *rules)
    made.aggregationRule = rbac.AggregationRule(clusterRoleSelectors=[meta.LabelSelector(matchLabels=labels)])
    return made


def labelled(made: rbac.ClusterRole) -> rbac.ClusterRole:
    made.metadata.labels = {"new": "label"}
    return made


def rights(*rules: rbac.PolicyRule) -> tuple[Any, ...]:
    return cluster_role("own", *rules), bind("ClusterRole/own", "User/ann")


def may(verb: str, resource: str, name: str = "") -> rbac.PolicyRule:
    return rule(verb, RBAC, resource, name)


@pytest.mark.parametrize(
    ("rights_", "operation", "new", "old", "allowed"),
    [
        ((PODS,), "CREATE", cluster_role("r", PODS), None, True),
        ((PODS,), "CREATE", cluster_role("r", SECRETS), None, False),
        ((PODS,), "CREATE", cluster_role("r"), None, True),
        ((PODS,), "UPDATE", cluster_role("r", PODS, SECRETS), cluster_role("r", PODS), False),
        ((PODS,), "UPDATE", cluster_role("r", SECRETS), cluster_role("r", SECRETS), True),
        ((PODS,), "UPDATE", labelled(cluster_role("r", SECRETS)), cluster_role("r", SECRETS), True),
        ((PODS, may("escalate", "clusterroles")), "CREATE", cluster_role("r", SECRETS), None, True),
        ((PODS, may("escalate", "clusterroles", "r")), "CREATE", cluster_role("r", SECRETS), None, True),
        ((PODS, may("escalate", "clusterroles", "x")), "CREATE", cluster_role("r", SECRETS), None, False),
        ((PODS, may("escalate", "roles")), "CREATE", cluster_role("r", SECRETS), None, False),
        ((PODS, may("escalate", "roles")), "CREATE", role("r", "a", SECRETS), None, True),
        ((PODS,), "CREATE", role("r", "a", PODS), None, True),
        # What an aggregated role gathers later nobody checks.
        ((PODS,), "CREATE", aggregated(a="b"), None, False),
        ((PODS,), "UPDATE", aggregated(a="b"), cluster_role("sum"), False),
        ((PODS,), "UPDATE", aggregated(a="c"), aggregated(a="b"), False),
        ((PODS,), "UPDATE", labelled(aggregated(a="b")), aggregated(a="b"), True),
        (ALL, "CREATE", aggregated(a="b"), None, True),
        ((PODS, may("escalate", "clusterroles")), "CREATE", aggregated(a="b"), None, True),
        # Bindings
        ((PODS,), "CREATE", bind("ClusterRole/pods", "User/bob"), None, True),
        ((PODS,), "CREATE", bind("ClusterRole/secrets", "User/bob"), None, False),
        ((PODS,), "CREATE", bind("ClusterRole/secrets", "User/bob", namespace="a"), None, False),
        ((PODS,), "CREATE", bind("Role/local", "User/bob", namespace="a"), None, False),
        ((SECRETS,), "CREATE", bind("Role/local", "User/bob", namespace="a"), None, True),
        ((PODS, may("bind", "clusterroles", "secrets")), "CREATE", bind("ClusterRole/secrets", "User/b"), None, True),
        ((PODS, may("bind", "roles")), "CREATE", bind("ClusterRole/secrets", "User/b", namespace="a"), None, False),
        ((PODS,), "UPDATE", bind("ClusterRole/secrets", "User/b"), bind("ClusterRole/secrets", "User/b"), True),
        ((PODS,), "UPDATE", bind("ClusterRole/secrets", "User/b"), bind("ClusterRole/secrets", "User/c"), False),
        ((), "DELETE", None, bind("ClusterRole/secrets", "User/b"), True),
    ],
)  # fmt: skip
async def test_nobody_gives_what_he_does_not_have(
    rights_: tuple[rbac.PolicyRule, ...], operation: str, new: Any, old: Any, allowed: bool
) -> None:
    world = World(*rights(*rights_), cluster_role("pods", PODS), cluster_role("secrets", SECRETS),
                  role("local", "a", SECRETS))  # fmt: skip
    authorizer = RbacAuthorizer(world)
    check = EscalationCheck(world, authorizer, AnyOf([authorizer]))
    if allowed:
        await check.validate(admission(ANN, operation, new, old))
        return
    with pytest.raises(Forbidden, match="attempting to grant RBAC permissions not currently held"):
        await check.validate(admission(ANN, operation, new, old))
    await check.validate(admission(user("root", "system:masters"), operation, new, old))


async def test_what_is_missing_is_said_in_upstreams_words() -> None:
    world = World(*rights(PODS))
    check = EscalationCheck(world, RbacAuthorizer(world), AnyOf([RbacAuthorizer(world)]))
    wanted = cluster_role("r", rule("get update", "apps", "deployments"), rule("get", "-", "secrets", "s"), PODS,
                          rule("get", resources="/x"))  # fmt: skip
    with pytest.raises(Forbidden) as refused:
        await check.validate(admission(ANN, "CREATE", wanted))
    assert refused.value.message == (
        'clusterroles.rbac.authorization.k8s.io "r" is forbidden: user "ann" (groups=["staff"]) is attempting to '
        "grant RBAC permissions not currently held:\n"
        '{APIGroups:[""], Resources:["secrets"], ResourceNames:["s"], Verbs:["get"]}\n'
        '{APIGroups:["apps"], Resources:["deployments"], Verbs:["get" "update"]}\n'
        '{NonResourceURLs:["/x"], Verbs:["get"]}'
    )
    with pytest.raises(NotFound):
        await check.validate(admission(ANN, "CREATE", bind("ClusterRole/none", "User/bob")))


# ------------------------------------------------------------------------------------------------------- namespaces


def space(name: str, **more: Any) -> core.Namespace:
    return core.Namespace(metadata=named(name, **more))


@pytest.mark.parametrize(
    ("operation", "namespace", "error"),
    [
        ("CREATE", "a", None),
        ("CREATE", "gone", NotFound),
        ("CREATE", "ending", Forbidden),
        ("UPDATE", "ending", None),
        ("DELETE", "ending", None),
    ],
)
async def test_what_happens_in_a_namespace(operation: str, namespace: str, error: type[Exception] | None) -> None:
    world = World(space("a"), space("ending", deletionTimestamp="2026-01-01T00:00:00Z"))
    thing = core.ConfigMap(metadata=named("c", namespace))
    write = admission(ANN, operation, None if operation == "DELETE" else thing, thing)
    plugin = NamespaceLifecycle(world)
    if error is None:
        await admit(plugin, write)
        return
    with pytest.raises(error) as refused:
        await admit(plugin, write)
    if isinstance(refused.value, Forbidden):
        assert refused.value.message == (
            'configmaps "c" is forbidden: unable to create new content in namespace ending because it is being '
            "terminated"
        )
        assert refused.value.details is not None and refused.value.details.causes[0].reason == "NamespaceTerminating"


async def test_a_namespace_that_was_alive_may_end_and_come_back() -> None:
    world = World(space("a"))
    plugin = NamespaceLifecycle(world)

    async def create() -> None:
        await admit(plugin, admission(ANN, "CREATE", core.ConfigMap(metadata=named("c", "a"))))

    await create()
    world.put(space("a", deletionTimestamp="2026-01-01T00:00:00Z"))
    with pytest.raises(Forbidden, match="being terminated"):
        await create()
    world.drop(space("a"))
    with pytest.raises(NotFound):
        await create()
    world.put(space("a"))
    await create()
    await create()


async def test_namespaces_that_stay() -> None:
    plugin = NamespaceLifecycle(World())
    await admit(plugin, admission(ANN, "CREATE", space("new")))
    await admit(plugin, admission(ANN, "DELETE", None, space("mine")))
    for name in ("default", "kube-system", "kube-public"):
        with pytest.raises(Forbidden, match=f'namespaces "{name}" is forbidden: this namespace may not be deleted'):
            await admit(plugin, admission(ANN, "DELETE", None, space(name)))


# -------------------------------------------------------------------------------------------------- service accounts


def pod(**spec: Any) -> core.Pod:
    spec.setdefault("containers", [core.Container(name="c")])
    return core.Pod(metadata=named("p", "a"), spec=core.PodSpec(**spec))


def account(name: str = "default", **more: Any) -> core.ServiceAccount:
    return core.ServiceAccount(metadata=named(name, "a"), **more)


async def admitted(made: core.Pod, *accounts: core.ServiceAccount) -> core.Pod:
    plugin = ServiceAccountAdmission(World(*(accounts or (account(),))), Randomness(1))
    await plugin.mutate(admission(ANN, "CREATE", made))
    return made


async def test_a_pod_gets_an_account_and_its_token() -> None:
    own = core.VolumeMount(name="mine", mountPath=MOUNT_PATH)
    made = await admitted(
        pod(
            initContainers=[core.Container(name="i")],
            containers=[core.Container(name="c"), core.Container(name="d", volumeMounts=[own])],
        )
    )
    spec = made.spec
    assert (spec.serviceAccountName, spec.serviceAccount) == ("default", "default")
    assert spec.volumes is not None and len(spec.volumes) == 1
    (volume,) = spec.volumes
    assert volume.name.startswith("kube-api-access-") and len(volume.name) == len("kube-api-access-") + 5
    assert codec.to_dict(volume.projected) == {
        "defaultMode": 0o644,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ],
    }  # fmt: skip
    init, first, second = (spec.initContainers or [])[0], *spec.containers
    for container in (init, first):
        assert [(m.name, m.mountPath, m.readOnly) for m in container.volumeMounts or ()] == [
            (volume.name, MOUNT_PATH, True)
        ]
    assert second.volumeMounts == [own]


@pytest.mark.parametrize(
    ("in_pod", "in_account", "mounted"),
    [(None, None, True), (None, False, False), (True, False, True), (False, True, False), (False, None, False)],
)
async def test_who_wants_a_token(in_pod: bool | None, in_account: bool | None, mounted: bool) -> None:
    made = await admitted(
        pod(automountServiceAccountToken=in_pod), account(automountServiceAccountToken=in_account)
    )
    assert bool(made.spec.volumes) is mounted


async def test_pull_secrets_and_the_old_name() -> None:
    pull = [core.LocalObjectReference(name="pull")]
    robot = account("robot", imagePullSecrets=pull)
    made = await admitted(pod(serviceAccount="robot"), robot)
    assert made.spec.serviceAccountName == "robot" and made.spec.imagePullSecrets == pull
    assert made.spec.imagePullSecrets[0] is not pull[0]
    own = [core.LocalObjectReference(name="own")]
    assert (await admitted(pod(serviceAccountName="robot", imagePullSecrets=own), robot)).spec.imagePullSecrets == own
    with pytest.raises(Forbidden) as refused:
        await admitted(pod(serviceAccountName="nobody"))
    assert refused.value.message == (
        'pods "p" is forbidden: error looking up service account a/nobody: serviceaccount "nobody" not found'
    )


def mirror(**spec: Any) -> core.Pod:
    made = pod(**spec)
    made.metadata.annotations = {MIRROR: "x"}
    return made


TOKEN = core.VolumeProjection(serviceAccountToken=core.ServiceAccountTokenProjection(path="t"))


@pytest.mark.parametrize(
    ("made", "refusal"),
    [
        (mirror(), ""),
        (mirror(serviceAccountName="default"), "a mirror pod may not reference service accounts"),
        (mirror(volumes=[core.Volume(name="v", secret=core.SecretVolumeSource(secretName="s"))]),
         "a mirror pod may not reference secrets"),
        (mirror(volumes=[core.Volume(name="v", projected=core.ProjectedVolumeSource(sources=[TOKEN]))]),
         "a mirror pod may not use ServiceAccountToken volume projections"),
    ],
)  # fmt: skip
async def test_a_mirror_pod_acts_as_nobody(made: core.Pod, refusal: str) -> None:
    if refusal:
        with pytest.raises(Forbidden, match=refusal):
            await admitted(made)
    else:
        await admitted(made)
        assert made.spec.serviceAccountName is None and not made.spec.volumes


# -------------------------------------------------------------------------------------------------------- priorities


def priority(name: str, value: int, default: bool = False, policy: str | None = None) -> scheduling.PriorityClass:
    return scheduling.PriorityClass(
        metadata=named(name), value=value, globalDefault=default or None, preemptionPolicy=policy
    )


HIGH = priority("high", 1000, policy="Never")


@pytest.mark.parametrize(
    ("spec", "classes", "expected"),
    [
        ({}, (), (None, 0, "PreemptLowerPriority")),
        ({}, (priority("b", 20, True), priority("a", 10, True)), ("a", 10, "PreemptLowerPriority")),
        ({"priorityClassName": "high"}, (HIGH,), ("high", 1000, "Never")),
        ({"priorityClassName": "high", "priority": 1000}, (HIGH,), ("high", 1000, "Never")),
        ({"priorityClassName": "high", "priority": 7}, (HIGH,), "the integer value of priority"),
        ({"priority": 7}, (), "the integer value of priority"),
        ({"priorityClassName": "high", "preemptionPolicy": "PreemptLowerPriority"}, (HIGH,), "PreemptionPolicy"),
        ({"priorityClassName": "none"}, (HIGH,), "no PriorityClass with name none was found"),
    ],
)
async def test_a_class_becomes_a_number(spec: dict[str, Any], classes: tuple[Any, ...], expected: Any) -> None:
    made = pod(**spec)
    plugin = PriorityAdmission(World(*classes))
    if isinstance(expected, str):
        with pytest.raises(Forbidden, match=expected):
            await plugin.mutate(admission(ANN, "CREATE", made))
        return
    await plugin.mutate(admission(ANN, "CREATE", made))
    assert (made.spec.priorityClassName, made.spec.priority, made.spec.preemptionPolicy) == expected
    later = pod(priorityClassName=made.spec.priorityClassName)
    await plugin.mutate(admission(ANN, "UPDATE", later, made))
    assert later.spec.priority == made.spec.priority


async def test_one_default_class() -> None:
    plugin = PriorityAdmission(World(priority("a", 1, True)))
    await plugin.validate(admission(ANN, "UPDATE", priority("a", 1, True), priority("a", 1, True)))
    await plugin.validate(admission(ANN, "CREATE", priority("b", 1)))
    with pytest.raises(Forbidden, match="Only one default can exist"):
        await plugin.validate(admission(ANN, "CREATE", priority("b", 1, True)))


async def test_tolerations_and_the_first_taint() -> None:
    made = pod(tolerations=[core.Toleration(key="node.kubernetes.io/not-ready", operator="Exists")])
    for _ in range(2):
        await DefaultTolerationSeconds().mutate(admission(ANN, "CREATE", made))
    assert [(t.key, t.tolerationSeconds) for t in made.spec.tolerations or ()] == [
        ("node.kubernetes.io/not-ready", None), ("node.kubernetes.io/unreachable", 300),
    ]  # fmt: skip
    node = core.Node(metadata=named("n"))
    for _ in range(2):
        await TaintNodesByCondition().mutate(admission(ANN, "CREATE", node))
    assert [(t.key, t.effect) for t in node.spec.taints or ()] == [("node.kubernetes.io/not-ready", "NoSchedule")]


# ---------------------------------------------------------------------------------------------------------- concerns


@pytest.mark.parametrize(
    ("concern", "operation", "resource", "subresource", "covered"),
    [
        (Concern(), "DELETE", "pods", "", True),
        (Concern(("CREATE",)), "CREATE", "pods", "binding", True),
        (Concern(("CREATE",)), "UPDATE", "pods", "", False),
        (Concern((), ("pods",), whole=True), "UPDATE", "pods", "", True),
        (Concern((), ("pods",), whole=True), "UPDATE", "pods", "status", False),
        (Concern((), ("pods",)), "UPDATE", "pods", "status", True),
        (Concern((), ("roles.rbac.authorization.k8s.io",)), "UPDATE", "roles", "", False),
    ],
)
def test_what_concerns_a_plugin(
    concern: Concern, operation: Any, resource: str, subresource: str, covered: bool
) -> None:
    assert concern.covers(operation, resource, subresource) is covered
