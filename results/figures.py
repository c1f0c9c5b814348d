"""The figures of the pages in docs/, one message each, drawn from results/logs.

Each function draws one of them. They are read at a width of 800 pixels.

    python results/figures.py
"""

import json
import math
import statistics
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from errors import one_line_errors

from data import Parser, require
from plots import (
    FEEDS,
    IN_A_THOUGHT,
    NO_REFERENCE,
    SCALING_ARMS,
    SCHEME_COLOURS,
    draw,
    draw_any_budget,
    draw_expected,
    draw_gpt4,
    draw_grid,
    draw_pools,
    draw_range,
    draw_search_series,
    draw_thoughts,
    draw_widths,
    greedy_curve,
    hop_records,
    legend_below,
    maze_curve,
    model_records,
    new_figure,
    pass_curve,
    questions_and_accuracy,
    read_run,
    sample_of,
    save,
    search_points,
    short_ticks,
    slope_through_origin,
    validity_and_accuracy,
    where_needed,
)


LOGS = ROOT / 'results' / 'logs'
STUDIES = ROOT / 'results' / 'studies'
DOCS = ROOT / 'docs' / 'figures'


# -----------------------------------------------------------------------------
# what they share

def read_row(row):
    """The runs of a row of results/logs, one for each seed."""
    folders = sorted((LOGS / row).glob('seed*'))
    require(folders, f'there are no logs of {row}: bash results/reproduce.sh {row}')
    return [read_run(folder) for folder in folders]


def legend_beside(axis, handles=None):
    """A legend right of the axis."""
    axis.legend(handles=handles, loc='center left', bbox_to_anchor=(1.01, 0.5), fontsize=8,
                frameon=False)


def panels_over_legend(width, height, columns, handles, ncols=4, title=None):
    """A figure with axes side by side and one legend of all below them, and its axes."""
    figure = Figure(figsize=(width, height), layout='constrained')
    strip_height = 0.2 + 0.2 * math.ceil(len(handles) / ncols)
    top, strip = figure.subfigures(2, 1, height_ratios=(height - strip_height, strip_height))
    strip.legend(handles=handles, loc='center', ncols=ncols, fontsize=8, frameon=False)
    if title:
        top.suptitle(title)
    return figure, top.subplots(1, columns, sharey=True, squeeze=False)[0]


def label_ends(axis, ends, gap=0.055):
    """The names of curves, right of the axis at their ends: (y, name, colour) each."""
    least, most = axis.get_ylim()
    below = -math.inf
    for y, name, colour in sorted(ends):
        height = max((y - least) / (most - least), below + gap)
        axis.text(1.01, height, name, color=colour, fontsize=8, va='center',
                  transform=axis.transAxes)
        below = height


def mean_and_range(curves):
    """The mean, least and largest of several curves, place by place."""
    curves = np.array(curves)
    return curves.mean(axis=0), curves.min(axis=0), curves.max(axis=0)


# -----------------------------------------------------------------------------
# the figures

def hops():
    """Loops, layers or a chain: accuracy against hops. Lines are means over seeds, areas reach
    from the least to the most."""
    panels = {
        'No chain: one layer, applied again and again': {
            'hops-layers-1': ('once', 'tab:gray', 'v'),
            'hops-loops-2': ('2 times', 'tab:green', 'd'),
            'hops-loops-4': ('4 times', 'tab:orange', 's'),
            'hops-loops-8': ('8 times', 'tab:red', 'o'),
        },
        'No chain: layers with weights of their own': {
            'hops-layers-1': ('1 layer', 'tab:gray', 'v'),
            'hops-layers-2': ('2 layers', 'tab:green', 'd'),
            'hops-layers-4-narrow': ('4 layers, narrow', 'tab:olive', '^'),
            'hops-layers-4-wide': ('4 layers, wide', 'tab:orange', 's'),
        },
    }
    figure, axes = new_figure(11, 3.8, 1, 2, sharey=True)
    for axis, (title, rows) in zip(axes, panels.items(), strict=True):
        hops, accuracy, _ = hops_curves('hops-chain')
        axis.plot(hops, accuracy.mean(axis=0), color='tab:blue', lw=9, alpha=0.3)
        ends = [(1.0, 'chain of thought, 1 layer', 'tab:blue')]
        for row, (label, colour, marker) in rows.items():
            hops, accuracy, params = hops_curves(row)
            mean, least, most = mean_and_range(accuracy)
            draw_range(axis, hops, least, most, colour)
            axis.plot(hops, mean, color=colour, marker=marker, ms=5)
            ends.append((mean[-1], f'{label}, {params / 1000:.0f}k', colour))

        chance = read_row('train_cot/hops-chain')[0].final['chance']
        axis.axhline(chance, color='black', linestyle=':', lw=1)
        ends.append((chance - 0.02, 'chance', 'black'))
        axis.set(xlabel='hops', xticks=hops, ylim=(0, 1.1), title=title)
        label_ends(axis, ends)
    axes[0].set_ylabel('accuracy of the answer, held out')
    return figure


def hops_curves(row):
    """Hops, accuracy after training (a line for each seed) and parameters of a row of train_cot."""
    runs = read_row(f'train_cot/{row}')
    curves = []
    for run in runs:
        (by_hops,) = run.final['by_hops'].values()
        curves.append([measures['acc'] for measures in by_hops.values()])
    return [int(h) for h in by_hops], np.array(curves), runs[0].final['params']


def faithfulness():
    """Is the chain read, along training, in models that can do without it?"""
    rows = {
        'faith-chain-layers': '4 layers, trained on chains',
        'faith-mix-layers': '4 layers, trained on chains and on answers at once',
    }
    measures = {  # of the log: label, colour, line style
        'acc': ('right answers, with its chain', 'tab:blue', '-'),
        'at_once': ('right answers at once', 'tab:red', '-'),
        'follow': ('follow: a chain token is replaced, the answer follows', 'tab:green', '--'),
        'swap': ("swap: another's chain, the answer stays its own", 'tab:purple', '--'),
    }
    handles = [sample_of(label, line, color=colour) for label, colour, line in measures.values()]
    handles.append(sample_of('chance', ':', color='black', lw=1))
    figure, axes = panels_over_legend(9, 4.4, 2, handles, ncols=2)
    for axis, (row, title) in zip(axes, rows.items(), strict=True):
        runs = read_row(f'train_cot/{row}')
        for name, (_, colour, line) in measures.items():
            if name == 'at_once' and 'mix' not in row:
                continue
            curves = []
            for run in runs:
                steps, curve = faithfulness_curve(run, name)
                curves.append(curve)
            mean, least, most = mean_and_range(curves)
            axis.plot(steps, mean, line, color=colour)
            draw_range(axis, steps, least, most, colour)
        axis.axhline(runs[0].chance(3), color='black', linestyle=':', lw=1)
        axis.set(title=title, xlabel='step', ylim=(0, 1.03))
        axis.title.set_fontsize(9)
    axes[0].set_ylabel('share of held-out questions of 3 hops')
    return figure


