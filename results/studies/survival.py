"""Is anything lost when a run is killed, stopped, run twice, or when the disk is full?

1. kills: each trainer is killed (SIGKILL) at a random moment, resumed, killed again, and so on
   until it ends. Half of the runs write a checkpoint at every step.
2. signals: the same with SIGTERM and SIGINT.
3. writers: two and four equal commands start at once in one folder.
4. disk: the disk fills up in the middle of a run (a limit on the size of the file system where a
   small one can be mounted, else on that of a file), or the folder is removed.
5. power: a disk that forgets what no fsync asked it to write. The power is cut at every move of a
   file in turn. Control: the same without fsync, which must lose something.

Each time the run is resumed, or started again, until it ends. It must then have the same weights,
optimizer, random state and log as a run that was left alone, to the bit.

    python results/studies/survival.py              # Linux; about ten minutes on one core
    python results/studies/survival.py --only kills

Result: results/studies/survival.txt
"""

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


os.environ['OMP_NUM_THREADS'] = '1'
os.environ['MPLBACKEND'] = 'Agg'
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from errors import one_line_errors

import torch

import capacity
import checkpoint
import train_cot
import train_maze
import train_rl


SCRIPTS = dict(train_cot=train_cot, train_rl=train_rl, train_maze=train_maze, capacity=capacity)
SMALL = '--n_test 20 --device cpu --batch_size 8 --n_embd 16'
RUNS = {
    'train_cot, every step': ('train_cot', f'--hops 1-2 --nodes 6 --steps 60 --eval_interval 1 '
                                           f'--log_interval 1 {SMALL}'),
    'train_cot': ('train_cot', f'--hops 1-2 --nodes 6 --steps 300 --eval_interval 50 {SMALL}'),
    'train_rl, every step': ('train_rl', f'--hops 1-2 --nodes 6 --steps 60 --log_interval 1 '
                                         f'--curriculum {SMALL}'),
    'train_rl': ('train_rl', f'--hops 1-2 --nodes 6 --steps 150 --log_interval 40 --baseline ema '
                             f'{SMALL}'),
    'train_maze, every step': ('train_maze', f'--grid 3 --n_layer 1 --steps 40 --eval_interval 1 '
                                             f'{SMALL}'),
    'train_maze': ('train_maze', f'--grid 3 --n_layer 1 --steps 120 --eval_interval 40 {SMALL}'),
    'capacity, every step': ('capacity', '--sizes 2000,3000 --exposures 5 --steps 20 --device cpu'),
    'capacity': ('capacity', '--sizes 2000,3000 --exposures 20 --steps 300 --device cpu'),
}


# -----------------------------------------------------------------------------
# one process

def start(run, folder, more='', prepare=None):
    """Fork a process that runs the command. Its output goes to files beside the folder."""
    script, words = RUNS[run]
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for number, name in ((1, 'out'), (2, 'err')):
            path = f'{folder}.{os.getpid()}.{name}'
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout = open(1, 'w', closefd=False)  # noqa: SIM115
        sys.stderr = open(2, 'w', closefd=False)  # noqa: SIM115
        sys.argv = [f'{script}.py']
        if prepare is not None:
            prepare()
        with one_line_errors():
            SCRIPTS[script].main(f'{words} --out_dir {folder} {more}'.split())
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(child, seconds=None):
    """The exit code, -n after signal n. After so many seconds None, and the process goes on."""
    end = None if seconds is None else time.time() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.time() > end:
            return None
        time.sleep(0.002)


def error_lines(folder, child):
    """The lines on stderr of a process."""
    path = Path(f'{folder}.{child}.err')
    return [line for line in path.read_text().split('\n') if line]


def fault_of(folder, child, code, expected):
    """A line that says what is wrong with how a process ended, or None."""
    lines = error_lines(folder, child)
    if any('Traceback' in line for line in lines):
        return f'traceback: {lines[-1][:120]}'
    if code not in expected:
        return f'exit code {code}: {lines[-1:]}'
    if code > 0 and len(lines) != 1:
        return f'{len(lines)} lines instead of one'
    return None


# -----------------------------------------------------------------------------
# what a run left

