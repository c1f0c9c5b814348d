"""How does the one-layer model look up a pointer: does it read the right cell, or all others?

In `cycle` every node stands in the table exactly once. So a model can also look up by elimination:
read all cells but its own, and say the node that is missing. In `cvpr` nodes repeat, and that does
not work. Three tests at the first chain token, on 2,000 held-out instances:

1. Attention to the cell of the current node: its weight, and how often it is the least and the most
   read cell of the table.
2. Change: overwrite a cell that the chain never reads by another node, so that in `cycle` its old
   node stands nowhere. By the rules nothing changes. Is the token still right? Is it the old node?
3. Control: exchange two cells that the chain never reads. No node is missing.

    python results/studies/elimination.py | tee results/studies/elimination.txt
"""

import contextlib
import io
import math
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F


sys.path.insert(0, str(Path(__file__).parents[2]))
import train_cot
from common import load_model
from data import sample_batch


SEEDS = (1337, 1338, 1339)
N = 20  # nodes


def train(task, seed, folder):
    """The model of train_cot.py's recipe, chain arm, 20 nodes and 4 hops."""
    argv = f'--task {task} --nodes {N} --hops 4 --mode cot --seed {seed} --device cpu'
    with contextlib.redirect_stdout(io.StringIO()):
        train_cot.main([*argv.split(), '--out_dir', str(folder)])
    return load_model(folder / 'ckpt.pt')


def attention(model, tokens):
    """The attention weights of the only layer, which has one head: (B, T, T)."""
    block = model.blocks[0]
    T = tokens.size(1)
    h = block.ln_1(model.wte(tokens) + model.wpe.weight[:T])
    scores = block.q(h) @ block.k(h).transpose(1, 2) / math.sqrt(model.config.n_embd)
    is_ahead = torch.ones(T, T).triu(1).bool()
    return scores.masked_fill(is_ahead, -math.inf).softmax(dim=2)


def two_unread_cells(batch):
    """Two cells that the chain never reads, (B, 2)."""
    P = batch.prompt_len
    read = F.one_hot(batch.tokens[:, P - 1:], N).any(dim=1)                 # (B, N)
    return read.int().argsort(dim=1, stable=True)[:, :2]


@torch.no_grad()
def measure(model, task):
    """{name: share of the instances}"""
    batch = sample_batch(task, 2000, 0, 0, 'test')
    P = batch.prompt_len
    node = batch.tokens[:, P - 1]
    truth = batch.tokens[:, P]

    # 1. attention of the last prompt token to the cells of the table
    weights = attention(model, batch.tokens)[:, P - 1, :N]                  # (B, N)
    values = dict(
        own_cell=weights.gather(1, node[:, None]).mean().item(),
        least_read=(weights.argmin(dim=1) == node).float().mean().item(),
        most_read=(weights.argmax(dim=1) == node).float().mean().item())

    # 2. and 3. tables with one cell changed, or two exchanged
    cells = two_unread_cells(batch)
    old = batch.tokens.gather(1, cells)                                     # (B, 2)
    tables = {
        'unchanged': batch.tokens,
        'changed': batch.tokens.scatter(1, cells[:, :1], (old[:, :1] + 1) % N),
        'exchanged': batch.tokens.scatter(1, cells, old.flip(1)),
    }
    for name, tokens in tables.items():
        written = model.generate(tokens[:, :P], 1)[:, P]
        values[name] = (written == truth).float().mean().item()
        if name == 'changed':
            values['old_node'] = (written == old[:, 0]).float().mean().item()
    return values


def main():
    print(f'one layer, one head, {N} nodes, 4 hops: the first chain token of 2,000 held-out '
          'instances')
    print('task   seed | weight on own cell  least read  most read | right: unchanged  changed  '
          'exchanged | changed: old node')
    for task_name in ('cycle', 'cvpr'):
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                model, task = train(task_name, seed, Path(folder))
                v = measure(model, task)
            print(f'{task_name:6} {seed} | {v["own_cell"]:18.3f} {v["least_read"]:11.3f} '
                  f'{v["most_read"]:10.3f} | {v["unchanged"]:16.3f} {v["changed"]:8.3f} '
                  f'{v["exchanged"]:10.3f} | {v["old_node"]:17.3f}', flush=True)


if __name__ == '__main__':
    main()
