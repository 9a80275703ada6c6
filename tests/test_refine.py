"""The third stage, the warm start, and the likelihood that selects."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from blobs import ADAM, Blobs, Watch, blobs, ce, dmi, equal, fit, run_folder, weights
from conftest import MakeTrainer
from stops import StopAt, Stopped, same
from torch import nn

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.commands import main
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss, ForwardLoss

QUIET = ["--trainer.logger", "false", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


def refine(epochs: int = 2, renew: bool = True, **arguments: Any) -> Stage:
    stage = {"monitor": "val/nll", "mode": "min", "optimizer": ADAM, **arguments}
    return Stage(ForwardLoss("held_out", renew=renew), epochs, **stage)


def three(seed: int = 1, **arguments: Any) -> LDMIModule:
    """Return a linear classifier with three stages of two epochs each."""
    pl.seed_everything(seed, verbose=False)
    stages = {"warmup": ce(), "robust": dmi(), "refine": refine()}
    return LDMIModule(nn.Linear(3, 3), 3, **{**stages, **arguments})


def nll(probs: torch.Tensor, transition: torch.Tensor, y: torch.Tensor) -> float:
    """Compute the noisy labels' negative log-likelihood, one sample after the other."""
    rows = zip(probs.double().numpy() @ transition.numpy(), y.tolist(), strict=True)
    return float(np.mean([-np.log(row[label]) for row, label in rows]))


def test_third_stage_begins_with_the_best_weights_of_the_second_and_is_selected_by_likelihood(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    module = three()
    watch = fit(make_trainer, module)
    assert watch.stages == ["warmup"] * 2 + ["robust"] * 2 + ["refine"] * 2
    assert equal(watch.of("refine")[0].start, watch.best("robust", "val/log_dmi").end)
    best = min(watch.of("refine"), key=lambda epoch: epoch.metrics["val/nll"])
    folder = run_folder(tmp_path)
    assert equal(weights(folder / "refine-best.ckpt"), best.end)
    assert equal(weights(module), weights(folder / f"{module.chosen}-best.ckpt"))
    assert module.stage_summaries()["refine"]["selected_by"] == "val/nll"
    names = [f"{stage}-{which}" for stage in ("refine", "robust", "warmup") for which in ("best", "last")]
    assert sorted(path.stem for path in run_folder(tmp_path).glob("*.ckpt")) == sorted([*names, "last"])


def test_likelihood_is_that_of_the_noisy_validation_labels_under_the_stages_matrix(make_trainer: MakeTrainer) -> None:
    module, data = three(), blobs(batch_size=16)
    watch = fit(make_trainer, module, data)
    val, net = data.splits["val"], nn.Linear(3, 3)
    for epoch in watch.epochs:
        net.load_state_dict({name.removeprefix("backbone."): value for name, value in epoch.end.items()})
        # The matrix that an epoch began with is the one that its validation sees.
        transition = epoch.loss_state.get("transition", torch.eye(3, dtype=torch.float64))
        with torch.no_grad():
            expected = nll(net(val.x).softmax(1), transition, val.y)
        assert epoch.metrics["val/nll"] == pytest.approx(expected, rel=1e-5)
    first, second = (epoch.loss_state["transition"] for epoch in watch.of("refine"))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("name", "stage"), [("refine-best", "refine"), ("warmup-best", "warmup")])
