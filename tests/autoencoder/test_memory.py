import pytest

from errors import message
from halfstride.autoencoder import ConvAutoencoder, load_images, memory
from small_training import pictures, small_model, small_training


def test_what_does_not_fit_is_refused_before_it_is_taken(tmp_path, monkeypatch):
    told = message(memory.build_within_memory, ConvAutoencoder, 28, 1, width=10**6)
    assert told.startswith("`width` (=1000000): the weights alone take ")
    assert message(load_images, pictures(), size=10**6).startswith("`size` (=1000000x1000000): for a single image")
    told = message(small_training, tmp_path / "new", batch_size=10**11)
    assert told.startswith("`batch_size` (=100000000000): a step takes ")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("latent", ["map", "vector"])
def test_what_a_step_keeps_grows_with_the_batch(latent):
    model = small_model(latent, (16, 20))
    one, four = (memory.kept_bytes(model, (count, 1, 16, 20)) for count in (1, 4))
    assert 3 * one < four <= 4 * one
