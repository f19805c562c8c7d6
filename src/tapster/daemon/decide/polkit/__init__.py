# SPDX-License-Identifier: LGPL-2.1-or-later
"""polkit over D-Bus, for the rules with effect "polkit"."""
