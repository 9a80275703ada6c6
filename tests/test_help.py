"""Help pages answer at once: none of them waits for PyTorch."""

import re
import subprocess
import sys
from importlib import import_module

import pytest

import ldmi_lightning
from ldmi_lightning.commands import COMMANDS, help_page, main
from ldmi_lightning.commands.noise_help import OPTIONS
from ldmi_lightning.commands.noise_run import make_parser

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
    [(["--help"], 0.3), (["-h"], 0.3), (["noise", "--help"], 1.0), (["benchmark", "--help"], 1.0)],
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
    assert set(ldmi_lightning.__all__) == {"Batch", "LDMIModule", "Method", "Stage", "__version__"}
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
