"""Join the classifiers of several cross-validation runs into one second stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cascade.command_line.options import add_output
from cascade.command_line.outputs import refuse_to_replace, say, say_table
from cascade.command_line.parser import OK, CommandParser, command, default_folder
from cascade.errors import ConfigError

if TYPE_CHECKING:
    from cascade.training.joining import Comparison


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade ensemble",
        "Join the classifiers of cross-validation runs over the same images and folds, such as two "
        "architectures, and score on out-of-fold scores what that brings. Searched weights are "
        "scored on each fold after a search on the others.",
        example="cascade cls-train --folds 5 --architecture resnet18 --output models/cv_a\n"
        "  cascade cls-train --folds 5 --architecture mobilenet --output models/cv_b\n"
        "  cascade ensemble models/cv_a models/cv_b --weights search "
        "--output models/ensemble.safetensors",
    )
    parser.add_argument(
        "runs", nargs="+", type=str, help="folders of cascade cls-train --folds, at least two"
    )
    add_output(
        parser,
        "file of the ensemble",
        default=str(default_folder("models") / "ensemble.safetensors"),
    )
    parser.add_argument(
        "--weights",
        type=Literal["equal", "search"],
        default="equal",
        help="equal: each run counts alike; search: weights with the best out-of-fold ROC AUC",
    )
    parser.add_shared("seed")
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    runs = [Path(run) for run in arguments.runs]
    refuse_to_replace(arguments, arguments.output)
    _check(runs)

    from cascade.training.joining import join_runs

    comparison = join_runs(
        runs, arguments.output, searched=arguments.weights == "search", seed=arguments.seed
    )
    say_table(*_rows(comparison, arguments.runs))
    say()
    for name, found in comparison.differences.items():
        low, high = found["interval"]
        say(f"ROC AUC, {name}: {found['difference']:+z.4f} ({low:+z.4f} to {high:+z.4f})")
    say()
    say(f"written: {arguments.output}, with {arguments.weights} weights")
    return OK


def _check(runs: Sequence[Path]) -> None:
    if len(runs) < 2:
        raise ConfigError(
            f"one run, {runs[0]}: there is nothing to join; its own ensemble.safetensors holds the "
            "classifiers of its folds"
        )
    if len({run.resolve() for run in runs}) < len(runs):
        raise ConfigError("a run is named twice; name each run once")


def _rows(
    comparison: Comparison, runs: Sequence[str]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """One row for each run and for both means."""
    weights = dict(zip(runs, comparison.weights, strict=True))
    rows: list[tuple[str, ...]] = []
    for name, metrics in comparison.metrics.items():
        weight = f"{weights[name]:.3f}" if name in weights else ""
        rows.append((name, weight, _score(metrics, "roc_auc"), f"{metrics['log_loss']:.4f}"))
    return ("out of fold", "searched weight", "ROC AUC (95 % interval)", "log loss"), rows


def _score(metrics: dict[str, Any], name: str) -> str:
    interval = metrics["intervals"][name]
    limits = f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
    return f"{metrics[name]:.4f}{limits}"
