"""How much faster are Wilson's mazes, batches of countdown and the sorting of equal moves?

The code of another checkout is loaded beside this one, and both run in turns, one thread. A ratio
is the median over turns of the old time over the new one.

    git worktree add /tmp/before c99e853
    OMP_NUM_THREADS=1 python results/studies/before_after.py /tmp/before
"""

import importlib.util
import math
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
import countdown
import maze
from data import sample_batch


TURNS = 9


def load(folder, name):
    """A module of another checkout, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f'{name}_before', Path(folder) / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare(what, before, after):
    """Print the milliseconds of both, and their ratio. Returns those of `after`."""
    seconds = ([], [])
    for turn in range(TURNS + 1):
        for function, of_function in zip((before, after), seconds, strict=True):
            began = time.perf_counter()
            function()
            if turn > 0:  # the first is a warm-up
                of_function.append(time.perf_counter() - began)
    ratio = statistics.median(b / a for b, a in zip(*seconds, strict=True))
    old, new = (1e3 * statistics.median(each) for each in seconds)
    print(f'{what:44} before {old:9.2f} ms   now {new:8.2f} ms   {ratio:5.2f} x', flush=True)
    return new


def compare_mazes(old):
    """Mazes of several sizes, and the exponent of their cost in the side."""
    rng = np.random.default_rng(0)
    cost = {}
    for side, B in ((4, 512), (8, 128), (15, 32), (30, 16)):
        size = np.full(B, side)
        tasks = [module.Maze((side,), 'wilson') for module in (old, maze)]
        milliseconds = compare(f"{B} of Wilson's mazes, {side} x {side}",
                               *(partial(task.wilson, rng, size) for task in tasks))
        cost[side] = milliseconds / B
    exponent = math.log(cost[30] / cost[4]) / math.log(30 / 4)
    print(f'cost of a maze grows as side^{exponent:.2f} from 4 to 30')


def compare_countdown(old):
    for numbers in (3, 4, 5):
        tasks = [module.Countdown(numbers=numbers) for module in (old, countdown)]
        batches = [sample_batch(task, 64, 0, 1).tokens for task in tasks]
        assert torch.equal(*batches)
        compare(f'64 states of countdown, {numbers} numbers',
                *(partial(sample_batch, task, 64, 0, 1) for task in tasks))

    generator = torch.Generator().manual_seed(0)
    for M, N in ((12, 4096), (24, 4096), (40, 1024), (100, 256)):
        states = torch.randint(0, 30, (N, M, 3), generator=generator)
        allowed = torch.rand(N, M, generator=generator) < 0.7
        functions = [module.first_of_each for module in (old, countdown)]
        assert torch.equal(*(function(states, allowed) for function in functions))
        compare(f'the first of equal moves, {N} x {M}',
                *(partial(function, states, allowed) for function in functions))


def main():
    torch.set_num_threads(1)
    old = sys.argv[1]
    compare_mazes(load(old, 'maze'))
    compare_countdown(load(old, 'countdown'))


if __name__ == '__main__':
    main()
