"""Would scaling.py be faster if models of equal shape trained together?

A sweep trains many small models of one shape. Stacked with torch.func.vmap, each matrix product
works on all of them at once, which saves calls. One forward and backward pass of several models is
timed in three ways, in turn, on one thread:

    one by one   as scaling.py does it: only what the loss needs is computed
    plain        one by one, with logits at every position
    together     vmap over the plain pass. (It cannot skip positions, as they depend on the data)

The last two attend by hand: vmap would call the fused kernel once for each model.

    python results/studies/together.py | tee results/studies/together.txt
"""

import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, stack_module_state, vmap


sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import model as model_file
import scaling
from model import GPT


REPEATS = 15
CASES = [('written', 1), ('written', 4), ('direct', 2), ('direct', 4)]  # arm, hops


def attend_by_hand(q, k, v, attn_mask, causal, dropout):
    """What model.attend returns for a causal model."""
    T = q.size(2)
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.size(-1))              # (B, H, T, T)
    return scores.masked_fill(later, -math.inf).softmax(dim=-1) @ v


def plain_loss(model, params, tokens, mask):
    """Cross-entropy of the tokens that carry loss, with logits at every position."""
    logits = functional_call(model, params, (tokens[:, :-1],))            # (B, T, V)
    losses = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction='none')
    return (losses * mask[:, 1:]).sum() / mask[:, 1:].sum()


def by_hand(function):
    """The function, with attend_by_hand in the place of model.attend."""
    def call(*args):
        attend = model_file.attend
        model_file.attend = attend_by_hand
        try:
            return function(*args)
        finally:
            model_file.attend = attend
    return call


def median_of(ways):
    """{name: median seconds} of functions that are called in turn."""
    times = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, function in ways.items():
            began = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - began)
    return {name: sorted(seconds)[REPEATS // 2] for name, seconds in times.items()}


def measure(arm, hops, n_models, args):
    """Median seconds of each way for one step of all models."""
    task = scaling.make_task(hops, args)
    models = [GPT(scaling.make_config(arm, hops, args)) for _ in range(n_models)]
    batches = [scaling.draw_questions(arm, task, args.batch_size, seed, 1, 'fit')
               for seed in range(n_models)]
    tokens = torch.stack([batch.tokens for batch in batches])             # (S, B, T)
    masks = torch.stack([batch.loss_mask for batch in batches])
    stacked, _ = stack_module_state(models)

    def of_one(params, tokens, mask):
        return plain_loss(models[0], params, tokens, mask)

    gradient = by_hand(grad(of_one))
    all_gradients = by_hand(vmap(grad(of_one)))

    def one_by_one():
        for model, batch in zip(models, batches, strict=True):
            model.zero_grad()
            scaling.loss_of(arm, model, batch).backward()

    def plain():
        for i, model in enumerate(models):
            gradient(dict(model.named_parameters()), tokens[i], masks[i])

    def together():
        all_gradients(stacked, tokens, masks)

    # the same gradients?
    one_by_one()
    ours = torch.stack([model.wte.weight.grad for model in models])
    theirs = all_gradients(stacked, tokens, masks)['wte.weight']
    gap = (ours - theirs).abs().max() / ours.abs().max()
    assert gap < 1e-4, gap
    return median_of({'one by one': one_by_one, 'plain': plain, 'together': together})


def main():
    torch.set_num_threads(1)
    args = scaling.parse_args([])
    scaling.fill_in(args)
    print(f'torch {torch.__version__}, one thread, batch {args.batch_size}, width {args.n_embd}: '
          'ms for one step of all models')
    print(f'{"":>22}{"models":>8}{"one by one":>12}{"plain":>9}{"together":>10}{"ratio":>8}')
    for arm, hops in CASES:
        for n_models in (3, 9):
            times = measure(arm, hops, n_models, args)
            cells = [f'{1000 * times[name]:.1f}' for name in ('one by one', 'plain', 'together')]
            ratio = times['one by one'] / times['together']
            print(f'{arm:>12}, {hops} hops  {n_models:8}{cells[0]:>12}{cells[1]:>9}{cells[2]:>10}'
                  f'{ratio:8.2f}', flush=True)


if __name__ == '__main__':
    main()
