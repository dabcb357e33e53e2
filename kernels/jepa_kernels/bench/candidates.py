"""Which tiles are worth timing: those that compile well, found beforehand on a machine without a GPU.

    python -m jepa_kernels.bench.candidates         # writes candidates.json: some minutes of one core

Tiles of queries x warps x stages, with and without a limit on registers and a split of the head width, are
compiled; those that spill are left out, and of the others the KEPT that keep most warps on a processor stay.
"""

import json
from collections.abc import Iterator
from importlib.resources import files
from itertools import product
from pathlib import Path

from jepa_kernels.bench.tuning_items import HALF, Item, items
from jepa_kernels.triton_attention_table import NEWEST, Tiles, parts

FILE = Path(str(files("jepa_kernels.bench").joinpath("candidates.json")))
KEPT = 12
GENERAL_SIZES = ((64, 64), (64, 32), (32, 64), (128, 64), (64, 128), (32, 128))
FEWEST_WARPS = 8  # of all programs that a processor holds


def read() -> dict[str, list[Tiles]]:
    """Candidates of each item, by the item's name, from candidates.json."""
    listed = json.loads(FILE.read_text(encoding="utf-8"))["candidates"]
    return {name: [Tiles.parse(text) for text in texts] for name, texts in listed.items()}


def list_tiles(item: Item) -> Iterator[Tiles]:
    """All tiles to compile for an item; combinations that always spill are left out."""
    if not item.keys:
        for (queries, keys), warps, stages in product(GENERAL_SIZES, (4, 8), (1, 2)):
            yield Tiles(queries, keys, warps, stages)
        return
    wholes = (False, True) if parts(item.width)[1] else (False,)
    backward = item.kernel == "short backward"
    rows = [queries for queries in (16, 32, 64, 128) if (16 if backward else 32) <= queries <= item.keys]
    for queries, warps, stages, limit, whole in product(rows, (4, 8), (1, 2), (None, 128), wholes):
        if stages == 1 or queries < item.keys:  # one tile has no loop to pipeline
            yield Tiles(queries, item.keys, warps, stages, limit, whole)


def best_tiles(item: Item, capability: int = NEWEST) -> list[Tiles]:
    """The KEPT best tiles of `list_tiles` by warps a processor, always including the table's own."""
    from triton.runtime.errors import PTXASError

    from jepa_kernels.compile_report import LONG, SPARE, Case, compile_case

    ranking = []
    for tiles in list_tiles(item):
        case = Case(item.kernel, item.width, item.keys or LONG, HALF, tiles, capability, item.keys // 2)
        try:
            compiled = compile_case(case, plain=True)
        except PTXASError:  # too many registers for the limit
            continue
        warps = compiled.programs * tiles.warps
        if compiled.programs and compiled.stack <= SPARE and warps >= FEWEST_WARPS:
            ranking.append((-warps, compiled.registers, tiles))
    best = [tiles for *_, tiles in sorted(ranking, key=lambda entry: entry[:2])]
    own = item.tiles(capability)
    return [own, *(tiles for tiles in best if tiles != own)][:KEPT]


def main() -> None:
    """Finds and writes all candidates."""
    import triton

    candidates: dict[str, list[str]] = {}
    for item in items():
        if item.name not in candidates:
            candidates[item.name] = [str(tiles) for tiles in best_tiles(item)]
            print(item.name, candidates[item.name], flush=True)
    about = {"command": "python -m jepa_kernels.bench.candidates", "triton": triton.__version__}
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(texts)}" for name, texts in candidates.items())
    head = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in about.items())
    FILE.write_text("{\n" + head + ' "candidates": {\n' + rows + "\n }\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
