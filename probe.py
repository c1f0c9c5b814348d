"""What does the residual stream know, layer by layer and position by position, and is it used?

A model that answers k hops at once must have the nodes in between somewhere. EleutherAI's transformer-reasoning looked with a probe for each layer and
position, reported cross-entropy alone, and let its (person, relation) pairs stand on both sides of the split, where a probe can learn them by heart. Here:

1. Decodable. The residual stream after l layers (l = 0: the embedding; loops count) at position p, of questions of the checkpoint's largest hop count k. In
   every cell (l, p), for each hop j: a ridge regression of the one-hot node c_j. All cells, hops, folds and penalties are one batched solve (`fit`); the
   penalty is chosen by cross-validation for each cell and hop. Tested where nothing can be learned by heart: on other instances, held out from the model too
   (cycle, cvpr); on other (person, relation) pairs (profiles), and by itself on pairs that the model met as facts, but never in a question of two hops.
2. Controls. chance: the most frequent node. embedding: l = 0. random init: the same probes on the same model, untrained. control: the same probes on a
   random label for each (start, c_j), on pairs of the fit: what they get right is learned by heart, and selectivity is what is above it (Hewitt & Liang
   1909.03368). lens: what the model's own head says in this cell (nostalgebraist 2020). Standard errors: of independent questions; profiles: of pairs.
3. Used? Interchange (Geiger et al. 2106.02997): question A gets the residual of a question B. Where it carries hop j, and is used as such, A's answer becomes
   sigma_A^(k-j)(c_j of B), A's own table from B's node on. flip: how often it does, where that is another answer. Control: a step of the same length in a
   random direction. With a chain the model writes on from the patched cell: a written node's embedding (l = 0) exchanged is the token altered.

Hop j is looked at where it is needed: a direct model's at the last token of the prompt, a chain model's at the token before the one that it writes. The
staircase: the first layer at which it is decodable there, to 0.95, and 0.05 better than untrained. Departures: accuracy, not description length; donors share
the hop count alone; a chain model is given the true chain.

    python train_cot.py --mode direct --hops 1-2 --nodes 14 --n_layer 2 --n_head 2 --n_embd 32 --lr 4e-3 --steps 4000
    python probe.py                                             # that model; --ckpt out/.../ckpt.pt: another, of cycle, cvpr or profiles
    python probe.py --layers 1,2 --positions 14,15 --out_dir out/some  # some cells; those where the hops are needed are always there
    torchrun --standalone --nproc_per_node=2 probe.py --device cuda

The last line:  final ... best_hop1=... first_layer_hop1=... best_hop2=... selectivity=... random_init=... flip=... chance=... cells=... seconds=...
"""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from matplotlib.figure import Figure

import common
from data import OPTIONS, Batch, Lookup, Parser, Profiles, add_run_args, at_least, make_task, require, sample_batch, write_batch
from model import GPT, Pick

DEFAULT = 'out/train_cot-cycle-direct/ckpt.pt'
MAKE = __doc__[__doc__.index('python train_cot'):__doc__.index('\n    python probe.py ')]
PENALTIES, FOLDS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4), 5  # in units of the mean variance of a cell; where several do as well, the first
DECODABLE = 0.95

def places(text):
    return [int(word) for word in text.split(',')]

places.__name__ = 'list of numbers (such as 0,2)'

def parse_args(argv):
    parser = Parser(prog='probe.py', description=__doc__.split('\n')[0], epilog=__doc__[__doc__.index('    python'):__doc__.index('The last')])
    parser.add_argument('--ckpt', help=f'of train_cot.py or capacity.py (default: {DEFAULT})')
    parser.add_argument('--layers', type=places, help='after how many layers, 0 is the embedding; loops count (default: all)')
    parser.add_argument('--positions', type=places, help='which tokens, from 0; those where a hop is needed are added (default: all)')
    parser.add_argument('--n_train', type=at_least(1), default=4000, help='questions that the probes are fitted to (default: %(default)s)')
    parser.add_argument('--n_test', type=at_least(1), default=2000, help='questions that they are tested on (default: %(default)s)')
    parser.add_argument('--n_patch', type=at_least(2), default=500, help='questions whose residuals are interchanged (default: %(default)s)')
    add_run_args(parser, 'out/probe-<task>-<mode>', train=False)
    return parser.parse_args(argv)

