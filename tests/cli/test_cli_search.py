"""`halfstride embed`, `similar`, `duplicates` and `denoise`, as a person uses them."""

from small_commands import VECTOR


def test_embed_similar_and_duplicates(halfstride, run, photos, tmp_path):
    code, out, err = halfstride("embed", "run", photos, "--out", "codes.npz")
    assert (code, err) == (0, "")
    assert out.count("skipped ") == 4
    assert out.endswith("\n24 codes of 4 numbers in codes.npz\n")
    query = photos / "dogs" / "7.png"
    code, out, err = halfstride("similar", "run", query, photos / "cats" / "1.png", "codes.npz", "-k", "2")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert (lines[0], lines[3], len(lines)) == (str(query), str(photos / "cats" / "1.png"), 6)
    distance, name = lines[1].split()
    assert (float(distance) < 1e-3, name) == (True, str(query))
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "x.png").write_bytes(query.read_bytes())
    code, out, err = halfstride("duplicates", "run", photos, "--against", "again", "--out", "pairs")
    assert (code, err) == (0, "")
    assert out.splitlines()[4].split()[1:] == [str(query), "again/x.png"]
    assert "1 pair within " in out
    assert {path.name for path in (tmp_path / "pairs").iterdir()} == {"pairs.csv", "ladder.png"}
    code, out, err = halfstride("duplicates", "run", "--out", "within")
    assert code == 0, err
    assert "pairs within" in out
    for arguments, text in (
        (("embed", "run", photos, "--out", "codes.npz"), "`--out` (=codes.npz) exists already"),
        (("embed", "run", photos, "--out", "missing/codes.txt"), "must end in .parquet or .npz"),
        (("similar", "run", query, "nowhere.npz"), "`images` (=nowhere.npz) does not exist"),
        (("duplicates", "run", photos, "--out", "pairs"), "`--out` (=pairs) exists already"),
        (("denoise", "run", photos), "`run` (=run) was not trained to remove anything"),
    ):
        code, _, err = halfstride(*arguments)
        assert code == 1
        assert text in err
        assert err.count("\n") == 1


def test_denoise(halfstride, photos, tmp_path):
    code, _, err = halfstride("train", photos, "--size", "12", "--corrupt", "gaussian:0.3", "--out", "run", *VECTOR)
    assert code == 0, err
    code, out, err = halfstride("denoise", "run", photos, "--clean", photos, "--out", "clean")
    assert (code, err) == (0, "")
    assert "This model takes 12×12 pixels: pictures of other sizes were stretched, and back." in out
    assert "PSNR in dB beside the clean pictures: 100.00 before, " in out
    assert "SSIM beside the clean pictures: 1.000 before, " in out
    assert out.endswith("24 pictures, results.csv and overview.png in clean\n")
    assert len(list((tmp_path / "clean").iterdir())) == 26
