"""Tasks as tokens: sample instances, write them down, and say which tokens carry loss.

One idea runs through the repository: the same instances under different tokens and loss masks.
[Brackets] mark the tokens that carry loss:

    chain of thought    prompt [chain] [answer]       train_cot.py --mode cot
    direct answer       prompt [answer]               train_cot.py --mode direct
    path-only loss      maze [path]                   train_maze.py --loss path
    full loss           [maze] [path]                 train_maze.py --loss full

`loss_mask[b, t]` says whether token t of row b is a target that carries loss. A model that has read
tokens 0 .. t-1 predicts token t. So the loss is

    logits = model(tokens[:, :-1])                              # (B, T-1, V)
    mask = loss_mask[:, 1:]
    loss = F.cross_entropy(logits[mask], tokens[:, 1:][mask])

Three rules hold for every task:

1. For a given task and batch size, (seed, split, step) alone determines a batch. So a resumed run
   sees the same data as an uninterrupted one, and several processes can take slices of one global
   batch.
2. Test instances are never trained on. A hash of the instance (the graph, the table, the factors)
   sends one in ten to the split 'test'. How the instance is presented does not matter.
3. No Python loop runs over the instances of a batch.

Read `Batch`, `sample_batch`, `write_batch`, `Task`, then one task, for instance `Cycle`.
Larger tasks have files of their own: countdown.py, profiles.py, maze.py.

    python data.py --task cycle --n 3               # literal examples, with the oracle's answer
    python data.py --task star --star 2,3 --raw     # one plain line for each example
"""

from errors import one_line_errors  # first: see errors.py

import argparse
import inspect
import re
import sys
from dataclasses import dataclass, replace

import numpy as np
import torch


SPLITS = ('train', 'test')
# The train split in two, to choose hyperparameters: see --tune.
TUNING_SPLITS = ('fit', 'validation')
STREAMS = {'train': 0, 'test': 1, 'fit': 11, 'validation': 12}  # of random numbers, with the seed
LARGEST_DRAW = 2**26  # numbers drawn at once, half a GiB. Another limit draws other large batches


def require(condition, message):
    """Raise ValueError unless the condition holds. Every size and flag is checked with this."""
    if not condition:
        raise ValueError(message)


# -----------------------------------------------------------------------------
# batches

@dataclass
class Batch:
    """B instances of one task, ready for a model. All tensors are on one device."""
    tokens: torch.Tensor     # (B, T) int64: prompt, chain and answer, padded on the right
    loss_mask: torch.Tensor  # (B, T) bool: this token is a target that carries loss
    answer: torch.Tensor     # (B, A) int64: the places of the answer in `tokens`
    hops: torch.Tensor       # (B,) int64: lookups from the prompt to the answer
    instance: torch.Tensor   # (B, ...) int64: what an evaluation needs to know, see each task
    prompt_len: int          # tokens before the chain, in the row with the longest prompt

    @property
    def chain_start(self):
        """Where the chain starts in each row, (B,)."""
        return self.loss_mask.byte().argmax(dim=1)

    def map(self, function):
        """The batch with function applied to each of its tensors."""
        return Batch(
            tokens=function(self.tokens),
            loss_mask=function(self.loss_mask),
            answer=function(self.answer),
            hops=function(self.hops),
            instance=function(self.instance),
            prompt_len=self.prompt_len,
        )

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, rows):
        """The batch of these rows: a slice, a mask or a tensor of row numbers."""
        return self.map(lambda tensor: tensor[rows])

    def to(self, device):
        return self.map(lambda tensor: tensor.to(device))


def sample_batch(task, batch_size, seed, step, split='train', mode='cot', hops=None):
    """The batch of this (seed, split, step): the same three values always give the same batch.

    split: 'train' or 'test'; or 'fit' or 'validation', the two parts of the train split.
    mode: 'cot' writes the chain, 'direct' the answer alone.
    hops: a hop count for all rows, or a list from which each row draws one. Default: task.hops.
    Raises ValueError for hops that the task was not made for, and if there are (almost) no
    instances in this split.
    """
    if isinstance(hops, int):
        choices = [hops]
    else:
        choices = hops or task.hops
    require(set(choices) <= set(task.hops),
            f'{task.name} was made for hops {format_range(task.hops)}, not {hops}')

    # Rejection sampling: draw some more instances than are missing, keep those of this split,
    # and go on until the batch is full. Large instances are drawn in several parts.
    rng = np.random.default_rng([seed, STREAMS[split], step])
    oversample = {'train': 1.2, 'test': 1.1 / task.test_share, 'fit': 1.4, 'validation': 13}[split]
    most = most_at_once(task)
    n_parts = 1 + int(batch_size * oversample) // most
    sources = []
    hop_counts = []
    missing = batch_size
    for _ in range(100 * n_parts):
        n = min(int(missing * oversample) + 16, most)
        k = np.full(n, hops) if isinstance(hops, int) else rng.choice(choices, n)
        key, source = task.draw(rng, k)
        keep = np.flatnonzero(in_split(task, key, split))[:missing]
        sources.append(source[keep])
        hop_counts.append(k[keep])
        missing -= len(keep)
        if missing == 0:
            return write_batch(task, rng, np.concatenate(sources), np.concatenate(hop_counts), mode)
    raise ValueError(f'{task.name} of this size has too few instances to hold some out for '
                     'testing; make it larger')


def in_split(task, key, split):
    """Which instances belong to this split, (B,) bool. One in ten of the train split is for
    validation."""
    if split in SPLITS:
        return task.in_split(key, split)
    other_hash = np.column_stack((np.ones(len(key), dtype=key.dtype), key))
    return task.in_split(key, 'train') & (held_out(other_hash) == (split == 'validation'))


