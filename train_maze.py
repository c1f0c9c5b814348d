"""Does it matter where the loss is? Same tiny transformer, same mazes, same number of steps.

A maze, an origin and a target are followed by a shortest path. All but the path is noise: on 4x4 a
uniform tree, the order and direction of its passages and the two ends are 55 nats that no model can
predict. The path, given these, holds none. Where should the loss be?

1. path: from the origin to <PATH_END>, nowhere else. The model skips what carries no loss, so this
   is also the cheapest.
2. full: on every token, as language models are trained. So is maze-transformer; its open issue asks
   to "Backpropagate on the predicted shortest path rather than the entire input sequence".
   balanced: maze and path are averaged apart, then added. Is it the noise that hurts, or that the
   path's share of the loss is small?
3. mlmu: MLM-U (Nolte et al. 2024, 2412.05117). Keep each path token with probability r ~ U(0, 1).
   Predict each of the others from the maze and the tokens that were kept. No position sees a masked
   token. Behind the path there are no positions, so its length does not leak. At test time the path
   is written left to right, as in the paper.
   Departure: their encoder and decoder are one stack here, in which masked positions are queries in
   every layer.
4. graded: -log sum_u p(u) w(u), where w(u) = 1 for steps on a shortest path, e^(-2 beta) for other
   legal ones (each costs two steps), else 0. From no paper. On trees, beta -> inf is `path`.
   Its gradient at token u is p(u) (1 - w(u) / W) with W = sum_u p(u) w(u): legal steps come first,
   short ones second.

Beside every number stand two legal walks that never turn back: at random (0.42 of them are right on
4x4), and greedily to the neighbour nearest the target (0.65).

    python train_maze.py                    # 4x4, three to four minutes on two cores
    python train_maze.py --format adjlist --loss full --test_grid 3 --n_layer 2 --batch_size 32 \\
        --lr 1e-3 --steps 500               # and on another size?
    python train_maze.py --grid 5 --format adjlist --n_layer 12 --n_head 8 --n_embd 256 \\
        --pos rope --batch_size 1024 --lr 1e-3 --steps 25000 --device cuda
    torchrun --standalone --nproc_per_node=2 train_maze.py --loss mlmu

The last line:  final loss=path grid=4 ... exact=0.9xx ... fork=0.9xx ... greedy=0.6xx random=0.4xx
Results: docs/train_maze.md
"""

from errors import one_line_errors  # first: see errors.py

import json
import math

import numpy as np
import torch
import torch.nn.functional as F

import common
import memory
import plots
from data import (
    Parser,
    add_task_args,
    at_least,
    format_range,
    parse_range,
    positive_float,
    require,
    sample_batch,
)
from maze import Maze
from model import GPT, GPTConfig


TASKS = (Maze,)
BASELINES = ('greedy', 'random')

LEGEND = """
  exact     share of mazes in which the path is the one of the data
  shortest  share in which it is a shortest one
  valid     share in which it leads from the origin to the target through open walls, and ends
  legal     share of steps that go through open walls
  fork      share of junctions left by a right step, while still on a shortest path
  reach     the last cell is the target
  ends      <PATH_END> is written
  origin    the path begins at the origin
  regret    steps that a valid path has too many
"""

# What the tables show, from `score_paths`.
COLUMNS = ('exact', 'shortest', 'valid', 'legal', 'fork', 'reach', 'ends', 'origin', 'regret')

# Rates over several things in a maze, rather than over mazes: one count divided by another.
RATIOS = {
    'legal': ('legal', 'steps'),
    'fork': ('right_at_forks', 'forks'),
    'regret': ('regret', 'valid'),
    'adjacency': ('wrong', 'tokens'),
    'path_loss': ('path_nats', 'tokens'),
}


# -----------------------------------------------------------------------------
# arguments

