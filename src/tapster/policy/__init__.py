# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may have what: files and callers in, a decision with its reasons out.

Four rooms. Each imports only what stands below it, and itself:

    lint     what `tapster policy check` finds in all these files
    foreign  files of other projects: QEMU's bridge.conf, LXC's lxc-usernet
    config   tapster.toml and conf.d: settings, networks, rules
    core     the decision: pure functions of a peer, a target, rules and facts

The daemon reads with `config` and `foreign`, gathers the facts and has `core` decide.
Nothing here changes the host; `core` does not even read it.
"""
