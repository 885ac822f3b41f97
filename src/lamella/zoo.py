"""Networks by name, and their weights from safetensors.

    model = make_model("resnet20")                                        # CIFAR ResNet, option A, 269,722 parameters
    model = make_model("resnet14", widths=(32, 64, 128), in_channels=1)   # for 8x8 digits
    model = load_weights(make_model("resnet20"), "cifar10_resnet20.safetensors")

A row of `MODELS` is a function of keyword options that returns a freshly initialized `nn.Module`; the weights come from
torch's global generator, so seed it first. No `forward` here holds a channel count: narrowed tensors suffice.
Shapes: N batch, C channels, H height, W width.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import LamellaError, MismatchError, RecordError, unknown_name

VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


class PaddedShortcut(nn.Module):
    """Option A (He et al. 2016, section 3.3): every `stride`-th pixel, and zero channels on both sides."""

    before: Tensor
    after: Tensor

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        if outputs < inputs:
            raise LamellaError(f"shortcut 'A' cannot go from {inputs} to {outputs} channels; use shortcut='B'.")
        self.stride = stride
        # The padded channels are a buffer's width, not numbers in `forward`: narrowing shrinks them like any tensor.
        before = (outputs - inputs) // 2
        self.register_buffer("before", torch.zeros(1, before, 1, 1), persistent=False)
        self.register_buffer("after", torch.zeros(1, outputs - inputs - before, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x[:, :, :: self.stride, :: self.stride]
        n, _, h, w = y.shape
        return torch.cat((self.before.expand(n, -1, h, w), y, self.after.expand(n, -1, h, w)), 1)


def projected_shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Option B: a 1x1 convolution and batch norm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


SHORTCUTS: dict[str, Callable[[int, int, int], nn.Module]] = {"A": PaddedShortcut, "B": projected_shortcut}


class ResidualBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), all convolutions 3x3."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity() if same else SHORTCUTS[shortcut](inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A CIFAR ResNet: a stem, three stages (the second and third halve the picture), global mean, one linear layer."""

    def __init__(self, blocks: int, widths: Sequence[int], shortcut: str, in_channels: int, num_classes: int) -> None:
        super().__init__()
        first, second, third = widths
        self.conv1 = nn.Conv2d(in_channels, first, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(blocks, first, first, 1, shortcut)
        self.layer2 = _stage(blocks, first, second, 2, shortcut)
        self.layer3 = _stage(blocks, second, third, 2, shortcut)
        self.linear = nn.Linear(third, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits_NC: Tensor = self.linear(x.mean((2, 3)))
        return logits_NC


def _stage(blocks: int, inputs: int, outputs: int, stride: int, shortcut: str) -> nn.Sequential:
    first = ResidualBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(ResidualBlock(outputs, outputs, 1, shortcut) for _ in range(blocks - 1)))


def resnet(
    depth: int = 20,
    *,
    widths: Sequence[int] = (16, 32, 64),
    shortcut: str = "A",
    in_channels: int = 3,
    num_classes: int = 10,
) -> nn.Module:
    """A CIFAR ResNet of depth 6n + 2 (He et al. 2016, section 4.2). Names follow akamaster/pytorch_resnet_cifar10."""
    if depth < 8 or depth % 6 != 2:
        raise LamellaError(f"a CIFAR ResNet has depth 6n + 2 (8, 14, 20, 26, ...), and {depth} is not one.")
    if shortcut not in SHORTCUTS:
        raise LamellaError(unknown_name("shortcut", shortcut, SHORTCUTS))
    if len(widths) != 3 or min(widths) < 1:
        raise LamellaError(f"a CIFAR ResNet has three positive widths, such as (16, 32, 64), and not {tuple(widths)}.")
    return _initialized(ResNet((depth - 2) // 6, widths, shortcut, in_channels, num_classes))


class Chain(nn.Module):
    """`features` on pictures, flattened, then `classifier`."""

    def __init__(self, features: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features, self.classifier = features, classifier

    def forward(self, x: Tensor) -> Tensor:
        logits_NC: Tensor = self.classifier(self.features(x).flatten(1))
        return logits_NC


def vgg16(
    *,
    batch_norm: bool = False,
    head: Sequence[int] = (4096, 4096),
    in_channels: int = 3,
    num_classes: int = 10,
    image_size: int = 32,
) -> nn.Module:
    """VGG-16 (Simonyan, Zisserman 2015, configuration D). `head`: widths of the hidden linear layers.

    `vgg16_bn` is the one for 32 px with a 512-512 head, 15,253,578 parameters; with `head=()`, one linear layer and
    14,728,266 parameters.
    """
    side = image_size // 32
    if side < 1:
        raise LamellaError(f"VGG-16 halves the picture five times: image_size={image_size} is below 32.")
    layers = [
        module for inputs, item in _with_inputs(VGG16, in_channels) for module in _vgg_part(inputs, item, batch_norm)
    ]
    return _initialized(Chain(nn.Sequential(*layers), _head(512 * side * side, head, num_classes)))


def _with_inputs(plan: Sequence[int | str], inputs: int) -> Iterator[tuple[int, int | str]]:
    for item in plan:
        yield inputs, item
        inputs = item if isinstance(item, int) else inputs


def _vgg_part(inputs: int, item: int | str, batch_norm: bool) -> list[nn.Module]:
    if isinstance(item, str):
        return [nn.MaxPool2d(2)]
    norm: list[nn.Module] = [nn.BatchNorm2d(item)] if batch_norm else []
    return [nn.Conv2d(inputs, item, 3, padding=1), *norm, nn.ReLU()]


def _head(inputs: int, hidden: Sequence[int], classes: int) -> nn.Module:
    """A single linear layer, or dropout-linear-relu for every hidden width and a last linear layer."""
    if not hidden:
        return nn.Linear(inputs, classes)
    parts: list[nn.Module] = []
    for outputs in hidden:
        parts += [nn.Dropout(), nn.Linear(inputs, outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*parts, nn.Linear(inputs, classes))


def alexnet(*, in_channels: int = 3, num_classes: int = 1000, head: Sequence[int] = (4096, 4096)) -> nn.Module:
    """AlexNet for 224 px as torchvision lays it out (Krizhevsky 2014, one column); 61,100,840 parameters."""
    stem = [nn.Conv2d(in_channels, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, padding=2)]
    features = nn.Sequential(*stem, nn.ReLU(), nn.MaxPool2d(3, 2), *_alexnet_tail(), nn.MaxPool2d(3, 2))
    return Chain(features, _head(256 * 6 * 6, head, num_classes))


def alexnet32(*, in_channels: int = 3, num_classes: int = 10, head: Sequence[int] = (4096, 4096)) -> nn.Module:
    """AlexNet's five convolutions for 32 px: 3x3 kernels, stride 2, pools of 2; 2x2 pixels reach the head."""
    stem = [nn.Conv2d(in_channels, 64, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(64, 192, 3, padding=1)]
    features = nn.Sequential(*stem, nn.ReLU(), nn.MaxPool2d(2), *_alexnet_tail(), nn.MaxPool2d(2))
    return Chain(features, _head(256 * 2 * 2, head, num_classes))


def _alexnet_tail() -> list[nn.Module]:
    pairs = ((192, 384), (384, 256), (256, 256))
    return [module for i, o in pairs for module in (nn.Conv2d(i, o, 3, padding=1), nn.ReLU())]


def lenet5(*, in_channels: int = 1, num_classes: int = 10, image_size: int = 28) -> nn.Module:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling, for 28 px (padded to 32) or 32 px; 61,706 parameters."""
    if image_size not in (28, 32):
        raise LamellaError(f"LeNet-5 takes pictures of 28 or 32 px, and not image_size={image_size}.")
    padding = (32 - image_size) // 2
    first = [nn.Conv2d(in_channels, 6, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2)]
    features = nn.Sequential(*first, nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2))
    hidden = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()]
    return Chain(features, nn.Sequential(*hidden, nn.Linear(84, num_classes)))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "elu": F.elu, "tanh": torch.tanh}


class Dense(nn.Module):
    """Linear layers with an activation between them, on flattened inputs (N, inputs)."""

    def __init__(self, sizes: Sequence[int], activation: str = "relu") -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise LamellaError(unknown_name("activation", activation, ACTIVATIONS))
        self.activation = activation
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        outputs_NC: Tensor = self.layers[-1](x)
        return outputs_NC


def autoencoder(
    *,
    widths: Sequence[int] = (16, 8, 4, 2, 4, 8, 16),
    inputs: int = 29,
    outputs: int | None = None,
    activation: str = "relu",
) -> nn.Module:
    """A dense autoencoder (1,351 parameters as it stands); `outputs=10` puts a 10-way head where the copy was.

    `activation`: relu, elu or tanh. Layers of two to four units of ReLU often end up passing nothing on; the others cannot.
    """
    if not widths or min(widths) < 1:
        raise LamellaError(f"an autoencoder has at least one hidden width, all positive, and not {tuple(widths)}.")
    return Dense((inputs, *widths, outputs or inputs), activation)


def _initialized(model: nn.Module) -> nn.Module:
    """He initialization (2015) of every convolution, in place; linear layers keep torch's own."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


MODELS: dict[str, Callable[..., nn.Module]] = {
    "alexnet": alexnet,
    "alexnet32": alexnet32,
    "autoencoder": autoencoder,
    "lenet5": lenet5,
    "resnet": resnet,
    **{f"resnet{depth}": partial(resnet, depth) for depth in (14, 20, 32, 44, 56, 110)},
    "vgg16": vgg16,
    "vgg16_bn": partial(vgg16, batch_norm=True, head=(512, 512)),
}


def make_model(name: str, **options: Any) -> nn.Module:
    """A fresh network by name. `options` are those of its function: widths, shortcut, in_channels, num_classes, ...

    >>> sum(p.numel() for p in make_model("resnet20").parameters())
    269722
    """
    if name not in MODELS:
        raise LamellaError(unknown_name("model", name, MODELS))
    signature = inspect.signature(MODELS[name])
    unknown = [option for option in options if option not in signature.parameters]
    if unknown:
        raise LamellaError(f"model {name!r}: {unknown_name('option', unknown[0], signature.parameters)}")
    return MODELS[name](**options)


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Fill the model, in place, with the weights of a safetensors file or a torch file's state dict, strictly; returns it.

    Batch-norm counters (`num_batches_tracked`) may be absent. Raises RecordError when the file is absent or damaged,
    MismatchError, with the first differences, when it belongs to another model; the model is then as it was.
    """
    weights = _read_weights(path)
    expected = model.state_dict()
    differences = _differences(weights, expected)
    if differences:
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise MismatchError(
            f"{path}: holds the weights of another model than this {type(model).__name__}: "
            f"{'; '.join(differences[:3])}{more}. Name the model and options these weights were trained with."
        )
    model.load_state_dict({**{k: v for k, v in expected.items() if _is_counter(k)}, **weights})
    return model


TORCH_FILES = (".pt", ".pth", ".bin", ".ckpt")


def _read_weights(path: str | Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise RecordError(str(path), "no such file: check the path to the weights")
    if Path(path).suffix.lower() in TORCH_FILES:
        return _read_state(path)
    try:
        return load_file(str(path))
    except (OSError, SafetensorError) as error:
        endings = ", ".join(TORCH_FILES)
        problem = f"cannot be read as safetensors ({error}); copy the file again, or name a torch file so: {endings}"
        raise RecordError(str(path), problem) from None


def _read_state(path: str | Path) -> Mapping[str, Tensor]:
    """The state dict in a torch file, alone or as the only one in a checkpoint. Nothing in the file is run."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged pickle raises is anything
        first = str(error).partition("\n")[0]
        problem = (
            f"holds more than tensors, or is damaged ({type(error).__name__}: {first}). A file that runs code is not read: save "
            "model.state_dict() alone, with safetensors.torch.save_file or torch.save"
        )
        raise RecordError(str(path), problem) from None
    if _is_state(content):
        return dict(content)
    inner = {name: dict(v) for name, v in content.items() if _is_state(v)} if isinstance(content, Mapping) else {}
    if len(inner) == 1:
        return next(iter(inner.values()))
    seen = f"state dicts {', '.join(map(repr, inner))}" if inner else f"a {type(content).__name__} without a state dict"
    raise RecordError(str(path), f"holds {seen}; one state dict, names to tensors, was expected: save it alone")


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _differences(seen: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What sets a file's tensors apart from a model's, one clause each, in the model's order."""
    absent = [f"{k!r} is missing" for k in expected if k not in seen and not _is_counter(k)]
    other = [
        f"{k!r} is {_described(seen[k])} in the file and {_described(v)} in the model"
        for k, v in expected.items()
        if k in seen and (seen[k].shape != v.shape or seen[k].is_floating_point() != v.is_floating_point())
    ]
    unknown = [f"{k!r} is not in the model" for k in seen if k not in expected]
    return absent + other + unknown


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
