"""The language of cohorts."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.facts import DeviceFacts
from controller.fleet.core.query import CohortQuery, Term, check_keys, label_key, label_value, matches, parse
from shared.errors import InvalidInputError, PermanentError
from shared.hardware import DeviceHardware, Runtime
from shared.ids import DeviceId, SiteId

HARDWARE = DeviceHardware(
    architecture="aarch64", memory_bytes=1, cores=1, runtime=Runtime.AI_EDGE_LITERT, runtime_version="2"
)
DEVICE = DeviceFacts(
    device_id=DeviceId("cam-1"), site=SiteId("north"), labels={"line": "a"}, hardware=HARDWARE, last_seen_at=None
)
UNENROLLED = DeviceFacts(device_id=DeviceId("cam-2"), site=SiteId("south"), labels={}, hardware=None, last_seen_at=None)


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("all", True, True),
        (" all ", True, True),
        ("device=cam-1", True, False),
        ("device!=cam-1", False, True),
        ("site=north", True, False),
        ("arch=aarch64", True, False),
        ("arch!=aarch64", False, True),
        ("line=a", True, False),
        ("line!=a", False, True),
        ("line!=b", True, True),
        ("line=a,site=south", False, False),
        (" line = a , site != south ", True, False),
    ],
)
def test_query_matches_whom_it_names(text: str, first: bool, second: bool) -> None:
    query = parse(text)
    assert (matches(query, DEVICE), matches(query, UNENROLLED)) == (first, second)


@pytest.mark.parametrize(
    "text",
    ["", " ", "line", "line=", "=a", "line==a", "line=a,", "line=a;b", "line>a", "all,line=a", "line=a b", "a=b=c"],
)
def test_query_that_cannot_be_read_is_refused_with_the_way_it_is_written(text: str) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        parse(text)
    assert refusal.value.remedy


def test_query_of_too_many_terms_is_refused() -> None:
    assert len(parse(",".join(["line=a"] * 16)).terms) == 16
    with pytest.raises(InvalidInputError, match="17 terms"):
        parse(",".join(["line=a"] * 17))


def test_key_that_no_device_has_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInputError, match=r"no device has a label 'lien'.*device, site, arch, floor, line"):
        check_keys(parse("lien!=a"), {"line", "floor"})
    check_keys(parse("line=a,site=x,device!=y,arch=z"), {"line"})


@pytest.mark.parametrize("key", ["device", "site", "arch", "all", "Line", "a b", "", "a" * 64])
def test_label_key_that_no_query_could_mean_is_refused(key: str) -> None:
    with pytest.raises(PermanentError):
        label_key(key)


@pytest.mark.parametrize("value", ["", "a b", "a,b", "a=b", "-a", "ä", "a" * 64])
def test_label_value_that_no_query_could_name_is_refused(value: str) -> None:
    with pytest.raises(InvalidInputError, match=r"labels\.x"):
        label_value(value, field="labels.x")


keys = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True).filter(lambda key: key != "all")
values = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,5}[A-Za-z0-9])?", fullmatch=True)
terms = st.builds(lambda key, value, negated: Term(key=key, value=value, negated=negated), keys, values, st.booleans())


@given(st.lists(terms, min_size=1, max_size=5))
def test_query_written_and_parsed_is_the_same(wanted: list[Term]) -> None:
    text = ",".join(f"{term.key}{'!' if term.negated else ''}={term.value}" for term in wanted)
    assert parse(text) == CohortQuery(terms=tuple(wanted))


@given(st.text(max_size=40))
def test_query_of_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidInputError):
        assert parse(text).terms or text.strip() == "all"
