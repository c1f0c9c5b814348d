"""Does a longer chain take more examples to learn?

FactorExe's plan asks whether chain-of-thought factorization leads to linear, sublinear or
superlinear scaling when the chain gets longer. A question of k lookups can be learned in several
ways (ARMS below). For each way and each k we look for the smallest pool of training questions with
which it is learned. Theory says: with a written chain the pool does not grow with k (2604.12013),
without one it can grow exponentially (2505.17923).

1. The task is `cycle`: follow k pointers through a table. Questions of a pool have 1 to k hops, as
   easy ones help all arms that get no chain. What counts are held-out questions of k hops.
2. A pool is N different questions, which are trained again and again. Smaller pools of a seed are
   the beginning of larger ones. All arms get the same pools.
3. A model trains until 95% of the held-out questions are right. It gives up after --steps steps, or
   when it knows its pool by heart (training loss below 0.01) and 500 more steps have not helped.
4. Each pool is tried with the learning rates in --rates, one after the other, until one comes to
   95%. The smallest pool is found by bisection over powers of 2.
5. We fit a line to log2 of the smallest pool against k. Its slope is 0 if the pool does not grow,
   and 1 if each hop doubles it.

Three controls:
   useless    a walk through the table from a random node, then the right answer. It is as long as
              the chain, but tells nothing about the answer. Also in the test such a walk is given
   backwards  the links before the answer in reverse order. (With fewer than two links that changes
              nothing)
   fresh      new questions in every step instead of a pool. If an arm does not learn even from
              these, a larger pool alone would not help: it needs more steps, or another model

    python scaling.py --quick                       # 1, 2 and 4 hops, one seed: minutes
    python scaling.py --arms written,soft           # the whole range of hops
    python scaling.py                               # everything: hours
    torchrun --standalone --nproc_per_node=2 scaling.py     # searches are dealt to the processes

A sweep that was stopped goes on with --resume. Only the model in training begins anew.

The last line:  final task=cycle quick=1 slope_written=0.0xx slope_soft=0.6xx slope_direct=none ...
Results: docs/scaling.md
"""

from errors import one_line_errors  # first: see errors.py

import argparse
import functools
import math
import time
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

import common
import memory
import plots
from data import Cycle, Parser, at_least, parse_list, positive_float, require, sample_batch, shorten
from model import GPT, GPTConfig, LossPositions, last_position


ARMS = {
    'written': 'the chain is given, with a loss on every link',
    'soft': 'thoughts: the mean token embedding, weighted with the probabilities of the output',
    'loop': 'no chain, one layer that is applied k times to every question',
    'direct': 'no chain, k layers of the same width: as deep as the chain is long',
    'narrow': 'no chain, k thinner layers: together as many parameters as one layer',
    'useless': 'control: a chain that tells nothing about the answer',
    'backwards': 'control: the links of the chain in reverse order',
}
WRITES_A_CHAIN = ('written', 'useless', 'backwards')
QUICK = dict(arms=['written', 'soft', 'direct', 'useless'], hops=[1, 2, 4], n_seeds=1,
             largest_pool=4096, rates=[3e-3], steps=600)

LEARNED = 0.95     # share of held-out questions that must be right
BY_HEART = 0.01    # training loss of a model that knows its pool, in nats
PATIENCE = 500     # steps that such a model may still train without becoming better
INTERVAL = 50      # steps between evaluations
SURE = 0.9         # share of redrawn fits that must agree on a shape
N_DRAWN = 2**15    # questions from which a pool is taken, at least
USELESS = 5        # stream of random numbers, beside those in data.STREAMS
ORDER = 6          # another: the order in which a pool is trained

LEGEND = """
  pool    number of training questions; `fresh`: new ones in every step
  rate    the learning rate
  right   share of validation questions of k hops that are right, at the best evaluation
  loss    of their answers there, in nats
  test    share of test questions that are right, at the end
  At the end of a line: why the training ended (learned, by heart, steps, diverged)
"""


# -----------------------------------------------------------------------------
# arguments

