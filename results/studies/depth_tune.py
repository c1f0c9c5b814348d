"""Which learning rate and how many heads suit a model that answers without a chain?

docs/train_cot.md compares depth, loops and a chain. The comparison is only fair if every model is
tuned, and all of them by the same rule:

1. Each setting of the grid is trained once, with seed 1337: for as long as the row of the page, but
   in the group `hops` for 4,000 of its 10,000 steps. It is measured on a validation split (--tune),
   so the choice sees no test question.
2. The best setting has the highest accuracy, averaged over the hop counts at the end of training.
   Among equals the smallest training loss of the last 100 steps decides.

results/reproduce.sh then trains the best settings with three seeds and asks the test questions. The
runs are kept in --folder. A study that was stopped goes on where it was.

    python results/studies/depth_tune.py | tee results/studies/depth_tune.txt   # hours
    python results/studies/depth_tune.py --group mixture                        # minutes
"""

import argparse
import itertools
import os
import subprocess
import sys
from multiprocessing.pool import ThreadPool
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from files import read_log


RATES = ('1e-3', '2e-3')

# group: flags of all its models, the numbers of heads to try, and each model's own flags
GROUPS = {
    'hops': ('--nodes 10 --hops 1-4 --batch_size 64 --steps 4000', (2, 4), {
        'chain': '--mode cot --n_layer 1 --n_embd 64',
        'layers-1': '--mode direct --n_layer 1 --n_embd 64',
        'loops-2': '--mode direct --n_layer 1 --n_embd 64 --n_loop 2',
        'loops-4': '--mode direct --n_layer 1 --n_embd 64 --n_loop 4',
        'loops-8': '--mode direct --n_layer 1 --n_embd 64 --n_loop 8',
        'layers-2': '--mode direct --n_layer 2 --n_embd 44',
        'layers-4-narrow': '--mode direct --n_layer 4 --n_embd 32',
        'layers-4-wide': '--mode direct --n_layer 4 --n_embd 64',
    }),
    'deep': ('--mode direct --n_layer 6 --batch_size 128 --steps 4000', (2,), {
        'deep-alone': '--hops 4',
        'deep-mixture': '--hops 1-4',
    }),
    'mixture': ('--mode direct --nodes 40', (2, 4), {
        'one-hop': '--hops 1',
        'mixture': '--hops 1-5',
        'mixture-longer': '--hops 1-5 --steps 10000',  # as many one-hop questions as 'one-hop'
    }),
}


def train(job):
    """Train one setting, unless a study before has done so. Returns the job and its run's folder.

    job: the name of the model, its flags and the folder of all runs.
    """
    name, flags, folder = job
    setting = flags[flags.index('--n_head'):].replace('--', '').replace(' ', '_')
    out_dir = folder / name / setting
    if not is_finished(out_dir):
        words = f'train_cot.py {flags} --seed 1337 --tune --device cpu --resume'.split()
        words += '--eval_interval 1000 --n_test 1000'.split()
        environment = os.environ | {'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg'}
        subprocess.run([sys.executable, *words, '--out_dir', str(out_dir)], cwd=ROOT, check=True,
                       env=environment, stdout=subprocess.DEVNULL)
    return job, out_dir


def is_finished(out_dir):
    """Whether a run has come to its end: its last record is then the result."""
    records = read_log(out_dir)
    return bool(records) and records[-1]['arm'] == 'final'


def measure(out_dir):
    """Accuracy of each hop count at the end of a run, and the loss of its last 100 steps."""
    records = read_log(out_dir)
    (by_hops,) = records[-1]['by_hops'].values()
    accuracy = [values['acc'] for values in by_hops.values()]
    losses = [record['loss'] for record in records if 'loss' in record]  # one every 10 steps
    return accuracy, sum(losses[-10:]) / 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--group', choices=GROUPS, help='one group of models (default: all)')
    parser.add_argument('--jobs', type=int, default=2, help='runs side by side')
    parser.add_argument('--folder', type=Path, default=ROOT / 'out/studies/depth_tune')
    args = parser.parse_args()

    for group in [args.group] if args.group else GROUPS:
        shared, heads, models = GROUPS[group]
        print(f'{group}: {shared}')
        jobs = []
        for name, own in models.items():
            for n_head, rate in itertools.product(heads, RATES):
                flags = f'{shared} {own} --n_head {n_head} --lr {rate}'
                jobs.append((name, flags, args.folder))

        best = {}
        with ThreadPool(args.jobs) as pool:
            for (name, flags, _), out_dir in pool.imap(train, jobs):
                accuracy, loss = measure(out_dir)
                mean = sum(accuracy) / len(accuracy)
                setting = flags[flags.index('--n_head'):]
                cells = ' '.join(f'{value:.3f}' for value in accuracy)
                print(f'  {name:16} {setting:22} mean {mean:.3f} loss {loss:.4f}   {cells}',
                      flush=True)
                rank = (mean, -loss)
                if name not in best or rank > best[name][0]:
                    best[name] = rank, setting
        for name, (_, setting) in best.items():
            print(f'  best of {name:16} {setting}')


if __name__ == '__main__':
    main()
