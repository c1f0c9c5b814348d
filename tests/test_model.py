"""What the model computes, against explicit loops and against itself computed the long way round."""

import math

import pytest
import torch
import torch.nn.functional as F

import model as model_py
from model import GPT, GPTConfig, rotate

V, T = 16, 12
every_kind = pytest.mark.parametrize('pos, n_loop', [(pos, n_loop) for pos in ('learned', 'rope', 'none') for n_loop in (1, 2)])

def make(seed=0, dtype=torch.float64, **options):
    """A small model whose weights are large enough for every part of it to matter; float64, so that 'equal' can be strict."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**{'vocab_size': V, 'block_size': T, 'n_layer': 2, 'n_head': 2, 'n_embd': 16} | options)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.3 if p.dim() == 2 else torch.rand_like(p) + 0.5)
    return model

def tokens(B=3, length=T, seed=1):
    return torch.randint(V, (B, length), generator=torch.Generator().manual_seed(seed))

def ragged_mask(B=4):
    """Rows with every, none, one and some positions."""
    mask = torch.rand(B, T, generator=torch.Generator().manual_seed(2)) < 0.4
    mask[0], mask[1], mask[2] = True, False, torch.arange(T) == 5
    return mask

@every_kind
def test_a_causal_model_cannot_see_later_tokens(pos, n_loop):
    model, x = make(pos=pos, n_loop=n_loop), tokens()
    before = model(x)
    for t in range(T):
        y = x.clone()
        y[:, t] = (y[:, t] + 1) % V
        change = (model(y) - before).abs().amax(-1)
        assert t == 0 or change[:, :t].max() < 1e-12
        assert (change[:, t:] > 1e-6).all()  # and every later position does see it

@every_kind
def test_without_causal_earlier_positions_see_later_tokens(pos, n_loop):
    model, x = make(pos=pos, n_loop=n_loop, causal=False), tokens()
    y = x.clone()
    y[:, -1] = (y[:, -1] + 1) % V
    assert ((model(y) - model(x)).abs().amax(-1) > 1e-6).all()

@pytest.mark.parametrize('n_layer', [1, 2, 3])
@pytest.mark.parametrize('causal', [True, False])
@every_kind
def test_masked_forward_gives_the_logits_and_gradients_of_the_full_one(pos, n_loop, causal, n_layer):
    model, x, y, mask = make(pos=pos, n_loop=n_loop, causal=causal, n_layer=n_layer), tokens(4), tokens(4, seed=3), ragged_mask()
    names, params = zip(*model.named_parameters(), strict=True)
    full, masked = model(x)[mask], model(x, mask)
    assert torch.allclose(full, masked, atol=1e-10)
    grads = [torch.autograd.grad(F.cross_entropy(logits, y[mask]), params) for logits in (full, masked)]
    for name, a, b in zip(names, *grads, strict=True):
        assert torch.allclose(a, b, atol=1e-10) and a.abs().max() > 1e-8, name

def test_masked_forward_in_float32_and_with_nothing_masked():
    model, x, mask = make(dtype=torch.float32), tokens(4), ragged_mask()
    for p, q in zip(*(torch.autograd.grad(z.square().mean(), list(model.parameters())) for z in (model(x)[mask], model(x, mask))), strict=True):
        assert torch.allclose(p, q, atol=1e-5)
    assert model(x, torch.zeros_like(mask)).shape == (0, V)

def pick(p, u):
    """The first token at which the cumulative distribution exceeds u: a plain loop."""
    total = 0.0
    for token, x in enumerate(p.tolist()):
        total += x
        if total > u:
            return token
    return max(i for i, x in enumerate(p.tolist()) if x > 0)  # u above the sum, by rounding

def distribution(model, x, temperature=1.0, top_k=None):
    """What the next token of each row of x is drawn from, (B, V), by an uncached forward."""
    logits = model(x)[:, -1].detach() / temperature
    for row in logits:
        row[row.argsort(descending=True)[top_k or V:]] = -math.inf
    return logits.softmax(-1)

@pytest.mark.parametrize('length', [1, 5])
@every_kind
def test_generate_is_the_loop_anyone_would_write(pos, n_loop, length):
    """Greedy, and by inverse CDF from the generator's numbers, drawn at once; from the cache and without it."""
    model, x = make(pos=pos, n_loop=n_loop), tokens(5, length)
    for temperature, top_k in ((0.0, None), (1.0, None), (0.7, 3), (1.0, 99)):
        want, uniform = x, torch.rand(5, T - length, generator=torch.Generator().manual_seed(4))
        for t in range(T - length):
            if temperature:
                p = distribution(model, want, temperature, top_k)
                new = torch.tensor([[pick(p[b], uniform[b, t].item())] for b in range(5)])
            else:
                new = model(want)[:, -1:].argmax(-1)
            want = torch.cat((want, new), dim=1)
        for use_cache in (True, False):
            got = model.generate(x, T - length, temperature, top_k, torch.Generator().manual_seed(4), use_cache)
            assert torch.equal(got, want), (temperature, top_k, use_cache)
    assert torch.equal(model.generate(x, 0), x)
    assert torch.equal(model.generate(x, 3, 1.0, top_k=1), model.generate(x, 3))

