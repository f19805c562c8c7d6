# SPDX-License-Identifier: LGPL-2.1-or-later
"""How quick tapster is, against qemu-bridge-helper and its own budgets."""
