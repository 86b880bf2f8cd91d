"""Keras 3 files: checked before Keras sees them, opened in its safe mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converters.loaders.archive import check_archive
from converters.loaders.keras_source import KerasSource, first_line
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

KerasModel = Any
"""A `keras.Model`; Keras ships no types."""

# What Keras raises when a configuration or the weights do not fit together.
_LOAD_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, OSError, RuntimeError)


def open_source(path: Path, scratch: Path) -> KerasSource:
    """Open a `.keras` file; see converters.frontends.frontend.Source.

    Raises:
        InvalidInputError: no Keras model, one that would run code, or of no fixed form.
    """
    check_archive(path)
    return KerasSource(opened(path, scratch))


def opened(path: Path, scratch: Path) -> KerasModel:
    """Return the model of a checked file, as Keras loads it.

    Raises:
        InvalidInputError: Keras cannot.
    """
    import keras

    scratch.mkdir(parents=True, exist_ok=True)
    # Keras judges a file by its name; blobs are named by their digest.
    named = scratch / "source.keras"
    named.symlink_to(path.resolve())
    try:
        return keras.saving.load_model(named, compile=False, safe_mode=True)
    except _LOAD_ERRORS as exc:
        problem = f"Keras cannot open it: {first_line(exc)}"
        raise InvalidInputError(field="source", problem=problem, remedy="does it load where it was saved?") from exc
