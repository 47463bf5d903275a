"""Folders of every layout, with everything in them that people leave there."""

import functools
import os
import socket
import sys

import numpy as np
import pytest
from PIL import Image

from errors import message
from halfstride.autoencoder.images import load_images, skipped_lines


def put(folder, *names, size=(4, 4), value=100):
    """Write a grey image under each name, no two files the same; the format follows from the name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, value).save(path)
        with path.open("ab") as file:
            file.write(os.fsencode(name))


def value_of(*splits):
    return sorted(value for split in splits for value in split.images[:, 0, 0, 0].tolist())


def counts(images):
    return len(images.train), len(images.validation), len(images.test)


def parts(images):
    return images.train, images.validation, images.test


def test_flat(tmp_path):
    put(tmp_path, "b.png", "a.jpg", "c.webp", "d.bmp", "e.tif", "f.gif")
    images = load_images(tmp_path, channels=1)  # a WebP has three channels, whatever its colours
    assert images.name == tmp_path.name
    assert images.shape == (1, 4, 4)
    assert images.classes is None
    assert images.train.labels is None
    assert counts(images) == (3, 2, 1)
    assert images.skipped == ()


def test_class_folders_at_any_depth(tmp_path):
    put(tmp_path, "10/a.png", "2/x/b.png", "2/x/y/c.png", "10/d.png", value=1)
    put(tmp_path, "cat/e.png", "cat/f.png", value=2)
    images = load_images(tmp_path)
    assert images.classes == ("2", "10", "cat")
    assert sorted(label for split in parts(images) for label in split.labels.tolist()) == [0, 0, 1, 1, 2, 2]
    for split in parts(images):
        assert [label == 2 for label in split.labels] == [image[0, 0, 0] == 2 for image in split.images]


def test_images_beside_the_class_folders_mean_that_there_are_no_classes(tmp_path):
    put(tmp_path, "cat/a.png", "cat/b.png", "dog/c.png", "d.png")
    images = load_images(tmp_path, test_fraction=0.5)
    assert any(split.labels is None for split in parts(images))
    put(tmp_path / "one", "cat/a.png", "cat/b.png")
    assert load_images(tmp_path / "one").classes is None


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "Testing"), ("train", "val")])
def test_train_and_test_folders(tmp_path, train, test):
    put(tmp_path / train, "a/1.png", "b/2.png", "b/3.png", value=1)
    put(tmp_path / test, "a/1.png", "b/2.png", value=2)
    put(tmp_path, "unlabelled/3.png", "cover.png", value=3)
    images = load_images(tmp_path)
    assert value_of(images.train, images.validation) == [1, 1, 1]
    assert value_of(images.test) == [2, 2]
    assert images.classes == ("a", "b")
    assert sorted(images.train.labels.tolist() + images.validation.labels.tolist()) == [0, 1, 1]
    assert images.test.labels.tolist() == [0, 1]
    assert f"The folders {train} and {test} hold the images for training and testing." in images.describe()


def test_train_and_test_folders_without_classes(tmp_path):
    put(tmp_path, "train/1.png", "train/2.png", value=1)
    put(tmp_path, "test/1.png", value=2)
    put(tmp_path, "val/1.png", value=3)
    images = load_images(tmp_path)
    assert [value_of(split) for split in parts(images)] == [[1, 1], [3], [2]]
    assert images.classes is None
    assert "The folders train, val and test hold the images for training, validation and testing." in images.describe()
    assert "For validation" not in images.describe()


def test_a_class_called_train_is_a_class(tmp_path):
    put(tmp_path, "train/a.png", "bus/b.png", "car/c.png")
    assert load_images(tmp_path).classes == ("bus", "car", "train")


def test_a_lone_folder_stands_for_what_is_in_it(tmp_path):
    put(tmp_path, "data/set/train/1.png", value=1)
    put(tmp_path, "data/set/test/1.png", value=2)
    images = load_images(tmp_path)
    assert (value_of(images.train), value_of(images.test)) == ([1], [2])
    put(tmp_path / "more", "train/cat/1.png", "train/dog/1.png")
    assert load_images(tmp_path / "more").classes == ("cat", "dog")


def test_what_accompanies_images_is_left_alone(tmp_path):
    put(tmp_path, "a.png", "b.png", ".hidden.png", ".git/c.png", "__MACOSX/._a.png")
    for name in ("Thumbs.db", "desktop.ini", "labels.csv", "README.md", "boxes.JSON", "notes.txt"):
        (tmp_path / name).write_text("not an image")
    images = load_images(tmp_path)
    assert counts(images) == (1, 1, 1)
    assert images.skipped == ()


def test_what_is_broken_is_skipped_and_listed(tmp_path):
    put(tmp_path, *(f"{i}.png" for i in range(10)))
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-30])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "movie.mp4").write_bytes(b"\0\0\0 ftypisom")
    (tmp_path / "no suffix").write_bytes(whole + b"!")
    images = load_images(tmp_path)
    assert counts(images) == (5, 4, 2)
    assert [name for name, _ in images.skipped] == ["empty.jpg", "movie.mp4", "cut.png"]
    assert dict(images.skipped)["empty.jpg"] == "is empty"
    assert dict(images.skipped)["cut.png"].startswith("is truncated or broken: ")
    text = images.describe()
    assert "3 skipped (empty.jpg is empty; movie.mp4 is not a picture" in text
    assert len(text.splitlines()) == 7
    assert skipped_lines(images.skipped).splitlines()[0] == "empty.jpg\tis empty"


def test_many_skipped_are_counted_and_the_first_are_named(tmp_path):
    put(tmp_path, "a.png")
    for i in range(1500):
        (tmp_path / f"{i:04}.png").write_bytes(b"")
    assert (
        load_images(tmp_path)
        .describe()
        .endswith("1,500 skipped (0000.png is empty; 0001.png is empty; 0002.png is empty; and 1,497 more).")
    )


def test_names_that_cannot_be_printed(tmp_path):
    put(tmp_path, "a.png")
    (tmp_path / "new\nline\x1b.png").write_bytes(b"")
    if sys.platform == "linux":
        (tmp_path / os.fsdecode(b"\xff\xfe.png")).write_bytes(b"")
        put(tmp_path, os.fsdecode(b"\xfc.png"))
    images = load_images(tmp_path)
    assert len(images.describe().splitlines()) == 7
    skipped_lines(images.skipped).encode()
    images.describe().encode()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and links")
def test_pipes_sockets_and_links(tmp_path, monkeypatch):
    put(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "selfish.png").symlink_to(tmp_path / "selfish.png")
    (tmp_path / "round").symlink_to(tmp_path)
    put(tmp_path, "deep/down/b.png")
    (tmp_path / "deep" / "down" / "again").symlink_to(tmp_path / "deep")
    (tmp_path / "link.png").symlink_to(tmp_path / "deep" / "down" / "b.png")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # the path of a socket must be short
        listener.bind("socket.png")
    images = load_images(tmp_path)
    names = [set(split.names) for split in parts(images)]  # b.png and the link to it are the same: in one part
    assert names in (
        [{"a.png"}, {"a.png"}, {"deep/down/b.png", "link.png"}],
        [names[1], {"deep/down/b.png", "link.png"}, {"a.png"}],
    )
    reasons = dict(images.skipped)
    assert sorted(reasons) == ["dangling.png", "pipe.png", "selfish.png", "socket.png"]
    assert reasons["pipe.png"] == reasons["dangling.png"] == "is not a file"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_what_may_not_be_read(tmp_path):
    put(tmp_path, "a.png", "closed/b.png", "c.png")
    (tmp_path / "c.png").chmod(0)
    (tmp_path / "closed").chmod(0)
    images = load_images(tmp_path)
    (tmp_path / "closed").chmod(0o700)
    reason = "cannot be opened: Permission denied"
    assert sorted(images.skipped) == [("c.png", reason), ("closed", reason)]


error_of = functools.partial(message, load_images)


def test_errors(tmp_path):
    way_out = "give a folder with PNG, JPEG, WebP, AVIF, HEIC, BMP, TIFF, GIF or PPM files in it or in its subfolders."
    missing = tmp_path / "missing"
    assert error_of(missing) == (
        f"`source` (={missing}) does not exist: give a folder of images, an .npy or .npz file, "
        f'"hub:NAME" for a data set of the Hugging Face hub, or "digits".'
    )
    put(tmp_path, "some/a.png")
    file = tmp_path / "some" / "a.png"
    assert error_of(file) == (
        f"`source` (={file}) is a file: give the folder that it lies in, or an .npy or .npz file."
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert error_of(empty) == f"`source` (={empty}) holds no images: {way_out}"
    (empty / "a.txt").write_text("text")
    assert error_of(empty) == f"`source` (={empty}) holds no images: {way_out}"
    (empty / "b.png").write_bytes(b"")
    assert error_of(empty) == (
        f"`source` (={empty}) holds no usable image: 1 skipped (b.png is empty). Way out: {way_out}"
    )
    put(empty, "c.png", size=(40, 40))
    (empty / "c.png").write_bytes((empty / "c.png").read_bytes()[:50])
    assert "holds no usable image: 2 skipped (b.png is empty; c.png is truncated or broken: " in error_of(empty)
    put(tmp_path, "half/train/a.png")
    (tmp_path / "half" / "test").mkdir()
    (tmp_path / "half" / "test" / "b.png").write_bytes(b"")
    assert error_of(tmp_path / "half") == (
        f"`source` (={tmp_path / 'half'}) holds no usable image to test on: "
        f"add some to its split for that, or remove it to have the other one split."
    )
    assert error_of("").startswith("`source` (=.) does not exist: ")
    assert error_of("x" * 5000).endswith("…) cannot be opened: File name too long.")
    assert error_of(3) == "`source` (of type int) must be a path, a name, an array or a tensor."


def test_a_new_file_changes_the_place_of_at_most_one_other(tmp_path):
    for i in range(40):
        put(tmp_path, f"{i}.png", value=i)
    before = set(value_of(load_images(tmp_path).test))
    assert len(before) == 8
    assert before != set(value_of(load_images(tmp_path, seed=1).test))
    for i in range(40, 60):
        put(tmp_path, f"{i}.png", value=i)
        after = set(value_of(load_images(tmp_path).test))
        assert len(before - after) <= 1
        before = after


def test_one_image_is_trained_validated_and_tested_on(tmp_path):
    put(tmp_path, "a.png", value=7)
    images = load_images(tmp_path)
    assert [value_of(split) for split in parts(images)] == [[7], [7], [7]]
    assert "With one image, it is trained, validated and tested on." in images.describe()
    put(tmp_path, "b.png")
    for fraction in (0.01, 0.99):
        images = load_images(tmp_path, test_fraction=fraction)
        assert counts(images) == (1, 1, 1)
        assert images.train.names == images.validation.names != images.test.names
        assert "1 image is for training alone: validation is on the same." in images.describe()


def test_images_come_in_the_order_of_their_names(tmp_path):
    for i in range(30):
        put(tmp_path, f"{i:02}.png", value=i)
    images = load_images(tmp_path)
    for split in parts(images):
        assert (np.diff(split.images[:, 0, 0, 0].int()) > 0).all()
