"""`pinnace why` against a real front door on the loopback, with certificates, as a person runs it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pinnace.api.core import v1 as core
from pinnace.api.meta import v1 as meta
from pinnace.apiserver.authentication.certificates import CertificateAuthenticator
from pinnace.apiserver.authentication.chain import AuthenticatorChain
from pinnace.apiserver.http import HttpFront, server_context
from pinnace.apiserver.inprocess import InProcessTransport
from pinnace.apiserver.resources.table import RESOURCES
from pinnace.apiserver.server import ApiServer
from pinnace.base.clock import SystemClock
from pinnace.base.errors import UserError
from pinnace.base.randomness import Randomness
from pinnace.cli.main import main
from pinnace.cli.why import named, path_of
from pinnace.client import kubeconfig
from pinnace.client.client import Client
from pinnace.client.kubeconfig import Access
from pinnace.client.transport import User
from pinnace.cluster.certificates import Authority
from pinnace.store import MemoryStore

Said = tuple[int, str, str]


class Runs:
    """The verb, run beside the server."""

    def __init__(self, server: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
        self.server = server
        self._capsys = capsys

    async def __call__(self, *arguments: str) -> Said:
        code = await asyncio.to_thread(main, ("why", *arguments))
        said = self._capsys.readouterr()
        return code, said.out, said.err


@pytest.fixture
async def why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Runs]:
    clock = SystemClock()
    server = ApiServer(MemoryStore(clock), RESOURCES, clock, Randomness(1))
    server.authenticator = AuthenticatorChain((CertificateAuthenticator(clock),))
    await server.start()
    front = HttpFront(server)
    now = clock.now()
    authority = Authority(Authority.create("test", now))
    pair = authority.issue("server", hosts=["127.0.0.1"], now=now, server=True, client=False)
    files = pair.write(tmp_path, "server")
    context = server_context(*map(str, files), client_ca_text=authority.certificate.decode())
    port = await front.listen("127.0.0.1", 0, context)
    ann = authority.issue("ann", now=now)
    path = tmp_path / "kubeconfig"
    access = Access(f"https://127.0.0.1:{port}", authority.certificate, ann.certificate, ann.key, namespace="shop")
    kubeconfig.merge(path, "test", access)
    monkeypatch.setenv("KUBECONFIG", str(path))
    client = Client(InProcessTransport(server), agent="kubectl", user=User("kubernetes-admin"))
    for name in ("default", "shop"):
        await client.create(core.Namespace(metadata=meta.ObjectMeta(name=name)))
    data = core.ConfigMap(metadata=meta.ObjectMeta(name="prices", namespace="shop"), data={"tea": "2"})
    await client.create(data)
    await client.patch(core.ConfigMap, "prices", "shop", {"data": {"tea": "3"}})
    yield Runs(server, capsys)
    await front.close()
    await server.close()


async def test_as_text(why: Runs) -> None:
    code, out, err = await why("cm/prices", "-n", "shop")
    assert (code, err) == (0, "")
    first, *rest = out.splitlines()
    assert first == "configmap/prices in namespace shop"
    assert rest[0].startswith("  data.tea 2 → 3, ") and rest[0].endswith(" ago by kubernetes-admin (kubectl)")
    assert rest[1].startswith("  created ") and len(rest) == 2


async def test_as_json_of_a_cluster_scoped_kind_in_two_words(why: Runs) -> None:
    code, out, _ = await why("ns", "shop", "-o", "json", "--depth", "1")
    found = json.loads(out)
    assert code == 0 and (found["kind"], found["apiVersion"]) == ("Why", "pinnace.dev/v1")
    assert found["object"] == {"kind": "Namespace", "name": "shop", "apiVersion": "v1"}
    assert found["writes"][-1]["claimed"]["component"] == "kubectl"


async def test_up_to_a_revision(why: Runs) -> None:
    _, out, _ = await why("cm/prices", "-n", "shop", "-o", "json")
    created = json.loads(out)["writes"][-1]["revision"]
    code, out, _ = await why("cm/prices", "-n", "shop", "--revision", str(created))
    assert code == 0 and len(out.splitlines()) == 2


async def test_what_the_server_refuses_is_one_line(why: Runs) -> None:
    assert await why("cm/none", "-n", "shop") == (1, "", 'pinnace: configmaps "none" not found\n')
    code, out, err = await why("cm/prices", "-n", "shop", "--context", "other")
    assert (code, out) == (1, "") and err.count("\n") == 1 and "other" in err


async def test_no_server_is_one_line_and_a_hint(why: Runs, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere"
    kubeconfig.merge(path, "test", Access("https://127.0.0.1:1"))
    code, out, err = await why("cm/prices", "--kubeconfig", str(path))
    assert (code, out) == (1, "") and err.startswith("pinnace: https://127.0.0.1:1: ") and "pinnace status" in err
    code, _, err = await why("cm/prices", "--kubeconfig", str(tmp_path / "absent"))
    assert code == 1 and err.startswith("pinnace: the kubeconfig has no")


@pytest.mark.parametrize(("words", "path"), [
    (["pod/web-1"], "/pinnace.dev/v1/why/api/v1/namespaces/ns/pods/web-1"),
    (["po", "web-1"], "/pinnace.dev/v1/why/api/v1/namespaces/ns/pods/web-1"),
    (["Deploy/web"], "/pinnace.dev/v1/why/apis/apps/v1/namespaces/ns/deployments/web"),
    (["deployments.apps/web"], "/pinnace.dev/v1/why/apis/apps/v1/namespaces/ns/deployments/web"),
    (["no/n1"], "/pinnace.dev/v1/why/api/v1/nodes/n1"),
    (["clusterrole/system:node"], "/pinnace.dev/v1/why/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode"),
    (["events/a b"], "/pinnace.dev/v1/why/api/v1/namespaces/ns/events/a%20b"),
])  # fmt: skip
def test_kinds_are_called_as_kubectl_calls_them(words: list[str], path: str) -> None:
    kind, name = named(words)
    assert path_of(kind, "ns", name) == path


@pytest.mark.parametrize("words", [["pod"], ["pod/"], ["/web"], ["a/b/c"], ["pod", "a", "b"], ["pod/a", "b"], ["x/y"]])
def test_what_names_no_object(words: list[str]) -> None:
    with pytest.raises(UserError):
        named(words)
