"""The workbench of a search: makes the artifact of a recipe and measures it, each once, however often it is asked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import msgspec
from typing_extensions import override

from converters.failures import SchemeFailedError
from converters.judgement import cache, gate, parity, reference, search
from converters.judgement.answers import Answerer
from converters.judgement.search import Trial
from converters.quantization import quantize, sensitivity
from shared.errors import ModelFailedError, ModelLoadError
from shared.manifest import digest
from shared.runtime.interpreter import LiteRtInterpreter
from shared.runtime.pipeline import CompiledPipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from converters.data.datasets import Samples
    from converters.frontends.origin import Float
    from converters.judgement.cache import Cache
    from converters.judgement.reference import Comparison, Reference
    from converters.judgement.stopwatch import Stopwatch
    from shared.conversion import ConversionRequest, Recipe
    from shared.pipeline import PipelineSpec

    Tensor = NDArray[Any]

_MAX_CALIBRATION = 1000
"""More items move the measured ranges by nothing that shows, and each costs an invocation on slow kernels."""
_PROBES = 32
"""Items of the search split on which the sensitivity of layers is measured: one invocation for each layer and item."""
_FIRST_LOOK = 256
"""Samples that show of most bad candidates that they are bad."""


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """How much each layer suffers from quantization."""

    snr_db: dict[str, float]
    """By the name of its output tensor, the one first that costs the fewest bytes for what it saves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """What the work of a conversion is done with."""

    request: ConversionRequest
    kept: Cache
    program: str
    """Names the code and libraries that make and measure."""
    made: Float
    model: bytes
    """The float model that artifacts are made of."""
    pipeline: PipelineSpec
    """What stands before and after an artifact on a device."""
    calibration: Samples
    searched: Reference
    stopwatch: Stopwatch


