"""The figure of every run, drawn from its folder and nothing else.

A script calls `draw_run(folder)` at its end. The same figure can be drawn again later. Several runs
of one script go into one figure, compare.png in the folder of the first. --compare draws the runs
of a row of results/logs in grey behind them. Does my run look like those?

    python plots.py out/train_cot                               # draw its plot.png again
    python plots.py out/a out/b                                 # several runs in one figure
    python plots.py out/a --compare results/logs/train_cot/cycle-20
    python plots.py --docs                                      # docs/figures, from results/logs

The file has a section for each script, then one for the figures of the documents, which put several
rows of results/logs together.
"""

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, NullLocator

from common import read_log, write_atomic
from data import Parser, format_range, one_line_errors, require


ROOT = Path(__file__).parent
LOGS = ROOT / 'results' / 'logs'
DOCS = ROOT / 'docs' / 'figures'


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
        return self.args['script']

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
    """Raises ValueError if the folder holds no run."""
    folder = Path(folder)
    try:
        config = json.loads((folder / 'config.json').read_text())
        log = read_log(folder)
        run = LoggedRun(folder, config, log)
        require(run.script in DRAW, f'{folder} holds a run of {run.script}.py, which has no figure')
        require(log, f'{folder} holds a run without a log')
        for record in log:
            record['arm']
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f'{folder} holds no run of this repo') from error
    return run


def read_row(row):
    """The runs of a row of results/logs, one for each seed."""
    folders = sorted((LOGS / row).glob('seed*'))
    require(folders, f'there are no logs of {row}: bash results/reproduce.sh {row}')
    return [read_run(folder) for folder in folders]


@dataclass
class Reference:
    """Finished runs that are drawn in grey behind others, to compare with."""
    runs: list
    label: str

    def unnamed(self):
        """The same without a place in the legend, for a second curve of the same runs."""
        return Reference(self.runs, None)


NO_REFERENCE = Reference([], '')
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
            words.append(f'{name}={format_range(value) if isinstance(value, list) else value}')
        result.append(' '.join(words))
    return result if max(map(len, result)) < 60 else folders


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
    return DRAW[scripts[0]](runs, reference)


def save(figure, path):
    write_atomic(path, lambda temporary: figure.savefig(temporary, dpi=120, format='png'))


def new_figure(width, height, rows=1, columns=1, **options):
    """A figure and its axes."""
    figure = Figure(figsize=(width, height), layout='constrained')
    return figure, figure.subplots(rows, columns, **options)


