"""The figure of every run, drawn from its folder and nothing else.

A script calls `draw_run(folder)` at its end. The same figure can be drawn again later. Several runs
of one script go into one figure, compare.png in the folder of the first. --compare draws the runs
of a row of results/logs in grey behind them. Does my run look like those?

    python plots.py out/train_cot                               # draw its plot.png again
    python plots.py out/a out/b                                 # several runs in one figure
    python plots.py out/a --compare results/logs/train_cot/cycle-20

The file has a section for each script. The figures of the pages in docs/ put several rows of
results together: results/figures.py.
"""

from errors import one_line_errors, place_of  # first: see errors.py

import json
import math
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import budgets
import growth
import tree
from data import Parser, format_range, require
from files import read_config, read_json, read_log, write_atomic


# -----------------------------------------------------------------------------
# runs

@dataclass
class LoggedRun:
    """What a run left in its folder."""
    folder: Path
    config: dict    # config.json: `args`, and facts such as params and chance
    log: list       # the records of log.jsonl

    @property
    def args(self):
        return self.config['args']

    @property
    def script(self):
        if self.args.get('method') == 'jacobi':  # it was a part of search.py once
            return 'jacobi'
        return str(self.args.get('script'))[:60]

    @property
    def final(self):
        """The last record of a finished run, or {}."""
        finals = [record for record in self.log if record['arm'] == 'final']
        return finals[-1] if finals else {}

    @property
    def task(self):
        """The name of the task, or None if the run does not tell."""
        if 'target' in self.final:  # of a search
            return 'countdown'
        return self.args.get('task') or self.final.get('task')

    def evaluations(self, arm):
        """The records of this arm that hold an evaluation."""
        return [record for record in self.log if record['arm'] == arm and 'eval' in record]

    @property
    def hops(self):
        """The hop counts that were evaluated."""
        for record in self.log:
            if 'eval' in record:
                return [int(hops) for hops in record['eval']]
        raise ValueError(f'the log of {self.folder} holds no evaluation yet')

    def chance(self, hops):
        """Chance at this hop count. Old logs know it for the largest one only, and only when the
        run is finished; else it is NaN, of which nothing is drawn."""
        by_hops = self.config.get('chance', {})
        return by_hops.get(str(hops), self.final.get('chance', math.nan))


def read_run(folder):
    """Raises ValueError if the folder holds no run. Damaged lines of its log are left out."""
    folder = Path(folder)
    try:
        config = read_config(folder)
        log = read_log(folder)
    except (OSError, ValueError) as error:
        if (folder / 'config.json').exists():
            raise ValueError(f'{folder / "config.json"} cannot be read, or is damaged') from error
        inside = [path.name for path in sorted(folder.glob('*/')) if path.is_dir()]
        hint = f'; its folders: {" ".join(inside[:8])}' if inside else ''
        raise ValueError(f'there is no run of this repo in {folder}{hint}') from error

    log = [record for record in log if isinstance(record.get('arm'), str)]
    run = LoggedRun(folder, config, log)
    require(run.script in DRAW, f'{folder} holds a run of {run.script}.py, which has no figure')
    require(log, f'the log of {folder} holds no record yet, or is damaged')
    return run


@dataclass
class Reference:
    """Finished runs that are drawn in grey behind others, to compare with."""
    runs: list
    label: str

    def unnamed(self):
        """The same without a place in the legend, for a second curve of the same runs."""
        return Reference(self.runs, None)


NO_REFERENCE = Reference([], '')
NOT_COMPARED = ('seed', 'device', 'dtype', 'processes', 'ckpt')  # arguments
GREY = '0.65'  # of all references


def read_reference(folder):
    """The runs of a folder of seed<n> folders, such as a row of results/logs, or one run."""
    folder = Path(folder)
    runs = [read_run(path) for path in sorted(folder.glob('seed*')) or [folder]]
    name = '/'.join(folder.resolve().parts[-2:])
    seeds = '1 seed' if len(runs) == 1 else f'{len(runs)} seeds'
    return Reference(runs, f'reference: {name} ({seeds})')


def labels(runs):
    """A label for each run: the arguments in which they differ, or its folder if these are many.

    An argument that one of them does not have came with another version, and does not count.
    """
    if len(runs) == 1:
        return ['this run']
    names = []
    for name in runs[0].args:
        if name in ('warmup_iters', 'eval_interval', 'log_interval'):  # they follow from max_iters
            continue
        values = {json.dumps(run.args.get(name)) for run in runs}
        if len(values) > 1 and all(name in run.args for run in runs):
            names.append(name)
    folders = ['/'.join(run.folder.resolve().parts[-2:]) for run in runs]
    if not names:
        return folders
    result = []
    for run in runs:
        words = []
        for name in names:
            value = run.args[name]
            if isinstance(value, list):
                is_range = all(isinstance(item, int) for item in value)
                value = format_range(value) if is_range else ','.join(map(str, value))
            words.append(f'{name}={value}')
        result.append(' '.join(words))
    return result if max(map(len, result)) < 60 else folders


def other_settings(run, reference):
    """One line for each argument in which a run differs from its reference, at most five."""
    lines = []
    for name, value in run.args.items():
        for other in reference.runs[:1]:
            if name in other.args and other.args[name] != value and name not in NOT_COMPARED:
                lines.append(f'the reference has {name}={other.args[name]}, this run {value}')
    return lines[:5]


# what drawing raises if a record lacks a value, or has another kind of value
DAMAGE = (KeyError, TypeError, IndexError, AttributeError, ZeroDivisionError, OverflowError)


def draw_run(folder):
    """Draw plot.png of a run, from what it left in its folder.

    A log that holds too little for a figure does not fail a finished run.
    """
    try:
        save(draw([read_run(folder)]), Path(folder) / 'plot.png')
    except ValueError as error:
        print(f'no figure: {error}')


def draw(runs, reference=NO_REFERENCE):
    """The figure of one run, or of several runs of the same script."""
    scripts = sorted({run.script for run in [*runs, *reference.runs]})
    require(len(scripts) == 1, f'runs of {" and ".join(scripts)} do not fit into one figure')
    for run in reference.runs:
        require(None in (run.task, runs[0].task) or run.task == runs[0].task,
                f'{run.folder} is of the task {run.task}, and {runs[0].folder} of {runs[0].task}: '
                'nothing to compare')
    try:
        return DRAW[scripts[0]](runs, reference)
    except DAMAGE as error:
        folders = ', '.join(str(run.folder) for run in [*runs, *reference.runs])
        what = f'{type(error).__name__}: {str(error)[:100]}{place_of(error)}'
        raise ValueError(f'cannot draw {folders}: a record, or config.json, is damaged '
                         f'({what})') from error


def save(figure, path):
    write_atomic(path, lambda temporary: figure.savefig(temporary, dpi=120, format='png'))


# matplotlib takes half a second to import. It is imported where something is drawn, so that a
# script's --help and its first step do not wait for it.

def empty_figure(width, height):
    """A figure without axes. Sizes are in inches."""
    from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout='constrained')


def new_figure(width, height, rows=1, columns=1, **options):
    """A figure and its axes."""
    figure = empty_figure(width, height)
    return figure, figure.subplots(rows, columns, **options)


