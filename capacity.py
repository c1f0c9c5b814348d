"""How many bits does a tiny transformer know, and how does it keep facts that it must combine?

EleutherAI's transformer-reasoning (2502.03490) trains small models on made-up people and asks which way of storing them explains how much
they can answer. The same here, with the errors of its estimator mended (each is a case in tests/test_capacity.py). n people have A uniform
attributes of m values and R uniform relations to people (task `profiles` of data.py); names are n of N0, written in three tokens.

1. Information. A model of P parameters that leaves a loss of L bits on answers of H bits has stored at least H - L: model and remaining
   code together are a code for the facts (Allen-Zhu & Li 2404.05405, section 3). L is the summed cross-entropy of the answers' tokens over
   all questions of a kind. A kind counts max(0, H - L): a model may be wrong with confidence, it does not know less than nothing.
2. One hop.   n A log2 m - L_attributes  +  n R log2 n - L_relations  +  names.
   A relation is uniform over n people: log2 n bits, whichever of them occur as answers. Which n of the N0 names exist is worth, in `names`,
     optimal      log2 C(N0, n), exactly; the paper's bound n log2 N0 - n log2 n is less by at most n log2 e
     enumerate    n log2 N0: a list with an order, repeats allowed       independent    0: names are given
   and counts only where names carry loss, as answers of relations: in full when a relation costs at most log2 n bits, not at all when it
   costs log2 N0 (any name would do), in proportion between. So a uniform model has stored 0, one that knows the names alone just `names`.
3. Two hops: the employer of A's mentor. What must a model hold to answer all that it is trained on, one hop included, if it keeps
     optimal      every fact once, and composes: the one-hop entropy
     double       relations twice, once as a first fact and once, with the attributes, as a second: n R log2 n more
     big hash     every trained combination (A, mentor, employer) by itself: log2 m or log2 n more for each of these, held-out ones not counted
   Stored bits: big hash adds H - L of the combinations to the one-hop bits. For the others a question is answered if both its facts are known:
   if shares x of them are, x^2 of the questions are and L / H = 1 - x^2, so x = sqrt(1 - L / H) of the facts count (of unequal shares it is
   the geometric mean). The scheme that explains the models is the one whose bits per parameter do not depend on n and P once the facts
   exceed what fits: "flat", the smallest spread (standard deviation / mean) over models that have not learned everything.
4. With --cot the bridge person and the subject are written first: each link is a one-hop question, L_relations is the mean of both places.
5. --smallest: the smallest model, in steps of 10%, with >= 99% of the trained questions right, for the one-hop facts alone and for two hops.
   Held-out two-hop questions (data.py) are reported by their label: chance is 1/m or 1/n.

Recipe, the same for all sizes: 2 layers, rope, AdamW without decay, rate RATE * sqrt(16 / n_embd) to 0 by a cosine, a fixed number of steps
whose batch is what the exposures ask for. Parameters include the embeddings, tied, all used. int8, int4: weights rounded, a scale a row.
Departures: tokens of their own instead of English; one-hop questions of a person share its name (`shared`); no packing.

    python capacity.py                                                  # bits per parameter, one hop, three sizes
    python capacity.py --hops 2 --sizes 8000,16000 --people 50,100,200  # which scheme is flat?
    python capacity.py --hops 2 --cot --smallest                        # does a chain cost capacity?
    torchrun --standalone --nproc_per_node=2 capacity.py --sizes 20000,50000,140000,370000,1000000 --device cuda

The last line:  final hops=1 slope=... r2=... best=... n_models=... seconds=...        slope in bits per parameter, through the origin
"""

import copy
import functools
import json
import math
import statistics
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from matplotlib.figure import Figure
from tqdm import tqdm

import common
from data import OPTIONS, Parser, Profiles, add_run_args, at_least, write_batch
from model import GPT, GPTConfig

RATE = 2e-2
LEARNED, STEP = 0.99, 1.1  # --smallest: accuracy on trained questions, and the size of its steps


