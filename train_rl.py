"""Can a transformer discover the chain of thought when only its answer is rewarded?

FactorExe's open question: "can the results of these intermediate computations be discovered, i.e.
only using supervision from the final output?" Nobody shows this model a chain.

1. The policy is one causal GPT. For each question it samples a group of chains. The k-th sampled
   token of a k-hop question is its answer (cycle, cvpr). So an easy question asks for the prefix of
   a hard question's chain.
2. The reward is 1 if that token is right, else 0. The tokens before it are never looked at.
3. On-policy REINFORCE (Williams 1992): one step up the mean over chains of
       sum over t <= k of advantage * log pi(token t)
   The advantage is the reward minus a baseline. The baseline does not depend on the token it is
   for, so the gradient of the expected reward stays unbiased. --baseline:
   none    nothing
   ema     a running mean of all rewards (0.95)
   loo     leave one out: the mean reward of the group's other chains
   prefix  the step advantage of VinePPO (Kazemnejad et al. 2024, 2410.01679): the value of the
           prefix that ends in the token, minus the value of the prefix before it. Values are mean
           rewards of fresh rollouts. (FactorExe's "state baseline" subtracts the value of the
           prefix before the token from the reward. That is noisier.)
4. --free_length 8 lets the model decide how long a chain is, up to 8 tokens. It ends its chain with
   the stop token `_`, and the token before that is its answer. A chain without a stop is wrong.
   --length_cost 0.02 takes so much from the reward for each token.
5. --task multiply or star: the answer has many tokens, and an untrained model hardly ever writes
   it. So start from a model that half knows the task: --init_from a checkpoint of train_cot.py. The
   training goes on with new questions, those of the steps after the checkpoint's. --pass_k 256
   measures what this adds (Yue et al. 2025, 2504.13837): the chance that one of 1, 4, 16, ...
   chains is right, before and after. With --objective coin, the control, rewards are coin tosses.
6. --objective passk ascends pass@k instead, the chance that one of k chains is right (PKPO, Walder
   & Karkhanis 2025, 2505.15201; with loo it is their "leave one out minus one"). At k = group_size
   only a chain that alone is right counts (POPPY, Grinsztajn et al. 2022, 2210.03475).

Relatives: loo is RLOO (Ahmadian et al. 2024, 2402.14740) without its KL term. Dr. GRPO (2503.20783)
subtracts the mean of the whole group, which is (G - 1) / G times that. GRPO (2402.03300) also
divides by the group's standard deviation and by the length, clips ratios and adds a KL term.
Departures: no KL term, no division, and no clipping, since with one step a batch every ratio is 1.

    python train_rl.py                       # 10 nodes, 1 to 4 hops, under two minutes on a laptop
    torchrun --standalone --nproc_per_node=2 train_rl.py --device cuda

The control that must fail has no easy questions: --hops 4.

The last line:  final task=cycle hops=1-4 baseline=loo ... acc=1.000 valid=1.000 reward=0.9xx ...
Results: docs/train_rl.md, docs/rl_adds.md
"""

from errors import one_line_errors  # first: see errors.py

import math
from dataclasses import replace

import numpy as np
import torch

import common
import memory
import plots
from data import (
    CVPR,
    Cycle,
    Multiply,
    Parser,
    Star,
    add_task_args,
    at_least,
    format_range,
    parse_range,
    positive_float,
    require,
    sample_batch,
)
from model import GPT, GPTConfig


TASKS = (Cycle, CVPR, Multiply, Star)
TASK_DEFAULTS = dict(nodes=10, hops=[1, 2, 3, 4])  # the task takes those flags that it has
PASS_QUESTIONS = 200    # test questions of --pass_k
CHAINS_AT_ONCE = 4096   # and how many of their chains are sampled at once, about
LEGEND = """
  samples        chains sampled so far
  reward         mean reward of the chains of this step
  correct        share of these chains with the right answer
  entropy        of a sampled token that is trained on, in nats (0 if none is)
  zero_variance  share of questions whose chains are all right or all wrong
  pass_at_group  share of questions with at least one right chain
  acc, chance    share of right answers by greedy decoding on held-out questions, and by guessing
  valid          share of chain tokens that follow from the token before. It is never rewarded
  length         with --free_length: mean number of tokens before the stop token
  stopped        and the share of chains that have one
  pass@k         with --pass_k: share of questions with a right one among k sampled chains
"""
FIXED_BY_CHECKPOINT = ('nodes', 'format', 'digits', 'reverse', 'star')  # flags of the tasks
SHAPE = ('n_layer', 'n_head', 'n_embd', 'n_loop', 'pos')  # flags that --init_from decides


# -----------------------------------------------------------------------------
# what is right, and what is rewarded: a new reward goes here

def correct(batch, chain):
    """Is the answer in chain (B, L) right? (B,) bool

    It is the k-th token of a k-hop question's chain, or with --free_length the token before the
    stop. In multiply it is the last 2 N tokens, in star the whole path. All other tokens are
    ignored. Everything that counts right answers uses this.
    """
    written = chain.gather(1, batch.answer - batch.prompt_len)              # (B, A)
    return (written == batch.tokens.gather(1, batch.answer)).all(dim=1)


def reward(batch, chain):
    """The reward of each chain (B, L), any number. (B,) float

    Only the tokens in batch.loss_mask count: those up to the answer, or with --free_length up to
    the stop token. Everything that learns uses this. The log has its mean.
    """
    return correct(batch, chain).float()


