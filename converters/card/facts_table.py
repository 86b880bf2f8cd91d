"""What a `.tflite` file holds, as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from shared.card import CardTensor, GraphFacts

_NAME_WIDTH = 40
_STEP = 1000
_KIB = 1024


def of(facts: GraphFacts) -> str:
    """Return the facts, a line each, and a table of the layers."""
    return "\n".join([*_summary(facts), "", *_layers(facts), *(f"warning: {said}" for said in facts.warnings)])


def size(count: float) -> str:
    """Return bytes as people read them, in the units of all other tables: `4.4 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < _KIB or unit == "GiB":
            break
        count /= _KIB
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"


def amount(count: float, unit: str) -> str:
    """Return a number of something as people say it: `4.65 MMAC`."""
    for prefix in ("", "k", "M", "G"):
        if count < _STEP or prefix == "G":
            break
        count /= _STEP
    return f"{count:.3g} {prefix}{unit}" if count < _STEP else f"{count:.0f} {prefix}{unit}"


def _summary(facts: GraphFacts) -> Iterator[str]:
    yield f"sha256      {facts.sha256}"
    yield f"size        {size(facts.length_bytes)} ({facts.length_bytes} bytes)"
    yield f"parameters  {facts.parameters:,}"
    yield f"MACs        {facts.macs:,}"
    yield f"activations {size(facts.peak_activation_bytes)} at once, at the least"
    outside = f" ({size(facts.weights_outside_bytes)} behind the FlatBuffer)" if facts.weights_outside_bytes else ""
    yield f"weights     {_counts({name: size(count) for name, count in facts.weight_bytes.items()}) or 'none'}{outside}"
    yield f"operators   {_counts(facts.operators)}"
    yield f"tensors     {_counts(facts.tensor_types)}"
    if facts.min_runtime_version:
        yield f"needs       runtime {facts.min_runtime_version} or newer, as it says"
    if facts.stateful:
        yield "state       it remembers something between two invocations"
    for side, tensors in (("input", facts.inputs), ("output", facts.outputs)):
        for tensor in tensors:
            yield f"{side:11} {_tensor(tensor)}"


def _tensor(tensor: CardTensor) -> str:
    scale = "" if tensor.scale is None else f", scale {tensor.scale:.6g}, zero point {tensor.zero_point}"
    return f"{tensor.name} {tensor.dtype}{list(tensor.shape)}{scale}"


def _counts(counts: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _layers(facts: GraphFacts) -> Iterator[str]:
    rows: list[Sequence[str]] = [("#", "operator", "answers", "weights", "parameters", "size", "MACs", "output")]
    for number, layer in enumerate(facts.layers):
        shape = "x".join(map(str, layer.output_shape))
        heavy = (f"{layer.parameters:,}", size(layer.weight_bytes)) if layer.parameters else ("", "")
        macs = f"{layer.macs:,}" if layer.macs else ""
        rows.append((str(number), layer.operator, shape, layer.weights, *heavy, macs, layer.output[-_NAME_WIDTH:]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (
            f"{cell:>{width}}" if column in {0, 4, 5, 6} else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
