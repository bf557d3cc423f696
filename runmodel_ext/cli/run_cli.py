"""A LightningCLI whose results lie in a directory that the configuration names."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from runmodel_ext._files import refusals_explained
from runmodel_ext._private import optimizer_keys, parser_of
from runmodel_ext.callbacks import RunRecorder, how_it_ended
from runmodel_ext.cli import outfit
from runmodel_ext.cli.by_hand import FitByHand
from runmodel_ext.cli.checkpoints import check_checkpoint, differences, tell_differences
from runmodel_ext.cli.classes import described
from runmodel_ext.cli.decisions import Decider, Decision
from runmodel_ext.cli.endings import endings_explained
from runmodel_ext.cli.identity import identity_of
from runmodel_ext.cli.parse_errors import one_sentence, users_own
from runmodel_ext.cli.parser import RunOptions, RunParser
from runmodel_ext.cli.plain import config_text, objects_kept_as_they_are, plain_config
from runmodel_ext.cli.shorthands import expand
from runmodel_ext.cli.starting import parent_to_extend, start_from
from runmodel_ext.cli.summary import print_summary
from runmodel_ext.errors import ConfigError, RunModelError
from runmodel_ext.runs import Identity, NameTemplate, Run, code_state, environment, global_rank

_LARGEST_SEED = 2**32 - 1  # that NumPy takes


class RunCLI(LightningCLI):
    """A :class:`~lightning.pytorch.cli.LightningCLI` that names, records, resumes and finds runs.

    It takes what LightningCLI takes. ``fit`` writes everything into a directory that the configuration names,
    and can be repeated; ``test``, ``validate`` and ``predict`` find the run of the same configuration, and its
    best checkpoint. The seed is 0 unless given, so that a plain ``fit`` is reproducible.

    Args:
        model_class: The LightningModule, as for LightningCLI; any, chosen by ``class_path``, where it is ``None``.
        datamodule_class: The LightningDataModule, likewise.
        seed_everything_default: The seed where none is given.
        parser_class: A subclass of :class:`RunParser`, for arguments of one's own.
        args: Arguments instead of those of the command line; errors are raised then, not printed.
        **kwargs: All else that LightningCLI takes.

    Attributes:
        parsers: The parser of each command, in the order of ``subcommands()``.
        run: The run, once it is decided on; ``None`` where nothing is recorded.
        identity: What the configuration is.

    Raises:
        RunModelError: If the user's input cannot be used, and ``args`` are given.
        SystemExit: With code 2 and one sentence, where they come from the command line.
    """

    def __init__(
        self,
        model_class: Any = None,
        datamodule_class: Any = None,
        *,
        seed_everything_default: bool | int = 0,
        parser_class: type[RunParser] = RunParser,
        save_config_callback: Any = None,
        args: Any = None,
        **kwargs: Any,
    ) -> None:
        self.run: Run | None = None
        self.parsers: list[LightningArgumentParser] = []
        self.identity: Identity
        self.decision: Decision | None = None
        self._decider: Decider | None = None
        self._by_hand = not kwargs.get("run", True)
        with _user_errors(printed=args is None):
            super().__init__(
                model_class,
                datamodule_class,
                save_config_callback=save_config_callback,
                seed_everything_default=seed_everything_default,
                parser_class=parser_class,
                args=args,
                **kwargs,
            )

    @override
    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_default_arguments_to_parser(parser)
        parser.add_class_arguments(RunOptions, "run", instantiate=False)
        self.parsers.append(parser)

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        if isinstance(args, dict) or hasattr(args, "as_dict"):
            super().parse_arguments(parser, args)
        else:
            words = list(sys.argv[1:] if args is None else args)
            if words[:1] == ["explain"]:
                words[0] = "fit"
                self._explaining = True
            written_out = expand([str(word) for word in words], own_classes=not self.subclass_mode_model)
            self.config = parser.parse_args(written_out)
        # Lightning would let the hyperparameters of a checkpoint override the arguments: it must not see the path.
        self._ckpt_path = self._section.get("ckpt_path")
        if self._ckpt_path is not None:
            self._section["ckpt_path"] = None
        seed = self._section.get("seed_everything")
        self._seed_was_drawn = seed is True
        if isinstance(seed, int) and not 0 <= seed <= _LARGEST_SEED:
            raise ConfigError(f"`seed_everything` must be from 0 to {_LARGEST_SEED}, but is {seed}.")
        if not self._section["run"]["root"]:
            raise ConfigError("`run.root` is empty. Name a directory, or leave it out for 'results'.")

    _explaining = False
    _ckpt_path: str | None = None

    @override
    def before_instantiate_classes(self) -> None:
        self._options = self._section["run"].as_dict()
        self._root = Path(self._options["root"])
        self._parent: dict[str, Any] | None = None
        if self._kind == "fit":
            start_from(self._options, self._ckpt_path)
            if self._options["start"]:
                check_checkpoint(self._options["start"], self._trusting)
            if self._options["extend"]:
                max_epochs = self._section["trainer"].get("max_epochs")
                self._parent = parent_to_extend(self._options["extend"], self._root, max_epochs)
        dumped = self._dumped()
        self.identity = identity_of(self._identifying(dumped), self._classes(), self._seed())
        template = NameTemplate(self._options["name"], self._options["aliases"])
        template.check(self.identity.settings)
        self._decider = Decider(self._root, template, self.identity)
        if self._explaining:
            from runmodel_ext.cli.explain import explain

            explain(self._root, template, self.identity, self._options)
            raise SystemExit(0)
        if self._leaves_nothing and self._kind == "fit":
            return
        with refusals_explained(self._root):
            self.decision = self._decide(self._decider, dumped)
        self._tell(self.decision.notices)
        self._check_checkpoint()
        if self._seed_was_drawn and self.decision.seed != self._seed():
            self._section["seed_everything"] = seed_everything(self.decision.seed, workers=True, verbose=False)
        if self.decision.folder:
            self.run = Run.read(self.decision.path)
            here = self.run.path.absolute()
            outfit.keep_inside(self._section["trainer"], here, self.decision.folder)
            outfit.keep_callbacks_inside(self._callback_specs(), [], here)
        elif self.decision.action == "done":
            self.run = Run.read(self.decision.path)

    @override
    def instantiate_classes(self) -> None:
        try:
            with objects_kept_as_they_are():
                super().instantiate_classes()
        except BaseException as error:
            self._abandon()
            own = users_own(error)
            if isinstance(own, MisconfigurationException):  # Lightning's word for a mistake of the user's
                raise ConfigError(one_sentence(str(own))) from own
            if own is not error:
                raise own from None
            raise

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = {**self._trainer_config(), **kwargs}
        if self.decision is None or self.decision.action == "done" or self._leaves_nothing:
            return super().instantiate_trainer(**{**kwargs, **({"logger": False} if self.decision else {})})
        callbacks = outfit.as_list(trainer.get("callbacks"))
        # LightningCLI adds these to what it is given.
        others = [self._instances[key] for key in self._callback_keys if self._instances.get(key) is not None]
        others += outfit.as_list(self.trainer_defaults.get("callbacks"))
        by_hand = None
        if self.decision.action == "evaluate":
            added = outfit.evaluation_callbacks(self.decision, self._kind, self.model)
        else:
            outfit.keep_callbacks_inside([], others, self.decision.run_path.absolute())
            added = self._fit_callbacks(trainer, [*callbacks, *others])
            if self._by_hand and self._decider is not None:
                by_hand = FitByHand(self._decider.claim, self.decision.checkpoint)
                added.append(by_hand)
        outfitted = {
            "callbacks": [*callbacks, *added],
            "logger": self._loggers(trainer),
            "plugins": outfit.plugins_of(trainer.get("plugins"), trainer.get("strategy")),
        }
        checkpoints = any(isinstance(one, Checkpoint) for one in [*callbacks, *others])
        if self.decision.action == "evaluate" and not checkpoints:
            outfitted["enable_checkpointing"] = False
        built = super().instantiate_trainer(**{**kwargs, **outfitted})
        if by_hand is not None:
            by_hand.hold(built)
        return built

    def fit(self, model: LightningModule, **kwargs: Any) -> None:
        """Fit, unless the run is done; record how it ends."""
        if self.decision is None:
            self.trainer.fit(model, **kwargs)
            return
        assert self.run is not None
        if self.decision.action != "done":
            self._fit(model, **kwargs)
        self.run = Run.read(self.run.path)
        done = self.decision.action == "done" and self.run.status == "finished"
        self._print(self.run, "finished already" if done else None)

    def validate(self, model: LightningModule, **kwargs: Any) -> Any:
        """Validate the run's best checkpoint."""
        return self._evaluate(self.trainer.validate, model, **kwargs)

    def test(self, model: LightningModule, **kwargs: Any) -> Any:
        """Test the run's best checkpoint."""
        return self._evaluate(self.trainer.test, model, **kwargs)

    def predict(self, model: LightningModule, **kwargs: Any) -> Any:
        """Predict with the run's best checkpoint, and write the predictions as a table."""
        kwargs["return_predictions"] = False
        return self._evaluate(self.trainer.predict, model, **kwargs)

    @property
    def _kind(self) -> str:
        return self.config.get("subcommand") or "fit"

    @property
    def _section(self) -> Any:
        return self.config[self.config["subcommand"]] if self.config.get("subcommand") else self.config

    @property
    def _leaves_nothing(self) -> bool:
        return bool(self._section["trainer"].get("fast_dev_run"))

    @property
    def _trusting(self) -> bool:
        return self._section.get("weights_only") is False

    def _seed(self) -> int | None:
        seed = self._section.get("seed_everything")
        return None if seed is None or seed is False else int(seed)

    @property
    def _command_parser(self) -> Any:
        return parser_of(self, self.config.get("subcommand"))

    @property
    def _callback_keys(self) -> list[str]:
        return list(self._command_parser.callback_keys)

    def _callback_specs(self) -> list[Any]:
        """The settings of callbacks that have a key of their own, with their classes."""
        classes = self._command_parser.callback_classes
        return [(classes.get(key), self._section[key]) for key in self._callback_keys if self._section.get(key)]

    def _dumped(self) -> dict[str, Any]:
        with objects_kept_as_they_are():
            dumped = yaml.safe_load(self.parser.dump(self.config, skip_link_targets=True, skip_unset=False))
        config: dict[str, Any] = dumped[self._kind] if self.config.get("subcommand") else dumped
        return config

    def _identifying(self, dumped: dict[str, Any]) -> dict[str, Any]:
        """The settings in plain words, with what the script itself gives the Trainer."""
        config: dict[str, Any] = plain_config(self._section, dumped)
        # A parent is known by what it is, not by where it lies.
        parent = f"{self._parent['digest']}/{self._parent['seed']}" if self._parent else None
        config["run"].update(start=self._options["start"], extend=parent)
        if own := outfit.as_list(self.trainer_defaults.get("callbacks")):
            trainer = config["trainer"]
            trainer["callbacks"] = [*outfit.as_list(trainer.get("callbacks")), *map(described, own)]
        return config

    def _classes(self) -> dict[str, Any]:
        """The class behind each key whose class the script has chosen, and not the configuration."""
        parser = self._command_parser
        chosen = {**parser.callback_classes}
        for key, cls in optimizer_keys(parser).items():
            chosen[key] = cls if isinstance(cls, type) else None
        chosen["model"] = None if self.subclass_mode_model else self.model_class
        chosen["data"] = None if self.subclass_mode_data else self.datamodule_class
        return chosen

    def _decide(self, decider: Decider, dumped: dict[str, Any]) -> Decision:
        if self._kind != "fit":
            return decider.evaluate(self._kind, self._options, self._ckpt_path)
        decision = decider.fit(self._options, lambda: self._contents(dumped))
        if self._by_hand and decision.action == "done" and self._options["on_existing"] in ("auto", "resume"):
            # A fit that is called by hand does train: what is there must stay as it is.
            decision = decider.fit({**self._options, "on_existing": "new"}, lambda: self._contents(dumped))
        return decision

    def _contents(self, dumped: dict[str, Any]) -> dict[str, Any]:
        code, patch = code_state(Path.cwd(), self._root)
        config = plain_config(self._section, dumped, for_a_file=True)
        config["run"]["start"] = self._options["start"]
        if code is not None:
            code["patch"] = "code.patch" if patch else None
        return {
            "config": self._schema_line() + config_text(config, self._parent["run"] if self._parent else None),
            "patch": patch,
            "tags": self._options["tags"],
            "notes": self._options["notes"],
            "code": code,
            "environment": environment(),
            "parent": self._parent,
        }

    def _schema_line(self) -> str:
        # From <root>/<data>/<model>/… an editor finds the schema that `runmodel schema` writes into the root.
        schema = self._root.absolute() / "runmodel.schema.json"
        return f"# yaml-language-server: $schema={schema.as_uri()}\n" if schema.exists() else ""

    def _check_checkpoint(self) -> None:
        assert self.decision is not None
        if self.decision.checkpoint is None:
            return
        try:
            found = differences(check_checkpoint(self.decision.checkpoint, self._trusting), self.identity.settings)
        except RunModelError:
            self._abandon()
            raise
        if found and self.decision.action != "resume":
            self._tell([tell_differences(self.decision.checkpoint, found)])

    @property
    def _instances(self) -> Any:
        return self.config_init.get(str(self.subcommand), self.config_init)

    def _trainer_config(self) -> dict[str, Any]:
        return dict(self._instances.get("trainer") or {})

    def _loggers(self, trainer: dict[str, Any]) -> Any:
        assert self.decision is not None
        if not self.decision.folder or trainer.get("barebones"):
            return False
        return outfit.loggers_of(trainer.get("logger"), self.decision.run_path.absolute(), self.decision.folder)

    def _fit_callbacks(self, trainer: dict[str, Any], callbacks: list[Any]) -> list[Any]:
        assert self.decision is not None
        writer = self.decision.writer
        assert writer is not None
        monitor, mode = outfit.monitored(self.model, self.datamodule, trainer, callbacks)
        if global_rank() == 0:
            writer.update(lambda record: record.update(monitor=monitor, mode=mode))
        wanted = getattr(self.model, "monitor", None)
        if isinstance(wanted, str) and monitor is None:
            self._tell([f"There is no validation, so '{wanted}' chooses no best checkpoint; the last one is kept."])
        recorder = RunRecorder(writer, monitor, mode, outfit.score_modes(self.model))
        if trainer.get("enable_checkpointing") is False or trainer.get("barebones"):
            return [recorder]
        return outfit.checkpoints_of(callbacks, recorder, self.decision.run_path.absolute())

    def _fit(self, model: LightningModule, **kwargs: Any) -> None:
        assert self.decision is not None
        assert self.run is not None
        kwargs.pop("ckpt_path", None)
        try:
            with endings_explained(self.run.path, self.decision.checkpoint), warnings.catch_warnings():
                # Of a run that goes on, the directory has the run's own checkpoints in it.
                warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
                # One that starts from another's checkpoint keeps its own beside itself.
                warnings.filterwarnings("ignore", message="The dirpath has changed")
                self.trainer.fit(model, ckpt_path=self.decision.checkpoint, **kwargs)
        except BaseException as error:
            self._record_end(error)
            raise
        finally:
            if self._decider is not None and self._decider.claim is not None:
                self._decider.claim.release()

    def _record_end(self, error: BaseException) -> None:
        assert self.decision is not None
        assert self.run is not None
        if global_rank() != 0 or not self.run.path.exists():
            return
        run, writer = Run.read(self.run.path), self.decision.writer
        if writer is not None and run.record["status"] == "running":
            writer.end(*how_it_ended(error))
        if isinstance(error, RunModelError) and not run.progress and not run.metrics():
            self._abandon()  # a mistake of the user's that came to light before anything was trained

    def _evaluate(self, function: Any, model: LightningModule, **kwargs: Any) -> Any:
        assert self.decision is not None
        kwargs["ckpt_path"] = self.decision.checkpoint
        with endings_explained(self.decision.run_path, self.decision.checkpoint), warnings.catch_warnings():
            # It asks for the callbacks that the fit had, which an evaluation has no use for.
            warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")
            result = function(model, **kwargs)
        if self.run is not None and self.decision.folder:
            self.run = Run.read(self.run.path)
            self._print(self.run, None, folder=self.decision.folder)
        elif self._kind == "predict":
            self._tell([f"The predictions lie in '{self.decision.path}'."])
        return result

    def _abandon(self) -> None:
        if self._decider is not None:
            self._decider.abandon()

    @staticmethod
    @rank_zero_only
    def _tell(notices: Sequence[str]) -> None:
        for notice in notices:
            print(notice, file=sys.stderr)

    @staticmethod
    @rank_zero_only
    def _print(run: Run, remark: str | None, folder: str | None = None) -> None:
        print_summary(run, remark, folder)


@contextmanager
def _user_errors(printed: bool) -> Iterator[None]:
    try:
        yield
    except RunModelError as error:
        if not printed or os.environ.get("RUNMODEL_DEBUG"):
            raise
        # A script of one's own speaks under its own name.
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
