"""The world `two_rooms`: a dot in a square with a wall across it, and a door in the wall.

What is unusual: all of it is torch on batches of states, so a thousand episodes cost what one does, and a
state
says everything: where the dot is, where the wall stands and where its door is. A straight way to a goal in
the other room ends at the wall, so that a planner must look ahead. Written anew after the rules of PLDM's
Two-Rooms (arXiv 2502.14819).

Axes: B episodes, S = 4 numbers of a state (x, y, wall, door), H = W = 64 pixels.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Generator, Tensor

from jepa_core.planning import shorten
from jepa_world.worlds import PlayedSettings, PlayedSource

SIDE = 64
LOW, HIGH = 4.0, 60.0
"""Between which the dot's coordinates are, in pixels."""
THICKNESS = 2.0
"""Half the wall's width."""
DOOR = 6.0
"""Half the door's height."""
WALLS, DOORS = range(20, 45, 2), range(12, 53, 2)
"""Places of the wall and of the door's middle, in pixels, of random layouts."""
DOT = 1.8
"""Standard deviation of the dot as it is drawn."""
MARGIN = 24
"""How far beyond the border the places lie that training walks head for, so that they keep to walls at
times."""
SPLITS = {"train": range(2, 10), "val": range(1), "test": range(1, 2)}
"""Which tenths of the layouts each split has."""


