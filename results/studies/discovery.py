"""How many easy questions does REINFORCE need to discover the chain?

train_rl.py finds chains of 1 to 4 hops if all hop counts are equally frequent, and never from
questions of 4 hops alone. Ran-Milo et al. (2026, 2601.15158) prove that rewards for the answer lead
to a step-by-step solution only if enough training questions are easy. Where is the border?

1. A share p of the training questions has one hop. The others have 2 to K hops, equally often.
2. Each cell (p, K) is trained with five seeds: 1,000 steps of 128 questions with 8 chains, as
   train_rl.py does by default.
3. A run succeeds if at some evaluation 0.95 of 100 held-out questions of K hops are right.

Each finished run is a line of --results, and a study that was stopped goes on after the last one.
Under torchrun the runs are dealt to the processes.

    python results/studies/discovery.py                                     # two hours on one core
    torchrun --standalone --nproc_per_node=2 results/studies/discovery.py

Then python results/figures.py draws docs/figures/discovery.png.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import train_rl  # noqa: E402, after the path


SHARES = (0, 0.01, 0.02, 0.05, 0.1, 0.3)
LARGEST = (2, 3, 4, 6)
SEEDS = (1337, 1338, 1339, 1340, 1341)
RESULTS = Path(__file__).with_suffix('.jsonl')


def train(share, largest, seed, steps, folder):
    """Train one model. Returns the record of its run."""
    words = f'--hops 1-{largest} --one_hop {share} --steps {steps} --seed {seed} --n_test 400'
    out_dir = folder / f'share_{share}-hops_{largest}' / f'seed{seed}'
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        final = train_rl.main([*words.split(), '--device', 'cpu', '--out_dir', str(out_dir),
                               '--resume'])
    return dict(share=share, largest=largest, seed=seed, steps=steps, chains=final['samples'],
                chains_95=final['samples_95'], acc=final['acc'], acc_h1=final['acc_h1'],
                seconds=round(final['seconds'], 1))


def read_results(path):
    """{(share, largest, seed): record} of the runs that are finished."""
    results = {}
    if path.exists():
        for line in path.read_text(encoding='utf-8').splitlines():
            record = json.loads(line)
            results[record['share'], record['largest'], record['seed']] = record
    return results


def print_table(results):
    """Successes of each cell, and the chains that the median success took."""
    print('runs of five that come to 0.95 at K hops (median chains of these, in thousands)')
    print('one hop  ' + ''.join(f'{f"K = {largest}":>14}' for largest in LARGEST))
    for share in SHARES:
        cells = ''
        for largest in LARGEST:
            chains = [results[share, largest, seed]['chains_95'] for seed in SEEDS]
            chains = sorted(n for n in chains if n is not None)
            cell = f'{len(chains)}'
            if chains:
                cell += f' ({chains[len(chains) // 2] / 1000:,.0f})'
            cells += f'{cell:>14}'
        print(f'{share:7.0%}  {cells}')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--steps', type=int, default=1000, help='of each run')
    parser.add_argument('--results', type=Path, default=RESULTS, help='a line for each run')
    parser.add_argument('--folder', type=Path, default=ROOT / 'out/studies/discovery')
    args = parser.parse_args()

    # each run is one process: it must not join the others
    rank = int(os.environ.pop('RANK', 0))
    n_ranks = int(os.environ.pop('WORLD_SIZE', 1))

    # the most easy questions first, so that a stopped study knows where the border is
    jobs = []
    for share in reversed(SHARES):
        for seed in SEEDS:
            for largest in LARGEST:
                jobs.append((share, largest, seed))
    for job in jobs[rank::n_ranks]:
        if job not in read_results(args.results):
            record = train(*job, args.steps, args.folder)
            with args.results.open('a', encoding='utf-8') as file:
                file.write(json.dumps(record) + '\n')
            print(json.dumps(record), flush=True)

    # the first process waits for the others
    while rank == 0 and len(read_results(args.results)) < len(jobs):
        time.sleep(5)
    if rank == 0:
        print_table(read_results(args.results))


if __name__ == '__main__':
    main()
