"""Awkward networks, each under twenty lines: what narrowing has to get right, or refuse with a reason.

    for entry in ZOO: model, inputs = entry.make(); graph = trace(model, inputs)

`reach` is the least share of parameters that halving every free group must remove; `frozen` are words that some frozen group's
reason must hold. `make(width)` draws the weights from torch's generator, so seed it first. `width` scales the channels.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lamella.schema import Graph
from lamella.tracing import trace


@dataclass(frozen=True)
class Entry:
    """One network: a function of a width, what halving must remove at least, and words of the reasons it must give."""

    name: str
    build: Callable[[int], tuple[nn.Module, tuple[Any, ...]]]
    reach: float
    frozen: tuple[str, ...]

    def make(self, width: int = 8) -> tuple[nn.Module, tuple[Any, ...]]:
        """The network in evaluation mode with norms that are not trivial, and inputs for it."""
        model, inputs = self.build(width)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                nn.init.uniform_(module.running_mean, -0.5, 0.5)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                if module.affine:
                    nn.init.normal_(module.bias, 0, 0.5)
        return model.eval(), inputs


ZOO: list[Entry] = []


def net(reach: float = 0.3, frozen: tuple[str, ...] = ()) -> Callable[[Callable], Callable]:
    """Register a function of a width that returns a network and its inputs."""

    def register(build: Callable) -> Callable:
        ZOO.append(Entry(build.__name__, build, reach, frozen))
        return build

    return register


class Fn(nn.Module):
    """Modules by name, and a forward given as a function of (self, *inputs)."""

    def __init__(self, forward: Callable, numbers: dict[str, Any] | None = None, **parts: Any) -> None:
        super().__init__()
        self._run = forward
        for name, value in (numbers or {}).items():
            setattr(self, name, value)
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs: Any) -> Any:
        return self._run(self, *inputs)


def picture(channels: int = 3, size: int = 8) -> tuple[Tensor]:
    return (torch.randn(2, channels, size, size),)


def cbr(i: int, o: int, k: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o), nn.ReLU())


def head(i: int, o: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(i, o))


# ---- plain


@net(0.5)
def chain(w):
    return nn.Sequential(cbr(3, w), cbr(w, 2 * w), head(2 * w)), picture()


@net(0.5)
def flattened(w):
    return nn.Sequential(
        cbr(3, w), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(4 * w, 2 * w), nn.ReLU(), nn.Linear(2 * w, 3)
    ), picture()


@net(0.5)
def conv1d(w):
    c = nn.Conv1d
    return nn.Sequential(
        c(2, w, 3), nn.BatchNorm1d(w), nn.ELU(), c(w, w, 3), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(4 * w, 3)
    ), (torch.randn(2, 2, 12),)


@net(0.5)
def conv3d(w):
    c = nn.Conv3d
    return nn.Sequential(
        c(1, w, 3), nn.BatchNorm3d(w), nn.GELU(), c(w, w, 2), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(w, 3)
    ), (torch.randn(2, 1, 6, 6, 6),)


@net(0.5)
def multilayer(w):
    return nn.Sequential(
        nn.Linear(7, 2 * w), nn.BatchNorm1d(2 * w), nn.Sigmoid(), nn.Linear(2 * w, w), nn.Tanh(), nn.Linear(w, 1)
    ), (torch.randn(4, 7),)


@net(0.4)
def in_place(w):
    def run(s, x):
        y = s.a(x)
        y += s.b(x)
        y.relu_().mul_(2).clamp_(max=3)
        y[:, :, 0] = 0
        return s.out(F.hardswish(y, inplace=True))

    return Fn(run, a=nn.Conv2d(3, w, 3, padding=1), b=nn.Conv2d(3, w, 1), out=head(w)), picture()


@net(0.4)
def dropped(w):
    class StochasticDepth(nn.Module):
        def forward(self, x):
            keep = torch.rand(x.shape[0], 1, 1, 1) > 0.5 if self.training else 1.0
            return x * keep

    def run(s, x):
        x = s.stem(x)
        return s.out(x + s.drop(s.body(x)))

    return Fn(
        run, stem=cbr(3, w), body=nn.Sequential(cbr(w, w), nn.Dropout2d(0.5)), drop=StochasticDepth(), out=head(w)
    ), picture()


# ---- shortcuts


@net(0.5)
def residual(w):
    def run(s, x):
        x = s.stem(x)
        x = F.relu(s.body(x) + x)
        return s.out(F.relu(s.down(x) + s.skip(x)))

    return Fn(
        run,
        stem=cbr(3, w),
        body=cbr(w, w),
        down=cbr(w, 2 * w, stride=2),
        skip=nn.Conv2d(w, 2 * w, 1, 2),
        out=head(2 * w),
    ), picture()


@net(0.2, ("channels that cannot leave",))
def padded_shortcut(w):  # He et al. 2016, option A as a lambda: the padded channels are constants
    def run(s, x):
        x = s.stem(x)
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, w // 2, w // 2))
        return s.out(F.relu(s.down(x) + shortcut))

    return Fn(
        run, stem=cbr(3, w), down=nn.Sequential(cbr(w, w), nn.Conv2d(w, 2 * w, 3, 2, 1)), out=head(2 * w)
    ), picture()


@net(0.5)
def padded_by_buffers(w):
    def run(s, x):
        x = s.stem(x)
        y = x[:, :, ::2, ::2]
        n, _, h, v = y.shape
        y = torch.cat((s.before.expand(n, -1, h, v), y, s.after.expand(n, -1, h, v)), 1)
        return s.out(F.relu(s.down(x) + y))

    zeros = torch.zeros(1, w // 2, 1, 1)
    return Fn(
        run, stem=cbr(3, w), down=nn.Conv2d(w, 2 * w, 3, 2, 1), before=zeros, after=zeros.clone(), out=head(2 * w)
    ), picture()


@net(0.5)
def inverted_residual(w):
    def run(s, x):
        x = s.stem(x)
        return s.out(x + s.project(s.deep(s.expand(x))))

    return Fn(
        run,
        stem=cbr(3, w),
        expand=cbr(w, 4 * w, 1),
        deep=cbr(4 * w, 4 * w, groups=4 * w),
        project=nn.Conv2d(4 * w, w, 1),
        out=head(w),
    ), picture()


@net(0.4)
def dense_concat(w):
    def run(s, x):
        x = s.stem(x)
        x = torch.cat((x, s.one(x)), 1)
        return s.out(torch.cat((x, s.two(x)), 1))

    return Fn(run, stem=cbr(3, w), one=cbr(w, w), two=cbr(2 * w, w), out=head(3 * w)), picture()


@net(0.4)
def u_net(w):
    def run(s, x):
        a = s.a(x)
        b = s.b(F.max_pool2d(a, 2))
        return s.out(s.c(torch.cat((a, s.up(b)), 1)))

    return Fn(
        run,
        a=cbr(3, w),
        b=cbr(w, 2 * w),
        up=nn.ConvTranspose2d(2 * w, w, 2, 2),
        c=cbr(2 * w, w),
        out=nn.Conv2d(w, 2, 1),
    ), picture()


@net(0.3)
def upsampled(w):
    def run(s, x):
        a, b = s.a(x), s.b(F.avg_pool2d(x, 2))
        return s.out(a + s.up(b) + F.interpolate(b, size=a.shape[2:], mode="bilinear"))

    return Fn(run, a=cbr(3, w), b=cbr(3, w), up=nn.Upsample(scale_factor=2), out=head(w)), picture()


@net(0.3)
def stacked(w):
    def run(s, x):
        return s.out(torch.stack([s.a(x), s.b(x), s.c(x)]).sum(0))

    return Fn(run, a=cbr(3, w), b=cbr(3, w), c=cbr(3, w), out=head(w)), picture()


# ---- groups of channels


@net(0.4)
def grouped(w):
    return nn.Sequential(cbr(3, 2 * w), cbr(2 * w, 2 * w, groups=4), cbr(2 * w, w, 1), head(w)), picture()


@net(0.4)
def depthwise_multiplier(w):
    return nn.Sequential(
        cbr(3, w), nn.Conv2d(w, 2 * w, 3, groups=w), nn.BatchNorm2d(2 * w), nn.ReLU(), head(2 * w)
    ), picture()


@net(0.4)
def transposed(w):
    t = nn.ConvTranspose2d
    return nn.Sequential(cbr(3, w), t(w, 2 * w, 2, 2), nn.BatchNorm2d(2 * w), nn.ReLU(), t(2 * w, 2, 3)), picture()


@net(0.4)
def grouped_transposed(w):
    return nn.Sequential(
        cbr(3, 2 * w), nn.ConvTranspose2d(2 * w, 4 * w, 2, 2, groups=2), nn.ReLU(), head(4 * w)
    ), picture()


@net(0.3)
def depthwise_transposed(w):
    t = nn.ConvTranspose2d
    return nn.Sequential(
        cbr(3, w), t(w, w, 2, 2, groups=w), nn.ReLU(), t(w, 2 * w, 3, groups=w), head(2 * w)
    ), picture()


@net(0.4)
def channel_shuffle(w):
    def run(s, x):
        x = s.a(x)
        n, c, h, v = x.shape
        x = x.view(n, 2, c // 2, h, v).transpose(1, 2).reshape(n, c, h, v)
        return s.out(s.c(F.channel_shuffle(s.b(x), 4)))

    return Fn(run, a=cbr(3, 2 * w), b=cbr(2 * w, 2 * w, 1, groups=2), c=cbr(2 * w, w), out=head(w)), picture()


@net(0.3)
def shuffle_units(w):  # ShuffleNetV2: halves, concatenation, shuffle, twice; the parts are of unequal size
    class Unit(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.body = nn.Sequential(
                cbr(c // 2, c // 2, 1), nn.Conv2d(c // 2, c // 2, 3, 1, 1, groups=c // 2), cbr(c // 2, c // 2, 1)
            )

        def forward(self, x):
            a, b = x.chunk(2, dim=1)
            x = torch.cat((a, self.body(b)), 1)
            n, c, h, v = x.shape
            return x.view(n, 2, c // 2, h, v).transpose(1, 2).contiguous().view(n, c, h, v)

    return nn.Sequential(cbr(3, 6 * w), Unit(6 * w), Unit(6 * w), head(6 * w)), picture()


@net(0.3)
def res2net(w):  # a split of `width` channels that is written down in the module
    def run(s, x):
        pieces = torch.split(s.a(x), s.width, 1)
        one = s.one(pieces[0])
        two = s.two(one + pieces[1])
        return s.out(torch.cat((one, two, pieces[2]), 1))

    return Fn(run, {"width": w}, a=cbr(3, 3 * w), one=cbr(w, w), two=cbr(w, w), out=head(3 * w)), picture()


@net(0.4)
def cross_stage(w):  # CSP: two halves by slicing
    def run(s, x):
        x = s.a(x)
        half = x.shape[1] // 2
        return s.out(torch.cat((x[:, :half], s.b(x[:, half:])), 1))

    return Fn(run, a=cbr(3, 2 * w), b=nn.Sequential(cbr(w, 2 * w), cbr(2 * w, w)), out=head(2 * w)), picture()


@net(0.3)
def uneven_split(w):  # dual path: the numbers are attributes
    def run(s, x):
        a, b = torch.split(s.a(x), [s.kept, s.grown], 1)
        return s.out(torch.cat((a, s.b(b)), 1))

    return Fn(run, {"kept": w, "grown": 2 * w}, a=cbr(3, 3 * w), b=cbr(2 * w, w), out=head(2 * w)), picture()


@net(0.1, ("constant",))
def fixed_slice(w):  # five channels, whatever the width: no number follows
    def run(s, x):
        x = s.a(x)
        return s.out(torch.cat((x[:, :5], s.b(x)), 1))

    return Fn(run, a=cbr(3, w + 1), b=cbr(w + 1, 2 * w), out=head(2 * w + 5)), picture()


@net(0.4)
def gated(w):
    def run(s, x):
        return s.out(s.b(F.glu(s.a(x), 1)))

    return Fn(run, a=nn.Conv2d(3, 2 * w, 3), b=cbr(w, 2 * w), out=head(2 * w)), picture()


@net(0.4)
def chunk_gated(w):
    def run(s, x):
        a, b = s.a(x).chunk(2, 1)
        return s.out(a * torch.sigmoid(b))

    return Fn(run, a=nn.Sequential(cbr(3, 2 * w), nn.Conv2d(2 * w, 2 * w, 1)), out=head(w)), picture()


@net(0.3)
def pixel_shuffle(w):
    return nn.Sequential(
        cbr(3, w),
        nn.Conv2d(w, 4 * w, 3),
        nn.PixelShuffle(2),
        nn.ReLU(),
        nn.Conv2d(w, w, 3),
        nn.PixelUnshuffle(2),
        head(4 * w),
    ), picture()


# ---- sizes


@net(0.4)
def hard_coded_view(w):  # the flattened size is a number in forward: what feeds it cannot shrink
    def run(s, x):
        return s.out(s.b(s.a(x)).view(-1, 4 * 2 * w))

    return Fn(
        run, a=cbr(3, 8 * w), b=nn.Sequential(cbr(8 * w, 2 * w), nn.AdaptiveAvgPool2d(2)), out=nn.Linear(8 * w, 3)
    ), picture()


@net(0.5)
def remembered_view(w):  # the flattened size is an attribute: it follows
    def run(s, x):
        return s.out(s.a(x).view(-1, s.flat))

    return Fn(
        run,
        {"flat": 8 * w},
        a=nn.Sequential(cbr(3, 2 * w), nn.AdaptiveAvgPool2d(2)),
        out=nn.Sequential(nn.Linear(8 * w, w), nn.ReLU(), nn.Linear(w, 3)),
    ), picture()


@net(0.4)
def decoder(w):  # linear -> unflatten -> transposed convolutions
    return nn.Sequential(
        nn.Linear(6, 16 * w),
        nn.ReLU(),
        nn.Unflatten(1, (w, 4, 4)),
        nn.ConvTranspose2d(w, w, 2, 2),
        nn.ReLU(),
        nn.ConvTranspose2d(w, 1, 2, 2),
    ), (torch.randn(2, 6),)


# ---- attention and scales


@net(0.4)
def squeeze_excite(w):
    def run(s, x):
        x = s.a(x)
        return s.out(x * s.gate(x.mean((2, 3), keepdim=True)))

    gate = nn.Sequential(nn.Conv2d(2 * w, w, 1), nn.SiLU(), nn.Conv2d(w, 2 * w, 1), nn.Sigmoid())
    return Fn(run, a=cbr(3, 2 * w), gate=gate, out=head(2 * w)), picture()


@net(0.3)
def spatial_attention(w):  # CBAM: statistics over channels
    def run(s, x):
        x = s.b(s.a(x))
        return s.out(x * torch.sigmoid(s.gate(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1))))

    return Fn(run, a=cbr(3, 2 * w), b=cbr(2 * w, w), gate=nn.Conv2d(2, 1, 3, padding=1), out=head(w)), picture()


@net(0.4)
def norms(w):
    return nn.Sequential(
        nn.Conv2d(3, 2 * w, 3),
        nn.GroupNorm(4, 2 * w),
        nn.Conv2d(2 * w, 2 * w, 1),
        nn.GroupNorm(2 * w, 2 * w),
        nn.Conv2d(2 * w, w, 1),
        nn.InstanceNorm2d(w, affine=True),
        nn.PReLU(w),
        head(w),
    ), picture()


@net(0.4)
def layer_scaled(w):  # a ConvNeXt block
    def run(s, x):
        x = s.stem(x)
        y = s.norm(s.deep(x).permute(0, 2, 3, 1))
        y = s.two(F.gelu(s.one(y))) * s.gamma
        return s.out(x + y.permute(0, 3, 1, 2))

    deep = nn.Conv2d(w, w, 3, padding=1, groups=w)
    return Fn(
        run,
        stem=nn.Conv2d(3, w, 2, 2),
        deep=deep,
        norm=nn.LayerNorm(w),
        one=nn.Linear(w, 4 * w),
        two=nn.Linear(4 * w, w),
        gamma=nn.Parameter(torch.full((w,), 1e-6)),
        out=head(w),
    ), picture()


@net(0.4)
def heads_by_hand(w):  # whole heads leave: num_heads and the sizes of the views follow
    def run(s, x):
        b, n, _ = x.shape
        q, k, v = s.qkv(x).reshape(b, n, 3, s.num_heads, s.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.transpose(-2, -1)) * s.head_dim**-0.5).softmax(-1) @ v
        return s.out(s.proj(y.transpose(1, 2).flatten(2)).mean(1))

    numbers = {"num_heads": 4, "head_dim": w}
    return Fn(run, numbers, qkv=nn.Linear(6, 12 * w), proj=nn.Linear(4 * w, 2 * w), out=nn.Linear(2 * w, 3)), (
        torch.randn(2, 5, 6),
    )


@net(0.1, ("nn.MultiheadAttention",))
def multihead_module(w):
    def run(s, x):
        x = s.embed(x)
        x = x + s.attend(x, x, x, need_weights=False)[0]
        return s.out((x + s.mlp(s.norm(x))).mean(1))

    mlp = nn.Sequential(nn.Linear(2 * w, 8 * w), nn.GELU(), nn.Linear(8 * w, 2 * w))
    return Fn(
        run,
        embed=nn.Linear(6, 2 * w),
        attend=nn.MultiheadAttention(2 * w, 2, batch_first=True),
        norm=nn.LayerNorm(2 * w),
        mlp=mlp,
        out=nn.Linear(2 * w, 3),
    ), (torch.randn(2, 5, 6),)


@net(0.4)
def vision_transformer(w):
    def run(s, x):
        x = s.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((s.token.expand(x.shape[0], -1, -1), x), 1) + s.position
        b, n, _ = x.shape
        q, k, v = s.qkv(s.norm(x)).reshape(b, n, 3, s.num_heads, s.head_dim).permute(2, 0, 3, 1, 4)
        x = x + s.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, s.num_heads * s.head_dim))
        return s.out((x + s.mlp(x))[:, 0])

    d = 2 * w
    parts = {
        "patch": nn.Conv2d(3, d, 4, 4),
        "qkv": nn.Linear(d, 12 * w),
        "norm": nn.LayerNorm(d),
        "proj": nn.Linear(4 * w, d),
    }
    parts |= {
        "token": nn.Parameter(torch.randn(1, 1, d)),
        "position": nn.Parameter(torch.randn(1, 5, d)),
        "out": nn.Linear(d, 3),
    }
    return Fn(
        run,
        {"num_heads": 4, "head_dim": w},
        mlp=nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d)),
        **parts,
    ), picture()


@net(0.1, ("a size in",))
def windows(
    w,
):  # a head's size is that of the stream by the heads: neither can shrink alone, though both by a half would fit
    def run(s, x):
        x = s.patch(x).flatten(2).transpose(1, 2)
        b, n, c = x.shape
        q, k, v = s.qkv(x).reshape(b, n, 3, s.num_heads, c // s.num_heads).permute(2, 0, 3, 1, 4)
        x = s.proj((q @ k.transpose(-2, -1)).softmax(-1).matmul(v).transpose(1, 2).reshape(b, n, c))
        return s.out(F.gelu(s.mix(x)).mean(1))

    d = 2 * w
    return Fn(
        run,
        {"num_heads": 4},
        patch=nn.Conv2d(3, d, 4, 4),
        qkv=nn.Linear(d, 3 * d),
        proj=nn.Linear(d, d),
        mix=nn.Linear(d, d),
        out=nn.Linear(d, 3),
    ), picture()


# ---- parameters in odd places


@net(0.4)
def functional(w):
    def run(s, x):
        x = F.conv2d(x, s.weight, s.bias, padding=1)
        x = F.batch_norm(x, s.mean, s.var, s.scale, s.shift)
        return s.out(torch.einsum("bchw,cd->bdhw", F.relu(x), s.matrix))

    p = lambda *shape: nn.Parameter(torch.randn(*shape) / 3)
    return Fn(
        run,
        weight=p(2 * w, 3, 3, 3),
        bias=p(2 * w),
        mean=torch.randn(2 * w),
        var=torch.rand(2 * w) + 0.5,
        scale=p(2 * w),
        shift=p(2 * w),
        matrix=p(2 * w, w),
        out=head(w),
    ), picture()


@net(0.4)
def blurred(w):  # a fixed filter per channel, as a buffer, and the number of channels beside it
    def run(s, x):
        x = s.a(x)
        return s.out(F.conv2d(x, s.blur, stride=2, groups=s.channels))

    return Fn(
        run, {"channels": 2 * w}, a=cbr(3, 2 * w), blur=torch.full((2 * w, 1, 2, 2), 0.25), out=head(2 * w)
    ), picture()


@net(0.4)
def shared(w):  # one layer, called twice
    def run(s, x):
        x = s.stem(x)
        return s.out(s.body(F.relu(s.body(x))))

    return Fn(run, stem=cbr(3, 2 * w), body=nn.Conv2d(2 * w, 2 * w, 3, padding=1), out=head(2 * w)), picture()


@net(0.4)
def shared_groups(w):  # grouped layers, each called twice
    def run(s, x):
        x = s.down(F.relu(s.down(s.stem(x))))
        return s.out(s.up(F.relu(s.up(x))))

    down, up = nn.Conv2d(2 * w, 2 * w, 3, padding=1, groups=4), nn.ConvTranspose2d(2 * w, 2 * w, 1, groups=2)
    return Fn(run, stem=cbr(3, 2 * w), down=down, up=up, out=head(2 * w)), picture()


@net(0.4)
def shared_head(w):  # a pyramid of two levels and one head for both
    def run(s, x):
        a = s.a(x)
        b = s.b(a)
        top = s.upper(b)
        return [s.last(F.relu(s.head(level))) for level in (s.lower(a) + F.interpolate(top, scale_factor=2), top)]

    c = nn.Conv2d
    parts = {"lower": c(w, w, 1), "upper": c(2 * w, w, 1), "head": c(w, w, 3, padding=1), "last": c(w, 2, 1)}
    return Fn(run, a=cbr(3, w), b=cbr(w, 2 * w, stride=2), **parts), picture()


@net(0.3)
def auxiliary(w):  # a second head that only training sees
    def run(s, x):
        x = s.b(s.a(x))
        return (s.out(s.c(x)), s.aux(x)) if s.training else s.out(s.c(x))

    aux = nn.Sequential(
        nn.AdaptiveAvgPool2d(2), nn.Conv2d(2 * w, w, 1), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(4 * w, 5)
    )
    return Fn(run, a=cbr(3, w), b=cbr(w, 2 * w, groups=2), c=cbr(2 * w, w), aux=aux, out=head(w)), picture()


@net(0.3)
def tied(w):  # an autoencoder whose decoder is its encoder, transposed
    def run(s, x):
        return F.linear(torch.relu(s.two(torch.relu(s.one(x)))), s.one.weight.t())

    return Fn(run, one=nn.Linear(9, 2 * w), two=nn.Linear(2 * w, 2 * w)), (torch.randn(3, 9),)


@net(0.3)
def tied_modules(w):
    a, b = nn.Conv2d(2 * w, 2 * w, 3, padding=1), nn.Conv2d(2 * w, 2 * w, 3, padding=1)
    b.weight = a.weight
    return nn.Sequential(cbr(3, 2 * w), a, nn.ReLU(), b, nn.ReLU(), head(2 * w)), picture()


@net(0.02, ("weight norm",))
def weight_normed(w):
    wn = torch.nn.utils.parametrizations.weight_norm
    return nn.Sequential(nn.Conv2d(3, w, 3), nn.ReLU(), wn(nn.Conv2d(w, 2 * w, 3)), nn.ReLU(), head(2 * w)), picture()


@net(0.4)
def standardized(w):  # weight standardization: statistics over the columns
    def run(s, x):
        weight = F.batch_norm(
            s.two.weight.reshape(1, len(s.gain), -1), None, None, weight=s.gain.view(-1), training=True
        )
        x = F.relu(F.conv2d(F.relu(s.one(x)), weight.reshape_as(s.two.weight), s.two.bias))
        return s.out(x)

    return Fn(
        run,
        one=nn.Conv2d(3, w, 3),
        two=nn.Conv2d(w, 2 * w, 3),
        gain=nn.Parameter(torch.rand(2 * w, 1, 1, 1) + 0.5),
        out=head(2 * w),
    ), picture()


@net(0.3)
def embedded(w):
    def run(s, words, x):
        return s.out(F.relu(s.mix(torch.cat((s.table(words).mean(1), s.lift(x)), -1))))

    return Fn(
        run, table=nn.Embedding(11, w), lift=nn.Linear(4, w), mix=nn.Linear(2 * w, 2 * w), out=nn.Linear(2 * w, 2)
    ), (torch.randint(0, 11, (3, 6)), torch.randn(3, 4))


# ---- layers that multiply other than their weight at every position


@net(0.4, ("constant size",))
def mixer(w):  # an MLP-Mixer block: the layers over tokens work on every channel, those over channels on every token
    def run(s, x):
        x = s.stem(x).flatten(2)
        x = (x + s.tokens(x)).transpose(1, 2)
        return s.out((x + s.channels(x)).mean(1))

    tokens = nn.Sequential(nn.Linear(16, 2 * w), nn.GELU(), nn.Linear(2 * w, 16))
    channels = nn.Sequential(nn.Linear(w, 3 * w), nn.GELU(), nn.Linear(3 * w, w))
    return Fn(run, stem=nn.Conv2d(3, w, 2, 2), tokens=tokens, channels=channels, out=nn.Linear(w, 3)), picture()


@net(0.4)
def graph_product(w):  # a product of parameters and activations mixes the nodes of a graph, channel by channel
    def run(s, x):
        x = F.relu(s.matrix @ s.one(x))
        return s.out(F.relu(s.matrix @ s.two(x)).mean(1))

    parts = {"one": nn.Linear(3, w), "two": nn.Linear(w, 2 * w), "out": nn.Linear(2 * w, 3)}
    return Fn(run, matrix=nn.Parameter(torch.rand(5, 5)), **parts), (torch.randn(2, 5, 3),)


@net(0.1, ("nn.MultiheadAttention",))
def cross_attention(
    w,
):  # a third of the projection meets one input, two thirds the other, and the two are of unequal length
    def run(s, x, y):
        q, k = s.query(x), s.key(y)
        return s.out(s.mlp(s.attend(q, k, k, need_weights=False)[0]).mean(1))

    parts = {"query": nn.Linear(5, 2 * w), "key": nn.Linear(4, 2 * w), "out": nn.Linear(4 * w, 3)}
    attend, mlp = nn.MultiheadAttention(2 * w, 2, batch_first=True), nn.Sequential(nn.Linear(2 * w, 4 * w), nn.ReLU())
    return Fn(run, attend=attend, mlp=mlp, **parts), (torch.randn(2, 3, 5), torch.randn(2, 7, 4))


@net(0.3, ("sliced at constant positions",))
def weight_slices(w):  # two convolutions of two sizes from one parameter
    def run(s, x):
        x = s.stem(x)
        one, two = F.conv2d(x, s.weight[:w], padding=1), F.conv2d(x, s.weight[w:])
        return s.one(F.relu(one).mean((2, 3))), s.two(F.relu(two).mean((2, 3)))

    weight = nn.Parameter(torch.randn(3 * w, w, 3, 3) / 9)
    return Fn(run, stem=cbr(3, w), weight=weight, one=nn.Linear(w, 3), two=nn.Linear(2 * w, 3)), picture()


# ---- inputs and outputs


@net(0.4)
def several_inputs(w):
    def run(s, x, y):
        return s.out(s.a(x) * s.b(y))

    return Fn(run, a=cbr(3, 2 * w), b=cbr(1, 2 * w), out=nn.Sequential(cbr(2 * w, w), head(w))), (
        *picture(),
        *picture(1),
    )


@net(0.4)
def several_outputs(w):
    def run(s, x):
        x = s.a(x)
        return s.one(x), s.two(s.b(x))

    return Fn(run, a=cbr(3, 2 * w), b=cbr(2 * w, w), one=head(2 * w), two=nn.Conv2d(w, 2, 1)), picture()


@net(0.3, ("model output",))
def dict_output(w):
    def run(s, x):
        x = s.a(x)
        features = s.b(x)
        return {"features": features, "logits": s.out(s.c(features))}

    return Fn(run, a=cbr(3, 4 * w), b=cbr(4 * w, w), c=cbr(w, 2 * w), out=head(2 * w)), picture()


NAMES = [entry.name for entry in ZOO]
BY_NAME = {entry.name: entry for entry in ZOO}


@cache
def traced(name: str, width: int = 8) -> tuple[nn.Module, tuple[Any, ...], Graph]:
    """A network of the zoo, its inputs and its graph, made once per process; tracing leaves the module as it was."""
    torch.manual_seed(0)
    model, inputs = BY_NAME[name].make(width)
    model.train()
    before = fingerprint(model)
    graph = trace(model, inputs, round_to=1)
    assert fingerprint(model) == before, f"tracing changed {name}"
    return model.eval(), inputs, graph


def fingerprint(model: nn.Module) -> list[Any]:
    """Everything of a module that a verb must leave alone: tensors bit for bit, flags, plain attributes, hooks."""
    tensors = [
        (n, t.data_ptr(), t.requires_grad, t.detach().clone().numpy().tobytes())
        for n, t in model.state_dict(keep_vars=True).items()
    ]
    plain = [
        {
            k: (tuple(v) if isinstance(v, list) else v)
            for k, v in vars(m).items()
            if isinstance(v, bool | int | tuple | list)
        }
        for m in model.modules()
    ]
    hooks = [(list(m._forward_hooks), list(m._forward_pre_hooks), "forward" in vars(m)) for m in model.modules()]
    return [tensors, plain, hooks]


def outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """The tensors among a model's outputs."""
    with torch.no_grad():
        return [t for t in tree_leaves(model(*inputs)) if isinstance(t, Tensor)]


def widened(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[nn.Module, tuple[Any, ...]]:
    """The same in float64."""
    wide = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    return copy.deepcopy(model).double(), wide
