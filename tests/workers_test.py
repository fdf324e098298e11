"""Tests of one file share what they make: a file stays with one worker."""

import os

import pytest


@pytest.mark.skipif(
  'PYTEST_XDIST_WORKER' not in os.environ, reason='there are no workers'
)
def test_a_file_is_a_group_of_its_own(request):
  assert request.node.nodeid.endswith(f'@{request.path}')
