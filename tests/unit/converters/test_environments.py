from __future__ import annotations

import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest

from converters.environments import Environment, locate, of_format
from converters.environments.installed import remove, states
from converters.environments.located import ROOT_VARIABLE, fingerprint, folder_of, lock_path, root_folder
from shared.conversion import SourceFormat
from shared.errors import InvalidInputError

INSTALLABLE = [environment for environment in Environment if environment is not Environment.BASE]


def distribution(site: Path, name: str, version: str) -> None:
    """Leave of a distribution what an installer leaves, and no code."""
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def environment_at(folder: Path, *, python_version: str = "3.11.9") -> Path:
    """Make what looks like an installed environment, and return where its packages are."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {python_version}\n")
    site = folder / "lib" / "python3.11" / "site-packages"
    distribution(site, "torch", "2.13.0")
    return site


def test_fingerprint_of_the_same_packages_in_other_places_is_the_same(tmp_path: Path) -> None:
    for place in ("one", "other"):
        distribution(tmp_path / place, "Keras", "3.15.1")
        distribution(tmp_path / place, "numpy", "2.4.6")
    prints = {fingerprint([str(tmp_path / place)], "3.11.7") for place in ("one", "other")}
    assert len(prints) == 1


def test_fingerprint_of_a_real_environment_changes_with_one_library_version(tmp_path: Path) -> None:
    for found in metadata.distributions(path=sys.path):
        distribution_folder = tmp_path / f"{found.metadata['Name']}-{found.version}.dist-info"
        distribution_folder.mkdir(exist_ok=True)
        (distribution_folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {found.metadata['Name']}\nVersion: {found.version}\n"
        )
    before = fingerprint([str(tmp_path)], "3.11.7")
    assert before == fingerprint([str(tmp_path)], "3.11.7")
    (numpy,) = tmp_path.glob("numpy-*.dist-info")
    shutil.rmtree(numpy)
    distribution(tmp_path, "numpy", "9.9.9")
    assert fingerprint([str(tmp_path)], "3.11.7") != before


def test_fingerprint_changes_with_the_python_version(tmp_path: Path) -> None:
    assert fingerprint([str(tmp_path)], "3.11.7") != fingerprint([str(tmp_path)], "3.12.0")


def test_missing_environment_is_refused_with_the_command_that_installs_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        locate(Environment.TORCH, tmp_path)
    assert caught.value.field == "environment"
    assert caught.value.remedy == "litefleet converters install torch"


def test_base_environment_is_the_running_interpreter(tmp_path: Path) -> None:
    assert locate(Environment.BASE, tmp_path).python == Path(sys.executable)


def test_installed_environment_is_found_and_known_by_its_own_packages(tmp_path: Path) -> None:
    site = environment_at(folder_of(Environment.TORCH, tmp_path))
    found = locate(Environment.TORCH, tmp_path)
    assert found.python == folder_of(Environment.TORCH, tmp_path) / "bin" / "python"
    distribution(site, "torchao", "0.18.0")
    assert locate(Environment.TORCH, tmp_path).fingerprint != found.fingerprint


def test_environment_whose_python_is_gone_counts_as_not_installed(tmp_path: Path) -> None:
    folder = folder_of(Environment.TORCH, tmp_path)
    environment_at(folder)
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to("/nowhere/python")
    with pytest.raises(InvalidInputError, match="not installed"):
        locate(Environment.TORCH, tmp_path)


def test_list_tells_installed_missing_and_outdated_apart(tmp_path: Path) -> None:
    environment_at(folder_of(Environment.TORCH, tmp_path))
    (tmp_path / "onnx-0123456789ab").mkdir()
    told = {state.environment: state for state in states(tmp_path)}
    assert [*told] == INSTALLABLE
    assert told[Environment.TORCH].installed
    assert not told[Environment.ONNX].installed
    assert told[Environment.ONNX].outdated == (str(tmp_path / "onnx-0123456789ab"),)


def test_remove_takes_the_environment_and_its_outdated_ones_and_no_other(tmp_path: Path) -> None:
    environment_at(folder_of(Environment.TORCH, tmp_path))
    environment_at(folder_of(Environment.JAX, tmp_path))
    (tmp_path / "torch-0123456789ab").mkdir()
    assert len(remove(Environment.TORCH, tmp_path)) == 2
    assert not any(tmp_path.glob("*torch-*/"))
    assert folder_of(Environment.JAX, tmp_path).is_dir()
    assert remove(Environment.TORCH, tmp_path) == ()


def test_every_format_has_an_environment_and_every_environment_a_lock() -> None:
    assert {of_format(source_format) for source_format in SourceFormat} < {*Environment}
    for environment in INSTALLABLE:
        text = lock_path(environment).read_text()
        assert "://" not in text
        pins = [line for line in text.splitlines() if line[:1].isalnum()]
        assert pins
        assert all("==" in pin for pin in pins)
        assert text.count("--hash=sha256:") >= len(pins)
        assert {"msgspec", "numpy"} <= {pin.partition("==")[0] for pin in pins}


def test_root_is_the_one_asked_for_else_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "named"))
    assert root_folder(tmp_path / "asked") == tmp_path / "asked"
    assert root_folder(None) == tmp_path / "named"
    monkeypatch.delenv(ROOT_VARIABLE)
    assert root_folder(None).parts[-3:] == (".cache", "litefleet", "workers")
