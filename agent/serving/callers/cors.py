"""Which pages in a browser may call the inference API. Imports no aiohttp: the settings are checked with it.

A browser sends what it likes and keeps the answer from the page. So a request that names an origin which may not call
is refused before it does anything. Keys travel in a header that the page sets itself, so that a browser's own
credentials (cookies) are never asked for.
Source: https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

ANY: Final = "*"

_MAX_AGE_S: Final = "600"
"""How long a browser may go by what a preflight said: the shortest cap that browsers have of their own."""

_SENT: Final = (
    "Authorization, Content-Type, Inference-Header-Content-Length, Litefleet-Key, Litefleet-Timeout-Ms, X-Request-Id"
)
_SHOWN: Final = (
    "Inference-Header-Content-Length, Litefleet-Reply-Id, Litefleet-Unverified, Litefleet-Variant, Retry-After"
)


def check_origins(origins: Sequence[str], *, field: str) -> None:
    """Refuse what no browser would ever send as an origin. Raises InvalidInputError."""
    if ANY in origins and len(origins) > 1:
        raise InvalidInputError(field=field, problem="* means any origin, and stands alone")
    for origin in origins:
        if origin != ANY and (not origin or origin != _origin_in(origin)):
            remedy = "write scheme, host and port alone, in lower case: https://shop.example or http://127.0.0.1:5173"
            raise InvalidInputError(field=field, problem=f"{origin!r} is no origin", remedy=remedy)


def _is_of_this_machine(host: str) -> bool:
    """Whether nobody but this machine can mean itself by a host.

    Without TLS, a page can have its own name lead here (DNS rebinding), and then calls itself the server's own.
    """
    name = ""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost"
    return True


@functools.lru_cache(maxsize=64)
def _public_name(host: str) -> str:
    """Return the name by which a host is called, where anybody may own it: one with a dot. Empty for all others."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return host
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return ""
    return "" if "." not in name or name.endswith(".localhost") else name


def _origin_in(url: str) -> str:
    """Return the origin of a URL as browsers write it; empty for none."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    is_default = port in {None, 443 if parts.scheme == "https" else 80}
    return f"{parts.scheme}://{host}" + ("" if is_default else f":{port}")


class Origins:
    """The origins that may call."""

    def __init__(self, origins: Collection[str] = ()) -> None:
        """Take them as the setting has them, checked."""
        self._listed = frozenset(origins)
        self._hosts = {urlsplit(origin).hostname for origin in self._listed}

    def refuses(self, origin: str, *, scheme: str, host: str) -> bool:
        """Whether a page of this origin may not call the server that it calls `host`.

        The server's own pages may. `null` is what a browser says of a page that it will not name: a sandbox, a file.
        """
        if ANY in self._listed or origin in self._listed:
            return False
        return origin != f"{scheme}://{host}" or not (scheme == "https" or _is_of_this_machine(host))

    def is_led_here(self, host: str) -> bool:
        """Whether this may be a page that had its own name lead here (DNS rebinding), by what it calls the server.

        It asks its own origin, so that its browser sends none. Names of listed origins are those of a proxy before us.
        """
        name = _public_name(host)
        return name != "" and name not in self._hosts and ANY not in self._listed

    def headers(self, origin: str) -> dict[str, str]:
        """Return what lets the page read an answer; nothing for an origin that is not listed."""
        if ANY in self._listed:
            return {"Access-Control-Allow-Origin": ANY, "Access-Control-Expose-Headers": _SHOWN}
        if not self._listed:
            return {}
        # Said to everybody, or a cache between would give one caller's answer to another.
        vary = {"Vary": "Origin"}
        if origin not in self._listed:
            return vary
        return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": _SHOWN, **vary}

    def preflight(self, origin: str) -> dict[str, str]:
        """Return the answer to a browser's question whether it may ask."""
        asked = {
            "Access-Control-Allow-Headers": _SENT,
            "Access-Control-Max-Age": _MAX_AGE_S,
            # A page from the internet that asks a private address is held up without it.
            "Access-Control-Allow-Private-Network": "true",
        }
        return {**self.headers(origin), "Access-Control-Allow-Methods": "GET, POST", **asked}
