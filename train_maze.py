"""Does it matter where the loss is? The same tiny transformer, the same mazes, the same number of steps.

A maze, an origin and a target are followed by a shortest path. The maze itself is noise: a random tree in random order has 55 nats
on a 4x4 grid (Wilson, adjlist) that no model can predict; the path, given the maze, has none. Where should the loss be?
1. path: on the path alone, from the origin to <PATH_END>. The model skips all that carries no loss: the cheapest.
2. full: on every token, as language models are trained, and as maze-transformer does (its issue "Backpropagate on the predicted
   shortest path rather than the entire input sequence"). balanced: maze and path averaged by themselves, then added: is it the
   maze's noise that hurts, or is the path only outnumbered?
3. mlmu (Nolte et al. 2024, 2412.05117): keep each path token with probability r ~ U(0, 1), predict the others, each by itself, from
   the maze and what was kept; nobody looks at a masked token, and positions behind the path do not exist: its length does not leak.
   At test time left to right, the likeliest token each time, as in the paper.
4. graded: L = -log sum_u p(u) w(u), w = 1 for every step that is on a shortest path, e^(-2 beta) for other legal ones (each costs two
   steps), 0 for the rest. Not from a paper. Its gradient p(u) (1 - w(u) / W), W = sum_u p(u) w(u), asks for legality first. On trees
   beta -> inf is `path`; where several paths are shortest it asks for none of them in particular.
Exact paths mean little by themselves: of a random legal walk that never turns back 0.42 are exact on 4x4, of the greedy one, the open
neighbour nearest the target, 0.66. Both stand beside every number.
Departures: the paper's MLM-U has an encoder and a decoder of cross-attention; here masked positions are queries in every layer of one stack.

    python train_maze.py                                                                  # 4x4, about five minutes on two cores
    python train_maze.py --format adjlist --loss full --grid 4 --test_grid 3 --n_layer 2 --steps 500   # what does it do on another size?
    python train_maze.py --grid 5 --format adjlist --n_layer 12 --n_head 4 --n_embd 256 --pos rope --batch_size 1024 --lr 1e-3 --steps 25000 --device cuda
    torchrun --standalone --nproc_per_node=2 train_maze.py --loss mlmu

The last line:  final loss=path grid=4 gen=dfs format=grid exact=0.9xx shortest=... fork=... greedy=0.6xx random=0.4xx ... adjacency=0.000 ...
"""

import contextlib
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch.nn.parallel import DistributedDataParallel as DDP
from tqdm import tqdm

import common
from data import OPTIONS, Maze, Parser, add_maze_args, add_run_args, at_least, parse_hops, sample_batch, show_range
from model import GPT, GPTConfig

LOSSES = ('path', 'full', 'balanced', 'mlmu', 'graded')

