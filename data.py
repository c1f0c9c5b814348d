"""Every synthetic task: sample instances, write them as tokens, say which tokens carry loss, and know the right answer.

Chain of thought, answering directly and path-only loss are the same instances under different tokens and masks: `prompt | chain | answer`, loss on chain and
answer; `prompt | answer`, no chain at all, loss on the answer. `loss_mask[b, t]` says whether token t of row b is a *target* that carries loss: the model that
has read tokens 0 .. t-1 is asked for it; so the loss is cross-entropy(model(tokens[:, :-1])[loss_mask[:, 1:]], tokens[:, 1:][loss_mask[:, 1:]]).
1. `(seed, split, step)` alone determines a batch: a resumed run sees the data of an uninterrupted one, and every process takes its slice of one global batch.
2. Test instances are never trained on: a hash of the instance (graph, table, factors; not its presentation) sends 1 in 10 to 'test'. Countdown: whole targets.
3. No Python loop runs over a batch.

    python data.py --task cycle --n 3            # literal examples, [loss-bearing] tokens in brackets, the oracle's answer
    python data.py --task star --star 2,3 --raw  # one plain line an example"""

import argparse
import os
from dataclasses import dataclass, fields

import numpy as np
import torch

SPLITS = ('train', 'test')

def require(ok, message):  # the check behind every size and flag; the scripts turn the error into one line
    if not ok:
        raise ValueError(message)

@dataclass
class Batch:
    """B instances of one task, ready for the model. Tensors share a device."""
    tokens: torch.Tensor  # (B, T) int64: prompt, chain, answer; rows with fewer hops are padded on the right
    loss_mask: torch.Tensor  # (B, T) bool: this token is a target that carries loss
    answer: torch.Tensor  # (B, A) int64: where in `tokens` the answer stands
    hops: torch.Tensor  # (B,) int64: lookups from the prompt to the answer
    instance: torch.Tensor  # (B, ...) int64: what the evaluation needs, see each task
    prompt_len: int  # tokens before the chain, in the rows where they are the most

    @property
    def start(self):  # (B,) where the chain starts
        return self.loss_mask.byte().argmax(1)

    def __getitem__(self, rows):  # a slice, or an index tensor
        return Batch(*(v if isinstance(v, int) else v[rows] for v in (getattr(self, f.name) for f in fields(self))))

    def to(self, device):
        return Batch(*(v if isinstance(v, int) else v.to(device, non_blocking=True) for v in (getattr(self, f.name) for f in fields(self))))

def held_out(key):
    """Which instances (B, L) belong to the test split: a 64-bit hash modulo 10, (B,) bool. No seed: a checkpoint of one run can be tested by another."""
    power = np.cumprod(np.full(key.shape[1], 0x9E3779B97F4A7C17, dtype=np.uint64))  # polynomial hash modulo 2^64
    h = (key.astype(np.uint64) + np.uint64(1)) @ power
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (29, 0xC4CEB9FE1A85EC53)):  # avalanche, as in MurmurHash3's finaliser
        h = (h ^ (h >> np.uint64(shift))) * np.uint64(factor)
    return (h >> np.uint64(32)) % np.uint64(10) == 0

def sample_batch(task, batch_size, seed, step, split='train', mode='cot', hops=None):
    """The batch of this (seed, split, step). mode: 'cot' writes the chain and puts loss on it and on the answer, 'direct' leaves it out. hops: of every row, or
    a list to draw from for each, by default task.hops. Raises ValueError for hops the task was not made for, or if (almost) no instances are in this split."""
    asked = [hops] if isinstance(hops, int) else hops or task.hops
    require(set(asked) <= set(task.hops), f'{task.name} was made for hops {show_range(task.hops)}, not {hops}')
    rng, want, missing = np.random.default_rng([seed, SPLITS.index(split), step]), [], batch_size
    while missing > 0:
        require(len(want) < 100, f'{task.name} of this size has too few instances to hold some out for testing; make it larger')
        size = int(missing * (1.2 if split == 'train' else 1.1 / task.test_share)) + 16  # a few more than needed, to keep those of this split
        k = np.full(size, hops) if isinstance(hops, int) else rng.choice(asked, size)
        key, source = task.draw(rng, k)
        mine = np.flatnonzero(task.in_split(key, split))[:missing]
        want.append((source[mine], k[mine]))
        missing -= len(mine)
    return write_batch(task, rng, *map(np.concatenate, zip(*want, strict=True)), mode)

def write_batch(task, rng, source, hops, mode):
    """The batch that shows these instances, as task.draw gives them, in this mode; rng decides what is left open (the order of pairs or edges)."""
    prompt, chain, chain_len, instance = task.write(rng, source, hops)
    chain, size = chain[:, :chain_len.max()], np.minimum(task.answer_size(source), chain_len)
    place = np.minimum(np.arange(task.answer_len), size[:, None] - 1)  # (B, A): of a shorter answer the last token, again and again
    slot = place + (0 * chain_len if task.answer_first else chain_len - size)[:, None]  # where the answer stands in the chain
    if mode == 'direct':
        chain, chain_len, slot = np.take_along_axis(chain, slot, 1), size, place
    carries = np.arange(chain.shape[1]) < chain_len[:, None]
    tokens = np.concatenate((prompt, np.where(carries, chain, task.pad)), axis=1)
    loss_mask = np.concatenate((np.zeros(prompt.shape, dtype=bool), carries), axis=1)
    start = (prompt >= 0).sum(1)
    if start.min() < prompt.shape[1]:  # prompts of different lengths: -1 is where there is nothing, and what follows moves up
        order = (tokens < 0).argsort(axis=1, kind='stable')[:, :(start + chain_len).max()]
        tokens, loss_mask = np.take_along_axis(np.where(tokens < 0, task.pad, tokens), order, 1), np.take_along_axis(loss_mask, order, 1)
    arrays = (tokens.astype(np.int64), loss_mask, start[:, None] + slot, hops.astype(np.int64), instance.astype(np.int64))
    return Batch(*map(torch.from_numpy, arrays), prompt_len=int(start.max()))

def shuffled(rng, B, n):  # (B, n): an independent uniform permutation of 0 .. n-1 in every row
    return rng.random((B, n)).argsort(axis=1)

