"""Files that survive: whole files, one writer in a folder, damaged lines in logs, full disks."""

from errors import RunEnded

import errno
import json
import os
import shutil

import pytest
import torch
from conftest import call
from test_common import make_run, trained_model

import checkpoint
import common
import files
import train_cot


# -----------------------------------------------------------------------------
# whole files

def test_a_file_is_on_the_disk_before_it_is_moved_and_its_name_afterwards(tmp_path, monkeypatch):
    events = []
    fsync = os.fsync
    replace = os.replace

    def recorded_fsync(file):
        events.append(('sync', os.fstat(file).st_ino))
        fsync(file)

    def recorded_replace(source, target):
        events.append(('move', os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, 'fsync', recorded_fsync)
    monkeypatch.setattr(os, 'replace', recorded_replace)
    path = tmp_path / 'file'
    files.write_atomic(path, lambda temporary: temporary.write_text('new'))
    number = path.stat().st_ino
    expected = [('sync', number), ('move', number)]
    if not files.WINDOWS:
        expected.append(('sync', tmp_path.stat().st_ino))
    assert events == expected and path.read_text() == 'new'


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left on device'),
                                   KeyboardInterrupt(), SystemExit(143)])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(error, tmp_path):
    path = tmp_path / 'file'
    files.write_atomic(path, lambda temporary: temporary.write_text('old'))

    def write_half(temporary):
        temporary.write_text('ne')
        raise error

    with pytest.raises(type(error)):
        files.write_atomic(path, write_half)
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['file']


def test_two_processes_never_share_a_temporary_name(tmp_path, monkeypatch):
    names = set()
    for process in (1, 22):
        monkeypatch.setattr(os, 'getpid', lambda process=process: process)
        files.write_atomic(tmp_path / 'a.json', lambda path: names.add(path.name) or path.touch())
    assert len(names) == 2 and all(files.is_temporary(tmp_path / name) for name in names)


def test_windows_refuses_to_move_onto_an_open_file_for_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'WINDOWS', True)
    monkeypatch.setattr(files.time, 'sleep', lambda seconds: None)
    replace = os.replace
    refusals = []

    def refuse(source, target):
        if len(refusals) < most:
            refusals.append(1)
            raise PermissionError(errno.EACCES, 'Access is denied')
        replace(source, target)

    monkeypatch.setattr(os, 'replace', refuse)
    most = 5
    files.write_atomic(tmp_path / 'file', lambda temporary: temporary.write_text('new'))
    assert (tmp_path / 'file').read_text() == 'new' and len(refusals) == 5
    most = 1000
    with pytest.raises(PermissionError):
        files.write_atomic(tmp_path / 'file', lambda temporary: temporary.write_text('newer'))
    assert os.listdir(tmp_path) == ['file'] and (tmp_path / 'file').read_text() == 'new'


# -----------------------------------------------------------------------------
# one writer

def test_the_folder_stays_locked_while_any_process_of_a_run_is_alive(tmp_path):
    """Rank 0 of a run of three processes is gone, rank 2 is not."""
    rank_0 = files.Lock(tmp_path)
    rank_2 = files.Lock(tmp_path, rank=2)
    rank_0.release()
    with pytest.raises(ValueError, match=f'in use by process {os.getpid()} on'):
        files.Lock(tmp_path)
    assert os.listdir(tmp_path) == ['run.2.lock']  # the one that was refused left nothing
    rank_2.release()
    files.Lock(tmp_path).release()
    assert os.listdir(tmp_path) == []


def test_lock_files_without_a_process_are_taken_over(tmp_path):
    for name in ('run.lock', 'run.1.lock', 'run.17.lock'):
        (tmp_path / name).write_text('process 1 on a machine that lost its power\n')
    lock = files.Lock(tmp_path)
    assert os.listdir(tmp_path) == ['run.lock']
    assert str(os.getpid()) in (tmp_path / 'run.lock').read_text()
    lock.release()


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, capsys):
    def no_locks(file):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(files, 'lock_file', no_locks)
    with make_run(tmp_path, seed=1) as run:
        run.log(step=1)
    assert 'cannot be locked: start no second run there' in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ['config.json', 'log.jsonl']


def test_a_lock_file_that_a_cleaner_removed_ends_nothing(tmp_path):
    with make_run(tmp_path, seed=1) as run:
        (tmp_path / 'run.lock').unlink()
        run.log(step=1)
    assert files.read_log(tmp_path) == [dict(step=1)]


