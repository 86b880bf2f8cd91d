"""What a `.keras` file declares, read before any framework opens it: nothing in it may run code.

Keras has a safe mode of its own, which is switched on too. It has been talked round before (CVE-2025-1550,
CVE-2025-8747: the configuration named functions outside Keras' layers), so that only what is known to be data passes.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from typing import TYPE_CHECKING

from converters.loaders.members import Members, check_zip_member
from converters.loaders.weights_file import check_weights
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FIELD = "source"
_SAVE_AGAIN = "save the model with model.save('model.keras')"
_MAX_UNPACKED_BYTES = 8 * 2**30
"""A small archive can claim any size; the largest models meant for a device are far below."""
_MAX_CONFIG_BYTES = 64 * 2**20

_MAGIC = {
    b"\x89HDF": "is an HDF5 file (.h5), which may carry code",
    b"\x80\x02": "is a Python pickle, which would run code when opened",
    b"\x80\x03": "is a Python pickle, which would run code when opened",
    b"\x80\x04": "is a Python pickle, which would run code when opened",
    b"\x80\x05": "is a Python pickle, which would run code when opened",
}
_ZIP_ERRORS = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What zipfile raises at files that are none, cut, encrypted, or packed in a way that it does not know; and what json
raises at text that is none, or nested by the thousand."""
_CONFIG = "config.json"
_WEIGHTS = "model.weights.h5"

_MODULES = frozenset(
    {
        "keras",
        "keras.constraints",
        "keras.dtype_policies",
        "keras.initializers",
        "keras.layers",
        "keras.losses",
        "keras.metrics",
        "keras.models",
        "keras.optimizers",
        "keras.optimizers.schedules",
        "keras.regularizers",
    }
)
_MODULE_PREFIXES = ("keras.src.models.", "keras.src.ops.")
_VALUES = frozenset({"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__slice__", "__ellipsis__"})
_CODE = frozenset({"__lambda__", "function", "Lambda"})
# They run a foreign framework's code, or read files that the configuration names.
_REFUSED_LAYERS = frozenset(
    {"FlaxLayer", "IntegerLookup", "JaxLayer", "StringLookup", "TFSMLayer", "TextVectorization", "TorchModuleWrapper"}
)


def check_archive(path: Path) -> None:
    """Refuse a file that is no `.keras` archive, or one that would run code.

    Raises:
        InvalidInputError: names the layer and says why.
    """
    # Outside of the try below: a file that is not there is no fault of the model.
    with path.open("rb") as file:
        start = file.read(4)
    for magic, problem in _MAGIC.items():
        if start.startswith(magic):
            raise InvalidInputError(field=_FIELD, problem=problem, remedy=_SAVE_AGAIN)
    try:
        with zipfile.ZipFile(path) as archive:
            config = _read_config(archive)
    except _ZIP_ERRORS as exc:
        raise InvalidInputError(field=_FIELD, problem=f"is no Keras model: {exc}", remedy=_SAVE_AGAIN) from exc
    for place, node in _declared(config, "the model"):
        _check_declared(place, node)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_WEIGHTS) as weights:
            check_weights(weights, archive.getinfo(_WEIGHTS).file_size)
    except _ZIP_ERRORS as exc:
        raise InvalidInputError(field=_FIELD, problem=f"is no Keras model: {exc}", remedy=_SAVE_AGAIN) from exc


def _read_config(archive: zipfile.ZipFile) -> object:
    # Keras unpacks by these names again.
    members = Members(remedy=_SAVE_AGAIN)
    names = set()
    for item in archive.infolist():
        names.add(members.accept(item.filename, folder=item.is_dir()))
        check_zip_member(item, remedy=_SAVE_AGAIN)
    if not {_CONFIG, _WEIGHTS} <= names:
        raise InvalidInputError(
            field=_FIELD, problem=f"is no Keras model: it holds no {_CONFIG} and {_WEIGHTS}", remedy=_SAVE_AGAIN
        )
    if sum(item.file_size for item in archive.infolist()) > _MAX_UNPACKED_BYTES:
        raise InvalidInputError(field=_FIELD, problem=f"unpacks to more than {_MAX_UNPACKED_BYTES} bytes")
    if archive.getinfo(_CONFIG).file_size > _MAX_CONFIG_BYTES:
        raise InvalidInputError(field=_FIELD, problem=f"its {_CONFIG} is larger than {_MAX_CONFIG_BYTES} bytes")
    config: object = json.loads(archive.read(_CONFIG))
    return config


def _declared(node: object, place: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield each declared object with the name of the layer that it stands in."""
    # A stack of our own: a deeply nested file must not exhaust Python's.
    waiting: list[tuple[object, str]] = [(node, place)]
    while waiting:
        current, where = waiting.pop()
        if isinstance(current, list):
            waiting.extend((child, where) for child in current)
        if not isinstance(current, dict):
            continue
        where = _layer_name(current) or where
        if "class_name" in current:
            yield where, current
        waiting.extend((child, where) for child in current.values())


def _layer_name(node: dict[str, object]) -> str:
    config = node.get("config")
    name = config.get("name") if isinstance(config, dict) else None
    return f"layer {name!r}" if isinstance(name, str) and node.get("module") == "keras.layers" else ""


def _check_declared(place: str, node: dict[str, object]) -> None:
    name, module = str(node.get("class_name")), node.get("module")
    if name in _CODE:
        raise InvalidInputError(
            field=_FIELD,
            problem=f"{place} is or holds a Lambda or function: it would run code when the model is opened",
            remedy="express it by Keras layers or keras.ops, and save the model again",
        )
    if name in _VALUES and module is None:
        return
    if name in _REFUSED_LAYERS:
        raise InvalidInputError(
            field=_FIELD, problem=f"{place} is a {name}, which may run or read what is not in the file"
        )
    known = isinstance(module, str) and (module in _MODULES or module.startswith(_MODULE_PREFIXES))
    if not known or not name[:1].isupper():
        raise InvalidInputError(
            field=_FIELD,
            problem=f"{place} is of class {module}.{name}, which is no part of Keras: it would run its own code",
            remedy="use Keras layers only",
        )
