"""Data sets of the library `datasets`, made here: downloaded or streamed, whole or in shards."""

import contextlib
import functools
import io
import itertools
import json
import tarfile
import threading

import datasets
import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from errors import message
from halfstride.autoencoder.images import iterable, load_images
from halfstride.autoencoder.images.iterable import IterableSplit
from halfstride.autoencoder.images.splits import MemorySplit

# Python 3.12 and later warn of every fork in a process that has threads, as any with torch has.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """No test reaches the hub, and none leaves anything behind."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # Where a shuffled stream ends, the library sleeps for five seconds.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def png(value, size=(5, 4)):
    buffer = io.BytesIO()
    Image.new("L", size, value).save(buffer, "PNG")
    return buffer.getvalue()


FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["even", "odd"])})


def data_set(values, features=FEATURES):
    """Image i is filled with i, and its class is whether i is odd."""
    columns = {
        "image": [{"bytes": png(value), "path": None} for value in values],
        "label": [value % 2 for value in values],
    }
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.fixture
def parquet(tmp_path):
    """A folder as it lies on the hub: four files of ten images to train on, one to validate on, and one to test on."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    for shard in range(4):
        part = data_set(range(10 * shard, 10 * shard + 10))
        part.to_parquet(str(folder / f"train-{shard:05}-of-00004.parquet"))
    data_set(range(100, 110)).to_parquet(str(folder / "test-00000-of-00001.parquet"))
    data_set(range(200, 205)).to_parquet(str(folder / "validation-00000-of-00001.parquet"))
    return folder


def tell_sizes(folder, download_size):
    """Let the data set's card say how many images there are and how large its files."""
    counts = {"train": 40, "validation": 5, "test": 10}
    splits = [{"name": name, "num_bytes": 100 * count, "num_examples": count} for name, count in counts.items()]
    files = [{"split": name, "path": f"{name}-*"} for name in counts]
    label = {"name": "label", "dtype": {"class_label": {"names": {"0": "even", "1": "odd"}}}}
    info = {"features": [{"name": "image", "dtype": "image"}, label], "splits": splits}
    info |= {"download_size": download_size, "dataset_size": 5500}
    card = {"dataset_info": info, "configs": [{"config_name": "default", "data_files": files}]}
    (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")  # JSON is YAML


def numbers(batches):
    return [batch[:, 0, 0, 0].tolist() for batch in batches]


def values_of(*splits):
    return sorted(value for split in splits for value in split.images[:, 0, 0, 0].tolist())


def joined(lists):
    return list(itertools.chain.from_iterable(lists))


def stream_of(source, **options):
    images = load_images(source, memory_limit=500, **options)
    assert isinstance(images.validation, MemorySplit)
    for split in (images.train, images.test):
        assert isinstance(split, IterableSplit)
        split.workers = 0
        assert split.size is None
    return images


@contextlib.contextmanager
def count_reads(monkeypatch):
    """How many pictures are decoded."""
    done = []
    original = iterable.picture
    monkeypatch.setattr(iterable, "picture", lambda value: done.append(1) or original(value))
    yield done


# Downloaded, or small enough to be kept -------------------------------------------------------------------------------
def check_parquet(images):
    assert images.shape == (1, 4, 5)
    assert images.classes == ("even", "odd")
    assert images.train.images[:, 0, 0, 0].tolist() == list(range(40))
    assert images.validation.images[:, 0, 0, 0].tolist() == list(range(200, 205))
    assert images.test.images[:, 0, 0, 0].tolist() == list(range(100, 110))
    assert images.train.labels.tolist() == [0, 1] * 20
    assert (
        "The splits train, validation and test hold the images for training, validation and testing."
        in images.describe()
    )


def test_a_small_data_set_is_kept_and_one_of_known_size_downloaded(parquet, tmp_path):
    images = load_images(f"hub:{parquet}")
    assert images.name == f"hub:{parquet}"
    check_parquet(images)
    tell_sizes(parquet, download_size=4000)
    check_parquet(load_images(f"hub:{parquet}"))
    assert list((tmp_path / "cache").rglob("*.arrow"))


def test_data_set_objects():
    parts = {"test": data_set(range(100, 110)), "validation": data_set(range(200, 205)), "train": data_set(range(40))}
    whole = datasets.DatasetDict(parts)
    check_parquet(load_images(whole))
    check_parquet(load_images(whole.with_format("torch")))
    two = load_images(datasets.DatasetDict({"validation": whole["test"], "train": whole["train"]}))
    assert values_of(two.train, two.validation) == list(range(40))
    assert values_of(two.test) == list(range(100, 110))
    assert "The splits train and validation hold the images for training and testing." in two.describe()
    streams = datasets.IterableDatasetDict({name: part.to_iterable_dataset() for name, part in whole.items()})
    check_parquet(load_images(streams))


def test_a_test_split_may_have_no_classes():
    parts = {"train": data_set(range(10)), "test": data_set(range(20, 25)).remove_columns("label")}
    streams = datasets.IterableDatasetDict({name: part.to_iterable_dataset() for name, part in parts.items()})
    for source in (datasets.DatasetDict(parts), streams):
        images = load_images(source)
        assert images.classes == ("even", "odd")
        assert sorted(torch.cat([images.train.labels, images.validation.labels]).tolist()) == [0] * 5 + [1] * 5
        assert images.test.labels is None
    parts["test"] = parts["test"].rename_column("image", "photo")
    assert error_of(datasets.DatasetDict(parts)) == (
        "`source` (=data set) must have its images in a column image in test too."
    )


def test_without_a_split_one_is_drawn():
    images = load_images(data_set(range(50)))
    assert images.name == "data set"
    assert (len(images.train), len(images.validation), len(images.test)) == (32, 8, 10)
    kept = load_images(data_set(range(50)).to_iterable_dataset())
    assert torch.equal(images.test.images, kept.test.images)
    only = load_images(datasets.DatasetDict({"extra": data_set(range(50))}))
    assert torch.equal(images.test.images, only.test.images)


def test_more_than_fits_of_a_downloaded_data_set_is_decoded_when_needed():
    whole = data_set(range(50))
    kept, images = load_images(whole), load_images(whole, memory_limit=0)
    assert images.train.images is None
    for workers in (0, 2):
        images.train.workers = workers
        pairs = zip(kept.train.batches(8, shuffle=True), images.train.batches(8, shuffle=True), strict=True)
        assert all(torch.equal(batch, found) for batch, found in pairs)


@pytest.fixture
def place(tmp_path_factory):
    """An empty folder without "test" on its way, from which `datasets` would read that it is a test split."""
    return tmp_path_factory.mktemp("hub")


def test_webdataset(place):
    with tarfile.open(place / "train.tar", "w") as archive:
        for i in range(10):
            for name, data in ((f"{i}.png", png(i)), (f"{i}.cls", str(i % 3).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    images = load_images(f"hub:{place}")
    assert images.classes == ("0", "1", "2")
    assert images.train.labels.tolist() == (images.train.images[:, 0, 0, 0] % 3).tolist()


def test_a_folder_of_images_read_as_a_data_set(place):
    for name, value in (("a/1.png", 1), ("a/2.png", 2), ("b/3.png", 3)):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(png(value))
    (place / "b" / "4.png").write_bytes(b"")
    images = load_images(f"hub:{place}")
    assert (len(images.train), len(images.validation), len(images.test)) == (1, 1, 1)
    assert images.classes == ("a", "b")
    assert [reason for _, reason in images.skipped] == ["is empty"]


def test_columns():
    masks = data_set(range(10)).rename_column("image", "mask").rename_column("label", "kind")
    pictures = data_set(range(100, 110)).rename_column("image", "img").remove_columns("label")
    images = load_images(datasets.concatenate_datasets([masks, pictures], axis=1))
    assert images.train.images.min() >= 100
    assert images.classes == ("even", "odd")
    raw = datasets.Dataset.from_dict({"picture": [{"bytes": png(i), "path": None} for i in range(5)]})
    assert len(load_images(raw).train) == 2
    untold = data_set(range(10)).to_iterable_dataset().map(lambda example: {"label": -1}, features=FEATURES)
    assert load_images(untold).classes is None


def test_a_data_set_that_went_through_a_map():
    def darker(example):
        return {**example, "image": example["image"].point(lambda value: value // 2)}

    mapped = data_set(range(40)).to_iterable_dataset().map(darker, features=FEATURES)
    images = load_images(mapped)
    assert values_of(images.train, images.validation, images.test) == [i // 2 for i in range(40)]
    images = stream_of(datasets.IterableDatasetDict({"train": mapped, "test": mapped}))
    assert joined(numbers(images.test.batches(4))) == [i // 2 for i in range(40)]
    train, validation = (joined(numbers(split.batches(4))) for split in (images.train, images.validation))
    # Images that became the same are held out together.
    assert sorted({*train, *validation}) == list(range(20))
    assert not {*train} & {*validation}


def test_broken_and_missing_images_are_skipped():
    values = [{"bytes": png(i), "path": None} for i in range(8)]
    values += [None, {"bytes": b"", "path": "empty.png"}, {"bytes": png(1)[:-30], "path": None}]
    values += [{"bytes": None, "path": "memory://nowhere.png"}, {"bytes": None, "path": "/nowhere/at/all.png"}]
    whole = datasets.Dataset.from_dict({"image": values}, features=datasets.Features({"image": datasets.Image()}))
    for source in (whole, whole.to_iterable_dataset()):
        images = load_images(source)
        assert len(images.train) + len(images.validation) + len(images.test) == 8
        reasons = dict(images.skipped)
        assert set(reasons) == {f"image {i}" for i in (8, 9, 10, 11, 12)}
        assert reasons["image 8"] == "is missing"
        assert reasons["image 11"].startswith("cannot be fetched: ")
        assert reasons["image 12"] == "cannot be opened: No such file or directory"


def test_addresses_are_fetched():
    files = fsspec.filesystem("memory")
    for i in range(10):
        files.pipe(f"/remote/{i}.png", png(i))
    values = [{"bytes": None, "path": f"memory://remote/{i}.png"} for i in range(10)]
    whole = datasets.Dataset.from_dict({"image": values}, features=datasets.Features({"image": datasets.Image()}))
    images = load_images(whole.to_iterable_dataset())
    assert values_of(images.train, images.validation, images.test) == list(range(10))
    stream = whole.to_iterable_dataset()
    images = stream_of(datasets.IterableDatasetDict({"train": stream, "test": stream}))
    assert joined(numbers(images.test.batches(4))) == list(range(10))
    train, validation = (joined(numbers(split.batches(4))) for split in (images.train, images.validation))
    assert sorted(train + validation) == list(range(10))


# Streamed -------------------------------------------------------------------------------------------------------------
def test_a_stream_gives_each_image_once_an_epoch(parquet):
    images = stream_of(f"hub:{parquet}")
    assert images.shape == (1, 4, 5)
    assert images.classes is None
    assert "an unknown number of images to train on" in images.describe()
    assert "Too large to keep: read anew in every epoch." in images.describe()
    with pytest.raises(TypeError, match="The number of streamed images is unknown: see `size`"):
        len(images.train)
    orders = [joined(numbers(images.train.batches(7, shuffle=True, seed=1, epoch=epoch))) for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(40))
    assert joined(numbers(images.train.batches(7))) == list(range(40))
    assert joined(numbers(images.validation.batches(7))) == list(range(200, 205))
    assert joined(numbers(images.test.batches(7))) == list(range(100, 110))


def test_a_known_size_is_said_and_what_is_too_large_is_not_downloaded(parquet, tmp_path, monkeypatch):
    monkeypatch.setattr("halfstride.autoencoder.images.hub._SAMPLE", 30)
    tell_sizes(parquet, download_size=10**12)
    images = load_images(f"hub:{parquet}")  # the few files that are here would fit
    assert isinstance(images.train, IterableSplit)
    assert "about 40 images to train on, 5 images to validate on, about 10 images to test on." in images.describe()
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_workers_change_nothing(parquet):
    images = stream_of(f"hub:{parquet}")
    alone = numbers(images.train.batches(7, shuffle=True))
    images.train.workers = 2
    assert numbers(images.train.batches(7, shuffle=True)) == alone


def test_a_stream_goes_on_where_it_stopped_without_decoding_again(parquet, monkeypatch):
    images = stream_of(f"hub:{parquet}")
    whole = numbers(images.train.batches(7, shuffle=True))
    with count_reads(monkeypatch) as done:
        images.train.decoder.find = iterable.picture
        assert numbers(images.train.batches(7, shuffle=True, skip=4)) == whole[4:]
    assert len(done) == 40 - 4 * 7


def test_an_epoch_can_be_left_in_the_middle(parquet):
    images = stream_of(f"hub:{parquet}")
    for workers in (0, 1):
        images.train.workers = workers
        batches = images.train.batches(2, shuffle=True)
        next(batches)
        batches.close()


def test_nothing_is_read_after_an_epoch_was_left():
    allowed = threading.Semaphore(3)
    read = []

    def items():
        for i in range(100):
            allowed.acquire()
            read.append(i)
            yield i

    before = set(threading.enumerate())
    stream = iterable.read_ahead(items(), 10)
    assert [next(stream), next(stream)] == [0, 1]
    reading = set(threading.enumerate()) - before
    assert reading
    stream.close()
    allowed.release(100)
    for thread in reading:
        thread.join(60)
        assert not thread.is_alive()
    assert len(read) <= 4


def test_processes_need_shards_that_they_can_share_and_a_known_size(parquet):
    images = stream_of(f"hub:{parquet}")
    with pytest.raises(ValueError, match=r"streamed in 4 shards, which 3 processes cannot share evenly"):
        next(images.train.batches(6, shuffle=True, rank=0, world_size=3))
    with pytest.raises(ValueError, match=r"does not tell how many images it has: train with one process\."):
        next(images.train.batches(6, shuffle=True, rank=0, world_size=2))


def test_processes_read_shards_of_their_own(parquet):
    tell_sizes(parquet, download_size=10**12)
    images = stream_of(f"hub:{parquet}")
    shares = [numbers(images.train.batches(6, shuffle=True, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [len(share) for share in shares] == [6, 6]  # 40 // 6
    assert all(len(batch) == 3 for share in shares for batch in share)
    found = [joined(share) for share in shares]
    assert not set(found[0]) & set(found[1])
    for values in found:
        assert len({value // 10 for value in values}) == 2  # two files of four
        assert len(set(values)) == 18
    resumed = numbers(images.train.batches(6, shuffle=True, rank=1, world_size=2, skip=4))
    assert resumed == shares[1][4:]


def test_a_process_whose_shards_run_out_begins_again(parquet):
    tell_sizes(parquet, download_size=10**12)
    data_set(range(30, 32)).to_parquet(str(parquet / "train-00003-of-00004.parquet"))
    images = stream_of(f"hub:{parquet}")
    shares = [numbers(images.train.batches(4, shuffle=True, rank=rank, world_size=4)) for rank in range(4)]
    assert [len(share) for share in shares] == [10] * 4
    assert sorted(len(set(joined(share))) for share in shares) == [2, 10, 10, 10]


def test_a_stream_must_have_a_split_to_test_on():
    text = error_of(data_set(range(50)).to_iterable_dataset(), memory_limit=500)
    assert text == (
        "`source` (=data set) takes more than memory_limit=500 bytes, so it is streamed, and has no split to test on: "
        "raise memory_limit, or give a data set with splits called train and test."
    )


def test_what_breaks_in_a_stream_is_replaced_and_counted():
    values = [{"bytes": png(i), "path": f"{i}.png"} for i in range(20)]
    values[3] = {"bytes": b"broken", "path": "3.png"}
    values[8:12] = [None] * 4
    whole = datasets.Dataset.from_dict({"image": values}, features=datasets.Features({"image": datasets.Image()}))
    images = stream_of(
        datasets.IterableDatasetDict(
            {
                "train": whole.to_iterable_dataset(),
                "validation": data_set([2]).to_iterable_dataset(),
                "test": data_set([1]).to_iterable_dataset(),
            }
        )
    )
    found = numbers(images.train.batches(4))
    assert [len(batch) for batch in found] == [4] * 5
    assert found[0] == [0, 1, 2, 0]
    assert found[2] == found[1]
    assert dict(images.train.skipped)["3.png"].startswith("is not a picture")


def test_a_stream_that_breaks_off_says_so():
    def examples():
        yield {"image": {"bytes": png(1), "path": None}}
        raise OSError("the network\nis gone")

    broken = datasets.IterableDataset.from_generator(examples, features=datasets.Features({"image": datasets.Image()}))
    with pytest.raises(ValueError, match=r"`source` \(=data set\) broke off while it was read: .*the network is"):
        load_images(broken)


error_of = functools.partial(message, load_images)


def test_errors(tmp_path):
    text = error_of("hub:no/such-thing")
    assert text.startswith("`source` (=hub:no/such-thing) cannot be loaded: Couldn't reach 'no/such-thing' on the Hub")
    assert text.endswith(". Check the name (hub:NAME or hub:NAME:CONFIG) and the connection.")
    assert "cannot be loaded" in error_of(f"hub:{tmp_path}/nowhere")
    assert "cannot be loaded" in error_of("hub:")
    table = datasets.Dataset.from_dict({"a": [1], "b": ["x"]})
    assert error_of(table) == "`source` (=data set) must have a column of images; its columns: a, b."
    assert error_of(datasets.DatasetDict()) == "`source` (=data set) has no splits."
    assert error_of(data_set([])).startswith("`source` (=data set) holds no images: ")


def test_a_name_and_its_configuration(tmp_path):
    for config in ("small", "large"):
        (tmp_path / config).mkdir()
        data_set(range(10)).to_parquet(str(tmp_path / config / "train.parquet"))
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: small\n  data_files: small/*\n- config_name: large\n  data_files: large/*\n---\n"
    )
    images = load_images(f"hub:{tmp_path}:small")
    assert len(images.train) == 4
    assert images.options.source == f"hub:{tmp_path}:small"
    assert "Config name is missing" in error_of(f"hub:{tmp_path}")
    assert "BuilderConfig 'huge' not found" in error_of(f"hub:{tmp_path}:huge")


def test_copies_in_a_data_set_are_in_one_part():
    images = load_images(data_set([*range(30), *range(30)]))
    kinds = [set(values_of(split)) for split in (images.train, images.validation, images.test)]
    assert sum(map(len, kinds)) == 30
    assert "30 images are the same as another one" in images.describe()
    parts = datasets.DatasetDict({"train": data_set(range(30)), "test": data_set([3, 100])})
    images = load_images(parts)
    assert values_of(images.train, images.validation) == sorted({*range(30)} - {3})


def test_without_images_for_validation_a_stream_leaves_out_some_of_its_first_ones():
    parts = {"train": data_set([*range(50), *range(50)]), "test": data_set(range(100, 110))}
    streams = datasets.IterableDatasetDict({name: part.to_iterable_dataset() for name, part in parts.items()})
    images = stream_of(streams)
    train, validation, test = (
        joined(numbers(split.batches(8))) for split in (images.train, images.validation, images.test)
    )
    assert sorted({*train, *validation}) == list(range(50))
    assert not {*train} & {*validation}  # copies of them are left out too
    assert len(validation) == 8
    assert test == list(range(100, 110))
    assert "8 of the first 64 training images are for validation." in images.describe()


def test_a_sample_of_a_stream_is_its_first_images(parquet):
    images = stream_of(f"hub:{parquet}")
    sample = images.train.sample(5)
    assert sample.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert len(sample.names) == 5
    assert sample.labels is None


def test_what_a_stream_is_sampled_by_decides_on_its_shape():
    rows = [np.zeros((4, 8), np.uint8), np.zeros((4, 8, 3), np.uint8)] * 20
    whole = datasets.Dataset.from_dict({"image": rows}, features=datasets.Features({"image": datasets.Image()}))
    stream = whole.to_iterable_dataset()
    assert stream_of(datasets.IterableDatasetDict({"train": stream, "test": stream})).shape == (3, 4, 8)
