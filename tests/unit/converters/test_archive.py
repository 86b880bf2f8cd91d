from __future__ import annotations

import io
import json
import pickle
import stat
import warnings
import zipfile
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from typing_extensions import override

from converters.loaders.archive import check_archive
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def hdf5(write: Callable[[h5py.File], object]) -> bytes:
    """An HDF5 file with what `write` puts there."""
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        write(content)
    return file.getvalue()


WEIGHTS = hdf5(lambda content: content.create_dataset("layers/head/vars/0", data=np.ones((4, 3), np.float32)))
DENSE = {"module": "keras.layers", "class_name": "Dense", "config": {"name": "head", "units": 3}}


def declared(*layers: object) -> dict[str, object]:
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "net", "layers": list(layers)}}


def saved(tmp_path: Path, config: object, **members: bytes) -> Path:
    path = tmp_path / "model"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", WEIGHTS)
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InvalidInputError) as caught:
        check_archive(path)
    assert caught.value.field == "source"
    return str(caught.value)


def test_archive_of_keras_layers_passes(tmp_path: Path) -> None:
    check_archive(saved(tmp_path, declared(DENSE)))


def test_archive_with_lambda_is_refused_naming_the_layer(tmp_path: Path) -> None:
    code = {"class_name": "__lambda__", "config": {"code": "4wEAAAA="}}
    layer = {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "twice", "function": code}}
    said = refusal(saved(tmp_path, declared(DENSE, layer)))
    assert "layer 'twice'" in said
    assert "would run code" in said


@pytest.mark.parametrize(
    "attack",
    [
        {"module": "builtins", "class_name": "function", "config": "exec", "registered_name": "function"},
        {"module": "keras.utils", "class_name": "function", "config": "get_file"},
        {"module": "os", "class_name": "System", "config": {}},
        {"module": "keras.src.ops.numpy", "class_name": "eval", "config": {}},
        {"module": "keras.saving", "class_name": "Load_model", "config": {}},
        {"class_name": "Dense", "config": {}},
        {"module": ["keras"], "class_name": "Dense", "config": {}},
        {"module": "keras.layers", "class_name": ["Dense"], "config": {}},
        {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "/tmp/x"}},
        {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {"module": "gAR9"}},
        {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
    ],
)
def test_archive_attack_hidden_in_a_layer_is_refused(tmp_path: Path, attack: dict[str, object]) -> None:
    layer = {**DENSE, "config": {"name": "head", "activation": [{"deep": attack}]}}
    assert "layer 'head'" in refusal(saved(tmp_path, declared(layer)))


def test_archive_of_somebodys_own_class_is_refused_by_its_name(tmp_path: Path) -> None:
    own = {"module": "our.layers", "class_name": "Blend", "config": {"name": "blend"}, "registered_name": "our>Blend"}
    assert "our.layers.Blend, which is no part of Keras" in refusal(saved(tmp_path, declared(own)))


def test_archive_nested_without_end_is_read(tmp_path: Path) -> None:
    nested: object = DENSE
    for _ in range(400):
        nested = {"config": [nested]}
    check_archive(saved(tmp_path, declared(nested)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no Keras model"),
        (b"hello, world", "no Keras model"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "HDF5"),
        (pickle.dumps({"weights": [1, 2]}), "pickle"),
    ],
)
def test_archive_of_another_kind_is_refused_by_its_kind(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    assert said in refusal(path)


def test_archive_of_pytorch_is_refused_as_pickle(tmp_path: Path) -> None:
    assert "pickle" in refusal(saved(tmp_path, {}, archive__data=b"", **{"archive__data.pkl": b"\x80\x02."}))


def test_archive_without_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    assert "it holds no config.json and model.weights.h5" in refusal(path)


def test_archive_cut_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, declared(DENSE))
    path.write_bytes(path.read_bytes()[:-30])
    assert "no Keras model" in refusal(path)


def test_archive_whose_configuration_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{not json")
        archive.writestr("model.weights.h5", b"")
    assert "no Keras model" in refusal(path)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "assets/../../evil", "assets\\..\\..\\evil", "\\evil"])
def test_archive_with_a_path_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, declared(DENSE))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    said = refusal(path)
    assert "evil" in said
    assert "leads out of the archive" in said or "a letter that no file should have" in said


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [(8, 1, "is encrypted"), (10, 99, "no Keras"), (10, 8, "no Keras"), (10, 14, "no Keras")],
    ids=["encrypted", "?", "zip", "lzma"],
)
def test_archive_packed_in_another_way_than_it_says_is_refused(
    tmp_path: Path, place: int, value: int, said: str
) -> None:
    path = saved(tmp_path, declared(DENSE))
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02") + place] = value
    path.write_bytes(content)
    assert said in refusal(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000])
