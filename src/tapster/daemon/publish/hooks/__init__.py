# SPDX-License-Identifier: LGPL-2.1-or-later
"""The administrator's own programs, run when something begins and when it ends.

lifecycle       what happens, and which hooks run for it; order: what waits for what
runner          runs one hook for one event; execution: one executable, to its end
discovery       which hooks there are, and which can be trusted
payload         what a hook is told; pending: which hooks still have to hear of an end
"""
