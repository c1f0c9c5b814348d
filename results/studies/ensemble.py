"""Do several small models train faster as one batched ensemble than one by one? The default one-hop task of capacity.py at width 16, the
weights of E models stacked, the same batch for all: a forward pass written out for stacks (packed questions, queries and head of the last
block at the questions alone, as in model.py), checked against GPT, and torch.func's vmap over GPT itself (everything computed everywhere).
Timed in turns, forward, backward and AdamW, as models times steps per second over that of GPT, one model after the other.

    python results/ensemble.py          # the log: results/ensemble.txt
"""

import copy
import math
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))
from data import Profiles
from model import GPT, GPTConfig, rotate

def stacked_forward(config, w, idx, G):
    """w: GPT's weights by name, each with E in front; idx (P, 3 + G): a name, then G questions about it -> logits (E, P, G, V)."""
    H, T = config.n_head, idx.size(1)
    pos = torch.cat((torch.arange(3), torch.full((G,), 3)))
    angles = tuple(a[pos] for a in w['rope'])
    seen = (torch.arange(T) < 3) & (torch.arange(T) <= torch.arange(T)[:, None]) | torch.eye(T, dtype=torch.bool)

    def linear(x, name):  # (E, P, T, C) @ (E, out, C)^T as one batched product
        return torch.bmm(x.flatten(1, 2), w[name].transpose(1, 2)).unflatten(1, x.shape[1:3])

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:]) * w[name][:, None, None]

    def heads(x):
        return x.unflatten(-1, (H, -1)).transpose(2, 3)
    x = w['wte.weight'][:, idx]  # (E, P, T, C)
    for i in range(config.n_layer):
        b, last = f'blocks.{i}.', slice(3 if i == config.n_layer - 1 else 0, None)
        h = norm(x, b + 'ln_1.weight')
        k, v, q = heads(linear(h, b + 'k.weight')), heads(linear(h, b + 'v.weight')), heads(linear(h[:, :, last], b + 'q.weight'))
        k, q = rotate(k, *angles), rotate(q, *(a[last] for a in angles))
        y = ((q @ k.transpose(-1, -2) / math.sqrt(q.size(-1))).masked_fill(~seen[last], -math.inf).softmax(-1) @ v).transpose(2, 3).flatten(3)
        x = x[:, :, last] + linear(y, b + 'proj.weight')
        x = x + linear(F.gelu(linear(norm(x, b + 'ln_2.weight'), b + 'fc.weight')), b + 'out.weight')
    return linear(norm(x, 'ln_f.weight'), 'wte.weight')

def race(task, config, people, E, turns=14):
    """Seconds of a step of all E models: one by one, stacked, vmapped; medians over turns, the last two as ratios within a turn."""
    G, names, truth = task.attributes, torch.from_numpy(task.names), task.symbols + torch.from_numpy(task.truth)
    who, asked = torch.randint(task.people, (people,)), (task.subject + torch.arange(G)).expand(people, G)
    packed, target = torch.cat((names[who], asked), 1), truth[who]  # (P, 3 + G), (P, G)
    rows = torch.cat((names[who][:, None].expand(-1, G, -1), asked[..., None]), 2).flatten(0, 1)
    wanted = (torch.arange(4) == 3).expand(len(rows), 4)
    models = [GPT(config) for _ in range(E)]
    optimizers = [m.configure_optimizer(1e-3, 0.0) for m in models]
    base, rope, stacks = copy.deepcopy(models[0]).to('meta'), {'rope': models[0].rope}, []
    for _ in range(2):
        params = {k: torch.stack([dict(m.named_parameters())[k].detach() for m in models]).requires_grad_() for k, _ in base.named_parameters()}
        stacks.append((params, torch.optim.AdamW(params.values(), lr=1e-3, betas=(0.9, 0.95), fused=True)))
    theirs = torch.stack([m(rows, wanted, shared=(3, G)).view(people, G, -1) for m in models])
    assert torch.allclose(stacked_forward(config, stacks[0][0] | rope, packed, G), theirs, atol=1e-4)

    def one_by_one():
        for m, o in zip(models, optimizers, strict=True):
            F.cross_entropy(m(rows, wanted, shared=(3, G)), target.flatten()).backward()
            o.step()
            o.zero_grad()

    def update(logits, optimizer):  # the sum over models of each one's mean loss: every model gets its own gradient
        (F.cross_entropy(logits.flatten(0, -2), target.flatten().repeat(E)) * E).backward()
        optimizer.step()
        optimizer.zero_grad()

    def stacked():
        update(stacked_forward(config, stacks[0][0] | rope, packed, G), stacks[0][1])

    def vmapped():
        call = torch.func.vmap(lambda p: torch.func.functional_call(base, (p, rope), (rows,)))
        update(call(stacks[1][0])[:, :, -1], stacks[1][1])
    times = []
    for turn in range(turns):
        row = []
        for f in (one_by_one, stacked, vmapped):
            begin = time.perf_counter()
            f()
            row.append(time.perf_counter() - begin)
        times += [row] if turn >= 2 else []
    return statistics.median(t[0] for t in times), *(statistics.median(t[0] / t[i] for t in times) for i in (1, 2))

def main():
    torch.manual_seed(0)
    task = Profiles(500, 8, 0, [1])
    config = GPTConfig(len(task.vocab), task.block_size, 2, 4, 16, pos='rope')
    print(f'{GPT(config).num_params():,} parameters each, {torch.get_num_threads()} threads, torch {torch.__version__}')
    for people in (16, 128, 512):
        for E in (1, 4, 16):
            seconds, stacked, vmapped = race(task, config, people, E)
            print(f'{people:4} people x 8 questions, {E:2} models: one by one {1e3 * seconds / E:6.2f} ms a model and step, '
                  f'stacked {stacked:.2f} x as fast, vmap {vmapped:.2f} x', flush=True)

if __name__ == '__main__':
    main()
