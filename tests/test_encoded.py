"""Any data set through a frozen encoder: features, labels, augmented passes, and runs on them."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import MakeTrainer
from features import Counting, N, encoded, numbers, said, stored, tables
from refusals import refusal
from torch import Tensor, nn

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.datamodules import (
    DigitsDataModule,
    EncodedDataModule,
    HFDataModule,
)
from ldmi_lightning.losses import CELoss
from ldmi_lightning.models import Probe
from ldmi_lightning.noise import InstanceDependentNoise, Noise, SymmetricNoise

# -- features ---------------------------------------------------------------------------------------------------------


def test_features_are_what_the_encoder_gives(tmp_path: Path) -> None:
    data = encoded(tmp_path)
    for name, split in data.data.splits.items():
        expected = split.x @ (torch.arange(15.0).view(3, 5) / 10).T
        assert torch.allclose(stored(data, name), expected, atol=1e-5)
    assert data.num_features == 3


def test_batches_are_standardised_by_the_training_set_alone(tmp_path: Path) -> None:
    data = encoded(tmp_path)
    train, val = stored(data), stored(data, "val")
    mean, std = train.double().mean(0), train.double().std(0, correction=0)
    for loader, x in ((data.train_eval_dataloader(), train), (data.val_dataloader(), val)):
        batches = list(loader)
        index = torch.cat([batch.index for batch in batches])
        assert torch.allclose(torch.cat([batch.x for batch in batches]).double(), (x[index] - mean) / std, atol=1e-5)
    assert abs(torch.cat([batch.x for batch in data.val_dataloader()]).mean()) > 1e-4


def test_a_constant_feature_has_deviation_one(tmp_path: Path) -> None:
    encoder = nn.Linear(5, 2)
    with torch.no_grad():
        encoder.weight[0], encoder.bias[0] = 0, 0.1
    batch = next(iter(encoded(tmp_path, encoder).train_dataloader()))
    assert torch.equal(batch.x[:, 0], torch.zeros(50))
    assert batch.x[:, 1].std() > 0.5


def test_float16_takes_half_the_space(tmp_path: Path) -> None:
    half, whole = (encoded(tmp_path / dtype, dtype=dtype) for dtype in ("float16", "float32"))
    assert stored(half).dtype == torch.float16
    assert torch.allclose(stored(half).float(), stored(whole), rtol=1e-3)
    assert next(iter(half.train_dataloader())).x.dtype == torch.float32
    sizes = [sum(path.stat().st_size for path in (tmp_path / each).rglob("*.npy")) for each in ("float16", "float32")]
    assert sizes[0] < 0.6 * sizes[1]


def test_maps_are_averaged_and_the_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = encoded(tmp_path, nn.Conv2d(1, 4, (3, 5)), DigitsDataModule())
    x = data.data.eval_transform()(data.data.splits["test"].x)
    assert torch.allclose(stored(data, "test"), data.encoder(x).mean((2, 3)), atol=1e-6)
    assert "maps of 6×4: features are the mean over each" in said(capsys)


@pytest.mark.parametrize(
    ("encoder", "line"),
    [
        (nn.Unflatten(1, (5, 1)), r"gives shape \(64, 5, 1\) for a batch of 64, but features are a tensor \(B, D\)"),
        (nn.LSTM(5, 2), "gives a tuple for a batch of 64"),
        (nn.Linear(4, 2), r"Linear fails on a batch of shape \(64, 5\): .*mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_what_is_no_encoder_is_refused_in_one_line(encoder: nn.Module, line: str, tmp_path: Path) -> None:
    assert re.search(line, refusal(lambda: stored(encoded(tmp_path, encoder))))


def test_features_that_are_no_numbers_are_refused_by_the_sample(tmp_path: Path) -> None:
    x = numbers()
    x[:, 0] = np.arange(N)
    data = encoded(tmp_path, nn.Sequential(_Logarithm()), tables(x - 300))
    position = int((data.data.splits["train"].x[:, 0] < 0).nonzero()[0])
    original = int(data.data.splits["train"].original_index[position])
    expected = f"NaN or infinity for sample {position} of the train split (number {original} of the data set)"
    assert expected in refusal(lambda: stored(data))


class _Logarithm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.log()


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    x = numbers()
    x[17] = 1e6
    assert "more than float16 can hold (65504): set --data.dtype float32" in refusal(
        lambda: [stored(encoded(tmp_path, data=tables(x), dtype="float16"), name) for name in ("train", "val", "test")]
    )


# -- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "noise", [SymmetricNoise(0.4, seed=1), InstanceDependentNoise(0.3, seed=1)], ids=["class", "instance"]
)
def test_labels_are_those_without_the_encoder(noise: Noise, tmp_path: Path) -> None:
    plain = tables(noise=noise)
    plain.setup("fit")
    outside = encoded(tmp_path, noise=noise, batch_size=20)
    inside = encoded(tmp_path, data=tables(noise=noise))
    for data in (outside, inside):
        for name, split in plain.splits.items():
            for field in ("y", "y_clean", "original_index"):
                assert torch.equal(getattr(data.splits[name], field), getattr(split, field))
        assert data.noise_report() == plain.noise_report()
        assert all(data.labels_are_true(name) == plain.labels_are_true(name) for name in plain.splits)
    assert outside.batch_size == outside.data.batch_size == 20
    assert inside.batch_size == 50


def test_noise_given_twice_is_refused(tmp_path: Path) -> None:
    noise = SymmetricNoise(0.4)
    line = refusal(lambda: EncodedDataModule(tables(noise=noise), Counting(), noise=SymmetricNoise(0.2)))
    assert "Noise is given twice" in line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"passes": -1}, "--data.passes must be at least 0, but got -1"),
        ({"dtype": "bfloat16"}, "--data.dtype must be float32 or float16, but got bfloat16"),
        ({"image_size": 0}, "--data.image_size must be at least 1, but got 0"),
        ({"passes": 2}, "TensorDataModule has no augmentation"),
        ({"image_size": 8}, r"--data.image_size is for images .* but the data gives inputs of shape \(64, 5\)"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(options: dict[str, Any], line: str, tmp_path: Path) -> None:
    assert re.search(line, refusal(lambda: stored(encoded(tmp_path, **options))))


# -- augmented passes -------------------------------------------------------------------------------------------------


class Jitter(nn.Module):
    """Adds what is drawn for each sample."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(len(x), 1)