def faithfulness_curve(run, name):
    """Steps, and a measure at each evaluation of the arm with chains, at the largest hop count."""
    steps = []
    values = []
    for record in run.log:
        if 'eval' in record and record['arm'] in ('cot', 'mix'):
            steps.append(record['step'])
            by_hops = record['eval'][str(max(run.hops))]
            values.append(record[name] if name in record else by_hops[name])
    return steps, values


def chains_and_accuracy(run, hops):
    """[(chains seen so far, accuracy at this hop count)] over the evaluations of an RL run, or of
    one that was shown the chains."""
    points = []
    for record in run.log:
        if 'eval' in record:
            shown = record['step'] * run.args['batch_size']
            points.append((record.get('samples', shown), record['eval'][str(hops)]['acc']))
    return points


def chains_until(points, bar=0.95):
    """Chains until the accuracy reaches the bar, or None."""
    for chains, accuracy in points:
        if accuracy >= bar:
            return chains
    return None


DOCS_RL = {  # row: label, colour
    'train_cot/rl-cot': ('chains are shown (train_cot.py)', 'tab:gray'),
    'train_rl/loo': ('leave-one-out, the default', 'tab:blue'),
    'train_rl/ema': ('running mean', 'tab:blue'),
    'train_rl/none': ('no baseline', 'tab:blue'),
    'train_rl/passk': ('pass@8', 'tab:blue'),
    'train_rl/prefix': ('value of each prefix', 'tab:blue'),
    'train_rl/hops-4': ('4 hops only, no easy questions', 'tab:red'),
}


def rl_baselines():
    """Chains until 95% at 4 hops, by baseline."""
    figure, axis = new_figure(8, 3.8)
    for y, (row, (_, colour)) in enumerate(DOCS_RL.items()):
        runs = read_row(row)
        for i, run in enumerate(runs):
            points = chains_and_accuracy(run, 4)
            chains = chains_until(points)
            height = y + 0.13 * (i - (len(runs) - 1) / 2)  # seeds one below the other
            axis.plot(chains or points[-1][0], height, 'x' if chains is None else 'o', ms=6,
                      color=colour)
    axis.set(xscale='log', xlabel='chains until an accuracy of 0.95 at 4 hops',
             yticks=range(len(DOCS_RL)), yticklabels=[label for label, _ in DOCS_RL.values()],
             ylim=(len(DOCS_RL) - 0.5, -0.5),
             title='10 nodes, 1 to 4 hops; in the last line only 4')
    short_ticks(axis.xaxis, [30000, 100000, 300000, 1000000, 3000000])
    axis.grid(axis='x', alpha=0.3)
    legend_beside(axis, [
        sample_of('a seed', '', marker='o', color='tab:blue'),
        sample_of('a seed that never\ngot there (at its end)', '', marker='x', color='tab:blue'),
        sample_of('learns from shown\nchains instead', '', marker='o', color='tab:gray'),
        sample_of('the control, which\nnever gets there', '', marker='x', color='tab:red')])
    return figure


def rl_validity():
    """Accuracy against validity, at every evaluation of all those runs."""
    figure, axis = new_figure(7.5, 3.8)
    for row, (_, colour) in DOCS_RL.items():
        arm = 'cot' if row.startswith('train_cot') else 'rl'
        for run in read_row(row):
            axis.plot(*validity_and_accuracy(run, arm), '.', color=colour, ms=5, alpha=0.6)
    chance = read_row('train_rl/loo')[0].chance(4)
    draw_expected(axis, 4, chance)
    axis.axhline(chance, color='black', lw=1, ls=':', label='chance')
    axis.set(xlabel='validity of the chain', ylabel='greedy accuracy', xlim=(-0.02, 1.03),
             ylim=(0, 1.03), title='4 hops, one dot an evaluation')
    legend_beside(axis, [
        sample_of('rewards alone', '', marker='.', color='tab:blue'),
        sample_of('chains are shown', '', marker='.', color='tab:gray'),
        sample_of('4 hops only', '', marker='.', color='tab:red'),
        sample_of('all four links right,\nor a lucky guess', '--', color='black', lw=1),
        sample_of('chance', ':', color='black', lw=1)])
    return figure


def rl_cost():
    """Chains until 95% against the number of hops."""
    series = (
        ('10 nodes,\nmixture of 1 to k hops', 'tab:blue',
         {1: 'mix-1', 2: 'mix-2', 3: 'mix-3', 4: 'loo'}),
        ('32 nodes, 1 to 8 hops,\neasy ones first', 'tab:orange', dict.fromkeys(range(1, 9), '32')),
    )
    figure, axis = new_figure(7.5, 3.6)
    handles = []
    for label, colour, rows in series:
        means = []
        for hops, row in rows.items():
            reached = []
            for run in read_row(f'train_rl/{row}'):
                reached.append(chains_until(chains_and_accuracy(run, hops)))
            known = [chains for chains in reached if chains]
            axis.plot([hops] * len(known), known, 'o', color=colour, alpha=0.6, ms=5)
            means.append(math.nan if None in reached else statistics.geometric_mean(reached))
        axis.plot(list(rows), means, color=colour)
        handles.append(sample_of(label, color=colour))
    axis.set(yscale='log', xlabel='hops, k', ylabel='chains until an accuracy of 0.95 at k hops',
             xticks=range(1, 9), title='the cost of discovery')
    short_ticks(axis.yaxis, [100000, 200000, 500000, 1000000, 2000000, 5000000])
    axis.grid(axis='y', alpha=0.3)
    handles += [sample_of('a seed', '', marker='o', color='0.4', ms=5),
                sample_of('geometric mean of seeds', color='0.4')]
    legend_beside(axis, handles)
    return figure


