"""What a second serving process brings, and what callers notice of a swap: `python -m tests.bench.scaling`.

Not run by the tests; takes two minutes. Servers are asked in turns. A machine that does other things gives one process
and two different shares of its cores, so that the rate for each core that was had is told beside the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from agent.core.plan import Plan, Route
from agent.serving.planned.link import ServingClient
from shared.applications import ApplicationGrant, key_hash
from shared.ids import ReleaseId
from tests.bench import serving_models as made
from tests.bench.serving_processes import Measured, Server, measure
from tests.support import models
from tests.support.load_generator import Tally, Wish
from tests.support.ports import LOOPBACK
from tests.support.serving import MODEL, ROOT, Device, infer_body, make_slot, one_hot, plan_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.core.plan import SlotSpec

CALLERS = 16
GRANT = ApplicationGrant(application="bench", key_sha256=key_hash(made.KEY), models=("*",))
SMALL = np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)
QUIET_S = 0.25
"""Between two swaps, so that there are answers to compare with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A way to serve."""

    name: str
    processes: int
    cores: int


SETTINGS = (
    Setting(name="1 process, 1 core", processes=1, cores=1),
    Setting(name="1 process, 2 cores", processes=1, cores=2),
    Setting(name="2 processes, 2 cores", processes=2, cores=2),
)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def serving(setting: Setting, write: Callable[[Path], SlotSpec]) -> Iterator[Server]:
    """Run a supervisor and what it starts on so many cores."""
    ours = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        device = running.enter_context(Device(Path(folder) / "state", processes=setting.processes))
        slot = write(device.releases)
        route = Route(model=slot.model, primary=slot.release_id)
        device.write_boot(Plan(serial=1, slots=(slot,), routes=(route,), applications=(GRANT,)))
        # Children inherit it.
        os.sched_setaffinity(0, set(sorted(ours)[: setting.cores]))
        device.start()
        os.sched_setaffinity(0, ours)
        device.wait_ready()
        yield Server(name=setting.name, port=device.port, pid=device.supervisor_pid)


def scaling(what: str, write: Callable[[Path], SlotSpec], request: bytes, *, seconds: float, rounds: int) -> None:
    """Print what each setting answers in a second."""
    found: dict[str, list[Measured]] = {setting.name: [] for setting in SETTINGS}
    with contextlib.ExitStack() as running:
        servers = [running.enter_context(serving(setting, write)) for setting in SETTINGS]
        for _ in range(rounds):
            for server in servers:
                found[server.name].append(measure(server, request, connections=CALLERS, seconds=seconds))
    say(f"\n{what}\n{'':24} {'rq/s':>8} {'ratio':>14} {'cpu us/rq':>10} {'cores had':>10} {'rq/s/core':>10}")
    base = [each.load.rate for each in found[SETTINGS[0].name]]
    for name, runs in found.items():
        ratios = sorted(each.load.rate / first for each, first in zip(runs, base, strict=True))
        rate, cpu_us = (statistics.median(each) for each in ([r.load.rate for r in runs], [r.cpu_us for r in runs]))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        cores = statistics.median(each.load.rate * each.cpu_us / 1e6 for each in runs)
        say(f"{name:24} {rate:8.0f} {spread:>14} {cpu_us:10.0f} {cores:10.2f} {1e6 / cpu_us:10.0f}")


async def swap(device: Device, plans: list[Plan], asking: asyncio.subprocess.Process) -> list[tuple[float, float]]:
    """Put plans in force in turns with quiet times between; returns when each began and ended."""
    client, windows, serial = ServingClient(device.run / "serving.sock"), list[tuple[float, float]](), 1
    while asking.returncode is None:
        serial += 1
        began = time.monotonic()
        await client.set_plan(msgspec.structs.replace(plans[serial % len(plans)], serial=serial))
        windows.append((began, time.monotonic()))
        await asyncio.sleep(QUIET_S)
    await client.close()
    return windows


async def swapping(device: Device, plans: list[Plan], wish: Wish) -> tuple[Tally, list[tuple[float, float]]]:
    """Ask and swap at once."""
    command = [sys.executable, "-m", "tests.support.load_generator"]
    asking = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    async with asyncio.TaskGroup() as group:
        swaps = group.create_task(swap(device, plans, asking))
        told, _ = await asking.communicate(msgspec.json.encode(wish))
    return msgspec.json.decode(told, type=Tally), swaps.result()


def swaps(*, seconds: float) -> None:
    """Print what callers notice of a revert between two resident releases, and of one that has to load."""
    model = models.one_hot_classifier()
    with tempfile.TemporaryDirectory() as folder, Device(Path(folder) / "state") as device:
        old = make_slot(device.releases, model)
        new = make_slot(device.releases, model, release=ReleaseId("new"), version=2)
        both = plan_of(old, new)
        forth = Plan(serial=1, slots=(old, new), routes=(Route(model=MODEL, primary=new.release_id),))
        device.write_boot(both)
        device.start()
        device.wait_ready()
        path, body = f"/v2/models/{MODEL}/infer", infer_body(one_hot(3)).decode()
        wish = Wish(
            host=LOOPBACK,
            port=device.port,
            path=path,
            body=body,
            connections=CALLERS,
            run_s=seconds,
            keep_times=True,
        )
        for name, plans in (
            ("revert, both resident", [both, forth]),
            ("swap, new one loads", [plan_of(old), plan_of(new)]),
        ):
            tally, windows = asyncio.run(swapping(device, plans, wish))
            _say_windows(name, tally, windows)


def _say_windows(name: str, tally: Tally, windows: list[tuple[float, float]]) -> None:
    # A long request falls into a window more easily than a short one: so it is held against those that fall into
    # windows of the same lengths in the quiet between.
    shifted = [(began + QUIET_S / 2, end + QUIET_S / 2) for began, end in windows]
    touched, quiet = _within(tally, windows), _within(tally, shifted)
    took = sorted((end - began) * 1000 for began, end in windows)
    say(
        f"{name:24} {len(took):4d} swaps, median {statistics.median(took):.1f} ms, longest {took[-1]:.1f} ms; "
        f"{tally.total} answers, {len(tally.failures)} failures; p50 quiet {_share(quiet, 50):.1f} ms, in swaps "
        f"{_share(touched, 50):.1f} ms; p99 quiet {_share(quiet, 99):.1f} ms, in swaps {_share(touched, 99):.1f} ms "
        f"({_share(touched, 99) / _share(quiet, 99) - 1:+.0%}, of {len(touched)} and {len(quiet)} answers)"
    )


def _within(tally: Tally, windows: list[tuple[float, float]]) -> list[float]:
    """Return what requests took of which any part fell into a window, in ms."""
    found = list[float]()
    for ended, took_s in tally.times:
        if any(ended >= began and ended - took_s <= end for began, end in windows):
            found.append(took_s * 1000)
    return found


def _share(values: list[float], percent: int) -> float:
    return sorted(values)[len(values) * percent // 100]


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--swaps-only", action="store_true")
    asked = parser.parse_args()
    if not asked.swaps_only:
        scalings(asked.seconds, asked.rounds)
    swaps(seconds=5 * asked.seconds)


def scalings(seconds: float, rounds: int) -> None:
    """Measure a model that computes, and one that does not."""
    photograph = made.image_request("net", made.photograph())
    scaling(
        "640x480 JPEG to labels by MobileNetV2-0.35 int8",
        lambda releases: made.slot(releases, "net", made.mobilenet(), made.IMAGES),
        photograph,
        seconds=seconds,
        rounds=rounds,
    )
    scaling(
        "4 to 3 MLP in JSON",
        lambda releases: made.slot(releases, "mlp", made.mlp()),
        made.json_request("mlp", SMALL),
        seconds=seconds,
        rounds=rounds,
    )


if __name__ == "__main__":
    main()
