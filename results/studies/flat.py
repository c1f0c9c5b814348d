"""Which way of storing facts explains the models of docs/capacity_depth.md?

From the committed logs, for each row of capacity.py with two hops and no chain:

1. For each size and number of people the share of questions that is right, trained and held out.
   Beside it a guess: of each subject the most frequent trained answer. And what a held-out question
   costs beyond the marginals.
2. For each scheme the bits a parameter, and their spread (standard deviation / mean) over the
   models of a seed that have more to store under it, see capacity.fit.

    python results/studies/flat.py | tee results/studies/flat.txt
"""

import statistics
import sys
from collections import Counter
from functools import cache
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from capacity import SCHEMES, fit, make_questions
from files import read_config, read_log
from profiles import Profiles


LABELS = ('combination', 'pair', 'person')


def models_of(folder):
    """The records of a run, each with the accuracy of a guess on its held-out combinations."""
    args = read_config(folder)['args']
    models = []
    for record in read_log(folder):
        if record['arm'] == 'model':
            guess = accuracy_of_guess(record['people'], args['attributes'], args['relations'],
                                      args['seed'], bool(args.get('relabel')))
            models.append(record | dict(guess=guess))
    return models


@cache
def accuracy_of_guess(people, attributes, relations, seed, relabel):
    """Of the held-out combinations the share that is right by the most frequent answer to trained
    two-hop questions about the same subject, whoever they begin with."""
    task = Profiles(people, attributes, relations, (1, 2), facts=seed, relabel=relabel)
    batch = make_questions(task, 'direct').batch
    answers = batch.tokens.gather(1, batch.answer).tolist()
    held_out = task.labels.index('combination')
    counts = {}  # subject -> how often each answer was trained
    asked = []
    for (_, relation, subject, label), answer in zip(batch.instance.tolist(), answers, strict=True):
        if relation >= 0 and label == 0:
            counts.setdefault(subject, Counter())[tuple(answer)] += 1
        elif relation >= 0 and label == held_out:
            asked.append((subject, tuple(answer)))
    right = [counts[subject].most_common(1)[0][0] == answer for subject, answer in asked]
    return statistics.mean(right)


def mean_and_sd(values, digits=3):
    if not values:
        return '-'
    text = f'{statistics.mean(values):.{digits}f}'
    if len(values) > 1:
        text += f' +- {statistics.stdev(values):.{digits}f}'
    return f'{text} ({len(values)})'


def marginal_of(record):
    """Bits a question that the marginals alone cost, over the trained two-hop questions."""
    count = record['count']
    bits = count['marginal_attribute2'] + count['marginal_relation2']
    return bits / (count['attribute2'] + count['relation2'])


def print_cells(by_seed):
    """A line for each number of people and size: means over the seeds."""
    cells = {}
    for models in by_seed:
        for record in models:
            cells.setdefault((record['people'], record['n_embd']), []).append(record)
    for (people, _), records in sorted(cells.items()):
        print(f'  {people} people, {records[0]["params"]:,} parameters: right: '
              f'one hop {mean_and_sd([r["acc_1"] for r in records])}, '
              f'trained {mean_and_sd([r["acc_2_trained"] for r in records])}, guess '
              f'{mean_and_sd([r["guess"] for r in records])}')
        for label in LABELS:
            excess = [record[f'loss_2_{label}'] - marginal_of(record) for record in records]
            print(f'      held out by {label:12} right '
                  f'{mean_and_sd([r[f"acc_2_{label}"] for r in records])}, bits beyond the '
                  f'marginals {mean_and_sd(excess, 2)}')


def print_schemes(by_seed):
    """A line for each scheme: means over the seeds."""
    for scheme in SCHEMES:
        fits = [fit(models, scheme) for models in by_seed]
        rates = []
        shares = []
        for models in by_seed:
            for record in models:
                rates.append(record['stored'][scheme] / record['params'])
                shares.append(record['stored'][scheme] / record['entropy'][scheme])
        spreads = [each['spread'] for each in fits if each['spread'] is not None]
        n_short = ', '.join(str(each['n_short']) for each in fits)
        print(f'  {scheme:9} {min(rates):.2f} to {max(rates):.2f} bits a parameter, '
              f'{min(shares):.2f} to {max(shares):.2f} of its entropy, spread '
              f'{mean_and_sd(spreads)} over {n_short} models')


def main():
    folder = ROOT / 'results/logs/capacity'
    rows = sorted([*folder.glob('flat*'), *folder.glob('compose*')])
    for row in rows:
        seeds = sorted(row.glob('seed*'))
        by_seed = [models_of(seed) for seed in seeds]
        print(f'{row.name}: {len(seeds)} seeds')
        print_cells(by_seed)
        print_schemes(by_seed)


if __name__ == '__main__':
    main()
