"""How fast is it, and is the work that the loss does not need really skipped?

A run times a named configuration on this machine:

1. The machine's matrix-multiply peak, the yardstick for everything else.
2. A training step (forward, backward, clip, AdamW), for 1, 2 and 4 layers: tokens per second, the
   share of the peak, and the same step with logits at every position. A third one skips nearly as
   much as the first, but makes all keys and values (see model.attend_to_inputs). All three must
   have the same gradients: the largest difference is printed.
3. Generation of 32 tokens after a prompt of 64, with and without the key/value cache.
4. Reinforcement learning as in train_rl.py: sample 8 chains for each of 128 questions, then take a
   gradient step on them. The step computes a prompt once for its 8 chains, or 8 times.
5. Batches of every task per second, and the time to draw a batch as a share of a training step.

What is compared runs in turns, A B A B ..., and a ratio is the median over turns. So noise from
other programs does little harm.

    python bench.py                                     # the default run of train_cot.py
    python bench.py --config star-50 --device cuda

The last line:  final config=cycle-20 device=cpu skip_1=2.8.. tokens_per_s=... data_share=0.0..
Results: docs/speed.md
"""

from errors import one_line_errors  # first: see errors.py

import math
import statistics
import time
from functools import partial

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import common
from countdown import Countdown
from data import (
    CVPR,
    Cycle,
    Multiply,
    Parser,
    Star,
    at_least,
    sample_batch,
    seed_number,
)
from maze import Maze
from model import GPT, GPTConfig
from profiles import Profiles


# task, size of the model, batch size
CONFIGS = {
    # the default run of train_cot.py
    'cycle-20': (Cycle(), dict(n_layer=1, n_head=1, n_embd=64), 512),
    'cvpr-100': (CVPR(nodes=100, hops=(30,)), dict(n_layer=1, n_head=1, n_embd=64), 64),
    'multiply-4': (Multiply(digits=4), dict(n_layer=2, n_head=4, n_embd=128), 64),
    # the model of Bachmann & Nagarajan (2024)
    'star-50': (Star(star=(5, 5), nodes=50), dict(n_layer=6, n_head=6, n_embd=384), 256),
}

N_PROMPTS = 128  # from which tokens are generated, all at once

# whose batches are timed
TIMED = (
    Cycle(),
    CVPR(nodes=100, hops=(30,)),
    Multiply(),
    Star(star=(5, 5), nodes=50),
    Countdown(),
    Profiles(),
    Maze(format='grid'),
)


# -----------------------------------------------------------------------------
# timing

def time_in_turns(n_turns, device, *functions):
    """Seconds of each function in each turn: one list of n_turns numbers for each function.

    The functions are called one after the other in each turn, after a short warm-up.
    """
    for function in functions:
        for _ in range(min(3, n_turns)):
            function()

    seconds = [[] for _ in functions]
    for _ in range(n_turns):
        for function, of_function in zip(functions, seconds, strict=True):
            wait_for(device)
            began = time.perf_counter()
            function()
            wait_for(device)
            of_function.append(time.perf_counter() - began)
    return seconds


def wait_for(device):
    """Wait until the device has done all of its work. A CPU always has."""
    if device.type == 'cuda':
        torch.cuda.synchronize()
    elif device.type == 'mps':
        torch.mps.synchronize()


def ratio(slow, fast):
    """How many times as long one function took as another: the median over turns."""
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


# -----------------------------------------------------------------------------
# a training step

def logits_where_needed(model, idx, mask, shared=None):
    return model(idx, mask, shared=shared)


def logits_with_all_keys(model, idx, mask, shared=None):
    """Computes logits where needed, but keys and values at every position."""
    last = model.blocks[-1]
    last.channels_a_query = math.inf
    logits = model(idx, mask, shared=shared)
    del last.channels_a_query  # back to that of all blocks
    return logits


def logits_everywhere(model, idx, mask):
    """Computes all logits, and throws most of them away."""
    return model(idx)[mask]


def train_step(model, optimizer, tokens, loss_mask, autocast, compute_logits=logits_where_needed):
    """One step as the training scripts take it."""
    mask = loss_mask[:, 1:]
    with autocast:
        logits = compute_logits(model, tokens[:, :-1], mask)
    loss = F.cross_entropy(logits.float(), tokens[:, 1:][mask])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def gradient_gap(model, batch):
    """The largest difference between the gradients with logits everywhere and those of both ways to
    save work, as a share of the largest gradient. In float32."""
    idx = batch.tokens[:, :-1]
    mask = batch.loss_mask[:, 1:]
    target = batch.tokens[:, 1:][mask]

    gradients = []
    for compute_logits in (logits_everywhere, logits_with_all_keys, logits_where_needed):
        loss = F.cross_entropy(compute_logits(model, idx, mask), target)
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))

    largest = max(gradient.abs().max() for gradient in gradients[0])
    gaps = []
    for others in gradients[1:]:
        for a, b in zip(gradients[0], others, strict=True):
            gaps.append((a - b).abs().max())
    return (max(gaps) / largest).item()


