"""The documentation: its commands are commands, its pages are found, its site builds by itself."""

import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

import cascade
from cascade.command_line.main import COMMANDS, module_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
KEPT_ELSEWHERE = {
    "sources.md", "model_card.md", "model_card_details.md", "notebooks.md", "contributing.md",
    "changelog.md",
}  # fmt: skip
"""Pages of the site that stand elsewhere in the repository; docs/site_hooks.py knows where."""

WRITTEN = [
    *PAGES,
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / folder / "README.md" for folder in ("dataset", "notebooks")),
]
"""All pages that are written by hand; the model card is generated."""

NOT_OUR_WORDS = re.compile(
    r"(?<!clinical )\bphotographs?\b|\bphotos?\b|\boutline|\bunfamiliar|\bfamiliar image|\bdoubt"
    r"|\bgates?\b|\bhuman masks?\b|\bcheckpoints of your own\b|\binvented\b",
    re.IGNORECASE,
)
"""Words for which the glossary has another one."""

LOADING = {"src": {"img", "script", "iframe", "source", "video"}, "href": {"link"}}
"""Attributes by which a page makes a browser fetch something at once."""


def blocks(page):
    """Language and text of each fenced block, and the indented ones as ``indented``."""
    text = page.read_text(encoding="utf-8")
    yield from re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for found in re.finditer(r"(?:^\n)((?:^    .*\n)+)", rest, re.MULTILINE):
        yield "indented", re.sub(r"^    ", "", found[1], flags=re.MULTILINE)


def lines(program):
    """Every line of the documents that calls a program, as (page, words)."""
    for page in PAGES:
        for language, text in blocks(page):
            if language not in ("bash", "sh", "indented", ""):
                continue
            for line in text.replace("\\\n", " ").splitlines():
                if re.match(rf"{program}\b", line):
                    yield pytest.param(page, line, id=f"{page.stem}-{line[:60]}")


@pytest.mark.parametrize(("page", "line"), list(lines("cascade")))
def test_every_command_of_the_documents_is_one(page, line):
    _, name, *given = shlex.split(line, comments=True)
    for end in ("&", ">"):
        given = given[: given.index(end)] if end in given else given
    assert name in COMMANDS or name.startswith("-"), line
    if name in COMMANDS and given != ["--help"]:
        module = module_of(name)
        module.build_parser().parse_args([word for word in given if word != "--print_config"])


@pytest.mark.parametrize(("page", "line"), list(lines("make")))
def test_every_target_of_the_documents_is_one(page, line):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in shlex.split(line, comments=True)[1:]:
        name, equals, _ = word.partition("=")
        known = rf"\$\$?{name}\b|\$\$?{{{name}\b|\$\({name}\)" if equals else rf"^{name}:"
        assert re.search(known, makefile, re.MULTILINE), f"{page.name}: {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_of_the_documents_is_python(page):
    for language, text in blocks(page):
        if language == "python":
            compile(text, page.name, "exec")


def test_every_public_name_is_in_the_reference():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: (cascade[\w.]+)$", text, re.MULTILINE))
    for name in set(cascade.__all__) - {"__version__"}:
        value = getattr(cascade, name)
        own = {path for path in shown if path.rpartition(".")[2] == value.__name__}
        assert own or value.__module__ in shown, name


def nav_pages(nav):
    for entry in nav:
        for target in entry.values():
            yield from nav_pages(target) if isinstance(target, list) else [target]


def test_the_navigation_has_each_page_once():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = list(nav_pages(settings["nav"]))
    assert len(listed) == len(set(listed))
    assert set(listed) == {page.name for page in PAGES} | KEPT_ELSEWHERE


def without_code(text):
    """Markdown without code blocks, code spans, HTML comments and the targets of links."""
    text = re.sub(r"^```.*?^```|^    .*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`]*`|<!--.*?-->|\]\([^)]*\)", "", text)


def prose_of(page):
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return without_code(text)


