"""How much memory a command takes, and how much is free.

A command that cannot fit is refused before anything is allocated or written. One line says what it
would take and which flag to lower. The estimates are arithmetic: no model is built for them.
A command has phases (drawing a batch, a training step, an evaluation, writing a checkpoint), each a
dict {part: bytes}. The largest phase counts. The 0.4 GiB of torch itself come on top.

The estimates were compared with the peaks of real runs (tests/test_memory.py,
results/studies/command_lines.txt). A run takes at most 1 GiB more than its estimate, and rarely
less than a third of it.
"""

import ctypes
import os
import sys
from pathlib import Path

import torch

from data import most_at_once, require


GIB = 2**30
FLOAT = 4   # bytes
ON_HOST = ('data', 'checkpoint', 'questions', 'facts')  # parts that never lie on a GPU

# Which flags make a part smaller. {size}: the flag for the size of the task,
# such as --nodes. Scripts with other parts pass a table of their own.
CURES = {
    'model': '--n_embd or --n_layer',
    'activations': '--batch_size or --n_embd',
    'attention': '--batch_size or {size}',
    'logits': '--batch_size or {size}',
    'evaluation': '{size}, --n_embd, or --n_test (below 500)',
    'checkpoint': '--n_embd or --n_layer',
    'data': '--batch_size or {size}',
    'facts': '--people, --attributes or --relations',
}


# -----------------------------------------------------------------------------
# what is free

def free_memory():
    """Bytes that this process can still take: of the machine, or of its container if that has less.
    None if nobody knows."""
    numbers = [free_of_machine(), *free_of_cgroups()]
    known = [number for number in numbers if number is not None]
    if not known:
        return None
    n_sharing = int(os.environ.get('LOCAL_WORLD_SIZE', 1))  # processes that torchrun starts here
    return min(known) // n_sharing


def free_of_machine():
    """Bytes that are free. On macOS, which does not say, all that there is."""
    if sys.platform == 'win32':
        return free_of_windows()
    try:
        for line in Path('/proc/meminfo').read_text().splitlines():
            if line.startswith('MemAvailable:'):
                return int(line.split()[1]) * 1024
        return None
    except (OSError, ValueError):  # not Linux
        pass
    try:
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (OSError, ValueError):
        return None


def free_of_windows():
    """Free memory on Windows: ullAvailPhys of GlobalMemoryStatusEx."""
    class MemoryStatus(ctypes.Structure):
        _fields_ = [
            ('length', ctypes.c_uint32),
            ('load', ctypes.c_uint32),
            ('total', ctypes.c_uint64),
            ('available', ctypes.c_uint64),
            ('others', ctypes.c_uint64 * 5),
        ]

    status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return status.available


def free_of_cgroups(root='/sys/fs/cgroup', own='/proc/self/cgroup'):
    """Limit less use of each cgroup that this process is in, and that has a limit. Linux only."""
    try:
        lines = Path(own).read_text().splitlines()
    except OSError:
        return []

    free = []
    for line in lines:
        _, controllers, path = line.split(':', 2)
        if controllers == '':
            base = ''  # version 2
            limit_file = 'memory.max'
            use_file = 'memory.current'
        elif 'memory' in controllers.split(','):
            base = 'memory'  # version 1
            limit_file = 'memory.limit_in_bytes'
            use_file = 'memory.usage_in_bytes'
        else:
            continue

        # the group itself, and all groups that it is in. In a container its path may not exist
        group = Path(root, base, path.lstrip('/'))
        for folder in (group, *group.parents):
            try:
                limit = int((folder / limit_file).read_text())  # 'max' means that there is none
                use = int((folder / use_file).read_text()) - cached_files(folder)
                free.append(max(0, limit - use))
            except (OSError, ValueError):
                continue
    return free


def cached_files(folder):
    """Bytes of files that a cgroup holds in memory, and lets go of when they are needed."""
    n_bytes = {}
    for line in (folder / 'memory.stat').read_text().splitlines():
        name, number = line.split()
        n_bytes[name.removeprefix('total_')] = int(number)
    return n_bytes.get('inactive_file', 0) + n_bytes.get('active_file', 0)


# -----------------------------------------------------------------------------
# does it fit?

def require_memory(phases, device=None, task=None, cures=CURES, free=None):
    """Raise ValueError if one of these phases does not fit. Returns the bytes of the largest.

    phases: dicts {part: bytes}. device: torch.device of the model, None for the CPU. task: whose
    first flag is {size} in the cures, {part: flags to lower}.
    free: bytes, by default what the machine says.
    """
    size = f'--{next(iter(task.flags), "task")}' if task is not None else ''
    host = free_memory() if free is None else free
    if device is not None and device.type == 'cuda':
        gpu = torch.cuda.mem_get_info(device)[0] if free is None else free
        check_fit(largest([on_gpu(phase) for phase in phases]), gpu, ' on the GPU', cures, size)
        check_fit(largest([on_host(phase) for phase in phases]), host, '', cures, size)
    else:
        check_fit(largest(phases), host, '', cures, size)
    return sum(largest(phases).values())


def largest(phases):
    return max(phases, key=lambda phase: sum(phase.values()))


def on_gpu(phase):
    return {part: n_bytes for part, n_bytes in phase.items() if part not in ON_HOST}


def on_host(phase):
    return {part: n_bytes for part, n_bytes in phase.items() if part in ON_HOST}


