"""Predict files, folders, patterns and tables of images; one CSV row for each input."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from cascade.commands.arguments import OK, PARTIAL, CommandParser, default_folder, run
from cascade.commands.options import add_cutoff, add_device, add_switch
from cascade.commands.outputs import say
from cascade.errors import ConfigError, DataError, ImageError
from cascade.files import csv_line
from cascade.imaging import FoundFile, ImageLimits, expand_sources, safe_stem
from cascade.progress import progress

if TYPE_CHECKING:
    from cascade.pipeline import Cascade, Failure, Prediction

log = logging.getLogger(__name__)

COLUMNS = (
    "name", "path", "label", "probability_benign", "probability_malignant", "box_top", "box_left",
    "box_bottom", "box_right", "height", "width", "area_fraction", "warnings", "error", "mask",
    "overlay",
)  # fmt: skip


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade predict",
        "Mask, box and probability for each image. Broken inputs get a row with their error, and "
        "the exit code is then 3. Research software, not for diagnosis.",
        example="cascade predict photo.jpg folder/ 'more/*.png' table.csv "
        "--model models/cascade.safetensors --output predictions --save_overlays",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        type=str,
        help="image files, folders, patterns, or CSV tables with a column name or path",
    )
    parser.add_argument(
        "--model",
        type=str,
        default=str(default_folder("models") / "default.safetensors"),
        help="file of a cascade",
    )
    parser.add_argument(
        "--output", type=str, default="predictions", help="folder for predictions.csv and pictures"
    )
    add_device(parser)
    parser.add_argument(
        "--tta",
        type=Literal["none", "flips", "dihedral"],
        default="none",
        help="test-time augmentation: average 1, 4 or 8 views",
    )
    add_cutoff(parser)
    parser.add_argument("--batch_size", type=int, default=1, help="images at a time; 32 on CUDA")
    parser.add_argument(
        "--max_megapixels", type=float, default=50.0, help="larger images get an error row"
    )
    add_switch(parser, "--save_masks", "write masks/STEM.png, 0 and 255, original size")
    add_switch(parser, "--save_overlays", "write overlays/STEM.jpg with the outline")
    add_switch(parser, "--allow_truncated", "predict damaged JPEGs too, with a warning")
    add_switch(parser, "--not_recursive", "leave out folders within folders")
    add_switch(parser, "--resume", "keep the rows that predictions.csv has and go on")
    add_switch(parser, "--overwrite", "replace predictions.csv")
    return parser


def _main(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
    folder = Path(arguments.output)
    table = folder / "predictions.csv"
    finished = _finished(table, resume=arguments.resume, overwrite=arguments.overwrite)

    from cascade.pipeline import Cascade

    cascade = Cascade.load(
        arguments.model,
        device=arguments.device,
        cutoff=arguments.cutoff,
        limits=ImageLimits(
            max_pixels=int(arguments.max_megapixels * 1e6),
            allow_truncated=arguments.allow_truncated,
        ),
    )
    inputs = (
        found
        for found in find_inputs(arguments.inputs, recursive=not arguments.not_recursive)
        if str(found.path) not in finished
    )
    pictures = Pictures(folder, arguments.save_masks, arguments.save_overlays)
    done = failed = 0
    with _appending(table) as file:
        if not finished:
            file.write(csv_line(COLUMNS))
        rows = predict_rows(cascade, inputs, pictures, arguments)
        for row in progress(rows, description="predicting"):
            file.write(csv_line(row[column] for column in COLUMNS))
            file.flush()
            done += 1
            failed += bool(row["error"])
    say(f"written: {table}, {done} rows, {failed} failed" + _kept(finished))
    return PARTIAL if failed else OK


def _kept(finished: set[str]) -> str:
    return f", {len(finished)} kept from before" if finished else ""


def _finished(table: Path, *, resume: bool, overwrite: bool) -> set[str]:
    """Paths that have a row already."""
    if not table.exists() or overwrite:
        table.unlink(missing_ok=True)
        return set()
    if not resume:
        raise ConfigError(
            f"{table}: exists already; keep its rows and go on (--resume), replace it "
            "(--overwrite) or choose another folder (--output)"
        )
    from cascade.data.tables import read_csv

    columns, rows = read_csv(table)
    if tuple(columns) != COLUMNS:
        raise DataError(f"{table}: was not written by this version; its columns are {columns}")
    return {row["path"] for row in rows}


@contextlib.contextmanager
def _appending(table: Path) -> Iterator[TextIO]:
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        with table.open("a", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise DataError(f"{table}: cannot be written ({error.strerror or error})") from error


def find_inputs(inputs: Sequence[str], *, recursive: bool) -> Iterator[FoundFile]:
    """The images behind files, folders, patterns and tables, one at a time."""
    for item in inputs:
        if item.lower().endswith(".csv"):
            yield from _table_inputs(Path(item))
        else:
            yield from expand_sources([item], recursive=recursive)


def _table_inputs(path: Path) -> Iterator[FoundFile]:
    from cascade.data.tables import read_csv, read_table

    columns, rows = read_csv(path)
    if "path" in columns:
        for row in rows:
            yield from expand_sources([path.parent / row["path"]])
        return
    beside = path.parent / "images_all"
    table = read_table(
        path,
        images=beside if beside.is_dir() else path.parent,
        require_labels=False,
        check_files=False,
    )
    for record in table:
        yield from expand_sources([record.image_path])


@dataclass
class Pictures:
    """Masks and overlays on disk, under names that never collide.

    Attributes:
        folder: where ``masks/`` and ``overlays/`` go.
        masks: write masks.
        overlays: write overlays.
    """

    folder: Path
    masks: bool
    overlays: bool

    def write(self, path: Path, prediction: Prediction) -> dict[str, str]:
        """Write what was asked for; returns the files' paths relative to the folder."""
        from cascade.evaluation.overlays import overlay
        from cascade.imaging import read_image, write_image, write_mask

        written = {}
        if self.masks:
            target = self._free("masks", path, ".png")
            write_mask(target, prediction.mask)
            written["mask"] = str(target.relative_to(self.folder))
        if self.overlays:
            target = self._free("overlays", path, ".jpg")
            limits = ImageLimits(max_pixels=prediction.mask.size, allow_truncated=True)
            image = read_image(path, limits=limits).pixels
            write_image(target, overlay(image, predicted=prediction.mask))
            written["overlay"] = str(target.relative_to(self.folder))
        return written

    def _free(self, kind: str, path: Path, suffix: str) -> Path:
        """The first name that is not taken; images in two folders may share theirs."""
        stem = safe_stem(path.name)
        names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
        targets = (self.folder / kind / f"{name}{suffix}" for name in names)
        return next(target for target in targets if not target.exists())


