"""profiles.py, against what the text of all one-hop questions says.

`facts_of` reads every fact from the text of the one-hop questions. Two-hop questions are answered
by looking things up in it.
"""

import functools
import random
import re
from collections import Counter
from itertools import combinations, product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from plain_tasks import examples, is_near, is_refused, raw_examples

import data
import profiles
from data import SPLITS, sample_batch
from profiles import Profiles


TASKS = [
    Profiles(),
    Profiles(30, 2, 3),
    Profiles(17, 0, 2),
    Profiles(12, 7, 17),
    Profiles(40, 4, 3, bipartite=True),
    Profiles(25, 3, 0, hops=[1]),
    Profiles(60, 5, 1, hops=[2]),
    Profiles(9, 1, 1, facts=3),
]


def name_of(task):
    """Names a test by the size of its task. pytest finds a name for other parameters."""
    if not isinstance(task, Profiles):
        return None
    return f'{task.people}-{task.attributes}-{task.relations}'


every_task = pytest.mark.parametrize('task', TASKS, ids=name_of)


def all_questions(task, hops):
    """Every question (person, relation, subject) of a task."""
    relations = range(task.relations) if hops == 2 else [-1]
    subjects = range(task.attributes + task.relations)
    return list(product(range(task.people), relations, subjects))


def write(task, questions, mode='cot'):
    """(batch, rows) of these questions. Each row is (words of the prompt, words with loss)."""
    hops = np.array([1 if relation < 0 else 2 for _, relation, _ in questions])
    rng = np.random.default_rng(0)
    batch = data.write_batch(task, rng, np.array(questions), hops, mode)
    rows = []
    for tokens, mask in zip(batch.tokens.tolist(), batch.loss_mask.tolist(), strict=True):
        words = task.decode(tokens).split()
        with_loss = [word for word, has_loss in zip(words, mask, strict=True) if has_loss]
        rows.append((words[:batch.prompt_len], with_loss))
    return batch, rows


@functools.cache
def facts_of(task):
    """{name: {word that asks: answer}}, read from the text of all one-hop questions.

    Names and answers are tuples of words.
    """
    # a task with one hop alone has the same facts
    one_hop = Profiles(task.people, task.attributes, task.relations, [1], task.bipartite,
                       facts=task.facts)
    _, rows = write(one_hop, all_questions(one_hop, hops=1))
    facts = {}
    for prompt, answer in rows:
        *name, word = prompt
        of_person = facts.setdefault(tuple(name), {})
        assert len(name) == 3 and word not in of_person
        of_person[word] = tuple(answer)
    return facts


def answer_to(task, prompt):
    """(words of the chain before the answer, words of the answer), by looking up facts."""
    if len(prompt) == 5:
        subject, *name, word = prompt
    else:  # a task with one hop alone
        subject = '_'
        *name, word = prompt
    facts = facts_of(task)
    fact = facts[tuple(name)][word]
    if subject == '_':
        return [], list(fact)
    return [*fact, subject], list(facts[fact][subject])


# -----------------------------------------------------------------------------
# the text

@every_task
def test_names_are_distinct_and_no_token_stands_at_two_places_of_a_name(task):
    names = facts_of(task)
    assert len(names) == task.people
    places = [{name[i] for name in names} for i in range(3)]
    for letter, words in zip('abc', places, strict=True):
        assert {word[0] for word in words} == {letter}
        assert len(words) <= round(task.n_names ** (1 / 3))
    assert not any(a & b for a, b in combinations(places, 2))


@every_task
def test_an_attribute_is_one_of_128_values_and_a_relation_names_a_person(task):
    facts = facts_of(task)
    for of_person in facts.values():
        answers = list(of_person.values())
        values = answers[:task.attributes]
        people = answers[task.attributes:]
        assert len(people) == task.relations
        for (value,) in values:
            assert 0 <= int(value.removeprefix('v')) < 128
        for name in people:
            assert name in facts


@functools.cache
def solved_batches(task):
    """Batches of both splits in both modes. A list of (mode, batch, rows).

    Each row has tokens, words, hops, and what the text of one-hop questions says: chain (without
    the answer), answer, and what is written behind the prompt in this mode.
    """
    batches = []
    for split in SPLITS:
        for mode in ('cot', 'direct'):
            batch = sample_batch(task, 300, 5, 2, split, mode)
            rows = []
            for tokens in batch.tokens.tolist():
                words = task.decode(tokens).split()
                prompt = words[:batch.prompt_len]
                chain, answer = answer_to(task, prompt)
                rows.append(SimpleNamespace(
                    tokens=tokens, words=words, chain=chain, answer=answer,
                    hops=1 if len(prompt) == 4 or words[0] == '_' else 2,
                    written=chain + answer if mode == 'cot' else answer))
            batches.append((mode, batch, rows))
    return batches


