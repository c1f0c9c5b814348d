"""Do several small models train faster as one batched ensemble than one by one?

The default one-hop task of capacity.py at width 16. All models get the same batch. Three ways to
take a step with E models, timed in turns (forward, backward and AdamW):

    one by one   GPT, one model after the other
    stacked      the weights of all models stacked, and a forward pass written out for stacks:
                 packed questions, and queries and head of the last block at the questions alone,
                 as in model.py. It is checked against GPT.
    vmap         torch.func's vmap over GPT itself, which computes everything everywhere

Speeds are models times steps per second, relative to one by one.

    python results/studies/ensemble.py | tee results/studies/ensemble.txt
"""

import copy
import math
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F


sys.path.insert(0, str(Path(__file__).parents[2]))
from model import GPT, GPTConfig, rotate
from profiles import Profiles


WARMUP = 2  # turns that are not timed


# -----------------------------------------------------------------------------
# a forward pass for stacked weights

def linear(x, weight):
    """x (E, P, T, C) times weight (E, out, C), as one batched product: (E, P, T, out)."""
    product = torch.bmm(x.flatten(1, 2), weight.transpose(1, 2))
    return product.unflatten(1, x.shape[1:3])


def norm(x, weight):
    """LayerNorm of x (E, P, T, C) with the gains (E, C)."""
    return F.layer_norm(x, x.shape[-1:]) * weight[:, None, None]


def stacked_block(x, w, prefix, first_query, visible, angles, n_head):
    """One block on x (E, P, T, C), with queries and output from position first_query on."""
    def split_heads(x):
        return x.unflatten(-1, (n_head, -1)).transpose(2, 3)                # (E, P, H, T, D)

    h = norm(x, w[prefix + 'ln_1.weight'])
    k = split_heads(linear(h, w[prefix + 'k.weight']))
    v = split_heads(linear(h, w[prefix + 'v.weight']))
    q = split_heads(linear(h[:, :, first_query:], w[prefix + 'q.weight']))
    k = rotate(k, *angles)
    q = rotate(q, *[a[first_query:] for a in angles])

    scores = q @ k.transpose(-1, -2) / math.sqrt(q.size(-1))
    scores = scores.masked_fill(~visible[first_query:], -math.inf)
    y = (scores.softmax(dim=-1) @ v).transpose(2, 3).flatten(3)
    x = x[:, :, first_query:] + linear(y, w[prefix + 'proj.weight'])
    h = F.gelu(linear(norm(x, w[prefix + 'ln_2.weight']), w[prefix + 'fc.weight']))
    return x + linear(h, w[prefix + 'out.weight'])


def stacked_forward(config, w, idx, n_questions):
    """Logits (E, P, n_questions, V) of E models.

    w: GPT's weights by name, each with E in front. idx (P, 3 + n_questions): a name of three
    tokens, then questions about it, none of which sees another one.
    """
    T = idx.size(1)
    position = torch.cat((torch.arange(3), torch.full((n_questions,), 3)))
    angles = tuple(a[position] for a in w['rope'])
    is_name = torch.arange(T) < 3
    causal = torch.arange(T) <= torch.arange(T)[:, None]
    visible = is_name & causal | torch.eye(T, dtype=torch.bool)             # (T, T)

    x = w['wte.weight'][:, idx]                                             # (E, P, T, C)
    for i in range(config.n_layer):
        first_query = 3 if i == config.n_layer - 1 else 0
        x = stacked_block(x, w, f'blocks.{i}.', first_query, visible, angles, config.n_head)
    return linear(norm(x, w['ln_f.weight']), w['wte.weight'])


# -----------------------------------------------------------------------------
# the race

def stack_weights(models):
    """Trainable stacks of the weights of all models by name, and their optimizer."""
    weights = {}
    for name, _ in models[0].named_parameters():
        copies = [dict(model.named_parameters())[name].detach() for model in models]
        weights[name] = torch.stack(copies).requires_grad_()
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    return weights, optimizer


