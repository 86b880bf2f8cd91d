from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent import config
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path


def _file(folder: Path, text: str) -> Path:
    path = folder / "agent.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_config_file_alone_fills_the_rest_with_defaults(tmp_path: Path) -> None:
    read = config.load(_file(tmp_path, f'state_dir = "{tmp_path}"'), {})
    assert (read.state_dir, read.http_port, read.pulse_max_age_s) == (tmp_path, 8080, 900.0)
    assert read.serving_socket == tmp_path / "run" / "serving.sock"


def test_config_of_several_serving_processes_gives_each_a_socket(tmp_path: Path) -> None:
    read = config.load(_file(tmp_path, f'state_dir = "{tmp_path}"\nserving_processes = 3'), {})
    assert [path.name for path in read.serving_sockets] == ["serving.sock", "serving-1.sock", "serving-2.sock"]
    assert read.serving_socket == read.serving_sockets[0]


def test_config_environment_wins_over_file(tmp_path: Path) -> None:
    path = _file(tmp_path, f'state_dir = "{tmp_path}"\nhttp_port = 1')
    read = config.load(path, {"LITEFLEET_AGENT_HTTP_PORT": "9000", "HOME": "/root"})
    assert read.http_port == 9000


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("htp_port = 1", "htp_port"),
        ("http_port = 70000", "http_port"),
        ('http_port = "many"', "http_port"),
        ("tick_s = 0", "tick_s"),
        ("serving_processes = 0", "serving_processes"),
        ("serving_processes = 2\ngrpc_port = 0", "grpc_port"),
        ("model_memory_bytes = 0", "model_memory_bytes"),
        ("idle_unload_s = 0", "idle_unload_s"),
        ('log_level = "loud"', "log_level"),
        ("= 1", "TOML"),
    ],
)
def test_config_wrong_file_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        config.load(_file(tmp_path, f'state_dir = "{tmp_path}"\n{text}'), {})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('http_host = "0.0.0.0"', "set tls_certificate and tls_key"),
        ('http_host = "192.0.2.1"\ntls_key = "/tls.key"', "tls_certificate is missing"),
        ('http_host = "192.0.2.1"\ntls_certificate = "/tls.crt"', "tls_key is missing"),
        ('tls_certificate = "/tls.crt"\ntls_key = "/tls.key"', "loopback address"),
        ('http_host = "everywhere"', "everywhere"),
        ('cors_origins = ["shop.example"]', "cors_origins"),
        ('cors_origins = ["*", "https://shop.example"]', "stands alone"),
    ],
)
def test_attack_config_that_opens_half_a_door_is_refused(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        config.load(_file(tmp_path, f'state_dir = "{tmp_path}"\n{text}'), {})


def test_config_with_a_certificate_opens_inference_wide(tmp_path: Path) -> None:
    text = 'http_host = "0.0.0.0"\ntls_certificate = "/tls.crt"\ntls_key = "/tls.key"'
    assert config.load(_file(tmp_path, f'state_dir = "{tmp_path}"\n{text}'), {}).is_wide
    assert not config.load(_file(tmp_path, f'state_dir = "{tmp_path}"'), {}).is_wide


def test_config_places_of_socket_and_applications_follow_the_state_folder(tmp_path: Path) -> None:
    read = config.load(_file(tmp_path, f'state_dir = "{tmp_path}"'), {})
    assert (read.infer_path, read.grants_path) == (tmp_path / "run" / "infer.sock", tmp_path / "applications.json")


def test_config_origins_in_the_environment_are_parted_by_commas(tmp_path: Path) -> None:
    environ = {"LITEFLEET_AGENT_CORS_ORIGINS": "https://shop.example,http://127.0.0.1:5173"}
    read = config.load(_file(tmp_path, f'state_dir = "{tmp_path}"'), environ)
    assert read.cors_origins == ("https://shop.example", "http://127.0.0.1:5173")


def test_config_without_state_dir_refused() -> None:
    with pytest.raises(InvalidInputError, match="state_dir"):
        config.load(None, {})


def test_config_missing_file_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read"):
        config.load(tmp_path / "absent.toml", {})


@pytest.mark.parametrize("name", ["LITEFLEET_AGENT_HTP_PORT", "LITEFLEET_AGENT_http_port"])
def test_config_misspelt_environment_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match=name):
        config.load(None, {"LITEFLEET_AGENT_STATE_DIR": "/x", name: "1"})
