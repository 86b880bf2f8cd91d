"""The same requests to a real Triton and to us: status, form of errors, metadata and binary headers agree.

Where we differ on purpose, the case says so, and the test holds both to what it says.
"""

from __future__ import annotations

import asyncio
import ctypes.util
import json
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import pytest

from tests.support import models
from tests.support.clients import environment
from tests.support.ports import LOOPBACK
from tests.support.serving import MODEL, make_slot, one_hot, plan_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.inference_api import Served

LENGTH = "Inference-Header-Content-Length"
# Triton's wheel runs Python models in a program that is linked to this library: the operating system's own Python.
PYTHON = "/usr/bin/python3.11"
SERVER = Path(__file__).parents[2] / "support" / "outside" / "triton_server.py"
START_S = 90.0

needs_triton = pytest.mark.skipif(
    not Path(PYTHON).exists() or ctypes.util.find_library("python3.11") is None,
    reason="Triton's wheel needs the operating system's own Python 3.11 with its shared library",
)
pytestmark = [needs_triton]


def tensor(**changes: object) -> dict[str, object]:
    return {"name": "input", "shape": [1, 10], "datatype": "FP32", "data": one_hot(3), **changes}


def asked(*tensors: dict[str, object], **others: object) -> bytes:
    return json.dumps({"inputs": tensors, **others}).encode()