def count_flops(step):
    """Floating-point operations of the matrix products of one training step, backward included.

    On a CPU torch does not count its fused attention, a few percent of the work of deep models.
    """
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


# -----------------------------------------------------------------------------
# the measurements. Each prints its table; the last four return values for the last line.

def measure_peak(device, bfloat16):
    """Floating-point operations per second of a large matrix product."""
    n = 8192 if device.type == 'cuda' else 1024
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16 if bfloat16 else torch.float32)
    (seconds,) = time_in_turns(10, device, lambda: a @ a)
    peak = 2 * n**3 / min(seconds)
    print(f'\nmatrix-multiply peak, {n} x {n}: {peak / 1e9:,.0f} GFLOP/s')
    return peak


def measure_training(args, batch, device, autocast, peak):
    """A training step with logits where needed, against logits everywhere.

    Returns ({name: value}, seconds of a step of the configuration's own model).
    """
    task, size, _ = CONFIGS[args.config]
    n_tokens = batch.tokens[:, :-1].numel()
    print('\ntraining step              with skipping      everything   everything / skipping   '
          'all keys / skipping   gradient gap   GFLOP   share of peak')

    final = {}
    seconds_of_step = None
    for n_layer in sorted({1, 2, 4, size['n_layer']}):
        torch.manual_seed(args.seed)
        model = make_model(len(task.vocab), task.block_size, size, n_layer, device)
        gap = gradient_gap(model, batch)
        optimizer = model.configure_optimizer(1e-3, 0.01)
        step = partial(train_step, model, optimizer, batch.tokens, batch.loss_mask, autocast)
        skipping, all_keys, everything = time_in_turns(
            args.repeats, device,
            step,
            partial(step, compute_logits=logits_with_all_keys),
            partial(step, compute_logits=logits_everywhere))

        flops = count_flops(step)
        median = statistics.median(skipping)
        speed = n_tokens / median
        speed_of_everything = n_tokens / statistics.median(everything)
        peak_share = flops / median / peak
        print(f'{layers(n_layer)} {speed:22,.0f} tok/s {speed_of_everything:10,.0f} tok/s '
              f'{ratio(everything, skipping):21.2f} x {ratio(all_keys, skipping):19.2f} x '
              f'{gap:14.1e} {flops / 1e9:7.2f} {peak_share:13.1%}')

        final[f'skip_{n_layer}'] = ratio(everything, skipping)
        final[f'keys_{n_layer}'] = ratio(all_keys, skipping)
        if n_layer == size['n_layer']:
            seconds_of_step = median
            final['tokens_per_s'] = speed
            final['peak_share'] = peak_share
            final['gradient_gap'] = f'{gap:.1e}'
    return final, seconds_of_step


