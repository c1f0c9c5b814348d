"""What several test files need. The suite protects itself: one thread, and no busy waiting."""

import os


# Before torch is imported, and for every process that a test starts.
os.environ['OMP_NUM_THREADS'] = '1'
os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'
os.environ['MPLBACKEND'] = 'Agg'

from errors import one_line_errors

import atexit
import contextlib
import io
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from two_processes import TwoProcesses

import checkpoint
import plots


ROOT = Path(__file__).parent.parent
torch.set_num_threads(1)


# -----------------------------------------------------------------------------
# the suite leaves nothing behind, and passes in any order

def pytest_addoption(parser):
    parser.addoption('--shuffle', type=int, metavar='SEED', help='run the tests in another order')


def pytest_configure(config):
    """All temporary files, those of torch and of started processes too, go to one folder."""
    config.temporary = tempfile.mkdtemp(prefix='nanoreason-tests-')
    os.environ['TMPDIR'] = config.temporary
    tempfile.tempdir = None  # look at TMPDIR again
    atexit.register(remove_temporary, config)  # after pytest's own cleaning, registered later


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    config.keeps_files = exitstatus == pytest.ExitCode.TESTS_FAILED
    if config.keeps_files:
        terminalreporter.write_line(f'The files of the tests are in {config.temporary}')


def remove_temporary(config):
    if not getattr(config, 'keeps_files', False):
        shutil.rmtree(config.temporary, ignore_errors=True)


def pytest_collection_modifyitems(config, items):
    """--shuffle: the files in a random order, and the tests of each file, too."""
    seed = config.getoption('shuffle')
    if seed is None:
        return
    by_file = {}
    for item in items:
        by_file.setdefault(item.path, []).append(item)
    rng = random.Random(seed)
    paths = list(by_file)
    rng.shuffle(paths)
    items.clear()
    for path in paths:
        rng.shuffle(by_file[path])
        items += by_file[path]


@pytest.fixture(scope='session', autouse=True)
def nothing_is_left():
    """At the end there are no more threads, processes and files than at the beginning."""
    threads = set(threading.enumerate())
    names = set(os.listdir(ROOT))
    yield
    left = [thread for thread in threading.enumerate() if thread not in threads]
    assert left == [], 'threads are left'
    assert set(os.listdir(ROOT)) - names <= {'.pytest_cache', '__pycache__'}, 'files are left'
    if hasattr(os, 'WNOHANG'):
        with pytest.raises(ChildProcessError):  # else a process is left
            os.waitpid(-1, os.WNOHANG)


# -----------------------------------------------------------------------------
# figures take longer than tiny runs, so no run of a test draws its figure, unless it is asked for

DRAW_RUN = plots.draw_run


@contextlib.contextmanager
def with_figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, 'draw_run', DRAW_RUN)
        yield


@pytest.fixture
def figures():
    with with_figures():
        yield


@pytest.fixture(scope='session', autouse=True)
def no_figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, 'draw_run', lambda folder: None)
        yield


@pytest.fixture(scope='session', autouse=True)
def no_waiting_for_the_disk():
    """A power cut may lose the files of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'fsync', lambda file: None)
        yield


# -----------------------------------------------------------------------------
# scripts, in this process or in one of their own


def call(module, argv):
    """(exit code, stdout, stderr) of a script, as on the command line but in this process."""
    out = io.StringIO()
    err = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with one_line_errors():
                module.main(argv)
        except SystemExit as end:
            code = end.code or 0
    return code, out.getvalue(), err.getvalue()


def run_script(*argv, **options):
    """A script in a process of its own: a CompletedProcess with text output."""
    command = [sys.executable, *map(str, argv)]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, **options)


@pytest.fixture(scope='session')
def two_processes(nothing_is_left):
    """Call it with a script and its arguments, and two processes run it: see two_processes.py."""
    with TwoProcesses() as run:
        yield run


def final_values(stdout):
    """{name: text} of the last line, 'final name=value ...'."""
    last = stdout.strip().split('\n')[-1]
    assert last.startswith('final ')
    return dict(word.split('=', 1) for word in last.split()[1:])


def save_checkpoint(path, model, settings, mode):
    """A checkpoint of this model, as after one step of training that left it as it is."""
    optimizer = model.configure_optimizer(0.0, 0.0)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.zero_grad()
    state = dict(model=model.state_dict(), config=vars(model.config),
                 optimizer=optimizer.state_dict(), step=1, args=settings, mode=mode,
                 rng=torch.get_rng_state(), rng_cuda=[])
    Path(path).write_bytes(checkpoint.to_bytes(state))


def change_checkpoint(old, new, change):
    """Write the checkpoint `old` to `new` when change(state) has changed its dict."""
    _, state = checkpoint.load_checkpoint(old)
    change(state)
    Path(new).write_bytes(checkpoint.to_bytes(state))
