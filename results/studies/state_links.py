"""What does a looped model say before it has the answer?

The model `state` of anytime.py is trained on answers alone. After pass t of a question of h hops it
could say anything, if t < h. How often does it say the t-th link of the chain? Control: the link of
another question.

The models are those of the row scaling/budgets, with the learning rate that was chosen there.

    python results/studies/state_links.py | tee results/studies/state_links.txt
"""

import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import anytime
import scaling
from data import sample_batch


RATE = 1e-3
N_TEST = 2000


class QuietRun:
    """What anytime.train needs of a run: it computes, and nothing else."""
    device = torch.device('cpu')
    trains = False
    autocast = torch.enable_grad()

    def begin_training(self):
        pass

    def check_signal_in_a_sweep(self):
        pass

    def progress_bar(self, label, step, total):
        return self

    def update(self):
        pass

    def close(self):
        pass


def trained_model(task, seed, args):
    """The model that anytime.train makes: it is caught on its way to the evaluation."""
    caught = []

    def catch(kind, model, task, *rest):
        caught.append(model)
        return [[0.0] * 2 * len(task.hops)] * len(task.hops)

    evaluate = anytime.evaluate
    anytime.evaluate = catch
    try:
        anytime.train('state', task, RATE, seed, args, QuietRun())
    finally:
        anytime.evaluate = evaluate
    return caught[0].eval()


@torch.no_grad()
def links_said(model, task, hops):
    """Share of test questions whose t-th link is said after pass t, and that of the control."""
    batch = sample_batch(task, N_TEST, 1, hops, 'test', hops=hops)
    prompt = batch.tokens[:, :batch.prompt_len]
    chain = batch.tokens[:, batch.prompt_len:batch.prompt_len + hops]
    said = anytime.logits_after_each_pass('state', model, prompt, hops).argmax(dim=-1)
    right = (said == chain).float().mean(dim=0)
    control = (said == chain.roll(1, 0)).float().mean(dim=0)
    return right.tolist(), control.tolist()


def main():
    torch.set_num_threads(1)
    args = scaling.parse_args(['--measure', 'budgets'])
    scaling.fill_in(args)
    task = scaling.make_task(args.hops[-1], args)
    print('share of questions whose t-th link is said after pass t = 1, 2, ... The last is the '
          'answer')
    for seed in (1337, 1338, 1339):
        model = trained_model(task, seed, args)
        for hops in (2, 3, 4, 6, 8):
            right, control = links_said(model, task, hops)
            row = ' '.join(f'{share:.3f}' for share in right)
            print(f'seed {seed}  {hops} hops  {row}   (control {max(control):.3f} at most)',
                  flush=True)


if __name__ == '__main__':
    main()
