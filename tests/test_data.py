"""Every task against oracles that read the prompt's text with plain loops and know nothing of data.py's arrays."""

import random
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch

from data import CVPR, SPLITS, Batch, Cycle, Multiply, Star, main, sample_batch


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


@every_task
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
    lambda: sample_batch(Cycle(2, [1]), 8, 0, 0, 'test')])  # two nodes have one cycle, so there is nothing to hold out
def test_sizes_and_words_that_make_no_sense(make):
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize('argv', [
    '--hops 0', '--hops abc', '--hops 3-1', '--hops 20', '--hop 3', '--nodes 8 --hops 4-8', '--n 0', '--seed -1', '--task sudoku', '--format list',
    '--task star --star 1,3', '--task star --star 5,5 --nodes 10', '--task star --star 2', '--task star --hops 2', '--task multiply --digits 0',
    '--task multiply --nodes 5', '--task cycle --reverse', '--no_such_flag'])
def test_bad_arguments_end_with_code_2_and_one_line(argv, capsys):
    with pytest.raises(SystemExit) as end:
        main(argv.split())
    out, err = capsys.readouterr()
    assert end.value.code == 2 and not out and err.count('\n') == 1 and err.endswith('\n')
