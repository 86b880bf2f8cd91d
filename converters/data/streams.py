"""The line back to whoever started this process."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO


def protected_stdout() -> BinaryIO:
    """Return a stream to the real stdout, and send everything else that is printed to stderr.

    Frameworks print to descriptor 1, from C++ too; only this copy of it reaches the caller.
    """
    sys.stdout.flush()
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return output
