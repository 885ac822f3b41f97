"""narrow(): the only structural change there is.

    small = narrow(model, graph, {"layer1.0.conv1": 12})            # the 12 best channels by l2
    small = narrow(model, graph, {"layer1.0.conv1": [0, 3, 5]})     # these channels
    twin  = masked(model, graph, kept)                              # dense, consumers of the removed channels zeroed

Both copy: the given model is never changed. A copy is made once, with every parameter already cut, so tied parameters stay
tied and nothing is allocated at full size. `torch` attributes that repeat a shape (`in_channels`, `groups`, ...) are set from it.
"""

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from .axes import Kept, best_channels, groups_of, kept_mask
from .emptied import set_kind
from .errors import LamellaError, MismatchError, RecordError, TraceError
from .importance import importance
from .keptstatistics import KeptStatistics
from .records import check
from .schema import Axis, Graph, Group, Integer, Parameter

Keep = Mapping[str, int | Sequence[int]]
M = TypeVar("M", bound=nn.Module)


def narrow(model: M, graph: Graph, keep: Keep, *, ranking: str = "l2") -> M:
    """A copy of the model in which each named group keeps a width (its best-ranked so many) or the channels given.

    Raises RecordError for unknown groups, channels that do not exist, unbalanced choices and frozen groups; MismatchError
    is for callers that read `keep` from a file.
    """
    model = uncompiled(model)
    kept = resolve(model, graph, keep, ranking=ranking)
    return cut(model, graph, kept)


def uncompiled(model: Any) -> Any:
    """What torch.compile has wrapped; anything else as it is."""
    return getattr(model, "_orig_mod", model)


def cut(model: M, graph: Graph, kept: Kept, *, share: bool = False) -> M:
    """`narrow` for channels that are already resolved; with `share` the untouched parameters are the model's own."""
    small = copied(model, {name: _cut(p, t, kept) for p, name, t in _pairs(model, graph, kept)}, share=share)
    grouped = _grouped(graph)
    for name, module in small.named_modules():
        _agree(module, grouped=name in grouped)
    _set_integers(small, integers_of(graph, kept))
    return small


def masked(model: M, graph: Graph, kept: Kept, *, share: bool = False) -> M:
    """A dense copy in which the weights that consume a removed channel are zero: what the narrowed model must equal.

    (A zeroed producer would not do: batch-norm shifts and sigmoids survive it.) Norms that take their statistics over channels
    take them over those that are kept; the groups for which this matters say so in `changes`.
    """
    dense = copied(model, {name: _zeroed(p, t, kept) for p, name, t in _pairs(model, graph, kept)}, share=share)
    if any(graph.group_of[name].changes for name in kept):
        statistics, forward = KeptStatistics(dense, graph, kept), dense.forward

        def with_kept_statistics(*args: Any, **kwargs: Any) -> Any:
            with statistics:
                return forward(*args, **kwargs)

        dense.forward = with_kept_statistics
    return dense


def resolve(model: nn.Module, graph: Graph, keep: Keep, *, ranking: str = "l2") -> dict[str, tuple[int, ...]]:
    """The channels each named group keeps, ascending; widths become their best-ranked channels."""
    keep = {name: int(w) if isinstance(w, Integral) else w for name, w in keep.items()}
    for name, wanted in keep.items():
        known = isinstance(wanted, int) or hasattr(wanted, "__len__")
        check(known, f"[{name!r}]", f"{wanted!r} is neither a width, a whole number, nor a list of channels")
    widths = {name: width for name, width in keep.items() if isinstance(width, int)}
    graph.check_widths({name: w if isinstance(w, int) else len(w) for name, w in keep.items()})
    kept = best_channels(graph, widths, importance(model, graph, ranking)) if widths else {}
    for name, channels in keep.items():
        if not isinstance(channels, int):
            kept[name] = _checked(graph, name, channels)
    return {name: kept[name] for name in keep}


