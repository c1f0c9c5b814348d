"""model.py, against explicit loops and against itself computed the long way round."""

import math

import pytest
import torch
import torch.nn.functional as F

import model as model_py
from model import GPT, GPTConfig, rotate


V = 16  # vocabulary
T = 12  # block size

every_kind = pytest.mark.parametrize('pos, n_loop', [
    ('learned', 1), ('learned', 2), ('rope', 1), ('rope', 2), ('none', 1), ('none', 2)])


def make_model(seed=0, dtype=torch.float64, **options):
    """A small model whose weights are so large that every part of it matters. float64, so that
    'equal' can be strict."""
    torch.manual_seed(seed)
    defaults = dict(vocab_size=V, block_size=T, n_layer=2, n_head=2, n_embd=16)
    model = GPT(GPTConfig(**defaults | options)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.3 if p.dim() == 2 else torch.rand_like(p) + 0.5)
    return model


def generator(seed):
    return torch.Generator().manual_seed(seed)


def random_tokens(B=3, length=T, seed=1):
    return torch.randint(V, (B, length), generator=generator(seed))


def other_tokens(idx):
    """A different token at every place."""
    return (idx + 1) % V


def ragged_mask(B=4):
    """A loss mask whose rows have all, none, one and some of the positions."""
    mask = torch.rand(B, T, generator=generator(2)) < 0.4
    mask[0] = True
    mask[1] = False
    mask[2] = torch.arange(T) == 5
    return mask


def change_of_logits(a, b):
    """How much the logits of each position differ: (B, T)."""
    return (a - b).abs().amax(dim=-1)


def gradients(value, model):
    return torch.autograd.grad(value, list(model.parameters()))


def assert_same_gradients(a, b, model, atol):
    """a and b: scalars computed by the model."""
    names = [name for name, _ in model.named_parameters()]
    for name, p, q in zip(names, gradients(a, model), gradients(b, model), strict=True):
        assert torch.allclose(p, q, atol=atol), name


# -----------------------------------------------------------------------------
# which positions see which

@every_kind
def test_a_causal_model_sees_no_later_token_and_every_earlier_one(pos, n_loop):
    model = make_model(pos=pos, n_loop=n_loop)
    idx = random_tokens()
    logits = model(idx)
    for t in range(T):
        changed = idx.clone()
        changed[:, t] = other_tokens(idx[:, t])
        change = change_of_logits(model(changed), logits)
        assert (change[:, :t] < 1e-12).all()
        assert (change[:, t:] > 1e-6).all()


@every_kind
def test_without_causal_earlier_positions_see_later_tokens(pos, n_loop):
    model = make_model(pos=pos, n_loop=n_loop, causal=False)
    idx = random_tokens()
    changed = idx.clone()
    changed[:, -1] = other_tokens(idx[:, -1])
    assert (change_of_logits(model(changed), model(idx)) > 1e-6).all()


def test_learned_positions_alone_depend_on_where_a_sequence_starts():
    idx = random_tokens(length=6)
    for pos, is_same in (('learned', False), ('rope', True), ('none', True)):
        model = make_model(pos=pos)
        assert torch.allclose(model(idx, start=4), model(idx), atol=1e-5) == is_same


def test_one_layer_without_positions_does_not_see_the_order_of_the_context():
    idx = random_tokens()
    reordered = torch.cat((idx[:, :-1].flip(1), idx[:, -1:]), dim=1)
    for pos, is_same in (('learned', False), ('rope', False), ('none', True)):
        model = make_model(pos=pos, n_layer=1)
        last = model(idx)[:, -1]
        assert torch.allclose(model(reordered)[:, -1], last, atol=1e-8) == is_same


def test_visible_is_refused_where_it_would_be_ignored():
    idx = torch.zeros(2, 5, dtype=torch.long)
    everywhere = torch.ones(2, 5, dtype=torch.bool)
    causal = GPT(GPTConfig(7, 8))
    with pytest.raises(ValueError, match='visible'):
        causal(idx, everywhere, visible=everywhere)
    not_causal = GPT(GPTConfig(7, 8, causal=False))
    with pytest.raises(ValueError, match='visible'):
        not_causal(idx, visible=everywhere)


# -----------------------------------------------------------------------------
# forward at the loss positions, and the two ways to save work

@pytest.mark.parametrize('n_layer', [1, 2, 3])
@pytest.mark.parametrize('causal', [True, False])
@every_kind
def test_a_loss_mask_gives_the_logits_and_gradients_of_the_full_forward(
        pos, n_loop, causal, n_layer):
    model = make_model(pos=pos, n_loop=n_loop, causal=causal, n_layer=n_layer)
    idx = random_tokens(4)
    mask = ragged_mask()
    target = random_tokens(4, seed=3)[mask]
    full = model(idx)[mask]
    masked = model(idx, mask)
    assert torch.allclose(full, masked, atol=1e-10)

    full_loss = F.cross_entropy(full, target)
    for gradient in torch.autograd.grad(
            full_loss, list(model.parameters()), retain_graph=True):
        assert gradient.abs().max() > 1e-8  # there is something to compare
    assert_same_gradients(full_loss, F.cross_entropy(masked, target), model, atol=1e-10)


