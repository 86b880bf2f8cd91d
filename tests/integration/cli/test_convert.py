"""`litefleet convert`, `dataset` and `inspect` without a controller, on a real model whose answers are known."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from controller.cli.convert import Written
from shared.conversion import ConversionResult
from shared.dataset import DATASET_FILE, DatasetSpec, Split
from shared.hardware import GENERIC
from shared.ids import HardwareProfileId
from tests.support.datasets import written
from tests.support.models import one_hot_classifier
from tests.support.operator import Operator
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.operator import Answer

_REPOSITORY = Path(__file__).parents[3]
HEARING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
"""What a shell starts in the background ignores Ctrl-C, and so does all that it starts: the tests, and this program."""
PARTS = {Split.CALIBRATION: 60, Split.SEARCH: 120, Split.GATE: 400}


def _samples(count: int, seed: int) -> bytes:
    items = np.random.default_rng(seed).random((count, 10), dtype=np.float32)
    sink = io.BytesIO()
    np.savez(sink, x=items, y=items.argmax(axis=1))
    return sink.getvalue()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """Somebody with a model, data for it, and no controller."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "hot.tflite").write_bytes(one_hot_classifier())
    shards = {f"{split}.npz": _samples(count, seed) for seed, (split, count) in enumerate(PARTS.items())}
    written(folder / "data", shards)
    return Operator(url="http://127.0.0.1:9", token_file=folder / "no-token", folder=folder)


def _convert(bench: Operator, *words: str, file: str = "hot.tflite", **environment: str) -> Answer:
    folder = bench.folder
    return bench.types(
        "convert",
        str(folder / file),
        f"--data={folder / 'data'}",
        f"--cache={folder / 'cache'}",
        f"--out={folder / 'out'}",
        *words,
        TMPDIR=str(folder),
        **environment,
    )


def test_convert_writes_model_card_and_result_and_shows_what_was_tried(bench: Operator) -> None:
    answer = _convert(bench, "--max-drop=0.05")
    assert answer.code == 0, answer.err
    assert {path.name for path in (bench.folder / "out").iterdir()} == {
        "card.html",
        "card.json",
        "generic.tflite",
        "result.json",
    }
    assert "●" in answer.out
    assert "chosen: generic" in answer.out
    assert "points lost with 95 % on 400 samples" in answer.out
    assert "convert: check data" in answer.err
    result = msgspec.json.decode((bench.folder / "out" / "result.json").read_bytes(), type=ConversionResult)
    assert result.artifacts[0].golden.cases
    assert result.artifacts[0].path == ""


@pytest.mark.parametrize("columns", [80, 120])
def test_convert_table_fits_the_terminal(bench: Operator, columns: int) -> None:
    lines = _convert(bench, "--max-drop=0.05", COLUMNS=str(columns)).out.splitlines()
    table = lines[: lines.index("")]
    assert [line for line in table if len(line) > columns] == []
    assert ("LATENCY" in table[0]) == (columns == 120)


def test_convert_json_is_one_document(bench: Operator) -> None:
    told = _convert(bench, "--max-drop=0.05", "--json").read(Written)
    assert (told.failure, told.unserved) == (None, {})
    assert Path(told.chosen["generic"]).is_file()
    assert sum(one.outcome.startswith("chosen") for one in told.candidates) == 1


def test_convert_of_too_few_samples_for_the_budget_ends_with_2_and_says_how_many_it_takes(bench: Operator) -> None:
    answer = _convert(bench, "--max-drop=0.0001")
    assert answer.code == 2
    assert "38,415 are needed" in answer.err


def test_convert_for_a_profile_that_nothing_fits_ends_with_1_and_says_what_came_closest(bench: Operator) -> None:
    tiny = msgspec.structs.replace(GENERIC, profile_id=HardwareProfileId("tiny"), max_size_bytes=100)
    (bench.folder / "tiny.json").write_bytes(msgspec.json.encode(tiny))
    answer = _convert(bench, "--max-drop=0.05", f"--profile={bench.folder / 'tiny.json'}")
    assert answer.code == 1
    assert "nothing_passed" in answer.err
    assert "size" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data=.",), "litefleet dataset describe"),
        (("--profile=pi9",), "no known profile"),
        (("--runtime=tensorrt==1",), "not NAME==VERSION"),
        (("--runtime=tflite-runtime==2.14.0",), "none of the profiles has tflite-runtime"),
        (("--out=/proc/nowhere",), "cannot write to /proc/nowhere"),
        (("--cache=/etc/hostname",), "/etc/hostname: "),
        (("--max-class-drop=2",), "--max-class-drop"),
        (("--max-drop=nan",), "--max-drop"),
        (("--pipeline=/etc/hostname",), "--pipeline"),
    ],
)
def test_convert_asked_wrongly_ends_with_2_and_says_what_would_mend_it(
    bench: Operator, words: tuple[str, ...], said: str
) -> None:
    answer = _convert(bench, *words)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err


def test_convert_never_writes_over_the_model_itself(bench: Operator, tmp_path: Path) -> None:
    model = tmp_path / "generic.tflite"
    model.write_bytes((bench.folder / "hot.tflite").read_bytes())
    answer = _convert(bench, f"--out={tmp_path}", file=str(model))
    assert (answer.code, "would be written over" in answer.err) == (2, True), answer.err
    assert model.read_bytes() == (bench.folder / "hot.tflite").read_bytes()


