"""What happens if a checkpoint, a log or a config.json is damaged, or comes from a stranger?

Three small runs are trained. Then one file of a copy is damaged in one of many ways, and the copy
is used: to go on with it, to evaluate it, to search with it, to draw it. Each use must end

    with exit code 0 and the same result, to the bit, as with the undamaged file, or
    with exit code 2 and one line that says what is wrong.

A traceback, a crash, more than 10 seconds of work, another result, or a changed checkpoint is a
fault. Many checkpoints are signed: their checksum is right for what they hold, as a stranger could
make it.

    python results/studies/damage.py                    # Linux; half an hour on one quiet core
    python results/studies/damage.py --every 3          # a third of the variants
    python results/studies/damage.py --only weights     # these variants, in every use

Result: results/studies/damage.txt
"""

import argparse
import contextlib
import copy
import hashlib
import io
import json
import os
import pickle
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path


os.environ['OMP_NUM_THREADS'] = '1'
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from errors import one_line_errors

import torch

import capacity
import checkpoint
import jacobi
import plots
import probe
import sample
import search
import train_cot
import train_maze
import train_rl


SCRIPTS = dict(train_cot=train_cot, train_rl=train_rl, train_maze=train_maze, capacity=capacity,
               search=search, jacobi=jacobi, probe=probe, sample=sample, plots=plots)
LIMIT = 10  # seconds that a use may work; it is killed after six times as many on the clock

# how the three runs are trained, up to half of their steps
COMMON = '--n_test 20 --device cpu --batch_size 8'
RUNS = {
    'train_cot': f'--hops 1-2 --nodes 5 --n_embd 8 --steps 8 --eval_interval 4 --mode cot {COMMON}',
    'train_rl': f'--hops 1-2 --nodes 5 --n_embd 8 --steps 8 --log_interval 4 {COMMON}',
    'train_maze': f'--grid 3 --n_layer 1 --n_embd 8 --steps 8 --eval_interval 4 {COMMON}',
}


# -----------------------------------------------------------------------------
# one use, in a process of its own

def use(script, words):
    """Run a script in a forked process. Returns exit code, stdout, stderr, seconds of work.

    The exit code is -n if signal n ended it, -9 if it took far too long.
    """
    began = time.time()
    files = []
    for _ in range(2):
        file = tempfile.TemporaryFile('w+', encoding='utf-8', errors='replace')  # noqa: SIM115
        files.append(file)
    child = os.fork()
    if child == 0:
        for number, file in zip((1, 2), files, strict=True):
            os.dup2(file.fileno(), number)
        run_script(script, words)
    status = None
    while status is None:
        done, found, used = os.wait4(child, os.WNOHANG)
        if done:
            status = found
        elif time.time() - began > 6 * LIMIT:
            os.kill(child, signal.SIGKILL)
            _, status, used = os.wait4(child, 0)
        else:
            time.sleep(0.005)
    texts = []
    for file in files:
        file.seek(0)
        texts.append(file.read())
        file.close()
    return os.waitstatus_to_exitcode(status), *texts, used.ru_utime + used.ru_stime


def run_script(script, words):
    """In the child: the script as on the command line. Never returns."""
    sys.stdout = io.TextIOWrapper(os.fdopen(1, 'wb'), encoding='utf-8', write_through=True)
    sys.stderr = io.TextIOWrapper(os.fdopen(2, 'wb'), encoding='utf-8', write_through=True)
    sys.argv = [f'{script}.py']
    code = 1
    try:
        with one_line_errors():
            SCRIPTS[script].main(words)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def words_of(text):
    return text.split()


def result_of(folder, stdout):
    """What a use led to: the weights, the log and the last line, without times."""
    weights = ''
    path = folder / 'ckpt.pt'
    if path.exists():
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            state = torch.load(path, weights_only=True)
            weights = checkpoint.checksum({'model': state['model'], 'step': state['step'],
                                           'optimizer': state['optimizer']['state']})
    log = ''
    if (folder / 'log.jsonl').exists():
        log = (folder / 'log.jsonl').read_bytes().decode('utf-8', 'replace')
    return weights, without_times(log), without_times(stdout)


