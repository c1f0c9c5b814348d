"""The figure of the README's section on probe.py, from the logs of its rows: results/probe.png.

    python results/figure_probe.py
"""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).parent

def read(row):
    """The hop records of every seed of a row: a list of lists."""
    return [[r for r in map(json.loads, open(path)) if r['arm'] == 'hop'] for path in sorted(ROOT.glob(f'{row}/seed*/log.jsonl'))]

def column(record, key):
    """By layer, where the hop is needed."""
    at = record['positions'].index(record['position'])
    return [row[at] for row in record[key]]

def draw(axis, row, title, x='layer'):
    """Probe (solid) and interchange (dashed) by layer, one colour a hop: every seed, and the mean."""
    seeds = read(row)
    for j in range(len(seeds[0])):
        layers = seeds[0][j]['layers']
        for key, style in (('acc', '-'), ('flip', '--')):
            lines = [column(hops[j], key) for hops in seeds]
            axis.plot(layers, np.mean(lines, axis=0), f'C{j}{style}', marker='o' if key == 'acc' else 'd', ms=4,
                      label=f'hop {j + 1}' if key == 'acc' else f'hop {j + 1}, interchange')
            for line in lines:
                axis.plot(layers, line, f'C{j}{style}', lw=0.6, alpha=0.5)
    untrained = [max(column(hops[j], 'random_init')) for hops in seeds for j in range(len(hops))]
    axis.axhline(max(untrained), color='black', lw=0.8, ls=':', label='untrained, at most')
    axis.set(title=title, xlabel=x, ylim=(-0.03, 1.03), xticks=layers)

(top, bottom) = (figure := Figure(figsize=(15, 8.6), layout='constrained')).subplots(2, 3)
draw(top[0], 'probe-direct', 'direct, 4 layers, 3 hops', 'layer, at the last token of the prompt')
draw(top[1], 'probe-loop', 'one layer, 4 times, 3 hops', 'times applied, at the last token of the prompt')
draw(top[2], 'probe-chain', 'one layer and a chain, 3 hops', 'layer, at the token before each hop is written')
top[0].set(ylabel='share of held-out questions')
top[2].legend(loc='upper left', fontsize=8)

draw(bottom[0], 'probe', 'the default: 2 layers, 2 hops', 'layer, at the last token of the prompt')
bottom[0].set(ylabel='share of held-out questions')
curve = [json.loads(line) for line in open(ROOT / 'probe-curve' / 'curve.jsonl')]
for key, style, name in (('acc', 'k-', 'answer right, 2 hops'), ('hop1', 'C0o-', 'probe, hop 1'), ('hop2_1', 'C1s:', 'probe, hop 2, after layer 1'),
                         ('hop2_2', 'C1o-', 'probe, hop 2, after layer 2'), ('flip', 'C0d--', 'interchange, hop 1')):
    bottom[1].plot([r['step'] for r in curve], [r[key] for r in curve], style, ms=3, label=name)
bottom[1].set(title='the default while it learns (one seed)', xlabel='step', ylim=(-0.03, 1.03))
bottom[1].legend(fontsize=8)
for row, colour, name in (('probe-composer', 'C0', 'composer'), ('probe-memoriser', 'C3', 'memoriser')):
    for key, style in (('acc', 'o-'), ('flip', 'd--'), ('unasked', '^:')):
        lines = [column(hops[0], key) for hops in read(row)]
        label = {'acc': 'bridge, unseen pairs', 'flip': 'interchange', 'unasked': 'bridge, pairs never asked in two hops'}[key]
        bottom[2].plot(range(len(lines[0])), np.mean(lines, axis=0), style, color=colour, ms=4, label=f'{name}: {label}')
        for line in lines:
            bottom[2].plot(range(len(line)), line, style[1:], color=colour, lw=0.6, alpha=0.5)
bottom[2].set(title="profiles: who is X's mentor's employer?", xlabel='times the layer was applied', ylim=(-0.03, 1.03), xticks=range(len(lines[0])))
bottom[2].legend(fontsize=7)
figure.savefig(ROOT / 'probe.png', dpi=100)
