"""A real Triton that serves one model, which names the largest of ten numbers, until its input is closed.

Writes its HTTP port as one line of JSON; whatever else it writes is Triton's own log.
"""

import json
import socket
import sys

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

HOST = "127.0.0.1"
MODEL, INPUT, OUTPUT = sys.argv[1:4]


def answer(**inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Give the numbers back: enough to see whose the largest is."""
    return {OUTPUT: inputs[INPUT]}


def free_port() -> int:
    """Return a port that nobody holds at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Serve."""
    port = free_port()
    config = TritonConfig(
        http_address=HOST,
        http_port=port,
        grpc_address=HOST,
        grpc_port=free_port(),
        metrics_port=free_port(),
        allow_metrics=False,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=MODEL,
            infer_func=batch(answer),
            inputs=[Tensor(name=INPUT, dtype=np.float32, shape=(10,))],
            outputs=[Tensor(name=OUTPUT, dtype=np.float32, shape=(10,))],
            config=ModelConfig(max_batch_size=16),
            strict=True,
        )
        triton.run()
        sys.stdout.write(json.dumps({"http_port": port}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
