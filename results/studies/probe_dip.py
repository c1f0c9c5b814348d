"""Why is the default model of probe.py below chance at step 150? (See probe_curve.jsonl.)

The training of probe_curve.py is stopped at step 150. If the model answers two-hop questions with
the node of hop 1, it is never right, because on a cycle the second node is another one.

    python results/studies/probe_dip.py | tee results/studies/probe_dip.txt
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from checkpoint import load_checkpoint
from data import Cycle, sample_batch


TRAIN = ('train_cot.py --mode direct --hops 1-2 --nodes 14 --n_layer 2 --n_head 2 --n_embd 32 '
         '--lr 4e-3 --steps 4000 --eval_interval 50 --n_test 400 --device cpu')


def model_at(step, folder):
    """Train until the checkpoint of this step is written."""
    command = [sys.executable, *TRAIN.split(), '--out_dir', str(folder)]
    training = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
    try:
        while training.poll() is None:
            time.sleep(0.05)
            if (folder / 'ckpt.pt').exists():
                model, state = load_checkpoint(folder / 'ckpt.pt')
                if state['step'] == step:
                    return model
                if state['step'] > step:
                    break
    finally:
        training.kill()
        training.wait()
    raise SystemExit(f'the checkpoint of step {step} was missed: run it again')


@torch.no_grad()
def main():
    task = Cycle(14, [1, 2])
    for step in (100, 150, 200):
        with tempfile.TemporaryDirectory() as folder:
            model = model_at(step, Path(folder) / 'run')
        batch = sample_batch(task, 2000, 0, 0, 'test', 'direct', hops=2)
        output = model.generate(batch.tokens[:, :batch.prompt_len], 1)[:, -1]
        start = batch.tokens[:, batch.prompt_len - 1:batch.prompt_len]
        hop1 = batch.instance.gather(1, start)
        hop2 = batch.instance.gather(1, hop1)
        shares = [(output == node[:, 0]).float().mean().item() for node in (start, hop1, hop2)]
        print(f'step {step}: of the answers to two-hop questions {shares[1]:.3f} are the node of '
              f'hop 1, {shares[2]:.3f} are right, {shares[0]:.3f} are the start (chance '
              f'{1 / 13:.3f})', flush=True)


if __name__ == '__main__':
    main()
