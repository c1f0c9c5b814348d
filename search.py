"""What does search buy a tiny model?

Tree of Thoughts (Yao et al. 2023, 2305.10601) took GPT-4 from 4% to 74% on the Game of 24 by searching. Here a model of 0.6 million
parameters, trained from scratch by train_cot.py and never on target 24, plays two roles in one sequence: its *verdict* says whether
the target can still be made from some numbers, its *policy* writes a step. Uninformed search alone beats GPT-4's 4%, so what counts
is the margin over search without a model, at equal nodes expanded and at equal states looked at.

1. best-of-k: k sampled chains, no search, chosen by the oracle (pass@k, unbiased as in Chen et al. 2021; a method on countdown, whose
   rules tell what is right, a ceiling on any other task), majority, log-probability, or verdict (log-odds summed over the states).
2. beam (ToT's breadth-first search): of all states one move from the b best, the b best by verdict. any-of-b: one of the last b gives
   the target, ToT's measure; top-1: the best of them does. dfs (ToT's other search): best child first, back where it ends, until solved
   or --budget is spent; pruned: a verdict below --prune is an end. --propose all: every legal move, the code does the arithmetic;
   --propose model: moves that the model samples, results included, of which the code discards the wrong ones.
3. Controls, same puzzles and moves, no model: random rollouts, dfs in random order (unlimited: exhaustive search), and beam and dfs on the
   Stream of Search's 'mult' heuristic (2404.03683), beam on random values: means over ten orders. At equal cost: the random order with
   one budget for every puzzle, such that it expands as many nodes, or looks at as many states, on average as the beam.
4. --jacobi: how many parallel rounds does a chain take (Santilli et al. 2023)? A meter of its sequential depth.
Costs, means over puzzles: *expansions*, nodes whose moves were listed or sampled; *states* looked at, every child valued or checked
(random order looks only at what it visits); *calls*, forward passes one after the other; *tokens* in them, and *flops*.
Departure: numbers stay integers from 0 to 199, as in the Stream of Search; 16 of the 1,362 puzzles need fractions and count as failed.

    python search.py                                                          # everything, on all Game-of-24 puzzles
    python search.py --puzzles results/tot-100.txt                            # the hundred on which GPT-4 was measured
    python search.py --ckpt out/train_cot-cycle-both/ckpt.pt --k 64           # best-of-k on another task
    torchrun --standalone --nproc_per_node=2 search.py --device cuda

The last line:  final method=beam b=5 ... target=24 n_test=1362 ... any_of_b=... top1=... expansions=... flops=...
"""

import math
import time
from pathlib import Path

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from tqdm import tqdm

import common
from data import OPTIONS, Parser, add_run_args, at_least, distinct, legal_moves, make_task, require, sample_batch, ways

DEFAULT, ALL, MODEL = 'out/train_cot-countdown-cot/ckpt.pt', 'all legal moves', "the model's moves"
COSTS = ('expansions', 'states', 'calls', 'tokens', 'flops')  # columns of a cost tensor (P, 5)
GPT4 = {'IO': (1, 0.073), 'CoT': (3, 0.04), 'CoT best-of-100': (300, 0.49), 'ToT b=1': (3, 0.45), 'ToT b=5': (11, 0.74)}  # expansions as counted here