@pytest.mark.parametrize(
    "page",
    [*WRITTEN, *sorted((ROOT / "notebooks").glob("*.ipynb"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_each_thing_is_called_by_one_word(page):
    found = sorted({found[0].lower() for found in NOT_OUR_WORDS.finditer(prose_of(page))})
    assert not found, f"{page.name} says {found}; docs/glossary.md has the words to use instead"


def test_other_words_are_found_outside_code_only():
    text = without_code("`photo.jpg` [clinical photograph](outline.md)\n```\nphoto\n```\n")
    assert not NOT_OUR_WORDS.search(text)
    assert NOT_OUR_WORDS.search("a photograph")


def headings(page):
    """Anchors of a page's headings, as both the site and the repository's host make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\s-]", "", title).strip().lower().replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_a_heading_find_it(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)#([^)\s]+)\)", text):
        place = (page.parent / target).resolve() if target else page
        assert anchor in headings(place), f"{page.name} links to {target}#{anchor}"


def test_the_glossary_defines_each_term_once_in_alphabetical_order():
    terms = headings(ROOT / "docs" / "glossary.md")[1:]
    assert len(terms) > 40
    assert terms == sorted(set(terms))


GENERATED = {"api.md", "commands.md", "glossary.md"}
FAMILIAR = {
    "bias", "cascade", "classifier", "crop", "dice", "ece", "export", "fold", "group", "image",
    "iou", "lesion-mask", "measurements", "model-file", "provenance", "roc-auc", "runtime",
    "segmenter", "sensitivity", "specificity", "split", "threshold",
}  # fmt: skip
"""Terms that are too common to be linked on every page."""


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in GENERATED], ids=lambda page: page.name
)
def test_a_page_links_the_terms_that_it_uses(page):
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<!-- fields -->.*<!-- end -->", "", text, flags=re.DOTALL)  # generated
    unlinked = re.sub(r"\[[^\]]*\]\([^)]*\)", "", text)
    prose = " ".join(without_code(unlinked).lower().split())
    for anchor in set(headings(ROOT / "docs" / "glossary.md")[1:]) - FAMILIAR - set(headings(page)):
        words = anchor.replace("-", "[- ]")
        if f"{anchor}s" not in headings(page) and re.search(rf"\b{words}s?\b", prose):
            assert f"](glossary.md#{anchor})" in text, f"{page.name} does not link {anchor}"


class Links(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        for name, tags in LOADING.items():
            if tag in tags and name in given:
                self.loaded.append(given[name])


def read_links(path):
    parser = Links()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def broken_links(site):
    """Links, images, scripts and style sheets that lead nowhere, or to another server."""
    pages = {path: read_links(path) for path in site.rglob("*.html") if path.name != "404.html"}
    for path, found in pages.items():
        for target in (*found.links, *found.loaded):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in found.loaded:
                    yield f"{path.name} loads {target}"
                continue
            place = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not place.is_file():
                yield f"{path.name}: {target}"
            elif parts.fragment and place in pages and place.suffix == ".html":
                anchors = pages[place].anchors | {"", "__skip"}
                if unquote(parts.fragment) not in anchors:
                    yield f"{path.name}: {target}"


def test_links_that_lead_nowhere_or_to_another_server_are_found(tmp_path):
    (tmp_path / "other.html").write_text('<h1 id="here">x</h1>', encoding="utf-8")
    (tmp_path / "index.html").write_text(
        '<a href="other.html#here">ok</a><a href="https://example.org">ok</a><a href="#top">no</a>'
        '<a href="other.html#there">no</a><a href="gone.html">no</a><img src="gone.png">'
        '<script src="https://example.org/x.js"></script>',
        encoding="utf-8",
    )
    assert sorted(broken_links(tmp_path)) == [
        "index.html loads https://example.org/x.js", "index.html: #top", "index.html: gone.html",
        "index.html: gone.png", "index.html: other.html#there",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="the extra docs is not installed"
)
def test_the_site_builds_without_warnings_and_needs_no_other_server(tmp_path):
    site = tmp_path / "site"
    variables = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site)],
        cwd=ROOT, env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert list(broken_links(site)) == []
    assert not re.search(rb"https?:[^)]+\.(woff2?|css)|@import", b"".join(
        path.read_bytes() for path in site.rglob("*.css")
    ))  # fmt: skip
    commands = (site / "commands.html").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f'id="cascade-{name}"' in commands
    assert str(ROOT) not in commands, "defaults are those of a reader, not of this machine"
    reference = (site / "api.html").read_text(encoding="utf-8")
    for name in ("segmenter.Segmenter.load", "classifier.Classifier.predict_proba"):
        assert f'id="cascade.models.{name}"' in reference, "of a class above them"
    assert "highest learning rate" in reference, "settings come with their meaning"
    assert not re.search(r":(class|func|meth|data):", reference)
