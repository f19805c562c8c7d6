# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel: one module for each of its interfaces.

Nothing in here knows what a network, a user or a policy is, or imports anything from
the rest of the project.
"""
