"""Ask a trained model your own question, and watch it think.

1. Load any checkpoint of this repository, and read a prompt of its task. Without a prompt, draw
   instances that were held out from training.
2. Let the model write its chain, one token at a time. Beside each token: its probability, the token
   that the model found second best, and whether the token follows by the rules of the task.
3. Compare the answer with the true one, which code works out from the prompt alone.

A maze is drawn, with the path that the model wrote. For the Game of 24, all moves are listed with
the probability that the model gives them.

    python sample.py --ckpt out/train_cot-hops_4/ckpt.pt              # three held-out instances
    python sample.py "10 6 11 ... 0 k=4 3"                            # your own prompt
    python sample.py -i                                               # asks again and again
    python sample.py --ckpt out/train_cot-task_countdown/ckpt.pt "24 4 6 8 10"

The last line:  final task=cycle n=3 right=3
More: docs/sample.md
"""

from errors import one_line_errors  # first: see errors.py

from pathlib import Path

import numpy as np
import torch

import common
from countdown import Countdown, first_of_each, legal_moves
from data import (
    Parser,
    at_least,
    format_range,
    parse_range,
    require,
    sample_batch,
    seed_number,
    shorten,
    write_batch,
)
from maze import Maze


DEFAULT_CKPT = 'out/train_cot-hops_4/ckpt.pt'
MAKE_DEFAULT = 'python train_cot.py --hops 4'


# -----------------------------------------------------------------------------
# arguments

def parse_args(argv):
    parser = Parser(__doc__, '[PROMPT] ')
    parser.add_argument('prompt', nargs='?', type=str, help='words of a prompt, in quotes')
    parser.add_argument('-i', dest='interactive', action='store_true', help='ask again and again')
    parser.add_argument('--ckpt', metavar='FILE', default=DEFAULT_CKPT,
                        help='a checkpoint of any script')
    parser.add_argument('--n', type=at_least(1), default=3, help='held-out instances to draw')
    parser.add_argument('--hops', type=parse_range, help='their hop counts (mazes: their size)')
    parser.add_argument('--temperature', type=at_least(0, float), default=0.0,
                        help='0 takes the most likely token, 1 samples')
    parser.add_argument('--seed', type=seed_number, default=1337,
                        help='which instances, and what is sampled')
    parser.add_argument('--device', default='auto',
                        help='auto (cuda, then mps, then cpu) or a name')
    args = parser.parse_args(argv)

    require(args.ckpt != DEFAULT_CKPT or Path(DEFAULT_CKPT).exists(),
            f'there is no checkpoint {DEFAULT_CKPT} yet; this makes it: {MAKE_DEFAULT}')
    require(args.prompt is None or not (args.interactive or args.hops),
            'a prompt comes alone, without -i and --hops')
    require(not (args.prompt or '').endswith('.pt'),
            f'{args.prompt} is not a prompt; a checkpoint is named by --ckpt')
    require(args.temperature == 0 or args.temperature >= 0.01,
            f'--temperature is 0, or at least 0.01, not {args.temperature}')
    return args


# -----------------------------------------------------------------------------
# prompts

def read_prompt(task, mode, text):
    """A batch of one instance: the prompt that somebody typed, and what the rules make of it.

    Raises ValueError if it is no prompt of this task.
    """
    try:
        prompt = task.encode(text)
        source, hops = task.read(prompt)
        batch = write_batch(task, np.random.default_rng(0), source, hops, mode)
    except NotImplementedError:
        raise ValueError(f'the task {task.name} has no method `read`, which turns a prompt into an '
                         'instance; without a prompt, held-out instances are drawn') from None
    except (ValueError, IndexError, KeyError) as error:
        raise no_prompt(task, mode, text, f' ({error})') from None

    # The instance written anew must be what was typed. Only nodes and cells may stand in another
    # order, since edges and passages are listed in any order. Then the typed order counts.
    P = int(batch.chain_start[0])
    written = batch.tokens[0, :P].tolist()
    if not same_prompt(task, prompt, written):
        raise no_prompt(task, mode, text)
    if len(prompt) == P and not isinstance(task, Countdown):
        batch.tokens[0, :P] = torch.tensor(prompt)

    if P + most_tokens(task, batch, mode) > task.block_size:
        raise no_prompt(task, mode, text, ' (it is too long)')
    if isinstance(task, Maze) and batch.instance[0, 1, source[0, -2]] < 0:  # its distance
        raise no_prompt(task, mode, text, ' (no way leads from the origin to the target)')
    return batch


