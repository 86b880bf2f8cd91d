"""What a `.skops` file declares, read before skops opens it: nothing in it may run code.

skops keeps a list of types that it trusts, which is used too. It has been talked round before (CVE-2024-37065,
CVE-2025-54412, CVE-2025-54413: nodes that call methods or operators), so that only nodes that hold data pass.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from typing import IO, TYPE_CHECKING

import numpy as np

from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FIELD = "source"
_SAVE_AGAIN = "save it with skops.io.dump(model, 'model.skops')"
_SCHEMA = "schema.json"
_MAX_SCHEMA_BYTES = 256 * 2**20
"""A forest of a thousand trees describes itself in 10 MB."""
_MAX_UNPACKED_BYTES = 8 * 2**30
_MAX_RATIO, _FREE_BYTES = 250, 32 * 2**20
"""skops does not pack at all unless told to; numbers never pack so well."""
_ZIP_MAGIC = b"PK\x03\x04"
_PICKLES = (
    b"\x80\x02",
    b"\x80\x03",
    b"\x80\x04",
    b"\x80\x05",
    b"x\x9c",
    b"x\xda",
    b"x\x01",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7z",
)
"""Pickles begin so, and those that joblib packed."""
_ZIP_ERRORS = (OSError, ValueError, EOFError, KeyError, RuntimeError, RecursionError, zipfile.BadZipFile, zlib.error)
_DATA_NODES = frozenset(
    {
        "CachedNode",
        "DTypeNode",
        "DictNode",
        "JsonNode",
        "ListNode",
        "LossNode",
        "NdArrayNode",
        "ObjectNode",
        "RandomGeneratorNode",
        "RandomStateNode",
        "SetNode",
        "SliceNode",
        "TreeNode",
        "TupleNode",
        "TypeNode",
        "_DictWithDeprecatedKeysNode",
    }
)
_HOMES = ("sklearn.", "numpy.")
_BUILTINS = frozenset({"bool", "dict", "float", "int", "list", "set", "slice", "str", "tuple"})
_SELECTORS = "sklearn.feature_selection._univariate_selection"
_FUNCTION = "FunctionNode"
"""Only named, never called, by what selects columns."""
_TRUSTED = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    *(f"{_SELECTORS}.{name}" for name in ("chi2", "f_classif", "f_regression", "mutual_info_classif")),
)
"""Data, too, though skops does not say so."""


def check_file(path: Path) -> list[str]:
    """Refuse a file that is no `.skops` file, or one that would run code; return the types that skops may trust.

    Raises:
        InvalidInputError: says what is wrong, and how to save the model instead.
    """
    # Outside of the try below: a file that is not there is no fault of the model.
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(_PICKLES):
        raise _refused("is a pickle (or joblib) file, which would run code when opened")
    if start != _ZIP_MAGIC:
        raise _refused("is no .skops file")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, packed_bytes=path.stat().st_size)
            schema = json.loads(archive.read(_SCHEMA))
            for node in _nodes(schema):
                _check_node(node)
    except _ZIP_ERRORS as exc:
        raise _refused(f"is damaged, or no .skops file: {exc}") from exc
    return list(_TRUSTED)


def _check_members(archive: zipfile.ZipFile, *, packed_bytes: int) -> None:
    members = archive.infolist()
    allowed = min(_MAX_UNPACKED_BYTES, max(_FREE_BYTES, packed_bytes * _MAX_RATIO))
    if sum(member.file_size for member in members) > allowed:
        raise _refused(f"claims to unpack to more than {allowed} bytes")
    for member in members:
        if member.filename == _SCHEMA:
            if member.file_size > _MAX_SCHEMA_BYTES:
                raise _refused(f"its {_SCHEMA} is larger than {_MAX_SCHEMA_BYTES} bytes")
        elif not member.filename.endswith(".npy"):
            raise _refused(f"holds {member.filename[:100]!r}, which is no array: a pickle would run code when opened")
        else:
            with archive.open(member) as file:
                _check_array(file, member)


def _check_array(file: IO[bytes], member: zipfile.ZipInfo) -> None:
    """Refuse an array that holds objects, or claims another size than it has: memory would be made for it."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise _refused(f"holds {member.filename[:100]!r}, an array of Python objects, which would run code when opened")
    count = 1
    for size in shape:
        count *= size
    if file.tell() + count * dtype.itemsize != member.file_size:
        raise _refused(f"holds {member.filename[:100]!r}, which claims shape {shape}, and has {member.file_size} bytes")


def _nodes(schema: object) -> Iterator[dict[str, object]]:
    # A stack of our own: a deeply nested file must not exhaust Python's.
    waiting = [schema]
    while waiting:
        current = waiting.pop()
        if isinstance(current, list):
            waiting.extend(current)
        if isinstance(current, dict):
            waiting.extend(current.values())
            if "__loader__" in current:
                yield current


def _check_node(node: dict[str, object]) -> None:
    loader, module, name = (str(node.get(key)) for key in ("__loader__", "__module__", "__class__"))
    known = f"{module}.".startswith(_HOMES) or (module == "builtins" and name in _BUILTINS)
    data = loader in _DATA_NODES or (loader == _FUNCTION and f"{module}.{name}" in _TRUSTED)
    if not known or not data:
        raise InvalidInputError(
            field=_FIELD,
            problem=f"holds {module}.{name} ({loader}), which is not scikit-learn's own data: it would run code",
            remedy="use scikit-learn's own estimators, without functions or classes of your own",
        )


def _refused(problem: str) -> InvalidInputError:
    return InvalidInputError(field=_FIELD, problem=problem, remedy=_SAVE_AGAIN)
