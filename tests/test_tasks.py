"""Tasks: the official files, written here and read back; splits that do not leak; data that is absent or damaged."""

import builtins
import gzip
import struct

import numpy as np
import pytest
import torch

from lamella.errors import DataError, LamellaError, MissingExtra
from lamella.tasks import TASKS, Prepare, images, make_task, mirrored, shifted, stratified_order


def labels(batches):
    return torch.cat([targets for _, targets in batches])


def sparse(path, size):
    """A file of zeros that takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """The official layout. Zeros, but for random rows in the first file, the end of the fifth, and the test file."""
    folder = tmp_path_factory.mktemp("data") / "cifar-10-batches-bin"
    random = np.random.default_rng(0)
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        sparse(folder / name, 10000 * 3073)
    rows = {}
    for name, start in (("data_batch_1.bin", 0), ("data_batch_5.bin", 5000), ("test_batch.bin", 0)):
        rows[name] = random.integers(0, 256, (20, 3073), dtype=np.uint8)
        rows[name][:, 0] %= 10
        with (folder / name).open("r+b") as file:
            file.seek(start * 3073)
            file.write(rows[name].tobytes())
    return folder, rows


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """Four idx files, the test images gzipped as they are handed out."""
    folder = tmp_path_factory.mktemp("data") / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for split, n in (("train", 60000), ("t10k", 10000)):
        images = np.zeros((n, 28, 28), np.uint8)
        images[:, 3, 4] = np.arange(n) % 251
        content = struct.pack(">4i", 2051, n, 28, 28) + images.tobytes()
        zipped = split == "t10k"
        name = f"{split}-images-idx3-ubyte" + (".gz" if zipped else "")
        (folder / name).write_bytes(gzip.compress(content, 1) if zipped else content)
        digits = (np.arange(n) % 10).astype(np.uint8)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, n) + digits.tobytes())
    return folder


# -- digits


def test_digits_are_split_by_class_and_never_share_an_image():
    task = make_task("digits", batch_size=64)
    assert [b.samples for b in (task.train, task.validation, task.test)] == [1077, 360, 360]
    for part in (task.train, task.validation, task.test):
        counts = torch.bincount(part.targets, minlength=10) / part.samples
        assert counts.max() - counts.min() < 0.015
    pictures = [{p.numpy().tobytes() for p in part.inputs} for part in (task.train, task.validation, task.test)]
    assert not pictures[0] & pictures[1]
    assert not (pictures[0] | pictures[1]) & pictures[2]
    assert task.example_inputs[0].shape == (1, 1, 8, 8)
    assert task.name == "digits"
    assert "360 training images" in task.notes[0]


def test_digits_are_standardized():
    task = make_task("digits")
    pixels = torch.cat([x for x, _ in task.calibration])
    assert abs(pixels.mean()) < 0.01
    assert abs(pixels.std() - 1) < 0.01
    assert torch.equal(task.example_inputs[0], next(iter(task.validation))[0][:1])


def test_the_seed_orders_calibration_and_never_the_splits():
    first, other = make_task("digits", seed=0), make_task("digits", seed=1)
    assert torch.equal(first.validation.inputs, other.validation.inputs)
    assert torch.equal(first.train.inputs, other.train.inputs)
    assert not torch.equal(labels(first.calibration), labels(other.calibration))
    assert torch.equal(labels(first.calibration), labels(make_task("digits").calibration))


def test_limit_keeps_the_first_of_every_split():
    whole, few = make_task("digits"), make_task("digits", limit=50)
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(few, part).inputs, getattr(whole, part).inputs[:50])
    assert torch.bincount(few.train.targets).tolist() == [5] * 10


def test_any_stretch_of_the_stratified_order_is_balanced():
    chosen = np.repeat(np.arange(4), [10, 20, 30, 40]).astype(np.uint8)
    order = stratified_order(chosen)
    assert sorted(order) == list(range(100))
    assert np.abs(np.bincount(chosen[order[20:70]], minlength=4) - [5, 10, 15, 20]).max() <= 1


def test_digits_without_scikit_learn_name_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"the digits task needs scikit-learn.*lamella\[data\]"):
        make_task("digits")


# -- official files


def test_cifar10_is_read_as_written(cifar10):
    folder, rows = cifar10
    task = make_task("cifar10", folder, batch_size=10)
    assert [b.samples for b in (task.train, task.validation, task.test)] == [45000, 5000, 10000]
    for part, name in (
        (task.train, "data_batch_1.bin"),
        (task.validation, "data_batch_5.bin"),
        (task.test, "test_batch.bin"),
    ):
        assert np.array_equal(part.inputs[:20].numpy().reshape(20, -1), rows[name][:, 1:])
        assert part.targets[:20].tolist() == rows[name][:, 0].tolist()
    x, _ = next(iter(task.test))
    red = (torch.from_numpy(rows["test_batch.bin"][:10, 1:1025].astype(np.float32)) / 255 - 0.485) / 0.229
    assert torch.allclose(x[:, 0].flatten(1), red, atol=1e-6)
    assert x.shape == (10, 3, 32, 32)


def test_even_test_images_validate_odd_ones_report(cifar10):
    folder, rows = cifar10
    task = make_task("cifar10", str(folder.parent), validation="test_even", limit=10)
    classes = rows["test_batch.bin"][:, 0].tolist()
    assert task.validation.targets.tolist() == classes[0:20:2]
    assert task.test.targets.tolist() == classes[1:20:2]
    assert task.train.targets.tolist() == rows["data_batch_1.bin"][:10, 0].tolist()
    assert "even index" in task.notes[0]


def test_cifar100_takes_the_fine_class(tmp_path):
    random = np.random.default_rng(0)
    for name, n in (("train.bin", 50000), ("test.bin", 10000)):
        sparse(tmp_path / name, n * 3074)
        rows = random.integers(0, 100, (6, 3074), dtype=np.uint8)
        with (tmp_path / name).open("r+b") as file:
            file.write(rows.tobytes())
    task = make_task("cifar100", tmp_path, limit=6)
    assert task.test.targets.tolist() == rows[:, 1].tolist()
    assert np.array_equal(task.test.inputs.numpy().reshape(6, -1), rows[:, 2:])
    assert task.validation.samples == 6


def test_mnist_is_read_zipped_and_not(mnist):
    for directory in (mnist, mnist.parent, mnist.parent.parent):
        task = make_task("mnist", directory, limit=300)
        assert task.test.inputs[:, 0, 3, 4].tolist() == [i % 251 for i in range(300)]
        assert task.test.targets.tolist() == [i % 10 for i in range(300)]
    assert task.validation.inputs[0, 0, 3, 4] == 55000 % 251
    assert task.example_inputs[0].shape == (1, 1, 28, 28)


# -- augmentation


def test_shifts_move_whole_images_and_leave_black(cifar10):
    images = torch.arange(1, 1 + 2 * 3 * 5 * 5, dtype=torch.uint8).view(2, 3, 5, 5).repeat(40, 1, 1, 1)
    moved = shifted(images, 2, torch.Generator().manual_seed(0))
    framed = torch.nn.functional.pad(images, (2, 2, 2, 2))
    found = set()
    for before, after in zip(framed, moved, strict=True):
        places = [(t, s) for t in range(5) for s in range(5) if torch.equal(before[:, t : t + 5, s : s + 5], after)]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) > 15


def test_mirrors_turn_about_half():
    images = torch.rand(400, 1, 2, 3)
    turned = mirrored(images, torch.Generator().manual_seed(0))
    same = (turned == images).flatten(1).all(1)
    assert torch.equal(turned[~same], images[~same].flip(3))
    assert 150 < same.sum() < 250


def test_only_training_batches_are_augmented():
    task = make_task("digits", batch_size=1077)
    plain = Prepare(TASKS["digits"])(task.train.inputs, torch.Generator()).sum((1, 2, 3)).sort().values
    calibrated = next(iter(task.calibration))[0].sum((1, 2, 3)).sort().values
    trained = next(iter(task.train))[0].sum((1, 2, 3)).sort().values
    assert torch.allclose(plain, calibrated, atol=1e-4)
    assert not torch.allclose(plain, trained, atol=1e-1)


# -- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("digit",), LamellaError, "unknown task 'digit'; did you mean 'digits'"),
        (
            ("cifar10",),
            DataError,
            r"task 'cifar10': no data directory was named. Name the one that holds .*test_batch.bin in data= \(--data\)\.",
        ),
        (
            ("cifar10", "/nowhere/at/all"),
            DataError,
            r"task 'cifar10': /nowhere/at/all is not a directory. .*data_batch_1.bin",
        ),
        (("mnist",), DataError, r"train-images-idx3-ubyte.*t10k-labels-idx1-ubyte \(or the same with .gz\)"),
    ],
)
def test_what_is_absent_is_named(arguments, kind, words):
    with pytest.raises(kind, match=words) as caught:
        make_task(*arguments)
    assert "\n" not in str(caught.value)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(LamellaError, match="unknown validation 'held'; did you mean 'heldout'"):
        make_task("digits", validation="held")
    with pytest.raises(DataError, match="limit=0 leaves no image"):
        make_task("digits", limit=0)
    with pytest.raises(DataError, match="batch_size is 0"):
        make_task("digits", batch_size=0)


def test_one_file_missing_is_named_with_the_places_looked_in(tmp_path):
    sparse(tmp_path / "cifar-100-binary" / "train.bin", 50000 * 3074)
    with pytest.raises(DataError, match=r"'cifar100': test.bin not found \(looked in .*cifar-100-binary\)"):
        make_task("cifar100", tmp_path)


def test_a_file_cut_short_is_refused_with_both_sizes(tmp_path):
    for name, n in (("train.bin", 50000), ("test.bin", 9999)):
        sparse(tmp_path / name, n * 3074)
    with pytest.raises(DataError, match=r"test.bin: holds 30,736,926 bytes, and the official file has 30,740,000"):
        make_task("cifar100", tmp_path)


def test_a_class_that_cannot_be_is_damage(tmp_path, monkeypatch):
    data = np.full((10000, 3074), 100, np.uint8).tobytes()
    monkeypatch.setattr(images, "_read_bytes", lambda path: data * (5 if path.name == "train.bin" else 1))
    for name in ("train.bin", "test.bin"):
        sparse(tmp_path / name, 1)
    with pytest.raises(DataError, match=r"train.bin: holds class 100, and 0 .. 99 was expected"):
        make_task("cifar100", tmp_path)


@pytest.mark.parametrize("damage", ["cut", "noise", "inside"])
def test_a_damaged_gz_is_refused(mnist, tmp_path, damage):
    for path in mnist.iterdir():
        (tmp_path / path.name).symlink_to(path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "inside":
        content[500:540] = b"\0" * 40
    path.write_bytes({"cut": content[:999], "noise": b"not gzip", "inside": content}[damage])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.gz: cannot be read .*damaged or was cut short. Fetch"):
        make_task("mnist", tmp_path)


def test_a_file_of_another_kind_is_refused(mnist, tmp_path):
    for path in mnist.iterdir():
        (tmp_path / path.name).symlink_to(path)
    path = tmp_path / "t10k-labels-idx1-ubyte"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(struct.pack(">2i", 2049, 9999) + content[8:])
    with pytest.raises(DataError, match=r"begins with \[2049, 9999\], and \[2049, 10000\] was expected"):
        make_task("mnist", tmp_path)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_source_is_complete(name):
    source = TASKS[name]
    assert source.in_channels == len(source.std)
    assert source.num_classes in (10, 100)
    assert all(0 < value < 1 for value in (*source.mean, *source.std))
