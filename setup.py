"""Puts the default cascade of models/ into a built library; all else stands in setup.cfg."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

MODEL = Path(__file__).parent / "models" / "default.safetensors"


class BuildWithModel(build_py):
    """Copies the default cascade beside the code of a wheel; a clone reads it from models/."""

    def run(self) -> None:
        """Build the modules, then copy the model where there is one."""
        super().run()
        if MODEL.is_file() and not self.editable_mode:
            self.copy_file(str(MODEL), str(Path(self.build_lib) / "cascade" / MODEL.name))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """All files that are built, with the model."""
        outputs: list[str] = super().get_outputs(include_bytecode)
        copied = Path(self.build_lib) / "cascade" / MODEL.name
        return [*outputs, str(copied)] if MODEL.is_file() and not self.editable_mode else outputs


setup(cmdclass={"build_py": BuildWithModel})
