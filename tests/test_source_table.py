"""The documentation's table of sources is derived from what the readers declare."""

import re
import sys
from pathlib import Path

import pytest

from cascade.data.sources.prepare import SOURCES

PAGE = Path(__file__).resolve().parents[1] / "dataset" / "README.md"
TABLE = re.compile(r"(?<=<!-- sources -->\n\n).*?(?=\n\n<!-- end -->)", re.DOTALL)
COLUMNS = ("source", "size", "masks", "ids", "licence", "classes")
LABELS = ("malignant", "benign", "indeterminate", "unknown")


def diagnoses(source, label):
    """What becomes this, in words; codes of one meaning are told once."""
    words = {}
    for code, meaning in source.labels.items():
        if meaning == label:
            name = source.names.get(code, code)
            words.setdefault(name, []).append(code)
    return list(words)


def lines():
    header = (*COLUMNS, "malignant", "benign", "indeterminate", "left out")
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for source in SOURCES.values():
        found = [diagnoses(source, label) for label in LABELS]
        count = len({name for names in found for name in names if name != "no diagnosis"})
        cells = [
            f"`{source.name}`", source.size, source.masks, source.ids, source.licence,
            source.classes or str(count),
            *(", ".join(names) or "–" for names in found),
        ]  # fmt: skip
        yield "| " + " | ".join(cells) + " |"


def test_the_documentation_lists_what_the_readers_declare():
    """After a change: ``python tests/test_source_table.py`` writes the table anew."""
    assert TABLE.search(PAGE.read_text(encoding="utf-8"))[0] == "\n".join(lines())


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_source_declares_what_the_table_needs(source):
    assert source.size
    assert source.licence
    assert diagnoses(source, "malignant")
    assert diagnoses(source, "benign")
    assert set(source.labels.values()) <= set(LABELS)
    assert all(code == code.strip().casefold() for code in source.labels), "as they are looked up"


def test_every_source_has_its_row_of_files():
    text = PAGE.read_text(encoding="utf-8").split("<!-- sources -->")[0]
    for source in SOURCES.values():
        assert f"\n| `{source.name}`" in text
        assert all(f"`{alias}`" in text for alias in source.aliases)


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda _: "\n".join(lines()), text), encoding="utf-8")
    sys.stdout.write(f"written: {PAGE}\n")
