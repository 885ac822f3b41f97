"""save_elastic() and load_elastic(): a family on disk, read back without running code.

    save_elastic("runs/r20", net)                  # elastic.json, elastic.safetensors, graph.json
    net = load_elastic("runs/r20", make_model)     # outputs of every level equal bit for bit

The file holds the shared weights once, and for every level but the largest one vector of norm scales and shifts and one of
statistics for each type of numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from ..errors import MismatchError, with_context
from ..records import load_record, save_record
from ..runs import write_through
from ..schema import FILES, Family, Graph
from ..storage import load_tensors, save_tensors
from .networks import ElasticModel


def save_elastic(directory: str | Path, net: ElasticModel) -> Family:
    """Write the network into the directory, each file atomically. Returns its record, with the bytes of both files in it."""
    record, weights, graph = (Path(directory) / FILES[name][0] for name in ("elastic", "elastic_model", "graph"))
    sizes = []

    def fill(made: Path) -> None:
        for module in (net.net, net):
            save_tensors(made, module)
            sizes.append(made.stat().st_size)
        record.unlink(missing_ok=True)  # it belongs to the weights that are replaced now

    write_through(weights, fill)
    net.family = replace(net.family, file_bytes=sizes[1], largest_bytes=sizes[0])
    save_record(graph, net.graph)
    save_record(record, net.family)
    return net.family


def load_elastic(directory: str | Path, make_model: Callable[[], nn.Module]) -> ElasticModel:
    """The elastic network, in evaluation mode. `make_model` builds the dense one; its weights do not matter.

    RecordError for absent or damaged files, MismatchError where they belong to another network, or lack a level.
    """
    record, weights, graph = (Path(directory) / FILES[name][0] for name in ("elastic", "elastic_model", "graph"))
    family, shapes = load_record(record, Family), load_record(graph, Graph)
    if family.structure != shapes.structure:
        raise MismatchError(
            f"{record}: belongs to the structure {family.structure}, and {graph.name} holds {shapes.structure}. Copy both "
            "from one run, or make the family again."
        )
    tensors = load_tensors(weights)
    with with_context(str(weights)):
        net = ElasticModel(_typed(make_model(), tensors), shapes, family)
        _check_tensors(net, tensors)
    net.load_state_dict(tensors, strict=False)
    return net.eval()


def _typed(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The model, each of its tensors in the type that the file holds it in."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        tensor.data = tensor.data.to(tensors.get(f"net.{name}", tensor).dtype)
    return model


def _check_tensors(net: ElasticModel, tensors: Mapping[str, Tensor]) -> None:
    """MismatchError unless the file holds these very levels: as many of them, of these shapes."""
    expected = dict(net.named_parameters()) | dict(net.named_buffers())
    levels = {name.split(".")[1] for name in tensors if name.startswith("own.")}
    if len(levels) != len(net.own):
        raise MismatchError(
            f"holds {len(levels)} levels beside the largest, and {len(net.own)} were expected "
            f"({', '.join(net.family.names[:-1])}). A level is missing or foreign: take both files from one family."
        )
    problems = [f"{n} is missing" for n in expected if n not in tensors]
    problems += [f"{n} is unknown" for n in tensors if n not in expected]
    problems += [
        f"{n} has shape {tuple(t.shape)} where {tuple(expected[n].shape)} was expected"
        for n, t in tensors.items()
        if n in expected and t.shape != expected[n].shape
    ]
    if problems:
        raise MismatchError(f"belongs to another network or other levels: {'; '.join(problems[:3])}.")
