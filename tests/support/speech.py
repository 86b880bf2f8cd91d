"""Spoken phrases as a streaming wake-word model hears them: synthesised by espeak-ng, cut into features."""

from __future__ import annotations

import ctypes
import importlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support.packages import package_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

_ESPEAK = ("espeakng-loader", "0.2.4", "08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d")
_FEATURES = ("pymicro-features", "2.0.2", "65a76a7c7851ee0dd6083dda56b835ab9dc6eddeaf11b34461795758de846d0f")
_RATE = 16_000
_SYNCHRONOUS, _RATE_OF_SPEECH, _BY_CHARACTERS, _UTF8 = 2, 1, 1, 1
_PIECE_BYTES = 320
_FRAMES = 3
"""Of 10 ms each, in one step of the model."""


def heard(phrase: str) -> Tensor:
    """Return `(steps, 3, 40)` float32 features of a phrase with a second of silence around it."""
    folder = str(package_file(*_FEATURES, member="./"))
    sys.path.insert(0, folder)
    try:
        features = importlib.import_module("pymicro_features")
    finally:
        sys.path.remove(folder)
    frontend, audio = features.MicroFrontend(), spoken(phrase).tobytes()
    starts = range(0, len(audio) - _PIECE_BYTES + 1, _PIECE_BYTES)
    found = [frontend.process_samples(audio[start : start + _PIECE_BYTES]).features for start in starts]
    frames = np.array([frame for frame in found if frame], np.float32)
    steps = len(frames) // _FRAMES
    return frames[: steps * _FRAMES].reshape(steps, _FRAMES, -1)


def spoken(phrase: str) -> NDArray[np.int16]:
    """Return a phrase as 16 kHz samples."""
    folder = package_file(*_ESPEAK, member="espeakng_loader/")
    library = ctypes.CDLL(str(folder / "libespeak-ng.so"))
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, str(folder).encode(), 0)
    pieces = np.concatenate(list(_synthesised(library, phrase))).astype(np.float64)
    count = len(pieces) * _RATE // rate
    resampled = np.interp(np.arange(count) * rate / _RATE, np.arange(len(pieces)), pieces)
    silence = np.zeros(_RATE)
    return np.concatenate([silence, resampled, silence]).astype(np.int16)


def _synthesised(library: ctypes.CDLL, phrase: str) -> Iterator[NDArray[np.int16]]:
    pieces: list[NDArray[np.int16]] = []

    def keep(samples: Any, count: int, _: object) -> int:  # noqa: ANN401 - a pointer of ctypes
        if samples and count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    callback, text = kind(keep), phrase.encode()
    library.espeak_SetSynthCallback(callback)
    library.espeak_SetVoiceByName(b"en-us")
    library.espeak_SetParameter(_RATE_OF_SPEECH, 140, 0)
    size = ctypes.c_size_t(len(text) + 1)
    library.espeak_Synth(ctypes.c_char_p(text), size, 0, _BY_CHARACTERS, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    yield from pieces


def model(name: str) -> Path:
    """Return one of the wake-word models that others trained: alexa, hey_jarvis, hey_mycroft, okay_nabu."""
    digest = "3869f536402b1254e3be3549d3a462ecd6ed21ce2c3e77ec8eb501c3c700417c"
    return package_file("pymicro-wakeword", "2.5.0", digest, member=f"pymicro_wakeword/models/{name}.tflite")
