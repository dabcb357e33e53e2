"""Files as users have them when something is wrong: recipes, arrays, images, shards, archives."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

RECIPES = {
    "syntax.toml": "seed = = 3",
    "latin.toml": "# caf\xe9".encode("latin-1"),
    "yaml.toml": "train:\n  steps: 3\n",
    "twice.toml": "[train]\nsteps = 1\nsteps = 2\n",
    "again.toml": "[train]\nsteps = 1\n[train]\nkeep = 2\n",
    "bare.toml": "masker = { name = multiblock }",
    "empty.toml": "",
    "self.toml": 'extends = "self.toml"',
    "lost.toml": 'extends = "gone.toml"',
    "lost_name.toml": 'extends = "ijepa/gone"',
    "two_bases.toml": 'extends = ["tiny.toml", "ijepa/demo"]',
    "on_syntax.toml": 'extends = "syntax.toml"',
    "on_folder.toml": 'extends = "folder.toml"',
    "section.toml": 'extends = "tiny.toml"\n[maskr]\nname = "random"\n',
    "setting.toml": 'extends = "tiny.toml"\n[train]\nstep = 3\n',
    "array.toml": 'extends = "tiny.toml"\n[[masker]]\nname = "random"\n',
    "deep.toml": f"a = {'[' * 5000}{']' * 5000}",
    "deep_table.toml": f'extends = "tiny.toml"\nencoder.x = {"{a = " * 40}1{"}" * 40}',
    "long_key.toml": f"{'.'.join(['a'] * 50_000)} = 1",
    "quoted_key.toml": "x = {" + ".".join(['"a"'] * 60) + " = 1}",
    "digits.toml": f'extends = "tiny.toml"\nseed = {"1" * 5000}',
    "huge.toml": f'extends = "tiny.toml"\n[train]\nsteps = {10**30}\n',
    "nul.toml": 'extends = "tiny.toml"\n[data]\npath = "a\\u0000b"\n',
    "nul_byte.toml": 'extends = "tiny.toml"\n[data]\npath = "a\0b"\n',
    "coloured.toml": 'extends = "tiny.toml"\nname = "a\\u001b[31m"\n',
    "coloured_section.toml": 'extends = "tiny.toml"\n"a\\u001b]0;title\\u0007" = 3\n',
    "utf16.toml": "seed = 3".encode("utf-16"),
    "no_knn.toml": 'extends = "tiny.toml"\nprobes.knn = false\n[train]\neval_every = 1\n',
    "no_such_probe.toml": 'extends = "tiny.toml"\nprobes.linaer = false\n',
    "on_pipe.toml": 'extends = "pipe.toml"',
    "circle_by_link.toml": 'extends = "up/circle_by_link.toml"',
    "titled.toml": 'extends = "tiny.toml"\nname = ["a"]\n',
    "nameless.toml": '[data]\npath = "tiny.npz"\n',
    "no_encoder.toml": '[data]\nname = "npz"\npath = "tiny.npz"\n',
    "no_masker.toml": 'extends = "no_encoder.toml"\nencoder = "official_tiny"\npredictor = "vit_predictor"\n',
}

LINKS = {
    "dangling.toml": "nowhere.toml",
    "looping.toml": "looping.toml",
    "device.toml": "/dev/zero",
    "up": ".",
}


def write_recipes(folder: Path) -> None:
    """Recipes that are not TOML, not recipes, or not files; `endless.toml` has no length of training."""
    os.mkfifo(folder / "pipe.toml")
    for name, target in LINKS.items():
        (folder / name).symlink_to(target)
    with (folder / "long.toml").open("wb") as file:
        file.truncate(100 * 2**20)
    for number in range(20):
        (folder / f"chain{number}.toml").write_text(f'extends = "chain{number + 1}.toml"', encoding="utf-8")
    for name, text in RECIPES.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "folder.toml").mkdir()
    tiny = (folder / "tiny.toml").read_text(encoding="utf-8")
    (folder / "endless.toml").write_text(tiny.replace("steps = 6, ", ""), encoding="utf-8")
    (folder / "unlabelled.toml").write_text(tiny.replace("tiny.npz", "unlabelled.npz"), encoding="utf-8")


def write_arrays(folder: Path) -> None:
    """.npz files that are damaged, or hold something else."""
    images = np.zeros((40, 8, 8, 3), np.uint8)
    whole = (folder / "tiny.npz").read_bytes()
    (folder / "text.npz").write_bytes(b"not an archive")
    (folder / "empty.npz").write_bytes(b"")
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    (folder / "flipped.npz").write_bytes(flipped)
    np.save(folder / "one.npy", images)
    with zipfile.ZipFile(folder / "zipped.npz", "w") as archive:
        archive.writestr("images.npy", "text")
    others = {
        "pics": {"pics": images},
        "float": {"images": images / 255},
        "first": {"images": np.zeros((40, 3, 8, 8), np.uint8)},
        "flat": {"images": np.zeros((40, 192), np.uint8)},
        "none": {"images": images[:0]},
        "objects": {"images": np.array([None, {}], dtype=object)},
        "labels39": {"images": images, "labels": np.zeros(39, int)},
        "labels_float": {"images": images, "labels": np.zeros(40)},
        "ids": {"images": images, "labels": np.arange(40) * 10**14},
        "few": {"images": images[:2]},
        "unlabelled": {"images": images},
    }
    for name, arrays in others.items():
        np.savez(folder / f"{name}.npz", **arrays)


def picture(value: int = 0) -> bytes:
    """A PNG file of 8×8 pixels."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def write_images(folder: Path) -> None:
    """Folders of images that are empty, too small, or not of images."""
    (folder / "emptied").mkdir()
    _fill(folder / "texts", {"notes.txt": b"x", "readme.md": b"y"})
    _fill(folder / "broken", {f"{name}/{n}.jpg": b"no image" for name in "ab" for n in range(10)})
    _fill(folder / "single", {"one.png": picture()})
    _fill(folder / "hollow", {"train/.keep": b"", "test/a/1.png": picture()})
    split = {f"train/{name}/{n}.png": picture(n) for name in "ab" for n in range(20)}
    _fill(folder / "strange", split | {"test/c/1.png": picture()})


