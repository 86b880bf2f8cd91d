from __future__ import annotations

import copy
import json
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from converters.loaders.pt2_archive import copy_safely
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

Document = dict[str, Any]
TREE = {"type": "builtins.tuple", "context": "null", "children_spec": []}
CODE = "__import__('os').system('true')"


def meta(*sizes: int) -> Document:
    return {"dtype": 7, "sizes": [{"as_int": size} for size in sizes]}


def payload(path: str, *sizes: int) -> Document:
    return {"path_name": path, "is_param": True, "use_pickle": False, "tensor_meta": meta(*sizes)}


def program() -> Document:
    signature = {"in_spec": json.dumps([1, TREE]), "out_spec": json.dumps([1, TREE]), "forward_arg_names": ["x"]}
    size = {"as_expr": {"expr_str": "Symbol('s77', positive=True, integer=True)", "hint": {"as_int": 2}}}
    node = {
        "name": "relu",
        "target": "torch.ops.aten.relu.default",
        "inputs": [{"name": "self", "arg": {"as_tensor": {"name": "x"}}}],
        "metadata": {"stack_trace": 'File "model.py", line 3'},
    }
    graph = {"nodes": [node], "inputs": [{"as_tensor": {"name": "x"}}], "tensor_values": {"x": {"sizes": [size]}}}
    calls = [{"fqn": "", "signature": signature}, {"fqn": "inner", "signature": None}]
    return {
        "graph_module": {"graph": graph, "module_call_graph": calls},
        "guards_code": [CODE],
        "torch_version": "2.13",
    }


def members() -> dict[str, Any]:
    """Return what an archive of `torch.export.save` holds, as much of it as matters here."""
    return {
        "archive_format": "pt2",
        "archive_version": "0",
        "byteorder": "little",
        "models/model.json": program(),
        "data/weights/weight_0": b"\0" * 16,
        "data/weights/model_weights_config.json": {"config": {"w": payload("weight_0", 2, 2)}},
        "data/constants/model_constants_config.json": {"config": {}},
        "data/sample_inputs/model.pt": pickle.dumps("anything"),
        "extra/notes.txt": "mine",
    }


def write(path: Path, content: dict[str, Any], *, packed: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packed) as archive:
        for name, data in content.items():
            archive.writestr(f"mine/{name}", json.dumps(data) if isinstance(data, dict) else data)
    return path


def refusal(tmp_path: Path, content: dict[str, Any], **how: int) -> str:
    with pytest.raises(InvalidInputError) as caught:
        copy_safely(write(tmp_path / "model.pt2", content, **how), tmp_path / "copy.pt2")
    assert caught.value.remedy
    assert not (tmp_path / "copy.pt2").exists()
    return str(caught.value)


def test_copy_leaves_pickles_guards_metadata_and_extra_files_behind(tmp_path: Path) -> None:
    copy_safely(write(tmp_path / "model.pt2", members()), tmp_path / "copy.pt2")
    with zipfile.ZipFile(tmp_path / "copy.pt2") as archive:
        names = set(archive.namelist())
        graph = json.loads(archive.read("model/models/model.json"))
        assert archive.read("model/data/sample_inputs/model.pt") == b""
        assert archive.read("model/data/weights/weight_0") == b"\0" * 16
    assert names == {f"model/{name}" for name in members() if not name.startswith("extra")}
    assert graph["guards_code"] == []
    assert graph["graph_module"]["graph"]["nodes"][0]["metadata"] == {}
    assert len(graph["graph_module"]["module_call_graph"]) == 1


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("data.pkl", "pickle of torch.save"),
        ("constants.pkl", "TorchScript"),
        ("code/__torch__.py", "TorchScript"),
        ("data/aotinductor/model/model.so", "compiled code"),
        ("data/weights/model.pt", "weights in a pickle"),
        ("data/constants/custom_obj_0", "pickled object"),
        ("data/constants/opaque_obj_0", "pickled object"),
        ("models/other.json", "does not write"),
        ("../../escape", "does not write"),
    ],
)
def test_copy_refuses_members_that_hold_code_or_are_unknown(tmp_path: Path, name: str, word: str) -> None:
    assert word in refusal(tmp_path, {**members(), name: b"x"})


