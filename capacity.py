"""How many bits does a tiny transformer know, and how does it keep facts that it must combine?

EleutherAI's transformer-reasoning (Johnston & Belrose 2025, 2502.03490) trains small models on made-up people: which way of storing them explains how much they
can answer? The same here, with its estimator mended (every fault is a case in tests/test_capacity.py). Task `profiles` of data.py: n people with A uniform
attributes of m values and R uniform relations to people; their names are n of N0 possible ones, three tokens each.

1. Information. A model that leaves L bits of loss on answers of H bits has stored at least H - L: the model and a code for what remains are together a code for
   the facts (Allen-Zhu & Li 2404.05405, section 3). L is the summed cross-entropy of the answers' tokens over all questions of a kind, and a kind counts
   max(0, H - L): a model may be wrong with confidence, it does not know less than nothing.
2. One hop:   n A log2 m - L_attributes   +   n R log2 n - L_relations   +   names.
   A relation is uniform over n people: log2 n bits, whichever of them occur. Which n of the N0 names exist is worth, in `names`,
     optimal       log2 C(N0, n), exactly; the papers' bound n log2 N0 - n log2 n is less, by at most n log2 e
     enumerate     n log2 N0, an ordered list with repeats            independent   0, names are given
   and counts only where names carry loss, as answers of relations: in full while a relation costs at most log2 n bits; if it costs more, l bits, less the share
   log2 C(2^l, n) / log2 C(N0, n). So a uniform model has stored 0, and one that knows who exists and nothing else just `names`.
3. Two hops, the employer of A's mentor. What must a model hold to answer all its training questions, those of one hop included, if it keeps
     optimal       every fact once, and composes: the one-hop entropy
     double        relations twice, to be looked up first and, like the attributes, second: log2 n more for each trained (A, mentor)
     big hash      every trained combination (A, mentor, employer) by itself: log2 m or log2 n more for each; held-out ones do not count
   Stored: for the big hash the one-hop bits and H - L of the combinations. Otherwise two-hop answers alone count, right if both facts are known: if a share x
   of facts is, x^2 of the questions are, L / H = 1 - x^2, and x = sqrt(1 - L / H) of the facts are stored (of two unequal shares, the geometric mean).
   The scheme that explains the models is the flat one: where there is more than fits, its bits per parameter depend neither on n nor on the size (the smallest
   spread, standard deviation / mean, over the models that have not learned everything).
4. --cot: bridge person and subject are written first, each link a question of one hop. Of a kind's losses, asked in one hop and in chains, the larger counts.
5. --smallest: the smallest model, in steps of 10%, with 99% of its trained two-hop questions right, and that for their facts alone, after as many one-hop
   questions (by bisection: learning is taken to be monotone). Two-hop questions held out by person, pair or combination (data.py) are told beside chance.

Recipe: 2 layers, rope (a link of a chain then looks like a question of one hop), AdamW without decay, learning rate RATE sqrt(16 / n_embd) to 0 by a cosine, a
fixed number of steps, the batch that the exposures ask for. Parameters: all, tied embeddings included. int8, int4: matrices rounded, a scale for each row.
Departures: tokens instead of English, one question a sequence (one-hop questions share the work on a name), sampling without replacement.

    python capacity.py                                                  # bits per parameter: one hop, three sizes
    python capacity.py --hops 2 --sizes 8000,16000 --people 50,100,200  # which scheme is flat?
    python capacity.py --hops 2 --cot --smallest --n_layer 1            # what does a chain cost? (without --cot: what does it spare?)
    torchrun --standalone --nproc_per_node=2 capacity.py --sizes 20000,53000,141000,376000,1000000 --device cuda

The last line:  final hops=1 slope=... r2=... best=... n_models=... seconds=...     slope of the line through the origin, in bits per parameter
"""

import copy
import functools
import json
import math
import os
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
from data import OPTIONS, Parser, Profiles, add_run_args, at_least, parse_list, require, write_batch
from model import GPT, GPTConfig

RATE = 2e-2
LEARNED, STEP = 0.99, 1.1  # --smallest: share of the training questions, size of the steps

