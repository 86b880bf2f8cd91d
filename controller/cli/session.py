"""Where the controller is and who we are: read from options or environment, never from an argument that `ps` shows."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from controller.cli.output import fail
from controller.client import ApiError, Client
from shared.errors import LitefleetError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_TIMEOUT = 3
EXIT_UNREACHABLE = 4


class Session:
    """Address and token of one controller, taken from the command line's context."""

    def __init__(self, *, url: str, token_file: Path) -> None:
        self.url = url
        self.token_file = token_file

    def run(self, work: Callable[[Client], Awaitable[T]]) -> T:
        """Do `work` with a client and return its result; an error ends the program with a message and an exit code."""
        try:
            return asyncio.run(self._run(work))
        except UnreachableError as exc:
            fail(str(exc), remedy="is it running? see --url, LITEFLEET_URL", code=EXIT_UNREACHABLE)
        except ApiError as exc:
            fail(str(exc), reason=exc.reason, code=EXIT_FAILED)
        except LitefleetError as exc:
            fail(str(exc), reason=exc.reason, code=EXIT_FAILED)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None

    async def _run(self, work: Callable[[Client], Awaitable[T]]) -> T:
        async with Client(self.url, self._token()) as client:
            return await work(client)

    def _token(self) -> str:
        try:
            return self.token_file.read_text(encoding="ascii").strip()
        except OSError as exc:
            fail(
                f"cannot read the operator token {self.token_file}: {exc.strerror}",
                remedy="it stands in the controller's state folder as operator-token; see --token-file, "
                "LITEFLEET_TOKEN_FILE",
                code=EXIT_USAGE,
            )


def session(context: typer.Context) -> Session:
    """Return the session that the root command made."""
    found = context.find_object(Session)
    if found is None:  # the root callback always runs first
        raise typer.Exit(EXIT_USAGE)
    return found
