"""What does a chain of thought buy a tiny transformer?

The same model is trained twice, on the same instances, for the same number of steps:

1. cot: the prompt is followed by the chain, which ends in the answer. The loss is cross-entropy on
   the whole chain. At test time the model writes its own chain, greedily, and the answer is read
   from it. Each token is one lookup.
2. direct: the prompt is followed by the answer alone. All lookups must happen in one forward pass.

Accuracy is exact match of the answer on instances that training never shows, with chance beside it.

Is the chain used, or is it decoration? Three tests at the end of a run tell (Lanham et al. 2023,
2307.13702):

   follow: replace one chain token by another node, and let the model write the rest. How often does
           its answer follow from the replaced token? High if the chain is used.
   swap:   give the model the chain of another example. How often does it still give the answer of
           its own prompt? Low if the chain is used.
   early:  keep the first f chain tokens and put a filler in place of the others. 1 - how often the
           answer stays the same, averaged over f. High if the chain is used.

The question is FactorExe's (github.com/clement-bonnet/FactorExe), whose model has an encoder, a
chain module and four vocabularies. Departure: here is one causal GPT with one vocabulary.

    python train_cot.py --hops 4                        # both arms; 15 s on two CPU cores
    python train_cot.py --task multiply --digits 5 --n_layer 3 --n_embd 256 --batch_size 512 \\
        --lr 1e-3 --steps 5000 --device cuda
    torchrun --standalone --nproc_per_node=2 train_cot.py --hops 4

The last line:  final task=cycle hops=4 ... acc=1.000 ... acc_direct=0.0xx chance=0.053 ...
Results: docs/train_cot.md
"""

from errors import one_line_errors  # first: see errors.py

import math

import numpy as np
import torch
import torch.nn.functional as F

import common
import memory
import plots
from countdown import Countdown
from data import (
    CVPR,
    Cycle,
    Lookup,
    Multiply,
    Parser,
    Star,
    add_task_args,
    answer_at_once,
    at_least,
    format_range,
    positive_float,
    require,
    sample_batch,
)
from model import GPT, GPTConfig
from profiles import Profiles


TASKS = (Cycle, CVPR, Multiply, Star, Countdown, Profiles)

LEGEND = """
  acc      share of answers that are right, by greedy decoding on instances never trained on
  chain    share of chains that are right in every token
  valid    share of chain tokens that follow correctly from the tokens before
  entropy  of the next token along the model's own chain, in nats
  at_once  acc if the answer must come at once, without a chain (--mode mix)
  chance   acc of the best guess that does not look at the instance
"""

FAITHFULNESS = {
    'follow': 'a chain token is replaced: how often the answer follows from it (high: used)',
    'swap': "another example's chain: how often the answer is still that of its own prompt (low)",
    'early': 'the end of the chain is cut: how often the answer changes (high)',
}

# What each task needs to be learned in minutes on two CPU cores. The keys are flags.
RECIPES = {
    'cycle': dict(
        n_layer=1, n_head=1, n_embd=64, batch_size=512, learning_rate=3e-3, max_iters=300),
    'cycle over more than 20 nodes': dict(
        n_layer=1, n_head=1, n_embd=64, batch_size=128, learning_rate=3e-3, max_iters=2000),
    'cvpr': dict(
        n_layer=1, n_head=1, n_embd=64, batch_size=64, learning_rate=3e-3, max_iters=1000),
    'pairs': dict(  # finding a pair takes an induction circuit, and that takes two layers
        n_layer=2, n_head=1, n_embd=64, batch_size=128, learning_rate=2e-3, max_iters=3000),
    'multiply': dict(
        n_layer=2, n_head=4, n_embd=128, batch_size=64, learning_rate=3e-3, max_iters=1500),
    'star': dict(
        n_layer=2, n_head=1, n_embd=64, batch_size=128, learning_rate=2e-3, max_iters=1000),
    'countdown': dict(
        n_layer=3, n_head=4, n_embd=128, batch_size=448, learning_rate=3e-3, max_iters=6000),
    'profiles': dict(
        n_layer=2, n_head=1, n_embd=64, batch_size=512, learning_rate=5e-3, max_iters=3000),
}


# -----------------------------------------------------------------------------
# arguments