RL_ADDS = {  # row of train_rl.py: label, colour, and the end of its pass@k
    'multiply': ('comparison: leave one out', 'tab:blue', ''),
    'multiply-right-only': ('comparison: no baseline,\nits own right chains', 'tab:orange',
                            ''),
    'multiply-coin': ('control: the reward is a coin', 'tab:red', ''),
    'multiply-shown': ('chains shown instead', 'tab:gray', '_before'),
}
RL_STARTS = ('multiply-from-270', 'multiply-from-280', 'multiply-from-210')  # one seed each


def rl_adds():
    """pass@k before and after further training: of a half-trained multiplier, a panel a seed, and
    of a model that guesses at the fork of a star."""
    handles = [sample_of('best recipe: before', '--', color='tab:purple'),
               sample_of('best recipe: after 500 steps', color='tab:purple', marker='.'),
               sample_of('comparison: before', '--', color='black')]
    for label, colour, _ in RL_ADDS.values():
        handles.append(sample_of(label, color=colour, marker='.'))
    bases = read_row('train_rl/multiply')
    figure, axes = panels_over_legend(12, 4.1, len(bases) + 1, handles, 3)
    for axis, base in zip(axes, bases, strict=False):
        seed = base.final['seed']
        axis.plot(*pass_curve(base, '_before'), '--', color='black')
        for row, (_, colour, end) in RL_ADDS.items():
            for run in read_row(f'train_rl/{row}'):
                if run.final['seed'] == seed:  # the controls have fewer seeds
                    axis.plot(*pass_curve(run, end), '.-', color=colour)
        for row in RL_STARTS:
            for run in read_row(f'train_rl/{row}'):
                if run.final['seed'] == seed:
                    axis.plot(*pass_curve(run, '_before'), '--', color='tab:purple')
                    axis.plot(*pass_curve(run), '.-', color='tab:purple')
        axis.set_title(f'3 x 3 digits, seed {seed}')
    for row in ('star', 'star-coin'):
        colour = RL_ADDS[row.replace('star', 'multiply')][1]
        for run in read_row(f'train_rl/{row}'):
            axes[-1].plot(*pass_curve(run, '_before'), '--', color='black')
            axes[-1].plot(*pass_curve(run), '.-', color=colour)
    axes[-1].set_title('path on a star, 3 seeds')
    axes[-1].set_xlim(0.8, 320)
    for axis in axes:
        axis.set(xscale='log', xlabel='chains, k', ylim=(-0.03, 1.03))
        short_ticks(axis.xaxis, [1, 4, 16, 64, 256])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel('pass@k')
    return figure


PUZZLES = {  # row of train_puzzles.py: label, colour
    '24': ('trained on 24', 'tab:blue'),
    'others': ('trained on 10 to 100 without 24', 'tab:orange'),
    'right-only': ('trained on 24, solved chains alone', 'tab:green'),
    'coin': ('control: the reward is a coin', 'tab:red'),
}


def puzzles():
    """Games of 24 that greedy steps solve, over training, and pass@k before and after."""
    figure, (left, right) = new_figure(9.4, 4, columns=2)
    for row, (label, colour) in PUZZLES.items():
        for i, run in enumerate(read_row(f'train_puzzles/{row}')):
            names = [f'{label}: held-out 24', 'its training puzzles', label]
            if i > 0:  # one name for all seeds
                names = [None] * 3
            left.plot(*greedy_curve(run), color=colour, label=names[0])
            left.plot(*greedy_curve(run, 'greedy_seen'), ':', color=colour, label=names[1])
            right.plot(*pass_curve(run), '.-', color=colour, label=names[2])
    for i, base in enumerate(read_row('train_puzzles/24')):
        name = 'before' if i == 0 else None
        right.plot(*pass_curve(base, '_before'), '--', color='black', label=name)
    left.set(xlabel='chains played', ylabel='share of puzzles solved', title='greedy steps',
             ylim=(-0.02, 0.5))
    right.set(xlabel='chains, k', xscale='log', ylim=(-0.03, 1.03), title='pass@k, held-out 24')
    short_ticks(left.xaxis)
    short_ticks(right.xaxis, [1, 4, 16, 64])
    legend_below(left, columns=2)
    legend_below(right, columns=1)
    return figure


SHARES = (0, 0.01, 0.02, 0.05, 0.1, 0.3)  # of results/studies/discovery.py
LARGEST = (2, 3, 4, 6)


def discovery():
    """Of the runs with this share of one-hop questions, how many find chains of K hops?"""
    results = {}
    for line in (STUDIES / 'discovery.jsonl').read_text(encoding='utf-8').splitlines():
        record = json.loads(line)
        if record['steps'] == 1000:  # others are trials
            runs = results.setdefault((record['share'], record['largest']), {})
            runs[record['seed']] = record['chains_95'] is not None

    figure, axis = new_figure(6.5, 3.6)
    successes = np.full((len(LARGEST), len(SHARES)), np.nan)
    for y, largest in enumerate(LARGEST):
        for x, share in enumerate(SHARES):
            runs = list(results.get((share, largest), {}).values())
            if runs:
                successes[y, x] = np.mean(runs)
            axis.text(x, y, f'{sum(runs)} of {len(runs)}', ha='center', va='center')
    axis.imshow(successes, cmap='Blues', vmin=0, vmax=1.4, origin='lower', aspect='auto')
    axis.set(xticks=range(len(SHARES)), xticklabels=[f'{share:.0%}' for share in SHARES],
             yticks=range(len(LARGEST)), yticklabels=LARGEST,
             xlabel='share of training questions with one hop', ylabel='largest hop count, K',
             title='runs that come to 0.95 at K hops')
    return figure


LATENT = {  # arms beside the feeds of train_latent.py: label, colour
    'rl': ('REINFORCE (8 chains a question)', 'black'),
    'loop': ('no thoughts, layer applied 4 times', 'tab:brown'),
}


