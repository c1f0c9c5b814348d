"""Can a transformer discover the chain of thought when only its answer is rewarded?

FactorExe's open question: "can the results of these intermediate computations be discovered, i.e. only using supervision from
the final output?" Nobody shows this model a chain:
1. For each question the policy, one causal GPT, samples a group of chains. The k-th sampled token of a k-hop question is its
   answer, so that an easy question asks for the prefix of a hard one's chain.
2. The reward is 1 if that token is right, else 0. The tokens before it are never looked at.
3. On-policy REINFORCE (Williams 1992): one step up the mean over chains of A * sum_{t <= k} log pi(token t). The advantage A is
   the reward minus a baseline that does not depend on the token it judges, so that the reward's gradient stays unbiased:
   none  nothing                                    ema     an exponential running mean of all rewards (0.95)
   loo   the mean reward of the group's other chains
   prefix  the step advantage of VinePPO (Kazemnejad et al. 2024, 2410.01679): the Monte-Carlo value of the prefix that ends in the
         token, minus that of the prefix before it (FactorExe's "state baseline" is the reward minus the latter: noisier, see README)
4. --objective passk ascends pass@k, the chance that one of k chains is right (PKPO, Walder & Karkhanis 2025, 2505.15201; loo is
   its "leave one out minus one"); at k = group_size only a chain that alone is right counts: POPPY (Grinsztajn et al. 2022, 2210.03475).
Relatives: loo is RLOO (Ahmadian et al. 2024, 2402.14740) without its KL term. Subtracting the mean of the whole group instead is
(G-1)/G times that: Dr. GRPO (2503.20783). GRPO (2402.03300) also divides by the group's standard deviation and by the length, clips
ratios and adds a KL term. Here: no KL, no division, and nothing to clip, since with one step a batch every ratio is 1.

    python train_rl.py                                   # 10 nodes, 1 to 4 hops, under two minutes on a laptop
    python train_rl.py --hops 4                          # the control that must fail: no easy questions
    python train_rl.py --nodes 20 --hops 1-6 --curriculum --steps 2000
    python train_rl.py --nodes 32 --hops 1-8 --curriculum --entropy 0.03 --steps 5000 --device cuda
    torchrun --standalone --nproc_per_node=2 train_rl.py

The last line:  final task=cycle hops=1-4 baseline=loo acc=1.000 valid=1.000 reward=0.9xx samples=... chance=0.111 params=51328 ...
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch.nn.parallel import DistributedDataParallel as DDP
from tqdm import tqdm

import common
from data import OPTIONS, Lookup, Parser, add_run_args, add_task_args, at_least, make_task, parse_hops, sample_batch, show_range
from model import GPT, GPTConfig

def parse_args(argv):
    """The arguments, and the names of those that were typed."""
    parser = Parser(prog='train_rl.py', description=__doc__.split('\n')[0], epilog=__doc__[__doc__.index('    python'):__doc__.index('The last')])
    add_task_args(parser, hops='1-4', nodes=10)
    g = parser.add_argument_group('model')
    g.add_argument('--n_layer', type=at_least(1), help='(default: 1; --format pairs: 2)')
    for name, value, text in (('n_head', 1, 'attention heads'), ('n_embd', 64, 'width'), ('n_loop', 1, 'times the layers are applied, with shared weights')):
        g.add_argument(f'--{name}', type=at_least(1), default=value, help=text + ' (default: %(default)s)')
    g.add_argument('--pos', choices=('learned', 'rope', 'none'), default='learned', help='position encoding (default: %(default)s)')
    g.add_argument('--init_from', metavar='CKPT', help='start from this checkpoint, train_cot.py makes one; --resume needs it again (default: none)')
    g = parser.add_argument_group('reinforcement learning')
    g.add_argument('--baseline', choices=('none', 'ema', 'loo', 'prefix'), default='loo', help='what is subtracted from a reward (default: %(default)s)')
    g.add_argument('--objective', choices=('mean', 'passk'), default='mean', help='expected reward, or pass@k (default: %(default)s)')
    g.add_argument('--k', type=at_least(2), help='the k of --objective passk (default: group_size); k = 1 is --objective mean')
    g.add_argument('--rollouts', type=at_least(1), default=4, help='fresh rollouts from each prefix for --baseline prefix (default: %(default)s)')
    g.add_argument('--group_size', type=at_least(1), default=8, help='chains sampled for each question (default: %(default)s)')
    g.add_argument('--temperature', type=at_least(0.01, float), default=1.0, help='of the policy that is sampled and trained (default: %(default)s)')
    g.add_argument('--entropy', type=at_least(0, float), default=0.01, help="bonus for each nat of entropy of a token's distribution (default: %(default)s)")
    g.add_argument('--curriculum', action='store_true', help='fewest hops first, one more whenever over 0.9 of chains for the most are right (default: off)')
    g = parser.add_argument_group('training')
    g.add_argument('--batch_size', type=at_least(1), default=128, help='questions a step and process (default: %(default)s)')
    g.add_argument('--max_iters', '--steps', type=at_least(1), default=1000, help='optimizer steps (default: %(default)s)')
    g.add_argument('--learning_rate', '--lr', type=at_least(0, float, above=True), default=1e-3, help='constant after the warm-up (default: %(default)s)')
    g.add_argument('--warmup_iters', type=at_least(0), default=50, help='steps of linear warm-up (default: %(default)s)')
    g.add_argument('--weight_decay', type=at_least(0, float), default=0.01, help='AdamW, matrices only (default: %(default)s)')
    g.add_argument('--grad_clip', type=at_least(0, float, above=True), default=1.0, help='largest gradient norm (default: %(default)s)')
    g = parser.add_argument_group('evaluation')
    g.add_argument('--log_interval', '--eval_interval', type=at_least(1), help='steps between evaluations and checkpoints (default: max_iters / 30)')
    g.add_argument('--n_test', type=at_least(1), default=2000, help='test instances a hop count at the end; a quarter of it on the way (default: %(default)s)')
    g.add_argument('--test_hops', type=parse_hops, help='at the end test these, longer than trained, the hop token held at the largest trained (default: none)')
    add_run_args(parser, 'out/train_rl-<task>')
    return common.parse_typed(parser, argv)

def fill_in(args):
    """Give what was left out its value; die on what makes no sense together. Returns the task, that of --test_hops, the model's shape."""
    if args.task in ('cycle', 'cvpr'):
        args.nodes, args.hops = 10 if args.nodes is None else args.nodes, args.hops or [1, 2, 3, 4]
    args.n_layer = args.n_layer or (2 if args.format == 'pairs' else 1)  # an induction circuit takes two layers
    args.k = args.k or (args.group_size if args.objective == 'passk' else None)
    args.log_interval = args.log_interval or max(1, args.max_iters // 30)
    args.out_dir = f'out/train_rl-{args.task}' if args.out_dir is None else args.out_dir
    try:
        task = make_task(args)
        if not isinstance(task, Lookup):
            raise ValueError(f'one token must be the answer, which {args.task} does not have; use --task cycle or cvpr')
        vars(args).update({name: getattr(task, name) for name in OPTIONS[args.task]})
        if args.test_hops and args.test_hops[0] <= task.hops[-1]:
            raise ValueError(f'--test_hops {show_range(args.test_hops)} is for longer chains than --hops {show_range(task.hops)}')
        longer = type(task)(args.nodes, args.test_hops, args.format) if args.test_hops else None
        gpt = GPTConfig(len(task.vocab), max(t.block_size for t in (task, longer) if t), args.n_layer, args.n_head, args.n_embd, args.n_loop, pos=args.pos)
        sample_batch(task, 1, args.seed, 0, split='test')  # are there instances to hold out?
        if args.objective == 'mean' and args.k:
            raise ValueError('--k belongs to --objective passk')
        if args.objective == 'passk' and (args.baseline in ('ema', 'prefix') or args.k > args.group_size):
            raise ValueError('--objective passk takes --baseline none or loo, and a --k of at most group_size')
        if args.group_size < 2 and (args.baseline in ('loo', 'prefix') or args.objective == 'passk'):
            raise ValueError(f'--objective {args.objective} with --baseline {args.baseline} needs a --group_size of at least 2')
    except ValueError as error:
        common.die(str(error))
    return task, longer, gpt

# ----------------------------------------------------------------------------- reward and advantage

def verify(batch, chain):
    """The reward: is the k-th token of chain (B, L) the answer of the k-hop question? (B,) bool. All other tokens are ignored."""
    return (chain.gather(1, batch.answer - batch.prompt_len) == batch.tokens.gather(1, batch.answer)).all(1)

def some_right(n, c, k):
    """Chance that k of n chains, drawn without replacement, hold one of the c (a tensor) right ones: 1 - C(n-c, k) / C(n, k), the
    unbiased estimate of pass@k (Chen et al. 2021, 2107.03374). 0 for k = 0."""
    i = torch.arange(k, device=c.device)
    return 1 - ((n - c[..., None] - i).clamp(min=0) / (n - i)).prod(-1)

def advantage(reward, baseline, objective='mean', k=None, mean=0.0, value=None):
    """What multiplies each chain token's grad log pi: reward (P, G) of 0 and 1 -> (P, G, 1), or (P, G, L) for prefix.

    The mean over a group of advantage * sum_t grad log pi is an unbiased estimate of the gradient of the expected reward or, for
    passk, of pass@k: k for a right chain, for a wrong one k times the chance that one of k - 1 others is right (PKPO);
    loo subtracts k times that chance for all, so that wrong chains get 0 and right ones k times the chance to be needed.
    mean: ema's. value (P, G, L + 1): prefix_values; the value of the question itself is the mean of the group's other chains.
    """
    G, r = reward.size(1), reward[..., None]  # (P, G, 1)
    right = reward.sum(1, keepdim=True)[..., None]
    if objective == 'passk':
        others = some_right(G - 1, right - r, k - 1)
        return k * (r + (1 - r) * others - (others if baseline == 'loo' else 0))
    if baseline == 'prefix':
        return torch.cat(((right - r) / (G - 1), value[..., 1:]), dim=-1).diff(dim=-1)
    return r - {'none': 0, 'ema': mean, 'loo': (right - r) / max(1, G - 1)}[baseline]

def prefix_values(model, batch, tokens, reward, rollouts, temperature=1.0, uniform=None):
    """The value of each prefix of each chain: (B, L + 1), at i the mean reward of fresh rollouts from the first i tokens, from the
    answer on the chain's own reward (B,). batch, tokens (B, T): the questions, one row a chain, and the prompts with their chains.
    uniform(n, m): random numbers for m continuations of every row by n tokens, (B * m, n)."""
    S, L = batch.prompt_len, tokens.size(1) - batch.prompt_len
    value = reward[:, None].repeat(1, L + 1)
    for i in range(1, L):
        rows = (batch.hops > i).nonzero()[:, 0]
        u = uniform(L - i, rollouts).view(len(tokens), rollouts, -1)[rows].flatten(0, 1) if uniform else None
        if len(rows):
            out = model.generate(tokens[rows, :S + i], L - i, temperature, samples=rollouts, uniform=u)
            value[rows, i] = verify(batch[rows.repeat_interleave(rollouts)], out[:, S:]).to(value.dtype).view(-1, rollouts).mean(1)
    return value

def log_probs(model, tokens, mask, temperature=1.0, shared=None):
    """Log-probability of each masked token of tokens (B, T), and the entropy of the distribution it was drawn from: (N,), (N,)."""
    log_p = (model(tokens[:, :-1], mask[:, 1:], shared=shared).float() / temperature).log_softmax(-1)  # (N, V)
    return log_p.gather(1, tokens[mask][:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)

# ----------------------------------------------------------------------------- evaluation

@torch.no_grad()
def evaluate(model, task, run, seed, n_test, hop_token=None):
    """Greedy decoding on n_test held-out instances of each hop count, its token replaced by hop_token if given.

    Returns {hops: dict(acc, valid)}, exact match of the answer and share of chain tokens that truly follow from the token before, and
    lines that say so, with chance, and show a decoded example of each hop count beside the truth.
    """
    results, examples = {}, []
    for k in task.hops:
        acc = valid = 0.0
        for first in range(0, n_test, 500):  # in pieces, so that a long prompt fits in memory
            batch = sample_batch(task, min(500, n_test - first), seed, k * 10**6 + first, 'test', hops=k).to(run.device)
            prompt = batch.tokens[:, :batch.prompt_len].clone()
            prompt[:, -2] = hop_token or prompt[:, -2]
            with run.autocast:
                chain = model.generate(prompt, k)[:, batch.prompt_len:]
            acc, valid = acc + verify(batch, chain).sum().item(), valid + task.valid(batch, chain).float().mean(1).sum().item()
        results[k] = dict(acc=acc / n_test, valid=valid / n_test)
        true = task.decode(batch.tokens[0, batch.prompt_len:].tolist())
        examples.append(f'{task.decode(batch.tokens[0, :batch.prompt_len].tolist())} -> {task.decode(chain[0].tolist())}   true: {true}')
    told = '  '.join(f'k={k} acc {r["acc"]:.3f} valid {r["valid"]:.3f} chance {task.chance(k):.3f}' for k, r in results.items())
    return results, [told, *examples]

# ----------------------------------------------------------------------------- training

def train(path, found, model, args, kept, task, run, caught):
    """From the model, or from what was found in its checkpoint at path. Returns the progress made, and whether a signal stopped it."""
    optimizer = model.configure_optimizer(args.learning_rate, args.weight_decay)
    # what a checkpoint must remember. stage: how many of task.hops are in use; mean: ema's; the rest is for the record
    progress = {'step': 0, 'stage': 1 if args.curriculum else len(task.hops), 'mean': 0.0, 'reward': None, 'samples': 0, 'tokens': 0, 'samples_95': None}
    if found:
        progress = {name: found[name] for name in progress}
        optimizer.load_state_dict(found['optimizer'])
    step, stop, P, G = progress['step'], 0, args.batch_size, args.group_size
    if args.resume and run.master:  # drop what was logged after the checkpoint
        common.cut_log(args.out_dir, lambda r: r['arm'] != 'final' and 0 < step >= r['step'])
    ddp = DDP(model, device_ids=[run.device] if run.device.type == 'cuda' else None) if run.world > 1 else model
    bar = tqdm(total=args.max_iters, initial=step, disable=not (run.master and sys.stderr.isatty()), leave=False)

    def record(**measures):  # evaluate, print, log
        results, told = evaluate(model, task, run, args.seed, max(1, args.n_test // 4))
        if progress['samples_95'] is None and results[task.hops[-1]]['acc'] >= 0.95:
            progress['samples_95'] = progress['samples']
        head = f'step {progress["step"]}  samples {progress["samples"]:,}  hops {show_range(task.hops[:progress["stage"]])}'
        bar.write('\n    '.join([head + ''.join(f'  {name} {x:.3f}' for name, x in measures.items()), *told]))
        common.log(args.out_dir, arm='rl', **(progress | measures), eval=results, examples=told[1:])

    if run.master and step == 0:
        record()
    while step < args.max_iters:
        for group in optimizer.param_groups:
            group['lr'] = args.learning_rate * min(1, (step + 1) / (args.warmup_iters + 1))
        # the questions and random numbers of the global batch are a function of (seed, step); this process works on its slice
        hops, rng = task.hops[:progress['stage']], np.random.default_rng([args.seed, 2, step])  # 0 and 1 are the questions' splits
        def uniform(n, m=1, rng=rng):  # the next random numbers of this step: to continue each of this process's chains m times by n tokens
            return torch.from_numpy(rng.random((run.world, P * G * m, n), dtype=np.float32)[run.rank]).to(run.device)
        asked = sample_batch(task, P * run.world, args.seed, step, hops=hops)
        k, R = asked.hops, args.rollouts if args.baseline == 'prefix' else 0  # R rollouts of k - i tokens from prefixes i = 1 .. k - 1
        progress['samples'] += G * int((1 + R * (k - 1)).sum())
        progress['tokens'] += G * int((k + R * k * (k - 1) // 2).sum())
        asked = asked[run.rank * P:][:P].to(run.device)
        start, L = asked.prompt_len, asked.tokens.size(1) - asked.prompt_len
        batch = asked[torch.arange(P, device=run.device).repeat_interleave(G)]  # one row a chain
        mask = batch.loss_mask  # the tokens up to the answer: what comes after it is neither rewarded nor trained
        with run.autocast:
            tokens = model.generate(asked.tokens[:, :start], L, args.temperature, samples=G, uniform=uniform(L))
            reward, value = verify(batch, tokens[:, start:]).float(), None
            if args.baseline == 'prefix':
                value = prefix_values(model, batch, tokens, reward, args.rollouts, args.temperature, uniform).view(P, G, L + 1)
        with run.autocast:  # once more: casts cached while sampling could not be trained through
            logp, entropy = log_probs(ddp, tokens, mask, args.temperature, shared=(start, G))  # (N,)
        reward = reward.view(P, G)
        A = advantage(reward, args.baseline, args.objective, args.k, progress['mean'], value)  # (P, G, 1 or L)
        A = A.expand(P, G, L).flatten(0, 1)[mask[:, start:]]  # (N,)
        # a mean over chains of sums over tokens; DDP's mean over processes makes it that of the global batch
        loss = -(A * logp + args.entropy * entropy).sum() / (P * G)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        bar.update()
        right, hardest = reward.sum(1), asked.hops == hops[-1]  # right chains of each question
        counts = torch.stack((right.sum(), right[hardest].sum(), hardest.sum() * G, (right % G == 0).sum(), (right > 0).sum(), entropy.sum(), loss)).tolist()
        n_right, top, n_top, same, solved, nats, loss, stop = common.sum_over_processes(run, *counts, max(caught, default=0))
        n, mean = P * run.world, n_right / (P * run.world * G)
        progress.update(step=step, mean=0.95 * progress['mean'] + 0.05 * mean if step > 1 else mean, reward=mean)
        if args.curriculum and len(hops) < len(task.hops) and top > 0.9 * n_top:
            progress['stage'] += 1
        if step % args.log_interval and step < args.max_iters and not stop:
            continue
        if not all(torch.as_tensor(x).isfinite().all() for x in (loss, norm, *model.parameters())):
            common.die(f'diverged by step {step}: loss {loss}, gradient norm {float(norm)}, or the weights; try a smaller --learning_rate', code=1)
        if run.master:
            bar.set_postfix(reward=f'{mean:.3f}', refresh=False)
            if step % args.log_interval == 0 or step == args.max_iters:
                record(reward=mean, entropy=nats / (int(k.sum()) * G), grad_norm=float(norm), zero_variance=same / n, pass_at_group=solved / n)
            common.save_checkpoint(path, model, optimizer, step, kept, **{k: v for k, v in progress.items() if k != 'step'})
        if stop:
            break
    bar.close()
    return progress, stop

# ----------------------------------------------------------------------------- the figure, and everything in order

def plot(out_dir, task):
    """Greedy accuracy of each hop count against samples; validity against accuracy at the largest: discovery, or a shortcut?"""
    left, right = (figure := Figure(figsize=(9, 3.6), layout='constrained')).subplots(1, 2, width_ratios=(3, 2))
    log = [r for r in common.read_log(out_dir) if r['arm'] == 'rl']
    for i, k in enumerate(task.hops):
        left.plot([r['samples'] for r in log], [r['eval'][str(k)]['acc'] for r in log], color=f'C{i}', label=f'{k} hop' + 's' * (k > 1))
        left.axhline(task.chance(k), color='black', lw=1, linestyle=':')
    right.plot(*zip(*((r['eval'][str(k)]['valid'], r['eval'][str(k)]['acc']) for r in log), strict=True), color=f'C{i}', marker='o', ms=3)
    left.set(xlabel='chains sampled', ylabel='greedy accuracy, held-out', title=f'{task.name}, {task.nodes} nodes', ylim=(0, 1.04))
    right.set(xlabel='validity of the chain', title=f'{k} hops, over training', xlim=(-0.02, 1.04), ylim=(0, 1.04))
    left.legend()
    common.write_atomic(Path(out_dir) / 'plot.png', lambda tmp: figure.savefig(tmp, dpi=120, format='png'))

def main(argv=None):
    begin = time.time()
    args, typed = parse_args(argv)
    if bool(args.ckpt) != args.eval_only:
        common.die('--ckpt and --eval_only go together: --eval_only --ckpt out/.../ckpt.pt')
    if args.eval_only:
        model, state = common.load_checkpoint(args.ckpt)
        # all but these is as it was trained
        common.restore_args(args, typed, state['args'], 'train_rl', {'seed', 'n_test', 'test_hops', 'device', 'dtype', 'eval_only', 'ckpt'})
    elif args.init_from:
        model, state = common.load_checkpoint(args.init_from)
        vars(args).update({name: getattr(model.config, name) for name in ('n_layer', 'n_head', 'n_embd', 'n_loop', 'pos') if name not in typed})
    task, longer, gpt = fill_in(args)
    if args.eval_only or args.init_from:
        ours, theirs = vars(args) | vars(gpt), state['args'] | vars(model.config)
        wrong = [f'{k} is {theirs.get(k)}, this run needs {ours[k]}' + ' (nodes + largest hop count + 1)' * (k == 'vocab_size')
                 for k in ('task', 'nodes', 'format', *vars(gpt)) if ours[k] != theirs.get(k) and k != 'block_size']
        if not wrong and gpt.block_size > model.config.block_size:
            wrong = [f'it was made for sequences of {model.config.block_size} tokens, --test_hops needs {gpt.block_size}: give it when training']
        if wrong:
            common.die(f'{args.ckpt or args.init_from} does not fit: ' + '; '.join(wrong))
    run = common.setup(args)
    args.device, args.dtype, args.processes = run.device.type, 'bfloat16' if run.bf16 else 'float32', run.world
    if args.eval_only:
        model = model.to(run.device)
    else:
        kept = {'script': 'train_rl', **{k: v for k, v in vars(args).items() if k not in ('out_dir', 'resume', 'eval_only', 'ckpt')}}
        torch.manual_seed(args.seed)
        model = (model if args.init_from else GPT(gpt)).to(run.device)
        if run.master:
            common.open_run(args.out_dir, kept, args.resume, params=model.num_params())
            print(' '.join(f'{k}={v}' for k, v in kept.items() if v is not None), f'\n{model.num_params():,} parameters, {args.batch_size} x {run.world} '
                  f'questions a step, {args.group_size} chains each, files in {args.out_dir}', sep='', flush=True)
        caught, path, found = common.catch_signals(), Path(args.out_dir) / 'ckpt.pt', None
        if args.resume and path.exists():
            model, found = common.load_checkpoint(path, run.device, kept)
        if run.world > 1:
            dist.init_process_group('nccl' if run.device.type == 'cuda' else 'gloo')
        state, stop = train(path, found, model, args, kept, task, run, caught)
        if run.world > 1:
            dist.destroy_process_group()  # before any exit: it waits for gloo's threads, one of which could abort an interpreter that is leaving
        if stop or caught:
            common.die(f'stopped by a signal at step {state["step"]}, saved in {path}; --resume goes on from there', code=128 + max(caught, default=15))
    common.catch_signals(exit_now=True)
    if not run.master:
        return
    (results, told), K, beyond = evaluate(model, task, run, args.seed, args.n_test), task.hops[-1], {}
    print('test:', told[0])
    if longer:
        beyond, told = evaluate(model, longer, run, args.seed, args.n_test, hop_token=task.nodes + K - 1)
        print(f'longer chains than trained, with the hop token k={K}:', told[0])
    final = dict(
        task=task.name, hops=show_range(task.hops), baseline=args.baseline, objective=args.objective, **results[K], reward=state['reward'],
        samples=state['samples'], samples_95=state['samples_95'], tokens=state['tokens'],
        seconds=time.time() - begin, params=model.num_params(), chance=task.chance(K), acc_min=min(r['acc'] for r in results.values()),
        **{f'acc_h{k}': r['acc'] for k, r in (results | beyond).items()}, steps=state['step'], n_test=args.n_test, seed=args.seed)
    if not args.eval_only:
        common.log(args.out_dir, arm='final', step=args.max_iters, **final, by_hops=results, beyond=beyond)
        plot(args.out_dir, task)
    print(common.final_line(**final))

if __name__ == '__main__':
    main()