def test_a_loss_mask_gives_the_gradients_of_the_full_forward_in_float32():
    model = make_model(dtype=torch.float32)
    idx = random_tokens(4)
    mask = ragged_mask()
    full = model(idx)[mask].square().mean()
    masked = model(idx, mask).square().mean()
    assert_same_gradients(full, masked, model, atol=1e-5)


# loss masks with few queries a row, so that no keys and values are made
FEW_QUERIES = {
    'the last position': lambda: torch.arange(T).expand(4, T) == T - 1,
    'two positions': lambda: (torch.arange(T) % 7 == 3).expand(4, T),
    'one or two': lambda: (torch.arange(T) % 7 == 3) & (
        torch.arange(4)[:, None] + torch.arange(T) != 4),  # row 1 has no loss at 3
}


@pytest.mark.parametrize('mask', FEW_QUERIES.values(), ids=FEW_QUERIES)
@pytest.mark.parametrize('n_layer, n_loop', [(1, 1), (2, 1), (1, 3)])
@pytest.mark.parametrize('n_head', [1, 2, 4])
@pytest.mark.parametrize('causal', [True, False])
def test_few_queries_read_the_inputs_of_keys_and_values(causal, n_head, n_layer, n_loop, mask):
    model = make_model(causal=causal, n_head=n_head, n_layer=n_layer, n_loop=n_loop)
    idx = random_tokens(4)
    mask = mask()
    target = random_tokens(4, seed=3)[mask]
    full = model(idx)[mask]
    keys_made = []
    model.blocks[-1].k.register_forward_hook(lambda *_: keys_made.append(True))
    few = model(idx, mask)

    assert len(keys_made) == n_loop - 1  # none in the last application of the last block
    assert torch.allclose(full, few, atol=1e-10)
    assert_same_gradients(
        F.cross_entropy(full, target), F.cross_entropy(few, target), model, atol=1e-10)

    # the same without that path
    model.blocks[-1].channels_a_query = math.inf
    assert torch.allclose(model(idx, mask), few, atol=1e-10)
    assert len(keys_made) == 2 * n_loop - 1


def test_few_queries_give_the_gradients_of_the_full_forward_in_float32():
    model = make_model(dtype=torch.float32)
    idx = random_tokens(4)
    mask = FEW_QUERIES['two positions']()
    full = model(idx)[mask].square().mean()
    few = model(idx, mask).square().mean()
    largest = max(gradient.abs().max() for gradient in gradients(model(idx).square().mean(), model))
    assert_same_gradients(full, few, model, atol=1e-6 * largest)


@pytest.mark.parametrize('options, n_queries', [
    (dict(pos='rope'), 1),      # keys are turned by their own angles
    (dict(dropout=0.1), 1),
    (dict(n_head=4), 3),        # 12 queries for 16 channels: keys and values are cheaper
])
def test_keys_are_made_where_they_pay_or_must_be(options, n_queries):
    model = make_model(n_layer=1, **options)
    keys_made = []
    model.blocks[0].k.register_forward_hook(lambda *_: keys_made.append(True))
    model(random_tokens(4), (torch.arange(T) >= T - n_queries).expand(4, T))
    assert keys_made == [True]


def test_a_cache_gets_its_keys_and_values_however_few_the_queries():
    model = make_model(n_layer=1)
    idx = random_tokens(4)
    cache = model.new_growing_cache()
    logits = model(idx, FEW_QUERIES['the last position'](), cache)
    k, v = cache[0]
    assert k.shape == v.shape == (4, 2, T, 8)
    assert torch.allclose(logits, model(idx)[:, -1], atol=1e-10)


def test_an_empty_loss_mask_gives_no_logits():
    nowhere = torch.zeros(4, T, dtype=torch.bool)
    assert make_model(dtype=torch.float32)(random_tokens(4), nowhere).shape == (0, V)


@pytest.mark.parametrize('pos, n_loop', [('learned', 1), ('rope', 2), ('none', 1)])
def test_rows_that_end_early_are_cut_there_and_nothing_else_changes(pos, n_loop):
    """As in countdown's batches, where many rows want nothing behind their verdict."""
    model = make_model(pos=pos, n_loop=n_loop)
    idx = random_tokens(8)
    mask = torch.zeros_like(idx, dtype=torch.bool)
    mask[:, 3] = True
    mask[[1, 4, 6], 3:] = True  # three of eight rows go on to the end
    mask[2, 1] = True

    # the tokens that are computed: five rows up to position 3, three to the end
    n_computed = []
    hook = model.drop.register_forward_hook(
        lambda module, args, out: n_computed.append(out.shape[0] * out.shape[1]))
    cut = model(idx, mask)
    hook.remove()
    assert n_computed == [5 * 4, 3 * T]

    full = model(idx)[mask]
    assert torch.allclose(cut, full, atol=1e-12)
    weight = torch.randn(cut.shape, dtype=cut.dtype, generator=generator(3))
    assert_same_gradients((cut * weight).sum(), (full * weight).sum(), model, atol=1e-12)


