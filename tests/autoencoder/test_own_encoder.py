"""A person's own encoder: exact sizes, frozen parts that stay, normalisation undone, and every mistake in one line."""

import json
import math
import re
import sys
import warnings

import pytest
import torch
from torch import nn

from errors import message
from halfstride.autoencoder.mirroring import MirrorError
from halfstride.autoencoder.own_encoder import EncoderAutoencoder, load_encoder

# Encoders have all kernels, uneven ones included.
pytestmark = pytest.mark.filterwarnings("ignore::halfstride.checkerboard.UnevenKernelWarning")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def small_encoder(codes=5, channels=3, width=4):
    """For images of 11×13."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * 6 * 7, codes),
    )


def small_model(**options):
    return EncoderAutoencoder(small_encoder(), (11, 13), 3, **options)


def train_steps(model, steps=5):
    model.train()
    images = torch.rand(4, model.channels, *model.image_size, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam((parameter for parameter in model.parameters() if parameter.requires_grad), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(images) - images).square().mean().backward()
        optimizer.step()


# Sizes ------------------------------------------------------------------------------------------------------------
def stack(*layers, features=0):
    """Layers, and behind them a vector of 3 codes where the number of features is given."""
    return nn.Sequential(*layers, *([nn.Flatten(), nn.Linear(features, 3)] if features else []))


# Image size, channels, encoder; all geometries are drawn in the tests of `mirror`.
ENCODERS = {
    "strides": ((37, 29), 1, lambda: stack(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 5, 3))),
    "poolings": ((11, 40), 3, lambda: stack(nn.Conv2d(3, 2, 4, padding=2), nn.MaxPool2d(3, 2), nn.AvgPool2d(2, 3, 1))),
    "vector": ((31, 13), 2, lambda: stack(nn.Conv2d(2, 4, 3, 3), nn.ReLU(), nn.MaxPool2d(2), features=40)),
    "one position": ((7, 7), 1, lambda: stack(nn.Conv2d(1, 4, 7), features=4)),
}


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("upsampling", ["transposed", "resize", "subpixel"])
@pytest.mark.parametrize("freeze", [False, True])
def test_images_of_any_size_come_back_at_exactly_that_size(name, upsampling, freeze):
    size, channels, make = ENCODERS[name]
    model = EncoderAutoencoder(make(), size, channels, upsampling=upsampling, freeze=freeze)
    assert model.latent == ("map" if name in ("strides", "poolings") else "vector")
    assert len(model.latent_shape) == (3 if model.latent == "map" else 1)
    assert model.latent_dim == model.latent_shape[0]
    assert model.image_size == size
    images = torch.rand(2, channels, *size)
    assert model(images).shape == images.shape
    model.eval()
    codes = model.encode(images)
    assert codes.shape == (2, *model.latent_shape)
    output = model(images)
    assert output.shape == images.shape
    torch.testing.assert_close(model.decode(codes, size), output)
    assert output.min() >= 0
    assert output.max() <= 1


def test_images_and_codes_of_another_size_are_named():
    encoder = nn.Sequential(nn.Conv2d(3, 2, 4, 4))
    model = EncoderAutoencoder(encoder, (16, 12), 3)
    assert model.latent_shape == (2, 4, 3)
    with pytest.raises(ValueError, match=r"shape \(1, 3, 16, 16\): this model takes \(N, 3, 16, 12\); bring them"):
        model.encode(torch.rand(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"`images` are torch\.uint8: this model takes floats in \[0, 1\]"):
        model.encode(torch.zeros(1, 3, 16, 12, dtype=torch.uint8))
    with pytest.raises(ValueError, match="N×2×5×5: this model decodes N×2×4×3, also where that is a map: its decoder"):
        model.decode(torch.rand(1, 2, 5, 5))
    with pytest.raises(ValueError, match=r"`output_size` \(=\(15, 12\)\) must be the model's image_size \(16, 12\)"):
        model.decode(torch.rand(1, 2, 4, 3), (15, 12))


def test_it_exports_with_a_free_batch():
    model = small_model().eval()
    images = torch.rand(2, 3, 11, 13)
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(model, (images,), dynamic_shapes={"images": {0: batch}}).module()
    more = torch.rand(7, 3, 11, 13)
    torch.testing.assert_close(exported(more), model(more))


# Freezing ---------------------------------------------------------------------------------------------------------
def test_a_frozen_encoder_does_not_change_while_the_decoder_learns():
    torch.manual_seed(0)
    encoder = small_encoder().train()
    with torch.no_grad():
        encoder(torch.rand(8, 3, 11, 13))  # so that its statistics are not those of a new one
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = EncoderAutoencoder(encoder, (11, 13), 3, freeze=True)
    decoder = {name: value.clone() for name, value in model.decoder.state_dict().items()}
    train_steps(model)
    model.eval()
    train_steps(model.train())
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    assert all(not torch.equal(value, decoder[name]) for name, value in model.decoder.state_dict().items())
    assert model.training
    assert model.decoder.training
    assert not any(module.training for module in model.encoder.modules())
    assert {name.split(".")[0] for name, value in model.named_parameters() if value.requires_grad} == {"decoder"}


def test_an_encoder_that_is_not_frozen_learns_too():
    model = small_model()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    train_steps(model)
    assert all(not torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())


# Normalisation ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), (0.5, 0.25), (0, 1), ([0.1, 0.5, 0.9], 2)])
def test_normalisation_is_undone_in_the_output(mean, std):
    encoder = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False))
    model = EncoderAutoencoder(encoder, 8, 3, mean=mean, std=std).eval()
    with torch.no_grad():
        for layer in (model.encoder[0], model.decoder[0]):
            layer.weight.copy_(torch.eye(3)[..., None, None])
    images = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(model(images), images)
    by_hand = (images - torch.tensor(mean).reshape(-1, 1, 1)) / torch.tensor(std).reshape(-1, 1, 1)
    torch.testing.assert_close(model.encode(images), by_hand)


def test_values_are_clipped_in_evaluation_mode_only():
    model = small_model(mean=MEAN, std=STD)
    nn.init.constant_(model.decoder[-1].bias, 1000)
    images = torch.rand(2, 3, 11, 13)
    assert model.train()(images).min() > 1
    assert (model.eval()(images) == 1).all()


def test_starting_from_images_changes_nothing():
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.initialise(torch.zeros(4, 3, 11, 13, dtype=torch.uint8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# What an encoder must return --------------------------------------------------------------------------------------
class Returns(nn.Conv2d):
    """A convolution that `mirror` knows by its class, and that returns something else."""

    def __init__(self, made, calls=0):
        super().__init__(3, 4, 3)
        self.made, self.calls = made, calls

    def forward(self, images):
        self.calls += 1
        return self.made(super().forward(images), self.calls)


def behind(made):
    """An encoder that `mirror` can undo, with a hook that changes what it returns."""
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3))
    encoder.register_forward_hook(lambda module, images, codes: made(codes))
    return encoder


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda codes: (codes, codes), "`encoder` returns tuple for 2 images: it must return one tensor of codes, N×d"),
        (lambda codes: [codes], "`encoder` returns list for 2 images: it must return one tensor"),
        (lambda codes: {"codes": codes}, "`encoder` returns dict for 2 images: it must return one tensor"),
        (lambda codes: codes[:1], r"returns a tensor of \(1, 4, 9, 9\) for 2 images: it must return one tensor"),
        (lambda codes: codes.mean(), r"returns a tensor of \(\) for 2 images"),
        (lambda codes: codes.flatten(2), r"returns a tensor of \(2, 4, 81\) for 2 images: .* add nn\.Flatten\(\)"),
        (lambda codes: codes / 0 if codes is None else codes.no_such(), "`encoder` does not take .* AttributeError"),
    ],
)
def test_what_is_no_tensor_of_codes_is_named(made, text):
    assert re.search(text, message(EncoderAutoencoder, behind(made), 11, 3))


def test_a_size_that_changes_from_call_to_call_is_named():
    counted = Returns(lambda codes, calls: codes if calls == 1 else codes[..., 1:])
    model = EncoderAutoencoder(nn.Sequential(counted), 11, 3)
    images = torch.rand(2, 3, 11, 11)
    model.encode(images)
    with pytest.raises(ValueError, match="returned codes of N×4×9×9 at first, and of N×4×9×8 now: their size must be"):
        model.encode(images)
    returns_tuple_later = Returns(lambda codes, calls: codes if calls == 1 else (codes,))
    model = EncoderAutoencoder(nn.Sequential(returns_tuple_later), 11, 3)
    model.encode(images)
    with pytest.raises(ValueError, match="`encoder` returns tuple"):
        model.encode(images)


@pytest.mark.parametrize(
    ("encoder", "text"),
    [
        (nn.Conv2d(3, 4, 3), "`encoder` is a Conv2d: only an nn.Sequential says in which order its layers run; wrap"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)), r"cannot undo layer '1' \(AdaptiveAvgPool2d, "),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2)), "layer '2' .*: it has no weights yet;"),
        (Returns(lambda codes, calls: (codes,)), "only an nn.Sequential"),
        (nn.Sequential(Returns(lambda codes, calls: (codes,))), "does not return one output for each input"),
    ],
)
def test_what_mirror_cannot_undo_reaches_the_user_in_one_line(encoder, text):
    assert re.search(text, message(EncoderAutoencoder, encoder, 11, 3, kind=MirrorError))


def test_an_encoder_that_does_not_fit_the_images_is_named():
    with pytest.raises(ValueError, match=r"`input_size` \(=\(1, 11, 13\)\) does not fit the encoder at layer '0'"):
        EncoderAutoencoder(small_encoder(), (11, 13), 1)
    assert re.search(
        "`encoder` does not take float32 images of N×3×11×13: RuntimeError: ",
        message(EncoderAutoencoder, small_encoder().double(), (11, 13), 3),
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"image_size": (11, 0)}, r"`image_size` \(=0\) must be at least 1"),
        ({"image_size": (11, 13, 3)}, r"`image_size` \(=\(11, 13, 3\)\) must be one int, or 2 ints"),
        ({"image_size": [11, True]}, r"`image_size` \(=True\) must be an int of at least 1"),
        ({"channels": 0}, r"`channels` \(=0\) must be at least 1"),
        ({"channels": True}, r"`channels` \(=True\) must be an int of at least 1"),
        ({"upsampling": "bilinear"}, r"`upsampling` \(='bilinear'\) must be one of"),
        ({"freeze": 1}, r"`freeze` \(=1\) must be True or False"),
        ({"mean": (0.5, 0.5)}, r"`mean` \(=\(0\.5, 0\.5\)\) must be a finite number, or one for each of 3 channels"),
        ({"mean": math.nan}, r"`mean` \(=nan\) must be a finite number"),
        ({"mean": None}, r"`mean` \(=None\) must be a finite number"),
        ({"std": 10**400}, r"`std` \(=1000"),
        ({"std": 0}, r"`std` \(=0\) must be above 0; use 1"),
        ({"std": (1, 1, -1)}, r"`std` \(=\(1, 1, -1\)\) must be above 0"),
        ({"std": 1e-60}, r"`std` \(=1e-60\) must be above 0"),
        ({"encoder": print}, r"`encoder` must be a torch\.nn\.Module, not builtin_function_or_method"),
    ],
)
def test_wrong_arguments_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        EncoderAutoencoder(**{"encoder": small_encoder(), "image_size": (11, 13), "channels": 3, **options})


# Config and weights -----------------------------------------------------------------------------------------------
def test_config_and_weights_come_back_from_json(tmp_path):
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    options = {"upsampling": "resize", "freeze": True, "mean": MEAN, "std": 0.25, "encoder_name": "mynets:make"}
    model = small_model(**options).eval()
    (tmp_path / "config.json").write_text(json.dumps(model.config()))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "weights")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {
        "encoder": "mynets:make",
        "image_size": [11, 13],
        "channels": 3,
        "upsampling": "resize",
        "freeze": True,
        "mean": list(MEAN),
        "std": [0.25] * 3,
    }
    loaded = EncoderAutoencoder.from_config(config, small_encoder())
    loaded.load_state_dict(load_file(tmp_path / "weights"))
    assert loaded.config() == config
    images = torch.rand(2, 3, 11, 13)
    torch.testing.assert_close(loaded.eval()(images), model(images), rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in loaded.encoder.parameters())


def test_an_uneven_kernel_is_warned_of_once_and_not_when_it_is_loaded():
    with pytest.warns(UserWarning, match="the transposed twin of layer '0'"):
        model = small_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EncoderAutoencoder.from_config(model.config(), small_encoder())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda config: config.pop("std"), "`config` .* must have `encoder`, a text, and .*std, and nothing else"),
        (lambda config: config.update(extra=1), "`config` .*'extra': 1.* and nothing else"),
        (lambda config: config.update({"a\nb": 1}), r"`config` .*'a\\nb': 1.* and nothing else: restore it, or train"),
        (lambda config: config.update(encoder=["mynets:make"]), r"`config` .*\['mynets:make'\].* `encoder`, a text"),
        (lambda config: config.update(image_size="11x13"), "`image_size` \\(='11x13'\\) must be an int"),
        (lambda config: config.update(image_size=[11]), r"`image_size` \(=\[11\]\) must be one int, or 2 ints"),
        (lambda config: config.update(image_size=[11, 10**30]), r"`input_size` .* does not fit the encoder"),
        (lambda config: config.update(image_size=[10**6, 10**6]), r"does not fit the encoder at layer '4' \(Linear"),
        (lambda config: config.update(channels=10**12), r"does not fit the encoder at layer '0'"),
    ],
)
def test_a_config_that_was_damaged_by_hand_is_refused(change, text):
    config = small_model().config()
    change(config)
    assert re.search(text, message(EncoderAutoencoder.from_config, config, small_encoder()))


def test_a_config_that_is_no_object_is_refused():
    with pytest.raises(ValueError, match=r"`config` \(=\[\]\) must have `encoder`, a text"):
        EncoderAutoencoder.from_config([], small_encoder())


def test_weights_of_another_encoder_are_told_in_one_line():
    model = small_model()
    state = model.state_dict()
    wider = EncoderAutoencoder.from_config(model.config(), small_encoder(width=8))
    text = "is another one than the weights are of: encoder.0.weight is 4×3×3×3 in the weights and 8×3×3×3 "
    assert text in message(wider.load_state_dict, state)
    deeper = nn.Sequential(*small_encoder(7), nn.Linear(7, 5))
    with pytest.raises(ValueError, match=r"encoder\.4\.weight is 5×168 in the weights and 7×168 here; name the"):
        EncoderAutoencoder.from_config(model.config(), deeper).load_state_dict(state)
    without_norm = nn.Sequential(*(layer for layer in small_encoder() if not isinstance(layer, nn.BatchNorm2d)))
    with pytest.raises(ValueError, match=r"encoder\.3\.weight is absent in the weights and 5×168 here"):
        EncoderAutoencoder.from_config(model.config(), without_norm).load_state_dict(state)
    with pytest.raises(ValueError, match=r"encoder\.9\.weight is 2 in the weights and absent here"):
        model.load_state_dict(state | {"encoder.9.weight": torch.zeros(2)})
    del state["encoder.1.num_batches_tracked"]
    with pytest.raises(ValueError, match=r"encoder\.1\.num_batches_tracked is absent in the weights and one number "):
        model.load_state_dict(state)


# Loading by name --------------------------------------------------------------------------------------------------
def test_an_encoder_is_loaded_by_name_and_told_by_its_argument():
    assert isinstance(load_encoder("torch.nn:Identity"), nn.Identity)
    with pytest.raises(ValueError, match=r"`encoder` \(=torch\.nn:Absent\) is not in torch\.nn: AttributeError: "):
        load_encoder("torch.nn:Absent")


def test_nothing_that_a_config_names_is_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "trap_of_mine.py").write_text("raise AssertionError('imported')\n")
    config = small_model().config() | {"encoder": "trap_of_mine:make"}
    model = EncoderAutoencoder.from_config(config, small_encoder())
    assert model.config()["encoder"] == "trap_of_mine:make"
    assert "trap_of_mine" not in sys.modules
