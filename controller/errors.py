"""The errors that only the controller knows; they hang below `shared.errors`.

PermanentError
├── UnauthenticatedError               nobody known is calling
└── ForbiddenError                     somebody known asks for what is not theirs
"""

from __future__ import annotations

from shared.errors import PermanentError


class UnauthenticatedError(PermanentError):
    """The caller did not prove who they are."""

    reason = "unauthenticated"


class ForbiddenError(PermanentError):
    """The caller is known, and may not do this."""

    reason = "forbidden"
