"""What a network is trained and judged on: `Batches` in memory, and the `Task` that holds them.

    train = Batches(images, labels, 64, shuffle=True)
    list(train.epoch(seed=0, epoch=3))                                # the same batches whenever it is asked
    task  = Task((images[:1],), train=train, validation=..., test=...)

A loader is anything that can be walked again and again and yields (inputs, targets).
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from ..errors import DataError, first_line
from ..schema import Metric, Standardization

Loader = Iterable[Any]
Loss = Callable[..., Tensor]
PerSample = Callable[[Any, Any], Tensor]
Transform = Callable[[Any, torch.Generator], Any]

# Of torch's messages: "Input type (double) and bias type (float) should be the same".
OTHER_NUMBERS = ("type", "not implemented for")


CLASS_NUMBERS = "class numbers go from 0 to one below the number of outputs. Number the classes so, or give the network an output for each"


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the largest of the logits (N, C) is the target class (N,), else 0; NaN where a logit is. Shape (N,)."""
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        seen = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise DataError(
            f"the default score takes logits of shape (N, C), and the network gave {seen}. Pass Task(score=...), a function of (outputs, "
            "targets) that gives one number per sample; to evaluate, evaluate(model, batches, task.score)."
        )
    if not isinstance(targets, Tensor) or targets.shape != outputs.shape[:1]:
        raise DataError(
            f"the default score takes a class number for each of {len(outputs)} samples, shape ({len(outputs)},), and the targets are "
            f"{_form(targets)}. Give an array or a list as torch.as_tensor(targets), a column as targets.flatten(), shares of every "
            "class as targets.argmax(1), or pass Task(score=...)."
        )
    classes = outputs.shape[1]
    if bool(((targets < 0) | (targets >= classes)).any()):
        raise DataError(
            f"the targets reach from {targets.min().item()} to {targets.max().item()}, and the network answers for {classes} classes: "
            f"{CLASS_NUMBERS}; where a label marks samples to ignore, pass Task(score=...), which says what they count."
        )
    right_N = (outputs.argmax(1) == targets).double()
    # argmax of NaN is a class like any other: a broken network would pass for a guessing one.
    return right_N.masked_fill(outputs.isnan().any(1), math.nan)


def _form(targets: Any) -> str:
    if isinstance(targets, Tensor):
        return f"{_listed({targets.dtype})} numbers of shape {tuple(targets.shape)}"
    return f"a {type(targets).__name__}"


@dataclass(frozen=True, slots=True)
class Task:
    """What a network is trained and judged on. `score(outputs, targets)` is per sample, (N,), and higher is better.

    Choices are made on `validation`, `test` is only reported, `calibration` (default: `train`) re-estimates statistics
    and ranges. `notes` say what a table of results must tell about the data, `standardization` how its inputs were made from a table.
    """

    example_inputs: tuple[Tensor, ...]
    _: KW_ONLY
    train: Loader
    validation: Loader
    test: Loader
    loss: Loss = cross_entropy
    score: PerSample = correct
    name: str = "custom"
    calibration: Loader = ()
    notes: tuple[str, ...] = ()
    standardization: Standardization | None = None

    def __post_init__(self) -> None:
        example = self.example_inputs
        object.__setattr__(self, "example_inputs", (example,) if isinstance(example, Tensor) else tuple(example))
        if self.calibration == ():
            object.__setattr__(self, "calibration", self.train)
        for part in ("train", "validation", "test", "calibration"):
            _check_loader(getattr(self, part), f"Task {self.name!r}, {part}")


def metric_of(task: Task) -> Metric:
    """What the task's scores are: accuracies, of classes, or a score of its own."""
    return "accuracy" if task.score is correct else "score"


def _check_loader(loader: Any, place: str) -> None:
    if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
        raise DataError(
            f"{place}: a {type(loader).__name__} was given; something that can be walked many times was expected. "
            "Pass a Batches, a DataLoader or a list of (inputs, targets)."
        )


def empty_loader() -> DataError:
    return DataError(
        "the loader gave no batch; at least one (inputs, targets) was expected. Check its data and its sampler; a "
        "generator can be walked only once: pass a Batches, a DataLoader or a list."
    )


