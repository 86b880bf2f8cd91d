"""What tflite-runtime 2.14, which 32-bit boards still have, does with each scheme: answer right, or refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.environments import Environment, locate
from converters.quantization.quantize import quantize
from converters.quantization.sensitivity import snr_db
from shared.conversion import Recipe
from shared.errors import InvalidInputError
from shared.manifest import Scheme
from shared.runtime.interpreter import LiteRtInterpreter
from tests.support import networks

ROOT = Path(__file__).parents[3]
WORKERS = ROOT / ".cache" / "workers"
RIGHT_DB = 25
_ANSWER = """
import sys
import numpy as np
from tflite_runtime.interpreter import Interpreter

model, images, answers = sys.argv[1:]
try:
    interpreter = Interpreter(model, num_threads=1)
    interpreter.allocate_tensors()
except (RuntimeError, ValueError) as exc:
    sys.exit(f"refused: {exc}")
source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
given = []
for image in np.load(images):
    interpreter.set_tensor(source, image[np.newaxis])
    interpreter.invoke()
    given.append(interpreter.get_tensor(target))
np.save(answers, np.concatenate(given))
"""


@pytest.fixture(scope="module")
def old_python() -> Path:
    """The interpreter of the environment that has the old runtime; installed on first use."""
    for root in (None, WORKERS):
        try:
            return locate(Environment.TFLITE, root).python
        except InvalidInputError:
            continue
    install = [sys.executable, "-m", "converters.environments", "install", "tflite", "--root", str(WORKERS)]
    subprocess.run(install, cwd=ROOT, check=True, timeout=300)
    return locate(Environment.TFLITE, WORKERS).python


def outcome(old_python: Path, model: bytes, folder: Path) -> np.ndarray[Any, np.dtype[np.float32]] | str:
    """Return the old runtime's answers, or its refusal. A crash fails the test."""
    paths = [folder / name for name in ("model.tflite", "images.npy", "answers.npy")]
    paths[0].write_bytes(model)
    np.save(paths[1], np.stack(networks.images(24, seed=5)))
    ended = subprocess.run(
        [str(old_python), "-c", _ANSWER, *map(str, paths)], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode in {0, 1}, ended.stderr
    return ended.stderr if ended.returncode else np.load(paths[2])


@pytest.fixture(scope="module")
def right() -> np.ndarray[Any, np.dtype[np.float32]]:
    interpreter = LiteRtInterpreter(networks.network(), threads=1)
    return np.concatenate([interpreter.run([image[np.newaxis]])[0] for image in networks.images(24, seed=5)])


def made(scheme: Scheme, **more: Any) -> bytes:  # noqa: ANN401 - fields of a Recipe
    return quantize(networks.network(), Recipe(scheme=scheme, **more), networks.images(24))


@pytest.mark.parametrize(
    "scheme", [Scheme.FLOAT32, Scheme.FLOAT16, Scheme.WEIGHT_INT8, Scheme.MIXED, Scheme.FULL_INT8, Scheme.INT16X8]
)
def test_old_runtime_answers_right_what_it_knows(
    scheme: Scheme, old_python: Path, right: np.ndarray[Any, np.dtype[np.float32]], tmp_path: Path
) -> None:
    found = outcome(old_python, made(scheme), tmp_path)
    assert not isinstance(found, str), found
    assert snr_db(right, found) > RIGHT_DB


@pytest.mark.parametrize("scheme", [Scheme.DYNAMIC_INT8, Scheme.WEIGHT_INT4, Scheme.BLOCK_INT4])
def test_old_runtime_refuses_what_it_does_not_know(scheme: Scheme, old_python: Path, tmp_path: Path) -> None:
    found = outcome(old_python, made(scheme), tmp_path)
    assert isinstance(found, str)
    assert "version" in found


def test_old_runtime_answers_right_or_refuses_dynamic_convolutions(
    old_python: Path, right: np.ndarray[Any, np.dtype[np.float32]], tmp_path: Path
) -> None:
    found = outcome(old_python, made(Scheme.DYNAMIC_INT8, kept_float=("scores",)), tmp_path)
    assert isinstance(found, str) or snr_db(right, found) > RIGHT_DB


def test_old_runtime_computes_garbage_without_the_stamp(
    old_python: Path, right: np.ndarray[Any, np.dtype[np.float32]], tmp_path: Path
) -> None:
    """What the stamp is for: should this ever fail, the old runtime has learnt to refuse by itself."""
    from litert_quantizer.qtyping import TFLOperationName
    from litert_quantizer.quantizer import Quantizer

    quantizer = Quantizer(networks.network())
    quantizer.add_dynamic_config(".*", TFLOperationName.FULLY_CONNECTED, 8)
    plain = bytes(quantizer.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model)
    found = outcome(old_python, plain, tmp_path)
    assert not isinstance(found, str)
    assert snr_db(right, found) < 10