def _checked(graph: Graph, name: str, channels: Sequence[int]) -> tuple[int, ...]:
    group = graph.group_of[name]
    chosen = sorted({int(c) for c in channels})
    check(len(chosen) == len(channels), f"[{name!r}]", "a channel is named twice")
    outside = next((c for c in chosen[::-1] if not 0 <= c < group.width), None)
    check(outside is None, f"[{name!r}]", f"channel {outside} asked, {group.width} exist")
    if group.parts:
        counts = np.bincount([group.parts[c] for c in chosen], minlength=max(group.parts) + 1).tolist()
        wanted = list(group.counts(len(chosen)))
        check(counts == wanted, f"[{name!r}]", f"unbalanced: {counts} channels in the parts where {wanted} must stay")
    return tuple(chosen)


def retraced(graph: Graph, kept: Kept) -> Graph:
    """The Graph of the narrowed model: the same groups at their new widths."""
    keep = {name: sorted(channels) for name, channels in kept.items()}
    groups = tuple(_narrowed_group(g, keep[g.name]) if g.name in keep else g for g in graph.groups)
    parameters = tuple(replace(p, axes=tuple(_narrowed_axis(a, keep) for a in p.axes)) for p in graph.parameters)
    return replace(graph, groups=groups, parameters=parameters)


def _narrowed_group(group: Group, channels: Sequence[int]) -> Group:
    if not channels:
        return replace(group, width=0, parts=(), ladder=(), floor=1, frozen="all of its channels are gone")
    ladder = tuple(rung for rung in group.ladder if sum(rung) <= len(channels))
    parts = tuple(group.parts[c] for c in channels) if group.parts else ()
    return replace(group, width=len(channels), parts=parts, ladder=ladder, floor=min(group.floor, len(channels)))


def _narrowed_axis(axis: Axis, keep: Kept) -> Axis:
    runs = []
    for run in axis.runs:
        if run.group is None or run.group not in keep:
            runs.append(run)
            continue
        inside = [i for i, c in enumerate(keep[run.group]) if run.start <= c < run.start + run.count]
        if inside:
            runs.append(replace(run, start=inside[0], count=len(inside)))
    return replace(axis, runs=tuple(runs))


def _pairs(model: nn.Module, graph: Graph, kept: Kept) -> list[tuple[Parameter, str, Tensor]]:
    """The parameters that hold channels of the named groups, with their tensors; each tensor once."""
    touched = [p for p in graph.parameters if any(kept.keys() & set(groups_of(axis)) for axis in p.axes)]
    return [(parameter, parameter.name, tensor) for parameter, tensor in _held(model, touched)]


def _held(model: nn.Module, parameters: Iterable[Parameter]) -> Iterator[tuple[Parameter, Tensor]]:
    """Parameters of a graph with the model's tensors. TraceError where it has no such one."""
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for parameter in parameters:
        if parameter.name not in tensors:
            raise TraceError(f"the model has no parameter {parameter.name!r}; the graph belongs to another model.")
        yield parameter, tensors[parameter.name]