class Batches:
    """Samples in memory, cut into batches; walking it twice gives the same batches twice.

    `transform(inputs, generator)` makes ready (and augments) the inputs of a batch. A plain walk is epoch 0 of `seed`.
    """

    def __init__(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        targets: Any,
        batch_size: int,
        shuffle: bool = False,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        leaves = tree_leaves((inputs, targets))
        others = sorted({type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor)})
        if others:
            raise DataError(
                f"Batches: inputs and targets hold {', '.join(others)} where tensors were expected: nothing else is cut into batches. "
                "Give torch.as_tensor(values)."
            )
        sizes = {len(leaf) for leaf in leaves}
        if len(sizes) != 1:
            raise DataError(f"Batches: inputs and targets hold {sorted(sizes)} samples; equally many were expected.")
        if batch_size < 1:
            raise DataError(f"Batches: batch_size is {batch_size}; at least 1 was expected.")
        self.inputs, self.targets, self.batch_size = inputs, targets, batch_size
        self.shuffle, self.transform, self.seed = shuffle, transform, seed
        self.samples = sizes.pop()

    def __len__(self) -> int:
        """The number of batches; the last one may be smaller."""
        return math.ceil(self.samples / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self.epoch(self.seed, 0)

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Any, Any]]:
        """The batches of one epoch. Order and augmentation follow from (seed, epoch) alone."""
        generator = torch.Generator().manual_seed(mixed(seed, epoch))
        order_N = self.order(generator)
        # torch splits nothing into one empty part.
        for rows in torch.split(order_N, self.batch_size) if self.samples else ():
            inputs, targets = tree_map_only(Tensor, lambda leaf: leaf[rows], (self.inputs, self.targets))  # noqa: B023
            yield (self.transform(inputs, generator) if self.transform else inputs), targets

    def order(self, generator: torch.Generator) -> Tensor:
        """Sample numbers in the order of an epoch, (N,)."""
        return torch.randperm(self.samples, generator=generator) if self.shuffle else torch.arange(self.samples)


def one_epoch(loader: Loader, seed: int, epoch: int) -> Iterable[Any]:
    """The loader's batches of one epoch, by seed where it knows how."""
    made: Callable[[int, int], Iterable[Any]] | None = getattr(loader, "epoch", None)
    return made(seed, epoch) if callable(made) else loader


class Portion:
    """A loader whose epoch is only so many samples of another's, drawn anew each epoch where that one shuffles.

    For tuning where an epoch is dear. The last batch of a `Batches` is cut; other loaders' batches stay whole, so that a few samples
    more may come.
    """

    def __init__(self, loader: Loader, samples: int) -> None:
        if samples < 1:
            raise DataError(f"Portion: {samples} samples an epoch; at least 1 was expected.")
        known = loader.samples if isinstance(loader, Batches | Portion) else samples
        self.loader: Loader = loader.loader if isinstance(loader, Portion) else loader
        self.samples: int = min(samples, known)

    def __len__(self) -> int:
        """The number of batches; TypeError where that is not known beforehand, as of a stream."""
        if isinstance(self.loader, Batches):
            return math.ceil(self.samples / self.loader.batch_size)
        if isinstance(self.loader, Sequence):
            return sum(1 for _ in self.epoch(0, 0))
        size = getattr(self.loader, "batch_size", None)
        if not isinstance(size, int) or not isinstance(self.loader, Sized):
            raise TypeError(f"a portion of a {type(self.loader).__name__} has no known number of batches")
        return min(len(self.loader), math.ceil(self.samples / size))

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self.epoch(getattr(self.loader, "seed", 0), 0)

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Any, Any]]:
        """The first samples of the other loader's epoch."""
        left = self.samples
        for index, batch in enumerate(one_epoch(self.loader, seed, epoch)):
            inputs, targets = as_pair(batch, index)
            if isinstance(self.loader, Batches):
                inputs, targets = tree_map_only(Tensor, lambda leaf: leaf[:left], (inputs, targets))  # noqa: B023
            yield inputs, targets
            left -= batch_length(inputs)
            if left <= 0:
                return


def mixed(*numbers: int) -> int:
    """A seed that follows from several numbers, unrelated to the seeds of their neighbours.

    >>> mixed(0, 1) == mixed(1, 0)
    False
    """
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest())


def call(model: nn.Module, inputs: Any) -> Any:
    """The model's outputs; a tuple of inputs becomes its arguments. DataError for inputs of numbers that it cannot compute with."""
    try:
        return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)
    except RuntimeError as error:
        if not any(words in str(error) for words in OTHER_NUMBERS):
            raise
        seen = _kinds(tensors_of(inputs))
        expected = _kinds(weight for weight in model.parameters() if weight.is_floating_point())
        if not expected or not seen - expected:
            raise
        raise DataError(
            f"the network cannot compute with inputs of {_listed(seen)}: its weights are {_listed(expected)} (torch: "
            f"{first_line(error)}). Give batches of the numbers that it takes, those of the example inputs: for float32, "
            "inputs.float() in the dataset or in the DataLoader's collate_fn."
        ) from error