def latent():
    """Four ways to learn to think from answers alone. Accuracy against questions, with easy
    questions and without; and what the thoughts of each are."""
    figure = Figure(figsize=(11, 4.6), layout='constrained')
    top, strip = figure.subfigures(2, 1, height_ratios=(4, 0.6))
    axes = top.subplots(1, 4, width_ratios=(3, 3, 1.5, 1.5))

    draw_latent_curves(axes[0], ('default', 'direct'), 'train_rl/loo')
    axes[0].plot(*mean_curve('train_latent/loop', 'direct'), color=LATENT['loop'][1])
    axes[0].set(title='1 to 4 hops mixed', ylabel='accuracy at 4 hops, held-out')
    draw_latent_curves(axes[1], ('hops-4',), 'train_rl/hops-4')
    axes[1].set(title='4 hops alone')

    for axis, row, title in ((axes[2], 'default', 'hidden, 1 to 4 hops'),
                             (axes[3], 'hops-2', 'hidden, 2 hops alone')):
        measures = [run.final['thoughts']['hidden'] for run in read_row(f'train_latent/{row}')]
        draw_thoughts(axis, measures)
        axis.set(xlabel='thought', ylim=(0, 1.03))
        axis.set_title(title, fontsize=9)
    axes[2].set_ylabel('share of held-out questions')

    shown = ('token', 'soft', 'hidden', 'straight_through', 'pause', 'direct')
    names = [FEEDS[feed] for feed in shown] + list(LATENT.values())
    handles = [sample_of(label, color=colour) for label, colour in names]
    handles.append(sample_of('chance', ':', color='black', lw=1))
    for name, colour in IN_A_THOUGHT.items():
        handles.append(sample_of(name, '', marker='s', color=colour))
    strip.legend(handles=handles, loc='center', ncols=5, fontsize=8, frameon=False)
    return figure


def draw_latent_curves(axis, rows, rl_row):
    """Accuracy at 4 hops against questions seen, the mean over seeds, and the range of them."""
    for row in rows:
        runs = read_row(f'train_latent/{row}')
        for feed in runs[0].args['feed']:
            if feed != 'raw':
                draw_mean(axis, [questions_and_accuracy(run, feed) for run in runs],
                          FEEDS[feed][1])
    curves = []
    for run in read_row(rl_row):
        records = run.evaluations('rl')
        questions = [record['step'] * run.args['batch_size'] for record in records]
        curves.append((questions, [record['eval']['4']['acc'] for record in records]))
    draw_mean(axis, curves, LATENT['rl'][1])
    axis.axhline(runs[0].chance(4), color='black', lw=1, ls=':')
    axis.set(xscale='log', xlim=(5000, None), ylim=(0, 1.03), xlabel='training questions')
    short_ticks(axis.xaxis)


def latent_layers():
    """Thoughts, pauses or layers: accuracy at each hop count, for 1, 2 and 4 layers."""
    marks = {'soft': 's', 'hidden': 'o', 'pause': 'v', 'direct': 'x'}
    rows = {1: ('default', 'direct'), 2: ('layers-2', 'layers-2-fixed'),
            4: ('layers-4', 'layers-4-fixed')}
    figure, axes = new_figure(9, 3.8, columns=3, sharey=True)
    for axis, (n_layer, names) in zip(axes, rows.items(), strict=True):
        for name in names:
            runs = read_row(f'train_latent/{name}')
            for feed in runs[0].args['feed']:
                if feed in marks:
                    label, colour = FEEDS[feed]
                    hops, curves = accuracy_by_hops(runs, feed)
                    mean, least, most = mean_and_range(curves)
                    axis.plot(hops, mean, marker=marks[feed], color=colour, label=label)
                    draw_range(axis, hops, least, most, colour)
        axis.axhline(runs[0].chance(4), color='black', lw=1, ls=':')
        axis.set(xlabel='hops', xticks=hops, title=f'{n_layer} layer{"s" * (n_layer > 1)}')
    figure.suptitle('1 layer: 102,400 questions. 2 and 4 layers: 204,800 with thoughts, 768,000 '
                    'without', fontsize=9)
    axes[0].set(ylabel='accuracy, held-out', ylim=(0, 1.03))
    legend_below(axes[1], columns=4)
    return figure


def accuracy_by_hops(runs, feed):
    """Hops, and the accuracies of each run after training."""
    curves = []
    for run in runs:
        by_hops = run.final['by_hops'][feed]
        curves.append([measures['acc'] for measures in by_hops.values()])
    return [int(k) for k in by_hops], curves


def draw_mean(axis, curves, colour):
    """The mean of curves with the same x, and their range. curves: (x, y) each."""
    x = curves[0][0]
    mean, least, most = mean_and_range([y for _, y in curves])
    axis.plot(x, mean, color=colour)
    draw_range(axis, x[1:], least[1:], most[1:], colour)  # on a logarithmic axis 0 has no place


def mean_curve(row, feed):
    """Questions, and mean accuracy over seeds."""
    curves = [questions_and_accuracy(run, feed) for run in read_row(row)]
    return curves[0][0], np.mean([y for _, y in curves], axis=0)


def search_flops():
    """What search buys. Left: the model makes its moves and does its arithmetic. Right: code does,
    and the model or a control says which state is best."""
    by_model = {
        "beam, the model's moves": ('beam, b = 1, 3, 5', 'tab:blue', '-', 'o'),
        "dfs, the model's moves": ('depth first, 11 and 100 nodes', 'tab:blue', '--', 's'),
        "dfs, the model's moves, pruned": ('depth first, pruned', 'tab:purple', '--', 's'),
        'best-of-k, one at a time': ('chains one at a time until right', 'tab:green', '-', '.'),
        'best-of-k, oracle': ('one of k = 1 to 100 is right', 'tab:orange', '-', '.'),
        'best-of-k, verdict': ('best of k by verdict', 'tab:red', '-', '.'),
        'best-of-k, log-prob': ('most probable of k', 'tab:olive', '-', '.'),
        'best-of-k, majority': ('majority of k', 'tab:brown', '-', '.'),
    }
    by_code = {
        'beam, all legal moves': ('beam, the model judges', 'tab:blue', '-', 'o'),
        'dfs, all legal moves': ('depth first, the model judges', 'tab:blue', '--', 's'),
        'dfs, all legal moves, pruned': ('the same, pruned', 'tab:purple', '--', 's'),
        "beam, 'mult' heuristic": ("beam, 'mult'", 'black', '-', 'o'),
        "dfs, 'mult' heuristic": ("depth first, 'mult'", 'black', '--', 's'),
        'beam, random values': ('beam, random values', '0.6', '-', 'o'),
        'dfs, random order': ('depth first, random order', '0.6', '--', 's'),
        'random rollouts, one at a time': ('random chains, one at a time', '0.6', ':', '.'),
        'random rollouts, oracle': ('one of k random chains', '0.8', ':', '.'),
    }
    runs = read_row('search/tot')
    figure, (left, right) = new_figure(10, 5.6, columns=2, sharey=True)
    figure.suptitle(search_title(runs))
    for axis, cost, series in ((left, 'flops', by_model), (right, 'states', by_code)):
        for name, (label, colour, line, marker) in series.items():
            points = search_points(runs, name)
            if points:
                draw_search_series(axis, points, cost, (colour, line, marker), label=label)
        legend_below(axis, columns=2)
        axis.grid(alpha=0.2)
    left.set(xscale='log', xlabel='forward FLOPs a puzzle', ylabel='share solved', ylim=(0, 1.03),
             yticks=np.linspace(0, 1, 6), title='moves by the model')
    right.set(xscale='log', xlabel='states looked at, a puzzle', title='moves by code')
    short_ticks(left.xaxis, [3e7, 1e8, 3e8, 1e9, 3e9])
    short_ticks(right.xaxis, [3, 10, 30, 100, 300])
    return figure


