"""The model card: what a converted model is, how it was judged, and what else was tried; kept as JSON."""

from __future__ import annotations

import msgspec

from shared.conversion import Candidate, GateReport, Recipe
from shared.ids import ConversionId, Sha256
from shared.manifest import Accuracy

CARD_FILE, PAGE_FILE = "card.json", "card.html"


class CardTensor(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output of a model."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """-1 where the size is free."""
    scale: float | None = None
    """Of a quantized tensor: real = scale · (stored - zero_point)."""
    zero_point: int | None = None


class LayerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One operator of the main graph, in the order of execution."""

    operator: str
    output: str
    """Name of its first output tensor; "" where it has none."""
    output_shape: tuple[int, ...]
    weights: str
    """Types of its weights, the largest first: `int8, int32`; "" where it has none."""
    parameters: int
    weight_bytes: int
    macs: int
    """Multiplications with addition, for a batch of one."""
    snr_db: float | None = None
    """How far the answers stay from the source's when this layer alone is quantized; None: not measured."""


class GraphFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a `.tflite` file holds."""

    length_bytes: int
    sha256: Sha256
    operators: dict[str, int]
    """How many of each, in all graphs."""
    tensor_types: dict[str, int]
    """How many tensors of each type."""
    weight_bytes: dict[str, int]
    """Bytes of constants by type."""
    weights_outside_bytes: int
    """Of those, what lies behind the FlatBuffer, where old tools do not look."""
    parameters: int
    macs: int
    peak_activation_bytes: int
    """Most that is alive at once between operators: a runtime needs this much and somewhat more."""
    inputs: tuple[CardTensor, ...]
    outputs: tuple[CardTensor, ...]
    layers: tuple[LayerFacts, ...]
    graphs: int
    stateful: bool
    """Whether it remembers something between two invocations."""
    min_runtime_version: str
    """What the file says of itself; "" when it says nothing."""
    warnings: tuple[str, ...]


class SourceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was converted, and by what."""

    name: str
    """Of the model, or of its file."""
    source_format: str
    sha256: Sha256
    length_bytes: int
    parameters: int
    operators: dict[str, int]
    """Training-only parts included."""
    removed: tuple[str, ...] = ()
    """Training-only parts that were taken out."""
    worker: str = ""
    """Framework and version."""


class ArtifactCard(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact and all that was measured of it."""

    recipe: Recipe
    graph: GraphFacts
    accuracy: Accuracy | None = None
    report: GateReport = GateReport()
    latency_ms: float = 0.0
    profiles: tuple[str, ...] = ()
    """That it was chosen for."""
    refused: str = ""


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one conversion that a person may want to know before trusting it."""

    schema_version: int = 1
    conversion_id: ConversionId
    source: SourceFacts
    artifacts: tuple[ArtifactCard, ...]
    candidates: tuple[Candidate, ...] = ()
    dataset: str = ""
    """Name and digest."""
    labels: tuple[str, ...] = ()
    """`labels[k]` names class k; empty: numbers are their own names."""
    warnings: tuple[str, ...] = ()