def predict_rows(
    cascade: Cascade, inputs: Iterator[FoundFile], pictures: Pictures, arguments: Any
) -> Iterator[dict[str, Any]]:
    """One row for each input, in order, holding a batch of images at a time."""
    while chunk := list(itertools.islice(inputs, max(1, arguments.batch_size))):
        usable = [found.path for found in chunk if found.problem is None]
        results = cascade.predict_iter(usable, tta=arguments.tta, batch_size=len(usable))
        for found in chunk:
            if found.problem is not None:
                error = ImageError(f"{found.path.name}: {found.problem}")
                yield _row(found.path, error=str(error))
            else:
                yield _result_row(found.path, next(results), pictures)


def _result_row(path: Path, result: Prediction | Failure, pictures: Pictures) -> dict[str, Any]:
    from cascade.pipeline import Failure

    if isinstance(result, Failure):
        return _row(path, error=str(result.error))
    box = result.box or (None, None, None, None)
    corners = dict(zip(("box_top", "box_left", "box_bottom", "box_right"), box, strict=True))
    return _row(
        path,
        label=result.label,
        probability_benign=result.probabilities.get("benign"),
        probability_malignant=result.probabilities.get("malignant"),
        **corners,
        height=result.mask.shape[0],
        width=result.mask.shape[1],
        area_fraction=result.area_fraction,
        warnings="; ".join(result.warnings),
        **pictures.write(path, result),
    )


def _row(path: Path, **values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(COLUMNS), "name": path.name, "path": str(path), **values}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_main, argv)
