"""Where the loss is, to the exact token; the losses against formulas worked out apart; the metrics on paths made by hand; resuming; the headline."""

import contextlib
import io
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import call, read_maze, search_from, two_processes

import probe
import search
import train_cot
import train_maze
import train_rl
from data import Maze, sample_batch
from model import GPT, GPTConfig

ROOT = Path(__file__).parent.parent
RUN = SimpleNamespace(device=torch.device('cpu'), autocast=contextlib.nullcontext(), world=1, rank=0, master=True)
TINY = '--grid 3 --n_layer 1 --n_head 1 --n_embd 16 --batch_size 8 --n_test 20'.split()
ADJ, GRID, LOOPS = Maze((3,)), Maze((3, 4), format='grid'), Maze((3, 4), 'percolation', 0.3)

def gpt(task, seed=0, layers=2, **kw):
    torch.manual_seed(seed)
    return GPT(GPTConfig(len(task.vocab), task.block_size, layers, 2, 16, **kw))

def args(loss, beta=None):
    return SimpleNamespace(loss=loss, beta=beta)

def run(folder, *argv):
    with contextlib.redirect_stdout(out := io.StringIO()):
        train_maze.main([*argv, '--device', 'cpu', '--out_dir', str(folder)])
    return dict(pair.split('=') for pair in out.getvalue().strip().split('\n')[-1].split()[1:])

def weights(folder):
    return torch.load(Path(folder) / 'ckpt.pt', weights_only=True)['model']

# ----------------------------------------------------------------------------- where the loss is

@pytest.mark.parametrize('task', [ADJ, GRID, LOOPS])
def test_weights_stand_where_they_should(task):
    """path: from the origin to <PATH_END>. full: everything but the first token and padding. balanced: either part adds up to one."""
    batch = sample_batch(task, 40, 1, 0)
    weight = {loss: train_maze.weigh(loss, batch, task.pad, 1, 0) for loss in ('path', 'graded', 'full', 'balanced')}
    for b, tokens in enumerate(batch.tokens.tolist()):
        words = task.decode(tokens).split()
        begin, end = words.index('<PATH_START>') + 1, words.index('<PATH_END>') + 1
        assert (weight['path'][b] > 0).tolist() == [begin <= t < end for t in range(len(words))]
        for loss in ('full', 'balanced'):
            assert (weight[loss][b] > 0).tolist() == [0 < t < end for t in range(len(words))] and set(words[end:]) <= {'<PADDING>'}
    path = weight['path'] > 0
    assert torch.equal(weight['path'], weight['graded'])
    for loss in ('path', 'full'):
        assert weight[loss][weight[loss] > 0].unique().numel() == 1 and abs(weight[loss].sum() - 1) < 1e-5
    assert abs(weight['balanced'][path].sum() - 1) < 1e-5 and abs(weight['balanced'][~path].sum() - 1) < 1e-5

def test_mlmu_keeps_a_uniform_share_and_only_path_tokens_are_masked():
    task = Maze((6,), 'wilson', format='grid')
    batch = sample_batch(task, 4000, 1, 0)
    weight = train_maze.weigh('mlmu', batch, task.pad, 1, 0)
    assert not weight[~batch.loss_mask].any() and abs(weight.sum() - 1) < 1e-4
    length, masked = batch.loss_mask.sum(1), (weight > 0).sum(1)
    for n in range(4, 9):  # the number of masked tokens of n, given r, is binomial; with r uniform all of 0 .. n are equally likely
        count = torch.bincount(masked[length == n], minlength=n + 1).double()
        expected = count.sum() / (n + 1)
        assert ((count - expected) ** 2 / expected).sum() < n + 5 * (2 * n) ** 0.5, n
    other = train_maze.weigh('mlmu', batch, task.pad, 1, 1)
    assert torch.equal(weight, train_maze.weigh('mlmu', batch, task.pad, 1, 0)) and not torch.equal(weight > 0, other > 0)

