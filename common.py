"""What every run needs and no experiment is about: device and precision, processes, the run folder and its log, checkpoints.
Functions only; nothing here knows a task or a loss. What is wrong with the user's input ends in `die`: one line, exit code 2."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
import torch.distributed.nn  # before there is a process group: loaded later (by an optimizer), its default arguments keep the group and gloo's threads alive

from model import GPT, GPTConfig

def die(message, code=2):
    """End with one line on stderr; code 2 is bad input, 1 a run that failed, 128 + n a signal."""
    if os.environ.get('RANK', '0') == '0':  # one line, however many processes
        print(f'{Path(sys.argv[0]).name}: {" ".join(message.split())}', file=sys.stderr, flush=True)
    sys.exit(code)

def setup(args):
    """Device, precision and processes from args.device, args.dtype and torchrun's variables; dies if the device is not there.
    Returns a namespace: device, autocast (enter it around every forward), bf16, rank, world, master (rank 0: it alone writes)."""
    rank, world, name = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1)), args.device
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else 'cpu'
    if name == 'cuda' and world > 1:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.zeros(1, device=(device := torch.device(name))).item()
    except Exception:  # every backend that is not there says so in its own way
        die(f'device {name!r} is not available here; try --device auto')
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    torch.set_float32_matmul_precision('high')  # TF32 on cuda
    bf16 = args.dtype == 'bfloat16' or (args.dtype == 'auto' and device.type == 'cuda' and torch.cuda.is_bf16_supported())
    return SimpleNamespace(device=device, autocast=torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext(),
                           bf16=bf16, rank=rank, world=world, master=rank == 0)

def sum_over_processes(run, *numbers):
    """Each number summed over all processes; every process must call it at the same step."""
    if run.world == 1:
        return numbers
    dist.all_reduce(total := torch.tensor(numbers, dtype=torch.float32, device=run.device))
    return total.tolist()

def catch_signals(exit_now=False):
    """A list that receives the number of a SIGINT or SIGTERM: a training loop looks at it between steps, saves and exits with
    128 + number. A second signal (torchrun repeats the first: not there), or with exit_now the first, exits at once."""
    caught, patient = [], int(os.environ.get('WORLD_SIZE', 1)) > 1

    def handler(number, frame):
        if exit_now or (caught and not patient):
            sys.exit(128 + number)
        caught.append(number)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)
    return caught

# ----------------------------------------------------------------------------- the run folder

def write_atomic(path, write):
    """write(temporary path), then move it into place: a reader, or a resumed run, never sees half a file."""
    write(tmp := Path(f'{path}.tmp'))
    os.replace(tmp, path)

def open_run(out_dir, args, resume, **facts):
    """Make out_dir and write config.json, or, to resume, check that it holds the same run.

    args: a dict of plain values, all that decides the result. The same arguments start over; dies, touching nothing, if the folder
    holds a run with other arguments, or files that are not a run's.
    """
    out_dir, args = Path(out_dir), json.loads(json.dumps(args))  # tuples become lists, as in the file
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        there = any(path.suffix != '.tmp' for path in out_dir.iterdir())
        if there:
            try:
                old = dict(json.loads((out_dir / 'config.json').read_text())['args'])
            except (OSError, ValueError, KeyError, TypeError):
                die(f'{out_dir} is not empty and holds no run of this repo; give another --out_dir')
            differ = '; '.join(f'{k}={old.get(k)}, not {args.get(k)}' for k in args | old if old.get(k) != args.get(k))
            if differ:
                die(f'{out_dir} holds a run with {differ}; give another --out_dir, or delete it')
        if there and resume:
            open(out_dir / 'log.jsonl', 'a').close()  # can it be written?
            return
        for path in (path for pattern in ('ckpt*.pt', 'log.jsonl', 'results.json', 'plot.png') for path in out_dir.glob(pattern)):
            path.unlink()
        with contextlib.suppress(OSError):  # no git, no commit
            git = subprocess.run(('git', 'rev-parse', '--short', 'HEAD'), cwd=Path(__file__).parent, capture_output=True, text=True)
            facts['commit'] = git.stdout.strip() or None
        facts.update(args=args, argv=sys.argv, torch=torch.__version__, python=sys.version.split()[0], threads=torch.get_num_threads())
        write_atomic(out_dir / 'config.json', lambda tmp: tmp.write_text(json.dumps(facts, indent=1) + '\n'))
    except OSError as error:
        die(f'cannot write to --out_dir {out_dir}: {error.strerror}')

def log(out_dir, **record):
    """Append one JSON object to log.jsonl."""
    with open(Path(out_dir) / 'log.jsonl', 'a') as f:
        f.write(json.dumps(record) + '\n')

def read_log(out_dir):
    """The log's records; a last line cut short by a kill is left out."""
    path, records = Path(out_dir) / 'log.jsonl', []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records