def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k != 'seconds'}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def left_by(folder):
    """Checksums of all checkpoints, and the log, without seconds."""
    sums = {}
    for path in sorted(folder.glob('ckpt*.pt')):
        _, state = checkpoint.load_checkpoint(path)
        state.pop('seconds', None)
        sums[path.name] = checkpoint.checksum(state)
    text = (folder / 'log.jsonl').read_text()
    log = [without_times(json.loads(line)) for line in text.splitlines()]
    rest = sorted(path.name for path in folder.iterdir() if path.suffix in ('.tmp', '.lock'))
    return sums, log, rest


def same(folder, expected):
    """Nothing, or what differs from a run that was left alone."""
    found = left_by(folder)
    for name, a, b in zip(('weights', 'log', 'files'), found, expected, strict=True):
        if a != b:
            return f'another {name}'
    return None


class Table:
    """Counts, and the faults as lines."""

    def __init__(self):
        self.rows = {}

    def add(self, row, fault, where=''):
        counts = self.rows.setdefault(row, [0, 0])
        counts[0] += 1
        counts[1] += fault is not None
        if fault is not None:
            print(f'FAULT {row} {where}: {fault}', flush=True)

    def print(self):
        print(f'{"what":50} {"tries":>6} {"faults":>7}')
        for row, (tries, faults) in self.rows.items():
            print(f'{row:50} {tries:6} {faults:7}')


# -----------------------------------------------------------------------------
# kills and signals

def try_kills(work, rng, table, expected, seconds, numbers, n_runs=2):
    """Kill each run again and again at random moments, and compare its end with `expected`."""
    for run in RUNS:
        row = f'{"kill" if numbers == [signal.SIGKILL] else "signals"}: {run}'
        for i in range(n_runs):
            folder = work / f'{i}'
            kills = 0
            fault = None
            while fault is None:
                child = start(run, folder, '--resume')
                code = wait(child, rng.uniform(0.02, seconds[run] / 3))
                if code is None and kills < 6:
                    number = rng.choice(numbers)
                    os.kill(child, number)
                    kills += 1
                    code = wait(child)
                    fault = fault_of(folder, child, code, (-9, -15, 0, 143, 130))
                    continue
                code = wait(child) if code is None else code
                fault = fault_of(folder, child, code, (0,))
                break
            fault = fault or same(folder, expected[run])
            for _ in range(max(1, kills)):  # each kill is a try
                table.add(row, fault, f'run {i}')
            shutil.rmtree(folder, ignore_errors=True)


# -----------------------------------------------------------------------------
# writers

def try_writers(work, table, expected):
    for run in RUNS:
        for n in (2, 4):
            folder = work / 'shared'
            children = [start(run, folder) for _ in range(n)]
            codes = [wait(child) for child in children]
            fault = None
            if sorted(codes) != [0] + [2] * (n - 1):
                fault = f'exit codes {codes}'
            for child, code in zip(children, codes, strict=True):
                fault = fault or fault_of(folder, child, code, (0, 2))
            fault = fault or same(folder, expected[run])
            table.add(f'{n} writers', fault, run)
            shutil.rmtree(folder)


# -----------------------------------------------------------------------------
# disks

def try_disk(work, rng, table, expected):
    """A file system of a few hundred kilobytes, of which another file takes a part."""
    disk = work / 'disk'
    disk.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        print('disk: no file system can be mounted here; files are limited instead')
        return try_file_limit(work, rng, table, expected)
    try:
        for run in RUNS:
            for i in range(3):
                folder = disk / 'run'
                filler = disk / 'filler'
                child = start(run, folder, '--resume')
                code = wait(child, rng.uniform(0.3, 1.0))
                free = shutil.disk_usage(disk).free
                with contextlib.suppress(OSError), open(filler, 'wb') as f:
                    f.write(bytes(max(0, free - 4096 * rng.randrange(12))))
                code = wait(child) if code is None else code
                fault = fault_of(folder, child, code, (0, 1, 2))
                if fault is None and list(folder.glob('*.tmp')):
                    fault = 'a temporary file is left'
                filler.unlink()
                if fault is None and code != 0:
                    child = start(run, folder, '--resume')
                    fault = fault_of(folder, child, wait(child), (0,))
                fault = fault or same(folder, expected[run])
                table.add('disk full', fault, f'{run} {i}')
                for path in disk.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        subprocess.run(['umount', str(disk)])


