"""The public surface: a name or signature changes only together with tests/api.txt.

Write the file anew with ``python tests/test_api.py``.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path

import pytest

import cascade
from cascade.fields import declared

SURFACE = Path(__file__).with_name("api.txt")
DOCUMENTED = (
    "Cascade", "Prediction", "Failure", "Segmenter", "Classifier", "MaskPolicy",
    "SegmenterConfig", "ClassifierConfig", "TrainConfig", "SegmentationTrainConfig",
    "ClassificationTrainConfig", "read_table", "make_splits", "SegmentationDataset",
    "ClassificationDataset", "train_segmenter", "train_classifier", "evaluate",
    "evaluate_segmenter", "evaluate_classifier", "read_image",
    "CascadeError", "CascadeWarning",
)  # fmt: skip
METHODS = {
    "Cascade": {"load", "save", "predict_iter", "describe", "provenance"},
    "Segmenter": {"build", "load", "save", "predict", "describe"},
    "Classifier": {"build", "load", "save", "predict_proba", "describe"},
    "MaskPolicy": {"from_dict", "from_mode", "to_dict", "mode", "uses_mask"},
    "Prediction": {"area_fraction", "stored_box", "stored_mask"},
}


def is_error(value):
    return inspect.isclass(value) and issubclass(value, (Exception, Warning))


def signature(value):
    """Parameters with their defaults; annotations are checked by mypy, not here."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(value).parameters.values()
    ]
    return str(inspect.Signature(parameters)).replace(str(Path.cwd()), ".")


def public_methods(cls):
    """Methods and properties that cascade itself defines, not torch."""
    for name in sorted(dir(cls)):
        value = inspect.getattr_static(cls, name)
        owner = next(base for base in cls.__mro__ if name in vars(base))
        own = owner.__module__.startswith("cascade") and name not in _fields(cls)
        if own and (not name.startswith("_") or name == "__call__"):
            yield name, getattr(value, "__func__", value)


def _fields(cls):
    return {item.name for item in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else ()


def surface():
    """One line a name; the fields of results are declared, and listed, in the package itself."""
    lines = []
    for name in sorted(set(cascade.__all__) - {"__version__"}):
        value = getattr(cascade, name)
        if is_error(value):
            lines.append(f"{name}({value.__base__.__name__})")
            continue
        declares = dataclasses.is_dataclass(value) and declared(value)
        lines.append(name if declares else f"{name}{signature(value)}")
        if inspect.isclass(value):
            for method, body in public_methods(value):
                if declares and method in {field.name for field in declared(value)}:
                    continue
                shown = signature(body) if inspect.isfunction(body) else ""
                lines.append(f"{name}.{method}{shown}")
    return lines


def test_the_surface_is_the_one_on_record():
    """If this change is meant: ``python tests/test_api.py``, and a line in CHANGELOG.md."""
    assert surface() == SURFACE.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_documented_name_is_exported(name):
    assert name in cascade.__all__
    assert getattr(cascade, name) is not None
    assert name in dir(cascade)


@pytest.mark.parametrize("name", METHODS)
def test_documented_methods_exist(name):
    assert METHODS[name] <= {method for method, _ in public_methods(getattr(cascade, name))}


def test_the_surface_fits_on_one_screen():
    assert len(cascade.__all__) <= 40


@pytest.mark.parametrize("name", sorted(cascade.__all__))
def test_every_public_name_is_documented(name):
    value = getattr(cascade, name)
    if callable(value):
        assert inspect.getdoc(value), name
        own = [body for _, body in public_methods(value)] if inspect.isclass(value) else []
        for body in own:
            assert inspect.getdoc(body), f"{name}: {body}"


@pytest.mark.parametrize("name", sorted(set(cascade.__all__) - {"__version__"}))
def test_few_parameters_are_positional(name):
    value = getattr(cascade, name)
    if dataclasses.is_dataclass(value) or not callable(value) or is_error(value):
        return
    positional = [
        parameter
        for parameter in inspect.signature(value).parameters.values()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    assert len(positional) <= 4, f"{name}{inspect.signature(value)}"


def test_configurations_and_results_are_frozen():
    for name in cascade.__all__:
        value = getattr(cascade, name)
        if dataclasses.is_dataclass(value):
            assert value.__dataclass_params__.frozen, name


def test_names_are_the_same_object_each_time():
    assert cascade.Cascade is cascade.Cascade
    from cascade import Cascade
    from cascade.pipeline import Cascade as Defined

    assert Cascade is Defined


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'cascade' has no attribute 'Cascad'"):
        _ = cascade.Cascad
    with pytest.raises(ImportError):
        exec("from cascade import Cascad")


def test_star_import_gives_the_public_names():
    names = {}
    exec("from cascade import *", names)
    assert set(cascade.__all__) <= set(names)


if __name__ == "__main__":
    SURFACE.write_text("\n".join(surface()) + "\n", encoding="utf-8")
    sys.stdout.write(f"written: {SURFACE}\n")
