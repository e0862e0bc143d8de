"""Predict files, folders, patterns and tables of images; one CSV row for each input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascade.command_line.cluster_prediction import (
    add_cluster,
    check_cluster_flags,
    predict_on_cluster,
)
from cascade.command_line.first_rows import first
from cascade.command_line.inputs import find_inputs
from cascade.command_line.metadata import KnownMetadata, add_metadata, metadata_flags
from cascade.command_line.options import add_switch
from cascade.command_line.outputs import refuse_to_replace
from cascade.command_line.parser import CommandParser, command
from cascade.command_line.patients import TablePatients
from cascade.command_line.prediction_files import (
    DICOM_COLUMNS,
    IMAGE_COLUMNS,
    WrittenFiles,
    check_dicom_flag,
    dicom_model,
)
from cascade.command_line.prediction_options import add_prediction, load_cascade
from cascade.command_line.result_table import ResultTable, unfinished
from cascade.command_line.run_settings import RunSettings
from cascade.lesion.measurements import check_scale
from cascade.pipeline.rows import COLUMNS, RowInput, diagnosis_columns, predict_rows


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade predict",
        "Mask, box and probability for each image. Broken inputs get a row with their error, and "
        "the exit code is then 3. Images of a table with a column patient_id are also compared "
        "within their patient. Research software, not for diagnosis.",
        example="cascade predict photo.jpg folder/ 'more/*.png' table.csv "
        "--model models/cascade.safetensors --output predictions --save_overlays",
    )
    add_prediction(parser, output="predictions", table="predictions.csv")
    parser.add_shared("coverage", "save_masks", "save_overlays", batch_size=None)
    parser.add_argument(
        "--pixels_per_millimetre",
        type=float,
        default=None,
        help="scale of the images, the same for all; without it diameters are in pixels only",
    )
    add_metadata(parser)
    add_switch(
        parser,
        "--save_dicom",
        "for each DICOM file write its mask as a DICOM segmentation and its result as a DICOM "
        "structured report (needs the extra highdicom)",
    )
    add_cluster(parser)
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    check_scale(arguments.pixels_per_millimetre)
    check_cluster_flags(arguments)
    check_dicom_flag(arguments)
    known_of_all = metadata_flags(arguments)
    if arguments.engine == "ray":
        return predict_on_cluster(arguments)
    folder = Path(arguments.output)
    patients = TablePatients.of(arguments.inputs)
    refuse_to_replace(arguments, folder / "predictions.csv")  # before a model is loaded
    cascade = load_cascade(arguments, coverage=arguments.coverage)
    dicom_columns = DICOM_COLUMNS if arguments.save_dicom else ()
    told = diagnosis_columns(cascade.diagnoses)
    table = ResultTable(
        folder / "predictions.csv",
        (*COLUMNS, *patients.columns, *dicom_columns, *told),
        image_columns=(*IMAGE_COLUMNS, *DICOM_COLUMNS),
    )
    kept = table.earlier_rows(arguments)
    run = RunSettings.of_predictions(
        table.path, arguments, coverage=arguments.coverage,
        pixels_per_millimetre=arguments.pixels_per_millimetre,
    )  # fmt: skip
    inputs = find_inputs(arguments.inputs, recursive=not arguments.not_recursive, results=folder)
    found = first(arguments, inputs)
    fusion = cascade.safeguards.metadata
    metadata = KnownMetadata.of(arguments.inputs, known_of_all, fusion)
    if not arguments.overwrite:
        metadata.check_kept(table.path, kept, fusion)
    if arguments.overwrite:  # not before the model and the tables are known to be fine
        table.remove(kept)
        kept = []
    run.go_on(results=bool(kept))
    model = dicom_model(arguments, cascade)
    files = WrittenFiles(table, arguments.save_masks, arguments.save_overlays, model)
    rows = predict_rows(
        cascade,
        (
            RowInput.of(item, known=patients.known(item.path), metadata=metadata.beside(item.path))
            for item in unfinished(found, kept)
        ),
        files.write,
        tta=arguments.tta,
        batch_size=arguments.batch_size,
        pixels_per_millimetre=arguments.pixels_per_millimetre,
    )
    code = table.extend(rows, kept=kept, description="predicting")
    patients.compare(table.path)
    return code
