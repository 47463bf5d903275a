"""Verdicts on facts: always exactly one, in the stated order, and never "good" for what a baseline does better."""

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfstride.autoencoder.verdict import Facts, Kind, Rival, judge

FALLING = [{"step": step, "train_mse": 1 / step, "validation_mse": 1 / step} for step in range(100, 1100, 100)]
FLAT = [{"step": step, "train_mse": 0.01, "validation_mse": 0.01} for step in range(100, 1100, 100)]


def facts(**changes):
    """A good model, but for the changes."""
    rivals = changes.pop("rivals", [])
    given = {
        "train": 0.0048,
        "validation": 0.005,
        "test": 0.005,
        "data_variance": 0.06,
        "output_variance": 0.05,
        "rivals": [Rival("mean image", 0.06, 0.06), Rival("thumbnail", 0.03, 0.03), Rival("PCA", 0.01, 0.01), *rivals],
        "numbers": 32,
        "latent": "vector",
        "doubled": 0.008,
        "images": 4000,
        "metrics": FLAT,
    }
    return Facts(**{**given, **changes})


EXPECTED = {
    "a good model": ({},
        "good",
        r"^Good: 3\.0 dB better than PCA and 7\.8 dB better than a thumbnail with as many num"),
    "without a curve": ({"metrics": []}, "good", "the curve is too short to tell if more steps would help"),
    "a gap": ({"train": 0.003}, "good", "more images or --augment"),
    "constant data": ({"data_variance": 1e-7, "metrics": FALLING}, "constant", "check the data"),
    "a falling error": ({"metrics": FALLING}, "undertrained", r"fell by 20% .* --resume --steps 1000\."),
    "a falling error, and behind": ({"metrics": FALLING, "validation": 0.07, "train": 0.07},
        "undertrained",
        "train longer"),
    "the same outputs": ({"output_variance": 1e-6}, "collapsed", "--latent map or a smaller --learning-rate"),
    "the same outputs, of a map": ({"output_variance": 1e-6, "latent": "map"}, "collapsed", "with a smaller --learn"),
    "no better than the mean": ({"train": 0.061, "validation": 0.061}, "collapsed", "even on the training images"),
    "a gap of three": ({"train": 0.0017}, "memorising", r"2\.9 times .* --augment flip"),
    "a gap of three, of many images": ({"train": 0.0017, "images": 50_000}, "good", "--augment"),
    "a rising error": ({
            "metrics": [
                {"step": 1, "train_mse": 0.02, "validation_mse": 0.02},
                {"step": 2, "train_mse": 0.01, "validation_mse": 0.004},
                {"step": 3, "train_mse": 0.005, "validation_mse": 0.005},
            ]
        },
        "memorising",
        "lowest at step 2 and has risen since"),
    "PCA gains much": ({"validation": 0.0101, "train": 0.0101, "doubled": 0.004}, "latent too small", "60% less error"),
    "PCA gains much, and the model is far behind": ({"validation": 0.02, "train": 0.02, "doubled": 0.004},
        "worse than PCA",
        "3.0 dB worse than PCA with as many numbers on the validation images"),
    "worse on test images only": ({"test": 0.02}, "worse than PCA", "on the test images"),
    "a vector where a thumbnail is best": ({"rivals": [Rival("thumbnail", 0.001, 0.001)], "doubled": None},
        "worse than thumbnail",
        "7.0 dB worse than a thumbnail"),
    "files": ({"rivals": [Rival("WebP", 0.001, 0.001)]},
        "good",
        "Good: 3.0 dB better than PCA .* and 7.0 dB worse than WebP files of as many bytes"),
    "the input": ({"rivals": [Rival("input", 0.001, 0.001)]}, "worse than input", "worse than the input as it is"),
    "no baseline": ({"rivals": None}, "good", "no baseline to compare with"),
}  # fmt: skip


@pytest.mark.parametrize("case", EXPECTED)
def test_each_defect_has_its_verdict_and_names_the_way_out(case):
    changes, kind, text = EXPECTED[case]
    if changes.get("rivals", ()) is None:
        verdict = judge(Facts(0.1, 0.1, 0.1, 0.2, 0.2, [], 8, "map", metrics=FLAT))
    else:
        verdict = judge(facts(**changes))
    assert verdict.kind == kind
    assert re.search(text, verdict.sentence), verdict.sentence
    assert verdict.sentence[0].isupper() or verdict.sentence[0].isdigit()
    assert verdict.sentence.endswith(".")
    assert "\n" not in verdict.sentence


@pytest.mark.parametrize(
    ("layout", "latent", "way"),
    [
        (False, "vector", "use --latent map"),
        (True, "vector", "--steps"),
        (True, "map", "use --latent vector"),
        (False, "map", "--steps"),
    ],
)
def test_the_kind_of_latent_is_doubted_only_where_the_data_speak_for_the_other(layout, latent, way):
    rivals = [Rival("thumbnail", 0.01, 0.01), Rival("PCA", 0.004 if layout else 0.01, 0.004 if layout else 0.01)]
    verdict = judge(Facts(0.02, 0.02, 0.02, 0.06, 0.05, rivals, 32, latent))
    assert verdict.kind.startswith("worse than")
    assert way in verdict.sentence


ERRORS = st.one_of(st.just(0.0), st.floats(1e-9, 1.0))
RIVALS = st.lists(
    st.builds(Rival, st.sampled_from(["input", "mean image", "thumbnail", "PCA", "JPEG", "WebP"]), ERRORS, ERRORS),
    unique_by=lambda rival: rival.name,
)
NUMBER = st.one_of(ERRORS, st.none(), st.just(float("nan")), st.text(max_size=2))
ENTRIES = st.fixed_dictionaries(
    {}, optional={"step": st.integers(0, 100), "train_mse": NUMBER, "validation_mse": NUMBER, "test_mse": NUMBER}
)


@given(
    st.builds(
        Facts,
        train=ERRORS,
        validation=ERRORS,
        test=ERRORS,
        data_variance=ERRORS,
        output_variance=ERRORS,
        rivals=RIVALS,
        numbers=st.integers(1, 2000),
        latent=st.sampled_from(["vector", "map"]),
        doubled=st.one_of(st.none(), ERRORS),
        images=st.one_of(st.none(), st.integers(1, 10**6)),
        metrics=st.lists(ENTRIES, max_size=6),
    )
)
def test_any_facts_have_one_verdict_and_what_is_good_is_behind_nothing(drawn):
    verdict = judge(drawn)
    assert verdict.kind in get_args(Kind)
    assert verdict.sentence.endswith(".")
    if verdict.kind == "good":
        judging = [rival for rival in drawn.rivals if rival.name not in ("JPEG", "WebP")]
        assert all(drawn.validation <= rival.validation and drawn.test <= rival.test for rival in judging)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1])
def test_errors_that_are_no_numbers_are_refused(value):
    with pytest.raises(ValueError, match=r"`validation` \(=.*\) must be finite and at least 0"):
        facts(validation=value)
