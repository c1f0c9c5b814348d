"""capacity.py: the estimator on models whose knowledge is known, by counting; the faults of the
original estimator, one by one; then the script."""

import contextlib
import functools
import json
import math
import signal
from collections import Counter
from itertools import combinations, product
from pathlib import Path
from types import SimpleNamespace

import conftest
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import final_values, with_figures
from plain_training import PlainAdamW, Saved, is_as_written_out, warmup_and_cosine, watch_modes
from two_processes import free_port

import capacity
import common
from data import write_batch
from model import GPT, GPTConfig
from profiles import Profiles


RUN = SimpleNamespace(device=torch.device('cpu'), autocast=contextlib.nullcontext(), world=1,
                      rank=0, master=True)
HOW = ('optimal', 'enumerate', 'independent')  # ways to count names
SCHEMES = ('optimal', 'double', 'big hash')


def sizes(people, attributes, relations, values, n_names, hops=(1,)):
    """All that the estimator reads of a task."""
    return SimpleNamespace(people=people, attributes=attributes, relations=relations,
                           values=values, n_names=n_names, hops=hops)


def close(value):
    return pytest.approx(value, rel=1e-6, abs=1e-6)


def choose(n, k):
    """log2 of the binomial coefficient."""
    return sum(math.log2((n - i) / (k - i)) for i in range(k))


def exact_selection(task, how):
    """Bits that say who exists, 0 without relations."""
    if task.relations == 0 or how == 'independent':
        return 0.0
    if how == 'optimal':
        return choose(task.n_names, task.people)
    return task.people * math.log2(task.n_names)


# -----------------------------------------------------------------------------
# answers that are known in advance

