"""probe.py: probes and interchanges where it is known what there is to find. Planted codes, models
made by hand, plain loops; then the script."""

import contextlib
import io
import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import call, change_checkpoint, final_values, run_script, save_checkpoint
from two_processes import free_port

import capacity
import common
import linear_probe
import probe
import train_cot
import train_rl
from data import CVPR, Cycle, held_out, sample_batch
from model import GPT, GPTConfig
from profiles import Profiles


RUN = SimpleNamespace(device=torch.device('cpu'), autocast=contextlib.nullcontext(), world=1,
                      rank=0, master=True)
SIX = Cycle(6, [1, 2])        # 120 tables
EIGHT = Cycle(8, [1, 2])      # 5,040 tables
PEOPLE = Profiles(10, 3, 17)  # few people, with enough pairs for their classes


@pytest.fixture(autouse=True)
def no_grad():
    """As main has it."""
    with torch.no_grad():
        yield


def random_model(task, n_layer=2, n_loop=1, pos='learned'):
    """A GPT of random weights whose answers depend on what it reads.

    Positions count less than tokens, and attention looks at some tokens more than at others.
    """
    torch.manual_seed(0)
    C = 16
    config = GPTConfig(len(task.vocab), task.block_size, n_layer, 2, C, n_loop, pos=pos)
    model = GPT(config).eval()
    for name, p in model.named_parameters():
        if name.startswith('w'):
            p.mul_((0.3 if name == 'wpe.weight' else 1) / p.norm(dim=1, keepdim=True))
        elif name.endswith(('q.weight', 'k.weight')):
            p.normal_(std=3 / C**0.5)
        elif p.dim() == 2:
            p.normal_(std=0.5 / C**0.5)
    return model


def run_probes(model, questions, layers, positions):
    labels = probe.make_labels(questions, 0)
    return probe.probe(model, questions, labels, layers, positions, RUN)


def run_interchange(model, questions, layers, positions, n_patch):
    return probe.interchange(model, questions, layers, positions, n_patch, RUN, 0)


def all_rows(questions):
    """Slices of the questions to fit, of those to test, and of the rest."""
    n_train = questions.n_train
    n_both = n_train + questions.n_test
    return slice(0, n_train), slice(n_train, n_both), slice(n_both, None)


def test_random_init_is_the_accuracy_of_probes_on_new_weights_of_the_seed():
    """And all else is measured on the model itself."""
    questions = probe.make_questions(EIGHT, 'direct', 300, 100, 0)
    labels = probe.make_labels(questions, 0)
    model = random_model(EIGHT, n_layer=1)
    cells = (questions, labels, [0, 1], [8, 9])
    grids = {}
    for seed in (1, 2):
        args = SimpleNamespace(seed=seed, n_patch=10)
        grids[seed] = probe.measure_cells(model, *cells, args, RUN)
        torch.manual_seed(seed)
        untrained = probe.probe(GPT(model.config).eval(), *cells, RUN)
        assert torch.equal(grids[seed]['random_init'], untrained['acc'])
    of_model = probe.probe(model, *cells, RUN)
    assert torch.equal(grids[1]['acc'], of_model['acc'])
    assert torch.equal(grids[1]['lens'], of_model['lens'])
    for other in (grids[2]['random_init'], of_model['acc']):
        assert not torch.equal(grids[1]['random_init'], other)


# -----------------------------------------------------------------------------
# ridge regression

def ridge(x, y, n_classes, penalty):
    """Centre, solve, and put the means into the intercept, in float64: W (C, K), b (K,)."""
    one_hot = np.eye(n_classes)[y]
    X = x - x.mean(0)
    Y = one_hot - one_hot.mean(0)
    W = np.linalg.solve(X.T @ X + penalty * np.eye(X.shape[1]), X.T @ Y)
    return W, one_hot.mean(0) - x.mean(0) @ W


def unit_of(x):
    """trace(X^T X) / C of the centred x."""
    return ((x - x.mean(0)) ** 2).sum() / x.shape[1]


def cross_validated(x, y, n_classes, fold):
    """The first penalty with the most hits on folds left out, and the hits of each."""
    hits = []
    for penalty in linear_probe.PENALTIES:
        n_hits = 0
        for f in sorted(set(fold.tolist())):
            others = fold != f
            W, b = ridge(x[others], y[others], n_classes, penalty * unit_of(x[others]))
            predicted = (x[~others] @ W + b).argmax(1)
            n_hits += int((predicted == y[~others]).sum())
        hits.append(n_hits)
    return linear_probe.PENALTIES[hits.index(max(hits))], hits


def labelled_cells(seed):
    """x (6, 150, 10) of several kinds, y (150, 3) of 2, 5 and 3 classes, fold (150,) of unequal
    sizes in no order."""
    N = 150
    C = 10
    rng = np.random.default_rng(seed)
    classes = [2, 5, 3]
    y = []
    for K in classes:
        frequency = np.arange(1, K + 1) / (K * (K + 1) / 2)
        y.append(rng.choice(K, N, p=frequency))
    y = np.stack(y, axis=1)
    code = [rng.normal(size=(K, C)) for K in classes]
    x = rng.normal(size=(6, N, C))

    # easy: all labels, loud
    for j in range(3):
        x[0] += 5 * code[j][y[:, j]]
    # large channels that say nothing, beside small ones that do
    x[1, :, :3] *= 30
    x[1, :, 3:] = 0.3 * code[1][y[:, 1], 3:] + 0.1 * x[1, :, 3:]
    # noise alone, far from zero
    x[2] += 50
    # two of the labels, faint
    x[3] += 0.4 * code[1][y[:, 1]] + 0.3 * code[2][y[:, 2]]
    # the same, faint beside two large channels
    x[4, :, :2] *= 100
    signal = 0.5 * code[2][y[:, 2], 2:] + 0.3 * code[0][y[:, 0], 2:]
    x[4, :, 2:] = signal + 0.5 * x[4, :, 2:] - 3
    # small numbers
    x[5] = 0.01 * (x[5] + 0.3 * code[1][y[:, 1]])

    fold = rng.permutation(np.repeat(range(5), (60, 40, 25, 15, 10)))
    return x.astype(np.float32), y, fold, classes


def columns_of(j, classes):
    """Where the classes of target j stand side by side."""
    return slice(sum(classes[:j]), sum(classes[:j + 1]))


def share_correct(x, W, b, y, classes):
    """(G, J)"""
    scores = (x @ W + b[:, None]).mT
    return linear_probe.correct(scores, y, classes).float().mean(1)


@pytest.mark.parametrize('seed', [0, 1])
def test_fit_is_ridge_regression_with_the_penalty_of_its_own_cross_validation(seed):
    x, y, fold, classes = labelled_cells(seed)
    W, b, penalty = linear_probe.fit(*map(torch.from_numpy, (x, y, fold)), classes)
    assert W.shape == (6, 10, 10) and b.shape == (6, 10) and penalty.shape == (6, 3)
    assert W.dtype == b.dtype == torch.float32
    chosen = Counter()
    ties = 0
    for g, cell in enumerate(x.astype(np.float64)):
        for j, K in enumerate(classes):
            best, hits = cross_validated(cell, y[:, j], K, fold)
            assert penalty[g, j].item() == pytest.approx(best * unit_of(cell), rel=1e-4), (g, j)
            columns = columns_of(j, classes)
            true_W, true_b = ridge(cell, y[:, j], K, penalty[g, j].item())
            np.testing.assert_allclose(W[g, :, columns], true_W, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(b[g, columns], true_b, rtol=1e-4, atol=1e-4)
            chosen[best] += 1
            ties += hits.count(max(hits)) > 1
    assert len(chosen) >= 4 and ties >= 3  # these cells do need different penalties


def test_a_large_direction_that_is_no_channel_does_not_blur_the_small_ones():
    """As in trained residual streams, under the smallest penalty. Where one direction is 300 times
    as large, sums in float32 would lose the digits of the others."""
    N = 4000
    rng = np.random.default_rng(0)
    y = rng.integers(5, size=(N, 1))
    x = rng.normal(size=(3, N, 16)) + 0.3 * rng.normal(size=(3, 5, 16))[:, y[:, 0]]
    x[:, :, 0] *= np.array([[30], [300], [300]])
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 16, 16)))
    x = np.float32(x @ rotation + np.array([0, 0, 30]).reshape(3, 1, 1))

    fold = torch.arange(N) % 5
    W, b, penalty = linear_probe.fit(torch.from_numpy(x), torch.from_numpy(y), fold, [5],
                                     penalties=(1e-6,))
    for g, cell in enumerate(x.astype(np.float64)):
        true_W, true_b = ridge(cell, y[:, 0], 5, penalty[g, 0].item())
        assert np.abs(W[g].numpy() - true_W).max() < 1e-4 * np.abs(true_W).max()
        assert np.abs(b[g].numpy() - true_b).max() < 1e-4


def test_a_cell_alone_and_a_target_alone_give_what_they_give_together():
    x, y, fold, classes = labelled_cells(2)
    x, y, fold = map(torch.from_numpy, (x, y, fold))
    W, b, penalty = linear_probe.fit(x, y, fold, classes)
    for g in (1, 4):
        for j, K in enumerate(classes):
            alone = linear_probe.fit(x[g:g + 1], y[:, j:j + 1], fold, [K])
            columns = columns_of(j, classes)
            together = (W[g:g + 1, :, columns], b[g:g + 1, columns], penalty[g:g + 1, j:j + 1])
            for a, t in zip(alone, together, strict=True):
                torch.testing.assert_close(t, a, rtol=1e-4, atol=1e-4)


def test_the_intercept_is_not_penalised():
    """Wherever zero lies, the scores are the same. Without any other information they are the
    frequencies of the classes."""
    x, y, fold, classes = labelled_cells(3)
    x, y, fold = map(torch.from_numpy, (x, y, fold))
    frequencies = []
    for j, K in enumerate(classes):
        frequencies.append(torch.bincount(y[:, j], minlength=K) / len(y))
    frequencies = torch.cat(frequencies)
    for shift in (0, 20):
        W, b, _ = linear_probe.fit(x + shift, y, fold, classes, penalties=(1e9,))
        scores = (x + shift) @ W + b[:, None]
        torch.testing.assert_close(scores, frequencies.expand(6, len(y), -1), rtol=0, atol=1e-4)


def low_rank_cells(rng, label, N, C):
    """Cells whose C channels have a rank below C. label (N,) has five values."""
    noise = rng.normal(size=(N, C))
    vectors = rng.normal(size=(5, C))
    doubled = noise.copy()
    doubled[:, 6:] = doubled[:, :6]
    doubled[:, 0] = doubled[:, 6] = label
    return np.stack([
        np.zeros((N, C)),
        np.full((N, C), 7.0),
        vectors[label],
        doubled,
        np.where(np.arange(C) < 2, noise, 3.0),
        1e-6 * vectors[label],
        1e4 * vectors[label],
    ])


