from __future__ import annotations

from agent.serving.recorder import GONE_KEPT, Recorder
from shared.ids import BootId, ModelName, ReleaseId

DIGITS = ModelName("digits")


def test_recorder_of_a_long_life_keeps_what_is_held_and_what_left_last() -> None:
    recorder = Recorder(BootId("serving-1"))
    names = [ReleaseId(f"r{number}") for number in range(GONE_KEPT + 10)]
    for name in names:
        recorder.series(DIGITS, name).failed(took_s=0.1)
        recorder.pairs(DIGITS, candidate=name, stable=names[0])
    recorder.forget_gone({names[0]})
    stats = recorder.stats()
    assert [series.release_id for series in stats.series] == [names[0], *names[-GONE_KEPT:]]
    assert [pair.candidate for pair in stats.pairs] == [names[0], *names[-GONE_KEPT:]]


def test_recorder_forgets_nothing_while_few_have_left() -> None:
    recorder = Recorder(BootId("serving-1"))
    recorder.series(DIGITS, ReleaseId("gone")).failed(took_s=0.1)
    recorder.forget_gone(())
    assert [series.counts["requests"] for series in recorder.stats().series] == [1]
