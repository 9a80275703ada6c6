"""SCE, ELR, VolMinNet, Co-teaching and DivideMix beside independent computations, sample by sample; and what they refuse."""

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from blobs import Blobs, ce
from conftest import MakeTrainer
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from ldmi_lightning import Batch, LDMIModule, Stage
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import ELRLoss, Predictions, SCELoss, VolMinLoss
from ldmi_lightning.method import Clock, Method
from ldmi_lightning.methods import CoTeaching, DivideMix
from ldmi_lightning.methods.divide_mix import probably_right

N, C = 12, 3


def logits_and_labels(seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(N, C, generator=random, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(C, (N,), generator=random)


def check(loss: Tensor, expected: Tensor, *inputs: Tensor) -> None:
    """See that values are equal, and gradients."""
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(each, inputs, retain_graph=True) for each in (loss, expected))
    torch.testing.assert_close(found, wanted)


def predictions(probs: Tensor, y: Tensor) -> Predictions:
    return Predictions(probs.detach().float(), y, torch.arange(len(y)))


# -- symmetric cross-entropy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "beta", "log_zero"), [(0.1, 1.0, -4.0), (6.0, 0.1, -2.0), (0.0, 1.0, -4.0)])
def test_sce_is_cross_entropy_in_both_directions(alpha: float, beta: float, log_zero: float) -> None:
    logits, y = logits_and_labels()
    total = torch.zeros((), dtype=torch.float64)
    for row, label in zip(logits, y.tolist(), strict=True):
        p = row.exp() / row.exp().sum()
        log_of_label = [0.0 if k == label else log_zero for k in range(C)]
        reverse = -sum(p[k] * log_of_label[k] for k in range(C))
        total = total - alpha * p[label].log() + beta * reverse
    check(SCELoss(alpha, beta, log_zero)(logits, y, torch.arange(N)), total / N, logits)


# -- early-learning regularisation ------------------------------------------------------------------------------------


def test_elr_targets_follow_the_outputs_of_each_sample_over_epochs() -> None:
    loss, momentum, weight = ELRLoss(), 0.7, 3.0
    start, y = logits_and_labels()
    loss.prepare(predictions(start.softmax(1), y), predictions(start.softmax(1), y))
    targets = {i: start[i].softmax(0).detach().float().clamp(1e-4, 1 - 1e-4) for i in range(N)}
    targets = {i: target / target.sum() for i, target in targets.items()}
    for epoch in range(3):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(5):
            logits = logits_and_labels(seed=10 + epoch)[0][rows].detach().requires_grad_()
            total = torch.zeros((), dtype=torch.float64)
            for row, i in zip(logits, rows.tolist(), strict=True):
                p = row.softmax(0).clamp(1e-4, 1 - 1e-4)
                targets[i] = (momentum * targets[i] + (1 - momentum) * p.detach() / p.detach().sum()).float()
                total = total - row.log_softmax(0)[y[i]] + weight * (1 - (targets[i] * p).sum()).log()
            torch.testing.assert_close(loss(logits, y[rows], rows), total / len(rows), rtol=1e-6, atol=1e-6)
            (found,) = torch.autograd.grad(loss.eval()(logits, y[rows], rows), logits)
            (wanted,) = torch.autograd.grad(total / len(rows), logits)
            loss.train()
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
        loss.end_epoch()
    torch.testing.assert_close(loss.targets[:-1], torch.stack([targets[i] for i in range(N)]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_elr_targets_have_the_precision_of_the_run_before_and_after_a_resume(dtype: torch.dtype) -> None:
    logits, y = logits_and_labels()
    whole, resumed = ELRLoss().to(dtype), ELRLoss().to(dtype)
    whole.prepare(*[predictions(logits.softmax(1), y)] * 2)
    resumed.load_state_dict(whole.state_dict())
    assert whole.targets.dtype == resumed.to(dtype).targets.dtype == dtype
    assert torch.equal(resumed.targets, whole.targets)


def test_elr_pulls_a_wrong_label_less_and_less() -> None:
    sure = torch.tensor([[6.0, 0.0]], requires_grad=True)
    wrong, row = torch.tensor([1]), torch.tensor([0])
    loss = ELRLoss()
    loss.prepare(*[predictions(sure.softmax(1), wrong)] * 2)
    (pull,) = torch.autograd.grad(loss(sure, wrong, row), sure)
    assert pull[0, 0] < 0, "towards class 0, as learnt early, against the label"


# -- VolMinNet --------------------------------------------------------------------------------------------------------


def test_volmin_is_the_likelihood_and_the_volume_of_a_learnt_matrix() -> None:
    loss = VolMinLoss(weight=0.3)
    loss.build(C)
    assert loss.weights is not None
    loss.weights.data.normal_(generator=torch.Generator().manual_seed(3))
    logits, y = logits_and_labels()
    w = loss.weights.double()
    rows = []
    for i in range(C):
        row = torch.stack(
            [torch.ones((), dtype=torch.float64) if j == i else 1 / (1 + (-w[i, j]).exp()) for j in range(C)]
        )
        rows.append(row / row.sum())
    t = torch.stack(rows)
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    likelihood = sum((p[n] * t[:, y[n]]).sum().log() for n in range(N)) / N
    check(loss(logits, y, torch.arange(N)), -likelihood + 0.3 * torch.det(t).abs().log(), logits, loss.weights)
    torch.testing.assert_close(loss.transition, t)
    torch.testing.assert_close(loss.noisy_probs(p), p @ t)


class Rates(pl.Callback):
    """Notes rate and weight decay of each group of parameters, in each epoch."""

    def __init__(self) -> None:
        self.seen: list[list[tuple[float, float]]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        groups = trainer.optimizers[0].param_groups
        self.seen.append([(round(group["lr"], 9), group["weight_decay"]) for group in groups])


@pytest.mark.parametrize(("lr", "first", "second"), [(0.01, (0.01, 0.0), (0.005, 0.0)), (None, None, None)])
def test_t_begins_at_a_rate_of_its_own_which_schedulers_scale_alike(
    lr: float | None, first: Any, second: Any, make_trainer: MakeTrainer
) -> None:
    halve = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    adamw = partial(torch.optim.AdamW, lr=0.2, weight_decay=0.1)
    module, rates = LDMIModule(nn.Linear(3, 3), 3, ce(1), Stage(VolMinLoss(lr=lr), 2, adamw, halve)), Rates()
    make_trainer(callbacks=[rates]).fit(module, Blobs())
    assert [[each for each in epoch if each] for epoch in ([(0.2, 0.1), first], [(0.1, 0.1), second])] == rates.seen[1:]
    inherited, rates = LDMIModule(nn.Linear(3, 3), 3, ce(1), Stage(VolMinLoss(lr=lr), 1)), Rates()
    make_trainer(callbacks=[rates]).fit(inherited, Blobs())
    assert [rate for rate, _ in rates.seen[1]] == ([0.4, lr] if lr else [0.4]), "of the warm-up's optimizer"


# -- Co-teaching ------------------------------------------------------------------------------------------------------


def nets() -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Linear(4, C).double() for _ in range(2)]


def batch(seed: int = 5) -> Batch:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(N, 4, generator=random, dtype=torch.float64)
    second = torch.randn(N, 4, generator=random, dtype=torch.float64)
    y = torch.randint(C, (N,), generator=random)
    return Batch(x, y, torch.arange(N), torch.full_like(y, -1), second)


@pytest.mark.parametrize(("epoch", "kept"), [(0, 11), (4, 9), (9, 7), (30, 7)])  # of 12, 1 - 0.4 · t / 10, rounded down
def test_each_net_learns_what_the_other_has_small_losses_of(epoch: int, kept: int) -> None:
    both, given = nets(), batch()
    losses = [-net(given.x).log_softmax(1)[torch.arange(N), given.y] for net in both]
    chosen = [sorted(range(N), key=each.tolist().__getitem__)[:kept] for each in losses]
    expected = sum(losses[own][chosen[1 - own]].mean() for own in (0, 1))
    weights = [parameter for net in both for parameter in net.parameters()]
    check(CoTeaching(0.4).step(both, given, Clock(epoch, 40, 0)), expected, *weights)


def test_the_share_to_forget_is_estimated_and_kept() -> None:
    random = np.random.RandomState(0)
    true = random.randint(C, size=3000)
    y = np.where(random.rand(3000) < 0.3, (true + 1) % C, true)
    probs = torch.from_numpy(0.94 * np.eye(C)[true] + 0.02)
    method = CoTeaching()
    method.prepare(*[predictions(probs, torch.from_numpy(y))] * 2)
    assert method.epoch_figures()["train/forget_rate"] == pytest.approx((y != true).mean(), abs=1e-6)
    again = CoTeaching()
    again.load_state_dict(method.state_dict())
    assert again.epoch_figures() == method.epoch_figures()


# -- DivideMix --------------------------------------------------------------------------------------------------------


def prepared(**settings: Any) -> DivideMix:
    method = DivideMix(**{"warmup": 1, **settings})
    y = torch.arange(N) % C
    method.prepare(*[predictions(torch.full((N, C), 1 / C), y)] * 2)
    return method


def test_dividemix_begins_with_cross_entropy_of_both_nets_and_then_divides_by_its_losses() -> None:
    both, given, method = nets(), batch(), prepared()
    losses = [-net(given.x).log_softmax(1)[torch.arange(N), given.y] for net in both]
    weights = [parameter for net in both for parameter in net.parameters()]
    check(method.step(both, given, Clock(0, 4, 0)), sum(each.mean() for each in losses), *weights)  # type: ignore[arg-type]
    method.end_epoch()
    for own in (0, 1):
        seen = losses[own].detach().float().double().numpy()
        scaled = ((seen - seen.min()) / (seen.max() - seen.min()))[:, None]
        mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0).fit(scaled)
        expected = mixture.predict_proba(scaled)[:, mixture.means_.argmin()]
        np.testing.assert_allclose(method.right[own, :-1], expected, rtol=1e-5, atol=1e-6)


def test_dividemix_can_penalise_confidence_while_it_warms_up() -> None:
    both, given, method = nets(), batch(), prepared(confidence_penalty=True)
    expected = torch.zeros((), dtype=torch.float64)
    for net in both:
        p = net(given.x).softmax(1)
        for n in range(N):
            expected = expected - p[n, given.y[n]].log() / N + sum(p[n, k] * p[n, k].log() for k in range(C)) / N
    weights = [parameter for net in both for parameter in net.parameters()]
    check(method.step(both, given, Clock(0, 4, 0)), expected, *weights)


@pytest.mark.parametrize("views", [1, 2])
def test_dividemix_mixes_refined_labels_with_guessed_ones(views: int) -> None:
    both, given, method = nets(), batch(), prepared(views=views, unlabelled_weight=2.0)
    method.right[:, :-1] = torch.rand(2, N, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(7)
    found = method.step(both, given, Clock(3, 40, 0))  # the third epoch of 16 in which the weight rises
    torch.manual_seed(7)
    seen = [given.x, given.second_view][:views]
    p = [sum(net(x).softmax(1) for x in seen).detach() / views for net in both]  # type: ignore[union-attr]
    expected = torch.zeros((), dtype=torch.float64)
    for own in (0, 1):
        w = method.right[1 - own, :-1].double()
        labelled = w > 0.5
        soft = []
        for n in range(N):
            mean = (p[0][n] + p[1][n]) / 2
            one = torch.eye(C, dtype=torch.float64)[given.y[n]]
            guess = w[n] * one + (1 - w[n]) * p[own][n] if labelled[n] else mean
            soft.append(guess**2 / (guess**2).sum())
        targets, x, kind = torch.stack(soft * views), torch.cat(seen), labelled.tolist() * views
        share = float(torch.distributions.Beta(4.0, 4.0).sample())
        share = max(share, 1 - share)
        partner = torch.randperm(len(x))
        out = both[own](share * x + (1 - share) * x[partner]).softmax(1)
        mixed = share * targets + (1 - share) * targets[partner]
        on_labelled = [-(mixed[n] * out[n].log()).sum() for n in range(len(x)) if kind[n]]
        on_guessed = [(out[n] - mixed[n]).square().mean() for n in range(len(x)) if not kind[n]]
        uniform = -(out.mean(0).log() + math.log(C)).mean()
        expected = expected + torch.stack(on_labelled).mean() + 2.0 * 3 / 16 * torch.stack(on_guessed).mean() + uniform
    weights = [parameter for net in both for parameter in net.parameters()]
    check(found, expected, *weights)


def test_a_loss_that_is_not_known_is_not_held_for_right() -> None:
    assert probably_right(np.array([-1, 0.1, 0.1, 5.0, 5.1])).round().tolist() == [0, 1, 1, 0, 0]
    assert probably_right(np.array([-1, 1.0, 1.0])).tolist() == [0, 1, 1], "nothing to divide"


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SCELoss(alpha=-1), "SCELoss: alpha and beta must be at least 0"),
        (lambda: SCELoss(alpha=0, beta=0), "one of them above it"),
        (lambda: SCELoss(log_zero=0), "log_zero must be below 0"),
        (lambda: ELRLoss(weight=-1), "ELRLoss: weight must be at least 0"),
        (lambda: ELRLoss(momentum=1), r"momentum must lie in \[0, 1\)"),
        (lambda: VolMinLoss(weight=float("nan")), "VolMinLoss: weight must be at least 0"),
        (lambda: VolMinLoss(lr=0), "VolMinLoss: lr must be above 0"),
        (lambda: CoTeaching(1.0), r"forget_rate must lie in \[0, 1\)"),
        (lambda: CoTeaching(0.5, ramp=0), "ramp must be at least 1 epoch"),
        (lambda: DivideMix(warmup=0), "warmup must be at least 1 epoch, but got 0"),
        (lambda: DivideMix(views=3), "views must be 1 or 2, but got 3"),
        (lambda: DivideMix(temperature=0), "temperature must be above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Callable[[], Method], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


def test_what_is_not_prepared_says_so() -> None:
    logits, y = logits_and_labels()
    for loss in (ELRLoss(), VolMinLoss()):
        with pytest.raises(UserError, match="LDMIModule does so"):
            loss(logits, y, torch.arange(N))
    for method in (CoTeaching(), DivideMix()):
        with pytest.raises(UserError, match="LDMIModule does so"):
            method.step(nets(), batch(), Clock(0, 1, 0))


def test_samples_that_cannot_be_told_apart_are_refused() -> None:
    nobody = Predictions(torch.full((4, C), 1 / C), torch.zeros(4, dtype=torch.int64), torch.full((4,), -1))
    for method in (ELRLoss(), DivideMix()):
        with pytest.raises(UserError, match="does not tell which sample is which"):
            method.prepare(nobody, nobody)


def test_token_ids_are_not_mixed() -> None:
    words = batch()._replace(x=torch.zeros(N, 4, dtype=torch.int64))
    with pytest.raises(UserError, match="DivideMix mixes inputs with each other, which token ids"):
        prepared().step(deepcopy(nets()), words, Clock(0, 1, 0))