def same_prompt(task, a, b):
    """Are these two prompts equal, but for padding and for the order of nodes, digits or cells?"""
    a = [token for token in a if token != task.pad]
    b = [token for token in b if token != task.pad]
    form_of_a = [max(token, task.n_symbols - 1) for token in a]
    form_of_b = [max(token, task.n_symbols - 1) for token in b]
    return form_of_a == form_of_b and sorted(a) == sorted(b)


def no_prompt(task, mode, text, reason=''):
    """The error for a text that is no prompt of the task, with one that is."""
    return ValueError(f'{shorten(text)!r} is no prompt of this model{reason}. One of its prompts: '
                      f'{example_prompt(task, mode)}')


def example_prompt(task, mode):
    """One prompt of the task, as text."""
    batch = sample_batch(task, 1, 0, 0, 'test', mode)
    return task.decode(batch.tokens[0, :batch.chain_start[0]].tolist())


# -----------------------------------------------------------------------------
# thinking

@torch.no_grad()
def think(model, task, batch, mode, temperature=0.0, generator=None):
    """Write a chain after the prompt of batch (one row), one token at a time.

    Every token takes a forward pass over the whole sequence. (model.generate is faster.)
    Returns the chain, a list of tokens, and for each the probabilities of all tokens, (L, V).
    """
    P = int(batch.chain_start[0])
    longest = most_tokens(task, batch, mode)
    tokens = batch.tokens[:1, :P]
    chain = []
    probabilities = []
    while not has_ended(task, chain, longest):
        logits = next_logits(model, tokens, task.pad)                       # (1, V)
        p = (logits.float() / (temperature or 1)).softmax(dim=-1)
        if temperature > 0:
            token = torch.multinomial(p.cpu(), 1, generator=generator).to(p.device)
        else:
            token = p.argmax(dim=-1, keepdim=True)
        tokens = torch.cat((tokens, token), dim=1)
        chain.append(int(token))
        probabilities.append(p[0].cpu())
    return chain, torch.stack(probabilities)


def next_logits(model, tokens, pad):
    """The logits of the token after tokens (1, T): (1, V)."""
    if not model.config.causal:  # trained with mlmu: the next token is a masked position
        tokens = torch.cat((tokens, torch.full_like(tokens[:, :1], pad)), dim=1)
    is_last = torch.arange(tokens.size(1), device=tokens.device)[None] == tokens.size(1) - 1
    if not model.config.causal:
        return model(tokens, is_last, visible=~is_last)
    return model(tokens, is_last)


def most_tokens(task, batch, mode):
    """How many tokens a chain may have."""
    if isinstance(task, Maze):
        return task.answer_len
    if isinstance(task, Countdown) and mode == 'cot':
        return 6  # a verdict and a step
    return int(batch.loss_mask[0].sum())  # those of the true chain


def has_ended(task, chain, longest):
    """Is the chain complete?"""
    if isinstance(task, Maze) and task.path_end in chain:
        return True
    if isinstance(task, Countdown) and task.no in chain[:1]:
        return True
    return len(chain) == longest


# -----------------------------------------------------------------------------
# what the rules say

