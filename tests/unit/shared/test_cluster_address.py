"""An address of a cluster that anybody could answer or call is refused, with what would mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.cluster_address import checked_address
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

NO_FILES: dict[str, Path | None] = {"ca": None, "certificate": None, "key": None}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_address_without_tls_on_loopback_needs_no_certificates(host: str) -> None:
    assert checked_address(f"tcp://{host}:8786", field="cluster", files=NO_FILES) is None


def test_attack_address_without_tls_elsewhere_is_refused_with_its_remedy() -> None:
    with pytest.raises(InvalidInputError, match=r"anybody on the network .*use tls://192\.0\.2\.1:8786"):
        checked_address("tcp://192.0.2.1:8786", field="cluster", files=NO_FILES)


@pytest.mark.parametrize(
    "address", ["", "scheduler:8786", "tls://host", "ucx://host:1", "tls://:8786", "tls://h:99999"]
)
def test_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InvalidInputError, match=r"no address of a scheduler .*tls://"):
        checked_address(address, field="cluster", files=NO_FILES)


def test_address_with_tls_names_the_file_that_is_missing(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    with pytest.raises(InvalidInputError) as unset:
        checked_address("tls://host:8786", field="cluster", files={"ca": ca, "certificate": None, "key": ca})
    files = {"ca": ca, "certificate": ca, "key": tmp_path / "none"}
    with pytest.raises(InvalidInputError) as gone:
        checked_address("tls://host:8786", field="cluster", files=files)
    assert (unset.value.field, gone.value.field) == ("certificate", "key")


def test_address_with_tls_returns_all_three_files(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("ca", "certificate", "key")}
    for path in files.values():
        path.touch()
    found = checked_address("tls://host:8786", field="cluster", files=files)
    assert found is not None
    assert (found.ca, found.certificate, found.key) == tuple(files.values())
