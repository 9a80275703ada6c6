"""CrowdForward beside an independent computation, vote by vote; what it starts from, is selected by, and refuses."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from blobs import ADAM, Blobs, Foreign, ce
from conftest import MakeTrainer
from sklearn.datasets import load_digits
from stops import same
from test_annotators import outputs_for, people, votes_of
from test_ranks import REPO, load, run
from torch import Tensor, nn

from ldmi_lightning import Batch, LDMIModule, Stage
from ldmi_lightning.commands import main
from ldmi_lightning.commands.audit_rows import names_of, votes_on
from ldmi_lightning.crowds import majority_vote
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import ForwardLoss, Predictions
from ldmi_lightning.method import Clock
from ldmi_lightning.methods import CrowdForward
from ldmi_lightning.noise import CrowdLabels
from ldmi_lightning.transition import realised_matrix

N, A, C = 12, 4, 3


class VotedBlobs(Blobs):
    """The blobs of blobs.py with the votes of three people on each, of whom the third answers at random."""

    def __init__(self) -> None:
        super().__init__()
        random, y = np.random.RandomState(0), np.arange(120) % 3
        transitions = np.stack([np.eye(3) * 0.7 + 0.1, np.eye(3) * 0.4 + 0.2, np.full((3, 3), 1 / 3)])
        self.noise = CrowdLabels(votes_of(random, y, transitions, 2))


def made(seed: int = 0) -> tuple[CrowdForward, Tensor, Tensor]:
    """Return a method whose T are known, outputs, and votes: of one sample none, of another all."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(N, C, generator=random, dtype=torch.float64)
    votes = torch.randint(-1, C, (N, A), generator=random)
    votes[0], votes[1] = -1, torch.arange(A) % C
    method = CrowdForward(together=False)
    method.estimated = torch.rand(A, C, C, generator=random, dtype=torch.float64)
    method.estimated /= method.estimated.sum(2, keepdim=True)
    return method, logits.requires_grad_(), votes


