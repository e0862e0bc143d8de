"""A model card (Mitchell et al. 2019, "Model cards for model reporting") written from files.

Every number comes from the model's file or from an evaluation's; the prose is in the template
``model_card.md``. The same files give the same card, byte for byte. The card is
short; its long tables are in a second file beside it, of the template ``model_card_details.md``.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cascade.errors import DataError
from cascade.evaluation.card_parts import (
    PLOTS,
    EvaluationFolder,
    evaluation_part,
    fact_table,
    flat_facts,
    read_evaluation,
)
from cascade.evaluation.safeguard_report import SAFEGUARD_NOTE, SAFEGUARD_TITLE
from cascade.evaluation.score_table import (
    STAGE_TITLE,
    headlines,
    limits_text,
    markdown_table,
    markdown_text,
)
from cascade.evaluation.subgroups import SUBGROUP_NOTE
from cascade.files import atomic_path, file_digest, write_text
from cascade.models.artifact import read_artifact, read_document

DATA_SETS: dict[str, tuple[str, str, bool]] = {
    "isic_task1": ("ISIC 2016, 2017 and 2018, task 1 (lesion boundaries)", "CC-0", True),
    "ham10000": ("HAM10000 and ISIC 2018 task 3 (diagnoses)", "CC BY-NC 4.0", False),
    "synthetic": ("drawn lesions of cascade prepare", "none needed", True),
}
"""Title, licence, and whether commercial use is allowed."""

NOT_GIVEN = "not given"
"""Stands for images that nobody named, and for the licence of those that are not known here."""


def write_model_card(
    output: Path,
    *,
    model: Path,
    evaluations: Sequence[Path] = (),
    images: Path | None = None,
    segmenter_data: Sequence[str] = (),
    classifier_data: Sequence[str] = (),
    commands: Sequence[str] = (),
) -> None:
    """Write a model card as Markdown, and its details to the file of :func:`details_path`.

    Args:
        output: the file of the card.
        model: the cascade's file; its tensors are verified.
        evaluations: folders that ``cascade evaluate`` wrote.
        images: folder for copies of the evaluations' plots; without one the card has no figures.
        segmenter_data: what the segmenter learnt from, keys of :data:`DATA_SETS` or other words.
        classifier_data: what the classifier learnt from.
        commands: command lines that made the model.

    Raises:
        DataError: an evaluation cannot be read, or is one of another model.
        ModelFileError: the model's file is missing, damaged, or lacks a stage.
    """
    import jinja2

    folders = [read_evaluation(Path(folder)) for folder in evaluations]
    titles = evaluation_titles(folders)
    model_part = _model(model)
    for folder in folders:
        check_same_model(folder, model, model_part["tensors_digest"])
    parts = [
        evaluation_part(
            folder,
            title,
            model_part["points"],
            _copy_plots(folder, f"{number}-{_slug(title)}", images, output),
        )
        for number, (folder, title) in enumerate(zip(folders, titles, strict=True), start=1)
    ]
    environment = jinja2.Environment(
        autoescape=False, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    texts = {
        "card": quote(output.name),
        "details": quote(details_path(output).name),
        "model": model_part,
        "data": data_part(segmenter_data, classifier_data),
        "evaluations": parts,
        "headlines": _headlines(folders, titles),
        "commands": list(commands),
        "stage_title": STAGE_TITLE,
        "safeguard_title": SAFEGUARD_TITLE,
        "safeguard_note": SAFEGUARD_NOTE,
        "subgroup_note": SUBGROUP_NOTE,
    }
    for name, path in (("model_card_details", details_path(output)), ("model_card", output)):
        source = resources.files("cascade.evaluation").joinpath(f"{name}.md").read_text("utf-8")
        page = environment.from_string(source).render(texts)
        write_text(path, _one_blank_line(page))


def details_path(card: Path) -> Path:
    """Where the long tables of a card are written: ``card_details.md`` beside ``card.md``."""
    return card.with_name(f"{card.stem}_details{card.suffix}")


def check_same_model(folder: EvaluationFolder, model: Path, digest: str) -> None:
    """Refuse numbers that were measured with other weights, where the evaluation names them."""
    evaluated = (folder.metrics.get("about") or {}).get("model_sha256")
    if evaluated not in (None, digest):
        raise DataError(
            f"{folder.path}: was evaluated with tensors of SHA-256 {evaluated}, but {model} holds "
            f"{digest}; give the model of that evaluation, or evaluate this one again"
        )


def trainings_of(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The trainings that made a stage, the first one first (see ``--initial_model``).

    Of an averaged stage, those of the first member that is no average.
    """
    chain: list[Mapping[str, Any]] = []
    made: Any = provenance
    while isinstance(made, Mapping):
        if "settings" not in made and made.get("averaged_with"):  # an average of averages
            made = made["averaged_with"][0]
        else:
            chain.append(made)
            made = made.get("initial_model")
    return [training for training in reversed(chain) if training]


