from __future__ import annotations

import contextlib
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from agent.serving.local import LocalDoors, serve_file
from agent.serving.planned.sockets import listen_unix
from agent.serving.protocols.api import UNVERIFIED_HEADER
from shared.errors import InvalidIdError, InvalidInputError, ModelLoadError
from shared.pipeline import PipelineSpec, RunModel, Softmax
from tests.support import models
from tests.support.ports import LOOPBACK, accepts_connections, free_port
from tests.support.programs import stop_process
from tests.support.serving import ROOT, http, infer_body, make_slot, one_hot
from tests.support.unix_http import UnixConnection
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def served(path: Path, *more: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [sys.executable, "-m", "agent.cli", "serve", str(path), "--name", "local", "--http-port", str(port)]
    command += more
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: process.poll() is not None or accepts_connections(port), what="it serves or ends")
        yield f"http://{LOOPBACK}:{port}", process
    finally:
        stop_process(process)
        if process.stderr is not None:
            process.stderr.close()


def test_local_file_is_served_and_says_that_nothing_vouches_for_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.tflite"
    path.write_bytes(models.one_hot_classifier())
    with served(path) as (url, process):
        answer = http(f"{url}/v2/models/local/infer", infer_body(one_hot(3)))
        assert answer.status == 200
        assert "no signature was checked" in answer.headers[UNVERIFIED_HEADER]
        assert "no signature was checked" in http(f"{url}/v2/models/local").body["parameters"]["unverified"]
        process.terminate()
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert b"UNVERIFIED" in process.stderr.read()


def test_local_release_folder_is_served_through_its_pipeline(tmp_path: Path) -> None:
    slot = make_slot(tmp_path, models.one_hot_classifier(), pipeline=PipelineSpec(steps=(RunModel(), Softmax())))
    with served(tmp_path / slot.release_id) as (url, _):
        described = http(f"{url}/v2/models/local").body
        assert [output["name"] for output in described["outputs"]] == ["scores"]


def test_local_file_is_served_by_a_unix_socket_too_and_to_listed_pages(tmp_path: Path) -> None:
    path, page = tmp_path / "mine.tflite", "http://127.0.0.1:5173"
    path.write_bytes(models.one_hot_classifier())
    unix_socket = tmp_path / "infer.sock"
    with served(path, "--unix-socket", str(unix_socket), "--cors-origin", page):
        wait_until(unix_socket.exists, what="the unix socket is there")
        with contextlib.closing(UnixConnection(unix_socket)) as connection:
            connection.request("GET", "/v2/models/local", headers={"Origin": page})
            answer = connection.getresponse()
            answer.read()
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, page)
        assert stat.S_IMODE(unix_socket.stat().st_mode) == 0o660


def test_local_server_that_is_told_to_end_takes_its_unix_socket_away(tmp_path: Path) -> None:
    path, unix_socket = tmp_path / "mine.tflite", tmp_path / "infer.sock"
    path.write_bytes(models.one_hot_classifier())
    with served(path, "--unix-socket", str(unix_socket)) as (_, process):
        wait_until(unix_socket.exists, what="the unix socket is there")
        process.terminate()
        assert process.wait(20) == 0
    assert not unix_socket.exists()


def test_local_unix_socket_that_another_server_put_there_meanwhile_is_left_to_it(tmp_path: Path) -> None:
    path, unix_socket = tmp_path / "mine.tflite", tmp_path / "infer.sock"
    path.write_bytes(models.one_hot_classifier())
    with served(path, "--unix-socket", str(unix_socket)) as (_, process):
        wait_until(unix_socket.exists, what="the unix socket is there")
        with contextlib.closing(listen_unix(unix_socket, mode=0o600)):
            process.terminate()
            assert process.wait(20) == 0
            assert unix_socket.is_socket()


def test_local_server_says_of_no_door_that_it_serves_before_all_are_open(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, place = tmp_path / "mine.tflite", tmp_path / "infer.sock"
    path.write_bytes(models.one_hot_classifier())
    with socket.create_server((LOOPBACK, 0)) as taken:
        doors = LocalDoors(http_port=0, unix_socket=place, grpc_port=taken.getsockname()[1])
        with pytest.raises(InvalidInputError, match="grpc_port"):
            serve_file(path, name="local", doors=doors)
    assert "serving" not in capfd.readouterr().err
    assert not place.exists()


def test_local_unix_socket_never_takes_the_place_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.tflite"
    path.write_bytes(models.one_hot_classifier())
    with pytest.raises(InvalidInputError, match="is a file"):
        serve_file(path, name="local", doors=LocalDoors(http_port=0, unix_socket=path))
    assert path.stat().st_size


def test_local_unix_socket_of_a_server_that_answers_is_left_to_it(tmp_path: Path) -> None:
    path, place = tmp_path / "mine.tflite", tmp_path / "infer.sock"
    path.write_bytes(models.one_hot_classifier())
    with contextlib.closing(listen_unix(place, mode=0o600)), pytest.raises(InvalidInputError, match="another server"):
        serve_file(path, name="local", doors=LocalDoors(http_port=0, unix_socket=place))
    assert place.is_socket()


def test_local_folder_without_a_manifest_is_told_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"manifest\.json: cannot be read.*holds manifest\.json and model"):
        serve_file(tmp_path, name="local", doors=LocalDoors(http_port=0))


def test_local_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.tflite"
    path.write_bytes(b"not a model")
    with pytest.raises(ModelLoadError):
        serve_file(path, name="local", doors=LocalDoors(http_port=0))


def test_local_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="mine"):
        serve_file(tmp_path / "mine.tflite", name="local", doors=LocalDoors(http_port=0))


def test_local_file_is_never_served_to_others(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="loopback"):
        serve_file(tmp_path / "mine.tflite", name="local", doors=LocalDoors(http_port=0, host="0.0.0.0"))


def test_local_model_needs_a_plain_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.tflite"
    path.write_bytes(models.one_hot_classifier())
    with pytest.raises(InvalidIdError):
        serve_file(path, name="../x", doors=LocalDoors(http_port=0))


def test_port_in_use_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.tflite"
    path.write_bytes(models.one_hot_classifier())
    with socket.create_server((LOOPBACK, 0)) as taken, pytest.raises(InvalidInputError, match="http_port"):
        serve_file(path, name="local", doors=LocalDoors(http_port=taken.getsockname()[1]))
