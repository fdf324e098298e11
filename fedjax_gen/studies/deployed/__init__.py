"""Studies between machines: the commands `coordinate` and `site`."""
