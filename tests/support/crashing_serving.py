"""The real serving process over a runtime that dies of marked models, as a real runtime dies of some real ones."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from agent.serving.models.loading import open_litert
from agent.serving.process import main
from tests.support.serving import CRASH

if TYPE_CHECKING:
    from shared.runtime.interpreter import Interpreter


def open_or_die(model: bytes, threads: int) -> Interpreter:
    """Open a model, or end the process in the hardest way."""
    if model.endswith(CRASH):
        os.abort()
    return open_litert(model, threads)


if __name__ == "__main__":
    sys.exit(main(open_interpreter=open_or_die))
