"""MNIST: published files are read or refused for what is wrong with them, and where they lie decides nothing."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import json
import re
import shutil
import struct
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from blackprop import errors
from blackprop.cli import _main as cli
from blackprop.experiments import FrozenReference, Hardware, Mnist, OracleReference, Trial
from blackprop.experiments.engine._callbacks import Callbacks
from blackprop.experiments.engine._training import Training
from blackprop.experiments.tasks import _data as data
from blackprop.experiments.tasks import _mnist as mnist
from blackprop.experiments.tasks._networks import DigitNetwork
from support import DATA

SMALL = Mnist(train_images=48, epochs=1, batch_size=16)
OPTIONS = ("--train-images", "48", "--epochs", "1", "--batch-size", "16", "--samples", "2")


def write_idx(path: Path, values: np.ndarray, zipped: bool = True) -> None:
    content = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    if zipped:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content, mtime=0))
    else:
        path.write_bytes(content)


def write(folder: Path, images: dict[str, tuple[np.ndarray, np.ndarray]], zipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, (x, y) in images.items():
        write_idx(folder / f"{split}-images-idx3-ubyte", x, zipped)
        write_idx(folder / f"{split}-labels-idx1-ubyte", y, zipped)
    return folder


def invented() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """60 images to train on and 30 to test; the first pixel numbers the image, the second is its label."""
    made, generator = {}, np.random.default_rng(0)
    for split, count in (("train", 60), ("t10k", 30)):
        x = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        y = generator.integers(0, 10, count, dtype=np.uint8)
        x[:, 0, 0], x[:, 0, 1] = np.arange(count), y
        made[split] = (x, y)
    return made


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "mnist", invented(), zipped=False)


class Server:
    """Serves a folder to this machine, and counts what it is asked."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        log = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_request(self, *_):
                log.append(self.path)

            def log_error(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The publisher, whose files are invented too, and a user's cache in place of the real one."""
    pooch = pytest.importorskip("pooch")
    origin = write(tmp_path / "origin", invented())
    serving = Server(origin)
    md5 = {name: hashlib.md5((origin / f"{name}.gz").read_bytes()).hexdigest() for name in mnist.PUBLISHED.md5}
    monkeypatch.setattr(mnist, "PUBLISHED", data.Published("mnist", serving.url, md5))
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setenv("no_proxy", "*")
    yield serving
    serving.close()


# What is read.


def test_the_images_are_scaled_flat_and_the_same_from_every_form_of_folder(folder, tmp_path):
    zipped = write(tmp_path / "zipped" / "mnist", invented())
    read = [replace(SMALL, data_dir=place).data() for place in (folder, tmp_path, zipped, zipped.parent)]
    (x, y), (x_test, y_test) = invented().values()
    for found in read:
        assert found.x_train.shape == (48, 784)
        assert found.x_train.dtype is torch.float32
        assert torch.equal(found.x_test, torch.tensor(x_test.reshape(30, 784) / np.float32(255)))
        assert torch.equal(found.y_test, torch.tensor(y_test, dtype=torch.int64))
        numbers = (found.x_train[:, 0] * 255).round().long()
        assert torch.equal(found.x_train, torch.tensor(x.reshape(60, 784) / np.float32(255))[numbers])
        assert torch.equal(found.y_train, torch.tensor(y).long()[numbers])
    assert float(read[0].x_test.max()) == 1


@pytest.mark.parametrize("end", ["", ".gz"])
def test_the_names_that_some_programs_unpack_to_are_known(folder, tmp_path, end):
    places = write(tmp_path / "other", invented()) if end else folder
    expected = replace(SMALL, data_dir=places).data()
    for path in sorted(places.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert {path.name for path in places.iterdir()} >= {f"train-images.idx3-ubyte{end}"}
    assert torch.equal(replace(SMALL, data_dir=places).data().x_train, expected.x_train)


def test_fewer_images_are_the_first_of_the_same_permutation(folder):
    few, all_of_them = (replace(SMALL, train_images=n, data_dir=folder).data() for n in (20, 60))
    assert torch.equal(few.x_train, all_of_them.x_train[:20])
    numbers = (all_of_them.x_train[:, 0] * 255).round()
    assert torch.equal(numbers.sort().values, torch.arange(60.0))
    assert not torch.equal(numbers, torch.arange(60.0))


@pytest.mark.parametrize(
    ("network", "devices", "linear"),
    [
        (DigitNetwork.PHYSICAL, [(784, 128), (128, 10)], []),
        (DigitNetwork.HYBRID, [(256, 256)], [(784, 256), (256, 10)]),
    ],
)
def test_the_networks_are_as_declared(network, devices, linear):
    places = []

    def place(d_in, d_out):
        places.append((d_in, d_out))
        return nn.Identity()

    before = torch.get_rng_state()
    model, again, other = (replace(SMALL, network=network).build(place, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert places == devices * 3
    layers = [module for module in model if isinstance(module, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == linear
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not layers or not torch.equal(layers[0].weight, next(other.parameters()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": 1}, "between 2 and 60000, got 1"),
        ({"train_images": 60_001}, "got 60001"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 1}, "batch_size"),
        ({"batch_size": 49}, "the 48 training images"),
        ({"lr": 0.0}, "lr"),
        ({"device_lr": float("nan")}, "device_lr"),
    ],
)
def test_wrong_settings_are_refused_in_the_words_of_the_caller(change, message):
    with pytest.raises(errors.ArgumentError, match=rf"`Mnist\(\w+=\.\.\.\)`.*{message}|{message}"):
        replace(SMALL, **change)


# What is refused: the file is named, and what is wrong with it.

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def _cut_in_the_header(path):
    path.write_bytes(path.read_bytes()[:7])


def _longer(path):
    path.write_bytes(path.read_bytes() + b"\0")


def _empty(path):
    path.write_bytes(b"")


def _page(path):
    path.write_text("<html>404</html>")


def _swapped(path):
    shutil.copy(path.with_name({IMAGES: LABELS, LABELS: IMAGES}[path.name]), path)


def _wide(path):
    write_idx(path, np.zeros((60, 28, 27), np.uint8), zipped=False)


def _none(path):
    write_idx(path, np.zeros((0, 28, 28), np.uint8), zipped=False)


def _few(path):
    write_idx(path, np.zeros(59, np.uint8), zipped=False)


def _ten(path):
    write_idx(path, np.full(60, 10, np.uint8), zipped=False)


def _zipped_and_cut(path):
    content = gzip.compress(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])


def _zipped_and_scratched(path):
    content = bytearray(gzip.compress(path.read_bytes()))
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _absent(path):
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "name", "what"),
    [
        (_cut, IMAGES, "47039 values, but its header specifies 60×28×28"),
        (_cut, LABELS, "59 values"),
        (_longer, LABELS, "61 values"),
        (_cut_in_the_header, IMAGES, "within its header of 16 bytes"),
        (_empty, IMAGES, "begins with no byte"),
        (_page, LABELS, "begins with 3c68746d, not 00000801"),
        (_swapped, IMAGES, "00000801, not 00000803"),
        (_swapped, LABELS, "00000803, not 00000801"),
        (_wide, IMAGES, "60×28×27"),
        (_none, IMAGES, "0×28×28"),
        (_few, LABELS, "59 labels for the 60 images"),
        (_ten, LABELS, "the label 10"),
        (_zipped_and_cut, IMAGES, "cannot be read"),
        (_zipped_and_scratched, IMAGES, "cannot be read"),
        (_absent, LABELS, "missing"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_missing_or_foreign_file_is_named(damage, name, what, folder):
    damage(folder / name)
    with pytest.raises(errors.DataError, match=re.escape(what)) as refusal:
        replace(SMALL, data_dir=folder).data()
    assert name in str(refusal.value)


def test_a_folder_that_is_not_there_or_holds_too_little_is_refused(folder, tmp_path):
    with pytest.raises(errors.DataError, match="nowhere` is not a folder"):
        replace(SMALL, data_dir=tmp_path / "nowhere").data()
    (tmp_path / "bare").mkdir()
    with pytest.raises(errors.DataError, match=r"bare/mnist holds all files.*train-images.*t10k-labels"):
        replace(SMALL, data_dir=tmp_path / "bare").data()
    with pytest.raises(errors.DataError, match="holds 60 images, but `--train-images` is 12000"):
        Mnist(data_dir=folder).data()


# The download.


def test_files_are_downloaded_once_checked_and_kept(server, tmp_path, capfd):
    first = SMALL.data()
    assert len(server.asked) == 4
    assert torch.equal(first.x_train, SMALL.data().x_train)
    assert torch.equal(first.x_train, replace(SMALL, data_dir=tmp_path / "origin").data().x_train)
    assert len(server.asked) == 4
    (tmp_path / "cache" / "blackprop" / "mnist" / f"{LABELS}.gz").write_bytes(b"scratched")
    SMALL.data()
    assert len(server.asked) == 5  # what was damaged is fetched again, alone
    assert capfd.readouterr() == ("", "")


def test_a_terminal_is_shown_the_progress(server, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    SMALL.data()
    assert f"{IMAGES}.gz" in capsys.readouterr().err


def test_a_download_of_another_content_is_refused_and_not_kept(server, tmp_path):
    (tmp_path / "origin" / f"{LABELS}.gz").write_bytes(b"a captive portal")
    with pytest.raises(errors.DataError, match=rf"{LABELS}\.gz is not in .*(?i:hash)"):
        SMALL.data()
    assert not (tmp_path / "cache" / "blackprop" / "mnist" / f"{LABELS}.gz").exists()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the command that the error gives is one of curl")
def test_without_a_network_the_error_tells_the_command_that_gets_the_files(server, tmp_path, monkeypatch, capsys):
    published = mnist.PUBLISHED
    with monkeypatch.context() as offline:
        offline.setattr(mnist, "PUBLISHED", replace(published, url="http://127.0.0.1:9/"))  # nobody listens there
        assert cli.main(["train", "mnist", *OPTIONS, "--run-dir", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "(no connection to 127.0.0.1)" in message
    assert not (tmp_path / "run").exists()
    command, option = re.findall("`(.*?)`", message)
    command = command.replace("http://127.0.0.1:9/", published.url)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, capture_output=True)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "mnist", *OPTIONS, *option.split(), "--method", "frozen"]) == 0


# The command line, and where the files lie.


@pytest.mark.parametrize("command", ["train", "compare", "price"])
def test_there_is_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "mnist", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(option in text for option in ("--train-images", "--data-dir", "--device-lr", "--network"))


def test_a_run_is_resumed_with_the_files_elsewhere(folder, tmp_path, capsys):
    command = ["compare", "mnist", *OPTIONS, "--seeds", "1", "--devices", "matrix", "--run-dir", str(tmp_path / "run")]
    assert cli.main([*command, "--data-dir", str(folder)]) == 0
    config = (tmp_path / "run" / "config.json").read_text()
    assert json.loads(config)["settings"]["train_images"] == 48
    assert "data_dir" not in config
    assert str(tmp_path) not in config
    folder.rename(tmp_path / "moved")
    first = capsys.readouterr().out
    assert cli.main([*command, "--data-dir", str(tmp_path / "moved"), "--resume"]) == 0
    assert capsys.readouterr().out in first
    assert replace(SMALL, data_dir=folder) == SMALL


def test_price_reads_the_data_and_spends_nothing(folder, capsys):
    options = ["--methods", "paper", "oracle", "--devices", "matrix", "--network", "hybrid"]
    assert cli.main(["price", "mnist", *OPTIONS, *options, "--data-dir", str(folder)]) == 0
    assert "mnist, one run of" in capsys.readouterr().out


# The real one.


@pytest.mark.skipif(not (DATA / "mnist.npz").exists(), reason="needs mnist.npz in the folder of real data")
def test_on_real_images_the_oracle_is_well_above_frozen(tmp_path):
    real = np.load(DATA / "mnist.npz")
    splits = {"train": ("x_train", "y_train", 2000), "t10k": ("x_test", "y_test", 1000)}
    write(tmp_path, {split: (real[x][:n], real[y][:n]) for split, (x, y, n) in splits.items()})
    task = Mnist(train_images=2000, batch_size=64, data_dir=tmp_path)
    found, accuracy = task.data(), {}
    for method in (OracleReference(), FrozenReference()):
        training = Training(Trial(task, method, Hardware.LIGHT_MODULATOR), found)
        while not training.done:
            training.run_segment(Callbacks())
        accuracy[method.name] = training.score
    assert accuracy["oracle"] > 0.85
    assert accuracy["frozen"] < accuracy["oracle"] - 0.2
