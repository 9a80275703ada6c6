"""One contract for all datamodules: their splits, their noise, their batches, their ranks, and how a run goes on."""

import hashlib
import json
import multiprocessing
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from cases import CASES, EVERY, Case
from conftest import MakeTrainer
from stops import StopAt, Stopped
from torch import Tensor, nn

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.batch import Batch, LabelledData
from ldmi_lightning.datamodules import (
    DigitsDataModule,
    NoisyDataModule,
)
from ldmi_lightning.datamodules.image_files import ImageFiles
from ldmi_lightning.datamodules.loaders import IndexLoader, Split
from ldmi_lightning.errors import UserError
from ldmi_lightning.inputs import in_memory, num_samples, take, tensors_in
from ldmi_lightning.losses import CELoss
from ldmi_lightning.noise import Noise, SymmetricNoise

pytestmark = pytest.mark.usefixtures("hub_of_its_own")


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Return the case, its folder written and bound to it."""
    found = CASES[request.param]
    root = found.write(tmp_path_factory.mktemp("data") / "written")
    return found._replace(make=partial(found.make, root))


def set_up(case: Case, noise: Noise | None, **options: Any) -> NoisyDataModule:
    module = case.make(noise=noise, batch_size=16, **options)
    module.setup("fit")
    return module


@pytest.fixture(scope="module")
def given(case: Case) -> NoisyDataModule:
    """Return the data without injected noise."""
    return set_up(case, None)


@pytest.fixture
def module(case: Case, given: NoisyDataModule) -> NoisyDataModule:
    return set_up(case, SymmetricNoise(0.4, seed=1))


def loaders(module: NoisyDataModule) -> dict[str, IndexLoader]:
    return {
        "train": module.train_dataloader(),
        "train in order": module.train_eval_dataloader(),
        "val": module.val_dataloader(),
        "test": module.test_dataloader(),
        "predict": module.predict_dataloader(),
    }


def stored(split: Split, index: Tensor) -> Any:
    if isinstance(split.x, ImageFiles):
        return torch.stack([split.x.read(i) for i in index.tolist()])
    return take(split.x, index)


def leaves(x: Any) -> list[Tensor]:
    return [tensor for _, tensor in tensors_in(x)]


def samples(x: Any) -> int:
    return num_samples(x) if in_memory(x) else len(x)


def of_each(x: Any, known: Any) -> list[tuple[Tensor, Any]]:
    """Pair the tensors of inputs with what is known of each."""
    tensors = leaves(x)
    return list(
        zip(tensors, known if len(tensors) > 1 and isinstance(known, tuple) else [known] * len(tensors), strict=True)
    )


def assert_equal(one: Any, other: Any) -> None:
    for a, b in zip(leaves(one), leaves(other), strict=True):
        assert torch.equal(a, b)


def wide_as(part: Tensor, whole: Tensor) -> Tensor:
    """Pad texts that are trimmed to the longest of a rank's share as far as those of the whole batch."""
    return nn.functional.pad(part, (0, whole.shape[1] - part.shape[1])) if part.ndim == 2 else part


# -- splits -----------------------------------------------------------------------------------------------------------


def test_classes_are_known_before_anything_is_read(case: Case) -> None:
    module = case.make(noise=None)
    assert module.num_classes == len(module.class_names) == case.num_classes
    assert not module.splits


def test_module_finds_all_that_it_asks_of_labelled_data(given: NoisyDataModule) -> None:
    assert isinstance(given, LabelledData)


def test_there_are_three_splits_with_samples_of_every_class(case: Case, given: NoisyDataModule) -> None:
    assert tuple(given.splits) == EVERY
    for split in given.splits.values():
        assert set(split.y.tolist()) == set(range(case.num_classes))
        assert samples(split.x) == len(split.y) == len(split.y_clean) == len(split.original_index)
        assert {array.dtype for array in (split.y, split.y_clean, split.original_index)} == {torch.int64}


