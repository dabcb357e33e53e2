"""Prompted films of made stamps: their package, what films show, siblings, the evaluation `futures`."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_core import Recipe, UserError, load_recipe, train
from jepa_core.assembly import build
from jepa_core.data import CorruptSample
from jepa_core.data.sources import package_download
from jepa_core.data.sources.package_download import Unreachable, apt_download
from jepa_core.evaluate.run import evaluate_run
from jepa_stacked import stamps
from jepa_stacked.evaluation import true_share
from jepa_stacked.films import GROUND, PromptedFilms, split_sentences
from jepa_stacked.stamps import RATE, decode_sound, find_sentence, make_picture, read_members

THINGS = 40
SMALL = ("train.device=cpu", "train.precision=fp32", "probes.linear=false", "probes.knn=false")


def made_stamps(language: str) -> dict[str, Any]:
    """Squares of one colour each; the voice is a tone of its own; two things share a sentence."""
    draw = np.random.default_rng(0)
    colours = draw.integers(0, 255, (THINGS, 3, 1, 1)).astype(np.uint8).repeat(32, 2).repeat(32, 3)
    opaque = np.full((THINGS, 1, 32, 32), 255, np.uint8)
    times = np.arange(RATE // 2) / RATE
    tones = [np.sin(2 * np.pi * (200 + 40 * n) * times) * 10_000 for n in range(THINGS)]
    return {
        "pictures": np.concatenate([colours, opaque], 1),
        "sentences": np.array([f"thing {max(1, n)} of {language}" for n in range(THINGS)]),
        "sounds": np.concatenate(tones).astype(np.int16),
        "lengths": np.full(THINGS, RATE // 2),
    }


@pytest.fixture(autouse=True)
def _made_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(stamps, "fetch_stamps", made_stamps)


def small(*overrides: str) -> Recipe:
    return load_recipe("stacked/selftest", *SMALL, *overrides)


def films(split: str = "train", *overrides: str) -> PromptedFilms:
    samples = build("data", small("data.future=16", *overrides).data).split(split)
    assert isinstance(samples, PromptedFilms)
    return samples


# --- films


def test_nothing_moves_before_the_future_and_one_thing_moves_then() -> None:
    samples = films()
    for index in range(10):
        scene, mover, direction = samples.scene(index)
        film = samples[index].views["film"].frames
        assert film.shape == (20, 3, 64, 64)
        assert (film[:4] == film[:1]).all()
        changes = [bool((film[t] != film[t - 1]).any()) for t in range(4, 20)]
        assert sum(changes) >= 15  # a bounce may end where it began
        track = samples.track(scene, mover, direction, 16)
        assert (track[:4] == scene.places[mover]).all()
        for t in (4, 11, 19):
            x, y = (int(value) for value in track[t].round())
            colour = samples.stamps.pictures[scene.things[mover], :3, 0, 0]
            assert film[t, :, y + 9, x + 9].tolist() == colour.tolist()
        assert (film[0] == GROUND).any()


def test_a_thing_bounces_off_the_border_and_goes_at_its_speed() -> None:
    samples = films()
    scene, mover, direction = samples.scene(0)
    track = samples.track(scene, mover, direction, 200)
    assert track.min() >= 0
    assert track.max() <= 64 - 18
    steps = (track[5:] - track[4:-1]).norm(dim=1)
    assert (steps <= 2.5 + 1e-4).all()
    assert (steps > 2.4).float().mean() > 0.85
    assert track[4:, 0 if direction < 2 else 1].diff().sign().unique().numel() >= 2


def test_the_prompt_names_what_moves_and_which_way() -> None:
    samples = films()
    for index in range(10):
        scene, mover, direction = samples.scene(index)
        sample = samples[index]
        thing = int(scene.things[mover])
        assert sample.views["caption"] == samples.stamps.sentences[thing]
        assert torch.equal(sample.views["speech"], samples.stamps.sounds[thing])
        assert sample.condition["direction"].tolist() == [float(n == direction) for n in range(4)]
        assert torch.equal(sample.targets["place"], samples.track(scene, mover, direction, 16)[-1])
        sentences = [samples.stamps.sentences[thing] for thing in scene.things.tolist()]
        assert len(set(sentences)) == len(sentences)


def test_siblings_have_one_beginning_and_every_other_prompt() -> None:
    samples = films("test")
    siblings, tracks = samples.siblings(1, 32)
    scene, mover, direction = samples.scene(1)
    assert len(siblings) == len(tracks) == 4 * len(scene.things)
    whole = [sample.views["film"].frames for sample in siblings]
    assert all(torch.equal(film[:4], whole[0][:4]) for film in whole)
    assert torch.equal(whole[0][:20], samples[1].views["film"].frames)
    prompts = {(s.views["caption"], tuple(s.condition["direction"].tolist())) for s in siblings}
    assert len(prompts) == len(siblings)
    assert torch.equal(tracks[0], samples.track(scene, mover, direction, 32))
    assert all((whole[0] != film).any() for film in whole[1:])


def test_half_of_the_test_films_are_of_things_that_training_has_not() -> None:
    samples = {split: films(split) for split in ("train", "val", "test")}
    sentences = samples["train"].stamps.sentences
    parts = {split: {sentences[n] for n in rows} for split, rows in split_sentences(sentences, 0).items()}
    assert sum(map(len, parts.values())) == len(set(sentences))
    assert samples["test"].unseen.tolist() == [False, True] * 2
    assert not samples["train"].unseen.any()
    for index in range(4):
        things = samples["test"].scene(index)[0].things.tolist()
        assert {sentences[thing] for thing in things} <= parts["test" if index % 2 else "train"]
    assert len({samples["val"][0].views["caption"], samples["test"][0].views["caption"]}) == 2


def test_films_are_the_same_each_time_and_others_by_their_seed() -> None:
    first, again, other = films(), films(), films("train", "data.data_seed=1")
    assert torch.equal(first[3].views["film"].frames, again[3].views["film"].frames)
    assert not torch.equal(first[3].views["film"].frames, other[3].views["film"].frames)


# --- the package


def debian_package(files: dict[str, bytes], name: bytes = b"data.tar.xz") -> bytes:
    """An `ar` archive with a tar archive in it."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(f"./usr/share/tuxpaint/stamps/{path}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    package = b"!<arch>\n"
    for member, content in {b"debian-binary": b"2.0", name: inner.getvalue()}.items():
        package += member.ljust(48) + str(len(content)).encode().ljust(10) + b"`\n" + content
        package += b"\n" * (len(content) % 2)
    return package


