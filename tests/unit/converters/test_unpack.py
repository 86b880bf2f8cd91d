"""Archives as somebody who means harm would pack them, one trick each; nothing may stay behind."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import stat
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
from typing_extensions import override

from converters.loaders.unpack import unpack
from shared.errors import InvalidInputError

LIMIT_BYTES = 64 * 2**20
GRAPH = b"\x08\x01\x12\x00" * 10


class Canary:
    """Leaves a file where it was unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @override
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self._path,))


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that stand twice, which is the point
        for name, content in members:
            archive.writestr(name, content)
    return path


def tarred(path: Path, *members: tuple[str | tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]  # the modes are a Literal
        for name, content in members:
            item = tarfile.TarInfo(name) if isinstance(name, str) else name
            if isinstance(name, str):
                item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
    return path


def refusal(path: Path, *, limit_bytes: int = LIMIT_BYTES) -> str:
    """What unpacking says of an archive that must be refused; the scratch folder must be as before."""
    into = path.parent / "scratch" / "unpacked"
    into.parent.mkdir(exist_ok=True)
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(InvalidInputError) as caught:
        unpack(path, into, limit_bytes=limit_bytes)
    assert caught.value.field == "source"
    assert caught.value.remedy
    assert sorted(path.parent.rglob("*")) == before, "something was left behind"
    return caught.value.problem


def test_unpack_zip_of_a_saved_model_gives_its_folder(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m.zip", ("net/saved_model.pb", GRAPH), ("net/variables/variables.index", b"index"))
    folder = unpack(path, tmp_path / "out", limit_bytes=LIMIT_BYTES)
    assert folder == tmp_path / "out" / "net"
    assert (folder / "variables" / "variables.index").read_bytes() == b"index"


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_unpack_tar_of_a_tensorflowjs_model_gives_its_folder(tmp_path: Path, mode: str) -> None:
    folder = tarfile.TarInfo("./")
    folder.type = tarfile.DIRTYPE
    path = tarred(tmp_path / "m", (folder, b""), ("./model.json", b"{}"), ("./group1-shard1of1.bin", b"w"), mode=mode)
    assert unpack(path, tmp_path / "out", limit_bytes=LIMIT_BYTES) == tmp_path / "out"
    assert (tmp_path / "out" / "group1-shard1of1.bin").read_bytes() == b"w"


def test_unpack_of_weights_larger_than_a_piece_gives_them_whole(tmp_path: Path) -> None:
    weights = os.urandom(700_001)
    for name, pack in (("m.zip", zipped), ("m.tar.gz", tarred)):
        path = pack(tmp_path / name, ("saved_model.pb", GRAPH), ("variables/data", weights))
        folder = unpack(path, tmp_path / f"out-{name}", limit_bytes=LIMIT_BYTES)
        assert (folder / "variables" / "data").read_bytes() == weights


def test_unpack_of_a_model_that_holds_another_gives_the_outer_one(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m.zip", ("a/saved_model.pb", GRAPH), ("a/assets/model.json", b"{}"))
    assert unpack(path, tmp_path / "out", limit_bytes=LIMIT_BYTES).name == "a"


def test_unpack_of_two_models_side_by_side_is_refused_by_name(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m.zip", ("a/saved_model.pb", GRAPH), ("b/model.json", b"{}"))
    assert "more than one model, in 'a' and 'b'" in refusal(path)


def test_unpack_without_a_model_is_refused(tmp_path: Path) -> None:
    assert "holds no saved_model.pb and no model.json" in refusal(zipped(tmp_path / "m.zip", ("readme", b"hello")))


def test_unpack_into_a_folder_in_use_leaves_it_alone(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m.zip", ("saved_model.pb", GRAPH))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(FileExistsError):
        unpack(path, tmp_path / "out", limit_bytes=LIMIT_BYTES)
    assert (tmp_path / "out" / "mine").exists()


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\..\\evil", "C:/evil", "C:\\evil", "\\evil"]
)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_unpack_attack_of_a_name_that_leads_out_is_refused(tmp_path: Path, name: str, pack: object) -> None:
    path = pack(tmp_path / "m", ("saved_model.pb", GRAPH), (name, b"x"))  # type: ignore[operator]  # one of two functions
    assert "evil" in refusal(path)


@pytest.mark.parametrize("name", ["a\nb", "a\x7fb", "x" * 300, "/".join("x" * 40), "y/" * 600 + "z"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_unpack_attack_of_a_name_that_no_disk_should_see_is_refused(tmp_path: Path, name: str, pack: object) -> None:
    assert "whose name" in refusal(pack(tmp_path / "m", (name, b"x")))  # type: ignore[operator]  # one of two functions


def test_unpack_attack_of_a_name_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    path = tarred(tmp_path / "m", ("caf\udce9", b"x"))
    assert "whose name" in refusal(path)


@pytest.mark.parametrize("names", [("a", "a"), ("a", "./a"), ("a/b", "a//b"), ("a", "a/b"), ("a/b", "a")])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_unpack_attack_of_a_name_twice_is_refused(tmp_path: Path, names: tuple[str, str], pack: object) -> None:
    path = pack(tmp_path / "m", (names[0], b"x"), (names[1], b"y"))  # type: ignore[operator]  # one of two functions
    said = refusal(path)
    assert "twice" in said or "as a file and as a folder" in said


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.SYMTYPE, "'bait', which is a symbolic link"),
        (tarfile.LNKTYPE, "'bait', which is a hard link"),
        (tarfile.CHRTYPE, "'bait', which is a device"),
        (tarfile.BLKTYPE, "'bait', which is a device"),
        (tarfile.FIFOTYPE, "'bait', which is a device"),
        (tarfile.CONTTYPE, "'bait', which is no regular file"),
    ],
)
def test_unpack_attack_of_a_tar_member_that_is_no_file_is_refused(tmp_path: Path, kind: bytes, said: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    bait = tarfile.TarInfo("bait")
    bait.type, bait.linkname = kind, str(secret)
    path = tarred(tmp_path / "m", (bait, b""), ("bait", b"yours"))
    assert said in refusal(path)
    assert secret.read_text() == "mine"


@pytest.mark.parametrize(
    ("mode", "said"),
    [(stat.S_IFLNK, "a symbolic link"), (stat.S_IFCHR, "a device"), (stat.S_IFIFO, "a pipe"), (0o150000, "no regular")],
)
def test_unpack_attack_of_a_zip_member_that_is_no_file_is_refused(tmp_path: Path, mode: int, said: str) -> None:
    bait = zipfile.ZipInfo("bait")
    bait.external_attr = (mode | 0o777) << 16
    assert f"'bait', which is {said}" in refusal(zipped(tmp_path / "m", (bait, b"/etc/passwd")))


def test_unpack_attack_of_a_folder_linked_out_of_the_scratch_folder_writes_nothing_there(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = tarfile.TarInfo("variables")
    link.type, link.linkname = tarfile.SYMTYPE, str(outside)
    assert "symbolic link" in refusal(tarred(tmp_path / "m", (link, b""), ("variables/data", b"x")))
    assert not list(outside.iterdir())


def test_unpack_attack_of_a_sparse_file_is_refused(tmp_path: Path) -> None:
    hole = tarfile.TarInfo("hole")
    hole.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10 * 2**30)}
    content = b"0\n".ljust(512, b"\0")
    hole.size = len(content)
    assert "'hole', which is no regular file" in refusal(tarred(tmp_path / "m", (hole, content)))


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_unpack_attack_of_a_pickle_is_refused_and_not_opened(tmp_path: Path, pack: object) -> None:
    canary = tmp_path / "canary"
    content = pickle.dumps(Canary(canary))
    path = pack(tmp_path / "m", ("saved_model.pb", GRAPH), ("net/data.pkl", content))  # type: ignore[operator]  # one of two
    assert "'net/data.pkl', a Python pickle" in refusal(path)
    assert not canary.exists()


def test_unpack_attack_of_a_pickle_under_another_name_is_not_opened(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = zipped(tmp_path / "m", ("saved_model.pb", pickle.dumps(Canary(canary))))
    unpack(path, tmp_path / "out", limit_bytes=LIMIT_BYTES)
    assert not canary.exists()


def test_unpack_attack_of_an_encrypted_member_is_refused_by_name(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m", ("saved_model.pb", GRAPH))
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "'saved_model.pb', which is encrypted" in refusal(path)


@pytest.mark.parametrize("way", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unpack_attack_of_a_way_of_packing_that_takes_memory_on_trust_is_refused(tmp_path: Path, way: int) -> None:
    path = tmp_path / "m"
    with zipfile.ZipFile(path, "w", way) as archive:
        archive.writestr("saved_model.pb", GRAPH)
    assert f"'saved_model.pb', which is packed in way {way}" in refusal(path)


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_unpack_bomb_of_zeros_is_refused_by_its_ratio(tmp_path: Path, pack: object) -> None:
    path = pack(tmp_path / "m", ("saved_model.pb", GRAPH), ("zeros", bytes(40 * 2**20)))  # type: ignore[operator]  # one of two
    assert "250 times as many" in refusal(path)


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_unpack_of_more_than_the_limit_is_refused(tmp_path: Path, pack: object) -> None:
    path = pack(tmp_path / "m", ("saved_model.pb", GRAPH), ("weights", os.urandom(9000)))  # type: ignore[operator]  # one of two
    assert "may unpack to 8000 bytes at most" in refusal(path, limit_bytes=8000)


def test_unpack_bomb_in_many_small_members_is_counted_together(tmp_path: Path) -> None:
    path = tarred(tmp_path / "m", *((f"part{number}", os.urandom(1000)) for number in range(20)))
    assert "claims 1000 bytes for 'part8'" in refusal(path, limit_bytes=8000)


def test_unpack_attack_of_ten_gigabytes_claimed_by_a_zip_is_refused_before_writing(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m", ("saved_model.pb", GRAPH))
    content = bytearray(path.read_bytes())
    for magic, place in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = content.find(magic) + place
        content[at : at + 4] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(content)
    assert "claims 4294967294 bytes" in refusal(path)


def test_unpack_attack_of_a_member_that_is_more_than_it_claims_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m", ("saved_model.pb", bytes(2**20)))
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02") + 24
    content[at : at + 4] = struct.pack("<I", 10)
    path.write_bytes(content)
    assert "damaged" in refusal(path)


def test_unpack_attack_of_ten_gigabytes_claimed_by_a_tar_is_refused_before_writing(tmp_path: Path) -> None:
    huge = tarfile.TarInfo("weights")
    huge.size = 10 * 2**30
    path = tmp_path / "m"
    path.write_bytes(gzip.compress(huge.tobuf() + bytes(2048)))
    assert "claims 10737418240 bytes for 'weights'" in refusal(path)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_unpack_attack_of_a_header_that_claims_gigabytes_is_refused(tmp_path: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("header")
    header.type, header.size = kind, 10 * 2**30
    path = tmp_path / "m"
    path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(4096)))
    assert "header that claims" in refusal(path)


def test_unpack_attack_of_endless_names_is_refused(tmp_path: Path) -> None:
    path = tarred(tmp_path / "m", *((f"{number}", b"") for number in range(5001)), mode="w")
    assert "more than 5000 members" in refusal(path)


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_unpack_cut_anywhere_is_refused_or_whole(tmp_path: Path, pack: object) -> None:
    path = pack(tmp_path / "m", ("saved_model.pb", GRAPH), ("weights", os.urandom(3000)))  # type: ignore[operator]  # one of two
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        assert refusal(path)


def test_unpack_damaged_between_members_is_refused(tmp_path: Path) -> None:
    path = tarred(tmp_path / "m", ("saved_model.pb", GRAPH), ("weights", b"w" * 600), mode="w")
    content = bytearray(path.read_bytes())
    content[1024 + 148 : 1024 + 156] = b"notasum!"
    path.write_bytes(content)
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"\x1f\x8b\x08", b"BZh91AY", b"hello" * 100])
def test_unpack_of_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m"
    path.write_bytes(content)
    assert "no archive" in refusal(path) or "is no .zip" in refusal(path)
