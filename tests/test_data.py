"""data.py: batches, the tasks cycle, cvpr, multiply, parity and star, and the command line.

Everything a batch holds is compared with what plain loops read in its text (plain_tasks.py).
"""

import errors

import argparse
import errno
import functools
import hashlib
import random
from collections import Counter
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import call
from plain_tasks import examples, is_near, is_refused, raw_examples, read_prompt, solve

import data
from countdown import Countdown
from data import (
    CVPR,
    SPLITS,
    STREAMS,
    Batch,
    Cycle,
    Multiply,
    Parity,
    Star,
    Task,
    answer_at_once,
    in_split,
    sample_batch,
)
from maze import Maze
from profiles import Profiles


TASKS = [
    Cycle(20, [4]),
    Cycle(7, [1, 2, 3, 4, 5, 6]),
    Cycle(9, [2, 3], 'pairs'),
    CVPR(12, [4]),
    CVPR(6, [1, 2, 3, 4, 5]),
    CVPR(8, [1, 2, 3], 'pairs'),
    Multiply(1),
    Multiply(2, reverse=True),
    Multiply(3),
    Multiply(9),
    Parity(),
    Parity(8, [1, 2, 3, 8]),
    Star(),
    Star((2, 3), reverse=True),
    Star((5, 5)),
    Star((3, 2), 7),
    Star((2, 6), 30, reverse=True),
]


def name_of(task):
    """Names a test by its task. pytest finds a name for parameters that are no task."""
    if not isinstance(task, Task):
        return None
    settings = [str(value) for value in task.settings().values()]
    return '-'.join([task.name, *settings]).replace(' ', '')


every_task = pytest.mark.parametrize('task', TASKS, ids=name_of)


# -----------------------------------------------------------------------------
# what a batch holds is what its text says

@functools.cache
def solved_batches(task):
    """Batches of both splits in both modes. A list of (mode, batch, rows).

    Each row has its tokens and words, and what the oracle says: chain, answer, hops, and what is
    written behind the prompt in this mode.
    """
    batches = []
    for split in SPLITS:
        for mode in ('cot', 'direct'):
            batch = sample_batch(task, 200, 7, 3, split, mode)
            rows = []
            for tokens in batch.tokens.tolist():
                words = task.decode(tokens).split()
                prompt = words[:batch.prompt_len]
                chain, answer_len, hops = solve(task, prompt)
                answer = chain[-answer_len:]
                rows.append(SimpleNamespace(
                    tokens=tokens, words=words, chain=chain, answer=answer, hops=hops,
                    written=chain if mode == 'cot' else answer))
            batches.append((mode, batch, rows))
    return batches


@every_task
def test_behind_the_prompt_come_chain_and_padding_or_the_answer_alone(task):
    for _, batch, rows in solved_batches(task):
        for row in rows:
            behind = row.words[batch.prompt_len:]
            n_padding = len(behind) - len(row.written)
            assert behind == row.written + ['_'] * n_padding


@every_task
def test_the_loss_is_on_what_is_written_behind_the_prompt_and_not_on_padding(task):
    for _, batch, rows in solved_batches(task):
        P = batch.prompt_len
        for row, mask in zip(rows, batch.loss_mask.tolist(), strict=True):
            end = P + len(row.written)
            assert mask == [P <= t < end for t in range(len(mask))]
        assert (batch.chain_start == P).all()


@every_task
def test_the_answer_is_at_the_end_of_what_is_written(task):
    for _, batch, rows in solved_batches(task):
        for row, answer_at in zip(rows, batch.answer.tolist(), strict=True):
            end = batch.prompt_len + len(row.written)
            assert answer_at == list(range(end - len(row.answer), end))


@every_task
def test_all_hop_counts_are_drawn_and_each_is_that_of_its_text(task):
    for _, batch, rows in solved_batches(task):
        assert batch.hops.tolist() == [row.hops for row in rows]
        assert set(batch.hops.tolist()) == set(task.hops)


@every_task
def test_the_oracle_of_the_task_agrees(task):
    for _, batch, rows in solved_batches(task):
        for row in rows:
            chain = task.oracle(row.tokens[:batch.prompt_len])
            assert task.decode(chain).split() == row.chain


@every_task
def test_encode_is_the_inverse_of_decode(task):
    for _, _, rows in solved_batches(task):
        for row in rows:
            assert task.encode(' '.join(row.words)) == row.tokens


