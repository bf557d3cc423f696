"""Two ranks (gloo, CPU): how far they are apart after each stage, and how many bytes of gradients each step sends.

    python -m tests.benchmarks.finetuning_replicas

The ranks begin with weights of their own, see data of their own, and log metrics of their own; nothing looks for
unused parameters. "after any batch" is the largest difference between parameters after any batch of the stage, "at
the end" that of parameters and of buffers when the stage is over. (Between batches, the running statistics of a
BatchNorm that trains are each rank's own: DistributedDataParallel makes them equal when the next batch begins.)
Ends with exit code 1 if a stage of ours leaves the ranks apart, or sends other bytes than its gradients.
"""

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule

from runmodel_ext.callbacks import RandomState
from tests.benchmarks.finetuning_peers import Filtering, Gradual, backbone, need_the_peers, scheduler
from tests.finetuning.kit import Digits
from tests.finetuning.ranks import compared, fit, run_ranks


def main() -> int:
    """Print both tables; the exit code."""
    need_the_peers()
    with tempfile.TemporaryDirectory() as folder:
        ours = run_ranks("tests.finetuning.ranks:stages_job", Path(folder))
        others = run_ranks("tests.benchmarks.finetuning_replicas:peers_job", Path(folder))
    print(f"{'':<26}{'':<14}{'largest difference':^36}{'bytes of gradients a step':>28}")
    heads = f"{'stage':<14}{'after any batch':>16}{'at the end':>12}{'buffers':>9}{'sent':>15}{'4 x trained':>14}"
    print(f"{'StagedFinetuning':<26}{heads}")
    wrong = sum(show(name, found) for name, found in ours.items())
    print(f"\n{'the other callbacks':<26}{heads}")
    for name, found in others.items():
        show(name, found)
    return int(wrong > 0)


def show(name: str, found: dict[str, Any]) -> int:
    """The lines of one fit; how many of them are not as they should be."""
    wrong = 0
    for place, row in enumerate(found["stages"]):
        sent, wanted = ", ".join(f"{each:,}" for each in row["bytes"]), 4 * row["trained"]
        wrong += row["bytes"] != [wanted] or max(row["within"], row["parameters"], row["buffers"]) > 0.0
        print(f"{name if place == 0 else '':<26}{row['stage']:<14}{row['within']:>16.2g}{row['parameters']:>12.2g}"
              f"{row['buffers']:>9.2g}{sent:>15}{wanted:>14,}")  # fmt: skip
    histories = [rank["history"] for rank in found["ranks"]]
    if histories[0] != histories[1]:
        print("    The ranks have not decided alike.")
    return wrong + (histories[0] != histories[1])


def peers_job(folder: Path) -> dict[str, Any]:
    """The other callbacks, and none; their stages are known by how many parameters train."""

    def of(make: Callable[[], LightningModule], *callbacks: Callback) -> Any:
        def run(compare: Callback) -> Any:
            own = [RandomState(), *callbacks, compare]
            return fit(make, own, default_root_dir=folder, enable_checkpointing=None)

        return compared(run)

    runs = {
        "no callback": partial(of, Digits),
        "BackboneFinetuning": partial(of, Filtering, backbone()),
        "BaseFinetuning": partial(of, Filtering, Gradual()),
        "finetuning-scheduler": partial(of, Digits, *scheduler(folder)),
    }
    return {name: run() for name, run in runs.items()}


if __name__ == "__main__":
    sys.exit(main())
