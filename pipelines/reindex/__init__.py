"""The whole run as one command: only what changed is done, a generation is built beside the old one, then served.

apart    running a stage in a process of its own
summary  what a run says of itself: steps of a plan, the closing summary
lock     one run per dataset
gates    what a generation must satisfy before it is served
history  the generations there are, and the way back
named    every file a generation names
gc       removing what none names any more
verify   checking a generation, reading only
agreement  what its manifests say of each other
sampled  some of its items, from the picture to the index
publish  generations and the one pointer that moves
metrics  how the run ended and what is served, for Prometheus
job      fastslow reindex
"""
