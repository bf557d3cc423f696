"""Why jsonargparse refuses a value: its text of many levels, taken apart.

It tells how each member of a union failed, and inside a class how each argument did. Of all these reasons the
one that a user can act on is kept: a misspelt argument deep inside says more than "expected None".
"""

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runmodel_ext.cli.known_names import (
    arguments_of,
    classes_for,
    classes_like,
    import_paths,
    is_dataclass,
    is_imported,
    members_of,
    neighbours_of,
    own_path_of,
)
from runmodel_ext.runs import did_you_mean

_LONGEST = 400  # characters of what others say
_LONGEST_VALUE = 80
_FEW = 6
_MANY = 12  # names that are listed where none is near

_KEY = re.compile(r'Parser key "(?P<key>[^"]*)"[^:\n]*:\s*?\n(?P<rest>.*)', re.DOTALL)
_PATH = re.compile(r"- Expected a path but .*? either not accessible or invalid\n- (?P<rest>.*)", re.DOTALL)
_UNION = re.compile(
    r"Does not validate against any of the Union subtypes\nSubtypes: (?P<kinds>.*?)\nErrors:\n(?P<errors>.*)"
    r"\nGiven value type: <class '(?P<type>.*?)'>\nGiven value: (?P<value>.*)",
    re.DOTALL,
)
_INSIDE = re.compile(r"Problem with given class_path '(?P<owner>.*?)':\n(?P<rest>.*)", re.DOTALL)
_FACTORY = re.compile(
    r"Type .*? expects a function or a callable class: (?P<rest>.*)\. Got value: "
    r"(?:Namespace\(class_path=)?'?(?P<owner>[\w.]*).*",
    re.DOTALL,
)
_FACTORY_ALONE = re.compile(r"Type .*? expects a function or a callable class: (?P<rest>.*)", re.DOTALL)
_BUILT = re.compile(r"Namespace\(class_path='(?P<built>[\w.]+)'.*", re.DOTALL)

_UNKNOWN = re.compile(r"Option '(?P<name>.*)' is not accepted")
_MISSING = re.compile(r"the following arguments are required: (?P<names>.*)")
_ABSENT = re.compile(r"No module named '(?P<module>.*)'|module '(?P<holder>.*)' has no attribute '(?P<name>.*)'")
_IMPORT = re.compile(r"(?:Expected a dot import path string|Unexpected import path format): (?P<value>.*)")
_SUBCLASS = re.compile(r"Import path ?(?P<value>\S*) does not correspond to a subclass of (?P<base>\w+)")
_NOT_BELOW = re.compile(
    r"Expected '(?P<value>\S*)' to be (?:a subclass of|a function that returns) <class '(?P<base>\w+)'>\.?"
)
_ABSTRACT = re.compile(r"Expected an instantiatable class, but (?P<base>.*) is abstract")
_NO_SPEC = re.compile(r"Not a valid subclass of (?P<base>\w+).*?(?:Got value: (?P<value>.*))?", re.DOTALL)
_TYPE = re.compile(r"Expected an? (?P<kind>.*?)(?:\. Got value: (?P<value>.*))?", re.DOTALL)
_NESTED = re.compile(r"NestedArg\(key='(?P<key>.*?)', val=(?P<value>.*)\)", re.DOTALL)

_KINDS = {
    "str": "a string",
    "tuple": "a list",
    "Iterable": "a list",
    "Sequence": "a list",
    "dict": "a mapping",
    "NoneType": "null",
}
_SCALARS = {"an int", "a float", "a string"}


@dataclass(frozen=True)
class Fault:
    """One reason why a value was refused.

    Args:
        rank: How much it says: 0 nothing that is known, 1 a wrong type, 2 a wrong class, 3 a class that cannot
            be imported, 4 a wrong argument of a class.
        key: The dotted key that it is about.
        sentence: The reason.
        expected: What a wrong type should have been, in words.
        inside: Whether it is about one of several values under the key.
    """

    rank: int
    key: str
    sentence: str
    expected: tuple[str, ...] = ()
    inside: bool = False


@dataclass(frozen=True)
class _Place:
    """What a text speaks of.

    Args:
        key: The dotted key.
        owner: The class whose argument it is.
        kinds: The members of the union that it should fit.
        kind: The type of the value that should.
        text: That value.
    """

    key: str
    owner: str = ""
    kinds: str = ""
    kind: str = ""
    text: str = ""

    @property
    def value(self) -> str:
        """The value, where it is a string."""
        return self.text if self.kind == "str" else ""

    @property
    def built(self) -> str:
        """The class that the value names."""
        match = _BUILT.fullmatch(self.text)
        return match["built"] if match else ""

    def below(self, key: str) -> "_Place":
        return _Place(f"{self.key}.{key}" if self.key else key, self.owner)


