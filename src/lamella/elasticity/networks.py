"""ElasticModel: one set of weights, several nested networks, switched at run time.

    net.levels                          # records, the smallest first
    net.set_active_subnet("core")       # a pointer changes; nothing is copied
    net(images)                         # the core
    small = net.extract("core")         # a plain module of its own, with equal outputs

`net.net` is the largest level, an ordinary network whose channels are sorted. Every other level is a *view*: a narrowed module whose
weights are slices of the same memory, beside an `Own` of batch-norm numbers (statistics that were shared would be another
network's: Yu et al. 2019); without batch norms, of scales and shifts of layers' outputs (decision 0020). Switching chooses
which view `forward` runs, so a call in progress in another thread finishes as the level it began as.

In training mode, gradients flow through the active level into the shared weights. In evaluation mode the views run; what they had
to copy (`gathered_bytes`) is copied again once the weights have changed in place, by an optimizer or an average of weights. torch
counts these changes; those through `.data` it does not, and `refresh` says them.
"""

import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..coarsening import InputGrid
from ..errors import LamellaError, unknown_name
from ..grids import output_axis, rounded_weight
from ..records import check
from ..schema import Family, Graph, Level, check_levels
from ..schema.plans import FLOAT
from ..surgery import copied, cut
from .cutting import Cut, cuts_of, kept_slots, part_labels, places_in_parts
from .owning import COUNTER, Own, affine, affine_names, aliases_of, check_affine, fold_affine, own_names

PREPARING = threading.RLock()  # of the module, so that networks can be copied and pickled; it is held for milliseconds


