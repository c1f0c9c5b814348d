"""The plumbing: folders that refuse what is not theirs, whole files, one line for every mistake."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from two_processes import free_port

import common
import files
from common import RunEnded
from data import Parser
from model import GPT, GPTConfig


def tiny_model():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=7, block_size=5, n_embd=8))
    return model, model.configure_optimizer(1e-2, 0.1)


def one_step(model, optimizer):
    model(torch.tensor([[1, 2, 3]])).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def trained_model():
    model, optimizer = tiny_model()
    one_step(model, optimizer)
    return model, optimizer


def make_run(out_dir, can_grow=False, **arguments):
    defaults = dict(device='cpu', dtype='auto', out_dir=out_dir, resume=False, eval_only=False)
    return common.Run('script', SimpleNamespace(**defaults | arguments), can_grow=can_grow)


@pytest.fixture
def run(tmp_path):
    with make_run(tmp_path / 'run', seed=1) as run:
        yield run


# -----------------------------------------------------------------------------
# checkpoints

def test_a_checkpoint_carries_weights_optimizer_and_random_state(run):
    model, optimizer = tiny_model()
    one_step(model, optimizer)
    run.save('ckpt.pt', model, optimizer, 7, mode='direct', stage=3)
    next_numbers = torch.rand(3)  # what an uninterrupted run draws next
    one_step(model, optimizer)

    # the loaded one goes on exactly as the first one did
    run.resumes = True
    loaded, loaded_optimizer = tiny_model()
    state = run.resume('ckpt.pt', loaded, loaded_optimizer, 'arm')
    assert torch.equal(torch.rand(3), next_numbers)
    one_step(loaded, loaded_optimizer)
    for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert (state['step'], state['mode'], state['stage']) == (7, 'direct', 3)
    assert state['args'] == run.settings and run.settings['script'] == 'script'
    assert not list(run.out_dir.glob('*.tmp'))


def test_resume_without_the_flag_or_without_a_checkpoint_starts_at_step_0(run):
    model, optimizer = trained_model()
    run.resumes = True
    assert run.resume('ckpt.pt', model, optimizer, 'arm') == {'step': 0}
    run.save('ckpt.pt', model, optimizer, 7)
    run.resumes = False
    assert run.resume('ckpt.pt', model, optimizer, 'arm') == {'step': 0}


def test_the_checkpoint_of_another_run_is_refused(run):
    model, optimizer = trained_model()
    run.save('ckpt.pt', model, optimizer, 7)
    run.resumes = True
    run.settings = run.settings | {'later_flag': None}  # a flag that is not used changes nothing
    assert run.resume('ckpt.pt', model, optimizer, 'arm')['step'] == 7
    run.settings = run.settings | {'later_flag': 3}
    with pytest.raises(ValueError, match='another run'):
        run.resume('ckpt.pt', model, optimizer, 'arm')


def test_weights_that_are_not_finite_are_never_saved(run):
    model, optimizer = trained_model()
    run.save('ckpt.pt', model, optimizer, 1)
    with torch.no_grad():
        model.wte.weight[0, 0] = float('nan')
    with pytest.raises(RunEnded, match='diverged') as error:
        run.save('ckpt.pt', model, optimizer, 2)
    assert error.value.exit_code == 1
    assert torch.load(run.out_dir / 'ckpt.pt', weights_only=True)['step'] == 1


def test_divergence_names_the_last_checkpoint_only_if_there_is_one(run):
    model, optimizer = trained_model()
    run.check_finite(3, model, loss=1.0)
    with pytest.raises(RunEnded) as error:
        run.check_finite(3, model, loss=float('nan'))
    assert 'step 3' in str(error.value) and 'ckpt.pt' not in str(error.value)
    run.save('ckpt.pt', model, optimizer, 3)
    with pytest.raises(RunEnded, match='ckpt.pt holds the last good weights'):
        run.check_finite(4, model, loss=torch.tensor(float('inf')))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / 'file'
    common.write_atomic(path, lambda temporary: temporary.write_text('old'))

    def write_half(temporary):
        temporary.write_text('ne')
        raise OSError('disk full')

    with pytest.raises(OSError):
        common.write_atomic(path, write_half)
    assert path.read_text() == 'old'


class Bomb:
    """Unpickling it runs code."""

    def __reduce__(self):
        return exec, ("open('exploded', 'w').close()",)


def break_checkpoint(kind, path):
    """Make something else of a good checkpoint."""
    whole = path.read_bytes()
    state = torch.load(path, weights_only=True)
    if kind == 'missing':
        path.unlink()
    elif kind == 'a folder':
        path.unlink()
        path.mkdir()
    elif kind == 'empty':
        path.write_bytes(b'')
    elif kind == 'truncated':
        path.write_bytes(whole[:len(whole) // 2])
    elif kind == 'text':
        path.write_text('hello')
    elif kind == 'pickle bomb':
        path.write_bytes(pickle.dumps(Bomb()))
    elif kind == 'torch bomb':
        torch.save(state | {'args': Bomb()}, path)
    elif kind == 'another dict':
        torch.save({'weights': 1}, path)
    elif kind == 'no script':
        torch.save(state | {'args': 3}, path)
    elif kind == 'no step':
        del state['step']
        torch.save(state, path)
    elif kind == 'other weights':
        torch.save(state | {'config': state['config'] | {'n_embd': 16}}, path)


@pytest.mark.parametrize('kind', ['missing', 'a folder', 'empty', 'truncated', 'text',
                                  'pickle bomb', 'torch bomb', 'another dict', 'no script',
                                  'no step', 'other weights'])
def test_no_other_file_passes_for_a_checkpoint(kind, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = run.out_dir / 'ckpt.pt'
    run.save('ckpt.pt', *trained_model(), 1)
    assert common.load_checkpoint(path)[1]['step'] == 1
    break_checkpoint(kind, path)
    with pytest.raises(ValueError, match='ckpt.pt'):
        common.load_checkpoint(path)
    assert not (tmp_path / 'exploded').exists()


# -----------------------------------------------------------------------------
# the folder

def test_the_same_settings_start_over_and_others_are_refused(tmp_path, capsys):
    out_dir = tmp_path / 'run'
    with make_run(out_dir, seed=1, star=(2, 3)) as run:
        run.log(step=1)
    (out_dir / 'ckpt.pt').write_text('weights')

    # to resume touches nothing
    make_run(out_dir, seed=1, star=(2, 3), resume=True).__exit__()
    assert (out_dir / 'ckpt.pt').exists() and common.read_log(out_dir) == [{'step': 1}]

    with pytest.raises(ValueError, match='seed=1, not 2'):
        make_run(out_dir, seed=2, star=(2, 3))
    assert (out_dir / 'ckpt.pt').exists()
    assert json.loads((out_dir / 'config.json').read_text())['args']['seed'] == 1

    # a run that was stopped is not thrown away, one that has ended is replaced
    with pytest.raises(ValueError, match='stopped before its end; --resume goes on'):
        make_run(out_dir, seed=1, star=(2, 3))
    assert (out_dir / 'ckpt.pt').exists()
    with open(out_dir / 'log.jsonl', 'a') as f:
        f.write(json.dumps({'arm': 'final'}) + '\n')
    make_run(out_dir, seed=1, star=(2, 3)).__exit__()
    assert 'starting over, the run that was there is replaced' in capsys.readouterr().out
    assert not (out_dir / 'ckpt.pt').exists() and common.read_log(out_dir) == []


def test_config_json_holds_settings_facts_and_versions(tmp_path):
    args = SimpleNamespace(device='cpu', dtype='auto', out_dir=tmp_path / 'run', hops=[1, 2])
    with common.Run('script', args, params=12, chance={4: 0.5}):
        pass
    config = json.loads((tmp_path / 'run' / 'config.json').read_text())
    assert config['args'] == dict(script='script', device='cpu', dtype='float32', hops=[1, 2],
                                  processes=1)
    assert config['params'] == 12 and config['chance'] == {'4': 0.5}
    assert config['torch'] == torch.__version__ and {'commit', 'argv', 'python'} <= config.keys()


@pytest.mark.parametrize('name, text', [
    ('notes.txt', 'mine'), ('config.json', '[1, 2'), ('config.json', '{"args": 3}'),
    ('config.json', '[]')])
def test_a_foreign_folder_is_refused_and_left_alone(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match='holds no run'):
        make_run(tmp_path, seed=1)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: text}


def test_an_out_dir_that_is_a_file(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match='cannot write'):
        make_run(tmp_path / 'file')


def test_evaluation_alone_writes_nothing(tmp_path):
    with make_run(tmp_path / 'run', eval_only=True) as run:
        run.log(step=1)
        run.finish(dict(acc=1.0), step=1)
    assert not (tmp_path / 'run').exists()


def test_the_log_survives_a_line_cut_short_and_is_cut_back(tmp_path):
    with make_run(tmp_path / 'run') as run:
        for step in (1, 2, 3):
            run.log(arm='cot', step=step, loss=step / 3)
        run.log(arm='direct', step=3, loss=0.5)
        run.log(arm='final', step=3)
    with open(tmp_path / 'run' / 'log.jsonl', 'a') as f:
        f.write('{"arm": "cot", "st')
    common.cut_log(tmp_path / 'run', 'cot', 2)
    with make_run(tmp_path / 'run', resume=True) as run:
        run.log(arm='cot', step=3, loss=1.0)
    records = [tuple(record.values()) for record in common.read_log(tmp_path / 'run')]
    assert records == [('cot', 1, 1 / 3), ('cot', 2, 2 / 3), ('direct', 3, 0.5), ('cot', 3, 1.0)]


def test_a_run_that_starts_over_cuts_the_whole_arm(tmp_path):
    with make_run(tmp_path / 'run') as run:
        run.log(arm='cot', step=0)
        run.log(arm='cot', step=1)
    common.cut_log(tmp_path / 'run', 'cot', 0)
    assert common.read_log(tmp_path / 'run') == []


def test_the_format_of_the_final_line():
    line = common.final_line(task='cycle', hops='1-2', acc=1.0, chance=1 / 19, n_test=2000,
                             acc_direct=None)
    assert line == 'final task=cycle hops=1-2 acc=1.000 chance=0.053 n_test=2000'


# -----------------------------------------------------------------------------
# signals

def test_a_loop_that_trains_is_told_of_the_first_signal_and_the_second_one_ends(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with make_run(tmp_path / 'run') as run:
        run.begin_training()
        assert not run.should_stop()
        signal.raise_signal(signal.SIGTERM)
        assert run.should_stop() and run.stopped
        with pytest.raises(KeyboardInterrupt):  # main ends with exit code 130, a notebook goes on
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(RunEnded, match='before anything was saved') as error:
            run.end_training(5)
        assert error.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before  # main leaves no handler behind


def test_outside_of_training_a_signal_ends_at_once(tmp_path):
    with make_run(tmp_path / 'run'), pytest.raises(SystemExit) as end:
        signal.raise_signal(signal.SIGTERM)
    assert end.value.code == 143
    with make_run(tmp_path / 'run') as run:
        run.begin_training()
        run.end_training(5)
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)


def test_a_run_works_in_a_thread(tmp_path):
    """There are no signal handlers there."""
    stopped = []

    def use_a_run():
        with make_run(tmp_path / 'run') as run:
            stopped.append(run.should_stop())

    thread = threading.Thread(target=use_a_run)
    thread.start()
    thread.join()
    assert stopped == [False]


# -----------------------------------------------------------------------------
# device, arguments, processes

@pytest.mark.parametrize('device', ['cuda:99', 'tpu', 'xla', 'nonsense', ''])
def test_a_device_that_is_not_there(device):
    with pytest.raises(ValueError, match='not available'):
        common.find_device(device)


def make_parser():
    parser = Parser('A script.\n\n    python script.py\n')
    parser.add_argument('--n_test', type=int, default=10)
    parser.add_argument('--hops', type=int, default=4)
    parser.add_argument('--max_iters', type=int, default=300)
    parser.add_argument('--bipartite', action='store_true', default=None)
    common.add_run_args(parser)
    return parser


def parse(*argv, script='script'):
    return common.parse_args(make_parser(), list(argv), script, free={'n_test', 'seed'})


def test_evaluation_takes_the_arguments_of_the_checkpoint(tmp_path):
    args = parse('--hops', '3', '--out_dir', str(tmp_path / 'run'), '--device', 'cpu')
    with common.Run('script', args) as run:
        run.save('ckpt.pt', *trained_model(), 1)
    checkpoint = ('--eval_only', '--ckpt', str(tmp_path / 'run' / 'ckpt.pt'))

    args = parse(*checkpoint, '--n_test', '99', '--seed', '5')
    assert (args.hops, args.n_test, args.seed, args.device) == (3, 99, 5, 'auto')
    assert parse(*checkpoint, '--hops', '3').hops == 3  # the same value may be typed
    with pytest.raises(ValueError, match='hops=3; leave those flags out'):
        parse(*checkpoint, '--hops', '5')
    with pytest.raises(ValueError, match='was trained by script.py'):
        parse(*checkpoint, script='another')


@pytest.mark.parametrize('argv, reason', [
    (['--eval_only'], 'needs a checkpoint'),
    (['--ckpt', 'x.pt'], '--ckpt goes with --eval_only'),
    (['--eval_only', '--ckpt', 'x.pt', '--resume'], 'writes nothing'),
    (['--eval_only', '--ckpt', 'x.pt', '--out_dir', 'x'], 'writes nothing'),
])
def test_flags_that_contradict_eval_only(argv, reason):
    with pytest.raises(ValueError, match=reason):
        parse(*argv)


# -----------------------------------------------------------------------------
# the default folder

@pytest.mark.parametrize('typed, folder', [
    ('', 'out/script'),
    ('--hops 1-5 --nodes 40', 'out/script-hops_1-5-nodes_40'),
    ('--nodes=40 --curriculum --lr 1e-3', 'out/script-nodes_40-curriculum-lr_1e-3'),
    ('--device cpu --dtype bfloat16 --resume --hops 4 --verbose', 'out/script-hops_4'),
    ('--ckpt out/train_cot-hops_4/ckpt.pt --k 8', 'out/script-ckpt_train_cot-hops_4-k_8'),
    ('--ckpt /a/b/ckpt_direct.pt', 'out/script-ckpt__a_b_ckpt_direct.pt'),
    ('--puzzles ../x:y.txt', 'out/script-puzzles_.._x_y.txt'),
    ('--star 2,3', 'out/script-star_2,3'),
])
def test_a_folder_is_named_after_what_was_typed(typed, folder):
    assert common.default_folder('script', typed.split()) == folder


def test_several_processes_have_a_folder_of_their_own(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert common.default_folder('script', ['--hops', '4']) == 'out/script-hops_4-processes_2'


def test_a_long_name_still_shows_which_run_is_extended():
    many = ['--sizes', '1,' * 200 + '1', '--steps']
    short = common.default_folder('script', [*many, '100'])
    long = common.default_folder('script', [*many, '200'])
    assert short != long and common.without_steps(short) == common.without_steps(long)


def test_long_names_of_folders_are_cut_but_differ():
    a = common.default_folder('script', ['--sizes', '1,' * 200 + '1'])
    b = common.default_folder('script', ['--sizes', '1,' * 200 + '2'])
    assert a != b and len(a) < 220


def run_of(folder, **settings):
    folder.mkdir(parents=True)
    (folder / 'config.json').write_text(json.dumps({'args': settings}))


@pytest.mark.parametrize('typed, folder', [
    ('--hops 4', 'script-hops_4'),                                  # its own
    ('--hops 4 --steps 100', 'script-hops_4-steps_100'),            # its own
    ('--hops 4 --steps 250', 'script-hops_4-steps_100'),            # the longest that is shorter
    ('--hops 4 --steps 400', 'script-hops_4'),
    ('--steps 400 --hops 4', 'script-hops_4'),
    ('--hops 4 --steps 50', 'script-hops_4-steps_50'),              # none: a new one
    ('--hops 5 --steps 400', 'script-hops_5-steps_400'),
    ('--hops 6', 'script-hops_6-steps_20'),                         # extended to the default
])
def test_resume_finds_the_run_that_is_to_be_extended(tmp_path, monkeypatch, typed, folder):
    monkeypatch.chdir(tmp_path)
    run_of(Path('out/script-hops_4'), max_iters=300)
    run_of(Path('out/script-hops_4-steps_100'), max_iters=100)
    run_of(Path('out/script-hops_6-steps_20'), max_iters=20)
    run_of(Path('out/script-hops_4-seed_1-steps_390'), max_iters=390)
    Path('out/script-hops_4-steps_399').mkdir()  # no run
    args = parse(*typed.replace('--steps', '--max_iters').split(), '--resume', '--device', 'cpu')
    assert args.out_dir == f'out/{folder}'.replace('steps_400', 'max_iters_400').replace(
        'steps_50', 'max_iters_50')


# -----------------------------------------------------------------------------
# one run at a time in a folder

def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    with make_run(tmp_path / 'run') as run:
        run.log(step=1)
        with pytest.raises(ValueError, match=f'is in use by process {os.getpid()} on'):
            make_run(tmp_path / 'run')
        assert common.read_log(tmp_path / 'run') == [{'step': 1}]  # the first one lost nothing
    assert not (tmp_path / 'run' / files.LOCK_FILE).exists()
    make_run(tmp_path / 'run').__exit__()  # it is free again


def test_a_refused_run_leaves_no_lock(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='holds no run'):
        make_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


@pytest.mark.skipif(os.name == 'nt', reason='no open file can be removed there')
def test_a_run_whose_folder_was_deleted_does_not_unlock_that_of_another(tmp_path):
    first = files.Lock(tmp_path / 'run')
    shutil.rmtree(tmp_path / 'run')
    second = files.Lock(tmp_path / 'run')
    first.release()
    with pytest.raises(ValueError, match='is in use'):
        files.Lock(tmp_path / 'run')
    second.release()


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path):
    program = ('import files, time; from pathlib import Path;'
               f'lock = files.Lock(Path({str(tmp_path)!r})); print("locked", flush=True);'
               'time.sleep(600)')
    with subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE, cwd=ROOT,
                          text=True) as process:
        try:
            assert process.stdout.readline() == 'locked\n'
            with pytest.raises(ValueError, match=f'in use by process {process.pid} '):
                files.Lock(tmp_path)
        finally:
            process.kill()
    assert (tmp_path / files.LOCK_FILE).exists()
    files.Lock(tmp_path).release()


# -----------------------------------------------------------------------------
# longer runs, other hardware

def growing_run(folder, max_iters, resume=True, **more):
    args = dict(device='cpu', dtype='auto', out_dir=folder, resume=resume, eval_only=False,
                max_iters=max_iters, eval_interval=max_iters // 10, seed=1)
    return common.Run('script', SimpleNamespace(**args | more), can_grow=True)


def test_a_run_can_be_extended_but_not_shortened_or_changed(tmp_path, capsys):
    folder = tmp_path / 'run'
    model, optimizer = trained_model()
    with growing_run(folder, 100, resume=False) as run:
        run.save('ckpt.pt', model, optimizer, 100)
    capsys.readouterr()

    with growing_run(folder, 200) as run:
        assert run.resume('ckpt.pt', model, optimizer, 'arm')['step'] == 100
    assert 'extended from 100 to 200 steps' in capsys.readouterr().out
    assert common.read_settings(folder)['max_iters'] == 200
    with growing_run(folder, 200) as run:  # again, the same command
        assert run.resume('ckpt.pt', model, optimizer, 'arm')['step'] == 100

    for max_iters, resume, more in ((100, True, {}), (300, False, {}), (300, True, {'seed': 2})):
        with pytest.raises(ValueError, match='holds a run with'):
            growing_run(folder, max_iters, resume, **more)
    with pytest.raises(ValueError, match='eval_interval=20, not 7'):
        growing_run(folder, 200, eval_interval=7)  # the schedule of an equally long run is fixed


def test_resuming_on_other_hardware_says_that_bits_may_differ(tmp_path, capsys):
    growing_run(tmp_path / 'run', 100, resume=False).__exit__()
    growing_run(tmp_path / 'run', 100, dtype='bfloat16').__exit__()
    assert 'dtype was float32 and is bfloat16 now' in capsys.readouterr().out


def test_resuming_without_a_run_says_that_it_starts(tmp_path, capsys):
    growing_run(tmp_path / 'run', 100).__exit__()
    assert 'there is no run in' in capsys.readouterr().out


def test_totals_are_by_name(run):
    assert run.total(right=torch.tensor(3), loss=0.5) == dict(right=3.0, loss=0.5)


def test_each_process_takes_its_rows(run):
    run.world = 2
    rows = torch.arange(10)
    run.rank = 0
    assert run.my_rows(rows).tolist() == [0, 1, 2, 3, 4]
    run.rank = 1
    assert run.my_rows(rows).tolist() == [5, 6, 7, 8, 9]


STOP_EACH_TRAINER = """if True:
    import contextlib, os, sys, time
    import common
    import train_cot, train_maze, train_rl

    def gloo_threads():
        n = 0
        for thread in os.listdir('/proc/self/task'):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                with open(f'/proc/self/task/{thread}/comm') as file:
                    n += 'gloo' in file.read()
        return n

    real_should_stop = common.Run.should_stop
    real_end_training = common.Run.end_training

    def should_stop(run):
        during.append(gloo_threads())
        run.signal = 15
        return real_should_stop(run)

    def end_training(run, *args):
        try:
            real_end_training(run, *args)
        finally:
            end = time.time() + 5
            while gloo_threads() and time.time() < end:  # listed a moment longer than it lives
                time.sleep(0.01)
            after.append(gloo_threads())

    common.Run.should_stop = should_stop
    common.Run.end_training = end_training
    _, folder, *ports = sys.argv
    small = '--batch_size 4 --n_embd 8 --n_head 1 --n_layer 1 --n_test 8 --device cpu --out_dir'
    for module, arg in ((train_cot, '--mode=cot'), (train_rl, '--group_size=2'),
                        (train_maze, '--grid=3')):
        during = []
        after = []
        # a port of its own: a fast process could still find the store of the training before
        os.environ['MASTER_PORT'] = ports.pop()
        try:
            module.main([arg, *small.split(), f'{folder}/{module.__name__}'])
        except common.RunEnded as error:
            line = f'{during[0] > 0} {after} {error.exit_code} {str(error)[:18]}\\n'
            os.write(1, line.encode())  # in one piece
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='the names of threads are read from /proc')
@pytest.mark.skipif(torch.__version__.startswith('2.5.'), reason='its threads have no names')
def test_no_thread_of_gloo_outlives_a_training(two_processes, tmp_path):
    """Such a thread can abort the process while the interpreter exits: "terminate called without
    an active exception", once in many runs. Here each trainer is stopped by a signal. When it says
    so, the threads must be gone."""
    done = two_processes('-c', STOP_EACH_TRAINER, tmp_path, free_port(), free_port(), free_port())
    lines = [line for line in done.stdout.split('\n') if line.startswith(('True', 'False'))]
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines == ['True [0] 143 stopped by SIGTERM'] * 6, done.stdout + done.stderr
