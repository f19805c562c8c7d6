# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 1: who is asking, by the kernel's word and the account database."""