def test_what_a_killed_run_left_half_written_goes_away(tmp_path):
    with make_run(tmp_path, seed=1) as run:
        run.log(step=1)
    for name in ('ckpt.pt.123.tmp', 'log.jsonl.9.tmp'):
        (tmp_path / name).write_text('half')
    for name in ('my.tmp', 'report.2024.tmp', 'poetry.lock'):
        (tmp_path / name).write_text('mine')
    make_run(tmp_path, seed=1, resume=True).__exit__()
    assert sorted(os.listdir(tmp_path)) == ['config.json', 'log.jsonl', 'my.tmp', 'poetry.lock',
                                            'report.2024.tmp']


# -----------------------------------------------------------------------------
# damaged logs and configs

RECORDS = [dict(arm='cot', step=step, loss=step / 3) for step in (1, 2, 3)]
ODD_LINES = [
    b'\xff\xfe\x80', bytes(9), b'{"arm": "c', b'[1, 2]', b'3', b'"text"', b'null',
    b'[' * 100000, b'{"arm":' * 100000, b'{"step": ' + b'9' * 5000 + b'}', b'\r', b'{}}']


@pytest.mark.parametrize('i', range(len(ODD_LINES)))
def test_a_line_that_is_no_record_is_left_out(i, tmp_path):
    lines = [json.dumps(record).encode() for record in RECORDS]
    path = tmp_path / 'log.jsonl'
    for place in range(4):
        path.write_bytes(b'\n'.join([*lines[:place], ODD_LINES[i], *lines[place:]]))
        assert files.read_log(tmp_path) == RECORDS
        assert files.count_damaged_lines(tmp_path) == bool(ODD_LINES[i].strip())
        files.cut_log(tmp_path, 'cot', 2)
        assert files.read_log(tmp_path) == RECORDS[:2]
        assert files.count_damaged_lines(tmp_path) == 0


def test_records_of_others_stay_and_odd_ones_of_this_arm_go(tmp_path):
    odd = [dict(arm='cot', step=step) for step in ('x', None, True, [], {}, float('inf'))]
    others = [dict(arm='direct', step=9), dict(note=3), dict(arm=[1], step=1), {}]
    for record in [*RECORDS, *odd, *others, dict(arm='final')]:
        files.append_record(tmp_path, record)
    files.cut_log(tmp_path, 'cot', 2)
    assert files.read_log(tmp_path) == [*RECORDS[:2], *others]


@pytest.mark.parametrize('content', [b'', b'\xff', bytes(99), b'[1]', b'{}', b'{"args": 3}',
                                     b'{"args":' * 10**5, b'{"args": {"seed": 1'])
def test_a_run_whose_config_is_damaged_goes_on_from_its_checkpoint(content, tmp_path, capsys):
    with make_run(tmp_path, seed=1) as run:
        run.save('ckpt.pt', *trained_model(), 1)
    (tmp_path / 'config.json').write_bytes(content)
    with pytest.raises(ValueError, match='seed=1, not 2'):
        make_run(tmp_path, seed=2, resume=True)
    assert (tmp_path / 'config.json').read_bytes() == content
    with make_run(tmp_path, seed=1, resume=True) as run:
        assert run.resume('ckpt.pt', *trained_model(), 'arm')['step'] == 1
    assert 'config.json is missing or damaged: written anew' in capsys.readouterr().out
    assert files.read_config(tmp_path)['args']['seed'] == 1


@pytest.mark.parametrize('steps', ['x', None, [1], {}, float('inf'), True, 'y' * 4000],
                         ids=range(7))
def test_a_config_with_odd_steps_is_another_run(steps, tmp_path):
    make_run(tmp_path / 'a', max_iters=3).__exit__()
    path = tmp_path / 'a' / 'config.json'
    config = json.loads(path.read_text())
    config['args']['max_iters'] = steps
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match='holds a run with max_iters=') as error:
        make_run(tmp_path / 'a', max_iters=3, resume=True)
    assert len(str(error.value)) < 400 + len(str(tmp_path))
    assert common.steps_of_run(tmp_path / 'a') == 0


# -----------------------------------------------------------------------------
# full disks

FULL = OSError(errno.ENOSPC, 'No space left on device')
TRAIN = ('--hops 1 --nodes 5 --n_embd 8 --steps 6 --eval_interval 2 --log_interval 1 --n_test 8 '
         '--batch_size 8 --mode cot --out_dir')


def without_seconds(folder):
    records = files.read_log(folder)
    for record in records:
        record.pop('seconds', None)
    return records


