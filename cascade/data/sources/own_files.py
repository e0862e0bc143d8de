"""Images and masks of data that follow no published layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cascade.data.sources.source_files import MASK_FOLDERS, Layout, same_file
from cascade.errors import DataError

IMAGE_FOLDERS = {"images", "image", "imgs", "img", "jpeg", "jpg", "png"}
"""Folders that only say that they hold images."""


class OwnFiles:
    """Images with the masks that belong to them."""

    def __init__(self, layout: Layout) -> None:
        """Sort the files.

        Raises:
            DataError: there is no image.
        """
        self.root = layout.root
        self.images = layout.all_images()
        if not self.images:
            raise DataError(
                f"{layout.root}: holds no images; "
                + (layout.packed() or "name the folder that they are in")
            )
        self._masks: dict[str, list[Path]] = {}
        for stem, path in layout.all_masks():
            self._masks.setdefault(stem.casefold(), []).append(path)
        self._count = Counter(path.stem.casefold() for path in self.images)

    def parts(self, path: Path) -> tuple[str, ...]:
        """The folders above a file, from the root, without those that only say images or masks."""
        folders = path.relative_to(self.root).parts[:-1]
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

    def mask(self, image: Path) -> Path | None:
        """The mask of an image: of the same name, in the same folders if the name repeats.

        Raises:
            DataError: several different files fit.
        """
        candidates = self._masks.get(image.stem.casefold(), [])
        near = [path for path in candidates if self.parts(path) == self.parts(image)]
        if not near and self._count[image.stem.casefold()] == 1:
            near = candidates
        return same_file(near)
