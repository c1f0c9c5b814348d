"""Does a longer chain take more examples to learn?

FactorExe's plan asks whether chain-of-thought factorization leads to linear, sublinear or
superlinear scaling when the chain gets longer. A question of k lookups can be learned in several
ways (ARMS below). For each way and each k we look for the smallest pool of training questions with
which it is learned. Theory says: with a written chain the pool does not grow with k (2604.12013),
without one it can grow exponentially (2505.17923).

1. The task is `cycle`: follow k pointers through a table. (Or `parity`: of the first k bits.)
   Questions of a pool have 1 to k hops, as easy ones help all arms that get no chain. What counts
   are held-out questions of k hops.
2. A pool is N different questions, which are trained again and again. Smaller pools of a seed are
   the beginning of larger ones. All arms get the same pools.
3. A model trains until 95% of the held-out questions are right. It gives up after --steps steps, or
   when it knows its pool by heart (training loss below 0.01) and 500 more steps have not helped.
   --learned_by loss asks for a small loss of the held-out answers instead.
4. Each pool is tried with the learning rates in --rates, one after the other, until one learns. The
   smallest pool is found by bisection over powers of 2.
5. We fit a line to log2 of the smallest pool against k. Its slope is 0 if the pool does not grow,
   and 1 if each hop doubles it (growth.py).

There are three measurements (--measure):
   pools      the smallest pool, as described
   widths     the smallest width of a model that learns from fresh questions, in the same way
   budgets    one looped model that answers with any number of passes (anytime.py)

Three controls:
   useless    a walk through the table from a random node, then the right answer (parity: random
              bits). It is as long as the chain, but tells nothing about the answer. Also in the
              test such a walk is given
   backwards  the links before the answer in reverse order. (With fewer than two links that changes
              nothing)
   fresh      new questions in every step instead of a pool. If an arm does not learn even from
              these, a larger pool alone would not help: it needs more steps, or another model

    python scaling.py --quick                       # pools, 1, 2 and 4 hops, one seed: minutes
    python scaling.py --measure pools --arms written,soft
    python scaling.py --measure budgets             # one model, 1 to 16 passes
    python scaling.py --quick --task parity         # another task
    python scaling.py                               # everything: hours
    torchrun --standalone --nproc_per_node=2 scaling.py     # searches are dealt to the processes

A sweep that was stopped goes on with --resume. Only the model in training begins anew.

The last line:  final task=cycle quick=1 slope_written=0.0xx slope_soft=0.6xx slope_direct=none ...
Results: docs/scaling.md
"""

from errors import one_line_errors  # first: see errors.py

import functools
import math
import time
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

import anytime
import common
import growth
import memory
import plots
from data import (
    Cycle,
    Parity,
    Parser,
    at_least,
    parse_list,
    positive_float,
    require,
    sample_batch,
    some_of,
)
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
MEASUREMENTS = ('pools', 'widths', 'budgets')
QUICK = dict(measure=['pools'], arms=['written', 'soft', 'direct', 'useless'], hops=[1, 2, 4],
             n_seeds=1, largest_pool=4096, rates=[3e-3], steps=600)

LEARNED = 0.95     # share of held-out questions that must be right
LOW_LOSS = 0.2     # loss of held-out answers, in nats, with --learned_by loss
BY_HEART = 0.01    # training loss of a model that knows its pool, in nats
PATIENCE = 500     # steps that such a model may still train without becoming better
INTERVAL = 50      # steps between evaluations
N_DRAWN = 2**15    # questions from which a pool is taken, at least
THINNEST = 4       # smallest width that is tried
USELESS = 5        # stream of random numbers, beside those in data.STREAMS
ORDER = 6          # another: the order in which a pool is trained

LEGEND = """
  pool    number of training questions; `fresh`: new ones in every step
  width   of the model, where it is not --n_embd
  rate    the learning rate
  right   share of validation questions of k hops that are right, at the best evaluation
  loss    of their answers there, in nats
  test    share of test questions that are right, at the end
  At the end of a line: why the training ended (learned, by heart, steps, diverged)
"""


# -----------------------------------------------------------------------------
# arguments

def parse_rates(text):
    """'3e-3,1e-3' -> [0.003, 0.001]"""
    return [positive_float(word) for word in text.split(',', 20)]


