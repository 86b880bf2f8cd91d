"""Where the controller is and who we are: read from options or environment, never from an argument that `ps` shows."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from controller.cli.output import fail
from controller.client import ApiError, Client
from shared.errors import LitefleetError, NotFoundError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_TIMEOUT = 3
EXIT_UNREACHABLE = 4
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells count."""

_UNAUTHENTICATED = 401
_WHERE = "it is operator-token in the controller's state folder; see --token-file, LITEFLEET_TOKEN_FILE"


class Session:
    """Address and token of one controller, taken from the command line's context."""

    def __init__(self, *, url: str, token_file: Path) -> None:
        self.url = url
        self.token_file = token_file

    def run(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """Do `work` with a client and return its result; an error ends the program with a message and an exit code."""
        if not self.url.startswith(("http://", "https://")):
            fail(f"--url {self.url!r} is no http:// or https:// address", code=EXIT_USAGE)
        try:
            return asyncio.run(self._run(work))
        except UnreachableError as exc:
            fail(str(exc), remedy="is it running? see --url, LITEFLEET_URL", code=EXIT_UNREACHABLE)
        except ApiError as exc:
            remedy = f"{self.token_file} is not this controller's token: {_WHERE}"
            fail(str(exc), reason=exc.reason, remedy=remedy if exc.http_status == _UNAUTHENTICATED else "")
        except NotFoundError as exc:
            fail(str(exc), reason=exc.reason, remedy=f"see litefleet {exc.kind} ls")
        except LitefleetError as exc:
            fail(str(exc), reason=exc.reason)
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None

    async def _run(self, work: Callable[[Client], Awaitable[T]]) -> T:
        async with Client(self.url, self.token()) as client:
            return await work(client)

    def token(self) -> str:
        """Return the operator's token; ends the program where there is none."""
        try:
            token = self.token_file.read_text(encoding="ascii").strip()
        except OSError as exc:
            fail(f"cannot read the operator token {self.token_file}: {exc.strerror}", remedy=_WHERE, code=EXIT_USAGE)
        except UnicodeDecodeError:
            fail(f"{self.token_file} holds no operator token", remedy=_WHERE, code=EXIT_USAGE)
        if not token.isprintable() or not token:
            fail(f"{self.token_file} holds no operator token", remedy=_WHERE, code=EXIT_USAGE)
        return token


def session(context: typer.Context) -> Session:
    """Return the session that the root command made."""
    found = context.find_object(Session)
    if found is None:  # the root callback always runs first
        raise typer.Exit(EXIT_USAGE)
    return found
