"""`pinnace demo`: builds an image, deploys the guestbook with it, and says what to try next."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from pinnace.base.errors import UserError
from pinnace.cli import options as common
from pinnace.cluster import launch
from pinnace.cluster.layout import Layout

IMAGE = "pinnace.local/demo:1"
NAMESPACE = "demo"
_PATIENCE = 60.0


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_name(parser)


def run(options: argparse.Namespace) -> int:
    layout = common.cluster(options)
    settings = layout.load()
    if launch.server_file(layout).pid() is None:
        raise UserError(f"cluster {layout.name!r} does not run", hint=f"pinnace up --name {layout.name} starts it")
    if settings.nodes:
        asyncio.run(_ensure_image())
    node = asyncio.run(_deploy(layout))
    context = f"kubectl --context {settings.context} -n {NAMESPACE}"
    print("\nThe guestbook runs: two web pods, and one that keeps the data. Try\n")
    print(f"  {context} get pods,services -o wide")
    print(f"  {context} scale deployment/guestbook-web --replicas 4")
    if node:         # simulated ones have no containers to talk to
        print(f"  {context} logs -f deployment/guestbook-web")
        print(f"""  {context} exec deployment/guestbook-web -- python3 -c 'print("hello from a container")'""")
        print(f"  {context} port-forward service/guestbook-web 8080:80     then open http://127.0.0.1:8080")
        print(f"  curl http://{node}:30080/")
    return 0


async def _ensure_image() -> None:
    """Build the demo's image from this interpreter and load it, unless it is there."""
    from pinnace.cli.image import app_files
    from pinnace.runtime.cri import RuntimeFault
    from pinnace.runtime.images import build

    images = common.images()
    if await images.status(IMAGE) is not None:
        return
    print("building the demo's image …", flush=True)
    app = app_files(Path(str(files("pinnace.demo").joinpath("app"))))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "demo.tar"
        try:
            await asyncio.to_thread(build.build_python, path, IMAGE, files=app)
            await images.load(str(path))
        except RuntimeFault as error:
            raise UserError(f"the demo's image cannot be built: {error}") from error


async def _deploy(layout: Layout) -> str:
    """Apply the manifests, wait for the deployments; returns a node's address."""
    from pinnace.api.apps import v1 as apps
    from pinnace.api.core import v1 as core
    from pinnace.api.errors import StatusError
    from pinnace.client.client import Client
    from pinnace.client.https import HttpsTransport, client_context
    from pinnace.cluster.access import admin_access

    access = admin_access(layout)
    context = client_context(ca=access.ca, certificate=layout.pki / "admin.crt", key=layout.pki / "admin.key")
    client = Client(HttpsTransport(access.server, context), agent="pinnace-demo")
    try:
        for document in _documents():
            await _apply(client, document)
        print("waiting for the pods …", flush=True)
        try:
            async with asyncio.timeout(_PATIENCE):
                for name in ("guestbook-data", "guestbook-web"):
                    await _available(client, apps.Deployment, name)
        except TimeoutError:
            raise UserError(
                f"the demo's pods were not ready after {_PATIENCE:.0f} seconds",
                hint=f"kubectl -n {NAMESPACE} get events says why",
            ) from None
        nodes = (await client.list(core.Node)).items
        addresses = [a.address for node in nodes for a in node.status.addresses or () if a.type == "InternalIP"]
        return addresses[0] if addresses and layout.load().nodes else ""
    except (StatusError, ConnectionError) as error:
        raise UserError(f"the API server says: {error}") from error
    finally:
        await client.transport.close()


def _documents() -> list[dict[str, Any]]:
    from pinnace.api import yaml

    text = files("pinnace.demo").joinpath("guestbook.yaml").read_text()
    return [document for document in yaml.load_all(text) if document]


async def _apply(client: Any, document: dict[str, Any]) -> None:
    from pinnace.api import codec, kinds
    from pinnace.api.errors import AlreadyExists

    group, _, version = document["apiVersion"].rpartition("/")
    kind = kinds.by_kind(group, version, document["kind"]).type
    obj = codec.from_dict(kind, document)
    meta = codec.metadata(obj)
    try:
        await client.create(obj)
    except AlreadyExists:
        await client.patch(kind, meta.name or "", meta.namespace or "", document, type="merge")


async def _available(client: Any, kind: type[Any], name: str) -> None:
    while True:
        watch = client.watch(kind, NAMESPACE, field_selector=f"metadata.name={name}", send_initial_events=True)
        async for batch in watch:
            for event in batch:
                status = getattr(event.object, "status", None)
                if event.type == "BOOKMARK" or status is None:
                    continue
                current = status.observedGeneration == event.object.metadata.generation
                if current and (status.availableReplicas or 0) >= event.object.spec.replicas:
                    return