def with_passes(folder: Path, passes: int, **options: Any) -> EncodedDataModule:
    return encoded(folder, data=tables(augmentation=Jitter()), passes=passes, **options)


def test_training_batches_take_one_of_the_passes_by_seed_and_epoch(tmp_path: Path) -> None:
    data = with_passes(tmp_path, 3)
    loader, again = data.train_dataloader(), with_passes(tmp_path, 3, batch_size=20).train_dataloader()
    passes = data.train_dataloader().passes  # type: ignore[attr-defined]
    assert passes.shape == (560, 3, 3)
    assert len({tuple(passes[0, number].tolist()) for number in range(3)}) == 3
    rows = []
    for epoch in range(2):
        taken = {}
        for each in (loader, again):
            each.set_epoch(epoch)
            rows_by_index = {i: row for batch in each for i, row in zip(batch.index.tolist(), batch.x, strict=True)}
            taken[each] = rows_by_index
        common = taken[loader].keys() & taken[again].keys()
        assert all(torch.equal(taken[loader][i], taken[again][i]) for i in common)
        rows.append(taken[loader])
    standard = data.eval_transform()
    for i, row in rows[0].items():
        assert any(torch.equal(row, standard(passes[i, number])) for number in range(3))
    same = [torch.equal(rows[0][i], rows[1][i]) for i in rows[0].keys() & rows[1].keys()]
    assert 0.2 < np.mean(same) < 0.5


def test_two_views_are_two_passes(tmp_path: Path) -> None:
    data = with_passes(tmp_path, 3)
    data.views = 2
    standard, loader = data.eval_transform(), data.train_dataloader()
    for batch in loader:
        assert not (batch.x == batch.second_view).all(1).any()
        options = standard(loader.passes[batch.index])  # type: ignore[attr-defined]
        assert (options == batch.second_view[:, None]).all(2).any(1).all()


def test_two_views_without_two_passes_are_refused(tmp_path: Path) -> None:
    data = with_passes(tmp_path, 0)
    data.views = 2
    assert "set --data.passes 2 or more" in refusal(lambda: next(iter(data.train_dataloader())))


def test_passes_do_not_depend_on_batches_or_on_what_was_drawn_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = with_passes(tmp_path / "a", 1)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = first.train_dataloader().passes  # type: ignore[attr-defined]
    assert torch.equal(torch.get_rng_state(), state)  # a run draws the same, whether features were there or not
    torch.manual_seed(2)
    two = with_passes(tmp_path / "b", 1, batch_size=9).train_dataloader().passes  # type: ignore[attr-defined]
    assert torch.equal(one, two)
    assert "augmented pass 1" in said(capsys)


def test_augmentation_that_is_not_used_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = with_passes(tmp_path, 0)
    data.encode()
    assert said(capsys).count("Features are computed without TensorDataModule's augmentation") == 1


# -- checkpoints and runs ---------------------------------------------------------------------------------------------


def last(folder: Path) -> str | None:
    """Return the newest checkpoint of the run in a folder, where there is one."""
    return next(map(str, folder.rglob("last.ckpt")), None)