def parse_args(argv):
    parser = Parser(prog='search.py', description=__doc__.split('\n')[0], epilog=__doc__[__doc__.index('    python'):__doc__.index('The last')])
    parser.add_argument('--ckpt', help=f'checkpoint of train_cot.py or train_rl.py (default: {DEFAULT})')
    parser.add_argument('--method', choices=('all', 'best_of_k', 'beam', 'dfs', 'baselines'), help='(default: all; other tasks than countdown: best_of_k)')
    parser.add_argument('--jacobi', action='store_true', help='count rounds of Jacobi decoding instead (default: off)')
    parser.add_argument('--puzzles', metavar='FILE', help='countdown: four integers from 1 to 13 a line (default: all solvable ones)')
    parser.add_argument('--target', type=at_least(0), default=24, help='countdown: a number that the model was not trained on (default: %(default)s)')
    parser.add_argument('--b', type=at_least(1), default=5, help='beam width (default: %(default)s)')
    parser.add_argument('--propose', choices=('all', 'model'), default='all', help='moves of beam and dfs: all legal ones, or sampled (default: %(default)s)')
    parser.add_argument('--samples', type=at_least(1), default=16, help='moves sampled from a state with --propose model (default: %(default)s)')
    parser.add_argument('--prune', type=at_least(0, float), default=0.01, help='dfs drops states with a smaller probability of yes (default: %(default)s)')
    parser.add_argument('--budget', type=at_least(1), default=100, help='dfs: nodes expanded at most (default: %(default)s)')
    parser.add_argument('--k', type=at_least(1), default=100, help='best-of-k, any task: chains sampled (default: %(default)s)')
    parser.add_argument('--temperature', type=at_least(0, float, above=True), default=1.0, help='of everything sampled (default: %(default)s)')
    parser.add_argument('--n_test', type=at_least(1), default=500, help='other tasks than countdown, and --jacobi: held-out instances (default: %(default)s)')
    add_run_args(parser, 'out/search-<task>-<method>', train=False)
    return parser.parse_args(argv)

def read_puzzles(path, n):
    """The puzzles of a file, n integers from 1 to 13 a line, (P, n) sorted; raises ValueError naming the first line that is something else."""
    lines = [line.split() for line in Path(path).read_text(encoding='utf-8', errors='replace').rstrip().splitlines()]
    for number, words in enumerate(lines, 1):
        good = len(words) == n and all(word.isascii() and word.isdigit() and 1 <= int(word) <= 13 for word in words)
        require(good, f'{path}, line {number}: expected {n} integers from 1 to 13, got {" ".join(words)[:40]!r}')
    require(lines, f'{path} holds no puzzle')
    return torch.tensor([sorted(map(int, words)) for words in lines])

def all_puzzles(n, target):
    """Every multiset of n numbers from 1 to 13 (of n > 4: of a fixed 200) that makes the target, with fractions or without, (P, n);
    first those with the fewest sequences of moves that do it, last those that need fractions. Raises ValueError where there is none."""
    x = torch.combinations(torch.arange(1, 14), n, with_replacement=True)
    x = x if n <= 4 else x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:200]]
    t = torch.full((len(x),), target)
    count, solvable = ways(x, t), ways(x.double(), t) > 0
    require(solvable.any(), f'no {n} numbers from 1 to 13 make {target}')
    return x[solvable][torch.where(count > 0, count, 10**9)[solvable].argsort(stable=True)]

def pay(cost, who, calls=0, **prices):
    """Add the prices (numbers, or (N,)) of N rows to their puzzles who (N,); but a call serves all rows of a puzzle, and counts once."""
    cost[who.unique(), COSTS.index('calls')] += calls
    for name, price in prices.items():
        cost[:, COSTS.index(name)].index_add_(0, who, torch.as_tensor(price, device=who.device).expand(len(who)))

def verdict(on, x, who, cost):
    """Log-odds of 'yes' for states x (N, m) of puzzles who (N,); a state that several share is computed once, and paid for by each.
    on: the flags, and model, task, run, mode and generator (see main)."""
    states, back = torch.unique(x, dim=0, return_inverse=True)
    prompt = on.task.prompt(states.new_full((len(states),), on.target), states)
    n = prompt.size(1)
    last = (torch.arange(n, device=x.device) == n - 1).expand_as(prompt)
    with on.run.autocast:
        logits = torch.cat([on.model(p, wanted) for p, wanted in zip(prompt.split(4096), last.split(4096), strict=True)]).float()
    pay(cost, who, calls=1, tokens=n, flops=on.model.flops(n, 1, n))
    return (logits[:, on.task.yes] - logits[:, on.task.no])[back]

