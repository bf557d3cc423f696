"""The picture of the stages: what is in it, where it lies, and what it is drawn from."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch.optim import lr_scheduler

from runmodel_ext import Stage, StagedFinetuning, Until
from runmodel_ext.callbacks import RandomState
from runmodel_ext.cli import RunCLI
from runmodel_ext.errors import MissingExtraError, ScheduleError
from runmodel_ext.finetuning import Curve, Position, Warmup, curve_of_metrics, draw_stages
from runmodel_ext.finetuning.canvas import figure_of
from runmodel_ext.finetuning.picture import bands_of, merged, rates_over
from tests.cli.tiny import DATA, MODEL, the_run
from tests.finetuning.kit import BATCHES, BY_PLATEAU, THREE, Digits, SaveAt, fit, moments, with_scheduler

History = list[dict[str, Any]]
LONG = "the head of the decoder with its layer norms, and the embedding of positions that comes before it"
TWO = [Stage("head", train="net.head", lr=0.02, until=Until(epochs=1)), Stage("all", train="*", lr=0.01)]


def passed(name: str, start: int, end: int | None, why: str | None = "it was over") -> dict[str, Any]:
    to = None if end is None else {"epoch": end // 10, "step": end}
    return {"stage": name, "from": {"epoch": start // 10, "step": start}, "to": to, "ended": why}


def seen(step: int, rates: Mapping[str, float] | None = None, **metrics: float) -> dict[str, Any]:
    return {"step": step, "epoch": step // 10, "rates": dict(rates or {}), "metrics": metrics}


def drawn(history: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, Any]]) -> Figure:
    bands = bands_of(history, curve)
    return figure_of(bands, merged(rates_over(bands, curve)), curve)


def texts(figure: Figure) -> list[str]:
    found = [text for text in figure.findobj(Text) if text.get_visible()]
    return [text.get_text() for text in found if isinstance(text, Text) and text.get_text()]


def staged(picture: str | None = "stages.png", stages: list[Stage] | None = None) -> StagedFinetuning:
    return StagedFinetuning(TWO if stages is None else stages, show_plan=False, picture=picture)


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


EIGHT = [passed(f"blocks.{7 - n}", 10 * n, 10 * n + 10) for n in range(8)]
SIXTY = {f"blocks.{n}": 0.001 * 0.9**n for n in range(60)}
PICTURES: dict[str, tuple[History, History]] = {
    "three stages": (
        [passed("head", 0, 30), passed("top", 30, 60), passed("all", 60, 90)],
        [seen(0, {"head": 0.1}), seen(29, **{"val/loss": 0.7, "val/accuracy": 0.4}), seen(30, {"head": 0.01, "x": 1})],
    ),
    "blocks thawed one by one": (
        EIGHT,
        [seen(10 * n, {f"blocks.{7 - m}": 0.1 for m in range(n + 1)}) for n in range(8)],
    ),
    "sixty groups": ([passed("all", 0, 50)], [seen(0, SIXTY), seen(40, SIXTY, loss=1.0)]),
    "one stage that is not over": ([passed("all", 0, None, None)], [seen(0, {"net": 0.1}), seen(9, {"net": 0.1})]),
    "long names and reasons": (
        [passed(LONG, 0, 3, f"'{LONG}' came to 0.912345. " * 5), passed(f"_{LONG}", 3, 90)],
        [seen(0, {f"net.{LONG}.weight": 0.1, f"_{LONG}": 0.2}), seen(50, **{LONG: 0.5})],
    ),
    "dollars and letters that no font has": (
        [passed("$x_$ {", 0, 9), passed("头部 $\\frac", 9, 20)],
        [seen(0, {"$y^": 0.1})],
    ),
    "forty stages": ([passed(f"s{n}", 10 * n, 10 * n + 10) for n in range(40)], [seen(0, {"net": 0.1})]),
    "nothing but stages": ([passed("head", 0, 0), passed("all", 0, 20)], []),
    "a rate that rises from next to nothing": ([passed("all", 0, 20)], [seen(0, {"a": 1e-9}), seen(9, {"a": 0.1})]),
    "rates of zero and values that are no numbers": (
        [passed("all", 0, 20)],
        [seen(0, {"a": 0.0, "b": 0.1}, loss=float("nan")), seen(10, {"a": 0.0, "b": 0.0}, loss=float("inf"))],
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_no_text_is_cut_off_and_no_name_lies_on_another(name: str, tmp_path: Path) -> None:
    draw_stages(*PICTURES[name], tmp_path / "stages.png")
    assert is_png(tmp_path / "stages.png")
    if "font" in name:  # which warns of them here
        return
    figure = drawn(*PICTURES[name])
    figure.draw_without_rendering()
    everything = figure.get_tightbbox()
    assert everything.x0 >= 0 <= everything.y0
    assert everything.x1 <= figure.get_figwidth()
    assert everything.y1 <= figure.get_figheight()
    strip, *_, foot = figure.axes
    names, lines = ([text.get_window_extent() for text in axes.texts if text.get_text()] for axes in (strip, foot))
    assert all(box.x0 >= 0 <= box.y0 and box.x1 <= figure.bbox.width for box in lines)
    for boxes in (names, lines):
        assert not [(one, other) for one in boxes for other in boxes if one is not other and one.overlaps(other)]


def test_a_picture_names_stages_reasons_groups_and_metrics() -> None:
    said = texts(drawn(*PICTURES["three stages"]))
    assert {"1  head", "2  top", "3  all", "x", "learning rate", "val/loss", "val/accuracy"} <= set(said)
    assert "step 30 to 60, epoch 3 to 6: it was over" in said


def test_a_name_without_room_is_a_number_in_the_strip_and_stands_below() -> None:
    said = texts(drawn(*PICTURES["forty stages"]))
    assert "1  s0" not in said
    assert {"40", "s0", "s22", "and 17 stages more"} <= set(said)
    assert "s23" not in said


def test_names_are_shown_as_they_are() -> None:
    said = texts(drawn([passed("_a $x$", 0, 9)], [seen(0, {"_net.$w$": 0.1})]))
    assert {"1  _a $x$", "_net.$w$"} <= set(said)


def test_a_rate_of_next_to_nothing_does_not_press_the_others_together() -> None:
    rates = drawn(*PICTURES["a rate that rises from next to nothing"]).axes[1]
    assert rates.get_ylim()[0] > 1e-4
    assert all(min(line.get_ydata()) > 1e-4 for line in rates.lines if line.get_marker() == "o")


def test_a_rate_of_zero_is_no_line_and_no_dot() -> None:
    rates = drawn([passed("all", 0, 20)], [seen(0, {"a": 0.0, "b": 0.1}), seen(10, {"a": 0.0, "b": 0.2})]).axes[1]
    ordinates = [value for line in rates.lines for value in np.asarray(line.get_ydata(), float) if value == value]
    assert set(ordinates) == {0.1, 0.2}


def test_a_legend_names_ten_of_many_groups() -> None:
    said = texts(drawn(*PICTURES["sixty groups"]))
    assert "10 of 60 groups" in said
    assert [text for text in said if text.startswith("blocks.")] == [f"blocks.{round(n * 59 / 9)}" for n in range(10)]


def test_groups_that_are_the_same_everywhere_share_a_line() -> None:
    curve = [seen(0, {"a": 0.1, "b": 0.1, "c": 0.2}), seen(10, {"a": 0.3, "b": 0.3, "c": 0.2})]
    lines = merged(rates_over(bands_of([passed("all", 0, 20)], curve), curve))
    assert [label for label, _ in lines] == ["a and 1 more", "c"]


def test_a_rate_is_held_until_its_stage_ends_and_a_frozen_group_has_none() -> None:
    history = [passed("head", 0, 10), passed("body", 10, 20), passed("head again", 20, 30)]
    curve = [
        {**seen(0, {"head": 0.1}), "stage": 0},
        {**seen(10, {"head": 0.1}), "stage": 0},  # the epoch's end, at the step of the transition
        {**seen(10, {"body": 0.2}), "stage": 1},
        {**seen(20, {"head": 0.3}), "stage": 2},
    ]
    lines = rates_over(bands_of(history, curve), curve)
    assert lines["head"] == [(0, 0.1), (10, 0.1), (10, 0.1), (10, None), (20, 0.3), (30, 0.3)]
    assert lines["body"] == [(10, 0.2), (20, 0.2), (20, None)]


@pytest.mark.parametrize(
    ("name", "start"), [("a.pdf", b"%PDF"), ("a.svg", b"<?xml"), ("a", b"\x89PNG"), ("a.PNG", b"\x89PNG")]
)
def test_the_ending_says_which_format(name: str, start: bytes, tmp_path: Path) -> None:
    path = draw_stages(*PICTURES["three stages"], tmp_path / "a folder" / name)
    assert path.read_bytes().startswith(start)
    assert path.suffix


def test_a_picture_without_a_stage_or_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ScheduleError, match=r"no picture without a stage, but `history` is empty\. Draw it after a fit"
    ):
        draw_stages([], [seen(0)], tmp_path / "a.png")
    with pytest.raises(
        ScheduleError, match=r"drawn as png, pdf or svg, but `picture` is 'a\.bmp'\. Let it end in '\.png'"
    ):
        draw_stages([passed("all", 0, 9)], [], "a.bmp")


def test_the_settings_of_ones_own_plots_change_nothing(tmp_path: Path) -> None:
    import matplotlib

    before = draw_stages(*PICTURES["three stages"], tmp_path / "a.png").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        assert draw_stages(*PICTURES["three stages"], tmp_path / "b.png").read_bytes() == before
        assert matplotlib.rcParams["font.size"] == 30


# What it is drawn from


@pytest.mark.parametrize("groups", [1, 400])
def test_a_curve_stays_small_and_keeps_stages_and_metrics(groups: int) -> None:
    curve = Curve()
    for step in range(12_000):
        rates = {f"g{n}": 1 / (step + 1) for n in range(groups)}
        metrics = {"val/loss": 1.0} if step % 400 == 399 else None
        if step % curve.every == 0 or metrics:
            curve.add(Position(step // 4_000, step), step // 3_000, rates, metrics)
    assert 100 <= len(curve.points) <= (2_000 if groups == 1 else 200)
    assert sum(bool(point["metrics"]) for point in curve.points) == 30
    firsts = [next(point["step"] for point in curve.points if point["stage"] == stage) for stage in range(4)]
    assert all(0 <= first - 3_000 * stage <= curve.every for stage, first in enumerate(firsts))


def test_a_curve_of_nothing_but_validations_stays_small() -> None:
    curve = Curve()
    for step in range(9_000):
        curve.add(Position(step, step), 0, {"net": 0.1}, {"val/loss": 1 / (step + 1)})
    assert 1_000 <= len(curve.points) <= 2_000
    assert curve.points[0]["step"] == 0
    assert curve.points[-1]["step"] >= 8_998


SCHEDULES = {
    "epochs": (Digits, THREE),
    "plateau": (Digits, BY_PLATEAU),
    "one cycle": (
        with_scheduler(lambda own: lr_scheduler.OneCycleLR(own, max_lr=0.01, total_steps=42), "step"),
        [Stage("head", train="net.head", until=Until(steps=9)), Stage("all", train="*", lr=0.01)],
    ),
    "warm-up and cosine": (
        Digits,
        [
            Stage("head", train="net.head", lr=0.02, until=Until(epochs=2), warmup=Warmup(steps=5)),
            Stage("all", train="*", lr_scheduler=partial(lr_scheduler.CosineAnnealingLR, T_max=28), lr_interval="step"),
        ],
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_resumed_fit_has_the_curve_of_one_that_was_never_stopped(name: str, tmp_path: Path) -> None:
    make, stages = SCHEDULES[name]
    chosen = [*moments()[1::6], ("batch", BATCHES), ("validation", 2 * BATCHES), ("epoch", 2 * BATCHES)]
    whole = staged(None, stages)
    fit(make, [RandomState(), whole, SaveAt(tmp_path, chosen)])
    for kind, step in chosen:
        resumed = staged(None, stages)
        fit(make, [RandomState(), resumed], checkpoint=tmp_path / f"{kind}-{step}.ckpt", seed=1)
        assert resumed.curve == whole.curve, (kind, step)
    assert all(isinstance(rate, float) for point in whole.curve for rate in point["rates"].values())


def test_a_curve_has_a_point_at_each_transition_epoch_and_validation() -> None:
    callback = staged(None, THREE)
    fit(Digits, [callback])
    steps = [point["step"] for point in callback.curve]
    assert set(steps) == {0, 7, 14, 21, 28, 35, 42}
    assert [point["step"] for point in callback.curve if "val/loss" in point["metrics"]] == [7, 14, 21, 28, 35, 42]
    starts = [next(point for point in callback.curve if point["stage"] == stage)["rates"] for stage in range(3)]
    assert starts[:2] == [{"net.head": 0.02}, {"net.head": 0.01, "net.body": 0.005}]
    assert starts[2].keys() == {"net.head", "net.body", "net.stem"}


def test_a_warm_up_has_a_point_in_each_step() -> None:
    callback = staged(None, [Stage("all", train="*", lr=0.5, warmup=Warmup(steps=5))])
    fit(Digits, [callback], epochs=2)
    rates = {point["step"]: point["rates"]["net"] for point in callback.curve if point["rates"]}
    assert [rates[step] for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_what_the_stages_watch_is_shown_else_what_sounds_like_validation() -> None:
    class Logs(Digits):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            for name in ("val/a", "val/b", "val/c", "val/loss", "score"):
                self.log(name, self.loss(batch))

    def shown(*stages: Stage) -> list[str]:
        callback = staged(None, list(stages))
        fit(Logs, [callback], epochs=2)
        return list(dict.fromkeys(name for point in callback.curve for name in point["metrics"]))

    from runmodel_ext.finetuning import Reaches

    assert shown(Stage("all", train="*")) == ["val/loss", "val/a", "val/b"]
    assert shown(Stage("all", train="*", until=Until(reaches=Reaches("score", value=-1.0)))) == ["score"]


def test_a_metric_that_only_training_logs_is_shown_once_an_epoch() -> None:
    class Logs(Digits):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = self.loss(batch)
            self.log("train/loss", loss, on_step=False, on_epoch=True)
            return loss

    from runmodel_ext.finetuning import Reaches

    callback = staged(None, [Stage("all", train="*", until=Until(reaches=Reaches("train/loss", value=-1.0)))])
    fit(Logs, [callback], epochs=3, limit_val_batches=0)
    assert [point["step"] for point in callback.curve if "train/loss" in point["metrics"]] == [7, 14, 21]


def test_a_second_fit_with_a_trainer_of_its_own_has_a_curve_of_its_own() -> None:
    callback = staged(None)
    for _ in range(2):
        fit(Digits, [callback], epochs=2)
        assert [point["step"] for point in callback.curve] == sorted(point["step"] for point in callback.curve)


def test_the_metrics_of_a_logger_make_a_picture_too(tmp_path: Path) -> None:
    rows = [{"step": 0, "lr/head": 0.1}, {"step": 5, "train/loss": 1.0}, {"step": 9, "epoch": 0, "val/loss": 0.7}]
    said = texts(drawn([passed("head", 0, 10)], curve_of_metrics(rows)))
    assert {"1  head", "head", "val/loss"} <= set(said)
    assert not {"train/loss", "epoch"} & set(said)


# Where it lies, and when it is drawn


def test_it_lies_in_the_loggers_directory_else_in_the_default_root_dir(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="a", version=3)
    fit(Digits, [staged()], epochs=2, logger=logger, default_root_dir=tmp_path)
    assert is_png(tmp_path / "a/version_3/stages.png")
    fit(Digits, [staged("plots/stages.png")], epochs=2, default_root_dir=tmp_path)
    assert is_png(tmp_path / "plots/stages.png")
    fit(Digits, [staged(str(tmp_path / "elsewhere.png"))], epochs=2, logger=logger)
    assert is_png(tmp_path / "elsewhere.png")


def test_a_run_of_ours_has_it_in_its_directory_and_what_the_run_left_draws_it_again(tmp_path: Path) -> None:
    stages = [{"name": "first", "train": "layer.1", "lr": 0.1, "until": {"epochs": 1}}, {"name": "all", "train": "*"}]
    callback = {"class_path": "runmodel_ext.StagedFinetuning", "init_args": {"stages": stages, "picture": "stages.png"}}
    quiet = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
    config = {"trainer": {**quiet, "log_every_n_steps": 1, "callbacks": [callback]}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    RunCLI(args=["fit", f"--config={tmp_path / 'c.yaml'}", f"--model={MODEL}", f"--data={DATA}",
                 f"--run.root={tmp_path / 'results'}"])  # fmt: skip
    run = the_run(tmp_path / "results")
    assert [path.relative_to(run.path).as_posix() for path in run.path.rglob("*.png")] == ["fit-1/stages.png"]
    curve = curve_of_metrics(run.metrics())
    assert {"val/loss"} == {name for point in curve for name in point["metrics"]}
    assert is_png(draw_stages(run.record["stages"], curve, tmp_path / "again.png"))


class Breaks(Callback):
    """Ends a fit in its second epoch."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == BATCHES + 3:
            raise self.error