def parse_args(argv):
    """The arguments, and the names of those that were typed."""
    parser = Parser(prog='train_maze.py', description=__doc__.split('\n')[0], epilog=__doc__[__doc__.index('    python'):__doc__.index('The last')])
    g = parser.add_argument_group('mazes')
    add_maze_args(g.add_argument)
    g.add_argument('--format', choices=('grid', 'adjlist'), default='grid', help='a token for the open sides of each cell, or a list of passages (default: %(default)s)')
    g.add_argument('--test_grid', type=parse_hops, help='other sizes to test on, as --grid (default: none)')
    g = parser.add_argument_group('model')
    for name, value in (('n_layer', 4), ('n_head', 4), ('n_embd', 64)):
        g.add_argument(f'--{name}', type=at_least(1), default=value, help='(default: %(default)s)')
    g.add_argument('--n_loop', type=at_least(1), default=1, help='times the stack of layers is applied, with shared weights (default: %(default)s)')
    g.add_argument('--pos', choices=('learned', 'rope', 'none'), default='learned', help='position embedding (default: %(default)s)')
    g = parser.add_argument_group('training')
    g.add_argument('--loss', choices=LOSSES, default='path', help='where the loss is (default: %(default)s)')
    g.add_argument('--beta', type=at_least(0, float), default=1.0, help='graded: a legal step off the shortest path costs 2 beta (default: %(default)s)')
    g.add_argument('--batch_size', type=at_least(1), default=128, help='mazes a step and process (default: %(default)s)')
    g.add_argument('--max_iters', '--steps', type=at_least(1), default=4000, help='optimizer steps (default: %(default)s)')
    g.add_argument('--learning_rate', '--lr', type=at_least(0, float, above=True), default=3e-3, help='(default: %(default)s)')
    g.add_argument('--warmup_iters', type=at_least(0), help='steps of linear warm-up, then a cosine to zero (default: 100, at most a third of max_iters)')
    g.add_argument('--weight_decay', type=at_least(0, float), default=0.01, help='AdamW, matrices only (default: %(default)s)')
    g.add_argument('--grad_clip', type=at_least(0, float, above=True), default=1.0, help='largest gradient norm (default: %(default)s)')
    g = parser.add_argument_group('evaluation')
    g.add_argument('--eval_interval', type=at_least(1), help='steps between evaluations and checkpoints (default: a tenth of max_iters)')
    g.add_argument('--log_interval', type=at_least(1), default=10, help='steps between loss records (default: %(default)s)')
    g.add_argument('--n_test', type=at_least(1), default=1000, help='held-out mazes a size at the end; a quarter of it on the way (default: %(default)s)')
    add_run_args(parser, 'out/train_maze-<gen>-<loss>')
    return common.parse_typed(parser, argv)

