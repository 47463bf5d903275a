"""Images in: digits, folders, arrays and hub data sets, brought to one size, in three parts, as batches."""

from halfstride.autoencoder.images.decoding import decode, to_float
from halfstride.autoencoder.images.formats import MAX_PIXELS, ImageError
from halfstride.autoencoder.images.loading import Images, load_images
from halfstride.autoencoder.images.options import ImageOptions
from halfstride.autoencoder.images.splits import Sample, Skipped, Split, inputs_and_targets, skipped_lines

__all__ = [
    "MAX_PIXELS",
    "ImageError",
    "ImageOptions",
    "Images",
    "Sample",
    "Skipped",
    "Split",
    "decode",
    "inputs_and_targets",
    "load_images",
    "skipped_lines",
    "to_float",
]
