"""What every run needs and no experiment is about.

    Run              one run of a script: device, processes, folder, checkpoints, signals
    add_run_args     the flags that every script takes
    parse_args       a script's arguments; with --eval_only those of the checkpoint
    default_folder   the folder of a run, named after what was typed
    load_model       a trained model and its task, for use from Python
    load_checkpoint  a trained model, and everything else that a checkpoint holds (checkpoint.py)
    final_line       the last line of every script

Scripts call this file. Nothing here calls a script, and nothing here knows a task or a loss.
Bad input raises ValueError. A run that cannot go on raises RunEnded. On the command line both end
in one line on stderr and an exit code (errors.py). How files are written is in files.py.
"""

from errors import RunEnded, script_name

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist

# Not used here, but it must be imported before there is a process group. Else an optimizer imports
# it, and its default arguments keep the group and gloo's threads alive at the end of the process.
import torch.distributed.nn
from torch.nn.parallel import DistributedDataParallel as DDP
from tqdm import tqdm

from checkpoint import load_checkpoint, to_bytes
from countdown import Countdown
from data import (
    CVPR,
    SPLITS,
    TUNING_SPLITS,
    Cycle,
    Multiply,
    Star,
    format_range,
    make_task,
    require,
    seed_number,
)
from files import (
    Lock,
    append_record,
    count_damaged_lines,
    cut_log,
    is_lock,
    is_temporary,
    read_config,
    read_log,
    remove_temporaries,
    sync,
    write_atomic,
)
from maze import Maze
from profiles import Profiles


ALL_TASKS = (Cycle, CVPR, Multiply, Star, Countdown, Profiles, Maze)  # for load_model
NOT_SETTINGS = ('out_dir', 'resume', 'eval_only', 'verbose')  # they do not change a result
HARDWARE = ('device', 'dtype')  # settings that may differ between runs of one folder
SCHEDULE = ('max_iters', 'warmup_iters', 'eval_interval', 'log_interval')  # of a longer run
START_OVER = 'delete it, and --resume starts over'  # what to do about a damaged checkpoint
STEPS_IN_NAME = r'-(?:steps|max_iters)_[0-9]+'  # of a folder
RUN_FILES = ('ckpt*.pt', 'log.jsonl', 'models-*.jsonl', 'results.json', 'examples.json',
             'plot.png', 'compare.png')  # + config.json


# -----------------------------------------------------------------------------
# arguments

def add_run_args(parser, trains=True):
    """The flags of every script."""
    add = parser.add_argument_group('run').add_argument
    add('--device', default='auto', help='auto (cuda, then mps, then cpu) or a name')
    add('--dtype', metavar='TYPE', choices=('auto', 'float32', 'bfloat16'), default='auto',
        help='float32, bfloat16 or auto: bfloat16 on cuda alone')
    add('--seed', type=seed_number, default=1337, help='decides every random number')
    add('--out_dir', metavar='DIR',
        help='folder of the run (default: out/<script>-<what was typed>)')
    if trains:
        add('--tune', action='store_true', default=None,  # None: absent, as in older runs
            help='evaluate on training instances that are left out, not on the test')
        add('--resume', action='store_true',
            help='go on from the checkpoint in out_dir; larger --steps extend the run')
        add('--eval_only', action='store_true', help='evaluate --ckpt; train and write nothing')
        add('--ckpt', metavar='FILE', help='checkpoint for --eval_only')


def splits(args):
    """The split to train on, and the one to evaluate on."""
    return TUNING_SPLITS if args.tune else SPLITS


