"""Hand-made records for the pictures: a chain, a ResNet and everything a run directory may hold about them.

graph = resnet(3, (16, 32, 64))         # ResNet-20: shared residual groups, convolutions beside the main path
graph = chain((6, 16, 120, 84, 10))     # five layers in a row, the last one fixed
"""

import math
from dataclasses import replace

from lamella.records import save_record
from lamella.schema import (
    FILES,
    Axis,
    Cost,
    Family,
    Front,
    FrontRow,
    Graph,
    Group,
    Layer,
    Level,
    Measure,
    Parameter,
    Plan,
    Point,
    Profile,
    Result,
    Row,
    Run,
    RunInfo,
    Score,
    Size,
    Step,
    Table,
    Tensor,
)

HOSTILE = "<script>alert('x')</script>\"&" + "ünïcödé\u202e" + "n" * 300


def chain(widths=(6, 16, 120, 84, 10), names=None):
    """Linear layers in a row; the outputs of the last belong to no group."""
    names = names or [f"fc{i}" for i in range(len(widths))]
    build = _Builder()
    for i, (name, width) in enumerate(zip(names, widths, strict=True)):
        last = i == len(widths) - 1
        build.layer(name, None if last else name, width, names[i - 1] if i else None, names[i - 1 : i] if i else [])
    return build.graph("chain")


