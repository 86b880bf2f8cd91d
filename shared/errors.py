"""The errors that cross a boundary, in two branches by what the caller may do.

    LitefleetError
    ├── RetryableError(retry_after_s)      the same call may succeed later
    │   ├── UnreachableError               a peer did not answer in time
    │   └── StorageFullError               no space left on this disk
    └── PermanentError                     the same call will fail again
        ├── InvalidIdError                 an identity that breaks its own rule
        ├── InvalidInputError              a field that the caller can mend
        ├── NotFoundError                  nothing of that name
        ├── ConflictError                  it exists or is in use, and may not change
        ├── UnsealError                    a sealed document that must not be believed
        ├── DigestMismatchError            bytes that are not what was promised
        ├── DeltaError                     a delta that makes no file
        ├── UntrustedError                 metadata that fails verification
        ├── ModelLoadError                 a model file that the runtime refuses
        └── PipelineError                  an input that the declared pipeline cannot take
            └── ModelFailedError           the input was fine, and the model broke on it or answered NaN

Errors carry fields; they never log, never do I/O and know nothing of HTTP.
"""

from __future__ import annotations


class LitefleetError(Exception):
    """Anything that this project raises on purpose."""

    reason = "error"
    """Machine-readable word; the same one that APIs and reports show."""


class RetryableError(LitefleetError):
    """The same call may succeed after `retry_after_s` seconds."""

    reason = "retryable"

    def __init__(self, message: str, *, retry_after_s: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnreachableError(RetryableError):
    """A peer did not answer, or not in time."""

    reason = "unreachable"


class StorageFullError(RetryableError):
    """The disk has no room for what was to be written; nothing that stood there was touched."""

    reason = "storage_full"


class PermanentError(LitefleetError):
    """The same call will fail again: something must be changed first."""

    reason = "permanent"


class InvalidIdError(PermanentError):
    """An identity that breaks its own rule."""

    reason = "invalid_id"

    def __init__(self, *, field: str, value: str, rule: str) -> None:
        super().__init__(f"{field} {value[:80]!r} is not valid: it takes {rule}")
        self.field, self.value, self.rule = field, value, rule


class InvalidInputError(PermanentError):
    """A field whose value cannot be used, with what would mend it."""

    reason = "invalid_input"

    def __init__(self, *, field: str, problem: str, remedy: str = "") -> None:
        super().__init__(f"{field}: {problem}" + (f" ({remedy})" if remedy else ""))
        self.field, self.problem, self.remedy = field, problem, remedy


class NotFoundError(PermanentError):
    """Nothing of that kind has that name."""

    reason = "not_found"

    def __init__(self, *, kind: str, name: str) -> None:
        super().__init__(f"no {kind} {name!r}")
        self.kind, self.name = kind, name


class ConflictError(PermanentError):
    """The thing exists, or is in use, so that the call would break it."""

    reason = "conflict"

    def __init__(self, *, kind: str, name: str, problem: str) -> None:
        super().__init__(f"{kind} {name!r} {problem}")
        self.kind, self.name, self.problem = kind, name, problem


class UnsealError(PermanentError):
    """A sealed document whose signature, type or addressee is wrong: none of its content may be used."""

    reason = "unseal_failed"


class DigestMismatchError(PermanentError):
    """Bytes that do not have the promised sha256."""

    reason = "digest_mismatch"

    def __init__(self, *, expected: str, actual: str, path: str) -> None:
        super().__init__(f"{path}: sha256 is {actual}, expected {expected}")
        self.expected, self.actual, self.path = expected, actual, path


class DeltaError(PermanentError):
    """A delta of which no file can be made: cut, damaged, hostile, or of another old file."""

    reason = "delta_unusable"


class UntrustedError(PermanentError):
    """Repository metadata, or a document against it, failed verification."""

    reason = "untrusted"


class ModelLoadError(PermanentError):
    """The runtime refuses the model file."""

    reason = "model_load_failed"


class PipelineError(PermanentError):
    """The declared pipeline cannot take this input."""

    reason = "pipeline_failed"


class ModelFailedError(PipelineError):
    """The input was fine, and the model broke on it or answered NaN: never the caller's fault."""

    reason = "model_failed"
