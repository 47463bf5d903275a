"""Model cards: about this model, true, and with lines that run."""

import re
import warnings

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from test_evaluation import collection, flat

from halfstride.autoencoder import ConvAutoencoder, evaluate
from halfstride.autoencoder.model_card import card_text


def lines_of_code(card):
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return code


@pytest.mark.parametrize(("channels", "options"), [(1, {}), (3, {"latent": "map"}), (2, {})])
def test_its_lines_run_on_a_saved_model(tmp_path, monkeypatch, capsys, channels, options):
    model = ConvAutoencoder((12, 14), channels, 4, width=8, **options)
    model.save_pretrained(tmp_path / "saved")
    Image.fromarray(np.zeros((30, 30), dtype=np.uint8)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    code = lines_of_code(card_text(model, location="saved"))
    assert len(code.splitlines()) <= 10
    names = {}
    exec(code, names)
    assert names["restored"].shape == (1, channels, 12, 14)
    assert capsys.readouterr().out.startswith("tensor(")


def test_it_tells_of_this_model_and_chooses_no_licence():
    images = collection(labels=True)
    model = ConvAutoencoder(16, latent_dim=2, width=8)
    evaluation = evaluate(model, images, metrics=flat())
    card = card_text(model, evaluation, training="Trained for 1,000 steps.", versions={"torch": "9.9"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = ModelCard(card).data
    assert data.library_name == "halfstride"
    assert data.license is None
    assert data.pipeline_tag is None
    for text in (
        "# Autoencoder for blobs",
        "1×16×16",
        "vector of 2 numbers, 128 times fewer",
        evaluation.verdict.sentence,
        "(reconstructions.png)",
        "Trained for 1,000 steps.",
        f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters",
        "200 images to train on",
        "40 validation images and 60 test images",
        f"| PCA | 2 numbers | {evaluation.row('PCA').mse:.3g} |",
        "torch 9.9",
    ):
        assert text in card
    for text in ("More Information Needed", "PytorchModelHubMixin", "None", "nan"):
        assert text not in card
    tables = [line for line in card.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {5, 7}


def test_without_an_evaluation_it_tells_of_the_architecture_only():
    card = card_text(ConvAutoencoder(16, 3, 4, latent="map", downscale=4, width=8))
    assert "a map of 4×4×4 (channels × height × width: 64 numbers), 12.0 times fewer" in card
    assert "## Versions" in card
    for text in ("Verdict", "reconstructions.png", "## Data", "None"):
        assert text not in card


@pytest.mark.parametrize("name", ["a|b", "![x](y)", "<b>", "# one\n# two", "`code`", "---\nlicense: mit"])
def test_names_of_data_are_shown_as_they_are(name):
    images = collection()
    images.name = name
    torch.manual_seed(0)
    model = ConvAutoencoder(16, latent_dim=2, width=8)
    card = card_text(model, evaluate(model, images))
    title = next(line for line in card.splitlines() if line.startswith("# "))
    assert re.sub(r"\\(.)", r"\1", title) == f"# Autoencoder for {' '.join(name.split())}"
    assert ModelCard(card).data.license is None
    assert not re.search(r"(?<!\\)[<|`]", title)
