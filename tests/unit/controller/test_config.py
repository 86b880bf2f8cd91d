"""Settings: typed, complete, and refused when something is misspelt or unsafe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from controller.config import ControllerConfig, is_loopback, load
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path


def _load(folder: Path, text: str, environment: dict[str, str] | None = None) -> ControllerConfig:
    path = folder / "controller.toml"
    path.write_text(f'state_dir = "{folder}/state"\n{text}')
    return load(path, environment or {})


def test_config_minimal_has_sqlite_in_the_state_folder(tmp_path: Path) -> None:
    config = _load(tmp_path, "")
    assert config.database == f"sqlite+aiosqlite:///{tmp_path}/state/litefleet.db"
    assert config.controller_url == "https://localhost:8471"
    assert config.broker_tls


def test_config_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITEFLEET_CONTROLLER_API_PORT", "9001")
    assert _load(tmp_path, "api_port = 9000").api_port == 9001


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("api_prot = 1", r"api_prot: no such setting \(did you mean api_port\?\)"),
        ("api_port = 70000", "api_port"),
        ('api_host = "0.0.0.0"', "api_tls_certificate"),
        ('api_tls_key = "/x"', "set both or none"),
        ('broker_user = "x"', "broker_password_file"),
        ('broker_user = "x"\nbroker_password_file = "/p"\nbroker_host = "broker.example"', "use TLS"),
        ('broker_key = "/x"', "broker_certificate"),
        ("device_names = []", "at least one"),
        ("tick_s = 0", "tick_s"),
        ("tick_s =", "controller.toml"),
    ],
)
def test_config_wrong_setting_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        _load(tmp_path, text)


def test_config_misspelt_environment_is_refused_with_the_right_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="did you mean LITEFLEET_CONTROLLER_API_PORT"):
        _load(tmp_path, "", {"LITEFLEET_CONTROLLER_API_PROT": "1"})


def test_config_file_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="nowhere"):
        load(tmp_path / "nowhere.toml", {})


def test_config_error_does_not_show_a_secret(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        _load(tmp_path, 'database_url = "postgresql+asyncpg://u:hunter2@h/d"\napi_port = 0')
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example.com", False)],
)
def test_loopback_is_told(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_config_of_a_cluster_elsewhere_without_tls_is_refused_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"convert_cluster: without TLS.*use tls://192\.0\.2\.1:8786"):
        _load(tmp_path, 'convert_cluster = "tcp://192.0.2.1:8786"')
    assert _load(tmp_path, 'convert_cluster = "tcp://127.0.0.1:8786"').cluster_certificates is None


def test_config_of_a_cluster_names_the_certificate_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"convert_cluster_ca: is not set"):
        _load(tmp_path, 'convert_cluster = "tls://cluster.example:8786"')
    lines = [f'convert_cluster_{name} = "{tmp_path / "pem"}"' for name in ("ca", "certificate", "key")]
    (tmp_path / "pem").touch()
    config = _load(tmp_path, "\n".join(['convert_cluster = "tls://cluster.example:8786"', *lines]))
    assert config.cluster_certificates is not None