def measure_generation(args, device):
    """32 new tokens after prompts of 64, with and without the cache. Returns {name: value}."""
    task, size, _ = CONFIGS[args.config]
    print(f'\ngeneration, 64 + 32 tokens, batch {N_PROMPTS}    cached       uncached   '
          'uncached / cached')
    prompt = torch.randint(len(task.vocab), (N_PROMPTS, 64), device=device)
    n_new = N_PROMPTS * 32

    final = {}
    for n_layer in sorted({1, 2, 4, size['n_layer']}):
        model = make_model(len(task.vocab), 64 + 32, size, n_layer, device)
        cached, uncached = time_in_turns(
            max(1, args.repeats // 3), device,
            partial(model.generate, prompt, 32, use_cache=True),
            partial(model.generate, prompt, 32, use_cache=False))
        print(f'{layers(n_layer)} {n_new / statistics.median(cached):32,.0f} tok/s '
              f'{n_new / statistics.median(uncached):8,.0f} tok/s '
              f'{ratio(uncached, cached):13.2f} x')
        final[f'cache_{n_layer}'] = ratio(uncached, cached)
    return final


def measure_reinforcement(args, device, autocast):
    """Sampling chains against the gradient step on them, with the default sizes of train_rl.py.

    Returns {name: value}.
    """
    print('\nreinforcement learning, 128 x 8 chains   sampling   gradient step   '
          'sampling / gradient   prompts repeated / shared')
    task = Cycle(nodes=10, hops=(1, 2, 3, 4))
    _, size, _ = CONFIGS['cycle-20']
    batch = sample_batch(task, 128, args.seed, 0).to(device)
    prompts = batch.tokens[:, :batch.prompt_len]
    loss_mask = batch.loss_mask.repeat_interleave(8, dim=0)

    final = {}
    for n_layer in (1, 2):
        model = make_model(len(task.vocab), task.block_size, size, n_layer, device)
        optimizer = model.configure_optimizer(1e-3, 0.01)
        sample = partial(sample_chains, model, prompts, autocast)
        step = partial(train_step, model, optimizer, sample(), loss_mask, autocast)
        share_prompts = partial(logits_where_needed, shared=(batch.prompt_len, 8))
        sampling, shared, repeated = time_in_turns(
            args.repeats, device,
            sample,
            partial(step, compute_logits=share_prompts),
            partial(step, compute_logits=logits_where_needed))

        print(f'{layers(n_layer)} {statistics.median(sampling) * 1e3:38.1f} ms '
              f'{statistics.median(shared) * 1e3:12.1f} ms {ratio(sampling, shared):20.2f} x '
              f'{ratio(repeated, shared):25.2f} x')
        final[f'sampling_{n_layer}'] = ratio(sampling, shared)
        final[f'shared_{n_layer}'] = ratio(repeated, shared)
    return final


def sample_chains(model, prompts, autocast):
    """8 chains of 4 tokens for each prompt."""
    with autocast:
        return model.generate(prompts, 4, temperature=1.0, samples=8)


def measure_data(args, seconds_of_step):
    """Batches of each task per second. Returns {name: value}."""
    task, _, batch_size = CONFIGS[args.config]
    print(f'\ndata, batches of {batch_size} a second (and the time to draw one, as a share of the '
          'training step above)')
    samplers = [partial(sample_batch, each, batch_size, args.seed, 1) for each in (*TIMED, task)]
    *of_tasks, of_config = time_in_turns(args.repeats, torch.device('cpu'), *samplers)

    for each, seconds in zip(TIMED, of_tasks, strict=True):
        print(f'  {each.name:10} {1 / statistics.median(seconds):8,.0f}')
    median = statistics.median(of_config)
    print(f'  this one   {1 / median:8,.0f}   {median / seconds_of_step:.1%}')
    return {'data_share': median / seconds_of_step}


def make_model(vocab_size, block_size, size, n_layer, device):
    """A model of this size, but with n_layer layers."""
    return GPT(GPTConfig(vocab_size, block_size, **size | {'n_layer': n_layer})).to(device)


def layers(n_layer):
    """The head of a row: '1 layer ', '2 layers'."""
    return '1 layer ' if n_layer == 1 else f'{n_layer} layers'


# -----------------------------------------------------------------------------
# command line

def parse_args(argv):
    parser = Parser(__doc__)
    add = parser.add_argument
    add('--config', choices=CONFIGS, default='cycle-20', help='task, model and batch size')
    add('--repeats', type=at_least(1), default=30, help='turns of every comparison')
    add('--device', default='auto', help='auto (cuda, then mps, then cpu) or a name')
    add('--dtype', choices=('auto', 'float32', 'bfloat16'), default='auto',
        help='auto: bfloat16 autocast on cuda, else float32')
    add('--seed', type=seed_number, default=1337, help='decides weights and data')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    device = common.find_device(args.device)
    bfloat16 = common.uses_bfloat16(args.dtype, device)
    autocast = common.autocast(bfloat16, device)
    torch.set_float32_matmul_precision('high')  # TF32 on cuda

    task, size, batch_size = CONFIGS[args.config]
    batch = sample_batch(task, batch_size, args.seed, 0).to(device)
    loss_share = batch.loss_mask.float().mean()
    print(f'{args.config}: batch {tuple(batch.tokens.shape)}, {loss_share:.0%} of its tokens carry '
          f'loss; {size}; {device}, {torch.get_num_threads()} threads, torch {torch.__version__}')

    peak = measure_peak(device, bfloat16)
    training, seconds_of_step = measure_training(args, batch, device, autocast, peak)
    final = {
        'config': args.config,
        'device': device.type,
        **training,
        **measure_generation(args, device),
        **measure_reinforcement(args, device, autocast),
        **measure_data(args, seconds_of_step),
    }
    print(in_words(final))
    print(common.final_line(**final))
    return final


def in_words(final):
    """One sentence: what was found, and what shows that the comparison is fair."""
    return (f'With one layer, a training step that computes logits at the loss tokens alone is '
            f'{final["skip_1"]:.2f} times faster than one that computes them everywhere; the '
            f'gradients differ by {final["gradient_gap"]}.')


if __name__ == '__main__':
    with one_line_errors():
        main()
