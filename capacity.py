"""How many bits does a tiny transformer know, and how does it keep facts that it must combine?

Johnston & Belrose (2025, 2502.03490; EleutherAI's transformer-reasoning) train small models on
made-up people. They ask which way of storing facts explains how many questions a model can answer.
The same here, on the task `profiles` (profiles.py): n people, A attributes of m values, and R
relations. Their estimator is mended: every fault is a case in tests/test_capacity.py.

1. Information. The answers hold H bits. A model leaves L bits of loss on them, the summed
   cross-entropy of their tokens over all questions. Model and code for the rest together are a code
   for the facts, so (Allen-Zhu & Li, 2404.05405, section 3)
       stored bits >= H - L
   A kind of question counts max(0, H - L): a model that is wrong with confidence does not know less
   than nothing.
2. One hop:
       stored = n A log2 m - L_attributes  +  n R log2 n - L_relations  +  names
   A relation names one of n people, which is log2 n bits. `names` is what it is worth to know which
   n of the N0 possible names exist. It counts only where names carry loss, as answers:
       optimal      log2 C(N0, n), exactly
       bound        n log2 N0 - n log2 n, as in the papers; less by at most n log2 e
       enumerate    n log2 N0: an ordered list with repeats
       independent  0: names are given
   It counts in full while a name costs at most log2 n bits. If it costs l bits, the share
   log2 C(2^l, n) / log2 C(N0, n) is subtracted. So a uniform model has stored 0, and one that knows
   who exists and nothing else just `names`.
3. Two hops: "the employer of A's mentor". What must a model hold to answer all training questions,
   those of one hop included? Three schemes:
       optimal   every fact once, and it composes them: the bits of one hop
       double    relations twice, once for each hop: log2 n more for each trained (A, mentor)
       big hash  every trained combination (A, mentor, employer) by itself: log2 m or log2 n
                 more for each one
   For big hash, stored = one-hop bits + (H - L) of the combinations. For the others only the
   two-hop answers count, which are right if both facts are known. If a share x of the facts is
   known, x^2 of the questions are: L / H = 1 - x^2, so x = sqrt(1 - L / H).
   The scheme that explains the models is the flat one: where more facts are asked than fit, its
   bits for each parameter depend neither on n nor on the size. `spread` is their standard deviation
   over their mean, among the models that have not learned everything.
4. --cot: the model first writes the bridge person and the subject. Each link is then a question of
   one hop. Of a kind's losses, in one-hop questions and in chains, the larger one counts.
5. --smallest: the smallest model, in steps of 10%, that has 99% of its trained two-hop questions
   right. Beside it stands the smallest one for the facts alone, after as many one-hop questions.
   It is found by bisection, which takes learning to be monotone in size.

Recipe: 2 layers, rope (so that a link of a chain looks like a question of one hop), AdamW without
decay, learning rate RATE * sqrt(16 / n_embd), a cosine to 0, a fixed number of steps. The batch
follows from the exposures. All parameters count, tied embeddings once. int8, int4: the share of the
bits that is left when all matrices are rounded, with one scale for each row.
Departures: tokens instead of English, one question a sequence (one-hop questions share the work on
a name), sampling without replacement.

    python capacity.py                                      # one hop, minutes on a laptop
    python capacity.py --sizes 3000,6000 --exposures 30 --steps 200     # a look, in seconds
    python capacity.py --hops 2 --sizes 8000,16000 --people 50,100,200  # which scheme is flat?
    python capacity.py --hops 2 --cot --smallest --n_layer 1            # what does a chain cost?
    torchrun --standalone --nproc_per_node=2 capacity.py --device cuda \\
        --sizes 20000,53000,141000,376000,1000000

The last line:  final hops=1 slope=2.6xx r2=... best=... n_models=3 ...  slope: bits a parameter
Results: docs/capacity.md
"""

import copy
import json
import math
import time
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

import common
import plots
from data import (
    Batch,
    Parser,
    at_least,
    one_line_errors,
    parse_list,
    positive_float,
    require,
    write_batch,
)
from model import GPT, GPTConfig
from profiles import Profiles


RATE = 2e-2     # learning rate at 16 channels
LEARNED = 0.99  # --smallest: share of the training questions that must be right
STEP = 1.1      # --smallest: ratio of one size to the one below

