"""How fast is it, and is the work that the loss does not need really skipped?

One run measures, for a named configuration, on this machine, at this moment:
1. the machine's own matrix-multiply peak, the yardstick for everything else;
2. a training step (forward, backward, clip, AdamW): tokens per second, the share of that peak, and the same step computing
   logits at every position, for 1, 2 and 4 layers, with the largest difference between the two gradients;
3. generation: 32 new tokens after a prompt of 64, with and without the key/value cache;
4. reinforcement learning, the default of train_rl.py: sampling 8 chains for each of 128 questions, against the gradient step on them,
   each prompt worked through once (`shared`) or eight times;
5. batches per second of every task, and how much of a training step drawing one takes.
What is compared is timed in turns, A B A B ..., and the ratio is the median over turns, so that a noisy machine does not matter.

    python bench.py                        # the default run of train_cot.py
    python bench.py --config star-50 --device cuda

The last line:  final config=cycle-20 device=cpu skip_1=... tokens_per_s=... peak_share=... skip_2=... cache_1=... data_share=...
"""

import statistics
import time

import torch
import torch.nn.functional as F

import common
from data import CVPR, TASKS, Countdown, Cycle, Maze, Multiply, Parser, Profiles, Star, at_least, sample_batch
from model import GPT, GPTConfig

CONFIGS = {
    'cycle-20': (Cycle(), dict(n_layer=1, n_head=1, n_embd=64), 512),  # the defaults of train_cot.py
    'cvpr-100': (CVPR(nodes=100, hops=(30,)), dict(n_layer=1, n_head=1, n_embd=64), 64),
    'multiply-4': (Multiply(digits=4), dict(n_layer=2, n_head=4, n_embd=128), 64),
    'star-50': (Star(star=(5, 5), nodes=50), dict(n_layer=6, n_head=6, n_embd=384), 256),  # Bachmann & Nagarajan's size
}

def turns(repeats, device, *functions):
    """Seconds of each function in each of `repeats` turns, one call apiece after a warm-up: a list of tuples."""
    synchronize = {'cuda': torch.cuda.synchronize, 'mps': torch.mps.synchronize}.get(device.type, lambda: None)

    def once(f):
        synchronize()
        begin = time.perf_counter()
        f()
        synchronize()
        return time.perf_counter() - begin
    for f in functions:
        for _ in range(min(3, repeats)):
            f()
    return [tuple(once(f) for f in functions) for _ in range(repeats)]

def median(rows, i):
    return statistics.median(row[i] for row in rows)

def ratio(rows, slow=1, fast=0):
    """Median over turns of how many times longer the one took than the other."""
    return statistics.median(row[slow] / row[fast] for row in rows)

def skipping(model, x, mask, **options):
    return model(x, mask, **options)

def everything(model, x, mask):
    """Logits everywhere, most of which are thrown away."""
    return model(x)[mask]

def train_step(model, optimizer, tokens, loss_mask, run, forward=skipping, **options):
    """One step as in the training scripts."""
    mask = loss_mask[:, 1:]
    with run.autocast:
        logits = forward(model, tokens[:, :-1], mask, **options)
    loss = F.cross_entropy(logits.float(), tokens[:, 1:][mask])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

def gradient_gap(model, batch):
    """Largest difference between any two gradients with and without skipping, relative to the largest gradient (float32)."""
    x, mask, found = batch.tokens[:, :-1], batch.loss_mask[:, 1:], []
    for logits in (model(x, mask), model(x)[mask]):
        found.append(torch.autograd.grad(F.cross_entropy(logits, batch.tokens[:, 1:][mask]), list(model.parameters())))
    largest = max(g.abs().max() for g in found[1])
    return (max((a - b).abs().max() for a, b in zip(*found, strict=True)) / largest).item()

