"""What the five papers claim, measured with our own models: each claim a function, the findings a page.

papers      the claims, as a table
gallery     pictures no model was trained on
scores      what both sides of a model say of all pairs
ranks       ranks and recalls of a matrix of scores
measured    claims that a trained checkpoint can answer
trained     claims that need models trained with and without something
cost        what searches cost, counted and timed
findings    what came out, kept as JSON
page        docs/claims.md
job         all of it
"""