def continuations(P=3, G=4, S=5):
    """P prompts of S tokens with G continuations each, and a loss mask whose rows have all, none,
    one and some of the positions, those of the prompt among them."""
    prompts = random_tokens(P, S, seed=8).repeat_interleave(G, dim=0)
    idx = torch.cat((prompts, random_tokens(P * G, T - S, seed=10)), dim=1)
    mask = torch.rand(P * G, T, generator=generator(9)) < 0.4
    of_one_prompt = [
        torch.ones(T, dtype=torch.bool),
        torch.zeros(T, dtype=torch.bool),
        torch.arange(T) == S - 1,
        torch.arange(T) == 1,
    ]
    for row, row_mask in enumerate(of_one_prompt[:G]):
        mask[row] = row_mask
    return idx, mask


@pytest.mark.parametrize('n_layer, P, G, S', [
    (1, 3, 4, 5),
    (2, 3, 4, 5),
    (2, 2, 3, T),      # nothing follows the prompt
    (2, 2, 3, T - 1),
    (2, 5, 1, 3),      # one continuation for each prompt
    (2, 1, 6, 1),
])
@every_kind
def test_rows_that_share_a_prompt_give_the_logits_and_gradients_of_rows_that_do_not(
        pos, n_loop, n_layer, P, G, S):
    model = make_model(pos=pos, n_loop=n_loop, n_layer=n_layer)
    idx, ragged = continuations(P, G, S)
    everywhere = torch.ones_like(ragged)
    behind_prompt = (torch.arange(T) >= S - 1).expand_as(ragged)
    for mask in (ragged, everywhere, behind_prompt):
        target = random_tokens(P * G, seed=11)[mask]
        plain = model(idx)[mask]
        shared = model(idx, mask, shared=(S, G))
        assert torch.allclose(plain, shared, atol=1e-10)
        assert_same_gradients(
            F.cross_entropy(plain, target, reduction='sum'),
            F.cross_entropy(shared, target, reduction='sum'), model, atol=1e-10)


@pytest.mark.parametrize('n_layer', [1, 2])
@every_kind
def test_a_continuation_does_not_see_the_others_of_its_prompt(pos, n_loop, n_layer):
    P, G, S = 3, 4, 5
    model = make_model(pos=pos, n_loop=n_loop, n_layer=n_layer)
    idx, _ = continuations(P, G, S)
    everywhere = torch.ones_like(idx, dtype=torch.bool)

    def logits(idx):
        return model(idx, everywhere, shared=(S, G)).view(P * G, T, V)

    before = logits(idx)
    for row in (0, 2, 3, 5, 11):
        for t in (S, T - 2):
            changed = idx.clone()
            changed[row, t:] = other_tokens(idx[row, t:])
            change = change_of_logits(logits(changed), before)
            assert (change[row, t:] > 1e-6).all()
            assert change[row, :t].max() < 1e-12
            other_rows = torch.arange(P * G) != row
            assert change[other_rows].max() < 1e-12


# -----------------------------------------------------------------------------
# decoding

def first_above(p, u):
    """The first token whose cumulative probability exceeds u."""
    total = 0.0
    for token, probability in enumerate(p.tolist()):
        total += probability
        if total > u:
            return token
    return p.nonzero().max().item()  # u is above the sum, by rounding


def next_token_probabilities(model, idx, temperature=1.0, top_k=None):
    """What the next token of each row is drawn from, by a forward without cache: (B, V)."""
    logits = model(idx)[:, -1].detach() / temperature
    if top_k is not None:
        for row in logits:
            row[row.argsort(descending=True)[top_k:]] = -math.inf
    return logits.softmax(dim=-1)


def decode_by_hand(model, idx, n, temperature, top_k, uniform):
    """The loop that anyone would write."""
    for t in range(n):
        if temperature == 0:
            new = model(idx)[:, -1:].argmax(dim=-1)
        else:
            p = next_token_probabilities(model, idx, temperature, top_k)
            new = [[first_above(p[b], uniform[b, t].item())] for b in range(len(idx))]
            new = torch.tensor(new)
        idx = torch.cat((idx, new), dim=1)
    return idx


