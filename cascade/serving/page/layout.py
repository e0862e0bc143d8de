"""The page: what is where, and what a click does. Words, images and results come from elsewhere.

No text of a user or of a file goes through Streamlit's Markdown, which would load images from
anywhere; it goes through the escaped templates of :mod:`cascade.serving.page.html`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from cascade.errors import CascadeError
from cascade.imaging import safe_stem
from cascade.imaging.formats import FORMATS
from cascade.pipeline.augmented_views import TestTimeAugmentation
from cascade.reliability import Metadata
from cascade.reliability.metadata import OLDEST, SEXES, SITES, UNKNOWN
from cascade.serving.page import html as web_html
from cascade.serving.page import memory as web_memory
from cascade.serving.page.examples import EXAMPLES, example_file
from cascade.serving.page.findings import Finding, Problem, Settings, plain_message
from cascade.serving.page.models import LoadedModel, load_model
from cascade.serving.page.patients import compare
from cascade.serving.page.report import Circumstances, report_html
from cascade.serving.page.settings import PageSettings, current_settings
from cascade.serving.page.words import OperatingPoint, percent, verdict, whole_percent

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

LEAD = (
    "The first network, the segmenter, finds the lesion in an image; the second, the classifier, "
    "estimates the probability that it is malignant."
)
VIEWS: dict[str, TestTimeAugmentation] = {
    "1 view": "none",
    "4 views": "flips",
    "8 views": "dihedral",
}


@dataclass(frozen=True)
class Source:
    """An image to examine: its name, from the user, and the bytes of the file."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Chosen:
    """The choices in the sidebar, and whether all images are of one patient."""

    model: LoadedModel
    point: OperatingPoint
    settings: Settings
    one_patient: bool = False

    @property
    def circumstances(self) -> Circumstances:
        """The same for a report."""
        return Circumstances(self.model.title, self.point, self.settings)


def show_page() -> None:
    """Draw the whole page."""
    import streamlit as st

    settings = current_settings()
    web_memory.forget_when_closed()
    st.set_page_config("Skin lesion analysis – cascade", page_icon=_icon(), layout="wide")
    st.html(f"<style>{web_html.read_template('parts.css')}</style>")
    st.title("Skin lesion analysis", anchor=False)
    st.html(web_html.part("lead", LEAD))
    st.html(web_html.disclaimer())
    chosen = _choose(settings)
    st.header("Images", anchor=False)
    sources = _sources(settings)
    if chosen is None or not sources:
        return
    if len(sources) > 1:
        chosen = replace(chosen, one_patient=_ask_for_one_patient())
    st.header("Results", anchor=False)
    _show_results(chosen, sources)


@functools.cache
def _icon() -> Image.Image:
    """A drawn lesion with its contour, for the browser's tab."""
    icon = np.zeros((64, 64, 4), np.uint8)
    cv2.circle(icon, (32, 32), 31, (236, 190, 165, 255), cv2.FILLED)
    cv2.ellipse(icon, (32, 32), (19, 15), 25, 0, 360, (96, 52, 32, 255), cv2.FILLED)
    cv2.ellipse(icon, (32, 32), (22, 18), 25, 0, 360, (0, 140, 200, 255), 4, cv2.LINE_AA)
    return Image.fromarray(icon)


def _choose(settings: PageSettings) -> Chosen | None:
    """The sidebar; ``None`` where the chosen model cannot be used."""
    import streamlit as st

    with st.sidebar:
        st.html(web_html.part("sidebar_title", "Settings"))
        names = list(settings.choices)
        name = st.selectbox("Model", names) if len(names) > 1 else names[0]
        try:
            with st.spinner("Loading the model"):
                model = load_model(settings, name)
        except CascadeError as error:
            st.html(web_html.part("model_problem", plain_message(error)))
            return None
        point = st.selectbox(
            "Operating point",
            model.points,
            format_func=_point_words,
            key=f"point-{model.identity}",
            help="The label is malignant from the cutoff on. A higher sensitivity misses fewer "
            "malignant lesions and raises more false alarms.",
        )
        views = st.radio(
            "Views of each image",
            list(VIEWS),
            horizontal=True,
            help="Test-time augmentation: the mean prediction for mirrored (4) or mirrored and "
            "turned (8) copies of the image. More views take longer.",
        )
        scale = st.number_input(
            "Scale in pixels per millimetre",
            min_value=0.01,
            value=None,
            format="%g",
            placeholder="not known",
            help="Read it off a ruler in the image, or ask the maker of the dermatoscope. It must "
            "hold for all images at their original size. Lengths are then in millimetres.",
        )
        known = _ask_metadata() if model.cascade.safeguards.metadata else UNKNOWN
        st.html(web_html.part("about", model))
    return Chosen(model, point, Settings(VIEWS[views], scale, known))


def _ask_metadata() -> Metadata:
    """What the user knows beside the images, for a model that can use it."""
    import streamlit as st

    age = st.number_input(
        "Age in years",
        min_value=0.0,
        max_value=OLDEST,
        value=None,
        step=1.0,
        format="%g",
        placeholder="not known",
        help="Age, sex and site are optional and hold for all images. What is known moves the "
        "probability; the result also says what the image alone gives.",
    )
    sex = st.selectbox("Sex", SEXES, index=None, placeholder="not known")
    site = st.selectbox("Site of the lesion", SITES, index=None, placeholder="not known")
    return Metadata(age, sex, site)