class Inputs(Sequence["Tensor"]):
    """Items as the model is fed them, without batch axis, prepared when they are asked for: they may be large."""

    def __init__(self, samples: Samples, pipeline: CompiledPipeline, most: int) -> None:
        """Choose up to `most`, evenly over all: data often lies sorted by class."""
        step = max(1, -(-len(samples) // most))
        self._indexes = range(0, len(samples), step)
        self._samples = samples
        self._pipeline = pipeline

    @override
    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._indexes)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    @override
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        """Prepare one, or some."""
        if isinstance(index, slice):
            return [self._prepared(each) for each in self._indexes[index]]
        return self._prepared(self._indexes[index])

    def _prepared(self, index: int) -> Tensor:
        return self._pipeline.prepare(self._samples.item(index))


class Bench:
    """The real workbench."""

    def __init__(self, shop: Shop, progress: Callable[[str], None]) -> None:
        """Begin; the time for the search runs from here. `progress` is told of each recipe."""
        self._shop = shop
        self._progress = progress
        self._begin = time.monotonic()
        self.sensitivity: dict[str, float] = {}
        """Signal to noise (dB) of each layer quantized alone; empty until layers are ranked."""
        self._pipeline = CompiledPipeline(shop.pipeline, LiteRtInterpreter(shop.model, threads=1))

    def in_time(self) -> bool:
        """Whether the time that the request gives is not used up."""
        return time.monotonic() - self._begin < self._shop.request.max_search_s

    def attempt(self, recipe: Recipe) -> Trial:
        """Make the artifact of a recipe and measure it on the search split."""
        self._progress(search.describe(recipe))
        shop = self._shop
        measure = (shop.searched.samples.digest, shop.request.budget, str(shop.request.threads), str(shop.stopwatch))
        key = cache.key("trial", *self._made_of(recipe), *measure)
        trial = shop.kept.get_struct(key, Trial)
        if trial is None:
            trial = self._tried(recipe)
            # What failed may have failed for want of memory, which is no fault of the recipe.
            if not trial.failed:
                shop.kept.put_struct(key, trial)
        return trial

    def content(self, recipe: Recipe) -> bytes:
        """Return the artifact of a recipe.

        Raises:
            SchemeFailedError: it cannot be made of this model.
        """
        key = cache.key("artifact", *self._made_of(recipe)) + ".tflite"
        content = self._shop.kept.get(key)
        if content is None:
            calibration = Inputs(self._shop.calibration, self._pipeline, _MAX_CALIBRATION)
            content = quantize.quantize(self._shop.model, recipe, calibration)
            self._shop.kept.put(key, content)
        return content

    def ranking(self) -> tuple[str, ...]:
        """Return the output tensors of the operators that quantization hurts, the best worth keeping first."""
        shop = self._shop
        self._progress("rank layers")
        key = cache.key("ranking", *self._made_of(None), shop.searched.samples.digest)
        ranking = shop.kept.get_struct(key, Ranking)
        if ranking is None:
            calibration = Inputs(shop.calibration, self._pipeline, _MAX_CALIBRATION)
            probes = Inputs(shop.searched.samples, self._pipeline, _PROBES)
            found = sensitivity.rank(shop.model, calibration, probes)
            # Noise for each number kept, not noise alone: of EfficientNet-lite0, 98 % agreement takes 6.4 MB in this
            # order and more than 8 MB in the other, which keeps the large classifier among the first.
            order = sorted(found, key=lambda layer: 10 ** (-layer.snr_db / 10) / max(layer.weights, 1), reverse=True)
            ranking = Ranking(snr_db={layer.output_tensor: layer.snr_db for layer in order})
            shop.kept.put_struct(key, ranking)
        self.sensitivity = ranking.snr_db
        return tuple(ranking.snr_db)

    def _made_of(self, recipe: Recipe | None) -> tuple[str | msgspec.Struct | None, ...]:
        """Return all that decides what comes out; where images go in, the model itself tells how they are scaled."""
        shop = self._shop
        return shop.program, shop.made.key, digest(shop.model), shop.calibration.digest, shop.pipeline, recipe

    def measured(self, recipe: Recipe, content: bytes) -> Trial:
        """Measure an artifact on the search split.

        Raises:
            ModelLoadError: it does not load.
            ModelFailedError: it breaks on an item.
        """
        compared = self._compared(content)
        timing = self._shop.stopwatch.time(content, Inputs(self._shop.searched.samples, self._pipeline, 1)[0])
        return msgspec.structs.replace(
            self._trial(recipe, compared),
            sha256=digest(content),
            length_bytes=len(content),
            latency_ms=timing.median_ms,
            latency_p95_ms=timing.p95_ms,
        )

    def _tried(self, recipe: Recipe) -> Trial:
        try:
            return self.measured(recipe, self.content(recipe))
        except SchemeFailedError as exc:
            return Trial(recipe=recipe, failed=str(exc))
        except (ModelLoadError, ModelFailedError) as exc:
            return Trial(recipe=recipe, failed=f"what was made does not run: {exc}")

    def _compared(self, content: bytes) -> Comparison:
        request, searched = self._shop.request, self._shop.searched
        with Answerer(
            content, self._shop.pipeline, cores=request.threads, stateful=self._shop.made.stateful
        ) as answerer:
            if len(searched.samples) > 2 * _FIRST_LOOK:
                first = reference.compare(searched, answerer.over(searched.samples, _FIRST_LOOK))
                if self._is_hopeless(first):
                    return first
            return reference.compare(searched, answerer.over(searched.samples))

    def _is_hopeless(self, first: Comparison) -> bool:
        budget, searched = self._shop.request.budget, self._shop.searched
        if first.parity.not_finite:
            return True
        evidence = searched.evidence(first.answers, budget.confident)
        drop = gate.paired_drop(evidence, budget.max_drop, gate.CHANCE)
        won = (drop.discordant - round(drop.drop * drop.samples)) // 2
        allowed = 1 - budget.min_agreement if evidence.labels is None else budget.max_drop
        return search.hopeless(drop.samples, drop.discordant - won, won, allowed)

    def _trial(self, recipe: Recipe, compared: Comparison) -> Trial:
        budget = self._shop.request.budget
        evidence = self._shop.searched.evidence(compared.answers, budget.confident)
        accuracy = gate.accuracy(evidence)
        report = gate.report(evidence, (), (), budget.max_drop, gate.CHANCE)
        return Trial(
            recipe=recipe,
            broken=parity.refusal(compared.parity, recipe.scheme, accuracy.samples),
            samples=accuracy.samples,
            agreement=accuracy.agreement,
            confident_agreement=report.confident_agreement,
            accuracy=accuracy.artifact if accuracy.labelled else None,
            drop=accuracy.source - accuracy.artifact,
            snr_db=compared.parity.snr_db,
        )
