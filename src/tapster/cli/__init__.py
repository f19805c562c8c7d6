# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command `tapster`: `main` finds the command, which has a file of its own."""
