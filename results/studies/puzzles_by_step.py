"""At which step of a Game of 24 does a model go wrong?

A puzzle of four numbers takes three steps. A step is good if the target can still be made after it.
For each of the three steps: of the chains that are still solvable, in how many is the step good?

1. The models named on the command line play the hundred puzzles of Tree of Thoughts (held out) and
   every fourth training puzzle of train_puzzles.py, with 16 sampled chains each.
2. The control makes random legal moves: each state that a move can lead to is equally likely.
3. The last column multiplies the three shares: the chains that solve the puzzle.

    python results/studies/puzzles_by_step.py out/logs/train_cot/countdown-half/seed*/ckpt.pt \\
        out/logs/train_puzzles/{24,others,held-out}/seed*/ckpt.pt \\
        | tee results/studies/puzzles_by_step.txt
"""

import argparse
import sys
from pathlib import Path

import torch


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import common  # noqa: E402, after the path
from countdown import Countdown, can_reach, random_move, read_puzzles  # noqa: E402
from train_puzzles import STEP_LEN, HeldOut, play, training_puzzles  # noqa: E402


TARGET = 24
N_CHAINS = 16


def is_solvable(states):
    """Can the target be made from states (N, m)? (N,) bool"""
    if states.size(1) == 1:
        return states[:, 0] == TARGET
    return can_reach(states, torch.full((len(states),), TARGET))


def steps_of_model(model, task, puzzles):
    """For each of the three steps: of the chains still solvable, the share with a good step."""
    n_steps = puzzles.size(1) - 1
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(len(puzzles) * N_CHAINS, STEP_LEN * n_steps, generator=generator)
    targets = torch.full((len(puzzles),), TARGET)
    _, _, turns = play(model, task, puzzles, targets, N_CHAINS, 1.0, uniform)
    shares = []
    for turn in turns:
        solvable = is_solvable(turn.states)
        child, legal = task.apply_step(turn.states, turn.tokens[:, -STEP_LEN:])
        good = torch.zeros_like(legal)
        good[legal] = is_solvable(child[legal])
        shares.append(good[solvable].float().mean().item())
    return shares


def steps_of_random_moves(puzzles):
    """The same without a model."""
    generator = torch.Generator().manual_seed(0)
    states = puzzles.repeat_interleave(N_CHAINS, dim=0)
    shares = []
    while states.size(1) > 1:
        states = states[is_solvable(states)]
        states = random_move(states, generator)
        shares.append(is_solvable(states).float().mean().item())
    return shares


def print_row(name, puzzles, shares):
    solved = torch.tensor(shares).prod().item()
    print(f'{name:44}{puzzles:>10}' + ''.join(f'{share:9.3f}' for share in shares)
          + f'{solved:9.3f}')


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('checkpoints', nargs='+', type=Path)
    args = parser.parse_args()

    held_out = HeldOut(TARGET, read_puzzles(ROOT / 'results/tot-100.txt', 4), 'cpu')
    seen, _ = training_puzzles([TARGET], held_out)
    sets = {'held out': held_out.puzzles, 'training': seen[::4]}
    print('share of good steps, of chains that are still solvable')
    print(f'{"model":44}{"puzzles":>10}{"step 1":>9}{"step 2":>9}{"step 3":>9}{"solved":>9}')
    for name, puzzles in sets.items():
        print_row('random legal moves', name, steps_of_random_moves(puzzles))
    for path in args.checkpoints:
        model, state = common.load_checkpoint(path)
        task = common.task_of_checkpoint(path, state, (Countdown,))
        for name, puzzles in sets.items():
            row = '/'.join(path.parts[-4:-1])
            print_row(row, name, steps_of_model(model.eval(), task, puzzles))


if __name__ == '__main__':
    main()