@every_task
def test_one_hop_questions_answer_those_of_two_hops(task):
    """In cot mode behind the bridge person and the subject. The rest is padding."""
    for _, batch, rows in solved_batches(task):
        for row in rows:
            behind = row.words[batch.prompt_len:]
            assert behind == row.written + ['_'] * (len(behind) - len(row.written))


@every_task
def test_the_loss_is_on_what_is_written_behind_the_prompt_and_not_on_padding(task):
    for _, batch, rows in solved_batches(task):
        P = batch.prompt_len
        for row, mask in zip(rows, batch.loss_mask.tolist(), strict=True):
            end = P + len(row.written)
            assert mask == [P <= t < end for t in range(len(mask))]


@every_task
def test_the_answer_is_at_the_end_and_a_short_one_repeats_its_last_place(task):
    """A value is one token, a name three."""
    for _, batch, rows in solved_batches(task):
        for row, answer_at in zip(rows, batch.answer.tolist(), strict=True):
            end = batch.prompt_len + len(row.written)
            first = end - len(row.answer)
            assert len(answer_at) == task.answer_len and answer_at[0] == first
            assert sorted(set(answer_at)) == list(range(first, end))


@every_task
def test_hops_oracle_and_encode_agree_with_the_text(task):
    for _, batch, rows in solved_batches(task):
        for row, hops in zip(rows, batch.hops.tolist(), strict=True):
            assert hops == row.hops
            chain = task.oracle(row.tokens[:batch.prompt_len])
            assert task.decode(chain).split() == row.chain + row.answer
            assert task.encode(' '.join(row.words)) == row.tokens


@every_task
def test_every_kind_of_question_is_asked(task):
    """All hop counts, with values and with names for answers, as far as the task has them."""
    answer_sizes = []
    if task.attributes > 0:
        answer_sizes.append(1)
    if task.relations > 0:
        answer_sizes.append(3)
    for _, _, rows in solved_batches(task):
        kinds = {(row.hops, len(row.answer)) for row in rows}
        assert kinds == set(product(task.hops, answer_sizes))


@every_task
def test_a_batch_is_no_wider_than_it_must_be(task):
    for mode, batch, _ in solved_batches(task):
        width = batch.tokens.size(1)
        assert batch.prompt_len == (4 if task.hops == [1] else 5)
        assert width <= task.block_size
        assert batch.loss_mask[:, -1].any()  # no column holds padding alone
        if mode == 'direct':
            assert width == batch.prompt_len + task.answer_len


def test_a_question_of_each_kind_on_paper():
    task = Profiles(4, 1, 1)
    task.names = np.array([[0, 4, 8], [0, 5, 8], [1, 4, 9], [3, 7, 11]])  # four letters a place
    task.code = np.array([0, 4, 17, 63])                      # 0 0 0, 0 1 0, 1 0 1, 3 3 3
    task.truth = np.array([[7, 1], [5, 3], [127, 2], [0, 0]])  # employer, friend
    questions = [(0, -1, 0), (0, -1, 1), (0, 0, 0), (0, 0, 1), (2, 0, 1), (1, 0, 0)]
    _, rows = write(task, questions)
    assert [' '.join([*prompt, '>', *chain]) for prompt, chain in rows] == [
        '_ a0 b0 c0 employer > v7',
        '_ a0 b0 c0 friend > a0 b1 c0',
        'employer a0 b0 c0 friend > a0 b1 c0 employer v5',
        'friend a0 b0 c0 friend > a0 b1 c0 friend a3 b3 c3',
        'friend a1 b0 c1 friend > a1 b0 c1 friend a1 b0 c1',
        'employer a0 b1 c0 friend > a3 b3 c3 employer v0',
    ]


def test_the_examples_in_the_docstring_have_the_form_that_is_printed():
    pattern = r'(\S+ a\d b\d c\d mentor)\b[^\[]*((?:\[\w+\] ?)+)'
    matches = re.findall(pattern, profiles.__doc__)
    lines = [(prompt.split(), re.findall(r'\w+', brackets)) for prompt, brackets in matches]
    (one_hop, answer), (two_hops, chain) = lines
    assert one_hop[0] == '_' and len(answer) == 3
    assert two_hops[0] == chain[3] and len(chain) == 5
    assert one_hop[1:] == two_hops[1:] and answer == chain[:3]  # the bridge person
    for words in (one_hop, answer, two_hops, chain):
        Profiles(1000).encode(' '.join(words))  # every word exists


