"""What an accordion must be held against: its size in other shapes, its nodes in another order, and no network at all.

    for name, widths in shape_controls((4, 2, 6, 2, 6, 2, 4), baseline, 29, 29): ...
    for make in references(bench): name, numbers, outcomes = make(bench, metric, seeds)

PCA copies a row from its first k components, k chosen on validation; an isolation forest has no copy, only a score. Both are judged as
the networks are. Shapes: N rows, D inputs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import needing
from ..training import Loader
from .shapes import Widths, is_monotone, monotone, params, scaled, shallow
from .stacks import Net, flattened
from .working import Bench, Outcome

Floats = NDArray[np.float64]
Reference = tuple[str, int, list[Outcome]]  # name, stored numbers, one outcome per seed


def shape_controls(winner: Widths, baseline: Widths, inputs: int, outputs: int) -> Iterator[tuple[str, Widths]]:
    """Networks that differ from the winner in shape alone: of its size, or of its depth. None of them is the winner itself."""
    size = params(winner, inputs, outputs)
    plain = scaled(baseline, inputs, outputs, size)
    if plain != winner:
        yield "plain, equal size", plain
    if not is_monotone(winner):
        yield "same widths, monotone", monotone(winner)
    if len(winner) > 1:
        yield "one hidden layer, equal size", shallow(inputs, outputs, size)


def _rows(loader: Loader) -> Floats:
    return torch.cat([flattened(inputs) for inputs, _ in loader]).double().numpy()


def pca(bench: Bench, metric: str, seeds: Sequence[int]) -> Reference:
    """Principal components of the clean training rows; the same for every seed."""
    train, held, test = (_rows(part) for part in (bench.task.train, bench.task.validation, bench.task.test))
    fitted = _sklearn("decomposition").PCA(svd_solver="full").fit(train)
    best: tuple[float, int, Outcome] | None = None
    for k in range(1, train.shape[1]):
        axes_KD = fitted.components_[:k]
        held_N, test_N = (_copied(part, fitted.mean_, axes_KD) for part in (held, test))
        outcome = bench.outcome(Net((k,), 0), held_N, test_N)
        if best is None or outcome.validation[metric] > best[0]:
            best = (outcome.validation[metric], k, outcome)
    assert best is not None
    _, k, outcome = best
    return f"PCA, {k} components", (k + 1) * train.shape[1], [outcome for _ in seeds]


def _copied(rows_ND: Floats, mean_D: Floats, axes_KD: Floats) -> Floats:
    copy_ND = (rows_ND - mean_D) @ axes_KD.T @ axes_KD + mean_D
    return np.asarray(1 / (1 + np.abs(rows_ND - copy_ND).mean(1)))


def forest(bench: Bench, metric: str, seeds: Sequence[int]) -> Reference:
    """An isolation forest (Liu, Ting, Zhou 2008) of 100 trees on the clean training rows, one per seed."""
    train, held, test = (_rows(part) for part in (bench.task.train, bench.task.validation, bench.task.test))
    outcomes, numbers = [], 0
    for seed in seeds:
        fitted = _sklearn("ensemble").IsolationForest(random_state=seed).fit(train)
        outcomes.append(bench.outcome(Net((1,), seed), fitted.score_samples(held), fitted.score_samples(test)))
        numbers = sum(2 * tree.tree_.node_count for tree in fitted.estimators_)  # a feature and a threshold each
    return "isolation forest", numbers, outcomes


def _sklearn(module: str) -> Any:
    import importlib

    with needing("scikit-learn", "data", "the controls of anomaly detection"):
        return importlib.import_module(f"sklearn.{module}")


def references(bench: Bench) -> list[Callable[[Bench, str, Sequence[int]], Reference]]:
    """The controls that are no networks, where anomalies are sought; rows of one input have no components to leave out."""
    if not bench.judge.held:
        return []
    return [pca, forest] if bench.inputs > 1 else [forest]
