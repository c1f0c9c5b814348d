"""Does the reward for a solved puzzle make a model a better player?

train_cot.py shows a model single steps of the Game of 24 (task `countdown`), on other targets than
24. Here the model plays whole puzzles, and only their end is rewarded.

1. Start from a checkpoint of train_cot.py --task countdown.
2. An episode is a puzzle. The model writes a step after the verdict `yes`, and the rules apply it:
   the numbers that are left are its next prompt. A step that is wrong or not allowed ends the
   chain. The reward is 1 if the last number is the target, else 0.
3. REINFORCE with the leave-one-out baseline, as in train_rl.py: of each puzzle the model plays a
   group of chains, and the advantage of a chain is its reward minus the mean reward of the others.
   All tokens of all its steps share that advantage. --baseline none trains on solved chains alone.
4. Held out: the puzzles of --puzzles (the hundred of Tree of Thoughts), and every state that moves
   can reach from them. No such state is ever a prompt in the loss. Holding out the hundred alone
   would not do: the states below them come up in other puzzles, too. (Earlier steps of a chain
   that comes to such a state are trained on, and their reward depends on how that chain ends.)
5. pass@k on the held-out puzzles, before and after (Yue et al. 2025, 2504.13837).

Controls: random legal moves; --objective coin, where rewards are coin tosses; --targets 36,48,60,
where 24 is never trained on. The verdict is not trained: search.py --puzzles results/tot-100.txt
shows what becomes of a beam that uses it. (Puzzles of five numbers come from a fixed 200 of them.)

    python train_cot.py --task countdown --holdout_targets 24,36,48,60 --steps 2000  # 10 minutes
    python train_puzzles.py --init_from out/train_cot-.../ckpt.pt
    torchrun --standalone --nproc_per_node=2 train_puzzles.py --init_from ... --device cuda

The last line:  final target=24 targets=24 baseline=loo ... greedy_before=... greedy=... pass_1=...
Results: docs/train_puzzles.md
"""

from errors import one_line_errors  # first: see errors.py

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import common
import memory
import plots
from countdown import (
    Countdown,
    can_reach,
    first_of_each,
    legal_moves,
    multisets,
    random_move,
    read_puzzles,
)
from data import Parser, at_least, format_range, parse_range, positive_float, require


TASKS = (Countdown,)
STEP_LEN = 5            # tokens of a step: a op b = c
N_SEEN = 200            # training puzzles that are tested, too
CHAINS_AT_ONCE = 4096   # of an evaluation, about
PUZZLES_AT_ONCE = 500   # that are played at random
LEGEND = """
  samples        chains played so far
  reward         mean reward of the chains of this step (with coins: of the coins)
  legal          share of chains without a wrong step
  entropy        of a sampled token, in nats
  zero_variance  share of puzzles whose chains all solve them, or none does
  pass_at_group  share of puzzles that at least one chain solves
  left_out       share of steps in held-out states, which the loss leaves out
  greedy         share of held-out puzzles that greedy steps solve
  greedy_seen    the same of training puzzles
  pass@k         share of held-out puzzles that one of k sampled chains solves
"""


# -----------------------------------------------------------------------------
# arguments

