# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 3: may they have it? Gathers the facts, has them decided, asks polkit."""