def parse_args(argv):
    def numbers(text):
        return [at_least(1)(word) for word in text.split(',')]
    numbers.__name__ = 'list of numbers (such as 10000,20000)'
    parser = Parser(prog='capacity.py', description=__doc__.split('\n')[0], epilog=__doc__[__doc__.index('    python'):__doc__.index('The last')])
    g = parser.add_argument_group('facts and questions')
    g.add_argument('--hops', type=int, choices=(1, 2), default=1, help='1: facts; 2: facts, and questions that compose two (default: %(default)s)')
    g.add_argument('--cot', action='store_true', help='two hops with a chain: the bridge person is written first (default: off)')
    g.add_argument('--people', type=numbers, help='one number or several; --smallest: one (default: by --fill; --smallest: 100)')
    g.add_argument('--fill', type=at_least(0, float, above=True), default=3.5, help='bits of one-hop facts a parameter, where --people is not given (default: %(default)s)')
    g.add_argument('--attributes', type=at_least(0), help='of 128 values (default: 8; two hops: 20)')
    g.add_argument('--relations', type=at_least(0), help='(default: none; two hops: 4)')
    g = parser.add_argument_group('models')
    g.add_argument('--sizes', type=numbers, help='parameters aimed at; --smallest: to begin with (default: 10000,20000,40000; --smallest: facts / 2.5)')
    g.add_argument('--smallest', action='store_true', help='find the smallest model that learns all instead (default: off)')
    g.add_argument('--n_layer', type=at_least(1), default=2, help='(default: %(default)s)')
    g.add_argument('--n_head', type=at_least(1), help='(default: 4; two hops: 1)')
    g.add_argument('--n_loop', type=at_least(1), default=1, help='times the stack of layers is applied, with shared weights (default: %(default)s)')
    g = parser.add_argument_group('training')
    g.add_argument('--exposures', type=at_least(1), help='times each question is trained (default: 1000; two hops: 300, which is more a fact)')
    g.add_argument('--max_iters', '--steps', type=at_least(1), default=4800, help='optimizer steps; the batch follows from the exposures (default: %(default)s)')
    add_run_args(parser, 'out/capacity-<hops>[-cot][-smallest]', train=False)
    parser.add_argument('--resume', action='store_true', help='go on from the checkpoints in out_dir')
    return parser.parse_args(argv)


# ----------------------------------------------------------------------------- bits

def selection(n, N0, how='optimal'):
    """Bits that say which n of N0 names exist; how: optimal, bound, enumerate or independent (see the module docstring, 2)."""
    if how == 'optimal':
        return (math.lgamma(N0 + 1) - math.lgamma(n + 1) - math.lgamma(N0 - n + 1)) / math.log(2)
    return {'bound': n * math.log2(N0 / n), 'enumerate': n * math.log2(N0), 'independent': 0.0}[how]


def known(loss, entropy):
    """Share of `entropy` bits that a summed loss, in bits, leaves known: within 0 and 1."""
    return min(1.0, max(0.0, 1 - loss / entropy)) if entropy else 0.0


def names(task, loss, how='optimal'):
    """Selection bits of a model to which the name of a relation costs `loss` bits; 0 where there are no relations: no name carries loss."""
    n, N0 = task.people, task.n_names
    share = (math.log2(N0) - loss) / math.log2(N0 / n) if n < N0 else 0.0
    return selection(n, N0, how) * min(1.0, max(0.0, share)) if task.relations else 0.0


def one_hop(task, attributes, relations, how='optimal'):
    """Stored bits from the losses, in bits, summed over all one-hop questions for attributes and for relations; losses of 0: the entropy.

    task: its people, attributes, relations, values and n_names count. how: see selection."""
    n, h_a, h_r = task.people, task.people * task.attributes * math.log2(task.values), task.people * task.relations * math.log2(task.people)
    return h_a * known(attributes, h_a) + h_r * known(relations, h_r) + names(task, relations / max(1, n * task.relations), how)


def two_hops(task, scheme, one, two, counts, how='optimal'):
    """Stored bits if facts are kept as `scheme` says (see the module docstring, 3): optimal, double or big hash.

    one, two: (attributes, relations), losses in bits summed over the questions with such a subject, all of one hop and the trained ones of
    two; counts: how many of two hops. Losses of 0 give the entropy."""
    n, h_a, h_r = task.people, counts[0] * math.log2(task.values), counts[1] * math.log2(task.people)
    if scheme == 'big hash':
        return one_hop(task, *one, how) + h_a * known(two[0], h_a) + h_r * known(two[1], h_r)
    x, y = math.sqrt(known(two[0], h_a)), math.sqrt(known(two[1], h_r))
    facts = task.attributes * math.log2(task.values) * x + task.relations * math.log2(n) * y * (2 if scheme == 'double' else 1)
    return n * facts + names(task, two[1] / max(1, counts[1]), how)


