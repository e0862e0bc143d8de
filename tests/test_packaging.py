"""What is shipped, and rules that hold for the whole tree."""

import ast
import configparser
import importlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import cascade
from cascade.command_line.main import COMMANDS, module_of

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "cascade").rglob("*.py"))
LONGEST_MODULE = 400
FORBIDDEN_CALLS = {"print", "eval", "exec", "breakpoint", "input"}
FORBIDDEN_METHODS = {("yaml", "load"), ("yaml", "unsafe_load"), ("os", "system")}
FORBIDDEN_MODULES = {"pickle", "dill", "joblib", "shelve", "marshal", "cPickle", "cloudpickle"}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".dcm", ".gif"}


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def tracked_files() -> list[Path]:
    """Files that a clone has; all files where this is no clone."""
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode or not listing.stdout:
        pytest.skip("not a git clone")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def trees() -> list[tuple[Path, ast.AST]]:
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES]


def test_version_stands_in_one_place(setup):
    assert setup["metadata"]["version"] == "attr: cascade.version.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", cascade.__version__)
    literal = f'"{cascade.__version__}"'
    holding = [path.name for path in SOURCES if literal in path.read_text(encoding="utf-8")]
    assert holding == ["version.py"]
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_module_with_help(name, capsys):
    module = module_of(name)
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    assert "example:" in capsys.readouterr().out


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.py")), ids=lambda p: p.name)
def test_every_script_is_a_shim_on_a_command(script):
    text = script.read_text(encoding="utf-8")
    module = re.search(r"from (cascade\.commands[.\w]+) import main", text)
    assert module
    assert callable(importlib.import_module(module[1]).main)
    assert len(text.splitlines()) < 20


def test_package_data_exists_and_is_declared(setup):
    patterns = setup["options.package_data"]["cascade"].split()
    shipped = {path for pattern in patterns for path in (ROOT / "cascade").glob(pattern)}
    others = {
        path
        for path in (ROOT / "cascade").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert others == shipped
    assert {"py.typed", "report.html"} <= {path.name for path in shipped}


def pinned_versions() -> dict[str, str]:
    """Canonical name to version in constraints.txt."""
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def test_constraints_fit_the_requirements(setup):
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pinned = pinned_versions()
    extras = setup["options.extras_require"].values()
    needed = [setup["options"]["install_requires"], *extras]
    for line in "\n".join(needed).split("\n"):
        if line:
            requirement = Requirement(line)
            version = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), line


def test_pinned_versions_run_on_the_oldest_python_that_is_promised(setup):
    """Debian 12 has Python 3.11.2; a pin that wants 3.11.5 cannot be installed there."""
    from packaging.specifiers import SpecifierSet

    oldest = setup["options"]["python_requires"].removeprefix(">=") + ".0"
    checked = 0
    for name, version in pinned_versions().items():
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if distribution.version == version:
            wanted = distribution.metadata.get("Requires-Python") or ""
            assert SpecifierSet(wanted).contains(oldest), f"{name}=={version} wants {wanted}"
            checked += 1
    assert checked > 50


def test_modules_stay_short():
    long = {p.name: n for p in SOURCES if (n := len(p.read_text().splitlines())) > LONGEST_MODULE}
    assert not long


def test_library_never_prints_asserts_or_runs_code_from_data():
    found = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if problem := _problem(node):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {problem}")
    assert not found


def _problem(node: ast.AST) -> str | None:
    if isinstance(node, ast.Assert):
        return "assert"
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        return next((n for n in names if n and n.split(".")[0] in FORBIDDEN_MODULES), None)
    if not isinstance(node, ast.Call):
        return None
    call = node.func
    if isinstance(call, ast.Name) and call.id in FORBIDDEN_CALLS:
        return call.id
    if isinstance(call, ast.Attribute):
        owner = call.value.id if isinstance(call.value, ast.Name) else ""
        if call.attr == "extractall" or (owner, call.attr) in FORBIDDEN_METHODS:
            return f"{owner}.{call.attr}"
        if (owner, call.attr) == ("torch", "load"):
            safe = any(k.arg == "weights_only" and _is_true(k.value) for k in node.keywords)
            return None if safe else "torch.load without weights_only=True"
    return None


def _is_true(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def test_checker_finds_what_it_is_meant_to_find():
    code = "import pickle\nprint(1)\nassert x\nyaml.load(f)\nz.extractall()\ntorch.load(f)\neval(s)"
    found = {_problem(node) for node in ast.walk(ast.parse(code))} - {None}
    assert len(found) == 7


def test_repository_holds_no_images_archives_or_models():
    suffixes = IMAGE_SUFFIXES | {".zip", ".gz", ".tar", ".7z", ".pth", ".pt", ".pkl", ".npz"}
    drawn = {ROOT / "models" / "card", ROOT / "docs" / "images"}  # no images
    tracked = [path for path in tracked_files() if not drawn & set(path.parents)]
    assert not [path.name for path in tracked if path.suffix.lower() in suffixes]
    assert not [path for path in tracked if path.parts[len(ROOT.parts)] in ("demo", "results")]


def test_files_name_no_folder_of_a_machine():
    foreign = re.compile(rb"(?<![\w.])/(?:work|home|Users|root|mnt|opt)/[\w.-]")
    found = []
    for path in tracked_files():
        matches = foreign.finditer(path.read_bytes())
        found += [f"{path.relative_to(ROOT)}: {match[0]!r}" for match in matches]
    assert not found


def test_a_built_library_carries_the_default_cascade(tmp_path):
    pytest.importorskip("setuptools")
    if not (ROOT / "models" / "default.safetensors").is_file():
        pytest.skip("no default cascade in this clone")
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "demo", "build", "*.egg-info")
    )
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "built")]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    models = ROOT / "models"
    shipped = [models / "default.safetensors", *models.glob("*_onnx/*")]
    for path in shipped:
        built = tmp_path / "built" / "cascade" / path.relative_to(models)
        assert built.read_bytes() == path.read_bytes()
    assert (tmp_path / "built" / "cascade" / "py.typed").is_file()
