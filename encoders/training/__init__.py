"""Training: one loop for all architectures.

batches    what a source gives each step, and what reaches the device
build      config and words -> model, tokenizer, pixel spec
features   what a frozen backbone makes of all pictures, computed once
memo       what a frozen text tower makes of all captions, read once
augment    random crops, flips and colours, on the device
gather     vectors of all processes, with gradients
stages     which part of a run trains what
schedule   learning rate and parameter groups
validate   recall while training, fusion weight
checkpoints  what a run needs to go on as if it had never stopped
loop       the loop
train      a whole run: build, loop, export

Never knows where data comes from: a source is anything with `batch(step)`.
"""
