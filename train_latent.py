"""Can a transformer think in vectors, and do the vectors say anything?

FactorExe asks whether intermediate computations should be discrete samples, which need
reinforcement learning, or continuous vectors, through which one can backpropagate. Here one layer,
which can do one lookup, reads a question of k lookups. Its output is its next input, k - 1 times.
The loss is on the k-th output alone, the answer.

1. A thought is what is fed back in place of the next token's embedding. --feed takes a list:
   soft              mean of the token embeddings, weighted with the probabilities of the output
   hidden            the last residual after the last norm (Coconut, Hao et al. 2024, 2412.06769)
   raw               the last residual before that norm
   straight_through  embedding of a sampled token; backwards, the gradient of its Gumbel-softmax
                     (Jang et al. 2017, 1611.01144)
   pause             always the embedding of the filler `_` (Goyal et al. 2024, 2310.02226). It has
                     the same passes as the others, but carries nothing: the control. (With several
                     layers, later ones may compute at the fillers, too)
   token             the written chain, with a loss on every link: the reference. The model is given
                     the true links in training, and reads its own greedy tokens in the test
   direct            no thoughts at all: the first output is the answer
2. Every kind of thought is trained from the same weights, on the same questions.
3. After training, for each thought t and each hop j: what is in it? On held-out questions of the
   most hops:
   lens     how often the model's own head says the node of hop j, as thought t is made
   probe    how often a linear map reads that node from the thought (linear_probe.py)
   flip     thought t is taken from another question: how often the answer becomes the node that
            the remaining lookups reach from there. Counted where the nodes differ, and where the
            model does not say so anyway
   random   the same after a step of the same length in a random direction
   entropy  of the output from which the thought is made, in nats
   hard     accuracy if each thought is replaced by its most likely token's embedding

--share_position gives all thoughts the position of the first one.

    python train_latent.py                              # six kinds of thoughts, 1 to 4 hops
    python train_latent.py --feed hidden --hops 2       # two hops alone: other thoughts
    python train_latent.py --feed soft --share_position --test_hops 5-9
    torchrun --standalone --nproc_per_node=2 train_latent.py --device cuda

The last line:  final ... acc_token=1.000 acc_soft=1.000 ... acc_pause=0.1xx chance=0.111 ...
Results: docs/train_latent.md
"""

from errors import one_line_errors  # first: see errors.py

import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import common
import linear_probe
import memory
import plots
from data import (
    CVPR,
    Cycle,
    Parser,
    add_task_args,
    at_least,
    format_range,
    parse_range,
    positive_float,
    require,
    sample_batch,
    some_of,
)
from model import GPT, GPTConfig, LossPositions, last_position


TASKS = (Cycle, CVPR)
TASK_DEFAULTS = dict(nodes=10, hops=[1, 2, 3, 4])

FEEDS = ('token', 'soft', 'hidden', 'raw', 'straight_through', 'pause', 'direct')
DEFAULT_FEEDS = ('token', 'soft', 'hidden', 'raw', 'straight_through', 'pause')
VECTORS = ('soft', 'hidden', 'raw', 'straight_through')  # thoughts that can carry something
NOISE = 3         # stream of random numbers for Gumbel noise, see data.STREAMS
FOLDS = 5         # of the cross-validation of a probe
PROBE_STEP = 10**9  # batches of questions for probes, far from those of the training

LEGEND = """
  acc        share of answers that are right, by greedy decoding on instances never trained on
  chance     acc of the best guess that does not look at the instance
  questions  training questions seen so far
"""

THOUGHT_LEGEND = """
  lens       the model's own head says the node of hop t, as thought t is made
  probe      a linear map reads that node from thought t
  flip       thought t comes from another question: the answer follows
  random     the same after a random step of the same length
  entropy    of the output that the thought is made from, in nats
"""


# -----------------------------------------------------------------------------
# arguments

