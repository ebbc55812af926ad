"""Randomness, as a parameter: one seed reproduces every name, identifier and jitter of a run."""

from __future__ import annotations

import os
import random

# Kubernetes' alphabet for generated names: no vowels, and none of 0, 1, 3, so that no words appear.
NAME_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_LETTERS = len(NAME_ALPHABET)

# The bits of a UUID that are random, and what the others are in version 4 (RFC 9562).
_RANDOM = (1 << 128) - 1 ^ (0xF << 76 | 0b11 << 62)
_VERSION_4 = 4 << 76 | 0b10 << 62


class Randomness:
    """A seeded source. Without a seed it draws one from the system.

    Names, identifiers and jitter come from Python's generator, which is quick and can be foretold by who has seen
    enough of it; `token` alone is fit for secrets.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seeded = seed is not None
        self._random = random.Random(seed if seed is not None else int.from_bytes(os.urandom(32), "big"))

    def uid(self) -> str:
        """A version 4 UUID in its usual form."""
        digits = f"{self._random.getrandbits(128) & _RANDOM | _VERSION_4:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def suffix(self, length: int = 5) -> str:
        """What is appended to a `generateName`."""
        draw = self._random.random
        return "".join([NAME_ALPHABET[int(draw() * _LETTERS)] for _ in range(length)])

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def jitter(self, seconds: float, factor: float) -> float:
        """`seconds`, lengthened by up to `factor` of itself."""
        return seconds * (1.0 + self._random.random() * factor)

    def below(self, bound: int) -> int:
        """A whole number from 0 to bound - 1."""
        return self._random.randrange(bound)

    def token(self, nbytes: int = 32) -> bytes:
        """Bytes for a secret; from the system's generator unless seeded."""
        return self._random.randbytes(nbytes) if self._seeded else os.urandom(nbytes)

    def fork(self) -> Randomness:
        """An independent source drawn from this one, so that parts do not disturb each other's sequence."""
        return Randomness(self._random.getrandbits(64)) if self._seeded else Randomness()
