"""The `nofa` command: its table, its help and its complaints."""

import argparse
import importlib.machinery
import subprocess
import sys
import types

import pytest

from data_prep import __main__ as data_prep
from nofa_jax import __main__ as nofa
from nofa_jax.errors import UserError


@pytest.fixture
def toy_command(monkeypatch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """Adds a command `toy` and returns the list that its calls end up in."""
    calls: list[argparse.Namespace] = []
    module = types.ModuleType("toy_command", "Does a toy thing.\n\nIn two paragraphs.")
    module.EXAMPLE = "nofa toy --size=3"
    module.add_arguments = lambda parser: parser.add_argument("--size", type=int, required=True, help="how large")

    def run(args: argparse.Namespace) -> int | None:
        calls.append(args)
        if args.size == 13:
            raise UserError("13 is unlucky")
        if args.size == 14:
            raise KeyboardInterrupt
        return None

    module.run = run
    module.__spec__ = importlib.machinery.ModuleSpec("toy_command", None)
    monkeypatch.setitem(sys.modules, "toy_command", module)
    monkeypatch.setitem(nofa.COMMANDS, "toy", ("toy_command", "a toy"))
    return calls


def _exit_code(*argv: str) -> int | str | None:
    with pytest.raises(SystemExit) as left:
        nofa.main(list(argv))
    return left.value.code


def test_runs_a_command(toy_command: list[argparse.Namespace]) -> None:
    assert _exit_code("toy", "--size=3") == 0
    assert [args.size for args in toy_command] == [3]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["toyy"], ["unknown command 'toyy'", "did you mean toy?"]),
        (["toy"], ["--size", "nofa toy --help"]),
        (["toy", "--size=x"], ["--size", "'x'"]),
        (["toy", "--size=3", "--sise=4"], ["--sise", "did you mean --size?"]),
        (["toy", "--size=3", "stray"], ["stray"]),
        (["toy", "--size=13"], ["13 is unlucky"]),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    toy_command: list[argparse.Namespace], capsys: pytest.CaptureFixture, argv: list[str], words: list[str]
) -> None:
    assert _exit_code(*argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err


def test_ctrl_c_is_130(toy_command: list[argparse.Namespace], capsys: pytest.CaptureFixture) -> None:
    assert _exit_code("toy", "--size=14") == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_help_of_a_command(toy_command: list[argparse.Namespace], capsys: pytest.CaptureFixture) -> None:
    assert _exit_code("toy", "--help") == 0
    out = capsys.readouterr().out
    for words in ("usage: nofa toy", "In two paragraphs.", "how large", "example:\n  nofa toy --size=3"):
        assert words in out
    assert toy_command == []


@pytest.mark.parametrize("argv", [[], ["--help"], ["help"]])
def test_overview_lists_every_command(
    toy_command: list[argparse.Namespace], capsys: pytest.CaptureFixture, argv: list[str]
) -> None:
    assert _exit_code(*argv) == 0
    out = capsys.readouterr().out
    for name, (_, summary) in nofa.available(nofa.COMMANDS).items():
        assert name in out
        assert summary in out
    assert "example:" in out


ALL = {(name,): module for name, (module, _) in nofa.available(nofa.COMMANDS).items()}
ALL |= {("data", name): module for name, (module, _) in data_prep.COMMANDS.items()}


@pytest.mark.parametrize("words", sorted(ALL), ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...], capsys: pytest.CaptureFixture) -> None:
    assert _exit_code(*words, "--help") == 0
    out = capsys.readouterr().out
    module = importlib.import_module(ALL[words])
    assert out.startswith(f"usage: nofa {' '.join(words)}")
    assert out.rstrip().endswith(f"example:\n  {module.EXAMPLE}")
    assert len(module.EXAMPLE.split()) > 2
    assert len((module.__doc__ or "").strip()) > 20


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_a_group_lists_its_commands(capsys: pytest.CaptureFixture, argv: list[str]) -> None:
    assert _exit_code("data", *argv) == 0
    by_nofa = capsys.readouterr().out
    for name, (_, summary) in data_prep.COMMANDS.items():
        assert f"  {name:<11} {summary}\n" in by_nofa
    assert data_prep.run(argv) == 0
    assert capsys.readouterr().out == by_nofa.replace("nofa data COMMAND", "python -m data_prep COMMAND")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["shwo"], ["unknown command 'shwo'", "did you mean show?", "nofa data --help"]),
        (["show"], ["dir", "nofa data show --help"]),
        (["show", "no/such/set"], ["no data set at no/such/set"]),
        (["check", "no/such/set"], ["no data set at no/such/set"]),
        (["show", "set", "--recrod=1"], ["--recrod", "did you mean --record?"]),
    ],
)
def test_mistakes_in_a_group_are_one_line_and_exit_2(
    capsys: pytest.CaptureFixture, argv: list[str], words: list[str]
) -> None:
    assert _exit_code("data", *argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    for word in ("error: ", *words):
        assert word in err


def test_overviews_import_nothing_heavy() -> None:
    code = (
        "import sys\nfrom nofa_jax.__main__ import dispatch\ndispatch(['--help'])\ndispatch(['data', '--help'])\n"
        "heavy = {'jax', 'flax', 'numpy', 'rich'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
