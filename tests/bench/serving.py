"""How much of a request is HTTP: `python -m tests.bench.serving`. Not run by the tests; needs a quiet machine.

For each model: raw invocations in this process, then the same through the real serving process with 1 and 16 callers.
CPU time of the server per request is the figure to trust on a shared machine; wall time swings.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import numpy as np

from agent.serving.loading import open_litert, zeros
from tests.support import models
from tests.support.serving import MODEL, Device, make_slot, plan_of

RUN_S = 3.0
MODELS = {
    "10-10": models.one_hot_classifier(),
    "64-10": models.random_classifier(64, 10, seed=1),
    "784-1000": models.random_classifier(784, 1000, seed=1),
    "2000-2000": models.random_classifier(2000, 2000, seed=1),
}


def raw_us(model: bytes) -> float:
    """Median time of an invocation."""
    interpreter = open_litert(model, 1)
    inputs, took = zeros(interpreter), []
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end:
        started = time.perf_counter()
        interpreter.run(inputs)
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1e6


def cpu_us(pid: int) -> float:
    """CPU time of all threads of a process so far."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1000


def pss_mib(pid: int) -> float:
    """Proportional set size."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def call(url: str, body: bytes, callers: int) -> list[float]:
    """Ask for a while; returns how long each request took, in ms."""
    took: list[float] = []
    end = time.perf_counter() + RUN_S

    async def one(session: aiohttp.ClientSession) -> None:
        while (started := time.perf_counter()) < end:
            async with session.post(url, data=body) as reply:
                await reply.read()
                assert reply.status == 200
            took.append((time.perf_counter() - started) * 1000)

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(one(session))
    return took


def measure(name: str, model: bytes) -> None:
    """Print one row a number of callers."""
    inputs = zeros(open_litert(model, 1))[0]
    tensor = {"name": "x", "shape": list(inputs.shape), "datatype": "FP32", "data": np.ravel(inputs).tolist()}
    body, raw = json.dumps({"inputs": [tensor]}).encode(), raw_us(model)
    with tempfile.TemporaryDirectory() as folder, Device(Path(folder) / "state") as device:
        device.write_boot(plan_of(make_slot(device.releases, model)))
        device.start()
        device.wait_ready()
        pid = device.serving_pid()
        assert pid is not None
        for callers in (1, 16):
            before = cpu_us(pid)
            took = sorted(asyncio.run(call(f"{device.url}/v2/models/{MODEL}/infer", body, callers)))
            cpu = (cpu_us(pid) - before) / len(took)
            p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
            sys.stdout.write(
                f"{name:>10} {raw:9.1f} {callers:3d} {len(took) / RUN_S:9.0f} {p50:8.2f} {p99:8.2f}"
                f" {cpu:9.0f} {cpu / raw:8.1f} {pss_mib(pid):8.1f}\n"
            )


if __name__ == "__main__":
    sys.stdout.write(
        f"{'model':>10} {'raw us':>9} {'c':>3} {'req/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'cpu us/rq':>9} {'x raw':>8}"
        f" {'PSS MiB':>8}\n"
    )
    for each, content in MODELS.items():
        measure(each, content)
