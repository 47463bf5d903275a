"""The checkerboard doctor: see a checkerboard, measure it, blame the layer, cure it.

coverage    what geometry alone says: uneven overlap, through one layer and through a stack
harmonics   the harmonic F test
content     the content that a pattern grows with
pattern     what can be measured in a signal, and how sure it is
sites       where a model upsamples
reports     what is told of a model, as a table and as data
diagnosis   `diagnose` a model
images      `diagnose_image`
fitting     least squares of a few weights against what the original gives
replacing   what a cure puts in the place of one layer
curing      `cure` a model
"""

from halfstride.checkerboard.coverage import UnevenKernelWarning, phase_counts, stack_coverage, warn_if_uneven
from halfstride.checkerboard.curing import CureReport, cure
from halfstride.checkerboard.diagnosis import diagnose, gain_spread
from halfstride.checkerboard.images import ImageDiagnosis, diagnose_image
from halfstride.checkerboard.pattern import EVIDENCE, STRENGTH, Part, Pattern, TooSmallError, measure
from halfstride.checkerboard.reports import Diagnosis, LayerReport, OutputPattern

__all__ = [
    "EVIDENCE",
    "STRENGTH",
    "CureReport",
    "Diagnosis",
    "ImageDiagnosis",
    "LayerReport",
    "OutputPattern",
    "Part",
    "Pattern",
    "TooSmallError",
    "UnevenKernelWarning",
    "cure",
    "diagnose",
    "diagnose_image",
    "gain_spread",
    "measure",
    "phase_counts",
    "stack_coverage",
    "warn_if_uneven",
]
