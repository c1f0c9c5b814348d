"""countdown.py, against a solver that splits expressions, where countdown.py makes moves.

The oracles `values`, `children` and `count_sequences` are plain loops over fractions, in
plain_tasks.py.
"""

import functools
import os
import random
import re
from collections import Counter
from fractions import Fraction
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
import torch
from plain_tasks import (
    children,
    count_sequences,
    examples,
    is_allowed,
    is_near,
    is_refused,
    raw_examples,
    values,
)

import countdown
from countdown import (
    Countdown,
    all_puzzles,
    can_reach,
    count_solutions,
    first_of_each,
    legal_moves,
    read_puzzles,
)
from data import SPLITS, Batch, sample_batch


def random_state(rng, n, largest=13):
    """n sorted numbers up to 13, or up to `largest` some of the time. Zeros too, if that is 199."""
    numbers = []
    for _ in range(n):
        smallest = 1
        if largest == 199 and rng.random() < 0.5:
            smallest = 0
        numbers.append(rng.randint(smallest, rng.choice((13, largest))))
    return tuple(sorted(numbers))


# -----------------------------------------------------------------------------
# moves

def allowed_moves(state):
    """'a op b = c: numbers left' of each legal move."""
    child, legal, step = legal_moves(torch.tensor([state]))
    lines = []
    for (a, op, b, c), left, is_legal in zip(
            step[0].tolist(), child[0].tolist(), legal[0].tolist(), strict=True):
        if is_legal:
            lines.append(f'{a} {"+-*/"[op]} {b} = {c}: {" ".join(map(str, left))}')
    return lines


def test_legal_moves_by_hand():
    assert allowed_moves([2, 3, 6]) == [
        '3 + 2 = 5: 5 6', '3 - 2 = 1: 1 6', '3 * 2 = 6: 6 6',  # 3 / 2 is no integer
        '6 + 2 = 8: 3 8', '6 - 2 = 4: 3 4', '6 * 2 = 12: 3 12', '6 / 2 = 3: 3 3',
        '6 + 3 = 9: 2 9', '6 - 3 = 3: 2 3', '6 * 3 = 18: 2 18', '6 / 3 = 2: 2 2']


def test_every_move_is_listed_legal_or_not():
    child, legal, step = legal_moves(torch.tensor([[2, 3, 6], [0, 0, 100]]))
    assert child.shape == (2, 12, 2) and step.shape == (2, 12, 4)
    assert legal[0].tolist() == [True] * 3 + [False] + [True] * 8


def test_nothing_is_divided_by_0():
    _, legal, _ = legal_moves(torch.tensor([[0, 0, 100]]))
    assert legal[0].tolist() == [True, True, True, False] * 3


@pytest.mark.parametrize('state, results', [
    ([99, 100], [199, 1]),
    ([100, 100], [0, 1]),
    ([1, 199], [198, 199, 199]),
    ([14, 15], [29, 1]),
])
def test_the_largest_number_is_199(state, results):
    child, legal, _ = legal_moves(torch.tensor([state]))
    assert child[legal].flatten().tolist() == results


def test_floats_may_be_negative_and_fractions():
    child, legal, _ = legal_moves(torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64))
    assert child[0, :, 0].tolist() == [7, 1, 12, 4 / 3, -1, 3 / 4] and legal[0].all()
    assert legal[1].tolist() == [True, True, True, False, True, True]


@pytest.mark.parametrize('allowed, expected', [
    ([1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 1, 0]),
    ([0, 1, 1, 1, 1, 0, 1], [0, 1, 1, 1, 0, 0, 0]),
    ([0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]),
])
def test_first_of_each_drops_what_an_allowed_state_repeats(allowed, expected):
    states = torch.tensor([[[4, 4], [2, 4], [4, 4], [4, 2], [2, 4], [0, 4], [4, 4]]])
    for same_states in (states, states / 3.0, states.double() / 3):
        first = first_of_each(same_states, torch.tensor([allowed]).bool())
        assert first.int().tolist() == [expected]


