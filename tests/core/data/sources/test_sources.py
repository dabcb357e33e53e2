"""The sources folder, npz and torchvision: what they find, how they split, what they say when it is wrong."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_core.builtin import jepa_data
from jepa_core.data import FolderSource, NpzSource, TorchvisionSource, eval_loader
from jepa_core.data.splits import HeldOutSettings, hold_out
from jepa_core.errors import UserError
from jepa_core.settings import SourceSettings, TransformSettings, parse


def write(path: Path, colour: tuple[int, int, int] = (1, 2, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), colour).save(path)


def folder(path: Path, **settings: object) -> FolderSource:
    return FolderSource(FolderSource.Config(name="folder", path=path, **settings))


def torchvision(**settings: object) -> TorchvisionSource:
    return TorchvisionSource(TorchvisionSource.Config(name="torchvision", **settings))


def labelled(samples) -> list[tuple[str, int]]:
    return [(key, samples[i][1]) for i, key in enumerate(samples.keys())]


def test_every_source_nests_settings_that_say_what_they_mean() -> None:
    for name, source in jepa_data().items():
        assert issubclass(source.Config, SourceSettings), name
        assert all(field.description for field in source.Config.model_fields.values()), name


def test_folder_reads_its_own_splits_at_any_depth_and_in_any_case(tmp_path: Path) -> None:
    for name in ("train/cat/a.PNG", "train/cat/deep/er/b.jpeg", "train/dog/c.png", "train/.hidden/x.png"):
        write(tmp_path / name)
    write(tmp_path / "valid/dog/v.png")
    write(tmp_path / "test/cat/t.png")
    (tmp_path / "train/dog/readme.txt").write_text("no image")
    source = folder(tmp_path)
    train = source.split("train")
    assert train.classes == ["cat", "dog"]
    assert labelled(train) == [("cat/a.PNG", 0), ("cat/deep/er/b.jpeg", 0), ("dog/c.png", 1)]
    assert labelled(source.split("val")) == [("dog/v.png", 1)]
    assert labelled(source.split("test")) == [("cat/t.png", 0)]
    image, _ = train[0]
    assert (image.mode, image.size) == ("RGB", (6, 5))


def test_folder_of_class_folders_holds_out_what_is_missing(tmp_path: Path, caplog) -> None:
    for number in range(40):
        write(tmp_path / f"{'ab'[number % 2]}/{number}.png")
    source = folder(tmp_path, val_share=0.2, test_share=0.1)
    with caplog.at_level(logging.INFO, logger="jepa"):
        parts = {name: set(source.split(name).keys()) for name in ("train", "val", "test")}
    assert {name: len(part) for name, part in parts.items()} == {"train": 28, "val": 8, "test": 4}
    assert len(parts["train"] | parts["val"] | parts["test"]) == 40
    assert "val and test held out from training (test 4, train 28, val 8)" in caplog.text
    assert source.split("val").keys() == folder(tmp_path, val_share=0.2).split("val").keys()
    assert set(folder(tmp_path, val_share=0.2, split_seed=1).split("val").keys()) != parts["val"]


def test_only_the_missing_split_is_held_out(tmp_path: Path) -> None:
    for number in range(10):
        write(tmp_path / f"train/{'ab'[number % 2]}/{number}.png")
        write(tmp_path / f"val/{'ab'[number % 2]}/v{number}.png")
    source = folder(tmp_path)
    assert [len(source.split(name)) for name in ("train", "val", "test")] == [9, 10, 1]
    whole = folder(tmp_path, test_share=0)
    assert len(whole.split("train")) == 10
    with pytest.raises(UserError, match=r"no split 'test', and data\.test_share is 0"):
        whole.split("test")


def test_just_images_have_no_labels(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"{number}.png")
    write(tmp_path / "album/5.png")
    samples = folder(tmp_path, val_share=0, test_share=0).split("train")
    assert samples.classes is None
    assert [samples[i][1] for i in range(5)] == [-1] * 5


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    write(tmp_path / "store/a/1.png")
    write(tmp_path / "data/b/2.png")
    (tmp_path / "data/a").symlink_to(tmp_path / "store/a")
    (tmp_path / "data/b/loop").symlink_to(tmp_path / "data")
    samples = folder(tmp_path / "data", val_share=0, test_share=0).split("train")
    assert samples.keys() == ["a/1.png", "b/2.png"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "data.path '{path}' does not exist"),
        (lambda path: path.write_text(""), "data.path '{path}' is a file; expected a folder of images"),
        (lambda path: path.mkdir(), "data.path: the folder '{path}' is empty"),
        (
            lambda path: (path.mkdir(), (path / "notes.txt").write_text("")),
            "data.path: no images in '{path}' (entries: 1, such as 'notes.txt'); known extensions: .bmp",
        ),
        (lambda path: write(path / "one.png"), "too few images (1) to hold out val and test from"),
    ],
)
def test_folder_says_what_is_wrong(tmp_path: Path, make, message: str) -> None:
    path = tmp_path / "images"
    make(path)
    with pytest.raises(UserError) as caught:
        folder(path).split("train")
    assert message.format(path=path) in str(caught.value)


def test_a_class_that_training_does_not_have_is_named(tmp_path: Path) -> None:
    for name in ("train/cat/a.png", "train/dog/b.png", "test/dgo/c.png"):
        write(tmp_path / name)
    with pytest.raises(
        UserError, match=r"unknown class folder in .*'dgo'; known: cat, dog\. Did you mean 'dog'"
    ):
        folder(tmp_path).split("test")


def test_an_unknown_split_and_shares_that_leave_nothing_are_errors(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"unknown split 'valid'; known: test, train, val\. Did you mean 'val'"
    ):
        folder(tmp_path).split("valid")
    with pytest.raises(UserError, match=r"expected val_share \+ test_share below 1"):
        parse(HeldOutSettings, {"name": "x", "val_share": 0.6, "test_share": 0.4}, "data")


def test_holding_out_is_stable_when_samples_are_added() -> None:
    keys = [f"image-{number}" for number in range(1000)]
    before, after = (hold_out(keys[:count], {"val": 0.1}, 0)["val"] for count in (950, 1000))
    assert (len(before), len(after)) == (95, 100)
    assert len(set(before.tolist()) & set(after.tolist())) >= 85


def save(path: Path, **arrays: np.ndarray) -> NpzSource:
    np.savez(path, **arrays)
    return NpzSource(NpzSource.Config(name="npz", path=path))


def test_npz_in_the_layout_of_medmnist(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 5, 4), dtype=np.uint8)
    source = save(
        tmp_path / "grey.npz",
        **{f"{part}_images": images for part in ("train", "val", "test")},
        **{f"{part}_labels": np.arange(12)[:, None] % 3 for part in ("train", "val", "test")},
    )
    train = source.split("train")
    pixels, labels = train.tensors()
    assert pixels.shape == (12, 3, 5, 4)
    for channel in range(3):
        assert np.array_equal(pixels[:, channel].numpy(), images)
    assert labels.tolist() == [0, 1, 2] * 4
    assert train.classes == ["0", "1", "2"]
    assert torch.equal(train[4][0], pixels[4])


def test_npz_of_one_array_is_split_and_may_have_no_labels(tmp_path: Path) -> None:
    images = np.arange(20 * 2 * 2 * 3, dtype=np.uint8).reshape(20, 2, 2, 3)
    source = save(tmp_path / "plain.npz", images=images)
    parts = [source.split(name).tensors() for name in ("train", "val", "test")]
    assert [len(pixels) for pixels, _ in parts] == [16, 2, 2]
    everything = torch.cat([pixels for pixels, _ in parts]).permute(0, 2, 3, 1).flatten(1)
    assert sorted(everything.tolist()) == sorted(images.reshape(20, -1).tolist())
    assert source.split("train").classes is None


IMAGES = np.zeros((2, 4, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": IMAGES}, "no array 'images' or 'train_images'; arrays in it: x"),
        ({"images": IMAGES / 255}, r"array 'images' of .*bad\.npz is float64; expected uint8"),
        ({"images": IMAGES[0, 0]}, r"is \[4, 3\]; expected \[n, h, w\]"),
        ({"images": IMAGES[:0]}, "it holds no images"),
        (
            {"images": IMAGES, "labels": np.zeros(3, int)},
            r"'labels' of .* is \[3\]; expected one label for each of 2",
        ),
        (
            {"images": IMAGES, "labels": np.zeros((2, 5), int)},
            r"'labels' of .* is \[2, 5\]; expected one label",
        ),
        ({"images": IMAGES, "labels": np.zeros(2)}, "'labels' of .* is float64; expected whole numbers"),
    ],
)
def test_npz_says_what_is_wrong_with_an_array(tmp_path: Path, arrays: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        save(tmp_path / "bad.npz", **arrays).load("train") if "x" not in arrays else save(
            tmp_path / "bad.npz", **arrays
        ).split("train")


def test_npz_says_what_is_wrong_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no zip")
    for name, message in (
        ("text.npz", "is not a .npz file"),
        ("gone.npz", "does not exist"),
        (".", "is a folder"),
    ):
        with pytest.raises(UserError, match=message):
            NpzSource(NpzSource.Config(name="npz", path=tmp_path / name)).split("train")


def test_torchvision_fake_data_is_held_out_and_deterministic() -> None:
    options = {"size": 20, "image_size": (3, 8, 8), "num_classes": 4}
    source = torchvision(dataset="FakeData", options=options)
    train, val = source.split("train"), source.split("val")
    assert (len(train), len(val), train.classes) == (16, 2, ["0", "1", "2", "3"])
    image, label = train[3]
    assert image.mode == "RGB"
    assert 0 <= label < 4
    first, again = (next(iter(eval_loader(val, TransformSettings(), (3, 8, 8), 2)))[0] for _ in range(2))
    assert torch.equal(first, again)


def test_torchvision_arrays_are_taken_into_memory(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 10), ("t10k", 4)):
        pixels = np.full((count, 28, 28), 7, dtype=np.uint8)
        header = np.array([0x803, count, 28, 28], dtype=">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = np.array([0x801, count], dtype=">i4").tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes(range(count)))
    source = torchvision(dataset="FashionMNIST", path=tmp_path, test_share=0.5)
    pixels, labels = source.split("test").tensors()
    assert pixels.shape == (4, 3, 28, 28)
    assert pixels.unique().tolist() == [7]
    assert labels.tolist() == [0, 1, 2, 3]
    assert source.split("test").classes[0] == "T-shirt/top"
    assert [len(source.split(name)) for name in ("train", "val")] == [9, 1]


def test_torchvision_errors_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"unknown torchvision data set 'CIFAR11'; known: .*Did you mean 'CIFAR10"
    ):
        torchvision(dataset="CIFAR11")
    missing = torchvision(dataset="CIFAR100", path=tmp_path)
    with pytest.raises(
        UserError, match=r"torchvision CIFAR100 in .*; data\.download=true fetches it"
    ) as caught:
        missing.split("train")
    assert "\n" not in str(caught.value)
    odd = torchvision(dataset="CIFAR100", path=tmp_path, options={"sise": 3})
    with pytest.raises(UserError, match="unexpected keyword argument 'sise'"):
        odd.split("train")
