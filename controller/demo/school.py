"""Trains the demo's models in the background, one after the other, while the fleet is being set up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from controller.demo.processes import python_module

if TYPE_CHECKING:
    from pathlib import Path

    from controller.demo.processes import Programs

VARIANTS = ("v1", "v2", "wrong")


class School:
    """Where models come from. Each is really trained, in a converters process of its own."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self._programs = programs
        self._folder = folder / "models"
        self._done = {variant: asyncio.Event() for variant in VARIANTS}

    async def train_all(self) -> None:
        """Train every variant in turn. Raises ProgramFailedError."""
        for variant in VARIANTS:
            out = str(self._folder / variant)
            command = python_module("converters.examples.digits", "--out", out, "--variant", variant)
            await self._programs.run(f"train-{variant}", *command)
            self._done[variant].set()

    async def trained(self, variant: str) -> Path:
        """Wait for a variant, and return the folder of its files."""
        await self._done[variant].wait()
        return self._folder / variant
