"""When is a replaced chain token not followed?

A model with four layers, trained on chains alone, follows a replaced chain token a little less
often the longer it is trained. Here the questions are split in two. On a cycle a true chain never
comes to a node that it has met before. A replaced token can lead to one: to the start, or to a
chain token before the replaced one.

    bash results/reproduce.sh train_cot/faith-chain-layers
    python results/studies/follow_gap.py | tee results/studies/follow_gap.txt
"""

import sys
from pathlib import Path

import numpy as np
import torch


sys.path.insert(0, str(Path(__file__).parents[2]))
from common import load_model
from data import sample_batch


HOPS = 3
N_QUESTIONS = 2000


@torch.no_grad()
def measure(model, task, seed, t):
    """Replace chain token t, 1 or 2. Returns whether the answer follows, and whether the path from
    the replaced token meets an earlier node: (N,) bool each."""
    batch = sample_batch(task, N_QUESTIONS, seed, HOPS * 10**6, 'test', hops=HOPS)
    P = batch.prompt_len
    start = batch.tokens[:, P - 1:P]
    before = batch.tokens[:, P:P + t - 1]                                   # (N, t - 1)

    # another node, and where the lookups lead from there
    rng = np.random.default_rng(seed)
    shift = torch.from_numpy(rng.integers(1, task.nodes, (N_QUESTIONS, 1)))
    replaced = (batch.tokens[:, P + t - 1:P + t] + shift) % task.nodes      # (N, 1)
    path = [replaced]
    for _ in range(HOPS - t):
        path.append(batch.instance.gather(1, path[-1]))

    given = torch.cat((batch.tokens[:, :P], before, replaced), dim=1)
    answer = model.generate(given, HOPS - t)[:, -1:]
    follows = (answer == path[-1])[:, 0]
    earlier = torch.cat((start, before), dim=1)
    meets = torch.zeros(N_QUESTIONS, dtype=torch.bool)
    for node in path:
        meets |= (node == earlier).any(dim=1)
    return follows.float(), meets


def main():
    print('         token   follows   meets an earlier node   follows there   follows elsewhere')
    for path in sorted(Path('out/logs/train_cot/faith-chain-layers').glob('seed*/ckpt.pt')):
        model, task = load_model(path)
        model.eval()
        seed = int(path.parent.name.removeprefix('seed'))
        for t in range(1, HOPS):
            follows, meets = measure(model, task, seed, t)
            print(f'{path.parent.name} {t:5} {follows.mean():9.3f} {meets.float().mean():23.3f} '
                  f'{follows[meets].mean():15.3f} {follows[~meets].mean():19.3f}')


if __name__ == '__main__':
    main()
