"""memory.py: what is free, what is refused, and estimates that are near to what is measured."""

import re
import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

import memory
import train_cot
import train_latent
import train_maze
import train_rl
from data import CVPR, Cycle, Multiply, Parity, Star, sample_batch
from maze import Maze
from memory import GIB
from model import GPT, GPTConfig
from profiles import Profiles


# -----------------------------------------------------------------------------
# what is free

def test_some_memory_is_free_here():
    free = memory.free_memory()
    assert free is None or 2**20 < free < 2**50


def test_processes_share_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, 'free_of_machine', lambda: 12 * GIB)
    monkeypatch.setattr(memory, 'free_of_cgroups', lambda: [16 * GIB])
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    assert memory.free_memory() == 3 * GIB


def test_nothing_is_refused_where_nobody_knows(monkeypatch):
    monkeypatch.setattr(memory, 'free_of_machine', lambda: None)
    monkeypatch.setattr(memory, 'free_of_cgroups', list)
    assert memory.free_memory() is None
    assert memory.require_memory([{'model': 2**99}]) == 2**99


def test_windows_is_asked_as_it_wants_to_be_asked(monkeypatch):
    def answer(pointer):
        status = pointer._obj
        assert status.length == 64
        status.available = 5 * GIB
        return 1

    kernel = SimpleNamespace(GlobalMemoryStatusEx=answer)
    monkeypatch.setattr(sys, 'platform', 'win32')
    monkeypatch.setattr(memory.ctypes, 'windll', SimpleNamespace(kernel32=kernel), raising=False)
    assert memory.free_of_machine() == 5 * GIB


def write_group(folder, version, limit, use, files=0):
    names = {2: ('memory.max', 'memory.current', 'inactive_file'),
             1: ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file')}
    limit_file, use_file, key = names[version]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit_file).write_text(f'{limit}\n')
    (folder / use_file).write_text(f'{use}\n')
    (folder / 'memory.stat').write_text(f'anon 5\n{key} {files}\n')


def test_the_limits_of_a_container_version_2(tmp_path):
    """Its own, and those of the groups that it is in. Files in memory count as free."""
    own = tmp_path / 'cgroup'
    own.write_text('0::/a/b\n')
    write_group(tmp_path / 'a', 2, 1000, 300, files=50)
    write_group(tmp_path / 'a' / 'b', 2, 'max', 200)
    assert memory.free_of_cgroups(tmp_path, own) == [750]


def test_the_limits_of_a_container_version_1(tmp_path):
    own = tmp_path / 'cgroup'
    own.write_text('5:cpu,cpuacct:/\n4:memory:/not/seen/from/here\n0::/\n')
    write_group(tmp_path / 'memory', 1, 500, 600)
    assert memory.free_of_cgroups(tmp_path, own) == [0]


def test_without_groups_there_is_no_limit(tmp_path):
    assert memory.free_of_cgroups(tmp_path, tmp_path / 'nothing') == []


# -----------------------------------------------------------------------------
# what is refused

PHASES = [{'model': 3 * GIB, 'data': GIB}, {'model': 3 * GIB, 'activations': 20 * GIB}]


def test_the_largest_phase_counts_and_its_largest_part_names_the_cure():
    assert memory.require_memory(PHASES, free=23 * GIB) == 23 * GIB
    with pytest.raises(ValueError) as error:
        memory.require_memory(PHASES, free=23 * GIB - 1)
    assert str(error.value) == ('this takes about 23 GiB of memory (activations 20 GiB, model 3.0 '
                                'GiB), and 23 GiB are free: lower --batch_size or --n_embd')


def test_the_cure_names_the_flag_for_the_size_of_the_task():
    for task, flag in ((Cycle(), '--nodes'), (Maze(), '--grid'), (Profiles(), '--people')):
        with pytest.raises(ValueError, match=f'lower --batch_size or {flag}'):
            memory.require_memory([{'logits': GIB}], task=task, free=1)


