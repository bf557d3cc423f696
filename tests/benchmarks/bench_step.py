"""Time of a training step with what RunCLI adds to a Trainer, against the same Trainer without.

    python tests/benchmarks/bench_step.py [pairs]

With: RunKeeper (record, random state, last checkpoint), MetricsLogger, a best checkpoint. Without: Lightning's
CSVLogger and its one default checkpoint. One process, in turn; CPU seconds from the first batch to the last.
"""

import logging
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[2]))

from runmodel_ext.callbacks import MetricsLogger, RunRecorder
from runmodel_ext.cli.outfit import checkpoints_of
from runmodel_ext.data import Digits
from runmodel_ext.modules import ClassificationModule
from runmodel_ext.networks import CNN, MLP
from runmodel_ext.runs import begin_attempt
from tests.runs.factory import write_run


class Watch(Callback):
    """Notes when the first batch begins and the last one ends."""

    def on_train_batch_start(self, *args: Any) -> None:
        if not hasattr(self, "start"):
            self.start = time.process_time()

    def on_train_batch_end(self, *args: Any) -> None:
        self.end = time.process_time()


def epoch(network: Any, steps: int, recorded: bool, folder: Path) -> float:
    """CPU seconds per step."""
    seed_everything(0, verbose=False)
    data = Digits(batch_size=64)
    data.prepare_data()
    data.setup("fit")
    images, labels = next(iter(data.train_dataloader()))
    loader = DataLoader(TensorDataset(images.repeat(steps, 1, 1, 1), labels.repeat(steps)), batch_size=64)
    model = ClassificationModule(network=network(), num_classes=10)
    watch = Watch()
    callbacks: list[Any] = [watch]
    logger: Any = CSVLogger(folder)
    if recorded:
        run = write_run(folder, f"digits/mlp/{time.monotonic_ns()}/seed=0/v1", status="running", attempts=[])
        writer = begin_attempt(run, "fit", ["bench"])
        callbacks += checkpoints_of([], RunRecorder(writer, "train/loss", "min"), run)
        logger = MetricsLogger(run / "fit-1")
    trainer = Trainer(
        max_epochs=1,
        callbacks=callbacks,
        logger=logger,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(model, loader)
    return (watch.end - watch.start) / steps


def main(pairs: int) -> None:
    """Run the pairs and print the figures."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    cases = {
        "CNN of configs/digits.yaml": (lambda: CNN(width=32), 60),
        "MLP 64-16-10": (lambda: MLP(64, 10, [16]), 600),
    }
    with tempfile.TemporaryDirectory() as name:
        for title, (network, steps) in cases.items():
            ratios, plain = [], []
            for number in range(pairs + 1):
                order = (True, False) if number % 2 else (False, True)
                figures = {recorded: epoch(network, steps, recorded, Path(name)) for recorded in order}
                if number:  # the first pair warms up
                    ratios.append(figures[True] / figures[False])
                    plain.append(figures[False])
            print(
                f"{title}: {1e3 * statistics.median(plain):.3f} ms a step without; ratio median "
                f"{statistics.median(ratios):.3f} (min {min(ratios):.3f}, max {max(ratios):.3f}), {pairs} pairs"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