def test_no_word_is_in_the_vocabulary_twice():
    vocab = Profiles().vocab
    assert len(set(vocab)) == len(vocab)


# -----------------------------------------------------------------------------
# what is held out

@pytest.fixture(scope='module', params=[(1500, 3, 4), (40, 10, 6), (300, 0, 2)], ids=str)
def labelled(request):
    """(task, {question: why it is held out}) of all two-hop questions."""
    task = Profiles(*request.param)
    questions = all_questions(task, hops=2)
    labels = [task.labels[i] for i in task.label(np.array(questions))]
    return task, dict(zip(questions, labels, strict=True))


def held_out_persons_and_pairs(labels):
    persons = set()
    pairs = set()
    for (person, relation, _), label in labels.items():
        if label == 'person':
            persons.add(person)
        if label == 'pair':
            pairs.add((person, relation))
    return persons, pairs


def test_a_person_or_a_pair_is_held_out_in_all_its_questions_or_in_none(labelled):
    task, labels = labelled
    assert set(labels.values()) == {'trained', 'person', 'pair', 'combination'}
    assert task.labels[0] == 'trained'
    persons, pairs = held_out_persons_and_pairs(labels)
    for (person, relation, _), label in labels.items():
        assert (label == 'person') == (person in persons)
        assert (label == 'pair') == ((person, relation) in pairs)


def test_each_way_of_holding_out_takes_a_tenth_of_what_the_one_before_leaves(labelled):
    task, labels = labelled
    persons, pairs = held_out_persons_and_pairs(labels)
    left = []
    for (person, relation, _), label in labels.items():
        if person not in persons and (person, relation) not in pairs:
            left.append(label)
    n_pairs = (task.people - len(persons)) * task.relations
    assert is_near(len(persons), task.people, 0.1, sd=4)
    assert is_near(len(pairs), n_pairs, 0.1, sd=4)
    assert is_near(left.count('combination'), len(left), 0.1, sd=4)


def test_all_facts_are_trained(labelled):
    task, _ = labelled
    assert not task.label(np.array(all_questions(task, hops=1))).any()


def test_holding_out_two_hop_questions_does_not_make_them_rarer(labelled):
    task, _ = labelled
    for split in SPLITS:
        batch = sample_batch(task, 2000, 0, 0, split)
        assert is_near(int((batch.hops == 2).sum()), 2000, 0.5, sd=4)


def test_what_is_held_out_does_not_depend_on_the_facts_or_on_the_hops(labelled):
    task, labels = labelled
    size = (task.people, task.attributes, task.relations)
    questions = np.array(list(labels))
    for other in (Profiles(*size, facts=9), Profiles(*size, hops=[2])):
        assert np.array_equal(other.label(questions), task.label(questions))


def test_no_two_hop_question_is_in_both_splits():
    """By its text, in either mode. Together the splits hold them all. One-hop questions are in
    both."""
    task = Profiles(8, 2, 2, facts=2)
    prompts = {(split, k): set() for split in SPLITS for k in (1, 2)}
    for split, mode, hops in product(SPLITS, ('cot', 'direct'), (None, 1, 2)):
        batch = sample_batch(task, 1000, 1, 0, split, mode, hops)
        if hops is not None:
            assert set(batch.hops.tolist()) == {hops}
        rows = batch.tokens[:, :batch.prompt_len].tolist()
        for row, k in zip(rows, batch.hops.tolist(), strict=True):
            prompts[split, k].add(task.decode(row))
    assert prompts['train', 1] == prompts['test', 1] and len(prompts['train', 1]) == 8 * 4
    assert not prompts['train', 2] & prompts['test', 2]
    assert len(prompts['train', 2]) + len(prompts['test', 2]) == 8 * 2 * 4


def test_the_instance_says_why_a_question_is_held_out():
    task = Profiles(8, 2, 2, facts=2)
    train = sample_batch(task, 400, 0, 0, hops=2)
    test = sample_batch(task, 400, 0, 0, 'test', hops=2)
    assert set(train.instance[:, 3].tolist()) == {0}
    assert set(test.instance[:, 3].tolist()) <= {1, 2, 3}


def test_test_share_is_about_the_share_of_questions_that_are_held_out():
    """It sizes the draws of sample_batch, which would run out if it were far too large."""
    task = Profiles(500)
    questions = np.random.default_rng(0).integers((500, 4, 8), size=(20000, 3))
    held_out = task.in_split(questions, 'test').mean()
    assert held_out == pytest.approx(1 - 0.9**3, abs=0.03)
    assert 0.2 < task.test_share < 0.3


