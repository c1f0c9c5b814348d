"""Devices and systems that this machine is not: mps, and Windows with numpy < 2."""

import contextlib
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_device import FAKE_MPS, fake_mps

import bench
import capacity
import countdown
import data
import jacobi
import maze
import probe
import profiles
import scaling
import search
import train_cot
import train_latent
import train_maze
import train_puzzles
import train_rl
from countdown import Countdown
from data import CVPR, Cycle, Multiply, Star, sample_batch
from maze import Maze
from model import GPT, GPTConfig
from profiles import Profiles


TASKS = [
    Cycle(nodes=7, hops=(1, 2, 3)),
    Cycle(nodes=7, hops=(2,), format='pairs'),
    CVPR(nodes=9, hops=(2, 3)),
    Multiply(digits=3),
    Multiply(digits=9, reverse=True),
    Star(star=(3, 3)),
    Countdown(),
    Profiles(),
    Profiles(people=40, bipartite=True),
    Profiles(people=40, relabel=True),
    Maze(grid=(3, 4)),
    Maze(grid=(3,), format='grid', gen='wilson'),
    Maze(grid=(3,), gen='percolation'),
]


def name_of(task):
    return task.name


# -----------------------------------------------------------------------------
# a fake mps: every script computes there what it computes on the CPU

SCRIPTS = [
    (train_cot, '--hops 2 --batch_size 8 --steps 2 --n_test 20', 'cot'),
    (train_cot, '--task multiply --digits 1 --batch_size 8 --steps 1 --n_test 8', 'multiply'),
    (train_cot, '--task countdown --numbers 3 --batch_size 4 --steps 1 --n_test 4 --n_layer 1 '
                '--n_embd 16 --n_head 1', 'countdown'),
    (train_cot, '--task profiles --people 20 --batch_size 8 --steps 1 --n_test 8 --n_layer 1',
     'profiles'),
    (train_cot, '--mode direct --hops 1-2 --nodes 8 --steps 1 --n_test 20 --n_layer 2 --n_embd 8 '
                '--n_head 1', 'direct'),
    (train_rl, '--steps 2 --batch_size 4 --n_test 20', 'rl'),
    (train_maze, '--grid 3 --test_grid 3 --steps 1 --n_test 8 --n_layer 1', 'maze'),
    (train_maze, '--grid 3 --test_grid 3 --steps 1 --n_test 8 --n_layer 1 --loss mlmu', 'mlmu'),
    (train_maze, '--grid 3 --test_grid 3 --steps 1 --n_test 8 --n_layer 1 --loss graded', 'graded'),
    (train_latent, '--nodes 6 --hops 1-3 --n_embd 8 --batch_size 4 --steps 2 --n_test 40',
     'latent'),
    (jacobi, '--ckpt cot --n_test 8', 'jacobi'),
    (train_puzzles, '--init_from countdown --puzzles PUZZLES --batch_size 2 --group_size 2 '
                    '--steps 1 --pass_k 4', 'puzzles'),
    (search, '--ckpt countdown --puzzles PUZZLES --k 2', 'search'),
    (capacity, '--sizes 900 --people 10 --attributes 2 --relations 1 --n_head 1 --steps 2 '
               '--exposures 2', 'capacity'),
    (capacity, '--hops 2 --cot --sizes 900 --people 10 --attributes 2 --relations 1 --steps 2 '
               '--exposures 2', 'capacity-2'),
    (scaling, '--arms soft,useless --hops 2 --n_embd 8 --largest_pool 32 --n_seeds 1 --steps 2 '
              '--n_test 8', 'scaling'),
    (probe, '--ckpt direct --n_train 300 --n_test 40 --n_patch 8', 'probe'),
]


