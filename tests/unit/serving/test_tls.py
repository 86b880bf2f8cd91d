from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from agent.serving.callers.tls import ServerCertificate
from tests.support.certificates import Pair

if TYPE_CHECKING:
    from pathlib import Path

LASTING = timedelta(days=1)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path / "tls.crt", tmp_path / "tls.key")


def test_files_that_fit_are_taken_once_for_each_change(pair: Pair) -> None:
    pair.write("first", lasting=LASTING)
    certificate = ServerCertificate(pair.certificate, pair.key)
    assert [certificate.refresh(), certificate.refresh()] == [True, False]
    pair.write("second", lasting=LASTING)
    assert certificate.refresh()
    assert certificate.pair is not None
    assert certificate.pair.certificate == pair.certificate.read_bytes()


def test_files_that_are_missing_are_taken_when_they_come(pair: Pair) -> None:
    certificate = ServerCertificate(pair.certificate, pair.key)
    assert (certificate.refresh(), certificate.pair) == (False, None)
    pair.write("first", lasting=LASTING)
    assert certificate.refresh()


@pytest.mark.parametrize("broken", ["certificate", "key"])
def test_file_that_is_no_pem_leaves_the_pair_before_in_use(pair: Pair, broken: str) -> None:
    pair.write("first", lasting=LASTING)
    certificate = ServerCertificate(pair.certificate, pair.key)
    certificate.refresh()
    before = certificate.pair
    getattr(pair, broken).write_text("-----BEGIN NONSENSE-----\n")
    assert not certificate.refresh()
    assert certificate.pair is before


def test_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    pair.write("first", lasting=LASTING)
    key = load_pem_private_key(pair.key.read_bytes(), password=None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    pair.key.write_bytes(locked)
    assert not ServerCertificate(pair.certificate, pair.key).refresh()
    assert "passphrase" in capsys.readouterr().out


def test_files_that_cannot_be_used_are_complained_of_once(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    pair.certificate.write_text("nothing")
    pair.key.write_text("nothing")
    certificate = ServerCertificate(pair.certificate, pair.key)
    for _ in range(5):
        assert not certificate.refresh()
    assert capsys.readouterr().out.count("certificate_not_used") == 1
