"""Does the reward for two hops teach a skill that goes on to eight?

Yuan et al. (2025, 2509.25123) first teach language models single functions, and then reward right
answers on compositions of two. Their models go on to longer compositions. Models that are trained
to predict the next token of the same questions do not. Is it so here?

1. Base: a model is shown one-hop questions alone, with their answers (the chain has one token).
2. From there, on the same two-hop questions, five ways on:
       reward    REINFORCE as in train_rl.py: 8 chains a question, leave one out
       chains    the two links are shown
       answers   the answer alone is shown, as the first token after the prompt
       coin      a control: as reward, but the rewards are coin tosses
       one hop   a control: more one-hop questions are shown
3. Test: held-out questions of 1 to 8 hops. The prompt says k=2 in place of more hops, and the model
   writes as many tokens as there are hops. The model of `answers` has to answer at once, and its
   prompts keep their own hop count. The base and `one hop` have only seen k=1.

Each way has the same questions. Reward and coin sample 8 chains of each; the others are shown
their one. --rates: each way is trained with each learning rate, and all are printed.

    python results/studies/composition.py | tee results/studies/composition.txt       # 25 minutes
"""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import train_rl  # noqa: E402, after the path
from data import Cycle, sample_batch  # noqa: E402
from model import GPT, GPTConfig  # noqa: E402


HOPS = list(range(1, 9))
WAYS = ('reward', 'chains', 'answers', 'coin', 'one hop')
GROUP = 8
N_TEST = 1000
RUN = SimpleNamespace(device=torch.device('cpu'), autocast=nullcontext())  # for train_rl.evaluate


def shown_loss(model, task, seed, step, hops, mode, batch_size):
    """Cross-entropy of a batch: all of its chain, or (mode 'direct') its answer alone."""
    batch = sample_batch(task, batch_size, seed, step, 'train', mode, hops)
    mask = batch.loss_mask
    logits = model(batch.tokens[:, :-1], mask[:, 1:])                       # (N, V)
    return torch.nn.functional.cross_entropy(logits, batch.tokens[mask])


def reward_loss(model, task, seed, step, is_coin, batch_size, entropy_bonus):
    """The REINFORCE loss of a batch of two-hop questions, as in train_rl.train."""
    questions = sample_batch(task, batch_size, seed, step, 'train', 'cot', 2)
    rows = torch.arange(batch_size).repeat_interleave(GROUP)
    batch = questions[rows]
    rng = np.random.default_rng([seed, 2, step])
    uniform = torch.from_numpy(rng.random((len(rows), 2), dtype=np.float32))
    P = batch.prompt_len
    tokens = model.generate(questions.tokens[:, :P], 2, 1.0, samples=GROUP, uniform=uniform)

    rewards = train_rl.reward(batch, tokens[:, P:])
    if is_coin:
        rewards = torch.from_numpy(rng.random(len(rows)) < 0.5).float()
    advantages = train_rl.advantage(rewards.view(-1, GROUP), 'loo')         # (P, G, 1)
    advantages = advantages.expand(-1, -1, 2).flatten()
    log_p, entropy = train_rl.log_probs(model, tokens, batch.loss_mask)
    return -(advantages * log_p + entropy_bonus * entropy).sum() / len(rows)


def train(model, n_steps, rate, loss_of_step):
    """n_steps of AdamW on loss_of_step(step), after 50 steps of linear warm-up."""
    optimizer = model.configure_optimizer(rate, 0.01)
    for step in range(n_steps):
        loss_of_step(step).backward()
        for group in optimizer.param_groups:
            group['lr'] = rate * min(1, (step + 1) / 51)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def copy_of(model):
    copy = GPT(model.config)
    copy.load_state_dict(model.state_dict())
    return copy


@torch.no_grad()
def test(model, task, seed, at_once):
    """Accuracy at 1 to 8 hops. at_once: the first token is the answer, from two hops on."""
    k2 = task.nodes + 1  # the token k=2
    accuracies = []
    for k in HOPS:
        if at_once and k > 1:
            batch = sample_batch(task, N_TEST, seed, k * 10**6, 'test', 'direct', k)
            P = batch.prompt_len
            output = model.generate(batch.tokens[:, :P], 1)
            accuracies.append((output[:, P] == batch.tokens[:, P]).double().mean().item())
        else:
            one = type(task)(**(task.settings() | {'hops': [k]}))
            one.vocab = task.vocab
            hop_token = k2 if k > 2 else None
            results, _ = train_rl.evaluate(model, one, RUN, seed, N_TEST, hop_token)
            accuracies.append(results[k]['acc'])
    return accuracies


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[1337, 1338, 1339])
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=WAYS)
    parser.add_argument('--rates', type=float, nargs='+', default=[1e-3, 3e-3])
    parser.add_argument('--base_steps', type=int, default=600)
    parser.add_argument('--steps', type=int, default=600)
    parser.add_argument('--batch_size', type=int, default=128)
    parser.add_argument('--format', choices=('table', 'pairs'), default='table')
    parser.add_argument('--entropy', type=float, default=0.01, help='bonus of reward and coin')
    args = parser.parse_args()
    torch.set_num_threads(1)

    task = Cycle(nodes=10, hops=HOPS, format=args.format)
    n_layer = 1 if args.format == 'table' else 2  # finding a pair takes an induction circuit
    print(f'{args.format}: accuracy on held-out questions of 1 to 8 hops')
    print(f'{"seed":>5} {"way":>8} {"rate":>6}  ' + ''.join(f'{k:7}' for k in HOPS))
    for seed in args.seeds:
        torch.manual_seed(seed)
        base = GPT(GPTConfig(len(task.vocab), task.block_size, n_layer, 1, 64))
        train(base, args.base_steps, 3e-3,
              lambda step, seed=seed, base=base: shown_loss(base, task, seed, step, 1, 'cot',
                                                            args.batch_size))
        print_line(seed, 'base', 3e-3, test(base, task, seed, at_once=False))
        for way in args.ways:
            for rate in args.rates:
                model = copy_of(base)

                def loss_of_step(step, way=way, model=model, seed=seed):
                    step += args.base_steps  # questions that the base has not seen
                    if way in ('reward', 'coin'):
                        return reward_loss(model, task, seed, step, way == 'coin',
                                           args.batch_size, args.entropy)
                    mode = 'direct' if way == 'answers' else 'cot'
                    hops = 1 if way == 'one hop' else 2
                    return shown_loss(model, task, seed, step, hops, mode, args.batch_size)

                train(model, args.steps, rate, loss_of_step)
                print_line(seed, way, rate, test(model, task, seed, way == 'answers'))


def print_line(seed, way, rate, accuracies):
    numbers = ''.join(f'{accuracy:7.3f}' for accuracy in accuracies)
    print(f'{seed:5} {way:>8} {rate:6g}  {numbers}', flush=True)


if __name__ == '__main__':
    main()
