"""How many bits does a tiny transformer know, and how does it keep facts that it must combine?

Johnston & Belrose (2025, 2502.03490; EleutherAI's transformer-reasoning) train small models on
facts about made-up people. They ask which way of storing facts explains what a model can answer.
Here is the same on the task `profiles` (profiles.py): n people, A attributes of m values each, and
R relations to other people. A name is three tokens, one of N0 possible names.

1. Stored bits. The answers to all questions have an entropy of H bits. A trained model leaves a
   loss of L bits on them: the cross-entropy of their tokens, summed over all questions. The model,
   with L bits more, is a code for all answers. So (Allen-Zhu & Li 2024, 2404.05405, section 3)
       stored bits = H - L,    at least
   Attributes and relations count max(0, H - L) each: a model that is sure of a wrong answer does
   not know less than nothing.
2. One hop: "what is A's employer?", "who is A's mentor?"
       stored bits = (n A log2 m - L_attributes) + (n R log2 n - L_relations) + name bits
   Name bits say which n of the N0 names exist: log2 C(N0, n). See name_bits.
3. Two hops: "what is the employer of A's mentor?" There are three ways to store what it takes:
       optimal   every fact once. The model looks up two facts and combines them.
       double    relations twice: once to be looked up first, once to be looked up second.
       big hash  every trained combination by itself, beside the single facts.
   The same losses give three numbers of stored bits. The scheme that explains the models is the
   flat one: among models that have more to learn than they can hold, its bits for each parameter
   depend neither on the number of people nor on the size.
4. --cot: the model writes the bridge person (A's mentor) and the subject before the answer. So
   each link of a chain is a one-hop question. See chain_bits.
5. --smallest: the smallest model, in steps of 10%, that has 99% of its trained two-hop questions
   right. Beside it stands the smallest model for the facts alone, trained on as many questions.

Recipe: 2 layers, AdamW without decay, learning rate 0.02 sqrt(16 / n_embd), a cosine to zero.
Positions are rotary, so that a link of a chain looks like a one-hop question. The number of steps
is fixed, and the batch follows from --exposures. All parameters count, the tied embedding once.

Departures: tokens instead of English, one question a sequence, and every question equally often.
The original's estimator has sixteen faults. They are mended here, and each is a case in
tests/test_capacity.py.

    python capacity.py                                      # one hop, five minutes on two cores
    python capacity.py --sizes 3000,6000 --exposures 30 --steps 200     # a look, in seconds
    python capacity.py --hops 2 --sizes 8000,16000 --people 50,100,200  # which scheme is flat?
    python capacity.py --hops 2 --cot --smallest --n_layer 1            # what does a chain cost?
    torchrun --standalone --nproc_per_node=2 capacity.py --device cuda \\
        --sizes 20000,53000,141000,376000,1000000

The last line:  final hops=1 slope=2.6xx r2=0.99x ... best=2.6xx int8=0.97x int4=0.1xx ...
Results: docs/capacity.md
"""

from errors import one_line_errors  # first: see errors.py

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
import memory
import plots
from data import (
    Batch,
    Parser,
    at_least,
    parse_list,
    positive_float,
    require,
    write_batch,
)
from model import GPT, GPTConfig
from profiles import Profiles, check_sizes, vocab_size


RATE = 2e-2       # learning rate of a model of 16 channels, where --lr is not given
LEARNED = 0.99    # share of the trained questions that a model must have right to have learned them
SIZE_STEP = 1.1   # --smallest: each size is so many times the one below
FULL = 0.95       # a model with this share of a scheme's entropy has hardly more to learn under it

# flags whose defaults depend on --hops
DEFAULTS = {
    1: dict(attributes=8, relations=0, n_head=4, exposures=1000),
    2: dict(attributes=20, relations=4, n_head=1, exposures=300),
}

# Questions whose loss counts: one hop, trained two hops, and the bridge persons before the latter.
KINDS = ('attribute1', 'relation1', 'attribute2', 'relation2', 'bridge')
NO_LOSS = dict.fromkeys(KINDS, 0.0)

LEGEND = """
  stored      bits for each parameter, of those that there are to be stored; two hops: by scheme
  int8, int4  share of the stored bits that is left when the weights are rounded
  right       share of questions with every token right. Two-hop questions are trained, or held
              out by person, by (person, relation) pair, or as a single combination
  chance      share that is right by always giving the most frequent answer
"""


# -----------------------------------------------------------------------------
# arguments