def test_on_a_gpu_the_model_must_fit_there_and_the_data_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: (22 * GIB, 80 * GIB))
    monkeypatch.setattr(memory, 'free_memory', lambda: 2 * GIB)
    cuda = SimpleNamespace(type='cuda')
    with pytest.raises(ValueError, match='22 GiB are free on the GPU: lower --batch_size'):
        memory.require_memory(PHASES, cuda)
    memory.require_memory([{'model': 20 * GIB, 'data': GIB}], cuda)
    with pytest.raises(ValueError, match='2.0 GiB are free: lower --batch_size'):
        memory.require_memory([{'model': GIB, 'data': 3 * GIB}], cuda)


def test_every_part_of_every_script_has_a_cure():
    for script in (train_cot, train_latent, train_maze, train_rl):
        args = script.parse_args([])
        task, *others = script.fill_in(args)
        config = [value for value in others if isinstance(value, GPTConfig)][0]
        cures = getattr(script, 'CURES', memory.CURES)
        for phase in script.memory_phases(args, task, config):
            assert set(phase) <= set(cures)


@pytest.mark.parametrize('n_layer, n_loop, fits', [(100, 100, True), (1000, 11, False)])
def test_depth_is_bounded(n_layer, n_loop, fits):
    args = SimpleNamespace(n_layer=n_layer, n_loop=n_loop)
    if fits:
        memory.require_depth(args)
    else:
        with pytest.raises(ValueError, match='is 11,000: at most 10,000'):
            memory.require_depth(args)


# -----------------------------------------------------------------------------
# estimates

@pytest.mark.parametrize('config', [
    GPTConfig(11, 7),
    GPTConfig(11, 7, n_layer=3, n_head=2, n_embd=6, n_loop=2),
    GPTConfig(11, 7, n_layer=2, n_embd=8, pos='rope'),
    GPTConfig(11, 7, n_embd=5, pos='none'),
])
def test_parameters_are_counted_without_a_model(config):
    assert memory.n_params(config) == GPT(config).num_params()


@pytest.mark.parametrize('task, rows, split', [
    (Cycle(), 20000, 'train'),
    (Cycle(100, [30], 'pairs'), 1000, 'test'),
    (CVPR(50, [9]), 5000, 'train'),
    (Multiply(6), 5000, 'train'),
    (Parity(60), 20000, 'train'),
    (Star((5, 5), 50), 5000, 'train'),
    (Star((2, 3), 3000), 300, 'test'),
    (Profiles(), 20000, 'test'),
    (Maze((8,)), 500, 'test'),
    (Maze((8,), format='grid'), 2000, 'train'),
], ids=lambda value: getattr(value, 'name', value))
def test_drawing_a_batch_takes_about_what_is_estimated(task, rows, split):
    tracemalloc.start()
    sample_batch(task, rows, 0, 0, split)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 1 / 3 < peak / memory.drawing_bytes(task, rows, split) < 1.3


MEASURE = """
import sys
sys.path.insert(0, sys.argv[1])
import train_cot
def peak():
    with open('/proc/self/status') as file:
        status = file.read()
    return int(status.split('VmHWM:')[1].split()[0]) * 1024
before = peak()
train_cot.main(sys.argv[2:])
print('took', peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_a_run_takes_about_what_it_says(tmp_path):
    argv = ['--mode', 'cot', '--steps', '1', '--batch_size', '5000', '--n_test', '5', '--device',
            'cpu', '--out_dir', str(tmp_path / 'run')]
    done = subprocess.run([sys.executable, '-c', MEASURE, ROOT, *argv], text=True,
                          capture_output=True, check=True)
    stated = float(re.search(r'about ([\d.]+) GiB of memory', done.stdout)[1]) * GIB
    took = int(done.stdout.split('took')[1])
    assert stated / 3 < took < stated + GIB / 4


def test_the_estimate_grows_with_what_it_is_made_of():
    """Twice the batch, the width or the questions is about twice or four times the memory."""
    def needed(*argv):
        args = train_cot.parse_args(['--n_layer', '2', *argv])
        task, config = train_cot.fill_in(args)
        phases = train_cot.memory_phases(args, task, config)
        return sum(memory.largest(phases).values())

    assert 1.9 < needed('--batch_size', '8192') / needed('--batch_size', '4096') < 2.1
    assert needed('--batch_size', '8192', '--grad_accum', '8') < needed('--batch_size', '2048')
    assert 2.5 < needed('--n_embd', '8192') / needed('--n_embd', '4096') < 4.1
    assert needed('--numbers', '5', '--task', 'countdown') < GIB
