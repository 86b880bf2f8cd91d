"""The agent's own loading, probing, batching and answering, with the runtime and the numpy that this environment has.

Arguments: a file with a plan, and one with requests, each a model with rows of numbers or the path of an image. Writes
what was answered, and what was measured, as JSON.
"""

import asyncio
import json
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from agent.core.plan import Plan
from agent.serving.engine import Engine
from agent.serving.exchange import Ask
from agent.serving.models.loading import load_slot, open_litert
from agent.serving.requests import ClassifyRequest, InferRequest, NamedTensor
from shared.ids import BootId, ModelName
from shared.runtime.interpreter import runtime_name_and_version


def request_of(asked: dict[str, object]) -> InferRequest | ClassifyRequest:
    """Return a request as the engine takes it."""
    if "image" in asked:
        return ClassifyRequest(encoded=Path(str(asked["image"])).read_bytes())
    array = np.array(asked["rows"], np.dtype(str(asked["dtype"])))
    return InferRequest(inputs=(NamedTensor(name="input", array=array),))


async def ask(engine: Engine, asked: dict[str, object]) -> dict[str, object]:
    """Answer one request."""
    now = time.monotonic()
    reply = await engine.answer(
        Ask(model=ModelName(str(asked["model"])), version=None, request=request_of(asked), received_s=now)
    )
    engine.finish(reply, ready_s=time.monotonic())
    outcome = reply.outcome
    numbers = [output.array.tolist() for output in outcome.outputs if output.array.dtype.kind in "biuf"]
    labels = [each.label for each in outcome.labels]
    return {"model": asked["model"], "numbers": numbers, "top": outcome.top, "labels": labels, "batch": outcome.batch}


async def main(plan: Plan, asked: list[dict[str, object]]) -> None:
    """Load the plan, ask one after the other, then all at once."""
    engine = Engine(boot_id=BootId("old"), load=partial(load_slot, cores=2, open_interpreter=open_litert))
    applied = await engine.apply(plan)
    alone = [await ask(engine, each) for each in asked]
    # Where callers came one at a time until now, it takes a few before anybody looks for others.
    together: list[asyncio.Task[dict[str, object]]] = []
    for _ in range(3):
        async with asyncio.TaskGroup() as group:
            together = [group.create_task(ask(engine, each)) for each in asked]
    runtime, version = runtime_name_and_version()
    found = {
        "runtime": f"{runtime} {version}",
        "numpy": np.__version__,
        "slots": msgspec.to_builtins(applied.slots),
        "alone": alone,
        "together": [task.result() for task in together],
    }
    await engine.close()
    print(json.dumps(found))  # noqa: T201 - this is the answer


if __name__ == "__main__":
    wanted, questions = (Path(each).read_bytes() for each in sys.argv[1:])
    asyncio.run(main(msgspec.json.decode(wanted, type=Plan), json.loads(questions)))
