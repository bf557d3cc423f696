"""Stop fits at 40 moments and go on from each: how many end with the same bits as the fit that was not stopped?

    python -m tests.benchmarks.finetuning_resume [MOMENTS] [WORD ...]

First each kind of StagedFinetuning (those whose names hold one of the words), then the other callbacks, each with
``RandomState`` and a loader that knows its place. Compared bit for bit: weights, optimizers, schedulers, and what
the stages know. Ends with exit code 1 if a kind of ours misses.
"""

import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from tests.benchmarks.finetuning_peers import (
    AT,
    Filtering,
    Gradual,
    backbone,
    kind_of,
    need_the_peers,
    on_with,
    scheduler,
)
from tests.finetuning.kinds import KINDS, Kind, Seen, misses
from tests.finetuning.kit import BATCHES, Digits


def main(number: int = 40, *words: str) -> int:
    """Print a table; the exit code."""
    need_the_peers()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(f"{'StagedFinetuning':<60}{'stages begin at':<18}identical")
    missed = 0
    for name, kind in KINDS.items():
        if not words or any(word in name for word in words):
            missed += row(name, kind, number)
    print(f"\n{'the same fit with':<60}{'stages begin at':<18}identical")
    with tempfile.TemporaryDirectory() as folder:
        for name, (kind, resume) in others(Path(folder)).items():
            if not words or any(word in name for word in words):
                row(name, kind, number, resume)
    return int(missed > 0)


def others(folder: Path) -> dict[str, tuple[Kind, Callable[..., Trainer]]]:
    """The peers, each with how it goes on."""
    by_epochs = kind_of(Digits, folder, lambda: scheduler(folder))
    restoring = kind_of(Digits, folder, lambda: scheduler(folder, restore_best=True))
    return {
        "no callback": (kind_of(Digits, folder, list), on_with),
        "BackboneFinetuning": (kind_of(Filtering, folder, lambda: [backbone()]), on_with),
        "BaseFinetuning": (kind_of(Filtering, folder, lambda: [Gradual()]), on_with),
        "finetuning-scheduler, fit(ckpt_path=...)": (by_epochs, on_with),
        "finetuning-scheduler, trainer.ckpt_path = ...": (by_epochs, by_trainer),
        "finetuning-scheduler, restore_best, trainer.ckpt_path = ...": (restoring, by_trainer),
    }


def by_trainer(kind: Kind, checkpoint: Path) -> Trainer:
    """Go on with the attribute."""
    return on_with(kind, checkpoint, by_trainer=True)


def row(name: str, kind: Kind, number: int, resume: Callable[..., Trainer] = Kind.fit) -> int:
    """One line of the table, and one of what differs; how many moments missed."""
    begin = time.perf_counter()
    seen = Seen()
    with tempfile.TemporaryDirectory() as folder:
        whole = kind.fit(seen)
        moments = seen.chosen(number, seen.transitions if resume is Kind.fit else [BATCHES * epoch for epoch in AT])
        found = misses(kind, whole, Path(folder), moments, resume)
    starts = ", ".join(map(str, seen.transitions)) or "-"
    identical = f"{len(moments) - len(found)} of {len(moments)}"
    print(f"{name:<60}{starts:<18}{identical:<12}{time.perf_counter() - begin:4.0f} s", flush=True)
    for where in sorted({kind_of_moment for kind_of_moment, _ in found}):
        batches = sorted(n for kind_of_moment, n in found if kind_of_moment == where)
        print(f"    missed at the end of {where}: {', '.join(map(str, batches))} ({found[where, batches[0]][:90]})")
    return len(found)


if __name__ == "__main__":
    sys.exit(main(*(int(word) if word.isdigit() else word for word in sys.argv[1:])))
