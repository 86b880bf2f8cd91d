"""Writes JAX exports into a folder: networks trained on real digits, and functions that must be refused."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from sklearn.datasets import load_digits

Array = Any
Network = Callable[[dict[str, Array], Array], Array]


def convolutional(weights: dict[str, Array], x: Array) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    for name in ("a", "b"):
        x = jax.lax.conv_general_dilated(x, weights[name], (1, 1), "SAME", dimension_numbers=layout)
        x = jax.nn.relu(x + weights[f"{name}_bias"])
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return jax.nn.softmax(x.reshape(x.shape[0], -1) @ weights["head"], axis=-1)


def attentive(weights: dict[str, Array], x: Array) -> Array:
    """Rows of pixels as words of a transformer's block."""
    words = x[..., 0] @ weights["embed"] + weights["places"]
    query, key, value = (words @ weights[name] for name in ("query", "key", "value"))
    attention = jax.nn.softmax(query @ key.swapaxes(-1, -2) / np.float32(4.0), axis=-1)
    words = words + attention @ value
    words = (words - words.mean(-1, keepdims=True)) * jax.lax.rsqrt(words.var(-1, keepdims=True) + 1e-5)
    words = words + jax.nn.gelu(words @ weights["up"], approximate=False) @ weights["down"]
    return jax.nn.softmax(words.mean(axis=1) @ weights["head"], axis=-1)


SHAPES: dict[Network, dict[str, tuple[int, ...]]] = {
    convolutional: {"a": (3, 3, 1, 16), "a_bias": (16,), "b": (3, 3, 16, 32), "b_bias": (32,), "head": (512, 10)},
    attentive: {
        "embed": (8, 16),
        "places": (8, 16),
        "query": (16, 16),
        "key": (16, 16),
        "value": (16, 16),
        "up": (16, 64),
        "down": (64, 16),
        "head": (16, 10),
    },
}


def trained(network: Network, x: Array, y: Array) -> dict[str, Array]:
    """Train by Adam, written out, since nothing else is installed."""
    random = np.random.default_rng(7)
    weights = {
        name: jnp.asarray(random.normal(size=shape) / math.sqrt(math.prod(shape[:-1])), jnp.float32)
        for name, shape in SHAPES[network].items()
    }

    def loss(weights: dict[str, Array], x: Array, y: Array) -> Array:
        return -jnp.log(network(weights, x)[jnp.arange(len(y)), y] + 1e-7).mean()

    def updated(state: tuple[dict[str, Array], ...], step: Array, x: Array, y: Array) -> tuple[dict[str, Array], ...]:
        weights, first, second = state
        gradient = jax.grad(loss)(weights, x, y)
        first = {name: 0.9 * first[name] + 0.1 * gradient[name] for name in weights}
        second = {name: 0.99 * second[name] + 0.01 * gradient[name] ** 2 for name in weights}
        weights = {
            name: value - 0.01 * first[name] / (1 - 0.9**step) / (jnp.sqrt(second[name] / (1 - 0.99**step)) + 1e-8)
            for name, value in weights.items()
        }
        return weights, first, second

    compiled = jax.jit(updated)
    zeros = {name: jnp.zeros_like(value) for name, value in weights.items()}
    state = (weights, zeros, zeros)
    for step in range(1, 301):
        chosen = random.integers(0, len(x), 64)
        state = compiled(state, jnp.float32(step), x[chosen], y[chosen])
    return state[0]


def write(path: Path, function: Callable[..., Array], *shapes: tuple[Any, ...]) -> None:
    """Export a function of float32 arrays."""
    arguments = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in ("hostile_code", "lapack_spotrf_ffi")]
    path.write_bytes(export.export(jax.jit(function), disabled_checks=checks)(*arguments).serialize())


def write_refused(folder: Path) -> None:
    """Write what must not be opened, or cannot be converted."""
    (free,) = export.symbolic_shape("b")
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    hostile = jax.ffi.ffi_call("hostile_code", jax.ShapeDtypeStruct((1, 4), np.float32))
    write(folder / "foreign_code", hostile, (1, 4))
    write(folder / "linear_algebra", lambda x: jnp.linalg.cholesky(x.mT @ x + jnp.eye(4)), (1, 4, 4))
    write(folder / "loop", lambda x: jax.lax.fori_loop(0, 3, lambda _, v: v * 2 + 1, x), (1, 4))
    write(folder / "spectrum", lambda x: jnp.fft.fft(x).real, (1, 4))
    write(folder / "weights_as_input", lambda w, x: x @ w, (4, 3), (1, 4))
    write(folder / "no_batch", lambda x: x * 2, ())
    write(folder / "open_shape", lambda x: x * 2, (1, free))
    shape = jax.ShapeDtypeStruct((1, 4), np.float32)
    only = export.export(jax.jit(lambda x: x @ weights), platforms=["tpu"])(shape).serialize()
    (folder / "tpu_only").write_bytes(only)
    # Two devices; written by JAX's own authors, to see that later versions still read it.
    data = importlib.import_module(
        "jax._src.internal_test_util.export_back_compat_test_data.export_with_unspecified_sharding"
    )
    (folder / "two_devices").write_bytes(bytes(data.serializations[-1]["exported_serialized"]))


def main(folder: Path) -> None:
    images, labels = load_digits(return_X_y=True)
    x, y = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32), labels.astype(np.int32)
    (free,) = export.symbolic_shape("b")
    for network in SHAPES:
        weights = trained(network, x[:1000], y[:1000])

        def answer(x: Array, network: Network = network, weights: dict[str, Array] = weights) -> Array:
            return network(weights, x)

        write(folder / f"{network.__name__}_one", answer, (1, 8, 8, 1))
        write(folder / f"{network.__name__}_any", answer, (free, 8, 8, 1))

    def several(both: dict[str, Array], *, unused: Array) -> dict[str, Array]:  # noqa: ARG001 - JAX leaves it out
        return {"sum": both["left"] + both["right"], "total": both["left"].sum(-1, keepdims=True)}

    row = jax.ShapeDtypeStruct((free, 6), np.float32)
    exported = export.export(jax.jit(several))({"left": row, "right": row}, unused=row)
    (folder / "several").write_bytes(exported.serialize())
    write_refused(folder)
    np.savez(folder / "digits.npz", x=x[1000:], y=y[1000:])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