@pytest.mark.parametrize('length', [1, 5])
@every_kind
def test_many_samples_of_a_prompt_are_samples_of_many_copies_of_it(pos, n_loop, length):
    model, x, G = make(pos=pos, n_loop=n_loop), tokens(3, length), 4
    copies = torch.stack([row for row in x for _ in range(G)])
    uniform = torch.rand(3 * G, T - length, generator=torch.Generator().manual_seed(6))
    for temperature, use_cache in ((1.0, True), (1.0, False), (0.0, True), (0.0, False)):
        want, want_logp = model.generate(copies, T - length, temperature, uniform=uniform, use_cache=False, return_logp=True)
        got, logp = model.generate(x, T - length, temperature, uniform=uniform, use_cache=use_cache, samples=G, return_logp=True)
        assert torch.equal(got, want) and torch.allclose(logp, want_logp, atol=1e-5)
        assert len({tuple(row) for row in got.tolist()}) == (3 * G if temperature else 3)
    assert torch.equal(model.generate(x, 0, samples=G), copies)

def test_a_grid_of_random_numbers_meets_every_token_as_often_as_its_probability():
    """Of n evenly spaced numbers an interval of length p holds p * n, give or take one. And no number, 0 or the largest below 1
    included, meets a token of probability 0, whether it was cut off (top_k) or underflowed."""
    model, x, n = make(), tokens(1, 5), 5000
    grid = ((torch.arange(n) + 0.5) / n)[:, None]
    for temperature, top_k in ((1.0, None), (3.0, None), (1.0, 4), (0.02, None)):
        p = distribution(model, x, temperature, top_k)[0].float()
        count = model.generate(x, 1, temperature, top_k, samples=n, uniform=grid)[:, -1].bincount(minlength=V)
        assert ((count / n - p).abs() < 1.01 / n).all(), (temperature, top_k)
        possible = p.nonzero()[:, 0]
        assert len(possible) == (top_k or V) and (p > 0.01).sum() > 1 or temperature == 0.02
        ends = model.generate(x, 1, temperature, top_k, samples=2, uniform=torch.tensor([[0.0], [1 - 2**-24]]))[:, -1]
        assert ends[0] == possible[0] and p[ends[1]] > 0 and ends[1] == max(t for t in possible.tolist() if p[t] > 1e-6)
    x = tokens(200, 5)
    for temperature in (1.0, 0.1):  # rounded sums below 1 are no trap either
        last = model.generate(x, 1, temperature, uniform=torch.full((200, 1), 1 - 2**-24))[:, -1:]
        assert last.max() < V and (distribution(model, x, temperature).float().gather(1, last) > 0).all()
    assert possible[0] > 0 and possible[-1] < V - 1  # in the last case there was something to avoid at both ends

