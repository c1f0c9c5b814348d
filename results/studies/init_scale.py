"""Does the size of the initial weights matter? The default task, chain arm, from two of them.

model.py starts from weights of standard deviation 0.02 * sqrt(768 / n_embd). GPT-2's 0.02 was
chosen for 768 channels. The control starts from 0.02 itself.

    python results/studies/init_scale.py | tee results/studies/init_scale.txt
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F


sys.path.insert(0, str(Path(__file__).parents[2]))
from data import Cycle, sample_batch
from model import GPT, GPTConfig


CHECKPOINTS = (100, 200, 500, 1000)  # steps after which the model is tested


def make_model(task, factor, seed):
    """A model whose initial matrices are multiplied by factor."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(len(task.vocab), task.block_size))
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 2:
                p *= factor
    return model


def train_step(model, optimizer, batch, step):
    """One step with linear warm-up over 100 steps."""
    for group in optimizer.param_groups:
        group['lr'] = 3e-3 * min(1, step / 100)
    mask = batch.loss_mask[:, 1:]
    logits = model(batch.tokens[:, :-1], mask)
    F.cross_entropy(logits, batch.tokens[:, 1:][mask]).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def token_accuracy(model, batch):
    """Share of chain tokens that are the most likely one, given the true tokens before them."""
    mask = batch.loss_mask[:, 1:]
    predicted = model(batch.tokens[:, :-1], mask).argmax(dim=-1)
    return (predicted == batch.tokens[:, 1:][mask]).float().mean()


def main():
    task = Cycle()
    print('held-out chain accuracy (share of right chain tokens, teacher-forced) after so many '
          'steps of batch 256, lr 3e-3')
    for name, factor in (('0.02 sqrt(768 / 64) = 0.069', 1.0), ('0.02', (64 / 768) ** 0.5)):
        for seed in (1337, 1338, 1339):
            model = make_model(task, factor, seed)
            optimizer = model.configure_optimizer(3e-3, 0.01)
            test = sample_batch(task, 2000, seed, 0, 'test')
            results = []
            for step in range(1, CHECKPOINTS[-1] + 1):
                train_step(model, optimizer, sample_batch(task, 256, seed, step), step)
                if step in CHECKPOINTS:
                    results.append(f'{step}: {token_accuracy(model, test):.3f}')
            print(f'std {name:30} seed {seed}   ' + '   '.join(results), flush=True)


if __name__ == '__main__':
    main()
