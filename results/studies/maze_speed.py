"""How fast are mazes made, and how much time does the path loss save?

One thread. What is compared is timed in turns in one run.

    python results/studies/maze_speed.py > results/studies/maze_speed.txt
"""

import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F


sys.path.insert(0, str(Path(__file__).parents[2]))
from data import sample_batch
from maze import Maze
from model import GPT, GPTConfig


WARMUP = 2  # turns that are not timed


def step_times(task, n_layer, turns=15):
    """Median seconds of a training step with loss on the path, and with loss on every token.

    The same batch of 64 mazes, 64 channels, 4 heads.
    """
    torch.manual_seed(0)
    model = GPT(GPTConfig(len(task.vocab), task.block_size, n_layer, 4, 64))
    optimizer = model.configure_optimizer(1e-3, 0.01)
    batch = sample_batch(task, 64, 0, 0)
    masks = {'path': batch.loss_mask[:, 1:], 'full': (batch.tokens != task.pad)[:, 1:]}
    seconds = {'path': [], 'full': []}
    for turn in range(turns + WARMUP):
        for name, mask in masks.items():
            begin = time.perf_counter()
            logits = model(batch.tokens[:, :-1], mask)
            F.cross_entropy(logits, batch.tokens[:, 1:][mask]).backward()
            optimizer.step()
            optimizer.zero_grad()
            if turn >= WARMUP:
                seconds[name].append(time.perf_counter() - begin)
    return statistics.median(seconds['path']), statistics.median(seconds['full'])


def mazes_per_second(task, seconds=2.0, batch_size=4096):
    """Mazes with solution and tokens. Those that belong to the test split are not counted."""
    rates = []
    for turn in range(5):
        begin = time.perf_counter()
        n_mazes = 0
        while time.perf_counter() - begin < seconds / 5:
            sample_batch(task, batch_size, 0, turn)
            n_mazes += batch_size
        rates.append(n_mazes / (time.perf_counter() - begin))
    return statistics.median(rates)


def main():
    torch.set_num_threads(1)
    final = {}

    print('mazes a second, with their solutions, as tokens (batches of 4,096)')
    sizes = (('dfs', 4), ('dfs', 5), ('dfs', 10), ('wilson', 4), ('wilson', 5), ('percolation', 4))
    for gen, n in sizes:
        grid = mazes_per_second(Maze((n,), gen, format='grid'))
        adjlist = mazes_per_second(Maze((n,), gen, format='adjlist'))
        print(f'  {gen:12} {n:2}x{n:<2}  grid {grid:9,.0f}   adjlist {adjlist:9,.0f}')
        final.setdefault('mazes_per_s', round(grid))

    print('a training step, adjlist 4x4: path, full, path / full')
    for n_layer in (1, 2, 3, 4):
        path, full = step_times(Maze((4,)), n_layer)
        print(f'  {n_layer} layers  {path * 1e3:6.1f} ms  {full * 1e3:6.1f} ms  {path / full:.2f}')
        final[f'path_full_{n_layer}'] = f'{path / full:.3f}'
    print('final ' + ' '.join(f'{name}={value}' for name, value in final.items()))


if __name__ == '__main__':
    main()