def search_title(runs):
    return (f'{runs[0].final["n_test"]} puzzles of Tree of Thoughts. Mean of {len(runs)} models, '
            'shaded: the range')


def search_nodes():
    """Solved against nodes, by what guides the search. Code makes the moves."""
    series = {  # a colour for each guide
        'beam, all legal moves': ('the model', 'tab:blue', '-'),
        'dfs, all legal moves': ('the model', 'tab:blue', '--'),
        "beam, 'mult' heuristic": ("'mult'", 'black', '-'),
        "dfs, 'mult' heuristic": ("'mult'", 'black', '--'),
        'beam, random values': ('no guide', 'tab:gray', '-'),
        'dfs, random order': ('no guide', 'tab:gray', '--'),
    }
    runs = read_row('search/tot')
    figure, axis = new_figure(8, 4)
    for name, (guide, colour, line) in series.items():
        points = search_points(runs, name)
        draw_search_series(axis, points, 'expansions', (colour, line, 'o'))
        end = points[-1]
        is_beam = name.startswith('beam')
        axis.annotate(guide, (end['expansions'], end['solved']), fontsize=8, color=colour,
                      xytext=(8, 0) if is_beam else (0, 8), textcoords='offset points',
                      ha='left' if is_beam else 'center', va='center')
    axis.set(xscale='log', xlabel='nodes expanded a puzzle', ylabel='share solved', ylim=(0, 1.1),
             yticks=np.linspace(0, 1, 6), title=search_title(runs))
    short_ticks(axis.xaxis, [3, 5, 10, 20, 40])
    legend_beside(axis, [
        sample_of('beam, b = 1, 3, 5', marker='o', color='0.4'),
        sample_of('depth first,\nby budget of nodes', '--', marker='o', color='0.4')])
    return figure


def search_gpt4():
    """Beside GPT-4, which finds its moves itself: a model that does so, too."""
    runs = read_row('search/tot')
    figure, axis = new_figure(8, 4)
    draw_search_series(axis, search_points(runs, "beam, the model's moves"), 'expansions',
                       ('tab:blue', '-', 'o'), label='ours: beam, b = 1, 3, 5')
    draw_search_series(axis, search_points(runs, 'best-of-k, oracle'), 'expansions',
                       ('tab:orange', '-', 'o'),
                       label='ours: one of k chains\nis right, k = 1 to 100')
    draw_gpt4(axis)
    axis.set(xscale='log', xlabel='nodes expanded a puzzle', ylabel='share solved', ylim=(0, 1.05),
             title=search_title(runs))
    short_ticks(axis.xaxis, [1, 3, 10, 30, 100, 300])
    legend_beside(axis)
    return figure


def best_of_k():
    """Choosing among k answers, on two half-trained models."""
    rules = {
        'oracle': ('one of the k is right (the ceiling)', 'tab:orange', ':'),
        'log-prob': ('most probable chain', 'tab:blue', '-'),
        'majority': ('majority vote', 'tab:brown', '--'),
    }
    rows = {
        'cycle': 'cycle, 20 nodes, 4 hops',
        'multiply': 'multiply, 3 x 3 digits',
    }
    ks = [1, 2, 4, 8, 16, 32, 64]
    handles = [sample_of(label, line, color=colour) for label, colour, line in rules.values()]
    handles.append(sample_of('chance', ':', color='black', lw=1))
    figure, axes = panels_over_legend(8, 4, 2, handles)
    for axis, (row, title) in zip(axes, rows.items(), strict=True):
        runs = read_row(f'search/{row}')
        for rule, (_, colour, line) in rules.items():
            for run in runs:
                records = [r for r in run.log if r.get('series') == f'best-of-k, {rule}']
                k = [int(record['setting'].removeprefix('k=')) for record in records]
                axis.plot(k, [record['solved'] for record in records], line, color=colour,
                          marker='.')
        axis.axhline(runs[0].final['chance'], color='black', linestyle=':', lw=1)
        axis.set(xscale='log', xlabel='chains sampled, k', ylim=(-0.02, 1.03),
                 title=f'{title}: one line a seed')
        short_ticks(axis.xaxis, ks)
    axes[0].set_ylabel('accuracy, held-out')
    return figure


def capacity_bits():
    """Stored bits against parameters: how much fits."""
    figure, axis = new_figure(8, 3.8)
    for row, colour, exposures in (('1', 'tab:blue', 1000), ('1-300', 'tab:orange', 300),
                                   ('1-100', 'tab:gray', 100)):
        records = model_records(read_row(f'capacity/{row}'))
        params = [record['params'] for record in records]
        stored = [record['stored']['one hop'] for record in records]
        slope = slope_through_origin(params, stored)
        axis.plot(params, stored, 'o', color=colour, ms=5,
                  label=f'{exposures:,} exposures:\n{slope:.2f} bits a parameter')
        axis.axline((0, 0), slope=slope, color=colour, linewidth=1)
    records = model_records(read_row('capacity/1'))
    axis.plot([record['params'] for record in records],
              [record['entropy']['one hop'] for record in records],
              '_', color='black', ms=16, label='facts to be stored')
    axis.axline((0, 0), slope=2, color='black', linestyle=':', label='2 bits a parameter')
    axis.set(xlabel='parameters', ylabel='bits', title='one hop: bits stored, one dot a model',
             xlim=(0, None), ylim=(0, None))
    short_ticks(axis.xaxis)
    short_ticks(axis.yaxis)
    legend_beside(axis)
    return figure