def parse_args(argv):
    parser = Parser(prog='capacity.py', description=__doc__.split('\n')[0], epilog=__doc__[__doc__.index('    python'):__doc__.index('The last')])
    parser.add_argument('--hops', type=int, choices=(1, 2), default=1, help='1: facts; 2: facts, and questions that compose two (default: %(default)s)')
    parser.add_argument('--cot', action='store_true', help='two hops with a chain: the bridge person is written first (default: off)')
    parser.add_argument('--people', type=parse_list, help='one number or several (default: by --fill; --smallest: 100)')
    parser.add_argument('--fill', type=at_least(0, float, above=True), default=3.5, help='facts in bits a parameter, without --people (default: %(default)s)')
    parser.add_argument('--attributes', type=at_least(0), help='of 128 values (default: 8; two hops: 20)')
    parser.add_argument('--relations', type=at_least(0), help='(default: none; two hops: 4)')
    parser.add_argument('--sizes', type=parse_list, help='parameters aimed at; --smallest: to begin with (default: 10000,20000,40000; --smallest: facts / 2.5)')
    parser.add_argument('--smallest', action='store_true', help='two hops: find the smallest model that learns them (default: off)')
    parser.add_argument('--n_layer', type=at_least(1), default=2, help='(default: %(default)s)')
    parser.add_argument('--n_head', type=at_least(1), help='(default: 4; two hops: 1)')
    parser.add_argument('--n_loop', type=at_least(1), default=1, help='times the stack of layers is applied, with shared weights (default: %(default)s)')
    parser.add_argument('--exposures', type=at_least(1), help='times each question is trained (default: 1000; two hops: 300, each fact is in many)')
    parser.add_argument('--max_iters', '--steps', type=at_least(1), default=4800, help='optimizer steps; exposures decide the batch (default: %(default)s)')
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
    guessed = min(N0, max(n, 2 ** min(loss, 99)))  # among so many names the model would look for the n
    return selection(n, N0, how) * max(0.0, 1 - selection(n, guessed) / selection(n, N0)) if task.relations and n < N0 else 0.0

def one_hop(task, attributes, relations, how='optimal'):
    """Stored bits, from the losses in bits summed over all one-hop questions for attributes and for relations; the entropy, where these are 0.
    task: its people, attributes, relations, values and n_names count. how: see selection."""
    n, h_a, h_r = task.people, task.people * task.attributes * math.log2(task.values), task.people * task.relations * math.log2(task.people)
    return h_a * known(attributes, h_a) + h_r * known(relations, h_r) + names(task, relations / max(1, n * task.relations), how)

def two_hops(task, scheme, one, two, counts, how='optimal'):
    """Stored bits if facts are kept as `scheme` says (module docstring, 3): optimal, double or big hash; the entropy, where all losses are 0.
    one, two: (attributes, relations), losses in bits summed over the questions with such a subject, all of one hop and the trained of two; counts: how
    many these are of two hops, and with how many (person, relation) they begin."""
    h_a, h_r = counts[0] * math.log2(task.values), counts[1] * math.log2(task.people)
    if scheme == 'big hash':
        return one_hop(task, *one, how) + h_a * known(two[0], h_a) + h_r * known(two[1], h_r)
    attributes, relations = task.people * task.attributes, task.people * task.relations + (counts[2] if scheme == 'double' else 0)
    facts = attributes * math.log2(task.values) * math.sqrt(known(two[0], h_a)) + relations * math.log2(task.people) * math.sqrt(known(two[1], h_r))
    return facts + names(task, two[1] / counts[1] if counts[1] else math.inf, how)

def schemes(task, mode, loss, count):
    """{scheme: stored bits}, from what evaluate returns; {scheme: entropy}, with an empty loss."""
    one, two, counts = ([d.get(f'{kind}{hops}', 0) for kind in ('attribute', 'relation', 'pair')] for d, hops in ((loss, 1), (loss, 2), (count, 2)))
    if max(task.hops) == 1:
        ways = {'one hop': 'optimal'} | ({'names enumerate': 'enumerate', 'names independent': 'independent'} if task.relations else {})
        return {name: one_hop(task, *one[:2], how) for name, how in ways.items()}
    if mode == 'cot':  # each link is a question of one hop
        a, r, bridge = (task.people * loss.get(k, 0) / max(1, count[k]) for k in ('attribute2', 'relation2', 'bridge'))
        return {'chain': one_hop(task, max(one[0], task.attributes * a), max(one[1], task.relations * (r + bridge) / 2))}
    return {scheme: two_hops(task, scheme, one[:2], two, counts) for scheme in ('optimal', 'double', 'big hash')}

