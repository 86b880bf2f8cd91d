"""The errors that only serving raises, in the two branches of `shared.errors`."""

from __future__ import annotations

from shared.errors import PermanentError, RetryableError


class ModelUnavailableError(RetryableError):
    """The model is known, and no release of it can answer now."""

    reason = "model_unavailable"

    def __init__(self, *, model: str, why: str) -> None:
        super().__init__(f"model {model!r} has no release that can answer: {why}")
        self.model, self.why = model, why


class QueueFullError(RetryableError):
    """More requests wait for this model than it may keep waiting."""

    reason = "queue_full"


class InferenceTimeoutError(RetryableError):
    """The model did not answer in time; it may be hung."""

    reason = "timed_out"


class NotAllowedError(PermanentError):
    """Nothing is wrong with the request, but it is not the caller's to make."""

    reason = "not_allowed"