@pytest.mark.parametrize('length', [1, 5])
@every_kind
def test_generate_is_the_loop_that_anyone_would_write(pos, n_loop, length):
    """Greedy, or the inverse of the cumulative distribution at the generator's numbers, which are
    drawn at once. With the cache and without it."""
    model = make_model(pos=pos, n_loop=n_loop)
    idx = random_tokens(5, length)
    n = T - length
    uniform = torch.rand(5, n, generator=generator(4))
    for temperature, top_k in ((0.0, None), (1.0, None), (0.7, 3)):
        expected = decode_by_hand(model, idx, n, temperature, top_k, uniform)
        for use_cache in (True, False):
            output = model.generate(idx, n, temperature, top_k, generator(4), use_cache)
            assert torch.equal(output, expected), (temperature, top_k, use_cache)


def test_generating_nothing_returns_the_prompt():
    idx = random_tokens(5, 4)
    assert torch.equal(make_model().generate(idx, 0), idx)


def test_sampling_among_one_token_is_greedy():
    model = make_model()
    idx = random_tokens(5, 4)
    assert torch.equal(model.generate(idx, 3, 1.0, top_k=1), model.generate(idx, 3))


def test_a_top_k_above_the_vocabulary_changes_nothing():
    model = make_model()
    idx = random_tokens(5, 4)
    all_tokens = model.generate(idx, 8, 1.0, None, generator(4))
    assert torch.equal(model.generate(idx, 8, 1.0, 99, generator(4)), all_tokens)


@pytest.mark.parametrize('length', [1, 5])
@every_kind
def test_many_samples_of_a_prompt_are_samples_of_many_copies_of_it(pos, n_loop, length):
    model = make_model(pos=pos, n_loop=n_loop)
    G = 4
    n = 6
    idx = random_tokens(3, length)
    copies = idx.repeat_interleave(G, dim=0)
    uniform = torch.rand(3 * G, n, generator=generator(6))
    for temperature in (1.0, 0.0):
        expected, expected_logp = model.generate(
            copies, n, temperature, uniform=uniform, use_cache=False, return_logp=True)
        for use_cache in (True, False):
            output, logp = model.generate(
                idx, n, temperature, uniform=uniform, use_cache=use_cache, samples=G,
                return_logp=True)
            assert torch.equal(output, expected)
            assert torch.allclose(logp, expected_logp, atol=1e-5)
        n_different = len({tuple(row) for row in expected.tolist()})
        assert n_different == (3 * G if temperature > 0 else 3)
    assert torch.equal(model.generate(idx, 0, samples=G), copies)


SAMPLERS = pytest.mark.parametrize('temperature, top_k', [
    (1.0, None), (3.0, None), (1.0, 4), (0.02, None)])


@SAMPLERS
def test_a_grid_of_random_numbers_gives_each_token_as_often_as_its_probability(temperature, top_k):
    """An interval of length p holds n p of n evenly spaced numbers, give or take one."""
    model = make_model()
    idx = random_tokens(1, 5)
    n = 5000
    grid = ((torch.arange(n) + 0.5) / n)[:, None]
    p = next_token_probabilities(model, idx, temperature, top_k)[0].float()
    new = model.generate(idx, 1, temperature, top_k, samples=n, uniform=grid)[:, -1]
    assert ((new.bincount(minlength=V) / n - p).abs() < 1.01 / n).all()
    if temperature > 0.02:  # several tokens are likely
        assert len(p.nonzero()) == (top_k or V)
        assert (p > 0.01).sum() > 1


@SAMPLERS
def test_the_ends_of_the_unit_interval_give_no_token_of_probability_0(temperature, top_k):
    """0 and the largest number below 1. A token has probability 0 if top_k cut it off, or if it
    underflowed, as some do at temperature 0.02."""
    model = make_model()
    idx = random_tokens(1, 5)
    p = next_token_probabilities(model, idx, temperature, top_k)[0].float()
    possible = p.nonzero()[:, 0]
    if temperature == 0.02:  # there is something to avoid at both ends
        assert possible[0] > 0 and possible[-1] < V - 1

    ends = torch.tensor([[0.0], [1 - 2**-24]])
    first, last = model.generate(idx, 1, temperature, top_k, samples=2, uniform=ends)[:, -1]
    assert first == possible[0]
    assert p[last] > 0 and last == (p > 1e-6).nonzero().max()


@pytest.mark.parametrize('temperature', [1.0, 0.1])
def test_a_rounded_sum_below_1_is_no_trap(temperature):
    model = make_model()
    idx = random_tokens(200, 5)
    almost_1 = torch.full((200, 1), 1 - 2**-24)
    last = model.generate(idx, 1, temperature, uniform=almost_1)[:, -1:]
    assert last.max() < V
    p = next_token_probabilities(model, idx, temperature).float()
    assert (p.gather(1, last) > 0).all()


@pytest.mark.parametrize('temperature, top_k, use_cache', [
    (1.0, None, True), (0.7, None, False), (0.7, 3, True), (0.0, None, True), (0.0, 3, False)])
