"""What the parser refuses, in the words that a user reads; the texts of jsonargparse behind them are its own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import runmodel_ext.data
import runmodel_ext.modules
import runmodel_ext.networks
from runmodel_ext.cli import RunCLI
from runmodel_ext.cli.parse_errors import explain
from runmodel_ext.cli.parser import RunParser
from runmodel_ext.errors import ConfigError

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "configs" / "digits.yaml"
MODULE = "runmodel_ext.modules.ClassificationModule"
CALLBACKS = "lightning.pytorch.callbacks"
SEE = " See `runmodel fit --help`."

Refused = Callable[..., str]


class OnlyParsers(RunCLI):
    """Builds the parsers, and goes no further."""

    def parse_arguments(self, parser: RunParser, args: object) -> None:
        raise StopIteration

    def __init__(self) -> None:
        options = {"default_env": True, "env_prefix": "RUNMODEL", "prog": "runmodel"}
        with pytest.raises(StopIteration):
            super().__init__(args=[], parser_kwargs=options)


@pytest.fixture(scope="module")
def parser() -> RunParser:
    return OnlyParsers().parser


@pytest.fixture
def refused(parser: RunParser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Parse ``fit`` with the example of the digits, which must be refused; what the user reads."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.yaml").write_text(DIGITS.read_text())

    def run(*words: str) -> str:
        with pytest.raises(ConfigError) as error:
            parser.parse_args(["fit", "--config", "digits.yaml", *words])
        sentence = str(error.value)
        assert "\n" not in sentence
        assert sentence.endswith(SEE)
        return sentence.removesuffix(SEE)

    return run


@pytest.fixture
def config_refused(parser: RunParser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Parse ``fit`` with a changed example of the digits, which must be refused."""
    monkeypatch.chdir(tmp_path)

    def run(change: Callable[[dict], object] | str) -> str:
        config = yaml.safe_load(DIGITS.read_text())
        if not isinstance(change, str):
            change(config)
        Path("my.yaml").write_text(change if isinstance(change, str) else yaml.safe_dump(config))
        with pytest.raises(ConfigError) as error:
            parser.parse_args(["fit", "--config", "my.yaml"])
        return str(error.value).removesuffix(SEE)

    return run


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model.lrr=1"], f"`model.lrr` is not an argument of {MODULE}. Did you mean 'lr'?"),
        (["--model.lr=x"], "`model.lr` must be a float or null, but is 'x'."),
        (
            ["--model.task=multi"],
            "`model.task` must be 'multiclass', 'binary' or 'multilabel', but is 'multi'. Did you mean 'multilabel'?",
        ),
        (
            ["--model.network.widht=1"],
            "`model.network.widht` is not an argument of runmodel_ext.networks.CNN. Did you mean 'width'?",
        ),
        (["--model.network.width=x"], "`model.network.width` must be an int, but is 'x'."),
        (
            ["--model.network=torch.nn.Linear", "--model.network.zzz=1"],
            "`model.network.zzz` is not an argument of torch.nn.Linear. "
            "It takes in_features, out_features, bias, device, dtype.",
        ),
        (
            ["--model.optimizer=torch.optim.SGD", "--model.optimizer.momentun=1"],
            "`model.optimizer.momentun` is not an argument of torch.optim.SGD. Did you mean 'momentum'?",
        ),
        (
            ["--model.optimizer.lr=1"],
            "`model.optimizer.lr` cannot be set, because `model.optimizer` names no class. "
            "Give it first: `--model.optimizer CLASS`, or `class_path` and `init_args` in a configuration.",
        ),
        (["--data.batch_size=x"], "`data.batch_size` must be an int, but is 'x'."),
        (["--trainer.max_epochs=x"], "`trainer.max_epochs` must be an int or null, but is 'x'."),
        (
            ["--trainer.limit_train_batches=x"],
            "`trainer.limit_train_batches` must be an int, a float or null, but is 'x'.",
        ),
        (["--seed_everything=x"], "`seed_everything` must be true, false or an int, but is 'x'."),
        (
            ["--run.on_existing=resum"],
            "`run.on_existing` must be 'auto', 'new', 'resume', 'skip', 'overwrite' or 'error', but is 'resum'. "
            "Did you mean 'resume'?",
        ),
        (["--run.tags=a"], "`run.tags` must be a list, but is 'a'."),
        (["--run.aliases=a"], "`run.aliases` must be a mapping, but is 'a'."),
        (["--run.roots=a"], "There is no option '--run.roots'. Did you mean '--run.root'?"),
        (["--qqq"], "There is no option '--qqq'."),
        (["stray"], "There is no argument 'stray'."),
        (["--trainer.max_epochs"], "`--trainer.max_epochs` needs a value, but none is given."),
        (["--config"], "`--config` needs a value, but none is given."),
        (
            ["--config", "digit.yaml"],
            "There is no configuration file 'digit.yaml'. Did you mean 'digits.yaml'?",
        ),
        (["--config", "."], "The configuration '.' is a directory, not a file. Give a YAML file."),
        (
            ["--config", "hello: 1"],
            "There is no key `hello`.",
        ),
    ],
)
def test_an_option_that_cannot_be_used(words: list[str], sentence: str, refused: Refused) -> None:
    assert refused(*words) == sentence


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--model=ClassificationModul"],
            "There is no class 'ClassificationModul' for `model`. Did you mean 'ClassificationModule'?",
        ),
        (
            ["--model=nope.Nope"],
            "The class 'nope.Nope' for `model` cannot be imported: No module named 'nope'. "
            "Check its spelling, and that its module is on the path.",
        ),
        (
            ["--data=runmodel_ext.data.Digit"],
            "The class 'runmodel_ext.data.Digit' for `data` cannot be imported: "
            "module 'runmodel_ext.data' has no attribute 'Digit'. Did you mean 'Digits'?",
        ),
        (["--model=torch.nn.Linear"], "`model` must be a LightningModule, but torch.nn.Linear is none."),
        (["--trainer.logger=torch.nn.Linear"], "`trainer.logger` must be a Logger, but torch.nn.Linear is none."),
        (
            ["--model.network=Zzzz"],
            "There is no class 'Zzzz' for `model.network`. Give its whole import path, as in `package.module.Class`.",
        ),
        (["--model.network=CNNN"], "There is no class 'CNNN' for `model.network`. Did you mean 'CNN'?"),
        (["--optimizer=Adamm"], "There is no class 'Adamm' for `optimizer`. Did you mean 'Adam'?"),
        (["--optimizer=SGD", "--optimizer.lr=x"], "`optimizer.lr` must be a float or a Tensor, but is 'x'."),
        (
            ["--trainer.callbacks+=EarlyStoping"],
            "There is no class 'EarlyStoping' for `trainer.callbacks`. Did you mean 'EarlyStopping'?",
        ),
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.patince=3"],
            f"`trainer.callbacks.patince` is not an argument of {CALLBACKS}.EarlyStopping. Did you mean 'patience'?",
        ),
        (["--trainer.callbacks=3"], "`trainer.callbacks` must be a list, a class or null, but is '3'."),
        (
            ["--lr_scheduler=StepLR"],
            "`lr_scheduler.step_size` is required by torch.optim.lr_scheduler.StepLR, but not given. "
            "Set it in a configuration or as an option.",
        ),
    ],
)
def test_a_class_that_cannot_be_used(words: list[str], sentence: str, refused: Refused) -> None:
    assert refused(*words) == sentence