def quantized(model, bits):
    """A copy with every matrix rounded to 2^bits - 1 levels around zero (1 bit: to a sign), one scale for each row."""
    model = copy.deepcopy(model)
    for p in (p for p in model.parameters() if p.dim() == 2):
        most = 2 ** (bits - 1) - 1
        scale = (p.abs().amax(1, keepdim=True) / max(1, most) if bits > 1 else p.abs().mean(1, keepdim=True)).clamp(min=1e-30)
        p.data = (p / scale).round().clamp(-most, most) * scale if bits > 1 else torch.where(p < 0, -scale, scale)
    return model.requires_grad_(False)

# ----------------------------------------------------------------------------- one model

def all_questions(task):
    """(N, 3) person, relation (-1: one hop), subject: every one-hop question, person by person, then, for two hops, every other."""
    n, A, R = task.people, task.attributes, task.relations
    one, two = (np.stack(np.meshgrid(range(n), r, range(A + R), indexing='ij'), axis=-1).reshape(-1, 3) for r in ([-1], range(R)))
    return np.concatenate((one, two)[:max(task.hops)])

def losses(model, tokens, mask, group, run):
    """Cross-entropy (nats) of every loss token of questions (N, T), in reading order, and whether it is the most likely one. Every `group`
    questions are one person's, whose name is worked through once."""
    mask, target = mask[:, 1:], tokens[:, 1:]
    with run.autocast:
        logits = model(tokens[:, :-1], mask, shared=(3, group) if group > 1 else None)
    return F.cross_entropy(logits.float(), target[mask], reduction='none'), logits.argmax(-1) == target[mask]

