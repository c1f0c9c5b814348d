"""How sure are we of a number that rests on few mazes, or on few puzzles?

The tables give a mean over seeds and its standard deviation. That leaves one source of chance out:
which instances were held out. 3x3 mazes have 11 held-out mazes, and each is asked about many times.
Here both are drawn again, with replacement, 10,000 times: the seeds and the instances (the
bootstrap). All questions about one maze stay together, as its answers depend on one another.

    bash results/reproduce.sh train_cot/countdown train_maze/path train_maze/full \\
        train_maze/balanced train_maze/path-fast train_maze/full-fast train_maze/balanced-fast
    python results/studies/instances.py | tee results/studies/instances.txt
"""

import sys
from pathlib import Path

import numpy as np
import torch


sys.path.insert(0, str(Path(__file__).parents[2]))
from checkpoint import load_checkpoint
from countdown import Countdown
from data import sample_batch
from maze import Maze


N_QUESTIONS = 2000
PART = 500          # questions at a time
N_DRAWS = 10_000    # bootstrap
MAZE_ROWS = ('path', 'balanced', 'full', 'path-fast', 'balanced-fast', 'full-fast')


# -----------------------------------------------------------------------------
# what is right, and what each question is about

@torch.no_grad()
def ask(model, task, hops, seed, group_of):
    """Ask the test questions of a run with this seed.

    group_of: what a question is about, from what task.read says of its prompt.
    Returns which are right, (N_QUESTIONS,) bool; the group of each; and all different questions.
    """
    right = []
    groups = []
    questions = set()
    for first in range(0, N_QUESTIONS, PART):
        batch = sample_batch(task, PART, seed, hops * 10**6 + first, 'test', hops=hops)
        P = batch.prompt_len
        output = model.generate(batch.tokens[:, :P], batch.tokens.size(1) - P)
        correct = task.correct(batch, output)                             # (B, T - P)
        if isinstance(task, Countdown):
            right.append(correct.gather(1, batch.answer).all(dim=1))      # the verdict alone
        else:
            right.append(correct.all(dim=1))                              # the whole path
        for prompt in batch.tokens[:, :P].tolist():
            source, _ = task.read([token for token in prompt if token != task.pad])
            questions.add(tuple(source[0].tolist()))
            groups.append(group_of(source[0].tolist()))
    return torch.cat(right).numpy(), groups, questions


def the_maze(source):
    """A question about a maze without its two ends."""
    return tuple(source[:-2])


def the_question(source):
    return tuple(source)


# -----------------------------------------------------------------------------
# the bootstrap

def count_by_group(right, groups):
    """Right answers and questions of each group, for each seed: two arrays (seeds, groups)."""
    numbers = {}
    for group in sum(groups, []):
        numbers.setdefault(group, len(numbers))
    n_right = np.zeros((len(right), len(numbers)))
    n_asked = np.zeros((len(right), len(numbers)))
    for seed in range(len(right)):
        columns = [numbers[group] for group in groups[seed]]
        np.add.at(n_right[seed], columns, right[seed])
        np.add.at(n_asked[seed], columns, 1)
    return n_right, n_asked


def interval(n_right, n_asked, rng, draw_seeds=True):
    """The 95% interval of the mean accuracy over seeds, if instances (and seeds) are drawn again.

    The seeds ask about the same instances, so a draw takes the same ones for all of them.
    """
    n_seeds, n_groups = n_right.shape
    means = []
    for _ in range(N_DRAWS):
        seeds = rng.integers(n_seeds, size=n_seeds) if draw_seeds else np.arange(n_seeds)
        times = np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)  # (groups,)
        asked = n_asked[seeds] @ times
        means.append((n_right[seeds] @ times / np.maximum(asked, 1)).mean())
    return np.percentile(means, [2.5, 97.5])


def print_row(name, right, groups, n_questions):
    accuracy = [r.mean() for r in right]
    n_right, n_asked = count_by_group(right, groups)
    rng = np.random.default_rng(0)
    by_instances = interval(n_right, n_asked, rng, draw_seeds=False)
    by_both = interval(n_right, n_asked, rng)
    print(f'{name:28}{np.mean(accuracy):7.3f} ± {np.std(accuracy, ddof=1):.3f}'
          f'{n_right.shape[1]:9,}{n_questions:11,}'
          f'     {by_instances[0]:.3f} to {by_instances[1]:.3f}'
          f'      {by_both[0]:.3f} to {by_both[1]:.3f}', flush=True)


def measure(row, task, hops, group_of):
    """One row of the table. Returns right answers and groups by seed."""
    right = []
    groups = []
    n_questions = []
    for path in sorted(Path(f'out/logs/{row}').glob('seed*/ckpt.pt')):
        model, state = load_checkpoint(path)
        model.eval()
        seed = state['args']['seed']
        r, g, questions = ask(model, task, hops, seed, group_of)
        right.append(r)
        groups.append(g)
        n_questions.append(len(questions))
    print_row(f'{row}, {hops}', right, groups, round(np.mean(n_questions)))
    return right, groups


def print_difference(name, a, b):
    """Is one row better than another on the same questions, seed by seed?"""
    n_right_a, n_asked = count_by_group(*a)
    n_right_b, _ = count_by_group(*b)
    rng = np.random.default_rng(0)
    low, high = interval(n_right_a - n_right_b, n_asked, rng)
    print(f'{name}: {low:+.3f} to {high:+.3f}')


def main():
    print(f'{"row, hops or size":28}{"accuracy":>15}{"groups":>9}{"questions":>11}'
          f'{"instances drawn":>19}{"and seeds drawn":>20}')
    mazes = {}
    for row in MAZE_ROWS:
        mazes[row] = measure(f'train_maze/{row}', Maze((3,)), 3, the_maze)
    task = Countdown()
    for hops in task.hops:
        measure('train_cot/countdown', task, hops, the_question)

    print('\nDifferences, with instances and seeds drawn again (95%)')
    print_difference('path - full, rate 2e-3', mazes['path-fast'], mazes['full-fast'])
    print_difference('path - balanced, rate 5e-4', mazes['path'], mazes['balanced'])
    print_difference('path - full, rate 5e-4', mazes['path'], mazes['full'])


if __name__ == '__main__':
    main()
