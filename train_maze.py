"""Does it matter where the loss is? The same tiny transformer, the same mazes, the same number of steps.

A maze, an origin and a target are followed by a shortest path. All but the path is noise: a uniform tree on 4x4, order and direction of its passages
and the two ends are 55 nats that no model can predict; the path, given these, has none. Where should the loss be?
1. path: from the origin to <PATH_END>, nowhere else. The model skips all that carries no loss: also the cheapest.
2. full: on every token, as language models are trained, and maze-transformer is (its open issue "Backpropagate on the predicted shortest path rather
   than the entire input sequence"). balanced: maze and path averaged apart, then added: does the noise hurt, or the dilution?
3. mlmu (Nolte et al. 2024, 2412.05117): keep each path token with probability r ~ U(0, 1), predict each of the others from the maze and what was
   kept; nobody looks at a masked token, and behind the path there are no positions: its length does not leak. At test time left to right, as in
   the paper. Its encoder and decoder are one stack here, in which masked positions are queries in every layer.
4. graded: -log sum_u p(u) w(u), w = 1 for steps on a shortest path, e^(-2 beta) for other legal ones (each costs two steps), else 0; from no paper.
   Its gradient, p(u) (1 - w(u) / W) with W = sum_u p(u) w(u), asks for legality first. On trees beta -> inf is `path`.
Beside every number: legal walks that never turn back, at random (0.42 are right on 4x4), or greedily to the neighbour nearest the target (0.65).

    python train_maze.py                                                                  # 4x4, three to four minutes on two cores
    python train_maze.py --format adjlist --loss full --test_grid 3 --n_layer 2 --batch_size 32 --lr 1e-3 --steps 500   # and on another size?
    python train_maze.py --grid 5 --format adjlist --n_layer 12 --n_head 8 --n_embd 256 --pos rope --batch_size 1024 --lr 1e-3 --steps 25000 --device cuda
    torchrun --standalone --nproc_per_node=2 train_maze.py --loss mlmu

The last line:  final loss=path grid=4 gen=dfs format=grid exact=0.9xx shortest=... fork=... greedy=0.6xx random=0.4xx ... adjacency=0.000 ...
"""

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
from data import OPTIONS, SPLITS, Maze, Parser, add_maze_args, add_run_args, at_least, parse_hops, require, sample_batch, show_range
from model import GPT, GPTConfig

SHOWN = ('exact', 'shortest', 'valid', 'legal', 'fork', 'reach', 'ends', 'origin', 'regret')  # the columns of the table
RATIOS = dict(legal=('legal', 'steps'), fork=('right', 'forks'), regret=('regret', 'valid'), adjacency=('wrong', 'tokens'), path_loss=('path_nats', 'tokens'))

