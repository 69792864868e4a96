"""What to train on: random clips of videos, images and rendered scenes, as repeatable batches."""

from pvtok.training.data.batches import Batch, TrainingData, shape_at, to_signed
from pvtok.training.data.config import BatchShape, DataConfig
from pvtok.training.data.procedural import render_clip

__all__ = [
    "Batch",
    "BatchShape",
    "DataConfig",
    "TrainingData",
    "render_clip",
    "shape_at",
    "to_signed",
]
