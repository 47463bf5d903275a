"""Three parts of the data: how large they are, that copies are in one only, and that test images decide nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from halfstride.autoencoder.images import load_images
from halfstride.autoencoder.images.collection import Collection
from halfstride.autoencoder.images.parts import complete_parts, draw_parts, validation_count


def collection(same, parts=None):
    names = [f"{i}.png" for i in range(len(same))]
    return Collection("x", "x", names, names, [None] * len(same), parts, same=same)


def put(folder, name, value, size=(4, 4), mode="L"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def splits(images):
    return images.train, images.validation, images.test


def test_how_many_are_for_validation():
    expected = {1: 0, 2: 1, 3: 1, 8: 4, 16: 8, 17: 8, 80: 8, 95: 10, 10_000: 1000, 10_006: 1000, 60_000: 1000}
    assert {count: validation_count(count) for count in expected} == expected


@given(st.lists(st.integers(0, 40), min_size=1, max_size=120), st.floats(0.01, 0.99), st.integers(0, 3))
def test_every_image_has_a_part_and_copies_the_same(same, fraction, seed):
    found = collection(same)
    notes = draw_parts(found, fraction, seed)
    members = [set(found.members(part)) for part in ("train", "validation", "test")]
    assert all(members)
    assert set.union(*members) == set(range(len(same)))
    kinds = [{same[i] for i in part} for part in members]
    if len(set(same)) == 1:
        assert members[0] == members[1] == members[2]
        assert "trained, validated and tested on" in notes[0]
    else:
        assert not (kinds[0] | kinds[1]) & kinds[2]
        alone = len(kinds[0] | kinds[1]) == 1
        assert members[0] == members[1] if alone else not kinds[0] & kinds[1]
        assert alone or len(members[1]) <= len(members[0])
    copies = len(same) - len(set(same))
    assert any("same as another one" in note for note in notes) == (copies > 0 and len(set(same)) > 1)


def test_another_image_moves_at_most_one_other():
    before = collection(list(range(400)))
    draw_parts(before, 0.2, 0)
    for count in range(401, 440):
        after = collection(list(range(count)))
        draw_parts(after, 0.2, 0)
        for part in ("validation", "test"):
            assert len(set(before.members(part)) - set(after.members(part))) <= 1
        before = after


def test_the_draw_for_validation_does_not_follow_that_for_testing():
    found = collection(list(range(4000)))
    draw_parts(found, 0.2, 0)
    tests = found.members("test")
    found.parts = [("train",) if i < 2000 else ("test",) for i in range(4000)]
    complete_parts(found, 0)
    share = len(set(tests) & set(found.members("validation"))) / 200
    assert 0.12 < share < 0.28


def test_copies_go_to_one_part(tmp_path):
    for i in range(60):
        put(tmp_path, f"{i:02}.bmp", i % 20)  # files of one size, each three times
    for memory_limit in (2**30, 0):
        images = load_images(tmp_path, memory_limit=memory_limit)
        kinds = [{int(name[:2]) % 20 for name in split.names} for split in splits(images)]
        assert sum(map(len, kinds)) == len(set.union(*kinds)) == 20
        assert "40 images are the same as another one: they are in the same part as that." in images.describe()
    assert abs(len(images.test) - 12) <= 3


def test_rows_of_arrays_that_are_equal_go_to_one_part(tmp_path):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (40, 20, 20, 3), dtype=np.uint8)
    array[20:] = array[:20]
    array[39, 1, 1, 1] ^= 1  # where a quick look does not see it
    np.save(tmp_path / "a.npy", array)
    for source in (array, torch.from_numpy(array).permute(0, 3, 1, 2), tmp_path / "a.npy"):
        images = load_images(source)
        parts = [{int(name.removeprefix("image ")) for name in split.names} for split in splits(images)]
        assert all({(i + 20) % 40 for i in part} - {19, 39} <= part for part in parts)
        assert "19 images are the same as another one" in images.describe()


def test_copies_of_test_images_are_taken_out_of_training(tmp_path):
    for i in range(20):
        put(tmp_path, f"train/{i:02}.png", i)
    for i in (3, 4, 100):
        put(tmp_path, f"test/{i}.png", i)
    images = load_images(tmp_path)
    learned = sorted(value for split in splits(images)[:2] for value in split.images[:, 0, 0, 0].tolist())
    assert learned == sorted({*range(20)} - {3, 4})
    assert images.test.images[:, 0, 0, 0].tolist() == [100, 3, 4]
    assert (
        "2 images are left out: the same pictures are held back for validation or testing.\n"
        "For validation, 8 of the 18 images for training were drawn by a hash of name and seed (0).\n"
        "2 skipped (train/03.png is the same picture as test/3.png, which is for testing; "
    ) in images.describe()
    put(tmp_path, "val/5.png", 5)
    put(tmp_path, "val/100.png", 100)
    images = load_images(tmp_path)
    assert [len(split) for split in splits(images)] == [17, 1, 3]
    assert dict(images.skipped)["val/100.png"] == "is the same picture as test/100.png, which is for testing"
    assert dict(images.skipped)["train/05.png"] == "is the same picture as val/5.png, which is for validation"


def test_where_all_training_images_are_test_images_too_there_is_an_error(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (9, 4, 5), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", train=array, test=array)
    with pytest.raises(ValueError, match=r"a\.npz\) holds no usable image to train on: add some to its split for that"):
        load_images(tmp_path / "a.npz")


def test_images_that_are_all_the_same_are_in_all_parts():
    images = load_images(np.zeros((20, 8, 8), np.uint8))
    assert [len(split) for split in splits(images)] == [20, 20, 20]
    assert images.describe().splitlines()[-2:] == [
        "All images are of one and the same grey or colour: there is nothing to learn.",
        "All 20 images are the same: they are trained, validated and tested on.",
    ]


def test_images_of_one_colour(tmp_path):
    for i in range(3):
        put(tmp_path, f"{i}.png", (200, 100, 0), size=(4, 4 + i), mode="RGB")
    assert "All images are of one and the same grey or colour: there is nothing to" in load_images(tmp_path).describe()
    put(tmp_path, "other.png", (200, 100, 1), mode="RGB")
    assert "nothing to learn" not in load_images(tmp_path).describe()


def test_in_folders_as_of_mvtec_no_test_image_decides_anything(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(20):
        path = tmp_path / "bottle" / "train" / "good" / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 1000, (10, 12), dtype=np.uint16)).save(path)
    alone = load_images(tmp_path / "bottle" / "train", size=None)
    for kind in ("good", "broken", "scratch"):
        for i in range(30):
            put(tmp_path, f"bottle/test/{kind}/{i:03}.png", (i, len(kind), 0), size=(40, 40), mode="RGB")
            put(tmp_path, f"bottle/ground_truth/{kind}/{i:03}_mask.png", i, size=(40, 40))
    path = tmp_path / "bottle" / "test" / "good" / "bright.png"
    Image.fromarray(np.full((10, 12), 60_000, np.uint16)).save(path)
    for memory_limit in (2**30, 0):
        images = load_images(tmp_path / "bottle", memory_limit=memory_limit)
        assert images.shape == alone.shape == (1, 10, 12)
        assert images.options.white == alone.options.white == 1023
        assert [len(split) for split in splits(images)] == [12, 8, 91]
        assert images.classes == ("broken", "good", "scratch")
        assert not any("ground_truth" in name for name in images.test.names)
        learned = images.train.names + images.validation.names
        assert sorted(learned) == [f"bottle/train/good/{i:03}.png"[7:] for i in range(20)]


def test_an_image_that_a_draw_puts_into_testing_decides_nothing(tmp_path):
    for i in range(30):
        put(tmp_path, f"{i:02}.png", i)
    test = load_images(tmp_path).test.names[0]
    Image.new("RGB", (100, 50)).save(tmp_path / test)
    images = load_images(tmp_path)
    assert test in images.test.names
    assert images.shape == (1, 4, 4)
    assert "that of all files. Images of other sizes are scaled" in images.describe()


def test_where_decoding_leaves_a_part_empty_it_is_drawn_again(tmp_path):
    for i in range(3):
        put(tmp_path, f"{i}.png", i, size=(40, 40))
    test = load_images(tmp_path).test.names[0]
    (tmp_path / test).write_bytes((tmp_path / test).read_bytes()[:-30])
    images = load_images(tmp_path)
    assert [len(split) for split in splits(images)] == [1, 1, 1]
    assert images.skipped[0].name == test
    put(tmp_path / "own", "train/a.png", 1, size=(40, 40))
    put(tmp_path / "own", "train/b.png", 2, size=(40, 40))
    put(tmp_path / "own", "test/a.png", 3, size=(40, 40))
    path = tmp_path / "own" / "test" / "a.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="holds no usable image to test on"):
        load_images(tmp_path / "own")


@pytest.mark.parametrize(
    ("largest", "white"),
    [(0, 65_535), (63, 65_535), (64, 1023), (1023, 1023), (1024, 4095), (16_383, 16_383), (16_384, 65_535)],
)
def test_the_bits_in_use_decide_what_is_white(tmp_path, largest, white):
    rng = np.random.default_rng(0)
    array = rng.integers(0, largest + 1, (12, 6, 6), dtype=np.uint16)
    array[:, 0, 0] = largest
    array[:, 1, :5] = (np.arange(12) % (largest + 1))[:, None]
    for i, image in enumerate(array):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    np.save(tmp_path / "a.npy", array)
    for source in (tmp_path, array, tmp_path / "a.npy"):
        images = load_images(source)
        assert images.options.white == white
        note = f"The pictures of 16 bits hold values up to {largest:,}: {white:,} is white ("
        assert (note in images.describe()) == (white != 65_535)
        expected = round(largest * 255 / white)
        assert images.train.images[:, 0, 0, 0].tolist() == [expected] * len(images.train)
        streamed = load_images(source, memory_limit=0)
        assert torch.equal(streamed.train.sample(99).images, images.train.sample(99).images)
    assert load_images(tmp_path, white=largest + 1).options.white == largest + 1


def test_pictures_of_8_bits_do_not_decide_what_is_white(tmp_path):
    put(tmp_path, "a.png", 200)
    put(tmp_path, "b.png", 100)
    assert load_images(tmp_path).options.white == 65_535


@pytest.mark.parametrize("size", [None, 3])
def test_images_are_loaded_under_inference_mode(tmp_path, size):
    for i in range(40):
        put(tmp_path, f"{i}.png", (i, 0, i), mode="RGB")
    array = np.arange(20 * 16, dtype=np.uint16).reshape(20, 4, 4)
    with torch.inference_mode():
        for source in (tmp_path, array, torch.rand(20, 1, 4, 4), "digits"):
            images = load_images(source, size=size)
            sample = load_images(source, size=size, memory_limit=0).test.sample(3)
            for tensor in (images.train.images, images.test.images, images.train.sample(4).images, sample.images):
                assert not tensor.is_inference()
