"""Moving discs: they move as they are said to, and no one frame tells which, whereto, how fast and how."""

from __future__ import annotations

import numpy as np
import pytest

from jepa_core import UserError
from jepa_core.data.splits import SPLITS
from jepa_vjepa.moving_discs import COLOURS, GROUND, RADIUS, SIDE, DiscFilm, Motion, MovingDiscs, put_disc

VIEW = (3, 8, 64, 64)
TASKS = {"mover": 4, "direction": 4, "speed": 3, "turn": 3}


def source(**settings: object) -> MovingDiscs:
    return MovingDiscs(MovingDiscs.Config(name="moving_discs", **{"films": 40, "places": 10, **settings}))


def middle_of(colour: str, frame: np.ndarray) -> np.ndarray:
    """(x, y) of the middle of the pixels in a colour, of a frame [3, h, w]."""
    rows, columns = np.nonzero((frame == np.array(COLOURS[colour])[:, None, None]).all(0))
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5])


@pytest.mark.parametrize("task", TASKS)
def test_labels_are_balanced_and_the_middle_frame_is_the_same_for_all(task: str) -> None:
    """Also for an odd number of frames; every other frame differs for some label."""
    for frames in (8, 5):
        samples = source().labelled_samples(task, "val", (3, frames, 64, 64))
        classes = samples.classes or []
        assert len(classes) == TASKS[task]
        assert len(samples) == 10 * len(classes)
        for place in range(10):
            windows, labels = zip(
                *(samples[place * len(classes) + n] for n in range(len(classes))), strict=True
            )
            assert labels == tuple(range(len(classes)))
            same = [all((w[t] == windows[0][t]).all() for w in windows) for t in range(frames)]
            assert same[frames // 2]
            assert sum(same) == 1


def test_a_straight_motion_goes_its_speed_in_its_direction() -> None:
    way = Motion(0, np.pi / 2, 3.0, 0.0).way(8)
    assert np.allclose(way, [(0, 3 * t) for t in range(-4, 4)])


def test_a_turn_keeps_the_speed_and_changes_the_direction_by_as_much_each_frame() -> None:
    """Against steps of a thousandth of a frame."""
    motion = Motion(0, 0.4, 2.0, 0.3)
    angles = 0.4 + 0.3 * (np.arange(3000) + 0.5) / 1000
    steps = 2.0 / 1000 * np.stack([np.cos(angles), np.sin(angles)], 1)
    assert np.allclose(motion.way(8)[4:], np.cumsum(np.vstack([[0, 0], steps]), 0)[::1000], atol=1e-5)
    back = Motion(0, 0.4 + np.pi, 2.0, -0.3)
    assert np.allclose(motion.way(7), back.way(7)[::-1])


def test_the_border_turns_it_back() -> None:
    film = DiscFilm(np.array([(56.0, 30.0), (20.0, 20.0)]), Motion(0, 0.0, 4.0, 0.0))
    track = film.track(8)
    assert np.allclose(track[:, 1], 30)
    assert np.allclose(track[:, 0], [40, 44, 48, 52, 56, 56, 52, 48])
    assert ((track >= RADIUS) & (track <= SIDE - RADIUS)).all()


def test_what_is_drawn_is_where_it_is() -> None:
    """In its colour, as large as it is, all else still."""
    film = DiscFilm(np.array([(30.0, 30.0), (12.0, 50.0)]), Motion(0, 0.0, 2.0, 0.2))
    window = film.window(0, 8).numpy()
    assert window.shape == (8, 3, SIDE, SIDE)
    for frame, place in zip(window, film.track(8), strict=True):
        assert middle_of("red", frame) == pytest.approx(place, abs=0.5)
        assert middle_of("green", frame) == pytest.approx((12, 50))
    disc = put_disc(np.full((1, SIDE, SIDE, 3), GROUND, np.float32), np.array([(32.0, 32.0)]), 0)
    share = (disc - GROUND)[0, :, :, 0].sum() / (COLOURS["red"][0] - GROUND)
    assert share == pytest.approx(np.pi * RADIUS**2, rel=0.02), "edges are smooth"


def test_labels_say_what_is_seen() -> None:
    """The colour that moves, whereto, how far in a frame, and to which side it turns."""
    made = source(places=40)
    seen = dict.fromkeys(TASKS, 0)
    for task in TASKS:
        samples = made.labelled_samples(task, "test", VIEW)
        classes = samples.classes or []
        for index in range(0, len(samples), 3):
            window, label = samples[index]
            film = made.split("test")[index // len(classes)][0]
            colours = list(COLOURS)[:4]
            if task == "mover":
                assert [c for c in colours if _moves(c, window.numpy())] == [classes[label]]
                seen[task] += 1
                continue
            track = [middle_of(colours[film.motion.mover], frame) for frame in window.numpy()[2:7]]
            if not all(20 < x < SIDE - 20 for x in film.places[film.motion.mover]):
                continue  # it may have bounced
            seen[task] += 1
            before, after = track[2] - track[0], track[4] - track[2]
            x, y = track[3] - track[1]
            if task == "direction":
                ways = {"left": -x, "right": x, "up": -y, "down": y}
                assert max(ways, key=ways.__getitem__) == classes[label]
            if task == "speed":
                assert np.hypot(x, y) / 2 == pytest.approx(2 * int(classes[label][0]), abs=0.6)
            if task == "turn":
                clockwise = np.sin(np.arctan2(*after[::-1]) - np.arctan2(*before[::-1]))
                assert {
                    "left": clockwise < -0.2,
                    "straight": abs(clockwise) < 0.35,
                    "right": clockwise > 0.2,
                }[classes[label]]
    assert min(seen.values()) > 5


def _moves(colour: str, window: np.ndarray) -> bool:
    own = (window == np.array(COLOURS[colour])[None, :, None, None]).all(1)
    # what is still may be covered, but never comes to be where it was not
    return bool((own & ~own[len(window) // 2]).any())


def test_no_disc_touches_another_in_the_middle_frame_and_each_has_its_colour() -> None:
    for film, label in (source(discs=5).split("val")[n] for n in range(10)):
        assert label == -1
        gaps = np.linalg.norm(film.places[:, None] - film.places[None], axis=2) + 99 * np.eye(5)
        assert gaps.min() > 2 * RADIUS
        frame = film.window(0, 1)[0].numpy()
        assert all(
            middle_of(c, frame) == pytest.approx(p, abs=0.5)
            for c, p in zip(COLOURS, film.places, strict=True)
        )


def test_films_are_the_same_at_every_reading_and_of_their_split_alone() -> None:
    again = [source().split("train")[3][0].window(0, 8) for _ in range(2)]
    assert (again[0] == again[1]).all()
    first = [source(data_seed=seed).split(split)[0][0].places for seed in (0, 1) for split in SPLITS]
    assert len({tuple(places.flat) for places in first}) == 6
    assert [len(source().split(split)) for split in SPLITS] == [40, 10, 10]
    assert len(source().labelled_samples("turn", "train", VIEW)) == 4 * 10 * 3


def test_what_cannot_be_asked_is_one_line() -> None:
    with pytest.raises(UserError, match=r"unknown task 'arrow'.*direction"):
        source().labelled_samples("arrow", "val", VIEW)
    with pytest.raises(UserError, match=r"the task 'turn' needs views \(C, T, H, W\)"):
        source().labelled_samples("turn", "val", (3, 64, 64))
    with pytest.raises(UserError, match="unknown split 'tset'"):
        source().labelled_samples("turn", "tset", VIEW)
