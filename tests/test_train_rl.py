"""Rewarding the answer alone: gradients by enumeration, the verifier, one training step written out, resuming, and its headline."""

import contextlib
import json
import math
import re
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import conftest
import pytest
import torch
from conftest import two_processes

import common
import train_cot
import train_rl
from data import CVPR, Batch, Cycle, sample_batch
from model import GPT, GPTConfig

ROOT = Path(__file__).parent.parent
RUN = SimpleNamespace(device=torch.device('cpu'), autocast=contextlib.nullcontext(), world=1, rank=0, master=True)
TINY = '--nodes 6 --hops 1-2 --n_embd 8 --batch_size 4 --group_size 2 --n_test 10'.split()

@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A figure takes longer than a tiny run. main leaves its signal handlers behind: put back what was there."""
    monkeypatch.setattr(train_rl, 'plot', lambda *_: None)
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in before:
        signal.signal(number, handler)

def call(module, *argv):
    return conftest.call(module, [*map(str, argv), '--device', 'cpu'])

def run(*argv):
    """train_rl in this process; returns the dict of its final line."""
    code, out, err = call(train_rl, *argv)
    assert code == 0, err
    return dict(re.findall(r'(\S+)=(\S+)', out.strip().split('\n')[-1]))

def records(folder, arm='rl'):
    return [r for r in map(json.loads, open(Path(folder) / 'log.jsonl')) if r['arm'] == arm]

def weights(folder):
    return torch.load(Path(folder) / 'ckpt.pt', weights_only=True)['model']

def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def policy(task, dtype=torch.float32, **options):
    """A GPT whose weights are large enough for its distributions to be far from uniform."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(len(task.vocab), task.block_size, **{'n_embd': 16} | options)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.25 if p.dim() == 2 else torch.rand_like(p) + 0.5)
    return model

def rows(batch, G):
    return batch[torch.arange(len(batch.tokens)).repeat_interleave(G)]

# ----------------------------------------------------------------------------- exact gradients on a toy

V = 3  # tokens of the toy, whose chains have two
CHAINS = list(product(range(V), repeat=2))
ANSWER = torch.tensor([[0, 0, 1]] * V)  # reward of the chains: the second token is right
BOTH = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 1, 0]])  # a reward that depends on the first token too, as a truth worth discovering does

def toy():
    """Log-probabilities of the first token (3,), of the second given the first (3, 3), and the parameters behind them."""
    generator = torch.Generator().manual_seed(1)
    logits = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in ((V,), (V, V))]
    return *(z.log_softmax(-1) for z in logits), logits

def exact(table, k=1):
    """The gradient of pass@k, for k = 1 of the expected reward."""
    first, second, logits = toy()
    p = sum((first[a] + second[a, b]).exp() * table[a, b] for a, b in CHAINS)
    return torch.autograd.grad(1 - (1 - p) ** k, logits)

def expected(table, G, baseline, rollouts=0, **options):
    """The mean of train_rl's estimate over all that can be sampled: G chains, and from the first token of each chain `rollouts` more."""
    first, second, logits = toy()
    chain = torch.tensor(list(product(CHAINS, repeat=G)))  # (O, G, 2)
    O, F = len(chain), V ** (G * rollouts)
    fresh = torch.tensor(list(product(range(V), repeat=G * rollouts)), dtype=torch.long).view(F, G, rollouts)
    chain, fresh = chain.repeat_interleave(F, 0), fresh.repeat(O, 1, 1)  # every pair of them, (O * F, ...)
    logp = torch.stack((first[chain[..., 0]], second[chain[..., 0], chain[..., 1]]), -1)
    prob = (logp.sum((1, 2)) + second[chain[..., :1], fresh].sum((1, 2))).exp().detach()
    assert prob.sum().item() == pytest.approx(1, abs=1e-12)
    reward, value = table[chain[..., 0], chain[..., 1]].double(), None
    if rollouts:
        n = O * F * G
        said = torch.cat((torch.zeros(n, 1, dtype=torch.long), chain.view(n, 2)), 1)
        truth = torch.cat((said[:, :2], torch.full((n, 1), 2)), 1)
        asked = Batch(truth, truth > 9, torch.full((n, 1), 2), torch.full((n,), 2), truth, prompt_len=1)
        scripted = SimpleNamespace(generate=lambda idx, n, temperature, samples, uniform: torch.cat((idx.repeat_interleave(samples, 0), uniform), 1))
        value = train_rl.prefix_values(scripted, asked, said, reward.view(n).float(), rollouts, uniform=lambda n, m: fresh.view(-1, n)).view(-1, G, 3)
    A = train_rl.advantage(reward, baseline, value=value, **options)
    return torch.autograd.grad((prob * (A * logp).sum(-1).mean(1)).sum(), logits)

def close(a, b):
    assert all(y.abs().max() > 1e-3 for y in b)  # a gradient of zero would prove nothing
    return all(torch.allclose(x, y, atol=1e-10, rtol=0) for x, y in zip(a, b, strict=True))

@pytest.mark.parametrize('G', [2, 3])
@pytest.mark.parametrize('table', [ANSWER, BOTH])
def test_every_baseline_leaves_the_policy_gradient_exact(table, G):
    for baseline, options in (('none', {}), ('ema', {'mean': 0.37}), ('ema', {'mean': -2.0}), ('loo', {})):
        assert close(expected(table, G, baseline, **options), exact(table)), baseline

