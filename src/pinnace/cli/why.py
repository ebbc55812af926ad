"""`pinnace why`: who wrote an object and because of what, back to somebody's request; for a pending pod also what
each node has against it. Asks the API server that the kubeconfig names, as kubectl does, with the standard library
alone."""

from __future__ import annotations

import argparse
import json
import shutil
import ssl
import sys
import tempfile
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urlsplit

from pinnace.base.errors import UserError
from pinnace.cli import options as common

if TYPE_CHECKING:
    from pinnace.api.kinds import Kind
    from pinnace.client.kubeconfig import Access

_SECONDS = 30.0
_MOST_BYTES = 64 * 1024 * 1024


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("object", nargs="+", metavar="KIND/NAME", help="e.g. pod/web-1, deploy/web, node node-1")
    parser.add_argument("-n", "--namespace", help="where it is (default: the context's namespace)")
    parser.add_argument("--revision", type=int, default=0, metavar="N", help="its writes up to this revision")
    parser.add_argument("--depth", type=int, metavar="N", help="follow so many reactions (default and most: 32)")
    parser.add_argument("-a", "--all", action="store_true", help="all causes as branches, not only the nearest")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("--kubeconfig", metavar="FILE", help="which kubeconfig to use (default: as kubectl)")
    parser.add_argument("--context", help="which context of it (default: the current one)")


def run(options: argparse.Namespace) -> int:
    from pinnace.client import kubeconfig

    kind, name = named(options.object)
    access = kubeconfig.load(common.kubeconfig_path(options), options.context or "")
    namespace = options.namespace or access.namespace
    query = {"revision": options.revision or None, "depth": options.depth}
    body = _ask(access, path_of(kind, namespace, name), {k: v for k, v in query.items() if v is not None})
    if options.output == "json":
        print(json.dumps(json.loads(body), indent=2, ensure_ascii=False))
        return 0
    from pinnace.client.why import decode, render

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    print(render(decode(body), everything=options.all, width=width))
    return 0


def named(words: list[str]) -> tuple[Kind, str]:
    """`pod/web-1` or `pod web-1`, with kinds as kubectl understands them. Raises UserError."""
    from pinnace.api.kinds import KINDS

    if len(words) == 1 and words[0].count("/") == 1:
        words = words[0].split("/")
    if len(words) != 2 or "/" in words[0] + words[1] or not all(words):
        raise UserError(f"{' '.join(words)!r} names no object", hint="say for example pod/web-1")
    word, name = words[0].lower(), words[1]
    for kind in KINDS:
        spoken = (kind.plural, kind.singular, kind.resource, f"{kind.singular}.{kind.group}", *kind.short_names)
        if kind.served and kind.plural and word in spoken:
            return kind, name
    raise UserError(f"the server doesn't have a resource type {words[0]!r}")


def path_of(kind: Kind, namespace: str, name: str) -> str:
    group = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    place = f"/namespaces/{quote(namespace, safe='')}" if kind.namespaced else ""
    return f"/pinnace.dev/v1/why{group}{place}/{kind.plural}/{quote(name, safe='')}"


def _ask(access: Access, path: str, query: dict[str, int]) -> bytes:
    """The answer's body. Raises UserError with what the server says."""
    url = urlsplit(access.server)
    if not url.hostname:
        raise UserError("the kubeconfig names no server", hint="pinnace up makes a cluster and its context")
    connection: HTTPConnection
    if url.scheme == "http":
        connection = HTTPConnection(url.hostname, url.port or 80, timeout=_SECONDS)
    else:
        connection = HTTPSConnection(url.hostname, url.port or 443, timeout=_SECONDS, context=_context(access))
    headers = {"accept": "application/json", "user-agent": "pinnace-why"}
    if access.token:
        headers["authorization"] = f"Bearer {access.token}"
    where = url.path.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")
    try:
        connection.request("GET", where, headers=headers)
        answer = connection.getresponse()
        body = answer.read(_MOST_BYTES)
    except (OSError, HTTPException) as error:
        raise UserError(f"{access.server}: {error}", hint="pinnace status shows what runs") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise UserError(_message(body) or f"the server answered {answer.status}")
    return body


def _context(access: Access) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=access.ca.decode("ascii") if access.ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not access.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if access.certificate and access.key:
        # OpenSSL takes them from files only; the directory is ours alone (0700) and gone at once.
        with tempfile.TemporaryDirectory(prefix="pinnace-") as directory:
            certificate, key = Path(directory) / "tls.crt", Path(directory) / "tls.key"
            certificate.write_bytes(access.certificate)
            key.write_bytes(access.key)
            context.load_cert_chain(certificate, key)
    return context


def _message(body: bytes) -> str:
    try:
        status = json.loads(body)
    except ValueError:
        return ""
    return str(status.get("message") or "") if isinstance(status, dict) else ""
