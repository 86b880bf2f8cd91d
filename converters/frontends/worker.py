"""`python -m converters.frontends.worker`: opens one model in its own framework, makes and proves the float `.tflite`.

Runs in the environment of the model's format, under `guard`; see `converters.frontends.frontend` for what it is told
and says. What is the same for all frameworks is here; what is not, in `converters.loaders`.
"""

from __future__ import annotations

import contextlib
import importlib
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from converters.data.streams import protected_stdout
from converters.failures import ConversionFailedError, SchemeFailedError
from converters.frontends.frontend import (
    AnswerRequest,
    Answers,
    FloatModel,
    FrontendFailure,
    FrontendProgress,
    FrontendRequest,
)
from shared.conversion import FailureKind, SourceFormat
from shared.errors import InvalidInputError, ModelLoadError, PipelineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from converters.frontends.frontend import FrontendLine, Source
    from shared.runtime.interpreter import LiteRtInterpreter

    Tensor = NDArray[Any]

_LOADERS = {
    SourceFormat.KERAS: "converters.loaders.keras",
    SourceFormat.SAVED_MODEL: "converters.loaders.saved_model",
    SourceFormat.TFJS: "converters.loaders.tfjs",
    SourceFormat.JAX: "converters.loaders.jax",
    SourceFormat.PYTORCH: "converters.loaders.pytorch",
    SourceFormat.ONNX: "converters.loaders.onnx",
    SourceFormat.SKLEARN: "converters.loaders.sklearn",
    SourceFormat.TFLITE: "converters.loaders.tflite",
}
"""Imported by name: each needs libraries that only its own environment has."""
_OUT_OF_MEMORY = frozenset({"MemoryError", "OutOfMemoryError", "ResourceExhaustedError"})
"""Python's, and the frameworks', which only they could be asked for by type."""
_STATEFUL = frozenset({SourceFormat.TFLITE})
"""What the others call a variable is a leftover of training; who gives a finished `.tflite` means it."""
_MODEL_NAME = "float.tflite"
_MAX_SAID = 500
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


def main() -> int:
    """Open the model that the first line of stdin names, then answer for it until stdin ends."""
    # Python ignores it, and the write fails; but then whoever writes from C++ goes on with half a file.
    with contextlib.suppress(AttributeError):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    with protected_stdout() as output:

        def say(line: FrontendLine) -> None:
            output.write(msgspec.json.encode(line) + b"\n")
            output.flush()

        opened: _Opened | None = None
        for text in sys.stdin.buffer:
            try:
                opened = _turn(text, opened, say)
            except Exception as exc:  # noqa: BLE001 - the fence around frameworks: whatever they raise is a failure told
                traceback.print_exc()
                say(_failure(exc))
    return 0