@pytest.mark.parametrize('n', [2, 3, 4, 5])
def test_the_first_of_each_legal_move_are_the_children_of_a_state(n):
    state = random_state(random.Random(n), n, 199)
    child, legal, _ = legal_moves(torch.tensor([state]))
    first = [tuple(row) for row in child[first_of_each(child, legal)].tolist()]
    assert len(first) == len(set(first)) and set(first) == children(state)


# -----------------------------------------------------------------------------
# the solver

@pytest.mark.parametrize('integers', [True, False])
def test_the_solver_finds_what_some_expression_makes_and_nothing_else(integers):
    sizes = [(4, 13)] * 40 + [(3, 13)] * 10 + [(2, 13)] * 10
    if integers:
        sizes += [(4, 199), (3, 199), (2, 199)] * 5 + [(5, 13)] * 2

    rng = random.Random(0)
    verdicts = Counter()
    for n, largest in sizes:
        state = random_state(rng, n, largest)
        reachable = {int(value) for value in values(state, integers) if is_allowed(value)}
        targets = [24, *rng.sample(range(200), 8)]
        targets += rng.sample(sorted(reachable), min(4, len(reachable)))

        states = torch.tensor([state] * len(targets))
        if not integers:
            states = states.double()
        solvable = count_solutions(states, torch.tensor(targets)) > 0
        assert solvable.tolist() == [t in reachable for t in targets], (state, targets)
        if integers:
            assert torch.equal(can_reach(states, torch.tensor(targets)), solvable)
        verdicts.update(solvable.tolist())
    assert verdicts[True] > 200 and verdicts[False] > 200


@pytest.mark.parametrize('n, integers, n_states', [
    (4, True, 25), (3, True, 15), (2, True, 5), (4, False, 8), (3, False, 10)])
def test_count_solutions_counts_the_sequences_of_different_states(n, integers, n_states):
    rng = random.Random(n)
    most = 0
    for _ in range(n_states):
        state = random_state(rng, n, 199 if n == 3 and integers else 13)
        reachable = sorted(v for v in values(state, integers) if v.denominator == 1)
        targets = [24, *map(int, rng.sample(reachable, 2))]
        expected = [count_sequences(state, target, integers) for target in targets]
        assert sum(expected) >= 2

        states = torch.tensor([state] * 3)
        if not integers:
            states = states.double()
        assert count_solutions(states, torch.tensor(targets)).tolist() == expected
        most = max(most, *expected)
    if n == 4:
        assert most > 20


@pytest.mark.parametrize('state, target, n_solutions', [
    ([2, 2], 4, 1),      # 2 + 2 and 2 * 2 leave the same number
    ([2, 2, 2], 6, 1),   # 4 + 2 alone, where 4 is a sum or a product
    ([0, 0], 0, 1),      # 0 - 0 = 0 * 0 = 0 + 0, and there is no 0 / 0
    ([24, 0], 24, 1),
    ([7], 7, 1),
    ([8], 7, 0),
    ([0.0, 0.0], 1, 0),
])
def test_count_solutions_by_hand(state, target, n_solutions):
    states = torch.tensor([state])
    if states.is_floating_point():
        states = states.double()
    assert count_solutions(states, torch.tensor([target])).tolist() == [n_solutions]


# -----------------------------------------------------------------------------
# the Game of 24

N_INTEGERS = 1346  # puzzles that can be solved without fractions; 16 more need fractions


@pytest.fixture(scope='module')
def games():
    return all_puzzles(4, 24)


@pytest.fixture(scope='module')
def solutions(games):
    """How many solutions each game has without fractions."""
    return count_solutions(games, torch.full((len(games),), 24)).tolist()


def test_1362_of_1820_puzzles_make_24(games):
    every_puzzle = list(combinations_with_replacement(range(1, 14), 4))
    assert len(every_puzzle) == 1820
    rows = {tuple(row) for row in games.tolist()}
    assert len(games) == len(rows) == 1362 and rows < set(every_puzzle)
    for puzzle in random.Random(3).sample(every_puzzle, 40):
        assert (24 in values(puzzle, integers=False)) == (puzzle in rows)