@torch.no_grad()
def evaluate(model, task, mode, batch, group, run):
    """Losses in bits summed by kind of question (attribute1, relation1: one hop; attribute2, relation2: answers of trained two-hop questions;
    bridge: the bridge persons before them), how many there are of each kind, and accuracy by hops and label: every token right."""
    bits, right = torch.zeros(batch.tokens[:, 1:].shape, dtype=torch.float64), torch.ones(batch.tokens[:, 1:].shape, dtype=torch.bool)
    for rows in (slice(i, i + 4096 // group * group) for i in range(0, len(bits), 4096 // group * group)):
        part = batch[rows].to(run.device)
        loss, hit = losses(model.eval(), part.tokens, part.loss_mask, group, run)
        where = batch.loss_mask[rows][:, 1:]
        bits[rows][where], right[rows][where] = loss.double().cpu() / math.log(2), hit.cpu()
    (_, relation, subject, label), start = batch.instance.T, batch.prompt_len - 1
    one, two, name = relation < 0, (relation >= 0) & (label == 0), subject >= task.attributes
    bridge, answer = bits[:, :0].sum(1), bits.sum(1)
    if mode == 'cot':  # three tokens of a name, and the subject again, which says nothing
        bridge, answer = bits[:, start:start + 3].sum(1), torch.where(one, answer, bits[:, start + 4:].sum(1))
    kinds = {'attribute1': one & ~name, 'relation1': one & name, 'attribute2': two & ~name, 'relation2': two & name, 'bridge': two}
    loss = {kind: (bridge if kind == 'bridge' else answer)[rows].sum().item() for kind, rows in kinds.items()}
    parts = {'acc_1': one} | {f'acc_2_{name}': ~one & (label == i) for i, name in enumerate(task.labels)}
    count = {k: int(rows.sum()) for k, rows in kinds.items()} | {'pair2': len(batch.instance[two][:, :2].unique(dim=0))}
    return loss, count, {k: right.all(1)[rows].double().mean().item() for k, rows in parts.items() if rows.any()}

def train(job, args, run, caught):
    """One model of the grid, from scratch or from its checkpoint, and everything measured on it: a dict of plain values."""
    mode, path, rate = job['mode'], Path(args.out_dir) / f'ckpt-{job["name"]}.pt', RATE * math.sqrt(16 / job['n_embd'])
    task = Profiles(job['people'], args.attributes, args.relations, range(1, job['hops'] + 1), facts=args.seed)
    kept = {k: v for k, v in vars(args).items() if k not in ('out_dir', 'resume')} | job
    kept |= {'script': 'capacity', 'task': 'profiles', 'arm': mode} | {name: getattr(task, name) for name in OPTIONS['profiles']}
    questions = all_questions(task)
    batch = write_batch(task, np.random.default_rng(0), questions, np.where(questions[:, 1] < 0, 1, 2), mode)
    group = args.attributes + args.relations if job['hops'] == 1 else 1  # questions that are drawn together
    units = (batch.instance[:, 3] == 0).nonzero().view(-1, group)  # (U, G), the trained ones
    tokens, mask = batch.tokens.to(run.device), batch.loss_mask.to(run.device)
    U, size, warmup = len(units), max(1, round(len(units) * job['exposures'] / args.max_iters)), min(100, args.max_iters // 3)
    shuffled = functools.lru_cache(4)(lambda epoch: units[torch.randperm(U, generator=torch.Generator().manual_seed((args.seed * 10**5 + epoch) % 2**63))])
    torch.manual_seed(args.seed)
    config = GPTConfig(len(task.vocab), task.block_size, args.n_layer, args.n_head, job['n_embd'], args.n_loop, pos='rope')
    found = args.resume and path.exists()
    model, state = common.load_checkpoint(path, run.device, kept) if found else (GPT(config).to(run.device), dict(step=0, curve=[], seconds=0))
    optimizer, step, curve, begin = model.configure_optimizer(rate, 0.0, betas=(0.9, 0.98)), state['step'], state['curve'], time.time() - state['seconds']
    optimizer.load_state_dict(state.get('optimizer', optimizer.state_dict()))
    with tqdm(total=args.max_iters, initial=step, desc=job['name'], disable=None if run.master else True, leave=False) as bar:
        while step < args.max_iters:
            for g in optimizer.param_groups:
                g['lr'] = rate * min((step + 1) / (warmup + 1), 0.5 + 0.5 * math.cos(math.pi * max(0, step - warmup) / (args.max_iters - warmup)))
            at = torch.arange(step * size, (step + 1) * size)  # every epoch in an order of its own
            rows = torch.cat([shuffled(e)[at[at // U == e] % U] for e in range(int(at[0]) // U, int(at[-1]) // U + 1)]).flatten()
            length = int(mask[rows].any(0).nonzero().max()) + 1
            loss = losses(model.train(), tokens[rows, :length], mask[rows, :length], group, run)[0].mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            bar.update()
            due = step % max(1, args.max_iters // 20) == 0 or step == args.max_iters
            if due or caught:
                curve += [(step, loss.item())] * due
                if not all(torch.as_tensor(x).isfinite().all() for x in (loss, *model.parameters())):
                    common.die(f'{job["name"]} diverged at step {step}: loss {loss.item()}; {path} holds the last good weights, if any were saved', code=1)
                common.save_checkpoint(path, model, optimizer, step, kept, curve=curve, seconds=time.time() - begin)
            if caught:
                common.die(f'stopped by a signal at step {step} of {job["name"]}, saved; --resume goes on from there', code=128 + max(caught))
    measure = functools.partial(evaluate, task=task, mode=mode, batch=batch, group=group, run=run)
    loss, count, accuracy = measure(model)
    record = job | dict(params=model.num_params(), exposures=size * args.max_iters / U, lr=rate, curve=curve, loss=loss, count=count)
    record |= dict(stored=schemes(task, mode, loss, count), entropy=schemes(task, mode, {}, count))
    for bits in (8, 4):  # rounding leaves a model too sure of itself: the gain of the last norm is a temperature
        rounded, kept = quantized(model, bits), []
        for temperature in (1, 1.5, 2, 3, 4, 6, 8):
            rounded.ln_f.weight.data = model.ln_f.weight.data / temperature
            kept.append(schemes(task, mode, measure(rounded)[0], count))
        record[f'int{bits}'] = max(kept, key=lambda stored: sum(stored.values()))
    return record | accuracy | dict(chance=task.chance(job['hops']), seconds=time.time() - begin)

# ----------------------------------------------------------------------------- the grid

def make_job(args, hops, mode, target, people, exposures):
    """A model of as near to `target` parameters as its width, a multiple of n_head, allows."""
    V, L, H = len(Profiles(people, args.attributes, args.relations, range(1, hops + 1)).vocab), args.n_layer, args.n_head
    b = V + 2 * L + 1  # of width w: 12 L w^2 for the matrices of the layers, 2 w each for their norms, w for the last; V w for the embedding
    exact = (math.sqrt(b * b + 48 * L * target) - b) / (24 * L)
    w = min((max(2, math.floor(exact / H) + i) * H for i in (0, 1)), key=lambda w: abs(12 * L * w * w + b * w - target))
    return dict(name=f'{hops}-{mode}-{people}x{w}', hops=hops, mode=mode, people=people, n_embd=w, exposures=exposures)

def run_jobs(jobs, args, run, caught, tell):
    """Train and measure every job; under torchrun each process takes its share, small and large. The records, in the order of the jobs."""
    done, turns = {}, sorted(range(len(jobs)), key=lambda i: jobs[i]['people'] * jobs[i]['n_embd'] ** 2)
    for i in turns[run.rank::run.world]:
        done[i] = train(jobs[i], args, run, caught)
        if run.world == 1:
            tell(done[i])
    if run.world > 1:
        dist.all_gather_object(shares := [None] * run.world, done)
        done = {i: record for share in shares for i, record in share.items()}
        for i in turns if run.master else ():
            tell(done[i])
    return [done[i] for i in range(len(jobs))]

def find_smallest(args, hops, mode, exposures, run, caught, tell):
    """The smallest model that gets LEARNED of its training questions right: four steps at a time, then between. None if none does, or the first tried."""
    ladder = [make_job(args, hops, mode, args.sizes[0] * STEP**i, args.people[0], exposures) for i in range(30)]
    ladder = list({job['name']: job for job in ladder}.values())  # small widths are further apart than a step
    low, high, found = -1, len(ladder), {}
    while high - low > 1:
        gap = max(1, min(4 if high == len(ladder) else (high - low) // (run.world + 1), high - low - 1))
        ask = range(low + gap, min(high, low + gap * run.world + 1), gap)
        for i, record in zip(ask, run_jobs([ladder[i] for i in ask], args, run, caught, tell), strict=True):
            found[i] = record
            if record['acc_2_trained' if hops == 2 else 'acc_1'] >= LEARNED:
                high = min(high, i)
            elif i < high:
                low = i
    return found.get(high) if high else None

# ----------------------------------------------------------------------------- the result

def fit(records, scheme):
    """Stored bits against parameters: slope through the origin, R^2; spread (sd / mean) of bits per parameter over models that have not learned all."""
    x, y = np.array([(r['params'], r['stored'][scheme]) for r in records], dtype=float).T
    slope, rates = x @ y / (x @ x), (y / x)[[r.get('acc_2_trained', r['acc_1']) < LEARNED for r in records]]
    return dict(slope=float(slope), r2=float(1 - ((y - slope * x)**2).sum() / ((y - y.mean())**2).sum()) if y.std() else None,
                spread=float(rates.std(ddof=1) / rates.mean()) if len(rates) > 1 and rates.any() else None)

def tell(record, records, out_dir):
    """Add it to the records, the table on the screen and the log."""
    r, P = record, record['params']
    stored = ', '.join(f'{name} {bits / P:.3f} of {r["entropy"][name] / P:.3f}' for name, bits in r['stored'].items() if not name.startswith('names'))
    kept = ', '.join(f'int{b} keeps {r[f"int{b}"][name] / max(1, bits):.3f}' for name, bits in list(r['stored'].items())[:1] for b in (8, 4))
    right = ', '.join(f'{name[6:] or "one hop"} {value:.3f}' for name, value in r.items() if name.startswith('acc'))
    tqdm.write(f'{P:9,} parameters, {r["people"]:,} people, {r["hops"]}-hop {r["mode"]}, {r["exposures"]:,.0f} exposures | bits a parameter: {stored}; {kept} '
               f'| right: {right}, chance {r["chance"]:.3f} | {r["seconds"]:.0f} s')
    common.log(out_dir, arm='model', **record)
    records.append(record)

def plot(records, path, title):
    """Stored bits against parameters, with what there was to store, the fits and 2 bits a parameter; bits a parameter against people."""
    left, right = (figure := Figure(figsize=(11, 4.4), layout='constrained')).subplots(1, 2)
    x = [r['params'] for r in records]
    for colour, scheme in zip(('tab:blue', 'tab:orange', 'tab:green'), records[0]['stored'], strict=False):
        slope = fit(records, scheme)['slope']
        left.plot(x, [r['stored'][scheme] for r in records], 'o', color=colour, label=f'stored, {scheme}: {slope:.2f} bits a parameter')
        left.plot(x, [r['entropy'][scheme] for r in records], '_', color=colour, ms=14, label=None if right.lines else 'to be stored')
        left.axline((0, 0), slope=slope, color=colour, linewidth=1)
        for width in sorted({r['n_embd'] for r in records}):
            line = sorted((r['people'], r['stored'][scheme] / r['params'], r['params']) for r in records if r['n_embd'] == width)
            right.plot([n for n, *_ in line], [bits for _, bits, _ in line], 'o-', color=colour, ms=4)
            right.annotate(f'{line[-1][2]:,}', line[-1][:2], xytext=(4, 2), textcoords='offset points', fontsize=7, color=colour)
    left.axline((0, 0), slope=2, color='black', linestyle=':', label='2 bits a parameter')
    left.set(xlabel='parameters', ylabel='bits', title=title, xlim=(0, None), ylim=(0, None))
    right.set(xlabel='people', ylabel='bits a parameter', title='a right scheme is flat', xscale='log', xmargin=0.15, ylim=(0, 1.1 * right.get_ylim()[1]))
    left.legend(fontsize=8)
    common.write_atomic(path, lambda tmp: figure.savefig(tmp, dpi=110, format='png'))

def plot_smallest(records, path, title):
    """Share of questions right against parameters: training questions of either hop count, two-hop questions held out."""
    axis = (figure := Figure(figsize=(6, 4.2), layout='constrained')).subplots()
    for key, style in zip(('acc_1', *(f'acc_2_{label}' for label in Profiles.labels)), ('C0o-', 'C1s-', 'C1^:', 'C1v:', 'C1d:'), strict=True):
        if line := sorted((r['params'], r[key]) for r in records if key in r and r['hops'] == int(key[4])):
            axis.plot(*zip(*line, strict=True), style, ms=4, label=f'two hops, {key[6:]}' if key[6:] else 'one hop')
    axis.hlines((LEARNED, records[-1]['chance']), *axis.get_xlim(), color='black', linestyle=':', linewidth=1, label=f'{LEARNED}; chance')
    axis.set(xlabel='parameters', ylabel='share right', title=title, xscale='log', ylim=(-0.03, 1.03))
    axis.legend(fontsize=8)
    common.write_atomic(path, lambda tmp: figure.savefig(tmp, dpi=110, format='png'))

def main(argv=None):
    begin, args = time.time(), parse_args(argv)
    two, mode, records = args.hops == 2, 'cot' if args.cot else 'direct', []
    defaults = dict(attributes=20, relations=4, n_head=1, exposures=300) if two else dict(attributes=8, relations=0, n_head=4, exposures=1000)
    vars(args).update({name: value for name, value in defaults.items() if getattr(args, name) is None})
    args.out_dir = args.out_dir or f'out/capacity-{args.hops}' + '-cot' * args.cot + '-smallest' * args.smallest
    try:
        require(two or not (args.cot or args.smallest), 'a chain, or the smallest model, is for questions of two hops: add --hops 2')
        large = max(args.sizes or [1]) > 10**9 or max(args.exposures, args.max_iters) > 10**7 or max(args.n_layer, args.n_head, args.n_loop) > 100
        require(not large, 'at most: --sizes 10^9, --exposures and --steps 10^7, --n_layer, --n_head and --n_loop 100')
        if args.smallest:
            args.people = args.people or [100]
            task = Profiles(args.people[0], args.attributes, args.relations)
            args.sizes = args.sizes or [round(one_hop(task, 0, 0, 'independent') / 2.5)]
            require(len(args.people) == len(args.sizes) == 1, '--smallest takes one number of --people, and one of --sizes to begin with')
        args.sizes, jobs, n = args.sizes or [10000, 20000, 40000], [], 2.0
        for size in args.sizes:
            for _ in range(50):  # the n whose facts are fill * size bits; a relation costs log2 n
                n = max(2.0, args.fill * size / max(1, args.attributes * 7 + args.relations * math.log2(n)))
            jobs += [make_job(args, args.hops, mode, size, people, args.exposures) for people in args.people or [round(n)]]
        jobs = list({job['name']: job for job in jobs}.values())  # sizes that come to the same width are one model
    except ValueError as error:
        common.die(str(error))
    run = common.setup(args)
    args.device, args.dtype, args.processes = run.device.type, 'bfloat16' if run.bf16 else 'float32', run.world
    if run.master:
        common.open_run(args.out_dir, {'script': 'capacity'} | {k: v for k, v in vars(args).items() if k not in ('out_dir', 'resume')}, args.resume)
        common.cut_log(args.out_dir, lambda r: False)  # what is finished is measured again, from its checkpoint
        print(f'{args.max_iters} steps a model, files in {args.out_dir}', flush=True)
    caught = common.catch_signals()
    if run.world > 1:
        dist.init_process_group('gloo', timeout=timedelta(days=7))  # nobody passes before the folder is there; for results alone
        os.environ['RANK'] = '0'  # from here on every process has models, and errors, of its own to tell of
    report = functools.partial(tell, records=records, out_dir=args.out_dir)
    if args.smallest:
        label, relation = task.label(asked := all_questions(task)), asked[:, 1]
        as_many = round(args.exposures * (label == 0).sum() / (relation < 0).sum())  # questions in all, whatever the hops
        found = [find_smallest(args, *arm, run, caught, report) for arm in ((1, 'direct', as_many), (2, mode, args.exposures))]
    else:
        run_jobs(jobs, args, run, caught, report)
    if run.world > 1:
        dist.destroy_process_group()
    if not run.master:
        return
    fits = {} if args.smallest else {scheme: fit(records, scheme) for scheme in records[0]['stored']}
    final = dict(hops=args.hops) | (dict(cot=int(args.cot), n_loop=args.n_loop) if two else {})
    if args.smallest:
        one, best = found if None not in found else common.die(f'no size tried was just enough for {LEARNED}: begin with others, or train longer', code=1)
        final |= dict(people=best['people'], smallest=best['params'], smallest_1=one['params'], ratio=best['params'] / one['params'],
                      best_1=one['stored']['one hop'] / one['params'], **{name: value for name, value in best.items() if name.startswith(('acc', 'chance'))})
    else:
        flat = min(fits, key=lambda s: fits[s]['spread'] or math.inf) if two else 'one hop'
        for scheme, f in sorted(fits.items(), key=lambda item: item[0] == flat):  # the flattest last
            print(f'{scheme}: ' + ', '.join(f'{key} {value:.3f}' for key, value in f.items() if value is not None))
        final |= dict(scheme=flat.replace(' ', '-') if two and f['spread'] else None, **f, best=max(r['stored'][flat] / r['params'] for r in records))
        final |= {f'int{b}': fit([r | {'stored': r[f'int{b}']} for r in records], flat)['slope'] / max(1e-9, fits[flat]['slope']) for b in (8, 4)}
    final |= dict(n_models=len(records), exposures=round(records[-1]['exposures']), steps=args.max_iters, seed=args.seed, seconds=time.time() - begin)
    common.log(args.out_dir, arm='final', **final)
    common.write_atomic(Path(args.out_dir) / 'results.json', lambda tmp: tmp.write_text(json.dumps(dict(final=final, fits=fits, models=records)) + '\n'))
    (plot_smallest if args.smallest else plot)(records, Path(args.out_dir) / 'plot.png', f'{args.hops} hop{"s" * two}{", chain" * args.cot}')
    print(common.final_line(**final))

if __name__ == '__main__':
    main()