def callback(**init_args: object) -> Callable[[dict], object]:
    spec = {"class_path": "EarlyStopping", "init_args": init_args}
    return lambda config: config["trainer"].update(callbacks=[spec])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda config: config.update(triner={"max_epochs": 1}),
            "There is no key `triner.max_epochs`. Did you mean 'trainer.max_epochs'?",
        ),
        (
            lambda config: config["trainer"].update(max_epoch=1),
            "There is no key `trainer.max_epoch`. Did you mean 'trainer.max_epochs'?",
        ),
        (
            lambda config: config.update(run={"ignor": []}),
            "There is no key `run.ignor`. Did you mean 'run.ignore'?",
        ),
        (
            lambda config: config["model"]["init_args"].update(lrr=1),
            f"In 'my.yaml': `model.lrr` is not an argument of {MODULE}. Did you mean 'lr'?",
        ),
        (
            lambda config: config["model"]["init_args"].update(lr="fast"),
            "In 'my.yaml': `model.lr` must be a float or null, but is 'fast'.",
        ),
        (
            lambda config: config["model"]["init_args"]["network"].update(class_path="runmodel_ext.networks.CNNN"),
            "In 'my.yaml': The class 'runmodel_ext.networks.CNNN' for `model.network` cannot be imported: "
            "module 'runmodel_ext.networks' has no attribute 'CNNN'. Did you mean 'CNN'?",
        ),
        (
            lambda config: config["model"]["init_args"]["network"]["init_args"].update(width="wide"),
            "In 'my.yaml': `model.network.width` must be an int, but is 'wide'.",
        ),
        (
            lambda config: config["model"].update(init_arg=config["model"].pop("init_args")),
            "In 'my.yaml': There is no key `model.init_arg`. Did you mean 'init_args'?",
        ),
        (
            lambda config: config["model"].pop("class_path"),
            "In 'my.yaml': `model.network.init_args.width` cannot be set, because `model` names no class. "
            "Give it first: `--model CLASS`, or `class_path` and `init_args` in a configuration.",
        ),
        (
            lambda config: config.update(model={"lr": 1}),
            "In 'my.yaml': `model.lr` cannot be set, because `model` names no class. "
            "Give it first: `--model CLASS`, or `class_path` and `init_args` in a configuration.",
        ),
        (
            lambda config: config.update(model=3),
            "In 'my.yaml': `model` must be a LightningModule (its `class_path` and `init_args`) or null, but is 3.",
        ),
        (
            lambda config: config["model"]["init_args"].pop("num_classes"),
            f"`model.num_classes` is required by {MODULE}, but not given. Set it in a configuration or as an option.",
        ),
        (
            lambda config: config.pop("model"),
            "There is no model. Give one: `--model CLASS`, or `model:` in a configuration.",
        ),
        (
            callback(monitr="val/acc"),
            f"In 'my.yaml': `trainer.callbacks.monitr` is not an argument of {CALLBACKS}.EarlyStopping. "
            "Did you mean 'monitor'?",
        ),
        (
            callback(monitor="val/acc", patience="long"),
            "In 'my.yaml': `trainer.callbacks.patience` must be an int, but is 'long'.",
        ),
        (
            callback(),
            f"`trainer.callbacks.monitor` is required by {CALLBACKS}.EarlyStopping, but not given. "
            "Set it in a configuration or as an option.",
        ),
        (
            lambda config: config.update(trainer=3),
            "In 'my.yaml': `trainer` must be a mapping, but is '3'.",
        ),
        (
            "model:\n  class_path: [a\nb: }\n",
            "'my.yaml' is not valid YAML, line 3, column 2: did not find expected ',' or ']'.",
        ),
        (
            "model:\n\tx: 1\n",
            "'my.yaml' is not valid YAML, line 2, column 1: found character that cannot start any token.",
        ),
        ("", "'my.yaml' holds nothing instead of a configuration. Write keys such as `model:` and `trainer:`."),
        ("- 1\n", "'my.yaml' holds '- 1' instead of a configuration. Write keys such as `model:` and `trainer:`."),
        (
            "run: x.yaml\n",
            "In 'my.yaml': `run` must be a mapping or the path of a configuration file, but is 'x.yaml', "
            "and there is no such file.",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used(
    change: Callable[[dict], object] | str, sentence: str, config_refused: Refused
) -> None:
    assert config_refused(change) == sentence


def test_a_configuration_that_is_no_text(refused: Refused) -> None:
    Path("my.yaml").write_bytes(b"\x80\x00")
    assert refused("--config", "my.yaml") == (
        "'my.yaml' is not valid YAML: it is no text (invalid start byte at byte 0)."
    )


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("TRAINER__MAX_EPOCHS", "x", f"`trainer.max_epochs` must be an int or null, but is 'x'.{SEE}"),
        ("CONFIG", "nope.yaml", f"There is no configuration file 'nope.yaml'.{SEE}"),
        (
            "RUN__ROTO",
            "x",
            "The environment variable RUNMODEL_FIT__RUN__ROTO sets nothing. Did you mean 'RUNMODEL_FIT__RUN__ROOT'?",
        ),
        (
            "MODEL__LR",
            "1",
            "The environment variable RUNMODEL_FIT__MODEL__LR sets nothing. "
            "Set RUNMODEL_FIT__MODEL to a class, or to a whole configuration of it.",
        ),
    ],
)
def test_a_variable_of_the_environment_that_cannot_be_used(
    variable: str, value: str, sentence: str, parser: RunParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"RUNMODEL_FIT__{variable}", value)
    with pytest.raises(ConfigError) as error:
        parser.parse_args(["fit", "--config", str(DIGITS)])
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["ft"], "There is no command 'ft'. Did you mean 'fit'? See `runmodel --help`."),
        ([], "There is no command. Give one of fit, validate, test or predict. See `runmodel --help`."),
        (
            ["test", "--ckpt_pth=x"],
            "There is no option '--ckpt_pth'. Did you mean '--ckpt_path'? See `runmodel test --help`.",
        ),
        (
            ["--config", str(DIGITS), "fit"],
            "The key `model.init_args.network.init_args.width` belongs to a command, but stands before `fit`. "
            "Write `fit --config FILE`, in this order. See `runmodel fit --help`.",
        ),
    ],
)
def test_a_command_that_cannot_be_used(words: list[str], sentence: str, parser: RunParser) -> None:
    with pytest.raises(ConfigError) as error:
        parser.parse_args(words)
    assert str(error.value) == sentence


def test_a_script_that_fixes_its_model_speaks_of_the_models_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(ConfigError) as error:
        RunCLI(runmodel_ext.modules.ClassificationModule, args=["fit", "--model.num_classes=3"])
    assert str(error.value) == (
        "`model.network` is required, but not given. Set it in a configuration or as `--model.network`. "
        "See `train.py fit --help`."
    )


def test_a_text_of_an_unknown_shape_is_shown_in_one_line() -> None:
    assert explain("Something new:\n  - of a later\n    version") == "Something new: of a later version."


def test_a_value_that_looks_like_a_message_confuses_nothing() -> None:
    message = (
        "Parser key \"run.notes\":\n  Expected a <class 'int'>. Got value: Errors:\n  - Option 'x' is not accepted"
    )
    assert explain(message) == "`run.notes` must be an int, but is 'Errors: - Option 'x' is not accepted'."
