"""What artifacts are held against on one split: the source's own answers, and how sure it was of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.failures import ConversionFailedError
from converters.judgement import golden_cases, parity
from converters.judgement.answers import BLOCK, answer_all, confidence
from converters.judgement.gate import Evidence
from shared.conversion import FailureKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from converters.data.datasets import Samples
    from converters.judgement.answers import Block
    from shared.runtime.pipeline import CompiledPipeline

    Tensor = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """One split with the source's answers to it."""

    samples: Samples
    outputs: tuple[Tensor, ...]
    """`(N, Kᵢ)`: every output, flat and mapped."""
    scales: tuple[parity.Scale, ...]
    answers: NDArray[np.int64]
    """`(N,)`: what the source chooses, through the pipeline."""
    confidence: NDArray[np.float64]
    """`(N,)`, 0..1."""
    leads: NDArray[np.float32]
    """`(N,)`: by how much its best score leads its second."""
    classes: int
    """Numbers in one answer."""

    @property
    def truth(self) -> NDArray[np.int64]:
        """The labels or, without any, what the source says."""
        return self.answers if self.samples.labels is None else self.samples.labels

    def evidence(self, artifact: NDArray[np.int64], confident: float) -> Evidence:
        """Return both sides' answers to the first samples, as many as `artifact` has."""
        first = slice(len(artifact))
        labels, slices = self.samples.labels, self.samples.slices
        return Evidence(
            source=self.answers[first],
            artifact=artifact,
            sure=self.confidence[first] >= confident,
            labels=None if labels is None else labels[first],
            slices=None if slices is None else slices[first],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An artifact against the source, on the first samples of a split or all."""

    answers: NDArray[np.int64]
    """`(N,)` of the artifact; -1 where that is no number."""
    parity: parity.Parity


def refer(samples: Samples, outputs: Sequence[Tensor], pipeline: CompiledPipeline) -> Reference:
    """Take the source's `outputs`, `(N, Kᵢ)` each, for what is right.

    Raises:
        ConversionFailedError: some of them are no numbers.
    """
    scales = tuple(parity.scale_of(output) for output in outputs)
    broken = max(scale.not_finite for scale in scales)
    if broken:
        raise ConversionFailedError(
            FailureKind.BAD_INPUT,
            f"nan_outputs: the source model answers {broken} of {len(samples)} items of {samples.field} with NaN or "
            "infinity",
        )
    blocks = [pipeline.finish(np.asarray(block)) for block in _cut(outputs[0])]
    return Reference(
        samples=samples,
        outputs=tuple(outputs),
        scales=scales,
        answers=np.concatenate([answer_all(scores) for scores in blocks]),
        confidence=np.concatenate([confidence(scores) for scores in blocks]),
        leads=np.concatenate([golden_cases.lead(scores) for scores in blocks]),
        classes=int(blocks[0].shape[1]),
    )


def compare(reference: Reference, blocks: Iterator[Block]) -> Comparison:
    """Hold an artifact's answers, which begin at the first sample, against the source's."""
    tally, answers, done = parity.Tally(reference.scales), [], 0
    for block in blocks:
        size = len(block.scores)
        source = [output[done : done + size] for output in reference.outputs]
        tally.add(source, block.outputs)
        answers.append(answer_all(block.scores))
        done += size
    return Comparison(answers=np.concatenate(answers), parity=tally.parity())


def _cut(output: Tensor) -> Iterator[Tensor]:
    return (output[start : start + BLOCK] for start in range(0, len(output), BLOCK))
