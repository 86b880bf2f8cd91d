"""`sklearn_refused.py FOLDER`: writes `.skops` files that must be refused, and their names to stdout."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from sklearn.ensemble import AdaBoostClassifier, HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor


def with_children(model: DecisionTreeClassifier, path: Path, node: int, child: int) -> None:
    """Save a tree whose `node` leads to `child` on its left."""
    content = io.BytesIO(skops.io.dumps(model))
    with zipfile.ZipFile(content) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.infolist():
            data = source.read(member)
            if member.filename.endswith(".npy"):
                array = np.load(io.BytesIO(data))
                if array.dtype.names is not None and "left_child" in array.dtype.names:
                    array = array.copy()
                    array["left_child"][node] = child
                    changed = io.BytesIO()
                    np.save(changed, array)
                    data = changed.getvalue()
            target.writestr(member, data)


def main(folder: Path) -> None:
    random = np.random.default_rng(5)
    x = random.normal(size=(60, 4))
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    several = DecisionTreeRegressor(max_depth=2).fit(x, x[:, :2])
    whole = (x * 2).astype(int)
    models: dict[str, Any] = {
        "ada_boost": AdaBoostClassifier(n_estimators=3).fit(x, y),
        "text": make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["red", "blue"] * 4, [0, 1] * 4),
        "own_function": make_pipeline(FunctionTransformer(np.log1p), LogisticRegression()).fit(np.abs(x), y),
        "categories": HistGradientBoostingRegressor(max_iter=2, categorical_features=[0]).fit(np.abs(whole), y),
        "several_targets": several,
        "not_fitted": LogisticRegression(),
    }
    for name, model in models.items():
        skops.io.dump(model, folder / name)
    tree = DecisionTreeClassifier(random_state=1).fit(x, y)
    with_children(tree, folder / "endless_tree", 2, 1)
    with_children(tree, folder / "shared_branch", 0, int(tree.tree_.node_count) - 1)
    sys.stdout.write(" ".join([*models, "endless_tree", "shared_branch"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