class ElasticModel(nn.Module):
    """A network of nested levels. `net` holds the sorted weights; `family` says which slots a level keeps."""

    def __init__(self, net: nn.Module, graph: Graph, family: Family) -> None:
        super().__init__()
        check_levels(family.levels, graph)
        _check_largest(family.levels[-1], graph)
        _check_places(family, graph)
        self.net, self.graph, self.family = net, graph, family
        self._own_names = own_names(net, family.own)
        check_affine(net, family.affine)
        self._affine_names = [name for layer in family.affine for name in affine_names(layer)]
        self._cuts = {level.name: cuts_of(graph, self.kept(level.name)) for level in family.levels}
        self.own = nn.ModuleList(self._owned(level) for level in family.levels[:-1])
        self._views = {level.name: self._framed(level) for level in family.levels[:-1]}  # a dict: not submodules
        self._active = family.levels[-1].name
        self.training = self._mode = net.training  # `_mode` is that of the views
        self._bound = self._changed = False
        self._running = threading.RLock()
        # A hook, as a parent that is loaded calls no override.
        self.register_load_state_dict_post_hook(_moved)  # type: ignore[no-untyped-call]
        self._bind()

    # -- levels

    @property
    def levels(self) -> tuple[Level, ...]:
        """The settings, the smallest first."""
        return self.family.levels

    @property
    def active_subnet(self) -> str:
        """The name of the level that `forward` runs."""
        return self._active

    def set_active_subnet(self, name: str) -> None:
        """Run this level from the next call on; calls in progress finish as they began. LamellaError for an unknown name."""
        self._check(name)
        self._active = name

    def forward(self, *inputs: Any, **named: Any) -> Any:
        name = self._active  # read once: another thread may switch meanwhile
        if self.training and torch.is_grad_enabled():
            return self.run(name, *inputs, **named)
        return self.view(name)(*inputs, **named)

    def view(self, name: str) -> nn.Module:
        """The level as a module whose weights are views of the shared ones. It lives, and changes, with this network."""
        self._check(name)
        if self._counted() != self._count:
            self.refresh()
        self._prepare(anew=self._changed)
        return self._views.get(name, self.net)

    def refresh(self) -> None:
        """The shared weights have changed through `.data`: what the views copied of them is copied again at the next call."""
        self._changed = True

    def run(self, name: str, *inputs: Any, **named: Any) -> Any:
        """The level's outputs, with gradients to the shared weights and to its own."""
        self._check(name)
        self._prepare()
        self.refresh()  # an optimizer's step may follow
        if name not in self._views:
            return self.net(*inputs, **named)
        with self._running:  # it swaps the view's tensors: of two threads one would lose its gradients
            return functional_call(self._views[name], self.tensors(name), inputs, named)

    def extract(self, name: str, *, rounded: bool = True) -> nn.Module:
        """The level as a plain module with weights of its own, in evaluation mode.

        What a level without batch norms scales and shifts goes into its weights and biases, so that outputs are the same to
        rounding; else to the bit. `rounded=False` leaves the bits of a level aside: its float weights, as an exporter wants them.
        """
        view = self.view(name)
        with torch.no_grad():
            floats = {n: t.detach().clone() for n, t in self.tensors(name).items() if n not in self._aliases}
        module = copied(view, {} if rounded else floats)
        for layer in () if rounded else self._setting(name).ranges:
            hooks = module.get_submodule(layer)._forward_pre_hooks
            for key in [key for key, hook in hooks.items() if isinstance(hook, InputGrid)]:
                del hooks[key]
        for layer in self.family.affine if name in self._views else ():
            fold_affine(module, layer)
        trained = {n: p.requires_grad for n, p in self.net.named_parameters(remove_duplicate=False)}
        for n, parameter in module.named_parameters(remove_duplicate=False):
            parameter.requires_grad_(trained[n])
        return module.eval()

    def kept(self, name: str) -> dict[str, tuple[int, ...]]:
        """The slots of `net` that each narrowed group keeps in this level."""
        return kept_slots(self.graph, self.ranks, self._setting(name).widths)

    def dense_channels(self, name: str) -> dict[str, tuple[int, ...]]:
        """The channels of the dense model that each narrowed group keeps in this level, ascending."""
        return {g: tuple(sorted(self.family.order[g][s] for s in slots)) for g, slots in self.kept(name).items()}

    @property
    def ranks(self) -> dict[str, np.ndarray]:
        """The rank of every slot among its part: its place there, where the group is sorted."""
        return {
            g.name: np.asarray(self.family.ranks.get(g.name) or places_in_parts(part_labels(g)))
            for g in self.graph.groups
        }

    def gathered_bytes(self, name: str) -> int:
        """Bytes of weights that the level had to copy, because its channels do not lie evenly spaced (or have bits)."""
        sources = {t.untyped_storage().data_ptr() for t in (*self.parameters(), *self.buffers())}
        module = self.view(name)
        tensors = {id(t): t for t in (*module.parameters(), *module.buffers()) if t.dim()}
        return sum(t.nbytes for t in tensors.values() if t.untyped_storage().data_ptr() not in sources)

    # -- tensors of a level

    def tensors(self, name: str, replaced: Mapping[str, Tensor] = MappingProxyType({})) -> dict[str, Tensor]:
        """Every parameter of the level under all its names, cut from the shared ones or its own; differentiable.

        `replaced`: what the level takes instead, by first name.
        """
        own = self.own_of(name)
        made: dict[str, Tensor] = dict(replaced)
        for n, shared in self.net.named_parameters(remove_duplicate=False):
            first = self._first_name(n)
            made[n] = made[first] if first in made else self._taken(name, first, shared, own)
        return made if own is None else made | {n: own.tensor(n) for n in self._affine_names}

    def _taken(self, name: str, tensor: str, shared: Tensor, own: Own | None) -> Tensor:
        if own is not None and tensor in own.places:
            return own.tensor(tensor)
        found = self._cuts[name].get(tensor)
        return shared if found is None else found.take(shared)

    def cut_of(self, name: str, tensor: str) -> Cut | None:
        """What the level takes of a shared tensor; None for all of it."""
        return self._cuts[name].get(tensor)

    def is_own(self, tensor: str) -> bool:
        """Whether every level has numbers of its own for this tensor."""
        return tensor in self._own_names

    def own_of(self, name: str) -> Own | None:
        """The numbers that belong to a level alone; None for the largest, whose lie in `net`."""
        index = self.family.names.index(name)
        return self.own[index] if index < len(self.own) else None  # type: ignore[return-value]

    def _first_name(self, name: str) -> str:
        return self._aliases.get(name, name)

    # -- building

    def _owned(self, level: Level) -> Own:
        """The level's own numbers, as they are in the largest level."""
        tensors = dict(self.net.named_parameters()) | dict(self.net.named_buffers())
        cuts = self._cuts[level.name]
        taken = {n: cuts[n].take(tensors[n]) if n in cuts else tensors[n] for n in self._own_names}
        trained = {n: p.requires_grad for n, p in self.net.named_parameters() if n in taken}
        for layer in self.family.affine:
            gain, shift = affine_names(layer)
            bias_O = self._taken(level.name, f"{layer}.bias", tensors[f"{layer}.bias"], None)
            taken |= {gain: torch.ones_like(bias_O), shift: torch.zeros_like(bias_O)}
            trained |= dict.fromkeys((gain, shift), tensors[f"{layer}.weight"].requires_grad)
        return Own(taken, trained)

    def _framed(self, level: Level) -> nn.Module:
        """A narrowed module without weights: they are put in by `_bind`."""
        tensors = dict(self.net.named_parameters()) | dict(self.net.named_buffers())
        frame = copied(self.net, {name: t.detach().to("meta") for name, t in tensors.items()})
        module = cut(frame, self.graph, self.kept(level.name))
        for layer, bounds in level.ranges.items():
            module.get_submodule(layer).register_forward_pre_hook(InputGrid(*bounds))
        for layer in self.family.affine:
            module.get_submodule(layer).register_forward_hook(affine)
        return module.train(self.net.training)

    def _prepare(self, *, anew: bool = False) -> None:
        """Let the views hold the weights where they lie now (`anew`: as they are now), and be in this network's mode.

        One thread does it, and the others wait: a flag is set only when all that it says is done.
        """
        if self._bound and self._mode == self.training and not anew:
            return
        with PREPARING:
            if not self._bound or (anew and self._changed):
                self._bind()
            if self._mode != self.training:
                for module in self._views.values():
                    module.train(self.training)
                self._mode = self.training

    def _bind(self) -> None:
        """Let the views hold slices of the weights as they are now."""
        self._aliases = aliases_of(self.net)
        self._sources = self._copied()
        self._count = self._counted()  # before anything is copied: what changes meanwhile is copied again
        with torch.inference_mode(False), torch.no_grad():  # tensors of inference mode could never be trained again
            for name, module in self._views.items():
                self._bind_parameters(module, self.tensors(name), self._setting(name).bits)
                self._bind_buffers(module, name)
        self._bound, self._changed = True, False

    def _copied(self) -> list[Tensor]:
        """The tensors of which some view holds a copy: it takes uneven places of them, or rounds them."""
        tensors = dict(self.net.named_parameters(remove_duplicate=False)) | dict(self.net.named_buffers())
        names = {n for cuts in self._cuts.values() for n, each in cuts.items() if each.copies and not self.is_own(n)}
        names |= {f"{layer}.weight" for level in self.levels for layer in level.bits}
        own = [t for level, own in zip(self.levels, self.own, strict=False) if level.bits for t in own.parameters()]
        return [*(tensors[n] for n in names), *own]

    def _counted(self) -> int:
        """How often these have been changed in place, as torch counts it."""
        return sum(t._version for t in self._sources if not t.is_inference())

    def _bind_parameters(self, module: nn.Module, tensors: Mapping[str, Tensor], bits: Mapping[str, int]) -> None:
        made: dict[str, nn.Parameter] = {}
        for name, tensor in tensors.items():
            first = self._first_name(name)
            path, _, leaf = name.rpartition(".")
            holder = module.get_submodule(path)
            if first not in made:
                if leaf == "weight" and bits.get(path, FLOAT) < FLOAT:
                    tensor = rounded_weight(tensor, bits[path], output_axis(holder))
                made[first] = nn.Parameter(tensor.detach(), requires_grad=False)
            holder._parameters[leaf] = made[first]

    def _bind_buffers(self, module: nn.Module, level: str) -> None:
        own = self.own_of(level)
        for name, buffer in self.net.named_buffers(remove_duplicate=False):
            path, _, leaf = name.rpartition(".")
            counts = leaf == COUNTER
            taken = torch.zeros_like(buffer) if counts else self._taken(level, self._first_name(name), buffer, own)
            holder = module.get_submodule(path)
            if self._bound and self.is_own(self._first_name(name)):
                taken.copy_(getattr(holder, leaf))  # where the module put a new tensor instead of new numbers
            holder._buffers[leaf] = taken.detach()

    def _setting(self, name: str) -> Level:
        return self.family.levels[self.family.names.index(name)]

    def _check(self, name: str) -> None:
        if name not in self._cuts:
            raise LamellaError(unknown_name("level", name, self._cuts))

    # -- an ordinary module

    def train(self, mode: bool = True) -> "ElasticModel":
        super().train(mode)
        self._prepare(anew=not mode and self._changed)  # before threads ask
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> "ElasticModel":
        moved: ElasticModel = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        _moved(self)
        return moved

    def _replicate_for_data_parallel(self) -> "ElasticModel":
        raise LamellaError(
            "the elastic network is wrapped in DataParallel, whose copies have no weights that its levels could be slices of. Train "
            "it on several devices by elasticize(model, net, task, recipe=Recipe(devices=2))."
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: each for name, each in self.__dict__.items() if name != "_running"}  # a lock cannot be copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_running": threading.RLock()})  # type: ignore[no-untyped-call]
        _moved(self)


