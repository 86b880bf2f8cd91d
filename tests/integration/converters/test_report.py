from __future__ import annotations

import html.parser
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from typing_extensions import override

from converters.card import charts, report
from converters.inspect import describe
from shared.card import ArtifactCard, ModelCard, SourceFacts
from shared.conversion import (
    Candidate,
    ChangedSample,
    CheckOutcome,
    GateReport,
    GroupAccuracy,
    PairedDrop,
    Recipe,
    RuntimeCheck,
)
from shared.hardware import Runtime
from shared.ids import ConversionId, Sha256
from shared.manifest import Accuracy, Scheme
from tests.support.drawn_networks import convolutional

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[3]
HOSTILE = '<script>alert(1)</script> & "quoted" $x$ \x01'
REPORT = GateReport(
    drop=PairedDrop(samples=300, drop=0.01, bound=0.027, discordant=5, samples_needed=2000),
    classes=(GroupAccuracy(name=HOSTILE, samples=150, source=0.98, artifact=0.97),),
    confusion=((149, 1), (4, 146)),
    changed=(
        ChangedSample(index=3, label=0, source=0, artifact=1),
        ChangedSample(index=7, label=1, source=0, artifact=1),
    ),
    agreement=0.98,
    runtimes=(
        RuntimeCheck(
            runtime=Runtime.TFLITE_RUNTIME, version="2.14.0", outcome=CheckOutcome.FAILED, reason="9.2 % right"
        ),
    ),
)
IMAGES: Mapping[int, Any] = {3: np.arange(64, dtype=np.uint8).reshape(8, 8), 7: np.full((8, 8, 3), np.nan)}


def card(**changes: object) -> ModelCard:
    facts = describe(convolutional(), {"wide": 20.0})
    artifact = ArtifactCard(
        recipe=Recipe(scheme=Scheme.FULL_INT8),
        graph=facts,
        accuracy=Accuracy(samples=300, source=0.98, artifact=0.97, agreement=0.98),
        report=REPORT,
        profiles=("pi5",),
    )
    candidates = [
        Candidate(
            recipe=Recipe(scheme=scheme),
            sha256=Sha256("0" * 64),
            length_bytes=length,
            latency_ms=1.0,
            agreement=share,
            accuracy=share,
            snr_db=None,
            pareto=True,
            outcome=outcome,
        )
        for scheme, length, share, outcome in (
            (Scheme.FLOAT32, 12_000, 0.98, "search: larger than another that passes"),
            (Scheme.FULL_INT8, 4_000, 0.97, "chosen: pi5"),
            (Scheme.FLOAT16, 0, 0.0, f"failed: {HOSTILE}"),
        )
    ]
    made = ModelCard(
        conversion_id=ConversionId("c-1"),
        source=SourceFacts(
            name=HOSTILE,
            source_format="keras",
            sha256=Sha256("a" * 64),
            length_bytes=40_000,
            parameters=3_050,
            operators={"Conv2D": 2, HOSTILE: 1},
            removed=("dropout",),
        ),
        artifacts=(artifact,),
        candidates=tuple(candidates),
        labels=("cat", HOSTILE),
        warnings=(HOSTILE,),
    )
    return msgspec.structs.replace(made, **changes)


class Tags(html.parser.HTMLParser):
    """Which tags a page has, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_report_of_hostile_names_runs_nothing_and_fetches_nothing() -> None:
    text = report.page(card(), IMAGES)
    found = Tags(text).found
    assert not [tag for tag, _ in found if tag in {"script", "link", "iframe", "object"}]
    assert not [attributes for _, attributes in found if any(name.startswith("on") for name in attributes)]
    for _, attributes in found:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert "&lt;script&gt;" in text


def test_report_draws_each_picture_once_and_ids_are_the_pages_own() -> None:
    found = Tags(report.page(card(), IMAGES)).found
    assert [tag for tag, _ in found].count("svg") == 4
    assert [tag for tag, _ in found].count("img") == 2
    ids = {attributes["id"] for _, attributes in found if attributes.get("id")}
    assert ids
    assert {str(name).split("-")[0] for name in ids} == {"pareto", "confusion", "layers", "operators"}


def test_report_colours_come_from_the_page_so_that_dark_is_readable() -> None:
    text = report.page(card())
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--ink)" in drawings
    assert not set(re.findall(r"#[0-9a-f]{6}", drawings)) - {"#000000"}
    assert "prefers-color-scheme: dark" in text


def test_report_says_what_was_measured() -> None:
    text = report.page(card())
    for said in (
        "1.00 points, at most 2.70 points",
        "2000 samples would certify the margin",
        "tflite-runtime 2.14.0: failed",
        "9.2 % right",
        "chosen: pi5",
        "dropout",
    ):
        assert said in text


def test_report_of_nothing_that_passed_says_so() -> None:
    [artifact] = card().artifacts
    refused = msgspec.structs.replace(artifact, refused="accuracy_drop: 0.075 > 0.010")
    text = report.page(card(artifacts=(refused,)))
    assert "nothing passed" in text
    assert "accuracy_drop: 0.075 &gt; 0.010" in text


def test_report_of_nothing_at_all_is_a_page() -> None:
    text = report.page(card(artifacts=(), candidates=(), labels=(), warnings=()))
    assert "None could be made." in text


@pytest.mark.parametrize("item", [np.zeros(8), np.zeros((8, 8, 2)), np.zeros((0, 0)), np.array([["a"]])])
def test_report_of_a_sample_that_is_no_image_leaves_the_picture_out(item: Any) -> None:  # noqa: ANN401 - any array
    assert "<img" not in report.page(card(), {3: item})


def test_report_is_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; from converters.card import report;"
        "import importlib.util as u; s = u.spec_from_file_location('t', sys.argv[1]); t = u.module_from_spec(s);"
        "s.loader.exec_module(t); report.write(Path(sys.argv[3]), t.card(), t.IMAGES)"
    )
    arguments = [sys.executable, "-c", code, __file__, str(ROOT), str(tmp_path)]
    subprocess.run(arguments, check=True, cwd=ROOT, env={"PYTHONHASHSEED": "3", "HOME": str(tmp_path)})
    assert (tmp_path / "card.html").read_text(encoding="utf-8") == report.page(card(), IMAGES)
    assert msgspec.json.decode((tmp_path / "card.json").read_bytes(), type=ModelCard) == card()


def test_chart_of_a_hundred_classes_is_drawn_without_names() -> None:
    matrix = np.eye(100, dtype=int) * 9
    text = charts.confusion([tuple(map(int, row)) for row in matrix], [str(index) for index in range(100)])
    assert text.startswith("<svg")
    assert len(text) < 3_000_000


def test_chart_of_nothing_is_nothing() -> None:
    assert not charts.pareto([])
    assert not charts.confusion([], [])
    assert not charts.layers([])
    assert not charts.operators({}, {})