# Flags whose default depends on --hops.
DEFAULTS = {
    1: dict(attributes=8, relations=0, n_head=4, exposures=1000),
    2: dict(attributes=20, relations=4, n_head=1, exposures=300),
}


# -----------------------------------------------------------------------------
# arguments

def parse_args(argv):
    parser = Parser(__doc__)
    add = parser.add_argument_group('facts').add_argument
    add('--hops', type=int, choices=(1, 2), default=1,
        help='1: facts. 2: facts, and questions that combine two')
    add('--cot', action='store_true', help='two hops with a chain: the bridge person comes first')
    add('--people', type=parse_list,
        help='one number or several (default: from --fill; --smallest: 100)')
    add('--fill', type=positive_float, default=3.5,
        help='facts in bits for each parameter, where --people is not given')
    add('--attributes', type=at_least(0), help='of 128 values (default: 8; two hops: 20)')
    add('--relations', type=at_least(0), help='relations of each person (default: 0; two hops: 4)')

    add = parser.add_argument_group('models').add_argument
    add('--sizes', type=parse_list,
        help='parameters to aim at; with --smallest where to begin (default: 10000,20000,40000; '
             '--smallest: facts / 2.5)')
    add('--smallest', action='store_true', help='two hops: find the smallest model that learns')
    add('--n_layer', type=at_least(1), default=2, help='transformer blocks')
    add('--n_head', type=at_least(1), help='attention heads (default: 4; two hops: 1)')
    add('--n_loop', type=at_least(1), default=1,
        help='times the blocks are applied, with shared weights')

    add = parser.add_argument_group('training').add_argument
    add('--exposures', type=at_least(1),
        help='times each question is trained (default: 1000; two hops: 300, since each fact is in '
             'many questions)')
    add('--max_iters', '--steps', type=at_least(1), default=4800,
        help='optimizer steps; the batch follows from the exposures')
    common.add_run_args(parser, 'out/capacity-<hops>[-cot][-smallest]', trains=False)
    parser.add_argument('--resume', action='store_true',
                        help='go on from the checkpoints in out_dir')
    return parser.parse_args(argv)


def fill_in(args):
    """Give flags that were left out their value. Returns the models of the grid, as jobs.

    Raises ValueError for what makes no sense together, and for sizes beyond reason.
    """
    for name, value in DEFAULTS[args.hops].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.out_dir is None:
        args.out_dir = f'out/capacity-{args.hops}'
        if args.cot:
            args.out_dir += '-cot'
        if args.smallest:
            args.out_dir += '-smallest'

    require(args.hops == 2 or not (args.cot or args.smallest),
            'a chain, or the smallest model, is for questions of two hops: add --hops 2')
    is_small = (max(args.sizes or [1]) <= 10**9 and max(args.exposures, args.max_iters) <= 10**7
                and max(args.n_layer, args.n_head, args.n_loop) <= 100)
    require(is_small, 'at most: --sizes 10^9, --exposures and --steps 10^7, --n_layer, --n_head '
                      'and --n_loop 100')
    if args.smallest:
        if args.people is None:
            args.people = [100]
        if args.sizes is None:
            task = Profiles(args.people[0], args.attributes, args.relations)
            args.sizes = [round(one_hop_bits(task, 0, 0, 'independent') / 2.5)]
        require(len(args.people) == len(args.sizes) == 1,
                '--smallest takes one number of --people, and one of --sizes to begin with')
    if args.sizes is None:
        args.sizes = [10000, 20000, 40000]

    # sizes that come to the same width are one model
    mode = 'cot' if args.cot else 'direct'
    jobs = {}
    for size in args.sizes:
        for people in args.people or [people_to_fill(size, args)]:
            job = make_job(args, args.hops, mode, size, people, args.exposures)
            jobs[job['name']] = job
    return list(jobs.values())


def people_to_fill(size, args):
    """The number of people whose facts are fill * size bits. A relation costs log2 n bits, which
    depends on the number n itself, so the equation is solved by iteration."""
    n = 2.0
    for _ in range(50):
        bits_a_person = args.attributes * 7 + args.relations * math.log2(n)
        n = max(2.0, args.fill * size / max(1, bits_a_person))
    return round(n)


