"""Heat maps of files, folders, patterns and tables of images; one CSV row for each input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cascade.command_line.first_rows import first
from cascade.command_line.inputs import find_inputs
from cascade.command_line.parser import CommandParser, command
from cascade.command_line.prediction_options import add_prediction, load_cascade
from cascade.command_line.result_table import ResultTable, unfinished
from cascade.command_line.run_settings import RunSettings
from cascade.errors import CascadeError, ImageError
from cascade.imaging import FoundFile, read_image, write_image

if TYPE_CHECKING:
    from cascade.explain import ActivationMaps
    from cascade.pipeline import Cascade

COLUMNS = (
    "name", "path", "label", "probability_malignant", "target", "has_heat", "inside_fraction",
    "mean_ratio", "turn_agreement", "warnings", "error", "overlay",
)  # fmt: skip


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade explain",
        "Show for each image where the classifier found what speaks for a class, and how much of "
        "it lies within the lesion. Broken inputs get a row with their error, and the exit code is "
        "then 3. Needs pip install 'cascade[explain]'. Research software, not for diagnosis.",
        example="cascade explain photo.jpg folder/ 'more/*.png' table.csv --output explanations "
        "--target malignant",
    )
    add_prediction(parser, output="explanations", table="explanations.csv")
    parser.add_argument(
        "--target",
        type=Literal["malignant", "benign"],
        default="malignant",
        help="the class whose evidence is shown, whatever the answer is",
    )
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    folder = Path(arguments.output)
    table = ResultTable(folder / "explanations.csv", COLUMNS, image_columns=("overlay",))
    kept = table.earlier_rows(arguments)
    run = RunSettings.of_predictions(table.path, arguments, target=arguments.target)
    inputs = find_inputs(arguments.inputs, recursive=not arguments.not_recursive, results=folder)
    found = first(arguments, inputs)
    cascade = load_cascade(arguments)

    from cascade.explain import activation_maps

    with activation_maps(cascade.classifier) as maps:
        if arguments.overwrite:  # not before everything is known to be fine
            table.remove(kept)
            kept = []
        run.go_on(results=bool(kept))
        rows = explain_rows(cascade, maps, unfinished(found, kept), table, arguments)
        return table.extend(rows, kept=kept, description="explaining")


def explain_rows(
    cascade: Cascade,
    maps: ActivationMaps,
    inputs: Iterator[FoundFile],
    table: ResultTable,
    arguments: Any,
) -> Iterator[dict[str, Any]]:
    """One row and one image for each input, in order, holding one image at a time."""
    from cascade.explain import explain, overlay_heat
    from cascade.pipeline import Failure

    for found in inputs:
        try:
            if found.problem is not None:
                raise ImageError(f"{found.path.name}: {found.problem}")
            image = read_image(found.path, limits=cascade.limits)
            (prediction,) = cascade.predict_iter([image], tta=arguments.tta)
            if isinstance(prediction, Failure):
                raise prediction.error
        except CascadeError as error:
            yield table.row(found.path, error=str(error))
            continue
        explanation = explain(
            cascade, image.pixels, prediction, target=arguments.target, tta=arguments.tta, maps=maps
        )
        drawing = table.free_path("overlay", found.path, ".png")
        write_image(drawing, overlay_heat(image.pixels, explanation, prediction.mask))
        yield table.row(
            found.path,
            label=prediction.label,
            probability_malignant=prediction.probabilities.get("malignant"),
            target=explanation.target,
            has_heat="no" if explanation.is_empty else "yes",
            inside_fraction=explanation.inside_fraction,
            mean_ratio=explanation.mean_ratio,
            turn_agreement=explanation.turn_agreement,
            warnings="; ".join((*explanation.warnings, *prediction.warnings)),
            overlay=table.relative(drawing),
        )
