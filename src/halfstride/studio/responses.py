"""The answers about runs, as the addresses send them."""

from __future__ import annotations

from pydantic import BaseModel, Field

from halfstride.studio.pictures import Picture


class Scoring(BaseModel):
    """One line of `metrics.jsonl`: errors of values in [0, 1], null where not finite."""

    step: int
    epoch: float | None = Field(None, description="Passes over the training images.")
    train_mse: float | None = None
    validation_mse: float | None = None
    validation_loss: float | None = Field(None, description="The kept model has the smallest.")
    test_mse: float | None = None
    test_psnr: float | None = None
    test_ssim: float | None = None
    learning_rate: float | None = None
    seconds: float | None = None
    scoring_seconds: float | None = None
    images_per_second: float | None = None


class Progress(BaseModel):
    """The state of a run, which changes while it trains."""

    metrics: list[Scoring] = Field(description="One for every scoring so far.")
    steps_asked: int
    kept: int | None = Field(description="The step of the model that is kept; null before the first scoring.")
    model: str | None = Field(description="The version of its model; null where there is none yet.")
    evaluation: str | None = Field(description="The version of its evaluation; null where there is none yet.")


class Work(BaseModel):
    """What is being done with a run's images."""

    what: str
    done: int
    total: int | None


class RunSummary(BaseModel):
    """A run in the list of all; null is what its files do not tell."""

    name: str
    data: str | None = Field(
        default=None,
        description="Its images and how they are prepared, in words; the same of runs that can be compared.",
    )
    latent: list[int] | None = Field(default=None, description="One number, or channels, height and width.")
    compression: float | None = Field(default=None, description="Numbers of an image for each number of its code.")
    loss: str | None = None
    learning_rate: float | None = None
    steps_done: int = 0
    steps_asked: int | None = None
    validation_mse: float | None = Field(default=None, description="Of the model that is kept.")
    test_mse: float | None = Field(default=None, description="Of the model that is kept.")
    changed: float | None = Field(default=None, description="When it last changed, in seconds since 1970.")
    error: str | None = Field(default=None, description="Why the run cannot be opened, in a sentence.")


class RunDetails(BaseModel):
    """A run and its model."""

    name: str
    image_shape: list[int] | None = Field(description="Channels, height and width.")
    latent_shape: list[int] | None = Field(default=None, description="One number, or channels, height and width.")
    variational: bool = False
    parameters: int | None = None
    upsampling: str | None = None
    source: str | None = Field(description="The source of its images; null for arrays.")
    corruption: str = Field(description="The corruption of its inputs; empty for none.")
    paired: bool = Field(description="Whether its inputs and targets are pairs of images.")
    encoder: str | None = Field(description="The user's own encoder; null where it has none.")
    fit: str | None = Field(
        default=None, description="How pictures of other sizes are brought to the size of its images."
    )
    not_run: str | None = Field(description="Why its model is not run here; null where it is.")
    pictures: list[str] = Field(description="The PNG files in its folder.")


class Reconstruction(BaseModel):
    index: int | None = Field(None, description="Place among the images shown; null for an uploaded picture.")
    label: str | None = None
    input: Picture | None = Field(None, description="The input, where it is not the target.")
    original: Picture = Field(description="The target.")
    reconstruction: Picture
    difference: Picture = Field(description="Absolute difference of target and reconstruction: black for 0.")
    mse: float = Field(description="Mean squared error of values in [0, 1].")
    point: tuple[float, float] | None = Field(
        None, description="The code of an uploaded picture in the plane of the test images, once that was asked for."
    )


class ImageRow(BaseModel):
    """A test image in a table."""

    index: int
    name: str | None = Field(description="Its path from the folder of images; null where it has none.")
    label: str | None
    mse: float = Field(description="Mean squared error of values in [0, 1].")


class Neighbour(BaseModel):
    """A test image near another one."""

    index: int
    label: str | None
    distance: float = Field(description="Euclidean distance of the codes.")
    image: Picture


class Slider(BaseModel):
    """One number of the code, with its 1 % and 99 % quantiles over the test images."""

    index: int
    low: float
    high: float


class LatentSpace(BaseModel):
    """The codes of test images in a plane."""

    points: list[tuple[float, float]]
    test_images: int | None = Field(description="How many there are, including those not shown; null for a stream.")
    labels: list[int] | None
    classes: list[str] | None
    axes: tuple[str, str]
    extent: tuple[float, float, float, float] = Field(description="Left, right, bottom and top of all points.")
    numbers: int = Field(description="How many numbers a code has.")
    code: list[float] = Field(description="The mean of all codes. Empty above 4,096 numbers.")
    sliders: list[Slider] = Field(description="The numbers that vary most, at most 32; none above 4,096 numbers.")


class Decoded(BaseModel):
    code: list[float] = Field(description="Empty above 4,096 numbers.")
    point: tuple[float, float] = Field(description="The code in the plane.")
    image: Picture