def parse_args(parser, argv, script, free=()):
    """The arguments of a script. argv: a list of words, or None for the command line.

    With --eval_only they are those that the checkpoint was trained with. Only the `free` ones can
    be given anew. Raises ValueError for others, and for the checkpoint of another script.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_args(argv)
    can_eval_only = 'eval_only' in args
    if can_eval_only and args.eval_only:
        require(args.ckpt, '--eval_only needs a checkpoint: --eval_only --ckpt out/.../ckpt.pt')
        require(not (args.resume or args.out_dir),
                '--eval_only writes nothing: leave --resume and --out_dir out')
        return parse_eval_only(parser, argv, script, free, args.ckpt)

    require(not (can_eval_only and args.ckpt),
            '--ckpt goes with --eval_only; to go on with a training, use --resume')
    if args.out_dir is None:
        args.out_dir = default_folder(script, argv)
        if can_eval_only and args.resume:  # these scripts can extend a run
            args.out_dir = folder_to_resume(script, argv)
    return args


def parse_eval_only(parser, argv, script, free, ckpt):
    """The arguments of --eval_only: see parse_args. `trained_hops` are those of the training."""
    _, state = load_checkpoint(ckpt)
    trained = dict(state['args'])
    require(trained['script'] == script, f'{ckpt} was trained by {trained["script"]}.py')
    for name in ('ckpt', 'device', 'dtype', 'processes'):
        trained.pop(name, None)

    check_typed(parser, trained, ckpt)

    # what was trained becomes the default, and then the command line is read once more
    defaults = parser.defaults()
    trained = {name: value for name, value in trained.items() if name in defaults}
    parser.set_defaults(**trained)
    args = parser.parse_args(argv)
    changed = []
    for name, value in trained.items():
        if name not in free and getattr(args, name) != value:
            changed.append(f'{name}={value}')
    if args.tune and not trained.get('tune'):
        changed.append('no --tune')
    require(not changed, f'{ckpt} was trained by {script}.py with {" ".join(changed)}; leave '
                         'those flags out')
    args.trained_hops = trained.get('hops')
    return args


def check_typed(parser, trained, ckpt):
    """Raise ValueError for arguments in a checkpoint that cannot be typed: of a wrong type, out of
    range. Each is written as text, and must come out of the parser as it was."""
    for name, default in parser.defaults().items():
        value = trained.get(name, default)
        if value is None or value is False:
            require(default is value or default is None,
                    f'{ckpt} has the argument {name}={value}, which cannot be')
            continue
        texts = [f'--{name}={value}']
        if value is True:
            texts = [f'--{name}']
        elif isinstance(value, list) and value:
            texts = [f'--{name}={format_range(value)}', f'--{name}={",".join(map(str, value))}']
        is_possible = False
        for text in texts:
            with contextlib.suppress(ValueError):
                typed = getattr(parser.parse_args([text]), name)
                is_possible = is_possible or (type(typed) is type(value) and typed == value)
        require(is_possible, f'{ckpt} has the argument {name}={str(value)[:60]}, which cannot be')


# -----------------------------------------------------------------------------
# the folder of a run is named after what was typed

def default_folder(script, argv):
    """'--hops 1-5 --nodes 40' -> 'out/train_cot-hops_1-5-nodes_40'.

    So two different commands have two folders, and the same command finds its own again. Flags that
    do not change what is computed do not count. The number of processes does.
    """
    words = [script]
    for flag, value in typed_flags(argv):
        words.append(f'{flag}_{value}' if value else flag)
    if int(os.environ.get('WORLD_SIZE', 1)) > 1:
        words.append(f'processes_{os.environ["WORLD_SIZE"]}')
    name = '-'.join(words)
    if len(name) > 200:  # file systems take 255 bytes; folder_to_resume needs the steps
        steps = ''.join(re.findall(STEPS_IN_NAME, name))
        short = re.sub(STEPS_IN_NAME, '', name)
        name = f'{short[:160]}-{hashlib.sha1(short.encode()).hexdigest()[:8]}{steps}'
    return f'out/{name}'


def typed_flags(argv):
    """['--hops', '4', '--lr=1e-3'] -> [('hops', '4'), ('lr', '1e-3')].

    Without the flags that do not change what is computed. A path loses its out/ and /ckpt.pt, and
    all that a file name should not hold becomes an underscore.
    """
    flags = []
    for word in argv:
        if word.startswith('--'):
            flag, _, value = word[2:].partition('=')
            flags.append((flag, value))
        elif flags:
            flags[-1] = (flags[-1][0], word)

    counted = []
    for flag, value in flags:
        if flag not in NOT_SETTINGS + HARDWARE:
            value = value.removeprefix('out/').removesuffix('/ckpt.pt')
            counted.append((flag, re.sub(r'[^\w.,+-]+', '_', value)))
    return counted


def folder_to_resume(script, argv):
    """The folder that --resume goes on in, where --out_dir is not given.

    It is the command's own folder. If that does not exist, it is the folder of the same command
    with fewer --steps, or without any: the run that is to be extended. Of several, the longest.
    """
    own = Path(default_folder(script, argv))
    if own.exists():
        return str(own)
    flags = dict(typed_flags(argv))
    most_steps = int(flags.get('steps') or flags.get('max_iters') or 2**63)

    best = str(own)
    best_steps = 0
    for folder in sorted(own.parent.glob(f'{script}*')):
        steps = steps_of_run(folder)
        same_command = without_steps(folder.name) == without_steps(own.name)
        if same_command and best_steps < steps <= most_steps:
            best = str(folder)
            best_steps = steps
    return best


def without_steps(name):
    """'train_cot-hops_4-steps_600' -> 'train_cot-hops_4'"""
    return re.sub(STEPS_IN_NAME, '', name)


def steps_of_run(folder):
    """--steps of the run in this folder. 0 if there is no run."""
    try:
        steps = read_config(folder)['args'].get('max_iters')
    except (OSError, ValueError):
        return 0
    return steps if type(steps) is int else 0


# -----------------------------------------------------------------------------
# devices

def find_device(name):
    """'auto', 'cpu', 'cuda', ... -> torch.device. Raises ValueError if it is not there."""
    if name == 'auto':
        name = 'cpu'
        if torch.backends.mps.is_available():
            name = 'mps'
        if torch.cuda.is_available():
            name = 'cuda'
    if name == 'cuda' and 'LOCAL_RANK' in os.environ:
        name = f'cuda:{os.environ["LOCAL_RANK"]}'
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except Exception as error:  # each backend that is missing says so in its own way
        raise ValueError(f'device {name!r} is not available here; try --device auto') from error
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    return device


def uses_bfloat16(dtype, device):
    """Does --dtype mean bfloat16 autocast on this device?"""
    if dtype == 'auto':
        return device.type == 'cuda' and torch.cuda.is_bf16_supported()
    return dtype == 'bfloat16'


def autocast(bfloat16, device):
    """The context to enter around every forward pass."""
    if bfloat16:
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


# -----------------------------------------------------------------------------
# a run

def signal_name(number):
    """What people call this signal."""
    return 'Ctrl-C' if number == signal.SIGINT else signal.Signals(number).name


class ProgressBar(tqdm):
    monitor_interval = 0  # no thread beside the bar: these steps are short


class Run:
    """One run of a script: where it computes, the folder it writes to, and how it stops.

    Under torchrun every process has one. Rank 0, the `master`, alone prints and writes.

        with Run('train_cot', args) as run:
            ...

    rank, world, master   this process, how many there are, whether it is rank 0
    device                torch.device
    autocast              enter it around every forward pass
    settings              the arguments that decide the result, as a dict of plain values
    out_dir               Path of the run's folder
    """

    def __init__(self, script, args, can_grow=False, **facts):
        """Open the folder, unless --eval_only.

        args: resolved arguments; device, dtype and processes are filled in here.
        can_grow: --resume with larger --steps may extend the run.
        facts: more values for config.json.
        """
        self.began = time.time()
        self.args = args
        self.rank = int(os.environ.get('RANK', 0))
        self.world = int(os.environ.get('WORLD_SIZE', 1))
        self.master = self.rank == 0

        self.device = find_device(args.device)
        bfloat16 = uses_bfloat16(args.dtype, self.device)
        self.autocast = autocast(bfloat16, self.device)
        torch.set_float32_matmul_precision('high')  # TF32 on cuda

        args.device = self.device.type
        args.dtype = 'bfloat16' if bfloat16 else 'float32'
        args.processes = self.world
        settings = {'script': script}
        for name, value in vars(args).items():
            if name not in NOT_SETTINGS:
                settings[name] = value
        self.settings = json.loads(json.dumps(settings))  # tuples become lists, as in the files

        self.resumes = getattr(args, 'resume', False)
        self.can_grow = can_grow
        self.writes = not getattr(args, 'eval_only', False)
        self.out_dir = Path(args.out_dir) if self.writes else None
        self.last_checkpoint = None  # path of the last one that was loaded or saved
        self.lock = None
        self.failure = None          # a RunEnded, if a write failed while several processes train
        if self.writes and self.master:
            self._open_folder(facts)

        self.trains = False          # between begin_training and end_training
        self.signal = 0              # the signal that was caught
        self.stopped = False
        self.old_handlers = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.old_handlers[number] = signal.signal(number, self._on_signal)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for number, handler in self.old_handlers.items():
            if handler is not None:  # None: not set from Python
                signal.signal(number, handler)
        if self.lock is not None:
            self.lock.release()

    def _open_folder(self, facts):
        """Lock the folder, check what it holds, and write config.json."""
        self.lock = Lock(self.out_dir)
        try:
            notes = open_folder(self.out_dir, self.settings, self.resumes, self.can_grow, facts)
        except BaseException:
            self.lock.release()
            raise
        if not self.lock.is_real:
            notes.append(f'{self.out_dir} cannot be locked: start no second run there')
        for note in notes:
            self.print(note)

    # -------------------------------------------------------------------------
    # signals

    def _on_signal(self, number, frame):
        """While a loop trains, note the first signal, so that the loop can save and leave.

        Otherwise stop at once, and also on a second signal. But torchrun sends every signal twice,
        so under torchrun a second one means nothing.
        """
        second = self.signal > 0 and self.world == 1
        if self.trains and not second:
            self.signal = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt  # as everywhere in Python, also in a notebook
        else:
            if self.master:  # not by print, which may be what was interrupted
                os.write(2, f'{script_name()}: stopped by {signal_name(number)}\n'.encode())
            sys.exit(128 + number)

    def begin_training(self):
        """From here on the first signal waits until the loop asks should_stop()."""
        self.trains = True

    def check_signal_in_a_sweep(self):
        """Raise RunEnded if a signal was caught. For sweeps, which save each finished model."""
        if self.signal:
            raise RunEnded(
                f'stopped by {signal_name(self.signal)}; the models that were finished are saved, '
                '--resume goes on from there', exit_code=128 + self.signal)

    def should_stop(self):
        """Has any process caught a signal, or failed to write? All must ask at the same step."""
        if self.world > 1:
            # on the CPU, so that no GPU has to be waited for
            worst = torch.tensor([self.signal, self.failure is not None])
            dist.all_reduce(worst, op=dist.ReduceOp.MAX)
            self.signal = int(worst[0])
            if worst[1] and self.failure is None:
                self.failure = RunEnded('another process could not write')
        self.stopped = self.signal > 0 or self.failure is not None
        return self.stopped

    def end_training(self, step, what='training'):
        """Leave the process group. Raises RunEnded if the training did not come to its end."""
        self.trains = False
        self.leave_group()
        if self.failure is not None:
            raise self.failure
        if self.stopped or self.signal:
            saved = 'before anything was saved; --resume starts over'
            if self.last_checkpoint is not None:
                saved = f'saved in {self.last_checkpoint}; --resume goes on from there'
            number = self.signal or signal.SIGTERM
            raise RunEnded(f'stopped by {signal_name(number)} at step {step} of {what}, {saved}',
                           exit_code=128 + number)

    # -------------------------------------------------------------------------
    # processes

    def distribute(self, model):
        """The model, wrapped in DDP if there are several processes.

        Call it after `resume`. A process that refuses a checkpoint must not leave the others
        waiting in a process group.
        """
        if self.world == 1:
            return model
        self.join_group()
        return DDP(model, device_ids=[self.device] if self.device.type == 'cuda' else None)

    def join_group(self, **options):
        """Start the process group, once. CPU tensors go through gloo, CUDA tensors through nccl."""
        if self.world > 1 and not dist.is_initialized():
            if os.name == 'nt':  # torch for Windows is built without libuv
                os.environ.setdefault('USE_LIBUV', '0')
            backend = 'cpu:gloo,cuda:nccl' if self.device.type == 'cuda' else 'gloo'
            dist.init_process_group(backend, **options)
            if self.writes and not self.master:  # rank 0 has locked the folder already
                self.lock = Lock(self.out_dir, self.rank)

    def leave_group(self):
        """Leave the process group, if there is one.

        Before any exit: this waits for gloo's threads. One of them could abort the interpreter
        while it shuts down.
        """
        if dist.is_initialized():
            # Old versions of torch keep Python's lock while they destroy a group. A thread of gloo
            # that still needs it would never end: let it finish first.
            time.sleep(0.1)
            dist.destroy_process_group()

    def my_rows(self, batch):
        """This process's share of a global batch (or of any tensor with its rows)."""
        n = len(batch) // self.world
        return batch[self.rank * n:(self.rank + 1) * n]

    def total(self, **numbers):
        """{name: number summed over all processes}. All must call it at the same step."""
        values = []
        for number in numbers.values():
            values.append(torch.as_tensor(number, dtype=torch.float32, device=self.device))
        values = torch.stack(values)  # so that a GPU is waited for only once
        if self.world > 1:
            dist.all_reduce(values)
        return dict(zip(numbers, values.tolist(), strict=True))

    def gather_rows(self, x, total):
        """The rows of all processes in their order, (total, ...) float64 on the CPU.

        x (p, ...): row i of this process is row rank + i * world of all.
        """
        rows = torch.zeros(total, *x.shape[1:], dtype=torch.float64)
        rows[self.rank::self.world] = x.cpu().double()
        if self.world > 1:
            dist.all_reduce(rows)
        return rows

    # -------------------------------------------------------------------------
    # screen and log

    def seconds(self):
        """Seconds since the run began."""
        return time.time() - self.began

    def progress_bar(self, label, step, total):
        """A tqdm bar, on a terminal only."""
        visible = self.master and sys.stderr.isatty()
        return ProgressBar(total=total, initial=step, desc=label, disable=not visible, leave=False)

    def print(self, text=''):
        if self.master:
            tqdm.write(text)  # does not collide with a bar
            sys.stdout.flush()

    def print_settings(self):
        self.print(' '.join(f'{k}={v}' for k, v in self.settings.items() if v is not None))

    def log(self, **record):
        """Append one JSON object to log.jsonl."""
        if self.master and self.writes:
            self.write(lambda: append_record(self.out_dir, record))

    def write(self, write):
        """Call write(). Raises RunEnded if the disk is full, or the folder is gone.

        Where several processes train together, one that left would leave the others waiting. So the
        failure is noted, nothing more is written, and should_stop tells them all.
        """
        if self.failure is not None:
            return
        try:
            if self.lock is not None and self.lock.is_lost():
                raise OSError('somebody has removed the folder, or put another in its place')
            write()
        except OSError as error:
            saved = 'nothing was saved yet'
            if self.last_checkpoint is not None and self.last_checkpoint.exists():
                saved = f'{self.last_checkpoint} is intact, and --resume goes on from there'
            reason = error.strerror or error
            failure = RunEnded(f'cannot write to {self.out_dir}: {reason}; {saved}')
            if self.world == 1 or not self.trains:
                raise failure from error
            self.failure = failure

    def finish(self, final, step, **log_only):
        """Log the last record, and print it as the line that README quotes and tests parse."""
        self.log(arm='final', step=step, **final, **log_only)
        self.print(final_line(**final))

    # -------------------------------------------------------------------------
    # checkpoints

    def save(self, name, model, optimizer, step, mode='cot', settings=None, **more):
        """Write a checkpoint: a plain dict, moved into place when it is complete.

        mode: what the model was trained on, 'cot' or 'direct'. more: what else to remember.
        settings: those of a model that one process of a sweep trains by itself. By default they
        are the run's, and rank 0 alone writes.
        """
        check_finite(step, model)
        if settings is None and not self.master:
            self.last_checkpoint = self.out_dir / name  # rank 0 writes it
            return
        rng_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        state = dict(
            model=model.state_dict(),
            config=vars(model.config),
            optimizer=optimizer.state_dict(),
            step=step,
            args=settings or self.settings,
            mode=mode,
            rng=torch.get_rng_state(),
            rng_cuda=rng_cuda,
            **more)
        content = to_bytes(state)
        self.write(lambda: self._write_checkpoint(name, content))

    def _write_checkpoint(self, name, content):
        """The log first, so that the disk has all that was logged before the checkpoint."""
        log = self.out_dir / 'log.jsonl'
        if log.exists():
            sync(log)
        write_atomic(self.out_dir / name, lambda path: path.write_bytes(content))
        self.last_checkpoint = self.out_dir / name

    def resume(self, name, model, optimizer, arm, settings=None):
        """With --resume: load this run's checkpoint if there is one, and drop what was logged after
        it for this arm. Returns the checkpoint's dict, or {'step': 0}. settings: as for save."""
        state = self.find_checkpoint(name, settings)
        if state is None:
            state = {'step': 0}
            if self.resumes and read_log(self.out_dir):
                self.print(f'there is no checkpoint {self.out_dir / name}: starting at step 0')
        else:
            path = self.out_dir / name
            require(state['config'] == vars(model.config),
                    f'{path} holds a model of another shape: has --init_from changed?')
            model.load_state_dict(state['model'])
            # the moments from the file; betas, weight decay and the like from the arguments
            groups = optimizer.state_dict()['param_groups']
            optimizer.load_state_dict(dict(state=state['optimizer']['state'], param_groups=groups))
            torch.set_rng_state(state['rng'])
            if self.device.type == 'cuda' and state['rng_cuda']:  # none after a run without cuda
                torch.cuda.set_rng_state(state['rng_cuda'][0], self.device)
            self.last_checkpoint = path
        if self.resumes and self.master:
            n_damaged = count_damaged_lines(self.out_dir)
            if n_damaged:
                self.print(f'dropped from {self.out_dir / "log.jsonl"}: {n_damaged} damaged lines')
            self.write(lambda: cut_log(self.out_dir, arm, state['step']))
        return state

    def find_checkpoint(self, name, settings=None):
        """With --resume: the dict of this run's checkpoint, or None if there is none.

        Raises ValueError if it is damaged, or of another run.
        """
        path = self.out_dir / name
        require(path.exists() or not path.is_symlink(), f'{path} is a link to no file')
        if not self.resumes or not path.exists():
            return None
        _, state = load_checkpoint(path, self.device, START_OVER)
        changed = changed_settings(state['args'], settings or self.settings, self.can_grow)
        require(not changed,
                f'{path} is the checkpoint of another run: delete it, or give another --out_dir')
        return state

    def check_finite(self, step, model, **numbers):
        """Raise RunEnded if one of these numbers, or a weight, is not finite."""
        try:
            check_finite(step, model, **numbers)
        except RunEnded as error:
            saved = ''
            if self.last_checkpoint is not None:
                saved = f'; {self.last_checkpoint} holds the last good weights'
            raise RunEnded(f'{error}{saved}. Try a smaller --learning_rate') from None