def png(mode: str = "RGBA") -> bytes:
    """A red bar of 20 × 10 in a transparent picture of 100 × 60."""
    image = Image.new("RGBA", (100, 60))
    image.paste((255, 0, 0, 255), (40, 30, 60, 40))
    image.convert(mode).save(stream := io.BytesIO(), "png")
    return stream.getvalue()


def ogg(seconds: float) -> bytes:
    av = pytest.importorskip("av")
    with av.open(stream := io.BytesIO(), "w", "ogg") as container:
        track = container.add_stream("libopus", rate=16_000, layout="mono")
        samples = np.sin(np.arange(int(16_000 * seconds)) * 2 * np.pi * 440 / 16_000).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples[None], "flt", "mono")
        frame.sample_rate = 16_000
        for packet in (*track.encode(frame), *track.encode(None)):
            container.mux(packet)
    return stream.getvalue()


def test_members_are_read_out_of_a_debian_package() -> None:
    package = debian_package(
        {"a/one.png": b"p", "a/one.txt": b"t", "a/one_desc_fr.ogg": b"v", "a/one.ogg": b"e"}
    )
    assert read_members(io.BytesIO(package), ("png", "txt", "_desc_fr.ogg")) == {
        "usr/share/tuxpaint/stamps/a/one": {"png": b"p", "txt": b"t", "_desc_fr.ogg": b"v"}
    }


@pytest.mark.parametrize(
    ("package", "line"),
    [(b"PK..", "does not begin with !<arch>"), (debian_package({}, b"other.tar.xz"), "no member data.tar")],
)
def test_what_is_no_debian_package(package: bytes, line: str) -> None:
    with pytest.raises(UserError, match=line):
        read_members(io.BytesIO(package), ("png",))


def test_a_stamp_s_parts() -> None:
    picture = make_picture(png())
    assert picture.shape == (4, 32, 32)
    assert (picture[3] > 0).sum() == 20 * 10  # smaller ones are not enlarged
    assert picture[0][picture[3] > 0].min() == 255
    text = b"A frog.\nfr.utf8=Une grenouille.\nde.utf8=Ein Frosch.\n"
    assert [find_sentence(text, language) for language in ("en", "fr", "es")] == [
        "A frog.",
        "Une grenouille.",
        "",
    ]