def parse_arms(text):
    """'written,soft' -> ['written', 'soft']"""
    arms = text.split(',', len(ARMS))
    if not set(arms) <= set(ARMS) or len(set(arms)) < len(arms):
        raise argparse.ArgumentTypeError(
            f'expected one or several of {", ".join(ARMS)}, each once and with commas between, got '
            f'{shorten(text)!r}')
    return arms


def parse_rates(text):
    """'3e-3,1e-3' -> [0.003, 0.001]"""
    return [positive_float(word) for word in text.split(',', 20)]


def parse_args(argv):
    parser = Parser(__doc__)
    add = parser.add_argument_group('questions').add_argument
    add('--nodes', type=at_least(3, most=1000), default=10, help='nodes of the cycle')
    add('--hops', type=parse_list, help='chain lengths (default: 1,2,3,4,6,8)')
    add('--smallest_pool', type=at_least(2), default=32,
        help='fewest training questions, a power of 2')
    add('--largest_pool', type=at_least(2),
        help='most training questions (default: 16384; --quick: 4096)')

    add = parser.add_argument_group('models').add_argument
    add('--arms', metavar='ARMS', type=parse_arms,
        help=f'one or several of {", ".join(ARMS)} (default: all)')
    add('--n_head', type=at_least(1), default=2, help='attention heads')
    add('--n_embd', type=at_least(1, most=65536), default=64, help='width')

    add = parser.add_argument_group('training').add_argument
    add('--n_seeds', type=at_least(1, most=100), help='seeds, from --seed on (default: 3)')
    add('--rates', metavar='RATES', type=parse_rates,
        help='learning rates to try, with commas between (default: 3e-3,1e-3)')
    add('--steps', type=at_least(1),
        help='optimizer steps of a model, at most (default: 3000; --quick: 600)')
    add('--batch_size', type=at_least(1), default=128, help='questions a step')
    add('--weight_decay', type=at_least(0, float), default=0.01, help='AdamW, matrices only')
    add('--n_test', type=at_least(4), default=2000,
        help='test questions of each model; a quarter as many for validation')
    add('--quick', action='store_true', help='four arms, 1, 2 and 4 hops, one seed, one rate')
    add('--resume', action='store_true', help='go on with the sweep in out_dir')
    common.add_run_args(parser, trains=False)
    return common.parse_args(parser, argv, 'scaling')


def fill_in(args):
    """Give flags that were left out their values. Raises ValueError for what makes no sense."""
    defaults = dict(arms=list(ARMS), hops=[1, 2, 3, 4, 6, 8], n_seeds=3, largest_pool=16384,
                    rates=[3e-3, 1e-3], steps=3000)
    if args.quick:
        defaults |= QUICK
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)

    args.hops = sorted(set(args.hops))
    require(args.hops[-1] < args.nodes,
            f'--hops {args.hops[-1]} needs more than --nodes {args.nodes}: a cycle of n nodes has '
            'chains of n - 1 hops at most')
    for name in ('smallest_pool', 'largest_pool'):
        size = getattr(args, name)
        require(size & (size - 1) == 0, f'--{name} {size} is no power of 2')
    require(args.smallest_pool <= args.largest_pool,
            f'--smallest_pool {args.smallest_pool} is larger than --largest_pool '
            f'{args.largest_pool}')
    for arm in args.arms:
        make_config(arm, args.hops[-1], args)
    task = make_task(args.hops[0], args)  # has the fewest different questions
    for split in ('validation', 'test'):
        sample_batch(task, 1, args.seed, 0, split)  # are there instances to hold out?
    return task


def require_pool(args):
    """Raise ValueError if there are too few different questions for the largest pool."""
    # the fewest hops have the fewest different questions
    n = len(draw_pool('written', args.nodes, args.hops[0], args.largest_pool, args.seed))
    require(n == args.largest_pool,
            f'--largest_pool {args.largest_pool}: there are only about {n:,} different questions '
            f'of {args.hops[0]} hops; use a smaller pool or more --nodes')