def _without_scores(part: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the number of calibration scores, as each of them says nothing to a reader."""
    counted = dict(part)
    if counted.get("conformal"):
        counted["conformal"] = {f"{k} images": len(v) for k, v in counted["conformal"].items()}
    if counted.get("metadata"):
        counted["metadata"] = _without_scores(counted["metadata"])
    return counted


def _model(path: Path) -> dict[str, Any]:
    document = read_document(path)
    artifact = read_artifact(path, needs=("segmenter", "classifier"))
    stages = []
    for name, description in document["stages"].items():
        trainings = trainings_of(document["provenance"].get(name, {}))
        config = description.get("config") or {}
        kept = {k: v for k, v in description.items() if k not in ("config", "operating_points")}
        others = _without_scores(kept)
        stages.append(
            {
                "name": name,
                "size": config.get("size"),
                "stored": sum(tensor.size for tensor in artifact.stage_tensors(name).values()),
                "table": fact_table({**config, **others}),
                "recipe": _recipe(trainings),
                "chosen": fact_table(document["metrics"].get(name) or {}),
            }
        )
    return {
        "file": markdown_text(path.name),
        "argument": shlex.quote(path.name),
        "megabytes": f"{path.stat().st_size / 1e6:.1f}",
        "digest": file_digest(path),
        "tensors_digest": document["tensors_sha256"],
        "version": document.get("version", ""),
        "intended_use": document.get("intended_use", ""),
        "points": document["stages"]["classifier"].get("operating_points") or {},
        "stages": stages,
        "pretrained": _pretrained(document["provenance"]),
        "whole_image_share": _whole_image_share(document["provenance"]),
    }


def _recipe(trainings: Sequence[Mapping[str, Any]]) -> str:
    """One column a training, one row a setting."""
    columns = [flat_facts(_recorded(training)) for training in trainings]
    names = list(dict.fromkeys(name for column in columns for name in column))
    if not names:
        return ""
    numbered = [f"training {number}" for number in range(1, len(columns) + 1)]
    rows = [[name, *(column.get(name, "–") for column in columns)] for name in names]
    return markdown_table(["", *(numbered if len(columns) > 1 else ["value"])], rows)


def _recorded(training: Mapping[str, Any]) -> dict[str, Any]:
    """What a training recorded, without what stands elsewhere in the card."""
    left_out = {"trained_on", "validated_on", "initial_model", "settings"}
    settings = dict(training.get("settings") or {})
    settings.pop("mask_policy", None)
    if "encoder_weights" in settings:
        left_out |= {"weights", "encoder_weights"}
    return {**{k: v for k, v in training.items() if k not in left_out}, **settings}


def _pretrained(provenance: Mapping[str, Any]) -> bool:
    """Whether a stage began with weights from elsewhere."""
    settings = [
        training.get("settings", {}) for part in provenance.values() for training in
        trainings_of(part)
    ]  # fmt: skip
    return any(values.get("encoder_weights", "none") != "none" for values in settings)


def _whole_image_share(provenance: Mapping[str, Any]) -> float:
    """The share of training images that the classifier last saw whole instead of cropped."""
    trainings = trainings_of(provenance.get("classifier", {}))
    last = trainings[-1] if trainings else {}
    return float(last.get("settings", {}).get("whole_image_share", 0))


def data_part(segmenter: Sequence[str], classifier: Sequence[str]) -> dict[str, Any]:
    """What both stages learnt from, for a template: keys of :data:`DATA_SETS`, or own words.

    ``segmenter_commercial`` and ``classifier_commercial`` are ``None`` where a licence is not
    known.
    """
    stages = {"segmenter": segmenter or (NOT_GIVEN,), "classifier": classifier or (NOT_GIVEN,)}
    rows = [
        (stage, *DATA_SETS.get(name, (name, NOT_GIVEN, None))[:2])
        for stage, names in stages.items()
        for name in names
    ]
    return {
        "rows": rows,
        "table": markdown_table(("stage", "images", "licence"), rows),
        "names": [name for name in DATA_SETS if name in (*segmenter, *classifier)],
        **{f"{stage}_commercial": _commercial(names) for stage, names in stages.items()},
    }


def _commercial(names: Sequence[str]) -> bool | None:
    allowed = [DATA_SETS[name][2] if name in DATA_SETS else None for name in names]
    return False if False in allowed else None if None in allowed else True


HEADLINE_HEADERS = ("test images", "metric", "n", "value", "95 % interval")


def headline_rows(
    folders: Sequence[EvaluationFolder], titles: Sequence[str]
) -> list[tuple[str, str, str, str, str]]:
    """The numbers that a reader wants first, under :data:`HEADLINE_HEADERS`."""
    return [
        (title, line.title, str(line.n), f"{line.value:.4f}", limits_text(line.interval))
        for folder, title in zip(folders, titles, strict=True)
        for line in headlines(folder.metrics)
    ]


def _headlines(folders: Sequence[EvaluationFolder], titles: Sequence[str]) -> str:
    rows = headline_rows(folders, titles)
    return markdown_table(HEADLINE_HEADERS, rows) if rows else ""


def evaluation_titles(folders: Sequence[EvaluationFolder]) -> list[str]:
    """A heading for each evaluation; those on the same data get their folder's name, too."""
    counts = Counter(folder.title for folder in folders)
    return [
        folder.title
        if counts[folder.title] == 1
        else f"{folder.title} ({folder.path.resolve().name})"
        for folder in folders
    ]


def _copy_plots(
    folder: EvaluationFolder, prefix: str, images: Path | None, output: Path
) -> dict[str, str]:
    """Copy the plots that exist; name to address relative to the card."""
    if images is None:
        return {}
    addresses = {}
    for name in PLOTS:
        source = folder.path / f"{name}.png"
        if source.is_file():
            target = images / f"{prefix}-{name.replace('_', '-')}.png"
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)
            addresses[name] = quote(Path(os.path.relpath(target, output.parent)).as_posix())
    return addresses


def _slug(title: str) -> str:
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in title.lower())
    return "-".join(word for word in kept.split("-") if word) or "evaluation"


def _one_blank_line(text: str) -> str:
    """At most one blank line in a row, which a template's conditions cannot promise."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.strip() or (lines and lines[-1]):
            lines.append(line.rstrip())
    return "\n".join(lines).strip() + "\n"
