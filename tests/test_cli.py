"""The command line: help everywhere, errors in one line, an interrupted run that can be gone on with."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time

import pytest

import blackprop as bp
from blackprop._extras import install
from blackprop.cli import _main as cli
from blackprop_cli import COMMANDS

QUICK = ("--epochs", "1", "--batch-size", "718", "--samples", "2")


def code_of(arguments):
    """The exit code, however the command line ends."""
    try:
        return cli.main(arguments)
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize(
    "level",
    [
        *((), ("train",), ("train", "digits"), ("compare",), ("compare", "digits")),
        *(("price",), ("price", "digits"), ("check-device",), ("report",), ("compare", "reservoir")),
    ],
    ids=" ".join,
)
def test_there_is_help_at_every_level(level, capsys):
    assert code_of([*level, "--help"]) == 0
    text = capsys.readouterr().out
    assert " ".join(("usage: blackprop", *level)) in text
    if "digits" in level:
        assert all(option in text for option in ("--network", "--epochs", "--rank", "--read-noise"))


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"blackprop {bp.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        (("train", "digits", "--device", "laser"), ("light-modulator", "diffraction")),
        (("train", "digits", "--method", "magic"), ("oracle", "frozen", "paper")),
        (("compare", "digits", "--methods", "magic"), ("oracle", "frozen", "paper")),
        (("train", "digits", "--network", "huge"), ("physical", "hybrid")),
        (("train", "letters"), ("digits",)),
        (("trian",), ("train", "compare", "price", "check-device")),
    ],
)
def test_an_unknown_name_lists_what_there_is(arguments, choices, capsys):
    assert code_of(arguments) == 2
    text = capsys.readouterr().err
    assert all(choice in text for choice in choices)


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("trian", "digits"), "did you mean train?"),
        (("compare", "digist"), "did you mean digits?"),
        (("compare", "digits", "--methods", "oracle", "papr"), "did you mean paper?"),
        (("train", "digits", "--device", "micro-rings"), "did you mean microring or "),
        (("compare", "reservoir", "--devices", "ehco-state"), "did you mean echo-state?"),
        (("compare", "reservoir", "--tasks", "narma"), "did you mean narma10?"),
        (("compare", "digits", "--metod", "paper"), "did you mean --methods?"),
        (("serve", "--kyes", "x"), "did you mean --keys?"),
        (("report", "--outptu", "x"), "did you mean --output?"),
        (("train", "digits", "matrix"), "`blackprop train digits` takes no argument 'matrix'"),
        (("train", "--epochs", "3"), "the task comes first"),
        (("train", "digits", "--devices", "matrix", "monarch"), "`train` takes one device"),
        (("train", "digits", "--seeds", "3"), "--seed, the number of one seed"),
        (("compare", "digits", "--seed", "3"), "--seeds, how many"),
    ],
)
def test_what_was_meant_is_said_in_one_line(arguments, meant, capsys):
    assert code_of(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("blackprop: ")
    assert err.count("\n") == 1
    assert meant in err


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        (("characterize", "m:f"), ("characterise", "m:f")),
        (("compare", "CIFAR-10", "--device=MZIMesh"), ("compare", "cifar10", "--devices=mzi-mesh")),
        (("train", "Speech_Digits", "--methods", "Memory_Row"), ("train", "speech-digits", "--method", "memory-row")),
        (
            ("price", "digits", "--device", "LightModulator", "MRR"),
            ("price", "digits", "--devices", "light-modulator", "microring"),
        ),
        (
            ("sweep", "text", "--method", "paper", "--data-dir", "Paper"),
            ("sweep", "text", "--methods", "paper", "--data-dir", "Paper"),
        ),
        (
            ("train", "digits", "--device", "matrix", "--lr", "-1"),
            ("train", "digits", "--device", "matrix", "--lr", "-1"),
        ),
    ],
)
def test_names_are_understood_in_any_spelling_and_number(given, understood):
    assert tuple(cli.understood(list(given))) == understood


def test_python_runs_the_package_as_the_command():
    told = subprocess.run([sys.executable, "-m", "blackprop", "trian"], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "did you mean train?" in told.stderr


def test_version_help_and_a_wrong_command_are_told_without_pytorch():
    program = (
        "import sys, blackprop_cli as b\n"
        "print([b.answered([each]) for each in ('--version', '-V', '--help', 'trian')], 'torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert told.endswith("[0, 0, 0, 2] False\n")
    assert all(f"\n  {name} " in told for name in COMMANDS)


def test_options_are_told_under_headings_that_say_what_they_are_of(capsys):
    assert code_of(["train", "digits", "--help"]) == 0
    text = capsys.readouterr().out
    assert "method options" in text
    assert "options options" not in text


@pytest.mark.parametrize("lacking", ["tyro", "rich"])
def test_without_its_extra_the_command_says_how_it_is_installed_from_here(lacking):
    program = (
        f"import sys; sys.modules[{lacking!r}] = None; import blackprop_cli; blackprop_cli.main(['train', 'digits'])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert told.stderr == f"blackprop: the command line needs {lacking}: {install('recipes')}\n"


@pytest.mark.parametrize(
    ("direct", "command"),
    [
        ({"url": "file://HERE", "dir_info": {"editable": True}}, "pip install -e '{}[lab]'"),
        ({"url": "file://HERE", "dir_info": {}}, "pip install '{}[lab]'"),
        ({"url": "file://HERE/gone", "dir_info": {}}, "pip install '.[lab]' in a checkout of blackprop"),
        (None, "pip install '.[lab]' in a checkout of blackprop"),
    ],
)
def test_an_extra_is_installed_from_where_the_library_came(direct, command, tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    told = json.dumps(direct).replace("HERE", str(tmp_path)) if direct else None

    class Installed:
        def read_text(self, name):
            return told if name == "direct_url.json" else ""

    monkeypatch.setattr("importlib.metadata.distribution", lambda _: Installed())
    assert install("lab") == command.format(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "digits", "--epochs", "0"), "`Digits(epochs=...)` must be at least 1, got 0"),
        (("train", "digits", "--method", "paper", "--samples", "0"), "`Paper(samples=...)` must be at least 1"),
        (("train", "digits", "--read-noise", "-1"), "must not be negative"),
        (("train", "digits", "--threads", "0"), "--threads"),
        (("train", "digits", "--resume"), "--run-dir"),
        (("train", "digits", "--resume", "--overwrite", "--run-dir", "x"), "contradict"),
        (("train", "digits", "--resume", "--run-dir", "nowhere"), "no run in nowhere"),
        (("train", "digits", "--device", "monarch", "--method", "twin"), "no physical twin"),
        (("compare", "digits", "--seeds", "0"), "seeds"),
        (("check-device", "nonsense"), "package.module:factory"),
        (("check-device", "no_such_module:make"), "no_such_module"),
        (("check-device", "json:no_such_name"), "no_such_name"),
        (("check-device", "builtins:dict"), "not a `blackprop.Device`"),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing_behind(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("blackprop: ")
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


def test_train_prints_its_result_and_keeps_its_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        cli.main(
            [
                "train",
                "digits",
                *QUICK,
                "--network",
                "hybrid",
                "--device",
                "microring",
                "--seed",
                "4",
                "--method",
                "paper",
            ]
        )
        == 0
    )
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("digits-")
    (result,) = json.loads((folder / "summary.json").read_text())["results"]
    assert (result["method"], result["device"], result["seed"]) == ("paper", "microring", 4)
    out = capsys.readouterr().out
    assert f"run folder: runs/{folder.name}" in out
    assert f"accuracy {result['accuracy']:.1%}" in out


def test_compare_always_has_both_references_and_a_folder_is_refused_or_resumed(capsys, tmp_path):
    command = ["compare", "digits", *QUICK, "--methods", "paper", "--devices", "matrix", "monarch", "--seeds", "2"]
    command += ["--read-noise", "0.01", "--run-dir", str(tmp_path / "run")]
    assert cli.main(command) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {r["method"] for r in summary["results"]} == {"oracle", "frozen", "paper"}
    assert len(summary["results"]) == 2 * 2 * 3
    assert json.loads((tmp_path / "run" / "config.json").read_text())["imperfections"]["read_noise"] == 0.01
    first = capsys.readouterr().out
    assert "monarch" in first
    assert cli.main(command) == 2
    assert "already exists" in capsys.readouterr().err
    assert cli.main([*command, "--resume"]) == 0
    again = capsys.readouterr().out
    assert again in first  # the same table, and no run
    assert "seed 0" not in again


def test_price_spends_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["price", "digits", "--samples", "3", "--methods", "paper", "oracle", "--devices", "matrix"]) == 0
    out = capsys.readouterr().out
    assert "matrix" in out
    assert f"{2 * 440 * 3:,}" in out
    assert not list(tmp_path.iterdir())


DEVICES = """
import blackprop as bp

