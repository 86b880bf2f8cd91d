from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from agent.cli import main
from agent.grants import read_grants
from shared.applications import key_hash
from tests.support.grants import KEY

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def settings(tmp_path: Path) -> str:
    path = tmp_path / "agent.toml"
    path.write_text(f'state_dir = "{tmp_path}"\n')
    return str(path)


def test_added_application_has_the_key_that_was_printed_once(
    settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["application", "add", "shop", "--models", "a, b", "--per-minute", "60", "--config", settings]) == 0
    key = capsys.readouterr().out.splitlines()[-1]
    (grant,) = read_grants(tmp_path / "applications.json")
    assert (grant.key_sha256, grant.models, grant.requests_per_minute) == (key_hash(key), ("a", "b"), 60)
    assert main(["application", "list", "--config", settings]) == 0
    listed = capsys.readouterr().out
    assert "shop: a, b; 60 a minute" in listed
    assert key not in listed


def test_key_that_exists_is_read_from_a_file_and_not_repeated(
    settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key.txt").write_text(f"{KEY}\nnotes\n")
    asked = [
        "application",
        "add",
        "shop",
        "--models",
        "*",
        "--key-from",
        str(tmp_path / "key.txt"),
        "--config",
        settings,
    ]
    assert main(asked) == 0
    said = capsys.readouterr()
    assert KEY not in said.out + said.err
    assert read_grants(tmp_path / "applications.json")[0].key_sha256 == key_hash(KEY)


def test_applications_are_listed_for_programs_by_the_hash_of_their_key(
    settings: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["application", "add", "shop", "--models", "a", "--config", settings])
    key = capsys.readouterr().out.splitlines()[-1]
    assert main(["application", "list", "--config", settings, "-o", "json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["application"], listed["key_sha256"]) == ("shop", key_hash(key))


def test_removed_application_is_gone(settings: str, tmp_path: Path) -> None:
    main(["application", "add", "shop", "--models", "*", "--config", settings])
    assert main(["application", "remove", "shop", "--config", settings]) == 0
    assert read_grants(tmp_path / "applications.json") == ()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["add", "Shop", "--models", "*"], "application"),
        (["add", "shop", "--models", ""], "models"),
        (["add", "shop", "--models", "*", "--per-minute", "0"], "requests_per_minute"),
        (["add", "shop", "--models", "*", "--key-from", "/nowhere/key"], "--key-from"),
        (["remove", "nobody"], "nobody"),
    ],
)
def test_refusal_names_what_is_wrong(
    settings: str, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert main(["application", *arguments, "--config", settings]) == 1
    assert named in capsys.readouterr().err
