"""`litefleet-agent bench` as a user runs it: every protocol on a real server, and errors that say what to do."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.serving.bench.bench_server import HttpConnection, check
from agent.serving.bench.run import BenchReport
from shared.errors import ModelFailedError
from tests.integration.serving.test_pipelines import CASCADE, composed, spec
from tests.support import models
from tests.support.inference_api import image_slot, picture
from tests.support.serving import ROOT, make_slot

if TYPE_CHECKING:
    from collections.abc import Iterator

ALONE = "HTTP alone, no model"
NUMBERS = [ALONE, "OIP, JSON", "OIP, binary", "TensorFlow Serving", "MAX", "OIP, binary, unix socket", "OIP, gRPC"]
ITEMS = [
    *(ALONE, "classify", "OIP, JSON", "OIP, binary", "TensorFlow Serving", "MAX", "classify, unix socket"),
    "OIP, gRPC",
]
SOUND = spec(
    {"type": "decode_audio", "sample_rate_hz": 8000, "samples": 10},
    {"type": "run_model"},
    {"type": "top_labels", "count": 1},
)


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent.cli", "bench", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def report(path: Path, *more: str | Path) -> BenchReport:
    done = bench(path, "--seconds", "0.1", "-o", "json", *more)
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout, type=BenchReport)


def small(folder: Path) -> Path:
    path = folder / "mine.tflite"
    path.write_bytes(models.random_classifier(4, 3, seed=1, batch=-1))
    return path


def complaint(*arguments: str | Path) -> str:
    done = bench(*arguments)
    assert done.returncode == 1, done.stdout
    return next(line for line in done.stderr.splitlines() if line.startswith("litefleet-agent: "))


def test_bench_of_a_file_measures_every_protocol_against_the_bare_invocation(tmp_path: Path) -> None:
    found = report(small(tmp_path))
    assert [each.name for each in found.protocols] == NUMBERS
    assert found.pipeline is None
    assert found.probe.by_threads
    assert 0 < found.raw.cpu_us < found.protocols[1].cpu_us
    for each in found.protocols:
        assert not each.refused
        assert min(each.answers, each.cpu_us, each.p50_ms) > 0
    asked = found.protocols[1]
    assert asked.adds_us == pytest.approx(asked.cpu_us - found.raw.cpu_us)
    assert asked.over_raw == pytest.approx(asked.cpu_us / found.raw.cpu_us)


def test_bench_prints_a_table_for_people(tmp_path: Path) -> None:
    done = bench(small(tmp_path), "--seconds", "0.1")
    assert done.returncode == 0, done.stderr
    assert "probe at load" in done.stdout
    assert all(name in done.stdout for name in (*NUMBERS, "bare invocation"))


@pytest.mark.parametrize("kind", ["image", "sound"])
def test_bench_of_a_release_asks_with_what_its_pipeline_takes(tmp_path: Path, kind: str) -> None:
    slot = image_slot(tmp_path) if kind == "image" else make_slot(tmp_path, models.one_hot_classifier(), pipeline=SOUND)
    found = report(Path(slot.folder))
    assert [each.name for each in found.protocols] == ITEMS
    assert not any(each.refused for each in found.protocols)
    assert found.pipeline is not None
    assert found.pipeline.cpu_us > found.raw.cpu_us
    assert found.asked_with.startswith("an encoded item of ")


def test_bench_asks_with_the_item_that_is_given(tmp_path: Path) -> None:
    item = tmp_path / "item.png"
    item.write_bytes(picture(3))
    found = report(Path(image_slot(tmp_path).folder), "--item", item)
    assert found.asked_with == f"an encoded item of {len(picture(3))} bytes"


def test_bench_of_a_release_of_several_models_measures_all_of_them(tmp_path: Path) -> None:
    found = report(Path(composed(tmp_path, CASCADE).folder))
    assert [each.name for each in found.protocols] == NUMBERS
    assert not any(each.refused for each in found.protocols)
    assert found.pipeline is not None


def test_bench_names_what_cannot_be_measured(tmp_path: Path) -> None:
    assert "missing.tflite: cannot be read" in complaint(tmp_path / "missing.tflite")
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(b"not a model")
    assert "not of kind TFL3" in complaint(bad)
    assert "seconds: 0 is not within" in complaint(small(tmp_path), "--seconds", "0")
    assert "takes numbers" in complaint(small(tmp_path), "--item", bad)


def test_bench_tells_what_a_pipeline_refuses_in_its_words(tmp_path: Path) -> None:
    bad = tmp_path / "item.jpg"
    bad.write_bytes(b"no image")
    folder = Path(image_slot(tmp_path).folder)
    assert "not a readable JPEG or PNG" in complaint(folder, "--item", bad)
    assert "item: " in complaint(folder, "--item", tmp_path / "missing.jpg")


@contextlib.contextmanager
def answered(reply: bytes) -> Iterator[HttpConnection]:
    """A connection whose other end has said this already, and will say no more."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(reply)
        theirs.shutdown(socket.SHUT_WR)
        yield HttpConnection(ours)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ""),
        (b"HTTP/1.1 429 Too Many\r\ncontent-length: 4\r\n\r\nlate", "429 late"),
    ],
)
def test_reply_is_read_whole_and_a_refusal_told(reply: bytes, said: str) -> None:
    with answered(reply + reply) as connection:
        assert [check(connection, b""), check(connection, b"")] == [said, said]


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_server_that_ends_while_it_is_asked_is_told(reply: bytes) -> None:
    with answered(reply) as connection, pytest.raises(ModelFailedError, match="ended while it was asked"):
        check(connection, b"")


def test_bench_teaches_what_it_does() -> None:
    done = bench("--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("CPU", "--item", "--seconds", "example"))