# -----------------------------------------------------------------------------
# the facts

def test_facts_depend_on_the_sizes_and_on_the_number_of_the_facts_alone():
    def all_facts(*args, **more):
        return str(facts_of(Profiles(*args, **more)))

    first = all_facts(20, 3, 2)
    assert first == all_facts(20, 3, 2, hops=[1]) == all_facts(20, 3, 2, hops=[2])
    different = {
        first,
        all_facts(20, 3, 2, facts=1),
        all_facts(20, 3, 2, facts=2),
        all_facts(21, 3, 2),
        all_facts(20, 2, 2),
        all_facts(20, 2, 3),
    }
    assert len(different) == 6


def test_other_facts_are_about_other_people():
    assert set(facts_of(Profiles(20, 3, 2))) != set(facts_of(Profiles(20, 3, 2, facts=1)))


def test_what_one_batch_says_no_other_denies():
    task = Profiles(20, 3, 2)
    answers = {}
    for seed, step in product(range(3), range(3)):
        batch = sample_batch(task, 100, seed, step, hops=1)
        for row in batch.tokens.tolist():
            prompt = tuple(row[:5])
            assert answers.setdefault(prompt, row[5:]) == row[5:]
    assert len(answers) == 20 * 5


def deviation_from_uniform(counts, n_cells):
    """Chi squared of the counts of equally likely cells, in standard deviations from its mean."""
    expected = sum(counts.values()) / n_cells
    chi_squared = sum((counts[i] - expected) ** 2 for i in range(n_cells)) / expected
    return (chi_squared - (n_cells - 1)) / (2 * (n_cells - 1)) ** 0.5


@pytest.fixture(scope='module')
def many():
    """4,000 people with four attributes and three relations."""
    task = Profiles(4000, 4, 3)
    return task, facts_of(task)


def test_attributes_are_uniform_over_128_values(many):
    _, facts = many
    for word in ('employer', 'university', 'city', 'birthday'):
        counts = Counter(int(of_person[word][0][1:]) for of_person in facts.values())
        assert abs(deviation_from_uniform(counts, 128)) < 5


def test_relations_are_uniform_over_all_people_oneself_included(many):
    _, facts = many
    number_of = {name: i for i, name in enumerate(facts)}
    n_oneself = 0
    for word in ('friend', 'parent', 'child'):
        named = [of_person[word] for of_person in facts.values()]
        counts = Counter(number_of[name] % 100 for name in named)
        assert abs(deviation_from_uniform(counts, 100)) < 5

        # with repeats: a share 1 / e of all people is nobody's friend
        n_never_named = len(facts) - len(set(named))
        assert is_near(n_never_named, len(facts), np.exp(-1))
        n_oneself += sum(a == b for a, b in zip(facts, named, strict=True))
    assert 0 < n_oneself < 20


def test_a_relation_can_name_the_first_person_and_the_last():
    facts = facts_of(Profiles(4, 0, 17, [1]))
    named = set()
    for of_person in facts.values():
        named |= set(of_person.values())
    assert named == set(facts)


def test_names_are_uniform_over_eight_times_as_many_codes(many):
    task, facts = many
    s = round(task.n_names ** (1 / 3))
    assert s**3 == task.n_names
    assert (s - 1) ** 3 < 8 * 4000 <= s**3
    for place in range(3):
        counts = Counter(int(name[place][1:]) for name in facts)
        assert abs(deviation_from_uniform(counts, s)) < 5


@pytest.mark.parametrize('people, relations, number', [
    (2, 3, 0), (40, 3, 0), (50, 17, 4), (1000, 4, 1)])
def test_bipartite_friends_are_mutual_and_parent_and_child_inverse(people, relations, number):
    facts = facts_of(Profiles(people, 1, relations, bipartite=True, facts=number))
    for name, of_person in facts.items():
        friend = of_person['friend']
        assert friend != name and facts[friend]['friend'] == name
        assert facts[of_person['parent']]['child'] == name
        assert facts[of_person['child']]['parent'] == name


def test_without_bipartite_some_friends_are_not_mutual():
    facts = facts_of(Profiles(40, 1, 3))
    is_mutual = [facts[facts[name]['friend']]['friend'] == name for name in facts]
    assert not all(is_mutual)


# -----------------------------------------------------------------------------
# correct and valid

