"""A pipeline's steps as a graph: who takes whose values, and whether they are of a kind that he can take."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from shared.errors import InvalidInputError
from shared.steps import (
    Cascade,
    Colour,
    CropImage,
    DecodeAudio,
    DecodeImage,
    Dequantise,
    DetectBoxes,
    Ensemble,
    FanOut,
    FrameAudio,
    Json,
    Normalise,
    Quantise,
    ResizeImage,
    RunModel,
    Segment,
    Sigmoid,
    Softmax,
    Step,
    Switch,
    TensorMap,
    Threshold,
    TopLabels,
    given,
    type_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REQUEST = "request"
"""By which a step takes what was asked, wherever it stands."""
REQUEST_PLACE = -1
MAX_STEPS, MAX_TAKES = 64, 16
"""Far beyond what anybody can follow; a device computes all of them for each item."""


class Kind(StrEnum):
    """What travels along an edge."""

    BYTES = "bytes"
    IMAGE = "image"
    AUDIO = "audio"
    TENSOR = "tensor"
    SCORES = "scores"
    LABELS = "labels"
    BOXES = "boxes"
    AREAS = "areas"
    JSON = "json"


NUMBERS = frozenset({Kind.IMAGE, Kind.AUDIO, Kind.TENSOR, Kind.SCORES})
_OPINION = frozenset({Kind.TENSOR, Kind.SCORES})
_ANYTHING = frozenset(Kind) - {Kind.BYTES}
_IMAGE, _BYTES = frozenset({Kind.IMAGE}), frozenset({Kind.BYTES})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signature:
    """What a type of step takes and gives."""

    takes: frozenset[Kind]
    gives: Kind
    least: int = 1
    most: int = 1


_SIGNATURES: dict[type[Step], _Signature] = {
    DecodeImage: _Signature(takes=_BYTES, gives=Kind.IMAGE),
    ResizeImage: _Signature(takes=_IMAGE, gives=Kind.IMAGE),
    CropImage: _Signature(takes=_IMAGE, gives=Kind.IMAGE),
    Colour: _Signature(takes=_IMAGE, gives=Kind.IMAGE),
    Normalise: _Signature(takes=NUMBERS, gives=Kind.TENSOR),
    DecodeAudio: _Signature(takes=_BYTES, gives=Kind.AUDIO),
    FrameAudio: _Signature(takes=frozenset({Kind.AUDIO}), gives=Kind.TENSOR),
    Quantise: _Signature(takes=NUMBERS, gives=Kind.TENSOR),
    Dequantise: _Signature(takes=_OPINION, gives=Kind.TENSOR),
    RunModel: _Signature(takes=NUMBERS, gives=Kind.TENSOR, most=MAX_TAKES),
    TensorMap: _Signature(takes=NUMBERS, gives=Kind.TENSOR, most=MAX_TAKES),
    Switch: _Signature(takes=_ANYTHING, gives=Kind.JSON, least=2, most=MAX_TAKES),
    Ensemble: _Signature(takes=_OPINION, gives=Kind.SCORES, least=2, most=MAX_TAKES),
    Cascade: _Signature(takes=_OPINION, gives=Kind.SCORES, least=2, most=MAX_TAKES),
    FanOut: _Signature(takes=_ANYTHING, gives=Kind.JSON, most=MAX_TAKES),
    Softmax: _Signature(takes=_OPINION, gives=Kind.SCORES),
    Sigmoid: _Signature(takes=_OPINION, gives=Kind.SCORES),
    TopLabels: _Signature(takes=_OPINION, gives=Kind.LABELS),
    Threshold: _Signature(takes=frozenset({Kind.LABELS, Kind.BOXES}), gives=Kind.LABELS),
    DetectBoxes: _Signature(takes=_OPINION, gives=Kind.BOXES, most=4),
    Segment: _Signature(takes=_OPINION, gives=Kind.AREAS),
    Json: _Signature(takes=_ANYTHING, gives=Kind.JSON, most=MAX_TAKES),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a value comes from."""

    place: int
    """Of the step; `REQUEST_PLACE` for the request itself."""
    output: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A step with its neighbours."""

    id: str
    step: Step
    sources: tuple[Source, ...]
    kind: Kind
    """Of what it gives."""

    @property
    def inherits(self) -> int:
        """Place of the step whose picture, sound or scores it mainly works on."""
        return self.sources[0].place


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """All of a pipeline, in running order."""

    nodes: tuple[Node, ...]
    answers: tuple[int, ...]
    """Places of the steps whose values are the answer."""
    request: Kind
    """What one item of a request is."""

    def lineage(self, place: int) -> tuple[Node, ...]:
        """Return what a step's value was made from, along the first of each step's sources, the nearest first."""
        found = []
        while (place := self.nodes[place].inherits) != REQUEST_PLACE:
            found.append(self.nodes[place])
        return tuple(found)


def resolve(steps: Sequence[Step], answers: Sequence[str]) -> Graph:
    """Join the steps. Raises InvalidInputError, which names the step and what is wrong with it."""
    if len(steps) > MAX_STEPS:
        raise InvalidInputError(field="pipeline.steps", problem=f"has {len(steps)} steps, more than {MAX_STEPS}")
    names = _names(steps)
    sources = tuple(_sources(steps, place, names) for place in range(len(steps)))
    wanted = _answers(answers, names, len(steps))
    _refuse_unused(names, sources, wanted)
    request = _request_kind(steps, sources)
    nodes: list[Node] = []
    for (name, place), step in zip(names.items(), steps, strict=True):
        kinds = [request if each.place == REQUEST_PLACE else nodes[each.place].kind for each in sources[place]]
        kind = _kind(step, kinds, _field(place))
        nodes.append(Node(id=name, step=step, sources=sources[place], kind=kind))
    return Graph(nodes=tuple(nodes), answers=wanted, request=request)


def _field(place: int) -> str:
    return f"pipeline.steps[{place}]"


def _names(steps: Sequence[Step]) -> dict[str, int]:
    """Return each step's place by its id, in order."""
    names: dict[str, int] = {}
    counts: dict[str, int] = {}
    for place, step in enumerate(steps):
        if isinstance(step.id, msgspec.UnsetType):
            kind = type_of(step)
            counts[kind] = counts.get(kind, 0) + 1
            name = kind if counts[kind] == 1 else f"{kind}_{counts[kind]}"
        else:
            name = step.id
        if name in names or name == REQUEST:
            problem = f"the id {name!r} " + ("means the request" if name == REQUEST else "is taken")
            raise InvalidInputError(field=f"{_field(place)}.id", problem=problem, remedy="give it one of its own")
        names[name] = place
    return names


