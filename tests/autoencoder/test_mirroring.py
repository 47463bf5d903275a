"""Every mirror decoder gives back exactly the size that its encoder took, and aligned with it."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from errors import message
from halfstride import layers
from halfstride.autoencoder.mirroring import MirrorError, mirror
from halfstride.checkerboard import UnevenKernelWarning

# Encoders are drawn with all kernels, uneven ones included.
pytestmark = pytest.mark.filterwarnings("ignore::halfstride.checkerboard.UnevenKernelWarning")

CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MAX_POOL = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVG_POOL = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
KINDS = ("transposed", "resize", "subpixel")
CONVOLUTION = nn.Sequential(nn.Conv2d(3, 4, 3))


@st.composite
def encoders(draw: st.DrawFn) -> tuple[nn.Sequential, tuple[int, ...]]:
    dims = draw(st.integers(1, 3))
    largest = (60, 23, 9)[dims - 1]
    sizes = tuple(draw(st.integers(1, largest)) for _ in range(dims))
    channels = draw(st.integers(1, 3))
    input_size, stack = (channels, *sizes), []
    for _ in range(draw(st.integers(1, 3))):
        kernel = tuple(draw(st.integers(1, 5)) for _ in range(dims))
        stride = tuple(draw(st.integers(1, 4)) for _ in range(dims))
        dilation = tuple(draw(st.integers(1, 2)) for _ in range(dims))
        kind = draw(st.sampled_from(("conv", "max", "avg", "same")))
        if kind == "conv":
            padding = tuple(draw(st.integers(0, 3)) for _ in range(dims))
            out = draw(st.integers(1, 4))
            stack.append(CONV[dims - 1](channels, out, kernel, stride, padding, dilation))
            channels = out
            stack += draw(
                st.sampled_from(
                    (
                        [],
                        [nn.ReLU()],
                        [nn.BatchNorm3d(out), nn.SiLU(), nn.Dropout(0.5)]
                        if dims == 3
                        else [nn.GroupNorm(1, out), nn.GELU()],
                    )
                )
            )
        elif kind == "same":
            stack.append(CONV[dims - 1](channels, channels, kernel, 1, "same", dilation, groups=channels))
        else:
            padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
            ceil_mode = draw(st.booleans())
            pool = (MAX_POOL if kind == "max" else AVG_POOL)[dims - 1]
            stack.append(pool(kernel, stride, padding, ceil_mode=ceil_mode))
    if draw(st.booleans()):
        stack = [nn.Sequential(*stack[:1]), nn.Sequential(nn.Sequential(*stack[1:]))]
    return nn.Sequential(*stack), input_size


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=150)
@given(encoders(), st.sampled_from(KINDS))
def test_every_geometry_comes_back_exactly(case, upsampling):
    encoder, input_size = case
    encoder.eval()
    images = torch.rand(2, *input_size)
    try:
        codes = encoder(images)
    except RuntimeError:
        assume(False)  # the kernel is larger than what is left of the image
    decoder = mirror(encoder, input_size, upsampling=upsampling).eval()
    assert decoder(codes).shape == images.shape


@pytest.mark.parametrize("upsampling", KINDS)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 13, 28, 29, 31, 64, 97])
def test_every_layer_restores_what_its_twin_took(size, upsampling):
    encoder = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(4, 6, 3, 2, 1)
    )
    sizes, output = [], torch.rand(1, 3, size, size + 1)
    for layer in encoder:
        sizes.append(output.shape)
        output = layer(output)
    decoder = mirror(encoder, (3, size, size + 1), upsampling=upsampling)
    met = [output.shape]
    for layer in decoder:
        output = layer(output)
        met.append(output.shape)
    assert [shape for shape in sizes if shape not in met] == []
    assert met[-1] == sizes[0]


def test_flatten_linear_and_norms_are_mirrored_in_their_order():
    encoder = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.LeakyReLU(0.3),
        nn.Flatten(),
        nn.Linear(6 * 4 * 5, 7),
    )
    decoder = mirror(encoder, (1, 13, 15))
    assert [type(layer) for layer in decoder] == [
        nn.Linear,
        nn.Unflatten,
        nn.LeakyReLU,
        layers.ConvTranspose2d,
        nn.BatchNorm2d,
        nn.ReLU,
        layers.ConvTranspose2d,
    ]
    assert decoder[2].negative_slope == 0.3
    assert decoder[-1].bias is None
    assert decoder(encoder(torch.rand(2, 1, 13, 15))).shape == (2, 1, 13, 15)


def test_the_transposed_twin_is_the_adjoint():
    encoder = nn.Sequential(
        nn.Conv2d(2, 3, (3, 4), stride=(2, 3), padding=(1, 2), dilation=(2, 1), bias=False)
    ).double()
    decoder = mirror(encoder, (2, 17, 19)).double()
    decoder[0].weight.data.copy_(encoder[0].weight)
    decoder[0].bias = None
    images = torch.rand(1, 2, 17, 19, dtype=torch.float64)
    codes = torch.rand_like(encoder(images))
    torch.testing.assert_close((encoder(images) * codes).sum(), (images * decoder(codes)).sum())


@pytest.mark.parametrize("upsampling", KINDS)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 2, 1), (4, 2, 1), (4, 4, 0), (3, 2, 0), (7, 4, 3), (5, 1, 0), (3, 3, 0)]
)
def test_twins_stay_where_the_encoder_looked(kernel, stride, padding, upsampling):
    size = 41
    encoder = nn.Sequential(nn.Conv1d(1, 1, kernel, stride, padding))
    decoder = mirror(encoder, (1, size), upsampling=upsampling)
    for parameter in decoder.parameters():
        nn.init.ones_(parameter) if parameter.ndim > 1 else nn.init.zeros_(parameter)
    codes = torch.zeros_like(encoder(torch.zeros(1, 1, size)))
    middle = codes.shape[-1] // 2
    codes[..., middle] = 1
    output = decoder(codes)[0, 0]
    centre = (output * torch.arange(size)).sum() / output.sum()
    assert abs(centre.item() - (middle * stride - padding + (kernel - 1) / 2)) <= max(0.5, (stride - 1) / 2)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (nn.Upsample(scale_factor=2),
            r"mirror cannot undo layer '1\.0' \(Upsample, taking 4×8×8\): it knows convolutions"),
        (nn.GLU(dim=1), r"mirror cannot undo layer '1\.0' \(GLU, taking 4×8×8\): it changes the shape to 2×8×8\."),
        (nn.MaxPool2d(2, return_indices=True), r"mirror cannot undo layer '1\.0' .* does not return one output"),
        (nn.Flatten(0), r"mirror cannot undo layer '1\.0' \(Flatten, taking 4×8×8\)"),
        (nn.MultiheadAttention(8, 2), r"mirror cannot undo layer '1\.0' \(MultiheadAttention"),
    ],
)  # fmt: skip
def test_a_layer_that_cannot_be_mirrored_is_named(layer, text):
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(layer))
    with pytest.raises(MirrorError, match=text):
        mirror(encoder, (3, 8, 8))


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Named(nn.Sequential):
    """A subclass that only builds its layers: torchvision has such ones."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())


