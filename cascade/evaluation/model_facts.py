"""Model facts: one page to print for a reviewer, from the same files as the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from cascade.errors import ConfigError
from cascade.evaluation.card_parts import read_evaluation
from cascade.evaluation.html import DISCLAIMER
from cascade.evaluation.model_card import (
    HEADLINE_HEADERS,
    check_same_model,
    data_part,
    evaluation_titles,
    headline_rows,
    trainings_of,
)
from cascade.files import file_digest, write_text
from cascade.models.artifact import read_artifact, read_document
from cascade.version import __version__

MOST_EVALUATIONS = 3
"""More do not fit on the page."""

_WARNINGS = {
    "conformal": "which classes stay possible (prediction set)",
    "mask_quality_limits": "that the mask may be wrong",
    "gate": "that the mask may be wrong",
    "out_of_distribution": "that an image is unlike the training images",
    "familiarity": "that an image is unlike the training images",
}
"""What the parts of the safeguards tell a user, also by the names of earlier versions."""


def write_model_facts(
    output: Path,
    *,
    model: Path,
    evaluations: Sequence[Path] = (),
    segmenter_data: Sequence[str] = (),
    classifier_data: Sequence[str] = (),
) -> None:
    """Write the page as HTML that needs nothing else.

    Args:
        output: the file to write.
        model: the cascade's file; its tensors are verified.
        evaluations: folders that ``cascade evaluate`` wrote, at most three.
        segmenter_data: what the segmenter learnt from, as for the model card.
        classifier_data: what the classifier learnt from.

    Raises:
        ConfigError: a data set is not known, or there are too many evaluations for a page.
        DataError: an evaluation cannot be read, or is one of another model.
        ModelFileError: the model's file is missing, damaged, or lacks a stage.
    """
    import jinja2

    if len(evaluations) > MOST_EVALUATIONS:
        raise ConfigError(
            f"--evaluations: a page of model facts has room for {MOST_EVALUATIONS}, got "
            f"{len(evaluations)}; name fewer"
        )
    folders = [read_evaluation(Path(folder)) for folder in evaluations]
    document = read_document(model)
    read_artifact(model, needs=("segmenter", "classifier"))
    for folder in folders:
        check_same_model(folder, model, document["tensors_sha256"])
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("cascade.evaluation").joinpath("model_facts.html").read_text("utf-8")
    page = environment.from_string(source).render(
        name=model.name,
        document=document,
        disclaimer=DISCLAIMER,
        version=__version__,
        digest=file_digest(model),
        stages=[_stage(name, document) for name in ("segmenter", "classifier")],
        points=document["stages"]["classifier"].get("operating_points") or {},
        cutoff=document["stages"]["classifier"].get("cutoff", 0.5),
        warnings=_warnings(document["stages"].get("safeguards") or {}),
        data=data_part(segmenter_data, classifier_data),
        headers=HEADLINE_HEADERS,
        rows=headline_rows(folders, evaluation_titles(folders)),
    )
    write_text(output, page)


def _stage(name: str, document: Mapping[str, Any]) -> dict[str, Any]:
    config = document["stages"][name].get("config") or {}
    trainings = trainings_of(document["provenance"].get(name, {}))
    last = trainings[-1] if trainings else {}
    return {
        "name": name,
        "network": config.get("encoder") or config.get("architecture") or "ensemble",
        "size": config.get("size"),
        "images": (last.get("table") or {}).get("images"),
        "date": str(last.get("date", ""))[:10],
    }


def _warnings(safeguards: Mapping[str, Any]) -> list[str]:
    given = [words for name, words in _WARNINGS.items() if safeguards.get(name)]
    return list(dict.fromkeys(given))