@pytest.mark.parametrize("error", [ValueError("the user's own"), KeyboardInterrupt()], ids=["an error", "Ctrl-C"])
def test_a_fit_that_breaks_off_has_its_picture_and_its_error(error: BaseException, tmp_path: Path) -> None:
    callback = staged()
    with pytest.raises((ValueError, SystemExit), match=r"the user's own|1"):
        fit(Digits, [callback, Breaks(error)], default_root_dir=tmp_path)
    assert is_png(tmp_path / "stages.png")
    assert callback.curve[-1]["step"] == BATCHES + 3
    assert [stage["ended"] for stage in callback.history] == ["1 epoch is over", None]


@pytest.mark.parametrize("error", [ValueError("the user's own"), None], ids=["an error", "a fit that ends well"])
def test_a_picture_that_cannot_be_drawn_does_not_change_how_a_fit_ends(
    error: Exception | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "stages.png").mkdir()
    if error is None:
        assert fit(Digits, [staged()], epochs=2, default_root_dir=tmp_path).global_step == 2 * BATCHES
    else:
        with pytest.raises(ValueError, match="the user's own"):
            fit(Digits, [staged(), Breaks(error)], default_root_dir=tmp_path)
    (record,) = [record for record in caplog.records if "picture" in record.message]
    assert record.message.startswith("The picture of the stages could not be drawn: IsADirectoryError")


def test_a_trial_of_one_batch_draws_nothing(tmp_path: Path) -> None:
    fit(Digits, [staged()], fast_dev_run=True, default_root_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_matplotlib_is_asked_for_before_the_first_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = r"A picture of stages needs matplotlib, .* not installed: pip install 'runmodel_ext\[plots\]'\."
    module = Digits()
    with pytest.raises(MissingExtraError, match=message):
        fit(lambda: module, [staged()], default_root_dir=tmp_path)
    assert module.trainer.global_step == 0
    with pytest.raises(MissingExtraError, match=message):
        draw_stages([passed("all", 0, 9)], [], tmp_path / "a.png")
    fit(Digits, [staged(None)], epochs=2)


def test_a_format_that_cannot_be_drawn_is_refused_with_all_else_that_is_wrong() -> None:
    with pytest.raises(ScheduleError, match=r"(?s)`picture` is 'stages\.jpg'.*'net\.haed'|'net\.haed'.*'stages\.jpg'"):
        fit(Digits, [staged("stages.jpg", [Stage("head", train="net.haed")])])
