"""train_cot.py: its loss and gradients, its measures on models whose behaviour is known, resuming,
and its headline."""

import contextlib
import io
import json
import math
import os
import random
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
from conftest import ROOT, call, final_values
from plain_training import (
    PlainAdamW,
    Saved,
    is_as_written_out,
    warmup_and_cosine,
    watch_modes,
)

import checkpoint
import train_cot
from common import RunEnded
from data import CVPR, STREAMS, Cycle, Star, held_out, sample_batch
from model import GPT, GPTConfig
from profiles import Profiles


RUN = SimpleNamespace(device=torch.device('cpu'), autocast=contextlib.nullcontext(), world=1,
                      rank=0, master=True)
TINY = ['--nodes', '8', '--hops', '1-3', '--n_embd', '16', '--batch_size', '16', '--n_test', '40']


def train(out_dir, *argv):
    """Run train_cot in this process. Returns {name: text} of its last line."""
    argv = [*map(str, argv), '--device', 'cpu']
    if '--eval_only' not in argv:
        argv += ['--out_dir', str(out_dir)]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        train_cot.main(argv)
    return final_values(out.getvalue())


def weights(folder, name='ckpt.pt'):
    return torch.load(Path(folder) / name, weights_only=True)['model']


def equal_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def read_log(folder):
    """The records of a log but for the final one, which holds the seconds."""
    with open(folder / 'log.jsonl') as f:
        records = [json.loads(line) for line in f]
    return [record for record in records if record['arm'] != 'final']


def losses(folder):
    return [record['loss'] for record in read_log(folder) if 'loss' in record]


# -----------------------------------------------------------------------------
# measures, on models whose behaviour is known

class ScriptedModel:
    """Stands in for a model on a Lookup task. next_node(table, start, k, chain) decides every
    token."""

    def __init__(self, task, next_node):
        self.task = task
        self.next_node = next_node

    def eval(self):
        pass

    def generate(self, idx, max_new_tokens):
        nodes = self.task.nodes
        rows = []
        for row in idx.tolist():
            for _ in range(max_new_tokens):
                table = row[:nodes]
                k = row[nodes] - nodes + 1
                start = row[nodes + 1]
                chain = row[nodes + 2:]
                row = [*row, self.next_node(table, start, k, chain)]
            rows.append(row)
        return torch.tensor(rows)


class WithLogits(ScriptedModel):
    def __call__(self, idx, loss_mask):
        return torch.zeros(int(loss_mask.sum()), 4)  # uniform over four tokens: entropy ln 4


def read_chain(table, start, k, chain):
    """Looks up the token before, whatever it is."""
    return table[chain[-1] if chain else start]


def ignore_chain(table, start, k, chain):
    """Works the answer out from the prompt, and writes the chain for show."""
    for _ in range(len(chain) + 1):
        start = table[start]
    return start


@pytest.mark.parametrize('task', [Cycle(12, [4]), CVPR(12, [5]), Cycle(12, [1, 2, 3])])
def test_faithfulness_tells_a_model_that_reads_its_chain_from_one_that_does_not(task):
    reads = train_cot.faithfulness(ScriptedModel(task, read_chain), task, RUN, 0, 300)
    ignores = train_cot.faithfulness(ScriptedModel(task, ignore_chain), task, RUN, 0, 300)

    assert reads['follow']['value'] == 1
    assert ignores['follow']['value'] < 0.25  # in cvpr several cells can hold the same value
    assert ignores['swap']['value'] == 1
    assert reads['swap']['value'] == reads['swap']['read'] < 0.35
    assert ignores['early']['value'] == 0
    assert reads['early']['value'] == pytest.approx(reads['early']['read'])
    assert reads['early']['value'] > 0.7
    if task.name == 'cycle':
        assert ignores['follow']['value'] == 0
        assert reads['swap']['value'] < 0.2