def check_graph(model: nn.Module, graph: Graph) -> None:
    """TraceError unless the graph's parameters are the model's, by name and shape."""
    widths = graph.widths
    for parameter, tensor in _held(model, graph.parameters):
        shape, seen = tuple(axis.size.at(widths) // axis.blocks for axis in parameter.axes), tuple(tensor.shape)
        if seen != shape:
            raise TraceError(
                f"{parameter.name!r} has shape {seen}, and {shape} in the graph, which belongs to another model. Trace this one."
            )


def copied(model: M, changed: Mapping[str, Tensor], *, share: bool = False) -> M:
    """A deep copy in which these parameters and buffers (by name) are replaced as the copy is made.

    With `share` the other parameters are the model's own; buffers are always copied.
    """
    memo: dict[int, object] = {}
    for name, old in model.named_parameters(remove_duplicate=False):
        if share and name not in changed:
            memo.setdefault(id(old), old)
        elif name in changed or id(old) not in memo:
            data: Tensor = changed[name] if name in changed else old.detach().clone()
            memo[id(old)] = nn.Parameter(data, requires_grad=old.requires_grad)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        if name in changed or id(buffer) not in memo:
            memo[id(buffer)] = changed[name] if name in changed else buffer.detach().clone()
    # Weights that a hook computes (old-style weight norm) cannot be copied as they stand.
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo.setdefault(id(value), value.detach().clone())
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise LamellaError(
            f"the model cannot be copied ({error}). Remove what cannot be deep-copied from its attributes."
        ) from error


def hold_weight(module: nn.Module) -> None:
    """Make a weight that a parametrization computes one that the module holds, in place. The module may be a copy of another."""
    if is_parametrized(module, "weight"):
        kind = type(module)  # shared with what this is a copy of; torch takes the property from the class itself
        module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
        remove_parametrizations(module, "weight", leave_parametrized=True)


def _cut(parameter: Parameter, tensor: Tensor, kept: Kept) -> Tensor:
    dense = tensor = tensor.detach()
    for d, axis in enumerate(parameter.axes):
        if axis.blocks == 1:
            tensor = _take(tensor, d, kept_mask(axis, kept))
    for d, axis in enumerate(parameter.axes):
        if axis.blocks > 1:
            tensor = _take_in_blocks(tensor, d, kept_mask(axis, kept).reshape(axis.blocks, -1))
    return tensor.clone() if tensor is dense else tensor


def _take(tensor: Tensor, dim: int, mask: np.ndarray) -> Tensor:
    if len(mask) != tensor.shape[dim]:
        raise RecordError(
            "", f"an axis of {tensor.shape[dim]} where the graph has {len(mask)}: the graph belongs to another model"
        )
    if mask.all():
        return tensor
    return tensor.index_select(dim, torch.from_numpy(np.flatnonzero(mask)).to(tensor.device))


def _take_in_blocks(tensor: Tensor, dim: int, mask_GN: np.ndarray) -> Tensor:
    """Rows of block g keep the columns mask_GN[g]; rows (axis 0) are already cut, equally many per block."""
    if mask_GN.all():
        return tensor
    blocks = tensor.chunk(len(mask_GN), 0)
    return torch.cat([_take(block, dim, mask) for block, mask in zip(blocks, mask_GN, strict=True)])


def _zeroed(parameter: Parameter, tensor: Tensor, kept: Kept) -> Tensor:
    tensor = tensor.detach().clone()
    for d, axis in enumerate(parameter.axes):
        if axis.role != "in":
            continue
        mask = torch.from_numpy(kept_mask(axis, kept).reshape(axis.blocks, -1)).to(tensor.device)
        view = [1] * tensor.dim()
        view[d] = mask.shape[1]
        for g, block in enumerate(tensor.chunk(axis.blocks)):
            block.mul_(mask[g].view(view))
    return tensor


def integers_of(graph: Graph, kept: Kept) -> tuple[Integer, ...]:
    """The integers of modules that repeat a size, as they must be when the groups keep these channels."""
    widths = {**graph.widths, **{name: len(channels) for name, channels in kept.items()}}
    return tuple(
        Integer(module=a.module, name=a.name, index=a.index, value=a.size.at(widths) // a.blocks)
        for a in graph.attributes
        if any(group in kept and widths[group] < graph.widths[group] for group in a.size.groups)
    )


def _set_integers(small: nn.Module, integers: Iterable[Integer]) -> None:
    for integer in integers:
        module = small.get_submodule(integer.module)
        value: Any = integer.value
        if integer.index is not None:
            items = list(getattr(module, integer.name))
            items[integer.index] = value
            value = type(getattr(module, integer.name))(items)
        setattr(module, integer.name, value)


def _grouped(graph: Graph) -> set[str]:
    """The convolutions whose groups stay as many: those that read several channels in each, be it one that is left of them."""
    names = (p.name.partition(".parametrizations.")[0] for p in graph.parameters if any(a.blocks > 1 for a in p.axes))
    return {name if name in graph.layer_of else name.rpartition(".")[0] for name in names}


def _agree(module: nn.Module, *, grouped: bool = False) -> None:
    """Make the attributes that repeat a parameter's shape agree with it."""
    weight = module._parameters.get("weight")
    set_kind(module)
    if isinstance(module, nn.modules.conv._ConvNd):
        _agree_convolution(module, _weight_of(module), grouped=grouped)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = _weight_of(module).shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = next(
            (len(t) for t in (weight, module.running_mean) if t is not None), module.num_features
        )
    elif isinstance(module, nn.LayerNorm) and weight is not None:
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.GroupNorm) and weight is not None:
        module.num_groups = len(weight) if module.num_groups == module.num_channels else module.num_groups
        module.num_channels = len(weight)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]


