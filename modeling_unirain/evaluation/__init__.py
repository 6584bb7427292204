"""Measuring a derainer: pairs in, figures per image, dataset and type out."""

from .measures import load_lpips, measure
from .pairs import EvaluationPair, find_pairs
from .report import EvaluationReport, ImageResult
from .run import evaluate, evaluate_pairs


__all__ = [
    "EvaluationPair",
    "EvaluationReport",
    "ImageResult",
    "evaluate",
    "evaluate_pairs",
    "find_pairs",
    "load_lpips",
    "measure",
]
