"""The doors that a real supervisor opens: loopback and unix socket by default, TLS for other machines."""

from __future__ import annotations

import contextlib
import os
import ssl
import stat
import subprocess
import sys
from datetime import timedelta
from http.client import HTTPConnection, HTTPSConnection
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.support import models
from tests.support.certificates import Pair
from tests.support.grants import KEY, bearer, granted
from tests.support.ports import LOOPBACK
from tests.support.serving import MODEL, ROOT, Device, infer_body, make_slot, one_hot, plan_of
from tests.support.unix_http import UnixConnection
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPResponse
    from pathlib import Path

INFER = f"/v2/models/{MODEL}/infer"
LASTING = timedelta(days=1)


def asked(connection: HTTPConnection, headers: dict[str, str] | None = None) -> int:
    """Ask, on a connection for this one question."""
    with contextlib.closing(connection):
        return asked_again(connection, headers)


def asked_again(connection: HTTPConnection, headers: dict[str, str] | None = None) -> int:
    connection.request("POST", INFER, infer_body(one_hot(3)), headers or {})
    answer: HTTPResponse = connection.getresponse()
    answer.read()
    return answer.status


def is_healthy(device: Device) -> bool:
    """Whether the agent image's health check says so."""
    command = [sys.executable, "deploy/containers/agent_health.py", str(device.config)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False).returncode == 0


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device(tmp_path / "state") as one:
        slot = make_slot(one.releases, models.one_hot_classifier())
        one.write_boot(msgspec.structs.replace(plan_of(slot), applications=(granted("shop", MODEL),)))
        yield one


def with_settings(device: Device, text: str) -> None:
    device.config.write_text(device.config.read_text() + text)


def test_unix_socket_stands_beside_loopback_for_the_group_alone(device: Device) -> None:
    device.start()
    device.wait_ready()
    path = device.run / "infer.sock"
    assert asked(UnixConnection(path)) == 200
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert is_healthy(device)
    device.stop()
    assert not is_healthy(device)


def test_unix_socket_of_a_setting_outlives_a_killed_supervisor(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "for-applications" / "infer.sock"
    with_settings(device, f'infer_socket = "{path}"\n')
    device.start()
    device.wait_ready()
    with contextlib.closing(UnixConnection(path)) as kept:
        assert asked_again(kept) == 200
        device.kill_supervisor()
        assert asked_again(kept) == 200
        device.start()
        assert asked_again(kept) == 200
        assert asked(UnixConnection(path)) == 200


def test_other_machines_are_answered_over_tls_with_a_key(device: Device, tmp_path: Path) -> None:
    pair = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    pair.write("first", lasting=LASTING)
    with_settings(device, f'http_host = "0.0.0.0"\ntls_certificate = "{pair.certificate}"\ntls_key = "{pair.key}"\n')
    device.start()

    def over_tls(headers: dict[str, str] | None = None) -> int:
        try:
            return asked(HTTPSConnection(LOOPBACK, device.port, context=pair.trusted(), timeout=20), headers)
        except OSError:
            return 0

    wait_until(lambda: over_tls(bearer()) == 200, within_s=20, what="the model answers over TLS")
    assert over_tls() == 401
    assert over_tls(bearer("wrong")) == 401
    assert asked(UnixConnection(device.run / "infer.sock")) == 200
    assert is_healthy(device)
    plain = HTTPConnection(LOOPBACK, device.port, timeout=20)
    with pytest.raises((OSError, ssl.SSLError)):
        asked(plain)
    pair.write("second", lasting=LASTING)
    wait_until(lambda: over_tls(bearer()) == 200, within_s=20, what="the new certificate is in use")
    assert KEY not in device.log.read_text()


def test_certificate_that_cannot_be_used_costs_this_machine_no_answer(device: Device, tmp_path: Path) -> None:
    pair = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    pair.certificate.write_text("no certificate")
    pair.key.write_text("no key")
    with_settings(device, f'http_host = "0.0.0.0"\ntls_certificate = "{pair.certificate}"\ntls_key = "{pair.key}"\n')
    device.start()
    path = device.run / "infer.sock"

    def by_unix() -> int:
        try:
            return asked(UnixConnection(path))
        except OSError:
            return 0

    def over_tls() -> int:
        try:
            return asked(HTTPSConnection(LOOPBACK, device.port, context=pair.trusted(), timeout=20), bearer())
        except OSError:
            return 0

    wait_until(lambda: by_unix() == 200, within_s=20, what="the model answers on this machine")
    assert over_tls() == 0
    pair.write("mended", lasting=LASTING)
    wait_until(lambda: over_tls() == 200, within_s=20, what="the mended certificate is in use")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('http_host = "0.0.0.0"\n', "tls_certificate"),
        ('http_host = "0.0.0.0"\ntls_certificate = "/nowhere/tls.crt"\n', "tls_key is missing"),
        ('tls_key = "/nowhere/tls.key"\n', "tls_certificate is missing"),
        ('tls_certificate = "/nowhere/tls.crt"\ntls_key = "/nowhere/tls.key"\n', "loopback address"),
        ('http_host = "::"\ntls_certificate = "/nowhere/tls.crt"\ntls_key = "/nowhere/tls.key"\n', "cannot be read"),
        ('infer_socket_group = "no-such-group"\n', "no-such-group"),
        ('infer_socket = "/proc/nothing.sock"\n', "infer_socket"),
    ],
)
def test_attack_settings_that_open_half_a_door_start_nothing(device: Device, text: str, word: str) -> None:
    with_settings(device, text)
    device.start()
    wait_until(lambda: device.log.exists() and word in device.log.read_text(), what="the supervisor says why not")
    device.stop()
    assert device.serving_pid() is None


def test_socket_opened_wide_is_not_adopted_when_settings_close_it(device: Device, tmp_path: Path) -> None:
    pair = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    pair.write("first", lasting=LASTING)
    narrow = device.config.read_text()
    with_settings(device, f'http_host = "0.0.0.0"\ntls_certificate = "{pair.certificate}"\ntls_key = "{pair.key}"\n')
    device.start()
    wait_until((device.run / "infer.sock").exists, what="the doors are open")
    wait_until(lambda: device.serving_pid() is not None and "serving_started" in device.log.read_text(), what="serving")
    wide = device.serving_pid()
    device.kill_supervisor()
    device.config.write_text(narrow)
    device.start()
    device.wait_ready()
    assert device.serving_pid() != wide
    assert device.infer().status == 200
