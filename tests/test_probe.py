"""Probes and interchange, where it is known what there is to find: planted codes, models made by hand, plain loops; and the script."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import conftest
import numpy as np
import pytest
import torch

import capacity
import common
import probe
import train_cot
import train_rl
from data import CVPR, Cycle, Profiles, held_out, sample_batch
from model import GPT, GPTConfig

ROOT = Path(__file__).parent.parent
RUN = SimpleNamespace(device=torch.device('cpu'), autocast=contextlib.nullcontext(), world=1, rank=0, master=True)

@pytest.fixture(autouse=True)
def no_grad():
    """As main has it."""
    with torch.no_grad():
        yield

def random_model(task, n_layer=2, n_loop=1, pos='learned', seed=0, n_embd=16, n_head=2):
    """A GPT of random weights, whose answers depend on what it reads: positions count less than tokens, and attention looks at some more than at others."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(len(task.vocab), task.block_size, n_layer, n_head, n_embd, n_loop, pos=pos)).eval()
    for name, p in model.named_parameters():
        if name.startswith('w'):
            p.mul_((0.3 if name == 'wpe.weight' else 1) / p.norm(dim=1, keepdim=True))
        elif p.dim() == 2:
            p.normal_(std=(3 if name.endswith(('q.weight', 'k.weight')) else 0.5) / n_embd**0.5)
    return model

# ----------------------------------------------------------------------------- ridge regression

def ridge(x, y, K, penalty):
    """Centre, solve, and put the means into the intercept, in float64: W (C, K), b (K,)."""
    onehot = np.eye(K)[y]
    X, Y = x - x.mean(0), onehot - onehot.mean(0)
    W = np.linalg.solve(X.T @ X + penalty * np.eye(X.shape[1]), X.T @ Y)
    return W, onehot.mean(0) - x.mean(0) @ W

def unit(x):
    """trace(X^T X) / C of the centred x."""
    return ((x - x.mean(0)) ** 2).sum() / x.shape[1]

def cross_validated(x, y, K, fold):
    """The first of PENALTIES, in its own unit, with the most hits on folds left out, and the hits of each."""
    hits = []
    for penalty in probe.PENALTIES:
        hits.append(0)
        for f in sorted(set(fold.tolist())):
            seen = fold != f
            W, b = ridge(x[seen], y[seen], K, penalty * unit(x[seen]))
            hits[-1] += int(((x[~seen] @ W + b).argmax(1) == y[~seen]).sum())
    return probe.PENALTIES[hits.index(max(hits))], hits

def labelled_cells(seed=0, N=150, C=10):
    """x (6, N, C) of several kinds, y (N, 3) of 2, 5 and 3 classes, fold (N,) of unequal sizes in no order."""
    rng = np.random.default_rng(seed)
    classes = [2, 5, 3]
    y = np.stack([rng.choice(K, N, p=np.arange(1, K + 1) / (K * (K + 1) / 2)) for K in classes], axis=1)
    code = [rng.normal(size=(K, C)) for K in classes]
    x = rng.normal(size=(6, N, C))
    x[0] += 5 * sum(c[y[:, j]] for j, c in enumerate(code))  # easy
    x[1, :, :3] *= 30  # large and empty, and beside it small channels that tell
    x[1, :, 3:] = 0.3 * code[1][y[:, 1], 3:] + 0.1 * x[1, :, 3:]
    x[2] += 50  # nothing but noise, far from zero
    x[3] += 0.4 * code[1][y[:, 1]] + 0.3 * code[2][y[:, 2]]
    x[4, :, :2] *= 100
    x[4, :, 2:] = 0.5 * code[2][y[:, 2], 2:] + 0.3 * code[0][y[:, 0], 2:] + 0.5 * x[4, :, 2:] - 3
    x[5] = 0.01 * (x[5] + 0.3 * code[1][y[:, 1]])
    fold = rng.permutation(np.repeat(range(5), (60, 40, 25, 15, 10)))
    return x.astype(np.float32), y, fold, classes

