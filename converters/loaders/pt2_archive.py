"""Archives of `torch.export.save`: copied without anything in them that would run code when PyTorch opens them.

`torch.export.load` trusts its file: pickles with any object, compiled libraries, guards and symbolic expressions that
are evaluated as Python, names that are pasted into generated source. The copy holds the graph, each of its words
checked, and raw weights; sample inputs (a pickle), guards, metadata and extra files stay behind.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from typing import TYPE_CHECKING

from converters.loaders.members import shown
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None

_FIELD = "source"
_SAVE = "write it with torch.export.save(torch.export.export(model.eval(), inputs), path)"
_SAVE_AGAIN = "save it again with torch.export.save of PyTorch 2.9 or newer"
_MAX_MEMBERS = 20_000
_MAX_JSON_BYTES = 2**27
_PIECE_BYTES = 2**20
_GRAPH = "models/model.json"
_WEIGHTS = "data/weights/model_weights_config.json"
_CONSTANTS = "data/constants/model_constants_config.json"
_SAMPLES = "data/sample_inputs/model.pt"
_PLAIN = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|\.format_version|\.storage_alignment"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+"
)
_LEFT_OUT = re.compile(r"extra/.*|data/sample_inputs/model\.pt")
_UNSAFE = (
    (re.compile(r"constants\.pkl|code/.*"), "is a TorchScript archive", _SAVE),
    (re.compile(r"data\.pkl"), "is a pickle of torch.save", _SAVE),
    (re.compile(r"data/aotinductor/.*"), "holds compiled code", _SAVE),
    (re.compile(r"data/(weights|constants)/\w+\.pt|serialized_.*"), "keeps its weights in a pickle", _SAVE_AGAIN),
    (re.compile(r"data/constants/(custom|opaque)_obj_\d+"), "holds a pickled object of its own", _SAVE),
)
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}
"""By PyTorch's numbers for types: integers, floats, bool, bfloat16."""

