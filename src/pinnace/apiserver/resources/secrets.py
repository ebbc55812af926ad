"""Secrets: their types, and what each type must hold."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

from pinnace.api.core import v1 as core
from pinnace.api.fields import FieldError, forbidden, invalid, required, too_long
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Column, Context, Resource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, column
from pinnace.apiserver.resources.configmaps import FROZEN, MAX_SIZE, decoded_size

ACCOUNT_NAME = "kubernetes.io/service-account.name"
_REDACTED = "<secret contents redacted>"
# What must be there, by type.
_KEYS = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
}


def default(secret: core.Secret) -> None:
    """stringData is for writing only: it goes into data, as base64, before anyone looks."""
    if not secret.type:
        secret.type = "Opaque"
    if secret.stringData:
        data = dict(secret.data or {})
        for key, value in secret.stringData.items():
            data[key] = base64.b64encode(value.encode()).decode()
        secret.data = data
    secret.stringData = None


def _prepare_update(new: core.Secret, old: core.Secret, _: Context) -> None:
    # A client that leaves the type out does not mean to change it.
    if not new.type:
        new.type = old.type


def validate(secret: core.Secret) -> Iterator[FieldError]:
    data = secret.data or {}
    size = 0
    for key, value in data.items():
        yield from (invalid(f"data[{key}]", key, message) for message in rules.config_key_messages(key))
        size += decoded_size("Secret", value)
    if size > MAX_SIZE:
        yield too_long("data", "", MAX_SIZE)
    match secret.type:
        case "kubernetes.io/service-account-token":
            if not (secret.metadata.annotations or {}).get(ACCOUNT_NAME):
                yield required(f"metadata.annotations[{ACCOUNT_NAME}]")
        case "kubernetes.io/basic-auth":
            if "username" not in data and "password" not in data:
                yield required("data[username]")
                yield required("data[password]")
        case "kubernetes.io/ssh-auth":
            if not data.get("ssh-privatekey"):
                yield required("data[ssh-privatekey]")
        case kind:
            yield from _required_keys(kind or "", data)


def _required_keys(kind: str, data: dict[str, str]) -> Iterator[FieldError]:
    for key in _KEYS.get(kind, ()):
        if key not in data:
            yield required(f"data[{key}]")
        elif kind != "kubernetes.io/tls":
            try:
                parsed = json.loads(base64.b64decode(data[key]))
            except (ValueError, binascii.Error) as error:
                yield invalid(f"data[{key}]", _REDACTED, str(error))
            else:
                if not isinstance(parsed, dict):
                    yield invalid(f"data[{key}]", _REDACTED, "must be a JSON object")


def validate_update(new: core.Secret, old: core.Secret) -> Iterator[FieldError]:
    yield from rules.immutable("type", new.type, old.type)
    if old.immutable:
        if not new.immutable:
            yield forbidden("immutable", FROZEN)
        if (new.data or {}) != (old.data or {}):
            yield forbidden("data", FROZEN)
    yield from validate(new)


COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    column("Type", lambda s: s.type or "", "What the secret is for."),
    column("Data", lambda s: len(s.data or ()), "Number of keys."),
    AGE,
)
SECRET: Resource[core.Secret] = Resource(
    kind=kind_of(core.Secret),
    default=default,
    prepare_update=_prepare_update,
    validate_create=validate,
    validate_update=validate_update,
    columns=COLUMNS,
    fields={"type": lambda s: s.type or ""},
    generation=False,
)
RESOURCES = (SECRET,)