def parse_args(argv):
    parser = Parser(__doc__)
    add = parser.add_argument_group('questions').add_argument
    add('--task', choices=('cycle', 'parity'), default='cycle', help='what is asked')
    add('--nodes', type=at_least(3, most=1000), help='of the cycle (default: 10)')
    add('--bits', type=at_least(4, most=60), help='parity: bits of a question (default: 16)')
    add('--hops', type=parse_list, help='chain lengths (default: 1,2,3,4,6,8)')
    add('--smallest_pool', type=at_least(2),
        help='fewest training questions, a power of 2 (default: 32)')
    add('--largest_pool', type=at_least(2),
        help='most training questions (default: 16384; --quick: 4096)')

    add = parser.add_argument_group('models').add_argument
    add('--measure', metavar='WHAT', type=some_of(MEASUREMENTS),
        help=f'one or several of {", ".join(MEASUREMENTS)} (default: all; --quick: pools)')
    add('--arms', metavar='ARMS', type=some_of(ARMS),
        help=f'one or several of {", ".join(ARMS)} (default: all)')
    add('--n_head', type=at_least(1), default=2, help='attention heads')
    add('--n_embd', type=at_least(1, most=65536), default=64, help='width; the largest of widths')

    add = parser.add_argument_group('training').add_argument
    add('--n_seeds', type=at_least(1, most=100), help='seeds, from --seed on (default: 3)')
    add('--rates', metavar='RATES', type=parse_rates,
        help='learning rates to try, with commas between (default: 3e-3,1e-3)')
    add('--steps', type=at_least(1),
        help='optimizer steps of a model, at most (default: 3000; --quick: 600)')
    add('--batch_size', type=at_least(1), default=128, help='questions a step')
    add('--weight_decay', type=at_least(0, float), default=0.01, help='AdamW, matrices only')
    add('--learned_by', choices=('accuracy', 'loss'), default='accuracy',
        help=f'learned: {LEARNED} of held-out answers are right, or their loss is {LOW_LOSS}')
    add('--n_test', type=at_least(4), default=2000,
        help='test questions of each model; a quarter as many for validation')
    add('--quick', action='store_true', help='four arms, 1, 2 and 4 hops, one seed, one rate')
    add('--resume', action='store_true', help='go on with the sweep in out_dir')
    common.add_run_args(parser, trains=False)
    return common.parse_args(parser, argv, 'scaling')


def fill_in(args):
    """Give flags that were left out their values. Raises ValueError for what makes no sense."""
    defaults = dict(measure=list(MEASUREMENTS), arms=list(ARMS), hops=[1, 2, 3, 4, 6, 8],
                    n_seeds=3, smallest_pool=32, largest_pool=16384, rates=[3e-3, 1e-3],
                    steps=3000)
    if args.quick:
        defaults |= QUICK
    require_use(args, args.measure or defaults['measure'])
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)

    args.hops = sorted(set(args.hops))
    if args.task == 'cycle':
        require(args.bits is None, '--bits means nothing to cycle, which takes --nodes')
        args.nodes = args.nodes or 10
        require(args.hops[-1] < args.nodes,
                f'--hops {args.hops[-1]} needs more than --nodes {args.nodes}: a cycle of n nodes '
                'has chains of n - 1 hops at most')
    else:
        require(args.nodes is None, '--nodes means nothing to parity, which takes --bits')
        args.bits = args.bits or 16
        require(args.hops[-1] <= args.bits,
                f'--hops {args.hops[-1]} needs as many --bits, not {args.bits}')
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


def require_use(args, measure):
    """Raise ValueError for flags that these measurements do not look at."""
    pools = [args.smallest_pool, args.largest_pool]
    require('pools' in measure or pools == [None, None],
            f'--smallest_pool and --largest_pool mean nothing to --measure {",".join(measure)}')
    searches = 'pools' in measure or 'widths' in measure
    require(searches or (args.arms is None and args.learned_by == 'accuracy'),
            '--arms and --learned_by mean nothing to --measure budgets')


def require_pool(args):
    """Raise ValueError if there are too few different questions for the largest pool."""
    # the fewest hops have the fewest different questions
    task = make_task(args.hops[0], args)
    n = len(draw_pool('written', task, args.largest_pool, args.seed))
    require(n == args.largest_pool,
            f'--largest_pool {args.largest_pool}: there are only about {n:,} different questions '
            f'of {args.hops[0]} hops; use a smaller pool or more --{next(iter(task.flags))}')