def parse_args(argv):
    parser = Parser(__doc__)
    add_task_args(parser, TASKS, **TASK_DEFAULTS)

    add = parser.add_argument_group('thoughts').add_argument
    add('--feed', metavar='FEEDS', type=some_of(FEEDS), default=','.join(DEFAULT_FEEDS),
        help=f'what is fed back: one or several of {", ".join(FEEDS)}, with commas between')
    add('--share_position', action='store_true', help='all thoughts have the same position')

    add = parser.add_argument_group('model').add_argument
    add('--n_layer', type=at_least(1, most=1000), default=1, help='transformer blocks')
    add('--n_head', type=at_least(1), default=2, help='attention heads')
    add('--n_embd', type=at_least(1, most=65536), default=64, help='width')
    add('--n_loop', type=at_least(1, most=1000), default=1,
        help='times the blocks are applied, with shared weights')

    add = parser.add_argument_group('training').add_argument
    add('--batch_size', type=at_least(1), default=256, help='questions a step and process')
    add('--max_iters', '--steps', type=at_least(1), default=400,
        help='optimizer steps of each kind of thought')
    add('--learning_rate', '--lr', type=positive_float, default=3e-3, help='largest learning rate')
    add('--warmup_iters', type=at_least(0),
        help='steps of linear warm-up (default: 100, at most a third of --steps)')
    add('--weight_decay', type=at_least(0, float), default=0.01, help='AdamW, matrices only')
    add('--grad_clip', type=positive_float, default=1.0, help='largest gradient norm')

    add = parser.add_argument_group('evaluation').add_argument
    add('--eval_interval', type=at_least(1),
        help='steps between evaluations and checkpoints (default: steps / 50)')
    add('--n_test', type=at_least(10), default=2000,
        help='test instances a hop count; on the way a quarter')
    add('--test_hops', metavar='HOPS', type=parse_range,
        help='at the end, also test these longer chains')
    common.add_run_args(parser)
    free = {'seed', 'n_test', 'hops', 'test_hops'}
    return common.parse_args(parser, argv, 'train_latent', free)