class _Opened:
    """A source, and the float model that was made of it."""

    def __init__(self, request: FrontendRequest, source: Source, model: LiteRtInterpreter) -> None:
        self.request, self.source, self.model = request, source, model

    def answers(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the source's answers."""
        from converters.frontends.agreement import in_pieces

        return in_pieces(self.source.answer, inputs)

    def difference(self, inputs: Sequence[Tensor], answers: Sequence[Tensor]) -> float:
        """Return how far the float model is from the source's `answers`. Raises ConversionFailedError: too far."""
        from converters.frontends import agreement

        # As it will serve: item by item where its batch is 1.
        size = {} if self.request.batch is None else {"size": self.request.batch}
        made = agreement.in_pieces(self.model.run, inputs, **size)
        return agreement.check(answers, made, lambda: self._nearby(inputs, answers))

    def _nearby(self, inputs: Sequence[Tensor], answers: Sequence[Tensor]) -> list[Tensor]:
        from converters.frontends import agreement

        # Chance would pass for sensitivity. A `.tflite` may remember, and then answers each time otherwise, rightly.
        if self.request.source_format not in _STATEFUL:
            agreement.check_steady(answers, self.answers(inputs))
        return self.answers(agreement.nudged(inputs))


def _turn(text: bytes, opened: _Opened | None, say: Callable[[FrontendLine], None]) -> _Opened:
    if opened is None:
        return _load(msgspec.json.decode(text, type=FrontendRequest), say)
    say(_answer(msgspec.json.decode(text, type=AnswerRequest), opened))
    return opened


def _load(request: FrontendRequest, say: Callable[[FrontendLine], None]) -> _Opened:
    from converters.quantization.restamp import restamp

    begin = time.monotonic()
    say(FrontendProgress(step="open source"))
    source = _open(request)
    say(FrontendProgress(step="convert"))
    content = restamp(source.to_tflite(request.batch))
    say(FrontendProgress(step="check float model"))
    opened, operators, difference = prove(request, source, content)
    path = Path(request.scratch_path) / _MODEL_NAME
    path.write_bytes(content)
    say(
        FloatModel(
            model_path=str(path),
            inputs=opened.model.inputs,
            outputs=opened.model.outputs,
            parameters=source.parameters,
            operators_before=dict(sorted(source.operators.items())),
            operators_after=operators,
            removed=tuple(source.removed),
            # Of few sources only, so that they are no part of what every source must say.
            quantized=bool(getattr(source, "quantized", False)),
            labels=tuple(getattr(source, "labels", ())),
            max_abs_diff=difference,
            worker=source.name,
            seconds=time.monotonic() - begin,
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES,
        )
    )
    return opened


def _open(request: FrontendRequest) -> Source:
    module = importlib.import_module(_LOADERS[request.source_format])
    open_source: Callable[[Path, Path], Source] = module.open_source
    scratch = Path(request.scratch_path) / "source"
    try:
        return open_source(Path(request.source_path), scratch)
    except ModelLoadError as exc:
        raise InvalidInputError(field="source", problem=str(exc)) from exc


def prove(request: FrontendRequest, source: Source, content: bytes) -> tuple[_Opened, dict[str, int], float]:
    """Load and run what a converter made; return it with its operators and its largest difference from the source.

    Raises:
        ConversionFailedError: it does not compute what the source does; `weights_lost: …` where that is why.
        InvalidInputError: it cannot serve, or the source itself answers no numbers.
    """
    try:
        return _checked(request, source, content)
    except ConversionFailedError as exc:
        lost = _lost(source, content)
        if not lost:
            raise
        raise ConversionFailedError(exc.kind, f"{lost}; {exc}") from exc


def _lost(source: Source, content: bytes) -> str:
    """Return whether weights are missing in a wrong model; a right one may lack what serves in training alone."""
    from converters.inspect import describe, weights_lost

    try:
        return weights_lost(source.parameters, describe(content))
    except ModelLoadError:
        return ""


def _checked(request: FrontendRequest, source: Source, content: bytes) -> tuple[_Opened, dict[str, int], float]:
    from converters.frontends import agreement, operators
    from shared.runtime.interpreter import LiteRtInterpreter

    counts = operators.histogram(content)
    operators.check_served(counts, stateful=request.source_format in _STATEFUL)
    try:
        model = LiteRtInterpreter(content, threads=request.threads)
    except ModelLoadError as exc:
        raise ConversionFailedError(FailureKind.CRASHED, f"the converted model does not load: {exc}") from exc
    _check_batch(request, model)
    opened = _Opened(request, source, model)
    for inputs in agreement.probes(model.inputs):
        answers = opened.answers(inputs)
        if agreement.all_finite(answers):
            return opened, counts, opened.difference(inputs, answers)
    raise InvalidInputError(
        field="source",
        problem="the model itself answers NaN or infinity to every input that was tried",
        remedy="did its training diverge?",
    )


def _check_batch(request: FrontendRequest, model: LiteRtInterpreter) -> None:
    if request.source_format is SourceFormat.TFLITE:
        return
    wanted = -1 if request.batch is None else request.batch
    for spec in model.inputs:
        if spec.shape[:1] != (wanted,):
            what = "any batch" if wanted == -1 else f"a batch of {wanted}"
            raise InvalidInputError(
                field="batch",
                problem=f"input {spec.name} of the converted model has shape {spec.shape}, which is not for {what}",
            )


def _answer(request: AnswerRequest, opened: _Opened) -> Answers:
    import numpy as np

    from converters.frontends import agreement

    with np.load(request.inputs_path, allow_pickle=False) as stored:
        inputs = [stored[f"input_{index}"] for index in range(len(stored.files))]
    answers = opened.answers(inputs)
    if not agreement.all_finite(answers):
        raise InvalidInputError(field="source", problem="the model itself answers NaN or infinity to the data")
    difference = opened.difference(inputs, answers)
    named: dict[str, Any] = {f"output_{index}": array for index, array in enumerate(answers)}
    np.savez(request.answers_path, **named)
    return Answers(answers_path=request.answers_path, max_abs_diff=difference)


def _failure(error: Exception) -> FrontendFailure:
    match error:
        case ConversionFailedError():
            return FrontendFailure(kind=error.kind, message=str(error))
        case SchemeFailedError():
            return FrontendFailure(kind=FailureKind.UNSUPPORTED_OP, message=str(error))
        case InvalidInputError() | PipelineError() | msgspec.DecodeError():
            return FrontendFailure(kind=FailureKind.BAD_INPUT, message=str(error))
        case _:
            return _unforeseen(error)


def _unforeseen(error: Exception) -> FrontendFailure:
    name = type(error).__name__
    full = name in _OUT_OF_MEMORY or "RESOURCE_EXHAUSTED" in str(error)
    first_line = (str(error).strip().splitlines() or [""])[0][:_MAX_SAID]
    return FrontendFailure(
        kind=FailureKind.OUT_OF_MEMORY if full else FailureKind.CRASHED,
        message=f"{name}: {first_line}" if first_line else name,
    )


if __name__ == "__main__":
    sys.exit(main())
