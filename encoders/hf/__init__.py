"""Adapters that make Hugging Face models speak our two protocols.

weights  safetensors -> module, checked to be complete
texts    strings -> token ids, safe to call from several threads
vectors  features -> unit vectors
clip     CLIPModel: images and text
siglip   SiglipModel (SigLIP and fixed-resolution SigLIP 2), Siglip2Model (NaFlex, fed a square)
xclip    XCLIPModel: video and text
blip     BlipForImageTextRetrieval: pair scorer

And efficientnet_lite: published weights -> EfficientNetModel, a vision backbone for trainings.
"""
