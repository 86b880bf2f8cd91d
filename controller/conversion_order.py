"""What an order of the registry asks of the conversion program, wherever that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.conversion import ConversionRequest

if TYPE_CHECKING:
    from controller.registry.core.types import Conversion, ModelVersion
    from shared.conversion_process import ConvertLimits


def request_of(conversion: Conversion, version: ModelVersion, limits: ConvertLimits) -> ConversionRequest:
    """Return the request, its paths empty: they are known to whoever lays the files out."""
    order = conversion.order
    return ConversionRequest(
        conversion_id=conversion.conversion_id,
        source_path="",
        source_name=f"{version.model}/{version.number} ({version.filename})",
        source_format=version.source_format,
        scratch_path="",
        dataset_path="",
        pipeline=order.pipeline,
        schemes=order.schemes,
        profiles=order.profiles,
        budget=order.budget,
        objective=order.objective,
        runtimes=order.runtimes,
        batch=order.batch,
        image_input=order.image_input,
        threads=limits.threads,
        # The rest of the time is for the source before it and the gate after it.
        max_search_s=limits.wall_s / 2,
    )