def resnet(blocks=3, widths=(16, 32, 64)):
    """A CIFAR-style ResNet with option-B shortcuts; 3 blocks give ResNet-20."""
    build = _Builder()
    build.layer("conv1", "conv1", widths[0], None, [], kernel=3, positions=1024)
    feeds, group, side = ["conv1"], "conv1", 1024
    for stage, width in enumerate(widths, 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            grows = width != build.widths[group]
            side = side // 4 if grows else side
            into, before = group, feeds
            build.layer(f"{name}.conv1", f"{name}.conv1", width, into, before, kernel=3, positions=side)
            group = f"{name}.conv2" if grows else group
            build.layer(f"{name}.conv2", group, width, f"{name}.conv1", [f"{name}.conv1"], kernel=3, positions=side)
            if grows:
                build.layer(f"{name}.downsample", group, width, into, before, kernel=1, positions=side)
            feeds = [f"{name}.conv2", f"{name}.downsample"] if grows else [*before, f"{name}.conv2"]
    build.layer("fc", None, 10, group, feeds)
    return build.graph(f"resnet{2 * blocks * len(widths) + 2}")


def branches(sources):
    """Convolutions of eight channels that read what these lists name."""
    build = _Builder()
    for name, read in sources.items():
        build.layer(name, name, 8, read[0] if read else None, read, kernel=3, positions=64)
    return build.graph("branches")


class _Builder:
    def __init__(self):
        self.layers, self.parameters, self.widths, self.makers = [], [], {}, {}

    def layer(self, name, group, width, into, sources, kernel=0, positions=1):
        """A layer that makes `width` channels of `group` (None: fixed) from those of `into` (None: three)."""
        out = self._axis("out", group, width)
        if group:
            self.widths.setdefault(group, width)
            self.makers.setdefault(group, []).append(name)
        axes = (out, self._axis("in", into, self.widths.get(into, 3)))
        if kernel:
            axes += (self._axis("fixed", None, kernel),) * 2
        self.parameters.append(Parameter(name=f"{name}.weight", axes=axes))
        self.layers.append(
            Layer(
                name=name,
                kind="conv" if kernel else "linear",
                weight=f"{name}.weight",
                outputs=self._size(group, width),
                inputs=self._size(into, 3),
                kernel=(kernel, kernel) if kernel else (),
                positions=positions,
                sources=tuple(sources),
            )
        )

    def _axis(self, role, group, width):
        return Axis(role=role, runs=(Run(group=group, count=width),))

    def _size(self, group, width):
        return Size(terms=((group, 1),)) if group else Size(fixed=width)

    def graph(self, model):
        return Graph(
            model=model,
            layers=tuple(self.layers),
            parameters=tuple(self.parameters),
            tensors=tuple(
                Tensor(
                    size=Size(fixed=0, terms=tuple((g, t * x.positions) for g, t in x.outputs.terms)),
                    producer=i,
                    last_reader=i + 1,
                )
                for i, x in enumerate(self.layers)
                if x.outputs.terms
            ),
            groups=tuple(Group(name=g, width=w, layers=tuple(self.makers[g])) for g, w in self.widths.items()),
        )


def score(value, n=360):
    half = 1.96 * math.sqrt(max(1e-6, value * (1 - value)) / n)
    return Score(value=value, low=max(0.0, value - half), high=min(1.0, value + half), n=n)


def profile(graph, bits=False):
    """Curves of different steepness, the same every time."""
    points = []
    for i, group in enumerate(graph.free):
        steep = 2 + 5 * ((i * 7) % 11) / 11
        for tenth in range(1, 10):
            ratio = tenth / 10
            value = 0.1 + 0.88 / (1 + (ratio / (0.25 + 0.09 * steep)) ** (1.2 * steep))
            width = group.legal(group.width * (1 - ratio))
            points.append(
                Point(
                    target=group.name, knob="pruning_ratio", level=ratio, width=width, score=score(value), seconds=0.1
                )
            )
    for layer in graph.layers if bits else ():
        for level, value in ((8, 0.979), (4, 0.93), (2, 0.4)):
            points.append(Point(target=layer.name, knob="bits", level=level, score=score(value)))
    return Profile(graph=graph, baseline=score(0.98), points=tuple(points))


def raced(graph):
    """Three groups, the first the most sensitive, each asked where a race would ask: its mean score is the highest."""
    asked = ({0.1: 0.97, 0.2: 0.96, 0.5: 0.95}, {0.5: 0.965, 0.6: 0.95, 0.7: 0.9}, {0.5: 0.98, 0.8: 0.9, 0.9: 0.6})
    points = tuple(
        Point(target=group.name, knob="pruning_ratio", level=level, score=score(value))
        for group, curve in zip(graph.free, asked, strict=True)
        for level, value in curve.items()
    )
    return Profile(graph=graph, baseline=score(0.98), points=points, method="race")


def plan(graph, bits=True):
    """Every free group narrowed, out of order."""
    groups = sorted(graph.free, key=lambda g: (len(g.name) * 31 + sum(map(ord, g.name))) % 17)
    steps = tuple(
        Step(
            widths={g.name: g.legal(g.width * (0.85 - 0.7 * ((i * 5) % 7) / 7))}, epochs=2, predicted=0.98 - 0.0015 * i
        )
        for i, g in enumerate(groups)
    )
    if bits:
        steps += (Step(bits={x.name: 8 for x in graph.layers[:-1]}),)
    cost = Cost(params=1, macs=1, bytes=1, memory=1)
    return Plan(structure=graph.structure, planner="threshold", steps=steps, predicted=cost, dense=cost)


def result(graph, planned):
    kept = {g: tuple(range(w)) for g, w in graph.completed(planned.widths).items()}
    history = [Measure(name="dense", step=0, validation=score(0.98), params=272_474, macs=40_812_544)]
    for number, step in enumerate(planned.steps, 1):
        value = 0.98 - 0.001 * number + 0.003 * math.sin(number)
        history.append(
            Measure(
                name=next(iter(step.widths), "int8"),
                step=number,
                validation=score(value),
                params=272_474 - 8_000 * number,
                macs=40_812_544 - 1_500_000 * number,
                predicted=step.predicted,
                before_tuning=value - 0.05,
            )
        )
    return Result(plan=planned, kept=kept, history=tuple(history), bits=planned.bits)


def table():
    sizes = [
        (272_474, 1_090_000, None),
        (41_000, 171_000, 0.41),
        (40_500, 169_000, 0.4),
        (40_500, 48_700, 0.33),
        (40_500, 169_000, 0.4),
    ]
    names = ["dense", "pruned in order", "pruned out of order", "out of order + int8", "small network from scratch"]
    rows = tuple(
        Row(
            name=name,
            validation_accuracy=0.985 - 0.002 * i,
            test_accuracy=0.981 - 0.002 * i,
            drop=0.002 * i if i else None,
            drop_low=0.002 * i - 0.004 if i else None,
            drop_high=0.002 * i + 0.004 if i else None,
            params=params,
            macs=params * 150,
            bytes=size,
            latency_ratio=ratio or 1.0,
        )
        for i, (name, (params, size, ratio)) in enumerate(zip(names, sizes, strict=True))
    )
    return Table(rows=rows, n_validation=360, n_test=360, notes=("Latency in ONNX Runtime, two threads.",))


def family(graph):
    """Four levels, from three rounds of 20 %, the smallest first."""
    levels = []
    for i, ratio in enumerate((0.488, 0.36, 0.2, 0.0)):
        widths = {g.name: g.legal(g.width * (1 - ratio)) for g in graph.free} if ratio else {}
        params, macs = round(272_474 * (1 - ratio) ** 2), round(40_812_544 * (1 - ratio) ** 2)
        levels.append(
            Level(
                name=("core", "level1", "level2", "full")[i],
                widths=widths,
                params=params,
                macs=macs,
                memory=131_072,
                validation=score(0.88 + 0.011 * i),
                test=score(0.876 + 0.011 * i, 5000),
                bytes=4 * params + 20_000,
                latency_ms=0.31 + 0.11 * i,
                latency_ratio=(0.31 + 0.11 * i) / 0.64,
            )
        )
    return Family(
        structure=graph.structure,
        method="sandwich",
        levels=tuple(levels),
        order={g.name: tuple(range(g.width)) for g in graph.groups},
        epochs=8,
        file_bytes=1_140_000,
        largest_bytes=1_110_000,
    )


def front(graph):
    """Five limits on the bytes, one plan measured untuned."""
    dense = Cost(params=272_474, macs=40_812_544, bytes=1_109_896, memory=131_072)
    rows = []
    for i, share in enumerate((90, 60, 40, 25, 10)):
        cost = {name: getattr(dense, name) * share // 100 for name in ("params", "macs", "bytes")}
        drop = 0.1 * 2.6**i
        row = FrontRow(
            limit=f"{share}%", predicted=Cost(**cost, memory=131_072), predicted_score=0.98 - drop / 100, drop=drop
        )
        rows.append(replace(row, gap=0.001, measured_score=0.95 if i == 2 else None))
    return Front(
        structure=graph.structure, planner="knapsack", axis="bytes", dense=dense, dense_score=0.98, rows=tuple(rows)
    )


def run_info():
    return RunInfo(
        model="resnet20",
        task="digits",
        command="lamella demo",
        seed=0,
        options={"factor": 0.985, "epochs": 2},
        versions={"lamella": "0.1.0", "torch": "2.13.0"},
        machine="2 cores",
        started="2025-01-01T00:00:00",
    )


def fill(directory, graph):
    """A run directory with every stage."""
    planned = plan(graph)
    values = {
        "run": run_info(),
        "graph": graph,
        "profile": profile(graph, bits=True),
        "plan": planned,
        "result": result(graph, planned),
        "table": table(),
    }
    for key, value in values.items():
        save_record(directory / FILES[key][0], value)
    return directory


__all__ = [
    "HOSTILE",
    "chain",
    "family",
    "fill",
    "front",
    "plan",
    "profile",
    "raced",
    "resnet",
    "result",
    "run_info",
    "score",
    "table",
]