def test_the_last_16_puzzles_need_fractions(games, solutions):
    assert all(n > 0 for n in solutions[:N_INTEGERS])
    assert solutions[N_INTEGERS:] == [0] * 16
    need_fractions = [tuple(row) for row in games[N_INTEGERS:].tolist()]
    for puzzle in need_fractions:
        assert 24 in values(puzzle, integers=False) and 24 not in values(puzzle)
    known = {(3, 3, 8, 8), (1, 5, 5, 5), (1, 3, 4, 6), (3, 3, 7, 7)}
    assert known < set(need_fractions)


def test_the_largest_number_costs_no_puzzle(games):
    targets = torch.full((len(games),), 24)
    solvable = count_solutions(games, targets, largest=10**6) > 0
    assert solvable[:N_INTEGERS].all() and not solvable[N_INTEGERS:].any()


def test_the_hardest_puzzles_come_first(games, solutions):
    """Those with the fewest solutions."""
    assert solutions[:N_INTEGERS] == sorted(solutions[:N_INTEGERS]) and solutions[0] == 1
    for i in (0, 50, 99, 100, 700, 1345):
        assert count_sequences(tuple(games[i].tolist()), 24) == solutions[i]


def test_the_puzzles_of_two_numbers():
    pairs = sorted(map(tuple, all_puzzles(2, 24).tolist()))
    assert pairs == [(2, 12), (3, 8), (4, 6), (11, 13), (12, 12)]


@pytest.mark.parametrize('text, puzzles', [
    ('1 2 3 4\n13 13 1 1', [[1, 2, 3, 4], [1, 1, 13, 13]]),
    ('9 6 5 3\n', [[3, 5, 6, 9]]),
    ('  4\t3 2 1  \r\n1 1 1 8\r\n\n', [[1, 2, 3, 4], [1, 1, 1, 8]]),
])
def test_puzzles_are_read_in_any_order_of_numbers(text, puzzles, tmp_path):
    (tmp_path / 'file').write_bytes(text.encode())
    assert read_puzzles(tmp_path / 'file', 4).tolist() == puzzles


@pytest.mark.parametrize('line', [
    '1 2 3', '1 2 3 4 5', 'one two three four', '1 2 3 0', '1 2 3 14', '1 2 -3 4', '1 2 3 1.5', '',
    '1,2,3,4', '1 2 3 \u0664'])
def test_a_line_that_is_no_puzzle_is_named(line, tmp_path):
    text = f'1 2 3 4\n5 6 7 8\n{line}\n9 9 9 9\n'
    (tmp_path / 'file').write_text(text, encoding='utf-8')
    with pytest.raises(ValueError, match='line 3'):
        read_puzzles(tmp_path / 'file', 4)


@pytest.mark.parametrize('text', ['', '\n', ' \n\n'])
def test_a_file_without_puzzles_is_refused(text, tmp_path):
    (tmp_path / 'file').write_text(text)
    with pytest.raises(ValueError):
        read_puzzles(tmp_path / 'file', 4)


@pytest.mark.parametrize('name, text', [
    ('folder', 'reads files'), ('pipe', 'reads files'), ('/dev/zero', 'reads files'),
    ('bytes', 'line 1: expected'), ('one line', 'line 1: expected'), ('large', 'bytes, a file of'),
])
def test_a_file_of_any_kind_is_one_short_line(name, text, tmp_path):
    """A pipe must not be waited for, and a large file not be read."""
    if os.name == 'nt' and name in ('pipe', '/dev/zero'):
        pytest.skip('not there on Windows')
    path = tmp_path / name
    if name == 'folder':
        path.mkdir()
    elif name == 'pipe':
        os.mkfifo(path)
    elif name == 'bytes':
        path.write_bytes(bytes(range(256)) * 100)
    elif name == 'one line':
        path.write_text('1 ' * 400000)
    elif name == 'large':
        with open(path, 'w') as f:
            f.truncate(10**9)
    with pytest.raises(ValueError, match=text) as error:
        read_puzzles(path, 4)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize('m, largest, share', [
    (1, 220, 0.002), (2, 14, 0.01), (2, 200, 0.005), (3, 14, 0.05), (3, 200, 0.01), (4, 25, 0.2)])