def _kinds(tensors: Iterable[Tensor]) -> set[torch.dtype]:
    return {tensor.dtype for tensor in tensors}


def _listed(kinds: Iterable[torch.dtype]) -> str:
    return ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))


def batch_length(inputs: Any) -> int:
    """How many samples the inputs hold: the extent of the first tensor that has an axis along it."""
    return next((len(leaf) for leaf in tensors_of(inputs) if leaf.dim()), 0)


def carry_batch(inputs: Any) -> list[bool]:
    """Which of the input tensors carry the batch: those as long as the first one along axis 0. A mask or a temperature may not."""
    size = batch_length(inputs)
    return [leaf.dim() > 0 and len(leaf) == size for leaf in tensors_of(inputs)]


def cut_batch(inputs: Any, cut: Callable[[Tensor], Tensor], carries: Sequence[bool] | None = None) -> Any:
    """The inputs with `cut` done to the tensors that carry the batch, as `carry_batch` finds unless given."""
    carried = iter(carry_batch(inputs) if carries is None else carries)
    return tree_map_only(Tensor, lambda leaf: cut(leaf) if next(carried) else leaf, inputs)


def first_inputs(loader: Loader, samples: int) -> Any:
    """The inputs of the first batches as one, until they come to so many samples; of one batch where shapes differ from it."""
    batches: list[Any] = []
    for index, batch in enumerate(loader):
        inputs = inputs_of(batch, index)
        if batches and _shapes(inputs) != _shapes(batches[0]):
            break
        batches.append(inputs)
        if sum(map(batch_length, batches)) >= samples:
            break
    if not batches:
        raise empty_loader()
    carries = iter(carry_batch(batches[0]))
    return tree_map(
        lambda *leaves: torch.cat(leaves) if isinstance(leaves[0], Tensor) and next(carries) else leaves[0], *batches
    )


def _shapes(inputs: Any) -> list[torch.Size]:
    """What one sample's tensors look like, and those that are no batch of any."""
    carries = carry_batch(inputs)
    return [leaf.shape[1:] if has else leaf.shape for leaf, has in zip(tensors_of(inputs), carries, strict=True)]


def tensors_of(values: Any) -> list[Tensor]:
    """The tensors of a network's inputs or outputs."""
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def as_pair(batch: Any, index: int) -> tuple[Any, Any]:
    """Inputs and targets of batch `index`. DataError for a batch of another form."""
    if not isinstance(batch, Sequence) or len(batch) != 2:
        raise _other_form(batch, index)
    inputs, targets = batch
    _check_tensors(inputs, index)
    return inputs, targets


def inputs_of(batch: Any, index: int) -> Any:
    """The inputs of batch `index`, which may have no targets: (inputs,). DataError for a batch of another form."""
    if not isinstance(batch, Sequence) or not batch:
        raise _other_form(batch, index)
    _check_tensors(batch[0], index)
    return batch[0]


def _check_tensors(inputs: Any, index: int) -> None:
    leaves = tree_leaves(inputs)
    if not any(isinstance(leaf, Tensor) for leaf in leaves):
        seen = f"{type(leaves[0]).__name__}s" if leaves else f"an empty {type(inputs).__name__}"
        raise DataError(
            f"the inputs of batch {index} are {seen}, and no tensor is among them; a tensor, or a tuple, list or dict of them, was "
            "expected. Make tensors of them (torch.from_numpy(array)) in the dataset or in the DataLoader's collate_fn."
        )


def _other_form(batch: Any, index: int) -> DataError:
    seen = f"a {type(batch).__name__}{f' of {len(batch)}' if isinstance(batch, Sized) else ''}"
    return DataError(
        f"batch {index} is {seen}; a pair (inputs, targets) was expected. Several inputs are a tuple of their own, ((a, b), targets): "
        "arrange them so in the dataset, or in the DataLoader's collate_fn."
    )


def on_device(batch: Any, device: torch.device | str) -> Any:
    """The batch with every tensor on the device."""
    return tree_map_only(Tensor, lambda leaf: leaf.to(device), batch)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first tensor lies; the CPU for a model without any."""
    tensors = (*model.parameters(), *model.buffers())
    return tensors[0].device if tensors else torch.device("cpu")
