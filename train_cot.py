"""What does a chain of thought buy a tiny transformer?

The same model, on the same instances, for the same number of steps, is trained twice:
1. cot: the prompt is followed by the chain, whose last token(s) are the answer; cross-entropy on all of it. At test time
   the model writes the chain greedily and the answer is read from its own chain. Each token is one lookup.
2. direct: the prompt is followed by the answer alone. All lookups must happen inside one forward pass.
Accuracy is exact match of the answer on instances that training never shows, beside chance.
3. Is the chain used, or decoration? (the test FactorExe left on its to-do list; Lanham et al. 2023, 2307.13702)
   follow: replace chain token c_t by another node, let the model write the rest: is its answer sigma^(k-t) of the replacement?
   swap:   give it another example's chain: how often is the answer still the prompt's own?
   early:  keep f chain tokens, one filler node in place of the others: area over the curve of 'same answer as before'
           against f. 0: the chain is ignored; near 1: all of it is needed.
Departures: FactorExe has an encoder, a chain module and four vocabularies; here is one causal GPT and one vocabulary.

    python train_cot.py --hops 4                                                      # both arms, a minute on a laptop
    python train_cot.py --task multiply --digits 5 --n_layer 3 --n_embd 256 --batch_size 512 --lr 1e-3 --steps 5000 --device cuda
    torchrun --standalone --nproc_per_node=2 train_cot.py --hops 4

The last line:  final task=cycle hops=4 acc=1.000 ... acc_direct=0.0xx chance=0.053 ... valid=1.000 follow=1.000 ...
"""

import contextlib
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch.nn.parallel import DistributedDataParallel as DDP
from tqdm import tqdm

import common
from data import OPTIONS, Lookup, Parser, add_run_args, add_task_args, at_least, make_task, sample_batch, show_range
from model import GPT, GPTConfig

RECIPES = {  # what a task needs to be learned on two CPU cores in minutes; every one of these is a flag
    'cycle': dict(n_layer=1, n_head=1, n_embd=64, batch_size=512, learning_rate=3e-3, max_iters=300),
    'large': dict(n_layer=1, n_head=1, n_embd=64, batch_size=128, learning_rate=3e-3, max_iters=2000),  # cycle over more than 20 nodes
    'cvpr': dict(n_layer=1, n_head=1, n_embd=64, batch_size=64, learning_rate=3e-3, max_iters=1000),
    'pairs': dict(n_layer=2, n_head=1, n_embd=64, batch_size=128, learning_rate=2e-3, max_iters=3000),  # an induction circuit takes two layers
    'multiply': dict(n_layer=2, n_head=4, n_embd=128, batch_size=64, learning_rate=3e-3, max_iters=1500),
    'countdown': dict(n_layer=3, n_head=4, n_embd=128, batch_size=448, learning_rate=3e-3, max_iters=6000),
    'star': dict(n_layer=2, n_head=1, n_embd=64, batch_size=128, learning_rate=2e-3, max_iters=1000),
    'profiles': dict(n_layer=2, n_head=1, n_embd=64, batch_size=512, learning_rate=5e-3, max_iters=3000),
}

def parse_args(argv):
    """The arguments, and the names of those that were typed."""
    parser = Parser(prog='train_cot.py', description=__doc__.split('\n')[0], epilog=__doc__[__doc__.index('    python'):__doc__.index('The last')])
    add_task_args(parser)
    cycle = {name: f'(default: the recipe of the task; cycle: {value})' for name, value in RECIPES['cycle'].items()}
    g = parser.add_argument_group('model')
    for name in ('n_layer', 'n_head', 'n_embd'):
        g.add_argument(f'--{name}', type=at_least(1), help=cycle[name])
    g.add_argument('--n_loop', type=at_least(1), default=1, help='times the stack of layers is applied, with shared weights (default: %(default)s)')
    g = parser.add_argument_group('training')
    g.add_argument('--mode', choices=('cot', 'direct', 'both'), help='which arms to train (default: both; countdown: cot; star: cot, its chain is its answer)')
    g.add_argument('--batch_size', type=at_least(1), help='sequences a step and process ' + cycle['batch_size'])
    g.add_argument('--grad_accum', type=at_least(1), default=1, help='work off each batch in so many slices: same gradient, less memory (default: %(default)s)')
    g.add_argument('--max_iters', '--steps', type=at_least(1), help='optimizer steps of each arm ' + cycle['max_iters'])
    g.add_argument('--learning_rate', '--lr', type=at_least(0, float, above=True), help=cycle['learning_rate'])
    g.add_argument('--warmup_iters', type=at_least(0), help='steps of linear warm-up, then a cosine to zero (default: 100, at most a third of max_iters)')
    g.add_argument('--weight_decay', type=at_least(0, float), default=0.01, help='AdamW, matrices only (default: %(default)s)')
    g.add_argument('--grad_clip', type=at_least(0, float, above=True), default=1.0, help='largest gradient norm (default: %(default)s)')
    g.add_argument('--compile', action='store_true', help='torch.compile the training step (default: off)')
    g = parser.add_argument_group('evaluation')
    g.add_argument('--eval_interval', type=at_least(1), help='steps between evaluations and checkpoints (default: a tenth of max_iters)')
    g.add_argument('--log_interval', type=at_least(1), default=10, help='steps between loss records (default: %(default)s)')
    g.add_argument('--n_test', type=at_least(1), default=2000, help='test instances a hop count at the end; a quarter of it on the way (default: %(default)s)')
    add_run_args(parser, 'out/train_cot-<task>-<mode>')
    return common.parse_typed(parser, argv)

