from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from controller.demo.attacks import refusal_in, tampered

if TYPE_CHECKING:
    from pathlib import Path


def test_blob_tampered_differs_in_one_byte_and_is_put_back(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    original = bytes(range(256)) * 4
    blob.write_bytes(original)
    blob.chmod(0o400)
    with tampered(blob):
        altered = blob.read_bytes()
        assert [at for at in range(len(original)) if altered[at] != original[at]] == [len(original) // 2]
    assert blob.read_bytes() == original
    assert blob.stat().st_mode & 0o777 == 0o400


def test_blob_tampered_is_put_back_when_the_demo_fails(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(b"content")
    with pytest.raises(RuntimeError, match="the demo broke"), tampered(blob):
        raise RuntimeError("the demo broke")
    assert blob.read_bytes() == b"content"


def test_refusal_is_found_between_other_lines() -> None:
    refused = b'{"on": "DesiredRefused", "reason": "unseal_failed"}\n'
    log = b'litefleet-agent: control ended\n{"on": "Tick"}\n' + refused + b'{"on": "De'
    assert refusal_in(log) == "unseal_failed"
    assert refusal_in(b'{"on": "Tick", "reason": "nothing"}\n') == ""
