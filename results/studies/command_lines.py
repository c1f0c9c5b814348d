"""What happens if a script is given a command line that nobody should type?

Each flag of each script with small, huge and odd values, random pairs of flags, and all mistakes of
tests/test_scripts.py. Every command must do one of two things:

    refuse      exit code 2 within 5 seconds, one line on stderr, nothing written
    accept      run. It is stopped after four seconds, and must then end in one line at most

A traceback, more than 1 GiB of memory above the need that the command stated, a late refusal, a
file written by a refused command, and a command that does not end are faults.

To save time, a command is a process that is forked from one which has imported torch. A refusal is
late if it takes more than a second of work after the imports. (The result begins with their
seconds.) Work is processor time, so that other programs on the machine do not count. Memory is the
peak of the whole process, torch included. A signal waits for the end of a training step, and a
batch of 100,000 takes its time: a minute on a busy machine.

    python results/studies/command_lines.py             # Linux; 20 minutes on one core
    python results/studies/command_lines.py --only search

Result: results/studies/command_lines.txt
"""

import argparse
import contextlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path


os.environ['OMP_NUM_THREADS'] = '1'
os.environ['MPLBACKEND'] = 'Agg'
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]
BEGAN = time.process_time()

from errors import one_line_errors

import torch
from test_scripts import BAD, SCRIPTS

import data
import memory
import train_cot


IMPORTS = time.process_time() - BEGAN
GIB = 2**30
PATIENCE = 4      # seconds until an accepted command is stopped
STOPPING = 200    # seconds that it then has to end
LATE = 1          # second of work after the imports

ODD = [
    '', ' 5 ', '--', '-', '1_000', '\u0663', '1e3', '0x10', '+5', '-5', '1,2', '1,,2', '3-1', '1-3',
    'nan', 'inf', '-inf', '1e300', '1e-300', '9' * 5000, 'a\0b', '\udcff', 'x' * 10000, 'a/' * 3000,
    '\n', '0.5', 'None', '\u202e', '*', '~', '$HOME', 'cycle',
]
HUGE = ['10', '1000', '65536', '100000', '1000000', '10000000', '1000000000', '1000000001',
        '18446744073709551616', '1-1000', '1-999999', '99999,99999', ','.join(['7'] * 2000)]
PATHS = ['/dev/zero', '/dev/null', '.', '/', '/proc/self/mem', 'nowhere/x.pt', '/dev/stdin']


# -----------------------------------------------------------------------------
# the command lines

class Captured(Exception):
    """Carries the parser of a script."""


def parser_of(module):
    def capture(parser, *args, **options):
        raise Captured(parser)
    original = data.Parser.parse_args
    data.Parser.parse_args = capture
    try:
        getattr(module, 'parse_args', module.main)([])
    except Captured as captured:
        return captured.args[0]
    finally:
        data.Parser.parse_args = original


def flags_of(module):
    """(flag, whether it takes a value) of each flag of a script."""
    flags = []
    for action in parser_of(module)._actions:
        if action.option_strings and '--help' not in action.option_strings:
            flags.append((action.option_strings[0], action.nargs != 0))
    return flags


def base_of(name, files):
    """Words that a script cannot do without."""
    words = {
        'search.py': ['--ckpt', files['countdown']],
        'jacobi.py': ['--ckpt', files['cycle']],
        'probe.py': ['--ckpt', files['cycle']],
        'sample.py': ['--ckpt', files['cycle']],
        'plots.py': [files['folder']],
    }.get(name, [])
    return words


def without(words, flag):
    """The words without this flag and its value."""
    if flag not in words:
        return words
    place = words.index(flag)
    return words[:place] + words[place + 2:]


def command_lines(files):
    """(script, words) of each command."""
    rng = random.Random(0)
    commands = []
    for name, module in SCRIPTS.items():
        flags = flags_of(module)
        base = base_of(name, files)
        for flag, takes_value in flags:
            if not takes_value:
                commands.append((name, [*base, flag]))
                continue
            values = rng.sample(ODD, 2) + rng.sample(HUGE, 2)
            if flag in ('--ckpt', '--init_from', '--puzzles', '--out_dir', '--compare', '--out'):
                values = rng.sample(ODD, 2) + rng.sample(PATHS, 2)
            for i, value in enumerate(values):
                words = [f'{flag}={value}'] if i % 2 else [flag, value]
                commands.append((name, [*without(base, flag), *words]))

        # pairs
        valued = [flag for flag, takes_value in flags if takes_value]
        for _ in range(6):
            words = list(base)
            for flag in rng.sample(valued, min(2, len(valued))):
                words = without(words, flag) + [flag, rng.choice(HUGE)]
            commands.append((name, words))
    for name, lines in BAD.items():
        for line in lines:
            commands.append((name, line.split()))
    return commands


def make_files(folder):
    """Checkpoints of tiny models, and the folder of a run."""
    small = '--steps 1 --n_test 5 --batch_size 8 --n_embd 16 --n_head 1 --device cpu'
    for task in ('cycle --hops 1-2 --nodes 8', 'countdown --numbers 3'):
        out_dir = folder / task.split()[0]
        argv = f'--task {task} {small} --mode cot'.split()
        train_cot.main([*argv, '--out_dir', str(out_dir)])
    return {
        'cycle': str(folder / 'cycle' / 'ckpt.pt'),
        'countdown': str(folder / 'countdown' / 'ckpt.pt'),
        'folder': str(folder / 'cycle'),
    }