@pytest.mark.parametrize('table', [ANSWER, BOTH])
@pytest.mark.parametrize('G, rollouts', [(2, 1), (3, 1), (2, 2)])
def test_step_advantages_from_fresh_rollouts_leave_the_policy_gradient_exact(table, G, rollouts, monkeypatch):
    if table is BOTH:
        monkeypatch.setattr(train_rl, 'verify', lambda batch, chain: table[chain[:, 0], chain[:, 1]].bool())
    assert close(expected(table, G, 'prefix', rollouts), exact(table))

@pytest.mark.parametrize('G', [2, 3])
@pytest.mark.parametrize('table', [ANSWER, BOTH])
def test_passk_ascends_pass_at_k_with_and_without_its_baseline(table, G):
    """At k = G with loo, POPPY's weights, it is the same gradient as plain PKPO."""
    for k in range(1, G + 1):
        for baseline in ('none', 'loo'):
            assert close(expected(table, G, baseline, objective='passk', k=k), exact(table, k)), (k, baseline)
    assert not close(exact(table, 1), exact(table, 2))

def test_poppy_pays_the_best_chain_its_lead_over_the_second():
    for r in product((0.0, 1.0), repeat=4):
        best, second = sorted(r)[:-3:-1]
        want = [4 * (best - second) * (x == best) for x in r]
        got = train_rl.advantage(torch.tensor([r]), 'loo', 'passk', 4)
        assert got.shape == (1, 4, 1) and got.flatten().tolist() == want, r

def test_some_right_counts_the_draws_that_miss():
    for n in range(1, 9):
        for k in range(n + 1):
            got = train_rl.some_right(n, torch.arange(n + 1).double(), k)
            assert got.tolist() == pytest.approx([1 - math.comb(n - c, k) / math.comb(n, k) for c in range(n + 1)], abs=1e-12), (n, k)

# ----------------------------------------------------------------------------- log-probabilities of what was sampled

MIXED = Cycle(nodes=6, hops=(1, 2, 3))

def sampled(task, model, P=5, G=3, temperature=1.0, seed=0):
    """(batch with a row a chain, tokens, log-probabilities of the new ones), sampled as train() does."""
    asked = sample_batch(task, P, 0, seed)
    S, T = asked.prompt_len, asked.tokens.size(1)
    tokens, logp = model.generate(asked.tokens[:, :S], T - S, temperature, generator=torch.Generator().manual_seed(seed), samples=G, return_logp=True)
    return rows(asked, G), tokens, logp

@pytest.mark.parametrize('objective, k, truth', [('mean', None, 0), ('mean', None, 1), ('passk', 4, 0), ('passk', 4, 1), ('passk', 2, 1)])
def test_equal_rewards_give_no_gradient_at_all(objective, k, truth):
    """With a leave-one-out baseline; exactly zero, since AdamW would turn any rounding into a full step."""
    model, G = policy(MIXED), 4
    batch, tokens, _ = sampled(MIXED, model, G=G)
    logp, _ = train_rl.log_probs(model, tokens, batch.loss_mask, shared=(batch.prompt_len, G))
    for reward, still in ((torch.full((5, G), float(truth)), True), (torch.tensor([[1.0, 0, 0, 0]] * 5), False)):
        A = train_rl.advantage(reward, 'loo', objective, k).expand(-1, -1, 3).flatten(0, 1)[batch.loss_mask[:, batch.prompt_len:]]
        grads = torch.autograd.grad(-(A * logp).sum() / len(tokens), list(model.parameters()), retain_graph=True)
        assert all((g == 0).all() for g in grads) == still

@pytest.mark.parametrize('argv', ['', '--objective passk --k 2'])
def test_a_run_whose_rewards_are_all_equal_never_moves(argv, tmp_path, monkeypatch):
    monkeypatch.setattr(train_rl, 'verify', lambda batch, chain: torch.ones(len(chain), dtype=torch.bool))
    run(*TINY, '--steps', 4, '--log_interval', 2, '--entropy', 0, '--weight_decay', 0, *argv.split(), '--out_dir', tmp_path)
    torch.manual_seed(1337)
    assert same(weights(tmp_path), GPT(GPTConfig(9, 10, n_embd=8)).state_dict())
    assert [(r['grad_norm'], r['zero_variance'], r['reward']) for r in records(tmp_path)[1:]] == [(0, 1, 1)] * 2

@pytest.mark.parametrize('G', [None, 3])
def test_nothing_after_the_answer_counts(G):
    model = policy(MIXED, torch.float64)
    batch, tokens, _ = sampled(MIXED, model, G=G or 3)
    S, hops = batch.prompt_len, batch.hops.tolist()
    assert {1, 2, 3} == set(hops) and [[S + t for t in range(k)] for k in hops] == [row.nonzero()[:, 0].tolist() for row in batch.loss_mask]

    def look(tokens):
        logp, entropy = train_rl.log_probs(model, tokens, batch.loss_mask, 0.7, shared=G and (S, G))
        A = torch.linspace(-1, 2, len(logp))
        return logp, entropy, *torch.autograd.grad(-(A * logp + 0.1 * entropy).sum(), list(model.parameters()))
    before, later, earlier = look(tokens), tokens.clone(), tokens.clone()
    for row, k in enumerate(hops):
        later[row, S + k:] = (later[row, S + k:] + 1) % MIXED.pad
        earlier[row, S + k - 1] = (earlier[row, S + k - 1] + 1) % MIXED.pad
    assert (later != tokens).any() and max((a - b).abs().max() for a, b in zip(before, look(later), strict=True)) < 1e-12
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(before[::2], look(earlier)[::2], strict=True))  # the answer itself does count

