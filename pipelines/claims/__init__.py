"""What the five papers claim, measured with our own models: each claim a function, the findings a page.

papers      the claims, as a table
bench       what claims are measured on: pictures, captions, trainings
on_scenes   generated scenes
on_photos   Flickr8k
gallery     scenes no model was trained on
photos      Flickr8k's splits, read from shards
scores      what both sides of a model say of all pairs
ranks       ranks and recalls of a matrix of scores
trained     trains what claims need, and scores it
measured    claims that one model can answer
contests    claims that need models trained with and without something
cost        what searches cost, counted and timed
bootstrap   intervals where several queries are of one picture
prediction  where another seed should land
findings    what came out, kept as JSON
records     what is kept of a training
targets     how far the best models get on Flickr8k and elsewhere
expert      Flickr8k's expert grades
floor       linear CCA, what a trained model has to beat
page        docs/claims.md
job         all of it
"""