def legend_below(axis, columns=3, **options):
    """A legend below the axis and its label, where it covers no curve."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc='upper center', bbox_to_anchor=(0.5, -0.2), ncols=columns, fontsize=8,
                    frameon=False, **options)


def sample_of(label, style='-', **options):
    """A line or mark for a legend that stands for no single curve."""
    from matplotlib.lines import Line2D
    return Line2D([], [], **({'linestyle': style} | options), label=label)


def short_ticks(axis, ticks=None):
    """20k and 3M in place of 20000 and 3e6, on an x or y axis. Ticks: where, if not anywhere."""
    from matplotlib.ticker import EngFormatter, NullLocator
    if ticks:
        axis.set_ticks(ticks)
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(EngFormatter(sep=''))


def draw_behind(axis, reference, curve, style='-', label=''):
    """A thin grey line for each run of the reference. curve(run): x and y, or None."""
    drawn = False
    for run in reference.runs:
        points = curve(run)
        if points is not None:
            axis.plot(*points, style, color=GREY, lw=1, zorder=1,
                      label=None if drawn or reference.label is None else reference.label + label)
            drawn = True


def draw_range(axis, x, least, most, colour, alpha=0.15):
    """Shade what lies between two curves. (fill_between fails with numpy 1.24.0.)"""
    axis.fill([*x, *reversed(x)], [*least, *reversed(most)], color=colour, alpha=alpha, lw=0)


# -----------------------------------------------------------------------------
# train_cot.py

ARMS = {
    'cot': ('chain of thought', 'tab:blue'),
    'direct': ('direct', 'tab:red'),
    'mix': ('mixture, with its chain', 'tab:green'),
}


def draw_train_cot(runs, reference):
    """Left: accuracy at the largest hop count against step. Right: after training, by hop count."""
    if all(run.task == 'countdown' and run.evaluations('cot') for run in runs):
        return draw_countdown(runs, reference)
    figure, (left, right) = new_figure(9, 3.8, columns=2, width_ratios=(3, 2), sharey=True)
    curves = arm_curves(runs)
    arms = {arm for _, arm, *_ in curves}
    for arm, style in (('cot', '-'), ('direct', '--')):
        label = f', {ARMS[arm][0]}' if len(arms) > 1 else ''
        draw_behind(left, reference, lambda run, arm=arm: curve_at(run, arm, 'acc'), style, label)
    for i, (run, arm, label, colour, style) in enumerate(curves):
        place = (i, len(curves))
        left.plot(*curve_at(run, arm, 'acc'), style, color=colour, marker='o', ms=4, label=label)
        if arm == 'mix':
            left.plot(*curve_at(run, arm, 'at_once'), ':', color=colour, marker='.',
                      label='the same model, answering at once')
        draw_bars(right, run, arm, 'acc', place, colour, faint=style == '--')
        draw_dots(right, reference, arm, 'acc', place)

    for i, chance in enumerate({run.chance(max(run.hops)) for run in runs}):
        left.axhline(chance, color='black', linestyle=':', label=None if i else 'chance')
    for run in runs:
        for h in run.hops:
            right.hlines(run.chance(h), h - 0.45, h + 0.45, color='black', linestyle=':')
    titles = sorted({f'{run.task}, {max(run.hops)} hops' for run in runs})
    left.set(xlabel='step', ylabel='accuracy of the answer', title='; '.join(titles),
             ylim=(0, 1.09))
    right.set(xlabel='hops', title='after training',
              xticks=sorted({h for run in runs for h in run.hops}))
    legend_below(left, columns=3 if len(curves) <= 2 and not reference.runs else 2)
    return figure


def arm_curves(runs):
    """(run, arm, label, colour, line style) for each arm of each run.

    One run: a colour for each arm. Several runs: a colour for each run, and 'direct' dashed.
    """
    curves = []
    for i, (run, name) in enumerate(zip(runs, labels(runs), strict=True)):
        for arm, (label, colour) in ARMS.items():
            if not run.evaluations(arm):
                continue
            if len(runs) == 1:
                curves.append((run, arm, label, colour, '-'))
            else:
                style = '--' if arm == 'direct' else '-'
                curves.append((run, arm, f'{name}, {label}', f'C{i}', style))
    return curves


def curve_at(run, arm, key, hops=None):
    """Steps, and a measure at each evaluation, at this hop count (default: the largest). None if
    there is no evaluation of it."""
    h = str(hops or max(run.hops))
    records = [record for record in run.evaluations(arm) if h in record['eval']]
    if not records:
        return None
    return [record['step'] for record in records], [record['eval'][h][key] for record in records]


def draw_bars(axis, run, arm, key, place, colour, faint=False, label=None):
    """Bars of a measure by hop count, after training. place: (i, n), the i-th of n side by side."""
    by_hops = run.final.get('by_hops', {}).get(arm, {})
    hops = [int(h) + shift_of(place) for h in by_hops]
    bars = axis.bar(hops, [measures[key] for measures in by_hops.values()], 0.7 / place[1],
                    color=colour, alpha=0.5 if faint else 1, label=label)
    if len(hops) * place[1] <= 6:  # there is room for numbers
        axis.bar_label(bars, fmt='%.3f', fontsize=8, padding=3,
                       bbox=dict(facecolor='white', alpha=0.8, lw=0, pad=0.5))


def shift_of(place):
    """Where the i-th of n bars stands, from the middle."""
    i, n = place
    return (i - (n - 1) / 2) * 0.7 / n


def draw_dots(axis, reference, arm, key, place):
    """A grey mark on a bar for each run of the reference."""
    for run in reference.runs:
        by_hops = run.final.get('by_hops', {}).get(arm, {})
        hops = [int(h) + shift_of(place) for h in by_hops]
        axis.plot(hops, [measures[key] for measures in by_hops.values()], 'D', color=GREY,
                  mec='white', ms=6, zorder=3)


def draw_countdown(runs, reference):
    """Left: how often the verdict is true and the step good, against step of training. (Accuracy,
    of the verdict alone, is near chance from the start.) Right: both after training."""
    figure, (left, right) = new_figure(10, 4, columns=2, width_ratios=(3, 2), sharey=True)
    hops = runs[0].hops
    if len(runs) == 1:
        for i, h in enumerate(hops):
            draw_behind(left, reference if i == 0 else reference.unnamed(),
                        lambda run, h=h: curve_at(run, 'cot', 'chain', h))
            left.plot(*curve_at(runs[0], 'cot', 'chain', h), color=f'C{i}', marker='o', ms=4,
                      label=f'{h + 1} numbers left')
        draw_bars(right, runs[0], 'cot', 'acc', (0, 2), 'lightsteelblue', label='verdict true')
        draw_bars(right, runs[0], 'cot', 'chain', (1, 2), 'tab:blue',
                  label='verdict true and step good')
        draw_dots(right, reference, 'cot', 'chain', (1, 2))
    else:
        draw_behind(left, reference, lambda run: curve_at(run, 'cot', 'chain'))
        for i, (run, label) in enumerate(zip(runs, labels(runs), strict=True)):
            left.plot(*curve_at(run, 'cot', 'chain'), color=f'C{i}', marker='o', ms=4, label=label)
            draw_bars(right, run, 'cot', 'chain', (i, len(runs)), f'C{i}')
            draw_dots(right, reference, 'cot', 'chain', (i, len(runs)))

    for h in hops:
        right.hlines(runs[0].chance(h), h - 0.45, h + 0.45, color='black', linestyle=':',
                     label='verdict, chance' if h == hops[0] else None)
    left.set(xlabel='step', ylabel='share of held-out states', ylim=(0, 1.09),
             title='countdown: verdict true and step good')
    right.set(xlabel='numbers left', title='after training', xticks=hops,
              xticklabels=[h + 1 for h in hops])
    legend_below(left)
    legend_below(right, columns=2)
    return figure


# -----------------------------------------------------------------------------
# train_rl.py

def draw_train_rl(runs, reference):
    """Left: greedy accuracy against chains sampled. Right: accuracy against validity, which tells
    a chain that was discovered from a shortcut."""
    figure, (left, right) = new_figure(9, 3.8, columns=2, width_ratios=(3, 2))
    k = max(runs[0].hops)
    has_hops = runs[0].args.get('hops') is not None  # multiply and star have one kind of question
    suffix = f', {k} hops' if len(runs) == 1 and has_hops and k > 1 else ''
    draw_behind(left, reference, lambda run: discovery(run, max(run.hops)), label=suffix)
    draw_behind(right, reference.unnamed(), validity_and_accuracy)
    if len(runs) == 1:  # a curve for each hop count
        for i, h in enumerate(runs[0].hops):
            label = '1 hop' if h == 1 else f'{h} hops'
            label = label if has_hops else 'this run'
            left.plot(*discovery(runs[0], h), color=f'C{i}', label=label)
    else:  # a curve for each run, at its largest hop count
        for i, (run, label) in enumerate(zip(runs, labels(runs), strict=True)):
            left.plot(*discovery(run, max(run.hops)), color=f'C{i}', label=label)
    for h in runs[0].hops if len(runs) == 1 else [k]:
        left.axhline(runs[0].chance(h), color='black', lw=1, linestyle=':',
                     label='chance' if h == k else None)

    for i, run in enumerate(runs):
        colour = f'C{len(run.hops) - 1}' if len(runs) == 1 else f'C{i}'
        right.plot(*validity_and_accuracy(run), color=colour, marker='o', ms=3,
                   label='an evaluation of this run' if len(runs) == 1 else None)
    if has_hops:
        draw_expected(right, k, runs[0].chance(k))
    titles = []
    for run in runs:
        nodes = run.args.get('nodes')
        titles.append(f'{run.task}, {nodes} nodes' if nodes else run.task)
    title = '; '.join(sorted(set(titles)))
    hops_as_text = '1 hop' if k == 1 else f'{k} hops'
    left.set(xlabel='chains sampled', ylabel='greedy accuracy, held-out', title=title,
             ylim=(0, 1.04))
    right.set(xlabel='validity of the chain', xlim=(-0.02, 1.04), ylim=(0, 1.04),
              title=f'{hops_as_text}, over training' if has_hops else 'over training')
    short_ticks(left.xaxis)
    legend_below(left, columns=5 if len(runs) == 1 and not reference.runs else 2)
    legend_below(right, columns=1)
    return figure


def draw_expected(axis, hops, chance):
    """What a model scores whose answer is right when all links of its chain are, or by luck."""
    validity = np.linspace(0, 1, 101)
    all_right = validity ** hops
    axis.plot(validity, all_right + (1 - all_right) * chance, color='black', lw=1, ls='--',
              label='all links right, or a lucky guess')


def discovery(run, hops):
    """Chains sampled, and accuracy at this hop count, at each evaluation."""
    records = run.evaluations('rl')
    samples = [record['samples'] for record in records]
    return samples, [record['eval'][str(hops)]['acc'] for record in records]


def validity_and_accuracy(run, arm='rl'):
    """Two lists over the evaluations of a run, at its largest hop count."""
    k = str(max(run.hops))
    measures = [record['eval'][k] for record in run.evaluations(arm)]
    return [m['valid'] for m in measures], [m['acc'] for m in measures]


# -----------------------------------------------------------------------------
# train_puzzles.py

def draw_train_puzzles(runs, reference):
    """Left: solved puzzles against chains played. Right: pass@k before training and after it."""
    figure, (left, right) = new_figure(9, 3.8, columns=2, width_ratios=(3, 2), sharey=True)
    draw_behind(left, reference, greedy_curve)
    draw_behind(right, reference.unnamed(), pass_curve)
    for i, (run, label) in enumerate(zip(runs, labels(runs), strict=True)):
        colour = f'C{i}'
        left.plot(*greedy_curve(run), color=colour, marker='.', label=f'{label}, held-out')
        left.plot(*greedy_curve(run, 'greedy_seen'), '--', color=colour, lw=1,
                  label=f'{label}, training puzzles')
        right.plot(*pass_curve(run), '.-', color=colour, label='after' if i == 0 else None)
        right.plot(*pass_curve(run, '_before'), '.:', color=colour,
                   label='before' if i == 0 else None)

    chance = runs[0].config.get('chance')
    if isinstance(chance, float):
        left.axhline(chance, color='black', lw=1, ls=':', label='random legal moves')
    targets = sorted({str(run.args.get('target')) for run in runs})
    left.set(xlabel='chains played', ylabel='share of puzzles solved', ylim=(0, 1.04),
             title=f'greedy steps, target {", ".join(targets)}')
    right.set(xlabel='chains, k', xscale='log', title='pass@k on held-out puzzles')
    short_ticks(left.xaxis)
    short_ticks(right.xaxis, [1, 4, 16, 64, 256])
    legend_below(left, columns=3 if len(runs) == 1 else 2)
    legend_below(right, columns=2)
    return figure


def greedy_curve(run, name='greedy'):
    """Chains played, and the share of puzzles that greedy steps solve, at each evaluation."""
    records = [record for record in run.log if record['arm'] == 'rl']
    require(records, f'the log of {run.folder} holds no evaluation yet')
    return [record['samples'] for record in records], [record[name] for record in records]


def pass_curve(run, end=''):
    """k, and pass@k of a finished run: after its training, or with '_before' before it."""
    ks = []
    for name in run.final:
        if re.fullmatch('pass_[0-9]+', name):
            ks.append(int(name.removeprefix('pass_')))
    return ks, [run.final[f'pass_{k}{end}'] for k in ks]


# -----------------------------------------------------------------------------
# train_latent.py

FEEDS = {
    'token': ('written tokens', 'tab:blue'),
    'soft': ('soft', 'tab:orange'),
    'hidden': ('hidden', 'tab:green'),
    'raw': ('raw', 'tab:olive'),
    'straight_through': ('straight-through', 'tab:purple'),
    'pause': ('pause', 'tab:red'),
    'direct': ('no thoughts', 'tab:gray'),
}
IN_A_THOUGHT = {'lens': '0.35', 'probe': 'tab:cyan', 'flip': 'tab:pink', 'random': '0.8'}


def draw_train_latent(runs, reference):
    """Left: accuracy at the largest hop count against questions. Right, for one run: what is in the
    thoughts of each kind."""
    inside = runs[0].final.get('thoughts', {}) if len(runs) == 1 else {}
    figure, axes = new_figure(7 + 1.6 * len(inside), 3.8, columns=1 + len(inside),
                              width_ratios=(4, *[1.2] * len(inside)), squeeze=False)
    left, *others = axes[0]
    shown = reference
    for feed in FEEDS:
        if all(any(run.evaluations(feed) for run in group) for group in (runs, reference.runs)):
            draw_behind(left, shown, lambda run, feed=feed: questions_and_accuracy(run, feed))
            shown = reference.unnamed()
    for i, (run, name) in enumerate(zip(runs, labels(runs), strict=True)):
        for feed, (label, colour) in FEEDS.items():
            points = questions_and_accuracy(run, feed)
            if points is not None:
                style = ('-', '--', ':', '-.')[i % 4]
                left.plot(*points, style, color=colour,
                          label=label if len(runs) == 1 else f'{name}, {label}')
    for i, chance in enumerate({run.chance(max(run.hops)) for run in runs}):
        left.axhline(chance, color='black', lw=1, linestyle=':', label=None if i else 'chance')
    titles = sorted({f'{run.task}, {run.args.get("nodes")} nodes, {format_range(run.hops)} hops'
                     for run in runs})
    left.set(xlabel='training questions', ylim=(0, 1.04), title='; '.join(titles),
             ylabel='accuracy at the most hops, held-out')
    short_ticks(left.xaxis)
    legend_below(left, columns=4 if len(runs) == 1 and not reference.runs else 2)

    for axis, (feed, measures) in zip(others, inside.items(), strict=True):
        draw_thoughts(axis, [measures])
        axis.set(ylim=(0, 1.04), xlabel='thought')
        axis.set_title(FEEDS[feed][0], fontsize=10)
        if axis is not others[0]:
            axis.set_yticklabels([])
    if others:
        others[0].set_ylabel('share of held-out questions')
        legend_below(others[0], columns=2)
    return figure


def questions_and_accuracy(run, feed):
    """Questions seen, and accuracy at the largest hop count, at each evaluation; or None."""
    records = run.evaluations(feed)
    if not records:
        return None
    k = str(max(run.hops))
    return ([record['questions'] for record in records],
            [record['eval'][k]['acc'] for record in records])


def draw_thoughts(axis, measures):
    """Bars for each thought t: does the head say c_t, does a probe read c_t, is it used?

    measures: what look_into_thoughts returned, for each seed. Bars are means over seeds.
    """
    n_thoughts = len(measures[0]['flip'])
    for i, (name, colour) in enumerate(IN_A_THOUGHT.items()):
        by_seed = []
        for of_seed in measures:
            values = of_seed[name]
            if name in ('lens', 'probe'):  # thought t, hop t
                values = [row[t] for t, row in enumerate(values)]
            by_seed.append(values)
        places = np.arange(1, n_thoughts + 1) + 0.2 * (i - 1.5)
        axis.bar(places, np.mean(by_seed, axis=0), 0.18, color=colour, label=name)
        for values in by_seed if len(by_seed) > 1 else []:
            axis.plot(places, values, '.', color='black', ms=3)
    axis.set_xticks(range(1, n_thoughts + 1))


# -----------------------------------------------------------------------------
# train_maze.py

MAZE_MEASURES = {
    'exact': ('exact: the whole path', 'tab:blue'),
    'legal': ('legal: steps through no wall', 'tab:green'),
    'fork': ('fork: choices at junctions', 'tab:orange'),
}


def draw_train_maze(runs, reference):
    """Left: what is right about the paths, against step. Right: mazes, with the true path and the
    model's. Several runs: exact paths and right choices at junctions."""
    if len(runs) > 1 or reference.runs:
        return draw_maze_curves(runs, reference)
    run = runs[0]
    examples = read_examples(run.folder)
    if examples is None:
        figure, axis = new_figure(5.2, 4.2)
        draw_maze_measures(axis, run)
        return figure

    figure = empty_figure(10, 4.2)
    left, right = figure.subfigures(1, 2, width_ratios=(2, 3))
    draw_maze_measures(left.subplots(), run)
    draw_maze_examples(right, examples)
    return figure