def test_can_reach_is_whether_there_is_a_solution(m, largest, share):
    """Also with zeros and with targets above 199, which no legal move makes."""
    generator = torch.Generator().manual_seed(m)
    states = torch.randint(largest, (2000, m), generator=generator).sort(dim=1).values
    target = torch.randint(220, (2000,), generator=generator)
    reached = can_reach(states, target)
    assert torch.equal(reached, count_solutions(states, target) > 0)
    assert reached.float().mean() > share
    assert m == 1 or not reached[target > 199].any()


def test_many_states_are_solved_in_parts(monkeypatch):
    """With the same counts as all at once."""
    states = torch.randint(1, 14, (50, 4), generator=torch.Generator().manual_seed(0))
    states = states.sort(dim=1).values
    target = torch.full((50,), 24)
    at_once = count_solutions(states, target)
    monkeypatch.setattr(countdown, 'SOLVED_AT_ONCE', 45)
    assert torch.equal(count_solutions(states, target), at_once)
    assert torch.equal(can_reach(states, target), at_once > 0)


# -----------------------------------------------------------------------------
# what a batch holds is what its text says

def read_example(task, words):
    """(target, state, verdict, state after the step or None) of an example's words.

    Asserts that the verdict is true and that the step is right and keeps the target in reach.
    """
    P = 1 + task.numbers
    target = int(words[0])
    numbers = [word for word in words[1:P] if word != '_']
    assert words[1:P] == numbers + ['_'] * (task.numbers - len(numbers))
    state = tuple(map(int, numbers))
    assert list(state) == sorted(state)
    if len(state) == task.numbers:  # a state without any move
        assert set(state) <= set(range(1, 14))

    verdict, *step = words[P:]
    assert verdict == ('yes' if target in values(state) else 'no')
    if step in ([], ['_'] * 5):
        return target, state, verdict, None
    assert verdict == 'yes'
    after = apply_by_hand(state, step)
    assert target in values(after)
    return target, state, verdict, after


def apply_by_hand(state, step):
    """The state after a step, the words a op b = c, which must be legal."""
    a, op, b, equals, c = step
    assert equals == '='
    a, b, c = int(a), int(b), int(c)
    if op == '/':
        assert b != 0
        assert Fraction(a, b) == c
    else:
        assert {'+': a + b, '-': a - b, '*': a * b}[op] == c
    assert 0 <= c <= 199
    left = list(state)
    left.remove(a)
    left.remove(b)
    return tuple(sorted([*left, c]))


def allowed_targets(task, split):
    if split == 'test':
        return set(task.holdout_targets)
    return set(range(10, 101)) - set(task.holdout_targets)


@functools.cache
def countdown_of(numbers):
    return Countdown(numbers, (36, 50)) if numbers == 3 else Countdown(numbers)


@functools.cache
def read_batch(numbers, split, mode):
    """(task, batch, rows): each row is (words, target, state, verdict, state after the step)."""
    task = countdown_of(numbers)
    batch = sample_batch(task, 120 if numbers < 5 else 12, 7, 3, split, mode)
    rows = []
    for tokens in batch.tokens.tolist():
        words = task.decode(tokens).split()
        rows.append((words, *read_example(task, words)))
    return task, batch, rows


every_batch = pytest.mark.parametrize(
    'numbers, split, mode', list(product((2, 3, 4, 5), SPLITS, ('cot', 'direct'))))


