"""Every setting, once: frozen dataclasses whose defaults are the only defaults.

The command line is built from these fields, a YAML file fills the same fields, and both pass the
same checks. A field's help text, limits and short flag stand beside its default.
"""

from __future__ import annotations

import difflib
import math
import numbers
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

from cascade.errors import ConfigError

Config = TypeVar("Config")
Optimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["none", "onecycle", "cosine", "step", "plateau"]
Augmentation = Literal["none", "light", "standard", "strong"]
ExtraAugmentation = Literal["hair", "colour_constancy", "cut", "scale", "degradation"]
Precision = Literal["auto", "fp32", "bf16"]
Tracker = Literal["none", "tensorboard", "mlflow", "trackio", "wandb"]
Decoder = Literal[
    "unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "pan", "deeplabv3",
    "deeplabv3plus", "upernet", "segformer",
]  # fmt: skip

CLASSES = ("benign", "malignant")
"""The two classes; the second is the positive one."""


def setting(
    default: Any,
    help: str,
    *,
    flag: str | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """A dataclass field with its help text, optional short flag and inclusive limits."""
    metadata = {"help": help, "flag": flag, "minimum": minimum, "maximum": maximum}
    return field(default=default, metadata=metadata)


def check_settings(config: Any) -> None:
    """Check each field against its type, choices and limits.

    Raises:
        ConfigError: a value has another type, is not one of the choices or is outside its limits.
    """
    hints = typing.get_type_hints(type(config))
    for item in fields(config):
        value, hint = getattr(config, item.name), hints[item.name]
        if typing.get_origin(hint) is Literal and value not in typing.get_args(hint):
            choices = ", ".join(typing.get_args(hint))
            raise ConfigError(f"{item.name} is {value!r}; choose from {choices}")
        if not _fits(value, hint):
            kind = hint.__name__ if isinstance(hint, type) else hint
            raise ConfigError(f"{item.name} is {value!r}; it must be of type {kind}")
        low, high = item.metadata.get("minimum"), item.metadata.get("maximum")
        if value is None or isinstance(value, (str, bool)) or (low is None and high is None):
            continue
        for number in value if isinstance(value, (tuple, list)) else (value,):
            too_low = low is not None and not number >= low
            too_high = high is not None and not number <= high
            if too_low or too_high:
                limits = f"at least {low}" if high is None else f"within [{low}, {high}]"
                raise ConfigError(f"{item.name} is {number}; it must be {limits}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has the annotated type; an integer is a number too, a switch is not."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if parts:  # a union
        return any(_fits(value, part) for part in parts)
    kind = {int: numbers.Integral, float: numbers.Real}.get(hint, hint)
    return isinstance(value, kind) and (hint is bool or not isinstance(value, bool))


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(config).items()
    }


def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """Read a configuration back, strictly.

    Raises:
        ConfigError: a key is unknown (the nearest known one is named) or a value is not allowed.
    """
    known = [item.name for item in fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"{cls.__name__}: unknown setting {key!r}{did_you_mean(key, known)}")
    return cls(**{key: _tuples(value) for key, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in words which settings of a run differ from those of its beginning."""
    return [
        f"{name} was {before.get(name)!r}, now it is {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def did_you_mean(name: str, known: typing.Iterable[str]) -> str:
    """A hint that names the nearest known word, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


@dataclass(frozen=True)
class SegmenterConfig:
    """What a segmenter is."""

    encoder: str = setting(
        "xception",
        "encoder of segmentation-models-pytorch, or tu-NAME for one of timm; mobilenet is "
        "mobilenet_v2",
        flag="-en",
    )
    decoder: Decoder = setting("unet", "decoder of segmentation-models-pytorch")
    size: int = setting(256, "side of the network's input in pixels", minimum=32, maximum=2048)
    decoder_channels: tuple[int, ...] = setting(
        (256, 128, 64, 32, 16),
        "channels of a U-Net-like decoder, one per encoder stage; 128 64 32 24 16 is faster",
        minimum=1,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.size % 32:
            raise ConfigError(f"size is {self.size}; a segmenter's side is a multiple of 32")


@dataclass(frozen=True)
class ClassifierConfig:
    """What a classifier is."""

    architecture: str = setting(
        "inception",
        "classification network of torchvision or timm; inception, resnet and mobilenet are "
        "short names",
        flag="-a",
    )
    size: int | None = setting(
        None,
        "side of the network's input in pixels; by default 299 for inception, else 224",
        minimum=32,
        maximum=2048,
    )
    dropout: float = setting(0.2, "dropout before the last layer", minimum=0.0, maximum=0.95)

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained."""

    epochs: int = setting(20, "passes over the training images", flag="-e", minimum=1)
    batch_size: int = setting(16, "images per optimiser step", minimum=1)
    accumulate: int = setting(
        1,
        "parts that a process computes its share of a batch in, one after the other; more need "
        "less memory",
        minimum=1,
    )
    optimizer: Optimizer = setting("adamw", "optimiser", flag="-opt")
    learning_rate: float = setting(0.001, "highest learning rate", flag="-lr", minimum=0.0)
    momentum: float = setting(
        0.9, "momentum of sgd; beta1 of adam and adamw", flag="-mom", minimum=0.0, maximum=0.9999
    )
    weight_decay: float = setting(
        0.01, "weight decay (coupled for sgd and adam)", flag="-wd", minimum=0.0
    )
    schedule: Schedule = setting(
        "onecycle",
        "learning rate over time: none keeps it, onecycle warms up and anneals, cosine anneals, "
        "step divides by 10 at 60 and 85 percent, plateau divides by 10 when validation stalls",
    )
    warmup: float = setting(0.2, "share of onecycle's steps spent rising", minimum=0.0, maximum=0.9)
    augmentation: Augmentation = setting("standard", "strength of the training augmentation")
    extra_augmentation: tuple[ExtraAugmentation, ...] = setting(
        (),
        "further random changes of every second image: drawn hair, colours under a neutral light, "
        "a part of the image, another scale (0.6 to 1.6), or degradation (blur, noise, coarse "
        "JPEG, colour cast)",
    )
    average: float = setting(
        0.0,
        "decay of the exponential moving average of the weights, evaluated and saved instead of "
        "the raw ones; 0 switches it off",
        minimum=0.0,
        maximum=0.99999,
    )
    average_power: float = setting(
        8.0,
        "until the average's decay is reached, step n counts as n to this power: with 8 the last "
        "ninth of the steps has two thirds of the weight, with 1 the last half three quarters, "
        "with 0 all count alike",
        minimum=0.0,
        maximum=100.0,
    )
    gradient_clip: float = setting(
        0.0, "largest norm of the gradient; 0 switches clipping off", minimum=0.0
    )
    patience: int = setting(
        0, "stop after so many epochs without a better validation score; 0 never stops", minimum=0
    )
    precision: Precision = setting(
        "auto", "arithmetic in training: auto takes bf16 autocast where the hardware is fast at it"
    )
    seed: int = setting(0, "seed of initial weights, order and augmentation", minimum=0)
    num_workers: int = setting(0, "processes that load images; 0 loads in this one", minimum=0)
    cache_gigabytes: float = setting(
        8.0,
        "largest size of the folder of decoded images in 10^9 bytes; 0 decodes in every epoch",
        minimum=0.0,
    )
    checkpoint_minutes: float = setting(
        10.0,
        "minutes between checkpoints within an epoch; there is one after each epoch, too; 0 writes "
        "only those",
        minimum=0.0,
    )
    deterministic: bool = setting(
        False, "refuse operations of torch that are not deterministic (slower on CUDA)"
    )
    tracker: Tracker = setting(
        "none",
        "experiment tracker that is told settings, curves and the best model's digest; it writes "
        "into the output folder unless its own environment variables name a server",
    )

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class SegmentationTrainConfig(TrainConfig):
    """How a segmenter is trained, with the documented defaults of the command line."""

    optimizer: Optimizer = setting("sgd", "optimiser", flag="-opt")
    learning_rate: float = setting(0.0001, "highest learning rate", flag="-lr", minimum=0.0)
    momentum: float = setting(
        0.99, "momentum of sgd; beta1 of adam and adamw", flag="-mom", minimum=0.0, maximum=0.9999
    )
    weight_decay: float = setting(
        0.9, "weight decay (coupled for sgd and adam)", flag="-wd", minimum=0.0
    )
    schedule: Schedule = setting("none", "learning rate over time: none keeps it")


@dataclass(frozen=True)
class ClassificationTrainConfig(TrainConfig):
    """How a classifier is trained."""

    class_weight: float = setting(
        1.0, "weight of the rarer class in the cross entropy", flag="-cw", minimum=0.0
    )
    label_smoothing: float = setting(
        0.0, "share of each label spread over the classes", minimum=0.0, maximum=0.5
    )
    balanced_sampling: bool = setting(
        False, "draw both classes equally often instead of each image once"
    )
    source_balance: float = setting(
        0.0,
        "how far small sources (column source) are drawn more often: 0 not at all, 1 all sources "
        "equally often, 0.5 by the square root of their size",
        minimum=0.0,
        maximum=1.0,
    )
    diagnosis_balance: float = setting(
        0.0,
        "how far rare diagnoses (column diagnosis) are drawn more often: 0 not at all, 1 all "
        "diagnoses equally often; images without one count like those of the most frequent",
        minimum=0.0,
        maximum=1.0,
    )
    whole_image_share: float = setting(
        0.0,
        "share of training samples that show the whole image instead of the masked crop, as in "
        "use where the mask cannot be trusted",
        minimum=0.0,
        maximum=1.0,
    )
    mixup: float = setting(
        0.0,
        "blend pairs of crops and their losses; parameter of the beta distribution of the shares, "
        "such as 0.2; 0 switches it off",
        minimum=0.0,
    )
    cutmix: float = setting(
        0.0,
        "paste a rectangle of one crop into another and mix their losses; parameter of the beta "
        "distribution of the areas, such as 1; 0 switches it off",
        minimum=0.0,
    )
    consistency: float = setting(
        0.0,
        "weight of a further loss, by how much the answers about each crop and a mirrored or "
        "turned copy differ, such as 1; the copies take as long again; 0 switches it off",
        minimum=0.0,
    )
    diagnosis_weight: float = setting(
        0.0,
        "weight of a second loss that asks for the diagnosis (column diagnosis) from the same "
        "features; the classifier then tells diagnoses; 0 switches it off",
        minimum=0.0,
    )


def weight_shrinkage(config: TrainConfig) -> float:
    """By how much weight decay alone shrinks the weights, per step, once momentum has built up.

    For adamw it is ``learning_rate * weight_decay``. For sgd with coupled decay and momentum the
    weights follow ``w[t+1] = (1 + momentum - pull) * w[t] - momentum * w[t-1]`` with ``pull =
    learning_rate * weight_decay``; their size falls by the larger root of that recurrence, and
    with a strong pull by ``1 - sqrt(momentum)``. Adam normalises the decay together with the
    gradient, so no such number holds for it; see :func:`shrinkage_warning`.

    Returns:
        A fraction; 0.001 halves every weight in about 700 steps. Negative where they grow.
    """
    pull = config.learning_rate * config.weight_decay
    if config.optimizer != "sgd":
        return pull
    middle = (1 + config.momentum - pull) / 2
    beneath = middle**2 - config.momentum
    if beneath < 0:
        return 1 - math.sqrt(config.momentum)
    return 1 - (abs(middle) + math.sqrt(beneath))


def shrinkage_warning(
    config: TrainConfig, *, steps: int, recipe: str = "configs/segmentation.yaml"
) -> str | None:
    """Say so when weight decay would wipe out what is learnt in so many optimiser steps.

    ``recipe`` is the configuration file to recommend.
    """
    shrinkage = weight_shrinkage(config)
    coupled_adam = config.optimizer == "adam" and config.weight_decay >= 0.01
    if not coupled_adam and abs(shrinkage) * steps <= 1.0:
        return None
    kept = math.exp(min(700.0, steps * math.log(max(1e-300, 1.0 - shrinkage))))
    detail = (
        "adam divides coupled decay by its own size, so it competes with the gradient itself"
        if coupled_adam
        else f"decay alone would leave {kept:.2g} of each weight after {steps} steps"
    )
    return (
        f"learning rate {config.learning_rate:g}, weight decay {config.weight_decay:g} and "
        f"momentum {config.momentum:g} with {config.optimizer} shrink the weights harmfully: "
        f"{detail}. "
        f"The recommended recipe is --config {recipe}"
    )
