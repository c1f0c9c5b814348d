"""budgets.py, against counts by hand, and search.py --method budgets against recursive searches."""

import json
import math

import pytest
import torch
from conftest import call, final_values, with_figures
from test_search import RUN, checkpoints, children, plain_dfs, read_rows  # noqa: F401 (a fixture)

import budgets
import calibration
import common
import plots
import search
from budgets import KnownVerdicts, cheapest_first, dealt_out, key_of, share_at, worthwhile
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


def test_different_states_have_different_keys():
    values = torch.tensor([0, 1, 2, 13, 198, 199])
    for m in (2, 3, 4):
        states = torch.combinations(values, m, with_replacement=True)
        assert len(key_of(states).unique()) == len(states)
    assert key_of(torch.tensor([[199] * 5])) < 2**62  # five numbers fit


def test_nodes_are_dealt_out_to_other_puzzles():
    nodes = torch.arange(50)
    dealt = dealt_out(nodes, torch.Generator().manual_seed(0)).view(50, budgets.N_PERMUTED)
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


def test_the_share_at_a_cost_by_hand():
    points = [(8, 0.9), (2, 0.3), (4, 0.5), (5, 0.4)]  # the last one is dearer and worse
    assert share_at(points, 2) == pytest.approx(0.3)
    assert share_at(points, 3) == pytest.approx(0.4)
    assert share_at(points, 6) == pytest.approx(0.7)
    assert share_at(points, 99) == pytest.approx(0.9)
    assert share_at(points, 1.9) is None
    assert worthwhile(points) == [(2, 0.3), (4, 0.5), (8, 0.9)]


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
        check(rows['fixed', budget],
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
    generator = torch.Generator().manual_seed(1337)  # of the nodes that are dealt out
    for rule, name in (('calibrated', 'calibrated'), ('raw verdict', 'raw'),
                       ('shuffled truth', 'shuffled')):
        probability = calibration.calibrated(l, *fits[name]).tolist()
        for threshold in budgets.THRESHOLDS:
            allowed = {}
            for state, p in zip(states, probability, strict=True):
                allowed[state] = verdict[state] if p >= threshold else -math.inf
            results = [plain_dfs(puzzle, math.inf, -1e9, allowed.get) for puzzle in puzzles]
            check(rows[rule, threshold], results)
            if rule == 'calibrated':  # the same nodes, but of other puzzles
                nodes = torch.tensor([nodes for _, nodes, *_ in results])
                dealt = dealt_out(nodes, generator).view(len(puzzles), -1).tolist()
                check(rows['permuted', threshold],
                      [mean_of_runs(puzzle, budgets_of_puzzle, verdict)
                       for puzzle, budgets_of_puzzle in zip(puzzles, dealt, strict=True)])


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
                       ('oracle', 'oracle'), ('random', 'random order')):
        points = [(row['flops'], row['solved']) for (name, _), row in rows.items() if name == rule]
        share = share_at(points, flops)
        assert final[name] == ('none' if share is None else f'{share:.3f}')
    assert (folder / 'plot.png').exists() and 'dealt out at random' in out
    records = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    assert records[-1]['arm'] == 'final'
    assert plots.read_run(folder).final['n_test'] == len(all_puzzles(3, 24))


@pytest.mark.parametrize('name, argv, message', [
    ('three', '--puzzles x.txt', '--puzzles'),
    ('three', '--target 197', 'make 197'),
    ('two', '', 'at least 3 numbers'),
    ('cycle', '', 'countdown'),
])
def test_what_has_no_budgets_is_refused(name, argv, message, checkpoints, tmp_path):  # noqa: F811
    argv = f'--device cpu --ckpt {checkpoints[name]} --method budgets {argv}'.split()
    code, _, err = call(search, [*argv, '--out_dir', str(tmp_path / 'run')])
    assert code == 2 and err.count('\n') == 1 and message in err
