"""Every error that cascade raises on purpose.

Each class also inherits the builtin that a caller would already catch. A message says what was
wrong, what was found and what to do about it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


class CascadeError(Exception):
    """Base of all errors raised by cascade."""


class ConfigError(CascadeError, ValueError):
    """A setting, flag or configuration file is not usable."""


class DataError(CascadeError, ValueError):
    """A table, image, mask or folder is not usable."""


class ImageError(DataError):
    """One image or mask file cannot be used; the message names the file."""


class LeakageError(DataError):
    """The same patient, lesion or image is on both sides of a split.

    Attributes:
        shared: the identifiers found on both sides.
    """

    def __init__(self, message: str, *, shared: Collection[str] = ()) -> None:
        super().__init__(message)
        self.shared = tuple(sorted(shared))


class ShapeError(CascadeError, ValueError):
    """An array has another shape, type or range than documented.

    Attributes:
        expected: what was expected, in words or as a shape.
        actual: what was got.
    """

    def __init__(self, message: str, *, expected: Any = None, actual: Any = None) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class EmptyMaskError(CascadeError, ValueError):
    """No lesion was found and the policy says to raise."""


class ModelFileError(CascadeError, RuntimeError):
    """A model file is damaged, of another format, or does not fit its networks."""


class HubError(ModelFileError):
    """A model cannot be fetched from a hub, or sent to it."""


class PretrainedWeightsError(CascadeError, RuntimeError):
    """Pretrained weights could not be fetched or do not fit the network."""


class DeviceError(CascadeError, RuntimeError):
    """The device asked for does not exist on this machine."""


class ExportError(CascadeError, RuntimeError):
    """An exported network does not give the answers of the one that it was made of."""


class TrainingError(CascadeError, RuntimeError):
    """Training cannot go on, for instance because the loss is not finite."""


class MissingExtraError(CascadeError, ImportError):
    """An optional dependency is missing; the message names the pip extra."""


class CascadeWarning(UserWarning):
    """Something was accepted that the user should know about."""
