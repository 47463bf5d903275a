"""Arrays: which axis is which, what numbers mean, and files that mean harm."""

import functools
import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from errors import message
from halfstride.autoencoder.images import load_images

rng = np.random.default_rng(0)
GREY = rng.integers(0, 256, (10, 6, 7), dtype=np.uint8)
COLOUR = rng.integers(0, 256, (10, 6, 7, 3), dtype=np.uint8)


def everything(images):
    """All images as a set of arrays C×H×W, however they were split."""
    splits = (images.train, images.validation, images.test)
    return {image.numpy().tobytes() for split in splits for image in split.images}


def expected(array):
    """The same of an array N×C×H×W."""
    return {np.ascontiguousarray(image).tobytes() for image in array}


@pytest.mark.parametrize(
    ("source", "planes"),
    [
        (GREY, GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (GREY[:, None], GREY[:, None]),
        (COLOUR, COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2)),
        (torch.from_numpy(GREY), GREY[:, None]),
        (torch.from_numpy(COLOUR).permute(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2)),
        (torch.zeros(4, 3, 5, 3, dtype=torch.uint8), np.zeros((4, 3, 5, 3), np.uint8)),
        (GREY > 100, (GREY[:, None] > 100) * np.uint8(255)),
        (GREY.astype(np.uint16) * 257, GREY[:, None]),
        ((GREY / 255).astype(np.float32), GREY[:, None]),
        (torch.from_numpy(GREY).double() / 255, GREY[:, None]),
        (torch.from_numpy(GREY > 100).bfloat16(), (GREY[:, None] > 100) * np.uint8(255)),
        (GREY[:, ::-1, ::-1], GREY[:, None, ::-1, ::-1]),
    ],
)
def test_axes_and_values(source, planes):
    images = load_images(source)
    assert images.shape == planes.shape[1:]
    if len(everything(images)) > 1:
        train = round(len(planes) * 0.8)
        counts = [len(split) for split in (images.train, images.validation, images.test)]
        assert counts == [train - train // 2, train // 2, len(planes) - train]
    assert everything(images) == expected(planes)


def test_images_are_a_copy():
    source = GREY[:1].copy()
    images = load_images(source)
    source[:] = 0
    assert everything(images) == expected(GREY[:1, None])


def test_alpha_and_other_sizes_go_through_decode():
    clear = np.concatenate([COLOUR, np.zeros((10, 6, 7, 1), np.uint8)], axis=3)
    images = load_images(clear)
    assert images.shape == (3, 6, 7)
    assert (images.train.images == 255).all()
    assert load_images(clear[..., 2:]).shape == (1, 6, 7)
    assert load_images(COLOUR, size=4, channels=1).shape == (1, 4, 4)


error_of = functools.partial(message, load_images)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            np.zeros((4, 3, 5, 3), np.uint8),
            "`source` (=array, shape (4, 3, 5, 3)) must be N×H×W, N×H×W×C or N×C×H×W: only one of the two axes may "
            "have 1 to 4 channels; a torch tensor is taken as N×C×H×W.",
        ),
        (
            np.zeros((200, 300, 3), np.uint8),
            "`source` (=array, shape (200, 300, 3)) must be N×H×W, N×H×W×C or N×C×H×W: it may be one picture in "
            "colour, or many grey ones; give array[None] or array[..., None].",
        ),
        (
            np.zeros((4, 9, 9, 9), np.uint8),
            "`source` (=array, shape (4, 9, 9, 9)) must be N×H×W, N×H×W×C or N×C×H×W: only one of the two axes may "
            "have 1 to 4 channels; a torch tensor is taken as N×C×H×W.",
        ),
        (
            np.zeros((9, 9), np.uint8),
            "`source` (=array, shape (9, 9)) must be N×H×W, N×H×W×C or N×C×H×W: only one of the two axes may have 1 "
            "to 4 channels; a torch tensor is taken as N×C×H×W.",
        ),
        (np.zeros((0, 9, 9), np.uint8), "`source` (=array, shape (0, 9, 9, 1)) holds no images."),
        (torch.zeros(4, 9, 9, 3),
            "`source` (=tensor of shape (4, 9, 9, 3)) must be N×H×W or N×C×H×W with 1 to 4 channels."),
        (np.zeros((4, 9, 9), np.int64),
            "`source` (=array) has dtype int64, where bool, uint8, uint16 or floats from 0 to 1 are taken."),
        (np.full((4, 9, 9), 255.0),
            "`source` (=array) has values from 255 to 255, where floats from 0 to 1 are taken."),
    ],
)  # fmt: skip
def test_wrong_arrays(source, text):
    assert error_of(source) == text


def test_npy(tmp_path):
    for array in (GREY, COLOUR, COLOUR.transpose(0, 3, 1, 2)):
        np.save(tmp_path / "a.npy", array)
        images = load_images(tmp_path / "a.npy")
        assert everything(images) == everything(load_images(array))
        assert images.classes is None


def test_values_beyond_the_part_that_is_looked_through_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("halfstride.autoencoder.images.arrays._QUICK", 1000)
    array = np.zeros((5000, 4, 4), np.float32)
    array[4000] = 255
    np.save(tmp_path / "a.npy", array)
    assert error_of(tmp_path / "a.npy") == (
        f"`source` (={tmp_path / 'a.npy'}) has values from 0 to 255, where floats from 0 to 1 are taken."
    )
    images = load_images(tmp_path / "a.npy", size=2)
    assert images.skipped == (("image 4000", "has values from 255 to 255, where floats from 0 to 1 are taken"),)


