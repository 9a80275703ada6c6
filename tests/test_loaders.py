"""The loader contract: what each rank sees in batch k of epoch e."""

from itertools import chain

import pytest
import pytorch_lightning as pl
import torch
from conftest import MakeTrainer
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ldmi_lightning import Batch
from ldmi_lightning.datamodules.loaders import ResidentLoader, Split
from ldmi_lightning.errors import UserError


def split(n: int) -> Split:
    """Sample i has input i, label i + 1000, true label i + 2000 and original index i + 3000."""
    i = torch.arange(n)
    return Split(i, i + 1000, i + 2000, i + 3000)


def loader(n: int, batch_size: int, *, seed: int | None = None, rank: int = 0, ranks: int = 1) -> ResidentLoader:
    return ResidentLoader(split(n), batch_size, nn.Identity(), shuffle_seed=seed, rank=rank, world_size=ranks)


def epoch(n: int, batch_size: int, *, seed: int | None = None, rank: int = 0, ranks: int = 1) -> list[list[int]]:
    """Return one epoch's batches as lists of positions."""
    return [batch.index.tolist() for batch in loader(n, batch_size, seed=seed, rank=rank, ranks=ranks)]


ranks_and_batch_size = st.integers(1, 3).flatmap(lambda ranks: st.tuples(st.just(ranks), st.integers(ranks, 20)))
samples = st.integers(1, 60)
train_or_eval = st.sampled_from([7, None])


@given(samples, ranks_and_batch_size, train_or_eval)
def test_ranks_together_see_the_batches_of_a_single_process(n: int, world: tuple[int, int], seed: int | None) -> None:
    ranks, size = world
    parts = [epoch(n, size, seed=seed, rank=rank, ranks=ranks) for rank in range(ranks)]
    together = [sorted(chain(*kth)) for kth in zip(*parts, strict=True)]  # strict: equally many batches on all ranks
    assert together == [sorted(batch) for batch in epoch(n, size, seed=seed)]


@given(samples, ranks_and_batch_size, train_or_eval)
def test_ranks_share_a_batch_evenly(n: int, world: tuple[int, int], seed: int | None) -> None:
    ranks, size = world
    parts = [epoch(n, size, seed=seed, rank=rank, ranks=ranks) for rank in range(ranks)]
    for kth in zip(*parts, strict=True):
        sizes = [len(part) for part in kth]
        assert max(sizes) - min(sizes) <= 1


@given(samples, st.integers(1, 20), train_or_eval)
def test_length_is_the_number_of_batches(n: int, size: int, seed: int | None) -> None:
    assert len(loader(n, size, seed=seed)) == len(epoch(n, size, seed=seed))


@given(samples, st.integers(1, 20))
def test_no_sample_comes_twice_in_a_training_epoch(n: int, size: int) -> None:
    seen = list(chain(*epoch(n, size, seed=0)))
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(n))


@given(samples, st.integers(1, 20))
def test_last_incomplete_training_batch_is_dropped_unless_it_is_the_only_one(n: int, size: int) -> None:
    sizes = [len(batch) for batch in epoch(n, size, seed=0)]
    assert sizes == ([n] if n < size else [size] * (n // size))


@given(samples, st.integers(1, 20))
def test_evaluation_sees_every_sample_once_in_index_order(n: int, size: int) -> None:
    batches = epoch(n, size)
    assert list(chain(*batches)) == list(range(n))
    assert max(map(len, batches)) <= size


@given(samples, ranks_and_batch_size, train_or_eval)
def test_no_rank_gets_an_empty_batch_where_samples_suffice(n: int, world: tuple[int, int], seed: int | None) -> None:
    ranks, size = world
    last = epoch(n, size, seed=seed, rank=ranks - 1, ranks=ranks)
    if n >= len(last) * ranks:
        assert all(last)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int, batch_size: int = 10) -> list[int]:
        shuffled = loader(1000, batch_size, seed=seed)
        shuffled.set_epoch(epoch)
        return [i for batch in shuffled for i in batch.index.tolist()]

    first = order(seed=1, epoch=0)
    torch.rand(5)
    assert order(seed=1, epoch=0) == first
    assert order(seed=1, epoch=0, batch_size=50) == first
    assert order(seed=1, epoch=1) != first
    assert order(seed=2, epoch=0) != first
    assert order(seed=2, epoch=1) != order(seed=1, epoch=2)


def test_loading_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    epoch(20, 3, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_epoch_set_after_iter_and_before_the_first_batch_counts() -> None:
    expected = loader(50, 5, seed=1)
    expected.set_epoch(3)
    late = loader(50, 5, seed=1)
    batches = iter(late)
    late.sampler.set_epoch(3)
    assert [batch.index.tolist() for batch in batches] == [batch.index.tolist() for batch in expected]


class Recorder(pl.LightningModule):
    """Keeps the positions that a Trainer hands it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append(batch.index.tolist())
        return self.weight * batch.x.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_tells_the_loader_its_epoch(make_trainer: MakeTrainer) -> None:
    batches = loader(20, 5, seed=1)
    recorder = Recorder()
    make_trainer(max_epochs=2, enable_checkpointing=False).fit(recorder, batches)
    expected = []
    for number in range(2):
        batches.set_epoch(number)
        expected += [batch.index.tolist() for batch in batches]
    assert recorder.seen == expected


@pytest.mark.parametrize("seed", [7, None])
def test_batch_gathers_input_and_labels_of_its_positions(seed: int | None) -> None:
    for x, y, index, y_clean, *_ in loader(10, 4, seed=seed):
        assert x.tolist() == index.tolist()
        assert y.tolist() == (index + 1000).tolist()
        assert y_clean.tolist() == (index + 2000).tolist()


def test_transform_is_given_whole_batches() -> None:
    rows = ResidentLoader(split(4), 2, nn.Unflatten(0, (1, 2)))
    assert [batch.x.tolist() for batch in rows] == [[[0, 1]], [[2, 3]]]


def test_unshuffled_loader_keeps_to_the_positions_it_was_given() -> None:
    some = ResidentLoader(split(10), 2, nn.Identity(), only=torch.tensor([1, 4, 8]))
    assert len(some) == 2
    assert [batch.index.tolist() for batch in some] == [[1, 4], [8]]


def test_batch_size_below_the_number_of_ranks_is_refused() -> None:
    with pytest.raises(UserError, match=r"2 is less than the 3 devices. Raise it to at least 3"):
        loader(10, 2, ranks=3)