def test_return_logp_is_what_each_token_was_sampled_with(temperature, top_k, use_cache):
    """Greedy tokens count as sampled at temperature 1. With top_k, the k alone share 1."""
    model = make_model()
    output, logp = model.generate(
        random_tokens(3, 4), T - 4, temperature, top_k, generator(7), use_cache, samples=2,
        return_logp=True)
    assert output.shape == (6, T)
    assert logp.shape == (6, T - 4) and logp.dtype == torch.float32
    for t in range(4, T):
        p = next_token_probabilities(model, output[:, :t], temperature or 1.0, top_k)
        expected = p.gather(1, output[:, t:t + 1]).log()[:, 0].float()
        assert torch.allclose(logp[:, t - 4], expected, atol=1e-5), t


def test_generate_takes_a_list_for_a_single_prompt():
    model = make_model()
    prompt = [3, 1, 2]
    output = model.generate(prompt, 4)
    assert output == model.generate(torch.tensor([prompt]), 4)[0].tolist()
    assert output[:3] == prompt and len(output) == 7
    for options in (dict(samples=2), dict(return_logp=True), dict(uniform=torch.rand(1, 4))):
        with pytest.raises(ValueError, match='need prompts as a tensor'):
            model.generate(prompt, 4, **options)


def test_generate_works_under_autocast():
    """The cache then holds bfloat16, while the weights stay float32."""
    model = make_model(dtype=torch.float32)
    idx = random_tokens(length=4)
    with torch.autocast('cpu', torch.bfloat16):
        cached = model.generate(idx, 6)
        assert torch.equal(cached, model.generate(idx, 6, use_cache=False))


@pytest.mark.parametrize('training', [True, False])
def test_generate_ignores_dropout_and_leaves_the_mode_as_it_was(training):
    model = make_model(dropout=0.5).train(training)
    idx = random_tokens(length=4)
    greedy = model.generate(idx, 8)
    assert model.training == model.blocks[0].training == training
    assert torch.equal(greedy, model.generate(idx, 8))
    assert torch.equal(greedy, model.eval().generate(idx, 8))


def test_a_cache_in_use_takes_one_token_at_a_time():
    model = make_model()
    cache = model.new_cache(3, T)
    model(random_tokens(length=4), cache=cache)
    with pytest.raises(ValueError, match='one token at a time'):
        model(random_tokens(length=2), cache=cache, start=4)


def test_a_sequence_may_fill_block_size_and_no_more():
    model = make_model()
    idx = random_tokens()
    model.generate(idx[:, :-1], 1)  # fills it exactly
    with pytest.raises(ValueError, match='block_size'):
        model(random_tokens(length=T + 1))
    with pytest.raises(ValueError, match='block_size'):
        model.generate(idx, 1)


def test_generate_needs_a_causal_model():
    model = make_model(causal=False)
    with pytest.raises(ValueError, match='causal'):
        model.generate(random_tokens(length=2), 1)
    with pytest.raises(ValueError, match='causal'):
        model.generate_jacobi(random_tokens(length=2), 1)


@pytest.mark.parametrize('options', [
    dict(temperature=-1.0), dict(top_k=0), dict(samples=0)])
def test_generate_refuses_settings_that_make_no_sense(options):
    with pytest.raises(ValueError, match='at least'):
        make_model().generate(random_tokens(length=2), 1, **options)


# -----------------------------------------------------------------------------
# Jacobi decoding

def fixed_point(model, row, n):
    """Guess the n tokens after a row, each time from the guess before, until nothing changes.

    Returns the guess, and the round in which each token changed last.
    """
    guess = [0] * n
    changed_in = [0] * n
    n_rounds = 0
    while True:
        logits = model(torch.tensor([[*row, *guess]]))[0, len(row) - 1:-1]
        new = logits.argmax(dim=-1).tolist()
        if new == guess:
            return guess, changed_in
        n_rounds += 1
        for i in range(n):
            if new[i] != guess[i]:
                changed_in[i] = n_rounds
        guess = new


@pytest.mark.parametrize('length', [1, 5])
@every_kind
def test_jacobi_decoding_writes_the_greedy_tokens(pos, n_loop, length):
    """Each of them by its place in line at the latest. Dropout and the mode are left alone."""
    n = T - length
    for seed in range(2):
        model = make_model(seed, pos=pos, n_loop=n_loop, dropout=0.3)
        idx = random_tokens(4, length, seed)
        output, rounds = model.generate_jacobi(idx, n)
        assert torch.equal(output, model.generate(idx, n)) and model.training
        assert output.dtype == rounds.dtype == torch.int64
        assert rounds.shape == (4, n) and (rounds <= torch.arange(1, n + 1)).all()


