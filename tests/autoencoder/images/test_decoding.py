"""One picture: every format, mode and orientation, every way to fit, and files that mean harm."""

import base64
import io
import struct
import sys
import threading
import warnings
import zlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from errors import message
from halfstride.autoencoder.images import MAX_PIXELS, ImageError, decode, decoding, formats, to_float
from halfstride.autoencoder.images.decoding import as_uint8, inspect, largest_value
from halfstride.autoencoder.images.formats import printable

rng = np.random.default_rng(0)
COLOUR = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = rng.integers(0, 256, (6, 9), dtype=np.uint8)


def file_of(image, format, **options):
    """The bytes of a file; `image` is an array or a Pillow image."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def attempt(work):
    """What `work` returns, or the `ImageError` that it raises."""
    try:
        return work()
    except ImageError as error:
        return error


def decoded(data, channels=3, size=(6, 9), fit="crop"):
    """A picture as an array H×W×C."""
    return decode(data, (channels, *size), fit).permute(1, 2, 0).numpy()


# Formats and modes ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "I;16", "I", "F", "1"])
def test_a_large_picture_is_brought_to_8_bits_band_by_band_with_the_same_result(monkeypatch, mode):
    values = {"F": GREY * np.float32(1.7), "I": GREY.astype(np.int32) * 99, "I;16": GREY.astype(np.uint16) * 99}
    image = Image.fromarray(values[mode]) if mode in values else Image.fromarray(COLOUR).convert(mode)
    if image.mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(GREY))
    whole = [decode(image, (channels, 5, 8)) for channels in (1, 3)]
    monkeypatch.setattr(decoding, "_BAND", 9 * 4)
    for channels, expected in zip((1, 3), whole, strict=True):
        assert torch.equal(decode(image, (channels, 5, 8)), expected)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_colour_comes_through_unchanged(format):
    data = file_of(COLOUR, format, **({"lossless": True} if format == "WEBP" else {}))
    np.testing.assert_array_equal(decoded(data), COLOUR)
    assert inspect(data)[:3] == (6, 9, False)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_grey_comes_through_unchanged_and_is_seen_to_be_grey(format):
    data = file_of(GREY, format)
    np.testing.assert_array_equal(decoded(data, 1)[:, :, 0], GREY)
    np.testing.assert_array_equal(decoded(data, 3), np.repeat(GREY[:, :, None], 3, axis=2))
    assert inspect(data)[:3] == (6, 9, True)


def test_a_jpeg_with_a_second_picture_in_it_gives_the_first():
    data = file_of(Image.fromarray(COLOUR), "MPO", save_all=True, append_images=[Image.new("RGB", (9, 6))], quality=95)
    np.testing.assert_array_equal(decoded(data), decoded(file_of(COLOUR, "JPEG", quality=95)))


def test_grey_from_colour_is_luma():
    luma = (COLOUR.astype(float) @ [0.299, 0.587, 0.114]).round()
    assert np.abs(decoded(file_of(COLOUR, "PNG"), 1)[:, :, 0] - luma).max() <= 1


DEEP = np.array([[0, 1, 128, 129, 256, 257], [385, 386, 32_767, 32_896, 65_534, 65_535]], dtype=np.uint16)
EIGHT_BITS = np.array([[0, 0, 0, 1, 1, 1], [1, 2, 127, 128, 255, 255]])


@pytest.mark.parametrize(
    ("image", "format"),
    [(DEEP, "PNG"), (DEEP, "TIFF"), (DEEP, "PPM"), (DEEP.astype(">u2"), "TIFF"), (DEEP.astype(np.int32), "TIFF")],
)
def test_16_bits_are_divided_by_257(image, format):
    data = file_of(image, format)
    np.testing.assert_array_equal(decoded(data, 1, DEEP.shape)[:, :, 0], EIGHT_BITS)
    assert inspect(data).grey


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 0.25, 1], [0, 64, 255]), ([0, 64, 255], [0, 64, 255]), ([0, 16_448, 65_535], [0, 64, 255])],
)
def test_floats_count_by_the_range_they_lie_in(values, expected):
    data = file_of(np.array([values], dtype=np.float32), "TIFF")
    assert decoded(data, 1, (1, 3))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.array([[-1.5, 2]], np.float32), "has values from -1.5 to 2, where 0 to 65,535 are taken"),
        (np.array([[0, np.nan]], np.float32), "has values from nan to nan, where 0 to 65,535 are taken"),
        (np.array([[0, np.inf]], np.float32), "has values from 0 to inf, where 0 to 65,535 are taken"),
        (np.array([[-1000, 3071]], np.int32), "has values from -1000 to 3071, where 0 to 65,535 are taken"),
    ],
)
def test_other_numbers_are_refused(values, text):
    with pytest.raises(ImageError) as caught:
        decode(file_of(values, "TIFF"), (1, 1, 2))
    assert caught.value.reason == text


def test_transparent_pixels_show_white_and_grey_ones_and_single_bits_are_grey():
    pixels = np.array([[[200, 100, 0, 0], [200, 100, 0, 51], [200, 100, 0, 255]]], dtype=np.uint8)
    expected = [[255, 255, 255], [244, 224, 204], [200, 100, 0]]
    assert decoded(file_of(pixels, "PNG"), 3, (1, 3))[0].tolist() == expected
    half_clear = Image.merge("LA", [Image.new("L", (1, 1), 100), Image.new("L", (1, 1), 51)])
    bits = Image.fromarray(np.array([[False, True]]))
    for image, values in ((half_clear, [224]), (bits, [0, 255])):
        data = file_of(image, "PNG")
        assert decoded(data, 1, (1, len(values)))[0, :, 0].tolist() == values
        assert inspect(data).grey


def test_a_colour_that_stands_for_transparent_shows_white():
    grey = file_of(np.array([[7, 8]], np.uint8), "PNG", transparency=7)
    assert decoded(grey, 1, (1, 2))[0, :, 0].tolist() == [255, 8]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    for format in ("PNG", "GIF"):
        found = decoded(file_of(palette, format, transparency=0), 3, (1, 2))
        assert found[0].tolist() == [[255, 255, 255], [40, 50, 60]]


def test_a_palette_is_looked_up_and_is_grey_where_its_colours_are():
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    data = file_of(image, "PNG")
    assert decoded(data, 3, (1, 2))[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert not inspect(data).grey
    image.putpalette([10, 10, 10, 200, 200, 200])
    data = file_of(image, "PNG")
    assert decoded(data, 1, (1, 2))[0, :, 0].tolist() == [10, 200]
    assert inspect(data).grey


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk(format):
    image = Image.new("CMYK", (16, 16), (255, 0, 255, 0))
    found = decoded(file_of(image, format), 3, (16, 16))
    assert np.abs(found.astype(int) - [0, 255, 0]).max() <= 2


def test_only_the_first_frame_counts():
    frames = [Image.new("L", (2, 2), value) for value in (10, 200)]
    for format in ("GIF", "TIFF", "PNG", "WEBP"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = file_of(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert decoded(data, 1, (2, 2)).tolist() == [[[10], [10]], [[10], [10]]]


# What EXIF says has to be done so that the picture stands upright, on an array H×W×C.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(COLOUR, format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    expected = UPRIGHT[orientation](COLOUR)
    assert inspect(data)[:2] == expected.shape[:2]
    np.testing.assert_array_equal(decoded(data, 3, expected.shape[:2]), expected)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_large_jpeg_is_decoded_small_and_still_right(orientation, fit):
    coarse = rng.integers(80, 180, (3, 5, 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(coarse).resize((500, 300), Image.Resampling.BICUBIC))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decoded(file_of(large, "JPEG", quality=95, exif=exif), 3, (20, 24), fit)
    expected = decoded(file_of(np.ascontiguousarray(UPRIGHT[orientation](large)), "PNG"), 3, (20, 24), fit)
    assert np.abs(found.astype(int) - expected).max() <= 6


def test_a_long_jpeg_that_lies_on_its_side_keeps_its_detail():
    stripes = ((np.arange(1600) + 4) // 8 % 2 * 200).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored as 1600 × 100, seen as 100 × 1600
    data = file_of(np.broadcast_to(stripes, (100, 1600)).copy(), "JPEG", quality=95, exif=exif)
    found = decoded(data, 1, (400, 30), "pad")[:, 15, 0].astype(int)
    assert found.max() - found.min() > 150  # 0 where it was decoded too small


def test_exif_that_cannot_be_read_costs_no_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of(COLOUR, "PNG", exif=exif.tobytes()[:-6])
    np.testing.assert_array_equal(decoded(data), COLOUR)


# To the size wanted ---------------------------------------------------------------------------------------------------

sizes = st.sampled_from([1, 2, 3, 5, 16, 31, 64, 4096])
targets = st.sampled_from([1, 2, 7, 16, 64])
fits = st.sampled_from(["crop", "pad", "stretch"])


@given(sizes, sizes, targets, targets, fits)
@example(1, 4096, 64, 64, "crop")
@example(4096, 1, 1, 64, "crop")
@example(1, 4096, 64, 64, "pad")
@settings(max_examples=60)
def test_any_size_becomes_any_other_and_one_colour_stays_itself(height, width, to_height, to_width, fit):
    if height * width > 2**17:
        width = 31
    picture = np.broadcast_to(np.array([200, 7, 90], np.uint8), (height, width, 3))
    found = decoded(picture, 3, (to_height, to_width), fit)
    assert (found == [200, 7, 90]).all()


def test_crop_keeps_the_middle():
    flag = np.repeat(np.array([[10, 100, 250]], np.uint8), 30, axis=1).repeat(30, axis=0)
    assert (decoded(flag, 1, (30, 30)) == 100).all()
    assert (decoded(flag.T.copy(), 1, (30, 30)) == 100).all()
    smaller = decoded(flag, 1, (10, 10))[:, :, 0]
    assert np.abs(smaller.astype(int) - 100).max() <= 20  # the columns at both ends mix with their neighbours
    assert (smaller[:, 3:-3] == 100).all()
    np.testing.assert_array_equal(smaller, smaller[:1].repeat(10, axis=0))


def test_pad_repeats_the_edges_on_both_sides():
    picture = np.array([[1, 2], [3, 4]], np.uint8)
    assert decoded(picture, 1, (2, 5), "pad")[:, :, 0].tolist() == [[1, 1, 2, 2, 2], [3, 3, 4, 4, 4]]
    assert decoded(picture, 1, (4, 2), "pad")[:, :, 0].tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]


def test_stretch_scales_each_axis():
    ramp = np.arange(0, 240, 10, dtype=np.uint8).reshape(1, 24).repeat(6, axis=0)
    found = decoded(ramp, 1, (3, 12), "stretch")[:, :, 0]
    expected = ramp[::2].reshape(3, 12, 2).mean(axis=2)
    assert np.abs(found[:, 2:-2] - expected[:, 2:-2]).max() <= 1


def test_scaling_down_is_antialiased():
    board = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(255)
    assert np.abs(decoded(board.astype(np.uint8), 1, (8, 8)).astype(int) - 127).max() <= 3


# Sources and arrays ---------------------------------------------------------------------------------------------------
def test_paths_bytes_files_and_arrays_are_the_same(tmp_path):
    data = file_of(COLOUR, "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    expected = decode(data, (3, 6, 9))
    assert expected.dtype == torch.uint8
    assert expected.is_contiguous()
    opened = io.BytesIO(data)
    for source in (path, str(path), opened, COLOUR, Image.open(path), Image.fromarray(COLOUR)):
        assert torch.equal(decode(source, (3, 6, 9)), expected)
    assert not opened.closed
    lazy = Image.open(io.BytesIO(file_of(np.zeros((400, 400), np.uint8), "JPEG")))
    assert decode(lazy, (1, 2, 2)).tolist() == [[[0, 0], [0, 0]]]
    assert lazy.size == (400, 400)  # and not the draft that would have been enough here


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "array"])
def test_another_white_and_what_is_brighter(kind):
    values = np.array([[0, 8, 2048, 4094, 4095, 65_535]], np.uint16)
    picture = values if kind == "array" else file_of(values, kind)
    assert decode(picture, (1, 1, 6), white=4095).tolist() == [[[0, 0, 128, 255, 255, 255]]]
    assert inspect(picture).deep
    assert largest_value(picture) == 65_535
    assert not inspect(GREY).deep


@given(st.integers(0, 65_535), st.sampled_from([1, 255, 1023, 4095, 16_383, 65_535]))
def test_values_are_rounded_to_the_nearest_share_of_white(value, white):
    exact = Fraction(min(value, white) * 255, white)
    assert abs(as_uint8(np.array([value], np.uint16), white).item() - exact) <= Fraction(1, 2)


@given(st.floats(0, 1))
def test_floats_are_rounded(value):
    assert as_uint8(np.array([value], np.float64)).item() == pytest.approx(value * 255, abs=0.50001)


def test_arrays_of_other_dtypes_values_and_shapes_are_refused():
    assert as_uint8(np.array([False, True])).tolist() == [0, 255]
    assert as_uint8(np.empty(0)).tolist() == []
    for array, text in (
        (np.array([1]), "dtype int64, where bool, uint8, uint16 or floats from 0 to 1 are taken"),
        (np.array([0, 255.0]), "values from 0 to 255, where floats from 0 to 1 are taken"),
        (np.array([0, np.nan]), "values from nan to nan, where floats from 0 to 1 are taken"),
    ):
        assert text in message(as_uint8, array)
    text = "is an array of shape (2, 3, 5), where H×W or H×W×C with C = 1 to 4"
    assert text in message(decode, np.zeros((2, 3, 5), np.uint8), (1, 2, 3), kind=ImageError)
    assert "has no pixels" in message(decode, np.zeros((0, 3), np.uint8), (1, 2, 3), kind=ImageError)


def test_to_float():
    batch = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = to_float(batch)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, batch.float() / 255)


def test_wrong_arguments():
    for white in (0, 65_536, 1.5, True):
        with pytest.raises(ValueError, match=rf"`white` \(={white}\) must be a whole number from 1 to 65,535, such as"):
            decode(GREY, (1, 4, 4), white=white)
    for shape in ((2, 4, 4), (1, 0, 4), (4, 4)):
        with pytest.raises(ValueError, match=r"`shape` \(=.*\) must be channels \(1 or 3\), height and width, each at"):
            decode(GREY, shape)
    with pytest.raises(ValueError, match=r'`fit` \(=\'cover\'\) must be "crop", "pad" or "stretch"'):
        decode(GREY, (1, 4, 4), "cover")


# AVIF, HEIC and large JPEGs -------------------------------------------------------------------------------------------

# 24 × 16 pixels, the left half (200, 40, 40) and the right one (40, 40, 200): nothing that is installed can write HEIC.
HEIC = base64.b85decode(
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<0004eZDn*}000000000XXk=`10000000000aA{+700000000000000000000B57=IV*mgE07O6l0RR"
    "C200001pa1~?00000002q=001LtX>Mi!000000RR916=`l}WdZ;I000310BCk&F#rGn01j|zbZr0t000010002|X>f9I0002oX>en20001WXm(>m0R"
    "wOV0058x000009`FGC{rLC*01pFT0096PKmiN^|NjGU00093kN^M!000939=ZZRVE_RDDMA4O18@KU0|1Z!00RI30{|YNAb|yz>aLpR;31&EfB*mt"
    "fB*mk0EA)y0RRR>0l{;@i2wiq6Ju{|a&BX6cmM$a4FCp!0000KX>)L8000000000$0000$0000eV{Bn?0000O000010000G00001|NsBk00002|NsBc"
    "000020000GaA|mH000000|*ER0000OX>e^}0000000001009Mo0s{qv0000|ZDe6|0000+C;_ht$ZAF!Bb!nG7x(%Xp|1kbfb~Z`dP?CGCT@)?Ef+}"
    "=Doa57wwr(e+$lW$FF^B^-Y;=$GU?0tvawEp<0DnAdn^"
)
HALVES = np.repeat(np.array([[[200, 40, 40], [40, 40, 200]]], np.uint8), 12, axis=1).repeat(16, axis=0)


def without(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)


def check_halves(picture):
    assert inspect(picture)[:3] == (16, 24, False)
    found = decoded(picture, 3, (16, 24)).astype(int)
    assert np.abs(found - HALVES)[:, [*range(11), *range(13, 24)]].max() <= 4


def test_heic(tmp_path):
    pytest.importorskip("pi_heif")
    check_halves(HEIC)
    (tmp_path / "a.jpg").write_bytes(HEIC)  # what a file is, its content says
    check_halves(tmp_path / "a.jpg")
    check_halves(io.BytesIO(HEIC))
    assert reason_of(HEIC[:200]).startswith("is not a picture that can be read")


def test_heic_without_the_extra(monkeypatch):
    without(monkeypatch, "pi_heif")
    assert reason_of(HEIC) == "is a HEIC picture: pip install 'halfstride[heif]' to read it"
    check_halves(file_of(HALVES, "PNG"))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif(monkeypatch):
    data = file_of(HALVES, "AVIF", quality=95)
    check_halves(data)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert inspect(file_of(HALVES, "AVIF", exif=exif))[:2] == (24, 16)
    assert reason_of(data[:200]).startswith("is ")
    monkeypatch.setattr("PIL.AvifImagePlugin.SUPPORTED", False)
    assert reason_of(data) == "is an AVIF picture, which this Pillow cannot read: pip install --upgrade pillow"


@pytest.mark.parametrize(("most", "factor"), [(2400, 2), (600, 4), (599, 8), (150, 8)])
def test_a_jpeg_over_the_limit_is_decoded_reduced(monkeypatch, most, factor):
    monkeypatch.setattr(formats, "MAX_PIXELS", most)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most // 2)  # Pillow raises for twice as many
    loaded = []
    monkeypatch.setattr(decoding, "_upright", lambda image, _: loaded.append(image.size) or image)
    ramp = np.linspace(0, 255, 120).astype(np.uint8)[None].repeat(80, axis=0)
    for picture in (file_of(ramp, "JPEG", quality=95), file_of(np.stack([ramp] * 3, axis=2), "JPEG", quality=95)):
        assert inspect(picture)[:2] == (80, 120)
        found = decoded(picture, 1, (80, 120))[:, :, 0].astype(int)
        assert loaded.pop() == (120 // factor, 80 // factor)
        assert np.abs(found - ramp)[:, 8:-8].max() <= 8


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("JPEG", {"progressive": True}), ("WEBP", {})])
def test_other_pictures_over_the_limit_are_refused(monkeypatch, format, options):
    data = file_of(COLOUR, format, **options)
    monkeypatch.setattr(formats, "MAX_PIXELS", 53)
    assert reason_of(data) == "has 9 × 6 pixels, more than 53"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 26)
    assert "more than 53" in reason_of(data)


def test_a_jpeg_over_the_limit_whose_channels_come_one_after_the_other_is_refused(monkeypatch):
    data = bytearray(file_of(COLOUR, "JPEG"))
    monkeypatch.setattr(formats, "MAX_PIXELS", 53)
    assert inspect(bytes(data)).width == 9
    start = data.index(b"\xff\xda")
    data[start + 2 : start + 14] = b"\x00\x08\x01\x01\x00\x00\x3f\x00"  # a scan of the first channel alone
    assert reason_of(bytes(data)) == "has 9 × 6 pixels, more than 53"


# Files that mean harm -------------------------------------------------------------------------------------------------
def reason_of(source):
    for work in (lambda: inspect(source), lambda: decode(source, (3, 4, 4))):
        with pytest.raises(ImageError) as caught:
            work()
    return caught.value.reason


def test_what_is_no_file(tmp_path):
    assert reason_of(tmp_path / "missing.png") == "cannot be opened: No such file or directory"
    assert reason_of(tmp_path) == "is not a file"
    (tmp_path / "empty.png").write_bytes(b"")
    assert reason_of(tmp_path / "empty.png") == "is empty"
    with pytest.raises(ImageError, match=r"empty\.png: is empty"):
        decode(tmp_path / "empty.png", (3, 4, 4))


@pytest.mark.parametrize("data", [b"", b"x", b"hello " * 100, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.4\n", b"\0" * 999])
def test_what_is_no_picture(data):
    assert reason_of(data) == "is not a picture that can be read (PNG, JPEG, WebP, AVIF, BMP, TIFF, GIF, PPM)"


@pytest.mark.parametrize("format", ["PCX", "TGA", "ICO", "JPEG2000", "PDF", "EPS"])
def test_what_pillow_could_read_but_nobody_needs_to(format):
    assert reason_of(file_of(COLOUR, format)).startswith("is not a picture that can be read")


def png(width, height, rows=b""):
    """A PNG whose header says whatever it likes."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_decompression_bombs():
    assert reason_of(png(60_000, 60_000)) == "has more than 178,956,970 pixels"
    assert MAX_PIXELS == 178_956_970