def fill_in(args):
    """Give what was left out its value; die on what makes no sense together. Returns the task, the model's shape."""
    args.eval_interval = args.eval_interval or max(1, args.max_iters // 10)
    args.warmup_iters = min(100, args.max_iters // 3) if args.warmup_iters is None else args.warmup_iters
    try:
        given = {name: value for name in OPTIONS['maze'] if (value := getattr(args, name)) is not None}
        task = Maze(**given | {'grid': sorted({*(args.grid or [4]), *(args.test_grid or [])})})  # room and words for all sizes
        vars(args).update({name: getattr(task, name) for name in OPTIONS['maze'] if name != 'grid'}, grid=args.grid or [4])
        args.out_dir = f'out/train_maze-{args.gen}-{args.loss}' if args.out_dir is None else args.out_dir
        gpt = GPTConfig(len(task.vocab), task.block_size, args.n_layer, args.n_head, args.n_embd, args.n_loop, causal=args.loss != 'mlmu', pos=args.pos)
        for n in task.grid:  # are there mazes to hold out?
            sample_batch(task, 1, args.seed, 0, 'test', hops=n)
    except ValueError as error:
        common.die(str(error))
    return task, gpt

# ----------------------------------------------------------------------------- the losses

def weigh(loss, batch, pad, seed, step):
    """(B, T) the weight of every token as a target: all that tells the losses apart, but for graded's last step.
    The weights of a batch add up to one, so that the loss is a mean (balanced: to one for the path and one for the maze)."""
    path, maze = batch.loss_mask.float(), ((batch.tokens != pad) & ~batch.loss_mask).float()
    maze[:, 0] = 0  # nothing stands before the first token
    if loss == 'full':
        return (path + maze) / (path + maze).sum()
    if loss == 'balanced':
        return path / path.sum() + maze / maze.sum()
    if loss == 'mlmu':
        rng = np.random.default_rng([seed, 2, step])  # 0 and 1 are the splits of the mazes
        keep = rng.random((len(path), 1)) > rng.random(path.shape)  # with probability r, another for each maze
        path[torch.from_numpy(keep)] = 0
    return path / path.sum().clamp(min=1)

def predict(model, tokens, weight, pad):
    """Logits (N, V) for every token of weight > 0, row by row, and these tokens (N,). model: a GPT, or one wrapped in DDP."""
    carries = weight > 0
    if getattr(model, 'module', model).config.causal:
        return model(tokens[:, :-1], carries[:, 1:]), tokens[carries]
    visible = (tokens != pad) & ~carries  # mlmu: a masked token is a position with nothing in it, which nobody may look at
    return model(tokens.masked_fill(~visible, pad), carries, visible=visible), tokens[carries]

def grade(task, batch, beta):
    """log w(u) (N, V) for every token u as the next one at each path position, N in reading order."""
    row, place = batch.loss_mask.nonzero(as_tuple=True)
    before, token = batch.tokens[row, place - 1], batch.tokens[row, place]
    beside, ways, nearer = (x[:, 0] for x in task.around(batch.instance[row], before[:, None]))  # (N, 4)
    log_w = torch.full((len(row), len(task.vocab)), -math.inf, device=token.device)
    log_w.scatter_(1, beside, torch.where(ways, torch.where(nearer, 0.0, -2 * beta), -math.inf))
    log_w[before == task.begin, token[before == task.begin]] = 0  # first the origin
    log_w[token == task.end, task.end] = 0
    return log_w

def loss_of(args, task, model, batch, weight):
    """The weighted sum of the losses of all tokens of this batch."""
    logits, token = predict(model, batch.tokens, weight, task.pad)
    logp = logits.float().log_softmax(1)  # (N, V)
    if args.loss == 'graded':
        each = -(logp + grade(task, batch, args.beta)).logsumexp(1)
    else:
        each = F.nll_loss(logp, token, reduction='none')
    return (each * weight[weight > 0]).sum()

# ----------------------------------------------------------------------------- evaluation

@torch.no_grad()
def write_paths(model, task, batch):
    """The model's own paths (B, N + 1), greedily, left to right; <PATH_END> from where it first stands."""
    paths = batch.tokens.new_zeros(len(batch.tokens), task.answer_len)
    for start in batch.start.unique().tolist():  # rows of one length at a time
        rows = batch.start == start
        if model.config.causal:
            paths[rows] = model.generate(batch.tokens[rows, :start], task.answer_len)[:, start:]
            continue
        tokens = F.pad(batch.tokens[rows, :start], (0, task.answer_len), value=task.pad)
        for t in range(start, tokens.size(1)):
            last = torch.arange(t + 1, device=tokens.device).expand(len(tokens), -1) == t
            tokens[:, t] = model(tokens[:, :t + 1], last, visible=~last).argmax(1)
        paths[rows] = tokens[:, start:]
    return torch.where((paths == task.end).cumsum(1) > 0, task.end, paths)

def walk(task, batch, greedy, rng):
    """A baseline's paths (B, N + 1): of the open neighbours but the one it came from a random one, or, greedy, the nearest to the target (Manhattan).
    It stops at the target, or where there is no such neighbour."""
    cell, row = batch.tokens.gather(1, batch.start[:, None]), torch.arange(len(batch.tokens), device=batch.tokens.device)
    paths, came, place = [cell], torch.full_like(cell, -1), torch.from_numpy(task.cells).to(cell.device)
    goal = place[(batch.instance[:, 1] == 0).int().argmax(1)]  # (B, 2)
    for _ in range(task.symbols):
        beside, ways, _ = (x[:, 0] for x in task.around(batch.instance, cell))  # (B, 4)
        ways = ways & (beside != came)
        far = (place[beside] - goal[:, None]).abs().sum(2) * greedy + torch.from_numpy(rng.random(beside.shape)).to(cell.device)
        best = torch.where(ways, far, math.inf).argmin(1)
        stop = ~ways.any(1) | (batch.instance[:, 1].gather(1, cell.clamp(max=task.symbols))[:, 0] == 0)
        came, cell = cell, torch.where(stop, task.end, beside[row, best])[:, None]
        paths.append(cell)
    return torch.cat(paths, 1)

def judge(task, batch, paths):
    """What is right about paths (B, L), each ended by <PATH_END>s if at all. A dict of (B,) tensors:
    exact: the batch's own path. shortest: one of the shortest. ends: writes <PATH_END>. reach: the last cell before it is the target. origin: begins there.
    legal, steps: how many steps lead through open ways, out of how many. right, forks: of the cells with more than one way on, met while still on a
    shortest path, how many were left by a right one. valid: a legal path from origin to target, which then has `regret` steps too many."""
    L, (bits, far) = paths.size(1), batch.instance.unbind(1)
    here = (paths == task.end).int()
    length = torch.where(here.any(1), here.argmax(1), L)  # tokens before <PATH_END>
    beside, ways, nearer = task.around(batch.instance, paths[:, :-1])  # (B, L - 1, 4)
    step = ways & (beside == paths[:, 1:, None])
    legal, better = step.any(2), (step & nearer).any(2)
    taken = torch.arange(L - 1, device=paths.device) < length[:, None] - 1
    origin = paths[:, 0] == batch.tokens.gather(1, batch.start[:, None])[:, 0]
    gap = far.gather(1, paths.clamp(max=task.symbols))  # (B, L) steps from each token to the target, -1 for no cell
    reach = (gap.gather(1, (length - 1).clamp(min=0)[:, None])[:, 0] == 0) & (length > 0)
    valid = origin & (legal | ~taken).all(1) & reach & here.any(1)
    track = origin[:, None] & torch.cat((torch.ones_like(better[:, :1]), better[:, :-1]), 1).cumprod(1).bool()  # on a shortest path up to here
    fork = track & (gap[:, :-1] > 0) & (ways.sum(2) > torch.where(torch.arange(L - 1, device=paths.device) == 0, 1, 2))
    regret = torch.where(valid, length - 1 - far.gather(1, paths[:, :1].clamp(max=task.symbols))[:, 0], 0)
    own = batch.tokens.gather(1, (batch.start[:, None] + torch.arange(L, device=paths.device)).clamp(max=batch.tokens.size(1) - 1))
    asked = torch.arange(L, device=paths.device) < batch.loss_mask.sum(1, keepdim=True)
    return dict(exact=((paths == own) | ~asked).all(1), shortest=valid & (regret == 0), valid=valid, reach=reach, ends=here.any(1), origin=origin, regret=regret,
                legal=(legal & taken).sum(1), steps=taken.sum(1), right=(fork & better).sum(1), forks=fork.sum(1))

@torch.no_grad()
def read_along(model, task, batch):
    """With the true tokens before it, what does a causal model say of each? A dict of (B,) tensors: path_nats, maze_nats: summed losses of the
    path's tokens, and of those of the maze, origin and target. adjacency, adjacency_first: path positions, and first ones, whose likeliest token never
    stands in a path: hallucinated adjacency tokens in the words of maze-transformer, <-->, ; and the like."""
    logits, token = predict(model, batch.tokens, weigh('full', batch, task.pad, 0, 0), task.pad)
    nats, guess = torch.zeros_like(batch.tokens, dtype=torch.float), torch.zeros_like(batch.tokens)
    wanted = (batch.tokens != task.pad) & (torch.arange(nats.size(1), device=token.device) > 0)
    nats[wanted], guess[wanted] = F.cross_entropy(logits.float(), token, reduction='none'), logits.argmax(1)
    adjacency = batch.loss_mask & (guess >= task.symbols) & (guess != task.end)
    return dict(path_nats=(nats * batch.loss_mask).sum(1), maze_nats=(nats * ~batch.loss_mask).sum(1), tokens=batch.loss_mask.sum(1),
                adjacency=adjacency.sum(1), adjacency_first=adjacency.gather(1, batch.start[:, None])[:, 0])

def evaluate(model, task, run, seed, n_test, size):
    """n_test held-out mazes of one size: {'model', 'greedy', 'random': a dict of rates each}, by path length, and some mazes with their paths."""
    model.eval()
    rows = {'model': [], 'greedy': [], 'random': []}
    for first in range(0, n_test, 500):
        batch = sample_batch(task, min(500, n_test - first), seed, size * 10**6 + first, 'test', hops=size).to(run.device)
        rng = np.random.default_rng([seed, 3, first])
        with run.autocast:
            paths = write_paths(model, task, batch)
            more = read_along(model, task, batch) if model.config.causal else {}
        rows['model'].append({'length': batch.loss_mask.sum(1) - 2, **judge(task, batch, paths), **more})
        for name in ('greedy', 'random'):
            rows[name].append(judge(task, batch, walk(task, batch, name == 'greedy', rng)))
    rows = {name: {key: torch.cat([r[key] for r in parts]).double().cpu() for key in parts[0]} for name, parts in rows.items()}
    results = {}
    for name, r in rows.items():
        mean = {key: r[key].mean().item() for key in ('exact', 'shortest', 'valid', 'reach', 'ends', 'origin')}
        for key, count, of in (('legal', 'legal', 'steps'), ('fork', 'right', 'forks'), ('regret', 'regret', 'valid'), ('adjacency', 'adjacency', 'tokens'),
                               ('path_loss', 'path_nats', 'tokens')):
            if count in r:
                mean[key] = (r[count].sum() / r[of].sum().clamp(min=1)).item()
        mean |= {key: r[key].mean().item() for key in ('maze_nats', 'adjacency_first') if key in r}
        results[name] = mean
    length = rows['model']['length']
    edges = sorted({int(x) for x in length.quantile(torch.tensor([0, 0.25, 0.5, 0.75], dtype=torch.double))}) + [int(length.max()) + 1]
    results['by_length'] = [dict(steps=[a, b - 1], n=int((here := (length >= a) & (length < b)).sum()), **{name: r['exact'][here].mean().item() for name, r in rows.items()})
                            for a, b in zip(edges, edges[1:], strict=False)]
    return results, (batch, paths)

def tell(results):
    """One line of text from evaluate's results, with both baselines beside the accuracy."""
    m = results['model']
    return ' '.join(f'{key} {m[key]:.3f}' for key in ('exact', 'shortest', 'legal', 'fork')) + ''.join(f' {b} {results[b]["exact"]:.3f}' for b in ('greedy', 'random'))

# ----------------------------------------------------------------------------- training

def get_lr(step, args):
    """Linear warm-up, then a cosine to zero."""
    if step < args.warmup_iters:
        return args.learning_rate * (step + 1) / (args.warmup_iters + 1)
    return args.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - args.warmup_iters) / max(1, args.max_iters - args.warmup_iters)))

