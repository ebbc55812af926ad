"""P-256 keys and how to sign with them, so that one seed gives the same bytes in every run."""

from __future__ import annotations

from cryptography.hazmat.backends.openssl import backend
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pinnace.base.randomness import Randomness

_CURVE = ec.SECP256R1()
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# More than the order has, so that no remainder is likelier than another.
_BYTES = 40
_SERIAL_BYTES = 16

# For `ecdsa_deterministic` of cryptography's builders (RFC 6979). OpenSSL before 3.2, which no wheel of cryptography
# has, cannot; signatures then differ from run to run, and nothing else does.
REPEATABLE = True if backend.ecdsa_deterministic_supported() else None


def new_key(randomness: Randomness) -> ec.EllipticCurvePrivateKey:
    """A private key; a secret if the randomness has no seed."""
    return ec.derive_private_key(1 + int.from_bytes(randomness.token(_BYTES), "big") % (_ORDER - 1), _CURVE)


def serial_number(randomness: Randomness) -> int:
    """For a certificate: positive, of 128 bits at most, as upstream's signers draw it."""
    return max(1, int.from_bytes(randomness.token(_SERIAL_BYTES), "big"))


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS 8, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
