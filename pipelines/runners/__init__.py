"""Where Beam pipelines run: this process, several of this machine, or an engine elsewhere.

options     Beam's options: what they mean, and whether they leave the choice to us
local       Beam's engine in this process, pinned
flink       what a Flink cluster needs beyond Beam's options: job server, parallelism, a way to cancel
worker_pool Python workers beside a task manager
processes   several processes of this machine, a GPU each
run         a transform over elements, on whichever it is, to its end
following   progress of workers elsewhere, by what they commit
"""