def honest():
    return bp.devices.LightModulator(4, 3)

class Liar(bp.Device):
    def program(self, theta):
        self._theta = theta.clone()

    def read(self, x):
        return (x * (self._theta + 1)).abs()

def liar():
    return Liar(4, 4, 4, linear=True)
"""


def test_check_device_takes_a_factory_from_the_present_folder(capsys, tmp_path, monkeypatch):
    (tmp_path / "bench_of_mine.py").write_text(DEVICES)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert cli.main(["check-device", "bench_of_mine:honest"]) == 0
    assert "LightModulator" in capsys.readouterr().out
    assert cli.main(["check-device", "bench_of_mine:liar"]) == 2
    assert capsys.readouterr().err.startswith("blackprop: ")
    assert sys.path == path


def test_ctrl_c_leaves_a_run_that_the_printed_command_goes_on_with(tmp_path):
    # A method so slow that the run is not over before it is seen to have begun.
    method = ["--method", "paper", "--samples", "100", "--epochs", "12"]
    options = ["train", "digits", *method, "--overwrite", f"--run-dir={tmp_path / 'a run'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "blackprop.cli._main", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics, deadline = tmp_path / "a run" / "metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert {p.name for p in metrics.parent.iterdir()} == {
        "config.json",
        "origin.json",
        "metrics.jsonl",
        "checkpoint.bin",
        "checkpoint.previous.bin",
        "summary.json",
        "status.json",
        "live.jsonl",
    }
    assert json.loads((metrics.parent / "summary.json").read_text())["results"] == []
    command = shlex.split(err.splitlines()[-1])
    assert command == ["blackprop", *options[:-2], "--run-dir", str(metrics.parent), "--resume"]
    assert cli.main(command[1:]) == 0
    assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == list(range(1, 13))


@pytest.mark.parametrize(
    ("options", "epochs", "lr"),
    [
        (["cifar10"], 8, 3e-2),
        (["cifar10", "--network", "cnn", "--size", "published"], 50, 1e-3),
        (["cifar10", "--network", "airbench", "--size", "published", "--epochs", "3"], 3, 18.0),
        (["urbansound8k", "--size", "published"], 50, 1e-3),
        (["speech-digits"], 6, 3e-3),
    ],
)
def test_what_is_not_given_is_that_of_the_size_and_network_that_are(options, epochs, lr):
    command = cli._parse(["train", *options])
    assert (command.task.epochs, command.task.lr) == (epochs, lr)


def test_where_a_data_set_is_to_be_got_by_hand_the_message_says_how(tmp_path, capsys):
    for task, word in (
        ("esc10", "ESC-50"),
        ("urbansound8k", "zenodo"),
        ("speech-digits", "recordings"),
        ("text", "curl"),
    ):
        assert cli.main(["train", task, "--run-dir", str(tmp_path / task)]) == 2
        assert word in capsys.readouterr().err
        assert not (tmp_path / task).exists()


def test_a_report_is_written_and_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    run = ["train", "digits", "--epochs", "1", "--batch-size", "718", "--run-dir", str(tmp_path / "run")]
    assert cli.main(run) == 0
    assert cli.main(["report", str(tmp_path / "run"), "--output", str(tmp_path / "page.html")]) == 0
    assert "light-modulator" in (tmp_path / "page.html").read_text()
    capsys.readouterr()
    assert cli.main(["report", str(tmp_path), "--output", str(tmp_path / "none.html")]) == 2
    assert not (tmp_path / "none.html").exists()


LAB = """
import torch, blackprop as bp

def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(bp.PhysicalLayer(bp.devices.Matrix(4, 3)))

def chip():
    return bp.devices.Declared(bp.devices.as_built(bp.devices.Matrix(4, 3), spread=0.1), linear=True)

def rows():
    return torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
"""


def test_deploy_writes_a_folder_that_the_library_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_lab.py").write_text(LAB)
    assert code_of(["deploy", "own_lab:model", "own_lab:chip", "--data", "own_lab:rows", "--output", "chip"]) == 0
    told = capsys.readouterr().out
    assert "ports" in told
    assert "chip" in told
    made = bp.deployment.load("chip", sys.modules["own_lab"].model(), sys.modules["own_lab"].chip())
    assert made[0].device.in_shape == (4,)
    assert code_of(["deploy", "own_lab:chip", "own_lab:chip"]) == 2
    assert "not a torch module" in capsys.readouterr().err
    assert code_of(["deploy", "own_lab:model", "own_lab:chip", "--rows", "3"]) == 2
    sys.modules.pop("own_lab")
