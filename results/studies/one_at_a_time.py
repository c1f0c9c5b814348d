"""What do chains cost that are sampled one at a time, until one is right?

The logs of search/tot and search/all hold pass@k for k = 1, 2, 4 ... 64 and 100. A chain j + 1 is
sampled if the first j are wrong, so k chains at most cost, on average over the puzzles,

    chains = 1 + sum over j = 1 .. k - 1 of (1 - pass@j)

Between the logged k, pass@k is read on a logarithmic axis. search.py counts the same exactly, in
its rows `best-of-k, one at a time`, which the logs of these two rows do not have yet.

    python results/studies/one_at_a_time.py | tee results/studies/one_at_a_time.txt
"""

import json
import math
import statistics
from pathlib import Path

import numpy as np


LOGS = Path(__file__).resolve().parents[1] / 'logs' / 'search'
MOST = 100


def read_rows(folder):
    """{k: the row of best-of-k by the oracle}"""
    rows = {}
    with open(folder / 'log.jsonl') as log:
        for record in map(json.loads, log):
            if record.get('series') == 'best-of-k, oracle':
                rows[int(record['setting'].removeprefix('k='))] = record
    return rows


def one_at_a_time(rows):
    """The share solved, chains and MFLOP of a puzzle, with MOST chains at most."""
    ks = sorted(rows)
    logged = [rows[k]['solved'] for k in ks]
    chains = 1.0
    for j in range(1, MOST):
        chains += 1 - np.interp(math.log(j), np.log(ks), logged)
    of_a_chain = (rows[MOST]['flops'] - rows[1]['flops']) / (MOST - 1)
    of_the_prompt = rows[1]['flops'] - of_a_chain
    return rows[MOST]['solved'], chains, (of_the_prompt + chains * of_a_chain) / 1e6


def main():
    print(f'chains one at a time until one is right, at most {MOST}')
    print(f'{"row":14}{"solved":>8}{"chains":>8}{"MFLOP":>8}')
    for row in ('tot', 'all'):
        results = []
        for folder in sorted((LOGS / row).glob('seed*')):
            results.append(one_at_a_time(read_rows(folder)))
            solved, chains, mflop = results[-1]
            print(f'{row} {folder.name:9} {solved:8.3f}{chains:8.1f}{mflop:8.0f}')
        means = [statistics.mean(values) for values in zip(*results, strict=True)]
        print(f'{row} mean      {means[0]:8.3f}{means[1]:8.1f}{means[2]:8.0f}')


if __name__ == '__main__':
    main()
