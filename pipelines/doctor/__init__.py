"""Would a run go well here? Each check says what it found and the way out; nothing is left behind.

finding      one line of it
environment  Python, packages, whether what a stage needs loads together
accelerator  GPU, driver, and the torch that is installed
cgroups      what a container may use
machine      cores, memory, room on disks
store        the root: writing, conditional writes, its clock
dataset      shards and query log
models       encoder and scorer: here, in the hub's cache, or to be had
served       the lock of a dataset, and the generation it serves
runner       Beam's options, against this machine and against each other
job          fastslow doctor
"""