def _weight_of(module: nn.Module) -> Tensor:
    """The weight as it is now; a hook of old-style weight norm computes it from `weight_v` at the next call."""
    weight: Tensor = getattr(module, "weight_v" if "weight_v" in module._parameters else "weight")
    return weight


def _agree_convolution(module: nn.modules.conv._ConvNd, weight: Tensor, *, grouped: bool) -> None:
    rows, columns = weight.shape[:2]
    if not weight.numel():
        module.out_channels, module.in_channels = rows, columns
        return
    depthwise = not grouped and module.groups > 1 and module.groups == module.in_channels
    if module.transposed:
        module.groups = rows if depthwise else module.groups
        module.in_channels, module.out_channels = rows, columns * module.groups
    else:
        multiplier = module.out_channels // module.groups
        module.groups = rows // multiplier if depthwise else module.groups
        module.out_channels, module.in_channels = rows, columns * module.groups


def refitted(
    model: M, tensors: Mapping[str, Tensor], integers: Iterable[Integer] = (), caches: Collection[str] = ()
) -> M:
    """A copy that holds exactly these parameters and buffers, whatever their widths: how a saved model is replayed.

    `tensors` name every parameter and buffer of the model (tied ones once); `integers` are those of modules that repeat a
    size (a number of heads, a split); `caches` are buffers that a call fills or makes, so the model may hold less of them.
    Raises MismatchError with the first differences.
    """
    check_sized(model, MismatchError)
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    late = {n for n in tensors if n not in own and _takes_late(model, n, caches)}
    problems = [f"{n} is missing" for n in own if n not in tensors] + [
        f"{n} is unknown" for n in tensors if n not in own and n not in late
    ]
    problems += [
        f"{n} has shape {tuple(t.shape)}, more than {tuple(own[n].shape)}"
        for n, t in tensors.items()
        if n in own and n not in caches and not _fits(t, own[n])
    ]
    if problems:
        raise MismatchError(f"the weights belong to another model: {'; '.join(problems[:3])}")
    small = copied(model, {name: tensor.clone() for name, tensor in tensors.items()})
    for name in late:
        path, _, leaf = name.rpartition(".")
        small.get_submodule(path).register_buffer(leaf, tensors[name].clone(), persistent=name not in caches)
    for module in small.modules():
        _agree(module)
    _set_integers(small, integers)
    return small


def _takes_late(model: nn.Module, name: str, caches: Collection[str]) -> bool:
    """Whether a module that is there takes this buffer later: a cache, or one that it registered as None."""
    path, _, leaf = name.rpartition(".")
    module = dict(model.named_modules()).get(path)
    return module is not None and (name in caches or (leaf in module._buffers and not is_of_torch(module)))


def _fits(tensor: Tensor, dense: Tensor) -> bool:
    return tensor.dim() == dense.dim() and all(a <= b for a, b in zip(tensor.shape, dense.shape, strict=True))


def check_sized(model: nn.Module, kind: type[LamellaError]) -> None:
    """An error of this kind where lazy layers have not seen an input yet: their tensors have no shape."""
    held = [*model.named_parameters(), *model.named_buffers()]
    if lazy := next((name for name, tensor in held if is_lazy(tensor)), None):
        raise kind(
            f"the model has lazy layers that have seen no input: {lazy!r} has no shape yet. Run the model once on its example inputs "
            "in the function that makes it, before you return it."
        )


def is_of_torch(module: nn.Module) -> bool:
    """Whether this is one of torch's own layers, and not of a class of the user's."""
    return type(module).__module__.startswith("torch.nn.")