@every_batch
def test_every_yes_comes_with_a_step_unless_the_mode_is_direct(numbers, split, mode):
    task, batch, rows = read_batch(numbers, split, mode)
    P = batch.prompt_len
    for (words, target, _, verdict, after), tokens in zip(rows, batch.tokens.tolist(), strict=True):
        assert task.encode(' '.join(words)) == tokens
        assert target in allowed_targets(task, split)
        shows_step = verdict == 'yes' and mode == 'cot'
        assert (after is not None) == shows_step
        behind = words[P + 6:] if shows_step else words[P + 1:]
        assert set(behind) <= {'_'}


@every_batch
def test_the_loss_is_on_verdict_and_step_and_the_verdict_is_the_answer(numbers, split, mode):
    _, batch, rows = read_batch(numbers, split, mode)
    P = batch.prompt_len
    for (_, _, _, _, after), mask in zip(rows, batch.loss_mask.tolist(), strict=True):
        end = P + 1 if after is None else P + 6
        assert mask == [P <= t < end for t in range(len(mask))]
    assert batch.answer.tolist() == [[P]] * len(rows)


@every_batch
def test_hops_and_instance_are_those_of_the_state(numbers, split, mode):
    task, batch, rows = read_batch(numbers, split, mode)
    for (_, target, state, _, _), hops, instance in zip(
            rows, batch.hops.tolist(), batch.instance.tolist(), strict=True):
        assert hops == len(state) - 1
        assert instance == [target, *state] + [-1] * (task.numbers - len(state))
    assert set(batch.hops.tolist()) == set(task.hops)


@pytest.mark.parametrize('numbers, split', list(product((2, 3, 4, 5), SPLITS)))
def test_the_oracle_gives_the_same_verdict_and_a_good_step(numbers, split):
    task, batch, rows = read_batch(numbers, split, 'cot')
    P = batch.prompt_len
    for (words, _, _, verdict, _), tokens in zip(rows, batch.tokens.tolist(), strict=True):
        chain = task.decode(task.oracle(tokens[:P])).split()
        assert read_example(task, words[:P] + chain)[2] == verdict
        assert len(chain) == (6 if verdict == 'yes' else 1)


@every_batch
def test_a_batch_has_room_for_one_step(numbers, split, mode):
    task, batch, _ = read_batch(numbers, split, mode)
    assert batch.prompt_len == 1 + numbers and task.block_size == 1 + numbers + 6
    n_written = 6 if mode == 'cot' else 1
    assert batch.tokens.size(1) == batch.prompt_len + n_written


@pytest.mark.parametrize('numbers', [2, 3, 4])
def test_both_verdicts_are_trained_at_every_number_of_hops(numbers):
    task, batch, rows = read_batch(numbers, 'train', 'cot')
    verdicts = [verdict for _, _, _, verdict, _ in rows]
    seen = set(zip(batch.hops.tolist(), verdicts, strict=True))
    assert seen == set(product(task.hops, ('yes', 'no')))


@pytest.mark.parametrize('holdout_targets, held_out', [((24,), {24}), ((36, 50), {24, 36, 50})])
def test_no_training_batch_holds_a_held_out_target(holdout_targets, held_out):
    """24 is always one of them. All other targets are trained on."""
    task = Countdown(4, holdout_targets)
    targets = {'train': set(), 'test': set()}
    for seed, step in product(range(2), range(8)):
        for split, n in (('train', 150), ('test', 30)):
            batch = sample_batch(task, n, seed, step, split)
            assert torch.equal(batch.tokens[:, 0], batch.instance[:, 0])
            targets[split] |= set(batch.tokens[:, 0].tolist())
    assert targets['train'] == set(range(10, 101)) - held_out
    assert targets['test'] == held_out


def test_the_examples_in_the_docstring_are_right():
    lines = re.findall(r'24(?: \d+| _)+(?: \[\S+\])+', countdown.__doc__)
    next_states = re.findall(r'the next state is (.+)', countdown.__doc__)
    assert len(lines) == 3 and len(next_states) == 2
    task = Countdown()
    states_after = []
    for line in lines:
        words = re.sub(r'[][]', '', line).split()
        target, _, _, after = read_example(task, words)
        assert target == 24
        states_after.append(after)
    for after, text in zip(states_after, next_states, strict=False):
        assert text.split() == ['24', *map(str, after)] + ['_'] * (4 - len(after))


