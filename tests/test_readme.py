"""The README's code blocks run as they are written, one after the other, in a small clone.

A comment before each block says whether it runs: ``<!-- test: run -->``, ``<!-- test: run with
FLAGS -->`` (the flags are added to each command, to make it short), ``<!-- test: skip (why) -->``.
Bash blocks run first, because the Python block at the top uses what they make.
"""

import importlib
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cascade.command_line import main as console
from cascade.command_line import parser as arguments
from cascade.command_line.main import module_of
from cascade.command_line.parser import OK
from cascade.data.synthetic import draw_lesion
from cascade.imaging.write import write_image

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"(?:<!-- test: (?P<tag>.+?) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)^```",
    re.DOTALL | re.MULTILINE,
)
OF_OTHER_PROGRAMS = {
    "--build", "--build-arg", "--builtin-schema", "--data-binary", "--pull", "--target",
    "--upgrade", "--multi_gpu", "--num_processes", "--nproc_per_node", "--logdir",
    "--backend-store-uri", "--from-literal", "--install",
}  # fmt: skip
"""Flags of docker, pip, curl, kubectl, launchers and the like, beside those in the Dockerfile."""


@dataclass(frozen=True)
class Block:
    """One code block of the README."""

    language: str
    code: str
    tag: str

    @property
    def runs(self) -> bool:
        return self.tag.startswith("run")

    @property
    def flags(self) -> list[str]:
        return shlex.split(self.tag.removeprefix("run").strip().removeprefix("with"))


def read_blocks() -> list[Block]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [Block(m["language"], m["code"], m["tag"] or "") for m in BLOCK.finditer(text)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The parts of a clone that commands look at, and the files that the README mentions."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("scripts", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", folder)
    return folder


def run_command(line: str, flags: list[str], folder: Path) -> None:
    """Run ``cascade COMMAND ...`` or ``python SCRIPT ...`` in this process."""
    program, name, *rest = shlex.split(line, comments=True)
    if program == "python":
        assert (folder / name).is_file(), f"{name} is not in {folder}"
        script = (folder / name).read_text(encoding="utf-8")
        module = re.search(r"from (cascade\.commands[.\w]+) import main", script)
        assert module, f"{name} is not a shim on a command"
        code = importlib.import_module(module[1]).main([*rest, *flags])
    else:
        assert program == "cascade", line
        code = console.main([name, *rest, *flags])
    assert code == OK, f"{line} ended with {code}"


def run_bash(block: Block, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = clone
    for line in block.code.replace("\\\n", " ").splitlines():
        if line.startswith("cd "):
            folder = clone / line.removeprefix("cd ").strip()
        elif line.strip():
            monkeypatch.chdir(folder)
            run_command(line, block.flags, folder)
            add_what_a_user_has(clone)


def add_what_a_user_has(clone: Path) -> None:
    """Images, masks and scores of the user's own, once there is a data set."""
    images = clone / "dataset" / "images_all"
    if images.is_dir() and not (clone / "photos").exists():
        others = sorted(images.iterdir())
        (clone / "photos").mkdir()
        for path in others[:3]:
            shutil.copy(path, clone / "photos")
        shutil.copytree(clone / "dataset" / "masks_all", clone / "my_masks")
    scores = clone / "results" / "cascade" / "predictions.csv"
    if scores.is_file():
        shutil.copy(scores, clone / "my_scores.csv")


@pytest.mark.slow
def test_code_blocks_run_as_written(clone, monkeypatch, capsys):
    monkeypatch.setattr(arguments, "REPOSITORY", clone)
    blocks = [block for block in read_blocks() if block.runs]
    lesion = draw_lesion(np.random.default_rng(5), malignant=False)
    write_image(clone / "photo.jpg", lesion.image)
    for block in blocks:
        if block.language == "bash":
            run_bash(block, clone, monkeypatch)
    monkeypatch.chdir(clone)
    (clone / "photos" / "broken.jpg").write_bytes(b"not a picture")
    for block in blocks:
        if block.language == "python":
            exec(compile(block.code, "README.md", "exec"), {"__name__": "readme"})
    shown = capsys.readouterr().out
    assert "malignant" in shown
    assert "broken.jpg" in shown
    for name in ("report.html", "metrics.json", "predictions.csv"):
        assert (clone / "results" / "cascade" / name).is_file()


def test_every_block_says_whether_it_runs():
    for block in read_blocks():
        reason = re.fullmatch(r"skip \(.+\)", block.tag)
        assert block.runs or reason, f"no <!-- test: ... --> before\n{block.code}"
    assert any("seg_train_pipeline.py --epochs 20 --encoder" in b.code for b in read_blocks())


def test_skipped_commands_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for block in read_blocks():
        if block.runs or block.language != "bash":
            continue
        for line in block.code.splitlines():
            program, word, *_ = shlex.split(line, comments=True)
            if program == "make":
                assert re.search(rf"^{word}:", makefile, re.MULTILINE), line
            elif program == "cascade":
                assert word in console.COMMANDS, line


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")),
             ROOT / "dataset" / "README.md", ROOT / "models" / "README.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)  # fmt: skip
def test_links_between_pages_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_flags_in_the_documents_exist():
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    of_others = OF_OTHER_PROGRAMS | set(re.findall(r"--[a-z-]+", dockerfile))
    known = {"--help", "--version"}
    for benchmark in (ROOT / "benchmarks").glob("*.py"):
        known |= set(re.findall(r'"(--[a-z][\w-]+)"', benchmark.read_text(encoding="utf-8")))
    for name in console.COMMANDS:
        module = module_of(name)
        parser = module.build_parser()
        known |= {flag for action in parser._actions for flag in action.option_strings}
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "dataset" / "README.md"]
    for page in pages:
        flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", page.read_text(encoding="utf-8")))
        for flag in flags - of_others:
            assert flag.replace("-", "_").replace("__", "--", 1) in known | {"--no"}, (
                f"{page.name}: {flag}"
            )
