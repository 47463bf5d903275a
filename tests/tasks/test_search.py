"""Nearest pictures: the search against brute force, and what is found by it."""

import csv

import numpy as np
import pytest
import torch

from halfstride.tasks import embed, embed_to_file, similar
from halfstride.tasks import search as module
from small_training import pictures


@pytest.mark.parametrize(("count", "k"), [(700, 5), (3, 10)])
def test_the_search_in_blocks_finds_what_brute_force_finds(count, k, monkeypatch):
    monkeypatch.setattr(module, "_DISTANCES", 300)  # blocks are cut again
    generator = np.random.default_rng(0)
    codes = generator.normal(size=(count, 8)).astype(np.float32) + 100  # far from zero, where products would round
    queries = torch.from_numpy(codes[:4] + 1e-3)[: min(4, count)]
    distances, places = module.nearest(queries, torch.from_numpy(codes).split(100), k)
    table = np.linalg.norm(queries.double().numpy()[:, None] - codes.astype(np.float64)[None], axis=2)
    expected = np.argsort(table, 1)[:, :k]
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_allclose(distances, np.take_along_axis(table, expected, 1), rtol=1e-5)


def test_a_query_finds_itself_first_in_a_folder_a_file_or_codes(runs, folder, tmp_path):
    query = folder / "dogs" / "2.png"
    embed_to_file(runs["map"], folder, tmp_path / "codes.parquet")
    found = [
        similar(runs["map"], query, images, k=3)
        for images in (folder, tmp_path / "codes.parquet", embed(runs["map"], folder))
    ]
    for result in found:
        assert (result.queries, result.names[0][0]) == ([str(query)], str(query))
        assert result.distances[0, 0] < 1e-4
        assert result.names == found[0].names
        np.testing.assert_allclose(result.distances, found[0].distances, atol=1e-4)
    assert found[0].skipped[0].name == str(folder / "dogs" / "broken.png")
    found[1].save(tmp_path / "out")
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == found[1].names[0]
    assert (tmp_path / "out" / "overview.png").stat().st_size
    query.unlink()  # since the file was written
    figure = similar(runs["map"], folder / "dogs" / "3.png", tmp_path / "codes.parquet", k=12).figure()
    assert sum(len(axes.images) for axes in figure.axes) == 12  # the query, and 11 of 12


def test_wrong_queries_and_codes_are_told(runs, folder):
    codes = embed(runs["vector"], folder)
    with pytest.raises(ValueError, match="codes of another run"):
        similar(runs["map"], folder, codes)
    with pytest.raises(ValueError, match="`queries` hold nothing that can be read"):
        similar(runs["vector"], folder / "dogs" / "broken.png", codes)
    with pytest.raises(ValueError, match=r"`k` \(=0\)"):
        similar(runs["vector"], folder, codes, k=0)
    assert runs["vector"].similar(pictures(2, shape=(16, 20)), codes, k=1).distances.shape == (2, 1)