def parse_args(argv):
    parser = Parser(__doc__)

    add = parser.add_argument_group('puzzles').add_argument
    add('--init_from', metavar='CKPT', help='checkpoint of train_cot.py --task countdown')
    add('--targets', type=parse_targets, metavar='T,T-T', default='24',
        help='targets to train on, such as 24 or 10-23,25-100')
    add('--target', type=at_least(1), default=24, help='target of the held-out puzzles')
    add('--puzzles', metavar='FILE', default='results/tot-100.txt', help='the held-out puzzles')

    add = parser.add_argument_group('reinforcement learning').add_argument
    add('--baseline', choices=('none', 'loo'), default='loo', metavar='NAME',
        help='subtracted from each reward: none, loo')
    add('--objective', choices=('mean', 'coin'), default='mean', metavar='NAME',
        help='mean reward, or coin: a coin toss, the control')
    add('--group_size', type=at_least(2), default=8, help='chains of each puzzle')
    add('--temperature', type=at_least(0.01, float), default=1.0,
        help='of the policy that is sampled and trained')
    add('--entropy', type=at_least(0, float), default=0.02,
        help='bonus for each nat of entropy of each token')

    add = parser.add_argument_group('training and evaluation').add_argument
    add('--batch_size', type=at_least(1), default=64, help='puzzles a step and process')
    add('--max_iters', '--steps', type=at_least(1), default=300, help='optimizer steps')
    add('--learning_rate', '--lr', type=positive_float, default=1e-4,
        help='constant after the warm-up')
    add('--warmup_iters', type=at_least(0), default=20, help='steps of linear warm-up')
    add('--weight_decay', type=at_least(0, float), default=0.01, help='AdamW, matrices only')
    add('--grad_clip', type=positive_float, default=1.0, help='largest gradient norm')
    add('--log_interval', '--eval_interval', type=at_least(1),
        help='steps between evaluations and checkpoints (default: steps / 30)')
    add('--pass_k', type=at_least(1, most=10**4), metavar='N', default=256,
        help='before and after: pass@1, 4, ... N')
    add('--resume', action='store_true', help='go on from the checkpoint in out_dir')
    common.add_run_args(parser, trains=False)
    return common.parse_args(parser, argv, 'train_puzzles')


def parse_targets(text):
    """'36,48-50' -> [36, 48, 49, 50]"""
    targets = []
    for part in text.split(',', 100):
        targets += parse_range(part)
    return sorted(set(targets))


def format_targets(targets):
    """[36, 48, 49, 50] -> '36,48-50'"""
    ranges = []
    for target in targets:
        if ranges and target == ranges[-1][-1] + 1:
            ranges[-1].append(target)
        else:
            ranges.append([target])
    return ','.join(format_range(numbers) for numbers in ranges)


