"""``runmodel schema``: a JSON schema of configurations, so that an editor completes and checks them.

This file is the one place that builds on a private part of jsonargparse: its public
``parser.get_completion_script("jsonschema")`` fails on Lightning's parser, where the type of an argument deep
inside is a metaclass, whose subclasses cannot be listed. ``tests/cli/test_schema.py`` fails when jsonargparse
mends or moves it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from jsonargparse._completions_jsonschema import ParserJsonschema
from typing_extensions import override

from runmodel_ext._files import make_directory, write_whole
from runmodel_ext.cli.classes import import_class
from runmodel_ext.runs import DEFAULT_ROOT

SCHEMA_FILE = "runmodel.schema.json"


def main(args: Sequence[str], parser_of_fit: ArgumentParser) -> None:
    """Write the schema of what ``fit`` and its siblings read, and print where it is.

    Args:
        args: The words after ``runmodel schema``.
        parser_of_fit: The parser whose configurations are described.
    """
    parser = argparse.ArgumentParser(
        prog="runmodel schema", description="Write a JSON schema of configurations, for editors."
    )
    parser.add_argument(
        "--output", type=Path, help=f"the file; by default <root>/{SCHEMA_FILE}, where saved configs look"
    )
    parser.add_argument("--root", type=Path, default=Path(DEFAULT_ROOT), help="the directory of the runs")
    options = parser.parse_args(args)
    output: Path = options.output or options.root / SCHEMA_FILE
    make_directory(output.parent)
    write_whole(output, make_schema(parser_of_fit))
    print(output)


def make_schema(parser: ArgumentParser) -> str:
    """The JSON schema of a parser's configurations, as text.

    Nothing is required in it: a configuration may leave to the command line what it likes.
    """
    schema = _Schema().generate(parser)  # type: ignore[no-untyped-call]
    for definition in schema.get("$defs", {}).values():
        known = definition.get("properties", {})
        if {"train", "exclude"} <= known.keys():  # a stage, which may say `except` too
            known["except"] = known["exclude"]
    return json.dumps(_without_required(schema), indent=1, default=str) + "\n"


def _without_required(schema: Any) -> Any:
    if isinstance(schema, dict):
        kept = {key: _without_required(value) for key, value in schema.items()}
        if isinstance(kept.get("required"), list):
            kept["required"] = [name for name in kept["required"] if name == "class_path"]
        return kept
    return [_without_required(item) for item in schema] if isinstance(schema, list) else schema


class _Schema(ParserJsonschema):
    @override
    def class_ref(self, class_type: Any, action: Any, subclass: bool) -> dict[str, Any]:
        if isinstance(class_type, type) and issubclass(class_type, type):
            return {"type": "string"}
        return dict(super().class_ref(class_type, action, subclass))

    @override
    def class_path_schema(self, class_path: str, action: Any) -> dict[str, Any]:
        schema: dict[str, Any] = super().class_path_schema(class_path, action)
        schema["properties"]["class_path"] = {"enum": _ways_to_write(class_path)}
        return schema

    @override
    def callable_schema(self, typehint: Any, action: Any) -> dict[str, Any]:
        schema: dict[str, Any] = super().callable_schema(typehint, action)
        if schema == {"type": "string"}:  # it returns one of several kinds, which jsonargparse does not describe
            return {"anyOf": [schema, self.unknown_class_path_schema()]}
        return schema

    @override
    def subclass_def(self, class_type: Any, action: Any) -> dict[str, Any]:
        definition: dict[str, Any] = super().subclass_def(class_type, action)
        known = [
            path
            for choice in definition.get("anyOf", ())
            for path in choice.get("properties", {}).get("class_path", {}).get("enum", ())
        ]
        if known:  # a class of the user's own, which is not imported now
            other: dict[str, Any] = self.unknown_class_path_schema()
            other["properties"]["class_path"] = {"type": "string", "not": {"enum": known}}
            definition["anyOf"].append(other)
        return definition


def _ways_to_write(class_path: str) -> list[str]:
    """The import paths of a class: the shortest, its own, and those by which its packages show it; and its name."""
    cls = import_class(class_path)
    name, packages = cls.__name__, cls.__module__.split(".")
    shown_by = [".".join(packages[:depth]) for depth in range(len(packages), 0, -1)]
    paths = [f"{package}.{name}" for package in shown_by if getattr(sys.modules.get(package), name, None) is cls]
    return list(dict.fromkeys([class_path, *paths, name]))
