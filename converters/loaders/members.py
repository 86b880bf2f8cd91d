"""What the members of an archive may be called and be, before one byte of them is written anywhere."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from shared.errors import InvalidInputError

if TYPE_CHECKING:
    import zipfile

FIELD = "source"
PACK_AGAIN = "pack the model's folder again, with its plain files alone, as .zip or .tar.gz"
MAX_MEMBERS = 5000
"""A SavedModel has a dozen files, the largest TensorFlow.js models some hundred shards."""
_MAX_NAME_BYTES = 1024
_MAX_PART_BYTES = 255
_MAX_DEPTH = 32
_PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth")
_ENCRYPTED = 0x1
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


class Members:
    """The names that an archive has used so far."""

    def __init__(self, *, remedy: str = PACK_AGAIN) -> None:
        self._remedy = remedy
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._count = 0

    def accept(self, name: str, *, folder: bool) -> str:
        """Return `name` without needless parts, as it may be written below a folder; "" for that folder itself.

        Raises:
            InvalidInputError: it leads out of the folder, stands there already, or is no name for a file.
        """
        self._count += 1
        if self._count > MAX_MEMBERS:
            raise refused(f"holds more than {MAX_MEMBERS} members", self._remedy)
        parts = _parts(name, self._remedy)
        plain = "/".join(parts)
        parents = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        if not plain and not folder:
            raise refused(f"holds {shown(name)}, which is no name for a file", self._remedy)
        if plain in self._files or (not folder and plain in self._folders):
            raise refused(f"holds {shown(name)} twice", self._remedy)
        taken = next((parent for parent in parents if parent in self._files), None)
        if taken is not None:
            raise refused(f"holds {shown(taken)} as a file and as a folder", self._remedy)
        self._folders.update(parents)
        (self._folders if folder else self._files).add(plain)
        if not folder and plain.lower().endswith(_PICKLES):
            raise refused(f"holds {shown(name)}, a Python pickle, which would run code when opened", self._remedy)
        return plain


def check_zip_member(item: zipfile.ZipInfo, *, remedy: str = PACK_AGAIN) -> None:
    """Refuse a member that is encrypted, or neither file nor folder. Raises InvalidInputError."""
    if item.flag_bits & _ENCRYPTED:
        raise refused(f"holds {shown(item.filename)}, which is encrypted", "pack it again without a password")
    # The upper half is the mode that Unix writes there; other systems leave it 0.
    kind = stat.S_IFMT(item.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise refused(f"holds {shown(item.filename)}, which is {_KINDS.get(kind, 'no regular file')}", remedy)


def refused(problem: str, remedy: str = PACK_AGAIN) -> InvalidInputError:
    """Return the error that says what is wrong with the archive."""
    return InvalidInputError(field=FIELD, problem=problem, remedy=remedy)


def shown(name: str) -> str:
    """Return a member's name as it may stand in a message: quoted, and not endless."""
    return repr(name[:100])


def _parts(name: str, remedy: str) -> list[str]:
    # A backslash is a separator on the machine that packed it, and part of a name here: nobody means the latter.
    unsound = "\\" in name or any(ord(letter) < ord(" ") or ord(letter) == 0x7F for letter in name)  # noqa: PLR2004 - DEL
    if unsound or not _is_unicode(name):
        raise refused(f"holds {shown(name)}, whose name has a letter that no file should have", remedy)
    drive = name[1:2] == ":" and name[:1].isalpha()
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if name.startswith("/") or drive or ".." in parts:
        raise refused(f"holds {shown(name)}, which leads out of the archive", remedy)
    long = len(name.encode()) > _MAX_NAME_BYTES or any(len(part.encode()) > _MAX_PART_BYTES for part in parts)
    if long or len(parts) > _MAX_DEPTH:
        raise refused(f"holds {shown(name)}, whose name is too long or too deep", remedy)
    return parts


def _is_unicode(name: str) -> bool:
    # tarfile hands bytes that are no UTF-8 on as lone surrogates.
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
