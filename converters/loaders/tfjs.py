"""TensorFlow.js layers models, rebuilt as Keras models: `model.json` and its shards, read here and by nobody else.

The tensorflowjs package does not install beside this TensorFlow, and would not refuse what must not run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from converters.loaders import tfjs_topology, tfjs_weights
from converters.loaders.keras_source import KerasSource, first_line
from converters.loaders.unpack import unpack
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from converters.loaders.keras_source import KerasObject
    from converters.loaders.tfjs_weights import Tensor

MAX_UNPACKED_BYTES = 4 * 2**30
_FIELD = "source"
_FILE_NAME = "model.json"
_MAX_JSON_BYTES = 64 * 2**20
_RENAMED = {"depthwise_kernel": "kernel"}
"""What Keras 3 calls weights that had another name before."""
_BUILD_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, RecursionError)


class _ModelFile(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    format: str = "layers-model"
    model_topology: Any
    weights_manifest: tuple[tfjs_weights.Group, ...] = ()


def open_source(path: Path, scratch: Path) -> KerasSource:
    """Open an archive that holds a TensorFlow.js layers model; see converters.frontends.frontend.Source.

    Raises:
        InvalidInputError: no such model, one with classes of its own, or whose weights do not fit.
    """
    folder = unpack(path, scratch, limit_bytes=MAX_UNPACKED_BYTES)
    file = _read(folder / _FILE_NAME)
    config = tfjs_topology.translated(file.model_topology)
    tensors = tfjs_weights.read(folder, file.weights_manifest)
    model = _built(config)
    _restore_old_meaning(model)
    _fill(model, tensors)
    return KerasSource(model)


def _read(path: Path) -> _ModelFile:
    if not path.is_file():
        raise _refused(
            f"holds no {_FILE_NAME}", "pack the folder that model.save('downloads://…') or the converter wrote"
        )
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise _refused(f"its {_FILE_NAME} is larger than {_MAX_JSON_BYTES} bytes")
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_ModelFile)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise _refused(f"its {_FILE_NAME} is no TensorFlow.js model: {exc}") from exc
    if file.format != "layers-model":
        raise _refused(
            f"is a TensorFlow.js {file.format[:40]}, whose graph was made for browsers",
            "give the SavedModel or .keras file that it was made from, or a layers model",
        )
    return file


def _built(config: tfjs_topology.Config) -> KerasObject:
    import keras

    of_kind = {"Functional": keras.Model, "Sequential": keras.Sequential}
    try:
        return of_kind[config["class_name"]].from_config(config["config"], custom_objects={})
    except _BUILD_ERRORS as exc:
        raise _refused(f"Keras cannot build it: {first_line(exc)}") from exc


def _restore_old_meaning(model: KerasObject) -> None:
    import keras

    def hard_sigmoid(value: object) -> object:
        return keras.ops.clip(0.2 * value + 0.5, 0.0, 1.0)  # type: ignore[operator]  # a tensor; Keras ships no types

    for layer in model._flatten_layers(include_self=False):  # noqa: SLF001 - Keras has no public way into wrappers
        for name in ("activation", "recurrent_activation"):
            # The cells of recurrent layers are layers too, and the only ones whose attribute can be set.
            function = None if isinstance(layer, keras.layers.RNN) else getattr(layer, name, None)
            if getattr(function, "__name__", "") == tfjs_topology.OLD_HARD_SIGMOID:
                setattr(layer, name, hard_sigmoid)


def _fill(model: KerasObject, tensors: dict[str, Tensor]) -> None:
    """Give every variable its tensor, by name; each tensor must be used, and once."""
    wanted = _variables(model)
    owners = dict(_owners(model))
    for name, tensor in tensors.items():
        place = _place(name, owners)
        if place not in wanted:
            place = place[0], _RENAMED.get(place[1], "")
        variable = wanted.pop(place, None)
        if variable is None:
            raise _refused(f"holds the weight {name[:200]!r}, for which the model has no place, or not a second one")
        if tuple(variable.shape) != tensor.shape:
            raise _refused(f"the weight {name!r} has shape {tensor.shape}, not {tuple(variable.shape)}")
        variable.assign(tensor)
    if wanted:
        missing = sorted(f"{layer}/{weight}" for layer, weight in wanted)
        raise _refused(f"holds no weights for {', '.join(missing[:5])}", "pack all shards, and the newest model.json")


def _variables(model: KerasObject) -> dict[tuple[str, str], Any]:
    """Return every variable by its layer's name and its own within the layer."""
    found: dict[tuple[str, str], Any] = {}
    for layer in _leaves(model):
        for variable in layer.weights:
            parts = variable.path.split("/")
            place = layer.name, _own_name(parts[_last(parts, layer.name) :])
            if place in found:
                raise _refused(f"has two weights {'/'.join(place)!r}, which its file cannot tell apart")
            found[place] = variable
    return found


def _last(parts: list[str], name: str) -> int:
    return max((index for index, part in enumerate(parts) if part == name), default=0)


def _owners(model: KerasObject) -> Iterator[tuple[str, str]]:
    """Yield each name under which a file may keep a layer's weights, and that layer's name."""
    for layer in _leaves(model):
        for attribute in ("layer", "forward_layer", "backward_layer"):
            wrapped = getattr(layer, attribute, None)
            if wrapped is not None:
                yield wrapped.name, layer.name
        yield layer.name, layer.name


def _place(name: str, owners: dict[str, str]) -> tuple[str, str]:
    """Return the layer's name and the weight's within it, out of `models/layer/cell/weight`."""
    parts = name.split("/")
    at = next((index for index in reversed(range(len(parts) - 1)) if parts[index] in owners), None)
    return ("", name) if at is None else (owners[parts[at]], _own_name(parts[at:]))


def _own_name(parts: list[str]) -> str:
    # Only the two directions of one layer have weights of the same name; cells have names that nobody chose.
    direction = next((way for part in parts for way in ("forward", "backward") if part.startswith(f"{way}_")), "")
    return f"{direction}/{parts[-1]}".lstrip("/")


def _leaves(model: KerasObject) -> Iterator[KerasObject]:
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def _refused(problem: str, remedy: str = "") -> InvalidInputError:
    return InvalidInputError(field=_FIELD, problem=problem, remedy=remedy)