class Full:
    """A GPT that computes every position, and shows the gradient of all its logits."""
    def __init__(self, model):
        self.model, self.config = model, model.config

    def __call__(self, idx, loss_mask):
        self.logits = self.model(idx)
        self.logits.retain_grad()
        return self.logits[loss_mask]

@pytest.mark.parametrize('loss', ['path', 'graded', 'full', 'balanced'])
def test_no_gradient_where_there_is_no_loss(loss):
    """Exactly zero at all other positions; and the loss is cross-entropy worked out with plain loops."""
    task = LOOPS
    batch, model = sample_batch(task, 6, 1, 0), Full(gpt(task))
    weight = train_maze.weigh(loss, batch, task.pad, 1, 0)
    total = train_maze.loss_of(args(loss, 1.0), task, model, batch, weight)
    total.backward()
    carries = (weight > 0)[:, 1:]
    assert (model.logits.grad[~carries] == 0).all() and (model.logits.grad[carries].abs().sum(1) > 0).all()
    assert carries.sum() < carries.numel()
    if loss != 'graded':
        parts = {True: [], False: []}
        for b, t in carries.nonzero().tolist():
            logp = model.logits[b, t].detach().double().log_softmax(0)
            parts[bool(batch.loss_mask[b, t + 1])].append(-logp[batch.tokens[b, t + 1]].item())
        means = [np.mean(part) for part in parts.values() if part]
        assert abs(total.item() - (sum(means) if loss == 'balanced' else np.mean(parts[True] + parts[False]))) < 1e-5

@pytest.mark.parametrize('loss', ['path', 'graded', 'full', 'balanced', 'mlmu'])
def test_loss_and_gradients_do_not_depend_on_padding_or_on_who_shares_the_batch(loss):
    """Rows of a batch padded to the longest, one by one without padding, or in two slices: the same sum."""
    task = LOOPS
    batch = sample_batch(task, 6, 1, 0)
    weight, grads, totals = train_maze.weigh(loss, batch, task.pad, 1, 0), [], []
    for slices in ([slice(0, 6)], [slice(0, 2), slice(2, 6)], [slice(i, i + 1) for i in range(6)]):
        model, total = gpt(task, causal=loss != 'mlmu'), 0
        for rows in slices:
            part, w = batch[rows], weight[rows]
            if rows.stop - rows.start == 1:  # cut the padding off
                size = int(part.start[0] + part.loss_mask.sum())
                part.tokens, part.loss_mask, w = part.tokens[:, :size], part.loss_mask[:, :size], w[:, :size]
            if (w > 0).any():
                each = train_maze.loss_of(args(loss, 1.0), task, model, part, w)
                each.backward()
                total += each.item()
        totals.append(total)
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert max(abs(t - totals[0]) for t in totals) < 1e-5 and all((g - grads[0]).abs().max() < 1e-5 for g in grads)

@pytest.mark.parametrize('pos', ['learned', 'rope'])
def test_mlmu_a_masked_token_is_seen_by_nobody_and_positions_behind_the_path_do_not_exist(pos):
    task = LOOPS
    batch, model = sample_batch(task, 20, 1, 0), gpt(task, causal=False, pos=pos)
    weight = train_maze.weigh('mlmu', batch, task.pad, 1, 0)
    masked = weight > 0
    logits, token = train_maze.predict(model, batch.tokens, weight, task.pad)
    assert torch.equal(token, batch.tokens[masked]) and len(logits) == masked.sum() > 20
    other = batch.tokens.clone()
    other[masked] = (other[masked] + 1) % task.symbols
    assert torch.equal(train_maze.predict(model, other, weight, task.pad)[0], logits)
    room = task.block_size - batch.tokens.size(1)
    longer = F.pad(batch.tokens, (0, room), value=task.pad), F.pad(weight, (0, room))
    assert room > 0 and (train_maze.predict(model, *longer, task.pad)[0] - logits).abs().max() < 1e-5
    also = longer[1].clone()  # and if all that is appended is masked and asked for
    also[:, batch.tokens.size(1):] = 1
    assert (train_maze.predict(model, longer[0], also, task.pad)[0][F.pad(masked, (0, room))[also > 0]] - logits).abs().max() < 1e-5
    kept = batch.loss_mask & ~masked
    seen = batch.tokens.clone()
    seen[kept] = (seen[kept] + 1) % task.symbols
    changed = (train_maze.predict(model, seen, weight, task.pad)[0] - logits).abs().amax(1) > 1e-6
    assert torch.equal(changed, kept.any(1)[masked.nonzero()[:, 0]])  # what is kept is seen, by its own maze alone

