"""Keys and signatures are functions of the randomness, and good ones."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pinnace.base.keys import REPEATABLE, new_key, private_pem, serial_number
from pinnace.base.randomness import Randomness


def test_a_seed_gives_the_same_bytes() -> None:
    def made(seed: int) -> tuple[bytes, int, bytes]:
        chance = Randomness(seed)
        key = new_key(chance)
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        signed = builder.sign(key, hashes.SHA256(), ecdsa_deterministic=REPEATABLE)
        return private_pem(key), serial_number(chance), signed.public_bytes(serialization.Encoding.DER)

    assert REPEATABLE, "wheels of cryptography can sign repeatably"
    assert made(1) == made(1)
    assert not set(made(1)) & set(made(2))


def test_without_a_seed_nothing_is_foretold() -> None:
    assert private_pem(new_key(Randomness())) != private_pem(new_key(Randomness()))
    assert all(0 < serial_number(Randomness()) < 2**128 for _ in range(100))


def test_the_pem_is_the_key() -> None:
    key = new_key(Randomness(3))
    again = serialization.load_pem_private_key(private_pem(key), None)
    assert isinstance(again, ec.EllipticCurvePrivateKey) and isinstance(again.curve, ec.SECP256R1)
    assert again.private_numbers() == key.private_numbers()
