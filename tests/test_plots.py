"""Figures: each is drawn from the folders of runs alone, and shows what is logged there."""

import itertools
import json
import math
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, call

import plots
from results import figures


pytestmark = pytest.mark.usefixtures('figures')
LOGS = ROOT / 'results' / 'logs'
ROWS = {  # a row of each script, small to draw
    'train_cot': 'train_cot/cycle-20',
    'train_rl': 'train_rl/mix-1',
    'train_puzzles': 'train_puzzles/24',
    'train_maze': 'train_maze/default',
    'train_latent': 'train_latent/default',
    'search': 'search/tot',
    'scaling': 'scaling/quick',
    'capacity': 'capacity/1',
    'probe': 'probe/default',
}


def copy_run(row, folder, seed=1337):
    """The logged files of a run, copied to another folder."""
    shutil.copytree(LOGS / row / f'seed{seed}', folder)
    return folder


def legend_labels(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def lines_by_label(axis):
    return {line.get_label(): line for line in axis.lines}


@pytest.mark.parametrize('script', ROWS)
def test_the_figure_of_a_run_needs_its_folder_alone(script, tmp_path):
    folder = copy_run(ROWS[script], tmp_path / 'run')
    plots.draw_run(folder)
    assert (folder / 'plot.png').read_bytes().startswith(b'\x89PNG')
    assert not list(folder.glob('*.tmp'))


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn. To paint one for a file takes as long again."""
    all_drawn = []

    def save(figure, path):
        all_drawn.append(figure)
        Path(path).write_bytes(b'\x89PNG')
    monkeypatch.setattr(plots, 'save', save)
    return all_drawn


@pytest.mark.parametrize('script', ROWS)
def test_several_runs_are_drawn_into_one_figure(script, tmp_path, drawn):
    folders = [LOGS / ROWS[script] / f'seed{seed}' for seed in (1337, 1338)]
    if script == 'train_puzzles':  # one seed
        folders[1] = LOGS / 'train_puzzles/coin/seed1337'
    code, out, err = call(plots, [*map(str, folders), '--out', str(tmp_path / 'both.png')])
    assert code == 0, err
    assert out.strip() == str(tmp_path / 'both.png')
    assert (tmp_path / 'both.png').read_bytes().startswith(b'\x89PNG')


def test_several_runs_go_into_the_first_ones_folder_beside_its_own_figure(tmp_path):
    folders = []
    for seed in (1337, 1338):
        folders.append(copy_run(ROWS['train_rl'], tmp_path / str(seed), seed))
    (folders[0] / 'plot.png').write_bytes(b'as it was')
    code, out, err = call(plots, map(str, folders))
    assert code == 0, err
    assert out.strip() == str(folders[0] / 'compare.png')
    assert (folders[0] / 'compare.png').read_bytes().startswith(b'\x89PNG')
    assert (folders[0] / 'plot.png').read_bytes() == b'as it was'
    assert not (folders[1] / 'compare.png').exists()


COMPARED = [*ROWS.values(), 'train_cot/countdown', 'search/cycle', 'capacity/chain',
            'capacity/flat', 'probe/composer']


@pytest.mark.parametrize('row', COMPARED)
def test_a_run_is_compared_with_the_seeds_of_a_row(row, tmp_path, drawn):
    """They are drawn in grey, with one entry in a legend."""
    folder = copy_run(row, tmp_path / 'run')
    code, out, err = call(plots, [str(folder), '--compare', str(LOGS / row)])
    assert code == 0, err
    assert out.strip() == str(folder / 'compare.png')
    assert {path.name for path in folder.iterdir()} - {'examples.json'} == {
        'compare.png', 'config.json', 'log.jsonl'}

    reference = plots.read_reference(LOGS / row)
    (figure,) = drawn
    axes = figure.axes
    n_seeds = len(list((LOGS / row).glob('seed*')))
    assert len(reference.runs) == n_seeds
    seeds = '1 seed' if n_seeds == 1 else f'{n_seeds} seeds'
    assert reference.label == f'reference: {row} ({seeds})'
    grey = [line for axis in axes for line in axis.lines if line.get_color() == plots.GREY]
    assert len(grey) >= n_seeds
    names = []
    for axis in axes:
        if axis.get_legend() is not None:
            names += legend_labels(axis)
    named = [name for name in names if name.startswith(reference.label)]
    assert len(named) == (2 if row == 'train_cot/cycle-20' else 1)  # one an arm
    coloured = [line for axis in axes for line in axis.lines if line.get_color() != plots.GREY]
    assert coloured


def test_the_grey_curves_are_those_of_the_reference():
    reference = plots.read_reference(LOGS / 'train_cot/cycle-20')
    axis = plots.draw(reference.runs[:1], reference).axes[0]
    grey = [line for line in axis.lines if line.get_color() == plots.GREY]
    want = []
    for arm in ('cot', 'direct'):
        for run in reference.runs:
            want.append([record['eval']['4']['acc'] for record in run.evaluations(arm)])
    assert [list(line.get_ydata()) for line in grey] == want


def test_one_run_can_be_the_reference():
    reference = plots.read_reference(LOGS / 'train_cot/star/seed1338')
    assert [run.args['seed'] for run in reference.runs] == [1338]
    assert reference.label == 'reference: star/seed1338 (1 seed)'


@pytest.mark.parametrize('row, other, message', [
    ('train_cot/star', 'train_rl/mix-1', 'train_cot and train_rl'),
    ('train_cot/star', 'train_cot/cycle-20', 'task cycle'),
    ('search/tot', 'search/cycle', 'task cycle'),
    ('probe/default', 'probe/composer', 'task profiles'),
    ('capacity/1', 'capacity/chain', '--hops'),
    ('train_cot/star', 'jacobi/cycle', 'no figure'),
    ('train_cot/star', 'nowhere', 'nowhere'),
])
def test_a_reference_of_another_kind_is_refused(row, other, message, tmp_path):
    folder = copy_run(row, tmp_path / 'run')
    code, out, err = call(plots, [str(folder), '--compare', str(LOGS / other)])
    assert (code, out, err.count('\n')) == (2, '', 1) and message in err
    assert not (folder / 'compare.png').exists()


def test_runs_of_two_tasks_fit_into_one_figure_of_accuracies():
    """And are named by their folders, because they differ in too much."""
    folders = [LOGS / 'train_cot' / row / 'seed1337' for row in ('cycle-20', 'star')]
    axis = plots.draw([plots.read_run(folder) for folder in folders]).axes[0]
    assert axis.get_title() == 'cycle, 4 hops; star, 2 hops'
    assert 'star/seed1337, chain of thought' in [name[-31:] for name in legend_labels(axis)]


def test_searches_of_two_tasks_are_refused(tmp_path):
    folders = [str(LOGS / 'search' / row / 'seed1337') for row in ('tot', 'cycle')]
    code, _, err = call(plots, [*folders, '--out', str(tmp_path / 'x.png')])
    assert code == 2 and err.count('\n') == 1 and 'countdown and cycle' in err


def test_runs_are_named_by_the_arguments_that_all_of_them_have():
    runs = figures.read_row('train_maze/default')
    assert len({'task' in run.args for run in runs}) == 2  # one is of a later version
    assert plots.labels(runs) == ['seed=1337', 'seed=1338', 'seed=1339']


def test_the_curves_of_countdown_move():
    """Verdict and step: the accuracy of the verdict is near chance from the start."""
    run = plots.read_run(LOGS / 'train_cot/countdown/seed1337')
    left, right = plots.draw([run]).axes
    lines = lines_by_label(left)
    for k in (1, 2, 3):
        chain = [record['eval'][str(k)]['chain'] for record in run.evaluations('cot')]
        assert list(lines[f'{k + 1} numbers left'].get_ydata()) == chain
    assert 'verdict' in left.get_title() and 'step' in left.get_title()
    heights = [bar.get_height() for bar in right.patches]
    after = run.final['by_hops']['cot']
    assert heights == [after[str(k)][key] for key in ('acc', 'chain') for k in (1, 2, 3)]


@pytest.mark.parametrize('row', ['train_cot/star', 'train_cot/probe-composer-model',
                                 'train_rl/collapse', 'train_maze/size-full-4', 'capacity/loop'])
def test_a_legend_covers_no_curve(row):
    """It stands below its axis."""
    figure = plots.draw(figures.read_row(row)[:1])
    figure.canvas.draw()
    for axis in figure.axes:
        legend = axis.get_legend()
        if legend is not None:
            assert legend.get_window_extent().y1 < axis.get_window_extent().y0


def test_ticks_of_parameters_do_not_collide():
    axis = plots.draw([plots.read_run(LOGS / 'capacity/chain/seed1337')]).axes[0]
    axis.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axis.get_xticklabels()]
    assert len(boxes) >= 3
    for box, following in zip(boxes, boxes[1:], strict=False):
        assert box.x1 < following.x0


def test_the_curves_of_train_cot_are_the_logged_accuracies():
    run = plots.read_run(LOGS / 'train_cot/cycle-20/seed1337')
    figure = plots.draw([run])
    lines = lines_by_label(figure.axes[0])
    for arm, label in (('cot', 'chain of thought'), ('direct', 'direct')):
        records = run.evaluations(arm)
        assert len(records) > 5
        assert list(lines[label].get_xdata()) == [record['step'] for record in records]
        accuracy = [record['eval']['4']['acc'] for record in records]
        assert list(lines[label].get_ydata()) == accuracy
    assert 'chance' in legend_labels(figure.axes[0])


def test_the_curves_of_train_puzzles_are_what_is_logged():
    run = plots.read_run(LOGS / 'train_puzzles/24/seed1337')
    left, right = plots.draw([run]).axes
    records = [record for record in run.log if record['arm'] == 'rl']
    assert [line.get_label() for line in left.lines][:2] == ['this run, held-out',
                                                             'this run, training puzzles']
    for line, name in zip(left.lines, ('greedy', 'greedy_seen'), strict=False):
        assert list(line.get_xdata()) == [record['samples'] for record in records]
        assert list(line.get_ydata()) == [record[name] for record in records]
    for line, end in zip(right.lines, ('', '_before'), strict=True):
        assert list(line.get_xdata()) == [1, 4, 16, 64]
        assert list(line.get_ydata()) == [run.final[f'pass_{k}{end}'] for k in (1, 4, 16, 64)]


def test_the_curves_of_train_rl_are_drawn_against_sampled_chains():
    run = plots.read_run(LOGS / 'train_rl/loo/seed1337')
    lines = lines_by_label(plots.draw([run]).axes[0])
    records = run.evaluations('rl')
    for k in (1, 2, 3, 4):
        line = lines['1 hop' if k == 1 else f'{k} hops']
        assert list(line.get_xdata()) == [record['samples'] for record in records]
        assert list(line.get_ydata()) == [record['eval'][str(k)]['acc'] for record in records]


def test_the_curves_and_bars_of_train_latent_are_what_is_logged():
    run = plots.read_run(LOGS / 'train_latent/hops-2/seed1337')
    left, *others = plots.draw([run]).axes
    lines = lines_by_label(left)
    for feed in run.args['feed']:
        records = run.evaluations(feed)
        line = lines[plots.FEEDS[feed][0]]
        assert list(line.get_xdata()) == [record['questions'] for record in records]
        assert list(line.get_ydata()) == [record['eval']['2']['acc'] for record in records]
    thoughts = run.final['thoughts']
    assert [axis.get_title() for axis in others] == [plots.FEEDS[feed][0] for feed in thoughts]
    for axis, measures in zip(others, thoughts.values(), strict=True):
        heights = [bar.get_height() for bar in axis.patches]
        assert heights == pytest.approx([measures['lens'][0][0], measures['probe'][0][0],
                                         measures['flip'][0], measures['random'][0]])


def test_the_points_of_capacity_are_the_stored_bits_of_its_models():
    run = plots.read_run(LOGS / 'capacity/1/seed1337')
    axis = plots.draw([run]).axes[0]
    records = [record for record in run.log if record['arm'] == 'model']
    (points,) = [line for line in axis.lines if line.get_label().startswith('stored')]
    assert list(points.get_xdata()) == [record['params'] for record in records]
    assert list(points.get_ydata()) == [record['stored']['one hop'] for record in records]
    assert f'{run.final["slope"]:.2f} bits' in points.get_label()


def made_run(log, **config):
    return plots.LoggedRun(Path('out'), dict(config, args={'script': 'train_cot'}), log)


def test_a_curve_is_that_of_its_hop_count_by_default_the_largest():
    log = []
    for step, (one, three) in ((0, (0.1, 0.2)), (5, (0.9, 0.4))):
        log.append(dict(arm='cot', step=step, eval={'1': {'acc': one}, '3': {'acc': three}}))
        log.append(dict(arm='direct', step=step, eval={'1': {'acc': 0}, '3': {'acc': 0}}))
    run = made_run(log)
    assert plots.curve_at(run, 'cot', 'acc') == ([0, 5], [0.2, 0.4])
    assert plots.curve_at(run, 'cot', 'acc', hops=1) == ([0, 5], [0.1, 0.9])
    assert plots.curve_at(run, 'cot', 'acc', hops=2) is None


def test_chance_is_that_of_the_hop_count_if_the_run_knows_it():
    final = dict(arm='final', chance=0.5)
    run = made_run([final], chance={'1': 0.1, '3': 0.3})
    assert (run.chance(1), run.chance(3), run.chance(2)) == (0.1, 0.3, 0.5)
    assert made_run([final]).chance(1) == 0.5 and math.isnan(made_run([]).chance(1))


def test_the_points_of_several_searches_are_means_with_their_range():
    runs = []
    for solved, expansions in ((0.2, 10), (0.5, 20), (0.8, 60)):
        row = dict(arm='row', series='beam', setting='b=5', solved=solved, expansions=expansions,
                   states=2 * expansions, flops=4 * expansions)
        runs.append(made_run([row, row | dict(setting='b=1', expansions=1), {'arm': 'final'}]))
    few, many = plots.search_points(runs, 'beam')
    assert (few['setting'], few['expansions'], many['setting']) == ('b=1', 1, 'b=5')
    measures = [many[name] for name in
                ('expansions', 'states', 'flops', 'solved', 'least', 'most')]
    assert measures == pytest.approx([30, 60, 120, 0.5, 0.2, 0.8])
    assert plots.search_points(runs, 'dfs') == []


def test_a_maze_is_drawn_with_every_wall_and_no_other():
    """2 x 2 cells in a ring with one wall between the two lower ones."""
    figure, axis = plots.new_figure(2, 2)
    right, down = 8, 4
    left, up = 2, 1
    maze = dict(
        cells=[[0, 0], [0, 1], [1, 0], [1, 1]],
        open_bits=[right + down, left + down, up, up],
        true=[[1, 0], [0, 0], [0, 1], [1, 1]],
        path=[[1, 0], [1, 1]],
        shortest=False)
    plots.draw_maze(axis, maze, 2)
    walls = {tuple(sorted(zip(*map(list, line.get_data()), strict=True)))
             for line in axis.lines if line.get_color() == 'black'}
    inner = ((1, 1), (1, 2))
    outer = {((0, 0), (1, 0)), ((1, 0), (2, 0)), ((0, 2), (1, 2)), ((1, 2), (2, 2)),
             ((0, 0), (0, 1)), ((0, 1), (0, 2)), ((2, 0), (2, 1)), ((2, 1), (2, 2))}
    assert walls == outer | {inner}
    (path,) = [line for line in axis.lines if line.get_color() == 'tab:red']
    assert list(path.get_xdata()) == [0.5, 1.5] and list(path.get_ydata()) == [1.5, 1.5]


def test_an_unfinished_run_can_be_drawn(tmp_path, drawn):
    """A log without its last record, and with half a line at its end."""
    for script in ('train_cot', 'train_rl', 'train_maze', 'train_latent'):
        folder = copy_run(ROWS[script], tmp_path / script)
        lines = (folder / 'log.jsonl').read_text().splitlines()
        unfinished = '\n'.join([*lines[:-1], lines[-1][:20]])
        (folder / 'log.jsonl').write_text(unfinished)
        plots.draw_run(folder)
        assert (folder / 'plot.png').exists()


def test_runs_of_two_scripts_are_refused(tmp_path):
    folders = [str(LOGS / ROWS[script] / 'seed1337') for script in ('train_cot', 'train_rl')]
    code, out, err = call(plots, [*folders, '--out', str(tmp_path / 'x.png')])
    assert (code, out, err.count('\n')) == (2, '', 1)
    assert not (tmp_path / 'x.png').exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps({'args': {}}))
    for folder in (tmp_path, tmp_path / 'nowhere'):
        code, out, err = call(plots, [str(folder)])
        assert (code, out, err.count('\n')) == (2, '', 1)


def test_every_figure_of_the_documents_is_on_a_page_and_small():
    pages = ''
    for path in (ROOT / 'docs').glob('*.md'):
        pages += path.read_text(encoding='utf-8')
    linked = re.findall(r'!\[[^]]+\]\(figures/([^)]+)\)', pages)
    assert sorted(linked) == sorted(figures.all_figures())

    for name in linked:
        assert (ROOT / 'docs' / 'figures' / name).stat().st_size < 150_000, name


@pytest.mark.slow
def test_every_figure_of_the_documents_is_made_from_the_logs(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, 'DOCS', tmp_path)
    code, _, err = call(figures, [])
    assert code == 0, err
    committed = {path.name for path in (ROOT / 'docs' / 'figures').glob('*.png')}
    assert {path.name for path in tmp_path.iterdir()} == committed


@pytest.mark.parametrize('name', ['hops.png', 'rl_baselines.png', 'search_gpt4.png',
                                  'capacity_smallest.png', 'probe_loop.png', 'maze_losses.png'])
def test_nothing_in_a_figure_of_the_documents_covers_anything(name):
    """No legend covers an axis, and no name at the end of a curve another one."""
    figure = figures.all_figures()[name]()
    figure.canvas.draw()
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes)]
    for strip in figure.subfigs:
        legends += strip.legends
    for legend in filter(None, legends):
        for axis in figure.axes:
            assert not legend.get_window_extent().overlaps(axis.get_window_extent())

    boxes = [text.get_window_extent() for axis in figure.axes for text in axis.texts]
    for box, other in itertools.combinations(boxes, 2):
        assert not box.overlaps(other)


def test_the_expected_accuracy_is_that_of_right_links_or_luck():
    """3 hops, chance 1/4, by hand: with half of the links right 1/8 + 7/8 * 1/4."""
    _, axis = plots.new_figure(2, 2)
    plots.draw_expected(axis, 3, 0.25)
    validity, accuracy = axis.lines[0].get_data()
    assert (validity[50], accuracy[50]) == (0.5, 0.34375)
    assert (accuracy[0], accuracy[-1]) == (0.25, 1)


@pytest.mark.parametrize('script', ['train_cot', 'train_rl', 'train_puzzles', 'train_maze',
                                    'train_latent', 'search', 'scaling', 'capacity', 'probe'])
def test_a_log_that_holds_too_little_is_refused_in_one_line(script, tmp_path):
    """The first record alone, or the last one alone."""
    folder = copy_run(ROWS[script], tmp_path / 'run')
    lines = (folder / 'log.jsonl').read_text().splitlines()
    for record in ('{"arm": "other", "step": 0}', lines[-1]):
        (folder / 'log.jsonl').write_text(record + '\n')
        code, out, err = call(plots, [str(folder)])
        assert (code, err.count('\n')) in ((0, 0), (2, 1)), err


def test_a_finished_run_does_not_fail_for_want_of_a_figure(tmp_path, capsys):
    folder = copy_run(ROWS['train_maze'], tmp_path / 'run')
    lines = (folder / 'log.jsonl').read_text().splitlines()
    (folder / 'log.jsonl').write_text(lines[-1] + '\n')
    plots.draw_run(folder)
    assert 'no figure' in capsys.readouterr().out


def test_runs_of_capacity_of_different_kinds_are_refused(tmp_path):
    folders = [str(LOGS / 'capacity' / row / 'seed1337') for row in ('1', 'chain')]
    code, _, err = call(plots, [*folders, '--out', str(tmp_path / 'x.png')])
    assert code == 2 and err.count('\n') == 1


def test_a_figure_that_cannot_be_written_is_one_line(tmp_path):
    folder = LOGS / ROWS['train_cot'] / 'seed1337'
    code, _, err = call(plots, [str(folder), '--out', str(tmp_path / 'nowhere' / 'x.png')])
    assert code == 2 and err.count('\n') == 1


@pytest.mark.parametrize('config, log, message', [
    ('{"args"', '', r'config\.json cannot be read, or is damaged'),
    ('{"args": {"script": "train_cot"}}', '{"arm', 'holds no record yet, or is damaged'),
    (None, '', 'there is no run of this repo'),
])
def test_a_damaged_run_is_named_as_such(config, log, message, tmp_path):
    if config is not None:
        (tmp_path / 'config.json').write_text(config)
    (tmp_path / 'log.jsonl').write_text(log)
    with pytest.raises(ValueError, match=message):
        plots.read_run(tmp_path)


# -----------------------------------------------------------------------------
# scaling.py

def model_of(arm, hops, pool, seed, ended='learned', right=1.0):
    return dict(arm='model', arm_of=arm, hops=hops, pool=pool, seed=seed, ended=ended, right=right)


def test_the_smallest_pool_is_the_smallest_that_was_learned():
    models = [
        model_of('soft', 2, 1024, 1), model_of('soft', 2, 64, 1, 'steps', 0.2),
        model_of('soft', 2, 256, 1), model_of('soft', 2, None, 1),
        model_of('soft', 2, 1024, 2, 'by heart', 0.5), model_of('soft', 4, 512, 1),
        model_of('written', 2, 32, 1),
    ]
    assert plots.smallest_sizes(models, 'soft', 'pool') == {2: {1: 256, 2: None}, 4: {1: 512}}
    assert plots.smallest_sizes(models, 'loop', 'pool') == {}


def test_the_smallest_width_is_that_of_fresh_questions():
    models = [
        model_of('soft', 2, None, 1) | dict(width=64),
        model_of('soft', 2, None, 1) | dict(width=32),
        model_of('soft', 2, None, 1, 'steps', 0.2) | dict(width=16),
        model_of('soft', 2, 1024, 1) | dict(width=64),
    ]
    assert plots.smallest_sizes(models, 'soft', 'width') == {2: {1: 32}}


def test_the_accuracy_of_a_pool_is_that_of_the_best_rate_where_all_seeds_have_one():
    models = [
        model_of('soft', 2, 64, 1, 'steps', 0.25), model_of('soft', 2, 64, 1, 'steps', 0.5),
        model_of('soft', 2, 64, 2, 'steps', 0.25), model_of('soft', 2, 128, 2, 'steps', 0.75),
        model_of('soft', 2, None, 1), model_of('soft', 4, 64, 1),
    ]
    assert plots.accuracy_by_pool(models, 'soft', 2) == ([64], [0.375])


def budget_of(kind, rate, seed, right, hops=(1, 2)):
    accuracy = [[right] * 4 for _ in hops]
    return dict(arm='model', kind=kind, rate=rate, seed=seed, right=right, hops=list(hops),
                accuracy=accuracy, flops=[1e6, 2e6, 3e6, 4e6])


def test_any_budget_shows_the_best_rate_of_each_seed():
    records = [budget_of('state', 1e-2, 1, 0.5), budget_of('state', 1e-3, 1, 0.7),
               budget_of('state', 1e-2, 2, 0.9), budget_of('chain', 1e-2, 1, 0.4)]
    best = plots.best_of_rates(records)
    assert [record['right'] for record in best['state']] == [0.7, 0.9]
    assert list(best) == ['state', 'chain']
    run = plots.LoggedRun('folder', {'args': {}}, records)
    axis = plots.new_figure(4, 4)[1]
    plots.draw_any_budget(axis, [run], plots.NO_REFERENCE)
    curves = {line.get_linestyle(): line for line in axis.lines if len(line.get_xdata()) == 4}
    assert curves['-'].get_ydata() == pytest.approx([0.8] * 4)  # the mean of both seeds
    chains = [line for line in axis.lines
              if line.get_linestyle() == '--' and len(line.get_xdata()) > 0]
    assert [len(line.get_xdata()) for line in chains] == [1, 2]  # over after as many passes as hops


def test_budgets_of_other_hops_do_not_fit_into_one_figure():
    run = plots.LoggedRun('folder', {'args': {}}, [budget_of('state', 1e-2, 1, 0.5)])
    other = plots.LoggedRun('other', {'args': {}}, [budget_of('state', 1e-2, 2, 0.5, (1, 2, 3))])
    with pytest.raises(ValueError, match='--hops do not fit'):
        plots.draw_any_budget(plots.new_figure(4, 4)[1], [run, other], plots.NO_REFERENCE)


def test_sweeps_of_other_pools_do_not_fit_into_one_figure(tmp_path):
    run = copy_run('scaling/quick', tmp_path / 'a')
    other = copy_run('scaling/quick', tmp_path / 'b')
    config = json.loads((other / 'config.json').read_text())
    config['args']['largest_pool'] = 8192
    (other / 'config.json').write_text(json.dumps(config))
    code, _, err = call(plots, [str(run), str(other)])
    assert code == 2 and '--largest_pool do not fit into one figure' in err
