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

    python results/studies/discovery.py                                     # 2.5 hours on one core
    torchrun --standalone --nproc_per_node=2 results/studies/discovery.py

Then python results/figures.py draws docs/figures/discovery.png.
"""

import argparse
from pathlib import Path

from dealing import RANK, deal, train_quietly


SHARES = (0, 0.01, 0.02, 0.05, 0.1, 0.3)
LARGEST = (2, 3, 4, 6)
SEEDS = (1337, 1338, 1339, 1340, 1341)
RESULTS = Path(__file__).with_suffix('.jsonl')


def train(job, folder):
    """Train one model. job: share, largest, seed, steps. Returns what it came to."""
    words = (f'--hops 1-{job["largest"]} --one_hop {job["share"]} --steps {job["steps"]} '
             f'--seed {job["seed"]} --n_test 400')
    name = f'share_{job["share"]}-hops_{job["largest"]}-steps_{job["steps"]}'
    final = train_quietly(words, folder / name / f'seed{job["seed"]}')
    return dict(chains=final['samples'], chains_95=final['samples_95'], acc=final['acc'],
                acc_h1=final['acc_h1'], seconds=round(final['seconds'], 1))


def print_table(records):
    """Successes of each cell, and the chains that the median success took."""
    print('runs of five that come to 0.95 at K hops (median chains of these, in thousands)')
    print('one hop  ' + ''.join(f'{f"K = {largest}":>14}' for largest in LARGEST))
    for share in SHARES:
        cells = ''
        for largest in LARGEST:
            chains = [r['chains_95'] for r in records
                      if (r['share'], r['largest']) == (share, largest)]
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
    parser.add_argument('--folder', type=Path, default=Path('out/studies/discovery'))
    args = parser.parse_args()

    # the most easy questions first, so that a stopped study knows where the border is
    jobs = []
    for share in reversed(SHARES):
        for seed in SEEDS:
            for largest in LARGEST:
                jobs.append(dict(share=share, largest=largest, seed=seed, steps=args.steps))
    records = deal(jobs, lambda job: train(job, args.folder), args.results)
    if RANK == 0:
        print_table(records)


if __name__ == '__main__':
    main()