@pytest.mark.parametrize('temperature', [1.0, 0.7])
@pytest.mark.parametrize('format', ['table', 'pairs'])
@pytest.mark.parametrize('pos', ['learned', 'rope', 'none'])
def test_log_probs_are_those_the_chains_were_sampled_with(pos, format, temperature):
    task = Cycle(nodes=6, hops=(1, 2, 3), format=format)
    model = policy(task, pos=pos, n_layer=2)
    batch, tokens, sampled_with = sampled(task, model, temperature=temperature)
    S, mask = batch.prompt_len, batch.loss_mask
    p = (model(tokens[:, :-1])[mask[:, 1:]] / temperature).softmax(-1)
    want = torch.tensor([-sum(x * math.log(x) for x in row) for row in p.tolist()])
    assert want.std() > 0.05  # they differ from place to place
    for shared in (None, (S, 3)):
        logp, entropy = train_rl.log_probs(model, tokens, mask, temperature, shared)
        assert torch.allclose(logp, sampled_with[mask[:, S:]], atol=1e-5) and torch.allclose(entropy, want, atol=1e-5)

# ----------------------------------------------------------------------------- the verifier, and the value of a prefix

@pytest.mark.parametrize('task', [Cycle(nodes=6, hops=(1, 2, 3)), Cycle(nodes=6, hops=(1, 2, 3), format='pairs'), CVPR(nodes=7, hops=(1, 2, 3, 4))])
def test_verify_looks_at_the_answer_and_at_nothing_else(task):
    batch = sample_batch(task, 80, 0, 0)
    S, B = batch.prompt_len, torch.arange(80)
    true = [task.oracle(row[:S]) for row in batch.tokens.tolist()]
    slot, answer = torch.tensor([len(chain) - 1 for chain in true]), torch.tensor([chain[-1] for chain in true])
    assert set((slot + 1).tolist()) == set(task.hops) and train_rl.verify(batch, batch.tokens[:, S:]).all()
    for v in range(len(task.vocab)):
        noise = torch.randint(len(task.vocab), batch.tokens[:, S:].shape, generator=torch.Generator().manual_seed(v))
        noise[B, slot] = v
        assert torch.equal(train_rl.verify(batch, noise), answer == v), v
        chain = batch.tokens[:, S:].clone()
        chain[B, slot] = v
        assert torch.equal(train_rl.verify(batch, chain), answer == v), v

@pytest.mark.parametrize('task', [Cycle(nodes=6, hops=(1, 2, 3)), Cycle(nodes=6, hops=(1, 2, 3), format='pairs'), CVPR(nodes=7, hops=(1, 2, 3, 4))])
def test_validity_flags_every_wrong_token_where_it_stands(task):
    for k in task.hops:
        batch = sample_batch(task, 20, 0, 0, hops=k)
        chain = batch.tokens[:, batch.prompt_len:]
        assert chain.shape == (20, k) and task.valid(batch, chain).all()
        for t, v in product(range(k), range(len(task.vocab))):
            wrong = chain.clone()
            wrong[:, t] = v
            valid = task.valid(batch, wrong)
            assert torch.equal(valid[:, t], chain[:, t] == v) and valid[:, :t].all() and valid[:, t + 2:].all()

def test_values_of_a_greedy_policy_are_the_rewards_of_its_continuations():
    task = Cycle(nodes=5, hops=(1, 2, 3))
    model = policy(task)
    batch, tokens, _ = sampled(task, model, P=30, G=4)
    S, reward = batch.prompt_len, train_rl.verify(batch, tokens[:, batch.prompt_len:]).float()
    value = train_rl.prefix_values(model, batch, tokens, reward, 2, temperature=1e-4)
    want = torch.empty(len(tokens), 4)
    for row, k in enumerate(batch.hops.tolist()):
        answer = task.oracle(tokens[row, :S].tolist())[-1]
        for i in range(4):
            x = tokens[row:row + 1, :S + i] if 0 < i < k else tokens[row:row + 1, :S + k]
            while x.size(1) < S + k:
                x = torch.cat((x, model(x)[:, -1:].argmax(-1)), 1)
            want[row, i] = x[0, -1] == answer
    assert torch.equal(value, want) and torch.equal(value[:, 3], reward)
    assert (want[:, 1:] > want[:, 3:]).any() and (want[:, 1:] < want[:, 3:]).any()  # some end better than their chain did, some worse

