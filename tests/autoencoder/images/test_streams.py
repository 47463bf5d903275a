"""Images that do not fit into memory: the same batches as in memory, and files that vanish while they are read."""

import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from halfstride.autoencoder.images import load_images, streams
from halfstride.autoencoder.images.collection import Rows
from halfstride.autoencoder.images.splits import Epoch
from halfstride.autoencoder.images.streams import ListedSplit

# Python 3.12 and later warn of every fork in a process that has threads, as any with torch has.
FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def folder(tmp_path):
    """Thirty grey images 6×6, fifteen in each of two classes; image i is filled with i."""
    for i in range(30):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 6), i).save(path)
    return tmp_path / "photos"


def streamed(source, workers=0, **options):
    images = load_images(source, memory_limit=0, **options)
    for split in (images.train, images.validation, images.test):
        assert isinstance(split, ListedSplit)
        assert split.images is None
        split.workers = workers
    return images


def test_a_stream_gives_the_batches_that_memory_gives(folder):
    kept, stream = load_images(folder), streamed(folder)
    assert stream.classes == kept.classes == ("a", "b")
    assert "More than memory_limit (0 bytes): decoded anew in every epoch." in stream.describe()
    for split, other in ((kept.train, stream.train), (kept.validation, stream.validation), (kept.test, stream.test)):
        assert split.names == other.names
        assert len(split) == len(other)
        assert torch.equal(split.labels, other.labels)
        for options in ({}, {"shuffle": True, "seed": 3, "epoch": 4}, {"shuffle": True, "skip": 2}):
            for rank in (0, 1):
                share = {"rank": rank, "world_size": 2}
                batches = list(split.batches(6, **options, **share))
                for batch, found in zip(batches, other.batches(6, **options, **share), strict=True):
                    assert torch.equal(batch, found)
                    assert found.is_contiguous()


