"""Everything the server answers that is no object: discovery, OpenAPI, health, version, metrics, well-known paths.

Documents of the resource table are made at the first request and kept with their ETags.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from pinnace.api import codec, errors
from pinnace.apiserver import discovery, openapi, openapi_protobuf, responses
from pinnace.apiserver.discovery import Table
from pinnace.apiserver.negotiation import JSON, Format, accepts, negotiate
from pinnace.client.transport import Request, Response
from pinnace.version import KUBERNETES_MAJOR, KUBERNETES_MINOR, KUBERNETES_VERSION, __version__

if TYPE_CHECKING:
    from pinnace.apiserver.server import ApiServer


_AGGREGATED = "APIGroupDiscoveryList"
_TEXT = {"content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff"}

Check = Callable[[], Awaitable[None]]      # raises, with the reason, if the thing is not well
Extra = Callable[[], Mapping[str, Any]]    # a JSON document, made anew for each request


class Documents:
    """Answers by path. Others may add checks (`checks`) and JSON documents (`extra`, by path: the key set of
    service account tokens and the OIDC configuration)."""

    def __init__(self, server: ApiServer, address: str) -> None:
        self._server = server
        self._address = address
        self._kept: dict[tuple[str, ...], tuple[bytes, str]] = {}
        self.checks: dict[str, Check] = {"ping": _fine, "log": _fine, "etcd": self._check_store}
        self.extra: dict[str, Extra] = {}

    @property
    def _table(self) -> Table:
        return self._server.resources

    async def answer(self, request: Request) -> Response:
        """Raises NotFound, MethodNotAllowed, NotAcceptable."""
        path = request.path.rstrip("/") or "/"
        if request.method not in ("GET", "HEAD"):
            raise errors.MethodNotAllowed()
        parts = path.split("/")
        match parts[1]:
            case "api" | "apis" if len(parts) <= 4:
                return self._discovery(request, parts)
            case "openapi":
                return self._openapi(request, path)
            case "healthz" | "livez" | "readyz":
                return await self._health(request, parts)
            case "version" if len(parts) == 2:
                return responses.document(version_info())
            case "metrics" if len(parts) == 2:
                headers = {"content-type": "text/plain; version=0.0.4; charset=utf-8"}
                return Response(200, headers, self._server.metrics.text(self._server).encode())
            case "" if path == "/":
                return responses.document({"paths": self._paths()})
        extra = self.extra.get(path)
        if extra is None:
            raise errors.NotFound.path()
        return responses.document(extra())

    def _discovery(self, request: Request, parts: list[str]) -> Response:
        table = self._table
        match parts[1:]:
            case ["api" | "apis" as root]:
                version = _aggregated_version(request.headers.get("accept", ""))
                if version:
                    document = discovery.aggregated(table, core=root == "api", version=version)
                    media = f"{JSON};g=apidiscovery.k8s.io;v={version};as={_AGGREGATED}"
                    return self._keep(request, (root, version), lambda: codec.encode(document), media)
                body = discovery.api_versions(self._address) if root == "api" else discovery.group_list(table)
            case ["api", "v1"]:
                body = discovery.resource_list(table, "", "v1")
            case ["apis", group] if group in discovery.groups(table):
                body = {"kind": "APIGroup", "apiVersion": "v1", **discovery.api_group(table, group)}
            case ["apis", group, version] if version in discovery.versions(table, group):
                body = discovery.resource_list(table, group, version)
            case _:
                raise errors.NotFound.path()
        return responses.document(body, Format(negotiate(request.headers.get("accept", ""), views=False).media))

    def _openapi(self, request: Request, path: str) -> Response:
        table = self._table
        accept = request.headers.get("accept", "")
        if path == "/openapi/v2" and any(media in accept for media in openapi_protobuf.ASKED):
            return self._keep(
                request, (path, "pb"), lambda: openapi_protobuf.encode(openapi.v2(table)), openapi_protobuf.MEDIA
            )
        if path == "/openapi/v2":
            return self._keep(request, (path,), lambda: codec.encode(openapi.v2(table)), JSON)
        if path == "/openapi/v3":
            index = {
                name: {"serverRelativeURL": f"/openapi/v3/{name}?hash={self._document(name)[1].strip(chr(34))}"}
                for name in openapi.names(table)
            }
            return self._keep(request, (path,), lambda: codec.encode({"paths": index}), JSON)
        name = path.removeprefix("/openapi/v3/")
        if name not in openapi.names(table):
            raise errors.NotFound.path()
        self._document(name)
        return self._keep(request, ("v3", name), lambda: b"", JSON)

    def _document(self, name: str) -> tuple[bytes, str]:
        key = ("v3", name)
        if key not in self._kept:
            body = codec.encode(openapi.v3(self._table, name))
            self._kept[key] = (body, discovery.etag(body))
        return self._kept[key]

    def _keep(self, request: Request, key: tuple[str, ...], make: Callable[[], bytes], media: str) -> Response:
        if key not in self._kept:
            body = make()
            self._kept[key] = (body, discovery.etag(body))
        body, tag = self._kept[key]
        headers = {"content-type": media, "etag": tag, "vary": "Accept", "cache-control": "no-cache, private"}
        if request.headers.get("if-none-match") == tag:
            return Response(304, headers)
        return Response(200, headers, body)

    async def _health(self, request: Request, parts: list[str]) -> Response:
        which, wanted = parts[1], parts[2] if len(parts) > 2 else ""
        if wanted and wanted not in self.checks:
            raise errors.NotFound.path()
        excluded = set(request.query.get("exclude", ()))
        lines, failed = [], []
        for name, check in self.checks.items():
            if (wanted and name != wanted) or (which == "livez" and name == "etcd"):
                continue
            if name in excluded:
                lines.append(f"[+]{name} excluded: ok")
                continue
            try:
                await check()
                lines.append(f"[+]{name} ok")
            except Exception as error:
                lines.append(f"[-]{name} failed: {error}")
                failed.append(name)
        verbose = "verbose" in request.query
        if failed:
            text = "\n".join([*lines, f"{which} check failed"]) + "\n"
            return Response(500, _TEXT, text.encode())
        text = "\n".join([*lines, f"{which} check passed"]) + "\n" if verbose else "ok"
        return Response(200, _TEXT, text.encode())

    async def _check_store(self) -> None:
        if not self._server.ready:
            raise RuntimeError("the server is not ready")
        await self._server.feed.fresh()

    def _paths(self) -> list[str]:
        found = {"/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz"}
        found.add("/version")
        for group in discovery.groups(self._table):
            if group:
                found.add(f"/apis/{group}")
                found.update(f"/apis/{group}/{version}" for version in discovery.versions(self._table, group))
        found.update(f"{root}/{name}" for root in ("/healthz", "/livez", "/readyz") for name in self.checks)
        found.update(self.extra)
        return sorted(found)


def _aggregated_version(accept: str) -> str:
    """The version of aggregated discovery that the client wants most; "" for plain discovery."""
    for kind, parameters in accepts(accept):
        if kind != JSON:
            continue
        if not parameters:
            return ""
        if parameters.get("as") == _AGGREGATED and parameters.get("g") == "apidiscovery.k8s.io":
            version = parameters.get("v", "")
            if version in ("v2", "v2beta1"):
                return version
    return ""


def version_info() -> dict[str, str]:
    """/version."""
    major, minor, release = KUBERNETES_MAJOR, KUBERNETES_MINOR, KUBERNETES_VERSION
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"{release}+pinnace.{__version__}",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": f"python{sys.version_info.major}.{sys.version_info.minor}",
        "compiler": sys.implementation.name,
        "platform": f"{sys.platform}/amd64",
    }


async def _fine() -> None:
    return None
