"""Are the results the same as before the house was rewritten for readers?

The code at commit e7c5c70 and the code of this folder run side by side, on one thread each:

1. batches of every task in every format, and logits and gradients of the model: equal, bit for bit
2. every script, several settings each: the weights, the log and the last line are compared. Only
   the seconds may differ.
3. speed: training, generation, a step of reinforcement learning, maze generation. Old and new take
   turns, A B A B ..., in one process. The ratio is the median over turns, new / old.

    python results/studies/same_as_before.py            # 1 and 2, some fifteen minutes on two cores
    python results/studies/same_as_before.py --speed    # 3, on a quiet machine
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace


os.environ['OMP_NUM_THREADS'] = '1'
os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'
import torch
import torch.nn.functional as F


NEW = Path(__file__).parent.parent.parent
BEFORE = 'e7c5c70'
MODULES = ('model', 'data', 'countdown', 'profiles', 'maze', 'common', 'plots', 'train_rl')

TASKS = [  # class, arguments
    ('Cycle', {}),
    ('Cycle', dict(nodes=7, hops=[1, 2, 3, 4, 5, 6])),
    ('Cycle', dict(nodes=9, hops=[2, 3], format='pairs')),
    ('CVPR', dict(nodes=12)),
    ('CVPR', dict(nodes=6, hops=[1, 2, 3, 4, 5])),
    ('CVPR', dict(nodes=8, hops=[1, 2, 3], format='pairs')),
    ('Multiply', dict(digits=1)),
    ('Multiply', dict(digits=2, reverse=True)),
    ('Multiply', dict(digits=9)),
    ('Star', {}),
    ('Star', dict(reverse=True)),
    ('Star', dict(star=(3, 2), nodes=7)),
    ('Countdown', {}),
    ('Countdown', dict(numbers=5)),
    ('Countdown', dict(numbers=2, holdout_targets=(36, 50))),
    ('Profiles', {}),
    ('Profiles', dict(people=20, hops=[1], relations=0)),
    ('Profiles', dict(people=20, attributes=2, relations=3, bipartite=True)),
    ('Profiles', dict(people=20, relabel=True, facts=3)),
    ('Maze', {}),
    ('Maze', dict(grid=(3, 4), gen='percolation', format='grid')),
    ('Maze', dict(grid=(2, 3, 5), gen='wilson')),
    ('Maze', dict(grid=(4,), gen='percolation', percolation=0.5, no_separators=True)),
    ('Maze', dict(grid=(3, 5), format='grid')),
]

SMALL = '--n_embd 16 --batch_size 32 --steps 40 --n_test 100 --eval_interval 20'
RUNS = [  # name, script and arguments; {out} is the folder of the side's own runs
    ('cot-cycle', 'train_cot.py --hops 4 --steps 60 --n_test 400'),
    ('cot-pairs', f'train_cot.py --format pairs --nodes 8 --hops 1-3 --n_loop 2 {SMALL}'),
    ('cot-cvpr', f'train_cot.py --task cvpr --nodes 40 --hops 30 --grad_accum 2 {SMALL}'),
    ('cot-multiply', f'train_cot.py --task multiply --digits 2 --reverse {SMALL}'),
    ('cot-star', f'train_cot.py --task star {SMALL}'),
    ('cot-profiles', f'train_cot.py --task profiles --people 27 --relations 16 {SMALL}'),
    ('countdown', 'train_cot.py --task countdown --n_layer 2 --n_embd 64 --batch_size 128 '
                  '--steps 300 --n_test 200'),
    ('rl-loo', 'train_rl.py --steps 60 --n_test 200'),
    ('rl-prefix', 'train_rl.py --baseline prefix --curriculum --hops 1-3 --nodes 6 --steps 40 '
                  '--batch_size 32 --n_test 200'),
    ('rl-passk', 'train_rl.py --objective passk --k 4 --format pairs --pos rope --test_hops 5-6 '
                 '--steps 20 --batch_size 16 --n_test 200'),
    ('rl-ema', 'train_rl.py --task cvpr --baseline ema --temperature 0.7 --steps 30 --n_test 200'),
    ('rl-init', 'train_rl.py --nodes 20 --hops 4 --baseline none --steps 20 --n_test 200 '
                '--init_from {out}/cot-cycle/ckpt.pt'),
    ('maze-path', 'train_maze.py --steps 60 --n_test 200'),
    ('maze-full', 'train_maze.py --loss full --format adjlist --grid 3-4 --test_grid 5 --n_layer 2 '
                  '--batch_size 16 --steps 40 --n_test 200'),
    ('maze-balanced', 'train_maze.py --loss balanced --gen wilson --n_layer 2 --steps 30 '
                      '--n_test 200'),
    ('maze-mlmu', 'train_maze.py --loss mlmu --grid 3 --pos rope --n_layer 2 --steps 40 '
                  '--n_test 200'),
    ('maze-graded', 'train_maze.py --loss graded --beta 0.5 --gen percolation --n_layer 2 '
                    '--steps 40 --n_test 200'),
    ('search-50', 'search.py --ckpt {out}/countdown/ckpt.pt --puzzles {puzzles} --k 16 '
                  '--budget 40'),
    ('search-dfs', 'search.py --ckpt {out}/countdown/ckpt.pt --puzzles {puzzles} --method dfs '
                   '--propose model --prune 0.2'),
    ('search-cycle', 'search.py --ckpt {out}/cot-cycle/ckpt.pt --k 8 --n_test 200'),
    ('search-multiply', 'search.py --ckpt {out}/cot-multiply/ckpt.pt --k 8 --n_test 100'),
    ('jacobi-cycle', 'jacobi.py --ckpt {out}/cot-cycle/ckpt.pt --n_test 200'),
    ('jacobi-countdown', 'jacobi.py --ckpt {out}/countdown/ckpt.pt --n_test 200'),
    ('capacity-1', 'capacity.py --sizes 4000,8000 --exposures 30 --steps 300'),
    ('capacity-2', 'capacity.py --hops 2 --sizes 3000,6000 --people 20,40 --attributes 4 '
                   '--relations 2 --exposures 60 --steps 300 --n_layer 1'),
    ('capacity-smallest', 'capacity.py --hops 2 --cot --smallest --people 10 --exposures 60 '
                          '--steps 200 --attributes 4 --relations 2 --sizes 900'),
    ('direct', 'train_cot.py --mode direct --hops 1-2 --nodes 14 --n_layer 2 --n_head 2 '
               '--n_embd 32 --lr 4e-3 --steps 300'),
    ('probe-direct', 'probe.py --ckpt {out}/direct/ckpt.pt --n_train 2000 --n_test 500'),
    ('probe-profiles', 'probe.py --ckpt {out}/cot-profiles/ckpt.pt --n_train 2000 --n_patch 200'),
    ('probe-chain', 'probe.py --ckpt {out}/cot-pairs/ckpt.pt --n_train 1000 --layers 0,2'),
]


# -----------------------------------------------------------------------------
# 1. batches and the model, both sides in one process

def load_modules(folder):
    """The modules of one side, under names that do not collide with those of the other."""
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.path.insert(0, str(folder))
    modules = SimpleNamespace()
    for name in MODULES:
        if (folder / f'{name}.py').exists():
            setattr(modules, name, importlib.import_module(name))
    sys.path.pop(0)
    for name in MODULES:
        sys.modules.pop(name, None)
    return modules


def find_class(modules, name):
    for module in vars(modules).values():
        if hasattr(module, name):
            return getattr(module, name)
    raise KeyError(name)


def compare_batches(old, new):
    """The number of equal batches. Stops at the first that differs."""
    n_equal = 0
    for name, arguments in TASKS:
        old_task = find_class(old, name)(**arguments)
        new_task = find_class(new, name)(**arguments)
        assert old_task.vocab == new_task.vocab
        for h in old_task.hops:
            assert old_task.chance(h) == new_task.chance(h), (name, arguments)
        for mode in ('cot', 'direct'):
            for split in ('train', 'test'):
                for hops in (None, old_task.hops[0], old_task.hops[-2:]):
                    for seed in (1, 2):
                        options = (100, seed, 3, split, mode, hops)
                        a = sample_or_refuse(old, old_task, options)
                        b = sample_or_refuse(new, new_task, options)
                        assert equal_batches(a, b), (name, arguments, options)
                        n_equal += 1
    return n_equal


def sample_or_refuse(side, task, options):
    """A batch, or None if there are too few instances in this split: there are few small mazes."""
    try:
        return side.data.sample_batch(task, *options)
    except ValueError:
        return None


def equal_batches(a, b):
    if a is None or b is None:
        return a is b
    for field in ('tokens', 'loss_mask', 'answer', 'hops', 'instance'):
        if not torch.equal(getattr(a, field), getattr(b, field)):
            return False
    return a.prompt_len == b.prompt_len


def compare_models(old, new):
    """The number of equal logits and gradients: every kind of position, loops, every mask."""
    n_equal = 0
    for pos in ('learned', 'rope', 'none'):
        for n_loop in (1, 2):
            for causal in (True, False):
                models = []
                for side in (old, new):
                    torch.manual_seed(1)
                    config = side.model.GPTConfig(16, 24, 2, 2, 16, n_loop, causal, pos)
                    models.append(side.model.GPT(config))
                idx = torch.randint(16, (12, 20))
                idx[:, :8] = idx[::4, :8].repeat_interleave(4, dim=0)
                mask = torch.rand(12, 20) < 0.3
                options = [{}]
                options.append({'shared': (8, 4)} if causal else {'visible': idx > 3})
                for more in options:
                    results = []
                    for model in models:
                        model.zero_grad()
                        logits = model(idx, mask, **more)
                        logits.square().mean().backward()
                        results.append([logits, *(p.grad for p in model.parameters())])
                    for a, b in zip(*results, strict=True):
                        assert torch.equal(a, b), (pos, n_loop, causal, more)
                        n_equal += 1
    return n_equal


# -----------------------------------------------------------------------------
# 2. the scripts, in processes of their own

def run_both(sides, name, command, puzzles):
    """Run one command on both sides at once. Returns the last line of each."""
    processes = []
    for folder, out in sides:
        argv = command.format(out=out, puzzles=puzzles).split()
        if folder != NEW and argv[0] == 'jacobi.py':  # it was a flag of search.py
            argv[:1] = ['search.py', '--jacobi']
        processes.append(subprocess.Popen(
            [sys.executable, *argv, '--out_dir', str(out / name)], cwd=folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    lines = []
    for process in processes:
        stdout, stderr = process.communicate()
        assert process.returncode == 0, f'{command}\n{stderr}'
        lines.append(stdout.strip().split('\n')[-1])
    return lines


def without_seconds(value):
    """A record, or the last line, without the wall-clock values in it."""
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if k != 'seconds'}
    if isinstance(value, str) and value.startswith('final '):
        return ' '.join(word for word in value.split() if not word.startswith('seconds='))
    return value


def read_log(folder):
    records = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    return [json.dumps(without_seconds(record)) for record in records]  # the order of keys counts


def compare_runs(a, b, last_lines):
    """What is not the same in two folders of runs: a list of words. Also how much was compared."""
    different = []
    if without_seconds(last_lines[0]) != without_seconds(last_lines[1]):
        different.append('last line')
    logs = read_log(a), read_log(b)
    if logs[0] != logs[1]:
        different.append('log')

    n_tensors = 0
    names = sorted(path.name for path in a.glob('ckpt*.pt'))
    if names != sorted(path.name for path in b.glob('ckpt*.pt')):
        different.append('checkpoints')
    for name in names:
        states = [torch.load(folder / name, weights_only=True) for folder in (a, b)]
        weights = [state['model'] for state in states]
        if weights[0].keys() != weights[1].keys():
            different.append(f'names in {name}')
            continue
        for key in weights[0]:
            n_tensors += 1
            if not torch.equal(weights[0][key], weights[1][key]):
                different.append(f'{name} {key}')
        if states[0]['step'] != states[1]['step']:
            different.append(f'{name} step')
    return different, len(logs[0]), n_tensors


# -----------------------------------------------------------------------------
# 3. speed

def in_turns(functions, turns):
    """Seconds of each function in each turn. Every other turn goes the other way round."""
    for function in functions:
        function()
        function()
    rows = []
    for turn in range(turns):
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        seconds = [0.0, 0.0]
        for i in order:
            begin = time.perf_counter()
            functions[i]()
            seconds[i] = time.perf_counter() - begin
        rows.append(seconds)
    return rows


def make_training(side):
    """A training step of train_cot.py's default, data included."""
    task = find_class(side, 'Cycle')()
    torch.manual_seed(0)
    model = side.model.GPT(side.model.GPTConfig(len(task.vocab), task.block_size))
    optimizer = model.configure_optimizer(1e-3, 0.01)

    def step():
        batch = side.data.sample_batch(task, 512, 1, 1)
        mask = batch.loss_mask[:, 1:]
        logits = model(batch.tokens[:, :-1], mask)
        F.cross_entropy(logits, batch.tokens[:, 1:][mask]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return step


def make_generation(side):
    torch.manual_seed(0)
    model = side.model.GPT(side.model.GPTConfig(25, 96, n_layer=2))
    prompt = torch.randint(25, (128, 64), generator=torch.Generator().manual_seed(0))
    return lambda: model.generate(prompt, 32)


def make_reinforcement(side):
    """Sample 8 chains for each of 128 questions, and one policy-gradient step on them."""
    task = find_class(side, 'Cycle')(nodes=10, hops=(1, 2, 3, 4))
    torch.manual_seed(0)
    model = side.model.GPT(side.model.GPTConfig(len(task.vocab), task.block_size))
    optimizer = model.configure_optimizer(1e-3, 0.01)
    batch = side.data.sample_batch(task, 128, 0, 0)
    mask = batch.loss_mask.repeat_interleave(8, dim=0)
    P = batch.prompt_len

    def step():
        tokens = model.generate(batch.tokens[:, :P], 4, 1.0, samples=8)
        logp, entropy = side.train_rl.log_probs(model, tokens, mask, 1.0, shared=(P, 8))
        (logp.mean() + 0.01 * entropy.mean()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return step


def make_mazes(side):
    task = find_class(side, 'Maze')(format='grid')
    return lambda: side.data.sample_batch(task, 2000, 1, 1)


def measure_speed(old, new, turns=60):
    print(f'speed: new / old, median over {turns} turns (quartiles); one thread')
    for name, make in (('training step', make_training), ('generation', make_generation),
                       ('RL step', make_reinforcement), ('2,000 mazes', make_mazes)):
        rows = in_turns([make(old), make(new)], turns)
        ratios = [b / a for a, b in rows]
        low, middle, high = statistics.quantiles(ratios, n=4)
        seconds = statistics.median(a for a, _ in rows)
        print(f'  {name:14} {middle:.3f} ({low:.3f} to {high:.3f})   old {1000 * seconds:.1f} ms',
              flush=True)


# -----------------------------------------------------------------------------

def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--speed', action='store_true', help='compare the speed instead')
    parser.add_argument('--only', default='', help='runs whose names contain it, such as cot,rl-')
    args = parser.parse_args()
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as temporary:
        # the code as it was
        before = Path(temporary) / 'before'
        archive = subprocess.run(['git', 'archive', BEFORE], cwd=NEW, capture_output=True,
                                 check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(before, filter='data')
        old = load_modules(before)
        new = load_modules(NEW)

        if args.speed:
            measure_speed(old, new)
            return

        commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=NEW,
                                capture_output=True, text=True).stdout.strip()
        print(f'{BEFORE} and {commit}, torch {torch.__version__}, one thread')
        if not args.only:
            print(f'batches: {compare_batches(old, new)} equal')
            print(f'model: {compare_models(old, new)} logits and gradients equal', flush=True)

        puzzles = Path(temporary) / 'puzzles.txt'
        hundred = (NEW / 'results' / 'tot-100.txt').read_text().splitlines()
        puzzles.write_text('\n'.join(hundred[::2]) + '\n')
        sides = [(before, Path(temporary) / 'out_old'), (NEW, Path(temporary) / 'out_new')]
        n_different = 0
        for name, command in RUNS:
            if not any(word in name for word in args.only.split(',')):
                continue
            begin = time.time()
            last_lines = run_both(sides, name, command, puzzles)
            a, b = (out / name for _, out in sides)
            different, n_records, n_tensors = compare_runs(a, b, last_lines)
            n_different += len(different) > 0
            verdict = 'DIFFERENT: ' + ', '.join(different) if different else 'same'
            print(f'{name:18} {verdict}: {n_records} log records, {n_tensors} weights, last line '
                  f'({time.time() - begin:.0f} s)', flush=True)
        print(f'{n_different} runs differ')
        sys.exit(n_different > 0)


if __name__ == '__main__':
    with contextlib.suppress(KeyboardInterrupt):
        main()
