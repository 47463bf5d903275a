"""Saving and loading of models as `config.json` and `model.safetensors`, in a folder or on the Hugging Face Hub."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin, constants, hf_hub_download

from halfstride.autoencoder.memory import build_within_memory
from halfstride.checkerboard.coverage import UnevenKernelWarning


class PretrainedMixin(PyTorchModelHubMixin):
    """`from_pretrained`, `save_pretrained` and `push_to_hub` of huggingface_hub, reading no pickles."""

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        map_location: str = "cpu",
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **model_kwargs: Any,
    ) -> Any:
        """Load all weights, from safetensors alone: huggingface_hub would also read a pickle, which can run code."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        def locate(name: str) -> Path:
            if not Path(model_id).is_dir():
                options = {"revision": revision, "cache_dir": cache_dir, "force_download": force_download}
                return Path(
                    hf_hub_download(model_id, name, token=token, local_files_only=local_files_only, **options)  # type: ignore[arg-type]
                )
            path = Path(model_id, name)
            if not path.is_file():
                raise ValueError(f"`{model_id}` has no {name}: name a folder that save_pretrained or a training wrote.")
            return path

        locate(constants.CONFIG_NAME)
        weights = locate(constants.SAFETENSORS_SINGLE_FILE)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnevenKernelWarning)  # given when the model was built first
                build: Any = cls
                model: Any = build_within_memory(build, **model_kwargs)
            model.load_state_dict(load_file(weights, device=map_location))
        except (SafetensorError, RuntimeError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"`{weights}` does not hold the weights of this model ({reason}): use a backup, or train again."
            ) from error
        return model.to(map_location).eval()