def write_steps(on, x, samples):
    """Steps sampled in states x (N, m), each told that its verdict is yes: the numbers then left (N * samples, m - 1), which steps
    are legal and right (N * samples,), their log-probabilities (N * samples,)."""
    yes = x.new_full((len(x), 1), on.task.yes)
    prompt = torch.cat((on.task.prompt(yes[:, 0] * 0 + on.target, x), yes), dim=1)
    with on.run.autocast:
        parts = [on.model.generate(p, 5, on.temperature, generator=on.generator, samples=samples, return_logp=True)
                 for p in prompt.split(max(1, 8192 // samples))]
    step, logp = map(torch.cat, zip(*parts, strict=True))
    return *on.task.play(x.repeat_interleave(samples, 0), step[:, -5:]), logp.sum(1)

def expand(on, x, who, cost):
    """The states one move from states x (N, m): child (N, M, m - 1), and ok (N, M), which of them are legal and the first of their kind."""
    pay(cost, who, expansions=1)
    if on.propose == 'all':
        child, ok, _ = legal_moves(x)
    else:
        child, ok, _ = (y.unflatten(0, (len(x), on.samples)) for y in write_steps(on, x, on.samples))
        pay(cost, who, calls=5, tokens=(n := on.task.numbers + 2 + 4 * on.samples), flops=on.model.flops(n, 1 + 4 * on.samples, on.task.block_size))
    return child, distinct(child, ok)

def mult(on, x, who, cost):
    """The Stream of Search's heuristic, negated: distances of the numbers to the nearest factor of the target, 1 not counted, summed."""
    factors = torch.tensor([f for f in range(2, on.target + 1) if on.target % f == 0] or [0], device=x.device)
    return -(x[:, :, None] - factors).abs().amin(2).sum(1) + chance(on, x, who, cost)  # ties at random

def chance(on, x, who, cost):
    return torch.rand(len(x), generator=on.generator, device=x.device)

def beam(on, puzzles, b, value):
    """Breadth-first search over puzzles (P, n), all at once. Returns solved (P, b) bool by rank of the last state, and cost (P, 5)."""
    cost, x, who = puzzles.new_zeros(len(puzzles), 5), puzzles, torch.arange(len(puzzles), device=puzzles.device)
    rank, solved = torch.zeros_like(who), torch.zeros(len(puzzles), b, dtype=torch.bool, device=who.device)
    while x.size(1) > 2:
        child, ok = expand(on, x, who, cost)
        flat = torch.unique(torch.cat((who[:, None, None].expand(-1, ok.size(1), 1), child), dim=2)[ok], dim=0)  # parents may share a child
        who, x = flat[:, 0].contiguous(), flat[:, 1:]  # sorted by puzzle
        pay(cost, who, states=1)
        order = value(on, x, who, cost).argsort(descending=True, stable=True)
        order = order[who[order].argsort(stable=True)]  # by puzzle again, and of each the best first: who is who[order]
        rank = torch.arange(len(who), device=who.device) - torch.searchsorted(who, who)
        who, x, rank = who[rank < b], x[order][rank < b], rank[rank < b]
    child, ok = expand(on, x, who, cost)
    pay(cost, who, states=ok.sum(1))
    solved[who, rank] = ((child[:, :, 0] == on.target) & ok).any(1)  # one number is left: the rules of the game judge it
    return solved, cost

def dfs(on, puzzles, budget, value, prune=-math.inf):
    """Depth-first search over puzzles (P, n), all at once, best child first (value None: in random order), until a puzzle is solved, has
    expanded `budget` nodes, or nothing is open; children valued below prune are dropped. Returns solved (P, 1) bool, cost (P, 5)."""
    # The deepest open states go first, so all that are open at one depth are siblings: one family a depth is all there is to remember.
    cost, solved, n = puzzles.new_zeros(len(puzzles), 5), torch.zeros_like(puzzles[:, 0], dtype=torch.bool), puzzles.size(1)
    family, score = {n: puzzles[:, None]}, {n: torch.zeros_like(puzzles[:, :1], dtype=torch.float)}  # by numbers left; closed: score -inf
    for m in range(n - 1, 1, -1):
        width = 2 * m * (m + 1) if on.propose == 'all' else on.samples
        family[m], score[m] = puzzles.new_zeros(len(puzzles), width, m), torch.full((len(puzzles), width), -math.inf, device=puzzles.device)
    while True:  # every puzzle expands its best open state at its deepest open depth, those at one depth as one batch
        depth = torch.zeros_like(cost[:, 0])
        for m in range(n, 1, -1):
            depth[(score[m] > -math.inf).any(1)] = m
        depth[solved | (cost[:, 0] >= budget)] = 0
        if not depth.any():
            return solved[:, None], cost
        for m in depth[depth > 0].unique().tolist():
            who = (depth == m).nonzero()[:, 0]
            pick = score[m][who].argmax(1)
            score[m][who, pick] = -math.inf
            child, ok = expand(on, family[m][who, pick], who, cost)
            seen = ok.sum(1) if m == 2 or value else 0  # in random order a state is looked at when it is visited, else when it is valued
            pay(cost, who, states=seen + int(value is None and m < n))
            if m == 2:
                solved[who] = ((child[:, :, 0] == on.target) & ok).any(1)
                continue
            family[m - 1][who], v = child, torch.full(ok.shape, -math.inf, device=puzzles.device)
            v[ok] = (value or chance)(on, child[ok], who[ok.nonzero()[:, 0]], cost)
            score[m - 1][who] = v.masked_fill(v < prune, -math.inf)

def sample_chains(on, puzzles, k, policy):
    """k chains for each puzzle (P, n), no search: from the model's policy, or of random legal moves. Returns right (P, k) bool, answer (P, k)
    int64 (which solution; -1: a step was wrong), scores {rule: (P, k)}, and costs (P, 5): once, however many the chains, and for all k."""
    once, cost, x = puzzles.new_zeros(len(puzzles), 5), puzzles.new_zeros(len(puzzles), 5), puzzles.repeat_interleave(k, 0)
    rows = torch.arange(len(x), device=x.device)  # of the chains that are still legal
    logp, judged = torch.zeros(2, len(x), device=x.device)
    answer, right = torch.zeros_like(rows), torch.zeros_like(rows, dtype=torch.bool)
    while (m := x.size(1)) > 1:
        pay(cost, who := rows // k, expansions=1, states=1)
        if policy:
            first = m == puzzles.size(1)  # then one prompt serves k chains
            child, legal, lp = write_steps(on, puzzles, k) if first else write_steps(on, x, 1)
            pay(once, who, calls=5)  # the chains go side by side, and share their first prompt
            n = on.task.numbers + 2
            pay(once if first else cost, who.unique() if first else who, tokens=n, flops=on.model.flops(n, 1, n))
            pay(cost, who, tokens=4, flops=on.model.flops(4, 4, n + 4))
            logp[rows] += lp
            judged[rows] += 0 if first else verdict(on, x, who, torch.zeros_like(cost))  # the policy's own pass gives it
        else:
            children, ok, _ = legal_moves(x)
            move = torch.rand(ok.shape, generator=on.generator, device=x.device).masked_fill(~distinct(children, ok), -1).argmax(1)
            child, legal = children[torch.arange(len(x), device=x.device), move], torch.ones_like(rows, dtype=torch.bool)
        answer[rows] = answer[rows] * 1000003 + (child * 211 ** torch.arange(m - 1, device=x.device)).sum(1)
        answer[rows[~legal]] = -1
        rows, x = rows[legal], child[legal]
    right[rows], answer[rows] = x[:, 0] == on.target, answer[rows].abs()
    right, answer, logp, judged = (y.view(len(puzzles), k) for y in (right, answer, logp, judged))
    return right, answer, {'log-prob': logp, 'verdict': judged} if policy else {}, once, cost

def sample_answers(on):
    """The same for on.n_test held-out instances of another task, at its largest hop count; an expansion is a chain."""
    hops, k, pieces = max(on.task.hops), on.k, []
    batch = sample_batch(on.task, on.n_test, on.seed, hops * 10**6, 'test', on.mode, hops)[on.run.rank::on.run.world].to(on.run.device)
    P, L, B = batch.prompt_len, batch.tokens.size(1) - batch.prompt_len, len(batch.hops)
    for rows in torch.arange(B, device=batch.tokens.device).split(max(1, 20000 // k)):
        rows = batch[rows.repeat_interleave(k)]
        with on.run.autocast:
            out, logp = on.model.generate(rows.tokens[::k, :P], L, on.temperature, generator=on.generator, samples=k, return_logp=True)
        answer = (out.gather(1, rows.answer) * 1000003 ** torch.arange(rows.answer.size(1), device=out.device)).sum(1) & (2**62 - 1)  # a hash
        pieces.append((on.task.right(rows, out).gather(1, rows.answer).all(1), answer, logp.sum(1)))
    right, answer, logp = (torch.cat(x).view(B, k) for x in zip(*pieces, strict=True))
    n, flops = k * (L - 1), on.model.flops
    once, cost = torch.tensor([[0, 0, L, P, flops(P, 1, P)], [k, k, 0, n, flops(n, n, P + L)]], device=right.device)[:, None].expand(-1, B, -1)
    return right, answer, {'log-prob': logp}, once, cost

def pass_at_k(right, k):
    """The probability that one of k answers is right, unbiased from n >= k: 1 - C(n - c, k) / C(n, k), c of right (P, n) being so. (P,)"""
    n, c, j = right.size(1), right.sum(1, keepdim=True), torch.arange(k, device=right.device)
    return 1 - ((n - c - j).clamp(min=0) / (n - j)).prod(1)

def choose(right, answer, scores):
    """(k, rule, accuracy (P,)) of choosing among k of n answers (P, n), k = 1, 2, 4, ... n: mean over n // k blocks (oracle: all subsets)."""
    for k in sorted({right.size(1)} | {2**i for i in range(right.size(1).bit_length())}):
        right_k, answer_k, *scores_k = (y[:, :y.size(1) // k * k].unflatten(1, (-1, k)) for y in (right, answer, *scores.values()))
        votes = (answer_k[..., :, None] == answer_k[..., None, :]).sum(-1)
        yield k, 'oracle', pass_at_k(right, k)
        for rule, s in zip(('majority', *scores), (votes, *scores_k), strict=True):
            yield k, rule, right_k.gather(2, s.masked_fill(answer_k == -1, -1e9).argmax(2, keepdim=True)).float().mean((1, 2))

def gather(on, x, total):
    """Results (p, ...) of the puzzles of every process, in the order of the puzzles: (total, ...) float64 on the CPU."""
    full = torch.zeros(total, *x.shape[1:], dtype=torch.float64)
    full[on.run.rank::on.run.world] = x.cpu().double()
    if on.run.world > 1:
        dist.all_reduce(full)
    return full

def at_equal_cost(solved, spent, mean):
    """The share that would be solved if every run had the same budget, such that `mean` is spent on average; solved, spent: without one."""
    budget = next((b for b in spent.unique() if spent.clamp(max=b).mean() >= mean), math.inf)
    return (solved * (spent <= budget)).mean().item()

def measure(on, puzzles):
    """Every method asked for, one after the other: series, setting, who did the arithmetic, orders, solved, cost. puzzles None: another task."""
    def beams(series, arithmetic, value, orders=1):
        for b in sorted({1, (on.b + 1) // 2, on.b}):
            yield f'beam, {series}', f'b={b}', arithmetic, orders, *beam(on, puzzles.repeat_interleave(orders, 0), b, value)
    def depths(series, arithmetic, value, budgets, prune=-math.inf, orders=1):
        for n in budgets:
            yield f'dfs, {series}', f'{n} expansions', arithmetic, orders, *dfs(on, puzzles.repeat_interleave(orders, 0), n, value, prune)
    def chains(series, arithmetic, right, answer, scores, once, cost):
        for k, rule, solved in choose(right, answer, scores):
            yield f'{series}, {rule}', f'k={k}', arithmetic, 1, solved[:, None], once + cost * k / right.size(1)
    if puzzles is None:
        return (yield from chains('best-of-k', 'model', *sample_answers(on)))
    budgets = (1 + (puzzles.size(1) - 2) * on.b, on.budget)  # as many as the beam; more
    for propose in ('all', 'model') if on.method == 'all' else (on.propose,):
        on.propose = propose
        name, arithmetic = (ALL, 'code') if on.propose == 'all' else (MODEL, 'model')
        yield from beams(name, arithmetic, verdict) if on.method in ('all', 'beam') else ()
        for prune in sorted({0.0, on.prune}) if on.method in ('all', 'dfs') else ():
            yield from depths(name + ', pruned' * (prune > 0), arithmetic, verdict, budgets, torch.tensor(prune).logit().item())  # as log-odds
    if on.method in ('all', 'best_of_k'):
        yield from chains('best-of-k', 'model', *sample_chains(on, puzzles, on.k, True))
    if on.method in ('all', 'baselines'):
        on.propose = 'all'
        yield from chains('random rollouts', 'code', *sample_chains(on, puzzles, on.k, False))
        yield from beams('random values', 'code', chance, 10)
        yield from beams("'mult' heuristic", 'code', mult, 10)
        yield from depths("'mult' heuristic", 'code', mult, budgets, orders=10)
        yield from depths('random order', 'code', None, (*budgets, math.inf), orders=10)

def plot(rows, path, title, game):
    """Accuracy against forward FLOPs and against nodes expanded (other tasks: k); what uses no model is a line across the first panel."""
    left, right = (figure := Figure(figsize=(12, 5.4), layout='constrained')).subplots(1, 2, sharey=True)
    colours = iter(('tab:blue', 'tab:purple', 'violet', 'tab:cyan', 'navy', 'slateblue') * game + ('tab:orange', 'tab:brown', 'tab:olive', 'tab:red'))
    for series in dict.fromkeys(series for series, _ in rows if series != 'random rollouts, majority'):
        points = sorted((r['expansions'], r['flops'], r['solved'], setting) for (s, setting), r in rows.items() if s == series)
        nodes, work, solved, settings = zip(*points, strict=True)
        style = dict(color=next(colours) if work[0] else '0.6' if 'random' in series else 'black', linestyle='--' if 'dfs' in series else '-')
        right.plot(nodes, solved, **style, marker='o' if 'beam' in series else '.', ms=5, label=series)
        if work[0]:
            left.plot(work, solved, **style, marker='o' if 'beam' in series else '.', ms=5)
        elif 'rollouts' not in series:
            left.axhline(solved[i := 0 if 'dfs' in series else -1], **style, linewidth=1)
            left.text(0.01, solved[i], f'{series}, {settings[i]}', fontsize=7, va='bottom', transform=left.get_yaxis_transform())
    for name, (x, y) in GPT4.items() if ', target 24,' in title else ():
        right.plot(x, y, color='tab:green', marker='*', ms=11, linestyle='none', label='GPT-4 (Yao et al. 2023), on 100 puzzles' if name == 'IO' else None)
        right.annotate(name, (x, y), xytext=(6, -4), textcoords='offset points', fontsize=8, color='tab:green')
    left.set(xscale='log', xlabel='forward FLOPs a question', ylabel='share solved (beam: any of b)', title=title, ylim=(0, 1.03))
    right.set(xscale='log', xlabel='nodes expanded a puzzle' if game else 'chains sampled, k')
    figure.legend(*right.get_legend_handles_labels(), loc='outside lower center', ncols=4, fontsize=8)
    common.write_atomic(path, lambda tmp: figure.savefig(tmp, dpi=110, format='png'))

def search(on, puzzles):
    """All rows, the table, the figure; returns what the last line says. puzzles None: best-of-k on another task than countdown."""
    rows, sets, game, name = {}, {'': slice(None)}, puzzles is not None, ALL if on.propose == 'all' else MODEL
    if game:
        total, solvable = len(puzzles), int((ways(puzzles, torch.full((len(puzzles),), on.target)) > 0).sum())
        final, head = dict(target=on.target, n_test=total, solvable=solvable), f'{total:,} puzzles, target {on.target}, integers solve {solvable:,}'
        sets |= {} if on.puzzles else {'_hard': slice(100)}  # those with the fewest solutions
        puzzles = puzzles[on.run.rank::on.run.world].to(on.run.device)
    else:
        total, head = on.n_test, f'{on.n_test:,} held-out instances of {on.task.name}; oracle: one of k is right, a ceiling'
        final = dict(task=on.task.name, hops=max(on.task.hops), n_test=total, chance=on.task.chance(max(on.task.hops)))
    if on.run.master:
        print(f'{head}\n{"method":48} arithmetic' + ''.join(f'{s[1:] or "solved":>7}  top-1' for s in sets)
              + '  expansions  states  calls  tokens  MFLOP', flush=True)
    for series, setting, arithmetic, orders, solved, cost in tqdm(measure(on, puzzles), disable=None if on.run.master else True, leave=False):
        any_and_first = torch.stack((solved.amax(1), solved[:, 0]), dim=1)  # (p * orders, 2)
        solved, cost = (gather(on, x.unflatten(0, (len(x) // orders, orders)), total) for x in (any_and_first, cost))
        r = {x + s: solved[of, :, i].mean().item() for s, of in sets.items() for i, x in enumerate(('solved', 'top1')[:1 + ('beam' in series)])}
        rows[series, setting] = r = r | dict(zip(COSTS, cost.mean((0, 1)).tolist(), strict=True))
        if on.run.master:
            cells = ''.join(f'{r[x]:7.3f}' if x in r else '      -' for s in sets for x in (f'solved{s}', f'top1{s}'))
            tqdm.write(f'{series:32}{setting:17}{arithmetic:10}{cells}{r["expansions"]:12.1f}{r["states"]:8.1f}{r["calls"]:7.1f}{r["tokens"]:8.0f}'
                       f'{r["flops"] / 1e6:7.0f}')
            common.log(on.out_dir, arm='row', series=series, setting=setting, arithmetic=arithmetic, **r)
    if not on.run.master:
        return {}
    plot(rows, Path(on.out_dir) / 'plot.png', head, game)
    series = {'best_of_k': 'best-of-k, oracle', 'dfs': f'dfs, {name}', 'baselines': 'dfs, random order'}.get(on.method, f'beam, {name}')
    r = [r for (s, _), r in rows.items() if s.startswith(series)][-1]
    by_beam = {'b': on.b, 'propose': 'all' if name == ALL else 'model', 'b1': rows[series, 'b=1']['solved']} if series[:4] == 'beam' else {}
    r = r if game else {x: y for x, y in r.items() if x != 'solved'}  # where nobody may look at the answer the oracle solves nothing
    final = {'method': 'beam' if by_beam else on.method} | by_beam | final | {x.replace('solved', 'any_of_b') if by_beam else x: y for x, y in r.items()}
    if on.method == 'all':  # the controls at the price of the beam; the last cost measured is that of the unlimited random order
        final |= {f'random_{x}': at_equal_cost(solved[..., 0], cost[..., COSTS.index(x)], r[x]) for x in ('expansions', 'states')}
        k = next((k for (s, k), x in rows.items() if s == 'best-of-k, oracle' and x['flops'] >= r['flops']), f'k={on.k}')
        final |= dict(mult=rows["beam, 'mult' heuristic", f'b={on.b}']['solved'], same_flops_k=k[2:], same_flops=rows['best-of-k, oracle', k]['solved'])
    if on.method in ('all', 'best_of_k'):
        final |= {'k': on.k} | {s.split(', ')[1].replace('-', '_'): x['solved'] for (s, k), x in rows.items() if 'best' in s and k == f'k={on.k}'}
    return final

def jacobi(on):
    """In how many parallel rounds is a greedy chain final? By hop count; returns what the last line says."""
    for k in on.task.hops:
        batch = sample_batch(on.task, on.n_test, on.seed, k * 10**6, 'test', on.mode, k)[on.run.rank::on.run.world].to(on.run.device)
        prompt, L = batch.tokens[:, :batch.prompt_len], batch.tokens.size(1) - batch.prompt_len
        with on.run.autocast:
            (out, rounds), greedy = on.model.generate(prompt, L, jacobi=True), on.model.generate(prompt, L)
        asked = batch.loss_mask[:, batch.prompt_len:]  # behind a 'no' of countdown nothing is asked for
        rounds, n, equal = (gather(on, x, on.n_test) for x in ((rounds * asked).amax(1), asked.sum(1), (out == greedy)[:, -L:].logical_or(~asked).all(1)))
        r = dict(hops=k, tokens=n.mean().item(), rounds=rounds.mean().item(), most=int(rounds.max()), equal=equal.mean().item())
        if on.run.master:
            print(f'k={k}: {r["tokens"]:.2f} tokens, final after {r["rounds"]:.2f} rounds on average, {r["most"]} at most; equal to greedy: {r["equal"]:.3f}')
            common.log(on.out_dir, arm='row', **r)
    return dict(method='jacobi', task=on.task.name, **r, n_test=on.n_test)

@torch.no_grad()
def main(argv=None):
    begin, args = time.time(), parse_args(argv)
    if args.ckpt is None and not Path(DEFAULT).exists():
        common.die(f'there is no checkpoint {DEFAULT} yet; this makes it: python train_cot.py --task countdown')
    args.ckpt = args.ckpt or DEFAULT
    run = common.setup(args)
    model, state = common.load_checkpoint(args.ckpt, run.device)
    mode, puzzles = state['args'].get('arm', 'cot'), None
    try:
        require(state['args'].get('task') in OPTIONS, f'{args.ckpt} is of {state["args"]["script"]}.py, whose task has no search')
        task = make_task(type(args)(**{name: None for names in OPTIONS.values() for name in names} | state['args']))
        game = task.name == 'countdown'
        args.method = 'jacobi' if args.jacobi else args.method or ('all' if game else 'best_of_k')
        if not game and (args.method not in ('best_of_k', 'jacobi') or args.puzzles):
            raise ValueError(f'{args.ckpt} is of {task.name}, which has no states to search: --method best_of_k or --jacobi, and no --puzzles')
        if game and not args.jacobi:
            trained = args.target in set(task.targets) - set(task.holdout_targets)
            if trained or mode == 'direct' or args.target > task.largest or args.prune > 1:
                raise ValueError(f'{args.ckpt} was trained on target {args.target}, held out: {task.holdout_targets}' if trained else
                                 f'{args.ckpt} writes no steps; train with --mode cot' if mode == 'direct' else f'at most: --target {task.largest}, --prune 1')
            puzzles = read_puzzles(args.puzzles, task.numbers) if args.puzzles else all_puzzles(task.numbers, args.target)
    except (KeyError, ValueError, OSError) as error:
        common.die(str(error))
    args.out_dir = args.out_dir or f'out/search-{task.name}' + f'-{args.method}' * (args.method != 'all')
    args.device, args.dtype, args.processes = run.device.type, 'bfloat16' if run.bf16 else 'float32', run.world
    if run.master:
        common.open_run(args.out_dir, {'script': 'search', **{k: v for k, v in vars(args).items() if k != 'out_dir'}}, False, params=model.num_params())
    common.catch_signals(exit_now=True)
    if run.world > 1:
        dist.init_process_group('gloo')  # for results alone
    args.model, args.task, args.run, args.mode = model.eval(), task, run, mode
    args.generator = torch.Generator(run.device).manual_seed(args.seed + 10**6 * run.rank)
    final = jacobi(args) if args.jacobi else search(args, puzzles)
    if dist.is_initialized():
        dist.destroy_process_group()
    if run.master:
        final |= dict(params=model.num_params(), model_seed=state['args'].get('seed'), seed=args.seed, seconds=time.time() - begin)
        common.log(args.out_dir, arm='final', **final)
        print(common.final_line(**final | {x: round(final[x]) for x in ('tokens', 'flops') if 'flops' in final}))

if __name__ == '__main__':
    main()
