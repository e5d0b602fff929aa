"""Image files as samples: 8-bit pictures of any file, images of many bands, and what a TIFF says about itself."""
