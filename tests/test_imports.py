"""What importing costs: nothing heavy, nothing printed, no connection."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
HEAVY = {
    "torch", "torchvision", "timm", "segmentation_models_pytorch", "albumentations", "sklearn",
    "scipy", "matplotlib", "pydicom", "imagehash", "IPython",
    "pytorch_grad_cam",
}  # fmt: skip
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
    "cascade.commands.prediction.explain", "cascade.serving.rest.server",
)  # fmt: skip
ALL_MODULES = tuple(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((REPOSITORY / "cascade").rglob("*.py"))
    if path.name != "__main__.py" and ("serving" not in path.parts or find_spec("fastapi"))
)


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )


def test_light_modules_need_nothing_heavy_seed_nothing_and_configure_no_logging():
    """Without torch, as where only exported graphs run; the module that asks for it is named."""
    done = python(
        "import importlib, logging, random, sys\n"
        "import numpy as np\n"
        "asked = []\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {HEAVY}:\n"
        "            asked.append(name)\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "random.seed(1); np.random.seed(1)\n"
        "before = random.getstate(), np.random.get_state()[1].tolist()\n"
        f"for name in {LIGHT_MODULES}:\n"
        "    importlib.import_module(name)\n"
        "    assert not asked, f'{name} asks for {asked}'\n"
        "assert before == (random.getstate(), np.random.get_state()[1].tolist())\n"
        "assert not logging.getLogger().handlers\n"
        "assert not logging.getLogger('cascade').handlers\n"
        "assert logging.getLogger('cascade').level == logging.NOTSET\n"
    )
    assert done.returncode == 0, done.stderr


def test_no_module_prints_or_connects_on_import():
    done = python(
        "import importlib, socket, sys\n"
        "def hook(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'):\n"
        "        raise AssertionError(f'not on import: {event} {arguments}')\n"
        "sys.addaudithook(hook)\n"
        f"for name in {ALL_MODULES}:\n"
        "    importlib.import_module(name)\n"
        "try:\n"
        "    socket.create_connection(('127.0.0.1', 9), timeout=1)\n"
        "except AssertionError:\n"
        "    print('the hook works')\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "the hook works\n", "")