def read_examples(folder):
    """What examples.json holds, or None if there is none, as in results/logs, or a damaged one."""
    path = folder / 'examples.json'
    return read_json(path.read_bytes()) if path.exists() else None


def draw_maze_examples(figure, examples):
    """Up to eight mazes with two paths each, and below them what the colours mean."""
    top, strip = figure.subfigures(2, 1, height_ratios=(7, 1))
    top.suptitle('held-out mazes after training')
    axes = top.subplots(2, 4).flat
    for axis, maze in zip(axes, examples['mazes'], strict=False):
        draw_maze(axis, maze, examples['size'])
    for axis in axes:  # fewer examples than places
        axis.axis('off')
    strip.legend(loc='center', ncols=2, fontsize=8, frameon=False, handles=[
        sample_of('true path', color='0.8', lw=7),
        sample_of('target', '', color='tab:green', marker='*', ms=11),
        sample_of("model's path", color='tab:blue', marker='o', ms=3),
        sample_of("model's path, not a shortest one", color='tab:red', marker='o', ms=3)])


def draw_maze_measures(axis, run):
    steps, curves = maze_curves(run)
    for key, (label, colour) in MAZE_MEASURES.items():
        axis.plot(steps, curves[key], color=colour, marker='o', ms=3, label=label)
    for name, style in (('greedy', '--'), ('random', ':')):
        if name in run.final:
            axis.axhline(run.final[name], color='black', linestyle=style,
                         label=f'exact, {name} walk')
    n = max(run.args['grid'])
    axis.set(xlabel='step', ylabel='share right, held-out mazes', ylim=(0, 1.04),
             title=f'{n}x{n} mazes ({run.args["gen"]}), {run.args["loss"]} loss')
    legend_below(axis, columns=2)


def maze_curves(run):
    """Steps, and {measure: curve}, at the largest size that was trained."""
    records = run.evaluations(run.args['loss'])
    require(records, f'the log of {run.folder} holds no evaluation yet')
    size = str(max(run.args['grid']))
    steps = [record['step'] for record in records]
    curves = {}
    for key in records[0]['eval'][size]:
        curves[key] = [record['eval'][size][key] for record in records]
    return steps, curves


