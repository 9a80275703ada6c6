"""Pretrained transformers for texts, read by the package `transformers`: a classifier to train, an encoder for features."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.naming import few
from ldmi_lightning.saying import say

INPUTS = "a dict with input_ids and attention_mask, such as HFDataModule yields where it is given a tokenizer"


class TextClassifier(nn.Module):
    """A sequence classifier of `transformers`, with as many logits as there are classes.

    Its parameters are called ``body.…`` and ``head.…``, so that ``--model.freeze 'body.*'`` trains the head alone. No code
    of the model's repository is run, and its weights are read as tensors only. A head for another number of classes begins
    anew, and so does whatever the weights lack; one line names it.

    Args:
        name: folder with ``config.json`` and ``model.safetensors``, or a name on the hub.
        num_classes: C; on the command line it is taken from the data.
        pretrained: take the weights; ``False`` takes the architecture in ``config.json``, with random weights.

    Shape:
        input: a dict of ``input_ids`` and ``attention_mask`` ``(N, L)``, int64, and what else the tokenizer gives; output
        ``(N, C)`` logits.

    Raises:
        ValueError: `transformers` is not installed, or the model cannot be read.
    """

    def __init__(self, name: str, num_classes: int = 2, pretrained: bool = True) -> None:
        super().__init__()
        self.pretrained = pretrained
        whole, info = _read("AutoModelForSequenceClassification", name, pretrained, num_labels=num_classes)
        body = whole.base_model
        if body is whole:
            raise ValueError(f"{name} is a {type(whole).__name__}, whose head cannot be told from its body.")
        self.body = body
        self.head = nn.ModuleDict({part: child for part, child in whole.named_children() if child is not body})
        self._whole = (whole,)  # in a tuple, so that each parameter has one name: that of its part
        _say_what_is_new(name, body, whole.base_model_prefix, info)
        self.train()

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        """Return logits."""
        whole = self._whole[0]
        whole.training = self.training
        logits: Tensor = whole(**_checked(x, self))[0]
        return logits

    def reset_parameters(self) -> None:
        """Draw the head's weights anew, and the body's where it is not pretrained: for a second net like this one."""
        for part in (self.head if self.pretrained else self).modules():
            if part is not self and callable(reset := getattr(part, "reset_parameters", None)):
                reset()


class TextEncoder(nn.Module):
    """A transformer that turns a text into one vector, for features that are computed once.

    Args:
        name: folder with ``config.json`` and ``model.safetensors``, or a name on the hub.
        pooling: ``"mean"`` of the vectors of a text's tokens, padding left out, or ``"cls"``, the first token's.

    Shape:
        input: as of :class:`TextClassifier`; output ``(N, D)``, float32.

    Raises:
        ValueError: `transformers` is not installed, or the model cannot be read.
    """

    def __init__(self, name: str, pooling: Literal["mean", "cls"] = "mean") -> None:
        super().__init__()
        if pooling not in ("mean", "cls"):
            raise ValueError(f"pooling must be mean or cls, but got {pooling!r}.")
        self.pooling = pooling
        self.body, info = _read("AutoModel", name, pretrained=True)
        lacking = [key for key in _missing(info) if not key.startswith("pooler.")]  # which is not asked
        if lacking:
            raise ValueError(f"The weights in {name} lack {few(lacking)}: features would come from random weights.")
        self.train()

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        """Return a vector for each text."""
        given = _checked(x, self)
        states: Tensor = self.body(**given)[0]
        if self.pooling == "cls":
            return states[:, 0].float()
        return mean_of_tokens(states.float(), given.get("attention_mask", torch.ones_like(given["input_ids"])))


def mean_of_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the vectors of a text's tokens, shape ``(N, D)``; zeros for a text of none.

    Args:
        states: a vector for each token, shape ``(N, L, D)``.
        mask: 1 for a token, 0 for padding, shape ``(N, L)``.

    >>> mean_of_tokens(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
    tensor([[2.]])
    """
    weights = mask.to(states)[:, :, None]
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _checked(x: Any, net: nn.Module) -> dict[str, Tensor]:
    if not isinstance(x, Mapping) or "input_ids" not in x:
        found = f"a dict of {', '.join(map(str, x))}" if isinstance(x, Mapping) else f"a {type(x).__name__}"
        raise UserError(f"{type(net).__name__} takes {INPUTS}, but got {found}.")
    return dict(x)


def _read(kind: str, name: str, pretrained: bool, **settings: Any) -> tuple[Any, Mapping[str, Any]]:
    """Return a model in float32, and what `transformers` says of the weights that it has read."""
    try:
        library = importlib.import_module("transformers")  # here, since it is an extra, and takes seconds
    except ImportError as error:
        raise ValueError(
            "A text model needs the package transformers: pip install 'ldmi-lightning[transformers]'."
        ) from error
    auto, info = getattr(library, kind), dict[str, Any]()
    try:
        with _quietly(library):
            if pretrained:
                safe = {"trust_remote_code": False, "weights_only": True, "ignore_mismatched_sizes": True}
                model, info = auto.from_pretrained(name, output_loading_info=True, **safe, **settings)
            else:
                config = library.AutoConfig.from_pretrained(name, trust_remote_code=False, **settings)
                model = auto.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        remedy = ", or set pretrained: false for random weights" if "num_labels" in settings and pretrained else ""
        raise ValueError(
            f"No text model can be read from {name!r}: {reason}. Give a folder with config.json and model.safetensors, "
            f"or a name on the hub{remedy}."
        ) from error
    return model.float(), info


@contextmanager
def _quietly(library: Any) -> Iterator[None]:
    """Keep back the table of weights, and the bar, that `transformers` prints while it reads a model."""
    logging = library.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _say_what_is_new(name: str, body: nn.Module, prefix: str, info: Mapping[str, Any]) -> None:
    """Say which weights begin anew; refuse those of another body."""
    if not info:
        say(f"{name}: the architecture alone is taken; all weights are random.")
        return
    own = {f"{prefix}.{key}" for key in body.state_dict()}
    misfits = sorted(key for key, *_ in info.get("mismatched_keys", ()) if key in own)
    if misfits or own <= set(_missing(info)):
        raise ValueError(
            f"The weights in {name} are those of another model than its config.json describes: "
            f"{few(misfits) or 'none'} {'have another shape' if misfits else 'of the body are there'}."
        )
    absent = {*_missing(info), *(key for key, *_ in info.get("mismatched_keys", ()))}
    new = sorted(f"body.{key.removeprefix(f'{prefix}.')}" if key in own else f"head.{key}" for key in absent)
    if new:
        say(f"{name}: the body is loaded; new, and to be trained, {'is' if len(new) == 1 else 'are'} {few(new)}.")


def _missing(info: Mapping[str, Any]) -> list[str]:
    return sorted(map(str, info.get("missing_keys", ())))
