"""Sound against plain formulas and the standard library's own writer; broken and hostile files among it."""

from __future__ import annotations

import io
import struct
import wave
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import PipelineError
from shared.runtime.audio_ops import Framer, decode_audio, mel_filters, resample
from shared.steps import DecodeAudio, FrameAudio, FrameContent, Resampling, Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor = NDArray[Any]

RATE = 16_000
STEP = DecodeAudio(sample_rate_hz=RATE)


def tone(hertz: float, rate_hz: int = RATE, seconds: float = 0.25) -> Tensor:
    return np.sin(2 * np.pi * hertz * np.arange(int(rate_hz * seconds)) / rate_hz)


def pcm(samples: Tensor, bits: int, *, rate_hz: int = RATE) -> bytes:
    """A WAV by the standard library; `samples` is `(N,)` or `(N, channels)`, -1..1."""
    whole = np.rint(np.atleast_2d(samples.T).T * (2 ** (bits - 1) - 1)).astype(np.int64)
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(whole.shape[1])
        file.setsampwidth(bits // 8)
        file.setframerate(rate_hz)
        shifted = whole + 128 if bits == 8 else whole
        file.writeframes(b"".join(int(each).to_bytes(bits // 8, "little", signed=bits > 8) for each in shifted.ravel()))
    return out.getvalue()


def riff(form: bytes, data: bytes, *, size: int | None = None, before: bytes = b"") -> bytes:
    """A WAV by hand."""
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + before
    chunks += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def form(code: int, bits: int, *, channels: int = 1, rate_hz: int = RATE) -> bytes:
    block = channels * bits // 8
    return struct.pack("<HHIIHH", code, channels, rate_hz, rate_hz * block, block, bits)


@pytest.mark.parametrize(("bits", "off"), [(8, 0.02), (16, 1e-4), (24, 1e-6), (32, 1e-6)])
def test_pcm_of_every_depth_is_the_wave_it_was_made_of(bits: int, off: float) -> None:
    samples = tone(440)
    np.testing.assert_allclose(decode_audio(pcm(samples, bits), STEP), samples, atol=off)


@pytest.mark.parametrize("kind", ["<f4", "<f8"])
def test_floats_are_taken_as_they_are(kind: str) -> None:
    samples = tone(440).astype(kind)
    decoded = decode_audio(riff(form(3, samples.itemsize * 8), samples.tobytes()), STEP)
    np.testing.assert_array_equal(decoded, samples.astype(np.float32))


def test_extensible_format_is_what_it_says_it_is() -> None:
    samples = (tone(440) * 32767).astype("<i2")
    extension = struct.pack("<HHI", 22, 16, 4) + struct.pack("<H", 1) + b"\0" * 14
    decoded = decode_audio(riff(form(0xFFFE, 16) + extension, samples.tobytes()), STEP)
    np.testing.assert_allclose(decoded, samples / 32768, atol=1e-6)


def test_channels_are_mixed_to_their_mean() -> None:
    both = np.stack([tone(440), np.zeros(4000)], axis=1)
    np.testing.assert_allclose(decode_audio(pcm(both, 16), STEP), tone(440) / 2, atol=1e-4)


def test_chunks_before_the_sound_are_passed_over_whatever_their_length() -> None:
    note = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    data = (tone(440) * 32767).astype("<i2").tobytes()
    assert len(decode_audio(riff(form(1, 16), data, before=note), STEP)) == 4000


def test_recorder_that_was_switched_off_has_left_what_is_there() -> None:
    data = (tone(440) * 32767).astype("<i2").tobytes()
    assert len(decode_audio(riff(form(1, 16), data, size=0xFFFF_FFFF), STEP)) == 4000
    assert len(decode_audio(riff(form(1, 16), data, size=0), STEP)) == 4000


@pytest.mark.parametrize(("wanted", "length"), [(1000, 1000), (9000, 9000), (None, 4000)])
def test_length_is_cut_or_filled_up_with_silence(wanted: int | None, length: int) -> None:
    decoded = decode_audio(pcm(tone(440), 16), DecodeAudio(sample_rate_hz=RATE, samples=wanted))
    assert len(decoded) == length
    np.testing.assert_allclose(decoded[: min(length, 4000)], tone(440)[:length], atol=1e-4)
    assert not decoded[4000:].any()


WHOLE = pcm(tone(440), 16)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "too short"),
        (b"RIFX" + WHOLE[4:], "does not begin as one"),
        (WHOLE[:20], "format is cut off"),
        (WHOLE[:30], "format is cut off"),
        (WHOLE[:40], "holds no sound"),
        (WHOLE[:-100], "is cut off"),
        (riff(b"\1\0", b""), "format is cut off"),
        (riff(form(1, 16), b""), "holds no sound"),
        (riff(form(1, 16), b"\0"), "holds no sound"),
        (riff(form(1, 12), b"\0" * 8), "12 bits"),
        (riff(form(85, 16), b"\0" * 8), "format 85"),
        (riff(form(1, 16, channels=0), b"\0" * 8), "0 channels"),
        (riff(form(1, 16, channels=9999), b"\0" * 8), "9999 channels"),
        (riff(form(1, 16, rate_hz=0), b"\0" * 8), "at 0 Hz"),
        (riff(form(3, 32), np.array([np.nan], "<f4").tobytes()), "NaN"),
        (riff(form(3, 64), np.array([1e300], "<f8").tobytes()), "infinity"),
    ],
)
def test_attack_file_that_is_no_sound_is_refused_with_what_is_wrong(content: bytes, said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        decode_audio(content, STEP)


@given(st.binary(max_size=60), st.integers(0, 60))
def test_attack_bytes_at_any_place_give_a_wave_or_are_refused(noise: bytes, at: int) -> None:
    content = WHOLE[:at] + noise + WHOLE[at + len(noise) :]
    try:
        decoded = decode_audio(content, STEP)
    except PipelineError:
        return
    assert np.isfinite(decoded).all()


def test_recording_that_is_too_long_is_refused_before_it_is_resampled() -> None:
    with pytest.raises(PipelineError, match=r"more than 0\.1 s"):
        decode_audio(WHOLE, DecodeAudio(sample_rate_hz=8000, max_seconds=0.1))


@pytest.mark.parametrize(
    ("rate_hz", "wanted_hz"), [(44_100, 16_000), (8000, 16_000), (48_000, 16_000), (16_000, 22_050)]
)
def test_resampled_tone_is_the_tone_recorded_at_the_other_rate(rate_hz: int, wanted_hz: int) -> None:
    made = resample(tone(1000, rate_hz).astype(np.float32), rate_hz, wanted_hz, Resampling.POLYPHASE)
    expected = tone(1000, wanted_hz)
    middle = slice(200, min(len(made), len(expected)) - 200)
    assert abs(len(made) - len(expected)) <= 1
    assert np.abs(made[middle] - expected[middle]).max() < 2e-3
    linear = resample(tone(200, rate_hz).astype(np.float32), rate_hz, wanted_hz, Resampling.LINEAR)
    assert np.abs(linear[middle] - tone(200, wanted_hz)[middle]).max() < 5e-3


def test_what_lies_above_half_of_the_new_rate_is_damped_by_sixty_decibels() -> None:
    made = resample(tone(10_000, 44_100).astype(np.float32), 44_100, 16_000, Resampling.POLYPHASE)
    assert np.abs(made[200:-200]).max() < 1e-3


def test_rates_without_a_common_divisor_are_refused_for_polyphase_and_not_for_linear() -> None:
    samples = tone(440, 44_101).astype(np.float32)
    with pytest.raises(PipelineError, match="use resampling linear"):
        resample(samples, 191_999, 16_000, Resampling.POLYPHASE)
    assert len(resample(samples, 191_999, 16_000, Resampling.LINEAR)) == len(samples) * 16_000 // 191_999


def test_frames_are_only_whole_ones() -> None:
    frames = Framer(FrameAudio(length=4, hop=3), None).apply(np.arange(11, dtype=np.float32))
    assert frames.tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    with pytest.raises(PipelineError, match="3 samples"):
        Framer(FrameAudio(length=4, hop=3), None).apply(np.zeros(3, np.float32))


@pytest.mark.parametrize("window", list(Window))
def test_magnitudes_are_those_of_the_transform_by_its_definition(window: Window) -> None:
    step = FrameAudio(length=20, hop=20, window=window, content=FrameContent.MAGNITUDES)
    sound = np.random.default_rng(0).normal(size=20).astype(np.float32)
    turns = 2 * np.pi * np.arange(20) / 20
    shape = {
        Window.NONE: np.ones(20),
        Window.HANN: 0.5 - 0.5 * np.cos(turns),
        Window.HAMMING: 0.54 - 0.46 * np.cos(turns),
    }
    padded = np.concatenate([sound * shape[window], np.zeros(12)])
    expected = [abs(sum(padded * np.exp(-2j * np.pi * k * np.arange(32) / 32))) for k in range(17)]
    np.testing.assert_allclose(Framer(step, None).apply(sound)[0], expected, rtol=1e-4, atol=1e-4)


def test_a_tone_is_loudest_in_the_mel_that_holds_it() -> None:
    step = FrameAudio(
        length=400, hop=160, window=Window.HANN, content=FrameContent.LOG_MELS, mels=40, low_hz=20, high_hz=4000
    )
    mels = Framer(step, RATE).apply(tone(1000).astype(np.float32))
    assert mels.shape == (23, 40)
    edges = 700 * (np.exp(np.linspace(1127 * np.log1p(20 / 700), 1127 * np.log1p(4000 / 700), 42) / 1127) - 1)
    loudest = int(mels.mean(axis=0).argmax())
    assert edges[loudest] < 1000 < edges[loudest + 2]


def test_mel_filters_are_triangles_with_a_top_of_one() -> None:
    step = FrameAudio(length=400, hop=160, mels=10, low_hz=100, high_hz=7000)
    filters = mel_filters(step, 4097, RATE)
    assert filters.shape == (4097, 10)
    assert filters.min() == 0.0
    np.testing.assert_allclose(filters.max(axis=0), 1.0, atol=0.02)
    # Between the first and the last top, what leaves one enters the next.
    tops = filters.argmax(axis=0)
    np.testing.assert_allclose(filters[tops[0] : tops[-1]].sum(axis=1), 1.0, atol=1e-4)


def test_silence_has_a_finite_loudness() -> None:
    step = FrameAudio(length=400, hop=160, content=FrameContent.LOG_MELS)
    assert np.isfinite(Framer(step, RATE).apply(np.zeros(16_000, np.float32))).all()


@pytest.mark.parametrize("content", FrameContent)
def test_attack_frames_that_would_fill_the_memory_are_refused(content: FrameContent) -> None:
    step = FrameAudio(length=400, hop=1, content=content)
    with pytest.raises(PipelineError, match="larger hop"):
        Framer(step, RATE).apply(np.zeros(60 * RATE, np.float32))
    assert len(Framer(step, RATE).apply(np.zeros(RATE, np.float32))) == RATE - 399