@pytest.mark.parametrize("together", [False, True])
def test_the_loss_is_minus_the_log_likelihood_of_the_votes_by_their_number(together: bool) -> None:
    method, logits, votes = made()
    method.together = together
    total, number = torch.zeros((), dtype=torch.float64), 0
    for i in range(N):
        p, of_all = logits[i].exp() / logits[i].exp().sum(), torch.ones(C, dtype=torch.float64)
        for a in range(A):
            v = int(votes[i, a])
            if v < 0:
                continue
            number += 1
            of_all = of_all * method.estimated[a, :, v]
            if not together:
                total = total - sum(p[k] * method.estimated[a, k, v] for k in range(C)).log()  # type: ignore[union-attr]
        if together:
            total = total - (p * of_all).sum().log()
    found, expected = method.loss(logits, votes), total / number
    torch.testing.assert_close(found, expected)
    for one, other in zip(*(torch.autograd.grad(each, logits) for each in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)


def test_with_one_annotator_it_is_forward_correction() -> None:
    method, logits, votes = made()
    y = votes[:, :1].clamp(min=0)
    method.estimated = method.estimated[:1]
    expected = ForwardLoss(method.estimated[0].tolist())(logits, y[:, 0], torch.arange(N))
    for together in (False, True):
        method.together = together
        torch.testing.assert_close(method.loss(logits, y), expected)


def test_a_learnt_t_starts_from_the_estimate_and_its_trace_is_made_small() -> None:
    known, logits, votes = made()
    method = CrowdForward(together=False, learn=True, trace=0.5)
    assert method.weights is not None
    method.weights.data = known.estimated.log() + 3  # a softmax takes no notice of it
    torch.testing.assert_close(method.transitions, known.estimated)
    mean_trace = sum(known.estimated[a].trace() for a in range(A)) / A
    torch.testing.assert_close(method.loss(logits, votes), known.loss(logits, votes) + 0.5 * mean_trace)
    (slope,) = torch.autograd.grad(method.loss(logits, votes), method.weights)
    w = method.weights.detach().clone().requires_grad_()
    rows = w.exp() / w.exp().sum(2, keepdim=True)
    p, likelihood = logits.softmax(1), torch.zeros((), dtype=torch.float64)
    for i, a in (votes >= 0).nonzero().tolist():
        likelihood = likelihood + (p[i] @ rows[a, :, votes[i, a]]).log() / int((votes >= 0).sum())
    trace = 0.5 * rows.diagonal(dim1=1, dim2=2).sum() / A
    torch.testing.assert_close(slope, torch.autograd.grad(trace - likelihood, w)[0])


def test_t_comes_from_held_out_outputs_and_the_votes_on_all_samples() -> None:
    random = np.random.RandomState(0)
    y = random.randint(C, size=600)
    transitions = people(random, C, 5)
    transitions[0] = 1 / C
    votes, probs = votes_of(random, y, transitions, 2), outputs_for(random, y, C)
    labels = majority_vote(votes, C).labels

    def told(part: slice) -> Predictions:
        columns = (probs[part].astype(np.float32), labels[part], np.arange(600)[part], votes[part])
        return Predictions(*map(torch.from_numpy, columns))

    train = told(slice(300))
    method = CrowdForward()
    method.prepare(train._replace(probs=torch.full_like(train.probs, 1 / C)), told(slice(300, 600)))
    found = method.transitions.numpy()
    assert np.abs(found - transitions).sum(axis=2).mean() < 0.12
    of_labels = method.transition.numpy() - realised_matrix(y, labels, C)
    assert np.abs(of_labels).sum(axis=1).mean() < 0.12
    again = CrowdForward()
    again.prepare(train, told(slice(300, 600)))
    assert torch.equal(again.transitions, method.transitions), "outputs on the training set, which know its labels"


def test_val_nll_is_that_of_the_votes() -> None:
    method, logits, votes = made()
    probs = logits.detach().softmax(1)
    nothing = torch.full((N,), -1)
    noisy, labels = method.noisy_labels(probs, Batch(probs, votes[:, 0].clamp(min=0), nothing, nothing, votes=votes))
    torch.testing.assert_close(-noisy.gather(1, labels[:, None]).log().mean(), method.loss(logits, votes))
    assert len(labels) == int((votes >= 0).sum())


@pytest.mark.parametrize("learn", [False, True])
def test_a_run_is_selected_by_the_votes_and_holds_a_t_for_each(
    learn: bool, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    module = LDMIModule(nn.Linear(3, 3), 3, ce(2), Stage(CrowdForward(learn=learn), 2, ADAM))
    data = VotedBlobs()
    make_trainer().fit(module, data)
    summary, method = module.stage_summaries()["robust"], module.stages["robust"].loss
    assert summary["selected_by"] == "val/nll"
    assert isinstance(method, CrowdForward)
    split = data.splits["val"]
    assert split.votes is not None
    (best,) = tmp_path.glob("*/robust-best.ckpt")
    module.load_state_dict(torch.load(best, weights_only=True)["state_dict"])
    method.trace, method.together = 0.0, False
    with torch.no_grad():
        expected = method.loss(module.backbone(split.x), split.votes)
    assert summary["best_score"] == pytest.approx(expected.item(), rel=1e-5)
    assert method.transitions.shape == (3, 3, 3)
    of_the_third = method.transitions[2].detach()
    assert float((of_the_third[0] - of_the_third[1]).abs().sum()) < 0.5, "he answers at random"


@pytest.mark.slow
def test_two_ranks_have_one_state_and_train_as_one_process_does(tmp_path: Path) -> None:
    run([sys.executable, str(REPO / "tests/crowd_cases.py"), str(tmp_path)], tmp_path)
    (one,), (first, second) = load(tmp_path, 1), load(tmp_path, 2)
    assert same(first, second)
    for name in ("crowd-forward", "each vote", "learnt"):
        assert one[name]["state"]["losses.robust.estimated"].shape == (4, 10, 10)
        torch.testing.assert_close(first[name]["state"], one[name]["state"], rtol=1e-6, atol=1e-8)


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_data_of_one_label_a_sample_is_refused(make_trainer: MakeTrainer) -> None:
    for data in (Blobs(), Foreign()):
        module = LDMIModule(nn.Linear(3, 3), 3, ce(1), Stage(CrowdForward(), 1))
        with pytest.raises(UserError, match=r"the training batches have none.*ForwardLoss"):
            make_trainer().fit(module, data)


def test_an_audit_takes_the_votes_that_the_data_has() -> None:
    data = VotedBlobs()
    data.setup("fit")
    index = np.array([3, 0, 7])
    votes = votes_on(data, index)
    assert votes is not None
    split = data.splits["train"]
    assert split.votes is not None
    np.testing.assert_array_equal(votes, split.votes[index].numpy())
    assert names_of(data, 3) == ["0", "1", "2"]
    plain = Blobs()
    plain.setup("fit")
    assert votes_on(plain, index) is None


@pytest.mark.slow
def test_a_run_on_votes_is_audited_with_its_annotators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    random = np.random.RandomState(0)
    clean = load_digits().target
    right = random.rand(len(clean), 5) < np.array([0.9, 0.8, 0.7, 0.6, 0.0])
    votes = np.where(right, clean[:, None], random.randint(10, size=right.shape))
    votes[:, 1:][random.rand(len(clean), 4) < 0.5] = -1
    np.savez("votes.npz", votes=votes, annotators=["al", "bo", "cy", "di", "ed"])
    configs = REPO / "configs"
    flags = ["--config", str(configs / "quickstart.yaml"), "--config", str(configs / "methods/crowd-forward.yaml")]
    flags += ["--data.noise", "CrowdLabels", "--data.noise.file", "votes.npz", "--trainer.logger", "false"]
    flags += ["--model.warmup.epochs", "8", "--model.robust.epochs", "6"]
    assert main(["fit", *flags, "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]) == 0
    (folder,) = tmp_path.glob("runs/*")
    robust = json.loads((folder / "results.json").read_text())["stages"]["robust"]
    assert (robust["loss"], robust["selected_by"]) == ("CrowdForward", "val/nll")
    assert robust["test_acc"] > 0.85
    capsys.readouterr()
    assert main(["audit", str(folder)]) == 0
    assert "Of 5 annotators, 1 is a spammer, whose votes say nothing of the class: ed." in capsys.readouterr().out
    told = json.loads((folder / "audit/summary.json").read_text())["annotators"]
    assert told["spammers"] == ["ed"]
    for each, share in zip(told["people"], (votes == clean[:, None]).sum(0) / (votes >= 0).sum(0), strict=True):
        assert each["accuracy"]["low"] - 0.02 <= share <= each["accuracy"]["high"] + 0.02


def test_votes_that_nobody_gave_are_none() -> None:
    probs, y = torch.full((4, C), 1 / C), torch.zeros(4, dtype=torch.int64)
    some = Predictions(probs, y, y, torch.zeros(4, 2, dtype=torch.int64))
    with pytest.raises(UserError, match="the validation batches have none"):
        CrowdForward().prepare(some, some._replace(votes=torch.full((4, 2), -1)))


def test_what_cannot_be_is_refused() -> None:
    method, logits, votes = made()
    with pytest.raises(UserError, match="trace must be at least 0, but got nan"):
        CrowdForward(trace=float("nan"))
    with pytest.raises(UserError, match="no T for 3 annotators and 3 classes: call prepare"):
        method.loss(logits, votes[:, :3])
    with pytest.raises(UserError, match="learns from several people's votes"):
        method.step([nn.Identity()], Batch(logits, votes[:, 0], votes[:, 0], votes[:, 0]), Clock(0, 1, 0))


def test_a_batch_without_any_vote_has_no_loss() -> None:
    method, logits, votes = made()
    loss = method.loss(logits, torch.full_like(votes, -1))
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, logits)[0].any()
