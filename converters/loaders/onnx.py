"""ONNX models: simplified, brought to PyTorch, and from there to `.tflite`; answering in onnxruntime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from converters.failures import UnsupportedOperatorError
from converters.loaders import onnx_file, onnx_graph
from converters.loaders.channels import channels_first, is_channel_first_image
from converters.loaders.torch_lowering import Entry, to_tflite
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from converters.frontends.frontend import Tensor

_TRAINING_ONLY = frozenset({"Dropout"})


class OnnxSource:
    """An ONNX model, as onnxruntime answers for it."""

    def __init__(self, model: onnx_file.Model) -> None:
        import onnxruntime

        self._model = model
        self._inputs = onnx_file.inputs(model)
        self._entries = [
            Entry(
                shape=item.shape,
                dtype=item.dtype,
                image=is_channel_first_image((item.batch, *item.shape), item.dtype),
            )
            for item in self._inputs
        ]
        self._operators = onnx_file.histogram(model)
        self._session = _session(model)
        self._served = self._inputs[0].batch
        self._name = f"onnxruntime {onnxruntime.__version__}"

    @property
    def name(self) -> str:
        """Framework and version."""
        return self._name

    @property
    def parameters(self) -> int:
        """Floating-point numbers that the graph holds."""
        return onnx_file.parameters(self._model)

    @property
    def operators(self) -> Mapping[str, int]:
        """ONNX operators as exported."""
        return self._operators

    @property
    def removed(self) -> Sequence[str]:
        """Training-only operators."""
        found = [(name, count) for name, count in self._operators.items() if name in _TRAINING_ONLY]
        return [name if count == 1 else f"{name} x{count}" for name, count in found]

    def to_tflite(self, batch: int | None) -> bytes:
        """Return the model as a float `.tflite`; images have their channels last there.

        Raises:
            InvalidInputError: the model cannot take that batch.
            UnsupportedOperatorError: names the operators.
            SchemeFailedError: it cannot be simplified or converted.
        """
        # Some models mix the items of a batch (magika 1.0.3 by 4e-3): their answers are those of the batch served.
        self._served = self._inputs[0].batch or batch
        return to_tflite(lambda size: onnx_graph.module(self._model, self._inputs, size), self._entries, batch)

    def answer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Answer in onnxruntime; the items come in batches of the size that is served.

        Raises:
            InvalidInputError: the model cannot take these inputs.
        """
        samples = len(inputs[0])
        step = self._served or max(samples, 1)
        pieces = [self._run([tensor[at : at + step] for tensor in inputs], step) for at in range(0, samples, step)]
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]

    def _run(self, inputs: Sequence[Tensor], batch: int) -> list[Tensor]:
        count, feed = len(inputs[0]), {}
        for tensor, entry, item in zip(inputs, self._entries, self._inputs, strict=True):
            ordered = channels_first(tensor) if entry.image else tensor
            # The last batch may be short: filled up with its last item, whose further answers are dropped.
            missing = batch - count if item.batch is not None else 0
            filled = np.concatenate([ordered, *[ordered[-1:]] * missing])
            feed[item.name] = filled.astype(item.dtype)
        try:
            return [np.asarray(output)[:count] for output in self._session.run(None, feed)]
        except Exception as exc:
            problem = f"onnxruntime cannot answer {[item.shape for item in inputs]}: {_first_line(exc)}"
            raise InvalidInputError(field="source", problem=problem) from exc


def open_source(path: Path, scratch: Path) -> OnnxSource:  # noqa: ARG001 - nothing is unpacked
    """Open an `.onnx` file; nothing that it points at is read.

    Raises:
        InvalidInputError: no ONNX model, or one that has weights elsewhere, or takes what no `.tflite` does.
        UnsupportedOperatorError: names the operators.
    """
    return OnnxSource(onnx_file.read(path))


def _session(model: onnx_file.Model) -> Any:  # noqa: ANN401 - onnxruntime ships no types
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as exc:
        if "NOT_IMPLEMENTED" in str(exc):
            raise UnsupportedOperatorError(f"onnxruntime cannot run it: {_first_line(exc)}") from exc
        raise InvalidInputError(
            field="source", problem=f"onnxruntime cannot open it: {_first_line(exc)}", remedy="does it run elsewhere?"
        ) from exc


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0][:300]
