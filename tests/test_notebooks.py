"""The tutorials run from top to bottom and are committed without outputs."""

import ast
import logging
import os
import warnings
from pathlib import Path

import nbformat
import pytest
from IPython.display import Image as DisplayedImage
from PIL import Image

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
IMAGES = {
    "data_pipeline": 8,
    "segmentation_inference_pipeline": 7,
    "classification_inference_pipeline": 12,
    "segmentation_and_classification_full_v1": 5,
}
"""Each notebook and how many images it shows at least."""

notebooks = pytest.mark.parametrize("name", IMAGES)


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)


def code(book):
    return [cell.source for cell in book.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder like notebooks/, whose neighbours are empty; later notebooks find earlier models."""
    folder = tmp_path_factory.mktemp("repository") / "notebooks"
    folder.mkdir()
    return folder


def run(book):
    """Execute the cells in this process; how many images a notebook would show."""
    import matplotlib.pyplot as plt

    names, shown = {"__name__": "__main__"}, 0
    for number, source in enumerate(code(book)):
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
            shown += isinstance(value, (Image.Image, DisplayedImage))
        shown += len(plt.get_fignums())
        plt.close("all")
    return shown


@pytest.mark.slow
@notebooks
def test_notebook_runs_on_invented_data_and_writes_only_beside_itself(name, place, monkeypatch):
    import matplotlib.pyplot as plt

    for variable in [key for key in os.environ if key.startswith("CASCADE_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("CASCADE_NOTEBOOK_QUICK", "1")
    monkeypatch.chdir(place)
    monkeypatch.setattr(plt, "show", lambda: None)
    level = logging.getLogger("cascade").level
    with plt.rc_context(), warnings.catch_warnings():
        plt.switch_backend("agg")
        assert run(read(name)) >= IMAGES[name]
    logging.getLogger("cascade").setLevel(level)
    assert list(place.iterdir()) == []
    assert {path.name for path in place.parent.iterdir()} == {"notebooks", "demo"}


@notebooks
def test_notebook_is_committed_without_outputs(name):
    book = read(name)
    nbformat.validate(book)
    assert set(book.metadata) == {"kernelspec", "language_info"}
    assert book.metadata.kernelspec["name"] == "python3"
    assert book.metadata.language_info == {"name": "python"}
    for cell in book.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@notebooks
def test_notebook_is_plain_python_on_public_names_and_its_variables_are_documented(name):
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(IMAGES), "each is tested"
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"({name}.ipynb)" in readme
    for source in code(read(name)):
        for node in ast.walk(ast.parse(source)):  # magics and shell commands are no Python
            used = [node.attr] if isinstance(node, ast.Attribute) else []
            if isinstance(node, ast.ImportFrom):
                used = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            assert [word for word in used if word.startswith("_")] == []
            if isinstance(node, ast.Constant) and str(node.value).startswith("CASCADE_"):
                assert f"`{node.value}`" in readme