# -----------------------------------------------------------------------------
# arguments

def parse_args(argv):
    parser = make_parser()
    free = {'seed', 'n_test', 'hops', 'test_hops', 'pass_k'}
    args = common.parse_args(parser, argv, 'train_rl', free)

    # a model that starts from a checkpoint has its shape, unless another one is typed
    if args.init_from and not args.eval_only:
        model, _ = common.load_checkpoint(args.init_from)
        parser.set_defaults(**{name: getattr(model.config, name) for name in SHAPE})
        args = common.parse_args(parser, argv, 'train_rl', free)
    return args


def make_parser():
    parser = Parser(__doc__)
    add_task_args(parser, TASKS, **TASK_DEFAULTS)

    add = parser.add_argument_group('model').add_argument
    add('--n_layer', type=at_least(1, most=1000),
        help='transformer blocks (default: 1; --format pairs: 2)')
    add('--n_head', type=at_least(1), default=1, help='attention heads')
    add('--n_embd', type=at_least(1, most=65536), default=64, help='width')
    add('--n_loop', type=at_least(1, most=1000), default=1,
        help='times the blocks are applied, with shared weights')
    add('--pos', choices=('learned', 'rope', 'none'), default='learned', metavar='NAME',
        help='position encoding: learned, rope, none')
    add('--init_from', metavar='CKPT',
        help='start from this checkpoint, for instance of train_cot.py')

    add = parser.add_argument_group('reinforcement learning').add_argument
    add('--baseline', choices=('none', 'ema', 'loo', 'prefix'), default='loo',
        metavar='NAME', help='subtracted from each reward: none, ema, loo, prefix')
    add('--objective', choices=('mean', 'passk', 'coin'), default='mean', metavar='NAME',
        help='mean reward, passk, or coin: a coin toss, the control')
    add('--k', type=at_least(2), help='the k of --objective passk (default: group_size)')
    add('--rollouts', type=at_least(1), default=4,
        help='fresh rollouts from each prefix for --baseline prefix')
    add('--group_size', type=at_least(1), default=8, help='chains sampled for each question')
    add('--temperature', type=at_least(0.01, float), default=1.0,
        help='of the policy that is sampled and trained')
    add('--entropy', type=at_least(0, float), default=0.01,
        help='bonus for each nat of entropy of each token')
    add('--free_length', type=at_least(2, most=1000),
        help='the model ends its chain, with `_`, after N tokens at most')
    add('--length_cost', type=at_least(0, float),
        help='taken from the reward for each token of such a chain (default: 0)')
    add('--curriculum', action='store_true',
        help='fewest hops first; one more when 0.9 of the hardest chains are right')
    add('--one_hop', type=at_least(0, float, most=1), metavar='P',
        help='share of one-hop questions (default: all hops equally often)')

    add = parser.add_argument_group('training and evaluation').add_argument
    add('--batch_size', type=at_least(1), default=128, help='questions a step and process')
    add('--max_iters', '--steps', type=at_least(1), default=1000, help='optimizer steps')
    add('--learning_rate', '--lr', type=positive_float, default=1e-3,
        help='constant after the warm-up')
    add('--warmup_iters', type=at_least(0), default=50, help='steps of linear warm-up')
    add('--weight_decay', type=at_least(0, float), default=0.01, help='AdamW, matrices only')
    add('--grad_clip', type=positive_float, default=1.0, help='largest gradient norm')

    add('--log_interval', '--eval_interval', type=at_least(1),
        help='steps between evaluations and checkpoints (default: steps / 30)')
    add('--n_test', type=at_least(1), default=2000,
        help='test instances a hop count; on the way a quarter')
    add('--test_hops', metavar='HOPS', type=parse_range,
        help='at the end, also test these longer chains')
    add('--pass_k', type=at_least(1, most=10**4), metavar='N',
        help='before and after: pass@1, 4, ... N of 200 test questions')
    common.add_run_args(parser)
    return parser


