"""How sequential is a chain of thought?

Greedy decoding takes L forward passes for a chain of L tokens, one after the other. Does it have
to? Jacobi decoding (Santilli et al. 2023, 2305.10427) writes all tokens at once, in rounds:

1. Guess all L tokens. The first guess is zeros.
2. A round: one forward pass reads the prompt and the guess, and predicts every token again. That is
   the next guess.
3. Stop when a round changes nothing. What is left is the greedy chain, up to rounding.

Token i is final after round i at the latest, because then all tokens before it are final. It is
final earlier if it does not wait for the tokens before it. So the round in which a whole chain is
final measures how many of its steps must follow each other: L if each token waits for the one
before it, 1 if none does. Only tokens that carry loss count.

    python jacobi.py --ckpt out/train_cot-hops_4/ckpt.pt
    python jacobi.py --ckpt out/train_cot-task_multiply/ckpt.pt --n_test 2000
    torchrun --standalone --nproc_per_node=2 jacobi.py --ckpt out/train_cot-hops_4/ckpt.pt

The last line:  final method=jacobi task=cycle hops=4 tokens=4.000 rounds=3.9xx most=4 ...
Results: docs/jacobi.md
"""

from errors import one_line_errors  # first: see errors.py

import torch

import common
import memory
from countdown import Countdown
from data import CVPR, Cycle, Multiply, Parser, Star, at_least, sample_batch
from profiles import Profiles


TASKS = (Cycle, CVPR, Multiply, Star, Countdown, Profiles)


def parse_args(argv):
    parser = Parser(__doc__)
    parser.add_argument('--ckpt', required=True, help='checkpoint of train_cot.py or train_rl.py')
    parser.add_argument('--n_test', type=at_least(1), default=500,
        help='held-out instances a hop count')
    common.add_run_args(parser, trains=False)
    return common.parse_args(parser, argv, 'jacobi')


def memory_phases(args, task, config):
    """All instances of one hop count are drawn, then decoded at once: see memory.py."""
    model = 4 * memory.FLOAT * memory.n_params(config)  # with the optimizer of its checkpoint
    B = args.n_test
    T = task.block_size
    parallel = memory.scoring_bytes(config, B, T, task.longest_chain or T, n_copies=2)
    one_by_one = memory.decoding_bytes(config, B, T)
    batch = memory.drawing_bytes(task, B, 'test')
    return [{'model': model, 'data': batch},
            {'model': model, 'data': batch // 3, 'decoding': max(parallel, one_by_one)}]


CURES = dict(model='the model', data='--n_test', decoding='--n_test')


def count_rounds(model, task, mode, hops, run, args):
    """Jacobi decoding on n_test held-out instances of one hop count. Returns
        tokens   of a chain that carry loss, on average
        rounds   until all of them are final, on average
        most     the most rounds that a chain took
        equal    share of chains that equal those of token-by-token decoding
    """
    batch = sample_batch(task, args.n_test, args.seed, hops * 10**6, 'test', mode, hops)
    batch = batch[run.rank::run.world].to(run.device)
    P = batch.prompt_len
    L = batch.tokens.size(1) - P
    prompt = batch.tokens[:, :P]
    has_loss = batch.loss_mask[:, P:]                                # (p, L)
    with run.autocast:
        output, rounds = model.generate_jacobi(prompt, L)
        greedy = model.generate(prompt, L)

    last_round = (rounds * has_loss).amax(dim=1)                     # (p,)
    same = (output == greedy)[:, P:] | ~has_loss                     # (p, L)
    tokens = run.gather_rows(has_loss.sum(dim=1), args.n_test)
    rounds = run.gather_rows(last_round, args.n_test)
    equal = run.gather_rows(same.all(dim=1), args.n_test)
    return dict(tokens=tokens.mean().item(), rounds=rounds.mean().item(), most=int(rounds.max()),
                equal=equal.mean().item())


@torch.no_grad()
def main(argv=None):
    """Count rounds, by hop count. Returns the values of the last line."""
    args = parse_args(argv)
    model, state = common.load_checkpoint(args.ckpt)
    common.require_tokens(args.ckpt, state)
    task = common.task_of_checkpoint(args.ckpt, state, TASKS)
    memory.require_memory(memory_phases(args, task, model.config),
                          common.find_device(args.device), task, CURES)

    with common.Run('jacobi', args, params=model.num_params()) as run:
        run.join_group()  # for the results; each process decodes for itself
        model.to(run.device).eval()
        run.print('rounds of parallel decoding until a chain is final, by hop count k; '
                  'equal: share of chains\nthat are the same as those decoded token by token')
        for hops in task.hops:
            measures = count_rounds(model, task, state['mode'], hops, run, args)
            run.print(f'k={hops}: {measures["tokens"]:.2f} tokens, final after '
                      f'{measures["rounds"]:.2f} rounds on average, {measures["most"]} at most; '
                      f'equal to greedy: {measures["equal"]:.3f}')
            run.log(arm='row', hops=hops, **measures)
        run.leave_group()
        if not run.master:
            return None

        # the last line: the largest hop count
        final = dict(method='jacobi', task=task.name, hops=hops, **measures, n_test=args.n_test,
                     params=model.num_params(), model_seed=state['args'].get('seed'),
                     seed=args.seed, seconds=run.seconds())
        run.log(arm='final', **final)
        run.print(f'A chain of {measures["tokens"]:.2f} tokens is final after '
                  f'{measures["rounds"]:.2f} rounds; one token after the other takes '
                  f'{measures["tokens"]:.2f}.')
        run.print(common.final_line(**final))
        return final


if __name__ == '__main__':
    with one_line_errors():
        main()