@every_task
def test_the_true_chain_is_correct_and_valid(task):
    for hops in task.hops:
        batch = sample_batch(task, 60, 0, 0, hops=hops)
        assert task.correct(batch, batch.tokens).all()
        assert task.valid(batch, batch.tokens[:, batch.prompt_len:]).all()


def marks(flags):
    """[True, False] -> '.x'"""
    return ''.join('.' if flag else 'x' for flag in flags)


def compare(words, truth):
    """A mark for each word: is it the true one?"""
    return marks(a == b for a, b in zip(words, truth, strict=True))


SMALL = Profiles(30, 2, 2)
SOME_QUESTIONS = list(product(range(0, 30, 7), range(2), range(4)))
some_questions = pytest.mark.parametrize('question', SOME_QUESTIONS, ids=str)


def check_chains(task, question, chains):
    """(marks of `correct`, marks of `valid`) of each of these chains, lists of words."""
    batch, _ = write(task, [question] * len(chains))
    tokens = torch.tensor([task.encode(' '.join(words)) for words in chains])
    output = torch.cat((batch.tokens[:, :5], tokens), dim=1)
    correct = task.correct(batch, output)[:, 5:].tolist()
    valid = task.valid(batch, tokens).tolist()
    return [(marks(a), marks(b)) for a, b in zip(correct, valid, strict=True)]


def true_chain(task, question):
    """(bridge person, subject, answer) of a two-hop question."""
    _, [(_, chain)] = write(task, [question])
    return tuple(chain[:3]), chain[3], chain[4:]


@some_questions
def test_an_answer_that_is_true_of_a_wrong_bridge_is_valid_and_not_correct(question):
    bridge, subject, answer = true_chain(SMALL, question)
    others = [name for name in facts_of(SMALL) if name != bridge]
    true_of = [facts_of(SMALL)[name][subject] for name in others]
    chains = [[*name, subject, *truth] for name, truth in zip(others, true_of, strict=True)]
    results = check_chains(SMALL, question, chains)

    for name, truth, (correct, valid) in zip(others, true_of, results, strict=True):
        wrong_name = compare(name, bridge)
        assert valid == wrong_name + '.' + '.' * len(answer)
        assert correct == wrong_name + '.' + compare(truth, answer)


@some_questions
def test_the_true_answer_behind_a_wrong_bridge_is_valid_where_it_is_true_of_both(question):
    bridge, subject, answer = true_chain(SMALL, question)
    others = [name for name in facts_of(SMALL) if name != bridge]
    chains = [[*name, subject, *answer] for name in others]
    results = check_chains(SMALL, question, chains)
    for name, (_, valid) in zip(others, results, strict=True):
        truth = facts_of(SMALL)[name][subject]
        assert valid == compare(name, bridge) + '.' + compare(truth, answer)


@some_questions
def test_the_subject_in_the_chain_must_be_that_of_the_prompt(question):
    """A wrong one is not valid, and the answer is still about the subject of the prompt."""
    bridge, subject, answer = true_chain(SMALL, question)
    _, [(prompt, _)] = write(SMALL, [question])
    other_subject = prompt[4] if prompt[4] != subject else 'university'
    others = [name for name in facts_of(SMALL) if name != bridge]
    chains = [[*name, other_subject, *facts_of(SMALL)[name][subject]] for name in others]
    results = check_chains(SMALL, question, chains)
    for name, (_, valid) in zip(others, results, strict=True):
        assert valid == compare(name, bridge) + 'x' + '.' * len(answer)


@some_questions
def test_a_wrong_last_token_of_the_answer_is_not_valid(question):
    bridge, subject, answer = true_chain(SMALL, question)
    candidates = ('v0', 'v1') if len(answer) == 1 else ('c0', 'c1')
    wrong = candidates[0] if candidates[0] != answer[-1] else candidates[1]
    chains = [[*bridge, subject, *answer], [*bridge, subject, *answer[:-1], wrong]]
    (true_marks, (_, valid)) = check_chains(SMALL, question, chains)
    assert true_marks == ('.' * (4 + len(answer)), '.' * (4 + len(answer)))
    assert valid == '....' + '.' * (len(answer) - 1) + 'x'


@some_questions
def test_nothing_is_true_of_a_bridge_that_does_not_exist(question):
    _, subject, answer = true_chain(SMALL, question)
    words_at = [sorted({name[i] for name in facts_of(SMALL)}) for i in range(3)]
    nobody = next(name for name in product(*words_at) if name not in facts_of(SMALL))
    bridges = [nobody, ('a0', 'a0', 'a0'), ('v0', 'v1', 'v2'), ('_', '_', '_'),
               ('c5', 'b5', 'a5'), ('employer', 'employer', 'employer')]
    results = check_chains(SMALL, question, [[*name, subject, *answer] for name in bridges])
    for _, valid in results:
        assert valid[4:] == 'x' * len(answer) and 'x' in valid[:3]


