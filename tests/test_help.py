"""Help pages answer at once, since none of them waits for PyTorch, and say what the classes themselves say."""

import ast
import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import ldmi_lightning
from ldmi_lightning.commands import COMMANDS, configuration, help_page, main, source
from ldmi_lightning.commands.help import choices, page_of
from ldmi_lightning.commands.noise_help import OPTIONS
from ldmi_lightning.commands.noise_run import make_parser
from ldmi_lightning.commands.options import DESCRIPTIONS, REFUSED, TRAINER

REPO = Path(__file__).parents[1]

MEASURE = """
import resource, sys
sys.argv[0] = "ldmi"
from ldmi_lightning.commands import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
used = resource.getrusage(resource.RUSAGE_SELF)
print(code, "torch" in sys.modules, used.ru_utime + used.ru_stime, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        (["--help"], 0.3),
        (["-h"], 0.3),
        (["noise", "--help"], 1.0),
        (["benchmark", "--help"], 1.0),
        (["fit", "--help"], 1.0),
        (["predict", "--help_all"], 1.0),
        (["fit", "--model.help", "LDMIModule"], 1.0),
        (["fit", "--config", "none.yaml", "--model.robust.loss.help", "DMILoss"], 1.0),
        (["noise", "--data.help=HFDataModule"], 1.0),
        (["fit", "--model.warmup.optimizer.help", "Adam"], 1.0),
    ],
)
def test_a_help_page_needs_no_torch_and_little_time(words: list[str], seconds: float) -> None:
    run = subprocess.run([sys.executable, "-c", MEASURE, *words], capture_output=True, text=True, check=True)
    code, torch, used = run.stderr.split()
    assert (code, torch) == ("0", "False")
    assert float(used) <= 2 * seconds  # half of it for other work on the machine
    assert run.stdout.startswith("usage: ldmi ")


def test_the_package_imports_no_torch_and_shows_its_public_names() -> None:
    code = "import sys, ldmi_lightning; print('torch' in sys.modules, *dir(ldmi_lightning))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert shown[0] == "False"
    names = {"Batch", "LDMIClassifier", "LDMIModule", "Method", "Predictor", "Stage", "__version__", "load"}
    assert set(ldmi_lightning.__all__) == names
    assert set(ldmi_lightning.__all__) <= set(shown)
    assert all(hasattr(ldmi_lightning, name) for name in ldmi_lightning.__all__)
    with pytest.raises(AttributeError, match="no attribute 'LDMI'"):
        _ = ldmi_lightning.LDMI


def test_every_command_of_the_table_has_a_file_that_runs_it() -> None:
    page = help_page()
    for word, command in COMMANDS.items():
        assert callable(import_module(command.module).run)
        assert re.search(rf"^  {word} +{re.escape(command.description)}$", page, flags=re.MULTILINE)


def test_the_help_of_noise_says_what_its_parser_says(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["noise", "--help"])
    page = " ".join(capsys.readouterr().out.split())
    parser = make_parser()
    assert str(parser.get_defaults().seed_everything) == OPTIONS["seed"].default
    for option in OPTIONS.values():
        assert f"{option.help} (default: {option.default})" in page
        assert option.help in " ".join(parser.format_help().split())


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_the_other_commands_list_all_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    page = capsys.readouterr().out
    assert page.startswith(f"usage: ldmi {command} ")
    own = {"fit": {"--stage_cache"}, "predict": {"--output"}}
    for option in ["--config", "--seed_everything", "--trainer.precision", "--model", "--data", "--ckpt_path"]:
        assert option in page
    for other in ("fit", "predict"):
        assert all((option in page) == (other == command) for option in own[other])


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def page(*words: str) -> str:
    found = page_of(words)
    assert found is not None
    return found


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("command", DESCRIPTIONS)
def test_a_page_is_short_and_names_no_option_that_is_refused(command: str) -> None:
    short, long = page(command, "--help"), page(command, "--help_all")
    assert len(short.splitlines()) < 120
    assert set(re.findall(r"--trainer\.(\w+)", short)) == set(TRAINER)
    for name in REFUSED:
        assert not re.search(rf"--trainer\.{name}\b", long)
        assert f"`ldmi fit --trainer.{name} " in (REPO / "docs/errors.md").read_text(), "it is refused, and says so"


@pytest.mark.parametrize("command", DESCRIPTIONS)
def test_the_pages_list_what_the_parser_knows(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    known = set(
        re.findall(r"^  (?:-\w.*?, )?--([\w.]+)", configuration.make_parser(command).format_help(), re.MULTILINE)
    )
    known -= {"model.help", "data.help", "model", "data", *(f"trainer.{name}" for name in REFUSED)}
    known = {name for name in known if not (name.startswith("trainer.") and name.endswith(".help"))} - {"trainer"}
    listed = set(re.findall(r"^  (?:-h, )?--([\w.]+)", page(command, "--help_all"), re.MULTILINE))
    own = {name for name in listed if not name.startswith(("model", "data"))}
    assert own - {"help_all"} == known


def test_a_page_has_each_argument_of_the_model_and_of_a_stage() -> None:
    shown = page("fit", "--help")
    for name in inspect.signature(ldmi_lightning.Stage).parameters:
        assert f"--model.STAGE.{name} " in shown
    for name in set(inspect.signature(ldmi_lightning.LDMIModule).parameters) - {"num_classes"}:
        assert f"--model.{name} " in shown or name in shown.partition("stages:")[2]
    for kind in ("data", "noise", "loss", "backbone"):
        assert len(choices(kind)) >= 5


KINDS = {"datamodules": "data", "losses": "loss", "noise": "noise", "models": "backbone"}
CLASSES = [
    *(f"ldmi_lightning.{room}.{name}" for room, kind in KINDS.items() for name in choices(kind)),
    *("ldmi_lightning.LDMIModule", "ldmi_lightning.Stage", "pytorch_lightning.Trainer", "torch.optim.SGD"),
    *("torch.optim.lr_scheduler.MultiStepLR", "pytorch_lightning.callbacks.EarlyStopping"),
]


@pytest.mark.parametrize("path", CLASSES)
def test_a_class_is_read_from_its_text_as_python_reads_it(path: str) -> None:
    place, _, name = path.rpartition(".")
    taken = inspect.signature(getattr(import_module(place), name)).parameters.values()
    found = source.find(path)
    assert found is not None
    shown = source.arguments(found)
    assert [each.name for each in shown] == [each.name for each in taken]
    for each, real in zip(shown, taken, strict=True):
        assert (each.default is None) == (real.default is real.empty)
        if isinstance(real.default, int | float | str | bool | None):
            assert ast.literal_eval(str(each.default)) == real.default


def test_a_class_of_ones_own_is_read_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "not_imported.py").write_text(
        "from ldmi_lightning.losses import DMILoss\n\nraise RuntimeError\n\n\nclass Mine(DMILoss):\n"
        '    """A loss.\n\n    Args:\n        weight: how much\n            it counts.\n    """\n'
        "    def __init__(self, weight: float = 0.5, kind: str | None = None):\n        pass\n\n\n"
        "class Same(DMILoss):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    shown = page("fit", "--model.robust.loss.help", "not_imported.Mine")
    assert "not_imported.Mine: A loss." in shown
    assert re.search(r"--model.robust.loss.weight FLOAT\n\s+How much it counts \(default: 0.5\)", shown)
    assert "--model.robust.loss.kind TEXT" in shown
    assert "--model.robust.loss.memory FLOAT" in page("fit", "--model.robust.loss.help=not_imported.Same")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit", "--data.help", "DigitDataModule"], "Did you mean DigitsDataModule?"),
        (["fit", "--model.backbone.help", "nowhere.Net"], "nowhere.Net is no class that can be found"),
        (["fit", "--trainer.plugins.help"], "--trainer.plugins.help CLASS"),
    ],
)
def test_a_class_that_is_none_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_without_a_class_the_choices_are_listed() -> None:
    shown = page("fit", "--data.noise.help")
    for name, found in choices("data.noise").items():
        assert re.search(rf"^  {name} +{re.escape(source.summary(found).split()[0])}", shown, re.MULTILINE)


def test_where_nobody_reads_on_a_page_ends_in_silence() -> None:
    command = f"{sys.executable} -m ldmi_lightning fit --help | true"
    run = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
