"""Classic baselines: statistics of a window, or its embedding, and a scikit-learn classifier, used as a backbone is.

A trained classifier is kept as plain arrays, which are scored here: nothing of a model's folder is executed, loading
trains nothing, and no other version of scikit-learn changes the scores.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from paddletag.features import mfcc
from paddletag.features.frontend import FrontEnd
from paddletag.models import pretrained_weights, registry
from paddletag.runtime import UserError
from paddletag.type_aliases import Arrays, File, Meta

if TYPE_CHECKING:
    import paddle

    from paddletag.models.backbone import Backbone

DEPTH = 1000  # of a decision tree, at most: those of real data stay below 100


class Classic:
    """A classifier on features, with the interface of a backbone: log-mels [B, 1, T, F] or [B, 1, F, T] -> logits.

    The logits are the logarithms of the scores, so that a softmax gives the scores. front_end: what the log-mels come
    from. backbone: makes the embeddings; None: the features are `mfcc.statistics`. classifier, arrays: of
    `fit_classic.fit`; without arrays only `embed` is of use.
    """

    def __init__(
        self,
        front_end: FrontEnd,
        backbone: "Backbone | None" = None,
        classifier: str = "",
        arrays: Arrays | None = None,
    ) -> None:
        self.front_end, self.backbone, self.classifier, self.arrays = front_end, backbone, classifier, arrays or {}

    @property
    def layout(self) -> str:
        """That of the log-mels: TF is [B, 1, T, F], FT is [B, 1, F, T]."""
        return self.backbone.layout if self.backbone else "TF"

    def eval(self) -> None:
        """Put the backbone into evaluation mode, as a paddle layer's `eval` does."""
        if self.backbone:
            self.backbone.eval()

    def embed(self, x: "paddle.Tensor") -> "paddle.Tensor":
        """Log-mels -> the features [B, D] that the classifier sees."""
        import paddle

        return self.backbone.embed(x) if self.backbone else paddle.to_tensor(mfcc.statistics(x.squeeze(1).numpy()))

    def __call__(self, x: "paddle.Tensor") -> "paddle.Tensor":
        return self.classify(self.embed(x))

    def classify(self, embedding: "paddle.Tensor") -> "paddle.Tensor":
        """What `embed` gives [B, D] -> logits [B, labels]."""
        import paddle

        rows = scores(self.classifier, self.arrays, embedding.numpy())
        return paddle.to_tensor(np.log(np.maximum(rows, 1e-30)).astype(np.float32))

    def to_arrays(self) -> Arrays:
        """{name: array} that `load` takes: the classifier, and the backbone without its head."""
        state = _body(self.backbone) if self.backbone else {}
        kept = {f"backbone/{name}": tensor.numpy() for name, tensor in state.items()}
        return {**{f"classifier/{name}": array for name, array in self.arrays.items()}, **kept}


def _body(backbone: "Backbone") -> "dict[str, paddle.Tensor]":
    """The state of a backbone without its head, which is not used."""
    return {name: tensor for name, tensor in backbone.state_dict().items() if name not in backbone.head}


def load(meta: Meta, arrays: Arrays, front_end: FrontEnd, path: File) -> Classic:
    """The model that `to_arrays` gave, with the meta data of its folder. UserError, which names `path`, for others."""
    groups: dict[str, Arrays] = {"classifier": {}, "backbone": {}}
    try:
        for name, array in arrays.items():
            group, _, name = name.partition("/")
            groups[group][name] = array
        backbone = None
        if meta["classic"]["features"] == "embeddings":
            backbone = registry.create_model(meta["classic"]["backbone"], 1)
            state = _body(backbone)
            pretrained_weights.require_match(
                groups["backbone"], {name: tensor.shape for name, tensor in state.items()}, path
            )
            for name, tensor in state.items():
                tensor.set_value(groups["backbone"][name])
        model = Classic(front_end, backbone, meta["classic"]["classifier"], groups["classifier"])
        size = len(model.arrays["mean"])
        if scores(model.classifier, model.arrays, np.zeros((1, size))).shape != (1, len(meta["labels"])):
            raise ValueError("it scores another number of labels")
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise UserError(f"{path}: not a classic model ({error!r}): train it again") from None
    return model


def scores(classifier: str, arrays: Arrays, rows: np.ndarray) -> np.ndarray:
    """Rows [N, D] -> float64 [N, labels], each row's scores adding up to 1. arrays: of `fit_classic.fit`."""
    rows = (np.asarray(rows, np.float64) - arrays["mean"]) / arrays["scale"]
    return _SCORE[classifier](arrays, rows) @ arrays["columns"]


def _score_knn(arrays: Arrays, rows: np.ndarray, k: int = 8) -> np.ndarray:
    """The labels' shares of the k nearest rows."""
    fitted = arrays["rows"]
    distances = (rows**2).sum(1)[:, None] - 2 * rows @ fitted.T + (fitted**2).sum(1)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return arrays["targets"][nearest].mean(axis=1)


def _score_logistic(arrays: Arrays, rows: np.ndarray) -> np.ndarray:
    import scipy.special  # networks do without: it takes its time

    return scipy.special.softmax(rows @ arrays["coef"].T + arrays["intercept"], axis=1)


def _score_svm(arrays: Arrays, rows: np.ndarray) -> np.ndarray:
    import scipy.sparse
    import scipy.special

    pairs = rows @ arrays["coef"].T + arrays["intercept"]  # [N, classes * (classes - 1) / 2]
    slope, offset = arrays["sigmoids"].T
    if len(slope) == 1:  # two classes: positive for the second
        second = scipy.special.expit(-(slope * pairs + offset))
        return np.concatenate([1 - second, second], axis=1)
    if pairs.shape[1] != len(slope) * (len(slope) - 1) // 2:
        raise ValueError("the pairs are not those of its classes")
    first, second = np.triu_indices(len(slope), 1)
    one, row = np.ones(len(first)), np.arange(len(first))
    signs = scipy.sparse.csr_array(  # positive for the first; most of it is 0
        (np.append(one, -one), (np.append(row, row), np.append(first, second))), shape=(len(first), len(slope))
    )
    votes = (np.where(pairs < 0, -1, 1) @ signs + len(slope) - 1) / 2
    sums = pairs @ signs  # settle what is equal in votes
    each = scipy.special.expit(-(slope * (votes + sums / (3 * (np.abs(sums) + 1))) + offset))
    return each / np.maximum(each.sum(axis=1, keepdims=True), 1e-300)


def _score_trees(arrays: Arrays, rows: np.ndarray) -> np.ndarray:
    """The mean over the trees of the classes' shares in the leaf that a row falls into."""
    import scipy.sparse

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


_SCORE: dict[str, Callable[[Arrays, np.ndarray], np.ndarray]] = {
    "knn": _score_knn, "svm": _score_svm, "forest": _score_trees, "tree": _score_trees, "logistic": _score_logistic,
}  # fmt: skip