def test_the_value_of_a_prefix_is_the_chance_that_it_ends_well():
    """Of the first one and two tokens of a 3-hop chain, against all continuations, each with its probability; 4 standard errors."""
    task, R, temperature = Cycle(nodes=4, hops=(3,)), 4000, 0.8
    model = policy(task)
    batch, tokens, _ = sampled(task, model, P=3, G=2, temperature=temperature)
    S, n = batch.prompt_len, len(task.vocab)
    generator = torch.Generator().manual_seed(5)
    value = train_rl.prefix_values(model, batch, tokens, torch.zeros(6), R, temperature, lambda n, m: torch.rand(6 * m, n, generator=generator))
    for row, i in product(range(6), (1, 2)):
        ends = torch.tensor(list(product(range(n), repeat=3 - i)))
        x = torch.cat((tokens[row, :S + i].expand(len(ends), -1), ends), 1)
        logp = (model(x[:, :-1]) / temperature).log_softmax(-1).gather(2, x[:, 1:, None])[:, S + i - 1:, 0].sum(1)
        p = logp.exp()[ends[:, -1] == task.oracle(tokens[row, :S].tolist())[-1]].sum().item()
        assert 0.001 < p < 0.9 and abs(value[row, i].item() - p) < 4 * math.sqrt(p * (1 - p) / R), (row, i)

# ----------------------------------------------------------------------------- training

class Spy:
    """Takes down what train() asks, samples and judges, and the weights and the unclipped gradient of every step."""

    def __init__(self, monkeypatch):
        self.asked, self.drawn, self.temperatures, self.chains, self.judged, self.values, self.before, self.grads = ([] for _ in range(8))
        ask, generate, verify, values = train_rl.sample_batch, GPT.generate, train_rl.verify, train_rl.prefix_values
        clip = torch.nn.utils.clip_grad_norm_

        def spy_ask(task, size, seed, step, split='train', *rest, **kw):
            batch = ask(task, size, seed, step, split, *rest, **kw)
            if split == 'train':
                self.asked.append(batch)
            return batch

        def spy_generate(model, idx, n, temperature=0.0, *rest, **kw):
            out = generate(model, idx, n, temperature, *rest, **kw)
            if temperature:
                self.drawn.append(kw['uniform'])
                self.temperatures.append(temperature)
                if len(self.chains) < len(self.asked):  # the first of a step; prefix_values' come later
                    self.chains.append(out)
            return out

        def spy_verify(batch, chain):
            right = verify(batch, chain)
            if len(self.judged) < len(self.chains):
                self.judged.append(right)
            return right

        def spy_values(*args):
            self.values.append(values(*args))
            return self.values[-1]

        def spy_clip(parameters, bound):
            parameters = list(parameters)
            self.before.append([p.detach().clone() for p in parameters])
            self.grads.append([p.grad.clone() for p in parameters])
            return clip(parameters, bound)
        for where, name, spy in ((train_rl, 'sample_batch', spy_ask), (GPT, 'generate', spy_generate), (train_rl, 'verify', spy_verify),
                                 (train_rl, 'prefix_values', spy_values), (torch.nn.utils, 'clip_grad_norm_', spy_clip)):
            monkeypatch.setattr(where, name, spy)

@pytest.mark.parametrize('argv', ['--baseline none', '--baseline loo --temperature 0.7 --pos rope', '--baseline ema', '--objective passk --k 2',
                                  '--baseline prefix --rollouts 2 --temperature 0.7', '--objective passk --baseline none'])
