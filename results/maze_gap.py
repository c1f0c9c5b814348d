"""Are 3x3 mazes learned by heart? Exact paths on mazes of the training and of the held-out split, for the checkpoints of the rows maze-*-fast.

    bash results/reproduce.sh maze-path-fast maze-full-fast maze-balanced-fast && python results/maze_gap.py | tee results/maze_gap.txt
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
import common  # noqa: E402
from data import Maze, sample_batch  # noqa: E402

task = Maze((3,))
for path in sorted(Path('out/results').glob('maze-*-fast/seed*/ckpt.pt')):
    model, shares = common.load_checkpoint(path)[0].eval(), []
    for split in ('train', 'test'):
        batch = sample_batch(task, 1000, 1, 0, split)
        with torch.no_grad():
            out = model.generate(batch.tokens[:, :batch.prompt_len], batch.tokens.size(1) - batch.prompt_len)
        shares.append(((out == batch.tokens) | ~batch.loss_mask).all(1).float().mean().item())
    print(f'{path.parent.parent.name:20} {path.parent.name}  exact on training mazes {shares[0]:.3f}, on held-out ones {shares[1]:.3f}')
