"""Metrics of a network from its samples' scores: accuracy for classes, and for anomalies those that matter when they are rare.

    judge = Judge.of(task)                          # from the targets of its validation and test samples
    judge.validation(held_N), judge.test(held_N, test_N)      # {"f1": ..., "pr_auc": ..., ...}

A low score marks an anomaly. The alarm threshold is the one with the best F1 on validation, and test rows are judged by it;
recall at k alarms a day is that of the k oddest rows of a day. Every figure counts a row as often as it stands for rows of the
stream (scikit-learn's `sample_weight`). Shapes: N samples.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError, LamellaError, needing, unknown_name
from ..training import Loader, Task, correct

Floats = NDArray[np.float64]
Metrics = dict[str, float]

ALARMS = (100, 500)  # a day
DETECTION = ("f1", "precision", "recall", "accuracy", "pr_auc", "roc_auc", *(f"recall_at_{k}" for k in ALARMS))


@dataclass(frozen=True, slots=True)
class Truth:
    """Which samples are anomalies, and how many rows a day each stands for, (N,)."""

    labels: NDArray[np.int64]
    weights: Floats


@dataclass(frozen=True, slots=True)
class Judge:
    """How the scores of a task become metrics. `held` and `final` are None where samples are classified."""

    names: tuple[str, ...]
    held: Truth | None = None
    final: Truth | None = None

    @classmethod
    def of(cls, task: Task) -> "Judge":
        """The judge of a task, by the form of its targets."""
        held = truth_of(task.validation)
        if held is None:
            return cls(("accuracy" if task.score is correct else "score",))
        return cls(DETECTION, held, truth_of(task.test))

    def validation(self, held_N: Floats) -> Metrics:
        """Metrics of the validation samples."""
        if self.held is None:
            return self._mean(held_N)
        return detection_metrics(self.held, held_N, best_threshold(self.held, held_N))

    def test(self, held_N: Floats, test_N: Floats) -> Metrics:
        """Metrics of the test samples, by the threshold that validation chose."""
        if self.held is None or self.final is None:
            return self._mean(test_N)
        return detection_metrics(self.final, test_N, best_threshold(self.held, held_N))

    def _mean(self, scores_N: Floats) -> Metrics:
        if not np.isfinite(scores_N).all():
            raise DataError("a network gives scores that are not finite. Look for NaN in the inputs, or a lower lr.")
        return {self.names[0]: float(scores_N.mean())}

    def check(self, metric: str | None) -> str:
        """The metric that choices follow: the first, or this one."""
        if metric is not None and metric not in self.names:
            raise LamellaError(unknown_name("metric", metric, self.names))
        return metric or self.names[0]


def truth_of(loader: Loader) -> Truth | None:
    """Labels and weights of an anomaly task's samples, None for any other task."""
    found: list[dict[str, Tensor]] = []
    for _, targets in loader:
        if not isinstance(targets, dict) or not {"labels", "weights"} <= set(targets):
            return None
        found.append(targets)
    labels, weights = (torch.cat([t[name] for t in found]).numpy() for name in ("labels", "weights"))
    if labels.min() == labels.max():
        raise DataError("the samples of a split hold one class only; anomalies and clean ones were expected.")
    return Truth(labels.astype(np.int64), weights.astype(np.float64))


def _sklearn() -> Any:
    with needing("scikit-learn", "data", "the metrics of anomaly detection"):
        import sklearn.metrics as found
    return found


def best_threshold(truth: Truth, scores_N: Floats) -> float:
    """The highest score that still counts as an anomaly, where F1 is best."""
    odd_N = _oddness(scores_N)
    precision, recall, thresholds = _sklearn().precision_recall_curve(truth.labels, odd_N, sample_weight=truth.weights)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(1 - thresholds[int(f1[:-1].argmax())])


def _oddness(scores_N: Floats) -> Floats:
    if not np.isfinite(scores_N).all():
        raise DataError("a network gives scores that are not finite. Look for NaN in the inputs, or a lower lr.")
    return 1 - scores_N


def detection_metrics(truth: Truth, scores_N: Floats, threshold: float) -> Metrics:
    """The metrics named in `DETECTION`; scores at or below the threshold are alarms."""
    odd_N, found = _oddness(scores_N), _sklearn()
    alarms_N = (odd_N >= 1 - threshold).astype(np.int64)
    shared = {"sample_weight": truth.weights}
    precision, recall, f1, _ = found.precision_recall_fscore_support(
        truth.labels, alarms_N, average="binary", zero_division=0.0, **shared
    )
    values = {
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "accuracy": found.accuracy_score(truth.labels, alarms_N, **shared),
        "pr_auc": found.average_precision_score(truth.labels, odd_N, **shared),
        "roc_auc": found.roc_auc_score(truth.labels, odd_N, **shared),
    }
    values |= {f"recall_at_{k}": recall_at(truth, odd_N, k) for k in ALARMS}
    return {name: float(value) for name, value in values.items()}


def recall_at(truth: Truth, odd_N: Floats, alarms: float) -> float:
    """The share of anomalies among the oddest rows, as many as `alarms` a day; rows of equal oddness in the order given."""
    order = np.argsort(-odd_N, kind="stable")
    seen_N = np.cumsum(truth.weights[order]) <= alarms
    hit_N = truth.labels[order] == 1
    weights = truth.weights[order]
    return float(weights[seen_N & hit_N].sum() / weights[hit_N].sum())