def binary(rows: int = 1, *, cut: int = 0, all_outputs: bool = True) -> tuple[bytes, dict[str, str]]:
    """A request whose numbers follow the JSON, `cut` bytes short of what it says."""
    numbers = np.tile(np.array(one_hot(3), "<f4"), rows).tobytes()
    said = {"name": "input", "shape": [rows, 10], "datatype": "FP32", "parameters": {"binary_data_size": len(numbers)}}
    text = json.dumps({"inputs": [said], "parameters": {"binary_data_output": all_outputs}}).encode()
    return text + numbers[: len(numbers) - cut], {LENGTH: str(len(text)), "Content-Type": "application/octet-stream"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request; `ours` and `theirs` are the statuses where these differ, and `because` says why."""

    path: str
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    method: str = ""
    ours: int = 0
    theirs: int = 0
    because: str = ""

    def as_method(self) -> str:
        return self.method or ("GET" if self.body is None else "POST")


OUTPUT = "logits"
INFER = f"/v2/models/{MODEL}/infer"
CLIENTS_FAULT = "what a caller got wrong is no error of the server"
CASES = {
    "server": Case(path="/v2"),
    "live": Case(path="/v2/health/live"),
    "ready": Case(path="/v2/health/ready"),
    "model": Case(path=f"/v2/models/{MODEL}"),
    "model version": Case(path=f"/v2/models/{MODEL}/versions/1"),
    "model ready": Case(path=f"/v2/models/{MODEL}/ready"),
    "unknown model": Case(path="/v2/models/nobody"),
    "unknown version": Case(path=f"/v2/models/{MODEL}/versions/9"),
    "unknown model ready": Case(
        path="/v2/models/nobody/ready", ours=404, theirs=400, because="a model that is not there is not found"
    ),
    "unknown path": Case(path="/v2/nothing"),
    "wrong method": Case(path=INFER, method="PUT", body=b""),
    "one": Case(path=INFER, body=asked(tensor(), id="7")),
    "two": Case(path=INFER, body=asked(tensor(shape=[2, 10], data=[one_hot(3), one_hot(4)]))),
    "one version": Case(path=f"/v2/models/{MODEL}/versions/1/infer", body=asked(tensor())),
    "wanted output": Case(path=INFER, body=asked(tensor(), outputs=[{"name": OUTPUT}])),
    "binary": Case(path=INFER, body=binary()[0], headers=binary()[1]),
    "binary, JSON back": Case(path=INFER, body=binary(all_outputs=False)[0], headers=binary(all_outputs=False)[1]),
    "binary batch": Case(path=INFER, body=binary(rows=5)[0], headers=binary(rows=5)[1]),
    "binary by output": Case(
        path=INFER, body=asked(tensor(), outputs=[{"name": OUTPUT, "parameters": {"binary_data": True}}])
    ),
    "binary cut off": Case(path=INFER, body=binary(cut=4)[0], headers=binary()[1]),
    "wrong output": Case(path=INFER, body=asked(tensor(), outputs=[{"name": "nobody"}])),
    "wrong datatype": Case(path=INFER, body=asked(tensor(datatype="INT32", data=[0] * 10))),
    "wrong width": Case(path=INFER, body=asked(tensor(shape=[1, 9], data=[0.0] * 9))),
    "no input": Case(path=INFER, body=asked()),
    "two inputs": Case(path=INFER, body=asked(tensor(), tensor(name="other"))),
    "unknown model infer": Case(path="/v2/models/nobody/infer", body=asked(tensor())),
    "unknown datatype": Case(path=INFER, body=asked(tensor(datatype="FP7"))),
    "data too short": Case(path=INFER, body=asked(tensor(data=[0.0])), ours=400, theirs=500, because=CLIENTS_FAULT),
    "no JSON": Case(path=INFER, body=b"not json", ours=400, theirs=500, because=CLIENTS_FAULT),
    "other input name": Case(
        path=INFER,
        body=asked(tensor(name="other")),
        ours=200,
        theirs=400,
        because="converters rename inputs at will: with a single one, any name will do",
    ),
}


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real Triton that serves the same model."""
    log = tmp_path_factory.mktemp("triton") / "log.txt"
    python = str(environment("triton", python=PYTHON) / "python")
    with log.open("wb") as errors:
        command = [python, str(SERVER), MODEL, "input", OUTPUT]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdin is not None
    assert process.stdout is not None
    too_late = threading.Timer(START_S, process.kill)
    too_late.start()
    said = next((line for line in process.stdout if line.startswith(b"{")), b"")
    too_late.cancel()
    assert said, f"Triton has not started: {log.read_text()[-4000:]}"
    yield f"http://{LOOPBACK}:{json.loads(said)['http_port']}"
    process.stdin.close()
    # What it still writes would keep it from ending.
    process.stdout.read()
    process.stdout.close()
    process.wait(timeout=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server said."""

    status: int
    kind: str
    length_header: str | None
    body: bytes

    def document(self) -> dict[str, Any]:
        """The JSON of the body, empty where there is none."""
        text = self.body if self.length_header is None else self.body[: int(self.length_header)]
        return dict(json.loads(text)) if text else {}

    def tail(self) -> bytes:
        """What follows the JSON."""
        return b"" if self.length_header is None else self.body[int(self.length_header) :]


async def ask(url: str, case: Case) -> Answer:
    async with (
        asyncio.timeout(20),
        aiohttp.ClientSession() as session,
        session.request(case.as_method(), url + case.path, data=case.body, headers=case.headers) as reply,
    ):
        return Answer(
            status=reply.status,
            kind=reply.content_type,
            length_header=reply.headers.get(LENGTH),
            body=await reply.read(),
        )


@pytest.mark.parametrize("name", CASES)
async def test_triton_and_we_answer_alike(served: Served, triton: str, tmp_path: Path, name: str) -> None:
    # Without softmax, and with the unit matrix: the numbers themselves, as Triton's model answers.
    model = models.dense_classifier(np.eye(10, dtype=np.float32), np.zeros(10, np.float32), batch=-1, softmax=False)
    await served.engine.apply(plan_of(make_slot(tmp_path, model)))
    case = CASES[name]
    theirs, ours = await ask(triton, case), await ask(served.url, case)
    if case.because:
        assert (ours.status, theirs.status) == (case.ours, case.theirs), case.because
        return
    assert ours.status == theirs.status, f"{ours.body[:300]!r} for {theirs.body[:300]!r}"
    if ours.status != 200:
        _assert_error(ours)
        _assert_error(theirs)
        return
    # Triton's binary answers and ours are told apart from JSON by the same header, and hold the same bytes.
    assert (ours.length_header is None) == (theirs.length_header is None)
    if ours.length_header is not None:
        assert ours.kind == theirs.kind == "application/octet-stream"
        assert ours.tail() == theirs.tail()
    if theirs.body:
        _assert_same(ours.document(), theirs.document())


def _assert_error(answer: Answer) -> None:
    assert isinstance(answer.document()["error"], str)


def _assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """All that Triton says is said by us, in the same words; we may say more."""
    own = {"name", "version", "extensions", "platform"} if "extensions" in theirs else {"platform"}
    named = "outputs" if "model_name" in theirs else ""
    for key in theirs.keys() - own - {named}:
        assert ours[key] == theirs[key], key
    assert own - {"platform"} <= ours.keys()
    for one, other in zip(ours.get(named, ()), theirs.get(named, ()), strict=True):
        numbers = one.pop("data", None), other.pop("data", None)
        assert one == other
        if numbers != (None, None):
            np.testing.assert_allclose(*numbers, rtol=1e-6)