def draw_maze(axis, maze, size):
    """The walls of a maze, the true path (wide and grey, the target a star), and the model's path
    (blue, or red if it is not a shortest one)."""
    for (row, column), open_bits in zip(maze['cells'], maze['open_bits'], strict=True):
        walls = (  # up, left, down, right
            ((column, column + 1), (row, row)),
            ((column, column), (row, row + 1)),
            ((column, column + 1), (row + 1, row + 1)),
            ((column + 1, column + 1), (row, row + 1)))
        for bit, (x, y) in enumerate(walls):
            if not open_bits >> bit & 1:
                axis.plot(x, y, color='black', lw=1.2)

    rows, columns = np.array(maze['true']).T + 0.5
    axis.plot(columns, rows, color='0.8', lw=7, solid_capstyle='round')
    axis.plot(columns[-1], rows[-1], '*', color='tab:green', ms=13)
    if maze['path']:
        rows, columns = np.array(maze['path']).T + 0.5
        colour = 'tab:blue' if maze['shortest'] else 'tab:red'
        axis.plot(columns, rows, color=colour, lw=1.6, marker='o', ms=3)
    axis.set(xlim=(-0.1, size + 0.1), ylim=(size + 0.1, -0.1), aspect='equal')
    axis.axis('off')


def draw_maze_curves(runs, reference):
    figure, axes = new_figure(10, 4, columns=2, sharey=True)
    for axis, key, title in zip(axes, ('exact', 'fork'),
                                ('exact paths', 'right choices at junctions'), strict=True):
        draw_behind(axis, reference, lambda run, key=key: maze_curve(run, key))
        for run, label in zip(runs, labels(runs), strict=True):
            axis.plot(*maze_curve(run, key), marker='o', ms=3, label=label)
        axis.set(xlabel='step', title=title, ylim=(0, 1.04))
    axes[0].set(ylabel='share of held-out mazes')
    legend_below(axes[0], columns=2)
    return figure


def maze_curve(run, key):
    steps, curves = maze_curves(run)
    return steps, curves[key]


# -----------------------------------------------------------------------------
# search.py

# GPT-4 on the hundred puzzles (Yao et al. 2023, 2305.10601, tables 2 and 3): nodes expanded a
# puzzle, as search.py counts them, and share solved
GPT4 = {
    'IO': (1, 0.073),
    'CoT': (3, 0.04),
    'CoT best-of-100': (300, 0.49),
    'ToT b=1': (3, 0.45),
    'ToT b=5': (11, 0.74),
}

SEARCH_STYLES = {  # series: colour, line style, marker
    'beam, all legal moves': ('tab:blue', '-', 'o'),
    'dfs, all legal moves': ('tab:purple', '--', '.'),
    'dfs, all legal moves, pruned': ('violet', '--', '.'),
    'best-first, all legal moves': ('magenta', '-.', '.'),
    "best-first, the model's moves": ('teal', '-.', '.'),
    "best-first, 'mult' heuristic": ('black', '-.', '.'),
    "beam, the model's moves": ('tab:cyan', '-', 'o'),
    "dfs, the model's moves": ('navy', '--', '.'),
    "dfs, the model's moves, pruned": ('slateblue', '--', '.'),
    'best-of-k, one at a time': ('tab:green', '-', '.'),
    'best-of-k, oracle': ('tab:orange', '-', '.'),
    'best-of-k, majority': ('tab:brown', '-', '.'),
    'best-of-k, log-prob': ('tab:olive', '-', '.'),
    'best-of-k, verdict': ('tab:red', '-', '.'),
    'random rollouts, one at a time': ('0.6', ':', '.'),
    'random rollouts, oracle': ('0.6', '-', '.'),
    'beam, random values': ('0.6', '-', 'o'),
    "beam, 'mult' heuristic": ('black', '-', 'o'),
    "dfs, 'mult' heuristic": ('black', '--', '.'),
    'dfs, random order': ('0.6', '--', '.'),
}


def draw_search(runs, reference):
    """Share solved, up to three panels: what does its own arithmetic against forward FLOPs, and
    against nodes expanded; what gets its moves from code against nodes expanded. The mean of
    several runs, with the range from the least to the largest."""
    for run in [*runs, *reference.runs]:
        require(run.final, f'{run.folder} is not finished: its figure needs the last record')
    if any(run.final['method'] == 'calibration' for run in [*runs, *reference.runs]):
        require(not reference.runs, 'calibrations are drawn without a reference')
        return draw_calibration(runs)
    if any(run.final['method'] == 'budgets' for run in [*runs, *reference.runs]):
        require(not reference.runs, 'budgets are drawn without a reference')
        return draw_budgets(runs)
    if any(run.final['method'] == 'show' for run in [*runs, *reference.runs]):
        require(len(runs) == 1 and not reference.runs, 'the tree of a puzzle is drawn by itself')
        return draw_search_tree(runs[0])
    tasks = {run.task for run in runs}
    require(len(tasks) == 1, f'searches of {" and ".join(sorted(tasks))} do not fit into one '
                             'figure')
    if reference.runs:
        return draw_search_beside(runs, reference)
    if 'target' not in runs[0].final:
        return draw_best_of_k(runs)

    points_by_series = {}
    for series in SEARCH_STYLES:
        points = search_points(runs, series)
        if points:
            points_by_series[series] = points
    figure, axes, below = search_panels(points_by_series)

    labelled = {}
    for series, points in points_by_series.items():
        style = SEARCH_STYLES[series]
        if makes_its_moves(series):
            draw_search_series(axes['flops'], points, 'flops', style)
            draw_search_series(axes['nodes'], points, 'expansions', style)
        else:
            draw_search_series(axes['code'], points, 'expansions', style)
        colour, line, marker = style
        labelled[series] = sample_of(series, line, color=colour, marker=marker, ms=5)
    if runs[0].final['target'] == 24 and 'nodes' in axes:
        draw_gpt4(axes['nodes'])
        labelled['GPT-4'] = sample_of('GPT-4 (Yao et al. 2023), on 100 puzzles', '', marker='*',
                                      color='tab:green', ms=9)

    figure.suptitle(search_title(runs))
    below.legend(handles=labelled.values(), loc='center', ncols=4, fontsize=8, frameon=False)
    return figure


SEARCH_PANELS = {  # name: what is drawn, who makes the moves
    'flops': ('forward FLOPs a puzzle', 'moves by the model'),
    'nodes': ('nodes expanded a puzzle', 'moves by the model'),
    'code': ('nodes expanded a puzzle', 'moves by code'),
}


def search_panels(all_series):
    """A figure, its panels {name: axis}, and a strip below them. Only panels that have something to
    show: a lone method has moves of the model, or of code."""
    names = []
    if any(makes_its_moves(series) for series in all_series):
        names += ['flops', 'nodes']
    if not names or not all(makes_its_moves(series) for series in all_series):
        names.append('code')
    figure = empty_figure(12 if len(names) == 3 else 9, 6)
    top, bottom = figure.subfigures(2, 1, height_ratios=(5, 1))
    axes = top.subplots(1, len(names), sharey=True, squeeze=False)[0]
    axes = dict(zip(names, axes, strict=True))
    for name, axis in axes.items():
        label, title = SEARCH_PANELS[name]
        axis.set(xscale='log', xlabel=label, ylim=(0, 1.03), title=title)
    axes[names[0]].set_ylabel('share solved (beam: any of b)')
    return figure, axes, bottom


def makes_its_moves(series):
    """Does the model write the moves of this series, results included?"""
    return "the model's moves" in series or series.startswith('best-of-k')


def search_title(runs):
    final = runs[0].final
    title = f'{final["n_test"]:,} held-out instances of {runs[0].task}'
    if 'target' in final:
        title = (f'{final["n_test"]:,} puzzles, target {final["target"]}, integers solve '
                 f'{final["solvable"]:,}')
    if len(runs) > 1:
        title += f'; mean of {len(runs)} runs'
    return title


def draw_best_of_k(runs):
    """Other tasks than countdown: accuracy against the number of chains."""
    figure, axis = new_figure(6, 4.4)
    for series, style in SEARCH_STYLES.items():
        points = search_points(runs, series)
        if points:
            draw_search_series(axis, points, 'expansions', style, label=series)
    axis.axhline(runs[0].final['chance'], color='black', linestyle=':', lw=1, label='chance')
    k = sorted({point['expansions'] for point in search_points(runs, 'best-of-k, oracle')})
    axis.set(xscale='log', xlabel='chains sampled, k', ylabel='share right', ylim=(0, 1.03),
             title=search_title(runs))
    axis.set_xticks(k, [f'{n:.0f}' for n in k])
    axis.minorticks_off()
    legend_below(axis, columns=2)
    return figure


LEAST_IN_BIN = 20  # states: the share of fewer says little


