"""Puts the cascades of models/ into a built library; all else stands in setup.cfg."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

MODELS = Path(__file__).parent / "models"
SHIPPED = ("default.safetensors", "default_onnx/*", "fast_onnx/*")


class BuildWithModel(build_py):
    """Copies the cascades beside the code of a wheel; a clone reads it from models/."""

    def run(self) -> None:
        """Build the modules, then copy their files, if there are any."""
        super().run()
        for file, copy in self._copies():
            self.mkpath(str(copy.parent))
            self.copy_file(str(file), str(copy))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """All files that are built, with theirs."""
        outputs: list[str] = super().get_outputs(include_bytecode)
        return [*outputs, *(str(copy) for _, copy in self._copies())]

    def _copies(self) -> list[tuple[Path, Path]]:
        """Pairs of a file in models/ and its place in the library."""
        if self.editable_mode:
            return []
        files = [path for pattern in SHIPPED for path in sorted(MODELS.glob(pattern))]
        package = Path(self.build_lib) / "cascade"
        return [(file, package / file.relative_to(MODELS)) for file in files]


setup(cmdclass={"build_py": BuildWithModel})
