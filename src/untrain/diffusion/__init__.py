"""What generators share: noise, samplers, latents, pipelines, sets of images, and what is seen in these."""
