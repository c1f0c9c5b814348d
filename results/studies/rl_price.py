"""What does it cost to discover chains, beside being shown them, when both sides are tuned?

Task: cycle over 10 nodes, 1 to 4 hops mixed, one layer. The price is what a run has used up when
greedy decoding first has 95% of the questions of 4 hops right: questions, chains and tokens. (A
shown chain is one question, one chain. REINFORCE samples 8 chains for each question.)

1. Grid. Every side is trained with every learning rate and batch size, once, and measured on a
   validation split (--tune). The best setting of a side is the one that needs fewest chains.
2. Test. The best setting of each side, and the default one, are trained with three seeds and
   measured on the test split.

Both sides see the same number of questions in all, are tested about 100 times a run, and warm up
for 20 steps. Chains are shown with train_cot.py (a cosine follows), rewards are train_rl.py's
(constant learning rate). pass@k is tuned with the same number of runs: k and entropy bonus take the
place of the batch size.

    python results/studies/rl_price.py | tee results/studies/rl_price.txt   # an hour on two cores
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from multiprocessing.pool import ThreadPool
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = {'shown': 51200, 'reward': 128000, 'pass@k': 128000}  # of a run, in all
N_TESTS = 100      # evaluations of a run
HOPS = '4'         # at which hop count 95% is asked
CHAINS = 8         # of each question, for the last two
SHARED = '--nodes 10 --hops 1-4 --warmup_iters 20 --n_test 1200 --device cpu'

# side: script and its own flags, and the grid
SIDES = {
    'shown': ('train_cot.py --mode cot', dict(
        lr=['5e-4', '1e-3', '2e-3', '4e-3', '8e-3'], batch_size=[32, 128, 512])),
    'reward': ('train_rl.py', dict(
        lr=['2.5e-4', '5e-4', '1e-3', '2e-3', '4e-3'], batch_size=[32, 128, 512])),
    'pass@k': ('train_rl.py --objective passk', dict(
        lr=['1.25e-4', '2.5e-4', '5e-4', '1e-3'], k=[2, 4, 8], entropy=[0.01, 0.03])),
}
DEFAULTS = {
    'shown': dict(lr='3e-3', batch_size=512),
    'reward': dict(lr='1e-3', batch_size=128),
    'pass@k': dict(lr='1e-3', k=8, entropy=0.01),
}


def run(job):
    """Train once. Returns the job with its price: questions, chains and tokens until 95%, or None
    for each, and the last accuracy."""
    side, setting, seed, tune = job
    script, _ = SIDES[side]
    batch_size = setting.get('batch_size', 128)
    steps = QUESTIONS[side] // batch_size
    words = f'{script} {SHARED} --steps {steps} --batch_size {batch_size} --seed {seed}'
    words += f' --eval_interval {max(1, steps // N_TESTS)}'
    for name, value in setting.items():
        if name != 'batch_size':
            words += f' --{name} {value}'
    if tune:
        words += ' --tune'
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg'}
        done = subprocess.run([sys.executable, *words.split(), '--out_dir', folder], cwd=ROOT,
                              env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f'{words}: {done.stderr}')
        with open(Path(folder) / 'log.jsonl') as log:
            records = [json.loads(line) for line in log]
    return job, price_of(side, batch_size, records)


def price_of(side, batch_size, records):
    """What had been used up at the first evaluation with 95%, and the accuracy at the end."""
    evaluations = [record for record in records if 'eval' in record]
    price = dict(questions=None, chains=None, tokens=None,
                 acc=evaluations[-1]['eval'][HOPS]['acc'])
    for record in evaluations:
        if record['eval'][HOPS]['acc'] >= 0.95:
            questions = batch_size * record['step']
            price['questions'] = questions
            price['chains'] = record.get('samples', questions)
            price['tokens'] = record.get('tokens', round(2.5 * questions))  # 1 to 4 hops
            break
    return price


def as_text(setting):
    return ' '.join(f'{name} {value}' for name, value in setting.items())


def print_price(text, price):
    cells = ''
    for name in ('questions', 'chains', 'tokens'):
        value = price[name]
        cells += f'{"never" if value is None else format(value, ","):>12}'
    print(f'{text:52}{cells}{price["acc"]:10.3f}', flush=True)


def grid(side):
    """Every setting of a side."""
    _, choices = SIDES[side]
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--jobs', type=int, default=2, help='runs side by side')
    args = parser.parse_args()
    head = f'{"":52}{"questions":>12}{"chains":>12}{"tokens":>12}{"acc at end":>10}'
    best = {}
    with ThreadPool(args.jobs) as pool:
        for side in SIDES:
            print(f'{side}: each setting once, seed 1337, validation split\n{head}')
            jobs = [(side, setting, 1337, True) for setting in grid(side)]
            cheapest = None
            for (_, setting, _, _), price in pool.imap(run, jobs):
                print_price(f'  {as_text(setting)}', price)
                if price['chains'] and (cheapest is None or price['chains'] < cheapest):
                    cheapest = price['chains']
                    best[side] = setting

        chains = {}
        for side in SIDES:
            settings = dict(best=best.get(side), default=DEFAULTS[side])
            for name, setting in settings.items():
                if setting is None:
                    continue
                print(f'{side}, {name}: {as_text(setting)}, test split\n{head}')
                jobs = [(side, setting, seed, False) for seed in (1337, 1338, 1339)]
                for (_, _, seed, _), price in pool.imap(run, jobs):
                    print_price(f'  seed {seed}', price)
                    chains.setdefault((side, name), []).append(price['chains'])

    for side in ('reward', 'pass@k'):
        for name in ('best', 'default'):
            shown = chains[('shown', name)]
            sampled = chains.get((side, name), [None])
            if None in shown + sampled:
                print(f'{side}, {name}: not all seeds come to 95%')
                continue
            print(f'{side}, {name}: {min(sampled) / max(shown):.1f} to '
                  f'{max(sampled) / min(shown):.1f} times as many chains as shown ones, '
                  f'{sum(sampled) / sum(shown):.1f} on average')


if __name__ == '__main__':
    main()
