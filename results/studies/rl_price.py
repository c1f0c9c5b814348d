"""What does it cost to discover chains, beside being shown them, when both sides are tuned?

Task: cycle over 10 nodes, 1 to 4 hops mixed, one layer. The price is what a run has used up when
greedy decoding first has 95% of the questions of 4 hops right: questions, chains and tokens. (A
shown chain is one question, one chain. REINFORCE samples 8 chains for each question.)

1. Grid. Every side is trained with every learning rate and batch size, once, and measured on a
   validation split (--tune). The best setting of a side is the one that needs fewest chains.
2. Test. The best setting of each side, and the default one, are trained with three seeds and
   measured on the test split.

A run ends when it has come to 95%, or when its questions are used up: 51,200 with shown chains,
128,000 with rewards. It is tested about 100 times on its way and warms up for 20 steps. Chains are
shown with train_cot.py (a cosine follows), rewards are train_rl.py's (constant learning rate).
Shown chains and rewards have 15 runs each in their grids. pass@k has 16: k and the entropy bonus
take the place of the batch size.

    python results/studies/rl_price.py | tee results/studies/rl_price.txt   # an hour on two cores
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
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
        lr=['2.5e-4', '5e-4', '1e-3', '2e-3'], k=[2, 8], entropy=[0.01, 0.03])),
}
DEFAULTS = {
    'shown': dict(lr='3e-3', batch_size=512),
    'reward': dict(lr='1e-3', batch_size=128),
    'pass@k': dict(lr='1e-3', k=8, entropy=0.01),
}


def run(job):
    """Train until 95% of the questions of 4 hops are right, or to the end. Returns the job with its
    price: questions, chains and tokens (None for each without 95%), and the last accuracy."""
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
    environment = os.environ | {'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg'}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile('w+') as output:
        process = subprocess.Popen([sys.executable, *words.split(), '--out_dir', folder], cwd=ROOT,
                                   env=environment, stdout=output, stderr=output)
        log = Path(folder) / 'log.jsonl'
        price = None
        while process.poll() is None:
            time.sleep(1)
            price = price_of(side, batch_size, log)
            if price and price['chains']:
                process.kill()
                process.wait()
                return job, price
        if process.returncode != 0:
            output.seek(0)
            raise RuntimeError(f'{words}: {output.read()}')
        return job, price_of(side, batch_size, log)


def price_of(side, batch_size, log):
    """What had been used up at the first evaluation with 95%, and the accuracy there (or the last
    one). None while the log has no evaluation."""
    if not log.exists():
        return None
    price = None
    for line in log.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # a line that is being written
            break
        if 'eval' not in record:
            continue
        price = dict(questions=None, chains=None, tokens=None, acc=record['eval'][HOPS]['acc'])
        if price['acc'] >= 0.95:
            price['questions'] = batch_size * record['step']
            price['chains'] = record.get('samples', price['questions'])
            price['tokens'] = record.get('tokens', round(2.5 * price['questions']))  # 1 to 4 hops
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
    head = f'{"":52}{"questions":>12}{"chains":>12}{"tokens":>12}{"last acc":>10}'
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
