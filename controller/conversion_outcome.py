"""What conversions leave behind becomes blobs; no path and no digest of a conversion program is believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from controller.registry.core.types import Card
from shared.conversion_process import crashed

if TYPE_CHECKING:
    from pathlib import Path

    from controller.blobs import Blobs
    from shared.conversion import ConversionResult, ConvertedArtifact

log = structlog.get_logger(__name__)

# Plots of a few hundred layers, drawn as pictures within the page.
_MAX_CARD_BYTES = 32 * 1024 * 1024


async def keep(blobs: Blobs, result: ConversionResult, out: Path) -> tuple[ConversionResult, Card | None]:
    """Take the passing artifacts and the card among the blobs; `out` is the folder where all of them must lie.

    Raises:
        StorageFullError: no room for them.
    """
    for artifact in result.artifacts:
        if artifact.refused:
            continue
        problem = await _keep_one(blobs, artifact, out)
        if problem:
            return crashed(f"artifact {artifact.scheme}: {problem}"), None
    if not result.card_path:
        return result, None
    card = out / result.card_path
    page = card.with_suffix(".html")
    for path in (card, page):
        problem = _not_a_file(path, out)
        if problem or path.stat().st_size > _MAX_CARD_BYTES:
            # The artifacts stand for themselves; what only describes them may be missing.
            log.warning("card_not_kept", path=path.name, problem=problem or f"over {_MAX_CARD_BYTES} bytes")
            return result, None
    return result, Card(json_sha256=await blobs.put_file(card), page_sha256=await blobs.put_file(page))


async def _keep_one(blobs: Blobs, artifact: ConvertedArtifact, out: Path) -> str:
    # A path that is absolute stands for itself.
    path = out / artifact.path
    problem = _not_a_file(path, out) or _not_as_long(path, artifact.length_bytes)
    if problem:
        return problem
    # Hashed while it is copied: the program cannot exchange the file between the check and the copy.
    sha256 = await blobs.put_file(path)
    return "" if sha256 == artifact.sha256 else f"its sha256 is {sha256}, not {artifact.sha256}"


def _not_a_file(path: Path, out: Path) -> str:
    if path.is_symlink() or not path.is_file() or out.resolve() not in path.resolve().parents:
        return "its path is no file in the scratch folder"
    return ""


def _not_as_long(path: Path, length_bytes: int) -> str:
    size_bytes = path.stat().st_size
    return "" if size_bytes == length_bytes else f"it has {size_bytes} bytes, not {length_bytes}"