def draw_calibration(runs):
    """Reliability: the share of states that are solvable against the verdict, a panel for each
    number of numbers left. A line for each run, and the expected calibration errors."""
    require(all(run.final['method'] == 'calibration' for run in runs),
            'calibrations are drawn by themselves')
    require(len({run.final['target'] for run in runs}) == 1, 'calibrations of different targets')
    target = runs[0].final['target']
    by_numbers = {}
    for run in runs:
        for record in run.log:
            if record['arm'] == 'calibration':
                by_numbers.setdefault(record['numbers'], []).append(record)

    figure, axes = new_figure(1 + 4.2 * len(by_numbers), 4.2, 1, len(by_numbers), sharey=True,
                              squeeze=False)
    curves = (
        ('trained', 'raw', 'trained targets', '0.55', '--'),
        (target, 'raw', f'{target}, as it is', 'tab:red', '-'),
        (target, 'calibrated', f'{target}, calibrated on trained targets', 'tab:blue', '-'),
    )
    for axis, (numbers, records) in zip(axes[0], by_numbers.items(), strict=True):
        axis.plot((0, 1), (0, 1), color='black', lw=0.8, ls=':', label='perfect')
        for name, fit, label, colour, style in curves:
            of_curve = [record for record in records if record['target'] == name]
            errors = [record[f'ece_{fit}'] for record in of_curve]
            for i, record in enumerate(of_curve):
                bins = [each for each in record[f'bins_{fit}'] if each[2] >= LEAST_IN_BIN]
                axis.plot(
                    [each[0] for each in bins], [each[1] for each in bins], style, color=colour,
                    marker='o', ms=3, lw=1,
                    label=None if i else f'{label}: error {statistics.mean(errors):.3f}')
        axis.set(xlabel='verdict: probability that it is solvable', xlim=(-0.02, 1.02),
                 ylim=(-0.02, 1.02), title=f'{numbers} numbers left')
        legend_below(axis, columns=1)
    axes[0, 0].set_ylabel('share of states that are')
    return figure


BUDGET_STYLES = {  # rule of budgets.py: colour, line style, label
    'fixed': ('black', '-', 'fixed budgets'),
    'calibrated': ('tab:blue', '-', 'threshold on the calibrated verdict'),
    'raw verdict': ('tab:red', '-', 'threshold on the verdict as it is'),
    'same nodes': ('tab:blue', ':', 'the nodes of the blue line, no threshold'),
    'permuted': ('tab:orange', '-', 'the same nodes, dealt out at random'),
    'other states': ('tab:brown', '-', "threshold on another state's verdict"),
    'oracle': ('tab:green', '-', 'cheapest puzzles first, known beforehand'),
    'random order': ('0.6', '-', 'random order, fixed budgets'),
}


def draw_budgets(runs):
    """Share solved against mean nodes, the upper hull of each rule of budgets.py: of all puzzles
    above, of the hundred hardest below. A column for each run."""
    require(all(run.final['method'] == 'budgets' for run in runs),
            'budgets are drawn by themselves')
    figure = empty_figure(max(6.5, 1.5 + 2.3 * len(runs)), 4.8)
    top, bottom = figure.subfigures(2, 1, height_ratios=(6, 1))
    axes = top.subplots(2, len(runs), sharex=True, sharey=True, squeeze=False)
    for column, run in enumerate(runs):
        for row, measure in enumerate(('solved', 'solved_hard')):
            axis = axes[row, column]
            for rule, (colour, line, _) in BUDGET_STYLES.items():
                hull = budgets.upper_hull(points_of_rule(run, rule, measure))
                x, y = zip(*hull, strict=True)
                axis.plot(x, y, line, color=colour, lw=1)
            most = max(cost for cost, _ in points_of_rule(run, 'fixed', measure))
            axis.set(xlim=(0, 1.05 * most), ylim=(0, 1.03))
        axes[0, column].set_title(f'model of seed {run.final["model_seed"]}')
        axes[1, column].set_xlabel('nodes a puzzle, mean of all')
    axes[0, 0].set_ylabel(f'solved, of {runs[0].final["n_test"]:,}')
    axes[1, 0].set_ylabel('solved, hardest hundred')
    handles = [sample_of(label, line, color=colour)
               for colour, line, label in BUDGET_STYLES.values()]
    bottom.legend(handles=handles, loc='center', ncols=min(3, 1 + len(runs)), fontsize=8,
                  frameon=False)
    return figure


def points_of_rule(run, rule, measure):
    """(mean nodes, share solved) of each setting of a rule."""
    return [(record['expansions'], record[measure]) for record in run.log
            if record.get('series') == rule]


def draw_search_tree(run):
    """The tree of one puzzle: numbers left from left to right, at each depth the best verdict at
    the top."""
    root = tree.from_record(next(record['tree'] for record in run.log if record['arm'] == 'tree'))
    depths = list(tree.levels(root))
    most = max(len(level) for level in depths)
    figure, axis = new_figure(10, min(14, 2 + 0.11 * most))
    place = {}
    for depth, level in enumerate(depths):
        for rank, node in enumerate(level):
            place[id(node)] = (depth, -rank)

    # lines to the parents, those of states that were kept on top
    for level in depths[1:]:
        for node in level:
            (x0, y0), (x1, y1) = place[id(node.parent)], place[id(node)]
            colour = '0.3' if node.is_kept else '0.88'
            axis.plot((x0, x1), (y0, y1), color=colour, lw=0.8, zorder=int(node.is_kept))

    # a disc for each state: its colour is the verdict, a black rim says that it is solvable
    nodes = [node for level in depths for node in level]
    x, y = zip(*(place[id(node)] for node in nodes), strict=True)
    discs = axis.scatter(
        x, y, c=[node.probability for node in nodes], cmap='RdYlBu', vmin=0, vmax=1, zorder=2, s=30,
        edgecolors=['black' if node.is_solvable else '0.7' for node in nodes],
        linewidths=[1.5 if node.is_solvable else 0.5 for node in nodes])
    for node in nodes:
        if node.is_kept:
            axis.annotate(
                node.label(), place[id(node)], xytext=(7, 0), textcoords='offset points',
                fontsize=8, va='center', zorder=3,
                bbox=dict(boxstyle='square,pad=0.1', facecolor='white', alpha=0.8, linewidth=0))

    figure.colorbar(discs, ax=axis, label="the model's verdict: probability of yes", pad=0.02)
    n_left = [str(len(level[0].numbers)) for level in depths]
    axis.set_xticks(range(len(depths)), n_left)
    axis.set(xlabel='numbers left', yticks=[], xlim=(-0.2, len(depths) - 0.5),
             title=f'{root.label()}, target {run.final["target"]}. Black rim: solvable in truth. '
                   f'Named: kept on the beam of {run.final["b"]}')
    return figure


def draw_search_beside(runs, reference):
    """A line for each method, at its widest beam, largest budget or largest k: a mark for each run,
    grey for those of the reference."""
    best = {}
    for series in SEARCH_STYLES:
        points = search_points(runs, series)
        if points:
            best[series] = points[-1]['setting']
    figure, axis = new_figure(8, 1.5 + 0.3 * len(best))
    for run in reference.runs:
        axis.plot(*solved_by_series(run, best), 'D', color=GREY, ms=7,
                  label=reference.label if run is reference.runs[0] else None)
    for i, (run, label) in enumerate(zip(runs, labels(runs), strict=True)):
        axis.plot(*solved_by_series(run, best), 'o', color=f'C{i}', ms=6, label=label)
    axis.set(xlabel='share solved', xlim=(-0.02, 1.03), yticks=range(len(best)),
             yticklabels=[f'{series}, {setting}' for series, setting in best.items()],
             ylim=(len(best) - 0.5, -0.5), title=search_title(runs[:1]))
    axis.grid(axis='y', alpha=0.3)
    axis.legend(loc='best', fontsize=8)
    return figure


def solved_by_series(run, settings):
    """The share that a run solves, and the line on which it is drawn, for {series: setting}."""
    solved = []
    lines = []
    for line, (series, setting) in enumerate(settings.items()):
        for point in search_points([run], series):
            if point['setting'] == setting:
                solved.append(point['solved'])
                lines.append(line)
    return solved, lines


def search_points(runs, series):
    """The settings of a series, fewest nodes first: a list of {setting, expansions, states, flops,
    solved, least, most}, means over runs."""
    by_setting = {}
    for run in runs:
        for record in run.log:
            if record.get('series') == series:
                by_setting.setdefault(record['setting'], []).append(record)
    points = []
    for setting, records in by_setting.items():
        solved = [record['solved'] for record in records]
        points.append(dict(
            setting=setting,
            expansions=statistics.mean(record['expansions'] for record in records),
            states=statistics.mean(record['states'] for record in records),
            flops=statistics.mean(record['flops'] for record in records),
            solved=statistics.mean(solved),
            least=min(solved),
            most=max(solved)))
    return sorted(points, key=lambda point: point['expansions'])


def draw_search_series(axis, points, cost, style, label=None):
    colour, line, marker = style
    x = [point[cost] for point in points]
    axis.plot(x, [point['solved'] for point in points], color=colour, linestyle=line,
              marker=marker, ms=5, label=label)
    draw_range(axis, x, [point['least'] for point in points], [point['most'] for point in points],
               colour, alpha=0.12)


