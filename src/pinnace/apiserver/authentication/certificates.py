"""Client certificates: the common name is the user, the organizations are its groups.

The TLS front has verified the chain against the cluster's authority; here only names are read. Parsing is
cached: a client shows the same certificate on every request.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pinnace.api.errors import Unauthorized
from pinnace.base.clock import Clock
from pinnace.client.transport import Request, User

_MOST_CACHED = 10_000


class CertificateAuthenticator:
    """Users by verified client certificate."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._users: OrderedDict[bytes, tuple[User, datetime, datetime]] = OrderedDict()

    async def authenticate(self, request: Request) -> User | None:
        certificate = request.peer_certificate
        if certificate is None:
            return None
        known = self._users.get(certificate)
        if known is None:
            known = _read(certificate)
            self._users[certificate] = known
            if len(self._users) > _MOST_CACHED:
                self._users.popitem(last=False)
        user, begin, end = known
        # A connection may outlive its certificate.
        if not begin <= self._clock.now() <= end:
            raise Unauthorized()
        return user


def _read(der: bytes) -> tuple[User, datetime, datetime]:
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        groups = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.InvalidVersion) as error:
        raise Unauthorized() from error
    if not names or not names[0].value or ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
        raise Unauthorized()
    user = User(name=str(names[0].value), groups=tuple(str(group.value) for group in groups))
    return user, certificate.not_valid_before_utc, certificate.not_valid_after_utc