def test_return_logp_is_what_each_token_was_drawn_with():
    """Greedy tokens count as drawn at temperature 1; among top_k the probabilities are those of the k alone."""
    model, x, G = make(), tokens(3, 4), 2
    for temperature, top_k, use_cache in ((1.0, None, True), (0.7, None, False), (0.7, 3, True), (0.0, None, True), (0.0, 3, False)):
        out, logp = model.generate(x, T - 4, temperature, top_k, torch.Generator().manual_seed(7), use_cache, G, return_logp=True)
        assert logp.shape == (3 * G, T - 4) and logp.dtype == torch.float32 and out.shape == (3 * G, T)
        for t in range(4, T):
            p = distribution(model, out[:, :t], temperature or 1.0, top_k)
            want = torch.stack([p[b, out[b, t]].log() for b in range(3 * G)])
            assert torch.allclose(logp[:, t - 4], want.float(), atol=1e-5), (temperature, top_k, t)

def siblings(P=3, G=4, S=5):
    """P prompts of S tokens, each continued G times, and masks with every, none, one and some positions, inside the prompt too."""
    x = tokens(P, S, seed=8).repeat_interleave(G, 0)
    mask = torch.rand(P * G, T, generator=torch.Generator().manual_seed(9)) < 0.4
    mask[0], mask[1], mask[2], mask[3] = True, False, torch.arange(T) == S - 1, torch.arange(T) == 1
    return torch.cat((x, tokens(P * G, T - S, seed=10)), 1), mask

@pytest.mark.parametrize('n_layer', [1, 2])
@every_kind
def test_rows_that_share_a_prompt_give_the_logits_and_gradients_of_rows_that_do_not(pos, n_loop, n_layer):
    """Down to S = T, where nothing follows the prompt, and up to masks that fill the packed row."""
    model = make(pos=pos, n_loop=n_loop, n_layer=n_layer)
    for P, G, S in ((3, 4, 5), (2, 3, T), (2, 3, T - 1), (5, 1, 3), (1, 6, 1)):
        x, ragged = siblings(P, max(G, 4), S)
        x, ragged = (z.view(P, -1, T)[:, :G].reshape(P * G, T) for z in (x, ragged))
        for mask in (ragged, torch.ones_like(ragged), (torch.arange(T) >= S - 1).expand_as(x)):
            y = tokens(P * G, seed=11)[mask]
            plain, shared = model(x)[mask], model(x, mask, shared=(S, G))
            assert torch.allclose(plain, shared, atol=1e-10), (P, G, S)
            grads = [torch.autograd.grad(F.cross_entropy(z, y, reduction='sum'), list(model.parameters())) for z in (plain, shared)]
            for (name, _), a, b in zip(model.named_parameters(), *grads, strict=True):
                assert torch.allclose(a, b, atol=1e-10), (name, P, G, S)

@pytest.mark.parametrize('n_layer', [1, 2])
@every_kind
def test_a_continuation_cannot_see_its_siblings(pos, n_loop, n_layer):
    P, G, S = 3, 4, 5
    model, (x, _) = make(pos=pos, n_loop=n_loop, n_layer=n_layer), siblings(P, G, S)
    mask = torch.ones_like(x, dtype=torch.bool)
    before = model(x, mask, shared=(S, G)).view(P * G, T, V)
    for row in (0, 2, 3, 5, 11):
        for t in (S, T - 2):
            y = x.clone()
            y[row, t:] = (y[row, t:] + 1) % V
            change = (model(y, mask, shared=(S, G)).view(P * G, T, V) - before).abs().amax(-1)
            assert (change[row, t:] > 1e-6).all() and change[row, :t].max() < 1e-12
            change[row] = 0
            assert change.max() < 1e-12

def test_generate_works_under_autocast():
    """The cache then holds bfloat16 while the weights stay float32."""
    model, x = make(dtype=torch.float32), tokens(length=4)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(model.generate(x, 6), model.generate(x, 6, use_cache=False))

@pytest.mark.parametrize('training', [True, False])
def test_generate_ignores_dropout_and_leaves_the_mode_as_it_was(training):
    model, x = make(dropout=0.5).train(training), tokens(length=4)
    greedy = model.generate(x, 8)
    assert model.training == training == model.blocks[0].training
    assert torch.equal(greedy, model.generate(x, 8)) and torch.equal(greedy, model.eval().generate(x, 8))