# ----------------------------------------------------------------------------- graded

def by_hand(task, batch, beta):
    """(row, place) -> {token: w} for all tokens with w > 0, from the text."""
    table = {}
    for b, (tokens, mask) in enumerate(zip(batch.tokens.tolist(), batch.loss_mask.tolist(), strict=True)):
        edges, origin, target, path = read_maze(task.decode(tokens[:mask.index(True) + sum(mask)]))
        far, number = search_from(edges, target), {word: i for i, word in enumerate(task.vocab)}
        for i in range(len(path) + 1):
            w = table[b, mask.index(True) + i] = {}
            if i == 0:
                w[number['({},{})'.format(*origin)]] = 1.0
                continue
            for other in far:
                if frozenset((path[i - 1], other)) in edges and other != path[i - 1]:
                    w[number['({},{})'.format(*other)]] = 1.0 if far[other] < far[path[i - 1]] else math.exp(-2 * beta)
            if path[i - 1] == target:
                w[number['<PATH_END>']] = 1.0
    return table

@pytest.mark.parametrize('task', [ADJ, GRID, LOOPS, Maze((4,), 'percolation', 0.6, 'grid')])
@pytest.mark.parametrize('beta', [0.0, 0.7, 3.0])
def test_grades_are_one_for_the_best_steps_less_for_legal_ones_and_nothing_for_the_rest(task, beta):
    batch = sample_batch(task, 60, 1, 0)
    log_w, table, ties = train_maze.grade(task, batch, beta), by_hand(task, batch, beta), 0
    assert len(log_w) == len(table) == batch.loss_mask.sum()
    for row, place in zip(log_w, batch.loss_mask.nonzero().tolist(), strict=True):
        w = table[tuple(place)]
        assert {i for i, x in enumerate(row.tolist()) if x > -math.inf} == set(w)
        assert all(abs(row[i].exp() - x) < 1e-6 for i, x in w.items())
        ties += list(w.values()).count(1.0) > 1 and beta > 0
    assert (ties > 0) == (task.gen == 'percolation' and beta > 0)  # on a tree one step is right

def test_graded_loss_is_zero_on_the_best_step_two_beta_on_a_detour_and_huge_off_the_maze():
    task, beta = LOOPS, 0.8
    batch = sample_batch(task, 40, 1, 0)
    weight, log_w = train_maze.weigh('graded', batch, task.pad, 1, 0), train_maze.grade(task, batch, beta)
    for value, of in ((0.0, log_w == 0), (2 * beta, (log_w < 0) & (log_w > -math.inf)), (50.0, log_w == -math.inf)):
        rows = of.any(1)
        logits = torch.full((len(rows), len(task.vocab)), -1e4)
        logits[torch.arange(len(rows)), of.int().argmax(1)] = 0  # all probability on one such token
        if not rows.all():  # those without one: on a best one
            best = (log_w == 0).int().argmax(1)
            logits[~rows] = -1e4
            logits[~rows, best[~rows]] = 0
        model = lambda idx, mask, logits=logits: logits  # noqa: E731
        model.config = SimpleNamespace(causal=True)
        each = train_maze.loss_of(args('graded', beta), task, model, batch, weight * batch.loss_mask.sum()).item() / int(rows.sum())
        assert each > 50 if value == 50 else abs(each - value) < 1e-4, (value, each)

