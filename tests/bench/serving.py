"""What serving costs beside the bare interpreter, a bare protocol and MLServer: `python -m tests.bench.serving`.

Not run by the tests; takes a few minutes, `--quick` one. Everything that is compared is asked in turns. CPU time of the
server's processes for each request is the figure to trust on a shared machine: the clock on the wall swings. Routing,
metrics and the check of an application's key are on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from agent.core.plan import Plan, Route
from agent.serving.models.loading import open_litert
from agent.serving.models.probing import zeros
from shared.applications import ApplicationGrant, key_hash
from shared.wire import AssignmentStatus
from tests.bench import serving_models as made
from tests.bench.serving_processes import (
    Measured,
    Server,
    floor,
    interleaved,
    measure_beside,
    mlserver,
    pss_mib,
    reply_to,
)
from tests.support.device_world import DeviceWorld
from tests.support.models import one_hot_classifier
from tests.support.mosquitto import Mosquitto
from tests.support.serving import Device
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.core.plan import SlotSpec

LEAN = "tests.support.lean_serving"
SMALL = np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)
WIDE = np.random.default_rng(1).random((1, 256)).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long each thing is measured."""

    seconds: float
    rounds: int
    idle_s: float


FULL, QUICK = Effort(seconds=2.0, rounds=5, idle_s=20.0), Effort(seconds=0.7, rounds=2, idle_s=4.0)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def goal(what: str, value: float, limit: float, *, unit: str = "", at_least: bool = False) -> None:
    """Print a goal, and whether it was met."""
    met = value >= limit if at_least else value <= limit
    say(f"  {'met    ' if met else 'NOT MET'}  {what}: {value:.3g} {unit} ({'≥' if at_least else '≤'} {limit:g})")


def row(name: str, callers: int, found: Measured) -> None:
    """Print one load on one server."""
    load = found.load
    say(
        f"{name:34} {callers:3d} {found.cpu_us:9.0f} {load.rate:9.0f} {load.p50_ms:8.2f} {load.p99_ms:8.2f}"
        f" {load.own_cpu_us:9.0f}"
    )


def head(title: str) -> None:
    """Print the head of a table."""
    say(f"\n{title}\n{'':34} {'c':>3} {'cpu us/rq':>9} {'rq/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'caller us':>9}")


def cpu_us_of(work: Callable[[], object], *, seconds: float) -> float:
    """Median CPU time of this process for a call."""
    work()
    took, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return statistics.median(took) * 1e6


@contextlib.contextmanager
def serving(*slots: Callable[[Path], SlotSpec]) -> Iterator[tuple[Device, Server]]:
    """Run the supervisor with a serving process that holds these; nobody calls without a key there."""
    with tempfile.TemporaryDirectory() as folder, Device(Path(folder) / "state", serving=LEAN) as device:
        held = tuple(write(device.releases) for write in slots)
        device.write_boot(_plan(*held))
        device.start()
        device.wait_ready()
        pid = device.serving_pid()
        assert pid is not None
        yield device, Server(name="litefleet", port=device.port, pid=pid)


def _plan(*held: SlotSpec) -> Plan:
    routes = tuple(Route(model=each.model, primary=each.release_id) for each in held)
    grant = ApplicationGrant(application="bench", key_sha256=key_hash(made.KEY), models=("*",))
    return Plan(serial=1, slots=held, routes=routes, applications=(grant,))


def small_model(effort: Effort) -> None:
    """The tiny MLP: what a request costs when the model costs nothing."""
    model = made.mlp()
    interpreter = open_litert(model, 1)
    raw_us = cpu_us_of(lambda: interpreter.run([SMALL]), seconds=effort.seconds / 4)
    as_json, as_bytes = made.json_request("mlp", SMALL), made.binary_request("mlp", SMALL)
    with contextlib.ExitStack() as stack:
        _, ours = stack.enter_context(serving(lambda releases: made.slot(releases, "mlp", model)))
        bare = stack.enter_context(floor(reply_to(ours.port, as_json)))
        peer = stack.enter_context(mlserver(model, "mlp"))
        head(f"MLP 4-3, {raw_us:.1f} us of CPU raw")
        for callers in (1, 16):
            asked = [(bare, as_json), (ours, as_json), (ours, as_bytes), (peer, as_json)]
            found = interleaved(asked, connections=callers, seconds=effort.seconds, rounds=effort.rounds)
            names = ("asyncio.Protocol, same bytes", "litefleet, JSON", "litefleet, binary", "MLServer, JSON")
            for name, each in zip(names, found, strict=True):
                row(name, callers, each)
            _, plain, binary, theirs = (each.cpu_us for each in found)
            goal(f"JSON, {callers} connections", plain, 170, unit="us")
            goal(f"binary, {callers} connections", binary, 150, unit="us")
            goal(f"MLServer / ours, JSON, {callers} connections", theirs / plain, 4, unit="x", at_least=True)