def train(path, found, args, kept, task, gpt, run, caught):
    """From scratch or from what was found in the checkpoint at path. Returns the trained model."""
    torch.manual_seed(args.seed)
    model, state = found or (GPT(gpt).to(run.device), {'step': 0})
    optimizer, step = model.configure_optimizer(args.learning_rate, args.weight_decay), state['step']
    if found:
        optimizer.load_state_dict(state['optimizer'])
    if args.resume and run.master:  # drop what was logged after the checkpoint
        common.cut_log(args.out_dir, lambda r: r['arm'] != 'final' and 0 < step >= r['step'])
    ddp = DDP(model, device_ids=[run.device] if run.device.type == 'cuda' else None) if run.world > 1 else model
    bar = tqdm(total=args.max_iters, initial=step, desc=args.loss, disable=not (run.master and sys.stderr.isatty()), leave=False)

    def look():  # evaluate, print, log
        results = {n: evaluate(model, task, run, args.seed, max(1, args.n_test // 4), n)[0] for n in args.grid}
        bar.write(f'{args.loss} step {step}: ' + '   '.join(f'{n}x{n} {tell(r)}' for n, r in results.items()))
        common.log(args.out_dir, arm=args.loss, step=step, eval={n: r['model'] for n, r in results.items()})

    if run.master and step == 0:
        look()
    while step < args.max_iters:
        for group in optimizer.param_groups:
            group['lr'] = lr = get_lr(step, args)
        model.train()
        # the global batch is a function of (seed, step); this process works on its slice of it
        batch = sample_batch(task, args.batch_size * run.world, args.seed, step, hops=args.grid)
        mine = slice(run.rank * args.batch_size, (run.rank + 1) * args.batch_size)
        weight = weigh(args.loss, batch, task.pad, args.seed, step)[mine].to(run.device)
        with run.autocast:
            loss = loss_of(args, task, ddp, batch[mine].to(run.device), weight)
        (loss * run.world).backward()  # DDP averages over processes
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        bar.update()
        report, check = step % args.log_interval == 0, step % args.eval_interval == 0 or step == args.max_iters
        if not (report or check or (caught and run.world == 1)):
            continue
        loss, stop = common.sum_over_processes(run, float(loss.detach()), max(caught, default=0))
        if not all(torch.as_tensor(x).isfinite().all() for x in (loss, norm, *(model.parameters() if check or stop else ()))):
            common.die(f'diverged: loss {loss}, gradient norm {float(norm)}, or weights beyond all bounds at step {step}; {path} holds the '
                       'last good ones, if any were saved. Try a smaller --learning_rate', code=1)
        if run.master:
            bar.set_postfix(loss=f'{loss:.4f}', refresh=False)
            if report or check:
                common.log(args.out_dir, arm=args.loss, step=step, loss=loss, lr=lr, grad_norm=float(norm))
            if check:
                look()
            stop = stop or (run.world == 1 and max(caught, default=0))  # it may have come during the evaluation
            if check or stop:
                common.save_checkpoint(path, model, optimizer, step, kept)
        if stop:
            bar.close()
            common.die(f'stopped by a signal at step {step}, saved in {path}; --resume goes on from there', code=128 + max(caught, default=15))
    bar.close()
    return model

# ----------------------------------------------------------------------------- the figure, and everything in order

def draw_maze(ax, task, n, instance, tokens, path):
    """Walls, the true path (wide, grey) and the model's (blue, or red if it is not a shortest one)."""
    ways, cells = instance[0], task.cells
    for i, (r, c) in enumerate(cells[:n * n]):
        for bit, line in enumerate((((c, c + 1), (r, r)), ((c, c), (r, r + 1)), ((c, c + 1), (r + 1, r + 1)), ((c + 1, c + 1), (r, r + 1)))):
            if not ways[i] >> bit & 1:
                ax.plot(*line, color='black', lw=1.2)
    for ids, style in ((tokens, dict(color='0.8', lw=7)), (path, dict(color='tab:blue' if path == tokens else 'tab:red', lw=1.6, marker='o', ms=3))):
        where = cells[[x for x in ids if x < task.symbols]] + 0.5
        ax.plot(where[:, 1], where[:, 0], solid_capstyle='round', **style)
    ax.set(xlim=(-0.1, n + 0.1), ylim=(n + 0.1, -0.1), aspect='equal')
    ax.axis('off')

def plot(out_dir, args, task, results, shown):
    """Exact paths against step beside the baselines, and mazes with the true path and the model's."""
    figure = Figure(figsize=(11, 3.6), layout='constrained')
    left, right = figure.subfigures(1, 2, width_ratios=(2, 3))
    ax, n, (batch, paths) = left.subplots(), max(args.grid), shown
    evals = [(r['step'], r['eval'][str(n)]) for r in common.read_log(out_dir) if 'eval' in r]
    for key, colour in (('exact', 'tab:blue'), ('legal', 'tab:green'), ('fork', 'tab:orange')):
        ax.plot([step for step, _ in evals], [e[key] for _, e in evals], color=colour, marker='o', ms=3, label=key)
    for name, style in (('greedy', '--'), ('random', ':')):
        ax.axhline(results[n][name]['exact'], color='black', linestyle=style, label=f'exact, {name}')
    ax.set(xlabel='step', title=f'{args.gen} {n}x{n}, {args.loss}: held-out mazes', ylim=(0, 1.04))
    ax.legend(fontsize=8)
    order = (~judge(task, batch, paths)['exact']).int().argsort(descending=True, stable=True)  # two mistakes, if there are any
    rows = [*order[:2].tolist(), *range(6)]
    for ax, row in zip(right.subplots(2, 4).flat, rows, strict=True):
        true = batch.tokens[row][batch.loss_mask[row]].tolist()
        path = paths[row].tolist()
        draw_maze(ax, task, n, batch.instance[row].tolist(), true, path[:path.index(task.end) + 1] if task.end in path else path)
    common.write_atomic(Path(out_dir) / 'plot.png', lambda tmp: figure.savefig(tmp, dpi=120, format='png'))

def main(argv=None):
    begin = time.time()
    args, typed = parse_args(argv)
    if bool(args.ckpt) != args.eval_only:
        common.die('--ckpt and --eval_only go together: --eval_only --ckpt out/.../ckpt.pt')
    if args.eval_only:
        model, state = common.load_checkpoint(args.ckpt)
        # all but these is as it was trained
        common.restore_args(args, typed, state['args'], 'train_maze', {'seed', 'n_test', 'test_grid', 'device', 'dtype', 'eval_only', 'ckpt'})
    task, gpt = fill_in(args)
    if args.eval_only and gpt != model.config:
        common.die(f'{args.ckpt} has no words for a grid as large as that of --test_grid')
    run = common.setup(args)
    args.device, args.dtype, args.processes = run.device.type, 'bfloat16' if run.bf16 else 'float32', run.world
    if args.eval_only:
        model = model.to(run.device)
    else:
        kept = {'script': 'train_maze', **{k: v for k, v in vars(args).items() if k not in ('out_dir', 'resume', 'eval_only', 'ckpt')}}
        if run.master:
            common.open_run(args.out_dir, kept, args.resume, params=(params := GPT(gpt).num_params()))
            print(' '.join(f'{k}={v}' for k, v in kept.items() if v is not None), f'\n{params:,} parameters, global batch {args.batch_size} x {run.world} = '
                  f'{args.batch_size * run.world}, files in {args.out_dir}', sep='', flush=True)
        caught, path = common.catch_signals(), Path(args.out_dir) / 'ckpt.pt'
        found = common.load_checkpoint(path, run.device, kept) if args.resume and path.exists() else None
        if run.world > 1:
            dist.init_process_group('nccl' if run.device.type == 'cuda' else 'gloo')
        model = train(path, found, args, kept, task, gpt, run, caught)
        if caught:
            common.die('stopped by a signal after the last step; all is saved, --resume evaluates', code=128 + max(caught))
    common.catch_signals(exit_now=True)
    if dist.is_initialized():
        dist.destroy_process_group()
    if not run.master:
        return
    results, shown = {}, {}
    for n in task.grid:
        results[n], shown[n] = evaluate(model, task, run, args.seed, args.n_test, n)
        print(f'{n}x{n}, {args.n_test} held-out mazes' + ('' if n in args.grid else ', a size that was not trained'))
        print('         ' + ''.join(f'{key:>9}' for key in ('exact', 'shortest', 'valid', 'legal', 'fork', 'reach', 'ends', 'origin', 'regret')))
        for name in ('model', 'greedy', 'random'):
            print(f'  {name:7}' + ''.join(f'{results[n][name][key]:9.3f}' for key in ('exact', 'shortest', 'valid', 'legal', 'fork', 'reach', 'ends', 'origin', 'regret')))
    n = max(args.grid)
    print('exact by steps of the shortest path: ' + '  '.join(f'{b["steps"][0]}-{b["steps"][1]}: {b["model"]:.3f} greedy {b["greedy"]:.3f}' for b in results[n]['by_length']))
    m = results[n]['model']
    final = dict(loss=args.loss, grid=show_range(args.grid), gen=args.gen, format=args.format, **{key: value for key, value in m.items()},
                 greedy=results[n]['greedy']['exact'], random=results[n]['random']['exact'], greedy_fork=results[n]['greedy']['fork'],
                 **{f'{key}_{k}': r['model'][key] for k, r in results.items() if k != n for key in ('exact', 'origin', 'adjacency', 'adjacency_first') if key in r['model']},
                 n_test=args.n_test, params=model.num_params(), mazes=args.max_iters * args.batch_size * run.world, seed=args.seed, seconds=time.time() - begin)
    if not args.eval_only:
        common.log(args.out_dir, arm='final', step=args.max_iters, **final, results=results)
        plot(args.out_dir, args, task, results, shown[n])
    print(common.final_line(**final))

if __name__ == '__main__':
    main()