def memory_phases(args):
    """What each phase of a sweep takes: see memory.py."""
    phases = []
    for hops in args.hops:
        task = make_task(hops, args)
        drawn = max(N_DRAWN, 2 * args.largest_pool)
        phases.append({'data': 2 * memory.drawing_bytes(task, drawn)})
        for arm in args.arms:
            config = make_config(arm, hops, args)
            step = memory.step_parts(config, args.batch_size, task.block_size, hops, n_copies=5)
            step['data'] = 16 * args.largest_pool * task.block_size
            evaluation = memory.decoding_bytes(config, min(500, args.n_test), task.block_size)
            phases += [step, {'model': step['model'], 'evaluation': 2 * evaluation}]
    return phases


CURES = memory.CURES | {'data': '--largest_pool or {size}', 'evaluation': '{size} or --n_embd'}


# -----------------------------------------------------------------------------
# questions and models

def make_task(hops, args):
    """Questions of 1 to `hops` hops."""
    return Cycle(args.nodes, list(range(1, hops + 1)))


def make_config(arm, hops, args):
    """The model of an arm for chains of `hops` links."""
    task = make_task(hops, args)
    n_layer = hops if arm in ('direct', 'narrow') else 1
    n_loop = hops if arm == 'loop' else 1
    width = args.n_embd
    if arm == 'narrow':  # a layer of width w has about 12 w^2 parameters
        width = max(1, round(args.n_embd / math.sqrt(hops) / args.n_head)) * args.n_head
    return GPTConfig(len(task.vocab), task.block_size, n_layer, args.n_head, width, n_loop)


def draw_questions(arm, task, n, seed, step, split, hops=None):
    """n questions of one split, each with the chain that this arm writes. hops: for all of them."""
    # soft thoughts read no chain, but their answer has the same place: after the other links
    mode = 'cot' if arm in (*WRITES_A_CHAIN, 'soft') else 'direct'
    batch = sample_batch(task, n, seed, step, split, mode, hops)
    if arm == 'useless':
        rng = np.random.default_rng([seed, USELESS, step])
        write_useless_chains(batch, task, rng)
    if arm == 'backwards':
        reverse_links(batch)
    return batch


@functools.lru_cache(maxsize=1)  # one search asks for the same pool again and again
def draw_pool(arm, nodes, hops, n, seed):
    """The first n different questions of this seed, or fewer if there are not so many."""
    task = Cycle(nodes, list(range(1, hops + 1)))
    batch = draw_questions(arm, task, max(N_DRAWN, 2 * n), seed, 0, 'fit')
    prompts = batch.tokens[:, :batch.prompt_len].numpy()
    _, first = np.unique(prompts, axis=0, return_index=True)
    return batch[torch.from_numpy(np.sort(first)[:n])]


def write_useless_chains(batch, task, rng):
    """Replace the links before each answer by a walk from a random node, in place. There are k - 1
    of them, and the answer stays."""
    node = torch.from_numpy(rng.integers(task.nodes, size=(len(batch), 1)))  # (B, 1)
    P = batch.prompt_len
    for t in range(1, max(task.hops)):
        node = batch.instance.gather(1, node)                             # (B, 1)
        is_link = t < batch.hops                                          # (B,)
        batch.tokens[is_link, P + t - 1] = node[is_link, 0]


def reverse_links(batch):
    """Turn the links before each answer around, in place: c1 c2 c3 a -> c3 c2 c1 a."""
    P = batch.prompt_len
    place = torch.arange(batch.tokens.size(1)).expand_as(batch.tokens)    # (B, T)
    last_link = P + batch.hops[:, None] - 2                               # (B, 1)
    is_link = (place >= P) & (place <= last_link)                         # (B, T)
    place = torch.where(is_link, P + last_link - place, place)
    batch.tokens[:] = batch.tokens.gather(1, place)


# -----------------------------------------------------------------------------
# loss and accuracy

