# SPDX-License-Identifier: LGPL-2.1-or-later
"""How tapsterd starts, confines itself, runs other programs, and ends.

* At the start: options, startup, single_instance, listening, runtime_directory.
* Confinement, in two steps: sandbox, with the lists in syscalls.
* Other programs: spawner is the process that starts them, from what is in spawned/;
  spawner_process starts and ends that process, and programs asks it.
* The rootless tier: rootless_namespaces, pasta.
* The event loop: eager_tasks.
"""
