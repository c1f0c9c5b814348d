"""The README's figure on choosing among k answers, drawn from the committed logs: python results/figure_search.py"""

import json
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
RULES = {'oracle': ('one of the k is right (pass@k: a ceiling)', 'tab:orange'), 'log-prob': ('most probable chain', 'tab:olive'),
         'majority': ('majority vote', 'tab:brown')}

def best_of_k():
    figure = Figure(figsize=(9, 3.6), layout='constrained')
    for axes, row, title in zip(figure.subplots(1, 2, sharey=True), ('search-cycle', 'search-multiply'),
                                ('4 pointers over 20 nodes, 130 of 300 steps', '3 x 3 digits, 280 of 1,500 steps'), strict=True):
        runs = [[json.loads(line) for line in open(path)] for path in sorted((HERE / row).glob('seed*/log.jsonl'))]
        for rule, (label, colour) in RULES.items():
            for i, run in enumerate(runs):
                points = [(int(r['setting'][2:]), r['solved']) for r in run if r.get('series') == f'best-of-k, {rule}']
                axes.plot(*zip(*points, strict=True), color=colour, linestyle=':' if rule == 'oracle' else '-', marker='.', label=label if i == 0 else None)
        axes.axhline(runs[0][-1]['chance'], color='black', linestyle=':', linewidth=1, label='chance')
        axes.set(xscale='log', xticks=(ks := [1, 2, 4, 8, 16, 32, 64]), xticklabels=ks, xlabel='chains sampled, k', title=title, ylim=(-0.02, 1.03))
        axes.minorticks_off()
    figure.axes[0].set_ylabel('accuracy, held-out')
    figure.axes[0].legend(fontsize=8)
    figure.savefig(HERE / 'best_of_k.png', dpi=120)

best_of_k()