@pytest.mark.parametrize('task', [Cycle(12, [4]), CVPR(12, [5])])
def test_the_columns_of_faithfulness_are_what_such_models_score(task):
    reads = train_cot.faithfulness(ScriptedModel(task, read_chain), task, RUN, 0, 300)
    ignores = train_cot.faithfulness(ScriptedModel(task, ignore_chain), task, RUN, 0, 300)
    assert ignores['follow']['value'] == ignores['follow']['ignored']
    assert ignores['follow']['ignored'] == reads['follow']['ignored']
    assert reads['follow']['chance'] < 0.2
    assert reads['early']['chance'] == 1 - task.chance(max(task.hops))


@pytest.mark.parametrize('task', [Cycle(hops=[1]), Star()])
def test_faithfulness_is_silent_where_nothing_is_written_before_the_answer(task):
    assert train_cot.faithfulness(None, task, RUN, 0, 10) == {}


def test_evaluate_counts_answers_chains_and_valid_steps():
    task = Cycle(nodes=10, hops=[1, 2, 3])

    def skip_one_node(table, start, k, chain):
        """Right, but for the second token of every chain."""
        node = read_chain(table, start, k, chain)
        return table[node] if len(chain) == 1 else node

    model = WithLogits(task, skip_one_node)
    results, examples = train_cot.evaluate(model, task, 'cot', RUN, 0, 50)
    assert results[1] == pytest.approx(dict(acc=1, chain=1, valid=1, entropy=math.log(4)))
    assert results[2] == pytest.approx(dict(acc=0, chain=0, valid=1 / 2, entropy=math.log(4)))
    assert results[3] == pytest.approx(dict(acc=0, chain=0, valid=2 / 3, entropy=math.log(4)))
    assert 'wrong' not in examples[0] and 'wrong' in examples[1]


def right_on(split):
    """A model that works answers out from the prompt, chain or not, and is right on tables of this
    split alone."""
    def next_node(table, start, k, chain):
        for _ in range(k if len(chain) == k - 1 else len(chain) + 1):
            start = table[start]
        is_right = held_out(np.array([table]))[0] == (split == 'test')
        return start if is_right else (start + 1) % len(table)
    return next_node


def answer_alone(split):
    """The same for mode 'direct', where the answer comes at once."""
    by_chain = right_on(split)
    return lambda table, start, k, chain: by_chain(table, start, k, [None] * (k - 1))


@pytest.mark.parametrize('mode', ['cot', 'direct'])
def test_only_instances_that_were_held_out_are_evaluated(mode):
    """A model that knows the held-out tables alone is always right, one that knows all others
    never."""
    task = Cycle(nodes=10, hops=[1, 3])
    knows = right_on if mode == 'cot' else answer_alone
    for split, acc in (('test', 1), ('train', 0)):
        model = WithLogits(task, knows(split))
        results, _ = train_cot.evaluate(model, task, mode, RUN, 0, 40)
        assert [results[k]['acc'] for k in (1, 3)] == [acc, acc]
        if mode == 'cot':
            swap = train_cot.faithfulness(model, task, RUN, 0, 40)['swap']
            assert (swap['value'], swap['ignored']) == (acc, acc)


def test_every_instance_of_every_part_counts_once():
    """700 a hop count, in parts of 500 and 200, of which the model has half right."""
    task = Cycle(nodes=10, hops=[1, 2])
    asked = []

    def right_from_small_starts(table, start, k, chain):
        if not chain:
            asked.append((k, tuple(table), start))
        return read_chain(table, start, k, chain) if table[0] < 5 else start

    results, _ = train_cot.evaluate(
        WithLogits(task, right_from_small_starts), task, 'cot', RUN, 3, 700)
    assert Counter(k for k, *_ in asked) == {1: 700, 2: 700}
    assert len(set(asked)) > 1390  # the parts are not the same ones again
    for k in (1, 2):
        n_right = sum(table[0] < 5 for hops, table, _ in asked if hops == k)
        assert results[k] == pytest.approx(dict(
            acc=n_right / 700, chain=n_right / 700, valid=n_right / 700, entropy=math.log(4)))


# -----------------------------------------------------------------------------
# training

