"""Classic baselines: statistics of a window, or its embedding, and a scikit-learn classifier, used as a backbone is.

A trained classifier is kept as plain arrays, which are scored here: nothing of a model's folder is executed, loading
trains nothing, and no other version of scikit-learn changes the scores.
"""

import dataclasses
from functools import cached_property

import numpy as np
import scipy.fft
import scipy.sparse
import scipy.special

from paddletag import models, weights
from paddletag.frontend import FrontEnd
from paddletag.runtime import UserError, progress

DYNAMIC_RANGE = 80  # dB below a window's loudest band that its quietest are raised to, as librosa does
DEPTH = 1000  # of a decision tree, at most: those of real data stay below 100
NEGATIVE = -(2.0**-16)  # half a step of 16 bits: what a decoder leaves in silence crosses no zero


@dataclasses.dataclass(frozen=True)
class MfccFrontEnd(FrontEnd):
    """A log-mel whose last column is the zero-crossing rate: [frames, n_mels], n_mels - 1 of them bands.

    The rate is the share of the steps between samples that change sign, over one hop of samples around the frame's
    centre.
    """

    @cached_property
    def mel_bank(self):
        bands = FrontEnd(**{**self.to_dict(), "n_mels": self.n_mels - 1}).mel_bank
        return np.pad(bands, ((0, 0), (0, 1)))

    def log_mel(self, wave):
        log_mel = super().log_mel(wave)
        padded = np.pad(np.asarray(wave, np.float32), self.hop_length // 2, mode="reflect")
        negative = np.lib.stride_tricks.sliding_window_view(padded < NEGATIVE, self.hop_length)[:: self.hop_length]
        log_mel[:, -1] = (negative[: len(log_mel), 1:] != negative[: len(log_mel), :-1]).mean(axis=1)
        return log_mel


MFCC = MfccFrontEnd(
    name="mfcc", sample_rate=44100, n_fft=2048, win_length=2048, hop_length=512, n_mels=129, f_min=0.0, f_max=22050.0,
    mel_scale="slaney", periodic_window=True, pre_emphasis=0.0, log="db", floor=1e-10,
)  # fmt: skip
"""Piczak 2015 (doi 10.1145/2733373.2806390): librosa's defaults at ESC-50's own rate."""


def front_end(config):
    """The front end of a config: MFCC's for `classic.features mfcc`, else its backbone's."""
    if config.classic.classifier != "none" and config.classic.features == "mfcc":
        return MFCC.replace(**config.features.front_end)
    return models.front_end(config)


def statistics(log_mel):
    """Windows of MfccFrontEnd's [B, T, M] -> float64 [B, 26]: the features of Piczak 2015.

    The means over the frames of MFCCs 1 to 12 and of the zero-crossing rate, then their standard deviations.
    """
    decibels = log_mel[..., :-1].astype(np.float64)
    decibels = np.maximum(decibels, decibels.max(axis=(1, 2), keepdims=True) - DYNAMIC_RANGE)
    mfcc = scipy.fft.dct(decibels, norm="ortho")[..., 1:13]
    frames = np.concatenate([mfcc, log_mel[..., -1:]], axis=-1)
    return np.concatenate([frames.mean(axis=1), frames.std(axis=1)], axis=-1)


class Classic:
    """A classifier on features, with the interface of a backbone: log-mels [B, 1, T, F] or [B, 1, F, T] -> logits.

    The logits are the logarithms of the scores, so that a softmax gives the scores. backbone: makes the embeddings;
    None: the features are `statistics`. arrays: of `fit`; None: only `embed` is of use.
    """

    def __init__(self, front_end, backbone=None, classifier="", arrays=None):
        self.front_end, self.backbone, self.classifier, self.arrays = front_end, backbone, classifier, arrays
        self.layout = backbone.layout if backbone else "TF"

    def eval(self):
        if self.backbone:
            self.backbone.eval()

    def embed(self, x):
        """The features [B, D] that the classifier sees, a paddle tensor."""
        import paddle

        return self.backbone.embed(x) if self.backbone else paddle.to_tensor(statistics(x.squeeze(1).numpy()))

    def __call__(self, x):
        return self.classify(self.embed(x))

    def classify(self, embedding):
        """The logits of what `embed` gives."""
        import paddle

        found = scores(self.classifier, self.arrays, embedding.numpy())
        return paddle.to_tensor(np.log(np.maximum(found, 1e-30)).astype(np.float32))

    def to_arrays(self):
        """{name: array} that `load` takes: the classifier, and the backbone without its head."""
        state = self.backbone.state_dict() if self.backbone else {}
        kept = {f"backbone/{name}": tensor.numpy() for name, tensor in state.items() if name not in self.backbone.head}
        return {**{f"classifier/{name}": array for name, array in self.arrays.items()}, **kept}


def load(meta, arrays, front_end, path):
    """The model that `to_arrays` gave, with the meta data of its folder; `path` is for the text of a UserError."""
    parts = {"classifier": {}, "backbone": {}}
    try:
        for name, array in arrays.items():
            part, _, name = name.partition("/")
            parts[part][name] = array
        backbone = None
        if meta["classic"]["features"] == "embeddings":
            backbone = models.create_model(meta["classic"]["backbone"], 1)  # its head is not used
            state = {name: tensor for name, tensor in backbone.state_dict().items() if name not in backbone.head}
            weights.match(parts["backbone"], {name: tensor.shape for name, tensor in state.items()}, path)
            for name, tensor in state.items():
                tensor.set_value(parts["backbone"][name])
        model = Classic(front_end, backbone, meta["classic"]["classifier"], parts["classifier"])
        size = len(model.arrays["mean"])
        if scores(model.classifier, model.arrays, np.zeros((1, size))).shape != (1, len(meta["labels"])):
            raise ValueError("it scores another number of labels")
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise UserError(f"{path}: not a classic model ({error!r}): train it again") from None
    return model


def window_features(model, records, features, clip_seconds, batch_size, workers=0):
    """One row for each window that covers a clip of `records`: (the windows' clip ids, what `embed` gives [N, D])."""
    import paddle

    from paddletag import dataset, engine

    length = model.front_end.frames(model.front_end.samples(clip_seconds))
    named = [record["id"] for record in records]
    clips = progress(dataset.clips(named, features, workers), total=len(named), desc="features", unit="clip")
    ids, rows = [], []
    with paddle.no_grad():
        for keys, log_mel in dataset.windows(clips, length, batch_size):
            ids += keys
            rows.append(model.embed(engine.to_input(model, paddle.to_tensor(log_mel))).numpy())
    return ids, np.concatenate(rows)


def fit(classifier, rows, targets, labels, seed, standardise=True):
    """Fit to rows [N, D] whose labels are targets, int [N] below `labels`: {name: array} for `scores`.

    standardise: by the rows' own means and deviations. UserError for what the classifier cannot be fitted to.
    """
    rows = np.asarray(rows, np.float64)
    known, targets = np.unique(targets, return_inverse=True)  # with a list of labels, some may have no clip
    if len(known) < 2:
        raise UserError("classic.classifier: the training clips have one label: there is nothing to tell apart")
    deviation = rows.std(axis=0)
    common = {
        "mean": rows.mean(axis=0) if standardise else np.zeros(rows.shape[1]),
        "scale": np.where(deviation > 0, deviation, 1) if standardise else np.ones(rows.shape[1]),
        "columns": np.eye(labels)[known],  # where the known labels stand among all: [known, labels]
    }
    return {**common, **_FIT[classifier]((rows - common["mean"]) / common["scale"], targets, seed)}


def scores(classifier, arrays, rows):
    """Rows [N, D] -> float64 [N, labels], each row's scores adding up to 1."""
    rows = (np.asarray(rows, np.float64) - arrays["mean"]) / arrays["scale"]
    return _SCORE[classifier](arrays, rows) @ arrays["columns"]


def _fit_knn(rows, targets, seed):
    return {"rows": rows, "targets": np.eye(targets.max() + 1)[targets]}


def _score_knn(arrays, rows, k=8):
    """The labels' shares of the k nearest rows."""
    known = arrays["rows"]
    distances = (rows**2).sum(1)[:, None] - 2 * rows @ known.T + (known**2).sum(1)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return arrays["targets"][nearest].mean(axis=1)


def _fit_logistic(rows, targets, seed):
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=5000).fit(rows, targets)
    coef, intercept = model.coef_, model.intercept_
    if len(coef) == 1:  # of two classes scikit-learn keeps the second alone
        coef, intercept = np.concatenate([0 * coef, coef]), np.append(0, intercept)
    return {"coef": coef, "intercept": intercept}


