"""A module imports only from rooms above its own in the table of the architecture."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "cascade"

ROOMS = (
    "errors", "version", "config", "fields", "progress", "files", "imaging", "lesion", "metrics",
    "reliability", "data", "models", "pipeline", "cluster", "training", "evaluation",
    "robustness", "explain", "export", "speed", "serving", "command_line", "commands",
)  # fmt: skip
"""From the ground up: each may know those before it, unless FORBIDDEN says otherwise."""

FORBIDDEN = {
    "lesion": {"files"},
    "metrics": {"files", "imaging", "lesion"},
    "reliability": {"files", "imaging"},
    "data": {"metrics", "reliability"},
    "models": {"data", "metrics"},
    "pipeline": {"data", "metrics"},
    "cluster": {"metrics"},
    "evaluation": {"training"},
    "robustness": {"training"},
    "explain": {"training", "data"},
    "export": {"training", "data"},
    "speed": {"training", "explain", "export"},
    "serving": {"training", "data"},
}
"""Rooms that lie before one in the table and that it still must not know."""

EXCEPTIONS = {
    ("data.check_report", "metrics.classification"): "a property that predicts the class is scored",
    ("serving.page.examples", "data.synthetic"): "examples are drawn, not shipped as images",
}
"""Imports that break a rule on purpose, with the reason."""

LIBRARIES = {
    "torch": {
        "data.datasets",
        "models",
        "training",
        "explain",
        "export",
        "speed.floor",
        "speed.naive",
        "command_line.machine_checks",
    },
    "torchvision": {"models", "training", "speed.naive", "commands.prediction.doctor"},
    "timm": {"models"},
    "segmentation_models_pytorch": {"models", "training", "speed.naive"},
    "albumentations": {"data.augment", "speed.naive"},
    "matplotlib": {"evaluation"},
    "sklearn": {"data.splits", "metrics", "training"},
    "safetensors": {"models", "training"},
    "scipy": {"reliability.temperature"},
    "onnx": {"export", "speed.floor"},
    "onnxscript": {"export"},
    "onnxruntime": {"models.onnx_session", "export"},
    "openvino": {"models.openvino_session"},
    "jsonargparse": {"command_line"},
    "tqdm": {"progress"},
    "yaml": {"training", "commands", "command_line"},
    "pydicom": {"imaging", "pipeline.dicom_results"},
    "highdicom": {"pipeline.dicom_results"},
    "pillow_heif": {"imaging.codecs.heif"},
    "pillow_jxl": {"imaging.codecs.jpeg_xl"},
    "streamlit": {"serving.page"},
    "starlette": {"serving"},
    "uvicorn": {"serving"},
    "pytorch_grad_cam": {"explain"},
    "fastapi": {"serving"},
    "h11": {"serving"},
    "pydantic": {"serving"},
    "prometheus_client": {"serving"},
    "python_multipart": {"serving"},
    "ray": {"cluster.ray_engine"},
    "pyarrow": {"cluster", "data.sources.table_files"},
    "python_calamine": {"data.sources.table_files"},
    "h5py": {"data.sources.packed"},
    "fsspec": {"cluster.storage"},
    "huggingface_hub": {"models.hub", "models.pretrained"},
    "mlflow": {"training.trackers"},
    "trackio": {"training.trackers"},
    "wandb": {"training.trackers"},
}
"""Which rooms or modules may import a library, at module level or inside a function."""

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE or path.name not in ("__init__.py", "__main__.py")
}


def room_of(module):
    return module.partition(".")[0]


@functools.cache
def imported(path):
    """Dotted names of all modules that a file imports, anywhere in it."""
    return list(_imported(path, ast.walk(ast.parse(path.read_text(encoding="utf-8")))))


def _imported(path, nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            # `from cascade.data import tables` imports a module, `from x import function` does not
            yield from names if node.module.startswith("cascade") else [node.module]


def inner_imports():
    """Pairs of modules within cascade: who imports whom."""
    for module, path in MODULES.items():
        for name in imported(path):
            if name.startswith("cascade."):
                inner = name.removeprefix("cascade.")
                target = inner if inner in MODULES else inner.rpartition(".")[0]
                if target:
                    yield module, target


def breaks_a_rule(module, target):
    here, there = room_of(module), room_of(target)
    if here == there or (module, target) in EXCEPTIONS:
        return False
    return ROOMS.index(there) > ROOMS.index(here) or there in FORBIDDEN.get(here, ())


def test_every_module_lives_in_a_known_room():
    assert {room_of(module) for module in MODULES} <= set(ROOMS)


def test_imports_point_upwards_only():
    guilty = [f"{m} imports {t}" for m, t in inner_imports() if breaks_a_rule(m, t)]
    assert not guilty


def test_imports_are_found_at_all():
    pairs = set(inner_imports())
    assert ("pipeline.cascade", "lesion.masking") in pairs, "at module level"
    assert ("models.runtimes", "models.ensemble") in pairs, "within a function"
    assert len(pairs) > 100


def test_exceptions_are_needed():
    assert set(EXCEPTIONS) <= set(inner_imports())


@pytest.mark.parametrize(("library", "allowed"), LIBRARIES.items())
def test_a_library_is_known_to_few(library, allowed):
    users = {m for m, path in MODULES.items() for n in imported(path) if n.split(".")[0] == library}
    places = tuple(f"{place}." for place in allowed)
    assert not {user for user in users if not f"{user}.".startswith(places)}


def test_the_stages_do_not_know_each_other():
    pairs = set(inner_imports())
    assert ("models.segmenter", "models.classifier") not in pairs
    assert ("models.classifier", "models.segmenter") not in pairs


def test_service_and_page_do_not_know_each_other():
    rooms = {tuple(name.split(".")[:2]) for pair in inner_imports() for name in pair}
    assert {("serving", "rest"), ("serving", "page"), ("serving", "shared")} <= rooms
    for module, target in inner_imports():
        here, there = (name.split(".")[:2] for name in (module, target))
        if here[0] == there[0] == "serving":
            assert here == there or there == ["serving", "shared"], f"{module} imports {target}"


def test_no_modules_import_each_other_in_a_circle():
    """Not even with imports inside functions: those put off a circle, they do not break it."""
    graph = {}
    for module, target in inner_imports():
        if module != target:
            graph.setdefault(module, set()).add(target)

    finished = set()

    def visit(module, trail):
        assert module not in trail, f"circle: {' -> '.join([*trail, module])}"
        if module not in finished:
            for target in sorted(graph.get(module, ())):
                visit(target, [*trail, module])
            finished.add(module)

    for module in sorted(graph):
        visit(module, [])


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_no_module_is_longer_than_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_every_module_is_named_after_what_it_holds():
    banned = {"utils", "util", "misc", "common", "base", "core", "manager"}
    assert not {module for module in MODULES if banned & set(module.split("."))}


LONGEST_FUNCTION = 60
"""Lines of a function; parsers, which list their flags, may have more."""


def functions():
    """Name and lines of code of each function; its docstring does not count."""
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                bare = ast.get_docstring(node, clean=False) is None
                told = 0 if bare else first.end_lineno - first.lineno + 1
                yield f"{module}.{node.name}", node.end_lineno - node.lineno + 1 - told


def test_functions_fit_on_a_screen():
    long = {name for name, lines in functions() if lines > LONGEST_FUNCTION}
    assert not {name for name in long if not name.endswith(".build_parser")}
