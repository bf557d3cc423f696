import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from runmodel_ext.errors import ConfigError, NotFoundError, RecordError
from runmodel_ext.runs.locks import try_lock
from runmodel_ext.runs.run import Run
from runmodel_ext.runs.search import find_runs, iter_runs, match_run, nearest_run, resolve_run
from runmodel_ext.runs.values import MISSING
from tests.runs.factory import SETTINGS, digest_of, write_run


def names(runs: list[Run]) -> list[str]:
    return [run.name for run in runs]


def test_every_run_is_found_at_any_depth(tmp_path: Path) -> None:
    wanted = {"a", "b/c", "b/d/e/f/g"}
    for name in wanted:
        write_run(tmp_path, name)
    assert {run.name for run in iter_runs(tmp_path)} == wanted


def test_more_runs_than_one_batch_are_found_each_once(tmp_path: Path) -> None:
    for number in range(205):
        write_run(tmp_path, f"run-{number}", seed=number)
    assert sorted(run.seed or 0 for run in iter_runs(tmp_path)) == list(range(205))
    assert all(run.path == tmp_path / run.name for run in iter_runs(tmp_path))


def test_inside_of_runs_hidden_directories_and_links_are_not_searched(tmp_path: Path) -> None:
    outer = write_run(tmp_path, "outer")
    write_run(outer, "inner")
    write_run(tmp_path, ".trash/old")
    (tmp_path / "link").symlink_to(outer)
    assert names(list(iter_runs(tmp_path))) == ["outer"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is not readable JSON"),
        ('{"schema": 1, "name": "cut', "is not readable JSON"),
        ("[]", "lacks `schema`, `name`, `digest` or `status`"),
        ('{"name": "x"}', "lacks `schema`, `name`, `digest` or `status`"),
        ('{"schema": 99, "name": "x", "digest": "x", "status": "finished"}', "has schema 99"),
        ('{}, {"schema": 1, "name": "x", "digest": "x", "status": "finished"}', "is not readable JSON"),
    ],
)
def test_a_damaged_record_is_named_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str, reason: str
) -> None:
    write_run(tmp_path, "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "run.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        assert names(list(iter_runs(tmp_path))) == ["good"]
    assert f"The record '{tmp_path / 'bad' / 'run.json'}' {reason}" in caplog.text


def test_a_root_that_is_not_there_holds_no_runs(tmp_path: Path) -> None:
    assert find_runs(tmp_path / "nothing") == []
    assert find_runs(tmp_path / "nothing", where=["model.lr<1"], sort="val/acc") == []


def test_listing_imports_no_torch(tmp_path: Path) -> None:
    write_run(tmp_path)
    script = (
        "import sys\n"
        "from runmodel_ext.runs.search import find_runs\n"
        "assert len(find_runs(sys.argv[1], where=['lr<1'], sort='val/acc')) == 1\n"
        "print([name for name in ('torch', 'lightning', 'numpy', 'yaml') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_newest_run_comes_first(tmp_path: Path) -> None:
    for day in (3, 1, 2):
        write_run(tmp_path, f"day-{day}", created=f"2026-11-0{day}T00:00:00+00:00")
    assert names(find_runs(tmp_path)) == ["day-3", "day-2", "day-1"]
    assert names(find_runs(tmp_path, limit=1)) == ["day-3"]
    assert names(find_runs(tmp_path, sort="created")) == ["day-3", "day-2", "day-1"]
    assert names(find_runs(tmp_path, descending=False)) == ["day-1", "day-2", "day-3"]


def test_scores_are_sorted_best_first_and_missing_ones_last(tmp_path: Path) -> None:
    for name, value in {"good": 0.9, "bad": 0.1, "undefined": float("nan"), "none": ..., "best": 1.0}.items():
        write_run(tmp_path, name, scores={"val/acc": value, "val/loss": value})
    assert names(find_runs(tmp_path, sort="val/acc"))[:3] == ["best", "good", "bad"]
    assert names(find_runs(tmp_path, sort="val/loss"))[:3] == ["bad", "good", "best"]
    assert names(find_runs(tmp_path, sort="val/acc", descending=False))[:3] == ["bad", "good", "best"]
    for field in ("val/acc", "val/loss"):
        for descending in (True, False, None):
            last = names(find_runs(tmp_path, sort=field, descending=descending))[3:]
            assert set(last) == {"undefined", "none"}


def test_settings_of_several_types_are_sorted(tmp_path: Path) -> None:
    for name, value in {"c": "auto", "b": 2, "d": [1], "a": True, "none": None}.items():
        write_run(tmp_path, name, settings={"model.depth": value})
    assert names(find_runs(tmp_path, sort="depth")) == ["a", "b", "d", "c", "none"]


def test_runs_that_disagree_about_the_direction_are_not_sorted_silently(tmp_path: Path) -> None:
    for mode in ("min", "max"):
        write_run(tmp_path, mode, scores={"mix": {"value": 1.0, "mode": mode}})
    with pytest.raises(ConfigError, match="Some runs take a higher 'mix' for better, others a lower one"):
        find_runs(tmp_path, sort="mix")
    assert len(find_runs(tmp_path, sort="mix", descending=True)) == 2


def test_all_conditions_hold_at_once(tmp_path: Path) -> None:
    for lr in (0.1, 0.2, 0.3):
        write_run(tmp_path, f"lr={lr}", settings={"model.lr": lr}, tags=["wide"] if lr > 0.1 else [])
    assert names(find_runs(tmp_path, where=["lr<0.3", "tags=wide"])) == ["lr=0.2"]


def test_a_field_that_no_run_has_is_refused_with_the_nearest(tmp_path: Path) -> None:
    write_run(tmp_path)
    with pytest.raises(ConfigError, match=r"None of the 1 runs has a field 'val/ac'\. Did you mean 'val/acc'\?"):
        find_runs(tmp_path, where=["val/ac>0.5"])
    with pytest.raises(ConfigError, match=r"has a field 'model\.learning_rate'"):
        find_runs(tmp_path, sort="model.learning_rate")


def test_a_negative_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be 0 or more, but is -1"):
        find_runs(tmp_path, limit=-1)


def test_a_killed_run_reads_as_interrupted_and_a_live_one_as_running(tmp_path: Path) -> None:
    killed, live = (write_run(tmp_path, name, status="running", files=(".lock",)) for name in ("killed", "live"))
    lock = try_lock(live / ".lock")
    assert lock is not None
    assert names(find_runs(tmp_path, where=["status=running"])) == ["live"]
    assert names(find_runs(tmp_path, where=["status=interrupted"])) == ["killed"]
    lock.release()
    assert killed.exists()


def test_a_run_is_meant_by_its_path_or_anything_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "results", "digits/v1", files=("checkpoints/last.ckpt",))
    elsewhere = tmp_path / "elsewhere"
    for reference in (folder, folder / "checkpoints" / "last.ckpt", f"{folder}/", "digits/v1", folder.parent):
        assert resolve_run(reference, tmp_path / "results").name == "digits/v1"
    assert resolve_run(folder, elsewhere).name == "digits/v1"
    monkeypatch.chdir(folder / "checkpoints")
    assert resolve_run("last.ckpt", elsewhere).name == "digits/v1"


def test_a_run_is_meant_by_part_of_its_name_or_digest(tmp_path: Path) -> None:
    folder = write_run(tmp_path, settings={"model.lr": 0.1})
    other = write_run(tmp_path, settings={"model.lr": 0.2})
    run = Run.read(folder)
    for reference in (
        run.digest[:4],
        run.digest[:8],
        run.digest,
        f"lr=0.1-{run.digest[:8]}",
        "lr=0.1",
        run.name[:-3],
    ):
        assert resolve_run(reference, tmp_path).path == folder
    assert resolve_run("lr=0.2", tmp_path).path == other


def test_last_is_the_newest(tmp_path: Path) -> None:
    write_run(tmp_path, "new", created="2026-11-02T00:00:00+00:00")
    write_run(tmp_path, "old", created="2026-11-01T00:00:00+00:00")
    assert resolve_run("last", tmp_path).name == "new"


def test_of_versions_the_newest_is_meant(tmp_path: Path) -> None:
    for version in (1, 2, 10):
        write_run(tmp_path, version=version)
    digest = digest_of(SETTINGS)
    assert resolve_run(digest[:8], tmp_path).version == 10
    assert resolve_run("digits/classification-cnn", tmp_path).version == 10
    assert resolve_run("v2", tmp_path).version == 2


def test_a_reference_that_fits_several_runs_lists_them(tmp_path: Path) -> None:
    for seed in range(12):
        write_run(tmp_path, f"digits/seed={seed}", seed=seed, status="failed")
    with pytest.raises(NotFoundError) as caught:
        resolve_run("digits", tmp_path)
    message = str(caught.value)
    assert message.startswith("'digits' fits 12 runs: 'digits/seed=")
    assert message.count("(failed)") == 10
    assert message.endswith(" and 2 more. Write more of the name.")


def test_a_reference_that_fits_nothing_gets_the_nearest_names(tmp_path: Path) -> None:
    write_run(tmp_path, "digits/cnn/seed=0")
    with pytest.raises(
        NotFoundError,
        match=r"No run 'digist' among the 1 below '.*'\. Did you mean 'digits'\? `runmodel runs list`",
    ):
        resolve_run("digist", tmp_path)


@pytest.mark.parametrize("reference", ["", " ", "x" * 5000, "nul\0byte", "last", "a/b/c"])
def test_an_odd_reference_is_refused_in_one_sentence(tmp_path: Path, reference: str) -> None:
    with pytest.raises(NotFoundError, match="it holds no runs"):
        resolve_run(reference, tmp_path)
    with pytest.raises(NotFoundError, match="there is no such directory"):
        resolve_run(reference, tmp_path / "nothing")


@pytest.mark.parametrize("reference", ["", " ", "/", "."])
def test_an_empty_reference_means_no_run(tmp_path: Path, reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "results", "only")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError):
        resolve_run(reference)


