"""How fast are mazes made, and how much does the path loss spare? One thread; ratios are medians over turns (A B A B ...) in one run.

    python results/maze_speed.py > results/maze_speed.txt
"""

import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))
from data import Maze, sample_batch
from model import GPT, GPTConfig

def step_time(task, n_layer, turns=15):
    """Median seconds of a training step with loss on the path, and on everything: batch 64, 64 channels, 4 heads, the same batch."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(len(task.vocab), task.block_size, n_layer, 4, 64))
    optimizer, batch, took = model.configure_optimizer(1e-3, 0.01), sample_batch(task, 64, 0, 0), ([], [])
    masks = batch.loss_mask[:, 1:], (batch.tokens != task.pad)[:, 1:]
    for turn in range(turns + 2):
        for mask, times in zip(masks, took, strict=True):
            begin = time.perf_counter()
            F.cross_entropy(model(batch.tokens[:, :-1], mask), batch.tokens[:, 1:][mask]).backward()
            optimizer.step()
            optimizer.zero_grad()
            if turn >= 2:
                times.append(time.perf_counter() - begin)
    return [statistics.median(times) for times in took]

def mazes_per_second(task, seconds=2.0, batch_size=4096):
    """Mazes with solution and tokens, those held out thrown away and not counted."""
    rates = []
    for turn in range(5):
        begin, made = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds / 5:
            sample_batch(task, batch_size, 0, turn)
            made += batch_size
        rates.append(made / (time.perf_counter() - begin))
    return statistics.median(rates)

torch.set_num_threads(1)
final = {}
print('mazes a second, with their solutions, as tokens (batches of 4,096)')
for gen, n in (('dfs', 4), ('dfs', 5), ('dfs', 10), ('wilson', 4), ('wilson', 5), ('percolation', 4)):
    rate = {form: mazes_per_second(Maze((n,), gen, format=form)) for form in ('grid', 'adjlist')}
    print(f'  {gen:12} {n:2}x{n:<2}  grid {rate["grid"]:9,.0f}   adjlist {rate["adjlist"]:9,.0f}')
    final.setdefault('mazes_per_s', round(rate['grid']))
print('a training step, adjlist 4x4: path, full, path / full')
for n_layer in (1, 2, 3, 4):
    path, full = step_time(Maze((4,)), n_layer)
    print(f'  {n_layer} layers  {path * 1e3:6.1f} ms  {full * 1e3:6.1f} ms  {path / full:.2f}')
    final[f'path_full_{n_layer}'] = f'{path / full:.3f}'
print('final ' + ' '.join(f'{key}={value}' for key, value in final.items()))