# ----------------------------------------------------------------------------- questions

def questions(task, mode, n_train, n_test, seed):
    """Questions of the task's largest hop count k: the first n_train to fit the probes, n_test to test them, and, for profiles, those of pairs that the model
    never met in a question of two hops.

    A namespace: task, k, n_train, n_test, batch; end, the place of the answer; node (N, k) int64, c_1 to c_k; token (N, k), what stands for each in the
    vocabulary; kind (N, k), what the control task gives its labels to; group (N,), questions of one group are not independent; where, the position at
    which each hop is needed. Raises ValueError if the task has no hidden chain.
    """
    k = max(task.hops)
    require(isinstance(task, (Lookup, Profiles)), f'{task.name} has no hidden chain of nodes: name a checkpoint of cycle, cvpr or profiles')
    require(k > 1, 'with one hop there is nothing between question and answer: train with --hops 2, or more')
    if isinstance(task, Lookup):  # split 'test' was held out from the model, and no probe is fitted to any of it
        parts = [vars(sample_batch(task, n, seed, 10**9, split, mode, k)).values() for n, split in ((n_train, 'train'), (n_test, 'test'))]
        batch = Batch(*(x if isinstance(x, int) else torch.cat((x, y)) for x, y in zip(*parts, strict=True)))
        start = batch.tokens[:, batch.prompt_len - 1:batch.prompt_len]
        nodes = [start]
        for _ in range(k):
            nodes.append(batch.instance.gather(1, nodes[-1]))
        node = token = torch.cat(nodes[1:], dim=1)  # (N, k)
        group = batch.instance.unique(dim=0, return_inverse=True)[1]  # few nodes: tables come again
    else:  # a quarter of the (person, relation) pairs is for testing; subjects are attributes, if there are any
        rng, subjects, R = np.random.default_rng([seed, 2]), task.attributes or task.relations, task.relations
        row = rng.permutation(task.people * R * subjects)
        source = np.stack((row // subjects // R, row // subjects % R, row % subjects), axis=1)
        asked, test = np.isin(task.label(source), (0, 3)), (rng.permutation(task.people * R) < task.people * R / 4)[row // subjects]
        parts = source[asked & ~test][:n_train], source[asked & test][:n_test], source[~asked][:n_test]
        (n_train, n_test), source = map(len, parts[:2]), np.concatenate(parts)
        batch = write_batch(task, rng, source, np.full(len(source), 2), mode)
        bridge, answer = task.truth[source[:, 0], task.attributes + source[:, 1]], batch.tokens.gather(1, batch.answer[:, :1])
        node = torch.cat((torch.from_numpy(bridge[:, None]), answer), dim=1)
        token, group = torch.cat((torch.from_numpy(task.names[bridge, :1]), answer), dim=1), torch.from_numpy(source[:, 0] * R + source[:, 1])
        start = torch.from_numpy(source[:, :1])
    end, P = int(batch.answer[0, 0]), batch.prompt_len
    return SimpleNamespace(task=task, k=k, n_train=n_train, n_test=n_test, batch=batch, end=end, node=node, token=token, group=group,
                           kind=start * 10**6 + node, where=[P - 1 + j * (end - P) // (k - 1) for j in range(k)])

def counterfactual(q, ours, theirs, j):
    """The answers (n,) of questions `ours` if their j-th nodes, 1 to k, were those of the questions `theirs`; both (n,) rows of q."""
    x, instance = q.node[theirs, j - 1], q.batch.instance[ours]
    if isinstance(q.task, Lookup):
        for _ in range(q.k - j):
            x = instance.gather(1, x[:, None])[:, 0]
    elif j == 1:
        x = torch.from_numpy(q.task.answers(x.numpy(), instance[:, 2].numpy())[:, 0])
    return x

# ----------------------------------------------------------------------------- the residual stream

def embed(model, idx):  # (B, T) -> (B, T, C)
    x = model.wte(idx)
    return x if model.wpe is None else x + model.wpe.weight[:idx.size(1)]

def angles(model, idx):
    return model.rope[:, :idx.size(1)] if model.config.pos == 'rope' else None

def residuals(model, idx):
    """[x_0, ..., x_L], each (B, T, C): the embedding of idx (B, T), and the residual stream after every application of a block."""
    xs = [embed(model, idx)]
    for i in range(model.config.n_layer * model.config.n_loop):
        xs.append(model.blocks[i % model.config.n_layer](xs[-1], angles(model, idx)))
    return xs

def head(model, x):  # (..., C) -> (..., V): the model's own last norm and head, on any layer
    return F.linear(model.ln_f(x), model.wte.weight)

def collect(model, q, layers, positions, run):
    """The residual stream of all questions in every cell: (layers, positions, N, C) float32, from one forward pass a batch."""
    tokens, N = q.batch.tokens[:, :q.end], len(q.node)
    out = torch.empty(len(layers), len(positions), N, model.config.n_embd, device=run.device)
    for rows in torch.arange(N).split(500):
        with run.autocast:
            xs = residuals(model, tokens[rows].to(run.device))
        for i, l in enumerate(layers):
            out[i, :, rows[0]:rows[-1] + 1] = xs[l][:, positions].transpose(0, 1)
    return out

def write_on(model, q, tokens, xs, layer, position, value):
    """The answers (B,) that the model gives when its residual after `layer` layers at `position` is value (B, C).

    tokens (B, end), xs = residuals(model, tokens). What stands up to the position stays as it is; what comes behind it, at last the
    answer, is the model's own greedy choice.
    """
    depth, at = model.config.n_layer * model.config.n_loop, torch.tensor([position], device=tokens.device)
    idx = tokens[:, :max(position + 1, q.batch.prompt_len)]
    x, first = xs[layer][:, :idx.size(1)].index_copy(1, at, value[:, None]), layer  # below the patch all is as it was
    while True:
        last = Pick(torch.arange(idx.size(1), device=idx.device).expand(idx.shape) == idx.size(1) - 1, causal=True)
        for i in range(first, depth):
            x = x.index_copy(1, at, value[:, None]) if i == layer else x
            x = model.blocks[i % model.config.n_layer](x, angles(model, idx), pick=last if i == depth - 1 else None)
        token = head(model, x.view(len(idx), -1, x.size(-1))[:, -1]).argmax(-1)
        if idx.size(1) == q.end:
            return token
        idx = torch.cat((idx, token[:, None]), dim=1)
        x, first = embed(model, idx), 0

# ----------------------------------------------------------------------------- probes

def fit(x, y, fold, classes, penalties=PENALTIES):
    """Ridge regression of one-hot labels in every cell at once, each target with the penalty that wins its cell's cross-validation.

    x (G, N, C) float: N examples of G cells; y (N, J) int64: J targets, the j-th with classes[j] classes; fold (N,) int64 from 0.
    In each cell minimises |x W + b - onehot(y)|^2 + penalty |W|^2; penalties are in units of trace(X^T X) / C, X the centred x.
    Returns W (G, C, M) and b (G, M), M = sum(classes), the targets side by side, and the penalties (G, J) chosen, as plain numbers.
    One Gram matrix of a cell serves all targets, its eigenvectors all penalties, and those of the folds add up to the whole's.
    """
    order, sizes = fold.argsort(), fold.bincount().tolist()
    shift, y = x.mean(1, keepdim=True), y[order]
    xs = x.index_select(1, order).sub_(shift).split(sizes, dim=1)
    ys = torch.cat([F.one_hot(y[:, j], K) for j, K in enumerate(classes)], dim=1).float().split(sizes)
    wide = torch.float32 if x.device.type == 'mps' else torch.float64  # the smallest penalty shows the digits that float32 loses
    moments = [((d := xf.to(wide)).mT @ d, d.mT @ yf.to(wide), d.sum(1), yf.sum(0), len(yf)) for xf, yf in zip(xs, ys, strict=True)]
    total, tie = [sum(m) for m in zip(*moments, strict=True)], torch.cat([1e-7 * torch.arange(K, device=x.device) for K in classes])

    def diagonal(gram, cross, sum_x, sum_y, n):  # small matrices: on the CPU, which has float64 everywhere
        mean_x, mean_y = sum_x / n, sum_y / n - tie  # where a cell says nothing: of equally frequent classes the first
        w, q = torch.linalg.eigh((gram - sum_x[:, :, None] * mean_x[:, None]).cpu().double())
        return mean_x.float(), mean_y, w.clamp(min=0), q, q.mT @ (cross - mean_x[..., None] * sum_y).cpu().double()

    hits = torch.zeros(len(penalties), len(x), len(classes), device=x.device)
    for f, (xf, yf) in enumerate(zip(xs, y.split(sizes), strict=True)):
        mean_x, mean_y, w, q, cross = diagonal(*(t - m for t, m in zip(total, moments[f], strict=True)))
        q, unit = q.float().to(x.device), w.mean(1, keepdim=True).clamp(min=1e-12)
        z, mean_z = q.mT @ xf.mT, mean_x[:, None] @ q  # (G, C, n), (G, 1, C)
        for r, penalty in enumerate(penalties):
            W = (cross / (w + penalty * unit)[..., None]).float().to(x.device)
            hits[r] += right(torch.baddbmm((mean_y - mean_z @ W).mT, W.mT, z), yf, classes).float().sum(1)
    mean_x, mean_y, w, q, cross = diagonal(*total)
    penalty = torch.tensor(penalties, dtype=torch.float64)[hits.argmax(0).cpu()] * w.mean(1, keepdim=True).clamp(min=1e-12)  # (G, J)
    target = torch.arange(len(classes)).repeat_interleave(torch.tensor(classes))  # (M,) whose column
    W = (q @ (cross / (w[..., None] + penalty[:, None, target]))).float().to(x.device)
    return W, mean_y - ((shift + mean_x[:, None]) @ W)[:, 0], penalty

def right(scores, y, classes):
    """scores (G, M, n), y (n, J) -> (G, n, J) bool: has the label of the j-th target the largest score of its classes? A tie is wrong."""
    hits = []
    for j, s in enumerate(scores.split(classes, dim=1)):  # classes before examples: maxima over the last dimension are several times as slow
        label = y[:, j].expand(len(s), 1, -1)
        hits.append(s.gather(1, label)[:, 0] > s.scatter(1, label, -torch.inf).amax(1))
    return torch.stack(hits, dim=-1)

def standard_error(hit, group):
    """Of the mean over questions of hit (G, n, J), where only questions of different groups (n,) are independent: (G, J)."""
    names, index = group.unique(return_inverse=True)
    sums = torch.zeros(len(hit), len(names), hit.size(2), device=hit.device).index_add(1, index.to(hit.device), hit - hit.mean(1, keepdim=True))
    return sums.square().sum(1).sqrt() / hit.size(1)

def targets(q, seed):
    """y (N, 2k): classes of c_1 .. c_k, then of the control task, a random class for each kind; how many classes (2k,); chance (k,) of the nodes."""
    g, columns, chance, test = torch.Generator().manual_seed(seed), [], [], slice(q.n_train, q.n_train + q.n_test)
    for j in range(q.k):
        names, label = q.node[:, j].unique(return_inverse=True)
        n, rows, tested = len(names), q.n_train, len(q.group[test].unique())
        fitted = len(torch.stack((q.group, label))[:, :rows].unique(dim=1)[0])
        require(rows >= 5 * n and fitted >= 2 * n and tested >= 10,
                f'too few questions for the {n} classes of hop {j + 1}: {rows:,} to fit (at least {5 * n}), {fitted:,} of them different ({2 * n}), {tested:,} '
                'independent ones to test (10); '
                + ('give more --n_train, --n_test or train on more nodes' if isinstance(q.task, Lookup) else 'train on more people or relations'))
        columns.append(label)
        chance.append((label[test] == label[:rows].bincount().argmax()).float().mean().item())  # always the one most frequent in training
        chance[-1] = max(chance[-1], q.task.chance(j + 1)) if q.task.name == 'cycle' else chance[-1]  # a cycle does not come back to the start
    classes = [int(c.max()) + 1 for c in columns] * 2
    for j in range(q.k):  # labels as frequent as the nodes themselves
        kinds, index = q.kind[:, j].unique(return_inverse=True)
        columns.append(columns[j][torch.randint(q.n_train, (len(kinds),), generator=g)][index])
    return torch.stack(columns, dim=1), classes, chance

def probe(model, q, layers, positions, run, seed):
    """In every cell, each (layers, positions, k) on the CPU: acc, se, its standard error, control (where its kind was fitted), lens, and, for
    profiles, unasked, accuracy on the pairs never asked in two hops."""
    x = collect(model, q, layers, positions, run)
    y, classes, _ = targets(q, seed)
    group = q.group[:q.n_train].unique(return_inverse=True)[1]
    fold = (torch.randperm(int(group.max()) + 1, generator=torch.Generator().manual_seed(seed))[group] % FOLDS).to(run.device)
    y, token, fitted, n, parts = y.to(run.device), q.token[q.n_train:].to(run.device), q.n_train, q.n_test, []
    seen = torch.stack([torch.isin(kind[fitted:fitted + n], kind[:fitted]) for kind in q.kind.T], dim=1).float().to(run.device)  # (n, k)
    for cells in x.flatten(0, 1).split(max(1, 2**27 // (len(y) * max(x.size(-1), sum(classes))))):  # half a GiB at a time
        W, b, _ = fit(cells[:, :fitted], y[:fitted], fold, classes)
        hit = right(torch.baddbmm(b[..., None], W.mT, cells[:, fitted:].mT), y[fitted:], classes).float()
        lens = (head(model, cells[:, fitted:fitted + n]).argmax(-1)[..., None] == token[:n]).float()
        se, control = standard_error(hit[:, :n, :q.k], q.group[fitted:fitted + n]), (hit[:, :n, q.k:] * seen).sum(1) / seen.sum(0).clamp(min=1)
        parts.append((hit[:, :n, :q.k].mean(1), se, control, lens.mean(1), hit[:, n:, :q.k].mean(1)))
    grids = (torch.cat(p).cpu().unflatten(0, x.shape[:2]) for p in zip(*parts, strict=True))
    return dict(zip(('acc', 'se', 'control', 'lens', 'unasked')[:4 + isinstance(q.task, Profiles)], grids, strict=False))

def interchange(model, q, layers, positions, n, run, seed):
    """How often the answer becomes the counterfactual one, for every cell and hop, (layers, positions, k): flip, with the residual of another
    question; random, after a step of the same length in a random direction. Among n test questions, where the model says something else by itself."""
    ours = torch.arange(q.n_train, q.n_train + min(n, q.n_test))
    theirs, tokens, g = ours.roll(1), q.batch.tokens[ours, :q.end].to(run.device), torch.Generator()
    wanted = torch.stack([counterfactual(q, ours, theirs, j) for j in range(1, q.k + 1)], dim=1)  # (n, k)
    flip, random = torch.zeros(2, len(layers), len(positions), q.k)
    with run.autocast:
        xs = residuals(model, tokens)
        differ = (wanted != head(model, xs[-1][:, -1:]).argmax(-1).cpu()) & (q.node[ours] != q.node[theirs])
        for i, layer in enumerate(layers):
            for j, position in enumerate(positions):
                x = xs[layer][:, position]
                g.manual_seed((seed + 10**6 * layer + 10**3 * position) % 2**63)  # whatever cells there are besides
                step = torch.randn(x.shape, generator=g).to(x)
                step *= (x.roll(1, 0) - x).norm(dim=1, keepdim=True) / step.norm(dim=1, keepdim=True)
                for out, value in ((flip, x.roll(1, 0)), (random, x + step)):
                    answer = write_on(model, q, tokens, xs, layer, position, value).cpu()
                    out[i, j] = ((answer[:, None] == wanted) & differ).sum(0) / differ.sum(0).clamp(min=1)
    return dict(flip=flip, random=random)

# ----------------------------------------------------------------------------- the result

def plot(hops, layers, words, path, title):
    """For up to five hops: accuracy of the probes and flips, layer x position, and what is found where the hop is needed, by layer."""
    shown = [hops[i] for i in sorted({round(i) for i in np.linspace(0, len(hops) - 1, min(5, len(hops)))})]
    width = min(9, 1.5 + 0.28 * len(words))
    axes = (figure := Figure(figsize=(2 * width + 5, 1 + 2.5 * len(shown)), layout='constrained')).subplots(
        len(shown), 3, squeeze=False, width_ratios=(width, width, 4))
    for (left, middle, right), h in zip(axes, shown, strict=True):
        at = h['positions'].index(h['position'])
        for axis, key, name in ((left, 'acc', 'probe'), (middle, 'flip', 'flip')):
            image = axis.imshow(h[key], vmin=0, vmax=1, aspect='auto', origin='lower', cmap='viridis')
            axis.plot(at, len(layers) - 0.62, 'v', color='black', ms=6, clip_on=False)
            axis.set(title=f'hop {h["hop"]}: {name}', ylabel='layer', yticks=range(len(layers)), yticklabels=layers)
            axis.set_xticks(range(len(words)), words, fontsize=7) if len(words) <= 40 else axis.set_xlabel('position')
            for i, row in enumerate(h[key] if len(words) <= 20 else ()):
                for j, value in enumerate(row):
                    axis.text(j, i, f'{value:.2f}'.lstrip('0'), ha='center', va='center', fontsize=6, color='white' if value < 0.6 else 'black')
        for key, style, name in (('acc', 'C0o-', 'probe'), ('lens', 'C2s--', 'logit lens'), ('control', 'C1^--', 'control'),
                                 ('random_init', 'kx:', 'random init'), ('flip', 'C3d-', 'flip'), ('random', 'C3.:', 'random direction')):
            right.plot(layers, [row[at] for row in h[key]], style, ms=4, lw=1.2, label=name)
        right.axhline(h['chance'], color='0.6', lw=0.8, label='chance')
        first = 'not decodable' if h['first_layer'] == 'none' else f'decodable from layer {h["first_layer"]}'
        right.set(title=f'hop {h["hop"]} at \u25bc: {first}', ylim=(-0.03, 1.03), xticks=layers, xlabel='layer', ylabel='share of questions')
    figure.legend(*right.get_legend_handles_labels(), loc='outside lower right', ncols=7, fontsize=8)
    figure.colorbar(image, ax=axes[:, :2], location='bottom', shrink=0.3, aspect=40, label='share of questions; below the panels, the tokens of one of them')
    figure.suptitle(title)
    common.write_atomic(path, lambda tmp: figure.savefig(tmp, dpi=110, format='png'))

@torch.no_grad()
def main(argv=None):
    begin, args = time.time(), parse_args(argv)
    if args.ckpt is None and not Path(DEFAULT).exists():
        common.die(f'there is no checkpoint {DEFAULT} yet; this makes it: {MAKE}')
    args.ckpt = args.ckpt or DEFAULT
    run = common.setup(args)
    torch.set_float32_matmul_precision('highest')  # TF32 would move the probes' weights
    model, state = common.load_checkpoint(args.ckpt, run.device)
    mode = state['args'].get('arm', 'cot')
    try:
        require(max(args.n_train, args.n_test, args.n_patch) <= 10**6, 'at most a million questions')
        task = make_task(type(args)(**{name: None for names in OPTIONS.values() for name in names} | state['args']))
        require(len(task.vocab) == model.config.vocab_size and task.block_size <= model.config.block_size, f'{args.ckpt} is of another version of {task.name}')
        q, depth = questions(task, mode, args.n_train, args.n_test, args.seed), model.config.n_layer * model.config.n_loop
        chance = targets(q, args.seed)[2]
        layers, positions = sorted(set(args.layers or range(depth + 1))), sorted({*(args.positions or range(q.end)), *q.where})
        require(0 <= layers[0] and layers[-1] <= depth, f'--layers are 0, the embedding, to {depth} here')
        require(0 <= positions[0] and positions[-1] < q.end, f'--positions are 0 to {q.end - 1} here')
        size = len(layers) * len(positions) * len(q.node) * model.config.n_embd * 4 / run.world / 2**30
        require(size < 8, f'the residual stream of all these cells takes {size:.0f} GiB: give fewer --positions, --layers or --n_train')
    except (AttributeError, KeyError, TypeError):
        common.die(f'{args.ckpt} is of no task known here')
    except ValueError as error:
        common.die(str(error))
    args.out_dir = args.out_dir or f'out/probe-{task.name}-{mode}'
    args.device, args.dtype, args.processes = run.device.type, 'bfloat16' if run.bf16 else 'float32', run.world
    if run.master:
        common.open_run(args.out_dir, {'script': 'probe', **{k: v for k, v in vars(args).items() if k != 'out_dir'}}, False, params=model.num_params())
    common.catch_signals(exit_now=True)
    torch.manual_seed(args.seed)
    fresh, mine = GPT(model.config).to(run.device), positions[run.rank::run.world]
    grids = probe(model.eval(), q, layers, mine, run, args.seed)
    grids |= {'random_init': probe(fresh.eval(), q, layers, mine, run, args.seed)['acc']}
    grids |= interchange(model, q, layers, mine, args.n_patch, run, args.seed)
    if run.world > 1:  # every process has every world-th position
        dist.init_process_group('gloo')
        dist.all_gather_object(shares := [None] * run.world, grids)
        dist.destroy_process_group()
        grids = {key: torch.stack([shares[i % run.world][key][:, i // run.world] for i in range(len(positions))], dim=1) for key in grids}
    if not run.master:
        return

    acc = grids['lens'][-1, positions.index(q.end - 1), -1].item() if layers[-1] == depth else None  # the model's own
    hops, example = [], task.decode(q.batch.tokens[q.n_train, :q.end].tolist()).split()
    print(f'{task.name}, {q.k} hops, {mode}: {len(layers)} x {len(positions)} cells, {q.n_train:,} questions to fit, {q.n_test:,} to test'
          + (f'; the model answers {acc:.3f} of these' if acc is not None else '') + f'. One of them:\n  {" ".join(example)}')
    for j, position in enumerate(q.where):
        h = {key: value[..., j].double().round(decimals=4).tolist() for key, value in grids.items()}
        column = {key: [row[positions.index(position)] for row in rows] for key, rows in h.items()}  # by layer, where the hop is needed
        found, unasked = column['acc'], column.pop('unasked', None)
        best = max(range(len(found)), key=found.__getitem__)
        first = next((i for i, (a, untrained) in enumerate(zip(found, column['random_init'], strict=True)) if a >= max(DECODABLE, untrained + 0.05)), None)
        print(f'hop {j + 1} at position {position} ({example[position]}), chance {chance[j]:.3f}\n'
              '  layer  probe          control  selectivity  random init  logit lens  flip   random direction')
        for layer, a, se, control, lens, untrained, flip, random in zip(layers, *column.values(), strict=True):
            print(f'  {layer:5}  {a:.3f} +- {se:.3f} {control:7.3f} {a - control:12.3f} {untrained:12.3f} {lens:11.3f} {flip:6.3f} {random:11.3f}')
        cell, h = best if first is None else first, h | dict(best=found[best], first_layer='none' if first is None else layers[first])
        h |= dict(selectivity=found[best] - column['control'][best], untrained=max(column['random_init']), embedding=None if layers[0] else found[0])
        h |= dict(flip_first=column['flip'][cell], random_first=column['random'][cell]) | (dict(unasked_best=unasked[best]) if unasked else {})
        hops.append(dict(hop=j + 1, position=position, chance=chance[j], layers=layers, positions=positions, **h))
        common.log(args.out_dir, arm='hop', **hops[-1])
    one = hops[0]
    final = dict(task=task.name, hops=q.k, mode=mode, n_layer=model.config.n_layer, n_loop=model.config.n_loop)
    final |= {f'best_hop{h["hop"]}': h['best'] for h in hops} | {f'first_layer_hop{h["hop"]}': h['first_layer'] for h in hops}
    final |= dict(selectivity=min(h['selectivity'] for h in hops), random_init=max(h['untrained'] for h in hops),
                  embedding=None if layers[0] else max(h['embedding'] for h in hops), flip=one['flip_first'], flip_random=one['random_first'])
    if mode == 'cot' and isinstance(task, Lookup) and layers[0] == 0:
        final |= dict(flip_token=one['flip'][0][positions.index(q.batch.prompt_len)])  # the first written node altered
    final |= dict(unasked=one.get('unasked_best'))
    final |= dict(acc=acc, chance=max(chance), n_test=q.n_test, cells=len(layers) * len(positions) * q.k, model_seed=state['args'].get('seed'), seed=args.seed,
                  seconds=time.time() - begin)
    common.log(args.out_dir, arm='final', **final)
    common.write_atomic(Path(args.out_dir) / 'results.json', lambda tmp: tmp.write_text(json.dumps(dict(final=final, hops=hops)) + '\n'))
    plot(hops, layers, [example[p] for p in positions], Path(args.out_dir) / 'plot.png', f'{task.name}, {mode}, {q.k} hops')
    print(common.final_line(**final))

if __name__ == '__main__':
    main()