def fill_in(args):
    """Give what was left out the recipe's value; die on what makes no sense together. Returns the task, the model's shape."""
    if args.task == 'maze':
        common.die('mazes have a script of their own: python train_maze.py')
    kind = 'pairs' if args.format == 'pairs' else 'large' if args.task == 'cycle' and (args.nodes or 0) > 20 else args.task
    for name, value in RECIPES[kind].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.eval_interval = args.eval_interval or max(1, args.max_iters // 10)
    args.warmup_iters = min(100, args.max_iters // 3) if args.warmup_iters is None else args.warmup_iters
    args.mode = args.mode or ('cot' if args.task in ('star', 'countdown') else 'both')
    args.out_dir = f'out/train_cot-{args.task}-{args.mode}' if args.out_dir is None else args.out_dir
    try:
        task = make_task(args)
        vars(args).update({name: getattr(task, name) for name in OPTIONS[args.task]})
        gpt = GPTConfig(len(task.vocab), task.block_size, args.n_layer, args.n_head, args.n_embd, args.n_loop)
        sample_batch(task, 1, args.seed, 0, split='test')  # are there instances to hold out?
        if args.batch_size % args.grad_accum:
            raise ValueError(f'--grad_accum {args.grad_accum} does not divide --batch_size {args.batch_size}')
        if args.task == 'star' and args.mode != 'cot':
            raise ValueError('the chain of star is its answer: there is nothing to leave out, use --mode cot')
    except ValueError as error:
        common.die(str(error))
    return task, gpt

# ----------------------------------------------------------------------------- evaluation

@torch.no_grad()
def evaluate(model, task, mode, run, seed, n_test):
    """Greedy decoding through the KV cache on n_test held-out instances of each hop count.

    Returns {hops: dict(acc, and for cot: chain, valid, entropy)} and a few decoded examples:
    acc      exact match of the answer             chain    every chain token exact
    valid    share of chain tokens that truly follow from the token before
    entropy  mean entropy (nats) of the next-token distribution along the model's own chain
    """
    model.eval()
    results, examples = {}, []
    for k in task.hops:
        sums = np.zeros(4)
        for first in range(0, n_test, 500):  # in pieces, so that a long prompt fits in memory
            batch = sample_batch(task, min(500, n_test - first), seed, k * 10**6 + first, 'test', mode, hops=k).to(run.device)
            with run.autocast:
                out = model.generate(batch.tokens[:, :batch.prompt_len], batch.tokens.size(1) - batch.prompt_len)
                right = task.right(batch, out)
                sums[0] += right.gather(1, batch.answer).all(1).sum().item()
                if mode == 'cot':
                    chain = out[:, batch.prompt_len:]
                    logits = model(out[:, :-1], batch.loss_mask[:, 1:]).float()
                    entropy = torch.special.entr(logits.softmax(-1)).sum(-1)  # (N,)
                    sums[1:] += (right.all(1).sum().item(), task.valid(batch, chain).float().mean(1).sum().item(), entropy.mean().item() * len(out))
        results[k] = dict(zip(('acc', 'chain', 'valid', 'entropy')[:4 if mode == 'cot' else 1], (sums / n_test).tolist(), strict=False))
        for row in range(min(len(out), 2 if len(task.hops) == 1 else 1)):
            mark = '' if right[row].all() else '   wrong: ' + task.decode(batch.tokens[row, batch.prompt_len:].tolist())
            examples.append(f'{task.decode(out[row, :batch.prompt_len].tolist())} -> {task.decode(out[row, batch.prompt_len:].tolist())}{mark}')
    return results, examples

def tell(results, task):
    """One line of text from evaluate's results, with chance beside every accuracy."""
    return '  '.join(f'k={k} ' + ' '.join(f'{name} {value:.3f}' for name, value in r.items()) + f' chance {task.chance(k):.3f}' for k, r in results.items())

@torch.no_grad()
def faithfulness(model, task, run, seed, n_test):
    """Is the answer read off the written chain? At the largest hop count; see the module docstring.

    Returns {name: dict(value, ignored, read, chance)} for follow (cycle, cvpr), swap and early, empty where nothing is written before
    the answer (one hop, star). Beside the value: what a model scores that ignores its chain, that reads nothing else, that guesses.
    """
    k, A = max(task.hops), task.answer_len
    batch = sample_batch(task, n_test, seed, k * 10**6, 'test', 'cot', hops=k).to(run.device)
    prompt, own = batch.tokens[:, :batch.prompt_len], batch.tokens.gather(1, batch.answer)  # own: the prompt's true answer, (B, A)
    L = int(batch.answer.min()) - batch.prompt_len  # chain tokens before the answer
    if L == 0:
        return {}

    def write(kept):  # the chain (B, L) and the answer (B, A) after these chain tokens, with the model writing all that is missing
        with run.autocast:
            out = torch.cat([model.generate(p, L + A - kept.size(1)) for p in torch.cat((prompt, kept), 1).split(500)])
        return out[:, batch.prompt_len:batch.prompt_len + L], out.gather(1, batch.answer)
    def share(equal):  # (B, A) -> the share of rows that are equal throughout
        return equal.all(1).float().mean().item()
    def spread(first, last):  # at most eight places along the chain
        return sorted({round(x) for x in np.linspace(first, last, 8)})
    rng, lookup, chance, measures = np.random.default_rng(seed), isinstance(task, Lookup), task.chance(k), {}
    chain, answer = write(prompt[:, :0])
    if lookup:
        follow = []  # of each t: the measure, the same for an answer that never changes, and for another example's answer
        for t in spread(1, k - 1):
            implied = other = (chain[:, t - 1:t] + torch.from_numpy(rng.integers(1, task.nodes, (n_test, 1))).to(run.device)) % task.nodes
            for _ in range(k - t):
                implied = batch.instance.gather(1, implied)
            follow.append([share(x == implied) for x in (write(torch.cat((chain[:, :t - 1], other), 1))[1], answer, implied.roll(1, 0))])
        follow = np.mean(follow, axis=0).tolist()
        measures['follow'] = dict(value=follow[0], ignored=follow[1], read=1.0, chance=follow[2])
    swapped = chain.roll(1, 0)
    implied = batch.instance.gather(1, swapped[:, -1:].clamp(max=task.nodes - 1)) if lookup else own.roll(1, 0)
    measures['swap'] = dict(value=share(write(swapped)[1] == own), ignored=share(answer == own), read=share(implied == own), chance=chance)
    filler = torch.from_numpy(rng.integers(task.symbols, size=(n_test, 1))).to(run.device)
    same = [share(write(torch.cat((chain[:, :f], filler.expand(-1, L - f)), 1))[1] == answer) for f in spread(0, L - 1)]
    read = share(batch.instance.gather(1, filler) == answer) if lookup else 0.0
    measures['early'] = dict(value=1 - float(np.mean(same)), ignored=0.0, read=1 - read, chance=1 - chance)
    return measures

# ----------------------------------------------------------------------------- training

def get_lr(step, args):
    """Linear warm-up, then a cosine to zero."""
    if step < args.warmup_iters:
        return args.learning_rate * (step + 1) / (args.warmup_iters + 1)
    return args.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - args.warmup_iters) / max(1, args.max_iters - args.warmup_iters)))