def fill_in(args):
    """Give flags that were left out their value. Raises ValueError for what makes no sense
    together.

    Returns the task, the task of --test_hops or None, and the model's config.
    """
    if args.n_layer is None:  # finding a pair takes an induction circuit: two layers
        args.n_layer = 2 if getattr(args, 'format', None) == 'pairs' else 1
    if args.k is None and args.objective == 'passk':
        args.k = args.group_size
    if args.log_interval is None:
        args.log_interval = max(1, args.max_iters // 30)

    memory.require_depth(args)
    task = common.task_of_args(args, TASKS, **TASK_DEFAULTS)
    vars(args).update(task.settings())
    require_sense(args, task)
    longer_task = None
    block_size = task.block_size
    if args.free_length:
        block_size += args.free_length - task.longest_chain
    if args.test_hops:
        require(args.test_hops[0] > largest_trained(args, task),
                f'--test_hops {format_range(args.test_hops)} is for longer chains than '
                f'{largest_trained(args, task)} hops, the longest that are trained')
        longer_task = type(task)(**(task.settings() | {'hops': args.test_hops}))
        block_size = max(block_size, longer_task.block_size)
    config = GPTConfig(len(task.vocab), block_size, args.n_layer, args.n_head, args.n_embd,
                       args.n_loop, pos=args.pos)
    _, test_split = common.splits(args)
    sample_batch(task, 1, args.seed, 0, test_split)  # are there instances to hold out?

    return task, longer_task, config


def require_sense(args, task):
    """Raise ValueError for flags that do not go together, or not with this task."""
    if args.objective == 'passk':
        require(args.baseline in ('none', 'loo') and args.k <= args.group_size,
                '--objective passk takes --baseline none or loo, and a --k of at most group_size')
    else:
        require(not args.k, '--k belongs to --objective passk')
    require(args.objective != 'coin' or args.baseline != 'prefix',
            '--objective coin does not go with --baseline prefix')
    compares_chains = args.baseline in ('loo', 'prefix') or args.objective == 'passk'
    require(args.group_size > 1 or not compares_chains,
            f'--objective {args.objective} with --baseline {args.baseline} needs a --group_size of '
            'at least 2')

    # the answer is the k-th token of k hops: not so in multiply and star
    has_hops = 'hops' in task.flags
    require(has_hops or not args.test_hops, f'--test_hops means nothing to {task.name}')
    require(has_hops or not args.free_length,
            f'--free_length is not for {task.name}: all its chains are equally long')
    require(has_hops or args.baseline != 'prefix',
            f'--baseline prefix is not for {task.name}: it takes chains of one token a hop')
    require(has_hops or not args.curriculum, f'--curriculum means nothing to {task.name}')
    if args.one_hop is not None:
        require(has_hops and task.hops[0] == 1 and len(task.hops) > 1 and not args.curriculum,
                '--one_hop takes --hops from 1 to some more, and no --curriculum')
        require(math.isclose(1000 * args.one_hop, round(1000 * args.one_hop)),
                f'--one_hop takes thousandths, not {args.one_hop}')

    if args.free_length:
        require(args.free_length > max(task.hops),
                f'--free_length {args.free_length} has no room for {max(task.hops)} hops and the '
                'stop token')
        require(args.baseline != 'prefix' and not args.test_hops,
                '--free_length does not go with --baseline prefix, nor with --test_hops')
    require(args.free_length or not args.length_cost, '--length_cost belongs to --free_length')


def longest_chain(args, task):
    """How many tokens the model may write."""
    return args.free_length or task.longest_chain


CURES = memory.CURES | {
    'activations': '--group_size, --batch_size or --n_embd',
    'attention': '--group_size or --batch_size',
    'logits': '--group_size, --batch_size or --nodes',
    'chains': '--group_size, --rollouts or --batch_size',
    'evaluation': memory.CURES['evaluation'] + ', or --pass_k',
}


def memory_phases(args, task, config):
    """What each phase of a run takes: see memory.py."""
    P = args.batch_size
    G = args.group_size
    L = longest_chain(args, task)
    T = config.block_size - 1
    S = T - L                        # of a prompt, which is computed once for all its chains
    n_rollouts = args.rollouts if args.baseline == 'prefix' else 0

    # a step: prompts with G chains side by side, and the rows of their questions
    attention = 3 * P * G * L * (S + G * L)
    step = memory.step_parts(config, P, S + G * L, G * L, n_copies=7, attention=attention)
    of_questions = 8 * 4 * P * G * (T + task.n_symbols)
    step['chains'] = of_questions
    if args.objective == 'passk':  # the others of each chain, sorted
        step['chains'] += 40 * P * G * G

    # before it: sample the chains, and with --baseline prefix more of them from each prefix
    rows = P * G * max(1, n_rollouts)
    sampling = memory.decoding_bytes(config, rows, T, P * G if n_rollouts else P)
    sampling += 8 * 2 * rows * (T + task.n_symbols) * (n_rollouts > 0) + of_questions

    B = min(500, args.n_test)
    evaluation = memory.decoding_bytes(config, B, T)
    if args.pass_k:
        n_questions = questions_at_once(args.pass_k)
        sampled = memory.decoding_bytes(config, n_questions * args.pass_k, T, n_questions)
        evaluation = max(evaluation, sampled)
    phases = memory.trainer_phases(args, config, task, step, evaluation, B)
    if not args.eval_only:
        phases.append({'model': phases[0]['model'], 'chains': sampling})
    return phases


def questions_at_once(n_chains):
    """Of how many questions pass_curve samples chains at once."""
    return min(PASS_QUESTIONS, max(1, CHAINS_AT_ONCE // n_chains))


def largest_trained(args, task):
    """The largest hop count that is trained. With --eval_only, --hops may be others."""
    return max(args.trained_hops or task.hops if args.eval_only else task.hops)


def load_start(args, config):
    """The model and the state of --ckpt or --init_from, or (None, None) without either.

    Raises ValueError if the checkpoint is of another task, or of a model of another shape.
    """
    path = args.ckpt or args.init_from
    if path is None:
        return None, None
    model, state = common.load_checkpoint(path)
    common.require_tokens(path, state)
    needed = vars(args) | vars(config)
    given = state['args'] | vars(model.config)
    require(given.get('task') == args.task,
            f'{path} does not fit: its task is {given.get("task")}, not {args.task}')
    differences = []
    for name in (*FIXED_BY_CHECKPOINT, *vars(config)):
        if name != 'block_size' and needed.get(name) != given.get(name):
            text = f'{name} is {given.get(name)}, this run needs {needed.get(name)}'
            if name == 'vocab_size' and args.hops:
                text += ' (nodes + largest hop count + 1)'
            differences.append(text)
    require(not differences, f'{path} does not fit: {"; ".join(differences)}')
    require(not args.tune or state['args'].get('tune'),
            f'{path} was trained on instances that --tune leaves out: train it with --tune, too')
    require(config.block_size <= model.config.block_size,
            f'{path} does not fit: it was made for sequences of {model.config.block_size} tokens, '
            f'this one needs {config.block_size}: train it with --test_hops or --free_length')
    return model, state


def end_at_stop(batch, chain, stop):
    """The questions of chain (B, L), with the chains ending where the model ends them.

    A chain goes on to the first stop token, and its answer is the token before. So in the batch
    that is returned
        tokens     have the true answer at that place
        loss_mask  holds the tokens of the chain, the stop token included
    A chain that begins with the stop token has no answer, and so has one that never stops: there
    the true answer is a token that does not exist.
    """
    B, L = chain.shape
    P = batch.prompt_len
    is_stop = chain == stop
    stops = is_stop.any(dim=1)                                              # (B,)
    n_tokens = torch.where(stops, is_stop.byte().argmax(dim=1) + 1, L)      # (B,), 1 to L
    has_answer = stops & (n_tokens > 1)
    place = P + (n_tokens - 2).clamp(min=0)                                 # (B,)

    truth = batch.tokens.gather(1, batch.answer)[:, 0]                      # (B,)
    truth = torch.where(has_answer, truth, -1)
    tokens = torch.cat((batch.tokens[:, :P], chain), dim=1)
    tokens.scatter_(1, place[:, None], truth[:, None])
    loss_mask = torch.arange(P + L, device=chain.device) - P < n_tokens[:, None]
    loss_mask[:, :P] = False
    return replace(batch, tokens=tokens, loss_mask=loss_mask, answer=place[:, None])


# -----------------------------------------------------------------------------
# advantage

def advantage(rewards, baseline, objective='mean', k=None, mean=0.0, value=None):
    """What multiplies grad log pi of each chain token.

    rewards (P, G), any numbers -> (P, G, 1), or (P, G, L) for the baseline prefix.
    mean: the running mean, for ema. value (P, G, L + 1): see prefix_values.

    The mean over a group of advantage * sum_t grad log pi is an unbiased estimate of the gradient
    of the expected reward, or with objective passk of the expected best reward of k chains. If
    rewards are 0 or 1, that is pass@k.
    """
    G = rewards.size(1)
    if objective == 'passk' and k > 1:  # the best of one chain is its reward
        return best_of_k_advantage(rewards, k, baseline == 'loo')
    rewards = rewards[..., None]                                            # (P, G, 1)
    mean_of_others = (rewards.sum(dim=1, keepdim=True) - rewards) / max(1, G - 1)
    if G > 1:  # exact for equal rewards: AdamW makes a step even of a rounding
        differ = (rewards != rewards[:, :1]).any(dim=1, keepdim=True)
        mean_of_others = torch.where(differ, mean_of_others, rewards)

    # the value of the question itself is the mean of the group's other chains
    if baseline == 'prefix':
        value = torch.cat((mean_of_others, value[..., 1:]), dim=-1)
        return value.diff(dim=-1)

    if baseline == 'loo':
        return rewards - mean_of_others
    if baseline == 'ema':
        return rewards - mean
    return rewards


def best_of_k_advantage(rewards, k, leave_one_out):
    """The advantages of PKPO, rewards (P, G) -> (P, G, 1).

    A chain gets k times the best reward of itself and k - 1 others, averaged over all choices of
    the others. leave_one_out subtracts what the others reach without it. So a chain gets 0 unless
    it is better than k - 1 others.
    """
    P, G = rewards.shape
    is_other = ~torch.eye(G, dtype=torch.bool, device=rewards.device)
    others = rewards[:, None].expand(P, G, G)[:, is_other].view(P, G, G - 1)
    others = others.sort(dim=-1).values

    # the chance that the other with j worse ones beside it is the best of k - 1 others
    chances = [math.comb(j, k - 2) / math.comb(G - 1, k - 1) for j in range(G - 1)]
    chances = torch.tensor(chances, dtype=rewards.dtype, device=rewards.device)
    best = torch.maximum(others, rewards[..., None])                        # (P, G, G - 1)
    if leave_one_out:
        best = best - others
    return k * (chances * best).sum(dim=-1, keepdim=True)


def prefix_values(model, batch, tokens, rewards, n_rollouts, temperature=1.0, uniform=None):
    """The value of each prefix of each chain, (B, L + 1): column i is that of its first i tokens.

    It is the mean reward of fresh rollouts from there. From the answer on it is the chain's own
    reward, of rewards (B,), and so is column 0, which `advantage` replaces.

    batch: the questions, one row a chain. tokens (B, T): the prompts with their chains.
    uniform(n, m): random numbers (B * m, n), for m continuations of every row by n tokens.
    """
    P = batch.prompt_len
    L = tokens.size(1) - P
    value = rewards[:, None].repeat(1, L + 1)
    for i in range(1, L):
        rows = (batch.hops > i).nonzero()[:, 0]  # whose answer is still to come
        numbers = None
        if uniform is not None:
            numbers = uniform(L - i, n_rollouts).view(len(tokens), n_rollouts, -1)
            numbers = numbers[rows].flatten(0, 1)
        if len(rows) > 0:
            output = model.generate(tokens[rows, :P + i], L - i, temperature, samples=n_rollouts,
                                    uniform=numbers)
            repeated = batch[rows.repeat_interleave(n_rollouts)]
            reached = reward(repeated, output[:, P:]).to(value.dtype)
            value[rows, i] = reached.view(-1, n_rollouts).mean(dim=1)
    return value


def groups_to_train(advantages, entropy_bonus):
    """The groups of advantages (P, G, 1 or L) that have a gradient: their numbers, (P',).

    Without an entropy bonus a group whose advantages are all 0 would cost a pass through the model
    and change nothing. With leave one out that is a group whose chains all earn the same.
    """
    has_gradient = (advantages != 0).flatten(1).any(dim=1)                  # (P,)
    if entropy_bonus > 0:
        has_gradient = torch.ones_like(has_gradient)
    return has_gradient.nonzero()[:, 0]


def log_probs(model, tokens, mask, temperature=1.0, shared=None):
    """For each masked token of tokens (B, T): its log-probability, and the entropy of the
    distribution that it was drawn from. (N,), (N,)"""
    logits = model(tokens[:, :-1], mask[:, 1:], shared=shared).float() / temperature
    log_p = logits.log_softmax(dim=-1)                                      # (N, V)
    log_p_sampled = log_p.gather(1, tokens[mask][:, None])[:, 0]
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    return log_p_sampled, entropy


# -----------------------------------------------------------------------------
# evaluation

@torch.no_grad()
def evaluate(model, task, run, seed, n_test, hop_token=None, split='test', free_length=None):
    """Greedy decoding on n_test held-out instances of each hop count.

    hop_token: takes the place of the hop count in the prompt, if given.
    free_length: chains have up to so many tokens, and end with the stop token.
    Returns {hops: measures}, and a decoded example of each hop count. The measures are
        acc      exact match of the answer
        valid    share of chain tokens that follow correctly from the token before
    and with free_length
        stopped  share of chains that have a stop token
        length   mean number of tokens before it, of these chains
        lengths  how many chains have 0, 1, 2, ... tokens before it
    """
    results = {}
    examples = []
    for k in task.hops:
        acc = valid = 0.0
        lengths = np.zeros(free_length or 0, dtype=int)
        for first in range(0, n_test, 500):  # in parts, so that a long prompt fits into memory
            B = min(500, n_test - first)
            questions = sample_batch(task, B, seed, k * 10**6 + first, split, hops=k).to(run.device)
            P = questions.prompt_len
            prompt = questions.tokens[:, :P].clone()
            if hop_token is not None:
                prompt[:, -2] = hop_token
            with run.autocast:
                L = free_length or questions.tokens.size(1) - P
                chain = model.generate(prompt, L)[:, P:]                    # (B, L)

            # which of its tokens are links of the chain?
            batch = questions
            links = batch.loss_mask[:, P:P + chain.size(1)]                 # (B, L)
            if free_length:
                batch = end_at_stop(questions, chain, task.pad)
                is_stop = chain == task.pad
                links = batch.loss_mask[:, P:] & ~is_stop
                n_links = links.sum(dim=1)[is_stop.any(dim=1)]
                lengths += n_links.bincount(minlength=free_length).cpu().numpy()

            acc += correct(batch, chain).sum().item()
            n_valid = (task.valid(batch, chain) & links).sum(dim=1)
            valid += (n_valid / links.sum(dim=1).clamp(min=1)).sum().item()
        results[k] = dict(acc=acc / n_test, valid=valid / n_test)
        if free_length:
            n_stopped = int(lengths.sum())
            mean_length = float(lengths @ np.arange(free_length)) / max(1, n_stopped)
            results[k] |= dict(stopped=n_stopped / n_test, length=mean_length,
                               lengths=lengths.tolist())
        examples.append(show_example(task, questions, chain))
    return results, examples


@torch.no_grad()
def pass_curve(model, task, args, run):
    """{k: pass@k} for k = 1, 4, 16, ... and --pass_k: does one of k sampled chains answer right?

    The mean over PASS_QUESTIONS held-out questions with the most hops, of --pass_k chains each. The
    questions and the random numbers are always the same ones. {} without --pass_k.
    """
    n_chains = args.pass_k
    if not n_chains:
        return {}
    B = PASS_QUESTIONS
    k = task.hops[-1]
    _, test_split = common.splits(args)
    questions = sample_batch(task, B, args.seed, k * 10**6, test_split, hops=k).to(run.device)
    P = questions.prompt_len
    L = args.free_length or questions.tokens.size(1) - P
    rng = np.random.default_rng([args.seed, 3])  # a stream that nothing else draws from
    n_right = torch.zeros(B)

    # in parts, so that they fit into memory
    part = questions_at_once(n_chains)
    for first in range(0, B, part):
        some = questions[first:first + part]
        uniform = rng.random((len(some) * n_chains, L), dtype=np.float32)
        with run.autocast:
            tokens = model.generate(some.tokens[:, :P], L, args.temperature, samples=n_chains,
                                    uniform=torch.from_numpy(uniform).to(run.device))
        chain = tokens[:, P:]
        rows = torch.arange(len(some), device=run.device).repeat_interleave(n_chains)
        batch = some[rows]
        if args.free_length:
            batch = end_at_stop(batch, chain, task.pad)
        is_right = correct(batch, chain).view(len(some), n_chains)
        n_right[first:first + part] = is_right.sum(dim=1).cpu().float()

    return common.pass_curve(n_chains, n_right)


def show_example(task, batch, chain):
    """'prompt -> what the model wrote   true: the chain', of the first row."""
    prompt = task.decode(batch.tokens[0, :batch.prompt_len].tolist())
    truth = task.decode(batch.tokens[0, batch.prompt_len:].tolist())
    return f'{prompt} -> {task.decode(chain[0].tolist())}   true: {truth}'


def summary(results, task):
    """One line of text from what evaluate returns, with chance beside each accuracy."""
    parts = []
    for k, measures in results.items():
        part = f'k={k} acc {measures["acc"]:.3f} valid {measures["valid"]:.3f}'
        if 'length' in measures:
            part += f' length {measures["length"]:.2f} stopped {measures["stopped"]:.3f}'
        parts.append(f'{part} chance {task.chance(k):.3f}')
    return '  '.join(parts)


# -----------------------------------------------------------------------------
# training

def get_lr(step, args):
    """Linear warm-up, then constant."""
    return args.learning_rate * min(1, (step + 1) / (args.warmup_iters + 1))


def hop_mixture(hops, one_hop=None):
    """The hop counts that sample_batch draws from, each as often as it stands in this list.

    All equally often; or with one_hop, such a share is 1, and the others are equally frequent.
    """
    if one_hop is None:
        return hops
    n_easy = round(1000 * one_hop)
    longer = hops[1:]
    mixture = [1] * n_easy
    for i in range(1000 - n_easy):
        mixture.append(longer[i % len(longer)])
    return mixture


def train(model, task, args, run, first_step=0):
    """REINFORCE from `model`, or from this run's checkpoint. Returns the progress made.

    first_step: steps that `model` has been trained for before, on other questions.
    """
    optimizer = model.configure_optimizer(args.learning_rate, args.weight_decay)
    progress = dict(
        step=0,
        stage=1 if args.curriculum else len(task.hops),  # how many of task.hops are in use
        mean=0.0,           # running mean of the rewards, for --baseline ema
        reward=None,        # mean reward of the last step
        samples=0,          # chains sampled so far, rollouts from prefixes included
        tokens=0,           # and their tokens up to the answer, or the stop token
        samples_95=None)    # chains until 95% greedy accuracy at the largest hop count
    state = run.resume('ckpt.pt', model, optimizer, 'rl')
    if 'args' in state:  # there is a checkpoint
        check_progress(state, task)
    progress.update({name: state[name] for name in progress if name in state})
    resumed = step = progress['step']
    policy = run.distribute(model)
    bar = run.progress_bar('rl', step, args.max_iters)
    P = args.batch_size  # questions of this process
    G = args.group_size  # chains of each question
    measures = {}
    train_split, _ = common.splits(args)

    run.begin_training()
    while True:
        # once in a while, and at both ends: evaluate, and save a checkpoint
        last = step == args.max_iters
        stop = run.should_stop()
        check = (last or step % args.log_interval == 0) and (step == 0 or step > resumed)
        if check and run.master:
            evaluate_and_log(model, task, args, run, progress, measures)
        if step > resumed and (check or stop):
            more = {name: value for name, value in progress.items() if name != 'step'}
            run.save('ckpt.pt', model, optimizer, step, **more)
        if last or stop:
            break

        # 1. Questions. They are a function of (seed, step); each process takes its share.
        hops = task.hops[:progress['stage']]
        all_questions = sample_batch(
            task, P * run.world, args.seed, first_step + step, train_split,
            hops=hop_mixture(hops, args.one_hop))
        questions = run.my_rows(all_questions).to(run.device)
        prompts = questions.tokens[:, :questions.prompt_len]
        L = args.free_length or questions.tokens.size(1) - questions.prompt_len

        # 2. Rollouts. The policy samples G chains for each question.
        batch = questions[torch.arange(P, device=run.device).repeat_interleave(G)]  # a row a chain
        uniform = random_numbers(run, args.seed, step, P * G)
        with run.autocast:
            tokens = model.generate(prompts, L, args.temperature, samples=G, uniform=uniform(L))

        # 3. Reward. By default 1 for a chain with the right answer, else 0.
        chain = tokens[:, batch.prompt_len:]
        if args.free_length:
            batch = end_at_stop(batch, chain, task.pad)
        n_tokens = batch.loss_mask.sum(dim=1)                                   # (P * G,)
        rewards = reward(batch, chain).float()                                  # (P * G,)
        if args.objective == 'coin':
            rewards = (uniform(1)[:, 0] < 0.5).float()
        if args.length_cost:
            rewards = rewards - args.length_cost * n_tokens
        is_right = correct(batch, chain).view(P, G)

        # 4. Advantage. How much better than expected is a chain, or (prefix) each of its tokens?
        value = None
        if args.baseline == 'prefix':
            with run.autocast:
                value = prefix_values(model, batch, tokens, rewards, args.rollouts,
                                      args.temperature, uniform).view(P, G, L + 1)
        rewards = rewards.view(P, G)
        advantages = advantage(rewards, args.baseline, args.objective, args.k, progress['mean'],
                               value)                                           # (P, G, 1 or L)

        # 5. Gradient step. The gradient is a mean over chains of sums over their tokens, up to the
        # answer (or the stop token): what comes after it does not count. Groups that add nothing
        # to it are left out of the pass. Autocast is entered anew, because the casts that it cached
        # while sampling have no gradient.
        groups = groups_to_train(advantages, args.entropy)                      # (P',)
        is_idle = len(groups) == 0
        if is_idle:  # a pass all the same, with gradient 0: other processes may wait for ours
            groups = torch.zeros(1, dtype=torch.long, device=run.device)
        rows = (groups[:, None] * G + torch.arange(G, device=run.device)).flatten()  # (P' * G,)
        loss_mask = batch.loss_mask[rows]
        advantages = advantages.expand(P, G, L)[groups].flatten(0, 1)           # (P' * G, L)
        advantages = advantages[loss_mask[:, batch.prompt_len:]]                # (N,)
        with run.autocast:
            log_p, entropy = log_probs(policy, tokens[rows], loss_mask, args.temperature,
                                       shared=(batch.prompt_len, G))            # (N,), (N,)
        loss = -(advantages * log_p + args.entropy * entropy).sum() / (P * G)
        loss.backward()
        for group in optimizer.param_groups:
            group['lr'] = get_lr(step, args)
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        bar.update()

        # measures of this step, over all processes
        is_hardest = questions.hops == hops[-1]
        if is_idle:
            entropy = entropy[:0]
        total = sum_over_processes(run, rewards, is_right, is_hardest, n_tokens, entropy, loss)
        n_questions = len(all_questions)
        count_samples(progress, all_questions.hops, int(total['tokens']), args)
        mean = total['reward'] / (n_questions * G)
        running_mean = 0.95 * progress['mean'] + 0.05 * mean if step > 1 else mean
        progress.update(step=step, mean=running_mean, reward=mean)
        measures = dict(
            reward=mean,
            correct=total['right'] / (n_questions * G),
            entropy=total['entropy'] / max(1, total['trained']),
            grad_norm=float(grad_norm),
            zero_variance=total['same'] / n_questions,
            pass_at_group=total['solved'] / n_questions)
        if step % args.log_interval == 0 or step == args.max_iters:
            run.check_finite(step, model, loss=total['loss'], grad_norm=grad_norm)
            bar.set_postfix(reward=f'{mean:.3f}', refresh=False)

        # curriculum: one more hop when over nine in ten of the hardest chains are right
        is_learned = total['hardest_right'] > 0.9 * total['hardest']
        if args.curriculum and is_learned and len(hops) < len(task.hops):
            progress['stage'] += 1
    bar.close()
    return progress


def check_progress(state, task):
    """Raise ValueError if a checkpoint remembers what no training on this task can have come to."""
    args = state['args']
    hops = args['hops'] or task.hops
    rollouts = args['rollouts'] if args['baseline'] == 'prefix' else 0
    processes = args.get('processes')
    require(type(processes) is int and processes > 0,
            f'the checkpoint has processes={str(processes)[:60]}, which cannot be')
    n_chains = state['step'] * args['batch_size'] * args['group_size'] * processes
    most = n_chains * (1 + rollouts * (max(hops) - 1))
    largest_float = torch.finfo(torch.float64).max
    longest = args.get('free_length') or task.longest_chain
    longest += rollouts * max(hops) * (max(hops) - 1) // 2
    ranges = dict(
        stage=(1 if args['curriculum'] else len(hops), len(hops)),
        samples=(n_chains, most),
        tokens=(n_chains, n_chains * longest),
        samples_95=(0, most),
        mean=(-largest_float, largest_float),
        reward=(-largest_float, largest_float))
    for name, (low, high) in ranges.items():
        value = state.get(name)
        number = float if name in ('mean', 'reward') else int
        is_possible = type(value) is number and low <= value <= high
        may_be_none = name in ('reward', 'samples_95')
        require(is_possible or (value is None and may_be_none),
                f'the checkpoint has {name}={str(value)[:60]}, which cannot be')


def count_samples(progress, hops, n_tokens, args):
    """Add the chains that a step samples for questions of these hops (B,), and their n_tokens.

    --baseline prefix samples `rollouts` more chains, of k - i tokens, from each prefix i = 1 to
    k - 1.
    """
    rollouts = args.rollouts if args.baseline == 'prefix' else 0
    samples = 1 + rollouts * (hops - 1)
    tokens = rollouts * hops * (hops - 1) // 2
    progress['samples'] += args.group_size * int(samples.sum())
    progress['tokens'] += args.group_size * int(tokens.sum()) + n_tokens


def sum_over_processes(run, rewards, is_right, is_hardest, n_tokens, entropy, loss):
    """{name: sum} over the questions, chains and tokens of a step, in all processes.

    rewards (P, G). is_right (P, G) bool. is_hardest (P,) bool: has this question the most hops?
    n_tokens (P * G,): of each chain. entropy (N,): of the tokens that are trained on.
    """
    G = rewards.size(1)
    n_right = is_right.sum(dim=1)                                           # (P,)
    return run.total(
        reward=rewards.sum(),
        right=n_right.sum(),
        hardest=is_hardest.sum() * G,
        hardest_right=n_right[is_hardest].sum(),
        same=(n_right % G == 0).sum(),      # groups whose chains are all right or all wrong
        solved=(n_right > 0).sum(),         # groups with a right chain
        tokens=n_tokens.sum(),
        entropy=entropy.sum(),
        trained=len(entropy),
        loss=loss)


def random_numbers(run, seed, step, n_chains):
    """The random numbers of a step, a function of (seed, step).

    Returns uniform(n, m=1): the next (n_chains * m, n) numbers of this process, to continue each of
    its chains m times by n tokens.
    """
    rng = np.random.default_rng([seed, 2, step])  # 0 and 1 draw the questions of the two splits

    def uniform(n, m=1):
        numbers = rng.random((run.world, n_chains * m, n), dtype=np.float32)
        return torch.from_numpy(numbers[run.rank]).to(run.device)
    return uniform


def evaluate_and_log(model, task, args, run, progress, measures):
    """Test the policy, greedily. Print and log how far it is."""
    _, test_split = common.splits(args)
    results, examples = evaluate(model, task, run, args.seed, max(1, args.n_test // 4),
                                 split=test_split, free_length=args.free_length)
    if progress['samples_95'] is None and results[task.hops[-1]]['acc'] >= 0.95:
        progress['samples_95'] = progress['samples']

    head = (f'step {progress["step"]}  samples {progress["samples"]:,}  '
            f'hops {format_range(task.hops[:progress["stage"]])}')
    for name, value in measures.items():
        head += f'  {name} {value:.3f}'
    lines = [head, summary(results, task)]
    if progress['step'] in (0, args.max_iters):
        lines += examples
    run.print('\n    '.join(lines))
    run.log(arm='rl', **(progress | measures), eval=results, examples=examples)


# -----------------------------------------------------------------------------
# everything in order

def main(argv=None):
    """Train and test. Returns the values of the last line."""
    args = parse_args(argv)
    task, longer_task, config = fill_in(args)
    needed = memory.require_memory(
        memory_phases(args, task, config), common.find_device(args.device), task, CURES)
    model, state = load_start(args, config)
    torch.manual_seed(args.seed)
    if model is None:
        model = GPT(config)
    facts = dict(params=model.num_params(), chance={k: task.chance(k) for k in task.hops})
    with common.Run('train_rl', args, can_grow=True, **facts) as run:

        # train the model, or take what --ckpt holds
        model.to(run.device)
        if args.eval_only:
            check_progress(state, task)
            progress = dict(reward=None, samples=0, samples_95=None, tokens=0) | state
            before = {}
        else:
            run.print_settings()
            run.print(LEGEND)
            run.print(f'{model.num_params():,} parameters, {args.batch_size} x {run.world} '
                      f'questions a step, {args.group_size} chains each, files in {args.out_dir}, '
                      f'about {memory.in_gib(needed)} of memory')
            before = pass_curve(model, task, args, run) if run.master else {}
            print_pass_curve('before', before, run)
            first_step = state['step'] if state else 0
            progress = train(model, task, args, run, first_step)
            run.end_training(progress['step'])
        if not run.master:
            return None

        # how good is it on held-out instances, and on longer chains than it was trained on?
        _, test_split = common.splits(args)
        results, _ = evaluate(model, task, run, args.seed, args.n_test, split=test_split,
                              free_length=args.free_length)
        run.print(f'test: {summary(results, task)}')
        after = pass_curve(model, task, args, run)
        print_pass_curve('after', after, run)
        beyond = {}
        if longer_task is not None:
            k = largest_trained(args, task)
            beyond, _ = evaluate(model, longer_task, run, args.seed, args.n_test,
                                 hop_token=task.nodes + k - 1, split=test_split)
            run.print(f'longer chains than trained, with the hop token k={k}: '
                      f'{summary(beyond, longer_task)}')

        # the last line, the log's last record, the figure
        final = final_values(results, beyond, progress, model, task, args, run)
        final |= {f'pass_{k}_before': value for k, value in before.items()}
        final |= {f'pass_{k}': value for k, value in after.items()}
        run.print(in_words(final, task, args))
        run.finish(final, step=args.max_iters, by_hops=results, beyond=beyond)
        if not args.eval_only:
            plots.draw_run(run.out_dir)
        return final


def print_pass_curve(name, curve, run):
    """'before: pass@1 0.078  pass@4 0.274 ...', if --pass_k asks for it."""
    if curve:
        text = '  '.join(f'pass@{k} {value:.3f}' for k, value in curve.items())
        run.print(f'{name}: {text}')


def in_words(final, task, args):
    """One sentence: what was found, and against which control."""
    where = f' at {task.hops[-1]} hops' if 'hops' in task.flags else ''
    start = f', starting from {args.init_from}' if args.init_from else ''
    teacher = 'the reward for the answer alone'
    if args.objective == 'coin':
        teacher = 'coin tosses (the control)'
    return (f'Right answers{where}, learned from {teacher}{start}: {final["acc"]:.3f}; guessing '
            f'gives {final["chance"]:.3f}.')


def final_values(results, beyond, progress, model, task, args, run):
    """What the run found, at the largest hop count, and the accuracy at each hop count."""
    k = task.hops[-1]
    by_hops = {f'acc_h{h}': measures['acc'] for h, measures in (results | beyond).items()}
    at_most_hops = {name: value for name, value in results[k].items() if name != 'lengths'}
    if args.free_length:
        by_hops |= {f'length_h{h}': measures['length'] for h, measures in results.items()}
    return dict(
        task=task.name,
        hops=format_range(task.hops),
        baseline=args.baseline,
        objective=args.objective,
        **at_most_hops,
        reward=progress['reward'],
        samples=progress['samples'],
        samples_95=progress['samples_95'],
        tokens=progress['tokens'],
        seconds=run.seconds(),
        params=model.num_params(),
        chance=task.chance(k),
        acc_min=min(measures['acc'] for measures in results.values()),
        **by_hops,
        steps=progress['step'],
        n_test=args.n_test,
        seed=args.seed)


if __name__ == '__main__':
    with one_line_errors():
        main()
