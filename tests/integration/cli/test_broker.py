"""Letting applications in at the broker, from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from controller.cli import app
from tests.support.grants import KEY

if TYPE_CHECKING:
    from pathlib import Path


def litefleet(*arguments: str, stdin: str = "") -> tuple[int, str]:
    """Run a command; returns its exit code and all that it said."""
    ran = CliRunner().invoke(app, arguments, input=stdin)
    return ran.exit_code, ran.output


@pytest.fixture
def config(tmp_path: Path) -> str:
    """The settings of a controller that was just set up."""
    assert litefleet("controller", "init", "--state", str(tmp_path / "state"))[0] == 0
    return str(tmp_path / "state" / "controller.toml")


def open_to_applications(config: str, tmp_path: Path) -> None:
    with (tmp_path / "state" / "controller.toml").open("a") as settings:
        settings.write("\nbroker_application_port = 8884\n")
    assert litefleet("broker", "config", "--config", config)[0] == 0


def test_broker_lets_no_application_in_unless_a_port_is_set(config: str, tmp_path: Path) -> None:
    written = (tmp_path / "state" / "broker" / "mosquitto.conf").read_text()
    assert ("password_file" in written, "per_listener_settings false" in written) == (False, True)
    code, said = litefleet("broker", "admit", "shop.till", "--key-from", "-", "--config", config, stdin=KEY)
    assert code != 0
    assert "broker_application_port" in said


def test_login_is_admitted_listed_and_expelled(config: str, tmp_path: Path) -> None:
    open_to_applications(config, tmp_path)
    code, said = litefleet("broker", "admit", "shop.till", "--key-from", "-", "--config", config, stdin=f"{KEY}\n")
    assert (code, KEY in said) == (0, False)
    assert litefleet("broker", "logins", "--config", config) == (0, "shop.till\n")
    assert litefleet("broker", "config", "--config", config)[0] == 0
    assert litefleet("broker", "logins", "--config", config)[1] == "shop.till\n"
    assert litefleet("broker", "expel", "shop.till", "--config", config)[0] == 0
    assert litefleet("broker", "logins", "--config", config) == (0, "")


@pytest.mark.parametrize(("login", "key"), [("cam-1", KEY), ("shop.till", "short")])
def test_login_that_is_no_login_or_could_be_guessed_is_refused(
    config: str, tmp_path: Path, login: str, key: str
) -> None:
    open_to_applications(config, tmp_path)
    code, said = litefleet("broker", "admit", login, "--key-from", "-", "--config", config, stdin=key)
    assert code != 0
    assert "login" in said or "characters" in said
