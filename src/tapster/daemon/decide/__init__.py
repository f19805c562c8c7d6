# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 3: may they have it? The rules say so, and polkit where a rule asks it.

admission       the way of a request to attach; permissions: of any other request
judge           gathers the facts and has policy/core decide
                bridge_grants: files of other programs; quota: what a user has;
                closing: taps that count no more
consent         the loop that asks polkit and decides again; question: what it asks
refusal         what a denied caller is told
visibility      what callers are shown of what other users have
polkit/         polkit over D-Bus
"""
