"""Arrays of one's own: the labels, shapes and types that are taken, and what becomes of them."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from own_data import ready, refusal
from torch import nn

from ldmi_lightning.commands.testing import kind_of_test_labels
from ldmi_lightning.datamodules import DigitsDataModule, NoisyDataModule, TensorDataModule
from ldmi_lightning.datamodules.class_names import class_indices
from ldmi_lightning.datamodules.encoding.encoded import EncodedDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import PairFlipNoise

pytestmark = pytest.mark.usefixtures("hub_of_its_own")


# -- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        [0, 1, 1],
        [0.0, 1.0, 1.0],
        np.array([0, 1, 1], np.uint8),
        torch.tensor([0, 1, 1]),
        [False, True, True],
        ["a", "b", "b"],
    ],
)
def test_labels_are_positions_or_names(labels: Any) -> None:
    found = class_indices(labels, ["a", "b"], "it")
    assert found.tolist() == [0, 1, 1]
    assert found.dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 2], "it has labels from 0 to 2, but with 2 classes they must lie in 0..1"),
        ([-1, 0], "it has labels from -1 to 0"),
        (["a", "c"], r"it has the label c \(sample 1\), which is neither .* class names a, b"),
        ([0, None], r"the label None \(sample 1\)"),
        ([0.5, 1.0], "the label 0.5"),
        ([[0, 1], [1, 0]], r"shape \(2, 2\)"),
        ([], "no samples"),
    ],
)
def test_labels_that_name_no_class_are_refused(labels: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        class_indices(np.asarray(labels, dtype=np.int64 if labels == [] else None), ["a", "b"], "it")


# -- arrays -----------------------------------------------------------------------------------------------------------


def arrays(x: Any, **options: Any) -> TensorDataModule:
    y = np.arange(len(x)) % 2
    return TensorDataModule(x, y, **{"val_share": 0.2, "test_share": 0.2, **options})


@pytest.mark.parametrize("shape", [(20, 8, 8), (20, 1, 8, 8), (20, 8, 8, 1), (20, 3, 8, 8), (20, 8, 8, 3)])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_bytes_are_images_whichever_way_they_lie(shape: tuple[int, ...], kind: Callable[[Any], Any]) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    data = ready(arrays(kind(pixels)))
    batch = next(iter(data.val_dataloader()))
    channels = 3 if 3 in shape else 1
    assert batch.x.shape[1:] == (channels, 8, 8)
    sample = int(data.splits["val"].original_index[0])
    image = pixels[sample].transpose(2, 0, 1) if shape[-1] in (1, 3) else pixels[sample].reshape(channels, 8, 8)
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if channels == 3 else ([0.5], [0.5])
    expected = (image / 255 - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))
    np.testing.assert_allclose(batch.x[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_floats_are_used_as_they_are(dtype: Any) -> None:
    x = np.random.RandomState(0).randn(20, 3).astype(dtype)
    data = ready(arrays(x))
    batch = next(iter(data.test_dataloader()))
    assert torch.equal(batch.x, torch.from_numpy(x).float()[data.splits["test"].original_index])


def test_integers_are_token_ids() -> None:
    data = ready(arrays(np.arange(40, dtype=np.int16).reshape(20, 2)))
    assert data.splits["train"].x.dtype == torch.int16
    assert next(iter(data.val_dataloader())).x.dtype == torch.int64


def test_names_are_those_that_the_labels_hold() -> None:
    x = np.zeros((6, 2))
    assert TensorDataModule(x, ["no", "yes", "no"] * 2).class_names == ["no", "yes"]
    assert TensorDataModule(x, [0, 2, 1] * 2).class_names == ["0", "1", "2"]
    assert TensorDataModule(x, [0, 1] * 3, x[:2], [0, 3]).num_classes == 4


def test_test_set_of_its_own_is_used_whole() -> None:
    data = ready(TensorDataModule(np.zeros((20, 2)), [0, 1] * 10, np.ones((4, 2)), [1, 1, 0, 0], val_share=0.2))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 16, "val": 4, "test": 4}
    assert data.splits["test"].original_index.tolist() == [20, 21, 22, 23]
    assert (data.splits["test"].x == 1).all()


def test_arrays_that_are_read_only_are_taken() -> None:
    x = np.zeros((20, 2))
    x.flags.writeable = False
    assert len(ready(arrays(x[::-1])).splits["train"]) == 12


def test_given_labels_are_true_only_where_noise_is_injected() -> None:
    x = np.zeros((40, 2))
    as_given, injected = ready(arrays(x)), ready(arrays(x, noise=PairFlipNoise(0.5, seed=0)))
    assert (as_given.noise_report()["train_rate"], as_given.noise_report()["matrix"]) == (None, None)
    assert injected.noise_report()["train_rate"] == pytest.approx(0.5, abs=0.3)
    assert [as_given.labels_are_true(split) for split in ("train", "val", "test")] == [False, False, True]
    assert all(injected.labels_are_true(split) for split in ("train", "val", "test"))


def test_test_labels_are_called_clean_only_where_they_are_known_to_be() -> None:
    x = np.zeros((40, 2))
    clean = [DigitsDataModule(), arrays(x, noise=PairFlipNoise(0.5, seed=0))]
    given = [arrays(x), EncodedDataModule(arrays(x), nn.Flatten()), pl.LightningDataModule()]
    assert {kind_of_test_labels(data) for data in clean} == {"clean test labels"}
    assert {kind_of_test_labels(data) for data in given} == {"test labels as given"}


def test_augmentation_gets_stored_training_batches_alone() -> None:
    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dtypes: list[torch.dtype] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.dtypes.append(x.dtype)
            return 255 - x

    seen = Seen()
    data = ready(arrays(np.zeros((20, 4, 4), np.uint8), augmentation=seen))
    assert (next(iter(data.train_dataloader())).x == 1).all()
    for loader in (data.train_eval_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert (next(iter(loader)).x == -1).all()
    assert seen.dtypes == [torch.uint8]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TensorDataModule(np.zeros((5, 2)), [0, 1, 0, 1]), "x has 5 samples, but y 4 labels"),
        (lambda: TensorDataModule(np.zeros((4, 2)), [0, 1] * 2, np.zeros((2, 2))), "x_test and y_test belong together"),
        (lambda: TensorDataModule(np.zeros((4, 2)), [0] * 4), r"y has one class \(0\).* at least two"),
        (lambda: TensorDataModule(np.zeros((4, 2)), [0, 1] * 2, class_names=["a", "a"]), "two classes named a"),
        (lambda: arrays(np.full((20, 2), np.nan)), r"x holds NaN or infinity \(sample 0\)"),
        (lambda: arrays(np.zeros((20, 5), np.uint8)), r"x holds uint8 of shape \(20, 5\)"),
        (lambda: arrays(np.array(["word"] * 20)), "x holds values of type <U4"),
        (lambda: arrays([[1.0], [1.0, 2.0]]), "differ in shape"),
        (lambda: arrays(np.zeros((20, 2)), val_share=0.01), "--data.val_share 0.01 .* leaves the val split without any"),
        (lambda: TensorDataModule(np.zeros((20, 2)), [0, 1] * 10, class_names=["a", "b", "c"]), r"no sample of 1 .*\(c\)"),
        (lambda: TensorDataModule(np.zeros((9, 2)), [0, 1, 2] * 3, class_names=["a", "b"]), "y has labels from 0 to 2"),
        (lambda: arrays(np.zeros((20, 2)), batch_size=0), "--data.batch_size"),
    ],
)  # fmt: skip
def test_array_that_cannot_be_used_is_refused(make: Callable[[], NoisyDataModule], said: str) -> None:
    assert re.search(said, refusal(make))
