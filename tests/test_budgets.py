"""budgets.py, against counts by hand, and search.py --method budgets against recursive searches."""

import json
import math
from itertools import pairwise

import pytest
import torch
from conftest import call, final_values, with_figures
from test_search import RUN, checkpoints, children, plain_dfs, read_rows  # noqa: F401 (a fixture)

import budgets
import calibration
import common
import plots
import search
from budgets import KnownVerdicts, cheapest_first, dealt_out, key_of, share_at, upper_hull
from countdown import Countdown, all_puzzles


def test_known_verdicts_are_those_of_each_state():
    puzzles = torch.tensor([[1, 3, 4, 6], [2, 2, 2, 12]])
    asked = []

    def log_odds(states):
        asked.append(len(states))
        return states.double() @ torch.arange(1.0, 1 + states.size(1), dtype=torch.float64)

    known = KnownVerdicts(puzzles, log_odds)
    states = {tuple(row) for row in puzzles.tolist()}
    for _ in range(2):
        states = {child for state in states for child in children(state)}
        rows = torch.tensor(sorted(states, key=hash))
        assert torch.equal(known(rows), log_odds(rows))
        assert asked.pop() == len(states) and asked.pop(0) == len(states)

    # those of other states: the same numbers, elsewhere
    other = known.of_other_states(torch.Generator().manual_seed(0))
    for m in (3, 2):
        assert torch.equal(other.log_odds[m].sort().values, known.log_odds[m].sort().values)
        assert not torch.equal(other.log_odds[m], known.log_odds[m])


def test_different_states_have_different_keys():
    values = torch.tensor([0, 1, 2, 13, 198, 199])
    for m in (2, 3, 4):
        states = torch.combinations(values, m, with_replacement=True)
        assert len(key_of(states).unique()) == len(states)
    assert key_of(torch.tensor([[199] * 5])) < 2**62  # five numbers fit


def test_nodes_are_dealt_out_to_other_puzzles():
    nodes = torch.arange(50)
    dealt = dealt_out(nodes, torch.Generator().manual_seed(0))
    assert dealt.shape == (50, budgets.N_PERMUTED)
    for column in dealt.T:
        assert torch.equal(column.sort().values, nodes) and not torch.equal(column, nodes)
    assert len({tuple(column.tolist()) for column in dealt.T}) == budgets.N_PERMUTED


def test_the_cheapest_first_by_hand():
    """Four puzzles, of which the last is never solved: it costs the oracle nothing."""
    solved = torch.tensor([True, True, True, False])
    nodes = torch.tensor([3, 7, 3, 100])
    cost = torch.stack((nodes, 10 * nodes), dim=1)
    rows = [(n, share, mean.tolist()) for n, share, mean in cheapest_first(solved, cost, nodes)]
    assert rows == [(3, 0.5, [1.5, 15.0]), (7, 0.75, [3.25, 32.5])]


def test_the_hull_and_the_share_at_a_cost_by_hand():
    # (5, 0.4) is dearer and worse than (4, 0.5), and (2, 0.2) below the line from 0 to that
    points = [(8, 0.9), (2, 0.2), (4, 0.5), (5, 0.4), (12, 0.95)]
    assert upper_hull(points) == [(0, 0), (4, 0.5), (8, 0.9), (12, 0.95)]
    assert share_at(points, 2) == pytest.approx(0.25)  # a coin: every other puzzle gets 4
    assert share_at(points, 6) == pytest.approx(0.7)
    assert share_at(points, 99) == pytest.approx(0.95)
    assert share_at(points, 0) == 0


def test_the_hull_lies_above_all_settings_and_bends_down():
    generator = torch.Generator().manual_seed(0)
    points = [tuple(point) for point in torch.rand(40, 2, generator=generator).tolist()]
    hull = upper_hull(points)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(hull)]
    assert slopes == sorted(slopes, reverse=True) and slopes[-1] > 0
    for cost, share in points:
        assert share_at(points, cost) >= share - 1e-9
    assert set(hull) <= {(0, 0), *points}