def check_finite(step, model, **numbers):
    """Raise RunEnded if one of these numbers, or a weight of the model, is not finite."""
    finite = all(p.isfinite().all() for p in model.parameters())
    for number in numbers.values():
        finite = finite and bool(torch.as_tensor(number).isfinite())
    if not finite:
        values = ', '.join(f'{name} {float(number)}' for name, number in numbers.items())
        raise RunEnded(f'training diverged at step {step}: {values or "weights"} not finite')


# -----------------------------------------------------------------------------
# checkpoints

def load_model(path, device='cpu'):
    """(model, task) of any checkpoint of this repository, to go on with from Python.

        model, task = load_model('out/train_cot-hops_4/ckpt.pt')

    Raises ValueError as load_checkpoint does.
    """
    model, task, _ = load_trained(path, device)
    return model, task


def load_trained(path, device='cpu'):
    """(model, task, state): as load_model, and the dict that Run.save wrote."""
    model, state = load_checkpoint(path, device)
    args = state['args']
    if args.get('test_grid'):  # mazes: the model has room for these sizes, too
        for name in ('grid', 'test_grid'):
            require(isinstance(args.get(name), list), f'{path} has the argument {name}='
                                                      f'{str(args.get(name))[:60]}, no list')
        args['grid'] = sorted({*args['grid'], *args['test_grid']})
    return model.eval(), task_of_checkpoint(path, state, ALL_TASKS), state