def draw_gpt4(axis):
    label = 'GPT-4 (Yao et al. 2023),\non 100 puzzles'
    for name, (nodes, solved) in GPT4.items():
        axis.plot(nodes, solved, color='tab:green', marker='*', ms=11, linestyle='none',
                  label=label if name == 'IO' else None)
        is_far_right = nodes > 100
        axis.annotate(name, (nodes, solved), xytext=(-8 if is_far_right else 6, -4),
                      textcoords='offset points', ha='right' if is_far_right else 'left',
                      fontsize=8, color='tab:green',
                      bbox=dict(facecolor='white', alpha=0.7, lw=0, pad=0.5))


# -----------------------------------------------------------------------------
# scaling.py

SCALING_ARMS = {  # label, colour, marker
    'written': ('written chain', 'tab:blue', 'o'),
    'soft': ('soft thoughts', 'tab:orange', 's'),
    'loop': ('no chain, k loops', 'tab:green', 'd'),
    'direct': ('no chain, k layers', 'tab:red', 'v'),
    'narrow': ('no chain, k narrow layers', 'tab:purple', '^'),
    'useless': ('control: useless chain', '0.5', 'x'),
    'backwards': ('control: links reversed', 'tab:brown', '+'),
}


SAME_SWEEP = ('nodes', 'bits', 'smallest_pool', 'largest_pool', 'n_head', 'n_embd', 'rates',
              'steps', 'batch_size', 'weight_decay', 'n_test')
HOP_COLOURS = ('tab:blue', 'tab:orange', 'tab:green', 'tab:red')
BUDGETS = {  # label, line, marker
    'state': ('state: reads the question once', '-', 'o'),
    'whole': ('whole: loops over everything', ':', 's'),
    'chain': ('chain: its last token so far', '--', 'x'),
}


def draw_scaling(runs, reference):
    """The smallest pool that suffices, and accuracy against the pool. The smallest width. Accuracy
    against compute. Whatever was measured."""
    args = runs[0].args
    for run in [*runs, *reference.runs]:
        require(run.final, f'the sweep in {run.folder} is not finished yet')
        for name in SAME_SWEEP:
            require(run.args.get(name) == args.get(name),
                    f'sweeps that differ in --{name} do not fit into one figure')
        require(run.args.get('learned_by', 'accuracy') == args.get('learned_by', 'accuracy'),
                'sweeps that differ in --learned_by do not fit into one figure')

    panels = []
    if any(model['pool'] for model in arms_of(runs)):
        panels += [draw_pools, draw_accuracies]
    if runs_with_widths(runs):
        panels.append(draw_widths)
    if any('kind' in model for model in model_records(runs)):
        panels.append(draw_any_budget)
    require(panels, f'no model of {runs[0].folder} is finished yet')
    n_rows = (len(panels) + 1) // 2
    n_columns = min(2, len(panels))
    figure, axes = new_figure(4.6 * n_columns, 4.2 * n_rows, n_rows, n_columns, squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        panel(axis, runs, reference)
    for axis in axes.flat[len(panels):]:
        axis.set_axis_off()
    return figure


def arms_of(runs):
    """The records of all models of these sweeps, but those of --measure budgets."""
    return [model for model in model_records(runs) if 'arm_of' in model]


def runs_with_widths(runs):
    """Those that searched for the smallest width. (Others have trained one width alone.)"""
    return [run for run in runs if 'widths' in run.args.get('measure', ())]


def draw_pools(axis, runs, reference):
    """The smallest pool against the hops, beside what theories say."""
    draw_sizes(axis, runs, reference, 'pool')
    models = arms_of(runs)
    pools = sorted({model['pool'] for model in models if model['pool']})
    sizes = smallest_sizes(models, 'written', 'pool')
    if sizes and None not in sizes[min(sizes)].values():
        first = statistics.geometric_mean(sizes[min(sizes)].values())
        draw_theories(axis, min(sizes), max(model['hops'] for model in models), first, pools[-1])
    axis.set(ylabel='smallest pool of training questions', title='questions that it takes')
    axis.set_yticks(pools, [f'{pool:,}' for pool in pools])


def draw_widths(axis, runs, reference):
    """The smallest width against the hops."""
    runs = runs_with_widths(runs)
    reference = Reference(runs_with_widths(reference.runs), reference.label)
    draw_sizes(axis, runs, reference, 'width')
    widths = sorted({model['width'] for model in arms_of(runs) if not model['pool']})
    axis.set(ylabel='smallest width, fresh questions', title='width that it takes')
    axis.set_yticks(widths, widths)


def draw_sizes(axis, runs, reference, what):
    """The smallest pools or widths of each arm, with its slope. Triangles: none suffices."""
    models = [model for model in arms_of(runs) if (model['pool'] is not None) == (what == 'pool')]
    tried = sorted({size_of(model, what) for model in models})
    largest = tried[-1]
    smallest = runs[0].args['smallest_pool'] if what == 'pool' else tried[0]
    n_above = 0  # arms with triangles above the largest size
    shown = reference
    for arm, (label, colour, marker) in SCALING_ARMS.items():
        sizes = smallest_sizes(models, arm, what)
        if not sizes:
            continue
        slope = growth.fit_growth(sizes, smallest)
        if slope['slope'] is not None:
            label += f': {slope["slope"]:.2f} ({slope["low"]:.2f} to {slope["high"]:.2f})'
        axis.plot(*means_that_are_known(sizes), marker=marker, color=colour, label=label)
        for k, of_seeds in sizes.items():
            if None not in of_seeds.values():
                axis.vlines(k, min(of_seeds.values()), max(of_seeds.values()), color=colour,
                            alpha=0.5)
        never = [k for k, of_seeds in sizes.items() if None in of_seeds.values()]
        if never:
            n_above += 1
            height = largest * 2 ** (0.3 + 0.6 * n_above)
            axis.plot(never, [height] * len(never), '^', color=colour, ms=6, clip_on=False)
        draw_behind(axis, shown, lambda run, arm=arm: means_that_are_known(
            smallest_sizes(arms_of([run]), arm, what)))
        shown = reference.unnamed()
    axis.axhline(largest * 2 ** 0.5, color='black', lw=0.5)
    axis.set(xlabel='hops, k', xticks=sorted({model['hops'] for model in models}))
    axis.set_yscale('log', base=2)
    legend_below(axis, columns=1, title_fontsize=8,
                 title='doublings with each hop. Above the line: never learned')


def draw_accuracies(axis, runs, reference):
    """Accuracy at the most hops against the pool."""
    models = arms_of(runs)
    most = max(model['hops'] for model in models)
    for arm, (_, colour, marker) in SCALING_ARMS.items():
        of_arm = [model['hops'] for model in models if model['arm_of'] == arm]
        if not of_arm:
            continue
        hops = max(of_arm)
        label = None if hops == most else f'{hops} hops'
        axis.plot(*accuracy_by_pool(models, arm, hops), marker=marker, color=colour, label=label)
        draw_behind(axis, reference.unnamed(), lambda run, arm=arm, hops=hops: accuracy_by_pool(
            arms_of([run]), arm, hops))
    pools = sorted({model['pool'] for model in models if model['pool']})
    chance = models[0]['chance']
    axis.axhline(chance, color='black', lw=1, ls=':')
    axis.annotate('chance', (pools[0], chance - 0.01), fontsize=8, va='top')
    axis.set(xlabel='pool of training questions', ylim=(0, 1.03),
             ylabel=f'accuracy at {most} hops, held-out', title='the best learning rate')
    axis.set_xscale('log', base=2)
    axis.set_xticks(pools, [f'{pool:,}' for pool in pools], rotation=45)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc='center right', fontsize=8, frameon=False)


def draw_any_budget(axis, runs, reference):
    """Accuracy against compute, for some hop counts. Open marks: more passes than in training."""
    models = [model for model in model_records(runs) if 'kind' in model]
    hops = models[0]['hops']
    require(all(model['hops'] == hops for model in models),
            'sweeps of budgets that differ in --hops do not fit into one figure')
    records = best_of_rates(models)
    shown = [k for k in hops if k in (1, 2, 4) or k == hops[-1]]
    colours = dict(zip(shown, HOP_COLOURS, strict=False))
    for k in shown:
        axis.plot([], [], color=colours[k], lw=4, label='1 hop' if k == 1 else f'{k} hops')
    for kind, of_seeds in records.items():
        label, style, marker = BUDGETS[kind]
        flops = np.array(of_seeds[0]['flops']) / 1e6
        mean = np.mean([record['accuracy'] for record in of_seeds], axis=0)   # (hops, passes)
        for k in shown:
            curve = mean[hops.index(k)]
            if kind == 'chain':  # it is over after k passes
                axis.plot(flops[:k], curve[:k], style, color=colours[k], lw=1)
                axis.plot(flops[k - 1], curve[k - 1], marker, color=colours[k], ms=7)
                continue
            axis.plot(flops, curve, style, color=colours[k], lw=1)
            axis.plot(flops[:hops[-1]], curve[:hops[-1]], marker, color=colours[k], ms=4)
            axis.plot(flops[hops[-1]:], curve[hops[-1]:], marker, color=colours[k], ms=4,
                      mfc='white')
        axis.plot([], [], style, color='black', marker=marker, ms=4, label=label)
    draw_behind(axis, reference, state_at_most_hops)
    axis.set(xlabel='MFLOPs for a question', ylabel='accuracy', ylim=(0, 1.03),
             title=f'one model, 1 to {len(flops)} passes')
    axis.set_xscale('log')
    legend_below(axis, columns=2, title_fontsize=8,
                 title='open marks: more passes than in training')