class TwoRooms:
    """The dot moves by its action, in pixels; it slides along walls and passes through the door."""

    state_names: tuple[str, ...] = ("x", "y", "wall", "door")
    action_names: tuple[str, ...] = ("dx", "dy")
    reach = 5.0
    budget = 40
    tolerance = 4.0
    bounds = MappingProxyType({"x": (LOW, HIGH), "y": (LOW, HIGH)})

    def __init__(self, fixed: bool = False) -> None:
        """`fixed`: one layout, the wall in the middle and the door at a quarter, for all splits."""
        self.fixed = fixed

    def layouts(self, split: str) -> Tensor:
        """float32 [n, 2]: wall and door of every layout of a split."""
        if self.fixed:
            return torch.tensor([[32.0, 18.0]])
        pairs = torch.cartesian_prod(torch.tensor(WALLS), torch.tensor(DOORS))
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
        tenth = torch.empty_like(order)
        tenth[order] = torch.arange(len(pairs)) * 10 // len(pairs)
        return pairs[torch.isin(tenth, torch.tensor(SPLITS[split]))].float()

    def draw_states(self, count: int, split: str, generator: Generator) -> Tensor:
        """The dot anywhere but in the wall, in layouts of the split."""
        layouts = self.layouts(split)
        layout = layouts[torch.randint(len(layouts), (count,), generator=generator)]
        return torch.cat([self._draw_places(layout, generator), layout], dim=1)

    def draw_goals(self, states: Tensor, generator: Generator) -> Tensor:
        """A place in the other room."""
        layout = states[:, 2:]
        low, high = layout[:, 0] - THICKNESS - 2, layout[:, 0] + THICKNESS + 2
        right = states[:, 0] > layout[:, 0]
        start, end = torch.where(right, LOW, high), torch.where(right, low, HIGH)
        draws = torch.rand(2, len(states), generator=generator)
        x, y = start + draws[0] * (end - start), LOW + draws[1] * (HIGH - LOW)
        return torch.cat([x[:, None], y[:, None], layout], dim=1)

    def _draw_places(self, layout: Tensor, generator: Generator) -> Tensor:
        """[B, 2], each left or right of the wall in proportion to the room there."""
        draws = torch.rand(2, len(layout), generator=generator)
        x = LOW + draws[0] * (HIGH - LOW - 2 * (THICKNESS + 2))
        x = torch.where(x > layout[:, 0] - THICKNESS - 2, x + 2 * (THICKNESS + 2), x)
        return torch.stack([x, LOW + draws[1] * (HIGH - LOW)], dim=1)

    def draw_actions(
        self, states: Tensor, memory: Tensor | None, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """A noisy walk to a place, then to another: anywhere, the door, or straight through the wall.

        Without the last two, what wall and door do would be rare, and nothing would make a model see them.
        The memory [B, 3] is the place that each dot walks to, and the steps that are left for it.
        """
        count, layout = len(states), states[:, 2:]
        anywhere = torch.rand(count, 2, generator=generator) * (SIDE + 2 * MARGIN) - MARGIN
        across = torch.where(states[:, 0] > layout[:, 0], -8.0, 8.0) + layout[:, 0]
        opposite = torch.stack([across, states[:, 1] + 6 * torch.randn(count, generator=generator)], dim=1)
        kind = torch.rand(count, 1, generator=generator)
        place = torch.where(kind < 0.25, layout, torch.where(kind < 0.55, opposite, anywhere))
        fresh = torch.cat([place, torch.randint(6, 16, (count, 1), generator=generator)], dim=1)
        memory = fresh if memory is None else torch.where(memory[:, 2:] <= 0, fresh, memory)
        noise = torch.randn(count, 2, generator=generator) * 0.4 * self.reach
        speed = torch.rand(count, 1, generator=generator) * self.reach
        ahead = memory[:, :2] - states[:, :2]
        distance = ahead.norm(dim=1, keepdim=True)
        actions = ahead / distance.clamp(min=1) * speed + noise
        left = torch.where(distance < 3, 0, memory[:, 2:] - 1)
        return shorten(actions, self.reach), torch.cat([memory[:, :2], left], dim=1)

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        """Moves the dot in steps of at most a pixel; where a step ends in the wall, only its free part is
        made."""
        place, layout = states[:, :2], states[:, 2:]
        parts = int(self.reach)
        move = shorten(actions, self.reach) / parts
        for _ in range(parts):
            for axis in ((1.0, 0.0), (0.0, 1.0)):
                ahead = (place + move * move.new_tensor(axis)).clamp(LOW, HIGH)
                place = torch.where(self._in_wall(ahead, layout)[:, None], place, ahead)
        return torch.cat([place, layout], dim=1)

    def _in_wall(self, place: Tensor, layout: Tensor) -> Tensor:
        offset = (place - layout).abs()
        return (offset[:, 0] < THICKNESS) & (offset[:, 1] > DOOR - 1)

    def render(self, states: Tensor) -> Tensor:
        """The dot red, the wall blue, the border green."""
        axis = torch.arange(SIDE, dtype=torch.float32, device=states.device) + 0.5
        offsets = axis[None, None] - states[:, :2, None]
        profile = (-offsets.square() / (2 * DOT**2)).exp()
        dot = profile[:, 1, :, None] * profile[:, 0, None, :]
        across = (axis[None] - states[:, 2:3]).abs() <= THICKNESS
        beside = (axis[None] - states[:, 3:4]).abs() > DOOR
        edge = (axis < LOW - 2) | (axis > HIGH + 2)
        frames = torch.zeros(len(states), 3, SIDE, SIDE, dtype=torch.uint8, device=states.device)
        frames[:, 0] = dot.mul_(255)
        frames[:, 1] = (edge[:, None] | edge[None]).to(torch.uint8) * 255
        torch.mul(beside.to(torch.uint8)[:, :, None], across.to(torch.uint8)[:, None] * 255, out=frames[:, 2])
        return frames

    def distance(self, states: Tensor, goals: Tensor) -> Tensor:
        """Pixels between the dots [B]."""
        return (states[:, :2] - goals[:, :2]).norm(dim=1)

    def way_length(self, states: Tensor, goals: Tensor) -> Tensor:
        """Pixels of the shortest way [B]: straight within a room, else through the door.

        Both faces of the door are crossed at the best of 21 heights each.
        """
        wall, door = states[:, 2:3], states[:, 3:4]
        side = torch.where(states[:, :1] < wall, -THICKNESS, THICKNESS)
        heights = door + torch.linspace(1 - DOOR, DOOR - 1, 21, device=states.device)
        before = torch.hypot(states[:, :1] - wall - side, states[:, 1:2] - heights)
        behind = torch.hypot(goals[:, :1] - wall + side, goals[:, 1:2] - heights)
        inside = torch.hypot(torch.tensor(2 * THICKNESS), heights[:, :, None] - heights[:, None])
        through = (before[:, :, None] + inside + behind[:, None]).flatten(1).amin(1)
        same_room = (states[:, 0] < states[:, 2]) == (goals[:, 0] < goals[:, 2])
        return torch.where(same_room, self.distance(states, goals), through)


class TwoRoomsSource(PlayedSource):
    """Episodes of two rooms; 8 of 10 layouts are in `train`, one each in `val` and `test`."""

    class Config(PlayedSettings):
        """Settings of two rooms."""

        fixed: bool = False
        """Whether wall and door stand in one place, in all splits."""

    config: Config

    def make_world(self) -> TwoRooms:
        """Two rooms, of one layout or of many."""
        return TwoRooms(self.config.fixed)
