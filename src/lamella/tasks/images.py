"""Image sets in their official files: read, split, normalized, augmented.

    (images, labels), test = read_mnist(Path("data/MNIST"))
    task = image_task("digits", None, seed=0, batch_size=128, limit=None, validation="heldout")

A row of `TASKS` says how a set is read, normalized and augmented. Networks trained here never see validation images.
Shapes: N images, C channels, H height, W width.
"""

import gzip
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad as padded

from ..errors import DataError, needing
from ..training import Batches, Task

Bytes = NDArray[np.uint8]
Images = tuple[Bytes, Bytes]  # images (N, C, H, W) and their classes (N,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A data set: `read(directory)` gives training and test images; `mean` and `std` are of values in [0, 1].

    `peak` is the brightest value, `held_out` the number of last training images kept for validation. Augmentation
    shifts by up to `shift` pixels and, where `flip` holds, mirrors half of the images.
    """

    read: Callable[[Path | None], tuple[Images, Images]]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    peak: float = 255.0
    held_out: int = 5000
    shift: int = 0
    flip: bool = False

    @property
    def in_channels(self) -> int:
        return len(self.mean)


@dataclass(frozen=True, slots=True)
class Prepare:
    """Bytes (N, C, H, W) to normalized float32: (x / peak - mean) / std; `augmented` shifts and mirrors first."""

    source: Source
    augmented: bool = False

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if self.augmented and self.source.shift:
            images = shifted(images, self.source.shift, generator)
        if self.augmented and self.source.flip:
            images = mirrored(images, generator)
        constants = (self.source.mean, self.source.std)
        mean_C, std_C = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in constants)
        return (images.float() / self.source.peak - mean_C) / std_C


def shifted(images_NCHW: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Every image moved by -most .. most pixels in both directions, black where nothing was."""
    n, _, height, width = images_NCHW.shape
    top_N, left_N = torch.randint(0, 2 * most + 1, (2, n), generator=generator)
    rows_NHW = (top_N.view(n, 1, 1) + torch.arange(height).view(1, -1, 1)).expand(n, height, width)
    columns_NHW = (left_N.view(n, 1, 1) + torch.arange(width).view(1, 1, -1)).expand(n, height, width)
    framed_NHWC = padded(images_NCHW, (most, most, most, most)).permute(0, 2, 3, 1)
    return framed_NHWC[torch.arange(n).view(n, 1, 1), rows_NHW, columns_NHW].permute(0, 3, 1, 2).contiguous()


def mirrored(images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Every image mirrored left to right with probability one half."""
    chosen_N = (torch.rand(len(images_NCHW), generator=generator) < 0.5).to(images_NCHW.device)
    return torch.where(chosen_N.view(-1, 1, 1, 1), images_NCHW.flip(3), images_NCHW)


def read_digits(directory: Path | None = None) -> tuple[Images, Images]:
    """scikit-learn's 1,797 real 8x8 digits (Alpaydin, Kaynak 1998), values 0 .. 16: 1,437 to train and 360 to test."""
    with needing("scikit-learn", "data", "the digits task"):
        from sklearn.datasets import load_digits
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8)[:, None], digits.target.astype(np.uint8)
    order = stratified_order(labels)
    train, test = order[:1437], order[1437:]
    return (images[train], labels[train]), (images[test], labels[test])


def stratified_order(labels_N: Bytes) -> NDArray[np.int64]:
    """An order in which any stretch holds every class in its share, give or take one; the same on every machine."""
    chance_N = np.random.default_rng(0).random(len(labels_N))
    place_N = np.empty(len(labels_N))
    for label in np.unique(labels_N):
        members = np.flatnonzero(labels_N == label)
        rank = np.argsort(np.argsort(chance_N[members]))
        place_N[members] = (rank + chance_N[members]) / len(members)
    return np.argsort(place_N, kind="stable")


