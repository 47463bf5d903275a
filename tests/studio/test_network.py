"""A network layer by layer: what is said of each layer is that of the model, and links open it with its own numbers."""

import base64
import copy
import math
from urllib.parse import parse_qs

import numpy as np
import pytest
import torch
from studio_helpers import as_shown, pixels
from torch.utils.flop_counter import FlopCounterMode

from halfstride import ConvAutoencoder, geometry, to_float
from halfstride.autoencoder import Run, reconstruct
from halfstride.studio.layer import Layer
from halfstride.studio.network import trace
from halfstride.studio.run_files import Model

ORIGIN = ("run", "image", "from", "channels", "corner")


def model_of(size=40, channels=3, latent_dim=4, **options):
    """A model without anything that begins at zero, and an image."""
    torch.manual_seed(0)
    network = ConvAutoencoder(size, channels, latent_dim, width=8, **options).eval()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    image = torch.randint(0, 256, (channels, *network.image_size), dtype=torch.uint8)
    return Model(network, network.image_size, network.latent_shape, 0), image


def traced(model, image):
    return trace(model, image, "mine", 5).steps


def calls(network, image):
    """The input and the output of every module, by its name."""
    found = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda _, given, output, name=name: found.update({name: (given[0], output)}))
    network(image)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"latent": "map"},
        {"latent": "map", "upsampling": "transposed", "downsampling": "pool"},
        {"upsampling": "resize", "latent_dim": 20},
        {"variational": True, "blocks": 2},
        {"upsampling": "transposed", "kernel_size": 8},
    ],
)
def test_links_open_a_layer_with_its_weights_and_a_patch_of_its_input(options):
    model, image = model_of(**options)
    module = dict(model.network.named_modules())
    opened = 0
    given = calls(copy.deepcopy(model.network), to_float(image[None]))
    for step in traced(model, image):
        assert len(step.links) in (0, len(step.maps.channels) if step.maps else 0)
        for channel, link in zip(step.maps.channels if step.links else (), step.links, strict=True):
            query = {name: values[0] for name, values in parse_qs(link).items()}
            origin = {name: query.pop(name) for name in ORIGIN}
            assert (origin["run"], origin["image"], origin["from"]) == ("mine", "5", step.name)
            source, target = map(int, origin["channels"].split(","))
            assert target == channel
            layer = Layer(**query)
            n, (top, left) = layer.input_size, map(int, origin["corner"].split(","))
            features = given[step.name][0]
            patch = torch.tensor(layer.input).reshape(n, n)
            torch.testing.assert_close(patch, features[0, source, top : top + n, left : left + n], rtol=1e-3, atol=1e-6)
            # The layer itself on nothing but this patch, with nothing but this pair's kernels.
            alone, only = torch.zeros_like(features), copy.deepcopy(module[step.name])
            alone[0, source, top : top + n, left : left + n] = patch
            with torch.no_grad():
                only.bias.zero_()
                output = only(alone)[0, target]
            scale = 1 / layer.stride if layer.form == "conv" else layer.stride
            side = (1, 1, layer.kernel_size, layer.kernel_size)
            kernels = torch.tensor(layer.kernel).reshape(layer.kernels, *side[1:])
            shown = layer(patch[None, None], kernels)[0, 0]
            row, column = int(top * scale), int(left * scale)
            expected = output[row : row + len(shown), column : column + len(shown)]
            torch.testing.assert_close(shown, expected, rtol=1e-2, atol=1e-3)
            opened += 1
    assert opened > 30