def require_tokens(path, state):
    """Raise ValueError if a checkpoint's model thinks in vectors, which cannot be written down."""
    require(state['mode'] != 'latent',
            f'{path} thinks in vectors, not in tokens: see train_latent.py --eval_only')


def task_of_checkpoint(path, state, tasks):
    """The task that a checkpoint was trained on. Raises ValueError if it is none of these."""
    names = [task.name for task in tasks]
    name = state['args'].get('task')
    require(name in names, f'{path}, of {state["args"]["script"]}.py, holds the task {name}, which '
                           f'is none of {", ".join(names)}')
    try:
        task = make_task(SimpleNamespace(**state['args']), tasks)
    except (TypeError, AttributeError, KeyError, OverflowError) as error:
        raise ValueError(f'the settings in {path} are of no task known here') from error
    config = state['config']
    require(len(task.vocab) == config['vocab_size'] and task.block_size <= config['block_size'],
            f'{path} does not fit its task: the model has {config["vocab_size"]} words and '
            f'{config["block_size"]} positions, {name} has {len(task.vocab)} and {task.block_size}')
    return task


def task_of_args(args, tasks, **defaults):
    """The task that args ask for, as make_task makes it.

    With --eval_only, --hops may be others than were trained. The vocabulary has room for both, and
    the task asks those of --hops. Whether it fits the model, check_task_fits says.
    """
    if not args.eval_only or args.hops is None or args.trained_hops is None:
        return make_task(args, tasks, **defaults)
    asked = args.hops
    both = sorted({*asked, *args.trained_hops})
    task = make_task(SimpleNamespace(**(vars(args) | {'hops': both})), tasks)
    task.hops = asked
    return task


