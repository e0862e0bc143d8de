"""What importing costs: nothing heavy, nothing printed, no connection."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
HEAVY = (
    "torch", "torchvision", "timm", "segmentation_models_pytorch", "albumentations", "sklearn",
    "scipy", "matplotlib", "pydicom", "imagehash", "IPython",
    "pytorch_grad_cam",
)  # fmt: skip
LIGHT_MODULES = (
    "cascade", "cascade.config", "cascade.errors", "cascade.files", "cascade.imaging",
    "cascade.lesion.masking", "cascade.metrics.classification", "cascade.metrics.curves",
    "cascade.metrics.intervals", "cascade.metrics.segmentation", "cascade.reliability",
    "cascade.pipeline.augmented_views",
    "cascade.data.tables", "cascade.data.splits", "cascade.data.check", "cascade.data.duplicates",
    "cascade.data.synthetic", "cascade.data.sources.prepare", "cascade.models.protocol",
    "cascade.models.artifact", "cascade.pipeline", "cascade.evaluation.stages",
    "cascade.evaluation.report", "cascade.explain",
    "cascade.command_line.main", "cascade.command_line.parser",
    "cascade.command_line.options", "cascade.commands.prediction.predict",
    "cascade.commands.evaluation.evaluate",
    "cascade.commands.prediction.app", "cascade.serving.page.script", "cascade.serving.page.layout",
    "cascade.serving.page.server",
    "cascade.commands.prediction.serve", "cascade.serving.rest.settings",
    "cascade.commands.prediction.explain",
)  # fmt: skip
ALL_MODULES = tuple(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((REPOSITORY / "cascade").rglob("*.py"))
    if path.name != "__main__.py" and (path.parent.name != "serving" or find_spec("fastapi"))
)


def python(code, *flags):
    return subprocess.run(
        [sys.executable, *flags, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )


def test_light_modules_load_nothing_heavy():
    """One process, one module after the other, so that the guilty one is named."""
    done = python(
        "import importlib, sys\n"
        f"for name in {LIGHT_MODULES}:\n"
        "    importlib.import_module(name)\n"
        f"    loaded = [heavy for heavy in {HEAVY} if heavy in sys.modules]\n"
        "    assert not loaded, f'{name} loads {loaded}'\n"
    )
    assert done.returncode == 0, done.stderr


def test_no_module_prints_connects_or_starts_a_program_on_import():
    done = python(
        "import importlib, os, socket, subprocess, sys\n"
        "def refuse(*arguments, **options):\n"
        "    raise AssertionError(f'not on import: {arguments}')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
        "def hook(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'):\n"
        "        refuse(event, arguments)\n"
        "sys.addaudithook(hook)\n"
        f"for name in {ALL_MODULES}:\n"
        "    importlib.import_module(name)\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""


def test_the_guard_of_the_test_above_works():
    done = python(
        "import socket, sys\n"
        "def hook(event, arguments):\n"
        "    assert event != 'socket.connect'\n"
        "sys.addaudithook(hook)\n"
        "socket.create_connection(('127.0.0.1', 9), timeout=1)\n"
    )
    assert "AssertionError" in done.stderr


def test_import_seeds_nothing_and_configures_no_logging():
    done = python(
        "import logging, random\n"
        "import numpy as np\n"
        "random.seed(1); np.random.seed(1)\n"
        "before = random.getstate(), np.random.get_state()[1].tolist()\n"
        "import cascade, cascade.pipeline, cascade.command_line.main\n"
        "import cascade.metrics.classification\n"
        "assert before == (random.getstate(), np.random.get_state()[1].tolist())\n"
        "assert not logging.getLogger().handlers\n"
        "assert not logging.getLogger('cascade').handlers\n"
        "assert logging.getLogger('cascade').level == logging.NOTSET\n"
    )
    assert done.returncode == 0, done.stderr


def test_light_modules_work_where_torch_is_not_installed():
    """A box that only runs exported graphs has no torch; `evaluation` is not needed there."""
    done = python(
        "import sys\n"
        "for name in ('torch', 'torchvision', 'timm', 'albumentations', 'sklearn', 'pydicom'):\n"
        "    sys.modules[name] = None\n"
        "import importlib\n"
        f"for name in {LIGHT_MODULES}:\n"
        "    importlib.import_module(name)\n"
    )
    assert done.returncode == 0, done.stderr


def test_checks_do_not_depend_on_assertions():
    done = python(
        "import numpy as np\n"
        "from cascade.errors import ShapeError\n"
        "from cascade.lesion.masking import MaskPolicy, lesion_from_mask\n"
        "try:\n"
        "    lesion_from_mask(np.zeros((4, 4), np.uint8), MaskPolicy())\n"
        "except ShapeError:\n"
        "    print('refused')\n",
        "-O",
    )
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.parametrize("word", ["print(", "pickle", "eval(", "exec(", "yaml.load(", "os.system"])
def test_nothing_dangerous_or_noisy_is_in_the_tree(word):
    import ast

    def names(tree):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func) + "("
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            if isinstance(node, ast.ImportFrom):
                yield node.module or ""

    for path in (REPOSITORY / "cascade").rglob("*.py"):
        used = set(names(ast.parse(path.read_text(encoding="utf-8"))))
        guilty = {name for name in used if name == word or name == word + "("}
        assert not guilty, f"{path.name}: {guilty}"
