"""The model card's pictures, as SVG that stands in a page: drawn by matplotlib, coloured by the page.

Colours are names that the page's style sheet gives a value, so that one drawing is readable on light and on dark. The
same figures give the same bytes.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MultipleLocator

from converters.card.facts_table import size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.typing import RcKeyType

    from shared.card import LayerFacts
    from shared.conversion import Candidate

_INK, _MUTED, _LINE, _ACCENT, _GOOD, _BAD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_NAMES = {_INK: "ink", _MUTED: "muted", _LINE: "line", _ACCENT: "accent", _GOOD: "good", _BAD: "bad"}
"""Stand-ins that no drawing uses for itself, and the names of the page's colours."""
_STYLE: dict[RcKeyType, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _LINE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": _MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same widths on every machine
    "font.size": 9.0,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "litefleet",
    "text.color": _INK,
    "text.parse_math": False,  # a label may hold a dollar sign
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
}
_WIDTH = 7.6
_ROW = 0.24
_SHOWN_POINTS = 12.0
"""Whatever loses more than so many percent is not compared by how much."""
_MOST_LAYERS = 40
_MOST_OPERATORS = 24
_MOST_NAMED = 20
_MOST_TICKS = 7
"""Classes whose names fit beside a confusion matrix."""
_CROWDED_DECADES, _CROWDED_POINTS = 0.12, 0.6
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd]")
_ID = re.compile(r'(\bid="|url\(#|href="#)')


