# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is told: to the log, and to those who watch.

events          takes what there is to tell; watchers: who hears of it
record          what is told, as one record; request_context: by which request
deadlines       refusals are answered, and told, at a fixed time
log             where the log goes; journal: the journal's protocol
"""