def searches(args):
    """Does this sweep search for pools or widths?"""
    return 'pools' in args.measure or 'widths' in args.measure


def memory_phases(args):
    """What each phase of a sweep takes: see memory.py."""
    phases = []
    searched = args.hops if searches(args) else []
    for hops in searched:
        task = make_task(hops, args)
        drawn = max(N_DRAWN, 2 * args.largest_pool)
        phases.append({'data': 2 * memory.drawing_bytes(task, drawn)})
        for arm in args.arms:
            config = make_config(arm, hops, args)
            step = memory.step_parts(config, args.batch_size, task.block_size, hops, n_copies=5)
            step['data'] = 16 * args.largest_pool * task.block_size
            evaluation = memory.decoding_bytes(config, min(500, args.n_test), task.block_size)
            phases += [step, {'model': step['model'], 'evaluation': 2 * evaluation}]
    if 'budgets' in args.measure:
        # `whole` holds every pass through all positions. With twice the passes it is evaluated
        task = make_task(args.hops[-1], args)
        config = anytime.make_config('whole', task, args)
        T = task.block_size
        step = memory.step_parts(config, args.batch_size, T, T, n_copies=5)
        evaluation = memory.decoding_bytes(config, min(500, args.n_test), T)
        phases += [step, {'model': step['model'], 'evaluation': 2 * evaluation}]
    return phases


CURES = memory.CURES | {'data': '--largest_pool or {size}', 'evaluation': '{size} or --n_embd'}


# -----------------------------------------------------------------------------
# questions and models

def make_task(hops, args):
    """Questions of 1 to `hops` hops."""
    return task_of_size(args.task, args.nodes if args.task == 'cycle' else args.bits, hops)


@functools.lru_cache  # always the same object, so that the cache of draw_pool knows it
def task_of_size(name, size, hops):
    """size: nodes or bits."""
    all_hops = list(range(1, hops + 1))
    return Cycle(size, all_hops) if name == 'cycle' else Parity(size, all_hops)


def make_config(arm, hops, args, width=None):
    """The model of an arm for chains of `hops` links. width: by default --n_embd."""
    task = make_task(hops, args)
    n_layer = hops if arm in ('direct', 'narrow') else 1
    n_loop = hops if arm == 'loop' else 1
    width = width or args.n_embd
    if arm == 'narrow':  # a layer of width w has about 12 w^2 parameters
        width = max(1, round(width / math.sqrt(hops) / args.n_head)) * args.n_head
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
def draw_pool(arm, task, n, seed):
    """The first n different questions of this seed, or fewer if there are not so many."""
    batch = draw_questions(arm, task, max(N_DRAWN, 2 * n), seed, 0, 'fit')
    prompts = batch.tokens[:, :batch.prompt_len].numpy()
    _, first = np.unique(prompts, axis=0, return_index=True)
    return batch[torch.from_numpy(np.sort(first)[:n])]


def write_useless_chains(batch, task, rng):
    """Replace the links before each answer by a walk from a random node, in place. There are k - 1
    of them, and the answer stays. In parity the links become random bits."""
    node = torch.from_numpy(rng.integers(task.n_symbols, size=(len(batch), 1)))  # (B, 1)
    P = batch.prompt_len
    for t in range(1, max(task.hops)):
        if task.name == 'cycle':
            node = batch.instance.gather(1, node)                         # (B, 1)
        else:
            node = torch.from_numpy(rng.integers(2, size=(len(batch), 1)))
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

def name_of(arm, hops, size, rate, seed, width=None):
    """size: of the pool, or None for fresh questions. width: if it is not --n_embd."""
    name = f'{arm}-{hops}-hops-{size or "fresh"}-rate-{rate:g}-seed-{seed}'
    return f'{name}-width-{width}' if width else name


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