def test_training_is_reinforce_written_out(argv, tmp_path, monkeypatch):
    """Three steps, chain by chain and token by token: the gradient, the clipped and warmed-up AdamW step, and all that is logged."""
    spy, P, G, R = Spy(monkeypatch), 16, 3, 2
    argv += f' --entropy 0.1 --grad_clip 0.2 --warmup_iters 2 --steps 3 --log_interval 1 --batch_size {P} --group_size {G}'
    argv = argv.split()
    run('--nodes', 4, '--hops', '1-3', '--n_embd', 8, '--n_test', 10, *argv, '--out_dir', tmp_path)
    args, _ = train_rl.parse_args(argv)
    task, k_of = Cycle(nodes=4, hops=[1, 2, 3]), args.k or G
    torch.manual_seed(1337)
    model, log = GPT(GPTConfig(8, 9, n_embd=8, pos=args.pos)), records(tmp_path)
    matrices, gains = ([p for p in model.parameters() if (p.dim() == 2) == x] for x in (True, False))
    optimizer = torch.optim.AdamW([{'params': matrices, 'weight_decay': 0.01}, {'params': gains, 'weight_decay': 0}], betas=(0.9, 0.95))
    assert [r['step'] for r in log] == [0, 1, 2, 3] and log[0]['samples'] == log[0]['tokens'] == 0
    mean = samples = chain_tokens = 0
    for step in range(3):
        record, asked, tokens = log[step + 1], spy.asked[step], spy.chains[step]
        assert all(torch.allclose(p, w, atol=1e-6) for p, w in zip(model.parameters(), spy.before[step], strict=True))
        S, loss, entropies, groups = asked.prompt_len, 0.0, [], []
        for q in range(P):
            prompt = asked.tokens[q, :S].tolist()
            truth = task.oracle(prompt)
            k = len(truth)
            r = [float(tokens[q * G + g, S + k - 1] == truth[-1]) for g in range(G)]
            groups.append(r)
            for g in range(G):
                row, others = tokens[q * G + g], sum(r) - r[g]
                assert row[:S].tolist() == prompt
                rescue = 1 - math.comb(G - 1 - int(others), k_of - 1) / math.comb(G - 1, k_of - 1)  # one of k - 1 others is right
                if args.objective == 'passk':
                    A = [k_of * (1.0 if r[g] else rescue) - (k_of * rescue if args.baseline == 'loo' else 0)] * k
                elif args.baseline == 'prefix':
                    v = [others / (G - 1), *spy.values[step][q * G + g, 1:k].tolist(), r[g]]
                    A = [v[t + 1] - v[t] for t in range(k)]
                else:
                    A = [r[g] - {'none': 0, 'ema': mean, 'loo': others / (G - 1)}[args.baseline]] * k
                logits = model(row[None, :-1])[0] / args.temperature
                for t in range(k):
                    p = logits[S + t - 1].softmax(-1)
                    H = -(p * p.log()).sum()
                    loss = loss - (A[t] * p[row[S + t]].log() + 0.1 * H) / (P * G)
                    entropies.append(H.item())
                samples += 1 + (R * (k - 1) if args.baseline == 'prefix' else 0)
                chain_tokens += k + (R * k * (k - 1) // 2 if args.baseline == 'prefix' else 0)
        want = torch.autograd.grad(loss, list(model.parameters()))
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(spy.grads[step], want, strict=True))
        norm = sum(g.square().sum() for g in want).sqrt().item()
        for p, g in zip(model.parameters(), spy.grads[step], strict=True):  # not `want`: AdamW's first step makes much of a rounding
            p.grad = g * min(1, 0.2 / norm)
        for group in optimizer.param_groups:
            group['lr'] = 1e-3 * (step + 1) / 3
        optimizer.step()
        reward = sum(map(sum, groups)) / (P * G)
        mean = reward if step == 0 else 0.95 * mean + 0.05 * reward
        assert 0 < reward < 1 and spy.judged[step].view(P, G).tolist() == [[x == 1 for x in r] for r in groups]
        logged = dict(reward=reward, mean=mean, entropy=sum(entropies) / len(entropies), grad_norm=norm,
                      zero_variance=sum(len(set(r)) == 1 for r in groups) / P, pass_at_group=sum(max(r) for r in groups) / P)
        assert {name: record[name] for name in logged} == pytest.approx(logged, abs=1e-5)
        assert (record['samples'], record['tokens'], record['stage']) == (samples, chain_tokens, 3)
        assert list(record['eval']) == ['1', '2', '3'] and all(r.keys() == {'acc', 'valid'} for r in record['eval'].values())
        assert len(record['examples']) == 3 and all('true: ' in line for line in record['examples'])
    assert all(torch.allclose(w, model.state_dict()[name], atol=1e-6) for name, w in weights(tmp_path).items())
    assert sum(map(len, spy.drawn)) == samples and set(spy.temperatures) == {args.temperature}  # every chain that was sampled is counted
    drawn = torch.cat([u.flatten() for u in spy.drawn])
    assert len(drawn.unique()) > 0.99 * len(drawn) and abs(drawn.mean() - 0.5) < 4 * (12 * len(drawn)) ** -0.5  # fresh numbers at every step

