"""What holds for each rival of L_DMI: its place among the losses, extreme outputs, half precision, state, resuming."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import MakeTrainer
from stops import StopAt, Stopped
from torch import Tensor, nn

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.commands import main
from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.losses import CELoss, ForwardLoss, GCELoss, LCCNLoss, Loss, Predictions, TransitionLoss
from ldmi_lightning.noise import PairFlipNoise

REPO = Path(__file__).parents[1]
SURE = [[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.2, 0.0, 0.8]]
RIVALS: dict[str, Callable[[], Loss]] = {
    "GCE": GCELoss,
    "GCE, truncated": partial(GCELoss, truncation=0.5),
    "FW, anchor": ForwardLoss,
    "FW, renewed": partial(ForwardLoss, "held_out", renew=True),
    "FW, a matrix": partial(ForwardLoss, SURE, renew=True),
    "LCCN": partial(LCCNLoss, refresh_every=2, warmup_steps=2),
}
ESTIMATED = [name for name in RIVALS if name not in ("GCE", "GCE, truncated", "FW, a matrix")]
rivals = pytest.mark.parametrize("make", RIVALS.values(), ids=RIVALS)


def batch_of(size: int = 30, spread: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits of three classes, labels and positions."""
    rng = torch.Generator().manual_seed(size)
    y = torch.arange(size) % 3
    return spread * torch.randn(size, 3, generator=rng) + spread * nn.functional.one_hot(y, 3), y, torch.arange(size)


def prepared(make: Callable[[], Loss]) -> Loss:
    logits, y, index = batch_of()
    loss, given = make(), Predictions(logits.softmax(1), y, index)
    if loss.needs_predictions:
        loss.prepare(given, given)
    return loss


@rivals
def test_it_is_selected_by_likelihood_under_its_matrix_and_else_by_noisy_validation_accuracy(
    make: Callable[[], Loss],
) -> None:
    rule = ("val/nll", "min") if isinstance(make(), TransitionLoss) else ("val/acc", "max")
    assert (make().monitor, make().mode, make().needs_whole_batch) == (*rule, False)


def test_each_says_all_of_its_settings() -> None:
    assert repr(GCELoss(0.5, 0.2)) == "GCELoss(q=0.5, truncation=0.2)"
    assert repr(ForwardLoss()) == "ForwardLoss(transition='anchor', renew=False)"
    assert repr(ForwardLoss([[1.0, 0.0], [0.5, 0.5]], renew=True)) == (
        "ForwardLoss(transition=[[1.0, 0.0], [0.5, 0.5]], renew=True)"
    )
    assert repr(LCCNLoss(2, 3, 4)) == "LCCNLoss(prior=2, refresh_every=3, warmup_steps=4)"


@rivals
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_outputs_without_a_doubt_have_finite_values_and_gradients(make: Callable[[], Loss], dtype: torch.dtype) -> None:
    loss, sure = prepared(make), 80 * (2 * torch.eye(3) - 1)
    logits = sure.repeat_interleave(3, dim=0).to(dtype).requires_grad_()  # each class, with each label
    value = loss(logits, torch.arange(9) % 3, torch.arange(9))
    value.backward()
    assert logits.grad is not None
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@rivals
def test_half_precision_has_the_loss_of_32_bits_on_the_same_outputs(make: Callable[[], Loss]) -> None:
    logits, y, index = batch_of()
    rounded = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = prepared(make)(rounded, y, index)
    assert half.item() == pytest.approx(prepared(make)(rounded.float(), y, index).item(), rel=1e-6)


@rivals
def test_bf16_true_leaves_the_state_of_the_loss_alone(make: Callable[[], Loss]) -> None:
    loss = prepared(make)
    before = {name: value.clone() for name, value in loss.named_buffers()}
    for name, value in loss.bfloat16().named_buffers():
        assert value.dtype in (torch.float64, torch.int64, torch.int32)
        assert torch.equal(value, before[name])


@rivals
def test_evaluation_changes_nothing(make: Callable[[], Loss]) -> None:
    loss = prepared(make).eval()
    before = {name: value.clone() for name, value in loss.named_buffers()}
    for _ in range(3):
        loss(*batch_of())
    loss.end_epoch()
    assert all(torch.equal(value, before[name]) for name, value in loss.named_buffers())


