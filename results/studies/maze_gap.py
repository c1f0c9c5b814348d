"""Are 3x3 mazes learned by heart? Exact paths on mazes of the training split and of the held-out one, for the checkpoints of the rows maze-*-fast.
The held-out questions are those of the run's own last line, so the second number is its `exact`.

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
    (model, state), shares = common.load_checkpoint(path), {'train': 0, 'test': 0}
    for split in shares:
        for first in range(0, 2000, 500):
            batch = sample_batch(task, 500, state['args']['seed'], 3 * 10**6 + first, split, hops=3)
            with torch.no_grad():
                out = model.eval().generate(batch.tokens[:, :batch.prompt_len], batch.tokens.size(1) - batch.prompt_len)
            shares[split] += ((out == batch.tokens) | ~batch.loss_mask).all(1).sum().item() / 2000
    print(f'{path.parent.parent.name:20} {path.parent.name}  exact on training mazes {shares["train"]:.3f}, on held-out ones {shares["test"]:.3f}')