CASES = []  # sizes; losses of a question about an attribute and a relation without any knowledge
for n, A, R, m, N0 in ((30, 4, 2, 128, 343), (7, 0, 3, 100, 64), (1000, 8, 17, 2, 8000),
                       (5, 3, 0, 10, 64), (2, 1, 1, 3, 27)):
    # trained two-hop questions about attributes, about relations, and their pairs
    counts = (n * R * A * 7 // 10, n * R * R * 8 // 10, n * R * 9 // 10)
    CASES.append((sizes(n, A, R, m, N0), math.log2(m), math.log2(N0), counts))


def scheme_bits(task, scheme, one, two, counts, how='optimal'):
    """Stored bits of two hops. one, two: the summed losses of attributes and relations."""
    loss = dict(attribute1=one[0], relation1=one[1], attribute2=two[0], relation2=two[1], bridge=0)
    count = dict(attribute2=counts[0], relation2=counts[1], pair2=counts[2],
                 marginal_attribute2=counts[0] * math.log2(task.values),  # all answers as frequent
                 marginal_relation2=counts[1] * math.log2(task.people))
    return capacity.SCHEMES[scheme](task, loss, count, how)


def bits_of_question_losses(task, how, attribute, relation, counts):
    """{scheme: stored bits} if every question costs so many bits, in one hop and in two."""
    one = (task.people * task.attributes * attribute, task.people * task.relations * relation)
    stored = {'one hop': capacity.one_hop_bits(task, *one, how)}
    if task.relations > 0:
        two = (counts[0] * attribute, counts[1] * relation)
        for scheme in SCHEMES:
            stored[scheme] = scheme_bits(task, scheme, one, two, counts, how)
    return stored


@pytest.mark.parametrize('how', HOW)
def test_an_oracle_has_stored_everything_once_relations_twice_or_every_combination(how):
    for task, _, _, counts in CASES:
        n = task.people
        facts = n * task.attributes * math.log2(task.values) + n * task.relations * math.log2(n)
        facts += exact_selection(task, how)
        combined = counts[0] * math.log2(task.values) + counts[1] * math.log2(n)
        expected = {'one hop': close(facts)}
        if task.relations > 0:
            expected['optimal'] = close(facts)
            expected['double'] = close(facts + counts[2] * math.log2(n))
            expected['big hash'] = close(facts + combined)
        assert bits_of_question_losses(task, how, 0, 0, counts) == expected


@pytest.mark.parametrize('how', HOW)
@pytest.mark.parametrize('worse', [0, 1e-9, 3, 1000])
def test_a_model_without_knowledge_has_stored_nothing(how, worse):
    """Nor has one that is wrong with confidence."""
    for task, attribute, relation, counts in CASES:
        stored = bits_of_question_losses(
            task, how, attribute + worse, relation + worse, counts)
        for bits in stored.values():
            assert 0 <= bits == close(0)


@pytest.mark.parametrize('how', HOW)
def test_what_is_known_of_one_kind_is_not_taken_away_by_the_other(how):
    for task, attribute, relation, counts in CASES:
        stored = bits_of_question_losses(task, how, 0, relation + 50, counts)
        assert stored['one hop'] == close(task.people * task.attributes * attribute)
        if task.relations > 0:
            unknown = bits_of_question_losses(task, how, attribute, 0, counts)
            wrong = bits_of_question_losses(task, how, attribute + 50, 0, counts)
            assert wrong['one hop'] == close(unknown['one hop'])


@pytest.mark.parametrize('how', HOW)
def test_a_model_that_knows_only_who_exists_has_stored_the_selection(how):
    for task, attribute, _, counts in CASES:
        n = task.people
        N0 = task.n_names
        selection = exact_selection(task, how)
        stored = bits_of_question_losses(task, how, attribute, math.log2(n), counts)
        assert all(bits == close(selection) for bits in stored.values())

        # one that takes k names for possible still has to be told which n of them exist
        for k in (n + 1, 2 * n, (n + N0) // 2, N0 - 1):
            missing = math.log2(math.comb(k, n)) / math.log2(math.comb(N0, n))
            stored = bits_of_question_losses(task, how, attribute, math.log2(k), counts)
            assert all(bits == close(selection * (1 - missing)) for bits in stored.values())


@pytest.mark.parametrize('how', HOW)
def test_names_count_in_full_up_to_log2_n_then_less_and_not_at_all_from_log2_N0(how):
    for task, _, _, _ in CASES:
        n = task.people
        N0 = task.n_names
        full = exact_selection(task, how)

        # from log2 n to log2 N0
        losses = [math.log2(n) + i / 20 * math.log2(N0 / n) for i in range(21)]
        bits = [capacity.name_bits(task, loss, how) for loss in losses]
        assert bits[0] == close(full) and bits[-1] == close(0)
        falls = all(a > b for a, b in zip(bits, bits[1:], strict=False))
        assert falls == (full > 0)

        # below and above
        for loss in (0, 0.5 * math.log2(n), math.log2(n) - 1e-9):
            assert capacity.name_bits(task, loss, how) == close(full)
        for more in (1e-6, 1, 50, 99, 1000, 1e9, 1e300, math.inf):
            assert capacity.name_bits(task, math.log2(N0) + more, how) == 0

        # between, exactly
        for k in (n + 1, 2 * n, N0 - 1):
            exact = full * (1 - math.log2(math.comb(k, n)) / math.log2(math.comb(N0, n)))
            assert capacity.name_bits(task, math.log2(k), how) == close(exact)
            assert (0 < exact < full) == (full > 0)


def test_name_bits_by_hand():
    """4 of 16 names, 3 bits a name: C(16, 4) = 1820, C(8, 4) = 70."""
    assert capacity.name_bits(sizes(4, 0, 1, 2, 16), 3.0) == close(math.log2(1820 / 70))


def binary_entropy(p):
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


@pytest.mark.parametrize('eps', [0.01, 0.2, 0.5, 0.9])
def test_a_noisy_oracle_has_stored_the_capacity_of_its_channel(eps):
    """Right with probability 1 - eps, the rest uniform: N (log2 V - h(eps) - eps log2(V - 1)) bits,
    of attributes and of relations."""
    for task, _, _, counts in CASES:
        n = task.people
        m = task.values
        attribute = binary_entropy(eps) + eps * math.log2(max(1, m - 1))
        relation = binary_entropy(eps) + eps * math.log2(max(1, n - 1))
        expected = (n * task.attributes * (math.log2(m) - attribute)
                    + n * task.relations * (math.log2(n) - relation))
        stored = bits_of_question_losses(task, 'independent', attribute, relation, counts)
        assert stored['one hop'] == close(expected)


# -----------------------------------------------------------------------------
# models whose knowledge is known, token by token

class ScriptedModel(torch.nn.Module):
    """Stands in for a model. predict(words so far) -> {next word: probability}.

    It is called at the loss positions and nowhere else. `prompts` lists the questions that the
    model got, each up to the word before the first loss token.
    """

    def __init__(self, task, predict):
        super().__init__()
        self.task = task
        self.predict = predict
        self.prompts = []

    def forward(self, idx, loss_mask, shared=None):
        logits = []
        for tokens, has_loss in zip(idx.tolist(), loss_mask.tolist(), strict=True):
            words = self.task.decode(tokens).split()
            self.prompts.append(tuple(words[:has_loss.index(True) + 1]))
            for t in range(len(tokens)):
                if has_loss[t]:
                    p = self.predict(words[:t + 1])
                    assert abs(sum(p.values()) - 1) < 1e-9
                    logits.append([math.log(p.get(word, 0) + 1e-300) for word in self.task.vocab])
        return torch.tensor(logits, dtype=torch.float64)


def subject_words(task):
    first = task.first_subject
    return task.vocab[first:first + task.attributes + task.relations]


def facts_of(task):
    """{name: {subject: answer}}, in words. Names and answers are tuples."""
    people = [tuple(task.decode(name).split()) for name in task.names.tolist()]
    facts = {}
    for name, row in zip(people, task.truth.tolist(), strict=True):
        facts[name] = {}
        for i, (word, value) in enumerate(zip(subject_words(task), row, strict=True)):
            facts[name][word] = (f'v{value}',) if i < task.attributes else people[value]
    return facts


# What a model knows of one kind of fact.
KNOWS = 'knows the answer'
UNIFORM = 'takes every value or name for possible'
KNOWS_NAMES = 'takes every person who exists for possible'
DOUBTS_NAMES = 'takes twice as many names for possible'
WRONG = 'is sure of a wrong answer'


def beliefs(knowledge, truth, task, people):
    """[(answer, probability)]: what a model with this knowledge believes about one fact."""
    is_value = len(truth) == 1
    letters = [[f'{letter}{i}' for i in range(task.letters)] for letter in 'abc']
    possible = [(f'v{i}',) for i in range(task.values)] if is_value else list(people)
    if knowledge == KNOWS:
        return [(truth, 1.0)]
    if knowledge == WRONG:
        other = next(answer for answer in possible if answer != truth)
        return [(other, 1 - 1e-6), (truth, 1e-6)]
    if knowledge == UNIFORM and not is_value:
        possible = list(product(*letters))
    if knowledge == DOUBTS_NAMES:
        strangers = [name for name in product(*letters) if name not in people]
        possible = [*people, *strangers[:len(people)]]
    return [(answer, 1 / len(possible)) for answer in possible]


def next_word(beliefs, written):
    """{word: probability} of the next word of an answer, of which some words are written."""
    p = Counter()
    for answer, probability in beliefs:
        if answer[:len(written)] == tuple(written):
            p[answer[len(written)]] += probability
    total = sum(p.values())
    return {word: probability / total for word, probability in p.items()}


def predictor(task, mode, attribute, relation):
    """predict of a model with this knowledge of attributes and of relations.

    Of a bridge person it knows what it knows of relations. It repeats the subject of a chain with
    a probability of 1/4, more than that of any other word.
    """
    facts = facts_of(task)
    prompt_len = 5 if max(task.hops) == 2 else 4

    def predict(words):
        *second_subject, a, b, c, word = words[:prompt_len]
        written = words[prompt_len:]
        person = (a, b, c)
        if second_subject not in ([], ['_']):
            if mode == 'cot' and len(written) == 3:
                return {second_subject[0]: 1 / 4, **{f'v{i}': 3 / 80 for i in range(20)}}
            if mode == 'direct' or len(written) > 3:  # the answer, not the bridge person
                person = facts[person][word]
                word = second_subject[0]
                written = written[4:] if mode == 'cot' else written
        truth = facts[person][word]
        knowledge = attribute if len(truth) == 1 else relation
        return next_word(beliefs(knowledge, truth, task, facts), written)

    return predict


def all_rows(task):
    """Every question: [(person, relation or -1, subject)]."""
    people = range(task.people)
    subjects = range(task.attributes + task.relations)
    rows = list(product(people, [-1], subjects))
    if max(task.hops) == 2:
        rows += product(people, range(task.relations), subjects)
    return rows


def as_questions(task, mode='direct'):
    """Every question, as the estimator takes them, none sharing its name with another."""
    rows = all_rows(task)
    hops = np.array([1 if relation < 0 else 2 for _, relation, _ in rows])
    batch = write_batch(task, np.random.default_rng(0), np.array(rows), hops, mode)
    return capacity.Questions(task, mode, batch, group=1, units=None)


def label_of(task, row):
    return task.labels[int(task.label(np.array([row]))[0])]


def measure(model, task, mode='direct'):
    """bits, entropy, loss, count and accuracy of a model."""
    loss, count, measures = capacity.evaluate(model, as_questions(task, mode), RUN)
    accuracy = {name: value for name, value in measures.items() if name.startswith('acc')}
    return SimpleNamespace(
        bits=capacity.stored_bits(task, mode, loss, count),
        entropy=capacity.stored_bits(task, mode, capacity.NO_LOSS, count),
        loss=loss, count=count, accuracy=accuracy, measures=measures)


def measure_predictor(task, mode, attribute, relation):
    return measure(ScriptedModel(task, predictor(task, mode, attribute, relation)), task, mode)


ONE = Profiles(13, 2, 2, [1], values=20)
TWO = Profiles(11, 2, 2, values=20, facts=1)


@functools.cache
def count_trained(task):
    """Trained two-hop questions about attributes and about relations, one at a time, and the
    (person, relation) pairs that they begin with."""
    n_attribute = 0
    n_relation = 0
    pairs = set()
    for person, relation, subject in all_rows(task):
        if relation >= 0 and label_of(task, (person, relation, subject)) == 'trained':
            n_attribute += subject < task.attributes
            n_relation += subject >= task.attributes
            pairs.add((person, relation))
    return n_attribute, n_relation, len(pairs)


def marginals(task):
    """What trained two-hop answers about attributes and relations cost, in bits, if it is known how
    often each answer occurs for each (relation, subject). With plain loops."""
    answers = {}
    for person, relation, subject in all_rows(task):
        if relation >= 0 and label_of(task, (person, relation, subject)) == 'trained':
            bridge = task.truth[person, task.attributes + relation]
            answer = int(task.truth[bridge, subject])
            answers.setdefault((relation, subject), []).append(answer)
    bits = [0.0, 0.0]
    for (_, subject), given in answers.items():
        for answer in given:
            bits[subject >= task.attributes] -= math.log2(given.count(answer) / len(given))
    return bits


KNOWLEDGE = [
    (KNOWS, KNOWS), (UNIFORM, UNIFORM), (UNIFORM, KNOWS_NAMES), (WRONG, WRONG), (KNOWS, UNIFORM),
    (UNIFORM, KNOWS), (KNOWS, DOUBTS_NAMES)]


def cost(knowledge, n_values, task):
    """Bits that one fact costs a model with this knowledge."""
    return {
        KNOWS: 0,
        UNIFORM: math.log2(n_values),
        KNOWS_NAMES: math.log2(task.people),
        DOUBTS_NAMES: math.log2(2 * task.people),
        WRONG: 6 * math.log2(10),
    }[knowledge]


class Expected:
    """What a model with this knowledge has stored, and what there is to be stored."""

    def __init__(self, task, attribute, relation):
        n = task.people
        N0 = task.n_names
        self.attribute_loss = cost(attribute, task.values, task)
        self.relation_loss = cost(relation, N0, task)
        self.attribute_entropy = n * task.attributes * math.log2(task.values)
        self.relation_entropy = n * task.relations * math.log2(n)
        self.attribute_share = max(0, 1 - self.attribute_loss / math.log2(task.values))
        self.relation_share = max(0, 1 - self.relation_loss / math.log2(n))

        self.name_share = 1.0 if self.relation_loss <= math.log2(n) + 1e-9 else 0.0
        if relation == DOUBTS_NAMES:
            missing = math.log2(math.comb(2 * n, n)) / math.log2(math.comb(N0, n))
            self.name_share = 1 - missing
            assert 0.3 < self.name_share < 0.9

        self.selection = choose(N0, n)
        self.entropy = self.attribute_entropy + self.relation_entropy
        self.facts = (self.attribute_entropy * self.attribute_share
                      + self.relation_entropy * self.relation_share)
        self.names = self.name_share * self.selection


def check_bits(result, bits, entropy, expected):
    tolerance = close
    if not (expected.name_share and expected.relation_share and expected.attribute_share):
        # float32 logarithms of what should cancel
        tolerance = functools.partial(pytest.approx, rel=1e-6, abs=2e-4)
    assert result.bits == {scheme: tolerance(value) for scheme, value in bits.items()}
    assert result.entropy == {scheme: close(value) for scheme, value in entropy.items()}


def check_accuracy(result, attribute, relation):
    """The repeated subject, though the likeliest word, is not likely; it counts as right."""
    if attribute == relation != UNIFORM:
        assert set(result.accuracy.values()) == {1.0 if attribute == KNOWS else 0.0}


@pytest.mark.parametrize('attribute, relation', KNOWLEDGE)
def test_the_bits_of_one_hop_come_out_of_the_tokens(attribute, relation):
    task = ONE
    n = task.people
    expected = Expected(task, attribute, relation)
    result = measure_predictor(task, 'direct', attribute, relation)
    names = {
        'one hop': expected.selection,
        'names enumerate': n * math.log2(task.n_names),
        'names independent': 0,
    }
    bits = {how: expected.facts + expected.name_share * value for how, value in names.items()}
    entropy = {how: expected.entropy + value for how, value in names.items()}
    check_bits(result, bits, entropy, expected)
    check_accuracy(result, attribute, relation)
    assert result.count == dict(attribute1=2 * n, relation1=2 * n, attribute2=0, relation2=0,
                                bridge=0, pair2=0, marginal_attribute2=0, marginal_relation2=0)


@pytest.mark.parametrize('attribute, relation', KNOWLEDGE)
def test_the_bits_of_two_hops_come_out_of_the_tokens(attribute, relation):
    """In three schemes. A model that combines two facts it knows by a share of x has a share of
    x^2 of the answers."""
    task = TWO
    n = task.people
    expected = Expected(task, attribute, relation)
    result = measure_predictor(task, 'direct', attribute, relation)
    n_attribute, n_relation, n_pairs = count_trained(task)
    assert 0 < n_pairs < n * task.relations  # some pairs are held out

    attributes = expected.attribute_entropy * expected.attribute_share**0.5
    relations = expected.relation_entropy * expected.relation_share**0.5
    twice = relations * (1 + n_pairs / (n * task.relations))
    attribute_bits, relation_bits = marginals(task)
    assert attribute_bits < 0.95 * n_attribute * math.log2(task.values)
    combined = (attribute_bits * expected.attribute_share
                + relation_bits * expected.relation_share)
    bits = {
        'optimal': attributes + relations + expected.names,
        'double': attributes + twice + expected.names,
        'big hash': expected.facts + expected.names + combined,
    }
    once = expected.entropy + expected.selection
    entropy = {
        'optimal': once,
        'double': once + n_pairs * math.log2(n),
        'big hash': once + attribute_bits + relation_bits,
    }
    check_bits(result, bits, entropy, expected)
    check_accuracy(result, attribute, relation)
    assert result.count == dict(
        attribute1=2 * n, relation1=2 * n, attribute2=n_attribute, relation2=n_relation,
        bridge=n_attribute + n_relation, pair2=n_pairs,
        marginal_attribute2=close(attribute_bits), marginal_relation2=close(relation_bits))


def test_the_marginals_of_three_people_by_hand():
    """Person 0 and 1 have mentor 2, person 2 has mentor 0. Their employers are 5, 5, 7. So "the
    employer of the mentor" is 7, 7, 5, and "the mentor of the mentor" 0, 0, 2. Each costs
    2 log2(3 / 2) + log2 3 bits."""
    task = Profiles(3, 1, 1, [1, 2], values=8)
    task.truth[:] = [[5, 2], [5, 2], [7, 0]]
    task.label = lambda question: np.zeros(len(question), dtype=int)  # all are trained
    bits = capacity.marginal_bits(as_questions(task))
    by_hand = 2 * math.log2(3 / 2) + math.log2(3)
    assert bits == dict(marginal_attribute2=close(by_hand), marginal_relation2=close(by_hand))


@functools.cache
def nobodys_model():
    """A task, and a model that knows all single facts. Of two-hop questions it knows how often each
    answer occurs for each (relation, subject), whoever is asked about."""
    task = Profiles(40, 2, 2, [1, 2], values=20)
    subjects = subject_words(task)
    answers = {}
    for person, relation, subject in all_rows(task):
        if relation >= 0 and label_of(task, (person, relation, subject)) == 'trained':
            bridge = task.truth[person, task.attributes + relation]
            words = task.decode(task.answers(np.array([bridge]), np.array([subject]))[0]).split()
            answers.setdefault((relation, subject), []).append([w for w in words if w != '_'])
    knows_facts = predictor(task, 'direct', KNOWS, KNOWS)

    def predict(words):
        if words[0] == '_':
            return knows_facts(words)
        key = subjects.index(words[4]) - task.attributes, subjects.index(words[0])
        written = words[5:]
        fitting = [a for a in answers[key] if a[:len(written)] == written]
        following = Counter(a[len(written)] for a in fitting if len(a) > len(written))
        total = sum(following.values())
        if total == 0:  # an answer that was held out
            return Counter({'_': 1.0})
        return Counter({word: n / total for word, n in following.items()})
    return task, measure(ScriptedModel(task, predict), task)


def test_a_model_at_the_marginals_stores_no_bits_in_two_hop_answers():
    """It was credited with n log2 m - L: more than many models store."""
    task, result = nobodys_model()
    attribute_bits, relation_bits = marginals(task)
    assert result.loss['attribute2'] == pytest.approx(attribute_bits, rel=1e-4)
    assert result.loss['relation2'] == pytest.approx(relation_bits, rel=1e-4)
    n_attribute, n_relation, _ = count_trained(task)
    uniform = n_attribute * math.log2(20) + n_relation * math.log2(40)
    assert uniform - sum(marginals(task)) > 100  # what it was credited with

    one_hop = capacity.one_hop_bits(task, 0, 0)
    names = choose(task.n_names, 40)  # it writes names of people that exist
    assert result.bits['big hash'] == pytest.approx(one_hop, abs=0.1)
    for scheme in ('optimal', 'double'):
        assert result.bits[scheme] == pytest.approx(names, abs=5)


@pytest.mark.parametrize('attribute, relation', KNOWLEDGE)
def test_the_bits_of_chains_come_out_of_the_tokens(attribute, relation):
    task = TWO
    n = task.people
    expected = Expected(task, attribute, relation)
    result = measure_predictor(task, 'cot', attribute, relation)
    n_attribute, n_relation, n_pairs = count_trained(task)
    check_bits(result, {'chain': expected.facts + expected.names},
               {'chain': expected.entropy + expected.selection}, expected)
    check_accuracy(result, attribute, relation)
    assert result.count == dict(
        attribute1=2 * n, relation1=2 * n, attribute2=n_attribute, relation2=n_relation,
        bridge=n_attribute + n_relation, pair2=n_pairs,
        marginal_attribute2=close(marginals(task)[0]), marginal_relation2=close(marginals(task)[1]))
    bridge_loss = (n_attribute + n_relation) * expected.relation_loss
    assert result.loss['bridge'] == pytest.approx(bridge_loss, rel=1e-6, abs=1e-3)


@pytest.mark.parametrize('n_wrong', [1, 3, 13])
def test_a_noisy_oracle_token_by_token(n_wrong):
    """It believes one answer with probability 1 - eps. Of the 26 attributes and of the 26 relations
    it is mistaken in exactly n_wrong = 26 eps."""
    n = 13
    m = 20
    eps = n_wrong / 26
    facts = facts_of(ONE)
    values = [(f'v{i}',) for i in range(m)]
    people = list(facts)

    likeliest = {}  # (name, word) -> the answer that it believes
    number = Counter()
    for name, row in facts.items():
        for word, truth in row.items():
            possible = values if len(truth) == 1 else people
            likeliest[name, word] = truth
            if number[len(truth)] < n_wrong:
                likeliest[name, word] = possible[(possible.index(truth) + 3) % len(possible)]
            number[len(truth)] += 1

    def predict(words):
        *name, word = words[:4]
        believed = likeliest[tuple(name), word]
        possible = values if len(believed) == 1 else people
        answers = []
        for answer in possible:
            share = 1 - eps if answer == believed else eps / (len(possible) - 1)
            answers.append((answer, share))
        return next_word(answers, words[4:])

    result = measure(ScriptedModel(ONE, predict), ONE)
    h = binary_entropy(eps)
    assert result.bits['names independent'] == close(
        26 * (math.log2(m) - h - eps * math.log2(m - 1))
        + 26 * (math.log2(n) - h - eps * math.log2(n - 1)))
    assert result.bits['one hop'] - result.bits['names independent'] == close(
        choose(ONE.n_names, n))
    assert result.accuracy['acc_1'] >= 1 - eps - 1e-9


# -----------------------------------------------------------------------------
# counting datasets

def count_datasets(how, n, A, R, m, N0, copied_pairs=(), n_combined=(0, 0)):
    """How many different sets of facts there are, each written out: who exists, with which values,
    related to whom.

    copied_pairs: the (person, relation) of which there is a second copy, a fact of its own.
    n_combined:   so many more facts, whose answers are values and people.
    """
    who_exists = {
        'optimal': combinations(range(N0), n),
        'enumerate': product(range(N0), repeat=n),
        'independent': [tuple(range(n))],
    }[how]
    all_values = list(product(range(m), repeat=n * A))
    all_related = list(product(range(n), repeat=n * R))
    all_copies = list(product(range(n), repeat=len(copied_pairs)))
    all_combined = list(product(*[range(m)] * n_combined[0], *[range(n)] * n_combined[1]))

    datasets = set()
    for people in who_exists:
        for values, related, copies in product(all_values, all_related, all_copies):
            profiles = []
            for i in range(n):
                first = list(enumerate(related[i::n]))
                second = [(relation, j) for (person, relation), j
                          in zip(copied_pairs, copies, strict=True) if person == i]
                profiles.append((people[i], values[i * A:i * A + A], first, second))
            dataset = as_a_set(profiles, people) if how == 'optimal' else as_a_list(profiles)
            for combined in all_combined:
                datasets.add((dataset, combined))
    return len(datasets)


def as_a_list(profiles):
    """People are numbered, so their order counts."""
    return tuple((name, values, tuple(first), tuple(second))
                 for name, values, first, second in profiles)


def as_a_set(profiles, people):
    """A set of people has no order, so a relation is to a name."""
    named = []
    for name, values, *tables in profiles:
        by_name = [tuple((relation, people[j]) for relation, j in table) for table in tables]
        named.append((name, values, *by_name))
    return frozenset(named)


@pytest.mark.parametrize('how', HOW)
@pytest.mark.parametrize('n, A, R, m, N0', [
    (1, 2, 1, 3, 5), (2, 1, 1, 3, 5), (2, 0, 2, 2, 4), (2, 2, 1, 2, 3), (3, 1, 1, 2, 4),
    (3, 0, 1, 2, 6)])
def test_the_entropy_is_the_logarithm_of_the_number_of_datasets(n, A, R, m, N0, how):
    number = count_datasets(how, n, A, R, m, N0)
    assert capacity.one_hop_bits(sizes(n, A, R, m, N0), 0, 0, how) == close(math.log2(number))


@pytest.mark.parametrize('n, A, R, m, N0, n_combined, pairs', [
    (2, 1, 1, 2, 4, (2, 1), [(0, 0), (1, 0)]),
    (2, 1, 1, 3, 3, (1, 2), [(1, 0)]),
    (3, 0, 1, 2, 4, (0, 2), [(0, 0), (2, 0)]),
    (2, 2, 1, 2, 3, (2, 1), []),
    (3, 1, 1, 2, 4, (1, 1), [(1, 0)]),
    (2, 0, 2, 2, 3, (0, 3), [(0, 0), (1, 0), (1, 1)]),
])
def test_the_entropy_of_a_scheme_is_the_logarithm_of_the_number_of_its_tables(
        n, A, R, m, N0, n_combined, pairs):
    """pairs: the trained (person, relation). Of a pair that is held out there is no second copy."""
    task = sizes(n, A, R, m, N0, hops=(1, 2))
    counts = (*n_combined, len(pairs))
    for how in HOW if n < 3 else ('optimal', 'independent'):  # for speed
        numbers = {
            'optimal': count_datasets(how, n, A, R, m, N0),
            'double': count_datasets(how, n, A, R, m, N0, copied_pairs=pairs),
            'big hash': count_datasets(how, n, A, R, m, N0, n_combined=n_combined),
        }
        for scheme, number in numbers.items():
            bits = scheme_bits(task, scheme, (0, 0), (0, 0), counts, how)
            assert bits == close(math.log2(number))


@pytest.mark.parametrize('n, N0', [
    (1, 8), (2, 27), (7, 64), (64, 64), (100, 1000), (10_000, 10**6), (10**6, 8 * 10**6)])
def test_selection_is_the_exact_binomial_and_the_papers_bound_is_less_by_at_most_n_log2_e(n, N0):
    """Fault 9: n log2(N0 / n) went by the name of optimal."""
    exact = math.log2(math.comb(N0, n)) if n <= 10_000 else choose(N0, n)
    optimal = capacity.selection_bits(n, N0, 'optimal')
    bound = capacity.selection_bits(n, N0, 'bound')
    assert optimal == pytest.approx(exact, rel=1e-6, abs=1e-6)
    assert bound == close(n * math.log2(N0) - n * math.log2(n))
    assert -1e-6 <= optimal - bound <= n * math.log2(math.e)
    assert capacity.selection_bits(n, N0, 'enumerate') == close(n * math.log2(N0))
    assert capacity.selection_bits(n, N0, 'independent') == 0
    assert optimal <= capacity.selection_bits(n, N0, 'enumerate') + 1e-6
    if n == 10_000:
        assert optimal - bound > 0.9 * n * math.log2(math.e)


# -----------------------------------------------------------------------------
# the faults of the original, one by one

def test_fault_1_a_relation_is_worth_log2_n_whoever_occurs():
    """It was the logarithm of how many different people are somebody's mentor. Here all have one
    mentor."""
    task = Profiles(16, 0, 1, [1])
    task.truth[:] = 3
    result = measure_predictor(task, 'direct', KNOWS, KNOWS)
    assert result.entropy['names independent'] == 16 * 4
    assert result.bits['names independent'] == close(16 * 4)


def wrong_where(task, mode, is_wrong):
    """A model that knows everything, but is sure of wrong answers to questions where
    is_wrong(person, relation, subject) holds."""
    right = predictor(task, mode, KNOWS, KNOWS)
    wrong = predictor(task, mode, WRONG, WRONG)
    person_of = {name: i for i, name in enumerate(facts_of(task))}
    subjects = subject_words(task)

    def predict(words):
        second_subject, *name, word = words[:5]
        person = person_of[tuple(name)]
        if second_subject == '_':
            row = (person, -1, subjects.index(word))
        else:
            row = (person, subjects.index(word) - task.attributes, subjects.index(second_subject))
        return wrong(words) if is_wrong(*row) else right(words)

    return ScriptedModel(task, predict)


@functools.cache
def forty_people():
    task = Profiles(40, 1, 2, values=20)
    return task, {row: label_of(task, row) for row in all_rows(task)}


@pytest.mark.parametrize('mode', ['direct', 'cot'])
@pytest.mark.parametrize('wrong_labels', [
    (), ('person', 'pair', 'combination'), ('pair',), ('trained',)])
def test_fault_2_and_11_held_out_combinations_enter_no_trained_loss_and_no_count(
        mode, wrong_labels):
    """However much they cost, 20 bits or nothing: only their own accuracy moves."""
    task, labels = forty_people()
    assert set(labels.values()) == set(task.labels)
    model = wrong_where(task, mode, lambda person, relation, subject: (
        relation >= 0 and labels[person, relation, subject] in wrong_labels))
    result = measure(model, task, mode)

    for label in task.labels:
        assert result.accuracy[f'acc_2_{label}'] == float(label not in wrong_labels)
        if mode == 'direct':
            loss = result.measures[f'loss_2_{label}']  # bits a question
            assert loss > 5 if label in wrong_labels else loss < 1e-3
    trained_is_right = 'trained' not in wrong_labels
    assert (max(result.loss['attribute2'], result.loss['relation2']) < 1e-4) == trained_is_right
    assert (sum(result.loss.values()) > 1) != trained_is_right
    assert result.loss['attribute1'] + result.loss['relation1'] < 1e-4

    n_attribute, n_relation, n_pairs = count_trained(task)
    assert result.count['attribute2'] == n_attribute
    assert result.count['relation2'] == n_relation
    assert result.count['bridge'] == n_attribute + n_relation
    assert result.count['pair2'] == n_pairs
    if trained_is_right:
        assert result.bits == {scheme: close(x) for scheme, x in result.entropy.items()}


@pytest.mark.parametrize('ignorance', [UNIFORM, WRONG])
@pytest.mark.parametrize('attribute_known', [True, False])
@pytest.mark.parametrize('relation_known', [True, False])
@pytest.mark.parametrize('in_chain', [True, False])
def test_fault_2_what_is_known_in_chains_and_not_as_a_fact_is_not_known(
        ignorance, attribute_known, relation_known, in_chain):
    """Nor the other way round: the larger loss of a kind counts. Here everything is known in one
    of the two, chains and facts, and perhaps not in the other."""
    n = TWO.people
    well = predictor(TWO, 'cot', KNOWS, KNOWS)
    badly = predictor(TWO, 'cot', KNOWS if attribute_known else ignorance,
                      KNOWS if relation_known else ignorance)

    def predict(words):
        is_chain = words[0] != '_'
        return badly(words) if is_chain == in_chain else well(words)

    result = measure(ScriptedModel(TWO, predict), TWO, 'cot')
    attribute_bits = n * TWO.attributes * math.log2(20)
    relation_bits = n * TWO.relations * math.log2(n) + choose(TWO.n_names, n)
    expected = attribute_bits * attribute_known + relation_bits * relation_known
    assert result.bits == {'chain': pytest.approx(expected, rel=1e-6, abs=2e-4)}
    assert result.entropy == {'chain': close(attribute_bits + relation_bits)}
    knows_all = attribute_known and relation_known
    assert (result.bits['chain'] < 0.9 * result.entropy['chain']) != knows_all
    if not in_chain:
        assert result.accuracy['acc_2_trained'] == 1
        chain_loss = [result.loss[kind] for kind in ('attribute2', 'relation2', 'bridge')]
        assert sum(chain_loss) < 1e-3


@pytest.mark.parametrize('attribute', [0.0, 19.0, 21.0, 79.0])
@pytest.mark.parametrize('relation', [0.0, 59.0, 61.0, 120.0])
def test_of_a_chain_and_one_hop_the_larger_loss_counts_by_hand(attribute, relation):
    """10 people, 2 attributes of 16 values, 4 relations. In chains an attribute costs 1 bit and a
    relation (1 + 2) / 2: 20 and 60 bits for all."""
    task = sizes(10, 2, 4, 16, 125, hops=(1, 2))
    count = dict(attribute1=20, relation1=40, attribute2=50, relation2=100, bridge=150, pair2=35)
    loss = dict(attribute1=attribute, relation1=relation, attribute2=50.0, relation2=100.0,
                bridge=300.0)
    expected = (2 * 10 * 4 - max(attribute, 20) + 4 * 10 * math.log2(10) - max(relation, 60)
                + choose(125, 10))
    assert capacity.stored_bits(task, 'cot', loss, count) == {'chain': close(expected)}


def test_fault_3_and_6_only_the_sum_of_a_kind_counts_in_whatever_order():
    """All attributes half known, or one of two known and the other not: the same bits. So with
    relations, and with the questions in another order."""
    task = Profiles(12, 2, 2, [1], values=16)
    facts = facts_of(task)
    costs = (  # bits of a fact, of log2 16 = 4 and of log2 12
        dict(employer=2, university=2, friend=1, parent=1),
        dict(employer=0, university=4, friend=0, parent=2),
    )
    questions = as_questions(task)
    N = len(questions.batch)
    results = []
    for bits_of in costs:
        def predict(words, bits_of=bits_of):
            *name, word = words[:4]
            truth = facts[tuple(name)][word]
            written = words[4:]
            is_paid_here = len(truth) == 1 or len(written) == 1  # the second word of a name
            p = 2.0 ** -bits_of[word] if is_paid_here else 1.0
            return Counter({truth[len(written)]: p}) + Counter({'_': 1 - p})

        for order in (torch.arange(N), torch.arange(N).flip(0), torch.randperm(N)):
            shuffled = capacity.Questions(task, 'direct', questions.batch[order], 1, None)
            loss, count, _ = capacity.evaluate(ScriptedModel(task, predict), shuffled, RUN)
            backwards = dict(reversed(loss.items())), dict(reversed(count.items()))
            results.append(capacity.stored_bits(task, 'direct', loss, count))
            results.append(capacity.stored_bits(task, 'direct', *backwards))
    for result in results:
        assert result == {how: close(value) for how, value in results[0].items()}
    assert results[0]['names independent'] == close(
        12 * 2 * (4 - 2) + 12 * 2 * (math.log2(12) - 1))


def test_fault_3_and_8_a_model_that_knows_nothing_of_names_reads_0_however_they_are_counted():
    """All three ways are told apart in what a run logs. 'independent' could not be reached."""
    result = measure_predictor(ONE, 'direct', UNIFORM, UNIFORM)
    assert list(result.bits) == ['one hop', 'names enumerate', 'names independent']
    assert max(result.bits.values()) < 1e-3
    assert len(set(result.entropy.values())) == 3


@pytest.mark.parametrize('how', HOW)
@pytest.mark.parametrize('one, two', [
    ((0, 0), (0, 0)), ((3.0, 5.0), (2.0, 1.0)), ((0, 0), (1e9, 1e9))])
def test_fault_4_and_5_big_hash_adds_the_combinations_to_one_hop_and_counts_names_once(
        how, one, two):
    for task, _, _, counts in CASES:
        entropy = (counts[0] * math.log2(task.values), counts[1] * math.log2(task.people))
        combined = max(0, entropy[0] - two[0]) + max(0, entropy[1] - two[1])
        bits = scheme_bits(task, 'big hash', one, two, counts, how)
        assert bits == close(capacity.one_hop_bits(task, *one, how) + combined)


@pytest.mark.parametrize('extra', [
    '--seed 4', '--exposures 2', '--n_layer 1', '--attributes 5', '--hops 2', '--people 31',
    '--steps 9'])
def test_fault_7_and_16_a_folder_holds_one_run(extra, small):
    """Models of another seed, size or number of exposures never mix with these."""
    before = {path.name: path.read_bytes() for path in small.folder.iterdir()}
    code, out, err = call(*small.argv, *extra.split(), '--out_dir', small.folder)
    assert code == 2 and out == '' and err.count('\n') == 1 and 'another --out_dir' in err
    assert before == {path.name: path.read_bytes() for path in small.folder.iterdir()}


def test_fault_10_values_are_uniform_so_that_a_fact_is_worth_what_is_counted():
    """Birthdays were not. The empirical entropy of 60,000 values, with its known bias added."""
    count = Counter(Profiles(15000, 4, 0, [1]).truth.ravel().tolist())
    entropy = -sum(c / 60000 * math.log2(c / 60000) for c in count.values())
    bias = 127 / (2 * 60000 * math.log(2))
    assert set(count) == set(range(128))
    assert entropy + bias == pytest.approx(7, abs=1e-3)


def test_fault_12_half_of_the_answers_take_all_but_195_hundredths_of_a_bit_of_each_fact():
    """m = 100: to answer half of the two-hop questions, a share of sqrt(1/2) of the facts is
    enough. The old formula said 1.71."""
    task = sizes(50, 3, 1, 100, 1000, hops=(1, 2))
    counts = (120, 40, 35)
    two = (counts[0] * math.log2(100) / 2, counts[1] * math.log2(50))  # no relations are known
    stored = scheme_bits(task, 'optimal', (0, 0), two, counts, 'independent')
    missing = math.log2(100) - stored / (50 * 3)
    assert missing == close((1 - 0.5**0.5) * math.log2(100)) and round(missing, 2) == 1.95


@pytest.mark.parametrize('x', [0.1, 0.5, 0.8])
def test_fault_12_a_model_that_combines_a_share_of_the_facts_is_read_right(x):
    """It knows a share x of both kinds, and answers a two-hop question if it knows both facts: x^2
    of them. The facts that it knows come out. In a second copy only what is trained counts: 350 of
    the 400 (person, relation)."""
    task = sizes(200, 5, 2, 128, 8000, hops=(1, 2))
    counts = (1500, 600, 350)
    two = (counts[0] * (1 - x * x) * 7, counts[1] * (1 - x * x) * math.log2(200))
    facts = 200 * 5 * 7 * x + 200 * 2 * math.log2(200) * x
    optimal = scheme_bits(task, 'optimal', (0, 0), two, counts, 'independent')
    double = scheme_bits(task, 'double', (0, 0), two, counts, 'independent')
    assert optimal == close(facts)
    assert double == close(facts + 350 * math.log2(200) * x)


@functools.cache
def measure_links(bridge_known, answer_known):
    """TWO in chains: the facts are known, and these links of a chain, else only who exists."""
    well = predictor(TWO, 'cot', KNOWS, KNOWS)
    names_only = predictor(TWO, 'cot', KNOWS, KNOWS_NAMES)

    def predict(words):
        is_chain = words[0] != '_'
        is_known = bridge_known if len(words) < 8 else answer_known
        return well(words) if is_known or not is_chain else names_only(words)

    return measure(ScriptedModel(TWO, predict), TWO, 'cot')


@pytest.mark.parametrize('bridge_known, answer_known', [
    (True, True), (True, False), (False, True)])
def test_fault_13_bridge_and_answer_are_two_facts_and_the_repeated_subject_is_none(
        bridge_known, answer_known):
    """The scripted model pays 2 bits for each repeated subject. Nothing of that is counted."""
    n = TWO.people
    result = measure_links(bridge_known, answer_known)
    facts = n * 2 * math.log2(20) + n * TWO.relations * math.log2(n)
    assert result.entropy['chain'] == close(facts + choose(TWO.n_names, n))
    assert result.loss['relation1'] < 1e-4 and result.loss['attribute2'] < 1e-3
    bridge_loss = 0 if bridge_known else result.count['bridge'] * math.log2(n)
    answer_loss = 0 if answer_known else result.count['relation2'] * math.log2(n)
    assert result.loss['bridge'] == pytest.approx(bridge_loss, abs=1e-3)
    assert result.loss['relation2'] == pytest.approx(answer_loss, abs=1e-3)
    assert (result.accuracy['acc_2_trained'] == 1) == (bridge_known and answer_known)


def test_fault_13_a_model_that_knows_relations_in_one_place_only_knows_half_of_them():
    """What a bridge costs and what the answer costs is averaged."""
    n = TWO.people
    relation_bits = n * TWO.relations * math.log2(n)
    facts = n * 2 * math.log2(20) + relation_bits + choose(TWO.n_names, n)
    both = measure_links(True, True).bits['chain']
    bridge = measure_links(True, False).bits['chain']
    answer = measure_links(False, True).bits['chain']
    assert both == pytest.approx(facts, rel=1e-6)
    assert bridge == pytest.approx(answer, rel=1e-6)
    assert both - bridge == pytest.approx(relation_bits / 2, rel=1e-5)


def test_fault_14_a_tenth_is_a_tenth_of_all_subjects():
    """'Complete' questions were held out as if there were only attributes: 5% or 2%, not 10%."""
    task = Profiles(120, 4, 6)
    rows = [row for row in all_rows(task) if row[1] >= 0]
    label = task.label(np.array(rows))
    left = label[(label != 1) & (label != 2)]  # not held out by person or pair
    assert len(left) > 4000
    assert abs((left == 3).mean() - 0.1) < 4 * math.sqrt(0.09 / len(left))


@pytest.mark.parametrize('mode', ['direct', 'cot'])
def test_fault_15_the_model_gets_every_question_once_and_answers_are_whole_names(mode):
    model = ScriptedModel(TWO, predictor(TWO, mode, KNOWS, KNOWS))
    result = measure(model, TWO, mode)
    subjects = ['employer', 'university', 'friend', 'parent']
    expected = Counter()
    for name in facts_of(TWO):
        for subject in subjects:
            expected[('_', *name, subject)] += 1
            for relation in ('friend', 'parent'):
                expected[(subject, *name, relation)] += 1
    assert Counter(model.prompts) == expected and max(expected.values()) == 1
    assert set(result.accuracy.values()) == {1.0}

    batch = as_questions(TWO, mode).batch
    for loss_mask, (_, relation, subject) in zip(batch.loss_mask.tolist(), all_rows(TWO),
                                                 strict=True):
        answer_len = 1 if subject < 2 else 3
        link_len = 4 if relation >= 0 and mode == 'cot' else 0
        assert sum(loss_mask) == answer_len + link_len


@pytest.mark.parametrize('task', [ONE, TWO])
def test_all_questions_are_all_of_them(task):
    assert [tuple(row) for row in capacity.all_questions(task).tolist()] == all_rows(task)


def test_an_answer_is_right_only_if_all_of_its_tokens_are():
    """Here the last one is always wrong."""
    facts = facts_of(ONE)

    def predict(words):
        truth = facts[tuple(words[:3])][words[3]]
        i = len(words) - 4
        if len(truth) == 3 and i < 2:
            return {truth[i]: 1.0}
        return {truth[i]: 0.25, '_': 0.75}

    result = measure(ScriptedModel(ONE, predict), ONE)
    assert result.accuracy == {'acc_1': 0.0}
    assert result.loss['relation1'] == close(2 * result.count['relation1'])
    assert result.loss['attribute1'] == close(2 * result.count['attribute1'])


# -----------------------------------------------------------------------------
# the script: a small run

def call(*argv):
    return conftest.call(capacity, ['--device', 'cpu', *map(str, argv)])


def run_capacity(folder, *argv):
    """The values of the last line, and the records of the models."""
    code, out, err = call(*argv, '--out_dir', folder)
    assert code == 0, err
    assert out.count('final ') == 1
    results = json.loads((Path(folder) / 'results.json').read_text())
    return final_values(out), results['models']


def read_log(folder):
    return [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]


def without(record, *names):
    return {name: value for name, value in record.items() if name not in names}


def load(folder, record):
    """The model of a record, from its checkpoint."""
    model, _ = common.load_checkpoint(folder / f'ckpt-{record["name"]}.pt')
    return model


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    """A run of two models: one learns its facts, one is offered more than it can hold."""
    argv = ('--people 30,100 --attributes 4 --relations 1 --sizes 2600 --n_head 1 --steps 120 '
            '--exposures 120 --seed 3').split()
    folder = tmp_path_factory.mktemp('small') / 'run'
    with with_figures():
        final, records = run_capacity(folder, *argv)
    models = [load(folder, record) for record in records]
    tasks = [Profiles(record['people'], 4, 1, [1], facts=3) for record in records]
    return SimpleNamespace(argv=argv, folder=folder, final=final, records=records, models=models,
                           tasks=tasks)


def test_the_last_line_names_the_run(small):
    final = small.final
    assert {'hops', 'slope', 'r2', 'best', 'int8', 'int4', 'n_models', 'exposures', 'steps',
            'seed', 'seconds'} <= final.keys()
    assert (final['hops'], final['n_models'], final['exposures'], final['steps'],
            final['seed']) == ('1', '2', '120', '120', '3')


def test_the_last_line_the_log_and_the_results_agree(small):
    log = read_log(small.folder)
    models = [without(record, 'arm') for record in log if record['arm'] == 'model']
    assert models == small.records and log[-1]['arm'] == 'final'
    results = json.loads((small.folder / 'results.json').read_text())
    for values in (results['final'], log[-1]):
        printed = {}
        for name, value in values.items():
            if value is not None and name != 'arm':
                printed[name] = f'{value:.3f}' if isinstance(value, float) else str(value)
        assert printed == small.final


def test_main_returns_the_values_of_the_last_line(tmp_path):
    final = capacity.main([*TINY, '--device', 'cpu', '--out_dir', str(tmp_path)])
    assert final == without(read_log(tmp_path)[-1], 'arm')


def test_what_a_run_leaves(small):
    names = {path.name for path in small.folder.iterdir()}
    checkpoints = {f'ckpt-{record["name"]}.pt' for record in small.records}
    assert names == {'config.json', 'log.jsonl', 'plot.png', 'results.json'} | checkpoints
    assert (small.folder / 'plot.png').read_bytes()[:4] == b'\x89PNG'
    assert [record['people'] for record in small.records] == [30, 100]


def test_slope_and_best_are_those_of_the_models(small):
    params = [record['params'] for record in small.records]
    stored = [record['stored']['one hop'] for record in small.records]
    pairs = list(zip(params, stored, strict=True))
    slope = sum(x * y for x, y in pairs) / sum(x * x for x in params)
    assert small.final['slope'] == f'{slope:.3f}'
    assert small.final['best'] == f'{max(y / x for x, y in pairs):.3f}'


def test_a_record_is_what_its_checkpoint_measures(small):
    """Here no question shares its name with others."""
    for record, model, task in zip(small.records, small.models, small.tasks, strict=True):
        result = measure(model, task)
        assert record['params'] == model.num_params()
        assert record['entropy'] == result.entropy and record['count'] == result.count
        assert record['acc_1'] == result.accuracy['acc_1']
        assert record['stored'] == {
            how: pytest.approx(bits, rel=1e-4) for how, bits in result.bits.items()}
        assert all(0 < bits < result.entropy[how] for how, bits in result.bits.items())
        curve = record['curve']
        assert len(curve) == 20 and curve[-1][0] == 120 and curve[0][1] > curve[-1][1]


def test_a_checkpoint_holds_the_settings_of_its_own_model(small):
    """So that probe.py can make its task."""
    for record, task in zip(small.records, small.tasks, strict=True):
        path = small.folder / f'ckpt-{record["name"]}.pt'
        _, state = common.load_checkpoint(path)
        assert state['mode'] == 'direct' and state['step'] == 120
        assert state['args']['script'] == 'capacity'
        assert state['args']['people'] == record['people']
        remade = common.task_of_checkpoint(path, state, (Profiles,))
        assert remade.settings() == task.settings()
        assert (remade.truth == task.truth).all()


def test_random_facts_that_were_never_trained_read_0(small):
    """Fault 16. Within 1% of their entropy. The trained facts read nearly all of it."""
    model = small.models[0]
    task = small.tasks[0]
    result = measure(model, task)
    assert result.accuracy['acc_1'] > 0.9
    assert result.bits['one hop'] > 0.85 * result.entropy['one hop']
    for facts in (4, 5, 1337):
        other = Profiles(30, 4, 1, [1], facts=facts)
        assert other.vocab == task.vocab
        result = measure(model, other)
        assert max(result.bits.values()) < 0.01 * result.entropy['names independent']


@pytest.mark.parametrize('seed', [4, 5, 1337])
@pytest.mark.parametrize('scale', [0.0, 0.02, 1.0])
def test_an_untrained_model_reads_0_at_every_scale(seed, scale, small):
    task = small.tasks[0]
    torch.manual_seed(seed)
    model = GPT(small.models[0].config)
    for p in model.parameters():
        if p.dim() == 2:
            torch.nn.init.normal_(p, std=scale)
    result = measure(model, task)
    assert max(result.bits.values()) < 0.01 * result.entropy['names independent']


def test_true_names_with_other_facts_read_the_names_alone(small):
    """The same people, every value drawn anew: of the attributes nothing is known."""
    task = Profiles(30, 4, 1, [1], facts=3)
    task.truth[:, :4] = np.random.default_rng(0).integers(128, size=(30, 4))
    result = measure(small.models[0], task)
    assert result.bits['names independent'] <= 30 * math.log2(30) + 1e-6


# -----------------------------------------------------------------------------
# rounded weights

@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_rounded_weights_have_few_values_near_their_own(bits, small):
    for model, record in zip(small.models, small.records, strict=True):
        rounded = capacity.quantized(model, bits)
        n_gains = 0
        for (name, p), q in zip(model.named_parameters(), rounded.parameters(), strict=True):
            if p.dim() == 1:
                n_gains += 1
                continue
            for old, new in zip(p.tolist(), q.tolist(), strict=True):
                assert len(set(new)) <= 2**bits, name
                # no weight changes its sign
                assert all(x == -y or x * y >= 0 for x, y in zip(new, old, strict=True))
                if bits > 1:
                    step = max(map(abs, old)) / (2 ** (bits - 1) - 1)
                    error = max(abs(x - y) for x, y in zip(new, old, strict=True))
                    assert error <= step / 2 + 1e-6
        assert n_gains == 5

        # the model itself stays as it is
        saved = load(small.folder, record)
        for p, q in zip(model.parameters(), saved.parameters(), strict=True):
            assert torch.equal(p, q)


@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_rounded_weights_cannot_store_more_than_they_have_bits(bits, small):
    for model, task in zip(small.models, small.tasks, strict=True):
        stored = measure(capacity.quantized(model, bits), task).bits['one hop']
        assert stored <= bits * model.num_params()
        if bits == 8:
            assert stored == pytest.approx(measure(model, task).bits['one hop'], rel=0.01)
    # the facts of the second are more than one bit a parameter: the bound means something
    entropy = measure(small.models[1], small.tasks[1]).entropy['one hop']
    assert entropy > 1.4 * small.models[1].num_params()


def test_int8_keeps_almost_everything(small):
    int8 = float(small.final['int8'])
    assert int8 > 0.99 and float(small.final['int4']) <= int8 + 1e-3
    for record in small.records:
        assert set(record['int8']) == set(record['int4']) == set(record['stored'])
        stored = record['stored']['one hop']
        assert record['int8']['one hop'] == pytest.approx(stored, rel=0.01)


# -----------------------------------------------------------------------------
# losses

@pytest.mark.parametrize('A, R', [(3, 2), (5, 0), (0, 4), (1, 0)])
def test_questions_that_share_a_name_cost_what_they_cost_alone(A, R):
    task = Profiles(9, A, R, [1])
    group = A + R
    torch.manual_seed(0)
    config = GPTConfig(len(task.vocab), task.block_size, 2, 2, 12, pos='rope')
    model = GPT(config).eval()
    questions = as_questions(task)
    for rows in (slice(0, 9 * group), slice(4 * group, 6 * group)):
        part = questions.batch[rows]
        alone, alone_hits = capacity.question_losses(model, part.tokens, part.loss_mask, 1, RUN)
        shared, shared_hits = capacity.question_losses(
            model, part.tokens, part.loss_mask, group, RUN)
        assert torch.allclose(alone, shared, atol=1e-5) and torch.equal(alone_hits, shared_hits)

        # and what a plain loop makes of all logits
        logits = model(part.tokens[:, :-1])
        plain = []
        for b in range(len(part)):
            for t in range(4, part.tokens.size(1)):
                if part.loss_mask[b, t]:
                    log_probs = logits[b, t - 1].log_softmax(-1)
                    plain.append(-log_probs[part.tokens[b, t]].item())
        assert len(plain) == len(alone) == int(part.loss_mask.sum())
        assert alone.tolist() == pytest.approx(plain, rel=1e-6, abs=1e-4)

    in_groups = capacity.Questions(task, 'direct', questions.batch, group, None)
    loss, *others = capacity.evaluate(model, in_groups, RUN)
    loss_alone, *others_alone = capacity.evaluate(model, questions, RUN)
    assert loss == {
        kind: pytest.approx(value, rel=1e-5, abs=1e-6) for kind, value in loss_alone.items()}
    assert others == others_alone


def test_more_questions_than_fit_in_one_piece_are_all_measured():
    """4,096 at a time, and never half a person: 1,000 people of 7 facts."""
    task = Profiles(1000, 7, 0, [1])
    torch.manual_seed(0)
    config = GPTConfig(len(task.vocab), task.block_size, 1, 1, 4, pos='rope')
    model = GPT(config).eval()
    questions = capacity.make_questions(task, 'direct')
    assert questions.group == 7
    loss, count, _ = capacity.evaluate(model, questions, RUN)
    tokens = questions.batch.tokens
    logits = model(tokens[:, :-1])[:, -1]
    total = F.cross_entropy(logits, tokens[:, -1], reduction='sum').item()
    assert count['attribute1'] == 7000
    assert loss['attribute1'] == pytest.approx(total / math.log(2), rel=1e-5)


# -----------------------------------------------------------------------------
# the models of a grid

@pytest.mark.parametrize('hops, n_layer, n_head', [(1, 2, 4), (2, 2, 1), (1, 1, 3), (2, 3, 2)])
def test_a_job_is_the_nearest_size_that_its_width_allows(hops, n_layer, n_head):
    args = SimpleNamespace(attributes=5, relations=2, n_layer=n_layer, n_head=n_head)
    task = Profiles(50, 5, 2, range(1, hops + 1))
    params = {}
    with torch.device('meta'):
        for width in range(2 * n_head, 60, n_head):
            config = GPTConfig(len(task.vocab), task.block_size, n_layer, n_head, width,
                               pos='rope')
            params[width] = GPT(config).num_params()
    for target in (1, 1000, 2600, 5001, 9000, 14_000, 20_000):
        job = capacity.make_job(args, hops, 'direct', target, 50, 7)
        error = abs(params[job['n_embd']] - target)
        assert error == min(abs(size - target) for size in params.values())
        assert (job['hops'], job['people'], job['exposures'], job['mode']) == (
            hops, 50, 7, 'direct')


def jobs_of(*argv):
    return capacity.fill_in(capacity.parse_args([str(word) for word in argv]))


@pytest.mark.parametrize('A, R, fill', [(8, 0, 3.5), (3, 2, 2.0), (0, 1, 1.0)])
def test_without_people_the_facts_fill_the_model(A, R, fill):
    """So many people that there are --fill bits of facts, names aside, for each parameter."""
    jobs = jobs_of('--attributes', A, '--relations', R, '--fill', fill, '--sizes', '5000,20000')
    for job, size in zip(jobs, (5000, 20000), strict=True):
        bits = []
        for n in (job['people'] - 1, job['people'] + 1):
            bits.append(n * A * 7 + n * R * math.log2(n))
        assert bits[0] <= fill * size <= bits[1]


def test_sizes_of_the_same_width_are_one_model():
    assert len(jobs_of('--people', 10, '--sizes', '1300,1301,5000')) == 2


def test_the_largest_sizes_that_are_taken_are_taken():
    jobs = jobs_of(*('--people 100 --sizes 1000000000 --exposures 10000000 --steps 10000000 '
                     '--n_layer 100 --n_head 100 --n_loop 100').split())
    assert len(jobs) == 1 and jobs[0]['exposures'] == 10**7


# -----------------------------------------------------------------------------
# what is trained

def training_batches(monkeypatch, folder, *argv):
    """The batches that a run trains on, each a list of rows of tokens."""
    real = capacity.question_losses
    batches = []

    def listening(model, tokens, mask, group, run):
        if model.training:
            batches.append([tuple(row) for row in tokens.tolist()])
        return real(model, tokens, mask, group, run)

    with monkeypatch.context() as patch:
        patch.setattr(capacity, 'question_losses', listening)
        run_capacity(folder, *argv)
    return batches


def cut(sequence, size):
    return [sequence[i:i + size] for i in range(0, len(sequence), size)]


def test_every_question_is_trained_as_often_as_the_exposures_say(
        tmp_path, monkeypatch):
    """One hop: 12 people, 5 times each in 6 batches of 10. Every epoch has everyone once, in an
    order of its own, with all facts."""
    batches = training_batches(
        monkeypatch, tmp_path, *('--people 12 --attributes 2 --relations 1 --sizes 1500 '
                                 '--n_head 1 --exposures 5 --steps 6').split())
    sequence = []
    for batch in batches:
        assert len(batch) == 10 * 3
        for group in cut(batch, 3):
            assert len({row[:3] for row in group}) == 1  # one name
            assert len({row[3] for row in group}) == 3   # three questions
            sequence.append(group[0][:3])
    epochs = cut(sequence, 12)
    assert len(batches) == 6 and all(len(set(epoch)) == 12 for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 5


@pytest.mark.parametrize('extra', ['', '--cot'])
def test_of_two_hops_the_trained_questions_are_trained_and_no_others(
        extra, tmp_path, monkeypatch):
    task = Profiles(12, 2, 2, facts=1337)
    batch = as_questions(task, 'cot' if extra else 'direct').batch
    rows = all_rows(task)
    trained = set()
    for tokens, row in zip(batch.tokens.tolist(), rows, strict=True):
        if label_of(task, row) == 'trained':
            trained.add(tuple(tokens[:5]))
    assert 12 * 4 < len(trained) < len(rows)  # all facts, and some of the others

    steps = next(k for k in (4, 5, 6, 7, 3, 2) if 2 * len(trained) % k == 0)
    batches = training_batches(
        monkeypatch, tmp_path, *('--hops 2 --people 12 --attributes 2 --relations 2 --sizes 1500 '
                                 f'--exposures 2 --steps {steps} {extra}').split())
    n_trained = Counter(row[:5] for batch in batches for row in batch)
    assert n_trained == dict.fromkeys(trained, 2)

    # with their answers, cut where the longest ends
    whole = {tuple(tokens) for tokens in batch.tokens.tolist()}
    for row in batches[0]:
        assert any(tokens[:len(row)] == row and not set(tokens[len(row):]) - {task.pad}
                   for tokens in whole)


def test_every_epoch_is_a_permutation_that_seed_and_epoch_alone_decide(
        tmp_path, monkeypatch):
    """Batches of 8 or of 36 of 12 people: they end within an epoch, or span three. The largest seed
    that is taken works as well."""
    orders = set()
    for seed, settings in ((0, ((9, 8), (2, 36))), (1, ((9, 8),)),
                           (2**63 - 1, ((9, 8), (2, 36)))):
        task = Profiles(12, 2, 1, [1], facts=seed)
        person_of = {tuple(name): i for i, name in enumerate(task.names.tolist())}
        of_this_seed = []
        for steps, size in settings:
            argv = ('--people 12 --attributes 2 --relations 1 --sizes 700 --n_head 1 '
                    f'--exposures 6 --steps {steps} --seed {seed}').split()
            batches = training_batches(monkeypatch, tmp_path / f'{seed}-{steps}', *argv)
            assert [len(batch) for batch in batches] == [3 * size] * steps
            sequence = [person_of[row[:3]] for batch in batches for row in batch[::3]]
            of_this_seed.append([tuple(epoch) for epoch in cut(sequence, 12)])
        assert of_this_seed[0] == of_this_seed[-1]
        assert all(sorted(epoch) == list(range(12)) for epoch in of_this_seed[0])
        orders.update(of_this_seed[0])
    assert len(orders) == 3 * 6


def test_the_exposures_of_the_last_line_are_those_of_the_last_model(
        tmp_path, monkeypatch):
    """5 are wanted. 30 batches of 1 of 8, and of 2 of 9 people, are 30 / 8 and 60 / 9."""
    argv = ('--people 8,9 --attributes 2 --relations 1 --sizes 700 --n_head 1 --exposures 5 '
            '--steps 30').split()
    batches = training_batches(monkeypatch, tmp_path, *argv)
    results = json.loads((tmp_path / 'results.json').read_text())
    n_rows = [sum(len(batch) for batch in half) for half in cut(batches, 30)]
    assert n_rows == [30 * 3, 60 * 3]  # 3 questions a person
    exposures = [(record['people'], record['exposures']) for record in results['models']]
    assert exposures == [(8, 30 / 8), (9, 60 / 9)]
    assert results['final']['exposures'] == 7


@pytest.mark.parametrize('extra, rate, decay', [
    ('', 0.02, 0), ('--hops 2 --cot', 0.02, 0), ('--lr 5e-3 --weight_decay 0.3', 0.005, 0.3)])
def test_a_model_is_trained_as_written_out(extra, rate, decay, tmp_path, monkeypatch):
    """On the questions of each step: the losses of the curve, and the weights and moments of every
    checkpoint. Nothing decays but with --weight_decay, and nothing is clipped."""
    batches = []
    real = capacity.question_losses

    def listening(model, tokens, mask, group, run):
        if model.training:
            batches.append((tokens, mask))
        return real(model, tokens, mask, group, run)
    monkeypatch.setattr(capacity, 'question_losses', listening)
    saved = Saved(monkeypatch)
    modes = watch_modes(monkeypatch, GPT)
    argv = ('--people 12 --attributes 2 --relations 1 --sizes 1500 --n_head 1 --exposures 5 '
            f'--steps 8 --seed 4 {extra}')
    _, (record,) = run_capacity(tmp_path, *argv.split())
    assert modes == {(True, True), (False, False)}

    task = Profiles(12, 2, 1, [1, 2] if '--hops 2' in extra else [1], facts=4)
    width = record['n_embd']
    torch.manual_seed(4)
    model = GPT(GPTConfig(len(task.vocab), task.block_size, 2, 1, width, pos='rope'))
    optimizer = PlainAdamW(model, decay=decay, betas=(0.9, 0.98))
    peak = rate * math.sqrt(16 / width)
    assert record['lr'] == pytest.approx(peak) and len(batches) == len(saved.all) == 8
    for step, (tokens, mask) in enumerate(batches):
        logits = model(tokens[:, :-1])[mask[:, 1:]]
        loss = F.cross_entropy(logits, tokens[mask])
        # the line goes up to the cosine, and both are 1 at its end
        rate = min(peak * (step + 1) / 3, warmup_and_cosine(max(2, step), peak, 2, 8))
        optimizer.step(loss, rate)
        assert record['curve'][step] == [step + 1, pytest.approx(loss.item(), abs=1e-4)]
        name, saved_step, *_ = saved.all[step]
        assert (name, saved_step) == (f'ckpt-{record["name"]}.pt', step + 1)
        assert is_as_written_out(saved.all[step], model, optimizer)


# -----------------------------------------------------------------------------
# stopped, resumed, diverged, in two processes

GRID = ('--people 10 --attributes 2 --relations 1 --sizes 1300,2000 --n_head 1 --exposures 20 '
        '--steps 20').split()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The same run, never interrupted: its folder, last line and records."""
    folder = tmp_path_factory.mktemp('whole') / 'run'
    final, records = run_capacity(folder, *GRID)
    return SimpleNamespace(folder=folder, final=final, records=records)


def stop_at(monkeypatch, step):
    """Send a signal within training step number `step` of a run, over all its models."""
    real = capacity.question_losses
    n_steps = 0

    def stopping(model, *rest):
        nonlocal n_steps
        n_steps += model.training
        if model.training and n_steps == step:
            signal.raise_signal(signal.SIGTERM)
        return real(model, *rest)

    monkeypatch.setattr(capacity, 'question_losses', stopping)


def test_stopped_and_resumed_is_the_uninterrupted_run(whole, tmp_path, monkeypatch):
    """Stopped by a signal after 1, 2, 3, 20, 26 and 40 steps: in the first model, between the two,
    in the second, and at its end. The weights are the same to the bit, and so are the records."""
    folder = tmp_path / 'run'
    for i, step in enumerate((1, 1, 1, 17, 6, 14)):
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            resume = ['--resume'] if i > 0 else []
            code, out, err = call(*GRID, '--out_dir', folder, *resume)
        assert code == 143 and 'final' not in out
        assert '--resume' in err and err.count('\n') == 1
    final, records = run_capacity(folder, *GRID, '--resume')

    for path in whole.folder.glob('ckpt-*.pt'):
        expected = torch.load(path, weights_only=True)['model']
        weights = torch.load(folder / path.name, weights_only=True)['model']
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    for record, expected in zip(records, whole.records, strict=True):
        assert without(record, 'seconds', 'curve') == without(expected, 'seconds', 'curve')
        # a stop leaves a point of its own
        points = set(map(tuple, record['curve']))
        assert set(map(tuple, expected['curve'])) <= points
    assert without(final, 'seconds') == without(whole.final, 'seconds')
    names = [record['name'] for record in read_log(folder) if record['arm'] == 'model']
    assert names == [record['name'] for record in records]


def test_a_diverged_model_ends_the_run_and_leaves_its_last_good_weights(
        whole, tmp_path, monkeypatch):
    real = capacity.question_losses
    n_steps = 0

    def diverging(model, *rest):
        nonlocal n_steps
        n_steps += model.training
        losses, hits = real(model, *rest)
        return losses * math.inf if n_steps == 10 else losses, hits

    monkeypatch.setattr(capacity, 'question_losses', diverging)
    code, out, err = call(*GRID, '--out_dir', tmp_path)
    name = whole.records[0]['name']
    assert code == 1 and 'final' not in out and err.count('\n') == 1
    assert f'{name}: training diverged at step 10' in err and 'last good weights' in err
    model, state = common.load_checkpoint(tmp_path / f'ckpt-{name}.pt')
    assert state['step'] == 9 and all(p.isfinite().all() for p in model.parameters())


TWO_RUNS = """
import os, sys, capacity, plots
from errors import one_line_errors
port, damaged, *argv = sys.argv[1:]
folder = os.path.dirname(damaged)
plots.draw_run = lambda folder: None
sys.argv[0] = 'capacity.py'
capacity.main(argv)
if os.environ['RANK'] == '0':
    with open(folder + '/log.jsonl') as log:
        print('models in the log:', log.read().count('"model"'))
    print('resumed', flush=True)
else:
    os.truncate(damaged, 1000)  # what this process has written

os.environ['MASTER_PORT'] = port
code = 0
try:
    with one_line_errors():
        capacity.main([*argv, '--resume'])
except SystemExit as end:
    code = end.code
except Exception:
    code = 'exception'
print(f'rank {os.environ["RANK"]} ends with {code}', flush=True)
"""


@pytest.fixture(scope='module')
def two_runs(whole, two_processes, tmp_path_factory):
    """Two processes run GRID. Then they resume it, with a checkpoint of rank 1 cut short."""
    folder = tmp_path_factory.mktemp('two')
    damaged = folder / f'ckpt-{whole.records[1]["name"]}.pt'
    done = two_processes('-c', TWO_RUNS, free_port(), damaged, *GRID, '--device', 'cpu',
                         '--out_dir', folder)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(folder=folder, damaged=damaged, stdout=done.stdout, stderr=done.stderr)


def test_two_processes_find_what_one_finds(whole, two_runs):
    """Each trains one of the two models. Rank 0 alone speaks."""
    first, _ = two_runs.stdout.split('resumed\n')
    assert first.count('final ') == 1 and first.count(' parameters, ') == 2
    assert 'models in the log: 2' in first
    results = json.loads((two_runs.folder / 'results.json').read_text())
    for one, two in zip(whole.records, results['models'], strict=True):
        assert one['name'] == two['name']
        assert one['params'] == two['params'] and one['count'] == two['count']
        assert one['entropy'] == two['entropy']
        # equal to the bit on as many threads
        assert one['stored'] == {
            how: pytest.approx(bits, rel=1e-3) for how, bits in two['stored'].items()}
        losses = [loss for _, loss in two['curve']]
        assert [loss for _, loss in one['curve']] == pytest.approx(losses, rel=1e-3)


def test_the_process_that_finds_a_damaged_checkpoint_says_so(two_runs):
    _, second = two_runs.stdout.split('resumed\n')
    lines = [line for line in two_runs.stderr.splitlines() if line.startswith('capacity.py: ')]
    assert sum(str(two_runs.damaged) in line and 'damaged (' in line for line in lines) == 1
    others = [line for line in lines if str(two_runs.damaged) not in line]
    assert set(others) <= {'capacity.py: another process of this run has ended'}
    assert 'rank 1 ends with 2\n' in two_runs.stdout
    assert 'rank 0 ends with' in second and 'rank 0 ends with 0' not in second
    assert 'final ' not in second and ' parameters, ' not in second


# -----------------------------------------------------------------------------
# every kind of run

TINY = '--people 10 --attributes 2 --relations 1 --sizes 1300 --exposures 5 --steps 6'.split()


@pytest.mark.parametrize('extra, schemes', [
    ('--hops 2', SCHEMES),
    ('--hops 2 --cot', ('chain',)),
    ('--hops 2 --n_loop 2 --n_layer 1 --dtype bfloat16', SCHEMES),
    ('--relations 0', ('one hop',)),
    ('--hops 2 --attributes 0', SCHEMES),
])
def test_every_kind_of_run(extra, schemes, tmp_path):
    final, [record] = run_capacity(tmp_path, *TINY, *extra.split())
    for values in (record['stored'], record['entropy'], record['int8']):
        assert tuple(values) == schemes
    assert all(0 <= bits <= record['entropy'][name] for name, bits in record['stored'].items())

    # of one model there is neither a fit nor a spread
    assert final['n_models'] == '1' and 'r2' not in final and 'scheme' not in final

    two_hops = '--hops 2' in extra
    assert final['hops'] == ('2' if two_hops else '1') and 'acc_1' in record
    assert ('cot' in final) == ('n_loop' in final) == ('acc_2_trained' in record) == two_hops
    if two_hops:
        assert final['cot'] == ('1' if 'cot' in extra else '0')
        assert final['n_loop'] == ('2' if 'n_loop' in extra else '1')

    task = Profiles(10, 0 if 'attributes 0' in extra else 2, 0 if 'relations 0' in extra else 1,
                    facts=1337, hops=[1, 2] if two_hops else [1])
    assert record['chance'] == task.chance(max(task.hops))
    log = read_log(tmp_path)
    assert [entry['arm'] for entry in log] == ['model', 'final']
    assert without(log[0], 'arm') == record


# Bits a parameter of three models with 10, 11 and 12 people. 'double' is flattest in the first two.
RATES = {'optimal': (1.0, 1.4, 0.1), 'double': (1.0, 1.1, 9.0), 'big hash': (1.0, 3.0, 2.0)}


@pytest.mark.parametrize('stored_shares, scheme', [
    ((0.5, 0.94), 'double'), ((0.5, 1.0), None), ((1.0, 1.0), None)])
def test_a_scheme_is_named_only_if_its_spread_could_be_computed(
        stored_shares, scheme, tmp_path, monkeypatch):
    """The spread is that of the models that have more to store, if there are two."""
    def made_up(job, args, run):
        i = [10, 11, 12].index(job['people'])
        stored = {name: 1000 * (i + 1) * rates[i] for name, rates in RATES.items()}
        share = [*stored_shares, 1.0][i]
        entropy = {name: bits / share for name, bits in stored.items()}
        return job | dict(params=1000 * (i + 1), exposures=5.0, seconds=0, chance=0, acc_1=1.0,
                          acc_2_trained=1.0, stored=stored, entropy=entropy, int8=stored,
                          int4=stored)

    monkeypatch.setattr(capacity, 'train_and_measure', made_up)
    final, records = run_capacity(tmp_path, *TINY, '--hops', 2, '--people', '10,11,12')
    assert final.get('scheme') == scheme and len(records) == 3
    assert ('spread' in final) == (scheme is not None)
    if scheme is not None:
        assert final['spread'] == f'{0.1 / math.sqrt(2) / 1.05:.3f}'


@pytest.mark.parametrize('extra, schemes', [
    ('', {'optimal', 'double', 'big-hash'}), ('--cot', {'chain'})])
def test_two_models_that_have_not_learned_everything_name_a_scheme(
        extra, schemes, tmp_path):
    final, records = run_capacity(tmp_path, *TINY, '--hops', 2, '--sizes', '1300,2000',
                                  *extra.split())
    assert final['scheme'] in schemes and float(final['spread']) >= 0
    assert len(records) == 2 and all(record['acc_2_trained'] < 0.99 for record in records)


# -----------------------------------------------------------------------------
# the smallest model

@pytest.mark.parametrize('extra', ['', '--cot'])
def test_smallest_model_of_either_kind(extra, tmp_path, figures, monkeypatch):
    """Every model but that of the very first size is said to have learned. So the second is found
    for both, in three trainings each. The one-hop runs get as many questions."""
    real = capacity.train_and_measure
    widths = []

    def learning(job, args, run):
        widths.append(job['n_embd'])
        record = real(job, args, run)
        record['acc_1'] = float(job['n_embd'] > 5)
        if job['hops'] == 2:
            record['acc_2_trained'] = float(job['n_embd'] > 5)
        return record

    monkeypatch.setattr(capacity, 'train_and_measure', learning)
    final, records = run_capacity(tmp_path, *TINY, '--hops', 2, '--smallest', *extra.split())
    assert [record['n_embd'] for record in records] == widths == [8, 6, 5] * 2
    assert final['n_models'] == '6' and (tmp_path / 'plot.png').read_bytes()[:4] == b'\x89PNG'

    # the two smallest
    learned = {1: [], 2: []}
    for record in records:
        if record['n_embd'] > 5:
            learned[record['hops']].append(record['params'])
    assert final['smallest_1'] == str(min(learned[1]))
    assert final['smallest'] == str(min(learned[2]))
    smallest = [record['n_embd'] for record in records
                if record['params'] == int(final['smallest'])]
    assert smallest == [6, 6]
    ratio = int(final['smallest']) / int(final['smallest_1'])
    assert float(final['ratio']) == pytest.approx(ratio, abs=1e-3)

    # as many questions in all
    task = Profiles(10, 2, 1)
    n_trained = sum(label_of(task, row) == 'trained' for row in all_rows(task))
    exposures = {(record['hops'], record['mode'], record['exposures']) for record in records}
    assert exposures == {(1, 'direct', round(5 * n_trained / 30)),
                         (2, 'cot' if extra else 'direct', 5)}
    chance = {(record['hops'], record['chance']) for record in records}
    task = Profiles(10, 2, 1, facts=1337)
    assert chance == {(1, task.chance(1)), (2, task.chance(2))}


@pytest.mark.parametrize('accuracy', [0.5, 1.0])
def test_if_no_model_learns_or_the_very_first_does_the_run_ends_in_one_line(
        accuracy, tmp_path, monkeypatch):
    bits = {'one hop': 1.0}
    monkeypatch.setattr(capacity, 'train_and_measure', lambda job, args, run: job | dict(
        params=1, exposures=1, seconds=0, chance=0, acc_1=accuracy, acc_2_trained=accuracy,
        stored=bits, entropy=bits, int8=bits, int4=bits))
    code, out, err = call(*TINY, '--hops', 2, '--smallest', '--out_dir', tmp_path)
    assert code == 1 and 'final' not in out
    assert err.count('\n') == 1 and 'no size tried was just enough' in err
    assert not (tmp_path / 'results.json').exists()


LADDER_ARGS = SimpleNamespace(sizes=[3000], people=[30], attributes=3, relations=2, n_layer=2,
                              n_head=1)


@functools.cache
def ladder_widths():
    """The widths that come nearest to 3,000 parameters, 10% more, and so on, 30 times."""
    V = len(Profiles(30, 3, 2, [1]).vocab)
    params = {w: V * w + 2 * (12 * w * w + 2 * w) + w for w in range(2, 190)}
    widths = set()
    for i in range(30):
        widths.add(min(params, key=lambda w: abs(params[w] - 3000 * 1.1**i)))
    assert len(widths) > 20
    return sorted(widths)


def most_trainings(world, i):
    """How many it may take until size number i is known to be the smallest that learns."""
    return {1: i // 4 + 1 + 2, 2: 2 * (i // 8 + 1) + 3, 3: 3 * (i // 12 + 1) + 4}[world]


@pytest.mark.parametrize('world', [1, 2, 3])
def test_the_smallest_that_learns_is_found_exactly_and_in_few_trainings(world, monkeypatch):
    """Whichever size is the first to learn. (If it is the very first, a smaller one might as well.)
    One process: a quarter of the sizes below, and two more. More processes: fewer rounds."""
    monkeypatch.setattr(capacity, 'Profiles', functools.cache(Profiles))  # for speed alone
    widths = ladder_widths()
    for first_to_learn in [*range(14), 20, len(widths) - 1, len(widths)]:
        trained = []

        def made_up(jobs, args, run, trained=trained, first_to_learn=first_to_learn):
            assert 0 < len(jobs) <= world
            records = []
            for job in jobs:
                assert (job['hops'], job['mode'], job['exposures'], job['people']) == (
                    1, 'direct', 9, 30)
                trained.append(job['n_embd'])
                learns = widths.index(job['n_embd']) >= first_to_learn
                records.append(job | dict(acc_1=0.99 if learns else 0.989, acc_2_trained=0))
            return records

        monkeypatch.setattr(capacity, 'run_jobs', made_up)
        smallest, records = capacity.find_smallest(
            LADDER_ARGS, 1, 'direct', 9, SimpleNamespace(world=world))
        if 0 < first_to_learn < len(widths):
            assert smallest['n_embd'] == widths[first_to_learn]
        else:
            assert smallest is None
        assert [record['n_embd'] for record in records] == trained
        assert len(trained) == len(set(trained)) <= most_trainings(world, first_to_learn)
        assert set(trained) <= set(widths)


def test_two_hops_pass_by_their_trained_questions(monkeypatch):
    monkeypatch.setattr(capacity, 'run_jobs', lambda jobs, args, run: [
        job | dict(acc_1=1.0, acc_2_trained=float(job['n_embd'] >= 12)) for job in jobs])
    smallest, _ = capacity.find_smallest(LADDER_ARGS, 2, 'cot', 9, RUN)
    assert smallest['n_embd'] == 12


# -----------------------------------------------------------------------------
# the fit

def fit_points(*points):
    """points: (parameters, stored bits, entropy) of each model."""
    records = []
    for params, stored, entropy in points:
        records.append(dict(params=params, stored={'s': stored}, entropy={'s': entropy}))
    return capacity.fit(records, 's')


def test_a_line_through_the_origin_fits_perfectly():
    assert fit_points((1, 2.0, 9.0), (2, 4.0, 9.0), (3, 6.0, 6.0)) == dict(
        slope=pytest.approx(2), r2=pytest.approx(1), spread=pytest.approx(0), n_short=2)


def test_slope_r2_and_spread_by_hand():
    """Slope (1 + 12 + 8) / 21. Residuals 0, 4, -2 around a mean of 3. Rates 1 and 3: the third
    model has stored 2 of 2.1 bits, 95.2%."""
    fit = fit_points((1, 1.0, 9.0), (2, 6.0, 9.0), (4, 2.0, 2.1))
    assert fit == dict(slope=pytest.approx(1), r2=pytest.approx(1 - 20 / 14),
                       spread=pytest.approx(math.sqrt(2) / 2), n_short=2)
    fit = fit_points((1, 1.0, 9.0), (2, 6.0, 9.0), (4, 2.0, 2.11))  # 94.8%
    assert fit['n_short'] == 3


def test_what_cannot_be_computed_is_none():
    assert fit_points((2, 3.0, 9.0)) == dict(slope=1.5, r2=None, spread=None, n_short=1)
    assert fit_points((1, 0.0, 9.0), (2, 0.0, 9.0)) == dict(slope=0, r2=None, spread=None,
                                                            n_short=2)


# -----------------------------------------------------------------------------
# mistakes

BAD = [
    '--hops 3', '--hops 0', '--hops 1-2', '--cot', '--smallest', '--hops 1 --cot', '--sizes x',
    '--sizes 0', '--sizes 10000,', '--sizes 1e4', '--people 1', '--people 0', '--people x',
    '--people 10,x', '--people 1000001', '--relations 18', '--relations -1', '--attributes 0',
    '--attributes 0 --people 10', '--attributes -1', '--attributes 1000', '--relations 0 --hops 2',
    '--hops 2 --relations 0 --people 10', '--hops 2 --smallest --people 10,20',
    '--smallest --people 10,20', '--hops 2 --smallest --sizes 1000,2000',
    '--hops 2 --smallest --relations 0', '--hops 2 --smallest --people 1', '--exposures 0',
    '--steps 0', '--n_head 0', '--n_layer 0', '--n_loop 0', '--fill 0', '--fill -1', '--fill nan',
    '--fill inf', '--seed -1', '--seed 18446744073709551616', '--device tpu', '--device cuda:99',
    '--dtype float8', '--hop 2', '--ckpt x.pt', '--eval_only', 'hops', '--resume yes',
    '--n_embd 16', '--sizes 1000000001', '--sizes 1300,1000000001', '--sizes 99999999999999999999',
    '--sizes 1000000001 --people 10', '--exposures 10000001', '--steps 10000001',
    '--max_iters 10000001', '--n_layer 101', '--n_head 101', '--n_loop 101',
    '--hops 2 --smallest --sizes 1000000001', '--hops 2 --cot --n_loop 9223372036854775807',
]


@pytest.mark.parametrize('command_line', BAD)
def test_a_mistake_is_one_line_and_writes_nothing(command_line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*command_line.split(), '--out_dir', tmp_path / 'run')
    assert code == 2 and out == ''
    assert err.count('\n') == 1 and len(err) > 20 and 'Traceback' not in err
    assert list(tmp_path.iterdir()) == []


def test_from_python_a_mistake_is_a_value_error():
    with pytest.raises(ValueError, match='--hops 2'):
        capacity.main(['--cot'])