@every_task
def test_a_batch_is_no_wider_than_it_must_be(task):
    for mode, batch, rows in solved_batches(task):
        width = batch.tokens.size(1)
        assert width <= task.block_size
        assert batch.loss_mask[:, -1].any()  # no column holds padding alone
        if mode == 'direct':
            assert width == batch.prompt_len + len(rows[0].answer)  # no room for a chain


@pytest.mark.parametrize('task, source, hops, text', [
    (Cycle(4, [2]), [2, 0, 3, 1, 0], 2, '2 0 3 1 k=2 0 2 3'),
    (CVPR(5, [3]), [2, 3, 4, 3, 1, 0], 3, '2 3 4 3 1 k=3 0 2 4 1'),
    (Multiply(2), [27, 43], 2, '2 7 * 4 3 = 1 8 0 1 8 0 8 0 1 1 6 1 1'),
    (Multiply(2, True), [27, 43], 2, '2 7 * 4 3 = 0 8 1 0 8 1 1 0 8 1 1 6 1'),
])
def test_text_worked_out_on_paper(task, source, hops, text):
    prompt, chain, *_ = task.write(None, np.array([source]), np.array([hops]))
    assert task.decode([*prompt[0], *chain[0]]) == text


# -----------------------------------------------------------------------------
# which batch, which rows, which split

all_kinds_of_tasks = pytest.mark.parametrize('task', [
    *TASKS,
    Countdown(),
    Countdown(2, (36, 50)),
    Profiles(50),
    Maze(),
    Maze((3, 4), 'percolation', format='grid'),
], ids=name_of)


@all_kinds_of_tasks
def test_seed_split_and_step_alone_determine_a_batch(task):
    def text(seed, split, step):
        return str(sample_batch(task, 40, seed, step, split).tokens.tolist())

    assert text(1, 'train', 2) == text(1, 'train', 2)
    texts = {
        text(1, 'train', 2),
        text(2, 'train', 1),
        text(2, 'train', 2),
        text(1, 'train', 3),
        text(1, 'test', 2),
    }
    assert len(texts) == 5


@all_kinds_of_tasks
def test_both_modes_have_the_same_prompts_and_answers(task):
    cot = sample_batch(task, 40, 1, 2, mode='cot')
    direct = sample_batch(task, 40, 1, 2, mode='direct')
    P = cot.prompt_len
    assert torch.equal(cot.tokens[:, :P], direct.tokens[:, :P])
    answer = cot.tokens.gather(1, cot.answer)
    assert torch.equal(answer, direct.tokens.gather(1, direct.answer))


def test_every_row_has_the_one_hop_count_that_is_asked_for():
    task = Cycle(8, [1, 2, 3, 4])
    for split in SPLITS:
        batch = sample_batch(task, 20, 0, 0, split, hops=3)
        assert set(batch.hops.tolist()) == {3}


@pytest.mark.parametrize('hops', [0, 5])
def test_hops_that_the_task_was_not_made_for_are_refused(hops):
    """The chain would not fit, and the hop word would be another token."""
    with pytest.raises(ValueError):
        sample_batch(Cycle(8, [1, 2, 3, 4]), 20, 0, 0, hops=hops)


@pytest.mark.parametrize('rows', [slice(2, 5), slice(0, None, 3), torch.tensor([7, 0, 7])])
def test_rows_of_a_batch(rows):
    batch = sample_batch(CVPR(8, [1, 2, 3]), 9, 0, 0)
    some = batch[rows].to('cpu')
    for name in ('tokens', 'loss_mask', 'answer', 'hops', 'instance'):
        assert torch.equal(getattr(some, name), getattr(batch, name)[rows])
    assert some.prompt_len == batch.prompt_len == 10
    assert some.tokens.dtype == torch.int64 and some.loss_mask.dtype == torch.bool
    assert len(some) == len(some.tokens)


def instances(task, n, split):
    """The graphs, tables or unordered pairs of factors of n rows, read from their text."""
    batch = sample_batch(task, n, 0, 0, split)
    result = set()
    for row in batch.tokens[:, :batch.prompt_len].tolist():
        given, _ = read_prompt(task, task.decode(row).split())
        if task.name == 'parity':
            result.add(given)  # the order of bits matters
        else:
            result.add(frozenset(given if task.name == 'multiply' else given.items()))
    return result


