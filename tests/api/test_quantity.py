"""Quantities: canonical forms, exact arithmetic, rounding; percentages of numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinnace.api.intstr import scaled
from pinnace.api.quantity import ZERO, Quantity, canonical, parse_quantity

SUFFIXES = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1), "k": Fraction(10**3),
    "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12), "Ki": Fraction(2**10), "Mi": Fraction(2**20),
    "Gi": Fraction(2**30), "Ti": Fraction(2**40), "e3": Fraction(1000), "E-2": Fraction(1, 100), "e0": Fraction(1),
}  # fmt: skip
texts = st.builds(
    lambda sign, whole, part, suffix: (f"{sign}{whole}{part}{suffix}", sign, whole, part, suffix),
    st.sampled_from(["", "-", "+"]),
    st.integers(0, 10**6).map(str),
    st.sampled_from(["", ".", ".5", ".25", ".125", ".001"]),
    st.sampled_from(sorted(SUFFIXES)),
)


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("0", "0"), ("0.0", "0"), ("-0", "0"), ("1000m", "1"), ("1.5", "1500m"), ("0.5", "500m"), ("100m", "100m"),
        ("1024Ki", "1Mi"), ("1536Ki", "1536Ki"), ("1Gi", "1Gi"), ("0.5Gi", "512Mi"), ("1.5Gi", "1536Mi"),
        ("1000", "1k"), ("1000000", "1M"), ("123456", "123456"), ("1e3", "1e3"), ("1E3", "1e3"), ("1.5e3", "1500"),
        ("0.0001", "100u"), ("1n", "1n"), ("0.1n", "1n"), ("-1.5", "-1500m"), ("+1", "1"), (".5", "500m"),
        ("1.", "1"), ("1E", "1E"), ("1Ei", "1Ei"), ("100Ki", "100Ki"), ("0.5Ki", "512"), ("1023", "1023"),
        ("1.0005Ki", "1025"), ("10e-1", "1"), ("1e-1", "100e-3"), (5, "5"), (0.5, "500m"), ("12000m", "12"),
        ("99999999999999999999", "9223372036854775807"), ("906.25Ki", "928000"), ("928000", "928k"),
    ],
)  # fmt: skip
def test_canonical(written: str | int | float, printed: str) -> None:
    assert canonical(written) == printed


@pytest.mark.parametrize(
    "bad", ["", "abc", "1 ", " 1", "1ki", "1KI", "1mi", "--1", "1e+", "1.2.3", "1Kii", ".", "1_0", "٣"]
)
def test_refused_in_upstreams_words(bad: str) -> None:
    with pytest.raises(ValueError, match=r"quantities must match the regular expression"):
        parse_quantity(bad)


@given(texts)
def test_exact_and_stable(case: tuple[str, str, str, str, str]) -> None:
    text, sign, whole, part, suffix = case
    exact = Fraction(whole + (part if part != "." else "")) * SUFFIXES[suffix] * (-1 if sign == "-" else 1)
    parsed = parse_quantity(text)
    if exact.denominator == 1 or (exact * 10**9).denominator == 1:
        assert Fraction(parsed.nano, 10**9) == exact
    again = parse_quantity(str(parsed))
    if suffix.endswith("i") and not str(parsed).endswith("i"):
        # Upstream writes what is no whole multiple of 1024 without a suffix, and reads that as a decimal number.
        assert parse_quantity(str(again)) == again
    else:
        assert str(again) == str(parsed)
    if not suffix.endswith("i"):  # what is binary and no whole number is rounded when it is written
        assert again.nano == parsed.nano
    assert abs(parsed.value) >= abs(exact) > abs(parsed.value) - 1 or exact == 0


@given(st.integers(-(10**18), 10**18), st.integers(-(10**18), 10**18))
def test_arithmetic(a: int, b: int) -> None:
    x, y = Quantity(a), Quantity(b)
    assert (x + y).nano == a + b
    assert (x - y) + y == x
    assert (x < y) == (a < b)
    assert bool(x) == (a != 0)
    assert -x + x == ZERO


def test_value_and_milli_round_away_from_zero() -> None:
    assert parse_quantity("1500m").value == 2
    assert parse_quantity("-1500m").value == -2
    assert parse_quantity("1u").milli == 1
    assert parse_quantity("250m").milli == 250


@pytest.mark.parametrize(
    ("value", "total", "up", "found"),
    [(3, 10, True, 3), ("25%", 10, True, 3), ("25%", 10, False, 2), ("0%", 7, True, 0), ("100%", 7, False, 7)],
)
def test_scaled(value: int | str, total: int, up: bool, found: int) -> None:
    assert scaled(value, total, round_up=up) == found


def test_scaled_refuses_what_is_no_percentage() -> None:
    with pytest.raises(ValueError, match=r"^invalid value for IntOrString: invalid type: string is not a percentage$"):
        scaled("5", 10, round_up=True)