# ----------------------------------------------------------------------------- Jacobi decoding, and the price of a forward pass

def fixed_point(model, row, n):
    """Guess n tokens after a row, each from the guess before it, until nothing changes: (the guess, the round that changed each last)."""
    guess, changed, i = [0] * n, [0] * n, 0
    while True:
        new = model(torch.tensor([[*row, *guess]]))[0, len(row) - 1:-1].argmax(-1).tolist()
        if new == guess:
            return guess, changed
        i += 1
        guess, changed = new, [i if a != b else c for a, b, c in zip(new, guess, changed, strict=True)]

@pytest.mark.parametrize('length', [1, 5])
@every_kind
def test_jacobi_decoding_writes_the_greedy_tokens_each_by_its_place_in_line_at_the_latest(pos, n_loop, length):
    seen = set()
    for seed in range(3):
        model, x, n = make(seed, pos=pos, n_loop=n_loop, dropout=0.3), tokens(4, length, seed), T - length
        out, rounds = model.generate(x, n, jacobi=True)
        assert torch.equal(out, model.generate(x, n)) and model.training
        assert out.dtype == rounds.dtype == torch.int64 and rounds.shape == (4, n) and (rounds <= torch.arange(1, n + 1)).all()
        model.eval()
        for row, written, r in zip(x.tolist(), out.tolist(), rounds.tolist(), strict=True):  # each row's own rounds, not the batch's
            assert (written[length:], r) == fixed_point(model, row, n)
        seen |= set(rounds.amax(1).tolist())
    assert len(seen) > 1

def test_tokens_that_wait_for_one_another_take_a_round_each_and_others_take_one():
    def successor(idx, wanted):  # each token is the one before it, plus one: nothing can be known ahead
        return F.one_hot((idx + 1) % V, V)[wanted].float()

    def by_place(idx, wanted):  # the place alone decides
        return F.one_hot(torch.arange(1, idx.size(1) + 1).expand_as(idx), V)[wanted].float()

    def mixed(idx, wanted):  # a row that begins with 1 counts on, another writes zeros
        return F.one_hot((idx + 1) * (idx[:, :1] == 1), V)[wanted].float()
    x = torch.tensor([[1, 4], [2, 3]])
    for forward, want, rounds in ((successor, [[5, 6, 7, 8, 9], [4, 5, 6, 7, 8]], [[1, 2, 3, 4, 5]] * 2),
                                  (by_place, [[2, 3, 4, 5, 6]] * 2, [[1] * 5] * 2),
                                  (mixed, [[5, 6, 7, 8, 9], [0] * 5], [[1, 2, 3, 4, 5], [0] * 5])):  # zeros are the first guess
        model = make()
        model.forward = forward
        out, took = model.generate(x, 5, jacobi=True)
        assert out.tolist() == [row + new for row, new in zip(x.tolist(), want, strict=True)] and took.tolist() == rounds
    model = make(pos='learned')
    with torch.no_grad():
        model.wpe.weight.mul_(1e6)  # where a token stands drowns what it is
    out, rounds = model.generate(tokens(3, 4), 8, jacobi=True)
    assert torch.equal(out, model.generate(tokens(3, 4), 8)) and rounds.max() == 1 and len(set(out[0, 4:].tolist())) > 2
    out, rounds = model.generate(tokens(3, 4), 0, jacobi=True)
    assert torch.equal(out, tokens(3, 4)) and rounds.shape == (3, 0)

@pytest.mark.parametrize('options', [{'temperature': 1.0}, {'samples': 2}, {'return_logp': True}, {'temperature': 0.5, 'top_k': 1}, {'max_new_tokens': 8}])
def test_jacobi_does_not_sample(options):
    with pytest.raises(ValueError):
        make().generate(tokens(length=5), **{'max_new_tokens': 3, 'jacobi': True} | options)

