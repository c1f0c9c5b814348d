"""Task `profiles`: facts about made-up people, to be learned by heart, and questions about them.

A person has attributes (university, birthday, ...) and relations to other people (mentor, boss,
...). Two kinds of questions are asked. [Brackets] mark the tokens that carry loss:

    one hop     who is a7 b0 c3's mentor?       _ a7 b0 c3 mentor [a1] [b4] [c9]
    two hops    what is the employer of         employer a7 b0 c3 mentor
                a7 b0 c3's mentor?                  [a1] [b4] [c9] [employer] [v88]

In two hops the chain first names the bridge person, here a1 b4 c9. Then it repeats the subject and
gives the answer. So the second link of a chain reads like a one-hop question. Without the chain
(--mode direct) only the answer [v88] carries loss.

The subject of the second hop comes first in the prompt, `_` where there is none. It is left out if
no question of the task has two hops. So a name and the word that asks about it are always
neighbours.

    python profiles.py --n 3
    python profiles.py --people 20 --hops 2 --raw
"""

from errors import one_line_errors  # first: see errors.py

import numpy as np
import torch

from data import (
    HOPS,
    Task,
    at_least,
    held_out,
    print_examples,
    require,
    seed_number,
)
from memory import require_memory


ATTRIBUTES = ['employer', 'university', 'city', 'birthday']  # then attribute5, attribute6, ...
RELATIONS = ['friend', 'parent', 'child', 'mentor', 'boss', 'rival', 'neighbour', 'teacher',
             'doctor', 'cousin', 'landlord', 'coach', 'idol', 'heir', 'guest', 'guide', 'agent']


def check_sizes(people, attributes, relations, hops, relabel=False):
    """Raise ValueError for sizes that make no sense, and for facts that do not fit into memory."""
    require(2 <= people <= 10**6 and 0 <= attributes < 1000 and 0 <= relations <= 17
            and attributes + relations > 0 and set(hops) <= {1, 2},
            'profiles takes 2 to 1,000,000 people, attributes, up to 17 relations (one at '
            'least of either), and 1 or 2 hops')
    require(relations > 0 or max(hops) == 1, 'two hops need relations; or ask for one, --hops 1')
    n_facts = people * (attributes + relations) * (1 + relabel * relations)
    require_memory([{'facts': 18 * n_facts + 150 * people}])


def letters_for(people):
    """How many letters a name has to choose from, at each of its three places."""
    s = 2
    while s**3 < 8 * people:
        s += 1
    return s


def vocab_size(people, attributes, relations, values=128):
    """len(Profiles(...).vocab), without the facts."""
    return 3 * letters_for(people) + values + attributes + relations + 1