def test_graded_gradient_is_p_times_one_minus_w_over_its_mean():
    task, beta = LOOPS, 1.0
    batch = sample_batch(task, 30, 1, 0)
    model = Full(gpt(task))
    weight = train_maze.weigh('graded', batch, task.pad, 1, 0)
    train_maze.loss_of(args('graded', beta), task, model, batch, weight).backward()
    carries = (weight > 0)[:, 1:]
    p, w = model.logits.detach()[carries].softmax(1), train_maze.grade(task, batch, beta).exp()
    W = (p * w).sum(1, keepdim=True)
    assert (model.logits.grad[carries] * batch.loss_mask.sum() - p * (1 - w / W)).abs().max() < 1e-6

@pytest.mark.parametrize('task', [ADJ, GRID])
def test_on_trees_graded_with_an_infinite_beta_is_the_path_loss(task):
    batch, model = sample_batch(task, 30, 1, 0), gpt(task)
    weight = train_maze.weigh('path', batch, task.pad, 1, 0)
    a, b = (train_maze.loss_of(args(loss, 1e9), task, model, batch, weight).item() for loss in ('path', 'graded'))
    assert abs(a - b) < 1e-6 and a > 1

# ----------------------------------------------------------------------------- what is measured

def paths_of(task, *rows):
    end = task.vocab[task.end]
    return torch.tensor([task.encode(' '.join((row.split() + [end] * task.answer_len)[:task.answer_len])) for row in rows])

def one_maze(task, text):
    """A batch of this one maze: the true path is what stands in the text."""
    edges, origin, target, path = read_maze(text)
    batch, far, tokens = sample_batch(task, 1, 0, 0), search_from(edges, target), torch.tensor([task.encode(text)])
    cells = [tuple(x) for x in task.cells.tolist()[:-1]]
    bits = [sum(1 << k for k, o in enumerate(((r - 1, c), (r, c - 1), (r + 1, c), (r, c + 1))) if frozenset(((r, c), o)) in edges) for r, c in cells]
    batch.tokens, batch.instance = tokens, torch.tensor([[[*bits, 0], [*(far.get(c, -1) for c in cells), -1]]])
    batch.loss_mask = torch.arange(tokens.size(1))[None] > tokens[0].tolist().index(task.begin)
    return batch

LOOP = ('<ADJLIST_START> (0,0) <--> (0,1) ; (0,1) <--> (1,1) ; (1,1) <--> (1,0) ; (1,0) <--> (0,0) ; (1,1) <--> (1,2) ; (1,2) <--> (0,2) ; (1,2) <--> (2,2) ; '
        '(2,2) <--> (2,1) ; (2,1) <--> (2,0) ; <ADJLIST_END> <ORIGIN_START> (0,0) <ORIGIN_END> <TARGET_START> (2,2) <TARGET_END> <PATH_START> '
        '(0,0) (0,1) (1,1) (1,2) (2,2) <PATH_END>')

@pytest.mark.parametrize('path, expected', [  # forks: (0,0), from which two ways are best; (1,1), one of two; (1,2), one of two
    ('(0,0) (0,1) (1,1) (1,2) (2,2)', dict(exact=1, shortest=1, valid=1, reach=1, ends=1, origin=1, regret=0, legal=4, steps=4, right=3, forks=3)),
    ('(0,0) (1,0) (1,1) (1,2) (2,2)', dict(exact=0, shortest=1, valid=1, reach=1, ends=1, origin=1, regret=0, legal=4, steps=4, right=3, forks=3)),
    ('(0,0) (0,1) (1,1) (1,2) (0,2) (1,2) (2,2)', dict(exact=0, shortest=0, valid=1, reach=1, ends=1, regret=2, legal=6, steps=6, right=2, forks=3)),
    ('(0,0) (0,1) (1,1) (2,1) (2,2)', dict(exact=0, shortest=0, valid=0, reach=1, ends=1, origin=1, regret=0, legal=3, steps=4, right=1, forks=2)),
    ('(0,1) (1,1) (1,2) (2,2)', dict(exact=0, shortest=0, valid=0, reach=1, origin=0, legal=3, steps=3, right=0, forks=0)),
    ('(0,0) (0,1) (1,1)', dict(exact=0, shortest=0, valid=0, reach=0, ends=1, origin=1, legal=2, steps=2, right=1, forks=2)),
    ('(0,0) (0,1) <--> (1,1) (1,2) (2,2)', dict(exact=0, shortest=0, valid=0, reach=1, legal=3, steps=5, right=1, forks=1)),
    ('', dict(exact=0, shortest=0, valid=0, reach=0, ends=1, origin=0, legal=0, steps=0, right=0, forks=0)),
    ('(0,0) (0,1) (0,0) (0,1) (0,0) (0,1) (0,0) (0,1) (0,0) (0,1)', dict(exact=0, valid=0, reach=0, ends=0, origin=1, legal=9, steps=9, right=1, forks=1)),
    ('(0,0) (0,1) (1,1) (1,2) (2,2) (2,1) (2,2)', dict(exact=0, shortest=0, valid=1, reach=1, regret=2, legal=6, steps=6, right=3, forks=3))])
