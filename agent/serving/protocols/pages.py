"""Pages for people: the API at `/`, pictures to a model at `/try`, and their files under `/web/`.

Nothing is loaded before it is asked for, and a file goes from the disk to the socket.
"""

from __future__ import annotations

import html
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web

from agent.serving.callers.access import known_to
from agent.serving.protocols.operations import HTML, OPERATIONS
from shared.errors import NotFoundError
from shared.pages import PageFiles, kind_of, page_headers

if TYPE_CHECKING:
    from collections.abc import Collection

    from agent.serving.engine import Engine

TITLE: Final = "litefleet inference"
FILES: Final = PageFiles(folder=Path(__file__).parent / "web")

_EXPLORER: Final = ("swagger-ui.css", "swagger-ui-bundle.js")
_SCRIPTS: Final = (
    '<link rel="stylesheet" href="/web/swagger-ui.css"><link rel="stylesheet" href="/web/explorer.css">'
    '<script defer src="/web/swagger-ui-bundle.js"></script><script defer src="/web/explorer.js"></script>'
)
_NOT_BUILT: Final = (
    '<p class="card">This installation was made without the explorer, which has a form for each operation. '
    "To build it: <code>make web</code> in a checkout of litefleet (it needs npm), and install from there.</p>"
)


def routes(engine: Engine, *, files: PageFiles = FILES) -> list[web.RouteDef]:
    """Return the endpoints; `/` names the models that `engine` routes at that moment."""

    async def index(request: web.Request) -> web.Response:
        built = all(files.find(name) for name in _EXPLORER)
        text = page(known_to(request, engine), with_explorer=built)
        return web.Response(text=text, content_type=HTML, headers=page_headers())

    async def try_page(_request: web.Request) -> web.StreamResponse:
        return _send(files, "try.html")

    async def file(request: web.Request) -> web.StreamResponse:
        return _send(files, request.match_info["file"])

    return [web.get("/", index), web.get("/try", try_page), web.get("/web/{file}", file)]


def page(models: Collection[str], *, with_explorer: bool) -> str:
    """Return the API as a page: with a form for each operation or, without the explorer and without scripts, a list."""
    served = "".join(f'<li><a href="/v2/models/{html.escape(name)}">{html.escape(name)}</a></li>' for name in models)
    table = _operations()
    listed = f"<noscript>{table}</noscript>" if with_explorer else _NOT_BUILT + table
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{TITLE}</title><link rel="icon" href="data:,"><link rel="stylesheet" href="/web/page.css">'
        f"{_SCRIPTS if with_explorer else ''}</head><body><header><h1>{TITLE}</h1>"
        '<nav><a href="/try">Try a picture</a><a href="/openapi.json">openapi.json</a></nav></header>'
        f"<main><h2>Models</h2><ul>{served or '<li>none yet</li>'}</ul>"
        f"{'<div class=explorer id=explorer></div>' if with_explorer else ''}{listed}</main></body></html>"
    )


def _operations() -> str:
    parts = []
    for tag, operations in itertools.groupby(OPERATIONS, key=lambda each: each.tag):
        rows = "".join(
            f"<tr><td>{each.method.upper()}<td><code>{html.escape(each.path)}</code><td>{html.escape(each.summary)}"
            for each in operations
        )
        parts.append(f'<h2>{tag}</h2><table class="operations">{rows}</table>')
    return "".join(parts)


def _send(files: PageFiles, name: str) -> web.FileResponse:
    path = files.find(name)
    if path is None:
        raise NotFoundError(kind="file", name=name[:80])
    return web.FileResponse(path, headers={**page_headers(), "Content-Type": kind_of(path)})
