"""Inputs as a tensor, or as a tuple or dict of tensors: what the data side does with them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from ldmi_lightning.batch import Batch, as_batch
from ldmi_lightning.datamodules import Examples, NoisyDataModule
from ldmi_lightning.datamodules.fingerprints import inputs_digest
from ldmi_lightning.datamodules.loaders import Split
from ldmi_lightning.errors import UserError
from ldmi_lightning.inputs import concatenate, in_memory, map_tensors, num_samples, take, tensors_in
from ldmi_lightning.noise import InstanceDependentNoise, Noise


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


IMAGES, ROWS = torch.arange(24, dtype=torch.uint8).view(6, 2, 2), torch.arange(18.0).view(6, 3)
TREES: dict[str, Any] = {
    "tensor": ROWS,
    "tuple": (IMAGES, ROWS),
    "list": [IMAGES, ROWS],
    "named tuple": Pair(IMAGES, ROWS),
    "dict": {"image": IMAGES, "row": ROWS},
    "nested": {"image": IMAGES, "rows": (ROWS, ROWS + 1)},
}


@pytest.fixture(params=TREES)
def tree(request: pytest.FixtureRequest) -> Any:
    return TREES[request.param]


def leaves(x: Any) -> list[Tensor]:
    return [tensor for _, tensor in tensors_in(x)]


def equal(one: Any, other: Any) -> bool:
    pairs = zip(tensors_in(one), tensors_in(other), strict=True)
    return type(one) is type(other) and all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


# -- the structure ------------------------------------------------------------------------------------------------------


def test_structure_survives(tree: Any) -> None:
    assert equal(map_tensors(torch.clone, tree), tree)
    assert all(copy is not own for copy, own in zip(leaves(map_tensors(torch.clone, tree)), leaves(tree), strict=True))


def test_samples_are_taken_from_every_tensor(tree: Any) -> None:
    assert num_samples(tree) == 6
    where = torch.tensor([4, 1])
    assert all(torch.equal(some, own[where]) for some, own in zip(leaves(take(tree, where)), leaves(tree), strict=True))


def test_slices_share_memory(tree: Any) -> None:
    for some, own in zip(leaves(take(tree, slice(2, 4))), leaves(tree), strict=True):
        assert some.untyped_storage().data_ptr() == own.untyped_storage().data_ptr()
        assert torch.equal(some, own[2:4])


def test_parts_are_joined_again(tree: Any) -> None:
    assert equal(concatenate([take(tree, slice(0, 2)), take(tree, slice(2, 6))]), tree)


def test_tensors_of_different_lengths_are_refused_with_their_names() -> None:
    with pytest.raises(UserError, match=r"x.ids 2, x.mask 3"):
        num_samples({"ids": torch.zeros(2), "mask": torch.zeros(3)})


@pytest.mark.parametrize(("x", "said"), [({}, "no tensors"), ({"a": torch.zeros(())}, "a single value")])
def test_inputs_without_samples_are_refused(x: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        num_samples(x)


def test_anything_else_within_is_named() -> None:
    with pytest.raises(UserError, match=r"x.words is a ndarray"):
        list(tensors_in({"words": np.zeros(2)}))
    with pytest.raises(UserError, match=r"hold a str"):
        map_tensors(torch.clone, (torch.zeros(2), "word"))


def test_files_are_not_in_memory(tree: Any) -> None:
    assert in_memory(tree)
    assert not in_memory(np.array([b"a.jpg"]))


# -- batches of someone else's -------------------------------------------------------------------------------------------


def test_plain_batches_keep_their_inputs(tree: Any) -> None:
    y = torch.arange(6)
    for given in ((tree, y), [tree, y]):
        batch = as_batch(given)
        assert batch.x is tree
        assert batch.y is y
        assert batch.index.tolist() == batch.y_clean.tolist() == [-1] * 6


def test_collated_batches_keep_their_inputs() -> None:
    loader = torch.utils.data.DataLoader([({"row": row}, (row, row), 0) for row in ROWS], batch_size=6)
    named, pair, y = next(iter(loader))
    assert equal(as_batch([named, y]).x, {"row": ROWS})
    assert [tensor.tolist() for tensor in as_batch([pair, y]).x] == [ROWS.tolist()] * 2


def test_a_batch_of_two_inputs_and_labels_is_not_taken_for_a_plain_one() -> None:
    with pytest.raises(UserError, match=r"must be \(x, y\) .* but got a list of 3"):
        as_batch([IMAGES, ROWS, torch.zeros(6)])


# -- examples and splits ----------------------------------------------------------------------------------------------


def test_examples_are_taken_by_slice_and_by_position(tree: Any) -> None:
    every = Examples(tree, np.arange(6), np.arange(6) + 10)
    shared, copied = every.take(slice(1, 3)), every.take(np.array([5, 0]))
    assert [tensor.data_ptr() for tensor in leaves(shared.x)] == [own[1:].data_ptr() for own in leaves(tree)]
    assert all(torch.equal(some, own[[5, 0]]) for some, own in zip(leaves(copied.x), leaves(tree), strict=True))
    assert (copied.y.tolist(), copied.index.tolist()) == ([5, 0], [15, 10])


def test_a_split_moves_all_of_its_tensors(tree: Any) -> None:
    numbers = torch.arange(6)
    moved = Split(tree, numbers, numbers, numbers).to(torch.device("meta"))
    assert {tensor.device.type for tensor in leaves(moved.x)} == {"meta"}
    assert moved.y.device.type == "meta"


def test_files_are_not_moved() -> None:
    files, numbers = np.array([b"a", b"b"]), torch.arange(2)
    assert Split(files, numbers, numbers, numbers).to(torch.device("meta")).x is files


# -- digests ----------------------------------------------------------------------------------------------------------


def digest(x: Any) -> str:
    numbers = torch.arange(6)
    part = Split(x, numbers, numbers, numbers)
    return inputs_digest({"train": part.x, "val": part.x})


def test_digest_of_a_plain_tensor_is_what_it_was() -> None:
    import hashlib

    one = b"torch.float32 (6, 3)\n" + ROWS.numpy().tobytes()
    assert digest(ROWS) == hashlib.sha256(one + one).hexdigest()


def test_digest_depends_on_every_tensor_and_its_name() -> None:
    images, rows = IMAGES, ROWS
    other = rows.clone()
    other[5, 2] += 1
    trees = [
        *(rows, (rows,), {"row": rows}, (images, rows), (rows, images), {"image": images, "row": rows}),
        *({"row": images, "image": rows}, {"image": images, "row": other}, {"a": images, "row": rows}),
    ]
    assert len({digest(tree) for tree in trees}) == len(trees)
    assert digest({"image": images, "row": rows}) == digest({"image": images.clone(), "row": rows.clone()})


# -- a data set --------------------------------------------------------------------------------------------------------


class Own(NoisyDataModule):
    """Six samples in each split."""

    def __init__(self, x: Any, noise: Noise | None = None) -> None:
        super().__init__(2, ["no", "yes"], noise, batch_size=4)
        self.given = x

    def load(self) -> Mapping[str, Examples]:
        y = np.array([0, 1] * 3)
        return {
            name: Examples(self.given, y, np.arange(6) + 6 * at) for at, name in enumerate(("train", "val", "test"))
        }


class Spoil(torch.nn.Module):
    """Changes its inputs in place, as a transform may."""

    def forward(self, x: Any) -> Any:
        return map_tensors(lambda each: each.add_(1), x)


def test_two_views_of_a_batch_are_transformed_each_from_what_is_stored(tree: Any) -> None:
    data = Own(tree)
    data.setup("fit")
    data.train_transform = Spoil  # type: ignore[method-assign]
    data.views = 2
    for batch in data.train_dataloader():
        assert isinstance(batch, Batch)
        for x, view, own in zip(leaves(batch.x), leaves(batch.second_view), leaves(tree), strict=True):
            assert torch.equal(x, own[batch.index] + 1)
            assert torch.equal(view, own[batch.index] + 1)


def test_inputs_and_labels_of_different_number_are_refused() -> None:
    with pytest.raises(UserError, match=r"The train split of Own has 5 inputs, but 6 labels"):
        Own({"row": ROWS[:5]}).setup("fit")
    with pytest.raises(UserError, match=r"Inputs must share their first dimension.* x.image 6, x.row 5"):
        Own({"image": IMAGES, "row": ROWS[:5]}).setup("fit")


def test_noise_that_projects_inputs_takes_the_one_tensor_that_there_is() -> None:
    plain, named = (
        Own(ROWS, InstanceDependentNoise(0.4, seed=1)),
        Own({"row": ROWS}, InstanceDependentNoise(0.4, seed=1)),
    )
    for data in (plain, named):
        data.setup("fit")
    assert torch.equal(plain.splits["train"].y, named.splits["train"].y)


def test_noise_that_projects_inputs_refuses_several() -> None:
    with pytest.raises(UserError, match=r"InstanceDependentNoise needs .* one tensor, but .* are 2: x.image, x.row"):
        Own({"image": IMAGES, "row": ROWS}, InstanceDependentNoise(0.4, seed=1)).setup("fit")