def test_a_voice_is_resampled_and_cut() -> None:
    av = pytest.importorskip("av")
    sound = decode_sound(av, ogg(0.5))
    assert sound.dtype == np.int16
    assert len(sound) == pytest.approx(RATE // 2, abs=200)
    power = np.abs(np.fft.rfft(sound.astype(float)))
    assert power.argmax() * RATE / len(sound) == pytest.approx(440, abs=4)
    assert len(decode_sound(av, ogg(4))) == 3 * RATE


def test_stamps_without_a_sentence_or_a_voice_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"A bar.\nfr.utf8=Une barre."
    whole = {"one.png": png(), "one.txt": text, "one_desc_fr.ogg": ogg(0.2)}
    more = {
        "two.png": png(),
        "two.txt": text,
        "three.png": png(),
        "three.txt": b"A bar.",
        "three_desc_fr.ogg": b"",
    }
    file = tmp_path / "stamps.deb"
    file.write_bytes(debian_package(whole | more))
    monkeypatch.undo()
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(stamps, "download", lambda scratch: file)
    read = stamps.read_stamps("fr")
    assert read.sentences == ["Une barre."]
    assert read.pictures.shape == (1, 4, 32, 32)
    assert [len(sound) for sound in read.sounds] == [pytest.approx(1600, abs=200)]


def test_a_package_that_cannot_be_fetched_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_download.shutil, "which", lambda name: None)
    monkeypatch.setattr(stamps, "URL", (tmp_path / "nothing.deb").as_uri())
    with pytest.raises(UserError) as caught:
        stamps.download(tmp_path)
    assert str(caught.value).startswith("the stamps cannot be fetched: apt-get is not installed; file://")
    assert "\n" not in str(caught.value)
    (tmp_path / "nothing.deb").write_bytes(b"other")
    with pytest.raises(UserError, match=r"the sha256 of stamps.deb is \w{12}…, not 6db6c1bfc870…"):
        stamps.download(tmp_path)


def test_apt_get_leaves_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], cwd: Path, **settings: Any) -> SimpleNamespace:
        (cwd / "a.deb").write_bytes(b"it")
        assert command == ["/bin/apt-get", "download", "--quiet", "a=1"]
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(package_download.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(package_download.subprocess, "run", run)
    assert apt_download("a=1", tmp_path).read_bytes() == b"it"
    monkeypatch.setattr(package_download.shutil, "which", lambda name: None)
    with pytest.raises(Unreachable, match="apt-get is not installed"):
        apt_download("a=1", tmp_path)


# --- the evaluation


def test_equally_near_futures_share_a_hit() -> None:
    distances = [[0.0, 1, 2], [1.0, 0, 2], [1.0, 1, 2], [3.0, 3, 3]]
    assert [true_share(torch.tensor(row)) for row in distances] == [1, 0, 0.5, pytest.approx(1 / 3)]


FEW = (
    "train.steps=3",
    "evaluations.futures.films=3",
    "evaluations.futures.horizons=[1,4,16]",
    "data.films=60",
)


FLAT = (
    "variant={name='stacked',prompts=['caption','speech'],beside=['direction'],levels={frames={hidden=16}}}",
    "terms.windows_rollout=false", "terms.spread_windows=false",
)  # fmt: skip


@pytest.mark.slow
def test_tables_of_both_kinds_of_prompt_and_another_run_beside(tmp_path: Path) -> None:
    train(small(*FEW, *FLAT), tmp_path / "flat")
    run = train(small(*FEW, f"evaluations.futures.beside=['{tmp_path / 'flat'}']"), tmp_path / "run").folder
    tables = evaluate_run(run, [], evaluations=["futures"]).evaluations
    assert [table.task for table in tables] == [
        f"{kind}, {things}" for things in ("seen things", "new things") for kind in ("caption", "speech")
    ]
    rows = {row.name: row.scores for row in tables[0].rows}
    assert list(rows) == ["trained", "level frames", "another's prompt", "no prompt", "copy of the last",
                          "true future", "random twin", "flat"]  # fmt: skip
    assert list(rows["trained"]) == [f"{kind}h={h}" for kind in ("", "R² ") for h in (1, 4, 16)]
    assert all(rows["true future"][f"h={h}"].value == 1 for h in (1, 4, 16))
    chance = rows["trained"]["h=1"].chance
    assert chance is not None
    assert 1 / 12 <= chance <= 1 / 8
    assert all(rows["copy of the last"][f"h={h}"].value < 1 for h in (1, 4, 16))


# --- bad input


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["data.crowd=[3,2]"], "setting 'data.crowd' is [3, 2]; expected the fewer first, 4 at most"),
        (
            ["data.things=12"],
            "leaves 0 things in a part of test; a film has up to 3 (data.crowd, data.things)",
        ),
    ],
)
def test_films_that_cannot_be_drawn(overrides: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        films("test", *overrides)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_view_that_is_longer_than_the_film() -> None:
    with pytest.raises(CorruptSample, match=r"it has 20 frames \(data.context, data.future\); a view has 24"):
        films()[0].views["film"].starts(24)


def test_a_model_that_sees_what_moves_is_not_compared(tmp_path: Path) -> None:
    recipe = small(*FEW, "variant.levels.windows.history=2", "train.steps=1", "train.batch_size=4")
    folder = train(recipe, tmp_path / "run").folder
    (table,) = evaluate_run(folder, [], evaluations=["futures"]).evaluations
    assert table.error == (
        "the model of the row 'trained' sees 8 frames before it predicts; the films stand still for 4"
    )
