"""For studies of many runs of train_rl.py: deal them to processes, and go on after a stop."""

import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import train_rl  # noqa: E402, after the path


# torchrun starts several processes. Each run is one process: it must not join the others.
RANK = int(os.environ.pop('RANK', 0))
N_RANKS = int(os.environ.pop('WORLD_SIZE', 1))


def train_quietly(words, out_dir):
    """Run train_rl.py with these words, or go on with it. Returns the values of its last line."""
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        return train_rl.main([*words.split(), '--device', 'cpu', '--out_dir', str(out_dir),
                              '--resume'])


def read_records(path):
    """The records of the runs that are finished."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def find_record(job, path):
    """The record of this job, or None. A record begins with its job."""
    for record in read_records(path):
        if all(record[name] == value for name, value in job.items()):
            return record
    return None


def deal(jobs, train, path):
    """Do the jobs of this process that are not finished, and wait for the other processes.

    job: a dict of settings. train(job) -> a dict of results. Both are written as one line of the
    file `path`. Returns the records of all jobs, in their order.
    """
    for job in jobs[RANK::N_RANKS]:
        if find_record(job, path) is None:
            record = job | train(job)
            with path.open('a', encoding='utf-8') as file:
                file.write(json.dumps(record) + '\n')
            print(json.dumps(record), file=sys.stderr, flush=True)

    while any(find_record(job, path) is None for job in jobs):
        time.sleep(5)
    return [find_record(job, path) for job in jobs]
