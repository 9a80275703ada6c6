"""Entries of the stage cache: damaged, linked or half kept ones are never used, and many runs may keep one at once."""

import shutil
import threading
from pathlib import Path

import pytest
import stage_runs
import torch
from stage_runs import WARMUP_ALONE, fit

from ldmi_lightning.runs.stage_cache import StageCache, remove_unfinished, tag_of

pytestmark = pytest.mark.usefixtures("in_own_folder")
in_own_folder = stage_runs.in_own_folder  # a fixture


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that has warmed up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("finished"))
        patch.setenv("PL_GLOBAL_SEED", "0")
        return fit("run", *WARMUP_ALONE, cache=None).absolute()


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt"])
@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_damaged_entry_is_never_used_and_made_anew(name: str, harm: str, finished: Path) -> None:
    cache = StageCache("cache", {"warmup": "a" * 32})
    cache.keep("warmup", finished)
    assert cache.finished() == ["warmup"]
    content = bytearray((cache.entry("warmup") / name).read_bytes())
    content[len(content) // 2] ^= 1
    harmed = {"cut": content[:-100], "flip": content, "empty": b""}[harm]
    (cache.entry("warmup") / name).write_bytes(bytes(harmed))
    assert cache.finished() == []
    cache.keep("warmup", finished)
    assert cache.finished() == ["warmup"]


def test_entry_without_its_last_checkpoint_is_never_used(finished: Path) -> None:
    cache = StageCache("cache", {"warmup": "a" * 32})
    cache.keep("warmup", finished)
    (cache.entry("warmup") / "last.ckpt").unlink()
    assert cache.finished() == []


def test_stage_is_shared_only_with_all_before_it(finished: Path) -> None:
    shutil.copytree(finished, "run")
    for which in ("best", "last"):
        shutil.copyfile(f"run/warmup-{which}.ckpt", f"run/robust-{which}.ckpt")
    cache = StageCache("cache", {"warmup": "a" * 32, "robust": "b" * 32})
    cache.keep("robust", Path("run"))
    assert cache.finished() == []
    cache.keep("warmup", Path("run"))
    assert cache.finished() == ["warmup", "robust"]


def test_entry_is_seen_whole_or_not_at_all_by_runs_that_keep_it_at_once(finished: Path) -> None:
    cache = StageCache("cache", {"warmup": "a" * 32})
    seen: list[list[str]] = []
    both = threading.Barrier(4)

    def keep() -> None:
        both.wait()
        cache.keep("warmup", finished)
        seen.append(cache.finished())

    threads = [threading.Thread(target=keep) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert seen == [["warmup"]] * 4
    assert [path.name for path in Path("cache").iterdir()] == ["a" * 32]


def test_what_a_run_was_keeping_when_it_was_killed_is_removed_by_its_own_next_process_alone() -> None:
    for run in ("mine", "other"):
        Path(f"cache/{tag_of(Path(run))}-{'0' * 32}.tmp").mkdir(parents=True)
    remove_unfinished("cache", Path("mine"))
    assert [path.name.partition("-")[0] for path in Path("cache").iterdir()] == [tag_of(Path("other"))]


def test_weights_that_were_given_are_no_stage_to_keep(finished: Path) -> None:
    fit("given", "--model.warm_start", str(finished / "warmup-best.ckpt"))
    (entry,) = Path("cache").iterdir()
    assert sorted(path.name for path in entry.iterdir()) == ["best.ckpt", "last.ckpt", "metrics.csv"]
    assert torch.load(entry / "last.ckpt", weights_only=True)["ldmi_lightning"]["progress"]["stage"] == "robust"


# -- links ------------------------------------------------------------------------------------------------------------


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_linked_entry_is_not_followed_and_a_real_one_takes_its_place(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = StageCache("cache", {"warmup": "a" * 32})
    elsewhere = StageCache(tmp_path / "elsewhere", cache.keys)
    elsewhere.keep("warmup", finished)
    before = content_of(elsewhere.entry("warmup"))
    for act in (lambda: cache.finished() == [], lambda: cache.keep("warmup", finished) is None):
        shutil.rmtree("cache", ignore_errors=True)
        Path("cache").mkdir()
        cache.entry("warmup").symlink_to(elsewhere.entry("warmup"))
        assert act()
        printed = capsys.readouterr().out
        assert printed.count("\n") == 1
        assert f"{cache.entry('warmup')} is a symbolic link, which is not followed" in printed
        cache.keep("warmup", finished)
        assert not cache.entry("warmup").is_symlink()
        assert cache.finished() == ["warmup"]
        assert content_of(elsewhere.entry("warmup")) == before


@pytest.mark.parametrize("name", ["best.ckpt", "last.ckpt", "metrics.csv"])
def test_entry_that_holds_a_link_is_not_used_and_what_it_points_to_is_left_alone(
    name: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = StageCache("cache", {"warmup": "a" * 32})
    cache.keep("warmup", finished)
    planted = cache.entry("warmup") / name
    planted.rename("target")  # a file that would be taken for the real one
    before = Path("target").read_bytes()
    planted.symlink_to(Path("target").absolute())
    assert cache.finished() == []
    assert "holds a symbolic link, which is not followed: it is removed." in capsys.readouterr().out
    cache.keep("warmup", finished)
    assert cache.finished() == ["warmup"]
    assert not planted.is_symlink()
    assert Path("target").read_bytes() == before