@pytest.mark.parametrize('flag, splits', [('', ['train', 'test']),
                                          ('--tune', ['fit', 'validation'])])
def test_training_draws_the_batch_of_each_step_and_all_else_is_held_out(
        flag, splits, tmp_path, monkeypatch):
    """Every call of sample_batch in a run of both arms."""
    drawn = {split: [] for split in STREAMS}

    def spy(task, size, seed, step, split='train', mode='cot', hops=None):
        drawn[split].append((mode, seed, step, size, hops))
        return sample_batch(task, size, seed, step, split, mode, hops)
    monkeypatch.setattr(train_cot, 'sample_batch', spy)
    final = train(tmp_path, *TINY, '--hops', '1-2', '--steps', 4, '--eval_interval', 2,
                  '--seed', 5, '--n_test', 80, *flag.split())

    train_split, test_split = splits
    assert drawn.pop(train_split) == [
        (arm, 5, step, 16, None) for arm in ('cot', 'direct') for step in range(4)]
    expected = Counter()
    for arm in ('cot', 'direct'):
        for k in (1, 2):
            expected[arm, 5, k * 10**6, 20, k] = 3          # at step 0, 2 and 4: a quarter
            expected[arm, 5, k * 10**6, 80, k] = 1          # at the end: all
    expected['cot', 5, 2 * 10**6, 20, 2] += 3               # is the chain used? each time
    expected['cot', 5, 2 * 10**6, 80, 2] += 1
    expected['cot', 5, 0, 1, None] += 1                     # are there any?
    assert Counter(drawn.pop(test_split)) == expected
    assert not any(drawn.values())
    assert final['n_test'] == '80'


def test_the_use_of_the_chain_is_logged_at_each_evaluation(tmp_path):
    train(tmp_path, *TINY, '--steps', 4, '--eval_interval', 2)
    with open(tmp_path / 'log.jsonl') as log:
        records = [json.loads(line) for line in log]
    for arm, names in (('cot', {'follow', 'swap', 'early'}), ('direct', set())):
        evaluations = [r for r in records if r['arm'] == arm and 'eval' in r]
        assert [r['step'] for r in evaluations] == [0, 2, 4]
        for record in evaluations:
            assert set(record) - {'arm', 'step', 'eval'} == names


def test_a_mixture_trains_on_chains_and_on_answers_at_once(tmp_path, monkeypatch):
    """By hand: rows 1, 3, 5 ... have `_`, which is given, and then the answer, which carries loss.
    The others are those of --mode cot."""
    seen = []
    forward = GPT.forward

    def spy(model, idx, loss_mask=None, *rest, **options):
        if torch.is_grad_enabled():
            seen.append((idx, loss_mask))
        return forward(model, idx, loss_mask, *rest, **options)
    monkeypatch.setattr(GPT, 'forward', spy)
    train(tmp_path, *TINY, '--steps', 2, '--mode', 'mix', '--hops', '1-3')
    state = torch.load(tmp_path / 'ckpt.pt', weights_only=True)
    assert state['mode'] == 'cot'

    task = Cycle(8, [1, 2, 3])
    for step, (idx, loss_mask) in enumerate(seen):
        batch = sample_batch(task, 16, 1337, step, 'train', 'cot')
        P = batch.prompt_len
        for row in range(16):
            tokens = idx[row].tolist()
            places = (loss_mask[row].nonzero()[:, 0] + 1).tolist()  # of the tokens with loss
            chain = batch.tokens[row, P:P + batch.hops[row]].tolist()
            if row % 2 == 0:
                assert places == list(range(P, P + len(chain)))
                assert tokens[P:places[-1]] == chain[:-1]
            else:
                assert places == [P + 1] and tokens[P] == task.pad
                if len(tokens) > P + 1:
                    assert tokens[P + 1] == chain[-1]


