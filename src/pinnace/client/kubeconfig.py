"""Kubeconfig files: merged, read and written like kubectl and kind do."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pinnace.base.errors import UserError


@dataclass(frozen=True, slots=True)
class Access:
    """Where a cluster is and how to get in: what one context of a kubeconfig says. PEM as bytes."""

    server: str
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    token: str | None = None
    namespace: str = "default"
    verify: bool = True


def default_path(environment: Mapping[str, str]) -> Path:
    """Where kubectl would write: the first file of KUBECONFIG, or ~/.kube/config."""
    listed = [part for part in environment.get("KUBECONFIG", "").split(os.pathsep) if part]
    if listed:
        return Path(listed[0])
    return Path(environment.get("HOME") or "/root") / ".kube" / "config"


def merge(path: Path, name: str, access: Access, *, make_current: bool = True) -> None:
    """Put a cluster, a user and a context of that name into the file (0600), keeping everything else in it.

    Raises UserError if the file is there but is no kubeconfig."""
    with _locked(path):
        config = _load(path)
        _put(config, "clusters", name, {"cluster": _cluster(access)})
        _put(config, "users", name, {"user": _user(access)})
        _put(config, "contexts", name, {"context": {"cluster": name, "user": name}})
        if make_current:
            config["current-context"] = name
        _store(path, config)


def remove(path: Path, name: str) -> None:
    """Take the cluster, user and context of that name out; the current context too if it was that one."""
    if not path.exists():
        return
    with _locked(path):
        config = _load(path)
        for section in ("clusters", "users", "contexts"):
            config[section] = [entry for entry in config.get(section) or [] if entry.get("name") != name]
        if config.get("current-context") == name:
            config["current-context"] = ""
        _store(path, config)


def render(name: str, access: Access) -> str:
    """A kubeconfig of its own with just this context."""
    config = _empty()
    _put(config, "clusters", name, {"cluster": _cluster(access)})
    _put(config, "users", name, {"user": _user(access)})
    _put(config, "contexts", name, {"context": {"cluster": name, "user": name}})
    config["current-context"] = name
    return yaml.safe_dump(config, sort_keys=False)


def load(path: Path, context: str = "") -> Access:
    """What a context (by default the current one) says. Raises UserError."""
    config = _load(path)
    name = context or config.get("current-context") or ""
    chosen = _find(config, "contexts", name).get("context") or {}
    cluster = _find(config, "clusters", chosen.get("cluster") or "").get("cluster") or {}
    user = _find(config, "users", chosen.get("user") or "").get("user") or {}
    return Access(
        server=str(cluster.get("server") or ""),
        ca=_bytes(cluster, "certificate-authority", path),
        certificate=_bytes(user, "client-certificate", path),
        key=_bytes(user, "client-key", path),
        token=user.get("token"),
        namespace=chosen.get("namespace") or "default",
        verify=not cluster.get("insecure-skip-tls-verify", False),
    )


def _empty() -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Config", "preferences": {}, "clusters": [], "users": [], "contexts": []}


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return _empty()
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    if config is None:
        return _empty()
    if not isinstance(config, dict) or config.get("kind", "Config") != "Config":
        raise UserError(f"{path} is not a kubeconfig")
    return _empty() | config


def _store(path: Path, config: Mapping[str, Any]) -> None:
    target = path.resolve()                         # a link stays a link
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".kubeconfig-")
    try:
        with os.fdopen(descriptor, "w") as file:    # mkstemp makes it 0600
            yaml.safe_dump(config, file, sort_keys=False)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The directory itself is the lock: no file is left behind, and none can be removed under another's lock.
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _put(config: dict[str, Any], section: str, name: str, value: dict[str, Any]) -> None:
    entries = [entry for entry in config.get(section) or [] if entry.get("name") != name]
    config[section] = [*entries, {"name": name} | value]


def _find(config: Mapping[str, Any], section: str, name: str) -> dict[str, Any]:
    for entry in config.get(section) or []:
        if entry.get("name") == name:
            return dict(entry)
    raise UserError(f"the kubeconfig has no {section[:-1]} {name!r}")


def _cluster(access: Access) -> dict[str, Any]:
    cluster: dict[str, Any] = {"server": access.server}
    if access.ca:
        cluster["certificate-authority-data"] = base64.b64encode(access.ca).decode()
    if not access.verify:
        cluster["insecure-skip-tls-verify"] = True
    return cluster


def _user(access: Access) -> dict[str, Any]:
    user: dict[str, Any] = {}
    if access.certificate and access.key:
        user["client-certificate-data"] = base64.b64encode(access.certificate).decode()
        user["client-key-data"] = base64.b64encode(access.key).decode()
    if access.token:
        user["token"] = access.token
    return user


def _bytes(section: Mapping[str, Any], name: str, path: Path) -> bytes | None:
    data = section.get(f"{name}-data")
    try:
        if data:
            return base64.b64decode(data, validate=True)
        if section.get(name):
            return (path.parent / str(section[name])).read_bytes()
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{path}: {name}: {error}") from error
    return None
