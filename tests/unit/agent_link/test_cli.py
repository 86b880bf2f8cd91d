"""The device's command line, as far as it goes without a network."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agent.cli import EXIT_FAILED, EXIT_OK, main
from agent.core.plan import BootFile, Plan, Route, SlotSpec
from agent.link.identity import BrokerAddress, Identity, identity_files
from shared.ids import DeviceId, InstallationId, ModelName, ReleaseId, Sha256, SiteId
from tests.support.authority import Authority

if TYPE_CHECKING:
    from pathlib import Path

RELEASE = ReleaseId("0190a000-0000-7000-8000-00000000000a")
DIGEST = Sha256("0" * 64)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state folder of a device that serves one model and lacks another."""
    files = identity_files(tmp_path)
    files.folder.mkdir()
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    files.certificate.write_text(Authority().issue_device("dev-1", public))
    identity = Identity(
        device_id=DeviceId("dev-1"),
        site=SiteId("site-1"),
        installation_id=InstallationId("inst"),
        key_fingerprint=DIGEST,
        controller_url="https://controller:8471",
        broker=BrokerAddress(host="controller", port=8883, tls=True),
        tuf_root=b"{}",
    )
    files.document.write_bytes(msgspec.json.encode(identity))
    (tmp_path / "releases" / RELEASE).mkdir(parents=True)
    slot = SlotSpec(
        model=ModelName("digits"),
        release_id=RELEASE,
        version_number=3,
        folder="/x",
        artifact_sha256=DIGEST,
        manifest_sha256=DIGEST,
    )
    routes = (
        Route(model=ModelName("digits"), primary=RELEASE),
        Route(model=ModelName("doors"), primary=None, unavailable_reason="no_previous: too_slow"),
    )
    plan = Plan(serial=4, slots=(slot,), routes=routes)
    (tmp_path / "boot.json").write_bytes(msgspec.json.encode(BootFile(plan=plan, fallback=plan, tries_left=3)))
    return tmp_path


def test_status_as_json_tells_who_and_what(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--state", str(state), "-o", "json"]) == EXIT_OK
    told = json.loads(capsys.readouterr().out)
    assert (told["device_id"], told["site"], told["releases"]) == ("dev-1", "site-1", [RELEASE])
    assert [(model["model"], model["version_number"]) for model in told["models"]] == [("digits", 3), ("doors", None)]
    assert datetime.fromisoformat(told["certificate_expires_at"]) > datetime(2090, 1, 1, tzinfo=UTC)


def test_status_for_people_says_why_a_model_is_not_served(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--state", str(state)]) == EXIT_OK
    told = capsys.readouterr().out
    assert "dev-1 at site site-1" in told
    assert "digits: version 3" in told
    assert "doors: unavailable: no_previous: too_slow" in told


def test_status_before_the_agent_ever_ran_lists_no_models(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "boot.json").unlink()
    assert main(["status", "--state", str(state), "-o", "json"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out)["models"] == []


def test_status_of_damaged_files_names_them(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "boot.json").write_text("{")
    assert main(["status", "--state", str(state)]) == EXIT_FAILED
    assert "boot.json: is damaged" in capsys.readouterr().err
    identity_files(state).certificate.write_text("no certificate")
    assert main(["status", "--state", str(state)]) == EXIT_FAILED
    assert "device.crt: cannot be read" in capsys.readouterr().err


def test_status_of_a_machine_that_is_no_device_says_how_to_become_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--state", str(tmp_path)]) == EXIT_FAILED
    assert "litefleet-agent enrol" in capsys.readouterr().err


def test_enrol_without_a_readable_invite_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "none.json"
    assert main(["enrol", "--invite", str(missing), "--state", str(tmp_path)]) == EXIT_FAILED
    assert "none.json: cannot be read" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_run_with_unknown_settings_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "agent.toml"
    config.write_text('state_dir = "/x"\nhttp_prot = 1\n')
    assert main(["run", "--config", str(config)]) == EXIT_FAILED
    assert "http_prot" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice"),
        (["enrol"], "--invite"),
        (["serve", "m.tflite", "--name", "m", "--http-port", "70000"], "0 to 65535"),
        (["status", "--state", ".", "-o", "xml"], "xml"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("command", ["enrol", "run", "serve", "status"])
def test_help_of_every_command_is_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"litefleet-agent {command}" in capsys.readouterr().out
