# SPDX-License-Identifier: LGPL-2.1-or-later
"""The decision itself: pure functions of a peer, a target, the rules and the facts.

decide      may this caller have this: the order of the sources, the quota
explain     how a decision came about
matching    whether one rule applies to a caller, a target and a guest
rulebook    all rules, found by whom and what they are about
facts       what a decision goes by besides the rules
patterns    what patterns can match, for the checks of a configuration
"""