def without_times(text):
    """Without seconds, and without the notes that a resumed run prints about its folder."""
    text = re.sub(r'"?seconds"?[=:] ?[\d.]+', '', text)
    finals = [line for line in text.split('\n') if line.startswith(('final', '{'))]
    return '\n'.join(finals)


# -----------------------------------------------------------------------------
# damaged bytes

def byte_variants(content, rng):
    """(name, bytes): a checkpoint with flipped bits, cut short, with holes, with more."""
    for i in range(60):
        changed = bytearray(content)
        place = rng.randrange(len(content))
        changed[place] ^= 1 << rng.randrange(8)
        yield f'bit {i} flipped at {place}', bytes(changed)
    for i in range(12):
        length = rng.randrange(len(content))
        yield f'cut {i} to {length} bytes', content[:length]
    for i in range(8):
        place = rng.randrange(len(content))
        yield f'hole {i} at {place}', content[:place] + bytes(512) + content[place + 512:]
    yield 'bytes before', b'x' * 100 + content
    yield 'bytes after', content + b'x' * 100
    yield 'empty', b''
    yield 'zeros', bytes(len(content))
    yield 'text', b'hello\n' * 100
    yield 'a pickle', pickle.dumps({'model': 1})
    yield 'bomb', pickle.dumps(Bomb())


class Bomb:
    """Unpickling it runs code."""

    def __reduce__(self):
        return os.system, ('touch exploded',)


def old_format(state, **options):
    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()