def test_a_sequential_with_a_forward_of_its_own_is_not_undone_as_if_it_had_none():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    with pytest.raises(MirrorError, match=r"cannot undo layer '0\.1' \(Residual\): it has a `forward` of its own"):
        mirror(nn.Sequential(nn.Sequential(conv, Residual(conv))), (3, 8, 8))
    with pytest.raises(MirrorError, match=r"cannot undo `encoder` \(Residual\): it has a `forward` of its own"):
        mirror(Residual(conv), (3, 8, 8))
    assert len(mirror(nn.Sequential(Named(), nn.Flatten()), (3, 8, 8))) == 3


def test_lazy_layers_are_mirrored_once_they_have_weights():
    encoder = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(MirrorError, match="layer '0' .* it has no weights yet; call the encoder on a batch before"):
        mirror(encoder, (3, 8, 8))
    codes = encoder(torch.rand(2, 3, 8, 8))
    assert mirror(encoder, (3, 8, 8))(codes).shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("encoder", "size", "options", "text"),
    [
        (nn.Conv2d(3, 4, 3), (3, 8, 8), {}, "`encoder` is a Conv2d: only an nn.Sequential says"),
        (nn.Sequential(nn.ReLU()), (3, 8, 8), {}, "there is nothing to mirror"),
        (CONVOLUTION, (1, 8, 8), {}, r"`input_size` \(=\(1, 8, 8\)\) does not fit the encoder at layer '0' \(Conv2d"),
        (CONVOLUTION, (3, 0, 8), {}, r"`input_size` \(=\(3, 0, 8\)\) must be the shape of one input"),
        (
            CONVOLUTION,
            (3, 8, 8),
            {"upsampling": "bilinear"},
            r"`upsampling` \(='bilinear'\) must be one of 'subpixel', ",
        ),
    ],
)
def test_other_mistakes_are_named(encoder, size, options, text):
    with pytest.raises(ValueError, match=text):
        mirror(encoder, size, **options)