def read_mnist(directory: Path | None) -> tuple[Images, Images]:
    """The four idx files of MNIST (LeCun et al. 1998), gzipped or not: 60,000 and 10,000 images of 28 px."""
    files = [f"{split}-{part}-ubyte" for split in ("train", "t10k") for part in ("images-idx3", "labels-idx1")]
    folder = _folder("mnist", directory, ("", "raw", "MNIST/raw"), files, compressed=True)
    return _read_idx_pair(folder, "train", 60000), _read_idx_pair(folder, "t10k", 10000)


def _read_idx_pair(folder: Path, split: str, count: int) -> Images:
    images = _read_idx(_present(folder / f"{split}-images-idx3-ubyte"), (count, 28, 28))
    labels = _read_idx(_present(folder / f"{split}-labels-idx1-ubyte"), (count,))
    return images[:, None], _classes(labels, 10, folder)


def _read_idx(path: Path, shape: tuple[int, ...]) -> Bytes:
    """An idx file: 0, 0, 8 (unsigned bytes), the number of axes, every extent in 4 bytes (big-endian), the data."""
    data = _read_bytes(path)
    head = np.array([0x0800 + len(shape), *shape], dtype=">i4").tobytes()
    _check_size(path, len(data), len(head) + int(np.prod(shape)))
    if data[: len(head)] != head:
        seen = np.frombuffer(data[: len(head)], dtype=">i4").tolist()
        wanted = np.frombuffer(head, dtype=">i4").tolist()
        raise DataError(f"{path}: begins with {seen}, and {wanted} was expected: not the official idx file. {AGAIN}")
    return np.frombuffer(data, dtype=np.uint8, offset=len(head)).reshape(shape)