def check_task_fits(path, args, task, model):
    """Raise ValueError if the model was not made for as many hops as the task asks for."""
    fits = (len(task.vocab) == model.config.vocab_size
            and task.block_size <= model.config.block_size)
    if not fits:
        hops = format_range(args.trained_hops or task.hops)
        raise ValueError(f'{path} was trained on hops {hops}: its vocabulary and its length do not '
                         f'reach --hops {format_range(task.hops)}')


def changed_settings(old, new, can_grow=False):
    """The names of the settings that differ, so that `new` is another run than `old`.

    A flag that is None counts as absent, and the hardware does not count. can_grow: if `new` has
    more steps than `old`, its schedule may differ.
    """
    ignored = HARDWARE
    old_steps = old.get('max_iters')
    if can_grow and type(old_steps) is int and new['max_iters'] > old_steps:
        ignored += SCHEDULE
    names = [*new, *(name for name in old if name not in new)]
    return [name for name in names if name not in ignored and old.get(name) != new.get(name)]


# -----------------------------------------------------------------------------
# folder and log

def open_folder(out_dir, settings, resume, can_grow, facts):
    """Check what the run's folder holds, and write config.json. Returns lines to print.

    The same settings start over in an old folder, or resume. Raises ValueError, and touches
    nothing, if the folder holds a run with other settings, one that was stopped (unless it is to
    resume), or files that are not a run's.
    """
    notes = []
    old = None
    try:
        if any(not is_temporary(path) and not is_lock(path) for path in out_dir.iterdir()):
            old = read_settings(out_dir)
            check_same_run(out_dir, old, settings, resume and can_grow)
        remove_temporaries(out_dir)
        if old is not None and resume:
            open(out_dir / 'log.jsonl', 'a').close()  # can it be written?
            notes = what_changed(out_dir, old, settings)
            if notes:  # config.json changes only if the run can really go on
                for path in out_dir.glob('ckpt*.pt'):
                    load_checkpoint(path, cure=START_OVER)
        elif resume:
            notes = [f'there is no run in {out_dir} yet: starting at step 0']
        else:
            if old is not None:
                check_nothing_lost(out_dir)
                notes = [f'{out_dir}: starting over, the run that was there is replaced']
            for pattern in RUN_FILES:
                for path in out_dir.glob(pattern):
                    path.unlink()
        if notes or not resume:
            write_config(out_dir, settings, facts)
    except OSError as error:
        raise ValueError(f'cannot write to --out_dir {out_dir}: {error.strerror}') from error
    return notes