@FORKS
def test_worker_processes_change_neither_order_nor_random_numbers(folder):
    images = streamed(folder)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    alone = list(images.train.batches(5, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)
    images.train.workers = 2
    found = list(images.train.batches(5, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(batch, other) for batch, other in zip(alone, found, strict=True))
    assert multiprocessing.active_children() == []


def test_what_the_workers_need_can_be_sent_to_them(folder):
    split = streamed(folder).train
    decoder = pickle.loads(pickle.dumps(split.decoder))
    share = next(split._shares(Epoch(4, seed=0, epoch=0, shuffle=True, rank=0, world_size=1, skip=0)))
    assert torch.equal(torch.from_numpy(decoder.__getitems__(share)[0]), next(split.batches(4, shuffle=True)))


def test_processes_on_one_machine_share_its_processors(folder, monkeypatch):
    monkeypatch.setattr("halfstride.autoencoder.images.streams.processors", lambda: 8)
    assert load_images(folder, memory_limit=0).train.workers == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert load_images(folder, memory_limit=0).train.workers == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert load_images(folder, memory_limit=0).train.workers == 1


def test_a_folder_that_changes_harms_nothing(folder):
    images = streamed(folder)
    whole = list(images.train.batches(4, shuffle=True))
    names = images.train.names
    (folder / names[0]).unlink()
    (folder / names[1]).write_bytes(b"")
    (folder / names[2]).write_bytes((folder / names[2]).read_bytes()[:-30])
    Image.new("RGB", (9, 7), (200, 200, 200)).save(folder / names[3])
    Image.new("L", (6, 6), 250).save(folder / "a" / "new.png")
    found = list(images.train.batches(4, shuffle=True))
    assert [batch.shape for batch in found] == [batch.shape for batch in whole]
    values = set(torch.cat(found)[:, 0, 0, 0].tolist())
    assert values == {*(int(name[2:4]) for name in names[4:]), 200}
    reasons = dict(images.skipped)
    assert set(reasons) == set(names[:3])
    assert reasons[names[0]] == "cannot be opened: No such file or directory"
    assert reasons[names[1]] == "is empty"
    assert reasons[names[2]].startswith("is truncated or broken: ")
    list(images.train.batches(4, shuffle=True))
    assert len(images.skipped) == 3
    assert "3 skipped (" in images.describe()


def test_batches_keep_their_sizes_where_the_first_ones_cannot_be_read(folder):
    images = streamed(folder)
    for name in images.train.names[:9]:
        (folder / name).unlink()
    found = list(images.train.batches(4))
    assert [len(batch) for batch in found] == [4, 4, 4, 4]
    assert all(len(set(batch[:, 0, 0, 0].tolist())) == size for batch, size in zip(found, (3, 3, 3, 4), strict=True))


def test_a_folder_that_is_gone_is_an_error(folder):
    images = streamed(folder)
    for path in folder.rglob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match=r"can no longer be read: 4 steps in a row found no image, the last time beca"):
        list(images.train.batches(4))
    shares = list(images.test.batches(4, rank=3, world_size=4, skip=2))  # nothing to do is no error
    assert shares == []


def test_a_folder_that_goes_in_the_middle_is_an_error_after_a_while(folder, monkeypatch):
    monkeypatch.setattr("halfstride.autoencoder.images.streams._PATIENCE", 3)
    images = streamed(folder)
    batches = images.train.batches(1)
    assert next(batches).shape == (1, 1, 6, 6)
    for path in folder.rglob("*.png"):
        path.unlink()
    assert [len(next(batches)) for _ in range(3)] == [1, 1, 1]
    with pytest.raises(ValueError, match=r"4 steps in a row found no image, the last time because a/\d\d.png cannot"):
        next(batches)


def test_single_gaps_are_forgiven_for_ever(folder, monkeypatch):
    monkeypatch.setattr("halfstride.autoencoder.images.streams._PATIENCE", 3)
    images = streamed(folder)
    for name in images.train.names[1::2]:
        (folder / name).unlink()
    assert len(list(images.train.batches(1))) == 16


@FORKS
def test_an_array_on_disk_is_read_in_place(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (20, 3, 6, 7), dtype=np.uint8)
    np.save(tmp_path / "a.npy", array)
    kept, stream = load_images(tmp_path / "a.npy"), streamed(tmp_path / "a.npy")
    for workers in (0, 2):
        stream.train.workers = workers
        pairs = zip(kept.train.batches(6, shuffle=True), stream.train.batches(6, shuffle=True), strict=True)
        assert all(torch.equal(batch, found) for batch, found in pairs)
    rows = stream.train.decoder.find.__self__
    assert isinstance(rows, Rows)
    packed = pickle.dumps(rows)
    assert len(packed) < 1000
    np.testing.assert_array_equal(pickle.loads(packed)[3], array[3].transpose(1, 2, 0))


def test_an_array_in_memory_can_be_decoded_when_it_is_needed(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    kept, stream = load_images(array, size=4), streamed(array, size=4)
    pairs = zip(kept.train.batches(6, shuffle=True), stream.train.batches(6, shuffle=True), strict=True)
    assert all(torch.equal(batch, found) for batch, found in pairs)
    rows = pickle.loads(pickle.dumps(Rows(array)))
    np.testing.assert_array_equal(rows[2], array[2])


def test_a_sample_decodes_only_what_it_shows(folder, monkeypatch):
    kept, stream = load_images(folder), streamed(folder)
    for name in stream.train.names:
        if name not in kept.train.sample(6).names:
            (folder / name).unlink()
    found = stream.train.sample(6)
    assert found.names == kept.train.sample(6).names
    assert torch.equal(found.images, kept.train.sample(6).images)
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 1]
    (folder / found.names[2]).write_bytes(b"")
    fewer = stream.train.sample(6)
    assert fewer.names == [*found.names[:2], *found.names[3:]]
    assert torch.equal(fewer.images, found.images[[0, 1, 3, 4, 5]])
    assert dict(stream.train.skipped)[found.names[2]] == "is empty"
    for path in folder.rglob("*.png"):
        path.unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"gives no image of 6 for a sample: ./\d\d.png cannot be opened: No such"):
        stream.train.sample(6)


def test_without_room_for_locks_pictures_are_decoded_in_this_process(folder, monkeypatch):
    split = streamed(folder).train
    expected = torch.cat(list(split.batches(4)))
    monkeypatch.setattr(streams, "_free_shared_memory", lambda: 4_096)
    split.workers = 2
    with pytest.warns(RuntimeWarning, match="/dev/shm has only 4,096 bytes free, too few for the locks of 2 worker"):
        assert torch.equal(torch.cat(list(split.batches(4))), expected)
    assert split.workers == 0
