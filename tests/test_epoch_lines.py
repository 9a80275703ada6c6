"""Where output is no terminal, a fit prints one plain line an epoch: with stages, and in anyone's Trainer."""

import re
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import MakeTrainer
from test_resume import digits, ldmi, three_and_three
from torch import Tensor

from ldmi_lightning.callbacks import EpochLines


class Plain(pl.LightningModule):
    """Somebody else's module, which logs an accuracy for progress bars, and knows nothing of stages."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(4, 3)
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/mine", torch.tensor(0.25), prog_bar=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/mine", torch.tensor(0.5))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_anyones_epochs_have_a_line_each(make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)
    flags = {"enable_progress_bar": True, "enable_checkpointing": False, "log_every_n_steps": 1}
    trainer = make_trainer(max_epochs=4, check_val_every_n_epoch=2, callbacks=[EpochLines()], **flags)
    module = Plain()
    trainer.fit(module, loader, loader)
    printed = capsys.readouterr().out
    means = [sum(module.losses[3 * epoch : 3 * epoch + 3]) / 3 for epoch in range(4)]
    validated = ["", ", val/mine 0.25", "", ", val/mine 0.25"]
    expected = [f"epoch {i + 1}: train/loss {mean:.4g}{validated[i]}" for i, mean in enumerate(means)]
    assert [line for line in printed.splitlines() if line.startswith("epoch")] == expected
    assert "\r" not in printed
    trainer.validate(module, loader, verbose=False)
    trainer.test(module, loader, verbose=False)
    assert "epoch" not in capsys.readouterr().out


def test_the_epochs_of_stages_bear_their_names(make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(enable_progress_bar=True, enable_checkpointing=False, callbacks=[EpochLines()])
    module = ldmi(*three_and_three(epochs=2))
    trainer.fit(module, digits())
    lines = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\w+ \d/\d", line)]
    assert [line.partition(":")[0] for line in lines] == ["warmup 1/2", "warmup 2/2", "robust 1/2", "robust 2/2"]
    number = r"-?\d[\d.e-]*"
    for line in lines:
        assert re.fullmatch(rf"[^:]+: train/loss {number}, val/acc {number}, val/nll {number}.*", line), line
    assert "val/log_dmi" in lines[2], "what the stage selects by"
    best = [int(lines[i + j].endswith(" (best so far)")) * (j + 1) for i in (0, 2) for j in (0, 1)]
    summaries = module.stage_summaries()
    assert [max(best[:2]), max(best[2:])] == [summaries[name]["best_epoch"] for name in ("warmup", "robust")]
    last = trainer.callback_metrics["train/loss"]
    assert f"train/loss {float(last):.4g}," in lines[-1]


def test_a_line_is_there_before_the_next_epoch_begins(
    make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []

    class Looks(pl.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            seen.append(len(re.findall(r"^warmup 1/1: ", capsys.readouterr().out, re.MULTILINE)))

    trainer = make_trainer(enable_progress_bar=True, enable_checkpointing=False, callbacks=[EpochLines(), Looks()])
    trainer.fit(ldmi(*three_and_three(epochs=1)), digits())
    assert seen == [0, 1]