@mpl.rc_context(_STYLE)
def pareto(candidates: Sequence[Candidate]) -> str:
    """Draw size against accuracy (agreement, where there are no labels); "" with nothing to draw."""
    labelled = all(each.accuracy is not None for each in candidates)
    shown = [(each.length_bytes, _kept(each, labelled=labelled), each) for each in candidates if each.length_bytes]
    if not shown:
        return ""
    figure, axes = _figure(3.9)
    # One broken candidate would press all others into a line: it stands at the lower edge, as an arrow.
    floor = max(kept for _, kept, _ in shown) - _SHOWN_POINTS
    shown = [(length, max(kept, floor), each) for length, kept, each in shown]
    frontier = sorted((length, kept) for length, kept, each in shown if each.pareto)
    axes.plot(*zip(*frontier, strict=True) if frontier else ((), ()), color=_ACCENT, linewidth=1.2, alpha=0.6)
    for length, kept, each in shown:
        chosen = each.outcome.startswith("chosen")
        colour = _GOOD if chosen else _ACCENT if each.pareto else _MUTED
        marker = "*" if chosen else "v" if kept == floor else "o"
        axes.scatter(length, kept, s=110 if chosen else 34, marker=marker, color=colour, zorder=3)
    _name_points(axes, shown)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size(value)))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda _value, _: ""))
    axes.xaxis.set_major_locator(_few_sizes([length for length, _, _ in shown]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g} %"))
    axes.margins(0.12, 0.16)
    # Points that all agree leave the scale to itself, which then runs far past all there is.
    lowest = min(kept for _, kept, _ in shown)
    axes.set_ylim(max(0.0, lowest - max(1.0, 0.16 * (100 - lowest))), 100.6)
    axes.set_xlabel("size")
    axes.set_ylabel("accuracy" if labelled else "agreement with the source")
    return _svg(figure, "pareto")


@mpl.rc_context(_STYLE)
def confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Draw how often each class (row) was answered as each other (column); "" for an empty one."""
    counts = np.asarray(matrix, dtype=np.float64)
    if counts.size == 0:
        return ""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)
    figure, axes = _figure(max(3.2, min(6.4, 0.34 * classes + 1.4)))
    colours = np.zeros((classes, classes, 4))
    colours[:] = to_rgba(_BAD)
    colours[np.diag_indices(classes)] = to_rgba(_GOOD)
    # A tenth shows already: what is rare and wrong is what one looks for.
    colours[..., 3] = np.where(counts > 0, 0.1 + 0.45 * np.sqrt(shares), 0)
    edges = np.arange(classes + 1) - 0.5
    mesh = axes.pcolormesh(edges, edges, shares, edgecolor="none")
    # Our own colours in place of a colour map: a map cannot be told by the page's style sheet.
    mesh.set_array(None)
    mesh.set_facecolor(list(colours.reshape(-1, 4)))
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.grid(visible=False)
    if classes <= _MOST_NAMED:
        ticks = [_plain(name, 14) for name in names[:classes]]
        axes.set_xticks(range(classes), ticks, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(classes), ticks)
        for row, column in zip(*np.nonzero(counts), strict=True):
            axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", fontsize=7.5)
    axes.set_xlabel("answered")
    axes.set_ylabel("label")
    return _svg(figure, "confusion")


@mpl.rc_context(_STYLE)
def layers(facts: Sequence[LayerFacts]) -> str:
    """Draw the size of the largest layers, and beside it how much each loses where that was measured."""
    shown = sorted((each for each in facts if each.weight_bytes), key=lambda each: -each.weight_bytes)[:_MOST_LAYERS]
    if not shown:
        return ""
    measured = any(each.snr_db is not None for each in shown)
    figure = Figure(figsize=(_WIDTH, 1.0 + _ROW * len(shown)), layout="constrained")
    left, *right = figure.subplots(1, 2 if measured else 1, sharey=True, squeeze=False)[0]
    places = range(len(shown))
    left.barh(places, [each.weight_bytes for each in shown], color=_ACCENT, height=0.7)
    left.set_yticks(places, [f"{each.operator.lower()} · {_plain(each.output, -22)}" for each in shown], fontsize=7.5)
    left.set_ylim(len(shown) - 0.4, -0.6)
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size(value)))
    # Two to five of them, at numbers that are round in KiB.
    left.xaxis.set_major_locator(MultipleLocator(2 ** math.ceil(math.log2(shown[0].weight_bytes / 4))))
    left.set_xlabel("size of weights")
    for axes in right:
        heard = [(place, each.snr_db) for place, each in enumerate(shown) if each.snr_db is not None]
        axes.scatter([snr for _, snr in heard], [place for place, _ in heard], color=_BAD, s=18)
        axes.set_xlabel("signal to noise, quantized alone (dB)")
    for axes in (left, *right):
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    return _svg(figure, "layers")


@mpl.rc_context(_STYLE)
def operators(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """Draw how many of each operator the source had, and what is left of them."""
    sides = [(title, _most(counts)) for title, counts in (("before", before), ("after", after)) if counts]
    if not sides:
        return ""
    rows = max(len(counts) for _, counts in sides)
    figure = Figure(figsize=(_WIDTH, 0.9 + _ROW * rows), layout="constrained")
    for axes, (title, counts) in zip(figure.subplots(1, len(sides), squeeze=False)[0], sides, strict=True):
        bars = axes.barh(range(len(counts)), list(counts.values()), color=_ACCENT, height=0.7)
        axes.bar_label(bars, padding=3, fontsize=7.5, color=_MUTED)
        axes.set_yticks(range(len(counts)), [_plain(name, 26) for name in counts], fontsize=7.5)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_title(title, loc="left", fontsize=9, color=_INK)
        axes.margins(x=0.12)
        axes.grid(visible=False)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return _svg(figure, "operators")


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _kept(candidate: Candidate, *, labelled: bool) -> float:
    share = candidate.accuracy if labelled and candidate.accuracy is not None else candidate.agreement
    return 100 * share


def _name_points(axes: Axes, shown: Sequence[tuple[int, float, Candidate]]) -> None:
    """Write schemes beside points, each scheme once: at its best point. Where they crowd, the table has the names."""
    named: dict[str, tuple[float, float]] = {}
    order = sorted(shown, key=lambda each: (not each[2].outcome.startswith("chosen"), not each[2].pareto, -each[1]))
    for number, (length, kept, each) in enumerate(order):
        place = math.log10(length), kept
        if each.recipe.scheme not in named and not any(_crowd(place, other) for other in named.values()):
            named[each.recipe.scheme] = place
            below = number % 2
            axes.annotate(
                str(each.recipe.scheme),
                (length, kept),
                (6, -13 if below else 6),
                textcoords="offset points",
                fontsize=7.5,
            )


def _crowd(place: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two names (at the logarithm of size, and points) would be written over each other."""
    return abs(place[0] - other[0]) < _CROWDED_DECADES and abs(place[1] - other[1]) < _CROWDED_POINTS


def _few_sizes(lengths: Sequence[int]) -> FixedLocator:
    """Ticks at the powers of two that the sizes span, which have short names: a log scale's own may show none."""
    powers = range(int(math.log2(min(lengths))), math.ceil(math.log2(max(lengths))) + 1)
    return FixedLocator([2**power for power in powers[:: math.ceil(len(powers) / _MOST_TICKS)]])


def _most(counts: Mapping[str, int]) -> dict[str, int]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[_MOST_OPERATORS:])
    return dict(ordered[:_MOST_OPERATORS]) | ({"others": rest} if rest else {})


def _plain(text: str, most: int) -> str:
    """Return text that may stand in XML, cut at its end, or at its beginning where `most` is negative."""
    text = _UNPRINTABLE.sub("?", text)
    if len(text) <= abs(most):
        return text
    return f"{text[: most - 1]}…" if most > 0 else f"…{text[most + 1 :]}"


def _svg(figure: Figure, salt: str) -> str:
    file = io.StringIO()
    with warnings.catch_warnings():
        # A class may be named in letters that the font lacks: the page has them.
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for colour, name in _NAMES.items():
        text = text.replace(colour, f"var(--{name})")
    # One page holds several drawings, and an id is the page's.
    return _ID.sub(rf"\g<1>{salt}-", text)