def test_archive_nested_beyond_the_parser_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", b"")
    assert "no Keras model" in refusal(path)


@pytest.mark.parametrize(("member", "size"), [("config.json", 2**27), ("model.weights.h5", 2**32 - 2)])
def test_archive_that_claims_to_unpack_to_more_than_memory_is_refused(tmp_path: Path, member: str, size: int) -> None:
    path = saved(tmp_path, declared(DENSE), **{"more.bin": b"", "most.bin": b""})
    content = bytearray(path.read_bytes())
    place = content.find(b"PK\x01\x02")
    while place >= 0:
        length = int.from_bytes(content[place + 28 : place + 30], "little")
        if bytes(content[place + 46 : place + 46 + length]).decode() in {member, "more.bin", "most.bin"}:
            content[place + 24 : place + 28] = size.to_bytes(4, "little")
        place = content.find(b"PK\x01\x02", place + 4)
    path.write_bytes(content)
    said = refusal(path)
    assert "unpacks to more than" in said or "is larger than" in said


@pytest.mark.parametrize(
    "wrapper",
    ["TimeDistributed", "Bidirectional", "SpectralNormalization", "RNN"],
)
def test_archive_with_lambda_within_a_wrapper_within_a_model_is_refused(tmp_path: Path, wrapper: str) -> None:
    hidden = {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "deep"}}
    layer = {"module": "keras.layers", "class_name": wrapper, "config": {"name": "w", "layer": hidden}}
    nested = {"module": "keras.src.models.functional", "class_name": "Functional", "config": {"layers": [layer]}}
    assert "layer 'deep' is or holds a Lambda" in refusal(saved(tmp_path, declared(DENSE, nested)))


def test_archive_with_code_in_what_it_was_compiled_with_is_refused(tmp_path: Path) -> None:
    loss = {"module": "builtins", "class_name": "function", "config": "our_loss", "registered_name": "function"}
    assert "would run code" in refusal(saved(tmp_path, {**declared(DENSE), "compile_config": {"loss": loss}}))


def test_archive_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    # Whoever looks reads one of them, and Keras the other.
    path = saved(tmp_path, declared(DENSE))
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("config.json", json.dumps(declared(DENSE)))
    assert "holds 'config.json' twice (save the model with model.save('model.keras'))" in refusal(path)


def test_archive_with_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    path, link = saved(tmp_path, declared(DENSE)), zipfile.ZipInfo("assets/vocabulary.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "'assets/vocabulary.txt', which is a symbolic link" in refusal(path)


class Canary:
    """Leaves a file where it was unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @override
    def __reduce__(self) -> tuple[object, ...]:
        return (type(self._path).touch, (self._path,))


@pytest.mark.parametrize("name", ["assets/data.pkl", "archive/data.PKL", "model.joblib", "weights.pt"])
def test_archive_with_a_pickle_in_it_is_refused_and_not_opened(tmp_path: Path, name: str) -> None:
    path, canary = saved(tmp_path, declared(DENSE)), tmp_path / "canary"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, pickle.dumps(Canary(canary)))
    assert "a Python pickle, which would run code when opened" in refusal(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (
            lambda content: content.create_dataset("w", (4,), "i1", external=[("/etc/passwd", 0, 4)]),
            "its weights keep '/w' in another file",
        ),
        (lambda content: content.__setitem__("w", h5py.ExternalLink("/etc/x.h5", "/w")), "a link to elsewhere"),
        (lambda content: content.__setitem__("w", h5py.SoftLink("/layers")), "a link to elsewhere"),
        (
            lambda content: content.create_virtual_dataset("w", virtual_layout(), fillvalue=0),
            "its weights keep '/w' in another file",
        ),
        (
            lambda content: content.create_dataset("w", (10 * 2**30,), "i1", chunks=(2**20,), compression="gzip"),
            "its weights claim 10737418240 bytes",
        ),
        (lambda content: content.create_dataset("w", (2**40,), "f8", chunks=(2**20,)), "its weights claim"),
    ],
    ids=["external", "external link", "soft link", "virtual", "10 GB packed", "8 TB of nothing"],
)
def test_archive_attack_by_its_weights_file_is_refused(
    tmp_path: Path, attack: Callable[[h5py.File], object], said: str
) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(declared(DENSE)))
        archive.writestr("model.weights.h5", hdf5(attack))
    assert said in refusal(path)


def virtual_layout() -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout((4,), "i1")
    layout[:] = h5py.VirtualSource("/etc/x.h5", "w", (4,))
    return layout


def test_archive_whose_weights_are_no_hdf5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(declared(DENSE)))
        archive.writestr("model.weights.h5", b"weights")
    assert "no readable HDF5 file" in refusal(path)
