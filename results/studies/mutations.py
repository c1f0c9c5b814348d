"""Would the tests notice? One line of the source is changed, as a bug would, and the tests run.

The repository is copied to a temporary folder. There one line of the source is changed, the tests
that are named for its file run until the first one fails, and the line is put back. A change is
caught if a test fails. Before the first change all of these tests must pass.

    python results/studies/mutations.py | tee results/studies/mutations.txt
    python results/studies/mutations.py --only train_cot.py
    python results/studies/mutations.py --list
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


ROOT = Path(__file__).parents[2]
LONGEST = 300  # seconds: tests that take longer hang, and that is noticed, too

# The tests of each file, without those that start processes or train for long.
TESTS = {
    'model.py': 'test_model.py',
    'data.py': 'test_data.py',
    'countdown.py': 'test_splits.py test_countdown.py',
    'profiles.py': 'test_profiles.py',
    'maze.py': 'test_maze.py',
    'common.py': 'test_common.py -k "not gloo"',
    'files.py': 'test_common.py test_files.py -k "not gloo and not full_disk '
                'and not two_processes"',
    'checkpoint.py': 'test_checkpoint.py',
    'errors.py': 'test_errors.py -k "not full_disk"',
    'memory.py': 'test_memory.py',
    'plots.py': 'test_plots.py -k "not documents"',
    'train_cot.py': 'test_train_cot.py -k "not signal and not process and not resume_after '
                    'and not every_task and not profiles_train"',
    'train_rl.py': 'test_train_rl.py -k "not kill and not process and not resume_after '
                   'and not exact and not bfloat16"',
    'train_maze.py': 'test_train_maze.py -k "not process and not resume_after and not every_loss '
                     'and not teacher_forced and not other_scripts"',
    'search.py': 'test_search.py -k "not two_processes"',
    'jacobi.py': 'test_jacobi.py -k "not two_processes"',
    'capacity.py': 'test_capacity.py -k "not processes and not damaged and not stopped"',
    'probe.py': 'test_probe.py -k "not two_processes and not checkpoint"',
    'sample.py': 'test_sample.py',
}
PROCESSES_OF_COT = 'test_train_cot.py -k two_processes'
PROCESSES_OF_RL = 'test_train_rl.py -k two_processes'
PROCESSES_OF_MAZE = 'test_train_maze.py -k two_processes'
RESUMED_COT = 'test_train_cot.py -k "resume_after and stops2"'
RESUMED_RL = 'test_train_rl.py -k "resume_after and curriculum"'

# {file: [(what it does, old text, new text) or (..., tests)]}. The old text stands there once.
MUTATIONS = {
    'train_cot.py': [
        ('tunes on the test split',
         'evaluate(model, task, arm, run, args.seed, n_test, test_split)',
         'evaluate(model, task, arm, run, args.seed, n_test)'),
        ('a mixture has chains alone',
         'answer_at_once(task, batch, slice(1, None, 2))',
         'answer_at_once(task, batch, slice(0, 0))'),
        ('evaluates on the training split',
         'sample_batch(task, B, seed, step, split, batch_mode, hops=k)',
         "sample_batch(task, B, seed, step, 'train', batch_mode, hops=k)"),
        ('tests faithfulness on the training split',
         "k * 10**6, split, 'cot', hops=k)",
         "k * 10**6, 'train', 'cot', hops=k)"),
        ('trains on the test split',
         'args.seed, step, train_split, mode)',
         'args.seed, step, test_split, mode)'),
        ('the same batch at every step',
         'args.seed, step, train_split, mode)',
         'args.seed, 0, train_split, mode)'),
        ('the seed does not decide the batches',
         'args.seed, step, train_split, mode)',
         '1337, step, train_split, mode)'),
        ('gradients are not clipped',
         'clip_grad_norm_(model.parameters(), args.grad_clip)',
         'clip_grad_norm_(model.parameters(), math.inf)'),
        ('no cosine after the warm-up',
         'args.learning_rate * 0.5 * (1 + math.cos(math.pi * steps_done / n_steps))',
         'args.learning_rate'),
        ('the learning rate is that of the next step',
         'lr = get_lr(step, args)',
         'lr = get_lr(step + 1, args)'),
        ('gradients are never set to zero',
         'optimizer.zero_grad(set_to_none=True)',
         'pass'),
        ('the loss is on the token before',
         'mask = part.loss_mask[:, 1:]',
         'mask = part.loss_mask[:, :-1]'),
        ('logs the loss of the last micro-batch alone',
         'loss = loss + part_loss.detach()',
         'loss = part_loss.detach()'),
        ('weight decay is not that of the flag',
         'configure_optimizer(args.learning_rate, args.weight_decay)',
         'configure_optimizer(args.learning_rate, 0.01)'),
        ('the seed does not decide the weights',
         'torch.manual_seed(args.seed)  # both',
         'torch.manual_seed(0)  # both'),
        ('a checkpoint says that it is of the step before',
         'run.save(ckpt, model, optimizer, step, mode=mode)',
         'run.save(ckpt, model, optimizer, max(1, step - 1), mode=mode)'),
        ('dropout would act in evaluations',
         '    model.eval()\n    results = {}',
         '    results = {}'),
        ('each part of the test is the first part again',
         'step = k * 10**6 + first',
         'step = k * 10**6'),
        ('accuracy is a share of the last part',
         "results[k] = {'acc': acc / n_test}",
         "results[k] = {'acc': acc / B}"),
        ('follow goes one lookup too far',
         'for _ in range(k - t):',
         'for _ in range(k - t + 1):'),
        ('early is turned around',
         'value=1 - float(np.mean(same))',
         'value=float(np.mean(same))'),
        ('swap leaves each example its own chain',
         'other_chain = chain.roll(1, 0)',
         'other_chain = chain.clone()'),
        ('the worst hop count is the best',
         "acc_min=min(by_k['acc']",
         "acc_min=max(by_k['acc']"),
        ('logs the step that it resumed at again',
         'and (step == 0 or step > resumed)',
         'and (step == 0 or step >= resumed)', RESUMED_COT),
        ('gradients of two processes are halved',
         'part_loss = part_loss / n_loss * run.world',
         'part_loss = part_loss / n_loss', PROCESSES_OF_COT),
    ],
    'train_rl.py': [
        ('evaluates on the training split',
         'k * 10**6 + first, split, hops=k)',
         "k * 10**6 + first, 'train', hops=k)"),
        ('the same questions at every step',
         'args.seed, step, train_split, hops=hops)',
         'args.seed, 0, train_split, hops=hops)'),
        ('the same random numbers at every step',
         'default_rng([seed, 2, step])',
         'default_rng([seed, 2, 0])'),
        ('leave one out divides by the whole group',
         'reward - n_others_right / max(1, G - 1)',
         'reward - n_others_right / G'),
        ('a chain is its own baseline',
         'reward - n_others_right / max(1, G - 1)',
         'reward - n_right / G'),
        ('the bonus punishes entropy',
         'advantages * log_p + args.entropy * entropy',
         'advantages * log_p - args.entropy * entropy'),
        ('trains another policy than it sampled from',
         'shared=shared).float() / temperature',
         'shared=shared).float()'),
        ('the mean is over tokens, not over chains',
         '* entropy).sum() / (P * G)',
         '* entropy).mean()'),
        ('gradients are not clipped',
         'clip_grad_norm_(model.parameters(), args.grad_clip)',
         'clip_grad_norm_(model.parameters(), 1e9)'),
        ('the curriculum looks at the easy questions, too',
         "total['hardest_right'] > 0.9 * total['hardest']",
         "total['right'] > 0.9 * n_questions * G"),
        ('samples until 95% are taken back',
         "if progress['samples_95'] is None and results",
         'if results'),
        ('the running mean forgets at once',
         "0.95 * progress['mean'] + 0.05 * mean",
         "0.05 * progress['mean'] + 0.95 * mean"),
        ('rollouts are counted from one prefix too many',
         'samples = 1 + rollouts * (hops - 1)',
         'samples = 1 + rollouts * hops'),
        ('longer chains are asked with their own hop count',
         'prompt[:, -2] = hop_token',
         'pass'),
        ('values of prefixes are of the token after',
         'rows = (batch.hops > i).nonzero()',
         'rows = (batch.hops > i + 1).nonzero()'),
        ('counters that cannot be are taken',
         'is_possible = type(value) is number and low <= value <= high',
         'is_possible = type(value) is number'),
        ('pass@k draws with replacement',
         '((n - n_right[..., None] - i)',
         '((n - n_right[..., None] - 0 * i)'),
        ('weight decay is not that of the flag',
         'configure_optimizer(args.learning_rate, args.weight_decay)',
         'configure_optimizer(args.learning_rate, 0.01)'),
        ('a resumed run forgets its running mean and its stage',
         'progress.update({name: state[name] for name in progress if name in state})',
         "progress['step'] = state['step']", RESUMED_RL),
        ('both processes sample with the same random numbers',
         'torch.from_numpy(numbers[run.rank])',
         'torch.from_numpy(numbers[0])', PROCESSES_OF_RL),
    ],
    'train_maze.py': [
        ('tests on the training split',
         'size * 10**6 + first, split, hops=size)',
         "size * 10**6 + first, 'train', hops=size)"),
        ('the same mazes at every step',
         'args.seed, step, train_split,',
         'args.seed, 0, train_split,'),
        ('gradients are not clipped',
         'clip_grad_norm_(model.parameters(), 1.0)',
         'clip_grad_norm_(model.parameters(), math.inf)'),
        ('no cosine after the warm-up',
         'return args.learning_rate * warmup * cosine',
         'return args.learning_rate * warmup'),
        ('gradients are never set to zero',
         'optimizer.zero_grad(set_to_none=True)',
         'pass'),
        ('mlmu masks the same places at every step',
         'default_rng([seed, 2, step])',
         'default_rng([seed, 2, 0])'),
        ('mlmu sees the tokens that it must predict',
         'visible = (tokens != pad) & ~is_target',
         'visible = tokens != pad'),
        ('balanced weighs a maze token as a path token',
         'path / path.sum() + maze / maze.sum()',
         'path / path.sum() + maze / path.sum()'),
        ('a detour costs half',
         'torch.where(is_nearer[:, 0], 0.0, -2 * beta)',
         'torch.where(is_nearer[:, 0], 0.0, -beta)'),
        ('a valid path counts as a shortest one',
         'shortest=valid & (regret == 0)',
         'shortest=valid'),
        ('a path through walls is valid',
         'valid = origin & (legal | ~taken).all(dim=1) & reach & ended',
         'valid = origin & reach & ended'),
        ('the first cell has a way back',
         'n_ways_on[:, 1:] -= 1',
         'n_ways_on -= 1'),
        ('the control may turn back',
         'can_go = is_open[:, 0] & (neighbour != came_from)',
         'can_go = is_open[:, 0]'),
        ('the two controls are swapped',
         "walk(task, batch, name == 'greedy', rng)",
         "walk(task, batch, name == 'random', rng)"),
        ('right choices are a share of all steps',
         "'fork': ('right_at_forks', 'forks')",
         "'fork': ('right_at_forks', 'steps')"),
        ('examples of the figure are the right paths first',
         'key=is_shortest.__getitem__)',
         'key=is_shortest.__getitem__, reverse=True)'),
        ('gradients of two processes are halved',
         '(loss * run.world).backward()',
         'loss.backward()', PROCESSES_OF_MAZE),
    ],
    'data.py': [
        ('validation is a part of the test split',
         "task.in_split(key, 'train') & (held_out(other_hash) ==",
         "task.in_split(key, 'test') & (held_out(other_hash) =="),
        ('the answer at once carries no loss',
         'loss_mask[rows, P + 1] = True',
         'loss_mask[rows, P] = True'),
        ('a cycle is held out in one order and trained in another',
         'return table, np.concatenate((table, order[:, :1]), axis=1)',
         'return order, np.concatenate((table, order[:, :1]), axis=1)'),
        ('a * b is held out and b * a trained',
         'return np.sort(factors, axis=1), factors',
         'return factors, factors'),
        ('the splits are swapped',
         "held_out(key) == (split == 'test')",
         "held_out(key) == (split == 'train')"),
        ('both splits draw the same instances',
         'np.random.default_rng([seed, STREAMS[split], step])',
         'np.random.default_rng([seed, step])'),
        ('the loss is on one token of padding, too',
         'np.arange(chain.shape[1]) < chain_len[:, None]',
         'np.arange(chain.shape[1]) <= chain_len[:, None]'),
        ('the hop word says one hop too many',
         'hop_word = self.nodes + hops[:, None] - 1',
         'hop_word = self.nodes + hops[:, None]'),
        ('the value of cvpr is never its own index',
         'rng.integers(last_cell + 1)',
         'rng.integers(np.maximum(last_cell, 1))'),
        ('chance of cvpr is of a smaller cell',
         '(prob / (p + 1)).sum()',
         '(prob / (p + 2)).sum()'),
        ('chance of a cycle counts the start',
         'return 1 / (self.nodes - 1)',
         'return 1 / self.nodes'),
        ('a running sum is not shifted',
         'expected = partial * 10**j + running_sum',
         'expected = partial + running_sum'),
        ('a wrong node is valid where the one before is no node',
         'return is_node & (chain == successor)',
         'return chain == successor'),
        ('a bound is not allowed itself',
         'low <= number',
         'low < number'),
    ],
    'countdown.py': [
        ('targets that were held out are trained on, but for 24',
         'np.isin(key[:, 0], self.holdout_targets)',
         'np.isin(key[:, 0], [24])'),
        ('quotients with a remainder are legal',
         'divides = (b > 0) & (a % b.clamp(min=1) == 0)',
         'divides = b > 0'),
        ('equal moves count again',
         'return allowed & ~same.tril(-1).any(dim=2)',
         'return allowed'),
        ('a legal step is correct, also where it leads nowhere',
         'return legal, legal & (count_solutions(child, target) > 0)',
         'return legal, legal'),
        ('chance always says yes',
         'return max(self.share_of_yes[hops], 1 - self.share_of_yes[hops])',
         'return self.share_of_yes[hops]'),
        ('the easiest puzzles come first',
         'difficulty[solvable].argsort(stable=True)',
         'difficulty[solvable].argsort(stable=True, descending=True)'),
        ('after a no the step must be good',
         '(good | nothing_asked)[:, None]',
         'good[:, None]'),
    ],
    'profiles.py': [
        ('pairs are held out by relation and subject',
         'held_out(question[:, :2])',
         'held_out(question[:, 1:])'),
        ('single combinations are not held out',
         '[by_person, by_pair, by_combination], [1, 2, 3], 0)',
         '[by_person, by_pair], [1, 2], 0)'),
        ('a child is its own parent',
         'np.roll(ring, -1)',
         'np.roll(ring, 1)'),
        ('relabelled answers are the true ones',
         'np.where(two_hops, others_bridge, person)',
         'np.where(two_hops, bridge, person)'),
        ('a value is the word before it',
         'self.n_symbols + fact[is_value]',
         'self.n_symbols + fact[is_value] - 1'),
        ('chance in two hops is that of one',
         'for column in self.truth[bridge].T:',
         'for column in self.truth.T:'),
    ],
    'maze.py': [
        ('origin and target can be one cell',
         'target = (origin + 1 + shift) % n_cells',
         'target = (origin + shift) % n_cells'),
        ('the shortest path goes through walls',
         'choices = is_open[row, cell] & is_nearer',
         'choices = is_nearer'),
        ('whether a maze is held out depends on the other sizes',
         'key = passage - 1',
         'key = passage'),
        ('walls stay where they should be opened',
         'rng.random(passage.shape) < self.percolation',
         'rng.random(passage.shape) > self.percolation'),
        ('passages are always listed from left to right',
         'swap = rng.random(order.shape) < 0.5',
         'swap = rng.random(order.shape) < 0'),
        ('a path may end anywhere',
         'torch.where(distance == 0, chain == self.path_end, has_ended)',
         'torch.where(distance >= 0, chain == self.path_end, has_ended)'),
        ('a random walk may turn back',
         'choices = is_open.sum(dim=2) - 1',
         'choices = is_open.sum(dim=2)'),
    ],
    'model.py': [
        ('a loss position does not see itself',
         '(key <= self.position[..., None])[:, None]',
         '(key < self.position[..., None])[:, None]'),
        ('attention is scaled by the number of keys',
         'q @ k.transpose(-1, -2) / math.sqrt(q.size(-1))',
         'q @ k.transpose(-1, -2) / math.sqrt(k.size(-2))'),
        ('dropout acts in evaluation',
         'self.dropout if self.training else 0.0',
         'self.dropout'),
        ('loops share one cache',
         'cache=None if cache is None else cache[i]',
         'cache=None if cache is None else cache[i % self.config.n_layer]'),
        ('loops are not counted when weights are drawn',
         'n_residual = 2 * self.config.n_layer * self.config.n_loop',
         'n_residual = 2 * self.config.n_layer'),
        ('gains of layer norms decay',
         "'params': gains, 'weight_decay': 0.0",
         "'params': gains, 'weight_decay': weight_decay"),
        ('a token of probability zero can be drawn',
         '(cdf <= uniform * cdf[:, -1:])',
         '(cdf < uniform * cdf[:, -1:])'),
        ('the k-th token of the top k is left out',
         'logits < kth_largest',
         'logits <= kth_largest'),
        ('logits of short and long rows come in the wrong order',
         'torch.cat((of_short, of_long))[index.argsort()]',
         'torch.cat((of_short, of_long))[index]'),
        ('continuations see each other',
         '(same_continuation | in_prompt) & (token[:, None] >= token)',
         'token[:, None] >= token'),
        ('dropout acts while decoding',
         '        self.eval()  # no dropout while decoding\n',
         ''),
        ('a model that decodes stays in evaluation mode',
         'uniform, return_logp)\n        self.train(was_training)',
         'uniform, return_logp)'),
        ('rounds of parallel decoding are counted from zero',
         'rounds[changed] = i + 1',
         'rounds[changed] = i'),
        ('rope turns keys alone',
         '            q = rotate(q, *angles)\n',
         '            pass\n'),
    ],
    'common.py': [
        ('random numbers are not restored',
         "torch.set_rng_state(state['rng'])",
         'pass'),
        ('the weights are not restored',
         "model.load_state_dict(state['model'])\n            # the moments",
         '# the moments', RESUMED_COT),
        ('the moments are not restored',
         "dict(state=state['optimizer']['state'], param_groups=groups)",
         'optimizer.state_dict()', RESUMED_COT),
        ('the log is not cut when a run resumes',
         "cut_log(self.out_dir, arm, state['step'])",
         'pass', RESUMED_COT),
        ('the schedule may always differ',
         "if can_grow and type(old_steps) is int and new['max_iters'] > old_steps:",
         'if can_grow:'),
        ('a run can be shortened',
         "new['max_iters'] > old_steps",
         "new['max_iters'] != old_steps"),
        ('the checkpoint of another run is resumed',
         "changed = changed_settings(state['args'], settings or self.settings, self.can_grow)",
         'changed = []'),
        ('a stopped run is thrown away',
         "require(has_ended or not list(out_dir.glob('ckpt*.pt')),",
         'require(True,'),
        ('weights that are not finite are saved',
         '        check_finite(step, model)\n        if settings is None',
         '        if settings is None'),
        ('each process takes the rows of the next one',
         'return batch[self.rank * n:(self.rank + 1) * n]',
         'return batch[(self.world - 1 - self.rank) * n:(self.world - self.rank) * n]'),
        ('two processes gather their rows one behind the other',
         'rows[self.rank::self.world] = x.cpu().double()',
         'rows[self.rank * len(x):(self.rank + 1) * len(x)] = x.cpu().double()',
         'test_search.py -k results_of_two'),
        ('the folder does not name the values of flags',
         "words.append(f'{flag}_{value}' if value else flag)",
         'words.append(flag)'),
        ('a model from Python is in training mode',
         'return model.eval(), task_of_checkpoint',
         'return model, task_of_checkpoint', 'test_sample.py -k ready_to_answer'),
        ('every process prints',
         '        if self.master:\n            tqdm.write(text)',
         '        if True:\n            tqdm.write(text)', PROCESSES_OF_RL),
    ],
    'files.py': [
        ('a folder has two writers',
         'fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)',
         'fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)'),
        ('a checkpoint is written in place',
         'write(temporary)\n        sync(temporary)\n        replace(temporary, path)',
         'write(path)'),
        ('what is logged at the step of the checkpoint is lost',
         'is_kept = is_step and step > 0 and at <= step',
         'is_kept = is_step and step > 0 and at < step', RESUMED_COT),
        ('a resumed run has two last records',
         "if record.get('arm') == 'final':\n        return True",
         "if record.get('arm') == 'final':\n        return False",
         'test_train_rl.py -k finished'),
        ('releases the lock of another run',
         'lost = self.is_lost()',
         'lost = False'),
    ],
    'checkpoint.py': [
        ('the checksum is not compared',
         'check(written_checksum == found_checksum,',
         'check(True,'),
        ('moments of another shape are taken',
         "check_tensor(f'{name} of weight {i}', moments[name], weight.shape, weight.dtype)",
         'pass'),
        ('a step beyond the run is taken',
         'check(step <= most,',
         'check(True,'),
        ('weights that are not finite are taken',
         "check(bool(weights[name].isfinite().all()), f'weight {name} is not finite')",
         'pass'),
        ('a pickle may name anything',
         'is_foreign = ALLOWED_GLOBALS.fullmatch(argument) is None',
         'is_foreign = False'),
    ],
    'errors.py': [
        ('bad input ends with exit code 1',
         '        return 2\n',
         '        return 1\n'),
        ('Ctrl-C ends with exit code 1',
         "stopped by Ctrl-C', 130)",
         "stopped by Ctrl-C', 1)"),
    ],
    'memory.py': [
        ('what does not fit is run',
         'if free is None or total <= free:',
         'if True:'),
        ('parameters of a block are not all counted',
         'config.n_layer * (12 * C**2 + 2 * C) + C',
         'config.n_layer * (8 * C**2 + 2 * C) + C'),
        ('the smallest phase counts',
         'return max(phases, key=lambda phase: sum(phase.values()))',
         'return min(phases, key=lambda phase: sum(phase.values()))'),
    ],
    'plots.py': [
        ('curves are of the smallest hop count',
         'h = str(hops or max(run.hops))',
         'h = str(hops or min(run.hops))'),
        ('discovery is drawn against steps',
         "samples = [record['samples'] for record in records]",
         "samples = [record['step'] for record in records]"),
        ('walls are drawn where there is none',
         'if not open_bits >> bit & 1:',
         'if open_bits >> bit & 1:'),
        ('luck is counted where all links are right',
         'all_right + (1 - all_right) * chance',
         'all_right + chance'),
        ('the slope is not that through the origin',
         'return float(x @ y / (x @ x))',
         'return float(np.polyfit(x, y, 1)[0])'),
        ('a chance is drawn at another hop count',
         "by_hops.get(str(hops), self.final.get('chance', math.nan))",
         "self.final.get('chance', math.nan)"),
        ('the range over runs goes from the mean',
         'least=min(solved)',
         'least=statistics.mean(solved)'),
        ('runs of two tasks are compared',
         'require(None in (run.task, runs[0].task) or run.task == runs[0].task,',
         'require(True,'),
    ],
    'search.py': [
        ('chains after a right one are paid for',
         'used += 1 - pass_at_k(chains.correct, j)',
         'used += 1'),
        ('answers are sampled to instances that were trained on',
         "hops * 10**6, 'test', mode, hops)",
         "hops * 10**6, 'train', mode, hops)"),
        ('targets that were trained on may be searched for',
         'trained_on = set(task.targets) - set(task.holdout_targets)',
         'trained_on = set()'),
        ('the beam keeps the worst states',
         '.argsort(descending=True, stable=True)',
         '.argsort(stable=True)'),
        ('the beam is one wider than asked',
         'keep = rank < width',
         'keep = rank <= width'),
        ('any rank counts as the first',
         'solved[owner, rank] = makes_target',
         'solved[owner, 0] = makes_target'),
        ('the search drops the good states',
         'values.masked_fill(values < prune, -math.inf)',
         'values.masked_fill(values > prune, -math.inf)'),
        ('a budget is spent once more',
         ">= budget)",
         "> budget)"),
        ('pass@k draws with replacement',
         '((n - c - j).clamp(min=0) / (n - j)).prod(dim=1)',
         '((n - c + 0 * j).clamp(min=0) / n).prod(dim=1)'),
        ('a chain with a wrong step can be chosen',
         'score.masked_fill(answer == -1, -1e9).argmax(dim=2, keepdim=True)',
         'score.argmax(dim=2, keepdim=True)'),
        ('a wrong step goes on',
         '        chain = chain[legal]\n        states = child[legal]',
         '        states = child'),
        ('the control on random values asks the model',
         "'beam',       random_value, 'all',   10",
         "'beam',       verdict,      'all',   10"),
        ("the control 'mult' counts 1 as a factor",
         'for f in range(2, solver.target + 1)',
         'for f in range(1, solver.target + 1)'),
        ('a tie of verdicts counts as right',
         '0.5 * (margin == 0)',
         '1.0 * (margin == 0)'),
        ('one standard error is a difference',
         'abs(p - q) <= 2 * error',
         'abs(p - q) <= error'),
        ('the control at equal cost has a smaller budget',
         '(solved * (spent <= budget)).mean()',
         '(solved * (spent < budget)).mean()'),
        ('forward passes are paid for by each state',
         "cost[owner.unique(), COSTS.index('calls')] += calls",
         "cost[:, COSTS.index('calls')].index_add_(0, owner, torch.full_like(owner, calls))"),
    ],
    'jacobi.py': [
        ('tests on the training split',
         "hops * 10**6, 'test', mode, hops)",
         "hops * 10**6, 'train', mode, hops)"),
        ('rounds of tokens without loss count',
         'last_round = (rounds * has_loss).amax(dim=1)',
         'last_round = rounds.amax(dim=1)'),
        ('the most rounds are the mean',
         'most=int(rounds.max())',
         'most=int(rounds.mean())'),
        ('tokens without loss count',
         'run.gather_rows(has_loss.sum(dim=1), args.n_test)',
         'run.gather_rows(has_loss.sum(dim=1) * 0 + L, args.n_test)'),
    ],
    'capacity.py': [
        ('nats are called bits',
         'losses.cpu().double() / math.log(2)',
         'losses.cpu().double()'),
        ('less than nothing is known',
         'return min(1.0, max(0.0, 1 - loss / entropy))',
         'return min(1.0, 1 - loss / entropy)'),
        ('held-out combinations count as trained',
         'two_hops = ~one_hop & (label == 0)',
         'two_hops = ~one_hop'),
        ('held-out questions are trained',
         'is_trained = batch.instance[:, 3] == 0',
         'is_trained = batch.instance[:, 3] >= 0'),
        ('a fact counts that is known in one place only',
         "attribute_loss = max(loss['attribute1'], task.attributes * attribute)",
         "attribute_loss = min(loss['attribute1'], task.attributes * attribute)"),
        ('the root is missing',
         "math.sqrt(known_share(loss['attribute2'], count['marginal_attribute2']))",
         "known_share(loss['attribute2'], count['marginal_attribute2'])"),
        ('the marginals are worth something',
         '(1 / share[~is_relation]).log2().sum().item()',
         '2 * (1 / share[~is_relation]).log2().sum().item()'),
        ('the same order in every epoch',
         '(self.seed * 10**5 + epoch) % 2**63',
         '(self.seed * 10**5) % 2**63'),
        ('rounded weights have twice the levels',
         'largest = 2 ** (bits - 1) - 1',
         'largest = 2**bits - 1'),
        ('int8 and int4 are swapped',
         'int8=stored_when_rounded(model, questions, 8, run)',
         'int8=stored_when_rounded(model, questions, 4, run)'),
        ('the matrices decay',
         'model.configure_optimizer(rate, args.weight_decay or 0.0, betas=(0.9, 0.98))',
         'model.configure_optimizer(rate, 0.1, betas=(0.9, 0.98))'),
        ('no cosine after the warm-up',
         'return rate * min(ramp, cosine)',
         'return rate * min(ramp, 1)'),
        ('the spread is that of a population',
         'rates.std(ddof=1)',
         'rates.std(ddof=0)'),
        ('a model must have more right than it takes to have learned',
         'if accuracy >= LEARNED:',
         'if accuracy > LEARNED:'),
        ('the bridge person counts for the answer',
         'bits[:, start + 4:].sum(dim=1)',
         'bits[:, start:].sum(dim=1)'),
    ],
    'probe.py': [
        ('probes are tested on tables that the model was trained on',
         "sample_batch(task, n_test, seed, step, 'test', mode, k)",
         "sample_batch(task, n_test, seed, step, 'train', mode, k)"),
        ('pairs are both fitted to and tested on',
         'source[is_asked & ~is_test][:n_train]',
         'source[is_asked][:n_train]'),
        ('the untrained model is the trained one',
         'probe(untrained, questions, labels, layers, my_positions, run)',
         'probe(model, questions, labels, layers, my_positions, run)'),
        ('a fold that is left out is not left out',
         'Sums(*[a - b for a, b in zip(total, of_fold, strict=True)])',
         'Sums(*[a for a, b in zip(total, of_fold, strict=True)])'),
        ('a tie is right',
         'hits.append(own > others)',
         'hits.append(own >= others)'),
        ('the largest penalty always wins',
         '[hits.argmax(0).cpu()]',
         '[0 * hits.argmax(0).cpu()]'),
        ('selectivity is accuracy',
         "selectivity=acc[best] - where_needed(record, 'control')[best]",
         'selectivity=acc[best]'),
        ('flips count where the node stays the same',
         'is_counted = (expected != own_answer) & other_node',
         'is_counted = expected != own_answer'),
        ('a random step has a length of its own',
         '(donor_x - x).norm(dim=1, keepdim=True) / step.norm',
         'x.norm(dim=1, keepdim=True) / step.norm'),
        ('the counterfactual answer is one lookup further',
         'for _ in range(questions.k - j):',
         'for _ in range(questions.k - j + 1):'),
        ('groups count as independent questions',
         'sums = sums.index_add(1, index.to(hit.device), error)',
         'sums = error'),
        ('decodable is what an untrained model reads as well',
         'max(DECODABLE, untrained[i] + 0.05)',
         'DECODABLE'),
        ('the control task counts where it cannot be known',
         '(hit_control * is_known).sum(1) / is_known.sum(0).clamp(min=1)',
         'hit_control.mean(1)'),
        ('chance is measured on the questions to fit',
         'chance = (label[questions.test_rows] == most_frequent)',
         'chance = (label[:questions.n_train] == most_frequent)'),
    ],
    'sample.py': [
        ('draws instances that were trained on',
         "sample_batch(task, 1, args.seed, i, 'test', mode, args.hops)",
         "sample_batch(task, 1, args.seed, i, 'train', mode, args.hops)"),
        ('any way through a maze is right',
         'ended and all(follows) and len(chain) == shortest',
         'ended and all(follows)'),
        ('the runner-up is the token itself',
         '        others[token] = -1\n',
         ''),
        ('shows other probabilities than it samples from',
         '(logits.float() / (temperature or 1)).softmax(dim=-1)',
         'logits.float().softmax(dim=-1)'),
        ('walls below and on the right are swapped',
         "' ' if open_bits[cell] & 8 else '|'",
         "' ' if open_bits[cell] & 4 else '|'"),
        ('good moves are the first ones listed',
         'good = good[0][distinct]',
         'good = good[0][:len(steps)]'),
    ],
}


def all_mutations(only):
    """[(file, what, old, new, tests)], of one file or of all."""
    mutations = []
    for file, rows in MUTATIONS.items():
        for what, old, new, *tests in rows:
            if only in (None, file):
                mutations.append((file, what, old, new, tests[0] if tests else TESTS[file]))
    return mutations


def copy_repository(folder):
    """The files of the working tree that git knows or would add."""
    command = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.split('\0'):
        if name and (ROOT / name).is_file():  # a file that was removed is listed, too
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def run_tests(folder, tests):
    """Returns whether they pass, and the first test that fails."""
    words = [f'tests/{word}' if word.endswith('.py') else word for word in shlex.split(tests)]
    command = [sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider', *words]
    # no bytecode: a change within the same second could find that of the old text
    env = os.environ | dict(OMP_NUM_THREADS='1', PYTHONDONTWRITEBYTECODE='1')
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True,
                              timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return False, f'hangs for {LONGEST} s'
    if done.returncode == 5:
        raise ValueError(f'there are no tests: {tests}')
    failed = [line.split(' - ')[0] for line in done.stdout.splitlines()
              if line.startswith(('FAILED ', 'ERROR '))]
    first = failed[0].split('::')[-1] if failed else f'exit code {done.returncode}'
    return done.returncode == 0, first


def check_old_texts(folder, mutations):
    for file, what, old, *_ in mutations:
        count = (folder / file).read_text(encoding='utf-8').count(old)
        if count != 1:
            raise ValueError(f'{file}, {what}: the old text stands there {count} times')


def check_unchanged(folder, mutations):
    """Without any change all tests pass. Raises ValueError if they do not."""
    failing = []
    for tests in dict.fromkeys(tests for *_, tests in mutations):
        began = time.time()
        passes, first = run_tests(folder, tests)
        print(f'unchanged{time.time() - began:6.1f} s  {tests}', flush=True)
        if not passes:
            failing.append(first)
    if failing:
        raise ValueError(f'without any change there fails {", ".join(failing)}')


def try_mutation(folder, file, old, new, tests):
    """Returns whether the tests notice, the seconds they took, and the first one that fails."""
    path = folder / file
    text = path.read_text(encoding='utf-8')
    path.write_text(text.replace(old, new), encoding='utf-8')
    began = time.time()
    passes, first = run_tests(folder, tests)
    path.write_text(text, encoding='utf-8')
    return not passes, time.time() - began, first


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--only', metavar='FILE', choices=MUTATIONS, help='those of one file')
    parser.add_argument('--list', action='store_true', help='print them, run nothing')
    args = parser.parse_args()
    mutations = all_mutations(args.only)
    if args.list:
        for file, what, old, new, _ in mutations:
            print(f'{file}: {what}\n    - {old.strip()}\n    + {new.strip()}')
        return

    # a process in the background ignores Ctrl-C, and so would those that the tests send it to
    signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.time()
    n_caught = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_repository(folder)
        check_old_texts(folder, mutations)
        check_unchanged(folder, mutations)
        for file, what, old, new, tests in mutations:
            is_caught, seconds, first = try_mutation(folder, file, old, new, tests)
            n_caught += is_caught
            outcome = f'caught   {seconds:6.1f} s' if is_caught else f'SURVIVED {seconds:6.1f} s'
            print(f'{outcome}  {file:14} {what}' + (f': {first:.90}' if is_caught else ''),
                  flush=True)
    print(f'final mutations={len(mutations)} caught={n_caught} '
          f'share={n_caught / len(mutations):.3f} seconds={time.time() - began:.0f}')


if __name__ == '__main__':
    main()
