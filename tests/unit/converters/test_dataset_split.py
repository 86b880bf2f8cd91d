"""One file of samples, cut into the splits of a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from converters.dataset_split import cut, main
from shared.dataset import Split
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

SHARES = (0.1, 0.3, 0.6)


def _digits(count: int = 1000) -> dict[str, np.ndarray]:
    labels = np.sort(np.random.default_rng(1).integers(0, 10, count))
    return {"x": np.arange(count), "y": labels}


def test_cut_gives_every_sample_to_one_split() -> None:
    splits = cut(_digits(), seed=0, shares=SHARES)
    assert [len(splits[split]["x"]) for split in Split] == [100, 300, 600]
    together = np.concatenate([splits[split]["x"] for split in Split])
    assert sorted(together) == list(range(1000))


def test_cut_keeps_labels_beside_their_samples() -> None:
    arrays = _digits()
    for part in cut(arrays, seed=3, shares=SHARES).values():
        assert (arrays["y"][part["x"]] == part["y"]).all()


def test_cut_gives_every_split_its_share_of_each_class() -> None:
    arrays = _digits()
    whole = np.bincount(arrays["y"], minlength=10)
    for split, share in zip(Split, SHARES, strict=True):
        found = np.bincount(cut(arrays, seed=0, shares=SHARES)[split]["y"], minlength=10)
        assert (np.abs(found - share * whole) <= 2).all()


@pytest.mark.parametrize("count", [3, 4, 7])
def test_cut_of_few_leaves_no_split_empty(count: int) -> None:
    splits = cut({"x": np.arange(count)}, seed=0, shares=SHARES)
    assert min(len(part["x"]) for part in splits.values()) >= 1


@pytest.mark.parametrize(
    ("arrays", "shares", "field"),
    [
        ({"y": np.arange(9)}, SHARES, "x"),
        ({"x": np.arange(9), "y": np.arange(8)}, SHARES, "y"),
        ({"x": np.arange(2)}, SHARES, "x"),
        ({"x": np.arange(9)}, (0.5, 0.5), "shares"),
        ({"x": np.arange(9)}, (0.5, 0.6, -0.1), "shares"),
        ({"x": np.arange(9)}, (0.5, 0.5, 0.5), "shares"),
    ],
)
def test_cut_of_what_does_not_fit_is_refused(
    arrays: dict[str, np.ndarray], shares: tuple[float, ...], field: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"^{field}"):
        cut(arrays, seed=0, shares=shares)


def test_program_writes_the_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    arrays = _digits(50)
    np.savez(tmp_path / "all.npz", x=arrays["x"], y=arrays["y"])
    for name in ("a", "b"):
        assert main([str(tmp_path / "all.npz"), "--out", str(tmp_path / name)]) == 0
    assert main([str(tmp_path / "all.npz"), "--out", str(tmp_path / "c"), "--seed", "1"]) == 0
    gates = [(tmp_path / name / "gate.npz").read_bytes() for name in ("a", "b", "c")]
    assert (gates[0] == gates[1], gates[0] == gates[2]) == (True, False)


def test_attack_pickled_objects_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "all.npz", x=np.array([{}, {}, {}], dtype=object))
    assert main([str(tmp_path / "all.npz"), "--out", str(tmp_path / "out")]) == 2
    assert "no readable .npz" in capsys.readouterr().err
