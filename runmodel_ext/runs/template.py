"""The layout of a run's directory: a template of path components with named fields."""

import re
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import PurePosixPath
from string import Formatter
from typing import Any, NamedTuple

from runmodel_ext.errors import NameTemplateError
from runmodel_ext.runs.canonical import SHOWN
from runmodel_ext.runs.names import LIMIT, changes_component, labels, safe_component, spell, suffixes
from runmodel_ext.runs.values import did_you_mean

DEFAULT_TEMPLATE = "{data}/{model}/{changes}-{digest}/seed={seed}/v{version}"
FIELDS = ("data", "model", "changes", "digest", "seed", "version")

_ROOM = LIMIT - 1  # safe_component may put a sign in front
_ENOUGH = 24  # bytes for the changes, below which the other pieces of a component shrink too


class Piece(NamedTuple):
    """A stretch of a component: literal text, or a field's name."""

    text: str
    is_field: bool


class NameTemplate:
    """A run's name as a path, from fields in braces.

    The fields are ``data``, ``model``, ``changes``, ``digest``, ``seed``, ``version``, and any settings
    key, in full (``{model.lr}``), by a suffix that only it has (``{lr}``), or by its alias. Versions
    are counted in the last component; a template without ``{version}`` gets a level ``v{version}``.

    Args:
        template: The path, with ``/`` between its components.
        aliases: Names of the user's own for settings keys.

    Raises:
        NameTemplateError: If the template cannot be a path below the root, whatever fills it.

    Example:
        >>> fields = {"data": "digits", "changes": {"lr": 0.01}, "digest": "k3j2h5a7"}
        >>> name = NameTemplate("{data}/{depth}-{changes}-{digest}")
        >>> str(name.fill({**fields, "version": 2}, {"model.depth": 3}))
        'digits/3-lr=0.01-k3j2h5a7/v2'
        >>> NameTemplate("{data}/{dept}").check(["model.depth"])
        Traceback (most recent call last):
        runmodel_ext.errors.NameTemplateError: `run.name` '{data}/{dept}' asks for '{dept}', which is ...
    """

    def __init__(self, template: str = DEFAULT_TEMPLATE, aliases: Mapping[str, str] | None = None) -> None:
        self.template = template
        self.aliases = dict(aliases or {})
        self._components = _components(template)

    @property
    def fields(self) -> list[str]:
        """The names in braces, each once, in their order."""
        named = (piece.text for component in self._components for piece in component if piece.is_field)
        return list(dict.fromkeys(named))

    def check(self, keys: Iterable[str]) -> None:
        """Refuse a template that names a key that is not there.

        Raises:
            NameTemplateError: If a field means no settings key, or several.
        """
        known = list(keys)
        for field in self.fields:
            if field not in FIELDS:
                self._key(field, known)

    def fill(self, fields: Mapping[str, Any], settings: Mapping[str, Any]) -> PurePosixPath:
        """The name as a relative path, each component safe on every system and at most 120 bytes.

        Where a component would be longer, the changes shrink first; digest and version stay whole.

        Args:
            fields: A value for each of :data:`FIELDS` that the template uses. ``changes`` may be a
                mapping of labels to values; a digest is cut to the characters that names show.
            settings: The flat settings, for the other fields.

        Raises:
            NameTemplateError: If a field means no settings key, or several.
        """
        return PurePosixPath(*(self._fill(component, fields, settings) for component in self._components))

    def family(self, fields: Mapping[str, Any], settings: Mapping[str, Any]) -> PurePosixPath:
        """The directory in which the versions of a run stand side by side; ``fields`` needs no version."""
        return self.fill({**fields, "version": 0}, settings).parent

    def version_of(self, name: str, fields: Mapping[str, Any], settings: Mapping[str, Any]) -> int | None:
        """The version that a directory of the family is; ``None`` where it belongs to another run.

        Example:
            >>> template = NameTemplate("{data}/{digest}-{version}")
            >>> fields = {"data": "digits", "digest": "k3j2h5a7"}
            >>> [template.version_of(name, fields, {}) for name in ("k3j2h5a7-12", "aaaaaaaa-12", "notes")]
            [12, None, None]
        """
        for digits in re.findall(r"[0-9]+", name):
            # A field beside the version may end or begin with digits of its own.
            for start, end in combinations(range(len(digits) + 1), 2):
                version = int(digits[start:end])
                if self._fill(self._components[-1], {**fields, "version": version}, settings) == name:
                    return version
        return None

    def _fill(self, component: list[Piece], fields: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
        fixed: dict[int, str] = {}
        loose: dict[int, Any] = {}
        for place, piece in enumerate(component):
            if piece.is_field and piece.text == "version":
                fixed[place] = str(int(fields["version"]))
            elif piece.is_field and piece.text == "digest":
                fixed[place] = spell(fields["digest"])[:SHOWN]
            else:
                loose[place] = self._value(piece, fields, settings)
        # Versions 9 and 10 must shrink the rest alike, so room is kept for six figures.
        room = _ROOM - sum(max(len(text), 6) for text in fixed.values())
        texts = fixed | _fit(loose, room)
        return safe_component("".join(texts[place] for place in range(len(component))))

    def _value(self, piece: Piece, fields: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
        if not piece.is_field:
            return _clean(piece.text)
        if piece.text == "changes" and isinstance(fields["changes"], Mapping):
            return fields["changes"]
        if piece.text in FIELDS:
            value = fields[piece.text]
            return _clean(value) if isinstance(value, str) else spell(value)
        return spell(settings[self._key(piece.text, settings)])

    def _key(self, field: str, keys: Iterable[str]) -> str:
        known = list(keys)
        if field in known:
            return field
        labelled = labels(known, self.aliases, self.aliases) if self.aliases else {}
        named = [key for key, alias in labelled.items() if alias == field]
        found = named or [key for key in known if field in suffixes(key)]
        if len(found) == 1:
            return found[0]
        asked = f"`run.name` '{self.template}' asks for '{{{field}}}', which"
        if found:
            shown = ", ".join(f"'{key}'" for key in found[:5])
            raise NameTemplateError(f"{asked} fits several settings: {shown}. Write one of them in full.")
        names = [*FIELDS, *(suffix for key in known for suffix in suffixes(key))]
        hint = did_you_mean(field, names) or f" The fields are {', '.join(FIELDS)} and the settings' keys."
        raise NameTemplateError(f"{asked} is neither a field nor a settings key of this configuration.{hint}")


def _fit(pieces: Mapping[int, Any], room: int) -> dict[int, str]:
    others = {place: value for place, value in pieces.items() if not isinstance(value, Mapping)}
    taken = sum(len(text) for text in others.values())
    changes = {place: value for place, value in pieces.items() if place not in others}
    if room - taken >= _ENOUGH * len(changes):
        share = (room - taken) // max(len(changes), 1)
        return others | {place: changes_component(value, share) for place, value in changes.items()}
    whole = [*map(len, others.values()), *(len(changes_component(value, room)) for value in changes.values())]
    cap = next((cap for cap in range(room, 0, -1) if sum(min(size, cap) for size in whole) <= room), 0)
    shrunk = {place: changes_component(value, cap) for place, value in changes.items()}
    return {place: text[:cap] for place, text in others.items()} | shrunk


def _clean(text: str) -> str:
    return safe_component(f"={text}", limit=10 * LIMIT)[1:]  # the sign in front shields a leading dot


def _components(template: str) -> list[list[Piece]]:
    components: list[list[Piece]] = [[]]
    for piece in _pieces(template):
        if piece.is_field:
            components[-1].append(piece)
            continue
        first, *others = piece.text.split("/")
        components[-1].append(Piece(first, is_field=False))
        components.extend([Piece(text, is_field=False)] for text in others)
    components = [[piece for piece in component if piece.text] for component in components]
    _check_path(template, components)
    if not any(Piece("version", is_field=True) in component for component in components):
        components.append([Piece("v", is_field=False), Piece("version", is_field=True)])
    _check_places(template, components)
    return components


def _pieces(template: str) -> list[Piece]:
    try:
        parsed = list(Formatter().parse(template))
    except ValueError:
        message = f"`run.name` '{template}' has a brace without its partner. Write each field as {{data}}."
        raise NameTemplateError(message) from None
    pieces = []
    for literal, field, form, conversion in parsed:
        pieces.append(Piece(literal, is_field=False))
        if field is None:
            continue
        if form or conversion:
            message = f"`run.name` '{template}' gives '{{{field}}}' a format, but a field is its name alone."
            raise NameTemplateError(f"{message} Write '{{{field}}}'.")
        if not field:
            raise NameTemplateError(f"`run.name` '{template}' has a field without a name. Write one, as in {{data}}.")
        pieces.append(Piece(field, is_field=True))
    return pieces


def _check_path(template: str, components: list[list[Piece]]) -> None:
    asked = f"`run.name` '{template}'"
    if not any(components):
        raise NameTemplateError(f"{asked} is empty. Leave it out for the default, '{DEFAULT_TEMPLATE}'.")
    literals = [piece.text for component in components for piece in component if not piece.is_field]
    drive = re.match(r"[A-Za-z]:", template)
    if not components[0] or drive or template.startswith("~") or any("\\" in text for text in literals):
        message = "must be a path below `run.root`, with '/' between its parts. Set `run.root` for another place."
        raise NameTemplateError(f"{asked} {message}")
    for component in components:
        whole = "".join(f"{{{piece.text}}}" if piece.is_field else piece.text for piece in component)
        if whole.strip() in ("", ".", ".."):
            found = f"a part '{whole}'" if whole else "an empty part"
            raise NameTemplateError(f"{asked} has {found}, which is no directory of its own. Take it out.")


def _check_places(template: str, components: list[list[Piece]]) -> None:
    version = Piece("version", is_field=True)
    if any(version in component for component in components[:-1]):
        message = "has '{version}' before the last part, but versions stand side by side in one directory."
        raise NameTemplateError(f"`run.name` '{template}' {message} Move it to the last part.")
    for component in components:
        for field in ("digest", "version"):
            if component.count(Piece(field, is_field=True)) > 1:
                message = f"has '{{{field}}}' twice in one part. Write it once."
                raise NameTemplateError(f"`run.name` '{template}' {message}")