def test_convert_that_fails_leaves_no_model_of_an_earlier_one(bench: Operator, tmp_path: Path) -> None:
    (tmp_path / "generic.tflite").write_bytes(b"of another day")
    answer = _convert(bench, f"--out={tmp_path}", "--max-drop=0.0001")
    assert (answer.code, "38,415 are needed" in answer.err) == (2, True), answer.err
    assert {path.name for path in tmp_path.iterdir()} == {"result.json"}


def test_convert_into_a_folder_that_is_not_there_makes_it(bench: Operator, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    answer = _convert(bench, f"--out={out}", "--max-drop=0.05", "--scheme=float16")
    assert answer.code == 0, answer.err
    assert (out / "generic.tflite").is_file()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("weights.pt", b"who knows", "torch.export"),
        ("model.pkl", b"cos\nsystem\n", "skops"),
        ("cut.tflite", b"\x1c\x00\x00\x00TFL3", ""),
    ],
)
def test_convert_of_what_is_no_model_ends_with_2(bench: Operator, name: str, content: bytes, said: str) -> None:
    (bench.folder / name).write_bytes(content)
    answer = _convert(bench, file=name)
    assert (answer.code, said in answer.err) == (2, True), answer.err
    assert "Traceback" not in answer.err


def test_convert_without_its_front_end_ends_with_5_and_the_command_to_type(bench: Operator) -> None:
    (bench.folder / "model.pt2").write_bytes(b"PK\x03\x04")
    answer = _convert(bench, file="model.pt2", LITEFLEET_WORKERS_DIR=str(bench.folder / "none"))
    assert answer.code == 5, answer.err
    assert "litefleet converters install torch" in answer.err


def test_convert_interrupted_ends_its_worker_and_leaves_only_the_cache(
    bench: Operator, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Much to judge by: a busy machine may take its time to bring the signal.
    parts = {Split.CALIBRATION: 60, Split.SEARCH: 100_000, Split.GATE: 100_000}
    shards = {f"{split}.npz": _samples(count, seed) for seed, (split, count) in enumerate(parts.items())}
    data = written(tmp_path_factory.mktemp("much"), shards)
    command = [
        *(sys.executable, "-c", f"{HEARING}; from controller.cli import main; main()", "convert"),
        *(str(bench.folder / "hot.tflite"), f"--data={data}"),
        *(f"--cache={tmp_path / 'cache'}", f"--out={tmp_path / 'out'}"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(_REPOSITORY), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as program:
        assert program.stderr is not None
        assert program.stderr.readline() == "convert: check data\n"
        program.send_signal(signal.SIGINT)
        # Long enough for any machine: a conversion that went on would end with 0.
        assert program.wait(timeout=30) == 130
        assert "the same command again goes on where it was" in program.stderr.read()
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}
    wait_until(lambda: not _mentions(str(tmp_path)), within_s=30.0, what="the worker is gone")


def _mentions(text: str) -> list[str]:
    """Return the processes whose environment names a folder: the worker's own is below it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TMPDIR={text}/" in path.read_text(errors="replace"):
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_dataset_make_cuts_one_file_and_describes_it(bench: Operator) -> None:
    (bench.folder / "all.npz").write_bytes(_samples(100, 9))
    out = bench.folder / "made"
    made = bench.types("dataset", "make", str(bench.folder / "all.npz"), f"--out={out}", "--licence=MIT", "-o", "json")
    assert made.code == 0, made.err
    spec = made.read(DatasetSpec)
    assert (spec.name, spec.licence, len(spec.shards)) == ("all", "MIT", 3)
    document = (out / DATASET_FILE).read_bytes()
    assert bench.types("dataset", "describe", str(out), "--name=all", "--licence=MIT").code == 0
    assert (out / DATASET_FILE).read_bytes() == document


def test_dataset_make_with_slices_names_them(bench: Operator) -> None:
    items = np.random.default_rng(3).random((100, 10), dtype=np.float32)
    np.savez(bench.folder / "sliced.npz", x=items, slice=np.arange(100) % 2)
    words = (str(bench.folder / "sliced.npz"), f"--out={bench.folder / 'sliced'}", "--slices=day,night", "-o", "json")
    assert bench.types("dataset", "make", *words).read(DatasetSpec).slices == ("day", "night")


def test_dataset_make_refuses_labels_by_another_name(bench: Operator, capfd: pytest.CaptureFixture[str]) -> None:
    np.savez(bench.folder / "named.npz", x=np.zeros((9, 2)), labels=np.zeros(9, int))
    made = bench.types("dataset", "make", str(bench.folder / "named.npz"), f"--out={bench.folder / 'named'}")
    assert made.code == 2
    assert "holds labels, and no y (call labels y" in made.err + capfd.readouterr().err


def test_dataset_that_cannot_be_described_ends_with_2(bench: Operator, tmp_path: Path) -> None:
    answer = bench.types("dataset", "describe", str(tmp_path))
    assert (answer.code, "name files by their split" in answer.err) == (2, True)


def test_inspect_of_no_model_fails_and_of_one_succeeds(bench: Operator, capfd: pytest.CaptureFixture[str]) -> None:
    assert bench.types("inspect", str(bench.folder / "hot.tflite"), "--json").code == 0
    assert msgspec.json.decode(capfd.readouterr().out)
    assert bench.types("inspect", str(bench.folder / "data" / "gate.npz")).code != 0