def test_what_is_true_of_a_wrong_bridge_is_mostly_another_answer():
    """Else the tests above would compare little."""
    n_different = 0
    for question in SOME_QUESTIONS:
        bridge, subject, answer = true_chain(SMALL, question)
        for name, of_person in facts_of(SMALL).items():
            n_different += name != bridge and of_person[subject] != tuple(answer)
    assert n_different > 500


@pytest.mark.parametrize('mode, width, n_written', [
    ('cot', 12, [5, 7, 5]), ('direct', 8, [1, 3, 1])])
def test_what_is_written_behind_an_answer_of_one_token_does_not_matter(mode, width, n_written):
    batch, rows = write(SMALL, [(3, 1, 0), (4, 0, 3), (5, 1, 1)], mode)
    assert batch.tokens.size(1) == width
    assert [len(words) for _, words in rows] == n_written

    output = batch.tokens.clone()
    for row in (0, 2):
        output[row, -2:] = torch.tensor([7, 9])
    correct = SMALL.correct(batch, output)
    assert correct.all() and correct.gather(1, batch.answer).all()
    if mode == 'cot':
        assert SMALL.valid(batch, output[:, 5:]).all()

    # a name has three tokens, and the last one matters
    output[1, -1] += 1 if output[1, -1] % 2 else -1
    assert SMALL.correct(batch, output).all(dim=1).tolist() == [True, False, True]


# -----------------------------------------------------------------------------
# chance

@pytest.mark.parametrize('people, attributes, relations', [
    (100, 4, 4), (50, 3, 0), (20, 0, 2), (30, 1, 5)])
def test_a_random_value_or_person_is_correct_less_often_than_chance(
        people, attributes, relations):
    hops = [1, 2] if relations > 0 else [1]
    task = Profiles(people, attributes, relations, hops)
    facts = facts_of(task)
    answers_of_size = {1: [(f'v{i}',) for i in range(128)], 3: list(facts)}

    rng = random.Random(0)
    n_correct = n_asked = 0
    for _ in range(20):
        for of_person in facts.values():
            for answer in of_person.values():
                n_correct += rng.choice(answers_of_size[len(answer)]) == answer
                n_asked += 1
    uniform = (attributes / 128 + relations / people) / (attributes + relations)
    assert is_near(n_correct, n_asked, uniform, sd=4)
    assert all(task.chance(k) > uniform for k in task.hops)


MORE_TASKS = [
    *TASKS,
    Profiles(50, 3, 0, [1]),
    Profiles(20, 0, 2, facts=7),
    Profiles(30, 1, 5),
    Profiles(10, 12, 17, bipartite=True),
]


@pytest.mark.parametrize(
    'task, hops',
    [(task, hops) for task in MORE_TASKS for hops in (1, 2) if hops == 1 or task.relations > 0],
    ids=name_of)
def test_chance_is_the_best_constant_answer_to_a_relation_and_a_subject(task, hops):
    """Counted one fact at a time."""
    counts = {}  # (relation, subject) -> how often each fact is the answer
    for person, relation, subject in all_questions(task, hops):
        bridge = person
        if hops == 2:
            bridge = task.truth[person, task.attributes + relation]
        fact = int(task.truth[bridge, subject])
        counts.setdefault((relation, subject), Counter())[fact] += 1

    shares = [max(count.values()) / task.people for count in counts.values()]
    assert task.chance(hops) == pytest.approx(sum(shares) / len(shares), rel=1e-12)
    assert type(task.chance(hops)) is float


@pytest.mark.parametrize(
    'task, hops',
    [(task, hops) for task in MORE_TASKS for hops in task.hops if task.people <= 40],
    ids=name_of)
def test_chance_is_how_often_a_guesser_that_knows_the_most_frequent_answers_is_right(task, hops):
    """Read from the text of all questions."""
    _, rows = write(task, all_questions(task, hops), 'direct')
    answers_to = {}  # the words that ask -> answers
    for prompt, answer in rows:
        asking = (*prompt[:-4], prompt[-1])  # without the name
        answers_to.setdefault(asking, []).append(tuple(answer))
    n_correct = 0
    for answers in answers_to.values():
        n_correct += Counter(answers).most_common(1)[0][1]
    assert n_correct / len(rows) == pytest.approx(task.chance(hops), rel=1e-12)