def train(arm, hops, size, rate, seed, args, run, width=None):
    """Train one model until it has learned its questions, or gives up.

    size: of the pool, or None for fresh questions. width: of the model, if it is not --n_embd.
    Returns a record: a dict of plain values. In it `ended` says why the training ended: 'learned',
    'by heart', 'steps' or 'diverged'.
    Raises RunEnded if a signal stops this process.
    """
    # the pool, the model, the optimizer
    began = time.time()
    name = name_of(arm, hops, size, rate, seed, width)
    task = make_task(hops, args)
    pool = None
    if size is not None:
        pool = draw_pool(arm, task, args.largest_pool, seed)[:size]
    torch.manual_seed(seed)
    model = GPT(make_config(arm, hops, args, width)).to(run.device)
    optimizer = model.configure_optimizer(rate, args.weight_decay)
    warmup = min(100, args.steps // 3)

    best = -math.inf        # score at the best evaluation: see score_of
    right = 0.0             # share of the validation questions there
    loss = 0.0              # of their answers, there
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
            if score_of(now_right, now_loss, args) > best:
                best = score_of(now_right, now_loss, args)
                right = now_right
                loss = now_loss
                best_step = step
            if by_heart_since is None and train_loss is not None and train_loss < BY_HEART:
                by_heart_since = step
            if best >= score_of(LEARNED, LOW_LOSS, args):
                ended = 'learned'
            elif by_heart_since is not None and step - max(best_step, by_heart_since) >= PATIENCE:
                ended = 'by heart'
            elif step == args.steps:
                ended = 'steps'
        if ended:
            break
        run.check_signal_in_a_sweep()

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
    return dict(name=name, arm_of=arm, hops=hops, pool=size, width=width or args.n_embd, rate=rate,
                seed=seed, ended=ended, right=right, loss=loss, test=test, step=step, curve=curve,
                params=model.num_params(), chance=task.chance(hops), seconds=time.time() - began)


def score_of(right, loss, args):
    """The larger the better: the accuracy, or minus the loss, as --learned_by says."""
    return right if args.learned_by == 'accuracy' else -loss


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

    def record_of(self, arm, hops, size, rate, seed, width=None):
        """The record of this model. It is trained if no earlier run has done so."""
        name = name_of(arm, hops, size, rate, seed, width)
        if name not in self.records:
            self.keep(train(arm, hops, size, rate, seed, self.args, self.run, width))
        return self.records[name]

    def keep(self, record):
        """Save the record of a model, and print it."""
        self.run.write(lambda: common.append_record(self.run.out_dir, record, self.file))
        self.records[record['name']] = record
        self.run.print(in_one_line(record))

    def best(self, arm, hops, size, seed, width=None):
        """The record of the first learning rate that learns, else that of the best one."""
        best = None
        for rate in self.args.rates:
            record = self.record_of(arm, hops, size, rate, seed, width)
            if record['ended'] == 'learned':
                return record
            score = score_of(record['right'], record['loss'], self.args)
            if best is None or score > score_of(best['right'], best['loss'], self.args):
                best = record
        return best

    def smallest_pool(self, arm, hops, seed):
        """The size of the smallest pool from which the questions are learned, or None."""
        def suffices(size):
            return self.best(arm, hops, size, seed)['ended'] == 'learned'
        return smallest_that_suffices(pool_sizes(self.args), suffices)

    def smallest_width(self, arm, hops, seed):
        """The smallest width with which fresh questions are learned, or None."""
        def suffices(width):
            other = None if width == self.args.n_embd else width
            return self.best(arm, hops, None, seed, other)['ended'] == 'learned'
        return smallest_that_suffices(widths(self.args), suffices)

    def at_any_budget(self, kind, seed):
        """The record of anytime.py with the learning rate that is best on validation questions."""
        task = make_task(self.args.hops[-1], self.args)
        best = None
        for rate in self.args.rates:
            name = anytime.name_of(kind, rate, seed)
            if name not in self.records:
                self.keep(anytime.train(kind, task, rate, seed, self.args, self.run))
            record = self.records[name]
            if best is None or record['right'] > best['right']:
                best = record
        return best


def smallest_that_suffices(sizes, suffices):
    """The smallest of these sizes for which suffices(size) is true, or None.

    The largest size comes first, then bisection. It takes learning to be monotone: if a size
    suffices, so do all larger ones.
    """
    if not suffices(sizes[-1]):
        return None
    too_small = -1              # index of the largest size that does not suffice, or -1
    enough = len(sizes) - 1     # index of the smallest size that does
    while enough - too_small > 1:
        middle = (enough + too_small) // 2
        if suffices(sizes[middle]):
            enough = middle
        else:
            too_small = middle
    return sizes[enough]


def pool_sizes(args):
    """Powers of 2 from the smallest pool to the largest."""
    first = args.smallest_pool.bit_length() - 1
    last = args.largest_pool.bit_length() - 1
    return [2**i for i in range(first, last + 1)]


def widths(args):
    """--n_embd, halved as often as the heads allow, in increasing order."""
    sizes = [args.n_embd]
    while sizes[0] >= 2 * THINNEST and sizes[0] % (2 * args.n_head) == 0:
        sizes.insert(0, sizes[0] // 2)
    return sizes


def in_one_line(record):
    """What became of a model."""
    if 'kind' in record:
        return (f'{record["kind"]:9} any budget  rate {record["rate"]:g}  seed {record["seed"]}  '
                f'right with just enough passes {record["right"]:.3f}  '
                f'{record["seconds"]:4.0f} s  {record["ended"]}')
    pool = f'pool {record["pool"]:,}' if record['pool'] else 'fresh'
    return (f'{record["arm_of"]:9} {record["hops"]} hops  {pool:11}  width {record["width"]:3}  '
            f'rate {record["rate"]:g}  seed {record["seed"]}  right {record["right"]:.3f}  test '
            f'{record["test"]:.3f}  loss {record["loss"]:6.3f}  step {record["step"]:5}  '
            f'{record["seconds"]:4.0f} s  {record["ended"]}')


def list_jobs(args):
    """(what to do, with what, hops, seed) of all searches and models, the costly ones first."""
    jobs = []
    if 'budgets' in args.measure:
        for kind in anytime.KINDS:
            for i in range(args.n_seeds):
                jobs.append(('budgets', kind, args.hops[-1], args.seed + i))
    if searches(args):
        for arm in args.arms:
            for hops in args.hops:
                for i in range(args.n_seeds):
                    jobs.append(('search', arm, hops, args.seed + i))
    jobs.sort(key=lambda job: -n_passes(job[1], job[2]))  # stable: else in the order of the flags
    return jobs


def run_searches(args, run):
    """All jobs. Under torchrun they are dealt to the processes.

    Returns the results and the records of all models. A result is a dict:
        arm, hops, seed   what was searched
        pool     the smallest pool that suffices. None: not even the largest one does
        width    the smallest width that suffices for fresh questions, or None
        fresh    the record of fresh questions in the place of a pool
    or, of --measure budgets:
        kind, seed        which model
        record   of the best learning rate
    """
    sweep = Sweep(args, run)
    results = []
    for what, arm, hops, seed in list_jobs(args)[run.rank::run.world]:
        if what == 'budgets':
            results.append(dict(kind=arm, seed=seed, record=sweep.at_any_budget(arm, seed)))
            continue
        result = dict(arm=arm, hops=hops, seed=seed)
        if 'pools' in args.measure:
            result['pool'] = sweep.smallest_pool(arm, hops, seed)
        result['fresh'] = sweep.best(arm, hops, None, seed)
        if 'widths' in args.measure and arm in arms_with_widths(args):
            result['width'] = sweep.smallest_width(arm, hops, seed)
        results.append(result)

    if run.world > 1:
        shares = [None] * run.world
        dist.all_gather_object(shares, (results, sweep.records))
        results = []
        for share, records in shares:
            results += share
            sweep.records |= records
    results.sort(key=lambda result: (result.get('hops', 0), result['seed']))
    records = [sweep.records[name] for name in sorted(sweep.records)]
    return results, records


def arms_with_widths(args):
    """All but `narrow`, whose layers become thinner with the hops anyway."""
    return [arm for arm in args.arms if arm != 'narrow']


def n_passes(arm, hops):
    """How many passes through a layer follow one another in training: about what a step costs."""
    return hops if arm in ('direct', 'narrow', 'loop', 'soft', 'state', 'whole') else 1


# -----------------------------------------------------------------------------
# results

def sizes_by_hops(results, arm, what):
    """{hops: {seed: smallest size that suffices, or None}} of an arm. what: 'pool' or 'width'."""
    sizes = {}
    for result in results:
        if result.get('arm') == arm:
            sizes.setdefault(result['hops'], {})[result['seed']] = result[what]
    return dict(sorted(sizes.items()))


def typical(of_seeds):
    """Geometric mean of the sizes {seed: N}. None if some seed never learns."""
    if None in of_seeds.values():
        return None
    return round(2 ** float(np.mean(np.log2(list(of_seeds.values())))))


def fit_all(results, args, what):
    """{arm: its fit_growth} of the smallest pools or widths."""
    arms = args.arms if what == 'pool' else arms_with_widths(args)
    smallest = args.smallest_pool if what == 'pool' else widths(args)[0]
    fits = {}
    for arm in arms:
        fits[arm] = growth.fit_growth(sizes_by_hops(results, arm, what), smallest)
    return fits


def lowest_accuracy(results, kind, args):
    """The lowest accuracy of all seeds with as many passes as hops at least: (inside the range of
    passes that was trained, beyond it)."""
    largest = args.hops[-1]
    inside = []
    beyond = []
    for result in results:
        if result.get('kind') == kind:
            accuracy = result['record']['accuracy']
            hops = result['record']['hops']
            inside.append(anytime.lowest(accuracy, hops, 1, largest))
            beyond.append(anytime.lowest(accuracy, hops, largest + 1, 2 * largest))
    return min(inside), min(beyond)


def final_values(results, fits, args):
    """The values of the last line. `none`: not reached within the largest pool or width."""
    final = dict(task=args.task, quick=int(args.quick))
    shown = [k for k in args.hops if k in (1, 4) or k == args.hops[-1]]
    if 'pools' in args.measure:
        for arm, fit in fits['pool'].items():
            final[f'slope_{arm}'] = 'none' if fit['slope'] is None else fit['slope']
        for arm in args.arms:
            sizes = sizes_by_hops(results, arm, 'pool')
            for k in shown:
                final[f'n_{arm}_{k}'] = typical(sizes[k]) or 'none'
    if 'widths' in args.measure:
        for arm in arms_with_widths(args):
            sizes = sizes_by_hops(results, arm, 'width')
            for k in shown:
                final[f'width_{arm}_{k}'] = typical(sizes[k]) or 'none'
    if 'budgets' in args.measure:
        for kind in anytime.KINDS:
            inside, beyond = lowest_accuracy(results, kind, args)
            final[f'inside_{kind}'] = inside
            final[f'beyond_{kind}'] = beyond
    return final


def in_short(fit):
    """'0.05 (-0.10 to 0.20), constant'"""
    if fit['slope'] is not None:
        shape = f', {fit["shape"]}'
        if fit['shape'] not in ('constant', 'unclear', 'falling'):
            shape += (f', k^{fit["exponent"]:.2f} ({fit["exponent_low"]:.2f} to '
                      f'{fit["exponent_high"]:.2f})')
        return f'{fit["slope"]:.2f} ({fit["low"]:.2f} to {fit["high"]:.2f}){shape}'
    if fit['never']:
        return f'not learned at {",".join(map(str, fit["never"]))} hops'
    if fit['bounds']:
        return f'the smallest size suffices at {",".join(map(str, fit["bounds"]))} hops'
    return 'takes two hop counts'


def print_tables(results, fits, records, args, run):
    """Whatever was measured: pools, fresh questions, widths, budgets, and what each arm cost."""
    header = f'{"hops":>11}' + ''.join(f'{k:>9}' for k in args.hops)
    if 'pools' in args.measure:
        run.print('\nSmallest pool. Slope: 0 if it stays the same, 1 if each hop doubles it')
        print_sizes(results, fits['pool'], 'pool', pool_sizes(args), header, run)
    if 'widths' in args.measure:
        run.print('\nSmallest width, with fresh questions')
        print_sizes(results, fits['width'], 'width', widths(args), header, run)

    if searches(args):
        goal = f'{LEARNED:.0%}' if args.learned_by == 'accuracy' else f'a loss of {LOW_LOSS}'
        run.print(f'\nFresh questions in every step: steps to {goal}, or the best share right')
        run.print(header)
        for arm in args.arms:
            cells = ''
            for k in args.hops:
                fresh = [result['fresh'] for result in results
                         if result.get('arm') == arm and result['hops'] == k]
                cells += f'{fresh_in_short(fresh):>9}'
            run.print(f'{arm:>11}{cells}')

    if 'budgets' in args.measure:
        print_budgets(results, args, run)

    run.print('\nMinutes of training')
    for arm, minutes in minutes_of(records).items():
        run.print(f'{arm:>11}{minutes:9.1f}')


def print_sizes(results, fits, what, sizes, header, run):
    """A table of the smallest sizes, with the fits. sizes: those that were tried."""
    run.print(f'{header}   slope')
    for arm, fit in fits.items():
        cells = ''
        for of_seeds in sizes_by_hops(results, arm, what).values():
            cells += f'{size_in_short(of_seeds, sizes):>9}'
        run.print(f'{arm:>11}{cells}   {in_short(fit)}')


def size_in_short(of_seeds, sizes):
    """'256', or '>4096' if some seed never learns, or '<=32' if the smallest size suffices."""
    size = typical(of_seeds)
    if size is None:
        return f'>{sizes[-1]}'
    return f'<={size}' if size == sizes[0] else str(size)


def fresh_in_short(fresh):
    """Mean steps of the seeds. If some seed does not learn, the mean share right, as 0.12."""
    if all(record['ended'] == 'learned' for record in fresh):
        return f'{np.mean([record["step"] for record in fresh]):.0f}'
    return f'{np.mean([record["right"] for record in fresh]):.2f}'


def print_budgets(results, args, run):
    """Accuracy of each model by hops and passes, the mean of the seeds."""
    largest = args.hops[-1]
    shown = sorted({r for r in (1, 2, 4, largest, largest + 1) if r < 2 * largest})
    shown.append(2 * largest)
    for kind in anytime.KINDS:
        records = [result['record'] for result in results if result.get('kind') == kind]
        mean = np.mean([record['accuracy'] for record in records], axis=0)    # (hops, passes)
        run.print(f'\n{kind}: accuracy after so many passes, in training 1 to {largest}')
        run.print(f'{"passes":>11}' + ''.join(f'{r:>9}' for r in shown))
        for hops, accuracy in zip(records[0]['hops'], mean, strict=True):
            cells = ''.join(f'{accuracy[r - 1]:9.3f}' for r in shown)
            run.print(f'{hops:>6} hops{cells}')


def minutes_of(records):
    """{arm or kind: minutes that its models were trained}"""
    minutes = {}
    for record in records:
        arm = record.get('arm_of') or record['kind']
        minutes[arm] = minutes.get(arm, 0.0) + record['seconds'] / 60
    return minutes


def in_words(results, args):
    """One sentence: what was found, and against which control."""
    k = args.hops[-1]
    if searches(args):
        what = 'pool' if 'pools' in args.measure else 'width'
        most = args.largest_pool if what == 'pool' else args.n_embd
        parts = []
        arms = args.arms if what == 'pool' else arms_with_widths(args)
        for arm in arms:
            size = typical(sizes_by_hops(results, arm, what)[k])
            parts.append(f'{arm} {size or f"more than {most}"}')
        of_what = 'Training questions' if what == 'pool' else 'Width'
        return f'{of_what} that it takes to learn {k} hops: {", ".join(parts)}.'
    state, _ = lowest_accuracy(results, 'state', args)
    whole, _ = lowest_accuracy(results, 'whole', args)
    return (f'With as many passes as hops, or more, up to {k}: a model that reads the question '
            f'once is right in {state:.3f} at least, one that loops over all of it in {whole:.3f}.')


# -----------------------------------------------------------------------------
# everything in order

def main(argv=None):
    """Find the smallest pools, and fit the laws. Returns the values of the last line."""
    args = parse_args(argv)
    task = fill_in(args)
    device = common.find_device(args.device)
    needed = memory.require_memory(memory_phases(args), device, task, CURES)
    if 'pools' in args.measure:
        require_pool(args)
    with common.Run('scaling', args) as run:
        run.print(f'{len(list_jobs(args))} searches, files in {args.out_dir}, about '
                  f'{memory.in_gib(needed)} of memory')
        if searches(args):
            for arm in args.arms:
                run.print(f'  {arm:9}  {ARMS[arm]}')
            run.print(LEGEND)
        if run.resumes and run.master:
            common.cut_log(run.out_dir, 'model', 0)  # all are logged again

        results, records = search_all(args, run)
        if not run.master:
            return None

        # the tables, the log, the last line, the figure
        fits = {}
        if 'pools' in args.measure:
            fits['pool'] = fit_all(results, args, 'pool')
        if 'widths' in args.measure:
            fits['width'] = fit_all(results, args, 'width')
        print_tables(results, fits, records, args, run)
        for record in records:
            run.log(arm='model', **record)
        final = final_values(results, fits, args)
        final |= dict(chance=task.chance(args.hops[-1]), n_test=args.n_test, seeds=args.n_seeds,
                      runs=len(records), seed=args.seed,
                      seconds=sum(record['seconds'] for record in records))
        run.print(in_words(results, args))
        run.log(arm='final', fits=fits, minutes=minutes_of(records), **final)
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
