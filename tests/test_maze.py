"""maze.py, against what plain loops read in the text of its mazes (plain_maze.py)."""

import functools
import random
import re
from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
from plain_maze import distances_from, read_maze
from plain_tasks import examples, is_near, is_refused, raw_examples

import maze
from data import sample_batch
from maze import GENERATORS, Maze


TASKS = [
    Maze((3,)),
    Maze((4,), format='grid'),
    Maze((2, 3, 4, 5), format='grid'),
    Maze((3, 5), 'wilson'),
    Maze((4,), 'wilson', no_separators=True),
    Maze((7,), 'wilson', format='grid'),
    Maze((4,), 'percolation'),
    Maze((3, 4), 'percolation', 0.5, 'grid'),
    Maze((2, 4), 'percolation', 0.3, no_separators=True),
]


def name_of(task):
    """Names a test by its task. pytest finds a name for other parameters."""
    if not isinstance(task, Maze):
        return None
    return f'{task.gen}-{task.format}-{task.grid}'


every_task = pytest.mark.parametrize('task', TASKS, ids=name_of)


def sample_texts(task, n, seed=0, split='train', hops=None):
    """(batch, the text of each of its n rows)."""
    batch = sample_batch(task, n, seed, 0, split, hops=hops)
    return batch, [text_of_row(task, batch, row) for row in range(n)]


def text_of_row(task, batch, row):
    """Without the padding."""
    end = int(batch.chain_start[row] + batch.loss_mask[row].sum())
    return task.decode(batch.tokens[row, :end].tolist())


def passages_of(text):
    """What makes a maze, whatever its ends and its format."""
    passages, *_ = read_maze(text)
    return frozenset(passages)


# -----------------------------------------------------------------------------
# what a batch holds is what its text says

@functools.cache
def read_batch(task):
    """(batch, rows): each row is (text, passages, origin, target, path)."""
    batch, texts = sample_texts(task, 150)
    return batch, [(text, *read_maze(text)) for text in texts]


@every_task
def test_all_cells_of_a_maze_are_connected_and_none_is_outside(task):
    batch, rows = read_batch(task)
    assert set(batch.hops.tolist()) == set(task.grid)
    for (_, passages, _, target, _), n in zip(rows, batch.hops.tolist(), strict=True):
        cells = {(row, column) for row in range(n) for column in range(n)}
        assert set(distances_from(passages, target)) == cells
        if task.gen == 'percolation':
            assert len(passages) >= n * n - 1
        else:
            assert len(passages) == n * n - 1  # a tree


@every_task
def test_the_path_is_a_shortest_one_from_the_origin_to_the_target(task):
    _, rows = read_batch(task)
    for _, passages, origin, target, path in rows:
        assert path[0] == origin != target and path[-1] == target
        assert all(frozenset(step) in passages for step in pairwise(path))
        assert len(path) == distances_from(passages, target)[origin] + 1


@every_task
def test_the_loss_is_on_the_path_and_its_end(task):
    batch, rows = read_batch(task)
    assert batch.tokens.size(1) <= task.block_size
    for i, (*_, path) in enumerate(rows):
        tokens = batch.tokens[i].tolist()
        start = int(batch.chain_start[i])
        end = start + len(path) + 1
        assert task.vocab[tokens[start - 1]] == '<PATH_START>'
        assert batch.loss_mask[i].tolist() == [start <= t < end for t in range(len(tokens))]
        assert set(tokens[end:]) <= {task.pad}


@every_task
def test_encode_is_the_inverse_of_decode(task):
    batch, rows = read_batch(task)
    for i, (text, *_) in enumerate(rows):
        tokens = task.encode(text)
        assert tokens == batch.tokens[i, :len(tokens)].tolist()


@every_task
def test_the_instance_knows_every_distance_and_every_open_side(task):
    batch, rows = read_batch(task)
    for (_, passages, _, target, _), (open_bits, distance) in zip(
            rows, batch.instance.tolist(), strict=True):
        expected_distance = distances_from(passages, target)
        for i, (row, column) in enumerate(task.cells.tolist()):
            assert distance[i] == expected_distance.get((row, column), -1)
            up, left = (row - 1, column), (row, column - 1)
            down, right = (row + 1, column), (row, column + 1)
            bits = 0
            for side, other in enumerate((up, left, down, right)):
                if frozenset(((row, column), other)) in passages:
                    bits += 2**side
            assert open_bits[i] == bits


