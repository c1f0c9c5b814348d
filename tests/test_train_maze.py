"""Where the loss is, to the exact token; the losses against formulas worked out apart; the metrics
on paths made by hand; resuming; the headline."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, call, final_values, with_figures
from plain_maze import distances_from, read_maze
from plain_training import PlainAdamW, Saved, is_as_written_out, warmup_and_cosine

import common
import probe
import search
import train_cot
import train_maze
import train_rl
from data import STREAMS, held_out, sample_batch
from maze import Maze
from model import GPT, GPTConfig


TINY = '--grid 3 --n_layer 1 --n_head 1 --n_embd 16 --batch_size 8 --n_test 20'.split()
RUN = SimpleNamespace(device=torch.device('cpu'), autocast=contextlib.nullcontext())
ADJLIST = Maze((3,))
GRID = Maze((3, 4), format='grid')
LOOPS = Maze((3, 4), 'percolation', 0.3)


def make_model(task, seed=0, n_layer=2, **options):
    torch.manual_seed(seed)
    return GPT(GPTConfig(len(task.vocab), task.block_size, n_layer, 2, 16, **options))


def args_of(loss, beta=None):
    return SimpleNamespace(loss=loss, beta=beta)


def run(folder, *argv):
    """train_maze in this process; returns the words of its last line."""
    argv = [*map(str, argv), '--device', 'cpu', '--out_dir', str(folder)]
    code, out, err = call(train_maze, argv)
    assert code == 0, err
    return final_values(out)


def evaluate_checkpoint(folder, *argv):
    checkpoint = str(Path(folder) / 'ckpt.pt')
    return call(train_maze, ['--eval_only', '--ckpt', checkpoint, '--device', 'cpu', *argv])


def without_seconds(final):
    return {name: value for name, value in final.items() if name != 'seconds'}


def weights(folder):
    return torch.load(Path(folder) / 'ckpt.pt', weights_only=True)['model']


def all_weights(loss, batch, task):
    return train_maze.loss_weights(loss, batch, task.pad, 1, 0)


# -----------------------------------------------------------------------------
# where the loss is

@pytest.mark.parametrize('task', [ADJLIST, GRID, LOOPS])
def test_weights_stand_where_they_should(task):
    """path: from the origin to <PATH_END>. full: everything but the first token and the padding.
    balanced: each of the two parts adds up to one."""
    batch = sample_batch(task, 40, 1, 0)
    weight = {}
    for loss in ('path', 'graded', 'full', 'balanced'):
        weight[loss] = all_weights(loss, batch, task)

    for b, tokens in enumerate(batch.tokens.tolist()):
        words = task.decode(tokens).split()
        start = words.index('<PATH_START>') + 1
        end = words.index('<PATH_END>') + 1
        places = range(len(words))
        assert (weight['path'][b] > 0).tolist() == [start <= t < end for t in places]
        for loss in ('full', 'balanced'):
            assert (weight[loss][b] > 0).tolist() == [0 < t < end for t in places]
        assert set(words[end:]) <= {'<PADDING>'}

    in_path = weight['path'] > 0
    assert torch.equal(weight['path'], weight['graded'])
    for loss in ('path', 'full'):
        assert weight[loss][weight[loss] > 0].unique().numel() == 1
        assert abs(weight[loss].sum() - 1) < 1e-5
    assert abs(weight['balanced'][in_path].sum() - 1) < 1e-5
    assert abs(weight['balanced'][~in_path].sum() - 1) < 1e-5


def test_mlmu_keeps_a_uniform_share_and_masks_only_path_tokens():
    task = Maze((6,), 'wilson', format='grid')
    batch = sample_batch(task, 4000, 1, 0)
    weight = all_weights('mlmu', batch, task)
    assert not weight[~batch.loss_mask].any() and abs(weight.sum() - 1) < 1e-4

    # The number of masked tokens of n, given r, is binomial. With r uniform, all of 0 .. n are
    # equally likely: a chi-squared test.
    length = batch.loss_mask.sum(dim=1)
    n_masked = (weight > 0).sum(dim=1)
    for n in range(4, 9):
        count = torch.bincount(n_masked[length == n], minlength=n + 1).double()
        expected = count.sum() / (n + 1)
        assert ((count - expected) ** 2 / expected).sum() < n + 5 * (2 * n) ** 0.5, n

    # the same step masks the same tokens, another step others
    other = train_maze.loss_weights('mlmu', batch, task.pad, 1, 1)
    assert torch.equal(weight, all_weights('mlmu', batch, task))
    assert not torch.equal(weight > 0, other > 0)


class EveryPosition:
    """A GPT that computes every position, and shows the gradient of all its logits."""

    def __init__(self, model):
        self.model = model
        self.config = model.config

    def __call__(self, idx, loss_mask):
        self.logits = self.model(idx)
        self.logits.retain_grad()
        return self.logits[loss_mask]


@pytest.mark.parametrize('loss', ['path', 'graded', 'full', 'balanced'])
def test_no_gradient_where_there_is_no_loss(loss):
    """Exactly zero at all other positions. And the loss is cross-entropy worked out with loops."""
    task = LOOPS
    batch = sample_batch(task, 6, 1, 0)
    model = EveryPosition(make_model(task))
    weight = all_weights(loss, batch, task)
    total = train_maze.compute_loss(args_of(loss, 1.0), task, model, batch, weight)
    total.backward()
    is_target = (weight > 0)[:, 1:]
    assert (model.logits.grad[~is_target] == 0).all()
    assert (model.logits.grad[is_target].abs().sum(dim=1) > 0).all()
    assert is_target.sum() < is_target.numel()
    if loss == 'graded':
        return

    path_losses = []
    maze_losses = []
    for b, t in is_target.nonzero().tolist():
        log_p = model.logits[b, t].detach().double().log_softmax(0)
        losses = path_losses if batch.loss_mask[b, t + 1] else maze_losses
        losses.append(-log_p[batch.tokens[b, t + 1]].item())
    if loss == 'balanced':
        expected = np.mean(path_losses) + np.mean(maze_losses)
    else:
        expected = np.mean(path_losses + maze_losses)
    assert abs(total.item() - expected) < 1e-5


@pytest.mark.parametrize('loss', ['path', 'graded', 'full', 'balanced', 'mlmu'])
def test_the_loss_depends_neither_on_padding_nor_on_the_rest_of_the_batch(loss):
    """All rows at once and padded to the longest, in two slices, or one by one without padding: the
    same loss and gradients."""
    task = LOOPS
    batch = sample_batch(task, 6, 1, 0)
    weight = all_weights(loss, batch, task)
    losses = []
    gradients = []
    for bounds in ([0, 6], [0, 2, 6], [0, 1, 2, 3, 4, 5, 6]):
        model = make_model(task, causal=loss != 'mlmu')
        total = 0.0
        for first, last in zip(bounds, bounds[1:], strict=False):
            part = batch[first:last]
            part_weight = weight[first:last]
            if last - first == 1:  # cut the padding off
                length = int(part.chain_start[0] + part.loss_mask.sum())
                part.tokens = part.tokens[:, :length]
                part.loss_mask = part.loss_mask[:, :length]
                part_weight = part_weight[:, :length]
            if (part_weight > 0).any():
                args = args_of(loss, 1.0)
                part_loss = train_maze.compute_loss(args, task, model, part, part_weight)
                part_loss.backward()
                total += part_loss.item()
        losses.append(total)
        parameters = [p for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat([p.grad.flatten() for p in parameters]))
    for i in (1, 2):
        assert abs(losses[i] - losses[0]) < 1e-5
        assert (gradients[i] - gradients[0]).abs().max() < 1e-5


@pytest.mark.parametrize('pos', ['learned', 'rope'])
def test_mlmu_no_position_sees_a_masked_token_and_behind_the_path_there_are_none(pos):
    task = LOOPS
    batch = sample_batch(task, 20, 1, 0)
    model = make_model(task, causal=False, pos=pos)
    weight = all_weights('mlmu', batch, task)
    masked = weight > 0
    logits, token = train_maze.predict(model, batch.tokens, weight, task.pad)
    assert torch.equal(token, batch.tokens[masked])
    assert len(logits) == masked.sum() > 20

    # other tokens under the mask: the same logits
    other = batch.tokens.clone()
    other[masked] = (other[masked] + 1) % task.n_symbols
    assert torch.equal(train_maze.predict(model, other, weight, task.pad)[0], logits)

    # more padding behind the path: the same logits, also if all of it is masked and predicted
    T = batch.tokens.size(1)
    room = task.block_size - T
    assert room > 0
    longer = F.pad(batch.tokens, (0, room), value=task.pad)
    longer_weight = F.pad(weight, (0, room))
    longer_logits, _ = train_maze.predict(model, longer, longer_weight, task.pad)
    assert (longer_logits - logits).abs().max() < 1e-5
    more_weight = longer_weight.clone()
    more_weight[:, T:] = 1
    more_logits, _ = train_maze.predict(model, longer, more_weight, task.pad)
    of_the_path = F.pad(masked, (0, room))[more_weight > 0]
    assert (more_logits[of_the_path] - logits).abs().max() < 1e-5

    # the control: tokens that are kept are seen, by their own maze alone
    kept = batch.loss_mask & ~masked
    changed = batch.tokens.clone()
    changed[kept] = (changed[kept] + 1) % task.n_symbols
    new_logits, _ = train_maze.predict(model, changed, weight, task.pad)
    is_different = (new_logits - logits).abs().amax(dim=1) > 1e-6
    assert torch.equal(is_different, kept.any(dim=1)[masked.nonzero()[:, 0]])


# -----------------------------------------------------------------------------
# graded

def grades_by_hand(task, batch, beta):
    """{(row, place): {token: w}} of all tokens with w > 0, from the text."""
    number = {word: i for i, word in enumerate(task.vocab)}

    def token_of(cell):
        return number['({},{})'.format(*cell)]

    grades = {}
    for b, tokens in enumerate(batch.tokens.tolist()):
        mask = batch.loss_mask[b].tolist()
        start = mask.index(True)
        passages, origin, target, path = read_maze(task.decode(tokens[:start + sum(mask)]))
        distance = distances_from(passages, target)
        grades[b, start] = {token_of(origin): 1.0}
        for i, cell in enumerate(path):
            w = {}
            for other in distance:
                if other != cell and frozenset((cell, other)) in passages:
                    is_nearer = distance[other] < distance[cell]
                    w[token_of(other)] = 1.0 if is_nearer else math.exp(-2 * beta)
            if cell == target:
                w[number['<PATH_END>']] = 1.0
            grades[b, start + i + 1] = w
    return grades


@pytest.mark.parametrize('task', [ADJLIST, GRID, LOOPS, Maze((4,), 'percolation', 0.6, 'grid')])
@pytest.mark.parametrize('beta', [0.0, 0.7, 3.0])
def test_grades_are_one_for_the_best_steps_less_for_legal_ones_and_nothing_for_the_rest(
        task, beta):
    batch = sample_batch(task, 60, 1, 0)
    log_w = train_maze.log_grades(task, batch, beta)
    expected = grades_by_hand(task, batch, beta)
    assert len(log_w) == len(expected) == batch.loss_mask.sum()
    n_ties = 0
    for row, place in zip(log_w, batch.loss_mask.nonzero().tolist(), strict=True):
        w = expected[tuple(place)]
        assert {i for i, x in enumerate(row.tolist()) if x > -math.inf} == set(w)
        for token, x in w.items():
            assert abs(row[token].exp() - x) < 1e-6
        n_ties += list(w.values()).count(1.0) > 1 and beta > 0
    # on a tree one step is right
    assert (n_ties > 0) == (task.gen == 'percolation' and beta > 0)


@pytest.mark.parametrize('kind, loss', [('best', 0.0), ('detour', 2 * 0.8), ('illegal', 50.0)])
def test_graded_loss_of_a_model_that_is_certain(kind, loss):
    """Zero on the best step, two beta on a detour, and huge off the maze."""
    task = LOOPS
    beta = 0.8
    batch = sample_batch(task, 40, 1, 0)
    log_w = train_maze.log_grades(task, batch, beta)
    best = log_w == 0
    illegal = log_w == -math.inf
    choices = {'best': best, 'detour': ~best & ~illegal, 'illegal': illegal}[kind]

    # all probability on one such token; where there is none, on a best one
    has_choice = choices.any(dim=1)
    token = torch.where(has_choice, choices.int().argmax(dim=1), best.int().argmax(dim=1))
    logits = torch.full((len(log_w), len(task.vocab)), -1e4)
    logits[torch.arange(len(log_w)), token] = 0

    def model(idx, loss_mask):
        return logits
    model.config = SimpleNamespace(causal=True)
    weight = all_weights('graded', batch, task) * batch.loss_mask.sum()
    total = train_maze.compute_loss(args_of('graded', beta), task, model, batch, weight)
    mean = total.item() / int(has_choice.sum())
    if kind == 'illegal':
        assert mean > loss
    else:
        assert abs(mean - loss) < 1e-4


def test_graded_gradient_is_p_times_one_minus_w_over_its_mean():
    task = LOOPS
    beta = 1.0
    batch = sample_batch(task, 30, 1, 0)
    model = EveryPosition(make_model(task))
    weight = all_weights('graded', batch, task)
    train_maze.compute_loss(args_of('graded', beta), task, model, batch, weight).backward()
    is_target = (weight > 0)[:, 1:]
    p = model.logits.detach()[is_target].softmax(dim=1)
    w = train_maze.log_grades(task, batch, beta).exp()
    W = (p * w).sum(dim=1, keepdim=True)
    gradient = model.logits.grad[is_target] * batch.loss_mask.sum()
    assert (gradient - p * (1 - w / W)).abs().max() < 1e-6


@pytest.mark.parametrize('task', [ADJLIST, GRID])
def test_on_trees_graded_with_an_infinite_beta_is_the_path_loss(task):
    batch = sample_batch(task, 30, 1, 0)
    model = make_model(task)
    weight = all_weights('path', batch, task)
    losses = {}
    for loss in ('path', 'graded'):
        args = args_of(loss, 1e9)
        losses[loss] = train_maze.compute_loss(args, task, model, batch, weight).item()
    assert abs(losses['path'] - losses['graded']) < 1e-6 and losses['path'] > 1


# -----------------------------------------------------------------------------
# what is measured

def encode_paths(task, *texts):
    """Paths as tokens, filled up with <PATH_END>."""
    rows = []
    for text in texts:
        words = text.split() + ['<PATH_END>'] * task.answer_len
        rows.append(task.encode(' '.join(words[:task.answer_len])))
    return torch.tensor(rows)


def one_maze(task, text):
    """A batch of this one maze. The true path is the one in the text."""
    passages, _, target, _ = read_maze(text)
    distance = distances_from(passages, target)
    open_bits = []
    distances = []
    for row, column in task.cells.tolist()[:-1]:
        cell = (row, column)
        bits = 0
        for bit, other in enumerate(((row - 1, column), (row, column - 1), (row + 1, column),
                                     (row, column + 1))):
            if frozenset((cell, other)) in passages:
                bits += 1 << bit
        open_bits.append(bits)
        distances.append(distance.get(cell, -1))

    batch = sample_batch(task, 1, 0, 0)
    batch.tokens = torch.tensor([task.encode(text)])
    batch.instance = torch.tensor([[[*open_bits, 0], [*distances, -1]]])
    start = batch.tokens[0].tolist().index(task.path_start) + 1
    batch.loss_mask = torch.arange(batch.tokens.size(1))[None] >= start
    return batch


# 0,0 - 0,1   0,2
#  |     |     |
# 1,0 - 1,1 - 1,2
#              |
# 2,0 - 2,1 - 2,2
LOOP = ('<ADJLIST_START> (0,0) <--> (0,1) ; (0,1) <--> (1,1) ; (1,1) <--> (1,0) ; '
        '(1,0) <--> (0,0) ; (1,1) <--> (1,2) ; (1,2) <--> (0,2) ; (1,2) <--> (2,2) ; '
        '(2,2) <--> (2,1) ; (2,1) <--> (2,0) ; <ADJLIST_END> <ORIGIN_START> (0,0) <ORIGIN_END> '
        '<TARGET_START> (2,2) <TARGET_END> <PATH_START> (0,0) (0,1) (1,1) (1,2) (2,2) <PATH_END>')


@pytest.mark.parametrize('path, expected', [
    # forks: (0,0), from which two ways are best; (1,1), one of two; (1,2), one of two
    ('(0,0) (0,1) (1,1) (1,2) (2,2)', dict(
        exact=1, shortest=1, valid=1, reach=1, ends=1, origin=1, regret=0, legal=4, steps=4,
        right_at_forks=3, forks=3)),
    # the other shortest path
    ('(0,0) (1,0) (1,1) (1,2) (2,2)', dict(
        exact=0, shortest=1, valid=1, reach=1, ends=1, origin=1, regret=0, legal=4, steps=4,
        right_at_forks=3, forks=3)),
    # into a dead end and back
    ('(0,0) (0,1) (1,1) (1,2) (0,2) (1,2) (2,2)', dict(
        exact=0, shortest=0, valid=1, reach=1, ends=1, regret=2, legal=6, steps=6,
        right_at_forks=2, forks=3)),
    # through a wall
    ('(0,0) (0,1) (1,1) (2,1) (2,2)', dict(
        exact=0, shortest=0, valid=0, reach=1, ends=1, origin=1, regret=0, legal=3, steps=4,
        right_at_forks=1, forks=2)),
    # from another cell
    ('(0,1) (1,1) (1,2) (2,2)', dict(
        exact=0, shortest=0, valid=0, reach=1, origin=0, legal=3, steps=3, right_at_forks=0,
        forks=0)),
    # not to the target
    ('(0,0) (0,1) (1,1)', dict(
        exact=0, shortest=0, valid=0, reach=0, ends=1, origin=1, legal=2, steps=2,
        right_at_forks=1, forks=2)),
    # a token that is no cell
    ('(0,0) (0,1) <--> (1,1) (1,2) (2,2)', dict(
        exact=0, shortest=0, valid=0, reach=1, legal=3, steps=5, right_at_forks=1, forks=1)),
    # nothing
    ('', dict(
        exact=0, shortest=0, valid=0, reach=0, ends=1, origin=0, legal=0, steps=0,
        right_at_forks=0, forks=0)),
    # without an end
    ('(0,0) (0,1) (0,0) (0,1) (0,0) (0,1) (0,0) (0,1) (0,0) (0,1)', dict(
        exact=0, valid=0, reach=0, ends=0, origin=1, legal=9, steps=9, right_at_forks=1, forks=1)),
    # past the target and back
    ('(0,0) (0,1) (1,1) (1,2) (2,2) (2,1) (2,2)', dict(
        exact=0, shortest=0, valid=1, reach=1, regret=2, legal=6, steps=6, right_at_forks=3,
        forks=3))])
def test_paths_made_by_hand(path, expected):
    measures = train_maze.score_paths(ADJLIST, one_maze(ADJLIST, LOOP), encode_paths(ADJLIST, path))
    assert {name: measures[name][0].item() for name in expected} == expected


@pytest.mark.parametrize('task', [ADJLIST, GRID, LOOPS])
def test_true_paths_are_right_in_every_respect(task):
    batch = sample_batch(task, 100, 3, 0)
    paths = torch.full((100, task.answer_len), task.path_end)
    for b, mask in enumerate(batch.loss_mask):
        paths[b, :mask.sum()] = batch.tokens[b, mask]
    measures = train_maze.score_paths(task, batch, paths)
    for name in ('exact', 'shortest', 'valid', 'reach', 'ends', 'origin'):
        assert measures[name].all(), name
    assert not measures['regret'].any()
    assert torch.equal(measures['legal'], measures['steps'])
    assert torch.equal(measures['right_at_forks'], measures['forks'])
    assert torch.equal(measures['steps'], batch.loss_mask.sum(dim=1) - 2)


def ways_on(passages, path, target, greedy):
    """The cells that a walk may enter next: open neighbours but the one it came from; if greedy,
    those nearest the target."""
    came_from = path[-2] if len(path) > 1 else None
    cells = []
    for passage in passages:
        if path[-1] in passage:
            (other,) = passage - {path[-1]}
            if other != came_from:
                cells.append(other)
    if greedy and cells:
        distance = {c: abs(c[0] - target[0]) + abs(c[1] - target[1]) for c in cells}
        cells = [c for c in cells if distance[c] == min(distance.values())]
    return cells


def all_walks(text, greedy):
    """Every path that such a walk can take, with its probability."""
    passages, origin, target, _ = read_maze(text)
    unfinished = {(origin,): 1.0}
    finished = {}
    while unfinished:
        path, p = unfinished.popitem()
        cells = ways_on(passages, path, target, greedy)
        if path[-1] == target or not cells or len(path) > 9:
            finished[path] = p
            continue
        for cell in cells:
            unfinished[(*path, cell)] = p / len(cells)
    return finished


@pytest.mark.parametrize('greedy', [False, True])
def test_the_baselines_walk_as_they_should(greedy):
    """On fixed mazes, the share of each path against its probability by enumeration."""
    task = ADJLIST
    rng = np.random.default_rng(0)
    source = sample_batch(task, 6, 2, 0)
    for b in range(6):
        batch = source[torch.full((2000,), b)]
        length = batch.chain_start[0] + batch.loss_mask[0].sum()
        text = task.decode(batch.tokens[0, :length].tolist())
        walks = train_maze.walk(task, batch, greedy, rng).tolist()
        for path, p in all_walks(text, greedy).items():
            tokens = task.encode(' '.join('({},{})'.format(*cell) for cell in path))
            tokens.append(task.path_end)
            share = sum(walk[:len(tokens)] == tokens for walk in walks) / 2000
            assert abs(share - p) < 5 * (p * (1 - p) / 2000) ** 0.5 + 1e-9


@pytest.mark.parametrize('gen, greedy, exact', [
    ('dfs', True, 0.657), ('dfs', False, 0.416), ('wilson', True, 0.629), ('wilson', False, 0.285)])
def test_baselines_of_known_mazes(gen, greedy, exact):
    """As measured apart from this project on 300 mazes of 4x4."""
    task = Maze((4,), gen, format='grid')
    batch = sample_batch(task, 3000, 0, 0)
    paths = train_maze.walk(task, batch, greedy, np.random.default_rng(0))
    measures = train_maze.score_paths(task, batch, paths)
    assert abs(measures['exact'].float().mean() - exact) < 0.05
    assert torch.equal(measures['legal'], measures['steps'])


def test_both_baselines_are_measured_by_their_names_on_the_test_mazes():
    """The greedy walk is right more often, and both are as often as above."""
    walks = train_maze.walk_all(Maze((4,), format='grid'), RUN, 0, 600, 4)
    assert list(walks) == ['greedy', 'random']
    for name, exact in (('greedy', 0.657), ('random', 0.416)):
        assert walks[name]['exact'].shape == (600,)
        assert abs(walks[name]['exact'].mean().item() - exact) < 0.08


def test_rates_are_means_over_mazes_or_over_what_is_counted_in_them():
    counts = dict(
        exact=[1, 0, 0, 0], shortest=[1, 1, 0, 0], valid=[1, 1, 1, 0], reach=[1, 1, 1, 1],
        ends=[0, 0, 1, 0], origin=[0, 1, 1, 1], regret=[0, 0, 4, 0], legal=[4, 4, 6, 1],
        steps=[4, 4, 8, 9], right_at_forks=[2, 1, 0, 0], forks=[2, 2, 1, 0])
    tensors = {name: torch.tensor(values).double() for name, values in counts.items()}
    assert train_maze.rates(tensors) == pytest.approx(dict(
        exact=1 / 4, shortest=2 / 4, valid=3 / 4, reach=1, ends=1 / 4, origin=3 / 4,
        legal=15 / 25, fork=3 / 5, regret=4 / 3))


class Scripted:
    """A causal model that writes these tokens whatever the maze, and whose logits are all equal."""

    def __init__(self, task, tokens):
        self.config = SimpleNamespace(causal=True)
        self.tokens = tokens
        self.n_words = len(task.vocab)

    def generate(self, prompt, n):
        written = torch.tensor([(self.tokens * n)[:n]] * len(prompt))
        return torch.cat((prompt, written), dim=1)

    def __call__(self, idx, loss_mask):
        return torch.zeros(int(loss_mask.sum()), self.n_words)


def test_a_written_path_ends_at_the_first_path_end():
    batch = sample_batch(LOOPS, 30, 1, 0)  # prompts of many lengths
    model = Scripted(LOOPS, [3, 1, LOOPS.path_end, 5])
    paths = train_maze.write_paths(model, LOOPS, batch)
    assert paths.tolist() == [[3, 1] + [LOOPS.path_end] * 15] * 30


def test_a_uniform_model_has_uniform_losses():
    batch = sample_batch(LOOPS, 30, 1, 0)
    model = Scripted(LOOPS, [0])
    measures = train_maze.teacher_forcing(model, LOOPS, batch)
    nats = math.log(len(LOOPS.vocab))
    assert torch.allclose(measures['path_nats'], batch.loss_mask.sum(dim=1) * nats)
    assert torch.allclose(measures['maze_nats'], (batch.chain_start - 1) * nats)
    assert not measures['wrong'].any()  # its most likely token, the first, is a cell


def test_adjacency_tokens_are_counted_by_hand():
    """A model that says <--> at every second path position."""
    batch = sample_batch(ADJLIST, 30, 1, 0)
    separator = ADJLIST.encode('<-->')[0]

    def model(idx, loss_mask):
        row, place = loss_mask.nonzero(as_tuple=True)
        is_even = (place + 1 - batch.chain_start[row]) % 2 == 0
        return F.one_hot(torch.where(is_even, separator, 0), len(ADJLIST.vocab)).float()
    model.config = SimpleNamespace(causal=True)
    measures = train_maze.teacher_forcing(model, ADJLIST, batch)
    assert torch.equal(measures['wrong'], (batch.loss_mask.sum(dim=1) + 1) // 2)
    assert measures['adjacency_first'].all()


def guess_token(model, task, batch, t, loss):
    """The most likely token at place t, given the true tokens before it. (B,)"""
    if loss == 'path':
        return model(batch.tokens[:, :t])[:, -1].argmax(dim=1)
    masked = torch.zeros_like(batch.tokens, dtype=torch.float)
    masked[:, t:] = 1.0
    logits, _ = train_maze.predict(model, batch.tokens, masked, task.pad)
    return logits.view(len(batch), -1, len(task.vocab))[:, 0].argmax(dim=1)


@pytest.mark.parametrize('loss, batch_size', [('path', 32), ('mlmu', 64)])
def test_teacher_forced_and_written_paths_are_exact_on_the_same_mazes(loss, batch_size, tmp_path):
    """On trees, where one token is right at each step. For mlmu the rest of the path is masked."""
    run(tmp_path, '--grid', 3, '--n_layer', 2, '--n_embd', 32, '--batch_size', batch_size,
        '--steps', 110, '--eval_interval', 110, '--n_test', 10, '--loss', loss)
    task = Maze((3,), format='grid')
    model, _ = common.load_checkpoint(tmp_path / 'ckpt.pt')
    model.eval()
    batch = sample_batch(task, 200, 5, 0, 'test')
    with torch.no_grad():
        paths = train_maze.write_paths(model, task, batch)
        written = train_maze.score_paths(task, batch, paths)['exact']
        forced = torch.ones(200, dtype=torch.bool)
        for t in range(batch.prompt_len, batch.tokens.size(1)):
            guess = guess_token(model, task, batch, t, loss)
            forced &= (guess == batch.tokens[:, t]) | ~batch.loss_mask[:, t]
    assert torch.equal(written, forced) and 10 < written.sum() < 190


# -----------------------------------------------------------------------------
# what is trained and tested on

def passages_of(batch):
    """For each maze whether its cells are open to the cell below and to the one on the right, as
    numbers (B, 2 N)."""
    open_bits = batch.instance[:, 0, :-1, None].numpy()
    return (open_bits & [4, 8] > 0).astype(int).reshape(len(batch), -1)


def is_held_out(batch):
    """By the hash of the passages alone. A wall adds nothing to it."""
    return held_out(passages_of(batch) - 1)


def spy_on_batches(monkeypatch):
    """The batches that gradients are taken of, and those whose paths are scored."""
    trained = []
    scored = []
    compute_loss = train_maze.compute_loss
    score_paths = train_maze.score_paths

    def spy_loss(args, task, model, batch, weight):
        trained.append(batch)
        return compute_loss(args, task, model, batch, weight)

    def spy_score(task, batch, paths):
        scored.append(batch)
        return score_paths(task, batch, paths)
    monkeypatch.setattr(train_maze, 'compute_loss', spy_loss)
    monkeypatch.setattr(train_maze, 'score_paths', spy_score)
    return trained, scored


@pytest.mark.parametrize('extra', ['--grid 3 --test_grid 4', '--grid 3 --format adjlist'])
def test_mazes_that_are_trained_were_not_held_out_and_all_that_are_tested_were(
        extra, tmp_path, monkeypatch):
    trained, scored = spy_on_batches(monkeypatch)
    run(tmp_path, *TINY, *extra.split(), '--steps', 6, '--eval_interval', 3)
    assert sum(map(len, trained)) == 6 * 8
    assert not np.concatenate([is_held_out(batch) for batch in trained]).any()
    assert np.concatenate([is_held_out(batch) for batch in scored]).all()


def test_the_model_and_the_walks_are_tested_on_the_same_mazes(tmp_path, monkeypatch):
    """All n_test of them at the end, a new part after 500, and on the way the first eighth."""
    trained, scored = spy_on_batches(monkeypatch)
    final = run(tmp_path, *TINY, '--n_test', 520, '--steps', 2, '--eval_interval', 1)
    assert final['n_test'] == '520'
    mazes = [sample_batch(Maze((3,), format='grid'), n, 1337, 3 * 10**6 + first, 'test', hops=3)
             for first, n in ((0, 500), (500, 20))]
    # both walks on each part; three evaluations on the way; the model; the figure's last part
    expected = [mazes[0], mazes[0], mazes[1], mazes[1], *[mazes[0][:65]] * 3, *mazes, mazes[1]]
    assert len(scored) == len(expected)
    for batch, other in zip(scored, expected, strict=True):
        assert torch.equal(batch.tokens, other.tokens)


@pytest.mark.parametrize('flag, splits', [('', ['train', 'test']),
                                          ('--tune', ['fit', 'validation'])])
def test_training_draws_the_batch_of_each_step(flag, splits, tmp_path, monkeypatch):
    """Every call of sample_batch in a run."""
    drawn = {split: [] for split in STREAMS}

    def spy(task, size, seed, step, split='train', mode='cot', hops=None):
        drawn[split].append((seed, step, size, hops))
        return sample_batch(task, size, seed, step, split, mode, hops)
    monkeypatch.setattr(train_maze, 'sample_batch', spy)
    run(tmp_path, *TINY, '--grid', '3-4', '--test_grid', 5, '--steps', 4, '--eval_interval', 2,
        '--seed', 5, '--n_test', 40, *flag.split())
    enough = [(5, 0, 500, size) for size in (3, 4, 5)]  # are there enough mazes?
    for split in splits:
        assert sorted(drawn[split][:3]) == enough
        del drawn[split][:3]
    train_split, test_split = splits
    assert drawn.pop(train_split) == [(5, step, 8, [3, 4]) for step in range(4)]
    tested = Counter({(5, size * 10**6, 40, size): 2 for size in (3, 4, 5)})  # walks, model
    for size in (3, 4):
        tested[5, size * 10**6, 40, size] += 3          # at step 0, 2 and 4
    assert Counter(drawn.pop(test_split)) == tested
    assert not any(drawn.values())


@pytest.mark.parametrize('loss', ['path', 'full'])
def test_training_is_adamw_on_the_clipped_gradient_as_written_out(loss, tmp_path, monkeypatch):
    """The loss, the rate and the norm that are logged, and the weights and moments in each
    checkpoint."""
    saved = Saved(monkeypatch)
    run(tmp_path, *TINY, '--loss', loss, '--seed', 3, '--steps', 6, '--warmup_iters', 2,
        '--lr', '0.004', '--weight_decay', '0.3', '--log_interval', 1, '--eval_interval', 4)
    task = Maze((3,), format='grid')
    torch.manual_seed(3)
    model = GPT(GPTConfig(len(task.vocab), task.block_size, n_embd=16))
    optimizer = PlainAdamW(model, decay=0.3, clip=1.0)
    log = [record for record in common.read_log(tmp_path) if 'loss' in record and 'lr' in record]
    checkpoints = {checkpoint[1]: checkpoint for checkpoint in saved.all}
    assert [record['step'] for record in log] == [1, 2, 3, 4, 5, 6]
    assert list(checkpoints) == [4, 6]

    norms = []
    for step, record in enumerate(log):
        batch = sample_batch(task, 8, 3, step, hops=[3])
        logits = model(batch.tokens[:, :-1])
        is_target = batch.loss_mask if loss == 'path' else batch.tokens != task.pad
        expected = F.cross_entropy(logits[is_target[:, 1:]], batch.tokens[:, 1:][is_target[:, 1:]])
        lr = warmup_and_cosine(step, 0.004, 2, 6)
        norms.append(optimizer.step(expected, lr))
        assert record['loss'] == pytest.approx(expected.item(), abs=1e-5)
        assert record['lr'] == pytest.approx(lr)
        assert record['grad_norm'] == pytest.approx(norms[-1], abs=1e-5)
        if step + 1 in checkpoints:
            assert is_as_written_out(checkpoints[step + 1], model, optimizer)
    assert max(norms) > 1.05  # so that clipping does something


def test_the_learning_rate_warms_up_then_follows_a_cosine_to_zero():
    for warmup, steps in ((9, 109), (0, 10), (3, 4)):
        args = SimpleNamespace(learning_rate=0.5, warmup_iters=warmup, max_iters=steps)
        rates = [train_maze.get_lr(step, args) for step in range(steps + 1)]
        expected = [warmup_and_cosine(step, 0.5, warmup, steps) for step in range(steps + 1)]
        assert rates == pytest.approx(expected)


# -----------------------------------------------------------------------------
# the run

@pytest.mark.parametrize('extra', [
    '', '--loss full', '--loss balanced --format adjlist',
    '--loss graded --gen percolation --format adjlist', '--loss mlmu --pos rope',
    '--gen wilson --grid 3-4 --test_grid 5 --format adjlist --no_separators'])
def test_every_loss_trains_and_leaves_what_a_run_leaves(extra, tmp_path):
    is_drawn = extra == '' or 'test_grid' in extra
    with with_figures() if is_drawn else contextlib.nullcontext():
        final = run(tmp_path, *TINY, '--steps', 4, *extra.split())
    names = {path.name for path in tmp_path.iterdir()}
    assert names - {'plot.png'} == {'config.json', 'log.jsonl', 'ckpt.pt', 'examples.json'}
    assert ('plot.png' in names) == is_drawn
    expected = ('loss grid gen format exact shortest legal reach ends fork regret greedy random '
                'n_test params mazes seconds')
    assert set(expected.split()) < set(final)
    assert final['mazes'] == '32' and 0.4 < float(final['greedy']) <= 1
    assert ('test_grid' in extra) == ('exact_5' in final)
    assert ('mlmu' in extra) == ('maze_nats' not in final)
    records = common.read_log(tmp_path)
    assert [r['step'] for r in records if 'eval' in r] == [0, 1, 2, 3, 4]
    assert records[-1]['arm'] == 'final'

    code, out, _ = evaluate_checkpoint(tmp_path)
    assert code == 0
    assert without_seconds(final_values(out)) == without_seconds(final)


def test_the_examples_of_the_figure_are_eight_mazes_with_wrong_paths_first(tmp_path):
    run(tmp_path, *TINY, '--steps', 60)
    examples = json.loads((tmp_path / 'examples.json').read_text())
    assert examples['size'] == 3 and len(examples['mazes']) == 8
    task = Maze((3,), format='grid')
    batch = sample_batch(task, 20, 1337, 3 * 10**6, 'test', hops=3)
    true_paths = []
    for tokens, mask in zip(batch.tokens, batch.loss_mask, strict=True):
        true_paths.append(task.cells[tokens[mask][:-1]].tolist())
    for maze in examples['mazes']:
        assert len(maze['cells']) == len(maze['open_bits']) == 9
        assert maze['true'] in true_paths
        if maze['path'] == maze['true']:
            assert maze['shortest']

    # of twelve paths three are wrong: two of them come first, then the others in their order
    batch = batch[:12]
    paths = torch.full((12, task.answer_len), task.path_end)
    for b, mask in enumerate(batch.loss_mask):
        paths[b, :mask.sum()] = batch.tokens[b, mask]
    paths[[4, 7, 9], 1] = task.path_end
    train_maze.write_examples(tmp_path, task, 3, batch, paths)
    mazes = json.loads((tmp_path / 'examples.json').read_text())['mazes']
    assert [maze['shortest'] for maze in mazes] == [False] * 2 + [True] * 6
    assert [maze['true'] for maze in mazes] == [true_paths[b] for b in (4, 7, 0, 1, 2, 3, 5, 6)]


def test_a_checkpoint_is_tested_on_smaller_grids_but_not_on_larger_ones(tmp_path):
    run(tmp_path, *TINY, '--grid', 4, '--steps', 2)
    code, out, _ = evaluate_checkpoint(tmp_path, '--test_grid', '3')
    assert code == 0 and '3x3, not trained' in out and 'exact_3=' in out
    for extra in (['--test_grid', '5'], ['--grid', '3'], ['--loss', 'full']):
        code, out, err = evaluate_checkpoint(tmp_path, *extra)
        assert code == 2 and err.count('\n') == 1 and out == ''


def test_the_largest_size_of_a_checkpoint_need_not_be_tested_again(tmp_path):
    run(tmp_path, *TINY, '--test_grid', 5, '--steps', 2)
    code, out, err = evaluate_checkpoint(tmp_path, '--test_grid', '4')
    assert code == 0, err
    assert '4x4, not trained' in out and '5x5' not in out and ' mazes=16' in out


def test_other_scripts_refuse_the_checkpoint_in_one_line(tmp_path):
    run(tmp_path / 'maze', *TINY, '--steps', 1)
    checkpoint = ['--ckpt', str(tmp_path / 'maze' / 'ckpt.pt'), '--device', 'cpu']
    for script, argv in ((search, []), (probe, []), (train_cot, ['--eval_only']),
                         (train_rl, ['--eval_only'])):
        code, out, err = call(script, [*checkpoint, *argv])
        assert code == 2 and err.count('\n') == 1 and out == ''


class Cut(Exception):
    pass


def cut_after(n_steps):
    """A loss_weights that raises Cut when it has served so many training steps."""
    loss_weights = train_maze.loss_weights
    served = []

    def limited(loss, batch, pad, seed, step):
        if loss != 'full':  # an evaluation asks for 'full'
            if len(served) == n_steps:
                raise Cut
            served.append(step)
        return loss_weights(loss, batch, pad, seed, step)
    return limited


@pytest.mark.parametrize('stops', [[3], [8, 4]])
def test_resume_after_any_stop_is_the_uninterrupted_run(stops, tmp_path, monkeypatch):
    argv = [*TINY, '--loss', 'mlmu', '--steps', 12, '--eval_interval', 5, '--log_interval', 2]
    run(tmp_path / 'whole', *argv)
    for i, n_steps in enumerate(stops):
        extra = ['--resume'] if i > 0 else []
        with monkeypatch.context() as patch, pytest.raises(Cut):
            patch.setattr(train_maze, 'loss_weights', cut_after(n_steps))
            run(tmp_path / 'cut', *argv, *extra)
    run(tmp_path / 'cut', *argv, '--resume')

    a = weights(tmp_path / 'whole')
    b = weights(tmp_path / 'cut')
    assert all(torch.equal(a[name], b[name]) for name in a)
    logs = []
    for folder in ('whole', 'cut'):
        records = common.read_log(tmp_path / folder)
        logs.append([record for record in records if record['arm'] != 'final'])
    assert logs[0] == logs[1]


def test_divergence_ends_in_one_line(tmp_path):
    argv = [*TINY, '--lr', '1e9', '--eval_interval', '1', '--steps', '20', '--device', 'cpu',
            '--out_dir', str(tmp_path)]
    code, _, err = call(train_maze, argv)
    assert code == 1 and 'diverged' in err and err.count('\n') == 1
    if (tmp_path / 'ckpt.pt').exists():
        assert all(w.isfinite().all() for w in weights(tmp_path).values())


def test_two_processes_do_what_one_does_with_twice_the_batch(two_processes, tmp_path):
    argv = ('--grid 3-4 --gen percolation --loss mlmu --n_layer 1 --n_head 1 --n_embd 16 '
            '--steps 20 --log_interval 1 --n_test 20 --device cpu').split()
    done = two_processes('train_maze.py', *argv, '--batch_size', 8, '--out_dir', tmp_path / 'two')
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('final ') == done.stdout.count('global batch') == 1
    run(tmp_path / 'one', *argv, '--batch_size', 16)

    losses = {}
    for folder in ('one', 'two'):
        records = common.read_log(tmp_path / folder)
        losses[folder] = [record['loss'] for record in records if 'grad_norm' in record]
    assert len(losses['one']) == 20
    for a, b in zip(losses['one'], losses['two'], strict=True):
        assert abs(a - b) < 1e-4
    a = weights(tmp_path / 'one')
    b = weights(tmp_path / 'two')
    assert max((a[name] - b[name]).abs().max() for name in a) < 1e-3


# -----------------------------------------------------------------------------
# headlines

@pytest.mark.slow
@pytest.mark.skipif(os.name == 'nt', reason='there are no signals for other processes there')
def test_a_signal_saves_and_leaves_with_the_usual_code(tmp_path):
    argv = [*TINY, '--steps', str(10**6), '--device', 'cpu', '--out_dir', str(tmp_path)]
    with subprocess.Popen([sys.executable, 'train_maze.py', *argv], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            while len([record for record in common.read_log(tmp_path) if 'loss' in record]) < 2:
                time.sleep(0.05)
                assert process.poll() is None, process.communicate()
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 143
    assert '--resume' in err and 'Traceback' not in err
    assert (tmp_path / 'ckpt.pt').exists()


@pytest.mark.slow
def test_headline(tmp_path):
    final = run(tmp_path)
    assert float(final['exact']) >= 0.95 > float(final['greedy']) > float(final['random'])
    assert float(final['seconds']) < 600


@pytest.mark.slow
def test_path_against_full_after_1000_steps(tmp_path):
    argv = '--format adjlist --grid 3 --n_layer 2 --batch_size 32 --lr 5e-4 --steps 1000'.split()
    exact = {}
    for loss in ('path', 'full', 'balanced'):
        exact[loss] = float(run(tmp_path / loss, '--loss', loss, *argv)['exact'])
    assert exact['path'] >= exact['full'] + 0.25
    assert exact['balanced'] >= exact['full'] + 0.25


@pytest.mark.slow
def test_speeds():
    """A step of path takes at most 0.8 of one of full (adjlist 4x4, 3 layers). 50,000 mazes a
    second with their solutions, on one core."""
    done = subprocess.run([sys.executable, 'results/studies/maze_speed.py'], cwd=ROOT, text=True,
                          capture_output=True)
    final = final_values(done.stdout)
    assert float(final['path_full_3']) <= 0.8 and int(final['mazes_per_s']) >= 50_000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('loss', ['path', 'mlmu'])
def test_a_short_run_on_a_gpu(loss, tmp_path):
    argv = ['--loss', loss, '--steps', '300', '--device', 'cuda', '--out_dir', str(tmp_path)]
    final = train_maze.main(argv)
    assert 0 <= final['exact'] <= 1