_WORD = re.compile(r"[\w.:+ -]{0,500}", re.ASCII)
_NAME = re.compile(r"\w{0,500}", re.ASCII)
_NAME_KEYS = frozenset({"name", "as_name", "forward_arg_names"})
"""What becomes names in generated Python."""
_TEXT_KEYS = frozenset({"as_string", "as_strings"})
"""Arguments, which stay values: equations of einsum and the like."""
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims)\.\w+\.\w+"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pos|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|math\.(ceil|floor|trunc)|torch\.sym_(int|float|max|min|not)"
    r"|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
)
_READS_FILES = "from_file"
"""The one operator of PyTorch that is given a path."""
_EXPRESSION = re.compile(r"[\w\s+*/(),<>='.-]{1,500}", re.ASCII)
_SYMBOL = re.compile(
    r"[suz]+\d+|Symbol|Integer|positive|integer|Add|Mul|Pow|FloorDiv|Mod|PythonMod|ModularIndexing|CleanDiv|CeilDiv|CeilToInt|FloorToInt|TruncToInt|IntTrueDiv"
    r"|ToFloat|Max|Min|Eq|Ne|oo|int_oo|True|False"
)
_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_TREE_TYPES = frozenset({"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None})


def copy_safely(path: Path, into: Path) -> None:
    """Write the archive at `path` to `into`, a file name that ends in .pt2, so that it can be opened.

    Raises:
        InvalidInputError: no such archive, or one that would run code; names what is at fault.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _copy(archive, into, path.stat().st_size)
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, ValueError, OverflowError) as exc:
        with path.open("rb") as file:
            old_pickle = file.read(1) == b"\x80"
        if old_pickle:
            raise _refused("is a Python pickle, which would run code when opened", _SAVE) from exc
        raise _refused(f"is no archive of torch.export.save, or a damaged one: {exc}", _SAVE) from exc


def _copy(archive: zipfile.ZipFile, into: Path, archive_bytes: int) -> None:
    members = _members(archive, archive_bytes)
    sizes = {name: item.file_size for name, item in members.items()}
    documents = {name: _document(archive, members, name) for name in (_GRAPH, _WEIGHTS, _CONSTANTS)}
    graph = documents[_GRAPH] = _checked_graph(documents[_GRAPH])
    for name in (_WEIGHTS, _CONSTANTS):
        _check_tensors(_checked(documents[name], ""), name.rsplit("/", 1)[0], sizes)
    if not isinstance(graph, dict):
        raise _refused("holds no graph", _SAVE)
    with zipfile.ZipFile(into, "w") as copy:
        for name, item in members.items():
            if name not in documents and _PLAIN.fullmatch(name):
                with archive.open(item) as source, copy.open(f"model/{name}", "w") as target:
                    while piece := source.read(_PIECE_BYTES):
                        target.write(piece)
        for name, document in documents.items():
            copy.writestr(f"model/{name}", json.dumps(document))
        # None at all, as torch.export.save writes it.
        copy.writestr(f"model/{_SAMPLES}", b"")


def _members(archive: zipfile.ZipFile, archive_bytes: int) -> dict[str, zipfile.ZipInfo]:
    items = archive.infolist()
    if len(items) > _MAX_MEMBERS:
        raise _refused(f"holds more than {_MAX_MEMBERS} members", _SAVE)
    _check_kind([item.filename for item in items])
    members: dict[str, zipfile.ZipInfo] = {}
    for item in items:
        name = item.filename.partition("/")[2]
        _check_member(item, name)
        if name in members:
            raise _refused(f"holds {shown(item.filename)} twice", _SAVE)
        members[name] = item
    if len({item.filename.partition("/")[0] for item in items}) != 1 or _GRAPH not in members:
        raise _refused("holds no exported program", _SAVE)
    if sum(item.file_size for item in items) > archive_bytes:
        raise _refused("claims more bytes than it has", _SAVE)
    return members


def _check_kind(names: list[str]) -> None:
    """Refuse an archive of another kind by what it is, not by what it lacks."""
    for pattern, problem, remedy in _UNSAFE:
        found = next((name for name in names if pattern.fullmatch(name.partition("/")[2])), None)
        if found is not None:
            raise _refused(f"{problem} ({shown(found)}), which would run code when opened", remedy)


def _check_member(item: zipfile.ZipInfo, name: str) -> None:
    known = _PLAIN.fullmatch(name) or _LEFT_OUT.fullmatch(name) or name in {_GRAPH, _WEIGHTS, _CONSTANTS}
    if not known:
        raise _refused(f"holds {shown(item.filename)}, which torch.export.save does not write", _SAVE)
    # It stores everything as it is; so there is nothing that could grow in unpacking.
    if item.compress_type != zipfile.ZIP_STORED or item.file_size > item.compress_size or item.flag_bits & 1:
        raise _refused(f"holds {shown(item.filename)} packed, which torch.export.save does not do", _SAVE)


def _document(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str) -> Json:
    if name not in members:
        raise _refused(f"lacks {shown(name)}", _SAVE_AGAIN)
    if members[name].file_size > _MAX_JSON_BYTES:
        raise _refused(f"has a graph of more than {_MAX_JSON_BYTES} bytes", "give a smaller model")
    try:
        document: Json = json.loads(archive.read(members[name]))
    except RecursionError as exc:
        raise _refused(f"nests {shown(name)} too deep", _SAVE) from exc
    return document


def _checked_graph(document: Json) -> Json:
    if not isinstance(document, dict) or not isinstance(document.get("graph_module"), dict):
        raise _refused("holds no graph", _SAVE)
    module = document["graph_module"]
    assert isinstance(module, dict)  # noqa: S101 - said just above; for the type checker
    calls = module.get("module_call_graph")
    # Who called whom inside the model matters to nobody here; the first entry is the model's own signature.
    kept = {
        **module,
        "module_call_graph": calls[:1] if isinstance(calls, list) else [],
        "treespec_namedtuple_fields": {},
    }
    return _checked({**document, "graph_module": kept, "guards_code": []}, "")


def _checked(value: Json, key: str) -> Json:
    """Return `value` without metadata; `key` is the name that it, or the list that it is in, stands under."""
    if isinstance(value, dict):
        return {_word(name): {} if name == "metadata" else _checked(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_checked(item, key) for item in value]
    if isinstance(value, str):
        _check_text(value, key)
    return value


def _check_text(text: str, key: str) -> None:
    if key in _TEXT_KEYS:
        return
    if key in {"in_spec", "out_spec"}:
        _check_tree(json.loads(text)[1])
    elif key in {"target", "as_operator"}:
        if not _OPERATOR.fullmatch(text) or text.split(".")[3:4] == [_READS_FILES]:
            raise _refused(
                f"calls {shown(text)}, which is no operator of PyTorch's own", "use PyTorch's operators alone"
            )
    elif key == "expr_str":
        names = _IDENTIFIER.findall(text)
        if not _EXPRESSION.fullmatch(text) or not all(_SYMBOL.fullmatch(name) for name in names):
            raise _refused(f"has a size {shown(text)}, which is no sum or product", _SAVE)
    elif key in _NAME_KEYS:
        if not _NAME.fullmatch(text):
            raise _refused(f"has a name {shown(text)}, which is none", _SAVE)
    else:
        _word(text)


def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise _refused(f"has a word {shown(text)} in its graph, which torch.export.save does not write", _SAVE)
    return text


def _check_tree(spec: Json) -> None:
    if not isinstance(spec, dict) or spec.get("type") not in _TREE_TYPES:
        kind = spec.get("type") if isinstance(spec, dict) else spec
        raise _refused(
            f"takes or gives a {shown(str(kind))}", "let the model take and give tensors, tuples, lists or dicts"
        )
    context, children = spec.get("context"), spec.get("children_spec")
    keys = json.loads(context) if isinstance(context, str) else None
    # A key that is no text is imported as an enumeration.
    if keys is not None and not (
        isinstance(keys, list) and all(isinstance(name, str) and _word(name) for name in keys)
    ):
        raise _refused("takes or gives a dict whose keys are no text", "name its inputs and outputs by text")
    for child in children if isinstance(children, list) else []:
        _check_tree(child)


def _check_tensors(config: Json, folder: str, sizes: dict[str, int]) -> None:
    """Refuse weights in pickles, and sizes that are not there: an empty member may claim any, and gets zeros."""
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise _refused(f"lists no weights in {shown(folder)}", _SAVE)
    for name, entry in entries.items():
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise _refused(f"keeps {shown(name)} in a pickle, which would run code when opened", _SAVE)
        stored = sizes.get(f"{folder}/{entry.get('path_name')}")
        claimed = _claimed_bytes(entry.get("tensor_meta"))
        if stored is None or claimed is None or claimed > stored:
            raise _refused(f"claims {claimed} bytes for {shown(name)}, and holds {stored}", _SAVE)


def _claimed_bytes(meta: Json) -> int | None:
    if not isinstance(meta, dict) or not isinstance(meta.get("sizes"), list):
        return None
    sizes = [item.get("as_int") if isinstance(item, dict) else None for item in meta["sizes"]]  # type: ignore[union-attr]  # a list, as was just seen
    dtype = meta.get("dtype")
    if not isinstance(dtype, int) or dtype not in _ITEM_BYTES:
        return None
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        return None
    return math.prod(size for size in sizes if isinstance(size, int)) * _ITEM_BYTES[dtype]


def _refused(problem: str, remedy: str) -> InvalidInputError:
    return InvalidInputError(field=_FIELD, problem=problem, remedy=remedy)
