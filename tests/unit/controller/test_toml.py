from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.toml import write_settings

if TYPE_CHECKING:
    from pathlib import Path

# TOML knows no lone surrogates, and neither does UTF-8.
_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_VALUE = st.one_of(_TEXT, st.integers(-(2**63), 2**63 - 1), st.booleans(), st.lists(_TEXT), st.floats(-1e9, 1e9))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.from_regex(r"[a-z][a-z_]{0,20}", fullmatch=True), _VALUE))
def test_settings_written_are_read_back(tmp_path: Path, values: dict[str, str | int | float | list[str]]) -> None:
    path = tmp_path / "settings.toml"
    write_settings(path, values)
    assert tomllib.loads(path.read_text(encoding="utf-8")) == values
