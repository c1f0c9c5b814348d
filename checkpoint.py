"""Checkpoints: a plain dict in a file, and a check of everything that such a file may hold.

    to_bytes         a checkpoint as the bytes of its file
    load_checkpoint  the model and the dict, if all checks pass

A checkpoint may come from a stranger, or from a disk that went bad. torch.load with weights_only
runs no code, but it does not check what it reads. It accepts most files in which one bit is wrong.
Moments of another shape make an optimizer write to memory that is not its own. So a file goes
through these checks before anything in it is used. Each ends in one line that says what is wrong:

1. archive    a zip file whose parts have the right check sums, and are not larger than the file
2. pickle     names nothing but tensors, and no tensor has more numbers than its part of the archive
3. values     plain, and together not more than the file has room for
4. config     of a model that the file has room for, with the sizes that the arguments say
5. model      every weight has the name, shape and type as in a new model, and is finite
6. optimizer  the same for the two moments of every weight
7. the rest   step, arguments, random state
8. checksum   a hash of all values: nothing was changed after the file was written

A right checksum alone proves nothing: a stranger can compute one, too.
"""

import hashlib
import io
import math
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch

from data import require
from model import GPT, GPTConfig


KEYS = ('model', 'config', 'optimizer', 'step', 'args', 'mode', 'rng', 'rng_cuda')
MODES = ('cot', 'direct', 'latent')  # what a model was trained on
IN_BOTH = ('n_layer', 'n_head', 'n_embd', 'n_loop', 'pos')  # in the config and in the arguments
ADAM = {'step', 'exp_avg', 'exp_avg_sq'}  # what AdamW keeps of each parameter

MOST_VALUES = 200_000     # in one checkpoint
MOST_PICKLE = 4_000_000   # bytes of the pickle, without the numbers of tensors
MOST_DEPTH = 10_000       # applications of blocks in a forward pass
MOST_TOKENS = 2**22       # block_size
MOST_ANGLES = 2**24       # of rotary positions: they take memory that the file does not
LONGEST_LIST = 1000       # of an argument

# what the pickle of plain values and tensors names
NUMBER_BYTES = {'Double': 8, 'Long': 8, 'Float': 4, 'Int': 4, 'Half': 2, 'BFloat16': 2, 'Short': 2,
                'Char': 1, 'Byte': 1, 'Bool': 1}  # of the numbers of a storage
ALLOWED_GLOBALS = re.compile('collections OrderedDict|torch[.]_utils _rebuild_tensor_v2|'
                             f'torch ({"|".join(NUMBER_BYTES)})Storage')
FORBIDDEN_OPCODES = ('STACK_GLOBAL', 'INST', 'OBJ', 'NEWOBJ', 'NEWOBJ_EX', 'EXT1', 'EXT2', 'EXT4')


class Damaged(ValueError):
    """What is wrong with a checkpoint."""


def check(condition, message):
    if not condition:
        raise Damaged(message)


# -----------------------------------------------------------------------------
# public functions

def to_bytes(state):
    """The bytes of the file for a dict with the KEYS, and more plain values."""
    file = io.BytesIO()  # torch.save to a path says nothing useful when a disk is full
    torch.save(state | {'checksum': checksum(state)}, file)
    return file.getvalue()


def load_checkpoint(path, device='cpu', cure='name another'):
    """(model, state): the model on device, and the dict that to_bytes was given, on the CPU.

    cure: what the message of a damaged file says to do.
    Raises ValueError if the file is missing or damaged, or is no checkpoint of this repository.
    """
    path = Path(path)
    require(not path.is_dir(), f'{path} is a folder, not a checkpoint: {cure}')
    require(path.is_file(), f'there is no checkpoint {path}')
    reason = 'it cannot be read'
    try:
        state = read_state(path)
        model = GPT(GPTConfig(**state['config']))
        model.load_state_dict(state['model'])
        return model.to(device), state
    except Damaged as error:
        reason = str(error)
    except Exception as error:  # zipfile and torch.load raise a dozen kinds
        if isinstance(error, PermissionError):
            raise ValueError(f'cannot read {path}: {error.strerror}') from error
    raise ValueError(f'{path} is not a checkpoint of this repo, or is damaged ({reason}): {cure}')


