"""A small real network that is trained, trained further, and made int8: what releases of one model look like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import keras


class DigitNetwork:
    """A network on scikit-learn's digits, trained, trained further, and made int8."""

    def __init__(self) -> None:
        import keras
        from sklearn.datasets import load_digits

        keras.utils.set_random_seed(1)
        images, self.labels = load_digits(return_X_y=True)
        self.images = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
        self.model = self._network()
        self.train(self.model, keras.optimizers.Adam(1e-3), slice(0, 1_000), epochs=4)
        self.int8 = self._converted(self.model)

    def further(self, train: Callable[[keras.Model], None]) -> bytes:
        """Return what training a copy further makes of it; batch normalisation as at inference, as is usual then."""
        import keras

        copy = self._network()
        copy.set_weights(self.model.get_weights())
        for layer in copy.layers:
            layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
        train(copy)
        return self._converted(copy)

    def head(self, model: keras.Model) -> None:
        """Train the last layer alone, on new samples."""
        import keras

        for layer in model.layers:
            layer.trainable = layer.name == "head"
        self.train(model, keras.optimizers.Adam(1e-3), slice(1_000, 1_500), epochs=3)

    def everything(self, model: keras.Model) -> None:
        """Train all layers a little, on new samples."""
        import keras

        self.train(model, keras.optimizers.SGD(1e-3), slice(1_000, 1_500), epochs=1)

    def _network(self) -> keras.Model:
        from keras import Input, Sequential, layers

        convolutions = [
            layer
            for filters in (32, 64, 96, 128, 192)
            for layer in (
                layers.Conv2D(filters, 3, strides=2 if filters == 96 else 1, padding="same", use_bias=False),
                layers.BatchNormalization(momentum=0.8),
                layers.ReLU(),
            )
        ]
        head = layers.Dense(10, activation="softmax", name="head")
        return Sequential([Input((8, 8, 1)), *convolutions, layers.GlobalAveragePooling2D(), head])

    def train(self, model: keras.Model, optimizer: keras.Optimizer, samples: slice, *, epochs: int) -> None:
        """Train on some of the samples."""
        model.compile(optimizer, "sparse_categorical_crossentropy")
        model.fit(self.images[samples], self.labels[samples], epochs=epochs, batch_size=32, verbose=0)

    def _converted(self, model: keras.Model) -> bytes:
        import tensorflow as tf

        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([self.images[n : n + 1]] for n in range(100))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        made: bytes = converter.convert()
        return made
