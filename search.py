"""What does search buy a tiny model?

Tree of Thoughts (Yao et al. 2023, 2305.10601) took GPT-4 from 4% to 74% on the Game of 24 by
searching. Here a model of 0.6 million parameters searches. train_cot.py trained it from scratch on
the task `countdown`, on other targets than 24. It plays two parts. Its *verdict* says whether the
target can still be made from some numbers. Its *policy* writes a step.

1. best-of-k, without search: sample k chains and choose one. Choose it by majority, by its
   log-probability, or by the sum of the verdicts on its states. The oracle finds a right chain if
   there is one (pass@k, unbiased as in Chen et al. 2021). The rules of the game say what is right,
   so on countdown the oracle is a method. On other tasks it is a ceiling. One at a time: the same,
   but stop at the first right chain, as depth-first search stops when it has solved the puzzle.
2. beam, ToT's breadth-first search: of all states one move away, keep the b with the best verdict.
   any-of-b: one of the last b states makes the target (ToT's measure). top-1: the best one does.
3. dfs, ToT's depth-first search: best child first, and back where a branch ends, until the puzzle
   is solved or --budget nodes are expanded. Pruned: drop states whose verdict is below --prune.
4. best-first: of all open states, wherever they stand in the tree, expand the best one next.
5. Moves: --propose all lists every legal move, and the code does the arithmetic. --propose model
   samples moves from the model, results included, and the code drops those that are wrong.
6. Controls without a model, on the same puzzles: random rollouts, beam on random values, dfs in
   random order (without a budget it is exhaustive search), and beam, dfs and best-first on the
   'mult' heuristic of Stream of Search (Gandhi et al. 2024, 2404.03683). All but the rollouts are
   means of ten runs.

Uninformed search alone beats GPT-4's 4%. So what counts is the margin over search without a model
at equal cost: random order, with the budget at which it expands as many nodes (or looks at as many
states) as the beam, on average over the puzzles.

Departure: numbers stay integers from 0 to 199, as in Stream of Search. 16 of the 1,362 puzzles need
fractions and count as failed.

    python search.py                                    # everything, on all Game-of-24 puzzles
    python search.py --puzzles results/tot-100.txt      # the hundred on which GPT-4 was measured
    python search.py --show "4 9 10 13"                 # the tree of one puzzle, as text and figure
    python search.py --method calibration               # is a verdict of 0.9 right 9 times in 10?
    python search.py --method budgets                   # how many nodes does a puzzle deserve?
    python search.py --ckpt out/train_cot-hops_4/ckpt.pt --k 64   # best-of-k on another task
    torchrun --standalone --nproc_per_node=2 search.py --device cuda

The last line:  final method=beam b=5 ... target=24 n_test=1362 ... any_of_b=... top1=... flops=...
Results: docs/search.md
"""

from errors import one_line_errors  # first: see errors.py

import csv
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

import budgets
import calibration
import common
import memory
import plots
import tree
from countdown import (
    Countdown,
    all_puzzles,
    can_reach,
    count_solutions,
    find_solution,
    first_of_each,
    legal_moves,
    random_move,
    read_puzzles,
)
from data import (
    CVPR,
    Cycle,
    Multiply,
    Parser,
    Star,
    Task,
    at_least,
    require,
    sample_batch,
)
from model import GPT, last_position
from profiles import Profiles


TASKS = (Cycle, CVPR, Multiply, Star, Countdown, Profiles)
DEFAULT_CKPT = 'out/train_cot-task_countdown/ckpt.pt'
MOVES = {'all': 'all legal moves', 'model': "the model's moves"}
SEARCHES = ('beam', 'dfs', 'best_first')  # the values of --method that --propose changes

# What a search costs: the columns of every tensor of costs (P, 5), a row for each puzzle. The table
# of results shows the means over puzzles.
#     expansions   nodes whose moves were listed or sampled
#     states       states looked at: every child that was valued or checked
#     calls        forward passes, one after the other
#     tokens       tokens in these passes
#     flops        their floating-point operations
COSTS = ('expansions', 'states', 'calls', 'tokens', 'flops')


# -----------------------------------------------------------------------------
# arguments

def parse_args(argv):
    parser = Parser(__doc__)
    parser.add_argument('--ckpt', default=DEFAULT_CKPT,
        help='checkpoint of train_cot.py, train_rl.py or train_puzzles.py')
    parser.add_argument('--method', choices=('all', 'best_of_k', 'beam', 'dfs', 'best_first',
                                             'baselines', 'calibration', 'budgets'),
        help='(default: all; other tasks than countdown: best_of_k)')

    add = parser.add_argument_group('puzzles (countdown)').add_argument
    add('--puzzles', metavar='FILE',
        help='four integers from 1 to 13 a line (default: all solvable ones)')
    add('--target', type=at_least(0), default=24, help='one that the model was not trained on')
    add('--show', metavar='NUMBERS', nargs='+',
        help='show how a beam goes through one puzzle: "4 9 10 13"')

    add = parser.add_argument_group('search (countdown)').add_argument
    add('--b', type=at_least(1), default=5, help='beam width')
    add('--propose', choices=('all', 'model'), default='all',
        help='moves of a search: all legal ones, or sampled from the model')
    add('--samples', type=at_least(1), default=16,
        help='moves sampled in a state with --propose model')
    add('--prune', type=at_least(0, float, most=1), default=0.01,
        help='dfs drops states with a smaller probability of yes')
    add('--budget', type=at_least(1), default=100,
        help='dfs and best-first: nodes expanded at most')

    add = parser.add_argument_group('sampling (any task)').add_argument
    add('--k', type=at_least(1), default=100, help='best-of-k: chains sampled')
    add('--temperature', type=at_least(0.01, float), default=1.0, help='of everything sampled')
    add('--n_test', type=at_least(1), default=500,
        help='other tasks than countdown: held-out instances')
    parser.add_argument('--verbose', action='store_true',
        help='print the row of every setting, not only the few that matter')
    common.add_run_args(parser, trains=False)
    args = common.parse_args(parser, argv, 'search')
    if args.show is not None:  # with quotes or without
        args.show = ' '.join(args.show)
    return args


def fill_in(args, task, mode):
    """Choose the method if it was left out. mode: the checkpoint's, 'cot' or 'direct'.

    Raises ValueError for what makes no sense with this checkpoint.
    """
    is_countdown = isinstance(task, Countdown)
    require(is_countdown or args.show is None,
            f'--show takes a checkpoint of countdown, and {args.ckpt} is of {task.name}')
    require(args.show is None or (args.method, args.puzzles, args.propose) == (None, None, 'all'),
            '--show is of one puzzle and all legal moves: leave --method, --puzzles and --propose '
            'out')
    if args.method in ('calibration', 'budgets'):
        require(args.puzzles is None,
                f'--method {args.method} takes all puzzles: leave --puzzles out')
        require(args.propose == 'all', f'--method {args.method} takes all legal moves')
        require(is_countdown and task.numbers > 2, f'--method {args.method} needs a checkpoint of '
                'countdown with at least 3 numbers')
    if args.show is not None:
        args.method = 'beam'
    elif args.method is None:
        args.method = 'all' if is_countdown else 'best_of_k'

    if not is_countdown:
        require(args.method == 'best_of_k' and not args.puzzles,
                f'{args.ckpt} is of {task.name}, which has no states to search: '
                '--method best_of_k, and no --puzzles')
        return
    trained_on = set(task.targets) - set(task.holdout_targets)
    require(args.target not in trained_on,
            f'{args.ckpt} was trained on target {args.target}: search one that it never saw, '
            f'{" or ".join(map(str, task.holdout_targets))}')
    require(mode == 'cot', f'{args.ckpt} writes no steps; train with --mode cot')
    require(args.target <= task.largest, f'--target is at most {task.largest}')


CURES = {
    'model': 'the model',
    'data': '--n_test',
    'chains': '--k',
    'votes': '--k',
    'beams': '--b',
    'sampled moves': '--samples',
}