def think_softly(model, prompt, n_outputs):
    """Logits (B, n_outputs, V). Each output becomes the next input: the mean of the token
    embeddings, weighted with its probabilities. The prompt is read once, then one position at a
    time, with the keys and values of those before. (train_latent.py explains it.)"""
    P = prompt.size(1)
    cache = model.new_growing_cache()
    at_the_end = LossPositions(last_position(prompt), causal=True)
    position = slice(0, P)
    x = model.embed(model.wte(prompt), position)                          # (B, P, C)
    x = model.residual(x, position, cache, loss_positions=at_the_end)     # (B, C)
    logits = [model.head(x)]
    for t in range(1, n_outputs):
        thought = logits[-1].softmax(dim=-1) @ model.wte.weight           # (B, C)
        position = slice(P + t - 1, P + t)
        x = model.embed(thought[:, None], position)
        x = model.residual(x, position, cache, start=P + t - 1)[:, 0]
        logits.append(model.head(x))
    return torch.stack(logits, dim=1)


def loss_of(arm, model, batch):
    """Cross-entropy: on the answer, and on the links where the arm writes a chain."""
    if arm == 'soft':
        logits = think_softly(model, batch.tokens[:, :batch.prompt_len], int(batch.hops.max()))
        row = torch.arange(len(batch), device=logits.device)
        answer = batch.tokens.gather(1, batch.answer)[:, 0]               # (B,)
        return F.cross_entropy(logits[row, batch.hops - 1].float(), answer)
    mask = batch.loss_mask[:, 1:]
    logits = model(batch.tokens[:, :-1], mask)                            # (N, V)
    return F.cross_entropy(logits.float(), batch.tokens[:, 1:][mask])


@torch.no_grad()
def evaluate(arm, model, task, seed, n, split, run):
    """n held-out questions of the most hops. The model writes its own chain, greedily. (A useless
    chain is given: its own might happen to be the true one.)

    Returns the share of right answers, and the mean loss of the answer, in nats.
    """
    model.eval()
    hops = max(task.hops)
    n_right = 0
    loss = 0.0
    for first in range(0, n, 500):
        B = min(500, n - first)
        batch = draw_questions(arm, task, B, seed, hops * 10**6 + first, split, hops)
        batch = batch.to(run.device)
        prompt = batch.tokens[:, :batch.prompt_len]
        answer = batch.tokens.gather(1, batch.answer)[:, 0]               # (B,)
        with run.autocast:
            if arm == 'soft':
                logits = think_softly(model, prompt, hops)[:, -1]         # (B, V)
            else:
                n_links = batch.tokens.size(1) - batch.prompt_len - 1  # before the answer
                before = prompt
                if arm == 'useless':
                    before = batch.tokens[:, :-1]
                elif n_links > 0:
                    before = model.generate(prompt, n_links)              # (B, P + n_links)
                logits = model(before, last_position(before))             # (B, V)
        n_right += (logits.argmax(dim=-1) == answer).sum().item()
        loss += F.cross_entropy(logits.float(), answer, reduction='sum').item()
    return n_right / n, loss / n


# -----------------------------------------------------------------------------
# one model

def name_of(arm, hops, size, rate, seed):
    """size: of the pool, or None for fresh questions."""
    return f'{arm}-{hops}-hops-{size or "fresh"}-rate-{rate:g}-seed-{seed}'


def batch_of_step(arm, task, pool, step, seed, batch_size):
    """The questions of this step: the next ones of the pool, or fresh ones if there is none.

    Each epoch goes through the pool in a new order. What is less than a batch at its end is left
    out.
    """
    if pool is None:
        return draw_questions(arm, task, batch_size, seed, step + 1, 'fit')  # 0 is the pool's
    size = min(batch_size, len(pool))
    steps_an_epoch = len(pool) // size
    epoch = step // steps_an_epoch
    order = np.random.default_rng([seed, ORDER, epoch]).permutation(len(pool))
    first = step % steps_an_epoch * size
    return pool[torch.from_numpy(order[first:first + size])]