def schemes(task, mode, loss, count):
    """{scheme: (stored bits, entropy)}, from the losses in bits summed by kind of question, and how many of each kind there are."""
    one, two, counts = ((d['attribute' + k], d['relation' + k]) for d, k in ((loss, ''), (loss, '2'), (count, '2')))
    if max(task.hops) == 1:
        ways = {'one hop': 'optimal'} | ({'names enumerate': 'enumerate', 'names independent': 'independent'} if task.relations else {})
        return {name: (one_hop(task, *one, how), one_hop(task, 0, 0, how)) for name, how in ways.items()}
    if mode == 'cot':  # each link is a question of one hop
        bridge = (loss['bridge'] / count['bridge'] + two[1] / counts[1]) / 2
        return {'chain': (one_hop(task, task.people * task.attributes * two[0] / max(1, counts[0]), task.people * task.relations * bridge), one_hop(task, 0, 0))}
    return {s: (two_hops(task, s, one, two, counts), two_hops(task, s, (0, 0), (0, 0), counts)) for s in ('optimal', 'double', 'big hash')}


def quantized(model, bits):
    """A copy with every weight rounded to 2^bits - 1 levels around zero (1 bit: to a sign), one scale for each row of a matrix or vector."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            most = 2 ** (bits - 1) - 1
            scale = p.abs().amax(-1, keepdim=True) / most if bits > 1 else p.abs().mean(-1, keepdim=True)
            p.copy_((p / scale.clamp(min=1e-30)).round().clamp(-most, most) * scale if bits > 1 else torch.where(p < 0, -scale, scale))
    return model


# ----------------------------------------------------------------------------- one model

def all_questions(task):
    """(N, 3) person, relation (-1: one hop), subject: every one-hop question, person by person, then, for two hops, every other."""
    n, A, R = task.people, task.attributes, task.relations
    one = np.stack(np.meshgrid(range(n), [-1], range(A + R), indexing='ij'), axis=-1).reshape(-1, 3)
    two = np.stack(np.meshgrid(range(n), range(R), range(A + R), indexing='ij'), axis=-1).reshape(-1, 3)
    return one if max(task.hops) == 1 else np.concatenate((one, two))


def losses(model, tokens, mask, group, run):
    """Cross-entropy (nats) of every loss token of questions (N, T), in reading order, and whether it is the most likely one. Every `group`
    questions are one person's, whose name is worked through once."""
    mask, target = mask[:, 1:], tokens[:, 1:]
    with run.autocast:
        logits = model(tokens[:, :-1], mask, shared=(3, group) if group > 1 else None)
    return F.cross_entropy(logits.float(), target[mask], reduction='none'), logits.argmax(-1) == target[mask]


@torch.no_grad()
def evaluate(model, task, mode, batch, group, run):
    """Losses in bits summed by kind of question (attribute, relation: one hop; attribute2, relation2: answers of trained two-hop questions;
    bridge: of their bridge persons), how many questions there are of each kind, and accuracy by hops and label (every token right)."""
    bits, right = torch.zeros(batch.tokens[:, 1:].shape, dtype=torch.float64), torch.ones(batch.tokens[:, 1:].shape, dtype=torch.bool)
    for rows in torch.arange(len(bits)).split(4096 // group * group):
        part = batch[rows].to(run.device)
        loss, hit = losses(model.eval(), part.tokens, part.loss_mask, group, run)
        where = torch.zeros_like(bits, dtype=torch.bool)
        where[rows] = batch.loss_mask[rows][:, 1:]
        bits[where], right[where] = loss.double().cpu() / math.log(2), hit.cpu()
    _, relation, subject, label = batch.instance.T
    two, name, start = relation >= 0, subject >= task.attributes, batch.prompt_len - 1
    bridge = bits[:, start:start + 3].sum(1) if mode == 'cot' else bits[:, 0] * 0
    answer = torch.where(two, bits[:, start + 4:].sum(1), bits.sum(1)) if mode == 'cot' else bits.sum(1)  # the repeated subject says nothing
    kinds = {'attribute': ~two & ~name, 'relation': ~two & name, 'attribute2': two & ~name & (label == 0), 'relation2': two & name & (label == 0)}
    loss = {kind: answer[rows].sum().item() for kind, rows in kinds.items()} | {'bridge': bridge[two & (label == 0)].sum().item()}
    count = {kind: int(rows.sum()) for kind, rows in kinds.items()} | {'bridge': int((two & (label == 0)).sum())}
    parts = {'acc_1': ~two} | {f'acc_2_{name}': two & (label == i) for i, name in enumerate(Profiles.labels)}
    return loss, count, {name: right.all(1)[rows].double().mean().item() for name, rows in parts.items() if rows.any()}


@functools.lru_cache(maxsize=4)
def order(seed, epoch, n):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 10**5 + epoch))


