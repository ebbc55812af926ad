"""Quantities: exact numbers with suffixes (apimachinery, api/resource).

A value is a whole number of nano-units, as upstream's smallest; what is finer is rounded up. The canonical form
keeps the family of the suffix that was written (decimal, binary or exponent) and has no fraction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Format = Literal["decimal", "binary", "exponent"]

NANO = 10**9
# Upstream caps every quantity at 2^63-1.
_MAXIMUM = (2**63 - 1) * NANO
_SYNTAX = re.compile(r"([+-]?)([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+|[KMGTPE]i|[numkMGTPE]?)")
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_DECIMAL_NAMES = {exponent: name for name, exponent in _DECIMAL.items()}
_FORMAT_ERROR = (
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)


@dataclass(frozen=True, slots=True, order=True)
class Quantity:
    """An amount: compares, adds and subtracts exactly."""

    nano: int
    format: Format = "decimal"

    def __add__(self, other: Quantity) -> Quantity:
        return Quantity(self.nano + other.nano, self.format if self.nano or not other.nano else other.format)

    def __sub__(self, other: Quantity) -> Quantity:
        return Quantity(self.nano - other.nano, self.format if self.nano or not other.nano else other.format)

    def __neg__(self) -> Quantity:
        return Quantity(-self.nano, self.format)

    def __bool__(self) -> bool:
        return self.nano != 0

    @property
    def value(self) -> int:
        """In whole units, rounded away from zero."""
        return _up(self.nano, NANO)

    @property
    def milli(self) -> int:
        """In thousandths, rounded away from zero."""
        return _up(self.nano, 10**6)

    def __float__(self) -> float:
        return self.nano / NANO

    def __str__(self) -> str:
        """The canonical form."""
        return _text(self.nano, self.format)


ZERO = Quantity(0)


@lru_cache(maxsize=16384)
def parse_quantity(text: str | int | float) -> Quantity:
    """What a quantity on the wire says. Raises ValueError with upstream's words."""
    if isinstance(text, bool):
        raise ValueError(_FORMAT_ERROR)
    if isinstance(text, int):
        return Quantity(_capped(text * NANO), "decimal")
    if isinstance(text, float):
        text = repr(text)
    match = _SYNTAX.fullmatch(text)
    if match is None:
        raise ValueError(_FORMAT_ERROR)
    sign, number, suffix = match.groups()
    whole, _, fraction = number.partition(".")
    digits = int((whole + fraction) or "0")
    if suffix in _BINARY:
        numerator, denominator, family = digits * _BINARY[suffix] * NANO, 10 ** len(fraction), "binary"
    else:
        exponent = int(suffix[1:]) if suffix[:1] in ("e", "E") and len(suffix) > 1 else _DECIMAL[suffix]
        if abs(exponent) > 1000:       # beyond the cap, or below a nano-unit, whatever the digits
            exponent = 1000 if exponent > 0 else -1000
        power = exponent + 9 - len(fraction)
        numerator, denominator = (digits * 10**power, 1) if power >= 0 else (digits, 10**-power)
        family = "exponent" if suffix[:1] in ("e", "E") and len(suffix) > 1 else "decimal"
    nano = _capped(-(-numerator // denominator))
    form: Format = "binary" if family == "binary" else "exponent" if family == "exponent" else "decimal"
    return Quantity(-nano if sign == "-" else nano, form)


@lru_cache(maxsize=16384)
def canonical(text: str | int | float) -> str:
    """The canonical form of a quantity on the wire. Raises ValueError."""
    return str(parse_quantity(text))


def from_bytes(amount: int) -> Quantity:
    return Quantity(amount * NANO, "binary")


def _capped(nano: int) -> int:
    return min(nano, _MAXIMUM)


def _up(nano: int, unit: int) -> int:
    """Divided, and rounded away from zero."""
    return -(-nano // unit) if nano >= 0 else nano // unit


def _text(nano: int, form: Format) -> str:
    if nano == 0:
        return "0"
    sign, amount = ("-", -nano) if nano < 0 else ("", nano)
    if form == "binary":
        # Upstream writes what is below 1024 in decimal, and rounds what is above to whole units, up.
        if amount >= 1024 * NANO:
            units, name = _up(amount, NANO), ""
            for suffix, size in _BINARY.items():
                if units % size == 0:
                    name, shown = suffix, units // size
            return f"{sign}{shown}{name}" if name else f"{sign}{units}"
        form = "decimal"
    exponent = -9
    while amount % 1000 == 0 and exponent < 18:
        amount //= 1000
        exponent += 3
    if form == "exponent":
        return f"{sign}{amount}e{exponent}" if exponent else f"{sign}{amount}"
    return f"{sign}{amount}{_DECIMAL_NAMES[exponent]}"