def check(task, batch, chain, mode):
    """Which tokens of the chain follow from those before, a list of bool, or None if this cannot be
    told; and whether the answer is right."""
    P = int(batch.chain_start[0])
    T = batch.tokens.size(1)
    written = torch.tensor([chain])                                         # (1, L)
    follows = None
    if mode == 'cot':
        follows = task.valid(batch, written)[0].tolist()

    if isinstance(task, Maze):  # any shortest path is right
        shortest = int(batch.loss_mask.sum())
        ended = chain[-1] == task.path_end
        return follows, ended and all(follows) and len(chain) == shortest

    # as long as the true chain: after a verdict there may be a step too many, or none
    padding = torch.full((1, T), task.pad)
    output = torch.cat((batch.tokens[:1, :P], written, padding), dim=1)[:, :T]
    correct = task.correct(batch, output)
    return follows, bool(correct.gather(1, batch.answer).all())


def true_answer(task, batch):
    """The answer that the rules give, as text."""
    if isinstance(task, Maze):
        return task.decode(batch.tokens[0][batch.loss_mask[0]].tolist())
    places = sorted(set(batch.answer[0].tolist()))
    return task.decode(batch.tokens[0, places].tolist())


# -----------------------------------------------------------------------------
# what is shown

def show(model, task, batch, mode, args, generator):
    """Let the model think about one prompt, and print it all. Returns whether it is right."""
    P = int(batch.chain_start[0])
    chain, probabilities = think(model, task, batch.to(args.device), mode,
                                 args.temperature, generator)
    follows, is_right = check(task, batch, chain, mode)

    print(f'prompt  {task.decode(batch.tokens[0, :P].tolist())}\n')
    print_tokens(task, chain, probabilities, follows)
    if isinstance(task, Maze):
        print()
        print('\n'.join(draw_maze(task, batch, chain)))
    if isinstance(task, Countdown) and mode == 'cot':
        print_moves(model, task, batch, args)

    verdict = 'right' if is_right else f'wrong, it is {true_answer(task, batch)}'
    if isinstance(task, Maze):
        print(f'\npath    {verdict}\n')
    else:
        places = sorted(set((batch.answer[0] - P).tolist()))
        answer = task.decode(chain[place] for place in places if place < len(chain))
        print(f'\nanswer  {answer}: {verdict}\n')
    return is_right


def print_tokens(task, chain, probabilities, follows):
    """A line a token: its probability, the best other token, and whether it follows."""
    words = task.vocab
    width = max(6, *(len(words[token]) for token in chain))
    print(f'  {"writes":{width}}  probability  runner-up' + (' ' * (width + 2))
          + ('by the rules' if follows else ''))
    for i, token in enumerate(chain):
        p = probabilities[i]
        others = p.clone()
        others[token] = -1
        second = int(others.argmax())
        line = f'  {words[token]:{width}}  {p[token]:11.3f}'
        line += f'  {words[second]:{width}} {p[second]:.3f}'
        if follows:
            line += '     ' + ('follows' if follows[i] else 'does not follow')
        print(line)


def print_moves(model, task, batch, args):
    """The moves of a state of the Game of 24, with the probability that the model gives each."""
    k = int(batch.hops[0])
    target = batch.instance[:, 0]
    states = batch.instance[:, 1:k + 2]
    child, legal, _ = legal_moves(states)
    distinct = first_of_each(child, legal)[0]
    steps, good = task.good_steps(target, states)
    steps = steps[0][distinct]                                              # (M, 5)
    good = good[0][distinct]

    p = probability_of_steps(model, task, batch, steps, args)
    print(f'\n  moves ({len(steps)}; the model gives {p.sum():.3f} of its probability to them)')
    for i in p.argsort(descending=True)[:10].tolist():
        verdict = f'{int(target)} can still be made' if good[i] else ''
        print(f'  {task.decode(steps[i].tolist()):20}  {p[i]:.3f}  {verdict}'.rstrip())
    if len(steps) > 10:
        print(f'  ... and {len(steps) - 10} more, each less likely')


