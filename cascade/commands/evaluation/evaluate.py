"""Run both stages end to end on the test table and score them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.command_line.evaluation_options import (
    add_evaluation,
    check_size,
    check_unseen,
    how_to_evaluate,
    refuse_to_replace_evaluation,
    report,
)
from cascade.command_line.first_rows import first_rows
from cascade.command_line.options import (
    add_model,
    add_runtime,
    add_switch,
    load_table,
    runtime_options,
)
from cascade.command_line.outputs import refuse_to_replace
from cascade.command_line.parser import OK, CommandParser, command
from cascade.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

    from cascade.data.tables import Table
    from cascade.evaluation.html import ReportSection
    from cascade.evaluation.stages import Evaluation
    from cascade.pipeline import Cascade


_NEEDS_MODEL = (
    "segmenter", "classifier", "save", "operating_point", "explain", "save_masks", "save_overlays",
    "limit", "corruptions",
)  # fmt: skip


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade evaluate",
        "Run the whole pipeline on the test table: segmentation where there are masks, "
        "classification where there are classes, what the first stage costs the second, and "
        "with patient_id in the table whether comparing the lesions of a patient helps, and for a "
        "cascade with metadata fusion whether age, sex and site help.",
        example="python cascade_pipeline.py --segmenter models/segmenter/best.safetensors "
        "--classifier models/classifier/best.safetensors --save models/cascade.safetensors\n"
        "  python cascade_pipeline.py --path models/cascade.safetensors --data_path dataset",
    )
    add_model(parser, "a cascade, or folder of an exported one")
    parser.add_shared("segmenter", "classifier")
    parser.add_argument(
        "--save", type=str, default=None, help="write both stages into one cascade file"
    )
    parser.add_argument(
        "--predictions",
        type=str,
        default=None,
        help="score what cascade predict --engine ray has written instead of predicting again; "
        "--model is then only asked for the images that it was trained on, and for its diagnoses",
    )
    add_evaluation(parser, output="results/cascade")
    add_runtime(parser)
    parser.add_shared("cutoff", "operating_point", "coverage", "save_masks", "save_overlays")
    add_switch(
        parser,
        "--subgroups",
        "score by source, diagnosis, age, sex, site, kind of image and apparent skin tone, too",
    )
    add_switch(
        parser,
        "--corruptions",
        "score the images again with 12 corruptions at 3 strengths: blur, JPEG, noise, colour, "
        "brightness, hair, rulers, ink, dark corners, cuts and scale; 36 times as long",
    )
    parser.add_argument(
        "--explain",
        type=int,
        default=0,
        help="add so many heat maps to the page: the largest errors, and typical cases of each "
        "class",
    )
    return parser


def load_cascade(arguments: Any) -> Cascade:
    """The cascade from ``--model``, or from ``--segmenter`` and ``--classifier``.

    Raises:
        ConfigError: neither or both were given, or single stages for a runtime of exported ones.
    """
    parts = (arguments.segmenter, arguments.classifier)
    if (arguments.model is None) == (parts == (None, None)) or parts.count(None) == 1:
        raise ConfigError("give --model CASCADE, or both --segmenter FILE and --classifier FILE")
    if arguments.model is None and arguments.runtime not in ("auto", "torch"):
        raise ConfigError(f"--runtime {arguments.runtime} runs an exported cascade: --model FOLDER")
    from cascade.pipeline import Cascade

    use = {
        "cutoff": arguments.cutoff,
        "operating_point": arguments.operating_point,
        "coverage": arguments.coverage,
    }
    if arguments.model is not None:
        runtime = runtime_options(arguments)
        if arguments.save and arguments.runtime == "auto":
            runtime["runtime"] = "torch"  # nothing else can be saved
        return Cascade.load(arguments.model, **runtime, **use)
    from cascade.models.ensemble import load_classifier
    from cascade.models.segmenter import Segmenter

    return Cascade(
        Segmenter.load(arguments.segmenter, device=arguments.device),
        load_classifier(arguments.classifier, device=arguments.device),
        **use,
    )


def _identity(path: str | None) -> dict[str, str]:
    """What tells the weights of a cascade's file from others, if there is one."""
    from cascade.models.runtimes import model_identity

    return {} if path is None else {"model_sha256": model_identity(path)}


def _heat_maps(arguments: Any, cascade: Cascade, evaluation: Evaluation) -> list[ReportSection]:
    """The page's section with heat maps, if any were asked for."""
    if not arguments.explain:
        return []
    from cascade.evaluation.heat_maps import HeatImage, heat_section
    from cascade.explain import activation_maps, explain, overlay_heat

    with activation_maps(cascade.classifier) as maps:

        def draw(image: np.ndarray) -> HeatImage:
            prediction = cascade([image], tta=arguments.tta)[0]
            found = explain(cascade, image, prediction, tta=arguments.tta, maps=maps)
            return HeatImage(
                overlay_heat(image, found, prediction.mask),
                is_empty=found.is_empty,
                inside_fraction=found.inside_fraction,
                mean_ratio=found.mean_ratio,
                turn_agreement=found.turn_agreement,
                warnings=found.warnings,
            )

        folder = Path(arguments.output)
        return heat_section(folder, evaluation.cases, draw, count=arguments.explain)