def fill_in(args):
    """Give flags that were left out their value. Returns the task, the task of --test_hops or None,
    and the model's config. Raises ValueError for what makes no sense together."""
    if args.eval_interval is None:
        args.eval_interval = max(1, args.max_iters // 50)
    if args.warmup_iters is None:
        args.warmup_iters = min(100, args.max_iters // 3)

    memory.require_depth(args)
    task = common.task_of_args(args, TASKS, **TASK_DEFAULTS)
    vars(args).update(task.settings())
    largest = max(trained_hops(args, task))
    require(largest > 1, 'with one hop there is nothing to think: train with --hops 2, or more')
    longer_task = None
    block_size = task.block_size
    if args.test_hops:
        require(args.test_hops[0] > largest,
                f'--test_hops {format_range(args.test_hops)} is for longer chains than {largest} '
                'hops, the longest that are trained')
        longer_task = type(task)(**(task.settings() | {'hops': args.test_hops}))
        if not args.share_position:  # else no position behind the first thought is used
            block_size = max(block_size, longer_task.block_size)
    config = GPTConfig(len(task.vocab), block_size, args.n_layer, args.n_head, args.n_embd,
                       args.n_loop)
    _, test_split = common.splits(args)
    sample_batch(task, 1, args.seed, 0, test_split)  # are there instances to hold out?
    return task, longer_task, config


def trained_hops(args, task):
    """The hop counts of the training. With --eval_only, --hops may be others."""
    if args.eval_only and args.trained_hops:
        return args.trained_hops
    return task.hops


CURES = memory.CURES | {'thoughts': '--n_test'}


def memory_phases(args, task, config):
    """What each phase of a run takes: see memory.py. A thought attends to everything before it."""
    K = max(task.hops)
    T = config.block_size
    C = config.n_embd
    step = memory.step_parts(config, args.batch_size, T, T, n_copies=5)
    # the keys and values are copied once for each thought
    n_cached = args.batch_size * T * C * config.n_layer * config.n_loop
    step['activations'] += 2 * memory.FLOAT * n_cached * K
    B = min(500, args.n_test)
    evaluation = 2 * memory.decoding_bytes(config, B, T)
    phases = memory.trainer_phases(args, config, task, step, evaluation, args.n_test)

    # at the end: the thoughts and outputs of all test questions, and a probe of one thought
    of_a_question = 3 * K * (C + config.vocab_size) + 5 * K * task.nodes + 6 * C
    drawn = 2 * memory.drawing_bytes(task, args.n_test, 'test')
    looking = memory.FLOAT * args.n_test * of_a_question + drawn
    phases.append({'model': phases[-1]['model'], 'evaluation': evaluation, 'thoughts': looking})
    return phases


# -----------------------------------------------------------------------------
# thinking

class Thinker(nn.Module):
    """A GPT whose outputs become its inputs. Output t, from 1, is made at the last token of the
    prompt for t = 1, and at thought t - 1 for the others."""

    def __init__(self, model, feed, filler, share_position=False):
        """filler: the token `_`."""
        super().__init__()
        self.model = model
        self.feed = feed
        self.filler = filler
        self.share_position = share_position

    def forward(self, prompt, n_outputs, chain=None, noise=None, replaced=None):
        """Read the prompt (B, P), then think until there are n_outputs outputs.

        chain (B, n_outputs): for `token`, the tokens to be read; without it the model's own.
        noise (B, n_outputs - 1, V): Gumbel noise for `straight_through`; without it the most likely
        token is taken.
        replaced: {t: (B, C)}, vectors that take the place of thought t.
        Returns logits (B, n_outputs, V) and thoughts (B, n_outputs - 1, C).
        """
        model = self.model
        B, P = prompt.shape
        cache = model.new_growing_cache()

        # the prompt, of which the last position alone is needed
        position = slice(0, P)
        at_the_end = LossPositions(last_position(prompt), causal=True)
        x = model.embed(model.wte(prompt), position)                      # (B, P, C)
        x = model.residual(x, position, cache, loss_positions=at_the_end)  # (B, C)
        logits = [model.head(x)]                                          # (B, V)

        # each thought is read like a token, and leads to the next output
        thoughts = []
        for t in range(1, n_outputs):
            thought = self.make_thought(
                x, logits[-1],
                token=None if chain is None else chain[:, t - 1],
                noise=None if noise is None else noise[:, t - 1])
            if replaced is not None and t in replaced:
                thought = replaced[t]
            thoughts.append(thought)
            place = P if self.share_position else P + t - 1
            position = slice(place, place + 1)
            x = model.embed(thought[:, None], position)                   # (B, 1, C)
            x = model.residual(x, position, cache, start=P + t - 1)[:, 0]
            logits.append(model.head(x))

        if not thoughts:
            return logits[0][:, None], x.new_zeros(B, 0, x.size(1))
        return torch.stack(logits, dim=1), torch.stack(thoughts, dim=1)

    def make_thought(self, x, logits, token=None, noise=None):
        """The next input (B, C), from the residual x (B, C) and the logits (B, V)."""
        model = self.model
        if self.feed == 'pause':
            return model.wte.weight[self.filler].expand(len(x), -1)
        if self.feed == 'hidden':
            return model.ln_f(x)
        if self.feed == 'raw':
            return x
        if self.feed == 'soft':
            return logits.softmax(dim=-1) @ model.wte.weight
        if self.feed == 'straight_through':
            if noise is not None:
                logits = logits + noise
            p = logits.softmax(dim=-1)                                    # (B, V)
            one_hot = F.one_hot(p.argmax(dim=-1), p.size(-1))
            # forwards the sampled token, backwards the gradient of p
            return (one_hot - p.detach() + p) @ model.wte.weight
        if token is None:  # 'token': what the model writes
            token = logits.argmax(dim=-1)
        return model.wte(token)


def n_outputs(feed, hops):
    """How many outputs a question of so many hops takes."""
    return 1 if feed == 'direct' else hops


# -----------------------------------------------------------------------------
# evaluation

@torch.no_grad()
def evaluate(thinker, task, run, seed, n_test, split='test', hop_token=None):
    """Held-out instances of each hop count: {hops: {'acc': exact match of the answer}}.

    hop_token: takes the place of the hop count in the prompt, its last token but one, if given.
    """
    thinker.eval()
    results = {}
    for k in task.hops:
        n_right = 0
        for first in range(0, n_test, 500):  # in parts, so that long prompts fit into memory
            B = min(500, n_test - first)
            batch = sample_batch(task, B, seed, k * 10**6 + first, split, hops=k).to(run.device)
            prompt = batch.tokens[:, :batch.prompt_len].clone()
            if hop_token is not None:
                prompt[:, -2] = hop_token
            with run.autocast:
                logits, _ = thinker(prompt, n_outputs(thinker.feed, k))
            answer = batch.tokens.gather(1, batch.answer)[:, 0]           # (B,)
            n_right += (logits[:, -1].argmax(dim=-1) == answer).sum().item()
        results[k] = {'acc': n_right / n_test}
    return results


def summary(results, task):
    """One line of text from what evaluate returns, with chance beside each accuracy."""
    parts = [f'k={k} acc {measures["acc"]:.3f} chance {task.chance(k):.3f}'
             for k, measures in results.items()]
    return '  '.join(parts)


# -----------------------------------------------------------------------------
# what is a thought?

@torch.no_grad()
def look_into_thoughts(thinker, task, run, seed, n, splits):
    """What each thought holds, on n questions of the most hops, and n others for fitting probes.

    Returns {lens, probe: (K - 1, K) lists, a row for each thought, a column for each hop;
             flip, random, entropy: (K - 1) lists;
             acc, hard: accuracy, with the thoughts and with hard tokens in their place}.
    """
    thinker.eval()
    k = max(task.hops)
    train_split, test_split = splits
    to_fit = sample_batch(task, n, seed, PROBE_STEP, train_split, hops=k).to(run.device)
    to_test = sample_batch(task, n, seed, PROBE_STEP, test_split, hops=k).to(run.device)
    _, thoughts_fit = think_in_parts(thinker, to_fit, k, run)
    logits, thoughts = think_in_parts(thinker, to_test, k, run)           # (n, K - 1, C)
    node = chain_of(to_test)                                              # (n, K)

    # what the head says as thought t is made, and how sure it is
    said = logits[:, :-1].argmax(dim=-1)                                  # (n, K - 1)
    lens = (said[:, :, None] == node[:, None]).float().mean(dim=0)        # (K - 1, K)
    p = logits[:, :-1].softmax(dim=-1)
    entropy = -torch.xlogy(p, p).sum(dim=-1).mean(dim=0)                  # (K - 1,)

    # interchange each thought, and in another run move it as far in a random direction
    flip = []
    random = []
    for t in range(1, k):
        own = thoughts[:, t - 1]
        other = own.roll(1, 0)
        step = linear_probe.random_step(own, other, seed + t)
        flip.append(flip_rate(thinker, to_test, logits, t, other, run))
        random.append(flip_rate(thinker, to_test, logits, t, own + step, run))

    # each thought as its most likely token
    hard = Thinker(thinker.model, 'token', task.pad, thinker.share_position).eval()
    hard_logits, _ = think_in_parts(hard, to_test, k, run)
    return dict(
        lens=lens.tolist(),
        probe=probe_thoughts(thoughts_fit, chain_of(to_fit), thoughts, node, task.nodes).tolist(),
        flip=flip,
        random=random,
        entropy=entropy.tolist(),
        acc=share_right(logits, node),
        hard=share_right(hard_logits, node))


def share_right(logits, node):
    """The share of questions whose last output (n, K, V) is the last node (n, K)."""
    return (logits[:, -1].argmax(dim=-1) == node[:, -1]).float().mean().item()


def chain_of(batch):
    """The nodes of the chains, (B, K)."""
    return batch.tokens[:, batch.prompt_len:]


def think_in_parts(thinker, batch, k, run, replaced=None):
    """Logits and thoughts of a batch, 500 questions at a time, in float32."""
    parts = []
    prompt = batch.tokens[:, :batch.prompt_len]
    for first in range(0, len(prompt), 500):
        rows = slice(first, first + 500)
        of_part = None
        if replaced is not None:
            of_part = {t: vector[rows] for t, vector in replaced.items()}
        with run.autocast:
            parts.append(thinker(prompt[rows], k, replaced=of_part))
    logits, thoughts = zip(*parts, strict=True)
    return torch.cat(logits).float(), torch.cat(thoughts).float()


def flip_rate(thinker, batch, logits, t, vector, run):
    """How often does the answer become the one that follows from the previous question's node c_t,
    if `vector` (n, C) takes the place of thought t? Counted where the model does not say so anyway,
    and where the two nodes differ.

    logits (n, K, V): what the model says by itself.
    """
    k = logits.size(1)
    node = chain_of(batch)[:, t - 1]
    implied = node.roll(1, 0)[:, None]                                    # (n, 1)
    is_other = implied[:, 0] != node
    for _ in range(k - t):
        implied = batch.instance.gather(1, implied)
    implied = implied[:, 0]
    is_counted = is_other & (implied != logits[:, -1].argmax(dim=-1))
    patched, _ = think_in_parts(thinker, batch, k, run, {t: vector})
    follows = patched[:, -1].argmax(dim=-1) == implied
    return (follows & is_counted).sum().item() / max(1, is_counted.sum().item())


def probe_thoughts(x_fit, node_fit, x, node, n_nodes):
    """Accuracy of a linear probe for every hop in every thought, (K - 1, K).

    x_fit, x (n, K - 1, C): thoughts. node_fit, node (n, K).
    """
    classes = [n_nodes] * node.size(1)
    fold = torch.arange(len(x_fit), device=x.device) % FOLDS
    accuracies = []
    for t in range(x.size(1)):  # one after the other, for the memory's sake
        W, b, _ = linear_probe.fit(x_fit[None, :, t], node_fit, fold, classes)
        scores = torch.baddbmm(b[..., None], W.mT, x[None, :, t].mT)      # (1, M, n)
        accuracies.append(linear_probe.correct(scores, node, classes)[0].float().mean(dim=0))
    return torch.stack(accuracies)


# -----------------------------------------------------------------------------
# training

def get_lr(step, args):
    """Linear warm-up, then a cosine to zero."""
    if step < args.warmup_iters:
        return args.learning_rate * (step + 1) / (args.warmup_iters + 1)
    steps_done = step - args.warmup_iters
    n_steps = max(1, args.max_iters - args.warmup_iters)
    return args.learning_rate * 0.5 * (1 + math.cos(math.pi * steps_done / n_steps))


def gumbel_noise(run, seed, step, shape):
    """Noise for this process's rows (B, n, V) = shape, a function of (seed, step)."""
    rng = np.random.default_rng([seed, NOISE, step])
    noise = rng.gumbel(size=(run.world, *shape))[run.rank]
    return torch.from_numpy(noise.astype(np.float32)).to(run.device)


def train(feed, ckpt, task, config, args, run):
    """Train one kind of thought, from scratch or from its checkpoint.

    Returns the Thinker, the step it reached, and the questions until 95% (None: never).
    """
    torch.manual_seed(args.seed)  # all start from the same weights
    model = GPT(config).to(run.device)
    optimizer = model.configure_optimizer(args.learning_rate, args.weight_decay)
    state = run.resume(ckpt, model, optimizer, feed)
    resumed = state['step']  # 0 without a checkpoint
    step = resumed
    questions_95 = state.get('questions_95')
    thinker = Thinker(model, feed, task.pad, args.share_position)
    ddp_thinker = run.distribute(thinker)
    bar = run.progress_bar(feed, step, args.max_iters)
    train_split, test_split = common.splits(args)
    n_questions = args.batch_size * run.world  # of a step
    K = n_outputs(feed, max(task.hops))
    loss_value = None

    run.begin_training()
    while True:
        # once in a while, and at both ends: evaluate, and save a checkpoint
        last = step == args.max_iters
        stop = run.should_stop()
        check = (last or step % args.eval_interval == 0) and (step == 0 or step > resumed)
        if check and run.master:
            n_test = max(1, args.n_test // 4)
            results = evaluate(thinker, task, run, args.seed, n_test, test_split)
            if questions_95 is None and results[max(task.hops)]['acc'] >= 0.95:
                questions_95 = step * n_questions
            run.log(arm=feed, step=step, questions=step * n_questions, eval=results,
                    loss=loss_value, questions_95=questions_95)
            if last or step % (5 * args.eval_interval) == 0:
                run.print(f'{feed} step {step}  questions {step * n_questions:,}  '
                          f'{summary(results, task)}')
        if step > resumed and (check or stop):
            run.save(ckpt, model, optimizer, step, mode=mode_of(feed), feed=feed,
                     questions_95=questions_95)
        if last or stop:
            break

        # the questions, and which outputs carry loss: the answer, of `token` every link
        batch = sample_batch(task, n_questions, args.seed, step, train_split)
        chain = chain_of(batch)
        n_missing = max(task.hops) - chain.size(1)  # where no question has the most hops
        chain = F.pad(chain, (0, n_missing), value=task.pad)              # (B * world, K)
        hops = batch.hops[:, None]
        output = torch.arange(1, chain.size(1) + 1)
        mask = output <= hops if feed == 'token' else output == hops
        n_loss = int(mask.sum())  # over all processes
        prompt = run.my_rows(batch.tokens[:, :batch.prompt_len]).to(run.device)
        chain = run.my_rows(chain).to(run.device)                         # (B, K)
        mask = run.my_rows(mask).to(run.device)                           # (B, K)

        # think, and compare with the answers
        thinker.train()
        noise = None
        if feed == 'straight_through':
            noise = gumbel_noise(run, args.seed, step, (len(prompt), K - 1, len(task.vocab)))
        with run.autocast:
            logits, _ = ddp_thinker(prompt, K, chain if feed == 'token' else None, noise)
        targets = chain[mask]
        if feed == 'direct':
            logits = logits[:, 0]                                         # (B, V)
        else:
            logits = logits[mask]                                         # (N, V)
        loss = F.cross_entropy(logits.float(), targets, reduction='sum') / n_loss * run.world
        loss.backward()

        # update
        for group in optimizer.param_groups:
            group['lr'] = get_lr(step, args)
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        bar.update()

        # the mean loss over all processes, where the next evaluation logs it
        if step % args.eval_interval == 0 or step == args.max_iters:
            loss_value = run.total(loss=loss.detach())['loss'] / run.world
            run.check_finite(step, model, loss=loss_value, grad_norm=grad_norm)
            bar.set_postfix(loss=f'{loss_value:.4f}', refresh=False)
    bar.close()
    return thinker, step, questions_95


def check_progress(state, feed, path):
    """Raise ValueError if a checkpoint is of another feed, or remembers what cannot be."""
    require(state.get('feed') == feed,
            f'{path} holds the thoughts {str(state.get("feed"))[:60]}, not {feed}')
    args = state['args']
    counts = [state['step'], args.get('batch_size'), args.get('processes')]
    require(all(type(count) is int for count in counts),
            f'{path} does not say how many questions it has seen')
    questions = state.get('questions_95')
    is_possible = type(questions) is int and 0 <= questions <= math.prod(counts)
    require(questions is None or is_possible,
            f'{path} has questions_95={str(questions)[:60]}, which cannot be')


def mode_of(feed):
    """What other scripts may do with such a model."""
    if feed == 'token':
        return 'cot'
    return 'direct' if feed == 'direct' else 'latent'


# -----------------------------------------------------------------------------
# everything in order

def main(argv=None):
    """Train and test. Returns the values of the last line."""
    args = parse_args(argv)
    task, longer_task, config = fill_in(args)
    needed = memory.require_memory(
        memory_phases(args, task, config), common.find_device(args.device), task, CURES)
    facts = dict(params=GPT(config).num_params(), chance={k: task.chance(k) for k in task.hops})
    with common.Run('train_latent', args, can_grow=True, **facts) as run:

        # train all kinds of thoughts, or load the one that --ckpt holds
        if args.eval_only:
            thinkers, questions_95 = load_thinker(args, task, config, run)
        else:
            thinkers, questions_95 = train_all(task, config, args, run, needed)
        if not run.master:
            return None

        # how good is each on held-out instances, and what are its thoughts?
        _, test_split = common.splits(args)
        results = {}
        beyond = {}
        inside = {}
        for feed, thinker in thinkers.items():
            results[feed] = evaluate(thinker, task, run, args.seed, args.n_test, test_split)
            run.print(f'{feed} test: {summary(results[feed], task)}')
            if longer_task is not None and feed != 'direct':
                largest = max(trained_hops(args, task))
                hop_token = longer_task.vocab.index(f'k={largest}')  # the largest that it knows
                beyond[feed] = evaluate(thinker, longer_task, run, args.seed, args.n_test,
                                        test_split, hop_token)
                run.print(f'{feed} longer: {summary(beyond[feed], longer_task)}')
            elif longer_task is not None:
                run.print('direct: longer questions mean nothing without thoughts')
            if feed in VECTORS and max(task.hops) > 1:
                inside[feed] = look_into_thoughts(thinker, task, run, args.seed, args.n_test,
                                                  common.splits(args))
        if inside:
            run.print(THOUGHT_LEGEND)
        for feed, measures in inside.items():
            print_thoughts(feed, measures, task, run)

        # the last line, the log's last record, the figure
        final = final_values(results, beyond, inside, questions_95, task)
        final |= dict(params=thinker.model.num_params(), steps=args.max_iters,
                      n_test=args.n_test, seed=args.seed, seconds=run.seconds())
        run.print(in_words(results, task))
        run.finish(final, step=args.max_iters, by_hops=results, longer=beyond, thoughts=inside)
        if not args.eval_only:
            plots.draw_run(run.out_dir)
        return final


def train_all(task, config, args, run, needed):
    """Train every kind of thought in --feed, one after the other.

    Returns {feed: Thinker} and {feed: questions until 95%}.
    """
    run.print_settings()
    run.print(LEGEND)
    run.print(f'{GPT(config).num_params():,} parameters, {args.batch_size} x {run.world} questions '
              f'a step, files in {args.out_dir}, about {memory.in_gib(needed)} of memory')
    checkpoints = {feed: f'ckpt_{feed}.pt' for feed in args.feed}
    for feed, ckpt in checkpoints.items():
        state = run.find_checkpoint(ckpt)
        if state is not None:  # a damaged one is refused before anything is trained
            check_progress(state, feed, run.out_dir / ckpt)
    thinkers = {}
    questions_95 = {}
    for feed, ckpt in checkpoints.items():
        thinkers[feed], step, questions_95[feed] = train(feed, ckpt, task, config, args, run)
        if run.stopped:
            break
    run.end_training(step, f'thoughts {feed}')
    return thinkers, questions_95


def load_thinker(args, task, config, run):
    """The Thinker in --ckpt: {feed: Thinker} and {feed: questions until 95%}."""
    model, state = common.load_checkpoint(args.ckpt, run.device)
    common.check_task_fits(args.ckpt, args, task, model)
    feed = state.get('feed')
    require(feed in FEEDS, f'{args.ckpt} does not say what its thoughts are')
    check_progress(state, feed, args.ckpt)
    require(config.block_size <= model.config.block_size or args.share_position,
            f'{args.ckpt} was made for sequences of {model.config.block_size} tokens, --test_hops '
            f'needs {config.block_size}: give it when training')
    thinker = Thinker(model, feed, task.pad, args.share_position)
    same_hops = max(task.hops) == max(trained_hops(args, task))
    return {feed: thinker}, {feed: state.get('questions_95') if same_hops else None}


def print_thoughts(feed, measures, task, run):
    """A table: what is in each thought."""
    k = max(task.hops)
    run.print(f'{feed}: thoughts about questions of {k} hops. Accuracy {measures["acc"]:.3f}, '
              f'with hard tokens {measures["hard"]:.3f}')
    run.print('  thought   lens  probe   flip  random  entropy   probe of hop 1, 2, ...')
    for t in range(k - 1):
        probes = measures['probe'][t]
        row = f'  {t + 1:7}  {measures["lens"][t][t]:5.3f}  {probes[t]:5.3f}'
        row += f'  {measures["flip"][t]:5.3f}  {measures["random"][t]:6.3f}'
        row += f'  {measures["entropy"][t]:7.3f}   '
        run.print(row + ' '.join(f'{probe:.3f}' for probe in probes))


def in_words(results, task):
    """One sentence: what was found, and against which control."""
    k = max(task.hops)
    parts = [f'{feed} {by_hops[k]["acc"]:.3f}' for feed, by_hops in results.items()]
    return f'Right answers at {k} hops: {", ".join(parts)}; guessing gives {task.chance(k):.3f}.'


def final_values(results, beyond, inside, questions_95, task):
    """Accuracies at the largest hop count, questions until 95%, and what is in thought 1."""
    k = max(task.hops)
    final = dict(task=task.name, hops=format_range(task.hops))
    for feed, by_hops in results.items():
        final[f'acc_{feed}'] = by_hops[k]['acc']
        for h, measures in beyond.get(feed, {}).items():
            final[f'acc_{feed}_h{h}'] = measures['acc']
    final['chance'] = task.chance(k)
    for feed in results:
        questions = questions_95[feed]
        final[f'questions_95_{feed}'] = 'none' if questions is None else questions
    for feed, measures in inside.items():
        final[f'lens_{feed}'] = measures['lens'][0][0]
        final[f'probe_{feed}'] = measures['probe'][0][0]
        final[f'flip_{feed}'] = measures['flip'][0]
        final[f'random_{feed}'] = measures['random'][0]
        final[f'hard_{feed}'] = measures['hard']
    return final


if __name__ == '__main__':
    with one_line_errors():
        main()
