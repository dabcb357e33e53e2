"""Loss terms. Each sees the whole `Step` and returns one scalar; a recipe adds up as many as it likes."""

from jepa_core.objectives.base import LossTerm as LossTerm
from jepa_core.objectives.base import pair_values as pair_values
from jepa_core.objectives.cross_entropy import CrossEntropy as CrossEntropy
from jepa_core.objectives.infonce import InfoNCE as InfoNCE
from jepa_core.objectives.prediction import L1 as L1
from jepa_core.objectives.prediction import MSE as MSE
from jepa_core.objectives.prediction import Cosine as Cosine
from jepa_core.objectives.prediction import PredictionTerm as PredictionTerm
from jepa_core.objectives.prediction import SmoothL1 as SmoothL1
from jepa_core.objectives.sigreg import SIGReg as SIGReg
from jepa_core.objectives.variance_covariance import VarianceCovariance as VarianceCovariance
from jepa_core.objectives.vicreg import VICReg as VICReg

__all__ = [
    "L1",
    "MSE",
    "Cosine",
    "CrossEntropy",
    "InfoNCE",
    "LossTerm",
    "PredictionTerm",
    "SIGReg",
    "SmoothL1",
    "VICReg",
    "VarianceCovariance",
    "pair_values",
]
