# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fuzzing: all that reads what others wrote, fed with anything.

`run.py` is `make fuzz`. `targets.py` and `wire.py` say what is fed, and what it
may raise; tests/corpus/ has inputs worth keeping, which tests feed again.
"""