@pytest.mark.parametrize('task, same_instances, n, n_distinct', [
    (Cycle(3, [1]), Cycle(3, [1, 2], 'pairs'), 50, 2),
    (Cycle(5, [2]), Cycle(5, [1, 2, 3]), 2000, 24),
    (Cycle(6, [1, 2, 3], 'pairs'), Cycle(6, [2]), 4000, 120),
    (CVPR(4, [1, 2, 3], 'pairs'), CVPR(4, [2]), 8000, None),
    (Multiply(2), Multiply(2, True), 40000, 90 * 91 // 2),
    (Parity(10, [3]), Parity(10, [1, 2, 10]), 20000, 2**10),
    (Star((2, 3), 7), Star((2, 3), 7, reverse=True), 20000, 7 * 6 * 5 * 4 * 3 // 2),
], ids=['cycle-3', 'cycle-5', 'cycle-6', 'cvpr', 'multiply', 'parity', 'star'])
def test_no_instance_is_in_both_splits(task, same_instances, n, n_distinct):
    """However it is presented: format, hop count, order of factors, goal, direction.

    n_distinct: how many instances there are. One in ten is held out, and the others are trained.
    """
    train = instances(task, n, 'train')
    test = instances(same_instances, n // 2, 'test')
    assert train and test and not train & test
    if n_distinct is not None:
        assert len(train) + len(test) >= 0.999 * n_distinct
    if n_distinct not in (None, 2):
        assert is_near(len(test), n_distinct, 0.1, sd=3)


# -----------------------------------------------------------------------------
# distributions and chance

@pytest.mark.parametrize('split', SPLITS)
def test_hops_start_and_answer_of_a_cycle_are_uniform(split):
    batch = sample_batch(Cycle(12, [1, 2, 3, 4]), 6000, 3, 0, split)
    hops = batch.hops.tolist()
    assert all(is_near(hops.count(k), 6000, 1 / 4) for k in (1, 2, 3, 4))

    # no label is a shortcut
    start = batch.tokens[:, batch.prompt_len - 1]
    answer = batch.tokens.gather(1, batch.answer)[:, 0]
    for nodes in (start.tolist(), answer.tolist()):
        assert all(is_near(nodes.count(node), 6000, 1 / 12) for node in range(12))

    # and the start says no more than that it is not the answer
    gaps = ((answer - start) % 12).tolist()
    assert 0 not in gaps
    assert all(is_near(gaps.count(gap), 6000, 1 / 11) for gap in range(1, 12))


@pytest.mark.parametrize('split', SPLITS)
def test_bits_and_answers_of_parity_are_fair(split):
    batch = sample_batch(Parity(20, [1, 3, 8]), 6000, 3, 0, split)
    bits = batch.tokens[:, :20]
    answer = batch.tokens.gather(1, batch.answer)
    for column in (*bits.T, answer[:, 0]):
        assert is_near(int(column.sum()), 6000, 1 / 2)
    # no bit alone says anything about the answer, where more than one counts
    is_long = batch.hops > 1
    for column in bits[is_long].T:
        agreement = int((column == answer[is_long, 0]).sum())
        assert is_near(agreement, int(is_long.sum()), 1 / 2)


def test_chance_of_a_cycle_is_any_node_but_the_start():
    assert Cycle(12).chance(4) == 1 / 11


@pytest.mark.parametrize('hops', [1, 2, 3, 5])
def test_chance_of_cvpr_is_the_best_constant_guess(hops):
    task = CVPR(6, [hops])
    paths = list(combinations(range(6), hops))
    probability = Counter()  # value -> how often it is the answer
    for path in paths:
        for value in range(path[-1] + 1):
            probability[value] += 1 / len(paths) / (path[-1] + 1)
    assert task.chance(hops) == pytest.approx(max(probability.values()))

    batch = sample_batch(task, 5000, 0, 0)
    answers = batch.tokens.gather(1, batch.answer)[:, 0].tolist()
    assert all(is_near(answers.count(value), 5000, probability[value]) for value in range(6))


@pytest.mark.parametrize('star', [(2, 3), (5, 3)])
def test_chance_of_a_star_is_a_random_arm(star):
    """And the arm whose edge is listed first is no better a guess."""
    task = Star(star)
    rng = random.Random(0)
    batch = sample_batch(task, 3000, 0, 0)
    n_first = n_random = 0
    for row in batch.tokens.tolist():
        words = task.decode(row).split()
        parent, (centre, _) = read_prompt(task, words[:batch.prompt_len])
        second_node = words[-2]  # of the path, which has three nodes
        arms = [node for node in parent if parent[node] == centre]
        n_first += arms[0] == second_node
        n_random += rng.choice(arms) == second_node
    assert task.chance(2) == 1 / star[0]
    assert is_near(n_first, 3000, 1 / star[0])
    assert is_near(n_random, 3000, 1 / star[0])


# -----------------------------------------------------------------------------
# valid

@every_task
def test_the_chain_of_the_oracle_is_valid_and_padding_is_not(task):
    batch = sample_batch(task, 100, 0, 0)
    P = batch.prompt_len
    assert torch.equal(task.valid(batch, batch.tokens[:, P:]), batch.loss_mask[:, P:])


def one_wrong_token(task, batch):
    """The chain of the first row with one token replaced, in every possible way.

    For each: the place of the wrong token, the words of the chain, and the invalid places.
    """
    chain = batch.tokens[0, batch.prompt_len:]
    changes = []
    for place in range(len(chain)):
        for token in range(len(task.vocab)):
            if token != chain[place]:
                changes.append((place, token))
    wrong = chain.repeat(len(changes), 1)
    for row, (place, token) in enumerate(changes):
        wrong[row, place] = token

    first_row = torch.zeros(len(changes), dtype=torch.int64)
    valid = task.valid(batch[first_row], wrong)
    for row, (place, _) in enumerate(changes):
        invalid = (~valid[row]).nonzero()[:, 0].tolist()
        yield place, task.decode(wrong[row]).split(), invalid


def true_steps(task, words):
    """(the word before a chain, the set of pairs of words that may follow each other in it)."""
    given, question = read_prompt(task, words)
    if task.name != 'star':
        return question[1], set(given.items())
    centre, goal = question
    if task.reverse:
        steps = set(given.items())
        first = goal
    else:
        steps = {(parent, child) for child, parent in given.items()}
        first = centre
    return 'nothing', steps | {('nothing', first)}


@pytest.mark.parametrize('task, n_exceptions', [
    (Cycle(7, [4]), 0),            # in a permutation there are none
    (Cycle(7, [4], 'pairs'), 0),
    (CVPR(7, [4]), None),          # a table may lead back to the chain
    (Star((3, 4)), 20),            # the first nodes of two other arms follow the centre, too
    (Star((3, 4), reverse=True), 20),
], ids=name_of)
def test_a_wrong_node_is_invalid_and_so_is_the_next_one(task, n_exceptions):
    """In ten batches, with n_exceptions: there one of the two is a true step by accident."""
    exceptions = 0
    for seed in range(10):
        batch = sample_batch(task, 1, seed, 0)
        words = task.decode(batch.tokens[0, :batch.prompt_len]).split()
        before, steps = true_steps(task, words)
        for place, chain, invalid in one_wrong_token(task, batch):
            pairs = list(zip([before, *chain], chain, strict=False))
            assert invalid == [i for i in range(4) if pairs[i] not in steps]
            exceptions += invalid != [i for i in (place, place + 1) if i < 4]
    if n_exceptions is None:
        assert exceptions > 0
    else:
        assert exceptions == n_exceptions


@pytest.mark.parametrize('task', [Multiply(3), Multiply(3, True)], ids=name_of)
def test_a_wrong_number_is_invalid_and_so_is_the_sum_that_it_enters(task):
    """Numbers 0 .. 5 are partial 0, sum 0, partial 1, sum 1, partial 2, sum 2. A partial enters
    its own sum, a sum the next one."""
    invalid_with = {0: (0, 1), 1: (1, 3), 2: (2, 3), 3: (3, 5), 4: (4, 5), 5: (5,)}
    number_at = []  # place in the chain -> number
    for number, width in enumerate((4, 4, 4, 5, 4, 6)):
        number_at += [number] * width

    batch = sample_batch(task, 1, 0, 0)
    for place, _, invalid in one_wrong_token(task, batch):
        numbers = invalid_with[number_at[place]]
        assert invalid == [i for i, number in enumerate(number_at) if number in numbers]


@pytest.mark.parametrize('text, expected', [
    ('0 0 1 0 0 1 0 5 0 0 0 6 0', '.............'),  # 25 * 4 = 100, 25 * 2 = 50, product 600
    ('1 0 1 1 0 1 0 5 0 1 0 6 0', 'xxx..........'),  # 101 + 500 = 601: sums of what is written
    ('0 * 0 0 0 1 0 5 0 0 0 6 0', 'xxx..........'),  # '*' is token 10: no digit
    ('_ _ _ _ _ _ _ _ _ _ _ _ _', 'xxxxxxxxxxxxx'),
])
def test_valid_of_multiply_by_hand(text, expected):
    """25 * 24. x marks what is not valid."""
    task = Multiply(2)
    unused = torch.zeros(1, 1, dtype=torch.int64)
    batch = Batch(unused, unused, unused, unused, torch.tensor([[25, 24]]), 0)
    valid = task.valid(batch, torch.tensor([task.encode(text)]))[0]
    assert ''.join('.' if ok else 'x' for ok in valid) == expected


def test_tokens_without_loss_are_always_correct():
    task = Cycle(8, [1, 2])
    batch = sample_batch(task, 30, 0, 0)
    wrong = (batch.tokens + 1) % task.nodes
    assert torch.equal(task.correct(batch, wrong), ~batch.loss_mask)


# -----------------------------------------------------------------------------
# sizes and flags that make no sense

@pytest.mark.parametrize('make', [
    lambda: Cycle(8, [0]),
    lambda: Cycle(8, [8]),
    lambda: Cycle(1, [1]),
    lambda: Cycle(8, [2], 'list'),
    lambda: CVPR(8, [1, 8]),
    lambda: Multiply(0),
    lambda: Multiply(10),
    lambda: Parity(3, [2]),
    lambda: Parity(61),
    lambda: Parity(8, [9]),
    lambda: Parity(8, [0]),
    lambda: Star((1, 3)),
    lambda: Star((3, 1)),
    lambda: Star((5, 5), 10),
    lambda: Cycle(2, [1]),
    lambda: Star().encode('0 zebra'),
])
def test_sizes_and_words_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError):
        make()


def test_a_task_without_an_instance_to_hold_out_is_refused():
    task = Star((2, 2), 3)  # three graphs: any of three nodes is the centre
    assert len(instances(task, 100, 'train')) == 3
    with pytest.raises(ValueError, match='too few instances'):
        sample_batch(task, 8, 0, 0, 'test')


@pytest.mark.parametrize('argv', [
    '--hops 0', '--hops abc', '--hops 3-1', '--hops 20', '--hop 3', '--nodes 8 --hops 4-8',
    '--n 0', '--seed -1', '--task sudoku', '--format list', '--no_such_flag',
    '--task star --star 1,3', '--task star --star 5,5 --nodes 10', '--task star --star 2',
    '--task star --hops 2', '--task multiply --digits 0', '--task multiply --nodes 5',
    '--task cycle --reverse', '--task countdown', '--numbers 4', '--relabel',
    '--task star --holdout_targets 36',
])
def test_a_bad_command_line_is_one_line_and_exit_code_2(argv):
    assert is_refused(data, argv.split())


def test_a_range_of_numbers_is_parsed_and_formatted():
    for text, numbers in (('4', [4]), ('1-3', [1, 2, 3]), ('7-7', [7])):
        assert data.parse_range(text) == numbers
    assert data.format_range([4]) == '4' and data.format_range([1, 2, 3]) == '1-3'
    for text in ('0', '3-1', '-2', '1-', '', 'x', '1,2', '1.5', '\u0664', '1-10000000'):
        with pytest.raises(argparse.ArgumentTypeError):
            data.parse_range(text)


def test_a_flag_of_another_task_is_refused_by_name():
    args = SimpleNamespace(task='cycle', nodes=8, digits=None)
    assert data.make_task(args, (Cycle, Multiply)).settings() == dict(
        nodes=8, hops=[4], format='table')
    args.digits = 3
    with pytest.raises(ValueError, match='--digits means nothing to cycle'):
        data.make_task(args, (Cycle, Multiply))


# -----------------------------------------------------------------------------
# printed examples

# Each line was checked by hand. If only these fail, the order of random draws (ours or numpy's)
# has changed: check them and paste them again.
PRINTED = pytest.mark.parametrize('argv, lines', [
    ('--task cycle --nodes 5 --hops 1-3 --n 3',
     ['4 3 0 2 1 k=2 0 4 1', '3 0 4 2 1 k=3 2 4 1 0', '2 4 1 0 3 k=3 2 1 4 3']),
    ('--task cycle --nodes 5 --hops 1-3 --n 2 --mode direct',
     ['2 4 1 0 3 k=3 3 1', '3 0 4 2 1 k=3 0 4']),
    ('--task cycle --nodes 4 --hops 2 --format pairs --n 2',
     ['1 2 3 0 0 1 2 3 k=2 1 2 3', '2 3 0 1 1 2 3 0 k=2 2 3 0']),
    ('--task cvpr --nodes 6 --hops 3 --n 2',
     ['3 3 2 4 4 1 k=3 1 3 4 4', '5 4 2 3 5 0 k=3 1 4 5 0']),
    ('--task cvpr --nodes 4 --hops 2 --format pairs --n 2',
     ['0 1 1 1 3 0 2 2 k=2 0 1 1', '0 3 3 1 1 3 2 1 k=2 0 3 1']),
    ('--task multiply --digits 2 --n 1', ['5 9 * 8 9 = 1 3 5 1 3 5 2 7 4 1 5 2 5']),
    ('--task multiply --digits 2 --n 1 --reverse', ['5 9 * 8 9 = 5 3 1 5 3 1 4 7 2 5 2 5 1']),
    ('--task multiply --digits 2 --n 1 --mode direct', ['5 9 * 8 9 = 1 5 2 5']),
    ('--task star --n 2',
     ['5 1 | 5 7 | 7 8 | 1 6 / 5 6 = 5 1 6', '7 9 | 0 4 | 0 7 | 4 1 / 0 9 = 0 7 9']),
    ('--task star --n 2 --reverse',
     ['5 1 | 5 7 | 7 8 | 1 6 / 5 6 = 6 1 5', '7 9 | 0 4 | 0 7 | 4 1 / 0 9 = 9 7 0']),
])


@PRINTED
def test_raw_prints_exactly_these_lines(argv, lines):
    assert raw_examples(data, argv.split()) == lines


@PRINTED
def test_without_raw_the_same_lines_have_brackets_an_answer_and_the_oracles(argv, lines):
    _, shown = examples(data, argv.split())
    assert [' '.join(example.words) for example in shown] == lines
    for example in shown:
        # from the first bracket on every token carries loss
        assert any(example.carries_loss)
        assert example.carries_loss == sorted(example.carries_loss)
        answer = example.words[-len(example.answer):]
        assert answer == example.answer == example.oracle


# -----------------------------------------------------------------------------
# no memory left

@pytest.mark.parametrize('allocate', [
    lambda: torch.empty(10**15),   # RuntimeError
    lambda: torch.empty(2**62),    # RuntimeError, more bytes than there are numbers
    lambda: np.empty(10**15),
    lambda: bytearray(10**15),
])
def test_out_of_memory_is_recognised(allocate):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate()
    assert errors.is_out_of_memory(caught.value)


@pytest.mark.parametrize('message', [
    'MPS backend out of memory (MPS allocated: 9.0 GB, other allocations: 1.0 MB)',
    'CUDA error: out of memory',
    'CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate',
    'DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.',
    'std::bad_alloc',
])
def test_out_of_memory_of_other_devices_is_recognised(message):
    assert errors.is_out_of_memory(RuntimeError(message))
    assert errors.is_out_of_memory(torch.OutOfMemoryError(message))
    assert errors.is_out_of_memory(OSError(errno.ENOMEM, 'Cannot allocate memory'))


@pytest.mark.parametrize('error', [
    ValueError('out of memory'), KeyError('x'), OSError(errno.ENOSPC, 'No space left on device'),
    RuntimeError('mat1 and mat2 shapes cannot be multiplied'),
])
def test_other_errors_are_not_out_of_memory(error):
    assert not errors.is_out_of_memory(error)


# -----------------------------------------------------------------------------
# sizes

# of batches 3 of seed 1337: 512 instances to train on, 500 to test on
HASHES = [
    (Cycle(), '401c1fd0b3e3', 'e201430a1eb1'),
    (Cycle(100, [1, 2, 3, 4]), '52737f27cae7', '7d9b5cb2841c'),
    (Cycle(format='pairs'), '73b99bb0045b', '4a15847810f7'),
    (CVPR(), 'e04ea0d4bb71', '8edfd5be42d4'),
    (CVPR(100, (30,)), 'b92a5a6a3757', 'a9585768fc58'),
    (Multiply(), 'e32c5dae1993', 'ffa16787e1be'),
    (Multiply(9), '5389cf6a3c24', '4f9246c99a71'),
    (Parity(), '499ed7641ec6', 'c18f2a4c3e0a'),
    (Star(), 'ecd193bf1c12', '1978b2361cc3'),
    (Star((5, 5), 50), '3d08fa93a17f', 'e845cd0a031d'),
    (Countdown(), '2045102d8205', '250f711fd94b'),
    (Profiles(), '3b839a7f5e47', 'cb1b190e0dbe'),
    (Maze(), '8230edb1b5d1', '2b46ba78d992'),
    (Maze((10,), format='grid'), 'd61cfb4f5a60', '798e115529f3'),
    (Maze((3, 4, 5), 'percolation'), '87f8fa509c82', 'a8467c1327ba'),
]


def digest(batch):
    """A hash of everything that a batch holds."""
    hashed = hashlib.sha1()
    for tensor in (batch.tokens, batch.loss_mask, batch.answer, batch.hops, batch.instance):
        hashed.update(str(tuple(tensor.shape)).encode())
        hashed.update(tensor.numpy().tobytes())
    return hashed.hexdigest()[:12]


@pytest.mark.parametrize('task, trained, tested', HASHES, ids=name_of)
def test_batches_are_what_they_always_were(task, trained, tested):
    """The numbers in docs/ were measured on these. They are drawn in one part."""
    assert digest(sample_batch(task, 512, 1337, 3)) == trained
    assert digest(sample_batch(task, 500, 1337, 3, 'test')) == tested


def test_large_instances_are_drawn_in_parts(monkeypatch):
    """As many instances as before, of the same kind, and none of the other split."""
    task = Cycle(9, [2, 3])
    sizes = []
    real = Cycle.draw

    def draw(self, rng, hops):
        sizes.append(len(hops))
        return real(self, rng, hops)

    monkeypatch.setattr(Cycle, 'draw', draw)
    monkeypatch.setattr(data, 'LARGEST_DRAW', 50 * task.draw_size)
    for split in SPLITS:
        sizes.clear()
        batch = sample_batch(task, 100, 0, 0, split)
        assert max(sizes) == 50 and sum(sizes) >= 100 and len(batch) == 100
        assert (task.in_split(batch.instance.numpy(), split)).all()
        again = sample_batch(task, 100, 0, 0, split)
        assert digest(again) == digest(batch)


def test_a_task_without_test_instances_is_refused_in_parts_too(monkeypatch):
    monkeypatch.setattr(Cycle, 'in_split', lambda self, key, split: np.zeros(len(key), bool))
    monkeypatch.setattr(data, 'LARGEST_DRAW', 1)
    with pytest.raises(ValueError, match='too few instances'):
        sample_batch(Cycle(5, [1]), 30, 0, 0)


def test_many_examples_are_printed_in_parts(monkeypatch):
    sizes = []
    real = data.sample_batch

    def sample(task, batch_size, *args, **options):
        sizes.append(batch_size)
        return real(task, batch_size, *args, **options)

    monkeypatch.setattr(data, 'sample_batch', sample)
    code, out, _ = call(data, ['--n', '2500', '--raw'])
    assert code == 0 and len(set(out.splitlines())) == 2500
    assert sizes == [1000, 1000, 500]


# -----------------------------------------------------------------------------
# numbers that are typed

@pytest.mark.parametrize('text', [
    '', ' ', ' 5', '5 ', '+5', '-5', '1_000', '\u0663', '\uff15', '5.0', '1e3', '0x10', '5\n', '\0',
    '1' * 5000, '1000000001', 'nan', 'inf', 'five', '5,6',
])
def test_a_whole_number_is_plain_digits(text):
    for read in (data.at_least(1), data.parse_list, data.parse_range):
        if (read, text) == (data.parse_list, '5,6'):
            continue
        with pytest.raises(argparse.ArgumentTypeError) as error:
            read(text)
        assert len(str(error.value)) < 200


@pytest.mark.parametrize('text', [
    '', ' 1', '+1', '-1', '1_0', '\u0663', 'nan', 'inf', '-inf', '1e', 'e5', '.', '1e400', '1e9999',
    '1e300', '0x1p3', '1' * 5000, '1\n',
])
def test_a_number_is_plain_and_finite(text):
    for read in (data.at_least(0, float), data.positive_float):
        with pytest.raises(argparse.ArgumentTypeError) as error:
            read(text)
        assert len(str(error.value)) < 200


def test_numbers_that_are_taken():
    for text, number in (('5', 5.0), ('0.02', 0.02), ('.5', 0.5), ('5.', 5.0), ('1E-3', 1e-3),
                         ('1e-05', 1e-5), ('2e+2', 200.0), ('0.30000000000000004', 0.1 + 0.2)):
        assert data.positive_float(text) == number
    assert data.at_least(1)('007') == 7
    assert data.at_least(1)('1000000000') == 10**9
    assert data.at_least(1, most=10**6)('1000000') == 10**6
    assert data.seed_number('9223372036854775807') == 2**63 - 1
    assert data.parse_list('24,36') == [24, 36] and data.parse_list('0', low=0) == [0]


def test_lists_and_ranges_are_bounded():
    assert len(data.parse_range('1-1000')) == 1000
    assert len(data.parse_list(','.join(['7'] * 1000))) == 1000
    for read, text in ((data.parse_range, '1-1001'), (data.parse_range, '1-999999'),
                       (data.parse_list, ','.join(['7'] * 1001)), (data.parse_list, ',' * 10**7)):
        with pytest.raises(argparse.ArgumentTypeError, match='thousand'):
            read(text)


def test_long_values_are_cut_in_messages():
    code, _, err = call(data, ['--task', 'x' * 10000])
    assert code == 2 and len(err) < 300 and 'x...' in err
    code, _, err = call(data, ['word '] * 3000)
    assert code == 2 and len(err) < 600


# -----------------------------------------------------------------------------
# the train split in two

@every_task
def test_fit_and_validation_are_the_two_parts_of_the_train_split(task):
    """Each instance is in exactly one of test, fit and validation. One in ten is for validation."""
    rng = np.random.default_rng(3)
    key, _ = task.draw(rng, rng.choice(task.hops, 20000))
    member = {split: in_split(task, key, split) for split in STREAMS}
    n_splits = member['test'].astype(int) + member['fit'] + member['validation']
    assert (n_splits == 1).all()
    assert (member['train'] == (member['fit'] | member['validation'])).all()

    different = np.unique(key, axis=0)
    trained = different[in_split(task, different, 'train')]
    if len(trained) > 2000:  # multiply with one digit has few
        share = in_split(task, trained, 'validation').mean()
        assert abs(share - 0.1) < 4 * (0.09 / len(trained)) ** 0.5


def test_batches_of_four_splits_hold_instances_of_these_splits():
    task = Cycle(8, [1, 2])
    for split in STREAMS:
        batch = sample_batch(task, 500, 7, 3, split)
        assert in_split(task, batch.instance.numpy(), split).all()
        assert torch.equal(batch.tokens, sample_batch(task, 500, 7, 3, split).tokens)
    assert len(set(STREAMS.values()) | {2, 3}) == 6  # [seed, 2] and [seed, 3] draw other things


def test_answers_at_once_by_hand():
    """Cycle 0 -> 1 -> 2 -> 3 -> 0, three hops from 0 and one from 2. Of three rows the last two
    answer at once."""
    task = Cycle(4, [1, 2, 3])
    rows = [task.encode(text) for text in (
        '1 2 3 0 k=3 0 1 2 3', '1 2 3 0 k=3 0 1 2 3', '1 2 3 0 k=1 2 3 _ _')]
    loss_mask = torch.zeros(3, 9, dtype=torch.bool)
    loss_mask[:2, 6:] = True
    loss_mask[2, 6] = True
    batch = Batch(torch.tensor(rows), loss_mask, torch.tensor([[8], [8], [6]]),
                  torch.tensor([3, 3, 1]), torch.zeros(3, 4), 6)
    before = batch.tokens.clone()
    at_once = answer_at_once(task, batch, slice(1, None))
    assert [task.decode(row) for row in at_once.tokens.tolist()] == [
        '1 2 3 0 k=3 0 1 2 3', '1 2 3 0 k=3 0 _ 3 _', '1 2 3 0 k=1 2 _ 3 _']
    assert at_once.loss_mask[:, 6:].tolist() == [[True] * 3, [False, True, False],
                                                 [False, True, False]]
    assert at_once.answer.tolist() == [[8], [7], [7]]
    assert torch.equal(batch.tokens, before)
    with pytest.raises(ValueError, match='answers of one token'):
        answer_at_once(Multiply(2), sample_batch(Multiply(2), 2, 0, 0), [0])
