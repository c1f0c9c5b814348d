"""Are thoughts that are no words a private code, or do they name a node by leaving it out?

As thought t is made, is the node c_t the most likely of all nodes, or the least likely? The models
are those of three rows of train_latent.py, and the questions are held out. By chance each number
would be 0.1.

    bash results/reproduce.sh train_latent/default train_latent/hops-2 train_latent/hops-4
    python results/studies/omission.py | tee results/studies/omission.txt
"""

import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[2]))
from common import load_model
from data import sample_batch
from train_latent import Thinker, chain_of


ROWS = ('default', 'hops-2', 'hops-4')
N_QUESTIONS = 2000


@torch.no_grad()
def ranks(path, feed):
    """The rank of c_t among all nodes as thought t is made, (N, K - 1), from 0: the least likely.
    And the number of nodes."""
    model, task = load_model(path)
    k = max(task.hops)
    batch = sample_batch(task, N_QUESTIONS, 1, 10**9, 'test', hops=k)
    thinker = Thinker(model.eval(), feed, task.pad)
    logits, _ = thinker(batch.tokens[:, :batch.prompt_len], k)
    of_nodes = logits[:, :-1, :task.nodes]                                # (N, K - 1, n)
    own = of_nodes.gather(2, chain_of(batch)[:, :-1, None])               # (N, K - 1, 1)
    return (of_nodes < own).sum(dim=2), task.nodes


def main():
    print('row      thought  kind              most likely   least likely   of the two least')
    for row in ROWS:
        for feed in ('soft', 'hidden', 'raw'):
            for path in sorted(Path(f'out/logs/train_latent/{row}').glob(f'seed*/ckpt_{feed}.pt')):
                rank, n = ranks(path, feed)
                for t in range(rank.size(1)):
                    of_t = rank[:, t]
                    most = (of_t == n - 1).float().mean()
                    least = (of_t == 0).float().mean()
                    two = (of_t <= 1).float().mean()
                    print(f'{row:8} {t + 1:7}  {feed:7} {path.parent.name:9} {most:11.3f} '
                          f'{least:14.3f} {two:18.3f}')


if __name__ == '__main__':
    main()
