# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel at the edge: one module for each of its interfaces.

Nothing in here knows what a network, a user or a policy is, and nothing in
here imports from the rest of the project.
"""
