"""The plumbing: a run folder that refuses what is not its own, files that are whole or absent, and one line for every mistake."""

import json
import pickle
import signal
import sys

import pytest
import torch
from conftest import two_processes

import common
from model import GPT, GPTConfig

def tiny():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=7, block_size=5, n_embd=8))
    return model, model.configure_optimizer(1e-2, 0.1)

def one_step(model, optimizer):
    model(torch.tensor([[1, 2, 3]])).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()

def dies(capsys, code=2):
    """What a call that ended in die said: exactly one line on stderr, nothing on stdout."""
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1 and err.endswith('\n') and 'Traceback' not in err
    return err

def test_checkpoint_carries_weights_optimizer_and_random_state(tmp_path):
    model, optimizer = tiny()
    one_step(model, optimizer)
    common.save_checkpoint(tmp_path / 'ckpt.pt', model, optimizer, 7, {'script': 's', 'star': (2, 3)})
    drawn = torch.rand(3)  # what an uninterrupted run draws next
    one_step(model, optimizer)
    copy, state = common.load_checkpoint(tmp_path / 'ckpt.pt')
    torch.set_rng_state(state['rng'])
    assert torch.equal(torch.rand(3), drawn)
    optimizer = copy.configure_optimizer(1e-2, 0.1)
    optimizer.load_state_dict(state['optimizer'])
    one_step(copy, optimizer)
    assert state['step'] == 7 and state['args'] == {'script': 's', 'star': (2, 3)}
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), copy.state_dict().values(), strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ['ckpt.pt']  # no temporary file stays

def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / 'ckpt.pt'
    common.write_atomic(path, lambda tmp: tmp.write_text('old'))

    def half(tmp):
        tmp.write_text('ne')
        raise OSError('disk full')
    with pytest.raises(OSError):
        common.write_atomic(path, half)
    assert path.read_text() == 'old'

class Bomb:
    def __reduce__(self):
        return exec, ("open('exploded', 'w').close()",)

