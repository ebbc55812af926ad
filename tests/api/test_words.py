"""Names, times and JSONPath."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinnace.api import names, paths, times


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (names.dns_label, ["a", "a-b", "1a", "a" * 63], ["", "A", "-a", "a-", "a.b", "a\n", "a" * 64]),
        (names.dns_subdomain, ["a", "a.b-c", "1.2", "a" * 253], ["", "a..b", ".a", "a_b", "a" * 254]),
        (names.dns1035_label, ["a", "a1"], ["1a", "", "a-"]),
        (names.wildcard_subdomain, ["*.example.com"], ["*", "example.com", "*.*.com"]),
        (names.qualified_name, ["a", "A.b_c", "example.com/Name"], ["", "/a", "a/", "a/b/c", "A/b", "-a", "a" * 64]),
        (names.label_value, ["", "a", "A_b.c"], ["-", "a b", "é", "a" * 64]),
        (names.c_identifier, ["_a", "A1"], ["1a", "a-b", ""]),
        (names.env_name, ["a", "A-B.c", "1 x"], ["", "a=b", "é"]),
        (names.strict_env_name, ["a", "A_B"], ["1a", "..a", "", "."]),
        (names.config_key, ["a.b", "_"], ["", ".", "..", "..a", "a/b"]),
        (names.http_header, ["X-Y"], ["", "X Y"]),
        (names.percent, ["10%"], ["10", "%", "-1%"]),
        (names.port_name, ["http", "a1"], ["", "1", "a--b", "-a", "A", "a" * 16]),
        (names.path_segment, ["system:a", "a b"], [".", "..", "a/b", "a%b"]),
        (names.domain, ["a.b", "a.b."], ["", "a", "A.b"]),
        (names.ip, ["10.0.0.1", "::1"], ["", "1.2.3", "010.0.0.1", "fe80::1%eth0"]),
        (names.cidr, ["10.0.0.0/8", "::/0", "10.0.0.1/8"], ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/255.0.0.0"]),
    ],
)
def test_names(check: Callable[[str], list[str]], good: list[str], bad: list[str]) -> None:
    assert [name for name in good if check(name)] == []
    assert [name for name in bad if not check(name)] == []


def test_upstreams_sentences() -> None:
    assert names.dns_label("A") == [
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
        "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
        "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
    ]
    assert names.qualified_name("") == [
        "name part must be non-empty",
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
        "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
        "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
    ]
    assert names.dns_label("a" * 64) == ["must be no more than 63 bytes"]
    assert names.port_number(0) == ["must be between 1 and 65535, inclusive"]


@given(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))
def test_times_survive(moment: datetime) -> None:
    assert times.parse(times.format_micro(moment)) == moment
    assert times.parse(times.format(moment)) == moment.replace(microsecond=0)


def test_time_forms() -> None:
    noon = datetime(2024, 2, 29, 12, 0, 0, tzinfo=UTC)
    for text in ("2024-02-29T12:00:00Z", "2024-02-29T13:00:00+01:00", "2024-02-29T12:00:00.000000000Z"):
        assert times.parse(text) == noon
    for text in ("", "2024-02-29T12:00:00", "yesterday"):
        with pytest.raises(ValueError):
            times.parse(text)


@pytest.mark.parametrize(
    ("text", "seconds", "printed"),
    [("1h", 3600, "1h0m0s"), ("90s", 90, "1m30s"), ("1.5s", 1.5, "1.5s"), ("20ms", 0.02, "20ms"), ("0", 0, "0s"),
     ("-1m", -60, "-1m0s"), ("1h2m3.5s", 3723.5, "1h2m3.5s"), ("10us", 1e-5, "10µs")],
)  # fmt: skip
def test_durations(text: str, seconds: float, printed: str) -> None:
    assert times.parse_duration(text) == pytest.approx(seconds)
    assert times.format_duration(seconds) == printed


def test_bad_durations_and_ages() -> None:
    for text in ("", "1", "h", "1x", "1h 2m", "--1s"):
        with pytest.raises(ValueError, match="time: invalid duration"):
            times.parse_duration(text)
    ages = {5: "5s", 125: "2m5s", 3600: "60m", 7 * 3600: "7h", 2 * 86400: "2d", 10 * 86400: "10d"}
    assert {s: times.human_duration(timedelta(seconds=s)) for s in ages} == ages


PODS = {
    "kind": "List",
    "items": [
        {"metadata": {"name": "a", "labels": {"a.b/c": "x"}}, "status": {"p": 1, "ready": True}},
        {"metadata": {"name": "b"}, "status": {"p": 2, "ready": False}},
    ],
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{.items[*].metadata.name}", "a b"),
        ("{.items[0].metadata}", '{"name":"a","labels":{"a.b/c":"x"}}'),
        ("{range .items[*]}{.metadata.name}{'\\t'}{.status.p}{\"\\n\"}{end}", "a\t1\nb\t2\n"),
        ("{range .items[*]}[{.metadata.name}, {$.kind}] {end}", "[a, List] [b, List] "),
        ("{.items[-1].metadata.name}", "b"),
        ("{.items[0:1].metadata.name}", "a"),
        ("{.items[-1:].metadata.name}", "b"),
        ("{.items[::2].metadata.name}", "a"),
        ("{.items[0,1].metadata.name}", "a b"),
        ("{..name}", "a b"),
        ("{.items[?(@.status.p==2)].metadata.name}", "b"),
        ("{.items[?(@.status.p>1)].metadata.name}", "b"),
        ('{.items[?(@.metadata.name=="a")].status.p}', "1"),
        ("{.items[?(@.metadata.labels)].metadata.name}", "a"),
        ("{.items[?(@.status.ready==true)].metadata.name}", "a"),
        (r"{.items[0].metadata.labels.a\.b/c}", "x"),
        (r"{.items[0].metadata.labels['a\.b/c']}", "x"),
        ("{.items[*]['metadata.name', 'status.p']}", "a 1 b 2"),
        ("{.items[*].status.*}", "1 true 2 false"),
        ("name: {.kind}!", "name: List!"),
        ("{@.kind}{.missing.deep}", "List"),
        ("{range .items[*]}{range .status}{.p};{end}{end}", "1;2;"),
    ],
)
def test_jsonpath(template: str, text: str) -> None:
    assert paths.parse(template).render(PODS) == text


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{.items[5]}", "array index out of bounds: index 5, length 2"),
        ("{range .items[*]}", "unclosed range, expected end"),
        ("{end}", "not in range, nothing to end"),
        ("{.items", "unclosed action"),
        ("{.items[}", "invalid array index"),
        ("{.items[?(@.a]}", "unterminated filter"),
    ],
)
def test_jsonpath_errors(template: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        paths.parse(template).render(PODS)


def test_jsonpath_may_insist_on_names() -> None:
    with pytest.raises(ValueError, match="missing is not found"):
        paths.parse("{.missing}", missing_ok=False).render(PODS)
    for expression in (".kind", "kind", "{.kind}"):
        assert paths.find(expression, PODS) == ["List"]


@given(st.text("{}[].*?()@$'\"=<>!,:-01ab range end", max_size=25))
def test_no_template_breaks_the_parser(template: str) -> None:
    document: Any = PODS
    try:
        paths.parse(template).render(document)
    except ValueError as error:
        assert str(error)
