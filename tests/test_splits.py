"""Facts about tasks and their splits that no other test would miss."""

from countdown import Countdown
from data import sample_batch


def test_chance_of_countdown_is_to_say_no_where_that_is_right_more_often():
    """Targets that are hard to make from three numbers. The default's targets are more often made
    than not."""
    task = Countdown(3, [67, 71, 73, 79, 83, 89, 97])
    for k in (1, 2):
        batch = sample_batch(task, 2000, 1, 0, 'test', 'direct', k)
        share_of_no = (batch.tokens[:, batch.prompt_len] == task.no).float().mean().item()
        assert share_of_no > 0.55
        assert abs(task.chance(k) - share_of_no) < 0.05
