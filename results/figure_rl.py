"""The README's figures on discovery by reward, drawn from the committed logs: python results/figure_rl.py"""

import json
import statistics
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
ARMS = {  # row of reproduce.sh: label, colour
    'rl-cot': ('chain shown (train_cot.py)', 'tab:gray'),
    'rl-loo': ('leave-one-out (default)', 'tab:blue'),
    'rl-ema': ('running mean', 'tab:cyan'),
    'rl-none': ('no baseline', 'tab:green'),
    'rl-passk': ('pass@8', 'tab:orange'),
    'rl-prefix': ('value of each prefix', 'tab:purple'),
    'rl-hops-4': ('4 hops only', 'tab:red'),
}

def read(row, k):
    """Of each seed of a row: (samples, acc, valid) of every record at k hops, and the greedy accuracy of hop count h at the end."""
    runs = []
    for path in sorted((HERE / row).glob('seed*/log.jsonl')):
        batch = json.loads((path.parent / 'config.json').read_text())['args']['batch_size']
        records = [r for r in map(json.loads, open(path)) if 'eval' in r]
        runs.append([(r.get('samples', r['step'] * batch), r['eval'][str(k)]['acc'], r['eval'][str(k)]['valid']) for r in records])
    return runs

def reached(run, bar=0.95):
    """Samples at the first record with an accuracy of at least `bar`, None if there is none."""
    return next((samples for samples, acc, _ in run if acc >= bar), None)

def ablation():
    left, right = (figure := Figure(figsize=(10, 4), layout='constrained')).subplots(1, 2, width_ratios=(5, 4))
    for y, row in enumerate(ARMS):
        label, colour = ARMS[row]
        for run in read(row, 4):
            at = reached(run)
            left.plot(at or run[-1][0], y, marker='o' if at else 'x', ms=7, color=colour, alpha=0.7, ls='')
            right.plot([valid for _, _, valid in run], [acc for _, acc, _ in run], color=colour, lw=0.8, marker='.', ms=3, alpha=0.7)
    left.set(xscale='log', xlabel='chains until 95% greedy accuracy at 4 hops (×: never)', yticks=range(len(ARMS)),
             yticklabels=[label for label, _ in ARMS.values()], ylim=(len(ARMS) - 0.5, -0.5), title='10 nodes, 1 to 4 hops, one dot a seed')
    left.grid(axis='x', alpha=0.3)
    grid = [i / 100 for i in range(101)]
    right.plot(grid, [v ** 4 + (1 - v ** 4) / 9 for v in grid], color='black', lw=1, ls='--', label='all four links right, or a lucky guess')
    right.axhline(1 / 9, color='black', lw=1, ls=':', label='chance')
    right.set(xlabel='validity of the chain', ylabel='greedy accuracy at 4 hops', xlim=(-0.02, 1.03), ylim=(0, 1.03), title='over training')
    right.legend(frameon=False)
    figure.savefig(HERE / 'rl.png', dpi=140)

def cost():
    axes = (figure := Figure(figsize=(6, 3.6), layout='constrained')).subplots()
    uniform = {1: 'rl-mix-1', 2: 'rl-mix-2', 3: 'rl-mix-3', 4: 'rl-loo'}
    for rows, label, colour in ((uniform, '10 nodes, uniform mixture of 1 to k', 'tab:blue'),
                                (dict.fromkeys(range(1, 9), 'rl-32'), '32 nodes, 1 to 8 by curriculum', 'tab:orange')):
        found = {k: [(reached(run), run[-1][0]) for run in read(row, k)] for k, row in rows.items()}
        for k, ats in found.items():
            for at, cap in ats:
                axes.plot(k, at or cap, marker='o' if at else 'x', color=colour, alpha=0.6, ls='', ms=6)
        hops = [k for k in sorted(found) if all(at for at, _ in found[k])]
        axes.plot(hops, [statistics.geometric_mean([at for at, _ in found[k]]) for k in hops], color=colour, label=label)
    axes.set(yscale='log', xlabel='hops', ylabel='chains until 95% greedy accuracy', xticks=range(1, 9), title='the cost of discovery')
    axes.legend(frameon=False)
    figure.savefig(HERE / 'rl_cost.png', dpi=140)

if __name__ == '__main__':
    missing = [row for row in (*ARMS, 'rl-mix-1', 'rl-mix-2', 'rl-mix-3', 'rl-32') if not (HERE / row).is_dir()]
    if missing:
        raise SystemExit(f'no logs of {" ".join(missing)}: bash results/reproduce.sh {" ".join(missing)}')
    ablation()
    cost()
