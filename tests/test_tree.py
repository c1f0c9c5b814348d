"""tree.py, against the searches of search.py and trees written out by hand."""

import json
from types import SimpleNamespace

import pytest
import torch
from conftest import call, with_figures
from test_search import checkpoints, score, solvable, some_puzzles  # noqa: F401 (a fixture)

import plots
import search
import tree
from countdown import find_solution


def scores(states):
    """A verdict that nobody can guess, always the same."""
    return torch.tensor([score(state) for state in states.tolist()])


def nodes_of(root):
    return [node for level in tree.levels(root) for node in level]


@pytest.mark.parametrize('n, width, how_many', [(4, 1, 40), (4, 5, 40), (3, 2, 40), (2, 3, 200)])
def test_a_tree_is_what_beam_search_goes_through(n, width, how_many, monkeypatch):
    valued = []

    def recording_value(solver, states, owner, cost):
        valued.append({tuple(state) for state in states.tolist()})
        return scores(states)

    solver = SimpleNamespace(target=24)
    n_solved = 0
    for puzzle in some_puzzles(n, how_many):
        valued.clear()
        solved, cost = search.beam_search(solver, torch.tensor([puzzle]), width, recording_value)
        root = tree.grow_tree(list(reversed(puzzle)), 24, width, scores)
        levels = list(tree.levels(root))

        # the same states at every depth, each once, and the same ones expanded
        of_tree = [[node.numbers for node in level] for level in levels[1:n - 1]]
        assert [set(level) for level in of_tree] == valued
        assert all(len(set(level)) == len(level) for level in of_tree)
        expanded = [node for node in nodes_of(root) if node.is_kept and len(node.numbers) > 1]
        assert len(expanded) == cost[0, 0]

        # the same states of two numbers make the target
        last = [node for node in levels[n - 2] if node.is_kept]
        assert [bool(node.children) for node in last] == solved[0, :len(last)].tolist()
        n_solved += solved.any().item()
    assert n_solved >= 2


def test_a_tree_knows_the_truth_and_where_each_state_comes_from():
    for puzzle in some_puzzles(4, 10, seed=1):
        root = tree.grow_tree(list(puzzle), 24, 3, scores)
        assert root.parent is None
        for node in nodes_of(root):
            assert node.is_solvable == solvable(node.numbers)
            if len(node.numbers) > 1:
                assert node.probability == pytest.approx(
                    torch.tensor(score(node.numbers)).sigmoid().item(), abs=1e-6)
            for child in node.children:
                a, op, b, equals, c = child.step.split()
                assert eval(f'{a} {op} {b}') == int(c) and equals == '='
                left = list(node.numbers)
                left.remove(int(a))
                left.remove(int(b))
                assert tuple(sorted((*left, int(c)))) == child.numbers and child.parent is node


def test_a_tree_as_text():
    """A verdict that likes small sums. 2 3 4 have nine children, three of which make 24."""
    root = tree.grow_tree([4, 3, 2], 24, 2, lambda states: -states.sum(dim=1).float())
    lines = [' '.join(line.split()) for line in tree.tree_lines(root)]
    assert lines == [
        '[2 3 4] verdict 0.000 solvable',
        '4 - 3 = 1 [1 2] verdict 0.047 not solvable',
        '3 - 2 = 1 [1 4] verdict 0.007 not solvable',
        '... 7 dropped, 3 solvable, best verdict 0.007',
    ]
    assert tree.tree_lines(tree.grow_tree([4, 6], 24, 1, scores))[1].split() == [
        '6', '*', '4', '=', '24', 'the', 'target']


def test_a_tree_comes_back_from_its_record():
    root = tree.grow_tree([4, 9, 10, 13], 24, 5, scores)
    again = tree.from_record(json.loads(json.dumps(tree.to_record(root))))
    assert tree.tree_lines(again) == tree.tree_lines(root)
    pairs = list(zip(nodes_of(root), nodes_of(again), strict=True))
    assert len(pairs) > 40
    for node, other in pairs:
        assert (other.numbers, other.step, other.is_kept) == (node.numbers, node.step, node.is_kept)
        assert other.parent is None or other in other.parent.children