def train(job, args, run, caught):
    """One model of the grid, from scratch or from its checkpoint, and everything measured on it: a dict of plain values."""
    begin, path = time.time(), Path(args.out_dir) / f'ckpt-{job["name"]}.pt'
    task, mode = Profiles(job['people'], args.attributes, args.relations, range(1, job['hops'] + 1), facts=args.seed), job['mode']
    config = GPTConfig(len(task.vocab), task.block_size, args.n_layer, args.n_head, job['n_embd'], args.n_loop, pos='rope')
    kept = {k: v for k, v in vars(args).items() if k not in ('out_dir', 'resume')} | job
    kept |= {'script': 'capacity', 'task': 'profiles', 'arm': mode} | {name: getattr(task, name) for name in OPTIONS['profiles']}
    questions = all_questions(task)
    batch = write_batch(task, np.random.default_rng(0), questions, np.where(questions[:, 1] < 0, 1, 2), mode)
    group = args.attributes + args.relations if job['hops'] == 1 else 1  # questions that are drawn together
    units = (batch.instance[:, 3] == 0).nonzero().view(-1, group)  # (U, G), the trained ones
    tokens, mask = batch.tokens.to(run.device), batch.loss_mask.to(run.device)
    U, size = len(units), max(1, round(len(units) * job['exposures'] / args.max_iters))
    torch.manual_seed(args.seed)
    model, state = (args.resume and path.exists() and common.load_checkpoint(path, run.device, kept)) or (GPT(config).to(run.device), {'step': 0, 'curve': []})
    rate = RATE * math.sqrt(16 / job['n_embd'])
    optimizer, step, curve = model.configure_optimizer(rate, 0.0, betas=(0.9, 0.98)), state['step'], state['curve']
    if step:
        optimizer.load_state_dict(state['optimizer'])
    bar = tqdm(total=args.max_iters, initial=step, desc=job['name'], disable=not (run.master and sys.stderr.isatty()), leave=False)
    while step < args.max_iters:
        warmup = min(100, args.max_iters // 3)
        for g in optimizer.param_groups:
            g['lr'] = rate * min((step + 1) / (warmup + 1), 0.5 + 0.5 * math.cos(math.pi * max(0, step - warmup) / (args.max_iters - warmup)))
        at = torch.arange(step * size, (step + 1) * size)  # every epoch in an order of its own
        rows = torch.cat([units[order(args.seed, e, U)[at[at // U == e] % U]] for e in range(int(at[0]) // U, int(at[-1]) // U + 1)]).flatten()
        length = int(mask[rows].any(0).nonzero().max()) + 1
        loss = losses(model.train(), tokens[rows, :length], mask[rows, :length], group, run)[0].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        bar.update()
        if step % max(1, args.max_iters // 20) == 0 or step == args.max_iters or caught:
            curve.append((step, loss.item()))
            if not all(torch.as_tensor(x).isfinite().all() for x in (loss, *model.parameters())):
                common.die(f'{job["name"]} diverged at step {step}: loss {loss.item()}; {path} holds the last good weights, if any were saved', code=1)
            common.save_checkpoint(path, model, optimizer, step, kept, curve=curve)
        if caught:
            common.die(f'stopped by a signal at step {step} of {job["name"]}, saved; --resume goes on from there', code=128 + max(caught))
    bar.close()
    loss, count, accuracy = evaluate(model, task, mode, batch, group, run)
    record = job | dict(params=model.num_params(), batch=size, lr=rate, schemes=schemes(task, mode, loss, count), loss=loss, count=count, **accuracy)
    for bits in (8, 4):  # what is kept of the first scheme
        less, _, acc = evaluate(quantized(model, bits), task, mode, batch, group, run)
        record[f'int{bits}'] = {name: b for name, (b, _) in schemes(task, mode, less, count).items()} | acc
    return record | dict(curve=curve, seconds=time.time() - begin)


# ----------------------------------------------------------------------------- the grid

def make_job(args, hops, mode, target, people, exposures):
    """A model of as near to `target` parameters as its width, a multiple of n_head, allows."""
    V, L, H = len(Profiles(people, args.attributes, args.relations, range(1, hops + 1)).vocab), args.n_layer, args.n_head
    b = V + 2 * L + 1  # of width w: 12 L w^2 for the matrices of the layers, 2 w each for their norms, w for the last; V w for the embedding
    exact = (math.sqrt(b * b + 48 * L * target) - b) / (24 * L)
    w = min((max(2, math.floor(exact / H) + i) * H for i in (0, 1)), key=lambda w: abs(12 * L * w * w + b * w - target))
    return dict(name=f'{hops}-{mode}-{people}x{w}', hops=hops, mode=mode, people=people, n_embd=w, exposures=exposures)


def run_jobs(jobs, args, run, caught, tell):
    """Train and measure every job; under torchrun each process takes its share, by cost. The records, in the order of the jobs."""
    done, load = {}, [0] * run.world
    cost = [job['people'] * job['n_embd'] ** 2 * job['exposures'] for job in jobs]
    for i in sorted(range(len(jobs)), key=lambda i: -cost[i]) if run.world > 1 else range(len(jobs)):
        rank = load.index(min(load))
        load[rank] += cost[i]
        if rank == run.rank:
            done[i] = train(jobs[i], args, run, caught)
            if run.world == 1:
                tell(done[i])
    if run.world > 1:
        dist.all_gather_object(shares := [None] * run.world, done)
        done = {i: record for share in shares for i, record in share.items()}
        for i in sorted(done) if run.master else ():
            tell(done[i])
    return [done[i] for i in range(len(jobs))]


def find_smallest(args, hops, mode, exposures, run, caught, tell):
    """The smallest model that gets LEARNED of its trained questions right: up the ladder of sizes four rungs at a time, then between them."""
    ladder, target = [], float(args.sizes[0])
    while len(ladder) < 60:  # of all widths those that make a step of 10% or, where the widths are further apart, the next
        job = make_job(args, hops, mode, target, args.people[0], exposures)
        ladder, target = ladder + [job] * (not ladder or job['n_embd'] > ladder[-1]['n_embd']), target * STEP
    low, high, found = -1, len(ladder), {}
    while high - low > 1:
        ask = [low + 4 * (i + 1) for i in range(run.world)] if high == len(ladder) else [low + (high - low) * (i + 1) // (run.world + 1) for i in range(run.world)]
        ask = sorted({min(max(i, low + 1), high - 1) for i in ask})
        for i, record in zip(ask, run_jobs([ladder[i] for i in ask], args, run, caught, tell), strict=True):
            found[i] = record
            passed = record['acc_2_trained' if hops == 2 else 'acc_1'] >= LEARNED
            low, high = (low, min(high, i)) if passed else (max(low, i) if i < high else low, high)
    return found.get(high)


# ----------------------------------------------------------------------------- the result

def fit(records, scheme):
    """Of stored bits against parameters: slope through the origin, R^2, and the spread (sd / mean) of bits per parameter over the models
    that have not learned everything (None for fewer than two)."""
    x, y = [r['params'] for r in records], [r['schemes'][scheme][0] for r in records]
    slope = sum(a * b for a, b in zip(x, y, strict=True)) / sum(a * a for a in x)
    around = sum((b - statistics.fmean(y)) ** 2 for b in y)
    r2 = 1 - sum((b - slope * a) ** 2 for a, b in zip(x, y, strict=True)) / around if around else None
    rates = [b / a for a, b, r in zip(x, y, records, strict=True) if r.get('acc_2_trained', r['acc_1']) < LEARNED]
    return dict(slope=slope, r2=r2, spread=statistics.stdev(rates) / statistics.fmean(rates) if len(rates) > 1 and sum(rates) else None)


def tell(record, out_dir):
    bits = '   '.join(f'{name} {b / record["params"]:.3f} of {h / record["params"]:.2f}' for name, (b, h) in record['schemes'].items())
    main = next(iter(record['schemes']))
    kept = '   '.join(f'int{b} keeps {record[f"int{b}"][main] / max(1, record["schemes"][main][0]):.3f}' for b in (8, 4))
    acc = ' '.join(f'{name[4:]} {value:.3f}' for name, value in record.items() if name.startswith('acc'))
    tqdm.write(f'{record["params"]:9,} parameters, {record["people"]:,} people {record["mode"] if record["hops"] == 2 else "one hop"}, {record["exposures"]:,} exposures '
               f'| bits/parameter: {bits}   {kept} | accuracy: {acc} | {record["seconds"]:.0f} s')
    common.log(out_dir, arm='model', **record)


def plot(records, path, title):
    """Stored bits against parameters, with the fits, 2 bits a parameter and what there was to store; and, a parameter, against people."""
    left, right = (figure := Figure(figsize=(11, 4.4), layout='constrained')).subplots(1, 2)
    most = max(r['params'] for r in records)
    for colour, scheme in zip(('tab:blue', 'tab:orange', 'tab:green'), records[0]['schemes'], strict=False):
        f = fit(records, scheme)
        left.plot([r['params'] for r in records], [r['schemes'][scheme][0] for r in records], 'o', color=colour, label=f'stored, {scheme}: {f["slope"]:.2f} bits a parameter')
        left.plot([r['params'] for r in records], [r['schemes'][scheme][1] for r in records], '_', color=colour, ms=14, label='to be stored')
        left.plot([0, most], [0, f['slope'] * most], color=colour, linewidth=1)
        for width in sorted({r['n_embd'] for r in records}) if len({r['people'] for r in records}) > 1 else ():
            line = sorted((r['people'], r['schemes'][scheme][0] / r['params'], r['params']) for r in records if r['n_embd'] == width)
            right.plot(*list(zip(*line, strict=True))[:2], 'o-', color=colour, ms=4)
            right.annotate(f'{line[0][2]:,}', line[-1][:2], xytext=(4, 0), textcoords='offset points', fontsize=7, color=colour)
    left.plot([0, most], [0, 2 * most], 'k:', label='2 bits a parameter')
    right.axhline(2, color='black', linestyle=':')
    left.set(xlabel='parameters', ylabel='bits', title=title, xlim=(0, None), ylim=(0, None))
    right.set(xlabel='people', ylabel='stored bits a parameter', title='the right scheme is the flat one', xscale='log', ylim=(0, None))
    left.legend(fontsize=8)
    common.write_atomic(path, lambda tmp: figure.savefig(tmp, dpi=110, format='png'))


def plot_smallest(records, path, title):
    """Accuracy against parameters: the trained questions of either hop count, the two-hop questions held out."""
    axis = (figure := Figure(figsize=(6, 4.2), layout='constrained')).subplots()
    for hops, keys in ((1, ['acc_1']), (2, [f'acc_2_{label}' for label in Profiles.labels])):
        for key, style in zip(keys, ('o-', 's--', '^--', 'v--'), strict=False):
            line = sorted((r['params'], r[key]) for r in records if r['hops'] == hops and key in r)
            if line:
                axis.plot(*zip(*line, strict=True), style, ms=4, color=f'C{hops - 1}', label=f'{hops} hop{"s" * (hops > 1)}, {key[6:] or "facts alone"}')
    axis.axhline(LEARNED, color='black', linestyle=':')
    axis.set(xlabel='parameters', ylabel='share right', title=title, xscale='log', ylim=(0, 1.03))
    axis.legend(fontsize=8)
    common.write_atomic(path, lambda tmp: figure.savefig(tmp, dpi=110, format='png'))


def main(argv=None):
    begin, args = time.time(), parse_args(argv)
    two = args.hops == 2
    args.attributes = args.attributes if args.attributes is not None else 20 if two or args.smallest else 8
    args.relations = args.relations if args.relations is not None else 4 if two or args.smallest else 0
    args.n_head = args.n_head or (1 if two or args.smallest else 4)
    args.exposures = args.exposures or (300 if two else 1000)
    mode = 'cot' if args.cot else 'direct'
    args.out_dir = args.out_dir or f'out/capacity-{args.hops}' + '-cot' * args.cot + '-smallest' * args.smallest
    try:
        if args.cot and not two:
            raise ValueError('--cot writes the bridge person of two hops: add --hops 2')
        if args.smallest:
            args.people = args.people or [100]
            facts = one_hop(Profiles(args.people[0], args.attributes, args.relations), 0, 0, 'independent')
            args.sizes = args.sizes or [round(facts / 2.5)]
            if len(args.people) + len(args.sizes) > 2:
                raise ValueError('--smallest takes one number of --people, and one of --sizes to begin with')
        args.sizes = args.sizes or [10000, 20000, 40000]
        n, jobs = 2.0, []
        for size in args.sizes:
            for _ in range(50):  # a relation costs log2 n bits: the n whose facts are fill * size bits
                n = max(2.0, args.fill * size / (args.attributes * 7 + args.relations * math.log2(n)))
            jobs += [make_job(args, args.hops, mode, size, people, args.exposures) for people in args.people or [round(n)]]
    except ValueError as error:
        common.die(str(error))
    run = common.setup(args)
    args.device, args.dtype, args.processes = run.device.type, 'bfloat16' if run.bf16 else 'float32', run.world
    if run.master:
        common.open_run(args.out_dir, {'script': 'capacity'} | {k: v for k, v in vars(args).items() if k not in ('out_dir', 'resume')}, args.resume)
        common.cut_log(args.out_dir, lambda r: False)  # what is finished is measured again from its checkpoint
    caught = common.catch_signals()
    if run.world > 1:
        dist.init_process_group('gloo', timeout=timedelta(days=7))  # for results alone; the others may have to wait for the largest model
        dist.barrier()
    records = []

    def report(record):
        records.append(record)
        tell(record, args.out_dir)
    final = dict(hops=args.hops, cot=int(args.cot), n_loop=args.n_loop) if two else dict(hops=1)
    if args.smallest:
        facts, asked = args.attributes + args.relations, all_questions(Profiles(args.people[0], args.attributes, args.relations))
        trained = int((Profiles(args.people[0], args.attributes, args.relations).label(asked) == 0).sum())
        exposures = round(args.exposures * trained / (args.people[0] * facts)) if two else args.exposures  # as many questions in all
        one = find_smallest(args, 1, 'direct', exposures, run, caught, report)
        found = [one] + ([find_smallest(args, 2, mode, args.exposures, run, caught, report)] if two else [])
    else:
        run_jobs(jobs, args, run, caught, report)
    if dist.is_initialized():
        dist.destroy_process_group()
    if not run.master:
        return
    if args.smallest:
        if None in found:
            common.die(f'no model of the ladder got {LEARNED} of its questions right; begin with larger --sizes, or train longer', code=1)
        final |= dict(smallest_1=one['params'], acc_1=one['acc_1'], bits_1=one['schemes'][next(iter(one['schemes']))][0] / one['params'])
        if two:
            final |= dict(smallest=found[1]['params'], ratio=found[1]['params'] / one['params'], **{k: v for k, v in found[1].items() if k.startswith('acc_2')})
    else:
        fits = {scheme: fit(records, scheme) for scheme in records[0]['schemes']}
        flat = min(fits, key=lambda s: fits[s]['spread'] if fits[s]['spread'] is not None else 9) if len(fits) > 1 and two else next(iter(fits))
        for scheme, f in fits.items():
            print(f'{scheme}: ' + ', '.join(f'{name} {value:.3f}' for name, value in f.items() if value is not None))
        kept = {f'int{b}': statistics.fmean(r[f'int{b}'][flat] / max(1, r['schemes'][flat][0]) for r in records) for b in (8, 4)}
        final |= dict(scheme=flat.replace(' ', '-') if two else None, **fits[flat], best=max(r['schemes'][flat][0] / r['params'] for r in records), **kept)
    final |= dict(n_models=len(records), exposures=args.exposures, steps=args.max_iters, seed=args.seed, seconds=time.time() - begin)
    common.log(args.out_dir, arm='final', **final)
    common.write_atomic(Path(args.out_dir) / 'results.json', lambda tmp: tmp.write_text(json.dumps(dict(final=final, models=records), indent=1) + '\n'))
    (plot_smallest if args.smallest else plot)(records, Path(args.out_dir) / 'plot.png', f'{args.hops} hop{"s" * two}{", chain" * args.cot}')
    print(common.final_line(**final))


if __name__ == '__main__':
    main()