def fault_of(message: str) -> Fault | None:
    r"""The reason in a message of jsonargparse that says most; ``None`` where nothing in it is known.

    Example:
        >>> fault_of('Parser key "data":\n  Problem with given class_path \'a.B\':\n    Option \'c\' is not accepted')
        Fault(rank=4, key='data', sentence='`data.c` is not an argument of a.B.', expected=(), inside=False)
    """
    return _best(_faults(message, _Place("")))


def _faults(text: str, place: _Place) -> Iterator[Fault]:
    text = textwrap.dedent(text).strip("\n")
    if match := _KEY.fullmatch(text):
        yield from _faults(match["rest"], place.below(match["key"]))
    elif match := _PATH.fullmatch(text):
        yield from _faults(match["rest"], place)
    elif match := _UNION.fullmatch(text):
        yield from _of_union(match, place)
    elif (match := _INSIDE.fullmatch(text)) or (match := _FACTORY.fullmatch(text)):
        yield from _faults(match["rest"], replace(place, owner=match["owner"]))
    elif match := _FACTORY_ALONE.fullmatch(text):
        yield from _faults(match["rest"], replace(place, owner=place.built or place.value))
    else:
        fault = _leaf(text, place)
        if fault is not None:
            yield fault


def _of_union(union: re.Match[str], place: _Place) -> Iterator[Fault]:
    value = union["value"]
    here = replace(place, kinds=union["kinds"], kind=union["type"], text=value)
    entries = re.split(r"^- ", textwrap.dedent(union["errors"]), flags=re.MULTILINE)[1:]
    texts = [first + "\n" + textwrap.dedent(rest) for first, _, rest in (entry.partition("\n") for entry in entries)]
    found = [fault for text in texts for fault in _faults(text, here)]
    best = _best(found)
    if best is None:
        return
    expected = list(dict.fromkeys(kind for fault in found if fault.key == place.key for kind in fault.expected))
    if best.rank > 2 or best.key != place.key or (best.rank == 2 and not _SCALARS.intersection(expected)):
        yield best
    elif nested := _NESTED.fullmatch(value):
        yield _no_class(place, nested["key"])
    elif union["type"] in ("dict", "list") and (inside := [fault for fault in found if fault.inside]):
        yield inside[0]
    else:
        yield _wrong_type(place, expected, f"'{value}'" if here.value else value)


def _best(faults: Iterable[Fault]) -> Fault | None:
    # Of two that say as much, the one that lies deeper, then the first.
    return max(faults, key=lambda fault: (fault.rank > 1, fault.key.count("."), fault.rank), default=None)


def _leaf(text: str, place: _Place) -> Fault | None:
    if match := _UNKNOWN.fullmatch(text):
        return _unknown(place, match["name"])
    if match := _MISSING.fullmatch(text):
        return _missing(place, match["names"].split(", "))
    if match := _ABSENT.fullmatch(text):
        return _absent(place, text, match["holder"], match["name"])
    if match := _IMPORT.fullmatch(text):
        return _not_imported(place, match["value"])
    if match := _SUBCLASS.fullmatch(text) or _NOT_BELOW.fullmatch(text):
        found = f"{match['value'] or place.value or 'the class that it names'} is none"
        kind = f"a {match['base']}"
        return Fault(2, place.key, f"`{place.key}` must be {kind}, but {found}.", (kind,))
    if match := _NO_SPEC.fullmatch(text):
        return _wrong_type(place, [_spec_of(match["base"], place)], match["value"])
    if match := _ABSTRACT.fullmatch(text):
        return _wrong_type(place, [_spec_of(_last(match["base"]), place)], None)
    if match := _TYPE.fullmatch(text):
        value = None if match["value"] is None else f"'{match['value']}'"
        fault = _wrong_type(place, _words(match["kind"]), value)
        if value is None or not place.kinds:
            return fault
        each = f"Each value in `{place.key}` must be {joined(fault.expected, 'or')}, but one is {value}."
        return replace(fault, sentence=each, inside=True)
    return _other(place, text) if place.key else None


def _unknown(place: _Place, name: str) -> Fault:
    if _last(place.owner) in map(_last, import_paths(place.kinds)) and not is_dataclass(place.owner):
        return _no_class(place, name)
    names = arguments_of(place.owner)
    hint = did_you_mean(name.partition(".")[0], names, 1)
    if not hint and names:
        hint = f" It takes {', '.join(names[:_MANY])}{', …' if len(names) > _MANY else ''}."
    return Fault(4, place.key, f"`{place.key}.{name}` is not an argument of {place.owner}.{hint}")


def _no_class(place: _Place, name: str) -> Fault:
    near = did_you_mean(name.partition(".")[0], ["class_path", "init_args", "dict_kwargs"], 1)
    if near:
        return Fault(4, place.key, f"There is no key `{place.key}.{name.partition('.')[0]}`.{near}")
    advice = f"Give it first: `--{place.key} CLASS`, or `class_path` and `init_args` in a configuration."
    return Fault(4, place.key, f"`{place.key}.{name}` cannot be set, because `{place.key}` names no class. {advice}")


