"""Pushed discs: they move as they are said to, are drawn once, and tell the arrow of time by motion alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jepa_core import UserError
from jepa_core.data.splits import SPLITS
from jepa_vjepa import pushed_discs
from jepa_vjepa.decoding import VideoFile
from jepa_vjepa.pushed_discs import BOUNCE, FRICTION, RADIUS, SIDE, PushedDiscs, draw_discs, move_discs

SMALL = {"films": 10, "film_frames": 40, "discs": 2}


def source(folder: Path, **settings: object) -> PushedDiscs:
    return PushedDiscs(PushedDiscs.Config(name="pushed_discs", path=folder, **{**SMALL, **settings}))


def test_a_disc_that_is_not_pushed_slows_down_by_friction(monkeypatch: pytest.MonkeyPatch) -> None:
    """And at the border its speed is turned, and less."""
    monkeypatch.setattr(pushed_discs, "PUSHED", 1.0)
    draw = np.random.default_rng(0)
    pushed = move_discs(1, 400, draw)
    assert ((pushed >= RADIUS) & (pushed <= SIDE - RADIUS)).all()
    monkeypatch.setattr(pushed_discs, "PUSHED", 0.02)
    places = move_discs(300, 40, np.random.default_rng(1))
    assert ((places >= RADIUS) & (places <= SIDE - RADIUS)).all()
    step = np.diff(places, axis=0)
    slower = np.isclose(step[1:], FRICTION * step[:-1], atol=1e-9).all(2)
    assert 0.8 < slower.mean() < 0.98, "all but pushes and bounces"
    faster = np.isclose(step[:-1], FRICTION * step[1:], atol=1e-9).all(2) & (np.abs(step[1:]).max(2) > 1e-3)
    assert faster.mean() < 0.01, "reversed, they would speed up"


def test_a_bounce_turns_the_speed_and_costs_some_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Along each axis where the border is met; without friction the other axis keeps its speed."""
    monkeypatch.setattr(pushed_discs, "FRICTION", 1.0)
    monkeypatch.setattr(pushed_discs, "PUSHED", 0.02)
    places = move_discs(300, 40, np.random.default_rng(1))
    step = np.diff(places, axis=0)
    before, after = step[1:-2], step[3:]
    free = np.isclose(step[:-3], before, atol=1e-9) & (before != 0)
    ahead = places[2:-2] + before
    met = free & ((ahead < RADIUS) | (ahead > SIDE - RADIUS))
    turned = np.isclose(after, -BOUNCE * before, atol=1e-9)
    assert met.sum() > 100
    assert 0.9 < turned[met].mean() <= 1, "all but those that are pushed"
    assert turned[free & ~met].mean() < 0.01


def test_discs_are_drawn_where_they_are() -> None:
    film = draw_discs(np.array([[[20.0, 40.0]], [[20.5, 40.0]]]))
    red = film[0, :, :, 0].astype(int) - film[0, 0, 0, 0]
    rows, columns = np.nonzero(red > 95)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((40, 20))
    assert len(rows) == pytest.approx(np.pi * RADIUS**2, rel=0.05)
    assert (film[0] != film[1]).any(), "edges are smooth, so half a pixel shows"


def test_films_are_drawn_once_and_kept_without_loss(tmp_path: Path) -> None:
    made = source(tmp_path)
    made.split("train")
    folder = made.path
    films = sorted(folder.glob("*.mkv"))
    assert len(films) == 10
    expected = draw_discs(move_discs(40, 2, np.random.default_rng((0, 3))))
    assert np.array_equal(VideoFile(str(films[3])).read(range(40)), expected)
    times = [film.stat().st_mtime_ns for film in films]
    films[4].unlink()
    source(tmp_path).split("test")
    again = [film.stat().st_mtime_ns for film in films]
    assert [a == b for a, b in zip(times, again, strict=True)] == [number != 4 for number in range(10)]
    assert source(tmp_path, data_seed=1).path != folder


def test_whole_films_are_held_out(tmp_path: Path) -> None:
    made = source(tmp_path)
    names = {split: {clip.file.path for clip, _ in made.files(split)[0]} for split in SPLITS}
    assert {split: len(of_split) for split, of_split in names.items()} == {"train": 7, "val": 1, "test": 2}
    assert len(set.union(*names.values())) == 10


def test_both_directions_of_a_place_have_the_same_middle_frame(tmp_path: Path) -> None:
    windows = source(tmp_path).labelled_samples("arrow", "val", (3, 8, 64, 64))
    assert windows.classes == ["forward", "reversed"]
    forward, reversed_ = windows[0][0], windows[1][0]
    assert (forward[4] == reversed_[4]).all()
    assert (forward[3] == reversed_[5]).all()


def test_films_shorter_than_a_window_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"'data.film_frames' is 40; expected 16 times data.frame_step, 64, or"
    ):
        source(tmp_path, frame_step=4)
