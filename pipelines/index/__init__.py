"""From embedding parts to an index tuned to a recall target, and to first-stage candidates.

plan      what would be built, and whether it is there already (no heavy imports)
reuse     what of the index being served goes into the next one
proposal, estimate   which kind of index, within the memory allowed; what it takes to build
parts     the vectors, read block by block
training, trained    centroids and codebooks from a fair sample; kept by digest
transforms, partial  one embedding part filled into one partial index, by Beam
lists     inverted lists in files, merged on disk
segments  several files searched as one, deleted items left out
assemble  the files of an index: all merged, or a base and what changed beside it
build     a kind without lists in one process; memory needed
exact     exhaustive search: the oracle, exact scores, ranks
coarse_to_fine       through several levels: the index names many items, wider vectors choose among them
levels    the vectors of those levels beside the index
truth     queries with their exact neighbours, recall against them
tune      the cheapest operating point that keeps the promise
search    open an index and search it
job, candidates      the two stages
"""
