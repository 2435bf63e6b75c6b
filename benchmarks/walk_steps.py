"""What a step of a walk over linear regions costs, against writing the program of its region anew and solving it cold.

python benchmarks/walk.py --steps --shapes 100-200x3 100-500x3 --seeds 50 51
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

_LONGEST = 8  # regions of one walk


def terrain_of(network: Any) -> Any:
    """Return the unit box of a network, as walks see it."""
    from nnembed_walk.terrain import Terrain
    from walk_scene import scene_of

    import nnembed as nn

    return Terrain(scene_of(network), nn.Budget(), np.random.default_rng(0))


def regions_of(terrain: Any, walks: int, eps: float = 0.01) -> Iterator[list[np.ndarray]]:
    """Yield the patterns that walks go through, alternately from random and from climbed points."""
    from nnembed_walk.walking import is_gain

    for k in range(walks):
        x = terrain.uniform(1)[0]
        if k % 2:
            x = terrain.climb(x[None], 40, 0.1)[0][0]
        value, patterns = -np.inf, []
        while len(patterns) < _LONGEST:
            patterns.append(terrain.look(x).kinks[0] > 0)
            found = terrain.settle(patterns[-1])[1]
            if found is None or not is_gain(found.value, value):
                break
            value, best = found.value, terrain.drivers_of(found)
            beyond = best + eps * (best - x)
            x = np.where((beyond >= terrain.lower) & (beyond <= terrain.upper), beyond, best)
        yield patterns


def measure(shape: str, seed: int, walks: int = 4) -> dict[str, float]:
    """Return mean CPU milliseconds per region.

    ``"step"`` goes on from the region before. ``"lifted"`` writes the program with a column per neuron, as published
    codes do, from the network, and solves it cold; ``"dense"`` composes the network's layers into rows over the inputs
    first. Both have the settings of the steps.
    """
    from nnembed_walk.program import lifted
    from nnembed_walk.regions import DenseRegions, LiftedRegions
    from walk_nets import random_net

    terrain = terrain_of(random_net(shape, seed))
    paths = list(regions_of(terrain, walks))
    later = [p for path in paths for p in path[1:]]
    spent = {"step": 0.0, "lifted": 0.0, "dense": 0.0}

    def timed(name: str, solve: Callable[[], Any]) -> Any:
        began = time.process_time()
        found = solve()
        spent[name] += time.process_time() - began
        return found

    steps = [found for path in paths for found in _along(terrain, path, timed)]
    clock = terrain.clock
    for pattern, step in zip(later, steps, strict=True):
        anew = timed("lifted", lambda p=pattern: LiftedRegions(lifted(terrain.scene)).solve(p, clock))
        same = timed("dense", lambda p=pattern: DenseRegions(terrain.program, terrain.chain).solve(p, clock))
        values = np.array([step.value, anew.value, same.value])
        assert np.ptp(values) <= 1e-6 * (1 + np.abs(values).max()), f"{shape}: {values}"
    terrain.close()
    return {name: 1e3 * seconds / len(later) for name, seconds in spent.items()}


def _along(terrain: Any, path: list[np.ndarray], timed: Callable[[str, Callable[[], Any]], Any]) -> Iterator[Any]:
    """Solve the regions of a walk one after the other; yield what is found in all but the first."""
    terrain.settle(path[0])
    for pattern in path[1:]:
        yield timed("step", lambda p=pattern: terrain.regions.solve(p, terrain.clock))


def table(shapes: Sequence[str], seeds: Sequence[int]) -> Any:
    """Return the costs as a table."""
    from nnembed.tables import Table

    rows = []
    for shape in shapes:
        for seed in seeds:
            ms = measure(shape, seed)
            ratios = (f"{ms['step'] / ms[name]:.3f}" for name in ("lifted", "dense"))
            rows.append((shape, str(seed), *(f"{ms[name]:.2f}" for name in ("step", "lifted", "dense")), *ratios))
    title = "CPU milliseconds per region: a step, and the program written anew and solved cold"
    head = "net", "seed", "step", "anew, lifted", "anew, dense", "step/lifted", "step/dense"
    return Table(title, head, rows)
