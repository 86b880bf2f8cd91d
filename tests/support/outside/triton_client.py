"""NVIDIA's own client, unchanged: `triton_client.py HTTP_ADDRESS GRPC_ADDRESS MODEL`; prints what it saw as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http

PIXELS = np.eye(10, dtype=np.float32)[3:4]


def over_http(address: str, model: str, *, binary: bool) -> dict[str, Any]:
    """Ask all that the client's HTTP face offers for this server's extensions."""
    with tritonclient.http.InferenceServerClient(address) as client:
        asked = tritonclient.http.InferInput("input", [1, 10], "FP32")
        asked.set_data_from_numpy(PIXELS, binary_data=binary)
        wanted = tritonclient.http.InferRequestedOutput("scores", binary_data=binary)
        result = client.infer(model, [asked], outputs=[wanted], request_id="7")
        try:
            client.unload_model(model)
            refused = ""
        except tritonclient.http.InferenceServerException as exc:
            refused = str(exc)
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(model),
            "nobody_ready": client.is_model_ready("nobody"),
            "extensions": client.get_server_metadata()["extensions"],
            "metadata": client.get_model_metadata(model),
            "index": client.get_model_repository_index(),
            "id": result.get_response()["id"],
            "best": int(result.as_numpy("scores").argmax()),
            "counted": client.get_inference_statistics(model)["model_stats"][0]["inference_count"],
            "refused": refused,
        }


def over_grpc(address: str, model: str) -> dict[str, Any]:
    """The same over gRPC."""
    with tritonclient.grpc.InferenceServerClient(address) as client:
        asked = tritonclient.grpc.InferInput("input", [1, 10], "FP32")
        asked.set_data_from_numpy(PIXELS)
        result = client.infer(model, [asked], request_id="7")
        try:
            client.unload_model(model)
            refused = ""
        except tritonclient.grpc.InferenceServerException as exc:
            refused = exc.status()
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(model),
            "nobody_ready": client.is_model_ready("nobody"),
            "extensions": client.get_server_metadata(as_json=True)["extensions"],
            "metadata": client.get_model_metadata(model, as_json=True),
            "index": client.get_model_repository_index(as_json=True)["models"],
            "id": result.get_response().id,
            "best": int(result.as_numpy("scores").argmax()),
            "counted": int(client.get_inference_statistics(model).model_stats[0].inference_count),
            "refused": refused,
        }


if __name__ == "__main__":
    http, grpc, name = sys.argv[1:]
    seen = {
        "http_binary": over_http(http, name, binary=True),
        "http_json": over_http(http, name, binary=False),
        "grpc": over_grpc(grpc, name),
    }
    sys.stdout.write(json.dumps(seen))
