"""The published systems, one file each; blocks they share are in encoders/layers.py."""
