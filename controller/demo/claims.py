"""What the demo claims, measured; `--ci` prints it as one line of JSON and fails if any of it does not hold."""

from __future__ import annotations

import msgspec
from rich.table import Table

from controller.cli.output import percent, size

_MIN_ACCURACY = 0.9
_MAX_DROP = 0.01
_MIN_SHRINK = 2.5
_MIN_REQUESTS = 500


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """One run's figures."""

    accuracy_float: float
    """Share (0..1) of right answers of the trained network on the held-out digits."""
    accuracy_artifact: float
    """The same of the artifact that the fleet runs, on the interpreter."""
    bytes_float: int
    bytes_artifact: int
    devices: int
    requests: int
    """Sent while the second release replaced the first."""
    requests_failed: int
    bad_release_devices_exposed: int
    """Devices that loaded the wrong model beside the serving one."""
    bad_release_seconds_to_reverted: float
    """From the first device seen to have loaded it until the rollout had taken it back everywhere."""
    bad_release_answers: int
    """Answers that any client got from the wrong model."""
    bad_release_state: str
    devices_not_back: int
    first_wave_devices: int
    tampered_refused: bool
    forged_refused: bool


def broken(claims: Claims, *, devices: int) -> str:
    """Return the claims that do not hold, or an empty text."""
    checks = {
        f"float accuracy {claims.accuracy_float:.3f} ≥ {_MIN_ACCURACY}": claims.accuracy_float >= _MIN_ACCURACY,
        f"accuracy falls ≤ {_MAX_DROP}": claims.accuracy_float - claims.accuracy_artifact <= _MAX_DROP,
        f"artifact ≥ {_MIN_SHRINK} × smaller": claims.bytes_float >= _MIN_SHRINK * claims.bytes_artifact,
        f"{devices} devices": claims.devices == devices,
        f"at least {_MIN_REQUESTS} requests": claims.requests >= _MIN_REQUESTS,
        f"no failed request (had {claims.requests_failed})": claims.requests_failed == 0,
        "the bad release was rolled back": claims.bad_release_state == "rolled_back",
        "exactly the first wave was exposed": claims.bad_release_devices_exposed == claims.first_wave_devices,
        "no client got an answer from the bad release": claims.bad_release_answers == 0,
        "every device is back": claims.devices_not_back == 0,
        "the tampered artifact was refused": claims.tampered_refused,
        "the forged order was refused": claims.forged_refused,
    }
    return "; ".join(f"not so: {claim}" for claim, holds in checks.items() if not holds)


def summary(claims: Claims) -> Table:
    """Return the figures as a table for people."""
    table = Table(box=None, pad_edge=False, show_header=False, title="\nMeasured just now", title_justify="left")
    table.add_row("accuracy", f"{percent(claims.accuracy_float)} → {percent(claims.accuracy_artifact)} quantized")
    table.add_row("size", f"{size(claims.bytes_float)} → {size(claims.bytes_artifact)}")
    table.add_row("requests while v2 replaced v1", f"{claims.requests}, {claims.requests_failed} failed")
    table.add_row(
        "bad release",
        f"{claims.bad_release_devices_exposed} of {claims.devices} devices tried it, "
        f"{claims.bad_release_answers} answers came from it, gone after {claims.bad_release_seconds_to_reverted} s",
    )
    table.add_row("tampered artifact", "refused" if claims.tampered_refused else "[red]not refused[/red]")
    table.add_row("forged order", "refused" if claims.forged_refused else "[red]not refused[/red]")
    return table