def test_features_of_too_low_a_rank_do_no_harm():
    rng = np.random.default_rng(0)
    N = 200
    classes = [5, 3]
    label = rng.integers(5, size=N)
    y = torch.from_numpy(np.stack((label, rng.choice(3, N, p=(0.5, 0.3, 0.2))), axis=1))
    x = torch.tensor(low_rank_cells(rng, label, N, C=12), dtype=torch.float32)
    fold = torch.tensor(rng.integers(5, size=N))

    W, b, penalty = linear_probe.fit(x, y, fold, classes)
    assert W.isfinite().all() and b.isfinite().all() and penalty.isfinite().all()
    assert (penalty > 0).all()
    shares = share_correct(x, W, b, y, classes)
    most_frequent = [y[:, j].bincount().max().item() / N for j in (0, 1)]
    for constant in (0, 1):
        assert shares[constant].tolist() == pytest.approx(most_frequent)
    assert (shares[[2, 5, 6], 0] == 1).all()  # five vectors, five classes
    torch.testing.assert_close(W[3, :6], W[3, 6:], rtol=1e-3, atol=1e-4)  # equal channels


def test_more_channels_than_examples_do_no_harm():
    rng = np.random.default_rng(0)
    y = torch.from_numpy(np.stack((rng.integers(5, size=40), rng.integers(3, size=40)), axis=1))
    x = torch.from_numpy(rng.normal(size=(1, 40, 100)).astype(np.float32))
    fold = torch.arange(40) % 5
    W, b, _ = linear_probe.fit(x, y, fold, [5, 3])
    assert W.isfinite().all() and b.isfinite().all()
    assert share_correct(x, W, b, y, [5, 3])[0, 0] > 0.5


