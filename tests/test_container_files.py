"""What can be said of Dockerfile, compose.yaml and the pinned requirements without an engine."""

import configparser
import fnmatch
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cascade.command_line.main import COMMANDS, module_of

ROOT = Path(__file__).resolve().parents[1]
IMAGES = {"service": ("serve", 8000), "page": ("app", 8501)}
LOCKED = ("serve", "build")


@dataclass
class Stage:
    """One FROM and what follows it."""

    name: str
    base: str
    lines: list[tuple[str, str]] = field(default_factory=list)

    def words_of(self, instruction):
        return [rest for word, rest in self.lines if word == instruction]


def instructions(text):
    """Word and rest of each instruction, with its continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    for line in joined.splitlines():
        if line.strip():
            word, rest = line.strip().split(maxsplit=1)
            yield word.upper(), rest


@pytest.fixture(scope="module")
def dockerfile():
    """Arguments before the first stage, and the stages by name."""
    arguments, stages = {}, {}
    for word, rest in instructions((ROOT / "Dockerfile").read_text(encoding="utf-8")):
        if word == "FROM":
            base, _, name = re.split(r"\s+(AS)\s+", rest, flags=re.IGNORECASE)
            stages[name] = Stage(name, base)
        elif not stages:
            assert word == "ARG"
            name, _, default = rest.partition("=")
            arguments[name] = default
        else:
            list(stages.values())[-1].lines.append((word, rest))
    return arguments, stages


def inherited(stages, name):
    """All instructions of an image, those of the stages it starts from first."""
    stage = stages[name]
    return [*(inherited(stages, stage.base) if stage.base in stages else []), *stage.lines]


def last(stages, name, instruction):
    return [rest for word, rest in inherited(stages, name) if word == instruction][-1]


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def test_the_base_image_is_pinned_by_version_and_digest(dockerfile):
    arguments, stages = dockerfile
    pinned = r"python:3\.\d+\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}"
    assert re.fullmatch(pinned, arguments["PYTHON_IMAGE"])
    known = {"${PYTHON_IMAGE}"}
    for stage in stages.values():
        assert stage.base in known, f"{stage.name} starts from {stage.base}"
        for rest in stage.words_of("COPY"):
            assert set(re.findall(r"--from=(\S+)", rest)) <= known
        known.add(stage.name)
    assert list(stages)[-1] == "service", "what a bare build makes"
    version = re.search(r"python:(\d+\.\d+)", arguments["PYTHON_IMAGE"])[1]
    for name in LOCKED:
        text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
        assert f"--python-version {version} " in text


def ignored(path):
    """Whether .dockerignore keeps a path of the repository outside; the last pattern wins."""
    parts = path.strip("/").split("/")
    outside = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pattern = line.removeprefix("!").strip("/")
        deep = pattern.startswith("**/")
        pattern = pattern.removeprefix("**/")
        own = pattern.split("/")
        starts = range(len(parts)) if deep else [0]
        matches = any(
            len(parts) >= start + len(own)
            and all(map(fnmatch.fnmatchcase, parts[start : start + len(own)], own))
            for start in starts
        )
        if matches:
            outside = not line.startswith("!")
    return outside


def copied(stages):
    """Sources of the repository that are copied, as (stage, path)."""
    for stage in stages.values():
        for rest in stage.words_of("COPY"):
            *sources, _ = [word for word in rest.split() if not word.startswith("--")]
            if "--from=" not in rest:
                yield from ((stage.name, source) for source in sources)


def test_everything_that_is_copied_exists_and_is_in_the_context(dockerfile):
    sources = list(copied(dockerfile[1]))
    assert sources
    for _, source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source


def test_what_the_library_is_built_from_is_copied(dockerfile):
    sources = {source.rstrip("/") for _, source in copied(dockerfile[1])}
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    needed = {"setup.py", "setup.cfg", "pyproject.toml", "cascade", "MANIFEST.in"}
    needed |= {setup["metadata"]["license_files"]}
    needed |= {setup["metadata"]["long_description"].removeprefix("file: ")}
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8")
    needed |= {word.split("/")[0] for word in re.findall(r"^include (\S+)", manifest, re.MULTILINE)}
    assert needed <= sources
    assert not ignored("models/default.safetensors")
    assert not ignored("models/default_onnx/cascade.json")
    assert not ignored("models/fast_onnx/cascade.json")
    assert ignored("models/default_run/masks/photo.png")
    assert not ignored("cascade/evaluation/report.html")


@pytest.mark.parametrize(
    "path",
    [
        ".git/config", ".venv/bin/python", "dataset/images_all/a.jpg", "dataset/train_data.csv",
        "models/segmenter/best.safetensors", "models/cascade.safetensors", "results/a.csv",
        "predictions/predictions.csv", "demo/dataset/images_all/a.jpg", "photo.jpg",
        "tests/api.txt",
        ".env",
    ],
)  # fmt: skip
def test_data_models_and_leftovers_stay_outside(path):
    assert ignored(path)


def test_nothing_is_fetched_but_packages_with_known_hashes(dockerfile):
    for stage in dockerfile[1].values():
        assert not stage.words_of("ADD")
        for rest in [*stage.words_of("ENV"), *stage.words_of("ARG")]:
            assert not re.search(r"TOKEN|SECRET|PASSWORD|KEY", rest, re.IGNORECASE)
        for rest in stage.words_of("RUN"):
            assert not re.search(r"\b(curl|wget|git|apt-get|apt)\b|https?://", rest)
            for step in rest.split("&&"):
                if re.search(r"\bpip\b.*\binstall\b", step) and "uninstall" not in step:
                    assert "--require-hashes" in step or "--no-index" in step, step
                if re.search(r"\bpip\b.*\bwheel\b", step) and "uninstall" not in step:
                    assert {"--no-deps", "--no-build-isolation"} <= set(step.split()), step


@pytest.mark.parametrize("image", IMAGES)
def test_it_runs_as_a_numbered_user_without_rights(dockerfile, image):
    user, _, group = last(dockerfile[1], image, "USER").partition(":")
    assert user.isdigit()
    assert int(user) >= 10000
    assert group.isdigit()
    assert int(group) >= 10000
    made = " ".join(rest for word, rest in inherited(dockerfile[1], image) if word == "RUN")
    assert f"--uid {user}" in made
    assert f"--gid {group}" in made


@pytest.mark.parametrize(("image", "expected"), IMAGES.items())
def test_its_command_is_that_of_the_library(dockerfile, image, expected):
    stages = dockerfile[1]
    command, port = expected
    assert json.loads(last(stages, image, "ENTRYPOINT")) == ["cascade"]
    word, *flags = json.loads(last(stages, image, "CMD"))
    assert word == command
    assert flags == ["--host", "0.0.0.0", "--port", str(port)]
    assert last(stages, image, "EXPOSE") == str(port)
    if command in COMMANDS:
        parser = module_of(command).build_parser()
        given = parser.parse_args(flags)
        assert (given.host, given.port) == ("0.0.0.0", port)


@pytest.mark.parametrize(("image", "port"), [(name, IMAGES[name][1]) for name in IMAGES])
def test_its_health_is_asked_at_its_own_port(dockerfile, image, port):
    rest = last(dockerfile[1], image, "HEALTHCHECK")
    options, command = rest.split("CMD", 1)
    assert {"--interval", "--timeout", "--start-period", "--retries"} <= set(
        re.findall(r"--[a-z-]+", options)
    )
    program, flag, code = json.loads(command)
    assert (program, flag) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert f"'127.0.0.1', {port}" in code


@pytest.mark.parametrize("image", IMAGES)
def test_a_container_may_do_as_little_as_possible(compose, dockerfile, image):
    service = compose["services"][image]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == last(dockerfile[1], image, "USER")
    assert service["mem_limit"] == service["memswap_limit"] == "1g", "nothing is swapped"
    assert service["pids_limit"] > 0
    assert service["cpus"] == 2, "1 GB suffices for as many requests at once"
    port = last(dockerfile[1], service["build"]["target"], "EXPOSE")
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"], "from this machine only"
    assert not {"disable", "test"} & set(service["healthcheck"]), "that of the image"
    assert int(service["stop_grace_period"].removesuffix("s")) > 10
    (scratch,) = service["tmpfs"]
    folder, _, options = scratch.partition(":")
    assert folder == "/tmp"
    assert {"noexec", "nosuid", "nodev"} <= set(options.split(","))
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices", "volumes"} & set(
        service
    )


def locked(name):
    """Requirement and hashes of each entry of a lock file."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    joined = re.sub(r"\\\n\s*", "", text)
    for line in joined.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement, *hashes = line.split("--hash=sha256:")
            yield Requirement(requirement.strip()), hashes


@pytest.mark.parametrize("name", LOCKED)
def test_every_requirement_is_pinned_with_hashes(name):
    entries = list(locked(name))
    assert entries
    for requirement, hashes in entries:
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"[0-9a-f]{64}", word.strip()) for word in hashes)
    names = {canonicalize_name(requirement.name) for requirement, _ in entries}
    assert not names & {"torch", "torchvision", "timm", "segmentation-models-pytorch", "onnx"}


def test_pins_satisfy_what_the_library_asks_for():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = setup["options"]["install_requires"].split("\n")
    for extra in ("serve", "app"):
        lines += setup["options.extras_require"].get(extra, "").split("\n")
    tested = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    lines += [line for line in tested if not line.startswith("#")]
    asked = [Requirement(line) for line in lines if line]
    versions = {canonicalize_name(r.name): str(r.specifier)[2:] for r, _ in locked("serve")}
    for requirement in asked:
        version = versions.get(canonicalize_name(requirement.name))
        assert version is None or requirement.specifier.contains(version), requirement