def make_job(args, hops, mode, target, people, exposures):
    """One model to train: a dict of plain values.

    Its number of parameters is as near to `target` as its width, a multiple of n_head, allows.
    """
    task = Profiles(people, args.attributes, args.relations, range(1, hops + 1))

    # A width of w has 12 L w^2 parameters in the matrices of the layers, 2 L w + w in the norms,
    # and V w in the embedding: a w^2 + b w.
    a = 12 * args.n_layer
    b = len(task.vocab) + 2 * args.n_layer + 1
    exact = (math.sqrt(b * b + 4 * a * target) - b) / (2 * a)
    below = max(2, math.floor(exact / args.n_head)) * args.n_head
    above = max(2, math.floor(exact / args.n_head) + 1) * args.n_head
    width = min((below, above), key=lambda w: abs(a * w * w + b * w - target))
    return dict(name=f'{hops}-{mode}-{people}x{width}', hops=hops, mode=mode, people=people,
                n_embd=width, exposures=exposures)


# -----------------------------------------------------------------------------
# bits
#
# A task counts with its people, attributes, relations, values and n_names alone.

def selection_bits(n, N0, how='optimal'):
    """Bits that say which n of N0 names exist. how: see the module's docstring, 2."""
    if how == 'optimal':
        log_choose = math.lgamma(N0 + 1) - math.lgamma(n + 1) - math.lgamma(N0 - n + 1)
        return log_choose / math.log(2)
    if how == 'bound':
        return n * math.log2(N0 / n)
    if how == 'enumerate':
        return n * math.log2(N0)
    return 0.0  # independent


def known_share(loss, entropy):
    """1 - loss / entropy, within 0 and 1: the share of these bits that the model knows."""
    if entropy == 0:
        return 0.0
    return min(1.0, max(0.0, 1 - loss / entropy))


def name_bits(task, loss, how='optimal'):
    """Bits of knowing who exists, of a model to which the name of a relation costs `loss` bits.

    0 without relations: then no name carries loss.
    """
    n = task.people
    N0 = task.n_names
    if task.relations == 0 or n >= N0:
        return 0.0
    n_candidates = min(N0, max(n, 2 ** min(loss, 99)))  # names that the model takes for possible
    unknown_share = selection_bits(n, n_candidates) / selection_bits(n, N0)
    return selection_bits(n, N0, how) * max(0.0, 1 - unknown_share)


def one_hop_bits(task, attribute_loss, relation_loss, how='optimal'):
    """Stored bits, from the losses in bits, summed over all one-hop questions of either kind.

    With losses of 0 this is the entropy of the facts. how: see selection_bits.
    """
    n = task.people
    attribute_bits = n * task.attributes * math.log2(task.values)
    relation_bits = n * task.relations * math.log2(n)
    loss_of_a_name = relation_loss / max(1, n * task.relations)
    return (attribute_bits * known_share(attribute_loss, attribute_bits)
            + relation_bits * known_share(relation_loss, relation_bits)
            + name_bits(task, loss_of_a_name, how))


def two_hop_bits(task, scheme, one, two, counts, how='optimal'):
    """Stored bits if facts are kept as `scheme` says: optimal, double or big hash (docstring, 3).

    one, two: (attributes, relations), losses in bits, summed over the one-hop questions and over
              the trained two-hop questions with such a subject.
    counts:   how many two-hop questions have an attribute or a relation as subject, and with how
              many (person, relation) pairs they begin.
    With losses of 0 this is the entropy.
    """
    n_attribute, n_relation, n_pairs = counts
    attribute_entropy = n_attribute * math.log2(task.values)
    relation_entropy = n_relation * math.log2(task.people)
    attribute_share = known_share(two[0], attribute_entropy)
    relation_share = known_share(two[1], relation_entropy)
    if scheme == 'big hash':
        return (one_hop_bits(task, *one, how) + attribute_entropy * attribute_share
                + relation_entropy * relation_share)

    # a question is right if both of its facts are known
    n_attribute_facts = task.people * task.attributes
    n_relation_facts = task.people * task.relations
    if scheme == 'double':
        n_relation_facts += n_pairs
    loss_of_a_name = two[1] / n_relation if n_relation else math.inf
    facts = (n_attribute_facts * math.log2(task.values) * math.sqrt(attribute_share)
             + n_relation_facts * math.log2(task.people) * math.sqrt(relation_share))
    return facts + name_bits(task, loss_of_a_name, how)


