# SPDX-License-Identifier: LGPL-2.1-or-later
"""The decision itself: pure functions of a peer, a target, the rules and the facts."""
