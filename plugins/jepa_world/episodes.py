"""`episodes` and `pusht`: windows of recorded episodes, from HDF5 files of one's own or played with
gymnasium.

    path/*.hdf5      data/NAME/actions [L, A], data/NAME/obs/CAMERA uint8 [L or L + 1, h, w, 3], …/STATE [..,
    S]

The layout is robomimic's (robomimic.github.io), read with h5py. `frame_step` frames of an episode lie between
two frames of a window, and the actions between them are concatenated to one (LeWM, DINO-WM: 5). Both need the
extra `world`.

Axes: L steps of an episode, T frames of a window, A numbers of an action, S numbers of a state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from einops import rearrange
from pydantic import Field as Setting
from pydantic import PositiveInt

from jepa_core import Field, Sample, UserError
from jepa_core.data import BaseSamples, CorruptSample
from jepa_core.data.cache import expand_home
from jepa_core.data.splits import check_split
from jepa_core.types.sample import Fields
from jepa_world.worlds import SEEDS, WindowSettings, window_starts


def needed(package: str, source: str) -> ModuleType:
    """The module of a package of the extra `world`. Raises UserError, which names the extra, without it."""
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError:
        raise UserError(
            f"the source {source!r} needs the package {package.replace('_', '-')}: pip install "
            "'jepa-core[world]'"
        ) from None


class RecordedEpisode:
    """A `Recording` of frames uint8 [L or L + 1, h, w, 3] and actions [L, A], in memory or in an open file.

    `states` [.., S] may be missing. Action t leaves frame t.
    """

    def __init__(self, frames: Any, actions: Any, states: Any, step: int, key: str) -> None:
        self.frames, self.actions, self.states, self.step, self.key = frames, actions, states, step, key

    def starts(self, frames: int) -> Sequence[int]:
        """Where a window that ends within the episode may begin. Raises CorruptSample without any."""
        length = min(len(self.frames), len(self.actions) + 1)
        try:
            return window_starts(length, (frames - 1) * self.step + 1)
        except CorruptSample as error:
            raise CorruptSample(self.key, str(error.record.reason), "short_episode") from None

    def window(self, start: int, frames: int) -> Sample:
        """T frames, the actions between them, `step` concatenated to one, and the state in the last frame."""
        steps = (frames - 1) * self.step
        film = torch.from_numpy(np.asarray(self.frames[start : start + steps + 1 : self.step]))
        actions = torch.from_numpy(np.asarray(self.actions[start : start + steps], np.float32))
        actions = rearrange(actions, "(t k) a -> t (k a)", k=self.step)
        targets = {}
        if self.states is not None:
            targets["state"] = torch.from_numpy(np.asarray(self.states[start + steps], np.float32))
        return Sample({"film": rearrange(film, "t h w c -> t c h w")}, {"actions": actions}, targets=targets)


class RecordedSamples(BaseSamples):
    """Episodes of a split, each opened when it is read."""

    def __init__(self, names: Sequence[str], open_episode: Any, note: str, other: bool = False) -> None:
        self.names, self.open_episode, self.note, self.other = list(names), open_episode, note, other

    def __len__(self) -> int:
        return len(self.names)

    def keys(self) -> Sequence[str]:
        """The names of the episodes."""
        return self.names

    def __getitem__(self, index: int) -> Sample:
        episode = self.open_episode(self.names[index])
        if self.other:
            other = self.open_episode(self.names[index - 1])
            length = min(len(episode.actions), len(other.actions))
            episode.frames, episode.actions = episode.frames[: length + 1], other.actions[:length]
        return Sample({"film": episode}, key=self.names[index])


class RecordedSettings(WindowSettings):
    """Settings of recorded episodes."""

    frame_step: PositiveInt = 1
    """Frames of the episode from one frame of a window to the next; the actions between are concatenated."""


def fields_of(config: RecordedSettings, width: int, states: int) -> Fields:
    """The film, the actions between its frames, and the state in its last frame where there is one."""
    fields = {
        "views.film": Field("clip"),
        "condition.actions": Field("sequence", (config.frames - 1, width * config.frame_step)),
    }
    return fields | ({"targets.state": Field("vector", (states,))} if states else {})


class EpisodesSource:
    """HDF5 files of episodes; a tenth of them, chosen by their names, is in `val`, another in `test`."""

    class Config(RecordedSettings):
        """Settings of a folder of episodes."""

        carried: ClassVar[frozenset[str]] = RecordedSettings.carried | {"path"}

        path: Path
        """A file, or a folder of .hdf5 files."""
        camera: str = "agentview_image"
        """The name of the frames below `obs`."""
        state: str = ""
        """The name of the state below `obs`, for probes; "": none."""

    def __init__(self, config: Config) -> None:
        self.config, self.path = config, expand_home(config.path)
        self._open: dict[Path, Any] = {}

    def files(self) -> list[Path]:
        """The files. Raises UserError where there are none."""
        files = [self.path] if self.path.is_file() else sorted(self.path.glob("*.hdf5"))
        if not files:
            raise UserError(f"data.path {str(self.path)!r} has no .hdf5 files")
        return files

    def names(self) -> list[str]:
        """`FILE/NAME` of every episode. Raises UserError for files of another layout."""
        names = []
        for file in self.files():
            data = self._file(file).get("data")
            if data is None or not len(data):
                raise UserError(
                    f"{str(file)!r} has no group 'data' of episodes, data/NAME/actions and data/NAME/obs"
                )
            names += [f"{file.name}/{name}" for name in data]
        return names

    def _file(self, file: Path) -> Any:
        if file not in self._open:
            try:
                self._open[file] = needed("h5py", self.config.name).File(file, "r")
            except OSError as error:
                raise UserError(
                    f"{str(file)!r} is no HDF5 file ({' '.join(str(error).split())[:80]})"
                ) from None
        return self._open[file]

    def episode(self, name: str) -> RecordedEpisode:
        """An episode by its name. Raises UserError for one that lacks what the settings name."""
        file, _, key = name.partition("/")
        folder = self.path if self.path.is_dir() else self.path.parent
        group = self._file(folder / file)["data"][key]
        config = self.config
        wanted = {"actions": group, config.camera: group.get("obs", {}), config.state: group.get("obs", {})}
        for part, home in wanted.items():
            if part and part not in home:
                raise UserError(f"episode {name} has no {part!r}; it has: {', '.join(home) or 'nothing'}")
        states = group["obs"][config.state] if config.state else None
        return RecordedEpisode(group["obs"][config.camera], group["actions"], states, config.frame_step, name)

    def fields(self) -> Fields:
        """What a window holds, by the first episode."""
        first = self.episode(self.names()[0])
        states = 0 if first.states is None else first.states.shape[1]
        return fields_of(self.config, first.actions.shape[1], states)

    def split(self, name: str) -> RecordedSamples:
        """`train`, `val` or `test`. Raises UserError where the files are missing or of another layout."""
        check_split(name)
        own = [episode for episode in self.names() if _split_of(episode) == name]
        if not own:
            raise UserError(
                f"{len(self.names())} episodes in {str(self.path)!r} leave none for the split {name}"
            )
        shuffled = self.config.shuffle_actions and name == "train"
        return RecordedSamples(own, self.episode, f"episodes of {self.path}; {name}", shuffled)

    def __getstate__(self) -> dict[str, Any]:
        """Without open files, which other processes open anew."""
        return {**self.__dict__, "_open": {}}


def _split_of(name: str) -> str:
    tenth = hashlib.blake2b(name.encode(), digest_size=4).digest()[0] % 10
    return {0: "val", 1: "test"}.get(tenth, "train")


class PushTSource:
    """Push-T (gym-pusht): random targets near the agent, for roll-outs and state probes; nothing plans in it.

    Its `reset` does not set the state that it is given (gym-pusht documents it), so no goal can be set.
    """

    class Config(RecordedSettings):
        """Settings of Push-T."""

        episodes: int = Setting(100, ge=4, le=100_000)
        """Episodes to train on; the other splits have a tenth. They are played when first asked for."""
        length: PositiveInt = 60
        """Steps of an episode, at 10 a second."""
        reach: float = Setting(60.0, gt=0)
        """Largest distance of a target from the agent, in the environment's units of 0 to 512."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def fields(self) -> Fields:
        """Film, actions (absolute targets), and agent, block and the block's angle in the last frame."""
        return fields_of(self.config, 2, 5)

    def split(self, name: str) -> RecordedSamples:
        """Plays the episodes of a split. Raises UserError where gymnasium or gym-pusht is not installed."""
        check_split(name)
        gymnasium, _ = (needed(package, self.config.name) for package in ("gymnasium", "gym_pusht"))
        environment = gymnasium.make(
            "gym_pusht/PushT-v0", obs_type="pixels_agent_pos", render_mode="rgb_array"
        )
        count = self.config.episodes if name == "train" else max(1, self.config.episodes // 10)
        played = [self._play(environment, 3 * number + SEEDS[name]) for number in range(count)]
        environment.close()
        names = [str(number) for number in range(count)]
        shuffled = self.config.shuffle_actions and name == "train"
        return RecordedSamples(
            names, lambda key: self._episode(played[int(key)], key), f"pusht; {name}", shuffled
        )

    def _episode(self, played: tuple[Any, Any, Any], key: str) -> RecordedEpisode:
        return RecordedEpisode(*played, self.config.frame_step, key)

    def _play(self, environment: Any, seed: int) -> tuple[Any, Any, Any]:
        draw = np.random.default_rng(seed)
        seen, info = environment.reset(seed=seed)
        frames, actions, states = [seen["pixels"]], [], [_state(seen, info)]
        for _ in range(self.config.length):
            change = draw.uniform(-self.config.reach, self.config.reach, 2)
            actions.append(np.clip(seen["agent_pos"] + change, 0, 512).astype(np.float32))
            seen, _, _, _, info = environment.step(actions[-1])
            frames.append(seen["pixels"])
            states.append(_state(seen, info))
        return np.stack(frames), np.stack(actions), np.stack(states)


def _state(seen: Any, info: Any) -> np.ndarray[Any, Any]:
    return np.concatenate([seen["agent_pos"], info["block_pose"]]).astype(np.float32)
