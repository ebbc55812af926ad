"""Randomness, as a parameter: one seed reproduces every name, identifier and jitter of a run."""

from __future__ import annotations

import random
import uuid

# Kubernetes' alphabet for generated names: no vowels, and none of 0, 1, 3, so that no words appear.
NAME_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


class Randomness:
    """A seeded source. Without a seed it draws one from the system."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed) if seed is not None else random.SystemRandom()

    def uid(self) -> str:
        """A version 4 UUID in its usual form."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def suffix(self, length: int = 5) -> str:
        """What is appended to a `generateName`."""
        return "".join(self._random.choices(NAME_ALPHABET, k=length))

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
        return self._random.randbytes(nbytes)

    def fork(self) -> Randomness:
        """An independent source drawn from this one, so that parts do not disturb each other's sequence."""
        if isinstance(self._random, random.SystemRandom):
            return Randomness()
        return Randomness(self._random.getrandbits(64))