def test_inputs_are_stored_as_small_as_they_can_be(case: Case, given: NoisyDataModule) -> None:
    for split in given.splits.values():
        if not in_memory(split.x):
            assert type(split.x) is case.stored
            continue
        for tensor, kind in of_each(split.x, case.stored):
            assert tensor.dtype == kind


def test_no_sample_is_in_two_splits(case: Case, given: NoisyDataModule) -> None:
    index = [i for name in case.numbered for i in given.splits[name].original_index.tolist()]
    assert len(set(index)) == len(index)
    assert min(index) >= 0


def test_splits_are_the_same_in_every_run(case: Case, given: NoisyDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "77")
    again = set_up(case, None)
    for name, split in given.splits.items():
        assert torch.equal(split.original_index, again.splits[name].original_index)
        assert torch.equal(split.y, again.splits[name].y)


def test_second_setup_changes_nothing(given: NoisyDataModule) -> None:
    before = dict(given.splits)
    given.setup("test")
    assert given.splits == before


# -- noise ------------------------------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_labels(case: Case, module: NoisyDataModule) -> None:
    again = set_up(case, SymmetricNoise(0.4, seed=1))
    assert all(torch.equal(split.y, again.splits[name].y) for name, split in module.splits.items())
    assert module.noise_report() == again.noise_report()


def test_another_seed_gives_other_labels(case: Case, module: NoisyDataModule) -> None:
    other = set_up(case, SymmetricNoise(0.4, seed=2))
    for name, split in module.splits.items():
        assert torch.equal(split.y, other.splits[name].y) is (name not in case.noisy)
        assert torch.equal(split.y_clean, other.splits[name].y_clean)
    assert module.noise_report()["sha256"] != other.noise_report()["sha256"]


def test_noise_is_the_sequential_draw_in_the_declared_streams(
    case: Case, given: NoisyDataModule, module: NoisyDataModule
) -> None:
    transition = SymmetricNoise(0.4).transition_matrix(case.num_classes)
    clean = [given.splits[name].y.tolist() for name in case.noisy]
    expected: list[int] = []
    for stream in [[label for part in clean for label in part]] if case.one_stream else clean:
        rng = np.random.RandomState(1)
        expected += [rng.choice(case.num_classes, p=transition[label]) for label in stream]
    assert torch.cat([module.splits[name].y for name in case.noisy]).tolist() == expected


def test_splits_without_noise_keep_their_labels(case: Case, given: NoisyDataModule, module: NoisyDataModule) -> None:
    assert "test" not in case.noisy
    for name in set(EVERY) - set(case.noisy):
        assert torch.equal(module.splits[name].y, given.splits[name].y)


def test_true_labels_are_told_where_they_are_known(case: Case, given: NoisyDataModule, module: NoisyDataModule) -> None:
    for data, true in ((given, case.given_true), (module, case.true)):
        for name, split in data.splits.items():
            expected = given.splits[name].y if name in true else torch.full((len(split),), -1)
            assert torch.equal(split.y_clean, expected), name
            assert data.labels_are_true(name) is (name in true)
    assert given.noise_report()["train_rate"] == (0 if "train" in case.given_true else None)


def test_noise_report_tells_what_came_out(case: Case, module: NoisyDataModule) -> None:
    train, val = module.splits["train"], module.splits["val"]
    report = json.loads(json.dumps(module.noise_report()))
    assert (report["injector"], report["seed"], report["requested_rate"]) == ("SymmetricNoise", 1, 0.4)
    labels = np.concatenate([train.y, val.y]).astype("<i8")
    assert report["sha256"] == hashlib.sha256(labels.tobytes()).hexdigest()
    if "train" not in case.true:
        assert report["train_rate"] is report["matrix"] is None
        return
    assert report["train_rate"] == pytest.approx((train.y != train.y_clean).double().mean().item())
    for label, row in enumerate(report["matrix"]):
        drawn = train.y[train.y_clean == label].numpy()
        assert row == pytest.approx([np.mean(drawn == c) for c in range(case.num_classes)])


