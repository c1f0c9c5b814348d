"""The figure of the README's section on capacity.py, from the logs of its rows: results/capacity.png.

    python results/figure_capacity.py
"""

import json
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parent

def models(row):
    """The records of every model of every seed of a row."""
    return [r for path in sorted(ROOT.glob(f'{row}/seed*/log.jsonl')) for r in map(json.loads, open(path)) if r['arm'] == 'model']

def slope(records):
    return sum(r['params'] * r['stored']['one hop'] for r in records) / sum(r['params'] ** 2 for r in records)

left, middle, right = (figure := Figure(figsize=(15, 5.2), layout='constrained')).subplots(1, 3)
for row, colour, exposures in (('capacity-1', 'tab:blue', 1000), ('capacity-1-300', 'tab:cyan', 300), ('capacity-1-100', 'tab:gray', 100)):
    records = models(row)
    left.plot([r['params'] for r in records], [r['stored']['one hop'] / 1000 for r in records], 'o', color=colour, ms=5,
              label=f'{exposures:,} exposures: {slope(records):.2f} bits a parameter')
    left.axline((0, 0), slope=slope(records) / 1000, color=colour, linewidth=1)
records = models('capacity-1')
left.plot([r['params'] for r in records], [r['entropy']['one hop'] / 1000 for r in records], '_', color='black', ms=16, label='facts to be stored')
left.axline((0, 0), slope=2 / 1000, color='black', linestyle=':', label='2 bits a parameter')
left.set(xlabel='parameters', ylabel='stored, thousand bits', title='one hop: how much fits', xlim=(0, None), ylim=(0, None))
left.legend(fontsize=8)

for row, key, style, label in (('capacity-chain', 'acc_1', 'o-', 'one hop, the facts alone'), ('capacity-chain', 'acc_2_trained', 's-', 'two hops, chain'),
                               ('capacity-chain', 'acc_2_combination', 's:', 'two hops, chain, held out'),
                               ('capacity-latent', 'acc_2_trained', '^-', 'two hops, no chain'),
                               ('capacity-latent', 'acc_2_combination', '^:', 'two hops, no chain, held out'),
                               ('capacity-loop', 'acc_2_trained', 'd-', 'two hops, no chain, layers twice'),
                               ('capacity-loop', 'acc_2_combination', 'd:', 'two hops, no chain, layers twice, held out')):
    colour = {'acc_1': 'tab:blue'}.get(key, {'capacity-chain': 'tab:green', 'capacity-latent': 'tab:red'}.get(row, 'tab:purple'))
    points = [(r['params'], r[key]) for r in models(row) if r['hops'] == int(key[4])]
    means = sorted({x: [y for p, y in points if p == x] for x, _ in points}.items())
    middle.plot([x for x, _ in means], [sum(y) / len(y) for _, y in means], style, color=colour, ms=4, label=label)
middle.axhline(0.99, color='black', linewidth=0.5)
middle.axhline(next(r['chance'] for r in models('capacity-latent') if r['hops'] == 2), color='black', linestyle=':', linewidth=1, label='chance')
middle.set(xlabel='parameters', ylabel='share of questions right', title='100 people: the smallest model that learns them', xscale='log', ylim=(0, 1.03))
middle.set_xticks([7000, 10000, 20000, 40000], ['7k', '10k', '20k', '40k'], minor=False)
middle.tick_params(axis='x', which='minor', labelbottom=False)
middle.legend(fontsize=8, loc='upper center', bbox_to_anchor=(0.5, -0.13), ncols=2)

records = models('capacity-flat')
for scheme, colour in (('optimal', 'tab:blue'), ('double', 'tab:orange'), ('big hash', 'tab:green')):
    for size, style in ((8, 'o-'), (16, 's--')):
        seeds = {}
        for r in (r for r in records if round(r['params'] / 8000) * 8 == size):
            seeds.setdefault(r['people'], []).append(r['stored'][scheme] / r['params'])
        people = sorted(seeds)
        right.plot(people, [sum(seeds[n]) / len(seeds[n]) for n in people], style, color=colour, ms=4, label=f'{scheme}, {size}k parameters')
right.set(xlabel='people', ylabel='stored bits a parameter, if ...', title='two hops, no chain: which scheme is flat?', xscale='log', ylim=(0, None))
right.set_xticks(people, [f'{n}' for n in people])
right.tick_params(axis='x', which='minor', labelbottom=False)
right.legend(fontsize=8, loc='upper center', bbox_to_anchor=(0.5, -0.13), ncols=3)
figure.savefig(ROOT / 'capacity.png', dpi=100)
