"""Why model.py reads GPT-2's 0.02 as a number for 768 channels: the default task, chain arm, from either initialisation.

    python results/init_scale.py | tee results/init_scale.txt
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.append(str(Path(__file__).parent.parent))
from data import Cycle, sample_batch  # noqa: E402
from model import GPT, GPTConfig  # noqa: E402

task = Cycle()
print('held-out chain accuracy (share of right chain tokens, teacher-forced) after so many steps of batch 256, lr 3e-3')
for name, factor in (('0.02 sqrt(768 / 64) = 0.069', 1.0), ('0.02', (64 / 768) ** 0.5)):
    for seed in (1337, 1338, 1339):
        torch.manual_seed(seed)
        model = GPT(GPTConfig(len(task.vocab), task.block_size))
        with torch.no_grad():
            for p in model.parameters():
                if p.dim() == 2:
                    p *= factor
        optimizer = model.configure_optimizer(3e-3, 0.01)
        test, told = sample_batch(task, 2000, seed, 0, 'test'), []
        for step in range(1, 1001):
            batch = sample_batch(task, 256, seed, step)
            optimizer.param_groups[0]['lr'] = optimizer.param_groups[1]['lr'] = 3e-3 * min(1, step / 100)
            mask = batch.loss_mask[:, 1:]
            F.cross_entropy(model(batch.tokens[:, :-1], mask), batch.tokens[:, 1:][mask]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if step in (100, 200, 500, 1000):
                mask = test.loss_mask[:, 1:]
                with torch.no_grad():
                    right = model(test.tokens[:, :-1], mask).argmax(-1) == test.tokens[:, 1:][mask]
                told.append(f'{step}: {right.float().mean():.3f}')
        print(f'std {name:30} seed {seed}   ' + '   '.join(told), flush=True)