def _fill(folder: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_shards(folder: Path) -> None:
    """Tar files that are cut short, compressed, or hold something else."""
    whole = _shard("png", b"1")
    contents = {
        "whole.tar": whole,
        "cut.tar": whole[: len(whole) // 2],
        "cut_header.tar": whole[:700],
        "endless.tar": whole[: 512 * 40],
        "zero.tar": b"",
        "text.tar": b"no tar file at all " * 100,
        "gzipped.tar": gzip.compress(whole),
        "texts.tar": _shard("txt", b"1"),
        "named.tar": _shard("png", b"cat"),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def _shard(extension: str, label: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for number in range(20):
            for name, content in ((f"{number:03}.{extension}", picture(number)), (f"{number:03}.cls", label)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def write_cifar10(folder: Path) -> None:
    """Data folders whose CIFAR-10 is damaged, another data set, or of no use."""
    _fill(folder, {"cifar_text/cifar10.npz": b"text", "cifar_lost/cifar-10-batches-py/data_batch_1": b"x"})
    for name in ("cifar_other", "cifar_small"):
        (folder / name).mkdir()
    np.savez(folder / "cifar_other/cifar10.npz", a=3)
    images, labels = np.zeros((5, 32, 32, 3), np.uint8), np.zeros(5, int)
    np.savez(folder / "cifar_small/cifar10.npz", train_images=images, train_labels=labels)


def spoil_runs(folder: Path) -> None:
    """Copies of the run in `folder / "run"`, each spoilt as its name says."""
    for spoil in (no_recipe, recipe_no_toml, other_model, other_data, no_test_split, no_checkpoint):
        spoil(_copy(folder, spoil.__name__))
    for name, file, change in (
        ("cut_weights", "model.safetensors", lambda content: content[:-100]),
        ("flipped_weights", "model.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 0xFF])),
        ("manifest_no_json", "manifest.json", lambda content: b"{"),
    ):
        for path in (_copy(folder, name) / "checkpoints").glob(f"step-*/{file}"):
            path.write_bytes(change(path.read_bytes()))
    for path in (_copy(folder, "no_state") / "checkpoints").glob("step-*/state.pt"):
        path.unlink()
    for name, line in (
        ("metrics_no_json", b"step 1"),
        ("metrics_no_text", b"\xff\xfe"),
        ("metrics_other", b"[1]"),
    ):
        (_copy(folder, name) / "metrics.jsonl").write_bytes(line + b'\n{"step": 1}\n')


def _copy(folder: Path, name: str) -> Path:
    return shutil.copytree(folder / "run", folder / name)


def _edit_recipe(run: Path, old: str, new: str) -> None:
    path = run / "recipe.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text, old
    path.write_text(text.replace(old, new), encoding="utf-8")


def no_recipe(run: Path) -> None:
    """Somebody has removed it."""
    (run / "recipe.toml").unlink()


def recipe_no_toml(run: Path) -> None:
    """Somebody has edited it."""
    (run / "recipe.toml").write_text("seed = = 3", encoding="utf-8")


def other_model(run: Path) -> None:
    """Somebody has edited a size in the recipe."""
    _edit_recipe(run, "width = 32", "width = 64")


def other_data(run: Path) -> None:
    """The data have changed under the same name."""
    path = run.parent / "shrunk.npz"
    with np.load(run.parent / "tiny.npz") as whole:
        np.savez(path, images=whole["images"][:50], labels=whole["labels"][:50])
    _edit_recipe(run, '"tiny.npz"', '"shrunk.npz"')


def no_test_split(run: Path) -> None:
    """Trained on everything."""
    _edit_recipe(run, "test_share = 0.1", "test_share = 0.0")


def no_checkpoint(run: Path) -> None:
    """Removed to save space."""
    shutil.rmtree(run / "checkpoints")
