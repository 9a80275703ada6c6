r"""LCCN, latent class-conditional noise (Yao et al.: Safeguarded dynamic label regression, AAAI 2019)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.joint import in_float64
from ldmi_lightning.losses.base import Predictions, TransitionLoss, global_mean, log_probabilities, samples_told_apart
from ldmi_lightning.ranks import gather_over_ranks, is_distributed
from ldmi_lightning.seeding import base_seed
from ldmi_lightning.transition import smoothed_transition

BITS = 53
"""Random bits of a draw: as many as float64, in which its probabilities are, resolves."""

_WORD = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


class LCCNLoss(TransitionLoss):
    r"""Cross-entropy against latent labels, each drawn from its posterior.

    Every training sample has a latent true label z. A step draws it anew (one Gibbs draw),
    :math:`z \sim p_z T_{z, y}`, and takes the cross-entropy of the outputs against it. T is the mean of its posterior
    given how often each z comes with each noisy label, :math:`T_{z, y} \propto C_{z, y} + \alpha`. It starts from the
    predictions of the model selected in the stage before, stays so while the net settles, and is then taken from the
    counts every so many steps.

    **Draws** are a function of the base seed, the step and the sample's index (:func:`random_bits`), so they are the same
    on every device, on any number of ranks, and when a run is resumed.

    **Ranks.** Nobody reads the latent labels between two looks at the counts, so each rank keeps the labels that it draws
    to itself until then: they are exchanged where T is taken from the counts, and at the end of an epoch.

    **Under** ``limit_train_batches`` only part of the training set is predicted when the stage begins. The other samples
    join the counts when they are drawn first; those behind the last one predicted never do.

    Args:
        prior: :math:`\alpha`, above 0.
        refresh_every: steps from one T to the next, at least 1.
        warmup_steps: steps of the stage for which T stays as it starts.
    """

    cells: Tensor
    steps: Tensor

    def __init__(self, prior: float = 1.0, refresh_every: int = 200, warmup_steps: int = 20000) -> None:
        super().__init__()
        if not 0 < prior < float("inf"):
            raise UserError(f"LCCNLoss: prior must be a number above 0, but got {prior}. The paper has 1.")
        if refresh_every < 1:
            raise UserError(f"LCCNLoss: refresh_every must be at least 1 step, but got {refresh_every}.")
        if warmup_steps < 0:
            raise UserError(f"LCCNLoss: warmup_steps must not be negative, but got {warmup_steps}. Use 0 for none.")
        self.prior = prior
        self.refresh_every = refresh_every
        self.warmup_steps = warmup_steps
        # For each sample the cell of C that it is counted in, C·z + y; C² for none. The last entry belongs to all samples
        # that have none of their own, and is never counted.
        self.register_buffer("cells", torch.empty(0, dtype=torch.int32))
        self.register_buffer("transition", torch.empty(0, 0, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._steps = 0  # what `steps` holds, for the host, which would have to wait for it
        self._drawn: list[Tensor] = []  # (index, cell) that the other ranks do not know yet
        self.register_load_state_dict_post_hook(_after_loading)  # type: ignore[no-untyped-call]

    @property
    def needs_predictions(self) -> bool:
        """The latent labels start from one pass over the training set."""
        return True

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"prior={self.prior}, refresh_every={self.refresh_every}, warmup_steps={self.warmup_steps}"

    def prepare(self, train: Predictions, held_out: Predictions) -> None:
        """Start each latent label at the prediction of the model selected in the stage before."""
        num_samples = samples_told_apart(self, "a latent label", train)
        num_classes = train.probs.shape[1]
        cells = torch.full((num_samples + 1,), num_classes**2, dtype=torch.int32)
        cells[train.index] = (num_classes * train.probs.argmax(dim=1) + train.y).to(torch.int32)
        self.cells = cells.to(self.cells.device)
        self.transition = smoothed_transition(count_cells(self.cells, num_classes), self.prior)
        self.steps, self._steps, self._drawn = torch.zeros_like(self.steps), 0, []

    def counts(self) -> Tensor:
        """Count how many training samples have latent label z (row) and noisy label y (column), int64, ``(C, C)``."""
        return count_cells(self.cells, len(self.transition))

    def forward(self, logits: Tensor, y: Tensor, index: Tensor) -> Tensor:
        """Return the mean over the global batch; see :class:`~ldmi_lightning.losses.base.Loss` for the arguments."""
        if len(self.transition) != logits.shape[1]:
            raise UserError(
                f"LCCNLoss has no latent labels for {logits.shape[1]} classes: call prepare(train, held_out) with the "
                "predictions of the warmed-up model first. LDMIModule does so when the stage begins."
            )
        log_probs = log_probabilities(logits)
        shares = in_float64(log_probs.detach()).exp()
        weights = shares * self.transition.T.index_select(0, y.to(shares.device))
        z = draw(weights, random_bits(base_seed(), self._steps, index).to(weights.device)).to(y.device)
        if self.training:
            self._keep(index, len(self.transition) * z + y)
        return global_mean(F.nll_loss(log_probs, z, reduction="none"))

    def _keep(self, index: Tensor, cells: Tensor) -> None:
        where = index.clamp(max=len(self.cells) - 1)
        self.cells.index_copy_(0, where, cells.to(torch.int32))
        if is_distributed():
            self._drawn.append(torch.stack([where, cells], dim=1))
        self.steps += 1
        self._steps += 1
        if self._steps >= self.warmup_steps and self._steps % self.refresh_every == 0:
            self.synchronise()
            self.transition = smoothed_transition(self.counts(), self.prior)

    def synchronise(self) -> None:
        """Write what the other ranks have drawn."""
        if self._drawn:
            where, cells = gather_over_ranks(torch.cat(self._drawn)).unbind(dim=1)
            self.cells.index_copy_(0, where, cells.to(torch.int32))
            self._drawn = []

    def end_epoch(self) -> None:
        """Make the latent labels equal on all ranks, as a checkpoint takes them from one of them."""
        self.synchronise()

    def follow_buffers(self) -> None:
        """Take what the host keeps beside the buffers from them, after a state dict was loaded."""
        self._steps, self._drawn = int(self.steps), []


def _after_loading(loss: nn.Module, _: object) -> None:
    # No method of the loss: a copy of it would call the first one's.
    assert isinstance(loss, LCCNLoss)
    loss.follow_buffers()


def count_cells(cells: Tensor, num_classes: int) -> Tensor:
    """Return C as int64, ``(C, C)``, given each sample's cell; the last entry, and cells of C², are not counted.

    >>> count_cells(torch.tensor([0, 1, 1, 4, 3]), num_classes=2).tolist()
    [[1, 2], [0, 0]]
    """
    counts = torch.zeros(num_classes**2 + 1, dtype=torch.int64, device=cells.device)
    counts.index_add_(0, cells[:-1], torch.ones_like(cells[:-1], dtype=torch.int64))
    return counts[:-1].view(num_classes, num_classes)


def draw(weights: Tensor, bits: Tensor) -> Tensor:
    """Draw a class for each row with probabilities proportional to it, by inversion: ``(N, C)`` and ``(N,)`` to ``(N,)``.

    The distribution is cumulated in integers, whose sum is the same in any order, on every device.

    Args:
        weights: float64, not negative, at least one of each row above 0.
        bits: uniform integers in ``[0, 2**BITS)``, int64.

    >>> draw(torch.tensor([[1.0, 0.0, 3.0]] * 2).double(), torch.tensor([2**51 - 1, 2**51])).tolist()
    [0, 2]
    """
    shares = weights / weights.sum(dim=1, keepdim=True)
    cumulated = (shares * 2**BITS).to(torch.int64).cumsum(dim=1)
    passed: Tensor = cumulated[:, :-1] <= bits[:, None]
    return passed.sum(dim=1)


def random_bits(seed: int, step: int, index: Tensor) -> Tensor:
    """Return a random number in ``[0, 2**BITS)`` for each index, a function of ``(seed, step, index)`` alone.

    It is the number at that place in the stream of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
    generators, OOPSLA 2014) whose state a round over the seed and another over the step have mixed; vectorised in 64-bit
    integers that wrap around, and so the same on every device.

    Args:
        seed: any integer.
        step: any integer.
        index: not negative, int64, shape ``(N,)``.

    >>> bits = random_bits(seed=1, step=2, index=torch.arange(100_000))
    >>> round(bits.double().mean().item() / 2**BITS, 2), len(bits.unique())
    (0.5, 100000)
    """
    key = _signed(_splitmix64(_splitmix64(seed) + step))
    x = index * _signed(_GAMMA) + _signed(key + _GAMMA)
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return _shift(x ^ _shift(x, 31), 64 - BITS)


def _splitmix64(state: int) -> int:
    """Return the number that SplitMix64 gives first in a state.

    >>> hex(_splitmix64(0))
    '0xe220a8397b1dcdaf'
    """
    x = (state + _GAMMA) & _WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _WORD
    return x ^ (x >> 31)


def _shift(x: Tensor, by: int) -> Tensor:
    """Shift the bits of int64 to the right, filling in zeros."""
    shifted: Tensor = (x >> by) & ((1 << (64 - by)) - 1)
    return shifted


def _signed(x: int) -> int:
    """Return the int64 with the 64 lowest bits of x."""
    x &= _WORD
    return x - (1 << 64) if x >> 63 else x
