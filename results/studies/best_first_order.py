"""Does best-first search profit from calibrated verdicts?

It compares verdicts of states with two and with three numbers left. A calibration moves the two by
different amounts, so it changes the order. Here both orders search all puzzles of 24. The slopes
and biases are those of the row search/calibration, fitted on trained targets.

    python results/studies/best_first_order.py out/logs/train_cot/countdown \\
        | tee results/studies/best_first_order.txt

The argument is the folder of the row train_cot/countdown, with a folder for each seed.
"""

import contextlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
import common
import search
from calibration import solvable_puzzles


def read_fits(seed):
    """{numbers left: (slope, bias)} of the committed log."""
    fits = {}
    path = ROOT / f'results/logs/search/calibration/seed{seed}/log.jsonl'
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if record['arm'] == 'calibration':
            fits[record['numbers']] = (record['slope'], record['bias'])
    return fits


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    for seed in (1337, 1338, 1339):
        path = Path(sys.argv[1]) / f'seed{seed}/ckpt.pt'
        model, state = common.load_checkpoint(path)
        task = common.task_of_checkpoint(path, state, search.TASKS)
        run = SimpleNamespace(autocast=contextlib.nullcontext())
        solver = search.Solver(model.eval(), task, run, torch.Generator())
        puzzles = solvable_puzzles(4, 24)
        fits = read_fits(seed)

        def calibrated(solver, states, owner, cost, fits=fits):
            slope, bias = fits[states.size(1)]
            return slope * search.verdict(solver, states, owner, cost) + bias

        for name, value in (('as it is', search.verdict), ('calibrated', calibrated)):
            for budget in (11, 100):
                solved, cost = search.best_first_search(solver, puzzles, budget, value)
                nodes = cost[:, 0].float()
                print(f'seed {seed}, {name}: at most {budget:3} nodes, of {len(puzzles):,} solved '
                      f'{solved.float().mean():.3f}, nodes {nodes.mean():.2f} on average, '
                      f'{nodes.median():.0f} in the median', flush=True)


if __name__ == '__main__':
    main()