def _missing(place: _Place, names: Sequence[str]) -> Fault:
    keys = joined([f"`{place.key}.{name}`" for name in names], "and")
    verb, what = ("is", "it") if len(names) == 1 else ("are", "them")
    by = f" by {place.owner}" if place.owner else ""
    advice = f"Set {what} in a configuration or as an option."
    return Fault(4, place.key, f"{keys} {verb} required{by}, but not given. {advice}")


def _absent(place: _Place, why: str, holder: str | None, name: str | None) -> Fault:
    if place.value.endswith((".yaml", ".yml", ".json")):
        near = did_you_mean(place.value, neighbours_of(Path(place.value)), 1)
        return Fault(3, place.key, f"There is no file '{place.value}' for `{place.key}`.{near}")
    hint = did_you_mean(name or "", members_of(holder or ""), 1)
    hint = hint or " Check its spelling, and that its module is on the path."
    return Fault(3, place.key, f"The class '{place.owner}' for `{place.key}` cannot be imported: {why}.{hint}")


def _other(place: _Place, text: str) -> Fault:
    text = shortened(text, _LONGEST).rstrip(".")
    cls = place.owner or place.value
    if import_paths(cls) == [cls] and not is_imported(cls):
        advice = "`RUNMODEL_DEBUG=1` in the environment shows where."
        return Fault(3, place.key, f"The class '{cls}' for `{place.key}` cannot be imported: {text}. {advice}")
    return Fault(3, place.key, f"`{place.key}` cannot be used: {text}.")


def _not_imported(place: _Place, value: str) -> Fault:
    mappings = [path for path in import_paths(place.kinds) if is_dataclass(path)]
    if mappings and place.kind == "list":
        return _wrong_type(place, [_mapping(mappings[0], place)], None)
    if not re.fullmatch(r"[A-Za-z_][\w.]*", value):
        return _wrong_type(place, [_mapping(mappings[0], place) if mappings else "a class"], f"'{value}'")
    if own := own_path_of(value):
        return Fault(3, place.key, f"There is no class '{value}' for `{place.key}`. Did you mean '{own}'?")
    argument = place.key.rpartition(".")[2]
    near = did_you_mean(value, classes_like(place.kinds) or classes_for(place.owner, argument), 1)
    advice = near or " Give its whole import path, as in `package.module.Class`."
    sentence = f"There is no class '{value}' for `{place.key}`.{advice}"
    return Fault(
        2, place.key, sentence, tuple(f"a {_last(path)}" for path in import_paths(place.kinds)) or ("a class",)
    )


def _spec_of(base: str, place: _Place) -> str:
    path = next((path for path in import_paths(place.kinds) if _last(path) == base), "")
    return _mapping(path, place) if is_dataclass(path) else f"a {base} (its `class_path` and `init_args`)"


def _mapping(path: str, place: _Place) -> str:
    names = arguments_of(path)
    each = "a list, each " if place.kind == "list" else ""
    return f"{each}a mapping ({', '.join(names[:_FEW])}{', …' if len(names) > _FEW else ''})"


def _wrong_type(place: _Place, expected: Sequence[str], value: str | None) -> Fault:
    words = list({kind.strip("'"): kind for kind in reversed(expected)}.values())[::-1]
    found = "something else" if value is None else shortened(value, _LONGEST_VALUE)
    choices = [kind.strip("'") for kind in expected if kind.startswith("'")]
    hint = did_you_mean((value or "").strip("'"), choices, 1)
    return Fault(1, place.key, f"`{place.key}` must be {joined(words, 'or')}, but is {found}.{hint}", tuple(expected))


def _words(kind: str) -> list[str]:
    """What values a type takes.

    Example:
        >>> _words("<class 'int'>"), _words("typing.Literal['a', None]")
        (['an int'], ["'a'", 'null'])
    """
    if kind.startswith("typing.Literal["):
        choices = kind.removeprefix("typing.Literal[").removesuffix("]").split(", ")
        return ["null" if choice == "None" else choice for choice in choices]
    if kind == "<class 'bool'>":
        return ["true", "false"]
    name = _last(kind.removeprefix("<class '").removesuffix("'>").partition("[")[0])
    return [_KINDS.get(name) or f"{'an' if name[:1].lower() in 'aeio' else 'a'} {name}"]


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def joined(words: Sequence[str], last: str) -> str:
    """Words as a list in a sentence.

    Example:
        >>> joined(["a", "b", "c"], "or")
        'a, b or c'
    """
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)


def shortened(text: str, longest: int) -> str:
    """A text in one line, and not too long."""
    text = " ".join(text.split())
    return text if len(text) <= longest else text[:longest].rsplit(" ", 1)[0] + " …"
