"""What the addresses of runs answer."""

from __future__ import annotations

from pydantic import BaseModel, Field

from halfstride.studio.pictures import Picture

__all__ = [
    "Decoded",
    "Judgement",
    "LatentSpace",
    "Progress",
    "Reconstruction",
    "RunDetails",
    "RunSummary",
    "Scoring",
    "Slider",
]


class Scoring(BaseModel):
    """One line of `metrics.jsonl`: errors of values in [0, 1], null where they are no finite numbers."""

    step: int
    epoch: float | None = Field(None, description="Passes over the training images.")
    train_mse: float | None = None
    validation_mse: float | None = None
    validation_loss: float | None = Field(None, description="What the kept model has least of.")
    test_mse: float | None = None
    test_psnr: float | None = None
    test_ssim: float | None = None
    learning_rate: float | None = None
    seconds: float | None = None
    scoring_seconds: float | None = None
    images_per_second: float | None = None


class Progress(BaseModel):
    """How far a run is: what changes while it trains."""

    metrics: list[Scoring] = Field(description="Of every scoring so far.")
    steps_asked: int
    kept: int | None = Field(description="The step of the model that is kept; null before the first scoring.")
    model: str | None = Field(description="The version of its model; null where there is none yet.")
    evaluation: str | None = Field(description="The version of its evaluation; null where there is none yet.")


class RunSummary(BaseModel):
    name: str
    steps_done: int
    steps_asked: int | None
    test_mse: float | None
    error: str | None = Field(description="Why it cannot be opened.")


class RunDetails(BaseModel):
    """A run and its model."""

    name: str
    image_shape: list[int] | None = Field(description="Channels, height and width.")
    latent_shape: list[int] | None = Field(description="One number for a vector; channels, height, width of a map.")
    variational: bool
    parameters: int | None
    upsampling: str | None
    source: str | None = Field(description="Where its images came from.")
    corruption: str = Field(description="What is done to the images that go in; empty for nothing.")
    paired: bool = Field(description="Whether every image has a clean twin, which should come out.")
    encoder: str | None = Field(description="The user's own encoder that it has.")
    not_run: str | None = Field(description="Why its model is not run here; null where it is.")
    pictures: list[str] = Field(description="The PNG files in its folder.")


class Reconstruction(BaseModel):
    index: int | None = Field(None, description="Which of the images shown; none of them for an uploaded picture.")
    label: str | None = None
    input: Picture | None = Field(None, description="What went in, where that is not what should come out.")
    original: Picture = Field(description="What should come out.")
    reconstruction: Picture
    difference: Picture = Field(description="Absolute difference of those two: black is none.")
    mse: float = Field(description="Mean squared error of values in [0, 1].")


class Slider(BaseModel):
    """One number of the code, and the range that most images have it in."""

    index: int
    low: float
    high: float


class LatentSpace(BaseModel):
    """Test images' codes in a plane."""

    points: list[tuple[float, float]]
    test_images: int | None = Field(description="How many there are, of which these are some; null for a stream.")
    labels: list[int] | None
    classes: list[str] | None
    axes: tuple[str, str]
    extent: tuple[float, float, float, float] = Field(description="Left, right, bottom, top of all points.")
    numbers: int = Field(description="How many a code has.")
    code: list[float] = Field(description="The middle: the mean of all codes. Empty above 4,096 numbers.")
    sliders: list[Slider] = Field(description="Those that vary most, at most 32; none above 4,096 numbers.")


class Decoded(BaseModel):
    code: list[float] = Field(description="Empty above 4,096 numbers.")
    point: tuple[float, float] = Field(description="Where the code lies in the plane.")
    image: Picture


class Verdict(BaseModel):
    kind: str = Field(description='"good", or what is wrong.')
    sentence: str


class Scores(BaseModel):
    mse: float
    psnr: float = Field(description="In dB.")
    ssim: float | None
    images: int


class Method(BaseModel):
    """What the model, or a simpler method, makes of test images."""

    name: str
    mse: float
    psnr: float = Field(description="In dB.")
    numbers: int | None = Field(description="Per image; null for files.")
    bytes: float | None = Field(description="Mean size of a file; null where there is none.")
    note: str


class Neighbours(BaseModel):
    """How often most of the five nearest training images are of a test image's class."""

    latent: float
    pca: float
    train: int
    test: int


class Judgement(BaseModel):
    """Is the model any good?"""

    verdict: Verdict
    rows: list[Method] = Field(description="The model, then simpler methods.")
    compared: int = Field(description="How many test images the rows are of.")
    train: Scores
    validation: Scores | None
    test: Scores
    numbers: int = Field(description="Latent numbers per image.")
    used: int = Field(description="Latent numbers in use.")
    output_range: tuple[float, float]
    output_variance: float
    data_variance: float
    neighbours: Neighbours | None
    outdated: bool = Field(description="Whether the model has been trained further since.")
