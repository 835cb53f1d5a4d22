"""The whole run as one command: only what changed is done, a generation is built beside the old one, then served.

stages   the stages in order, what each has already left behind, and running one in a process of its own
gates    what a generation must satisfy before it is served
publish  generations and the one pointer that moves
job      fastslow reindex
"""
