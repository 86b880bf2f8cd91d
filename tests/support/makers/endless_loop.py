"""Writes a `.tflite` whose loop ends when its input is above zero: with zeros, never."""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow as tf


def count(given: tf.Tensor) -> tf.Tensor:
    """Double until the sum is above one."""
    return tf.while_loop(lambda value: tf.reduce_sum(value) <= 1.0, lambda value: [value * 2.0], [given])[0]


traced = tf.function(count, input_signature=[tf.TensorSpec([1, 10], tf.float32, name="input")])
owner = tf.Module()
owner.count = traced
converter = tf.lite.TFLiteConverter.from_concrete_functions([traced.get_concrete_function()], owner)
Path(sys.argv[1]).write_bytes(converter.convert())
