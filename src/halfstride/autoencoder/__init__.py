"""Convolutional autoencoders for a person's own images: model, mirror, images in, training, evaluation."""

from halfstride.autoencoder.choosing import LatentChoice, choose_latent
from halfstride.autoencoder.evaluation import Evaluation, evaluate
from halfstride.autoencoder.images import ImageOptions, Images, decode, load_images, to_float
from halfstride.autoencoder.mirroring import MirrorError, mirror
from halfstride.autoencoder.model import ConvAutoencoder
from halfstride.autoencoder.model_card import card_text
from halfstride.autoencoder.own_encoder import EncoderAutoencoder, load_encoder
from halfstride.autoencoder.progress import Interrupted
from halfstride.autoencoder.report import draw_samples, finish, reconstruct, reconstruct_files
from halfstride.autoencoder.run_folder import Run
from halfstride.autoencoder.scoring import Scores, scores
from halfstride.autoencoder.training import train
from halfstride.autoencoder.training_options import TrainingOptions

__all__ = [
    "ConvAutoencoder",
    "EncoderAutoencoder",
    "Evaluation",
    "ImageOptions",
    "Images",
    "Interrupted",
    "LatentChoice",
    "MirrorError",
    "Run",
    "Scores",
    "TrainingOptions",
    "card_text",
    "choose_latent",
    "decode",
    "draw_samples",
    "evaluate",
    "finish",
    "load_encoder",
    "load_images",
    "mirror",
    "reconstruct",
    "reconstruct_files",
    "scores",
    "to_float",
    "train",
]
