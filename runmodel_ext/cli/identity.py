"""What a parsed configuration is: which settings decide the results, and which differ from the defaults."""

import functools
import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import FunctionType
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer

from runmodel_ext._files import file_digest
from runmodel_ext.cli.classes import canonical_classes, class_path, described, import_class, is_spec
from runmodel_ext.errors import ConfigError
from runmodel_ext.runs import SHOWN, Identity, data_label, did_you_mean, digest, flatten, labels, model_label, same

#: Settings of the Trainer that leave the weights as they are: devices, output, evaluation of other data.
TRAINER_IGNORES = frozenset({
    "accelerator", "barebones", "benchmark", "default_root_dir", "detect_anomaly", "devices",
    "enable_autolog_hparams", "enable_checkpointing", "enable_model_summary", "enable_progress_bar",
    "fast_dev_run", "inference_mode", "limit_predict_batches", "limit_test_batches", "log_every_n_steps",
    "logger", "model_registry", "num_nodes", "num_sanity_val_steps", "profiler", "strategy",
})  # fmt: skip

#: Callbacks that watch and do not train, by the name of a class or of one that it is derived from.
CALLBACK_IGNORES = frozenset({
    "Checkpoint", "OnExceptionCheckpoint", "ProgressBar", "ModelSummary", "LearningRateMonitor",
    "DeviceStatsMonitor", "ThroughputMonitor", "BasePredictionWriter",
})  # fmt: skip

#: Keys of a command, not of a configuration.
COMMAND_KEYS = frozenset(
    {"config", "run", "ckpt_path", "verbose", "weights_only", "return_predictions", "seed_everything"}
)

_ORDER = ("model", "optimizer", "lr_scheduler", "data", "trainer")
_LEVELS = ("data", "model", "model.network")  # keys that have a level of the path to themselves

# What Trainer makes of the arguments that it was not given, and other words for the same.
_MEANT = {"limit_train_batches": 1.0, "limit_val_batches": 1.0, "val_check_interval": 1.0,
          "precision": "32-true", "deterministic": False, "gradient_clip_algorithm": "norm"}  # fmt: skip
_PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}


@dataclass(frozen=True)
class _Split:
    """Settings taken apart: what decides, and the dotted keys and values of what does not."""

    decides: dict[str, Any]
    left_out: dict[str, Any]


def identity_of(config: Mapping[str, Any], classes: Mapping[str, Any], seed: int | None) -> Identity:
    """Work out what a parsed configuration is.

    Args:
        config: The configuration of one command, nested and plain.
        classes: The class behind ``model`` and ``data`` where the configuration does not say: ``None`` where it does.
        seed: The seed; ``None`` where nothing is seeded.

    Raises:
        ConfigError: If ``run.ignore`` or ``run.aliases`` name no key, or a value has no canonical form.
    """
    options = config["run"]
    nested = {key: value for key, value in config.items() if key not in COMMAND_KEYS and value is not None}
    for key, cls in classes.items():
        if cls is not None and key in nested:
            nested[key] = {"class_path": class_path(cls), "init_args": nested[key]}
    nested["trainer"] = _differing_trainer(nested.get("trainer", {}))
    split = _split(nested, options["ignore"])
    if options.get("start"):
        split.decides["start"] = file_digest(Path(options["start"]))
    if options.get("extend"):
        split.decides["extend"] = str(options["extend"])
    flat, full = flatten(split.decides), digest(split.decides)
    settings = {key: flat[key] for key in _ordered(flat)}
    defaults = _defaults_of(split.decides)
    changes = [key for key in settings if key not in _LEVELS and not _is_default(key, settings, defaults)]
    shown = labels(settings, changes, options["aliases"])
    specs = {key for key, _ in _specs("", split.decides)}
    listed = {key for key in changes if key.startswith("trainer.callbacks.") and key.count(".") == 2}
    fields = {
        "data": data_label(settings.get("data")),
        "model": model_label(settings),
        "changes": {
            shown[key]: "on" if key in listed else _in_a_name(key, settings[key], key in specs) for key in changes
        },
        "digest": full,
        "seed": "none" if seed is None else seed,
    }
    other = {key: value for key, value in split.left_out.items() if value is not None}
    return Identity(full, seed, settings, other, defaults, changes, fields)


def _differing_trainer(trainer: Mapping[str, Any]) -> dict[str, Any]:
    # Only what differs from Trainer's own defaults: a new version of Lightning with one more argument
    # must not give every configuration another identity.
    defaults = {name: parameter.default for name, parameter in inspect.signature(Trainer).parameters.items()}
    given = {key: value for key, value in trainer.items() if value is not None}
    if is_spec(given.get("callbacks")):
        given["callbacks"] = [given["callbacks"]]
    if "precision" in given:
        given["precision"] = _PRECISIONS.get(str(given["precision"]), given["precision"])
    return {
        key: value
        for key, value in given.items()
        if not same(value, defaults.get(key)) and not (key in _MEANT and same(value, _MEANT[key]))
    }


