from __future__ import annotations

import pytest

from agent.serving.callers.cors import Origins, check_origins
from shared.errors import InvalidInputError

PAGE = "https://shop.example"


@pytest.mark.parametrize(
    "origin",
    [
        "shop.example",
        "https://shop.example/",
        "https://shop.example/path",
        "https://Shop.example",
        "https://shop.example:443",
        "https://user@shop.example",
        "ftp://shop.example",
        "https://",
        "null",
        "",
        "https://shop.example:port",
    ],
)
def test_origin_that_no_browser_sends_is_refused_with_a_remedy(origin: str) -> None:
    with pytest.raises(InvalidInputError, match="cors_origins"):
        check_origins([origin], field="cors_origins")


@pytest.mark.parametrize(
    "origin", [PAGE, "http://127.0.0.1:5173", "http://[::1]:8080", "https://shop.example:8443", "*"]
)
def test_origin_as_browsers_write_it_is_taken(origin: str) -> None:
    check_origins([origin], field="cors_origins")


def test_any_origin_stands_alone() -> None:
    with pytest.raises(InvalidInputError, match="stands alone"):
        check_origins(["*", PAGE], field="cors_origins")


@pytest.mark.parametrize("origins", [(), (PAGE,), ("*",)])
def test_no_answer_ever_allows_a_browsers_own_credentials(origins: tuple[str, ...]) -> None:
    known = Origins(origins)
    for origin in (PAGE, "https://evil.example", "null"):
        assert "Access-Control-Allow-Credentials" not in {**known.headers(origin), **known.preflight(origin)}


def test_any_origin_is_told_so_and_not_mirrored() -> None:
    assert Origins(("*",)).headers("https://evil.example")["Access-Control-Allow-Origin"] == "*"


def test_origin_that_is_not_listed_reads_nothing() -> None:
    assert Origins((PAGE,)).headers("https://evil.example") == {"Vary": "Origin"}
    assert Origins().headers(PAGE) == {}


@pytest.mark.parametrize(
    ("origin", "is_refused"),
    [(PAGE, False), ("http://127.0.0.1:8080", False), ("https://127.0.0.1:8080", True), ("null", True), ("", True)],
)
def test_pages_of_the_server_and_of_the_list_may_call(origin: str, *, is_refused: bool) -> None:
    assert Origins((PAGE,)).refuses(origin, scheme="http", host="127.0.0.1:8080") is is_refused


@pytest.mark.parametrize(
    ("scheme", "host", "is_refused"),
    [
        ("http", "127.0.0.1:8080", False),
        ("http", "[::1]:8080", False),
        ("http", "localhost:8080", False),
        ("http", "localhost", False),
        ("http", "evil.example:8080", True),
        ("http", "localhost.evil.example", True),
        ("http", "[bad", True),
        ("https", "door-7.lan:8080", False),
    ],
)
def test_attack_page_whose_name_leads_here_is_not_the_servers_own(scheme: str, host: str, *, is_refused: bool) -> None:
    assert Origins().refuses(f"{scheme}://{host}", scheme=scheme, host=host) is is_refused


@pytest.mark.parametrize(
    ("host", "origins", "is_led"),
    [
        ("127.0.0.1:8080", (), False),
        ("[::1]:8080", (), False),
        ("localhost:8080", (), False),
        ("lab.localhost", (), False),
        ("device", (), False),
        ("", (), False),
        ("evil.example:8080", (), True),
        ("evil.example.", (), True),
        ("localhost.evil.example", (), True),
        ("127.0.0.1.evil.example", (), True),
        ("user@evil.example", (), True),
        ("[bad", (), True),
        ("evil.example", (PAGE,), True),
        ("shop.example", (PAGE,), False),
        ("evil.example", ("*",), False),
    ],
)
def test_attack_name_that_was_made_to_lead_here_is_known(host: str, origins: tuple[str, ...], *, is_led: bool) -> None:
    assert Origins(origins).is_led_here(host) is is_led
