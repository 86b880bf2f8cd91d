"""The model card as files: JSON for programs, and one page that needs nothing else for people."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jinja2
import msgspec
import numpy as np
from markupsafe import Markup
from PIL import Image

from converters.card import charts
from converters.card.facts_table import amount, size
from shared.card import CARD_FILE, PAGE_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from shared.card import ArtifactCard, ModelCard
    from shared.conversion import ChangedSample

    Tensor = NDArray[Any]

_THUMBNAIL_PIXELS = 96
_GREY, _COLOUR = 1, 3
"""Channels of an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Changed:
    """A sample whose answer changed, in words."""

    index: int
    label: str
    source: str
    artifact: str
    tone: str
    """Whether the change is for the better."""
    image: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """An artifact's pictures."""

    confusion: Markup
    layers: Markup
    measured: bool
    changed: list[_Changed]


def write(folder: Path, card: ModelCard, images: Mapping[int, Tensor] | None = None) -> None:
    """Write `card.json` and `card.html` into a folder. `images`: see `page`."""
    (folder / CARD_FILE).write_bytes(msgspec.json.encode(card, order="sorted"))
    (folder / PAGE_FILE).write_text(page(card, images), encoding="utf-8")


def page(card: ModelCard, images: Mapping[int, Tensor] | None = None) -> str:
    """Return the page; the same card and images give the same page.

    `images` holds raw items of the gate split by their index, `(H, W)`, `(H, W, 1)` or `(H, W, 3)`; others are left
    out.
    """
    passed = [each for each in card.artifacts if not each.refused]
    best = min(passed, key=lambda each: (each.graph.length_bytes, each.graph.sha256), default=None)
    described = best or next(iter(card.artifacts), None)
    after = described.graph.operators if described else {}
    drawn = {
        "pareto": Markup(charts.pareto(card.candidates)),  # noqa: S704 - drawn by us, labels escaped by the library
        "operators": Markup(charts.operators(card.source.operators, after)),  # noqa: S704 - likewise
    }
    return (
        _environment()
        .get_template("card.html.j2")
        .render(
            card=card,
            best=best,
            described=described,
            charts=drawn,
            drawn=[_drawn(each, card.labels, images or {}) for each in card.artifacts],
            labelled=all(each.accuracy is not None for each in card.candidates),
        )
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("converters.card"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "amount": amount}
    environment.filters |= {"percent": _percent, "points": _points, "db": _decibel, "ms": _milliseconds}
    return environment


def _drawn(artifact: ArtifactCard, labels: Sequence[str], images: Mapping[int, Tensor]) -> _Drawn:
    report = artifact.report
    names = [_name(index, labels) for index in range(len(report.confusion))]
    return _Drawn(
        confusion=Markup(charts.confusion(report.confusion, names)),  # noqa: S704 - as above
        layers=Markup(charts.layers(artifact.graph.layers)),  # noqa: S704 - as above
        measured=any(layer.snr_db is not None for layer in artifact.graph.layers),
        changed=[_changed(sample, labels, images.get(sample.index)) for sample in report.changed],
    )


def _changed(sample: ChangedSample, labels: Sequence[str], image: Tensor | None) -> _Changed:
    tone = "muted"
    if sample.label is not None:
        tone = "good" if sample.artifact == sample.label else "bad" if sample.source == sample.label else "muted"
    return _Changed(
        index=sample.index,
        label="" if sample.label is None else _name(sample.label, labels),
        source=_name(sample.source, labels),
        artifact=_name(sample.artifact, labels),
        tone=tone,
        image="" if image is None else _thumbnail(image),
    )


def _name(index: int, labels: Sequence[str]) -> str:
    return labels[index] if 0 <= index < len(labels) else str(index)


def _thumbnail(item: Tensor) -> str:
    """Return a data URL of a small PNG; "" for an item that is no image."""
    if item.ndim == _COLOUR and item.shape[-1] == _GREY:
        item = item[..., 0]
    colour = item.ndim == _COLOUR and item.shape[-1] == _COLOUR
    if not (colour or item.ndim == _COLOUR - 1) or item.size == 0 or item.dtype.kind not in "biuf":
        return ""
    if item.dtype != np.uint8:
        # Whatever the range is, its ends are black and white.
        values = np.nan_to_num(item.astype(np.float64), posinf=0, neginf=0)
        span = float(values.max() - values.min()) or 1.0
        item = ((values - values.min()) * (255 / span)).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(item))
    picture.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


def _points(share: float) -> str:
    return f"{100 * share:.2f} points"


def _decibel(snr_db: float | None) -> str:
    return "–" if snr_db is None else f"{snr_db:.1f} dB"


def _milliseconds(latency_ms: float) -> str:
    if not latency_ms:
        return "–"
    return f"{latency_ms:.3g} ms" if latency_ms >= 1 else f"{1000 * latency_ms:.3g} µs"
