"""What of a module's arguments may stand in a checkpoint."""

from types import FrameType
from typing import Any

from runmodel_ext._private import built_from_configuration


def is_plain(value: Any) -> bool:
    """Whether ``torch.load(weights_only=True)`` reads the value back: numbers, words, and containers of them.

    Example:
        >>> is_plain({"hidden": [64, 32], "name": None}), is_plain([print])
        (True, False)
    """
    if isinstance(value, dict):
        return all(is_plain(key) and is_plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)


def unsafe_arguments(owner: object, frame: FrameType | None) -> list[str]:
    """Names of the arguments, in the constructors that are running for ``owner``, that must not be stored.

    Under LightningCLI there are none: it hands over the configuration that the arguments were built from,
    which is plain, and with which ``load_from_checkpoint`` builds them again. It does so through a variable
    of its own.
    """
    if built_from_configuration():
        return []
    names: set[str] = set()
    while frame is not None and frame.f_locals.get("self") is owner:
        names.update(name for name, value in frame.f_locals.items() if not is_plain(value))
        names.update(_inside_keywords(frame))
        frame = frame.f_back
    return sorted(names)


def _inside_keywords(frame: FrameType) -> list[str]:
    # `**kwargs` is one local variable; Lightning stores what is in it under the names that were passed.
    if not frame.f_code.co_flags & 0x08:  # CO_VARKEYWORDS
        return []
    code = frame.f_code
    position = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 0x04)  # CO_VARARGS
    keywords = frame.f_locals.get(code.co_varnames[position], {})
    return [name for name, value in keywords.items() if not is_plain(value)]