def test_noise_report_before_setup_says_what_to_call(case: Case) -> None:
    with pytest.raises(UserError, match=r"setup\('fit'\)"):
        case.make(noise=None).noise_report()


def test_class_counts_count_the_labels_to_learn_from(case: Case, module: NoisyDataModule) -> None:
    for name in ("train", "val"):
        labels = module.splits[name].y.tolist()
        assert module.class_counts(name).tolist() == [labels.count(c) for c in range(case.num_classes)]


# -- batches ----------------------------------------------------------------------------------------------------------


def test_batches_hold_inputs_for_the_model_and_labels_in_range(case: Case, module: NoisyDataModule) -> None:
    for name, loader in loaders(module).items():
        batch = next(iter(loader))
        assert isinstance(batch, Batch)
        tokens = torch.int16 in (case.stored if isinstance(case.stored, tuple) else [case.stored])
        for x, shape in of_each(batch.x, case.shape):
            assert x.dtype == (torch.int64 if tokens else torch.float32)
            assert len(x) == 16 or name != "train"
            assert shape is None or x.shape[1:] == shape
            assert x.min() < x.max()
        for labels, lowest in ((batch.y, 0), (batch.y_clean, -1), (batch.index, 0)):
            assert labels.dtype == torch.int64
            assert labels.shape == (num_samples(batch.x),)
            assert labels.min() >= lowest
        assert max(batch.y.max(), batch.y_clean.max()) < case.num_classes


def test_labels_and_inputs_stay_the_same_from_epoch_to_epoch(module: NoisyDataModule) -> None:
    loader, split = module.train_dataloader(), module.splits["train"]
    orders = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        orders.append([i for batch in loader for i in batch.index.tolist()])
        loader.set_epoch(epoch)
        for batch in loader:
            assert torch.equal(batch.y, split.y[batch.index])
            assert torch.equal(batch.y_clean, split.y_clean[batch.index])
    assert orders[0] != orders[1]
    for batch in module.train_eval_dataloader():
        expected = module.eval_transform()(stored(split, batch.index))
        assert_equal(batch.x, expected)