def parse_args(argv):
    parser = Parser(__doc__)
    add_task_args(parser, TASKS, format='grid')

    add = parser.add_argument_group('model').add_argument
    add('--n_layer', type=at_least(1, most=1000), default=4, help='transformer blocks')
    add('--n_head', type=at_least(1), default=4, help='attention heads')
    add('--n_embd', type=at_least(1, most=65536), default=64, help='width')
    add('--n_loop', type=at_least(1, most=1000), default=1,
        help='times the blocks are applied, with shared weights')
    add('--pos', choices=('learned', 'rope', 'none'), default='learned', help='position encoding')

    add = parser.add_argument_group('training').add_argument
    add('--loss', choices=('path', 'full', 'balanced', 'mlmu', 'graded'), default='path',
        help='where it is')
    add('--beta', type=at_least(0, float),
        help='graded: a legal step off the shortest path costs 2 beta (default: 1)')
    add('--batch_size', type=at_least(1), default=128, help='mazes a step and process')
    add('--max_iters', '--steps', type=at_least(1), default=4000, help='optimizer steps')
    add('--learning_rate', '--lr', type=positive_float, default=3e-3, help='largest learning rate')
    add('--warmup_iters', type=at_least(0),
        help='steps of linear warm-up (default: 100, at most a third of --steps)')
    add('--weight_decay', type=at_least(0, float), default=0.01, help='AdamW, matrices only')

    add = parser.add_argument_group('evaluation').add_argument
    add('--test_grid', type=parse_range, help='other sizes to test on, as --grid')
    add('--eval_interval', type=at_least(1),
        help='steps between evaluations and checkpoints (default: steps / 10)')
    add('--log_interval', type=at_least(1), default=10, help='steps between loss records')
    add('--n_test', type=at_least(1), default=2000,
        help='held-out mazes a size; on the way an eighth of them')
    common.add_run_args(parser)
    return common.parse_args(parser, argv, 'train_maze', free={'seed', 'n_test', 'test_grid'})


