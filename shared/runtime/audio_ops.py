"""The steps that work on sound: WAV to one wave, and a wave to frames, spectra or mels."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shared.errors import PipelineError
from shared.steps import FrameContent, Resampling, Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shared.steps import DecodeAudio, FrameAudio

    Tensor = NDArray[Any]
    Wave = NDArray[np.float32]

_RIFF = struct.Struct("<4sI4s")
_CHUNK = struct.Struct("<4sI")
_FORMAT = struct.Struct("<HHIIHH")
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_SUBFORMAT = 24
"""Where an extensible format says which one it really is. Source: Microsoft, WAVEFORMATEXTENSIBLE."""
_MAX_CHANNELS, _MAX_RATE_HZ = 32, 768_000
_CROSSINGS = 16
"""Zeros of the sinc on either side: what folds back is damped by 60 dB and more, at 33 to 100 products a sample."""
_ROLL_OFF = 0.92
"""Of the band that both rates have: room in which the filter falls."""
_BETA = 8.0
"""Of Kaiser's window: side lobes 80 dB down. Source: Oppenheim and Schafer, Discrete-Time Signal Processing, 7.5.3."""
_MAX_TAPS = 2_000_000
"""Of all phases together, 8 MB: rates with hardly a common divisor need one phase for each sample of a second."""
_MAX_FRAMED = 32_000_000
"""Numbers in all frames, 128 MB: with a small hop, seconds of sound make gigabytes. Ten minutes at 16 kHz in frames of
25 ms, 10 ms apart, are 24 million."""
_MEL_BREAK_HZ, _MEL_SCALE = 700.0, 1127.0


class _Format(NamedTuple):
    """What a WAV says of its samples."""

    code: int
    channels: int
    rate_hz: int
    bits: int


def decode_audio(encoded: bytes, step: DecodeAudio) -> Wave:
    """Decode WAV to the wanted sample rate and length, the channels' mean; `(N,) float32`, -1..1.

    Raises:
        PipelineError: no such file, cut off, too long, or of a rate that cannot be brought to the wanted one.
    """
    form, data = _read_wav(encoded)
    frame_bytes = form.channels * form.bits // 8
    count = len(data) // frame_bytes
    if count == 0:
        raise PipelineError("the recording holds no sound")
    if count > step.max_seconds * form.rate_hz:
        raise PipelineError(f"the recording is {count / form.rate_hz:.1f} s long, more than {step.max_seconds:g} s")
    samples = _samples(data[: count * frame_bytes], form).reshape(count, form.channels)
    wave = np.asarray(samples.mean(axis=1) if form.channels > 1 else samples[:, 0], np.float32)
    if not np.isfinite(wave).all():
        raise PipelineError("the recording holds NaN or infinity")
    return fit_length(resample(wave, form.rate_hz, step.sample_rate_hz, step.resampling), step.samples)


def fit_length(wave: Wave, samples: int | None) -> Wave:
    """Cut a wave, or fill it up with silence at its end."""
    if samples is None or len(wave) == samples:
        return wave
    return wave[:samples] if len(wave) > samples else np.pad(wave, (0, samples - len(wave)))


def resample(wave: Wave, rate_hz: int, wanted_hz: int, how: Resampling) -> Wave:
    """Return a wave as it would have been recorded at another rate. Raises PipelineError for too odd a ratio."""
    if rate_hz == wanted_hz:
        return wave
    count = max(1, len(wave) * wanted_hz // rate_hz)
    if how is Resampling.LINEAR:
        times = np.arange(count) * (rate_hz / wanted_hz)
        return np.asarray(np.interp(times, np.arange(len(wave)), wave), np.float32)
    divisor = math.gcd(rate_hz, wanted_hz)
    up, down = wanted_hz // divisor, rate_hz // divisor
    reach = math.ceil(_CROSSINGS * max(1.0, down / up) / _ROLL_OFF)
    if up * (2 * reach + 1) > _MAX_TAPS:
        raise PipelineError(f"sound of {rate_hz} Hz cannot be brought to {wanted_hz} Hz: use resampling linear")
    padded = np.pad(wave, (reach, reach + 1))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    result = np.empty(count, np.float32)
    # All outputs that lie equally far behind an input share their taps.
    for phase in range(min(up, count)):
        first, after = divmod(phase * down, up)
        taps = _taps(after / up, reach, min(1.0, up / down))
        outputs = result[phase::up]
        outputs[:] = windows[first::down][: len(outputs)] @ taps
    return result


class Framer:
    """`frame_audio` with its window and filters made once."""

    def __init__(self, step: FrameAudio, rate_hz: int | None) -> None:
        self._step = step
        self._window = _window(step.window, step.length)
        self._fft_length = step.fft_length or 1 << (step.length - 1).bit_length()
        self._filters = None
        if step.content is FrameContent.LOG_MELS:
            self._filters = mel_filters(step, self._fft_length // 2 + 1, rate_hz or 1)

    def apply(self, wave: Tensor) -> Tensor:
        """Return `(frames, length)`, `(frames, bins)` or `(frames, mels)`.

        Raises:
            PipelineError: no wave, shorter than one frame, or so long that its frames are too many.
        """
        step = self._step
        if wave.ndim != 1 or wave.dtype.kind != "f":
            raise PipelineError(f"frame_audio takes a wave (N,) of floats, got {wave.shape} {wave.dtype.name}")
        if len(wave) < step.length:
            raise PipelineError(f"the sound has {len(wave)} samples, and a frame {step.length}")
        count = (len(wave) - step.length) // step.hop + 1
        size = step.length if step.content is FrameContent.SAMPLES else self._fft_length
        if count * size > _MAX_FRAMED:
            problem = f"{len(wave)} samples make {count} frames of {size}, more than {_MAX_FRAMED} numbers"
            raise PipelineError(f"{problem}: send less, or frame with a larger hop")
        frames = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float32, copy=False), step.length)[:: step.hop]
        frames = frames * self._window if self._window is not None else frames.copy()
        if step.content is FrameContent.SAMPLES:
            return frames
        magnitudes = np.abs(np.fft.rfft(frames, self._fft_length)).astype(np.float32)
        if self._filters is None:
            return magnitudes
        mels: Tensor = np.log(magnitudes @ self._filters + np.float32(step.floor))
        return mels


