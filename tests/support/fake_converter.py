"""A conversion program that misbehaves on demand: the first word of its "model" says how.

It stands in for a framework that meets a hostile model; it is run by path, as any conversion program is.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from shared.conversion import (
    Candidate,
    ConversionProgress,
    ConversionRequest,
    ConversionResult,
    ConvertedArtifact,
    FailureKind,
    Recipe,
)
from shared.ids import Sha256
from shared.manifest import Accuracy, GoldenCheck, Scheme, TensorSpec

_COUPLE = 2


def _say(line: ConversionProgress | ConversionResult) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


def _artifact(request: ConversionRequest, *, path: Path | None = None, sha256: str = "") -> ConvertedArtifact:
    content = b"a very small model " + request.conversion_id.encode()
    written = path or Path(request.scratch_path) / "small.tflite"
    if path is None:
        written.write_bytes(content)
    return ConvertedArtifact(
        scheme=Scheme.FULL_INT8,
        path=str(written),
        sha256=Sha256(sha256 or hashlib.sha256(content).hexdigest()),
        length_bytes=len(content) if path is None else path.stat().st_size,
        inputs=(TensorSpec(name="x", dtype="float32", shape=(-1, 4)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, 2)),),
        accuracy=Accuracy(samples=10, source=0.9, artifact=0.9, agreement=1.0),
        max_abs_diff=0.0,
        latency_ms=0.1,
        golden=GoldenCheck(cases=(), atol=0.1, rtol=0.1),
    )


def _good(request: ConversionRequest) -> None:
    _say(ConversionProgress(step="quantize", fraction=0.5))
    _say(ConversionResult(artifacts=(_artifact(request),), worker="fake 1"))


def _card(request: ConversionRequest) -> None:
    folder = Path(request.scratch_path)
    (folder / "card.json").write_text('{"name": "a card"}')
    (folder / "card.html").write_text("<!doctype html><title>a card</title>")
    recipe = Recipe(scheme=Scheme.FULL_INT8)
    tried = Candidate(
        recipe=recipe,
        sha256=Sha256("0" * 64),
        length_bytes=10,
        latency_ms=0.1,
        agreement=1.0,
        accuracy=0.9,
        snr_db=None,
        pareto=True,
        outcome="chosen: generic",
    )
    card = str(folder / "card.json")
    _say(ConversionResult(artifacts=(_artifact(request),), candidates=(tried,), card_path=card))


def _steal_card(request: ConversionRequest) -> None:
    for suffix in ("json", "html"):
        (Path(request.scratch_path) / f"card.{suffix}").symlink_to("/etc/passwd")
    card = str(Path(request.scratch_path) / "card.json")
    _say(ConversionResult(artifacts=(_artifact(request),), card_path=card))


def _describe(request: ConversionRequest) -> None:
    """Tell, as a failure's message, what was laid out."""
    folder = Path(request.dataset_path)
    laid_out = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    told = {
        "source": Path(request.source_path).name,
        "format": request.source_format,
        "dataset": laid_out,
        "max_drop": request.budget.max_drop,
        "objective": request.objective,
        "batch": request.batch,
        "runtimes": [f"{one.runtime}=={one.version}" for one in request.runtimes],
        "cache": Path(request.cache_path).is_dir(),
        "environments": Path(request.environments_path).name,
    }
    _say(ConversionResult(failure=FailureKind.BAD_INPUT, message=msgspec.json.encode(told).decode()))


def _escape(request: ConversionRequest) -> None:
    # In a session of its own, as a front end's worker is.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path(request.source_path).resolve().with_name("hung.pid").write_text(f"{os.getpid()} {child.pid}")
    _say(ConversionProgress(step="escape", fraction=0.1))
    time.sleep(600)


def _memory(_request: ConversionRequest) -> None:
    held = [bytearray(64 * 1024 * 1024) for _ in range(10_000)]
    sys.exit(len(held))


def _spin(_request: ConversionRequest) -> None:
    while True:
        pass


def _hang(request: ConversionRequest) -> None:
    # A child that keeps the pipe open, as a framework's own worker would.
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(request.source_path).resolve().with_name("hung.pid").write_text(f"{os.getpid()} {child.pid}")
    _say(ConversionProgress(step="hang", fraction=0.1))
    time.sleep(600)


def _hang_first(request: ConversionRequest, flag: Path) -> None:
    """Hang in the first process that comes this way, and be good in the next."""
    try:
        flag.touch(exist_ok=False)
    except FileExistsError:
        _good(request)
    else:
        _hang(request)


def _meet(request: ConversionRequest, place: Path) -> None:
    """Wait for another conversion to come to the same place."""
    (place / request.conversion_id).touch()
    while len(list(place.iterdir())) < _COUPLE:
        time.sleep(0.02)
    _good(request)


def _file(request: ConversionRequest) -> None:
    with (Path(request.scratch_path) / "large").open("wb") as large:
        while True:
            large.write(bytes(1024 * 1024))
            large.flush()


def _babble(_request: ConversionRequest) -> None:
    sys.stdout.write("Loading TensorFlow…\n")


def _silent(_request: ConversionRequest) -> None:
    sys.stderr.write("giving up without a word\n")
    sys.exit(3)


def _segfault(_request: ConversionRequest) -> None:
    os.kill(os.getpid(), 11)


def _mumble(_request: ConversionRequest) -> None:
    _say(ConversionProgress(step="\0 step" * 100, fraction=0.5))
    _say(ConversionResult(failure=FailureKind.BAD_INPUT, message="bad\0 input"))


def _lie(request: ConversionRequest) -> None:
    _say(ConversionResult(artifacts=(_artifact(request, sha256="0" * 64),)))


def _steal(request: ConversionRequest) -> None:
    _say(ConversionResult(artifacts=(_artifact(request, path=Path("/etc/passwd")),)))


def _link(request: ConversionRequest) -> None:
    link = Path(request.scratch_path) / "link.tflite"
    link.symlink_to("/etc/passwd")
    _say(ConversionResult(artifacts=(_artifact(request, path=link),)))


def _environment(_request: ConversionRequest) -> None:
    seen = [name for name in os.environ if name.startswith("LITEFLEET_")]
    seen += [] if sys.flags.safe_path else ["the folder that it was started in"]
    _say(ConversionResult(message=f"sees {seen}"))


def main() -> None:
    """Read the request and do as the model's content says."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=ConversionRequest)
    behaviours = {
        "good": _good,
        "card": _card,
        "steal-card": _steal_card,
        "describe": _describe,
        "escape": _escape,
        "memory": _memory,
        "spin": _spin,
        "hang": _hang,
        "file": _file,
        "babble": _babble,
        "silent": _silent,
        "segfault": _segfault,
        "lie": _lie,
        "mumble": _mumble,
        "steal": _steal,
        "link": _link,
        "environment": _environment,
    }
    at_a_place = {"hang-first": _hang_first, "meet": _meet}
    word, *rest = Path(request.source_path).read_text(encoding="ascii").split(maxsplit=1)
    if word in at_a_place:
        at_a_place[word](request, Path(rest[0]))
    else:
        behaviours[word](request)


if __name__ == "__main__":
    main()
