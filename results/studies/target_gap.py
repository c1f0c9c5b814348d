"""How much of the verdict carries over to a target that was never trained on? Verdict accuracy on trained targets and on 24, for the
checkpoints of the row countdown, and which pairs of numbers that make 24 at once are taken for dead ends.

    bash results/reproduce.sh countdown && python results/target_gap.py | tee results/target_gap.txt
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
import common  # noqa: E402
from data import Countdown, sample_batch, ways  # noqa: E402

task = Countdown()
pairs = torch.combinations(torch.arange(1, 61), 2, with_replacement=True)
pairs = pairs[ways(pairs, torch.full((len(pairs),), 24)) > 0]
for path in sorted(Path('out/results/countdown').glob('seed*/ckpt.pt')):
    model = common.load_checkpoint(path)[0].eval()

    @torch.no_grad()
    def says_yes(prompt, model=model):
        logits = model(prompt)[:, -1]
        return logits[:, task.yes] > logits[:, task.no]
    print(path.parent.name)
    for k in task.hops:
        for split, name in (('train', 'trained targets'), ('test', 'target 24')):
            batch = sample_batch(task, 5000, 1, 0, split, hops=k)
            said, true = says_yes(batch.tokens[:, :batch.prompt_len]), batch.tokens[:, batch.prompt_len] == task.yes
            print(f'  {k + 1} numbers, {name:15}  accuracy {(said == true).float().mean():.3f}   of the solvable {said[true].float().mean():.3f} accepted,'
                  f'   of the others {1 - said[~true].float().mean():.3f} rejected   chance {max(true.float().mean(), 1 - true.float().mean()):.3f}')
    rejected = pairs[~says_yes(task.prompt(torch.full((len(pairs),), 24), pairs))]
    print(f'  pairs up to 60 that make 24: {len(pairs)}, rejected: {", ".join(f"{a} {b}" for a, b in rejected.tolist()) or "none"}')
