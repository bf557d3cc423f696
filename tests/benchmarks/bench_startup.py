"""Start-up until the first training step: `runmodel fit` against the same module under plain LightningCLI.

    python tests/benchmarks/bench_startup.py [pairs]

Each pair runs both commands, in turn; both end in the first call of `training_step`. The figures are whole-process:
CPU seconds (user and system, which a busy machine disturbs least) and wall seconds; the ratio is of each pair.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODULE = """
import os
from runmodel_ext.modules import ClassificationModule

class EndsAtTheFirstStep(ClassificationModule):
    def training_step(self, batch, batch_idx):
        os._exit(0)
"""

CONFIG = """
model:
  class_path: ends.EndsAtTheFirstStep
  init_args:
    num_classes: 10
    lr: 3.0e-3
    network: {class_path: runmodel_ext.networks.CNN}
data: {class_path: runmodel_ext.data.Digits}
trainer: {max_epochs: 1}
"""

PLAIN = "import sys; sys.path.insert(0, ''); from lightning.pytorch.cli import LightningCLI; LightningCLI()"


def once(command: list[str], folder: Path) -> tuple[float, float]:
    """CPU and wall seconds of one process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main(pairs: int) -> None:
    """Run the pairs and print the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ends.py").write_text(MODULE)
        (folder / "c.yaml").write_text(CONFIG)
        ours = [sys.executable, "-m", "runmodel_ext", "fit", "--config", "c.yaml", "--run.on_existing", "new"]
        plain = [sys.executable, "-c", PLAIN, "fit", "--config", "c.yaml", "--seed_everything", "0"]
        for command in (ours, plain):
            once(command, folder)
        rows = []
        for number in range(pairs):
            order = (ours, plain) if number % 2 else (plain, ours)
            figures = {command[1]: once(command, folder) for command in order}
            subprocess.run(["rm", "-rf", "lightning_logs"], cwd=folder, check=True)
            rows.append((figures["-m"], figures["-c"]))
    for index, kind in enumerate(("CPU s", "wall s")):
        mine, theirs = [row[0][index] for row in rows], [row[1][index] for row in rows]
        ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
        print(
            f"{kind:7} runmodel fit {statistics.median(mine):.2f}, LightningCLI {statistics.median(theirs):.2f}; "
            f"ratio {statistics.median(ratios):.3f} (min {min(ratios):.3f}, max {max(ratios):.3f}), {pairs} pairs"
        )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
