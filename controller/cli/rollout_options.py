"""What can be said of a rollout on the command line. Limits and defaults are those of the API."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

_WAVES = "Waves"
_DEVICE = "What a device must show before it keeps the release"


class OnFailure(StrEnum):
    """What becomes of the devices that already activated the release."""

    REVERT = "revert"
    STOP = "stop"


RolloutArgument = Annotated[str, typer.Argument(metavar="ROLLOUT", help="An id, or its beginning or end.")]
CohortOption = Annotated[str, typer.Option(metavar="QUERY", help="E.g. site=lab,arch!=x86_64; all: the whole fleet.")]
OverrideOption = Annotated[bool, typer.Option("--override-blacklist", help="Try again what was taken back once.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only show who would be in which wave.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Return when it has ended: 0 completed, 1 not, 3 timeout.")]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0, metavar="SECONDS", help="Longest time to wait for its end.")
]

WaveOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SIZE", rich_help_panel=_WAVES, help="Devices, or share, reached with it; repeat.  [1, 25%, 100%]"
    ),
]
SoakOption = Annotated[
    float,
    typer.Option(min=0, metavar="SECONDS", rich_help_panel=_WAVES, help="A wave is watched so long before the next."),
]
WaveDeadlineOption = Annotated[
    float, typer.Option(min=1, metavar="SECONDS", rich_help_panel=_WAVES, help="A wave without verdict then holds.")
]
UnreachableOption = Annotated[
    float,
    typer.Option(min=1, metavar="SECONDS", rich_help_panel=_WAVES, help="A device unseen so long is not waited for."),
]
OnFailureOption = Annotated[OnFailure, typer.Option(rich_help_panel=_WAVES, help="What a failed wave does.")]

PairsOption = Annotated[
    int,
    typer.Option(
        min=1, metavar="COUNT", rich_help_panel=_DEVICE, help="Requests compared with stable before a verdict."
    ),
]
FlipsOption = Annotated[
    float,
    typer.Option(
        min=0.001, max=0.999, metavar="SHARE", rich_help_panel=_DEVICE, help="Of them answered differently, at most."
    ),
]
LatencyOption = Annotated[
    float,
    typer.Option(min=0.01, metavar="RATIO", rich_help_panel=_DEVICE, help="Median time to stable's, at most."),
]
ProbationOption = Annotated[
    float, typer.Option(min=0, metavar="SECONDS", rich_help_panel=_DEVICE, help="It answers so long, watched.")
]
DeviceDeadlineOption = Annotated[
    float,
    typer.Option(min=1, metavar="SECONDS", rich_help_panel=_DEVICE, help="Comparing ends then, verdict or not."),
]
CanaryOption = Annotated[
    float,
    typer.Option(
        "--canary-share",
        min=0.0001,
        max=1,
        metavar="SHARE",
        rich_help_panel=_DEVICE,
        help="Of the requests while it is watched; stable answers the others.",
    ),
]