def test_a_damaged_run_that_is_named_is_an_error(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "bad")
    (folder / "run.json").write_text("{")
    with pytest.raises(RecordError, match="is not readable JSON"):
        resolve_run("bad", tmp_path)


def runs_with(root: Path, **settings: dict[str, object]) -> list[Run]:
    return [Run.read(write_run(root, name, settings=values)) for name, values in settings.items()]


def test_the_nearest_run_differs_in_the_fewest_keys(tmp_path: Path) -> None:
    runs = runs_with(
        tmp_path,
        far={"model.lr": 1.0, "model.depth": 2, "data": "my.Data"},
        near={"model.lr": 1.0, "data.batch_size": 64.0},
    )
    found = nearest_run({**SETTINGS, "model.extra": 1}, iter(runs))
    assert found is not None
    assert found[0].name == "near"
    assert found[1] == {"model.lr": (0.01, 1.0), "data.batch_size": (64, 64.0), "model.extra": (1, MISSING)}
    assert nearest_run(SETTINGS, []) is None


def test_a_configuration_finds_its_runs_by_digest(tmp_path: Path) -> None:
    runs = runs_with(tmp_path, this={}, other={"model.lr": 1.0})
    found, added = match_run(digest_of(SETTINGS), SETTINGS, {}, iter(runs))
    assert (names(found), added) == (["this"], [])