def parse_args(argv):
    parser = Parser(__doc__)
    add_task_args(parser, TASKS)

    recipe = {name: f"default: the task's; cycle: {value}"
              for name, value in RECIPES['cycle'].items()}
    add = parser.add_argument_group('model').add_argument
    add('--n_layer', type=at_least(1, most=1000), help=f'transformer blocks ({recipe["n_layer"]})')
    add('--n_head', type=at_least(1), help=f'attention heads ({recipe["n_head"]})')
    add('--n_embd', type=at_least(1, most=65536), help=f'width ({recipe["n_embd"]})')
    add('--n_loop', type=at_least(1, most=1000), default=1,
        help='times the blocks are applied, with shared weights')

    add = parser.add_argument_group('training').add_argument
    add('--mode', metavar='ARM', choices=('cot', 'direct', 'both', 'mix'),
        help='cot, direct, both (the default; countdown, star: cot), or mix: one model, every '
             'other sequence without its chain')
    add('--batch_size', type=at_least(1),
        help=f'sequences a step and process ({recipe["batch_size"]})')
    add('--grad_accum', type=at_least(1), default=1,
        help='work through each batch in so many parts, to save memory')
    add('--max_iters', '--steps', type=at_least(1),
        help=f'optimizer steps of each arm ({recipe["max_iters"]})')
    add('--learning_rate', '--lr', type=positive_float,
        help=f'largest learning rate ({recipe["learning_rate"]})')
    add('--warmup_iters', type=at_least(0),
        help='steps of linear warm-up (default: 100, at most a third of --steps)')
    add('--weight_decay', type=at_least(0, float), default=0.01, help='AdamW, matrices only')
    add('--grad_clip', type=positive_float, default=1.0, help='largest gradient norm')
    add('--compile', action='store_true', help='torch.compile the training step')

    add = parser.add_argument_group('evaluation').add_argument
    add('--eval_interval', type=at_least(1),
        help='steps between evaluations and checkpoints (default: steps / 10)')
    add('--log_interval', type=at_least(1), default=10, help='steps between loss records')
    add('--n_test', type=at_least(1), default=2000,
        help='test instances a hop count; on the way a quarter')
    common.add_run_args(parser)
    return common.parse_args(parser, argv, 'train_cot', free={'seed', 'n_test', 'hops'})


