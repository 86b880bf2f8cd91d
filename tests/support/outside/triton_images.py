"""NVIDIA's own client sends images, unchanged: `triton_images.py HTTP GRPC MODEL HEX…`; prints what it saw as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http


def ask(client: Any, made: Any, model: str, images: list[bytes]) -> list[str]:  # noqa: ANN401 - either client
    """Return the labels of the images; `made` is the client's module."""
    asked = made.InferInput("image", [len(images), 1], "BYTES")
    asked.set_data_from_numpy(np.array(images, dtype=np.object_).reshape(-1, 1))
    result = client.infer(model, [asked])
    return [label.decode() for label in result.as_numpy("labels")]


if __name__ == "__main__":
    http, grpc, name, *texts = sys.argv[1:]
    images = [bytes.fromhex(each) for each in texts]
    with tritonclient.http.InferenceServerClient(http) as by_http:
        seen = {"http": ask(by_http, tritonclient.http, name, images)}
    with tritonclient.grpc.InferenceServerClient(grpc) as by_grpc:
        seen["grpc"] = ask(by_grpc, tritonclient.grpc, name, images)
    sys.stdout.write(json.dumps(seen))
