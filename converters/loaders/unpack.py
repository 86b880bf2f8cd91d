"""Models that are folders (SavedModel, TensorFlow.js) arrive as one archive: unpacked here, and nothing else.

An archive is a program for whoever unpacks it: names that lead out, links, sizes that lie. What is claimed is checked
before anything is written, and what really comes is counted while it comes.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
import zlib
from typing import IO, TYPE_CHECKING

from converters.loaders.members import Members, check_zip_member, refused, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MODEL_FILES = ("saved_model.pb", "model.json")
"""What stands in the folder of a SavedModel, and of a TensorFlow.js model."""
_PIECE_BYTES = 2**18
_MAX_INDEX_BYTES = 2**24
"""The most that a reader of archives may ask for at once: a directory of names, an extended header."""
_MAX_RATIO = 250
"""Weights pack by a tenth; a folder of zeros could be packed by a thousandth, and is no model."""
_FREE_BYTES = 32 * 2**20
"""What any archive may unpack to: graphs written as text pack well."""
_ZIP_MAGIC, _GZIP_MAGIC, _TAR_MAGIC, _TAR_MAGIC_AT = b"PK\x03\x04", b"\x1f\x8b", b"ustar", 257
_ZIP_WAYS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""The other ways of packing take a header's word for how much memory they need."""
_TAR_FILES = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE})
_BROKEN = (
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
    gzip.BadGzipFile,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What zipfile, tarfile and gzip raise at files that are cut, damaged, or none."""


def unpack(path: Path, into: Path, *, limit_bytes: int) -> Path:
    """Unpack a `.zip`, `.tar.gz` or `.tar` into `into`, and return the folder in it that holds the model.

    `into` must not exist, or be empty; it is removed when the archive is refused. No more than `limit_bytes` are ever
    written, nor read into memory.

    Raises:
        InvalidInputError: names the member that is at fault, and what would mend it.
        OSError: the disk has no room.
    """
    into.mkdir(parents=True, exist_ok=True)
    if any(into.iterdir()):
        raise FileExistsError(f"{into} is not empty")
    try:
        with path.open("rb") as file:
            _unpack(file, into, _Budget(limit_bytes=limit_bytes, packed_bytes=path.stat().st_size))
        return _model_folder(into)
    except _BROKEN as exc:
        shutil.rmtree(into)
        raise refused(f"is damaged, or no archive: {exc}") from exc
    except BaseException:
        shutil.rmtree(into)
        raise


class _Budget:
    """How much may still come out of an archive."""

    def __init__(self, *, limit_bytes: int, packed_bytes: int) -> None:
        self._limit_bytes, self._packed_bytes = limit_bytes, packed_bytes
        self._allowed = min(limit_bytes, max(_FREE_BYTES, packed_bytes * _MAX_RATIO))
        self._used = 0

    def check_claim(self, claimed_bytes: int, name: str) -> None:
        """Refuse a member that says of itself that it does not fit. Raises InvalidInputError."""
        if claimed_bytes < 0 or self._used + claimed_bytes > self._allowed:
            self._refuse(f"claims {claimed_bytes} bytes for {shown(name)}")

    def spend(self, size_bytes: int, name: str) -> None:
        """Count what came out. Raises InvalidInputError when it is too much."""
        self._used += size_bytes
        if self._used > self._allowed:
            self._refuse(f"is still unpacking at {shown(name)}")

    def _refuse(self, what: str) -> None:
        if self._allowed < self._limit_bytes:
            problem = f"{what}: {self._packed_bytes} bytes may unpack to {self._allowed}, {_MAX_RATIO} times as many"
            raise refused(f"{problem} at most")
        raise refused(f"{what}: it may unpack to {self._limit_bytes} bytes at most", "give a smaller model")


class _Bounded:
    """A file of which nobody may ask for gigabytes at once because some header says so."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes. Raises InvalidInputError when that is more than anybody needs at once."""
        # zipfile asks for all that is left where it believes the end to be near; what is cut off there is no end.
        if size < 0:
            return self._file.read(_MAX_INDEX_BYTES)
        if size > _MAX_INDEX_BYTES:
            raise refused(f"has a header that claims {size} bytes: {_MAX_INDEX_BYTES} are the most")
        return self._file.read(size)


def _unpack(file: IO[bytes], into: Path, budget: _Budget) -> None:
    start = file.read(_TAR_MAGIC_AT + len(_TAR_MAGIC))
    file.seek(0)
    if start.startswith(_ZIP_MAGIC):
        _unpack_zip(file, into, budget)
    elif start.startswith(_GZIP_MAGIC):
        with gzip.GzipFile(fileobj=file) as content:
            _unpack_tar(content, into, budget)
    elif start[_TAR_MAGIC_AT:] == _TAR_MAGIC:
        _unpack_tar(file, into, budget)
    else:
        raise refused("is no .zip, .tar.gz or .tar")


def _unpack_zip(file: IO[bytes], into: Path, budget: _Budget) -> None:
    members = Members()
    with zipfile.ZipFile(_Bounded(file)) as archive:
        items = archive.infolist()
        names = [members.accept(item.filename, folder=item.is_dir()) for item in items]
        for item in items:
            check_zip_member(item)
            if item.compress_type not in _ZIP_WAYS:
                raise refused(f"holds {shown(item.filename)}, which is packed in way {item.compress_type}")
        # All claims before the first byte: a refusal should cost nothing.
        budget.check_claim(sum(item.file_size for item in items), "all members")
        for item, name in zip(items, names, strict=True):
            if item.is_dir():
                (into / name).mkdir(parents=True, exist_ok=True)
                continue
            with archive.open(item) as content:
                _write(into / name, content, item.filename, budget)


def _unpack_tar(file: IO[bytes] | gzip.GzipFile, into: Path, budget: _Budget) -> None:
    members = Members()
    with tarfile.TarFile(fileobj=_Bounded(file)) as archive:  # type: ignore[arg-type]  # likewise
        for item in archive:
            name = members.accept(item.name, folder=item.isdir())
            if item.isdir():
                (into / name).mkdir(parents=True, exist_ok=True)
                continue
            # A sparse file is its holes, which take nothing in the archive and everything on the disk.
            if item.type not in _TAR_FILES or item.issparse():
                raise refused(f"holds {shown(item.name)}, which is {_kind(item)}")
            budget.check_claim(item.size, item.name)
            content = archive.extractfile(item)
            if content is not None:
                _write(into / name, content, item.name, budget, promised=item.size)
        _check_rest(archive, budget)


def _kind(item: tarfile.TarInfo) -> str:
    if item.issym():
        return "a symbolic link"
    if item.islnk():
        return "a hard link"
    return "a device" if item.isdev() else "no regular file"


def _check_rest(archive: tarfile.TarFile, budget: _Budget) -> None:
    """Refuse an archive that goes on after its end: tarfile takes a damaged header for one."""
    archive.fileobj.seek(archive.offset)
    while piece := archive.fileobj.read(_PIECE_BYTES):
        budget.spend(len(piece), "what follows the last member")
        if piece.strip(b"\0"):
            raise refused("is damaged: a member's header cannot be read")


def _write(path: Path, content: IO[bytes], name: str, budget: _Budget, *, promised: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # "x": never onto, nor through, what stands there.
    with path.open("xb") as file:
        for piece in _pieces(content):
            budget.spend(len(piece), name)
            file.write(piece)
        if promised is not None and file.tell() != promised:
            raise refused(f"is cut off in {shown(name)}")


def _pieces(content: IO[bytes]) -> Iterator[bytes]:
    while piece := content.read(_PIECE_BYTES):
        yield piece


def _model_folder(into: Path) -> Path:
    found = sorted({path.parent for name in _MODEL_FILES for path in into.rglob(name) if path.is_file()})
    if not found:
        raise refused(f"holds no {' and no '.join(_MODEL_FILES)}", "pack the folder that a SavedModel was exported to")
    nearest = min(len(folder.parts) for folder in found)
    outermost = [folder for folder in found if len(folder.parts) == nearest]
    if len(outermost) > 1:
        names = " and ".join(shown(str(folder.relative_to(into))) for folder in outermost[:2])
        raise refused(f"holds more than one model, in {names}", "pack one of them alone")
    return outermost[0]
