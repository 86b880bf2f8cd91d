from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.core.plan import BootFile, Plan, Route
from agent.serving.planned.boot import BootLedger
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


def pair(path: Path, boot: BootFile) -> tuple[BootLedger, BootLedger]:
    """The ledgers of two serving processes over one file."""
    path.write_bytes(msgspec.json.encode(boot))
    return BootLedger(path), BootLedger(path, number=1)


def tries_left(ledger: BootLedger) -> int:
    boot = ledger.read()
    assert boot is not None
    return boot.tries_left


def test_processes_that_start_together_take_one_try(tmp_path: Path) -> None:
    first, second = pair(tmp_path / "boot.json", boot_file(1))
    boot = boot_file(1)
    assert first.spend_try(boot, together=START)
    # The last one: it is paid for the second process, too, which had read the file before.
    assert second.spend_try(boot, together=START)
    assert tries_left(first) == 0


def test_process_that_starts_again_takes_a_try_of_its_own(tmp_path: Path) -> None:
    first, second = pair(tmp_path / "boot.json", boot_file(3))
    assert first.spend_try(boot_file(3), together=START)
    assert second.spend_try(boot_file(3), together=START)
    assert second.spend_try(boot_file(2), together="start again")
    assert tries_left(first) == 1


def test_process_that_is_told_the_plan_of_a_paid_round_again_takes_another_try(tmp_path: Path) -> None:
    # It has lost what it loaded: it has crashed since.
    first, second = pair(tmp_path / "boot.json", boot_file(2))
    assert first.spend_try(boot_file(2), together="plan 7")
    assert second.spend_try(boot_file(2), together="plan 7")
    assert first.spend_try(boot_file(1), together="plan 7")
    assert not first.spend_try(boot_file(0), together="plan 7")
    assert tries_left(second) == 0


def test_try_that_another_process_took_meanwhile_is_seen(tmp_path: Path) -> None:
    # Both read 2; each is a round of its own.
    first, second = pair(tmp_path / "boot.json", boot_file(2))
    assert first.spend_try(boot_file(2), together="start a")
    assert second.spend_try(boot_file(2), together="start b")
    assert tries_left(first) == 0
    assert not first.spend_try(boot_file(2), together="start c")


def test_round_of_another_plan_is_not_paid(tmp_path: Path) -> None:
    first, second = pair(tmp_path / "boot.json", boot_file(3))
    assert first.spend_try(boot_file(3), together=START)
    later = BootFile(plan=Plan(serial=8, routes=(TRICKY,)), fallback=Plan(serial=6), tries_left=3)
    (tmp_path / "boot.json").write_bytes(msgspec.json.encode(later))
    assert second.spend_try(later, together=START)
    assert tries_left(second) == 2


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff"])
def test_unreadable_note_of_what_is_paid_costs_a_try_and_nothing_else(tmp_path: Path, data: bytes) -> None:
    first, second = pair(tmp_path / "boot.json", boot_file(3))
    assert first.spend_try(boot_file(3), together=START)
    (tmp_path / "boot-round.json").write_bytes(data)
    assert second.spend_try(boot_file(3), together=START)
    assert tries_left(first) == 1


def test_many_processes_at_once_lose_no_try(tmp_path: Path) -> None:
    path = tmp_path / "boot.json"
    path.write_bytes(msgspec.json.encode(boot_file(10)))
    ledgers = [BootLedger(path, number=number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        spent = pool.map(lambda each: each[1].spend_try(boot_file(10), together=f"start {each[0]}"), enumerate(ledgers))
    assert all(spent)
    assert tries_left(ledgers[0]) == 2
