"""The names that others build on."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

FACES = [
    "runmodel_ext",
    *(f"runmodel_ext.{room}" for room in ["runs", "cli", "modules", "networks", "data", "callbacks", "finetuning"]),
]

NAMES = {
    "runmodel_ext": "ClassificationModule RegressionModule RunCLI Stage StagedFinetuning SupervisedModule Until "
    "__version__ gradual_unfreezing linear_probe_then_finetune",
    "runmodel_ext.runs": "Run Score adopt compare_runs find_runs resolve_run to_frame to_records value_of",
    "runmodel_ext.cli": "RunCLI",
    "runmodel_ext.modules": "ClassificationModule RegressionModule Step SupervisedModule",
    "runmodel_ext.networks": "CNN MLP",
    "runmodel_ext.data": "Diabetes Digits ImageFolder",
    "runmodel_ext.callbacks": "RunRecorder StagedFinetuning",
    "runmodel_ext.finetuning": "Best Plateau Reaches Schedule Stage Until Warmup described find_blocks "
    "gradual_unfreezing linear_probe_then_finetune make_plan plan_rows print_plan",
}


@pytest.mark.parametrize("face", FACES)
def test_every_name_of_a_face_exists(face: str) -> None:
    module = import_module(face)
    assert sorted(set(module.__all__)) == sorted(module.__all__)
    for name in module.__all__:
        assert not isinstance(getattr(module, name), ModuleType), name


@pytest.mark.parametrize("face", FACES)
def test_the_names_that_others_build_on_are_there(face: str) -> None:
    assert set(NAMES[face].split()) <= set(import_module(face).__all__)


@pytest.mark.parametrize("face", ["runmodel_ext", "runmodel_ext.cli", "runmodel_ext.runs"])
def test_a_lazy_face_lists_its_names_and_knows_no_others(face: str) -> None:
    module = import_module(face)
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match=f"module '{face}' has no attribute 'no_such_name'"):
        getattr(module, "no_such_name")  # noqa: B009


@pytest.mark.parametrize("face", ["runmodel_ext", "runmodel_ext.cli", "runmodel_ext.runs"])
def test_a_name_of_a_lazy_face_is_never_hidden_by_a_file_of_that_name(face: str) -> None:
    # Python binds a file to its folder when it is imported, and `__getattr__` is not asked any more.
    module = import_module(face)
    files = {path.stem for path in Path(str(module.__file__)).parent.glob("*.py")}
    for name in sorted(files & set(module.__all__)):
        program = f"import {face}.{name}, types\nprint(isinstance({face}.{name}, types.ModuleType))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout == "False\n", f"`from {face} import {name}` gives a module once the file is imported"
