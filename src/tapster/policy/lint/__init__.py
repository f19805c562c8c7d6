# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `tapster policy check` finds in a configuration before it is in force.

check          reads a directory or drafts and has all of it checked
unknown_names  users and groups that nobody is
rules          what rules say together (coverage, reach: which have no effect)
values         what single rules say
networks       what networks and bridges say
other_files    bridge.conf and lxc-usernet, each by its own module
ownership      who else may write to a file
host           what has to be known of this host
findings       what is said, and where
"""
