# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an unprivileged user may try against a host, tried.

Each attack runs as a user without any privilege, against tapster and, where it
applies, against QEMU's setuid helper on a plain bridge. `make attack` prints the
table; tests/kernel/test_attacks.py has tapster's column among the tests.
"""
