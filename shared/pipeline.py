"""PipelineSpec: the declared steps from a request to an answer. No code travels to a device, only this."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from shared.errors import InvalidInputError
from shared.pipeline_graph import Graph, Kind, Source, resolve
from shared.step_rules import check_parameters
from shared.steps import (
    Colour,
    ColourMode,
    CropImage,
    DecodeAudio,
    DecodeImage,
    Dequantise,
    FrameAudio,
    FrameContent,
    Normalise,
    Quantise,
    ResizeImage,
    RunModel,
    Sigmoid,
    Softmax,
    Step,
    TensorMap,
    TopLabels,
    given,
)

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "MODEL_ONLY",
    "OWN_MODEL",
    "ColourMode",
    "DecodeImage",
    "Normalise",
    "PipelineSpec",
    "ResizeImage",
    "RunModel",
    "Softmax",
    "Step",
    "TopLabels",
    "bend_of",
    "check",
    "component_names",
    "graph",
    "sample_rate_hz",
    "takes_bytes",
    "takes_images",
]

_BEFORE_MODEL = (ResizeImage, CropImage, Colour, Normalise, FrameAudio, Quantise, TensorMap)
_AFTER_MODEL = (Dequantise, Softmax, Sigmoid)
OWN_MODEL = ""
"""By which a `run_model` names the release's own model."""


class PipelineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Steps in running order, each of which takes what earlier ones gave; `labels[k]` names score k.

    Where no step says what it takes, they are a straight line.
    """

    steps: tuple[Step, ...]
    labels: tuple[str, ...] = ()
    answers: tuple[str, ...] | UnsetType = UNSET
    """Ids of the steps whose values are the answer; unset: the last."""


def check(spec: PipelineSpec, components: Collection[str] = ()) -> Graph:
    """Refuse a pipeline that could not run, and return how its steps hang together.

    `components` are the names of the models of other releases that this release carries.

    Raises:
        InvalidInputError: names the step and the field.
    """
    used = component_names(spec)
    if not any(isinstance(step, RunModel) and given(step.model, OWN_MODEL) == OWN_MODEL for step in spec.steps):
        problem = "no run_model" + (" runs the release's own model" if used else " step")
        raise InvalidInputError(field="pipeline.steps", problem=problem, remedy="add {type: run_model}")
    for index, step in enumerate(spec.steps):
        check_parameters(step, spec.labels, f"pipeline.steps[{index}]")
        if isinstance(step, RunModel) and given(step.model, OWN_MODEL) not in {OWN_MODEL, *components}:
            known = "the release carries " + (", ".join(sorted(components)) or "none")
            problem = f"no component {given(step.model, OWN_MODEL)!r}"
            raise InvalidInputError(field=f"pipeline.steps[{index}].model", problem=problem, remedy=known)
    for name in components:
        if name not in used:
            raise InvalidInputError(
                field="components", problem=f"no step runs {name!r}", remedy="leave it out: every device would fetch it"
            )
    found = graph(spec)
    _check_surroundings(found)
    return found


def graph(spec: PipelineSpec) -> Graph:
    """Return how the steps hang together. Raises InvalidInputError."""
    return resolve(spec.steps, given(spec.answers, ()))


def component_names(spec: PipelineSpec) -> tuple[str, ...]:
    """Return the names of other releases' models that the pipeline runs, sorted."""
    names = {given(step.model, OWN_MODEL) for step in spec.steps if isinstance(step, RunModel)}
    return tuple(sorted(names - {OWN_MODEL}))


def takes_bytes(spec: PipelineSpec) -> bool:
    """Whether the pipeline starts from an encoded image or sound."""
    return graph(spec).request is Kind.BYTES


def takes_images(spec: PipelineSpec) -> bool:
    """Whether the pipeline starts from encoded image bytes."""
    return any(isinstance(step, DecodeImage) for step in spec.steps)


def _check_surroundings(found: Graph) -> None:
    """Refuse steps that need others around them which are not there."""
    for place, node in enumerate(found.nodes):
        field = f"pipeline.steps[{place}]"
        if isinstance(node.step, Quantise):
            takers = [other for other in found.nodes if any(each.place == place for each in other.sources)]
            if not takers or not all(isinstance(other.step, RunModel) for other in takers):
                problem = "quantises for no model"
                raise InvalidInputError(field=field, problem=problem, remedy="let a run_model, and no other, take it")
        if isinstance(node.step, FrameAudio) and node.step.content is FrameContent.LOG_MELS:
            _check_mels(node.step, found, place, field)


def bend_of(found: Graph) -> str:
    """Return "" for a straight line from a request to the scores of one model, else which step makes it none."""
    models = 0
    for place, node in enumerate(found.nodes):
        step, is_last = node.step, place == len(found.nodes) - 1
        if node.sources != (Source(place=place - 1),):
            return f"step {node.id} takes another value than that of the step before it"
        if isinstance(step, RunModel):
            models += 1
            fits = models == 1 and len(given(step.outputs, (0,))) == 1
        elif isinstance(step, DecodeImage | DecodeAudio):
            fits = place == 0
        else:
            ends = bool(models) and is_last and isinstance(step, TopLabels)
            fits = ends or isinstance(step, _AFTER_MODEL if models else _BEFORE_MODEL)
        if not fits:
            return f"step {node.id} has no place between a request and one model's scores"
    return "" if found.answers == (len(found.nodes) - 1,) else "it has answers before its last step"


def sample_rate_hz(found: Graph, place: int) -> int | None:
    """Return the rate of the sound that a `frame_audio` step is given; None when nobody says."""
    step = found.nodes[place].step
    if isinstance(step, FrameAudio) and step.sample_rate_hz is not None:
        return step.sample_rate_hz
    before = (node.step for node in found.lineage(place))
    return next((each.sample_rate_hz for each in before if isinstance(each, DecodeAudio)), None)


def _check_mels(step: FrameAudio, found: Graph, place: int, field: str) -> None:
    rate = sample_rate_hz(found, place)
    if rate is None:
        remedy = "say it, or begin with decode_audio"
        raise InvalidInputError(field=f"{field}.sample_rate_hz", problem="mels need to know it", remedy=remedy)
    if step.high_hz > rate / 2:
        problem = f"{step.high_hz:g} is above half of the sample rate of {rate}"
        raise InvalidInputError(field=f"{field}.high_hz", problem=problem, remedy=f"at most {rate / 2:g}")


MODEL_ONLY = PipelineSpec(steps=(RunModel(),))
"""The pipeline of a release that declares none: tensors in, tensors out."""
