from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.config import load
from agent.doors import read_settings

if TYPE_CHECKING:
    from pathlib import Path


def written(folder: Path, text: str) -> Path:
    path = folder / "agent.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("", {}),
        ("http_port = 9000\n", {}),
        ('http_host = "127.0.0.2"\n', {}),
        ("http_port = 9000\n", {"LITEFLEET_AGENT_HTTP_PORT": "9001"}),
        ("", {"LITEFLEET_AGENT_STATE_DIR": "/elsewhere", "LITEFLEET_AGENT_HTTP_HOST": "::1"}),
        ("heartbeat_s = 5\n", {}),
        ("serving_processes = 3\n", {}),
        ("", {"LITEFLEET_AGENT_SERVING_PROCESSES": "2"}),
    ],
)
def test_supervisor_reads_its_settings_as_its_children_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, environ: dict[str, str]
) -> None:
    path = written(tmp_path, f'state_dir = "{tmp_path}"\n{text}')
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    ours, theirs = read_settings(path), load(path, environ)
    assert (ours.state_dir, ours.host, ours.port) == (theirs.state_dir, theirs.http_host, theirs.http_port)
    assert ours.processes == theirs.serving_processes


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "state_dir"),
        ('state_dir = "/x"\nhttp_host = "0.0.0.0"\n', "loopback"),
        ('state_dir = "/x"\nhttp_host = "everywhere"\n', "everywhere"),
        ('state_dir = "/x"\nhttp_port = "many"\n', "many"),
        ("state_dir = ", "value"),
    ],
)
def test_settings_that_cannot_be_used_are_named(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        read_settings(written(tmp_path, text))
