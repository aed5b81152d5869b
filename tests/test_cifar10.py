"""CIFAR-10: the published files and archive, what is wrong with others, and the settings."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import struct
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from blackprop import errors
from blackprop.experiments import Cifar10
from blackprop.experiments.tasks import _data as data
from blackprop.experiments.tasks._task import Size
from blackprop.experiments.tasks.vision import _cifar10 as cifar10
from blackprop.experiments.tasks.vision._cifar10 import Vision
from cifar10_files import CLASSES, FEW, TRAINS, images, write


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "cifar10" / "cifar-10-batches-py")


# What is read.


def test_the_images_are_the_published_bytes_in_the_same_order_from_every_form_of_folder(folder, tmp_path):
    places = (folder, tmp_path / "cifar10", tmp_path)
    found = [Cifar10(**FEW, data_dir=place).data() for place in places]
    x = torch.tensor(np.concatenate([images(10, seed) for seed in range(5)])).view(-1, 3, 32, 32)
    for read in found:
        assert read.x_train.dtype is torch.uint8
        numbers = read.x_train[:, 0, 0, 0].long()
        assert len(set(numbers.tolist())) == 40
        assert torch.equal(read.x_train, x[numbers])
        assert torch.equal(read.y_train, numbers % 10)
        assert torch.equal(read.x_test, torch.tensor(images(10, 5)).view(-1, 3, 32, 32))
        assert torch.equal(read.y_test, torch.arange(10))
        assert read.classes == tuple(name.decode() for name in CLASSES)
    few = Cifar10(**{**FEW, "train_images": 20}, data_dir=folder).data()
    assert torch.equal(few.x_train, found[0].x_train[:20])


def test_a_pickle_of_python_2_is_read_as_the_archive_has_it(folder):
    content, labels = images(2, 3), b"K\x04K\x07"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02M\x00\x0c\x86"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
    )
    array += struct.pack("<I", content.nbytes) + content.tobytes() + b"tb"
    (folder / "test_batch").write_bytes(b"\x80\x02}(U\x04data" + array + b"U\x06labels](" + labels + b"eu.")
    found = Cifar10(**FEW, data_dir=folder).data()
    assert torch.equal(found.x_test, torch.tensor(content).view(-1, 3, 32, 32))
    assert found.y_test.tolist() == [4, 7]


def test_a_pickle_that_would_run_something_is_refused_and_does_not(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "harm",)

    (folder / "test_batch").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(errors.DataError, match=r"test_batch cannot be read.*it uses pathlib"):
        Cifar10(**FEW, data_dir=folder).data()
    assert not (tmp_path / "harm").exists()


# What a hostile file may try with the names that an array needs, as opcodes. `%s` is the code of an element.
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
DTYPE = b"cnumpy\ndtype\n(U%c%sK\x00K\x01tR"
FLAGS = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK%ctb"
FILLED = b"(K\x01K\x01\x85h\x00\x89U\x08AAAAAAAAtb"  # one element of eight bytes, of the type in memo 0


def pointers(code):
    """A type with plain elements, an array of them filled with bytes, the same type again with elements that are
    counted references: freeing the array frees what the bytes point to.
    """
    kind = DTYPE % (len(code), code)
    return b"\x80\x02" + kind + b"q\x00" + FLAGS % 0 + b"0" + RECONSTRUCT + FILLED + b"h\x00" + FLAGS % 63 + b"\x86."


@pytest.mark.parametrize("code", [b"O8", b"O", b"|O", b"V8", b"i8", b"u1"])
def test_a_pickle_cannot_make_memory_of_its_bytes(code, folder):
    (folder / "test_batch").write_bytes(pointers(code))
    program = (
        "import sys; from pathlib import Path; from blackprop.errors import DataError\n"
        "from blackprop.experiments.tasks.vision._batches import read_batch\n"
        "try: read_batch(Path(sys.argv[1]), 10)\n"
        "except DataError as error: print('refused:', error)"
    )
    told = subprocess.run(  # apart: where it succeeds, it ends the process
        [sys.executable, "-c", program, str(folder / "test_batch")], capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stdout[:8]) == (0, "refused:"), told.stderr


@pytest.mark.parametrize(
    "program",
    [
        b"cnumpy\ndtype\n}U\x01aK\x01sb",  # the function's attributes
        b"cnumpy.core.multiarray\n_reconstruct\nN}U\x05_callNs\x86b",  # its slots
        RECONSTRUCT + b"N}U\x05bytesU\x04evils\x86b",  # those of a table
        b"cnumpy\nndarray\n)R",  # an array made without its contents
        b"cnumpy\nndarray\n)\x81",
        b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R",  # another codec
        DTYPE % (2, b"u1")
        + b"q\x00"
        + RECONSTRUCT
        + b"(K\x01J\xff\xff\xff\xffK\xf8\x86h\x00\x89U\x08AAAAAAAAtb",  # (-1, -8)
        DTYPE % (2, b"u1") + b"q\x00" + RECONSTRUCT + b"(K\x01K\x09\x85h\x00\x89U\x08AAAAAAAAtb",  # more than there is
    ],
)
def test_what_stands_for_numpy_in_a_pickle_is_closed(program, folder):
    (folder / "test_batch").write_bytes(b"\x80\x02}(U\x04data" + program + b"U\x06labels](K\x00eu.")
    with pytest.raises(errors.DataError, match="test_batch cannot be read"):
        Cifar10(**FEW, data_dir=folder).data()


def _batch(**changes):
    def damage(path):
        batch = {b"data": images(10, 0), b"labels": list(range(10))}
        for name, value in changes.items():
            batch[name.encode()] = value
        path.write_bytes(pickle.dumps({k: v for k, v in batch.items() if v is not None}, protocol=4))

    return damage


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def _empty(path):
    path.write_bytes(b"")


def _page(path):
    path.write_text("<html>404</html>")


def _list(path):
    path.write_bytes(pickle.dumps([1]))


def _nine(path):
    path.write_bytes(pickle.dumps({b"label_names": CLASSES[:9]}))


@pytest.mark.parametrize(
    ("damage", "name", "what"),
    [
        (_cut, "data_batch_3", "cannot be read; it is damaged or cut short"),
        (_empty, "test_batch", "cannot be read"),
        (_page, "data_batch_1", "cannot be read"),
        (_list, "data_batch_1", "holds a list"),
        (Path.unlink, "data_batch_4", "missing: data_batch_4"),
        (_batch(data=None), "data_batch_5", "no images"),
        (_batch(data=np.zeros((10, 3072))), "data_batch_5", "unsigned bytes"),
        (_batch(data=np.zeros((10, 3071), np.uint8)), "test_batch", "10 images of 3071 values"),
        (_batch(data=np.zeros((0, 3072), np.uint8)), "test_batch", "0 images"),
        (_batch(labels=None), "test_batch", "no list of class numbers"),
        (_batch(labels=list(range(9))), "data_batch_2", "9 labels for its 10 images"),
        (_batch(labels=[10] * 10), "data_batch_2", "the label 10"),
        (_batch(labels=[-1] * 10), "data_batch_2", "the label -1"),
        (_nine, "batches.meta", "must name 10 classes, got 9"),
        (_page, "batches.meta", "cannot be read"),
        (_list, "batches.meta", "holds a list"),
    ],
)
def test_a_damaged_missing_or_foreign_file_is_named(damage, name, what, folder):
    damage(folder / name)
    with pytest.raises(errors.DataError, match=re.escape(what)) as refusal:
        Cifar10(**FEW, data_dir=folder).data()
    assert name in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_too_few_images_and_no_folder_are_refused(folder, tmp_path):
    with pytest.raises(errors.DataError, match="hold 50 images, but `--train-images` is 51"):
        Cifar10(**{**FEW, "train_images": 51}, data_dir=folder).data()
    with pytest.raises(errors.DataError, match="nowhere` is not a folder"):
        Cifar10(data_dir=tmp_path / "nowhere").data()
    (tmp_path / "bare").mkdir()
    with pytest.raises(errors.DataError, match=r"bare/cifar10/cifar-10-batches-py holds all files.*data_batch_1"):
        Cifar10(data_dir=tmp_path / "bare").data()


# The download.


def packed(folder: Path, names: list[str], to: Path) -> str:
    """An archive of `names`, under the folder of the published one; its checksum."""
    with tarfile.open(to, "w:gz") as tar:
        for name in names:
            tar.add(folder / name, f"cifar-10-batches-py/{name}")
        harm = tarfile.TarInfo("../../escaped")
        harm.size = 1
        tar.addfile(harm, io.BytesIO(b"!"))
    return hashlib.md5(to.read_bytes()).hexdigest()


@pytest.fixture
def publisher(folder, tmp_path, monkeypatch):
    """Serves an archive of the folder from a file in place of the network; counts the downloads."""
    pooch = pytest.importorskip("pooch")
    archive = tmp_path / "origin.tar.gz"
    checksum = packed(folder, [*TRAINS, "test_batch", "batches.meta"], archive)
    asked = []

    class Downloader:
        def __init__(self, **_):
            pass

        def __call__(self, url, output_file, _):
            asked.append(url)
            Path(output_file).write_bytes(archive.read_bytes())

    monkeypatch.setattr(pooch, "HTTPDownloader", Downloader)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setattr(cifar10, "PUBLISHED", replace(cifar10.PUBLISHED, md5=checksum))
    cifar10._published.cache_clear()
    yield asked
    cifar10._published.cache_clear()


def test_the_archive_is_downloaded_once_checked_and_unpacked_into_the_cache_alone(publisher, folder, tmp_path):
    published = cifar10.PUBLISHED
    kept = tmp_path / "cache" / "blackprop" / "cifar10"
    assert torch.equal(Cifar10(**FEW).data().x_train, Cifar10(**FEW, data_dir=folder).data().x_train)
    assert published.files(None) == {name: kept / "cifar-10-batches-py" / name for name in published.names}
    assert publisher == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]
    assert sorted(p.name for p in kept.rglob("*") if p.is_file()) == sorted(
        ["cifar-10-python.tar.gz", *published.names]
    )
    assert not list(tmp_path.rglob("escaped"))
    (kept / "cifar-10-batches-py" / "test_batch").unlink()
    published.files(None)  # what is missing is unpacked again
    assert len(publisher) == 1
    (kept / "cifar-10-python.tar.gz").write_bytes(b"scratched")
    published.files(None)  # what is damaged is fetched again
    assert len(publisher) == 2


def test_an_archive_of_another_content_or_without_a_file_is_refused(publisher, folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(cifar10, "PUBLISHED", replace(cifar10.PUBLISHED, md5="0" * 32))
        with pytest.raises(errors.DataError, match=r"cannot be downloaded \(.*(?i:hash).*tar -xf.*--data-dir cifar10"):
            Cifar10(**FEW).data()
    checksum = packed(folder, TRAINS, tmp_path / "origin.tar.gz")
    monkeypatch.setattr(cifar10, "PUBLISHED", replace(cifar10.PUBLISHED, md5=checksum))
    with pytest.raises(errors.DataError, match="does not contain the file cifar-10-batches-py/test_batch"):
        Cifar10(**FEW).data()
    (tmp_path / "origin.tar.gz").write_bytes(b"no archive")
    checksum = hashlib.md5(b"no archive").hexdigest()
    no_archive = data.PublishedArchive("cifar10", "https://example.org/a.tar", checksum, "folder", ("file",))
    with pytest.raises(errors.DataError, match=r"a\.tar cannot be unpacked"):
        no_archive.files(None)


def test_the_published_archive_is_the_one_of_the_publisher():
    assert cifar10.PUBLISHED.md5 == "c58f30108f718f92721af3b95e74349a"
    assert cifar10.PUBLISHED.names == (*TRAINS, "test_batch", "batches.meta")


# The settings.


def test_what_is_given_wins_over_the_preset():
    assert (Cifar10(Vision.CNN, Size.PUBLISHED).epochs, Cifar10(Vision.CNN).epochs) == (50, 8)
    task = Cifar10(Vision.AIRBENCH, Size.PUBLISHED, epochs=7)
    assert (task.train_images, task.epochs, task.batch_size, task.lr, task.device_lr) == (50_000, 7, 1024, 18.0, 1e-2)
    assert task.steps(50_000) == 7 * 48 == 7 * task.segment(50_000)
    assert replace(task, data_dir=Path("elsewhere")) == task


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": 1}, "between 2 and 50000, got 1"),
        ({"train_images": 50_001}, "got 50001"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 1}, "batch_size"),
        ({"batch_size": 41}, "the 40 training images"),
        ({"lr": 0.0}, "lr"),
        ({"device_lr": float("inf")}, "device_lr"),
    ],
)
def test_wrong_settings_are_refused_in_the_words_of_the_caller(change, message):
    with pytest.raises(errors.ArgumentError, match=rf"`Cifar10\(\w+=\.\.\.\)`.*{message}|{message}"):
        Cifar10(**{**FEW, **change})
