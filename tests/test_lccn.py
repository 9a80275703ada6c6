"""LCCN against its definition, sample by sample in plain Python: draws, counts, T, values and gradients."""

import copy
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from test_gce import softmax
from torch import Tensor

from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import LCCNLoss, Predictions
from ldmi_lightning.losses.lccn import draw, random_bits

C, N, BATCH = 5, 90, 12
Rows = list[list[float]]
SETTINGS: dict[str, Any] = {"refresh_every": 3, "warmup_steps": 9}


@pytest.fixture(autouse=True)
def seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")


def splitmix64(state: int) -> Iterator[int]:
    """Yield the generator's stream from a state, as published."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        x = state
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        yield x ^ (x >> 31)


def uniforms(seed: int, step: int, size: int) -> list[float]:
    """Return what each of `size` samples draws in a step: the stream whose seed mixes the base seed and the step."""
    (mixed,) = islice(splitmix64(seed), 1)
    (key,) = islice(splitmix64((mixed + step) % 2**64), 1)
    return [(number >> 11) / 2**53 for number in islice(splitmix64(key), size)]


class ByDefinition:
    """LCCN one sample after the other, with running counts of (latent label, noisy label)."""

    def __init__(
        self, train: Predictions, prior: float = 1.0, refresh_every: int = 200, warmup_steps: int = 20000, seed: int = 7
    ) -> None:
        self.num_classes = train.probs.shape[1]
        self.prior, self.refresh_every, self.warmup_steps, self.seed = prior, refresh_every, warmup_steps, seed
        self.step, self.last = 0, int(train.index.max())
        self.counts = [[0] * self.num_classes for _ in range(self.num_classes)]
        self.latent: dict[int, int] = {}
        for row, label, index in zip(train.probs.tolist(), train.y.tolist(), train.index.tolist(), strict=True):
            self.latent[index] = row.index(max(row))
            self.counts[self.latent[index]][label] += 1
        self.transition = self.estimate()

    def estimate(self) -> Rows:
        totals = [sum(row) + self.num_classes * self.prior for row in self.counts]
        return [[(count + self.prior) / total for count in row] for row, total in zip(self.counts, totals, strict=True)]

    def __call__(self, logits: Tensor, y: Tensor, index: Tensor) -> tuple[float, Rows]:
        """Take one step; return the loss and its gradient for the logits."""
        draws = uniforms(self.seed, self.step, self.last + 100)
        value, gradient = 0.0, []
        for row, label, sample in zip(logits.tolist(), y.tolist(), index.tolist(), strict=True):
            p = softmax(row)
            weights = [p[k] * self.transition[k][label] for k in range(self.num_classes)]
            threshold, z = draws[sample] * sum(weights), 0
            while sum(weights[: z + 1]) <= threshold:
                z += 1
            if sample in self.latent:
                self.counts[self.latent[sample]][label] -= 1
            if sample <= self.last:
                self.latent[sample] = z
                self.counts[z][label] += 1
            value -= math.log(p[z]) / len(y)
            gradient.append([(p[k] - (k == z)) / len(y) for k in range(self.num_classes)])
        self.step += 1
        if self.step >= self.warmup_steps and self.step % self.refresh_every == 0:
            self.transition = self.estimate()
        return value, gradient


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits of a net that has learnt something, and labels of which some are wrong."""
    rng = torch.Generator().manual_seed(seed)
    clean = torch.randint(C, (N,), generator=rng)
    y = torch.where(torch.rand(N, generator=rng) < 0.3, (clean + 1) % C, clean)
    logits = torch.randn(N, C, generator=rng, dtype=torch.float64) + 2 * torch.nn.functional.one_hot(clean, C)
    return logits, y


def everything() -> Predictions:
    logits, y = data()
    return Predictions(logits.softmax(1).float(), y, torch.arange(N))


def prepared(train: Predictions | None = None, **settings: Any) -> LCCNLoss:
    loss, train = LCCNLoss(**settings), train or everything()
    loss.prepare(train, train)
    return loss


def epochs(number: int, first: int = 0) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """Yield the epochs' batches: all but the last incomplete one, shuffled, with outputs that change."""
    _, y = data()
    for epoch in range(first, first + number):
        rng = torch.Generator().manual_seed(epoch)
        order = torch.randperm(N, generator=rng)[: N - N % BATCH]
        logits = data()[0] * (1 + epoch / 4) + 0.3 * torch.randn(N, C, generator=rng, dtype=torch.float64)
        yield [(logits[index], y[index], index) for index in order.split(BATCH)]