def state_at_most_hops(run):
    """MFLOPs and accuracy of the model `state` of a run, at its most hops."""
    records = best_of_rates([model for model in model_records([run]) if 'kind' in model])
    if 'state' not in records:
        return None
    accuracy = np.mean([record['accuracy'][-1] for record in records['state']], axis=0)
    return np.array(records['state'][0]['flops']) / 1e6, accuracy


def best_of_rates(records):
    """{kind: [record of each seed, with its best learning rate]}"""
    best = {}
    for record in records:
        of_seeds = best.setdefault(record['kind'], {})
        known = of_seeds.get(record['seed'])
        if known is None or record['right'] > known['right']:
            of_seeds[record['seed']] = record
    return {kind: list(best[kind].values()) for kind in BUDGETS if kind in best}


def draw_theories(axis, fewest, most, first, largest):
    """What theories say of longer chains, if the fewest hops take a pool of size `first`."""
    k = np.linspace(fewest, most, 100)
    theories = {
        'constant': np.full_like(k, first),
        'linear': first * k / fewest,
        'doubling with each hop': first * 2 ** (k - fewest),
    }
    for label, size in theories.items():
        inside = size <= largest
        axis.plot(k[inside], size[inside], color='0.8', lw=1, zorder=0)
        axis.annotate(f'{label} ', (k[inside][-1], size[inside][-1]), fontsize=8, color='0.5',
                      ha='right', va='bottom')


def size_of(model, what):
    """what: 'pool' or 'width'. (Old logs have no width.)"""
    return model['pool'] if what == 'pool' else model.get('width', 0)


def smallest_sizes(models, arm, what):
    """{hops: {seed: the smallest pool or width that suffices, or None}}. Widths are of models with
    fresh questions."""
    by_hops = {}
    for model in models:
        is_fresh = model['pool'] is None
        if model['arm_of'] == arm and is_fresh == (what == 'width'):
            by_seed = by_hops.setdefault(model['hops'], {})
            known = by_seed.setdefault(model['seed'], None)
            size = size_of(model, what)
            if model['ended'] == 'learned' and (known is None or size < known):
                by_seed[model['seed']] = size
    return dict(sorted(by_hops.items()))


def means_that_are_known(sizes):
    """Hops, and the geometric mean of their smallest sizes, where all seeds learn."""
    reached = [k for k, of_seeds in sizes.items() if None not in of_seeds.values()]
    return reached, [statistics.geometric_mean(sizes[k].values()) for k in reached]


def accuracy_by_pool(models, arm, hops):
    """Pools that all seeds have tried, and the accuracy with the best rate, the mean over seeds."""
    best = {}
    for model in models:
        if model['arm_of'] == arm and model['hops'] == hops and model['pool']:
            by_seed = best.setdefault(model['pool'], {})
            by_seed[model['seed']] = max(model['right'], by_seed.get(model['seed'], 0.0))
    n_seeds = max((len(by_seed) for by_seed in best.values()), default=0)
    pools = [pool for pool in sorted(best) if len(best[pool]) == n_seeds]
    return pools, [statistics.mean(best[pool].values()) for pool in pools]


# -----------------------------------------------------------------------------
# capacity.py

SCHEME_COLOURS = ('tab:blue', 'tab:orange', 'tab:green')


def draw_capacity(runs, reference):
    everything = [*runs, *reference.runs]
    for run in everything:
        require(model_records([run]), f'no model of {run.folder} is finished yet')
    kinds = {(run.args['hops'], run.args['cot'], run.args['smallest']) for run in everything}
    require(len(kinds) == 1,
            'runs of capacity.py that differ in --hops, --cot or --smallest do not fit into one '
            'figure')
    args = runs[0].args
    title = '1 hop' if args['hops'] == 1 else '2 hops'
    if args['cot']:
        title += ', chain'
    if args['smallest']:
        return draw_smallest(runs, reference, title)
    return draw_stored_bits(runs, reference, title)


def model_records(runs):
    """The records of all models of these runs."""
    return [record for run in runs for record in run.log if record['arm'] == 'model']


def slope_through_origin(x, y):
    x = np.array(x, dtype=float)
    y = np.array(y, dtype=float)
    return float(x @ y / (x @ x))


def draw_stored_bits(runs, reference, title):
    """Left: stored bits against parameters, with all that there was to store. Right: bits for each
    parameter against people. Under the right scheme that is flat."""
    figure, (left, right) = new_figure(11, 5, columns=2)
    records = model_records(runs)
    schemes = list(records[0]['stored'])
    for colour, scheme in zip(SCHEME_COLOURS, schemes, strict=False):
        params, stored = sizes_and_bits(runs, scheme)
        slope = slope_through_origin(params, stored)
        left.plot(params, stored, 'o', color=colour,
                  label=f'stored, {scheme}: {slope:.2f} bits a parameter')
        left.plot(params, [record['entropy'][scheme] for record in records], '_', color=colour,
                  ms=14, label='to be stored' if scheme == schemes[0] else None)
        left.axline((0, 0), slope=slope, color=colour, linewidth=1)
        draw_bits_by_people(right, records, scheme, colour)
        shown = reference if scheme == schemes[0] else reference.unnamed()
        draw_behind(left, shown, lambda run, scheme=scheme: sizes_and_bits([run], scheme), 'D')
        draw_behind(right, reference.unnamed(),
                    lambda run, scheme=scheme: people_and_bits([run], scheme), 'D')

    left.axline((0, 0), slope=2, color='black', linestyle=':', label='2 bits a parameter')
    left.set(xlabel='parameters', ylabel='bits', title=title, xlim=(0, None), ylim=(0, None))
    right.set(xlabel='people', ylabel='bits a parameter', title='a right scheme is flat',
              xscale='log', xmargin=0.15, ylim=(0, 1.1 * right.get_ylim()[1]))
    plain_log_ticks(right, [record['people'] for record in records])
    legend_below(left, columns=2)
    legend_below(right)
    return figure


def sizes_and_bits(runs, scheme):
    """Parameters and stored bits of each model, or None if there is no such scheme."""
    records = [record for record in model_records(runs) if scheme in record['stored']]
    if not records:
        return None
    return ([record['params'] for record in records],
            [record['stored'][scheme] for record in records])


def people_and_bits(runs, scheme):
    """People and stored bits for each parameter of each model, or None."""
    records = [record for record in model_records(runs) if scheme in record['stored']]
    if not records:
        return None
    return ([record['people'] for record in records],
            [record['stored'][scheme] / record['params'] for record in records])


def draw_bits_by_people(axis, records, scheme, colour):
    """A line for each width, with a mark of its own: mean stored bits for each parameter."""
    first = scheme == next(iter(records[0]['stored']))
    for marker, width in zip('os^vP*X', sorted({r['n_embd'] for r in records}), strict=False):
        bits = {}
        for record in records:
            if record['n_embd'] == width:
                per_param = record['stored'][scheme] / record['params']
                bits.setdefault(record['people'], []).append(per_param)
        people = sorted(bits)
        axis.plot(people, [statistics.mean(bits[n]) for n in people], marker=marker, color=colour,
                  ms=5)
        if first:  # the legend says what the marks mean
            axis.plot([], [], marker, color='black', ms=5, label=f'width {width}')


def plain_log_ticks(axis, values):
    """Up to six of these values on a logarithmic x axis, written out."""
    values = sorted(set(values))
    chosen = sorted({round(i) for i in np.linspace(0, len(values) - 1, min(6, len(values)))})
    ticks = [values[i] for i in chosen]
    apart = [ticks[0]]
    for tick in ticks[1:]:  # labels need room
        if tick / apart[-1] > (ticks[-1] / ticks[0]) ** 0.1:
            apart.append(tick)
    axis.set_xticks(apart, [f'{tick:,}' for tick in apart])
    axis.tick_params(axis='x', which='minor', bottom=False, labelbottom=False)


SMALLEST_SERIES = {  # measure: hops, style, label
    'acc_1': (1, 'C0o-', 'one hop'),
    'acc_2_trained': (2, 'C1s-', 'two hops, trained'),
    'acc_2_person': (2, 'C1^:', 'two hops, new person'),
    'acc_2_pair': (2, 'C1v:', 'two hops, new pair'),
    'acc_2_combination': (2, 'C1d:', 'two hops, new combination'),
}


def draw_smallest(runs, reference, title):
    """Share of questions right against parameters, the mean of several runs: trained questions,
    and two hops held out."""
    figure, axis = new_figure(6.5, 4.8)
    for key, (_, style, label) in SMALLEST_SERIES.items():
        draw_behind(axis, reference if key == 'acc_1' else reference.unnamed(),
                    lambda run, key=key: share_by_params([run], key))
        points = share_by_params(runs, key)
        if points:
            axis.plot(*points, style, ms=4, label=label)
    records = model_records(runs)
    axis.axhline(0.99, color='black', linewidth=0.5, label='0.99')
    axis.axhline(records[-1]['chance'], color='black', linestyle=':', linewidth=1, label='chance')
    axis.set(xlabel='parameters', ylabel='share right', title=title, xscale='log',
             ylim=(-0.03, 1.03))
    plain_log_ticks(axis, [record['params'] for record in records])
    legend_below(axis)
    return figure


