"""Images and masks of data that follow no published layout."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from cascade.data.locate import IMAGE_SUFFIXES
from cascade.data.sources.annotations import DrawnMask, read_annotations
from cascade.data.sources.source_files import MASK_FOLDERS, Layout, same_file
from cascade.data.spreadsheet import listed
from cascade.errors import DataError
from cascade.files import file_digest

IMAGE_FOLDERS = {"images", "image", "imgs", "img", "jpeg", "jpg", "png"}
"""Folders that only say that they hold images."""


class OwnFiles:
    """Images with the masks that belong to them."""

    def __init__(self, layout: Layout, masks: str | None = None) -> None:
        """Sort the files.

        Args:
            layout: the input.
            masks: a folder in which all images are masks, or a file of annotations.

        Raises:
            DataError: there is no image, or the masks cannot be read.
        """
        self.root = layout.root
        self.images = layout.all_images()
        found = layout.all_masks()
        named = own_path(layout.root, masks, flag="masks") if masks else None
        self._mask_root = named if named and named.is_dir() else self.root
        if named and named.is_dir():
            other = Layout(named)
            found = [*other.all_masks(), *((file.stem, file) for file in other.all_images())]
            if named.resolve() != self.root.resolve():
                inside = named.resolve()
                self.images = [p for p in self.images if not p.resolve().is_relative_to(inside)]
        if not self.images:
            raise DataError(
                f"{layout.root}: holds no images; "
                + (layout.packed() or "name the folder that they are in")
            )
        self.mask_files = tuple(found)
        self._masks: dict[str, list[Path]] = {}
        for stem, path in found:
            self._masks.setdefault(stem.casefold(), []).append(path)
        self._count = Counter(path.stem.casefold() for path in self.images)
        self._by_name: dict[str, list[Path]] = {}
        for path in self.images:
            for name in (path.name.casefold(), path.stem.casefold()):
                self._by_name.setdefault(name, []).append(path)
        annotations = named if named and not named.is_dir() else None
        self.not_found: list[str] = []
        self.others = [path for path in layout.tables() if path != annotations]
        self._drawn = self._annotated(annotations) if annotations else {}

    def _annotated(self, path: Path) -> dict[Path, DrawnMask]:
        """The masks of a file of annotations by image; other entries go to ``not_found``."""
        drawn: dict[Path, DrawnMask] = {}
        for name, mask in read_annotations(path).items():
            last = re.split(r"[/\\]", name)[-1]
            uploaded = re.sub(r"^[0-9a-f]{8}-", "", last)  # as Label Studio names a file again
            image = self.image(name, where=mask.where) or self.image(uploaded, where=mask.where)
            if image is None:
                self.not_found.append(name)
            elif drawn.setdefault(image, mask) is not mask:
                raise DataError(f"{path}: {drawn[image].where} and {mask.where} are of one image")
        return drawn

    def parts(self, path: Path) -> tuple[str, ...]:
        """The folders above a file, without those that only say that they hold images or masks.

        They count from the root, or from the folder of masks that the user named.
        """
        bases = [base for base in (self._mask_root, self.root) if path.is_relative_to(base)]
        base = max(bases, key=lambda base: len(base.parts), default=path.parent)
        folders = path.relative_to(base).parts[:-1]
        plain = IMAGE_FOLDERS | MASK_FOLDERS
        return tuple(name for name in folders if name.lower() not in plain)

    def names(self, images: Sequence[Path]) -> dict[Path, str]:
        """A name for each image, without suffix: its own, or with its folders where that repeats.

        Raises:
            DataError: names are the same even so.
        """
        names = {path: path.stem for path in images}
        if len({name.casefold() for name in names.values()}) < len(names):
            names = {path: "_".join((*self.parts(path), path.stem)) for path in images}
        first: dict[str, Path] = {}
        for path, name in names.items():
            other = first.setdefault(name.casefold(), path)
            if other != path:
                raise DataError(f"{other} and {path} would both be called {name}; rename one")
        return names

    def fitting(self, name: str) -> list[Path]:
        """The images that a name in a table may mean, the same file once.

        Suffix, upper and lower case and folders may be left out or differ, as far as one image
        fits better than all others. No path is followed: only images that are there are compared.
        """
        *folders, last = re.split(r"[/\\]", name.strip().casefold())
        bare = PurePosixPath(last).stem if last.endswith(IMAGE_SUFFIXES) else last
        found = self._by_name.get(last) or self._by_name.get(bare) or []
        for count in range(len(folders), 0, -1):
            near = [path for path in found if self._above(path, count) == folders[-count:]]
            if near:
                found = near
                break
        exact = re.split(r"[/\\]", name.strip())[-1]
        same = [path for path in found if exact in (path.name, path.stem)]
        return list(dict.fromkeys(same or found))

    def _above(self, path: Path, count: int) -> list[str]:
        """The names of the folders right above a file."""
        return [part.casefold() for part in path.relative_to(self.root).parts[:-1][-count:]]

    def image(self, name: str, *, where: str) -> Path | None:
        """The image of a name in a table, see :meth:`fitting`; ``None`` if there is none.

        Raises:
            DataError: several different images fit; they are named.
        """
        found = self.fitting(name)
        if len({file_digest(path) for path in found} if len(found) > 1 else found) > 1:
            names = " or ".join(str(path.relative_to(self.root)) for path in found[:4])
            raise DataError(f"{where}: {name!r} could be {names}; write more of it in the table")
        return found[0] if found else None

    def mask(self, image: Path) -> Path | DrawnMask | None:
        """The mask of an image: that of the annotations, or a file of the same name.

        If the name repeats, the folders have to be the same too.

        Raises:
            DataError: several different files fit.
        """
        candidates = self._masks.get(image.stem.casefold(), [])
        near = [path for path in candidates if self.parts(path) == self.parts(image)]
        if not near and self._count[image.stem.casefold()] == 1:
            near = candidates
        drawn = self._drawn.get(image)
        if drawn and near:
            raise DataError(f"{drawn.where}: has a mask, and {near[0]} is another; remove one")
        if drawn:
            return drawn
        return same_file(near)


def own_path(root: Path, name: str, *, flag: str) -> Path:
    """What a flag names: from here, or from the folder of the input.

    Raises:
        DataError: there is neither.
    """
    for path in (Path(name), root / name):
        if path.exists():
            return path
    raise DataError(f"--{flag} {name}: is neither there nor in {root}")


def left_out_warnings(files: OwnFiles) -> tuple[str, ...]:
    """Name what looks as if it belonged to the data and is not used."""
    documents = [path for path in files.others if path.suffix.lower() == ".json"]
    found = (
        ("annotated images that are not there", files.not_found),
        ("JSON files that are not read, name one that holds masks with --masks", documents),
    )
    return tuple(
        f"{what} ({len(names)}): "
        + listed(name.relative_to(files.root) if isinstance(name, Path) else name for name in names)
        for what, names in found
        if names
    )