def most_at_once(task):
    """How many instances sample_batch draws in one part."""
    return max(16, LARGEST_DRAW // task.draw_size)


def write_batch(task, rng, source, hops, mode):
    """Write instances as tokens: the prompt, then the chain (mode 'direct': the answer alone).

    source: instances as task.draw returns them. hops (B,).
    rng decides what an instance leaves open, such as the order in which edges are listed.
    """
    prompt, chain, chain_len, instance = task.write(rng, source, hops)
    chain = chain[:, :chain_len.max()]

    # The places of the answer in the chain. Every row has A = task.answer_len places. Where an
    # answer is shorter, its last place is repeated. An answer is never longer than its chain.
    answer_len = np.minimum(task.answer_size(source), chain_len)                # (B,)
    offset = np.minimum(np.arange(task.answer_len), answer_len[:, None] - 1)    # (B, A)
    if task.answer_first:
        answer_at = offset
    else:
        answer_at = (chain_len - answer_len)[:, None] + offset                  # (B, A)

    # Direct mode: the answer takes the place of the chain.
    if mode == 'direct':
        chain = np.take_along_axis(chain, answer_at, axis=1)
        chain_len = answer_len
        answer_at = offset

    # The chain carries loss. The prompt and the padding do not.
    in_chain = np.arange(chain.shape[1]) < chain_len[:, None]                   # (B, L)
    chain = np.where(in_chain, chain, task.pad)
    tokens = np.concatenate((prompt, chain), axis=1)
    loss_mask = np.concatenate((np.zeros_like(prompt, dtype=bool), in_chain), axis=1)

    # Prompts can differ in length. A prompt has -1 where it has no token: close these gaps.
    prompt_len = (prompt >= 0).sum(axis=1)                                      # (B,)
    if prompt_len.min() < prompt.shape[1]:
        longest = (prompt_len + chain_len).max()
        order = (tokens < 0).argsort(axis=1, kind='stable')[:, :longest]        # gaps to the end
        tokens = np.where(tokens < 0, task.pad, tokens)
        tokens = np.take_along_axis(tokens, order, axis=1)
        loss_mask = np.take_along_axis(loss_mask, order, axis=1)

    answer = prompt_len[:, None] + answer_at                                    # (B, A)
    return Batch(
        tokens=torch.from_numpy(tokens.astype(np.int64)),
        loss_mask=torch.from_numpy(loss_mask),
        answer=torch.from_numpy(answer.astype(np.int64)),
        hops=torch.from_numpy(hops.astype(np.int64)),
        instance=torch.from_numpy(instance.astype(np.int64)),
        prompt_len=int(prompt_len.max()),
    )


def answer_at_once(task, batch, rows):
    """A copy of a batch of chains in which these rows have no chain: after the prompt comes `_`,
    then the answer. `_` is given, and carries no loss.

    rows: a slice, a mask or a tensor of row numbers. For tasks with answers of one token, and
    chains of two at least.
    """
    P = batch.prompt_len
    require(task.answer_len == 1 and batch.tokens.size(1) >= P + 2,
            'answering at once takes answers of one token, and chains of two tokens at least')
    tokens = batch.tokens.clone()
    loss_mask = batch.loss_mask.clone()
    answer = batch.answer.clone()

    tokens[rows, P:] = task.pad
    tokens[rows, P + 1] = batch.tokens.gather(1, batch.answer)[rows, 0]
    loss_mask[rows] = False
    loss_mask[rows, P + 1] = True
    answer[rows] = P + 1
    return replace(batch, tokens=tokens, loss_mask=loss_mask, answer=answer)


def held_out(key):
    """Which instances belong to the test split, (B,) bool: one in ten, by a 64-bit hash of key.

    key (B, L): integers that identify an instance. There is no seed in the hash, so a checkpoint of
    one run can be tested by another.
    """
    # a polynomial hash modulo 2^64
    multiplier = np.full(key.shape[1], 0x9E3779B97F4A7C17, dtype=np.uint64)
    h = (key.astype(np.uint64) + np.uint64(1)) @ np.cumprod(multiplier)

    # spread its bits, in the manner of MurmurHash3's finaliser
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(29))) * np.uint64(0xC4CEB9FE1A85EC53)
    return (h >> np.uint64(32)) % np.uint64(10) == 0


def random_permutations(rng, B, n):
    """An independent uniform permutation of 0 .. n-1 in every row, (B, n)."""
    return rng.random((B, n)).argsort(axis=1)


# -----------------------------------------------------------------------------
# what a task is

