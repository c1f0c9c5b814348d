"""Does a baseline pay if every baseline has its own learning rate and entropy bonus?

docs/train_rl.md compares the baselines of train_rl.py with one learning rate and one entropy bonus.
These were chosen for leave one out. Here every baseline has the same small grid.

1. Grid. Each baseline is trained with each of three learning rates and three entropy bonuses, once,
   for 625 steps of 128 questions with 8 chains. It is measured on a validation split (--tune).
2. The best setting of a baseline is the one that first comes to 0.95 at 4 hops, at one of about 30
   evaluations. If several do at the same time, or none does: the one with more right at the end.
3. Test. The best setting of each baseline is trained with three seeds, and measured on the test
   split.

Each finished run is a line of --results, and a study that was stopped goes on after the last one.
Under torchrun the runs are dealt to the processes.

    python results/studies/rl_baselines.py | tee results/studies/rl_baselines.txt   # an hour
    torchrun --standalone --nproc_per_node=2 results/studies/rl_baselines.py        # half of that
"""

import argparse
from pathlib import Path

from dealing import RANK, deal, train_quietly


BASELINES = ('none', 'ema', 'loo', 'prefix')
RATES = ('5e-4', '1e-3', '2e-3')
ENTROPIES = ('0', '0.01', '0.03')
SEEDS = (1337, 1338, 1339)
RESULTS = Path(__file__).with_suffix('.jsonl')


def train(job, folder):
    """Train one model. job: baseline, rate, entropy, seed, split. Returns what it came to."""
    words = (f'--baseline {job["baseline"]} --lr {job["rate"]} --entropy {job["entropy"]} '
             f'--seed {job["seed"]} --steps {job["steps"]} --n_test 400')
    if job['split'] == 'validation':
        words += ' --tune'
    name = '-'.join(str(value) for value in job.values())
    final = train_quietly(words, folder / name)
    return dict(chains=final['samples'], chains_95=final['samples_95'], acc=final['acc'],
                seconds=round(final['seconds'], 1))


def grid(steps):
    """Every setting of every baseline, once."""
    jobs = []
    for rate in RATES:
        for entropy in ENTROPIES:
            for baseline in BASELINES:
                jobs.append(dict(baseline=baseline, rate=rate, entropy=entropy, seed=SEEDS[0],
                                 split='validation', steps=steps))
    return jobs


def cost_of(record):
    """Fewer chains are better, and then more right answers."""
    chains = record['chains_95']
    return (chains is None, chains, -record['acc'])


def best_of_each(records):
    """The test runs: the best setting of each baseline, with every seed."""
    jobs = []
    for baseline in BASELINES:
        best = min((r for r in records if r['baseline'] == baseline), key=cost_of)
        for seed in SEEDS:
            jobs.append(dict(baseline=baseline, rate=best['rate'], entropy=best['entropy'],
                             seed=seed, split='test', steps=best['steps']))
    return jobs


def print_table(title, records):
    """A line for each run: questions and chains until 0.95, and the accuracy at the end."""
    print(f'\n{title}')
    print(f'{"baseline":10}{"rate":>8}{"entropy":>9}{"seed":>6}{"questions":>12}{"chains":>12}'
          f'{"acc":>8}')
    for r in sorted(records, key=lambda r: BASELINES.index(r['baseline'])):
        questions = chains = 'never'
        if r['chains_95'] is not None:
            chains = f'{r["chains_95"]:,}'
            questions = f'{128 * r["steps"] * r["chains_95"] // r["chains"]:,}'
        print(f'{r["baseline"]:10}{r["rate"]:>8}{r["entropy"]:>9}{r["seed"]:>6}{questions:>12}'
              f'{chains:>12}{r["acc"]:8.3f}')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--steps', type=int, default=625, help='of each run')
    parser.add_argument('--results', type=Path, default=RESULTS, help='a line for each run')
    parser.add_argument('--folder', type=Path, default=Path('out/studies/rl_baselines'))
    args = parser.parse_args()

    tuned = deal(grid(args.steps), lambda job: train(job, args.folder), args.results)
    tested = deal(best_of_each(tuned), lambda job: train(job, args.folder), args.results)
    if RANK == 0:
        print_table('grid: validation split', tuned)
        print_table('the best setting of each: test split', tested)


if __name__ == '__main__':
    main()