def _evaluate(arguments: Any, cascade: Cascade, table: Table) -> Evaluation:
    """The evaluation with all that was asked for."""
    from cascade.evaluation.metadata import with_metadata
    from cascade.evaluation.patients import with_patients
    from cascade.evaluation.stages import evaluate_cascade

    evaluation = evaluate_cascade(cascade, table, **how_to_evaluate(arguments))
    evaluation = with_patients(evaluation, seed=arguments.seed)
    evaluation = with_metadata(evaluation, cascade.safeguards, seed=arguments.seed)
    if arguments.subgroups:
        from cascade.evaluation.subgroups import with_subgroups

        evaluation = with_subgroups(evaluation, seed=arguments.seed)
    if not arguments.corruptions:
        return evaluation
    from cascade.robustness import corrupted_scores

    scores = corrupted_scores(cascade, table, tta=arguments.tta, seed=arguments.seed)
    return replace(evaluation, metrics={**evaluation.metrics, "corruptions": scores})


def _more_sections(
    arguments: Any, cascade: Cascade, evaluation: Evaluation, table: Table
) -> list[ReportSection]:
    """The page's sections that were asked for."""
    sections = _heat_maps(arguments, cascade, evaluation)
    if scores := evaluation.metrics.get("corruptions"):
        from cascade.robustness.report import corruption_section

        folder, example = Path(arguments.output), next(iter(table))
        sections.append(corruption_section(folder, scores, example, seed=arguments.seed))
    return sections


def _evaluate_predictions(arguments: Any) -> int:
    """Score rows that were predicted before."""
    for name in _NEEDS_MODEL:
        if arguments[name]:
            raise ConfigError(f"--{name} needs a model to run; leave it or --predictions out")
    if arguments.model is None and not arguments.allow_seen:
        raise ConfigError(
            "give --model, so that images it was trained on are refused, or --allow_seen"
        )
    from cascade.cluster.plan import row_files
    from cascade.cluster.tables import about_rows, read_rows
    from cascade.evaluation.patients import with_patients
    from cascade.evaluation.stored import evaluate_rows
    from cascade.reliability import Diagnoses

    about = about_rows(row_files(arguments.predictions)[0])
    if about is None:
        raise DataError(f"{arguments.predictions}: was not written by cascade predict")
    table = load_table(arguments, labels=False)
    settings = about["settings"]
    diagnoses, seen = None, None
    if arguments.model is not None:
        from cascade.models.runtimes import model_document

        document = model_document(arguments.model)
        if document["tensors_sha256"] != settings["model_sha256"]:
            raise ConfigError(f"{arguments.model}: is not the model that predicted these rows")
        seen = check_unseen(arguments, document["provenance"], table, arguments.model)
        diagnoses = Diagnoses.from_description(document["stages"]["classifier"].get("diagnoses"))
    cutoff = about["cutoff"] if arguments.cutoff is None else arguments.cutoff
    rows = read_rows(arguments.predictions)
    evaluation = evaluate_rows(rows, table, cutoff=cutoff, diagnoses=diagnoses, seed=arguments.seed)
    evaluation = with_patients(evaluation, seed=arguments.seed)
    if arguments.subgroups:
        from cascade.evaluation.subgroups import with_subgroups

        evaluation = with_subgroups(evaluation, seed=arguments.seed)
    arguments.tta = settings["tta"]
    report(
        arguments,
        evaluation,
        title="The cascade, end to end",
        models=[arguments.model or arguments.predictions],
        table=table,
        seen=seen,
        about_model={"model_sha256": settings["model_sha256"]},
    )
    return OK


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    refuse_to_replace_evaluation(arguments)
    if arguments.predictions is not None:
        return _evaluate_predictions(arguments)
    if arguments.save:
        refuse_to_replace(arguments, arguments.save, flag="--save")
    cascade = load_cascade(arguments)
    check_size(
        arguments, {"segmenter": cascade.segmenter.size, "classifier": cascade.classifier.size}
    )
    table = first_rows(arguments, load_table(arguments, labels=False))
    models = [path for path in (arguments.model, arguments.segmenter, arguments.classifier) if path]
    seen = check_unseen(arguments, cascade.provenance, table, *models)

    if arguments.explain < 0:
        raise ConfigError(f"--explain {arguments.explain}: give 0 or more")
    if arguments.explain:  # what is missing for it is said before the long part
        from cascade.explain import activation_maps

        with activation_maps(cascade.classifier):
            pass

    evaluation = _evaluate(arguments, cascade, table)

    def sketch(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        prediction = cascade([image], tta=arguments.tta)[0]
        return prediction.mask, prediction.crop

    report(
        arguments,
        evaluation,
        title="The cascade, end to end",
        models=models,
        table=table,
        seen=seen,
        sketch=sketch,
        about_model=_identity(arguments.model),
        more=lambda: _more_sections(arguments, cascade, evaluation, table),
    )
    if arguments.save:
        cascade.save(arguments.save)
    return OK
