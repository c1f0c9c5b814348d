"""Every task against oracles that read the prompt's text with plain loops and know nothing of data.py's arrays."""

import functools
import random
import re
from collections import Counter
from fractions import Fraction
from itertools import combinations, combinations_with_replacement, product

import numpy as np
import pytest
import torch
from conftest import read_maze, search_from

import data
import train_cot
from data import CVPR, SPLITS, Batch, Countdown, Cycle, Maze, Multiply, Profiles, Star, distinct, legal_moves, main, sample_batch, ways
from search import all_puzzles, read_puzzles

def read(task, words):
    """Prompt words -> ({node: successor} or {end: start of its edge} or the two factors, the last words that say what is asked)"""
    if task.name == 'multiply':
        at = words.index('*')
        return (''.join(words[:at]), ''.join(words[at + 1:-1])), words[-1]
    if task.name == 'star':
        assert words[-4] == '/' and words[-1] == '=' and set(words[2:-4:3]) <= {'|'}
        return dict(zip(words[1:-3:3], words[0:-3:3], strict=True)), words[-3:-1]
    shown = words[:-2]
    assert words[-2].startswith('k=') and len(shown) == task.nodes * (1 + (task.format == 'pairs'))
    return dict(zip(shown[0::2], shown[1::2], strict=True) if task.format == 'pairs' else ((str(i), w) for i, w in enumerate(shown))), words[-2:]

def solve(task, words):
    """Prompt words -> (chain with its answer, how many words the answer has, hops), and everything a prompt promises is asserted."""
    given, asked = read(task, words)
    chain = []
    if task.name == 'multiply':
        a, b = given
        total, N = 0, task.digits
        for j in range(N):
            partial = int(a) * int(b[N - 1 - j])
            total += partial * 10 ** j
            for number, width in ((partial, N + 1), (total, N + 1 + j)):
                text = f'{number:0{width}d}'
                assert len(text) == width
                chain += text if task.reverse else text[::-1]
        assert len(a) == len(b) == N and '0' not in (a[0], b[0]) and total == int(a) * int(b)
        return chain, 2 * N, N
    if task.name == 'star':
        centre, goal = asked
        ends = [v for v in given if v not in given.values()]
        assert len(ends) == task.arms and goal in ends and list(given.values()).count(centre) == task.arms
        for end in ends:
            path = [end]
            while path[-1] != centre:
                path.append(given[path[-1]])
            assert len(path) == task.length
            if end == goal:
                chain = path if task.reverse else path[::-1]
        return chain, task.length, task.length - 1
    hops, node = int(asked[0][2:]), asked[1]
    if task.name == 'cycle':
        for _ in range(task.nodes):
            node = given[node]
            chain.append(node)
        assert len(set(chain)) == task.nodes and node == asked[1]  # one single cycle
        return chain[:hops], 1, hops
    while not chain or int(chain[-1]) > int(node):  # cvpr: until a value stops it, not counting
        node = chain[-1] if chain else node
        chain.append(given[node])
    assert len(chain) == hops
    return chain, 1, hops

TASKS = [Cycle(20, [4]), Cycle(7, [1, 2, 3, 4, 5, 6]), Cycle(9, [2, 3], 'pairs'), CVPR(12, [4]), CVPR(6, [1, 2, 3, 4, 5]), CVPR(8, [1, 2, 3], 'pairs'),
         Multiply(1), Multiply(2, True), Multiply(3), Multiply(9), Star(), Star((2, 3), reverse=True), Star((5, 5)), Star((3, 2), 7), Star((2, 6), 30, True)]
every_task = pytest.mark.parametrize('task', TASKS)

@pytest.mark.parametrize('mode', ['cot', 'direct'])
@pytest.mark.parametrize('split', SPLITS)
@every_task
def test_tokens_mask_answer_and_hops_are_what_the_text_says(task, split, mode):
    batch = sample_batch(task, 200, 7, 3, split, mode)
    P, T, seen = batch.prompt_len, batch.tokens.size(1), set()
    for tokens, mask, answer_at, hops in zip(batch.tokens.tolist(), batch.loss_mask.tolist(), batch.answer.tolist(), batch.hops.tolist(), strict=True):
        words = task.decode(tokens).split()
        chain, A, k = solve(task, words[:P])
        target = chain if mode == 'cot' else chain[-A:]
        assert words[P:] == target + ['_'] * (T - P - len(target))
        assert mask == [P <= t < P + len(target) for t in range(T)]
        assert answer_at == list(range(P + len(target) - A, P + len(target)))
        assert hops == k and task.decode(task.oracle(tokens[:P])).split() == chain
        assert task.encode(' '.join(words)) == tokens
        seen.add(k)
    assert seen == set(task.hops) and T <= task.block_size and batch.loss_mask[:, -1].any()  # no column of padding alone
    assert mode == 'cot' or T == P + A  # the direct arm has no room for a chain

@pytest.mark.parametrize('task, source, hops, text', [
    (Cycle(4, [2]), [2, 0, 3, 1, 0], 2, '2 0 3 1 k=2 0 2 3'),
    (CVPR(5, [3]), [2, 3, 4, 3, 1, 0], 3, '2 3 4 3 1 k=3 0 2 4 1'),
    (Multiply(2), [27, 43], 2, '2 7 * 4 3 = 1 8 0 1 8 0 8 0 1 1 6 1 1'),
    (Multiply(2, True), [27, 43], 2, '2 7 * 4 3 = 0 8 1 0 8 1 1 0 8 1 1 6 1')])
def test_text_worked_out_on_paper(task, source, hops, text):
    prompt, chain, *_ = task.write(None, np.array([source]), np.array([hops]))
    assert task.decode([*prompt[0], *chain[0]]) == text

@pytest.mark.parametrize('argv, lines', [
    ('--task cycle --nodes 5 --hops 1-3 --n 3', ['4 3 0 2 1 k=2 0 4 1', '3 0 4 2 1 k=3 2 4 1 0', '2 4 1 0 3 k=3 2 1 4 3']),
    ('--task cycle --nodes 5 --hops 1-3 --n 2 --mode direct', ['2 4 1 0 3 k=3 3 1', '3 0 4 2 1 k=3 0 4']),
    ('--task cycle --nodes 4 --hops 2 --format pairs --n 2', ['1 2 3 0 0 1 2 3 k=2 1 2 3', '2 3 0 1 1 2 3 0 k=2 2 3 0']),
    ('--task cvpr --nodes 6 --hops 3 --n 2', ['3 3 2 4 4 1 k=3 1 3 4 4', '5 4 2 3 5 0 k=3 1 4 5 0']),
    ('--task cvpr --nodes 4 --hops 2 --format pairs --n 2', ['0 1 1 1 3 0 2 2 k=2 0 1 1', '0 3 3 1 1 3 2 1 k=2 0 3 1']),
    ('--task multiply --digits 2 --n 1', ['5 9 * 8 9 = 1 3 5 1 3 5 2 7 4 1 5 2 5']),
    ('--task multiply --digits 2 --n 1 --reverse', ['5 9 * 8 9 = 5 3 1 5 3 1 4 7 2 5 2 5 1']),
    ('--task multiply --digits 2 --n 1 --mode direct', ['5 9 * 8 9 = 1 5 2 5']),
    ('--task star --n 2', ['5 1 | 5 7 | 7 8 | 1 6 / 5 6 = 5 1 6', '7 9 | 0 4 | 0 7 | 4 1 / 0 9 = 0 7 9']),
    ('--task maze --grid 2 --n 1', ['<ADJLIST_START> (0,0) <--> (1,0) ; (1,1) <--> (1,0) ; (0,0) <--> (0,1) ; <ADJLIST_END> <ORIGIN_START> (1,1) <ORIGIN_END> '
                                    '<TARGET_START> (0,1) <TARGET_END> <PATH_START> (1,1) (1,0) (0,0) (0,1) <PATH_END>']),
    ('--task maze --grid 2 --n 1 --format grid', ['DR L UR L (1,1) (0,1) <PATH_START> (1,1) (1,0) (0,0) (0,1) <PATH_END>']),
    ('--task star --n 2 --reverse', ['5 1 | 5 7 | 7 8 | 1 6 / 5 6 = 6 1 5', '7 9 | 0 4 | 0 7 | 4 1 / 0 9 = 9 7 0'])])
def test_raw_prints_exactly_this(argv, lines, capsys):
    """Each line was checked by hand. If only these fail, the order of random draws (ours or numpy's) changed: check and paste again."""
    main([*argv.split(), '--raw'])
    assert capsys.readouterr().out.splitlines() == lines
    main(argv.split())
    head, *shown = [line for line in capsys.readouterr().out.splitlines() if line]
    assert head.endswith('[loss] on bracketed tokens') and [line.replace('[', '').replace(']', '') for line in shown[::2]] == lines
    for line, truth in zip(shown[::2], shown[1::2], strict=True):  # from the first bracket on every token carries loss
        words, answer = line.split(), truth.split('oracle')[0].split()[1:]
        assert [w[0] == '[' for w in words] == sorted(w[0] == '[' for w in words)
        assert [w.strip('[]') for w in words[-len(answer):]] == answer == truth.split('oracle')[1].split('chance')[0].split()

def drawn(task, n, split):
    """The graphs, tables or unordered pairs of factors in n instances, read from their text."""
    batch = sample_batch(task, n, 0, 0, split)
    given = (read(task, task.decode(row).split())[0] for row in batch.tokens[:, :batch.prompt_len].tolist())
    return {frozenset(x) if task.name == 'multiply' else frozenset(x.items()) for x in given}

