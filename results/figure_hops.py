"""The README's figure of accuracy against hops, drawn from the committed logs: python results/figure_hops.py"""

import json
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
ARMS = {  # row of reproduce.sh: label, colour, line style
    'hops-chain': ('chain of thought, 1 layer', 'tab:blue', '-'),
    'hops-direct-1': ('direct, 1 layer', 'tab:red', ':'),
    'hops-direct-2': ('direct, 2 layers', 'tab:red', '--'),
    'hops-direct-4': ('direct, 4 layers', 'tab:red', '-'),
    'hops-loop-2': ('direct, 1 layer looped 2 x', 'tab:orange', '--'),
    'hops-loop-4': ('direct, 1 layer looped 4 x', 'tab:orange', '-'),
}

figure = Figure(figsize=(8.6, 3.8), layout='constrained')
axes = figure.subplots()
for row, (label, colour, line) in ARMS.items():
    finals = [[r for r in map(json.loads, open(log)) if r['arm'] == 'final'][-1] for log in sorted((HERE / row).glob('seed*/log.jsonl'))]
    hops = [int(k) for k in next(iter(finals[0]['by_hops'].values()))]
    curves = [[by_hop[str(k)]['acc'] for k in hops] for f in finals for by_hop in f['by_hops'].values()]
    mean = [sum(c) / len(c) for c in zip(*curves, strict=True)]
    axes.plot(hops, mean, line, color=colour, marker='o', ms=4, label=f'{label} ({finals[0]["params"] / 1000:.0f}k)')
    if len(curves) > 1:
        axes.fill_between(hops, [min(c) for c in zip(*curves, strict=True)], [max(c) for c in zip(*curves, strict=True)], color=colour, alpha=0.15, lw=0)
axes.axhline(finals[0]['chance'], color='grey', linestyle=':', lw=1)
axes.text(hops[-1], finals[0]['chance'] - 0.02, 'chance', color='grey', ha='right', va='top', fontsize=8)
axes.set(xlabel='hops', ylabel='answer accuracy, held-out', ylim=(-0.03, 1.05), xticks=hops, title='10 nodes, one model for 1 to 6 hops (parameters)')
axes.legend(fontsize=8, loc='center left', bbox_to_anchor=(1.01, 0.5), frameon=False)
figure.savefig(HERE / 'hops.png', dpi=140)