@every_task
def test_the_oracle_finds_a_path_of_the_same_length_and_in_a_tree_the_same_path(task):
    batch, rows = read_batch(task)
    for i, (text, *_, path) in enumerate(rows):
        prompt = batch.tokens[i, :batch.chain_start[i]].tolist()
        chain = task.decode(task.oracle(prompt)).split()
        assert len(chain) == len(path) + 1
        if task.gen != 'percolation':
            assert chain == text.split()[-len(chain):]


def test_of_several_shortest_paths_each_is_shown_as_often():
    """A 2 x 2 maze without any wall, from one corner to the other one."""
    task = Maze((2,), 'percolation', 0.999, 'grid')
    passages = [1, 1, 1, 0, 0, 1, 0, 0]  # down, right of each cell
    origin, target = 0, 3
    n = 1000
    source = np.tile([*passages, origin, target], (n, 1))
    _, chain, *_ = task.write(np.random.default_rng(0), source, np.full(n, 2))
    counts = Counter(chain[:, 1].tolist())
    assert set(counts) == {1, 2} and is_near(counts[1], n, 1 / 2)


# -----------------------------------------------------------------------------
# the text

# a line that maze-dataset 1.4.2 printed
OF_MAZE_DATASET = (
    '<ADJLIST_START> (0,0) <--> (1,0) ; (2,0) <--> (2,1) ; (2,2) <--> (2,1) ; (1,1) <--> (0,1) ; '
    '(1,2) <--> (2,2) ; (1,1) <--> (1,2) ; (1,2) <--> (0,2) ; (2,0) <--> (1,0) ; <ADJLIST_END> '
    '<ORIGIN_START> (1,2) <ORIGIN_END> <TARGET_START> (0,0) <TARGET_END> '
    '<PATH_START> (1,2) (2,2) (2,1) (2,0) (1,0) (0,0) <PATH_END>')
ADJACENCY_LIST = (
    r'<ADJLIST_START> (CELL <--> CELL ; )+<ADJLIST_END> '
    r'<ORIGIN_START> CELL <ORIGIN_END> <TARGET_START> CELL <TARGET_END> '
    r'<PATH_START> (CELL )+<PATH_END>').replace('CELL', r'\(\d,\d\)')


def test_a_line_of_maze_dataset_is_in_our_words():
    task = Maze((3,))
    tokens = task.encode(OF_MAZE_DATASET)
    assert task.decode(tokens) == OF_MAZE_DATASET
    assert task.decode(task.oracle(tokens[:-7])) == ' '.join(OF_MAZE_DATASET.split()[-7:])


def test_adjacency_lists_have_the_form_of_maze_dataset():
    _, texts = sample_texts(Maze((3,)), 50)
    for text in (OF_MAZE_DATASET, *texts):
        assert re.fullmatch(ADJACENCY_LIST, text)


def test_no_separators_leaves_the_separators_out_and_nothing_else():
    _, texts = sample_texts(Maze((3,)), 50)
    _, bare = sample_texts(Maze((3,), no_separators=True), 50)
    assert bare == [text.replace('<--> ', '').replace('; ', '') for text in texts]


def test_every_passage_is_listed_in_both_directions():
    """Now in one, now in the other. A 3 x 3 lattice has 12 places for a passage."""
    _, texts = sample_texts(Maze((3,)), 50)
    pairs = set(re.findall(r'(\(\d,\d\)) <--> (\(\d,\d\))', ' '.join(texts)))
    assert len(pairs) == 24
    assert all((b, a) in pairs for a, b in pairs)


def test_a_smaller_maze_has_the_first_words_of_a_larger_one():
    first_nine = '(0,0) (0,1) (1,0) (1,1) (0,2) (2,0) (1,2) (2,1) (2,2)'.split()
    vocab = Maze((5,)).vocab
    assert vocab[:9] == Maze((3,)).vocab[:9] == first_nine
    assert vocab[:16] == Maze((4,)).vocab[:16]


def test_the_two_examples_in_the_docstring_are_one_maze():
    doc = ' '.join(maze.__doc__.replace('[', '').replace(']', '').split())
    grid = re.search(r'DR L .*? <PATH_END>', doc)[0]
    adjacency_list = re.search(r'<ADJLIST_START>.*? <PATH_END>', doc)[0]
    assert read_maze(grid) == read_maze(adjacency_list)
    for task, text in ((Maze((2,), format='grid'), grid), (Maze((2,)), adjacency_list)):
        tokens = task.encode(text)
        start = tokens.index(task.path_start) + 1
        assert task.oracle(tokens[:start]) == tokens[start:]


