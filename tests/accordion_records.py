"""A hand-made outcome of an accordion search on card fraud, for the pictures and the tests of records.

found = accordion()                 # four sweeps over a seven-layer autoencoder, a closing table with controls
"""

import itertools
import math

from lamella.schema import Accordion, Comparison, Entry, ExportedFile, PairSweep, Score, Shape

BASELINE = (16, 8, 4, 2, 4, 8, 16)
CANDIDATES = (2, 4, 6, 8, 12, 16)
CHOSEN = {(0, 6): 4, (1, 5): 2, (2, 4): 6, (3,): 2}
INPUTS = 29


def params(widths, inputs=INPUTS):
    sizes = (inputs, *widths, inputs)
    return sum((a + 1) * b for a, b in itertools.pairwise(sizes))


def over_seeds(value, spread=0.012, n=5):
    return Score(value=value, low=value - spread, high=value + spread, n=n)


def with_pair(widths, layers, width):
    return tuple(width if i in layers else w for i, w in enumerate(widths))


def sweeps():
    now, found = BASELINE, []
    for number, (layers, chosen) in enumerate(CHOSEN.items()):
        shapes = []
        for width in CANDIDATES:
            widths = with_pair(now, layers, width)
            value = 0.71 + 0.01 * number - 0.02 * abs(math.log2(width / chosen))
            dropped = width == 16
            score = over_seeds(value, 0.03 if dropped else 0.012, 3 if dropped else 5)
            shapes.append(Shape(widths=widths, params=params(widths), validation=score, dropped=dropped))
        found.append(PairSweep(layers=layers, width=chosen, shapes=tuple(shapes)))
        now = with_pair(now, layers, chosen)
    return tuple(found), now


def entry(name, role, widths, value, size=None):
    test = {"f1": over_seeds(value), "pr_auc": over_seeds(value - 0.04, 0.02), "roc_auc": over_seeds(0.95, 0.004)}
    below = {} if role == "baseline" else {m: over_seeds(0.70 - value, 0.015) for m in test}
    count = params(widths) if size is None else size
    return Entry(
        name=name, role=role, widths=widths, params=count, validation=over_seeds(value + 0.01), test=test, below=below
    )


def accordion():
    made, winner = sweeps()
    entries = (
        entry("baseline", "baseline", BASELINE, 0.70),
        entry("accordion", "winner", winner, 0.72),
        entry("same size, baseline's proportions", "control", (6, 3, 2, 1, 2, 3, 6), 0.705),
        entry("same depth, monotone", "control", (6, 4, 2, 2, 2, 4, 6), 0.715),
        entry("PCA", "control", (), 0.66, 87),
        entry("isolation forest", "control", (), 0.58, 25_000),
    )
    return Accordion(
        task="fraud",
        metric="f1",
        method="sequential",
        inputs=INPUTS,
        outputs=INPUTS,
        baseline=BASELINE,
        widths=winner,
        sweeps=made,
        tried=tuple({s.widths: s for sweep in made for s in sweep.shapes}.values()),
        entries=entries,
        comparisons=tuple(
            Comparison(against=e.name, metric="f1", difference=over_seeds(0.72 - e.test["f1"].value, 0.01))
            for e in entries
            if e.role != "winner"
        ),
        files=(
            ExportedFile(
                name="baseline, fp32",
                file="dense.onnx",
                bytes=9_100,
                latency_ms=0.012,
                latency_ratio=1.0,
                test={"f1": 0.7, "pr_auc": 0.66, "roc_auc": 0.95},
            ),
            ExportedFile(
                name="accordion, int8",
                file="model.int8.onnx",
                bytes=6_400,
                latency_ms=0.011,
                latency_ratio=0.92,
                test={"f1": 0.71, "pr_auc": 0.67, "roc_auc": 0.95},
            ),
        ),
        seeds=(0, 1, 2, 3, 4),
        epochs=30,
        n_train=2_507,
        n_validation=1_082,
        n_test=1_081,
        notes=("Normals are weighted to their natural rate.",),
    )