def test_of_several_good_steps_each_is_shown_as_often():
    task = Countdown()
    state = (3, 5, 6, 9)
    n = 3000
    source = np.array([[24, *state]] * n)
    prompt, chain, *_ = task.write(np.random.default_rng(0), source, np.full(n, 3))
    shown = Counter()
    for row in np.concatenate((prompt, chain), axis=1).tolist():
        shown[read_example(task, task.decode(row).split())[3]] += 1

    good = {child for child in children(state) if 24 in values(child)}
    assert set(shown) == good and len(good) > 5
    assert all(is_near(count, n, 1 / len(good)) for count in shown.values())


def test_chance_is_the_share_of_the_more_frequent_verdict():
    task = Countdown(3)
    n = 1000
    for hops in task.hops:
        batch = sample_batch(task, n, 3, 1, 'test', 'direct', hops)
        n_yes = 0
        for row in batch.tokens.tolist():
            n_yes += 24 in values(tuple(row[1:hops + 2]))
        assert 0 < n_yes < n
        assert is_near(max(n_yes, n - n_yes), n, task.chance(hops))


# -----------------------------------------------------------------------------
# correct and valid

def batch_of(task, *lines):
    """A batch of these lines, which have equally many numbers. Shorter lines are padded."""
    words = [line.split() for line in lines]
    width = max(len(line) for line in words)
    P = 1 + task.numbers
    tokens = [task.encode(' '.join(line + ['_'] * (width - len(line)))) for line in words]
    instance = [[-1 if word == '_' else int(word) for word in line[:P]] for line in words]
    tokens = torch.tensor(tokens)
    instance = torch.tensor(instance)
    return Batch(
        tokens=tokens,
        loss_mask=tokens >= 0,
        answer=torch.full((len(words), 1), P),
        hops=(instance >= 0).sum(dim=1) - 2,
        instance=instance,
        prompt_len=P)


def marks(flags):
    """[True, False] -> '.x'"""
    return ''.join('.' if flag else 'x' for flag in flags.tolist())


NO = '24 1 1 1 1 no _ _ _ _ _'


@pytest.mark.parametrize('written, correct, valid', [
    ('yes 9 - 3 = 6', '......', '......'),
    ('yes 9 + 5 = 14', '......', '......'),  # (14 - 6) * 3: another step than the one shown
    ('yes 5 + 3 = 8', '......', '......'),   # (9 - 6) * 8
    ('yes 9 - 5 = 4', '.xxxxx', '......'),   # legal, but 3 4 6 makes no 24
    ('yes 9 - 3 = 5', '.xxxxx', '.xxxxx'),   # wrong arithmetic
    ('yes 9 - 4 = 5', '.xxxxx', '.xxxxx'),   # there is no 4
    ('yes 9 - 9 = 0', '.xxxxx', '.xxxxx'),   # there is one 9
    ('yes 3 - 9 = 6', '.xxxxx', '.xxxxx'),   # the larger number comes first
    ('yes 5 + 9 = 14', '.xxxxx', '.xxxxx'),
    ('yes 9 / 5 = 1', '.xxxxx', '.xxxxx'),
    ('yes 9 - 3 no 6', '.xxxxx', '.xxxxx'),
    ('yes 9 - 3 = yes', '.xxxxx', '.xxxxx'),
    ('yes 9 no 3 = 6', '.xxxxx', '.xxxxx'),
    ('no 9 - 3 = 6', 'x.....', 'x.....'),
    ('= 9 - 3 = 5', 'xxxxxx', 'xxxxxx'),
    ('no _ _ _ _ _', 'xxxxxx', 'xxxxxx'),
])
def test_what_is_correct_and_valid_where_the_target_can_be_made(written, correct, valid):
    """x marks what is not. The second row, a true no, is always both."""
    task = Countdown()
    batch = batch_of(task, '24 3 5 6 9 yes 9 - 3 = 6', NO)
    output = batch_of(task, f'24 3 5 6 9 {written}', NO).tokens
    is_correct = task.correct(batch, output)[:, 5:]
    is_valid = task.valid(batch, output[:, 5:])
    assert (marks(is_correct[0]), marks(is_valid[0])) == (correct, valid)
    assert is_correct[1].all() and is_valid[1].all()

    # a direct batch has the verdict alone
    direct = batch_of(task, '24 3 5 6 9 yes', '24 1 1 1 1 no')
    verdict_is_correct = task.correct(direct, output[:, :6])[:, 5]
    assert verdict_is_correct.tolist() == [correct[0] == '.', True]