class Task:
    """What all tasks share. A task has as attributes its flags, name, hops (list of hop counts), vocab (strings; the first `symbols` are nodes or digits,
    what a chain is made of), block_size (longest sequence), answer_len (A), pad (token id), test_share (about, of the instances drawn), and
    draw(rng, hops (B,)) -> key (B, L), source (B, ...)   random instances; key is what identifies one for the split
    write(rng, source, hops) -> prompt (B, P), chain (B, L), chain_len (B,), instance (B, ...)   the chain ends in the answer; answer_first: begins with it
    valid(batch, chain (B, L)) -> (B, L) bool   which chain tokens truly follow from the tokens before them
    right(batch, out (B, T)) -> (B, T) bool   which tokens are right: here, those that equal the batch's
    oracle(prompt) -> the chain of one prompt, a list of ids, worked out from its tokens alone
    answer_size(source) -> (B,) int, how many tokens the answer of each row has, answer_len at most
    chance(hops) -> accuracy of the best answer that does not follow the instance's structure: here `guess`, whatever the hop count"""
    answer_first, test_share = False, 0.1

    def in_split(self, key, split):
        return held_out(key) == (split == 'test')

    def answer_size(self, source):
        return np.full(len(source), self.answer_len)

    def chance(self, hops):
        return self.guess

    def right(self, batch, out):
        return (out == batch.tokens) | ~batch.loss_mask

    def encode(self, text):  # '3 k=4 0' -> [3, 23, 0]; raises ValueError at a word that is not in the vocabulary
        return [self.vocab.index(word) for word in text.split()]

    def decode(self, ids):  # [3, 23, 0] -> '3 k=4 0'
        return ' '.join(self.vocab[i] for i in ids)

# ----------------------------------------------------------------------------- pointer chasing: cycle and cvpr
class Lookup(Task):
    """Follow a table sigma from a start node: the chain is sigma(s), sigma^2(s), ..., its last node, sigma^k(s), the answer. With 4 nodes and 2 hops:
        --format table   2 0 3 1 k=2 0 [2] [3]           position i holds sigma(i); pairs:   3 1 0 2 1 0 2 3 k=2 0 [2] [3]   i sigma(i), in random order
    The prompt ends with the hop count, then the start: one layer can look up only what its own position holds. hops=k is exactly k lookups; FactorExe's
    num_hops=h is h+1 of them. `instance` is the table sigma (B, n)."""
    answer_len = 1

    def __init__(self, nodes=20, hops=(4,), format='table'):
        require(3 <= nodes <= 10**5, f'{self.name} takes from 3 to 100,000 nodes, got {nodes}')
        require(1 <= min(hops) <= max(hops) < nodes, f'hops must be from 1 to nodes - 1 = {nodes - 1}, got {show_range(hops)}')
        require(format in ('table', 'pairs'), f'format must be table or pairs, got {format}')
        self.nodes, self.hops, self.format, self.symbols, self.guess = nodes, list(hops), format, nodes, 1 / (nodes - 1)  # any node but the start
        self.vocab = [str(i) for i in range(nodes)] + [f'k={k}' for k in range(1, max(hops) + 1)] + ['_']
        self.pad, self.block_size = len(self.vocab) - 1, nodes * (2 if format == 'pairs' else 1) + 2 + max(hops)

    def write(self, rng, source, hops):
        table, start, chain = source[:, :-1], source[:, -1:], [source[:, -1:]]  # (B, n), (B, 1)
        order = shuffled(rng, *table.shape) if self.format == 'pairs' else None
        shown = table if order is None else np.stack((order, np.take_along_axis(table, order, 1)), axis=2).reshape(len(table), -1)
        for _ in range(max(self.hops)):
            chain.append(np.take_along_axis(table, chain[-1], 1))
        return np.concatenate((shown, self.nodes + hops[:, None] - 1, start), axis=1), np.concatenate(chain[1:], axis=1), hops, table

    def valid(self, batch, chain):
        before = torch.cat((batch.tokens[:, batch.prompt_len - 1:batch.prompt_len], chain[:, :-1]), dim=1)  # start, c_1, ...
        return (before < self.nodes) & (chain == batch.instance.gather(1, before.clamp(max=self.nodes - 1)))

    def oracle(self, prompt):
        *shown, hop, node = prompt
        sigma = dict(zip(shown[::2], shown[1::2], strict=True)) if self.format == 'pairs' else shown
        return [node := sigma[node] for _ in range(hop - self.nodes + 1)]

class Cycle(Lookup):
    """A permutation of n nodes that is one cycle (FactorExe's Cycle): k < n hops never come back to a node."""
    name, flags = 'cycle', ('nodes', 'hops', 'format')

    def draw(self, rng, hops):
        order = shuffled(rng, len(hops), self.nodes)  # the cycle in its own order; where it starts is the start node
        table = np.empty_like(order)
        np.put_along_axis(table, order, np.roll(order, -1, axis=1), axis=1)
        return table, np.concatenate((table, order[:, :1]), axis=1)

class CVPR(Lookup):
    """Conditional Pointer Value Retrieval (Abnar et al. 2023): follow pointers that increase, x[i] > i, until a value, x[i] <= i, which is the answer.
    k hops read k - 1 pointers and the value; cells off the path are uniform noise. FactorExe's C_VPR begins at cell 0, this at the start node."""
    name, flags = 'cvpr', ('nodes', 'hops', 'format')

    def draw(self, rng, hops):
        B, n, row = len(hops), self.nodes, np.arange(len(hops))
        path = np.argsort(shuffled(rng, B, n) >= hops[:, None], axis=1, kind='stable')  # k random cells first, in increasing order
        target = np.take_along_axis(table := rng.integers(n, size=(B, n)), path, 1)
        target[:, :-1] = np.where(np.arange(n - 1) < hops[:, None] - 1, path[:, 1:], target[:, :-1])  # each points at the next
        target[row, hops - 1] = rng.integers(path[row, hops - 1] + 1)  # and the last holds a value no larger than its index
        np.put_along_axis(table, path, target, axis=1)
        return table, np.concatenate((table, path[:, :1]), axis=1)

    def chance(self, hops):
        # the best blind guess is 0: E[1 / (p + 1)] over p, the largest of `hops` distinct cells, P(p) = C(p, k-1) / C(n, k), from p = n - 1 down
        p = np.arange(self.nodes - 1, hops - 2, -1)
        prob = hops / self.nodes * np.append(1, (p[:-1] - hops + 1) / p[:-1]).cumprod()
        return float((prob / (p + 1)).sum())

