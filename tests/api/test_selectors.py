"""Label and field selectors: grammar, matching, canonical text, upstream's errors."""

# ruff: noqa: E501 (tables)
from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinnace.api import fieldselectors as fields
from pinnace.api.labels import (
    EVERYTHING,
    NOTHING,
    Requirement,
    Selector,
    format_selector,
    from_map,
    parse_selector,
    selector_of,
)
from pinnace.api.meta import v1 as meta

WEB = {"app": "web", "tier": "front", "gen": "5", "empty": ""}


@pytest.mark.parametrize(
    ("text", "canonical", "matches"),
    [
        ("", "", True),
        ("app=web", "app=web", True),
        ("app == web", "app==web", True),
        ("app!=web", "app!=web", False),
        ("missing!=x", "missing!=x", True),
        ("app in (web, api)", "app in (api,web)", True),
        ("app notin (web)", "app notin (web)", False),
        ("missing notin (a)", "missing notin (a)", True),
        ("app", "app", True),
        ("!app", "!app", False),
        ("! missing", "!missing", True),
        ("gen>4", "gen>4", True),
        ("gen<5", "gen<5", False),
        ("app>1", "app>1", False),
        ("tier=front,app=web", "app=web,tier=front", True),
        ("empty=", "empty=", True),
        ("app=,tier", "app=,tier", False),
        ("app in (web,)", "app in (,web)", True),
        ("empty in (,)", "empty in ()", True),
        ("in in (in)", "in in (in)", False),
        ("notin=in", "notin=in", False),
        ("example.com/app!=x", "example.com/app!=x", True),
        ("  app   =  web  ", "app=web", True),
    ],
)
def test_text(text: str, canonical: str, matches: bool) -> None:
    selector = parse_selector(text)
    assert str(selector) == canonical
    assert selector.matches(WEB) is matches


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("app in web", "unable to parse requirement: found 'web' expected: '('"),
        ("app in (web", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("app in (=)", "unable to parse requirement: found '=', expected: ',', ')' or identifier"),
        ("a,,b", "found ',', expected: identifier after ','"),
        ("a,", "found '', expected: identifier after ','"),
        (",a", "found ',', expected: !, identifier, or 'end of string'"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("!a=b", "found '=', expected: ',' or 'end of string'"),
        ("a=b=c", "found '=', expected: ',' or 'end of string'"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("a>x", "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer"),
        ("a in ()", "unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"),
    ],
)  # fmt: skip
def test_errors(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(error)}$"):
        parse_selector(text)


def test_bad_keys_and_values_are_explained() -> None:
    with pytest.raises(ValueError, match=r'^unable to parse requirement: <nil>: Invalid value: "-a": name part must'):
        parse_selector("-a")
    with pytest.raises(ValueError, match=r'values\[0\]\[a\]: Invalid value: "-": a valid label must be an empty'):
        parse_selector("a=-")


def test_objects() -> None:
    requirement = meta.LabelSelectorRequirement
    selector = selector_of(
        meta.LabelSelector(
            matchLabels={"tier": "front"}, matchExpressions=[requirement(key="app", operator="In", values=["web", "b"])]
        )
    )
    assert str(selector) == "app in (b,web),tier=front"
    assert selector.matches(WEB)
    assert not selector.matches({"app": "web"})
    assert not selector.matches(None)
    assert selector_of(None) is NOTHING
    assert selector_of(meta.LabelSelector()) == EVERYTHING
    assert not NOTHING.matches(WEB)
    assert EVERYTHING.matches(None)
    assert from_map({"app": "web"}).matches(WEB)
    assert format_selector(None) == "<none>"
    with pytest.raises(ValueError, match='"Has" is not a valid label selector operator'):
        selector_of(meta.LabelSelector(matchExpressions=[requirement(key="a", operator="Has")]))


words = st.from_regex(r"[a-z0-9]([a-z0-9]{0,3}[a-z0-9])?", fullmatch=True)
requirements = st.one_of(
    st.builds(lambda k, o: Requirement(k, o), words, st.sampled_from(["exists", "!"])),
    st.builds(lambda k, o, v: Requirement(k, o, (v,)), words, st.sampled_from(["=", "==", "!="]), words),
    st.builds(lambda k, o, v: Requirement(k, o, (str(v),)), words, st.sampled_from([">", "<"]), st.integers(0, 99)),
    st.builds(
        lambda k, o, v: Requirement(k, o, tuple(sorted(v))), words, st.sampled_from(["in", "notin"]),
        st.sets(words, min_size=1, max_size=3),
    ),
)  # fmt: skip


@given(st.lists(requirements, max_size=4), st.dictionaries(words, words, max_size=4))
def test_text_and_selector_are_one(found: list[Requirement], labels: dict[str, str]) -> None:
    selector = Selector(tuple(sorted(found, key=lambda r: r.key)))
    again = parse_selector(str(selector))
    assert again == selector
    assert again.matches(labels) == all(r.matches(labels) for r in found)


@given(st.text(max_size=30))
def test_no_text_breaks_the_parsers(text: str) -> None:
    for parse in (parse_selector, fields.parse_field_selector):
        try:
            parse(text)
        except ValueError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("text", "canonical", "matches"),
    [
        ("", "", True),
        ("metadata.name=web", "metadata.name=web", True),
        ("metadata.name==web,spec.nodeName!=n1", "metadata.name=web,spec.nodeName!=n1", True),
        ("spec.nodeName=", "spec.nodeName=", True),
        (r"metadata.name=a\,b\=c\\", r"metadata.name=a\,b\=c\\", False),
        (",metadata.name=web,", "metadata.name=web", True),
    ],
)
def test_field_selectors(text: str, canonical: str, matches: bool) -> None:
    selector = fields.parse_field_selector(text)
    assert str(selector) == canonical
    assert selector.matches({"metadata.name": "web"}) is matches


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("metadata.name", "invalid selector: 'metadata.name'; can't understand 'metadata.name'"),
        (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
        ("a=b=c", "invalid field selector: unescaped character in value: 61"),
    ],
)
def test_field_selector_errors(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(error)}$"):
        fields.parse_field_selector(text)


@given(st.text(max_size=20))
def test_escaping_is_undone(value: str) -> None:
    assert fields.unescape(fields.escape(value)) == value
    assert fields.parse_field_selector(f"a={fields.escape(value)}").exact("a") == value
