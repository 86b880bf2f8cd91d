"""KServe's own clients, unchanged: `kserve_client.py URL GRPC_ADDRESS MODEL`; prints what they saw as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

PIXELS = np.eye(10, dtype=np.float32)[3:4]


def question(model: str, *, binary: bool) -> InferRequest:
    """One item of which the fourth number is the largest."""
    asked = InferInput("input", [1, 10], "FP32")
    asked.set_data_from_numpy(PIXELS, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[asked], request_id="7")


async def over_http(url: str, model: str, *, binary: bool) -> dict[str, Any]:
    """Ask all that the REST client offers."""
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    answer = await client.infer(url, question(model, binary=binary), model_name=model)
    return {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model_ready": await client.is_model_ready(url, model),
        "best": int(answer.outputs[0].as_numpy().argmax()),
        "id": answer.id,
    }


async def over_grpc(address: str, model: str, *, binary: bool) -> dict[str, Any]:
    """The same over gRPC."""
    client = InferenceGRPCClient(address)
    answer = await client.infer(question(model, binary=binary))
    seen = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model_ready": await client.is_model_ready(model),
        "best": int(answer.outputs[0].as_numpy().argmax()),
        "id": answer.id,
    }
    await client.close()
    return seen


async def main(url: str, address: str, model: str) -> None:
    """Ask both, with tensors as numbers and as bytes."""
    seen = {
        "http_json": await over_http(url, model, binary=False),
        "http_binary": await over_http(url, model, binary=True),
        "grpc_typed": await over_grpc(address, model, binary=False),
        "grpc_raw": await over_grpc(address, model, binary=True),
    }
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