def test_a_cell_that_says_nothing_predicts_the_first_of_equally_frequent_classes():
    """A tie would be wrong for all of them: less than chance."""
    classes = [4, 5]
    y = torch.arange(200)[:, None] % torch.tensor(classes)
    x = torch.stack((torch.zeros(200, 6), torch.full((200, 6), -3.0)))
    W, b, _ = linear_probe.fit(x, y, torch.arange(200) // 20 % 5, classes)
    for scores in (x @ W + b[:, None]).split(classes, dim=2):
        assert (scores.argmax(2) == 0).all()
    shares = share_correct(x, W, b, y, classes)
    assert shares.flatten().tolist() == pytest.approx([1 / 4, 1 / 5, 1 / 4, 1 / 5])


def test_correct_compares_each_target_within_its_own_columns():
    """Two cells, three questions, two targets of two and three classes. A tie is wrong."""
    scores = torch.tensor([
        [[1.0, 2, 9, 0, 0], [3, 2, 0, 8, 1], [4, 4, 0, 7, 7]],
        [[0, 0.1, 0, 0, 5], [9, 0, 1, 2, 3], [0, 1, -1, -2, -3]],
    ]).mT                                                                   # (G, M, n)
    y = torch.tensor([[1, 0], [1, 1], [0, 2]])
    before = scores.clone()
    assert linear_probe.correct(scores, y, [2, 3]).tolist() == [
        [[True, True], [False, True], [False, False]],
        [[True, False], [False, False], [False, False]],
    ]
    assert torch.equal(scores, before)


def test_the_only_class_is_correct():
    scores = torch.tensor([[[1.0, -2, 0]]])
    assert linear_probe.correct(scores, torch.zeros(3, 1, dtype=torch.long), [1]).all()


# -----------------------------------------------------------------------------
# standard errors

def test_the_standard_error_of_independent_questions_is_the_binomial_one():
    uniform = torch.rand(4, 500, 3, generator=torch.Generator().manual_seed(0))
    hit = (uniform < torch.tensor([0.1, 0.5, 0.97])).float()
    error = probe.standard_error(hit, torch.randperm(500) * 7)
    p = hit.double().mean(1)
    binomial = (p * (1 - p) / 500).sqrt()
    torch.testing.assert_close(error.double(), binomial, rtol=1e-4, atol=0)


def test_the_standard_error_of_groups_is_that_of_their_sums():
    rng = np.random.default_rng(1)
    group = rng.integers(17, size=300) * 3 + 100  # any numbers, in no order
    hit = rng.random((2, 300, 2)) < 0.4
    hit[1] = (group % 2 == 0)[:, None]            # questions of one group are all right or wrong
    error = probe.standard_error(torch.from_numpy(hit).float(), torch.from_numpy(group))
    for g in range(2):
        for j in range(2):
            p = hit[g, :, j].mean()
            squares = 0.0
            for name in sorted(set(group.tolist())):
                squares += sum(hit[g, i, j] - p for i in range(300) if group[i] == name) ** 2
            assert error[g, j].item() == pytest.approx(squares**0.5 / 300, rel=1e-4)


def test_questions_repeated_within_their_group_add_nothing():
    hit = (torch.rand(3, 80, 2, generator=torch.Generator().manual_seed(2)) < 0.3).float()
    once = probe.standard_error(hit, torch.arange(80))
    for m in (2, 5):
        repeated = hit.repeat_interleave(m, 1)
        same_groups = probe.standard_error(repeated, torch.arange(80).repeat_interleave(m))
        own_groups = probe.standard_error(repeated, torch.arange(80 * m))
        torch.testing.assert_close(once, same_groups, rtol=1e-4, atol=1e-6)
        assert (own_groups < 0.8 * once).all()


def test_the_standard_error_is_the_deviation_of_the_mean_over_repeated_experiments():
    """Groups of one to seven questions, each group with its own share of right ones."""
    g = torch.Generator().manual_seed(3)
    group = torch.arange(60).repeat_interleave(torch.arange(60) % 7 + 1)
    share = torch.rand(3000, 60, 1, generator=g)
    hit = (torch.rand(3000, len(group), 1, generator=g) < share[:, group]).float()
    deviation = hit.mean(1).std().item()
    error = probe.standard_error(hit, group).square().mean().sqrt().item()
    assert error == pytest.approx(deviation, rel=0.05)
    assert probe.standard_error(hit, torch.arange(len(group))).mean() < 0.75 * deviation


# -----------------------------------------------------------------------------
# planted codes

def planted(questions, plant, layers=10, positions=12, n_embd=48, noise=0.1):
    """The grids of probe.probe on cells of noise, (layers, positions, N, n_embd), to which
    plant(cells, model) adds codes."""
    generator = torch.Generator().manual_seed(0)
    cells = noise * torch.randn(layers, positions, len(questions.node), n_embd, generator=generator)
    torch.manual_seed(0)
    task = questions.task
    model = GPT(GPTConfig(len(task.vocab), task.block_size, n_embd=n_embd)).eval()
    plant(cells, model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, 'collect', lambda *_: cells)
        return run_probes(model, questions, list(range(layers)), list(range(positions)))


def code(index, n_embd=48, seed=0):
    """A random direction for each index (N,), (N, n_embd)."""
    n = int(index.max()) + 1
    return torch.randn(n, n_embd, generator=torch.Generator().manual_seed(seed))[index]


def as_the_head_reads_it(model, token):
    return 3 * model.wte.weight[token]


def assert_chance(acc, se, chance):
    """Of many cells, nine in ten within two standard errors, all within four."""
    z = ((acc - chance) / se).abs()
    assert z.numel() >= 100
    assert (z <= 2).float().mean() >= 0.9 and z.max() <= 4
    assert 0.5 < z.square().mean().sqrt() < 1.5  # nor are the errors too wide


HOP_1 = [(1, 3), (4, 7)]  # cells that hold c_1
HOP_2 = [(4, 7), (9, 0)]  # cells that hold c_2
KEY = (2, 2)              # the cell that holds what the control task goes by
LENS = (5, 5)             # the cell that holds c_1 as the head reads it


@pytest.fixture(scope='module')
def planted_grids():
    """The questions, the grids, and which cells are empty."""
    with torch.no_grad():
        questions = probe.make_questions(EIGHT, 'direct', 800, 600, 0)
        start = questions.batch.tokens[:, questions.batch.prompt_len - 1]

        def plant(cells, model):
            for j, chosen in enumerate((HOP_1, HOP_2)):
                for cell in chosen:
                    cells[cell] += code(questions.node[:, j], 80, seed=j)
            cells[KEY] += code(start * 8 + questions.node[:, 0], 80, seed=5)
            cells[LENS] += as_the_head_reads_it(model, questions.token[:, 0])

        grids = planted(questions, plant, n_embd=80)
    empty = torch.ones(10, 12, dtype=torch.bool)
    for cell in (*HOP_1, *HOP_2, KEY, LENS):
        empty[cell] = False
    return questions, grids, empty


def test_probes_leave_four_measures_in_every_cell(planted_grids):
    _, grids, _ = planted_grids
    assert list(grids) == ['acc', 'se', 'control', 'lens']
    for grid in grids.values():
        assert grid.shape == (10, 12, 2) and grid.device.type == 'cpu'


def test_a_planted_code_is_found_where_it_was_planted_and_nowhere_else(planted_grids):
    _, grids, empty = planted_grids
    acc = grids['acc']
    assert all(acc[cell][0] >= 0.99 for cell in (*HOP_1, KEY, LENS))
    assert all(acc[cell][1] >= 0.99 for cell in HOP_2)
    assert acc[1, 3, 1] < 0.3 and acc[9, 0, 0] < 0.3  # the other hop is not there
    for j in (0, 1):
        assert_chance(acc[empty][:, j], grids['se'][empty][:, j], 1 / 8)


def test_the_control_task_is_learned_by_heart_where_its_key_is_planted(planted_grids):
    questions, grids, empty = planted_grids
    control = grids['control']
    assert control[KEY][0] >= 0.99 and all(control[cell][0] < 0.7 for cell in HOP_1)
    random_label = probe.make_labels(questions, 0).y[800:, 2:]
    for j in (0, 1):  # some random labels are more frequent than others
        most_frequent = random_label[:, j].bincount().max().item() / 600
        assert control[empty][:, j].max() < most_frequent + 0.04
        assert control[empty][:, j].mean() < most_frequent


def test_the_logit_lens_sees_only_what_the_head_reads(planted_grids):
    _, grids, empty = planted_grids
    lens = grids['lens']
    assert lens[LENS][0] >= 0.99 and lens[LENS][1] < 0.1 and lens[empty].max() < 0.5


def test_shuffled_labels_are_not_found():
    """Every cell holds, as clearly as can be, the nodes of other questions."""
    questions = probe.make_questions(EIGHT, 'direct', 500, 600, 1)

    def plant(cells, model):
        g = torch.Generator().manual_seed(4)
        for layer in range(cells.size(0)):
            for position in range(cells.size(1)):
                shuffled = questions.node[torch.randperm(len(questions.node), generator=g), 0]
                cells[layer, position] += code(shuffled)

    grids = planted(questions, plant)
    for j in (0, 1):
        assert_chance(grids['acc'][..., j].flatten(), grids['se'][..., j].flatten(), 1 / 8)


def test_what_is_learned_of_a_pair_by_heart_does_not_help_on_other_pairs():
    """Each cell names the (person, relation), which decides the bridge. But pairs of the test are
    not those of the fit. The standard error must count pairs, not questions: it is the deviation
    over cells whose codes are drawn anew."""
    questions = probe.make_questions(PEOPLE, 'direct', 4000, 4000, 0)

    def plant(cells, model):
        for layer in range(cells.size(0)):
            for position in range(cells.size(1)):
                cells[layer, position] = code(questions.group, seed=1000 * layer + position)

    grids = planted(questions, plant, noise=0)
    acc = grids['acc'][..., 0].flatten()
    se = grids['se'][..., 0].flatten()
    label = questions.node[questions.test_rows, 0]
    most_frequent = label.bincount().max().item() / len(label)
    assert acc.mean() < most_frequent < 0.3
    assert grids['control'][..., 0].mean() < 0.2
    assert se.mean().item() == pytest.approx(acc.std().item(), rel=0.25)
    p = acc.mean().item()
    binomial = (p * (1 - p) / len(label)) ** 0.5
    assert se.mean() > 1.5 * binomial


def test_the_control_task_is_scored_where_its_label_could_be_known():
    """A key that is not among the questions to fit cannot be learned by heart, so it does not
    count."""
    questions = probe.make_questions(PEOPLE, 'direct', 200, 4000, 0)
    key = questions.control_key[:, 0]
    known = set(key[:200].tolist())
    test_keys = key[questions.test_rows].tolist()
    share_unknown = sum(name not in known for name in test_keys) / len(test_keys)
    assert 0.1 < share_unknown < 0.9

    def plant(cells, model):
        _, index = key.unique(return_inverse=True)
        cells[0, 0] += code(index, 256)
        cells[0, 1] += code(questions.node[:, 0], 256)

    grids = planted(questions, plant, 1, 2, 256, noise=0)
    assert 0.98 <= grids['control'][0, 0, 0] <= 1
    assert grids['acc'][0, 1, 0] >= 0.99 and grids['control'][0, 1, 0] < 0.6


def test_unasked_is_the_accuracy_on_the_last_questions():
    questions = probe.make_questions(PEOPLE, 'direct', 4000, 4000, 0)
    _, test_rows, rest = all_rows(questions)
    half_of_rest = torch.arange(rest.start, len(questions.node), 2)
    without = {(0, 0): slice(0, 0), (0, 1): test_rows, (1, 0): rest, (1, 1): half_of_rest}

    def plant(cells, model):
        for cell, rows in without.items():
            vectors = code(questions.node[:, 0])
            vectors[rows] = 0
            cells[cell] += vectors
        cells[2, 0] *= 0.1
        cells[2, 0] += as_the_head_reads_it(model, questions.token[:, 0])

    grids = planted(questions, plant, 3, 2)
    acc = grids['acc'][..., 0]
    unasked = grids['unasked'][..., 0]
    assert acc[0, 0] >= 0.99 and unasked[0, 0] >= 0.99
    assert acc[0, 1] < 0.4 and unasked[0, 1] >= 0.99
    assert acc[1, 0] >= 0.99 and unasked[1, 0] < 0.4
    assert acc[1, 1] >= 0.99 and 0.4 < unasked[1, 1] < 0.75
    assert grids['lens'][2, 0, 0] >= 0.99 and grids['lens'][0].max() < 0.3


def test_no_cells_are_no_trouble():
    """Where there are fewer positions than processes, some process has none."""
    questions = probe.make_questions(SIX, 'direct', 100, 20, 0)
    model = random_model(SIX)
    grids = run_probes(model, questions, [0, 1, 2], [])
    grids |= run_interchange(model, questions, [0, 1, 2], [], 10)
    assert len(grids) == 6 and all(grid.shape == (3, 0, 2) for grid in grids.values())


# -----------------------------------------------------------------------------
# the residual stream

def hooked_stream(model, idx):
    """What goes into every application of a block and comes out of the last one, by hooks on a
    forward pass; and its logits."""
    stream = []
    hooks = []
    for module in (*model.blocks, model.ln_f):
        hooks.append(module.register_forward_pre_hook(
            lambda module, inputs: stream.append(inputs[0].clone())))
    logits = model(idx)
    for hook in hooks:
        hook.remove()
    return stream, logits


@pytest.mark.parametrize('n_loop', [1, 2])
@pytest.mark.parametrize('pos', ['learned', 'rope', 'none'])
def test_the_residual_stream_is_that_of_the_forward_pass(pos, n_loop):
    model = random_model(SIX, 2, n_loop, pos)
    generator = torch.Generator().manual_seed(0)
    idx = torch.randint(len(SIX.vocab), (5, 7), generator=generator)  # shorter than block_size
    stream = probe.residual_stream(model, idx)
    hooked, logits = hooked_stream(model, idx)
    assert len(stream) == len(hooked) == 2 * n_loop + 1
    for x, y in zip(stream, hooked, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.head(stream[-1]), logits, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(stream[-1], stream[-2], atol=0.1)


@pytest.mark.parametrize('pos', ['learned', 'rope'])
def test_collect_puts_everything_in_its_place(pos):
    """1,203 rows are three parts. Some layers and positions; the answer itself is not read."""
    model = random_model(SIX, 2, 2, pos)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(len(SIX.vocab), (1203, 7), generator=generator)
    layers = [0, 1, 4]
    positions = [1, 2, 6]
    cells = probe.collect(model, SimpleNamespace(inputs=inputs), layers, positions, RUN)
    assert cells.shape == (3, 3, 1203, 16) and cells.dtype == torch.float32
    for row in (0, 7, 499, 500, 501, 999, 1000, 1202):
        stream, _ = hooked_stream(model, inputs[row:row + 1])
        for i, layer in enumerate(layers):
            for j, position in enumerate(positions):
                torch.testing.assert_close(cells[i, j, row], stream[layer][0, position],
                                           rtol=1e-5, atol=1e-5)


def test_a_model_reads_the_tokens_before_the_answer():
    for mode in ('direct', 'cot'):
        questions = probe.make_questions(SIX, mode, 20, 10, 0)
        assert torch.equal(questions.inputs, questions.batch.tokens[:, :-1])


# -----------------------------------------------------------------------------
# interchange: the model under the patch

def hooked_answers(model, questions, tokens, layer, position, value):
    """The last logits and the answers of a model whose hooks put value (B, C) into the cell in
    every forward pass. It writes on token by token."""
    application = 0

    def put(module, inputs):
        nonlocal application
        x, *rest = inputs
        if application == layer:
            x = x.clone()
            x[:, position] = value
        application += 1
        return (x, *rest)

    hooks = [module.register_forward_pre_hook(put) for module in (*model.blocks, model.ln_f)]
    idx = tokens[:, :max(position + 1, questions.batch.prompt_len)]
    while True:
        application = 0
        logits = model(idx)[:, -1]
        if idx.size(1) == questions.answer_at:
            break
        idx = torch.cat((idx, logits.argmax(-1, keepdim=True)), dim=1)
    for hook in hooks:
        hook.remove()
    return logits, logits.argmax(-1)


def own_answers(model, questions, tokens, position):
    """The last logits and the answers of a model that is left alone. It writes on behind
    tokens[:, :position + 1], or behind the prompt."""
    start = max(position + 1, questions.batch.prompt_len)
    output = model.generate(tokens[:, :start], questions.answer_at + 1 - start)
    return model(output[:, :-1])[:, -1], output[:, -1]


@pytest.fixture
def patch_cell(monkeypatch):
    """probe.patched_answers, which gives the logits too."""
    real = probe.GPT.head
    seen = []

    def recorded(model, x):
        seen.append(real(model, x))
        return seen[-1]

    monkeypatch.setattr(probe.GPT, 'head', recorded)

    def patch(*args):
        answers = probe.patched_answers(*args)
        return seen[-1], answers

    return patch


def assert_same(ours, theirs):
    """Two pairs of logits and answers."""
    logits, answers = ours
    other_logits, other_answers = theirs
    torch.testing.assert_close(logits.view_as(other_logits), other_logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(answers, other_answers)


KINDS = pytest.mark.parametrize('mode, n_layer, n_loop, pos', [
    ('direct', 2, 1, 'learned'), ('cot', 2, 1, 'learned'), ('direct', 1, 3, 'rope'),
    ('cot', 1, 2, 'rope'), ('direct', 2, 2, 'none'), ('cot', 2, 2, 'learned')])
MANY_ANSWERS = CVPR(6, [1, 2, 3])  # many tables, so many answers


def ask(mode, n_layer, n_loop, pos, task=MANY_ANSWERS, n=24):
    """Questions, a random model, the tokens that it reads, its residual stream."""
    questions = probe.make_questions(task, mode, 30, n, 0)
    model = random_model(task, n_layer, n_loop, pos)
    tokens = questions.inputs[questions.test_rows]
    return questions, model, tokens, probe.residual_stream(model, tokens)


@KINDS
def test_ones_own_vector_changes_nothing(mode, n_layer, n_loop, pos, patch_cell):
    questions, model, tokens, stream = ask(mode, n_layer, n_loop, pos)
    for position in range(questions.answer_at):
        own = own_answers(model, questions, tokens, position)
        assert len(set(own[1].tolist())) > 2
        for layer in range(n_layer * n_loop + 1):
            value = stream[layer][:, position]
            patched = patch_cell(model, questions, tokens, stream, layer, position, value)
            assert_same(patched, own)


def patch_every_cell_with_another_question(ask_result, patch_cell):
    """Compare with hooks in every cell. Returns how many answers change."""
    questions, model, tokens, stream = ask_result
    n_changed = 0
    for position in range(questions.answer_at):
        _, own = own_answers(model, questions, tokens, position)
        for layer in range(len(stream)):
            value = stream[layer][:, position].roll(1, 0)
            patched = patch_cell(model, questions, tokens, stream, layer, position, value)
            hooked = hooked_answers(model, questions, tokens, layer, position, value)
            assert_same(patched, hooked)
            n_changed += int((patched[1] != own).sum())
    return n_changed


@KINDS
def test_a_patch_does_what_a_hook_that_puts_it_there_does(mode, n_layer, n_loop, pos, patch_cell):
    n_changed = patch_every_cell_with_another_question(ask(mode, n_layer, n_loop, pos), patch_cell)
    assert n_changed > 30  # it does make a difference


@pytest.mark.parametrize('mode', ['direct', 'cot'])
def test_a_patch_does_what_a_hook_does_for_profiles(mode, patch_cell):
    """The answer is the first token of a value. In a chain it stands behind bridge and subject."""
    asked = ask(mode, 2, 1, 'learned', task=Profiles(10, 3, 4), n=20)
    assert asked[0].answer_at == (5 if mode == 'direct' else 9)
    assert patch_every_cell_with_another_question(asked, patch_cell) > 10


@KINDS
def test_the_embedding_of_another_token_is_that_token(mode, n_layer, n_loop, pos, patch_cell):
    """A token of the prompt, or of the chain, behind which the model then writes on."""
    questions, model, tokens, stream = ask(mode, n_layer, n_loop, pos)
    n_changed = Counter()
    for position in range(questions.answer_at):
        other = tokens.clone()
        other[:, position] = tokens[:, position].roll(1)
        value = stream[0][:, position].roll(1, 0)
        patched = patch_cell(model, questions, tokens, stream, 0, position, value)
        assert_same(patched, own_answers(model, questions, other, position))
        _, own = own_answers(model, questions, tokens, position)
        n_changed[position] += int((patched[1] != own).sum())
    start = questions.batch.prompt_len - 1
    assert n_changed[start] > 1 and n_changed[questions.answer_at - 1] > 1
    assert mode == 'direct' or questions.answer_at == start + 3  # two tokens are written before


@pytest.mark.parametrize('shape', [(2, 1, 'learned'), (1, 3, 'rope')])
def test_behind_the_last_layer_only_the_position_that_is_read_matters(shape):
    questions, model, tokens, stream = ask('direct', *shape)
    own = model(tokens)[:, -1].argmax(-1)
    assert len(set(own.tolist())) > 2
    depth = len(stream) - 1
    for position in range(questions.answer_at):
        value = stream[depth][:, position].roll(1, 0)
        answers = probe.patched_answers(model, questions, tokens, stream, depth, position, value)
        is_read = position == questions.answer_at - 1
        assert torch.equal(answers, own.roll(1) if is_read else own)


# -----------------------------------------------------------------------------
# interchange: the answer that is expected

@pytest.mark.parametrize('task', [Cycle(7, [1, 2, 3, 4]), CVPR(9, [3]), Cycle(6, [2], 'pairs')],
                         ids=lambda task: f'{task.name}-{task.format}')
def test_counterfactual_answers_of_lookups(task):
    """The donor's path, in its own table, up to its j-th node; from there on in our table."""
    questions = probe.make_questions(task, 'direct', 20, 40, 3)
    batch = questions.batch
    rows = torch.arange(20, 60)
    donors = rows.roll(7)
    for j in range(1, questions.k + 1):
        answers = probe.counterfactual_answers(questions, rows, donors, j).tolist()
        for row, donor, answer in zip(rows.tolist(), donors.tolist(), answers, strict=True):
            node = int(batch.tokens[donor, batch.prompt_len - 1])
            for _ in range(j):
                node = int(batch.instance[donor, node])
            if j == questions.k:
                assert node == int(batch.tokens[donor, questions.answer_at])
            for _ in range(questions.k - j):
                node = int(batch.instance[row, node])
            assert answer == node


@pytest.mark.parametrize('relabel', [False, True])
@pytest.mark.parametrize('attributes', [3, 0])
def test_counterfactual_answers_of_profiles(attributes, relabel):
    """j = 1: what is true of the donor's bridge, about our own subject. j = 2: the donor's
    answer."""
    task = Profiles(12, attributes, 6, relabel=relabel)
    questions = probe.make_questions(task, 'direct', 30, 30, 3)
    rows = torch.arange(5, 60)
    donors = rows.roll(11)
    first = probe.counterfactual_answers(questions, rows, donors, 1)
    second = probe.counterfactual_answers(questions, rows, donors, 2)
    for i, (row, donor) in enumerate(zip(rows, donors, strict=True)):
        _, _, subject, _ = questions.batch.instance[row].tolist()
        person, relation, _, _ = questions.batch.instance[donor].tolist()
        bridge = task.truth[person, attributes + relation]
        fact = task.truth[bridge, subject]
        if attributes > 0:
            assert first[i] == task.n_symbols + fact
        else:
            assert first[i] == task.names[fact, 0]
        assert second[i] == questions.batch.tokens[donor, questions.answer_at]


class Recorder:
    """Stands in for probe.patched_answers. Its i-th call gives answer(i), and is remembered."""

    def __init__(self, answer):
        self.patches = []
        self.answer = answer

    def __call__(self, model, questions, tokens, stream, layer, position, value):
        answers = self.answer(len(self.patches))
        self.patches.append(SimpleNamespace(tokens=tokens, layer=layer, position=position,
                                            value=value.clone(), answers=answers))
        return answers


N_PATCH = 80
LAYERS = [0, 2]


def interchange_with_random_answers(task, monkeypatch):
    """Questions, the positions that are patched, the grids, the recorded patches, and the residual
    stream and answers of the model by itself. The patched questions are rows 20 to 99."""
    questions = probe.make_questions(task, 'direct', 20, 90, 0)
    model = random_model(task)
    recorder = Recorder(lambda i: torch.randint(6, (N_PATCH,),
                                                generator=torch.Generator().manual_seed(i)))
    monkeypatch.setattr(probe, 'patched_answers', recorder)
    positions = [1, 3, questions.answer_at - 1]
    grids = run_interchange(model, questions, LAYERS, positions, N_PATCH)
    stream, logits = hooked_stream(model, questions.inputs[20:20 + N_PATCH])
    own = logits[:, -1].argmax(-1).tolist()
    return questions, positions, grids, recorder.patches, stream, own


def name_of(patch, stream):
    """'flip' if the vector is that of the question before, else 'random'."""
    donor_x = stream[patch.layer][:, patch.position].roll(1, 0)
    return 'flip' if torch.allclose(patch.value, donor_x, atol=1e-5) else 'random'


TABLES = pytest.mark.parametrize('task', [Cycle(6, [1, 2, 3]), CVPR(6, [3])],
                                 ids=lambda task: task.name)


@TABLES
def test_every_cell_is_patched_once_with_the_donor_and_once_at_random(task, monkeypatch):
    _, positions, _, patches, stream, _ = interchange_with_random_answers(task, monkeypatch)
    n = Counter((name_of(patch, stream), patch.layer, patch.position) for patch in patches)
    assert len(n) == 2 * len(LAYERS) * len(positions) and set(n.values()) == {1}


@TABLES
def test_a_random_step_is_as_long_as_the_one_to_the_donor(task, monkeypatch):
    _, _, _, patches, stream, _ = interchange_with_random_answers(task, monkeypatch)
    for patch in patches:
        x = stream[patch.layer][:, patch.position]
        to_donor = x.roll(1, 0) - x
        step = patch.value - x
        torch.testing.assert_close(step.norm(dim=1), to_donor.norm(dim=1), rtol=1e-4, atol=1e-4)
        if name_of(patch, stream) == 'random' and (patch.layer, patch.position) != (0, 1):
            moves = to_donor.norm(dim=1) > 1e-3
            assert F.cosine_similarity(step, to_donor)[moves].abs().mean() < 0.5


@TABLES
def test_a_flip_is_counted_where_the_model_does_not_say_so_anyway(task, monkeypatch):
    """Over random answers, by a plain loop."""
    recorded = interchange_with_random_answers(task, monkeypatch)
    questions, positions, grids, patches, stream, own = recorded
    n_left_out = Counter()
    for patch in patches:
        cell = LAYERS.index(patch.layer), positions.index(patch.position)
        for j in range(3):
            n_hits = 0
            n_counted = 0
            for i in range(N_PATCH):
                row = 20 + i
                donor = 20 + (i - 1) % N_PATCH
                node = int(questions.node[donor, j])
                is_same_node = node == int(questions.node[row, j])
                for _ in range(2 - j):
                    node = int(questions.batch.instance[row, node])
                if is_same_node or node == own[i]:
                    n_left_out[j] += 1
                    continue
                n_hits += int(patch.answers[i]) == node
                n_counted += 1
            assert 0 < n_counted < N_PATCH
            share = grids[name_of(patch, stream)][cell][j].item()
            assert share == pytest.approx(n_hits / n_counted, rel=1e-5)
    assert min(n_left_out.values()) > 0


@pytest.mark.parametrize('j', [1, 2])
@pytest.mark.parametrize('relabel', [False, True])
def test_flips_of_profiles(relabel, j, monkeypatch):
    """With --relabel the trained answer and the true one differ. Questions of the same bridge do
    not count."""
    task = Profiles(10, 3, 17, relabel=relabel)
    questions = probe.make_questions(task, 'direct', 100, 60, 0)
    assert (questions.n_train, questions.n_test) == (100, 60)
    model = random_model(task)
    rows = torch.arange(100, 160)
    donors = rows.roll(1)
    expected = probe.counterfactual_answers(questions, rows, donors, j)
    answers = expected.clone()
    answers[::3] = 0  # a third of them does not flip
    monkeypatch.setattr(probe, 'patched_answers', Recorder(lambda i: answers))
    flip = run_interchange(model, questions, [1], [4], 60)['flip']

    own = model(questions.inputs[rows])[:, -1].argmax(-1)
    n_hits = n_counted = n_same_bridge = 0
    for i, (row, donor) in enumerate(zip(rows, donors, strict=True)):
        person, relation, _, _ = questions.batch.instance[row].tolist()
        other, other_relation, _, _ = questions.batch.instance[donor].tolist()
        bridge = task.truth[person, 3 + relation]
        other_bridge = task.truth[other, 3 + other_relation]
        if j == 1 and bridge == other_bridge:
            n_same_bridge += 1
            continue
        if j == 2 and expected[i] == questions.batch.tokens[row, questions.answer_at]:
            continue
        if expected[i] != own[i]:
            n_counted += 1
            n_hits += i % 3 > 0
    assert flip[0, 0, j - 1].item() == pytest.approx(n_hits / n_counted)
    assert 0 < n_hits < n_counted and (j == 2 or n_same_bridge > 0)


@pytest.mark.parametrize('n_patch', [10, 25, 1000])
def test_interchange_takes_as_many_test_questions_as_there_are_and_no_others(n_patch, monkeypatch):
    questions = probe.make_questions(SIX, 'direct', 30, 25, 0)
    n = min(n_patch, 25)
    recorder = Recorder(lambda i: torch.zeros(n, dtype=torch.long))
    monkeypatch.setattr(probe, 'patched_answers', recorder)
    run_interchange(random_model(SIX), questions, [1], [2], n_patch)
    assert len(recorder.patches) == 2
    for patch in recorder.patches:
        assert torch.equal(patch.tokens, questions.inputs[30:30 + n])


@pytest.mark.parametrize('j', [1, 2, 3])
def test_a_model_that_always_flips_and_one_that_never_does(j, monkeypatch):
    task = Cycle(6, [3])
    questions = probe.make_questions(task, 'direct', 20, 60, 0)
    rows = torch.arange(20, 80)
    follows = probe.counterfactual_answers(questions, rows, rows.roll(1), j)
    stays = questions.node[rows, -1]
    grids = {}
    for name, answers in (('follows', follows), ('stays', stays)):
        monkeypatch.setattr(probe, 'patched_answers', Recorder(lambda i, answers=answers: answers))
        grids[name] = run_interchange(random_model(task), questions, [0, 1], [0, 5], 60)
    assert (grids['follows']['flip'][..., j - 1] == 1).all()
    assert (grids['follows']['random'][..., j - 1] == 1).all()
    assert (grids['stays']['flip'] == 0).all()
    assert (grids['stays']['random'][..., j - 1] == 0).all()


# -----------------------------------------------------------------------------
# a model made by hand

class LookupBlock(torch.nn.Module):
    """One lookup as a block: what stands behind the table and the hop count becomes its
    successor."""

    def __init__(self, n):
        super().__init__()
        self.n = n

    def forward(self, x, angles=None, loss_positions=None):
        table = x[:, :self.n, :self.n].argmax(-1)
        node = x[..., :self.n].argmax(-1).clamp(max=self.n - 1)
        out = F.one_hot(table.gather(1, node), x.size(-1)).to(x)
        out[:, :self.n + 1] = x[:, :self.n + 1]
        if loss_positions is None:
            return out
        return loss_positions.gather(out).flatten(0, 1)


class HandMade(torch.nn.Module):
    """Tokens are unit vectors, and each layer takes one lookup. With as many layers as hops it
    answers directly. With one layer it writes a chain."""

    def __init__(self, task, n_layer, n_loop):
        super().__init__()
        V = len(task.vocab)
        self.config = SimpleNamespace(n_layer=n_layer, n_loop=n_loop, n_embd=V, pos='none')
        self.wte = torch.nn.Embedding.from_pretrained(torch.eye(V))
        self.blocks = torch.nn.ModuleList(LookupBlock(task.nodes) for _ in range(n_layer))

    def embed(self, vectors, position):
        return vectors

    def head(self, x):
        return x  # the tokens are unit vectors


def patched_walk(questions, row, donor, mode, layer, position):
    """What HandMade answers to the question of `row` with this cell from that of `donor`."""
    n = questions.task.nodes
    k = questions.k
    tokens = questions.batch.tokens[row].tolist()
    donor_tokens = questions.batch.tokens[donor].tolist()
    table = tokens[:n]
    path = [tokens[n + 1], *questions.node[row].tolist()]
    donor_path = [donor_tokens[n + 1], *questions.node[donor].tolist()]

    if mode == 'direct':
        node = path[layer]
        if position < n:
            table[position] = donor_tokens[position]
        elif position == n + 1:
            node = donor_path[layer]
        n_lookups = k - layer
    elif position > n:  # at c_step, from where the next node is written
        step = position - (n + 1) + layer
        node = donor_path[step]
        n_lookups = k - step
    else:
        if position < n and layer == 0:
            table[position] = donor_tokens[position]
        node = path[0]
        n_lookups = k
    for _ in range(n_lookups):
        node = table[node]
    return node


def flips_of_hand_made(questions, mode, layer, position, j):
    """The share of flips of hop j + 1 among the 60 test questions, by a plain walk."""
    n_hits = 0
    n_counted = 0
    for i in range(60):
        row = 300 + i
        donor = 300 + (i - 1) % 60
        node = int(questions.node[donor, j])
        is_same_node = node == int(questions.node[row, j])
        for _ in range(2 - j):
            node = int(questions.batch.tokens[row, node])
        if not is_same_node and node != int(questions.node[row, 2]):
            n_counted += 1
            n_hits += patched_walk(questions, row, donor, mode, layer, position) == node
    return n_hits / n_counted


HAND_MADE = pytest.mark.parametrize('mode, n_layer, n_loop',
                                    [('direct', 3, 1), ('direct', 1, 3), ('cot', 1, 1)])


def hand_made(mode, n_layer, n_loop):
    """Questions, the model, and all of its layers and positions."""
    task = Cycle(6, [1, 2, 3])
    questions = probe.make_questions(task, mode, 300, 200, 0)
    model = HandMade(task, n_layer, n_loop)
    return questions, model, list(range(n_layer * n_loop + 1)), list(range(questions.answer_at))


@HAND_MADE
def test_flips_of_a_model_made_by_hand_are_those_of_a_plain_walk(mode, n_layer, n_loop):
    questions, model, layers, positions = hand_made(mode, n_layer, n_loop)
    flip = run_interchange(model, questions, layers, positions, 60)['flip']
    for layer in layers:
        for position in positions:
            for j in range(3):
                share = flips_of_hand_made(questions, mode, layer, position, j)
                assert flip[layer, position, j].item() == pytest.approx(share, rel=1e-5)


@HAND_MADE
def test_a_model_made_by_hand_is_read_and_flipped_exactly_where_it_holds_the_hop(
        mode, n_layer, n_loop):
    """Direct: hop j is at the last token of the prompt, after layer j. With a chain: at the token
    before the one that names it, after the layer; and in the embedding of the one that does."""
    questions, model, layers, positions = hand_made(mode, n_layer, n_loop)
    flip = run_interchange(model, questions, layers, positions, 60)['flip']
    grids = run_probes(model, questions, layers, positions)
    acc = grids['acc']
    start = questions.batch.prompt_len - 1
    for j in range(3):
        holds = [(j + 1, start)]
        if mode == 'cot':
            holds = [(1, start + j)]
        assert questions.needed_at[j] == holds[0][1]
        assert grids['lens'][holds[0]][j] == 1
        if mode == 'cot' and j < 2:
            holds.append((0, start + j + 1))
        for layer in layers:
            for position in positions:
                cell = layer, position
                if cell in holds:
                    assert flip[cell][j] == acc[cell][j] == 1
                else:
                    assert flip[cell][j] < 0.7 and acc[cell][j] < 0.7


# -----------------------------------------------------------------------------
# questions

LOOKUPS = [Cycle(7, [1, 2, 3]), Cycle(7, [4]), CVPR(8, [2, 3]), Cycle(6, [2], 'pairs')]
BOTH_MODES = pytest.mark.parametrize('mode', ['direct', 'cot'])


def assert_one_to_one(pairs):
    """Does each name stand for one thing, and each thing have one name?"""
    pairs = set(pairs)
    assert len(pairs) == len({name for name, _ in pairs}) == len({thing for _, thing in pairs})


def read_lookup(task, row):
    """The table, the start and the chain of one row of tokens, read by hand."""
    if task.format == 'pairs':
        shown = row[:2 * task.nodes]
        successor = dict(zip(shown[::2], shown[1::2], strict=True))
        table = [successor[node] for node in range(task.nodes)]
        hop_word, start = row[2 * task.nodes:2 * task.nodes + 2]
    else:
        table = row[:task.nodes]
        hop_word, start = row[task.nodes:task.nodes + 2]
    chain = []
    node = start
    for _ in range(hop_word - task.nodes + 1):
        node = table[node]
        chain.append(node)
    return table, start, chain


@BOTH_MODES
@pytest.mark.parametrize('task', LOOKUPS, ids=lambda t: f'{t.name}-{t.format}-{t.hops}')
def test_questions_of_lookups(task, mode):
    """Tables of the test are held out from the model, those of the fit are not. Node j is j lookups
    from the start."""
    k = max(task.hops)
    questions = probe.make_questions(task, mode, 150, 70, 5)
    prompt_len = task.nodes * (2 if task.format == 'pairs' else 1) + 2
    assert (questions.k, questions.n_train, questions.n_test) == (k, 150, 70)
    assert questions.batch.prompt_len == prompt_len and len(questions.batch) == 220
    shapes = {questions.node.shape, questions.token.shape, questions.control_key.shape}
    assert shapes == {(220, k)} and questions.node.dtype == torch.int64

    for i, row in enumerate(questions.batch.tokens.tolist()):
        table, _, chain = read_lookup(task, row)
        assert len(chain) == k == questions.batch.hops[i]
        assert questions.batch.instance[i].tolist() == table
        assert bool(held_out(np.array([table]))[0]) == (i >= 150)
        assert questions.node[i].tolist() == questions.token[i].tolist() == chain
        assert row[prompt_len:] == (chain if mode == 'cot' else chain[-1:])
        assert row[questions.answer_at] == chain[-1]
        if mode == 'cot':  # where a node is needed, it is written next
            assert [row[position + 1] for position in questions.needed_at] == chain


@BOTH_MODES
@pytest.mark.parametrize('task', LOOKUPS, ids=lambda t: f'{t.name}-{t.format}-{t.hops}')
def test_groups_of_lookups_are_tables_and_control_keys_are_a_start_and_a_node(task, mode):
    questions = probe.make_questions(task, mode, 150, 70, 5)
    groups = []
    keys = [[] for _ in range(questions.k)]
    for i, row in enumerate(questions.batch.tokens.tolist()):
        table, start, chain = read_lookup(task, row)
        groups.append((int(questions.group[i]), tuple(table)))
        for j, node in enumerate(chain):
            keys[j].append((int(questions.control_key[i, j]), (start, node)))
    assert_one_to_one(groups)
    for pairs in keys:
        assert_one_to_one(pairs)


@pytest.mark.parametrize('task', LOOKUPS, ids=lambda t: f'{t.name}-{t.format}-{t.hops}')
def test_a_hop_is_needed_before_it_is_written_or_at_the_last_token_of_the_prompt(task):
    direct = probe.make_questions(task, 'direct', 15, 7, 5)
    prompt_len = direct.batch.prompt_len
    assert direct.answer_at == prompt_len
    assert direct.needed_at == [prompt_len - 1] * direct.k
    chain = probe.make_questions(task, 'cot', 15, 7, 5)
    assert chain.answer_at == prompt_len + chain.k - 1
    assert chain.needed_at == list(range(prompt_len - 1, prompt_len - 1 + chain.k))


@BOTH_MODES
def test_the_seed_decides_the_questions(mode):
    for task in (SIX, CVPR(8, [2, 3])):
        first = probe.make_questions(task, mode, 150, 70, 5).batch.tokens
        again = probe.make_questions(task, mode, 150, 70, 5).batch.tokens
        other = probe.make_questions(task, mode, 150, 70, 6).batch.tokens
        assert torch.equal(first, again) and not torch.equal(first, other)


ALL_PEOPLE = pytest.mark.parametrize(
    'task', [Profiles(30, 2, 3), Profiles(12, 0, 5), Profiles(20, 3, 4, [2]),
             Profiles(25, 2, 4, relabel=True)],
    ids=lambda t: f'{t.people}-{t.attributes}-{t.relations}-{t.relabel}')


def all_questions(task, mode):
    """All two-hop questions, and what they ask, as a list of (person, relation, subject)."""
    questions = probe.make_questions(task, mode, 10**6, 10**6, 5)
    return questions, [tuple(row[:3]) for row in questions.batch.instance.tolist()]


@BOTH_MODES
@ALL_PEOPLE
def test_every_question_of_profiles_is_asked_once(task, mode):
    """About attributes, or about relations where there are no attributes."""
    _, asked = all_questions(task, mode)
    n_subjects = task.attributes or task.relations
    assert len(asked) == len(set(asked)) == task.people * task.relations * n_subjects
    assert {subject for _, _, subject in asked} == set(range(n_subjects))


@BOTH_MODES
@ALL_PEOPLE
def test_pairs_of_profiles_are_for_the_fit_or_the_test_or_were_never_asked_in_two_hops(task, mode):
    questions, asked = all_questions(task, mode)
    label = task.label(np.array(asked))
    parts = all_rows(questions)
    fitted, tested, rest = ({question[:2] for question in asked[part]} for part in parts)
    assert fitted and tested and rest and not fitted & tested
    assert set(label[parts[0]]) == set(label[parts[1]]) == {0, 3}
    assert {2} <= set(label[parts[2]]) <= {1, 2}
    assert 0.1 < len(tested) / len(fitted | tested) < 0.4

    # training meets almost all pairs of the fit and the test, and none of the others
    met = set()
    for seed in range(20):
        batch = sample_batch(task, 500, seed, 0, 'train', mode, 2)
        met |= {tuple(row[:2]) for row in batch.instance.tolist()}
    assert not met & rest
    assert len(met & (fitted | tested)) > 0.95 * len(fitted | tested)


@BOTH_MODES
@ALL_PEOPLE
def test_questions_of_profiles(task, mode):
    questions, asked = all_questions(task, mode)
    names = task.names.tolist()
    A = task.attributes
    assert (questions.k, questions.batch.prompt_len) == (2, 5)
    assert questions.answer_at == (5 if mode == 'direct' else 9)
    assert questions.needed_at == ([4, 4] if mode == 'direct' else [4, 8])
    for i, row in enumerate(questions.batch.tokens.tolist()):
        person, relation, subject = asked[i]
        bridge = int(task.truth[person, A + relation])
        subject_word = task.first_subject + subject
        assert row[:5] == [subject_word, *names[person], task.first_subject + A + relation]
        chain = task.oracle(row[:5])
        assert chain[:3] == names[bridge]
        assert questions.node[i].tolist() == [bridge, chain[4]]
        assert questions.token[i].tolist() == [names[bridge][0], chain[4]]
        assert row[questions.answer_at] == chain[4]
        if mode == 'cot':
            assert row[5:5 + len(chain)] == chain
            written_next = [row[position + 1] for position in questions.needed_at]
            assert written_next == questions.token[i].tolist()
        else:
            assert row[5:5 + len(chain) - 4] == chain[4:]


@ALL_PEOPLE
def test_groups_of_profiles_are_pairs_and_control_keys_are_a_person_and_a_node(task):
    questions, asked = all_questions(task, 'direct')
    assert_one_to_one(zip(questions.group.tolist(), [q[:2] for q in asked], strict=True))
    for j in (0, 1):
        things = []
        for (person, _, _), node in zip(asked, questions.node[:, j].tolist(), strict=True):
            things.append((person, node))
        assert_one_to_one(zip(questions.control_key[:, j].tolist(), things, strict=True))


@BOTH_MODES
@ALL_PEOPLE
def test_few_questions_of_profiles_are_the_first_of_each_part(task, mode):
    questions = probe.make_questions(task, mode, 10**6, 10**6, 5)
    few = probe.make_questions(task, mode, 20, 10, 5)
    assert (few.n_train, few.n_test, len(few.node)) == (20, 10, 40)
    for few_rows, rows in zip(all_rows(few), all_rows(questions), strict=True):
        tokens = few.batch.tokens[few_rows]
        assert torch.equal(tokens, questions.batch.tokens[rows][:len(tokens)])


# -----------------------------------------------------------------------------
# labels

MANY_QUESTIONS = pytest.mark.parametrize('task, n_train, n_test', [
    (Cycle(6, [1, 2, 3]), 400, 150), (CVPR(8, [3]), 400, 150), (PEOPLE, 4000, 4000),
    (Profiles(8, 0, 17), 4000, 4000)], ids=lambda x: getattr(x, 'name', None))


@MANY_QUESTIONS
def test_each_node_is_a_class(task, n_train, n_test):
    questions = probe.make_questions(task, 'direct', n_train, n_test, 0)
    labels = probe.make_labels(questions, 7)
    k = questions.k
    assert labels.y.shape == (len(questions.node), 2 * k) and labels.y.dtype == torch.int64
    assert len(labels.classes) == 2 * k and labels.classes[:k] == labels.classes[k:]
    for j in range(2 * k):
        assert type(labels.classes[j]) is int
        assert labels.y[:, j].min() >= 0 and labels.y[:, j].max() < labels.classes[j]
    for j in range(k):
        nodes = questions.node[:, j].tolist()
        assert_one_to_one(zip(nodes, labels.y[:, j].tolist(), strict=True))
        assert len(set(nodes)) == labels.classes[j]


@MANY_QUESTIONS
def test_each_control_key_has_one_random_label(task, n_train, n_test):
    questions = probe.make_questions(task, 'direct', n_train, n_test, 0)
    labels = probe.make_labels(questions, 7)
    for j in range(questions.k):
        n_classes = labels.classes[j]
        random_label = labels.y[:, questions.k + j].tolist()
        keys = questions.control_key[:, j].tolist()
        label_of = dict(zip(keys, random_label, strict=True))
        assert random_label == [label_of[key] for key in keys]  # in the fit and in the test
        nodes = questions.node[:, j].tolist()
        assert len(set(zip(nodes, random_label, strict=True))) > 1.5 * n_classes
        n_keys = Counter(label_of.values())
        assert len(n_keys) > 0.6 * min(n_classes, len(label_of))
        assert max(n_keys.values()) < 5 * len(label_of) / len(n_keys)


@MANY_QUESTIONS
def test_chance_is_the_node_that_is_most_frequent_in_the_fit(task, n_train, n_test):
    questions = probe.make_questions(task, 'direct', n_train, n_test, 0)
    labels = probe.make_labels(questions, 7)
    assert len(labels.chance) == questions.k
    for j in range(questions.k):
        count = Counter(questions.node[:questions.n_train, j].tolist())
        tested = questions.node[questions.test_rows, j].tolist()
        shares = []
        for node in count:
            if count[node] == max(count.values()):
                shares.append(tested.count(node) / len(tested))
        if task.name == 'cycle':  # or any node but the start
            shares = [max(share, 1 / 5) for share in shares]
        assert any(labels.chance[j] == pytest.approx(share, abs=1e-6) for share in shares)


@MANY_QUESTIONS
def test_the_seed_decides_the_random_labels_alone(task, n_train, n_test):
    questions = probe.make_questions(task, 'direct', n_train, n_test, 0)
    k = questions.k
    y = probe.make_labels(questions, 7).y
    other = probe.make_labels(questions, 8).y
    assert torch.equal(y, probe.make_labels(questions, 7).y)
    assert torch.equal(y[:, :k], other[:, :k]) and not torch.equal(y[:, k:], other[:, k:])


@MANY_QUESTIONS
def test_folds_are_five_and_never_part_a_group(task, n_train, n_test):
    questions = probe.make_questions(task, 'direct', n_train, n_test, 0)
    fold = probe.make_labels(questions, 7).fold
    assert len(fold) == questions.n_train and set(fold.tolist()) == set(range(5))
    group = questions.group[:questions.n_train].tolist()
    assert len(set(zip(group, fold.tolist(), strict=True))) == len(set(group))


def test_in_a_small_cycle_nearly_all_control_labels_could_be_known_by_heart():
    """So the control accuracy says how much of the probe's accuracy is memory."""
    questions = probe.make_questions(SIX, 'direct', 300, 200, 0)
    y = probe.make_labels(questions, 0).y
    keys = questions.control_key[:, 1].tolist()
    label_of = dict(zip(keys[:300], y[:300, 3].tolist(), strict=True))
    known = [i for i in range(300, 500) if keys[i] in label_of]
    assert len(label_of) == 30 and len(known) > 190
    assert all(label_of[keys[i]] == y[i, 3] for i in known)


@pytest.mark.parametrize('task, n_train, n_test, words', [
    (SIX, 29, 100, '--n_train'), (SIX, 300, 9, '--n_test'), (CVPR(8, [3]), 10, 100, '--n_train'),
    (Cycle(5, [2]), 300, 300, '--n_test'),  # some two tables to test
    (Profiles(12, 2, 2), 4000, 4000, 'relations'), (Profiles(30, 8, 1), 4000, 4000, 'relations')])
def test_too_few_questions_for_the_classes_are_refused(task, n_train, n_test, words):
    questions = probe.make_questions(task, 'direct', n_train, n_test, 0)
    with pytest.raises(ValueError, match=words):
        probe.make_labels(questions, 0)


# -----------------------------------------------------------------------------
# the script

FEW = ['--n_train', '120', '--n_test', '60', '--n_patch', '30']
FEW_PEOPLE = ['--n_train', '4000', '--n_test', '300', '--n_patch', '20']
GRIDS = ('acc', 'se', 'control', 'lens', 'random_init', 'flip', 'random')

CHECKPOINTS = {  # name: (mode, flags of train_cot.py)
    'cot': ('cot', '--nodes 6 --hops 1-3'),
    'deep': ('cot', '--nodes 6 --hops 1-3 --n_loop 2'),
    'loops': ('direct', '--nodes 6 --hops 2 --n_loop 2'),
    'cvpr': ('direct', '--task cvpr --nodes 8 --hops 1-2'),
    'pairs': ('direct', '--nodes 6 --hops 2 --format pairs'),
    'profiles': ('direct', '--task profiles --people 12 --relations 17 --attributes 3'),
    'chain': ('cot', '--task profiles --people 12 --relations 17 --attributes 3'),
    'people': ('direct', '--task profiles --people 10 --relations 17 --attributes 0 --relabel'),
    'few': ('direct', '--task profiles --people 12 --relations 2 --attributes 3'),
    'one': ('cot', '--nodes 6 --hops 1'),
    'fact': ('cot', '--task profiles --people 12 --hops 1'),
    'multiply': ('cot', '--task multiply --digits 1'),
    'star': ('cot', '--task star'),
    'countdown': ('cot', '--task countdown'),
}


def save_random_model(path, mode, flags):
    """A model of random weights, with the settings that train_cot.py would have saved."""
    args = train_cot.parse_args([*flags.split(), '--mode', mode, '--n_layer', '1', '--n_head', '1',
                                 '--n_embd', '8'])
    _, config = train_cot.fill_in(args)
    torch.manual_seed(0)
    save_checkpoint(path, GPT(config), {'script': 'train_cot', **vars(args)}, mode)


@pytest.fixture(scope='module')
def ckpt(tmp_path_factory):
    """{name: path} of all CHECKPOINTS."""
    folder = tmp_path_factory.mktemp('ckpt')
    paths = {}
    for name, (mode, flags) in CHECKPOINTS.items():
        paths[name] = folder / f'{name}.pt'
        save_random_model(paths[name], mode, flags)
    return paths


def train(module, folder, argv):
    """Run a script that trains. Returns the only checkpoint it leaves."""
    with torch.enable_grad():
        code, _, err = call(module, [*argv.split(), '--device', 'cpu', '--out_dir', str(folder)])
    assert code == 0, err
    (path,) = folder.glob('ckpt*.pt')
    return path


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A checkpoint of train_cot.py, after a few steps."""
    return train(train_cot, tmp_path_factory.mktemp('trained'),
                 '--nodes 6 --hops 1-2 --n_embd 8 --batch_size 8 --steps 5 --n_test 5 '
                 '--mode direct')


def call_probe(*argv):
    return call(probe, ['--device', 'cpu', *map(str, argv)])


def run_probe(folder, *argv):
    """{name: text} of its last line, the lines above it, results.json."""
    code, out, err = call_probe(*argv, '--out_dir', folder)
    assert code == 0, err
    assert out.count('final ') == 1
    lines = out.strip().split('\n')[:-1]
    return final_values(out), lines, read_results(folder)


def read_results(folder):
    return json.loads((Path(folder) / 'results.json').read_text())


def read_log(folder):
    return [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]


def table_rows(lines):
    """The numbers of the rows 'layer probe +- error control ...' of all tables."""
    rows = [line.replace('+-', ' ').split() for line in lines if re.match(r' +\d  ', line)]
    return [[float(word) for word in row] for row in rows]


def test_a_run_leaves_config_log_results_and_plot(trained, tmp_path, figures):
    final, lines, results = run_probe(tmp_path, '--ckpt', trained, *FEW)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {'config.json', 'log.jsonl', 'results.json', 'plot.png'}
    assert (tmp_path / 'plot.png').read_bytes().startswith(b'\x89PNG\r\n\x1a\n')
    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['args']['script'] == 'probe' and config['args']['ckpt'] == str(trained)
    assert config['args']['n_train'] == 120 and config['params'] > 0
    assert len(table_rows(lines)) == 4  # two hops, two layers

    # the words at all positions, for the figure
    assert config['example'] == lines[1].split() and len(config['example']) == 8


def test_the_last_line_has_all_values(trained, tmp_path):
    final, _, results = run_probe(tmp_path, '--ckpt', trained, *FEW)
    assert {'best_hop1', 'best_hop2', 'first_layer_hop1', 'first_layer_hop2', 'selectivity',
            'random_init', 'flip', 'chance', 'seconds'} < final.keys()
    assert (final['task'], final['hops'], final['mode']) == ('cycle', '2', 'direct')
    assert (final['cells'], final['n_test']) == (str(2 * 8 * 2), '60')
    assert float(final['chance']) >= 0.2
    assert 'unasked' not in final and 'flip_token' not in final
    given = {name for name, value in results['final'].items() if value is not None}
    assert given == final.keys()


def test_main_returns_the_values_of_the_last_line(trained, tmp_path):
    argv = ['--ckpt', str(trained), *FEW, '--device', 'cpu', '--out_dir', str(tmp_path)]
    with contextlib.redirect_stdout(io.StringIO()):
        final = probe.main(argv)
    assert final == read_results(tmp_path)['final']


def test_the_log_has_a_record_for_each_hop_and_the_final_one(trained, tmp_path):
    _, _, results = run_probe(tmp_path, '--ckpt', trained, *FEW)
    log = read_log(tmp_path)
    assert [record['arm'] for record in log] == ['hop', 'hop', 'final']
    assert [record.get('hop') for record in log] == [1, 2, None]
    assert {'arm': 'final', **results['final']} == log[-1]
    for record, hop in zip(log[:2], results['hops'], strict=True):
        assert record == {'arm': 'hop', **hop}
        assert (hop['layers'], hop['positions']) == ([0, 1], list(range(8)))
        assert hop['position'] == 7
        for name in GRIDS:
            assert np.array(hop[name]).shape == (2, 8)
            assert 0 <= np.min(hop[name]) <= np.max(hop[name]) <= 1


def test_the_model_is_left_as_it_was(trained, tmp_path, monkeypatch):
    before = trained.read_bytes()
    real = common.load_checkpoint
    loaded = []

    def recorded(*args):
        loaded.append(real(*args))
        return loaded[-1]

    monkeypatch.setattr(common, 'load_checkpoint', recorded)
    run_probe(tmp_path, '--ckpt', trained, *FEW)
    assert trained.read_bytes() == before
    ((model, state),) = loaded
    for name, p in model.state_dict().items():
        assert torch.equal(p, state['model'][name])
    assert all(p.grad is None for p in model.parameters())
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert not module._backward_hooks and not module._backward_pre_hooks


@pytest.mark.parametrize('name, few', [('deep', FEW), ('profiles', FEW_PEOPLE)])
def test_results_and_log_are_json(name, few, ckpt, tmp_path):
    """NaN is not JSON: where there is nothing to report stands null, or nothing."""
    def refuse(word):
        raise ValueError(f'{word} is not JSON')

    run_probe(tmp_path, '--ckpt', ckpt[name], *few, '--positions', '4')
    log = (tmp_path / 'log.jsonl').read_text().splitlines()
    for text in ((tmp_path / 'results.json').read_text(), *log):
        json.loads(text, parse_constant=refuse)


def test_the_same_seed_gives_the_same_numbers(trained, tmp_path):
    argv = ['--ckpt', trained, *FEW, '--layers', '0,1', '--positions', '0,6']
    finals = []
    hops = []
    for i, seed in enumerate((3, 3, 4)):
        final, _, results = run_probe(tmp_path / str(i), *argv, '--seed', seed)
        assert final['seed'] == str(seed)
        finals.append(final | {'seconds': 0})
        hops.append(results['hops'])
    assert finals[0] == finals[1] and hops[0] == hops[1]
    assert hops[0][0]['acc'] != hops[2][0]['acc']


@pytest.mark.parametrize('extra, layers, positions', [
    ('--layers 1', [1], range(8)), ('--positions 2,0,2', [0, 1], [0, 2, 7]),
    ('--layers 1,0,1 --positions 7', [0, 1], [7]), ('--layers 0 --positions 3', [0], [3, 7])])
def test_some_layers_and_positions(extra, layers, positions, trained, tmp_path):
    """Positions where hops are needed are always there. The numbers of a cell do not depend on
    which others are asked for."""
    positions = list(positions)
    final, lines, some = run_probe(tmp_path / 'some', '--ckpt', trained, *FEW, *extra.split())
    _, _, whole = run_probe(tmp_path / 'all', '--ckpt', trained, *FEW)
    assert final['cells'] == str(len(layers) * len(positions) * 2)
    assert ('embedding' in final) == (0 in layers) and ('acc' in final) == (1 in layers)
    for hop, whole_hop in zip(some['hops'], whole['hops'], strict=True):
        assert hop['layers'] == layers and hop['positions'] == positions
        for name in GRIDS:
            cells = np.array(whole_hop[name])[np.ix_(layers, positions)]
            np.testing.assert_allclose(hop[name], cells, atol=1e-4, err_msg=name)

    # the figure has a word for each position
    config = json.loads((tmp_path / 'some' / 'config.json').read_text())
    assert config['example'] == [lines[1].split()[position] for position in positions]


def test_a_chain(ckpt, tmp_path):
    """Position 1 is asked for. Each of the three hops is needed at a position of its own."""
    final, lines, results = run_probe(tmp_path, '--ckpt', ckpt['cot'], *FEW, '--positions', '1')
    hops = results['hops']
    assert (final['mode'], final['hops'], final['cells']) == ('cot', '3', str(2 * 4 * 3))
    assert [hop['position'] for hop in hops] == [7, 8, 9]
    assert hops[0]['positions'] == [1, 7, 8, 9]
    assert {'best_hop3', 'first_layer_hop3', 'flip_token', 'acc'} < final.keys()
    first_written = hops[0]['flip'][0][2]  # the embedding at position 8
    assert float(final['flip_token']) == pytest.approx(first_written, abs=1e-3)

    example = lines[1].split()
    assert len(example) == 10 and example[6] == 'k=3'
    for j, word in enumerate(example[7:]):
        assert f'hop {j + 1} at position {7 + j} ({word})' in '\n'.join(lines)


@pytest.mark.parametrize('name, cells', [
    ('loops', 3 * 8 * 2), ('cvpr', 2 * 10 * 2), ('pairs', 2 * 14 * 2), ('profiles', 2 * 5 * 2),
    ('chain', 2 * 9 * 2), ('people', 2 * 5 * 2)])
def test_every_kind_of_checkpoint(name, cells, ckpt, tmp_path):
    is_profiles = name in ('profiles', 'chain', 'people')
    final, _, results = run_probe(tmp_path, '--ckpt', ckpt[name],
                                  *(FEW_PEOPLE if is_profiles else FEW))
    assert final['cells'] == str(cells)
    assert final['n_loop'] == ('2' if name == 'loops' else '1')
    assert 0 <= float(final['acc']) <= 1
    assert 'flip_token' not in final
    assert ('unasked' in final) == is_profiles
    if is_profiles:
        assert np.isfinite([hop['unasked'] for hop in results['hops']]).all()


def test_bfloat16_hardly_changes_the_numbers(ckpt, tmp_path):
    argv = ['--ckpt', ckpt['chain'], *FEW_PEOPLE, '--positions', '4']
    _, _, one = run_probe(tmp_path / 'one', *argv)
    _, _, two = run_probe(tmp_path / 'two', *argv, '--dtype', 'bfloat16')
    for a, b in zip(one['hops'], two['hops'], strict=True):
        np.testing.assert_allclose(a['acc'], b['acc'], atol=0.1)
        np.testing.assert_allclose(a['flip'], b['flip'], atol=0.2)
    config = json.loads((tmp_path / 'two' / 'config.json').read_text())
    assert config['args']['dtype'] == 'bfloat16'


def test_a_flag_that_a_checkpoint_does_not_know_keeps_its_default(ckpt, tmp_path):
    """As --relabel in checkpoints from before there was one."""
    change_checkpoint(ckpt['chain'], tmp_path / 'old.pt',
                      lambda state: state['args'].pop('relabel'))
    argv = [*FEW_PEOPLE, '--positions', '4']
    _, _, with_flag = run_probe(tmp_path / 'with', '--ckpt', ckpt['chain'], *argv)
    _, _, without = run_probe(tmp_path / 'without', '--ckpt', tmp_path / 'old.pt', *argv)
    assert with_flag['hops'] == without['hops']


def test_a_checkpoint_of_capacity(tmp_path):
    path = train(capacity, tmp_path / 'train',
                 '--hops 2 --people 10 --attributes 2 --relations 17 --sizes 1300 --exposures 2 '
                 '--steps 3 --seed 4')
    final, lines, results = run_probe(tmp_path / 'probe', '--ckpt', path, *FEW_PEOPLE)
    assert (final['task'], final['mode'], final['model_seed']) == ('profiles', 'direct', '4')
    assert int(final['n_test']) <= 300 and len(results['hops']) == 2

    # it knows the facts of its seed: their names are in the example
    task = Profiles(10, 2, 17, facts=4)
    _, a, b, c, _ = lines[1].split()
    assert [a, b, c] in [task.decode(name).split() for name in task.names.tolist()]


def test_a_checkpoint_of_reinforcement_learning_is_a_chain_model(tmp_path):
    path = train(train_rl, tmp_path / 'train',
                 '--nodes 6 --hops 1-2 --n_embd 8 --batch_size 4 --group_size 2 --n_test 10 '
                 '--steps 2')
    final, _, _ = run_probe(tmp_path / 'probe', '--ckpt', path, *FEW)
    assert (final['task'], final['mode'], final['hops']) == ('cycle', 'cot', '2')


# -----------------------------------------------------------------------------
# the last line and the tables, by plain loops

# By layer (0, 1, 2) where each of three hops is needed. Hop 1 is decodable before it is best, hop 2
# nearly at once, hop 3 never well enough above the untrained model.
ACC = ((0.2, 0.96, 0.97), (0.94, 0.99, 0.97), (0.3, 0.96, 0.94))
CONTROL = ((0.9, 0.3, 0.2), (0.2, 0.3, 0.9), (0.8, 0.5, 0.8))


@pytest.fixture
def made_up(ckpt, tmp_path, monkeypatch):
    """A run whose grids are made up: {measure: (3, 10, 3)}, its last line, lines and results."""
    rng = np.random.default_rng(0)

    def make(*names):
        grids = {}
        for name in names:
            grids[name] = torch.tensor(rng.random((3, 10, 3)) * 0.9, dtype=torch.float32)
        return grids

    trained = make('acc', 'se', 'control', 'lens')
    untrained = make('acc')
    patched = make('flip', 'random')
    for j, position in enumerate((7, 8, 9)):
        trained['acc'][:, position, j] = torch.tensor(ACC[j])
        trained['control'][:, position, j] = torch.tensor(CONTROL[j])
    untrained['acc'][1, 9, 2] = 0.92
    of_probe = [dict(trained), untrained]  # in the order of the calls
    monkeypatch.setattr(probe, 'probe', lambda *_: of_probe.pop(0))
    monkeypatch.setattr(probe, 'interchange', lambda *_: patched)

    grids = trained | {'random_init': untrained['acc']} | patched
    return grids, *run_probe(tmp_path, '--ckpt', ckpt['deep'], *FEW)


def test_the_summary_of_the_probes(made_up):
    grids, final, _, results = made_up
    best = [float(final[f'best_hop{j}']) for j in (1, 2, 3)]
    assert best == pytest.approx([0.97, 0.99, 0.96], abs=1e-3)
    assert [final[f'first_layer_hop{j}'] for j in (1, 2, 3)] == ['1', '1', 'none']
    selectivity = min(0.97 - 0.2, 0.99 - 0.3, 0.96 - 0.5)
    assert float(final['selectivity']) == pytest.approx(selectivity, abs=1e-3)
    assert float(final['embedding']) == pytest.approx(0.94)
    where_needed = [grids['random_init'][:, 7 + j, j].max().item() for j in range(3)]
    assert float(final['random_init']) == pytest.approx(max(where_needed), abs=1e-3)
    assert float(final['acc']) == pytest.approx(grids['lens'][2, 9, 2].item(), abs=1e-3)
    assert float(final['chance']) == max(round(hop['chance'], 3) for hop in results['hops'])


def test_flips_are_those_of_hop_1_at_its_first_layer(made_up):
    grids, final, _, _ = made_up
    assert float(final['flip']) == pytest.approx(grids['flip'][1, 7, 0].item(), abs=1e-3)
    assert float(final['flip_random']) == pytest.approx(grids['random'][1, 7, 0].item(), abs=1e-3)
    assert float(final['flip_token']) == pytest.approx(grids['flip'][0, 8, 0].item(), abs=1e-3)


def test_results_hold_the_grids_of_each_hop(made_up):
    grids, _, _, results = made_up
    for j, hop in enumerate(results['hops']):
        for name, grid in grids.items():
            np.testing.assert_allclose(hop[name], grid[..., j], atol=1e-4, err_msg=name)


def test_the_tables_show_each_hop_where_it_is_needed(made_up):
    grids, _, lines, _ = made_up
    rows = table_rows(lines)
    assert len(rows) == 9
    for i, (layer, *values) in enumerate(rows):
        j = i // 3
        cell = i % 3, 7 + j, j
        m = {name: grid[cell].item() for name, grid in grids.items()}
        expected = [m['acc'], m['se'], m['control'], m['acc'] - m['control'], m['random_init'],
                    m['lens'], m['flip'], m['random']]
        assert layer == i % 3 and values == pytest.approx(expected, abs=1e-3)


# -----------------------------------------------------------------------------
# bad input

def refused(tmp_path, *argv, out_dir='out'):
    """The one line on stderr of a run that ends with exit code 2 and writes nothing."""
    def tree():
        files = {}
        for path in tmp_path.rglob('*'):
            files[path] = path.read_bytes() if path.is_file() else None
        return files

    argv = [str(word) for word in argv]
    if out_dir is not None:
        argv += ['--out_dir', str(tmp_path / out_dir)]
    before = tree()
    code, out, err = call(probe, argv)
    assert code == 2 and out == '' and 'Traceback' not in err, (code, out, err)
    assert err.count('\n') == 1 and err.endswith('\n') and len(err) > 20
    assert tree() == before
    return err


def docstring_commands():
    """The arguments of each command in the docstring, with continued lines put together."""
    doc = re.sub(r'\\\n +', '', probe.__doc__)
    return re.findall(r'^    .*?\b(train_cot|probe)\.py([^#\n]*)', doc, re.M)


def test_without_a_checkpoint_it_says_how_to_make_the_one_it_looks_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refused(tmp_path, out_dir=None)
    assert probe.DEFAULT in line
    (argv,) = re.findall(r'python train_cot\.py (.*)$', line.strip())
    assert argv.split() == docstring_commands()[0][1].split()
    args = train_cot.parse_args(argv.split())
    task, _ = train_cot.fill_in(args)
    assert (f'{args.out_dir}/ckpt.pt', args.mode) == (probe.DEFAULT, 'direct')
    assert isinstance(task, Cycle) and max(task.hops) >= 2
    assert 'no checkpoint' in refused(tmp_path, '--layers', '1')


def test_the_help_names_the_default_checkpoint():
    code, out, _ = call(probe, ['--help'])
    assert code == 0 and f'default: {probe.DEFAULT}' in ' '.join(out.split())


def test_the_commands_of_its_docstring_parse(trained, monkeypatch):
    monkeypatch.setattr(probe, 'DEFAULT', str(trained))
    commands = docstring_commands()
    assert [name for name, _ in commands] == ['train_cot', 'probe', 'probe', 'probe']
    for name, argv in commands:
        module = {'train_cot': train_cot, 'probe': probe}[name]
        module.parse_args(argv.split())


def test_files_that_are_no_checkpoint(trained, tmp_path):
    whole = trained.read_bytes()
    contents = {'cut.pt': whole[:len(whole) // 2], 'empty.pt': b'', 'text.pt': b'hello',
                'byte.pt': whole[:-1]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    torch.save({'model': {}, 'config': {}}, tmp_path / 'foreign.pt')
    torch.save([1, 2], tmp_path / 'list.pt')
    for name in (*contents, 'foreign.pt', 'list.pt'):
        assert 'is not a checkpoint' in refused(tmp_path, '--ckpt', tmp_path / name)
    assert 'there is no checkpoint' in refused(tmp_path, '--ckpt', tmp_path / 'nowhere.pt')
    assert 'is a folder, not a checkpoint' in refused(tmp_path, '--ckpt', tmp_path)


@pytest.mark.parametrize('changes, words', [
    ({'task': 'mazes'}, 'which is none of'), ({'task': None}, 'which is none of'),
    ({'nodes': '6'}, 'no task'), ({'nodes': 7}, 'does not fit its task')])
def test_checkpoints_of_another_task_or_version(changes, words, trained, tmp_path):
    change_checkpoint(trained, tmp_path / 'other.pt', lambda state: state['args'].update(changes))
    assert words in refused(tmp_path, '--ckpt', tmp_path / 'other.pt')


def test_a_checkpoint_without_settings(trained, tmp_path):
    change_checkpoint(trained, tmp_path / 'other.pt',
                      lambda state: state.update(args={'script': 'train_cot'}))
    assert 'which is none of' in refused(tmp_path, '--ckpt', tmp_path / 'other.pt')


@pytest.mark.parametrize('name, words', [
    ('one', 'one hop'), ('fact', 'one hop'), ('multiply', 'which is none of cycle, cvpr'),
    ('star', 'which is none of cycle, cvpr'), ('countdown', 'which is none of cycle, cvpr'),
    ('few', 'too few')])
def test_checkpoints_without_hidden_nodes(name, words, ckpt, tmp_path):
    assert words in refused(tmp_path, '--ckpt', ckpt[name])


@pytest.mark.parametrize('argv, words', [
    ('--layers 9', '--layers'), ('--layers=-1', '--layers'), ('--layers -1', '--layers'),
    ('--layers 0,2', '--layers'), ('--layers x', '--layers'), ('--positions 99', '--positions'),
    ('--positions 8', '--positions'), ('--positions=-1', '--positions'),
    ('--positions 0,99', '--positions'), ('--n_train 10', '--n_train'), ('--n_train 29', '30'),
    ('--n_train 1000001', 'million'), ('--n_test 99999999999', 'at most'),
    ('--n_patch 1000001', 'million'), ('--n_train 0', '--n_train'), ('--n_test 1', '--n_test'),
    ('--n_patch 0', '--n_patch'), ('--device tpu', 'tpu'), ('--device cuda:99', 'cuda:99'),
    ('--dtype float8', '--dtype')])
def test_bad_arguments(argv, words, trained, tmp_path):
    assert words in refused(tmp_path, '--ckpt', trained, *argv.split())


def test_a_grid_that_would_not_fit_is_refused(trained, tmp_path, monkeypatch):
    """Before memory is asked for. Here the model claims to have 10^7 channels."""
    real = common.load_checkpoint

    def wide(*args):
        model, state = real(*args)
        model.config.n_embd = 10**7
        return model, state

    monkeypatch.setattr(common, 'load_checkpoint', wide)
    assert 'GiB' in refused(tmp_path, '--ckpt', trained)


def test_a_folder_that_holds_another_run(trained, tmp_path):
    argv = ['--ckpt', trained, *FEW, '--device', 'cpu']
    run_probe(tmp_path / 'run', *argv, '--positions', '1')
    other_positions = refused(tmp_path, *argv, '--positions', '2', out_dir='run')
    assert 'holds a run with' in other_positions
    other_seed = refused(tmp_path, *argv, '--positions', '1', '--seed', '3', out_dir='run')
    assert 'seed=1337, not 3' in other_seed
    of_the_model = refused(tmp_path, *argv, out_dir=trained.parent)
    assert 'holds a run with' in of_the_model and trained.exists()
    run_probe(tmp_path / 'run', *argv, '--positions', '1')  # the same starts over


# -----------------------------------------------------------------------------
# whole processes

TWO_RUNS = """
import os, sys, plots, probe
port, folder, *argv = sys.argv[1:]
plots.draw_run = lambda folder: None
probe.main([*argv, '--out_dir', folder + '/two'])
os.environ['MASTER_PORT'] = port
probe.main([*argv, '--out_dir', folder + '/two-7', '--positions', '7'])
"""


def test_two_processes_find_what_one_finds(trained, two_processes, tmp_path):
    """All eight positions, then one, of which the second process gets none."""
    argv = ['--ckpt', trained, *FEW, '--device', 'cpu']
    done = two_processes('-c', TWO_RUNS, free_port(), tmp_path, *argv)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('final ') == 2  # rank 0 alone prints

    _, _, whole = run_probe(tmp_path / 'one', *argv)
    _, _, one_position = run_probe(tmp_path / 'one-7', *argv, '--positions', '7')
    assert_same_results(whole, read_results(tmp_path / 'two'))
    assert_same_results(one_position, read_results(tmp_path / 'two-7'))


def assert_same_results(one, two):
    for a, b in zip(one['hops'], two['hops'], strict=True):
        assert a['positions'] == b['positions'] and a['layers'] == b['layers']
        for name in GRIDS:
            np.testing.assert_allclose(a[name], b[name], atol=1e-4, err_msg=name)
    assert one['final'].keys() == two['final'].keys()
    for name in one['final'].keys() - {'seconds'}:
        assert one['final'][name] == pytest.approx(two['final'][name], abs=1e-4), name


@pytest.mark.slow
def test_headline(tmp_path):
    """The model that the refusal without a checkpoint names, and its probes. The first seed reaches
    every bound with room to spare. Of three seeds one only just reaches 0.95 for hop 2 and 0.80 for
    the flips."""
    _, *argv = probe.TRAIN_DEFAULT.split()
    done = run_script(*argv, '--out_dir', tmp_path / 'model')
    assert done.returncode == 0, done.stderr
    done = run_script('probe.py', '--ckpt', tmp_path / 'model' / 'ckpt.pt',
                      '--out_dir', tmp_path / 'probe')
    assert done.returncode == 0, done.stderr
    text = final_values(done.stdout)
    final = {}
    for name, value in text.items():
        if name not in ('task', 'mode'):
            final[name] = float(value)
    assert final['best_hop1'] >= 0.95 and final['best_hop2'] >= 0.95, text
    assert (final['first_layer_hop1'], final['first_layer_hop2']) == (1, 2), text
    assert final['flip'] >= 0.8 and final['selectivity'] >= 0.3, text
    for name in ('embedding', 'random_init', 'flip_random'):
        assert final[name] <= final['chance'] + 0.05, text
    assert final['cells'] == 96 and final['seconds'] < 60, text
