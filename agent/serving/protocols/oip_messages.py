"""The Open Inference Protocol's bodies, but for tensors: one type for REST, gRPC and the API's description.

Sources: kserve/open-inference-protocol, specification/protocol/inference_rest.md; triton-inference-server/server,
docs/protocol/extension_model_repository.md and extension_statistics.md
"""

from __future__ import annotations

import msgspec


class InferOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor of an answer; `data` is flat, and absent where bytes follow the JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[bool | float | str | None] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, int] | msgspec.UnsetType = msgspec.UNSET


class InferAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an inference request, and who gave it."""

    model_name: str
    model_version: str
    id: str
    parameters: dict[str, str]
    outputs: tuple[InferOutput, ...]


class LabelledScore(msgspec.Struct, frozen=True, kw_only=True):
    """One class that the image may be of."""

    label: str
    score: float


class ClassifyBody(msgspec.Struct, frozen=True, kw_only=True):
    """Several images or sounds as JSON: each in base64."""

    items: tuple[str, ...]


class ItemError(msgspec.Struct, frozen=True, kw_only=True):
    """Why one item of several was not answered for."""

    reason: str
    detail: str


class ItemResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was said of one item of several: `labels` and more, or the `error`."""

    labels: tuple[LabelledScore, ...] | msgspec.UnsetType = msgspec.UNSET
    scores: list[float] | msgspec.UnsetType = msgspec.UNSET
    answers: dict[str, object] | msgspec.UnsetType = msgspec.UNSET
    error: ItemError | msgspec.UnsetType = msgspec.UNSET


class ClassifyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Labels of an image or a sound, the best first; `scores` where the pipeline names none.

    Pipelines that answer otherwise (boxes, areas, several models) say it in `answers`, by the names of their steps. To
    a form or a list of items, the answer is a list of `results` in place of all that.
    """

    model_name: str
    model_version: str
    release_id: str
    labels: tuple[LabelledScore, ...] | msgspec.UnsetType = msgspec.UNSET
    scores: list[float] | msgspec.UnsetType = msgspec.UNSET
    answers: dict[str, object] | msgspec.UnsetType = msgspec.UNSET
    results: tuple[ItemResult, ...] | msgspec.UnsetType = msgspec.UNSET


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the server runs at all."""

    live: bool


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Whether every model answers."""

    ready: bool


class ModelReady(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a model answers."""

    name: str
    ready: bool


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """It is done, and there is nothing to say of it."""


class ServerMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Who the server is, and what it offers beyond the protocol."""

    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output; -1 stands for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What a model takes and gives."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    parameters: dict[str, str] = {}


class IndexBody(msgspec.Struct, frozen=True, kw_only=True):
    """What of the repository is asked for."""

    ready: bool = False
    """Only what answers."""


class LoadBody(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is to be loaded or unloaded."""

    parameters: dict[str, object] = {}
    """`unload_dependents` when unloading, of which there are none here; any other is refused."""


class IndexEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model, or a model of which no version answers."""

    name: str
    version: str
    state: str
    """`READY` or `UNAVAILABLE`."""
    reason: str


class Duration(msgspec.Struct, frozen=True, kw_only=True):
    """How often something happened, and how long it took in all."""

    count: int
    ns: int


class InferenceStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of a release's requests went; `fail` are the caller's errors too."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration = Duration(count=0, ns=0)
    """Always 0: answers are not cached."""
    cache_miss: Duration = Duration(count=0, ns=0)


class ModelStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One version's statistics since it was loaded."""

    name: str
    version: str
    last_inference: int
    """Milliseconds since 1970; 0 before the first."""
    inference_count: int
    """Items answered: a batch of four counts four."""
    execution_count: int
    """Invocations of the model."""
    inference_stats: InferenceStatistics
    batch_stats: tuple[()] = ()
    """Not kept by size of batch."""


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """The statistics that were asked for."""

    model_stats: tuple[ModelStatistics, ...]
