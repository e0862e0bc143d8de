"""The tutorials run from top to bottom and are committed without outputs."""

import ast
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
PICTURES = {
    "data_pipeline": 8,
    "segmentation_inference_pipeline": 7,
    "classification_inference_pipeline": 12,
    "segmentation_and_classification_full_v1": 5,
}
"""Each notebook and how many images it shows at least."""

notebooks = pytest.mark.parametrize("name", PICTURES)


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)


def code(book):
    return [cell.source for cell in book.cells if cell.cell_type == "code"]


def text(book):
    return "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder like notebooks/, whose neighbours are empty; later notebooks find earlier models."""
    folder = tmp_path_factory.mktemp("repository") / "notebooks"
    folder.mkdir()
    return folder


def environment(place):
    # streamlit, which other tests import, sets a backend of matplotlib that shows nothing
    left_out = ("CASCADE_", "MPLBACKEND")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **kept,
        "CASCADE_NOTEBOOK_QUICK": "1",
        "IPYTHONDIR": str(place.parent / "ipython"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }


@pytest.mark.slow
@notebooks
def test_notebook_runs_on_invented_data_and_writes_only_beside_itself(name, place):
    book = read(name)
    client = NotebookClient(book, timeout=300, resources={"metadata": {"path": str(place)}})
    client.execute(env=environment(place))
    shown = [
        output
        for cell in book.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(shown) >= PICTURES[name]
    assert list(place.iterdir()) == []
    assert {path.name for path in place.parent.iterdir()} == {"notebooks", "demo", "ipython"}


def test_what_notebooks_write_is_ignored_by_git():
    assert "/demo/" in (ROOT / ".gitignore").read_text().splitlines()


def test_every_notebook_is_tested():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(PICTURES)


@notebooks
def test_notebook_is_committed_without_outputs(name):
    book = read(name)
    nbformat.validate(book)
    assert (book.nbformat, book.nbformat_minor) == (4, 5)
    assert book.metadata.kernelspec == {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    assert set(book.metadata) == {"kernelspec", "language_info"}
    assert book.metadata.language_info == {"name": "python"}
    for cell in book.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@notebooks
def test_notebook_is_plain_python_on_public_names(name):
    for source in code(read(name)):
        tree = ast.parse(source)  # magics and shell commands are no Python
        used = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                used += [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        assert [word for word in used if word.startswith("_")] == []


@notebooks
def test_notebook_can_be_pointed_at_other_data_and_says_what_it_is_not(name):
    book = read(name)
    parameters = code(book)[0]
    assert 'os.environ.get("CASCADE_NOTEBOOK_DATA", "../dataset")' in parameters
    assert 'os.environ.get("CASCADE_NOTEBOOK_WORK", "../demo")' in parameters
    assert "For research and teaching." in text(book)
    assert "Exercises" in text(book)


def test_full_notebook_has_its_sections_and_the_documented_import():
    book = read("segmentation_and_classification_full_v1")
    titles = [line[3:] for line in text(book).splitlines() if line.startswith("## ")]
    assert titles[:2] == ["Load the data", "Restore model checkpoints"]
    assert any("from cascade import Cascade\n" in source for source in code(book))


@notebooks
def test_readme_names_each_notebook_and_variable(name):
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"({name}.ipynb)" in readme
    for source in code(read(name)):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and str(node.value).startswith("CASCADE_"):
                assert f"`{node.value}`" in readme