def test_a_run_leaves_config_log_checkpoint_and_plot(tmp_path, monkeypatch):
    monkeypatch.undo()  # the figure too
    final = run(*TINY, '--steps', 6, '--log_interval', 3, '--out_dir', tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {'config.json', 'log.jsonl', 'ckpt.pt', 'plot.png'}
    assert list(final)[:6] == ['task', 'hops', 'baseline', 'objective', 'acc', 'valid'] and final['hops'] == '1-2' and final['n_test'] == '10'
    assert {'reward', 'samples', 'tokens', 'chance', 'params', 'acc_min', 'acc_h1', 'acc_h2', 'steps', 'seed', 'seconds'} < final.keys()
    assert final['acc'] == final['acc_h2'] and int(final['samples']) == 6 * 4 * 2 and float(final['chance']) == 0.2
    again = run('--eval_only', '--ckpt', tmp_path / 'ckpt.pt')
    assert {**again, 'seconds': 0} == {**final, 'seconds': 0}

# ----------------------------------------------------------------------------- curriculum

def test_a_hop_is_added_after_each_step_that_earns_it_and_none_is_taken_back(tmp_path, monkeypatch):
    """Rewards by script: more than nine in ten right among the questions with the most hops, whatever becomes of the others."""
    real, scripts = train_rl.sample_batch, iter(['easy', 'nine', 'most', 'none', 'easy', 'hard', 'all', 'all', 'none'])
    asked, script = [], [None]

    def ask(task, size, seed, step, split='train', *rest, **kw):
        batch = real(task, size, seed, step, split, *rest, **kw)
        if split == 'train':
            asked.append(batch.hops)
            script[0] = next(scripts)
        return batch

    def verify(batch, chain):
        hardest = batch.hops == batch.hops.max()
        first = (hardest.cumsum(0) - 1) / hardest.sum()  # the hardest in a row: 0 for the first, nearly 1 for the last
        return {'easy': ~hardest, 'nine': hardest & (first < 0.89), 'most': hardest & (first < 0.94), 'hard': hardest,
                'all': hardest | True, 'none': hardest & False}[script[0] or 'none']
    monkeypatch.setattr(train_rl, 'sample_batch', ask)
    monkeypatch.setattr(train_rl, 'verify', verify)
    run('--nodes', 6, '--hops', '1-4', '--n_embd', 8, '--n_test', 4, '--batch_size', 20, '--group_size', 2, '--curriculum', '--steps', 9,
        '--log_interval', 1, '--out_dir', tmp_path)
    stages = [r['stage'] for r in records(tmp_path)]
    assert stages == [1, 1, 1, 2, 2, 2, 3, 4, 4, 4]
    assert [set(hops.tolist()) for hops in asked] == [set(range(1, stage + 1)) for stage in stages[:-1]]

def test_a_perfect_policy_meets_a_new_hop_at_every_step(tmp_path, monkeypatch):
    monkeypatch.setattr(train_rl, 'verify', lambda batch, chain: torch.ones(len(chain), dtype=torch.bool))
    stages = {}
    for extra in ('--curriculum', '--entropy=0.01'):  # and without a curriculum all hops at once
        run('--nodes', 6, '--hops', '2-4', '--n_embd', 8, '--n_test', 4, '--batch_size', 16, '--group_size', 2, extra, '--steps', 5,
            '--log_interval', 1, '--out_dir', tmp_path / extra)
        stages[extra] = [r['stage'] for r in records(tmp_path / extra)]
    assert list(stages.values()) == [[1, 2, 3, 3, 3, 3], [3] * 6]

# ----------------------------------------------------------------------------- starting from a checkpoint

@pytest.fixture(scope='module')
def supervised(tmp_path_factory):
    """A chain-of-thought model that knows a little, in a folder of its own."""
    folder = tmp_path_factory.mktemp('cot')
    argv = '--nodes 6 --hops 1-2 --n_embd 12 --n_layer 2 --n_head 2 --batch_size 32 --steps 90 --n_test 20 --mode cot'.split()
    code, _, err = call(train_cot, *argv, '--out_dir', folder)
    assert code == 0, err
    return folder

def test_init_from_takes_a_supervised_model_with_its_shape(supervised, tmp_path):
    argv = ('--nodes', 6, '--hops', '1-2', '--init_from', supervised / 'ckpt.pt', '--batch_size', 4, '--steps', 2, '--n_test', 200, '--out_dir', tmp_path)
    run(*argv)
    model, state = common.load_checkpoint(supervised / 'ckpt.pt')
    assert {name: w.shape for name, w in weights(tmp_path).items()} == {name: w.shape for name, w in state['model'].items()}
    assert not same(weights(tmp_path), state['model'])
    want, _ = train_cot.evaluate(model, Cycle(nodes=6, hops=[1, 2]), 'cot', RUN, 1337, 50)
    first = records(tmp_path)[0]
    assert first['step'] == 0 and first['eval'] == {str(k): dict(acc=want[k]['acc'], valid=want[k]['valid']) for k in (1, 2)}
    assert 0.2 < want[1]['acc'] and 0 < want[2]['acc'] < want[2]['valid'] < 1  # neither nothing nor everything was to be seen
    args = json.loads((tmp_path / 'config.json').read_text())['args']
    assert (args['n_embd'], args['n_layer'], args['n_head']) == (12, 2, 2)

@pytest.mark.parametrize('argv', ['--task cvpr', '--nodes 7', '--hops 1-3', '--hops 2-3', '--format pairs', '--n_layer 1', '--n_head 3', '--n_embd 24',
                                  '--n_loop 2', '--pos rope'])
def test_init_from_refuses_what_does_not_fit(argv, supervised, tmp_path):
    base = dict(zip(('--nodes', '--hops'), ('6', '1-2'), strict=True)) | dict([argv.split()])
    code, out, err = call(train_rl, *(x for pair in base.items() for x in pair), '--init_from', supervised / 'ckpt.pt', '--out_dir', tmp_path / 'new')
    assert (code, out, err.count('\n')) == (2, '', 1) and 'does not fit' in err and not (tmp_path / 'new').exists()

def test_init_from_refuses_another_format_of_the_same_vocabulary(tmp_path):
    argv = '--nodes 6 --hops 1-2 --format pairs --n_layer 1 --batch_size 4 --steps 1 --n_test 4 --mode cot --out_dir'.split()
    assert call(train_cot, *argv, tmp_path / 'pairs')[0] == 0
    code, out, err = call(train_rl, *argv[:4], '--init_from', tmp_path / 'pairs' / 'ckpt.pt', '--out_dir', tmp_path / 'new')
    assert (code, out, err.count('\n')) == (2, '', 1) and 'format' in err and not (tmp_path / 'new').exists()

@pytest.mark.parametrize('argv', ['--k 2', '--objective passk --baseline ema', '--objective passk --baseline prefix', '--objective passk --k 9',
                                  '--group_size 1', '--baseline prefix --group_size 1', '--task star', '--init_from nowhere.pt'])
def test_what_makes_no_sense_together_is_refused(argv, tmp_path):
    code, out, err = call(train_rl, *argv.split(), '--out_dir', tmp_path / 'new')
    assert (code, out, err.count('\n')) == (2, '', 1) and not (tmp_path / 'new').exists()

# ----------------------------------------------------------------------------- resuming

class Cut(Exception):
    pass

LEARNED = 'lambda batch, chain: real(batch, chain) | (batch.hops == 1)'  # one hop is mastered: a curriculum goes on at once, rewards still vary

@pytest.mark.parametrize('extra', ['--baseline ema --curriculum', '--baseline prefix --rollouts 2', '--objective passk'])
def test_resume_after_any_stop_is_the_uninterrupted_run(extra, tmp_path, monkeypatch):
    """Cut off between checkpoints, then stopped by a signal: weights, optimizer and log come out the same to the bit."""
    monkeypatch.setattr(train_rl, 'verify', eval(LEARNED, {'real': train_rl.verify}))
    argv = (*TINY, '--steps', 30, '--log_interval', 5, *extra.split(), '--out_dir')
    final = run(*argv, tmp_path / 'whole')
    for folder in ('killed', 'early'):
        real, left = train_rl.sample_batch, iter(range(8 if folder == 'killed' else 3))  # early: before there is any checkpoint

        def limited(task, size, seed, step, split='train', *rest, real=real, left=left, **kw):
            if split == 'train' and next(left, None) is None:
                raise Cut
            return real(task, size, seed, step, split, *rest, **kw)

        def interrupted(task, size, seed, step, split='train', *rest, real=real, **kw):
            if split == 'train' and step == 16:
                signal.raise_signal(signal.SIGTERM)
            return real(task, size, seed, step, split, *rest, **kw)
        monkeypatch.setattr(train_rl, 'sample_batch', limited)
        with pytest.raises(Cut):
            run(*argv, tmp_path / folder)
        monkeypatch.setattr(train_rl, 'sample_batch', interrupted)
        code, _, err = call(train_rl, *argv, tmp_path / folder, '--resume')
        assert code == 143 and '--resume' in err and err.count('\n') == 1
        assert torch.load(tmp_path / folder / 'ckpt.pt', weights_only=True)['step'] == 17
        monkeypatch.setattr(train_rl, 'sample_batch', real)
        again = run(*argv, tmp_path / folder, '--resume')
        assert {**again, 'seconds': 0} == {**final, 'seconds': 0}
        a, b = (torch.load(tmp_path / f / 'ckpt.pt', weights_only=True) for f in ('whole', folder))
        assert same(a['model'], b['model']) and records(tmp_path / 'whole') == records(tmp_path / folder)
        for i, moments in a['optimizer']['state'].items():
            assert same(moments, b['optimizer']['state'][i])
    log = records(tmp_path / 'whole')
    assert len({r['mean'] for r in log}) == len(log) == 7 and log[-1]['stage'] == 2

@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='Windows has no SIGKILL')
def test_a_kill_in_the_middle_of_a_checkpoint_loses_nothing(tmp_path):
    """A process that dies by SIGKILL with half of its third checkpoint written and the record of that step in the log."""
    argv = [*map(str, (*TINY, '--steps', 30, '--log_interval', 5, '--baseline', 'ema', '--curriculum', '--device', 'cpu', '--out_dir', tmp_path / 'killed'))]
    code = f"""if True:
        import os, signal, sys, torch, train_rl
        real, save, left = train_rl.verify, torch.save, [1, 2]
        train_rl.verify = {LEARNED}
        def half(state, path):
            save(state, path)
            if not left:
                os.truncate(path, os.path.getsize(path) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            left.pop()
        torch.save = half
        train_rl.main({argv})"""
    killed = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [r['step'] for r in records(tmp_path / 'killed')] == [0, 5, 10, 15]
    assert torch.load(tmp_path / 'killed' / 'ckpt.pt', weights_only=True)['step'] == 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_rl, 'verify', eval(LEARNED, {'real': train_rl.verify}))
        run(*argv, '--resume')
        run(*argv[:-1], tmp_path / 'whole')
    assert same(weights(tmp_path / 'whole'), weights(tmp_path / 'killed')) and records(tmp_path / 'whole') == records(tmp_path / 'killed')