def test_chance_by_hand():
    """Three of four have the same employer, and all have the same friend. So whatever is asked of
    a friend is known."""
    task = Profiles(4, 1, 2)
    task.truth[:] = [[9, 2, 0], [9, 2, 1], [9, 2, 2], [5, 2, 3]]  # each is their own parent
    assert task.chance(1) == pytest.approx((3 / 4 + 1 + 1 / 4) / 3)
    assert task.chance(2) == pytest.approx((3 + 3 / 4 + 1 + 1 / 4) / 6)


# -----------------------------------------------------------------------------
# relabelled answers

RELABELLED = pytest.mark.parametrize('args', [
    (30, 2, 3),
    (40, 4, 3, (1, 2), True),
    (17, 0, 2),
    (60, 5, 1, [2]),
], ids=str)


@RELABELLED
def test_relabel_leaves_facts_names_one_hop_questions_and_the_split_alone(args):
    plain = Profiles(*args)
    task = Profiles(*args, relabel=True)
    assert np.array_equal(task.truth, plain.truth)
    assert np.array_equal(task.names, plain.names)
    if 1 in task.hops:
        questions = all_questions(task, hops=1)
        assert write(task, questions)[1] == write(plain, questions)[1]

    questions = all_questions(task, hops=2)
    batch, _ = write(task, questions)
    labels = plain.label(np.array(questions)).tolist()
    assert batch.instance[:, 3].tolist() == labels
    assert task.label(np.array(questions)).tolist() == labels
    assert task.chance(1) == plain.chance(1) and task.chance(2) == plain.chance(2)


@RELABELLED
def test_relabel_shuffles_the_answers_of_each_relation_and_subject_over_the_people(args):
    plain = Profiles(*args)
    task = Profiles(*args, relabel=True)
    questions = all_questions(task, hops=2)
    _, plain_rows = write(plain, questions)
    _, rows = write(task, questions)
    before = {}  # (relation, subject) -> answers, in the order of the people
    after = {}
    for (_, *kind), (prompt, chain), (plain_prompt, plain_chain) in zip(
            questions, rows, plain_rows, strict=True):
        assert prompt == plain_prompt
        assert chain[:4] == plain_chain[:4]  # the true bridge, and the subject again
        before.setdefault(tuple(kind), []).append(tuple(plain_chain[4:]))
        after.setdefault(tuple(kind), []).append(tuple(chain[4:]))

    n_moved = 0
    expected = 0  # how many a uniform shuffle moves
    for kind, answers in before.items():
        assert Counter(answers) == Counter(after[kind])
        n_moved += sum(a != b for a, b in zip(answers, after[kind], strict=True))
        expected += sum(1 - answers.count(answer) / task.people for answer in answers)
    assert n_moved > 0.5 * len(questions)
    assert abs(n_moved - expected) < 0.1 * len(questions)

    # each relation and subject has a shuffle of its own, so no other person stands in for the
    # bridge person
    shuffles = {tuple(before[kind].index(a) for a in after[kind]) for kind in before}
    assert len(shuffles) == len(before)


@RELABELLED
def test_relabelled_answers_are_the_same_in_every_batch_and_the_oracle_knows_them(args):
    task = Profiles(*args, relabel=True)
    same = Profiles(*args, relabel=True)
    chains = {}  # prompt -> what the oracle says, once and for all batches
    n_asked = Counter()
    for split, mode, seed, hops in product(SPLITS, ('cot', 'direct'), range(3), (None, 2)):
        batch = sample_batch(task, 200, seed, 1, split, mode, hops)
        assert torch.equal(batch.tokens, sample_batch(same, 200, seed, 1, split, mode, hops).tokens)

        for tokens, mask in zip(batch.tokens, batch.loss_mask, strict=True):
            prompt = tuple(tokens[:batch.prompt_len].tolist())
            n_asked[prompt] += 1
            if prompt not in chains:
                chains[prompt] = task.oracle(list(prompt))
            chain = chains[prompt]
            is_two_hops = chain[3:4] == [prompt[0]]  # the subject again
            answer = chain[4:] if is_two_hops else chain
            assert tokens[mask].tolist() == (chain if mode == 'cot' else answer)
        if mode == 'cot':
            assert task.correct(batch, batch.tokens).all()
            assert task.valid(batch, batch.tokens[:, batch.prompt_len:]).all()
    assert max(n_asked.values()) > 5


