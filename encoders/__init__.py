"""How text and pictures become vectors and scores.

base           the two protocols: DualEncoder and PairScorer
registry       model type -> adapter, one literal dict; loading
sources        what a model's name stands for: hub id, folder or built-in
hub            files of a model repository, safetensors only
model_files    weight files and JSON files of a model folder
fingerprints   the name of a model: weights, preprocessing, dtype, library
precision      which dtype runs here, checked against float32
pixels         how a picture is resized for a model, and pixels -> model input on the device
limits         what is refused before and while decoding, each refusal with a name
decoding       bytes -> frames, by content; images -> one, videos -> several
images         bytes -> RGB array
videos         bytes -> sampled RGB frames with their times
backbones      Hugging Face backbones as parts of our architectures
towers, single_stream, fusion    large pieces the architectures are made of
layers, pooling, losses, negatives    small ones
top_layers     the last layers of a backbone apart, so that they alone can learn
folding        batch norms folded into convolutions where nothing learns
hf/            adapters over Hugging Face models
architectures/ the systems of the papers
training/      the loop

Never imports Beam or faiss.
"""