# -----------------------------------------------------------------------------
# generators

def spanning_trees(n):
    """Every spanning tree of the n x n lattice, as a set of passages."""
    passages = []
    for row in range(n):
        for column in range(n):
            if row + 1 < n:
                passages.append(frozenset(((row, column), (row + 1, column))))
            if column + 1 < n:
                passages.append(frozenset(((row, column), (row, column + 1))))
    trees = set()
    for chosen in combinations(passages, n * n - 1):
        if len(distances_from(chosen, (0, 0))) == n * n:
            trees.add(frozenset(chosen))
    return trees


def counts_of_mazes(task, n):
    """How often each different maze comes up in n draws, both splits together."""
    key, _ = task.draw(np.random.default_rng(5), np.full(n, task.grid[0]))
    assert set(np.unique(key)) <= {-1, 0}
    return np.unique(key, axis=0, return_counts=True)[1]


@pytest.mark.parametrize('grid', [(3,), (3, 4)])  # alone, and in the corner of a larger one
def test_wilson_draws_every_spanning_tree_about_equally_often(grid):
    n_trees = len(spanning_trees(3))
    assert len(spanning_trees(2)) == 4 and n_trees == 192
    n_draws = 200 * n_trees
    counts = counts_of_mazes(Maze(grid, 'wilson'), n_draws)
    assert len(counts) == n_trees
    chi_squared = ((counts - 200) ** 2 / 200).sum()  # with 191 degrees of freedom
    assert chi_squared < 191 + 4 * (2 * 191) ** 0.5


def test_wilson_repeats_few_trees_where_there_are_many():
    """A 4 x 4 lattice has 100,352."""
    assert len(counts_of_mazes(Maze((4,), 'wilson'), 20000)) > 17000


def depth_first_search(rng, n):
    """A random maze by the usual loop with a stack."""
    start = (rng.randrange(n), rng.randrange(n))
    visited = {start}
    stack = [start]
    passages = set()
    while stack:
        row, column = stack[-1]
        free = []
        for cell in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if min(cell) >= 0 and max(cell) < n and cell not in visited:
                free.append(cell)
        if not free:
            stack.pop()
            continue
        cell = rng.choice(free)
        passages.add(frozenset(((row, column), cell)))
        visited.add(cell)
        stack.append(cell)
    return frozenset(passages)


def counts_of_split(task, n, split):
    """{passages: how often this maze comes up} in a batch of n rows."""
    batch = sample_batch(task, n, 0, 0, split)
    _, first_row, counts = np.unique(
        batch.instance[:, 0].numpy(), axis=0, return_index=True, return_counts=True)
    counts_of = {}
    for row, count in zip(first_row.tolist(), counts.tolist(), strict=True):
        counts_of[passages_of(text_of_row(task, batch, row))] = count
    return counts_of


def test_dfs_draws_the_trees_of_a_plain_depth_first_search_as_often():
    """In each split."""
    rng = random.Random(0)
    plain = Counter(depth_first_search(rng, 3) for _ in range(9000))
    train = counts_of_split(Maze((3,)), 9000, 'train')
    test = counts_of_split(Maze((3,)), 1000, 'test')
    assert train.keys() | test.keys() == plain.keys() and len(plain) == 88
    for counts in (train, test):
        n = sum(counts.values())
        n_plain = sum(plain[tree] for tree in counts)
        for tree in counts:
            share = plain[tree] / n_plain
            assert abs(counts[tree] / n - share) < 5 * (share / min(n, n_plain)) ** 0.5


@pytest.mark.parametrize('p', [0.2, 0.6])
def test_percolation_opens_each_wall_of_a_tree_with_its_probability(p):
    """A 4 x 4 lattice has 24 places for a passage, and a tree takes 15 of them."""
    n = 1000
    _, texts = sample_texts(Maze((4,), 'percolation', p), n)
    n_opened = sum(len(passages_of(text)) - 15 for text in texts)
    assert is_near(n_opened, n * (24 - 15), p)


@pytest.mark.parametrize('gen', GENERATORS)
def test_no_maze_is_in_both_splits(gen):
    """Whatever its ends, its format and the other sizes of the task."""
    train = set()
    test = set()
    tasks = (
        Maze((3,), gen),
        Maze((3, 6), gen, format='grid'),
        Maze((2, 3, 4), gen, no_separators=True),
    )
    for task in tasks:
        for seed in range(2):
            train |= set(map(passages_of, sample_texts(task, 300, seed, hops=3)[1]))
            test |= set(map(passages_of, sample_texts(task, 100, seed, 'test', hops=3)[1]))
    assert train and test and not train & test
    if gen == 'dfs':
        assert len(train) + len(test) == 88  # all that there are


