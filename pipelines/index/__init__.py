"""From embedding parts to an index tuned to a recall target, and to first-stage candidates.

plan      what would be built, and whether it is there already (no heavy imports)
parts     the vectors, read block by block
proposal  which kind of index, within the memory allowed
build     train on a fair sample, fill, write
exact     exhaustive search: the oracle, exact scores, ranks
coarse_to_fine   through several levels: the index names many items, wider vectors choose among them
levels    the vectors of those levels beside the index
truth     queries with their exact neighbours, recall against them
tune      the cheapest operating point that keeps the promise
search    open an index and search it
job, candidates   the two stages
"""