def mel_filters(step: FrameAudio, bins: int, rate_hz: int) -> Tensor:
    """Return triangles `(bins, mels)` that overlap by half on the mel scale, as `tf.signal` lays them.

    Source: HTK Book 3.4, 5.4; tensorflow/python/ops/signal/mel_ops.py
    """
    edges = np.linspace(_mel(np.array(step.low_hz)), _mel(np.array(step.high_hz)), step.mels + 2)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    place = _mel(np.linspace(0.0, rate_hz / 2, bins))[:, np.newaxis]
    filters = np.maximum(0.0, np.minimum((place - low) / (middle - low), (high - place) / (high - middle)))
    # A constant part is no sound, and counts nowhere.
    filters[0] = 0.0
    return filters.astype(np.float32)


def _mel(hertz: Tensor) -> Tensor:
    mels: Tensor = _MEL_SCALE * np.log1p(hertz / _MEL_BREAK_HZ)
    return mels


def _window(window: Window, length: int) -> Tensor | None:
    if window is Window.NONE:
        return None
    least = 0.5 if window is Window.HANN else 0.54
    turns = 2 * np.pi * np.arange(length) / length
    return np.asarray(least - (1 - least) * np.cos(turns), np.float32)


def _taps(after: float, reach: int, band: float) -> Tensor:
    """Return the low pass's weights for an output that lies `after` (0..1) samples behind an input."""
    at = np.arange(-reach, reach + 1) - after
    taps = np.sinc(at * band * _ROLL_OFF) * np.i0(_BETA * np.sqrt(np.maximum(0.0, 1 - (at / (reach + 1)) ** 2)))
    # One for a constant, whatever the phase.
    return np.asarray(taps / taps.sum(), np.float32)


def _read_wav(encoded: bytes) -> tuple[_Format, memoryview]:
    """Return the format and the samples' bytes. Source: Microsoft and IBM, Multimedia Programming Interface 1.0."""
    if len(encoded) < _RIFF.size:
        raise PipelineError("not a readable WAV file: it is too short")
    riff, _, kind = _RIFF.unpack_from(encoded)
    if (riff, kind) != (b"RIFF", b"WAVE"):
        raise PipelineError("not a readable WAV file: it does not begin as one")
    form: _Format | None = None
    at = _RIFF.size
    while at + _CHUNK.size <= len(encoded):
        name, size = _CHUNK.unpack_from(encoded, at)
        at += _CHUNK.size
        body = memoryview(encoded)[at : at + size]
        if name == b"fmt ":
            form = _read_format(body)
        if name == b"data" and form is not None:
            # Recorders that are switched off leave lengths of 0 or 2^32 - 1: those take what is there, others not.
            if len(body) < size < 0xFFFF_FFF0:  # noqa: PLR2004 - see above
                raise PipelineError(f"the WAV file is cut off: {len(body)} of {size} bytes of sound are there")
            return form, memoryview(encoded)[at:] if size == 0 else body
        # Chunks begin at even places.
        at += size + size % 2
    raise PipelineError("not a readable WAV file: it holds no sound")


def _read_format(body: memoryview) -> _Format:
    if len(body) < _FORMAT.size:
        raise PipelineError("not a readable WAV file: its format is cut off")
    code, channels, rate_hz, _, _, bits = _FORMAT.unpack_from(body)
    if code == _EXTENSIBLE and len(body) >= _SUBFORMAT + 2:
        code = int.from_bytes(body[_SUBFORMAT : _SUBFORMAT + 2], "little")
    known = (code == _PCM and bits in {8, 16, 24, 32}) or (code == _FLOAT and bits in {32, 64})
    if not known:
        raise PipelineError(f"WAV of format {code} with {bits} bits: send PCM of 8, 16, 24 or 32 bits, or float")
    if not (1 <= channels <= _MAX_CHANNELS and 1 <= rate_hz <= _MAX_RATE_HZ):
        raise PipelineError(f"WAV of {channels} channels at {rate_hz} Hz is none")
    return _Format(code=code, channels=channels, rate_hz=rate_hz, bits=bits)


def _samples(data: memoryview, form: _Format) -> Wave:
    if form.code == _FLOAT:
        with np.errstate(over="ignore"):
            return np.asarray(np.frombuffer(data, f"<f{form.bits // 8}"), np.float32)
    if form.bits == 8:  # noqa: PLR2004 - the one size that is unsigned
        return _scaled(np.frombuffer(data, np.uint8).astype(np.float32) - 128, 8)
    if form.bits == 24:  # noqa: PLR2004 - the one size that numpy lacks
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return _scaled(wide.view("<i4")[:, 0], 32)
    return _scaled(np.frombuffer(data, f"<i{form.bits // 8}"), form.bits)


def _scaled(samples: Tensor, bits: int) -> Wave:
    return np.multiply(samples, np.float32(2.0 ** (1 - bits)), dtype=np.float32, casting="unsafe")
