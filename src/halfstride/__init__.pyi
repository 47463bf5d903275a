# The public names of the package, listed here only: type checkers and editors read this file, and `__init__.py` imports
# each name from where this file says when it is first used.
from halfstride import figures as figures
from halfstride import functional as functional
from halfstride import geometry as geometry
from halfstride import kernels as kernels
from halfstride._core.planner import explain as explain
from halfstride.autoencoder import ConvAutoencoder as ConvAutoencoder
from halfstride.autoencoder import EncoderAutoencoder as EncoderAutoencoder
from halfstride.autoencoder import Evaluation as Evaluation
from halfstride.autoencoder import ImageOptions as ImageOptions
from halfstride.autoencoder import Images as Images
from halfstride.autoencoder import Interrupted as Interrupted
from halfstride.autoencoder import Run as Run
from halfstride.autoencoder import TrainingOptions as TrainingOptions
from halfstride.autoencoder import choose_latent as choose_latent
from halfstride.autoencoder import evaluate as evaluate
from halfstride.autoencoder import load_encoder as load_encoder
from halfstride.autoencoder import load_images as load_images
from halfstride.autoencoder import mirror as mirror
from halfstride.autoencoder import reconstruct as reconstruct
from halfstride.autoencoder import to_float as to_float
from halfstride.autoencoder import train as train
from halfstride.checkerboard import UnevenKernelWarning as UnevenKernelWarning
from halfstride.checkerboard import cure as cure
from halfstride.checkerboard import diagnose as diagnose
from halfstride.checkerboard import diagnose_image as diagnose_image
from halfstride.layers import ConvTranspose1d as ConvTranspose1d
from halfstride.layers import ConvTranspose2d as ConvTranspose2d
from halfstride.layers import ConvTranspose3d as ConvTranspose3d
from halfstride.layers import ResizeConv1d as ResizeConv1d
from halfstride.layers import ResizeConv2d as ResizeConv2d
from halfstride.layers import ResizeConv3d as ResizeConv3d
from halfstride.layers import SubpixelConv1d as SubpixelConv1d
from halfstride.layers import SubpixelConv2d as SubpixelConv2d
from halfstride.layers import SubpixelConv3d as SubpixelConv3d
from halfstride.optimizing import optimize as optimize
from halfstride.tasks import Embedding as Embedding
from halfstride.tasks import TrainedRun as TrainedRun
from halfstride.tasks import denoise as denoise
from halfstride.tasks import detect as detect
from halfstride.tasks import duplicates as duplicates
from halfstride.tasks import embed as embed
from halfstride.tasks import fit_detector as fit_detector
from halfstride.tasks import load_run as load_run
from halfstride.tasks import similar as similar

__version__: str
