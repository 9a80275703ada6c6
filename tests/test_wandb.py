"""What an offline W&B run really holds, read back with W&B's own tool."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import wandb
import yaml
from conftest import MakeTrainer
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from ldmi_lightning.callbacks import JointMatrixLogger
from ldmi_lightning.commands import main
from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.models import DigitsCNN
from ldmi_lightning.noise import ClassDependentNoise
from ldmi_lightning.runs.loggers import RunCSVLogger, open_wandb

REPO = Path(__file__).parents[1]
QUICK = [
    *("--config", str(REPO / "configs/quickstart.yaml"), "--trainer.enable_progress_bar", "false"),
    *("--model.warmup.epochs", "2", "--model.robust.epochs", "2"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with W&B offline, tags and a group, in a folder of its own."""
    root = tmp_path_factory.mktemp("wandb")
    logger = {"class_path": "WandbLogger", "init_args": {"tags": ["noisy", "digits"], "group": "tries"}}
    matrix = {"class_path": "ldmi_lightning.callbacks.JointMatrixLogger", "init_args": {"every_n_epochs": 1}}
    (root / "logger.yaml").write_text(yaml.safe_dump({"trainer": {"logger": logger, "callbacks": [matrix]}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("PL_GLOBAL_SEED", "1")
        flags = ["--config", str(root / "logger.yaml"), "--trainer.default_root_dir", str(root / "runs")]
        assert main(["fit", *QUICK, *flags]) == 0
    (run,) = (root / "runs").iterdir()
    return run


def inspected(*options: str | Path) -> str:
    """Return what W&B's own tool prints of a run; older versions of W&B have none."""
    command = [Path(sys.executable).parent / "wandb", "leet", "inspect"]
    if "--json" not in subprocess.run([*command, "--help"], capture_output=True, text=True, check=False).stdout:
        pytest.skip(f"wandb {wandb.__version__} cannot print what an offline run holds")
    return subprocess.run([*command, "--json", *options], capture_output=True, text=True, check=True).stdout


def records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of all offline W&B runs in a run's folder, in the order in which they were written."""
    runs = sorted((folder / "wandb").glob("offline-run-*"))
    return [json.loads(line) for run in runs for line in inspected(run).splitlines()]


def history(folder: Path) -> list[dict[str, Any]]:
    return [record["history"]["item"] for record in records(folder) if record["type"] == "history"]


def table(folder: Path, row: dict[str, Any], name: str) -> np.ndarray:
    """Return a logged matrix as the heatmap's table has it."""
    (path,) = (folder / "wandb").glob(f"offline-run-*/files/{row[f'{name}_table.path']}")
    return np.array([cell[2] for cell in json.loads(path.read_text())["data"]]).reshape(10, 10)


def test_a_logged_matrix_is_that_of_the_saved_predictions(folder: Path) -> None:
    # The best warm-up epoch's weights, their probabilities on the noisy validation set, and U by hand.
    progress = torch.load(folder / "warmup-best.ckpt", weights_only=True)["ldmi_lightning"]["progress"]
    net = DigitsCNN(10)
    net.load_state_dict(progress["best_weights"])
    data = DigitsDataModule(noise=ClassDependentNoise(0.6, {9: 1, 2: 0, 4: 7, 3: 5}, seed=1))
    data.setup("fit")
    split = data.splits["val"]
    with torch.no_grad():
        probabilities = net.eval()(data.eval_transform()(split.x)).softmax(dim=1).double().numpy()
    counts = np.zeros((10, 10))
    np.add.at(counts, split.y.numpy(), probabilities)

    epoch = progress["best_epoch"] - 1
    rows = [row for row in history(folder) if row["epoch"] == epoch]
    (charts,) = [row for row in rows if "joint/counts_table.path" in row]
    (scalars,) = [row for row in rows if "val/log_dmi" in row]
    np.testing.assert_allclose(table(folder, charts, "joint/counts"), counts, atol=1e-4)
    shares = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(table(folder, charts, "joint/row_normalised"), shares, atol=1e-6)
    log_det = np.log(abs(np.linalg.det(counts / counts.sum())))
    assert scalars["val/log_dmi"] == pytest.approx(log_det, rel=1e-4)


def test_every_epoch_has_its_point_over_epoch_with_the_stage_marked(folder: Path) -> None:
    rows = history(folder)
    assert [row["epoch"] for row in rows if "val/log_dmi" in row] == [0, 1, 2, 3]
    assert [(row["epoch"], row["stage"]) for row in rows if "train/loss" in row] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert all("trainer/global_step" in row for row in rows if "train/loss" in row)
    metrics = [record["metric"] for record in records(folder) if record["type"] == "metric"]
    over_epoch = {
        str(each.get("glob_name") or each.get("name")) for each in metrics if each.get("step_metric") == "epoch"
    }
    assert over_epoch >= {"train/*", "val/*"}


def test_config_and_summary_tell_noise_stage_and_best_epoch(folder: Path) -> None:
    (run,) = (folder / "wandb").glob("offline-run-*")
    found = json.loads(inspected("--summary", run))
    results = json.loads((folder / "results.json").read_text())
    noise = found["config"]["noise"]
    assert noise["sha256"] == results["noise"]["sha256"]
    assert noise["matrix"] == results["noise"]["matrix"]
    assert found["config"]["model"]["class_path"] == "ldmi_lightning.LDMIModule"
    text = json.dumps(found)
    for stage in ("warmup", "robust"):
        assert f"{stage}/best_epoch" in text
    (header,) = [record["run"] for record in records(folder) if record["type"] == "run"][:1]
    assert (header["tags"], header["run_group"]) == (["noisy", "digits"], "tries")


def test_summary_holds_the_estimated_transition_matrix_and_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    configs = Path(__file__).parents[1] / "configs"
    files = ["--config", str(configs / "quickstart.yaml"), "--config", str(configs / "methods/dmi-refine.yaml")]
    short = [word for stage in ("warmup", "robust", "refine") for word in (f"--model.{stage}.epochs", "1")]
    where = ["--trainer.default_root_dir", str(tmp_path / "runs"), "--trainer.enable_progress_bar", "false"]
    assert main(["fit", *files, *short, *where, "--trainer.logger", "WandbLogger"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    refine = json.loads((folder / "results.json").read_text())["stages"]["refine"]
    injected = ClassDependentNoise(0.6, {9: 1, 2: 0, 4: 7, 3: 5}).transition_matrix(10)
    distances = np.abs(np.array(refine["transition"]) - injected).sum(axis=1)
    assert refine["transition_error"] == pytest.approx(distances.mean(), abs=1e-4)
    summary: dict[str, Any] = {}
    for record in records(folder):
        summary |= record.get("summary", {}).get("update", {})
    assert summary["refine/transition_error"] == refine["transition_error"]
    assert summary["refine/transition"] == refine["transition"]


def test_a_resumed_run_goes_on_under_the_same_id(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    (folder / "last.ckpt").write_bytes((folder / "warmup-last.ckpt").read_bytes())
    assert main(["fit", "--ckpt_path", str(folder / "last.ckpt")]) == 0
    ids = {
        record["run"]["run_id"] for record in records(folder) if record["type"] == "run" and "run_id" in record["run"]
    }
    assert len(ids) == 1
    assert {row["epoch"] for row in history(folder) if "val/log_dmi" in row} == {0, 1, 2, 3}


class Plain(pl.LightningModule):
    """Somebody else's module: it returns `probs` and `y` from `validation_step`, and knows nothing of stages."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.net = torch.nn.Linear(4, num_classes)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        return {"probs": self.net(batch[0]).softmax(dim=1), "y": batch[1]}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("num_classes", [3, 30])
def test_the_callback_works_in_anyones_trainer(num_classes: int, tmp_path: Path) -> None:
    x, y = torch.randn(240, 4), torch.arange(240) % num_classes
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=60)
    wandb_logger = WandbLogger(save_dir=tmp_path, offline=True, project="tests")
    open_wandb(wandb_logger)
    trainer = pl.Trainer(
        max_epochs=2,
        logger=[CSVLogger(tmp_path, name="", version="csv"), wandb_logger],
        callbacks=[JointMatrixLogger(every_n_epochs=1)],
        accelerator="cpu",
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=tmp_path,
    )
    trainer.fit(Plain(num_classes), loader, loader)
    wandb_logger.experiment.finish()
    assert sorted(path.name for path in (tmp_path / "csv/joint").iterdir()) == ["epoch-0001.png", "epoch-0002.png"]
    header = (tmp_path / "csv/metrics.csv").read_text().splitlines()[0]
    names = {"val/log_dmi", "val/dmi", "val/dmi_normalised", "val/smallest_singular_value"}
    assert names <= set(header.split(","))
    media = {path.suffix for path in tmp_path.glob("wandb/offline-run-*/files/media/**/*") if path.is_file()}
    assert media == ({".json"} if num_classes <= 20 else {".png"})


def test_rows_of_a_resumed_run_are_kept_up_to_the_epoch_that_is_run_again(
    tmp_path: Path, make_trainer: MakeTrainer
) -> None:
    x, y = torch.randn(240, 4), torch.arange(240) % 3
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=60)
    (tmp_path / "metrics.csv").write_text("epoch,old,step\n0,0.5,3\n1,0.25,7\n2,0.1,11\n")

    class FromOne(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if not trainer.sanity_checking:
                trainer.loggers[0].log_metrics({"epoch": 2, "val/new": torch.tensor(0.75)}, 11)

    logger = RunCSVLogger(str(tmp_path))
    callbacks = [FromOne(), JointMatrixLogger(every_n_epochs=1, class_names=["a", "b", "c"])]
    trainer = make_trainer(
        max_epochs=1, logger=logger, callbacks=callbacks, enable_checkpointing=False, log_every_n_steps=1
    )
    trainer.fit(Plain(3), loader, loader)
    with (tmp_path / "metrics.csv").open() as file:
        rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    assert rows[:2] == [{"epoch": "0", "old": "0.5", "step": "3"}, {"epoch": "1", "old": "0.25", "step": "7"}]
    assert rows[2] == {"epoch": "2", "val/new": "0.75", "step": "11"}
    assert "val/log_dmi" in rows[3]
    assert (tmp_path / "joint/epoch-0001.png").is_file()
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_refused_key_does_not_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    logger = WandbLogger(save_dir=tmp_path, project="tests")
    line = open_wandb(logger)
    logger.log_metrics({"val/acc": 0.5}, 1)
    wandb.finish()
    assert line.startswith("W&B: ")
    assert "offline" in line
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    monkeypatch.setenv("WANDB_MODE", "offline")