@torch.no_grad()
def probability_of_steps(model, task, batch, steps, args):
    """The probability of each step (M, 5) after a yes: (M,)."""
    P = int(batch.chain_start[0])
    M = len(steps)
    head = torch.cat((batch.tokens[:1, :P], torch.tensor([[task.yes]])), dim=1).expand(M, -1)
    tokens = torch.cat((head, steps), dim=1).to(args.device)                # (M, P + 6)
    logits = model(tokens[:, :-1])[:, P:]                                   # (M, 5, V)
    log_p = logits.float().log_softmax(dim=-1).gather(2, tokens[:, P + 1:, None])[..., 0]
    return log_p.sum(dim=1).exp().cpu()


def draw_maze(task, batch, chain):
    """The maze as lines of text: O the origin, X the target, * the path that the model wrote."""
    size = int(batch.hops[0])
    open_bits, distance = batch.instance[0].tolist()
    number = {tuple(cell): i for i, cell in enumerate(task.cells[:-1].tolist())}
    origin = int(batch.tokens[0, batch.chain_start[0]])
    lines = ['+---' * size + '+']
    for row in range(size):
        inside = '|'
        below = '+'
        for column in range(size):
            cell = number[row, column]
            mark = '*' if cell in chain else ' '
            if cell == origin:
                mark = 'O'
            elif distance[cell] == 0:
                mark = 'X'
            inside += f' {mark} ' + (' ' if open_bits[cell] & 8 else '|')
            below += ('   ' if open_bits[cell] & 4 else '---') + '+'
        lines += [inside, below]
    return lines


# -----------------------------------------------------------------------------
# everything in order

def main(argv=None):
    """Show what the model makes of each prompt. Returns how many, and how many are right."""
    args = parse_args(argv)
    args.device = common.find_device(args.device)
    model, task, state = common.load_trained(args.ckpt, args.device)
    common.require_tokens(args.ckpt, state)
    require(not state['args'].get('free_length'), f'{args.ckpt} has chains of free length')
    mode = state['mode']
    generator = torch.Generator().manual_seed(args.seed)
    print(f'{task.name}, {model.num_params():,} parameters, trained by '
          f'{state["args"]["script"]}.py for {state["step"]:,} steps\n')

    if args.hops:
        require('hops' in task.flags or isinstance(task, Maze) or set(args.hops) <= set(task.hops),
                f'{task.name} has hops {format_range(task.hops)}')
        require(max(args.hops) <= max(task.hops),
                f'{args.ckpt} reaches {max(task.hops)} hops, not {format_range(args.hops)}')
        task.hops = args.hops
    results = []
    if args.interactive:
        results = ask_again_and_again(model, task, mode, args, generator)
    elif args.prompt is not None:
        batch = read_prompt(task, mode, args.prompt)
        results = [show(model, task, batch, mode, args, generator)]
    else:
        for i in range(args.n):
            batch = sample_batch(task, 1, args.seed, i, 'test', mode, args.hops)
            results.append(show(model, task, batch, mode, args, generator))

    final = dict(task=task.name, n=len(results), right=sum(results))
    print(common.final_line(**final))
    return final


def ask_again_and_again(model, task, mode, args, generator):
    """Read prompts until there are no more. An empty line draws a held-out instance."""
    print(f'Type a prompt, or nothing for a held-out instance (hops {format_range(task.hops)}). '
          f'Ctrl-D or q ends.\nFor example: {example_prompt(task, mode)}\n')
    results = []
    while True:
        try:
            text = input('prompt> ')
        except EOFError:
            print()
            return results
        if text.strip() in ('q', 'quit', 'exit'):
            return results
        try:
            if text.strip():
                batch = read_prompt(task, mode, text)
            else:
                step = len(results)
                batch = sample_batch(task, 1, args.seed, step, 'test', mode, args.hops)
            results.append(show(model, task, batch, mode, args, generator))
        except ValueError as error:
            print(f'{error}\n')


if __name__ == '__main__':
    with one_line_errors():
        main()
