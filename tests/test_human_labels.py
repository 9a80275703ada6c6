"""Human labels from .pt files: found by original index, refused where they are damaged or of other data, and nothing is run."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from label_cases import CLEAN, NOISY, Hostile

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import HumanNoise, human

pytestmark = pytest.mark.usefixtures("in_own_folder")

SHARED = Path(__file__).parents[2] / "shared/data"


def write_human(path: str = "human.pt", **labels: Any) -> str:
    arrays = {"clean_label": CLEAN, "worse_label": np.array(NOISY)} | labels
    torch.save(arrays, path)
    return path


@pytest.mark.parametrize("kind", human.KEYS)
def test_each_kind_of_human_label_is_read_by_original_index(kind: human.Kind) -> None:
    write_human(**{human.KEYS[kind]: np.array([0, 1, 2, 1])})
    noise = HumanNoise("human.pt", kind)
    assert noise.transition_matrix(3) is None
    assert noise(CLEAN[[3, 0]], 3, index=np.array([3, 0])).tolist() == [1, 0]


@pytest.mark.parametrize("legacy", [False, True])
def test_both_of_pytorch_s_formats_are_read(legacy: bool) -> None:
    arrays = {"clean_label": CLEAN.astype(np.int32), "worse_label": np.array(NOISY, np.uint8)}
    torch.save(arrays, "human.pt", _use_new_zipfile_serialization=not legacy)
    assert HumanNoise("human.pt", "worse")(CLEAN, 3, index=np.arange(4)).tolist() == NOISY


@pytest.mark.parametrize("held", [torch.tensor, list, lambda labels: torch.tensor(labels, dtype=torch.uint8)])
def test_tensors_and_lists_are_read_as_arrays_are(held: Any) -> None:
    torch.save({"clean_label": held(CLEAN.tolist()), "worse_label": held(NOISY)}, "human.pt")
    assert HumanNoise("human.pt", "worse")(CLEAN, 3, index=np.arange(4)).tolist() == NOISY


@pytest.mark.parametrize("place", ["label", "value", "whole"])
def test_a_hostile_file_is_refused_and_does_not_run(place: str) -> None:
    held: Any = {
        "label": {"clean_label": CLEAN, "worse_label": Hostile()},
        "value": {"clean_label": CLEAN, "worse_label": np.array([Hostile()], dtype=object)},
        "whole": Hostile(),
    }[place]
    torch.save(held, "human.pt")
    with pytest.raises(UserError, match="could run code, and is not loaded"):
        HumanNoise("human.pt", "worse")
    assert not Path("ran").exists()
    torch.load("human.pt", weights_only=False)
    assert Path("ran").exists(), "the file was harmless after all"


@pytest.mark.parametrize("legacy", [False, True])
def test_what_could_run_code_is_named(legacy: bool) -> None:
    torch.save({"clean_label": Hostile()}, "human.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"what else it holds \(.*getattr.*\) could run code, and is not loaded"):
        HumanNoise("human.pt", "worse")


@pytest.mark.parametrize("content", [b"text", b"index,label\n0,1\n", b"\x80\x04\x95", pickle.dumps([1, 2])])
def test_what_could_not_run_code_is_not_said_to(content: bytes) -> None:
    Path("human.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"human\.pt is damaged, or no \.pt file at all"):
        HumanNoise("human.pt", "worse")


def test_after_reading_nothing_more_may_be_loaded_than_before() -> None:
    before = set(torch.serialization.get_safe_globals())
    HumanNoise(write_human(), "worse")
    assert set(torch.serialization.get_safe_globals()) == before


def test_labels_of_other_data_are_refused_with_the_number_and_the_place() -> None:
    noise = HumanNoise(write_human(), "worse")
    with pytest.raises(
        UserError, match=r"another data set.* 2 of 4 .* original index 1 \(0 in the file, 2 in the data\)"
    ):
        noise(np.array([1, 2, 2, 0]), 3, index=np.arange(4))
    with pytest.raises(UserError, match="no label for 1 of 4 samples, the first of which is original index 4"):
        noise(CLEAN, 3, index=np.array([0, 1, 2, 4]))


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ({"worse_label": np.array([1, 2])}, "worse_label is no vector"),
        ({"worse_label": np.zeros((2, 2), np.int64)}, "worse_label is no vector"),
        ({"worse_label": [1, 2, 0, "text"]}, "worse_label is no vector of labels, whole numbers, but a list"),
        ({"worse_label": [[1, 2], [0]]}, "worse_label is no vector of labels, whole numbers, but a list"),
        ({"worse_label": torch.zeros(4)}, r"but a Tensor of shape \(4,\) and type float32"),
        ({"worse_label": np.zeros((4, 2), np.int64)}, r"but a ndarray of shape \(4, 2\) and type int64"),
        ({"clean_label": "text"}, "clean_label is no vector"),
    ],
)
def test_damaged_labels_are_refused(labels: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        HumanNoise(write_human(**labels), "worse")


def test_a_file_without_the_kind_names_what_it_has() -> None:
    with pytest.raises(UserError, match=r"has no noisy_label .* clean_label, worse_label: choose another"):
        HumanNoise(write_human(), "noisy")
    with pytest.raises(UserError, match="one of aggre, rand1"):
        HumanNoise("human.pt", "worst")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"nowhere\.pt is no file"):
        HumanNoise("nowhere.pt", "worse")
    torch.save([1, 2], "list.pt")
    with pytest.raises(UserError, match="but list"):
        HumanNoise("list.pt", "worse")


@pytest.mark.parametrize("kept", [0, 1, 100, 400])
def test_a_file_cut_short_is_refused(kept: int) -> None:
    Path("cut.pt").write_bytes(Path(write_human()).read_bytes()[:kept])
    with pytest.raises(UserError, match=r"cut\.pt"):
        HumanNoise("cut.pt", "worse")


def test_cifar10n_has_the_published_rates() -> None:
    file = SHARED / "cifar_n/CIFAR-10_human.pt"
    if not file.is_file():
        pytest.skip(f"needs CIFAR-10N in {file}")
    with torch.serialization.safe_globals(human.ARRAYS):
        true = torch.load(file, weights_only=True)["clean_label"]
    rates = {"aggre": 0.0901, "rand1": 0.17234, "rand2": 0.18122, "rand3": 0.1764, "worse": 0.40208}
    for kind, rate in rates.items():
        noise = HumanNoise(str(file), kind)  # type: ignore[arg-type]
        assert (noise(true, 10, index=np.arange(50_000)) != true).mean() == pytest.approx(rate, abs=1e-9)