@pytest.fixture(scope='module')
def run_on(tmp_path_factory):
    """run_on('mps:0', 'jacobi') -> the final values of that run, and of the one before whose
    checkpoint it reads."""
    folder = tmp_path_factory.mktemp('devices')
    (folder / 'puzzles.txt').write_text('2 3 4\n')
    scripts = {name: (module, argv) for module, argv, name in SCRIPTS}
    finals = {}

    def run(device, name):
        if (device, name) in finals:
            return finals[device, name]
        module, argv = scripts[name]
        read = re.search(r'--(?:ckpt|init_from) (\w+)', argv)
        if read:
            run(device, read[1])
        out = folder / device[:3]
        words = re.sub(r'--(ckpt|init_from) (\w+)', rf'--\1 {out.as_posix()}/\2/ckpt.pt', argv)
        words = words.replace('PUZZLES', (folder / 'puzzles.txt').as_posix()).split()
        with pytest.MonkeyPatch.context() as patch:
            context = contextlib.nullcontext() if device == 'cpu' else fake_mps(patch)
            with context:
                final = module.main([*words, '--device', device, '--out_dir', str(out / name)])
        del final['seconds']
        finals[device, name] = final
        return final

    return run


@pytest.mark.parametrize('module, argv, name', SCRIPTS, ids=[name for _, _, name in SCRIPTS])
def test_scripts_run_on_mps(module, argv, name, run_on):
    on_cpu = run_on('cpu', name)
    on_mps = run_on(FAKE_MPS, name)
    assert on_mps.keys() == on_cpu.keys()
    for key, value in on_cpu.items():
        if isinstance(value, str) or value is None:
            assert on_mps[key] == value
        elif module is not probe:  # whose probes are fitted in float32 there
            assert on_mps[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


def test_bench_runs_on_mps(monkeypatch):
    step = dict(skip_1=1.0, gradient_gap='0.0e+00')
    monkeypatch.setattr(bench, 'measure_training', lambda *args: (step, 1.0))  # it takes a minute
    monkeypatch.setattr(bench, 'measure_generation', lambda *args: {})
    with fake_mps(monkeypatch):
        assert bench.main(['--repeats', '1', '--device', FAKE_MPS])['device'] == 'mps'


def test_the_fake_mps_refuses_what_a_real_one_does(monkeypatch):
    with fake_mps(monkeypatch):
        x = torch.ones(3, device=FAKE_MPS)
        assert x.device.type == 'mps' and x.cpu().device.type == 'cpu'
        assert (x + 1).tolist() == [2, 2, 2]
        with pytest.raises(TypeError, match='float64'):
            x.double()
        with pytest.raises(RuntimeError, match='two devices'):
            x + torch.ones(3)
        with pytest.raises(NotImplementedError, match='no kernel'):
            torch.linalg.eigh(x.diag())


# -----------------------------------------------------------------------------
# Windows with numpy < 2, where the default integer has 32 bits

class Int32Numpy:
    """numpy, with int32 wherever neither the caller nor an argument says int64."""
    narrow = ('arange', 'array', 'full', 'zeros', 'ones', 'where', 'select', 'meshgrid', 'stack')

    def __init__(self):
        self.random = SimpleNamespace(
            default_rng=lambda seed: Int32Rng(np.random.default_rng(seed)))

    def __getattr__(self, name):
        function = getattr(np, name)
        return narrowed(function) if name in self.narrow else function


class Int32Rng:
    narrow = ('choice', 'permutation')

    def __init__(self, rng):
        self.rng = rng

    def __getattr__(self, name):
        function = getattr(self.rng, name)
        return narrowed(function) if name in self.narrow else function


def narrowed(function):
    def wrapper(*args, **kwargs):
        result = function(*args, **kwargs)
        if 'dtype' in kwargs or any(map(has_int64, args)):
            return result
        if isinstance(result, (list, tuple)):
            return [narrow(array) for array in result]
        return narrow(result)
    return wrapper


def has_int64(value):
    if isinstance(value, (list, tuple)):
        return any(map(has_int64, value))
    return isinstance(value, (np.ndarray, np.int64)) and value.dtype == np.int64


def narrow(array):
    return array.astype(np.int32) if array.dtype == np.int64 else array


@pytest.fixture
def int32_numpy(monkeypatch):
    """Call it, and the tasks and scripts have that numpy."""
    def install():
        for module in (data, countdown, profiles, maze, capacity, probe):
            monkeypatch.setattr(module, 'np', Int32Numpy())
    return install


def equal_batches(a, b):
    for name in ('tokens', 'answer', 'hops', 'instance'):
        assert getattr(a, name).dtype == torch.int64
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert torch.equal(a.loss_mask, b.loss_mask)
    assert a.prompt_len == b.prompt_len


def make_again(task):
    return type(task)(**task.settings())


def test_int32_numpy_is_one():
    fake = Int32Numpy()
    assert fake.arange(3).dtype == fake.full(2, -1).dtype == fake.array([1]).dtype == np.int32
    assert fake.where([True], 1, 0).dtype == np.int32
    assert fake.where([True], np.arange(1), 0).dtype == fake.arange(3, dtype=np.int64).dtype
    assert fake.random.default_rng(0).permutation(5).dtype == np.int32


@pytest.mark.parametrize('task', TASKS, ids=name_of)
@pytest.mark.parametrize('mode', ['cot', 'direct'])
def test_batches_do_not_depend_on_the_default_integer(task, mode, int32_numpy):
    expected = [sample_batch(task, 40, 1, 2, split, mode) for split in ('train', 'test')]
    int32_numpy()
    same = make_again(task)
    for split, batch in zip(('train', 'test'), expected, strict=True):
        found = sample_batch(same, 40, 1, 2, split, mode)
        equal_batches(found, batch)

    # what an evaluation asks
    rows = batch[:1] if len(task.hops) > 1 else batch
    if mode == 'cot':
        chain = rows.tokens[:, rows.prompt_len:]
        if task.name != 'maze':
            assert torch.equal(same.valid(rows, chain), task.valid(rows, chain))
        else:
            for a, b in zip(same.neighbours(rows.instance, chain),
                            task.neighbours(rows.instance, chain), strict=True):
                assert torch.equal(a, b)


def test_questions_do_not_depend_on_the_default_integer(int32_numpy):
    task = Profiles(people=3000, attributes=0, relations=2)
    tiny = Profiles(people=10)
    expected = probe.profiles_questions(task, 'direct', 500, 100, 0)
    facts = capacity.make_questions(tiny, 'cot').batch
    int32_numpy()
    found = probe.profiles_questions(make_again(task), 'direct', 500, 100, 0)
    for name in ('node', 'token', 'control_key', 'group'):
        assert torch.equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == torch.int64
    equal_batches(capacity.make_questions(make_again(tiny), 'cot').batch, facts)


# -----------------------------------------------------------------------------
# a real mps

@pytest.mark.mps
@pytest.mark.skipif(not torch.backends.mps.is_available(), reason='needs an Apple GPU')
@pytest.mark.parametrize('task', TASKS, ids=name_of)
def test_mps_computes_what_the_cpu_computes(task):
    torch.manual_seed(0)
    batch = sample_batch(task, 32, 0, 0)
    there = batch.to('mps')
    for name in ('tokens', 'loss_mask', 'answer', 'hops', 'instance'):
        assert torch.equal(getattr(there, name).cpu(), getattr(batch, name))

    config = GPTConfig(len(task.vocab), task.block_size, n_layer=2, n_head=2, n_embd=32)
    model = GPT(config)
    results = []
    for device, part in (('cpu', batch), ('mps', there)):
        model = model.to(device)
        model.zero_grad()
        mask = part.loss_mask[:, 1:]
        logits = model(part.tokens[:, :-1], mask)
        F.cross_entropy(logits, part.tokens[:, 1:][mask]).backward()
        gradients = [p.grad.detach().cpu() for p in model.parameters()]
        results.append([logits.detach().cpu(), *gradients])
    for on_cpu, on_mps in zip(*results, strict=True):
        torch.testing.assert_close(on_mps, on_cpu, rtol=1e-3, atol=1e-4)


@pytest.mark.mps
@pytest.mark.skipif(not torch.backends.mps.is_available(), reason='needs an Apple GPU')
def test_a_short_run_on_mps(tmp_path):
    final = train_cot.main(['--device', 'mps', '--steps', '200', '--out_dir', str(tmp_path)])
    assert final['acc'] > 0.9
