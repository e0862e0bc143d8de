"""The smallest segmenter, a training of it that takes a second, and interrupted trainings."""

from contextlib import contextmanager
from typing import Any

import pytest

from cascade.config import SegmentationTrainConfig, SegmenterConfig

SEGMENTER = SegmenterConfig(encoder="tu-test_resnet", size=32, decoder_channels=(16, 16, 8, 8, 8))


def segmentation_settings(**changes: Any) -> SegmentationTrainConfig:
    """One epoch in batches of four, unless told otherwise."""
    fixed = {"epochs": 1, "batch_size": 4, "optimizer": "adamw", "learning_rate": 0.002,
             "momentum": 0.9, "weight_decay": 0.01, "precision": "fp32"}  # fmt: skip
    return SegmentationTrainConfig(**{**fixed, **changes})


@contextmanager
def interrupted(module: Any, name: str, *, call: int):
    """Whoever calls a function of the module for the ``call``-th time is stopped there."""
    function, calls = getattr(module, name), []

    def counted(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, counted)
        with pytest.raises(KeyboardInterrupt):
            yield


def spy_trainings(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[str]:
    """The names of the folders that are trained in from now on."""
    train, folders = getattr(module, name), []

    def spied(*arguments, **options):
        folders.append(options["output"].name)
        return train(*arguments, **options)

    monkeypatch.setattr(module, name, spied)
    return folders
