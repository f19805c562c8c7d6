# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stage 1: who is asking, by the kernel's word and the account database.

peer            who is at the other end of a socket
accounts        what NSS knows of a uid; subuid: uids that are given to users
caller          the connection whose call is being served
program         what a caller's process runs, for the audit record
"""