@pytest.mark.parametrize('length', [1, 5])
@every_kind
def test_jacobi_rounds_are_those_of_each_row_by_itself(pos, n_loop, length):
    n = T - length
    numbers_of_rounds = set()
    for seed in range(2):
        model = make_model(seed, pos=pos, n_loop=n_loop)
        idx = random_tokens(3, length, seed)
        output, rounds = model.generate_jacobi(idx, n)
        for row in range(3):
            guess, changed_in = fixed_point(model, idx[row].tolist(), n)
            assert output[row, length:].tolist() == guess
            assert rounds[row].tolist() == changed_in
        numbers_of_rounds |= set(rounds.amax(dim=1).tolist())
    assert len(numbers_of_rounds) > 1


def one_hot_logits(token, loss_mask):
    return F.one_hot(token, V)[loss_mask].float()


def count_on(idx, loss_mask):
    """Each token is the one before it, plus one: none can be known ahead."""
    return one_hot_logits((idx + 1) % V, loss_mask)


def write_place(idx, loss_mask):
    """Each token is its own place."""
    place = torch.arange(1, idx.size(1) + 1)
    return one_hot_logits(place.expand_as(idx), loss_mask)


def count_on_after_1(idx, loss_mask):
    """A row that begins with 1 counts on. Another writes zeros, which is the first guess."""
    return one_hot_logits((idx + 1) * (idx[:, :1] == 1), loss_mask)


@pytest.mark.parametrize('forward, new_tokens, expected_rounds', [
    (count_on, [[5, 6, 7, 8, 9], [4, 5, 6, 7, 8]], [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5]]),
    (write_place, [[2, 3, 4, 5, 6], [2, 3, 4, 5, 6]], [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]),
    (count_on_after_1, [[5, 6, 7, 8, 9], [0, 0, 0, 0, 0]], [[1, 2, 3, 4, 5], [0, 0, 0, 0, 0]]),
])
def test_tokens_that_wait_for_one_another_take_a_round_each(forward, new_tokens, expected_rounds):
    model = make_model()
    model.forward = forward
    idx = torch.tensor([[1, 4], [2, 3]])
    output, rounds = model.generate_jacobi(idx, 5)
    assert output[:, :2].tolist() == idx.tolist()
    assert output[:, 2:].tolist() == new_tokens
    assert rounds.tolist() == expected_rounds


def test_tokens_that_depend_on_their_place_alone_take_one_round():
    model = make_model(pos='learned')
    with torch.no_grad():
        model.wpe.weight.mul_(1e6)  # where a token stands drowns what it is
    idx = random_tokens(3, 4)
    output, rounds = model.generate_jacobi(idx, 8)
    assert torch.equal(output, model.generate(idx, 8))
    assert rounds.max() == 1
    assert len(set(output[0, 4:].tolist())) > 2


def test_jacobi_decoding_of_nothing_returns_the_prompt():
    idx = random_tokens(3, 4)
    output, rounds = make_model().generate_jacobi(idx, 0)
    assert torch.equal(output, idx) and rounds.shape == (3, 0)


def test_jacobi_decoding_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match='block_size'):
        make_model().generate_jacobi(random_tokens(length=5), T - 4)


# -----------------------------------------------------------------------------
# the price of a forward pass

