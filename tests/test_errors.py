"""errors.py: one line and an exit code for whatever goes wrong."""

import errors
from errors import RunEnded, one_line_errors

import errno
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT


def ending(error, capsys):
    """(exit code, stderr) of a script in which this is raised."""
    with pytest.raises(SystemExit) as end, one_line_errors():
        raise error
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize('error, code, text', [
    (ValueError('no such\nthing'), 2, 'no such thing'),
    (RunEnded('diverged'), 1, 'diverged'),
    (RunEnded('stopped', exit_code=143), 143, 'stopped'),
    (OSError(errno.ENOSPC, 'No space left on device', 'out/x'), 1, 'out/x: No space left on'),
    (PermissionError(errno.EACCES, 'Permission denied'), 1, 'Permission denied'),
    (MemoryError(), 1, 'out of memory'),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: tried 9"), 1, 'out of memory'),
    (KeyboardInterrupt(), 130, 'stopped by Ctrl-C'),
    (ValueError('lone \ud800 surrogate'), 2, r'lone \ud800 surrogate'),
])
def test_one_line_and_a_code(error, code, text, capsys):
    found, err = ending(error, capsys)
    assert found == code and text in err and len(err.strip().split('\n')) == 1
    assert 'Traceback' not in err


def test_a_bug_keeps_its_traceback():
    with pytest.raises(KeyError), one_line_errors():
        {}['x']


def test_only_rank_0_speaks_unless_each_has_something_to_say(capsys, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    assert ending(ValueError('bad'), capsys) == (2, '')
    assert 'mine' in ending(RunEnded('mine', any_rank=True), capsys)[1]


@pytest.fixture
def ctrl_c_works():
    """Under nohup, or in the background of a shell, Ctrl-C is ignored, also by child processes."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name == 'nt', reason='a process cannot send itself Ctrl-C there')
@pytest.mark.parametrize('script', ['train_cot.py', 'data.py', 'plots.py'])
def test_ctrl_c_while_modules_are_imported(script, tmp_path, ctrl_c_works):
    """torch takes seconds. Here it is one that is interrupted, and swallows all exceptions."""
    for module in ('numpy', 'torch', 'matplotlib'):
        (tmp_path / f'{module}.py').write_text(
            'import os, signal, time\n'
            'try:\n'
            '    os.kill(os.getpid(), signal.SIGINT)\n'
            '    time.sleep(9)\n'
            'except BaseException:\n'
            '    pass\n')
    done = subprocess.run([sys.executable, ROOT / script], text=True, capture_output=True,
                          env=os.environ | dict(PYTHONPATH=str(tmp_path)), cwd=tmp_path)
    assert done.returncode == 130
    assert done.stderr.strip() == f'{script}: stopped by Ctrl-C' and done.stdout == ''


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs a device that is always full')
def test_a_full_disk_below_stdout():
    with open('/dev/full', 'w') as full:
        done = subprocess.run([sys.executable, ROOT / 'data.py', '--n', '1'], stdout=full,
                              stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr == 'data.py: No space left on device\n'


def test_importing_a_script_changes_no_handler():
    """In a notebook, or in a test, Ctrl-C stays what it is."""
    code = ('import signal; before = signal.getsignal(signal.SIGINT); import errors; '
            'assert signal.getsignal(signal.SIGINT) is before')
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0
    assert not errors.is_one_of_ours(ROOT / 'tests' / 'test_errors.py')
    assert errors.is_one_of_ours(ROOT / 'train_cot.py')
