"""From selectors to the parameters and modules that they name."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase, translate

from torch import Tensor, nn

_WRAPPERS = re.compile(r"(^|\.)(?:_orig_mod|_forward_module|_fsdp_wrapped_module)(?=\.|$)")


@dataclass(frozen=True)
class Leaf:
    """One parameter, however many names it has.

    Attributes:
        parameter: The parameter; it is told apart by identity.
        names: All its dotted paths; the first is the one that ``named_parameters`` gives.
    """

    parameter: nn.Parameter
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.names[0]

    @property
    def can_train(self) -> bool:
        """Whether torch can compute a gradient for it: whole numbers have none."""
        return self.parameter.dtype.is_floating_point or self.parameter.dtype.is_complex


@dataclass(frozen=True)
class Selection:
    """What selectors name.

    Attributes:
        leaves: The numbers of the parameters, in the tree's order.
        modules: The paths of the modules that were named, or lie below one that was.
        unmatched: The selectors that name nothing.
    """

    leaves: frozenset[int]
    modules: frozenset[str]
    unmatched: tuple[str, ...] = ()


@dataclass
class Tree:
    """The parameters and modules of a model by their paths.

    Attributes:
        modules: Each module's path and the module; the model itself has the path ``""``.
        leaves: The parameters.

    Example:
        >>> tree = Tree.of(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
        >>> sorted(tree.select(["2", "0.bias"]).leaves), tree.select(["haed"]).unmatched
        ([1, 2, 3], ('haed',))
    """

    modules: dict[str, nn.Module]
    leaves: list[Leaf]
    _number: dict[str, int] = field(repr=False, default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> "Tree":
        """The tree of a model."""
        modules: dict[str, nn.Module] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            modules[_cleaned(path)] = module  # what is compiled comes after its wrapper, and in its place
        names: dict[int, list[str]] = {}
        parameters: dict[int, nn.Parameter] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            parameters[id(parameter)] = parameter
            known = names.setdefault(id(parameter), [])
            if _cleaned(name) not in known:
                known.append(_cleaned(name))
        leaves = [Leaf(parameters[key], tuple(names[key])) for key in parameters]
        number = {name: place for place, leaf in enumerate(leaves) for name in leaf.names}
        return cls(modules, leaves, number)

    @property
    def paths(self) -> list[str]:
        """Every path that a selector may name."""
        return [*(path for path in self.modules if path), *self._number]

    def number(self, parameter: Tensor) -> int | None:
        """The number of a parameter; ``None`` where the model does not hold it."""
        if not self._numbers_by_identity:
            self._numbers_by_identity.update({id(leaf.parameter): place for place, leaf in enumerate(self.leaves)})
        return self._numbers_by_identity.get(id(parameter))

    def __post_init__(self) -> None:
        self._numbers_by_identity: dict[int, int] = {}

    def select(self, selectors: Iterable[str]) -> Selection:
        """What the selectors name, all together."""
        leaves: set[int] = set()
        modules: set[str] = set()
        unmatched = []
        for selector in selectors:
            named = self._named(selector)
            found = {self._number[path] for path in named if path in self._number}
            chosen = [path for path in named if path in self.modules]
            below = self._below(chosen)
            found.update(self._number[name] for name in self._number if _parent_in(name, below))
            if not named:
                unmatched.append(selector)
            leaves |= found
            modules |= below
        return Selection(frozenset(leaves), frozenset(modules), tuple(unmatched))

    def nearest(self, selector: str, count: int = 3) -> list[str]:
        """The paths that a selector which names nothing may have meant."""
        word = selector.partition(":")[2] if selector.startswith(("re:", "type:")) else selector
        if selector.startswith("type:"):
            choices = sorted({type(module).__name__ for path, module in self.modules.items() if path})
            return difflib.get_close_matches(word, choices, count, cutoff=0.4)
        plain = re.sub(r"[*?\[\]]", "", word).strip(".")
        ends = [path for path in self.paths if plain and (path == plain or path.endswith(f".{plain}"))]
        close = difflib.get_close_matches(plain, self.paths, count, cutoff=0.5)
        # A name is more often right with another parent than misspelt together with it.
        last = {path.rpartition(".")[2]: path for path in reversed(self.paths)}
        spelt = [last[name] for name in difflib.get_close_matches(plain.rpartition(".")[2], list(last), count)]
        return list(dict.fromkeys([*ends, *close, *spelt]))[:count]

    def _named(self, selector: str) -> list[str]:
        if selector.startswith("type:"):
            return [path for path, module in self.modules.items() if path and _is_kind(module, selector[5:])]
        matches = _matcher(selector)
        return [path for path in dict.fromkeys(self.paths) if matches(path)]

    def _below(self, chosen: Sequence[str]) -> set[str]:
        roots = set(chosen)
        return {path for path in self.modules if path and _self_or_parent_in(path, roots)}


def problem_in(selector: object) -> str | None:
    """What is wrong with a selector by itself, as the end of a sentence; ``None`` where nothing is.

    Example:
        >>> problem_in("re:("), problem_in("backbone.*")
        ('is no regular expression: missing ), unterminated subpattern at position 0', None)
    """
    if not isinstance(selector, str):
        return f"is a {type(selector).__name__}, not a text"
    if not selector.partition(":")[2] if selector.startswith(("re:", "type:")) else not selector.strip():
        return "is empty"
    if selector.startswith("re:"):
        try:
            re.compile(selector[3:])
        except re.error as error:
            return f"is no regular expression: {error}"
    return None


def literal(path: str) -> str:
    """The selector that names a path as it stands.

    Example:
        >>> literal("stages.res[1]")
        'stages.res[[]1]'
    """
    return re.sub(r"([*?[])", r"[\1]", path)


def common_path(names: Sequence[str]) -> str:
    """The longest path that all names begin with.

    Example:
        >>> common_path(["net.conv.weight", "net.conv.bias"]), common_path(["head.bias", "body.bias"])
        ('net.conv', '')
    """
    parts = [name.split(".") for name in names]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)


class _Globs:
    def __init__(self, pattern: str) -> None:
        self._match = re.compile(translate(pattern)).match

    def __call__(self, path: str) -> bool:
        return self._match(path) is not None


class _Expression:
    def __init__(self, pattern: str) -> None:
        self._match = re.compile(pattern).fullmatch

    def __call__(self, path: str) -> bool:
        return self._match(path) is not None


def _matcher(selector: str) -> _Globs | _Expression:
    return _Expression(selector[3:]) if selector.startswith("re:") else _Globs(selector)


def _is_kind(module: nn.Module, kind: str) -> bool:
    for cls in type(module).__mro__:
        paths = {cls.__name__, f"{cls.__module__}.{cls.__qualname__}"}
        if kind in paths or any(fnmatchcase(path, kind) for path in paths):
            return True
        # `torch.nn.BatchNorm2d` lives in `torch.nn.modules.batchnorm`.
        head, _, last = kind.rpartition(".")
        if last == cls.__name__ and head and cls.__module__.startswith(f"{head}."):
            return True
    return False


def _parents(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _parent_in(path: str, roots: set[str]) -> bool:
    return any(parent in roots for parent in _parents(path))


def _self_or_parent_in(path: str, roots: set[str]) -> bool:
    return path in roots or _parent_in(path, roots)


def _cleaned(path: str) -> str:
    return _WRAPPERS.sub("", path).strip(".")
