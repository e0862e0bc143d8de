"""One or several results as one HTML file that contains all images.

There is no PDF: a browser prints the file to one, with text that can be searched and read aloud.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cascade.evaluation.html import DISCLAIMER
from cascade.serving.page.findings import Finding, Problem, Settings
from cascade.serving.page.html import environment, overview, read_template
from cascade.serving.page.images import ShownImage
from cascade.serving.page.patients import Comparison
from cascade.serving.page.words import CAUTION, OperatingPoint, percent, verdict, whole_percent
from cascade.version import __version__

VIEWS = {"none": "1", "flips": "4, their mean", "dihedral": "8, their mean"}


@dataclass(frozen=True)
class Circumstances:
    """The model and the settings that gave the results.

    Attributes:
        model: its name, and the first digits of its digest.
        point: where malignant begins.
        settings: test-time augmentation and scale.
    """

    model: str
    point: OperatingPoint
    settings: Settings

    def facts(self, moment: datetime) -> dict[str, str]:
        """Name to value of what stands at the head of a report."""
        scale, reached = self.settings.pixels_per_millimetre, self.point.sensitivity
        told = self.settings.metadata
        known = "not stored" if reached is None else whole_percent(reached)
        return {
            "Date": f"{moment:%Y-%m-%d %H:%M} UTC",
            "Model": self.model,
            "Cutoff": percent(self.point.cutoff),
            "Sensitivity on validation": known,
            "Views of each image": VIEWS[self.settings.tta],
            "Scale": "not given" if scale is None else f"{scale:g} pixels per millimetre",
            "Known beside the images": ", ".join(told.words(told.known())) or "nothing",
            "Software": f"cascade {__version__}",
        }


def report_html(
    results: Sequence[Finding | Problem],
    circumstances: Circumstances,
    *,
    moment: datetime,
    comparison: Comparison | None = None,
) -> str:
    """The report as one HTML document without scripts, links or files beside it.

    Args:
        results: at least one.
        circumstances: model and settings that gave them.
        moment: when, in UTC.
        comparison: of the lesions, where all images are of one patient.
    """
    import markupsafe

    page = environment().get_template("report.html")
    point = circumstances.point
    return str(
        page.render(
            title="Report on one image"
            if len(results) == 1
            else f"Report on {len(results)} images",
            disclaimer=DISCLAIMER,
            caution=CAUTION,
            facts=circumstances.facts(moment),
            items=[_item(result, point) for result in results],
            lines=overview(results, point),
            comparison=comparison,
            point=point,
            style=markupsafe.Markup(read_template("parts.css")),  # our own file
            version=__version__,
        )
    )


def _item(result: Finding | Problem, point: OperatingPoint) -> dict[str, Any]:
    if isinstance(result, Problem):
        return {"name": result.name, "message": result.message}
    return {
        "name": result.name,
        "finding": result,
        "words": verdict(result.answer, point),
        "addresses": [_address(image) for image in result.images],
    }


def _address(image: ShownImage) -> str:
    """The image as a ``data:`` address."""
    return f"data:{image.mime_type};base64,{base64.b64encode(image.data).decode('ascii')}"