# -- the definition ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [1.0, 0.25])
@pytest.mark.parametrize(("refresh_every", "warmup_steps"), [(3, 9), (5, 0), (1, 1), (200, 20000)])
def test_it_is_its_definition_integer_for_integer_over_several_epochs(
    prior: float, refresh_every: int, warmup_steps: int
) -> None:
    settings: dict[str, Any] = {"prior": prior, "refresh_every": refresh_every, "warmup_steps": warmup_steps}
    loss, definition = prepared(**settings), ByDefinition(everything(), **settings)
    assert loss.counts().tolist() == definition.counts
    seen = Counter[tuple[int, ...]]()
    for batches in epochs(4):
        for logits, y, index in batches:
            leaf = logits.clone().requires_grad_()
            value = loss(leaf, y, index)
            value.backward()
            expected, gradient = definition(logits, y, index)
            assert value.item() == pytest.approx(expected, rel=1e-12)
            torch.testing.assert_close(leaf.grad, torch.tensor(gradient, dtype=torch.float64), rtol=1e-10, atol=1e-15)
            assert loss.counts().tolist() == definition.counts
            np.testing.assert_allclose(loss.transition, definition.transition, rtol=1e-14)
            seen[tuple(loss.counts().flatten().tolist())] += 1
        loss.end_epoch()
    assert loss.counts().dtype == torch.int64
    assert int(loss.counts().sum()) == N
    assert len(seen) > 20, "counts that do not move prove nothing"


def test_t_stays_for_the_first_steps_and_is_then_taken_every_so_many() -> None:
    loss = prepared(refresh_every=4, warmup_steps=10)
    start, changed = loss.transition.clone(), []
    for step, batch in enumerate([batch for batches in epochs(4) for batch in batches], start=1):
        before = loss.transition.clone()
        loss(*batch)
        if not torch.equal(loss.transition, before):
            changed.append(step)
        assert step >= 12 or torch.equal(loss.transition, start)
    assert changed == [12, 16, 20, 24, 28]


def test_samples_that_prepare_did_not_get_join_when_they_are_drawn_first() -> None:
    whole, got = everything(), torch.arange(0, N - 12, 3)
    part = Predictions(whole.probs[got], whole.y[got], got)
    loss, definition = prepared(part, **SETTINGS), ByDefinition(part, **SETTINGS)
    assert int(loss.counts().sum()) == len(got)
    for batches in epochs(3):
        for batch in batches:
            loss(*batch)
            definition(*batch)
            assert loss.counts().tolist() == definition.counts
    assert int(loss.counts().sum()) == int(got.max()) + 1  # those behind the last one never join


# -- draws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (0, 1), (1, 0), (2**31 - 1, 20000), (123456789, 10**9)])
def test_a_draw_is_a_number_of_the_published_stream(seed: int, step: int) -> None:
    index = torch.tensor([0, 1, 2, 5, 499, 7])
    bits = random_bits(seed, step, index)
    expected = uniforms(seed, step, 500)
    assert (bits.double() / 2**53).tolist() == [expected[i] for i in index.tolist()]


def test_the_stream_is_the_published_one() -> None:
    # First numbers for seed 1234567, as the reference implementation prints them.
    assert list(islice(splitmix64(1234567), 3)) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_draws_of_seeds_steps_and_samples_are_unrelated() -> None:
    index = torch.arange(20_000)
    streams = [random_bits(seed, step, index).double() / 2**53 for seed, step in ((0, 0), (0, 1), (1, 0), (0, 2))]
    streams.append(streams[0].roll(1))
    correlation = torch.corrcoef(torch.stack(streams)) - torch.eye(5, dtype=torch.float64)
    assert correlation.abs().max() < 4 / math.sqrt(len(index))
    for stream in streams:
        counts = torch.histc(stream, bins=20, min=0, max=1)
        assert ((counts - 1000) ** 2 / 1000).sum() < 50  # chi squared of 19 degrees: 1 in 7000


def test_draws_have_the_probabilities_of_their_weights() -> None:
    weights = torch.tensor([0.0, 3.0, 1.0, 0.0, 4.0, 0.0]).double() / 1e9
    z = draw(weights.expand(80_000, -1), random_bits(0, 0, torch.arange(80_000)))
    counts = torch.bincount(z, minlength=6)
    assert counts[[0, 3, 5]].tolist() == [0, 0, 0]
    np.testing.assert_allclose(counts[[1, 2, 4]], [30_000, 10_000, 40_000], atol=4 * math.sqrt(20_000))


