"""Findings of a check about labels that scores contradict."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cascade.data.check import CheckOptions
    from cascade.data.check_report import CheckReport, Finding
    from cascade.evaluation.label_issues import LabelIssue, Scores


def with_label_issues(
    report: CheckReport, options: CheckOptions, scores: Scores, model: str | None
) -> tuple[CheckReport, list[LabelIssue]]:
    """Join what the scores say about the labels to the findings.

    Raises:
        DataError: the scores are not of this data set.
        ModelFileError: the model cannot be read.
    """
    from cascade.data.check import read_records
    from cascade.data.check_report import SEVERITIES, Finding
    from cascade.evaluation.label_issues import find_label_issues

    records = read_records(report.folder, options)
    issues, scored = find_label_issues(records, scores)
    found = _about_scores(scores, [record.name for record in records], model)
    text = f"labels that the scores contradict, of {scored} scored: {len(issues)}"
    names = tuple(issue.record.name for issue in issues)
    found.append(Finding("warning" if issues else "note", "label_issues", text, names))
    if scored < len(records):
        text = f"labels without a score: {len(records) - scored} of {len(records)}"
        found.append(Finding("note", "label_unscored", text))
    findings = sorted((*report.findings, *found), key=lambda item: SEVERITIES.index(item.severity))
    return dataclasses.replace(report, findings=tuple(findings)), issues


def _about_scores(scores: Scores, names: list[str], model: str | None) -> list[Finding]:
    """A warning, unless the scores are out of fold."""
    from cascade.data.check_report import Finding
    from cascade.models.runtimes import model_document
    from cascade.training.images_seen import seen_images

    if scores.out_of_fold:
        return []
    advice = "a network repeats the labels that it was trained on; see cascade cls-train --folds"
    if model is None:
        text = (
            f"{scores.path} does not say whether its scores are out of fold; name the model that "
            f"made them (--model): {advice}"
        )
        return [Finding("warning", "scores_unknown", text)]
    seen = {
        name
        for stage in model_document(model)["provenance"].values()
        for name in seen_images(stage, names)
    }
    if not seen:
        return []
    text = f"scores are not out of fold for {len(seen)} of {len(names)} images: {advice}"
    return [Finding("warning", "scores_seen", text, tuple(sorted(seen)))]