def train(arm, hops, size, rate, seed, args, run):
    """Train one model until it has learned its questions, or gives up.

    size: of the pool, or None for fresh questions. Returns a record: a dict of plain values. In it
    `ended` says why the training ended: 'learned', 'by heart', 'steps' or 'diverged'.
    Raises RunEnded if a signal stops this process.
    """
    # the pool, the model, the optimizer
    began = time.time()
    name = name_of(arm, hops, size, rate, seed)
    task = make_task(hops, args)
    pool = None
    if size is not None:
        pool = draw_pool(arm, args.nodes, hops, args.largest_pool, seed)[:size]
    torch.manual_seed(seed)
    model = GPT(make_config(arm, hops, args)).to(run.device)
    optimizer = model.configure_optimizer(rate, args.weight_decay)
    warmup = min(100, args.steps // 3)

    right = -1.0            # share of the validation questions, at its best
    loss = 0.0              # of their answers, at that evaluation
    best_step = 0
    by_heart_since = None   # the first evaluation with a small training loss
    train_losses = []       # of the steps since the last evaluation
    curve = []              # (step, share right, loss, training loss)
    ended = None
    step = 0
    bar = run.progress_bar(name, step, args.steps)
    run.begin_training()
    while True:
        # has it learned its questions, or does it give up?
        if step % INTERVAL == 0 or step == args.steps:
            now_right, now_loss = evaluate(arm, model, task, seed, args.n_test // 4, 'validation',
                                           run)
            train_loss = float(np.mean(train_losses)) if train_losses else None
            curve.append((step, now_right, now_loss, train_loss))
            train_losses = []
            if now_right > right:
                right = now_right
                loss = now_loss
                best_step = step
            if by_heart_since is None and train_loss is not None and train_loss < BY_HEART:
                by_heart_since = step
            if right >= LEARNED:
                ended = 'learned'
            elif by_heart_since is not None and step - max(best_step, by_heart_since) >= PATIENCE:
                ended = 'by heart'
            elif step == args.steps:
                ended = 'steps'
        if ended:
            break
        if run.signal:
            raise common.RunEnded(
                f'stopped by {common.signal_name(run.signal)}; the models that were finished are '
                'saved, --resume goes on from there', exit_code=128 + run.signal)

        # forward and backward
        model.train()
        batch = batch_of_step(arm, task, pool, step, seed, args.batch_size).to(run.device)
        with run.autocast:
            batch_loss = loss_of(arm, model, batch)
        batch_loss.backward()
        train_losses.append(batch_loss.item())
        if not math.isfinite(train_losses[-1]):
            ended = 'diverged'
            break

        # update: a warm-up, then a constant learning rate
        for group in optimizer.param_groups:
            group['lr'] = rate * min(1.0, (step + 1) / (warmup + 1))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        bar.update()
    bar.close()
    run.trains = False  # a signal may stop the evaluation at once

    test, _ = evaluate(arm, model, task, seed, args.n_test, 'test', run)
    return dict(name=name, arm_of=arm, hops=hops, pool=size, rate=rate, seed=seed, ended=ended,
                right=right, loss=loss, test=test, step=step, curve=curve,
                params=model.num_params(), chance=task.chance(hops), seconds=time.time() - began)


# -----------------------------------------------------------------------------
# many models

class Sweep:
    """The models that are trained already, by name. Each process has a file for its own."""

    def __init__(self, args, run):
        self.args = args
        self.run = run
        self.file = f'models-{run.rank}.jsonl'
        self.records = {}
        if run.resumes:
            for path in sorted(run.out_dir.glob('models-*.jsonl')):
                for record in common.read_log(run.out_dir, path.name):
                    if 'ended' in record:
                        self.records[record['name']] = record

    def record_of(self, arm, hops, size, rate, seed):
        """The record of this model. It is trained if no earlier run has done so."""
        name = name_of(arm, hops, size, rate, seed)
        if name not in self.records:
            record = train(arm, hops, size, rate, seed, self.args, self.run)
            self.run.write(
                lambda: common.append_record(self.run.out_dir, record, self.file))
            self.records[name] = record
            self.run.print(in_one_line(record))
        return self.records[name]

    def best(self, arm, hops, size, seed):
        """The record of the first learning rate that learns, else that of the best one."""
        best = None
        for rate in self.args.rates:
            record = self.record_of(arm, hops, size, rate, seed)
            if best is None or record['right'] > best['right']:
                best = record
            if record['ended'] == 'learned':
                break
        return best

    def smallest(self, arm, hops, seed):
        """The size of the smallest pool from which the questions are learned, or None.

        The largest pool comes first, then bisection. It takes learning to be monotone: if a pool
        suffices, so do all larger ones.
        """
        sizes = pool_sizes(self.args)
        if self.best(arm, hops, sizes[-1], seed)['ended'] != 'learned':
            return None
        fails = -1                  # index of the largest size that does not suffice, or -1
        suffices = len(sizes) - 1   # index of the smallest size that does
        while suffices - fails > 1:
            middle = (suffices + fails) // 2
            if self.best(arm, hops, sizes[middle], seed)['ended'] == 'learned':
                suffices = middle
            else:
                fails = middle
        return sizes[suffices]


def pool_sizes(args):
    """Powers of 2 from the smallest pool to the largest."""
    first = args.smallest_pool.bit_length() - 1
    last = args.largest_pool.bit_length() - 1
    return [2**i for i in range(first, last + 1)]


def in_one_line(record):
    """What became of a model."""
    pool = f'pool {record["pool"]:,}' if record['pool'] else 'fresh'
    return (f'{record["arm_of"]:9} {record["hops"]} hops  {pool:11}  rate {record["rate"]:g}  seed '
            f'{record["seed"]}  right {record["right"]:.3f}  test {record["test"]:.3f}  loss '
            f'{record["loss"]:6.3f}  step {record["step"]:5}  {record["seconds"]:4.0f} s  '
            f'{record["ended"]}')


def run_searches(args, run):
    """All searches, the costly ones first. Under torchrun they are dealt to the processes.

    Returns [{arm, hops, seed, size, fresh}] and the records of all models.
        size    of the smallest pool that suffices. None: not even the largest one does
        fresh   the record of fresh questions in the place of a pool
    """
    jobs = []
    for arm in args.arms:
        for hops in args.hops:
            for i in range(args.n_seeds):
                jobs.append((arm, hops, args.seed + i))
    jobs.sort(key=lambda job: -n_passes(job[0], job[1]))  # stable: else in the order of the flags

    sweep = Sweep(args, run)
    found = []
    for arm, hops, seed in jobs[run.rank::run.world]:
        size = sweep.smallest(arm, hops, seed)
        fresh = sweep.best(arm, hops, None, seed)
        found.append(dict(arm=arm, hops=hops, seed=seed, size=size, fresh=fresh))

    if run.world > 1:
        shares = [None] * run.world
        dist.all_gather_object(shares, (found, sweep.records))
        found = []
        for share, records in shares:
            found += share
            sweep.records |= records
    found.sort(key=lambda search: (args.arms.index(search['arm']), search['hops'], search['seed']))
    records = [sweep.records[name] for name in sorted(sweep.records)]
    return found, records


def n_passes(arm, hops):
    """How many passes through a layer follow one another in training: about what a step costs."""
    return hops if arm in ('direct', 'narrow', 'loop', 'soft') else 1


# -----------------------------------------------------------------------------
# how the smallest pool grows

def sizes_by_hops(found, arm):
    """{hops: {seed: size of the smallest pool, or None}} of an arm."""
    sizes = {}
    for search in found:
        if search['arm'] == arm:
            sizes.setdefault(search['hops'], {})[search['seed']] = search['size']
    return dict(sorted(sizes.items()))


def fit_growth(sizes):
    """How does the smallest pool N grow with the hops k? sizes: {hops: {seed: N or None}}.

    Returns a dict:
        reached, never   hop counts that all seeds learn, and the others
        slope            of log2 N against k: doublings a hop. None if some hop count is never
                         learned, or if there is only one
        low, high        its 95% interval, see redraw
        exponent         of N ~ k^exponent: the slope of log2 N against log2 k
        shape            'constant' if the interval holds 0, 'falling' if it is below. Else 'power'
                         or 'exponential', if SURE of the redrawn points are nearer to this line;
                         'growing' if neither is. None with fewer than three hop counts
    """
    hops = list(sizes)
    reached = [k for k in hops if None not in sizes[k].values()]
    fit = dict(reached=reached, never=[k for k in hops if k not in reached], slope=None, low=None,
               high=None, exponent=None, shape=None)
    if fit['never'] or len(hops) < 2:
        return fit

    # rows are seeds, columns are hop counts
    seeds = sorted(sizes[hops[0]])
    log_n = np.log2([[sizes[k][seed] for k in hops] for seed in seeds])   # (S, K)
    k = np.array(hops, dtype=float)                                       # (K,)
    fit['slope'], _ = fit_line(k, log_n.mean(axis=0))
    fit['exponent'], _ = fit_line(np.log2(k), log_n.mean(axis=0))

    # how far slope and shape depend on the seeds, and on pools being powers of 2
    slopes = []
    n_power = 0
    for points in redraw(log_n):
        slope, error = fit_line(k, points)
        _, power_error = fit_line(np.log2(k), points)
        slopes.append(slope)
        n_power += power_error < error
    fit['low'], fit['high'] = np.quantile(slopes, [0.025, 0.975]).tolist()
    if len(hops) >= 3:
        fit['shape'] = shape_of(fit['low'], fit['high'], n_power / len(slopes))
    return fit


def redraw(log_n, n_draws=2000):
    """Other points that the experiment could have given, (n_draws, K). log_n (S, K).

    The seeds are drawn again, with replacement. And as N / 2 fails and N suffices, the true
    smallest pool lies somewhere between: each log2 N is drawn between log2 N - 1 and log2 N.
    """
    rng = np.random.default_rng(0)
    n_seeds = len(log_n)
    points = []
    for _ in range(n_draws):
        rows = rng.integers(n_seeds, size=n_seeds)
        drawn = log_n[rows] - rng.random(log_n.shape)                     # (S, K)
        points.append(drawn.mean(axis=0))
    return np.array(points)


def shape_of(low, high, share_power):
    """The word for how a pool grows, see fit_growth."""
    if low <= 0 <= high:
        return 'constant'
    if high < 0:
        return 'falling'
    if share_power >= SURE:
        return 'power'
    return 'exponential' if share_power <= 1 - SURE else 'growing'


def fit_line(x, y):
    """Slope of the least-squares line, and the sum of squares that it leaves."""
    slope, offset = np.polyfit(x, y, 1)
    slope = round(float(slope), 9) + 0.0  # no -0.0
    return slope, float(((y - offset - slope * x) ** 2).sum())


def typical(of_seeds):
    """Geometric mean of the sizes {seed: N}. None if some seed never learns."""
    if None in of_seeds.values():
        return None
    return round(2 ** float(np.mean(np.log2(list(of_seeds.values())))))


def final_values(found, fits, args):
    """The values of the last line. `none`: not reached within the largest pool."""
    final = dict(task='cycle', quick=int(args.quick))
    for arm, fit in fits.items():
        final[f'slope_{arm}'] = 'none' if fit['slope'] is None else fit['slope']
    shown = [k for k in args.hops if k in (1, 4) or k == args.hops[-1]]
    for arm in fits:
        sizes = sizes_by_hops(found, arm)
        for k in shown:
            final[f'n_{arm}_{k}'] = typical(sizes[k]) or 'none'
    return final


def in_short(fit):
    """'0.05 (-0.10 to 0.20), constant'"""
    if fit['slope'] is not None:
        shape = f', {fit["shape"]}' if fit['shape'] else ''
        return f'{fit["slope"]:.2f} ({fit["low"]:.2f} to {fit["high"]:.2f}){shape}'
    if fit['never']:
        return f'not learned at {",".join(map(str, fit["never"]))} hops'
    return 'takes two hop counts'


def print_tables(found, fits, args, run):
    """The smallest pool of each arm and hop count with the slope, and fresh questions."""
    run.print('\nSmallest pool. Slope: 0 if it stays the same, 1 if each hop doubles it')
    run.print(f'{"hops":>11}' + ''.join(f'{k:>9}' for k in args.hops) + '   slope')
    for arm, fit in fits.items():
        cells = ''
        for of_seeds in sizes_by_hops(found, arm).values():
            cells += f'{typical(of_seeds) or f">{args.largest_pool}":>9}'
        run.print(f'{arm:>11}{cells}   {in_short(fit)}')

    run.print(f'\nFresh questions in every step: steps to {LEARNED:.0%}, or the best share right')
    run.print(f'{"hops":>11}' + ''.join(f'{k:>9}' for k in args.hops))
    for arm in fits:
        cells = ''
        for k in args.hops:
            fresh = [s['fresh'] for s in found if (s['arm'], s['hops']) == (arm, k)]
            cells += f'{fresh_in_short(fresh):>9}'
        run.print(f'{arm:>11}{cells}')


def fresh_in_short(fresh):
    """Mean steps of the seeds. If some seed does not learn, the mean share right, as 0.12."""
    if all(record['ended'] == 'learned' for record in fresh):
        return f'{np.mean([record["step"] for record in fresh]):.0f}'
    return f'{np.mean([record["right"] for record in fresh]):.2f}'


def in_words(found, fits, args):
    """One sentence: what was found, and against which control."""
    k = args.hops[-1]
    parts = []
    for arm in fits:
        size = typical(sizes_by_hops(found, arm)[k])
        parts.append(f'{arm} {size or f"more than {args.largest_pool}"}')
    return f'Training questions that it takes to learn {k} hops: {", ".join(parts)}.'


# -----------------------------------------------------------------------------
# everything in order

def main(argv=None):
    """Find the smallest pools, and fit the laws. Returns the values of the last line."""
    args = parse_args(argv)
    task = fill_in(args)
    device = common.find_device(args.device)
    needed = memory.require_memory(memory_phases(args), device, task, CURES)
    require_pool(args)
    with common.Run('scaling', args) as run:
        run.print(f'{len(args.arms) * len(args.hops) * args.n_seeds} searches, files in '
                  f'{args.out_dir}, about {memory.in_gib(needed)} of memory')
        for arm in args.arms:
            run.print(f'  {arm:9}  {ARMS[arm]}')
        run.print(LEGEND)
        if run.resumes and run.master:
            common.cut_log(run.out_dir, 'model', 0)  # all are logged again

        found, records = search_all(args, run)
        if not run.master:
            return None

        # the tables, the log, the last line, the figure
        fits = {arm: fit_growth(sizes_by_hops(found, arm)) for arm in args.arms}
        print_tables(found, fits, args, run)
        for record in records:
            run.log(arm='model', **record)
        final = final_values(found, fits, args)
        final |= dict(chance=task.chance(args.hops[-1]), n_test=args.n_test, seeds=args.n_seeds,
                      runs=len(records), seed=args.seed,
                      seconds=sum(record['seconds'] for record in records))
        run.print(in_words(found, fits, args))
        run.log(arm='final', fits=fits, **final)
        run.print(common.final_line(**final))
        plots.draw_run(run.out_dir)
        return final


def search_all(args, run):
    """run_searches, with a process group around it if there are several processes."""
    # The processes exchange nothing but records, and one may wait for another for days.
    run.join_group(timeout=timedelta(days=7))
    try:
        return run_searches(args, run)
    except Exception as error:
        error.any_rank = not run.signal  # each process has models of its own: it says what failed
        raise
    finally:
        run.leave_group()


if __name__ == '__main__':
    with one_line_errors():
        main()