@pytest.mark.parametrize("upsampling", ["subpixel", "resize", "transposed"])
@pytest.mark.parametrize("size", [96, (61, 96)])
def test_the_receptive_field_is_all_that_the_middle_depends_on(upsampling, size):
    model, image = model_of(size, 1, latent="map", downscale=4, upsampling=upsampling, linear=False)
    pixels_in = to_float(image[None]).double().requires_grad_()
    outputs = calls(copy.deepcopy(model.network).double(), pixels_in)
    steps = [step for step in traced(model, image) if step.name]
    for step in steps:
        output = outputs[step.name][1]
        height, width = output.shape[2:]
        (slope,) = torch.autograd.grad(
            output[0, :, height // 2, width // 2].square().sum(), pixels_in, retain_graph=True
        )
        rows, columns = slope[0, 0].any(1).nonzero(), slope[0, 0].any(0).nonzero()
        found = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        assert step.seen == [int(place) for place in found], step.name
    windows = [geometry.Window(4, 4), geometry.Window(3, padding=1), geometry.Window(3, padding=1)]
    encoder = [step for step in steps if step.name.startswith("encoder") and step.weights]
    for count, step in enumerate(encoder, 1):
        assert step.field == [geometry.receptive_field(windows[:count]).size] * 2


def test_after_a_vector_everything_depends_on_the_whole_image():
    model, image = model_of(28, 1)
    steps = traced(model, image)
    after = steps[[step.part for step in steps].index("code") :]
    assert all((step.field, step.seen) == ([28, 28], [0, 0, 28, 28]) for step in after)


@pytest.mark.parametrize("options", [{"latent": "map"}, {"latent_dim": 4}, {"upsampling": "transposed"}])
def test_macs_and_weights_are_those_of_the_model(options):
    model, image = model_of(**options)
    for module in model.network.modules():
        if hasattr(module, "algorithm"):
            module.algorithm = "native"
    with FlopCounterMode(display=False) as counter:
        model.network(to_float(image[None]))
    steps = traced(model, image)
    assert 2 * sum(step.macs or 0 for step in steps) == counter.get_total_flops()
    normalisation = sum(
        p.numel() for m in model.network.modules() if isinstance(m, torch.nn.GroupNorm) for p in m.parameters()
    )
    assert sum(step.weights for step in steps) + normalisation == sum(p.numel() for p in model.network.parameters())


def test_maps_are_the_features_that_vary_most_on_one_scale():
    model, image = model_of(64, latent="map")
    outputs = calls(copy.deepcopy(model.network), to_float(image[None]))
    step = next(step for step in traced(model, image) if step.name == "encoder.2.convolution")
    features = outputs[step.name][1][0].detach()
    assert step.shape == list(features.shape)
    assert step.maps.channels == sorted(features.flatten(1).var(1).argsort(descending=True)[:12].tolist())
    shown = features[step.maps.channels].double().numpy()
    low, high = np.quantile(shown, (0.005, 0.995))
    grey = np.frombuffer(base64.b64decode(step.maps.grey), np.uint8).reshape(shown.shape)
    assert np.abs(grey / 255 - np.clip((shown - low) / (high - low), 0, 1)).max() < 1 / 255


def test_a_layer_that_the_upsampling_page_cannot_show_says_why():
    model, image = model_of(64, latent="map")
    closed = {step.name: step.closed for step in traced(model, image) if step.closed}
    assert list(closed) == ["linear_encoder", "linear_decoder"]
    assert all("`stride` (=8)" in why for why in closed.values())


def test_tracing_leaves_no_trace_and_copies_no_weights():
    model, image = model_of()
    before = {name: value.data_ptr() for name, value in model.network.state_dict().items()}
    traced(model, image)
    assert before == {name: value.data_ptr() for name, value in model.network.state_dict().items()}
    assert not any(module._forward_hooks for module in model.network.modules())


@pytest.mark.parametrize("name", ["grey", "classes", "photographs", "pairs", "denoising", "variational"])
def test_the_strip_of_a_run_on_a_folder(folder_client, folder_runs, name):
    model = Run(folder_runs / name).load_model()
    steps = folder_client.get(f"/api/runs/{name}/network?index=1").json()["steps"]
    assert [step["part"] for step in steps if step["part"] not in ("encoder", "decoder")] == [
        "image",
        "code",
        "reconstruction",
    ]
    assert steps[0]["shape"] == steps[-1]["shape"] == [model.channels, *model.image_size]
    assert math.prod(next(step["shape"] for step in steps if step["part"] == "code")) == math.prod(model.latent_shape)
    image = torch.from_numpy(np.moveaxis(pixels(steps[0]["picture"]), -1, 0)[: model.channels].copy())
    output = pixels(steps[-1]["picture"]).astype(int)
    assert np.abs(output - as_shown(reconstruct(model, image[None])[0])).max() <= 1
    one = folder_client.get(f"/api/runs/{name}/images?start=1&count=1").json()[0]
    assert steps[0]["picture"] == (one["input"] or one["original"])


def test_what_cannot_be_traced_is_refused_in_words(folder_client, client):
    answer = folder_client.get("/api/runs/grey/network?index=100000")
    assert answer.status_code == 422
    assert "beyond the" in answer.json()["error"]
    answer = folder_client.get("/api/runs/own-encoder/network")
    assert answer.status_code == 409
    assert "encoder is your own" in answer.json()["error"]
    assert client.get("/api/runs/damaged/network").status_code == 409
    assert client.get("/api/runs/imageless/network").status_code == 409