def share_by_params(runs, key):
    """Numbers of parameters, and the mean share right over models of that size. None without
    models."""
    shares = {}
    for record in model_records(runs):
        if record['hops'] == SMALLEST_SERIES[key][0] and key in record:
            shares.setdefault(record['params'], []).append(record[key])
    if not shares:
        return None
    params = sorted(shares)
    return params, [statistics.mean(shares[n]) for n in params]


# -----------------------------------------------------------------------------
# probe.py

PROBE_CURVES = (  # measure, style, label
    ('acc', 'C0o-', 'probe'),
    ('lens', 'C2s--', 'logit lens'),
    ('control', 'C1^--', 'control task'),
    ('random_init', 'kx:', 'random init'),
    ('flip', 'C3d-', 'flip'),
    ('random', 'C3.:', 'random direction'),
)


def hop_records(run):
    return [record for record in run.log if record['arm'] == 'hop']


def where_needed(hop, key):
    """A measure by layer, at the position where this hop is needed."""
    column = hop['positions'].index(hop['position'])
    return [row[column] for row in hop[key]]


def draw_probe(runs, reference):
    """For up to five hops: probe accuracy and flips in each cell (layer, position), and by layer
    where the hop is needed. Several runs: by layer, a thin line for each run, a thick one for the
    mean."""
    for run in [*runs, *reference.runs]:
        require(run.final and hop_records(run),
                f'{run.folder} is not finished: its figure needs all records')
    if len(runs) > 1 or reference.runs:
        figure, axis = new_figure(6.5, 4.8)
        draw_hops_behind(axis, reference)
        draw_staircase(axis, runs, probe_title(runs[0]), 'layer')
        legend_below(axis)
        return figure
    return draw_probed_cells(runs[0])


def draw_hops_behind(axis, reference):
    """Probe accuracy (solid) and flips (dashed) of all hops of the reference."""
    n_hops = max([len(hop_records(run)) for run in reference.runs], default=0)
    for j in range(n_hops):
        for key, style in (('acc', '-'), ('flip', '--')):
            draw_behind(axis, reference if (j, key) == (0, 'acc') else reference.unnamed(),
                        lambda run, j=j, key=key: hop_curve(run, j, key), style)


def hop_curve(run, j, key):
    """Layers, and a measure of the j-th hop where it is needed. None if it was not probed."""
    hops = hop_records(run)
    if j >= len(hops):
        return None
    return hops[j]['layers'], where_needed(hops[j], key)


def draw_probed_cells(run):
    """Left, for each hop: probe accuracy and flips by (layer, position). Right: by layer."""
    hops = hop_records(run)
    shown = sorted({round(i) for i in np.linspace(0, len(hops) - 1, min(5, len(hops)))})
    width = min(9, max(4, 0.9 + 0.32 * len(hops[0]['positions'])))
    height = 0.35 + 0.22 * len(hops[0]['layers'])  # of one heatmap
    figure = empty_figure(width + 3.6, 1.5 + 2 * len(shown) * height)
    grid = figure.add_gridspec(2 * len(shown) + 1, 2, width_ratios=(width, 3.6),
                               height_ratios=[height] * 2 * len(shown) + [0.8])
    cell_axes = []
    for row, i in enumerate(shown):
        hop = hops[i]
        for key, name, y in (('acc', 'probe accuracy', 2 * row), ('flip', 'flip', 2 * row + 1)):
            axis = figure.add_subplot(grid[y, 0])
            image = draw_cells(axis, run, hop, key, f'hop {hop["hop"]}: {name}')
            cell_axes.append(axis)
        side = figure.add_subplot(grid[2 * row:2 * row + 2, 1])
        draw_probe_curves(side, hop)

    label_positions(cell_axes[-1], run, hops[0]['positions'])
    side.set_xlabel('layer')
    left, right = (figure.add_subplot(grid[-1, column]) for column in (0, 1))
    figure.colorbar(image, ax=left, location='top', fraction=0.9, aspect=40,
                    label='share of questions (a number: 0.15 or more)')
    right.legend(*side.get_legend_handles_labels(), loc='upper center', ncols=2, fontsize=8,
                 frameon=False)
    left.axis('off')
    right.axis('off')
    figure.suptitle(probe_title(run))
    return figure


def probe_title(run):
    final = run.final
    return f'{final["task"]}, {final["mode"]}, {final["hops"]} hops'


def draw_cells(axis, run, hop, key, title):
    """A measure in each cell. A mark shows the position where the hop is needed."""
    layers = hop['layers']
    image = draw_grid(axis, hop[key], least=0.15)
    axis.plot(hop['positions'].index(hop['position']), len(layers) - 0.2, 'v', color='black', ms=6,
              clip_on=False)
    axis.set_title(title, fontsize=10)
    axis.set(ylabel='layer', yticks=range(len(layers)), yticklabels=layers, xticks=[],
             ylim=(-0.5, len(layers) - 0.5))
    return image


def draw_grid(axis, values, least=0):
    """Shares as colours, and from `least` on as numbers, too, if there is room for them."""
    image = axis.imshow(values, vmin=0, vmax=1, aspect='auto', origin='lower', cmap='viridis')
    if len(values[0]) <= 20:
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                if value >= least:
                    axis.text(j, i, f'{value:.2f}'.lstrip('0'), ha='center', va='center',
                              fontsize=8, color='white' if value < 0.6 else 'black')
    return image


def label_positions(axis, run, positions):
    """Below the lowest cells: the tokens of one question, or the positions."""
    axis.set_xlabel('token of one question' if 'example' in run.config else 'position')
    if len(positions) <= 40:
        axis.set_xticks(range(len(positions)), run.config.get('example', positions), fontsize=8)
    else:
        axis.set_xticks(range(0, len(positions), 10), positions[::10], fontsize=8)


def draw_probe_curves(axis, hop):
    """All measures by layer, at the position where the hop is needed."""
    for key, style, label in PROBE_CURVES:
        axis.plot(hop['layers'], where_needed(hop, key), style, ms=4, lw=1.2, label=label)
    axis.axhline(hop['chance'], color='0.6', lw=0.8, label='chance')
    found = 'not decodable'
    if hop['first_layer'] != 'none':
        found = f'decodable from layer {hop["first_layer"]}'
    axis.set_title(f'hop {hop["hop"]} at \u25bc: {found}', fontsize=10)
    axis.set(ylim=(-0.03, 1.03), xticks=hop['layers'], ylabel='share of questions')


def draw_staircase(axis, runs, title, xlabel):
    """Probe (solid) and interchange (dashed) by layer, one colour for each hop: a thin line for
    each run, a thick one for their mean."""
    all_hops = [hop_records(run) for run in runs]
    layers = all_hops[0][0]['layers']
    for j in range(len(all_hops[0])):
        for key, style, marker, name in (('acc', '-', 'o', 'probe'), ('flip', '--', 'd', 'flip')):
            curves = [where_needed(hops[j], key) for hops in all_hops]
            for curve in curves:
                axis.plot(layers, curve, style, color=f'C{j}', lw=0.6, alpha=0.5)
            axis.plot(layers, np.mean(curves, axis=0), style, color=f'C{j}', marker=marker, ms=4,
                      label=f'hop {j + 1}, {name}')
    untrained = []
    for hops in all_hops:
        for hop in hops:
            untrained += where_needed(hop, 'random_init')
    if len(runs) > 1:
        axis.plot([], [], color='0.5', lw=0.6, label='thin: one run each')
    axis.axhline(max(untrained), color='black', lw=0.8, ls=':', label='untrained, at most')
    axis.set(title=title, xlabel=xlabel, ylim=(-0.03, 1.03), xticks=layers)


DRAW = {
    'train_cot': draw_train_cot,
    'train_rl': draw_train_rl,
    'train_puzzles': draw_train_puzzles,
    'train_maze': draw_train_maze,
    'train_latent': draw_train_latent,
    'search': draw_search,
    'scaling': draw_scaling,
    'capacity': draw_capacity,
    'probe': draw_probe,
}


# -----------------------------------------------------------------------------
# command line

def main(argv=None):
    parser = Parser(__doc__, 'FOLDER ... ')
    parser.add_argument('folders', nargs='+', help='folders of runs of one script')
    parser.add_argument('--compare', metavar='FOLDER',
        help='draw the runs of a row of results/logs, or one run, in grey behind')
    parser.add_argument('--out', help='where the figure goes (default: plot.png of the one folder, '
                                      'else compare.png of the first)')
    args = parser.parse_args(argv)

    name = 'compare.png' if args.compare or len(args.folders) > 1 else 'plot.png'
    path = args.out or Path(args.folders[0]) / name
    reference = read_reference(args.compare) if args.compare else NO_REFERENCE
    runs = [read_run(folder) for folder in args.folders]
    figure = draw(runs, reference)
    for difference in other_settings(runs[0], reference):
        print(difference)
    try:
        save(figure, path)
    except OSError as error:
        raise ValueError(f'cannot write {path}: {error.strerror}') from error
    print(path)


if __name__ == '__main__':
    with one_line_errors():
        main()