def read_cifar10(directory: Path | None) -> tuple[Images, Images]:
    """The binary version of CIFAR-10 (Krizhevsky 2009): six files of 10,000 rows, each a class and 3,072 pixels."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)]
    folder = _folder("cifar10", directory, ("", "cifar-10-batches-bin"), [*names, "test_batch.bin"])
    return _read_cifar(folder, names, 10000, 10), _read_cifar(folder, ["test_batch.bin"], 10000, 10)


def read_cifar100(directory: Path | None) -> tuple[Images, Images]:
    """The binary version of CIFAR-100: rows of a coarse class, a fine class (the one used) and 3,072 pixels."""
    folder = _folder("cifar100", directory, ("", "cifar-100-binary"), ["train.bin", "test.bin"])
    return _read_cifar(folder, ["train.bin"], 50000, 100), _read_cifar(folder, ["test.bin"], 10000, 100)


def _read_cifar(folder: Path, names: Sequence[str], rows: int, classes: int) -> Images:
    head = 2 if classes == 100 else 1
    parts = []
    for name in names:
        data = _read_bytes(folder / name)
        _check_size(folder / name, len(data), rows * (head + 3072))
        parts.append(np.frombuffer(data, dtype=np.uint8).reshape(rows, head + 3072))
        _classes(parts[-1][:, head - 1], classes, folder / name)
    table = np.concatenate(parts)
    return table[:, head:].reshape(-1, 3, 32, 32), table[:, head - 1]


AGAIN = "Fetch or unpack it again."


def _folder(
    task: str, directory: Path | None, below: Sequence[str], files: Sequence[str], compressed: bool = False
) -> Path:
    """The first of the folders `below` the directory that holds the files; DataError says what was sought and where."""
    wanted = f"the official files {', '.join(files)}" + (" (or the same with .gz)" if compressed else "")
    if directory is None:
        raise DataError(
            f"task {task!r}: no data directory was named. Name the one that holds {wanted} in data= (--data)."
        )
    if not directory.is_dir():
        raise DataError(f"task {task!r}: {directory} is not a directory. Name the one that holds {wanted}.")
    folders = [directory / name for name in below]
    absent = {folder: [f for f in files if not _present(folder / f).exists()] for folder in folders}
    nearest = min(folders, key=lambda folder: len(absent[folder]))
    if absent[nearest]:
        looked = ", ".join(map(str, folders))
        raise DataError(
            f"task {task!r}: {', '.join(absent[nearest])} not found (looked in {looked}). Name the directory that "
            f"holds {wanted}."
        )
    return nearest


def _present(path: Path) -> Path:
    """The path, or the gzipped file beside it where only that is there."""
    zipped = path.with_name(f"{path.name}.gz")
    return zipped if zipped.exists() and not path.exists() else path


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); it is damaged or was cut short. {AGAIN}") from None


def _check_size(path: Path, seen: int, expected: int) -> None:
    if seen != expected:
        raise DataError(f"{path}: holds {seen:,} bytes, and the official file has {expected:,}. {AGAIN}")


def _classes(labels_N: Bytes, count: int, place: Path) -> Bytes:
    if labels_N.max() >= count:
        raise DataError(f"{place}: holds class {labels_N.max()}, and 0 .. {count - 1} was expected: damaged. {AGAIN}")
    return labels_N


TASKS: dict[str, Source] = {
    "cifar10": Source(
        read=read_cifar10,
        num_classes=10,
        mean=(0.485, 0.456, 0.406),  # ImageNet's, as the published CIFAR ResNets were trained with
        std=(0.229, 0.224, 0.225),
        shift=4,
        flip=True,
    ),
    "cifar100": Source(
        read=read_cifar100,
        num_classes=100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        shift=4,
        flip=True,
    ),
    "digits": Source(read=read_digits, num_classes=10, mean=(0.3053,), std=(0.3760,), peak=16.0, held_out=360, shift=1),
    "mnist": Source(read=read_mnist, num_classes=10, mean=(0.1307,), std=(0.3081,)),
}


@dataclass(frozen=True, slots=True)
class Splits:
    """Training, validation and test images, and the sentence that a table of results must carry."""

    train: Images
    validation: Images
    test: Images
    note: str


def _heldout(train: Images, test: Images, held_out: int) -> Splits:
    note = f"validation: the last {held_out:,} training images, which training does not see; test: all test images."
    return Splits(_cut(train, slice(-held_out)), _cut(train, slice(-held_out, None)), test, note)


def _test_even(train: Images, test: Images, held_out: int) -> Splits:
    note = (
        "these weights may have been trained on every training image, so validation is the test images at even index "
        "and the reported test is those at odd index."
    )
    return Splits(train, _cut(test, slice(0, None, 2)), _cut(test, slice(1, None, 2)), note)


VALIDATIONS: dict[str, Callable[[Images, Images, int], Splits]] = {"heldout": _heldout, "test_even": _test_even}


def _cut(images: Images, part: slice) -> Images:
    return images[0][part], images[1][part]


def image_task(name: str, data: Path | None, *, seed: int, batch_size: int, limit: int | None, validation: str) -> Task:
    """A row of `TASKS` as a Task; `validation` is a name of `VALIDATIONS`."""
    source = TASKS[name]
    splits = VALIDATIONS[validation](*source.read(data), source.held_out)
    train, held, test = (_tensors(images, limit) for images in (splits.train, splits.validation, splits.test))
    as_is = Prepare(source)
    return Task(
        (next(iter(Batches(*held, 1, transform=as_is)))[0],),
        train=Batches(*train, batch_size, shuffle=True, transform=Prepare(source, augmented=True)),
        validation=Batches(*held, batch_size, transform=as_is),
        test=Batches(*test, batch_size, transform=as_is),
        calibration=Batches(*train, batch_size, shuffle=True, transform=as_is, seed=seed),
        name=name,
        notes=(splits.note,),
    )


def _tensors(images: Images, limit: int | None) -> tuple[Tensor, Tensor]:
    """The first `limit` images as bytes and their classes as int64. Copies: what was read is let go."""
    pixels_NCHW, labels_N = _cut(images, slice(limit))
    return torch.from_numpy(np.array(pixels_NCHW)), torch.from_numpy(labels_N.astype(np.int64))
