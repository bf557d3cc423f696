"""How long `runmodel runs list` takes over many runs, beside `import torch`.

    python tests/benchmarks/bench_runs_list.py            # 10,000 runs
    python tests/benchmarks/bench_runs_list.py --runs 1000 --repeats 5

Each command runs in processes of its own. The figures are the medians of wall and processor time, and the
largest peak of memory.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.runs.factory import write_run  # noqa: E402

FOREIGN = ("torch", "lightning", "torchmetrics", "jsonargparse", "numpy", "yaml")


def write_runs(root: Path, count: int) -> int:
    """Write ``count`` runs of a sweep with two seeds and two widths; return the mean size of a record."""
    size = 0
    for number in range(count):
        minute, second = divmod(number, 60)
        folder = write_run(
            root,
            settings={"model.lr": 1e-4 * (1 + number // 4), "model.network.width": 16 * (1 + number % 2)},
            scores={"val/acc": (number * 7919 % count) / count},
            seed=number // 2 % 2,
            created=f"2026-11-01T{minute // 60 % 24:02}:{minute % 60:02}:{second:02}+00:00",
        )
        size += (folder / "run.json").stat().st_size
    return size // count


def measure(command: list[str], repeats: int) -> tuple[float, float, float]:
    """The median wall and processor time in seconds, and the largest peak of memory in MB."""
    walls, works, peaks = [], [], []
    for _ in range(repeats):
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        walls.append(time.perf_counter() - start)
        works.append(usage.ru_utime + usage.ru_stime)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{' '.join(command)} ended with {process.returncode}.")
        peaks.append(usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024))
    return statistics.median(walls), statistics.median(works), max(peaks)


def imported(command: list[str]) -> set[str]:
    """The top-level packages that a command imports, as ``-X importtime`` sees them."""
    traced = [command[0], "-X", "importtime", *command[1:]]
    done = subprocess.run(traced, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder:
        size = write_runs(Path(folder), arguments.runs)
        print(f"{arguments.runs:,} runs, {size:,} bytes a record, median of {arguments.repeats}")
        listing = [python, "-m", "runmodel_ext", "runs", "list", "--root", folder]
        find = "import sys; from runmodel_ext.runs.search import find_runs; find_runs(sys.argv[1]{})"
        chosen = ", where=['model.lr<0.1', 'status=finished'], sort='val/acc'"
        commands = {
            "runmodel runs list": listing,
            "runmodel runs list --where --sort": [*listing, "--where", "model.lr<0.1", "--sort", "val/acc"],
            "runmodel --help": [python, "-m", "runmodel_ext", "--help"],
            "find_runs": [python, "-c", find.format(""), folder],
            "find_runs, filtered and sorted": [python, "-c", find.format(chosen), folder],
            "import torch": [python, "-c", "import torch"],
            "python itself": [python, "-c", ""],
        }
        for name, command in commands.items():
            wall, work, peak = measure(command, arguments.repeats)
            print(f"{name:36} {wall:7.2f} s wall {work:7.2f} s processor {peak:6.0f} MB")
        for name in list(commands)[:3]:
            found = sorted(imported(commands[name]).intersection(FOREIGN))
            print(f"{name:36} imports {', '.join(found) or 'none of ' + ', '.join(FOREIGN)}")


if __name__ == "__main__":
    main()