# ----------------------------------------------------------------------------- two processes

def test_two_processes_do_what_one_does_with_twice_the_batch(tmp_path):
    """The same questions, chains and rollouts, so the same rewards; gradients to rounding."""
    argv = [*TINY, '--hops', '1-3', '--steps', '20', '--log_interval', '1', '--baseline', 'prefix', '--rollouts', '2', '--device', 'cpu']
    done = two_processes('train_rl.py', *argv, '--out_dir', tmp_path / 'two')
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('final ') == 1 and '4 x 2 questions a step' in done.stdout  # rank 0 alone speaks
    run(*argv, '--batch_size', 8, '--out_dir', tmp_path / 'one')
    one, two = records(tmp_path / 'one'), records(tmp_path / 'two')
    assert len(one) == len(two) == 21 and len({r['reward'] for r in one}) > 2
    for a, b in zip(one, two, strict=True):
        assert all(a.get(name) == b.get(name) for name in ('step', 'reward', 'mean', 'samples', 'tokens', 'zero_variance', 'pass_at_group'))
        assert a['step'] == 0 or max(abs(a[name] - b[name]) for name in ('grad_norm', 'entropy')) < 1e-4
    a, b = weights(tmp_path / 'one'), weights(tmp_path / 'two')
    assert max((a[k] - b[k]).abs().max() for k in a) < 1e-4

# ----------------------------------------------------------------------------- evaluation, and what is reported