def _score_logistic(arrays, rows):
    return scipy.special.softmax(rows @ arrays["coef"].T + arrays["intercept"], axis=1)


def _fit_svm(rows, targets, seed):
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


def _score_svm(arrays, rows):
    pairs = rows @ arrays["coef"].T + arrays["intercept"]  # [N, classes * (classes - 1) / 2]
    slope, offset = arrays["sigmoids"].T
    if len(slope) == 1:  # two classes: positive for the second
        second = scipy.special.expit(-(slope * pairs + offset))
        return np.concatenate([1 - second, second], axis=1)
    if pairs.shape[1] != len(slope) * (len(slope) - 1) // 2:
        raise ValueError("the pairs are not those of its classes")
    first, second = np.triu_indices(len(slope), 1)
    one, row = np.ones(len(first)), np.arange(len(first))
    sides = scipy.sparse.csr_array(  # positive for the first; most of it is 0
        (np.append(one, -one), (np.append(row, row), np.append(first, second))), shape=(len(first), len(slope))
    )
    votes = (np.where(pairs < 0, -1, 1) @ sides + len(slope) - 1) / 2
    sums = pairs @ sides  # settle what is equal in votes
    found = scipy.special.expit(-(slope * (votes + sums / (3 * (np.abs(sums) + 1))) + offset))
    return found / np.maximum(found.sum(axis=1, keepdims=True), 1e-300)


