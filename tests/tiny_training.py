"""The smallest segmenter, and a training of it that takes a second."""

from typing import Any

from cascade.config import SegmentationTrainConfig, SegmenterConfig

SEGMENTER = SegmenterConfig(encoder="tu-test_resnet", size=32, decoder_channels=(16, 16, 8, 8, 8))


def segmentation_settings(**changes: Any) -> SegmentationTrainConfig:
    """One epoch in batches of four, unless told otherwise."""
    fixed = {"epochs": 1, "batch_size": 4, "optimizer": "adamw", "learning_rate": 0.002,
             "momentum": 0.9, "weight_decay": 0.01, "precision": "fp32"}  # fmt: skip
    return SegmentationTrainConfig(**{**fixed, **changes})
