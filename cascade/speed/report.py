"""What was measured, as a table, as JSON and as a figure."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cascade.evaluation.plots import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SMALL_PT,
    WIDTH,
    label_axes,
    new_figure,
    save_figure,
)
from cascade.speed.configurations import NAIVE
from cascade.speed.measure import Measured, Speed
from cascade.speed.steps import NETWORKS, READING, overhead_ms

HEADERS = (
    "images", "runtime", "precision", "batch", "images/s", "p50 ms", "p99 ms", "CPU ms", "peak MB",
    "cold start s", "of floor", "times naive", "other ms",
)  # fmt: skip
_COLOURS = {"torch": ORANGE, "onnx": BLUE, "openvino": GREEN, NAIVE: GREY}


def naive_ratio(speed: Speed, speeds: Sequence[Speed]) -> float | None:
    """How often a configuration's throughput is that of the naive pair on the same images."""
    for other in speeds:
        if (other.images, other.runtime) == (speed.images, NAIVE):
            return speed.images_per_second / other.images_per_second
    return None


def fastest(speeds: Sequence[Speed], images: str, precision: str | None = None) -> Speed | None:
    """The cascade's highest throughput on a set, or that in one precision; ``None`` without any."""
    found = [
        speed
        for speed in speeds
        if speed.images == images
        and speed.runtime != NAIVE
        and precision in (None, speed.precision)
    ]
    return max(found, key=lambda speed: speed.images_per_second, default=None)


def table_rows(speeds: Sequence[Speed]) -> list[tuple[str, ...]]:
    """One row for each configuration and set, under :data:`HEADERS`."""
    return [
        (
            speed.images,
            speed.runtime,
            speed.precision,
            str(speed.batch_size),
            f"{speed.images_per_second:.2f}",
            f"{speed.latency_p50_ms:.1f}",
            f"{speed.latency_p99_ms:.1f}",
            f"{speed.processor_ms:.1f}",
            _cell(speed.peak_memory_mb, "{:.0f}"),
            f"{speed.cold_start_s:.2f}",
            _cell(speed.floor_share, "{:.1%}"),
            _cell(naive_ratio(speed, speeds), "{:.2f}"),
            f"{overhead_ms(speed.steps_ms):.1f}" if speed.steps_ms else "",
        )
        for speed in speeds
    ]


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def choice_lines(speeds: Sequence[Speed]) -> list[str]:
    """A sentence for each set: what is fastest, and what is fastest without lower precision."""
    lines = []
    for images in dict.fromkeys(speed.images for speed in speeds):
        best = fastest(speeds, images)
        exact = fastest(speeds, images, "float32")
        chosen = {speed.name: speed for speed in (best, exact) if speed is not None}
        named = [f"{name} ({it.images_per_second:.2f} images/s)" for name, it in chosen.items()]
        if named:
            lines.append(f"fastest on {images}: {'; in float32: '.join(named)}")
    return lines


def floor_line(floor: Mapping[str, Any]) -> str:
    """What the floor is made of, in a sentence."""
    if floor["flops"] is None:
        return f"floor: not known, {floor['counted_by']}"
    operations = ", ".join(f"{stage} {n / 1e9:.3f}" for stage, n in floor["flops"].items())
    peaks = ", ".join(
        f"{name} {value / 1e9:.0f}" for name, value in floor["peak_flops"].items() if value
    )
    decoding = ", ".join(f"{name} {ms:.1f}" for name, ms in floor["decode_ms"].items())
    return (
        f"floor: 10⁹ operations an image: {operations} ({floor['counted_by']}); 10⁹ operations/s "
        f"of a 3x3 convolution: {peaks or 'not known, torch is not installed'}; "
        f"decoding, ms on one thread: {decoding}"
    )


def document(
    measured: Measured, machine: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """All numbers and what they were measured with, as plain JSON values."""
    speeds = measured.speeds
    results = [{**asdict(one), "naive_ratio": naive_ratio(one, speeds)} for one in speeds]
    sets = dict.fromkeys(speed.images for speed in speeds)
    best = {images: fastest(speeds, images) for images in sets}
    return {
        "machine": dict(machine),
        "settings": dict(settings),
        "floor": measured.floor,
        "results": results,
        "fastest": {images: None if one is None else one.name for images, one in best.items()},
        "not_measured": [asdict(item) for item in measured.not_measured],
    }


def plot_speeds(speeds: Sequence[Speed], path: str | os.PathLike[str]) -> Path:
    """Draw the throughput of each configuration as bars, one panel for each set of images."""
    sets = list(dict.fromkeys(speed.images for speed in speeds))
    most = max(sum(speed.images == images for speed in speeds) for images in sets)
    figure = new_figure(1.6 * WIDTH, len(sets) * (0.9 + 0.3 * most))
    panels = figure.subplots(len(sets), 1, squeeze=False).ravel()
    for axes, images in zip(panels, sets, strict=True):
        shown = sorted(
            (speed for speed in speeds if speed.images == images),
            key=lambda speed: speed.images_per_second,
        )
        rates = [speed.images_per_second for speed in shown]
        colours = [_COLOURS.get(speed.runtime, "#000000") for speed in shown]
        bars = axes.barh([speed.name for speed in shown], rates, color=colours)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=SMALL_PT)
        label_axes(axes, images, "images per second", "")
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 1.15 * max(rates))
    return save_figure(figure, path)


def plot_steps(speeds: Sequence[Speed], path: str | os.PathLike[str]) -> Path | None:
    """Draw where the time of one image goes as stacked bars; ``None`` where it is not known."""
    shown = [speed for speed in speeds if speed.steps_ms and speed.batch_size == 1][::-1]
    if not shown:
        return None
    figure = new_figure(1.8 * WIDTH, 1.6 + 0.35 * len(shown))
    axes = figure.subplots()
    start = np.zeros(len(shown))
    fixed = dict(zip((READING, *NETWORKS), (GREY, BLUE, GREEN), strict=True))
    others = itertools.cycle(
        (ORANGE, PURPLE, "#F0E442", "#56B4E9", "#E69F00", "#000000", "#CCCCCC")
    )
    for step in shown[0].steps_ms:
        widths = np.array([speed.steps_ms[step] for speed in shown])
        colour = fixed.get(step) or next(others)
        names = [f"{one.images} {one.runtime} {one.precision}" for one in shown]
        axes.barh(names, widths, left=start, color=colour, label=step, height=0.6)
        start += widths
    label_axes(axes, "", "ms of one core for one image", "")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=4, fontsize=SMALL_PT)
    return save_figure(figure, path)
