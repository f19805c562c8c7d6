# SPDX-License-Identifier: LGPL-2.1-or-later
"""What else on this host keeps guests from their network, and what helps."""
