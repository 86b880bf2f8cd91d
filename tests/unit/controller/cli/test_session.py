from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import typer

from controller.cli.session import EXIT_USAGE, Session
from controller.client import ApiError
from shared.errors import NotFoundError, RetryableError, UnreachableError

if TYPE_CHECKING:
    from pathlib import Path

    from controller.client import Client


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "operator-token"
    path.write_text("a-token\n")
    return path


async def _answer(_api: Client) -> int:
    return 42


def _ending(session: Session, error: Exception | None = None) -> int:
    async def work(_api: Client) -> None:
        if error is not None:
            raise error

    with pytest.raises(typer.Exit) as ending:
        session.run(work)
    return ending.value.exit_code


def test_work_done_returns_its_result(token_file: Path) -> None:
    assert Session(url="http://127.0.0.1:1", token_file=token_file).run(_answer) == 42


def _refusal(http_status: int, reason: str) -> ApiError:
    return ApiError(http_status=http_status, title="Refused", detail="not so", reason=reason)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UnreachableError("no answer"), 4, "is it running?"),
        (_refusal(409, "conflict"), 1, "error: not so (conflict)"),
        (_refusal(401, "unauthenticated"), 1, "is not this controller's token"),
        (NotFoundError(kind="release", name="x"), 1, "see litefleet release ls"),
        (RetryableError("busy"), 1, "error: busy (retryable)"),
    ],
)
def test_error_ends_the_program_with_code_and_remedy(
    token_file: Path, capsys: pytest.CaptureFixture[str], error: Exception, code: int, said: str
) -> None:
    assert _ending(Session(url="http://127.0.0.1:1", token_file=token_file), error) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err


def test_interrupt_ends_as_shells_expect(token_file: Path) -> None:
    async def work(_api: Client) -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as ending:
        Session(url="http://127.0.0.1:1", token_file=token_file).run(work)
    assert ending.value.exit_code == 130


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", "gehéim".encode()])
def test_token_file_that_holds_none_is_wrong_usage(
    token_file: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    token_file.write_bytes(content)
    assert _ending(Session(url="http://127.0.0.1:1", token_file=token_file)) == EXIT_USAGE
    assert "holds no operator token" in capsys.readouterr().err


def test_address_that_is_none_is_wrong_usage(token_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _ending(Session(url="controller:8470", token_file=token_file)) == EXIT_USAGE
    assert "is no http:// or https:// address" in capsys.readouterr().err
