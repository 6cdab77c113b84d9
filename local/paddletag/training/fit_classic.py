"""Scikit-learn's classifiers, fitted to the features of windows and kept as plain arrays (models/classic.py)."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from paddletag.models.classic import DEPTH
from paddletag.runtime import UserError, progress
from paddletag.type_aliases import Arrays, Record

if TYPE_CHECKING:
    from paddletag.features.feature_source import FeatureSource
    from paddletag.models.classic import Classic


def window_features(
    model: "Classic",
    records: Sequence[Record],
    features: "FeatureSource",
    clip_seconds: float,
    batch_size: int,
    workers: int = 0,
) -> tuple[list[str], np.ndarray]:
    """One row for each window that covers a clip of `records`: (the windows' clip ids, what `embed` gives [N, D])."""
    import paddle

    from paddletag.features.batches import read_clips, window_batches
    from paddletag.tagging import scoring

    length = model.front_end.frames(model.front_end.samples(clip_seconds))
    clip_ids = [record["id"] for record in records]
    clips = progress(read_clips(clip_ids, features, workers), total=len(clip_ids), desc="features", unit="clip")
    window_ids: list[str] = []
    rows: list[np.ndarray] = []
    with paddle.no_grad():
        for keys, log_mel in window_batches(clips, length, batch_size):
            window_ids += keys
            rows.append(model.embed(scoring.to_input(model, paddle.to_tensor(log_mel))).numpy())
    return window_ids, np.concatenate(rows)


def fit(
    classifier: str, rows: np.ndarray, targets: Sequence[int], labels: int, seed: int, standardise: bool = True
) -> Arrays:
    """Fit to rows [N, D] whose labels are targets, int [N] below `labels`: {name: array} for `scores`.

    standardise: by the rows' own means and deviations. UserError for what the classifier cannot be fitted to.
    """
    rows = np.asarray(rows, np.float64)
    occurring, numbers = np.unique(targets, return_inverse=True)  # with a list of labels, some may have no clip
    if len(occurring) < 2:
        raise UserError("classic.classifier: the training clips have one label: there is nothing to tell apart")
    deviation = rows.std(axis=0)
    common = {
        "mean": rows.mean(axis=0) if standardise else np.zeros(rows.shape[1]),
        "scale": np.where(deviation > 0, deviation, 1) if standardise else np.ones(rows.shape[1]),
        "columns": np.eye(labels)[occurring],  # where the labels that occur stand among all: [K, labels]
    }
    return {**common, **_FIT[classifier]((rows - common["mean"]) / common["scale"], numbers, seed)}


def _fit_knn(rows: np.ndarray, targets: np.ndarray, seed: int) -> Arrays:
    return {"rows": rows, "targets": np.eye(targets.max() + 1)[targets]}


def _fit_logistic(rows: np.ndarray, targets: np.ndarray, seed: int) -> Arrays:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=5000).fit(rows, targets)
    coef, intercept = model.coef_, model.intercept_
    if len(coef) == 1:  # of two classes scikit-learn keeps the second alone
        coef, intercept = np.concatenate([0 * coef, coef]), np.append(0, intercept)
    return {"coef": coef, "intercept": intercept}


def _fit_svm(rows: np.ndarray, targets: np.ndarray, seed: int) -> Arrays:
    """A linear SVM for each pair of classes, whose decisions Platt's sigmoids turn into probabilities.

    The sigmoids are fitted to clips that are held out of inner folds of the training clips.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import SVC

    folds = min(5, np.bincount(targets).min())
    if folds < 2:
        raise UserError("classic.classifier svm: needs two training clips of each label: choose another, or add clips")
    model = CalibratedClassifierCV(SVC(kernel="linear", C=0.1), cv=int(folds), ensemble=False).fit(rows, targets)
    fitted = model.calibrated_classifiers_[0]
    sigmoids = np.array([[sigmoid.a_, sigmoid.b_] for sigmoid in fitted.calibrators])
    return {"coef": fitted.estimator.coef_, "intercept": fitted.estimator.intercept_, "sigmoids": sigmoids}


def _fit_tree(rows: np.ndarray, targets: np.ndarray, seed: int) -> Arrays:
    from sklearn.tree import DecisionTreeClassifier

    return _trees([DecisionTreeClassifier(random_state=seed).fit(rows, targets)])


def _fit_forest(rows: np.ndarray, targets: np.ndarray, seed: int) -> Arrays:
    from sklearn.ensemble import RandomForestClassifier

    return _trees(RandomForestClassifier(500, random_state=seed).fit(rows, targets).estimators_)


def _trees(estimators: Sequence[Any]) -> Arrays:
    """Decision trees as one list of nodes; a leaf's children are itself."""
    parts, roots, count = [], [], 0
    for tree in (estimator.tree_ for estimator in estimators):
        if tree.max_depth >= DEPTH:
            raise UserError(f"classic.classifier: a tree of {tree.max_depth} levels: choose another classifier")
        nodes, leaf = np.arange(tree.node_count), tree.children_left < 0
        left, right = (np.where(leaf, nodes, child) + count for child in (tree.children_left, tree.children_right))
        counts = np.where(leaf[:, None], tree.value[:, 0], 0)  # numbers, or shares, of clips
        feature = np.maximum(tree.feature, 0)
        parts.append((feature, tree.threshold, left, right, counts / np.maximum(counts.sum(1, keepdims=True), 1e-300)))
        roots.append(count)
        count += tree.node_count
    feature, threshold, left, right, shares = map(np.concatenate, zip(*parts, strict=True))
    shares = scipy.sparse.csr_array(shares)  # most leaves hold one class
    integers = dict(feature=feature, left=left, right=right, roots=roots, row=shares.indptr, column=shares.indices)
    arrays = {name: np.asarray(array, np.int32) for name, array in integers.items()}
    return {**arrays, "threshold": threshold, "share": shares.data}


_FIT: dict[str, Callable[[np.ndarray, np.ndarray, int], Arrays]] = {
    "knn": _fit_knn,
    "svm": _fit_svm,
    "forest": _fit_forest,
    "tree": _fit_tree,
    "logistic": _fit_logistic,
}