def test_extreme_numbers_draw_possible_classes() -> None:
    ends = torch.tensor([0, 2**53 - 1])
    assert draw(torch.tensor([[0.0, 1.0, 1e-300]] * 2).double(), ends).tolist()[0] == 1
    assert draw(torch.tensor([[1e-300, 1.0]] * 2).double(), ends).tolist() == [1, 1]
    assert draw(torch.full((2, 3), torch.nan).double(), ends).max() < 3


# -- state and settings -----------------------------------------------------------------------------------------------


def run(loss: LCCNLoss, batches: Sequence[tuple[Tensor, Tensor, Tensor]]) -> list[float]:
    return [loss(*batch).item() for batch in batches]


@pytest.mark.parametrize("stopped_after", [1, 8, 9, 13])
def test_a_fresh_loss_goes_on_bit_for_bit_from_a_state_dict(stopped_after: int) -> None:
    batches = [batch for each in epochs(4) for batch in each]
    whole, first, second = prepared(**SETTINGS), prepared(**SETTINGS), LCCNLoss(**SETTINGS)
    values = run(whole, batches)
    begun = run(first, batches[:stopped_after])
    second.load_state_dict(first.state_dict())
    assert begun + run(second, batches[stopped_after:]) == values
    assert second.state_dict().keys() == {"cells", "transition", "steps"}
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


def test_a_copy_goes_on_from_its_own_state_dict_and_leaves_the_original_alone() -> None:
    batches = [batch for each in epochs(2) for batch in each]
    loss, whole = prepared(**SETTINGS), prepared(**SETTINGS)
    values = run(whole, batches)
    saved = copy.deepcopy(whole.state_dict())
    clone = copy.deepcopy(loss)
    module = torch.nn.ModuleDict({"loss": clone})
    run(loss, batches[:5])
    module.load_state_dict({f"loss.{name}": value for name, value in saved.items()})
    (last,) = islice(epochs(1, first=5), 1)
    assert run(clone, last) == run(whole, last)
    assert run(loss, batches[5:]) == values[5:]


def test_it_is_selected_by_the_likelihood_of_the_noisy_labels() -> None:
    assert (LCCNLoss().monitor, LCCNLoss().mode) == ("val/nll", "min")


def test_a_stage_begun_again_begins_anew() -> None:
    loss, (first, second) = prepared(**SETTINGS), epochs(2)
    values = run(loss, [*first, *second])
    loss.prepare(everything(), everything())
    assert run(loss, [*first, *second]) == values


def test_another_seed_draws_other_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    (batches,) = epochs(1)
    values = run(prepared(), batches)
    monkeypatch.setenv("PL_GLOBAL_SEED", "8")
    assert run(prepared(), batches) != values


def test_evaluation_changes_nothing() -> None:
    loss = prepared(**SETTINGS).eval()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    (batches,) = epochs(1)
    values = run(loss, batches)
    assert run(loss, batches) == values
    for name, value in loss.state_dict().items():
        assert torch.equal(value, before[name])


def test_it_must_be_prepared_before_it_is_used() -> None:
    (logits, y), loss = data(), LCCNLoss()
    probs = logits.softmax(1)
    assert loss.needs_predictions
    assert loss.noisy_probs(probs) is probs
    with pytest.raises(UserError, match=r"no latent labels for 5 classes: call prepare"):
        loss(logits, y, torch.arange(N))


def test_noisy_probabilities_are_p_t() -> None:
    loss, probs = prepared(), data()[0].softmax(1).float()
    expected = probs.double().numpy() @ loss.transition.numpy()
    np.testing.assert_allclose(loss.noisy_probs(probs), expected, rtol=1e-5)


def test_samples_without_an_index_are_refused() -> None:
    train = everything()
    with pytest.raises(UserError, match=r"which sample is which.*Batch\(x, y, index, y_clean\)"):
        LCCNLoss().prepare(train._replace(index=torch.full((N,), -1)), train)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prior": 0}, "prior must be a number above 0, but got 0"),
        ({"prior": float("nan")}, "prior .* got nan"),
        ({"prior": float("inf")}, "prior .* got inf"),
        ({"refresh_every": 0}, "refresh_every must be at least 1 step, but got 0"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative, but got -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LCCNLoss(**settings)
