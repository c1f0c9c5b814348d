"""Does the probe see hop 2 before the answer is right? The default model of probe.py is trained once more; a copy of every checkpoint
that it leaves in the first half, every 50 steps, is probed. Writes results/probe-curve/curve.jsonl: one record a checkpoint.

    python results/probe_curve.py
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent

MAKE = 'train_cot.py --mode direct --hops 1-2 --nodes 14 --n_layer 2 --n_head 2 --n_embd 32 --lr 4e-3 --steps 4000 --eval_interval 50 --n_test 400'.split()

with tempfile.TemporaryDirectory() as tmp:
    tmp = Path(tmp)
    training = subprocess.Popen([sys.executable, *MAKE, '--out_dir', str(tmp / 'run')], cwd=ROOT, stdout=subprocess.DEVNULL)
    seen, kept = None, []
    while training.poll() is None and len(kept) < 40:  # a checkpoint is moved into place when it is complete: a copy is of one moment
        path = tmp / 'run' / 'ckpt.pt'
        if path.exists() and path.stat().st_mtime_ns != seen:
            seen = path.stat().st_mtime_ns
            kept.append(shutil.copy(path, tmp / f'{len(kept)}.pt'))
        time.sleep(0.05)
    training.kill()
    training.wait()
    (ROOT / 'results' / 'probe-curve').mkdir(exist_ok=True)
    with open(ROOT / 'results' / 'probe-curve' / 'curve.jsonl', 'w') as f:
        for path in kept:
            out = tmp / (path.stem + '-probe')
            subprocess.run([sys.executable, 'probe.py', '--ckpt', path, '--out_dir', out, '--positions', '0'], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            hop1, hop2 = json.loads((out / 'results.json').read_text())['hops']
            at = hop1['positions'].index(hop1['position'])
            record = dict(step=torch.load(path, weights_only=True)['step'], acc=hop2['lens'][-1][at], hop1=hop1['acc'][1][at], hop2_1=hop2['acc'][1][at],
                          hop2_2=hop2['acc'][-1][at], flip=hop1['flip'][1][at])
            f.write(json.dumps(record) + '\n')
            print(record, flush=True)