def test_paths_made_by_hand(path, expected):
    found = {key: value[0].item() for key, value in train_maze.judge(Maze((3,)), one_maze(Maze((3,)), LOOP), paths_of(Maze((3,)), path)).items()}
    assert {key: found[key] for key in expected} == expected

def test_true_paths_are_judged_right_in_every_respect():
    for task in (ADJ, GRID, LOOPS):
        batch = sample_batch(task, 100, 3, 0)
        paths = torch.full((100, task.answer_len), task.end)
        for b, (tokens, mask) in enumerate(zip(batch.tokens, batch.loss_mask, strict=True)):
            paths[b, :mask.sum()] = tokens[mask]
        found = train_maze.judge(task, batch, paths)
        assert all(found[key].all() for key in ('exact', 'shortest', 'valid', 'reach', 'ends', 'origin')) and not found['regret'].any()
        assert torch.equal(found['legal'], found['steps']) and torch.equal(found['right'], found['forks'])
        assert torch.equal(found['steps'], batch.loss_mask.sum(1) - 2)

def plain_walks(task, text, greedy):
    """Every path such a walk can take, with its probability."""
    edges, origin, target, _ = read_maze(text)
    open_paths, done = {(origin,): 1.0}, {}
    while open_paths:
        path, p = open_paths.popitem()
        onward = [o for e in edges if path[-1] in e for o in e if o != path[-1] and o != (path[-2] if len(path) > 1 else None)]
        if greedy and onward:
            far = {o: abs(o[0] - target[0]) + abs(o[1] - target[1]) for o in onward}
            onward = [o for o in onward if far[o] == min(far.values())]
        if path[-1] == target or not onward or len(path) > 9:
            done[path] = p
        else:
            open_paths |= {(*path, o): p / len(onward) for o in onward}
    return done

@pytest.mark.parametrize('greedy', [False, True])
def test_the_baselines_walk_as_they_should(greedy):
    """On fixed mazes, the share of each path against its probability, worked out by plain enumeration."""
    task, rng = Maze((3,)), np.random.default_rng(0)
    source = sample_batch(task, 6, 2, 0)
    for b in range(6):
        batch = source[torch.full((2000,), b)]
        text = task.decode(batch.tokens[0, :batch.start[0] + batch.loss_mask[0].sum()].tolist())
        walked = train_maze.walk(task, batch, greedy, rng).tolist()
        for path, p in plain_walks(task, text, greedy).items():
            ids = task.encode(' '.join('({},{})'.format(*c) for c in path))
            share = sum(w[:len(ids) + 1] == [*ids, task.end] for w in walked) / 2000
            assert abs(share - p) < 5 * (p * (1 - p) / 2000) ** 0.5 + 1e-9

