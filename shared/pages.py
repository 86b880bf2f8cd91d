"""Pages for people, out of files on disk: which names there are, what they are, and what a page may do.

Whoever serves them reads a file when it is asked for, so that nobody holds megabytes of scripts in memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KINDS: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
}
"""By suffix; not from the operating system, of which some call a module plain text, and browsers then refuse it."""

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")
"""One part of a path, without a way up: what a caller names is never more than that."""
_BUILT: Final = "built"
_COMMON: Final = Path(__file__).parent / "web"
"""What the pages of all servers are made with."""


def page_headers(*, wasm: bool = False) -> dict[str, str]:
    """Return the headers of a page and its files: scripts and styles from here alone, and none inside the page.

    `wasm` lets scripts compile WebAssembly, which counts as making code.
    """
    scripts = "'self' 'wasm-unsafe-eval'" if wasm else "'self'"
    policy = (
        "default-src 'none'",
        f"script-src {scripts}",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        # A new version of the program brings new files under the same names.
        "Cache-Control": "no-cache",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFiles:
    """The files of one server's pages: its own, those of all, and in `built` what `make web` lays out from packages."""

    folder: Path

    def find(self, name: str) -> Path | None:
        """Return the file that a caller names, or None where there is none for callers."""
        if _NAME.fullmatch(name) is None or Path(name).suffix not in KINDS:
            return None
        places = (self.folder / name, _COMMON / name, self.folder / _BUILT / name)
        return next((path for path in places if path.is_file()), None)


def kind_of(path: Path) -> str:
    """Return the media type of a file that `PageFiles` has found."""
    return KINDS[path.suffix]