def _moved(net: ElasticModel, _keys: Any = None) -> None:
    """The weights lie elsewhere now: the views are slices of nothing yet."""
    net._bound = False


def _check_largest(level: Level, graph: Graph) -> None:
    narrowed = [name for name, width in level.widths.items() if width < graph.group_of[name].width]
    if narrowed or level.bits:
        what = f"narrows {narrowed[0]!r}" if narrowed else "has bits"
        raise LamellaError(f"level {level.name!r}: the last level is the dense network in float, and this one {what}.")


def _check_places(family: Family, graph: Graph) -> None:
    """RecordError unless the order names every channel of a group once, and the ranks every place of each part once."""
    for field, found in (("order", family.order), ("ranks", family.ranks)):
        for name, places in found.items():
            check(name in graph.group_of, f"{field}[{name!r}]", "no such group in this model")
            labels = (
                part_labels(graph.group_of[name])
                if field == "ranks"
                else np.zeros(graph.group_of[name].width, dtype=int)
            )
            whole = len(places) == len(labels) and _pairs(labels, places) == _pairs(labels, places_in_parts(labels))
            check(
                whole,
                f"{field}[{name!r}]",
                f"not every one of {len(labels)} places once: the family is damaged, make it again",
            )


def _pairs(labels: np.ndarray, places: Sequence[int] | np.ndarray) -> list[tuple[int, int]]:
    return sorted(zip(labels.tolist(), np.asarray(places).tolist(), strict=True))