def test_an_argument_added_to_a_class_still_finds_the_earlier_runs(tmp_path: Path) -> None:
    runs = runs_with(tmp_path, earlier={}, older={"model.lr": ...}, other={"model.lr": 1.0})
    wanted = {**SETTINGS, "model.ema": 0.0}
    defaults = {"model.ema": 0, "model.lr": 0.01}
    found, added = match_run(digest_of(wanted), wanted, defaults, runs)
    assert (names(found), added) == (["earlier"], ["model.ema"])


@pytest.mark.parametrize(
    ("changed", "defaults"),
    [
        ({"model.ema": 0.5}, {"model.ema": 0.0}),
        ({"model.ema": 0.5}, {}),
        ({"model.ema": 0.0, "model.lr": 0.5}, {"model.ema": 0.0, "model.lr": 0.5}),
    ],
)
def test_any_other_difference_finds_nothing(
    tmp_path: Path, changed: dict[str, object], defaults: dict[str, object]
) -> None:
    wanted = {**SETTINGS, **changed}
    assert match_run(digest_of(wanted), wanted, defaults, runs_with(tmp_path, earlier={})) == ([], [])


def test_a_record_in_another_encoding_is_still_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "wide", notes="Größe")
    record = json.loads((folder / "run.json").read_text("utf-8"))
    (folder / "run.json").write_bytes(json.dumps(record, ensure_ascii=False).encode("utf-16"))
    write_run(tmp_path, "plain")
    assert {run.notes for run in iter_runs(tmp_path)} == {"Größe", ""}


def test_levels_behind_a_digest_tell_its_seeds_apart(tmp_path: Path) -> None:
    digest = digest_of(SETTINGS)
    for seed in (0, 1):
        write_run(tmp_path, f"digits/mlp/lr=0.1-{digest[:8]}/seed={seed}/v1", digest=digest, seed=seed)
    assert resolve_run(f"{digest[:4]}/seed=1", tmp_path).seed == 1
    with pytest.raises(NotFoundError, match="fits 2 runs"):
        resolve_run(digest[:4], tmp_path)
