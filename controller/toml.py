"""Settings files, written: strings, numbers, truth values and lists of strings look in TOML as in JSON, all but DEL."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def write_settings(path: Path, settings: Mapping[str, str | int | float | list[str]]) -> None:
    """Write a settings file, one line a setting."""
    lines = [f"{name} = {_toml(value)}" for name, value in settings.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _toml(value: str | float | list[str]) -> str:
    # JSON takes this one control character as it is, TOML does not.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