def capacity_smallest():
    """How large a model must be to learn the questions, with and without a chain."""
    series = (  # row, hops, measure of trained questions, held out, marker, colour, label
        ('chain', 1, 'acc_1', None, 'o', 'tab:blue', 'one hop, the facts alone'),
        ('chain', 2, 'acc_2_trained', 'acc_2_combination', 's', 'tab:green', 'two hops, chain'),
        ('latent', 2, 'acc_2_trained', 'acc_2_combination', '^', 'tab:red', 'two hops, no chain'),
        ('loop', 2, 'acc_2_trained', 'acc_2_combination', 'd', 'tab:purple',
         'two hops, no chain,\nlayer applied twice'),
    )
    figure, axis = new_figure(8, 3.8)
    handles = []
    for row, hops, trained, held_out, marker, colour, label in series:
        records = [r for r in model_records(read_row(f'capacity/{row}')) if r['hops'] == hops]
        for key, line in ((trained, '-'), (held_out, ':')):
            if key:
                axis.plot(*mean_by(records, 'params', key), line, marker=marker,
                          color=colour, ms=4)
        handles.append(sample_of(label, marker=marker, color=colour, ms=4))
    chance = records[0]['chance']
    axis.axhline(0.99, color='black', linewidth=0.5)
    axis.axhline(chance, color='black', linestyle='--', linewidth=1)
    axis.set(xlabel='parameters', ylabel='share of questions right', xscale='log', ylim=(0, 1.05),
             title='100 people: how large must a model be?')
    short_ticks(axis.xaxis, [10000, 20000, 30000, 40000, 60000])
    handles += [sample_of('trained questions', color='0.4'),
                sample_of('held-out questions', ':', color='0.4'),
                sample_of('0.99: counts as learned', color='black', lw=0.5),
                sample_of('chance, two hops', '--', color='black', lw=1)]
    legend_beside(axis, handles)
    return figure


def mean_by(records, x, y):
    """The values of x, and for each of them the mean of y."""
    by_x = {}
    for record in records:
        by_x.setdefault(record[x], []).append(record[y])
    return sorted(by_x), [statistics.mean(by_x[value]) for value in sorted(by_x)]


def capacity_schemes():
    """Two hops without a chain: under which scheme are the bits a parameter flat?"""
    records = model_records(read_row('capacity/flat'))
    figure, axis = new_figure(8, 3.8)
    handles = []
    for scheme, colour in zip(('optimal', 'double', 'big hash'), SCHEME_COLOURS, strict=True):
        for size, style in ((8000, 'o-'), (16000, 's--')):
            shown = []
            for record in records:
                if round(record['params'] / 8000) * 8000 == size:
                    bits = record['stored'][scheme] / record['params']
                    shown.append(dict(people=record['people'], bits=bits))
            axis.plot(*mean_by(shown, 'people', 'bits'), style, color=colour, ms=4)
        handles.append(sample_of(scheme, color=colour))
    axis.set(xlabel='people', ylabel='bits a parameter', xscale='log', ylim=(0, None),
             title='two hops, no chain: the bits that are stored, by scheme')
    short_ticks(axis.xaxis, [50, 100, 200])
    handles += [sample_of('8k parameters', color='0.4', marker='o', ms=4),
                sample_of('16k parameters', '--', color='0.4', marker='s', ms=4)]
    legend_beside(axis, handles)
    return figure


DEPTHS = {  # row of capacity.py: its name in the figure
    'compose-layers-1': '1 layer',
    'compose-loops-2': '1 layer,\ntwice',
    'compose-loops-4': '1 layer,\n4 times',
    'compose-layers-2': '2 layers',
    'compose-layers-4': '4 layers',
    'compose-layers-4-relabel': '4 layers,\nshuffled',
}


def capacity_depth():
    """Two hops without a chain, by depth: trained and held-out questions that are right. A column
    for each number of people, a row for each size, a mark for each model."""
    styles = {  # end of the row's name: (marker, colour, name, offset)
        '': ('o', 'tab:blue', 'no decay', -0.15),
        '-decay': ('^', 'tab:orange', 'weight decay', 0.15),
    }
    handles = []
    for marker, colour, name, _ in styles.values():
        handles.append(sample_of(f'trained, {name}', '', marker=marker, color='0.6', mfc='none',
                                 ms=5))
        handles.append(sample_of(f'held out, {name}', '', marker=marker, color=colour, ms=5))
        handles.append(sample_of(f'combines, {name}', '--', color=colour, lw=1))
    figure = Figure(figsize=(9, 6.4), layout='constrained')
    top, bottom = figure.subfigures(2, 1, height_ratios=(9, 1))
    axes = top.subplots(2, 2, sharex=True, sharey=True)
    for x, row in enumerate(DEPTHS):
        for suffix, (marker, colour, _, offset) in styles.items():
            if not (LOGS / 'capacity' / f'{row}{suffix}').exists():
                continue  # shuffled answers have no row with decay
            for i, run in enumerate(read_row(f'capacity/{row}{suffix}')):
                place = x + offset - 0.1 + 0.05 * i  # seeds side by side
                for record in model_records([run]):
                    draw_two_shares(axes[depth_panel(record)], place, record, marker, colour)
    for suffix, (_, colour, _, _) in styles.items():
        for panel, bar in combining_bars(suffix).items():
            axes[panel].axhline(bar, color=colour, lw=1, ls='--')
    for axis in axes[:, 0]:
        axis.set(ylabel='share right', ylim=(-0.03, 1.05))
    for axis in axes[1]:
        axis.set_xticks(range(len(DEPTHS)), DEPTHS.values(), fontsize=8)
    bottom.legend(handles=handles, loc='center', ncols=2, fontsize=9, frameon=False)
    return figure


def draw_two_shares(axis, x, record, marker, colour):
    """The trained and the held-out combinations that a model has right, joined by a line."""
    trained = record['acc_2_trained']
    held_out = record['acc_2_combination']
    axis.plot((x, x), (trained, held_out), color=colour, lw=0.6, alpha=0.5)
    axis.plot(x, trained, marker, color='0.6', mfc='none', ms=5)
    axis.plot(x, held_out, marker, color=colour, ms=5)
    thousands = round(record['params'] / 5000) * 5
    axis.set_title(f'{record["people"]} people, {thousands},000 parameters')


def depth_panel(record):
    """Row and column of the panel that a model belongs to."""
    return int(record['params'] > 10000), int(record['people'] > 20)


def combining_bars(suffix):
    """{panel: share of held-out combinations from which on a run combines}: 0.1 above the best run
    of one layer, at any rate. suffix: '' or '-decay'."""
    rows = [f'compose-layers-1{suffix}']
    if suffix == '':
        rows.append('compose-layers-1-lr-2e-2')
    bars = {}
    for row in rows:
        for record in model_records(read_row(f'capacity/{row}')):
            bar = record['acc_2_combination'] + 0.1
            bars[depth_panel(record)] = max(bar, bars.get(depth_panel(record), 0))
    return bars


