"""A device's certificate is renewed long before it ends."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from typing_extensions import override

from agent.link.certificates import renew, renew_at
from agent.link.https import DeviceApi
from agent.link.identity import client_tls, identity_files
from shared.errors import InvalidInputError, StorageFullError, UnreachableError, UntrustedError
from shared.ids import DeviceId
from tests.support.authority import Authority
from tests.support.device_api import DeviceServer, Fault
from tests.support.file_size import file_size_limit

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from datetime import datetime
    from pathlib import Path

    from agent.link.identity import IdentityFiles

DEVICE = DeviceId("dev-1")


class Bench:
    """A server, an enrolled device, and its connection."""

    def __init__(self, server: DeviceServer, api: DeviceApi, files: IdentityFiles, tls: ssl.SSLContext) -> None:
        self.server, self.api, self.files, self.tls = server, api, files, tls

    async def renew(self) -> datetime:
        return await renew(self.api, self.files, device=DEVICE, tls=self.tls)

    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.files.certificate.read_bytes()).serial_number


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with DeviceServer(tmp_path) as server:
        server.enrol_here(tmp_path / "state", DEVICE)
        files = identity_files(tmp_path / "state")
        tls = client_tls(files)
        async with DeviceApi(controller_url=server.url, tls=tls) as api:
            yield Bench(server, api, files, tls)


async def test_certificate_renewed_is_another_for_the_same_key(bench: Bench) -> None:
    key, serial = bench.files.key.read_bytes(), bench.serial()
    again_at = await bench.renew()
    assert bench.serial() != serial
    assert bench.files.key.read_bytes() == key
    certificate = x509.load_pem_x509_certificate(bench.files.certificate.read_bytes())
    half = (certificate.not_valid_after_utc - certificate.not_valid_before_utc) / 2
    assert abs(again_at - certificate.not_valid_before_utc - half) < timedelta(seconds=1)
    async with DeviceApi(controller_url=bench.server.url, tls=bench.tls) as fresh:
        assert (await fresh.session()).boot_id


async def test_certificate_whose_renewal_is_lost_stays(bench: Bench) -> None:
    serial = bench.serial()
    bench.server.faults["renew"] = Fault.LOSE_REPLY
    with pytest.raises(UnreachableError):
        await bench.renew()
    assert bench.serial() == serial
    bench.server.faults.clear()
    await bench.renew()


async def test_certificate_on_a_full_disk_stays(bench: Bench) -> None:
    serial = bench.serial()
    with file_size_limit(100), pytest.raises(StorageFullError):
        await bench.renew()
    assert bench.serial() == serial


async def test_renewal_answered_with_nonsense_is_unreachable(bench: Bench) -> None:
    bench.server.faults["renew"] = Fault.FLIP
    with pytest.raises(UnreachableError, match="certificate is none"):
        await bench.renew()


class LyingAuthority(Authority):
    """Issues for a name and key of its own choice, once told to."""

    lies = False

    @override
    def issue_device(self, name: str, public: object) -> str:
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        return super().issue_device(name, key if self.lies else public)


async def test_renewal_answered_for_another_key_is_untrusted(bench: Bench) -> None:
    serial = bench.serial()
    authority = LyingAuthority()
    bench.server.authority = authority
    with pytest.raises(UntrustedError, match="authority"):
        await bench.renew()
    authority.lies = True
    bench.files.authority.write_text(authority.pem)
    with pytest.raises(UntrustedError, match="another key"):
        await bench.renew()
    assert bench.serial() == serial


async def test_renewal_of_a_damaged_certificate_names_it(bench: Bench) -> None:
    bench.files.certificate.write_text("damaged")
    with pytest.raises(InvalidInputError, match=r"device\.crt"):
        renew_at(bench.files)