class Profiles(Task):
    """Questions about n people with A attributes and R relations.

    A name is three tokens, one of s^3 possible names, where s^3 >= 8 n. So no token belongs to one
    person, and no embedding row is a free table of facts. Attributes are uniform over 128 values.
    Relations are uniform over all people, oneself included. The facts depend on the sizes and on
    --facts alone.

    --bipartite  friends are mutual, parent and child are inverse
    --relabel    shuffle the answers of two-hop questions over the people, separately for each
                 relation and subject: the control that leaves nothing to compose

    All facts are trained, as one-hop questions, so these belong to both splits. Two-hop questions
    are held out in three ways, a tenth each: by first person, by (person, relation) pair, and one
    by one.

    A question is three numbers: person, relation (-1 in one hop), subject. Subjects are the
    attributes 0 .. A-1 and the relations A .. A+R-1.
    `instance`: person, relation, subject, and why it is held out, an index into `labels`, (B, 4).
    """
    name = 'profiles'
    flags = {
        'people': dict(type=at_least(1), help='how many people'),
        'attributes': dict(type=at_least(0), help='attributes of each person'),
        'relations': dict(type=at_least(0), help='relations of each person'),
        'hops': HOPS,
        'bipartite': dict(action='store_true', help='friends are mutual, parent and child inverse'),
        'facts': dict(type=seed_number, help='which random facts'),
        'relabel': dict(action='store_true', help='shuffle two-hop answers over the people'),
    }
    labels = ('trained', 'person', 'pair', 'combination')
    test_share = 0.25
    draw_size = 20  # see Task

    def __init__(self, people=100, attributes=4, relations=4, hops=(1, 2), bipartite=False,
                 values=128, facts=0, relabel=False):
        n, A, R = people, attributes, relations
        check_sizes(n, A, R, hops, relabel)
        require(not bipartite or (R >= 3 and n % 2 == 0),
                'bipartite needs at least three relations, and an even number of people')
        self.people = people
        self.attributes = attributes
        self.relations = relations
        self.hops = list(hops)
        self.bipartite = bipartite
        self.values = values
        self.facts = facts
        self.relabel = relabel

        # names: n of s^3 codes; digit i of a code in base s is token i of the name
        s = letters_for(n)
        rng = np.random.default_rng([facts, n, A, R])
        self.letters = s                                         # tokens a0 .. a(s-1), b0 ..
        self.n_names = s**3
        self.code = np.sort(rng.choice(s**3, n, replace=False))  # (n,)
        a, b, c = self.code // s**2, self.code // s % s, self.code % s
        self.names = np.stack((a, s + b, 2 * s + c), axis=1)     # (n, 3) tokens

        # truth[person, subject]: the value of an attribute, or the person that a relation names
        attribute_values = rng.integers(values, size=(n, A))
        related_people = rng.integers(n, size=(n, R))
        self.truth = np.concatenate((attribute_values, related_people), axis=1)
        if bipartite:
            self.make_bipartite(rng)

        # relabel: whose bridge person answers instead, for each (person, relation, subject)
        self.answered_for = None
        if relabel:
            everyone = np.tile(np.arange(n)[:, None, None], (R, A + R))
            self.answered_for = rng.permuted(everyone, axis=0)

        name_words = [f'{letter}{i}' for letter in 'abc' for i in range(s)]
        value_words = [f'v{i}' for i in range(values)]
        more_attributes = [f'attribute{i}' for i in range(5, A + 1)]
        subject_words = ATTRIBUTES[:A] + more_attributes + RELATIONS[:R]
        self.vocab = name_words + value_words + subject_words + ['_']
        self.n_symbols = len(name_words)
        self.first_subject = len(name_words) + len(value_words)  # token of subject 0
        self.pad = len(self.vocab) - 1
        self.answer_len = 3 if R > 0 else 1
        self.block_size = 4 + self.answer_len
        if max(hops) > 1:
            self.block_size += 5  # the second subject, the bridge person and the subject again
        self.longest_chain = self.block_size - 4

    def make_bipartite(self, rng):
        """Relation 0 (friend) becomes mutual, relations 1 and 2 (parent, child) inverse."""
        friend, parent, child = self.attributes + np.arange(3)
        pairs = rng.permutation(self.people)
        ring = rng.permutation(self.people)
        self.truth[pairs, friend] = pairs.reshape(-1, 2)[:, ::-1].ravel()
        self.truth[ring, parent] = np.roll(ring, 1)
        self.truth[ring, child] = np.roll(ring, -1)

    def label(self, question):
        """Why questions (B, 3) are held out, (B,) indices into `labels`. 0: they are trained."""
        two_hops = question[:, 1] >= 0
        by_person = held_out(question[:, :1]) & two_hops
        by_pair = held_out(question[:, :2]) & two_hops
        by_combination = held_out(question) & two_hops
        return np.select([by_person, by_pair, by_combination], [1, 2, 3], 0)

    def in_split(self, key, split):
        return (self.label(key) > 0) == (split == 'test')

    def draw(self, rng, hops):
        upper = (self.people, max(self.relations, 1), self.attributes + self.relations)
        question, another = rng.integers(upper, size=(2, len(hops), 3))     # (B, 3) each

        # One-hop questions belong to both splits. Their key is that of another question, so that
        # they are kept as often as two-hop questions, and the mixture of hops stays what it is.
        one_hop = hops[:, None] == 1
        key = np.where(one_hop, another, question)
        without_relation = question * (1, 0, 1) - (0, 1, 0)
        return key, np.where(one_hop, without_relation, question)

    def answers(self, person, subject):
        """The answers to one-hop questions (B,), (B,): a value and padding, or a name.
        (B, answer_len) tokens."""
        fact = self.truth[person, subject]
        is_value = subject < self.attributes
        answer = self.names[np.where(is_value, 0, fact)][:, :self.answer_len]
        answer = np.where(is_value[:, None], self.pad, answer)
        answer[is_value, 0] = self.n_symbols + fact[is_value]
        return answer

    def answer_size(self, source):
        return np.where(source[:, 2] < self.attributes, 1, self.answer_len)

    def write(self, rng, source, hops):
        person, relation, subject = source.T
        two_hops = relation >= 0
        one_hop = ~two_hops
        bridge = np.where(two_hops, self.truth[person, self.attributes + relation], person)

        # whom the answer is about: the bridge person, unless answers are relabelled
        answer_person = bridge
        if self.relabel:
            other = self.answered_for[person, relation, subject]
            others_bridge = self.truth[other, self.attributes + relation]
            answer_person = np.where(two_hops, others_bridge, person)
        answer = self.answers(answer_person, subject)                       # (B, answer_len)

        # prompt: second subject (or _), name, word that asks
        subject_word = (self.first_subject + subject)[:, None]
        relation_word = (self.first_subject + self.attributes + relation)[:, None]
        second_subject = np.where(two_hops[:, None], subject_word, self.pad)
        word = np.where(two_hops[:, None], relation_word, subject_word)
        prompt = np.concatenate((second_subject, self.names[person], word), axis=1)
        if max(self.hops) == 1:
            prompt = prompt[:, 1:]

        # chain: bridge person, subject, answer; in one hop the answer alone
        chain = np.concatenate((self.names[bridge], subject_word, answer), axis=1)
        chain[one_hop, :self.answer_len] = answer[one_hop]
        chain_len = self.answer_size(source) + np.where(two_hops, 4, 0)
        instance = np.column_stack((source, self.label(source)))
        return prompt, chain, chain_len, instance

    def read(self, prompt):
        words = [token for token in prompt if token != self.pad]
        require(4 <= len(words) <= 3 + max(self.hops),
                'it needs a name of three words, and one word that asks'
                + (', or two' if max(self.hops) == 2 else ''))
        *second_subject, a, b, c, word = words
        is_person = (self.names == (a, b, c)).all(axis=1)
        require(is_person.any(), f'there is no person {self.decode([a, b, c])}')
        person = int(is_person.argmax())

        subjects = [token - self.first_subject for token in (*second_subject, word)]
        require(min(subjects) >= 0, 'it asks for no attribute or relation')
        if not second_subject:
            return np.array([[person, -1, subjects[0]]]), np.array([1])
        subject, first = subjects
        relation = first - self.attributes
        require(relation >= 0, f'{self.vocab[word]} is no relation')
        return np.array([[person, relation, subject]]), np.array([2])

    def valid(self, batch, chain):
        """The bridge person must be the true one. The answer must be true of the person written."""
        prompts = batch.tokens[:, :batch.prompt_len]
        output = torch.cat((prompts, chain), dim=1)
        valid = self.correct(batch, output)[:, batch.prompt_len:]
        if int(batch.hops[0]) == 2 and not self.relabel:
            valid[:, 4:] = self.follows_from_written_bridge(batch, chain)

        # padding after the answer counts as the answer's last token does
        last = valid.gather(1, batch.answer[:, -1:] - batch.prompt_len)
        return torch.where(batch.loss_mask[:, batch.prompt_len:], valid, last)

    def follows_from_written_bridge(self, batch, chain):
        """Which answer tokens (B, L - 4) are true of the person that the chain names."""
        s = self.letters
        written = chain.cpu().numpy()
        bridge_name = written[:, :3]
        code = (bridge_name - (0, s, 2 * s)) @ (s * s, s, 1)
        person = np.searchsorted(self.code, code).clip(max=self.people - 1)
        exists = (self.names[person] == bridge_name).all(axis=1, keepdims=True)

        subject = batch.instance[:, 2].cpu().numpy()
        answer = self.answers(person, subject)[:, :chain.size(1) - 4]
        follows = (written[:, 4:] == answer) & exists
        return torch.from_numpy(follows).to(chain.device)

    def oracle(self, prompt):
        *second_subject, a, b, c, word = prompt
        person = self.names.tolist().index([a, b, c])
        first = word - self.first_subject
        second_subject = [token for token in second_subject if token != self.pad]

        chain = []
        subject = first
        if second_subject:
            subject = second_subject[0] - self.first_subject
            bridge = self.truth[person, first]
            chain = [*self.names[bridge].tolist(), *second_subject]
            if self.relabel:
                relation = first - self.attributes
                other = self.answered_for[person, relation, subject]
                bridge = self.truth[other, first]
            person = bridge
        answer = self.answers(np.array([person]), np.array([subject]))[0].tolist()
        return chain + [token for token in answer if token != self.pad]

    def chance(self, hops):
        """Accuracy of always giving the most frequent answer to this subject (two hops: to this
        relation and subject)."""
        bridges = [slice(None)]
        if hops == 2:
            bridges = self.truth[:, self.attributes:].T                     # (R, n)
        most_frequent = []
        for bridge in bridges:
            for column in self.truth[bridge].T:
                most_frequent.append(np.bincount(column).max())
        return float(np.mean(most_frequent)) / self.people


def main(argv=None):
    print_examples((Profiles,), __doc__, argv)


if __name__ == '__main__':
    with one_line_errors():
        main()