class Task:
    """The base class of all tasks.

    A task has these attributes:
        name        what --task calls it
        flags       {flag: argparse options}; the flags are also its constructor's arguments
        hops        list of the hop counts it was made for
        vocab       list of words; a token is an index into it
        n_symbols   the first so many words are nodes, digits or cells: what chains are made of
        pad         the padding token
        block_size  length of the longest sequence
        answer_len  tokens of the longest answer (A)

    and these methods of its own:
        draw(rng, hops (B,)) -> key (B, L), source (B, ...)
            random instances; key identifies an instance for the split
        write(rng, source, hops) -> prompt (B, P), chain (B, L), chain_len (B,), instance (B, ...)
            instances as tokens; the chain ends with the answer
        valid(batch, chain (B, L)) -> (B, L) bool
            which chain tokens follow correctly from the tokens before them
        oracle(prompt) -> list of tokens
            the chain of one prompt (a list), found from its tokens alone
        chance(hops) -> float
            accuracy of the best answer that does not look at the structure of the instance
        read(prompt) -> source (1, ...), hops (1,)
            the instance that a prompt (a list of tokens) describes, the inverse of write. Only
            sample.py needs it, and does without if there is none

    longest_chain, draw_size and write_size below are for memory.py, which estimates what fits.
    """
    answer_first = False    # True: the chain begins with the answer
    longest_chain = None    # how many tokens it has at most, if that is known
    test_share = 0.1        # share of drawn instances that belong to the test split, about

    @property
    def draw_size(self):
        """Numbers that `draw` holds for each instance, about. Large ones are drawn in parts."""
        return 4 * self.block_size

    @property
    def write_size(self):
        """Numbers that `write` and the batch hold for each instance, about."""
        return 10 * self.block_size

    def in_split(self, key, split):
        """Which instances belong to this split, 'train' or 'test', (B,) bool."""
        return held_out(key) == (split == 'test')

    def answer_size(self, source):
        """How many tokens the answer of each instance has, (B,)."""
        return np.full(len(source), self.answer_len)

    def correct(self, batch, output):
        """Which tokens of output (B, T) are correct, (B, T) bool. Tokens without loss always are.

        output: a batch's prompts, with chains that a model wrote.
        """
        return (output == batch.tokens) | ~batch.loss_mask

    def read(self, prompt):
        raise NotImplementedError(f'{self.name} has no method read, the inverse of write')

    def settings(self):
        """{flag: value}, with the defaults of flags that were not given."""
        return {flag: getattr(self, flag) for flag in self.flags}

    def encode(self, text):
        """'3 k=4 0' -> [3, 23, 0]. Raises ValueError at a word that is not in the vocabulary."""
        words = text.split()
        for word in words:
            require(word in self.vocab, f'{self.name} of this size has no word {word!r}')
        return [self.vocab.index(word) for word in words]

    def decode(self, tokens):
        """[3, 23, 0] -> '3 k=4 0'"""
        return ' '.join(self.vocab[token] for token in tokens)


# -----------------------------------------------------------------------------
# types of command-line flags, and a flag that several tasks share
#
# They take plain ASCII digits. Python would also take 1_000, digits of other scripts, ' 5 ', nan.

NUMBER = {
    int: re.compile(r'[0-9]{1,30}'),
    float: re.compile(r'([0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})([eE][+-]?[0-9]{1,3})?'),
}
MOST = {int: 10**9, float: 1e9}  # where a flag names no other limit
LONGEST_LIST = 1000


def shorten(text):
    """A text for a message, at most 60 characters of it."""
    return text if len(text) <= 60 else text[:57] + '...'


def parse_range(text):
    """'4' -> [4], '1-3' -> [1, 2, 3]"""
    match = re.fullmatch(r'([0-9]{1,6})(?:-([0-9]{1,6}))?', text)
    if match:
        first = int(match[1])
        last = int(match[2] or match[1])
        if 1 <= first <= last < first + LONGEST_LIST:
            return list(range(first, last + 1))
    raise argparse.ArgumentTypeError(
        'expected a number from 1, or a range of at most a thousand such as 1-4, got '
        f'{shorten(text)!r}')


def format_range(numbers):
    """[4] -> '4', [1, 2, 3] -> '1-3'"""
    if len(numbers) == 1:
        return str(numbers[0])
    return f'{numbers[0]}-{numbers[-1]}'


def parse_list(text, low=1):
    """'24,36' -> [24, 36]"""
    words = text.split(',', LONGEST_LIST)
    try:
        require(len(words) <= LONGEST_LIST, 'too long')
        return [at_least(low)(word) for word in words]
    except (argparse.ArgumentTypeError, ValueError):
        raise argparse.ArgumentTypeError(
            f'expected numbers from {low} to 10^9, a thousand at most, such as 24,36, got '
            f'{shorten(text)!r}') from None


def some_of(names):
    """An argparse type: one or several of these names, as 'soft,hidden' -> ['soft', 'hidden']."""
    def parse(text):
        words = text.split(',', len(names))
        if not set(words) <= set(names) or len(set(words)) < len(words):
            raise argparse.ArgumentTypeError(
                f'expected one or several of {", ".join(names)}, each once and with commas '
                f'between, got {shorten(text)!r}')
        return words

    return parse


def at_least(low, kind=int, most=None):
    """An argparse type: an int or a float from `low` to `most`, by default 10^9."""
    highest = MOST[kind] if most is None else most

    def parse(text):
        number = kind(text) if NUMBER[kind].fullmatch(text) else None
        if number is None or not low <= number <= highest:
            noun = 'a whole number' if kind is int else 'a number'
            raise argparse.ArgumentTypeError(f'expected {noun} of at least {low} and at most '
                                             f'{highest:,}, got {shorten(text)!r}')
        return number

    parse.metavar = 'N' if kind is int else 'X'  # in the help
    return parse


def positive_float(text):
    """An argparse type: a number above 0, at most 10^9."""
    number = at_least(0, float)(text)
    if number == 0:
        raise argparse.ArgumentTypeError(f'expected a number above 0, got {shorten(text)!r}')
    return number


positive_float.metavar = 'X'


def path_or_name(text):
    """An argparse type: a text whose parts between slashes are as short as file systems take."""
    parts = re.split(r'[/\\]', text)
    longest = max(len(part.encode()) for part in parts)
    if longest > 255 or len(text.encode()) > 4000:
        raise argparse.ArgumentTypeError(f'this is too long for a name: {shorten(text)!r}')
    return text


seed_number = at_least(0, most=2**63 - 1)
HOPS = dict(type=parse_range, help='hops or a range')


# -----------------------------------------------------------------------------
# tasks: pointer chasing

