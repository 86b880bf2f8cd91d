"""Weights files that point outside of themselves: what lies on the machine must not end up in an artifact."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest

from converters.loaders import keras as loader
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_KERNEL = "layers/dense/vars/0"
_SECRET = np.arange(1, 9, dtype=np.float32)


def saved(folder: Path) -> Path:
    import keras

    path = folder / "model.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")]).save(path)
    return path


def with_weights(path: Path, change: Callable[[h5py.File, Path], None]) -> Path:
    """Change the weights within a saved model; `change` gets a folder with a secret in two forms."""
    folder = path.parent
    (folder / "secret").write_bytes(_SECRET.tobytes())
    with h5py.File(folder / "secret.h5", "w") as other:
        other["key"] = _SECRET.reshape(4, 2)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights = folder / "weights.h5"
    weights.write_bytes(members["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        del file[_KERNEL]
        change(file, folder)
    attacked = folder / "attacked.keras"
    with zipfile.ZipFile(attacked, "w") as archive:
        for name, content in (members | {"model.weights.h5": weights.read_bytes()}).items():
            archive.writestr(name, content)
    return attacked


def linked(file: h5py.File, folder: Path) -> None:
    file[_KERNEL] = h5py.ExternalLink(str(folder / "secret.h5"), "key")


def stored_outside(file: h5py.File, folder: Path) -> None:
    outside = [(str(folder / "secret"), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset(_KERNEL, (4, 2), np.float32, external=outside)


def virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((4, 2), np.float32)
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "key", (4, 2))
    file.create_virtual_dataset(_KERNEL, layout)


def left_out(file: h5py.File, folder: Path) -> None:
    assert _KERNEL not in file
    assert folder.is_dir()


def of_another_shape(file: h5py.File, folder: Path) -> None:
    assert folder.is_dir()
    file[_KERNEL] = np.zeros((5, 2), np.float32)


@pytest.mark.parametrize("attack", [linked, stored_outside, virtual, left_out, of_another_shape])
def test_weights_attack_is_refused(tmp_path: Path, attack: Callable[[h5py.File, Path], None]) -> None:
    with pytest.raises(InvalidInputError, match="source: "):
        loader.open_source(with_weights(saved(tmp_path), attack), tmp_path / "source")


def test_weights_of_an_honest_file_are_read(tmp_path: Path) -> None:
    def restored(file: h5py.File, folder: Path) -> None:
        assert folder.is_dir()
        file[_KERNEL] = _SECRET.reshape(4, 2)

    model = loader.opened(with_weights(saved(tmp_path), restored), tmp_path / "source")
    np.testing.assert_array_equal(model.get_weights()[0], _SECRET.reshape(4, 2))


def test_weights_that_are_no_hdf5_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    content = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(content, "w") as broken:
        for name in archive.namelist():
            broken.writestr(name, b"no weights" if name.endswith(".h5") else archive.read(name))
    path.write_bytes(content.getvalue())
    with pytest.raises(InvalidInputError, match="source: its weights are no readable HDF5 file"):
        loader.open_source(path, tmp_path / "source")
