"""What the libraries say that says nothing to a user."""

import logging
import warnings

HARMLESS_WARNINGS = (
    r"GPU available but not used",  # who asks for the CPU knows
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning on torch 2.15, in every fit
    r"The number of training batches .* is smaller than the logging interval",  # all is logged at the epoch's end
    r"Couldn't infer the batch indices fetched from your dataloader",  # whose batches carry them
)


def quieten() -> None:
    """Leave out Lightning's INFO lines, on hooks and hardware, and warnings about what is right."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for harmless in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=harmless)