def stored_bits(task, mode, loss, count):
    """{scheme: stored bits}, from what evaluate returns. With an empty loss: {scheme: entropy}."""
    one = (loss.get('attribute1', 0), loss.get('relation1', 0))
    if max(task.hops) == 1:
        stored = {'one hop': one_hop_bits(task, *one)}
        if task.relations:
            stored['names enumerate'] = one_hop_bits(task, *one, 'enumerate')
            stored['names independent'] = one_hop_bits(task, *one, 'independent')
        return stored

    if mode == 'cot':
        # Each link is a question of one hop. The loss of a chain's link, for each person:
        per_person = {}
        for kind in ('attribute2', 'relation2', 'bridge'):
            per_person[kind] = task.people * loss.get(kind, 0) / max(1, count[kind])
        attribute_loss = task.attributes * per_person['attribute2']
        relation_loss = task.relations * (per_person['relation2'] + per_person['bridge']) / 2
        return {'chain': one_hop_bits(task, max(one[0], attribute_loss),
                                      max(one[1], relation_loss))}

    two = (loss.get('attribute2', 0), loss.get('relation2', 0))
    counts = (count.get('attribute2', 0), count.get('relation2', 0), count.get('pair2', 0))
    stored = {}
    for scheme in ('optimal', 'double', 'big hash'):
        stored[scheme] = two_hop_bits(task, scheme, one, two, counts)
    return stored


# -----------------------------------------------------------------------------
# questions

@dataclass
class Questions:
    """All questions about the people of one model."""
    task: Profiles
    mode: str               # 'cot' or 'direct'
    batch: Batch            # every question: one hop, person by person, then two hops
    group: int              # so many questions in a row are about one person and drawn together
    units: torch.Tensor     # (U, group) rows of the batch: the trained ones, group by group


def all_questions(task):
    """Every question, (N, 3): person, relation (-1 in one hop), subject.

    First those of one hop, person by person. Then, for two hops, the others.
    """
    people = range(task.people)
    subjects = range(task.attributes + task.relations)
    parts = []
    for relations in ([-1], range(task.relations))[:max(task.hops)]:
        grid = np.meshgrid(people, relations, subjects, indexing='ij')
        parts.append(np.stack(grid, axis=-1).reshape(-1, 3))
    return np.concatenate(parts)


def make_questions(job, args):
    """The questions of one model."""
    task = Profiles(job['people'], args.attributes, args.relations, range(1, job['hops'] + 1),
                    facts=args.seed)
    questions = all_questions(task)
    hops = np.where(questions[:, 1] < 0, 1, 2)
    batch = write_batch(task, np.random.default_rng(0), questions, hops, job['mode'])
    group = args.attributes + args.relations if job['hops'] == 1 else 1
    is_trained = batch.instance[:, 3] == 0
    units = is_trained.nonzero().view(-1, group)                            # (U, group)
    return Questions(task, job['mode'], batch, group, units)


class Epochs:
    """Questions in a random order, a new one every epoch. Any step's batch can be asked for, so a
    resumed run goes on where it stopped."""

    def __init__(self, units, size, seed):
        self.units = units   # (U, group): groups of questions that are drawn together
        self.size = size     # groups in a batch
        self.seed = seed
        self.orders = {}     # epoch -> its order

    def order(self, epoch):
        if epoch not in self.orders:
            generator = torch.Generator().manual_seed((self.seed * 10**5 + epoch) % 2**63)
            self.orders[epoch] = torch.randperm(len(self.units), generator=generator)
        return self.orders[epoch]

    def batch(self, step):
        """The rows of this step: the next `size` groups of epoch 0, epoch 1, ... in a row."""
        place = torch.arange(step * self.size, (step + 1) * self.size)
        epoch = place // len(self.units)
        within = place % len(self.units)
        rows = []
        for e in epoch.unique().tolist():
            rows.append(self.units[self.order(e)[within[epoch == e]]])

        # later batches need no earlier epochs
        last = int(epoch[-1])
        self.orders = {last: self.orders[last]}
        return torch.cat(rows).flatten()


# -----------------------------------------------------------------------------
# one model

def question_losses(model, tokens, mask, group, run):
    """For every loss token of questions (N, T), in reading order: its cross-entropy in nats, and
    whether it is the most likely token.

    Every `group` questions are about one person, whose name is then worked through only once.
    """
    mask = mask[:, 1:]
    targets = tokens[:, 1:][mask]
    shared = (3, group) if group > 1 else None
    with run.autocast:
        logits = model(tokens[:, :-1], mask, shared=shared)
    losses = F.cross_entropy(logits.float(), targets, reduction='none')
    return losses, logits.argmax(dim=-1) == targets


