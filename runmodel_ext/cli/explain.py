"""``runmodel explain``: what a configuration is called, why, and what a fit of it would do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runmodel_ext._tables import print_rows, shown
from runmodel_ext.cli.decisions import nearest_text
from runmodel_ext.runs import Identity, Look, NameTemplate, iter_runs, look, nearest_run

_WORDS = {
    "new": "new: `fit` would train it from the start",
    "resume": "resume: `fit` would go on where it stopped",
    "done": "done: `fit` would print its scores and end",
    "busy": "busy: a living process is training it, `fit` would refuse",
    "exists": "exists: `fit` would refuse, as `run.on_existing` says",
    "none": "none: there is no run to resume, `fit` would refuse",
}


def explain(root: Path, template: NameTemplate, identity: Identity, options: Mapping[str, Any]) -> None:
    """Print the directory, which keys made it, which were left out, what would happen, and the nearest run.

    Args:
        root: The directory under which all runs lie.
        template: How they are named.
        identity: What the configuration is.
        options: The ``run`` group of the configuration.
    """
    found = look(root, template, identity, options["on_existing"])
    print(f"directory  {found.path}")
    print(f"digest     {identity.digest}")
    print(f"seed       {'none' if identity.seed is None else identity.seed}")
    print(f"fit        {_what_would_happen(found)}\n")
    changed = set(identity.changes)
    rows = [
        [key, _short(value), "yes" if key in changed else "", _short(identity.defaults.get(key))]
        for key, value in identity.settings.items()
    ]
    print("These settings decide the results, and so the digest; those that differ from the defaults make the name.")
    print_rows(["setting", "value", "in the name", "default"], rows)
    print("\nThese were left out.")
    print_rows(["setting", "value"], [[key, _short(value)] for key, value in identity.other_settings.items()])
    others = [run for run in iter_runs(root) if found.run is None or run.path != found.run.path]
    near = nearest_run(identity.settings, others)
    if near is not None:
        run, differing = near
        same = "It has the same settings, with another seed or version."
        print(
            f"\n{nearest_text(run, differing)}"
            if differing
            else f"\nThe nearest is '{run.name}' ({run.status}). {same}"
        )


def _what_would_happen(found: Look) -> str:
    text = _WORDS[found.action]
    if found.run is not None and found.action != "new":
        text += f" ({found.run.status})"
    return f"{text}; it was made before {', '.join(found.added)} existed" if found.added else text


def _short(value: Any) -> str:
    return shown(value) if value is not None else ""