def test_validation_of_a_checkpoint_uses_its_own_stages_matrix(
    name: str, stage: str, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    data = blobs(batch_size=16)
    watch = fit(make_trainer, three(), data)
    best = {"refine": min(watch.of("refine"), key=lambda epoch: epoch.metrics["val/nll"]), "warmup": watch.of("warmup")}
    path = next(tmp_path.glob(f"*/{name}.ckpt"))
    (logged,) = make_trainer().validate(three(seed=5), data, ckpt_path=path, verbose=False, weights_only=True)
    seen = [best["refine"]] if stage == "refine" else best["warmup"]
    assert any(logged["val/nll"] == pytest.approx(epoch.metrics["val/nll"], rel=1e-6) for epoch in seen)


def test_outputs_of_zero_leave_the_likelihood_finite(make_trainer: MakeTrainer) -> None:
    module, data = three(), blobs()
    nn.init.zeros_(module.backbone.weight)
    with torch.no_grad():
        module.backbone.bias.copy_(torch.tensor([1000.0, 0.0, -1000.0]))
    (logged,) = make_trainer().validate(module, data, verbose=False)
    share = (data.splits["val"].y != 0).double().mean().item()
    assert logged["val/nll"] == pytest.approx(share * -np.log(torch.finfo(torch.float32).tiny), rel=1e-6)


def test_stage_without_an_optimizer_takes_the_warm_ups_and_not_the_robust_ones(make_trainer: MakeTrainer) -> None:
    watch = fit(make_trainer, three(refine=refine(optimizer=None)))
    kinds = {epoch.stage: (type(epoch.optimizer).__name__, epoch.lr) for epoch in watch.epochs}
    assert kinds == {"warmup": ("SGD", 0.4), "robust": ("Adam", 0.05), "refine": ("SGD", 0.4)}


@pytest.mark.parametrize("epoch", range(1, 6))
def test_resume_from_any_epoch_of_any_stage_gives_the_uninterrupted_weights(
    epoch: int, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    whole, stopped, resumed = three(), three(), three(seed=1)
    make_trainer(default_root_dir=tmp_path / "whole").fit(whole, datamodule=Blobs())
    with pytest.raises(Stopped):
        make_trainer(default_root_dir=tmp_path / "parts", callbacks=[StopAt(epoch)]).fit(stopped, datamodule=Blobs())
    last = next((tmp_path / "parts").glob("*/last.ckpt"))
    make_trainer(default_root_dir=tmp_path / "parts").fit(
        resumed, datamodule=Blobs(), ckpt_path=last, weights_only=True
    )
    assert same(resumed.state_dict(), whole.state_dict())
    assert same(resumed.stage_summaries(), whole.stage_summaries())


# -- warm start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["checkpoint", "state dict"])
def test_warm_start_begins_the_robust_stage_with_the_given_weights(
    kind: str, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    before = three()
    fit(make_trainer, before, default_root_dir=tmp_path / "before")
    path = next((tmp_path / "before").glob("*/robust-best.ckpt"))
    given = weights(path)
    if kind == "state dict":
        path = tmp_path / "weights.pt"
        torch.save({name.removeprefix("backbone."): value for name, value in given.items()}, path)
    module = three(seed=9, warm_start=str(path))
    watch = Watch()
    make_trainer(default_root_dir=tmp_path / "after", callbacks=[watch]).fit(module, datamodule=Blobs())
    assert watch.stages == ["robust"] * 2 + ["refine"] * 2
    assert equal(watch.epochs[0].start, given)
    assert watch.epochs[0].loss_state["joint_memory"].sum().item() == pytest.approx(1)
    assert module.stage_summaries()["warmup"]["epochs"] == 0
    assert sorted(path.stem for path in run_folder(tmp_path / "after").glob("robust*")) == [
        "robust-best",
        "robust-last",
    ]


def test_warm_start_inherits_the_learning_rate_at_which_the_warm_up_ended(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    def decayed(**arguments: Any) -> LDMIModule:
        halve = lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)  # noqa: E731
        return three(warmup=ce(scheduler=halve), robust=Stage(CELoss(), 1), refine=None, **arguments)

    watch = fit(make_trainer, decayed(), default_root_dir=tmp_path / "before")
    path = next((tmp_path / "before").glob("*/warmup-best.ckpt"))
    again = fit(make_trainer, decayed(warm_start=str(path)), default_root_dir=tmp_path / "after")
    assert again.epochs[0].lr in {epoch.lr for epoch in watch.of("warmup")}
    assert again.epochs[0].optimizer.__class__ is torch.optim.SGD


def test_warm_started_run_is_resumed_like_any_other(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "weights.pt")
    arguments = {"warm_start": str(tmp_path / "weights.pt")}
    whole, stopped, resumed = (three(**arguments) for _ in range(3))
    make_trainer(default_root_dir=tmp_path / "whole").fit(whole, datamodule=Blobs())
    with pytest.raises(Stopped):
        make_trainer(default_root_dir=tmp_path / "parts", callbacks=[StopAt(3)]).fit(stopped, datamodule=Blobs())
    last = next((tmp_path / "parts").glob("*/last.ckpt"))
    make_trainer(default_root_dir=tmp_path / "parts").fit(
        resumed, datamodule=Blobs(), ckpt_path=last, weights_only=True
    )
    assert same(resumed.state_dict(), whole.state_dict())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "weights.pt cannot be used: there is no such file"),
        ({"weight": torch.zeros(3, 3)}, "holds weights of another backbone: bias is missing in the checkpoint"),
        ({"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}, r"weight is \(3, 4\) in the checkpoint, but \(3, 3\)"),
        ([1, 2], "holds neither a checkpoint of LDMIModule nor a backbone's state dict"),
        ({}, "holds neither a checkpoint of LDMIModule nor a backbone's state dict"),
        (nn.Linear(3, 3), "holds Python objects, which could run code"),
    ],
)
def test_warm_start_from_something_else_is_refused(
    content: Any, message: str, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    if content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message):
        fit(make_trainer, three(warm_start=str(path)))


def test_warm_start_without_a_stage_to_begin_is_refused() -> None:
    with pytest.raises(UserError, match="no stage follows: give --model\\.robust"):
        LDMIModule(nn.Linear(3, 3), 3, ce(), warm_start="weights.pt")


def test_command_line_says_that_the_warm_up_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    short = ["--model.warmup.epochs", "2", "--model.robust.epochs", "1", *QUIET]
    assert main(["fit", *short]) == 0
    (before,) = Path("runs").glob("*/warmup-best.ckpt")
    assert main(["fit", *short, "--model.warm_start", str(before)]) == 0
    out = capsys.readouterr().out
    assert f"warmup: skipped, for the weights of {before}." in out
