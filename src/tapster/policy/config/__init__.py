# SPDX-License-Identifier: LGPL-2.1-or-later
"""From the files of the configuration directory to typed settings, networks, rules.

files             which files there are, and who else could have written them
toml_locations    TOML, with the line and column of each key
values            single values, checked and typed; network_values: addresses, ports
network_file      [networks.NAME]; network_check: whether its keys go together
rule_file         [[rules]]
load              all sections of all files as one `Config`
current           the `Config` that holds now
"""
