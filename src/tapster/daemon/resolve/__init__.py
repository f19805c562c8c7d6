# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 2: what a request is about: a network, or a Linux bridge of the host.

request         a request to attach; forward: a request about a forward
bridges         finds the host's bridges
"""
