"""Bad input to the real command: one sentence, exit code 2, no traceback, no half-made directory."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.cli.tiny import DATA, MODEL, words
from tests.warm import Warm

# What Lightning says on its own account, whatever happens.
CHATTER = ("Seed set to", "GPU available", "TPU available", "💡", "`weights_only` was not set", "Restoring states")

Refused = Callable[..., str]
Ended = tuple[int, str]


@pytest.fixture
def ended(warm: Warm, tmp_path: Path) -> Callable[..., Ended]:
    """Run a command where the user works, with the root ``results`` there: its exit code, and what it said."""

    def run(*args: str, **env: str) -> Ended:
        command = warm.start(args, tmp_path / "output.txt", tmp_path, env)
        code = command.wait()
        lines = [line for line in command.text.splitlines() if line and not line.startswith(CHATTER)]
        return code, "\n".join(lines)

    return run


@pytest.fixture
def refused(ended: Callable[..., Ended], tmp_path: Path) -> Refused:
    """Run a command that must be refused and leave nothing; the sentence."""

    def run(*args: str, **env: str) -> str:
        before = everything_in(tmp_path)
        code, said = ended(*args, **env)
        assert "\n" not in said
        assert said.startswith("runmodel: ")
        assert said.endswith((".", "?"))
        assert code == 2
        assert everything_in(tmp_path) == before
        return said.removeprefix("runmodel: ")

    return run


def everything_in(folder: Path) -> dict[str, bytes | None]:
    """All files and directories but the log of the command."""
    found = (path for path in folder.rglob("*") if path.name != "output.txt" and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in found}


def config(folder: Path, **changes: Any) -> str:
    """A configuration file of the tiny model, with changes to its top."""
    content: dict[str, Any] = {"model": {"class_path": MODEL}, "data": {"class_path": DATA}, **changes}
    (folder / "my.yaml").write_text(yaml.safe_dump(content))
    return "--config=my.yaml"


def fit(*more: str) -> list[str]:
    return words("fit", Path("results"), *more)


def test_an_unknown_key(refused: Refused, tmp_path: Path) -> None:
    assert refused("fit", config(tmp_path, trainer={"max_epoch": 1})) == (
        "There is no key `trainer.max_epoch`. Did you mean 'trainer.max_epochs'? See `runmodel fit --help`."
    )


def test_an_unknown_argument_of_the_model(refused: Refused) -> None:
    assert refused(*fit("--model.lrr=1")) == (
        f"`model.lrr` is not an argument of {MODEL}. Did you mean 'lr'? See `runmodel fit --help`."
    )


def test_a_wrong_type(refused: Refused) -> None:
    said = refused("test", f"--model={MODEL}", "--model.lr=fast")
    assert said == "`model.lr` must be a float, but is 'fast'. See `runmodel test --help`."


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "explain"])
def test_a_class_that_does_not_import(command: str, refused: Refused) -> None:
    help_of = "fit" if command == "explain" else command
    assert refused(command, "--model=tests.cli.tiny.Tny", f"--data={DATA}") == (
        "The class 'tests.cli.tiny.Tny' for `model` cannot be imported: "
        f"module 'tests.cli.tiny' has no attribute 'Tny'. Did you mean 'Tiny'? See `runmodel {help_of} --help`."
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("class Mine(:\n", "invalid syntax (mine.py, line 1)"),
        ("raise RuntimeError('no such device')\n", "no such device"),
        ("import qqqq\n", "No module named 'qqqq'"),
    ],
)
def test_a_file_of_the_users_that_does_not_import(code: str, reason: str, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(code)
    said = refused("fit", "--model=mine.Mine", PYTHONPATH=str(tmp_path))
    assert said.startswith(f"The class 'mine.Mine' for `model` cannot be imported: {reason}. ")


def test_a_missing_configuration(refused: Refused, tmp_path: Path) -> None:
    config(tmp_path)
    assert refused("fit", "--config=mi.yaml") == (
        "There is no configuration file 'mi.yaml'. Did you mean 'my.yaml'? See `runmodel fit --help`."
    )


def test_a_broken_configuration(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("model:\n  class_path: [a\ndata: x\n")
    assert refused("fit", "--config=my.yaml") == (
        "'my.yaml' is not valid YAML, line 3, column 5: did not find expected ',' or ']'. See `runmodel fit --help`."
    )


def not_checkpoints(folder: Path) -> dict[str, str]:
    """Files that are no checkpoints, and what is said of each."""
    (folder / "text.ckpt").write_text("hello")
    torch.save({"epoch": 1, "weights": torch.zeros(1000)}, folder / "stateless.ckpt")
    (folder / "cut.ckpt").write_bytes((folder / "stateless.ckpt").read_bytes()[:1000])
    torch.save({"state_dict": {}}, folder / "weights.ckpt")
    torch.save([1, 2], folder / "list.ckpt")
    with zipfile.ZipFile(folder / "zip.ckpt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    return {
        "nothing.ckpt": "There is no checkpoint 'nothing.ckpt'. Check the path, or leave it out.",
        "text.ckpt": "'text.ckpt' is not a checkpoint, or a damaged one (5 bytes).",
        "cut.ckpt": "'cut.ckpt' is not a checkpoint, or a damaged one (1000 bytes).",
        "stateless.ckpt": "'stateless.ckpt' holds no `state_dict`, so it is not a checkpoint of Lightning.",
        "list.ckpt": "'list.ckpt' holds no `state_dict`, so it is not a checkpoint of Lightning.",
        "weights.ckpt": "'weights.ckpt' holds weights alone, and is no checkpoint of Lightning. "
        "Load it in the `__init__` of your module.",
        "zip.ckpt": "The checkpoint 'zip.ckpt' is damaged, or none: ",
    }


@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_checkpoint_that_is_not_one(command: str, refused: Refused, tmp_path: Path) -> None:
    for name, sentence in not_checkpoints(tmp_path).items():
        assert refused(*words(command, Path("results"), f"--ckpt_path={name}")).startswith(sentence)


def test_a_checkpoint_of_the_runs_own_that_was_damaged(
    refused: Refused, ended: Callable[..., Ended], tmp_path: Path
) -> None:
    assert ended(*fit())[0] == 0
    (best,) = tmp_path.rglob("best-*.ckpt")
    content = bytearray(best.read_bytes())
    start = content.index(b"state_dict") - 20
    content[start : start + 20] = bytes(20)
    best.write_bytes(content)
    name = best.relative_to(tmp_path)
    said = refused(*words("test", Path("results")))
    assert said == f"The checkpoint '{name}' is damaged: its index cannot be read."


def test_a_checkpoint_with_objects_of_the_users_own_needs_trust(
    refused: Refused, ended: Callable[..., Ended], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "from tests.cli.tiny import Tiny\n"
        "class Thing: ...\n"
        "class Mine(Tiny):\n"
        "    def on_save_checkpoint(self, checkpoint):\n"
        "        checkpoint['thing'] = Thing()\n"
    )
    path = {"PYTHONPATH": str(tmp_path)}
    args = words("test", Path("results"), model="mine.Mine")
    assert ended("fit", *args[1:], **path)[0] == 0
    said = refused(*args, **path)
    assert said.endswith(
        "best-epoch=1.ckpt' holds an object of mine.Thing, which torch builds only from a file that you trust. "
        "Give `--weights_only false` if you do."
    )
    code, said = ended(*args, "--weights_only=false", **path)
    assert code == 0
    assert "was made with other settings" not in said


def test_a_run_that_does_not_exist(refused: Refused) -> None:
    for args in (["test", "--run=abc"], ["fit", "--extend=abc", f"--model={MODEL}"]):
        assert refused(*args) == (
            "No run 'abc' below 'results': there is no such directory. "
            "Begin one with `runmodel fit`, or give another root."
        )


def test_a_reference_to_a_run_that_is_missing_or_fits_several(
    refused: Refused, ended: Callable[..., Ended], tmp_path: Path
) -> None:
    assert ended(*fit())[0] == 0
    assert ended(*fit("--model.lr=0.2"))[0] == 0
    names = sorted(str(path.parent.relative_to(tmp_path / "results")) for path in tmp_path.rglob("run.json"))
    said = refused("test", "--run=tiny")
    assert said.startswith("'tiny' fits 2 runs: ")
    assert all(f"'{name}' (finished)" in said for name in names)
    assert "'qqq'" in refused("test", "--run=qqq")
    said = refused(*words("test", Path("results"), "--model.lr=0.3"))
    assert said.startswith("No finished run of this configuration (digest ")
    assert "with model.lr=0.2 (wanted 0.3)" in said or "with model.lr=0.1 (wanted 0.3)" in said


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (
            "--run.name={model.lrr}/{digest}",
            "`run.name` '{model.lrr}/{digest}' asks for '{model.lrr}', which is neither a field nor a settings key of "
            "this configuration. Did you mean 'model.lr'",
        ),
        ("--run.name={data", "`run.name` '{data' has a brace without its partner. Write each field as {data}."),
        ("--run.name=../{digest}", "`run.name` '../{digest}' has a part '..', which is no directory of its own."),
        ("--run.name=", "`run.name` '' is empty."),
        ("--run.ignore=[data.batch_sizes]", "`run.ignore` names 'data.batch_sizes', but no setting is called so. "
         "Did you mean 'data.batch_size'"),
        ("--run.aliases={model.lrr: lr}", "The alias 'lr' is for `model.lrr`, which is not a key here. "
         "Did you mean 'model.lr'"),
        ("--run.aliases={model.lr: a/b}", "The alias 'a/b' of `model.lr` cannot stand in a name."),
        ("--run.on_existing=again", "`run.on_existing` must be 'auto', 'new', 'resume', 'skip', "
         "'overwrite' or 'error', but is 'again'."),
        ("--run.on_existing=resume", "No run of this configuration (digest "),
    ],
)  # fmt: skip
def test_an_option_of_the_run_that_cannot_be_used(option: str, sentence: str, refused: Refused) -> None:
    assert refused(*fit(option)).startswith(sentence)


def test_a_root_below_a_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file\n")
    said = refused(*fit())
    assert said.startswith("Cannot write 'results/tiny/tiny/max_epochs=2-")
    assert said.endswith("a part of the path is a file, not a directory. Choose another `run.root`.")


def test_a_root_that_is_a_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file\n")
    said = refused(*fit("--run.name={digest}-{version}"))
    assert said == "Cannot make the directory 'results': a file is in its place."


def test_a_root_whose_name_is_too_long(refused: Refused) -> None:
    name = "x" * 300
    said = refused(*words("fit", Path(name)))
    assert said == f"Cannot write '{name}': the path is longer than this system allows. Choose another `run.root`."


def test_a_root_where_no_directory_can_be_made(refused: Refused) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    said = refused(*words("fit", Path("/proc/runmodel")))
    assert said.startswith("Cannot make the directory '/proc/runmodel/")
    assert said.endswith("nothing can be made there.")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_root_without_permission(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir(mode=0o500)
    said = refused(*fit())
    assert said.startswith("Cannot write 'results")
    assert said.endswith("there is no permission to write there. Choose another `run.root`.")


@pytest.fixture
def full_disk(tmp_path: Path) -> dict[str, str]:
    """A model whose process can write no file longer than ``LIMIT``, as on a disk that is nearly full."""
    (tmp_path / "limited.py").write_text(
        "import os, resource\n"
        "from tests.cli.tiny import Tiny\n"
        "most = int(os.environ['LIMIT'])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))\n"
        "class Limited(Tiny): ...\n"
    )
    return {"PYTHONPATH": str(tmp_path)}


TOO_LARGE = "the file would be larger than this system allows. Choose another `run.root`."


@pytest.mark.parametrize(("limit", "name"), [(700, "config.yaml"), (1500, "run.json")])
def test_a_disk_too_full_for_a_record(limit: int, name: str, refused: Refused, full_disk: dict[str, str]) -> None:
    said = refused(*words("fit", Path("results"), model="limited.Limited"), LIMIT=str(limit), **full_disk)
    assert said.startswith("Cannot write 'results/")
    assert said.endswith(f"/v1/{name}': {TOO_LARGE}")


@pytest.mark.parametrize(
    ("limit", "more", "name"),
    [
        (7000, (), "checkpoints/best-epoch=0.ckpt"),
        (5000, ("--trainer.max_epochs=60", "--trainer.enable_checkpointing=false"), "fit-1/metrics.csv"),
    ],
)
def test_a_disk_that_fills_up_leaves_a_failed_run(
    limit: int, more: tuple[str, ...], name: str, ended: Callable[..., Ended], full_disk: dict[str, str], tmp_path: Path
) -> None:
    args = words("fit", Path("results"), *more, model="limited.Limited")
    code, said = ended(*args, LIMIT=str(limit), **full_disk)
    assert code == 2
    (record,) = tmp_path.rglob("run.json")
    assert said == f"runmodel: Cannot write '{record.parent / name}': {TOO_LARGE}"
    stored = json.loads(record.read_text())
    assert stored["status"] == "failed"
    assert stored["reason"].startswith(f"StorageError: Cannot write '{record.parent / name}'")
    assert not list(tmp_path.rglob("*.tmp"))
    code, said = ended(*args, LIMIT="10000000", **full_disk)
    assert code == 0
    assert json.loads(record.read_text())["status"] == "finished"


def test_a_mistake_in_a_users_class_keeps_its_type_and_traceback(ended: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from tests.cli.tiny import Tiny\n"
        "class Mine(Tiny):\n"
        "    def __init__(self):\n"
        "        raise TypeError('my own mistake')\n"
    )
    code, said = ended(*words("fit", Path("results"), model="mine.Mine"), PYTHONPATH=str(tmp_path))
    assert code == 1
    assert "Traceback" in said
    assert "mine.py" in said
    assert said.splitlines()[-1] == "TypeError: my own mistake"
    assert not (tmp_path / "results").exists()


def test_a_class_may_refuse_its_arguments_in_one_sentence(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from runmodel_ext.errors import ConfigError\n"
        "from tests.cli.tiny import Tiny\n"
        "class Mine(Tiny):\n"
        "    def __init__(self, depth: int = 0):\n"
        "        raise ConfigError(f'`depth` must be above 0, but is {depth}.')\n"
    )
    said = refused(*words("fit", Path("results"), model="mine.Mine"), PYTHONPATH=str(tmp_path))
    assert said == "`depth` must be above 0, but is 0."


def test_debugging_keeps_the_traceback_of_what_the_parser_refuses(ended: Callable[..., Ended]) -> None:
    code, said = ended("fit", "--model.lr=1", RUNMODEL_DEBUG="1")
    assert code == 1
    assert "Traceback" in said