def write_config(out_dir, settings, facts):
    """Write config.json: how the run was started, and facts about it."""
    config = dict(
        facts,
        commit=git_commit(),
        args=settings,
        argv=sys.argv,
        torch=torch.__version__,
        python=sys.version.split()[0],
        threads=torch.get_num_threads())
    text = json.dumps(config, indent=1) + '\n'
    write_atomic(out_dir / 'config.json', lambda path: path.write_text(text, encoding='utf-8'))


def read_settings(out_dir):
    """The settings of the run in out_dir. Raises ValueError if it holds none.

    They stand in config.json. If that is damaged, they are those of a checkpoint.
    """
    try:
        return read_config(out_dir)['args']
    except ValueError as error:
        # not ckpt-*.pt of capacity.py, which hold the settings of one model
        for path in (out_dir / 'ckpt.pt', *sorted(out_dir.glob('ckpt_*.pt'))):
            with contextlib.suppress(ValueError):
                return load_checkpoint(path)[1]['args']
        raise ValueError(f'{out_dir} is not empty and holds no run of this repo ({error}); give '
                         'another --out_dir') from error


def check_same_run(out_dir, old, settings, can_grow):
    """Raise ValueError if the run in out_dir, with the settings `old`, is another one."""
    changes = []
    names = changed_settings(old, settings, can_grow)
    for name in names[:3]:
        changes.append(f'{name}={str(old.get(name))[:60]}, not {settings.get(name)}')
    cure = 'give another --out_dir, or delete the folder'
    old_steps = old.get('max_iters')
    if type(old_steps) is int and 'max_iters' in names and set(names) <= set(SCHEDULE):
        changes = [f'steps={old_steps}, not {settings["max_iters"]}']
        cure = f'type --steps {old_steps}, {cure}'
    require(not names, f'{out_dir} holds a run with {"; ".join(changes)}; {cure}')


