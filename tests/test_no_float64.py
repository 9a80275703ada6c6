"""A device without float64, such as Apple's MPS: the C×C part is made on the CPU, and values and gradients are the CPU's.

The stand-in is a device of its own to all of torch, autograd included: its tensors hide what they hold and take part in no
operation with tensors of another device, and float64 on it is refused in every operation, forward and backward, with the
TypeError of MPS. It answers to the name "meta", since autograd stops at a device that this build of torch does not have.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ldmi_lightning import joint
from ldmi_lightning.joint import back_on, float64_device, in_float64, joint_matrix
from ldmi_lightning.losses import CELoss, DMILoss, ForwardLoss, GCELoss, LCCNLoss, Loss, Predictions
from ldmi_lightning.metrics import JointMatrix, NormalisedDMI
from ldmi_lightning.transition import anchor_transition, held_out_transition, noisy_probabilities, posterior_sums

DEVICE = torch.device("meta")
REFUSED = (
    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
    "Please use float32 instead."
)
C, N = 5, 40


class Elsewhere(Tensor):
    """A tensor on the stand-in."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Elsewhere":
        if inner.dtype == torch.float64:
            raise TypeError(REFUSED)
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=DEVICE
        )
        made.inner = inner
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"Elsewhere({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class StandIn(TorchDispatchMode):
    """Sees the operations that make or move a tensor to the stand-in, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    mine = [each for each in tensors if isinstance(each, Elsewhere)]
    name = func._schema.name
    if mine and name != "aten::copy_" and any(each.ndim for each in tensors if not isinstance(each, Elsewhere)):
        raise RuntimeError(f"Expected all tensors of {name} to be on the same device, but found meta and cpu.")
    target = kwargs.get("device")
    there = bool(mine) if target is None else torch.device(target) == DEVICE
    if mine and kwargs.get("dtype") == torch.float64:
        raise TypeError(REFUSED)  # also on the way to another device
    if target is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args, kwargs = tree_map(lambda each: each.inner if isinstance(each, Elsewhere) else each, (args, kwargs))
    found = func(*args, **kwargs)
    if name.endswith("_") and not name.endswith("__"):  # in place; __rshift__ is not
        return mine[0] if there else found
    return tree_map(lambda each: Elsewhere(each) if isinstance(each, Tensor) else each, found) if there else found


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    autocast = torch.autocast

    def known(device_type: str, **settings: Any) -> AbstractContextManager[Any]:
        return nullcontext() if device_type == DEVICE.type else autocast(device_type, **settings)

    # MPS has an autocast, "meta" has none.
    monkeypatch.setattr(torch, "autocast", known)
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    joint._has_float64.cache_clear()
    with StandIn():
        yield
    joint._has_float64.cache_clear()


def data(seed: int = 0, size: int = N) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    y = torch.randperm(size, generator=rng) % C
    return torch.randn(size, C, generator=rng) + torch.eye(C)[y], y, torch.arange(size)


def inner(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, Elsewhere), f"{tensor} is not on the device"
    return tensor.inner


def move(module: nn.Module) -> None:
    """Move a loss as a LightningModule does: float64 stays on the CPU."""
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.dtype != torch.float64:
            setattr(module, name, buffer.to(DEVICE))


LOSSES: dict[str, Callable[[], Loss]] = {
    "CE": CELoss,
    "GCE": GCELoss,
    "GCE truncated": lambda: GCELoss(truncation=0.5),
    "DMI": DMILoss,
    "DMI with memory": lambda: DMILoss(0.9),
    "FW anchor": ForwardLoss,
    "FW held out, renewed": lambda: ForwardLoss("held_out", renew=True),
    "LCCN": lambda: LCCNLoss(refresh_every=2, warmup_steps=2),
}


# -- the stand-in -----------------------------------------------------------------------------------------------------


def test_the_stand_in_has_no_float64_and_shares_no_operation_with_the_cpu() -> None:
    there = torch.ones(2).to(DEVICE)
    for refused in (
        there.double,
        lambda: there.to("cpu", torch.float64),
        lambda: torch.ones(2).double().to(DEVICE),
        lambda: torch.zeros(2, dtype=torch.float64, device=DEVICE),
    ):
        with pytest.raises(TypeError, match="doesn't support float64"):
            refused()
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(2)
    assert inner(there + torch.ones(())).tolist() == [2, 2]


def test_the_stand_in_refuses_float64_in_the_backward_pass() -> None:
    leaf = torch.ones(2).to(DEVICE).requires_grad_()
    value = leaf.to("cpu").to(torch.float64).sum()
    value.backward()
    assert inner(leaf.grad).tolist() == [1, 1]


# -- moving there and back --------------------------------------------------------------------------------------------


def test_float64_of_such_a_device_is_on_the_cpu_and_comes_back_in_float32() -> None:
    there = torch.tensor([0.1]).to(DEVICE)
    wide = in_float64(there)
    assert (wide.device.type, wide.dtype) == ("cpu", torch.float64)
    back = back_on(wide, DEVICE)
    assert (back.device, back.dtype) == (DEVICE, torch.float32)
    assert inner(back).tolist() == inner(there).tolist()
    assert float64_device(DEVICE) == torch.device("cpu")
    assert back_on(torch.tensor([3]), DEVICE).dtype == torch.int64


# -- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_values_gradients_and_state_are_those_of_the_cpu(name: str) -> None:
    here, there = LOSSES[name](), LOSSES[name]()
    logits, y, index = data()
    predictions = Predictions(logits.softmax(1), y, index)
    move(there)
    for loss in (here, there):
        loss.prepare(predictions, predictions)
    for epoch in range(2):
        for step in range(3):
            logits, y, index = data(seed=3 * epoch + step + 1)
            expected, found = logits.clone().requires_grad_(), logits.to(DEVICE).requires_grad_()
            value = here(expected, y, index)
            value.backward()
            moved = there(found, y.to(DEVICE), index.to(DEVICE))
            assert moved.device == DEVICE
            moved.backward()
            torch.testing.assert_close(inner(moved), value.float(), rtol=1e-6, atol=1e-7)
            assert expected.grad is not None
            assert expected.grad.any()
            torch.testing.assert_close(inner(found.grad), expected.grad, rtol=1e-5, atol=1e-8)
        for loss in (here, there):
            loss.end_epoch()
    for key, kept in here.state_dict().items():
        mine = there.state_dict()[key]
        torch.testing.assert_close(mine.inner if isinstance(mine, Elsewhere) else mine, kept, rtol=1e-6, atol=0)
    noisy = there.noisy_probs(logits.softmax(1).to(DEVICE))
    torch.testing.assert_close(inner(noisy), here.noisy_probs(logits.softmax(1)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_a_singular_step_there_is_a_zero_with_a_gradient_of_zeros_and_is_counted(memory: float) -> None:
    _, y, index = data()
    loss = DMILoss(memory)
    move(loss)
    constant = torch.zeros(N, C)
    loss.prepare(Predictions(constant.softmax(1), y, index), Predictions(constant.softmax(1), y, index))
    leaf = constant.to(DEVICE).requires_grad_()
    value = loss(leaf, y.to(DEVICE), index.to(DEVICE))
    value.backward()
    assert value.item() == 0
    assert not inner(leaf.grad).any()
    assert (int(loss.steps), int(loss.singular_steps)) == (1, 1)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_moved_there_keeps_its_float64_on_the_cpu(name: str) -> None:
    loss = LOSSES[name]()
    logits, y, index = data()
    predictions = Predictions(logits.softmax(1), y, index)
    loss.prepare(predictions, predictions)
    kept = {key: value.clone() for key, value in loss.state_dict().items()}
    loss.to(DEVICE)
    for key, value in loss.state_dict().items():
        assert value.device.type == ("cpu" if value.dtype == torch.float64 else DEVICE.type)
        assert torch.equal(value.inner if isinstance(value, Elsewhere) else value, kept[key])
    loss(logits.to(DEVICE), y.to(DEVICE), index.to(DEVICE))


# -- estimates and metrics --------------------------------------------------------------------------------------------


def test_u_and_the_estimates_of_t_are_those_of_the_cpu() -> None:
    logits, y, _ = data()
    probs, there, labels = logits.softmax(1), logits.softmax(1).to(DEVICE), y.to(DEVICE)
    assert torch.equal(joint_matrix(there, labels), joint_matrix(probs, y))
    assert torch.equal(anchor_transition(there), anchor_transition(probs))
    transition = held_out_transition(probs, y)
    assert torch.equal(held_out_transition(there, labels), transition)
    assert torch.equal(posterior_sums(there.log(), labels), posterior_sums(probs.log(), y))
    assert torch.equal(inner(noisy_probabilities(there, transition)), noisy_probabilities(probs, transition))


@pytest.mark.parametrize("kind", [JointMatrix, NormalisedDMI])
def test_a_metric_there_gives_what_it_gives_on_the_cpu(kind: type[JointMatrix]) -> None:
    here, there = kind(num_classes=C), kind(num_classes=C).to(DEVICE)
    for _ in range(2):
        for seed in range(3):
            logits, y, _ = data(seed)
            alone = here(logits.softmax(1), y)
            assert torch.equal(there(logits.softmax(1).to(DEVICE), y.to(DEVICE)), alone)
        here.update(logits.flip(0).softmax(1), y)
        there.update(logits.flip(0).softmax(1).to(DEVICE), y.to(DEVICE))
        found = there.compute()
        assert (found.device.type, found.dtype) == ("cpu", torch.float64)
        assert torch.equal(found, here.compute())
        here.reset()
        there.reset()
        there.to(DEVICE)
