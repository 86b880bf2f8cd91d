"""One controller process for all commands, with a conversion program that answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import fake_converter
from tests.support.controller_process import ControllerProcess
from tests.support.operator import Operator

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("operator")
    command = [sys.executable, str(Path(fake_converter.__file__))]
    with ControllerProcess(folder, convert_command=command) as controller:
        yield Operator(
            url=f"http://127.0.0.1:{controller.api_port}",
            token_file=controller.state_dir / "operator-token",
            folder=folder,
        )