@rivals
def test_a_fresh_loss_goes_on_bit_for_bit_after_an_epoch(make: Callable[[], Loss]) -> None:
    old, fresh = prepared(make), make()
    for size in (12, 15, 18):
        old(*batch_of(size))
    old.end_epoch()
    fresh.load_state_dict(old.state_dict())
    for size in (9, 12, 15):
        assert torch.equal(old(*batch_of(size)), fresh(*batch_of(size)))
    old.end_epoch()
    fresh.end_epoch()
    for name, value in old.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name])


# -- in a fit ---------------------------------------------------------------------------------------------------------


def fit(
    make_trainer: MakeTrainer, make: Callable[[], Loss], *callbacks: pl.Callback, data: Any = None, **of_fit: Any
) -> LDMIModule:
    """Train two epochs of cross-entropy, and three of a rival that inherits the optimizer."""
    pl.seed_everything(1, verbose=False)
    adam = partial(torch.optim.Adam, lr=5e-3)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 10))
    module = LDMIModule(mlp, 10, Stage(CELoss(), 2, adam), Stage(make(), 3))
    data = data or DigitsDataModule(PairFlipNoise(0.3, seed=0), batch_size=199)
    make_trainer(callbacks=list(callbacks)).fit(module, data, **of_fit)
    return module


@pytest.mark.parametrize("name", ["GCE", *ESTIMATED])
@pytest.mark.parametrize("stopped_in", [2, 4])
def test_a_run_goes_on_bit_for_bit(make_trainer: MakeTrainer, tmp_path: Path, name: str, stopped_in: int) -> None:
    with pytest.raises(Stopped):
        fit(make_trainer, RIVALS[name], StopAt(stopped_in))
    (last,) = tmp_path.glob("*/last.ckpt")
    resumed = fit(make_trainer, RIVALS[name], ckpt_path=last)
    whole = fit(make_trainer, RIVALS[name])
    assert resumed.state_dict().keys() == whole.state_dict().keys()
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key
    assert whole.stage_summaries()["robust"]["epochs"] == 3


def test_lccn_counts_the_whole_training_set_after_a_fit(make_trainer: MakeTrainer) -> None:
    loss = fit(make_trainer, RIVALS["LCCN"]).losses["robust"]
    assert isinstance(loss, LCCNLoss)
    assert int(loss.steps) == 3 * (1197 // 199)
    assert int(loss.counts().sum()) == 1197


def test_lccn_refuses_data_that_does_not_say_which_sample_is_which(make_trainer: MakeTrainer) -> None:
    rows = torch.utils.data.TensorDataset(torch.randn(40, 1, 8, 8), torch.arange(40) % 10)
    data = pl.LightningDataModule()
    data.train_dataloader = data.val_dataloader = lambda: torch.utils.data.DataLoader(rows, batch_size=8)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="which sample is which"):
        fit(make_trainer, RIVALS["LCCN"], data=data)


@pytest.mark.parametrize(
    "flags",
    [
        ["GCELoss", "--model.robust.loss.truncation", "0.5"],
        ["ForwardLoss", "--model.robust.loss.transition", "anchor", "--model.robust.loss.renew", "true"],
        ["ForwardLoss", "--model.robust.loss.transition", str([[float(i == j) for j in range(10)] for i in range(10)])],
        ["LCCNLoss", "--model.robust.loss.refresh_every", "5", "--model.robust.loss.warmup_steps", "5"],
    ],
    ids=lambda flags: " ".join(word.rpartition(".")[2] for word in flags)[:40],
)
def test_the_command_line_knows_it_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    quick = ["--config", str(REPO / "configs/quickstart.yaml"), "--model.robust.loss", *flags]
    quick += ["--model.warmup.epochs", "1", "--model.robust.epochs", "1", "--trainer.enable_progress_bar", "false"]
    assert main(["fit", *quick]) == 0
    assert any(line.startswith(f"robust  {flags[0]}") for line in capsys.readouterr().out.splitlines())