def try_file_limit(work, rng, table, expected):
    """No file may be larger than so many bytes."""
    for run in RUNS:
        folder = work / 'limited'

        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            size = rng.randrange(1000, 40000)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        child = start(run, folder, '--resume', limit)
        fault = fault_of(folder, child, wait(child), (0, 1, 2))
        child = start(run, folder, '--resume')
        fault = fault or fault_of(folder, child, wait(child), (0,)) or same(folder, expected[run])
        table.add('disk full', fault, run)
        shutil.rmtree(folder)


def try_removed(work, rng, table, expected):
    """The folder is removed in the middle, or another run starts in its place."""
    for run in RUNS:
        for again in (False, True):
            folder = work / 'removed'
            child = start(run, folder)
            code = wait(child, rng.uniform(0.2, 0.6))
            if code is None:
                shutil.rmtree(folder, ignore_errors=True)
            other = start(run, folder) if again else None
            code = wait(child) if code is None else code
            fault = fault_of(folder, child, code, (0, 1))
            if other is None:
                other = start(run, folder)
            code = wait(other)
            if code == 0:
                fault = fault or same(folder, expected[run])
            else:  # the first one had not been removed yet
                fault = fault or fault_of(folder, other, code, (1, 2))
            row = 'folder removed, another run in its place' if again else 'folder removed'
            table.add(row, fault, run)
            shutil.rmtree(folder, ignore_errors=True)


# -----------------------------------------------------------------------------
# power

class ForgetfulDisk:
    """Makes os.replace and os.fsync those of a disk that forgets, and cuts the power.

    A file that was moved, but never synced, is empty after the cut. n: the power is cut right after
    the n-th move of a file.
    """

    def __init__(self, n, syncs=True):
        self.n = n
        self.syncs = syncs
        self.synced = set()  # inodes
        self.real_replace = os.replace
        self.real_fsync = os.fsync

    def install(self):
        os.replace = self.replace
        os.fsync = self.fsync

    def fsync(self, file):
        if self.syncs:
            self.real_fsync(file)
            self.synced.add(os.fstat(file).st_ino)

    def replace(self, source, target):
        if os.stat(source).st_ino not in self.synced:
            os.truncate(source, 0)
        self.real_replace(source, target)
        self.n -= 1
        if self.n == 0:
            os._exit(99)


def try_power(work, table, expected):
    run = 'train_cot, every step'
    lost = 0
    for syncs in (True, False):
        for n in range(1, 64, 4):
            folder = work / f'power{n}{syncs}'
            disk = ForgetfulDisk(n, syncs)
            child = start(run, folder, '--resume', disk.install)
            assert wait(child) == 99
            child = start(run, folder, '--resume')
            fault = fault_of(folder, child, wait(child), (0,)) or same(folder, expected[run])
            if syncs:
                table.add('power cut after the move of a file', fault, f'{n}')
            else:
                lost += fault is not None
    print(f'control, power cut without fsync: {lost} of 16 runs lost')


# -----------------------------------------------------------------------------
# everything in order

def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--only', default='kills signals writers disk removed power')
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(1)
    table = Table()
    began = time.time()

    try:
        with tempfile.TemporaryDirectory() as name:
            try_everything(Path(name), args.only, rng, table)
    finally:  # a study that was stopped shows how far it came
        table.print()
        print(f'{time.time() - began:.0f} seconds')


def try_everything(work, only, rng, table):
    os.chdir(work)
    expected = {}
    seconds = {}
    for run in RUNS:
        start_time = time.time()
        folder = work / 'whole'
        child = start(run, folder)
        code = wait(child)
        assert code == 0, error_lines(folder, child)
        seconds[run] = time.time() - start_time
        expected[run] = left_by(folder)
        shutil.rmtree(folder)

    if 'kills' in only:
        try_kills(work, rng, table, expected, seconds, [signal.SIGKILL])
    if 'signals' in only:
        try_kills(work, rng, table, expected, seconds, [signal.SIGTERM, signal.SIGINT], 1)
    if 'writers' in only:
        try_writers(work, table, expected)
    if 'disk' in only:
        try_disk(work, rng, table, expected)
    if 'removed' in only:
        try_removed(work, rng, table, expected)
    if 'power' in only:
        try_power(work, table, expected)


if __name__ == '__main__':
    main()
