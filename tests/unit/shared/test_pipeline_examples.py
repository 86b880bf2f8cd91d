"""The examples of docs/pipelines.md are pipelines, and its tables name every step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from shared import pipeline
from shared.pipeline import PipelineSpec
from shared.steps import Step

TEXT = (Path(__file__).parents[3] / "docs" / "pipelines.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_of_the_documentation_is_accepted(number: int) -> None:
    made = msgspec.json.decode(EXAMPLES[number], type=PipelineSpec)
    pipeline.check(made, pipeline.component_names(made))


def test_documentation_names_every_step_and_every_parameter_of_it() -> None:
    for kind in get_args(Step):
        assert f"`{kind.__struct_config__.tag}`" in TEXT
        missing = [name for name in kind.__struct_fields__ if name not in {"id", "takes"} and f"`{name}" not in TEXT]
        assert missing == [], kind