@pytest.mark.parametrize('seed', [0, 1])
def test_fit_is_ridge_regression_with_the_penalty_of_its_own_cross_validation(seed):
    x, y, fold, classes = labelled_cells(seed)
    W, b, penalty = probe.fit(*map(torch.from_numpy, (x, y, fold)), classes)
    assert W.shape == (6, 10, 10) and b.shape == (6, 10) and penalty.shape == (6, 3) and W.dtype == b.dtype == torch.float32
    chosen, ties = Counter(), 0
    for g, cell in enumerate(x.astype(np.float64)):
        for j, K in enumerate(classes):
            best, hits = cross_validated(cell, y[:, j], K, fold)
            assert penalty[g, j].item() == pytest.approx(best * unit(cell), rel=1e-4), (g, j, hits)
            columns = slice(sum(classes[:j]), sum(classes[:j + 1]))
            want_W, want_b = ridge(cell, y[:, j], K, penalty[g, j].item())
            np.testing.assert_allclose(W[g, :, columns], want_W, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(b[g, columns], want_b, rtol=1e-4, atol=1e-4)
            chosen[best] += 1
            ties += hits.count(max(hits)) > 1
    assert len(chosen) >= 4 and ties >= 3  # the cells do ask for different ones

def test_a_large_direction_that_is_no_channel_does_not_blur_the_small_ones():
    """As in trained residual streams, under the smallest penalty: where one direction is 300 times as large, sums in float32 lose the others' digits."""
    rng = np.random.default_rng(0)
    y = rng.integers(5, size=(4000, 1))
    x = rng.normal(size=(3, 4000, 16)) + 0.3 * rng.normal(size=(3, 5, 16))[:, y[:, 0]]
    x[:, :, 0] *= np.array([[30], [300], [300]])
    x = np.float32(x @ np.linalg.qr(rng.normal(size=(3, 16, 16)))[0] + np.array([0, 0, 30]).reshape(3, 1, 1))
    W, b, penalty = probe.fit(torch.from_numpy(x), torch.from_numpy(y), torch.arange(4000) % 5, [5], penalties=(1e-6,))
    for g, cell in enumerate(x.astype(np.float64)):
        want_W, want_b = ridge(cell, y[:, 0], 5, penalty[g, 0].item())
        assert np.abs(W[g].numpy() - want_W).max() < 1e-4 * np.abs(want_W).max()
        assert np.abs(b[g].numpy() - want_b).max() < 1e-4

def test_a_cell_alone_and_a_target_alone_give_what_they_give_together():
    x, y, fold, classes = labelled_cells(2)
    x, y, fold = map(torch.from_numpy, (x, y, fold))
    W, b, penalty = probe.fit(x, y, fold, classes)
    for g in (1, 4):
        for j, K in enumerate(classes):
            alone = probe.fit(x[g:g + 1], y[:, j:j + 1], fold, [K])
            columns = slice(sum(classes[:j]), sum(classes[:j + 1]))
            for ours, theirs in zip((W[g:g + 1, :, columns], b[g:g + 1, columns], penalty[g:g + 1, j:j + 1]), alone, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

def test_the_intercept_is_not_penalised():
    """Wherever zero lies the scores are the same, and without any other information they are the shares of the classes."""
    x, y, fold, classes = labelled_cells(3)
    x, y, fold = map(torch.from_numpy, (x, y, fold))
    for shift in (0, 20):
        W, b, _ = probe.fit(x + shift, y, fold, classes, penalties=(1e9,))
        shares = torch.cat([torch.bincount(y[:, j], minlength=K) / len(y) for j, K in enumerate(classes)])
        torch.testing.assert_close((x + shift) @ W + b[:, None], shares.expand(6, len(y), -1), rtol=0, atol=1e-4)

def test_features_of_too_low_a_rank_do_no_harm():
    rng = np.random.default_rng(0)
    N, C, classes = 200, 12, [5, 3]
    kind = rng.integers(5, size=N)
    y = np.stack((kind, rng.choice(3, N, p=(0.5, 0.3, 0.2))), axis=1)
    noise, five = rng.normal(size=(N, C)), rng.normal(size=(5, C))
    double = noise.copy()
    double[:, 6:] = double[:, :6]
    double[:, 0] = double[:, 6] = kind
    cells = [np.zeros((N, C)), np.full((N, C), 7.0), five[kind], double, np.where(np.arange(C) < 2, noise, 3.0), 1e-6 * five[kind], 1e4 * five[kind]]
    x, fold = torch.tensor(np.stack(cells), dtype=torch.float32), torch.tensor(rng.integers(5, size=N))
    W, b, penalty = probe.fit(x, torch.from_numpy(y), fold, classes)
    assert all(t.isfinite().all() for t in (W, b, penalty)) and (penalty > 0).all()
    hit = probe.right((x @ W + b[:, None]).mT, torch.from_numpy(y), classes).float().mean(1)
    most = [np.bincount(y[:, j]).max() / N for j in (0, 1)]
    for constant in (0, 1):  # always the most frequent class
        assert hit[constant].tolist() == pytest.approx(most)
    assert (hit[[2, 6], 0] == 1).all() and hit[5, 0] == 1  # five rows, five classes
    torch.testing.assert_close(W[3, :6], W[3, 6:], rtol=1e-3, atol=1e-4)  # channels that are the same weigh the same
    wide = torch.from_numpy(rng.normal(size=(1, 40, 100)).astype(np.float32))  # more channels than examples
    W, b, _ = probe.fit(wide, torch.from_numpy(y[:40]), fold[:40], classes)
    assert W.isfinite().all() and b.isfinite().all() and ((wide @ W + b[:, None])[0, :, :5].argmax(1).numpy() == y[:40, 0]).mean() > 0.5

def test_where_a_cell_says_nothing_the_first_of_equally_frequent_classes_is_told():
    """A tie would be wrong for all of them: less than chance."""
    y = torch.arange(200)[:, None] % torch.tensor([4, 5])
    x = torch.stack((torch.zeros(200, 6), torch.full((200, 6), -3.0)))
    W, b, _ = probe.fit(x, y, torch.arange(200) // 20 % 5, [4, 5])
    told = (x @ W + b[:, None]).split([4, 5], dim=2)
    assert (told[0].argmax(2) == 0).all() and (told[1].argmax(2) == 0).all()
    assert probe.right((x @ W + b[:, None]).mT, y, [4, 5]).float().mean(1).flatten().tolist() == pytest.approx([1 / 4, 1 / 5] * 2)

def test_right_compares_each_target_within_its_own_columns():
    """Two cells, three questions, two targets of two and three classes. A tie is wrong; the only class is right."""
    scores = torch.tensor([[[1.0, 2, 9, 0, 0], [3, 2, 0, 8, 1], [4, 4, 0, 7, 7]], [[0, 0.1, 0, 0, 5], [9, 0, 1, 2, 3], [0, 1, -1, -2, -3]]])  # (G, n, M)
    y, want = torch.tensor([[1, 0], [1, 1], [0, 2]]), [[[True, True], [False, True], [False, False]], [[True, False], [False, False], [False, False]]]
    before = scores.clone()
    assert probe.right(scores.mT, y, [2, 3]).tolist() == want and torch.equal(scores, before)
    assert probe.right(scores.mT[:, :1], y[:, :1] * 0, [1]).all()

# ----------------------------------------------------------------------------- standard errors

def test_the_standard_error_of_independent_questions_is_the_binomial_one():
    hit = (torch.rand(4, 500, 3, generator=torch.Generator().manual_seed(0)) < torch.tensor([0.1, 0.5, 0.97])).float()
    got = probe.standard_error(hit, torch.randperm(500) * 7)
    for g in range(4):
        for j in range(3):
            p = hit[g, :, j].double().mean().item()
            assert got[g, j].item() == pytest.approx((p * (1 - p) / 500) ** 0.5, rel=1e-4)

def test_the_standard_error_of_groups_is_that_of_their_sums():
    rng = np.random.default_rng(1)
    group, hit = rng.integers(17, size=300) * 3 + 100, rng.random((2, 300, 2)) < 0.4  # names are any numbers, in no order
    hit[1] = (group % 2 == 0)[:, None]  # questions of one group have one fate
    got = probe.standard_error(torch.from_numpy(hit).float(), torch.from_numpy(group))
    for g in range(2):
        for j in range(2):
            p, square = hit[g, :, j].mean(), 0.0
            for name in sorted(set(group.tolist())):
                square += sum(hit[g, i, j] - p for i in range(300) if group[i] == name) ** 2
            assert got[g, j].item() == pytest.approx(square**0.5 / 300, rel=1e-4)

def test_questions_repeated_within_their_group_add_nothing():
    hit = (torch.rand(3, 80, 2, generator=torch.Generator().manual_seed(2)) < 0.3).float()
    once = probe.standard_error(hit, torch.arange(80))
    for m in (2, 5):
        again = probe.standard_error(hit.repeat_interleave(m, 1), torch.arange(80).repeat_interleave(m))
        torch.testing.assert_close(once, again, rtol=1e-4, atol=1e-6)
        assert (probe.standard_error(hit.repeat_interleave(m, 1), torch.arange(80 * m)) < 0.8 * once).all()

def test_the_standard_error_is_the_deviation_of_the_mean_over_repeated_experiments():
    """Groups of one to seven questions, whose share that is right is their own."""
    g = torch.Generator().manual_seed(3)
    group = torch.arange(60).repeat_interleave(torch.arange(60) % 7 + 1)
    share = torch.rand(3000, 60, 1, generator=g)
    hit = (torch.rand(3000, len(group), 1, generator=g) < share[:, group]).float()
    real = hit.mean(1).std()
    assert probe.standard_error(hit, group).square().mean().sqrt().item() == pytest.approx(real.item(), rel=0.05)
    assert probe.standard_error(hit, torch.arange(len(group))).mean() < 0.75 * real

# ----------------------------------------------------------------------------- planted codes

def planted(q, fill, layers=10, positions=12, n_embd=48, noise=0.1, seed=0):
    """The grids of probe.probe on features (layers, positions, N, n_embd) of noise, to which fill(x) adds."""
    x = noise * torch.randn(layers, positions, len(q.node), n_embd, generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(0)
    model = GPT(GPTConfig(len(q.task.vocab), q.task.block_size, n_embd=n_embd)).eval()
    fill(x, model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, 'collect', lambda *_: x)
        return probe.probe(model, q, list(range(layers)), list(range(positions)), RUN, 0)

def one_hot(index, C=48, seed=0):
    """A random direction for every index."""
    return torch.randn(int(index.max()) + 1, C, generator=torch.Generator().manual_seed(seed))[index]

def assert_chance(acc, se, chance):
    """Of many cells: nine in ten within two standard errors, all within four."""
    z = ((acc - chance) / se).abs()
    assert z.numel() >= 100 and (z <= 2).float().mean() >= 0.9 and z.max() <= 4, z.max()
    assert 0.5 < z.square().mean().sqrt() < 1.5  # nor are they too wide

SIX, EIGHT = Cycle(6, [1, 2]), Cycle(8, [1, 2])  # 120 tables, and many

def test_a_planted_code_is_found_where_it_was_planted_and_nowhere_else():
    q = probe.questions(EIGHT, 'direct', 800, 600, 0)
    where = {0: [(1, 3), (4, 7)], 1: [(4, 7), (9, 0)]}
    start = q.batch.tokens[:, q.batch.prompt_len - 1]

    def fill(x, model):
        for j, cells in where.items():
            for cell in cells:
                x[cell] += one_hot(q.node[:, j], 80, seed=j)
        x[2, 2] += one_hot(start * 8 + q.node[:, 0], 80, seed=5)  # all that the control task goes by
        x[5, 5] = 3 * model.wte.weight[q.token[:, 0]] + x[5, 5]  # as the head would read it
    grids = planted(q, fill, n_embd=80)
    assert set(grids) == {'acc', 'se', 'control', 'lens'} and all(v.shape == (10, 12, 2) and v.device.type == 'cpu' for v in grids.values())
    empty, random_labels = torch.ones(10, 12, dtype=torch.bool), probe.targets(q, 0)[0][800:, 2:]
    for cell in ((1, 3), (4, 7), (9, 0), (2, 2), (5, 5)):
        empty[cell] = False
    for j, cells in where.items():
        assert all(grids['acc'][cell][j] >= 0.99 for cell in [*cells, *[(2, 2), (5, 5)][:2 * (j == 0)]])
        assert_chance(grids['acc'][empty][:, j], grids['se'][empty][:, j], 1 / 8)
        share = torch.bincount(random_labels[:, j]).max().item() / 600  # not all of them are drawn as often
        assert grids['control'][empty][:, j].max() < share + 0.04 and grids['control'][empty][:, j].mean() < share
    assert grids['acc'][1, 3, 1] < 0.3 and grids['acc'][9, 0, 0] < 0.3  # the other hop is not there
    assert grids['control'][2, 2, 0] >= 0.99 and all(grids['control'][cell][0] < 0.7 for cell in where[0])
    assert grids['lens'][5, 5, 0] >= 0.99 and grids['lens'][5, 5, 1] < 0.1 and grids['lens'][empty].max() < 0.5

def test_shuffled_labels_are_not_found():
    """Every cell tells, as clearly as can be, the nodes of other questions."""
    q = probe.questions(EIGHT, 'direct', 500, 600, 1)

    def fill(x, model):
        g = torch.Generator().manual_seed(4)
        for i in range(x.size(0)):
            for j in range(x.size(1)):
                x[i, j] += one_hot(q.node[torch.randperm(len(q.node), generator=g), 0])
    grids = planted(q, fill)
    for j in (0, 1):
        assert_chance(grids['acc'][..., j].flatten(), grids['se'][..., j].flatten(), 1 / 8)

MANY = Profiles(10, 3, 17)  # small, with enough pairs for its classes

def test_what_is_learned_of_a_pair_by_heart_does_not_help_on_other_pairs():
    """Each cell names the (person, relation), and the bridge follows from that; but pairs of the test are not those of the fit. The standard error
    must count pairs, not questions: it is the deviation over cells whose names are drawn anew."""
    q = probe.questions(MANY, 'direct', 4000, 4000, 0)

    def fill(x, model):
        for i in range(x.size(0)):
            for j in range(x.size(1)):
                x[i, j] = one_hot(q.group, seed=1000 * i + j)
    grids = planted(q, fill, noise=0)
    acc, se = grids['acc'][..., 0].flatten(), grids['se'][..., 0].flatten()
    label = q.node[q.n_train:q.n_train + q.n_test, 0]
    assert acc.mean() < (torch.bincount(label).max() / len(label)).item() < 0.3
    assert grids['control'][..., 0].mean() < 0.2
    assert se.mean().item() == pytest.approx(acc.std().item(), rel=0.25)
    p = acc.mean().item()
    assert se.mean() > 1.5 * (p * (1 - p) / len(label)) ** 0.5

def test_the_control_task_is_scored_where_its_label_could_be_known():
    """Of a kind that the fit has not met nothing can be known by heart: such questions do not count."""
    q = probe.questions(MANY, 'direct', 200, 4000, 0)
    met, asked = set(q.kind[:200, 0].tolist()), q.kind[200:200 + q.n_test, 0].tolist()
    unseen = sum(kind not in met for kind in asked) / len(asked)
    assert 0.1 < unseen < 0.9

    def fill(x, model):
        x[0, 0] += one_hot(q.kind[:, 0].unique(return_inverse=True)[1], 256)  # in the cell there is all that the labels go by
        x[0, 1] += one_hot(q.node[:, 0], 256)
    grids = planted(q, fill, 1, 2, 256, noise=0)
    assert 1 >= grids['control'][0, 0, 0] >= 0.98 and grids['acc'][0, 1, 0] >= 0.99 and grids['control'][0, 1, 0] < 0.6

def test_unasked_is_the_accuracy_on_the_last_questions():
    q = probe.questions(MANY, 'direct', 4000, 4000, 0)
    tested, rest = slice(q.n_train, q.n_train + q.n_test), slice(q.n_train + q.n_test, None)

    def fill(x, model):
        half = torch.arange(q.n_train + q.n_test, len(q.node), 2)
        for cell, hidden in (((0, 0), slice(0, 0)), ((0, 1), tested), ((1, 0), rest), ((1, 1), half)):
            told = one_hot(q.node[:, 0])
            told[hidden] = 0
            x[cell] += told
        x[2, 0] = 3 * model.wte.weight[q.token[:, 0]] + 0.1 * x[2, 0]  # the first token of the bridge's name, as the head would read it
    grids = planted(q, fill, 3, 2)
    assert grids['lens'][2, 0, 0] >= 0.99 and grids['lens'][0].max() < 0.3
    assert grids['acc'][1, 1, 0] >= 0.99 and 0.4 < grids['unasked'][1, 1, 0] < 0.75
    assert grids['acc'][..., 0].tolist()[0][0] >= 0.99 <= grids['unasked'][0, 0, 0]
    assert grids['acc'][0, 1, 0] < 0.4 and grids['unasked'][0, 1, 0] >= 0.99
    assert grids['acc'][1, 0, 0] >= 0.99 and grids['unasked'][1, 0, 0] < 0.4

def test_no_cells_are_no_trouble():
    """Of fewer positions than processes some process has none."""
    q, model = probe.questions(SIX, 'direct', 100, 20, 0), random_model(SIX)
    grids = probe.probe(model, q, [0, 1, 2], [], RUN, 0) | probe.interchange(model, q, [0, 1, 2], [], 10, RUN, 0)
    assert all(grid.shape == (3, 0, 2) for grid in grids.values()) and len(grids) == 6

# ----------------------------------------------------------------------------- the residual stream

def applications(model, idx):
    """What went into every application of a block, and what came out of the last, by hooks on a forward pass; and its logits."""
    seen = []
    hooks = [block.register_forward_pre_hook(lambda module, x: seen.append(x[0].clone())) for block in model.blocks]
    hooks.append(model.ln_f.register_forward_pre_hook(lambda module, x: seen.append(x[0].clone())))
    logits = model(idx)
    for hook in hooks:
        hook.remove()
    return seen, logits

@pytest.mark.parametrize('n_loop', [1, 2])
@pytest.mark.parametrize('pos', ['learned', 'rope', 'none'])
def test_residuals_are_those_of_the_forward_pass(pos, n_loop):
    model = random_model(SIX, 2, n_loop, pos)
    idx = torch.randint(len(SIX.vocab), (5, 7), generator=torch.Generator().manual_seed(0))  # shorter than block_size
    xs, (seen, logits) = probe.residuals(model, idx), applications(model, idx)
    assert len(xs) == len(seen) == 2 * n_loop + 1
    for ours, theirs in zip(xs, seen, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(probe.head(model, xs[-1]), logits, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(xs[-1], xs[-2], atol=0.1)

@pytest.mark.parametrize('pos', ['learned', 'rope'])
def test_collect_puts_everything_in_its_place(pos):
    """1,203 rows are three batches; some layers and positions, the last position of the sequence cut off."""
    model = random_model(SIX, 2, 2, pos)
    tokens = torch.randint(len(SIX.vocab), (1203, 8), generator=torch.Generator().manual_seed(1))
    q = SimpleNamespace(batch=SimpleNamespace(tokens=tokens), end=7, node=torch.zeros(1203, 2))
    layers, positions = [0, 1, 4], [1, 2, 6]
    out = probe.collect(model, q, layers, positions, RUN)
    assert out.shape == (3, 3, 1203, 16) and out.dtype == torch.float32
    for row in (0, 7, 499, 500, 501, 999, 1000, 1202):
        seen, _ = applications(model, tokens[row:row + 1, :7])
        for i, layer in enumerate(layers):
            for j, position in enumerate(positions):
                torch.testing.assert_close(out[i, j, row], seen[layer][0, position], rtol=1e-5, atol=1e-5)

# ----------------------------------------------------------------------------- interchange: the model under the patch

def patched(model, q, tokens, layer, position, value):
    """The last logits and the answer of a model whose hook puts value at (layer, position) in every forward pass, writing on token by token."""
    count, depth = [0], model.config.n_layer * model.config.n_loop

    def exchange(module, inputs):
        x, *rest = inputs
        if count[0] == layer:
            x = x.clone()
            x[:, position] = value
        count[0] += 1
        return (x, *rest)
    hooks = [module.register_forward_pre_hook(exchange) for module in (*model.blocks, model.ln_f)]
    idx = tokens[:, :max(position + 1, q.batch.prompt_len)]
    while True:
        count[0] = 0
        logits = model(idx)[:, -1]
        assert count[0] == depth + 1
        if idx.size(1) == q.end:
            break
        idx = torch.cat((idx, logits.argmax(-1, keepdim=True)), dim=1)
    for hook in hooks:
        hook.remove()
    return logits, logits.argmax(-1)

@pytest.fixture
def logits_of(monkeypatch):
    """write_on's answer, and the logits that it is the largest of."""
    real, seen = probe.head, []
    monkeypatch.setattr(probe, 'head', lambda model, x: seen.append(real(model, x)) or seen[-1])

    def both(*args):
        seen.clear()
        answer = probe.write_on(*args)
        return seen[-1], answer
    return both

KINDS = pytest.mark.parametrize('mode, n_layer, n_loop, pos', [
    ('direct', 2, 1, 'learned'), ('cot', 2, 1, 'learned'), ('direct', 1, 3, 'rope'), ('cot', 1, 2, 'rope'), ('direct', 2, 2, 'none'), ('cot', 2, 2, 'learned')])

def asked(mode, *shape, task=None, n=24):
    """Questions, a model, the tokens it reads, its residuals."""
    task = task or CVPR(6, [1, 2, 3])  # many tables: many answers
    q = probe.questions(task, mode, 30, n, 0)
    model, tokens = random_model(task, *shape), q.batch.tokens[q.n_train:q.n_train + n, :q.end]
    return q, model, tokens, probe.residuals(model, tokens)

def written(model, q, tokens, position):
    """The answers, and their logits, of a model that writes on behind tokens[:, :position + 1] or the prompt."""
    start = max(position + 1, q.batch.prompt_len)
    out = model.generate(tokens[:, :start], q.end + 1 - start)
    return model(out[:, :-1])[:, -1], out[:, -1]

@KINDS
def test_ones_own_residual_changes_nothing(mode, n_layer, n_loop, pos, logits_of):
    q, model, tokens, xs = asked(mode, n_layer, n_loop, pos)
    for layer in range(n_layer * n_loop + 1):
        for position in range(q.end):
            logits, answer = logits_of(model, q, tokens, xs, layer, position, xs[layer][:, position])
            want, said = written(model, q, tokens, position)
            torch.testing.assert_close(logits.view_as(want), want, rtol=1e-5, atol=1e-5)
            assert torch.equal(answer, said) and len(set(said.tolist())) > 2

def as_with_a_hook(q, model, tokens, xs, logits_of):
    """In every cell; how many answers change."""
    changed = 0
    for layer in range(len(xs)):
        for position in range(q.end):
            value = xs[layer][:, position].roll(1, 0)
            logits, answer = logits_of(model, q, tokens, xs, layer, position, value)
            want, said = patched(model, q, tokens, layer, position, value)
            torch.testing.assert_close(logits.view_as(want), want, rtol=1e-5, atol=1e-5)
            assert torch.equal(answer, said)
            changed += int((answer != written(model, q, tokens, position)[1]).sum())
    return changed

@KINDS
def test_anothers_residual_does_what_a_hook_that_puts_it_there_does(mode, n_layer, n_loop, pos, logits_of):
    assert as_with_a_hook(*asked(mode, n_layer, n_loop, pos), logits_of) > 30  # it does make a difference

@KINDS
def test_the_embedding_of_another_token_is_that_token(mode, n_layer, n_loop, pos, logits_of):
    """Of the prompt, the start among them, or of the chain, behind which the model then writes on."""
    q, model, tokens, xs = asked(mode, n_layer, n_loop, pos)
    changed = Counter()
    assert mode == 'direct' or q.end - q.batch.prompt_len == 2
    for position in range(q.end):
        other = tokens.clone()
        other[:, position] = tokens[:, position].roll(1)
        logits, answer = logits_of(model, q, tokens, xs, 0, position, xs[0][:, position].roll(1, 0))
        want, said = written(model, q, other, position)
        torch.testing.assert_close(logits.view_as(want), want, rtol=1e-5, atol=1e-5)
        assert torch.equal(answer, said)
        changed[position] += int((said != written(model, q, tokens, position)[1]).sum())
    assert changed[q.batch.prompt_len - 1] > 1 and changed[q.end - 1] > 1

def test_behind_the_last_layer_only_the_position_that_is_read_matters():
    for shape in ((2, 1, 'learned'), (1, 3, 'rope')):
        q, model, tokens, xs = asked('direct', *shape)
        own = model(tokens)[:, -1].argmax(-1)
        depth = len(xs) - 1
        for position in range(q.end - 1):
            assert torch.equal(probe.write_on(model, q, tokens, xs, depth, position, xs[depth][:, position].roll(1, 0)), own)
        assert torch.equal(probe.write_on(model, q, tokens, xs, depth, q.end - 1, xs[depth][:, -1].roll(1, 0)), own.roll(1)) and len(set(own.tolist())) > 2

@pytest.mark.parametrize('mode', ['direct', 'cot'])
def test_write_on_for_profiles(mode, logits_of):
    """The answer is the first token of a value, behind the bridge and the subject in a chain."""
    q, model, tokens, xs = asked(mode, 2, 1, 'learned', task=Profiles(10, 3, 4), n=20)
    assert q.end == 5 + 4 * (mode == 'cot') and as_with_a_hook(q, model, tokens, xs, logits_of) > 10

# ----------------------------------------------------------------------------- interchange: what is expected of it

@pytest.mark.parametrize('task', [Cycle(7, [1, 2, 3, 4]), CVPR(9, [3]), Cycle(6, [2], 'pairs')], ids=lambda t: f'{t.name}-{t.format}')
def test_counterfactual_answers_of_lookups(task):
    q = probe.questions(task, 'direct', 20, 40, 3)
    ours, theirs = torch.arange(20, 60), torch.arange(20, 60).roll(7)
    for j in range(1, q.k + 1):
        got = probe.counterfactual(q, ours, theirs, j).tolist()
        for a, b, answer in zip(ours.tolist(), theirs.tolist(), got, strict=True):
            node = int(q.batch.tokens[b, q.batch.prompt_len - 1])
            for _ in range(j):  # the donor's way, in its own table
                node = int(q.batch.instance[b, node])
            assert j < q.k or answer == node == int(q.batch.tokens[b, q.end])
            for _ in range(q.k - j):  # and on in ours
                node = int(q.batch.instance[a, node])
            assert answer == node

@pytest.mark.parametrize('relabel', [False, True])
@pytest.mark.parametrize('attributes', [3, 0])
def test_counterfactual_answers_of_profiles(attributes, relabel):
    """What is true of the donor's bridge, of the subject that we are asked for; k = j: the donor's answer."""
    q = probe.questions(task := Profiles(12, attributes, 6, relabel=relabel), 'direct', 30, 30, 3)
    ours, theirs = torch.arange(5, 60), torch.arange(5, 60).roll(11)
    one, two = (probe.counterfactual(q, ours, theirs, j).tolist() for j in (1, 2))
    for a, b, answer, last in zip(ours.tolist(), theirs.tolist(), one, two, strict=True):
        (_, _, subject, _), (person, relation, *_) = q.batch.instance[a].tolist(), q.batch.instance[b].tolist()
        bridge = int(task.truth[person, attributes + relation])
        fact = int(task.truth[bridge, subject])
        assert answer == (task.symbols + fact if attributes else int(task.names[fact, 0]))
        assert last == int(q.batch.tokens[b, q.end])

class Recorder:
    """Stands in for write_on: gives answers that it is told, or random nodes, and takes down who asked."""

    def __init__(self, answer):
        self.calls, self.answer = [], answer

    def __call__(self, model, q, tokens, xs, layer, position, value):
        self.calls.append((layer, position, value.clone(), self.answer(len(self.calls), q, tokens)))
        return self.calls[-1][-1]

@pytest.mark.parametrize('task', [Cycle(6, [1, 2, 3]), CVPR(6, [3])], ids=lambda t: t.name)
def test_a_flip_is_counted_where_the_counterfactual_answer_is_not_what_the_model_says_anyway(task, monkeypatch):
    """Over random answers, by a plain loop; and a random step is as long as the one to the other question's residual."""
    q, model = probe.questions(task, 'direct', 20, 90, 0), random_model(task)
    recorder = Recorder(lambda i, q, tokens: torch.randint(6, (len(tokens),), generator=torch.Generator().manual_seed(i)))
    monkeypatch.setattr(probe, 'write_on', recorder)
    layers, positions, n = [0, 2], [1, 3, q.end - 1], 80
    grids = probe.interchange(model, q, layers, positions, n, RUN, 0)
    rows = range(20, 100)  # of the test
    xs, logits = applications(model, q.batch.tokens[20:100, :q.end])
    own = logits[:, -1].argmax(-1).tolist()
    seen, left_out = Counter(), Counter()
    for layer, position, value, answers in recorder.calls:
        x = xs[layer][:, position]
        donor = x[[(i - 1) % n for i in range(n)]]
        name = 'flip' if torch.allclose(value, donor, atol=1e-5) else 'random'
        torch.testing.assert_close((value - x).norm(dim=1), (donor - x).norm(dim=1), rtol=1e-4, atol=1e-4)
        if name == 'random' and (layer, position) != (0, 1):
            cosine = torch.nn.functional.cosine_similarity(value - x, donor - x)
            assert cosine[(donor - x).norm(dim=1) > 1e-3].abs().mean() < 0.5
        seen[name, layer, position] += 1
        for j in range(3):
            hits = total = 0
            for i, a in enumerate(rows):
                b = rows[(i - 1) % n]
                node = int(q.node[b, j])
                same = node == int(q.node[a, j])
                for _ in range(2 - j):
                    node = int(q.batch.instance[a, node])
                left_out[j] += same or node == own[i]
                if not same and node != own[i]:
                    hits, total = hits + (int(answers[i]) == node), total + 1
            assert 0 < total < n
            assert grids[name][layers.index(layer), positions.index(position), j].item() == pytest.approx(hits / total, rel=1e-5)
    assert seen == Counter({(name, layer, position): 1 for name in ('flip', 'random') for layer in layers for position in positions})
    assert min(left_out.values()) > 0

@pytest.mark.parametrize('relabel', [False, True])
def test_flips_of_profiles(relabel, monkeypatch):
    """Relabelled, the answer told and the true one differ: only questions of different bridges are asked what they tell."""
    task = Profiles(10, 3, 17, relabel=relabel)
    q, model = probe.questions(task, 'direct', 100, 60, 0), random_model(task)
    a, b = torch.arange(100, 160), torch.arange(100, 160).roll(1)
    own = model(q.batch.tokens[a, :q.end])[:, -1].argmax(-1).tolist()
    assert (q.n_train, q.n_test) == (100, 60)
    for j in (1, 2):
        answers = probe.counterfactual(q, a, b, j)
        answers[::3] = 0  # a third of them does not flip
        monkeypatch.setattr(probe, 'write_on', Recorder(lambda i, q, _, answers=answers: answers))
        hits = total = same = 0
        for i in range(60):
            (person, r, _, _), (other, s, _, _) = q.batch.instance[a[i]].tolist(), q.batch.instance[b[i]].tolist()
            want = probe.counterfactual(q, a[i:i + 1], b[i:i + 1], j).item()
            if j == 1 and task.truth[person, 3 + r] == task.truth[other, 3 + s]:
                same += 1
            elif want != own[i] and (j == 1 or want != int(q.batch.tokens[a[i], q.end])):
                hits, total = hits + (i % 3 > 0), total + 1
        assert probe.interchange(model, q, [1], [4], 60, RUN, 0)['flip'][0, 0, j - 1].item() == pytest.approx(hits / total)
        assert 0 < hits < total and (j == 2 or same > 0)

def test_interchange_takes_as_many_test_questions_as_there_are_and_no_others(monkeypatch):
    q, model, seen = probe.questions(SIX, 'direct', 30, 25, 0), random_model(SIX), []
    monkeypatch.setattr(probe, 'write_on', lambda model, q, tokens, *rest: seen.append(tokens) or tokens[:, -1])
    for n in (10, 25, 1000):
        seen.clear()
        probe.interchange(model, q, [1], [2], n, RUN, 0)
        assert all(torch.equal(t, q.batch.tokens[30:30 + min(n, 25), :q.end]) for t in seen) and len(seen) == 2

@pytest.mark.parametrize('j', [0, 1, 2])
def test_a_model_that_always_flips_and_one_that_never_does(j, monkeypatch):
    q, model = probe.questions(Cycle(6, [3]), 'direct', 20, 60, 0), random_model(Cycle(6, [3]))
    a, b = torch.arange(20, 80), torch.arange(20, 80).roll(1)
    for kind in ('other', 'own'):
        monkeypatch.setattr(probe, 'write_on', Recorder(lambda i, q, _, kind=kind: probe.counterfactual(q, a, b, j + 1) if kind == 'other' else q.node[a, -1]))
        grids = probe.interchange(model, q, [0, 1], [0, 5], 60, RUN, 0)
        assert (grids['flip'][..., j] == (kind == 'other')).all() and (grids['random'][..., j] == (kind == 'other')).all()
        assert kind == 'other' or not grids['flip'].any()

class Step(torch.nn.Module):
    """A lookup as a block: whoever stands behind the table and the hop count becomes sigma of itself."""

    def __init__(self, n):
        super().__init__()
        self.n = n

    def forward(self, x, angles=None, pick=None):
        table, node = x[:, :self.n, :self.n].argmax(-1), x[..., :self.n].argmax(-1)
        out = torch.nn.functional.one_hot(table.gather(1, node.clamp(max=self.n - 1)), x.size(-1)).to(x)
        out[:, :self.n + 1] = x[:, :self.n + 1]
        return out if pick is None else pick.rows(out).flatten(0, 1)

class Stairs(torch.nn.Module):
    """A model made by hand: tokens are unit vectors, each layer takes one lookup. As deep as there are hops it answers at once, one layer writes a chain."""

    def __init__(self, task, n_layer, n_loop=1):
        super().__init__()
        V = len(task.vocab)
        self.config = SimpleNamespace(n_layer=n_layer, n_loop=n_loop, n_embd=V, pos='none')
        self.wte, self.wpe, self.ln_f = torch.nn.Embedding.from_pretrained(torch.eye(V)), None, torch.nn.Identity()
        self.blocks = torch.nn.ModuleList(Step(task.nodes) for _ in range(n_layer))

def walk(q, a, b, mode, layer, position):
    """What Stairs answers to question a if it has the residual of question b there."""
    n, k = q.task.nodes, q.k
    table, start = q.batch.tokens[a, :n].tolist(), int(q.batch.tokens[a, n + 1])
    donor = [int(q.batch.tokens[b, n + 1]), *q.node[b].tolist()]
    own = [start, *q.node[a].tolist()]
    if mode == 'cot':
        step = position - (n + 1)  # it stands at c_step, and writes the next
        if step >= 0:
            node, step = (donor[step], step) if layer == 0 else (donor[step + 1], step + 1)
        else:
            node, step = start, 0
            if position < n and layer == 0:
                table[position] = int(q.batch.tokens[b, position])
        for _ in range(k - step):
            node = table[node]
        return node
    node = own[layer]
    if position < n:
        table[position] = int(q.batch.tokens[b, position])
    elif position == n + 1:
        node = donor[layer]
    for _ in range(k - layer):
        node = table[node]
    return node

@pytest.mark.parametrize('mode, n_layer, n_loop', [('direct', 3, 1), ('direct', 1, 3), ('cot', 1, 1)])
def test_a_model_made_by_hand_flips_exactly_where_it_keeps_the_hop(mode, n_layer, n_loop):
    """Every cell by a plain walk. Directly: hop j is behind layer j at the last token, decodable, read by the head, and used. With a chain: behind the one
    layer before it is written, and in its embedding when it is."""
    task = Cycle(6, [1, 2, 3])
    q, model = probe.questions(task, mode, 300, 200, 0), Stairs(task, n_layer, n_loop)
    layers, positions, P = list(range(n_layer * n_loop + 1)), list(range(q.end)), q.batch.prompt_len
    flip = probe.interchange(model, q, layers, positions, 60, RUN, 0)['flip']
    rows = range(300, 360)
    for layer in layers:
        for position in positions:
            for j in range(3):
                hits = total = 0
                for i, a in enumerate(rows):
                    b = rows[(i - 1) % 60]
                    want = int(q.node[b, j])
                    same = want == int(q.node[a, j])
                    for _ in range(2 - j):
                        want = int(q.batch.tokens[a, want])
                    if not same and want != int(q.node[a, 2]):
                        hits, total = hits + (walk(q, a, b, mode, layer, position) == want), total + 1
                assert flip[layer, position, j].item() == pytest.approx(hits / total, rel=1e-5), (layer, position, j)
    grids = probe.probe(model, q, layers, positions, RUN, 0)
    for j in range(3):
        kept = [(j + 1, P - 1)] if mode == 'direct' else [(1, P - 1 + j), *[(0, P + j)] * (j < 2)]
        assert q.where[j] == kept[0][1]
        for layer, position in kept:
            assert flip[layer, position, j] == grids['acc'][layer, position, j] == 1 and (j == 2 and mode == 'cot' or layer == 0 or
                                                                                         grids['lens'][layer, position, j] == 1)
        others = [(layer, position) for layer in layers for position in positions if (layer, position) not in kept]
        assert max(flip[cell][j] for cell in others) < 0.7 and max(grids['acc'][cell][j] for cell in others) < 0.7

# ----------------------------------------------------------------------------- questions

@pytest.mark.parametrize('mode', ['direct', 'cot'])
@pytest.mark.parametrize('task', [Cycle(7, [1, 2, 3]), Cycle(7, [4]), CVPR(8, [2, 3]), Cycle(6, [2], 'pairs')], ids=lambda t: f'{t.name}-{t.format}-{t.hops}')
def test_questions_of_lookups(task, mode):
    """Tables of the test are held out from the model, those that the probes are fitted to are not; node j is sigma^j(start)."""
    k, n = max(task.hops), task.nodes
    q = probe.questions(task, mode, 150, 70, 5)
    P = n * (2 if task.format == 'pairs' else 1) + 2
    assert (q.task, q.k, q.n_train, q.n_test, q.batch.prompt_len) == (task, k, 150, 70, P)
    assert q.node.shape == q.token.shape == q.kind.shape == (220, k) and q.node.dtype == torch.int64
    assert set(q.batch.hops.tolist()) == {k} and len(q.batch.tokens) == 220
    kinds, groups = [{} for _ in range(k)], {}
    for i, row in enumerate(q.batch.tokens.tolist()):
        shown, start = row[:P - 2], row[P - 1]
        sigma = dict(zip(shown[::2], shown[1::2], strict=True)) if task.format == 'pairs' else dict(enumerate(shown))
        table, node, chain = [sigma[v] for v in range(n)], start, []
        assert row[P - 2] == n + k - 1 and q.batch.instance[i].tolist() == table
        assert bool(held_out(np.array([table]))[0]) == (i >= 150)
        assert groups.setdefault(int(q.group[i]), table) == table  # questions of one table are of one group
        for j in range(k):
            node = table[node]
            chain.append(node)
            assert kinds[j].setdefault(int(q.kind[i, j]), (start, node)) == (start, node)  # the control task: a label for each start and node
        assert q.node[i].tolist() == q.token[i].tolist() == chain
        assert row[P:] == (chain if mode == 'cot' else chain[-1:]) and row[q.end] == chain[-1]
        assert mode == 'direct' or [row[at + 1] for at in q.where] == chain  # where a node is written next
    assert all(len(set(kind.values())) == len(kind) for kind in kinds) and len(set(map(tuple, groups.values()))) == len(groups)
    assert q.end == (P if mode == 'direct' else P + k - 1) and q.where == ([P - 1] * k if mode == 'direct' else list(range(P - 1, P - 1 + k)))
    again, other = probe.questions(task, mode, 150, 70, 5), probe.questions(task, mode, 150, 70, 6)
    assert torch.equal(q.batch.tokens, again.batch.tokens) and not torch.equal(q.batch.tokens, other.batch.tokens)

@pytest.mark.parametrize('mode', ['direct', 'cot'])
@pytest.mark.parametrize('task', [Profiles(30, 2, 3), Profiles(12, 0, 5), Profiles(20, 3, 4, [2]), Profiles(25, 2, 4, relabel=True)],
                         ids=lambda t: f'{t.people}-{t.attributes}-{t.relations}-{t.relabel}')
def test_questions_of_profiles(task, mode):
    A, R = task.attributes, task.relations
    q = probe.questions(task, mode, 10**6, 10**6, 5)
    fitted, tested, rest = slice(0, q.n_train), slice(q.n_train, q.n_train + q.n_test), slice(q.n_train + q.n_test, None)
    rows = [tuple(x[:3]) for x in q.batch.instance.tolist()]
    pairs = [{x[:2] for x in rows[part]} for part in (fitted, tested, rest)]
    assert len(set(rows)) == len(rows) and not pairs[0] & pairs[1] and all(pairs)
    label = task.label(np.array(rows))
    assert set(label[fitted]) == set(label[tested]) == {0, 3} and {2} <= set(label[rest]) <= {1, 2}
    met = {tuple(x[:2]) for seed in range(20) for x in sample_batch(task, 500, seed, 0, 'train', mode, 2).instance.tolist()}
    assert not met & pairs[2] and len(met & (pairs[0] | pairs[1])) > 0.95 * len(pairs[0] | pairs[1])  # in training there are all but those
    shares = len(pairs[1]) / len(pairs[0] | pairs[1])
    assert 0.1 < shares < 0.4 and len(rows) == task.people * R * (A or R)  # every question, of an attribute, or where there are none of a relation
    assert {subject for *_, subject in rows} == set(range(A or R)) and q.where == ([4, 4] if mode == 'direct' else [4, 8])
    assert (q.k, q.batch.prompt_len, q.end) == (2, 5, 5 + 4 * (mode == 'cot'))
    names, groups, kinds = task.names.tolist(), {}, [{}, {}]
    for i, row in enumerate(q.batch.tokens.tolist()):
        person, relation, subject = rows[i]
        bridge = int(task.truth[person, A + relation])
        assert row[:5] == [task.subject + subject, *names[person], task.subject + A + relation]
        chain = task.oracle(row[:5])
        assert chain[:3] == names[bridge] and int(q.node[i, 0]) == bridge
        assert q.token[i].tolist() == [names[bridge][0], chain[4]] and int(q.node[i, 1]) == chain[4] == row[q.end]
        assert row[5:5 + len(chain)] == chain if mode == 'cot' else row[5:5 + len(chain) - 4] == chain[4:]
        assert mode == 'direct' or [row[at + 1] for at in q.where] == q.token[i].tolist()
        assert groups.setdefault(int(q.group[i]), (person, relation)) == (person, relation)
        for j in (0, 1):  # the control task: a label for each person and node
            kind = person, int(q.node[i, j])
            assert kinds[j].setdefault(int(q.kind[i, j]), kind) == kind
    assert all(len(set(table.values())) == len(table) for table in (groups, *kinds))
    few = probe.questions(task, mode, 20, 10, 5)
    assert (few.n_train, few.n_test) == (20, 10) and torch.equal(few.batch.tokens[:20], q.batch.tokens[:20]) and len(few.node) == 40
    assert torch.equal(few.batch.tokens[20:30], q.batch.tokens[tested][:10]) and torch.equal(few.batch.tokens[30:], q.batch.tokens[rest][:10])

# ----------------------------------------------------------------------------- targets

QUESTIONS = [(Cycle(6, [1, 2, 3]), 400, 150), (CVPR(8, [3]), 400, 150), (MANY, 4000, 4000), (Profiles(8, 0, 17), 4000, 4000)]

@pytest.mark.parametrize('task, n_train, n_test', QUESTIONS, ids=lambda x: getattr(x, 'name', None))
def test_targets(task, n_train, n_test):
    q = probe.questions(task, 'direct', n_train, n_test, 0)
    y, classes, chance = probe.targets(q, 7)
    fitted, tested = range(q.n_train), range(q.n_train, q.n_train + q.n_test)
    assert y.shape == (len(q.node), 2 * q.k) and len(classes) == 2 * q.k and len(chance) == q.k and y.dtype == torch.int64
    assert all(type(K) is int for K in classes) and all(0 <= y[:, j].min() and y[:, j].max() < K for j, K in enumerate(classes))
    for j in range(q.k):
        nodes = q.node[:, j].tolist()
        assert len(set(zip(nodes, y[:, j].tolist(), strict=True))) == len(set(nodes)) == classes[j] == classes[q.k + j]  # a class for each node
        labels = y[:, q.k + j].tolist()
        kinds = {}
        for kind, label in zip(q.kind[:, j].tolist(), labels, strict=True):  # whether it is asked in the fit or in the test
            assert kinds.setdefault(kind, label) == label
        assert len(set(zip(nodes, labels, strict=True))) > 1.5 * classes[j]  # and not one for each node
        drawn = Counter(kinds.values())
        assert len(drawn) > 0.6 * min(classes[j], len(kinds)) and max(drawn.values()) < 5 * len(kinds) / len(drawn)
        count = Counter(nodes[i] for i in fitted)
        most = [node for node in count if count[node] == max(count.values())]
        shares = [sum(nodes[i] == node for i in tested) / q.n_test for node in most]
        if task.name == 'cycle':
            shares = [max(share, 1 / 5) for share in shares]
        assert any(chance[j] == pytest.approx(share, abs=1e-6) for share in shares)
    again, other = probe.targets(q, 7)[0], probe.targets(q, 8)[0]
    assert torch.equal(y, again) and torch.equal(y[:, :q.k], other[:, :q.k]) and not torch.equal(y[:, q.k:], other[:, q.k:])

def test_labels_of_the_control_task_are_the_same_in_the_fit_and_the_test():
    """Where a start and a node stand on both sides, as in a small cycle nearly all do, the probe could get them right by heart: selectivity says how far."""
    q = probe.questions(SIX, 'direct', 300, 200, 0)
    y, _, _ = probe.targets(q, 0)
    table = {int(kind): int(label) for kind, label in zip(q.kind[:300, 1], y[:300, 3], strict=True)}
    both = [(int(kind), int(label)) for kind, label in zip(q.kind[300:, 1], y[300:, 3], strict=True) if int(kind) in table]
    assert len(table) == 30 and len(both) > 190 and all(table[kind] == label for kind, label in both)

@pytest.mark.parametrize('task, n_train, n_test, words', [
    (SIX, 29, 100, '--n_train'), (SIX, 300, 9, '--n_test'), (CVPR(8, [3]), 10, 100, '--n_train'), (Cycle(5, [2]), 300, 300, '--n_test'),
    (Profiles(12, 2, 2), 4000, 4000, 'relations'), (Profiles(30, 8, 1), 4000, 4000, 'relations')])
def test_too_few_questions_for_the_classes_are_refused(task, n_train, n_test, words):
    """Or too few that are independent: a cycle of five has some two tables to test."""
    with pytest.raises(ValueError, match=words):
        probe.targets(probe.questions(task, 'direct', n_train, n_test, 0), 0)

# ----------------------------------------------------------------------------- the script

FEW = '--n_train 120 --n_test 60 --n_patch 30'.split()

@pytest.fixture
def no_figure(monkeypatch):
    monkeypatch.setattr(probe, 'plot', lambda *_: None)

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A checkpoint of train_cot, of a few steps."""
    folder = tmp_path_factory.mktemp('trained')
    argv = '--nodes 6 --hops 1-2 --n_embd 8 --batch_size 8 --steps 5 --n_test 5 --mode direct --device cpu --out_dir'.split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_cot, 'plot', lambda *_: None)
        assert conftest.call(train_cot, [*argv, str(folder)])[0] == 0
    return folder / 'ckpt.pt'

@pytest.fixture(scope='module')
def ckpt(tmp_path_factory):
    """{name: checkpoint}, of models of random weights, with the arguments that train_cot would have saved."""
    folder, paths = tmp_path_factory.mktemp('ckpt'), {}
    for name, argv, arm in (('cot', '--nodes 6 --hops 1-3', 'cot'), ('deep', '--nodes 6 --hops 1-3 --n_loop 2', 'cot'),
                            ('loops', '--nodes 6 --hops 2 --n_loop 2', 'direct'),
                            ('cvpr', '--task cvpr --nodes 8 --hops 1-2', 'direct'), ('pairs', '--nodes 6 --hops 2 --format pairs', 'direct'),
                            ('both', '--nodes 6 --hops 2', 'direct'),
                            ('profiles', '--task profiles --people 12 --relations 17 --attributes 3', 'direct'),
                            ('chain', '--task profiles --people 12 --relations 17 --attributes 3', 'cot'),
                            ('people', '--task profiles --people 10 --relations 17 --attributes 0 --relabel', 'direct'),
                            ('few', '--task profiles --people 12 --relations 2 --attributes 3', 'direct'),
                            ('one', '--nodes 6 --hops 1', 'cot'), ('fact', '--task profiles --people 12 --hops 1', 'cot'),
                            ('multiply', '--task multiply --digits 1', 'cot'), ('star', '--task star', 'cot'), ('countdown', '--task countdown', 'cot')):
        args, _ = train_cot.parse_args(f'{argv} --n_layer 1 --n_head 1 --n_embd 8'.split())
        task, gpt = train_cot.fill_in(args)
        saved = {k: v for k, v in vars(args).items() if k not in ('out_dir', 'resume', 'eval_only', 'ckpt')}
        torch.manual_seed(0)
        paths[name] = folder / f'{name}.pt'
        common.save_checkpoint(paths[name], model := GPT(gpt), model.configure_optimizer(1e-3, 0.0), 1, {'script': 'train_cot', **saved, 'arm': arm})
    return paths

def call(*argv):
    return conftest.call(probe, ['--device', 'cpu', *map(str, argv)])

def go(folder, *argv):
    """Its final line as a dict, what stands above it, results.json."""
    code, out, err = call(*argv, '--out_dir', folder)
    assert code == 0, err
    *table, last = out.strip().split('\n')
    assert last.startswith('final ') and out.count('final ') == 1
    return dict(re.findall(r'(\S+)=(\S+)', last)), table, json.loads((Path(folder) / 'results.json').read_text())

def test_a_run_and_what_it_leaves_behind(trained, tmp_path, monkeypatch):
    before, real, models = trained.read_bytes(), common.load_checkpoint, []
    monkeypatch.setattr(common, 'load_checkpoint', lambda *args: models.append(real(*args)) or models[-1])
    final, table, results = go(tmp_path, '--ckpt', trained, *FEW)
    want = {'best_hop1', 'best_hop2', 'first_layer_hop1', 'first_layer_hop2', 'selectivity', 'random_init', 'flip', 'chance', 'cells', 'seconds'}
    assert want <= final.keys()
    assert (final['task'], final['hops'], final['mode'], final['cells'], final['n_test']) == ('cycle', '2', 'direct', str(2 * 8 * 2), '60')
    assert float(final['chance']) >= 0.2 and 'unasked' not in final and 'flip_token' not in final
    assert {p.name for p in tmp_path.iterdir()} == {'config.json', 'log.jsonl', 'results.json', 'plot.png'}
    assert (tmp_path / 'plot.png').read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'
    log = [json.loads(line) for line in (tmp_path / 'log.jsonl').read_text().splitlines()]
    assert [r['arm'] for r in log] == ['hop', 'hop', 'final'] and [r.get('hop') for r in log] == [1, 2, None]
    for record, hop in zip(log, results['hops'], strict=False):
        assert record.keys() - {'arm'} == hop.keys() and hop['layers'] == [0, 1] and hop['positions'] == list(range(8)) and hop['position'] == 7
        for key in ('acc', 'se', 'control', 'lens', 'random_init', 'flip', 'random'):
            assert np.array(hop[key]).shape == (2, 8) and 0 <= np.min(hop[key]) <= np.max(hop[key]) <= 1
    assert results['final'].keys() <= log[-1].keys() and {k for k, v in results['final'].items() if v is not None} == final.keys()
    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['args']['script'] == 'probe' and config['args']['ckpt'] == str(trained) and config['args']['n_train'] == 120
    assert sum(bool(re.match(r' +\d  ', line)) for line in table) == 4  # two hops, two layers
    [(model, state)] = models
    assert trained.read_bytes() == before and all(torch.equal(p, state['model'][name]) for name, p in model.state_dict().items())
    kinds = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
    assert not any(getattr(module, kind) for module in model.modules() for kind in kinds)
    assert all(p.grad is None for p in model.parameters())

def test_results_and_log_are_json(trained, ckpt, tmp_path, no_figure):
    """NaN is none: where there is nothing to report stands null, or nothing."""
    def refuse(word):
        raise ValueError(f'{word} is not JSON')
    for name, path in (('cycle', trained), ('profiles', ckpt['profiles'])):
        folder = tmp_path / name
        go(folder, '--ckpt', path, *('--n_train 4000 --n_test 500 --n_patch 10'.split() if name == 'profiles' else FEW), '--positions', '4')
        for text in ((folder / 'results.json').read_text(), *(folder / 'log.jsonl').read_text().splitlines()):
            json.loads(text, parse_constant=refuse)

def test_the_same_seed_gives_the_same_line(trained, tmp_path, no_figure):
    argv, lines = ['--ckpt', trained, *FEW, '--layers', '0,1', '--positions', '0,6'], []
    for i, seed in enumerate((3, 3, 4)):
        final, _, results = go(tmp_path / str(i), *argv, '--seed', seed)
        lines.append(({**final, 'seconds': 0}, results['hops'][0]['acc'], results['hops'][0]['random']))
    assert lines[0] == lines[1] and lines[0][1] != lines[2][1]
    assert (lines[0][0]['seed'], lines[2][0]['seed']) == ('3', '4')

@pytest.mark.parametrize('extra, layers, positions', [
    ('--layers 1', [1], range(8)), ('--positions 2,0,2', [0, 1], [0, 2, 7]), ('--layers 1,0,1 --positions 7', [0, 1], [7]),
    ('--layers 0 --positions 3', [0], [3, 7])])
def test_some_layers_and_positions(extra, layers, positions, trained, tmp_path, no_figure):
    """Those where the hops are read are always there. A cell's numbers do not depend on which others are asked for."""
    final, _, results = go(tmp_path / 'some', '--ckpt', trained, *FEW, *extra.split())
    _, _, all_of_it = go(tmp_path / 'all', '--ckpt', trained, *FEW)
    positions = list(positions)
    assert final['cells'] == str(len(layers) * len(positions) * 2) and ('embedding' in final) == (0 in layers) and ('acc' in final) == (1 in layers)
    for hop, whole in zip(results['hops'], all_of_it['hops'], strict=True):
        assert hop['layers'] == layers and hop['positions'] == positions
        for key in ('acc', 'se', 'control', 'lens', 'random_init', 'flip', 'random'):
            np.testing.assert_allclose(hop[key], np.array(whole[key])[np.ix_(layers, positions)], atol=1e-4, err_msg=key)

def test_a_chain(ckpt, tmp_path, no_figure):
    final, table, results = go(tmp_path, '--ckpt', ckpt['cot'], *FEW, '--positions', '1')
    assert (final['mode'], final['hops'], final['cells']) == ('cot', '3', str(2 * 4 * 3))  # position 1 and the three tokens that write
    assert [hop['position'] for hop in results['hops']] == [7, 8, 9] and results['hops'][0]['positions'] == [1, 7, 8, 9]
    assert {'best_hop3', 'first_layer_hop3', 'flip_token', 'acc'} <= final.keys()
    assert float(final['flip_token']) == pytest.approx(results['hops'][0]['flip'][0][2], abs=1e-3)  # position 8: the first node that is written
    example = table[1].split()
    assert len(example) == 10 and example[6] == 'k=3'
    for j, node in enumerate(example[7:]):  # what stands at the position where each hop is read
        assert f'hop {j + 1} at position {7 + j} ({node})' in '\n'.join(table)

@pytest.mark.parametrize('name, cells', [
    ('loops', 3 * 8 * 2), ('cvpr', 2 * 10 * 2), ('pairs', 2 * 14 * 2), ('profiles', 2 * 5 * 2), ('chain', 2 * 9 * 2), ('people', 2 * 5 * 2)])
def test_every_kind_of_checkpoint(name, cells, ckpt, tmp_path, no_figure):
    people = name in ('profiles', 'chain', 'people')
    final, _, results = go(tmp_path, '--ckpt', ckpt[name], *('--n_train 4000 --n_test 300 --n_patch 20'.split() if people else FEW))
    assert final['cells'] == str(cells) and ('unasked' in final) == people and ('flip_token' in final) is False
    assert final['n_loop'] == ('2' if name == 'loops' else '1') and 0 <= float(final['acc']) <= 1
    assert not people or np.isfinite([hop['unasked'] for hop in results['hops']]).all()

def test_bfloat16_and_a_checkpoint_from_before_relabel(ckpt, tmp_path, no_figure):
    """Half precision in the model alone: the numbers hardly change."""
    _, state = common.load_checkpoint(ckpt['chain'])
    assert state['args'].pop('relabel') is False
    torch.save(state, tmp_path / 'old.pt')
    argv = '--n_train 4000 --n_test 300 --n_patch 20 --positions 4'.split()
    _, _, one = go(tmp_path / 'one', '--ckpt', ckpt['chain'], *argv)
    _, _, two = go(tmp_path / 'two', '--ckpt', tmp_path / 'old.pt', *argv, '--dtype', 'bfloat16')
    for a, b in zip(one['hops'], two['hops'], strict=True):
        np.testing.assert_allclose(a['acc'], b['acc'], atol=0.1)
        np.testing.assert_allclose(a['flip'], b['flip'], atol=0.2)
    assert json.loads((tmp_path / 'two' / 'config.json').read_text())['args']['dtype'] == 'bfloat16'

def test_a_checkpoint_of_capacity(tmp_path, no_figure, monkeypatch):
    for name in ('plot', 'plot_smallest'):
        monkeypatch.setattr(capacity, name, lambda *_: None)
    argv = '--hops 2 --people 10 --attributes 2 --relations 17 --sizes 1300 --exposures 2 --steps 3 --device cpu --seed 4 --out_dir'.split()
    with torch.enable_grad():
        code, _, err = conftest.call(capacity, [*argv, str(tmp_path / 'train')])
    assert code == 0, err
    [path] = (tmp_path / 'train').glob('ckpt-*.pt')
    final, table, results = go(tmp_path / 'probe', '--ckpt', path, '--n_train', '4000', '--n_test', '200', '--n_patch', '20')
    assert (final['task'], final['mode'], int(final['n_test']) <= 200, final['model_seed']) == ('profiles', 'direct', True, '4')
    task = Profiles(10, 2, 17, facts=4)  # the facts that it was trained on: their text is in the example
    subject, a, b, c, relation = table[1].split()
    assert [a, b, c] in [task.decode(name).split() for name in task.names.tolist()] and len(results['hops']) == 2

def test_a_checkpoint_of_reinforcement_learning_is_taken_or_refused_in_one_line(tmp_path, no_figure, monkeypatch):
    monkeypatch.setattr(train_rl, 'plot', lambda *_: None)
    argv = '--nodes 6 --hops 1-2 --n_embd 8 --batch_size 4 --group_size 2 --n_test 10 --steps 2 --device cpu --out_dir'.split()
    with torch.enable_grad():
        code, _, err = conftest.call(train_rl, [*argv, str(tmp_path / 'train')])
    assert code == 0, err
    code, out, err = call('--ckpt', tmp_path / 'train' / 'ckpt.pt', *FEW, '--out_dir', tmp_path / 'probe')
    assert (code == 0 and ' mode=cot ' in out) or (code == 2 and err.count('\n') == 1), err

def test_the_last_line_by_plain_loops(ckpt, tmp_path, monkeypatch, no_figure):
    """From grids that are made up: the first layer at 0.95 that is 0.05 above untrained, the best one, and what the others say there."""
    rng, made = np.random.default_rng(0), []

    def made_up(*keys):
        made.append({key: torch.tensor(rng.random((3, 10, 3)) * 0.9, dtype=torch.float32) for key in keys})
        return made[-1]
    # layers 0, 1, 2 where each hop is read: decodable before it is best; nearly at first; never better than untrained
    acc, control = ((0.2, 0.96, 0.97), (0.94, 0.99, 0.97), (0.3, 0.96, 0.94)), ((0.9, 0.3, 0.2), (0.2, 0.3, 0.9), (0.8, 0.5, 0.8))
    monkeypatch.setattr(probe, 'probe', lambda *_: made_up('acc', 'se', 'control', 'lens'))

    def interchange(*_):
        for j, position in enumerate((7, 8, 9)):
            made[0]['acc'][:, position, j], made[0]['control'][:, position, j] = torch.tensor(acc[j]), torch.tensor(control[j])
        made[1]['acc'][1, 9, 2] = 0.92
        return made_up('flip', 'random')
    monkeypatch.setattr(probe, 'interchange', interchange)
    final, table, results = go(tmp_path, '--ckpt', ckpt['deep'], *FEW)
    real, fresh, patch = made
    close = pytest.approx
    assert [float(final[f'best_hop{j}']) for j in (1, 2, 3)] == close([0.97, 0.99, 0.96], abs=1e-3)
    assert [final[f'first_layer_hop{j}'] for j in (1, 2, 3)] == ['1', '1', 'none']
    assert float(final['selectivity']) == close(0.96 - 0.5, abs=1e-3)  # least of 0.77, 0.69, 0.46
    untrained = [fresh['acc'][layer, 7 + j, j].item() for layer in range(3) for j in range(3)]
    assert float(final['random_init']) == close(max(untrained), abs=1e-3) and float(final['embedding']) == close(0.94)
    assert float(final['acc']) == close(real['lens'][2, 9, 2].item(), abs=1e-3)
    assert float(final['flip']) == close(patch['flip'][1, 7, 0].item(), abs=1e-3)  # hop 1: at its first layer, where it is read
    assert float(final['flip_random']) == close(patch['random'][1, 7, 0].item(), abs=1e-3)
    assert float(final['flip_token']) == close(patch['flip'][0, 8, 0].item(), abs=1e-3)
    assert float(final['chance']) == max(round(hop['chance'], 3) for hop in results['hops'])
    for j, hop in enumerate(results['hops']):
        for key, grid in {**{key: real[key] for key in ('acc', 'se', 'control', 'lens')}, **patch, 'random_init': fresh['acc']}.items():
            np.testing.assert_allclose(hop[key], grid[..., j], atol=1e-4, err_msg=key)
    lines = [line.split() for line in table if re.match(r' +\d  ', line)]
    for i, (layer, a, _, se, c, selectivity, untrained, lens, flip, random) in enumerate(lines):
        j, layer = i // 3, int(layer)
        cell = layer, 7 + j, j
        want = [real['acc'][cell], real['se'][cell], real['control'][cell], real['acc'][cell] - real['control'][cell], fresh['acc'][cell], real['lens'][cell],
                patch['flip'][cell], patch['random'][cell]]
        assert [float(x) for x in (a, se, c, selectivity, untrained, lens, flip, random)] == close([x.item() for x in want], abs=1e-3)
    assert len(lines) == 9

# ----------------------------------------------------------------------------- bad input

def refused(tmp_path, *argv, out_dir=True):
    """The one line on stderr; nothing was written."""
    def tree():
        return {p: p.read_bytes() if p.is_file() else None for p in tmp_path.rglob('*')}
    before = tree()
    code, out, err = conftest.call(probe, [*map(str, argv), *(['--out_dir', str(tmp_path / 'out')] if out_dir else [])])
    assert code == 2 and out == '' and err.count('\n') == 1 and err.endswith('\n') and len(err) > 20 and 'Traceback' not in err, (code, out, err)
    assert tree() == before
    return err

def test_without_a_checkpoint_it_says_how_to_make_the_one_it_looks_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refused(tmp_path, out_dir=False)
    command = re.search(r'python (train_cot\.py .*)$', line.strip())[1]
    assert f'python {command}' in probe.__doc__ and probe.DEFAULT in line
    args, _ = train_cot.parse_args(command.split()[1:])
    task, _ = train_cot.fill_in(args)
    assert probe.DEFAULT == f'{args.out_dir}/ckpt.pt' and args.mode == 'direct' and isinstance(task, Cycle) and max(task.hops) >= 2
    assert refused(tmp_path, '--layers', '1') != '' and f'default: {probe.DEFAULT}' in ' '.join(conftest.call(probe, ['--help'])[1].split())

def test_the_commands_of_its_docstring_parse():
    commands = re.findall(r'^    .*?\b(train_cot|probe)\.py([^#\n]*)', probe.__doc__, re.M)
    assert [name for name, _ in commands] == ['train_cot', 'probe', 'probe', 'probe']
    for name, argv in commands:
        (train_cot if name == 'train_cot' else probe).parse_args(argv.split())

def test_files_that_are_no_checkpoint(trained, tmp_path):
    whole = trained.read_bytes()
    for name, content in (('cut.pt', whole[:len(whole) // 2]), ('empty.pt', b''), ('text.pt', b'hello'), ('byte.pt', whole[:-1])):
        (tmp_path / name).write_bytes(content)
        assert 'is not a checkpoint' in refused(tmp_path, '--ckpt', tmp_path / name)
    torch.save({'model': {}, 'config': {}}, tmp_path / 'foreign.pt')
    torch.save([1, 2], tmp_path / 'list.pt')
    for name in ('foreign.pt', 'list.pt'):
        assert 'is not a checkpoint' in refused(tmp_path, '--ckpt', tmp_path / name)
    for change, words in (({'task': 'mazes'}, 'no task'), ({'nodes': '6'}, 'no task'), ({'nodes': 7}, 'version'), ({'task': None}, 'no task')):
        state = torch.load(trained, weights_only=True)
        state['args'] |= change
        torch.save(state, tmp_path / 'other.pt')
        assert words in refused(tmp_path, '--ckpt', tmp_path / 'other.pt')
    state['args'] = {'script': 'train_cot'}
    torch.save(state, tmp_path / 'other.pt')
    assert 'no task' in refused(tmp_path, '--ckpt', tmp_path / 'other.pt')
    assert 'there is no checkpoint' in refused(tmp_path, '--ckpt', tmp_path / 'nowhere.pt')
    assert refused(tmp_path, '--ckpt', tmp_path)

@pytest.mark.parametrize('name, words', [
    ('one', 'one hop'), ('fact', 'one hop'), ('multiply', 'multiply'), ('star', 'star'), ('countdown', 'countdown'), ('few', 'too few')])
def test_checkpoints_without_a_hidden_chain(name, words, ckpt, tmp_path):
    assert words in refused(tmp_path, '--ckpt', ckpt[name])

@pytest.mark.parametrize('argv, words', [
    ('--layers 9', '--layers'), ('--layers=-1', '--layers'), ('--layers -1', '--layers'), ('--layers 0,2', '--layers'), ('--positions 99', '--positions'),
    ('--positions 8', '--positions'), ('--positions=-1', '--positions'), ('--positions 0,99', '--positions'), ('--layers x', '--layers'),
    ('--n_train 10', '--n_train'), ('--n_train 29', '30'), ('--n_train 1000001', 'million'), ('--n_test 99999999999', 'million'),
    ('--n_train 0', '--n_train'), ('--n_test 1', '--n_test'), ('--n_patch 0', '--n_patch'),
    ('--device tpu', 'tpu'), ('--device cuda:99', 'cuda:99'), ('--dtype float8', '--dtype')])
def test_bad_arguments(argv, words, trained, tmp_path):
    assert words in refused(tmp_path, '--ckpt', trained, *argv.split())

def test_a_grid_that_would_not_fit_is_refused(trained, tmp_path, monkeypatch):
    """Before it is asked for: here a width of 10^7 channels."""
    real = common.load_checkpoint

    def wide(*args):
        model, state = real(*args)
        model.config.n_embd = 10**7
        return model, state
    monkeypatch.setattr(common, 'load_checkpoint', wide)
    assert 'GiB' in refused(tmp_path, '--ckpt', trained)

def test_a_folder_that_holds_another_run(trained, tmp_path, no_figure):
    go(tmp_path / 'run', '--ckpt', trained, *FEW, '--positions', '1')
    for argv, words in ((['--positions', '2'], 'holds a run with'), (['--positions', '1', '--seed', '3'], 'seed=1337, not 3')):
        assert words in refused(tmp_path, '--device', 'cpu', '--ckpt', trained, *FEW, *argv, '--out_dir', tmp_path / 'run', out_dir=False)
    assert 'holds a run with' in refused(tmp_path, '--ckpt', trained, *FEW, '--out_dir', trained.parent, out_dir=False)  # nor the model's own
    assert trained.exists()
    go(tmp_path / 'run', '--ckpt', trained, *FEW, '--positions', '1')  # the same starts over

# ----------------------------------------------------------------------------- two processes

TWO_PROCESSES = """
import os, sys, probe
probe.plot, (sys.argv[0], *argv) = lambda *_: None, sys.argv
argv, ports, folder = argv[:-3], argv[-3:-1], argv[-1]
codes = []
for port, extra in zip(ports, ([], ['--positions', '7'])):
    children = []
    for rank in '01':
        children.append(os.fork())
        if not children[-1]:
            os.environ.update(RANK=rank, LOCAL_RANK=rank, MASTER_PORT=port)
            probe.main([*argv, *extra, '--out_dir', folder + '/two' + ''.join(extra)])
            sys.exit(0)
    codes += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print('codes', *codes)
"""

def test_two_processes_find_what_one_finds(trained, tmp_path, no_figure):
    """torchrun's variables, set by hand: it takes seconds to start. Eight positions, and one, of which the second process gets none."""
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(('127.0.0.1', 0))
        ports = [str(free.getsockname()[1]) for free in (first, second)]
    argv = ['--ckpt', str(trained), *FEW, '--device', 'cpu']
    done = subprocess.run([sys.executable, '-c', TWO_PROCESSES, *argv, *ports, str(tmp_path)], cwd=ROOT, text=True, capture_output=True, timeout=120,
                          env=os.environ | dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', OMP_NUM_THREADS='1'))
    assert done.returncode == 0 and done.stdout.endswith('codes 0 0 0 0\n'), done.stdout + done.stderr
    assert done.stdout.count('final ') == 2  # rank 0 alone speaks
    for name, extra in (('two', []), ('two--positions7', ['--positions', '7'])):
        _, _, one = go(tmp_path / f'one{name}', *argv, *extra)
        two = json.loads((tmp_path / name / 'results.json').read_text())
        for a, b in zip(one['hops'], two['hops'], strict=True):
            assert a['positions'] == b['positions'] and a['layers'] == b['layers']
            for key in ('acc', 'se', 'control', 'lens', 'random_init', 'flip', 'random'):  # random last
                np.testing.assert_allclose(a[key], b[key], atol=1e-4, err_msg=f'{name} {key}')
        same = one['final'].keys() - {'seconds'}
        assert one['final'].keys() == two['final'].keys() and all(one['final'][key] == pytest.approx(two['final'][key], abs=1e-4) for key in same)

@pytest.mark.slow
def test_headline(tmp_path):
    """The model that the refusal without a checkpoint names, and its probes. The first seed reaches every bar with room; of three seeds one only just
    reaches 0.95 for hop 2 and 0.80 for the flips."""
    for argv in ([*probe.MAKE.split()[1:], '--out_dir', tmp_path / 'model'],
                 ['probe.py', '--ckpt', tmp_path / 'model' / 'ckpt.pt', '--out_dir', tmp_path / 'probe']):
        done = subprocess.run([sys.executable, *map(str, argv)], cwd=ROOT, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
    final = dict(re.findall(r'(\S+)=(\S+)', done.stdout.strip().split('\n')[-1]))
    x = {name: float(value) for name, value in final.items() if name not in ('task', 'mode')}
    assert x['best_hop1'] >= 0.95 and x['best_hop2'] >= 0.95 and (x['first_layer_hop1'], x['first_layer_hop2']) == (1, 2), final
    assert x['flip'] >= 0.8 and max(x[name] for name in ('embedding', 'random_init', 'flip_random')) <= x['chance'] + 0.05, final
    assert x['selectivity'] >= 0.3 and x['cells'] == 96 and x['seconds'] < 60, final
