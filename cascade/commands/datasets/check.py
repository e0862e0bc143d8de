"""``cascade check``: look for what would spoil a training before it is started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.command_line.label_issues import with_label_issues
from cascade.command_line.options import add_model, add_output
from cascade.command_line.outputs import found_files, printable, refuse_to_replace, say
from cascade.command_line.parser import OK, PARTIAL, CommandParser, command
from cascade.errors import ConfigError

if TYPE_CHECKING:
    from cascade.data.check_report import CheckReport, Finding
    from cascade.evaluation.html import ReportSection
    from cascade.evaluation.label_issues import LabelIssue

_FILES = ("check.json", "check.html", "label_issues.csv", "label_issues.jpg")
_SHOWN = 5
_SHOWN_ON_PAGE = 50
_PAIRS_ON_PAGE = 200


def build_parser() -> CommandParser:
    """The flags of ``cascade check``."""
    from cascade.data.duplicates import LARGEST_THRESHOLD, THRESHOLD

    parser = CommandParser(
        "cascade check",
        "Check a data set: missing and damaged files, masks, copies of one image, groups on "
        "both sides of a split, and properties that give the class away. Ends with 3 if errors "
        "are found.",
        example="cascade check dataset --output check\n"
        "  cascade check dataset --label_issues models/cv/out_of_fold.csv --output check",
    )
    parser.add_argument(
        "dataset",
        type=str,
        help="folder with train_data.csv, test_data.csv, images_all and masks_all",
    )
    add_output(parser, "folder for check.json and check.html; by default none are written")
    parser.add_argument(
        "--label_issues",
        type=str,
        default=None,
        help="list the labels that these scores contradict: out_of_fold.csv of cascade cls-train "
        "--folds, or any table with name and probability_malignant",
    )
    add_model(parser, "what made the scores of --label_issues, if they are not out_of_fold.csv")
    parser.add_argument("--images", type=str, default=None, help="folder of images")
    parser.add_argument("--masks", type=str, default=None, help="folder of masks")
    parser.add_shared("splits")
    parser.add_argument(
        "--label_map",
        type=dict[str, str] | None,
        default=None,
        help='what other words in the class column mean, such as {"yes": "malignant"}',
    )
    parser.add_argument(
        "--skip_duplicates", action="store_true", help="do not look for copies of one image"
    )
    parser.add_argument(
        "--threshold",
        type=int,
        default=THRESHOLD,
        help=f"bits of 256 in which near-copies may differ, 0 to {LARGEST_THRESHOLD}",
    )
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    if arguments.output is not None:
        refuse_to_replace(arguments, *(Path(arguments.output) / name for name in _FILES))
    if arguments.model and not arguments.label_issues:
        raise ConfigError("--model belongs to --label_issues: it names what made the scores")

    from cascade.data.check import CheckOptions, check_dataset
    from cascade.evaluation.label_issues import read_scores

    options = CheckOptions(
        images=arguments.images,
        masks=arguments.masks,
        splits=arguments.splits,
        label_map=arguments.label_map,
        duplicates=not arguments.skip_duplicates,
        threshold=arguments.threshold,
    )
    scores = read_scores(arguments.label_issues) if arguments.label_issues else None
    if scores is not None and scores.out_of_fold and arguments.model:
        raise ConfigError(
            f"--model {arguments.model}: {scores.path} is of a cross-validation and needs none"
        )
    report = check_dataset(arguments.dataset, options)
    issues: list[LabelIssue] | None = None
    if scores is not None:
        report, issues = with_label_issues(report, options, scores, arguments.model)
    for line, wrong in summary_lines(report):
        say(line, wrong=wrong)
    if arguments.output is not None:
        names = write_check(report, arguments.output, issues)
        say(f"\nwritten: {', '.join(names)} in {arguments.output}")
    return OK if report.ok else PARTIAL


def summary_lines(report: CheckReport) -> Iterator[tuple[str, bool]]:
    """The report as lines of text, each with whether it tells an error or a warning."""
    from cascade.data.check_report import SEVERITIES

    for line in _counts(report):
        yield line, False
    for finding in report.findings:
        wrong = finding.severity != "note"
        yield "", False
        yield f"{finding.severity}: {printable(finding.message)} [{finding.code}]", wrong
        if finding.names:
            yield f"  {printable(_names(finding, _SHOWN))}", wrong
    yield "", False
    yield ", ".join(f"{kind}s: {len(report.of(kind))}" for kind in SEVERITIES), False


def _counts(report: CheckReport) -> Iterator[str]:
    yield f"{report.folder}: checked in {report.seconds:.1f} s"
    yield ""
    yield f"{'':20} {'images':>8} {'benign':>8} {'malignant':>10} {'groups':>8} {'masks':>8}"
    for item in report.tables:
        yield (
            f"{item.name:20} {item.images:8} {item.benign:8} {item.malignant:10} "
            f"{item.groups:8} {item.masks:8}"
        )
    if report.shortcuts:
        yield ""
        yield "predicting the class without the lesion (ROC AUC, 0.5 is chance):"
    for shortcut in report.shortcuts:
        auc = "none" if shortcut.auc is None else f"{shortcut.auc:.3f}"
        count = shortcut.benign + shortcut.malignant
        yield (
            f"  {shortcut.table:16} {shortcut.feature:20} {auc}  {shortcut.direction}  n = {count}"
        )


def write_check(
    report: CheckReport, folder: str, issues: Sequence[LabelIssue] | None = None
) -> list[str]:
    """Write ``check.json``, the self-contained ``check.html``, and the label issues, if any.

    Returns:
        The names of the files written.

    Raises:
        DataError: the folder cannot be written to.
    """
    from cascade.evaluation.html import ReportSection, ReportTable, write_report
    from cascade.files import write_json

    for path in found_files(folder, _FILES):  # the run now may write fewer of them
        path.unlink()
    write_json(Path(folder) / "check.json", report.to_dict())
    findings = ReportTable(
        ["Severity", "Finding", "Where", "Code"],
        [
            (item.severity, item.message, _names(item, _SHOWN_ON_PAGE), item.code)
            for item in report.findings
        ],
    )
    tables = ReportTable(
        ["Table", "Images", "Benign", "Malignant", "Groups", "Masks"],
        [
            (item.name, item.images, item.benign, item.malignant, item.groups, item.masks)
            for item in report.tables
        ],
    )
    shortcuts = ReportTable(
        ["Table", "Property", "ROC AUC", "Direction", "Benign", "Malignant"],
        [
            (item.table, item.feature, item.auc, item.direction, item.benign, item.malignant)
            for item in report.shortcuts
        ],
    )
    pairs = ReportTable(
        ["First", "Second", "Kind", "Differing bits of 256"],
        [
            (item.first, item.second, item.kind, item.distance)
            for item in report.duplicates[:_PAIRS_ON_PAGE]
        ],
        caption=f"{len(report.duplicates)} pairs; at most {_PAIRS_ON_PAGE} are shown",
    )
    write_report(
        Path(folder) / "check.html",
        title=f"Check of {Path(report.folder).name or report.folder}",
        summary={
            "Errors": len(report.of("error")),
            "Warnings": len(report.of("warning")),
            "Notes": len(report.of("note")),
            "Pairs of copies": len(report.duplicates),
        },
        sections=[
            ReportSection("Findings", tables=[findings]),
            ReportSection("Images and classes", tables=[tables]),
            ReportSection(
                "What gives the class away",
                "ROC AUC of one property of the file alone; 0.5 is chance.",
                tables=[shortcuts],
            ),
            ReportSection("Copies of one image", tables=[pairs]),
            *_label_issues(Path(folder), issues),
        ],
    )
    return [path.name for path in found_files(folder, _FILES)]


def _label_issues(folder: Path, issues: Sequence[LabelIssue] | None) -> list[ReportSection]:
    """Write the table and the contact sheet; the sheet as a section of the page."""
    if issues is None:
        return []
    from cascade.evaluation.html import ReportFigure, ReportSection
    from cascade.evaluation.label_issues import SHEET_FILE, write_label_issues

    write_label_issues(folder, issues)
    sheet = folder / SHEET_FILE
    if not sheet.is_file():
        return [ReportSection("Label issues", "The scores contradict no label.")]
    names = "Images whose label the scores contradict, lowest score first"
    text = (
        f"{names}; label_issues.csv lists all. A contradicted label may be right and the image "
        "hard: look at each before you change one."
    )
    figure = ReportFigure(sheet, names, "a contact sheet of these images")
    return [ReportSection("Label issues", text, figures=[figure])]


def _names(finding: Finding, limit: int) -> str:
    from cascade.data.spreadsheet import listed

    return listed(finding.names, limit=limit)
