"""Task `countdown`: the Game of 24, and other targets, as verdicts and steps.

Numbers and a target are given. Each number is used once, with + - * /. Can the target be made? The
model judges one state at a time. Its answer is a verdict, and after a yes one good step:

    24 3 5 6 9 [yes] [9] [-] [3] [=] [6]      the next state is 24 5 6 6 _
    24 5 6 6 _ [yes] [6] [*] [5] [=] [30]     the next state is 24 6 30 _ _
    24 5 7 _ _ [no]

A search chains such steps, see search.py. The numbers are integers from 0 to 199 and only exact
quotients count, as in the Stream of Search (Gandhi et al. 2024, 2404.03683).

The file has three parts: moves and the exact solver, the task, the puzzles of the Game of 24.

    python countdown.py --n 3           # literal examples, with the oracle's answer
    python countdown.py --numbers 3 --raw
"""

from errors import one_line_errors  # first: see errors.py

import os
import stat
from pathlib import Path

import numpy as np
import torch

from data import (
    Task,
    at_least,
    parse_list,
    print_examples,
    random_permutations,
    require,
    sample_batch,
)


LARGEST_FILE = 10**6  # bytes of puzzles, about a hundred thousand
SOLVED_AT_ONCE = 2**14  # states. There are hundreds of moves below each, so more would take GiBs


# -----------------------------------------------------------------------------
# moves, and the exact solver

def legal_moves(states, largest=199):
    """Every move from states (N, m): two of the m numbers give way to a op b.

    Returns, for the M = 2 m (m - 1) moves of each state,
        child (N, M, m - 1)  the numbers left afterwards, sorted
        legal (N, M) bool    whether the rules allow the move
        step  (N, M, 4)      a, op, b, c with a op b = c and a >= b; op indexes + - * /
    Integers stay between 0 and `largest`, and only exact quotients are legal. Floats allow negative
    numbers and fractions, all of the Game of 24. There M is 3 m (m - 1), with b - a and b / a as
    the last two operations.
    """
    a, b, c, legal = results_of_pairs(states, largest)
    child = states_after(states, c)
    op = torch.arange(c.size(2), device=states.device).expand_as(c)
    a = a[..., None].expand_as(c)
    b = b[..., None].expand_as(c)
    step = torch.stack((a, op, b, c), dim=3)                     # (N, pairs, ops, 4)
    return child, legal.flatten(1), step.flatten(1, 2)