@pytest.mark.parametrize('n_layer, n_loop', [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize('n_logits', [1, 3, T])
def test_flops_are_the_matrix_products_of_a_forward_pass(n_layer, n_loop, n_logits, monkeypatch):
    """Of one that fills a cache. Counted at every linear layer, at the two products of the
    attention, and at the head."""
    model = make_model(n_layer=n_layer, n_loop=n_loop)
    of_linear_layers = []
    of_attention = []
    attend = model_py.attend

    def count_linear(layer, inputs, output):
        of_linear_layers.append(2 * inputs[0].numel() * output.size(-1))

    def count_attention(q, k, *rest):
        of_attention.append(2 * 2 * q.numel() * k.size(2))
        return attend(q, k, *rest)

    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(count_linear)
    monkeypatch.setattr(model_py, 'attend', count_attention)
    mask = (torch.arange(T) >= T - n_logits)[None]
    logits = model(random_tokens(1), mask, model.new_growing_cache())  # as when decoding

    of_head = 2 * 16 * logits.numel()
    expected = sum(of_linear_layers) + of_head
    assert model.flops(T, n_logits) == expected
    assert model.flops(T, n_logits, n_keys=T) == expected + sum(of_attention)


def test_flops_of_two_passes_add_up():
    model = make_model()
    assert model.flops(5, 1) + model.flops(7, 2) == model.flops(12, 3)


def test_flops_of_two_layers_by_hand():
    """16 channels, a vocabulary of 16, 5 tokens, 1 logit."""
    model = make_model(n_layer=2)
    first_layer = 5 * 12          # matrices of 16 x 16: q, k, v, projection, 8 of the MLP
    last_layer = 5 * 2 + 1 * 10   # k and v for all 5 tokens, the others for 1
    head = 1
    products = 2 * 16**2 * (first_layer + last_layer + head)
    assert model.flops(5, 1) == products
    attention = 2 * 2 * 16 * 5 * (5 + 1)
    assert model.flops(5, 1, n_keys=5) == products + attention


# -----------------------------------------------------------------------------
# the parts

def layer_norm(x, gain):
    deviation = x - x.mean(-1, keepdim=True)
    return deviation / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * gain


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def rotate_as_complex(x):
    """rope of one head (T, 4) as the paper writes it: channel pairs are complex numbers."""
    angle = torch.arange(len(x))[:, None] * 10000.0 ** -torch.tensor([0.0, 0.5])
    turn = torch.polar(torch.ones_like(angle, dtype=torch.float64), angle.double())
    return torch.complex(x[:, :2], x[:, 2:]) * turn


def attention_of_one_head(q, k, v, causal):
    """Position by position. q, k (T, D) real or complex, v (T, D)."""
    D = v.size(1)
    rows = []
    for t in range(len(q)):
        n_seen = t + 1 if causal else len(q)
        scores = (q[t] * k[:n_seen].conj()).sum(dim=1).real / math.sqrt(D)
        weights = scores.exp() / scores.exp().sum()
        rows.append(sum(weights[u] * v[u] for u in range(n_seen)))
    return torch.stack(rows)


@pytest.mark.parametrize('causal', [True, False])
@pytest.mark.parametrize('pos', ['none', 'rope'])
def test_a_block_is_attention_and_then_an_mlp(pos, causal):
    model = make_model(pos=pos, causal=causal, n_head=4)
    block = model.blocks[0]
    x = torch.randn(2, T, 16, dtype=torch.float64)

    h = layer_norm(x, block.ln_1.weight)
    q, k, v = (h @ linear.weight.T for linear in (block.q, block.k, block.v))
    mixed = torch.zeros_like(x)
    for b in range(2):
        for head in range(4):
            channels = slice(4 * head, 4 * head + 4)
            q_head = q[b, :, channels]
            k_head = k[b, :, channels]
            if pos == 'rope':
                q_head = rotate_as_complex(q_head)
                k_head = rotate_as_complex(k_head)
            mixed[b, :, channels] = attention_of_one_head(
                q_head, k_head, v[b, :, channels], causal)
    expected = x + mixed @ block.proj.weight.T
    hidden = gelu(layer_norm(expected, block.ln_2.weight) @ block.fc.weight.T)
    expected = expected + hidden @ block.out.weight.T

    angles = model.rope if pos == 'rope' else None
    assert torch.allclose(block(x, angles), expected, atol=1e-6)  # rope's table is float32


@pytest.mark.parametrize('D', [8, 9])
def test_rope_makes_products_depend_on_relative_position_alone(D):
    model = make_model(pos='rope', n_embd=2 * D)
    q, k = torch.randn(2, D, dtype=torch.float64)

    def score(m, n):
        return rotate(q, *model.rope[:, m]) @ rotate(k, *model.rope[:, n])

    for gap in range(-5, 6):
        scores = [score(m, m + gap) for m in range(T) if 0 <= m + gap < T]
        for other in scores:
            assert torch.allclose(other, scores[0], atol=1e-5)

    # and different gaps differ
    assert len({round(score(0, n).item(), 6) for n in range(T)}) == T


@pytest.mark.parametrize('D', [8, 9])
def test_rope_keeps_lengths_and_the_odd_channel(D):
    model = make_model(pos='rope', n_embd=2 * D)
    q = torch.randn(D, dtype=torch.float64)
    assert torch.allclose(rotate(q, *model.rope[:, 7]).norm(), q.norm(), atol=1e-6)
    assert rotate(q, *model.rope[:, 1])[8:].equal(q[8:])  # there is one if D is 9


def test_the_head_is_the_embedding_behind_a_layer_norm():
    model = make_model(n_layer=1, pos='learned')
    idx = random_tokens()
    h = model.blocks[0](model.wte.weight[idx] + model.wpe.weight[torch.arange(T)])
    expected = layer_norm(h, model.ln_f.weight) @ model.wte.weight.T
    assert torch.allclose(model(idx), expected, atol=1e-10)


@pytest.mark.parametrize('pos', ['learned', 'rope', 'none'])
def test_two_loops_of_one_layer_are_two_equal_layers(pos):
    idx = random_tokens()
    looped = make_model(pos=pos, n_layer=1, n_loop=2)
    assert not torch.allclose(looped(idx), make_model(pos=pos, n_layer=1)(idx))

    deep = make_model(pos=pos, n_layer=2, seed=5)
    state = looped.state_dict()
    second_layer = {name.replace('blocks.0', 'blocks.1'): p for name, p in state.items()}
    deep.load_state_dict(state | second_layer)
    assert torch.allclose(looped(idx), deep(idx), atol=1e-12)


def test_loops_go_through_the_whole_stack():
    """Two layers, twice: 0 1 0 1, not 0 0 1 1."""
    model = make_model(n_loop=2, pos='none')
    idx = random_tokens()
    first, second = model.blocks
    h = second(first(second(first(model.wte(idx)))))
    expected = F.linear(model.ln_f(h), model.wte.weight)
    assert torch.allclose(model(idx), expected, atol=1e-12)


@every_kind
def test_every_layer_acts(pos, n_loop):
    """In FactorExe only the last layer did."""
    model = make_model(pos=pos, n_loop=n_loop, n_layer=3)
    idx = random_tokens()
    before = model(idx)
    for gradient in gradients(before.square().mean(), model):
        assert gradient.abs().max() > 1e-8

    for block in model.blocks:
        forward = block.forward
        block.forward = lambda x, *_, **__: x
        assert (model(idx) - before).abs().max() > 1e-3
        block.forward = forward
    assert torch.equal(model(idx), before)


@pytest.mark.parametrize('pos, n_positions', [('learned', T), ('rope', 0), ('none', 0)])
@pytest.mark.parametrize('n_layer, n_loop, C', [(1, 1, 16), (3, 1, 32), (3, 4, 32)])
def test_parameter_count(n_layer, n_loop, C, pos, n_positions):
    """Loops cost none, the head is the embedding, and nothing but parameters is saved."""
    model = make_model(n_layer=n_layer, n_loop=n_loop, n_embd=C, pos=pos)
    matrices = 12 * C * C * n_layer
    embeddings = (V + n_positions) * C
    gains = (2 * n_layer + 1) * C
    assert model.num_params() == matrices + embeddings + gains
    assert sum(p.numel() for p in model.state_dict().values()) == model.num_params()


@pytest.mark.parametrize('n_layer, n_loop, C', [(1, 1, 32), (3, 1, 64), (2, 3, 64)])
def test_initial_weights_have_the_standard_deviation_of_gpt_2_scaled_to_the_width(
        n_layer, n_loop, C):
    """0.02 is for 768 channels. What writes to the residual stream is smaller by the root of how
    often that happens."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(64, 32, n_layer, 2, C, n_loop))
    std = 0.02 * math.sqrt(768 / C)
    for name, p in model.named_parameters():
        if p.dim() == 1:
            assert (p == 1).all(), name
            continue
        expected = std
        if name.split('.')[-2] in ('proj', 'out'):
            expected = std / math.sqrt(2 * n_layer * n_loop)
        assert p.std().item() == pytest.approx(expected, rel=0.1), name
        assert abs(p.mean().item()) < 0.1 * std, name


@pytest.mark.parametrize('n_layer, n_loop, C', [(1, 1, 32), (3, 1, 64), (2, 3, 64)])
def test_the_loss_starts_near_that_of_a_uniform_guess(n_layer, n_loop, C):
    """At ln V plus half the variance of the logits, 0.02^2 * 768 / 2 = 0.15."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(64, 32, n_layer, 2, C, n_loop))
    idx, target = torch.randint(64, (2, 64, 32))
    loss = F.cross_entropy(model(idx).flatten(0, 1), target.flatten()).item()
    assert abs(loss - math.log(64) - 0.15) < 0.25


# -----------------------------------------------------------------------------
# optimizer, dropout, config

def test_layer_norm_gains_do_not_decay():
    """With zero gradients decay alone moves a parameter: by a factor 1 - lr * weight_decay."""
    model = make_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = model.configure_optimizer(0.1, 0.5)
    model(random_tokens()).sum().mul(0).backward()
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 1.0 if 'ln_' in name else 0.95
        assert torch.allclose(p, before[name] * factor, atol=1e-12), name
    assert sum(len(group['params']) for group in optimizer.param_groups) == len(before)


def test_dropout_acts_in_training_only():
    model = make_model(dropout=0.3)
    idx = random_tokens()
    assert not torch.equal(model(idx), model(idx))
    model.eval()
    assert torch.equal(model(idx), model(idx))
    assert torch.allclose(model(idx), make_model()(idx), atol=1e-12)


@pytest.mark.parametrize('options, word', [
    (dict(n_head=3), 'n_head'),
    (dict(pos='sinus'), 'pos'),
    (dict(dropout=1.0), 'dropout'),
    (dict(dropout=-0.1), 'dropout'),
    (dict(n_layer=0), 'n_layer'),
    (dict(n_loop=0), 'n_loop'),
    (dict(vocab_size=0), 'vocab_size'),
    (dict(pos='rope', n_embd=4, n_head=4), 'pairs'),
])
def test_a_config_that_cannot_work_is_refused(options, word):
    with pytest.raises(ValueError, match=word):
        make_model(**options)