def test_a_full_disk_ends_a_run_in_one_line_and_it_can_go_on(tmp_path, monkeypatch):
    """Every write fails in turn. The run is resumed, and ends like one that was left alone."""
    whole = tmp_path / 'whole'
    train_cot.main([*TRAIN.split(), str(whole)])
    weights = checkpoint.checksum(checkpoint.load_checkpoint(whole / 'ckpt.pt')[1])
    write = common.Run.write
    n_writes = 0

    def fail(run, function):
        nonlocal n_writes
        n_writes += 1

        def full():
            raise FULL
        write(run, full if n_writes == failing else function)

    for failing in range(1, 100):
        folder = tmp_path / f'{failing}'
        n_writes = 0
        with monkeypatch.context() as patch:
            patch.setattr(common.Run, 'write', fail)
            code, _, err = call(train_cot, [*TRAIN.split(), str(folder)])
        if n_writes < failing:
            break
        assert code == 1 and err.count('\n') == 1 and 'No space left on device' in err
        names = [name for name in os.listdir(folder) if name not in ('ckpt.pt', 'log.jsonl')]
        assert names == ['config.json']
        saved = f'{folder / "ckpt.pt"} is intact, and --resume goes on from there'
        assert ((saved if (folder / 'ckpt.pt').exists() else 'nothing was saved yet') in err)

        assert call(train_cot, [*TRAIN.split(), str(folder), '--resume'])[0] == 0
        assert checkpoint.checksum(checkpoint.load_checkpoint(folder / 'ckpt.pt')[1]) == weights
        assert without_seconds(folder) == without_seconds(whole)
    assert failing > 10


def test_a_checkpoint_that_does_not_fit_on_the_disk(tmp_path, monkeypatch):
    """The file system takes a part of it: the old checkpoint stays, and no half of a new one."""
    with make_run(tmp_path, seed=1) as run:
        run.save('ckpt.pt', *trained_model(), 1)
        write_bytes = type(tmp_path).write_bytes

        def write_a_part(path, content):
            write_bytes(path, content[:1000])
            raise FULL

        with monkeypatch.context() as patch:
            patch.setattr(type(tmp_path), 'write_bytes', write_a_part)
            with pytest.raises(RunEnded, match='No space left.*ckpt.pt is intact') as error:
                run.save('ckpt.pt', *trained_model(), 2)
        assert error.value.exit_code == 1
        assert checkpoint.load_checkpoint(tmp_path / 'ckpt.pt')[1]['step'] == 1
        assert not list(tmp_path.glob('*.tmp'))


@pytest.mark.skipif(os.name == 'nt', reason='no open file can be removed there')
def test_a_folder_that_was_removed_or_replaced_is_not_written_to(tmp_path):
    folder = tmp_path / 'run'
    with make_run(folder, seed=1) as run:
        run.save('ckpt.pt', *trained_model(), 1)
        shutil.rmtree(folder)
        for write in (lambda: run.log(step=1), lambda: run.save('ckpt.pt', *trained_model(), 2)):
            with pytest.raises(RunEnded, match='removed the folder.*nothing was saved'):
                write()
        assert not folder.exists()

        with make_run(folder, seed=2) as other:
            other.log(step=7)
            with pytest.raises(RunEnded, match='put another in its place'):
                run.log(step=1)
            assert files.read_log(folder) == [dict(step=7)]
    assert files.read_config(folder)['args']['seed'] == 2


FAILING_RUN = '''
import os, sys
from errors import one_line_errors
import common, train_cot
append = common.append_record
def fail(folder, record):
    if record.get('step') == 3:
        raise OSError(28, 'No space left on device')
    append(folder, record)
common.append_record = fail
with one_line_errors():
    train_cot.main(sys.argv[1:])
'''


def test_two_processes_leave_together_when_one_cannot_write(two_processes, tmp_path):
    done = two_processes('-c', FAILING_RUN, *TRAIN.split(), tmp_path / 'run')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    lines = [line for line in done.stderr.split('\n') if line]
    assert len(lines) == 1 and 'No space left on device' in lines[0]
    assert checkpoint.load_checkpoint(tmp_path / 'run' / 'ckpt.pt')[1]['step'] == 2
    assert sorted(os.listdir(tmp_path / 'run')) == ['ckpt.pt', 'config.json', 'log.jsonl']


def test_the_log_is_on_the_disk_before_the_checkpoint(tmp_path, monkeypatch):
    """Else a power cut could leave a checkpoint whose records are lost."""
    events = []
    monkeypatch.setattr(common, 'sync', lambda path: events.append(path.name))
    monkeypatch.setattr(common, 'write_atomic', lambda path, write: events.append(path.name))
    with make_run(tmp_path, seed=1) as run:
        run.log(step=1)
        events.clear()
        run.save('ckpt.pt', *trained_model(), 1)
    assert events == ['log.jsonl', 'ckpt.pt']