def test_order_follows_the_runs_seed_and_labels_do_not(
    module: NoisyDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    firsts = []
    for seed in ("1", "2", "1"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        firsts.append(next(iter(module.train_dataloader())).index.tolist())
    assert firsts[0] == firsts[2] != firsts[1]


def test_train_eval_loader_goes_through_the_training_set_in_index_order(given: NoisyDataModule) -> None:
    index = torch.cat([batch.index for batch in given.train_eval_dataloader()])
    assert torch.equal(index, torch.arange(len(given.splits["train"])))


def test_train_eval_loader_takes_a_seeded_subset(given: NoisyDataModule) -> None:
    half = len(given.splits["train"]) // 2
    first, again = (
        [i for batch in given.train_eval_dataloader(num_samples=half) for i in batch.index.tolist()] for _ in range(2)
    )
    assert first == again == sorted(set(first))
    assert len(first) == half
    assert first != list(range(half))


def on_rank(module: NoisyDataModule, rank: int, ranks: int) -> dict[str, list[Batch]]:
    """Return all batches of an epoch, as one of so many processes sees them."""
    place = SimpleNamespace(
        global_rank=rank, world_size=ranks, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    module.trainer = place  # type: ignore[assignment]
    try:
        found = loaders(module)
        epoch = {name: list(loader) for name, loader in found.items()}
        assert {name: len(batches) for name, batches in epoch.items()} == {n: len(each) for n, each in found.items()}
        return epoch
    finally:
        module.trainer = None


def test_two_ranks_share_the_batches_of_one(module: NoisyDataModule) -> None:
    alone, first, second = on_rank(module, 0, 1), on_rank(module, 0, 2), on_rank(module, 1, 2)
    for name, batches in alone.items():
        n = len(module.splits[name.split()[0].replace("predict", "test")])
        seen = [i for batch in batches for i in batch.index.tolist()]
        assert len(seen) == len(set(seen)) == (n // 16 * 16 if name == "train" else n)
        for whole, *parts in zip(batches, first[name], second[name], strict=True):
            assert abs(len(parts[0].index) - len(parts[1].index)) <= 1
            together = torch.cat([part.index for part in parts])
            assert sorted(together.tolist()) == sorted(whole.index.tolist())
            place = {i: row for row, i in enumerate(whole.index.tolist())}
            rows = torch.tensor([place[i] for i in together.tolist()])
            assert torch.equal(torch.cat([part.y for part in parts]), whole.y[rows])
            if name != "train":
                for x, *shares in zip(leaves(whole.x), *(leaves(part.x) for part in parts), strict=True):
                    assert torch.equal(torch.cat([wide_as(share, x) for share in shares]), x[rows])


# -- a run that goes on -----------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    """A linear layer over eight averages of whatever the input is, of all its tensors."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(8, num_classes)

    def forward(self, x: Any) -> Tensor:
        flat = torch.cat([each.flatten(1).float() for each in leaves(x)], dim=1).unsqueeze(1)
        logits: Tensor = self.linear(nn.functional.adaptive_avg_pool1d(flat, 8).squeeze(1))
        return logits


def trained(
    case: Case,
    make_trainer: MakeTrainer,
    root: Path,
    *,
    stop: int | None = None,
    resume: bool = False,
    **options: Any,
) -> Mapping[str, Tensor]:
    """Return the weights after a fit of three epochs, or of what is left of it."""
    pl.seed_everything(1, verbose=False)
    module = LDMIModule(
        Tiny(case.num_classes),
        case.num_classes,
        Stage(CELoss(), 3, partial(torch.optim.SGD, lr=0.01, momentum=0.9)),
        None,
    )
    data = case.make(noise=SymmetricNoise(0.2, seed=1), batch_size=16, **options)
    trainer = make_trainer(default_root_dir=root, callbacks=[] if stop is None else [StopAt(stop)])
    ckpt_path = next(root.rglob("last.ckpt")) if resume else None
    if stop is None:
        trainer.fit(module, data, ckpt_path=ckpt_path)
    else:
        with pytest.raises(Stopped):
            trainer.fit(module, data)
    return module.state_dict()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_interrupted_run_ends_with_the_weights_of_the_whole_one(
    case: Case, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    whole = trained(case, make_trainer, tmp_path / "whole")
    for workers in (0, 2) if case.streamed else (0,):
        options = {"num_workers": workers} if case.streamed else {}
        root = tmp_path / f"{workers} workers"
        trained(case, make_trainer, root, stop=1, **options)
        assert not multiprocessing.active_children()
        resumed = trained(case, make_trainer, root, resume=True, **options)
        assert not multiprocessing.active_children()
        assert resumed.keys() == whole.keys()
        assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


# -- single ones ------------------------------------------------------------------------------------------------------


def test_batch_without_samples_is_refused() -> None:
    with pytest.raises(UserError, match=r"--data.batch_size must be at least 1, but got 0"):
        DigitsDataModule(batch_size=0)


def test_digits_splits_are_all_of_the_data_set() -> None:
    digits = DigitsDataModule()
    digits.setup("fit")
    assert {name: len(split) for name, split in digits.splits.items()} == {"train": 1197, "val": 300, "test": 300}
    everything = torch.cat([split.original_index for split in digits.splits.values()])
    assert torch.equal(everything.sort().values, torch.arange(1797))


def test_digits_are_scaled_to_one() -> None:
    pixels = torch.tensor([[[[0, 8, 16]]]], dtype=torch.uint8)
    assert DigitsDataModule().eval_transform()(pixels).tolist() == [[[[-1, 0, 1]]]]