def probe_layers(row, title, xlabel='layer, at the prompt\'s end'):
    """A panel for each hop: probe and flip by layer, where the hop is needed. A mark a model."""
    runs = read_row(f'probe/{row}')
    n_hops = len(hop_records(runs[0]))
    untrained = 0
    handles = [sample_of('probe', color='tab:blue'), sample_of('flip', '--', color='tab:red'),
               sample_of('probe, untrained, at most', ':', color='black', lw=1)]
    for marker, name in zip('os^', ('first', 'second', 'third'), strict=True):
        handles.append(sample_of(f'{name} model', '', marker=marker, color='0.4', ms=5))
    figure, axes = panels_over_legend(8, 3.8, n_hops, handles, 3, title)
    for j, axis in enumerate(axes):
        for run, marker in zip(runs, 'os^', strict=True):
            hop = hop_records(run)[j]
            untrained = max(untrained, *where_needed(hop, 'random_init'))
            axis.plot(hop['layers'], where_needed(hop, 'acc'), color='tab:blue', lw=1,
                      marker=marker, ms=5)
            axis.plot(hop['layers'], where_needed(hop, 'flip'), '--', color='tab:red', lw=1,
                      marker=marker, ms=5)
        axis.set(title=f'hop {j + 1}', xlabel=xlabel, ylim=(-0.03, 1.05), xticks=hop['layers'])
    for axis in axes:
        axis.axhline(untrained, color='black', lw=1, ls=':')
    axes[0].set_ylabel('share of questions')
    return figure


def probe_chain():
    """Where a chain model has its hops: after its one layer, at the token before each."""
    runs = read_row('probe/chain')
    hops = hop_records(runs[0])
    figure, axes = new_figure(8, 3.8, rows=2, sharex=True)
    for axis, key, title in ((axes[0], 'acc', 'can a probe read hop j? (accuracy)'),
                             (axes[1], 'flip', 'does the answer follow hop j? (flip)')):
        after_layer = []
        for j in range(len(hops)):
            after_layer.append(np.mean([hop_records(run)[j][key][1] for run in runs], axis=0))
        image = draw_grid(axis, after_layer)
        axis.set(ylabel='hop j', yticks=range(len(hops)), yticklabels=range(1, len(hops) + 1))
        axis.set_title(title, fontsize=10)

    positions = hops[0]['positions']
    n_prompt = hops[0]['position'] + 1  # hop 1 is needed at the prompt's last token
    chain = [f'hop {j}' for j in range(1, len(positions) - n_prompt + 1)]
    axes[1].set_xticks(range(len(positions)), [*range(n_prompt - 1), 'prompt\nends', *chain],
                       fontsize=8)
    axes[1].set_xlabel('position; the last ones hold the chain written so far')
    figure.colorbar(image, ax=axes, label='share of questions')
    return figure


def probe_training():
    """The default model while it learns, from results/studies/probe_curve.py."""
    lines = (ROOT / 'results' / 'studies' / 'probe_curve.jsonl').read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = [record['step'] for record in records]
    figure, axis = new_figure(8, 3.8)
    axis.plot(steps, [record['acc'] for record in records], color='black', lw=7, alpha=0.25,
              label='the model\'s answer, 2 hops')
    for key, style, label in (('hop1', 'C0o-', 'probe for hop 1, after layer 1'),
                              ('flip', 'C3d--', 'flip of hop 1, after layer 1'),
                              ('hop2_2', 'C1o-', 'probe for hop 2, after layer 2'),
                              ('hop2_1', 'C1s:', 'probe for hop 2, after layer 1')):
        axis.plot(steps, [record[key] for record in records], style, ms=3, lw=1.2, label=label)
    axis.set(title='the default model while it learns (one seed)', xlabel='step',
             ylabel='share of questions', ylim=(-0.03, 1.05))
    legend_beside(axis)
    return figure


def probe_profiles():
    """A model that composes facts beside one that learned two-hop answers by heart."""
    measures = (
        ('acc', 'o-', 'tab:blue', 'probe: the bridge person'),
        ('flip', 'd--', 'tab:red', 'flip'),
        ('unasked', '^:', 'tab:green', 'probe, pairs never asked in two hops'),
    )
    handles = []
    for _, style, colour, label in measures:
        handles.append(sample_of(label, style[1:], marker=style[0], ms=4, color=colour))
    handles.append(sample_of('thin: one model each; thick: their mean', color='0.5', lw=0.6))
    figure, axes = panels_over_legend(8, 4, 2, handles, 2,
                                      "profiles: who is X's mentor's employer?")
    for axis, row in zip(axes, ('composer', 'memoriser'), strict=True):
        hops = [hop_records(run)[0] for run in read_row(f'probe/{row}')]
        layers = hops[0]['layers']
        for key, style, colour, _ in measures:
            curves = [where_needed(hop, key) for hop in hops]
            axis.plot(layers, np.mean(curves, axis=0), style, color=colour, ms=5)
            for curve in curves:
                axis.plot(layers, curve, style[1:], color=colour, lw=0.6, alpha=0.5)
        axis.set(title=row, xlabel='times the layer was applied', ylim=(-0.03, 1.05),
                 xticks=layers)
    axes[0].set_ylabel('share of questions')
    return figure


LOSS_COLOURS = {'path': 'tab:blue', 'full': 'tab:red', 'balanced': 'tab:orange',
                'mlmu': 'tab:purple', 'graded': 'tab:green'}


def maze(measure, panels):
    """Learning curves. Panels: {title: rows of train_maze, whose losses are compared}."""
    losses = {}
    for rows in panels.values():
        for row in rows:
            losses[read_row(f'train_maze/{row}')[0].args['loss']] = True
    handles = [sample_of(f'{loss} loss', color=LOSS_COLOURS[loss]) for loss in losses]
    handles += [sample_of('greedy walk', ':', color='black'),
                sample_of('least to most of three seeds', color='0.85', lw=6)]
    width = 8 if len(panels) > 1 else 7
    figure, axes = panels_over_legend(width, 3.6, len(panels), handles, ncols=len(losses))
    for axis, (title, rows) in zip(axes, panels.items(), strict=True):
        for row in rows:
            runs = read_row(f'train_maze/{row}')
            curves = [maze_curve(run, measure)[1] for run in runs]
            steps = maze_curve(runs[0], measure)[0]
            colour = LOSS_COLOURS[runs[0].args['loss']]
            mean, least, most = mean_and_range(curves)
            axis.plot(steps, mean, color=colour)
            draw_range(axis, steps, least, most, colour)
        greedy = statistics.mean(run.final['greedy_shortest'] for run in runs)
        axis.axhline(greedy, color='black', linestyle=':')
        axis.set(title=title, xlabel='step', ylim=(0, 1.02))
    axes[0].set_ylabel(f'share of mazes with {measure} path')
    return figure


