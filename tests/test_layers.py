"""A module imports only from rooms above its own in the table of the architecture."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "cascade"

ROOMS = (
    "errors", "version", "config", "progress", "files", "imaging", "mask_policy", "masking",
    "measurements", "skin_tone", "metrics", "reliability",
    "augmented_views", "data", "models", "prediction", "inference", "pipeline", "training",
    "evaluation", "explain", "export", "serving", "commands",
)  # fmt: skip
"""From the ground up: each may know those before it, unless FORBIDDEN says otherwise."""

FORBIDDEN = {
    "mask_policy": {"files", "imaging"},
    "masking": {"files"},
    "measurements": {"files"},
    "skin_tone": {"files", "masking", "measurements"},
    "metrics": {"files", "imaging", "masking", "measurements", "skin_tone"},
    "reliability": {"files", "imaging", "measurements", "skin_tone"},
    "data": {"metrics", "reliability"},
    "models": {"data", "metrics"},
    "prediction": {"data", "metrics", "models"},
    "inference": {"data", "metrics"},
    "pipeline": {"data", "metrics"},
    "evaluation": {"training"},
    "explain": {"training", "data"},
    "export": {"training", "data"},
    "serving": {"training", "data"},
}
"""Rooms that lie before one in the table and that it still must not know."""

EXCEPTIONS = {
    ("data.check_report", "metrics.classification"): "a property that predicts the class is scored",
    ("commands.evaluation_options", "training.run"): "commands may know everything",
    ("serving.web_examples", "data.synthetic"): "examples are drawn, not shipped as pictures",
    ("serving.web_examples", "data.synthetic.non_lesions"): "one of them shows no lesion",
}
"""Imports that break a rule on purpose, with the reason."""

LIBRARIES = {
    "torch": {"data.datasets", "models", "training", "explain", "export", "commands.doctor"},
    "torchvision": {"models", "training", "commands.doctor"},
    "timm": {"models"},
    "segmentation_models_pytorch": {"models", "training"},
    "albumentations": {"data.augment"},
    "matplotlib": {"evaluation"},
    "sklearn": {"data.splits", "metrics", "training"},
    "safetensors": {"models", "training"},
    "onnx": {"export"},
    "onnxscript": {"export"},
    "onnxruntime": {"models.onnx_session", "export"},
    "openvino": {"models.openvino_session"},
    "jsonargparse": {"commands"},
    "tqdm": {"progress"},
    "yaml": {"training", "commands"},
    "pydicom": {"imaging"},
    "streamlit": {"serving.web_memory", "serving.web_page", "serving.web_server"},
    "starlette": {"serving"},
    "uvicorn": {"serving"},
    "pytorch_grad_cam": {"explain"},
    "fastapi": {"serving"},
    "h11": {"serving"},
    "pydantic": {"serving"},
    "prometheus_client": {"serving"},
    "python_multipart": {"serving"},
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
def imported(path, *, at_once=False):
    """Dotted names of all modules that a file imports; ``at_once`` leaves out later imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return list(_imported(path, tree.body if at_once else ast.walk(tree)))


def _imported(path, nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            # `from cascade.data import tables` imports a module, `from x import function` does not
            yield from names if node.module.startswith("cascade") else [node.module]


def inner_imports(*, at_once=False):
    """Pairs of modules within cascade: who imports whom."""
    for module, path in MODULES.items():
        for name in imported(path, at_once=at_once):
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
    assert ("pipeline", "masking") in pairs, "at module level"
    assert ("models.runtimes", "models.ensemble") in pairs, "within a function"
    assert len(pairs) > 100


def test_exceptions_are_needed():
    assert set(EXCEPTIONS) <= set(inner_imports())


@pytest.mark.parametrize(("library", "allowed"), LIBRARIES.items())
def test_a_library_is_known_to_few(library, allowed):
    users = {m for m, path in MODULES.items() for n in imported(path) if n.split(".")[0] == library}
    assert {user for user in users if user not in allowed and room_of(user) not in allowed} == set()


def test_the_stages_do_not_know_each_other():
    pairs = set(inner_imports())
    assert ("models.segmenter", "models.classifier") not in pairs
    assert ("models.classifier", "models.segmenter") not in pairs


def test_modules_can_be_imported_in_any_order():
    """No cycle among the imports at module level."""
    graph = {}
    for module, target in inner_imports(at_once=True):
        if module != target:
            graph.setdefault(module, set()).add(target)

    finished = set()

    def visit(module, trail):
        assert module not in trail, f"cycle: {' -> '.join([*trail, module])}"
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
