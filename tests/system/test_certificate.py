"""A device outlives its certificate."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent.link.identity import identity_files
from shared.clock import SystemClock
from shared.wire import AssignmentStatus
from tests.support.device_world import DeviceWorld
from tests.support.models import one_hot_classifier
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.mosquitto import Mosquitto


@pytest.mark.timeout(120)
async def test_certificate_past_half_its_life_is_renewed_by_the_running_device(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    async with DeviceWorld(tmp_path, mosquitto) as world:
        await world.pulse()
        certificate = identity_files(world.device.state).certificate
        now = SystemClock().now()
        public = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        old = world.server.authority.issue_between(
            world.identity.device_id, public, since=now - timedelta(days=20), until=now + timedelta(days=10)
        )
        certificate.write_text(old)
        world.device.start()
        await wait_until_async(lambda: certificate.read_text() != old, within_s=30, what="the certificate is renewed")
        renewed = x509.load_pem_x509_certificate(certificate.read_bytes())
        assert renewed.not_valid_after_utc > now + timedelta(days=10)
        assert renewed.public_key() == public
        # The connections made with it carry a release as before.
        await world.desire(world.release("release-1", one_hot_classifier()))
        await world.reported("release-1", AssignmentStatus.SUCCEEDED)
