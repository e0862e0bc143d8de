"""Settings: strict about names, types, choices and limits; honest about weight decay."""

import json
import math
import typing
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from cascade.config import (
    ClassificationTrainConfig,
    ClassifierConfig,
    SegmentationTrainConfig,
    SegmenterConfig,
    TrainConfig,
    did_you_mean,
    from_dict,
    shrinkage_warning,
    to_dict,
    weight_shrinkage,
)
from cascade.data.sources.selection import PrepareConfig
from cascade.data.synthetic import SyntheticConfig
from cascade.errors import CascadeError, ConfigError

ALL = [
    SegmenterConfig,
    ClassifierConfig,
    TrainConfig,
    SegmentationTrainConfig,
    ClassificationTrainConfig,
    PrepareConfig,
    SyntheticConfig,
]
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TRAINING_STEPS = 20 * 2594 // 16  # 20 epochs of the ISIC 2018 training set at batch size 16


def shipped(name, cls):
    values = yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))
    known = {item.name for item in fields(cls)}
    return from_dict(cls, {key: value for key, value in values.items() if key in known})


@pytest.mark.parametrize("cls", ALL)
def test_settings_survive_the_round_trip_through_json(cls):
    config = cls()
    assert from_dict(cls, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("cls", ALL)
def test_settings_cannot_be_changed(cls):
    with pytest.raises(FrozenInstanceError):
        setattr(cls(), fields(cls)[0].name, None)


def test_an_unknown_setting_is_refused_with_the_nearest_name():
    with pytest.raises(
        ConfigError,
        match=r"TrainConfig: unknown setting 'learning_rat'; did you mean learning_rate",
    ):
        from_dict(TrainConfig, {"learning_rat": 0.1})
    with pytest.raises(ConfigError, match=r"unknown setting 'zzz'$"):
        from_dict(TrainConfig, {"zzz": 1})


@pytest.mark.parametrize("cls", ALL)
def test_each_limit_is_inclusive_and_the_next_value_is_refused(cls):
    for item in fields(cls):
        for limit, outwards in (("minimum", -1), ("maximum", 1)):
            bound = item.metadata.get(limit)
            if bound is None:
                continue
            several = isinstance(item.default, tuple)
            beyond = bound + outwards if isinstance(bound, int) else bound + outwards * 1e-6
            cls(**{item.name: (bound,) if several else bound})
            with pytest.raises(ConfigError, match=f"{item.name} is .* it must be"):
                cls(**{item.name: (beyond,) if several else beyond})


@pytest.mark.parametrize("cls", ALL)
def test_each_choice_is_accepted_and_any_other_is_refused_with_the_list(cls):
    hints = typing.get_type_hints(cls)
    for item in fields(cls):
        if typing.get_origin(hints[item.name]) is not typing.Literal:
            continue
        choices = typing.get_args(hints[item.name])
        for choice in choices:
            assert getattr(cls(**{item.name: choice}), item.name) == choice
        with pytest.raises(ConfigError, match=f"{item.name} is 'other'; choose from {choices[0]}"):
            cls(**{item.name: "other"})


@pytest.mark.parametrize("cls", ALL)
def test_not_a_number_is_refused_everywhere(cls):
    hints = typing.get_type_hints(cls)
    for item in fields(cls):
        if hints[item.name] is float:
            with pytest.raises(ConfigError, match=f"{item.name} is nan"):
                cls(**{item.name: math.nan})


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (TrainConfig, "epochs", "20"), (TrainConfig, "epochs", 2.5), (TrainConfig, "epochs", True),
        (TrainConfig, "learning_rate", "1e-3"), (TrainConfig, "learning_rate", False),
        (TrainConfig, "deterministic", 1), (TrainConfig, "optimizer", ["sgd"]),
        (SegmenterConfig, "encoder", 18), (SegmenterConfig, "decoder_channels", 16),
        (SegmenterConfig, "decoder_channels", (16, "8")),
        (ClassifierConfig, "size", "224"), (SyntheticConfig, "sizes", ((64,),)),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused_by_name(cls, name, value):
    with pytest.raises(ConfigError, match=f"{name} is "):
        from_dict(cls, {name: value})


def test_numbers_of_any_kind_are_numbers():
    assert TrainConfig(epochs=np.int64(3), learning_rate=np.float32(0.5)).epochs == 3
    assert TrainConfig(learning_rate=1).learning_rate == 1


@pytest.mark.parametrize("size", [31, 33, 250, 2080])
def test_a_segmenter_side_is_a_multiple_of_32_within_limits(size):
    with pytest.raises(ConfigError, match=f"size is {size}"):
        SegmenterConfig(size=size)


def test_a_configuration_error_is_also_a_value_error():
    with pytest.raises(ValueError, match="epochs is 0; it must be at least 1"):
        TrainConfig(epochs=0)
    assert issubclass(ConfigError, CascadeError)


def test_near_words_are_suggested_and_far_ones_are_not():
    assert did_you_mean("momentun", ["momentum", "epochs"]) == "; did you mean momentum?"
    assert did_you_mean("qqq", ["momentum", "epochs"]) == ""


def sizes_of_a_weight(config, steps):
    """|w| after each step of sgd with momentum and coupled decay, where the gradient is zero."""
    weight, velocity, sizes = 1.0, 0.0, []
    for _ in range(steps):
        velocity = config.momentum * velocity + config.weight_decay * weight
        weight -= config.learning_rate * velocity
        sizes.append(abs(weight))
    return np.array(sizes)


@pytest.mark.parametrize(
    ("learning_rate", "momentum", "weight_decay"),
    [
        (1e-4, 0.99, 0.9),  # the documented defaults: the weight swings through zero
        (1e-2, 0.9, 0.5),
        (1e-2, 0.0, 0.1),
        (0.1, 0.5, 0.1),
    ],
)
def test_shrinkage_is_what_sgd_does_to_a_weight_without_gradient(
    learning_rate, momentum, weight_decay
):
    config = TrainConfig(
        optimizer="sgd",
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    sizes = sizes_of_a_weight(config, 6000)
    usable = int(np.argmax(sizes < 1e-250)) or len(sizes)
    third = usable // 3  # the largest size within a span ignores the swings
    early, late = sizes[third : 2 * third].max(), sizes[2 * third : 3 * third].max()
    measured = 1 - (late / early) ** (1 / third)
    assert weight_shrinkage(config) == pytest.approx(measured, rel=0.06)


def test_the_warning_tells_how_much_of_a_weight_would_be_left():
    message = shrinkage_warning(SegmentationTrainConfig(), steps=1000)
    stated = float(message.split("would leave ")[1].split(" ")[0])
    simulated = sizes_of_a_weight(SegmentationTrainConfig(), 1000)[-350:].max()
    assert stated <= simulated <= stated * 20
    assert stated < 0.01


def test_shrinkage_of_adamw_is_one_multiplication_per_step():
    config = TrainConfig(optimizer="adamw", learning_rate=1e-3, weight_decay=1e-2)
    assert weight_shrinkage(config) == pytest.approx(1e-5)


def test_weights_that_would_explode_are_announced_too():
    wild = TrainConfig(optimizer="sgd", learning_rate=1.0, momentum=0.0, weight_decay=5.0)
    assert weight_shrinkage(wild) < 0
    assert "harmfully" in shrinkage_warning(wild, steps=1000)


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("segmentation.yaml", SegmentationTrainConfig),
        ("classification.yaml", ClassificationTrainConfig),
    ],
)
def test_the_recommended_recipes_shrink_nothing_harmfully(name, cls):
    assert shrinkage_warning(shipped(name, cls), steps=TRAINING_STEPS) is None


def test_longer_training_can_only_add_the_warning():
    config = replace(TrainConfig(), weight_decay=0.1)
    warned = [bool(shrinkage_warning(config, steps=10**n)) for n in range(8)]
    assert shrinkage_warning(TrainConfig(weight_decay=0.0), steps=10**9) is None
    assert warned == sorted(warned)
    assert warned[-1]
    assert not warned[0]