def load_start(args):
    """The model of --init_from, and its task. Raises ValueError if they do not fit the puzzles."""
    require(args.init_from, 'an untrained model hardly ever makes a target: --init_from takes a '
            'checkpoint of train_cot.py --task countdown')
    model, state = common.load_checkpoint(args.init_from)
    task = common.task_of_checkpoint(args.init_from, state, TASKS)
    require(state['args']['script'] == 'train_cot',
            f'{args.init_from} is no checkpoint of train_cot.py: it may have played these puzzles')
    require(state['mode'] == 'cot', f'{args.init_from} writes verdicts alone, and no steps')
    require(args.target in task.holdout_targets,
            f'{args.init_from} was trained on the target {args.target}: train it with '
            f'--holdout_targets {args.target}')
    for target in args.targets:
        require(target in task.targets, f'targets go from 10 to 100, and --targets has {target}')
    vars(args).update(task='countdown', **task.settings())
    if args.log_interval is None:
        args.log_interval = max(1, args.max_iters // 30)
    return model, task


def load_puzzles(args, task):
    """The puzzles of --puzzles, (P, n). Raises ValueError if one of them cannot make the target."""
    try:
        puzzles = read_puzzles(args.puzzles, task.numbers)
    except OSError as error:
        raise ValueError(f'cannot read --puzzles {args.puzzles}: {error.strerror}') from error
    solvable = can_reach(puzzles, torch.full((len(puzzles),), args.target))
    impossible = [' '.join(map(str, puzzle)) for puzzle in puzzles[~solvable].tolist()]
    require(not impossible,
            f'{args.puzzles}: some puzzles cannot make {args.target} in whole numbers, such as '
            f'{", ".join(impossible[:3])}')
    return puzzles


def require_same_puzzles(args, puzzles):
    """Raise ValueError if --resume goes on with a run that holds out other puzzles than these."""
    path = Path(args.out_dir) / 'ckpt.pt'
    if args.resume and path.exists():
        _, state = common.load_checkpoint(path)
        require(state.get('held_out') == puzzles.tolist(),
                f'{path} holds out other puzzles than {args.puzzles}: give another --out_dir')


CURES = memory.CURES | {'evaluation': '--pass_k', 'chains': '--group_size or --batch_size'}


def memory_phases(args, task, config):
    """What each phase of a run takes: see memory.py. A chain has a row for each of its steps."""
    T = 2 + task.numbers + STEP_LEN
    n_chains = args.batch_size * args.group_size
    step = memory.step_parts(config, n_chains * (task.numbers - 1), T - 1, STEP_LEN)
    weights = 3 * memory.FLOAT * memory.n_params(config)
    at_once = max(args.pass_k, CHAINS_AT_ONCE)
    return [
        step,
        {'model': weights, 'chains': memory.decoding_bytes(config, n_chains, T)},
        {'model': weights, 'evaluation': memory.decoding_bytes(config, at_once, T)},
    ]


# -----------------------------------------------------------------------------
# puzzles, and what is held out

class HeldOut:
    """The puzzles that are never trained on, and all states that moves can reach from them."""

    def __init__(self, target, puzzles, device):
        """puzzles (P, n), each sorted."""
        self.target = target
        self.puzzles = puzzles.to(device)
        self.codes = {}  # how many numbers a state has -> codes of the states
        states = self.puzzles
        while states.size(1) > 1:
            self.codes[states.size(1)] = code_of(states).unique()
            child, legal, _ = legal_moves(states)
            states = child[legal]  # and each of them once
            states = states[first_of_each(states[None], legal.new_ones(1, len(states)))[0]]

    def holds(self, targets, states):
        """Which of these states (N, m) with their targets (N,) are held out? (N,) bool"""
        return (targets == self.target) & torch.isin(code_of(states), self.codes[states.size(1)])


def code_of(states):
    """One number for each state (N, m), m at most 5, of sorted numbers up to 199. (N,)"""
    power = 200 ** torch.arange(states.size(1), device=states.device)
    return (states * power).sum(dim=1)


def training_puzzles(targets, held_out):
    """All puzzles that make one of these targets: puzzles (N, n), and their targets (N,).

    Without those that are held out.
    """
    candidates = multisets(held_out.puzzles.size(1)).to(held_out.puzzles.device)
    puzzles = []
    their_targets = []
    for target in targets:
        target = torch.full((len(candidates),), target, device=candidates.device)
        keep = can_reach(candidates, target) & ~held_out.holds(target, candidates)
        puzzles.append(candidates[keep])
        their_targets.append(target[keep])
    puzzles = torch.cat(puzzles)
    require(len(puzzles) > 0, 'no puzzle is left to train on')
    return puzzles, torch.cat(their_targets)


# -----------------------------------------------------------------------------
# playing

@dataclass
class Turn:
    """One step of N chains."""
    chain: torch.Tensor     # (N,) which chains these are
    states: torch.Tensor    # (N, m) the numbers before the step
    tokens: torch.Tensor    # (N, T) the prompt, `yes`, and the step that the model wrote


@torch.no_grad()
def play(model, task, puzzles, targets, n_chains=1, temperature=0.0, uniform=None):
    """Let the model play n_chains chains of each puzzle (P, n) with its target (P,).

    uniform (P * n_chains, 5 (n - 1)): random numbers for the tokens of the n - 1 steps.
    temperature 0 is greedy. Returns solved and legal, both (P, n_chains) bool, and a list of Turns.
    legal: the chain has no wrong step. A wrong step ends a chain.
    """
    P, n = puzzles.shape
    solved = torch.zeros(P * n_chains, dtype=torch.bool, device=puzzles.device)
    legal = torch.zeros_like(solved)
    chain = torch.arange(P * n_chains, device=puzzles.device)
    states = puzzles.repeat_interleave(n_chains, dim=0)                     # (N, m)
    turns = []

    while states.size(1) > 1 and len(chain) > 0:
        # the model writes a step of each chain
        target = targets[chain // n_chains]
        yes = torch.full_like(target, task.yes)[:, None]
        prompt = torch.cat((task.write_prompt(target, states), yes), dim=1)
        numbers = None
        if temperature > 0:
            first = STEP_LEN * len(turns)
            numbers = uniform[chain, first:first + STEP_LEN]
        if not turns:  # one prompt serves all chains of a puzzle
            tokens = model.generate(prompt[::n_chains], STEP_LEN, temperature, samples=n_chains,
                                    uniform=numbers)
        else:
            tokens = model.generate(prompt, STEP_LEN, temperature, uniform=numbers)
        turns.append(Turn(chain, states, tokens))

        # the rules apply it
        child, is_legal = task.apply_step(states, tokens[:, -STEP_LEN:])
        chain = chain[is_legal]
        states = child[is_legal]

    if len(chain) > 0:
        legal[chain] = True
        solved[chain] = states[:, 0] == targets[chain // n_chains]
    return solved.view(P, n_chains), legal.view(P, n_chains), turns


def random_play(puzzles, target, n_chains, seed):
    """The control without a model: the share of chains of random legal moves that make the target.

    puzzles (P, n). Each of the states that a move can lead to is equally likely.
    """
    generator = torch.Generator().manual_seed(seed)
    n_solved = 0
    for some in puzzles.cpu().split(PUZZLES_AT_ONCE):
        states = some.repeat_interleave(n_chains, dim=0)                    # (N, m)
        while states.size(1) > 1:
            states = random_move(states, generator)
        n_solved += (states[:, 0] == target).sum().item()
    return n_solved / (len(puzzles) * n_chains)


def uniform_numbers(run, seed, step, n_chains, n_steps):
    """The random numbers of a step, a function of (seed, step): this process's share of them,
    (n_chains, 5 n_steps)."""
    rng = np.random.default_rng([seed, 2, step])
    numbers = rng.random((run.world, n_chains, STEP_LEN * n_steps), dtype=np.float32)
    return torch.from_numpy(numbers[run.rank]).to(run.device)


# -----------------------------------------------------------------------------
# evaluation

def greedy_share(model, task, run, puzzles, target):
    """The share of puzzles (P, n) that greedy steps solve. target (P,)"""
    n_solved = 0
    for start in range(0, len(puzzles), CHAINS_AT_ONCE):
        part = slice(start, start + CHAINS_AT_ONCE)
        with run.autocast:
            solved, _, _ = play(model, task, puzzles[part], target[part])
        n_solved += solved.sum().item()
    return n_solved / len(puzzles)


def pass_curve(model, task, run, held_out, args):
    """{k: pass@k} for k = 1, 4, 16, ... --pass_k, on the held-out puzzles.

    The random numbers are always the same ones.
    """
    puzzles = held_out.puzzles
    rng = np.random.default_rng([args.seed, 3])  # a stream that nothing else draws from
    n_right = []
    part = max(1, CHAINS_AT_ONCE // args.pass_k)
    for some in puzzles.split(part):
        n_chains = len(some) * args.pass_k
        numbers = rng.random((n_chains, STEP_LEN * (puzzles.size(1) - 1)), dtype=np.float32)
        target = torch.full((len(some),), args.target, device=run.device)
        with run.autocast:
            solved, _, _ = play(model, task, some, target, args.pass_k, args.temperature,
                                torch.from_numpy(numbers).to(run.device))
        n_right.append(solved.sum(dim=1).cpu().double())
    return common.pass_curve(args.pass_k, torch.cat(n_right))


# -----------------------------------------------------------------------------
# training

def get_lr(step, args):
    """Linear warm-up, then constant."""
    return args.learning_rate * min(1, (step + 1) / (args.warmup_iters + 1))


def leave_one_out(rewards):
    """rewards (P, G) -> advantages (P, G): each reward minus the mean of the others in its row."""
    G = rewards.size(1)
    mean_of_others = (rewards.sum(dim=1, keepdim=True) - rewards) / (G - 1)
    return rewards - mean_of_others


def steps_to_train(task, turns, targets, held_out):
    """The steps of all turns that the loss counts: all but those in held-out states.

    targets: of each chain. Returns their tokens (N, T), and which chains they are from, (N,).
    """
    tokens = []
    chain = []
    for turn in turns:
        trains = ~held_out.holds(targets[turn.chain], turn.states)
        tokens.append(turn.tokens[trains])
        chain.append(turn.chain[trains])
    return torch.cat(tokens), torch.cat(chain)


def log_probs(model, tokens, temperature):
    """The log-probability of each token of the steps that end tokens (N, T), and the entropy of
    the distribution that it was drawn from. (N, 5), (N, 5)"""
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[:, -STEP_LEN:] = True
    logits = model(tokens[:, :-1], mask[:, 1:]).float() / temperature       # (N * 5, V)
    log_p = logits.log_softmax(dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    log_p_sampled = log_p.gather(1, tokens[mask][:, None])[:, 0]
    return log_p_sampled.view(-1, STEP_LEN), entropy.view(-1, STEP_LEN)


def train(model, task, args, run, held_out, puzzles, targets):
    """REINFORCE from `model`, or from this run's checkpoint, on puzzles (N, n) with their targets
    (N,). Returns how many chains it took."""
    optimizer = model.configure_optimizer(args.learning_rate, args.weight_decay)
    resumed = step = run.resume('ckpt.pt', model, optimizer, 'rl')['step']
    held_out_puzzles = held_out.puzzles.tolist()  # the checkpoint has them, for search.py
    policy = run.distribute(model)
    bar = run.progress_bar('rl', step, args.max_iters)
    P = args.batch_size  # puzzles of this process
    G = args.group_size  # chains of each puzzle
    measures = {}

    run.begin_training()
    while True:
        # once in a while, and at both ends: evaluate, and save a checkpoint
        last = step == args.max_iters
        stop = run.should_stop()
        check = (last or step % args.log_interval == 0) and (step == 0 or step > resumed)
        if check and run.master:
            evaluate_and_log(model, task, args, run, held_out, puzzles, targets, step, measures)
        if step > resumed and (check or stop):
            run.save('ckpt.pt', model, optimizer, step, held_out=held_out_puzzles)
        if last or stop:
            break

        # 1. Puzzles. They are a function of (seed, step); each process takes its share.
        rng = np.random.default_rng([args.seed, 0, step])
        chosen = torch.from_numpy(rng.integers(len(puzzles), size=P * run.world))
        chosen = run.my_rows(chosen).to(run.device)

        # 2. Rollouts. The policy plays G chains of each puzzle.
        uniform = uniform_numbers(run, args.seed, step, P * G, puzzles.size(1) - 1)
        with run.autocast:
            solved, legal, turns = play(model, task, puzzles[chosen], targets[chosen], G,
                                        args.temperature, uniform)

        # 3. Reward: 1 for a chain that makes the target, else 0.
        rewards = solved.float()                                            # (P, G)
        if args.objective == 'coin':
            rng = np.random.default_rng([args.seed, 4, step])
            coins = torch.from_numpy(rng.random((run.world, P, G)) < 0.5)
            rewards = coins[run.rank].float().to(run.device)

        # 4. Advantage: how much better than the other chains of its puzzle is a chain?
        advantages = leave_one_out(rewards) if args.baseline == 'loo' else rewards

        # 5. Gradient step. The gradient is a mean over chains of sums over the tokens of their
        # steps, without steps in held-out states.
        targets_of_chains = targets[chosen].repeat_interleave(G)
        tokens, chain = steps_to_train(task, turns, targets_of_chains, held_out)
        with run.autocast:
            log_p, entropy = log_probs(policy, tokens, args.temperature)    # (N, 5), (N, 5)
        gain = advantages.flatten()[chain][:, None] * log_p + args.entropy * entropy
        loss = -gain.sum() / (P * G)
        loss.backward()
        for group in optimizer.param_groups:
            group['lr'] = get_lr(step, args)
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        bar.update()

        # measures of this step, over all processes
        n_right = solved.sum(dim=1)                                         # (P,)
        n_steps = sum(len(turn.chain) for turn in turns)
        total = run.total(
            reward=rewards.sum(), legal=legal.sum(), same=(n_right % G == 0).sum(),
            solved=(n_right > 0).sum(), entropy=entropy.sum(), steps=n_steps, trained=len(chain),
            loss=loss)
        n_puzzles = P * run.world
        measures = dict(
            reward=total['reward'] / (n_puzzles * G),
            legal=total['legal'] / (n_puzzles * G),
            entropy=total['entropy'] / (total['trained'] * STEP_LEN),
            grad_norm=float(grad_norm),
            zero_variance=total['same'] / n_puzzles,
            pass_at_group=total['solved'] / n_puzzles,
            left_out=1 - total['trained'] / total['steps'])
        if step % args.log_interval == 0 or step == args.max_iters:
            run.check_finite(step, model, loss=total['loss'], grad_norm=grad_norm)
            bar.set_postfix(reward=f'{measures["reward"]:.3f}', refresh=False)
    bar.close()
    run.end_training(step)
    return step * P * G * run.world


def evaluate_and_log(model, task, args, run, held_out, puzzles, targets, step, measures):
    """Play the held-out puzzles, and some of the training puzzles. Print and log how it goes."""
    target = torch.full((len(held_out.puzzles),), args.target, device=run.device)
    greedy = greedy_share(model, task, run, held_out.puzzles, target)
    some = torch.linspace(0, len(puzzles) - 1, min(N_SEEN, len(puzzles))).long()
    greedy_seen = greedy_share(model, task, run, puzzles[some], targets[some])

    samples = step * args.batch_size * args.group_size * run.world
    line = f'step {step}  samples {samples:,}  greedy {greedy:.3f}  greedy_seen {greedy_seen:.3f}'
    for name, value in measures.items():
        line += f'  {name} {value:.3f}'
    run.print(line)
    run.log(arm='rl', step=step, samples=samples, greedy=greedy, greedy_seen=greedy_seen,
            **measures)


# -----------------------------------------------------------------------------
# everything in order

def main(argv=None):
    """Train and test. Returns the values of the last line."""
    args = parse_args(argv)
    model, task = load_start(args)
    puzzles = load_puzzles(args, task)
    require_same_puzzles(args, puzzles)
    device = common.find_device(args.device)
    needed = memory.require_memory(memory_phases(args, task, model.config), device, None, CURES)
    held_out = HeldOut(args.target, puzzles, device)
    seen = training_puzzles(args.targets, held_out)
    torch.manual_seed(args.seed)
    chance = random_play(puzzles, args.target, 256, args.seed)
    with common.Run('train_puzzles', args, can_grow=True, params=model.num_params(),
                    chance=chance) as run:
        run.print_settings()
        run.print(LEGEND)
        run.print(f'{model.num_params():,} parameters, {args.batch_size} x {run.world} puzzles a '
                  f'step, {args.group_size} chains each, files in {args.out_dir}, about '
                  f'{memory.in_gib(needed)} of memory')
        run.print(f'{len(seen[0]):,} puzzles to train on')
        model.to(run.device)

        # before, training, after
        before = {}
        if run.master:
            before = test(model, task, args, run, held_out, 'before')
        samples = train(model, task, args, run, held_out, *seen)
        if not run.master:
            return None
        after = test(model, task, args, run, held_out, 'after')

        # the last line, the log's last record, the figure
        final = final_values(before, after, samples, chance, len(puzzles), model, args, run)
        run.print(in_words(final, args))
        run.finish(final, step=args.max_iters)
        plots.draw_run(run.out_dir)
        return final


def test(model, task, args, run, held_out, when):
    """{'greedy': ..., 'pass_1': ..., ...} on the held-out puzzles."""
    target = torch.full((len(held_out.puzzles),), args.target, device=run.device)
    measures = {'greedy': greedy_share(model, task, run, held_out.puzzles, target)}
    for k, value in pass_curve(model, task, run, held_out, args).items():
        measures[f'pass_{k}'] = value
    words = [f'{name.replace("_", "@")} {value:.3f}' for name, value in measures.items()]
    run.print(f'{when}: {"  ".join(words)}')
    return measures


def final_values(before, after, samples, chance, n_test, model, args, run):
    """What the run found."""
    final = dict(
        target=args.target,
        targets=format_targets(args.targets),
        baseline=args.baseline,
        objective=args.objective,
        chance=chance)
    for name, value in after.items():
        final[f'{name}_before'] = before[name]
        final[name] = value
    return final | dict(
        samples=samples,
        steps=args.max_iters,
        params=model.num_params(),
        n_test=n_test,
        seed=args.seed,
        seconds=run.seconds())


def in_words(final, args):
    """One sentence: what was found, and against which control."""
    teacher = 'the reward for solved puzzles'
    if args.objective == 'coin':
        teacher = 'coin tosses (the control)'
    return (f'Held-out puzzles solved by greedy steps: {final["greedy_before"]:.3f} before, '
            f'{final["greedy"]:.3f} after {args.max_iters} steps with {teacher}. Random legal '
            f'moves solve {final["chance"]:.3f}.')


if __name__ == '__main__':
    with one_line_errors():
        main()