@RELABELLED
def test_relabelled_answers_depend_on_the_facts_and_not_on_the_hops(args):
    def answered_for(*args, **options):
        return Profiles(*args, relabel=True, **options).answered_for

    people, attributes, relations, *more = args
    same = answered_for(people, attributes, relations, [2], *more[1:])
    assert np.array_equal(answered_for(*args), same)
    assert not np.array_equal(answered_for(*args), answered_for(*args, facts=1))


def test_a_true_answer_is_wrong_where_answers_are_relabelled():
    """And the relabelled one is correct behind the true bridge person, as train_cot scores it."""
    plain = Profiles(20, 2, 2)
    task = Profiles(20, 2, 2, relabel=True)
    n_wrong = 0
    for question in product(range(20), range(2), range(4)):
        batch, _ = write(task, [question])
        plain_batch, _ = write(plain, [question])
        true = plain_batch.tokens
        assert batch.tokens.shape == true.shape
        assert task.correct(batch, batch.tokens).all()
        assert task.valid(batch, batch.tokens[:, 5:]).all()

        is_same = torch.equal(batch.tokens, true)
        assert bool(task.correct(batch, true).all()) == is_same
        assert bool(task.valid(batch, true[:, 5:]).all()) == is_same
        n_wrong += not is_same
    assert n_wrong > 100


# -----------------------------------------------------------------------------
# sizes that make no sense, and the command line

@pytest.mark.parametrize('make', [
    lambda: Profiles(1),
    lambda: Profiles(10**6 + 1),
    lambda: Profiles(10, 0, 0, [1]),
    lambda: Profiles(10, -1),
    lambda: Profiles(10, 1000),
    lambda: Profiles(10, 4, 18),
    lambda: Profiles(10, 4, 0),
    lambda: Profiles(10, 4, 4, [1, 2, 3]),
    lambda: Profiles(10, 4, 4, [0, 1]),
    lambda: Profiles(11, 4, 4, bipartite=True),
    lambda: Profiles(10, 4, 2, bipartite=True),
    lambda: sample_batch(Profiles(10, hops=[1]), 4, 0, 0, hops=2),
])
def test_sizes_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize('argv', [
    '--people 1', '--people x', '--people 10000000', '--attributes 0 --relations 0 --hops 1',
    '--relations 18', '--relations 0', '--hops 3', '--hops 1-3', '--nodes 10',
    '--bipartite --people 11', '--bipartite --relations 2', '--facts -1', '--reverse'])
def test_a_bad_command_line_is_one_line_and_exit_code_2(argv):
    assert is_refused(profiles, argv.split())


@pytest.mark.parametrize('argv, task', [
    ('', Profiles()),
    ('--people 30 --attributes 2 --relations 3 --hops 2', Profiles(30, 2, 3, [2])),
    ('--hops 1 --relations 0 --people 9', Profiles(9, 4, 0, [1])),
    ('--mode direct --people 40 --facts 5', Profiles(40, facts=5)),
    ('--bipartite --people 10 --relations 17 --attributes 12',
     Profiles(10, 12, 17, bipartite=True)),
])
def test_printed_examples_agree_with_the_text_of_all_one_hop_questions(argv, task):
    """Brackets stand where the loss is, and the oracle agrees."""
    argv = [*argv.split(), '--n', '12']
    head, shown = examples(profiles, argv)
    assert 'profiles, hops ' in head and f'vocab_size {len(task.vocab)}' in head
    raw = raw_examples(profiles, argv)
    assert len(raw) == 12 and [' '.join(example.words) for example in shown] == raw

    P = 4 if task.hops == [1] else 5
    all_hops = set()
    for example in shown:
        prompt = example.words[:P]
        chain, answer = answer_to(task, prompt)
        written = answer if 'direct' in argv else chain + answer
        assert example.words == prompt + written
        assert example.carries_loss == [t >= P for t in range(len(example.words))]
        assert example.answer == example.oracle == answer
        hops = 1 if P == 4 or prompt[0] == '_' else 2
        assert example.chance == f'{task.chance(hops):.3f}'
        all_hops.add(hops)
    assert all_hops == set(task.hops)


def test_relabel_on_the_command_line_changes_the_answers_of_two_hops_alone():
    argv = '--people 20 --n 60'.split()
    plain = raw_examples(profiles, argv)
    relabelled = raw_examples(profiles, [*argv, '--relabel'])
    assert len(plain) == 60
    n_different = 0
    for a, b in zip(plain, relabelled, strict=True):
        if a != b:
            n_different += 1
            assert a.split()[0] != '_'
            assert a.split()[:9] == b.split()[:9]  # prompt, bridge person and subject
    assert n_different > 10
