"""The daemon end to end: every part of it, one after another. One part: its own file, or a name,
as in `test_daemon.py test_daemon_start.Life`."""
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
PARTS = ["test_daemon_generate", "test_daemon_adapters", "test_daemon_start", "test_daemon_ctl",
         "test_daemon_states"]

if __name__ == "__main__":
    unittest.main(module=None, argv=[sys.argv[0], *(sys.argv[1:] or PARTS)], verbosity=2)
