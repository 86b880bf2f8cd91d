"""`sklearn_decisions.py FOLDER`: fits scikit-learn on real data, converts, and writes as JSON how both answer.

Half of each data set trains; all of it is asked. Two of the files stay in the folder, for the worker.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import Lasso, LinearRegression, LogisticRegression, Ridge, RidgeClassifier, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from converters.loaders.sklearn import open_source
from shared.runtime.interpreter import LiteRtInterpreter

Model = Any
Tensor = Any
SEED = 3


def classifiers() -> dict[str, Model]:
    return {
        "logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
        "network": make_pipeline(MinMaxScaler(clip=True), MLPClassifier((32,), max_iter=40, random_state=SEED)),
        "svm_rbf": make_pipeline(RobustScaler(), PCA(4), SVC()),
        "svm_poly": SVC(kernel="poly"),
        "svm_linear": SVC(kernel="linear"),
        "linear_svm": make_pipeline(MaxAbsScaler(), LinearSVC()),
        "sgd": make_pipeline(Normalizer(), TruncatedSVD(4), SGDClassifier(loss="log_loss", random_state=SEED)),
        "ridge": RidgeClassifier(),
        "bayes": GaussianNB(),
        "tree": DecisionTreeClassifier(random_state=SEED),
        "forest": make_pipeline(StandardScaler(), RandomForestClassifier(30, random_state=SEED)),
        "extra_trees": make_pipeline(MinMaxScaler(), RobustScaler(), ExtraTreesClassifier(20, random_state=SEED)),
        "whitened_forest": make_pipeline(PCA(4, whiten=True), RandomForestClassifier(10, random_state=SEED)),
        "selected_forest": make_pipeline(SelectKBest(k=4), RandomForestClassifier(10, random_state=SEED)),
        "boosting": GradientBoostingClassifier(n_estimators=8, random_state=SEED),
        "histogram_boosting": make_pipeline(RobustScaler(), HistGradientBoostingClassifier(max_iter=8)),
    }


def regressors() -> dict[str, Model]:
    return {
        "linear": LinearRegression(),
        "lasso": Lasso(0.1),
        "polynomial": make_pipeline(PolynomialFeatures(2), StandardScaler(), Ridge()),
        "svr": make_pipeline(StandardScaler(), SVR(C=100)),
        "network": make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(16,), random_state=SEED)),
        "tree": DecisionTreeRegressor(random_state=SEED),
        "forest": RandomForestRegressor(20, random_state=SEED),
        "boosting": GradientBoostingRegressor(n_estimators=20, random_state=SEED),
        "histogram_boosting": HistGradientBoostingRegressor(max_iter=20),
        "poisson": HistGradientBoostingRegressor(loss="poisson", max_iter=20),
    }


def compared(model: Model, path: Path, x: Tensor, batch: int | None) -> dict[str, float]:
    """Return the largest difference as a share of the larger of 1 and the largest answer, and equal decisions."""
    source = open_source(path, path)
    converted = source.to_tflite(batch)
    interpreter = LiteRtInterpreter(converted, threads=1)
    rows = [x] if batch is None else [x[index : index + 1] for index in range(len(x))]
    made = np.concatenate([interpreter.run([row])[0] for row in rows])
    (wanted,) = source.answer([x])
    found = {
        "difference": float(np.abs(made - wanted).max() / max(1.0, float(np.abs(wanted).max()))),
        "size_bytes": float(len(converted)),
        "decisions": 1.0,
    }
    if hasattr(model, "classes_"):
        decided = np.asarray(source.labels)[made.argmax(axis=1)]
        found["decisions"] = float((decided == model.predict(x).astype(str)).mean())
    return found


def main(folder: Path) -> None:
    data: dict[str, Any] = {
        "digits": load_digits(return_X_y=True),
        "cancer": load_breast_cancer(return_X_y=True),
        "iris": load_iris(return_X_y=True),
        "diabetes": load_diabetes(return_X_y=True),
    }
    found = {}
    for data_name, (rows, labels) in data.items():
        x = rows.astype(np.float32)
        for name, model in (regressors() if data_name == "diabetes" else classifiers()).items():
            model.fit(x[::2], labels[::2])
            path = folder / f"{data_name}_{name}.skops"
            skops.io.dump(model, path)
            for batch in (1, None):
                found[f"{data_name}_{name}_{'any' if batch is None else batch}"] = compared(model, path, x, batch)
        np.savez(folder / f"{data_name}.npz", x=x, y=labels)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