def read_state(path):
    """The checked dict of a checkpoint, without its checksum."""
    check_archive(path)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about files that are refused anyway
        state = torch.load(path, map_location='cpu', weights_only=True)  # runs no code

    check(isinstance(state, dict), 'it does not hold a dict')
    for name in KEYS:
        check(name in state, f'it has no {name}')
    written_checksum = state.pop('checksum', None)
    found_checksum = checksum(state, path.stat().st_size)  # also refuses what is not plain

    check_args(state['args'])
    check(isinstance(state['model'], dict), 'its model is not a dict')
    check_config(state['config'], state['args'], len(state['model']), path.stat().st_size)
    with torch.device('meta'):  # shapes without memory
        fresh = GPT(GPTConfig(**state['config']))
    check_model(state['model'], fresh)
    check_optimizer(state['optimizer'], fresh)
    check_step(state['step'], state['args'])
    check(state['mode'] in MODES, f'its mode is none of {", ".join(MODES)}')
    check_random_state(state['rng'], state['rng_cuda'])

    check(written_checksum is not None,
          'it has no checksum: it was changed, or an older version of this repo wrote it')
    check(written_checksum == found_checksum,
          'its checksum does not fit: it was changed after it was written')
    return state


# -----------------------------------------------------------------------------
# the file

def check_archive(path):
    """The archive and the pickle, before torch reads them."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        for record in records:
            check(record.compress_type == zipfile.ZIP_STORED, 'its parts are compressed')
        size = sum(record.file_size for record in records)
        check(size <= path.stat().st_size, 'its parts are larger than the file')
        check(archive.testzip() is None, 'a part of it has the wrong check sum')  # of the archive
        sizes = {record.filename: record.file_size for record in records}
        pickles = [name for name in sizes if name.endswith('/data.pkl')]
        check(len(pickles) == 1 and len(sizes) == len(records), 'it has no pickle')
        check(sizes[pickles[0]] <= MOST_PICKLE, 'its pickle is too long')
        data = archive.read(pickles[0])
    check_pickle(data)
    SizeReader(data, pickles[0].removesuffix('.pkl'), sizes).load()


def check_pickle(data):
    """Refuse a pickle that names anything but tensors, or that wants room for more than it holds.
    """
    for opcode, argument, _ in pickletools.genops(data):
        is_foreign = opcode.name in FORBIDDEN_OPCODES
        if opcode.name == 'GLOBAL':
            is_foreign = ALLOWED_GLOBALS.fullmatch(argument) is None
        check(not is_foreign, 'it holds something else than tensors and plain values')
        if opcode.name.endswith('PUT'):
            check(int(argument or 0) <= len(data), 'its pickle asks for too much memory')


class SizeReader(pickle.Unpickler):
    """Reads the pickle with a stand-in for each tensor, and compares the numbers that a tensor says
    to have with its part of the archive. Old versions of torch do not, and read beyond it."""

    def __init__(self, data, folder, sizes):
        super().__init__(io.BytesIO(data))
        self.folder = folder  # the parts are called <folder>/0, <folder>/1, ...
        self.sizes = sizes    # name of a part -> bytes

    def find_class(self, module, name):
        if name == 'OrderedDict':
            return OrderedDict
        return name.removesuffix('Storage') if name.endswith('Storage') else no_tensor

    def persistent_load(self, identity):
        kind, storage, key, _, n_numbers = identity
        n_bytes = n_numbers * NUMBER_BYTES[storage]
        check(kind == 'storage' and type(n_numbers) is int and n_numbers >= 0
              and n_bytes <= self.sizes.get(f'{self.folder}/{key}', -1),
              'a tensor is larger than its part of the file')


def no_tensor(*arguments):
    """Stands for the function that makes a tensor."""
    return None


# -----------------------------------------------------------------------------
# values

def checksum(state, file_size=None):
    """A hash (sha256) of all values in a dict, in their order, with their types.

    Raises Damaged for anything but dicts, lists, tuples, plain values and tensors, and for more of
    them than a file of file_size bytes has room for.
    """
    digest = hashlib.sha256()
    n_values = 0
    n_bytes = 0
    most_bytes = math.inf if file_size is None else 2 * file_size + 10**6
    waiting = [state]
    while waiting:
        value = waiting.pop()
        n_values += 1

        # hash the type first, then the content
        if isinstance(value, torch.Tensor):
            check_is_contiguous(value)
            n_bytes += value.numel() * value.element_size()
            check(n_bytes <= most_bytes, 'it holds more than the file')
            digest.update(f'tensor {value.dtype} {tuple(value.shape)}\n'.encode())
            digest.update(tensor_bytes(value))
        elif isinstance(value, dict | list | tuple):
            n_inside = len(value) * (2 if isinstance(value, dict) else 1)
            check(n_values + len(waiting) + n_inside <= MOST_VALUES, 'it holds too many values')
            name = 'dict' if isinstance(value, dict) else type(value).__name__
            digest.update(f'{name} {len(value)}\n'.encode())
            if isinstance(value, dict):
                for key, item in reversed(value.items()):
                    waiting += [item, key]
            else:
                waiting += reversed(value)
        else:
            check(is_plain(value), f'it holds a value of type {type(value).__name__}, or too long')
            text = repr(value)
            n_bytes += len(text)
            check(n_bytes <= most_bytes, 'it holds more than the file')
            digest.update(f'{type(value).__name__} {len(text)} {text}\n'.encode())
    return digest.hexdigest()


def check_is_contiguous(tensor):
    """Refuse views: they can claim more numbers than they hold."""
    is_real = tensor.layout == torch.strided and tensor.is_contiguous()
    check(is_real, 'it holds a tensor that is not a plain block of numbers')


def tensor_bytes(tensor):
    """The numbers of a tensor as bytes, on any device and of any type."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def is_plain(value):
    if isinstance(value, bool | float) or value is None:
        return True
    if isinstance(value, int):
        return -2**63 <= value < 2**64
    return isinstance(value, str) and len(value) <= 10**5