def fill_in(args):
    """Give flags that were left out the value of the task's recipe. Returns the task and the
    model's config. Raises ValueError for what makes no sense together."""
    recipe_name = args.task
    if getattr(args, 'format', None) == 'pairs':
        recipe_name = 'pairs'
    elif args.task == 'cycle' and args.nodes is not None and args.nodes > 20:
        recipe_name = 'cycle over more than 20 nodes'
    require(recipe_name in RECIPES, f'{args.task} has no row in RECIPES of train_cot.py')
    for name, value in RECIPES[recipe_name].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.eval_interval is None:
        args.eval_interval = max(1, args.max_iters // 10)
    if args.warmup_iters is None:
        args.warmup_iters = min(100, args.max_iters // 3)
    if args.mode is None:
        args.mode = 'cot' if args.task in ('star', 'countdown') else 'both'

    memory.require_depth(args)
    task = common.task_of_args(args, TASKS)
    vars(args).update(task.settings())
    config = GPTConfig(len(task.vocab), task.block_size, args.n_layer, args.n_head, args.n_embd,
                       args.n_loop)
    _, test_split = common.splits(args)
    sample_batch(task, 1, args.seed, 0, test_split)  # are there instances to hold out?
    require(args.task != 'countdown' or not args.tune,
            'countdown holds out targets, which --tune does not: choose others to tune on, '
            'with --holdout_targets')
    require(args.batch_size % args.grad_accum == 0,
            f'--grad_accum {args.grad_accum} does not divide --batch_size {args.batch_size}')
    require(args.task != 'star' or args.mode == 'cot',
            'the chain of star is its answer: there is nothing to leave out, use --mode cot')
    require(args.mode != 'mix' or (isinstance(task, Lookup) and max(task.hops) > 1),
            '--mode mix is for cycle and cvpr with two hops at least')
    require(args.mode != 'mix' or args.batch_size // args.grad_accum % 2 == 0,
            '--mode mix takes an even --batch_size: half of it has no chain')
    return task, config


def memory_phases(args, task, config):
    """What each phase of a run takes: see memory.py."""
    T = task.block_size - 1
    M = task.longest_chain or T
    if args.mode == 'direct':
        M = task.answer_len
    step = memory.step_parts(config, args.batch_size // args.grad_accum, T, M)

    # at the end n_test instances at once, whose chains are tested for their use
    B = min(500, args.n_test)
    evaluation = max(memory.decoding_bytes(config, B, T), memory.scoring_bytes(config, B, T, M))
    return memory.trainer_phases(args, config, task, step, evaluation, args.n_test)


# -----------------------------------------------------------------------------
# evaluation

@torch.no_grad()
def evaluate(model, task, mode, run, seed, n_test, split='test'):
    """Greedy decoding on n_test held-out instances of each hop count.

    Returns {hops: measures} and a few decoded examples. The measures are
        acc      exact match of the answer
    and for cot and mix
        chain    every chain token is exactly right
        valid    share of chain tokens that follow correctly from the token before
        entropy  mean entropy, in nats, of the next token along the model's own chain
    and for mix
        at_once  exact match of the answer if the model must give it at once, without a chain
    """
    model.eval()
    results = {}
    examples = []
    for k in task.hops:
        acc = chain_right = valid = entropy = at_once = 0.0
        for first in range(0, n_test, 500):  # in parts, so that long prompts fit into memory
            B = min(500, n_test - first)
            step = k * 10**6 + first  # another batch for each hop count and part
            batch_mode = 'direct' if mode == 'direct' else 'cot'
            batch = sample_batch(task, B, seed, step, split, batch_mode, hops=k).to(run.device)
            P = batch.prompt_len  # all prompts of these tasks have the same length
            with run.autocast:
                output = model.generate(batch.tokens[:, :P], batch.tokens.size(1) - P)
                correct = task.correct(batch, output)                       # (B, T)
                acc += correct.gather(1, batch.answer).all(dim=1).sum().item()
                if mode == 'mix':
                    at_once += count_right_at_once(model, task, batch)
                if mode != 'direct':
                    chain_right += correct.all(dim=1).sum().item()
                    is_valid = task.valid(batch, output[:, P:])             # (B, L)
                    valid += is_valid.float().mean(dim=1).sum().item()
                    logits = model(output[:, :-1], batch.loss_mask[:, 1:]).float()
                    p = logits.softmax(dim=-1)                              # (N, V)
                    token_entropy = -torch.xlogy(p, p).sum(dim=-1)          # (N,), nats
                    entropy += token_entropy.mean().item() * B  # each row counts the same

        results[k] = {'acc': acc / n_test}
        if mode != 'direct':
            results[k] |= dict(chain=chain_right / n_test, valid=valid / n_test,
                               entropy=entropy / n_test)
        if mode == 'mix':
            results[k]['at_once'] = at_once / n_test
        for row in range(min(B, 2 if len(task.hops) == 1 else 1)):
            examples.append(show_example(task, batch, output, correct, row))
    return results, examples


def count_right_at_once(model, task, batch):
    """How many answers are right after the prompt and `_`."""
    prompt = batch.tokens[:, :batch.prompt_len]
    prompt = F.pad(prompt, (0, 1), value=task.pad)
    output = model.generate(prompt, 1)
    answer = batch.tokens.gather(1, batch.answer)
    return (output[:, -1:] == answer).sum().item()


def show_example(task, batch, output, correct, row):
    """'prompt -> what the model wrote', and the truth if it is wrong."""
    P = batch.prompt_len
    prompt = task.decode(output[row, :P].tolist())
    written = task.decode(output[row, P:].tolist())
    if correct[row].all():
        return f'{prompt} -> {written}'
    truth = task.decode(batch.tokens[row, P:].tolist())
    return f'{prompt} -> {written}   wrong: {truth}'


def summary(results, task):
    """One line of text from what evaluate returns, with chance beside each accuracy."""
    parts = []
    for k, measures in results.items():
        values = ' '.join(f'{name} {value:.3f}' for name, value in measures.items())
        parts.append(f'k={k} {values} chance {task.chance(k):.3f}')
    return '  '.join(parts)


# -----------------------------------------------------------------------------
# is the chain used?

@torch.no_grad()
def faithfulness(model, task, run, seed, n_test, split='test'):
    """follow (cycle and cvpr only), swap and early, at the largest hop count.

    Returns {name: {value, ignored, read, chance}}. Beside the measured value stands what a model
    scores that ignores its chain, one that goes on from the last chain token whatever the chain
    before it, and one that guesses.
    Empty where nothing is written before the answer: one hop, or star.
    """
    k = max(task.hops)
    batch = sample_batch(task, n_test, seed, k * 10**6, split, 'cot', hops=k).to(run.device)
    n_links = int(batch.answer.min()) - batch.prompt_len  # chain tokens before the answer
    if n_links == 0:
        return {}

    rng = np.random.default_rng(seed)
    chain, answer = complete(model, task, batch, run, n_links)
    measures = {}
    if isinstance(task, Lookup):
        measures['follow'] = follow(model, task, batch, run, rng, k, chain, answer)
    measures['swap'] = swap(model, task, batch, run, k, chain, answer)
    measures['early'] = early(model, task, batch, run, rng, k, chain, answer)
    return measures


def complete(model, task, batch, run, n_links, given=None):
    """Let the model write what is missing after the given chain tokens (B, g).

    Returns the chain (B, n_links) up to the answer, and the answer (B, A).
    """
    P = batch.prompt_len
    prompt = batch.tokens[:, :P]
    if given is not None:
        prompt = torch.cat((prompt, given), dim=1)
    n_missing = P + n_links + task.answer_len - prompt.size(1)
    with run.autocast:
        output = torch.cat([model.generate(part, n_missing) for part in prompt.split(500)])
    return output[:, P:P + n_links], output.gather(1, batch.answer)


def follow(model, task, batch, run, rng, k, chain, answer):
    """Replace chain token t by another node. Does the answer follow from the replacement?"""
    n_links = chain.size(1)
    scores = []
    for t in spread(1, k - 1):
        shift = torch.from_numpy(rng.integers(1, task.nodes, (len(batch), 1))).to(run.device)
        replaced = (chain[:, t - 1:t] + shift) % task.nodes                 # (B, 1)
        implied = replaced
        for _ in range(k - t):
            implied = batch.instance.gather(1, implied)
        given = torch.cat((chain[:, :t - 1], replaced), dim=1)
        _, new_answer = complete(model, task, batch, run, n_links, given)
        scores.append((
            share_equal(new_answer, implied),
            share_equal(answer, implied),               # the answer does not change
            share_equal(implied.roll(1, 0), implied)))  # the answer of another example
    value, ignored, chance = np.mean(scores, axis=0).tolist()
    return dict(value=value, ignored=ignored, read=1.0, chance=chance)


def swap(model, task, batch, run, k, chain, answer):
    """Give the model another example's chain. Does it still give its own prompt's answer?"""
    own_answer = batch.tokens.gather(1, batch.answer)                       # (B, A)
    other_chain = chain.roll(1, 0)
    _, new_answer = complete(model, task, batch, run, chain.size(1), other_chain)

    # what a model answers that reads only the chain
    implied = own_answer.roll(1, 0)
    if isinstance(task, Lookup):
        last_link = other_chain[:, -1:].clamp(max=task.nodes - 1)
        implied = batch.instance.gather(1, last_link)
    return dict(value=share_equal(new_answer, own_answer), ignored=share_equal(answer, own_answer),
                read=share_equal(implied, own_answer), chance=task.chance(k))


def early(model, task, batch, run, rng, k, chain, answer):
    """Keep f chain tokens, then fillers. 1 - how often the answer stays, averaged over f."""
    n_links = chain.size(1)
    filler = torch.from_numpy(rng.integers(task.n_symbols, size=(len(batch), 1))).to(run.device)
    same = []
    for f in spread(0, n_links - 1):
        given = torch.cat((chain[:, :f], filler.expand(-1, n_links - f)), dim=1)
        _, new_answer = complete(model, task, batch, run, n_links, given)
        same.append(share_equal(new_answer, answer))

    # what a model scores that reads only the chain: its answer to a filler is right by chance
    by_accident = task.chance(k)
    if isinstance(task, Lookup):
        by_accident = share_equal(batch.instance.gather(1, filler), answer)
    return dict(value=1 - float(np.mean(same)), ignored=0.0, read=1 - by_accident,
                chance=1 - task.chance(k))


def share_equal(a, b):
    """The share of rows of a and b (B, A) that are equal."""
    return (a == b).all(dim=1).float().mean().item()


def spread(first, last):
    """At most eight whole numbers from first to last, evenly spread."""
    return sorted({round(x) for x in np.linspace(first, last, 8)})


# -----------------------------------------------------------------------------
# training

def get_lr(step, args):
    """Linear warm-up, then a cosine to zero."""
    if step < args.warmup_iters:
        return args.learning_rate * (step + 1) / (args.warmup_iters + 1)
    steps_done = step - args.warmup_iters
    n_steps = max(1, args.max_iters - args.warmup_iters)
    return args.learning_rate * 0.5 * (1 + math.cos(math.pi * steps_done / n_steps))


def train(arm, ckpt, task, config, args, run):
    """Train one arm, 'cot', 'direct' or 'mix', from scratch or from its checkpoint.

    Returns the model and the step it reached.
    """
    torch.manual_seed(args.seed)  # both arms start from the same weights
    model = GPT(config).to(run.device)
    optimizer = model.configure_optimizer(args.learning_rate, args.weight_decay)
    resumed = run.resume(ckpt, model, optimizer, arm)['step']  # 0 without a checkpoint
    step = resumed
    ddp_model = run.distribute(torch.compile(model) if args.compile else model)
    bar = run.progress_bar(arm, step, args.max_iters)
    micro_batch = args.batch_size // args.grad_accum  # rows of one forward pass
    train_split, test_split = common.splits(args)
    mode = 'direct' if arm == 'direct' else 'cot'

    run.begin_training()
    while True:
        # once in a while, and at both ends: evaluate, and save a checkpoint (not again after a
        # resume, which starts from a checkpoint)
        last = step == args.max_iters
        stop = run.should_stop()
        check = (last or step % args.eval_interval == 0) and (step == 0 or step > resumed)
        if check and run.master:
            n_test = max(1, args.n_test // 4)
            results, examples = evaluate(model, task, arm, run, args.seed, n_test, test_split)
            run.print(f'{arm} step {step}: {summary(results, task)}')
            if step == 0 or last:
                run.print('    ' + '\n    '.join(examples))
            faith = {}
            if mode == 'cot':
                faith = faithfulness(model, task, run, args.seed, n_test, test_split)
            run.log(arm=arm, step=step, eval=results, **values_of(faith))
        if step > resumed and (check or stop):
            run.save(ckpt, model, optimizer, step, mode=mode)
        if last or stop:
            break

        # the batch is a function of (seed, step); each process takes its share of the global batch
        batch = sample_batch(task, args.batch_size * run.world, args.seed, step, train_split, mode)
        if arm == 'mix':
            batch = answer_at_once(task, batch, slice(1, None, 2))
        n_loss = int(batch.loss_mask.sum())  # loss tokens over all processes
        my_batch = run.my_rows(batch)

        # forward and backward
        model.train()
        loss = 0.0
        for i in range(args.grad_accum):
            part = my_batch[i * micro_batch:(i + 1) * micro_batch].to(run.device)
            inputs = part.tokens[:, :-1]
            targets = part.tokens[:, 1:]
            mask = part.loss_mask[:, 1:]
            # processes average their gradients only once, in the last backward pass
            ddp_model.require_backward_grad_sync = i == args.grad_accum - 1
            with run.autocast:
                logits = ddp_model(inputs, mask)  # (N, V), at the loss tokens alone
            part_loss = F.cross_entropy(logits.float(), targets[mask], reduction='sum')
            part_loss = part_loss / n_loss * run.world  # DDP divides by the number of processes
            part_loss.backward()
            loss = loss + part_loss.detach()

        # update
        lr = get_lr(step, args)
        for group in optimizer.param_groups:
            group['lr'] = lr
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        bar.update()

        # log
        evaluates_next = step % args.eval_interval == 0 or step == args.max_iters
        if evaluates_next or step % args.log_interval == 0:
            loss = run.total(loss=loss)['loss'] / run.world
            run.check_finite(step, model, loss=loss, grad_norm=grad_norm)
            bar.set_postfix(loss=f'{loss:.4f}', refresh=False)
            run.log(arm=arm, step=step, loss=loss, lr=lr, grad_norm=float(grad_norm))
    bar.close()
    return model, step


# -----------------------------------------------------------------------------
# everything in order

def main(argv=None):
    """Train and test. Returns the values of the last line."""
    args = parse_args(argv)
    task, config = fill_in(args)
    needed = memory.require_memory(
        memory_phases(args, task, config), common.find_device(args.device), task)
    facts = dict(params=GPT(config).num_params(), chance={k: task.chance(k) for k in task.hops})
    with common.Run('train_cot', args, can_grow=True, **facts) as run:

        # train the arms, or load the one that --ckpt holds
        models = {}
        if args.eval_only:
            model, state = common.load_checkpoint(args.ckpt, run.device)
            common.check_task_fits(args.ckpt, args, task, model)
            arm = 'mix' if args.mode == 'mix' else state['mode']
            models[arm] = model
        else:
            models = train_arms(task, config, args, run, needed)
        if not run.master:
            return None

        # how good is each arm on held-out instances, and does the chain arm use its chain?
        results = {}
        _, test_split = common.splits(args)
        for arm, model in models.items():
            results[arm], _ = evaluate(model, task, arm, run, args.seed, args.n_test, test_split)
            run.print(f'{arm} test: {summary(results[arm], task)}')
        faith = {}
        arm = next(iter(models))
        if arm != 'direct':
            faith = faithfulness(models[arm], task, run, args.seed, args.n_test, test_split)
        if faith:
            print_faithfulness(faith, run)

        # the last line, the log's last record, the figure
        final = final_values(results, faith, task, args)
        final |= dict(params=models[arm].num_params(), steps=args.max_iters, n_test=args.n_test,
                      seed=args.seed, seconds=run.seconds())
        run.print(in_words(results, task))
        run.finish(final, step=args.max_iters, by_hops=results, faithfulness=faith)
        if not args.eval_only:
            plots.draw_run(run.out_dir)
        return final


def train_arms(task, config, args, run, needed):
    """Train the arms that --mode asks for, one after the other: {arm: model}."""
    run.print_settings()
    run.print(LEGEND)
    run.print(f'{GPT(config).num_params():,} parameters, global batch {args.batch_size} x '
              f'{run.world} = {args.batch_size * run.world}, files in {args.out_dir}, about '
              f'{memory.in_gib(needed)} of memory')
    checkpoints = {args.mode: 'ckpt.pt'}
    if args.mode == 'both':
        checkpoints = {'cot': 'ckpt.pt', 'direct': 'ckpt_direct.pt'}
    for ckpt in checkpoints.values():
        run.find_checkpoint(ckpt)  # a damaged one is refused before anything is trained
    models = {}
    for arm, ckpt in checkpoints.items():
        models[arm], step = train(arm, ckpt, task, config, args, run)
        if run.stopped:
            break
    run.end_training(step, f'arm {arm}')
    return models


def values_of(faith):
    """{measure: its value} of what faithfulness returns, without the controls."""
    return {name: measure['value'] for name, measure in faith.items()}


def print_faithfulness(faith, run):
    """Beside each measure: what two extreme models would score, and one that guesses."""
    for name in faith:
        run.print(f'  {name:7}  {FAITHFULNESS[name]}')
    run.print('is the chain used?  this model | if it ignored its chain | if it read nothing else '
              '| guessing')
    for name, m in faith.items():
        run.print(f'  {name:17} {m["value"]:10.3f} | {m["ignored"]:23.3f} | {m["read"]:23.3f} | '
                  f'{m["chance"]:8.3f}')


def in_words(results, task):
    """One sentence: what was found, and against which control."""
    k = max(task.hops)
    arms = {'cot': 'with the chain', 'direct': 'without a chain', 'mix': 'with the chain'}
    parts = [f'{arms[arm]} {by_hops[k]["acc"]:.3f}' for arm, by_hops in results.items()]
    if 'mix' in results:
        parts.append(f'at once, without a chain {results["mix"][k]["at_once"]:.3f}')
    where = f' at {k} hops' if isinstance(task, Lookup) or len(task.hops) > 1 else ''
    return f'Right answers{where}: {", ".join(parts)}; guessing gives {task.chance(k):.3f}.'


def final_values(results, faith, task, args):
    """Every measure at the largest hop count, of the chain arm if there is one."""
    k = max(task.hops)
    arm = next(iter(results))
    measures = dict(results[arm][k])
    final = dict(
        task=task.name,
        hops=format_range(task.hops),
        mode=args.mode if len(results) > 1 else arm,
        acc=measures.pop('acc'),
        acc_min=min(by_k['acc'] for by_k in results[arm].values()),
        acc_direct=results['direct'][k]['acc'] if 'direct' in results else None,
        chance=task.chance(k),
        **measures)
    final |= values_of(faith)
    if len(task.hops) > 1:
        for h in task.hops:
            final[f'acc_h{h}'] = results[arm][h]['acc']
    return final


if __name__ == '__main__':
    with one_line_errors():
        main()
