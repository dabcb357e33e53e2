"""The sources webdataset and huggingface."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jepa_core.data import CorruptSample, HuggingFaceSource, WebDatasetSource
from jepa_core.data.sources.webdataset import braces
from jepa_core.errors import UserError


def picture(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def write_shard(path: Path, numbers: range, labelled: bool = True) -> None:
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            members = {"png": picture(number)}
            if labelled:
                members["cls"] = str(number % 3).encode()
            for extension, content in members.items():
                member = tarfile.TarInfo(
                    f"set/sample.{extension}" if number < 0 else f"set/{number:03}.{extension}"
                )
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "cache"))
    (tmp_path / "shards").mkdir()
    for shard in range(3):
        write_shard(tmp_path / "shards" / f"train-{shard:03}.tar", range(shard * 10, shard * 10 + 10))
    write_shard(tmp_path / "shards" / "test.tar", range(100, 104))
    return tmp_path / "shards"


def source(path: str, **settings: object) -> WebDatasetSource:
    return WebDatasetSource(WebDatasetSource.Config(name="webdataset", path=path, **settings))


def red(samples, index: int) -> int:
    return int(np.asarray(samples[index][0])[0, 0, 0])


@pytest.mark.parametrize("pattern", ["train-{000..002}.tar", "train-*.tar", "train-{000,001,002}.tar"])
def test_shards_are_read_at_random(shards: Path, pattern: str) -> None:
    train = source(f"{shards}/{pattern}", val_share=0, test_share=0).split("train")
    assert len(train) == 30
    assert train.classes == ["0", "1", "2"]
    for index in (29, 0, 14):
        assert (red(train, index), train[index][1]) == (index, index % 3)


def test_shards_split_by_path_or_by_holding_out(shards: Path) -> None:
    made = source(f"{shards}/train-*.tar", test_path=f"{shards}/test.tar")
    assert [red(made.split("test"), index) for index in range(4)] == [100, 101, 102, 103]
    train, val = made.split("train"), made.split("val")
    assert (len(train), len(val)) == (27, 3)
    values = {red(part, index) for part in (train, val) for index in range(len(part))}
    assert values == set(range(30))


def test_the_index_is_built_once_and_again_when_the_shard_changes(shards: Path, monkeypatch) -> None:
    from jepa_core.data.sources import webdataset as module

    built: list[Path] = []
    build = module.build_index
    monkeypatch.setattr(module, "build_index", lambda file: (built.append(file), build(file))[1])
    path = shards / "test.tar"
    for _ in range(2):
        assert len(source(str(path)).load("train")) == 4
    assert built == [path]
    write_shard(path, range(7), labelled=False)
    again = source(str(path)).load("train")
    assert (len(again), again.classes, again[2][1]) == (7, None, -1)


def test_shards_written_by_webdataset_itself(tmp_path: Path, monkeypatch) -> None:
    webdataset = pytest.importorskip("webdataset")
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "cache"))
    with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
        for number in range(5):
            writer.write(
                {"__key__": f"a.b/{number}", "seg.jpg": picture(9), "png": picture(number), "cls": number}
            )
    samples = source(str(tmp_path)).load("train")
    assert [samples[i][1] for i in range(5)] == list(range(5))


def test_a_corrupt_member_and_bad_shards_are_named(shards: Path) -> None:
    path = shards / "test.tar"
    content = bytearray(path.read_bytes())
    content[512:520] = b"________"
    path.write_bytes(content)
    with pytest.raises(CorruptSample, match=r"test\.tar!set/100: not an image"):
        source(str(path)).load("train")[0]
    (shards / "bad.tar").write_bytes(b"no tar" * 500)
    with pytest.raises(UserError, match=r"bad\.tar' is not a whole, uncompressed tar file"):
        source(f"{shards}/bad.tar").load("train")
    with pytest.raises(UserError, match=r"1 of 4 do not exist, such as '.*train-003\.tar'"):
        source(f"{shards}/train-{{000..003}}.tar").load("train")
    with pytest.raises(UserError, match="only local files can be read at random"):
        source("https://host/train.tar").load("train")


def test_braces() -> None:
    assert list(braces("a{08..10}b")) == ["a08b", "a09b", "a10b"]
    assert list(braces("{x,y}/{0..1}.tar")) == ["x/0.tar", "x/1.tar", "y/0.tar", "y/1.tar"]


def test_huggingface_from_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "fine": datasets.ClassLabel(names=["a", "b"])})
    rows = {
        "img": [
            {"bytes": picture(number) if number != 4 else b"no image", "path": None} for number in range(20)
        ],
        "fine": [number % 2 for number in range(20)],
    }
    data = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": data, "validation": data.select(range(6))}).save_to_disk(
        tmp_path / "saved"
    )
    made = HuggingFaceSource(
        HuggingFaceSource.Config(name="huggingface", path=str(tmp_path / "saved"), test_share=0)
    )
    train = made.split("train")
    assert (len(train), train.classes, len(made.split("val"))) == (20, ["a", "b"], 6)
    assert (red(train, 7), train[7][1]) == (7, 1)
    with pytest.raises(CorruptSample, match=r"row 4 of Hugging Face .*: not an image"):
        train[4]
    misspelt = HuggingFaceSource(
        HuggingFaceSource.Config(name="huggingface", path=str(tmp_path / "saved"), label_column="fien")
    )
    with pytest.raises(UserError, match=r"unknown column 'fien'; known: fine, img\. Did you mean 'fine'"):
        misspelt.split("val")


def test_huggingface_without_its_package_says_how_to_install_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package datasets: pip install 'jepa-core\[data\]'"):
        HuggingFaceSource(HuggingFaceSource.Config(name="huggingface", path="any/where")).split("train")
