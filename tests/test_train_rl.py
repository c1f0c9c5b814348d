"""Rewarding the answer alone: gradients by enumeration, the verifier, training steps written out
chain by chain, resuming, and the headline."""

import contextlib
import itertools
import json
import math
import re
import signal
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import conftest
import numpy as np
import pytest
import torch
from conftest import ROOT, final_values
from plain_training import PlainAdamW, Saved, are_equal, watch_modes

import common
import train_cot
import train_rl
from data import CVPR, STREAMS, Batch, Cycle, Multiply, Star, held_out, sample_batch
from model import GPT, GPTConfig


RUN = SimpleNamespace(device=torch.device('cpu'), autocast=contextlib.nullcontext())
SOURCE = (ROOT / 'train_rl.py').read_text(encoding='utf-8')
TINY = '--nodes 6 --hops 1-2 --n_embd 8 --batch_size 4 --group_size 2 --n_test 10'.split()


def call(module, *argv):
    return conftest.call(module, [*map(str, argv), '--device', 'cpu'])


def run(*argv):
    """train_rl in this process; returns the words of its last line."""
    code, out, err = call(train_rl, *argv)
    assert code == 0, err
    return final_values(out)


def without_seconds(final):
    return {name: value for name, value in final.items() if name != 'seconds'}


def records(folder, arm='rl'):
    return [record for record in common.read_log(folder) if record['arm'] == arm]


def checkpoint(folder):
    return torch.load(Path(folder) / 'ckpt.pt', weights_only=True)


def weights(folder):
    return checkpoint(folder)['model']


def equal(a, b):
    """Are two dicts of tensors equal, bit for bit?"""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def is_refused(result, folder):
    """One line, exit code 2, and nothing written."""
    code, out, err = result
    return (code, out, err.count('\n')) == (2, '', 1) and not folder.exists()


def policy(task, dtype=torch.float32, **options):
    """A GPT whose weights are so large that its distributions are far from uniform."""
    torch.manual_seed(0)
    options = dict(n_embd=16) | options
    model = GPT(GPTConfig(len(task.vocab), task.block_size, **options)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 2:
                p.copy_(torch.randn_like(p) * 0.25)
            else:
                p.copy_(torch.rand_like(p) + 0.5)
    return model


def one_row_a_chain(batch, group_size):
    return batch[torch.arange(len(batch)).repeat_interleave(group_size)]


# -----------------------------------------------------------------------------
# exact gradients on a toy: two tokens of three kinds, so that all chains can be listed

V = 3
CHAINS = list(itertools.product(range(V), repeat=2))

# reward[first token, second token]
ANSWER = torch.tensor([[0, 0, 1]] * V)  # the second token is right
BOTH = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 1, 0]])  # the first token matters, too
GRADED = torch.tensor([[0.25, -1, 3], [0.25, 0.5, 3], [0.25, 0.25, 0]])  # any numbers, some equal


def toy_policy():
    """Log-probabilities of the first token (3,) and of the second given the first (3, 3), and the
    parameters behind them."""
    generator = torch.Generator().manual_seed(1)
    options = dict(generator=generator, dtype=torch.float64, requires_grad=True)
    logits = [torch.randn((V,), **options), torch.randn((V, V), **options)]
    return logits[0].log_softmax(-1), logits[1].log_softmax(-1), logits


def true_gradient(table, k=1):
    """The gradient of the expected best reward of k chains. For k = 1 that is the expected reward,
    for rewards of 0 and 1 it is pass@k."""
    first, second, logits = toy_policy()
    expected = 0
    for chains in itertools.product(CHAINS, repeat=k):
        p = sum(first[a] + second[a, b] for a, b in chains).exp()
        expected = expected + p * max(table[a, b] for a, b in chains)
    return torch.autograd.grad(expected, logits)


def toy_values(chain, fresh, reward, rollouts):
    """train_rl.prefix_values for chains (n, 2), where the rollouts are the tokens `fresh`."""
    n = len(chain)
    tokens = torch.cat((torch.zeros(n, 1, dtype=torch.long), chain), dim=1)
    truth = torch.cat((tokens[:, :2], torch.full((n, 1), 2)), dim=1)
    questions = Batch(
        tokens=truth, loss_mask=truth > 9, answer=torch.full((n, 1), 2),
        hops=torch.full((n,), 2), instance=truth, prompt_len=1)

    def generate(idx, n, temperature, samples, uniform):
        return torch.cat((idx.repeat_interleave(samples, dim=0), uniform), dim=1)
    scripted_model = SimpleNamespace(generate=generate)
    return train_rl.prefix_values(scripted_model, questions, tokens, reward, rollouts,
                                  uniform=lambda n, m: fresh.view(-1, n))


def mean_estimate(table, G, baseline, rollouts=0, **options):
    """The mean of train_rl's estimate of the gradient over everything that can be sampled.

    That is G chains, and from the first token of each chain `rollouts` more second tokens.
    """
    # every outcome, and its probability
    first, second, logits = toy_policy()
    chain = torch.tensor(list(itertools.product(CHAINS, repeat=G)))         # (O, G, 2)
    fresh = list(itertools.product(range(V), repeat=G * rollouts))
    fresh = torch.tensor(fresh, dtype=torch.long).view(len(fresh), G, rollouts)     # (F, G, ...)
    n_outcomes = len(chain)
    chain = chain.repeat_interleave(len(fresh), dim=0)                      # (O * F, G, 2)
    fresh = fresh.repeat(n_outcomes, 1, 1)
    log_p = torch.stack((first[chain[..., 0]], second[chain[..., 0], chain[..., 1]]), dim=-1)
    log_p_fresh = second[chain[..., :1], fresh]
    probability = (log_p.sum((1, 2)) + log_p_fresh.sum((1, 2))).exp().detach()
    assert probability.sum().item() == pytest.approx(1, abs=1e-12)

    # the estimate of each outcome
    reward = table[chain[..., 0], chain[..., 1]].double()                   # (O * F, G)
    value = None
    if rollouts:
        value = toy_values(chain.view(-1, 2), fresh, reward.flatten().float(), rollouts)
        value = value.view(-1, G, 3)
    advantages = train_rl.advantage(reward, baseline, value=value, **options)
    estimate = (advantages * log_p).sum(dim=-1).mean(dim=1)
    return torch.autograd.grad((probability * estimate).sum(), logits)


