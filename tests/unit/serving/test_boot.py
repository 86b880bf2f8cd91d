from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.core.plan import BootFile, Plan, Route
from agent.serving.boot import BootLedger
from shared.ids import ModelName, ReleaseId

if TYPE_CHECKING:
    from pathlib import Path

START = "start 1"
TRICKY = Route(model=ModelName("digits"), primary=None, unavailable_reason='he wrote "tries_left":9 here')


def boot_file(tries_left: int) -> BootFile:
    route = Route(model=ModelName("digits"), primary=ReleaseId("old"), candidate=ReleaseId("new"))
    return BootFile(
        plan=Plan(serial=7, routes=(route, TRICKY)), fallback=Plan(serial=6, routes=(TRICKY,)), tries_left=tries_left
    )


def written(path: Path, boot: BootFile) -> BootLedger:
    path.write_bytes(msgspec.json.encode(boot))
    return BootLedger(path)


@pytest.mark.parametrize("tries", [1, 3, 10])
def test_try_is_spent_on_disk_before_it_is_used(tmp_path: Path, tries: int) -> None:
    ledger = written(tmp_path / "boot.json", boot_file(tries))
    boot = ledger.read()
    assert boot is not None
    assert ledger.spend_try(boot, together=START)
    assert ledger.read() == boot_file(tries - 1)


def test_no_try_is_left_after_the_last(tmp_path: Path) -> None:
    ledger = written(tmp_path / "boot.json", boot_file(1))
    spent = []
    for _ in range(3):
        boot = ledger.read()
        assert boot is not None
        spent.append(ledger.spend_try(boot, together=START))
    assert spent == [True, False, False]


def test_newer_file_of_control_is_never_overwritten(tmp_path: Path) -> None:
    ledger = written(tmp_path / "boot.json", boot_file(3))
    old = ledger.read()
    assert old is not None
    committed = BootFile(plan=Plan(serial=8), fallback=Plan(serial=8), tries_left=3)
    written(tmp_path / "boot.json", committed)
    assert ledger.spend_try(old, together=START)
    assert ledger.read() == committed


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"plan":{"serial":1}}', b"\xff\xfe"])
def test_unreadable_file_is_no_plan(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "boot.json"
    path.write_bytes(data)
    assert BootLedger(path).read() is None


def test_absent_file_is_no_plan(tmp_path: Path) -> None:
    assert BootLedger(tmp_path / "boot.json").read() is None


def test_try_that_cannot_be_written_is_not_given(tmp_path: Path) -> None:
    path = tmp_path / "boot.json"
    ledger = written(path, boot_file(3))
    boot = ledger.read()
    assert boot is not None
    path.unlink()
    path.mkdir()
    assert not ledger.spend_try(boot, together=START)
