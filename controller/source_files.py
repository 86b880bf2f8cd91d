"""The files that trained models come in: which is which, and what each is called where frameworks look at names."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

from shared.conversion import SourceFormat
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SUFFIXES = {
    SourceFormat.KERAS: (".keras",),
    SourceFormat.SAVED_MODEL: (),
    SourceFormat.TFJS: (),
    SourceFormat.JAX: (".jax", ".jaxexport", ".stablehlo"),
    SourceFormat.PYTORCH: (".pt2",),
    SourceFormat.ONNX: (".onnx",),
    SourceFormat.SKLEARN: (".skops",),
    SourceFormat.TFLITE: (".tflite", ".lite"),
}
"""The first is the one that a file is given; those without any come as archives."""
_GZIP = b"\x1f\x8b"
_ZIP = b"PK\x03\x04"
_TFLITE = b"TFL3"
_TFLITE_AT = 4
_SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")
_TFJS_FILE = "model.json"
_KERAS_FILES = frozenset({"config.json", "metadata.json"})
_ARCHIVES = frozenset({".zip", ".gz", ".tgz"})
# The oldest time that a zip can hold: a folder packed twice is the same bytes.
_NO_TIME = (1980, 1, 1, 0, 0, 0)
_FILE_MODE = 0o644 << 16
_REMEDIES = {
    ".h5": "save it as .keras: keras.saving.load_model(old).save('model.keras')",
    ".hdf5": "save it as .keras: keras.saving.load_model(old).save('model.keras')",
    ".pt": "export the program, not its weights: torch.export.save(torch.export.export(model, inputs), 'model.pt2')",
    ".pth": "export the program, not its weights: torch.export.save(torch.export.export(model, inputs), 'model.pt2')",
    ".pkl": "a pickle may run any code; use skops.io.dump(model, 'model.skops')",
    ".pickle": "a pickle may run any code; use skops.io.dump(model, 'model.skops')",
    ".joblib": "a pickle may run any code; use skops.io.dump(model, 'model.skops')",
    ".pb": "give the whole SavedModel folder",
    ".json": "give the whole TensorFlow.js folder",
}
_FORMATS = "give --format: " + ", ".join(SourceFormat)


def recognise(path: Path) -> SourceFormat:
    """Return what a file or folder is, by its name and its first bytes; it is not opened any further.

    Raises:
        InvalidInputError: it is nothing that is known; says what would mend it.
    """
    if path.is_dir():
        return _of_folder(path)
    suffix = path.suffix.lower()
    for source_format, suffixes in _SUFFIXES.items():
        if suffix in suffixes:
            return source_format
    with path.open("rb") as file:
        first = file.read(_TFLITE_AT + len(_TFLITE))
    if first[_TFLITE_AT:] == _TFLITE:
        return SourceFormat.TFLITE
    if suffix in _ARCHIVES and first.startswith(_ZIP):
        return _of_zip(path)
    raise InvalidInputError(
        field=path.name, problem="is no model of a kind that is known", remedy=_REMEDIES.get(suffix, _FORMATS)
    )


def scratch_name(source_format: SourceFormat, content: Path) -> str:
    """Return the name under which a converter finds a source: frameworks look at a file's suffix, a blob has none."""
    suffixes = _SUFFIXES[source_format]
    if suffixes:
        return f"source{suffixes[0]}"
    with content.open("rb") as file:
        return "source.tar.gz" if file.read(len(_GZIP)) == _GZIP else "source.zip"


def packed(folder: Path, into: Path) -> Path:
    """Pack a model that is a folder into one stored zip: the same files give the same bytes.

    Raises:
        InvalidInputError: it holds a link, which no archive of ours may.
    """
    target = into / f"{folder.resolve().name}.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(_files(folder), key=lambda one: one.relative_to(folder).as_posix()):
            item = zipfile.ZipInfo(file.relative_to(folder).as_posix(), _NO_TIME)
            item.external_attr = _FILE_MODE
            with file.open("rb") as source, archive.open(item, "w", force_zip64=True) as sink:
                while piece := source.read(1024 * 1024):
                    sink.write(piece)
    return target


def _files(folder: Path) -> Iterator[Path]:
    for found in folder.rglob("*"):
        if found.is_symlink():
            raise InvalidInputError(field=str(found), problem="is a link", remedy="put the file itself into the folder")
        if found.is_file():
            yield found


def _of_folder(path: Path) -> SourceFormat:
    if any((path / name).is_file() for name in _SAVED_MODEL_FILES):
        return SourceFormat.SAVED_MODEL
    if (path / _TFJS_FILE).is_file():
        return SourceFormat.TFJS
    raise InvalidInputError(
        field=str(path),
        problem=f"holds no {_SAVED_MODEL_FILES[0]} and no {_TFJS_FILE}",
        remedy="give a SavedModel or TensorFlow.js folder, or a model file",
    )


def _of_zip(path: Path) -> SourceFormat:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rsplit("/", 1)[-1] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError) as exc:
        raise InvalidInputError(field=path.name, problem=f"is no readable zip: {exc}") from exc
    if names & set(_SAVED_MODEL_FILES):
        return SourceFormat.SAVED_MODEL
    if names >= _KERAS_FILES:
        return SourceFormat.KERAS
    if _TFJS_FILE in names:
        return SourceFormat.TFJS
    raise InvalidInputError(field=path.name, problem="is an archive of no model that is known", remedy=_FORMATS)
