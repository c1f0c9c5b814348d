"""Checkpoints are data from strangers: what is not as this repository writes it is refused in one
line, and the file is left alone."""

import copy
import io
import os
import pickle
import zipfile

import pytest
import torch
from conftest import save_checkpoint

import checkpoint
from checkpoint import checksum, load_checkpoint, to_bytes
from model import GPT, GPTConfig


@pytest.fixture(scope='module')
def state():
    """What a training of one step saves."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=7, block_size=5, n_layer=2, n_embd=8))
    optimizer = model.configure_optimizer(1e-2, 0.1)
    model(torch.tensor([[1, 2, 3]])).square().mean().backward()
    optimizer.step()
    args = dict(script='train_cot', n_layer=2, n_loop=1, max_iters=10, hops=[1, 2], dropout=None)
    return dict(
        model=model.state_dict(), config=vars(model.config), optimizer=optimizer.state_dict(),
        step=1, args=args, mode='cot', rng=torch.get_rng_state(), rng_cuda=[], curve=[(1, 0.5)])


def changed(state, path, value):
    """A copy of the dict with the value at this path, a list of keys, replaced."""
    new = copy.deepcopy(state)
    inner = new
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return new


def refusal(content, tmp_path, match='is not a checkpoint'):
    """The line that refuses these bytes. The file stays as it is."""
    path = tmp_path / 'ckpt.pt'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match) as error:
        load_checkpoint(path)
    message = str(error.value)
    assert str(path) in message and '\n' not in message and len(message) < 400 + len(str(path))
    assert path.read_bytes() == content
    return message


def test_what_is_written_is_read(state, tmp_path):
    path = tmp_path / 'ckpt.pt'
    path.write_bytes(to_bytes(state))
    before = torch.get_rng_state()
    model, loaded = load_checkpoint(path)
    assert checksum(loaded) == checksum(state) and loaded.keys() == state.keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, state['model'][name])
    # a plain torch.load reads it, too
    assert torch.load(path, weights_only=True)['step'] == 1
    # random numbers are drawn for the new model alone, as if nothing had been checked
    found = torch.get_rng_state()
    torch.set_rng_state(before)
    GPT(GPTConfig(**state['config']))
    assert torch.equal(found, torch.get_rng_state())


def test_the_checksum_sees_every_change(state):
    """Values, their types, their order and their names."""
    known = {checksum(state)}
    for path, value in (
            (['step'], 2), (['step'], True), (['step'], 1.0), (['args', 'hops'], (1, 2)),
            (['args', 'hops'], [2, 1]), (['args', 'hops'], [1, 2, None]), (['args', 'x'], None),
            (['model', 'ln_f.weight'], state['model']['ln_f.weight'] + 1e-6),
            (['model', 'ln_f.weight'], state['model']['ln_f.weight'][None]),
            (['model', 'ln_f.weight'], state['model']['ln_f.weight'].view(torch.int32)),
            (['curve'], [(1, 0.5), ()]), (['curve'], [(1,), 0.5]), (['mode'], 'cot '),
            (['mode'], 'co'), (['args', 'script'], 'train_cot 1')):
        known.add(checksum(changed(state, path, value)))
    assert len(known) == 16


# -----------------------------------------------------------------------------
# the file

def test_no_flipped_bit_makes_a_difference(state, tmp_path):
    """Every 797th byte: the file is refused, or what is read is the same."""
    content = to_bytes(state)
    expected = checksum(state)
    path = tmp_path / 'ckpt.pt'
    n_refused = 0
    places = range(0, len(content), 797)
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            _, loaded = load_checkpoint(path)
            assert checksum(loaded) == expected, place
        except ValueError as error:
            n_refused += 1
            assert str(path) in str(error)
    assert n_refused > len(places) / 2


class Bomb:
    """Unpickling it runs code."""

    def __reduce__(self):
        return os.mkdir, ('exploded',)


def rewritten(content, compression=zipfile.ZIP_STORED, change=None):
    """The archive with other compression, or its pickle changed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, 'w', compression) as archive:
        for name, data in parts.items():
            if change is not None and name.endswith('data.pkl'):
                data = change(data)
            archive.writestr(name, data)
    return file.getvalue()


def larger_storage(data):
    """The first tensor says that its part of the archive holds 2^40 numbers."""
    place = data.index(b'K', data.index(b'cpu'))
    return data[:place] + b'\x8a\x06' + bytes(5) + b'\x01' + data[place + 2:]