def memory_phases(args, task, config, n_puzzles):
    """What best-of-k, a beam and sampled moves take: see memory.py."""
    model = 4 * memory.FLOAT * memory.n_params(config)  # with the optimizer of its checkpoint
    n_questions = n_puzzles or args.n_test
    chains = {'model': model, 'votes': n_questions * args.k * (9 * args.k + 40)}
    if n_puzzles is None:
        rows = max(20000, args.k)  # chains at a time
        chains['data'] = memory.drawing_bytes(task, args.n_test, 'test')
        chains['chains'] = (memory.decoding_bytes(config, rows, task.block_size, rows // args.k)
                            + 8 * rows * task.write_size // 3)
        return [chains]

    # every state has `moves` moves, and a number for each move is 8 bytes
    n = task.numbers
    moves = 2 * n * (n - 1)
    chains['chains'] = 8 * 20 * moves * n_questions * args.k
    longest_beam = min(args.b, moves * 2 * (n - 1) * max(1, n - 2))
    runs = 1 if args.method in SEARCHES else 10  # controls are repeated
    states = n_questions * runs * longest_beam
    beams = {'model': model, 'beams': 8 * 4 * moves * states + 2 * n_questions * runs * args.b}
    phases = {
        'best_of_k': [chains],
        'beam': [beams],
        'dfs': [],
        'best_first': [],
        'baselines': [chains, beams],
        'calibration': [],
        'budgets': [beams],
        'all': [chains, beams],
    }[args.method]

    # moves that the model samples: they are compared with each other, in each state
    by_model = args.propose == 'model' and args.method in SEARCHES
    if by_model or args.method == 'all':
        states = n_questions * (longest_beam if args.method in ('beam', 'all') else 1)
        of_a_state = args.samples * (8 * 20 * moves + 4 * args.samples)
        phases.append({'model': model, 'sampled moves': states * of_a_state})
    return phases or [{'model': model}]


def load_puzzles(args, task):
    """The puzzles of --puzzles or --show, or all that can be solved: (P, n)."""
    if args.show is not None:
        words = args.show.split()
        are_numbers = all(re.fullmatch('[1-9]|1[0-3]', word) for word in words)
        require(are_numbers and len(words) == task.numbers,
                f'--show takes {task.numbers} integers from 1 to 13, got {args.show[:40]!r}')
        return torch.tensor([sorted(map(int, words))])
    if not args.puzzles:
        return all_puzzles(task.numbers, args.target)
    try:
        return read_puzzles(args.puzzles, task.numbers)
    except OSError as error:
        raise ValueError(f'cannot read --puzzles {args.puzzles}: {error.strerror}') from error


def require_unseen(args, state, puzzles):
    """Raise ValueError if the checkpoint's model may have played one of these puzzles (P, n).

    train_puzzles.py trains on all puzzles of its targets but those that it holds out.
    """
    settings = state['args']
    if settings['script'] != 'train_puzzles':
        return
    trained_on = settings.get('targets')
    held_out = state.get('held_out')
    require(isinstance(trained_on, list) and isinstance(held_out, list),
            f'{args.ckpt} does not say which puzzles it held out')
    if args.target not in trained_on:
        return
    require(args.target == settings.get('target'),
            f'{args.ckpt} was trained on all puzzles of target {args.target}')
    held_out = set(map(str, held_out))
    for puzzle in puzzles.tolist():
        require(str(puzzle) in held_out,
                f'{args.ckpt} may have been trained on {" ".join(map(str, puzzle))}: --puzzles '
                'takes those that it held out, such as results/tot-100.txt')


# -----------------------------------------------------------------------------
# what every search needs
#
# All puzzles are searched at once. Their states stand in one tensor (N, m), m numbers each, and
# `owner` (N,) says to which puzzle each state belongs.

@dataclass
class Solver:
    """A model, and how to ask it."""
    model: GPT
    task: Task
    run: common.Run
    generator: torch.Generator  # of everything random
    temperature: float = 1.0
    target: int = 24            # countdown
    samples: int = 16           # countdown: moves sampled in a state


def add_cost(cost, owner, calls=0, **amounts):
    """Charge the puzzles for N states. cost (P, 5) is changed; owner (N,).

    amounts: {cost: what each state costs, a number or (N,)}. But a forward pass serves all states
    of a puzzle, so `calls` counts once for each puzzle.
    """
    cost[owner.unique(), COSTS.index('calls')] += calls
    for name, amount in amounts.items():
        amount = torch.as_tensor(amount, device=owner.device).expand(len(owner))
        cost[:, COSTS.index(name)].index_add_(0, owner, amount)


def unique_rows(x):
    """The different rows of x (N, m), sorted, and which of them each row of x is, (N,)."""
    device = x.device
    if device.type == 'mps':  # torch 2.5 does not compare rows there
        x = x.cpu()
    rows, inverse = x.unique(dim=0, return_inverse=True)
    return rows.to(device), inverse.to(device)


def log_odds(solver, states):
    """The model's verdict on states (N, m): log-odds of 'yes', (N,). Equal states are computed
    once."""
    task = solver.task
    unique, inverse = unique_rows(states)
    target = unique.new_full((len(unique),), solver.target)
    prompt = task.write_prompt(target, unique)

    parts = []
    with solver.run.autocast:
        for part in prompt.split(4096):
            parts.append(solver.model(part, last_position(part)))
    logits = torch.cat(parts).float()
    return (logits[:, task.yes] - logits[:, task.no])[inverse]


def write_steps(solver, states, samples):
    """Let the model write `samples` steps in each state (N, m), after the verdict 'yes'.

    Returns child (N * samples, m - 1), the numbers left after each step, legal (N * samples,) bool,
    whether the step is allowed and its result right, and its log-probability (N * samples,).
    """
    task = solver.task
    target = states.new_full((len(states),), solver.target)
    yes = states.new_full((len(states), 1), task.yes)
    prompt = torch.cat((task.write_prompt(target, states), yes), dim=1)

    steps = []
    logps = []
    with solver.run.autocast:
        for part in prompt.split(max(1, 8192 // samples)):
            output, logp = solver.model.generate(
                part, 5, solver.temperature, generator=solver.generator, samples=samples,
                return_logp=True)
            steps.append(output[:, -5:])
            logps.append(logp)
    states = states.repeat_interleave(samples, dim=0)
    child, legal = task.apply_step(states, torch.cat(steps))
    return child, legal, torch.cat(logps).sum(dim=1)


def expand(solver, states, owner, moves, cost):
    """The states one move away from states (N, m).

    Returns child (N, M, m - 1) and legal (N, M) bool: allowed, and the first with these numbers.
    moves: 'all' lists every legal move, 'model' samples moves.
    """
    add_cost(cost, owner, expansions=1)
    if moves == 'all':
        child, legal, _ = legal_moves(states)
    else:
        child, legal, _ = write_steps(solver, states, solver.samples)
        child = child.unflatten(0, (len(states), solver.samples))
        legal = legal.unflatten(0, (len(states), solver.samples))
        # a prompt with its verdict, and four tokens more for each sample
        new_tokens = 4 * solver.samples
        tokens = solver.task.numbers + 2 + new_tokens
        flops = solver.model.flops(tokens, 1 + new_tokens, solver.task.block_size)
        add_cost(cost, owner, calls=5, tokens=tokens, flops=flops)
    return child, first_of_each(child, legal)


# -----------------------------------------------------------------------------
# value functions: which states (N, m) look best? (N,), the higher the better
#
# They get `owner` and `cost` as well, and charge for what they compute.

def verdict(solver, states, owner, cost):
    """The model's log-odds of 'yes'. Each state is paid for, also if another one is equal."""
    charge_verdicts(solver, owner, cost)
    return log_odds(solver, states)


def charge_verdicts(solver, owner, cost):
    """The cost of one verdict for each of the states of owner (N,)."""
    n = 1 + solver.task.numbers  # tokens of the prompt
    add_cost(cost, owner, calls=1, tokens=n, flops=solver.model.flops(n, 1, n))


def mult_value(solver, states, owner, cost):
    """Stream of Search's 'mult', negated: the sum of the numbers' distances to the nearest factor
    of the target other than 1. A random number below 1 breaks ties."""
    factors = [f for f in range(2, solver.target + 1) if solver.target % f == 0]
    factors = torch.tensor(factors or [0], device=states.device)
    distance = (states[:, :, None] - factors).abs().amin(dim=2)  # (N, m)
    return -distance.sum(dim=1) + random_value(solver, states, owner, cost)


def random_value(solver, states, owner, cost):
    return torch.rand(len(states), generator=solver.generator, device=states.device)


# -----------------------------------------------------------------------------
# tree search

def beam_search(solver, puzzles, width, value, moves='all'):
    """Tree of Thoughts' breadth-first search, on all puzzles (P, n) at once.

    At every depth: list the moves of all states on the beam, value the children, and keep the best
    `width` of each puzzle. Returns solved (P, width) bool, by the rank of the last state, and cost
    (P, 5).
    """
    P, n = puzzles.shape
    device = puzzles.device
    cost = puzzles.new_zeros(P, len(COSTS))
    states = puzzles                                   # (N, m) the beams of all puzzles
    owner = torch.arange(P, device=device)             # (N,) the puzzle of each state
    rank = torch.zeros_like(owner)                     # (N,) its place on the beam of its puzzle

    for _ in range(n - 2):
        # One row (puzzle, numbers) for each legal child. Two states of a beam can have the same
        # child. unique() keeps one of each, and sorts the rows by puzzle.
        child, legal = expand(solver, states, owner, moves, cost)
        parent = owner[:, None, None].expand(-1, legal.size(1), 1)
        rows, _ = unique_rows(torch.cat((parent, child), dim=2)[legal])
        owner = rows[:, 0].contiguous()
        states = rows[:, 1:]
        add_cost(cost, owner, states=1)

        # The best first within each puzzle: sort by value, then (stably) by puzzle. `owner` was
        # sorted before, so it stays as it is.
        best_first = value(solver, states, owner, cost).argsort(descending=True, stable=True)
        best_first = best_first[owner[best_first].argsort(stable=True)]
        states = states[best_first]
        first_of_puzzle = torch.searchsorted(owner, owner)
        rank = torch.arange(len(owner), device=device) - first_of_puzzle

        keep = rank < width
        states = states[keep]
        owner = owner[keep]
        rank = rank[keep]

    # Two numbers are left. The rules of the game say which states can make the target.
    child, legal = expand(solver, states, owner, moves, cost)
    add_cost(cost, owner, states=legal.sum(dim=1))
    solved = torch.zeros(P, width, dtype=torch.bool, device=device)
    solved[owner, rank] = makes_target(solver, child, legal)
    return solved, cost


def makes_target(solver, child, legal):
    """Is one of the legal children (N, M, 1) the target? (N,) bool"""
    return ((child[:, :, 0] == solver.target) & legal).any(dim=1)


def depth_first_search(solver, puzzles, budget, value, moves='all', prune=-math.inf):
    """Tree of Thoughts' depth-first search, on all puzzles (P, n) at once.

    Each puzzle goes on from its deepest open state to that state's best child, and back where a
    branch ends. It stops when it is solved, has expanded `budget` states or has no open state left.
    Children valued below `prune` are dropped. value None: children in random order. budget is a
    number, or one for each puzzle, (P,).
    Returns solved (P, 1) bool and cost (P, 5).
    """
    # The deepest state always goes first, so the open states of one depth are siblings. One family
    # a depth is all there is to remember. By m, the numbers left: the siblings (P, M, m), and their
    # values (P, M), -inf for those that are closed.
    P, n = puzzles.shape
    device = puzzles.device
    cost = puzzles.new_zeros(P, len(COSTS))
    solved = torch.zeros(P, dtype=torch.bool, device=device)
    siblings = {n: puzzles[:, None]}
    values = {n: torch.zeros(P, 1, device=device)}
    for m in range(n - 1, 1, -1):
        M = 2 * m * (m + 1) if moves == 'all' else solver.samples
        siblings[m] = puzzles.new_zeros(P, M, m)
        values[m] = torch.full((P, M), -math.inf, device=device)

    while True:
        done = solved | (cost[:, COSTS.index('expansions')] >= budget)
        depth = deepest_open(values).masked_fill(done, 0)
        if not depth.any():
            return solved[:, None], cost

        for m in depth[depth > 0].unique().tolist():  # one batch for all puzzles at this depth
            # expand the best open state, and close it
            owner = (depth == m).nonzero()[:, 0]
            best = values[m][owner].argmax(dim=1)
            values[m][owner, best] = -math.inf
            states = siblings[m][owner, best]
            child, legal = expand(solver, states, owner, moves, cost)

            # Children are looked at when they are valued, or checked at the last move. In random
            # order a state is looked at only when it is visited.
            if m == 2 or value is not None:
                add_cost(cost, owner, states=legal.sum(dim=1))
            if value is None and m < n:
                add_cost(cost, owner, states=1)

            if m == 2:
                solved[owner] = makes_target(solver, child, legal)
            else:
                siblings[m - 1][owner] = child
                values[m - 1][owner] = value_children(
                    solver, child, legal, owner, value or random_value, prune, cost)


def deepest_open(values):
    """How many numbers are left in each puzzle's deepest open state? (P,), 0 if none is open."""
    depth = torch.zeros(len(values[2]), dtype=torch.long, device=values[2].device)
    for m in sorted(values, reverse=True):
        is_open = (values[m] > -math.inf).any(dim=1)
        depth[is_open] = m
    return depth


def value_children(solver, child, legal, owner, value, prune, cost):
    """The values of children (N, M, m), (N, M): -inf for those not legal or valued below prune."""
    parent = legal.nonzero()[:, 0]
    values = torch.full(legal.shape, -math.inf, device=child.device)
    values[legal] = value(solver, child[legal], owner[parent], cost)
    return values.masked_fill(values < prune, -math.inf)


@dataclass
class Frontier:
    """The open states of m numbers of all puzzles, and room for more."""
    states: torch.Tensor    # (P, S, m)
    values: torch.Tensor    # (P, S), -inf for those that are closed, and where there is none
    used: torch.Tensor      # (P,) how many of the S places each puzzle has filled

    def append(self, owner, states, values):
        """Add M states (N, M, m) with values (N, M), to the puzzles owner (N,)."""
        M = states.size(1)
        missing = int(self.used[owner].max()) + M - self.states.size(1)
        if missing > 0:
            P, _, m = self.states.shape
            self.states = torch.cat((self.states, self.states.new_zeros(P, missing, m)), dim=1)
            closed = self.values.new_full((P, missing), -math.inf)
            self.values = torch.cat((self.values, closed), dim=1)
        place = self.used[owner][:, None] + torch.arange(M, device=owner.device)    # (N, M)
        self.states[owner[:, None], place] = states
        self.values[owner[:, None], place] = values
        self.used[owner] += M


def best_first_search(solver, puzzles, budget, value, moves='all'):
    """Best-first search, on all puzzles (P, n) at once.

    Each puzzle goes on from its open state with the best value, wherever that stands in the tree.
    It stops as depth_first_search does. Returns solved (P, 1) bool and cost (P, 5).
    """
    P, n = puzzles.shape
    device = puzzles.device
    cost = puzzles.new_zeros(P, len(COSTS))
    solved = torch.zeros(P, dtype=torch.bool, device=device)
    zero = torch.zeros(P, dtype=torch.long, device=device)
    frontiers = {}
    for m in range(2, n + 1):
        frontiers[m] = Frontier(
            puzzles.new_zeros(P, 0, m), torch.zeros(P, 0, device=device), zero.clone())
    everyone = torch.arange(P, device=device)
    if P > 0:
        frontiers[n].append(everyone, puzzles[:, None], torch.zeros(P, 1, device=device))

    while True:
        # where each puzzle has its best open state: how many numbers it has left
        best = []
        for frontier in frontiers.values():
            none = frontier.values.new_full((P, 1), -math.inf)
            best.append(torch.cat((frontier.values, none), dim=1).amax(dim=1))
        best_value, index = torch.stack(best).max(dim=0)         # (P,), (P,)
        done = solved | (cost[:, COSTS.index('expansions')] >= budget)
        n_left = (index + 2).masked_fill(done | (best_value == -math.inf), 0)
        if not n_left.any():
            return solved[:, None], cost

        for m in n_left[n_left > 0].unique().tolist():
            # expand it, and close it
            owner = (n_left == m).nonzero()[:, 0]
            place = frontiers[m].values[owner].argmax(dim=1)
            frontiers[m].values[owner, place] = -math.inf
            child, legal = expand(solver, frontiers[m].states[owner, place], owner, moves, cost)
            add_cost(cost, owner, states=legal.sum(dim=1))
            if m == 2:
                solved[owner] = makes_target(solver, child, legal)
            else:
                values = value_children(solver, child, legal, owner, value, -math.inf, cost)
                frontiers[m - 1].append(owner, child, values)


# -----------------------------------------------------------------------------
# best-of-k: sample k chains, then choose one

@dataclass
class Chains:
    """k chains for each of P questions."""
    correct: torch.Tensor       # (P, k) bool
    answer: torch.Tensor        # (P, k) int64: equal where two answers are; -1 for a wrong step
    shared_cost: torch.Tensor   # (P, 5): once, however many chains there are
    chain_cost: torch.Tensor    # (P, 5): of all k chains
    scores: dict = field(default_factory=dict)  # {rule: (P, k)}: rules to choose a chain by


def sample_chains(solver, puzzles, k):
    """k chains of steps that the model writes, for each puzzle (P, n).

    A chain ends at its first wrong step. Scores: 'log-prob', of all its steps, and 'verdict', the
    sum of the log-odds of 'yes' over its states.
    """
    P, n = puzzles.shape
    device = puzzles.device
    shared_cost = puzzles.new_zeros(P, len(COSTS))
    chain_cost = puzzles.new_zeros(P, len(COSTS))
    answer = torch.zeros(P * k, dtype=torch.long, device=device)
    logp = torch.zeros(P * k, device=device)
    verdicts = torch.zeros(P * k, device=device)
    states = puzzles.repeat_interleave(k, dim=0)       # (N, m), of the chains without a wrong step
    chain = torch.arange(P * k, device=device)         # (N,) which chains these are

    for m in range(n, 1, -1):
        owner = chain // k
        if m == n:  # one prompt serves the k chains of a puzzle
            child, legal, step_logp = write_steps(solver, puzzles, k)
        else:
            child, legal, step_logp = write_steps(solver, states, 1)
            verdicts[chain] += log_odds(solver, states)  # free: the same pass of the model has it
        logp[chain] += step_logp
        charge_steps(solver, owner, m == n, shared_cost, chain_cost)

        answer[chain] = extend_answer(answer[chain], child)
        answer[chain[~legal]] = -1
        chain = chain[legal]
        states = child[legal]

    correct = torch.zeros(P * k, dtype=torch.bool, device=device)
    correct[chain] = states[:, 0] == solver.target
    answer[chain] = answer[chain].abs()
    return Chains(
        correct=correct.view(P, k),
        answer=answer.view(P, k),
        shared_cost=shared_cost,
        chain_cost=chain_cost,
        scores={'log-prob': logp.view(P, k), 'verdict': verdicts.view(P, k)})


def charge_steps(solver, owner, is_first, shared_cost, chain_cost):
    """The cost of one step of each chain. The chains run side by side, so calls are shared. They
    share their first prompt, too."""
    flops = solver.model.flops
    add_cost(shared_cost, owner, calls=5)
    n = solver.task.numbers + 2  # the prompt and 'yes'
    if is_first:
        add_cost(shared_cost, owner.unique(), tokens=n, flops=flops(n, 1, n))
    else:
        add_cost(chain_cost, owner, tokens=n, flops=flops(n, 1, n))
    add_cost(chain_cost, owner, expansions=1, states=1, tokens=4, flops=flops(4, 4, n + 4))


def random_rollouts(solver, puzzles, k):
    """k chains of random legal moves for each puzzle (P, n), without a model."""
    P, n = puzzles.shape
    states = puzzles.repeat_interleave(k, dim=0)       # (P * k, m)
    row = torch.arange(P * k, device=puzzles.device)
    answer = torch.zeros_like(row)
    chain_cost = puzzles.new_zeros(P, len(COSTS))
    for _ in range(n - 1):
        add_cost(chain_cost, row // k, expansions=1, states=1)
        states = random_move(states, solver.generator)
        answer = extend_answer(answer, states)
    correct = states[:, 0] == solver.target
    return Chains(
        correct=correct.view(P, k),
        answer=answer.abs().view(P, k),
        shared_cost=torch.zeros_like(chain_cost),
        chain_cost=chain_cost)


def extend_answer(answer, states):
    """A solution is its sequence of states. answer (N,) is a hash of those so far; states (N, m)
    come next."""
    power = torch.arange(states.size(1), device=states.device)
    return answer * 1000003 + (states * 211 ** power).sum(dim=1)


def sample_answers(solver, mode, k, n_test, seed):
    """k chains for each of n_test held-out instances of a task, at its largest hop count.

    The instances are dealt to the processes. Here an expansion, and a state, is a chain.
    """
    hops = max(solver.task.hops)
    batch = sample_batch(solver.task, n_test, seed, hops * 10**6, 'test', mode, hops)
    batch = batch[solver.run.rank::solver.run.world].to(solver.run.device)
    P = batch.prompt_len
    L = batch.tokens.size(1) - P

    correct = []
    answers = []
    logps = []
    # in parts of about 20,000 chains
    for rows in torch.arange(len(batch), device=solver.run.device).split(max(1, 20000 // k)):
        part = batch[rows.repeat_interleave(k)]
        with solver.run.autocast:
            output, logp = solver.model.generate(
                part.tokens[::k, :P], L, solver.temperature, generator=solver.generator, samples=k,
                return_logp=True)
        is_correct = solver.task.correct(part, output).gather(1, part.answer)   # (rows * k, A)
        correct.append(is_correct.all(dim=1))
        answers.append(hash_answer(output.gather(1, part.answer)))
        logps.append(logp.sum(dim=1))

    shared_cost, chain_cost = costs_of_answers(solver.model, k, P, L)
    return Chains(
        correct=torch.cat(correct).view(-1, k),
        answer=torch.cat(answers).view(-1, k),
        shared_cost=shared_cost.to(solver.run.device).expand(len(batch), -1),
        chain_cost=chain_cost.to(solver.run.device).expand(len(batch), -1),
        scores={'log-prob': torch.cat(logps).view(-1, k)})


def hash_answer(tokens):
    """One number for each answer (N, A), (N,): never -1."""
    power = torch.arange(tokens.size(1), device=tokens.device)
    return (tokens * 1000003 ** power).sum(dim=1) & (2**62 - 1)


def costs_of_answers(model, k, P, L):
    """What k chains of L tokens cost after one prompt of P: shared_cost and chain_cost, (5,).

    The first of the L calls reads the prompt. Each chain reads L - 1 tokens more.
    """
    n = k * (L - 1)
    shared_cost = torch.tensor([0, 0, L, P, model.flops(P, 1, P)])
    chain_cost = torch.tensor([k, k, 0, n, model.flops(n, n, P + L)])
    return shared_cost, chain_cost


def pass_at_k(correct, k):
    """The probability that one of k answers is correct, from correct (P, n) bool: (P,).

    See common.pass_at_k. Raises ValueError for k > n: n answers cannot tell.
    """
    return common.pass_at_k(correct.size(1), correct.sum(dim=1), k)


def numbers_of_chains(chains):
    """1, 2, 4, ... n."""
    n = chains.correct.size(1)
    powers_of_two = {2**i for i in range(n.bit_length())}
    return sorted({n} | powers_of_two)


def choose(chains):
    """Choose one of k = 1, 2, 4, ... n chains. Yields (k, rule, accuracy (P,)).

    The oracle's accuracy is pass@k. That of the other rules is the mean over n // k blocks of k.
    """
    for k in numbers_of_chains(chains):
        yield k, 'oracle', pass_at_k(chains.correct, k)

        correct = blocks_of(chains.correct, k)
        answer = blocks_of(chains.answer, k)
        votes = (answer[..., :, None] == answer[..., None, :]).sum(dim=-1)
        scores = {'majority': votes}
        for rule, score in chains.scores.items():
            scores[rule] = blocks_of(score, k)

        # the best score of each block; a chain with a wrong step only if there is no other
        for rule, score in scores.items():
            chosen = score.masked_fill(answer == -1, -1e9).argmax(dim=2, keepdim=True)
            yield k, rule, correct.gather(2, chosen).float().mean(dim=(1, 2))


def one_at_a_time(chains, k):
    """Sample chains one after the other until one is right, at most k.

    Returns accuracy (P,), which is pass@k, and cost (P, 5). Chain j + 1 is sampled if the first j
    are wrong, so on average 1 - pass@j of it.
    """
    n = chains.correct.size(1)
    used = torch.ones(len(chains.correct), device=chains.correct.device)   # (P,)
    for j in range(1, k):
        used += 1 - pass_at_k(chains.correct, j)
    cost = chains.shared_cost + chains.chain_cost * used[:, None] / n
    cost[:, COSTS.index('calls')] *= used  # nothing runs side by side
    return pass_at_k(chains.correct, k), cost


def blocks_of(x, k):
    """(P, n) -> (P, n // k, k). What does not fill a block is left out."""
    n_blocks = x.size(1) // k
    return x[:, :n_blocks * k].unflatten(1, (n_blocks, k))


# -----------------------------------------------------------------------------
# the table of methods

@dataclass
class Method:
    """One method on countdown. run_method says with which widths, budgets and k it runs."""
    group: str               # the --method that runs it
    series: str              # its name in the table and the log
    search: str              # 'beam', 'dfs', 'pruned dfs', 'best-first' or 'chains'
    value: Callable | None   # orders the states of a search; None: random order
    moves: str               # 'all' legal moves, or those that the 'model' samples
    runs: int                # of each puzzle: several where ties or orders are random

    @property
    def arithmetic(self):
        return 'code' if self.moves == 'all' else 'model'


METHODS = (
    #      group        series                            search        value         moves    runs
    Method('beam',      'beam, all legal moves',          'beam',       verdict,      'all',   1),
    Method('dfs',       'dfs, all legal moves',           'dfs',        verdict,      'all',   1),
    Method('dfs',       'dfs, all legal moves, pruned',   'pruned dfs', verdict,      'all',   1),
    Method('beam',      "beam, the model's moves",        'beam',       verdict,      'model', 1),
    Method('dfs',       "dfs, the model's moves",         'dfs',        verdict,      'model', 1),
    Method('dfs',       "dfs, the model's moves, pruned", 'pruned dfs', verdict,      'model', 1),
    Method('best_of_k', 'best-of-k',                      'chains',     None,         'model', 1),
    # without a model
    Method('baselines', 'random rollouts',                'chains',     None,         'all',   1),
    Method('baselines', 'beam, random values',            'beam',       random_value, 'all',   10),
    Method('baselines', "beam, 'mult' heuristic",         'beam',       mult_value,   'all',   10),
    Method('baselines', "dfs, 'mult' heuristic",          'dfs',        mult_value,   'all',   10),
    Method('baselines', 'dfs, random order',              'dfs',        None,         'all',   10),
    # at the end, so that the random numbers of the others are those of older logs
    Method('best_first', 'best-first, all legal moves',   'best-first', verdict,      'all',   1),
    Method('best_first', "best-first, the model's moves", 'best-first', verdict,      'model', 1),
    Method('baselines', "best-first, 'mult' heuristic",   'best-first', mult_value,   'all',   10),
)


def wanted_methods(args):
    """The rows of METHODS that --method, --propose and --prune ask for."""
    wanted = []
    for method in METHODS:
        in_group = args.method in ('all', method.group)
        if args.method in SEARCHES:
            in_group = in_group and method.moves == args.propose
        if method.search == 'pruned dfs' and args.prune == 0:
            in_group = False
        if in_group:
            wanted.append(method)
    return wanted


def run_method(solver, method, puzzles, args):
    """Run a method on puzzles (p, n), each method.runs times in a row.

    Yields (series, setting, solved, cost) for each width, budget, or k and rule: solved
    (p * runs, width) for a beam, else (p * runs, 1), and cost (p * runs, 5).
    """
    puzzles = puzzles.repeat_interleave(method.runs, dim=0)
    if method.search == 'beam':
        for width in sorted({1, (args.b + 1) // 2, args.b}):
            solved, cost = beam_search(solver, puzzles, width, method.value, method.moves)
            yield method.series, f'b={width}', solved, cost

    elif method.search in ('dfs', 'pruned dfs'):
        nodes_of_beam = 1 + (puzzles.size(1) - 2) * args.b
        budgets = [nodes_of_beam, args.budget]
        if method.value is None:
            budgets.append(math.inf)  # exhaustive search
        prune = -math.inf
        if method.search == 'pruned dfs':
            prune = torch.tensor(args.prune).logit().item()  # a probability, as log-odds
        for budget in budgets:
            solved, cost = depth_first_search(
                solver, puzzles, budget, method.value, method.moves, prune)
            yield method.series, f'{budget} expansions', solved, cost

    elif method.search == 'best-first':
        for budget in (1 + (puzzles.size(1) - 2) * args.b, args.budget):
            solved, cost = best_first_search(solver, puzzles, budget, method.value, method.moves)
            yield method.series, f'{budget} expansions', solved, cost

    elif method.moves == 'model':
        yield from run_best_of_k(method.series, sample_chains(solver, puzzles, args.k))
    else:
        yield from run_best_of_k(method.series, random_rollouts(solver, puzzles, args.k))


def run_best_of_k(series, chains, is_game=True):
    """As run_method, for each k and each rule that chooses.

    is_game: do the rules of the game say what is right, so that sampling can stop there?
    """
    n = chains.correct.size(1)
    if is_game:
        for k in numbers_of_chains(chains):
            accuracy, cost = one_at_a_time(chains, k)
            yield f'{series}, one at a time', f'k={k}', accuracy[:, None], cost
    for k, rule, accuracy in choose(chains):
        cost = chains.shared_cost + chains.chain_cost * k / n
        yield f'{series}, {rule}', f'k={k}', accuracy[:, None], cost


SIDE_SERIES = (  # not among the few rows that are printed with --method all
    "dfs, the model's moves, pruned",
    'best-of-k, majority',
    'best-of-k, log-prob',
    'random rollouts, oracle',
    'random rollouts, majority',
)


def is_main_row(series, setting, args):
    """Is this one of the few rows that matter? All others are printed with --verbose only."""
    if args.verbose or args.method in SEARCHES:
        return True
    if args.method == 'all' and series in SIDE_SERIES:
        return False
    if args.method == 'best_of_k' and series == 'best-of-k, oracle' and setting == 'k=1':
        return True
    return setting in (f'b={args.b}', f'{args.budget} expansions', f'k={args.k}')


# -----------------------------------------------------------------------------
# are the verdicts worth anything?

AT_CHANCE = 0.56  # models of random weights reach 0.55


def order_of_verdicts(solver, puzzles):
    """Of two children of a state, one that can make the target and one that can't, how often has
    the first the higher verdict? Guessing gives 0.5. None if there is no such pair.

    Measured on at most a hundred of the puzzles (P, n): on their children, and below a random good
    child on the children of that one.
    """
    generator = torch.Generator().manual_seed(0)  # the searches' random numbers stay theirs
    spread = torch.linspace(0, len(puzzles) - 1, min(100, len(puzzles))).long()
    states = puzzles[spread.to(puzzles.device)]
    right = 0
    n_pairs = 0
    while states.size(1) > 2:
        child, legal, _ = legal_moves(states)
        legal = first_of_each(child, legal)
        good, values = truth_and_verdict(solver, child, legal)    # (N, M), (N, M)

        # every good child against every bad one of the same state; a tie counts half
        pair = good[:, :, None] & (legal & ~good)[:, None, :]     # (N, M, M)
        margin = (values[:, :, None] - values[:, None, :])[pair]
        right += (margin > 0).sum().item() + 0.5 * (margin == 0).sum().item()
        n_pairs += len(margin)

        # go on with a random good child of each state that has one
        noise = torch.rand(good.shape, generator=generator).to(good.device)
        move = noise.masked_fill(~good, -1).argmax(dim=1)
        row = good.any(dim=1).nonzero()[:, 0]
        states = child[row, move[row]]
    return right / n_pairs if n_pairs else None


def truth_and_verdict(solver, child, legal):
    """Of children (N, M, m): can the legal ones make the target? (N, M) bool. And the model's
    log-odds that they can, (N, M)."""
    target = torch.full_like(legal, solver.target, dtype=torch.long)[legal]
    good = torch.zeros_like(legal)
    good[legal] = count_solutions(child[legal], target) > 0
    values = torch.zeros(legal.shape, device=legal.device)
    values[legal] = log_odds(solver, child[legal])
    return good, values


def check_verdicts(solver, puzzles):
    """Log how good the verdicts are, and warn if they are at chance."""
    share = order_of_verdicts(solver, puzzles)
    solver.run.log(arm='verdicts', ordered=share)
    if share is not None and share < AT_CHANCE:
        where = 'at chance' if share > 1 - AT_CHANCE else 'worse than chance'
        solver.run.print(
            f"warning: this model's verdicts are {where} ({share:.2f} of pairs of a good and a bad "
            'state ordered rightly, guessing 0.50): they guide no better than random numbers')


# -----------------------------------------------------------------------------
# the table of results

@dataclass
class Column:
    """A column of the printed table, and its line in the legend above."""
    head: str
    measure: str        # its name in the log
    width: int
    digits: int
    meaning: str
    unit: float = 1

    def cell(self, measures):
        if self.measure not in measures:
            return f'{"-":>{self.width}}'
        return f'{measures[self.measure] / self.unit:{self.width}.{self.digits}f}'


COLUMNS = (
    Column('solved', 'solved', 7, 3, 'share of the puzzles (beam: one of its last b states makes '
           'the target)'),
    Column('top-1', 'top1', 7, 3, 'the same, by the best of the last b states alone'),
    Column('hard', 'solved_hard', 7, 3, 'solved, of the hundred puzzles with the fewest solutions'),
    Column('nodes', 'expansions', 8, 1, 'states that were expanded: their moves listed or sampled'),
    Column('states', 'states', 8, 1, 'states that were valued, or checked for the target'),
    Column('calls', 'calls', 6, 1, 'forward passes of the model, one after the other'),
    Column('MFLOP', 'flops', 8, 0, 'million operations of these passes', unit=1e6),
)
CHAIN_COLUMNS = (
    Column('right', 'solved', 7, 3, 'share of the instances whose chosen answer is right'),
    Column('calls', 'calls', 6, 1, 'forward passes of the model, one after the other'),
    Column('MFLOP', 'flops', 8, 0, 'million operations of these passes', unit=1e6),
)
METHOD_LEGEND = {  # --method: what the names of its rows mean
    'beam': 'beam: of all states one move away keep the b with the best verdict, at each depth',
    'dfs': 'dfs: go on from the best state, and back where a branch ends; pruned: drop bad states',
    'best_first': 'best-first: go on from the best of all open states',
    'best_of_k': 'best-of-k: choose one of k chains by the rule named (oracle: any right one; one '
                 'at a time: stop)',
    'baselines': "random, 'mult' (prefers factors of the target): controls without a model",
}


class Table:
    """What was measured: a row for each setting of each method, logged and printed as they come.

    n_questions: over all processes.
    subsets: {suffix: slice of the questions} to measure the share solved on. '' is all of them.
    rows: {(series, setting): {measure: mean over questions}}.
    per_question: {(series, setting): (share of the runs that solved it, nodes), both (P,)}, of the
        rows that are printed.
    """

    def __init__(self, run, n_questions, subsets, columns):
        self.run = run
        self.n_questions = n_questions
        self.subsets = subsets
        self.columns = columns
        self.rows = {}
        self.per_question = {}

    def print_head(self, title, methods):
        """The title, the legend and the heading. methods: keys of METHOD_LEGEND."""
        self.run.print(title)
        for method in methods:
            self.run.print(f'    {METHOD_LEGEND[method]}')
        for column in self.columns:
            self.run.print(f'    {column.head}: {column.meaning}')
        if 'states' in [column.measure for column in self.columns]:
            self.run.print('    (nodes, states, calls, MFLOP: on average for a puzzle)')

        head = f'{"method":31}{"setting":16}'
        for column in self.columns:
            head += f'{column.head:>{column.width}}'
        self.run.print(head)

    def add(self, series, setting, arithmetic, runs, solved, cost, printed=True):
        """Add a row. solved (p * runs, K) and cost (p * runs, 5) are of this process's p questions.

        Returns those of all questions: solved (P, runs) by any of K, and cost (P, runs, 5).
        """
        any_and_first = torch.stack((solved.amax(dim=1), solved[:, 0]), dim=1)  # (p * runs, 2)
        p = len(solved) // runs
        solved = self.run.gather_rows(any_and_first.unflatten(0, (p, runs)), self.n_questions)
        cost = self.run.gather_rows(cost.unflatten(0, (p, runs)), self.n_questions)

        measures = {}
        for suffix, subset in self.subsets.items():
            measures[f'solved{suffix}'] = solved[subset, :, 0].mean().item()
            if 'beam' in series:
                measures[f'top1{suffix}'] = solved[subset, :, 1].mean().item()
        measures |= zip(COSTS, cost.mean(dim=(0, 1)).tolist(), strict=True)

        self.rows[series, setting] = measures
        if printed:
            self.print_row(series, setting, measures)
            nodes = cost[..., COSTS.index('expansions')].mean(dim=1)
            self.per_question[series, setting] = (solved[..., 0].mean(dim=1), nodes)
        self.run.log(arm='row', series=series, setting=setting, arithmetic=arithmetic, **measures)
        return solved[..., 0], cost

    def print_row(self, series, setting, measures):
        line = f'{series:31}{setting:16}'
        for column in self.columns:
            line += column.cell(measures)
        self.run.print(line)

    def last_of(self, series):
        """The row of the last setting of a series."""
        return [row for (name, _), row in self.rows.items() if name == series][-1]

    def scores_at(self, k):
        """k, and what best-of-k solves with so many chains, by the rule that chooses."""
        scores = {'k': k}
        for (series, setting), row in self.rows.items():
            if series.startswith('best-of-k') and setting == f'k={k}':
                rule = series.split(', ')[1]
                scores[rule.replace('-', '_').replace(' ', '_')] = row['solved']
        return scores


# -----------------------------------------------------------------------------
# everything in order

def search_puzzles(solver, puzzles, args):
    """All methods that were asked for, on countdown. Returns what the last line says."""
    run = solver.run
    n_puzzles = len(puzzles)
    targets = torch.full((n_puzzles,), args.target)
    solvable = int((count_solutions(puzzles, targets) > 0).sum())
    if args.method in ('all', *SEARCHES):
        check_verdicts(solver, puzzles.to(run.device))

    columns = COLUMNS
    subsets = {'': slice(None)}
    if args.puzzles:
        columns = [column for column in COLUMNS if column.head != 'hard']
    else:
        subsets['_hard'] = slice(100)  # all_puzzles puts those with the fewest solutions first
    table = Table(run, n_puzzles, subsets, columns)
    table.print_head(
        f'{n_puzzles:,} puzzles, target {args.target}, integers solve {solvable:,}',
        METHOD_LEGEND if args.method == 'all' else [args.method])
    solved, cost = run_methods(solver, table, puzzles, args)
    write_solutions(run, table, puzzles, args.target)

    # the last line: the method's best row, and with --method all the others at equal cost
    series = main_series(args)
    row = table.last_of(series)
    puzzle_set = dict(target=args.target, n_test=n_puzzles, solvable=solvable)
    if series.startswith('beam'):
        first = dict(method='beam', b=args.b, propose=args.propose,
                     b1=table.rows[series, 'b=1']['solved'])
        renamed = {name.replace('solved', 'any_of_b'): value for name, value in row.items()}
        final = first | puzzle_set | renamed
    else:
        final = dict(method=args.method) | puzzle_set | row
    if args.method == 'all':
        # solved and cost are those of random order without a limit
        final |= equal_costs(table, row, solved, cost, args)
    if args.method in ('all', 'best_of_k'):
        final |= table.scores_at(args.k)
    run.print(finding(table, final, args))
    return final


def run_methods(solver, table, puzzles, args):
    """Fill the table. Returns what Table.add does, of the last row of random order."""
    run = solver.run
    my_puzzles = puzzles[run.rank::run.world].to(run.device)
    methods = wanted_methods(args)
    exhaustive = (None, None)
    bar = run.progress_bar('methods', 0, len(methods))
    for method in methods:
        for series, setting, my_solved, my_cost in run_method(solver, method, my_puzzles, args):
            added = table.add(
                series, setting, method.arithmetic, method.runs, my_solved, my_cost,
                printed=is_main_row(series, setting, args))
            if series == 'dfs, random order':
                exhaustive = added
        bar.update()
    bar.close()
    return exhaustive


def write_solutions(run, table, puzzles, target):
    """Write solutions.csv: a line for each puzzle, with its number of solutions and one of them
    (of the exact solver), and for each printed row of the table whether it was solved and with how
    many nodes."""
    if not run.master:
        return
    counts = count_solutions(puzzles, torch.full((len(puzzles),), target)).tolist()
    head = ['puzzle', 'solutions', 'solution']
    for series, setting in table.per_question:
        head += [f'{series}, {setting}: solved', f'{series}, {setting}: nodes']

    lines = [head]
    for i, puzzle in enumerate(puzzles.tolist()):
        line = [' '.join(map(str, puzzle)), counts[i], '; '.join(find_solution(puzzle, target))]
        for solved, nodes in table.per_question.values():
            line += [f'{solved[i].item():g}', f'{nodes[i].item():g}']
        lines.append(line)

    def write(path):
        with open(path, 'w', newline='', encoding='utf-8') as f:
            csv.writer(f).writerows(lines)
    run.write(lambda: common.write_atomic(run.out_dir / 'solutions.csv', write))


def main_series(args):
    """The series that stands in the last line."""
    moves = MOVES[args.propose]
    if args.method == 'best_of_k':
        return 'best-of-k, oracle'
    if args.method == 'dfs':
        return f'dfs, {moves}, pruned' if args.prune > 0 else f'dfs, {moves}'
    if args.method == 'best_first':
        return f'best-first, {moves}'
    if args.method == 'baselines':
        return 'dfs, random order'
    return f'beam, {moves}'


def equal_costs(table, beam, solved, cost, args):
    """What other methods solve at the cost of the beam. beam: its row of the table.

    solved (P, runs) and cost (P, runs, 5): of random order without a limit.
    """
    final = {}
    for name in ('expansions', 'states'):
        spent = cost[..., COSTS.index(name)]
        final[f'random_{name}'] = solved_at_equal_cost(solved, spent, beam[name])
    final['mult'] = table.rows["beam, 'mult' heuristic", f'b={args.b}']['solved']

    # Chains do their own arithmetic. So they are compared with a beam that does its own, too.
    beam_of_model = table.rows[f'beam, {MOVES["model"]}', f'b={args.b}']
    k, solved = chains_at(table, beam_of_model['flops'])
    one_by_one = table.last_of('best-of-k, one at a time')
    return final | dict(
        model_moves=beam_of_model['solved'],
        same_flops_k=k,
        same_flops=solved,
        one_at_a_time_flops=one_by_one['flops'])


def chains_at(table, flops):
    """How many chains so many FLOPs pay for, and how often one of them is right. (None, None) if
    that is beyond the table.

    The FLOPs are linear in k. The share solved is read between the two nearest k of the table, on
    a logarithmic axis.
    """
    ks = []
    costs = []
    shares = []
    for (series, setting), row in table.rows.items():
        if series == 'best-of-k, oracle':
            ks.append(int(setting.removeprefix('k=')))
            costs.append(row['flops'])
            shares.append(row['solved'])
    if not costs[0] <= flops <= costs[-1]:
        return None, None
    k = float(np.interp(flops, costs, ks))
    return round(k), float(np.interp(math.log(k), np.log(ks), shares))


def solved_at_equal_cost(solved, spent, mean):
    """The share that would be solved if all runs had the same budget, at which they spend `mean`
    on average. solved and spent: what each run did without a budget."""
    for budget in spent.unique():
        if spent.clamp(max=budget).mean() >= mean:
            return (solved * (spent <= budget)).mean().item()
    return solved.mean().item()


def best_of_k(solver, mode, args):
    """Best-of-k on another task than countdown. Returns what the last line says."""
    task = solver.task
    hops = max(task.hops)
    table = Table(solver.run, args.n_test, {'': slice(None)}, CHAIN_COLUMNS)
    table.print_head(f'{args.n_test:,} held-out instances of {task.name}, {hops} hops',
                     [args.method])

    chains = sample_answers(solver, mode, args.k, args.n_test, args.seed)
    for series, setting, solved, cost in run_best_of_k('best-of-k', chains, is_game=False):
        table.add(series, setting, 'model', 1, solved, cost,
                  printed=is_main_row(series, setting, args))
    chance = task.chance(hops)
    solver.run.print(finding_of_chains(table, args.k, f'{args.n_test:,} instances', chance))

    final = dict(method='best_of_k', task=task.name, hops=hops, n_test=args.n_test,
                 chance=chance)
    costs = dict(table.last_of('best-of-k, oracle'))
    del costs['solved']  # the oracle looks at the answer, so it solves nothing
    return final | costs | table.scores_at(args.k)


def show_tree(solver, puzzle, args):
    """Print and draw how a beam goes through one puzzle. Returns what the last line says."""
    run = solver.run

    def log_odds_on_cpu(states):
        return log_odds(solver, states.to(run.device)).cpu()

    root = tree.grow_tree(puzzle, args.target, args.b, log_odds_on_cpu)
    run.print(f'A beam of {args.b} on {root.label()}, target {args.target}. A move, the numbers '
              "left, the model's verdict (probability of yes), the truth:")
    for line in tree.tree_lines(root):
        run.print(line)

    run.print('    (A state that two moves lead to is shown once, below the parent with the better '
              'verdict.)')
    steps = tree.first_solution(root)
    if steps:
        run.print(f'The beam solves it: {", ".join(steps)}.')
    else:
        steps_of_solver = ', '.join(find_solution(puzzle, args.target))
        run.print('The beam does not solve it. ' + (
            f'A solution, found by trying all moves: {steps_of_solver}.' if steps_of_solver
            else 'It has no solution in integers.'))
    if run.master:
        run.print(f'The figure is {run.out_dir / "plot.png"}.')
    run.log(arm='tree', tree=tree.to_record(root))
    n_states = sum(len(level) for level in tree.levels(root))
    return dict(method='show', b=args.b, target=args.target, n_test=1, states=n_states,
                any_of_b=int(bool(steps)), solvable=int(root.is_solvable))


# -----------------------------------------------------------------------------
# are the verdicts calibrated? See calibration.py

MOST_STATES = 3000  # of each trained target, for each number of numbers left
CALIBRATION_COLUMNS = ('numbers left', 'target', 'states', 'solvable', 'right', 'auc', 'error',
                       'calibrated', 'shuffled', 'bits', 'calibrated', 'shuffled')


def judged_states(solver, target, most=None):
    """The states below all solvable puzzles of a target: {m: (log_odds (N,), truth (N,))} by the
    numbers left, on the CPU. At most `most` random ones of each m."""
    judge = replace(solver, target=target)
    generator = torch.Generator().manual_seed(target)
    result = {}
    puzzles = calibration.solvable_puzzles(solver.task.numbers, target)
    for m, states in calibration.states_below(puzzles).items():
        if most is not None:
            states = states[torch.randperm(len(states), generator=generator)[:most]]
        truth = can_reach(states, torch.full((len(states),), target))
        result[m] = (log_odds(judge, states.to(solver.run.device)).cpu(), truth)
    return result


def some_trained_targets(task):
    """Every tenth of the targets that the model was trained on."""
    trained = sorted(set(task.targets) - set(task.holdout_targets))
    return trained[5::10] or trained


def fit_verdicts(of_trained, m):
    """Calibrations of the verdicts on states of m numbers. of_trained: the states of each trained
    target, as judged_states returns them.

    Returns their log-odds (N,), their truths (N,), and the calibrations, {name: (slope, bias)}.
    """
    log_odds_trained = torch.cat([judged[m][0] for judged in of_trained])
    truth = torch.cat([judged[m][1] for judged in of_trained])
    shuffled = torch.randperm(len(truth), generator=torch.Generator().manual_seed(m))
    return log_odds_trained, truth, {
        'raw': (1.0, 0.0),
        'calibrated': calibration.fit_calibration(log_odds_trained, truth),
        'shuffled': calibration.fit_calibration(log_odds_trained, truth[shuffled]),
    }


def measure_calibration(solver, args):
    """How far the verdicts are from probabilities, on trained targets and on --target, before and
    after a calibration that is fitted on trained targets alone. Returns what the last line says."""
    run = solver.run
    task = solver.task
    trained = some_trained_targets(task)
    of_trained = [judged_states(solver, target, MOST_STATES) for target in trained]
    of_target = judged_states(solver, args.target)
    require(2 in of_target, f'no {task.numbers} numbers from 1 to 13 make {args.target}')

    run.print(f'Verdicts on the states below all puzzles of target {args.target}, and of the '
              f'trained targets {", ".join(map(str, trained))}.')
    run.print('    right: the share of verdicts on the right side of 0.5 (compare: always no)')
    run.print('    auc: how often a solvable state has a better verdict than one that is not')
    run.print('    error: expected calibration error of the verdict; bits: its log loss, a state')
    run.print('    calibrated: the same with a slope and a bias, fitted on the trained targets')
    run.print('    shuffled: the same fitted to shuffled truth, a control')
    run.print(' '.join(f'{head:>12}' for head in CALIBRATION_COLUMNS))

    pooled = {'raw': [], 'calibrated': [], 'truth': []}
    for m in range(task.numbers - 1, 1, -1):
        log_odds_trained, truth_trained, fits = fit_verdicts(of_trained, m)
        for name, (l, truth) in (('trained', (log_odds_trained, truth_trained)),
                                 (args.target, of_target[m])):
            log_calibration(run, m, name, l, truth, fits)
        l, truth = of_target[m]
        pooled['truth'].append(truth)
        for name in ('raw', 'calibrated'):
            pooled[name].append(calibration.calibrated(l, *fits[name]))

    # all states of the target together
    truth = torch.cat(pooled['truth'])
    final = dict(method='calibration', target=args.target, n_test=len(truth))
    for name, suffix in (('raw', '_raw'), ('calibrated', '')):
        probability = torch.cat(pooled[name])
        low, high = calibration.error_interval(probability, truth)
        final[f'ece_{args.target}{suffix}'] = calibration.calibration_error(probability, truth)
        final[f'ece_{args.target}{suffix}_low'] = low
        final[f'ece_{args.target}{suffix}_high'] = high
    return final


def log_calibration(run, m, name, log_odds, truth, fits):
    """Log and print a row: states of m numbers, of the target `name` or of all trained ones."""
    record = dict(numbers=m, target=name, n=len(truth), solvable=truth.double().mean().item(),
                  right=((log_odds > 0) == truth).double().mean().item(),
                  auc=calibration.area_under_curve(log_odds, truth),
                  slope=fits['calibrated'][0], bias=fits['calibrated'][1])
    for fit, (slope, bias) in fits.items():
        probability = calibration.calibrated(log_odds, slope, bias)
        record[f'ece_{fit}'] = calibration.calibration_error(probability, truth)
        record[f'loss_{fit}'] = calibration.log_loss(probability, truth)
        record[f'bins_{fit}'] = calibration.bins_of(probability, truth)
    run.log(arm='calibration', **record)

    cells = [m, name, record['n']]
    for measure in ('solvable', 'right', 'auc', 'ece_raw', 'ece_calibrated', 'ece_shuffled',
                    'loss_raw', 'loss_calibrated', 'loss_shuffled'):
        cells.append(f'{record[measure]:.3f}')
    run.print(' '.join(f'{cell:>12}' for cell in cells))


# -----------------------------------------------------------------------------
# how many nodes does a puzzle deserve? See budgets.py

RULES_OF_VERDICTS = {  # rule -> the calibration that sets its threshold, see fit_verdicts
    'calibrated': 'calibrated',
    'raw verdict': 'raw',
    'other states': 'calibrated',
    'shuffled truth': 'shuffled',
}
RULES_IN_LAST_LINE = {  # rule -> its key
    'fixed': 'fixed',
    'calibrated': 'adaptive',
    'raw verdict': 'raw',
    'same nodes': 'same_nodes',
    'permuted': 'permuted',
    'other states': 'other_states',
    'shuffled truth': 'shuffled',
    'oracle': 'oracle',
    'random order': 'random',
}


def measure_budgets(solver, puzzles, args):
    """Depth-first search under rules that say when to stop. Returns what the last line says."""
    run = solver.run
    table = Table(run, len(puzzles), {'': slice(None), '_hard': slice(100)}, COLUMNS)
    generator = torch.Generator().manual_seed(args.seed)
    bar = run.progress_bar('rules', 0, 7)
    value_of = values_of_rules(solver, puzzles, generator)
    by_verdict = value_of('fixed')
    mine = puzzles[run.rank::run.world].to(run.device)

    def search(rule, setting, budget, value, runs=1):
        """Search each puzzle `runs` times, and add the row. Returns solved (P, runs) and cost
        (P, runs, 5) of all puzzles."""
        repeated = mine.repeat_interleave(runs, dim=0)
        solved, cost = depth_first_search(solver, repeated, budget, value)
        return table.add(rule, setting, 'code', runs, solved, cost, printed=False)

    # fixed budgets, the last of which is none; those of random order as means of ten runs
    for budget in budgets.FIXED:
        solved, cost = search('fixed', f'{budget} nodes', budget, by_verdict)
    log_oracle(run, table, solved[:, 0] > 0, cost[:, 0])
    bar.update()
    for budget in budgets.FIXED:
        search('random order', f'{budget} nodes', budget, None, runs=10)
    bar.update()

    # budgets that the verdict sets
    spent = {}  # threshold -> the nodes that `calibrated` takes, (P,)
    for rule in RULES_OF_VERDICTS:
        for threshold in budgets.THRESHOLDS:
            _, cost = search(rule, threshold, math.inf, value_of(rule, threshold))
            if rule == 'calibrated':
                spent[threshold] = cost[:, 0, COSTS.index('expansions')].long().cpu()
        bar.update()

    # the same nodes, for the same puzzles and for random ones, but any state may be opened
    for threshold, nodes in spent.items():
        dealt = budgets.dealt_out(nodes, generator)                        # (P, runs)
        for rule, limits in (('same nodes', nodes[:, None]), ('permuted', dealt)):
            my_limits = limits[run.rank::run.world].to(run.device)
            search(rule, threshold, my_limits.flatten(), by_verdict, runs=limits.size(1))
    bar.update()

    # what a beam costs
    solved, cost = beam_search(solver, mine, args.b, by_verdict)
    _, cost = table.add('beam', f'b={args.b}', 'code', 1, solved, cost, printed=False)
    bar.close()
    return compare_rules(run, table, cost[..., COSTS.index('flops')].mean().item(), args)


def values_of_rules(solver, puzzles, generator):
    """A function that makes value functions, of a rule and a threshold.

    States are ordered by their verdict. One whose probability is below the threshold is never
    opened. The calibrations are fitted on trained targets. Verdicts are looked up, but charged as
    if computed.
    """
    device = solver.run.device
    known = budgets.KnownVerdicts(puzzles, lambda states: log_odds(solver, states.to(device)))
    of_other_states = known.of_other_states(generator)
    of_trained = [judged_states(solver, target, MOST_STATES)
                  for target in some_trained_targets(solver.task)]
    fits = {}  # m -> {calibration: (slope, bias)}
    for m in range(solver.task.numbers - 1, 1, -1):
        fits[m] = fit_verdicts(of_trained, m)[2]

    def value_of(rule, threshold=0.0):
        deciding = of_other_states if rule == 'other states' else known
        name = RULES_OF_VERDICTS.get(rule, 'raw')  # without a threshold it does not matter

        def value(solver, states, owner, cost):
            charge_verdicts(solver, owner, cost)
            slope, bias = fits[states.size(1)][name]
            closed = calibration.calibrated(deciding(states), slope, bias) < threshold
            return known(states).masked_fill(closed, -math.inf).to(states.device)
        return value
    return value_of


def log_oracle(run, table, solved, cost):
    """Add the rows of the rule `oracle`. solved (P,) and cost (P, 5): without a budget."""
    nodes = cost[:, COSTS.index('expansions')]
    for n, share, mean_cost in budgets.cheapest_first(solved, cost, nodes):
        row = dict(solved=share, **dict(zip(COSTS, mean_cost.tolist(), strict=True)))
        row['solved_hard'] = (solved & (nodes <= n))[:100].double().mean().item()
        table.rows['oracle', n] = row
        run.log(arm='row', series='oracle', setting=n, arithmetic='code', **row)


def compare_rules(run, table, flops_of_beam, args):
    """Print what the rules solve at equal cost. Returns what the last line says."""
    points = {}  # rule -> {cost: [(mean cost, share solved)]}
    for (rule, _), row in table.rows.items():
        of_rule = points.setdefault(rule, {'expansions': [], 'flops': []})
        for cost in of_rule:
            of_rule[cost].append((row[cost], row['solved']))

    run.print(f'Depth-first search of {table.n_questions:,} puzzles of {args.target}. Share solved '
              'by rules that say when to stop, at equal mean nodes:')
    run.print(f'{"rule":18}' + ''.join(f'{nodes:8g}' for nodes in budgets.NODES))
    for rule in RULES_IN_LAST_LINE:
        cells = [f'{budgets.share_at(points[rule]["expansions"], nodes):8.3f}'
                 for nodes in budgets.NODES]
        run.print(f'{rule:18}' + ''.join(cells))

    # at the FLOPs of a beam, and at five nodes
    final = dict(method='budgets', b=args.b, target=args.target, n_test=table.n_questions,
                 flops=flops_of_beam)
    for rule, name in RULES_IN_LAST_LINE.items():
        final[name] = budgets.share_at(points[rule]['flops'], flops_of_beam)
    for rule, name in RULES_IN_LAST_LINE.items():
        final[f'{name}_5'] = budgets.share_at(points[rule]['expansions'], 5)

    run.print(f'With 5 nodes a puzzle on average, a calibrated threshold solves '
              f'{final["adaptive_5"]:.3f}, fixed budgets {final["fixed_5"]:.3f}, the nodes of the '
              f'former without its threshold {final["same_nodes_5"]:.3f}, and the same dealt out '
              f'at random {final["permuted_5"]:.3f}.')
    return final


# -----------------------------------------------------------------------------
# what was found, in words

def finding(table, final, args):
    """One sentence about the method that was asked for and its controls, on countdown."""
    n = final['n_test']
    if args.method == 'best_of_k':
        return finding_of_chains(table, args.k, f'{n:,} puzzles')
    if args.method == 'baselines':
        return finding_of_baselines(table, args, n)

    solved = table.last_of(main_series(args))['solved']
    search = f'A beam of {args.b}'
    if args.method == 'best_first':
        search = f'Best-first search of at most {args.budget} nodes'
    if args.method == 'dfs':
        search = f'Depth-first search of at most {args.budget} nodes'
    text = f'{search} with the model solves {solved:.3f} of {n:,} puzzles'
    if args.method != 'all':
        return f'{text}. No control was run: --method all searches without the model, too.'

    controls = {
        'one on random values': table.last_of('beam, random values')['solved'],
        "one on the 'mult' heuristic": final['mult'],
        'random order with as many nodes': final['random_expansions'],
    }
    phrases = []
    for name, share in controls.items():
        phrases.append(f'{compare(solved, share, n)} {name} ({share:.3f})')
    text += f': {", ".join(phrases[:-1])} and {phrases[-1]}.'

    # the same arithmetic on both sides: the model's
    beam = final['model_moves']
    chains = final['same_flops']
    text += f" With the model's own moves it solves {beam:.3f}"
    if chains is not None:
        text += (f', {compare(beam, chains, n)} one of {final["same_flops_k"]} chains at the same '
                 f'FLOPs ({chains:.3f})')
    return (f'{text}. Chains one at a time until one is right, at most {args.k}, solve '
            f'{final["one_at_a_time"]:.3f} for {final["one_at_a_time_flops"] / 1e6:.0f} MFLOP a '
            'puzzle.')


def compare(share, control, n):
    """Two shares of n puzzles, in words. A difference below two standard errors is none.

    The errors are those of one more puzzle that is solved and one more that is not (Agresti and
    Caffo 2000), so that 1 of 1 puzzles is no proof.
    """
    p = (share * n + 1) / (n + 2)
    q = (control * n + 1) / (n + 2)
    error = math.sqrt((p * (1 - p) + q * (1 - q)) / (n + 2))
    if abs(p - q) <= 2 * error:
        return 'not clearly different from'
    return 'more than' if share > control else 'fewer than'


def finding_of_baselines(table, args, n):
    on_random = table.last_of('beam, random values')['solved']
    on_mult = table.last_of("beam, 'mult' heuristic")['solved']
    in_order = table.rows['dfs, random order', f'{args.budget} expansions']['solved']
    return (f'Without a model a beam of {args.b} solves {on_random:.3f} of {n:,} puzzles on random '
            f"values and {on_mult:.3f} on the 'mult' heuristic, and random order {in_order:.3f} "
            f'within {args.budget} nodes.')


def finding_of_chains(table, k, questions, chance=None):
    """One sentence about best-of-k. questions: how many of what."""
    guessing = '' if chance is None else f' (guessing: {chance:.3f})'
    scores = table.scores_at(1)
    if k == 1:
        return (f'A single chain is right in {scores["oracle"]:.3f} of {questions}{guessing}. With '
                '--k 1 there is nothing to choose.')

    single = scores['oracle']
    scores = table.scores_at(k)
    chosen = []
    for rule, name in (('verdict', 'the one with the best verdicts'),
                       ('log_prob', 'the most probable one'), ('majority', 'the majority')):
        if rule in scores:
            chosen.append(f'{name} in {scores[rule]:.3f}')
    return (f'A single chain is right in {single:.3f} of {questions}{guessing}; of {k} chains '
            f'{", ".join(chosen)}, and at least one of them in {scores["oracle"]:.3f}.')


@torch.no_grad()
def main(argv=None):
    """Search with a trained model. Returns the values of the last line."""
    args = parse_args(argv)
    require(args.ckpt != DEFAULT_CKPT or Path(DEFAULT_CKPT).exists(),
            f'there is no checkpoint {DEFAULT_CKPT} yet; this makes it: '
            'python train_cot.py --task countdown')
    model, state = common.load_checkpoint(args.ckpt)
    task = common.task_of_checkpoint(args.ckpt, state, TASKS)
    common.require_tokens(args.ckpt, state)
    fill_in(args, task, state['mode'])
    puzzles = None
    if isinstance(task, Countdown):
        puzzles = load_puzzles(args, task)
        require_unseen(args, state, puzzles)
    n_puzzles = None if puzzles is None else len(puzzles)
    memory.require_memory(memory_phases(args, task, model.config, n_puzzles),
                          common.find_device(args.device), task, CURES)

    with common.Run('search', args, params=model.num_params()) as run:
        run.join_group()  # for the results; each process searches for itself
        generator = torch.Generator(run.device).manual_seed(args.seed + 10**6 * run.rank)
        solver = Solver(model.to(run.device).eval(), task, run, generator, args.temperature,
                        args.target, args.samples)
        if puzzles is None:
            final = best_of_k(solver, state['mode'], args)
        elif args.show is not None:
            final = show_tree(solver, puzzles[0].tolist(), args)
        elif args.method == 'calibration':
            final = measure_calibration(solver, args)
        elif args.method == 'budgets':
            final = measure_budgets(solver, puzzles, args)
        else:
            final = search_puzzles(solver, puzzles, args)
        run.leave_group()
        if not run.master:
            return None

        # the log's last record, the last line, the figure
        final |= dict(params=model.num_params(), model_seed=state['args'].get('seed'),
                      seed=args.seed, seconds=run.seconds())
        run.log(arm='final', **final)
        for name in ('tokens', 'flops', 'one_at_a_time_flops'):
            if name in final:
                final[name] = round(final[name])
        run.print(common.final_line(**final))
        plots.draw_run(run.out_dir)
        return final


if __name__ == '__main__':
    with one_line_errors():
        main()
