"""The folder of which `docker build` makes a server of one release: the agent's own image, and the release on top.

The first stages are Dockerfile.agent, word for word, with all that it copies; so the server is built as the agent is,
from the same locks. The last stage verifies the release when the image is built, and its command whenever it starts.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from controller import image_texts
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from controller.views import ExportView
    from shared.wire import DesiredComponent

DOCKERFILE: Final = "Dockerfile.agent"
EXPORTED: Final = "exported"
"""Folder of the release in the context."""
_FROM = re.compile(r"^FROM (?P<image>\S+)(?P<name> AS \S+)?$", re.MULTILINE)
_COPY = re.compile(r"^COPY (?P<words>(?:.*\\\n)*.*)$", re.MULTILINE)
_UNWANTED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "node_modules")


def default_source() -> Path:
    """Return the checkout that this program runs from, wherever Dockerfile.agent lies beside it."""
    return Path(__file__).parents[1]


def check_target(folder: Path) -> None:
    """Refuse a folder that holds something. Raises InvalidInputError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInputError(
            field="--image-context", problem=f"{folder} is not empty", remedy="name a folder that is not there yet"
        )


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Yield another folder to write into: all of it is in `folder` when the block ends well, and else nothing is.

    Raises OSError.
    """
    # A folder that is there may be a mount, which nothing can be renamed to: it is filled from within.
    is_there = folder.exists()
    beside = folder if is_there else folder.absolute().parent
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=beside, prefix=".unfinished-") as staging:
        # Not the staging folder itself, which nobody else may read.
        made = Path(staging) / "made"
        made.mkdir()
        yield made
        if is_there:
            for each in sorted(made.iterdir()):
                each.rename(folder / each.name)
        else:
            made.rename(folder)


def check_source(source: Path) -> None:
    """Refuse a checkout in which something is missing that the agent's image is built from. Raises InvalidInputError.

    An installed program has no checkout beside it: it has neither the recipe nor the locks.
    """
    recipe = source / DOCKERFILE
    needed = copied(recipe.read_text(encoding="utf-8")) if recipe.is_file() else (DOCKERFILE,)
    if missing := [name for name in needed if not (source / name).exists()]:
        raise InvalidInputError(
            field="--source",
            problem=f"{source} has no {', '.join(missing)}",
            remedy=f"name a checkout of litefleet, with {DOCKERFILE}",
        )


def write_source(source: Path, folder: Path) -> None:
    """Copy what the agent's image is built from. Raises OSError, or InvalidInputError for what part of it failed."""
    for name in copied((source / DOCKERFILE).read_text(encoding="utf-8")):
        _copy(source / name, folder / name)


def write_recipe(source: Path, folder: Path, export: ExportView) -> None:
    """Write Dockerfile, settings and README."""
    wanted = export.wanted
    words = {"root_sha256": export.root_sha256, "model": wanted.model, "release": wanted.release_id}
    built = based_on((source / DOCKERFILE).read_text(encoding="utf-8"))
    (folder / "Dockerfile").write_text(built + _filled(image_texts.STAGE, words), encoding="utf-8")
    (folder / "README.md").write_text(_filled(image_texts.README, words), encoding="utf-8")
    (folder / EXPORTED / "agent.toml").write_text(image_texts.SETTINGS, encoding="utf-8")


def write_trust(folder: Path, export: ExportView) -> None:
    """Write what vouches for the release, and its description; its files come beside them."""
    exported = folder / EXPORTED
    for name in ("trust", "release/components"):
        (exported / name).mkdir(parents=True, exist_ok=True)
    for name, text in export.documents.items():
        # A controller that somebody took over must not choose where we write.
        if Path(name).name != name:
            raise InvalidInputError(field="documents", problem=f"{name!r} is no file name")
        (exported / "trust" / name).write_bytes(text.encode())
    (exported / "release.json").write_bytes(msgspec.json.encode(export.wanted))


def components_of(export: ExportView) -> Sequence[DesiredComponent]:
    """Return the models of other releases that the release runs too."""
    components = export.wanted.components
    return () if isinstance(components, msgspec.UnsetType) else components


def copied(recipe: str) -> tuple[str, ...]:
    """Return what a Dockerfile copies out of its context, each path once."""
    found: dict[str, None] = {}
    for match in _COPY.finditer(recipe):
        words = [word for word in match["words"].replace("\\\n", " ").split() if word]
        if any(word.startswith("--from=") for word in words):
            continue
        plain = [word for word in words if not word.startswith("--")]
        found.update(dict.fromkeys(word.rstrip("/") for word in plain[:-1]))
    return tuple(found)


def based_on(recipe: str) -> str:
    """Return a Dockerfile whose last stage is called `agent`, so that another can begin from it."""
    last = [*_FROM.finditer(recipe)][-1]
    return recipe[: last.start()] + f"FROM {last['image']} AS agent" + recipe[last.end() :].rstrip() + "\n"


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        try:
            shutil.copytree(source, target, ignore=_UNWANTED, dirs_exist_ok=True)
        except shutil.Error as exc:
            # It goes on after a failure and tells all of them, without a word on the whole; the first is the reason.
            file, _, why = exc.args[0][0]
            raise InvalidInputError(field=str(file), problem=f"cannot be copied: {why}") from exc
    else:
        shutil.copy2(source, target)


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text