def test_npz(tmp_path):
    labels = np.arange(10) % 3 + 5
    np.savez_compressed(tmp_path / "a.npz", images=GREY, labels=labels, values=np.zeros((10, 2)))
    images = load_images(tmp_path / "a.npz")
    assert everything(images) == expected(GREY[:, None])
    assert images.classes == ("5", "6", "7")
    for split in (images.train, images.validation, images.test):
        for image, label in zip(split.images, split.labels, strict=True):
            assert labels[(image.numpy() == GREY).all(axis=(1, 2)).argmax()] == int(images.classes[label])


def images_of(split):
    """The numbers of the images, from their names."""
    return [int(name.removeprefix("image ")) for name in split.names]


@pytest.mark.parametrize(
    ("train", "test", "others"),
    [
        (("x_train", "y_train"), ("x_test", "y_test"), {}),
        (("train_images", "train_labels"), ("test_images", "test_labels"), {"val_images": COLOUR[6:7]}),
        (("training", "training labels"), ("validation", "validation labels"), {}),
    ],
)
def test_npz_with_a_split(tmp_path, train, test, others):
    arrays = {
        train[0]: COLOUR[:6],
        train[1]: np.arange(6)[:, None] % 2,
        test[0]: COLOUR[7:],
        test[1]: np.arange(3, dtype=np.uint8) % 2,
    }
    np.savez(tmp_path / "a.npz", **arrays, **others)
    images = load_images(tmp_path / "a.npz")
    learned = [0, 1, 2, 3, 4, 5] if others else images_of(images.train)
    np.testing.assert_array_equal(images.train.images, COLOUR[learned].transpose(0, 3, 1, 2))
    assert sorted(learned + images_of(images.validation)) == [*range(7 if others else 6)]
    np.testing.assert_array_equal(images.test.images, COLOUR[7:].transpose(0, 3, 1, 2))
    assert images.train.labels.tolist() == [i % 2 for i in learned]
    assert images.test.labels.tolist() == [0, 1, 0]
    if others:
        said = f"The arrays {train[0]}, val_images and {test[0]} hold the images for training, validation and testing."
    else:
        said = f"The arrays {train[0]} and {test[0]} hold the images for training and testing."
    assert said in images.describe()


def test_npz_errors(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=GREY, b=GREY)
    asked = (
        f'`source` (={path}) must hold one array of images (three or four axes), or one with "train" in its name '
        f'and one with "test"; it holds '
    )
    assert error_of(path) == asked + "a (10, 6, 7), b (10, 6, 7)."
    np.savez(path, a=np.arange(3))
    assert error_of(path) == asked + "a (3,)."
    np.savez(path)
    assert error_of(path) == asked + "no array."
    np.savez(path, train=GREY, test=COLOUR)
    assert error_of(path) == (
        f"`source` (={path}) must hold images of one shape and dtype: it has train (10, 6, 7) uint8, "
        f"test (10, 6, 7, 3) uint8."
    )
    np.savez(path, train=GREY)
    assert error_of(path, memory_limit=100) == (
        f"`source` (={path}) holds arrays of 548 bytes, more than memory_limit=100: "
        f"save its images as an .npy file, which is read in place."
    )


class Harm:
    """What would run if anything were unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("something was unpickled",))


def test_nothing_is_unpickled(tmp_path):
    objects = np.array([Harm()] * 3, dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    text = error_of(tmp_path / "a.npy")
    assert text.startswith(f"`source` (={tmp_path / 'a.npy'}) cannot be read: ")
    assert text.endswith("Save plain numbers with np.save or np.savez.")
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Harm()))
    assert "cannot be read" in error_of(tmp_path / "b.npy")
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Harm()))
    assert "cannot be read" in error_of(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", images=GREY, names=objects, allow_pickle=True)
    images = load_images(tmp_path / "c.npz")
    assert everything(images) == expected(GREY[:, None])
    assert [name for name, _ in images.skipped] == ["names"]


@pytest.mark.parametrize("keep", [0, 5, 60, 127, 300])
def test_truncated_files(tmp_path, keep):
    np.save(tmp_path / "a.npy", GREY)
    np.savez(tmp_path / "a.npz", GREY)
    for name in ("a.npy", "a.npz"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:keep])
        assert error_of(path).startswith(f"`source` (={path}) cannot be read: ")


def test_headers_that_lie(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 10**4, 9)})
    (tmp_path / "a.npy").write_bytes(buffer.getvalue() + bytes(100))
    assert "cannot be read" in error_of(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", buffer.getvalue() + bytes(100))
    assert "it holds no array" in error_of(tmp_path / "a.npz") or "cannot be read" in error_of(tmp_path / "a.npz")


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("halfstride.autoencoder.images.arrays._read_members", lambda *_: pytest.fail("unpacked"))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", bytes(50_000_000))
    assert "holds arrays of 50,000,000 bytes, more than memory_limit=1,000,000" in error_of(
        tmp_path / "a.npz", memory_limit=1_000_000
    )