@torch.no_grad()
def evaluate(model, questions, run):
    """Losses and accuracies on all questions. Three dicts:

    loss      bits, summed by kind: attribute1, relation1 (one hop); attribute2, relation2 (answers
              of trained two-hop questions); bridge (the bridge persons before them)
    count     how many questions there are of each kind, and of (person, relation) pairs
    accuracy  share with every token right, by hops and by why a question is held out
    """
    task = questions.task
    batch = questions.batch
    bits, is_right = token_losses(model, questions, run)                    # (N, T - 1) each

    # the loss of the answer, and of the bridge person before it
    _, relation, subject, label = batch.instance.T
    one_hop = relation < 0
    answer_bits = bits.sum(dim=1)
    bridge_bits = bits[:, :0].sum(dim=1)
    if questions.mode == 'cot':
        # the chain: three tokens of a name, the subject again (which says nothing), the answer
        start = batch.prompt_len - 1
        bridge_bits = bits[:, start:start + 3].sum(dim=1)
        answer_bits = torch.where(one_hop, answer_bits, bits[:, start + 4:].sum(dim=1))

    trained_two = (relation >= 0) & (label == 0)
    is_name = subject >= task.attributes
    kinds = {
        'attribute1': one_hop & ~is_name,
        'relation1': one_hop & is_name,
        'attribute2': trained_two & ~is_name,
        'relation2': trained_two & is_name,
        'bridge': trained_two,
    }
    loss = {}
    count = {}
    for kind, rows in kinds.items():
        kind_bits = bridge_bits if kind == 'bridge' else answer_bits
        loss[kind] = kind_bits[rows].sum().item()
        count[kind] = int(rows.sum())
    count['pair2'] = len(batch.instance[trained_two][:, :2].unique(dim=0))

    groups = {'acc_1': one_hop}
    for i, name in enumerate(task.labels):
        groups[f'acc_2_{name}'] = ~one_hop & (label == i)
    accuracy = {}
    for name, rows in groups.items():
        if rows.any():
            accuracy[name] = is_right.all(dim=1)[rows].double().mean().item()
    return loss, count, accuracy


def token_losses(model, questions, run):
    """For every question and every target: the loss in bits (0 where there is none), and whether
    the token is right (True where there is none). (N, T - 1), (N, T - 1)"""
    batch = questions.batch
    model.eval()
    bits = torch.zeros(batch.tokens[:, 1:].shape, dtype=torch.float64)
    is_right = torch.ones(bits.shape, dtype=torch.bool)
    part_len = 4096 // questions.group * questions.group
    for first in range(0, len(bits), part_len):
        rows = slice(first, first + part_len)
        part = batch[rows].to(run.device)
        losses, hits = question_losses(model, part.tokens, part.loss_mask, questions.group, run)
        has_loss = batch.loss_mask[rows][:, 1:]
        bits[rows][has_loss] = losses.double().cpu() / math.log(2)
        is_right[rows][has_loss] = hits.cpu()
    return bits, is_right


def quantized(model, bits):
    """A copy with every matrix rounded to 2^bits - 1 levels around zero (1 bit: to a sign), with
    one scale for each row."""
    model = copy.deepcopy(model)
    for p in model.parameters():
        if p.dim() != 2:
            continue
        if bits == 1:
            scale = p.abs().mean(dim=1, keepdim=True).clamp(min=1e-30)
            p.data = torch.where(p < 0, -scale, scale)
        else:
            largest = 2 ** (bits - 1) - 1
            scale = (p.abs().amax(dim=1, keepdim=True) / max(1, largest)).clamp(min=1e-30)
            p.data = (p / scale).round().clamp(-largest, largest) * scale
    return model.requires_grad_(False)


def get_lr(step, rate, warmup, max_iters):
    """Linear warm-up, then a cosine to zero."""
    ramp = (step + 1) / (warmup + 1)
    cosine = 0.5 + 0.5 * math.cos(math.pi * max(0, step - warmup) / (max_iters - warmup))
    return rate * min(ramp, cosine)


