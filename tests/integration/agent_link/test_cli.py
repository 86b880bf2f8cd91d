"""The device's command line as a process."""

from __future__ import annotations

import asyncio
import sys
import tomllib
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.config import load
from agent.link.enrol import Invite
from agent.link.identity import load_identity
from shared.clock import SystemClock
from shared.ids import DeviceId
from tests.support.device_api import DeviceServer
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TOKEN = "very-secret-token"
END_S = 60.0


async def agent_command(*arguments: str | Path) -> tuple[int, str, str]:
    """Run `litefleet-agent` with arguments, and return exit code, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.cli", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(END_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[DeviceServer]:
    async with DeviceServer(tmp_path) as running:
        running.tokens[TOKEN] = DeviceId("dev-9")
        yield running


def write_invite(server: DeviceServer, path: Path, url: str | None = None) -> Path:
    invite = Invite(
        device_id=DeviceId("dev-9"),
        token=TOKEN,
        expires_at=SystemClock().now(),
        controller_url=url or server.url,
        ca_pem=server.authority.pem,
    )
    path.write_bytes(msgspec.json.encode(invite))
    return path


async def test_enrol_command_makes_a_device_with_settings_to_begin_with(server: DeviceServer, tmp_path: Path) -> None:
    invite, state = write_invite(server, tmp_path / "invite.json"), tmp_path / 'state "of" it'
    code, out, err = await agent_command("enrol", "--invite", invite, "--state", state)
    assert (code, err) == (0, "")
    assert load_identity(state).device_id == "dev-9"
    assert load(state / "agent.toml", {}).state_dir == state
    assert f"litefleet-agent run --config {state}/agent.toml" in out
    assert TOKEN not in out
    code, out, _ = await agent_command("status", "--state", state, "-o", "json")
    assert (code, msgspec.json.decode(out)["device_id"]) == (0, "dev-9")


async def test_enrol_command_keeps_settings_that_are_there(server: DeviceServer, tmp_path: Path) -> None:
    invite, state = write_invite(server, tmp_path / "invite.json"), tmp_path / "state"
    state.mkdir()
    (state / "agent.toml").write_text('state_dir = "/mine"\n')
    code, _, _ = await agent_command("enrol", "--invite", invite, "--state", state)
    assert code == 0
    assert tomllib.loads((state / "agent.toml").read_text()) == {"state_dir": "/mine"}


async def test_enrol_command_without_a_controller_says_to_try_again(server: DeviceServer, tmp_path: Path) -> None:
    invite = write_invite(server, tmp_path / "invite.json", f"https://localhost:{free_port()}")
    code, out, err = await agent_command("enrol", "--invite", invite, "--state", tmp_path / "state")
    assert (code, out) == (75, "")
    assert "try again" in err
    assert "Traceback" not in err
    assert TOKEN not in err


async def test_enrol_command_with_a_spent_token_says_what_to_do(server: DeviceServer, tmp_path: Path) -> None:
    server.tokens.clear()
    invite = write_invite(server, tmp_path / "invite.json")
    code, _, err = await agent_command("enrol", "--invite", invite, "--state", tmp_path / "state")
    assert code == 1
    assert "ask the operator for a new invite" in err
    assert TOKEN not in err


async def test_version_is_told() -> None:
    code, out, _ = await agent_command("--version")
    assert code == 0
    assert out.startswith("litefleet-agent 0.")


async def test_control_side_modules_load_no_numpy_and_no_pydantic() -> None:
    modules = (
        "agent.link.enrol, agent.link.hardware, agent.link.https, agent.link.mqtt, agent.link.outbox, "
        "agent.delivery.download, agent.delivery.repository, agent.delivery.slots, agent.status"
    )
    heavy = "{'numpy', 'pydantic', 'tuf', 'urllib3', 'ai_edge_litert', 'PIL'}"
    script = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(END_S):
        out, _ = await process.communicate()
    assert out.decode().strip() == "[]"