def _split(nested: Mapping[str, Any], patterns: Sequence[str]) -> _Split:
    splitter = _Splitter(patterns)
    decides = splitter.items(nested, "", frozenset())
    trainer = decides.get("trainer") or {}
    decides["trainer"] = {key: value for key, value in trainer.items() if not (key == "callbacks" and value == [])}
    if not decides["trainer"]:
        del decides["trainer"]
    for pattern in patterns:
        if pattern not in splitter.used:
            hint = did_you_mean(pattern, splitter.seen)
            raise ConfigError(f"`run.ignore` names '{pattern}', but no setting is called so.{hint}")
    return _Split(decides, splitter.left_out)


class _Splitter:
    """Walks through nested settings, keeps what decides the results, and notes what was left out."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = patterns
        self.left_out: dict[str, Any] = {}
        self.used: set[str] = set()
        self.seen: list[str] = []

    def value(self, value: Any, key: str) -> Any:
        """What decides of one value."""
        if is_spec(value):
            cls = import_class(value["class_path"])
            declared = getattr(cls, "identity_ignore", ())
            inner = {**(value.get("init_args") or {}), **(value.get("dict_kwargs") or {})}
            inner = getattr(cls, "identity_settings", dict)(inner)
            return {"class_path": class_path(cls), "init_args": self.items(inner, key, declared)}
        if isinstance(value, Mapping):
            return self.items(value, key, TRAINER_IGNORES if key == "trainer" else ())
        if isinstance(value, (list, tuple)) and any(is_spec(item) for item in value):
            return self.classes(value, key)
        return canonical_classes(value)

    def items(self, items: Mapping[Any, Any], key: str, declared: Any) -> dict[Any, Any]:
        """What decides of a mapping's entries; ``declared`` are those that its owner says do not."""
        result = {}
        for name, item in items.items():
            inner = f"{key}.{name}" if key else str(name)
            if self.ignored(inner) or name in declared or (not key and _watches(item)):
                self.left_out[inner] = _short(item)
            else:
                result[name] = self.value(item, inner)
        return result

    def classes(self, items: Sequence[Any], key: str) -> list[Any]:
        """What decides of a list of classes, such as callbacks."""
        kept = []
        for item in items:
            place = f"{key}.{item['class_path'].rpartition('.')[2]}" if is_spec(item) else key
            if _watches(item) or self.ignored(place):
                self.left_out.setdefault(key, []).append(_short(item))
            else:
                kept.append(self.value(item, place))
        return kept

    def ignored(self, key: str) -> bool:
        """Whether the user's patterns leave a key out."""
        self.seen.append(key)
        hits = [pattern for pattern in self.patterns if fnmatchcase(key, pattern)]
        self.used.update(hits)
        return bool(hits)


def _short(value: Any) -> Any:
    return value["class_path"] if is_spec(value) else [_short(v) for v in value] if isinstance(value, list) else value


def _watches(item: Any) -> bool:
    if not is_spec(item):
        return False
    cls = import_class(item["class_path"])
    if getattr(cls, "identity_ignore", None) is True:
        return True
    return any(
        base.__name__ in CALLBACK_IGNORES and base.__module__.split(".")[0] in ("lightning", "pytorch_lightning")
        for base in getattr(cls, "__mro__", ())
    )


@functools.cache
def class_defaults(cls: Any) -> dict[str, Any]:
    """The defaults of a class's or a function's arguments, as in a configuration; those without one are absent."""
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    add = parser.add_class_arguments if isinstance(cls, type) else parser.add_function_arguments
    add(cls, "x", fail_untyped=False, sub_configs=True)
    return dict(described(parser.get_defaults().get("x")) or {})


def _defaults_of(decides: Mapping[str, Any]) -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    for key, spec in _specs("", decides):
        cls = import_class(spec["class_path"])
        own = class_defaults(cls) if isinstance(cls, (type, FunctionType)) else {}
        given = spec.get("init_args") or {}
        flat = flatten({name: value for name, value in own.items() if name in given})
        defaults.update({f"{key}.{name}": value for name, value in flat.items()})
    return defaults


def _specs(key: str, value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if is_spec(value):
        yield key, value
        yield from _specs(key, value.get("init_args") or {})
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _specs(f"{key}.{name}" if key else str(name), item)
    elif isinstance(value, (list, tuple)) and value and all(map(is_spec, value)):
        named: Counter[str] = Counter()
        for item in value:
            name = item["class_path"].rpartition(".")[2]
            named[name] += 1
            yield from _specs(f"{key}.{name}" if named[name] == 1 else f"{key}.{name}#{named[name]}", item)


def _in_a_name(key: str, value: Any, is_class: bool) -> Any:
    if is_class:
        return str(value).rpartition(".")[2]
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        return [item["name"] for item in value]  # as the stages of a fine-tuning have
    return str(value)[:SHOWN] if key in ("start", "extend") else value  # a digest


def _is_default(key: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    if key not in defaults:
        return False
    return same(_by_value(settings[key]), _by_value(defaults[key]))


def _by_value(value: Any) -> Any:
    # `lr: float = 1` has a default that the parser makes 1.0.
    if isinstance(value, (list, tuple)):
        return [_by_value(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _ordered(settings: Mapping[str, Any]) -> list[str]:
    def place(key: str) -> tuple[int, str]:
        top = key.partition(".")[0]
        return (_ORDER.index(top) if top in _ORDER else len(_ORDER), key)

    return sorted(settings, key=place)
