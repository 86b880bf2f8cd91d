from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from controller.demo.claims import Claims, broken, summary

GOOD = Claims(
    accuracy_float=0.98,
    accuracy_artifact=0.975,
    bytes_float=343_892,
    bytes_artifact=93_600,
    devices=12,
    requests=700,
    requests_failed=0,
    bad_release_devices_exposed=1,
    bad_release_seconds_to_reverted=4.2,
    bad_release_answers=0,
    bad_release_state="rolled_back",
    devices_not_back=0,
    first_wave_devices=1,
    tampered_refused=True,
    forged_refused=True,
)


def test_claims_that_all_hold_break_nothing() -> None:
    assert broken(GOOD, devices=12) == ""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"accuracy_float": 0.89, "accuracy_artifact": 0.89}, "float accuracy 0.890 ≥ 0.9"),
        ({"accuracy_artifact": 0.969}, "accuracy falls ≤ 0.01"),
        ({"bytes_artifact": 140_000}, "artifact ≥ 2.5 × smaller"),
        ({"devices": 11}, "12 devices"),
        ({"requests": 499}, "at least 500 requests"),
        ({"requests_failed": 2}, "no failed request (had 2)"),
        ({"bad_release_state": "completed"}, "the bad release was rolled back"),
        ({"bad_release_devices_exposed": 2}, "exactly the first wave was exposed"),
        ({"bad_release_devices_exposed": 0}, "exactly the first wave was exposed"),
        ({"bad_release_answers": 1}, "no client got an answer from the bad release"),
        ({"devices_not_back": 1}, "every device is back"),
        ({"tampered_refused": False}, "the tampered artifact was refused"),
        ({"forged_refused": False}, "the forged order was refused"),
    ],
)
def test_claim_broken_is_named_alone(changed: dict[str, object], said: str) -> None:
    assert broken(msgspec.structs.replace(GOOD, **changed), devices=12) == f"not so: {said}"


def test_summary_says_what_was_not_refused_that_should_be() -> None:
    sink = io.StringIO()
    Console(file=sink, width=80).print(summary(msgspec.structs.replace(GOOD, forged_refused=False)))
    assert "forged order                   not refused" in sink.getvalue()
    assert "97.50 % quantized" in sink.getvalue()