def check_nothing_lost(out_dir):
    """Raise ValueError if out_dir holds a run that was stopped, and could go on."""
    steps = read_settings(out_dir).get('max_iters')
    has_ended = False
    for record in read_log(out_dir):
        # a run that is being extended may still have the last record of the shorter one
        has_ended = has_ended or (record.get('arm') == 'final'
                                  and record.get('step', steps) == steps)
    unfinished = [*out_dir.glob('ckpt*.pt'), *out_dir.glob('models-*.jsonl')]
    require(has_ended or not unfinished,
            f'{out_dir} holds a run that was stopped before its end; --resume goes on with it. To '
            'start over, delete the folder')


def what_changed(out_dir, old, settings):
    """One line for each change that a resumed run is allowed."""
    notes = []
    try:
        read_config(out_dir)
    except ValueError as error:
        notes.append(f'{error}: written anew, from the settings in the checkpoint')
    if old.get('max_iters') != settings.get('max_iters'):
        notes.append(f'{out_dir}: extended from {old["max_iters"]} to {settings["max_iters"]} '
                     'steps; the learning rate now follows the schedule of the longer run')
    for name in HARDWARE:
        if old.get(name) != settings.get(name):
            notes.append(f'{out_dir}: {name} was {old.get(name)} and is {settings.get(name)} now; '
                         'the result will not be the same bit for bit')
    return notes