def parse_args(argv):
    parser = Parser(prog='train_maze.py', description=__doc__.split('\n')[0], epilog=__doc__[__doc__.index('    python'):__doc__.index('The last')])
    g = parser.add_argument_group('mazes')
    add_maze_args(g.add_argument)
    g.add_argument('--format', choices=('grid', 'adjlist'), default='grid', help='a token for each cell, or a list of passages (default: %(default)s)')
    g.add_argument('--test_grid', type=parse_hops, help='other sizes to test on, as --grid (default: none)')
    g = parser.add_argument_group('model')
    for name, value, about in (('n_layer', 4, ''), ('n_head', 4, ''), ('n_embd', 64, ''), ('n_loop', 1, 'times the layers are applied, with shared weights ')):
        g.add_argument(f'--{name}', type=at_least(1), default=value, help=about + '(default: %(default)s)')
    g.add_argument('--pos', choices=('learned', 'rope', 'none'), default='learned', help='position embedding (default: %(default)s)')
    g = parser.add_argument_group('training and evaluation')
    g.add_argument('--loss', choices=('path', 'full', 'balanced', 'mlmu', 'graded'), default='path', help='where it is (default: %(default)s)')
    g.add_argument('--beta', type=at_least(0, float), help='graded: a legal step off the shortest path costs 2 beta (default: 1)')
    g.add_argument('--batch_size', type=at_least(1), default=128, help='mazes a step and process (default: %(default)s)')
    g.add_argument('--max_iters', '--steps', type=at_least(1), default=4000, help='optimizer steps (default: %(default)s)')
    g.add_argument('--learning_rate', '--lr', type=at_least(0, float, above=True), default=3e-3, help='(default: %(default)s)')
    g.add_argument('--warmup_iters', type=at_least(0), help='steps of linear warm-up, then a cosine to zero (default: 100, at most a third of max_iters)')
    g.add_argument('--weight_decay', type=at_least(0, float), default=0.01, help='AdamW, matrices only (default: %(default)s)')
    g.add_argument('--eval_interval', type=at_least(1), help='steps between evaluations and checkpoints (default: a tenth of max_iters)')
    g.add_argument('--log_interval', type=at_least(1), default=10, help='steps between loss records (default: %(default)s)')
    g.add_argument('--n_test', type=at_least(1), default=2000, help='held-out mazes a size at the end; an eighth of it on the way (default: %(default)s)')
    add_run_args(parser, 'out/train_maze-<gen>-<loss>')
    return common.parse_typed(parser, argv)