def parse_args(argv):
    parser = Parser(__doc__)

    add = parser.add_argument_group('facts').add_argument
    add('--hops', type=at_least(1), choices=(1, 2), default=1,
        help='1: single facts; 2: also questions that combine two facts')
    add('--cot', action='store_true', help='two hops with a chain: the bridge person comes first')
    add('--people', type=parse_list,
        help='one number or several (default: as many as --fill takes; --smallest: 100)')
    add('--fill', type=at_least(0.001, float, most=1000), default=3.5,
        help='bits of facts for each parameter, where --people is not given')
    add('--attributes', type=at_least(0),
        help='attributes of each person, of 128 values (default: 8; two hops: 20)')
    add('--relations', type=at_least(0), help='relations of each person (default: 0; two hops: 4)')
    add('--relabel', action='store_true', default=None,  # None: absent, as in older runs
        help='control: shuffle two-hop answers over the people, so that nothing can be combined')

    add = parser.add_argument_group('models').add_argument
    add('--sizes', type=parse_list,
        help='parameters to aim at (default: 10000,20000,40000); --smallest: where to begin '
             '(default: facts / 2.5)')
    add('--smallest', action='store_true', help='two hops: find the smallest model that learns')
    add('--n_layer', type=at_least(1), default=2, help='transformer blocks')
    add('--n_head', type=at_least(1), help='attention heads (default: 4; two hops: 1)')
    add('--n_loop', type=at_least(1), default=1,
        help='times the blocks are applied, with shared weights')

    add = parser.add_argument_group('training').add_argument
    add('--exposures', type=at_least(1),
        help='times each question is trained (default: 1000; two hops: 300, as each fact is in '
             'many questions)')
    add('--max_iters', '--steps', type=at_least(1), default=4800,
        help='optimizer steps of each model; the batch follows from --exposures')
    add('--learning_rate', '--lr', type=positive_float,  # None: absent, as in older runs
        help='of a model of 16 channels; one of w channels has sqrt(16 / w) times that (default: '
             f'{RATE})')
    add('--weight_decay', type=at_least(0, float), help='AdamW, matrices only (default: 0)')
    add('--resume', action='store_true', help='go on from the checkpoints in out_dir')
    common.add_run_args(parser, trains=False)
    return common.parse_args(parser, argv, 'capacity')


def fill_in(args):
    """Give flags that were left out their values. Returns the jobs: the models of the grid.

    Raises ValueError for what makes no sense together, and for sizes beyond reason.
    """
    for name, value in DEFAULTS[args.hops].items():
        if getattr(args, name) is None:
            setattr(args, name, value)

    require(args.hops == 2 or not (args.cot or args.smallest or args.relabel),
            'a chain, the smallest model and --relabel are for questions of two hops: add --hops 2')
    require(not (args.relabel and args.cot),
            'with --relabel answers do not follow from chains: leave --cot out')
    memory.require_depth(args)
    within_reason = (max(args.sizes or [1]) <= 10**9
                     and max(args.exposures, args.max_iters) <= 10**7
                     and max(args.n_layer, args.n_head, args.n_loop) <= 100)
    require(within_reason, 'at most: --sizes 10^9, --exposures and --steps 10^7, --n_layer, '
                           '--n_head and --n_loop 100')

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

    mode = 'cot' if args.cot else 'direct'
    n_jobs = len(args.sizes) * len(args.people or [1])
    require(n_jobs <= 1000, f'--sizes times --people are {n_jobs:,} models: at most 1,000')
    jobs = []
    for size in args.sizes:
        for people in args.people or [people_to_fill(size, args)]:
            jobs.append(make_job(args, args.hops, mode, size, people, args.exposures))
    return without_repeats(jobs)


def memory_phases(args, jobs):
    """What each phase of each model takes: see memory.py."""
    phases = []
    for job in jobs:
        phases += phases_of_job(args, job)
    return phases


