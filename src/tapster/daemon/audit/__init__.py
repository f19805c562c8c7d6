# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is told: audit records, events for watchers, the log."""