def make_questions(task, n_people):
    """All questions about random people, packed (P, 3 + G) and as rows (P * G, 4).

    Also the loss mask of the rows, and the answers (P, G).
    """
    G = task.attributes
    names = torch.from_numpy(task.names)
    truth = task.n_symbols + torch.from_numpy(task.truth)
    people = torch.randint(task.people, (n_people,))
    subjects = (task.first_subject + torch.arange(G)).expand(n_people, G)
    packed = torch.cat((names[people], subjects), dim=1)
    repeated_names = names[people][:, None].expand(-1, G, -1)
    rows = torch.cat((repeated_names, subjects[..., None]), dim=2).flatten(0, 1)
    loss_mask = (torch.arange(4) == 3).expand(len(rows), 4)
    return packed, rows, loss_mask, truth[people]


def race(task, config, n_people, E, turns=14):
    """Milliseconds a model and step one by one, and how much faster stacked and vmap are.

    Medians over turns. The ratios are taken within a turn.
    """
    G = task.attributes
    packed, rows, loss_mask, answers = make_questions(task, n_people)
    models = [GPT(config) for _ in range(E)]
    optimizers = [model.configure_optimizer(1e-3, 0.0) for model in models]
    meta_model = copy.deepcopy(models[0]).to('meta')
    rope = {'rope': models[0].rope}
    stacked_weights, stacked_optimizer = stack_weights(models)
    vmap_weights, vmap_optimizer = stack_weights(models)

    # the stacked forward pass computes what the models compute
    expected = []
    for model in models:
        expected.append(model(rows, loss_mask, shared=(3, G)).view(n_people, G, -1))
    logits = stacked_forward(config, stacked_weights | rope, packed, G)
    assert torch.allclose(logits, torch.stack(expected), atol=1e-4)

    def one_by_one():
        for model, optimizer in zip(models, optimizers, strict=True):
            logits = model(rows, loss_mask, shared=(3, G))
            F.cross_entropy(logits, answers.flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()

    def update(logits, optimizer):
        # the sum over models of each one's mean loss: every model gets its own gradient
        targets = answers.flatten().repeat(E)
        (F.cross_entropy(logits.flatten(0, -2), targets) * E).backward()
        optimizer.step()
        optimizer.zero_grad()

    def stacked():
        update(stacked_forward(config, stacked_weights | rope, packed, G), stacked_optimizer)

    def vmapped():
        def forward(weights):
            return torch.func.functional_call(meta_model, (weights, rope), (rows,))
        update(torch.func.vmap(forward)(vmap_weights)[:, :, -1], vmap_optimizer)

    seconds = {one_by_one: [], stacked: [], vmapped: []}
    for turn in range(turns):
        for step, times in seconds.items():
            begin = time.perf_counter()
            step()
            if turn >= WARMUP:
                times.append(time.perf_counter() - begin)

    def speed_up(step):
        ratios = [a / b for a, b in zip(seconds[one_by_one], seconds[step], strict=True)]
        return statistics.median(ratios)
    milliseconds = 1e3 * statistics.median(seconds[one_by_one]) / E
    return milliseconds, speed_up(stacked), speed_up(vmapped)


def main():
    torch.manual_seed(0)
    task = Profiles(500, 8, 0, [1])
    config = GPTConfig(len(task.vocab), task.block_size, 2, 4, 16, pos='rope')
    print(f'{GPT(config).num_params():,} parameters each, {torch.get_num_threads()} threads, '
          f'torch {torch.__version__}')
    for n_people in (16, 128, 512):
        for E in (1, 4, 16):
            milliseconds, stacked, vmapped = race(task, config, n_people, E)
            print(f'{n_people:4} people x 8 questions, {E:2} models: one by one '
                  f'{milliseconds:6.2f} ms a model and step, stacked {stacked:.2f} x as fast, '
                  f'vmap {vmapped:.2f} x', flush=True)


if __name__ == '__main__':
    main()
