"""The zoo: sizes that the literature states, names that published weights use, and weight files that do not fit."""

import pytest
import torch
from safetensors.torch import save_file

from lamella.errors import LamellaError, MismatchError, RecordError
from lamella.zoo import MODELS, PaddedShortcut, load_weights, make_model

SMALL = {  # options that keep a family quick to build, and an input it takes
    "alexnet": ({"head": (8, 8)}, (2, 3, 224, 224)),
    "alexnet32": ({"head": (8, 8)}, (2, 3, 32, 32)),
    "autoencoder": ({}, (2, 29)),
    "lenet5": ({}, (2, 1, 28, 28)),
    "vgg16": ({"head": (8, 8)}, (2, 3, 32, 32)),
    "vgg16_bn": ({}, (2, 3, 32, 32)),
}
TINY = {"widths": (4, 8, 16), "in_channels": 1}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("resnet20", {}, 269_722),
        ("resnet20", {"shortcut": "B"}, 272_474),
        ("resnet56", {}, 853_018),
        ("vgg16_bn", {}, 15_253_578),
        ("vgg16_bn", {"head": ()}, 14_728_266),
        ("lenet5", {}, 61_706),
        ("lenet5", {"image_size": 32}, 61_706),
        ("autoencoder", {}, 1_351),
        ("autoencoder", {"widths": (4, 2, 6, 2, 6, 2, 4)}, 351),
        ("autoencoder", {"widths": (128, 64, 32, 64, 128), "inputs": 784, "outputs": 10}, 122_538),
    ],
)
def test_parameters_are_those_of_the_literature(name, options, expected):
    assert parameters(make_model(name, **options)) == expected


@pytest.mark.parametrize(("name", "expected"), [("alexnet", 61_100_840), ("vgg16", 33_638_218)])
def test_large_networks_have_the_known_size(name, expected):
    with torch.device("meta"):
        assert parameters(make_model(name)) == expected


def test_vgg_at_224_has_the_size_torchvision_has():
    with torch.device("meta"):
        assert parameters(make_model("vgg16", image_size=224, num_classes=1000)) == 138_357_544


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_runs_and_gives_finite_outputs(name):
    options, shape = SMALL.get(name, (TINY, (2, 1, 8, 8)))
    outputs = make_model(name, **options).eval()(torch.randn(shape))
    assert outputs.shape[0] == 2
    assert outputs.ndim == 2
    assert outputs.isfinite().all()


def test_classes_channels_and_depth_are_options():
    model = make_model("resnet", depth=26, widths=(4, 4, 8), num_classes=7, in_channels=2).eval()
    assert len(model.layer1) == 4
    assert model(torch.zeros(1, 2, 16, 16)).shape == (1, 7)


def test_names_are_those_of_the_published_weights():
    names = set(make_model("resnet14", **TINY).state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.conv1.weight", "layer3.1.bn2.bias", "linear.bias"} <= names
    assert not [n for n in names if "shortcut" in n]
    assert "layer2.0.shortcut.0.weight" in make_model("resnet14", shortcut="B", **TINY).state_dict()


def test_padded_shortcut_subsamples_and_pads_both_sides():
    x = torch.arange(1.0, 1 + 2 * 3 * 4 * 4).view(2, 3, 4, 4)
    y = PaddedShortcut(3, 8, 2)(x)
    assert y.shape == (2, 8, 2, 2)
    assert torch.equal(y[:, 2:5], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 5:].any()


def test_padded_shortcut_follows_its_buffers():
    shortcut = PaddedShortcut(3, 8, 1)
    shortcut.before, shortcut.after = shortcut.before[:, :1], shortcut.after[:, :0]
    assert shortcut(torch.ones(1, 3, 2, 2)).shape == (1, 4, 2, 2)
    assert not shortcut.state_dict()


def test_same_seed_same_weights():
    first, second = ({}, {})
    for weights in (first, second):
        torch.manual_seed(3)
        weights.update(make_model("resnet14", **TINY).state_dict())
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet21", {}, "unknown model 'resnet21'; did you mean 'resnet"),
        ("resnet20", {"width": (1, 2, 3)}, "unknown option 'width'; did you mean 'widths'"),
        ("resnet20", {"shortcut": "C"}, "unknown shortcut 'C'"),
        ("resnet20", {"widths": (8, 16)}, "three positive widths"),
        ("resnet20", {"widths": (16, 8, 8)}, "cannot go from 16 to 8 channels; use shortcut='B'"),
        ("resnet", {"depth": 21}, "6n \\+ 2"),
        ("vgg16", {"image_size": 16}, "image_size=16"),
        ("lenet5", {"image_size": 8}, "image_size=8"),
        ("autoencoder", {"widths": ()}, "at least one hidden width"),
    ],
)
def test_nonsense_is_refused_in_words(name, options, words):
    with pytest.raises(LamellaError, match=words):
        make_model(name, **options)


