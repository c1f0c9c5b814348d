"""Are 3x3 mazes learned by heart? Exact paths on mazes of the training split and on held-out ones.

The models are those of the rows train_maze/*-fast. The held-out mazes are those of a run's own last
line, so the second number is its `exact`.

    bash results/reproduce.sh train_maze/path-fast train_maze/full-fast train_maze/balanced-fast
    python results/studies/maze_gap.py | tee results/studies/maze_gap.txt
"""

import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[2]))
from common import load_checkpoint
from data import sample_batch
from maze import Maze


N_MAZES = 2000
PART = 500  # mazes at a time


@torch.no_grad()
def exact(model, task, seed, split):
    """Share of mazes of this split whose whole path is right."""
    n_right = 0
    for first in range(0, N_MAZES, PART):
        batch = sample_batch(task, PART, seed, 3 * 10**6 + first, split, hops=3)
        P = batch.prompt_len
        output = model.generate(batch.tokens[:, :P], batch.tokens.size(1) - P)
        n_right += task.correct(batch, output).all(dim=1).sum().item()
    return n_right / N_MAZES


def main():
    task = Maze((3,))
    for path in sorted(Path('out/logs/train_maze').glob('*-fast/seed*/ckpt.pt')):
        model, state = load_checkpoint(path)
        model.eval()
        train = exact(model, task, state['args']['seed'], 'train')
        test = exact(model, task, state['args']['seed'], 'test')
        print(f'{path.parent.parent.name:20} {path.parent.name}  exact on training mazes '
              f'{train:.3f}, on held-out ones {test:.3f}')


if __name__ == '__main__':
    main()