def test_baselines_of_known_mazes():
    """As measured apart from this project on 300 mazes: greedy 0.657, random 0.416 on 4x4 dfs; 0.629, 0.285 on Wilson's."""
    for gen, greedy, chance in (('dfs', 0.657, 0.416), ('wilson', 0.629, 0.285)):
        task = Maze((4,), gen, format='grid')
        batch, rng = sample_batch(task, 3000, 0, 0), np.random.default_rng(0)
        for known, which in ((greedy, True), (chance, False)):
            found = train_maze.judge(task, batch, train_maze.walk(task, batch, which, rng))
            assert abs(found['exact'].float().mean() - known) < 0.05 and torch.equal(found['legal'], found['steps'])

class Scripted:
    """A causal model that writes, whatever the maze, these tokens, and reads along with them as its guesses."""
    def __init__(self, task, tokens):
        self.config, self.tokens, self.size = SimpleNamespace(causal=True), tokens, len(task.vocab)

    def generate(self, prompt, n):
        return torch.cat((prompt, torch.tensor([(self.tokens * n)[:n]] * len(prompt))), 1)

    def __call__(self, idx, loss_mask):
        return torch.zeros(int(loss_mask.sum()), self.size)

def test_paths_end_at_the_first_path_end_and_a_uniform_model_has_uniform_losses():
    task = Maze((3, 4), 'percolation', 0.3)  # prompts of many lengths
    batch = sample_batch(task, 30, 1, 0)
    model = Scripted(task, [3, 1, task.end, 5])
    assert train_maze.write_paths(model, task, batch).tolist() == [[3, 1] + [task.end] * 15] * 30
    r, V = train_maze.read_along(model, task, batch), math.log(len(task.vocab))
    assert torch.allclose(r['path_nats'], batch.loss_mask.sum(1) * V) and torch.allclose(r['maze_nats'], (batch.start - 1) * V)
    assert not r['wrong'].any()  # its likeliest token, the first, is a cell

