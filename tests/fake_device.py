"""A device that says it is `mps`, for machines that have none.

Its tensors hold tensors of the CPU, and every operation is computed there. But it refuses what a
real mps refuses:

    float64 tensors                             there are none
    tensors on two devices in one operation     as every GPU does
    operations without a kernel for mps         by the list that comes with this version of torch

    with fake_mps(monkeypatch):
        final = train_cot.main(['--device', FAKE_MPS])
"""

import contextlib
import re
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode


FAKE_MPS = 'mps:0'  # with a number: without one, torch asks the driver which device it is
FUNCTIONS = Path(torch.__file__).parent.parent / 'torchgen/packaged/ATen/native'
MAY_MIX_DEVICES = {'_to_copy', 'copy_', 'index', 'index_put', 'index_put_', '_index_put_impl_'}


def functions_of_mps():
    """The names of torch's functions, such as 'gather.out', that mps can compute."""
    computed = set()
    delegates = {}  # function -> the one that computes it
    text = (FUNCTIONS / 'native_functions.yaml').read_text()
    for entry in text.split('\n- func: ')[1:]:
        name = entry[:entry.index('(')]
        delegate = re.search(r'structured_delegate: (\S+)', entry)
        if delegate:
            delegates[name] = delegate[1]
            continue

        # '    CPU, MPS: gather_out' names two backends. Without any, it is made of other functions.
        backends = set()
        for line in re.findall(r'^    ([\w, ]+): ', entry, re.M):
            backends.update(line.split(', '))
        composite = [backend for backend in backends if backend.startswith('Composite')]
        if 'MPS' in backends or composite or not backends:
            computed.add(name)
    for name, delegate in delegates.items():
        if delegate in computed:
            computed.add(name)
    return computed


class FakeTensor(torch.Tensor):
    """A tensor on the fake device. To torch's own code it is on `meta`, which needs no hardware."""

    @staticmethod
    def __new__(cls, on_cpu):
        with torch.inference_mode(False):  # a view of a trained weight must stay one
            return torch.Tensor._make_wrapper_subclass(
                cls, on_cpu.shape, strides=on_cpu.stride(), dtype=on_cpu.dtype, device='meta',
                storage_offset=on_cpu.storage_offset())

    def __init__(self, on_cpu):
        if on_cpu.dtype == torch.float64:
            raise TypeError('there is no float64 on mps')
        self.on_cpu = on_cpu

    @property
    def device(self):
        return torch.device(FAKE_MPS)

    @property
    def is_meta(self):
        return False

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, other):
        self.on_cpu = other.on_cpu

    def __getitem__(self, index):
        return super().__getitem__(with_tensors(index))

    def __setitem__(self, index, value):
        super().__setitem__(with_tensors(index), value)

    def tolist(self):
        return self.on_cpu.tolist()

    def __format__(self, spec):
        return format(self.on_cpu, spec)

    def __reduce_ex__(self, protocol):
        return self.on_cpu.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f'{function} outside of fake_mps()')


def with_tensors(index):
    """The index of a FakeTensor, with tensors for its lists: torch takes no numbers to `meta`."""
    if isinstance(index, tuple):
        return tuple(with_tensors(part) for part in index)
    return torch.tensor(index) if isinstance(index, list) else index


def map_values(function, value):
    """Of a value, or of all in a list, tuple or dict. It is faster than that of torch."""
    if isinstance(value, (list, tuple)):
        return type(value)([map_values(function, part) for part in value])
    if isinstance(value, dict):
        return {name: map_values(function, part) for name, part in value.items()}
    return function(value)


class FakeDevice(TorchDispatchMode):
    """While it is entered, every operation on the fake device goes through it."""
    computed = functions_of_mps()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get('device')
        makes_fake = device is not None and torch.device(device).type in ('mps', 'meta')
        fakes = []
        others = []

        def unwrap(value):
            if isinstance(value, FakeTensor):
                fakes.append(value)
                return value.on_cpu
            if isinstance(value, torch.Tensor) and value.dim() > 0:
                others.append(value)
            return value

        cpu_args = map_values(unwrap, args)
        cpu_kwargs = map_values(unwrap, kwargs)
        if not fakes and not makes_fake:
            return function(*args, **kwargs)

        # what is made of other functions is computed by these
        if function._can_decompose():
            with self:
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result

        # what a real device refuses
        name = function._schema.name.removeprefix('aten::')
        full_name = f'{name}.{function._schema.overload_name}'.rstrip('.')
        if full_name not in self.computed:
            raise NotImplementedError(f'{full_name} has no kernel for mps')
        if fakes and others and name not in MAY_MIX_DEVICES:
            raise RuntimeError(f'{full_name}: tensors on two devices')

        # compute on the CPU
        if makes_fake:
            cpu_kwargs = dict(cpu_kwargs, device='cpu')
        result = function(*cpu_args, **cpu_kwargs)
        if function._schema.is_mutable:
            return args[0] if isinstance(result, torch.Tensor) else result
        if device is not None and not makes_fake:
            return result
        return map_values(lambda x: FakeTensor(x) if isinstance(x, torch.Tensor) else x, result)


@contextlib.contextmanager
def fake_mps(monkeypatch):
    """Enter it around everything that shall compute on the fake device."""
    real_generator = torch.Generator
    real_load = torch.load

    class Generator:
        def __new__(cls, device='cpu'):
            return real_generator()

    def load(path, map_location=None, **options):
        return real_load(path, map_location='cpu', **options)

    with monkeypatch.context() as patch, FakeDevice():
        patch.setattr(torch, 'Generator', Generator)
        patch.setattr(torch, 'load', load)
        patch.setattr(torch.mps, 'synchronize', lambda: None)
        lifts_cpu_tensors = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor: first on the CPU, then moved
        try:
            yield
        finally:
            torch._C._set_only_lift_cpu_tensors(lifts_cpu_tensors)
