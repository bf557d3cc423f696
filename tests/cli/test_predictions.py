"""`predict` writes a table with one row for each sample, whatever the module returns."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from runmodel_ext.cli.trainer_commands import main
from tests.cli.tiny import QUICK, Tiny, TinyData, fit, run, the_run


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def predicted(root: Path, model: str = "Tiny", *more: str) -> Path:
    """Fit and predict; the folder of the predictions."""
    own = f"tests.cli.test_predictions.{model}" if model != "Tiny" else "tests.cli.tiny.Tiny"
    fit(root, *more, model=own)
    run("predict", root, *more, model=own)
    return the_run(root).path / "predict-1"


def test_each_sample_of_the_test_set_has_a_row_in_its_order(tmp_path: Path) -> None:
    folder = predicted(tmp_path)
    rows = table(folder)
    assert list(rows[0]) == ["dataloader", "index", "target", "prediction"]
    assert [row["index"] for row in rows] == [str(place) for place in range(11)]
    points = TinyData().points(11, 2)
    best = the_run(tmp_path).checkpoint("best")
    assert best is not None
    model = Tiny.load_from_checkpoint(best).eval()
    with torch.no_grad():
        expected = model.layer(points.tensors[0])[:, 0]
    assert [float(row["target"]) for row in rows] == pytest.approx(points.tensors[1].tolist())
    assert [float(row["prediction"]) for row in rows] == pytest.approx(expected.tolist())


def test_a_classification_has_index_target_prediction_and_score(tmp_path: Path) -> None:
    model = ["--model=ClassificationModule", "--model.num_classes=10", "--model.network=CNN", "--data=Digits"]
    few = ["--model.network.width=4", "--trainer.limit_train_batches=2", *QUICK, f"--run.root={tmp_path}"]
    main(["fit", *model, *few])
    main(["predict", *model, *few])
    main(["test", *model, *few])
    rows = table(the_run(tmp_path).path / "predict-1")
    assert list(rows[0])[:5] == ["dataloader", "index", "prediction", "score", "probability.0"]
    assert [int(row["index"]) for row in rows] == list(range(len(rows)))
    right = [row["prediction"] == row["target"] for row in rows]
    assert sum(right) / len(right) == pytest.approx(the_run(tmp_path).scores["test/acc"].value)


def test_the_record_knows_of_the_prediction(tmp_path: Path) -> None:
    predicted(tmp_path)
    found = the_run(tmp_path)
    attempt = found.attempts[-1]
    assert (attempt["kind"], attempt["folder"], attempt["status"]) == ("predict", "predict-1", "finished")
    assert found.status == "finished"
    run("predict", tmp_path)
    assert (found.path / "predict-2/predictions.csv").read_bytes() == (
        found.path / "predict-1/predictions.csv"
    ).read_bytes()


def test_the_table_is_written_as_parquet_too(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = predicted(tmp_path)
    read = parquet.read_table(folder / "predictions.parquet").to_pylist()
    rows = table(folder)
    assert [row["index"] for row in read] == list(range(11))
    assert [row["prediction"] for row in read] == [float(row["prediction"]) for row in rows]


class PlainTensor(Tiny):
    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return self.layer(batch[0])


class Matrix(Tiny):
    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return batch[0]


class Texts(Tiny):
    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return {"answer": ['say "yes", or no\nor maybe' for _ in batch[0]]}


class OneText(Tiny):
    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return f"batch {batch_idx}"


class Nested(Tiny):
    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return {"boxes": [{"at": point, "size": torch.ones(2, 2)} for point in batch[0]]}


class Pictures(Tiny):
    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return torch.zeros(len(batch[0]), 3, 4, 4)


class Nothing(Tiny):
    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return None


class Wavering(Tiny):
    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return {"a": batch[1]} if batch_idx == 0 else {"a": batch[1], "b": batch[1]}


@pytest.mark.parametrize(
    ("model", "columns"),
    [
        ("PlainTensor", ["prediction"]),
        ("Matrix", ["prediction.0", "prediction.1"]),
        ("Texts", ["answer"]),
    ],
)
def test_a_table_is_made_of_what_the_module_returns(tmp_path: Path, model: str, columns: list[str]) -> None:
    rows = table(predicted(tmp_path, model))
    assert list(rows[0]) == ["dataloader", "index", *columns]
    assert len(rows) == 11
    assert rows[0].get("answer") in (None, 'say "yes", or no\nor maybe')


@pytest.mark.parametrize("model", ["OneText", "Nested", "Pictures"])
def test_what_is_no_table_is_kept_a_file_a_batch(tmp_path: Path, model: str) -> None:
    folder = predicted(tmp_path, model)
    names = sorted(path.name for path in folder.glob("*.pt"))
    assert names == [f"batch-0-{batch:06d}-rank0.pt" for batch in range(3)]
    assert not (folder / "predictions.csv").exists()
    loaded = torch.load(folder / names[1], weights_only=True)
    assert loaded == "batch 1" if model == "OneText" else loaded is not None


@pytest.mark.filterwarnings("ignore:predict returned None:UserWarning")
def test_a_module_that_returns_nothing_leaves_no_table(tmp_path: Path) -> None:
    folder = predicted(tmp_path, "Nothing")
    assert not list(folder.glob("predictions*"))


def test_batches_of_different_columns_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Batch 1 of the predictions has the columns \['b'\]"):
        predicted(tmp_path, "Wavering")
    attempt = the_run(tmp_path).attempts[-1]
    assert (attempt["kind"], attempt["status"]) == ("predict", "failed")
    assert the_run(tmp_path).status == "finished"


def test_predictions_of_no_run_lie_below_the_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("predict", tmp_path, "--untrained")
    (folder,) = (tmp_path / ".unrecorded").iterdir()
    assert len(table(folder)) == 11
    assert str(folder) in capsys.readouterr().err