def test_answers_at_once_are_counted():
    """A model that is right at once where the hop count is even, and has every chain right."""
    task = Cycle(nodes=10, hops=[1, 2, 3, 4])

    def answer(table, start, k, chain):
        if chain == [task.pad]:
            for _ in range(k):
                start = table[start]
            return start if k % 2 == 0 else (start + 1) % 10
        return read_chain(table, start, k, chain)
    results, _ = train_cot.evaluate(WithLogits(task, answer), task, 'mix', RUN, 0, 50)
    assert [results[k]['at_once'] for k in task.hops] == [0, 1, 0, 1]
    assert [results[k]['acc'] for k in task.hops] == [1, 1, 1, 1]


@pytest.mark.parametrize('argv, message', [
    ('--mode mix --hops 1', '--mode mix is for cycle and cvpr'),
    ('--mode mix --task multiply', '--mode mix is for cycle and cvpr'),
    ('--mode mix --batch_size 1', 'an even --batch_size'),
    ('--mode mix --batch_size 6 --grad_accum 2', 'an even --batch_size'),
    ('--tune --task countdown --numbers 2', 'countdown holds out targets'),
    ('--tune --nodes 3 --hops 1', 'too few instances')])
def test_mixtures_and_tuning_that_make_no_sense(argv, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / 'run', *argv.split())
    assert not (tmp_path / 'run').exists()


def test_a_run_that_saw_all_training_instances_is_not_evaluated_on_a_part_of_them(tmp_path):
    train(tmp_path / 'run', *TINY, '--steps', 2, '--mode', 'cot')
    old = tmp_path / 'run' / 'ckpt.pt'
    _, state = checkpoint.load_checkpoint(old)
    del state['args']['tune']  # as before there was such a flag
    (tmp_path / 'older.pt').write_bytes(checkpoint.to_bytes(state))
    for path in (old, tmp_path / 'older.pt'):
        with pytest.raises(ValueError, match='tune'):
            train_cot.main(['--eval_only', '--ckpt', str(path), '--tune'])


def test_what_is_trained_on_was_not_held_out(
        tmp_path, monkeypatch):
    """The tables in the tokens that the model reads when gradients are taken, and when not."""
    seen = {True: [], False: []}
    forward = GPT.forward

    def spy(model, idx, *rest, **options):
        if idx.size(1) >= 8:  # else it decodes token by token
            seen[torch.is_grad_enabled()].append(idx[:, :8])
        return forward(model, idx, *rest, **options)
    monkeypatch.setattr(GPT, 'forward', spy)
    train(tmp_path, *TINY, '--steps', 6)
    for trains, tables in seen.items():
        is_held_out = held_out(torch.cat(tables).numpy())
        assert len(is_held_out) > 100 and (is_held_out != trains).all()


def plain_loss(model, batch, arm):
    """Mean cross-entropy of the chain, or of the answer alone, from the logits of all positions."""
    logits = model(batch.tokens[:, :-1])
    rows = []
    targets = []
    for b in range(len(batch)):
        n_tokens = int(batch.hops[b]) if arm == 'cot' else 1
        for t in range(batch.prompt_len, batch.prompt_len + n_tokens):
            rows.append(logits[b, t - 1])
            targets.append(batch.tokens[b, t])
    return F.cross_entropy(torch.stack(rows), torch.stack(targets))


