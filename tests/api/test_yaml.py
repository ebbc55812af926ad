"""YAML with Kubernetes' scalar rules, its bounds, and the way kubectl prints it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st

from pinnace.api import yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e3", 1000), ("1.5", 1.5), ("12:30:45", "12:30:45"), ("2020-01-02", "2020-01-02"), (".5", 0.5),
        ("2020-01-02T03:04:05Z", "2020-01-02T03:04:05Z"), ("yes", True), ("on", True), ("off", False), ("No", False),
        ("y", "y"), ("n", "n"), ("true", True), ("'yes'", "yes"), ('"1"', "1"), ("~", None), ("null", None),
        ("0777", 511), ("0o17", 15), ("0x1F", 31), ("0b11", 3), ("1_000", 1000), ("09", 9), ("-5", -5), ("+5", 5),
        ("1.2.3", "1.2.3"), ("1Gi", "1Gi"), ("-", "-"), ("1e400", "1e400"), ("18446744073709551615", 2**64 - 1),
    ],
)  # fmt: skip
def test_scalars(text: str, value: Any) -> None:
    found = yaml.load(f"a: {text}\n" if text != "-" else 'a: "-"\n')["a"]
    assert found == value
    assert type(found) is type(value)


def test_keys_documents_and_merges() -> None:
    assert yaml.load("1: a\ntrue: b\n~: c\n") == {"1": "a", "true": "b", "null": "c"}
    assert yaml.load("") is None
    assert list(yaml.load_all("a: 1\n---\n---\nb: 2\n")) == [{"a": 1}, {"b": 2}]
    assert yaml.load("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\n")["y"] == {"a": 1, "b": 3}
    assert yaml.load(b'{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    with pytest.raises(ValueError, match="single document"):
        yaml.load("a: 1\n---\nb: 1\n")
    with pytest.raises(ValueError, match='line 2: key "a" already set in map'):
        yaml.load("a: 1\na: 2\n")


@pytest.mark.parametrize("text", ["a: [", "\ta: 1", "a: b: c", "? [a]\n: 1", "a: !!binary aGk=", "a: .inf", "*x"])
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"yaml|json"):
        yaml.load(text)


def test_bombs_are_refused() -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    laughs += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
    with pytest.raises(ValueError, match="excessive aliasing"):
        yaml.load(laughs)
    for deep in ("[" * 5000, "&a [*a]", "\n".join(f"{' ' * i}a:" for i in range(200)) + " 1"):
        with pytest.raises(ValueError, match="yaml"):
            yaml.load(deep)


def test_printed_as_kubectl_prints() -> None:
    value = {
        "spec": {"args": ["-c", "sleep 1"], "on": "yes", "n": 1, "f": 0.5, "empty": {}, "none": None, "list": []},
        "apiVersion": "v1", "time": "2020-01-01T00:00:00Z", "script": "one\ntwo\n", "port": "80", "text": "a: b",
    }  # fmt: skip
    assert yaml.dump(value) == (
        'apiVersion: v1\nport: "80"\nscript: |\n  one\n  two\nspec:\n  args:\n  - -c\n  - sleep 1\n  empty: {}\n'
        '  f: 0.5\n  list: []\n  "n": 1\n  none: null\n  "on": "yes"\ntext: \'a: b\'\ntime: "2020-01-01T00:00:00Z"\n'
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_what_is_printed_is_read_again(value: Any) -> None:
    assert yaml.load(yaml.dump(value)) == value


@given(st.from_regex(r"[-+0-9.:eExoT_yYnN~]{1,12}", fullmatch=True))
def test_other_readers_see_the_string_too(text: str) -> None:
    assert yaml.load(yaml.dump({"a": text})) == {"a": text}
    assert pyyaml.safe_load(yaml.dump({"a": text})) == {"a": text}


@given(st.text(max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        yaml.load(text)
    except ValueError as error:
        assert str(error)