def fill_in(args, room=()):
    """Give what was left out its value; die on what makes no sense together. Returns the task, with room for other sizes too, the model's shape, the sizes."""
    args.eval_interval = args.eval_interval or max(1, args.max_iters // 10)
    args.warmup_iters = min(100, args.max_iters // 3) if args.warmup_iters is None else args.warmup_iters
    try:
        require(args.beta is None or args.loss == 'graded', '--beta means nothing without --loss graded')
        args.beta = 1.0 if args.loss == 'graded' and args.beta is None else args.beta
        require(args.loss != 'mlmu' or args.pos != 'none', 'without positions, masked tokens are all alike: mlmu needs --pos learned or rope')
        given, sizes = {k: v for k in OPTIONS['maze'] if (v := getattr(args, k)) is not None}, {*(args.grid or [4]), *(args.test_grid or [])}
        task = Maze(**given | {'grid': sorted(sizes.union(room))})
        vars(args).update({name: getattr(task, name) for name in OPTIONS['maze'] if name != 'grid'}, grid=args.grid or [4])
        args.out_dir = f'out/train_maze-{args.gen}-{args.loss}' if args.out_dir is None else args.out_dir
        gpt = GPTConfig(len(task.vocab), task.block_size, args.n_layer, args.n_head, args.n_embd, args.n_loop, causal=args.loss != 'mlmu', pos=args.pos)
        for n, split in [(n, split) for n in sizes for split in SPLITS]:  # are there enough mazes to train on, and to hold out?
            sample_batch(task, 500, args.seed, 0, split, hops=n)
    except ValueError as error:
        common.die(str(error))
    return task, gpt, sorted(sizes)

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
        path[torch.from_numpy(rng.random((len(path), 1)) > rng.random(path.shape))] = 0  # kept with probability r, another for each maze
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
    each = -(logp + grade(task, batch, args.beta)).logsumexp(1) if args.loss == 'graded' else F.nll_loss(logp, token, reduction='none')
    return (each * weight[weight > 0]).sum()

# ----------------------------------------------------------------------------- evaluation
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
    cell, goal = batch.tokens.gather(1, batch.start[:, None]), (batch.instance[:, 1] == 0).int().argmax(1, keepdim=True)  # (B, 1)
    paths, came, place = [cell], torch.full_like(cell, -1), torch.from_numpy(task.cells).to(cell.device)
    for _ in range(task.symbols):
        beside, ways, _ = (x[:, 0] for x in task.around(batch.instance, cell))  # (B, 4)
        ways = ways & (beside != came)
        far = (place[beside] - place[goal]).abs().sum(2) * greedy + torch.from_numpy(rng.random(beside.shape)).float().to(cell.device)  # ties: any
        best = beside.gather(1, torch.where(ways, far, math.inf).argmin(1, keepdim=True))
        came, cell = cell, torch.where(ways.any(1, keepdim=True) & (cell != goal), best, task.end)
        paths.append(cell)
    return torch.cat(paths, 1)

def judge(task, batch, paths):
    """What is right about paths (B, L), each ended by <PATH_END>s if at all: a dict of (B,) tensors. exact: the batch's own path. shortest: one of the
    shortest. valid: legal from origin to target, ended, and `regret` steps too long. reach: the last cell is the target. ends: <PATH_END> is written. origin:
    it begins there. legal, steps: how many steps lead through open ways, of how many. right, forks: of the cells with more than one way on, met while
    still on a shortest path, how many were left by a right one."""
    L, far, place = paths.size(1), batch.instance[:, 1], torch.arange(paths.size(1), device=paths.device)
    own = batch.tokens.gather(1, (batch.start[:, None] + place).clamp(max=batch.tokens.size(1) - 1))
    asked, ended, first = place < batch.loss_mask.sum(1, keepdim=True), (paths == task.end).any(1), paths[:, 0] == own[:, 0]
    length = torch.where(ended, (paths == task.end).int().argmax(1), L)  # tokens before <PATH_END>
    beside, ways, nearer = task.around(batch.instance, paths[:, :-1])  # (B, L - 1, 4)
    step = ways & (beside == paths[:, 1:, None])
    legal, better, taken = step.any(2), (step & nearer).any(2), place[:-1] < length[:, None] - 1
    gap = far.gather(1, paths.clamp(max=task.symbols))  # (B, L) steps from each token to the target, -1 for no cell
    reach = (length > 0) & (gap.gather(1, (length - 1).clamp(min=0)[:, None])[:, 0] == 0)
    valid = first & (legal | ~taken).all(1) & reach & ended
    track = torch.cat((first[:, None], first[:, None] & better[:, :-1].cumprod(1).bool()), 1)  # on a shortest path up to here
    fork = track & (gap[:, :-1] > 0) & (ways.sum(2) > (place[:-1] > 0) + 1)  # from all but the origin one way is back
    regret = torch.where(valid, length - 1 - gap[:, 0], 0)
    return dict(exact=((paths == own) | ~asked).all(1), shortest=valid & (regret == 0), valid=valid, reach=reach, ends=ended, origin=first, regret=regret,
                legal=(legal & taken).sum(1), steps=taken.sum(1), right=(fork & better).sum(1), forks=fork.sum(1))

def read_along(model, task, batch):
    """With the true tokens before it, what does a causal model say of each? A dict of (B,) tensors: path_nats, maze_nats: summed losses of the path, of all
    before it. wrong, adjacency_first: path positions, and first ones, whose likeliest token stands in no path (<-->, ; and the like)."""
    weight = weigh('full', batch, task.pad, 0, 0)
    logits, token = predict(model, batch.tokens, weight, task.pad)
    nats, guess = torch.zeros_like(weight), torch.zeros_like(batch.tokens)
    nats[weight > 0], guess[weight > 0] = F.cross_entropy(logits.float(), token, reduction='none'), logits.argmax(1)
    wrong = batch.loss_mask & (guess >= task.symbols) & (guess != task.end)
    return dict(path_nats=(nats * batch.loss_mask).sum(1), maze_nats=(nats * ~batch.loss_mask).sum(1), tokens=batch.loss_mask.sum(1),
                wrong=wrong.sum(1), adjacency_first=wrong.gather(1, batch.start[:, None])[:, 0])

@torch.no_grad()
def evaluate(model, task, run, seed, n_test, size):
    """On n_test held-out mazes of one size: {'model', 'greedy', 'random': a dict of rates each; 'by_steps': exact, by length}; some mazes; their paths."""
    parts = {'model': [], 'greedy': [], 'random': []}
    for first in range(0, n_test, 500):
        batch = sample_batch(task, min(500, n_test - first), seed, size * 10**6 + first, 'test', hops=size).to(run.device)
        with run.autocast:
            paths, more = write_paths(model, task, batch), read_along(model, task, batch) if model.config.causal else {}
        parts['model'].append({'far': batch.loss_mask.sum(1) - 2, **judge(task, batch, paths), **more})
        for name in ('greedy', 'random'):
            parts[name].append(judge(task, batch, walk(task, batch, name == 'greedy', np.random.default_rng([seed, 3, first]))))
    rows = {name: {key: torch.cat([p[key] for p in ps]).cpu().double() for key in ps[0]} for name, ps in parts.items()}
    results = {name: {key: r[key].mean().item() for key in (*SHOWN, 'maze_nats', 'adjacency_first') if key in r and key not in RATIOS}
               | {key: (r[a].sum() / r[b].sum().clamp(min=1)).item() for key, (a, b) in RATIOS.items() if a in r} for name, r in rows.items()}
    far = rows['model']['far']
    results['by_steps'] = {int(k): {'n': int((far == k).sum())} | {name: r['exact'][far == k].mean().item() for name, r in rows.items()} for k in far.unique()}
    return results, (batch, paths)

# ----------------------------------------------------------------------------- training
def get_lr(step, args):
    """Linear warm-up, then a cosine to zero."""
    cosine = 0.5 * (1 + math.cos(math.pi * max(0, step - args.warmup_iters) / max(1, args.max_iters - args.warmup_iters)))
    return args.learning_rate * min(1, (step + 1) / (args.warmup_iters + 1)) * cosine

def train(path, found, args, kept, task, gpt, run, caught):
    """From scratch or from what was found in the checkpoint at path. Returns the model, its step, and whether a signal stopped it."""
    torch.manual_seed(args.seed)
    model, state = found or (GPT(gpt).to(run.device), {'step': 0})
    optimizer, step, stop = model.configure_optimizer(args.learning_rate, args.weight_decay), state['step'], 0  # nothing else is random but the mazes
    if found:
        optimizer.load_state_dict(state['optimizer'])
    if args.resume and run.master:  # drop what was logged after the checkpoint
        common.cut_log(args.out_dir, lambda r: r['arm'] != 'final' and 0 < step >= r['step'])
    ddp = DDP(model, device_ids=[run.device] if run.device.type == 'cuda' else None) if run.world > 1 else model
    bar = tqdm(total=args.max_iters, initial=step, desc=args.loss, disable=not (run.master and sys.stderr.isatty()), leave=False)

    def look():  # evaluate, print, log
        results = {n: evaluate(model, task, run, args.seed, max(1, args.n_test // 8), n)[0] for n in args.grid}
        bar.write(f'{args.loss} step {step}:' + ''.join(f'   {n}x{n} ' + ' '.join([f'{key} {r["model"][key]:.3f}' for key in ('exact', 'legal', 'fork')] + [
            f'{name} {r[name]["exact"]:.3f}' for name in ('greedy', 'random')]) for n, r in results.items()))
        common.log(args.out_dir, arm=args.loss, step=step, eval={n: r['model'] for n, r in results.items()})

    if run.master and step == 0:
        look()
    while step < args.max_iters:
        for group in optimizer.param_groups:
            group['lr'] = lr = get_lr(step, args)
        # the global batch is a function of (seed, step); this process works on its slice of it
        batch = sample_batch(task, args.batch_size * run.world, args.seed, step, hops=args.grid)
        weight, mine = weigh(args.loss, batch, task.pad, args.seed, step), slice(run.rank * args.batch_size, (run.rank + 1) * args.batch_size)
        with run.autocast:
            loss = loss_of(args, task, ddp, batch[mine].to(run.device), weight[mine].to(run.device))
        (loss * run.world).backward()  # DDP averages over processes
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        bar.update()
        report, check = step % args.log_interval == 0, step % args.eval_interval == 0 or step == args.max_iters
        if not (report or check or (caught and run.world == 1)):
            continue
        loss, stop = common.sum_over_processes(run, float(loss.detach()), max(caught, default=0))
        if not all(torch.as_tensor(x).isfinite().all() for x in (loss, norm, *(model.parameters() if check or stop else ()))):
            common.die(f'diverged: loss {loss}, gradient norm {float(norm)} at step {step}; {path} holds the last good weights, if any. Try a smaller '
                       '--learning_rate', code=1)
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
            break
    bar.close()
    return model, step, stop

# ----------------------------------------------------------------------------- the figure, and everything in order
def draw_maze(ax, task, n, sides, true, path, good):
    """Walls (sides: the open ones of each cell, as bits), the true path (wide, grey, the target a star), the model's (blue; not a shortest one: red)."""
    for (r, c), open in zip(task.cells[:n * n].tolist(), sides, strict=False):
        for bit, line in enumerate((((c, c + 1), (r, r)), ((c, c), (r, r + 1)), ((c, c + 1), (r + 1, r + 1)), ((c + 1, c + 1), (r, r + 1)))):
            if not open >> bit & 1:
                ax.plot(*line, color='black', lw=1.2)
    wide = dict(color='0.8', lw=7, marker='*', markevery=[-1], ms=13, mfc='tab:green', mec='tab:green')
    for ids, style in ((true, wide), (path, dict(color='tab:blue' if good else 'tab:red', lw=1.6, marker='o', ms=3))):
        y, x = task.cells[[i for i in ids if i < task.symbols]].T + 0.5
        ax.plot(x, y, solid_capstyle='round', **style)
    ax.set(xlim=(-0.1, n + 0.1), ylim=(n + 0.1, -0.1), aspect='equal')
    ax.axis('off')

def plot(out_dir, args, task, results, batch, paths):
    """Exact paths against step beside the baselines, and mazes with the true path and the model's, first up to two wrong ones."""
    left, right = (figure := Figure(figsize=(11, 3.6), layout='constrained')).subfigures(1, 2, width_ratios=(2, 3))
    n, ax = max(args.grid), left.subplots()
    evals = [(r['step'], r['eval'][str(n)]) for r in common.read_log(out_dir) if 'eval' in r]
    for key, colour in (('exact', 'tab:blue'), ('legal', 'tab:green'), ('fork', 'tab:orange')):
        ax.plot([step for step, _ in evals], [e[key] for _, e in evals], color=colour, marker='o', ms=3, label=key)
    for name, style in (('greedy', '--'), ('random', ':')):
        ax.axhline(results[name]['exact'], color='black', linestyle=style, label=f'exact, {name}')
    ax.set(xlabel='step', title=f'{args.gen} {n}x{n}, {args.loss}: held-out mazes', ylim=(0, 1.04))
    ax.legend(fontsize=8)
    good = judge(task, batch, paths)['shortest'].tolist()
    for ax, row in zip(right.subplots(2, 4).flat, dict.fromkeys(sorted(range(len(good)), key=good.__getitem__)[:2] + [*range(len(good))]), strict=False):
        path, true = paths[row].tolist(), batch.tokens[row][batch.loss_mask[row]].tolist()
        draw_maze(ax, task, n, batch.instance[row, 0].tolist(), true, path, good[row])
    common.write_atomic(Path(out_dir) / 'plot.png', lambda tmp: figure.savefig(tmp, dpi=120, format='png'))

def main(argv=None):
    begin, (args, typed) = time.time(), parse_args(argv)
    if bool(args.ckpt) != args.eval_only:
        common.die('--ckpt and --eval_only go together: --eval_only --ckpt out/.../ckpt.pt')
    run, room = common.setup(args), ()
    if args.eval_only:
        model, state = common.load_checkpoint(args.ckpt, run.device)  # all but these arguments are as it was trained
        common.restore_args(args, typed, state['args'], 'train_maze', {'seed', 'n_test', 'test_grid', 'device', 'dtype', 'eval_only', 'ckpt'})
        room = [*state['args']['grid'], *(state['args']['test_grid'] or [])]
    task, gpt, sizes = fill_in(args, room)
    if args.eval_only and gpt != model.config:
        common.die(f'{args.ckpt} was made for grids up to {max(room)}x{max(room)}; --test_grid cannot go beyond')
    args.device, args.dtype, args.processes = run.device.type, 'bfloat16' if run.bf16 else 'float32', run.world
    if not args.eval_only:
        kept = {'script': 'train_maze', **{k: v for k, v in vars(args).items() if k not in ('out_dir', 'resume', 'eval_only', 'ckpt')}}
        if run.master:
            common.open_run(args.out_dir, kept, args.resume, params=(params := GPT(gpt).num_params()))
            print(' '.join(f'{k}={v}' for k, v in kept.items() if v is not None), f'\n{params:,} parameters, global batch {args.batch_size} x {run.world} = '
                  f'{args.batch_size * run.world}, files in {args.out_dir}', sep='', flush=True)
        caught, path = common.catch_signals(), Path(args.out_dir) / 'ckpt.pt'
        found = common.load_checkpoint(path, run.device, kept) if args.resume and path.exists() else None
        if run.world > 1:
            dist.init_process_group('nccl' if run.device.type == 'cuda' else 'gloo')
        model, step, stop = train(path, found, args, kept, task, gpt, run, caught)
        if run.world > 1:
            dist.destroy_process_group()  # before any exit: it waits for gloo's threads, one of which could abort an interpreter that is leaving
        if stop or caught:
            common.die(f'stopped by a signal at step {step}, saved in {path}; --resume goes on from there', code=128 + max(caught, default=15))
    common.catch_signals(exit_now=True)
    if not run.master:
        return
    results, shown, n = {}, {}, max(args.grid)
    for size in sizes:
        results[size], shown[size] = evaluate(model, task, run, args.seed, args.n_test, size)
        print(f'{f"{size}x{size}" + ", not trained" * (size not in args.grid):16}' + ''.join(f'{key:>9}' for key in SHOWN))
        for name in ('model', 'greedy', 'random'):
            print(f'  {name:14}' + ''.join(f'{results[size][name][key]:9.3f}' for key in SHOWN))
    print('  exact by steps, and greedy: ' + '  '.join(f'{k}: {r["model"]:.2f} {r["greedy"]:.2f}' for k, r in results[n]['by_steps'].items()))
    other = {f'{key}_{k}': r['model'].get(key) for k, r in results.items() if k != n for key in ('exact', 'origin', 'adjacency', 'adjacency_first')}
    final = dict(
        loss=args.loss, grid=show_range(args.grid), gen=args.gen, format=args.format, **results[n]['model'], greedy=results[n]['greedy']['exact'],
        random=results[n]['random']['exact'], **{f'{b}_{key}': results[n][b][key] for b in ('greedy', 'random') for key in ('shortest', 'fork')}, **other,
        n_test=args.n_test, params=model.num_params(), seed=args.seed, seconds=time.time() - begin,
        mazes=args.batch_size * (state['step'] * state['args']['processes'] if args.eval_only else args.max_iters * run.world))
    if not args.eval_only:
        common.log(args.out_dir, arm='final', step=args.max_iters, **final, results=results)
        plot(args.out_dir, args, task, results[n], *shown[n])
    print(common.final_line(**final))

if __name__ == '__main__':
    main()