# -----------------------------------------------------------------------------
# valid, and chance

@pytest.fixture(scope='module')
def mazes():
    """(task, batch, true chains)."""
    task = Maze((4,), format='grid')
    batch = sample_batch(task, 200, 0, 0)
    return task, batch, batch.tokens[:, batch.prompt_len:]


def test_a_true_path_is_valid(mazes):
    task, batch, chain = mazes
    has_loss = batch.loss_mask[:, batch.prompt_len:]
    assert task.valid(batch, chain)[has_loss].all()


def test_a_path_that_does_not_begin_at_the_origin_is_not_valid(mazes):
    task, batch, chain = mazes
    wrong = chain.clone()
    wrong[:, 0] = (wrong[:, 0] + 1) % 16
    assert not task.valid(batch, wrong)[:, 0].any()


def test_a_step_to_the_same_cell_is_not_valid(mazes):
    task, batch, chain = mazes
    wrong = chain.clone()
    wrong[:, 1] = chain[:, 0]
    assert not task.valid(batch, wrong)[:, 1].any()


def test_an_end_before_the_target_is_not_valid_and_behind_it_anything_is(mazes):
    task, batch, chain = mazes
    wrong = chain.clone()
    wrong[:, 1] = task.path_end
    is_early = batch.loss_mask.sum(dim=1) > 3
    valid = task.valid(batch, wrong)[is_early]
    assert not valid[:, 1].any() and valid[:, 2:].all()


@pytest.mark.parametrize('task, measured', [
    (Maze((4,)), 0.416), (Maze((5,)), 0.331), (Maze((4,), 'wilson'), 0.285)], ids=name_of)
def test_chance_is_that_of_random_legal_steps(task, measured):
    """As measured elsewhere on 3,000 mazes of maze-dataset. No paper has published it."""
    assert abs(task.chance(task.grid[0]) - measured) < 0.03


# -----------------------------------------------------------------------------
# sizes that make no sense, and the command line

@pytest.mark.parametrize('make', [
    lambda: Maze((1,)),
    lambda: Maze((31,)),
    lambda: Maze((4,), 'prim'),
    lambda: Maze((4,), format='table'),
    lambda: Maze((4,), percolation=0.2),
    lambda: Maze((4,), 'percolation', 1.0),
    lambda: Maze((4,), 'percolation', 0.0),
    lambda: Maze((4,), format='grid', no_separators=True),
    lambda: sample_batch(Maze((3,)), 4, 0, 0, hops=4),
])
def test_mazes_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize('argv', [
    '--grid 1', '--grid 31', '--grid x', '--gen prim', '--percolation 0.5', '--format table',
    '--gen percolation --percolation 0', '--gen percolation --percolation 1',
    '--format grid --no_separators', '--hops 3', '--task maze'])
def test_a_bad_command_line_is_one_line_and_exit_code_2(argv):
    assert is_refused(maze, argv.split())


# Each line was checked by hand. If only these fail, the order of random draws (ours or numpy's)
# has changed: check them and paste them again.
PRINTED = pytest.mark.parametrize('argv, line', [
    ('--grid 2 --n 1',
     '<ADJLIST_START> (0,0) <--> (1,0) ; (1,1) <--> (1,0) ; (0,0) <--> (0,1) ; <ADJLIST_END> '
     '<ORIGIN_START> (1,1) <ORIGIN_END> <TARGET_START> (0,1) <TARGET_END> '
     '<PATH_START> (1,1) (1,0) (0,0) (0,1) <PATH_END>'),
    ('--grid 2 --n 1 --format grid',
     'DR L UR L (1,1) (0,1) <PATH_START> (1,1) (1,0) (0,0) (0,1) <PATH_END>'),
], ids=['adjlist', 'grid'])


@PRINTED
def test_raw_prints_exactly_this_line(argv, line):
    assert raw_examples(maze, argv.split()) == [line]


@PRINTED
def test_without_raw_the_line_has_brackets_an_answer_and_the_oracles(argv, line):
    _, [example] = examples(maze, argv.split())
    assert ' '.join(example.words) == line
    n_prompt = example.words.index('<PATH_START>') + 1
    assert example.carries_loss == [t >= n_prompt for t in range(len(example.words))]
    assert example.answer == example.oracle == example.words[n_prompt:]
