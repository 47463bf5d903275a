"""Find checkerboards in a model or an image, name the layers that make them, and remove them.

thresholds        from where on a pattern counts as found: evidence 3.5 and 0.5 % of the standard deviation
coverage          how many kernel taps reach each phase, by geometry alone
pattern           `measure` a pattern of one period in signals
harmonic_test     the statistical test for it, Thomson's harmonic F test
local_content     the local mean of signals, which a multiplicative pattern grows with
find_layers       where a model upsamples
grids             which layers' patterns a tensor can have, followed through a model
diagnosis         `diagnose` a model
diagnosis_report  what `diagnose` returns
image_diagnosis   `diagnose_image`
curing            `cure` a model
replacing         what a cure puts in the place of one layer
fitting           least squares of a few weights against the original's output
"""

from halfstride.checkerboard.coverage import UnevenKernelWarning, phase_counts, stack_coverage, warn_if_uneven
from halfstride.checkerboard.curing import CureReport, cure
from halfstride.checkerboard.diagnosis import diagnose, gain_spread
from halfstride.checkerboard.diagnosis_report import Diagnosis, LayerReport, OutputPattern
from halfstride.checkerboard.image_diagnosis import ImageDiagnosis, diagnose_image
from halfstride.checkerboard.pattern import Part, Pattern, TooSmallError, measure
from halfstride.checkerboard.thresholds import EVIDENCE, STRENGTH

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
