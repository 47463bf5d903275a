"""Codes of pictures: in memory, in files, by one process or two, resumed."""

import numpy as np
import pytest
import torch
from PIL import Image

from halfstride.autoencoder import to_float
from halfstride.tasks import Embedding, embed, embed_to_file
from halfstride.tasks import embedding as module
from halfstride.tasks.embedding import CodesFile
from halfstride.tasks.pictures import Pictures, Reader
from small_training import pictures


def test_codes_are_the_vector_or_the_mean_and_deviation_of_a_maps_channels(runs):
    images = torch.from_numpy(pictures(5, seed=4, shape=(16, 20)))[:, None]
    with torch.inference_mode():
        codes = {latent: runs[latent].model.encode(to_float(images)) for latent in runs}
    np.testing.assert_allclose(embed(runs["vector"], images).codes, codes["vector"], atol=1e-5)
    pooled = torch.cat([codes["map"].mean((2, 3)), codes["map"].flatten(2).std(2, correction=0)], 1)
    np.testing.assert_allclose(embed(runs["map"], images).codes, pooled, atol=1e-5)


def test_pictures_of_every_kind_have_the_same_code(runs, tmp_path):
    pixels = pictures(1, seed=4, shape=(16, 20))[0]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    colour = np.repeat(pixels[..., None], 3, 2)  # converted to grey, as in training
    tensor = torch.from_numpy(pixels)[None]
    found = embed(runs["map"], [tmp_path / "a.png", Image.fromarray(pixels), pixels, tensor])
    again = runs["map"].embed(colour)
    assert found.names == [str(tmp_path / "a.png"), "image 1", "image 2", "image 3"]
    np.testing.assert_allclose(found.codes, np.repeat(again.codes, 4, 0), atol=1e-5)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_file_has_path_class_and_code_of_each_and_the_damaged_are_told(runs, folder, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 5)
    out = tmp_path / f"codes{suffix}"
    written = embed_to_file(runs["map"], folder, out)
    expected = embed(runs["map"], folder)
    assert written.names == expected.names == [str(folder / c / f"{n}.png") for c in ("cats", "dogs") for n in range(6)]
    assert written.classes == ["cats"] * 6 + ["dogs"] * 6
    assert [name for name, _ in written.skipped] == [str(folder / "dogs" / "broken.png")]
    assert {path.name for path in tmp_path.iterdir()} == {"photos", out.name}
    np.testing.assert_allclose(written.codes, expected.codes, atol=1e-5)
    file = CodesFile(out, runs["map"])
    blocks = list(file.blocks())
    assert [len(block) for block in blocks] == [5, 5, 2]
    np.testing.assert_array_equal(np.concatenate(blocks), written.codes)
    assert file.names_of([11, 0]) == [expected.names[11], expected.names[0]]
    if suffix == ".parquet":
        from pyarrow import parquet

        rows = parquet.read_table(out).to_pylist()
        assert rows[7]["class"] == "dogs"
        np.testing.assert_array_equal(rows[7]["code"], written.codes[7])
    else:
        assert np.load(out)["class"].tolist() == expected.classes
    assert len(written.figure().axes[0].collections) == 2


def test_an_interrupted_command_goes_on_where_it_stopped(runs, folder, tmp_path, monkeypatch):
    out = tmp_path / "codes.npz"
    monkeypatch.setattr("halfstride.tasks.pictures._MOST_PER_BATCH", 5)

    counts = []

    def second(what, done, count):
        counts.append(count)
        if done > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_to_file(runs["map"], folder, out, progress=second)
    assert not out.exists()
    with pytest.raises(ValueError, match="was begun before and is unfinished: go on with --resume"):
        embed_to_file(runs["map"], folder, out)
    with pytest.raises(ValueError, match="needs the same command as before, but run changed"):
        embed_to_file(runs["vector"], folder, out, resume=True)
    with pytest.raises(KeyboardInterrupt):
        embed_to_file(runs["map"], folder, out, resume=True, progress=second)
    written = embed_to_file(runs["map"], folder, out, resume=True, progress=second)
    assert counts == [13, 13, 8, 8, 3]  # of 13 files, five are done before each interruption
    np.testing.assert_allclose(written.codes, embed(runs["map"], folder).codes, atol=1e-5)
    with pytest.raises(ValueError, match="exists already"):
        embed_to_file(runs["map"], folder, out, resume=True)


def test_what_cannot_be_embedded_is_told_in_one_line(runs, folder, tmp_path):
    (tmp_path / "no").mkdir()
    for images, text in (
        (folder / "dogs" / "broken.png", "hold nothing that can be read: 1 skipped"),
        (tmp_path / "no", "holds no images"),
        (tmp_path / "nowhere", "does not exist"),
        ([3], "`images` hold a int"),
    ):
        with pytest.raises(ValueError, match=text):
            embed_to_file(runs["map"], images, tmp_path / "codes.npz")
        assert {path.name for path in tmp_path.iterdir()} == {"photos", "no"}
    with pytest.raises(ValueError, match="must end in .parquet or .npz"):
        embed_to_file(runs["map"], folder, tmp_path / "codes.csv")
    (tmp_path / "other.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no file that `halfstride embed` wrote"):
        CodesFile(tmp_path / "other.npz", runs["map"])
    Embedding(["a"], np.zeros((1, 4), np.float32), None, runs["map"].fingerprint).save(tmp_path / "one.parquet")
    with pytest.raises(ValueError, match="has codes of another run"):
        CodesFile(tmp_path / "one.parquet", runs["vector"])


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr("halfstride.tasks.pictures._PIXELS_AHEAD", 1)
    found = Pictures(list(pictures(20, shape=(9, 11))))
    reader = Reader(channels=1, size=None)
    assert [place for batch in found.batches(reader) for place in batch.places] == list(range(20))
