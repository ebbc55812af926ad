"""CertificateSigningRequests: made by anyone, approved on one path, signed on another."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from pinnace.api import times
from pinnace.api.certificates import v1 as certificates
from pinnace.api.fields import FieldError, duplicate, forbidden, invalid, required
from pinnace.api.kinds import kind_of
from pinnace.apiserver.resource import Column, Context, Resource, Subresource
from pinnace.apiserver.resources import rules
from pinnace.apiserver.resources.columns import AGE, NAME, NONE, column, human_duration

USAGES = frozenset(
    (
        "signing", "digital signature", "content commitment", "key encipherment", "key agreement",
        "data encipherment", "cert sign", "crl sign", "encipher only", "decipher only", "any", "server auth",
        "client auth", "code signing", "email protection", "s/mime", "ipsec end system", "ipsec tunnel",
        "ipsec user", "timestamping", "ocsp signing", "microsoft sgc", "netscape sgc",
    )
)  # fmt: skip
_LEGACY = "kubernetes.io/legacy-unknown"
DECISIONS = ("Approved", "Denied", "Failed")


def prepare_create(request: certificates.CertificateSigningRequest, context: Context) -> None:
    """Who asks is what authentication found, whatever the object says."""
    spec, user = request.spec, context.user
    spec.username = user.name
    spec.uid = user.uid or None
    spec.groups = list(user.groups) or None
    spec.extra = {key: list(values) for key, values in user.extra.items()} or None
    request.status = certificates.CertificateSigningRequestStatus()


def prepare_update(
    new: certificates.CertificateSigningRequest, old: certificates.CertificateSigningRequest, _: Context
) -> None:
    new.spec = old.spec
    new.status = old.status


def validate(request: certificates.CertificateSigningRequest) -> Iterator[FieldError]:
    spec = request.spec
    yield from _request(spec.request)
    if not spec.usages:
        yield required("spec.usages")
    for i, usage in enumerate(spec.usages or ()):
        if usage not in USAGES:
            yield FieldError(
                "FieldValueNotSupported",
                f"spec.usages[{i}]",
                usage,
                "supported values: " + ", ".join(f'"{known}"' for known in sorted(USAGES)),
            )
        if usage in (spec.usages or [])[:i]:
            yield duplicate(f"spec.usages[{i}]", usage)
    yield from signer_name("spec.signerName", spec.signerName)
    if spec.expirationSeconds is not None and spec.expirationSeconds < 600:
        yield invalid(
            "spec.expirationSeconds",
            spec.expirationSeconds,
            "may not specify a duration less than 600 seconds (10 minutes)",
        )


def _request(text: str) -> Iterator[FieldError]:
    try:
        asked = x509.load_pem_x509_csr(base64.b64decode(text))
    except (ValueError, binascii.Error):
        yield invalid("spec.request", text, "PEM block type must be CERTIFICATE REQUEST")
        return
    try:
        signed = asked.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm):
        signed = False
    if not signed:
        yield invalid("spec.request", text, "x509: the signature is not of the key that it is for")


def signer_name(path: str, name: str) -> Iterator[FieldError]:
    if not name:
        yield required(path)
        return
    parts = name.split("/")
    if len(parts) != 2:
        yield invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")
        return
    if name == _LEGACY:
        yield invalid(path, name, "the legacy signerName is not allowed via this API version")
    domain, rest = parts
    for message in rules.subdomain_messages(domain):
        yield invalid(path, name, f"validating label \"{domain}\": {message}")
    if "." not in domain:
        yield invalid(path, name, "should be a domain with at least two segments separated by dots")
    for message in rules.subdomain_messages(rest):
        yield invalid(path, name, f"validating label \"{rest}\": {message}")


def _validate_conditions(
    new: certificates.CertificateSigningRequest, old: certificates.CertificateSigningRequest
) -> Iterator[FieldError]:
    seen: set[str] = set()
    for i, condition in enumerate(new.status.conditions or ()):
        path = f"status.conditions[{i}]"
        if not condition.type:
            yield required(f"{path}.type")
        elif condition.type in seen:
            yield duplicate(f"{path}.type", condition.type)
        seen.add(condition.type)
        if condition.type in DECISIONS and condition.status != "True":
            yield invalid(f"{path}.status", condition.status, "supported values: \"True\"")
    if {"Approved", "Denied"} <= seen:
        yield invalid(
            "status.conditions", [c.type for c in new.status.conditions or ()],
            "Approved and Denied conditions are mutually exclusive",
        )  # fmt: skip
    kept = {condition.type: condition for condition in new.status.conditions or ()}
    for condition in old.status.conditions or ():
        if condition.type in ("Approved", "Denied") and condition.type not in kept:
            yield forbidden("status.conditions", f"updates may not remove a condition of type \"{condition.type}\"")


def _stamp(new: Any, old: Any, now: datetime) -> None:
    known = {condition.type: condition for condition in old.status.conditions or ()}
    for condition in new.status.conditions or ():
        was = known.get(condition.type)
        if not condition.status:
            condition.status = "True"
        if not condition.lastUpdateTime:
            condition.lastUpdateTime = times.format(now)
        if not condition.lastTransitionTime:
            changed = was is None or was.status != condition.status
            condition.lastTransitionTime = (
                times.format(now) if changed or was is None else was.lastTransitionTime
            )


def prepare_approval(new: Any, old: Any, context: Context) -> None:
    """Only conditions are written here; a certificate is the signer's to give."""
    new.spec = old.spec
    new.status.certificate = old.status.certificate
    _stamp(new, old, context.now)


def prepare_status(new: Any, old: Any, context: Context) -> None:
    """Everything but the decision: that has a path of its own."""
    new.spec = old.spec
    decided = [c for c in old.status.conditions or () if c.type in ("Approved", "Denied")]
    others = [c for c in new.status.conditions or () if c.type not in ("Approved", "Denied")]
    new.status.conditions = [*decided, *others] or None
    _stamp(new, old, context.now)


def _condition(request: certificates.CertificateSigningRequest) -> str:
    types = {condition.type for condition in request.status.conditions or ()}
    word = "Denied" if "Denied" in types else "Approved" if "Approved" in types else "Pending"
    if "Failed" in types:
        word += ",Failed"
    return f"{word},Issued" if request.status.certificate else word


def _duration(request: certificates.CertificateSigningRequest) -> str:
    seconds = request.spec.expirationSeconds
    return human_duration(seconds) if seconds is not None else NONE


COLUMNS: tuple[Column[Any], ...] = (
    NAME,
    AGE,
    column("SignerName", lambda r: r.spec.signerName, "Who is to sign."),
    column("Requestor", lambda r: r.spec.username or "", "Who asks."),
    column("RequestedDuration", _duration, "How long it is to be good for."),
    column("Condition", _condition, "What became of it."),
)
REQUEST: Resource[certificates.CertificateSigningRequest] = Resource(
    kind=kind_of(certificates.CertificateSigningRequest),
    prepare_create=prepare_create,
    prepare_update=prepare_update,
    validate_create=validate,
    validate_update=lambda new, _: validate(new),
    columns=COLUMNS,
    fields={"spec.signerName": lambda r: r.spec.signerName},
    subresources=(
        Subresource("approval", prepare=prepare_approval, validate=_validate_conditions),
        Subresource("status", prepare=prepare_status, validate=_validate_conditions),
    ),
    generation=False,
)
RESOURCES = (REQUEST,)