@pytest.mark.parametrize('extra, grad_accum', [('--seed 3', 1), ('--seed 4 --hops 2-3', 4)])
def test_both_arms_are_trained_as_written_out(
        extra, grad_accum, tmp_path, monkeypatch):
    """From the same weights, on the batches of the steps: the loss, the rate and the norm that are
    logged, and the weights and moments in each checkpoint. The gradient is clipped at every step,
    here to very different shares of itself."""
    saved = Saved(monkeypatch)
    argv = [*TINY, *extra.split(), '--grad_accum', grad_accum, '--steps', 6, '--warmup_iters', 2,
            '--lr', '0.004', '--weight_decay', '0.3', '--grad_clip', '0.05', '--log_interval', 1,
            '--eval_interval', 4]
    train(tmp_path, *argv)
    seed = int(extra.split()[1])
    hops = [2, 3] if '--hops' in extra else [1, 2, 3]
    task = Cycle(nodes=8, hops=hops)
    log = [record for record in read_log(tmp_path) if 'loss' in record]

    for arm, file in (('cot', 'ckpt.pt'), ('direct', 'ckpt_direct.pt')):
        torch.manual_seed(seed)
        model = GPT(GPTConfig(len(task.vocab), task.block_size, n_embd=16))
        optimizer = PlainAdamW(model, decay=0.3, clip=0.05)
        mine = [record for record in log if record['arm'] == arm]
        checkpoints = {step: rest for name, step, *rest in saved.all if name == file}
        assert [record['step'] for record in mine] == [1, 2, 3, 4, 5, 6]
        assert list(checkpoints) == [4, 6]
        for step, record in enumerate(mine):
            batch = sample_batch(task, 16, seed, step, 'train', arm)
            lr = warmup_and_cosine(step, 0.004, 2, 6)
            loss = plain_loss(model, batch, arm)
            norm = optimizer.step(loss, lr)
            assert record['loss'] == pytest.approx(loss.item(), abs=1e-5)
            assert record['lr'] == pytest.approx(lr)
            assert record['grad_norm'] == pytest.approx(norm, abs=1e-5)
            assert norm > 0.1  # so that clipping does something
            if step + 1 in checkpoints:
                checkpoint = (file, step + 1, *checkpoints[step + 1])
                assert is_as_written_out(checkpoint, model, optimizer)


def test_the_model_is_in_training_mode_where_gradients_are_taken_and_nowhere_else(
        tmp_path, monkeypatch):
    modes = watch_modes(monkeypatch, GPT)
    train(tmp_path, *TINY, '--steps', 4, '--eval_interval', 2)
    assert modes == {(True, True), (False, False)}