def fitted(folder: Path, make_trainer: MakeTrainer, **options: Any) -> tuple[pl.Trainer, LDMIModule, EncodedDataModule]:
    data = EncodedDataModule(tables(), Counting(), cache=str(folder / "features"), **options)
    module = LDMIModule(Probe(data.num_features, 2), 2, warmup=Stage(CELoss(), epochs=2))
    trainer = make_trainer()
    trainer.fit(module, data)
    return trainer, module, data


def test_other_data_is_standardised_as_in_training(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    _, module, data = fitted(tmp_path, make_trainer)
    checkpoint = last(tmp_path)
    train = stored(data)
    other = EncodedDataModule(tables(numbers(7) + 50), Counting(), cache=str(tmp_path / "features"))
    make_trainer().test(module, other, ckpt_path=checkpoint, verbose=False, weights_only=True)
    batch = next(iter(other.test_dataloader()))
    expected = (stored(other, "test")[batch.index] - train.mean(0)) / train.std(0, correction=0)
    assert torch.allclose(batch.x, expected, rtol=1e-3)
    assert other.encoder.seen == [64, 6]  # what is tested, and nothing else


def test_another_encoder_than_the_checkpoints_is_refused(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    _, module, _ = fitted(tmp_path, make_trainer)
    twice = Counting()
    with torch.no_grad():
        twice.net.weight.mul_(2)
    other = EncodedDataModule(tables(), twice, cache=str(tmp_path / "features"))
    path = last(tmp_path)
    line = refusal(lambda: make_trainer().test(module, other, ckpt_path=path, verbose=False, weights_only=True))
    assert "The encoder Counting is not that of the checkpoint" in line


@pytest.mark.parametrize("changed", [{"passes": 1}, {"dtype": "float16"}])
def test_a_run_is_not_resumed_on_other_features(
    changed: dict[str, Any], tmp_path: Path, make_trainer: MakeTrainer
) -> None:
    data = EncodedDataModule(tables(augmentation=Jitter()), Counting(), cache=str(tmp_path / "features"))
    module = LDMIModule(Probe(3, 2), 2, warmup=Stage(CELoss(), epochs=1))
    make_trainer().fit(module, data)
    other = EncodedDataModule(tables(augmentation=Jitter()), Counting(), cache=str(tmp_path / "features"), **changed)
    longer = LDMIModule(Probe(3, 2), 2, warmup=Stage(CELoss(), epochs=2))
    line = refusal(lambda: make_trainer().fit(longer, other, ckpt_path=last(tmp_path), weights_only=True))
    assert f"data.{next(iter(changed))}" in line


class KeepFirst(pl.Callback):
    """Keeps the checkpoint of the first epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1 and (path := last(self.folder)):
            shutil.copy(path, self.folder / "first.ckpt")


def test_a_resumed_run_ends_as_one_that_was_left_alone(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    weights = []
    for begun in (None, str(tmp_path / "whole/first.ckpt")):
        pl.seed_everything(1, verbose=False)
        data = EncodedDataModule(tables(augmentation=Jitter()), Counting(), cache=str(tmp_path / "features"), passes=2)
        module = LDMIModule(Probe(3, 2, hidden=4, dropout=0.5), 2, warmup=Stage(CELoss(), epochs=3))
        root = tmp_path / ("resumed" if begun else "whole")
        make_trainer(default_root_dir=root, callbacks=[KeepFirst(root)]).fit(
            module, data, ckpt_path=begun, weights_only=True
        )
        weights.append(module.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_probe_without_a_width_is_told_where_it_comes_from() -> None:
    with pytest.raises(ValueError, match="where that is an EncodedDataModule"):
        Probe(num_classes=2)


class Counts(nn.Module):
    """How often each of the first ids stands in a text."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(x, 50).sum(1).float()


def test_rows_without_labels_are_predicted_not_training_rows_in_their_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.csv").write_text("text,label\n" + "".join(f"word{i % 7} one,{'ab'[i % 2]}\n" for i in range(60)))
    (tmp_path / "new.csv").write_text("text\nword1 one\nword2 one\nword2\n")
    own = HFDataModule(
        str(tmp_path / "own.csv"), text_column="text", test_source=str(tmp_path / "new.csv"), vocab_size=50
    )
    data = EncodedDataModule(own, Counts(), cache=str(tmp_path / "features"))
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    seen = batch.x * data.eval_transform().std + data.eval_transform().mean
    assert torch.equal(seen.round(), Counts()(own.splits["predict"].x.long()))
    assert (len(batch.x), batch.y.tolist()) == (3, [-1, -1, -1])
    assert "samples of the predict split" in capsys.readouterr().out