@pytest.fixture(scope='module')
def run(checkpoints, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp('budgets')
    argv = ['--device', 'cpu', '--ckpt', checkpoints['three'], '--method', 'budgets', '--b', 2,
            '--out_dir', folder]
    with with_figures():
        code, out, err = call(search, list(map(str, argv)))
    assert code == 0, err
    return folder, out


@torch.no_grad()
def test_every_rule_is_a_depth_first_search(run, checkpoints):  # noqa: F811
    """Its share solved and its mean nodes, against a search by recursion."""
    folder, _ = run
    rows = read_rows(folder)
    model, _ = common.load_checkpoint(checkpoints['three'])
    task = Countdown(3)
    puzzles = [tuple(puzzle) for puzzle in all_puzzles(3, 24).tolist()]
    states = sorted(set().union(*map(children, puzzles)))
    prompts = task.write_prompt(torch.full((len(states),), 24), torch.tensor(states))
    logits = model.eval()(prompts)[:, -1]
    l = logits[:, task.yes] - logits[:, task.no]
    verdict = dict(zip(states, l.tolist(), strict=True))

    def check(row, results):
        """results: (solved, nodes) of each puzzle."""
        assert row['solved'] == pytest.approx(sum(r[0] for r in results) / len(results), abs=1e-6)
        assert row['solved_hard'] == pytest.approx(sum(r[0] for r in results[:100]) / 100, abs=1e-6)
        assert row['expansions'] == pytest.approx(sum(r[1] for r in results) / len(results))

    for budget in budgets.FIXED:
        check(rows['fixed', f'{budget} nodes'],
              [plain_dfs(puzzle, budget, -math.inf, verdict.get) for puzzle in puzzles])
    in_order = [plain_dfs(puzzle, math.inf, -math.inf, verdict.get) for puzzle in puzzles]
    for n in {nodes for solved, nodes, *_ in in_order if solved}:
        check(rows['oracle', n], [(s and k <= n, k * (s and k <= n)) for s, k, *_ in in_order])

    # the slope and bias, of the same fit as --method calibration has
    solver = search.Solver(model, task, RUN, torch.Generator())
    trained = [search.judged_states(solver, target, search.MOST_STATES)
               for target in search.some_trained_targets(task)]
    _, _, fits = search.fit_verdicts(trained, 2)
    assert calibration.calibrated(l, *fits['raw']).allclose(l.double().sigmoid())
    generator = torch.Generator().manual_seed(1337)
    by_key = key_of(torch.tensor(states)).argsort()
    verdict_of_other = torch.empty_like(l)
    verdict_of_other[by_key] = l[by_key][torch.randperm(len(l), generator=generator)]
    for rule, deciding, name in (
            ('calibrated', l, 'calibrated'), ('raw verdict', l, 'raw'),
            ('other states', verdict_of_other, 'calibrated'), ('shuffled truth', l, 'shuffled')):
        probability = calibration.calibrated(deciding, *fits[name]).tolist()
        for threshold in budgets.THRESHOLDS:
            allowed = {}
            for state, p in zip(states, probability, strict=True):
                allowed[state] = verdict[state] if p >= threshold else -math.inf
            results = [plain_dfs(puzzle, math.inf, -1e9, allowed.get) for puzzle in puzzles]
            check(rows[rule, threshold], results)
            if rule == 'calibrated':
                nodes = torch.tensor([nodes for _, nodes, *_ in results])
                check_same_nodes(rows, threshold, puzzles, nodes, verdict, generator, check)


def check_same_nodes(rows, threshold, puzzles, nodes, verdict, generator, check):
    """The nodes (P,) of the calibrated rule, without its threshold: for the same puzzles, and dealt
    out."""
    for rule, dealt in (('same nodes', nodes[:, None]), ('permuted', dealt_out(nodes, generator))):
        check(rows[rule, threshold],
              [mean_of_runs(puzzle, limits, verdict)
               for puzzle, limits in zip(puzzles, dealt.tolist(), strict=True)])


def mean_of_runs(puzzle, node_budgets, verdict):
    """The share of depth-first searches that solve a puzzle, and their mean nodes."""
    results = [plain_dfs(puzzle, n, -math.inf, verdict.get) for n in node_budgets]
    return sum(r[0] for r in results) / len(results), sum(r[1] for r in results) / len(results)


def test_the_last_line_compares_at_the_cost_of_a_beam(run):
    folder, out = run
    rows = read_rows(folder)
    final = final_values(out)
    assert (final['method'], final['b'], final['target']) == ('budgets', '2', '24')
    flops = rows['beam', 'b=2']['flops']
    assert int(final['flops']) == round(flops)
    for name, rule in (('fixed', 'fixed'), ('adaptive', 'calibrated'), ('permuted', 'permuted'),
                       ('raw', 'raw verdict'), ('shuffled', 'shuffled truth'),
                       ('same_nodes', 'same nodes'), ('other_states', 'other states'),
                       ('oracle', 'oracle'), ('random', 'random order')):
        of_rule = [row for (series, _), row in rows.items() if series == rule]
        for key, cost, amount in ((name, 'flops', flops), (f'{name}_5', 'expansions', 5)):
            share = share_at([(row[cost], row['solved']) for row in of_rule], amount)
            assert final[key] == f'{share:.3f}'
    assert (folder / 'plot.png').exists() and 'dealt out at random' in out
    records = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    assert records[-1]['arm'] == 'final'
    assert plots.read_run(folder).final['n_test'] == len(all_puzzles(3, 24))