def _fit_tree(rows, targets, seed):
    from sklearn.tree import DecisionTreeClassifier

    return _trees([DecisionTreeClassifier(random_state=seed).fit(rows, targets)])


def _fit_forest(rows, targets, seed):
    from sklearn.ensemble import RandomForestClassifier

    return _trees(RandomForestClassifier(500, random_state=seed).fit(rows, targets).estimators_)


def _trees(estimators):
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
    whole = dict(feature=feature, left=left, right=right, roots=roots, row=shares.indptr, column=shares.indices)
    whole = {name: np.asarray(array, np.int32) for name, array in whole.items()}
    return {**whole, "threshold": threshold, "share": shares.data}


def _score_trees(arrays, rows):
    """The mean over the trees of the classes' shares in the leaf that a row falls into."""
    rows = rows.astype(np.float32)  # as scikit-learn compares them
    node = np.tile(arrays["roots"], (len(rows), 1))  # [N, trees]
    for _ in range(DEPTH):
        value = np.take_along_axis(rows, arrays["feature"][node], axis=1)
        below = np.where(value <= arrays["threshold"][node], arrays["left"][node], arrays["right"][node])
        if (below == node).all():
            break
        node = below
    size, trees = (len(arrays["feature"]), len(arrays["columns"])), node.shape[1]
    shares = scipy.sparse.csr_array((arrays["share"], arrays["column"], arrays["row"]), shape=size)
    chosen = np.full(node.size, 1 / trees), node.ravel(), np.arange(0, node.size + 1, trees)
    chosen = scipy.sparse.csr_array(chosen, shape=(len(rows), size[0]))
    for matrix in (shares, chosen):  # scipy would follow a wrong index of a damaged file out of the array
        matrix.check_format(full_check=True)
    return (chosen @ shares).toarray()


_FIT = {"knn": _fit_knn, "svm": _fit_svm, "forest": _fit_forest, "tree": _fit_tree, "logistic": _fit_logistic}
_SCORE = {
    "knn": _score_knn, "svm": _score_svm, "forest": _score_trees, "tree": _score_trees, "logistic": _score_logistic,
}  # fmt: skip
