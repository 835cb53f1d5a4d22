"""How text and pictures become vectors and scores.

base           the two protocols: DualEncoder and PairScorer
registry       model type -> adapter, one literal dict; loading by hub id, folder or built-in name
fingerprints   the name of a model: weights, preprocessing, dtype, library
precision      which dtype runs here, checked against float32
pixels         how a picture is resized for a model, and pixels -> model input on the device
images         bytes -> RGB array
videos         bytes -> sampled RGB frames with their times
hf/            adapters over Hugging Face models
architectures/ the five systems
training/      losses, negatives, the loop

Never imports Beam or faiss.
"""
