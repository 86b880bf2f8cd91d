"""Why a conversion cannot go on, in the words of the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.errors import PermanentError

if TYPE_CHECKING:
    from shared.conversion import FailureKind


class ConversionFailedError(PermanentError):
    """The whole conversion ends here."""

    reason = "conversion_failed"

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class SchemeFailedError(PermanentError):
    """This scheme cannot be made of this model; another may."""

    reason = "scheme_failed"


class UnsupportedOperatorError(SchemeFailedError):
    """The model computes something that TensorFlow Lite has no operator for."""

    reason = "unsupported_op"
