"""Captions beside images: text files, tables, columns, shards."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jepa_core import Sample, UserError
from jepa_core.data import CorruptSample, FolderSource, WebDatasetSource
from jepa_core.data.captions import FIELDS


def write_images(folder: Path, count: int = 6) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / name)
    return names


def folder_source(path: Path, captions: str | None) -> FolderSource:
    config = FolderSource.Config(name="folder", path=path, captions=captions, val_share=0, test_share=0)
    return FolderSource(config)


def captions_of(source: FolderSource | WebDatasetSource) -> list[tuple[int, str]]:
    samples = source.split("train")
    result = []
    for index in range(len(samples)):
        sample = samples[index]
        assert isinstance(sample, Sample)
        result.append((np.asarray(sample.views["image"])[0, 0, 0].item(), sample.views["caption"]))
    return result


def test_text_files_beside_the_images(tmp_path: Path) -> None:
    for name in write_images(tmp_path):
        (tmp_path / name).with_suffix(".txt").write_text(f"number {name[0]}\n", encoding="utf-8")
    source = folder_source(tmp_path, "txt")
    assert source.fields() == FIELDS
    assert captions_of(source) == [(number, f"number {number}") for number in range(6)]
    (tmp_path / "3.txt").unlink()
    with pytest.raises(CorruptSample, match=r"3.txt: No such file"):
        source.split("train")[3]


@pytest.mark.parametrize("name", ["captions.jsonl", "captions.csv", "captions.tsv"])
def test_a_table_in_the_folder(tmp_path: Path, name: str) -> None:
    write_images(tmp_path)
    rows = [("2.png", 'two, "quoted"'), ("0.png", "zero"), ("2.png", "zwei")]
    if name.endswith("jsonl"):
        lines = [json.dumps({"file": file, "caption": text}) for file, text in rows]
    else:
        mark = "\t" if name.endswith("tsv") else ","
        lines = [
            f"file{mark}caption",
            *(f'{file}{mark}"{text.replace(chr(34), chr(34) * 2)}"' for file, text in rows),
        ]
    (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    assert captions_of(folder_source(tmp_path, name)) == [(2, 'two, "quoted"'), (0, "zero"), (2, "zwei")]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"file": "0.png"}', "line 1: expected a file and a caption; got {'file': '0.png'}"),
        ('{"file": "0.png", "caption": " "}', "line 1: expected a file and a caption"),
        ('{"file": "9.png", "caption": "nine"}', "line 1: there is no image '9.png'"),
        ("no json", "line 1: expected a file and a caption; got no json"),
        ("", "has captions of no image"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(tmp_path: Path, text: str, what: str) -> None:
    write_images(tmp_path)
    (tmp_path / "captions.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        folder_source(tmp_path, "captions.jsonl").split("train")
    assert what in str(error.value)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    write_images(tmp_path)
    with pytest.raises(UserError, match=r"captions.csv' cannot be read: No such file"):
        folder_source(tmp_path, "captions.csv").split("train")
    (tmp_path / "captions.xml").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="expected an extension of files beside the images, such as"):
        folder_source(tmp_path, "captions.xml").split("train")


def test_without_captions_a_folder_is_as_ever(tmp_path: Path) -> None:
    write_images(tmp_path)
    source = folder_source(tmp_path, None)
    assert source.fields() is None
    assert isinstance(source.split("train")[0], tuple)


def test_captions_in_shards(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(4):
            pixels = io.BytesIO()
            Image.new("RGB", (8, 8), (number, 0, 0)).save(pixels, "png")
            entries = {"png": pixels.getvalue(), "txt": f"shard number {number}".encode()}
            if number == 3:
                del entries["txt"]
            for extension, content in entries.items():
                info = tarfile.TarInfo(f"{number:03d}.{extension}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    config = WebDatasetSource.Config(
        name="webdataset", path=str(tmp_path / "a.tar"), captions=True, val_share=0, test_share=0
    )
    samples = WebDatasetSource(config).split("train")
    for number in range(3):
        sample = samples[number]
        assert isinstance(sample, Sample)
        assert sample.views["caption"] == f"shard number {number}"
        assert np.asarray(sample.views["image"])[0, 0, 0] == number
    with pytest.raises(CorruptSample, match=r"003.txt: there is no caption"):
        samples[3]


def test_shards_without_captions(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        pixels = io.BytesIO()
        Image.new("RGB", (8, 8)).save(pixels, "png")
        info = tarfile.TarInfo("0.png")
        info.size = len(pixels.getvalue())
        archive.addfile(info, io.BytesIO(pixels.getvalue()))
    config = WebDatasetSource.Config(name="webdataset", path=str(tmp_path / "a.tar"), captions=True)
    with pytest.raises(UserError, match=r"no captions \(KEY.txt\) in the 1 shards"):
        WebDatasetSource(config).split("train")