def archive_variants(content, state):
    """(name, bytes): the same values in archives that torch.save does not write."""
    yield 'format of torch before 1.6', old_format(state, _use_new_zipfile_serialization=False)
    compressed = io.BytesIO()
    records = records_of(content)
    with zipfile.ZipFile(compressed, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    yield 'compressed', compressed.getvalue()
    yield 'zip bomb', zip_bomb(content)
    yield 'code in the pickle', checkpoint.to_bytes(state).replace(
        b'collections\nOrderedDict', b'posix\nsystem\n#' + b'x' * 10)
    yield 'storage of 2^40 numbers', forged_storage(content)


def records_of(content):
    """{name: bytes} of the parts of an archive."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_bomb(content):
    """An archive of which one part unpacks to 4 GB."""
    file = io.BytesIO()
    records = records_of(content)
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in records.items():
            if not name.endswith('/data/0'):
                archive.writestr(name, data)
                continue
            with archive.open(name, 'w', force_zip64=True) as part:
                for _ in range(400):
                    part.write(bytes(10**7))
    return file.getvalue()


def forged_storage(content):
    """The pickle says that the first tensor has 2^40 numbers. The sums of the archive are right."""
    file = io.BytesIO()
    records = records_of(content)
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED) as archive:
        for name, data in records.items():
            if name.endswith('/data.pkl'):
                # pickle writes small numbers as K and a byte, large ones as 8a, length, bytes
                place = data.index(b'cpu')
                large = b'\x8a\x06' + bytes(5) + b'\x01'
                number = data.index(b'K', place)
                after = data[place:number] + large + data[number + 2:]
                data = data[:place] + after
            archive.writestr(name, data)
    return file.getvalue()


# -----------------------------------------------------------------------------
# damaged values

ODD = (0, -1, 2**31, 10**12, 2**63 - 1, 1.5, float('nan'), float('inf'), True, None, 'x', '', [],
       [1], {}, torch.tensor(1))


def value_variants(state):
    """(name, dict): checkpoints with one value changed."""
    def changed(path, value, delete=False):
        new = copy.deepcopy(state)
        inner = new
        for key in path[:-1]:
            inner = inner[key]
        if delete:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        return new

    # the config, the arguments, and what stands beside them
    for name in state['config']:
        for value in ODD:
            yield f'config {name}={short(value)}', changed(('config', name), value)
        yield f'config without {name}', changed(('config', name), 0, delete=True)
    for name, old in state['args'].items():
        for value in ODD[::3] if old is not None else ODD[9::4]:
            yield f'args {name}={short(value)}', changed(('args', name), value)
    for name in state:
        yield f'without {name}', changed((name,), 0, delete=True)
        for value in ODD:
            yield f'{name}={short(value)}', changed((name,), value)
    yield 'another field', state | {'more': 3}
    yield 'two models with the same loops', changed(('config', 'n_loop'), 2)
    both = changed(('config', 'n_loop'), 10**9)
    both['args']['n_loop'] = 10**9
    yield 'n_loop=10^9 in config and args', both
    both = changed(('config', 'n_layer'), 10**9)
    both['args']['n_layer'] = 10**9
    yield 'n_layer=10^9 in config and args', both

    # weights
    name = 'blocks.0.fc.weight'
    weight = state['model'][name]
    for label, value in tensor_variants(weight):
        yield f'weights {label}', changed(('model', name), value)
    yield 'weights one is missing', changed(('model', name), 0, delete=True)
    yield 'weights one more', changed(('model', 'blocks.7.fc.weight'), weight.clone())
    for dtype in (torch.float16, torch.float64):
        weights = {name: tensor.to(dtype) for name, tensor in state['model'].items()}
        yield f'weights all {dtype}', state | {'model': weights}
    yield 'weights one changed', changed(('model', name), weight + 1e-3)

    # the optimizer
    moments = state['optimizer']['state'][0]
    for label, value in tensor_variants(moments['exp_avg']):
        for moment in ('exp_avg', 'exp_avg_sq'):
            yield f'optimizer {moment} {label}', changed(('optimizer', 'state', 0, moment), value)
    yield 'optimizer exp_avg_sq below 0', changed(
        ('optimizer', 'state', 0, 'exp_avg_sq'), -moments['exp_avg_sq'] - 1)
    for value in (torch.tensor(float('nan')), torch.tensor(-1.0), torch.tensor([1.0]), 3, 'x',
                  torch.tensor(1e30), torch.tensor(4)):
        yield f'optimizer step={short(value)}', changed(('optimizer', 'state', 0, 'step'), value)
    for moment in moments:
        yield f'optimizer without {moment}', changed(('optimizer', 'state', 0, moment), 0, True)
    yield 'optimizer without weight 0', changed(('optimizer', 'state', 0), 0, delete=True)
    yield 'optimizer without moments', changed(('optimizer', 'state'), {})
    yield 'optimizer without groups', changed(('optimizer', 'param_groups'), [])
    for name in state['optimizer']['param_groups'][0]:
        for value in (None, -1, 'x', True, [0] * 1000):
            yield (f'optimizer group {name}={short(value)}',
                   changed(('optimizer', 'param_groups', 0, name), value))

    # random state
    for label, value in tensor_variants(state['rng']):
        yield f'rng {label}', changed(('rng',), value)
    yield 'rng of zeros', changed(('rng',), torch.zeros_like(state['rng']))
    yield 'rng_cuda of nothing', changed(('rng_cuda',), [torch.zeros(0)])

    # shapes of data
    deep = []
    for _ in range(100):
        deep = [deep]
    yield 'a deep list', state | {'more': deep}
    shared = [1]
    for _ in range(40):
        shared = [shared, shared]
    yield 'a list of 2^40 values', state | {'more': shared}
    circle = []
    circle.append(circle)
    yield 'a list that holds itself', state | {'more': circle}
    yield 'a long text', state | {'more': 'x' * 10**7}
    yield 'a list instead of a dict', [state]


def tensor_variants(tensor):
    """(label, value): what should not stand in the place of this tensor."""
    yield 'of another shape', torch.zeros(3, 5, dtype=tensor.dtype)
    yield 'flat', tensor.flatten()[:-1].clone()
    yield 'transposed', tensor.t().clone() if tensor.dim() == 2 else tensor[None].clone()
    yield 'empty', torch.zeros(0, dtype=tensor.dtype)
    yield 'huge', torch.zeros(1, dtype=tensor.dtype).expand(10**6, 10**6)
    yield 'strided', torch.zeros(1, dtype=tensor.dtype).expand(tensor.shape)
    yield 'sparse', torch.eye(4).to_sparse()
    yield 'a number', 3
    yield 'a list', tensor.flatten()[:8].tolist()
    yield 'None', None
    if tensor.is_floating_point():
        for name, value in (('NaN', float('nan')), ('inf', float('inf'))):
            bad = tensor.clone()
            bad.view(-1)[0] = value
            yield f'with {name}', bad
        for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.complex64):
            yield f'as {dtype}', tensor.to(dtype)


def short(value):
    if isinstance(value, torch.Tensor):
        return f'tensor({value.tolist()})'[:24]
    return repr(value)[:24]


def written(state, signed):
    """The bytes of a changed checkpoint. signed: with the right checksum, if it has one at all."""
    if signed and isinstance(state, dict):
        content = {name: value for name, value in state.items() if name != 'checksum'}
        try:
            return checkpoint.to_bytes(content)
        except Exception:  # there is no checksum of such a thing
            pass
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


# -----------------------------------------------------------------------------
# damaged text

def log_variants(content):
    """(name, bytes): a damaged log.jsonl."""
    lines = content.split(b'\n')
    odd_lines = {
        'bytes that are no UTF-8': b'\xff\xfe\x80',
        'NUL': b'\0' * 50,
        'half a record': b'{"arm": "c',
        'a list': b'[1, 2]',
        'a number': b'3',
        'a text': b'"x"',
        'null': b'null',
        'an empty dict': b'{}',
        'a deep list': b'[' * 100000,
        'a deep dict': b'{"a":' * 100000,
        'a record without step': b'{"arm": "cot", "loss": 1}',
        'a step that is a text': b'{"arm": "cot", "step": "x", "loss": 1}',
        'a step that is null': b'{"arm": "cot", "step": null, "loss": null}',
        'an infinite step': b'{"arm": "rl", "step": Infinity, "loss": NaN}',
        'a step of 5,000 digits': b'{"arm": "cot", "step": ' + b'9' * 5000 + b'}',
        'an arm that is a list': b'{"arm": [1], "step": 1}',
        'an eval that is a text': b'{"arm": "cot", "step": 1, "eval": "x"}',
        'an eval of nothing': b'{"arm": "cot", "step": 1, "eval": {}}',
        'an eval of other hops': b'{"arm": "cot", "step": 1, "eval": {"x": {"acc": "y"}}}',
        'an eval of many hops': b'{"arm": "cot", "step": 1, "eval": {"1000000000000": {"acc": 1}}}',
        'a final that is empty': b'{"arm": "final"}',
    }
    for name, line in odd_lines.items():
        middle = len(lines) // 2
        yield f'{name} in the middle', b'\n'.join([*lines[:middle], line, *lines[middle:]])
        yield f'{name} at the end', content + line
        yield f'{name} alone', line + b'\n'
    yield 'empty', b''
    yield 'without line breaks', content.replace(b'\n', b' ')
    yield 'with line breaks of Windows', content.replace(b'\n', b'\r\n')
    yield 'UTF-16', content.decode().encode('utf-16')
    yield 'each record twice', b'\n'.join(line + b'\n' + line for line in lines)
    yield 'cut short', content[:-20]


def config_variants(content):
    """(name, bytes): a damaged config.json."""
    config = json.loads(content)
    for name, text in dict(
            empty=b'', bytes_that_are_no_utf8=b'\xff\xfe', nul=b'\0' * 100, a_list=b'[1]',
            a_number=b'3', null=b'null', cut_short=content[:50], a_deep_list=b'[' * 100000,
            a_deep_dict=b'{"args":' * 100000, no_args=b'{}', args_are_a_list=b'{"args": [1]}',
            args_are_null=b'{"args": null}', args_are_empty=b'{"args": {}}').items():
        yield name.replace('_', ' '), text
    for name in ('script', 'seed', 'max_iters', 'hops', 'nodes', 'out_dir', 'grid', 'device'):
        for value in ('x', None, [1], {}, 1e400, -1, 10**30):
            if name in config['args']:
                text = json.dumps(config | {'args': config['args'] | {name: value}})
                yield f'args {name}={short(value)}', text.encode()
    for name in ('params', 'chance'):
        for value in ('x', None, [1], {'x': 'y'}, 1e400):
            yield f'{name}={short(value)}', json.dumps(config | {name: value}).encode()


# -----------------------------------------------------------------------------
# everything in order

def uses_of(script, kind):
    """(name, script, words) with {folder} for the folder."""
    resume = ('resume', script, f'{RUNS[script]} --resume --out_dir {{folder}}')
    again = ('start over', script, f'{RUNS[script]} --out_dir {{folder}}')
    draw = ('plots', 'plots', '{folder}')
    if kind != 'ckpt.pt':
        return [resume, again, draw]
    uses = [resume, ('eval_only', script, '--eval_only --ckpt {folder}/ckpt.pt'),
            ('sample', 'sample', '--ckpt {folder}/ckpt.pt --n 1')]
    if script == 'train_cot':
        uses.append(('search', 'search', '--ckpt {folder}/ckpt.pt --k 2 --n_test 5 --out_dir '
                                         '{folder}/search'))
        uses.append(('jacobi', 'jacobi', '--ckpt {folder}/ckpt.pt --n_test 5 --out_dir '
                                         '{folder}/jacobi'))
        uses.append(('init_from', 'train_rl', '--init_from {folder}/ckpt.pt --nodes 5 --hops 1-2 '
                                              f'--steps 1 {COMMON} --out_dir {{folder}}/rl'))
    return uses


def variants_of(script, folder):
    """(kind of file, name, bytes)."""
    rng = random.Random(script)
    content = (folder / 'ckpt.pt').read_bytes()
    state = torch.load(folder / 'ckpt.pt', weights_only=True)
    for name, damaged in byte_variants(content, rng):
        yield 'ckpt.pt', name, damaged
    for name, damaged in archive_variants(content, state):
        yield 'ckpt.pt', name, damaged
    for i, (name, damaged) in enumerate(value_variants(state)):
        if script != 'train_cot' and i % 3 > 0:  # of the other runs one in three
            continue
        # Two in three are signed. Not with another seed or weight: that is a whole checkpoint.
        signed = i % 7 > 2 and not name.startswith(('args seed', 'weights one changed'))
        yield 'ckpt.pt', f'{name}{", signed" if signed else ""}', written(damaged, signed)
    for name, damaged in log_variants((folder / 'log.jsonl').read_bytes()):
        yield 'log.jsonl', name, damaged
    for name, damaged in config_variants((folder / 'config.json').read_bytes()):
        yield 'config.json', name, damaged


def fault_of(code, err, seconds, same):
    """What is wrong with this use, or None."""
    if seconds > LIMIT:
        return 'more than 10 seconds of work'
    if code < 0:
        return f'ended by signal {-code}'
    if 'Traceback' in err:
        return 'traceback: ' + err.strip().split('\n')[-1][:120]
    if code == 0:
        return None if same else 'another result'
    lines = [line for line in err.strip().split('\n') if line]
    return None if code == 2 and len(lines) == 1 else f'exit code {code}, {len(lines)} lines'


def train_half(script, folder):
    """A run that was stopped at half of its steps, as a kill would leave it."""
    saved = SCRIPTS[script].common.Run.save

    def save_once(run, *args, **more):
        if not (run.out_dir / 'ckpt.pt').exists():
            saved(run, *args, **more)
            os._exit(0)

    child = os.fork()
    if child == 0:
        with open(os.devnull, 'w') as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        SCRIPTS[script].common.Run.save = save_once
        SCRIPTS[script].main(words_of(f'{RUNS[script]} --out_dir {folder}'))
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status == 0, f'{script} could not be trained'


def try_all(script, work, only, every, counts):
    """Damage every file of a run in every way, and use it in every way. Prints the faults."""
    whole = work / script
    train_half(script, whole)
    expected = {}
    for kind in ('ckpt.pt', 'log.jsonl'):
        for name, user, words in uses_of(script, kind):
            folder = work / 'copy'
            shutil.copytree(whole, folder)
            code, out, err, _ = use(user, words_of(words.format(folder=folder)))
            assert code == (2 if name == 'start over' else 0), (script, name, err)
            expected[name] = result_of(folder, out)
            shutil.rmtree(folder)

    for i, (kind, variant, content) in enumerate(variants_of(script, whole)):
        if only not in f'{kind} {variant}' or i % every > 0:
            continue
        if i % 50 == 0:
            print(f'{script}: {i} variants', file=sys.stderr, flush=True)
        uses = uses_of(script, kind)
        if kind == 'ckpt.pt' and not only:  # one use of each, in turn
            uses = [uses[i // every % len(uses)]]
        for name, user, words in uses:
            folder = work / 'copy'
            shutil.copytree(whole, folder)
            path = folder / kind
            path.write_bytes(content)
            before = hashlib.sha256((folder / 'ckpt.pt').read_bytes()).digest()
            code, out, err, seconds = use(user, words_of(words.format(folder=folder)))

            # Is the result the same? A log that was damaged may have lost records, and a figure
            # of it may be another one.
            result = result_of(folder, out)
            same = result == expected[name]
            if kind != 'ckpt.pt':
                same = name != 'resume' or result[0] == expected[name][0]
            fault = fault_of(code, err, seconds, same)
            if fault is None and code == 2:
                after = hashlib.sha256((folder / 'ckpt.pt').read_bytes()).digest()
                if before != after:
                    fault = 'the checkpoint was changed'
            if fault is None and (folder / 'exploded').exists():
                fault = 'code ran'
            shutil.rmtree(folder)

            key = (script, kind)
            counts.setdefault(key, dict(variants=set(), uses=0, refused=0, same=0, faults=0))
            row = counts[key]
            row['variants'].add(variant)
            row['uses'] += 1
            row['refused'] += code == 2
            row['same'] += code == 0 and same
            row['faults'] += fault is not None
            if fault is not None:
                print(f'FAULT {script} {kind}: {variant}: {name}: {fault}', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--only', default='', help='variants with this text in their name')
    parser.add_argument('--every', type=int, default=1, help='only every so many-th variant')
    parser.add_argument('--run', choices=RUNS, help='only the files of this script')
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ['MPLBACKEND'] = 'Agg'
    began = time.time()
    counts = {}
    try:
        with tempfile.TemporaryDirectory() as work:
            os.chdir(work)
            for script in [args.run] if args.run else RUNS:
                try_all(script, Path(work), args.only, args.every, counts)
    finally:
        print_table(counts, time.time() - began)


def print_table(counts, seconds):
    """What was tried so far, one line for each kind of file of each run."""
    print(f'{"run":12} {"file":12} {"variants":>9} {"uses":>6} {"refused":>8} {"same":>6} '
          f'{"faults":>7}')
    for (script, kind), row in counts.items():
        print(f'{script:12} {kind:12} {len(row["variants"]):9} {row["uses"]:6} {row["refused"]:8} '
              f'{row["same"]:6} {row["faults"]:7}')
    n_variants = sum(len(row['variants']) for row in counts.values())
    n_uses = sum(row['uses'] for row in counts.values())
    n_faults = sum(row['faults'] for row in counts.values())
    print(f'{n_variants} variants, {n_uses} uses, {n_faults} faults, {seconds:.0f} seconds')


if __name__ == '__main__':
    main()
