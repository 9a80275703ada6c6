"""How far a pass through an encoder is: a bar on a terminal, a line every so often elsewhere."""

import sys
import time

from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm

from ldmi_lightning.saying import say

LINE_SECONDS = 30.0


class Progress:
    """A bar on a terminal, else a line every so often; of rank 0 alone, which stands for all.

    Args:
        what: what is encoded.
        samples: how many samples this process encodes.
        rank: this process.
        ranks: number of processes.
    """

    def __init__(self, what: str, samples: int, rank: int, ranks: int) -> None:
        self.what = f"{what}{f' (process 1 of {ranks})' if ranks > 1 else ''}"
        self.samples, self.done, self.shown = samples, 0, rank == 0
        self.begun = self.told = time.monotonic()
        self.bar = Tqdm(
            total=samples,
            desc=f"Encoding {self.what}",
            unit=" samples",
            leave=False,
            disable=not (self.shown and sys.stdout.isatty()),
            file=sys.stdout,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def add(self, samples: int) -> None:
        """Count samples that are done."""
        self.done += samples
        self.bar.update(samples)
        now = time.monotonic()
        if self.shown and self.bar.disable and now - self.told > LINE_SECONDS:
            self.told = now
            rate = self.done / (now - self.begun)
            left = duration((self.samples - self.done) / rate) if rate else "some time"
            say(
                f"Encoding {self.what}: {self.done:,} of {self.samples:,} samples, {rate:,.0f} per second, {left} left."
            )


def duration(seconds: float) -> str:
    """Return a length of time for people.

    >>> duration(0.42), duration(75), duration(7300)
    ('0.4 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min {int(seconds % 60)} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
