"""The layers that the studio shows: one input and one output channel, no bias, the same along every axis."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch.nn.functional as F
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from torch import Tensor

from halfstride import functional, geometry
from halfstride.studio.errors import describe

Form = Literal["conv", "transposed", "resize", "subpixel"]


def _split(given: Any) -> Any:
    """Numbers with commas between them, or a query's list of such texts, as a list; everything else unchanged."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return given
    return [number for text in texts if text for number in text.split(",")] or None


def _size(default: int, least: int, most: int, sliders: tuple[int, int], description: str) -> Any:
    """A field from `least` to `most`; the page's slider ends at `sliders[dims - 1]`."""
    return Field(default, ge=least, le=most, description=description, json_schema_extra={"sliders": list(sliders)})


_Numbers = Annotated[
    tuple[Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)], ...] | None, BeforeValidator(_split)
]


class Layer(BaseModel):
    """The arguments of a layer. Numbers of input and kernel may be given as text, such as `"1,2.5,-3"`.

    Example:
        >>> layer = Layer(dims=1, input="1,2,3")
        >>> layer.input, layer.output_size
        ((1.0, 2.0, 3.0), 7)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Form = "transposed"
    dims: int = Field(2, ge=1, le=2, description="Number of axes.")
    input_size: int = _size(3, 1, 40, (12, 7), "Input positions along each axis.")
    kernel_size: int = _size(3, 1, 9, (7, 5), "Kernel taps along each axis.")
    stride: int = _size(2, 1, 6, (4, 4), "The stride, or the scale factor of a resize or sub-pixel convolution.")
    padding: int = _size(0, 0, 20, (6, 6), "Padding at both ends of each axis.")
    dilation: int = _size(1, 1, 6, (3, 3), "Positions from one kernel tap to the next.")
    output_padding: int = _size(0, 0, 5, (3, 3), "Of a transposed convolution; 0 for the others.")
    input: _Numbers = Field(None, max_length=1600, description="Row by row; by default 1, 2, 3, ...")
    kernel: _Numbers = Field(
        None, max_length=3000, description="Row by row; for a sub-pixel convolution one kernel after the other."
    )

    @property
    def kernels(self) -> int:
        """Number of kernels: one for each phase of a sub-pixel convolution, else 1."""
        return self.stride**self.dims if self.form == "subpixel" else 1

    @property
    def output_size(self) -> int:
        """Output positions along each axis.

        Raises:
            ValueError: where the arguments do not go together.
        """
        n, k, s, p, d = self.input_size, self.kernel_size, self.stride, self.padding, self.dilation
        if self.output_padding and self.form != "transposed":
            raise ValueError(
                f"`output_padding` (={self.output_padding}) belongs to transposed convolutions: set it to 0."
            )
        if self.form == "transposed":
            size: Any = geometry.conv_transpose_size(n, k, s, p, self.output_padding, d)
        elif self.form == "conv":
            size = geometry.conv_size(n, k, s, p, d)
        elif self.form == "resize":
            size = geometry.conv_size(n * s, k, 1, p, d)
        else:
            size = s * geometry.conv_size(n, k, 1, p, d)
        return int(size)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the layer's function besides its input and weight."""
        found: dict[str, Any] = {"padding": self.padding, "dilation": self.dilation}
        found["stride" if self.form in ("conv", "transposed") else "scale_factor"] = self.stride
        if self.form == "transposed":
            found["output_padding"] = self.output_padding
        return found

    def __call__(self, inputs: Tensor, kernels: Tensor) -> Tensor:
        """Apply the layer to N inputs with C kernels (or C groups of phases' kernels) at once.

        Shape:
            `(N, 1, *input_size)` and `(C * self.kernels, 1, *kernel_size)` to `(N, C, *output_size)`.
        """
        if self.form == "transposed":
            kernels = kernels.transpose(0, 1)
        name = {"conv": "conv", "transposed": "conv_transpose", "resize": "resize_conv", "subpixel": "subpixel_conv"}
        operator = getattr(F if self.form == "conv" else functional, f"{name[self.form]}{self.dims}d")
        output: Tensor = operator(inputs, kernels, **self.arguments)
        return output


def read_layer(**arguments: Any) -> Layer:
    """Return the layer with these arguments.

    Raises:
        ValueError: where one is out of range; the message is one sentence.
    """
    try:
        return Layer(**arguments)
    except ValidationError as error:
        raise ValueError(describe(error.errors())) from None