@pytest.fixture
def weights_file(tmp_path):
    torch.manual_seed(1)
    path = tmp_path / "weights.safetensors"
    save_file(make_model("resnet14", **TINY).state_dict(), path)
    return path


def test_weights_come_back_bit_for_bit(weights_file, tmp_path):
    model = make_model("resnet14", **TINY)
    assert load_weights(model, weights_file) is model
    save_file(model.state_dict(), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == weights_file.read_bytes()


def test_counters_may_be_absent_and_nothing_else(tmp_path):
    weights = make_model("resnet14", **TINY).state_dict()
    bare = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    save_file(bare, tmp_path / "bare")
    model = load_weights(make_model("resnet14", **TINY), tmp_path / "bare")
    assert torch.equal(model.linear.weight, weights["linear.weight"])
    save_file({k: v for k, v in bare.items() if k != "bn1.bias"} | {"head.bias": torch.ones(2)}, tmp_path / "bad")
    with pytest.raises(MismatchError, match=r"'bn1.bias' is missing; 'head.bias' is not in the model"):
        load_weights(model, tmp_path / "bad")


def test_weights_of_another_model_are_refused_and_change_nothing(weights_file):
    model = make_model("resnet14", widths=(4, 8, 12), in_channels=1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(MismatchError) as caught:
        load_weights(model, weights_file)
    said = str(caught.value)
    assert "'layer3.0.conv1.weight' is float32 (16, 8, 3, 3) in the file and float32 (12, 8, 3, 3) in the model" in said
    assert "and 18 more" in said
    assert "\n" not in said
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_weights_of_another_kind_of_number_are_refused(tmp_path):
    model = make_model("autoencoder")
    save_file({k: v.to(torch.uint8) for k, v in model.state_dict().items()}, tmp_path / "bytes")
    with pytest.raises(MismatchError, match=r"is uint8 .* in the file and float32"):
        load_weights(model, tmp_path / "bytes")


@pytest.mark.parametrize("damage", ["absent", "cut", "noise"])
def test_damaged_weights_name_the_file(weights_file, damage):
    content = weights_file.read_bytes()
    if damage == "absent":
        weights_file.unlink()
    else:
        weights_file.write_bytes(content[:1000] if damage == "cut" else b"\xff" * 100)
    problem = "no such file" if damage == "absent" else "cannot be read as safetensors"
    with pytest.raises(RecordError, match=rf"weights.safetensors: {problem}"):
        load_weights(make_model("resnet14", **TINY), weights_file)


def test_torch_files_are_read_where_they_hold_one_state_dict_and_no_code(tmp_path):
    model = make_model("resnet14", **TINY)
    state = model.state_dict()
    for name, content in {"a.pt": state, "b.PTH": {"epoch": 3, "model": state, "optimizer": {"state": {}}}}.items():
        torch.save(content, tmp_path / name)
        fresh = load_weights(make_model("resnet14", **TINY), tmp_path / name)
        assert all(torch.equal(value, state[key]) for key, value in fresh.state_dict().items())
    torch.save(model, tmp_path / "whole.pt")
    (tmp_path / "noise.pt").write_bytes(b"\xff" * 99)
    for name in ("whole.pt", "noise.pt"):
        with pytest.raises(
            RecordError, match=rf"{name}: holds more than tensors, or is damaged.*save model.state_dict\(\)"
        ):
            load_weights(make_model("resnet14", **TINY), tmp_path / name)
    torch.save({"model": state, "ema": state}, tmp_path / "two.pt")
    with pytest.raises(RecordError, match="holds state dicts 'model', 'ema'; one state dict"):
        load_weights(make_model("resnet14", **TINY), tmp_path / "two.pt")
