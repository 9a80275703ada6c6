"""The paper's convolutional net for sentences (MR)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ldmi_lightning.errors import UserError

PADDING = 0
EMBEDDING = 128
WIDTHS = (3, 4, 5)
CHANNELS = 100
BOUND = 0.25
"""Kim's, of a word's weights. From PyTorch's N(0, 1) the net tells sentences apart by chance features, and memorises."""


class WordCNN(nn.Module):
    """Embedding 128 from scratch, convolutions over 3, 4 and 5 words of 100 channels each, max over time, dropout 0.5.

    Kim, *Convolutional Neural Networks for Sentence Classification*, EMNLP 2014; its sizes here are those of Xu et al.
    (2019, MR). The maximum is taken over the windows that lie within the sentence, padding left out, so that the output
    does not depend on how far a batch is padded. A sentence of fewer than 5 words counts as one of 5.

    Args:
        num_classes: C.
        vocab_size: number of token ids; on the command line it is taken from the data.

    Shape:
        input ``(N, L)`` token ids, 0 for padding at the end; output ``(N, C)`` logits.

    >>> words = torch.tensor([[7, 3, 9, 4, 4, 8]])
    >>> net = WordCNN(num_classes=2, vocab_size=10).eval()
    >>> torch.allclose(net(words), net(torch.nn.functional.pad(words, (0, 20))))
    True
    """

    def __init__(self, num_classes: int, vocab_size: int) -> None:
        super().__init__()
        if not isinstance(vocab_size, int) or vocab_size < 1:
            raise ValueError(
                f"WordCNN needs vocab_size, the number of token ids, but got {vocab_size}. Use data that has an attribute "
                "vocab_size, such as MRDataModule, or set --model.backbone.vocab_size."
            )
        self.embedding = nn.Embedding(vocab_size, EMBEDDING, padding_idx=PADDING)
        nn.init.uniform_(self.embedding.weight[1:], -BOUND, BOUND)
        self.convolutions = nn.ModuleList(nn.Conv1d(EMBEDDING, CHANNELS, width) for width in WIDTHS)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(len(WIDTHS) * CHANNELS, num_classes)

    def reset_parameters(self) -> None:
        """Draw all weights anew, as a new net's are drawn: for a second net like this one."""
        for part in (self.embedding, *self.convolutions, self.linear):
            part.reset_parameters()
        nn.init.uniform_(self.embedding.weight[1:], -BOUND, BOUND)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        if not isinstance(x, Tensor):
            raise UserError(
                f"WordCNN takes token ids in one tensor, but got a {type(x).__name__}: leave --data.tokenizer out, or take a "
                "backbone that a tokenizer belongs to, such as ldmi_lightning.models.TextClassifier."
            )
        # All sentences in one row, one after the other: windows that reach beyond their sentence are masked.
        x = pad(x, (0, max(0, WIDTHS[-1] - x.shape[1])), value=PADDING)
        lengths = (x != PADDING).sum(dim=1).clamp(min=WIDTHS[-1])
        left = lengths[:, None] - torch.arange(x.shape[1], device=x.device)
        sentence = torch.arange(x.shape[0], device=x.device)[:, None].expand_as(x)
        row = [part.flatten() for part in (x, left, sentence)]
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            # Two thirds of a batch are padding. Elsewhere leaving it out would make the host wait for its number.
            kept = (row[1] > 0).nonzero().flatten()
            row = [part.index_select(0, kept) for part in row]
        tokens, left, sentence = row
        embedded = self.embedding(tokens).T
        pooled = [self._max_over_time(conv(embedded), left, sentence, x.shape[0]) for conv in self.convolutions]
        logits: Tensor = self.linear(self.dropout(torch.cat(pooled, dim=1).relu()))
        return logits

    @staticmethod
    def _max_over_time(features: Tensor, left: Tensor, sentence: Tensor, n: int) -> Tensor:
        """Return each sentence's maximum over its windows, shape ``(n, channels)``.

        Args:
            features: of each window, shape ``(channels, T - width + 1)``.
            left: words from each position to the end of its sentence, shape ``(T,)``.
            sentence: the sentence of each position, shape ``(T,)``.
            n: number of sentences.
        """
        windows = features.shape[1]
        width = left.shape[0] - windows + 1
        inside = features.masked_fill(left[:windows] < width, -torch.inf).T
        lowest = features.new_full((n, features.shape[0]), -torch.inf)
        where = sentence[:windows, None].expand_as(inside)
        return lowest.scatter_reduce(0, where, inside, "amax")