@pytest.mark.parametrize('kind', ['missing', 'empty', 'truncated', 'text', 'pickle bomb', 'torch bomb', 'other dict', 'other weights', 'no script', 'a folder'])
def test_no_other_file_passes_for_a_checkpoint(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, (model, optimizer) = tmp_path / 'ckpt.pt', tiny()
    common.save_checkpoint(path, model, optimizer, 1, {'script': 's'})
    assert common.load_checkpoint(path)[1]['step'] == 1
    whole = path.read_bytes()
    state = torch.load(path, weights_only=True)
    {'missing': path.unlink, 'empty': lambda: path.write_bytes(b''), 'truncated': lambda: path.write_bytes(whole[:len(whole) // 2]),
     'text': lambda: path.write_text('hello'), 'pickle bomb': lambda: path.write_bytes(pickle.dumps(Bomb())),
     'torch bomb': lambda: torch.save({**state, 'args': Bomb()}, path), 'other dict': lambda: torch.save({'weights': 1}, path),
     'no script': lambda: torch.save({**state, 'args': 3}, path), 'a folder': lambda: (path.unlink(), path.mkdir()),
     'other weights': lambda: torch.save({**state, 'config': {**state['config'], 'n_embd': 16}}, path)}[kind]()
    with pytest.raises(SystemExit) as end:
        common.load_checkpoint(path)
    assert end.value.code == 2 and str(path) in dies(capsys) and not (tmp_path / 'exploded').exists()

def test_the_same_arguments_start_over_and_others_are_refused(tmp_path, capsys):
    out, args = tmp_path / 'run', {'task': 'star', 'star': (2, 3), 'seed': 1}
    common.open_run(out, args, resume=False)
    common.log(out, step=1)
    (out / 'ckpt.pt').write_text('weights')
    common.open_run(out, args, resume=True)  # to resume touches nothing
    assert (out / 'ckpt.pt').exists() and common.read_log(out) == [{'step': 1}]
    with pytest.raises(SystemExit) as end:
        common.open_run(out, {**args, 'seed': 2}, resume=False)
    assert end.value.code == 2 and 'seed=1, not 2' in dies(capsys)
    assert (out / 'ckpt.pt').exists() and json.loads((out / 'config.json').read_text())['args']['seed'] == 1
    common.open_run(out, args, resume=False)
    assert not (out / 'ckpt.pt').exists() and common.read_log(out) == []

@pytest.mark.parametrize('name, text', [('notes.txt', 'mine'), ('config.json', '[1, 2'), ('config.json', '{"args": 3}'), ('config.json', '[]')])
def test_a_foreign_folder_is_refused_and_left_alone(name, text, tmp_path, capsys):
    (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit) as end:
        common.open_run(tmp_path, {'seed': 1}, resume=False)
    dies(capsys)
    assert end.value.code == 2 and {p.name: p.read_text() for p in tmp_path.iterdir()} == {name: text}

def test_out_dir_that_is_a_file(tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SystemExit) as end:
        common.open_run(tmp_path / 'file', {}, resume=False)
    assert end.value.code == 2 and 'cannot write' in dies(capsys)

def test_log_survives_a_line_cut_short_and_is_cut_back(tmp_path):
    for step in (1, 2, 3):
        common.log(tmp_path, arm='cot', step=step, loss=step / 3)
    with open(tmp_path / 'log.jsonl', 'a') as f:
        f.write('{"arm": "cot", "st')
    common.cut_log(tmp_path, lambda r: r['step'] < 3)
    common.log(tmp_path, arm='cot', step=3, loss=1.0)
    assert [(r['step'], r['loss']) for r in common.read_log(tmp_path)] == [(1, 1 / 3), (2, 2 / 3), (3, 1.0)]

def test_final_line_format():
    line = common.final_line(task='cycle', hops='1-2', acc=1.0, chance=1 / 19, n_test=2000, acc_direct=None)
    assert line == 'final task=cycle hops=1-2 acc=1.000 chance=0.053 n_test=2000'

def test_signals_are_collected_and_the_second_one_ends(monkeypatch):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    try:
        caught = common.catch_signals()
        signal.raise_signal(signal.SIGTERM)
        assert caught == [signal.SIGTERM]
        with pytest.raises(SystemExit) as end:
            signal.raise_signal(signal.SIGINT)
        assert end.value.code == 130
        common.catch_signals(exit_now=True)
        with pytest.raises(SystemExit) as end:
            signal.raise_signal(signal.SIGTERM)
        assert end.value.code == 143
    finally:
        for s, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(s, handler)

@pytest.mark.parametrize('device', ['cuda:99', 'tpu', 'xla', 'nonsense', ''])
def test_a_device_that_is_not_there(device, capsys):
    class Args:
        dtype, seed = 'auto', 1
    Args.device = device
    with pytest.raises(SystemExit) as end:
        common.setup(Args)
    assert end.value.code == 2 and 'not available' in dies(capsys)

def test_a_flag_that_came_later_and_is_not_used_does_not_make_it_another_run(tmp_path):
    model, optimizer = tiny()
    common.save_checkpoint(tmp_path / 'ckpt.pt', model, optimizer, 3, {'script': 's', 'nodes': 4})
    assert common.load_checkpoint(tmp_path / 'ckpt.pt', 'cpu', {'script': 's', 'nodes': 4, 'grid': None})[1]['step'] == 3
    with pytest.raises(SystemExit):
        common.load_checkpoint(tmp_path / 'ckpt.pt', 'cpu', {'script': 's', 'nodes': 4, 'grid': 3})

@pytest.mark.skipif(sys.platform != 'linux', reason='the names of threads are read from /proc')
def test_no_thread_of_gloo_outlives_a_training(tmp_path):
    """Such a thread, in need of the interpreter while it exits, aborts the process: "terminate called without an active exception", once in many runs.
    Each trainer is stopped by a signal after a step; when it says so, the threads must have gone."""
    code = """if True:
        import contextlib, os, time
        import common
        import train_cot, train_maze, train_rl
        def threads():
            found = 0
            for t in os.listdir('/proc/self/task'):
                with contextlib.suppress(OSError):  # gone since
                    found += 'gloo' in open(f'/proc/self/task/{t}/comm').read()
            return found
        real = common.sum_over_processes
        def count(*args):
            seen.append(threads())
            return real(*args)
        def die(message, code):
            end = time.time() + 5
            while threads() and time.time() < end:  # one that was waited for is listed a moment longer
                time.sleep(0.01)
            seen.append(threads())
            raise SystemExit(f'{code} {message[:19]}')
        common.sum_over_processes, common.die, common.catch_signals = count, die, lambda exit_now=False: [15]
        for module, arg in ((train_cot, '--mode=cot'), (train_rl, '--group_size=2'), (train_maze, '--grid=3')):
            seen = []
            try:
                module.main([arg, *'--batch_size 4 --n_embd 8 --n_head 1 --n_layer 1 --n_test 8 --device cpu --out_dir'.split(), 'OUT/' + module.__name__])
            except SystemExit as end:
                os.write(1, f'{seen[0] > 0} {seen[1:]} {end}\\n'.encode())  # in one piece"""
    done = two_processes('-c', code.replace('OUT', str(tmp_path)))
    lines = [line for line in done.stdout.split('\n') if line.startswith(('True', 'False'))]
    assert done.returncode == 0 and lines == ['True [0] 143 stopped by a signal'] * 6, done.stdout + done.stderr
