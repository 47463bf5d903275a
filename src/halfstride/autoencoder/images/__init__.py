"""Images in: digits, folders, arrays and hub data sets, brought to one size and handed out in batches."""

from halfstride.autoencoder.images.decoding import decode, to_float
from halfstride.autoencoder.images.loading import Images, load_images
from halfstride.autoencoder.images.opening import MAX_PIXELS, ImageError
from halfstride.autoencoder.images.splits import Skipped, Split

__all__ = ["MAX_PIXELS", "ImageError", "Images", "Skipped", "Split", "decode", "load_images", "to_float"]