def phases_of_job(args, job):
    """Write all questions; take a step; ask all of them, also of a copy with rounded weights."""
    n_subjects = args.attributes + args.relations
    group = n_subjects if job['hops'] == 1 else 1
    n_questions = job['people'] * n_subjects * (1 if job['hops'] == 1 else 1 + args.relations)
    answer_len = 3 if args.relations else 1
    T = 4 + answer_len + (5 if job['hops'] == 2 else 0)
    M = T - 4 if job['mode'] == 'cot' else answer_len
    config = GPTConfig(vocab_size(job['people'], args.attributes, args.relations), T, args.n_layer,
                       args.n_head, job['n_embd'], args.n_loop, pos='rope')

    # a step: the name once for all questions of a group
    B = max(1, round(n_questions / args.max_iters * job['exposures']))
    step = memory.step_parts(config, max(1, B // group), 3 + (T - 3) * group, M * group)
    weights = memory.FLOAT * memory.n_params(config)
    scoring = memory.scoring_bytes(config, 4096, T, M)
    questions = 8 * n_questions * T * 4
    return [
        {'questions': 2 * questions},
        step | {'questions': questions + 48 * B * T},
        {'model': 4 * weights, 'questions': questions, 'checkpoint': 3 * weights},
        {'model': 5 * weights, 'questions': 2 * questions, 'evaluation': scoring},
    ]


CURES = memory.CURES | {
    'questions': '--people, --attributes or --relations',
    'activations': '--exposures or --sizes, or give more --steps',
    'attention': '--exposures, or give more --steps',
    'logits': '--exposures, or give more --steps',
    'model': '--sizes',
    'checkpoint': '--sizes',
    'evaluation': '--sizes',
}


def people_to_fill(size, args):
    """How many people have facts of fill * size bits?

    An attribute has log2 128 = 7 bits. A relation has log2 n, which depends on the answer. So start
    from n = 2 and put each answer in again, until it stays the same.
    """
    n = 2.0
    for _ in range(50):
        bits_of_a_person = args.attributes * 7 + args.relations * math.log2(n)
        n = max(2.0, args.fill * size / max(1, bits_of_a_person))
    return round(n)


def make_job(args, hops, mode, target, people, exposures):
    """A model to train: a dict of plain values, which its record begins with.

    Its parameters are as near to `target` as its width, a multiple of n_head, allows.
    """
    check_sizes(people, args.attributes, args.relations, range(1, hops + 1))
    L = args.n_layer
    H = args.n_head
    V = vocab_size(people, args.attributes, args.relations)

    # A model of width w has a w^2 + b w parameters: 12 L w^2 in the matrices of the blocks,
    # 2 L w + w in the norms, V w in the embedding.
    a = 12 * L
    b = V + 2 * L + 1
    exact = (math.sqrt(b * b + 48 * L * target) - b) / (24 * L)
    below = max(2, math.floor(exact / H)) * H
    above = max(2, math.floor(exact / H) + 1) * H
    width = min((below, above), key=lambda w: abs(a * w * w + b * w - target))
    return dict(name=f'{hops}-{mode}-{people}x{width}', hops=hops, mode=mode, people=people,
                n_embd=width, exposures=exposures)


def without_repeats(jobs):
    """Sizes that come to the same width are one model."""
    by_name = {job['name']: job for job in jobs}
    return list(by_name.values())


# -----------------------------------------------------------------------------
# bits
#
# `loss` is {kind: bits, summed over all questions of this kind}. `count` says how many questions
# there are of each kind, and of how many (person, relation) pairs the trained two-hop questions
# are: 'pair2'. With NO_LOSS the functions return the entropy: all that there is to be stored.
#
# Two-hop answers are not independent of one another. Of the n people only some are anybody's
# mentor, and some are the mentor of several. So among the answers to "what is the employer of A's
# mentor?" some come up often, whoever A is. A model that knows no more than how often each answer
# occurs for each (relation, subject) has the loss
#
#     M = sum over (relation, subject), over answers a, of  c_a log2(N / c_a)
#
# where c_a of the N trained questions have the answer a. It knows nothing about A. So a model with
# the loss L stores M - L bits in two-hop answers. (N log2 n - L, as if all n answers were equally
# frequent, is more.) `count` holds M by kind: 'marginal_attribute2' and 'marginal_relation2'.

def selection_bits(n, N0, how='optimal'):
    """Bits that say which n of N0 names exist.

    optimal      log2 C(N0, n), the exact number
    bound        n log2(N0 / n), as in the papers: less than that, by at most n log2 e
    enumerate    n log2 N0, an ordered list with repeats
    independent  0, the names are given
    """
    if how == 'optimal':
        log_choose = math.lgamma(N0 + 1) - math.lgamma(n + 1) - math.lgamma(N0 - n + 1)
        return log_choose / math.log(2)
    if how == 'bound':
        return n * math.log2(N0 / n)
    if how == 'enumerate':
        return n * math.log2(N0)
    return 0.0


def known_share(loss, entropy):
    """1 - loss / entropy, kept between 0 and 1: the share of the entropy that a model knows."""
    if entropy == 0:
        return 0.0
    return min(1.0, max(0.0, 1 - loss / entropy))


def name_bits(task, loss, how='optimal'):
    """Stored bits about which names exist. loss: bits that a name in an answer costs.

    A model that knows who exists spends at most log2 n bits on a name. One that spends more chooses
    among 2^loss names, and it does not know which n of these exist. So the share that it knows is

        1 - log2 C(2^loss, n) / log2 C(N0, n)

    That is 1 at log2 n bits and 0 at log2 N0 bits. Without relations no name carries loss, and
    these bits are 0.
    """
    n = task.people
    N0 = task.n_names
    if task.relations == 0 or n >= N0:
        return 0.0
    n_candidates = min(N0, max(n, 2 ** min(loss, 99)))
    unknown_share = selection_bits(n, n_candidates) / selection_bits(n, N0)
    return selection_bits(n, N0, how) * max(0.0, 1 - unknown_share)


def one_hop_bits(task, attribute_loss, relation_loss, how='optimal'):
    """Stored bits of a model that is asked for single facts. The losses are summed over all facts.

        (n A log2 m - attribute_loss) + (n R log2 n - relation_loss) + name bits

    Each bracket is at least 0. This is the bound of Allen-Zhu & Li (2404.05405, section 3) for
    these facts. A relation has log2 n bits, whichever people occur in the answers.
    how: see selection_bits. Of the task only its sizes count.
    """
    n = task.people
    attribute_entropy = n * task.attributes * math.log2(task.values)
    relation_entropy = n * task.relations * math.log2(n)
    loss_of_a_name = relation_loss / max(1, n * task.relations)
    return (attribute_entropy * known_share(attribute_loss, attribute_entropy)
            + relation_entropy * known_share(relation_loss, relation_entropy)
            + name_bits(task, loss_of_a_name, how))


def optimal_bits(task, loss, count, how='optimal'):
    """Two hops, scheme `optimal`: every fact is stored once, and the model combines two of them.

    The entropy is that of one hop.
    """
    return combined_bits(task, loss, count, 0, how)


def double_bits(task, loss, count, how='optimal'):
    """Two hops, scheme `double` (Johnston & Belrose): the second lookup has a table of its own.

    Attributes are only ever looked up second, so they are stored once. Relations are stored once
    more, to be looked up first. That adds log2 n bits for every (person, relation) pair which
    begins a trained question. Pairs that are held out add nothing.
    """
    return combined_bits(task, loss, count, count['pair2'], how)


def combined_bits(task, loss, count, n_second_copies, how):
    """Stored bits of a model that answers a two-hop question by combining two facts.

    The answer is right if both facts are known. If a share x of the facts is known, then x^2 of
    the answers are. So a loss of L, where the marginals alone lose M bits (see above), means

        1 - L / M = x^2,    x = sqrt(1 - L / M)

    and x of the bits of all facts are stored. Only the losses of two-hop answers count.
    n_second_copies: relations that are stored twice.
    """
    attribute_share = math.sqrt(known_share(loss['attribute2'], count['marginal_attribute2']))
    relation_share = math.sqrt(known_share(loss['relation2'], count['marginal_relation2']))

    n_attributes = task.people * task.attributes
    n_relations = task.people * task.relations + n_second_copies
    stored = (n_attributes * math.log2(task.values) * attribute_share
              + n_relations * math.log2(task.people) * relation_share)

    loss_of_a_name = math.inf
    if count['relation2'] > 0:
        loss_of_a_name = loss['relation2'] / count['relation2']
    return stored + name_bits(task, loss_of_a_name, how)


def big_hash_bits(task, loss, count, how='optimal'):
    """Two hops, scheme `big hash` (Johnston & Belrose): nothing is combined.

    Every trained combination (person, relation, subject) is stored by itself, beside the single
    facts, with the bits that its answer has beyond the marginals (see above):

        one-hop bits + (M - L) of the combinations

    Combinations that are held out add nothing.
    """
    attribute_bits = count['marginal_attribute2']
    relation_bits = count['marginal_relation2']
    return (one_hop_bits(task, loss['attribute1'], loss['relation1'], how)
            + attribute_bits * known_share(loss['attribute2'], attribute_bits)
            + relation_bits * known_share(loss['relation2'], relation_bits))


def chain_bits(task, loss, count):
    """Two hops with a chain: every link is a one-hop question, and so are the bits.

    A fact counts as known if the model knows it in both places: asked for by itself, and as a link
    of a chain. So of the two losses the larger one counts. The loss in chains is the mean loss of a
    link times the number of facts. A relation is a link as the bridge person and as the answer: the
    mean of the two.
    """
    n = task.people
    attribute = n * loss['attribute2'] / max(1, count['attribute2'])
    relation = n * loss['relation2'] / max(1, count['relation2'])
    bridge = n * loss['bridge'] / max(1, count['bridge'])
    attribute_loss = max(loss['attribute1'], task.attributes * attribute)
    relation_loss = max(loss['relation1'], task.relations * (relation + bridge) / 2)
    return one_hop_bits(task, attribute_loss, relation_loss)


SCHEMES = {'optimal': optimal_bits, 'double': double_bits, 'big hash': big_hash_bits}


def stored_bits(task, mode, loss, count):
    """{scheme: stored bits} of a model, from the losses and counts that evaluate returns."""
    if max(task.hops) == 1:
        one = (loss['attribute1'], loss['relation1'])
        stored = {'one hop': one_hop_bits(task, *one)}
        if task.relations > 0:
            stored['names enumerate'] = one_hop_bits(task, *one, 'enumerate')
            stored['names independent'] = one_hop_bits(task, *one, 'independent')
        return stored
    if mode == 'cot':
        return {'chain': chain_bits(task, loss, count)}
    return {scheme: bits_of(task, loss, count) for scheme, bits_of in SCHEMES.items()}


# -----------------------------------------------------------------------------
# questions

@dataclass
class Questions:
    """All questions about the people of one task, as tokens."""
    task: Profiles
    mode: str            # 'cot' or 'direct'
    batch: Batch         # all N of them: one hop, person by person, then two hops
    group: int           # so many questions in a row are about one person, and are drawn together
    units: torch.Tensor  # (U, group): the rows of the batch that are trained, a group in each row


def all_questions(task):
    """Every question, (N, 3): person, relation (-1 in one hop), subject.

    First the one-hop questions, person by person. Then the others, if the task has two hops.
    """
    people = range(task.people)
    subjects = range(task.attributes + task.relations)
    relations_by_hops = ([-1], range(task.relations))
    parts = []
    for relations in relations_by_hops[:max(task.hops)]:
        grid = np.meshgrid(people, relations, subjects, indexing='ij')
        parts.append(np.stack(grid, axis=-1).reshape(-1, 3))
    return np.concatenate(parts)


def make_questions(task, mode):
    """Every question as tokens. In one hop, those about one person are drawn together, so that the
    model reads the name only once."""
    source = all_questions(task)
    hops = np.where(source[:, 1] < 0, 1, 2)
    batch = write_batch(task, np.random.default_rng(0), source, hops, mode)
    group = 1
    if max(task.hops) == 1:
        group = task.attributes + task.relations
    is_trained = batch.instance[:, 3] == 0
    units = is_trained.nonzero().view(-1, group)                            # (U, group)
    return Questions(task, mode, batch, group, units)


class Epochs:
    """Groups of questions in random order, a new order every epoch.

    The batch of any step can be asked for. So a resumed run goes on where it stopped.
    """

    def __init__(self, units, size, seed):
        self.units = units   # (U, group)
        self.size = size     # groups in a batch
        self.seed = seed
        self.orders = {}     # epoch -> its order, (U,)

    def order(self, epoch):
        if epoch not in self.orders:
            generator = torch.Generator().manual_seed((self.seed * 10**5 + epoch) % 2**63)
            self.orders[epoch] = torch.randperm(len(self.units), generator=generator)
        return self.orders[epoch]

    def batch(self, step):
        """The rows of this step. The epochs stand one behind the other, and each step takes the
        next `size` groups."""
        place = torch.arange(step * self.size, (step + 1) * self.size)
        epoch = place // len(self.units)
        within = place % len(self.units)
        rows = []
        for e in epoch.unique().tolist():
            groups = self.order(e)[within[epoch == e]]
            rows.append(self.units[groups])

        # the next steps need no order but the last
        last = int(epoch[-1])
        self.orders = {last: self.orders[last]}
        return torch.cat(rows).flatten()


# -----------------------------------------------------------------------------
# evaluation

def question_losses(model, tokens, loss_mask, group, run):
    """The loss of questions (N, T): for every loss token, in reading order, its cross-entropy in
    nats, and whether the model finds it the likeliest token.

    Every `group` questions are about one person, so the model reads the name (three tokens) once.
    """
    inputs = tokens[:, :-1]
    mask = loss_mask[:, 1:]
    targets = tokens[:, 1:][mask]
    shared = (3, group) if group > 1 else None
    with run.autocast:
        logits = model(inputs, mask, shared=shared)
    losses = F.cross_entropy(logits.float(), targets, reduction='none')
    return losses, logits.argmax(dim=-1) == targets


@torch.no_grad()
def evaluate(model, questions, run):
    """Ask all questions. Returns three dicts:

    loss      {kind: bits, summed over its questions}, see KINDS
    count     how many questions there are of each kind, how many pairs (`pair2`), and the loss of a
              model that knows the marginals alone
    measures  share of questions with every token right: acc_1 in one hop, acc_2_<label> in two; and
              the mean loss of two-hop questions in bits, loss_2_<label>
    """
    bits, correct = token_losses(model, questions, run)
    loss, count = loss_by_kind(questions, bits)
    count |= marginal_bits(questions)
    return loss, count, by_label(questions, bits, correct)


def marginal_bits(questions):
    """The bits that trained two-hop answers cost a model which knows how often each answer occurs
    for each (relation, subject), and no more: {'marginal_attribute2', 'marginal_relation2'}."""
    batch = questions.batch
    _, relation, subject, label = batch.instance.T
    rows = (relation >= 0) & (label == 0)
    answer = batch.tokens.gather(1, batch.answer)                           # (N, A)
    keys = torch.cat((relation[:, None], subject[:, None], answer), dim=1)[rows]

    # how many questions have this (relation, subject), and how many of these this answer
    _, group, group_size = keys[:, :2].unique(dim=0, return_inverse=True, return_counts=True)
    _, same, n_same = keys.unique(dim=0, return_inverse=True, return_counts=True)
    share = n_same[same].double() / group_size[group]
    is_relation = keys[:, 1] >= questions.task.attributes
    return dict(
        marginal_attribute2=(1 / share[~is_relation]).log2().sum().item(),
        marginal_relation2=(1 / share[is_relation]).log2().sum().item())


def token_losses(model, questions, run):
    """For every target of every question its loss in bits, and whether it is right.

    Both are (N, T-1). A target that carries no loss has 0 bits and is right.
    """
    batch = questions.batch
    model.eval()
    bits = torch.zeros(batch.tokens[:, 1:].shape, dtype=torch.float64)
    correct = torch.ones(batch.tokens[:, 1:].shape, dtype=torch.bool)
    part_size = 4096 // questions.group * questions.group  # whole groups
    for first in range(0, len(batch), part_size):
        rows = slice(first, first + part_size)
        part = batch[rows].to(run.device)
        losses, hits = question_losses(
            model, part.tokens, part.loss_mask, questions.group, run)
        mask = batch.loss_mask[rows][:, 1:]
        bits[rows][mask] = losses.cpu().double() / math.log(2)
        correct[rows][mask] = hits.cpu()
    return bits, correct


def loss_by_kind(questions, bits):
    """The losses (N, T-1) of all targets, summed by kind, and how many questions there are."""
    batch = questions.batch
    _, relation, subject, label = batch.instance.T
    one_hop = relation < 0
    two_hops = ~one_hop & (label == 0)  # the trained ones
    is_relation = subject >= questions.task.attributes

    # In a chain: three tokens of the bridge person, the subject again (which says nothing), the
    # answer. Targets are one place further left than tokens.
    answer_bits = bits.sum(dim=1)                                           # (N,)
    bridge_bits = torch.zeros_like(answer_bits)
    if questions.mode == 'cot':
        start = batch.prompt_len - 1
        bridge_bits = bits[:, start:start + 3].sum(dim=1)
        answer_bits = torch.where(one_hop, answer_bits, bits[:, start + 4:].sum(dim=1))

    losses_and_rows = {
        'attribute1': (answer_bits, one_hop & ~is_relation),
        'relation1': (answer_bits, one_hop & is_relation),
        'attribute2': (answer_bits, two_hops & ~is_relation),
        'relation2': (answer_bits, two_hops & is_relation),
        'bridge': (bridge_bits, two_hops),
    }
    loss = {}
    count = {}
    for kind, (question_bits, rows) in losses_and_rows.items():
        loss[kind] = question_bits[rows].sum().item()
        count[kind] = int(rows.sum())
    pairs = batch.instance[two_hops][:, :2].unique(dim=0)
    count['pair2'] = len(pairs)
    return loss, count


def by_label(questions, bits, correct):
    """{name: share of questions with every target right, or their mean loss in bits}, from bits and
    correct (N, T-1)."""
    _, relation, _, label = questions.batch.instance.T
    one_hop = relation < 0
    rows_by_name = {'acc_1': one_hop}
    for i, name in enumerate(questions.task.labels):
        rows_by_name[f'acc_2_{name}'] = ~one_hop & (label == i)

    measures = {}
    for name, rows in rows_by_name.items():
        if rows.any():
            measures[name] = correct.all(dim=1)[rows].double().mean().item()
            if name != 'acc_1':
                measures[name.replace('acc', 'loss')] = bits[rows].sum(dim=1).mean().item()
    return measures


def quantized(model, bits):
    """A copy of the model whose matrices are rounded to this many bits a weight.

    Each row has a scale of its own, and 2^bits - 1 levels around zero. With 1 bit only the sign of
    a weight is left.
    """
    model = copy.deepcopy(model)
    for p in model.parameters():
        if p.dim() != 2:
            continue
        if bits == 1:
            scale = p.abs().mean(dim=1, keepdim=True).clamp(min=1e-30)
            p.data = torch.where(p < 0, -scale, scale)
        else:
            largest = 2 ** (bits - 1) - 1
            scale = (p.abs().amax(dim=1, keepdim=True) / largest).clamp(min=1e-30)
            p.data = (p / scale).round().clamp(-largest, largest) * scale
    return model.requires_grad_(False)


def stored_when_rounded(model, questions, bits, run):
    """{scheme: stored bits} of the model, rounded to this many bits a weight.

    A rounded model is too sure of itself. So its logits are divided by a temperature, and the best
    of seven counts. The gain of the last norm takes the temperature in.
    """
    rounded = quantized(model, bits)
    results = []
    for temperature in (1, 1.5, 2, 3, 4, 6, 8):
        rounded.ln_f.weight.data = model.ln_f.weight.data / temperature
        loss, count, _ = evaluate(rounded, questions, run)
        results.append(stored_bits(questions.task, questions.mode, loss, count))
    return max(results, key=lambda stored: sum(stored.values()))


# -----------------------------------------------------------------------------
# one model

def learning_rate(job, args):
    return (args.learning_rate or RATE) * math.sqrt(16 / job['n_embd'])


def groups_a_step(job, questions, args):
    """The batch size, in groups of questions, that comes nearest to the job's exposures."""
    return max(1, round(len(questions.units) * job['exposures'] / args.max_iters))


def get_lr(step, rate, warmup, max_iters):
    """Linear warm-up, then a cosine to zero."""
    ramp = (step + 1) / (warmup + 1)
    cosine = 0.5 + 0.5 * math.cos(math.pi * max(0, step - warmup) / (max_iters - warmup))
    return rate * min(ramp, cosine)


def train(job, questions, args, run):
    """Train one model, from scratch or from its checkpoint.

    Returns the model, its losses as [(step, loss)], and the seconds that it took.
    Raises RunEnded if it diverges, or if a signal stops this process.
    """
    task = questions.task
    torch.manual_seed(args.seed)
    config = GPTConfig(len(task.vocab), task.block_size, args.n_layer, args.n_head, job['n_embd'],
                       args.n_loop, pos='rope')
    model = GPT(config).to(run.device)
    rate = learning_rate(job, args)
    optimizer = model.configure_optimizer(rate, args.weight_decay or 0.0, betas=(0.9, 0.98))

    # A checkpoint holds the settings of its own model: those of the run, with one number of people.
    name = job['name']
    settings = run.settings | job | dict(task=task.name) | task.settings()
    state = run.resume(f'ckpt-{name}.pt', model, optimizer, name, settings=settings)
    check_progress(name, state)
    step = state['step']
    curve = state.get('curve', [])
    began = time.time() - state.get('seconds', 0)

    epochs = Epochs(questions.units, groups_a_step(job, questions, args), args.seed)
    warmup = min(100, args.max_iters // 3)
    interval = max(1, args.max_iters // 20)  # steps between checkpoints
    tokens = questions.batch.tokens.to(run.device)
    loss_mask = questions.batch.loss_mask.to(run.device)
    bar = run.progress_bar(name, step, args.max_iters)
    model.train()
    run.begin_training()
    while step < args.max_iters:
        # the batch, cut behind its last loss token
        rows = epochs.batch(step)
        length = int(loss_mask[rows].any(dim=0).nonzero().max()) + 1
        batch_tokens = tokens[rows, :length]
        batch_mask = loss_mask[rows, :length]

        # forward and backward
        losses, _ = question_losses(model, batch_tokens, batch_mask, questions.group, run)
        loss = losses.mean()
        loss.backward()

        # update
        for group in optimizer.param_groups:
            group['lr'] = get_lr(step, rate, warmup, args.max_iters)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        bar.update()

        # save once in a while, and when this process has caught a signal
        check = step % interval == 0 or step == args.max_iters
        if check:
            curve.append((step, loss.item()))
        if check or run.signal:
            check_finite(name, step, model, loss, run)
            run.save(f'ckpt-{name}.pt', model, optimizer, step, mode=job['mode'],
                     settings=settings, curve=curve, seconds=time.time() - began)
        if run.failure is not None:  # the disk is full
            raise run.failure
        if run.signal:
            raise common.RunEnded(
                f'stopped by {common.signal_name(run.signal)} at step {step} of {name}, saved; '
                '--resume goes on from there', exit_code=128 + run.signal)
    run.trains = False  # all is saved: a signal may stop the evaluation at once
    bar.close()
    return model, curve, time.time() - began


def check_progress(name, state):
    """Raise ValueError if a checkpoint remembers what no training can have come to."""
    seconds = state.get('seconds', 0)
    curve = state.get('curve', [])
    is_possible = (isinstance(seconds, int | float) and 0 <= seconds < math.inf
                   and isinstance(curve, list))
    if is_possible:
        for point in curve:
            is_pair = isinstance(point, list | tuple) and len(point) == 2
            is_possible = is_possible and is_pair and all(type(x) in (int, float) for x in point)
    require(is_possible, f'the checkpoint of {name} has a curve or seconds that cannot be')


def check_finite(name, step, model, loss, run):
    """Raise RunEnded if the loss, or a weight of this model, is not finite."""
    try:
        common.check_finite(step, model, loss=loss.item())
    except common.RunEnded as error:
        path = run.out_dir / f'ckpt-{name}.pt'
        saved = f'; {path} holds the last good weights' if path.exists() else ''
        raise common.RunEnded(f'{name}: {error}{saved}') from None


def train_and_measure(job, args, run):
    """Train one model, and measure what it has stored. Returns its record: a dict of plain values
    that begins with the job's."""
    task = Profiles(job['people'], args.attributes, args.relations, range(1, job['hops'] + 1),
                    facts=args.seed, relabel=bool(args.relabel))
    questions = make_questions(task, job['mode'])
    model, curve, seconds = train(job, questions, args, run)

    trained_at = time.time()
    loss, count, measures = evaluate(model, questions, run)
    n_drawn = groups_a_step(job, questions, args) * args.max_iters
    record = job | dict(
        params=model.num_params(),
        exposures=n_drawn / len(questions.units),
        lr=learning_rate(job, args),
        curve=curve,
        loss=loss,
        count=count,
        stored=stored_bits(task, job['mode'], loss, count),
        entropy=stored_bits(task, job['mode'], NO_LOSS, count),
        int8=stored_when_rounded(model, questions, 8, run),
        int4=stored_when_rounded(model, questions, 4, run))
    record |= measures
    record['chance'] = task.chance(job['hops'])
    record['seconds'] = seconds + time.time() - trained_at
    return record


# -----------------------------------------------------------------------------
# many models

def run_jobs(jobs, args, run):
    """Train and measure several models, small ones first. Print and log their records.

    Under torchrun the models are dealt to the processes, and each trains its own.
    Returns the records, on every process.
    """
    small_first = sorted(jobs, key=lambda job: job['people'] * job['n_embd'] ** 2)
    records = {}  # name of a job -> its record
    for job in small_first[run.rank::run.world]:
        record = train_and_measure(job, args, run)
        records[job['name']] = record
        if run.world == 1:
            print_and_log(record, run)

    if run.world > 1:
        shares = [None] * run.world
        dist.all_gather_object(shares, records)
        for share in shares:
            records |= share
        for job in small_first:
            print_and_log(records[job['name']], run)
    return [records[job['name']] for job in small_first]


def print_and_log(record, run):
    """Three lines on the screen, one record in the log."""
    params = record['params']
    stored = []
    for scheme, bits in record['stored'].items():
        if not scheme.startswith('names'):
            entropy = record['entropy'][scheme]
            stored.append(f'{scheme} {bits / params:.3f} of {entropy / params:.3f}')
    scheme, bits = next(iter(record['stored'].items()))
    for name in ('int8', 'int4'):
        stored.append(f'{name} {record[name][scheme] / max(1, bits):.3f}')

    accuracy = []
    for name, value in record.items():
        if name.startswith('acc'):
            label = name.removeprefix('acc_2_').replace('acc_1', 'one hop')
            accuracy.append(f'{label} {value:.3f}')

    run.print(f'{params:,} parameters, {record["people"]:,} people, {record["hops"]}-hop '
              f'{record["mode"]}, {record["exposures"]:,.0f} exposures, {record["seconds"]:.0f} s')
    run.print(f'  stored  {", ".join(stored)}')
    run.print(f'  right   {", ".join(accuracy)}, chance {record["chance"]:.3f}')
    run.log(arm='model', **record)


def find_smallest(args, hops, mode, exposures, run):
    """Find the smallest model that has LEARNED of its trained questions right.

    1. Go up from the first size, four sizes at a time, until a model learns.
    2. Then try sizes between the largest that failed and the smallest that learned, evenly spread,
       one for each process. With one process that is bisection. It takes learning to be monotone:
       if a size learns, so do all larger ones.

    Returns the record of this model, and the records of all that were tried. The first is None if
    no size learns, or if the very first one does: then a smaller one might, too.
    """
    sizes = [args.sizes[0] * SIZE_STEP**i for i in range(30)]
    jobs = [make_job(args, hops, mode, size, args.people[0], exposures) for size in sizes]
    jobs = without_repeats(jobs)  # small widths are further apart than a step

    failed = -1          # index of the largest model that has failed
    learned = len(jobs)  # index of the smallest model that has learned
    records = {}
    while learned - failed > 1:
        # which models next?
        stride = 4
        if learned < len(jobs):
            stride = (learned - failed) // (run.world + 1)
        stride = max(1, min(stride, learned - failed - 1))
        end = min(learned, failed + stride * run.world + 1)
        tried = range(failed + stride, end, stride)
        for record in run_jobs([jobs[i] for i in tried], args, run):
            records[record['name']] = record

        # which of them have learned?
        for i in tried:
            record = records[jobs[i]['name']]
            accuracy = record['acc_2_trained'] if hops == 2 else record['acc_1']
            if accuracy >= LEARNED:
                learned = min(learned, i)
            elif i < learned:
                failed = i

    smallest = None
    if 0 < learned < len(jobs):
        smallest = records[jobs[learned]['name']]
    return smallest, list(records.values())


def find_both_smallest(args, run):
    """The smallest model for single facts, and the smallest for two-hop questions.

    Both are trained on as many questions in all. Returns {hops: its record or None}, and the
    records of all models.
    """
    task = Profiles(args.people[0], args.attributes, args.relations)
    questions = all_questions(task)
    n_trained = int((task.label(questions) == 0).sum())
    n_one_hop = int((questions[:, 1] < 0).sum())
    exposures = round(args.exposures * n_trained / n_one_hop)
    mode = 'cot' if args.cot else 'direct'
    one, records_1 = find_smallest(args, 1, 'direct', exposures, run)
    two, records_2 = find_smallest(args, 2, mode, args.exposures, run)
    return {1: one, 2: two}, records_1 + records_2


# -----------------------------------------------------------------------------
# the result

def fit(records, scheme):
    """Stored bits against parameters, under this scheme.

    slope   of the line through the origin, in bits a parameter
    r2      share of the variance that this line explains; None if all models store the same
    n_short how many models have more to store under this scheme: less than FULL of its entropy
    spread  standard deviation / mean of their bits a parameter; None if they are fewer than two
    """
    points = [(record['params'], record['stored'][scheme]) for record in records]
    params, stored = np.array(points, dtype=float).T                        # (models,) each
    slope = params @ stored / (params @ params)

    r2 = None
    if stored.std() > 0:
        residual = ((stored - slope * params) ** 2).sum()
        variance = ((stored - stored.mean()) ** 2).sum()
        r2 = float(1 - residual / variance)

    entropy = np.array([record['entropy'][scheme] for record in records])   # (models,)
    rates = (stored / params)[stored < FULL * entropy]
    spread = None
    if len(rates) > 1 and rates.any():
        spread = float(rates.std(ddof=1) / rates.mean())
    return dict(slope=float(slope), r2=r2, spread=spread, n_short=len(rates))


def flattest(fits):
    """The scheme with the smallest spread: for one hop 'one hop'."""
    if 'one hop' in fits:
        return 'one hop'
    return min(fits, key=lambda scheme: fits[scheme]['spread'] or math.inf)


def result_of_grid(records, fits):
    """The values of the last line: the fit of the flattest scheme, and the share of its slope that
    is left with rounded weights. A scheme is named only if its spread is known."""
    scheme = flattest(fits)
    best = fits[scheme]
    is_named = scheme != 'one hop' and best['spread']
    final = dict(
        scheme=scheme.replace(' ', '-') if is_named else None,
        **best,
        best=max(record['stored'][scheme] / record['params'] for record in records))
    for name in ('int8', 'int4'):
        rounded = [record | dict(stored=record[name]) for record in records]
        final[name] = fit(rounded, scheme)['slope'] / max(1e-9, best['slope'])
    return final


def result_of_smallest(smallest):
    """The values of the last line with --smallest. Raises RunEnded if there is no such model."""
    one = smallest[1]
    two = smallest[2]
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


def print_fits(fits, run):
    """A line for each scheme, the flattest last."""
    best = flattest(fits)
    others = [scheme for scheme in fits if scheme != best]
    for scheme in [*others, best]:
        values = []
        for name, value in fits[scheme].items():
            if value is not None:
                values.append(f'{name} {value:.3f}' if name != 'n_short' else f'{name} {value}')
        run.print(f'{scheme}: {", ".join(values)}')


# -----------------------------------------------------------------------------
# everything in order

def main(argv=None):
    """Train and measure all models. Returns the values of the last line."""
    args = parse_args(argv)
    jobs = fill_in(args)
    needed = memory.require_memory(memory_phases(args, jobs), common.find_device(args.device),
                                   cures=CURES)
    with common.Run('capacity', args) as run:
        run.print(f'{args.max_iters} steps a model, files in {args.out_dir}, about '
                  f'{memory.in_gib(needed)} of memory')
        run.print(LEGEND)
        if run.resumes and run.master:
            common.cut_log(run.out_dir, 'model', 0)  # all models are measured again

        records, smallest = train_all(jobs, args, run)
        if not run.master:
            return None

        # the values of the last line
        final = dict(hops=args.hops)
        if args.hops == 2:
            final |= dict(cot=int(args.cot), n_loop=args.n_loop)
        fits = {}
        if args.smallest:
            final |= result_of_smallest(smallest)
        else:
            fits = {scheme: fit(records, scheme) for scheme in records[0]['stored']}
            print_fits(fits, run)
            final |= result_of_grid(records, fits)
        final |= dict(n_models=len(records), exposures=round(records[-1]['exposures']),
                      steps=args.max_iters, seed=args.seed, seconds=run.seconds())

        run.print(in_words(final, records, fits))

        # the log's last record, the results in one file, the last line, the figure
        run.log(arm='final', **final)
        text = json.dumps(dict(final=final, fits=fits, models=records)) + '\n'
        common.write_atomic(run.out_dir / 'results.json', lambda path: path.write_text(text))
        run.print(common.final_line(**final))
        plots.draw_run(run.out_dir)
        return final


def in_words(final, records, fits):
    """One sentence: what was found, and against which control."""
    if not fits:
        return (f'The smallest model that answers the two-hop questions has {final["ratio"]:.2f} '
                'times the parameters of the smallest that knows the facts alone.')
    scheme = flattest(fits)
    best = max(records, key=lambda record: record['stored'][scheme] / record['params'])
    models = 'one model' if len(records) == 1 else f'{len(records)} models'
    there = best['entropy'][scheme] / best['params']
    return (f'Each parameter stores {final["slope"]:.2f} bits (slope over {models}), at best '
            f'{final["best"]:.2f} of the {there:.2f} that there are.')


def train_all(jobs, args, run):
    """Train and measure the models of the grid, or with --smallest as many as it takes.

    Returns their records, and with --smallest what find_both_smallest found, else {}.
    """
    # The processes exchange nothing but records, and one may wait for another for days.
    run.join_group(timeout=timedelta(days=7))
    try:
        if args.smallest:
            smallest, records = find_both_smallest(args, run)
            return records, smallest
        return run_jobs(jobs, args, run), {}
    except Exception as error:
        error.any_rank = True  # each process has models of its own, so each says what went wrong
        raise
    finally:
        run.leave_group()


if __name__ == '__main__':
    with one_line_errors():
        main()