def pass_at_k(n, n_right, k):
    """The chance that k of n chains, drawn without replacement, hold a right one.

    n_right: a tensor of counts. 1 - C(n - n_right, k) / C(n, k) is the unbiased estimate of pass@k
    (Chen et al. 2021, 2107.03374). 0 for k = 0. Raises ValueError for k > n.
    """
    require(0 <= k <= n, f'pass@{k} takes at least {k} chains, not {n}')
    i = torch.arange(k, device=n_right.device)
    all_wrong = ((n - n_right[..., None] - i).clamp(min=0) / (n - i)).prod(dim=-1)
    return 1 - all_wrong


def pass_curve(n, n_right):
    """{k: pass@k} for k = 1, 4, 16, ... n.

    The mean over P questions, of each of which n_right (P,) of n chains are right.
    """
    ks = []
    k = 1
    while k < n:
        ks.append(k)
        k *= 4
    ks.append(n)
    return {k: pass_at_k(n, n_right, k).mean().item() for k in ks}


def git_commit():
    """The short hash of the commit that is checked out, or None."""
    command = ['git', 'rev-parse', '--short', 'HEAD']
    try:
        git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:  # there is no git
        return None
    return git.stdout.strip() or None


def final_line(**values):
    """'final task=cycle acc=1.000 ...': what README quotes and tests parse. None is left out."""
    words = ['final']
    for name, value in values.items():
        if isinstance(value, float):
            words.append(f'{name}={value:.3f}')
        elif value is not None:
            words.append(f'{name}={value}')
    return ' '.join(words)