def test_the_encoder_is_left_alone_and_shared_layers_are_met_each_time():
    relu = nn.ReLU()
    encoder = nn.Sequential(nn.Conv1d(1, 2, 3, 2), relu, nn.Conv1d(2, 3, 3, 2), relu, nn.Flatten(), nn.Linear(12, 2))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    decoder = mirror(encoder, (1, 19), upsampling="resize")
    assert decoder(encoder(torch.rand(4, 1, 19))).shape == (4, 1, 19)
    assert sum(isinstance(layer, nn.ReLU) for layer in decoder) == 2
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_a_transposed_twin_that_is_uneven_is_warned_of_and_an_even_one_is_not():
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 4, stride=2, padding=1))
    with pytest.warns(UnevenKernelWarning) as caught:
        mirror(encoder, (3, 32, 32))
    assert [str(warning.message) for warning in caught] == [
        "the transposed twin of layer '0' (Conv2d, taking 3×32×32) has kernel_size=3 with stride=2: its output "
        "positions sum 1 to 4 taps, which makes a checkerboard. kernel_size=4 would not, nor would "
        'upsampling="resize".'
    ]
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("upsampling", ["resize", "subpixel"])
def test_other_twins_are_even_with_every_kernel(upsampling):
    mirror(nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1)), (3, 32, 32), upsampling=upsampling)


def test_the_twin_of_a_pooling_has_the_encoders_type():
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)).double()
    decoder = mirror(encoder, (3, 8, 8))
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    assert {parameter.dtype for parameter in decoder.parameters()} == {torch.float64}
    assert decoder(encoder(x)).shape == x.shape


def test_the_decoder_of_a_frozen_encoder_is_to_be_trained():
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 4, 3, 2))
    decoder = mirror(encoder.eval().requires_grad_(False), (3, 19, 19))
    assert all(parameter.requires_grad for parameter in decoder.parameters())
    assert all(module.training for module in decoder.modules())
    assert not any(module.training for module in encoder.modules())


def test_a_sequential_whose_call_was_changed_is_named():
    class Doubled(nn.Sequential):
        def __call__(self, images):
            return 2 * super().__call__(images)

    replaced = nn.Sequential(nn.Conv2d(3, 4, 3))
    replaced.forward = lambda images: images
    for encoder in (Doubled(nn.Conv2d(3, 4, 3)), replaced):
        assert "has a `forward` of its own" in message(mirror, encoder, (3, 8, 8))
