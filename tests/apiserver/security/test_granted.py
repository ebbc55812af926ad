"""What was allowed once is remembered for the parts of the server's process, and never for longer than it holds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pinnace.api import errors
from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.api.rbac import v1 as rbac
from pinnace.apiserver.access import AnyOf, Attributes, Decision
from pinnace.apiserver.authorization.rbac import RbacAuthorizer
from pinnace.apiserver.inprocess import InProcessTransport
from pinnace.apiserver.resources.table import RESOURCES
from pinnace.apiserver.server import ApiServer
from pinnace.base.clock import ManualClock
from pinnace.base.randomness import Randomness
from pinnace.client.client import Client
from pinnace.client.transport import User
from pinnace.store.memory import MemoryStore

JANE = User("jane", groups=("system:authenticated",))
ROLE = rbac.Role(
    metadata=meta.ObjectMeta(name="reader", namespace="blue"),
    rules=[rbac.PolicyRule(apiGroups=[""], resources=["configmaps"], verbs=["get"])],
)
BINDING = rbac.RoleBinding(
    metadata=meta.ObjectMeta(name="reader", namespace="blue"),
    roleRef=rbac.RoleRef(apiGroup="rbac.authorization.k8s.io", kind="Role", name="reader"),
    subjects=[rbac.Subject(kind="User", name="jane", apiGroup="rbac.authorization.k8s.io")],
)


class Counted:
    """Asks an authorizer, and counts."""

    def __init__(self, inner: AnyOf) -> None:
        self.inner, self.asked = inner, 0

    def authorize(self, attributes: Attributes) -> Decision:
        self.asked += 1
        return self.inner.authorize(attributes)


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    clock = ManualClock()
    made = ApiServer(MemoryStore(clock), RESOURCES, clock, Randomness(7))
    made.authorizer = Counted(AnyOf([RbacAuthorizer(made.objects)]))
    await made.start()
    admin = Client(InProcessTransport(made))
    for namespace in ("blue", "green"):
        await admin.create(core.Namespace(metadata=meta.ObjectMeta(name=namespace)))
        await admin.create(core.ConfigMap(metadata=meta.ObjectMeta(name="a", namespace=namespace)))
    await admin.create(ROLE)
    await admin.create(BINDING)
    yield made
    await made.close()


async def read(server: ApiServer, namespace: str = "blue", user: User = JANE) -> bool:
    try:
        await Client(InProcessTransport(server), user=user).get(core.ConfigMap, "a", namespace)
    except errors.Forbidden:
        return False
    return True


async def test_who_was_allowed_is_asked_for_once(server: ApiServer) -> None:
    authorizer = server.authorizer
    assert isinstance(authorizer, Counted)
    before = authorizer.asked
    assert [await read(server) for _ in range(5)] == [True] * 5
    assert authorizer.asked == before + 1


async def test_a_grant_holds_for_its_namespace_verb_and_user_alone(server: ApiServer) -> None:
    assert await read(server)
    assert not await read(server, "green")
    assert not await read(server, user=User("joe", groups=JANE.groups))
    with pytest.raises(errors.Forbidden):
        await Client(InProcessTransport(server), user=JANE).list(core.ConfigMap, "blue")


@pytest.mark.parametrize("kind", [rbac.Role, rbac.RoleBinding])
async def test_a_grant_ends_with_what_it_rests_on(server: ApiServer, kind: type[rbac.Role | rbac.RoleBinding]) -> None:
    assert await read(server)
    await Client(InProcessTransport(server)).delete(kind, "reader", "blue")
    assert not await read(server)


async def test_a_grant_for_one_name_is_not_one_for_others(server: ApiServer) -> None:
    admin = Client(InProcessTransport(server))
    await admin.create(core.ConfigMap(metadata=meta.ObjectMeta(name="b", namespace="blue")))
    narrow = rbac.PolicyRule(apiGroups=[""], resources=["configmaps"], verbs=["get"], resourceNames=["a"])
    role = await admin.get(rbac.Role, "reader", "blue")
    await admin.update(rbac.Role(metadata=role.metadata, rules=[narrow]))
    assert await read(server)
    with pytest.raises(errors.Forbidden):
        await Client(InProcessTransport(server), user=JANE).get(core.ConfigMap, "b", "blue")


async def test_another_authorizer_has_granted_nothing(server: ApiServer) -> None:
    assert await read(server)
    server.authorizer = AnyOf([])
    assert not await read(server)