def maze_figures():
    """The four comparisons of losses."""
    return {
        'maze_losses.png': lambda: maze('exact', {
            '3x3, learning rate 5e-4': ['path', 'balanced', 'full'],
            '3x3, learning rate 2e-3': ['path-fast', 'balanced-fast', 'full-fast']}),
        'maze_wilson.png': lambda: maze('exact', {
            "4x4, Wilson's mazes": ['wilson-path', 'wilson-balanced', 'wilson-full']}),
        'maze_mlmu.png': lambda: maze('exact', {
            '4x4, depth-first mazes': ['default', 'mlmu']}),
        'maze_graded.png': lambda: maze('shortest', {
            '4x4 with loops': ['loops-path', 'loops-graded']}),
    }


def all_figures():
    """{file name in docs/figures: a function that draws it}"""
    return {
        'cycle-20.png': lambda: draw(read_row('train_cot/cycle-20')[:1]),
        'hops.png': hops,
        'faithfulness.png': faithfulness,
        'rl-10.png': lambda: draw(read_row('train_rl/loo')[:1]),
        'rl_baselines.png': rl_baselines,
        'rl_validity.png': rl_validity,
        'rl_cost.png': rl_cost,
        'rl_adds.png': rl_adds,
        'puzzles.png': puzzles,
        'discovery.png': discovery,
        'latent.png': latent,
        'latent_layers.png': latent_layers,
        'scaling.png': scaling,
        'scaling_fresh.png': scaling_fresh,
        'scaling_parity.png': lambda: draw(read_row('scaling/parity')),
        'search_flops.png': search_flops,
        'search_nodes.png': search_nodes,
        'search_calibration.png': lambda: draw(read_row('search/calibration')),
        'search_budgets.png': lambda: draw(read_row('search/budgets')),
        'search_tree.png': lambda: draw(read_row('search/tree')),
        'search_gpt4.png': search_gpt4,
        'best_of_k.png': best_of_k,
        'capacity_bits.png': capacity_bits,
        'capacity_smallest.png': capacity_smallest,
        'capacity_schemes.png': capacity_schemes,
        'capacity_depth.png': capacity_depth,
        'probe-default.png': lambda: draw(read_row('probe/default')[:1]),
        'probe_chain.png': probe_chain,
        'probe_2_hops.png': lambda: probe_layers('default', '2 layers, 2 hops'),
        'probe_3_hops.png': lambda: probe_layers('direct', '4 layers, 3 hops'),
        'probe_loop.png': lambda: probe_layers(
            'loop', 'one layer, applied 4 times, 3 hops', 'times the layer was applied'),
        'probe_training.png': probe_training,
        'probe_profiles.png': probe_profiles,
        'maze-default.png': lambda: draw(read_row('train_maze/default')[:1]),
        **maze_figures(),
    }


# -----------------------------------------------------------------------------
# scaling.py

SCALING_ROWS = ('chains', 'direct', 'loop', 'controls', 'widths', 'budgets')
RL_ROWS = {1: 'mix-1', 2: 'mix-2', 3: 'mix-3', 4: 'loo'}  # hop counts 1 to k, ten nodes


def scaling():
    """The three measurements, each arm with all of its seeds."""
    runs = []
    for row in SCALING_ROWS:
        runs += read_row(f'scaling/{row}')
    figure, axes = new_figure(13.5, 4.8, columns=3)
    draw_pools(axes[0], runs, NO_REFERENCE)
    draw_widths(axes[1], runs, NO_REFERENCE)
    draw_any_budget(axes[2], runs, NO_REFERENCE)
    return figure


def scaling_fresh():
    """Fresh questions until 95% against the hops: the arms that learn, and REINFORCE."""
    figure, axis = new_figure(7.5, 3.6)
    for arm, (label, colour, marker) in SCALING_ARMS.items():
        reached = {}  # hops -> questions of each seed, or None
        for row in ('chains', 'direct', 'loop', 'controls'):
            for run in read_row(f'scaling/{row}'):
                for (hops, _), questions in fresh_questions(run, arm).items():
                    reached.setdefault(hops, []).append(questions)
        draw_reached(axis, reached, label, colour, marker)
    reached = {}
    for hops, row in RL_ROWS.items():
        finals = [run.final for run in read_row(f'train_rl/{row}')]
        group_size = read_row(f'train_rl/{row}')[0].args['group_size']
        reached[hops] = [final['samples_95'] and final['samples_95'] / group_size
                         for final in finals]
    draw_reached(axis, reached, 'REINFORCE (8 chains a question)', 'black', '*')
    axis.set(yscale='log', xlabel='hops, k', xticks=range(1, 9),
             ylabel='fresh questions until 95%', title='where all seeds learn')
    short_ticks(axis.yaxis, [5000, 10000, 20000, 50000, 100000, 200000])
    legend_beside(axis)
    return figure


def draw_reached(axis, reached, label, colour, marker):
    """The geometric mean over seeds, where all of them learn. reached: {hops: [questions or
    None]}."""
    points = {hops: questions for hops, questions in reached.items() if all(questions)}
    if points:
        means = [statistics.geometric_mean(points[hops]) for hops in sorted(points)]
        axis.plot(sorted(points), means, marker=marker, color=colour, label=label)


def fresh_questions(run, arm):
    """{(hops, seed): fresh questions until 95% with the first rate that learns, or None}"""
    questions = {}
    for model in run.log:
        if model.get('arm_of') == arm and model['pool'] is None:
            key = (model['hops'], model['seed'])
            is_full = model.get('width', run.args['n_embd']) == run.args['n_embd']
            if is_full and model['ended'] == 'learned':
                questions[key] = model['step'] * run.args['batch_size']
            elif is_full:
                questions.setdefault(key, None)
    return questions


# -----------------------------------------------------------------------------
# command line

def main(argv=None):
    """Draw all figures again."""
    Parser(__doc__).parse_args(argv)
    DOCS.mkdir(parents=True, exist_ok=True)
    for name, draw_figure in all_figures().items():
        save(draw_figure(), DOCS / name)
        print(DOCS / name)


if __name__ == '__main__':
    with one_line_errors():
        main()