def test_the_random_state_is_that_of_the_run(tmp_path):
    """A checkpoint is checked without drawing a number more or less."""
    with make_run(tmp_path, seed=1) as run:
        model, optimizer = trained_model()
        run.save('ckpt.pt', model, optimizer, 1)
        expected = torch.rand(3)
        run.resumes = True
        run.resume('ckpt.pt', model, optimizer, 'arm')
        assert torch.equal(torch.rand(3), expected)


def test_a_folder_of_foreign_locks_and_temporaries_is_not_taken(tmp_path):
    for name in ('report.2024.tmp', 'poetry.lock'):
        (tmp_path / name).write_text('mine')
    with pytest.raises(ValueError, match='holds no run'):
        make_run(tmp_path, seed=1)
    assert sorted(os.listdir(tmp_path)) == ['poetry.lock', 'report.2024.tmp']


def test_a_refused_extension_changes_nothing(tmp_path):
    """The checkpoint is damaged. The run still has its own settings, and is not replaced."""
    with make_run(tmp_path, max_iters=1, can_grow=True) as run:
        run.save('ckpt.pt', *trained_model(), 1)
        run.log(arm='final', step=1)
    content = (tmp_path / 'ckpt.pt').read_bytes()
    config = (tmp_path / 'config.json').read_bytes()
    (tmp_path / 'ckpt.pt').write_bytes(content[:5000])
    with pytest.raises(ValueError, match='ckpt.pt is'):
        make_run(tmp_path, max_iters=2, can_grow=True, resume=True)
    assert (tmp_path / 'config.json').read_bytes() == config

    # killed before the log was cut: the last record is that of the shorter run
    (tmp_path / 'ckpt.pt').write_bytes(content)
    make_run(tmp_path, max_iters=2, can_grow=True, resume=True).__exit__()
    with pytest.raises(ValueError, match='stopped before its end'):
        make_run(tmp_path, max_iters=2, can_grow=True)
    assert (tmp_path / 'ckpt.pt').read_bytes() == content


def test_resume_says_that_there_is_no_checkpoint(tmp_path, capsys):
    with make_run(tmp_path, seed=1) as run:
        run.log(arm='arm', step=1)
    with make_run(tmp_path, seed=1, resume=True) as run:
        assert run.resume('ckpt.pt', *trained_model(), 'arm') == {'step': 0}
    assert 'there is no checkpoint' in capsys.readouterr().out


def test_resume_says_that_lines_of_the_log_were_damaged(tmp_path, capsys):
    with make_run(tmp_path, seed=1) as run:
        run.log(arm='arm', step=1)
    with open(tmp_path / 'log.jsonl', 'a') as log:
        log.write('{"arm": "arm", "st\n\nx\n')
    with make_run(tmp_path, seed=1, resume=True) as run:
        run.resume('ckpt.pt', *trained_model(), 'arm')
    assert 'log.jsonl: 2 damaged lines' in capsys.readouterr().out


@pytest.mark.parametrize('is_folder', [False, True])
def test_a_damaged_checkpoint_is_no_dead_end(is_folder, tmp_path):
    """The message says what to do, and that works."""
    make_run(tmp_path, seed=1).__exit__()
    path = tmp_path / 'ckpt.pt'
    if is_folder:
        path.mkdir()
    else:
        path.write_bytes(b'x')
    run = make_run(tmp_path, seed=1, resume=True)
    with run, pytest.raises(ValueError, match='delete it, and --resume starts over'):
        run.resume('ckpt.pt', *trained_model(), 'arm')
    if is_folder:
        path.rmdir()
    else:
        path.unlink()
    with make_run(tmp_path, seed=1, resume=True) as run:
        assert run.resume('ckpt.pt', *trained_model(), 'arm') == {'step': 0}


@pytest.mark.skipif(os.name == 'nt', reason='links are for administrators there')
def test_resume_says_that_a_checkpoint_is_a_link_to_nothing(tmp_path):
    with make_run(tmp_path, seed=1) as run:
        run.log(arm='arm', step=1)
    (tmp_path / 'ckpt.pt').symlink_to(tmp_path / 'elsewhere')
    run = make_run(tmp_path, seed=1, resume=True)
    with run, pytest.raises(ValueError, match='is a link to no file'):
        run.resume('ckpt.pt', *trained_model(), 'arm')


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='Windows has no such pipes')
def test_a_pipe_instead_of_a_config(tmp_path):
    os.mkfifo(tmp_path / 'config.json')
    with pytest.raises(ValueError, match='holds no run'):
        make_run(tmp_path, seed=1)