def cut_log(out_dir, keep):
    """Drop the records for which keep(record) is false: what a resumed run is about to do again."""
    kept = [json.dumps(r) + '\n' for r in read_log(out_dir) if keep(r)]
    write_atomic(Path(out_dir) / 'log.jsonl', lambda tmp: tmp.write_text(''.join(kept)))

def save_checkpoint(path, model, optimizer, step, args, **more):
    """A plain dict: weights, model config, optimizer, step, random states, arguments, and more. Moved into place when complete."""
    state = more | {'model': model.state_dict(), 'config': vars(model.config), 'optimizer': optimizer.state_dict(), 'step': step, 'args': args,
             'rng': torch.get_rng_state(), 'rng_cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}
    write_atomic(path, lambda tmp: torch.save(state, tmp))

def load_checkpoint(path, device='cpu', args=None):
    """(model, state): the GPT on device, and save_checkpoint's dict. Dies if the file is missing, cut short, not ours, or of a run with other args."""
    if not Path(path).is_file():
        die(f'there is no checkpoint {path}')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # about files that are refused anyway
            state = torch.load(path, map_location=device, weights_only=True)  # no code in it runs
        model = GPT(GPTConfig(**state['config'])).to(device)
        model.load_state_dict(state['model'])
        state['args']['script'], state['optimizer'], state['step'], state['rng'], state['rng_cuda']  # all there?
        if args is None or {k: v for k, v in args.items() if v is not None} == {k: v for k, v in state['args'].items() if v is not None}:
            return model, state
    except Exception:  # torch.load raises half a dozen kinds, and any file may lie there
        die(f'{path} is not a checkpoint of this repo, or was cut short: name another, or delete it and start over')
    die(f'{path} is the checkpoint of another run: delete it, or give another --out_dir')

def parse_typed(parser, argv):
    """The arguments, and the names of those that were typed: argparse leaves alone what a namespace already has."""
    typed = vars(parser.parse_args(argv, SimpleNamespace(**{action.dest: parser for action in parser._actions})))
    return parser.parse_args(argv), {name for name, value in typed.items() if value is not parser}

def restore_args(args, typed, saved, script, free):
    """For --eval_only: args get the values saved with the checkpoint args.ckpt, but for `free` ones typed; dies if the script or another typed flag differs."""
    wrong = [f'{name}={saved.get(name)}' for name in sorted(typed - free) if saved.get(name) != getattr(args, name)]
    if saved['script'] != script or wrong:
        die(f'{args.ckpt} was trained by {saved["script"]}.py' + f' with {" ".join(wrong)}; leave those flags out' * bool(wrong))
    vars(args).update({name: saved[name] for name in saved.keys() - (typed & free) - {'device', 'dtype'}})

def final_line(**values):
    """'final task=cycle acc=1.000 ...': what the README quotes and tests parse; a value of None is left out."""
    return 'final ' + ' '.join(f'{k}={v:.3f}' if isinstance(v, float) else f'{k}={v}' for k, v in values.items() if v is not None)
