"""Does the probe see hop 2 before the answer is right?

The default model of probe.py is trained once more. Every 50 steps in the first half of training a
copy of its checkpoint is probed. Writes probe_curve.jsonl, one record a checkpoint.

    python results/studies/probe_curve.py
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch


ROOT = Path(__file__).parents[2]
TRAIN = ('train_cot.py --mode direct --hops 1-2 --nodes 14 --n_layer 2 --n_head 2 --n_embd 32 '
         '--lr 4e-3 --steps 4000 --eval_interval 50 --n_test 400')
N_CHECKPOINTS = 40


def train_and_copy(folder):
    """Train in folder / 'run', and copy each checkpoint. Returns the paths of the copies."""
    command = [sys.executable, *TRAIN.split(), '--out_dir', str(folder / 'run')]
    training = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    checkpoint = folder / 'run' / 'ckpt.pt'
    last_time = None
    copies = []
    while training.poll() is None and len(copies) < N_CHECKPOINTS:
        # a checkpoint is moved into place when it is complete, so a copy is of one moment
        if checkpoint.exists() and checkpoint.stat().st_mtime_ns != last_time:
            last_time = checkpoint.stat().st_mtime_ns
            copies.append(shutil.copy(checkpoint, folder / f'{len(copies)}.pt'))
        time.sleep(0.05)
    training.kill()
    training.wait()
    return copies


def probe(path, folder):
    """Probe one checkpoint: the record of its step."""
    command = [sys.executable, 'probe.py', '--ckpt', path, '--out_dir', folder, '--positions', '0']
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    hop1, hop2 = json.loads((folder / 'results.json').read_text())['hops']
    at = hop1['positions'].index(hop1['position'])
    return dict(
        step=torch.load(path, weights_only=True)['step'],
        acc=hop2['lens'][-1][at],
        hop1=hop1['acc'][1][at],
        hop2_1=hop2['acc'][1][at],
        hop2_2=hop2['acc'][-1][at],
        flip=hop1['flip'][1][at])


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copies = train_and_copy(folder)
        with open(Path(__file__).with_suffix('.jsonl'), 'w') as f:
            for path in copies:
                record = probe(path, folder / f'{path.stem}-probe')
                f.write(json.dumps(record) + '\n')
                print(record, flush=True)


if __name__ == '__main__':
    main()