def results_of_pairs(states, largest=199):
    """What each pair of numbers of states (N, m) makes under each operation, see legal_moves.

    Returns a and b, the larger and the smaller number of each pair, (N, pairs); the results c and
    whether they are legal, both (N, pairs, ops).
    """
    # all pairs of numbers, made on the CPU: not every torch can make them on mps
    m = states.size(1)
    i, j = torch.triu_indices(m, m, 1).to(states.device)
    a = torch.maximum(states[:, i], states[:, j])                # (N, pairs)
    b = torch.minimum(states[:, i], states[:, j])
    if states.is_floating_point():
        c = torch.stack((a + b, a - b, a * b, a / b, b - a, b / a), dim=2)
        legal = c.isfinite()                                     # (N, pairs, ops)
    else:
        divides = (b > 0) & (a % b.clamp(min=1) == 0)
        quotient = torch.where(divides, a // b.clamp(min=1), largest + 1)
        c = torch.stack((a + b, a - b, a * b, quotient), dim=2)
        legal = c <= largest
    return a, b, c, legal


def states_after(states, c):
    """The state after each move: c (N, pairs, ops), and the numbers that its pair leaves alone.

    states (N, m). Returns (N, pairs * ops, m - 1), each state sorted.
    """
    others = others_of_each_pair(states.size(1), states.device)  # (pairs, m - 2)
    rest = states[:, others]                                     # (N, pairs, m - 2)
    rest = rest[:, :, None].expand(-1, -1, c.size(2), -1)        # (N, pairs, ops, m - 2)
    child = torch.cat((rest, c[..., None]), dim=3).sort(dim=3).values
    return child.flatten(1, 2)


def others_of_each_pair(m, device):
    """For each pair i < j of 0 .. m-1, the m - 2 other numbers: (pairs, m - 2)."""
    others = []
    for i in range(m):
        for j in range(i + 1, m):
            others.append([k for k in range(m) if k != i and k != j])
    return torch.tensor(others, dtype=torch.long, device=device)


def first_of_each(states, allowed):
    """allowed (N, M), without those states (N, M, m) that repeat an allowed one further left."""
    if states.is_floating_point():
        states = (states * 2**20).round().long()
    multiplier = torch.full((states.size(2),), 0x1E3779B97F4A7C15, device=states.device).cumprod(0)
    hashes = (states * multiplier).sum(dim=2)                    # (N, M), modulo 2^64
    hashes = hashes.masked_fill(~allowed, torch.iinfo(torch.int64).max)

    # In order, equal states stand beside one another, the leftmost first.
    hashes, order = hashes.sort(dim=1, stable=True)
    is_first = torch.ones_like(allowed)
    is_first[:, 1:] = hashes[:, 1:] != hashes[:, :-1]
    return allowed & torch.empty_like(allowed).scatter_(1, order, is_first)


def random_move(states, generator):
    """The states (N, m - 1) after a random legal move from states (N, m).

    Each of the states that a move can lead to is equally likely.
    """
    child, legal, _ = legal_moves(states)
    noise = torch.rand(legal.shape, generator=generator, device=states.device)
    move = noise.masked_fill(~first_of_each(child, legal), -1).argmax(dim=1)
    return child[torch.arange(len(states), device=states.device), move]


def count_solutions(states, target, largest=199):
    """How many sequences of moves take each state (N, m) to its target (N,): (N,) int64.

    Moves that leave the same numbers count as one.
    """
    if states.size(1) == 1:
        return reaches(states[:, 0], target).long()
    if len(states) > SOLVED_AT_ONCE:
        parts = zip(states.split(SOLVED_AT_ONCE), target.split(SOLVED_AT_ONCE), strict=True)
        return torch.cat([count_solutions(*part, largest) for part in parts])
    child, legal, _ = legal_moves(states, largest)
    if states.size(1) == 2:
        return (legal & reaches(child[:, :, 0], target[:, None])).any(dim=1).long()

    legal = first_of_each(child, legal)
    child_target = target[:, None].expand_as(legal)[legal]
    solutions = torch.zeros_like(legal, dtype=torch.long)        # (N, M) below each child
    solutions[legal] = count_solutions(child[legal], child_target, largest)
    return solutions.sum(dim=1)


def can_reach(states, target, largest=199):
    """Whether moves take each state (N, m) of integers to its target (N,): (N,) bool.

    As count_solutions(...) > 0, but faster. Nothing is counted. And with three numbers it meets in
    the middle: is there a last move that makes the target of a pair's result and the third number?
    """
    m = states.size(1)
    if m == 1:
        return states[:, 0] == target
    if m == 2:
        return is_one_move(states[:, 0], states[:, 1], target, largest)
    if len(states) > SOLVED_AT_ONCE:
        parts = zip(states.split(SOLVED_AT_ONCE), target.split(SOLVED_AT_ONCE), strict=True)
        return torch.cat([can_reach(*part, largest) for part in parts])

    states = states.int()  # half the memory of int64, and the memory is what takes the time
    _, _, c, legal = results_of_pairs(states, largest)           # (N, pairs, ops)
    if m == 3:
        third = states.flip(1)[:, :, None]  # of the pairs (0, 1), (0, 2), (1, 2): 2, 1, 0
        made = is_one_move(third, c, target[:, None, None], largest)
        return (made & legal).flatten(1).any(dim=1)

    child = states_after(states, c)
    legal = first_of_each(child, legal.flatten(1))
    child_target = target[:, None].expand_as(legal)[legal]
    made = torch.zeros_like(legal)                               # (N, M)
    made[legal] = can_reach(child[legal], child_target, largest)
    return made.any(dim=1)


def is_one_move(a, b, target, largest=199):
    """Whether a legal move makes the target of the integers a and b. bool, of their shape."""
    made = (a + b == target) | ((a - b).abs() == target) | (a * b == target)
    made |= (b > 0) & (a == b * target)
    made |= (a > 0) & (b == a * target)
    return made & (target <= largest)


OPERATIONS = '+-*/'


def step_as_text(step):
    """A step (a, op, b, c) of legal_moves: '8 - 3 = 5'."""
    a, op, b, c = step.tolist()
    return f'{a} {OPERATIONS[op]} {b} = {c}'


def find_solution(numbers, target):
    """Steps that make the target of a list of integers, as text. [] if there are none."""
    states = torch.tensor([sorted(numbers)])                     # (1, m)
    steps = []
    while states.size(1) > 1:
        child, legal, step = legal_moves(states)                 # (1, M, m - 1)
        child = child[0]
        good = legal[0] & can_reach(child, torch.full((len(child),), target))
        if not good.any():
            return []
        first = good.int().argmax()
        steps.append(step_as_text(step[0, first]))
        states = child[first][None]
    return steps


def reaches(x, target):
    return (x - target).abs() < 1e-6  # a tolerance, for fractions


# -----------------------------------------------------------------------------
# the task

class Countdown(Task):
    """Can the target be made from the numbers? A verdict and, after a yes, one good step.

    The answer is the verdict, and it comes first. `hops` is how many steps remain, so a state has
    hops + 1 numbers. Several steps may be good: a random one of them is shown, and any is correct.

    States are numbers from 1 to 13 after random moves. Half of the time the target is what more
    random moves make of them, if that is an allowed target. Else it is any allowed target.

    Held out: whole targets, 24 always among them. No state of such a target is ever trained on.
    `instance`: the target, then the numbers, -1 where there is none, (B, 1 + numbers).
    """
    name = 'countdown'
    flags = {
        'numbers': dict(type=at_least(1), help='how many numbers, 2 to 5'),
        'holdout_targets': dict(type=parse_list, metavar='T,T',
                                help='targets never trained on, 24 and others'),
    }
    answer_len = 1          # the verdict
    longest_chain = 6       # yes, and a step
    answer_first = True     # it comes before the step
    largest = 199           # numbers are the tokens 0 .. 199
    targets = range(10, 101)

    def __init__(self, numbers=4, holdout_targets=(24,)):
        require(2 <= numbers <= 5, 'countdown takes from 2 to 5 numbers (six take seconds a batch '
                                   f'to solve), got {numbers}')
        self.numbers = numbers
        self.holdout_targets = sorted({24, *holdout_targets})
        require(set(self.holdout_targets) < set(self.targets),
                'holdout_targets must be some of 10 to 100, and not all of them')
        self.hops = list(range(1, numbers))
        self.test_share = 0.01 * len(self.holdout_targets)

        self.n_symbols = self.largest + 1
        numbers_as_words = [str(i) for i in range(self.n_symbols)]
        self.vocab = numbers_as_words + [*OPERATIONS, '=', 'yes', 'no', '_']
        self.plus = self.vocab.index('+')
        self.equals = self.vocab.index('=')
        self.yes = self.vocab.index('yes')
        self.no = self.vocab.index('no')
        self.pad = self.vocab.index('_')
        self.block_size = 1 + numbers + 6
        self.share_of_yes = {}  # hops -> share of solvable test states, filled by chance()

    draw_size = 130  # see Task

    @property
    def write_size(self):
        """Of states with all numbers, each with all of its moves."""
        return (200, 300, 700, 2500)[self.numbers - 2]

    def in_split(self, key, split):
        return np.isin(key[:, 0], self.holdout_targets) == (split == 'test')

    def draw(self, rng, hops):
        B = len(hops)
        numbers = rng.integers(1, 14, (B, self.numbers))
        state = np.full((B, self.numbers), -1)
        for m in range(self.numbers, 0, -1):
            # rows that ask about a state of m numbers keep this one
            rows = hops == m - 1
            state[rows, :m] = np.sort(numbers[rows], axis=1)

            # then any legal operation on two random numbers
            if m > 1:
                numbers = np.take_along_axis(numbers, random_permutations(rng, B, m), axis=1)
                child, legal, _ = legal_moves(torch.from_numpy(numbers[:, :2]))
                chosen = (rng.random(legal.shape) * legal.numpy()).argmax(axis=1)
                result = child[:, :, 0].numpy()[np.arange(B), chosen]
                numbers = np.column_stack((result, numbers[:, 2:]))

        any_target = rng.integers(self.targets[0], self.targets[-1] + 1, B)
        reached = numbers[:, 0]
        use_reached = (rng.random(B) < 0.5) & np.isin(reached, self.targets)
        target = np.where(use_reached, reached, any_target)[:, None]
        return target, np.concatenate((target, state), axis=1)

    def write(self, rng, source, hops):
        source = torch.from_numpy(source)
        prompt = torch.full((len(hops), 1 + self.numbers), self.pad)
        chain = torch.full((len(hops), 6), self.pad)

        # states with equally many numbers are solved together
        for k in sorted(set(hops.tolist())):
            rows = torch.from_numpy(np.flatnonzero(hops == k))
            target = source[rows, 0]
            states = source[rows, 1:k + 2]
            step, good = self.good_steps(target, states)
            solvable = good.any(dim=1)

            chosen = (torch.from_numpy(rng.random(good.shape)) * good).argmax(dim=1)
            shown = step[torch.arange(len(rows)), chosen]
            chain[rows, 0] = torch.where(solvable, self.yes, self.no)
            chain[rows, 1:] = torch.where(solvable[:, None], shown, self.pad)
            prompt[rows] = self.write_prompt(target, states)

        chain_len = np.where(chain[:, 0] == self.yes, 6, 1)
        return prompt.numpy(), chain.numpy(), chain_len, source.numpy()

    def write_prompt(self, target, states):
        """target (N,), states (N, m) sorted -> prompts (N, 1 + numbers)"""
        padding = states.new_full((len(states), self.numbers - states.size(1)), self.pad)
        return torch.cat((target[:, None], states, padding), dim=1)

    def read(self, prompt):
        words = [token for token in prompt if token != self.pad]
        require(3 <= len(words) <= 1 + self.numbers and max(words) < self.n_symbols,
                f'it needs a target and 2 to {self.numbers} numbers')
        target, *numbers = words
        require(target in self.targets, 'targets go from 10 to 100')
        padding = [-1] * (self.numbers - len(numbers))
        return np.array([[target, *sorted(numbers), *padding]]), np.array([len(numbers) - 1])

    def good_steps(self, target, states):
        """Every move from states (N, m) as tokens a op b = c, (N, M, 5), and which of them are
        good, (N, M) bool: the target (N,) can still be made. Of equal moves only one is good."""
        child, legal, move = legal_moves(states)
        legal = first_of_each(child, legal)
        child_target = target[:, None].expand_as(legal)[legal]
        good = torch.zeros_like(legal)
        good[legal] = can_reach(child[legal], child_target)

        a, op, b, c = move.unbind(dim=2)
        equals = torch.full_like(a, self.equals)
        return torch.stack((a, self.plus + op, b, equals, c), dim=2), good

    def apply_step(self, states, step):
        """The numbers left (N, m - 1) after steps (N, 5) that a model wrote in states (N, m), and
        which of these steps are legal and right, (N,) bool. Tokens of a step: a op b = c."""
        child, legal, moves = legal_moves(states)
        a, op, b, equals, c = step.unbind(dim=1)
        written = torch.stack((a, op - self.plus, b, c), dim=1)              # (N, 4)
        same = (moves == written[:, None]).all(dim=2)
        same &= legal & (equals == self.equals)[:, None]                     # (N, M)
        row = torch.arange(len(states), device=states.device)
        return child[row, same.int().argmax(dim=1)], same.any(dim=1)

    def check_steps(self, batch, chain):
        """For rows of one hop count: is the step after the verdict legal, and can the target be
        made after it? Two (B,) bool."""
        k = int(batch.hops[0])
        target = batch.instance[:, 0]
        states = batch.instance[:, 1:k + 2]
        child, legal = self.apply_step(states, chain[:, 1:6])
        return legal, legal & can_reach(child, target)

    def valid(self, batch, chain):
        """The verdict must be true and the step legal. After a true 'no' anything is valid."""
        truth = batch.tokens[:, batch.prompt_len]
        verdict = (chain[:, 0] == truth)[:, None]
        if chain.size(1) == 1:  # a batch of 'no's, or of verdicts alone
            return verdict
        legal, _ = self.check_steps(batch, chain)
        step = (legal | (truth == self.no))[:, None].expand(-1, chain.size(1) - 1)
        return torch.cat((verdict, step), dim=1)

    def correct(self, batch, output):
        """Any step is correct after which the target can still be made."""
        P = batch.prompt_len
        correct = output == batch.tokens
        if output.size(1) > P + 1:
            _, good = self.check_steps(batch, output[:, P:])
            nothing_asked = batch.tokens[:, P] == self.no
            correct[:, P + 1:] = (good | nothing_asked)[:, None]
        return correct

    def oracle(self, prompt):
        numbers = [token for token in prompt[1:] if token != self.pad]
        step, good = self.good_steps(torch.tensor(prompt[:1]), torch.tensor([numbers]))
        if not good.any():
            return [self.no]
        return [self.yes, *step[good][0].tolist()]

    def chance(self, hops):
        """The share of the more frequent verdict, measured on 2,000 test states."""
        if hops not in self.share_of_yes:
            batch = sample_batch(self, 2000, 0, 0, 'test', 'direct', int(hops))
            is_yes = batch.tokens[:, -1] == self.yes
            self.share_of_yes[hops] = is_yes.double().mean().item()
        return max(self.share_of_yes[hops], 1 - self.share_of_yes[hops])


# -----------------------------------------------------------------------------
# puzzles

def read_puzzles(path, n):
    """The puzzles of a file, (P, n) sorted: n integers from 1 to 13 on each line.

    Raises ValueError that names the first line which is something else, and for what is no plain
    file, such as a pipe, or too large to be one of puzzles. OSError if it cannot be read.
    """
    facts = os.stat(path)
    require(stat.S_ISREG(facts.st_mode), f'--puzzles reads files, and {path} is none')
    require(facts.st_size <= LARGEST_FILE, f'{path} has {facts.st_size:,} bytes, a file of puzzles '
                                           f'at most {LARGEST_FILE:,}')
    text = Path(path).read_text(encoding='utf-8', errors='replace')
    puzzles = []
    for number, line in enumerate(text.rstrip().splitlines(), 1):
        words = line.split(maxsplit=n)
        is_puzzle = len(words) == n
        for word in words:
            is_puzzle = is_puzzle and word.isascii() and word.isdigit() and 1 <= int(word) <= 13
        require(is_puzzle, f'{path}, line {number}: expected {n} integers from 1 to 13, got '
                           f'{" ".join(words)[:40]!r}')
        puzzles.append(sorted(map(int, words)))
    require(puzzles, f'{path} holds no puzzle')
    return torch.tensor(puzzles)


def multisets(n):
    """Every multiset of n numbers from 1 to 13, (P, n). For n > 4 a fixed 200 of them."""
    puzzles = torch.combinations(torch.arange(1, 14), n, with_replacement=True)
    if n > 4:
        generator = torch.Generator().manual_seed(0)
        puzzles = puzzles[torch.randperm(len(puzzles), generator=generator)[:200]]
    return puzzles


def all_puzzles(n, target):
    """Every multiset of n numbers from 1 to 13 that makes the target, (P, n).

    Puzzles that need fractions are among them: they come last. The others are sorted by their
    number of solutions, the hardest first. For n > 4 they are those of a fixed 200 multisets.
    Raises ValueError if there are none.
    """
    puzzles = multisets(n)
    targets = torch.full((len(puzzles),), target)
    with_integers = count_solutions(puzzles, targets)
    solvable = count_solutions(puzzles.double(), targets) > 0
    require(solvable.any(), f'no {n} numbers from 1 to 13 make {target}')
    difficulty = torch.where(with_integers > 0, with_integers, 10**9)
    return puzzles[solvable][difficulty[solvable].argsort(stable=True)]


def main(argv=None):
    print_examples((Countdown,), __doc__, argv)


if __name__ == '__main__':
    with one_line_errors():
        main()
