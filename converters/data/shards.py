"""The files that samples come in: proved to be what the dataset names, and mapped rather than read.

So a dataset may be larger than memory, and no header can claim memory that its file does not hold.
"""

from __future__ import annotations

import hashlib
import math
import struct
import tokenize
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from shared.dataset import DATASET_FILE
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from shared.dataset import Shard

    Tensor = NDArray[Any]
    _Header = tuple[tuple[int, ...], bool, np.dtype[Any]]

_NUMERIC = "biuf"
_MAX_PACKED_BYTES = 4 * 2**30
"""Of one compressed array, unpacked: zeros pack 1,000 to 1. Larger ones are stored as they are, or as `.npy`."""
_LABELS = "y"
_PIECE_BYTES = 2**20
ZIP_ERRORS = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)
"""What zipfile raises at files that are none, cut, encrypted, or packed in a way that it does not know."""
_HEADER_ERRORS = (ValueError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError, EOFError)
"""What numpy raises at a header, which it reads as a Python literal."""
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
"""Version 3 is for names of fields, which plain numbers have none of."""
_ENCRYPTED = 0x1
_LOCAL_HEADER = struct.Struct("<4s22x2H")
"""Magic, then the lengths of name and extra field. Source: PKWARE APPNOTE 4.3.7."""


def verified(folder: Path, shard: Shard) -> Path:
    """Return where a shard of a checked document lies, once it is proved to be the very bytes that that names.

    Raises:
        InvalidInputError: it is missing, or another file.
    """
    field = f"{DATASET_FILE}.{shard.path}"
    path = folder / shard.path
    if not path.is_file():
        raise InvalidInputError(field=field, problem="is missing", remedy="each shard lies where dataset.json says")
    size_bytes = path.stat().st_size
    if size_bytes != shard.length_bytes:
        raise _changed(field, f"has {size_bytes} bytes, and dataset.json says {shard.length_bytes}")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != shard.sha256:
        raise _changed(field, f"has sha256 {sha256}, and dataset.json says {shard.sha256}")
    return path


def map_npy(path: Path, field: str) -> Tensor:
    """Return the array of a `.npy` file, mapped.

    Raises:
        InvalidInputError: no array of plain numbers, or a header that claims more than the file holds.
    """
    with path.open("rb") as file:
        header = _read_header(file, path.stat().st_size, field)
        return _mapped(path, header, file.tell())


def map_npz(path: Path, keys: dict[str, str], field: str, unpacked: Path) -> dict[str, Tensor]:
    """Return the arrays of a `.npz` file that are named in `keys`, mapped; compressed ones by way of `unpacked`.

    Args:
        path: the file.
        keys: array name → how to save it, or "" for one that may be absent.
        field: what errors call the file.
        unpacked: a folder of this file alone.

    Raises:
        InvalidInputError: names the array and says what would mend it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            found = {key: f"{key}.npy" for key in keys if f"{key}.npy" in names}
            missing = [key for key, remedy in keys.items() if remedy and key not in found]
            if missing:
                raise InvalidInputError(field=f"{field}.{missing[0]}", problem="is missing", remedy=keys[missing[0]])
            others = sorted(name.removesuffix(".npy") for name in names - {f"{key}.npy" for key in keys})
            # Labels by another name would be lost without a word.
            if others and _LABELS in keys and _LABELS not in found:
                remedy = f"call labels {_LABELS}, and leave out what is none"
                raise InvalidInputError(
                    field=field, problem=f"holds {', '.join(others)[:100]}, and no y", remedy=remedy
                )
            return {
                key: _member(path, archive, archive.getinfo(member), f"{field}.{key}", unpacked)
                for key, member in found.items()
            }
    except ZIP_ERRORS as exc:
        remedy = next(filter(None, keys.values()))
        raise InvalidInputError(field=field, problem=f"is no readable .npz: {exc}", remedy=remedy) from exc


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, field: str, unpacked: Path) -> Tensor:
    with archive.open(info) as file:
        header = _read_header(file, info.file_size, field)
        header_bytes = file.tell()
    held = math.prod(header[0]) * header[2].itemsize
    if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & _ENCRYPTED:
        start = _data_start(path, info) + header_bytes
        if start + held > path.stat().st_size:
            raise InvalidInputError(field=field, problem="is cut off", remedy="save it again")
        return _mapped(path, header, start)
    if held > _MAX_PACKED_BYTES:
        problem = f"unpacks to {held} bytes, more than {_MAX_PACKED_BYTES}"
        raise InvalidInputError(field=field, problem=problem, remedy="save it as .npy, which is read in place")
    unpacked.mkdir(parents=True, exist_ok=True)
    into = unpacked / info.filename
    with archive.open(info) as file, into.open("wb") as out:
        # No further than the header claims: whatever follows is no part of the array.
        left = header_bytes + held
        while left and (piece := file.read(min(_PIECE_BYTES, left))):
            out.write(piece)
            left -= len(piece)
    return map_npy(into, field)


def _data_start(path: Path, info: zipfile.ZipInfo) -> int:
    # The local header repeats the name, and has an extra field of its own length.
    with path.open("rb") as file:
        file.seek(info.header_offset)
        magic, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if magic != b"PK\x03\x04":
        raise zipfile.BadZipFile("a member is not where the archive says")
    return int(info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes)


def _read_header(file: IO[bytes], size_bytes: int, field: str) -> _Header:
    """Refuse what is no array of numbers before any memory is given to it: a header may claim any size."""
    try:
        shape, fortran_order, dtype = _HEADERS[npy.read_magic(file)](file)
    except (*_HEADER_ERRORS, KeyError) as exc:
        raise InvalidInputError(field=field, problem=f"is no array: {exc}", remedy="save it with numpy.savez") from exc
    if dtype.kind not in _NUMERIC:
        raise InvalidInputError(field=field, problem=f"has dtype {dtype}", remedy="store plain numbers")
    claimed, held = math.prod(shape) * dtype.itemsize, size_bytes - file.tell()
    if min(shape, default=0) < 0 or claimed > held:
        raise InvalidInputError(field=field, problem=f"claims shape {shape} of {dtype}, and holds {held} bytes")
    return shape, fortran_order, dtype


def _mapped(path: Path, header: _Header, start: int) -> Tensor:
    shape, fortran_order, dtype = header
    if 0 in shape:
        # The kernel maps no empty range.
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, mode="r", offset=start, shape=shape, order="F" if fortran_order else "C")


def _changed(field: str, problem: str) -> InvalidInputError:
    return InvalidInputError(field=field, problem=problem, remedy="describe the folder again: a dataset is immutable")