@pytest.mark.parametrize('n_test', [300, 700])  # 700: more than one piece
def test_evaluate_counts_every_instance_and_hides_the_hop_count(n_test):
    """Against uncached decoding and the oracle, one instance at a time; longer chains are asked for with the hop token of the longest trained."""
    trained, longer = Cycle(nodes=6, hops=(1, 2)), Cycle(nodes=6, hops=(3, 4))
    model = policy(SimpleNamespace(vocab=trained.vocab, block_size=longer.block_size))
    for task, hop_token in ((trained, None), (longer, 6 + 2 - 1)):
        results, told = train_rl.evaluate(model, task, RUN, 5, n_test, hop_token)
        for k in task.hops:
            right = valid = 0
            for first in range(0, n_test, 500):
                batch = sample_batch(task, min(500, n_test - first), 5, k * 10**6 + first, 'test', hops=k)
                x = batch.tokens[:, :batch.prompt_len].clone()
                x[:, -2] = 6 + k - 1 if hop_token is None else hop_token
                for _ in range(k):
                    x = torch.cat((x, model(x)[:, -1].argmax(-1, keepdim=True)), 1)
                for prompt, chain in zip(batch.tokens[:, :batch.prompt_len].tolist(), x[:, batch.prompt_len:].tolist(), strict=True):
                    right += task.oracle(prompt)[-1] == chain[-1]
                    before = [prompt[-1], *chain[:-1]]
                    valid += sum(b < 6 and prompt[b] == c for b, c in zip(before, chain, strict=True)) / k
            assert results[k]['acc'] == right / n_test and abs(results[k]['valid'] - valid / n_test) < 1e-6
            assert f'k={k} acc {right / n_test:.3f}' in told[0] and 'true: ' in told[k - task.hops[0] + 1]

def test_the_final_line_reports_the_largest_hop_count_and_the_first_record_at_95_percent(tmp_path, monkeypatch):
    curve = iter([0.1, 0.94, 0.95, 0.2, 0.3, 0.97, 0.6])  # at step 0, 2, 4, 6, 8, 10, and at the end

    def scripted(model, task, run, seed, n_test, hop_token=None):
        acc = 0.5 if hop_token is not None else next(curve)
        return {k: dict(acc=acc + (k != task.hops[-1]) / 100, valid=acc / 2) for k in task.hops}, ['told']
    monkeypatch.setattr(train_rl, 'evaluate', scripted)
    argv = '--task cvpr --nodes 8 --hops 1-3 --n_embd 8 --batch_size 4 --group_size 2 --steps 10 --log_interval 2 --test_hops 5-6'.split()
    final = run(*argv, '--out_dir', tmp_path)
    assert (final['acc'], final['valid'], final['acc_min'], final['acc_h1'], final['acc_h6']) == ('0.600', '0.300', '0.600', '0.610', '0.500')
    assert int(final['samples_95']) == 4 * 4 * 2 and int(final['samples']) == 10 * 4 * 2  # a later fall does not take it back
    assert final['chance'] == f'{CVPR(nodes=8, hops=(1, 2, 3)).chance(3):.3f}' != f'{CVPR(nodes=8, hops=(1, 2, 3)).chance(1):.3f}'

def test_a_finished_run_resumed_has_one_final_record(tmp_path):
    argv = (*TINY, '--steps', 4, '--out_dir', tmp_path)
    first, again = run(*argv), run(*argv, '--resume')
    assert {**first, 'seconds': 0} == {**again, 'seconds': 0} and len(records(tmp_path, 'final')) == 1

def test_divergence_is_said_and_the_last_good_checkpoint_stays(tmp_path):
    code, _, err = call(train_rl, *TINY, '--steps', 20, '--log_interval', 5, '--lr', '9e18', '--out_dir', tmp_path)
    assert code == 1 and 'diverged' in err and err.count('\n') == 1 and not (tmp_path / 'ckpt.pt').exists()

def test_bfloat16_trains(tmp_path):
    """Under autocast sampling and the gradient step must not share cached casts (torch before 2.10 cannot train through them)."""
    final = run(*TINY, '--steps', 6, '--baseline', 'prefix', '--dtype', 'bfloat16', '--out_dir', tmp_path)
    torch.manual_seed(1337)
    start = GPT(GPTConfig(9, 10, n_embd=8)).state_dict()
    assert final['steps'] == '6' and all(w.isfinite().all() for w in weights(tmp_path).values())
    assert weights(tmp_path).keys() == start.keys() and not same(weights(tmp_path), start)

def test_the_seed_decides_what_is_sampled(supervised, tmp_path, monkeypatch):
    """The same weights and questions, another seed: other chains."""
    monkeypatch.setattr(train_rl, 'sample_batch', lambda task, n, seed, *rest, **options: sample_batch(task, n, 7, *rest, **options))
    rewards = []
    for seed in (1, 2, 1):
        argv = ('--nodes', 6, '--hops', '1-2', '--init_from', supervised / 'ckpt.pt', '--steps', 8, '--log_interval', 1, '--n_test', 5, '--seed', seed)
        folder = tmp_path / str(len(rewards))
        run(*argv, '--batch_size', 4, '--out_dir', folder)
        rewards.append([r['reward'] for r in records(folder)])
    assert rewards[0] == rewards[2] != rewards[1]

# ----------------------------------------------------------------------------- headlines

@pytest.mark.slow
@pytest.mark.parametrize('argv, bars', [
    ('', dict(acc=(0.99, 1), valid=(0.99, 1))),
    ('--hops 4', dict(acc=(0, 1 / 9 + 0.05))),  # without easy questions the answer is never found
    ('--nodes 20 --hops 1-6 --curriculum --steps 2000', dict(acc=(0.99, 1)))])
def test_headline(argv, bars, tmp_path):
    final = run(*argv.split(), '--seed', 1337, '--out_dir', tmp_path)
    assert all(low <= float(final[name]) <= high for name, (low, high) in bars.items()), final
