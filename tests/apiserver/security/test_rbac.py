"""Rules against requests, bindings against users, and what a new cluster's roles say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pinnace.api import codec
from pinnace.api.rbac import v1 as rbac
from pinnace.apiserver.access import AnyOf
from pinnace.apiserver.authorization.policy import roles
from pinnace.apiserver.authorization.rbac import RbacAuthorizer, allowed_names, allows, covers

from .world import RBAC, World, ask, named, rule, user

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "reference" / "rbac"
ANN = user("ann", "staff")


@pytest.mark.parametrize(
    ("given", "request_", "allowed"),
    [
        (rule("get", "-", "pods"), "get - pods ns p", True),
        (rule("get", "-", "pods"), "list - pods ns", False),
        (rule("*", "-", "pods"), "list - pods ns", True),
        (rule("get", "-", "pods"), "get apps pods ns p", False),
        (rule("get", "*", "pods"), "get apps pods ns p", True),
        (rule("get", "-", "*"), "get - secrets ns s", True),
        (rule("get", "-", "*"), "get - pods/log ns p", True),
        (rule("get", "-", "pods"), "get - pods/log ns p", False),
        (rule("get", "-", "pods/log"), "get - pods/log ns p", True),
        (rule("get", "-", "pods/log"), "get - pods ns p", False),
        (rule("get", "-", "pods/*"), "get - pods/log ns p", False),
        (rule("update", "apps", "*/scale"), "update apps deployments/scale ns d", True),
        (rule("update", "apps", "*/scale"), "update apps deployments/status ns d", False),
        (rule("update", "apps", "*/scale"), "update apps deployments ns d", False),
        (rule("get", "-", "pods", "a b"), "get - pods ns b", True),
        (rule("get", "-", "pods", "a b"), "get - pods ns c", False),
        (rule("list", "-", "pods", "a"), "list - pods ns", False),
        (rule("list", "-", "pods", "a"), "list - pods ns a", True),
        (rule("create", "-", "pods", "a"), "create - pods ns", False),
        (rule("get", resources="/healthz"), "get /healthz", True),
        (rule("get", resources="/healthz"), "get /healthz/etcd", False),
        (rule("get", resources="/healthz/*"), "get /healthz/etcd", True),
        (rule("get", resources="/healthz/*"), "get /healthz", False),
        (rule("get", resources="/healthz*"), "get /healthzz", True),
        (rule("get", resources="/healthz"), "post /healthz", False),
        (rbac.PolicyRule(verbs=["get"], nonResourceURLs=["*"]), "get /x/y", True),
        (rbac.PolicyRule(verbs=["*"], nonResourceURLs=["*"]), "get - pods ns p", False),
        (rule("*", "*", "*"), "get /healthz", False),
        (rbac.PolicyRule(verbs=["get"]), "get - pods ns p", False),
        (rbac.PolicyRule(verbs=[], apiGroups=["*"], resources=["*"]), "get - pods ns p", False),
    ],
)
def test_one_rule(given: rbac.PolicyRule, request_: str, allowed: bool) -> None:
    asked = ask(ANN, request_)
    assert allows(given, asked) is allowed
    names = allowed_names([given], asked)
    assert (names is None or asked.name in names) is allowed


def test_what_is_remembered_holds_for_its_name_only() -> None:
    rules = (rule("get", "-", "secrets", "a b"), rule("get", "-", "secrets", "c"))
    authorizer = RbacAuthorizer(World(cluster_role("r", *rules), bind("ClusterRole/r", "User/ann")))
    answers = [authorizer.authorize(ask(ANN, f"get - secrets ns {name}")).allowed for name in "axbcy"]
    assert answers == [True, False, True, True, False]
    assert not authorizer.authorize(ask(ANN, "list - secrets ns")).allowed


def cluster_role(name: str, *rules: rbac.PolicyRule) -> rbac.ClusterRole:
    return rbac.ClusterRole(metadata=named(name), rules=list(rules))


def role(name: str, namespace: str, *rules: rbac.PolicyRule) -> rbac.Role:
    return rbac.Role(metadata=named(name, namespace), rules=list(rules))


def bind(target: str, *subjects: str, namespace: str = "") -> rbac.RoleBinding | rbac.ClusterRoleBinding:
    kind, _, name = target.partition("/")
    reference = rbac.RoleRef(apiGroup=RBAC, kind=kind, name=name)
    bound = []
    for subject in subjects:
        sort, _, who = subject.partition("/")
        own, _, short = who.rpartition("/")
        bound.append(rbac.Subject(kind=sort, name=short, namespace=own or None))
    meta = named(f"{name}-{'-'.join(subjects)}".lower().replace("/", "."), namespace or None)
    if namespace:
        return rbac.RoleBinding(metadata=meta, roleRef=reference, subjects=bound)
    return rbac.ClusterRoleBinding(metadata=meta, roleRef=reference, subjects=bound)


POLICY = (
    cluster_role("reader", rule("get list", "-", "pods"), rule("get", resources="/metrics")),
    role("keeper", "a", rule("get", "-", "secrets")),
    role("keeper", "b", rule("delete", "-", "secrets")),
    bind("ClusterRole/reader", "Group/staff"),
    bind("ClusterRole/reader", "User/bob", namespace="a"),
    bind("Role/keeper", "User/bob", "ServiceAccount/robot", "ServiceAccount/b/robot", namespace="a"),
    bind("Role/missing", "User/bob", namespace="a"),
    bind("ClusterRole/missing", "User/bob"),
    bind("Role/keeper", "User/eve"),      # a binding for the cluster never reaches a Role
)


@pytest.mark.parametrize(
    ("who", "request_", "allowed"),
    [
        (ANN, "get - pods a p", True),
        (ANN, "list - pods", True),
        (ANN, "get /metrics", True),
        (ANN, "get - secrets a s", False),
        (user("bob"), "get - pods a p", True),
        (user("bob"), "get - pods b p", False),
        (user("bob"), "list - pods", False),
        (user("bob"), "get /metrics", False),
        (user("bob"), "get - secrets a s", True),
        (user("bob"), "delete - secrets a s", False),
        (user("system:serviceaccount:a:robot"), "get - secrets a s", True),
        (user("system:serviceaccount:b:robot"), "get - secrets a s", True),
        (user("system:serviceaccount:c:robot"), "get - secrets a s", False),
        (user("robot"), "get - secrets a s", False),
        (user("staff"), "get - pods a p", False),
        (user("eve", "bob"), "get - secrets a s", False),
        (user("eve"), "delete - secrets b s", False),
    ],
)
def test_bindings(who: Any, request_: str, allowed: bool) -> None:
    authorizer = RbacAuthorizer(World(*POLICY))
    for _ in range(2):                    # decided, and remembered
        assert authorizer.authorize(ask(who, request_)).allowed is allowed


def test_changes_count_at_once() -> None:
    world = World()
    authorizer = RbacAuthorizer(world)
    question = ask(ANN, "get - pods a p")
    assert not authorizer.authorize(question).allowed
    binding = bind("ClusterRole/reader", "User/ann")
    world.put(binding)
    assert not authorizer.authorize(question).allowed
    world.put(cluster_role("reader", rule("get", "-", "pods")))
    assert authorizer.authorize(question).allowed
    world.put(cluster_role("reader"))
    assert not authorizer.authorize(question).allowed
    world.put(cluster_role("reader", rule("get", "-", "pods")))
    world.drop(binding)
    assert not authorizer.authorize(question).allowed


def test_masters_need_no_rule_and_others_do() -> None:
    nobody = AnyOf([RbacAuthorizer(World())])
    assert nobody.authorize(ask(user("root", "system:masters"), "delete - nodes - n")).allowed
    assert not nobody.authorize(ask(user("system:masters"), "delete - nodes - n")).allowed


@pytest.mark.parametrize(
    ("owned", "wanted", "missing"),
    [
        ([rule("*", "*", "*")], rule("get list", "apps", "deployments"), 0),
        ([rule("get", "-", "pods")], rule("get list", "-", "pods"), 1),
        ([rule("get", "-", "pods"), rule("list", "-", "pods")], rule("get list", "-", "pods"), 0),
        ([rule("get", "-", "pods", "a")], rule("get", "-", "pods"), 1),
        ([rule("get", "-", "pods")], rule("get", "-", "pods", "a b"), 0),
        ([rule("get", "-", "pods", "a")], rule("get", "-", "pods", "a b"), 1),
        ([rule("get", "-", "pods")], rule("*", "-", "pods"), 1),
        ([rule("get", "-", "pods")], rule("get", "*", "pods"), 1),
        ([rule("get", "-", "pods")], rule("get", "-", "*"), 1),
        ([rule("get", "-", "*")], rule("get", "-", "pods/exec"), 0),
        ([rule("get", "-", "pods")], rule("get", "-", "pods/exec"), 1),
        ([rule("get", "apps", "*/scale")], rule("get", "apps", "deployments/scale"), 0),
        ([rule("get", "apps", "deployments/scale")], rule("get", "apps", "*/scale"), 1),
        ([rule("get", resources="/a/*")], rule("get", resources="/a/b /a/b/*"), 0),
        ([rule("get", resources="/a/b")], rule("get", resources="/a/*"), 1),
        ([rule("*", "*", "*")], rule("get", resources="/a"), 1),
    ],
)
def test_covers(owned: list[rbac.PolicyRule], wanted: rbac.PolicyRule, missing: int) -> None:
    assert len(covers(owned, [wanted])) == missing


# ---------------------------------------------------------------------------------------- what a new cluster has


def flat(rules: Iterable[rbac.PolicyRule] | None) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for given in rules or ():
        for verb in given.verbs or ():
            found |= {(verb, url) for url in given.nonResourceURLs or ()}
            found |= {
                (verb, group, resource, name)
                for group in given.apiGroups or () for resource in given.resources or ()
                for name in given.resourceNames or ("",)
            }  # fmt: skip
    return found


def reference(*files: str) -> Iterator[dict[str, Any]]:
    if not REFERENCE.exists():
        pytest.skip("the reference data is not on this machine")
    for file in files:
        for item in yaml.safe_load((REFERENCE / file).read_text())["items"]:
            if "openshift" not in item["metadata"]["name"]:
                yield item


def key(metadata: Any) -> tuple[str, str]:
    if isinstance(metadata, dict):
        return metadata.get("namespace") or "", metadata["name"]
    return metadata.namespace or "", metadata.name


def shape(thing: Any) -> Any:
    """What must be equal, whatever its order."""
    if isinstance(thing, rbac.ClusterRole | rbac.Role):
        aggregation = codec.to_dict(thing).get("aggregationRule")
        return flat(thing.rules), thing.metadata.labels, str(aggregation)
    return (
        (thing.roleRef.kind, thing.roleRef.name),
        {(subject.kind, subject.namespace or "", subject.name) for subject in thing.subjects or ()},
    )


@pytest.mark.parametrize(
    ("kind", "ours", "files"),
    [
        (rbac.ClusterRole, roles.cluster_roles, ("cluster-roles.yaml", "controller-roles.yaml")),
        (rbac.ClusterRoleBinding, roles.cluster_role_bindings,
         ("cluster-role-bindings.yaml", "controller-role-bindings.yaml")),
        (rbac.Role, roles.roles, ("namespace-roles.yaml",)),
        (rbac.RoleBinding, roles.role_bindings, ("namespace-role-bindings.yaml",)),
    ],
)  # fmt: skip
def test_defaults_are_upstreams(kind: type[Any], ours: Any, files: tuple[str, ...]) -> None:
    wanted = {key(item["metadata"]): shape(codec.decode(kind, codec.encode(item))) for item in reference(*files)}
    found = {key(item.metadata): shape(item) for item in ours()}
    assert found.keys() == wanted.keys()
    for name, expected in wanted.items():
        assert found[name] == expected, name