def main(argv=None):
    parser = Parser(prog='bench.py', description=__doc__.split('\n')[0], epilog=__doc__[__doc__.index('    python'):__doc__.index('The last')])
    parser.add_argument('--config', choices=CONFIGS, default='cycle-20', help='task, model and batch size (default: %(default)s)')
    parser.add_argument('--repeats', type=at_least(1), default=30, help='turns of every comparison (default: %(default)s)')
    parser.add_argument('--device', default='auto', help='auto (cuda, then mps, then cpu), or a name (default: %(default)s)')
    parser.add_argument('--dtype', choices=('auto', 'float32', 'bfloat16'), default='auto', help='auto: bfloat16 autocast on cuda (default: %(default)s)')
    parser.add_argument('--seed', type=at_least(0), default=1337, help='(default: %(default)s)')
    args = parser.parse_args(argv)
    run = common.setup(args)
    device, (task, shape, batch_size) = run.device, CONFIGS[args.config]
    batch = sample_batch(task, batch_size, args.seed, 0).to(device)
    tokens = batch.tokens[:, :-1].numel()
    final = {'config': args.config, 'device': device.type}
    print(f'{args.config}: batch {tuple(batch.tokens.shape)}, {batch.loss_mask.float().mean():.0%} of its tokens carry loss; {shape}; '
          f'{device}, {torch.get_num_threads()} threads, torch {torch.__version__}')

    n = 8192 if device.type == 'cuda' else 1024
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16 if run.bf16 else torch.float32)
    peak = 2 * n**3 / min(t for (t,) in turns(10, device, lambda: a @ a))
    print(f'\nmatrix-multiply peak, {n} x {n}: {peak / 1e9:,.0f} GFLOP/s')

    print('\ntraining step              with skipping      everything   everything / skipping   gradient gap   GFLOP   share of peak')
    step_time = None
    for n_layer in sorted({1, 2, 4, shape['n_layer']}):
        torch.manual_seed(args.seed)
        model = GPT(GPTConfig(len(task.vocab), task.block_size, **{**shape, 'n_layer': n_layer})).to(device)
        gap = gradient_gap(model, batch)
        optimizer = model.configure_optimizer(1e-3, 0.01)
        flops = 3 * model.flops(tokens, int(batch.loss_mask.sum()), batch.tokens.size(1) - 1)  # the backward pass is two more
        rows = turns(args.repeats, device, *(
            lambda f=f, m=model, o=optimizer: train_step(m, o, batch.tokens, batch.loss_mask, run, f) for f in (skipping, everything)))
        ours, full = median(rows, 0), median(rows, 1)
        print(f'{n_layer} layer{"s" * (n_layer > 1):1} {tokens / ours:22,.0f} tok/s {tokens / full:10,.0f} tok/s {ratio(rows):21.2f} x {gap:17.1e} '
              f'{flops / 1e9:7.2f} {flops / ours / peak:13.1%}')
        final[f'skip_{n_layer}'] = ratio(rows)
        if n_layer == shape['n_layer']:
            step_time = ours
            final.update(tokens_per_s=tokens / ours, peak_share=flops / ours / peak, gradient_gap=f'{gap:.1e}')

    print('\ngeneration, 64 + 32 tokens, batch 128    cached       uncached   uncached / cached')
    prompt = torch.randint(len(task.vocab), (128, 64), device=device)
    for n_layer in sorted({1, 2, 4, shape['n_layer']}):
        model = GPT(GPTConfig(len(task.vocab), 96, **{**shape, 'n_layer': n_layer})).to(device)
        rows = turns(max(1, args.repeats // 3), device, *(lambda c=c, m=model: m.generate(prompt, 32, use_cache=c) for c in (True, False)))
        print(f'{n_layer} layer{"s" * (n_layer > 1):1} {128 * 32 / median(rows, 0):32,.0f} tok/s {128 * 32 / median(rows, 1):8,.0f} tok/s '
              f'{ratio(rows):13.2f} x')
        final[f'cache_{n_layer}'] = ratio(rows)

    print('\nreinforcement learning, 128 x 8 chains   sampling   gradient step   sampling / gradient   prompts repeated / shared')
    asked = sample_batch(Cycle(nodes=10, hops=(1, 2, 3, 4)), 128, args.seed, 0).to(device)
    mask, start = asked.loss_mask.repeat_interleave(8, 0), asked.prompt_len
    for n_layer in (1, 2):
        model = GPT(GPTConfig(15, asked.tokens.size(1), **{**CONFIGS['cycle-20'][1], 'n_layer': n_layer})).to(device)
        optimizer = model.configure_optimizer(1e-3, 0.01)

        def sample(m=model):
            with run.autocast:
                return m.generate(asked.tokens[:, :start], 4, 1.0, samples=8)
        chains = sample()
        rows = turns(args.repeats, device, sample, *(
            lambda s=shared, m=model, o=optimizer, c=chains: train_step(m, o, c, mask, run, shared=s) for shared in ((start, 8), None)))
        by_part = ratio(rows, 0, 1), ratio(rows, 2, 1)
        print(f'{n_layer} layer{"s" * (n_layer > 1):1} {median(rows, 0) * 1e3:38.1f} ms {median(rows, 1) * 1e3:12.1f} ms {by_part[0]:20.2f} x '
              f'{by_part[1]:25.2f} x')
        final[f'sampling_{n_layer}'], final[f'shared_{n_layer}'] = by_part

    print(f'\ndata, batches of {batch_size} a second (and the share of the training step above that drawing one takes)')
    tasks = {'cycle': Cycle(), 'cvpr': CVPR(nodes=100, hops=(30,)), 'multiply': Multiply(), 'star': Star(star=(5, 5), nodes=50),
             'countdown': Countdown(), 'profiles': Profiles(), 'maze': Maze(format='grid')}
    assert tasks.keys() == TASKS.keys()
    rows = turns(args.repeats, torch.device('cpu'), *(lambda t=t: sample_batch(t, batch_size, args.seed, 1) for t in (*tasks.values(), task)))
    for i, name in enumerate(tasks):
        print(f'  {name:10} {1 / median(rows, i):8,.0f}')
    print(f'  this one   {1 / median(rows, len(tasks)):8,.0f}   {median(rows, len(tasks)) / step_time:.1%}')
    print(common.final_line(**final, data_share=median(rows, len(tasks)) / step_time))

if __name__ == '__main__':
    main()