def is_count(value, most=2**63):
    """A whole number from 1 to most. True does not count."""
    return type(value) is int and 1 <= value <= most


# -----------------------------------------------------------------------------
# what a checkpoint is made of

def check_args(args):
    """The arguments: plain values, and lists of them, by name."""
    check(isinstance(args, dict) and isinstance(args.get('script'), str),
          'its arguments name no script')
    for name, value in args.items():
        items = value if isinstance(value, list | tuple) else [value]
        check(isinstance(name, str), 'an argument has no name')
        check(len(items) <= LONGEST_LIST, f'its argument {name} is too long')
        for item in items:
            is_single = is_plain(item) and not (isinstance(item, float) and math.isnan(item))
            check(is_single, f'its argument {name} is NaN or not a plain value')


    processes = args.get('processes', 1)
    check(is_count(processes), 'its argument processes is not a whole number from 1')


def check_config(config, args, n_tensors, file_size):
    """The model's config: types are right, values agree with the arguments, and the model is not
    larger than the file."""
    check(isinstance(config, dict) and config.keys() == GPTConfig.__dataclass_fields__.keys(),
          'its config has other fields than GPTConfig')
    sizes = {}
    for name, field in GPTConfig.__dataclass_fields__.items():
        value = config[name]
        is_number = field.type is float and type(value) is int
        check(type(value) is field.type or is_number,
              f'{name} in its config is not {field.type.__name__}')
        if field.type is int:
            check(is_count(value), f'{name} in its config is not from 1 to 2^63')
            sizes[name] = value
    try:
        GPTConfig(**config)
    except ValueError as error:
        raise Damaged(str(error)[:100]) from error

    # a lower bound on the number of weights, of 4 bytes each
    C = sizes['n_embd']
    n_weights = C * sizes['vocab_size'] + 12 * C * C * sizes['n_layer']
    if config['pos'] == 'learned':
        n_weights += C * sizes['block_size']
    is_possible = (4 * n_weights <= file_size and sizes['n_layer'] <= n_tensors
                   and sizes['n_layer'] * sizes['n_loop'] <= MOST_DEPTH
                   and sizes['block_size'] <= MOST_TOKENS
                   and (config['pos'] != 'rope' or sizes['block_size'] * C <= MOST_ANGLES))
    check(is_possible, 'its config is of a larger model than the file holds')

    for name in IN_BOTH:
        if args.get(name) is not None:
            check(config[name] == args[name], f'{name} is {config[name]} in its config and '
                                              f'{str(args[name])[:20]} in its arguments')


