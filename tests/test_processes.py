"""Work in several processes: in order, elsewhere, and what fails is raised."""

import os

import pytest

from adlib.processes import in_processes


def test_results_come_in_order_from_other_processes():
    assert in_processes(divmod, [(7, 2), (9, 4), (5, 5)], 2) == [(3, 1), (2, 1), (1, 0)]
    assert os.getpid() not in in_processes(os.getpid, [(), ()], 2)


def test_one_piece_or_one_process_stays_in_this_one():
    assert in_processes(os.getpid, [()], 8) == in_processes(os.getpid, [()], 1) == [os.getpid()]
    assert in_processes(os.getpid, [], 8) == []


def test_what_a_piece_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        in_processes(divmod, [(1, 0), (1, 1)], 2)
