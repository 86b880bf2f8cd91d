from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.core.plan import BootFile, Plan
from agent.grants import Grants, add_grant, new_key, read_grants, remove_grants
from shared.applications import key_hash
from shared.errors import InvalidInputError, NotFoundError
from tests.support.grants import KEY, granted

if TYPE_CHECKING:
    from pathlib import Path

PLAN = Plan(serial=3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "applications.json"


def test_new_keys_are_long_known_by_their_beginning_and_never_the_same() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("lfa_") and len(key) == 47 for key in keys)


def test_grant_is_written_with_the_hash_alone_for_the_owner(path: Path) -> None:
    grant = add_grant(path, "shop", key=KEY, models=["digits", "faces", "digits"], requests_per_minute=60)
    assert grant == granted("shop", "digits", "faces", per_minute=60)
    assert KEY not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_grants(path) == (grant,)


def test_second_key_of_an_application_stands_beside_the_first(path: Path) -> None:
    other = new_key()
    add_grant(path, "shop", key=KEY, models=["digits"], requests_per_minute=60)
    add_grant(path, "shop", key=other, models=["faces"])
    found = read_grants(path)
    assert [grant.key_sha256 for grant in found] == [key_hash(KEY), key_hash(other)]
    assert {(grant.models, grant.requests_per_minute) for grant in found} == {(("faces",), None)}


def test_removed_application_loses_all_its_keys_and_no_other_any(path: Path) -> None:
    for name, key in (("shop", KEY), ("shop", new_key()), ("rival", new_key())):
        add_grant(path, name, key=key, models=["*"])
    remove_grants(path, "shop")
    assert [grant.application for grant in read_grants(path)] == ["rival"]
    with pytest.raises(NotFoundError):
        remove_grants(path, "shop")


@pytest.mark.parametrize(
    ("name", "key", "model", "per_minute"),
    [
        ("Shop", KEY, "digits", None),
        ("a/b", KEY, "digits", None),
        ("", KEY, "digits", None),
        ("shop", "short", "digits", None),
        ("shop", KEY + " x", "digits", None),
        ("shop", KEY + "é", "digits", None),
        ("shop", KEY, "Digits", None),
        ("shop", KEY, "", None),
        ("shop", KEY, "digits", 0),
    ],
)
def test_grant_that_could_not_be_held_to_is_refused(
    path: Path, name: str, key: str, model: str, per_minute: int | None
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        add_grant(path, name, key=key, models=[model], requests_per_minute=per_minute)
    assert key not in str(refused.value)
    assert not path.exists()


def test_application_without_models_is_refused(path: Path) -> None:
    with pytest.raises(InvalidInputError, match="models"):
        add_grant(path, "shop", key=KEY, models=[])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"applications": [{}]}', '{"aplications": []}'])
def test_damaged_file_is_named_with_a_remedy(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=r"applications\.json.*mend"):
        read_grants(path)


def test_plan_takes_what_the_file_grants_beside_what_the_fleet_does(path: Path) -> None:
    fleets = granted("fleet", "digits", key="f" * 40)
    add_grant(path, "shop", key=KEY, models=["digits"])
    grants = Grants(path)
    assert grants.into(PLAN) == PLAN
    assert grants.refresh()
    whole = grants.into(msgspec.structs.replace(PLAN, applications=(fleets,)))
    assert [grant.application for grant in whole.applications] == ["fleet", "shop"]


def test_fleets_word_on_a_key_holds(path: Path) -> None:
    add_grant(path, "shop", key=KEY, models=["*"])
    grants = Grants(path)
    grants.refresh()
    fleets = granted("shop", "digits")
    assert grants.into(msgspec.structs.replace(PLAN, applications=(fleets,))).applications == (fleets,)


def test_change_is_noticed_once_and_damage_changes_nothing(path: Path) -> None:
    grants = Grants(path)
    assert not grants.refresh()
    add_grant(path, "shop", key=KEY, models=["digits"])
    assert [grants.refresh(), grants.refresh()] == [True, False]
    path.write_text("{")
    assert not grants.refresh()
    assert len(grants.into(PLAN).applications) == 1
    path.unlink()
    assert grants.refresh()
    assert grants.into(PLAN) == PLAN


def test_boot_file_is_renewed_with_the_tries_that_serving_left(path: Path, tmp_path: Path) -> None:
    boot_path = tmp_path / "boot.json"
    old = msgspec.structs.replace(PLAN, applications=(granted("gone", "digits", key="g" * 40),))
    boot_path.write_bytes(msgspec.json.encode(BootFile(plan=old, fallback=old, tries_left=1)))
    add_grant(path, "shop", key=KEY, models=["digits"])
    grants = Grants(path)
    grants.refresh()
    grants.renew_boot(boot_path, PLAN)
    found = msgspec.json.decode(boot_path.read_bytes(), type=BootFile)
    assert found.tries_left == 1
    for plan in (found.plan, found.fallback):
        assert [grant.application for grant in plan.applications] == ["shop"]


def test_boot_file_that_is_not_there_is_not_made(path: Path, tmp_path: Path) -> None:
    Grants(path).renew_boot(tmp_path / "boot.json", PLAN)
    assert not (tmp_path / "boot.json").exists()