def check_fit(phase, free, where, cures, size):
    """Raise ValueError if the parts of this phase are more than is free."""
    total = sum(phase.values())
    if free is None or total <= free:
        return
    by_size = sorted(phase, key=phase.get, reverse=True)
    parts = ', '.join(f'{part} {in_gib(phase[part])}' for part in by_size[:3])
    cure = cures[by_size[0]].format(size=size)
    raise ValueError(f'this takes about {in_gib(total)} of memory ({parts}), and {in_gib(free)} '
                     f'are free{where}: lower {cure}')


def in_gib(n_bytes):
    """1500000000 -> '1.4 GiB'"""
    gib = n_bytes / GIB
    if gib >= 1e6:
        return f'{gib:.0e} GiB'
    return f'{gib:,.0f} GiB' if gib >= 10 else f'{max(gib, 0.1):.1f} GiB'


# -----------------------------------------------------------------------------
# estimates. B, T, C, V as in model.py, M loss tokens in each sequence. The small numbers in the
# formulas count tensors in model.py; they were then compared with measured peaks

def n_params(config):
    """GPT(config).num_params(), without a GPT."""
    C = config.n_embd
    embeddings = config.vocab_size * C
    if config.pos == 'learned':
        embeddings += config.block_size * C
    return embeddings + config.n_layer * (12 * C**2 + 2 * C) + C


def rope_bytes(config):
    """The table of angles, and what it takes to make it."""
    return 12 * config.block_size * config.n_embd if config.pos == 'rope' else 0


def step_parts(config, B, T, M, n_copies=4, attention=None):
    """A training step on B sequences of T tokens with M loss tokens each.

    n_copies: how many copies of the logits exist at once, gradients included.
    attention: how many attention scores are stored (default: attention_numbers).
    """
    C = config.n_embd
    depth = config.n_layer * config.n_loop
    kept = 21 + (4 if config.pos == 'rope' else 0)  # vectors of a token, for the backward pass

    # the last block has keys and values everywhere, all else at the loss tokens
    vectors = B * T * (kept * (depth - 1) + 10) + B * M * 20
    if depth > 1:
        vectors += B * T * 10  # on the way back through an MLP
    if attention is None:
        attention = attention_numbers(config, B, T, M)
    return {
        'model': 4 * FLOAT * n_params(config) + rope_bytes(config),  # weights, gradients, AdamW
        'activations': FLOAT * C * vectors,
        'attention': FLOAT * attention,
        'logits': FLOAT * n_copies * B * M * config.vocab_size,
    }


def attention_numbers(config, B, T, M):
    """Scores and masks of the last block, in numbers. The blocks before hold none: the kernel
    works in tiles."""
    if M < 16:
        return 4 * B * config.n_head * M * T
    return 2 * B * M * T


def decoding_bytes(config, B, T, n_prompts=None):
    """generate on B rows of T tokens in all, which continue n_prompts prompts."""
    C = config.n_embd
    n_prompts = n_prompts or B
    cache = 2 * config.n_layer * config.n_loop * C * T * (B + (n_prompts if n_prompts < B else 0))
    prompt = n_prompts * (T * C * vectors_at_once(config) + 3 * config.n_head * T)
    return FLOAT * (cache + prompt + 5 * B * config.vocab_size)


def vectors_at_once(config):
    """Vectors of a token that a forward pass without gradients holds at once. A single block has
    its MLP at few of the tokens."""
    return 6 if config.n_layer * config.n_loop == 1 else 14


def scoring_bytes(config, B, T, M, n_copies=5):
    """A forward pass without gradients, and what is made of its logits."""
    vectors = B * T * config.n_embd * vectors_at_once(config)
    logits = n_copies * B * M * config.vocab_size
    return FLOAT * (vectors + attention_numbers(config, B, T, M) + logits)


def drawing_bytes(task, rows, split='train'):
    """sample_batch: the peak of it."""
    oversample = 1.2 if split == 'train' else 1.1 / task.test_share
    drawn = min(rows * oversample + 16, most_at_once(task))
    return round(8 * max(drawn * task.draw_size + rows * task.write_size / 3,
                         rows * task.write_size))


def trainer_phases(args, config, task, step, evaluation, split_rows=500):
    """The phases of a trainer: draw a batch, take a step, write a checkpoint, evaluate.

    step: its step_parts. evaluation: bytes of decoding and scoring 500 test instances.
    With --eval_only nothing but the last two phases. split_rows: test instances drawn at once.
    """
    weights = FLOAT * n_params(config)
    trained = 3 * weights + rope_bytes(config)  # between steps: weights and AdamW's two moments
    n_processes = int(os.environ.get('WORLD_SIZE', 1))
    batch = args.batch_size * n_processes
    evaluations = [
        {'model': trained, 'evaluation': evaluation + drawing_bytes(task, split_rows, 'test')},
    ]
    if args.eval_only:
        return evaluations

    step = dict(step)
    step['data'] = drawing_bytes(task, batch) // 3  # the batch itself
    if n_processes > 1:
        step['model'] += weights  # DistributedDataParallel's copy of the gradients
    in_memory = 3 * weights  # a checkpoint, before it goes to disk, and one that --resume reads
    return [
        {'model': trained, 'data': drawing_bytes(task, batch)},
        step,
        {'model': trained, 'checkpoint': in_memory * (2 if args.resume else 1)},
        *evaluations,
    ]


def require_depth(args):
    """Raise ValueError if a forward pass would go through more than 10,000 blocks."""
    depth = args.n_layer * args.n_loop
    require(depth <= 10**4, f'--n_layer {args.n_layer} times --n_loop {args.n_loop} is {depth:,}: '
                            'at most 10,000')
