"""Noisy pictures and their clean twins: matched by name, split together, decoded together."""

import numpy as np
import pytest
import torch
from PIL import Image

from errors import message
from halfstride.autoencoder.images import decode, inputs_and_targets, load_images


@pytest.fixture
def folders(tmp_path):
    """Thirty noisy pictures (value i, in two classes) and their clean twins (value 100 + i)."""
    for i in range(30):
        name = f"{'ab'[i % 2]}/{i:02}.photo"
        put(tmp_path / "noisy" / f"{name}.png", i)
        put(tmp_path / "clean" / f"{name}.bmp", 100 + i)
    return tmp_path / "noisy", tmp_path / "clean"


def put(path, value, size=(6, 5), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def splits(images):
    return images.train, images.validation, images.test


@pytest.mark.parametrize("memory_limit", [2**30, 0])
def test_a_batch_holds_inputs_and_targets(folders, memory_limit):
    noisy, clean = folders
    images = load_images(noisy, clean=clean, memory_limit=memory_limit)
    assert images.shape == (1, 5, 6)
    assert images.classes == ("a", "b")
    assert (images.options.source, images.options.clean) == (str(noisy), str(clean))
    seen = []
    for split in splits(images):
        assert split.paired
        split.workers = 0
        for batch in split.batches(4, shuffle=True):
            assert batch.shape[1:] == (2, 1, 5, 6)
            inputs, targets = inputs_and_targets(batch)
            assert (targets == inputs + 100).all()
            seen += inputs[:, 0, 0, 0].tolist()
        sample = split.sample(4)
        assert sample.images.shape == (4, 2, 1, 5, 6)
        assert [int(name[2:4]) for name in sample.names] == sample.images[:, 0, 0, 0, 0].tolist()
        assert (split.images is None) == (memory_limit == 0)
    assert sorted(seen) == list(range(30))
    assert torch.equal(images.options.load().test.sample(3).images, images.test.sample(3).images)


def test_without_twins_inputs_are_the_targets():
    batch = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    assert all(side is batch for side in inputs_and_targets(batch))
    assert not load_images("digits").train.paired
    with pytest.raises(ValueError, match=r"`batch` \(of shape \(3, 3, 1, 4, 4\)\) must be N×C×H×W, or N×2×C×H×W"):
        inputs_and_targets(torch.zeros(3, 3, 1, 4, 4))


@pytest.mark.parametrize("memory_limit", [2**30, 0])
def test_where_one_cannot_be_read_both_are_skipped(folders, memory_limit):
    noisy, clean = folders
    (clean / "a" / "00.photo.bmp").write_bytes(b"")
    (noisy / "b" / "01.photo.png").write_bytes(b"nothing")
    (clean / "film.mp4").write_bytes(b"nothing")
    images = load_images(noisy, clean=clean, memory_limit=memory_limit)
    names = {name for split in splits(images) for name in split.names}
    assert len(names) == 28
    reasons = dict(images.skipped)
    assert reasons["a/00.photo.png"] == "has a clean twin that is empty"
    assert reasons["b/01.photo.png"].startswith("is not a picture")
    assert reasons["film.mp4 (clean)"].startswith("is not a picture")
    assert len(reasons) == 3


def test_a_twin_that_breaks_later(folders):
    noisy, clean = folders
    for path in clean.rglob("*.bmp"):  # Pillow reads the header of a cut file
        path.write_bytes(path.read_bytes()[:-20] if "03" in path.name else path.read_bytes())
    images = load_images(noisy, clean=clean)
    assert dict(images.skipped)["b/03.photo.png"].startswith("has a clean twin that is truncated or broken: ")
    streamed = load_images(noisy, clean=clean, memory_limit=0).train
    streamed.workers = 0
    (clean / streamed.names[0]).with_suffix(".bmp").unlink()
    batches = torch.cat(list(streamed.batches(4)))
    assert (batches[:, 1] == batches[:, 0] + 100).all()
    assert dict(streamed.skipped)[streamed.names[0]].startswith("has a clean twin that cannot be opened: ")


def test_pairs_with_the_same_target_are_in_one_part(tmp_path):
    for i in range(40):
        put(tmp_path / "noisy" / f"{i:02}.png", i)
        put(tmp_path / "clean" / f"{i:02}.png", 100 + i // 4)
    images = load_images(tmp_path / "noisy", clean=tmp_path / "clean")
    kinds = [{int(name[:2]) // 4 for name in split.names} for split in splits(images)]
    assert sum(map(len, kinds)) == 10


def test_colour_and_size_of_pairs(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(10):
        put(tmp_path / "noisy" / f"{i}.png", i, size=(20, 10))
        (tmp_path / "clean").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (10, 20, 3), dtype=np.uint8)).save(tmp_path / "clean" / f"{i}.png")
    images = load_images(tmp_path / "noisy", clean=tmp_path / "clean", size=6)
    assert images.shape == (3, 6, 6)
    name = images.test.names[0]
    for side, folder in enumerate(("noisy", "clean")):
        assert torch.equal(images.test.images[0, side], decode(tmp_path / folder / name, (3, 6, 6)))


def error_of(noisy, clean):
    return message(load_images, noisy, clean=clean)


def test_pairs_that_do_not_match_are_named(folders, tmp_path):
    noisy, clean = folders
    (clean / "a" / "02.photo.bmp").unlink()
    start = f"`clean` (={clean}) must have one picture for each in `source`, of the same name apart from its suffix: "
    assert error_of(noisy, clean) == (start + "1 (a/02.photo.png) in `source` and 0 in `clean` have no twin.")
    for i in (4, 6, 8):
        (clean / "a" / f"{i:02}.photo.bmp").unlink()
        put(clean / f"{i}.png", 0)
    assert error_of(noisy, clean) == (
        start + "4 (a/02.photo.png, a/04.photo.png, a/06.photo.png, ...) in `source` and 3 (4.png, 6.png, 8.png) in "
        "`clean` have no twin."
    )


def test_other_errors(folders, tmp_path):
    noisy, clean = folders
    put(clean / "b" / "05.photo.bmp", 5, size=(5, 6))
    assert error_of(noisy, clean) == (
        f"`clean` (={clean}) must have pictures of the same size (height × width) as those in `source`: "
        f"1 (b/05.photo.png 5×6 and 6×5) differ."
    )
    put(clean / "b" / "05.photo.png", 5)
    assert error_of(noisy, clean) == (
        f"`clean` (={clean}) cannot be matched by name: b/05.photo.bmp and b/05.photo.png in {clean} "
        f"differ in their suffix alone."
    )
    assert error_of(noisy, tmp_path / "no") == (
        f"`clean` (={tmp_path / 'no'}) must be a folder of pictures, one for each in `source`."
    )
    (tmp_path / "empty").mkdir()
    assert error_of(noisy, tmp_path / "empty").startswith(f"`clean` (={tmp_path / 'empty'}) holds no images: ")
    assert error_of(np.zeros((3, 4, 5), np.uint8), clean) == (
        f"`clean` (={clean}) must go with a folder of pictures as `source`, which is in memory."
    )