class Lookup(Task):
    """Follow a table from a start node, `hops` times. The last node is the answer.

    With 4 nodes, 2 hops and start node 0:

        --format table    2 0 3 1 k=2 0 [2] [3]
        --format pairs    3 1 0 2 1 0 2 3 k=2 0 [2] [3]

    A table has the successor of node i at position i. Pairs are `i successor`, in random order. The
    prompt ends with the hop count and then the start. So the token that comes last is always the
    node to look up next, and one attention layer can find its successor.

    k hops are exactly k lookups. (FactorExe's num_hops=h is h + 1 lookups.)
    `instance` is the table, (B, n).
    """
    flags = {
        'nodes': dict(type=at_least(1), help='nodes'),
        'hops': HOPS,
        'format': dict(choices=('table', 'pairs'), help='how the graph is written'),
    }
    answer_len = 1

    def __init__(self, nodes=20, hops=(4,), format='table'):
        require(3 <= nodes <= 10**5, f'{self.name} takes from 3 to 100,000 nodes, got {nodes}')
        require(1 <= min(hops) <= max(hops) < nodes,
                f'hops must be from 1 to nodes - 1 = {nodes - 1}, got {format_range(hops)}')
        require(format in ('table', 'pairs'), f'format must be table or pairs, got {format}')
        self.nodes = nodes
        self.hops = list(hops)
        self.format = format
        self.n_symbols = nodes
        nodes_as_words = [str(i) for i in range(nodes)]
        hop_words = [f'k={k}' for k in range(1, max(hops) + 1)]
        self.vocab = nodes_as_words + hop_words + ['_']
        self.pad = len(self.vocab) - 1
        self.longest_chain = max(hops)
        graph_len = 2 * nodes if format == 'pairs' else nodes
        self.block_size = graph_len + 2 + max(hops)

    def write(self, rng, source, hops):
        table = source[:, :-1]                                              # (B, n)
        start = source[:, -1:]                                              # (B, 1)

        graph = table
        if self.format == 'pairs':
            node = random_permutations(rng, *table.shape)
            successor = np.take_along_axis(table, node, axis=1)
            graph = np.stack((node, successor), axis=2).reshape(len(table), -1)
        hop_word = self.nodes + hops[:, None] - 1
        prompt = np.concatenate((graph, hop_word, start), axis=1)

        chain = []
        node = start
        for _ in range(max(self.hops)):
            node = np.take_along_axis(table, node, axis=1)
            chain.append(node)
        return prompt, np.concatenate(chain, axis=1), hops, table

    def read(self, prompt):
        prompt_len = self.block_size - max(self.hops)
        require(len(prompt) == prompt_len, f'it has {len(prompt)} words, not {prompt_len}')
        *graph, hop_word, start = prompt
        hops = hop_word - self.nodes + 1
        require(1 <= hops <= max(self.hops), 'the last word but one is no hop count')

        table = graph
        if self.format == 'pairs':
            successor = dict(zip(graph[::2], graph[1::2], strict=True))
            table = [successor.get(node, self.pad) for node in range(self.nodes)]
        require(max(*table, start) < self.nodes,
                f'it needs a successor for each of {self.nodes} nodes, and a start node')
        return np.array([[*table, start]]), np.array([hops])

    def valid(self, batch, chain):
        start = batch.tokens[:, batch.prompt_len - 1:batch.prompt_len]
        before = torch.cat((start, chain[:, :-1]), dim=1)
        is_node = before < self.nodes
        successor = batch.instance.gather(1, before.clamp(max=self.nodes - 1))
        return is_node & (chain == successor)

    def oracle(self, prompt):
        *graph, hop_word, node = prompt
        successor = graph
        if self.format == 'pairs':
            successor = dict(zip(graph[::2], graph[1::2], strict=True))
        chain = []
        for _ in range(hop_word - self.nodes + 1):
            node = successor[node]
            chain.append(node)
        return chain


class Cycle(Lookup):
    """The table is a permutation that is one cycle, FactorExe's Cycle.

    So fewer than n hops never come back to a node, and a chain cannot be cut short.
    """
    name = 'cycle'

    def draw(self, rng, hops):
        # Nodes in the order of the cycle. The first one is the start.
        order = random_permutations(rng, len(hops), self.nodes)             # (B, n)
        successor = np.roll(order, -1, axis=1)
        table = np.empty_like(order)
        np.put_along_axis(table, order, successor, axis=1)
        return table, np.concatenate((table, order[:, :1]), axis=1)

    def chance(self, hops):
        return 1 / (self.nodes - 1)  # any node but the start


class CVPR(Lookup):
    """Conditional Pointer Value Retrieval (Abnar et al. 2023).

    Follow pointers, table[i] > i, up to a value, table[i] <= i, which is the answer. So k hops read
    k - 1 pointers and one value. Cells that are not on the path hold uniform noise. FactorExe's
    C_VPR begins at cell 0, this one at the start node.
    """
    name = 'cvpr'

    def draw(self, rng, hops):
        B = len(hops)
        n = self.nodes
        row = np.arange(B)

        # k random cells in increasing order are the path
        is_off_path = random_permutations(rng, B, n) >= hops[:, None]
        path = np.argsort(is_off_path, axis=1, kind='stable')               # path cells first
        table = rng.integers(n, size=(B, n))

        # each cell of the path points at the next one
        content = np.take_along_axis(table, path, axis=1)
        is_pointer = np.arange(n - 1) < hops[:, None] - 1
        content[:, :-1] = np.where(is_pointer, path[:, 1:], content[:, :-1])

        # and the last one holds a value that is no larger than its own index
        last_cell = path[row, hops - 1]
        content[row, hops - 1] = rng.integers(last_cell + 1)
        np.put_along_axis(table, path, content, axis=1)
        return table, np.concatenate((table, path[:, :1]), axis=1)

    def chance(self, hops):
        # The best guess is 0. It is right with probability 1 / (p + 1), where p is the last cell
        # of the path, the largest of k distinct cells: P(p) = C(p, k - 1) / C(n, k). From
        # P(n - 1) = k / n downwards, P(p - 1) / P(p) = (p - k + 1) / p.
        k = hops
        p = np.arange(self.nodes - 1, k - 2, -1)
        ratios = (p[:-1] - k + 1) / p[:-1]
        prob = k / self.nodes * np.append(1, ratios.cumprod())
        return float((prob / (p + 1)).sum())