# -----------------------------------------------------------------------------
# search.py --show

def test_show_prints_and_draws_a_tree(checkpoints, tmp_path):  # noqa: F811
    argv = ['--device', 'cpu', '--ckpt', checkpoints['three'], '--show', '6 2 3', '--b', '2',
            '--out_dir', tmp_path]
    with with_figures():
        code, out, err = call(search, list(map(str, argv)))
    assert code == 0, err
    assert '[2 3 6]' in out and 'solvable' in out
    assert f'The figure is {tmp_path / "plot.png"}.' in out
    assert 'final method=show b=2 target=24 n_test=1' in out
    assert (tmp_path / 'plot.png').read_bytes()[:4] == b'\x89PNG'

    root = tree.from_record(plots.read_run(tmp_path).log[0]['tree'])
    steps = tree.first_solution(root)
    if steps:
        assert f'The beam solves it: {", ".join(steps)}.' in out and 'any_of_b=1' in out
    else:
        solution = ', '.join(find_solution([2, 3, 6], 24))
        assert f'found by trying all moves: {solution}.' in out and 'any_of_b=0' in out

    # a disc for each state, and a name for each that was kept
    run = plots.read_run(tmp_path)
    axis = plots.draw([run]).axes[0]
    (discs,) = axis.collections
    nodes = nodes_of(root)
    assert f'states={len(nodes)} ' in out and len(discs.get_offsets()) == len(nodes)
    assert discs.get_array().tolist() == [node.probability for node in nodes]
    is_black = [edge[0] == 0 for edge in discs.get_edgecolors()]
    assert is_black == [node.is_solvable for node in nodes]
    assert [text.get_text() for text in axis.texts] == [
        node.label() for node in nodes if node.is_kept]
    assert len(axis.lines) == len(nodes) - 1


def test_the_solution_of_a_beam_is_a_path_to_the_target():
    assert tree.first_solution(tree.grow_tree([1, 1, 1], 24, 5, scores)) == []
    n_solved = 0
    for puzzle in some_puzzles(4, 10, seed=2):
        numbers = list(puzzle)
        for step in tree.first_solution(tree.grow_tree(list(puzzle), 24, 20, scores)):
            a, _, b, _, c = step.split()
            numbers.remove(int(a))
            numbers.remove(int(b))
            numbers.append(int(c))
        n_solved += numbers == [24]
        assert numbers in ([24], list(puzzle))
    assert n_solved >= 3


@pytest.mark.parametrize('name, argv, message', [
    ('three', ['--show', '1 2 3 4'], '3 integers from 1 to 13'),
    ('three', ['--show', '1 2 14'], '3 integers'),
    ('three', ['--show', '1 2 x'], '3 integers'),
    ('three', ['--show', ' '], '3 integers'),
    ('three', ['--show', '1 2 3', '--method', 'beam'], '--method'),
    ('three', ['--show', '1 2 3', '--puzzles', 'x.txt'], '--puzzles'),
    ('three', ['--show', '1 2 3', '--propose', 'model'], '--propose'),
    ('three', ['--show', '1 2 3', '--target', '36'], 'trained on target 36'),
    ('cycle', ['--show', '1 2 3'], 'countdown'),
])
def test_show_refuses_what_is_no_puzzle(name, argv, message, checkpoints, tmp_path):  # noqa: F811
    code, out, err = call(search, ['--device', 'cpu', '--ckpt', str(checkpoints[name]), *argv,
                                   '--out_dir', str(tmp_path / 'run')])
    assert code == 2 and err.count('\n') == 1 and message in err
    assert not (tmp_path / 'run').exists()