def _sources(steps: Sequence[Step], place: int, names: Mapping[str, int]) -> tuple[Source, ...]:
    step, field = steps[place], f"{_field(place)}.takes"
    signature = _SIGNATURES[type(step)]
    takes = given(step.takes, None)
    if takes is None:
        if signature.least > 1:
            remedy = "name the steps whose values it takes"
            raise InvalidInputError(field=field, problem=f"{type_of(step)} takes several values", remedy=remedy)
        return (Source(place=place - 1),)
    if not signature.least <= len(takes) <= signature.most:
        wanted = str(signature.least) if signature.least == signature.most else f"{signature.least} to {signature.most}"
        raise InvalidInputError(field=field, problem=f"names {len(takes)}: {type_of(step)} takes {wanted}")
    return tuple(_source(reference, steps[:place], names, field) for reference in takes)


def _source(reference: str, before: Sequence[Step], names: Mapping[str, int], field: str) -> Source:
    name, _, number = reference.partition(":")
    place = REQUEST_PLACE if name == REQUEST else names.get(name)
    if place is None or place >= len(before):
        known = ", ".join([REQUEST, *(each for each, at in names.items() if at < len(before))])
        problem = f"no step {name!r}" + ("" if place is None else " stands before this one")
        raise InvalidInputError(field=field, problem=problem, remedy=f"one of: {known}")
    output = int(number or 0)
    step = before[place] if place != REQUEST_PLACE else None
    count = len(given(step.outputs, (0,))) if isinstance(step, RunModel) else 1
    if output >= count:
        remedy = "list them in the outputs of its run_model"
        raise InvalidInputError(field=field, problem=f"{reference}: {name!r} gives {count} values", remedy=remedy)
    return Source(place=place, output=output)


def _answers(answers: Sequence[str], names: Mapping[str, int], count: int) -> tuple[int, ...]:
    if not answers:
        return (count - 1,)
    for name in answers:
        if name not in names:
            known = "one of: " + ", ".join(names)
            raise InvalidInputError(field="pipeline.answers", problem=f"no step {name!r}", remedy=known)
    if len(set(answers)) < len(answers):
        raise InvalidInputError(field="pipeline.answers", problem="names a step twice")
    return tuple(names[name] for name in answers)


def _refuse_unused(names: Mapping[str, int], sources: Sequence[tuple[Source, ...]], answers: tuple[int, ...]) -> None:
    """Refuse a step that nobody takes: most likely a slip in somebody's `takes`."""
    used = {each.place for taken in sources for each in taken} | set(answers)
    for name, place in names.items():
        if place not in used:
            remedy = "name it in the takes of a later step, or in answers"
            raise InvalidInputError(field=_field(place), problem=f"nothing takes {name!r}", remedy=remedy)


def _request_kind(steps: Sequence[Step], sources: Sequence[tuple[Source, ...]]) -> Kind:
    """Return what all steps that take the request can take."""
    both = frozenset(Kind)
    for place, taken in enumerate(sources):
        if any(each.place == REQUEST_PLACE for each in taken):
            accepted = _SIGNATURES[type(steps[place])].takes
            if not both & accepted:
                raise InvalidInputError(
                    field=f"{_field(place)}.takes",
                    problem=f"{type_of(steps[place])} cannot take the request as the steps before take it",
                    remedy=f"it takes {_listed(accepted)}",
                )
            both &= accepted
    # As little as is needed: a step that takes any numbers says nothing of pictures.
    if Kind.TENSOR in both:
        return Kind.TENSOR
    return next(kind for kind in Kind if kind in both)


def _kind(step: Step, kinds: Sequence[Kind], field: str) -> Kind:
    """Return what a step gives for values of these kinds."""
    signature = _SIGNATURES[type(step)]
    for kind in kinds:
        if kind not in signature.takes:
            problem = f"{type_of(step)} cannot take {kind}"
            raise InvalidInputError(field=field, problem=problem, remedy=f"it takes {_listed(signature.takes)}")
    if isinstance(step, Threshold):
        return kinds[0]
    if isinstance(step, Switch):
        return _switched(kinds, field)
    return signature.gives


def _switched(kinds: Sequence[Kind], field: str) -> Kind:
    if kinds[0] not in _OPINION | {Kind.LABELS}:
        raise InvalidInputError(
            field=field, problem=f"it looks at {kinds[0]}", remedy="let it look at scores or labels"
        )
    branches = set(kinds[1:])
    if len(branches) == 1:
        return kinds[1]
    return Kind.TENSOR if branches <= NUMBERS else Kind.JSON


def _listed(kinds: frozenset[Kind]) -> str:
    return " or ".join(kind for kind in Kind if kind in kinds)
