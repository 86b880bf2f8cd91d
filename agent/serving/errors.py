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


class DeadlinePassedError(RetryableError):
    """The caller's own deadline passed, or is too near for an answer; that is no fault of the model."""

    reason = "deadline_passed"

    def __init__(self) -> None:
        super().__init__("no answer before the request's deadline", retry_after_s=1.0)


class NotAllowedError(PermanentError):
    """Nothing is wrong with the request, but it is not the caller's to make."""

    reason = "not_allowed"


class KeyRefusedError(PermanentError):
    """A key is needed and there is none, or the one there is belongs to nobody. It never says which key."""

    reason = "key_refused"

    def __init__(self, message: str, *, is_missing: bool) -> None:
        super().__init__(message)
        self.is_missing = is_missing


class QuotaSpentError(RetryableError):
    """The application has asked as often as it may for now."""

    reason = "quota_spent"

    def __init__(self, application: str, *, retry_after_s: float) -> None:
        super().__init__(f"application {application!r} has spent its quota", retry_after_s=retry_after_s)
        self.application = application
