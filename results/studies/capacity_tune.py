"""Which learning rate suits layers and loops that may compose two facts?

docs/capacity_depth.md asks whether models of 1 to 4 layers, and of one layer applied 2 and 4 times,
combine two facts, with and without weight decay. The answer is only fair if every one of them is
tuned, and all of them by the same rule:

1. Each setting of the grid is trained once, with seed 1337, on 20 people, whom no row of the page
   has. All other settings are those of the rows.
2. The best setting leaves the smallest loss on the questions that it was trained on. So the choice
   sees no held-out question, and does not prefer models that compose.

The runs are kept in --folder. A study that was stopped goes on where it was.

    python results/studies/capacity_tune.py | tee results/studies/capacity_tune.txt  # 20 minutes
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]

SHARED = ('--hops 2 --attributes 4 --relations 16 --exposures 150 --steps 1800 '
          '--people 20 --sizes 8000')
RATES = ('5e-3', '2e-2', '4e-2', '8e-2')
DECAYS = ('0', '0.3')
MODELS = {
    'layers-1': '--n_layer 1',
    'layers-2': '--n_layer 2',
    'layers-4': '--n_layer 4',
    'loops-2': '--n_layer 1 --n_loop 2',
    'loops-4': '--n_layer 1 --n_loop 4',
}


def train(job):
    """Train one setting, unless a study before has done so. Returns the job and its record.

    job: the name of the model, its decay, its learning rate and the folder of all runs.
    """
    name, decay, rate, folder = job
    out_dir = folder / name / f'decay_{decay}_lr_{rate}'
    results = out_dir / 'results.json'
    if not results.exists():
        flags = f'{SHARED} {MODELS[name]} --weight_decay {decay} --lr {rate}'
        words = f'capacity.py {flags} --seed 1337 --device cpu --resume'.split()
        environment = os.environ | {'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg'}
        subprocess.run([sys.executable, *words, '--out_dir', str(out_dir)], cwd=ROOT, check=True,
                       env=environment, stdout=subprocess.DEVNULL)
    (record,) = json.loads(results.read_text())['models']
    return job, record


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--jobs', type=int, default=2, help='runs side by side')
    parser.add_argument('--folder', type=Path, default=ROOT / 'out/studies/capacity_tune')
    args = parser.parse_args()

    print(SHARED)
    jobs = []
    for name, decay, rate in itertools.product(MODELS, DECAYS, RATES):
        jobs.append((name, decay, rate, args.folder))

    best = {}
    with ThreadPool(args.jobs) as pool:
        for (name, decay, rate, _), record in pool.imap(train, jobs):
            bits = sum(record['loss'].values())
            print(f'  {name:9} decay {decay:4} lr {rate}   trained {bits:6.0f} bits lost, '
                  f'right {record["acc_1"]:.3f} {record["acc_2_trained"]:.3f}   '
                  f'held out {record["loss_2_combination"]:5.2f} bits a question, '
                  f'right {record["acc_2_combination"]:.3f}   {record["seconds"]:4.0f} s',
                  flush=True)
            key = name, decay
            if key not in best or bits < best[key][0]:
                best[key] = bits, rate
    for (name, decay), (_, rate) in best.items():
        print(f'  best of {name:9} decay {decay:4} lr {rate}')


if __name__ == '__main__':
    main()
