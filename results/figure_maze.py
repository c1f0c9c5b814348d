"""results/maze.png: learning curves of the losses of train_maze.py, from the logs of its rows (mean over seeds, band: least to most).

    python results/figure_maze.py
"""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

HERE = Path(__file__).parent
COLOUR = {'path': 'tab:blue', 'full': 'tab:red', 'balanced': 'tab:orange', 'mlmu': 'tab:purple', 'graded': 'tab:green'}

def curves(row):
    """steps (S,), {measure: (seeds, S)}, and the greedy baseline's share of shortest paths, mean over seeds."""
    logs = [[json.loads(line) for line in open(path)] for path in sorted((HERE / row).glob('seed*/log.jsonl'))]
    evals = [[(r['step'], list(r['eval'].values())[-1]) for r in log if 'eval' in r] for log in logs]
    steps = [step for step, _ in evals[0]]
    greedy = np.mean([log[-1]['greedy_shortest'] for log in logs])
    return steps, {key: np.array([[e[key] for _, e in log] for log in evals]) for key in ('exact', 'shortest')}, greedy

figure = Figure(figsize=(13, 3.5), layout='constrained')
axes = figure.subplots(1, 4, sharey=True)
panels = [
    ('3x3 dfs, adjlist: solid lr 5e-4, dashed 2e-3', 'exact', [(loss, f'maze-{loss}{fast}', '--' if fast else '-')
                                                          for fast in ('', '-fast') for loss in ('path', 'balanced', 'full')]),
    ('4x4 Wilson, adjlist', 'exact', [(loss, f'maze-wilson-{loss}', '-') for loss in ('path', 'balanced', 'full')]),
    ('4x4 dfs, grid', 'exact', [('path', 'maze', '-'), ('mlmu', 'maze-mlmu', '-')]),
    ('4x4 with loops, grid: a shortest path', 'shortest', [('path', 'maze-loops-path', '-'), ('graded', 'maze-loops-graded', '-')])]
for ax, (title, key, rows) in zip(axes, panels, strict=True):
    for loss, row, style in rows:
        steps, measures, greedy = curves(row)
        low, mean, high = (f(measures[key], axis=0) for f in (np.min, np.mean, np.max))
        ax.plot(steps, mean, style, color=COLOUR[loss], label=None if style == '--' else loss)
        ax.fill_between(steps, low, high, color=COLOUR[loss], alpha=0.15, lw=0)
    ax.axhline(greedy, color='black', linestyle=':', label='greedy walk')
    ax.set(title=title, xlabel='step', ylim=(0, 1.02))
    ax.title.set_fontsize(10)
    ax.legend(fontsize=8, loc='lower right')
axes[0].set_ylabel('held-out mazes solved')
figure.savefig(HERE / 'maze.png', dpi=110)