def test_files_that_are_no_such_archive(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = to_bytes(state)
    old_format = io.BytesIO()
    torch.save(state, old_format, _use_new_zipfile_serialization=False)
    for damaged in (b'', b'hello', bytes(1000), content[:100], content[:-100],
                    pickle.dumps(Bomb()), old_format.getvalue()):
        refusal(damaged, tmp_path)
    refusal(rewritten(content, zipfile.ZIP_DEFLATED), tmp_path, 'compressed')
    code = rewritten(content, change=lambda data: b'\x80\x02' + pickle.dumps(Bomb(), 2)[2:])
    refusal(code, tmp_path, 'something else than tensors')
    modern = rewritten(content, change=lambda data: pickle.dumps(Bomb(), 4))
    refusal(modern, tmp_path, 'something else than tensors')
    refusal(rewritten(content, change=larger_storage), tmp_path, 'larger than its part')
    assert not (tmp_path / 'exploded').exists()


def test_what_is_no_file(tmp_path):
    for path in (tmp_path / 'nowhere.pt', '/dev/null'):
        with pytest.raises(ValueError, match='there is no checkpoint'):
            load_checkpoint(path)
    with pytest.raises(ValueError, match='is a folder, not a checkpoint: name another'):
        load_checkpoint(tmp_path)
    if hasattr(os, 'mkfifo'):
        os.mkfifo(tmp_path / 'fifo')
        with pytest.raises(ValueError, match='there is no checkpoint'):
            load_checkpoint(tmp_path / 'fifo')


# -----------------------------------------------------------------------------
# values. All of these have the right checksum

NAN = float('nan')
MOMENT = ['optimizer', 'state', 0, 'exp_avg']
WEIGHT = ['model', 'blocks.0.fc.weight']
WRONG = [
    # (path, value, what the line says)
    (['config', 'n_loop'], 2, 'n_loop is 2 in its config and 1'),
    (['config', 'n_loop'], 10**12, 'larger model'),
    (['config', 'n_layer'], 3, 'n_layer is 3 in its config and 2'),
    (['config', 'n_layer'], 10**12, 'larger model'),
    (['config', 'n_layer'], True, 'n_layer in its config is not int'),
    (['config', 'n_embd'], 16, 'shape'),
    (['config', 'n_embd'], 10**9, 'larger model'),
    (['config', 'n_embd'], 8.0, 'n_embd in its config is not int'),
    (['config', 'n_embd'], 0, 'n_embd'),
    (['config', 'vocab_size'], 2**63, 'larger model'),
    (['config', 'block_size'], 10**11, 'larger model'),
    (['config', 'block_size'], 6, 'shape'),
    (['config', 'n_head'], 3, 'does not divide'),
    (['config', 'causal'], 1, 'causal in its config is not bool'),
    (['config', 'pos'], 'rope', 'other weights'),
    (['args', 'processes'], None, 'processes'),
    (['args', 'hops'], [1] * 1001, 'too long'),
    (['config', 'pos'], 'x' * 1000, 'pos must be'),
    (['config', 'dropout'], NAN, 'dropout'),
    (['config', 'bias'], True, 'other fields'),
    (['config'], None, 'other fields'),
    (['args'], [], 'no script'),
    (['args', 'script'], 3, 'no script'),
    (['args', 'hops'], [[1]], 'argument hops'),
    (['args', 'hops'], NAN, 'argument hops'),
    (['args', 'hops'], 2**70, 'type int'),
    (['args', 3], 3, 'no name'),
    (WEIGHT, torch.zeros(3, 5), 'shape'),
    (WEIGHT, torch.zeros(32, 8).half(), 'type torch.float16'),
    (WEIGHT, torch.zeros(32, 8).double(), 'type torch.float64'),
    (WEIGHT, torch.full((32, 8), NAN), 'contains NaN'),
    (WEIGHT, torch.full((32, 8), float('inf')), 'not finite'),
    (WEIGHT, torch.zeros(1).expand(32, 8), 'not a plain block'),
    (WEIGHT, torch.zeros(8, 32).t(), 'not a plain block'),
    (WEIGHT, torch.eye(8).to_sparse(), 'something else'),
    (WEIGHT, 3, 'not a tensor'),
    (['model', 'more'], torch.zeros(1), 'other weights'),
    (['model'], [], 'model is not a dict'),
    (MOMENT, torch.zeros(2, 2), 'shape'),
    (MOMENT, torch.zeros(7, 8).double(), 'type'),
    (MOMENT, torch.full((7, 8), NAN), 'contains NaN'),
    (MOMENT, None, 'not a tensor'),
    (['optimizer', 'state', 0, 'exp_avg_sq'], -torch.ones(7, 8), 'below 0'),
    (['optimizer', 'state', 0, 'step'], torch.tensor(NAN), 'contains NaN'),
    (['optimizer', 'state', 0, 'step'], torch.tensor(0.0), 'below 1'),
    (['optimizer', 'state', 0, 'step'], 1, 'not a tensor'),
    (['optimizer', 'state', 0, 'max_exp_avg_sq'], torch.zeros(7, 8), 'keeps something else'),
    (['optimizer', 'state', 0], {}, 'keeps something else'),
    (['optimizer', 'state', 99], {}, 'does not know'),
    (['optimizer', 'state'], {}, 'does not know'),
    (['optimizer', 'param_groups'], [], 'groups'),
    (['optimizer', 'param_groups', 0, 'params'], [0], 'groups'),
    (['optimizer'], None, 'optimizer state is invalid'),
    (['step'], 0, 'step is not a whole number'),
    (['step'], 1.0, 'step is not a whole number'),
    (['step'], NAN, 'step is not a whole number'),
    (['step'], 11, 'beyond the 10 steps'),
    (['mode'], 'chain', 'mode'),
    (['mode'], None, 'mode'),
    (['rng'], torch.zeros(5056, dtype=torch.uint8), 'random state'),
    (['rng'], torch.zeros(10, dtype=torch.uint8), 'random state'),
    (['rng'], torch.zeros(5056), 'random state'),
    (['rng_cuda'], [torch.zeros(3, dtype=torch.uint8)], 'random state'),
    (['rng_cuda'], 3, 'random state'),
    (['curve'], 2**64, 'type int'),
    (['curve'], 'x' * 10**6, 'too long'),
]


@pytest.mark.parametrize('path, value, match', WRONG)
def test_wrong_values_are_refused_whatever_the_checksum_says(path, value, match, state, tmp_path):
    damaged = changed(state, path, value)
    with pytest.MonkeyPatch.context() as patch:  # a stranger signs what cannot be signed, too
        patch.setattr(checkpoint, 'is_plain', lambda value: True)
        try:
            content = to_bytes(damaged)
        except Exception:  # a sparse tensor has no bytes
            file = io.BytesIO()
            torch.save(damaged, file)
            content = file.getvalue()
    refusal(content, tmp_path, match)


@pytest.mark.parametrize('name', checkpoint.KEYS)
def test_nothing_may_be_missing(name, state, tmp_path):
    rest = {key: value for key, value in state.items() if key != name}
    refusal(to_bytes(rest), tmp_path, f'it has no {name}')


def test_other_weights_do_not_fit_the_checksum(state, tmp_path):
    """What is possible, but is not what was written."""
    file = io.BytesIO()
    other = changed(state, WEIGHT, state['model'][WEIGHT[1]] + 1e-3)
    torch.save(other | {'checksum': checksum(state)}, file)
    refusal(file.getvalue(), tmp_path, 'checksum does not fit')
    file = io.BytesIO()
    torch.save(state, file)
    refusal(file.getvalue(), tmp_path, 'no checksum')


def test_values_without_end(state, tmp_path):
    circle = []
    circle.append(circle)
    shared = [1]
    for _ in range(40):
        shared = [shared, shared]
    deep = []
    for _ in range(300):
        deep = [deep]
    wide = []
    wide += [wide] * 20000
    text = 'x' * 90000
    weight = state['model'][WEIGHT[1]]
    for more, match in ((circle, 'too many'), (shared, 'too many'), (wide, 'too many'),
                        ([text] * 10000, 'more than the file'), (deep, 'checksum'),
                        ([weight] * 10000, 'more than the file')):
        file = io.BytesIO()
        torch.save(state | {'more': more}, file)
        refusal(file.getvalue(), tmp_path, match)


def test_rotary_positions_take_no_more_memory_than_a_file_can_ask_for(state, tmp_path):
    damaged = copy.deepcopy(state)
    damaged['config'] |= dict(pos='rope', block_size=2**22)
    del damaged['model']['wpe.weight']
    refusal(to_bytes(damaged), tmp_path, 'larger model')


def test_a_model_of_many_layers_is_read_in_time(tmp_path):
    """The checks take time that grows as the number of tensors, no faster."""
    model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=60, n_embd=4))
    path = tmp_path / 'ckpt.pt'
    save_checkpoint(path, model, dict(script='x'), 'cot')
    assert checksum(load_checkpoint(path)[1]) and len(model.state_dict()) > 480
