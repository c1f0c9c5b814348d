"""What does a training step gain if a few queries read the inputs of keys and values?

model.attend_to_inputs against the same step with keys and values at every position, in turns, one
thread. The rule for choosing between them is Block.channels_a_query.

    OMP_NUM_THREADS=1 python results/studies/few_queries.py | tee results/studies/few_queries.txt
"""

import math
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F


sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from model import GPT, GPTConfig


TURNS = 12
VOCAB = 20

# layers, channels, heads, tokens, of them with loss, batch
SHAPES = [
    (1, 64, 1, 26, 4, 512),
    (2, 64, 1, 26, 4, 512),
    (4, 128, 4, 26, 4, 128),
    (1, 64, 4, 26, 1, 128),
    (1, 64, 4, 26, 4, 128),
    (1, 64, 1, 206, 4, 64),
    (1, 64, 1, 2006, 4, 8),
    (1, 64, 1, 54, 32, 128),
    (2, 64, 1, 54, 32, 128),
    (1, 64, 2, 100, 32, 64),
]


def train_step(model, optimizer, idx, mask, target):
    loss = F.cross_entropy(model(idx, mask), target)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def measure(n_layer, C, n_head, T, n_loss, B):
    """Print how many times as long a step with all keys and values takes."""
    idx = torch.randint(VOCAB, (B, T))
    mask = torch.zeros(B, T, dtype=torch.bool)
    mask[:, -n_loss:] = True
    target = torch.randint(VOCAB, (B * n_loss,))
    model = GPT(GPTConfig(VOCAB, T, n_layer, n_head, C))
    optimizer = model.configure_optimizer(1e-3, 0.0)

    seconds = {'all keys': [], 'inputs': []}
    for turn in range(TURNS + 2):  # the first two are a warm-up
        for name, of_name in seconds.items():
            model.blocks[-1].channels_a_query = math.inf if name == 'all keys' else 0
            began = time.perf_counter()
            train_step(model, optimizer, idx, mask, target)
            if turn >= 2:
                of_name.append(time.perf_counter() - began)
    ratio = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
    print(f'{n_layer} x {C}, {n_head} heads, batch {B:3}, {T:4} tokens, {n_loss:2} with loss, '
          f'{C / (n_head * n_loss):4.1f} channels a query: all keys / inputs {ratio:.2f} x',
          flush=True)


def main():
    torch.manual_seed(1337)
    torch.set_num_threads(1)
    for shape in SHAPES:
        measure(*shape)


if __name__ == '__main__':
    main()