def test_a_large_picture_is_no_bomb_and_makes_no_warning():
    data = png(10_000, 9_000, bytes(9_000 * 10_001))  # Pillow would warn
    assert decode(data, (1, 2, 2)).tolist() == [[[0, 0], [0, 0]]]


def test_text_that_unpacks_to_gigabytes():
    body = b"a\0\0" + zlib.compress(bytes(200_000_000))
    text = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    data = png(1, 1, b"\0\0")
    start = data.index(b"IDAT") - 4
    with pytest.raises(ImageError, match="is truncated or broken: Decompressed data too large"):
        decode(data[:start] + text + data[start:], (1, 1, 1))


whole = {
    "png": file_of(COLOUR, "PNG"),
    "deep png": file_of(DEEP, "PNG"),
    "jpeg": file_of(COLOUR, "JPEG"),
    "webp": file_of(COLOUR, "WEBP"),
    "bmp": file_of(COLOUR, "BMP"),
    "tiff": file_of(COLOUR, "TIFF"),
    "packed tiff": file_of(COLOUR, "TIFF", compression="tiff_lzw"),
    "gif": file_of(GREY, "GIF"),
    "ppm": file_of(COLOUR, "PPM"),
    "heic": HEIC,
}


@pytest.mark.parametrize("kind", whole)
def test_truncated_files_are_told_so(kind):
    data = whole[kind]
    with pytest.raises(ImageError) as caught:
        decode(data[: len(data) // 2], (3, 6, 9))
    assert caught.value.reason.startswith(("is truncated or broken: ", "is not a picture that can be read"))


@given(st.data())
@settings(max_examples=400)
def test_a_damaged_file_is_decoded_or_refused_and_nothing_else(data):
    damaged = bytearray(whole[data.draw(st.sampled_from(sorted(whole)))])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    for found in (attempt(lambda: decode(damaged, (3, 4, 5))), attempt(lambda: inspect(damaged))):
        if isinstance(found, ImageError):
            assert found.reason
            assert "\n" not in str(found)
            assert len(str(found)) < 200
        else:
            assert found.shape == (3, 4, 5) if isinstance(found, torch.Tensor) else found.height > 0


def test_warnings_of_others_come_through_again():
    before = list(warnings.filters)
    data = png(10_000, 9_000, bytes(100))
    failures = []

    def work():
        failures.extend(attempt(lambda: decode(data, (1, 2, 2))) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 40
    assert all(failure.reason.startswith("is truncated") for failure in failures)
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)


def test_names_are_fit_to_print():
    assert printable("a\nb\x1b[31m\udcff.png") == "a\\nb\\x1b[31m\\udcff.png"
    assert printable("x" * 300) == "x" * 199 + "…"
    assert printable("Grüße 日本.png") == "Grüße 日本.png"