def fill_in(args, other_sizes=()):
    """Give flags that were left out their value. Raises ValueError for what makes no sense
    together.

    other_sizes: sizes of mazes that the task must have room for, too.
    Returns the task, the model's config, and the sizes to test on.
    """
    if args.eval_interval is None:
        args.eval_interval = max(1, args.max_iters // 10)
    if args.warmup_iters is None:
        args.warmup_iters = min(100, args.max_iters // 3)
    require(args.beta is None or args.loss == 'graded',
            '--beta means nothing without --loss graded')
    if args.loss == 'graded' and args.beta is None:
        args.beta = 1.0
    require(args.loss != 'mlmu' or args.pos != 'none',
            'without positions, masked tokens are all alike: mlmu needs --pos learned or rope')

    if args.format is None:
        args.format = 'grid'

    # one task for the sizes to train on and the sizes to test on
    flags = {}
    for name in Maze.flags:
        if getattr(args, name) is not None:
            flags[name] = getattr(args, name)
    if args.grid is None:
        args.grid = [4]
    sizes = {*args.grid, *(args.test_grid or [])}
    flags['grid'] = sorted(sizes.union(other_sizes))
    task = Maze(**flags)
    for name, value in task.settings().items():
        if name != 'grid':
            setattr(args, name, value)

    memory.require_depth(args)
    config = GPTConfig(len(task.vocab), task.block_size, args.n_layer, args.n_head, args.n_embd,
                       args.n_loop, causal=args.loss != 'mlmu', pos=args.pos)
    return task, config, sorted(sizes)


def require_both_splits(task, sizes, args):
    """Raise ValueError if a size has too few mazes to train on, or to hold out."""
    for size in sizes:
        for split in common.splits(args):
            sample_batch(task, 500, args.seed, 0, split, hops=size)


def memory_phases(args, task, config):
    """What each phase of a run takes: see memory.py."""
    T = task.block_size - 1
    M = T if args.loss in ('full', 'balanced') else task.longest_chain
    n_copies = 7 if args.loss == 'graded' else 4
    step = memory.step_parts(config, args.batch_size, T, M, n_copies)

    # the mazes are scored with losses everywhere, and the paths in every step
    B = min(500, args.n_test)
    scores = 8 * 40 * B * task.answer_len
    evaluation = memory.decoding_bytes(config, B, T)
    if config.causal:
        evaluation = max(evaluation, memory.scoring_bytes(config, B, T, T))
    return memory.trainer_phases(args, config, task, step, evaluation + scores, B)


# -----------------------------------------------------------------------------
# the losses

def loss_weights(loss, batch, pad, seed, step):
    """The weight of every token as a target, (B, T). This is all that tells the losses apart, but
    for the last step of `graded`.

    The weights of a batch add up to one, so that the loss is a mean. With `balanced` those of the
    paths add up to one, and those of the mazes.
    """
    path = batch.loss_mask.float()
    maze = ((batch.tokens != pad) & ~batch.loss_mask).float()
    maze[:, 0] = 0  # nothing stands before the first token
    if loss == 'full':
        return (path + maze) / (path + maze).sum()
    if loss == 'balanced':
        return path / path.sum() + maze / maze.sum()
    if loss == 'mlmu':
        # a path token is kept with probability r, which is another for each maze
        rng = np.random.default_rng([seed, 2, step])  # 0 and 1 draw the mazes of the two splits
        r = rng.random((len(path), 1))
        path[torch.from_numpy(r > rng.random(path.shape))] = 0
    return path / path.sum().clamp(min=1)


def predict(model, tokens, weight, pad):
    """Logits (N, V) for every token of weight > 0, row by row, and these tokens (N,).

    model: a GPT, or one wrapped in DDP.
    """
    is_target = weight > 0                                                  # (B, T)
    config = getattr(model, 'module', model).config
    if config.causal:
        return model(tokens[:, :-1], is_target[:, 1:]), tokens[is_target]

    # mlmu: a masked token is a position that holds nothing, and that no position sees
    visible = (tokens != pad) & ~is_target
    inputs = tokens.masked_fill(~visible, pad)
    return model(inputs, is_target, visible=visible), tokens[is_target]


def log_grades(task, batch, beta):
    """log w(u) of every token u as the next one, at each path position: (N, V)."""
    row, place = batch.loss_mask.nonzero(as_tuple=True)
    before = batch.tokens[row, place - 1]                                   # (N,)
    token = batch.tokens[row, place]
    log_w = torch.full((len(row), len(task.vocab)), -math.inf, device=token.device)

    # legal steps: 1 if they are on a shortest path, else e^(-2 beta)
    neighbour, is_open, is_nearer = task.neighbours(batch.instance[row], before[:, None])
    log_w_step = torch.where(is_nearer[:, 0], 0.0, -2 * beta)               # (N, 4)
    log_w_step = torch.where(is_open[:, 0], log_w_step, -math.inf)
    log_w.scatter_(1, neighbour[:, 0], log_w_step)

    # the path begins with the origin, and ends with <PATH_END>
    is_first = before == task.path_start
    log_w[is_first, token[is_first]] = 0
    log_w[token == task.path_end, task.path_end] = 0
    return log_w


def compute_loss(args, task, model, batch, weight):
    """The weighted sum of the losses of all tokens of this batch."""
    logits, token = predict(model, batch.tokens, weight, task.pad)
    log_p = logits.float().log_softmax(dim=1)                               # (N, V)
    if args.loss == 'graded':
        losses = -(log_p + log_grades(task, batch, args.beta)).logsumexp(dim=1)
    else:
        losses = F.nll_loss(log_p, token, reduction='none')
    return (losses * weight[weight > 0]).sum()


# -----------------------------------------------------------------------------
# paths: the model's, and the two baselines

def write_paths(model, task, batch):
    """The model's own paths (B, N + 1), greedily, left to right.

    From the first <PATH_END> on there is nothing but <PATH_END>.
    """
    paths = batch.tokens.new_zeros(len(batch), task.answer_len)
    for start in batch.chain_start.unique().tolist():  # rows with prompts of one length at a time
        rows = batch.chain_start == start
        prompt = batch.tokens[rows, :start]
        if model.config.causal:
            paths[rows] = model.generate(prompt, task.answer_len)[:, start:]
        else:
            paths[rows] = write_masked(model, task, prompt)
    has_ended = (paths == task.path_end).cumsum(dim=1) > 0
    return torch.where(has_ended, task.path_end, paths)


def write_masked(model, task, prompt):
    """Paths (B, N + 1) of a model trained with mlmu: one masked position after the other."""
    start = prompt.size(1)
    tokens = F.pad(prompt, (0, task.answer_len), value=task.pad)
    for t in range(start, tokens.size(1)):
        is_last = torch.arange(t + 1, device=tokens.device).expand(len(tokens), -1) == t
        logits = model(tokens[:, :t + 1], is_last, visible=~is_last)
        tokens[:, t] = logits.argmax(dim=1)
    return tokens[:, start:]


def walk(task, batch, greedy, rng):
    """The paths (B, N + 1) of a baseline that never turns straight back.

    At each step it goes to a random open neighbour, or, if greedy, to the one nearest the target
    (Manhattan distance; among equals a random one). It stops at the target and in dead ends.
    """
    cell = batch.tokens.gather(1, batch.chain_start[:, None])               # (B, 1)
    target = (batch.instance[:, 1] == 0).int().argmax(dim=1, keepdim=True)  # (B, 1)
    position = torch.from_numpy(task.cells).to(cell.device)                 # (N + 1, 2)
    came_from = torch.full_like(cell, -1)
    paths = [cell]
    for _ in range(task.n_symbols):
        neighbour, is_open, _ = task.neighbours(batch.instance, cell)       # (B, 1, 4)
        neighbour = neighbour[:, 0]
        can_go = is_open[:, 0] & (neighbour != came_from)                   # (B, 4)

        # the lowest score is the next cell
        score = torch.from_numpy(rng.random(neighbour.shape)).float().to(cell.device)
        if greedy:
            distance = (position[neighbour] - position[target]).abs().sum(dim=2)
            score = distance + score
        side = torch.where(can_go, score, math.inf).argmin(dim=1, keepdim=True)
        goes_on = can_go.any(dim=1, keepdim=True) & (cell != target)
        came_from = cell
        cell = torch.where(goes_on, neighbour.gather(1, side), task.path_end)
        paths.append(cell)
    return torch.cat(paths, dim=1)


# -----------------------------------------------------------------------------
# evaluation

def score_paths(task, batch, paths):
    """What is right about paths (B, L), which end in <PATH_END>s, if they end: {name: (B,)}.

        exact           the batch's own path
        shortest        a shortest path
        valid           legal from the origin to the target, and ended
        regret          steps that a valid path has too many
        reach           the last cell is the target
        ends            <PATH_END> is written
        origin          the path begins at the origin
        legal, steps    steps through open sides, all steps
        right_at_forks, forks
                        cells with more than one way on, met while still on a shortest path: how
                        many were left by a right one, and how many there were
    """
    L = paths.size(1)
    place = torch.arange(L, device=paths.device)
    distance = batch.instance[:, 1]                                         # (B, N + 1)

    # the batch's own path, and the length of the written one
    own_place = batch.chain_start[:, None] + place
    own = batch.tokens.gather(1, own_place.clamp(max=batch.tokens.size(1) - 1))
    in_own = place < batch.loss_mask.sum(dim=1, keepdim=True)
    is_end = paths == task.path_end
    ended = is_end.any(dim=1)
    length = torch.where(ended, is_end.int().argmax(dim=1), L)  # tokens before <PATH_END>

    # steps: which are taken, which of these are legal, and which lead nearer to the target
    neighbour, is_open, is_nearer = task.neighbours(batch.instance, paths[:, :-1])
    is_step = is_open & (neighbour == paths[:, 1:, None])                   # (B, L - 1, 4)
    legal = is_step.any(dim=2)                                              # (B, L - 1)
    nearer = (is_step & is_nearer).any(dim=2)
    taken = place[:-1] < length[:, None] - 1

    # the path as a whole
    origin = paths[:, 0] == own[:, 0]
    to_go = distance.gather(1, paths.clamp(max=task.n_symbols))             # (B, L) -1: no cell
    last = (length - 1).clamp(min=0)[:, None]
    reach = (length > 0) & (to_go.gather(1, last)[:, 0] == 0)
    valid = origin & (legal | ~taken).all(dim=1) & reach & ended
    regret = torch.where(valid, length - 1 - to_go[:, 0], 0)
    fork = find_forks(is_open, nearer, origin, to_go)                       # (B, L - 1)
    return dict(
        exact=((paths == own) | ~in_own).all(dim=1),
        shortest=valid & (regret == 0),
        valid=valid,
        reach=reach,
        ends=ended,
        origin=origin,
        regret=regret,
        legal=(legal & taken).sum(dim=1),
        steps=taken.sum(dim=1),
        right_at_forks=(fork & nearer).sum(dim=1),
        forks=fork.sum(dim=1))


def find_forks(is_open, nearer, origin, to_go):
    """Where does a path, still on a shortest one, have more than one way on? (B, L - 1) bool

    is_open (B, L - 1, 4), nearer (B, L - 1), origin (B,), to_go (B, L): as in score_paths.
    """
    so_far = nearer[:, :-1].cumprod(dim=1).bool()
    on_shortest = torch.cat((origin[:, None], origin[:, None] & so_far), dim=1)
    n_ways_on = is_open.sum(dim=2)
    n_ways_on[:, 1:] -= 1  # from all cells but the first, one way leads back
    goes_on = to_go[:, :-1] > 0  # a cell, and not the target
    return on_shortest & goes_on & (n_ways_on > 1)


def teacher_forcing(model, task, batch):
    """What a causal model predicts with the true tokens before each token: {name: (B,)}.

        path_nats, maze_nats    summed losses of the path, and of all that stands before it
        wrong, adjacency_first  path positions, and first ones, whose most likely token never stands
                                in a path (<-->, ; and the like)
        tokens                  of the path
    """
    weight = loss_weights('full', batch, task.pad, 0, 0)
    logits, token = predict(model, batch.tokens, weight, task.pad)
    nats = torch.zeros_like(weight)                                         # (B, T)
    nats[weight > 0] = F.cross_entropy(logits.float(), token, reduction='none')
    guess = torch.zeros_like(batch.tokens)                                  # (B, T)
    guess[weight > 0] = logits.argmax(dim=1)

    in_path = batch.loss_mask
    wrong = in_path & (guess >= task.n_symbols) & (guess != task.path_end)
    return dict(
        path_nats=(nats * in_path).sum(dim=1),
        maze_nats=(nats * ~in_path).sum(dim=1),
        tokens=in_path.sum(dim=1),
        wrong=wrong.sum(dim=1),
        adjacency_first=wrong.gather(1, batch.chain_start[:, None])[:, 0])


def test_batches(task, run, seed, n_test, size, split):
    """The n_test held-out mazes of size x size, as pairs (number of the first maze, batch)."""
    for first in range(0, n_test, 500):
        B = min(500, n_test - first)
        batch = sample_batch(task, B, seed, size * 10**6 + first, split, hops=size)
        yield first, batch.to(run.device)


@torch.no_grad()
def walk_all(task, run, seed, n_test, size, split='test'):
    """What score_paths says of both baselines on the test mazes: {name: {measure: (n_test,)}}."""
    parts = {name: [] for name in BASELINES}
    for first, batch in test_batches(task, run, seed, n_test, size, split):
        for name in BASELINES:
            rng = np.random.default_rng([seed, 3, first])
            paths = walk(task, batch, name == 'greedy', rng)
            parts[name].append(score_paths(task, batch, paths))
    return {name: join(dicts) for name, dicts in parts.items()}


@torch.no_grad()
def evaluate(model, task, run, seed, n_test, size, n_mazes=None, split='test'):
    """The model on held-out mazes of size x size.

    n_mazes: take only the first so many of the n_test mazes.
    Returns {measure: (mazes,)}, the steps of the true paths (mazes,), and the last batch with the
    model's paths.
    """
    n_mazes = n_mazes or n_test
    parts = []  # for each batch a dict of (B,) tensors
    path_lengths = []
    for first, batch in test_batches(task, run, seed, n_test, size, split):
        if first >= n_mazes:
            break
        batch = batch[:n_mazes - first]
        path_lengths.append(batch.loss_mask.sum(dim=1) - 2)  # steps: without origin and <PATH_END>
        with run.autocast:
            paths = write_paths(model, task, batch)
            measures = score_paths(task, batch, paths)
            if model.config.causal:
                measures |= teacher_forcing(model, task, batch)
        parts.append(measures)
        examples = (batch, paths)
    return join(parts), torch.cat(path_lengths).cpu(), examples


def all_results(counts, path_lengths):
    """{'model': rates, 'greedy': rates, 'random': rates, 'by_steps': exact by path length}

    counts: {'model', 'greedy', 'random': {measure: (mazes,)}}. path_lengths (mazes,).
    """
    results = {name: rates(counts[name]) for name in counts}
    results['by_steps'] = exact_by_length(counts, path_lengths)
    return results


def join(dicts):
    """A list of dicts of tensors -> one dict of float64 tensors on the CPU."""
    return {key: torch.cat([d[key] for d in dicts]).cpu().double() for key in dicts[0]}


def rates(counts):
    """Means over mazes. Where a maze counts several things, one sum divided by another."""
    results = {}
    for key in (*COLUMNS, 'maze_nats', 'adjacency_first'):
        if key in counts and key not in RATIOS:
            results[key] = counts[key].mean().item()
    for key, (above, below) in RATIOS.items():
        if above in counts:
            results[key] = (counts[above].sum() / counts[below].sum().clamp(min=1)).item()
    return results


def exact_by_length(counts, path_lengths):
    """{steps: {'n': mazes, 'model': share that is exact, 'greedy': ..., 'random': ...}}"""
    results = {}
    for k in path_lengths.unique():
        is_length_k = path_lengths == k
        row = {'n': int(is_length_k.sum())}
        for name in counts:
            row[name] = counts[name]['exact'][is_length_k].mean().item()
        results[int(k)] = row
    return results


# -----------------------------------------------------------------------------
# training

def get_lr(step, args):
    """Linear warm-up, then a cosine to zero."""
    warmup = min(1, (step + 1) / (args.warmup_iters + 1))
    steps_done = max(0, step - args.warmup_iters)
    n_steps = max(1, args.max_iters - args.warmup_iters)
    cosine = 0.5 * (1 + math.cos(math.pi * steps_done / n_steps))
    return args.learning_rate * warmup * cosine


def train(task, config, args, run):
    """From scratch, or from this run's checkpoint. Returns the model and the step it reached."""
    torch.manual_seed(args.seed)
    model = GPT(config).to(run.device)
    optimizer = model.configure_optimizer(args.learning_rate, args.weight_decay)
    resumed = step = run.resume('ckpt.pt', model, optimizer, args.loss)['step']
    ddp_model = run.distribute(model)
    bar = run.progress_bar(args.loss, step, args.max_iters)
    train_split, _ = common.splits(args)

    run.begin_training()
    while True:
        # once in a while, and at both ends: evaluate, and save a checkpoint
        last = step == args.max_iters
        stop = run.should_stop()
        check = (last or step % args.eval_interval == 0) and (step == 0 or step > resumed)
        if check and run.master:
            evaluate_and_log(model, task, args, run, step)
        if step > resumed and (check or stop):
            run.save('ckpt.pt', model, optimizer, step)
        if last or stop:
            break

        # the batch is a function of (seed, step); each process takes its share of the global batch
        batch = sample_batch(task, args.batch_size * run.world, args.seed, step, train_split,
                             hops=args.grid)
        weight = loss_weights(args.loss, batch, task.pad, args.seed, step)
        my_batch = run.my_rows(batch).to(run.device)
        my_weight = run.my_rows(weight).to(run.device)

        # forward and backward
        with run.autocast:
            loss = compute_loss(args, task, ddp_model, my_batch, my_weight)
        (loss * run.world).backward()  # DDP averages over processes

        # update
        lr = get_lr(step, args)
        for group in optimizer.param_groups:
            group['lr'] = lr
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        bar.update()

        # log
        evaluates_next = step % args.eval_interval == 0 or step == args.max_iters
        if evaluates_next or step % args.log_interval == 0:
            total_loss = run.total(loss=loss.detach())['loss']
            run.check_finite(step, model, loss=total_loss, grad_norm=grad_norm)
            bar.set_postfix(loss=f'{total_loss:.4f}', refresh=False)
            run.log(arm=args.loss, step=step, loss=total_loss, lr=lr, grad_norm=float(grad_norm))
    bar.close()
    return model, step


def evaluate_and_log(model, task, args, run, step):
    """Test on every size that is trained, on the first eighth of the test mazes. Print and log how
    far the model is."""
    n_mazes = max(1, args.n_test // 8)
    _, test_split = common.splits(args)
    line = f'{args.loss} step {step}:'
    measures = {}
    for n in args.grid:
        counts, _, _ = evaluate(model, task, run, args.seed, args.n_test, n, n_mazes, test_split)
        measures[n] = rates(counts)
        line += f'   {n}x{n}'
        for key in ('exact', 'legal', 'fork'):
            line += f' {key} {measures[n][key]:.3f}'
    run.print(line)
    run.log(arm=args.loss, step=step, eval=measures)


# -----------------------------------------------------------------------------
# everything in order

def main(argv=None):
    """Train and test. Returns the values of the last line."""
    args = parse_args(argv)
    model = None
    trained_sizes = []
    if args.eval_only:
        model, state = common.load_checkpoint(args.ckpt)
        trained = vars(args) | state['args']
        trained_sizes = [*trained['grid'], *(trained['test_grid'] or [])]
    task, config, sizes = fill_in(args, trained_sizes)
    if args.eval_only:
        largest = max(trained_sizes)
        require(config == model.config, f'{args.ckpt} was made for grids up to '
                                        f'{largest}x{largest}; --test_grid cannot go beyond')

    needed = memory.require_memory(
        memory_phases(args, task, config), common.find_device(args.device), task)
    require_both_splits(task, sizes, args)
    params = GPT(config).num_params()
    _, test_split = common.splits(args)
    with common.Run('train_maze', args, can_grow=True, params=params) as run:

        # the baselines on the test mazes
        walks = {}
        if run.master:
            for size in sizes:
                walks[size] = walk_all(task, run, args.seed, args.n_test, size, test_split)

        # train, or take what --ckpt holds
        if args.eval_only:
            model.to(run.device)
            n_mazes = args.batch_size * state['step'] * state['args'].get('processes', 1)
        else:
            run.print_settings()
            run.print(LEGEND)
            run.print(f'{params:,} parameters, global batch {args.batch_size} x {run.world} = '
                      f'{args.batch_size * run.world}, files in {args.out_dir}, about '
                      f'{memory.in_gib(needed)} of memory')
            if run.master:
                print_walks(walks, args, run)
            model, step = train(task, config, args, run)
            run.end_training(step)
            n_mazes = args.batch_size * args.max_iters * run.world
        if not run.master:
            return None

        # the model beside the baselines, on held-out mazes of every size
        results = {}
        examples = {}
        for size in sizes:
            counts, path_lengths, examples[size] = evaluate(
                model, task, run, args.seed, args.n_test, size, split=test_split)
            results[size] = all_results({'model': counts} | walks[size], path_lengths)
            print_table(results[size], size, size in args.grid, run)
        print_by_length(results[max(args.grid)]['by_steps'], run)

        # the last line, the log's last record, the figure
        final = final_values(results, args)
        final |= dict(n_test=args.n_test, params=params, seed=args.seed, seconds=run.seconds(),
                      mazes=n_mazes)
        run.print(in_words(results, args))
        run.finish(final, step=args.max_iters, results=results)
        if not args.eval_only:
            write_examples(run.out_dir, task, max(args.grid), *examples[max(args.grid)])
            plots.draw_run(run.out_dir)
        return final


def print_walks(walks, args, run):
    """What the model is compared with: how many mazes the two walks get right."""
    for size in args.grid:
        parts = []
        for name in BASELINES:
            exact = walks[size][name]['exact'].mean().item()
            parts.append(f'{name} {exact:.3f}')
        run.print(f'exact without a model, {args.n_test:,} test mazes {size}x{size}: '
                  f'{", ".join(parts)}')


def in_words(results, args):
    """One sentence: what was found, and against which controls."""
    n = max(args.grid)
    right = {name: results[n][name]['exact'] for name in ('model', *BASELINES)}
    return (f'Right paths on {n}x{n}: the model {right["model"]:.3f}; without a model, the greedy '
            f'walk {right["greedy"]:.3f}, the random walk {right["random"]:.3f}.')


def print_table(results, size, is_trained, run):
    title = f'{size}x{size}' if is_trained else f'{size}x{size}, not trained'
    run.print(f'{title:16}' + ''.join(f'{key:>9}' for key in COLUMNS))
    for name in ('model', *BASELINES):
        run.print(f'  {name:14}' + ''.join(f'{results[name][key]:9.3f}' for key in COLUMNS))


def print_by_length(by_steps, run):
    parts = [f'{k}: {row["model"]:.2f} {row["greedy"]:.2f}' for k, row in by_steps.items()]
    run.print('  exact by steps, and greedy: ' + '  '.join(parts))


def final_values(results, args):
    """Every measure at the largest size that was trained, and some at the other sizes."""
    n = max(args.grid)
    final = dict(
        loss=args.loss,
        grid=format_range(args.grid),
        gen=args.gen,
        format=args.format,
        **results[n]['model'],
        greedy=results[n]['greedy']['exact'],
        random=results[n]['random']['exact'])
    for name in BASELINES:
        for key in ('shortest', 'fork'):
            final[f'{name}_{key}'] = results[n][name][key]
    for size in results:
        if size != n:
            for key in ('exact', 'origin', 'adjacency', 'adjacency_first'):
                final[f'{key}_{size}'] = results[size]['model'].get(key)
    return final


def write_examples(out_dir, task, size, batch, paths):
    """Eight mazes with the true path and the model's, for the figure: examples.json.

    The first two are mazes whose path is not a shortest one, if there are any.
    """
    is_shortest = score_paths(task, batch, paths)['shortest'].tolist()
    wrong_first = sorted(range(len(paths)), key=is_shortest.__getitem__)
    rows = list(dict.fromkeys(wrong_first[:2] + list(range(len(paths)))))

    mazes = []
    for row in rows[:8]:
        true = batch.tokens[row][batch.loss_mask[row]].tolist()
        mazes.append(dict(
            open_bits=batch.instance[row, 0, :size**2].tolist(),
            cells=task.cells[:size**2].tolist(),
            true=cells_of(task, true),
            path=cells_of(task, paths[row].tolist()),
            shortest=is_shortest[row]))
    text = json.dumps(dict(size=size, mazes=mazes)) + '\n'
    common.write_atomic(out_dir / 'examples.json', lambda path: path.write_text(text))


def cells_of(task, tokens):
    """The (row, column) of each token that is a cell."""
    return [task.cells[token].tolist() for token in tokens if token < task.n_symbols]


if __name__ == '__main__':
    with one_line_errors():
        main()