def images(effort: Effort) -> None:
    """A photograph to labels, against the same work without a server; and who waits beside it."""
    model, encoded = made.mobilenet(), made.photograph()
    interpreter = open_litert(model, 1)
    wanted = interpreter.inputs[0].shape[1]

    def bare() -> list[int]:
        image = Image.open(io.BytesIO(encoded))
        image.draft("RGB", (wanted, wanted))
        pixels = np.asarray(image.convert("RGB").resize((wanted, wanted), Image.Resampling.BILINEAR))
        scores = interpreter.run([pixels[np.newaxis]])[0][0]
        return list(np.argsort(-scores.astype(np.float32), kind="stable")[:5])

    request, quick = made.image_request("photos", encoded), made.json_request("mlp", SMALL)
    with serving(
        lambda releases: made.slot(releases, "mlp", made.mlp()),
        lambda releases: made.slot(releases, "photos", model, made.IMAGES),
    ) as (device, ours):
        reply_to(ours.port, request)
        raw = [cpu_us_of(bare, seconds=effort.seconds / 2) for _ in range(effort.rounds)]
        asked = (ours, request)
        found = {
            callers: interleaved([asked], connections=callers, seconds=effort.seconds, rounds=effort.rounds)[0]
            for callers in (1, 4)
        }
        raw += [cpu_us_of(bare, seconds=effort.seconds / 2) for _ in range(effort.rounds)]
        raw_us = statistics.median(raw)
        head(f"JPEG 640x480 of {len(encoded)} bytes, MobileNetV2-0.35 int8: {raw_us:.0f} us of CPU in-process")
        for callers, each in found.items():
            row("litefleet, JPEG to labels", callers, each)
            goal(f"JPEG over HTTP / in-process, {callers} connections", each.cpu_us / raw_us, 1.2, unit="x")
        beside, _ = measure_beside(ours, quick, load=request, connections=4, seconds=max(2.0, effort.seconds))
        say(f"another model beside 4 connections of JPEG: p50 {beside.p50_ms:.2f} ms, p99 {beside.p99_ms:.2f} ms")
        goal("p50 of another endpoint under JPEG load", beside.p50_ms, 2, unit="ms")
        memory(device, ours, effort)


def control_mib() -> float:
    """PSS of the control process of a device that has committed a release and is connected to a broker."""

    async def look() -> float:
        with Mosquitto() as broker, tempfile.TemporaryDirectory() as folder:
            async with DeviceWorld(Path(folder), broker, control="tests.support.lean_control") as world:
                world.device.start()
                await world.pulse()
                await world.desire(world.release("release-1", one_hot_classifier()))
                await world.reported("release-1", AssignmentStatus.SUCCEEDED)
                pid = world.device.control_pid()
                assert pid is not None
                return pss_mib(pid)

    return asyncio.run(look())


def memory(device: Device, ours: Server, effort: Effort) -> None:
    """What the processes take, and how much when nobody asks."""
    serving_mib, supervisor_mib = pss_mib(ours.pid), pss_mib(device.supervisor_pid)
    say(f"\nPSS: serving {serving_mib:.1f} MiB with both models, supervisor {supervisor_mib:.1f} MiB")
    goal("PSS of serving, MLP and MobileNetV2 loaded", serving_mib, 64, unit="MiB")
    whole_mib = serving_mib + supervisor_mib + control_mib()
    goal("PSS of the whole agent", whole_mib, 110, unit="MiB")
    before, began = ours.cpu_us(), time.monotonic()
    wait_until(lambda: time.monotonic() - began >= effort.idle_s, within_s=effort.idle_s + 5, what="time passed")
    goal("idle CPU of serving", (ours.cpu_us() - before) / (time.monotonic() - began) / 1e4, 0.05, unit="%")


def batches(effort: Effort) -> None:
    """The dense model with a batch that is free, and with one that is fixed: the same work, joined and not."""
    free, fixed = made.dense(batch=None), made.dense(batch=1)
    interpreter = open_litert(free, 1)
    raw_us = cpu_us_of(lambda: interpreter.run(zeros(interpreter)), seconds=effort.seconds / 4)
    with serving(
        lambda releases: made.slot(releases, "joined", free), lambda releases: made.slot(releases, "single", fixed)
    ) as (_, ours):
        head(f"dense 256-1024-1024-10, {raw_us:.0f} us of CPU raw, binary")
        asked = [(ours, made.binary_request(name, WIDE)) for name in ("joined", "single")]
        for callers in (1, 16):
            found = interleaved(asked, connections=callers, seconds=effort.seconds, rounds=effort.rounds)
            for name, each in zip(("batch free", "batch fixed"), found, strict=True):
                row(name, callers, each)
            joined, single = found
            if callers == 1:
                goal("CPU of one connection, batched / unbatched", joined.cpu_us / single.cpu_us, 1.05, unit="x")
            else:
                rates = joined.load.rate / single.load.rate
                goal("rate at 16 connections, batched / unbatched", rates, 2, unit="x", at_least=True)


def start(effort: Effort) -> None:
    """From nothing to the first answer."""
    took = []
    request = made.json_request("mlp", SMALL)
    for _ in range(effort.rounds):
        with tempfile.TemporaryDirectory() as folder, Device(Path(folder) / "state", serving=LEAN) as device:
            held = made.slot(device.releases, "mlp", made.mlp())
            device.write_boot(_plan(held))
            answered = partial(_answers, device.port, request)
            began = time.monotonic()
            device.start()
            wait_until(answered, within_s=30, what="the first answer")
            took.append(time.monotonic() - began)
    say("")
    goal("start to first answer", statistics.median(took), 1.2, unit="s")


def _answers(port: int, request: bytes) -> bool:
    try:
        reply_to(port, request)
    except (OSError, AssertionError):
        return False
    return True


PARTS: dict[str, Callable[[Effort], None]] = {
    "small": small_model,
    "images": images,
    "batches": batches,
    "start": start,
}


def main() -> None:
    """Read the arguments, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute for all of it, and figures that swing more")
    parser.add_argument("--part", choices=sorted(PARTS), action="append", help="only this (again for more)")
    given: Any = parser.parse_args()
    for name in given.part or PARTS:
        PARTS[name](QUICK if given.quick else FULL)


if __name__ == "__main__":
    main()