# ----------------------------------------------------------------------------- multiplication
class Multiply(Task):
    """Two N-digit numbers; for each digit of the second: the partial product, then the running sum, least significant digit first (--reverse: last). The last
    running sum, 2N digits, is the product, the answer. `instance` is the two factors (B, 2). 27 * 43 = 1161 by way of 081, sum 081, 108, 81 + 1080:
        2 7 * 4 3 = [1] [8] [0] [1] [8] [0] [8] [0] [1] [1] [6] [1] [1]"""
    name, flags = 'multiply', ('digits', 'reverse')

    def __init__(self, digits=3, reverse=False):
        require(1 <= digits <= 9, f'digits must be from 1 to 9 (products are int64), got {digits}')
        self.digits, self.reverse, self.hops, self.vocab = digits, reverse, [digits], [*'0123456789*=_']
        self.widths = [w for j in range(digits) for w in (digits + 1, digits + 1 + j)]  # of partial product 0, running sum 0, partial product 1, ...
        self.pad, self.answer_len, self.symbols, self.block_size, self.guess = 12, 2 * digits, 10, 2 * digits + 2 + sum(self.widths), 10.0 ** (-2 * digits)

    def draw(self, rng, hops):
        factors = rng.integers(10 ** (self.digits - 1), 10 ** self.digits, size=(len(hops), 2))
        return np.sort(factors, axis=1), factors  # a * b is held out together with b * a

    def spell(self, x, width, reverse):  # (B,) -> (B, width) digits, least significant first unless reverse
        return x[:, None] // 10 ** np.arange(width, dtype=np.int64)[::-1 if reverse else 1] % 10

    def write(self, rng, source, hops):
        N, (a, b), sign = self.digits, source.T, np.full((len(source), 1), 10)
        prompt = np.concatenate((self.spell(a, N, True), sign, self.spell(b, N, True), sign + 1), axis=1)
        numbers = [x for j in range(N) for x in (a * (b // 10 ** j % 10), a * (b % 10 ** (j + 1)))]
        chain = np.concatenate([self.spell(x, w, self.reverse) for x, w in zip(numbers, self.widths, strict=True)], axis=1)
        return prompt, chain, np.full(len(a), chain.shape[1]), source

    def valid(self, batch, chain):  # whole numbers at a time: a partial product must be right, a running sum must add the two numbers written before it
        a, b = batch.instance.T
        pieces = [piece.flip(1) if self.reverse else piece for piece in chain.split(self.widths, dim=1)]  # least significant digit first
        written = [(piece * 10 ** torch.arange(piece.size(1), device=chain.device)).sum(1) for piece in pieces]
        true = [x for j in range(self.digits) for x in (a * (b // 10 ** j % 10), written[2 * j] * 10 ** j + (written[2 * j - 1] if j else 0))]
        return torch.cat([((w == t) & (piece < 10).all(1))[:, None].expand_as(piece) for piece, w, t in zip(pieces, written, true, strict=True)], dim=1)

    def oracle(self, prompt):
        a, b = map(int, ''.join(self.vocab[i] for i in prompt[:-1]).split('*'))
        numbers = [x for j in range(self.digits) for x in (a * (b // 10 ** j % 10), a * (b % 10 ** (j + 1)))]
        return [int(digit) for x, width in zip(numbers, self.widths, strict=True) for digit in str(x).zfill(width)[::1 if self.reverse else -1]]

# ----------------------------------------------------------------------------- star graphs
class Star(Task):
    """Star graph G(d, l) (Bachmann & Nagarajan 2024): d arms leave a centre, each path has l nodes with the centre; given the edges in random order, the
    centre and the goal, one arm's end, write the path: 8 3 | 4 0 | 3 7 | 8 4 / 8 7 = [8] [3] [7]. Left to right, the first step needs a plan and every later
    one a lookup: a model trained on next tokens learns the lookups and picks an arm at random, 1/d. --reverse writes the path from the goal: lookups only.
    Chain and answer are the same, the path. `instance`: every label's parent or -1, (B, labels)."""
    name, flags = 'star', ('star', 'nodes', 'reverse')

    def __init__(self, star=(2, 3), nodes=None, reverse=False):
        require(len(star) == 2 and min(star) >= 2, f'star needs two numbers, arms and nodes on a path, each at least 2, got {",".join(map(str, star))}')
        (d, l), used = star, star[0] * (star[1] - 1) + 1
        nodes = max(used, 10) if nodes is None else nodes
        require(used <= nodes <= 10**5, f'G({d},{l}) has {used} nodes: give that many labels, at most 100,000, not {nodes}')
        self.star, self.arms, self.length, self.nodes, self.reverse, self.guess = (d, l), d, l, nodes, reverse, 1 / d  # legal steps, a random arm
        self.vocab = [str(i) for i in range(nodes)] + ['|', '/', '=', '_']
        self.hops, self.answer_len, self.symbols, self.pad, self.block_size = [l - 1], l, nodes, nodes + 3, 3 * d * (l - 1) + 3 + l

    def draw(self, rng, hops):
        d, l, B, parent = self.arms, self.length, len(hops), np.full((len(hops), self.nodes), -1)
        labels = shuffled(rng, B, self.nodes)[:, :d * (l - 1) + 1]
        inner = np.concatenate((np.repeat(labels[:, :1, None], d, axis=1), labels[:, 1:].reshape(B, d, l - 1)), axis=2)  # (B, d, l)
        np.put_along_axis(parent, inner[:, :, 1:].reshape(B, -1), inner[:, :, :-1].reshape(B, -1), axis=1)
        return parent, np.concatenate((labels, parent), axis=1)  # the graph decides the split, whichever arm is the goal

    def write(self, rng, source, hops):
        d, l, B, labels, parent = self.arms, self.length, len(source), source[:, :-self.nodes], source[:, -self.nodes:]
        path = labels[:, :l]  # arms are drawn at random, so the first may hold the goal
        ends = np.take_along_axis(labels[:, 1:], shuffled(rng, B, d * (l - 1)), 1)  # (B, E): edges in random order
        edges = np.stack((np.take_along_axis(parent, ends, 1), ends, np.full_like(ends, self.nodes)), axis=2).reshape(B, -1)
        edges[:, -1] = self.nodes + 1  # '/' behind the last edge
        prompt = np.concatenate((edges, path[:, :1], path[:, -1:], np.full((B, 1), self.nodes + 2)), axis=1)
        return prompt, path[:, ::-1] if self.reverse else path, np.full(B, l), parent

    def valid(self, batch, chain):  # the first token must be the centre (reversed: the goal), every later one a neighbour along the arm
        upper, lower = (chain[:, 1:], chain[:, :-1]) if self.reverse else (chain[:, :-1], chain[:, 1:])
        edge = (lower < self.nodes) & (batch.instance.gather(1, lower.clamp(max=self.nodes - 1)) == upper)
        return torch.cat(((chain[:, 0] == batch.tokens[:, batch.prompt_len - (2 if self.reverse else 3)])[:, None], edge), dim=1)

    def oracle(self, prompt):
        parent = {v: u for u, v in zip(prompt[:-3:3], prompt[1:-3:3], strict=True)}
        centre, *path = prompt[-3:-1]
        while path[-1] != centre:
            path.append(parent[path[-1]])
        return path if self.reverse else path[::-1]

# ----------------------------------------------------------------------------- countdown
def legal_moves(x, largest=199):
    """Every move from states x (N, m): put back the sum, difference, product or quotient of two numbers. Returns child (N, M, m - 1), the numbers then left,
    sorted; ok (N, M) bool, legal; step (N, M, 4): a, op (0 to 3: + - * /), b, c with a op b = c and a >= b. M is 2 m (m - 1). Integers: c from 0 to largest
    (Stream of Search, 2404.03683). Floats: any fraction, also negative (Game of 24), op 4 and 5 are b - a and b / a; exact enough for so few small numbers."""
    m, (i, j) = x.size(1), torch.triu_indices(x.size(1), x.size(1), 1, device=x.device)
    a, b = torch.maximum(x[:, i], x[:, j]), torch.minimum(x[:, i], x[:, j])  # (N, pairs)
    if x.is_floating_point():
        c = torch.stack((a + b, a - b, a * b, a / b, b - a, b / a), dim=2)
        ok = c.isfinite()
    else:
        quotient = torch.where((b > 0) & (a % b.clamp(min=1) == 0), a // b.clamp(min=1), largest + 1)
        c = torch.stack((a + b, a - b, a * b, quotient), dim=2)  # (N, pairs, ops)
        ok = c <= largest
    alone = torch.ones(len(i), m, dtype=torch.bool, device=x.device).scatter_(1, torch.stack((i, j), 1), False)  # the numbers that a pair leaves alone
    rest = x[:, alone.nonzero()[:, 1].view(len(i), 1, m - 2).expand(-1, c.size(2), -1)]  # (N, pairs, ops, m - 2)
    child = torch.cat((rest, c[..., None]), dim=3).flatten(1, 2).sort(2).values
    step = torch.stack((a[..., None].expand_as(c), torch.arange(c.size(2), device=x.device).expand_as(c), b[..., None].expand_as(c), c), dim=3)
    return child, ok.flatten(1), step.flatten(1, 2)

def distinct(x, ok):  # ok (N, M) bool without those states x (N, M, m) that an ok state further left in their row equals
    x = (x * 2**20).round().long() if x.is_floating_point() else x
    key = (x * torch.full((x.size(2),), 0x1E3779B97F4A7C15, device=x.device).cumprod(0)).sum(2)  # (N, M), modulo 2^64
    return ok & ~((key[:, :, None] == key[:, None, :]) & ok[:, None, :]).tril(-1).any(2)

def ways(x, target, largest=199):  # how many sequences of moves take states x (N, m) to target (N,), (N,) int64. Moves that leave the same numbers are one
    if x.size(1) == 1:
        return ((x[:, 0] - target).abs() < 1e-6).long()
    child, ok, _ = legal_moves(x, largest)
    if x.size(1) == 2:
        return (ok & ((child[:, :, 0] - target[:, None]).abs() < 1e-6)).any(1).long()
    ok = distinct(child, ok)
    return torch.zeros_like(ok, dtype=torch.long).masked_scatter_(ok, ways(child[ok], target[:, None].expand_as(ok)[ok], largest)).sum(1)

class Countdown(Task):
    """Can the target be made from the numbers, each used once, with + - * / (the Game of 24: four numbers, target 24)? A verdict, and if it can, a step after
    which it still can: 24 3 5 6 9 [yes] [9] [-] [3] [=] [6]. The step's two numbers give way to its result; the next prompt asks again: 24 5 6 6 _ [yes] ... or
    24 5 7 _ _ [no]. Numbers are tokens, integers from 0 to 199 (which costs none of the 1,346 puzzles that integers solve). hops: how many steps remain.
    Training targets are 10 to 100 without those held out, of which no state is ever trained on. States: numbers from 1 to 13 after random moves; half the time
    the target is what more moves make of them, if that is one, else any. Of several right steps one is shown at random. `instance`: target, numbers, -1."""
    name, flags, answer_len, answer_first, largest, targets = 'countdown', ('numbers', 'holdout_targets'), 1, True, 199, range(10, 101)

    def __init__(self, numbers=4, holdout_targets=(24,)):
        require(2 <= numbers <= 5, f'countdown takes from 2 to 5 numbers (six take seconds a batch to solve), got {numbers}')
        self.numbers, self.holdout_targets, self.shares = numbers, sorted({24, *holdout_targets}), {}  # shares: see chance
        require(set(self.holdout_targets) < set(self.targets), 'holdout_targets must be some of 10 to 100, and not all of them')
        self.hops, self.symbols, self.block_size, self.test_share = list(range(1, numbers)), self.largest + 1, 1 + numbers + 6, 0.01 * len(self.holdout_targets)
        self.vocab = [str(i) for i in range(self.symbols)] + ['+', '-', '*', '/', '=', 'yes', 'no', '_']
        self.plus, self.equals, self.yes, self.no, self.pad = (self.symbols + i for i in (0, 4, 5, 6, 7))

    def in_split(self, key, split):
        return np.isin(key[:, 0], self.holdout_targets) == (split == 'test')

    def draw(self, rng, hops):
        B, n, x, state = len(hops), self.numbers, rng.integers(1, 14, (len(hops), self.numbers)), np.full((len(hops), self.numbers), -1)
        for m in range(n, 0, -1):
            state[hops == m - 1, :m] = np.sort(x[hops == m - 1], axis=1)
            if m > 1:  # two numbers at random, and any operation that is legal for them
                x = np.take_along_axis(x, shuffled(rng, B, m), 1)
                child, ok, _ = legal_moves(torch.from_numpy(x[:, :2]))
                c = child[:, :, 0].numpy()[np.arange(B), (rng.random(ok.shape) * ok.numpy()).argmax(1)]
                x = np.column_stack((c, x[:, 2:]))
        target = rng.integers(self.targets[0], self.targets[-1] + 1, B)
        target = np.where((rng.random(B) < 0.5) & np.isin(x[:, 0], self.targets), x[:, 0], target)[:, None]
        return target, np.concatenate((target, state), axis=1)

    def prompt(self, target, x):  # target (N,), x (N, m) sorted -> (N, 1 + numbers)
        return torch.cat((target[:, None], x, x.new_full((len(x), self.numbers - x.size(1)), self.pad)), dim=1)

    def solve(self, target, x):
        """Every move from states x (N, m) as tokens a op b = c, (N, M, 5), and which of them, alike ones once, leave target (N,) in reach, (N, M)."""
        child, ok, step = legal_moves(x)
        ok, (a, op, b, c) = distinct(child, ok), step.unbind(2)
        good = torch.zeros_like(ok).masked_scatter_(ok, ways(child[ok], target[:, None].expand_as(ok)[ok]) > 0)
        return torch.stack((a, self.plus + op, b, torch.full_like(a, self.equals), c), dim=2), good

    def play(self, x, step):
        """The numbers left (N, m - 1) after the written steps (N, 5), tokens a op b = c, in states x (N, m), and which of them are legal, (N,)."""
        child, ok, moves = legal_moves(x)
        same = ok & (moves == (step[:, [0, 1, 2, 4]] - step.new_tensor([0, self.plus, 0, 0]))[:, None]).all(2) & (step[:, 3:4] == self.equals)
        return child[torch.arange(len(x), device=x.device), same.int().argmax(1)], same.any(1)

    def write(self, rng, source, hops):
        source, prompt, chain = torch.from_numpy(source), torch.full((len(hops), 1 + self.numbers), self.pad), torch.full((len(hops), 6), self.pad)
        for k in sorted(set(hops.tolist())):
            rows = torch.from_numpy(np.flatnonzero(hops == k))
            step, good = self.solve(target := source[rows, 0], x := source[rows, 1:k + 2])
            pick = (torch.from_numpy(rng.random(good.shape)) * good).argmax(1)  # any of the right ones
            chain[rows, 0] = torch.where(good.any(1), self.yes, self.no)
            chain[rows, 1:] = torch.where(good.any(1)[:, None], step[torch.arange(len(rows)), pick], self.pad)
            prompt[rows] = self.prompt(target, x)
        return prompt.numpy(), chain.numpy(), np.where(chain[:, 0] == self.yes, 6, 1), source.numpy()

    def judge(self, batch, chain):
        """Of rows of one hop count: is the step written behind the verdict legal, and can the target be reached after it? Two (B,) bool."""
        child, legal = self.play(batch.instance[:, 1:int(batch.hops[0]) + 2], chain[:, 1:6])
        return legal, legal & (ways(child, batch.instance[:, 0]) > 0)

    def valid(self, batch, chain):  # the verdict must be true and the step legal; behind a 'no' that is true nothing is asked for
        truth = batch.tokens[:, batch.prompt_len]
        if chain.size(1) == 1:  # only 'no's were asked for, or verdicts
            return chain == truth[:, None]
        step = (self.judge(batch, chain)[0] | (truth == self.no))[:, None].expand(-1, chain.size(1) - 1)
        return torch.cat(((chain[:, 0] == truth)[:, None], step), dim=1)

    def right(self, batch, out):  # any step will do after which the target can be reached
        right, P = out == batch.tokens, batch.prompt_len
        if out.size(1) > P + 1:
            right[:, P + 1:] = (self.judge(batch, out[:, P:])[1] | (batch.tokens[:, P] == self.no))[:, None]
        return right

    def oracle(self, prompt):
        step, good = self.solve(torch.tensor(prompt[:1]), torch.tensor([[x for x in prompt[1:] if x != self.pad]]))
        return [self.yes, *step[good][0].tolist()] if good.any() else [self.no]

    def chance(self, hops):  # always the more frequent verdict, as measured on the test split
        if hops not in self.shares:
            self.shares[hops] = (sample_batch(self, 2000, 0, 0, 'test', 'direct', int(hops)).tokens[:, -1] == self.yes).double().mean().item()
        return max(self.shares[hops], 1 - self.shares[hops])

# ----------------------------------------------------------------------------- profiles
class Profiles(Task):
    """Facts to be learned by heart, people with attributes and relations to one another, and questions about them: who is a7 b0 c3's mentor, what is the
    mentor's employer? One hop: _ a7 b0 c3 mentor [a1] [b4] [c9]; two, with the bridge person: employer a7 b0 c3 mentor [a1] [b4] [c9] [employer] [v88]. What
    the second fact is about comes first ('_': nothing; left out where no question has two hops): name and word stand side by side in every link. A name is
    three tokens, n of s^3 names (s^3 >= 8 n): no embedding row is a free table. Attributes are uniform over 128 values, relations over all people, oneself too;
    --bipartite: friends are mutual, parent and child inverse. --relabel shuffles two-hop answers over the people: nothing to compose. The facts depend on the
    sizes and on `facts` alone. All are trained, as one-hop questions, which are therefore in both splits. Two-hop questions are held out by first person, by
    (person, relation) and one by one, a tenth each. `instance` is person, relation (-1: one hop), subject, index into `labels`."""
    name, flags = 'profiles', ('people', 'attributes', 'relations', 'hops', 'bipartite', 'facts', 'relabel')
    test_share, labels = 0.25, ('trained', 'person', 'pair', 'combination')
    words = ('employer university city birthday',
             'friend parent child mentor boss rival neighbour teacher doctor cousin landlord coach idol heir guest guide agent')

    def __init__(self, people=100, attributes=4, relations=4, hops=(1, 2), bipartite=False, values=128, facts=0, relabel=False):
        n, A, R = people, attributes, relations
        require(2 <= n <= 10**6 and 0 <= A < 1000 and 0 <= R <= 17 and A + R and set(hops) <= {1, 2},
                'profiles takes 2 to 1,000,000 people, attributes, up to 17 relations (one at least of either), and 1 or 2 hops')
        require(R or max(hops) == 1, 'two hops need relations; or ask for one, --hops 1')
        require(not bipartite or (R >= 3 and n % 2 == 0), 'bipartite needs at least three relations, and an even number of people')
        self.people, self.attributes, self.relations, self.hops, self.bipartite, self.values, self.facts = n, A, R, list(hops), bipartite, values, facts
        s, rng = next(s for s in range(2, 201) if s**3 >= 8 * n), np.random.default_rng([facts, n, A, R])
        self.relabel, self.n_names, self.code = relabel, s**3, np.sort(rng.choice(s**3, n, replace=False))
        self.names = np.stack((self.code // s**2, s + self.code // s % s, 2 * s + self.code % s), axis=1)  # (n, 3) tokens
        self.truth = np.concatenate((rng.integers(values, size=(n, A)), rng.integers(n, size=(n, R))), axis=1)  # (n, A + R) values, people
        if bipartite:
            pairs, line = rng.permutation(n), rng.permutation(n)
            self.truth[pairs, A] = pairs.reshape(-1, 2)[:, ::-1].ravel()
            self.truth[line, A + 1], self.truth[line, A + 2] = np.roll(line, 1), np.roll(line, -1)
        self.instead = rng.permuted(np.tile(np.arange(n)[:, None, None], (R, A + R)), axis=0) if relabel else None  # (n, R, A + R) another's answer
        subjects = self.words[0].split()[:A] + [f'attribute{i}' for i in range(5, A + 1)] + self.words[1].split()[:R]
        self.vocab = [f'{x}{i}' for x in 'abc' for i in range(s)] + [f'v{i}' for i in range(values)] + subjects + ['_']
        self.symbols, self.subject, self.pad, self.answer_len = 3 * s, 3 * s + values, len(self.vocab) - 1, 3 if R else 1
        self.block_size = 4 + self.answer_len + 5 * (max(hops) > 1)

    def label(self, question):  # (B, 3) person, relation, subject -> (B,) index into labels
        return np.select([held_out(question[:, :k]) & (question[:, 1] >= 0) for k in (1, 2, 3)], (1, 2, 3), 0)

    def in_split(self, key, split):
        return (self.label(key) > 0) == (split == 'test')

    def draw(self, rng, hops):
        question, other = rng.integers((self.people, max(self.relations, 1), self.attributes + self.relations), size=(2, len(hops), 3))
        one = hops[:, None] == 1  # these are in either split, as often as other questions happen to be: the mixture of hops stays as it is
        return np.where(one, other, question), np.where(one, question * (1, 0, 1) - (0, 1, 0), question)

    def answers(self, person, subject):  # (B,), (B,) -> (B, answer_len): a value and padding, or a name
        fact, value = self.truth[person, subject], subject < self.attributes
        name = np.where(value[:, None], self.pad, self.names[np.where(value, 0, fact)][:, :self.answer_len])
        name[value, 0] = self.symbols + fact[value]
        return name

    def answer_size(self, source):
        return np.where(source[:, 2] < self.attributes, 1, self.answer_len)

    def write(self, rng, source, hops):
        (p, r, q), two = source.T, source[:, 1:2] >= 0
        bridge, asked = np.where(two[:, 0], self.truth[p, self.attributes + r], p), self.subject + q[:, None]
        told = bridge if self.instead is None else np.where(two[:, 0], self.truth[self.instead[p, r, q], self.attributes + r], p)
        word, answer = np.where(two, self.subject + self.attributes + r[:, None], asked), self.answers(told, q)
        prompt = np.concatenate((np.where(two, asked, self.pad), self.names[p], word), axis=1)[:, max(self.hops) == 1:]
        chain = np.concatenate((self.names[bridge], asked, answer), axis=1)
        chain[~two[:, 0], :self.answer_len] = answer[~two[:, 0]]
        return prompt, chain, self.answer_size(source) + 4 * two[:, 0], np.column_stack((source, self.label(source)))

    def valid(self, batch, chain):  # the bridge must be the true one; the answer must be true of the person written, whoever that is
        good = self.right(batch, torch.cat((batch.tokens[:, :batch.prompt_len], chain), dim=1))[:, batch.prompt_len:]
        if int(batch.hops[0]) == 2 and not self.relabel:
            s, written = self.symbols // 3, chain.cpu().numpy()
            person = np.searchsorted(self.code, (written[:, :3] - (0, s, 2 * s)) @ (s * s, s, 1)).clip(max=self.people - 1)
            true = self.answers(person, batch.instance[:, 2].cpu().numpy())[:, :chain.size(1) - 4]
            good[:, 4:] = torch.from_numpy((written[:, 4:] == true) & (self.names[person] == written[:, :3]).all(1, keepdims=True)).to(good.device)
        last = good.gather(1, batch.answer[:, -1:] - batch.prompt_len)  # padding counts as the answer does
        return torch.where(batch.loss_mask[:, batch.prompt_len:], good, last)

    def oracle(self, prompt):
        *lead, a, b, c, word = prompt
        person, asked = self.names.tolist().index([a, b, c]), [x - self.subject for x in (word, *lead) if x != self.pad]
        bridge = self.truth[person, asked[0]]
        chain, last = ([], (person, asked[0])) if len(asked) == 1 else ([*self.names[bridge].tolist(), lead[0]], (bridge, asked[1]))
        if self.relabel and chain:
            last = self.truth[self.instead[person, asked[0] - self.attributes, asked[1]], asked[0]], asked[1]
        return chain + [x for x in self.answers(*np.array([last]).T)[0].tolist() if x != self.pad]

    def chance(self, hops):  # always the most frequent answer to this subject, or to this relation and subject
        tables = [self.truth] if hops == 1 else (self.truth[bridge] for bridge in self.truth[:, self.attributes:].T)
        return float(np.mean([np.bincount(column).max() for table in tables for column in table.T])) / self.people

# ----------------------------------------------------------------------------- mazes
class Maze(Task):
    """n x n cells with walls between, an origin, a target: write a shortest path; where steps tie, any. --gen dfs and wilson make trees: depth-first search has
    long corridors, Wilson's are uniform over all spanning trees; percolation opens each wall of a dfs maze with a probability: loops. For n = 2:
        <ADJLIST_START> (1,1) <--> (1,0) ; (0,0) <--> (0,1) ; (0,0) <--> (1,0) ; <ADJLIST_END> <ORIGIN_START> (1,1) <ORIGIN_END> <TARGET_START> (0,1)
        <TARGET_END> <PATH_START> [(1,1)] [(1,0)] [(0,0)] [(0,1)] [<PATH_END>]; --format grid, open sides, of ULDR: DR L UR L (1,1) (0,1) <PATH_START> ..
    adjlist is maze-dataset's AOTP_UT (2309.10498), passages in random order and direction; --no_separators leaves out <--> and ;. Cells are numbered from a
    corner, (0,0) (0,1) (1,0) (1,1) (0,2) ...: a smaller grid's are the first of a larger one's. `hops` is n: --grid 3-5 mixes sizes. A tenth of all sets of
    passages is held out. `instance` (B, 2, N + 1), by cell, at N for no cell: open sides as bits; steps to the target or -1."""
    name, flags, gens = 'maze', ('grid', 'gen', 'percolation', 'format', 'no_separators'), ('dfs', 'wilson', 'percolation')

    def __init__(self, grid=(4,), gen='dfs', percolation=None, format='adjlist', no_separators=False):
        n, N, loops = max(grid), max(grid)**2, gen == 'percolation'
        require(2 <= min(grid) and n <= 30, f'grid must be from 2 to 30, got {show_range(grid)}')
        require(gen in self.gens and format in ('adjlist', 'grid'), f'gen is one of {", ".join(self.gens)}, format adjlist or grid; got {gen}, {format}')
        require(percolation is None or (loops and 0 < percolation < 1), '--percolation is between 0 and 1, and only for --gen percolation')
        require(format == 'adjlist' or not no_separators, '--no_separators is for --format adjlist')
        self.grid, self.hops, self.gen, self.format, self.no_separators, self.symbols = list(grid), list(grid), gen, format, no_separators, N
        cells = {cell: i for i, cell in enumerate(sorted(((r, c) for r in range(n) for c in range(n)), key=lambda cell: (max(cell), min(cell), cell)))}
        self.cells, self.percolation = np.array([*cells, (-1, -1)]), 0.2 if loops and percolation is None else percolation  # (N + 1, 2) row, column
        self.near = np.array([[cells.get((r + a, c + b), N) for a, b in ((-1, 0), (0, -1), (1, 0), (0, 1))] for r, c in cells] + [[N] * 4])  # (N + 1, 4)
        signs = '<ADJLIST_START> <ADJLIST_END> <ORIGIN_START> <ORIGIN_END> <TARGET_START> <TARGET_END> <PATH_START> <PATH_END> <--> ; <PADDING>'.split()
        sides = [''.join(side for i, side in enumerate('ULDR') if bits >> i & 1) for bits in range(1, 16)]
        self.vocab, self.answer_len = [f'({r},{c})' for r, c in cells] + signs + sides * (format == 'grid'), N + 1
        self.begin, self.end, self.pad, room = N + 6, N + 7, N + 10, (2 * n * (n - 1) if loops else N - 1) * (2 if no_separators else 4)
        self.block_size = (N + 3 if format == 'grid' else 9 + room) + self.answer_len

    def dfs(self, rng, size):  # (B,) sizes -> (B, N + 1): from which cell a randomised depth-first search came to each
        row, cell, parent = np.arange(len(size)), (rng.random(len(size)) * size**2).astype(int), np.full((len(size), self.symbols + 1), -1)
        seen = np.arange(self.symbols + 1) >= size[:, None]**2
        seen[row, cell] = True
        while not seen.all():
            way = self.near[cell]  # (B, 4)
            free = ~seen[row[:, None], way]
            new = np.where(free.any(1), way[row, (rng.random(way.shape) * free).argmax(1)], self.symbols)
            parent[row, new], seen[row, new] = cell, True
            cell = np.where(free.any(1), new, parent[row, cell])  # nowhere to go: back
        return parent

    def wilson(self, rng, size):
        """The same for uniform spanning trees, by cycle popping (Wilson 1996): every cell points at a random neighbour, and as long as there are cycles, all
        their cells draw again; the order in which cycles are popped makes no difference to what comes out."""
        me, near = np.arange(self.symbols), np.sort(self.near[:-1], axis=1)  # the neighbours inside come first
        ways, todo, root = (near < size[:, None, None]**2).sum(2), np.arange(len(size)), (me == 0) | (me >= size[:, None]**2)
        parent, draw = np.tile(np.append(me, 0), (len(size), 1)), ~root
        while len(todo):
            there = parent[todo, :-1] = np.where(draw, near[me, (rng.random(draw.shape) * ways[todo]).astype(int)], parent[todo, :-1])
            for _ in range(len(me).bit_length()):  # after N steps everybody is at the root, or on a cycle
                there = np.take_along_axis(there, there, 1)
            draw = np.zeros_like(draw)
            np.put_along_axis(draw, there, True, 1)
            draw &= ~root[todo]
            todo, draw = todo[draw.any(1)], draw[draw.any(1)]
        return parent

    def draw(self, rng, hops):
        B, parent, ahead = len(hops), (self.wilson if self.gen == 'wilson' else self.dfs)(rng, hops), self.near[:-1, 2:]  # edges down, right: (B, N, 2)
        edge = (parent[:, :-1, None] == ahead) | (parent[:, ahead] == np.arange(self.symbols)[:, None])
        if self.percolation:
            edge |= rng.random(edge.shape) < self.percolation
        edge &= ahead < hops[:, None, None]**2
        key, (a, b) = edge.reshape(B, -1) - 1, (rng.random((2, B)) * (hops**2, hops**2 - 1)).astype(int)  # -1 adds nothing to the hash, on a grid of any size
        return key, np.column_stack((key + 1, a, (a + 1 + b) % hops**2))

    def distances(self, ways, target):
        """Breadth-first search in all mazes at once: ways (B, N, 4) bool, target (B,) -> steps to the target (B, N + 1), -1 where none lead."""
        row, cell, steps, far = np.arange(len(target)), target, 0, np.full((len(target), self.symbols + 1), -1)
        while len(row):
            far[row, cell], steps = steps, steps + 1
            came, way = ways[row, cell].nonzero()
            row, cell = row[came], self.near[cell[came], way]
            new = far[row, cell] < 0
            row, cell = row[new], cell[new]
            if self.percolation:  # several ways may lead to one cell
                row, cell = np.divmod(np.unique(row * far.shape[1] + cell), far.shape[1])
        return far

    def write(self, rng, source, hops):
        B, N, row, origin, target = len(hops), self.symbols, np.arange(len(hops)), source[:, -2], source[:, -1]
        edge = np.concatenate((source[:, :-2].reshape(B, N, 2) > 0, np.zeros((B, 1, 2), dtype=bool)), axis=1)
        ways = np.concatenate((edge[:, self.near[:, :2], [0, 1]], edge), axis=2)  # (B, N + 1, 4): what is down for the cell above
        far = self.distances(ways, target)
        length, cell, chain = far[row, origin], origin, np.full((B, far[row, origin].max() + 2), self.end)
        for t in range(chain.shape[1] - 1):
            chain[:, t] = np.where(t <= length, cell, self.end)
            nearer = ways[row, cell] & (far[row[:, None], self.near[cell]] < far[row, cell, None])
            cell = np.where(t < length, self.near[cell, (rng.random(nearer.shape) * nearer).argmax(1)], cell)
        tail = np.stack([np.full(B, x) for x in (N + 2, origin, N + 3, N + 4, target, N + 5, self.begin)], axis=1)
        bits = ways @ [1, 2, 4, 8]
        if self.format == 'grid':
            prompt = np.where(bits > 0, self.pad + bits, -1)[:, :-1], tail[:, [1, 4, 6]]
        else:
            flat, M = edge[:, :-1].reshape(B, -1), edge.sum((1, 2)).max()
            order = np.where(flat, rng.random(flat.shape), 1).argsort(axis=1)[:, :M]  # passages in random order, then what is none
            a, b, sign = order // 2, self.near[:-1, 2:].ravel()[order], np.full((B, M), N + 8)
            flip = rng.random((B, M)) < 0.5
            words = np.stack((np.where(flip, b, a), sign, np.where(flip, a, b), sign + 1), axis=2)[:, :, ::1 + self.no_separators]
            words[~np.take_along_axis(flat, order, 1)] = -1
            prompt = tail[:, :1] - 2, words.reshape(B, -1), tail[:, :1] - 1, tail
        return np.concatenate(prompt, axis=1), chain, length + 2, np.stack((bits, far), axis=1)

    def around(self, instance, cell):
        """Of cells (B, L) in mazes `instance`: those beside them; to which a way leads (from no cell none); which are nearer to the target. (B, L, 4) each."""
        (bits, far), cell, near = instance.unbind(1), cell.clamp(max=self.symbols), torch.from_numpy(self.near).to(cell.device)
        there = far.gather(1, near[cell].flatten(1)).unflatten(1, (-1, 4))
        return near[cell], bits.gather(1, cell)[..., None] >> torch.arange(4, device=cell.device) & 1 > 0, there < far.gather(1, cell)[..., None]

    def valid(self, batch, chain):  # the origin, then from each cell one to which a way leads, <PATH_END> at the target, and anything behind it
        before = torch.cat((torch.full_like(chain[:, :1], self.begin), chain[:, :-1]), dim=1)
        beside, ways, _ = self.around(batch.instance, before)
        done = torch.where(batch.instance[:, 1].gather(1, before.clamp(max=self.symbols)) == 0, chain == self.end, (before == self.end).cumsum(1) > 0)
        return ((beside == chain[..., None]) & ways).any(2) | torch.where(before == self.begin, chain == batch.tokens.gather(1, batch.start[:, None]), done)

    def oracle(self, prompt):
        *cells, origin, target = [x for x in prompt if x < self.symbols]
        words, path = self.decode(prompt[:-3]).split() * (self.format == 'grid'), {target: [target, self.end]}
        pairs = [*zip(cells[::2], cells[1::2], strict=True), *((i, int(self.near[i, 'ULDR'.index(side)])) for i, word in enumerate(words) for side in word)]
        while origin not in path:
            path |= {b: [b, *path[a]] for a, b in pairs + [pair[::-1] for pair in pairs] if a in path and b not in path}
        return path[origin]

    def chance(self, hops):  # legal steps at random, never straight back, along the true path; over 2,000 mazes
        batch = sample_batch(self, 2000, 0, 0, hops=int(hops))
        choices = self.around(batch.instance, batch.tokens)[1].sum(2) - 1  # (B, T)
        choices += torch.arange(choices.size(1)) == batch.start[:, None]  # the origin has no way back
        steps = batch.loss_mask & (batch.instance[:, 1].gather(1, batch.tokens.clamp(max=self.symbols)) > 0)
        return (1 / torch.where(steps, choices, 1)).prod(1).mean().item()

# ----------------------------------------------------------------------------- command line
TASKS = {task.name: task for task in (Cycle, CVPR, Multiply, Star, Countdown, Profiles, Maze)}
OPTIONS = {name: task.flags for name, task in TASKS.items()}

def show_range(hops):  # [1, 2, 3] -> '1-3', [4] -> '4'
    return str(hops[0]) if len(hops) == 1 else f'{hops[0]}-{hops[-1]}'

def parse_hops(text):  # '4' -> [4], '1-3' -> [1, 2, 3]; raises ValueError (argparse turns it into one line)
    first, last = map(int, (text.split('-', 1) * 2)[:2])
    require(1 <= first <= last < 10**6, 'at least 1, and in order')
    return list(range(first, last + 1))

def parse_list(text):  # '24,36' -> [24, 36]
    return [at_least(1)(word) for word in text.split(',')]

parse_hops.__name__, parse_list.__name__ = 'number or range (4, or 1-4; at least 1)', 'list of numbers (such as 24,36)'  # argparse's words

class Parser(argparse.ArgumentParser):  # one line instead of the whole usage for a mistake, and no abbreviated flags
    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message):
        self.exit(2, f'{self.prog}: {" ".join(message.split())}\n' if os.environ.get('RANK', '0') == '0' else None)

def at_least(low, kind=int, above=False):  # an argparse type: an int or a float >= low (> low if above), finite and within 64 bits
    def parse(text):
        require(low <= (x := kind(text)) < 2**63 and not (above and x == low), 'out of range')
        return x
    parse.__name__ = f'number ({"above" if above else "at least"} {low})'
    return parse

def add_task_args(parser, hops='4', nodes=20):  # what is left out is None and gets the task's default, or the script's (hops and nodes, for the help)
    add = parser.add_argument_group('task').add_argument
    add('--task', choices=TASKS, default='cycle', help='what to compute (default: cycle)')
    add('--hops', type=parse_hops, help=f'cycle, cvpr, profiles: lookups to the answer; 4, or 1-4 for a uniform mixture (default: {hops}; profiles: 1-2)')
    add('--nodes', type=int, help=f"cycle, cvpr: length of the table (default: {nodes}); star: number of labels (default: 10, or the graph's)")
    add('--format', choices=('table', 'pairs', 'adjlist', 'grid'), help='how it is shown; cycle, cvpr: table or pairs (default: table); maze: adjlist or grid')
    add_maze_args(add)
    add('--digits', type=int, help='multiply: digits of each factor (default: 3)')
    add('--star', type=parse_list, metavar='D,L', help='star: arms, and nodes on a path, the centre included (default: 2,3)')
    add('--numbers', type=int, help='countdown: how many numbers, 2 to 5 (default: 4)')
    add('--holdout_targets', type=parse_list, metavar='T,T', help='countdown: targets never trained on, 24 always among them (default: 24)')
    for name in ('people', 'attributes', 'relations'):
        add(f'--{name}', type=int, help=f'profiles: how many (default: {100 if name == "people" else 4})')
    add('--facts', type=at_least(0), help='profiles: which random facts (default: 0)')
    add('--bipartite', action='store_true', default=None, help='profiles: friends are mutual, parent and child inverse (default: off)')
    add('--relabel', action='store_true', default=None, help='profiles: shuffle two-hop answers over the people: nothing left to compose (default: off)')
    add('--reverse', action='store_true', default=None, help='star: write the path from the goal; multiply: most significant digit first (default: off)')

def add_maze_args(add):
    add('--grid', type=parse_hops, help='maze: cells a side; 4, or 3-5 for a uniform mixture (default: 4)')
    add('--gen', choices=Maze.gens, help='maze: how it is made (default: dfs)')
    add('--percolation', type=at_least(0, float, above=True), help='maze: with --gen percolation, the probability that a wall is opened (default: 0.2)')
    add('--no_separators', action='store_true', default=None, help='maze: an adjacency list without <--> and ; (default: with)')

def add_run_args(parser, out_dir, train=True):  # what every script takes: on what, with which seed, into which folder (out_dir: its default, for the help)
    add = parser.add_argument_group('run').add_argument
    add('--device', default='auto', help='auto (cuda, then mps, then cpu), or a name (default: %(default)s)')
    add('--dtype', choices=('auto', 'float32', 'bfloat16'), default='auto', help='auto: bfloat16 autocast on cuda (default: %(default)s)')
    add('--seed', type=at_least(0), default=1337, help='decides every random number (default: %(default)s)')
    add('--out_dir', help=f'where the run leaves its files (default: {out_dir})')
    if train:
        add('--resume', action='store_true', help='go on from the checkpoint in out_dir')
        add('--eval_only', action='store_true', help='evaluate --ckpt, train nothing, write nothing')
        add('--ckpt', help='checkpoint for --eval_only')

def make_task(args):  # the task these arguments ask for; ValueError for a size that makes no sense, or a flag of another task
    given = {k: v for names in OPTIONS.values() for k in names if (v := getattr(args, k)) is not None}
    foreign = sorted(set(given) - set(OPTIONS[args.task]))
    require(not foreign, f'--{" --".join(foreign)} means nothing to {args.task}, which takes --{" --".join(OPTIONS[args.task])}')
    return TASKS[args.task](**given)

def main(argv=None):
    parser = Parser(description='Print examples of a task: [loss-bearing] tokens in brackets.')
    add_task_args(parser)
    parser.add_argument('--mode', choices=('cot', 'direct'), default='cot', help='with the chain, or the answer at once (default: %(default)s)')
    parser.add_argument('--n', type=at_least(1), default=3, help='how many examples (default: %(default)s)')
    parser.add_argument('--seed', type=at_least(0), default=1337, help='which examples (default: %(default)s)')
    parser.add_argument('--raw', action='store_true', help='one plain line an example, nothing else')
    args = parser.parse_args(argv)
    try:
        batch = sample_batch(task := make_task(args), args.n, args.seed, 0, mode=args.mode)
        chance = {} if args.raw else {k: task.chance(k) for k in set(batch.hops.tolist())}
    except ValueError as error:
        parser.error(str(error))
    if not args.raw:
        print(f'{task.name}, hops {show_range(task.hops)}: vocab_size {len(task.vocab)}, block_size {task.block_size}, [loss] on bracketed tokens\n')
    for tokens, carries, answer, hops, start in zip(*(x.tolist() for x in (batch.tokens, batch.loss_mask, batch.answer, batch.hops, batch.start)), strict=True):
        words = task.decode(tokens[:start + sum(carries)]).split()  # without the padding
        print(' '.join(words[:start] + [word if args.raw else f'[{word}]' for word in words[start:]]))
        if not args.raw:
            chain, places = task.oracle(tokens[:start]), sorted(set(answer))
            truth = task.decode(chain[:task.answer_len] if task.answer_first else chain[-len(places):])
            print(f'  answer {task.decode(tokens[i] for i in places)}   oracle {truth}   chance {chance[hops]:.3f}\n')

if __name__ == '__main__':
    main()