def check_model(weights, fresh):
    """The weights: those of a fresh model by name, shape and type, and finite."""
    expected = fresh.state_dict()
    check(weights.keys() == expected.keys(), 'its model has other weights than its config says')
    for name, tensor in expected.items():
        check_tensor(f'weight {name}', weights[name], tensor.shape, tensor.dtype)
        check(bool(weights[name].isfinite().all()), f'weight {name} is not finite')


def check_tensor(name, tensor, shape, dtype):
    check(isinstance(tensor, torch.Tensor), f'{name} is not a tensor')
    check(tensor.shape == shape, f'{name} has shape {tuple(tensor.shape)}, not {tuple(shape)}')
    check(tensor.dtype == dtype, f'{name} has type {tensor.dtype}, not {dtype}')
    check(not tensor.isnan().any(), f'{name} contains NaN')


def check_optimizer(optimizer, fresh):
    """The optimizer: AdamW with two moments of each weight, after at least one step."""
    check(isinstance(optimizer, dict) and isinstance(optimizer.get('state'), dict)
          and isinstance(optimizer.get('param_groups'), list), 'its optimizer state is invalid')
    fresh_optimizer = fresh.configure_optimizer(learning_rate=1.0, weight_decay=0.0)
    expected = fresh_optimizer.state_dict()['param_groups']
    numbers = [group.get('params') for group in optimizer['param_groups']
               if isinstance(group, dict)]
    check(numbers == [group['params'] for group in expected],
          'its optimizer has other groups of weights')

    # the optimizer numbers the weights group by group
    weights = []
    for group in fresh_optimizer.param_groups:
        weights += group['params']
    check(optimizer['state'].keys() == set(range(len(weights))),
          'its optimizer does not know every weight')
    for i, weight in enumerate(weights):
        moments = optimizer['state'][i]
        check(isinstance(moments, dict) and moments.keys() == ADAM,
              f'its optimizer keeps something else than {", ".join(sorted(ADAM))}')
        for name in ('exp_avg', 'exp_avg_sq'):
            check_tensor(f'{name} of weight {i}', moments[name], weight.shape, weight.dtype)
        check(bool(moments['exp_avg'].isfinite().all()), f'exp_avg of weight {i} is not finite')
        check(bool((moments['exp_avg_sq'] >= 0).all()), f'exp_avg_sq of weight {i} is below 0')
        check_tensor('step of its optimizer', moments['step'], (), torch.float32)
        check(moments['step'] >= 1, 'step of its optimizer is below 1')


def check_step(step, args):
    check(is_count(step), 'its step is not a whole number from 1')
    most = args.get('max_iters')
    if is_count(most):
        check(step <= most, f'its step {step} is beyond the {most} steps of its run')


def check_random_state(rng, rng_cuda):
    """The state of torch's random numbers, and that of each GPU."""
    check(isinstance(rng_cuda, list), 'its random state is invalid')
    for state in [rng, *rng_cuda]:
        is_bytes = isinstance(state, torch.Tensor) and state.dtype == torch.uint8
        check(is_bytes and state.dim() == 1, 'its random state is invalid')
    for state in rng_cuda:
        check(len(state) == 16, 'its random state of a GPU is invalid')  # seed and offset
    try:
        torch.Generator().set_state(rng)
    except (RuntimeError, TypeError) as error:
        raise Damaged('its random state is invalid') from error