def are_close(a, b):
    for y in b:
        assert y.abs().max() > 1e-3  # a gradient of zero would prove nothing
    return all(torch.allclose(x, y, atol=1e-10, rtol=0) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize('G', [2, 3])
@pytest.mark.parametrize('table', [ANSWER, BOTH, GRADED])
def test_every_baseline_leaves_the_policy_gradient_exact(table, G):
    for baseline, options in (('none', {}), ('ema', {'mean': 0.37}), ('ema', {'mean': -2.0}),
                              ('loo', {})):
        estimate = mean_estimate(table, G, baseline, **options)
        assert are_close(estimate, true_gradient(table)), baseline


@pytest.mark.parametrize('table', [ANSWER, BOTH, GRADED])
@pytest.mark.parametrize('G, rollouts', [(2, 1), (3, 1), (2, 2)])
def test_step_advantages_from_fresh_rollouts_leave_the_policy_gradient_exact(
        table, G, rollouts, monkeypatch):
    if table is not ANSWER:
        monkeypatch.setattr(train_rl, 'reward',
                            lambda batch, chain: table[chain[:, 0], chain[:, 1]].float())
    assert are_close(mean_estimate(table, G, 'prefix', rollouts), true_gradient(table))


@pytest.mark.parametrize('G', [2, 3])
@pytest.mark.parametrize('table', [ANSWER, BOTH, GRADED])
def test_passk_ascends_pass_at_k_with_and_without_its_baseline(table, G):
    """At k = G with loo, POPPY's weights, it is the same gradient as plain PKPO."""
    for k in range(1, G + 1):
        for baseline in ('none', 'loo'):
            estimate = mean_estimate(table, G, baseline, objective='passk', k=k)
            assert are_close(estimate, true_gradient(table, k)), (k, baseline)
    assert not are_close(true_gradient(table, 1), true_gradient(table, 2))


def test_at_k_equal_to_the_group_only_the_best_chain_gets_its_lead_over_the_second():
    """POPPY: the best chain gets k times its lead, all others nothing."""
    for rewards in itertools.product((0.0, 1.0, -2.5), repeat=4):
        second, best = sorted(rewards)[-2:]
        expected = [4 * (best - second) * (r == best) for r in rewards]
        advantages = train_rl.advantage(torch.tensor([rewards]), 'loo', 'passk', 4)
        assert advantages.shape == (1, 4, 1)
        assert advantages.flatten().tolist() == expected, rewards


def test_pass_at_k_counts_the_draws_that_miss():
    for n in range(1, 9):
        for k in range(n + 1):
            estimate = common.pass_at_k(n, torch.arange(n + 1).double(), k)
            expected = [1 - math.comb(n - c, k) / math.comb(n, k) for c in range(n + 1)]
            assert estimate.tolist() == pytest.approx(expected, abs=1e-12), (n, k)
        with pytest.raises(ValueError, match='chains, not'):
            common.pass_at_k(n, torch.arange(n + 1).double(), n + 1)


# -----------------------------------------------------------------------------
# log-probabilities of what was sampled

MIXED = Cycle(nodes=6, hops=(1, 2, 3))


def sample(task, model, P=5, G=3, temperature=1.0, seed=0):
    """As train() does: a batch with a row a chain, the tokens, and the log-probabilities of the
    sampled ones."""
    questions = sample_batch(task, P, 0, seed)
    prompt = questions.tokens[:, :questions.prompt_len]
    n_tokens = questions.tokens.size(1) - questions.prompt_len
    generator = torch.Generator().manual_seed(seed)
    tokens, log_p = model.generate(prompt, n_tokens, temperature, generator=generator, samples=G,
                                   return_logp=True)
    return one_row_a_chain(questions, G), tokens, log_p


@pytest.mark.parametrize('objective, k, truth', [
    ('mean', None, 0.0), ('mean', None, 1.0), ('mean', None, 0.1), ('passk', 4, 0.0),
    ('passk', 4, 1.0), ('passk', 2, 1.0), ('passk', 2, 0.1)])
def test_equal_rewards_give_no_gradient_at_all(objective, k, truth):
    """With a leave-one-out baseline. Exactly zero: AdamW would turn any rounding into a step."""
    model = policy(MIXED)
    G = 4
    batch, tokens, _ = sample(MIXED, model, G=G)
    log_p, _ = train_rl.log_probs(model, tokens, batch.loss_mask, shared=(batch.prompt_len, G))
    equal_rewards = torch.full((5, G), truth)
    mixed_rewards = torch.tensor([[1.0, 0, 0, 0]] * 5)
    for reward, is_zero in ((equal_rewards, True), (mixed_rewards, False)):
        advantages = train_rl.advantage(reward, 'loo', objective, k)
        advantages = advantages.expand(-1, -1, 3).flatten(0, 1)
        advantages = advantages[batch.loss_mask[:, batch.prompt_len:]]
        loss = -(advantages * log_p).sum() / len(tokens)
        gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        assert all((g == 0).all() for g in gradients) == is_zero


@pytest.mark.parametrize('argv', ['', '--objective passk --k 2'])
def test_a_run_whose_rewards_are_all_equal_never_moves(argv, tmp_path, monkeypatch):
    monkeypatch.setattr(train_rl, 'correct',
                        lambda batch, chain: torch.ones(len(chain), dtype=torch.bool))
    run(*TINY, '--steps', 4, '--log_interval', 2, '--entropy', 0, '--weight_decay', 0,
        *argv.split(), '--out_dir', tmp_path)
    torch.manual_seed(1337)
    assert equal(weights(tmp_path), GPT(GPTConfig(9, 10, n_embd=8)).state_dict())
    for record in records(tmp_path)[1:]:
        assert (record['grad_norm'], record['zero_variance'], record['reward']) == (0, 1, 1)


@pytest.mark.parametrize('G', [None, 3])
def test_nothing_after_the_answer_counts(G):
    model = policy(MIXED, torch.float64)
    batch, tokens, _ = sample(MIXED, model, G=G or 3)
    P = batch.prompt_len
    hops = batch.hops.tolist()
    assert set(hops) == {1, 2, 3}
    for row, k in zip(batch.loss_mask, hops, strict=True):
        assert row.nonzero()[:, 0].tolist() == list(range(P, P + k))

    def outputs(tokens):
        shared = (P, G) if G else None
        log_p, entropy = train_rl.log_probs(model, tokens, batch.loss_mask, 0.7, shared=shared)
        advantages = torch.linspace(-1, 2, len(log_p))
        loss = -(advantages * log_p + 0.1 * entropy).sum()
        return [log_p, entropy, *torch.autograd.grad(loss, list(model.parameters()))]

    before = outputs(tokens)
    behind_changed = tokens.clone()
    answer_changed = tokens.clone()
    for row, k in enumerate(hops):
        behind_changed[row, P + k:] = (behind_changed[row, P + k:] + 1) % MIXED.pad
        answer_changed[row, P + k - 1] = (answer_changed[row, P + k - 1] + 1) % MIXED.pad
    assert (behind_changed != tokens).any()
    for a, b in zip(before, outputs(behind_changed), strict=True):
        assert (a - b).abs().max() < 1e-12

    # the control: the answer itself does count
    for a, b in zip(before[::2], outputs(answer_changed)[::2], strict=True):
        assert (a - b).abs().max() > 1e-3


@pytest.mark.parametrize('temperature', [1.0, 0.7])
@pytest.mark.parametrize('format', ['table', 'pairs'])
@pytest.mark.parametrize('pos', ['learned', 'rope', 'none'])
def test_log_probs_are_those_the_chains_were_sampled_with(pos, format, temperature):
    task = Cycle(nodes=6, hops=(1, 2, 3), format=format)
    model = policy(task, pos=pos, n_layer=2)
    batch, tokens, log_p_sampled = sample(task, model, temperature=temperature)
    P = batch.prompt_len
    mask = batch.loss_mask
    probabilities = (model(tokens[:, :-1])[mask[:, 1:]] / temperature).softmax(-1)
    entropies = []
    for row in probabilities.tolist():
        entropies.append(-sum(p * math.log(p) for p in row))
    expected = torch.tensor(entropies)
    assert expected.std() > 0.05  # they differ from place to place
    for shared in (None, (P, 3)):
        log_p, entropy = train_rl.log_probs(model, tokens, mask, temperature, shared)
        assert torch.allclose(log_p, log_p_sampled[mask[:, P:]], atol=1e-5)
        assert torch.allclose(entropy, expected, atol=1e-5)


# -----------------------------------------------------------------------------
# the verifier, and the value of a prefix

VERIFIED = [
    Cycle(nodes=6, hops=(1, 2, 3)),
    Cycle(nodes=6, hops=(1, 2, 3), format='pairs'),
    CVPR(nodes=7, hops=(1, 2, 3, 4)),
]


@pytest.mark.parametrize('task', VERIFIED)
def test_correct_looks_at_the_answer_and_at_nothing_else(task):
    batch = sample_batch(task, 80, 0, 0)
    P = batch.prompt_len
    row = torch.arange(80)
    chains = [task.oracle(tokens[:P]) for tokens in batch.tokens.tolist()]
    place = torch.tensor([len(chain) - 1 for chain in chains])
    answer = torch.tensor([chain[-1] for chain in chains])
    assert set((place + 1).tolist()) == set(task.hops)
    assert train_rl.correct(batch, batch.tokens[:, P:]).all()

    for token in range(len(task.vocab)):
        generator = torch.Generator().manual_seed(token)
        noise = torch.randint(len(task.vocab), batch.tokens[:, P:].shape, generator=generator)
        noise[row, place] = token
        assert torch.equal(train_rl.correct(batch, noise), answer == token), token
        chain = batch.tokens[:, P:].clone()
        chain[row, place] = token
        assert torch.equal(train_rl.correct(batch, chain), answer == token), token


@pytest.mark.parametrize('task', VERIFIED)
def test_validity_flags_every_wrong_token_where_it_stands(task):
    for k in task.hops:
        batch = sample_batch(task, 20, 0, 0, hops=k)
        chain = batch.tokens[:, batch.prompt_len:]
        assert chain.shape == (20, k) and task.valid(batch, chain).all()
        for t, token in itertools.product(range(k), range(len(task.vocab))):
            changed = chain.clone()
            changed[:, t] = token
            valid = task.valid(batch, changed)
            assert torch.equal(valid[:, t], chain[:, t] == token)
            assert valid[:, :t].all() and valid[:, t + 2:].all()


def test_values_of_a_greedy_policy_are_the_rewards_of_its_continuations():
    task = Cycle(nodes=5, hops=(1, 2, 3))
    model = policy(task)
    batch, tokens, _ = sample(task, model, P=30, G=4)
    P = batch.prompt_len
    reward = train_rl.correct(batch, tokens[:, P:]).float()
    value = train_rl.prefix_values(model, batch, tokens, reward, 2, temperature=1e-4)

    expected = torch.empty(len(tokens), 4)
    for row, k in enumerate(batch.hops.tolist()):
        answer = task.oracle(tokens[row, :P].tolist())[-1]
        for i in range(4):
            n_given = i if 0 < i < k else k
            x = tokens[row:row + 1, :P + n_given]
            while x.size(1) < P + k:
                x = torch.cat((x, model(x)[:, -1:].argmax(-1)), dim=1)
            expected[row, i] = x[0, -1] == answer
    assert torch.equal(value, expected) and torch.equal(value[:, 3], reward)

    # some continuations end better than their chain did, some worse
    assert (expected[:, 1:] > expected[:, 3:]).any() and (expected[:, 1:] < expected[:, 3:]).any()


def test_the_value_of_a_prefix_is_the_chance_that_it_ends_well():
    """Of the first one and two tokens of a 3-hop chain, against all continuations, each with its
    probability. Within 4 standard errors."""
    task = Cycle(nodes=4, hops=(3,))
    rollouts = 4000
    temperature = 0.8
    model = policy(task)
    batch, tokens, _ = sample(task, model, P=3, G=2, temperature=temperature)
    P = batch.prompt_len
    generator = torch.Generator().manual_seed(5)
    value = train_rl.prefix_values(
        model, batch, tokens, torch.zeros(6), rollouts, temperature,
        lambda n, m: torch.rand(6 * m, n, generator=generator))

    for row, i in itertools.product(range(6), (1, 2)):
        ends = torch.tensor(list(itertools.product(range(len(task.vocab)), repeat=3 - i)))
        x = torch.cat((tokens[row, :P + i].expand(len(ends), -1), ends), dim=1)
        log_p = (model(x[:, :-1]) / temperature).log_softmax(-1)
        log_p = log_p.gather(2, x[:, 1:, None])[:, P + i - 1:, 0].sum(dim=1)
        answer = task.oracle(tokens[row, :P].tolist())[-1]
        p = log_p.exp()[ends[:, -1] == answer].sum().item()
        standard_error = math.sqrt(p * (1 - p) / rollouts)
        assert 0.001 < p < 0.9
        assert abs(value[row, i].item() - p) < 4 * standard_error, (row, i)


# -----------------------------------------------------------------------------
# chains of free length

def test_a_chain_ends_at_its_stop_token_and_its_answer_stands_before():
    task = Cycle(nodes=6, hops=(1, 2))
    batch = sample_batch(task, 6, 0, 0, hops=2)
    P = batch.prompt_len
    a = batch.tokens[:, P + 1].tolist()  # the true answers
    stop = task.pad
    other = [(x + 1) % 6 for x in a]
    chain = torch.tensor([
        [other[0], a[0], stop, stop],       # right
        [a[1], stop, other[1], stop],       # right, in one step
        [a[2], other[2], stop, a[2]],       # wrong: the answer is the token before the stop
        [a[3], a[3], a[3], a[3]],           # never stops
        [stop, a[4], stop, a[4]],           # no answer
        [other[5], other[5], a[5], stop],   # right, at the last moment
    ])
    before = batch.tokens.clone()
    ended = train_rl.end_at_stop(batch, chain, stop)
    assert train_rl.correct(ended, chain).tolist() == [True, True, False, False, False, True]
    assert train_rl.reward(ended, chain).tolist() == [1, 1, 0, 0, 0, 1]
    assert ended.loss_mask.shape == (6, P + 4) and not ended.loss_mask[:, :P].any()
    assert ended.loss_mask[:, P:].int().tolist() == [
        [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert torch.equal(ended.tokens[:, :P], before[:, :P])
    assert torch.equal(batch.tokens, before)  # the questions themselves are as they were


def test_groups_without_a_lead_are_left_out_unless_there_is_an_entropy_bonus():
    advantages = torch.tensor([[0.0, 0.0], [0.5, -0.5], [0.0, 0.0], [0.0, 1.0]])[:, :, None]
    assert train_rl.groups_to_train(advantages, 0.0).tolist() == [1, 3]
    assert train_rl.groups_to_train(advantages, 0.1).tolist() == [0, 1, 2, 3]
    assert train_rl.groups_to_train(0 * advantages, 0.0).tolist() == []


def test_a_step_with_free_length_is_reinforce_written_out(tmp_path, monkeypatch):
    """Every chain up to its stop token, with the cost of its length."""
    spy = Spy(monkeypatch)
    argv = ('--nodes 4 --hops 1-2 --n_embd 8 --n_test 10 --entropy 0.1 --steps 2 --log_interval 1 '
            '--batch_size 32 --group_size 4 --free_length 5 --length_cost 0.05')
    run(*argv.split(), '--out_dir', tmp_path)
    torch.manual_seed(1337)
    model = GPT(GPTConfig(7, 4 + 2 + 5, n_embd=8))
    stop = 6
    questions = sample_batch(Cycle(4, (1, 2)), 32, 1337, 0)
    tokens = spy.chains[0].view(32, 4, -1).tolist()
    loss = 0.0
    n_tokens = 0
    are_right = []
    all_rewards = []
    for q in range(32):
        k = int(questions.hops[q])
        truth = questions.tokens[q, 6 + k - 1].item()
        ends = []
        rewards = []
        for row in tokens[q]:
            chain = row[6:]
            end = chain.index(stop) + 1 if stop in chain else 5
            is_right = stop in chain and end > 1 and chain[end - 2] == truth
            ends.append(end)
            are_right.append(is_right)
            rewards.append(is_right - 0.05 * end)
        all_rewards += rewards
        n_tokens += sum(ends)
        for row, end, r in zip(tokens[q], ends, rewards, strict=True):
            advantage = r - (sum(rewards) - r) / 3
            logits = model(torch.tensor([row[:-1]]))[0]
            for t in range(end):
                p = logits[6 + t - 1].softmax(-1)
                entropy = -(p * p.log()).sum()
                loss = loss - (advantage * p[row[6 + t]].log() + 0.1 * entropy) / 128
    assert 0 < sum(are_right) < 128 and 128 * 1.5 < n_tokens < 128 * 5

    record = records(tmp_path)[1]
    assert (record['samples'], record['tokens']) == (128, n_tokens)
    assert record['correct'] == sum(are_right) / 128
    assert record['reward'] == pytest.approx(sum(all_rewards) / 128, abs=1e-6)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    for a, b in zip(spy.gradients[0], gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_lengths_are_counted_up_to_the_stop_token():
    """A model that writes the true chain, but loses its way and its stop token by a script."""
    task = Cycle(nodes=6, hops=(1, 2))
    stop = task.pad

    def generate(prompt, n):
        rows = []
        for i, row in enumerate(prompt.tolist()):
            chain = task.oracle(row)
            end = {0: [stop], 1: [chain[-1]] * n, 2: [stop, stop, 3], 3: [0, stop]}[i % 4]
            if i % 4 == 2:
                chain = []
            rows.append(row + (chain + end + [0] * n)[:n])
        return torch.tensor(rows)
    model = SimpleNamespace(generate=generate)
    results, examples = train_rl.evaluate(model, task, RUN, 0, 800, free_length=5)
    for k in (1, 2):
        lengths = [0] * 5
        lengths[0] = lengths[k] = lengths[k + 1] = 200
        assert results[k]['lengths'] == lengths
        assert results[k]['stopped'] == 0.75
        assert results[k]['length'] == pytest.approx((2 * k + 1) / 3)
        assert 0.25 < results[k]['acc'] < 0.4  # all right without a 0 before the stop, some with it
    assert f'length {5 / 3:.2f} stopped 0.750' in train_rl.summary(results, task)
    assert len(examples) == 2


def test_a_run_with_free_length_reports_its_lengths(tmp_path, figures):
    argv = [*TINY, '--free_length', 4, '--length_cost', '0.02', '--steps', 4, '--log_interval', 2]
    final = run(*argv, '--out_dir', tmp_path)
    assert {'length', 'stopped', 'length_h1', 'length_h2'} < final.keys()
    assert 'lengths' not in final and final['length'] == final['length_h2']
    for record in records(tmp_path):
        for measures in record['eval'].values():
            assert len(measures['lengths']) == 4
            assert sum(measures['lengths']) == round(measures['stopped'] * 2)
    again = run('--eval_only', '--ckpt', tmp_path / 'ckpt.pt')
    assert without_seconds(again) == without_seconds(final)
    one_hop = run('--eval_only', '--ckpt', tmp_path / 'ckpt.pt', '--hops', 1)
    assert one_hop['length'] == final['length_h1'] and one_hop['acc'] == final['acc_h1']


# -----------------------------------------------------------------------------
# training

class Spy:
    """Records the questions, chains and rewards of train(), and the weights and the unclipped
    gradient of every step."""

    def __init__(self, monkeypatch):
        self.questions = []     # a batch a step
        self.chains = []        # the sampled tokens of each step
        self.are_right = []     # what `correct` returned for them
        self.values = []        # what prefix_values returned
        self.uniform = []       # every tensor of random numbers
        self.temperatures = []
        self.weights = []       # before each step
        self.gradients = []     # of each step, before clipping
        self.spy_on_questions(monkeypatch)
        self.spy_on_chains(monkeypatch)
        self.spy_on_gradients(monkeypatch)

    def spy_on_questions(self, monkeypatch):
        def spy(task, size, seed, step, split='train', *rest, **options):
            batch = sample_batch(task, size, seed, step, split, *rest, **options)
            if split == 'train':
                self.questions.append(batch)
            return batch
        monkeypatch.setattr(train_rl, 'sample_batch', spy)

    def spy_on_chains(self, monkeypatch):
        generate = GPT.generate
        correct = train_rl.correct
        prefix_values = train_rl.prefix_values

        def spy_generate(model, idx, n, temperature=0.0, *rest, **options):
            tokens = generate(model, idx, n, temperature, *rest, **options)
            if temperature:
                self.uniform.append(options['uniform'])
                self.temperatures.append(temperature)
                if len(self.chains) < len(self.questions):  # the first of a step is no rollout
                    self.chains.append(tokens)
            return tokens

        def spy_correct(batch, chain):
            is_right = correct(batch, chain)
            if len(self.are_right) < len(self.chains):
                self.are_right.append(is_right)
            return is_right

        def spy_values(*args):
            self.values.append(prefix_values(*args))
            return self.values[-1]
        monkeypatch.setattr(GPT, 'generate', spy_generate)
        monkeypatch.setattr(train_rl, 'correct', spy_correct)
        monkeypatch.setattr(train_rl, 'prefix_values', spy_values)

    def spy_on_gradients(self, monkeypatch):
        clip = torch.nn.utils.clip_grad_norm_

        def spy(parameters, bound):
            parameters = list(parameters)
            self.weights.append([p.detach().clone() for p in parameters])
            self.gradients.append([p.grad.clone() for p in parameters])
            return clip(parameters, bound)
        monkeypatch.setattr(torch.nn.utils, 'clip_grad_norm_', spy)


class WrittenOut:
    """The algorithm once more, chain by chain and token by token, with plain loops."""

    def __init__(self, args, task, model, bonus=0.0):
        self.args = args
        self.task = task
        self.model = model
        self.bonus = bonus  # for a chain that begins with a node
        self.mean = 0.0     # running mean of the rewards
        self.n_steps = 0
        self.samples = 0
        self.tokens = 0

    def advantages(self, rewards, g, k, values):
        """Of the k tokens of chain g, in a group with these rewards."""
        args = self.args
        G = len(rewards)
        others = sum(rewards) - rewards[g]
        if args.objective == 'passk':
            # the best of this chain and k - 1 others, over all choices of them
            choices = list(itertools.combinations(rewards[:g] + rewards[g + 1:], args.k - 1))
            a = sum(max(rewards[g], *choice) for choice in choices) / len(choices)
            if args.baseline == 'loo':
                a -= sum(map(max, choices)) / len(choices)
            return [args.k * a] * k
        if args.baseline == 'prefix':
            v = [others / (G - 1), *values[1:k].tolist(), rewards[g]]
            return [v[t + 1] - v[t] for t in range(k)]
        baseline = {'none': 0, 'ema': self.mean, 'loo': others / (G - 1)}[args.baseline]
        return [rewards[g] - baseline] * k

    def step(self, questions, tokens, values):
        """Returns the loss, and what is logged."""
        args = self.args
        P = args.batch_size
        G = args.group_size
        S = questions.prompt_len
        loss = 0.0
        entropies = []
        groups = []     # the rewards of each question
        are_right = []  # and whether its chains are right
        for q in range(P):
            prompt = questions.tokens[q, :S].tolist()
            truth = self.task.oracle(prompt)
            k = len(truth)
            chains = tokens[q * G:(q + 1) * G, S:].tolist()
            are_right.append([chain[k - 1] == truth[-1] for chain in chains])
            rewards = [is_right + self.bonus * (chain[0] < args.nodes)
                       for is_right, chain in zip(are_right[-1], chains, strict=True)]
            groups.append(rewards)
            of_group = []
            for g in range(G):
                row_values = values[q * G + g] if values is not None else None
                of_group.append(self.advantages(rewards, g, k, row_values))
            is_trained = args.entropy > 0 or any(map(any, of_group))  # does it have a gradient?
            for g, advantages in enumerate(of_group):
                row = tokens[q * G + g]
                assert row[:S].tolist() == prompt
                logits = self.model(row[None, :-1])[0] / args.temperature
                for t in range(k):
                    p = logits[S + t - 1].softmax(-1)
                    entropy = -(p * p.log()).sum()
                    gain = advantages[t] * p[row[S + t]].log() + args.entropy * entropy
                    loss = loss - gain / (P * G)
                    if is_trained:
                        entropies.append(entropy.item())
                self.count(k)

        reward = sum(map(sum, groups)) / (P * G)
        if self.n_steps == 0:
            self.mean = reward
        else:
            self.mean = 0.95 * self.mean + 0.05 * reward
        self.n_steps += 1
        return loss, are_right, dict(
            reward=reward,
            mean=self.mean,
            correct=sum(map(sum, are_right)) / (P * G),
            entropy=sum(entropies) / len(entropies),
            zero_variance=sum(len(set(group)) == 1 for group in are_right) / P,
            pass_at_group=sum(map(any, are_right)) / P)

    def count(self, k):
        self.samples += 1
        self.tokens += k
        if self.args.baseline == 'prefix':
            for i in range(1, k):
                self.samples += self.args.rollouts
                self.tokens += self.args.rollouts * (k - i)


def make_optimizer(model):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    gains = [p for p in model.parameters() if p.dim() != 2]
    return torch.optim.AdamW([{'params': matrices, 'weight_decay': 0.01},
                              {'params': gains, 'weight_decay': 0}], betas=(0.9, 0.95))


def take_step(model, optimizer, gradients, norm, step):
    """AdamW with the gradient clipped to 0.2, and warm-up over two steps."""
    for p, g in zip(model.parameters(), gradients, strict=True):
        p.grad = g * min(1, 0.2 / norm)
    for group in optimizer.param_groups:
        group['lr'] = 1e-3 * (step + 1) / 3
    optimizer.step()


@pytest.mark.parametrize('bonus', [0.0, 0.25])
@pytest.mark.parametrize('argv', [
    '--baseline none', '--baseline loo --temperature 0.7 --pos rope', '--baseline ema',
    '--objective passk --k 2', '--baseline prefix --rollouts 2 --temperature 0.7',
    '--objective passk --baseline none', '--entropy 0', '--entropy 0 --baseline none',
    '--entropy 0 --baseline ema', '--entropy 0 --baseline prefix --rollouts 2',
    '--entropy 0 --objective passk --baseline none'])
def test_training_is_reinforce_written_out(argv, bonus, tmp_path, monkeypatch):
    """Three steps: the gradient, the clipped and warmed-up AdamW step, and all that is logged.

    With a bonus in the reward, what counts right answers still does so.
    """
    spy = Spy(monkeypatch)
    if bonus:
        monkeypatch.setattr(train_rl, 'reward', lambda batch, chain: (
            train_rl.correct(batch, chain) + bonus * (chain[:, 0] < 4)))
    argv = ('--nodes 4 --hops 1-3 --n_embd 8 --n_test 10 --entropy 0.1 --grad_clip 0.2 '
            '--warmup_iters 2 --steps 3 --log_interval 1 --batch_size 16 --group_size 3 ' + argv)
    run(*argv.split(), '--out_dir', tmp_path)
    args = train_rl.parse_args(argv.split())
    task, _, _ = train_rl.fill_in(args)
    torch.manual_seed(1337)
    model = GPT(GPTConfig(8, 9, n_embd=8, pos=args.pos))
    optimizer = make_optimizer(model)
    written_out = WrittenOut(args, task, model, bonus)

    log = records(tmp_path)
    assert [record['step'] for record in log] == [0, 1, 2, 3]
    assert log[0]['samples'] == log[0]['tokens'] == 0
    for step in range(3):
        for p, w in zip(model.parameters(), spy.weights[step], strict=True):
            assert torch.allclose(p, w, atol=1e-6)
        own_questions = sample_batch(task, 16, 1337, step)
        assert torch.equal(spy.questions[step].tokens, own_questions.tokens)
        values = spy.values[step] if spy.values else None
        loss, are_right, expected = written_out.step(spy.questions[step], spy.chains[step], values)
        assert 0 < expected['correct'] < 1
        assert spy.are_right[step].view(16, 3).tolist() == are_right

        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for a, b in zip(spy.gradients[step], gradients, strict=True):
            assert torch.allclose(a, b, atol=1e-5)
        norm = sum(g.square().sum() for g in gradients).sqrt().item()
        # the script's own gradients, since AdamW's first step makes much of a rounding
        take_step(model, optimizer, spy.gradients[step], norm, step)

        record = log[step + 1]
        expected['grad_norm'] = norm
        assert {name: record[name] for name in expected} == pytest.approx(expected, abs=1e-5)
        counts = (record['samples'], record['tokens'], record['stage'])
        assert counts == (written_out.samples, written_out.tokens, 3)
        assert list(record['eval']) == ['1', '2', '3']
        assert all(measures.keys() == {'acc', 'valid'} for measures in record['eval'].values())
        assert len(record['examples']) == 3
        assert all('true: ' in line for line in record['examples'])

    for name, w in weights(tmp_path).items():
        assert torch.allclose(w, model.state_dict()[name], atol=1e-6)

    # every chain that was sampled is counted, with fresh random numbers at every step
    assert sum(map(len, spy.uniform)) == written_out.samples
    assert set(spy.temperatures) == {args.temperature}
    numbers = torch.cat([u.flatten() for u in spy.uniform])
    assert len(numbers.unique()) > 0.99 * len(numbers)
    assert abs(numbers.mean() - 0.5) < 4 * (12 * len(numbers)) ** -0.5


@pytest.mark.parametrize('flag, splits', [('', ['train', 'test']),
                                          ('--tune', ['fit', 'validation'])])
def test_training_draws_the_questions_of_each_step_and_all_else_is_held_out(
        flag, splits, tmp_path, monkeypatch):
    """Every call of sample_batch in a run with a curriculum, two parts of a test, and longer
    chains."""
    drawn = {split: [] for split in STREAMS}

    def spy(task, size, seed, step, split='train', mode='cot', hops=None):
        drawn[split].append((seed, step, size, hops))
        return sample_batch(task, size, seed, step, split, mode, hops)
    monkeypatch.setattr(train_rl, 'sample_batch', spy)
    final = run(*TINY, '--steps', 4, '--log_interval', 2, '--seed', 5, '--n_test', 520,
                '--test_hops', 3, '--curriculum', '--out_dir', tmp_path, *flag.split())
    train_split, test_split = splits
    assert drawn.pop(train_split) == [(5, step, 4, [1]) for step in range(4)]
    expected = Counter()
    for k in (1, 2):
        expected[5, k * 10**6, 130, k] = 3          # at step 0, 2 and 4: a quarter
    for k in (1, 2, 3):                             # at the end: all, in two parts
        expected[5, k * 10**6, 500, k] = 1
        expected[5, k * 10**6 + 500, 20, k] = 1
    expected[5, 0, 1, None] = 1                     # are there any?
    assert Counter(drawn.pop(test_split)) == expected
    assert not any(drawn.values())
    assert final['n_test'] == '520'


@pytest.mark.parametrize('share', [0, 0.02, 0.3, 1])
def test_the_share_of_one_hop_questions_is_that_of_the_flag(share, tmp_path, monkeypatch):
    """Of 20,000 training questions. The other hop counts are equally frequent."""
    counts = Counter()

    def spy(task, size, seed, step, split='train', mode='cot', hops=None):
        batch = sample_batch(task, size, seed, step, split, mode, hops)
        if split == 'train':
            more = sample_batch(task, 10_000, seed, step, split, mode, hops)
            counts.update(more.hops.tolist())
        return batch
    monkeypatch.setattr(train_rl, 'sample_batch', spy)
    run(*TINY, '--nodes', 8, '--hops', '1-4', '--steps', 2, '--log_interval', 2,
        '--one_hop', share, '--out_dir', tmp_path)
    assert counts.total() == 20_000
    for hops in (1, 2, 3, 4):
        expected = share if hops == 1 else (1 - share) / 3
        deviation = (expected * (1 - expected) / 20_000) ** 0.5
        assert abs(counts[hops] / 20_000 - expected) <= 4 * deviation + 0.001


def test_what_is_trained_on_was_not_held_out_and_what_is_tested_was(tmp_path, monkeypatch):
    """The tables in the prompts: chains are sampled for training, and greedy ones are a test."""
    seen = {True: [], False: []}
    generate = GPT.generate

    def spy(model, idx, n, temperature=0.0, *rest, **options):
        seen[temperature > 0].append(idx[:, :6])
        return generate(model, idx, n, temperature, *rest, **options)
    monkeypatch.setattr(GPT, 'generate', spy)
    run(*TINY, '--steps', 20, '--log_interval', 10, '--test_hops', 3, '--out_dir', tmp_path)
    for trains, tables in seen.items():
        is_held_out = held_out(torch.cat(tables).numpy())
        assert len(is_held_out) > 20 and (is_held_out != trains).all()


def test_a_model_that_knows_the_held_out_tables_alone_is_always_right():
    task = Cycle(nodes=10, hops=[1, 2])

    def generate(prompt, n):
        rows = []
        for row in prompt.tolist():
            if not held_out(np.array([row[:10]]))[0]:
                return torch.cat((prompt, prompt[:, -1:].expand(-1, n)), dim=1)
            rows.append(row + task.oracle(row))
        return torch.tensor(rows)
    results, _ = train_rl.evaluate(SimpleNamespace(generate=generate), task, RUN, 0, 40)
    assert results == {1: dict(acc=1, valid=1), 2: dict(acc=1, valid=1)}


def test_the_policy_is_in_training_mode_where_gradients_are_taken_and_nowhere_else(
        tmp_path, monkeypatch):
    modes = watch_modes(monkeypatch, GPT)
    run(*TINY, '--steps', 4, '--log_interval', 2, '--baseline', 'prefix', '--out_dir', tmp_path)
    assert modes == {(True, True), (False, False)}


def test_checkpoints_hold_the_weights_of_their_step_and_decay_is_that_of_the_flag(
        tmp_path, monkeypatch):
    """With rewards that are all equal and no bonus, decay alone moves the weights."""
    saved = Saved(monkeypatch)
    monkeypatch.setattr(train_rl, 'correct',
                        lambda batch, chain: torch.ones(len(chain), dtype=torch.bool))
    run(*TINY, '--steps', 5, '--log_interval', 2, '--entropy', 0, '--weight_decay', 40, '--lr',
        0.003, '--warmup_iters', 3, '--seed', 6, '--out_dir', tmp_path)
    torch.manual_seed(6)
    model = GPT(GPTConfig(9, 10, n_embd=8))
    optimizer = PlainAdamW(model, decay=40)
    assert [(name, step) for name, step, *_ in saved.all] == [
        ('ckpt.pt', 2), ('ckpt.pt', 4), ('ckpt.pt', 5)]
    for step in range(5):
        no_loss = sum(p.sum() for p in model.parameters()) * 0
        optimizer.step(no_loss, 0.003 * min(1, (step + 1) / 4))
        for _, saved_step, weights_then, *_ in saved.all:
            if saved_step == step + 1:
                assert are_equal(weights_then, model.parameters(), 1e-6)


def test_the_learning_rate_rises_linearly_and_then_stays():
    args = SimpleNamespace(learning_rate=0.8, warmup_iters=3)
    rates = [train_rl.get_lr(step, args) for step in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_a_run_leaves_config_log_checkpoint_and_plot(tmp_path, figures):
    final = run(*TINY, '--steps', 6, '--log_interval', 3, '--out_dir', tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {'config.json', 'log.jsonl', 'ckpt.pt', 'plot.png'}
    assert list(final)[:6] == ['task', 'hops', 'baseline', 'objective', 'acc', 'valid']
    assert {'reward', 'samples', 'tokens', 'chance', 'params', 'acc_min', 'acc_h1', 'acc_h2',
            'steps', 'seed', 'seconds'} < final.keys()
    assert final['hops'] == '1-2' and final['n_test'] == '10'
    assert final['acc'] == final['acc_h2'] and float(final['chance']) == 0.2
    assert int(final['samples']) == 6 * 4 * 2
    again = run('--eval_only', '--ckpt', tmp_path / 'ckpt.pt')
    assert without_seconds(again) == without_seconds(final)


def test_the_recipe_of_the_page_changes_the_reward_and_what_is_counted_stays_true(
        tmp_path, monkeypatch):
    """docs/train_rl.md, "change the reward": its diff fits, and a fork with it trains."""
    page = (ROOT / 'docs' / 'train_rl.md').read_text(encoding='utf-8')
    (diff,) = re.findall(r'```diff\n(.*?)```', page, re.DOTALL)
    old, new = '', ''
    for line in diff.splitlines(keepends=True):
        if line[0] in ' -':
            old += line[1:]
        if line[0] in ' +':
            new += line[1:]
    docstring = re.search(r'    """The reward of each chain.*?"""\n', SOURCE, re.DOTALL)[0]
    source = SOURCE.replace(docstring, '')
    assert source.count(old) == 1
    fork = types.ModuleType('fork')
    monkeypatch.setitem(sys.modules, 'fork', fork)
    exec(source.replace(old, new), fork.__dict__)

    code, _, err = call(fork, *TINY, '--hops', '1-2', '--steps', 30, '--log_interval', 1,
                        '--batch_size', 16, '--out_dir', tmp_path)
    assert code == 0, err
    n_above = 0
    for record in records(tmp_path)[1:]:
        right = record['correct'] * 32
        assert right == round(right)
        assert record['correct'] <= record['reward'] + 1e-6 <= record['correct'] + 0.2 + 2e-6
        n_above += record['reward'] > record['correct'] + 0.01
        # groups of two: they are all right, all wrong, or one of two is right
        mixed = 1 - record['zero_variance']
        assert record['pass_at_group'] == pytest.approx(record['correct'] + mixed / 2)
    assert n_above > 20


# -----------------------------------------------------------------------------
# curriculum

@pytest.mark.parametrize('rewards', [None, 5.0, -0.5])
def test_a_hop_is_added_after_each_step_that_earns_it_and_none_is_taken_back(
        rewards, tmp_path, monkeypatch):
    """Right answers by script. What counts is whether more than nine in ten are right among the
    questions with the most hops, whatever becomes of the others, and whatever the rewards are."""
    if rewards is not None:
        monkeypatch.setattr(train_rl, 'reward',
                            lambda batch, chain: torch.full((len(chain),), rewards))
    script = ['easy', 'nine', 'most', 'none', 'easy', 'hard', 'all', 'all', 'none']
    hops_drawn = []

    def draw(task, size, seed, step, split='train', *rest, **options):
        batch = sample_batch(task, size, seed, step, split, *rest, **options)
        if split == 'train':
            hops_drawn.append(batch.hops)
        return batch

    def by_script(batch, chain):
        scene = script[len(hops_drawn) - 1] if hops_drawn else 'none'
        hardest = batch.hops == batch.hops.max()
        place = (hardest.cumsum(0) - 1) / hardest.sum()  # among the hardest: 0 first, nearly 1 last
        return {
            'easy': ~hardest,
            'nine': hardest & (place < 0.89),
            'most': hardest & (place < 0.94),
            'hard': hardest,
            'all': torch.ones_like(hardest),
            'none': torch.zeros_like(hardest),
        }[scene]
    monkeypatch.setattr(train_rl, 'sample_batch', draw)
    monkeypatch.setattr(train_rl, 'correct', by_script)
    run('--nodes', 6, '--hops', '1-4', '--n_embd', 8, '--n_test', 4, '--batch_size', 20,
        '--group_size', 2, '--curriculum', '--steps', 9, '--log_interval', 1, '--out_dir', tmp_path)
    stages = [record['stage'] for record in records(tmp_path)]
    assert stages == [1, 1, 1, 2, 2, 2, 3, 4, 4, 4]
    for hops, stage in zip(hops_drawn, stages[:-1], strict=True):
        assert set(hops.tolist()) == set(range(1, stage + 1))


@pytest.mark.parametrize('flag, stages', [
    ('--curriculum', [1, 2, 3, 3, 3, 3]),
    ('--entropy=0.01', [3, 3, 3, 3, 3, 3])])  # no curriculum: all hops at once
def test_a_perfect_policy_meets_a_new_hop_at_every_step(flag, stages, tmp_path, monkeypatch):
    monkeypatch.setattr(train_rl, 'correct',
                        lambda batch, chain: torch.ones(len(chain), dtype=torch.bool))
    run('--nodes', 6, '--hops', '2-4', '--n_embd', 8, '--n_test', 4, '--batch_size', 16,
        '--group_size', 2, flag, '--steps', 5, '--log_interval', 1, '--out_dir', tmp_path)
    assert [record['stage'] for record in records(tmp_path)] == stages


# -----------------------------------------------------------------------------
# starting from a checkpoint

@pytest.fixture(scope='module')
def supervised(tmp_path_factory):
    """The checkpoint of a chain-of-thought model that knows a little."""
    folder = tmp_path_factory.mktemp('cot')
    argv = ('--nodes 6 --hops 1-2 --n_embd 12 --n_layer 2 --n_head 2 --batch_size 32 --steps 90 '
            '--n_test 20 --mode cot')
    code, _, err = call(train_cot, *argv.split(), '--out_dir', folder)
    assert code == 0, err
    return folder / 'ckpt.pt'


def test_init_from_takes_a_supervised_model_with_its_shape(supervised, tmp_path):
    run('--nodes', 6, '--hops', '1-2', '--init_from', supervised, '--batch_size', 4, '--steps', 2,
        '--n_test', 200, '--out_dir', tmp_path)
    model, state = common.load_checkpoint(supervised)
    trained = weights(tmp_path)
    assert {name: w.shape for name, w in trained.items()} == {
        name: w.shape for name, w in state['model'].items()}
    assert not equal(trained, state['model'])

    # the first evaluation is that of the supervised model
    task = Cycle(nodes=6, hops=[1, 2])
    expected, _ = train_cot.evaluate(model, task, 'cot', RUN, 1337, 50)
    first = records(tmp_path)[0]
    assert first['step'] == 0
    for k in (1, 2):
        measures = first['eval'][str(k)]
        assert measures == dict(acc=expected[k]['acc'], valid=expected[k]['valid'])
    # neither nothing nor everything was to be seen
    assert expected[1]['acc'] > 0.2 and 0 < expected[2]['acc'] < expected[2]['valid'] < 1
    args = json.loads((tmp_path / 'config.json').read_text())['args']
    assert (args['n_embd'], args['n_layer'], args['n_head']) == (12, 2, 2)


def test_init_from_has_a_folder_of_its_own_too(supervised, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run('--nodes', 6, '--hops', '1-2', '--init_from', supervised, '--batch_size', 4, '--steps', 2,
        '--n_test', 8)
    folder, = (tmp_path / 'out').iterdir()
    assert folder.name.startswith('train_rl-') and 'init_from_' in folder.name


@pytest.mark.parametrize('argv', [
    '--task cvpr', '--nodes 7', '--hops 1-3', '--hops 2-3', '--format pairs', '--n_layer 1',
    '--n_head 3', '--n_embd 24', '--n_loop 2', '--pos rope'])
def test_init_from_refuses_what_does_not_fit(argv, supervised, tmp_path):
    flags = {'--nodes': '6', '--hops': '1-2'}
    name, value = argv.split()
    flags[name] = value
    argv = [word for pair in flags.items() for word in pair]
    result = call(train_rl, *argv, '--init_from', supervised, '--out_dir', tmp_path / 'new')
    assert is_refused(result, tmp_path / 'new') and 'does not fit' in result[2]


def test_init_from_refuses_another_format_of_the_same_vocabulary(tmp_path):
    pairs = ('--nodes 6 --hops 1-2 --format pairs --n_layer 1 --batch_size 4 --steps 1 --n_test 4 '
             '--mode cot')
    assert call(train_cot, *pairs.split(), '--out_dir', tmp_path / 'pairs')[0] == 0
    result = call(train_rl, '--nodes', 6, '--hops', '1-2', '--init_from',
                  tmp_path / 'pairs' / 'ckpt.pt', '--out_dir', tmp_path / 'new')
    assert is_refused(result, tmp_path / 'new') and 'format' in result[2]


@pytest.mark.parametrize('argv', [
    '--k 2', '--objective passk --baseline ema', '--objective passk --baseline prefix',
    '--objective passk --k 9', '--group_size 1', '--baseline prefix --group_size 1',
    '--task countdown', '--init_from nowhere.pt', '--free_length 4', '--length_cost 0.1',
    '--free_length 8 --baseline prefix', '--free_length 8 --test_hops 5',
    '--task multiply --free_length 40', '--task star --test_hops 5', '--task multiply --hops 2',
    '--task star --baseline prefix', '--task star --star 4,4 --nodes 10',
    '--objective coin --baseline prefix', '--objective coin --k 2', '--pass_k 0',
    '--task star --curriculum', '--one_hop 1.1', '--one_hop -0.1', '--one_hop 0.0005',
    '--one_hop 0.1 --hops 4', '--one_hop 0.1 --hops 2-4', '--one_hop 0.1 --hops 1',
    '--one_hop 0.1 --curriculum', '--one_hop 0.1 --task star'])
def test_what_makes_no_sense_together_is_refused(argv, tmp_path):
    result = call(train_rl, *argv.split(), '--out_dir', tmp_path / 'new')
    assert is_refused(result, tmp_path / 'new')


# -----------------------------------------------------------------------------
# answers of many tokens

@pytest.mark.parametrize('task, first', [
    (Multiply(digits=2), 9), (Multiply(digits=2, reverse=True), 9), (Star(star=(2, 4)), 0)])
def test_of_a_long_answer_every_token_counts_and_no_other(task, first):
    """The product is the last 4 of 13 tokens: 3 + 3 + 3 digits come before. A star's path is all
    answer."""
    batch = sample_batch(task, 40, 0, 0)
    chain = torch.tensor([task.oracle(row[:batch.prompt_len]) for row in batch.tokens.tolist()])
    assert train_rl.correct(batch, chain).all()
    for t in range(chain.size(1)):
        wrong = chain.clone()
        wrong[:, t] = (wrong[:, t] + 1) % 10
        assert (train_rl.correct(batch, wrong) == (t < first)).all()


MULTIPLY = ('--task multiply --digits 2 --n_embd 8 --batch_size 4 --group_size 2 --n_test 10 '
            '--steps 4 --log_interval 2').split()


@pytest.fixture(scope='module')
def multiplier(tmp_path_factory):
    """The folder of a supervised model that has seen two steps of 2 x 2 digits."""
    folder = tmp_path_factory.mktemp('multiplier')
    argv = '--mode cot --task multiply --digits 2 --n_layer 1 --n_embd 8 --batch_size 4 --steps 2'
    assert call(train_cot, *argv.split(), '--n_test', 4, '--out_dir', folder)[0] == 0
    return folder


def test_multiplication_goes_on_from_a_supervised_model(multiplier, tmp_path):
    final = run(*MULTIPLY, '--init_from', multiplier / 'ckpt.pt', '--out_dir', tmp_path / 'rl')
    assert final['task'] == 'multiply' and {'acc', 'acc_h2', 'valid'} < final.keys()
    assert final['tokens'] == str(4 * 4 * 2 * 13)
    first = records(tmp_path / 'rl')[0]
    assert first['step'] == 0 and len(first['examples']) == 1

    # the checkpoint can be tested, by itself and against another size
    ckpt = tmp_path / 'rl' / 'ckpt.pt'
    code, out, _ = call(train_rl, '--eval_only', '--ckpt', ckpt)
    tested = final_values(out)
    assert code == 0 and (tested['acc'], tested['valid']) == (final['acc'], final['valid'])
    for argv, message in (
            ('--digits 1', 'digits is 2, this run needs 1'),
            ('--digits 2 --reverse', 'reverse is False, this run needs True')):
        result = call(train_rl, '--task', 'multiply', *argv.split(), '--init_from',
                      multiplier / 'ckpt.pt', '--out_dir', tmp_path / 'new')
        assert is_refused(result, tmp_path / 'new') and message in result[2]


def test_after_a_checkpoint_come_other_questions_than_before_it(multiplier, tmp_path, monkeypatch):
    """The supervised model has seen those of steps 0 and 1."""
    steps = []
    sample = train_rl.sample_batch

    def spy(task, n, seed, step, split, **options):
        if split == 'train':
            steps.append(step)
        return sample(task, n, seed, step, split, **options)
    monkeypatch.setattr(train_rl, 'sample_batch', spy)
    argv = [*MULTIPLY, '--init_from', multiplier / 'ckpt.pt', '--out_dir', tmp_path]
    run(*argv)
    assert steps == [2, 3, 4, 5]
    run(*argv[:-4], '--init_from', multiplier / 'ckpt.pt', '--out_dir', tmp_path, '--steps', 6,
        '--resume')
    assert steps == [2, 3, 4, 5, 6, 7]


def test_validity_of_a_product_is_that_of_its_numbers():
    """A model that gets the last digit of the last sum wrong: 9 of 13 tokens are in right numbers.
    """
    task = Multiply(digits=2)

    def generate(prompts, n):
        rows = []
        for prompt in prompts.tolist():
            *chain, last = task.oracle(prompt)
            rows.append(prompt + chain + [(last + 1) % 10])
        return torch.tensor(rows)
    results, _ = train_rl.evaluate(SimpleNamespace(generate=generate), task, RUN, 0, 40)
    assert results == {2: dict(acc=0, valid=pytest.approx(9 / 13))}


def test_a_path_in_a_star_is_one_answer(tmp_path):
    """Three arms of two nodes and a centre: a path has 3 tokens, and an arm is right by chance 1/3.
    """
    final = run('--task', 'star', '--star', '3,3', '--n_embd', 8, '--steps', 2, '--n_test', 10,
                '--batch_size', 4, '--out_dir', tmp_path)
    assert final['task'] == 'star' and float(final['chance']) == pytest.approx(1 / 3, abs=1e-3)
    assert final['tokens'] == str(2 * 4 * 8 * 3)
    ckpt = tmp_path / 'ckpt.pt'
    code, out, _ = call(train_rl, '--eval_only', '--ckpt', ckpt)
    assert code == 0 and final_values(out)['acc'] == final['acc']
    further = run('--task', 'star', '--star', '3,3', '--init_from', ckpt, '--steps', 1, '--n_test',
                  10, '--out_dir', tmp_path / 'further')
    assert further['params'] == final['params']
    result = call(train_rl, '--task', 'star', '--star', '2,3', '--init_from', ckpt, '--out_dir',
                  tmp_path / 'new')
    assert is_refused(result, tmp_path / 'new') and 'star is [3, 3]' in result[2]
    assert len(records(tmp_path)[0]['examples'][0].split('->')[1].split('true:')[0].split()) == 3


class Scripted:
    """A policy that answers question i right in exactly i of its chains. With `stop` its chains end
    with that token, and the right answer stands before it."""

    def __init__(self, task, stop=None):
        self.task = task
        self.stop = stop
        self.prompts = []
        self.uniforms = []

    def generate(self, prompts, n, temperature, samples, uniform):
        assert uniform.shape == (len(prompts) * samples, n) and temperature == 0.7
        self.uniforms.append(uniform)
        rows = []
        for prompt in prompts.tolist():
            truth = self.task.oracle(prompt)
            for i in range(samples):
                is_right = i < len(self.prompts)
                last = truth[-1] if is_right else (truth[-1] + 1) % 4
                chain = truth[:-1] + [last]
                if self.stop is not None:
                    chain = [*chain, self.stop, *[0] * n][:n]
                rows.append(prompt + chain)
            self.prompts.append(prompt)
        return torch.tensor(rows)


def test_pass_at_k_of_a_run_is_that_of_its_chains(monkeypatch):
    """Six questions have 0, 1, ... 5 right chains of 5. One of k misses with C(wrong, k) / C(5, k).
    """
    monkeypatch.setattr(train_rl, 'PASS_QUESTIONS', 6)
    task = Cycle(nodes=4, hops=[1, 2])
    args = SimpleNamespace(pass_k=5, seed=0, tune=False, free_length=None, temperature=0.7)
    for part, free_length in ((4096, None), (10, None), (10, 5)):  # all at once, or two questions
        monkeypatch.setattr(train_rl, 'CHAINS_AT_ONCE', part)
        args.free_length = free_length
        model = Scripted(task, task.pad if free_length else None)
        curve = train_rl.pass_curve(model, task, args, RUN)
        assert list(curve) == [1, 4, 5]
        for k, value in curve.items():
            some_right = [1 - math.comb(5 - c, k) / math.comb(5, k) for c in range(6)]
            assert value == pytest.approx(sum(some_right) / 6)

        # held-out questions with the most hops, and random numbers of their own for each chain
        assert held_out(np.array(model.prompts)[:, :4]).all()
        assert {task.vocab[prompt[-2]] for prompt in model.prompts} == {'k=2'}
        assert len(model.uniforms) == (1 if part == 4096 else 3)
        rows = torch.cat(model.uniforms)
        assert len(rows.unique(dim=0)) == len(rows) == 30
    args.pass_k = None
    assert train_rl.pass_curve(Scripted(task), task, args, RUN) == {}


def test_pass_at_k_is_reported_before_and_after_and_after_a_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(train_rl, 'PASS_QUESTIONS', 20)
    argv = [*TINY, '--lr', '0.1', '--warmup_iters', 0, '--pass_k', 8, '--log_interval', 2,
            '--out_dir', tmp_path]
    curves = []
    pass_curve = train_rl.pass_curve

    def spy(model, *rest):
        curve = pass_curve(model, *rest)
        curves.append(({name: p.clone() for name, p in model.state_dict().items()}, curve))
        return curve
    monkeypatch.setattr(train_rl, 'pass_curve', spy)
    whole = run(*argv, '--steps', 4)
    ks = (1, 4, 8)
    torch.manual_seed(1337)
    start = GPT(GPTConfig(9, 10, n_embd=8)).state_dict()
    assert len(curves) == 2
    for (state, curve), end, expected in zip(
            curves, ('_before', ''), (start, weights(tmp_path)), strict=True):
        assert equal(state, expected)
        values = [float(whole[f'pass_{k}{end}']) for k in ks]
        assert values == [pytest.approx(curve[k], abs=6e-4) for k in ks]
        assert values == sorted(values) and values[0] > 0
    assert curves[0][1] != curves[1][1]

    # what was before the training is the same in a run that is resumed
    longer = run(*argv, '--steps', 6, '--resume')
    assert [longer[f'pass_{k}_before'] for k in ks] == [whole[f'pass_{k}_before'] for k in ks]
    _, out, _ = call(train_rl, '--eval_only', '--ckpt', tmp_path / 'ckpt.pt', '--pass_k', 8)
    tested = final_values(out)
    assert [tested[f'pass_{k}'] for k in ks] == [longer[f'pass_{k}'] for k in ks]
    assert 'pass_1_before' not in tested


def test_a_coin_rewards_whatever_is_written(tmp_path, monkeypatch):
    """The control: half of all chains are rewarded, and what is right does not matter."""
    seen = []
    drawn = []
    advantage = train_rl.advantage
    random_numbers = train_rl.random_numbers

    def spy(rewards, *rest):
        seen.append(rewards.clone())
        return advantage(rewards, *rest)

    def spy_numbers(*args):
        uniform = random_numbers(*args)

        def record(*shape):
            drawn.append(uniform(*shape))
            return drawn[-1]
        return record
    monkeypatch.setattr(train_rl, 'advantage', spy)
    monkeypatch.setattr(train_rl, 'random_numbers', spy_numbers)
    argv = [*TINY, '--objective', 'coin', '--steps', 20, '--batch_size', 50]
    run(*argv, '--out_dir', tmp_path / 'a')
    rewards = torch.stack(seen)
    assert set(rewards.unique().tolist()) == {0, 1} and 0.45 < rewards.mean() < 0.55
    assert (rewards[:, :, 0] != rewards[:, :, 1]).any()

    # the chains have used up other numbers than the coins
    for chain_numbers, coins, reward in zip(drawn[::2], drawn[1::2], seen, strict=True):
        assert chain_numbers.shape == (100, 2) and coins.shape == (100, 1)
        assert torch.equal(reward.flatten(), (coins[:, 0] < 0.5).float())
        assert not torch.equal(chain_numbers[:, :1], coins)

    # with another truth the weights are the same, but the share of right chains is not
    correct = train_rl.correct
    monkeypatch.setattr(train_rl, 'correct', lambda batch, chain: ~correct(batch, chain))
    run(*argv, '--out_dir', tmp_path / 'b')
    assert equal(weights(tmp_path / 'a'), weights(tmp_path / 'b'))
    last = [records(tmp_path / name)[-1]['correct'] for name in 'ab']
    assert sum(last) == pytest.approx(1)


# -----------------------------------------------------------------------------
# resuming

class Cut(Exception):
    pass


def one_hop_is_learned(correct):
    """A verifier to which all one-hop questions are right. So a curriculum goes on at once, and
    rewards still vary."""
    return lambda batch, chain: correct(batch, chain) | (batch.hops == 1)


def cut_after(n_steps):
    """A sample_batch that raises Cut when it has drawn so many training batches."""
    drawn = []

    def draw(task, size, seed, step, split='train', *rest, **options):
        if split == 'train':
            if len(drawn) == n_steps:
                raise Cut
            drawn.append(step)
        return sample_batch(task, size, seed, step, split, *rest, **options)
    return draw


def interrupt_at(interrupted_step):
    """A sample_batch that gets a SIGTERM at this step."""
    def draw(task, size, seed, step, split='train', *rest, **options):
        if split == 'train' and step == interrupted_step:
            signal.raise_signal(signal.SIGTERM)
        return sample_batch(task, size, seed, step, split, *rest, **options)
    return draw


@pytest.mark.parametrize('extra, n_steps', [
    ('--baseline ema --curriculum', 8), ('--baseline prefix --rollouts 2', 8),
    ('--objective passk', 8), ('--free_length 4 --length_cost 0.01', 8),
    ('--baseline ema --curriculum', 3)])  # 3: without any checkpoint
def test_resume_after_any_stop_is_the_uninterrupted_run(extra, n_steps, tmp_path, monkeypatch):
    """Cut off between checkpoints, then stopped by a signal: weights, optimizer and log come out
    the same to the bit."""
    monkeypatch.setattr(train_rl, 'correct', one_hop_is_learned(train_rl.correct))
    argv = (*TINY, '--steps', 30, '--log_interval', 5, *extra.split(), '--out_dir')
    final = run(*argv, tmp_path / 'whole')

    monkeypatch.setattr(train_rl, 'sample_batch', cut_after(n_steps))
    with pytest.raises(Cut):
        run(*argv, tmp_path / 'cut')
    monkeypatch.setattr(train_rl, 'sample_batch', interrupt_at(16))
    code, _, err = call(train_rl, *argv, tmp_path / 'cut', '--resume')
    assert code == 143 and '--resume' in err and err.count('\n') == 1
    assert checkpoint(tmp_path / 'cut')['step'] == 17
    monkeypatch.setattr(train_rl, 'sample_batch', sample_batch)
    again = run(*argv, tmp_path / 'cut', '--resume')

    assert without_seconds(again) == without_seconds(final)
    assert records(tmp_path / 'whole') == records(tmp_path / 'cut')
    a = checkpoint(tmp_path / 'whole')
    b = checkpoint(tmp_path / 'cut')
    assert equal(a['model'], b['model'])
    for i, moments in a['optimizer']['state'].items():
        assert equal(moments, b['optimizer']['state'][i])

    # the running mean, and the stage of the curriculum, were there to be lost
    log = records(tmp_path / 'whole')
    assert len({record['mean'] for record in log}) == len(log) == 7
    assert log[-1]['stage'] == 2


KILLED_IN_THE_THIRD_CHECKPOINT = """
import errors, os, signal, common, train_rl

correct = train_rl.correct
train_rl.correct = lambda batch, chain: correct(batch, chain) | (batch.hops == 1)
write_atomic = common.write_atomic
saved = []

def kill_halfway(path, write):
    def write_half(temporary):
        write(temporary)
        if path.name == 'ckpt.pt':
            saved.append(path)
        if len(saved) == 3:
            os.truncate(temporary, os.path.getsize(temporary) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
    write_atomic(path, write_half)

common.write_atomic = kill_halfway
train_rl.main({argv})
"""


@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='Windows has no SIGKILL')
def test_a_kill_in_the_middle_of_a_checkpoint_loses_nothing(tmp_path, monkeypatch):
    """SIGKILL with half of the third checkpoint written and the record of that step in the log."""
    argv = [*TINY, '--steps', '30', '--log_interval', '5', '--baseline', 'ema', '--curriculum',
            '--device', 'cpu', '--out_dir']
    killed = str(tmp_path / 'killed')
    code = KILLED_IN_THE_THIRD_CHECKPOINT.format(argv=[*argv, killed])
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [record['step'] for record in records(killed)] == [0, 5, 10, 15]
    assert checkpoint(killed)['step'] == 10

    monkeypatch.setattr(train_rl, 'correct', one_hop_is_learned(train_rl.correct))
    run(*argv, killed, '--resume')
    run(*argv, tmp_path / 'whole')
    assert equal(weights(tmp_path / 'whole'), weights(killed))
    assert records(tmp_path / 'whole') == records(killed)


def test_a_finished_run_resumed_has_one_final_record(tmp_path):
    argv = (*TINY, '--steps', 4, '--out_dir', tmp_path)
    first = run(*argv)
    again = run(*argv, '--resume')
    assert without_seconds(first) == without_seconds(again)
    assert len(records(tmp_path, 'final')) == 1


# -----------------------------------------------------------------------------
# two processes

@pytest.mark.parametrize('extra', ['--baseline prefix --rollouts 2', '--free_length 5',
                                   '--entropy 0'])
def test_two_processes_do_what_one_does_with_twice_the_batch(extra, two_processes, tmp_path):
    """The same questions, chains and rollouts, so the same rewards. Gradients up to rounding."""
    argv = [*TINY, '--hops', '1-3', '--steps', '20', '--log_interval', '1', *extra.split(),
            '--device', 'cpu']
    done = two_processes('train_rl.py', *argv, '--out_dir', tmp_path / 'two')
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('final ') == 1  # rank 0 alone speaks
    assert done.stdout.count('4 x 2 questions a step') == 1
    run(*argv, '--batch_size', 8, '--out_dir', tmp_path / 'one')

    one = records(tmp_path / 'one')
    two = records(tmp_path / 'two')
    assert len(one) == len(two) == 21
    assert len({record['reward'] for record in one}) > 2
    for a, b in zip(one, two, strict=True):
        for name in ('step', 'reward', 'mean', 'samples', 'tokens', 'zero_variance',
                     'pass_at_group'):
            assert a.get(name) == b.get(name)
        if a['step'] > 0:
            assert abs(a['grad_norm'] - b['grad_norm']) < 1e-4
            assert abs(a['entropy'] - b['entropy']) < 1e-4
    a = weights(tmp_path / 'one')
    b = weights(tmp_path / 'two')
    assert max((a[name] - b[name]).abs().max() for name in a) < 1e-4


# -----------------------------------------------------------------------------
# evaluation, and what is reported

def accuracy_by_hand(model, task, k, n_test, hop_token):
    """Accuracy and validity by uncached decoding and the oracle, one instance at a time."""
    n_right = 0
    valid = 0.0
    for first in range(0, n_test, 500):
        batch = sample_batch(task, min(500, n_test - first), 5, k * 10**6 + first, 'test', hops=k)
        P = batch.prompt_len
        x = batch.tokens[:, :P].clone()
        x[:, -2] = hop_token
        for _ in range(k):
            x = torch.cat((x, model(x)[:, -1].argmax(-1, keepdim=True)), dim=1)
        for prompt, chain in zip(batch.tokens[:, :P].tolist(), x[:, P:].tolist(), strict=True):
            n_right += task.oracle(prompt)[-1] == chain[-1]
            before = [prompt[-1], *chain[:-1]]
            for b, c in zip(before, chain, strict=True):
                valid += (b < 6 and prompt[b] == c) / k
    return n_right / n_test, valid / n_test


@pytest.mark.parametrize('n_test', [300, 700])  # 700: more than one part
def test_evaluate_counts_every_instance_and_hides_the_hop_count(n_test):
    """Longer chains are asked for with the hop token of the longest trained."""
    trained = Cycle(nodes=6, hops=(1, 2))
    longer = Cycle(nodes=6, hops=(3, 4))
    model = policy(SimpleNamespace(vocab=trained.vocab, block_size=longer.block_size))
    for task, hop_token in ((trained, None), (longer, 6 + 2 - 1)):
        results, examples = train_rl.evaluate(model, task, RUN, 5, n_test, hop_token)
        for k in task.hops:
            own_hop_token = 6 + k - 1
            acc, valid = accuracy_by_hand(model, task, k, n_test, hop_token or own_hop_token)
            assert results[k]['acc'] == acc
            assert abs(results[k]['valid'] - valid) < 1e-6
            assert f'k={k} acc {acc:.3f}' in train_rl.summary(results, task)
        assert len(examples) == 2 and all('true: ' in line for line in examples)


def test_the_last_line_has_the_largest_hop_count_and_the_first_record_at_95_percent(
        tmp_path, monkeypatch):
    curve = iter([0.1, 0.94, 0.95, 0.2, 0.3, 0.97, 0.6])  # at step 0, 2, 4, 6, 8, 10, and the end

    def scripted(model, task, run, seed, n_test, hop_token=None, split='test', free_length=None):
        acc = 0.5 if hop_token is not None else next(curve)
        results = {}
        for k in task.hops:
            bonus = 0 if k == task.hops[-1] else 0.01
            results[k] = dict(acc=acc + bonus, valid=acc / 2)
        return results, ['an example']
    monkeypatch.setattr(train_rl, 'evaluate', scripted)
    argv = ('--task cvpr --nodes 8 --hops 1-3 --n_embd 8 --batch_size 4 --group_size 2 --steps 10 '
            '--log_interval 2 --test_hops 5-6')
    final = run(*argv.split(), '--out_dir', tmp_path)
    assert final['acc'] == final['acc_min'] == '0.600' and final['valid'] == '0.300'
    assert final['acc_h1'] == '0.610' and final['acc_h6'] == '0.500'
    assert int(final['samples_95']) == 4 * 4 * 2  # a later fall does not take it back
    assert int(final['samples']) == 10 * 4 * 2
    task = CVPR(nodes=8, hops=(1, 2, 3))
    assert final['chance'] == f'{task.chance(3):.3f}' != f'{task.chance(1):.3f}'


def test_divergence_is_one_line_and_leaves_no_bad_checkpoint(tmp_path):
    code, _, err = call(train_rl, *TINY, '--steps', 20, '--log_interval', 5, '--lr', '1e9',
                        '--out_dir', tmp_path)
    assert code == 1 and 'diverged' in err and err.count('\n') == 1
    assert not (tmp_path / 'ckpt.pt').exists()


def test_bfloat16_trains(tmp_path):
    """Under autocast, sampling and the gradient step must not share cached casts (torch before 2.10
    cannot train through them)."""
    final = run(*TINY, '--steps', 6, '--baseline', 'prefix', '--dtype', 'bfloat16', '--out_dir',
                tmp_path)
    torch.manual_seed(1337)
    start = GPT(GPTConfig(9, 10, n_embd=8)).state_dict()
    trained = weights(tmp_path)
    assert final['steps'] == '6' and all(w.isfinite().all() for w in trained.values())
    assert trained.keys() == start.keys() and not equal(trained, start)


def test_the_seed_decides_what_is_sampled(supervised, tmp_path, monkeypatch):
    """The same weights and questions, another seed: other chains."""
    def questions_of_seed_7(task, n, seed, *rest, **options):
        return sample_batch(task, n, 7, *rest, **options)
    monkeypatch.setattr(train_rl, 'sample_batch', questions_of_seed_7)
    rewards = []
    for name, seed in (('first', 1), ('other', 2), ('again', 1)):
        run('--nodes', 6, '--hops', '1-2', '--init_from', supervised, '--steps', 8,
            '--log_interval', 1, '--n_test', 5, '--seed', seed, '--batch_size', 4, '--out_dir',
            tmp_path / name)
        rewards.append([record['reward'] for record in records(tmp_path / name)])
    assert rewards[0] == rewards[2] != rewards[1]


# -----------------------------------------------------------------------------
# headlines

@pytest.mark.slow
@pytest.mark.parametrize('argv, bars', [
    ('', dict(acc=(0.99, 1), valid=(0.99, 1))),
    ('--hops 4', dict(acc=(0, 1 / 9 + 0.05))),  # without easy questions the answer is not found
    ('--nodes 20 --hops 1-6 --curriculum --steps 2000', dict(acc=(0.99, 1)))])
def test_headline(argv, bars, tmp_path):
    final = run(*argv.split(), '--seed', 1337, '--out_dir', tmp_path)
    for name, (low, high) in bars.items():
        assert low <= float(final[name]) <= high, final


PROGRESS = dict(step=10, stage=2, samples=10 * 4 * 2 * 3, tokens=10 * 4 * 2 * 3 * 2,
                samples_95=None, mean=0.5, reward=None)
PROGRESS_ARGS = dict(hops=[1, 2, 3], baseline='loo', rollouts=4, batch_size=4, group_size=3,
                     processes=2, curriculum=True)
PROGRESS_TASK = Cycle(10, [1, 2, 3])


@pytest.mark.parametrize('name, value', [
    ('stage', 0), ('stage', 4), ('stage', None), ('stage', True), ('samples', 239),
    ('samples', 241), ('samples', 10**12), ('tokens', 239), ('tokens', 721), ('tokens', None),
    ('samples_95', -1), ('samples_95', 241), ('samples_95', 'x'), ('mean', math.inf),
    ('mean', None), ('mean', math.nan), ('reward', -math.inf), ('reward', 1), ('processes', '2'),
    ('processes', 0)])
def test_progress_that_cannot_be_is_refused(name, value):
    """10 steps of 4 questions in 2 processes, 3 chains each, of 1 to 3 tokens: 240 chains, 240 to
    720 tokens."""
    train_rl.check_progress(PROGRESS | dict(args=PROGRESS_ARGS), PROGRESS_TASK)
    args = PROGRESS_ARGS | ({name: value} if name == 'processes' else {})
    with pytest.raises(ValueError, match=f'the checkpoint has {name}='):
        train_rl.check_progress(PROGRESS | {name: value} | dict(args=args), PROGRESS_TASK)


def test_progress_with_rollouts_and_without_a_curriculum():
    """Rollouts from prefixes add up to 4 chains for each link but the last, of 2 and 1 tokens."""
    args = PROGRESS_ARGS | dict(baseline='prefix', curriculum=False)
    state = PROGRESS | dict(stage=3, samples=240 * 9, tokens=240 * (3 + 4 * 3), args=args)
    train_rl.check_progress(state, PROGRESS_TASK)
    for name, value in (('samples', 240 * 9 + 1), ('tokens', 240 * 15 + 1), ('stage', 2)):
        with pytest.raises(ValueError, match=name):
            train_rl.check_progress(state | {name: value}, PROGRESS_TASK)