def test_the_learning_rate_warms_up_then_follows_a_cosine_to_zero():
    args = SimpleNamespace(learning_rate=1.0, warmup_iters=9, max_iters=109)
    rates = [train_cot.get_lr(step, args) for step in range(110)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0
    assert rates[59] == pytest.approx(0.5) and rates[109] == pytest.approx(0)
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_the_logged_loss_is_the_mean_over_loss_tokens(tmp_path):
    train(tmp_path, *TINY, '--steps', 1, '--log_interval', 1, '--mode', 'cot')
    task = Cycle(nodes=8, hops=[1, 2, 3])
    torch.manual_seed(1337)
    model = train_cot.GPT(train_cot.GPTConfig(len(task.vocab), task.block_size, n_embd=16))
    batch = sample_batch(task, 16, 1337, 0)
    logp = model(batch.tokens[:, :-1]).log_softmax(-1)
    total = 0.0
    count = 0
    for b in range(16):
        for t in range(batch.prompt_len, batch.prompt_len + int(batch.hops[b])):
            total -= logp[b, t - 1, batch.tokens[b, t]].item()
            count += 1
    assert losses(tmp_path)[0] == pytest.approx(total / count, abs=1e-5)


def test_grad_accum_does_not_change_the_run(tmp_path):
    for n in (1, 4):
        train(tmp_path / str(n), *TINY, '--steps', 5, '--grad_accum', n, '--mode', 'cot')
    a = weights(tmp_path / '1')
    b = weights(tmp_path / '4')
    assert max((a[name] - b[name]).abs().max() for name in a) < 1e-5


def test_a_run_leaves_config_log_checkpoints_and_plot(tmp_path, figures):
    final = train(tmp_path, *TINY, '--steps', 20)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {'config.json', 'log.jsonl', 'ckpt.pt', 'ckpt_direct.pt', 'plot.png'}

    assert list(final)[:6] == ['task', 'hops', 'mode', 'acc', 'acc_min', 'acc_direct']
    assert final['hops'] == '1-3' and final['n_test'] == '40'
    assert {'chance', 'chain', 'valid', 'entropy', 'follow', 'swap', 'early', 'params', 'steps',
            'seed', 'seconds', 'acc_h1', 'acc_h2', 'acc_h3'} < final.keys()
    assert final['acc'] == final['acc_h3']
    assert float(final['acc_min']) == min(float(final[f'acc_h{k}']) for k in (1, 2, 3))

    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['args']['hops'] == [1, 2, 3] and config['args']['format'] == 'table'
    assert config['params'] == int(final['params'])
    assert config['chance'] == {'1': 1 / 7, '2': 1 / 7, '3': 1 / 7}


def test_eval_only_measures_what_the_run_did(tmp_path):
    final = train(tmp_path, *TINY, '--steps', 20)
    again = train(None, '--eval_only', '--ckpt', tmp_path / 'ckpt.pt')
    direct = train(None, '--eval_only', '--ckpt', tmp_path / 'ckpt_direct.pt')
    assert direct['acc_direct'] == final['acc_direct'] == direct['acc']
    assert 'chain' not in direct
    expected = final | {'mode': 'cot', 'seconds': again['seconds']}
    del expected['acc_direct']
    assert again == expected


@pytest.mark.parametrize('argv', [
    '--task multiply --digits 2', '--task multiply --digits 2 --reverse', '--task star --reverse',
    '--task cvpr --hops 3', '--format pairs --nodes 6 --hops 2 --n_loop 2'])
def test_every_task_trains_for_a_few_steps(argv, tmp_path):
    small = '--n_embd 16 --batch_size 8 --steps 3 --n_test 20'
    final = train(tmp_path, *argv.split(), *small.split())
    assert ('acc_direct' in final) == ('star' not in argv)
    assert ('follow' in final) == ('cvpr' in argv or 'pairs' in argv)


def test_profiles_train_for_a_few_steps(tmp_path):
    argv = ('--task profiles --hops 1-2 --people 20 --mode cot --n_layer 1 --n_head 1 --n_embd 16 '
            '--batch_size 8 --steps 3 --n_test 20')
    final = train(tmp_path, *argv.split())
    assert (final['task'], final['hops'], final['mode']) == ('profiles', '1-2', 'cot')
    assert final['chance'] == f'{Profiles(20).chance(2):.3f}'


# -----------------------------------------------------------------------------
# stopping and resuming

class Cut(Exception):
    pass


def cut_after(n_batches, real):
    """sample_batch, but training ends with an exception after so many batches."""
    n_left = n_batches

    def limited(task, size, seed, step, split='train', *rest, **options):
        nonlocal n_left
        if split == 'train':
            if n_left == 0:
                raise Cut
            n_left -= 1
        return real(task, size, seed, step, split, *rest, **options)

    return limited


CUT = [*TINY, '--steps', 12, '--eval_interval', 5, '--log_interval', 2]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The folder of a run that was never cut off."""
    folder = tmp_path_factory.mktemp('whole')
    train(folder, *CUT)
    return folder


@pytest.mark.parametrize('stops', [[3], [5, 4], [9, 3, 8], [14, 3]])
def test_resume_after_any_stop_is_the_uninterrupted_run(stops, whole, tmp_path, monkeypatch):
    """Cut off before, at and between checkpoints, in either arm. Weights and log are the same."""
    folder = tmp_path / 'cut'
    resume = []
    for n_batches in stops:
        with monkeypatch.context() as patch, pytest.raises(Cut):
            patch.setattr(train_cot, 'sample_batch', cut_after(n_batches, train_cot.sample_batch))
            train(folder, *CUT, *resume)
        resume = ['--resume']
    train(folder, *CUT, '--resume')
    for name in ('ckpt.pt', 'ckpt_direct.pt'):
        assert equal_weights(weights(whole, name), weights(folder, name))
    assert read_log(whole) == read_log(folder)


@pytest.mark.parametrize('extra', [
    '--lr 1e6 --warmup_iters 0 --steps 10', '--lr 1e9 --eval_interval 1 --steps 20',
    '--weight_decay 1e9 --steps 20'])
def test_divergence_ends_in_one_line_and_never_in_a_bad_checkpoint(extra, tmp_path):
    argv = [*TINY, *extra.split(), '--mode', 'cot', '--device', 'cpu', '--out_dir', str(tmp_path)]
    code, _, err = call(train_cot, argv)
    if code != 0:  # such a run may also survive
        assert code == 1 and 'diverged' in err and err.count('\n') == 1
    if (tmp_path / 'ckpt.pt').exists():
        assert all(w.isfinite().all() for w in weights(tmp_path).values())


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_weights(tmp_path, monkeypatch):
    real = train_cot.F.cross_entropy
    n_calls = 0

    def poisoned(*args, **options):
        nonlocal n_calls
        n_calls += 1
        return real(*args, **options) * (float('nan') if n_calls > 7 else 1)

    monkeypatch.setattr(train_cot.F, 'cross_entropy', poisoned)
    with pytest.raises(RunEnded, match='diverged') as error:
        train(tmp_path, *TINY, '--steps', 20, '--eval_interval', 5, '--log_interval', 1,
              '--mode', 'cot')
    assert error.value.exit_code == 1
    assert torch.load(tmp_path / 'ckpt.pt', weights_only=True)['step'] == 5
    assert all(w.isfinite().all() for w in weights(tmp_path).values())


def test_resume_with_another_number_of_processes_is_refused(tmp_path, monkeypatch):
    train(tmp_path, *TINY, '--steps', 2, '--mode', 'cot')
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(ValueError, match='processes=1, not 2'):
        train(tmp_path, *TINY, '--steps', 2, '--mode', 'cot', '--resume')


def test_resume_refuses_a_damaged_second_checkpoint_before_it_changes_anything(tmp_path):
    train(tmp_path, *TINY, '--steps', 2)
    whole = (tmp_path / 'ckpt_direct.pt').read_bytes()
    (tmp_path / 'ckpt_direct.pt').write_bytes(whole[:1000])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match='ckpt_direct.pt is not a checkpoint'):
        train(tmp_path, *TINY, '--steps', 2, '--resume')
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_signal_during_the_last_evaluation_is_not_lost(tmp_path, monkeypatch):
    real = train_cot.evaluate

    def interrupted(*args):
        log = tmp_path / 'log.jsonl'
        if log.exists() and log.read_text().count('loss') == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(train_cot, 'evaluate', interrupted)
    with pytest.raises(RunEnded, match='--resume') as error:
        train(tmp_path, *TINY, '--steps', 20, '--eval_interval', 20, '--mode', 'cot')
    assert error.value.exit_code == 143 and 'stopped by SIGTERM at step' in str(error.value)
    assert torch.load(tmp_path / 'ckpt.pt', weights_only=True)['step'] == 20


# -----------------------------------------------------------------------------
# whole processes

def start(*argv):
    """Start train_cot.py in a process of its own."""
    return subprocess.Popen([sys.executable, 'train_cot.py', *map(str, argv)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@contextlib.contextmanager
def started(*argv):
    """The same process, which ends with the test at the latest."""
    with start(*argv) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize('number', [
    signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_has_its_folder_to_itself_until_a_signal_saves_it(number, tmp_path):
    """The same command at the same time is refused in one line. The run ends with the usual code,
    its log whole."""
    argv = [*TINY, '--steps', 10**6, '--mode', 'cot', '--device', 'cpu', '--out_dir', tmp_path]
    log = tmp_path / 'log.jsonl'
    with started(*argv) as process:
        while not log.exists() or log.read_text().count('loss') < 2:
            time.sleep(0.05)
            assert process.poll() is None, process.communicate()
        code, out, err = call(train_cot, list(map(str, argv)))
        assert (code, err.count('\n')) == (2, 1) and 'is in use by process' in err, (out, err)
        if os.name == 'nt':
            return  # there are no signals for other processes there

        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert '--resume' in err and err.count('\n') == 1
    last_step = torch.load(tmp_path / 'ckpt.pt', weights_only=True)['step']
    assert last_step >= 20
    steps = [record['step'] for record in read_log(tmp_path) if 'loss' in record]
    assert steps == sorted(set(steps)) and steps[-1] <= last_step
    assert not (tmp_path / 'run.lock').exists()


def torchrun(*argv):
    launcher = '-m torch.distributed.run --standalone --nproc_per_node=2'.split()
    return subprocess.run([sys.executable, *launcher, *map(str, argv)], cwd=ROOT, text=True,
                          capture_output=True)


@pytest.mark.parametrize('launch', ['processes', pytest.param('torchrun', marks=pytest.mark.slow)])
def test_two_processes_do_what_one_does_with_twice_the_batch(launch, two_processes, tmp_path):
    argv = ['--hops', '1-4', '--mode', 'cot', '--steps', '50', '--log_interval', '1',
            '--n_test', '50', '--device', 'cpu']
    start_two = torchrun if launch == 'torchrun' else two_processes
    done = start_two('train_cot.py', *argv, '--batch_size', 16, '--grad_accum', 2,
                     '--out_dir', tmp_path / 'two')
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('final ') == 1  # rank 0 alone prints
    assert done.stdout.count('global batch 16 x 2 = 32') == 1

    train(tmp_path / 'one', *argv, '--batch_size', 32)
    one = losses(tmp_path / 'one')
    two = losses(tmp_path / 'two')
    assert len(one) == len(two) == 50
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4
    a = weights(tmp_path / 'one')
    b = weights(tmp_path / 'two')
    assert max((a[name] - b[name]).abs().max() for name in a) < 1e-3


@pytest.mark.slow
def test_three_kills_and_resumes_are_the_uninterrupted_run(tmp_path):
    argv = ('--hops', 4, '--steps', 400, '--eval_interval', 20, '--device', 'cpu', '--out_dir')
    assert start(*argv, tmp_path / 'whole').wait() == 0
    rng = random.Random(0)
    resume = []
    for _ in range(3):
        process = start(*argv, tmp_path / 'killed', *resume)
        time.sleep(rng.uniform(2.5, 6))
        process.kill()
        process.wait()
        resume = ['--resume']
    out, _ = start(*argv, tmp_path / 'killed', '--resume').communicate()
    final_values(out)
    for name in ('ckpt.pt', 'ckpt_direct.pt'):
        assert equal_weights(weights(tmp_path / 'whole', name), weights(tmp_path / 'killed', name))


HEADLINES = [  # rows of the README: command, and the bounds that must hold
    ('--hops 4', dict(acc=(0.99, 1), acc_direct=(0, 0.153), valid=(0.99, 1), follow=(0.95, 1),
                      swap=(0, 0.105), params=(0, 100_000), seconds=(0, 60))),
    ('--nodes 40 --hops 1-5 --mode cot',
     dict(acc_min=(0.995, 1), params=(0, 200_000), seconds=(0, 180))),
    ('--task cvpr --nodes 100 --hops 30 --mode cot',
     dict(acc=(0.99, 1), params=(0, 300_000), seconds=(0, 600))),
    ('--format pairs --nodes 16 --hops 4 --mode cot', dict(acc=(0.99, 1), seconds=(0, 600))),
    ('--task multiply --digits 3 --mode cot', dict(acc=(0.995, 1), seconds=(0, 300))),
    ('--task multiply --digits 4 --mode cot', dict(acc=(0.99, 1), seconds=(0, 600))),
    ('--task star', dict(acc=(0.45, 0.55), seconds=(0, 300))),
    ('--task star --reverse', dict(acc=(0.95, 1), seconds=(0, 300))),
]


@pytest.mark.slow
@pytest.mark.parametrize('argv, bounds', HEADLINES)
def test_headline(argv, bounds, tmp_path):
    out, _ = start(*argv.split(), '--out_dir', tmp_path).communicate()
    final = final_values(out)
    for name, (low, high) in bounds.items():
        assert low <= float(final[name]) <= high, final


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('extra', [[], ['--compile']])
def test_default_run_on_a_gpu(extra, tmp_path):
    out, err = start('--hops', 4, '--device', 'cuda', '--out_dir', tmp_path, *extra).communicate()
    final = final_values(out)
    assert float(final['acc']) > 0.99 and float(final['acc_direct']) < 0.16, err
