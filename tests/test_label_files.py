"""Labels that come from files: found by original index, refused where they belong to other data, and nothing is run."""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import HumanNoise, LabelFileNoise, human

SHARED = Path(__file__).parents[2] / "shared/data"
INDEX = np.array([7, 3, 12, 0])
CLEAN = np.array([1, 0, 2, 2])
NOISY = [2, 0, 1, 2]


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(path: str, index: NDArray[np.int64] = INDEX, num_classes: int = 3) -> list[int]:
    return LabelFileNoise(path)(CLEAN[: len(index)], num_classes, index=index).tolist()


def refused(path: str, content: str) -> str:
    """Write a file that must be refused, and return the one line that says why."""
    Path(path).write_text(content)
    with pytest.raises(UserError) as raised:
        read(path)
    assert "\n" not in str(raised.value)
    assert f"--data.noise.path {path}" in str(raised.value)
    return str(raised.value)


# -- LabelFileNoise ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "index,label\n0,2\n3,0\n7,2\n12,1\n",
        "index,label\n12,1\n7,2\n0,2\n3,0\n99,0\n",  # any order, and samples of other splits
        "label,index,clean\n2,7,1\n0,3,0\n1,12,2\n2,0,2\n",
        'file,"index","label"\n"a, b",7,2\nx,3,0\nx,12,1\nx,0,2\n',
        "\ufeffindex,label\r\n0,2\r\n3,0\r\n7,2\r\n12,1\r\n",
    ],
)
def test_a_csv_file_is_keyed_by_original_index(content: str) -> None:
    Path("labels.csv").write_text(content, encoding="utf-8")
    assert read("labels.csv") == NOISY


def test_an_npy_file_holds_the_label_of_each_original_index() -> None:
    labels = np.full(20, -1, np.int16)
    labels[INDEX] = NOISY
    np.save("labels.npy", labels)
    assert read("labels.npy") == NOISY


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 2)), min_size=1, max_size=30, unique_by=lambda row: row[0])
)
@settings(deadline=None, max_examples=50, derandomize=True)
def test_each_sample_finds_its_own_label(rows: list[tuple[int, int]]) -> None:
    Path("labels.csv").write_text("index,label\n" + "".join(f"{index},{label}\n" for index, label in rows))
    index = np.array([index for index, _ in rows][::-1])
    noise = LabelFileNoise("labels.csv")
    assert noise(np.zeros_like(index), 3, index=index).tolist() == [label for _, label in rows][::-1]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (
            "index,label\n0,2\n3,0\n7,2\n",
            "no label for 1 of 4 samples, the first of which is original index 12: it holds 3",
        ),
        ("index,label\n0,2\n3,0\n7,2\n12,1\n3,1\n", "original index 3 more than once"),
        ("index,label\n-1,2\n3,0\n7,2\n12,1\n", "the index -1"),
        ("index,label\n0,2\n3,0\n7,5\n12,1\n", r"the label 5 at original index 7, .* 0..2"),
        ("index,label\n0,2\n3,-1\n7,2\n12,1\n", "the label -1 at original index 3"),
        (
            "index,label,clean\n0,2,2\n3,0,1\n7,2,0\n12,1,2\n",
            r"another data set.* at 2 of 4 samples, first at original index 7 \(0 in the file, 1 in the data\)",
        ),
        ("index,label\n0,two\n", "two"),
        ("index,label\n0,2.5\n", "2.5"),
        ("index,label\n0\n", "cannot be read"),
        ("index;label\n0;2\n", "names no column index"),
        ("index,noisy\n0,2\n", "names no column label"),
        ("0,2\n3,0\n", "names no column index"),
        ("index,label\n", "has no labels"),
        ("", "names no column index"),
    ],
)
def test_a_csv_file_that_does_not_fit_is_refused_with_the_place(content: str, named: str) -> None:
    assert re.search(named, refused("labels.csv", content))


def test_other_files_are_refused_without_running_anything() -> None:
    assert "must be a .csv or a .npy file" in refused("labels.txt", "index,label\n")
    assert "cannot be read" in refused("labels.npy", "no array")
    assert "cannot be read" in refused("labels.npy", "")
    np.save("labels.npy", np.array([Hostile()], dtype=object), allow_pickle=True)
    for write in (lambda: None, lambda: Path("labels.npy").write_bytes(pickle.dumps(Hostile()))):
        write()
        with pytest.raises(UserError, match="cannot be read"):
            LabelFileNoise("labels.npy")
    assert not Path("ran").exists()
    Path("labels.csv").write_bytes(b"index,label\n\xff\xfe0,1\n")
    with pytest.raises(UserError, match="cannot be read"):
        LabelFileNoise("labels.csv")
    with pytest.raises(UserError, match="is no file"):
        LabelFileNoise("nowhere.csv")


@pytest.mark.parametrize(
    ("array", "named"),
    [
        (np.zeros((3, 2), np.int64), r"shape \(3, 2\) of int64"),
        (np.zeros(13), "float64"),
        (np.full(13, -1), "has no labels"),
        (np.zeros(12, np.int64), "original index 12"),
    ],
)
def test_an_npy_file_of_another_form_is_refused(array: NDArray[Any], named: str) -> None:
    np.save("labels.npy", array)
    with pytest.raises(UserError, match=named):
        read("labels.npy")


# -- HumanNoise -------------------------------------------------------------------------------------------------------


class Hostile:
    """Leaves a trace where it is unpickled by someone who runs what a pickle holds."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


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
        ({"worse_label": [1, 2, 0, 1]}, "worse_label is no vector"),
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
