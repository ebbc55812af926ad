"""The one error tree: every refusal of the API, with what a `Status` says.

The API server raises these and turns them into a Status once, at its boundary; the client raises the same
classes from a Status that it received. Texts are upstream's (apimachinery, api/errors).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pinnace.api.fields import FieldError


@dataclass(frozen=True, slots=True)
class StatusCause:
    reason: str
    message: str
    field: str = ""


@dataclass(frozen=True, slots=True)
class StatusDetails:
    name: str = ""
    group: str = ""
    kind: str = ""
    uid: str = ""
    causes: tuple[StatusCause, ...] = ()
    retryAfterSeconds: int = 0


class StatusError(Exception):
    """An answer that is not a success. `code` is the HTTP status, `reason` the machine's word for it."""

    code: ClassVar[int] = 500
    reason: ClassVar[str] = "InternalError"

    def __init__(self, message: str, details: StatusDetails | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.status_code = self.code
        self.status_reason = self.reason

    def status(self) -> dict[str, Any]:
        """The metav1.Status object."""
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.status_reason:
            status["reason"] = self.status_reason
        if self.details is not None:
            status["details"] = _details(self.details)
        status["code"] = self.status_code
        return status


def _details(details: StatusDetails) -> dict[str, Any]:
    out: dict[str, Any] = {
        key: value
        for key in ("name", "group", "kind", "uid")
        if (value := getattr(details, key))
    }
    if details.causes:
        out["causes"] = [
            {"reason": cause.reason, "message": cause.message} | ({"field": cause.field} if cause.field else {})
            for cause in details.causes
        ]
    if details.retryAfterSeconds:
        out["retryAfterSeconds"] = details.retryAfterSeconds
    return out


class BadRequest(StatusError):
    code, reason = 400, "BadRequest"


class Unauthorized(StatusError):
    code, reason = 401, "Unauthorized"

    def __init__(self, message: str = "Unauthorized", details: StatusDetails | None = None) -> None:
        super().__init__(message, details)


class Forbidden(StatusError):
    code, reason = 403, "Forbidden"

    @classmethod
    def to(cls, resource: str, group: str, name: str, why: str) -> Forbidden:
        """`pods "web-1" is forbidden: …`, as admission refuses."""
        what = qualified(resource, group)
        message = f'{what} "{name}" is forbidden: {why}' if name else f"{what} is forbidden: {why}"
        return cls(message, StatusDetails(name=name, group=group, kind=resource))


class NotFound(StatusError):
    code, reason = 404, "NotFound"

    @classmethod
    def of(cls, resource: str, group: str, name: str) -> NotFound:
        """`deployments.apps "web" not found`."""
        return cls(
            f'{qualified(resource, group)} "{name}" not found', StatusDetails(name=name, group=group, kind=resource)
        )

    @classmethod
    def path(cls) -> NotFound:
        """The server knows no such path or resource."""
        return cls("the server could not find the requested resource", StatusDetails())


class MethodNotAllowed(StatusError):
    code, reason = 405, "MethodNotAllowed"

    def __init__(
        self,
        message: str = "the server does not allow this method on the requested resource",
        details: StatusDetails | None = None,
    ) -> None:
        super().__init__(message, details)


class NotAcceptable(StatusError):
    code, reason = 406, "NotAcceptable"


class AlreadyExists(StatusError):
    code, reason = 409, "AlreadyExists"

    @classmethod
    def of(cls, resource: str, group: str, name: str) -> AlreadyExists:
        return cls(
            f'{qualified(resource, group)} "{name}" already exists',
            StatusDetails(name=name, group=group, kind=resource),
        )


class Conflict(StatusError):
    code, reason = 409, "Conflict"

    STALE: ClassVar[str] = (
        "the object has been modified; please apply your changes to the latest version and try again"
    )

    @classmethod
    def of(cls, resource: str, group: str, name: str, why: str = STALE) -> Conflict:
        return cls(
            f'Operation cannot be fulfilled on {qualified(resource, group)} "{name}": {why}',
            StatusDetails(name=name, group=group, kind=resource),
        )


class Gone(StatusError):
    code, reason = 410, "Gone"


class Expired(StatusError):
    """The asked-for resourceVersion or continue token is too old; list again."""

    code, reason = 410, "Expired"


class RequestEntityTooLarge(StatusError):
    code, reason = 413, "RequestEntityTooLarge"

    @classmethod
    def limit(cls, limit: int) -> RequestEntityTooLarge:
        return cls(f"Request entity too large: limit is {limit}")


class UnsupportedMediaType(StatusError):
    code, reason = 415, "UnsupportedMediaType"


class Invalid(StatusError):
    code, reason = 422, "Invalid"

    @classmethod
    def of(cls, kind: str, group: str, name: str, errors: Sequence[FieldError]) -> Invalid:
        """`Pod "web" is invalid: spec.x: Required value`; several errors in brackets."""
        texts = [str(error) for error in errors]
        unique = list(dict.fromkeys(texts))
        joined = unique[0] if len(unique) == 1 else f"[{', '.join(unique)}]"
        causes = tuple(StatusCause(error.reason, error.body, error.field) for error in errors)
        return cls(
            f'{qualified(kind, group)} "{name}" is invalid: {joined}',
            StatusDetails(name=name, group=group, kind=kind, causes=causes),
        )


class TooManyRequests(StatusError):
    code, reason = 429, "TooManyRequests"

    @classmethod
    def retry(cls, message: str, seconds: int) -> TooManyRequests:
        return cls(message, StatusDetails(retryAfterSeconds=seconds))


class InternalError(StatusError):
    code, reason = 500, "InternalError"

    @classmethod
    def of(cls, error: object) -> InternalError:
        text = str(error)
        return cls(f"Internal error occurred: {text}", StatusDetails(causes=(StatusCause("", text),)))


class ServiceUnavailable(StatusError):
    code, reason = 503, "ServiceUnavailable"


class Timeout(StatusError):
    """The request's own deadline passed."""

    code, reason = 504, "Timeout"


class ServerTimeout(StatusError):
    """The server could not finish now; the client should try again."""

    code, reason = 500, "ServerTimeout"


def qualified(resource: str, group: str) -> str:
    """`deployments.apps`, or `pods` for the core group."""
    return f"{resource}.{group}" if group else resource


_BY_REASON: Mapping[str, type[StatusError]] = {
    cls.reason: cls
    for cls in (
        BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, NotAcceptable, AlreadyExists, Conflict,
        Gone, Expired, RequestEntityTooLarge, UnsupportedMediaType, Invalid, TooManyRequests, InternalError,
        ServiceUnavailable, Timeout, ServerTimeout,
    )
}  # fmt: skip
_BY_CODE: Mapping[int, type[StatusError]] = {
    400: BadRequest, 401: Unauthorized, 403: Forbidden, 404: NotFound, 405: MethodNotAllowed, 406: NotAcceptable,
    409: Conflict, 410: Gone, 413: RequestEntityTooLarge, 415: UnsupportedMediaType, 422: Invalid,
    429: TooManyRequests, 500: InternalError, 503: ServiceUnavailable, 504: Timeout,
}  # fmt: skip


def from_status(status: Mapping[str, Any], code: int = 0) -> StatusError:
    """The error that a received Status (decoded JSON, possibly not a Status at all) stands for."""
    code = code or int(status.get("code") or 500)
    reason = str(status.get("reason") or "")
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code) or StatusError
    raw = status.get("details")
    details = None
    if isinstance(raw, Mapping):
        causes = tuple(
            StatusCause(str(c.get("reason", "")), str(c.get("message", "")), str(c.get("field", "")))
            for c in raw.get("causes") or ()
            if isinstance(c, Mapping)
        )
        details = StatusDetails(
            name=str(raw.get("name") or ""),
            group=str(raw.get("group") or ""),
            kind=str(raw.get("kind") or ""),
            uid=str(raw.get("uid") or ""),
            causes=causes,
            retryAfterSeconds=int(raw.get("retryAfterSeconds") or 0),
        )
    error = kind(str(status.get("message") or f"the server answered {code}"), details)
    error.status_code, error.status_reason = code, reason or error.reason
    return error
