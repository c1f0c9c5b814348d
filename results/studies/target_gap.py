"""Does the verdict carry over to a target that was never trained on?

Verdict accuracy on trained targets and on 24, for the models of the row train_cot/countdown. Below
it: which pairs of numbers that make 24 in one step does a model call dead ends?

    bash results/reproduce.sh train_cot/countdown
    python results/studies/target_gap.py | tee results/studies/target_gap.txt
"""

import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).parents[2]))
from common import load_checkpoint
from countdown import Countdown, count_solutions
from data import sample_batch


TARGET = 24


@torch.no_grad()
def says_solvable(model, task, prompt):
    """Does the model prefer `yes` to `no` after these prompts? (B,) bool"""
    logits = model(prompt)[:, -1]
    return logits[:, task.yes] > logits[:, task.no]


def print_verdicts(model, task, k, split, name):
    """Accuracy of the verdict with k + 1 numbers left, on 5,000 instances of this split."""
    batch = sample_batch(task, 5000, 1, 0, split, hops=k)
    P = batch.prompt_len
    solvable = batch.tokens[:, P] == task.yes
    verdict = says_solvable(model, task, batch.tokens[:, :P])
    accuracy = (verdict == solvable).float().mean()
    accepted = verdict[solvable].float().mean()
    rejected = 1 - verdict[~solvable].float().mean()
    share = solvable.float().mean()
    print(f'  {k + 1} numbers, {name:15}  accuracy {accuracy:.3f}   of the solvable {accepted:.3f} '
          f'accepted,   of the others {rejected:.3f} rejected   chance {max(share, 1 - share):.3f}')


def pairs_that_make(target):
    """All pairs of numbers up to 60 that make the target in one step, (N, 2)."""
    pairs = torch.combinations(torch.arange(1, 61), 2, with_replacement=True)
    return pairs[count_solutions(pairs, torch.full((len(pairs),), target)) > 0]


def main():
    task = Countdown()
    pairs = pairs_that_make(TARGET)
    for path in sorted(Path('out/logs/train_cot/countdown').glob('seed*/ckpt.pt')):
        model, _ = load_checkpoint(path)
        model.eval()
        print(path.parent.name)
        for k in task.hops:
            print_verdicts(model, task, k, 'train', 'trained targets')
            print_verdicts(model, task, k, 'test', f'target {TARGET}')

        prompt = task.write_prompt(torch.full((len(pairs),), TARGET), pairs)
        rejected = []
        for a, b in pairs[~says_solvable(model, task, prompt)].tolist():
            rejected.append(f'{a} {b}')
        print(f'  pairs up to 60 that make {TARGET}: {len(pairs)}, rejected: '
              f'{", ".join(rejected) or "none"}')


if __name__ == '__main__':
    main()