def test_the_states_of_the_cases_above_make_24_or_not():
    for state in ((5, 6, 6), (3, 6, 14), (6, 8, 9)):
        assert 24 in values(state)
    assert 24 not in values((3, 4, 6))


@pytest.mark.parametrize('written, expected', [
    ('no _ _ _ _ _', '......'),
    ('no 7 + 5 = 12', '......'),
    ('no 7 + 5 = 24', '......'),
    ('yes 7 + 5 = 12', 'x.....'),
])
def test_behind_a_true_no_everything_is_correct_and_valid(written, expected):
    task = Countdown()
    other = '24 3 8 _ _ yes 8 * 3 = 24'
    batch = batch_of(task, '24 5 7 _ _ no', other)
    output = batch_of(task, f'24 5 7 _ _ {written}', other).tokens
    for flags in (task.correct(batch, output)[:, 5:], task.valid(batch, output[:, 5:])):
        assert [marks(row) for row in flags] == [expected, '......']


def test_a_batch_without_a_single_yes_can_be_checked():
    """Its chain is one token wide. train_cot meets such batches if --n_test is small."""
    task = Countdown()
    batch = batch_of(task, '24 5 7 _ _ no', '24 1 1 _ _ no')
    output = batch_of(task, '24 5 7 _ _ yes', '24 1 1 _ _ no').tokens
    assert task.correct(batch, output)[:, 5:].tolist() == [[False], [True]]
    assert task.valid(batch, output[:, 5:]).tolist() == [[False], [True]]


# -----------------------------------------------------------------------------
# sizes that make no sense, and the command line

@pytest.mark.parametrize('make', [
    lambda: Countdown(1),
    lambda: Countdown(6),
    lambda: Countdown(4, (9,)),
    lambda: Countdown(4, (36, 101)),
    lambda: Countdown(4, range(10, 101)),
    lambda: Countdown(4, (-24,)),
    lambda: sample_batch(Countdown(3), 8, 0, 0, hops=3),
    lambda: all_puzzles(2, 199),
])
def test_sizes_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize('argv', [
    '--numbers 1', '--numbers 6', '--numbers x', '--holdout_targets 9', '--holdout_targets 24,x',
    '--hops 2', '--task countdown', '--reverse'])
def test_a_bad_command_line_is_one_line_and_exit_code_2(argv):
    assert is_refused(countdown, argv.split())


def test_printed_examples_are_right_and_have_brackets_where_the_loss_is():
    argv = '--numbers 3 --holdout_targets 36 --n 8'.split()
    head, shown = examples(countdown, argv)
    raw = raw_examples(countdown, argv)
    assert 'countdown, hops 1-2' in head and len(raw) == 8
    assert [' '.join(example.words) for example in shown] == raw

    task = Countdown(3, (36,))
    verdicts = set()
    for example in shown:
        assert example.carries_loss == [t >= 4 for t in range(len(example.words))]
        target, _, verdict, _ = read_example(task, example.words)
        assert target in allowed_targets(task, 'train')
        assert example.answer == example.oracle == [verdict]
        verdicts.add(verdict)
    assert verdicts == {'yes', 'no'}