# -----------------------------------------------------------------------------
# task: multiplication

class Multiply(Task):
    """Multiply two numbers of N digits, the way it is done on paper.

    For each digit of the second number the chain has a partial product, then the running sum. The
    last sum is the product, the answer. Digits go from least to most significant (--reverse: the
    other way). 27 * 43 = 1161 takes 27 * 3 = 081, sum 081, 27 * 4 = 108, sum 081 + 1080 = 1161:

        2 7 * 4 3 = [1] [8] [0] [1] [8] [0] [8] [0] [1] [1] [6] [1] [1]

    `instance` is the two factors, (B, 2).
    """
    name = 'multiply'
    flags = {
        'digits': dict(type=at_least(1), help='digits of each factor'),
        'reverse': dict(action='store_true', help='most significant digit first'),
    }

    draw_size = 10  # see Task

    def __init__(self, digits=3, reverse=False):
        require(1 <= digits <= 9, f'digits must be from 1 to 9 (products are int64), got {digits}')
        N = digits
        self.digits = digits
        self.reverse = reverse
        self.hops = [digits]
        self.vocab = [*'0123456789', '*', '=', '_']
        self.n_symbols = 10
        self.pad = 12
        self.answer_len = 2 * N

        # digits of partial product 0, running sum 0, partial product 1, running sum 1, ...
        self.widths = []
        for j in range(N):
            self.widths += [N + 1, N + 1 + j]
        self.block_size = 2 * N + 2 + sum(self.widths)
        self.longest_chain = sum(self.widths)

    @property
    def write_size(self):
        return 5 * self.block_size

    def draw(self, rng, hops):
        low = 10 ** (self.digits - 1)
        factors = rng.integers(low, 10 * low, size=(len(hops), 2))
        return np.sort(factors, axis=1), factors  # a * b is held out together with b * a

    def partials_and_sums(self, a, b):
        """[partial product 0, running sum 0, partial product 1, ...], of numbers or arrays."""
        numbers = []
        for j in range(self.digits):
            numbers.append(a * (b // 10**j % 10))
            numbers.append(a * (b % 10 ** (j + 1)))
        return numbers

    def write(self, rng, source, hops):
        a, b = source.T
        star = np.full((len(a), 1), self.vocab.index('*'))
        equals = np.full((len(a), 1), self.vocab.index('='))
        first = digits_of(a, self.digits, most_significant_first=True)
        second = digits_of(b, self.digits, most_significant_first=True)
        prompt = np.concatenate((first, star, second, equals), axis=1)

        chain = []
        for number, width in zip(self.partials_and_sums(a, b), self.widths, strict=True):
            chain.append(digits_of(number, width, most_significant_first=self.reverse))
        chain = np.concatenate(chain, axis=1)
        return prompt, chain, np.full(len(a), chain.shape[1]), source

    def read(self, prompt):
        text = self.decode(prompt).replace(' ', '')
        factor = f'([0-9]{{{self.digits}}})'
        match = re.fullmatch(rf'{factor}\*{factor}=', text)
        require(match, f'it needs two factors of {self.digits} digits')
        return np.array([[int(match[1]), int(match[2])]]), np.array(self.hops)

    def valid(self, batch, chain):
        """A number is valid as a whole: all of its digits are, or none.

        A partial product must be right. A running sum must be the sum of the two numbers that were
        written before it, right or wrong.
        """
        a, b = batch.instance.T
        valid = []
        partial = running_sum = 0  # as written in the chain
        for i, piece in enumerate(chain.split(self.widths, dim=1)):
            least_first = piece.flip(1) if self.reverse else piece          # (B, width)
            powers = 10 ** torch.arange(piece.size(1), device=chain.device)
            written = (least_first * powers).sum(dim=1)                     # (B,)

            j = i // 2
            if i % 2 == 0:
                expected = a * (b // 10**j % 10)
                partial = written
            else:
                expected = partial * 10**j + running_sum
                running_sum = written
            good = (written == expected) & (piece < 10).all(dim=1)
            valid.append(good[:, None].expand_as(piece))
        return torch.cat(valid, dim=1)

    def oracle(self, prompt):
        a, b = ''.join(self.vocab[token] for token in prompt[:-1]).split('*')
        chain = []
        for number, width in zip(self.partials_and_sums(int(a), int(b)), self.widths, strict=True):
            text = str(number).zfill(width)
            chain += [int(digit) for digit in (text if self.reverse else text[::-1])]
        return chain

    def chance(self, hops):
        return 10.0 ** (-2 * self.digits)


def digits_of(x, width, most_significant_first):
    """The last `width` decimal digits of x (B,), (B, width)."""
    powers = 10 ** np.arange(width, dtype=np.int64)
    if most_significant_first:
        powers = powers[::-1]
    return x[:, None] // powers % 10


# -----------------------------------------------------------------------------
# task: parity

class Parity(Task):
    """Is the number of ones among the first k bits odd?

    The prompt holds all bits and then k. The chain is the running parity, and its last token is the
    answer. With 8 bits and 3 hops:

        1 0 1 1 0 1 0 0 k=3 [1] [1] [0]

    Each link takes the link before and one more bit. Without a chain all k bits have to be read at
    once, and none of them alone says anything about the answer (Wen et al. 2024, 2410.05459; there
    the bits that count are a secret. Here they are the first ones).

    `instance` holds the bits, (B, n).
    """
    name = 'parity'
    flags = {
        'bits': dict(type=at_least(1), help='bits of a question'),
        'hops': HOPS | dict(help='bits that count, or a range'),
    }
    answer_len = 1

    def __init__(self, bits=16, hops=(4,)):
        require(4 <= bits <= 60, f'parity takes from 4 to 60 bits, got {bits}')
        require(1 <= min(hops) <= max(hops) <= bits,
                f'hops must be from 1 to bits = {bits}, got {format_range(hops)}')
        self.bits = bits
        self.hops = list(hops)
        self.n_symbols = 2
        hop_words = [f'k={k}' for k in range(1, max(hops) + 1)]
        self.vocab = ['0', '1'] + hop_words + ['_']
        self.pad = len(self.vocab) - 1
        self.longest_chain = max(hops)
        self.block_size = bits + 1 + max(hops)

    def draw(self, rng, hops):
        bits = rng.integers(2, size=(len(hops), self.bits))
        return bits, bits

    def write(self, rng, source, hops):
        hop_word = 2 + hops[:, None] - 1
        prompt = np.concatenate((source, hop_word), axis=1)
        running = source[:, :max(self.hops)].cumsum(axis=1) % 2             # (B, K)
        return prompt, running, hops, source

    def read(self, prompt):
        require(len(prompt) == self.bits + 1,
                f'it has {len(prompt)} words, not {self.bits + 1}')
        *bits, hop_word = prompt
        require(max(bits) < 2, f'it needs {self.bits} bits, then a hop count')
        hops = hop_word - 1
        require(1 <= hops <= max(self.hops), 'the last word is no hop count')
        return np.array([bits]), np.array([hops])

    def valid(self, batch, chain):
        before = torch.cat((torch.zeros_like(chain[:, :1]), chain[:, :-1]), dim=1)
        bits = batch.instance[:, :chain.size(1)]
        return (before < 2) & (chain == (before + bits) % 2)

    def oracle(self, prompt):
        *bits, hop_word = prompt
        chain = []
        parity = 0
        for bit in bits[:hop_word - 1]:
            parity = 1 - parity if bit == 1 else parity
            chain.append(parity)
        return chain

    def chance(self, hops):
        return 0.5


# -----------------------------------------------------------------------------
# task: star graphs

class Star(Task):
    """Find the path to the goal in a star graph G(d, l) (Bachmann & Nagarajan 2024).

    d arms leave a centre. A path from the centre to the end of an arm has l nodes. The prompt lists
    the edges in random order, then the centre and the goal, which is the end of one arm:

        8 3 | 4 0 | 3 7 | 8 4 / 8 7 = [8] [3] [7]

    Written left to right, the first step needs a plan, and each later step is a lookup. A model
    trained on next tokens learns the lookups and picks an arm at random: accuracy 1/d. --reverse
    writes the path from the goal, which takes lookups only.

    The path is both chain and answer. `instance` holds the parent of each label, -1 if it has none,
    (B, nodes).
    """
    name = 'star'
    flags = {
        'star': dict(type=parse_list, metavar='D,L', help='arms, and nodes of a path'),
        'nodes': dict(type=at_least(1), help='labels, 10 or more'),
        'reverse': dict(action='store_true', help='path from the goal'),
    }

    def __init__(self, star=(2, 3), nodes=None, reverse=False):
        require(len(star) == 2 and min(star) >= 2,
                'star needs two numbers, arms and nodes on a path, each at least 2, got '
                f'{shorten(",".join(map(str, star)))}')
        d, l = star
        n_used = d * (l - 1) + 1
        if nodes is None:
            nodes = max(n_used, 10)
        require(n_used <= nodes <= 10**5, f'G({d},{l}) has {n_used} nodes: give that many labels, '
                                          f'at most 100,000, not {nodes}')
        self.star = [d, l]
        self.arms = d
        self.length = l
        self.nodes = nodes
        self.reverse = reverse
        self.hops = [l - 1]
        self.vocab = [str(i) for i in range(nodes)] + ['|', '/', '=', '_']
        self.n_symbols = nodes
        self.pad = nodes + 3
        self.answer_len = l
        self.block_size = 3 * d * (l - 1) + 3 + l
        self.longest_chain = l

    @property
    def draw_size(self):
        return 4 * self.block_size + 5 * self.nodes

    @property
    def write_size(self):
        return 10 * self.block_size + 4 * self.nodes

    def draw(self, rng, hops):
        d, l = self.star
        B = len(hops)

        # random labels: the centre, then the nodes of arm 0 from the centre outwards, of arm 1, ...
        labels = random_permutations(rng, B, self.nodes)[:, :d * (l - 1) + 1]
        centre = np.repeat(labels[:, :1, None], d, axis=1)                  # (B, d, 1)
        arms = labels[:, 1:].reshape(B, d, l - 1)
        paths = np.concatenate((centre, arms), axis=2)                      # (B, d, l)

        parent = np.full((B, self.nodes), -1)
        child_of_edge = paths[:, :, 1:].reshape(B, -1)
        parent_of_edge = paths[:, :, :-1].reshape(B, -1)
        np.put_along_axis(parent, child_of_edge, parent_of_edge, axis=1)

        # the graph decides the split, whichever arm holds the goal
        return parent, np.concatenate((labels, parent), axis=1)

    def write(self, rng, source, hops):
        d, l = self.star
        B = len(source)
        labels = source[:, :-self.nodes]
        parent = source[:, -self.nodes:]
        path = labels[:, :l]  # the goal is in the first arm: labels are random

        # edges `parent child |` in random order, with '/' after the last one
        order = random_permutations(rng, B, d * (l - 1))
        child = np.take_along_axis(labels[:, 1:], order, axis=1)            # (B, E)
        edge = (np.take_along_axis(parent, child, axis=1), child, np.full_like(child, self.nodes))
        edges = np.stack(edge, axis=2).reshape(B, -1)                       # (B, 3 E)
        edges[:, -1] = self.nodes + 1

        centre = path[:, :1]
        goal = path[:, -1:]
        equals = np.full((B, 1), self.nodes + 2)
        prompt = np.concatenate((edges, centre, goal, equals), axis=1)
        chain = path[:, ::-1] if self.reverse else path
        return prompt, chain, np.full(B, l), parent

    def read(self, prompt):
        prompt_len = self.block_size - self.length
        require(len(prompt) == prompt_len, f'it has {len(prompt)} words, not {prompt_len}')
        *edges, centre, goal, _ = prompt
        parent = {}
        for i in range(0, len(edges), 3):
            parent[edges[i + 1]] = edges[i]
        require(max(*parent, *parent.values(), centre, goal) < self.nodes, 'an edge is two nodes')

        # the arms from the centre outwards, that of the goal first
        no_star = f'its edges are not {self.arms} arms of {self.length} nodes, one to the goal'
        ends = set(parent) - set(parent.values()) - {goal}
        labels = [centre]
        for end in [goal, *sorted(ends)]:
            arm = []
            node = end
            while node in parent and len(arm) < self.length:
                arm.append(node)
                node = parent[node]
            require(node == centre and len(arm) == self.length - 1, no_star)
            labels += arm[::-1]
        n_nodes = 1 + self.arms * (self.length - 1)
        require(len(labels) == len(set(labels)) == n_nodes, no_star)
        parents = [parent.get(node, -1) for node in range(self.nodes)]
        return np.array([labels + parents]), np.array(self.hops)

    def valid(self, batch, chain):
        """The first token must be the centre (reversed: the goal), each later one a neighbour."""
        if self.reverse:
            first = batch.tokens[:, batch.prompt_len - 2]
            upper, lower = chain[:, 1:], chain[:, :-1]
        else:
            first = batch.tokens[:, batch.prompt_len - 3]
            upper, lower = chain[:, :-1], chain[:, 1:]
        is_node = lower < self.nodes
        parent = batch.instance.gather(1, lower.clamp(max=self.nodes - 1))
        is_edge = is_node & (parent == upper)
        return torch.cat(((chain[:, 0] == first)[:, None], is_edge), dim=1)

    def oracle(self, prompt):
        *edges, centre, goal, _ = prompt
        parent = {}
        for i in range(0, len(edges), 3):
            parent[edges[i + 1]] = edges[i]
        path = [goal]
        while path[-1] != centre:
            path.append(parent[path[-1]])
        return path if self.reverse else path[::-1]

    def chance(self, hops):
        return 1 / self.arms  # legal steps along a random arm


# -----------------------------------------------------------------------------
# command line

class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a description, one line a flag, and the defaults that say something."""

    def __init__(self, prog):
        super().__init__(prog, max_help_position=31, width=100)

    def _get_default_metavar_for_optional(self, action):
        """A whole number is N, another number X."""
        if action.type is int:
            return 'N'
        return getattr(action.type, 'metavar', action.dest.upper())

    def _format_action_invocation(self, action):
        """'--max_iters, --steps N' rather than '--max_iters N, --steps N'."""
        names = ', '.join(action.option_strings)
        if action.nargs == 0:
            return names
        metavar = self._get_default_metavar_for_optional(action)
        return f'{names} {self._format_args(action, metavar)}'

    def _get_help_string(self, action):
        hidden = action.default is None or action.default is False
        if hidden or action.default == argparse.SUPPRESS or '(default' in action.help:
            return action.help
        return f'{action.help} (default: %(default)s)'


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are ValueErrors, and whose flags cannot be abbreviated.

    doc: a script's docstring. The help shows its first line and its block of commands.
    words: what a command line may hold besides flags, for the help.
    """

    def __init__(self, doc, words=''):
        commands = doc[doc.index('    python'):].split('\n\n')[0].rstrip()
        super().__init__(usage=f'%(prog)s {words}[flags]', description=doc.split('\n')[0],
                         epilog=f'examples:\n{commands}', formatter_class=HelpFormatter,
                         allow_abbrev=False, add_help=False)
        self.takes_words = bool(words)
        self.register('type', None, path_or_name)  # flags without a type are names of things
        self.add_argument('-h', '--help', action='help', help=argparse.SUPPRESS)

    def parse_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else list(args)
        for word in words:
            check_word(word, self.takes_words)
        return super().parse_args(words, namespace)

    def defaults(self):
        """{name: default} of all flags but --help."""
        actions = [action for action in self._actions if action.dest != 'help']
        return {action.dest: action.default for action in actions}

    def error(self, message):
        words = [shorten(word) for word in message.split()]
        raise ValueError(' '.join(words)[:500])


def check_word(word, takes_words):
    """Raise ValueError for a word of the command line that nobody can mean."""
    require('\0' not in word, f'a NUL byte in {shorten(word)!r}')
    try:
        word.encode()
    except UnicodeEncodeError:
        raise ValueError(f'{shorten(word)!r} is not UTF-8 text') from None
    flag, equals, value = word.partition('=')
    is_flag_alone = word.startswith('--') and equals and value in ('', '--')
    require(not is_flag_alone, f'{shorten(flag)}: a value is missing')
    require(takes_words or word not in ('', '--'), f'{word!r} is no flag and no value')


def add_task_args(parser, tasks, **defaults):
    """Add --task and the flags of these tasks.

    A flag that is not typed is None, and make_task fills it in. defaults: as for make_task, for
    the help.
    """
    group = parser.add_argument_group('task')
    parser.set_defaults(task=tasks[0].name)
    if len(tasks) > 1:
        names = [task.name for task in tasks]
        group.add_argument('--task', metavar='TASK', choices=names, default=names[0],
                           help=' '.join(names))

    taken_by = {}  # flag -> the tasks that take it
    for task in tasks:
        for flag in task.flags:
            taken_by.setdefault(flag, []).append(task)

    for flag, takers in taken_by.items():
        options = dict(takers[0].flags[flag])
        options['default'] = None
        options['help'] = flag_help(flag, takers, len(tasks), defaults)
        group.add_argument(f'--{flag}', **options)


def flag_help(flag, takers, n_tasks, defaults):
    """The help of a flag. Where tasks differ, the tasks that each part of it is about come first:

    'cycle, cvpr: nodes (default: 20); star: labels, 10 or more'
    """
    defaults_of = {}  # help -> {task: its default as text, or None}
    for task in takers:
        options = task.flags[flag]
        value = default_of(task, flag, defaults)
        if value is False:
            value = None
        if isinstance(value, list | tuple):
            is_range = options['type'] is parse_range
            value = format_range(value) if is_range else ','.join(map(str, value))
        defaults_of.setdefault(options['help'], {})[task.name] = value

    parts = {}  # help with defaults -> the tasks that it is about
    for text, values in defaults_of.items():
        parts[text + default_text(values)] = values
    if len(takers) == n_tasks and len(parts) == 1:
        return next(iter(parts))
    return '; '.join(f'{", ".join(names)}: {text}' for text, names in parts.items())


def default_of(task, flag, defaults):
    """The value of a flag that is not typed: see make_task."""
    own = inspect.signature(task).parameters[flag].default
    if own is None:
        return None
    return defaults.get(flag, own)


def default_text(values):
    """{'cycle': 4, 'cvpr': 4, 'profiles': '1-2'} -> ' (default: 4; profiles: 1-2)'"""
    first = next(iter(values.values()))
    if first is None:
        return ''
    text = f' (default: {first}'
    for name, value in values.items():
        if value != first:
            text += f'; {name}: {value}'
    return text + ')'


def make_task(args, tasks, **defaults):
    """The one of these tasks that args ask for.

    args: a namespace with `task` and flags of tasks. A flag that is missing or None has its
    default.
    defaults: {flag: value} to use instead of a task's own default. Where a task's own default is
    None, so that it depends on other flags, it stays.
    Raises ValueError for a size that makes no sense and for a flag of another task.
    """
    task_class = {task.name: task for task in tasks}[args.task]
    given = {flag: default_of(task_class, flag, defaults) for flag in task_class.flags}
    for task in tasks:
        for flag in task.flags:
            if getattr(args, flag, None) is not None:
                given[flag] = getattr(args, flag)
    foreign = sorted(set(given) - set(task_class.flags))
    require(not foreign, f'--{" --".join(foreign)} means nothing to {args.task}, which takes '
                         f'--{" --".join(task_class.flags)}')
    return task_class(**given)


def print_examples(tasks, doc, argv=None):
    """The command line of data.py and of the other task files."""
    parser = Parser(doc)
    add_task_args(parser, tasks)
    parser.add_argument('--mode', choices=('cot', 'direct'), default='cot',
                        help='with the chain, or the answer alone')
    parser.add_argument('--n', type=at_least(1), default=3, help='how many examples')
    parser.add_argument('--seed', type=seed_number, default=1337, help='which examples')
    parser.add_argument('--raw', action='store_true', help='one plain line for each example')
    args = parser.parse_args(argv)
    task = make_task(args, tasks)

    # in parts, so that any number of them fits into memory
    part = max(1, min(1000, 2 * LARGEST_DRAW // task.write_size))
    chances = {}  # it takes a while to measure some of them
    for first in range(0, args.n, part):
        n = min(part, args.n - first)
        batch = sample_batch(task, n, args.seed, first // part, mode=args.mode)
        if first == 0 and not args.raw:
            print(f'{task.name}, hops {format_range(task.hops)}: vocab_size {len(task.vocab)}, '
                  f'block_size {task.block_size}, [brackets] mark the tokens that carry loss\n')
        for i in range(n):
            print_example(task, batch[i:i + 1], args.raw, chances)


def print_example(task, batch, raw, chances):
    """Print the one instance of this batch. raw: its tokens alone, on one line. chances: {hops:
    chance}, those that are known; new ones are added."""
    tokens = batch.tokens[0].tolist()
    start = int(batch.chain_start[0])
    end = start + int(batch.loss_mask[0].sum())  # without the padding
    if raw:
        print(task.decode(tokens[:end]))
        return

    bracketed = [f'[{task.vocab[token]}]' for token in tokens[start:end]]
    print(task.decode(tokens[:start]), *bracketed)
    places = sorted(set(batch.answer[0].tolist()))
    answer = task.decode(tokens[place] for place in places)
    chain = task.oracle(tokens[:start])
    truth = chain[:task.answer_len] if task.answer_first else chain[-len(places):]
    hops = int(batch.hops[0])
    if hops not in chances:
        chances[hops] = task.chance(hops)
    print(f'  answer {answer}   oracle {task.decode(truth)}   chance {chances[hops]:.3f}\n')


def main(argv=None):
    print_examples((Cycle, CVPR, Multiply, Parity, Star), __doc__, argv)


if __name__ == '__main__':
    with one_line_errors():
        main()
