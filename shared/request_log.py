"""What of requests and answers may be written down: off unless a release consents and the device's Desired asks."""

from __future__ import annotations

from typing import Annotated

import msgspec

from shared.ids import ModelName


class LogConsent(msgspec.Struct, frozen=True, kw_only=True):
    """What a release allows of its requests; a release without it allows nothing."""

    inputs: bool = False
    """Tensors or image of the request; otherwise their shapes alone."""
    outputs: bool = True
    upstream: bool = False
    """Records may leave the device."""


class LogWish(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator asks a device to write down of a model."""

    model: ModelName
    sample_rate: Annotated[float, msgspec.Meta(ge=0, le=1)]
    """Share (0..1) of the requests."""
    upstream: bool = False
    """Send them to the controller too."""