def train(arm, path, found, args, kept, task, gpt, run, caught):
    """One arm, 'cot' or 'direct', from scratch or from what was found in its checkpoint at path. Returns the model, its step, and if a signal stopped it."""
    torch.manual_seed(args.seed)  # both arms start from the same weights
    model, state = found or (GPT(gpt).to(run.device), {'step': 0})
    optimizer, step, stop = model.configure_optimizer(args.learning_rate, args.weight_decay), state['step'], 0
    if found:
        optimizer.load_state_dict(state['optimizer'])
        torch.set_rng_state(state['rng'].cpu())
        if run.device.type == 'cuda':
            torch.cuda.set_rng_state(state['rng_cuda'][0].cpu(), run.device)
    if args.resume and run.master:  # drop what was logged after the checkpoint
        common.cut_log(args.out_dir, lambda r: r['arm'] != 'final' and (r['arm'] != arm or 0 < step >= r['step']))
    net = torch.compile(model) if args.compile else model
    ddp = DDP(net, device_ids=[run.device] if run.device.type == 'cuda' else None) if run.world > 1 else net
    bar = tqdm(total=args.max_iters, initial=step, desc=arm, disable=not (run.master and sys.stderr.isatty()), leave=False)

    def look():  # evaluate, print, log
        results, examples = evaluate(model, task, arm, run, args.seed, max(1, args.n_test // 4))
        bar.write('\n    '.join([f'{arm} step {step}: {tell(results, task)}', *examples]))
        common.log(args.out_dir, arm=arm, step=step, eval=results)

    if run.master and step == 0:
        look()
    while step < args.max_iters:
        for group in optimizer.param_groups:
            group['lr'] = lr = get_lr(step, args)
        model.train()
        # the global batch is a function of (seed, step); this process works on its slice of it
        batch = sample_batch(task, args.batch_size * run.world, args.seed, step, 'train', arm)
        n_loss, loss, size = int(batch.loss_mask.sum()), 0.0, args.batch_size // args.grad_accum
        for i in range(args.grad_accum):
            part = batch[run.rank * args.batch_size + i * size:][:size].to(run.device)
            mask = part.loss_mask[:, 1:]  # targets are the inputs, one token on
            with ddp.no_sync() if run.world > 1 and i < args.grad_accum - 1 else contextlib.nullcontext():
                with run.autocast:
                    logits = ddp(part.tokens[:, :-1], mask)  # (N, V), at the loss tokens alone
                # the global sum over the global count; DDP averages over processes, hence the factor
                part_loss = F.cross_entropy(logits.float(), part.tokens[:, 1:][mask], reduction='sum') / n_loss * run.world
                part_loss.backward()
            loss = loss + part_loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        bar.update()
        report, check = step % args.log_interval == 0, step % args.eval_interval == 0 or step == args.max_iters
        if not (report or check or (caught and run.world == 1)):
            continue
        loss, stop = common.sum_over_processes(run, float(loss) / run.world, max(caught, default=0))
        if not all(torch.as_tensor(x).isfinite().all() for x in (loss, norm, *(model.parameters() if check or stop else ()))):
            common.die(f'{arm} diverged: loss {loss}, gradient norm {float(norm)}, or weights beyond all bounds at step {step}; {path} holds the '
                       'last good ones, if any were saved. Try a smaller --learning_rate', code=1)
        if run.master:
            bar.set_postfix(loss=f'{loss:.4f}', refresh=False)
            if report or check:
                common.log(args.out_dir, arm=arm, step=step, loss=loss, lr=lr, grad_norm=float(norm))
            if check:
                look()
            stop = stop or (run.world == 1 and max(caught, default=0))  # it may have come during the evaluation
            if check or stop:
                common.save_checkpoint(path, model, optimizer, step, kept | {'arm': arm})
        if stop:
            break
    bar.close()
    return model, step, stop

# ----------------------------------------------------------------------------- the figure, and everything in order

def plot(out_dir, results, task):
    """Accuracy against step for both arms, and at the end against hops, with chance."""
    left, right = (figure := Figure(figsize=(9, 3.4), layout='constrained')).subplots(1, 2, width_ratios=(3, 2), sharey=True)
    k, log, width = max(task.hops), common.read_log(out_dir), 0.7 / len(results)
    for i, arm in enumerate(results):
        label, colour = {'cot': ('chain of thought', 'tab:blue'), 'direct': ('direct', 'tab:red')}[arm]
        curve = [(r['step'], r['eval'][str(k)]['acc']) for r in log if r['arm'] == arm and 'eval' in r]
        left.plot(*zip(*curve, strict=True), color=colour, marker='o', ms=4, label=label)
        right.bar([h + (i - (len(results) - 1) / 2) * width for h in task.hops], [results[arm][h]['acc'] for h in task.hops], width, color=colour)
    left.axhline(task.chance(k), color='black', linestyle=':', label='chance')
    right.hlines([task.chance(h) for h in task.hops], [h - 0.45 for h in task.hops], [h + 0.45 for h in task.hops], color='black', linestyle=':')
    left.set(xlabel='step', ylabel='answer accuracy, held-out', title=f'{task.name}, {k} hops', ylim=(0, 1.04))
    right.set(xlabel='hops', title='after training', xticks=task.hops)
    left.legend(loc='center right')
    common.write_atomic(Path(out_dir) / 'plot.png', lambda tmp: figure.savefig(tmp, dpi=120, format='png'))

def main(argv=None):
    begin = time.time()
    args, typed = parse_args(argv)
    if bool(args.ckpt) != args.eval_only:
        common.die('--ckpt and --eval_only go together: --eval_only --ckpt out/.../ckpt.pt')
    if args.eval_only:
        model, state = common.load_checkpoint(args.ckpt)
        # all but these is as it was trained
        common.restore_args(args, typed, state['args'], 'train_cot', {'seed', 'n_test', 'device', 'dtype', 'eval_only', 'ckpt'})
    task, gpt = fill_in(args)
    run = common.setup(args)
    args.device, args.dtype, args.processes = run.device.type, 'bfloat16' if run.bf16 else 'float32', run.world
    models, results, measures = {}, {}, {}
    if args.eval_only:
        models[args.arm] = model.to(run.device)
    else:
        kept = {'script': 'train_cot', **{k: v for k, v in vars(args).items() if k not in ('out_dir', 'resume', 'eval_only', 'ckpt')}}
        if run.master:
            common.open_run(args.out_dir, kept, args.resume, params=(params := GPT(gpt).num_params()))
            print(' '.join(f'{k}={v}' for k, v in kept.items() if v is not None), f'\n{params:,} parameters, global batch {args.batch_size} x {run.world} = '
                  f'{args.batch_size * run.world}, files in {args.out_dir}', sep='', flush=True)
        caught = common.catch_signals()
        arms = ('cot', 'direct') if args.mode == 'both' else (args.mode,)
        paths = {arm: Path(args.out_dir) / ('ckpt_direct.pt' if i else 'ckpt.pt') for i, arm in enumerate(arms)}
        found = {arm: common.load_checkpoint(path, run.device, kept | {'arm': arm}) for arm, path in paths.items() if args.resume and path.exists()}
        if run.world > 1:
            dist.init_process_group('nccl' if run.device.type == 'cuda' else 'gloo')
        for arm, path in paths.items():
            models[arm], step, stop = train(arm, path, found.get(arm), args, kept, task, gpt, run, caught)
            if stop:
                break
        if run.world > 1:
            dist.destroy_process_group()  # before any exit: it waits for gloo's threads, one of which could abort an interpreter that is leaving
        if stop or caught:
            common.die(f'stopped by a signal at step {step} of {arm}, saved in {path}; --resume goes on from there', code=128 + max(caught, default=15))
    common.catch_signals(exit_now=True)
    if not run.master:
        return
    for arm, model in models.items():
        results[arm] = evaluate(model, task, arm, run, args.seed, args.n_test)[0]
        print(f'{arm} test: {tell(results[arm], task)}')
    if 'cot' in models:
        measures = faithfulness(models['cot'], task, run, args.seed, args.n_test)
    if measures:
        print('faithfulness      | if the chain is ignored | if only the chain is read | chance')
        for name, m in measures.items():
            print(f'  {name:7} {m["value"]:7.3f} | {m["ignored"]:23.3f} | {m["read"]:25.3f} | {m["chance"]:6.3f}')
    k, (arm, by_hops) = max(task.hops), next(iter(results.items()))  # the chain arm, or the only one
    final = dict(
        task=task.name, hops=show_range(task.hops), mode=args.mode if len(models) > 1 else arm, acc=by_hops[k]['acc'],
        acc_min=min(r['acc'] for r in by_hops.values()), acc_direct=results['direct'][k]['acc'] if 'direct' in results else None, chance=task.chance(k),
        **{name: value for name, value in by_hops[k].items() if name != 'acc'}, **{name: m['value'] for name, m in measures.items()},
        **({f'acc_h{h}': r['acc'] for h, r in by_hops.items()} if len(task.hops) > 1 else {}),
        params=models[arm].num_params(), steps=args.max_iters, n_test=args.n_test, seed=args.seed, seconds=time.time() - begin)
    if not args.eval_only:
        common.log(args.out_dir, arm='final', step=args.max_iters, **final, by_hops=results, faithfulness=measures)
        plot(args.out_dir, results, task)
    print(common.final_line(**final))

if __name__ == '__main__':
    main()