@pytest.mark.parametrize('n_layer, n_loop', [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize('picked', [1, 3, T])
def test_flops_are_the_matrix_products_of_a_forward_pass(n_layer, n_loop, picked, monkeypatch):
    """Counted at every linear layer, at the attention's two products, and at the head."""
    model, linear, attention = make(n_layer=n_layer, n_loop=n_loop, pos='learned'), [], []
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda m, x, y: linear.append(2 * x[0].numel() * y.size(-1)))
    attend = model_py.attend
    monkeypatch.setattr(model_py, 'attend', lambda q, k, *rest: attention.append(2 * 2 * q.numel() * k.size(2)) or attend(q, k, *rest))
    logits = model(tokens(1), (torch.arange(T) >= T - picked).expand(1, -1))
    head = 2 * 16 * logits.numel()
    assert model.flops(T, picked) == sum(linear) + head and model.flops(T, picked, keys=T) == sum(linear) + head + sum(attention)
    assert model.flops(5, 1) + model.flops(7, 2) == model.flops(12, 3)  # prices of passes add up

def test_flops_of_two_layers_by_hand():
    """16 channels, vocabulary 16; the first layer: 5 tokens through 4 + 8 matrices of 16 x 16; the last: k and v of all 5, the rest of 1."""
    assert make(n_layer=2).flops(5, 1) == 2 * 256 * (5 * 12 + 5 * 2 + 1 * 10 + 1)
    assert make(n_layer=2).flops(5, 1, keys=5) - make(n_layer=2).flops(5, 1) == 2 * 2 * 16 * 5 * (5 + 1)

def norm(x, gain):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * gain

@pytest.mark.parametrize('causal', [True, False])
@pytest.mark.parametrize('pos', ['none', 'rope'])
def test_a_block_is_attention_then_mlp_written_out(pos, causal):
    """Head by head and position by position, with rope as complex multiplication (the paper's own form)."""
    model = make(pos=pos, causal=causal, n_head=4)
    block, x, D = model.blocks[0], torch.randn(2, T, 16, dtype=torch.float64), 4
    h = norm(x, block.ln_1.weight)
    q, k, v = (h @ part.weight.T for part in (block.q, block.k, block.v))
    mixed = torch.zeros_like(x)
    for b in range(2):
        for head in range(4):
            s = slice(head * D, (head + 1) * D)
            q_, k_, v_ = q[b, :, s], k[b, :, s], v[b, :, s]
            if pos == 'rope':
                angle = torch.arange(T)[:, None] * 10000.0 ** -torch.tensor([0.0, 0.5])
                turn = torch.polar(torch.ones(T, 2, dtype=torch.float64), angle.double())
                q_, k_ = (torch.complex(z[:, :2], z[:, 2:]) * turn for z in (q_, k_))
            for t in range(T):
                seen = t + 1 if causal else T
                score = torch.stack([(q_[t] * k_[u].conj()).sum().real for u in range(seen)]) / math.sqrt(D)
                weight = score.exp() / score.exp().sum()
                mixed[b, t, s] = sum(weight[u] * v_[u] for u in range(seen))
    want = x + mixed @ block.proj.weight.T
    fc = norm(want, block.ln_2.weight) @ block.fc.weight.T
    want = want + (fc * 0.5 * (1 + torch.erf(fc / math.sqrt(2)))) @ block.out.weight.T
    assert torch.allclose(block(x, model.rope if pos == 'rope' else None), want, atol=1e-6)  # rope's table is float32

def test_logits_are_the_embedding_read_backwards():
    """Tied head: no other matrix of V rows, and the final norm stands before it."""
    model, x = make(n_layer=1, pos='learned'), tokens()
    h = model.blocks[0](model.wte.weight[x] + model.wpe.weight[torch.arange(T)])
    assert torch.allclose(model(x), norm(h, model.ln_f.weight) @ model.wte.weight.T, atol=1e-10)

@pytest.mark.parametrize('pos', ['learned', 'rope', 'none'])
def test_two_loops_of_one_layer_are_two_equal_layers(pos):
    loop, deep, x = make(pos=pos, n_layer=1, n_loop=2), make(pos=pos, n_layer=2, seed=5), tokens()
    assert not torch.allclose(loop(x), make(pos=pos, n_layer=1)(x))
    state = loop.state_dict()
    deep.load_state_dict(state | {k.replace('blocks.0', 'blocks.1'): v for k, v in state.items()})
    assert torch.allclose(loop(x), deep(x), atol=1e-12)

def test_loops_go_through_the_whole_stack():
    """Two layers, twice: 0 1 0 1, not 0 0 1 1."""
    model, x = make(n_loop=2, pos='none'), tokens()
    a, b = model.blocks
    h = b(a(b(a(model.wte(x)))))
    assert torch.allclose(model(x), F.linear(model.ln_f(h), model.wte.weight), atol=1e-12)

@pytest.mark.parametrize('n_layer, n_loop, C', [(1, 1, 16), (3, 1, 32), (3, 4, 32)])
def test_parameter_count(n_layer, n_loop, C):
    for pos, table in (('learned', T * C), ('rope', 0), ('none', 0)):
        model = make(n_layer=n_layer, n_loop=n_loop, n_embd=C, pos=pos)
        assert model.num_params() == 12 * C * C * n_layer + V * C + table + (2 * n_layer + 1) * C
        assert sum(v.numel() for v in model.state_dict().values()) == model.num_params()  # nothing else is saved

@every_kind
def test_every_layer_acts(pos, n_loop):
    """In FactorExe only the last layer did."""
    model, x = make(pos=pos, n_loop=n_loop, n_layer=3), tokens()
    model(x).square().mean().backward()
    assert all(p.grad.abs().max() > 1e-8 for p in model.parameters())
    before = model(x)
    for block in model.blocks:
        forward, block.forward = block.forward, lambda x, *_: x
        assert (model(x) - before).abs().max() > 1e-3
        block.forward = forward
    assert torch.equal(model(x), before)

@pytest.mark.parametrize('n_layer, n_loop, C', [(1, 1, 32), (3, 1, 64), (2, 3, 64)])
def test_initialisation(n_layer, n_loop, C):
    """GPT-2's 0.02 is for 768 channels; what writes to the residual stream is smaller by the root of how often that happens.
    The loss starts at ln V plus half the variance of the logits (0.02^2 * 768 / 2 = 0.15), within 0.25 nats."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(64, 32, n_layer, 2, C, n_loop))
    std = 0.02 * math.sqrt(768 / C)
    for name, p in model.named_parameters():
        if p.dim() == 1:
            assert (p == 1).all()
        else:
            residual = name.split('.')[-2] in ('proj', 'out')
            assert p.std().item() == pytest.approx(std / math.sqrt(2 * n_layer * n_loop) if residual else std, rel=0.1), name
            assert abs(p.mean().item()) < 0.1 * std
    x, y = torch.randint(64, (2, 64, 32))
    assert abs(F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item() - math.log(64) - 0.15) < 0.25

@pytest.mark.parametrize('D', [8, 9])
def test_rope_turns_products_by_relative_position_only(D):
    model = make(pos='rope', n_embd=2 * D)
    q, k = torch.randn(2, D, dtype=torch.float64)
    assert rotate(q, *model.rope[:, 1])[8:].equal(q[8:])  # the odd channel out

    def score(m, n):
        return rotate(q, *model.rope[:, m]) @ rotate(k, *model.rope[:, n])

    for gap in range(-5, 6):
        scores = [score(m, m + gap) for m in range(T) if 0 <= m + gap < T]
        assert all(torch.allclose(s, scores[0], atol=1e-5) for s in scores)
    assert len({round(score(0, n).item(), 6) for n in range(T)}) == T  # and different gaps do differ
    assert torch.allclose(rotate(q, *model.rope[:, 7]).norm(), q.norm(), atol=1e-6)

def test_where_a_sequence_starts_matters_to_learned_positions_only():
    x = tokens(length=6)
    for pos, same in (('learned', False), ('rope', True), ('none', True)):
        model = make(pos=pos)
        assert torch.allclose(model(x, start=4), model(x), atol=1e-5) == same

def test_a_cache_in_use_takes_one_token_at_a_time():
    model = make()
    cache = model.new_cache(3, T)
    model(tokens(length=4), cache=cache)
    with pytest.raises(ValueError, match='one token at a time'):
        model(tokens(length=2), cache=cache, start=4)

def test_order_of_the_context_is_invisible_to_one_layer_without_positions():
    x = tokens()
    y = torch.cat((x[:, :-1].flip(1), x[:, -1:]), dim=1)
    for pos, same in (('learned', False), ('rope', False), ('none', True)):
        model = make(pos=pos, n_layer=1)
        assert torch.allclose(model(y)[:, -1], model(x)[:, -1], atol=1e-8) == same

def test_layer_norm_gains_do_not_decay():
    """With zero gradients only decay moves a parameter: by a factor 1 - lr * weight_decay."""
    model = make()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = model.configure_optimizer(0.1, 0.5)
    model(tokens()).sum().mul(0).backward()
    optimizer.step()
    for name, p in model.named_parameters():
        assert torch.allclose(p, before[name] * (1.0 if 'ln_' in name else 0.95), atol=1e-12), name
    assert sum(len(g['params']) for g in optimizer.param_groups) == len(before)

def test_dropout_acts_in_training_only():
    model, x = make(dropout=0.3), tokens()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x)) and torch.allclose(model(x), make()(x), atol=1e-12)

@pytest.mark.parametrize('options, word', [
    ({'n_head': 3}, 'n_head'), ({'pos': 'sinus'}, 'pos'), ({'dropout': 1.0}, 'dropout'), ({'dropout': -0.1}, 'dropout'), ({'n_layer': 0}, 'n_layer'),
    ({'n_loop': 0}, 'n_loop'), ({'vocab_size': 0}, 'vocab_size'), ({'pos': 'rope', 'n_embd': 4, 'n_head': 4}, 'pairs')])
def test_a_config_that_cannot_work_is_refused(options, word):
    with pytest.raises(ValueError, match=word):
        make(**options)

def test_sequences_that_do_not_fit_are_refused():
    model, x = make(), tokens()
    model.generate(x[:, :-1], 1)  # fills block_size exactly
    for call in (lambda: model(tokens(length=T + 1)), lambda: model.generate(x, 1), lambda: make(causal=False).generate(x[:, :2], 1)):
        with pytest.raises(ValueError):
            call()

@pytest.mark.parametrize('pos, n_loop', [('learned', 1), ('rope', 2), ('none', 1)])
def test_rows_that_end_early_are_cut_there_and_nothing_else_changes(pos, n_loop):
    """Countdown's batches: many rows want nothing behind their verdict. Same logits in the same order, same gradients, fewer tokens."""
    model, idx = make(pos=pos, n_loop=n_loop, n_layer=2), tokens(8)
    mask = torch.zeros_like(idx, dtype=torch.bool)
    mask[:, 3] = True
    mask[[1, 4, 6], 3:] = True  # three of eight rows go on to the end
    mask[2, 1] = True
    seen = []
    hook = model.drop.register_forward_hook(lambda module, args, out: seen.append(out.shape[0] * out.shape[1]))
    ours = model(idx, mask)
    hook.remove()
    assert seen == [5 * 4, 3 * T]
    theirs = model(idx)[mask]
    assert torch.allclose(ours, theirs, atol=1e-12)
    weight = torch.randn(ours.shape, dtype=ours.dtype, generator=torch.Generator().manual_seed(3))
    for a, b in zip(*(torch.autograd.grad((logits * weight).sum(), list(model.parameters())) for logits in (ours, theirs)), strict=True):
        assert torch.allclose(a, b, atol=1e-12)

def test_visible_is_refused_where_it_would_be_ignored():
    for causal, mask in ((True, torch.ones(2, 5, dtype=torch.bool)), (False, None)):
        model = GPT(GPTConfig(7, 8, causal=causal))
        with pytest.raises(ValueError, match='visible'):
            model(torch.zeros(2, 5, dtype=torch.long), mask, visible=torch.ones(2, 5, dtype=torch.bool))