@pytest.mark.parametrize(
    ("place", "value", "word"),
    [
        (("graph_module", "graph", "nodes", 0, "target"), "torch.os.system", "no operator of PyTorch's own"),
        (("graph_module", "graph", "nodes", 0, "target"), "torch.hub.load", "no operator of PyTorch's own"),
        (("graph_module", "graph", "nodes", 0, "target"), "torch.ops.aten.from_file.default", "no operator"),
        (("graph_module", "graph", "nodes", 0, "inputs", 0, "arg"), {"as_operator": "torch.load"}, "no operator"),
        (("graph_module", "graph", "nodes", 0, "name"), f"x={CODE}", "a name"),
        (("graph_module", "graph", "inputs", 0, "as_tensor", "name"), "x: y", "a name"),
        (("graph_module", "graph", "tensor_values", "x", "sizes", 0, "as_expr", "expr_str"), CODE, "no sum"),
        (("graph_module", "graph", "tensor_values", "x", "sizes", 0, "as_expr", "expr_str"), "s0.__class__", "no sum"),
        (("graph_module", "module_call_graph", 0, "signature", "forward_arg_names"), [f"x={CODE}"], "a name"),
        (("torch_version",), f"({CODE})", "a word"),
    ],
)
def test_copy_refuses_words_that_pytorch_would_evaluate(
    tmp_path: Path, place: tuple[str | int, ...], value: object, word: str
) -> None:
    document = copy.deepcopy(program())
    where: Any = document
    for step in place[:-1]:
        where = where[step]
    where[place[-1]] = value
    assert word in refusal(tmp_path, {**members(), "models/model.json": document})


@pytest.mark.parametrize(
    "tree",
    [
        {**TREE, "type": "os.PathLike"},
        {**TREE, "type": "builtins.dict", "context": json.dumps([{"__enum__": True, "fqn": "antigravity:X"}])},
        {**TREE, "children_spec": [{**TREE, "type": "collections.defaultdict"}]},
    ],
)
def test_copy_refuses_trees_whose_types_would_be_imported(tmp_path: Path, tree: Document) -> None:
    document = program()
    document["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps([1, tree])
    assert "source" in refusal(tmp_path, {**members(), "models/model.json": document})


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({**payload("weight_0", 2, 2), "use_pickle": True}, "in a pickle"),
        (payload("weight_0", 50_000, 50_000), "claims 10000000000 bytes"),
        (payload("weight_9", 2, 2), "holds None"),
        (payload("weight_0", -2, 2), "claims None"),
    ],
)
def test_copy_refuses_weights_that_are_pickled_or_not_there(tmp_path: Path, entry: Document, word: str) -> None:
    content = {**members(), "data/weights/model_weights_config.json": {"config": {"w": entry}}}
    assert word in refusal(tmp_path, content)


def test_copy_refuses_packed_members_since_they_could_be_bombs(tmp_path: Path) -> None:
    content = {**members(), "data/weights/weight_0": b"\0" * 2**20}
    assert "packed" in refusal(tmp_path, content, packed=zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    ("content", "word"), [(b"\x80\x02}q\x00.", "Python pickle"), (b"", "no archive"), (b"PK", "no")]
)
def test_copy_refuses_files_that_are_no_archives(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "model.pt2").write_bytes(content)
    with pytest.raises(InvalidInputError, match=word):
        copy_safely(tmp_path / "model.pt2", tmp_path / "copy.pt2")
    assert not (tmp_path / "copy.pt2").exists()


def test_copy_refuses_archive_cut_anywhere(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.pt2", members()).read_bytes()
    for end in range(0, len(whole) - 1, 97):
        (tmp_path / "model.pt2").write_bytes(whole[:end])
        with pytest.raises(InvalidInputError):
            copy_safely(tmp_path / "model.pt2", tmp_path / "copy.pt2")