def legend_below(axis, columns=3, **options):
    """A legend below the axis and its label, where it covers no curve."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc='upper center', bbox_to_anchor=(0.5, -0.2), ncols=columns, fontsize=8,
                    frameon=False, **options)


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


def sample_of(label, style='-', **options):
    """A line or mark for a legend that stands for no single curve."""
    return Line2D([], [], **({'linestyle': style} | options), label=label)


def label_ends(axis, ends, gap=0.055):
    """The names of curves, right of the axis at their ends: (y, name, colour) each."""
    least, most = axis.get_ylim()
    below = -math.inf
    for y, name, colour in sorted(ends):
        height = max((y - least) / (most - least), below + gap)
        axis.text(1.01, height, name, color=colour, fontsize=8, va='center',
                  transform=axis.transAxes)
        below = height


def short_ticks(axis, ticks=None):
    """20k and 3M in place of 20000 and 3e6, on an x or y axis. Ticks: where, if not anywhere."""
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


def mean_and_range(curves):
    """The mean, least and largest of several curves, place by place."""
    curves = np.array(curves)
    return curves.mean(axis=0), curves.min(axis=0), curves.max(axis=0)


# -----------------------------------------------------------------------------
# train_cot.py

ARMS = {'cot': ('chain of thought', 'tab:blue'), 'direct': ('direct', 'tab:red')}


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
                style = '-' if arm == 'cot' else '--'
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
    suffix = f', {k} hops' if len(runs) == 1 and k > 1 else ''
    draw_behind(left, reference, lambda run: discovery(run, max(run.hops)), label=suffix)
    draw_behind(right, reference.unnamed(), validity_and_accuracy)
    if len(runs) == 1:  # a curve for each hop count
        for i, h in enumerate(runs[0].hops):
            label = '1 hop' if h == 1 else f'{h} hops'
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
    draw_expected(right, k, runs[0].chance(k))
    titles = []
    for run in runs:
        nodes = run.args.get('nodes')
        titles.append(f'{run.task}, {nodes} nodes' if nodes else run.task)
    title = '; '.join(sorted(set(titles)))
    left.set(xlabel='chains sampled', ylabel='greedy accuracy, held-out', title=title,
             ylim=(0, 1.04))
    right.set(xlabel='validity of the chain', xlim=(-0.02, 1.04), ylim=(0, 1.04),
              title=f'{"1 hop" if k == 1 else f"{k} hops"}, over training')
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
    path = run.folder / 'examples.json'
    if not path.exists():  # as in results/logs
        figure, axis = new_figure(5.2, 4.2)
        draw_maze_measures(axis, run)
        return figure

    figure = Figure(figsize=(10, 4.2), layout='constrained')
    left, right = figure.subfigures(1, 2, width_ratios=(2, 3))
    draw_maze_measures(left.subplots(), run)
    draw_maze_examples(right, json.loads(path.read_text()))
    return figure


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
    "beam, the model's moves": ('tab:cyan', '-', 'o'),
    "dfs, the model's moves": ('navy', '--', '.'),
    "dfs, the model's moves, pruned": ('slateblue', '--', '.'),
    'best-of-k, oracle': ('tab:orange', '-', '.'),
    'best-of-k, majority': ('tab:brown', '-', '.'),
    'best-of-k, log-prob': ('tab:olive', '-', '.'),
    'best-of-k, verdict': ('tab:red', '-', '.'),
    'random rollouts, oracle': ('0.6', '-', '.'),
    'beam, random values': ('0.6', '-', 'o'),
    "beam, 'mult' heuristic": ('black', '-', 'o'),
    "dfs, 'mult' heuristic": ('black', '--', '.'),
    'dfs, random order': ('0.6', '--', '.'),
}


def draw_search(runs, reference):
    """Share solved against forward FLOPs (left) and nodes expanded (right); the mean of several
    runs, with the range from the least to the largest. What uses no model has no FLOPs: it is in
    the right panel only."""
    for run in [*runs, *reference.runs]:
        require(run.final, f'{run.folder} is not finished: its figure needs the last record')
    tasks = {run.task for run in runs}
    require(len(tasks) == 1, f'searches of {" and ".join(sorted(tasks))} do not fit into one '
                             'figure')
    if reference.runs:
        return draw_search_beside(runs, reference)
    if 'target' not in runs[0].final:
        return draw_best_of_k(runs)

    figure = Figure(figsize=(12, 5.8), layout='constrained')
    top, bottom = figure.subfigures(2, 1, height_ratios=(6, 1))
    left, right = top.subplots(1, 2, sharey=True)
    for series, style in SEARCH_STYLES.items():
        points = search_points(runs, series)
        if not points:
            continue
        draw_search_series(right, points, 'expansions', style, label=series)
        if points[0]['flops'] > 0:
            draw_search_series(left, points, 'flops', style)
    if runs[0].final['target'] == 24:
        draw_gpt4(right)

    top.suptitle(search_title(runs))
    left.set(xscale='log', xlabel='forward FLOPs a puzzle', ylim=(0, 1.03),
             ylabel='share solved (beam: any of b)')
    right.set(xscale='log', xlabel='nodes expanded a puzzle')
    handles, names = right.get_legend_handles_labels()
    bottom.legend(handles, names, loc='center', ncols=4, fontsize=8, frameon=False)
    return figure


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
    """The settings of a series, fewest nodes first: a list of {setting, expansions, flops, solved,
    least, most}, means over runs."""
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
    figure = Figure(figsize=(width + 3.6, 1.5 + 2 * len(shown) * height), layout='constrained')
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
    'train_maze': draw_train_maze,
    'search': draw_search,
    'capacity': draw_capacity,
    'probe': draw_probe,
}


# -----------------------------------------------------------------------------
# the figures of the documents, one message each. They are read at a width of 800 pixels.

def docs_hops():
    """Depth, loops or a chain: accuracy against hops."""
    rows = {
        'hops-loop-4': ('1 layer applied 4 times', 'tab:orange', '-', 's'),
        'hops-direct-4': ('4 layers', 'tab:red', '-', 'o'),
        'hops-direct-2': ('2 layers', 'tab:purple', '-', '^'),
        'hops-loop-2': ('1 layer applied twice', 'tab:green', '-', 'd'),
        'hops-direct-1': ('1 layer', 'tab:gray', '-', 'v'),
    }
    figure, axis = new_figure(8, 3.8)
    hops, mean, params = docs_hops_curve('hops-chain')
    axis.plot(hops, mean, color='tab:blue', lw=9, alpha=0.3)
    ends = [(mean[-1] + 0.01, 'chain of thought, 1 layer', 'tab:blue')]
    sizes = [params]
    for row, (label, colour, line, marker) in rows.items():
        hops, mean, params = docs_hops_curve(row)
        axis.plot(hops, mean, line, color=colour, marker=marker, ms=5)
        ends.append((mean[-1], f'no chain, {label}', colour))
        sizes.append(params)

    chance = read_row('train_cot/hops-chain')[0].final['chance']
    axis.axhline(chance, color='black', linestyle=':', lw=1)
    ends.append((chance, 'chance', 'black'))
    axis.set(xlabel='hops', ylabel='accuracy of the answer, held-out', ylim=(0, 1.1), xticks=hops,
             title=f'10 nodes: six models of {min(sizes) / 1000:.0f}k to {max(sizes) / 1000:.0f}k '
                   'parameters, one seed each')
    label_ends(axis, ends)
    return figure


def docs_hops_curve(row):
    """Hops, accuracy after training (the mean over seeds) and parameters of a row of train_cot."""
    runs = read_row(f'train_cot/{row}')
    curves = []
    for run in runs:
        (by_hops,) = run.final['by_hops'].values()
        curves.append([measures['acc'] for measures in by_hops.values()])
    return [int(h) for h in by_hops], np.mean(curves, axis=0), runs[0].final['params']


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


def docs_rl_baselines():
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


def docs_rl_validity():
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


def docs_rl_cost():
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


def docs_search_flops():
    """Solved against FLOPs, for all that uses the model."""
    series = {  # label, at which point, offset of the label, its side, colour, line style
        'beam, all legal moves': ('beam (b = 1, 3, 5),\nmoves by code', 0, (-8, 0), 'right',
                                  'tab:blue', '-'),
        'dfs, all legal moves': ('depth first,\nmoves by code', -1, (-8, -3), 'right',
                                 'tab:blue', '--'),
        "beam, the model's moves": ("beam (b = 1, 3, 5),\nthe model's moves", 0, (8, -12), 'left',
                                    'tab:orange', '-'),
        "dfs, the model's moves": ("depth first,\nthe model's moves", -1, (0, 12), 'center',
                                   'tab:orange', '--'),
        'best-of-k, oracle': ('k chains of the model\n(k = 1 to 100): one is right', 2, (10, -8),
                              'left', 'tab:green', '-'),
    }
    runs = read_row('search/tot')
    figure, axis = new_figure(8, 4.2)
    for name, (label, place, offset, side, colour, line) in series.items():
        points = search_points(runs, name)
        draw_search_series(axis, points, 'flops', (colour, line, 'o'))
        point = points[place]
        axis.annotate(label, (point['flops'], point['solved']), xytext=offset, fontsize=8,
                      textcoords='offset points', color=colour, ha=side, va='center')
    axis.set(xscale='log', xlabel='forward FLOPs a puzzle', ylabel='share solved', ylim=(0, 1.12),
             yticks=np.linspace(0, 1, 6), title=docs_search_title(runs))
    short_ticks(axis.xaxis, [3e7, 1e8, 3e8, 1e9, 3e9])
    return figure


def docs_search_title(runs):
    return (f'{runs[0].final["n_test"]} puzzles of Tree of Thoughts. Mean of {len(runs)} models, '
            'shaded: the range')


def docs_search_nodes():
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
             yticks=np.linspace(0, 1, 6), title=docs_search_title(runs))
    short_ticks(axis.xaxis, [3, 5, 10, 20, 40])
    legend_beside(axis, [
        sample_of('beam, b = 1, 3, 5', marker='o', color='0.4'),
        sample_of('depth first,\nby budget of nodes', '--', marker='o', color='0.4')])
    return figure


def docs_search_gpt4():
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
             title=docs_search_title(runs))
    short_ticks(axis.xaxis, [1, 3, 10, 30, 100, 300])
    legend_beside(axis)
    return figure


def docs_best_of_k():
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


def docs_capacity_bits():
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


def docs_capacity_smallest():
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
                axis.plot(*docs_mean_by(records, 'params', key), line, marker=marker,
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


def docs_mean_by(records, x, y):
    """The values of x, and for each of them the mean of y."""
    by_x = {}
    for record in records:
        by_x.setdefault(record[x], []).append(record[y])
    return sorted(by_x), [statistics.mean(by_x[value]) for value in sorted(by_x)]


def docs_capacity_schemes():
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
            axis.plot(*docs_mean_by(shown, 'people', 'bits'), style, color=colour, ms=4)
        handles.append(sample_of(scheme, color=colour))
    axis.set(xlabel='people', ylabel='bits a parameter', xscale='log', ylim=(0, None),
             title='two hops, no chain: the bits that are stored, by scheme')
    short_ticks(axis.xaxis, [50, 100, 200])
    handles += [sample_of('8k parameters', color='0.4', marker='o', ms=4),
                sample_of('16k parameters', '--', color='0.4', marker='s', ms=4)]
    legend_beside(axis, handles)
    return figure


def docs_probe_layers(row, title, xlabel='layer, at the prompt\'s end'):
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


def docs_probe_chain():
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


def docs_probe_training():
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


def docs_probe_profiles():
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


def docs_maze(measure, panels):
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


def docs_maze_figures():
    """The four comparisons of losses."""
    return {
        'maze_losses.png': lambda: docs_maze('exact', {
            '3x3, learning rate 5e-4': ['path', 'balanced', 'full'],
            '3x3, learning rate 2e-3': ['path-fast', 'balanced-fast', 'full-fast']}),
        'maze_wilson.png': lambda: docs_maze('exact', {
            "4x4, Wilson's mazes": ['wilson-path', 'wilson-balanced', 'wilson-full']}),
        'maze_mlmu.png': lambda: docs_maze('exact', {
            '4x4, depth-first mazes': ['default', 'mlmu']}),
        'maze_graded.png': lambda: docs_maze('shortest', {
            '4x4 with loops': ['loops-path', 'loops-graded']}),
    }


def docs_figures():
    """{file name in docs/figures: a function that draws it}"""
    return {
        'cycle-20.png': lambda: draw(read_row('train_cot/cycle-20')[:1]),
        'hops.png': docs_hops,
        'rl-10.png': lambda: draw(read_row('train_rl/loo')[:1]),
        'rl_baselines.png': docs_rl_baselines,
        'rl_validity.png': docs_rl_validity,
        'rl_cost.png': docs_rl_cost,
        'search_flops.png': docs_search_flops,
        'search_nodes.png': docs_search_nodes,
        'search_gpt4.png': docs_search_gpt4,
        'best_of_k.png': docs_best_of_k,
        'capacity_bits.png': docs_capacity_bits,
        'capacity_smallest.png': docs_capacity_smallest,
        'capacity_schemes.png': docs_capacity_schemes,
        'probe-default.png': lambda: draw(read_row('probe/default')[:1]),
        'probe_chain.png': docs_probe_chain,
        'probe_2_hops.png': lambda: docs_probe_layers('default', '2 layers, 2 hops'),
        'probe_3_hops.png': lambda: docs_probe_layers('direct', '4 layers, 3 hops'),
        'probe_loop.png': lambda: docs_probe_layers(
            'loop', 'one layer, applied 4 times, 3 hops', 'times the layer was applied'),
        'probe_training.png': docs_probe_training,
        'probe_profiles.png': docs_probe_profiles,
        'maze-default.png': lambda: draw(read_row('train_maze/default')[:1]),
        **docs_maze_figures(),
    }


# -----------------------------------------------------------------------------
# command line

def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument('folders', nargs='*', help='folders of runs of one script')
    parser.add_argument('--compare', metavar='FOLDER',
        help='draw the runs of a row of results/logs, or one run, in grey behind')
    parser.add_argument('--out', help='where the figure goes (default: plot.png of the one folder, '
                                      'else compare.png of the first)')
    parser.add_argument('--docs', action='store_true', help='draw all figures of docs/ again')
    args = parser.parse_args(argv)
    require(args.docs != bool(args.folders), 'give folders of runs, or --docs')

    if args.docs:
        DOCS.mkdir(parents=True, exist_ok=True)
        for name, draw_figure in docs_figures().items():
            save(draw_figure(), DOCS / name)
            print(DOCS / name)
        return

    name = 'compare.png' if args.compare or len(args.folders) > 1 else 'plot.png'
    path = args.out or Path(args.folders[0]) / name
    reference = read_reference(args.compare) if args.compare else NO_REFERENCE
    figure = draw([read_run(folder) for folder in args.folders], reference)
    try:
        save(figure, path)
    except OSError as error:
        raise ValueError(f'cannot write {path}: {error.strerror}') from error
    print(path)


if __name__ == '__main__':
    with one_line_errors():
        main()
