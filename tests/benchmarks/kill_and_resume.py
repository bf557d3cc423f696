"""Kill a short fit at random moments, run the same command again, and compare with a fit that was never killed.

    python -m tests.benchmarks.kill_and_resume [N] [SEED]

The fit has dropout, augmentation and a scheduler. Compared bit for bit: weights, optimizer, scheduler and random
state of the last and of the best checkpoint; every row of the curve; the scores. Ends with exit code 1 if one differs.
"""

import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from runmodel_ext.runs import Run, find_runs
from tests.life.kit import assert_same_end, fit_args, fits, only_run
from tests.warm import Warm

EPOCHS = "--trainer.max_epochs=10"


def main(number: int = 20, seed: int = 0) -> int:
    """Kill ``number`` fits, and print a table; the exit code."""
    base = Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    moments = random.Random(seed)
    with Warm() as warm:
        whole, seconds = undisturbed(warm, base / "whole")
        print(f"A fit that is left alone takes {seconds:.2f} s, {whole.progress['step']} steps.\n")
        print(f"{'killed at':>9}  {'left behind':<32}{'then':<10}{'fits':>4}  the same bits")
        failed = 0
        for place in range(number):
            moment = moments.uniform(0, seconds)
            row, same = killed(warm, base / str(place), moment, whole)
            failed += not same
            print(f"{moment:7.2f} s  {row}{'yes' if same else 'NO'}", flush=True)
    print(f"\n{number - failed} of {number} ended as the fit that was never killed.")
    shutil.rmtree(base, ignore_errors=True)
    return int(failed > 0)


def undisturbed(warm: Warm, folder: Path) -> tuple[Run, float]:
    """A fit from start to end, and how long it took; the second of two, since the first reads files into memory."""
    for attempt in ("first", "second"):
        (folder / attempt).mkdir(parents=True)
        begin = time.perf_counter()
        code, text = warm.run(fit_args(folder / attempt, EPOCHS), folder / "log")
        assert code == 0, text
    return only_run(folder / "second"), time.perf_counter() - begin


def killed(warm: Warm, folder: Path, moment: float, whole: Run) -> tuple[str, bool]:
    """Kill a fit and run it again: what there was to see, and whether it ended the same."""
    folder.mkdir()
    command = warm.start(fit_args(folder, EPOCHS), folder / "log")
    threading.Event().wait(moment)
    command.kill()
    code = command.wait()
    left = what_is_left(folder) if code else "it was done already"
    code, text = warm.run(fit_args(folder, EPOCHS), folder / "log")
    runs = find_runs(folder / "results")
    if code or len(runs) != 1:
        print(text)
        return f"{left:<32}{f'exit {code}':<10}{len(runs):>4}  ", False
    (run,) = runs
    try:
        assert run.status == "finished"
        assert_same_end(run, whole)
    except AssertionError as error:
        print(f"{run.path}: {error}")
        return f"{left:<32}{run.status:<10}{len(fits(run)):>4}  ", False
    return f"{left:<32}{run.status:<10}{len(fits(run)):>4}  ", True


def what_is_left(folder: Path) -> str:
    """What a killed process left, in words."""
    runs = find_runs(folder / "results")
    if not runs:
        return "no run"
    checkpoint = "last.ckpt" if runs[0].checkpoint("last") else "no last.ckpt"
    return f"epoch {runs[0].progress.get('epoch', 0)}, {len(runs[0].metrics())} rows, {checkpoint}"


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
