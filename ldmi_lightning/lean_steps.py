"""What Lightning does in each step for nobody, and how a step is spared it.

Lightning calls some twenty-five hooks in each training step. Most do nothing, and each still passes a profiler that
measures nothing; ``benchmarks/overhead.py`` measures what a step of a small net then costs. Nothing here changes what a hook
of the user's does, or when.
"""

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.profilers import PassThroughProfiler

from ldmi_lightning.trainer_rules import callbacks_of

TRAINING_HOOKS = (
    *("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_train_batch_end"),
)
"""The hooks of a callback or module that Lightning calls in each training step, and that do nothing unless overridden."""
VALIDATION_HOOKS = ("on_validation_batch_start", "on_validation_batch_end")
"""The same of a validation step."""


class NoProfiler(PassThroughProfiler):
    """Lightning's default profiler, without a new generator for each hook that it does not time."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]
        """Time nothing."""
        return self._nothing


def spare_steps(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Take the empty hooks and the idle profiler out of the steps that follow, until :func:`restore_steps`."""
    restore_steps(trainer, module)  # a fit that an exception has ended leaves them out
    if type(vars(trainer)["profiler"]) is PassThroughProfiler:  # which Lightning sets, but does not declare
        vars(trainer)["profiler"] = NoProfiler()
    for callback in callbacks_of(trainer):
        if type(callback).__module__.startswith("ldmi_lightning."):  # what belongs to the user stays as it is
            _pass_over(callback, Callback, TRAINING_HOOKS + VALIDATION_HOOKS)
    _pass_over(module, pl.LightningModule, TRAINING_HOOKS)  # Lightning reads the signature of the others
    for step in (type(module).training_step, type(module).validation_step):
        # Lightning takes the signature in each step; one that is written down is quickly read.
        vars(step)["__signature__"] = inspect.signature(step)


def restore_steps(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Put the empty hooks back, for who calls one by hand or gives a class a hook between two fits."""
    for owner in (module, *callbacks_of(trainer)):
        for name in TRAINING_HOOKS + VALIDATION_HOOKS:
            if vars(owner).get(name, owner) is None:
                del vars(owner)[name]


def _pass_over(owner: object, base: type, hooks: tuple[str, ...]) -> None:
    """Put None where a hook is the base's: Lightning passes over what cannot be called."""
    for name in hooks:
        if name not in vars(owner) and getattr(type(owner), name) is getattr(base, name):
            vars(owner)[name] = None