def train(job, questions, args, run):
    """Train one model, from scratch or from its checkpoint.

    Returns the model, a dict of params, exposures, lr and curve [(step, loss)], and when the
    training began (after a resume: as if there had been no break).
    Raises RunEnded if it diverges, and if a signal stops it.
    """
    task = questions.task
    torch.manual_seed(args.seed)
    model = GPT(GPTConfig(len(task.vocab), task.block_size, args.n_layer, args.n_head,
                          job['n_embd'], args.n_loop, pos='rope')).to(run.device)
    rate = RATE * math.sqrt(16 / job['n_embd'])
    optimizer = model.configure_optimizer(rate, 0.0, betas=(0.9, 0.98))

    # a checkpoint holds the settings of its own model, so that probe.py can make its task
    checkpoint = f'ckpt-{job["name"]}.pt'
    settings = run.settings | job | dict(task='profiles') | task.settings()
    state = run.resume(checkpoint, model, optimizer, job['name'], settings=settings)
    step = state['step']
    curve = state.get('curve', [])
    began = time.time() - state.get('seconds', 0)

    n_units = len(questions.units)
    size = max(1, round(n_units * job['exposures'] / args.max_iters))  # groups of questions a step
    warmup = min(100, args.max_iters // 3)
    epochs = Epochs(questions.units, size, args.seed)
    tokens = questions.batch.tokens.to(run.device)
    loss_mask = questions.batch.loss_mask.to(run.device)
    bar = run.progress_bar(job['name'], step, args.max_iters)
    model.train()
    while step < args.max_iters:
        # the batch, without the padding that none of its rows needs
        rows = epochs.batch(step)
        length = int(loss_mask[rows].any(dim=0).nonzero().max()) + 1
        batch_tokens = tokens[rows, :length]
        batch_mask = loss_mask[rows, :length]

        # forward, backward, update
        losses, _ = question_losses(model, batch_tokens, batch_mask, questions.group, run)
        loss = losses.mean()
        loss.backward()
        for group in optimizer.param_groups:
            group['lr'] = get_lr(step, rate, warmup, args.max_iters)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        bar.update()

        # log and save; each process of a sweep stops for its own signal
        due = step % max(1, args.max_iters // 20) == 0 or step == args.max_iters
        if due or run.signal:
            check_finite(job, step, model, loss, run)
            if due:
                curve.append((step, loss.item()))
            run.save(checkpoint, model, optimizer, step, job['mode'], settings=settings,
                     curve=curve, seconds=time.time() - began)
        if run.signal:
            raise common.RunEnded(
                f'stopped by a signal at step {step} of {job["name"]}, saved; --resume goes on '
                'from there', exit_code=128 + run.signal, any_rank=True)
    bar.close()
    record = dict(params=model.num_params(), exposures=size * args.max_iters / n_units, lr=rate,
                  curve=curve)
    return model, record, began


def check_finite(job, step, model, loss, run):
    """Raise RunEnded if the loss or a weight is not finite."""
    try:
        common.check_finite(step, model, loss=loss)
    except common.RunEnded as error:
        path = run.out_dir / f'ckpt-{job["name"]}.pt'
        raise common.RunEnded(f'{job["name"]}: {error}; {path} holds the last good weights, if any '
                              'were saved', any_rank=True) from None


def train_and_measure(job, args, run):
    """Train one model of the grid. Returns its record, a dict of plain values."""
    questions = make_questions(job, args)
    task = questions.task
    model, record, began = train(job, questions, args, run)

    loss, count, accuracy = evaluate(model, questions, run)
    record = job | record | dict(
        loss=loss,
        count=count,
        stored=stored_bits(task, job['mode'], loss, count),
        entropy=stored_bits(task, job['mode'], {}, count))
    for bits in (8, 4):
        record[f'int{bits}'] = stored_when_rounded(model, questions, bits, run)
    return record | accuracy | dict(chance=task.chance(job['hops']),
                                    seconds=time.time() - began)


def stored_when_rounded(model, questions, bits, run):
    """{scheme: stored bits} of the model with rounded matrices.

    Rounding leaves a model too sure of itself, so the best of a few temperatures counts. The gain
    of the last norm acts as a temperature.
    """
    rounded = quantized(model, bits)
    results = []
    for temperature in (1, 1.5, 2, 3, 4, 6, 8):
        rounded.ln_f.weight.data = model.ln_f.weight.data / temperature
        loss, count, _ = evaluate(rounded, questions, run)
        results.append(stored_bits(questions.task, questions.mode, loss, count))
    return max(results, key=lambda stored: sum(stored.values()))


# -----------------------------------------------------------------------------
# many models

def run_jobs(jobs, args, run, records):
    """Train and measure every job. Under torchrun each process takes its share, small and large.

    Returns the records in the order of the jobs. They are also printed, logged and appended to
    `records`.
    """
    small_first = sorted(range(len(jobs)), key=lambda i: jobs[i]['people'] * jobs[i]['n_embd'] ** 2)
    done = {}  # index of a job -> its record
    for i in small_first[run.rank::run.world]:
        done[i] = train_and_measure(jobs[i], args, run)
        if run.world == 1:
            report(done[i], run, records)

    if run.world > 1:
        shares = [None] * run.world
        dist.all_gather_object(shares, done)
        for share in shares:
            done |= share
        for i in small_first:
            report(done[i], run, records)
    return [done[i] for i in range(len(jobs))]


def report(record, run, records):
    """Print and log the record of a model, and keep it."""
    params = record['params']
    stored = []
    for name, bits in record['stored'].items():
        if not name.startswith('names'):
            stored.append(f'{name} {bits / params:.3f} of {record["entropy"][name] / params:.3f}')
    first, first_bits = next(iter(record['stored'].items()))
    rounded = []
    for bits in (8, 4):
        share = record[f'int{bits}'][first] / max(1, first_bits)
        rounded.append(f'int{bits} keeps {share:.3f}')
    accuracy = []
    for name, value in record.items():
        if name.startswith('acc'):
            accuracy.append(f'{name[6:] or "one hop"} {value:.3f}')
    run.print(f'{params:9,} parameters, {record["people"]:,} people, {record["hops"]}-hop '
              f'{record["mode"]}, {record["exposures"]:,.0f} exposures | bits a parameter: '
              f'{", ".join(stored + rounded)} | right: {", ".join(accuracy)}, chance '
              f'{record["chance"]:.3f} | {record["seconds"]:.0f} s')
    run.log(arm='model', **record)
    records.append(record)


def find_smallest(args, hops, mode, exposures, run, records):
    """The record of the smallest model that gets LEARNED of its training questions right.

    From the first size upwards, four sizes at a time. Then by bisection, with as many models at
    once as there are processes. None if no model learns, or if the very first one does.
    """
    ladder = {}  # small widths are further apart than a step, so sizes can coincide
    for i in range(30):
        job = make_job(args, hops, mode, args.sizes[0] * STEP**i, args.people[0], exposures)
        ladder[job['name']] = job
    ladder = list(ladder.values())

    low = -1            # the largest that is known to fail
    high = len(ladder)  # the smallest that is known to learn
    results = {}
    while high - low > 1:
        stride = 4
        if high < len(ladder):
            stride = (high - low) // (run.world + 1)
        stride = max(1, min(stride, high - low - 1))
        indices = range(low + stride, min(high, low + stride * run.world + 1), stride)
        new_records = run_jobs([ladder[i] for i in indices], args, run, records)
        for i, record in zip(indices, new_records, strict=True):
            results[i] = record
            accuracy = record['acc_2_trained' if hops == 2 else 'acc_1']
            if accuracy >= LEARNED:
                high = min(high, i)
            elif i < high:
                low = i
    return results.get(high) if high > 0 else None


def find_both_smallest(args, run, records):
    """The smallest model for the facts alone, and the smallest one for two-hop questions, after as
    many questions. Raises RunEnded if the sizes to try do not hold both."""
    task = Profiles(args.people[0], args.attributes, args.relations)
    questions = all_questions(task)
    n_trained = (task.label(questions) == 0).sum()
    n_one_hop = (questions[:, 1] < 0).sum()
    exposures = round(args.exposures * n_trained / n_one_hop)
    mode = 'cot' if args.cot else 'direct'
    one = find_smallest(args, 1, 'direct', exposures, run, records)
    two = find_smallest(args, 2, mode, args.exposures, run, records)
    return one, two


# -----------------------------------------------------------------------------
# the result

def fit(records, scheme):
    """Stored bits against parameters under this scheme.

    slope   of the line through the origin, bits a parameter
    r2      how much of the variance that line explains; None if the bits are all equal
    spread  standard deviation / mean of the bits a parameter, over the models that have not
            learned everything; None with fewer than two of them
    """
    x = np.array([record['params'] for record in records], dtype=float)
    y = np.array([record['stored'][scheme] for record in records], dtype=float)
    slope = x @ y / (x @ x)
    r2 = None
    if y.std():
        r2 = float(1 - ((y - slope * x) ** 2).sum() / ((y - y.mean()) ** 2).sum())

    is_full = [record.get('acc_2_trained', record['acc_1']) < LEARNED for record in records]
    rates = (y / x)[is_full]
    spread = None
    if len(rates) > 1 and rates.any():
        spread = float(rates.std(ddof=1) / rates.mean())
    return dict(slope=float(slope), r2=r2, spread=spread)


def result_of_smallest(one, two):
    """The values of the last line of --smallest."""
    if one is None or two is None:
        raise common.RunEnded(f'no size tried was just enough for {LEARNED}: begin with others, or '
                              'train longer')
    final = dict(
        people=two['people'],
        smallest=two['params'],
        smallest_1=one['params'],
        ratio=two['params'] / one['params'],
        best_1=one['stored']['one hop'] / one['params'])
    for name, value in two.items():
        if name.startswith(('acc', 'chance')):
            final[name] = value
    return final


def result_of_grid(records, fits, hops):
    """The values of the last line of a grid: those of the flattest scheme."""
    scheme = flattest(fits, hops)
    has_spread = hops == 2 and fits[scheme]['spread']
    final = dict(
        scheme=scheme.replace(' ', '-') if has_spread else None,
        **fits[scheme],
        best=max(record['stored'][scheme] / record['params'] for record in records))
    for bits in (8, 4):
        rounded = [record | {'stored': record[f'int{bits}']} for record in records]
        slope = fit(rounded, scheme)['slope']
        final[f'int{bits}'] = slope / max(1e-9, fits[scheme]['slope'])
    return final


def flattest(fits, hops):
    """The scheme whose bits a parameter vary least."""
    if hops == 1:
        return 'one hop'
    return min(fits, key=lambda scheme: fits[scheme]['spread'] or math.inf)


def print_fits(fits, hops, run):
    """One line for each scheme, the flattest last."""
    best = flattest(fits, hops)
    for scheme in sorted(fits, key=lambda scheme: scheme == best):
        values = []
        for name, value in fits[scheme].items():
            if value is not None:
                values.append(f'{name} {value:.3f}')
        run.print(f'{scheme}: {", ".join(values)}')


# -----------------------------------------------------------------------------
# everything in order

def main(argv=None):
    """Train and measure all models. Returns the values of the last line."""
    args = parse_args(argv)
    jobs = fill_in(args)
    with common.Run('capacity', args, trains=True) as run:
        if run.resumes and run.master:
            common.cut_log(run.out_dir, 'model', 0)  # finished models are measured again
        run.print(f'{args.max_iters} steps a model, files in {args.out_dir}')

        # train and measure; processes exchange results alone, and may wait for one another for days
        records = []
        run.join_group(timeout=timedelta(days=7))
        try:
            if args.smallest:
                one, two = find_both_smallest(args, run, records)
            else:
                run_jobs(jobs, args, run, records)
        finally:
            if run.world > 1:
                dist.destroy_process_group()
        if not run.master:
            return None

        # what was found
        final = dict(hops=args.hops)
        if args.hops == 2:
            final |= dict(cot=int(args.cot), n_loop=args.n_loop)
        fits = {}
        if args.smallest:
            final |= result_of_smallest(one, two)
        else:
            fits = {scheme: fit(records, scheme) for scheme in records[0]['stored']}
            print_fits(fits, args.hops, run)
            final |= result_of_grid(records, fits, args.hops)
        final |= dict(n_models=len(records), exposures=round(records[-1]['exposures']),
                      steps=args.max_iters, seed=args.seed, seconds=run.seconds())

        # the last line, the log's last record, the figure
        run.log(arm='final', **final)
        text = json.dumps(dict(final=final, fits=fits, models=records)) + '\n'
        common.write_atomic(run.out_dir / 'results.json', lambda path: path.write_text(text))
        plots.draw_run(run.out_dir)
        run.print(common.final_line(**final))
        return final


if __name__ == '__main__':
    with one_line_errors():
        main()