@pytest.mark.parametrize('train, test, n, distinct', [
    (Cycle(3, [1]), Cycle(3, [1, 2], 'pairs'), 50, 2),
    (Cycle(5, [2]), Cycle(5, [1, 2, 3]), 2000, 24),
    (Cycle(6, [1, 2, 3], 'pairs'), Cycle(6, [2]), 4000, 120),
    (CVPR(4, [1, 2, 3], 'pairs'), CVPR(4, [2]), 8000, None),
    (Multiply(2), Multiply(2, True), 40000, 90 * 91 // 2),
    (Star((2, 3), 7), Star((2, 3), 7, reverse=True), 20000, 7 * 6 * 5 * 4 * 3 // 2)])
def test_no_instance_is_in_both_splits(train, test, n, distinct):
    """Whatever its presentation: format, hop count, order of factors, goal, direction. About one in ten is held out."""
    seen, held_out = drawn(train, n, 'train'), drawn(test, n // 2, 'test')
    assert seen and held_out and not seen & held_out
    if distinct:
        assert len(seen) + len(held_out) >= 0.999 * distinct  # that is all there are
        assert distinct == 2 or abs(len(held_out) / distinct - 0.1) < 3 * (0.09 / distinct) ** 0.5

@pytest.mark.parametrize('task', [*TASKS, Countdown(), Countdown(2, (36, 50)), Profiles(50), Maze(), Maze((3, 4), 'percolation', format='grid')])
def test_seed_split_and_step_alone_determine_the_instances(task):
    def text(seed, split, step):
        return str(sample_batch(task, 40, seed, step, split).tokens.tolist())

    assert text(1, 'train', 2) == text(1, 'train', 2)
    assert len({text(*x) for x in ((1, 'train', 2), (2, 'train', 1), (2, 'train', 2), (1, 'train', 3), (1, 'test', 2))}) == 5
    cot, direct = (sample_batch(task, 40, 1, 2, mode=mode) for mode in ('cot', 'direct'))
    assert torch.equal(cot.tokens[:, :cot.prompt_len], direct.tokens[:, :cot.prompt_len])
    assert torch.equal(cot.tokens.gather(1, cot.answer), direct.tokens.gather(1, direct.answer))

def close(count, n, share, sd=5):
    """Whether `count` of n draws is within sd standard deviations of n * share."""
    return abs(count - n * share) < sd * (n * share * (1 - share)) ** 0.5

@pytest.mark.parametrize('split', SPLITS)
def test_hops_start_and_answer_are_uniform(split):
    batch = sample_batch(Cycle(12, [1, 2, 3, 4]), 6000, 3, 0, split)
    assert set(sample_batch(Cycle(8, [1, 2, 3, 4]), 20, 0, 0, split, hops=3).hops.tolist()) == {3}  # unless one count is asked for
    start, answer = batch.tokens[:, batch.prompt_len - 1], batch.tokens.gather(1, batch.answer)[:, 0]
    assert all(close(batch.hops.tolist().count(k), 6000, 1 / 4) for k in (1, 2, 3, 4))
    assert all(close(x.tolist().count(node), 6000, 1 / 12) for x in (start, answer) for node in range(12))  # no label is a shortcut
    gap = ((answer - start) % 12).tolist()
    assert 0 not in gap and all(close(gap.count(i), 6000, 1 / 11) for i in range(1, 12))
    assert Cycle(12).chance(4) == 1 / 11  # any node but the start

@pytest.mark.parametrize('hops', [0, 5])
def test_hops_argument_outside_the_task_is_refused(hops):
    """Its chain would not fit, its hop word would be another token, and `answer` would point outside `tokens`."""
    with pytest.raises(ValueError):
        sample_batch(Cycle(8, [1, 2, 3, 4]), 20, 0, 0, hops=hops)

@pytest.mark.parametrize('hops', [1, 2, 3, 5])
def test_cvpr_chance_is_the_best_constant_guess(hops):
    task, guess, paths = CVPR(6, [hops]), Counter(), list(combinations(range(6), hops))
    for path in paths:
        for value in range(path[-1] + 1):
            guess[value] += 1 / len(paths) / (path[-1] + 1)
    assert task.chance(hops) == pytest.approx(max(guess.values()))
    batch = sample_batch(task, 5000, 0, 0)
    answers = batch.tokens.gather(1, batch.answer)[:, 0].tolist()
    assert all(close(answers.count(v), 5000, guess[v]) for v in range(6))

@pytest.mark.parametrize('star', [(2, 3), (5, 3)])
def test_star_chance_is_a_random_arm(star):
    """And the arm whose edge is listed first is no better a guess."""
    task, pick = Star(star), random.Random(0)
    batch, first, at_random = sample_batch(task, 3000, 0, 0), 0, 0
    for row in batch.tokens.tolist():
        words = task.decode(row).split()
        parent, (centre, _) = read(task, words[:batch.prompt_len])
        arms = [v for v in parent if parent[v] == centre]
        first += arms[0] == words[-2]
        at_random += pick.choice(arms) == words[-2]
    assert task.chance(2) == 1 / star[0] and close(first, 3000, 1 / star[0]) and close(at_random, 3000, 1 / star[0])

@every_task
def test_the_gold_chain_is_valid_and_padding_is_not(task):
    batch = sample_batch(task, 100, 0, 0)
    assert torch.equal(task.valid(batch, batch.tokens[:, batch.prompt_len:]), batch.loss_mask[:, batch.prompt_len:])

def flagged_when_wrong(task, batch):
    """For each chain token of the first row and each word it is not: (position, chain words, which are invalid)."""
    gold = batch.tokens[:1, batch.prompt_len:]
    for t in range(gold.size(1)):
        for wrong in set(range(len(task.vocab))) - {gold[0, t].item()}:
            chain = gold.clone()
            chain[0, t] = wrong
            yield t, task.decode(chain[0]).split(), (~task.valid(batch[:1], chain))[0].nonzero()[:, 0].tolist()

@pytest.mark.parametrize('task, luck', [
    (Cycle(7, [4]), 0), (Cycle(7, [4], 'pairs'), 0), (CVPR(7, [4]), None), (Star((3, 4)), 2), (Star((3, 4), reverse=True), 2)])
def test_a_wrong_node_flags_itself_and_the_next(task, luck):
    """`luck`, how often only one of the two: never in a permutation; a table may lead back to the chain; another arm's first node does follow the centre."""
    spared = 0
    for seed in range(10):
        batch = sample_batch(task, 1, seed, 0)
        given, asked = read(task, task.decode(batch.tokens[0, :batch.prompt_len]).split())
        steps, before = {(u, v) for u, v in given.items()}, asked[1]
        if task.name == 'star':
            before = 'first'
            steps = {(u, v) if task.reverse else (v, u) for u, v in steps} | {('first', asked[1] if task.reverse else asked[0])}
        for t, chain, flagged in flagged_when_wrong(task, batch):
            assert flagged == [i for i in range(4) if (([before] + chain)[i], chain[i]) not in steps]
            spared += flagged != [t, t + 1][:4 - t]
    assert spared > 0 if luck is None else spared == 10 * luck

@pytest.mark.parametrize('task', [Multiply(3), Multiply(3, True)])
def test_a_wrong_number_flags_itself_and_the_sum_it_enters(task):
    """Numbers 0 .. 5 are partial 0, sum 0, partial 1, sum 1, partial 2, sum 2. A partial enters its own sum, a sum the next one."""
    number = [i for i, width in enumerate((4, 4, 4, 5, 4, 6)) for _ in range(width)]
    for t, _, flagged in flagged_when_wrong(task, sample_batch(task, 1, 0, 0)):
        wrong = {0: (0, 1), 1: (1, 3), 2: (2, 3), 3: (3, 5), 4: (4, 5), 5: (5,)}[number[t]]
        assert flagged == [i for i, n in enumerate(number) if n in wrong]

@pytest.mark.parametrize('text, flags', [
    ('0 0 1 0 0 1 0 5 0 0 0 6 0', '.............'),  # 25 * 4 = 100, 25 * 2 = 50, product 600
    ('1 0 1 1 0 1 0 5 0 1 0 6 0', 'xxx..........'),  # 101 + 500 = 601: the sums add up what is written
    ('0 * 0 0 0 1 0 5 0 0 0 6 0', 'xxx..........'),  # '*' has id 10: as a digit it would make this 100 too
    ('_ _ _ _ _ _ _ _ _ _ _ _ _', 'xxxxxxxxxxxxx')])
def test_multiply_valid_counted_by_hand(text, flags):
    task, none = Multiply(2), torch.zeros(1, 1, dtype=torch.int64)
    batch = Batch(none, none, none, none, torch.tensor([[25, 24]]), 0)
    assert ''.join('.' if ok else 'x' for ok in task.valid(batch, torch.tensor([task.encode(text)]))[0]) == flags

@pytest.mark.parametrize('rows', [slice(2, 5), slice(0, None, 3), torch.tensor([7, 0, 7])])
def test_rows_of_a_batch(rows):
    batch = sample_batch(CVPR(8, [1, 2, 3]), 9, 0, 0)
    some = batch[rows].to('cpu')
    assert all(torch.equal(getattr(some, name), getattr(batch, name)[rows]) for name in ('tokens', 'loss_mask', 'answer', 'hops', 'instance'))
    assert some.prompt_len == batch.prompt_len == 10 and some.tokens.dtype == torch.int64 and some.loss_mask.dtype == torch.bool

@pytest.mark.parametrize('make', [
    lambda: Cycle(8, [0]), lambda: Cycle(8, [8]), lambda: CVPR(8, [1, 8]), lambda: Cycle(1, [1]), lambda: Cycle(8, [2], 'list'), lambda: Multiply(0),
    lambda: Multiply(10), lambda: Star((1, 3)), lambda: Star((3, 1)), lambda: Star((5, 5), 10), lambda: Star().encode('0 zebra'),
    lambda: Countdown(1), lambda: Countdown(6), lambda: Countdown(4, (9,)), lambda: Countdown(4, (36, 101)), lambda: Countdown(4, range(10, 101)),
    lambda: Countdown(4, (-24,)), lambda: sample_batch(Countdown(3), 8, 0, 0, hops=3), lambda: all_puzzles(2, 199),
    lambda: sample_batch(Cycle(2, [1]), 8, 0, 0, 'test')])  # two nodes have one cycle, so there is nothing to hold out
def test_sizes_and_words_that_make_no_sense(make):
    with pytest.raises(ValueError):
        make()

@pytest.mark.parametrize('argv', [
    '--hops 0', '--hops abc', '--hops 3-1', '--hops 20', '--hop 3', '--nodes 8 --hops 4-8', '--n 0', '--seed -1', '--task sudoku', '--format list',
    '--task star --star 1,3', '--task star --star 5,5 --nodes 10', '--task star --star 2', '--task star --hops 2', '--task multiply --digits 0',
    '--task multiply --nodes 5', '--task cycle --reverse', '--no_such_flag', '--task countdown --numbers 1', '--task countdown --numbers 6',
    '--task countdown --holdout_targets 9', '--task countdown --holdout_targets 24,x', '--task countdown --hops 2', '--numbers 4',
    '--task star --holdout_targets 36'])
def test_bad_arguments_end_with_code_2_and_one_line(argv, capsys):
    with pytest.raises(SystemExit) as end:
        main(argv.split())
    out, err = capsys.readouterr()
    assert end.value.code == 2 and not out and err.count('\n') == 1 and err.endswith('\n')

# ----------------------------------------------------------------------------- countdown

@functools.cache
def values(numbers, integers=True):
    """All that can be made of the numbers, each used once: by splitting an expression in two, where data.py makes moves.
    integers: no number on the way is anything but an integer from 0 to 199."""
    if len(numbers) == 1:
        return {Fraction(numbers[0])}
    found = set()
    for size in range(1, len(numbers) // 2 + 1):
        for left in combinations(range(len(numbers)), size):
            right = [i for i in range(len(numbers)) if i not in left]
            for a, b in product(*(values(tuple(numbers[i] for i in part), integers) for part in (left, right))):
                found |= {a + b, a - b, b - a, a * b} | ({a / b} if b else set()) | ({b / a} if a else set())
    return {c for c in found if c.denominator == 1 and 0 <= c <= 199} if integers else found

@functools.cache
def children(state, integers=True):
    """The sets of numbers, in order, that one move makes of these."""
    found = set()
    for i, j in combinations(range(len(state)), 2):
        rest = [state[k] for k in range(len(state)) if k not in (i, j)]
        for a, b in ((state[i], state[j]), (state[j], state[i])):
            for c in (a + b, a - b, a * b, *([Fraction(a) / b] if b else [])):
                if not integers or (c.denominator == 1 and 0 <= c <= 199):
                    found.add(tuple(sorted((*rest, c))))
    return found

def sequences(state, target, integers=True):
    return int(state[0] == target) if len(state) == 1 else sum(sequences(child, target, integers) for child in children(state, integers))

def puzzle(rng, n, largest=13):
    return tuple(sorted(rng.randint(largest == 199 and rng.randint(0, 1), rng.choice((13, largest))) for _ in range(n)))  # 199: zeros too

@pytest.mark.parametrize('integers', [True, False])
def test_the_solver_finds_what_some_expression_makes_and_nothing_else(integers):
    rng, told = random.Random(0), Counter()
    for n, largest in [(4, 13)] * 40 + [(3, 13)] * 10 + [(2, 13)] * 10 + [(4, 199), (3, 199), (2, 199)] * 5 * integers + [(5, 13)] * 2 * integers:
        numbers = puzzle(rng, n, largest)
        can = {int(v) for v in values(numbers, integers) if v.denominator == 1 and 0 <= v <= 199}
        targets = [24, *rng.sample(range(200), 8), *rng.sample(sorted(can), min(4, len(can)))]
        x = torch.tensor([numbers] * len(targets))
        got = ways(x if integers else x.double(), torch.tensor(targets)) > 0
        assert got.tolist() == [t in can for t in targets], (numbers, targets)
        told.update(got.tolist())
    assert min(told[True], told[False]) > 200

def test_ways_counts_the_sequences_that_differ_in_some_set_of_numbers():
    rng, most = random.Random(1), 0
    for n, integers in [(4, True)] * 25 + [(3, True)] * 15 + [(2, True)] * 5 + [(4, False)] * 8 + [(3, False)] * 10:
        numbers = puzzle(rng, n, 199 if n == 3 and integers else 13)
        targets = [24, *(int(v) for v in rng.sample(sorted(v for v in values(numbers, integers) if v.denominator == 1), 2))]
        x = torch.tensor([numbers] * 3)
        want = [sequences(numbers, t, integers) for t in targets]
        assert ways(x if integers else x.double(), torch.tensor(targets)).tolist() == want and sum(want) >= 2, (numbers, targets)
        most = max(most, *want)
    assert most > 20
    # 2 2: 2 + 2 and 2 * 2 are one way to 4;  2 2 2: 6 only as 4 + 2, where 4 is a sum or a product;  0 0: 0 - 0 = 0 * 0 = 0 + 0, no 0 / 0
    assert ways(torch.tensor([[2, 2], [0, 0], [24, 0]]), torch.tensor([4, 0, 24])).tolist() == [1, 1, 1]
    assert ways(torch.tensor([[2, 2, 2]]), torch.tensor([6])).tolist() == [1] and ways(torch.tensor([[7], [8]]), torch.tensor([7, 7])).tolist() == [1, 0]
    assert ways(torch.tensor([[0, 0]]).double(), torch.tensor([1])).tolist() == [0]

def test_1362_games_of_24_of_which_16_need_fractions():
    x, every = all_puzzles(4, 24), list(combinations_with_replacement(range(1, 14), 4))
    rows = [tuple(row) for row in x.tolist()]
    assert len(every) == 1820 and len(rows) == len(set(rows)) == 1362 and set(rows) <= set(every)
    assert all((24 in values(row, False)) == (row in rows) for row in random.Random(3).sample(every, 60))
    for largest in (199, 10**6):  # the cap costs nothing
        count = ways(x, torch.full((1362,), 24), largest).tolist()
        assert sum(c > 0 for c in count) == 1346 and count[1346:] == [0] * 16
    count = ways(x, torch.full((1362,), 24)).tolist()
    assert count[:1346] == sorted(count[:1346]) and count[0] == 1  # the first hundred are those with the fewest
    for i in (0, 50, 99, 100, 700, 1345):
        assert sequences(rows[i], 24) == count[i]
    assert {(3, 3, 8, 8), (1, 5, 5, 5), (1, 3, 4, 6), (3, 3, 7, 7)} < set(rows[1346:])
    assert all(24 in values(row, False) and 24 not in values(row) for row in rows[1346:])
    assert sorted(map(tuple, all_puzzles(2, 24).tolist())) == [(2, 12), (3, 8), (4, 6), (11, 13), (12, 12)]

def test_legal_moves_of_a_state_by_hand():
    child, ok, step = legal_moves(torch.tensor([[2, 3, 6], [0, 0, 100]]))
    lines = [f'{a} {"+-*/"[op]} {b} = {c}: {x} {y}' for (a, op, b, c), (x, y), legal in zip(step[0].tolist(), child[0].tolist(), ok[0], strict=True) if legal]
    assert lines == ['3 + 2 = 5: 5 6', '3 - 2 = 1: 1 6', '3 * 2 = 6: 6 6',
                     '6 + 2 = 8: 3 8', '6 - 2 = 4: 3 4', '6 * 2 = 12: 3 12', '6 / 2 = 3: 3 3',
                     '6 + 3 = 9: 2 9', '6 - 3 = 3: 2 3', '6 * 3 = 18: 2 18', '6 / 3 = 2: 2 2']
    assert child.shape == (2, 12, 2) and ok[0].tolist() == [True] * 3 + [False] + [True] * 8
    assert ok[1].tolist() == [True, True, True, False] * 3  # nothing is divided by 0
    child, ok, _ = legal_moves(torch.tensor([[99, 100], [100, 100], [1, 199], [14, 15]]))
    assert [c[k].flatten().tolist() for c, k in zip(child, ok, strict=True)] == [[199, 1], [0, 1], [198, 199, 199], [29, 1]]  # 199 is the largest
    child, ok, _ = legal_moves(torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64))
    assert child[0, :, 0].tolist() == [7, 1, 12, 4 / 3, -1, 3 / 4] and ok[0].all() and ok[1].tolist() == [True, True, True, False, True, True]

def test_distinct_drops_the_doubles_and_nothing_else():
    x = torch.tensor([[[4, 4], [2, 4], [4, 4], [4, 2], [2, 4], [0, 4], [4, 4]]])
    for ok, want in (([1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 1, 0]), ([0, 1, 1, 1, 1, 0, 1], [0, 1, 1, 1, 0, 0, 0]), ([0] * 7, [0] * 7)):
        for y in (x, x / 3.0, x.double() / 3):
            assert distinct(y, torch.tensor([ok]).bool()).int().tolist() == [want]
    rng = random.Random(2)
    for n in (2, 3, 4, 5):
        state = puzzle(rng, n, 199)
        child, ok, _ = legal_moves(torch.tensor([state]))
        kept = [tuple(row) for row in child[distinct(child, ok)].tolist()]
        assert len(kept) == len(set(kept)) and set(kept) == children(state)

@pytest.mark.parametrize('text, puzzles', [
    ('1 2 3 4\n13 13 1 1', [[1, 2, 3, 4], [1, 1, 13, 13]]), ('9 6 5 3\n', [[3, 5, 6, 9]]), ('  4\t3 2 1  \r\n1 1 1 8\r\n\n', [[1, 2, 3, 4], [1, 1, 1, 8]])])
def test_puzzles_are_read_in_any_order_of_numbers(text, puzzles, tmp_path):
    (tmp_path / 'file').write_bytes(text.encode())
    assert read_puzzles(tmp_path / 'file', 4).tolist() == puzzles

@pytest.mark.parametrize('line', ['1 2 3', '1 2 3 4 5', 'one two three four', '1 2 3 0', '1 2 3 14', '1 2 -3 4', '1 2 3 1.5', '', '1,2,3,4', '1 2 3 \u0664'])
def test_a_line_that_is_no_puzzle_is_named(line, tmp_path):
    (tmp_path / 'file').write_text(f'1 2 3 4\n5 6 7 8\n{line}\n9 9 9 9\n', encoding='utf-8')
    with pytest.raises(ValueError, match='line 3'):
        read_puzzles(tmp_path / 'file', 4)

@pytest.mark.parametrize('text', ['', '\n', ' \n\n'])
def test_a_file_without_puzzles_is_refused(text, tmp_path):
    (tmp_path / 'file').write_text(text)
    with pytest.raises(ValueError):
        read_puzzles(tmp_path / 'file', 4)

@pytest.mark.parametrize('holdout, held_out', [((24,), {24}), ((36, 50), {24, 36, 50})])
def test_no_training_batch_holds_a_held_out_target(holdout, held_out):
    """24 is one always. All other targets are trained on."""
    task, trained, tested = Countdown(4, holdout), set(), set()
    for seed, step in product(range(2), range(8)):
        for split, n, seen in (('train', 150, trained), ('test', 30, tested)):
            batch = sample_batch(task, n, seed, step, split)
            assert torch.equal(batch.tokens[:, 0], batch.instance[:, 0])
            seen |= set(batch.tokens[:, 0].tolist())
    assert trained == set(range(10, 101)) - held_out and tested == held_out

def check(task, words, targets):
    """Everything that a countdown example promises, from its words: (numbers, verdict, the numbers left after its step)."""
    P = 1 + task.numbers
    target, shown, chain = int(words[0]), [w for w in words[1:P] if w != '_'], words[P:]
    state = tuple(map(int, shown))
    assert target in targets and words[1:P] == shown + ['_'] * (task.numbers - len(shown)) and list(state) == sorted(state)
    assert len(state) < task.numbers or set(state) <= set(range(1, 14))
    assert chain[0] == ('yes' if target in values(state) else 'no')
    if chain[1:] in ([], ['_'] * 5):
        return state, chain[0], None
    assert chain[0] == 'yes' and len(chain) == 6 and chain[4] == '='
    a, b, c, left = int(chain[1]), int(chain[3]), int(chain[5]), list(state)
    assert {'+': a + b, '-': a - b, '*': a * b, '/': Fraction(a, b or 1)}[chain[2]] == c and 0 <= c <= 199 and (b or chain[2] != '/')
    left.remove(a)
    left.remove(b)
    left = tuple(sorted([*left, c]))
    assert target in values(left)
    return state, 'yes', left

COUNTDOWNS = [Countdown(), Countdown(3, (36, 50)), Countdown(2), Countdown(5)]

@pytest.mark.parametrize('mode', ['cot', 'direct'])
@pytest.mark.parametrize('split', SPLITS)
@pytest.mark.parametrize('task', COUNTDOWNS, ids=lambda task: task.numbers)
def test_countdown_shows_a_true_verdict_and_a_step_that_keeps_the_target_in_reach(task, split, mode):
    batch, told = sample_batch(task, 120 if task.numbers < 5 else 12, 7, 3, split, mode), set()
    P, T = batch.prompt_len, batch.tokens.size(1)
    targets = set(task.holdout_targets) if split == 'test' else set(range(10, 101)) - set(task.holdout_targets)
    assert P == 1 + task.numbers and T == P + (6 if mode == 'cot' else 1) and task.block_size == P + 6
    for tokens, mask, answer_at, hops, instance in zip(*(x.tolist() for x in (batch.tokens, batch.loss_mask, batch.answer, batch.hops, batch.instance)),
                                                       strict=True):
        words = task.decode(tokens).split()
        state, verdict, left = check(task, words, targets)
        assert (left is not None) == (verdict == 'yes' and mode == 'cot')
        carries = 6 if left else 1
        assert mask == [P <= t < P + carries for t in range(T)] and answer_at == [P] and hops == len(state) - 1
        assert words[P + carries:] == ['_'] * (T - P - carries) and task.encode(' '.join(words)) == tokens
        assert instance == [int(words[0]), *state] + [-1] * (task.numbers - len(state))
        said = task.oracle(tokens[:P])
        assert check(task, [*words[:P], *task.decode(said).split()], targets)[1] == verdict and len(said) == (6 if verdict == 'yes' else 1)
        told.add((hops, verdict))
    assert told >= {(k, verdict) for k in task.hops for verdict in ('yes', 'no')} or split == 'test' or task.numbers == 5
    assert {hops for hops, _ in told} == set(task.hops)

def test_the_examples_in_the_docstring_are_right():
    lines = re.findall(r'24(?: \d+| _)+(?: \[\S+\])+', Countdown.__doc__)
    assert len(lines) == 3
    for line in lines:
        check(Countdown(), re.sub(r'[][]', '', line).split(), {24})

def test_of_several_right_steps_each_is_shown_as_often():
    task, state, n = Countdown(), (3, 5, 6, 9), 3000
    prompt, chain, *_ = task.write(np.random.default_rng(0), np.array([[24, *state]] * n), np.full(n, 3))
    count = Counter(check(task, task.decode(row).split(), {24})[2] for row in np.concatenate((prompt, chain), 1).tolist())
    right = {child for child in children(state) if 24 in values(child)}
    assert set(count) == right and len(right) > 5 and all(close(c, n, 1 / len(right)) for c in count.values())

def countdown(task, *lines):
    """A batch of these lines, all with equally many numbers; the shorter ones are padded."""
    words = [line.split() for line in lines]
    width, P = max(map(len, words)), 1 + task.numbers
    tokens = torch.tensor([task.encode(' '.join(w + ['_'] * (width - len(w)))) for w in words])
    instance = torch.tensor([[int(w) if w != '_' else -1 for w in row[:P]] for row in words])
    return Batch(tokens, tokens >= 0, torch.full((len(words), 1), P), (instance >= 0).sum(1) - 2, instance, P)

@pytest.mark.parametrize('said, right, valid', [
    ('yes 9 - 3 = 6', '......', '......'),
    ('yes 9 + 5 = 14', '......', '......'),  # (14 - 6) * 3: another step than the one shown
    ('yes 5 + 3 = 8', '......', '......'),  # (9 - 6) * 8
    ('yes 9 - 5 = 4', '.xxxxx', '......'),  # legal, and 3 4 6 makes no 24
    ('yes 9 - 3 = 5', '.xxxxx', '.xxxxx'),  # wrong arithmetic
    ('yes 9 - 4 = 5', '.xxxxx', '.xxxxx'),  # there is no 4
    ('yes 9 - 9 = 0', '.xxxxx', '.xxxxx'),  # there is one 9
    ('yes 3 - 9 = 6', '.xxxxx', '.xxxxx'),
    ('yes 5 + 9 = 14', '.xxxxx', '.xxxxx'),  # the larger number comes first
    ('yes 9 / 5 = 1', '.xxxxx', '.xxxxx'),
    ('yes 9 - 3 no 6', '.xxxxx', '.xxxxx'),
    ('yes 9 - 3 = yes', '.xxxxx', '.xxxxx'),
    ('yes 9 no 3 = 6', '.xxxxx', '.xxxxx'),
    ('no 9 - 3 = 6', 'x.....', 'x.....'),
    ('= 9 - 3 = 5', 'xxxxxx', 'xxxxxx'),
    ('no _ _ _ _ _', 'xxxxxx', 'xxxxxx')])
def test_what_is_right_and_what_is_valid_where_the_target_can_be_made(said, right, valid):
    task, other = Countdown(), '24 1 1 1 1 no _ _ _ _ _'
    batch, out = countdown(task, '24 3 5 6 9 yes 9 - 3 = 6', other), countdown(task, f'24 3 5 6 9 {said}', other).tokens
    assert [24 in values(left) for left in ((5, 6, 6), (3, 6, 14), (6, 8, 9), (3, 4, 6))] == [True, True, True, False]
    got = task.right(batch, out)[:, 5:], task.valid(batch, out[:, 5:])
    assert [''.join('x.'[x] for x in flags[0].int().tolist()) for flags in got] == [right, valid] and all(flags[1].all() for flags in got)
    direct = countdown(task, '24 3 5 6 9 yes', '24 1 1 1 1 no')
    assert task.right(direct, out[:, :6])[:, 5].tolist() == [right[0] == '.', True]

@pytest.mark.parametrize('said, right', [('no _ _ _ _ _', '......'), ('no 7 + 5 = 12', '......'), ('no 7 + 5 = 24', '......'), ('yes 7 + 5 = 12', 'x.....')])
def test_behind_a_true_no_nothing_is_asked_for(said, right):
    task = Countdown()
    batch, out = countdown(task, '24 5 7 _ _ no', '24 3 8 _ _ yes 8 * 3 = 24'), countdown(task, f'24 5 7 _ _ {said}', '24 3 8 _ _ yes 8 * 3 = 24').tokens
    for flags in (task.right(batch, out)[:, 5:], task.valid(batch, out[:, 5:])):
        assert [''.join('x.'[x] for x in row) for row in flags.int().tolist()] == [right, '......']

def test_a_batch_without_a_single_yes_can_be_judged():
    """Its chain is one token wide, and train_cot asks about it when --n_test is small."""
    task = Countdown()
    batch, out = countdown(task, '24 5 7 _ _ no', '24 1 1 _ _ no'), countdown(task, '24 5 7 _ _ yes', '24 1 1 _ _ no').tokens
    assert task.right(batch, out)[:, 5:].tolist() == task.valid(batch, out[:, 5:]).tolist() == [[False], [True]]

def test_countdown_chance_is_the_more_frequent_verdict():
    task = Countdown(3)
    for hops in task.hops:
        batch = sample_batch(task, 1500, 3, 1, 'test', 'direct', hops)
        yes = sum(24 in values(tuple(row[1:hops + 2])) for row in batch.tokens.tolist())
        assert 0 < yes < 1500 and close(max(yes, 1500 - yes), 1500, task.chance(hops))

def test_countdown_examples_on_the_command_line(capsys):
    argv, targets = '--task countdown --numbers 3 --holdout_targets 36 --n 8'.split(), set(range(10, 101)) - {24, 36}
    main([*argv, '--raw'])
    raw = capsys.readouterr().out.splitlines()
    main(argv)
    head, *lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(raw) == 8 and 'countdown, hops 1-2' in head and {'yes', 'no'} < set(' '.join(raw).split())
    for plain, shown, truth in zip(raw, lines[::2], lines[1::2], strict=True):
        words = [w.strip('[]') for w in shown.split()]
        assert words == plain.split() and [w[0] == '[' for w in shown.split()] == [t >= 4 for t in range(len(words))]
        _, verdict, _ = check(Countdown(3), words, targets)
        assert truth.split('oracle')[0].split() == ['answer', verdict] and truth.split('oracle')[1].split()[0] == verdict

# ----------------------------------------------------------------------------- profiles

PEOPLE = [Profiles(), Profiles(30, 2, 3), Profiles(17, 0, 2), Profiles(12, 7, 17), Profiles(40, 4, 3, bipartite=True), Profiles(25, 3, 0, hops=[1]),
          Profiles(60, 5, 1, hops=[2]), Profiles(9, 1, 1, facts=3)]
every_profile = pytest.mark.parametrize('task', PEOPLE, ids=lambda task: f'{task.people}-{task.attributes}-{task.relations}')

def shown(task, questions, mode='cot'):
    """These questions as a batch, and each as (words before, words that carry loss)."""
    batch = data.write_batch(task, np.random.default_rng(0), np.array(questions), np.array([1 + (r >= 0) for _, r, _ in questions]), mode)
    lines = []
    for tokens, mask in zip(batch.tokens.tolist(), batch.loss_mask.tolist(), strict=True):
        words = task.decode(tokens).split()
        lines.append((words[:batch.prompt_len], [w for w, m in zip(words, mask, strict=True) if m]))
    return batch, lines

@functools.cache
def learned(task):
    """{name: {word: answer}}, the answers being tuples of words: all that the text of the one-hop questions says, with what it promises asserted."""
    said, slots, (A, R) = {}, [set(), set(), set()], (task.attributes, task.relations)
    alone = Profiles(task.people, A, R, [1], task.bipartite, facts=task.facts)  # a task of one hop has the same facts
    for prompt, answer in shown(alone, list(product(range(task.people), [-1], range(A + R))))[1]:
        *name, word = prompt
        assert len(name) == 3 and word not in said.setdefault(tuple(name), {})
        said[tuple(name)][word] = tuple(answer)
        for slot, token in zip(slots, name, strict=True):
            slot.add(token)
    assert len(said) == task.people and not any(a & b for a, b in combinations(slots, 2))  # names are distinct, of three tokens that cannot be confused
    assert [{x[0] for x in slot} for slot in slots] == [{'a'}, {'b'}, {'c'}] and all(len(slot) <= round(task.n_names ** (1 / 3)) for slot in slots)
    for facts in said.values():
        assert [len(answer) for answer in facts.values()] == [1] * A + [3] * R
        assert all(answer in said if len(answer) == 3 else 0 <= int(answer[0].removeprefix('v')) < 128 for answer in facts.values())
    return said

def answer_to(task, prompt):
    """Prompt words -> (chain words, answer words), by looking things up in the text of one-hop questions."""
    asked, *name, word = prompt if len(prompt) == 5 else ['_', *prompt]
    found = learned(task)[tuple(name)][word]
    return ([], list(found)) if asked == '_' else ([*found, asked], list(learned(task)[found][asked]))

@pytest.mark.parametrize('mode', ['cot', 'direct'])
@pytest.mark.parametrize('split', SPLITS)
@every_profile
def test_the_text_of_one_hop_questions_answers_those_of_two(task, split, mode):
    """Tokens, mask, places of the answer and the oracle: a value is one token, a name three, and only two hops have a chain."""
    batch, seen = sample_batch(task, 300, 5, 2, split, mode), Counter()
    P, T = batch.prompt_len, batch.tokens.size(1)
    assert P == 4 + (max(task.hops) > 1) and T <= task.block_size and batch.loss_mask[:, -1].any()
    for tokens, mask, answer_at, hops in zip(batch.tokens.tolist(), batch.loss_mask.tolist(), batch.answer.tolist(), batch.hops.tolist(), strict=True):
        words = task.decode(tokens).split()
        chain, answer = answer_to(task, words[:P])
        written = chain + answer if mode == 'cot' else answer
        assert words[P:] == written + ['_'] * (T - P - len(written)) and mask == [P <= t < P + len(written) for t in range(T)]
        assert hops == (1 if words[0] == '_' or P == 4 else 2) and task.decode(task.oracle(tokens[:P])).split() == chain + answer
        first = P + len(written) - len(answer)
        assert sorted(set(answer_at)) == list(range(first, P + len(written))) and len(answer_at) == task.answer_len and answer_at[0] == first
        assert task.encode(' '.join(words)) == tokens
        seen[hops, len(answer)] += 1
    kinds = {(k, size) for k in task.hops for size in (1, 3) if (task.attributes if size == 1 else task.relations)}
    assert set(seen) == kinds and mode == 'cot' or T == P + task.answer_len

def test_a_question_of_each_kind_on_paper():
    task = Profiles(4, 1, 1)
    task.names, task.code = np.array([[0, 4, 8], [0, 5, 8], [1, 4, 9], [3, 7, 11]]), np.array([0, 4, 17, 63])  # s = 4: 0 0 0, 0 1 0, 1 0 1, 3 3 3
    task.truth = np.array([[7, 1], [5, 3], [127, 2], [0, 0]])
    _, lines = shown(task, [(0, -1, 0), (0, -1, 1), (0, 0, 0), (0, 0, 1), (2, 0, 1), (1, 0, 0)])
    assert [' '.join(prompt) + ' > ' + ' '.join(chain) for prompt, chain in lines] == [
        '_ a0 b0 c0 employer > v7', '_ a0 b0 c0 friend > a0 b1 c0', 'employer a0 b0 c0 friend > a0 b1 c0 employer v5',
        'friend a0 b0 c0 friend > a0 b1 c0 friend a3 b3 c3', 'friend a1 b0 c1 friend > a1 b0 c1 friend a1 b0 c1',
        'employer a0 b1 c0 friend > a3 b3 c3 employer v0']

def test_the_examples_in_the_docstring_of_profiles_have_the_form_that_is_printed():
    lines = re.findall(r'(\S+ a\d b\d c\d mentor(?: \[\w+\])+)', Profiles.__doc__)
    assert len(lines) == 2 and len(set(Profiles().vocab)) == len(Profiles().vocab)
    for line in lines:
        words = line.split()
        assert [w[0] == '[' for w in words] == [False] * 5 + [True] * (len(words) - 5) and len(words) == (8 if words[0] == '_' else 10)
        Profiles(1000).encode(re.sub(r'[][]', '', line))  # every word exists
        assert words[0] == '_' or words[0] == words[8].strip('[]')

@pytest.mark.parametrize('task', [Profiles(1500, 3, 4), Profiles(40, 10, 6), Profiles(300, 0, 2)], ids=lambda task: task.people)
def test_two_hop_questions_are_held_out_by_person_by_pair_and_one_by_one(task):
    """A tenth each of what the one before leaves. A person or a pair that is held out is so in all its questions, and a trained one in none."""
    n, subjects = task.people, task.attributes + task.relations
    questions = list(product(range(n), range(task.relations), range(subjects)))
    label = dict(zip(questions, (task.labels[i] for i in task.label(np.array(questions))), strict=True))
    assert set(label.values()) == {'trained', 'person', 'pair', 'combination'} and task.labels[0] == 'trained'
    persons, pairs = {p for (p, _, _), name in label.items() if name == 'person'}, {(p, r) for (p, r, _), name in label.items() if name == 'pair'}
    for (p, r, _), name in label.items():
        assert (name == 'person') == (p in persons) and (name == 'pair') == ((p, r) in pairs)
    left = n - len(persons)
    loose = [name for (p, r, _), name in label.items() if p not in persons and (p, r) not in pairs]
    assert close(len(persons), n, 0.1, 4) and close(len(pairs), left * task.relations, 0.1, 4) and close(loose.count('combination'), len(loose), 0.1, 4)
    one = np.array(list(product(range(n), [-1], range(subjects))))
    assert not task.label(one).any()  # all facts are trained
    for split in SPLITS:  # holding out two-hop questions does not make them rarer
        assert close(int((sample_batch(task, 2000, 0, 0, split).hops == 2).sum()), 2000, 0.5, 4)
    for other in (Profiles(n, task.attributes, task.relations, facts=9), Profiles(n, task.attributes, task.relations, hops=[2])):
        assert other.label(np.array(questions)).tolist() == task.label(np.array(questions)).tolist()  # whatever the facts are

def test_no_question_of_two_hops_is_trained_and_tested():
    """By its text, in either mode and order of hops; and together the splits hold them all. One-hop questions are in both."""
    task, seen = Profiles(8, 2, 2, facts=2), {split: {1: set(), 2: set()} for split in SPLITS}
    for split, mode, hops in product(SPLITS, ('cot', 'direct'), (None, 1, 2)):
        batch = sample_batch(task, 1000, 1, 0, split, mode, hops)
        assert hops is None or set(batch.hops.tolist()) == {hops}
        for row, k in zip(batch.tokens[:, :batch.prompt_len].tolist(), batch.hops.tolist(), strict=True):
            seen[split][k].add(task.decode(row))
    assert seen['train'][1] == seen['test'][1] and len(seen['train'][1]) == 8 * 4
    assert not seen['train'][2] & seen['test'][2] and len(seen['train'][2]) + len(seen['test'][2]) == 8 * 2 * 4
    batch = sample_batch(task, 400, 0, 0, 'test', hops=2)
    assert set(batch.instance[:, 3].tolist()) <= {1, 2, 3} and set(sample_batch(task, 400, 0, 0, hops=2).instance[:, 3].tolist()) == {0}

def test_a_share_of_two_hop_questions_is_tested_that_test_share_allows_for():
    """test_share sizes the draws of sample_batch: too large by far, and it would run out of them."""
    task = Profiles(500)
    drawn = np.random.default_rng(0).integers((500, 4, 8), size=(20000, 3))
    assert task.in_split(drawn, 'test').mean() == pytest.approx(1 - 0.9**3, abs=0.03) and 0.2 < task.test_share < 0.3

def test_facts_depend_on_the_sizes_and_on_the_facts_alone():
    def everything(*args, **more):
        return str(learned(Profiles(*args, **more)))
    first = everything(20, 3, 2)
    assert first == everything(20, 3, 2, hops=[1]) == everything(20, 3, 2, hops=[2])
    assert len({first, everything(20, 3, 2, facts=1), everything(20, 3, 2, facts=2), everything(21, 3, 2), everything(20, 2, 2), everything(20, 2, 3)}) == 6
    task, told = Profiles(20, 3, 2), {}
    for seed, step in product(range(3), range(3)):  # what one batch says no other denies
        batch = sample_batch(task, 100, seed, step, hops=1)
        for row, answer in zip(batch.tokens[:, :5].tolist(), batch.tokens[:, 5:].tolist(), strict=True):
            assert told.setdefault(tuple(row), answer) == answer
    assert len(told) == 20 * 5
    assert not {name for name in learned(Profiles(20, 3, 2))} == {name for name in learned(Profiles(20, 3, 2, facts=1))}  # other people, too

def chi_square(counts, cells):
    """Standard deviations by which the counts of so many cells miss what equally likely ones would give."""
    expected = sum(counts.values()) / cells
    return (sum((counts[i] - expected) ** 2 for i in range(cells)) / expected - (cells - 1)) / (2 * (cells - 1)) ** 0.5

def test_attributes_relations_and_names_are_uniform():
    task = Profiles(4000, 4, 3)
    people = learned(task)
    order = {name: i for i, name in enumerate(people)}
    for word in ('employer', 'university', 'city', 'birthday'):
        assert abs(chi_square(Counter(int(facts[word][0][1:]) for facts in people.values()), 128)) < 5
    for word in ('friend', 'parent', 'child'):
        assert abs(chi_square(Counter(order[facts[word]] % 100 for facts in people.values()), 100)) < 5
        targets = Counter(facts[word] for facts in people.values())  # with repeats: some 1 / e of all people are nobody's friend
        assert close(4000 - len(targets), 4000, np.exp(-1), 5)
    assert 0 < sum(facts[word] == name for name, facts in people.items() for word in ('friend', 'parent', 'child')) < 20  # oneself included
    few = learned(Profiles(4, 0, 17, [1]))
    assert {answer for facts in few.values() for answer in facts.values()} == set(few)  # down to the first and up to the last
    s = round(task.n_names ** (1 / 3))
    assert s**3 == task.n_names and s**3 >= 8 * 4000 > (s - 1) ** 3
    for slot in range(3):
        assert abs(chi_square(Counter(int(name[slot][1:]) for name in people), s)) < 5

@pytest.mark.parametrize('n, R, facts', [(2, 3, 0), (40, 3, 0), (50, 17, 4), (1000, 4, 1)])
def test_bipartite_friends_are_mutual_and_parent_and_child_inverse(n, R, facts):
    people = learned(Profiles(n, 1, R, bipartite=True, facts=facts))
    for name, fact in people.items():
        assert people[fact['friend']]['friend'] == name != fact['friend']
        assert people[fact['parent']]['child'] == people[fact['child']]['parent'] == name
    plain = learned(Profiles(40, 1, 3))
    assert any(plain[fact['friend']]['friend'] != name for name, fact in plain.items())

def test_the_gold_chain_of_profiles_is_valid_and_right():
    for task in PEOPLE:
        for k in task.hops:
            batch = sample_batch(task, 60, 0, 0, hops=k)
            assert task.right(batch, batch.tokens).all() and task.valid(batch, batch.tokens[:, batch.prompt_len:]).all()

def flags(flags):
    return ''.join('x.'[ok] for ok in flags[0].tolist())

def test_a_wrong_bridge_and_what_follows_from_it():
    """The answer is judged by the person who was written down, the bridge and the word by the prompt."""
    task = Profiles(30, 2, 2)
    people, compared = learned(task), 0
    for p, r, q in product(range(0, 30, 7), range(2), range(4)):
        batch, [(prompt, chain)] = shown(task, [(p, r, q)])
        bridge, asked, answer = tuple(chain[:3]), chain[3], chain[4:]

        def judge(name, word, said, batch=batch, answer=answer):
            words = task.encode(' '.join([*name, word, *said]))
            out = torch.cat((batch.tokens[:, :5], torch.tensor([words])), 1)
            return flags(task.right(batch, out))[5:], flags(task.valid(batch, out[:, 5:]))
        n = len(answer)
        assert judge(bridge, asked, answer) == ('.' * (4 + n),) * 2
        for name, facts in people.items():
            if name == bridge:
                continue
            miss = ''.join('x.'[a == b] for a, b in zip(name, bridge, strict=True))
            true = facts[asked]  # of the wrong person
            right = miss + '.' + ''.join('x.'[a == b] for a, b in zip(true, answer, strict=True))
            assert judge(name, asked, true) == (right, miss + '.' + '.' * n)
            assert judge(name, asked, answer)[1] == miss + '.' + ''.join('x.'[a == b] for a, b in zip(true, answer, strict=True))
            assert judge(name, prompt[4] if prompt[4] != asked else 'university', true)[1] == miss + 'x' + '.' * n
            compared += true != tuple(answer)
        wrong = [*answer[:-1], next(w for w in ('c0' if n == 3 else 'v0', 'c1' if n == 3 else 'v1') if w != answer[-1])]
        assert judge(bridge, asked, wrong)[1] == '....' + '.' * (n - 1) + 'x'
        nobody = next(name for name in product(*(sorted({name[i] for name in people}) for i in range(3))) if name not in people)
        for name in (nobody, ('a0', 'a0', 'a0'), ('v0', 'v1', 'v2'), ('_', '_', '_'), ('c5', 'b5', 'a5'), ('employer',) * 3):  # of whom nothing is true
            assert judge(name, asked, answer)[1][4:] == 'x' * n and 'x' in judge(name, asked, answer)[1][:3]
    assert compared > 500

def test_what_is_written_behind_an_answer_of_one_token_does_not_matter():
    task = Profiles(30, 2, 2)
    for mode in ('cot', 'direct'):
        batch, lines = shown(task, [(3, 1, 0), (4, 0, 3), (5, 1, 1)], mode)
        out = batch.tokens.clone()
        assert batch.tokens.size(1) == 5 + (7 if mode == 'cot' else 3) and [len(chain) for _, chain in lines] == ([5, 7, 5] if mode == 'cot' else [1, 3, 1])
        for row in (0, 2):
            out[row, -2:] = torch.tensor([7, 9])
        assert task.right(batch, out).all() and task.right(batch, out).gather(1, batch.answer).all()
        assert mode == 'direct' or task.valid(batch, out[:, 5:]).all()
        out[1, -1] += 1 if out[1, -1] % 2 else -1
        assert task.right(batch, out).all(1).tolist() == [True, False, True]

@pytest.mark.parametrize('n, A, R', [(100, 4, 4), (50, 3, 0), (20, 0, 2), (30, 1, 5)])
def test_a_random_value_or_a_random_person_is_right_less_often_than_chance(n, A, R):
    task, pick, hits, asked = Profiles(n, A, R, [1] if not R else [1, 2]), random.Random(0), 0, 0
    people, kinds = learned(task), {1: [(f'v{i}',) for i in range(128)], 3: list(learned(task))}
    for _ in range(20):
        for facts in people.values():
            for answer in facts.values():
                hits, asked = hits + (pick.choice(kinds[len(answer)]) == answer), asked + 1
    uniform = (A / 128 + R / n) / (A + R)
    assert close(hits, asked, uniform, 4) and all(task.chance(hops) > uniform for hops in task.hops)

@pytest.mark.parametrize('task', [*PEOPLE, Profiles(50, 3, 0, [1]), Profiles(20, 0, 2, facts=7), Profiles(30, 1, 5), Profiles(10, 12, 17, bipartite=True)],
                         ids=lambda task: f'{task.people}-{task.attributes}-{task.relations}')
def test_chance_of_profiles_is_the_best_constant_answer_to_a_subject_or_to_a_relation_and_a_subject(task):
    """Counted one fact at a time; and the guesser that always gives this answer, read from the text of all questions, is right exactly as often."""
    n, A, R = task.people, task.attributes, task.relations
    for hops in (1, 2) if R else (1,):
        answers = {}
        for p, r, q in product(range(n), range(R) if hops == 2 else [-1], range(A + R)):
            fact = int(task.truth[int(task.truth[p, A + r]) if r >= 0 else p, q])
            answers.setdefault((r, q), Counter())[fact] += 1
        assert len(answers) == (R if hops == 2 else 1) * (A + R) and {sum(count.values()) for count in answers.values()} == {n}
        assert task.chance(hops) == pytest.approx(sum(max(count.values()) / n for count in answers.values()) / len(answers), rel=1e-12)
        if hops > max(task.hops) or n > 40:
            continue
        _, lines = shown(task, list(product(range(n), range(R) if hops == 2 else [-1], range(A + R))), 'direct')
        said = {}
        for prompt, answer in lines:
            said.setdefault((*prompt[:-4], prompt[-1]), []).append(tuple(answer))
        guess = {kind: Counter(heard).most_common(1)[0][0] for kind, heard in said.items()}
        right = sum(tuple(answer) == guess[*prompt[:-4], prompt[-1]] for prompt, answer in lines)
        assert right / len(lines) == pytest.approx(task.chance(hops), rel=1e-12) and type(task.chance(hops)) is float

def test_chance_of_profiles_by_hand():
    """Three of four have the same employer, all the same friend: with that friend, everything that is asked of a friend is known."""
    task = Profiles(4, 1, 2)
    task.truth[:] = [[9, 2, 0], [9, 2, 1], [9, 2, 2], [5, 2, 3]]  # a bijection is no help
    assert task.chance(1) == pytest.approx((3 / 4 + 1 + 1 / 4) / 3) and task.chance(2) == pytest.approx((3 + 3 / 4 + 1 + 1 / 4) / 6)

@pytest.mark.parametrize('argv, hops', [('', {1, 2}), ('--people 30 --attributes 2 --relations 3 --hops 2', {2}), ('--hops 1 --relations 0 --people 9', {1}),
                                        ('--mode direct --people 40 --facts 5', {1, 2}), ('--bipartite --people 10 --relations 17 --attributes 12', {1, 2})])
def test_profiles_on_the_command_line(argv, hops, capsys):
    """Brackets stand where the loss is, the oracle agrees, and so does the text of all one-hop questions."""
    main(['--task', 'profiles', *argv.split(), '--n', '12', '--raw'])
    raw = capsys.readouterr().out.splitlines()
    main(['--task', 'profiles', *argv.split(), '--n', '12'])
    head, *lines = [line for line in capsys.readouterr().out.splitlines() if line]
    given = {k: int(v) for k, v in re.findall(r'--(people|attributes|relations|facts) (\d+)', argv)}
    task, P, seen = Profiles(**given, hops=sorted(hops), bipartite='bipartite' in argv), 4 + (2 in hops), set()
    assert 'profiles, hops ' in head and f'vocab_size {len(task.vocab)}' in head and len(raw) == 12
    for plain, line, truth in zip(raw, lines[::2], lines[1::2], strict=True):
        words = [w.strip('[]') for w in line.split()]
        chain, answer = answer_to(task, words[:P])
        assert words == plain.split() == words[:P] + (answer if 'direct' in argv else chain + answer)
        assert [w[0] == '[' for w in line.split()] == [t >= P for t in range(len(words))]
        told, rest = truth.removeprefix('  answer ').split('   oracle ')
        seen.add(asked := 1 if P == 4 or words[0] == '_' else 2)
        assert told.split() == rest.split('   chance ')[0].split() == answer and rest.endswith(f'   chance {task.chance(asked):.3f}')
    assert seen == hops

@pytest.mark.parametrize('make', [
    lambda: Profiles(1), lambda: Profiles(10**6 + 1), lambda: Profiles(10, 0, 0, [1]), lambda: Profiles(10, -1), lambda: Profiles(10, 4, 18),
    lambda: Profiles(10, 4, 0), lambda: Profiles(10, 4, 4, [1, 2, 3]), lambda: Profiles(10, 4, 4, [0, 1]), lambda: Profiles(11, 4, 4, bipartite=True),
    lambda: Profiles(10, 4, 2, bipartite=True), lambda: Profiles(10, 1000), lambda: sample_batch(Profiles(10, hops=[1]), 4, 0, 0, hops=2)])
def test_profiles_of_sizes_that_make_no_sense(make):
    with pytest.raises(ValueError):
        make()

@pytest.mark.parametrize('argv', [
    '--people 1', '--people x', '--attributes 0 --relations 0 --hops 1', '--relations 18', '--relations 0', '--hops 3', '--hops 1-3', '--nodes 10',
    '--bipartite --people 11', '--bipartite --relations 2', '--facts -1', '--reverse', '--people 10000000'])
def test_bad_arguments_for_profiles_end_with_code_2_and_one_line(argv, capsys):
    with pytest.raises(SystemExit) as end:
        main(['--task', 'profiles', *argv.split()])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and not out and err.count('\n') == 1 and err.endswith('\n') and 'Traceback' not in err

RELABEL = [(30, 2, 3), (40, 4, 3, (1, 2), True), (17, 0, 2), (60, 5, 1, [2])]

@pytest.mark.parametrize('args', RELABEL, ids=str)
def test_relabel_shuffles_two_hop_answers_over_the_people_and_nothing_else(args):
    """Of each relation and subject the same answers, to other people; facts, prompts, bridges and the split are what they were."""
    plain, task = Profiles(*args), Profiles(*args, relabel=True)
    n, A, R = args[:3]
    assert np.array_equal(task.truth, plain.truth) and np.array_equal(task.names, plain.names)
    if 1 in task.hops:
        one = list(product(range(n), [-1], range(A + R)))
        assert shown(task, one)[1] == shown(plain, one)[1]
    two = list(product(range(n), range(R), range(A + R)))
    (batch, ours), (_, theirs) = shown(task, two), shown(plain, two)
    before, after, moved, possible = {}, {}, 0, 0
    for (_, r, q), (prompt, chain), (same, true) in zip(two, ours, theirs, strict=True):
        assert prompt == same and chain[:4] == true[:4]  # the true bridge, the subject again
        before.setdefault((r, q), []).append(tuple(true[4:]))
        after.setdefault((r, q), []).append(tuple(chain[4:]))
    for kind, answers in before.items():
        assert Counter(answers) == Counter(after[kind])
        moved += sum(a != b for a, b in zip(answers, after[kind], strict=True))
        possible += sum(1 - answers.count(a) / n for a in answers)  # as many as a shuffle should move
    assert moved > 0.5 * len(two) and abs(moved - possible) < 0.1 * len(two)
    shuffles = {tuple(answers.index(a) for a in after[kind]) for kind, answers in before.items()}
    assert len(shuffles) == len(before)  # each relation and subject has its own: no other person stands in for the bridge
    assert task.chance(1) == plain.chance(1) and task.chance(2) == plain.chance(2)
    assert batch.instance[:, 3].tolist() == task.label(np.array(two)).tolist() == plain.label(np.array(two)).tolist()

@pytest.mark.parametrize('args', RELABEL, ids=str)
def test_relabelled_answers_are_the_same_in_every_batch_and_the_oracle_knows_them(args):
    task, again, told, met = Profiles(*args, relabel=True), Profiles(*args, relabel=True), {}, Counter()
    for split, mode, seed, hops in product(SPLITS, ('cot', 'direct'), range(3), (None, 2)):
        batch, other = (sample_batch(t, 200, seed, 1, split, mode, hops) for t in (task, again))
        assert torch.equal(batch.tokens, other.tokens)
        for row, mask in zip(batch.tokens.tolist(), batch.loss_mask.tolist(), strict=True):
            prompt, written = tuple(row[:batch.prompt_len]), [x for x, m in zip(row, mask, strict=True) if m]
            chain = task.oracle(list(prompt))
            assert written == (chain if mode == 'cot' or chain[3:4] != [prompt[0]] else chain[4:])
            assert told.setdefault(prompt, chain) == chain
            met[prompt] += 1
        if mode == 'cot':
            assert task.right(batch, batch.tokens).all() and task.valid(batch, batch.tokens[:, batch.prompt_len:]).all()
    assert max(met.values()) > 5
    assert not np.array_equal(task.instead, Profiles(*args, relabel=True, facts=1).instead)
    assert np.array_equal(task.instead, Profiles(*args[:3], [2], *args[4:], relabel=True).instead)  # whatever hops are asked

def test_a_true_answer_is_wrong_where_answers_are_relabelled():
    """And the relabelled one right behind the true bridge, as train_cot scores it."""
    plain, task, wrong = Profiles(20, 2, 2), Profiles(20, 2, 2, relabel=True), 0
    for question in product(range(20), range(2), range(4)):
        (batch, _), (true, _) = shown(task, [question]), shown(plain, [question])
        T = true.tokens.size(1)
        assert task.right(batch, batch.tokens).all() and task.valid(batch, batch.tokens[:, 5:]).all() and batch.tokens.size(1) == T
        same = torch.equal(batch.tokens, true.tokens)
        assert same == bool(task.right(batch, true.tokens).all()) == bool(task.valid(batch, true.tokens[:, 5:]).all())
        wrong += not same
    assert wrong > 100

def test_relabel_on_the_command_line(capsys):
    lines = []
    for extra in ([], ['--relabel']):
        main(['--task', 'profiles', '--people', '20', '--n', '60', '--raw', *extra])
        lines.append(capsys.readouterr().out.splitlines())
    assert len(lines[0]) == 60
    differ = [(a.split(), b.split()) for a, b in zip(*lines, strict=True) if a != b]
    assert len(differ) > 10 and all(a[0] != '_' and a[:9] == b[:9] for a, b in differ)
    with pytest.raises(SystemExit) as end:
        main(['--relabel'])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and not out and err.count('\n') == 1 and 'relabel' in err

def test_train_cot_trains_profiles(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_cot, 'plot', lambda *_: None)
    shape = '--n_layer 1 --n_head 1 --n_embd 16 --batch_size 8 --steps 3 --n_test 20 --device cpu'.split()
    train_cot.main(['--task', 'profiles', '--hops', '1-2', '--people', '20', '--mode', 'cot', *shape, '--out_dir', str(tmp_path)])
    final = capsys.readouterr().out.strip().split('\n')[-1]
    assert final.startswith('final task=profiles hops=1-2 mode=cot ') and f' chance={Profiles(20).chance(2):.3f} ' in final

# ----------------------------------------------------------------------------- mazes

def maze_texts(task, n, seed=0, split='train', **kw):
    batch = sample_batch(task, n, seed, 0, split, **kw)
    return batch, [task.decode(t[:m.index(True) + sum(m)]) for t, m in zip(batch.tokens.tolist(), batch.loss_mask.tolist(), strict=True)]

MAZES = [Maze((3,)), Maze((4,), format='grid'), Maze((2, 3, 4, 5), format='grid'), Maze((3, 5), 'wilson'), Maze((4,), 'wilson', no_separators=True),
         Maze((7,), 'wilson', format='grid'), Maze((4,), 'percolation'), Maze((3, 4), 'percolation', 0.5, 'grid'),
         Maze((2, 4), 'percolation', 0.3, no_separators=True)]

@pytest.mark.parametrize('task', MAZES, ids=lambda t: f'{t.gen}-{t.format}-{t.grid}')
def test_mazes_are_what_they_should_be_and_paths_the_shortest(task):
    batch, texts = maze_texts(task, 150)
    for i, text in enumerate(texts):
        edges, origin, target, path = read_maze(text)
        n, far = int(batch.hops[i]), search_from(edges, target)
        assert set(far) == {(r, c) for r in range(n) for c in range(n)} and origin != target  # all connected, none outside
        assert len(edges) == n * n - 1 if task.gen != 'percolation' else len(edges) >= n * n - 1
        assert path[0] == origin and path[-1] == target and len(path) == far[origin] + 1
        assert all(frozenset(step) in edges for step in zip(path, path[1:], strict=False))
        start, mask = int(batch.start[i]), batch.loss_mask[i]
        assert task.vocab[batch.tokens[i, start - 1]] == '<PATH_START>' and mask.sum() == len(path) + 1 and mask[start:start + len(path) + 1].all()
        bits, known = batch.instance[i]
        for j, (r, c) in enumerate(task.cells.tolist()):  # the instance knows every distance and every open side
            assert known[j] == far.get((r, c), -1)
            around = ((r - 1, c), (r, c - 1), (r + 1, c), (r, c + 1))
            assert int(bits[j]) == sum(1 << k for k, other in enumerate(around) if frozenset(((r, c), other)) in edges)
        assert task.encode(text) == batch.tokens[i, :start + len(path) + 1].tolist() and (batch.tokens[i, start + len(path) + 1:] == task.pad).all()
        mine = task.decode(task.oracle(batch.tokens[i, :start].tolist())).split()
        assert len(mine) == len(path) + 1 and (task.gen == 'percolation' or mine == text.split()[-len(mine):])
    assert batch.tokens.size(1) <= task.block_size and set(batch.hops.tolist()) == set(task.grid)

def all_trees(n):
    """Every spanning tree of the n x n lattice, as a set of edges."""
    cells = [(r, c) for r in range(n) for c in range(n)]
    edges = [((r, c), (r + a, c + b)) for r, c in cells for a, b in ((0, 1), (1, 0)) if r + a < n and c + b < n]
    trees = set()
    for chosen in combinations(edges, n * n - 1):
        chosen = {frozenset(e) for e in chosen}
        if len(search_from(chosen, (0, 0))) == n * n:
            trees.add(frozenset(chosen))
    return trees

def count_mazes(task, n):
    """How often each maze comes up in n draws, test and training split together."""
    key, _ = task.draw(np.random.default_rng(5), np.full(n, task.grid[0]))
    assert set(np.unique(key)) <= {-1, 0}
    return np.unique(key, axis=0, return_counts=True)[1]

def test_wilson_reaches_every_spanning_tree_about_equally_often():
    assert len(all_trees(2)) == 4 and len(all_trees(3)) == 192
    count = count_mazes(Maze((3,), 'wilson'), 192 * 200)
    assert len(count) == 192 and ((count - 200) ** 2 / 200).sum() < 191 + 4 * (2 * 191) ** 0.5  # chi squared, 191 degrees of freedom
    assert len(count_mazes(Maze((4,), 'wilson'), 20000)) > 17000  # of 100,352

def test_dfs_reaches_the_trees_that_a_plain_depth_first_search_does():
    rng, plain = random.Random(0), Counter()
    for _ in range(9000):
        seen, stack, edges = set(), [(rng.randrange(3), rng.randrange(3))], set()
        seen.add(stack[0])
        while stack:
            r, c = stack[-1]
            free = [x for x in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)) if 0 <= min(x) and max(x) < 3 and x not in seen]
            if free:
                stack.append(rng.choice(free))
                seen.add(stack[-1])
                edges.add(frozenset(((r, c), stack[-1])))
            else:
                stack.pop()
        plain[frozenset(edges)] += 1
    ours = Counter()
    for step in range(2):  # training and test split, weighed as they are drawn
        for split, n in (('train', 4500), ('test', 500)):
            ours.update(frozenset(read_maze(text)[0]) for text in maze_texts(Maze((3,)), n, step, split)[1])
    assert set(ours) == set(plain) and len(plain) == 88
    test = {frozenset(read_maze(t)[0]) for t in maze_texts(Maze((3,)), 3000, 0, 'test')[1]}
    for part in (test, set(plain) - test):  # in each split as often as the plain search makes them
        a, b = sum(ours[x] for x in part), sum(plain[x] for x in part)
        assert all(abs(ours[x] / a - plain[x] / b) < 5 * (plain[x] / b / min(a, b)) ** 0.5 for x in part)

@pytest.mark.parametrize('p', [0.2, 0.6])
def test_percolation_opens_each_wall_of_a_tree_with_its_probability(p):
    task = Maze((4,), 'percolation', p)
    batch, texts = maze_texts(task, 2000)
    more = sum(len(read_maze(text)[0]) - 15 for text in texts)
    walls = 2000 * (24 - 15)
    assert abs(more / walls - p) < 5 * (p * (1 - p) / walls) ** 0.5

def test_of_several_shortest_paths_each_is_shown():
    task, shown = Maze((2,), 'percolation', 0.999, 'grid'), Counter()
    for _ in range(2):
        prompt, chain, length, _ = task.write(np.random.default_rng(_), np.tile([1, 1, 1, 0, 0, 1, 0, 0, 0, 3], (500, 1)), np.full(500, 2))
        shown.update(map(tuple, chain[:, 1].reshape(-1, 1).tolist()))
    assert set(shown) == {(1,), (2,)} and all(400 < count < 600 for count in shown.values())

def test_adjlist_is_the_text_of_maze_dataset():
    """A line printed by maze-dataset 1.4.2, and the same in our words, with and without separators."""
    line = ('<ADJLIST_START> (0,0) <--> (1,0) ; (2,0) <--> (2,1) ; (2,2) <--> (2,1) ; (1,1) <--> (0,1) ; (1,2) <--> (2,2) ; (1,1) <--> (1,2) ; '
            '(1,2) <--> (0,2) ; (2,0) <--> (1,0) ; <ADJLIST_END> <ORIGIN_START> (1,2) <ORIGIN_END> <TARGET_START> (0,0) <TARGET_END> '
            '<PATH_START> (1,2) (2,2) (2,1) (2,0) (1,0) (0,0) <PATH_END>')
    task = Maze((3,))
    assert task.decode(task.encode(line)) == line and task.decode(task.oracle(task.encode(line)[:-7])) == ' '.join(line.split()[-7:])
    pattern = r'<ADJLIST_START> (C <--> C ; )+<ADJLIST_END> <ORIGIN_START> C <ORIGIN_END> <TARGET_START> C <TARGET_END> <PATH_START> (C )+<PATH_END>'
    texts, bare = maze_texts(task, 50)[1], maze_texts(Maze((3,), no_separators=True), 50)[1]
    assert all(re.fullmatch(pattern.replace('C', r'\(\d,\d\)'), text) for text in (*texts, line))
    assert bare == [text.replace('<--> ', '').replace('; ', '') for text in texts]
    directions = Counter(re.findall(r'\((\d),(\d)\) <--> \((\d),(\d)\)', ' '.join(texts)))
    assert len(directions) == 24 and all(directions[edge[2:] + edge[:2]] for edge in directions)  # 12 places for a passage, each in both directions

def test_a_smaller_grid_has_the_first_words_of_a_larger_one():
    words = Maze((5,)).vocab
    assert words[:9] == '(0,0) (0,1) (1,0) (1,1) (0,2) (2,0) (1,2) (2,1) (2,2)'.split() == Maze((3,)).vocab[:9] and words[:16] == Maze((4,)).vocab[:16]

@pytest.mark.parametrize('gen', Maze.gens)
def test_no_maze_is_in_both_splits_whatever_the_task_shows(gen):
    """By passages: not by endpoints, format, or the other sizes of the task."""
    train, test = set(), set()
    for task in (Maze((3,), gen), Maze((3, 6), gen, format='grid'), Maze((2, 3, 4), gen, no_separators=True)):
        for seed in range(3):
            train |= {frozenset(read_maze(text)[0]) for text in maze_texts(task, 300, seed, hops=3)[1]}
            test |= {frozenset(read_maze(text)[0]) for text in maze_texts(task, 100, seed, 'test', hops=3)[1]}
    assert train and test and not train & test
    assert gen != 'dfs' or len(train) + len(test) == 88

def test_valid_finds_the_first_false_step():
    task = Maze((4,), format='grid')
    batch, _ = maze_texts(task, 200)
    chain = batch.tokens[:, batch.prompt_len:]
    assert task.valid(batch, chain)[batch.loss_mask[:, batch.prompt_len:]].all()
    wrong = chain.clone()
    wrong[:, 0] = (wrong[:, 0] + 1) % 16
    assert not task.valid(batch, wrong)[:, 0].any()
    jump = chain.clone()
    jump[:, 1] = chain[:, 0]  # a cell is not beside itself
    assert not task.valid(batch, jump)[:, 1].any()
    early = chain.clone()
    early[:, 1] = task.end
    long = batch.loss_mask.sum(1) > 3
    assert not task.valid(batch, early)[long, 1].any() and task.valid(batch, early)[long, 2:].all()

@pytest.mark.parametrize('make', [
    lambda: Maze((1,)), lambda: Maze((31,)), lambda: Maze((4,), 'prim'), lambda: Maze((4,), format='table'), lambda: Maze((4,), percolation=0.2),
    lambda: Maze((4,), format='grid', no_separators=True), lambda: sample_batch(Maze((3,)), 4, 0, 0, hops=4),
    lambda: Maze((4,), 'percolation', 1.0), lambda: Maze((4,), 'percolation', 0.0)])
def test_mazes_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError):
        make()

def test_chance_of_a_maze_is_that_of_random_legal_steps():
    """Published for no paper; measured elsewhere for 3,000 mazes of maze-dataset: 0.416 on 4x4 and 0.331 on 5x5 (dfs), 0.285 on Wilson 4x4."""
    for task, known in ((Maze((4,)), 0.416), (Maze((5,)), 0.331), (Maze((4,), 'wilson'), 0.285)):
        assert abs(task.chance(task.grid[0]) - known) < 0.03

def test_the_examples_in_the_docstring_of_maze_are_one_maze():
    doc = ' '.join(Maze.__doc__.replace('[', '').replace(']', '').split())
    line, grid = re.search(r'<ADJLIST_START>.*?<PATH_END>', doc)[0], re.search(r'of ULDR: (.*?<PATH_START>)', doc)[1]
    assert read_maze(line)[:3] == read_maze(grid + ' (1,1) <PATH_END>')[:3]
    for task, text in ((Maze((2,)), line), (Maze((2,), format='grid'), grid)):
        ids = task.encode(text)
        assert task.decode(task.oracle(ids[:ids.index(task.begin) + 1])) == line.split('<PATH_START> ')[1]