def test_adjacency_tokens_are_counted_by_hand():
    """A model that says <--> at every second path position."""
    task, batch = ADJ, sample_batch(ADJ, 30, 1, 0)
    sign, cell = task.encode('<-->')[0], 0

    def model(idx, loss_mask):
        row, place = loss_mask.nonzero(as_tuple=True)
        odd = (place + 1 - batch.start[row]) % 2 == 0
        return F.one_hot(torch.where(odd, sign, cell), len(task.vocab)).float()
    model.config = SimpleNamespace(causal=True)
    r = train_maze.read_along(model, task, batch)
    assert torch.equal(r['wrong'], (batch.loss_mask.sum(1) + 1) // 2) and r['adjacency_first'].all()

@pytest.mark.parametrize('loss', ['path', 'mlmu'])
def test_teacher_forced_and_written_paths_are_exact_on_the_same_mazes(loss, tmp_path):
    """On trees, where one token is right at each step; for mlmu, with the rest of the path masked."""
    run(tmp_path, *'--grid 3 --n_layer 2 --n_embd 32 --batch_size 64 --steps 110 --eval_interval 110 --n_test 10 --loss'.split(), loss)
    task, model = Maze((3,), format='grid'), train_maze.common.load_checkpoint(tmp_path / 'ckpt.pt')[0].eval()
    with torch.no_grad():
        batch = sample_batch(task, 200, 5, 0, 'test')
        written = train_maze.judge(task, batch, train_maze.write_paths(model, task, batch))['exact']
        forced = torch.ones(200, dtype=torch.bool)
        for t in range(batch.prompt_len, batch.tokens.size(1)):
            if loss == 'path':
                guess = model(batch.tokens[:, :t])[:, -1].argmax(1)
            else:
                hide = torch.zeros_like(batch.tokens, dtype=torch.float)
                hide[:, t:] = 1.0
                guess = train_maze.predict(model, batch.tokens, hide, task.pad)[0].view(200, -1, len(task.vocab))[:, 0].argmax(1)
            forced &= (guess == batch.tokens[:, t]) | ~batch.loss_mask[:, t]
    assert torch.equal(written, forced) and 10 < written.sum() < 190

# ----------------------------------------------------------------------------- the run

@pytest.mark.parametrize('extra', [
    '', '--loss full', '--loss balanced --format adjlist', '--loss graded --gen percolation --format adjlist', '--loss mlmu --pos rope',
    '--gen wilson --grid 3-4 --test_grid 5 --format adjlist --no_separators'])
def test_every_loss_trains_and_leaves_what_a_run_leaves(extra, tmp_path):
    final = run(tmp_path, *TINY, '--steps', '4', *extra.split())
    assert {p.name for p in tmp_path.iterdir()} == {'config.json', 'log.jsonl', 'ckpt.pt', 'plot.png'}
    keys = 'loss grid gen format exact shortest legal reach ends fork regret greedy random n_test params mazes seconds'.split()
    assert set(keys) < set(final) and final['mazes'] == '32' and 0.4 < float(final['greedy']) <= 1
    records = [json.loads(line) for line in open(tmp_path / 'log.jsonl')]
    assert [r['step'] for r in records if 'eval' in r] == [0, 1, 2, 3, 4] and records[-1]['arm'] == 'final'
    assert ('test_grid' in extra) == ('exact_5' in final) and ('mlmu' in extra) == ('maze_nats' not in final)
    code, out, err = call(train_maze, ['--eval_only', '--ckpt', str(tmp_path / 'ckpt.pt'), '--device', 'cpu'])
    again = dict(pair.split('=') for pair in out.strip().split('\n')[-1].split()[1:])
    assert code == 0 and {k: v for k, v in final.items() if k != 'seconds'} == {k: v for k, v in again.items() if k != 'seconds'}

def test_a_checkpoint_is_tested_on_smaller_grids_but_not_on_larger_ones(tmp_path):
    run(tmp_path, *TINY, '--grid', '4', '--steps', '2')
    argv = ['--eval_only', '--ckpt', str(tmp_path / 'ckpt.pt'), '--device', 'cpu']
    code, out, _ = call(train_maze, [*argv, '--test_grid', '3'])
    assert code == 0 and '3x3, not trained' in out and 'exact_3=' in out
    for extra in (['--test_grid', '5'], ['--grid', '3'], ['--loss', 'full']):
        code, out, err = call(train_maze, [*argv, *extra])
        assert code == 2 and err.count('\n') == 1 and out == ''

def test_the_largest_size_of_a_checkpoint_need_not_be_tested_again(tmp_path):
    run(tmp_path, *TINY, '--test_grid', '5', '--steps', '2')
    code, out, err = call(train_maze, ['--eval_only', '--ckpt', str(tmp_path / 'ckpt.pt'), '--device', 'cpu', '--test_grid', '4'])
    assert code == 0 and '4x4, not trained' in out and '5x5' not in out and ' mazes=16' in out, err

def test_other_scripts_refuse_the_checkpoint_in_one_line(tmp_path):
    run(tmp_path / 'maze', *TINY, '--steps', '1')
    for script in (search, probe, train_cot, train_rl):
        argv = ['--ckpt', str(tmp_path / 'maze' / 'ckpt.pt'), '--device', 'cpu'] + ['--eval_only'] * (script in (train_cot, train_rl))
        code, out, err = call(script, argv)
        assert code == 2 and err.count('\n') == 1 and out == ''

def test_resume_after_any_stop_is_the_uninterrupted_run(tmp_path, monkeypatch):
    argv = [*TINY, '--loss', 'mlmu', '--steps', '12', '--eval_interval', '5', '--log_interval', '2']
    run(tmp_path / 'whole', *argv)

    class Cut(Exception):
        pass
    for stops in ([3], [8, 4]):
        folder, real = tmp_path / '-'.join(map(str, stops)), train_maze.weigh
        for i, after in enumerate(stops):
            left = iter(range(after))

            def limited(loss, batch, pad, seed, step, left=left, real=real):
                if loss != 'full' and next(left, None) is None:
                    raise Cut
                return real(loss, batch, pad, seed, step)
            monkeypatch.setattr(train_maze, 'weigh', limited)
            with pytest.raises(Cut):
                run(folder, *argv, *['--resume'] * (i > 0))
            monkeypatch.setattr(train_maze, 'weigh', real)
        run(folder, *argv, '--resume')
        a, b = weights(tmp_path / 'whole'), weights(folder)
        assert all(torch.equal(a[k], b[k]) for k in a)
        logs = [[r for r in map(json.loads, open(f / 'log.jsonl')) if r['arm'] != 'final'] for f in (tmp_path / 'whole', folder)]
        assert logs[0] == logs[1]

def test_divergence_ends_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        run(tmp_path, *TINY, '--lr', '1e15', '--eval_interval', '1', '--steps', '20')
    err = capsys.readouterr().err
    assert end.value.code == 1 and 'diverged' in err and err.count('\n') == 1
    assert not (tmp_path / 'ckpt.pt').exists() or all(w.isfinite().all() for w in weights(tmp_path).values())

def test_two_processes_do_what_one_does_with_twice_the_batch(tmp_path):
    argv = '--grid 3-4 --gen percolation --loss mlmu --n_layer 1 --n_head 1 --n_embd 16 --steps 20 --log_interval 1 --n_test 20 --device cpu'.split()
    done = two_processes('train_maze.py', *argv, '--batch_size', 8, '--out_dir', tmp_path / 'two')
    assert done.returncode == 0 and done.stdout.count('final ') == 1, done.stderr
    run(tmp_path / 'one', *argv, '--batch_size', '16')
    two, one = ([r['loss'] for r in map(json.loads, open(tmp_path / f / 'log.jsonl')) if 'loss' in r and 'grad_norm' in r] for f in ('two', 'one'))
    assert len(one) == len(two) == 20 and max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4
    a, b = weights(tmp_path / 'one'), weights(tmp_path / 'two')
    assert max((a[k] - b[k]).abs().max() for k in a) < 1e-3

# ----------------------------------------------------------------------------- headlines

@pytest.mark.slow
def test_a_signal_saves_and_leaves_with_the_usual_code(tmp_path):
    argv = [*TINY, '--steps', str(10**6), '--device', 'cpu', '--out_dir', str(tmp_path)]
    process = subprocess.Popen([sys.executable, 'train_maze.py', *argv], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (log := tmp_path / 'log.jsonl').exists() or log.read_text().count('loss') < 2:
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and '--resume' in err and 'Traceback' not in err and (tmp_path / 'ckpt.pt').exists()

@pytest.mark.slow
def test_headline(tmp_path):
    final = run(tmp_path)
    assert float(final['exact']) >= 0.95 > float(final['greedy']) > float(final['random']) and float(final['seconds']) < 600

@pytest.mark.slow
def test_path_against_full_after_1000_steps(tmp_path):
    argv = '--format adjlist --grid 3 --n_layer 2 --batch_size 32 --lr 5e-4 --steps 1000'.split()
    exact = {loss: float(run(tmp_path / loss, '--loss', loss, *argv)['exact']) for loss in ('path', 'full', 'balanced')}
    assert exact['path'] >= exact['full'] + 0.25 and exact['balanced'] >= exact['full'] + 0.25

@pytest.mark.slow
def test_speeds(tmp_path):
    """A step of path takes at most 0.8 of one of full (adjlist 4x4, 3 layers); 50,000 mazes a second with their solutions, on one core."""
    out = subprocess.run([sys.executable, 'results/maze_speed.py'], cwd=ROOT, text=True, capture_output=True).stdout
    final = dict(pair.split('=') for pair in out.strip().split('\n')[-1].split()[1:])
    assert float(final['path_full_3']) <= 0.8 and int(final['mazes_per_s']) >= 50_000

@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('loss', ['path', 'mlmu'])
def test_a_short_run_on_a_gpu(loss, tmp_path):
    with contextlib.redirect_stdout(out := io.StringIO()):
        train_maze.main(['--loss', loss, '--steps', '300', '--device', 'cuda', '--out_dir', str(tmp_path)])
    assert 'exact=' in out.getvalue()