def _point_words(point: OperatingPoint) -> str:
    if point.sensitivity is None:
        return f"Stored cutoff, {percent(point.cutoff)}"
    return f"Sensitivity {whole_percent(point.sensitivity)}, cutoff {percent(point.cutoff)}"


def _sources(settings: PageSettings) -> list[Source]:
    """What was uploaded, or the example that was chosen."""
    import streamlit as st

    generation = st.session_state.setdefault("generation", 0)
    uploads = st.file_uploader(
        f"Upload images with one lesion each: {FORMATS}",
        accept_multiple_files=True,
        key=f"uploads-{generation}",
        max_upload_size=settings.max_upload_mb,
    )
    if uploads:
        st.session_state.example = None
        st.button("Remove all images", on_click=web_memory.forget, args=(uploads,))
        if len(uploads) > settings.max_images:
            st.html(web_html.part("too_many", len(uploads), settings.max_images))
        kept = uploads[: settings.max_images]
        return [Source(upload.name, upload.getvalue()) for upload in kept]
    if name := st.session_state.get("example"):
        st.button("Remove all images", on_click=web_memory.forget, args=((),))
        return [Source(name, example_file(name))]
    _show_examples()
    return []


def _ask_for_one_patient() -> bool:
    import streamlit as st

    return st.checkbox(
        "All images are of one patient: compare the lesions",
        key="one_patient",
        help="Marks the lesion that looks least like the others, from four lesions on. Take all "
        "images with the same camera and light.",
    )


def _show_examples() -> None:
    import streamlit as st

    st.markdown("No image at hand? Try one of these drawings:")
    for column, example in zip(st.columns(len(EXAMPLES)), EXAMPLES, strict=True):
        column.image(example_file(example.name), width="stretch", alt=example.alternative_text)
        column.button(example.title, width="stretch", on_click=_take_example, args=(example.name,))


def _take_example(name: str) -> None:
    import streamlit as st

    st.session_state.example = name


def _show_results(chosen: Chosen, sources: Sequence[Source]) -> None:
    """Each image as soon as it was examined; the overview above them comes last."""
    import streamlit as st

    top = st.container()
    known: dict[Any, Finding | Problem] = st.session_state.setdefault("results", {})
    kept = {}
    results = []
    for number, source in enumerate(sources):
        with st.container(border=True):
            with st.spinner(f"Analysing image {number + 1} of {len(sources)}"):
                key, result = _examined(chosen, source, known)
            _show_result(result, chosen, number)
        kept[key] = result
        results.append(result)
    st.session_state.results = kept  # and forget those of images that were removed
    if len(results) > 1:
        lines = web_html.overview(results, chosen.point)
        top.html(web_html.part("summary", lines))
        if chosen.one_patient:
            top.html(web_html.part("patient", compare(results)))
        _offer_report(top, results, chosen, "Download one report on all images")


def _examined(
    chosen: Chosen, source: Source, known: dict[Any, Finding | Problem]
) -> tuple[Any, Finding | Problem]:
    """A result with its key; what was examined before in this session is taken from ``known``."""
    digest = hashlib.sha256(source.data).digest()
    key = (source.name, digest, chosen.model.identity, chosen.settings)
    if key not in known:
        known[key] = chosen.model.examine(source.name, source.data, chosen.settings)
    return key, known[key]


def _show_result(result: Finding | Problem, chosen: Chosen, number: int) -> None:
    import streamlit as st

    st.html(web_html.part("name", result.name))
    if isinstance(result, Problem):
        st.html(web_html.part("problem", result))
        return
    words, chance = verdict(result.answer, chosen.point), result.answer.probability
    st.html(web_html.part("verdict", words, chance, chosen.point))
    if result.warnings:
        st.html(web_html.part("warnings", result.warnings))
    for column, image in zip(st.columns(4), result.images, strict=False):
        with column.container(gap=None):
            st.image(image.data, width="stretch", alt=image.alternative_text)
            st.html(web_html.part("caption", image))
    if result.heat_notes:
        st.html(web_html.part("notes", result.heat_notes, "Heat map"))
    st.html(web_html.part("measurements", result.rows, result.notes))
    _offer_report(st, [result], chosen, "Download a report", key=f"report-{number}")


def _offer_report(
    place: DeltaGenerator | Any,
    results: Sequence[Finding | Problem],
    chosen: Chosen,
    label: str,
    key: str = "report",
) -> None:
    """A button for a report, which is written when it is clicked."""
    name = safe_stem(results[0].name) if len(results) == 1 else "images"
    place.download_button(
        label,
        functools.partial(
            _write_report,
            tuple(results),
            chosen.circumstances,
            one_patient=chosen.one_patient and len(results) > 1,
        ),
        file_name=f"cascade-{name}.html",
        mime="text/html",
        on_click="ignore",
        key=key,
    )


def _write_report(
    results: tuple[Finding | Problem, ...],
    circumstances: Circumstances,
    *,
    one_patient: bool = False,
) -> bytes:
    comparison = compare(results) if one_patient else None
    moment = datetime.now(UTC)
    return report_html(results, circumstances, moment=moment, comparison=comparison).encode()