# -----------------------------------------------------------------------------
# one command

def run_in_child(name, words, notes):
    """What the forked process does. It writes the need that the command states to `notes`."""
    real = memory.check_fit

    def check_fit(phase, *args):
        real(phase, *args)
        with open(notes, 'a') as f:
            f.write(f'{sum(phase.values())}\n')

    memory.check_fit = check_fit
    sys.argv = [str(ROOT / name), *words]
    code = 0
    try:
        with one_line_errors():
            SCRIPTS[name].main(words)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def peak_of(pid):
    """The largest memory that a process had so far."""
    try:
        for line in Path(f'/proc/{pid}/status').read_text().splitlines():
            if line.startswith('VmHWM:'):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def run_command(name, words, folder):
    """Run one command in an empty folder. Returns what was seen, as a dict."""
    shutil.rmtree(folder, ignore_errors=True)
    cwd = folder / 'cwd'
    cwd.mkdir(parents=True)
    notes = folder / 'notes'
    began = time.time()
    pid = os.fork()
    if pid == 0:
        os.chdir(cwd)
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(folder / 'out', os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(os.open(folder / 'err', os.O_WRONLY | os.O_CREAT), 2)
        run_in_child(name, words, notes)

    peak = 0
    stopped = killed = False
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        peak = max(peak, peak_of(pid))
        seconds = time.time() - began
        if seconds > PATIENCE and not stopped:
            os.kill(pid, signal.SIGTERM)
            stopped = True
        if seconds > PATIENCE + STOPPING or peak > 16 * GIB:
            os.kill(pid, signal.SIGKILL)
            killed = True
        time.sleep(0.02)

    need = 0
    if notes.exists():
        need = max(map(int, notes.read_text().split()), default=0)
    err = (folder / 'err').read_text(errors='replace')
    return dict(
        code=os.waitstatus_to_exitcode(status),
        seconds=time.time() - began,
        work=usage.ru_utime + usage.ru_stime,
        stopped=stopped,
        killed=killed,
        need=need,
        peak=max(peak, usage.ru_maxrss * 1024),
        lines=len([line for line in err.splitlines() if '%|' not in line and line.strip()]),
        err=err,
        wrote=sorted(path.name for path in cwd.iterdir()))


def faults_of(seen):
    """The names of what is wrong, of FAULTS."""
    refused = seen['code'] == 2
    wrong = []
    if 'Traceback' in seen['err'] or seen['code'] in (70, -6, -11):
        wrong.append('traceback')
    if seen['lines'] > 1 or (refused and seen['lines'] == 0):
        wrong.append('not one line')
    if len(seen['err']) > 1000 and refused:
        wrong.append('long line')
    if seen['peak'] > seen['need'] + GIB:
        wrong.append('over 1 GiB')
    if refused and seen['work'] > LATE:
        wrong.append('late')
    if refused and seen['wrote']:
        wrong.append('wrote something')
    if seen['killed']:
        wrong.append('did not end')
    if seen['code'] not in (0, 1, 2, 128 + signal.SIGTERM, -signal.SIGTERM):
        wrong.append('exit code')
    return wrong


FAULTS = ('traceback', 'not one line', 'long line', 'over 1 GiB', 'late', 'wrote something',
          'did not end', 'exit code')


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--only', default='', help='scripts whose name holds this')
    only = parser.parse_args().only
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            files = make_files(Path(folder))
        commands = [c for c in command_lines(files) if only in c[0]]
        print(f'{len(commands)} command lines; imports take {IMPORTS:.1f} s of work here',
              flush=True)

        rows = {name: dict(commands=0, refused=0, accepted=0) for name in SCRIPTS}
        failures = []
        slowest = largest = 0
        for name, words in commands:
            seen = run_command(name, words, Path(folder) / 'command')
            row = rows[name]
            row['commands'] += 1
            row['refused' if seen['code'] == 2 else 'accepted'] += 1
            if seen['code'] == 2:
                slowest = max(slowest, seen['work'])
            largest = max(largest, seen['peak'] - seen['need'])
            for fault in faults_of(seen):
                row[fault] = row.get(fault, 0) + 1
                failures.append((fault, name, words, seen))

    heads = ('commands', 'refused', 'accepted', *FAULTS)
    print(f'\n{"script":14}' + ''.join(f'{head:>17}' for head in heads))
    total = dict.fromkeys(heads, 0)
    for name, row in rows.items():
        if row['commands']:
            print(f'{name:14}' + ''.join(f'{row.get(head, 0):17}' for head in heads))
            total = {head: total[head] + row.get(head, 0) for head in heads}
    print(f'{"all":14}' + ''.join(f'{total[head]:17}' for head in heads))
    print(f'\nslowest refusal {slowest:.1f} s of work after the imports; at most '
          f'{largest / GIB:.2f} GiB above the need that was stated, torch included')
    for fault, name, words, seen in failures:
        line = ' '.join(data.shorten(repr(word)) for word in words)
        print(f'\n{fault}: {name} {line}\n    exit code {seen["code"]}, {seen["seconds"]:.1f} s, '
              f'{seen["peak"] / GIB:.2f} GiB of {seen["need"] / GIB:.2f}, wrote {seen["wrote"]}\n'
              f'    {seen["err"][-300:]!r}')


if __name__ == '__main__':
    main()
